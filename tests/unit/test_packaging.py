"""The sdist holds every source that a build needs, and nothing that was built. `make wheel` tries the packages themselves."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".h", ".proto"}


def test_the_sdist_is_complete_and_holds_nothing_built(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("git's list of files is missing: this is no checkout")
    listed = subprocess.run(["git", "ls-files", "src", "proto"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "RAFTSCHED_ONLY": "none-of-them"}, check=True, capture_output=True, timeout=120)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {name for name in listed if Path(name).suffix in SOURCES and (ROOT / name).exists()} | {
        "setup.py",
        "pyproject.toml",
        "README.md",
    }
    assert wanted - held == set()
    assert [name for name in held if name.endswith((".so", ".pyc")) or (name.endswith(".c") and "/native/" not in name)] == []
