"""Every command of etcdutl: on a snapshot of ours, on the directory that it makes of one, and on our own directory, which is no etcd's."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from snapshots import Api, fill, start_etcd, state

from raftsched.pb.etcd import rpc_pb2
from raftsched.testing.etcd_command import Member

pytestmark = pytest.mark.process
Run = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = {"completion", "defrag", "hashkv", "help", "migrate", "snapshot", "version"}


@pytest.fixture
def etcdutl(tools: ModuleType) -> Run:
    path = tools.etcdutl("3.7")
    if path is None:
        pytest.skip("no etcdutl 3.7 here")

    def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 or not check, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[tuple[Member, Path, dict[str, Any]]]:
    """A `raftsched etcd` that was stopped, a snapshot of it, and what it held."""
    with Member(tmp_path / "ours") as member:
        member.start()
        address = member.client.removeprefix("http://")
        fill(address)
        before = state(address)
        with Api(address) as api:
            data = b"".join(one.blob for one in api.maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=60))
        member.stop(signal.SIGTERM)
        file = tmp_path / "saved.db"
        file.write_bytes(data)
        yield member, file, before


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def test_no_command_is_forgotten(etcdutl: Run) -> None:
    listed = etcdutl("--help").stdout.split("Available Commands:")[1].split("Flags:")[0]
    assert set(re.findall(r"^  (\w+)", listed, re.MULTILINE)) == COMMANDS


def test_on_a_snapshot_and_the_directory_made_of_it(
    stopped: tuple[Member, Path, dict[str, Any]], etcdutl: Run, etcd_program: Path, tmp_path: Path
) -> None:
    _, file, before = stopped
    status = json.loads(etcdutl("snapshot", "status", file, "-w", "json").stdout)
    assert (status["revision"], status["totalKey"]) == (before["revision"], len(before["keys"]))
    assert etcdutl("hashkv", shutil.copy(file, tmp_path / "copy.db")).stdout.split(", ")[0] == str(before["hash"])
    with start_etcd(tmp_path / "judge", etcd_program, etcdutl, file) as judge:
        assert state(judge.address) == before
    directory = tmp_path / "judge" / "etcd"
    etcdutl("defrag", "--data-dir", directory)
    assert "3.6" in etcdutl("migrate", "--data-dir", directory, "--target-version", "3.6").stderr
    with judge:
        assert state(judge.address) == before


@pytest.mark.parametrize(
    "arguments", [("defrag", "--data-dir"), ("migrate", "--target-version", "3.6", "--data-dir")], ids=["defrag", "migrate"]
)
def test_our_own_directory_is_refused_and_stays_as_it_is(
    stopped: tuple[Member, Path, dict[str, Any]], etcdutl: Run, arguments: tuple[str, ...]
) -> None:
    """There is no bbolt file in it: the running server defragments, and a snapshot is what goes to another version of etcd."""
    member, _, _ = stopped
    before = files(member.data_dir)
    done = etcdutl(*arguments, member.data_dir, check=False)
    assert done.returncode != 0
    assert "no such file" in done.stdout + done.stderr
    assert files(member.data_dir) == before
    member.start()
