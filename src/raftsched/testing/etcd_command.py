"""`raftsched etcd` as a child process, and a real etcd beside it: the same flags for both."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from raftsched.testing.process import free_ports

READY = "ready to serve client requests"
READY_TIMEOUT_S = 60.0
OURS = (sys.executable, "-m", "raftsched", "etcd")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Nothing but the path to the package, as the tests have it."""
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return {**kept, **(more or {})}


def run(
    program: Sequence[str | Path], flags: Sequence[str], directory: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Of a command that ends by itself."""
    directory.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [*program, *flags], cwd=directory, env=environment(env), capture_output=True, text=True, timeout=READY_TIMEOUT_S, check=False
    )


class Member:
    """One member with ports of its own, of any program that takes etcd's flags."""

    def __init__(self, directory: Path, name: str = "m1", *, program: Sequence[str | Path] = OURS) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.name, self.program = directory, name, program
        self.client_port, self.peer_port = free_ports(2)
        self.client, self.peer = f"http://127.0.0.1:{self.client_port}", f"http://127.0.0.1:{self.peer_port}"
        self.data_dir = directory / f"{name}.etcd"
        self.cluster, self.state = f"{name}={self.peer}", "new"
        self.log_path = directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._offset = 0

    @property
    def flags(self) -> list[str]:
        return [
            f"--name={self.name}",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={self.client}",
            f"--advertise-client-urls={self.client}",
            f"--listen-peer-urls={self.peer}",
            f"--initial-advertise-peer-urls={self.peer}",
            f"--initial-cluster={self.cluster}",
            f"--initial-cluster-state={self.state}",
        ]

    def start(self, *more: str, env: Mapping[str, str] | None = None, wait: bool = True) -> Self:
        assert self.process is None
        self._offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, *self.flags, *more], cwd=self.directory, env=environment(env), stdout=log, stderr=log
            )
        if wait:
            self.wait_for(READY)
        return self

    def log(self) -> str:
        """Of the present life."""
        return self.log_path.read_bytes()[self._offset :].decode(errors="replace")

    def lines(self, message: str) -> list[dict[str, Any]]:
        """The lines of the present life with that message."""
        found = (json.loads(line) for line in self.log().splitlines() if line.startswith("{"))
        return [line for line in found if line["msg"] == message]

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + READY_TIMEOUT_S
        while text not in self.log():
            assert self.process is not None
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log()[-4000:]}"
            assert time.monotonic() < end, f"no {text!r}:\n{self.log()[-4000:]}"
            time.sleep(0.02)

    def wait(self) -> int:
        """The exit code of a process that ends; negative: by that signal."""
        assert self.process is not None
        try:
            return self.process.wait(READY_TIMEOUT_S)
        finally:
            self.close()

    def stop(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def close(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            self.process = None

    def call(self, path: str, body: Mapping[str, Any] | None = None) -> str:
        """An HTTP answer of the client port."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self.client + path, data=data, timeout=10) as answer:
            return str(answer.read().decode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
