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

READY_TIMEOUT_S = 30.0


def version_of(path: Path) -> tuple[int, ...]:
    """(3, 7, 1) of an etcd binary."""
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", text)
    assert match is not None, f"{path} says no version: {text!r}"
    return tuple(map(int, match.groups()))


class RealEtcd:
    """One etcd member with an empty directory on free loopback ports."""

    def __init__(self, directory: Path, path: Path, *, args: Sequence[str] = ()) -> None:
        self.port, peer = free_ports(2)
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
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--log-level=error",
            *args,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._healthy():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__(None, None, None)
                raise RuntimeError(f"etcd did not start:\n{self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False
