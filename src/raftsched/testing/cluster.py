"""A cluster of real processes: `raftsched serve` several times, or as many real etcds, under one interface.

Invariant: every process started here is gone when its `Cluster` is closed. With `linked`, members meet through `links.Links`, so that
directions between them can be cut. What a fault does to a member is a method of the member; who leads is asked of the members.
"""

import signal
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from types import TracebackType
from typing import Any, Self

import grpc

from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.links import Links
from raftsched.testing.process import ServerProcess, free_ports

LEADER_TIMEOUT_S = 60.0  # of a machine that others share
STATUS_TIMEOUT_S = 1.0
POLL_S = 0.02


class Member(ServerProcess):
    """One `raftsched serve` of several; `number` is the ordinal in its name."""

    stop_code = 0  # of a stop in order

    def __init__(
        self, directory: Path, number: int, advertised: Sequence[int], listening: int, args: Sequence[str] = (), scheme: str = "http"
    ) -> None:
        """`scheme`: of the members' URLs; https needs `--peer-*` among `args`."""
        super().__init__(directory)
        self.scheme = scheme
        self.number = number
        self.name = member_name(number)
        self.paused = False
        self.command = [word for word in self.command if not word.startswith("--id=")]
        self.command += [f"--id={self.name}", f"--peer-listen-address=127.0.0.1:{listening}", *args]
        self.list_members(advertised)

    def list_members(self, advertised: Sequence[int]) -> None:
        """The members that the next start is told of: ordinals from 0, by their peer ports."""
        listed = ",".join(f"{member_name(other)}={self.scheme}://127.0.0.1:{port}" for other, port in enumerate(advertised))
        self.command = [word for word in self.command if not word.startswith("--etcd-initial-cluster=")]
        self.command.append(f"--etcd-initial-cluster={listed}")

    @property
    def running(self) -> bool:
        """Started and not ended; one that is paused runs."""
        return self.process is not None and self.process.poll() is None

    def pause(self) -> None:
        """SIGSTOP: as a machine that hangs, its connections stay open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def kill(self) -> None:
        """SIGKILL; one that ended by itself is an error of the test's subject."""
        assert self.process is not None, f"{self.name} is not running"
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended by itself with {self.process.returncode}:\n{self.logs()}")
        super().kill()
        self.paused = False

    def wipe(self) -> None:
        """Loses its disk while it is down."""
        assert self.process is None, "still running"
        rmtree(self.directory / "data")

    def status(self, timeout_s: float = STATUS_TIMEOUT_S) -> Any:
        """The answer to Maintenance.Status, or None."""
        if not self.running:
            return None
        with grpc.insecure_channel(self.client_address) as channel:
            try:
                return rpc_pb2_grpc.MaintenanceStub(channel).Status(rpc_pb2.StatusRequest(), timeout=timeout_s)
            except grpc.RpcError:
                return None


class EtcdMember(Member):
    """One real etcd of several."""

    stop_code = -signal.SIGTERM  # it stops in order, then sends itself the signal again

    def __init__(self, binary: Path, directory: Path, number: int, advertised: Sequence[int], listening: int, args: Sequence[str]) -> None:
        super().__init__(directory, number, advertised, listening)
        self.command = [
            str(binary),
            f"--name={self.name}",
            f"--data-dir={directory / 'data'}",
            f"--listen-client-urls=http://{self.client_address}",
            f"--advertise-client-urls=http://{self.client_address}",
            f"--listen-peer-urls=http://127.0.0.1:{listening}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{advertised[number]}",
            "--initial-cluster=" + ",".join(f"{member_name(other)}=http://127.0.0.1:{port}" for other, port in enumerate(advertised)),
            "--log-level=error",
            *args,
        ]

    @property
    def listens(self) -> bool:
        return True  # its one port is the one that is asked for its health

    def health(self) -> int:
        try:
            with urllib.request.urlopen(f"http://{self.client_address}/health", timeout=2) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0


def member_name(number: int) -> str:
    """As a StatefulSet names its pods."""
    return f"dapr-scheduler-server-{number}"


class Cluster:
    """Members 0 … `count`-1. `etcd` is the program of a real etcd, None = raftsched; `args` go to every member.

    `first`: how many there are to begin with; the others are there to `grow`. `size` is how many there are to be now.
    """

    stops_one = True  # one that was stopped in order can be started again
    links: Links | None

    def __init__(
        self,
        directory: Path,
        count: int = 3,
        *,
        first: int | None = None,
        etcd: Path | None = None,
        linked: bool = False,
        args: Sequence[str] = (),
        scheme: str = "http",
    ) -> None:
        self.size = count if first is None else first
        self.advertised = free_ports(count)
        listening = free_ports(count) if linked else self.advertised
        self.members: list[Member] = []
        for number in range(count):
            folder = directory / f"member-{number}"
            listed = self.advertised[: max(self.size, number + 1)]
            self.members.append(
                Member(folder, number, listed, listening[number], args, scheme)
                if etcd is None
                else EtcdMember(etcd, folder, number, listed, listening[number], args)
            )
        self.links = Links(self._pids) if linked else None
        if self.links is not None:
            for number in range(count):
                self.links.add(number, self.advertised[number], listening[number])

    def _pids(self) -> dict[int, int]:
        return {one.process.pid: one.number for one in self.members if one.process is not None}

    @property
    def majority(self) -> int:
        return self.size // 2 + 1

    def start(self, *, wait: bool = True) -> Self:
        """All of the `size` members that are not running; with `wait`, until every one is ready."""
        started = [one.start(wait=False) for one in self.members[: self.size] if one.process is None]
        if wait:
            for one in started:
                one.wait_ready(LEADER_TIMEOUT_S)
        return self

    def grow(self, size: int, timeout_s: float = LEADER_TIMEOUT_S) -> list[Member]:
        """As a StatefulSet that is scaled up: new members start with the wider list, those that run are left alone. The new ones, once
        they vote."""
        joining = self.members[self.size : size]
        for one in joining:
            one.list_members(self.advertised[:size])
            one.start(wait=False)
        self.size = size
        deadline = time.monotonic() + timeout_s
        for one in joining:
            one.wait_ready(timeout_s)
            while (answer := one.status()) is None or answer.isLearner:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{one.name} has no vote within {timeout_s} s\n{self.logs()}")
                time.sleep(POLL_S)
        return joining

    def shrink(self, size: int) -> None:
        """The others have left: nothing is expected of them any more."""
        self.size = size

    def close(self) -> None:
        """Kills what still runs; logs and data stay."""
        for one in self.members:
            if one.process is not None:
                one.process.kill()
                one.process.wait()
                one.process = None
        if self.links is not None:
            self.links.close()
            self.links = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def leader_now(self) -> Member | None:
        """Whom a majority of all members take for the leader of the latest term; None when there is no such member."""
        answers = [(one, one.status()) for one in self.members[: self.size] if one.running and not one.paused]
        told = [(one, answer) for one, answer in answers if answer is not None and answer.leader]
        for one, answer in told:
            same = sum(other.leader == answer.header.member_id and other.raftTerm == answer.raftTerm for _, other in told)
            if same >= self.majority:
                return one
        return None

    def leader(self, timeout_s: float = LEADER_TIMEOUT_S) -> Member:
        """The leader, waited for."""
        deadline = time.monotonic() + timeout_s
        while (found := self.leader_now()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no leader within {timeout_s} s\n{self.logs()}")
            time.sleep(POLL_S)
        return found

    def followers(self) -> list[Member]:
        leader = self.leader()
        return [one for one in self.members if one is not leader and one.running]

    def wait_equal(self, timeout_s: float = LEADER_TIMEOUT_S) -> None:
        """Until all running members have applied the same entries, and their stores have the same hash; raises when they never do."""
        deadline = time.monotonic() + timeout_s
        while True:
            hashes = [self._hash(one) for one in self.members if one.running]
            if None not in hashes and len(set(hashes)) == 1:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"revision, compaction and hash differ: {hashes}\n{self.logs()}")
            time.sleep(0.2)

    @staticmethod
    def _hash(member: Member) -> tuple[int, int, int] | None:
        with grpc.insecure_channel(member.client_address) as channel:
            try:
                answer = rpc_pb2_grpc.MaintenanceStub(channel).HashKV(rpc_pb2.HashKVRequest(), timeout=10)
            except grpc.RpcError:
                return None
        return answer.header.revision, answer.compact_revision, answer.hash

    def logs(self, tail_bytes: int = 1500) -> str:
        return "\n".join(f"=== {one.name}\n{one.logs(tail_bytes)}" for one in self.members)
