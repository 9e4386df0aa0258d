"""`make lower-bounds`: the unit tests and the command line on the oldest version of each dependency that pyproject.toml allows.

Invariant: a lower bound that is written there has run the tests.
"""

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "lower-bounds"
TESTS = ("pytest", "pytest-asyncio", "pytest-benchmark", "pytest-timeout", "hypothesis", "croniter", "lmdb", "h2", "psutil", "trustme")


def lowest(requirement: str) -> str:
    """`name>=1.2` as `name==1.2`; an exact one as it is."""
    return re.sub(r">=", "==", requirement.partition(";")[0].strip())


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    development = [text for text in project["optional-dependencies"]["dev"] if re.match(r"[\w.-]+", text).group() in TESTS]  # type: ignore[union-attr]
    wanted = [lowest(text) for text in project["dependencies"]]
    stamp = FOLDER / "installed"
    if not stamp.exists() or stamp.read_text() != "\n".join(wanted):
        venv.create(FOLDER, with_pip=True, clear=True)
        pip = [FOLDER / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted, *development], check=True)
        # A path file, not PYTHONPATH: tests start servers with an empty environment.
        (site,) = (FOLDER / "lib").glob("python*/site-packages")
        (site / "raftsched-source.pth").write_text(str(ROOT / "src"))
        stamp.write_text("\n".join(wanted))
    print("oldest dependencies:", ", ".join(wanted), flush=True)
    program = [
        FOLDER / "bin" / "python",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/unit",
        "tests/process/test_job_command.py",
        *sys.argv[1:],
    ]
    return subprocess.run(program, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
