"""The scripts behind make: set-up on a machine that lacks something, the native build's stamp, the finding of tools."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
BASIC = ("dirname", "cat", "cksum", "rm", "mkdir", "tail", "env", "sh", "id", "ln")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Machine:
    """A checkout with the real setup.sh, and a PATH with nothing on it but what a test puts there; calls are recorded."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.path = folder / "bin"
        self.calls_path = folder / "calls"
        (self.checkout / "scripts").mkdir(parents=True)
        self.path.mkdir()
        shutil.copy(ROOT / "scripts" / "setup.sh", self.checkout / "scripts")
        (self.checkout / "pyproject.toml").write_text("[project]\n")
        for name in BASIC:
            found = shutil.which(name)
            assert found is not None
            (self.path / name).symlink_to(found)

    def program(self, name: str, body: str = "", *, folder: Path | None = None) -> None:
        path = (folder or self.path) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls_path}\n{body}\n')
        path.chmod(0o755)

    def with_everything(self) -> "Machine":
        self.program("pkg-config")
        self.program("python", folder=self.checkout / ".venv" / "bin")
        return self

    def setup(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.path)}
        return subprocess.run(
            [self.checkout / "scripts" / "setup.sh"], capture_output=True, text=True, env=environment, timeout=60, check=False
        )

    def calls(self) -> list[str]:
        calls = self.calls_path.read_text().splitlines() if self.calls_path.exists() else []
        self.calls_path.unlink(missing_ok=True)
        return calls


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_setup_installs_the_dependencies_once(machine: Machine) -> None:
    machine.with_everything()
    assert machine.setup().returncode == 0
    assert any("--no-build-isolation -e .[dev]" in call for call in machine.calls())
    assert machine.setup().returncode == 0
    assert not any("pip" in call for call in machine.calls())
    (machine.checkout / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert machine.setup().returncode == 0
    assert any("pip" in call for call in machine.calls())


def test_a_failed_installation_is_not_taken_for_done(machine: Machine) -> None:
    machine.with_everything()
    machine.program("python", 'case "$*" in *pip*) exit 1;; esac', folder=machine.checkout / ".venv" / "bin")
    assert machine.setup().returncode != 0
    machine.with_everything()
    machine.calls()
    assert machine.setup().returncode == 0
    assert any("pip" in call for call in machine.calls())


def test_missing_libraries_come_through_apt_where_the_user_may(machine: Machine) -> None:
    machine.with_everything()
    machine.program("pkg-config", "exit 1")
    machine.program("id", "echo 0")
    machine.program("apt-get")
    answer = machine.setup()
    assert answer.returncode == 0, answer.stderr
    calls = machine.calls()
    assert "apt-get update" in calls
    assert "apt-get install -y --no-install-recommends libnghttp2-dev liblmdb-dev pkg-config" in calls


@pytest.mark.parametrize("has_apt", [True, False])
def test_missing_libraries_are_one_line_where_they_cannot_be_installed(machine: Machine, has_apt: bool) -> None:
    machine.with_everything()
    machine.program("pkg-config", "exit 1")
    machine.program("id", "echo 1000")
    if has_apt:
        machine.program("apt-get")
        machine.program("sudo", "exit 1")
    answer = machine.setup()
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    for words in ("libnghttp2-dev liblmdb-dev pkg-config", "libnghttp2-devel lmdb-devel", "brew install"):
        assert words in answer.stderr
    assert not any(call.startswith("apt-get") for call in machine.calls())


def test_an_old_or_broken_python_is_passed_over(machine: Machine) -> None:
    machine.program("pkg-config")
    machine.program("cc")
    machine.program("python3.11", "exit 127")  # a version manager's shim for a version that is not there
    machine.program("python3", f'case "$*" in *venv\\ .venv*) mkdir -p .venv/bin; ln -s {machine.path}/python3 .venv/bin/python;; esac')
    answer = machine.setup()
    assert answer.returncode == 0, answer.stderr
    assert "python3 -m venv .venv" in machine.calls()


def test_no_python_is_one_line(machine: Machine) -> None:
    machine.program("pkg-config")
    machine.program("python3", "exit 1")
    answer = machine.setup()
    assert answer.returncode == 1
    assert answer.stderr.startswith("raftsched: Python 3.11 or newer is missing. ")
    assert answer.stderr.count("\n") == 1


def test_the_native_build_runs_only_when_something_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = load("build_native")
    source = tmp_path / "src" / "raftsched"
    source.mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml"):
        (tmp_path / name).write_text("")
    (source / "_x.pyx").write_text("a")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "SOURCE", source)
    monkeypatch.setattr(build, "STAMP", tmp_path / "build" / "native.stamp")
    runs = []

    def compiler(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        runs.append(command)
        for path in build.modules():
            path.write_text("")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(build.subprocess, "run", compiler)
    for expected in (1, 1):
        assert build.main() == 0
        assert len(runs) == expected
    (source / "y.h").write_text("new")
    assert build.main() == 0
    build.modules()[0].unlink()
    assert build.main() == 0
    assert len(runs) == 3
    monkeypatch.setattr(build.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    (source / "y.h").write_text("newer")
    assert build.main() == 1
    assert build.main() == 1  # a failed build leaves no stamp


def test_a_tool_is_found_only_for_the_sources_it_was_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = load("tools")
    monkeypatch.setattr(tools, "CACHE", tmp_path / "cache")
    module = tmp_path / "module"
    module.mkdir()
    (module / "go.mod").write_text("one")
    program = tools.GoProgram("thing", module, ".")
    assert program.found() is None
    (tmp_path / "cache").mkdir()
    program.path.write_text("built")
    assert program.found() == program.path
    (module / "go.mod").write_text("two")
    assert program.found() is None


def test_without_go_the_missing_tools_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = load("tools")
    monkeypatch.setattr(tools, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", os.devnull)
    tools.build()
    in_go = [name for name, program in tools.PROGRAMS.items() if isinstance(program, tools.GoProgram) and name not in tools.LARGE]
    expected = f"tools: Go is not here, so without {', '.join(in_go)}: what needs them is skipped by name\n"
    expected += "tools: building etcdload (once)\ntools: without etcdload: no C compiler\n"
    assert capsys.readouterr().out == expected
    assert tools.h2load() is None
    assert tools.etcd("3.7") is None
