"""Load on the scheduler API of a cluster with everything that is promised of jobs checked: each tick, at least once, never early.

A sidecar has one stream to every member and acknowledges all it gets. Recurring jobs run through; one-shots come and go. A watch of
the counters sees each committed tick: exactly one more each time, never one before its instant, none set back. Instants are
wall-clock nanoseconds: all processes share one machine's clock.
"""

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import grpc

from raftsched.pb.dapr import scheduler_pb2, scheduler_pb2_grpc, stored_pb2
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc

APP = "chaos"
COUNTERS = b"dapr/counters/"
JOBS = b"dapr/jobs/"
INTERVAL_NS = 10**9
TIMEOUT_S = 5.0
RECONNECT_S = 0.05
DELETED_GRACE_NS = 2 * 10**9  # an owner may apply a delete this long after it was acknowledged elsewhere
SETTLE_TIMEOUT_S = 40.0
STOOD_STILL_S = 2 * TIMEOUT_S + 5  # a turn that took longer: the machine stood still, as virtual ones do, and nobody had time to settle
UNSEEN_MAX = 2  # committed while the watch of the counters was being closed
BEHIND_NS_MAX = 3 * INTERVAL_NS


def metadata() -> scheduler_pb2.JobMetadata:
    target = scheduler_pb2.JobTargetMetadata(job=scheduler_pb2.TargetJob())
    return scheduler_pb2.JobMetadata(app_id=APP, namespace="default", target=target)


def instant_ns(stamp: Any) -> int:
    return int(stamp.seconds) * 10**9 + int(stamp.nanos)


class Stream(threading.Thread):
    """One WatchJobs stream to one member, opened again whenever it breaks."""

    def __init__(self, address: str, deliveries: list[tuple[int, str]]) -> None:
        super().__init__(name=f"stream-{address}", daemon=True)
        self.address = address
        self._deliveries = deliveries
        self._stopping = threading.Event()
        self._call: Any = None

    def run(self) -> None:
        while not self._stopping.is_set():
            requests: queue.SimpleQueue[scheduler_pb2.WatchJobsRequest | None] = queue.SimpleQueue()
            initial = scheduler_pb2.WatchJobsRequestInitial(app_id=APP, namespace="default")
            requests.put(scheduler_pb2.WatchJobsRequest(initial=initial))
            with grpc.insecure_channel(self.address) as channel:
                try:
                    self._call = scheduler_pb2_grpc.SchedulerStub(channel).WatchJobs(iter(requests.get, None))
                    for trigger in self._call:
                        self._deliveries.append((time.time_ns(), trigger.name))
                        result = scheduler_pb2.WatchJobsRequestResult(
                            id=trigger.id, status=scheduler_pb2.WatchJobsRequestResultStatus.SUCCESS
                        )
                        requests.put(scheduler_pb2.WatchJobsRequest(result=result))
                except grpc.RpcError:
                    pass  # the member went away: the next stream
                finally:
                    requests.put(None)
            self._stopping.wait(RECONNECT_S)

    def stop(self) -> None:
        self._stopping.set()
        if self._call is not None:
            self._call.cancel()
        self.join(10)


class CounterWatch(threading.Thread):
    """All events of all counters, in order, from whichever member answers; goes on behind the last revision that it has seen."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__(name="counter-watch", daemon=True)
        self.wrong: list[str] = []
        self.ticks = 0
        self._addresses = addresses
        self._revision = 0
        self._counts: dict[bytes, int] = {}
        self.committed: dict[str, list[tuple[int, int]]] = {}
        """Of each job its ticks, in order: (their instant, when the commit was seen here, which is never before it was)."""
        self._stopping = threading.Event()
        self._call: Any = None

    def run(self) -> None:
        turn = 0
        while not self._stopping.is_set():
            with grpc.insecure_channel(self._addresses[turn % len(self._addresses)]) as channel:
                try:
                    self._follow(channel)
                except grpc.RpcError:
                    turn += 1  # the next member goes on where this one ended
            self._stopping.wait(RECONNECT_S)

    def _follow(self, channel: grpc.Channel) -> None:
        create = rpc_pb2.WatchCreateRequest(key=COUNTERS, range_end=COUNTERS[:-1] + b"0", start_revision=self._revision + 1)
        requests: queue.SimpleQueue[rpc_pb2.WatchRequest | None] = queue.SimpleQueue()
        requests.put(rpc_pb2.WatchRequest(create_request=create))
        try:
            self._call = rpc_pb2_grpc.WatchStub(channel).Watch(iter(requests.get, None))
            for response in self._call:
                for event in response.events:
                    self._take(event)
        finally:
            requests.put(None)

    def _take(self, event: Any) -> None:
        key, revision = event.kv.key, event.kv.mod_revision
        if revision < self._revision:
            self.wrong.append(f"watch: {key!r} at revision {revision} after {self._revision}")
        self._revision = max(self._revision, revision)
        if event.type == event.DELETE:
            self._counts.pop(key, None)
            return
        counter, before = stored_pb2.Counter.FromString(event.kv.value), self._counts.get(key, 0)
        self._counts[key] = counter.count
        self.ticks += counter.count - before
        if counter.count == before + 1:
            name = key.rpartition(b"||")[2].decode()
            self.committed.setdefault(name, []).append((instant_ns(counter.last_trigger), time.time_ns()))
        if counter.count not in {before, before + 1}:
            self.wrong.append(f"counter {key!r} goes from {before} to {counter.count} at revision {revision}")
        if counter.HasField("last_trigger") and instant_ns(counter.last_trigger) > time.time_ns():
            self.wrong.append(
                f"counter {key!r}: tick {counter.count} is committed {instant_ns(counter.last_trigger) - time.time_ns()} ns early"
            )

    def stop(self) -> None:
        self._stopping.set()
        if self._call is not None:
            self._call.cancel()
        self.join(10)


def without_delivery(ticks: Sequence[tuple[int, int]], moments: Sequence[int]) -> list[int]:
    """The instants of those of a job's ticks that have no delivery of their own. `ticks`: (instant, when its commit was seen), in order;
    `moments`: of all deliveries, rising.

    A trigger does not say of which tick it is. But a tick's delivery comes between its instant and its commit, and each delivery is of one
    tick: the earliest that fits is given to each tick in turn, which leaves no tick without one if any way does (both bounds rise). So a
    second delivery of a tick stands in for the one of the next only if it came behind that one's instant.
    """
    missing, at = [], 0
    for due_ns, seen_ns in ticks:
        while at < len(moments) and moments[at] < due_ns:
            at += 1
        if at < len(moments) and moments[at] <= seen_ns:
            at += 1
        else:
            missing.append(due_ns)
    return missing


@dataclass(slots=True)
class Shot:
    """A one-shot job."""

    due_ns: int
    acknowledged: bool
    deleted_ns: int = 0  # when its delete was acknowledged; -1 = nobody knows


@dataclass(slots=True)
class JobLoad:
    """Recurring jobs from the start, one-shots all the time; `finish` waits for what is due and checks."""

    addresses: list[str]  # of the scheduler API
    store_addresses: list[str]  # read anew at each use, as `addresses`: may change under the load
    recurring: int = 40
    pause_s: float = 0.05
    shots: dict[str, Shot] = field(default_factory=dict)
    deliveries: list[tuple[int, str]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    _streams: list[Stream] = field(default_factory=list)
    _watch: CounterWatch | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._watch = CounterWatch(self.store_addresses)
        self._watch.start()
        self._streams = [Stream(address, self.deliveries) for address in self.addresses]
        for stream in self._streams:
            stream.start()
        for number in range(self.recurring):
            while not self._schedule(f"every-{number}", number, schedule="@every 1s"):
                time.sleep(0.1)
        self._thread = threading.Thread(target=self._shoot, name="one-shots", daemon=True)
        self._thread.start()

    def connect(self, address: str) -> None:
        """A scheduler came: as a sidecar that is told of it by WatchHosts."""
        self.addresses.append(address)
        self._streams.append(Stream(address, self.deliveries))
        self._streams[-1].start()

    def disconnect(self, address: str) -> None:
        """A scheduler went for good."""
        self.addresses.remove(address)
        for stream in [one for one in self._streams if one.address == address]:
            self._streams.remove(stream)
            stream.stop()

    def _schedule(self, name: str, turn: int, **fields: Any) -> bool:
        """Whether it was acknowledged; one that exists already was so by an earlier try whose answer was lost."""
        with grpc.insecure_channel(self.addresses[turn % len(self.addresses)]) as channel:
            request = scheduler_pb2.ScheduleJobRequest(name=name, job=scheduler_pb2.Job(**fields), metadata=metadata())
            try:
                scheduler_pb2_grpc.SchedulerStub(channel).ScheduleJob(request, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                self.refused[f"{error.code().name} {(error.details() or '')[:60]}"] += 1
                return error.code() == grpc.StatusCode.ALREADY_EXISTS
            return True

    def _shoot(self) -> None:
        draw = random.Random(5)
        number = 0
        while not self._stopping.wait(self.pause_s):
            name = f"once-{number}"
            due_ns = time.time_ns() // 10**6 * 10**6 + draw.randrange(500, 5000) * 10**6
            shot = self.shots[name] = Shot(due_ns, acknowledged=False)
            moment = datetime.fromtimestamp(due_ns // 10**9, UTC).replace(microsecond=due_ns % 10**9 // 1000)
            shot.acknowledged = self._schedule(name, number, due_time=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
            if draw.random() < 0.1:
                self._delete(name, number, shot)
            number += 1

    def _delete(self, name: str, turn: int, shot: Shot) -> None:
        with grpc.insecure_channel(self.addresses[(turn + 1) % len(self.addresses)]) as channel:
            request = scheduler_pb2.DeleteJobRequest(name=name, metadata=metadata())
            try:
                scheduler_pb2_grpc.SchedulerStub(channel).DeleteJob(request, timeout=TIMEOUT_S)
            except grpc.RpcError:
                shot.deleted_ns = -1
            else:
                shot.deleted_ns = time.time_ns()

    def finish(self) -> list[str]:
        """Ends the load, waits until everything due was delivered, and tells what is wrong, one text each."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        waited_s, last_s = 0.0, time.monotonic()
        while (self._undelivered() or self._behind()) and waited_s < SETTLE_TIMEOUT_S:
            time.sleep(0.2)
            now_s = time.monotonic()
            waited_s, last_s = waited_s + min(now_s - last_s, STOOD_STILL_S), now_s
        wrong = [f"{name}: acknowledged, due, and never delivered" for name in self._undelivered()] + self._behind()
        for stream in self._streams:
            stream.stop()
        if self._watch is not None:
            self._watch.stop()
            wrong += self._watch.wrong
        return wrong + self._early_or_deleted() + self._miscounted()

    def _undelivered(self) -> list[str]:
        delivered, now = {name for _, name in list(self.deliveries)}, time.time_ns()
        due = [name for name, shot in self.shots.items() if shot.acknowledged and not shot.deleted_ns and shot.due_ns < now]
        waiting = [name for name, shot in self.shots.items() if shot.acknowledged and not shot.deleted_ns and shot.due_ns >= now]
        return [name for name in due if name not in delivered] + waiting

    def _early_or_deleted(self) -> list[str]:
        wrong = []
        for at, name in self.deliveries:
            shot = self.shots.get(name)
            if shot is not None and at < shot.due_ns:
                wrong.append(f"{name}: delivered {(shot.due_ns - at) / 1e6:.3f} ms early")
            if shot is not None and 0 < shot.deleted_ns < at - DELETED_GRACE_NS:
                wrong.append(f"{name}: delivered {(at - shot.deleted_ns) / 1e6:.0f} ms after its delete was acknowledged")
        return wrong

    def _stored(self) -> dict[str, tuple[stored_pb2.Job, stored_pb2.Counter]]:
        """The recurring jobs with their counters."""
        for address in self.store_addresses:
            with grpc.insecure_channel(address) as channel:
                kv = rpc_pb2_grpc.KVStub(channel)
                try:
                    jobs, counters = (
                        kv.Range(rpc_pb2.RangeRequest(key=prefix, range_end=prefix[:-1] + b"0"), timeout=TIMEOUT_S).kvs
                        for prefix in (JOBS, COUNTERS)
                    )
                except grpc.RpcError:
                    continue
            counts = {pair.key.rpartition(b"||")[2].decode(): stored_pb2.Counter.FromString(pair.value) for pair in counters}
            found = {pair.key.rpartition(b"||")[2].decode(): stored_pb2.Job.FromString(pair.value) for pair in jobs}
            return {name: (job, counts.get(name, stored_pb2.Counter())) for name, job in found.items() if name.startswith("every-")}
        return {}

    def _behind(self) -> list[str]:
        stored, wrong = self._stored(), []
        for number in range(self.recurring):
            name = f"every-{number}"
            if name not in stored:
                wrong.append(f"{name}: acknowledged, and not in the store")
                continue
            job, counter = stored[name]
            late_ns = time.time_ns() - instant_ns(job.start) - counter.count * INTERVAL_NS
            if late_ns > BEHIND_NS_MAX:
                wrong.append(f"{name}: {late_ns / 1e9:.1f} s behind, at tick {counter.count}")
        return wrong

    def _miscounted(self) -> list[str]:
        """Each committed tick was delivered, and the instant of the last one is that of its number: none left out."""
        wrong = []
        for name, (job, counter) in self._stored().items():
            if instant_ns(counter.last_trigger) != instant_ns(job.start) + counter.count * INTERVAL_NS:
                wrong.append(f"{name}: tick {counter.count} stands at the wrong instant")
            seen = len(self.committed().get(name, ()))
            if seen < counter.count - UNSEEN_MAX:
                wrong.append(f"{name}: {counter.count} ticks committed, {seen} seen")
        moments: dict[str, list[int]] = {}
        for at, name in sorted(self.deliveries):
            moments.setdefault(name, []).append(at)
        for name, ticks in self.committed().items():
            missing = without_delivery(ticks, moments.get(name, []))
            wrong += [f"{name}: the tick of {due_ns} is committed, and no delivery can be its own" for due_ns in missing]
        return wrong

    def committed(self) -> dict[str, list[tuple[int, int]]]:
        """See `CounterWatch`."""
        return self._watch.committed if self._watch is not None else {}

    def gaps_s(self, since_ns: int, until_ns: int) -> dict[str, float]:
        """Of each recurring job the longest time without a delivery between two instants, both counted as deliveries."""
        moments: dict[str, list[int]] = {f"every-{number}": [since_ns] for number in range(self.recurring)}
        for at, name in sorted(self.deliveries):
            if name in moments and since_ns < at < until_ns:
                moments[name].append(at)
        return {name: max(after - before for before, after in pairwise([*times, until_ns])) / 1e9 for name, times in moments.items()}

    def figures(self) -> dict[str, Any]:
        by_name: dict[str, list[int]] = {}
        for at, name in sorted(self.deliveries):
            by_name.setdefault(name, []).append(at)
        gaps = sorted(
            (after - before) / 1e9 for name, moments in by_name.items() if name.startswith("every-") for before, after in pairwise(moments)
        )
        late = sorted((by_name[name][0] - shot.due_ns) / 1e6 for name, shot in self.shots.items() if name in by_name)
        return {
            "deliveries": len(self.deliveries),
            "ticks_committed": self._watch.ticks if self._watch is not None else 0,
            "one_shots": sum(shot.acknowledged for shot in self.shots.values()),
            "one_shots_unknown": sum(not shot.acknowledged for shot in self.shots.values()),
            "one_shots_twice": sum(len(by_name.get(name, ())) > 1 for name in self.shots),
            "one_shot_late_p50_ms": round(late[len(late) // 2], 2) if late else None,
            "one_shot_late_p99_ms": round(late[len(late) * 99 // 100], 2) if late else None,
            "one_shot_late_max_ms": round(late[-1], 2) if late else None,
            "recurring_gap_max_s": round(gaps[-1], 3) if gaps else None,
            "refused": dict(self.refused),
        }
