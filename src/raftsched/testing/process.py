"""A real `raftsched serve` as a child process, for process tests and benchmarks: start, wait, kill, start again.

Invariant: every process started here is gone when its `ServerProcess` is closed. Ports are free loopback ports, found once and
kept over restarts, so that a restarted server is reached where the killed one was.
"""

import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

READY_TIMEOUT_S = 20.0  # spec/scheduler.md §12: /healthz answers 200 within 20 s
POLL_INTERVAL_S = 0.01
PORTS = range(10_000, 32_000)
SOURCE = Path(__file__).resolve().parents[2]


def _own_ports() -> Iterator[int]:
    """Round and round through a share of PORTS: that of this process where several run tests side by side, else all. What was given is not
    given again soon: a server may be about to listen there, or come back to it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = len(PORTS) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = secrets.randbelow(share)
    return (PORTS.start + worker * share + (first + step) % share for step in itertools.count())


_ports = _own_ports()


def free_ports(count: int) -> list[int]:
    """`count` distinct loopback TCP ports that nobody listens on now, below those that outgoing connections take for themselves: one of
    these could hold the port of a server that is down for a moment."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            one = socket.socket()
            with suppress(OSError):
                one.bind(("127.0.0.1", next(_ports)))
                sockets.append(one)
                continue
            one.close()
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class ServerProcess:
    """One server with its own directory and ports; `args` are appended to the command line."""

    def __init__(self, directory: Path, *, args: Sequence[str] = (), namespace: str = "default") -> None:
        self.directory = directory
        self.namespace = namespace
        self.environment: dict[str, str] = {}  # beside NAMESPACE
        self.scheduler_port, self.client_port, self.healthz_port, self.metrics_port, peer_port = free_ports(5)
        self.stdout_path = directory / "stdout.log"
        self.stderr_path = directory / "stderr.log"
        self.stderr_offset = 0  # where the log of the present process begins
        self.process: subprocess.Popen[bytes] | None = None
        name = "dapr-scheduler-server-0"
        self.command = [
            sys.executable,
            "-m",
            "raftsched",
            "serve",
            f"--port={self.scheduler_port}",
            f"--healthz-port={self.healthz_port}",
            f"--metrics-port={self.metrics_port}",
            f"--etcd-client-port={self.client_port}",
            "--listen-address=127.0.0.1",
            "--healthz-listen-address=127.0.0.1",
            f"--etcd-data-dir={directory / 'data'}",
            f"--id={name}",
            f"--etcd-initial-cluster={name}=http://127.0.0.1:{peer_port}",
            *args,
        ]

    @property
    def client_address(self) -> str:
        """host:port of the etcd API."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def scheduler_address(self) -> str:
        """host:port of the scheduler API."""
        return f"127.0.0.1:{self.scheduler_port}"

    def start(self, *, wait: bool = True) -> Self:
        """Starts the process with an environment that holds nothing but NAMESPACE, and where this very tree is; with `wait`, until
        /healthz says 200."""
        assert self.process is None, "already running"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.stderr_offset = self.stderr_path.stat().st_size if self.stderr_path.exists() else 0
        with self.stdout_path.open("ab") as out, self.stderr_path.open("ab") as err:
            environment = {"NAMESPACE": self.namespace, "PYTHONPATH": str(SOURCE), **self.environment}
            self.process = subprocess.Popen(self.command, stdout=out, stderr=err, env=environment, cwd=self.directory)
        if wait:
            try:
                self.wait_ready()
            except TimeoutError:
                self.kill()  # nobody will close what was never opened
                raise
        return self

    def health(self) -> int:
        """The status code of /healthz; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.healthz_port}/healthz", timeout=2) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    @property
    def listens(self) -> bool:
        """Whether both APIs can be reached."""
        for port in (self.client_port, self.scheduler_port):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=2).close()
            except OSError:
                return False
        return True

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> float:
        """Seconds until /healthz answered 200 and both ports are open: a member that waits for others is healthy too. Raises with the logs'
        tails when it takes longer, or when the process ended."""
        begin = time.monotonic()
        while time.monotonic() - begin < timeout_s:
            if self.health() == 200 and self.listens:
                return time.monotonic() - begin
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode} before it was ready:\n{self.logs()}")
            time.sleep(POLL_INTERVAL_S)
        raise TimeoutError(f"not ready within {timeout_s} s:\n{self.logs()}")

    def logs(self, tail_bytes: int = 4000) -> str:
        """The tails of both streams."""
        parts = []
        for path in (self.stdout_path, self.stderr_path):
            text = path.read_bytes()[-tail_bytes:].decode(errors="replace") if path.exists() else ""
            parts.append(f"--- {path.name}\n{text}")
        return "\n".join(parts)

    def kill(self) -> None:
        """SIGKILL, as a power cut would end the process."""
        self._signal_and_wait(signal.SIGKILL, timeout_s=10)

    def stop(self, *, number: int = signal.SIGTERM, timeout_s: float = 15) -> int:
        """A graceful stop; the exit code."""
        return self._signal_and_wait(number, timeout_s=timeout_s)

    def _signal_and_wait(self, number: int, *, timeout_s: float) -> int:
        assert self.process is not None, "not running"
        self.process.send_signal(number)
        try:
            code = self.process.wait(timeout_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process = None
        return code

    def memory_bytes(self) -> int:
        """RssAnon of the process (/proc/PID/status)."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no RssAnon in /proc")

    def cpu_seconds(self) -> float:
        """User and system time used so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process is not None:
            self.kill()
