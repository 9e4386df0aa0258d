"""How late ticks are while replicas of the scheduler come and go: of jobs whose owner stays, and of jobs that move.

A sidecar has a stream to every replica, so the stream says who owned a tick. All instants are wall-clock nanoseconds of one machine.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import grpc

from raftsched.pb.dapr import scheduler_pb2, scheduler_pb2_grpc, stored_pb2
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.cluster import Cluster
from raftsched.testing.job_load import INTERVAL_NS, JOBS, Stream, instant_ns, metadata

SETTLE_S = 3.0
TIMEOUT_S = 30.0


@dataclass(slots=True)
class Lateness:
    """Milliseconds by which ticks were late, and how many were never delivered."""

    unmoved_ms: list[float] = field(default_factory=list)
    moved_ms: list[float] = field(default_factory=list)
    missed: int = 0

    def add(self, other: "Lateness") -> None:
        self.unmoved_ms += other.unmoved_ms
        self.moved_ms += other.moved_ms
        self.missed += other.missed


def quantile(values: Iterable[float], share: float) -> float:
    """0.99 = p99; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


@dataclass(slots=True)
class Job:
    """Its first instant, and its deliveries in order: when, by which replica."""

    start_ns: int
    moments: list[tuple[int, str]] = field(default_factory=list)

    def lateness_ms(self) -> dict[int, float]:
        """By the instant each tick was due. What comes before the next tick is due is the last one again: delivered twice."""
        late: dict[int, float] = {}
        due = self.start_ns + INTERVAL_NS
        for at, _ in self.moments:
            if at >= due:
                late[due] = (at - due) / 1e6
                due += INTERVAL_NS
        return late

    def stays(self, begin: int, end: int) -> bool:
        """Whether one replica delivered all from the last tick before `begin` to the last one before `end`."""
        instants = [at for at, _ in self.moments]
        first, last = max(bisect_left(instants, begin) - 1, 0), bisect_right(instants, end)
        return len({address for _, address in self.moments[first:last]}) == 1


class Rebalancing:
    """`count` jobs `@every 1s` on a cluster that is up: `start`, any number of `during`, then `finish`."""

    def __init__(self, cluster: Cluster, count: int = 300) -> None:
        self._cluster = cluster
        self._count = count
        self._deliveries: dict[str, list[tuple[int, str]]] = {one.scheduler_address: [] for one in cluster.members}
        self._streams = [Stream(address, taken) for address, taken in self._deliveries.items()]
        self._windows: dict[str, list[tuple[int, int]]] = {}

    def start(self) -> None:
        """Returns when every job has ticked twice."""
        for stream in self._streams:
            stream.start()
        with grpc.insecure_channel(self._cluster.leader().scheduler_address) as channel:
            stub = scheduler_pb2_grpc.SchedulerStub(channel)
            for number in range(self._count):
                job = scheduler_pb2.Job(schedule="@every 1s")
                stub.ScheduleJob(scheduler_pb2.ScheduleJobRequest(name=f"tick-{number}", job=job, metadata=metadata()), timeout=TIMEOUT_S)
        deadline = time.monotonic() + TIMEOUT_S
        while sum(map(len, self._deliveries.values())) < 2 * self._count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no ticks\n{self._cluster.logs()}")
            time.sleep(0.1)

    def during(self, kind: str, change: Callable[[], object], settle_s: float = SETTLE_S) -> None:
        """Everything that falls due from now until some seconds after `change` counts as this kind."""
        begin = time.time_ns()
        change()
        time.sleep(settle_s)
        self._windows.setdefault(kind, []).append((begin, time.time_ns()))

    def finish(self) -> dict[str, Lateness]:
        """Ends the streams; lateness by kind."""
        time.sleep(2 * INTERVAL_NS / 1e9)
        jobs = self._jobs()
        for stream in self._streams:
            stream.stop()
        for at, name, address in sorted((at, name, address) for address, taken in self._deliveries.items() for at, name in taken):
            jobs[name].moments.append((at, address))
        found: dict[str, Lateness] = {}
        for kind, windows in self._windows.items():
            total = found[kind] = Lateness()
            for begin, end in windows:
                for job in jobs.values():
                    total.add(self._of(job, begin, end))
        return found

    @staticmethod
    def _of(job: Job, begin: int, end: int) -> Lateness:
        late = job.lateness_ms()
        first = -(-(begin - job.start_ns) // INTERVAL_NS)
        dues = range(job.start_ns + first * INTERVAL_NS, end, INTERVAL_NS)
        told = [late[due] for due in dues if due in late]
        missed = len(dues) - len(told)
        return Lateness(told, [], missed) if job.stays(begin, end) else Lateness([], told, missed)

    def _jobs(self) -> dict[str, Job]:
        with grpc.insecure_channel(self._cluster.leader().client_address) as channel:
            request = rpc_pb2.RangeRequest(key=JOBS, range_end=JOBS[:-1] + b"0")
            pairs = rpc_pb2_grpc.KVStub(channel).Range(request, timeout=TIMEOUT_S).kvs
        stored = {pair.key.rpartition(b"||")[2].decode(): stored_pb2.Job.FromString(pair.value) for pair in pairs}
        return {name: Job(instant_ns(job.start)) for name, job in stored.items()}
