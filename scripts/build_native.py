"""Build the native modules in place, only when something they are made of has changed.

Invariant: the stamp is written after a successful build and names the exact bytes that were built and the interpreter.
"""

import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "raftsched"
STAMP = ROOT / "build" / "native.stamp"
SUFFIXES = {".pyx", ".pxd", ".pxi", ".h"}


def modules() -> list[Path]:
    """The shared objects that must be there."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return [path.with_name(path.stem + suffix) for path in sorted(SOURCE.rglob("*.pyx"))]


def fingerprint() -> str:
    digest = hashlib.sha256(f"{sys.version} {sysconfig.get_config_var('EXT_SUFFIX')}".encode())
    sources = [ROOT / "setup.py", ROOT / "pyproject.toml", *sorted(p for p in SOURCE.rglob("*") if p.suffix in SUFFIXES)]
    for path in sources:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    wanted = fingerprint()
    if STAMP.exists() and STAMP.read_text() == wanted and all(path.exists() for path in modules()):
        return 0
    print("Building the native modules", flush=True)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", f"--parallel={os.cpu_count() or 1}"]
    log = ROOT / "build" / "native.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as out:
        code = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        sys.stderr.write("".join(log.read_text().splitlines(keepends=True)[-30:]))
        sys.stderr.write(f"The native build failed; all of its output is in {log.relative_to(ROOT)}\n")
        return 1
    if "RAFTSCHED_ONLY" not in os.environ:  # else the others may be older than their sources
        STAMP.write_text(wanted)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
