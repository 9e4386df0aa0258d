"""scripts/test.sh: what failed beside others runs once more, alone, and is told; what is marked `once` does not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FAILS_FIRST = """
from pathlib import Path

def test_at_the_second_time():
    seen = Path(__file__).with_suffix(".seen")
    there = seen.exists()
    seen.touch()
    assert there
"""
PASSES = "def test_passes():\n    pass\n"
FAILS = "def test_fails():\n    assert False\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose three rounds have one test each, which passes."""
    for folder in ("scripts", "tests/unit", "tests/sim", "tests/process", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("scripts/test.sh", "tests/conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    lint = tmp_path / "scripts/lint.sh"
    lint.write_text("#!/bin/sh\n")
    lint.chmod(0o755)
    (tmp_path / "scripts/tools.py").touch()
    for name in ("unit/test_a", "process/test_b", "process/test_load", "process/test_overload"):
        (tmp_path / f"tests/{name}.py").write_text(PASSES)
    return tmp_path


def outcome(checkout: Path, *args: str) -> tuple[int, str]:
    done = subprocess.run([checkout / "scripts/test.sh", "-n0", *args], capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def test_what_passes_is_not_run_again(checkout: Path) -> None:
    code, told = outcome(checkout)
    assert code == 0
    assert "once more" not in told


def test_passed_only_alone(checkout: Path) -> None:
    (checkout / "tests/process/test_c.py").write_text(FAILS_FIRST)
    code, told = outcome(checkout)
    assert code == 0
    assert "tests/process/test_c.py::test_at_the_second_time PASSED" in told
    assert "PASSED ONLY ALONE" in told
    assert "assert there" in told, "the failure is told"


def test_what_fails_twice_fails(checkout: Path) -> None:
    (checkout / "tests/unit/test_c.py").write_text(FAILS)
    (checkout / "tests/unit/test_d.py").write_text(FAILS_FIRST)
    code, told = outcome(checkout)
    assert code == 1
    assert "Alone, once more" in told
    assert "PASSED ONLY ALONE" not in told


def test_no_second_run_where_time_has_no_part(checkout: Path) -> None:
    (checkout / "tests/sim/test_c.py").write_text(FAILS_FIRST)
    (checkout / "tests/unit/test_d.py").write_text(FAILS_FIRST)
    code, told = outcome(checkout)
    assert code == 1
    assert "nothing is tried again" in told
    assert not list((checkout / "tests").rglob("*.seen.*"))


def test_a_file_that_cannot_be_read_fails(checkout: Path) -> None:
    (checkout / "tests/unit/test_c.py").write_text("import nothing_of_this_name\n")
    assert outcome(checkout)[0] != 0


def test_a_selection_may_leave_a_round_without_a_test(checkout: Path) -> None:
    assert outcome(checkout, "-k", "passes and test_b")[0] == 0
