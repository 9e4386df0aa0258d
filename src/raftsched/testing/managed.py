"""The members that `make cluster` starts, as a `Cluster`: its process manager starts them, and starts again what is killed.

They run with the command line of `scripts/cluster.py`. Only the ports differ (`--shift`, beside a cluster of somebody else), and that
peers dial a proxy (`--peer-shift`), so that directions between them can be cut. Who is asked to stop is left alone by the manager.
"""

import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType
from typing import IO, Self

from raftsched.testing.cluster import Cluster, Member
from raftsched.testing.links import Links

PEER_SHIFT = 100
AGAIN_TIMEOUT_S = 30.0  # until the manager has started a member again
STOP_TIMEOUT_S = 40.0
POLL_S = 0.02


def load(script: Path) -> ModuleType:
    """`scripts/cluster.py`, for its rules of names and ports."""
    spec = importlib.util.spec_from_file_location("cluster_script", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def free_shift(rules: ModuleType, count: int = 3) -> int:
    """Beside whatever runs on the ports of the README; some of these are ports that outgoing connections take, too."""
    for shift in random.sample(range(20, 5000), 100):
        peers = [rules.moved(rules.PEER_PORT, one, shift) for one in range(count)]
        taken = [port for one in range(count) for port in rules.ports(one, shift).values()]
        with ExitStack() as stack, suppress(OSError):
            for port in (*taken, *peers, *(port + PEER_SHIFT for port in peers)):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return shift
    raise RuntimeError("no free ports")


class Foreign:
    """A process that somebody else started, with what a `Member` asks of its own."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """How it ended is known to its parent alone."""
        if self.returncode is None and not alive(self.pid):
            self.returncode = -1
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (timeout or STOP_TIMEOUT_S)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} has not ended")
            time.sleep(POLL_S)
        return code


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class ManagedMember(Member):
    """A member whose process comes from the manager."""

    def __init__(self, folder: Path, log: Path, rules: ModuleType, number: int, shift: int) -> None:
        peer = rules.moved(rules.PEER_PORT, number, shift)
        super().__init__(folder, number, [peer + PEER_SHIFT] * (number + 1), peer)
        ports = rules.ports(number, shift)
        self.scheduler_port, self.client_port = ports["port"], ports["etcd-client-port"]
        self.healthz_port, self.metrics_port = ports["healthz-port"], ports["metrics-port"]
        self.stdout_path = self.stderr_path = log
        self._last = 0

    def start(self, *, wait: bool = True) -> Self:
        """Waits until the manager has started it."""
        deadline = time.monotonic() + AGAIN_TIMEOUT_S
        while (pid := self._pid()) == self._last or not alive(pid):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} was not started again within {AGAIN_TIMEOUT_S} s\n{self.logs()}")
            time.sleep(POLL_S)
        self._last = pid
        self.process = Foreign(pid)  # type: ignore[assignment]  # it has what a member asks of its process
        if wait:
            self.wait_ready()
        return self

    def _pid(self) -> int:
        with suppress(FileNotFoundError, ValueError):
            return int((self.directory / "pid").read_text())
        return self._last


class ManagedCluster(Cluster):
    """`make cluster` in `directory`, with proxies between its members."""

    stops_one = False  # the manager does not start again who was asked to stop

    def __init__(self, directory: Path, count: int, script: Path) -> None:
        rules = load(script)
        shift = free_shift(rules, count)
        self.size = count
        self.links = Links(self._pids)
        self.members = []
        for number in range(count):
            listening = rules.moved(rules.PEER_PORT, number, shift)
            self.members.append(ManagedMember(directory / str(number), directory / "log", rules, number, shift))
            self.links.add(number, listening + PEER_SHIFT, listening)
        words = [sys.executable, str(script), f"--members={count}", f"--data={directory}", f"--shift={shift}", f"--peer-shift={PEER_SHIFT}"]
        self._words = words
        self._manager: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = (directory / "log").open("ab")

    def start(self, *, wait: bool = True) -> Self:
        """The manager, the first time; then those that it starts again."""
        if self._manager is None:
            self._manager = subprocess.Popen(self._words, stdout=self._log, stderr=self._log, start_new_session=True)
        return super().start(wait=wait)

    def close(self) -> None:
        """The manager stops its members; whatever is left then is killed."""
        if self._manager is not None:
            self._manager.send_signal(signal.SIGTERM)
            try:
                self._manager.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._manager.kill()
                self._manager.wait()
            self._manager = None
        for one in self.members:
            if one.process is not None and one.process.poll() is not None:
                one.process = None
        super().close()
        self._log.close()
