"""A real etcd as a child process: the judge of the differential tests, and the partner of benchmarks. scripts/tools.py finds it."""

import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from raftsched.testing.process import free_ports

READY_TIMEOUT_S = 90.0


def version_of(path: Path) -> tuple[int, ...]:
    """(3, 7, 1) of an etcd binary."""
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", text)
    assert match is not None, f"{path} says no version: {text!r}"
    return tuple(map(int, match.groups()))


class RealEtcd:
    """One etcd member with an empty directory on free loopback ports; `members`: (name, peer port) of all, this one the first, if it is
    not alone."""

    def __init__(self, directory: Path, path: Path, *, args: Sequence[str] = (), members: Sequence[tuple[str, int]] = ()) -> None:
        self.port, peer = free_ports(2)
        name, peer = members[0] if members else ("default", peer)
        self.version = version_of(path)
        self.address = f"127.0.0.1:{self.port}"
        self._log = directory / "etcd.log"
        directory.mkdir(parents=True, exist_ok=True)
        self._command = [
            str(path),
            f"--data-dir={directory / 'etcd'}",
            f"--listen-client-urls=http://{self.address}",
            f"--advertise-client-urls=http://{self.address}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--name={name}",
            "--initial-cluster=" + ",".join(f"{one}=http://127.0.0.1:{port}" for one, port in sorted(members or [(name, peer)])),
            "--log-level=error",
            *args,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def add_flags(self, flags: Sequence[str]) -> None:
        """Of two that are the same the last one counts; keep http at `address`, which is asked for its health."""
        self._command += flags

    def __enter__(self) -> Self:
        return self.start()

    def start(self, *, wait: bool = True) -> Self:
        """Begins, or goes on with what is in its directory; with `wait` until it is healthy, for which it needs its majority."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        if wait:
            self.wait_healthy()
        return self

    def wait_healthy(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._healthy():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__(None, None, None)
                raise RuntimeError(f"etcd did not start:\n{self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL; `start` goes on with its directory."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """It answers nobody until `resume`, and its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        return self._process is not None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def leads(self) -> bool:
        """By its own metrics."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=5) as answer:
            return "\netcd_server_is_leader 1\n" in answer.read().decode()

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


class RealEtcdCluster:
    """Several members, started together."""

    def __init__(self, directory: Path, path: Path, size: int = 3, *, args: Sequence[str] = ()) -> None:
        names = [(f"m{index}", port) for index, port in enumerate(free_ports(size))]
        self.members = [
            RealEtcd(directory / name, path, args=args, members=[(name, port), *(one for one in names if one[0] != name)])
            for name, port in names
        ]

    @property
    def addresses(self) -> list[str]:
        return [member.address for member in self.members]

    def leader(self) -> RealEtcd:
        """The member that leads now. Raises `RuntimeError`: none does."""
        for member in self.members:
            if member.running and member.leads():
                return member
        raise RuntimeError("no member of the etcd leads")

    def __enter__(self) -> Self:
        for member in self.members:
            member.start(wait=False)
        for member in self.members:
            member.wait_healthy()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for member in self.members:
            member.__exit__(kind, error, trace)
