"""Several scheduler services over one store in memory, on one virtual clock: replicas that join, leave, crash and are cut off.

The store is a `MemoryEtcd`; what makes it a cluster is `MemberKv`: each replica sees the changes later than they happen, at its own
pace, and its writes take time or are lost with the link. Its fence is the longest that decision 0008 allows: 600 ms from the
moment when it was cut off, or from the oldest commit that it has not applied.

Checked while it runs: no job is owned by two replicas within their fences; nothing is sent outside a fence, early by the owner's
clock, or twice by different replicas unless the first one's result was not committed at the takeover. Checked at the end: each
tick was delivered, none was skipped, and somebody goes on.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from member_kv import MemberKv
from virtual_loop import VirtualLoop

from raftsched.limits import FENCE_ELECTED_MS, FENCE_SILENT_MS
from raftsched.pb.dapr import scheduler_pb2
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, LEADERSHIP, TARGET_JOB
from raftsched.scheduler.leadership import Partition
from raftsched.scheduler.replicas import GIVEN_UP, read_key
from raftsched.scheduler.service import SchedulerService
from raftsched.testing.memory_etcd import MemoryEtcd
from raftsched.testing.scheduling import APP, START_MS, metadata, result
from raftsched.testing.sim.loop import SimTimer
from raftsched.types import Change

ROUTE = b"app||ns||app||"
LOOK_S = 0.01
LATE_MS_MAX = 50  # a job whose owner did not change


class Lines:
    def __init__(self, cluster: "Cluster", name: str) -> None:
        self._cluster, self._name = cluster, name

    def info(self, message: str, /, **fields: object) -> None:
        self._cluster.trace.append(f"{self._cluster.now_ms() - START_MS:>8} {self._name} {message} {fields or ''}")

    debug = warning = error = info


class Stream:
    """The worker of one replica: answers each trigger after a while."""

    def __init__(self, replica: "Replica") -> None:
        self.replica = replica
        self.stream: Any = None

    def push(self, message: bytes) -> bool:
        response = scheduler_pb2.WatchJobsResponse.FromString(message)
        self.replica.cluster.delivered(self.replica, ROUTE + response.name.encode())
        replica, cluster = self.replica, self.replica.cluster
        answer_s = cluster.answer_s()

        def answer() -> None:
            if replica.alive and replica.stream is self:
                replica.service.on_acks(self.stream, [result(response.id)])

        cluster.loop.call_later(answer_s, answer)
        return True

    def cut_off(self, reason: str) -> None:
        raise AssertionError(reason)


class Replica:
    """One process: a service, its view of the store, its clocks."""

    def __init__(self, cluster: "Cluster", name: str, skew_ms: int) -> None:
        self.cluster, self.name, self.skew_ms = cluster, name, skew_ms
        self.mono_offset_ms = cluster.random.randrange(10**9)
        self.cut_s: float | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.alive = True
        self.disturbed_s = 0.0  # when last something was done to it, so that ticks may be late
        self.taken_at = 0  # revision at which it took its partition
        self.kv = MemberKv(cluster, self)
        numbers = random.Random(cluster.random.getrandbits(64))
        self.service = SchedulerService(
            self.kv,
            scheduler_id=name,
            address=f"{name}:50006",
            zone_source=lambda zone: None,
            rng=lambda: numbers.getrandbits(64),
            log=Lines(cluster, name),
            engine_log=Lines(cluster, name),
            wall_ns=lambda: self.wall_ms() * 1_000_000,
            mono_ns=lambda: cluster.loop.now_ns + self.mono_offset_ms * 1_000_000,
            timer=SimTimer,
        )
        self.stream = Stream(self)
        own = self.service.own

        def note(partition: Partition) -> None:
            self.taken_at = self.cluster.revision_of(self.kv.applied)
            own(partition)
            self.cluster.check_owners()

        self.service.own = note  # type: ignore[method-assign]

    def wall_ms(self) -> int:
        return self.cluster.now_ms() + self.skew_ms

    async def start(self) -> None:
        await self.service.start()
        self.stream.stream = self.service.open_stream(self.stream.push, self.stream, [(ROUTE, TARGET_JOB, None)], "ns", ())

    def crash(self) -> None:
        """kill -9."""
        self.alive, self.kv.gone = False, True
        self.cut_s = self.cluster.loop.time() if self.cut_s is None else self.cut_s
        self.service._let_go()
        for task in self.tasks:
            task.cancel()

    def owns(self, composed: bytes) -> bool:
        known = self.service.engine.describe(composed)
        return bool(known and known["has_job"] and known["owned"])

    def inside_fence(self) -> bool:
        return self.alive and self.service._inside_fence()


class Cluster:
    """See the module's text."""

    def __init__(self, loop: VirtualLoop, seed: int, *, jobs: int = 24) -> None:
        self.loop = loop
        self.random = random.Random(seed)
        self.etcd = MemoryEtcd()
        self.etcd.sinks.append(self)
        self.history: list[tuple[list[Change], int, float]] = []
        self.lease_ends_s: dict[int, float] = {}
        self.replicas: dict[str, Replica] = {}
        self.lost: dict[str, Replica] = {}  # crashed, not back yet
        self.leader = ""
        self.elected_s = 0.0
        self.trace: list[str] = []
        self.jobs = [ROUTE + b"j%d" % number for number in range(jobs)]
        self.ticks: dict[bytes, dict[int, list[tuple[float, str]]]] = defaultdict(dict)  # job -> tick ms -> deliveries
        self.done_at: dict[tuple[bytes, int], int] = {}  # (job, tick ms) -> revision of its result
        self.owner_since: dict[bytes, tuple[str, float]] = {}
        self.caught_up: dict[bytes, tuple[str, float]] = {}  # job -> its owner, once it was on time there
        self.late_ms: list[tuple[int, bytes, str]] = []  # of jobs that did not move
        self.first_late_ms: list[int] = []  # of all ticks, by the clock of who delivered it first
        self.answers_s = [0.0, 0.001, 0.02]
        self.accused: set[str] = set()  # called dead although they are not, until it is written
        self.repeats = 0
        for number, composed in enumerate(self.jobs):
            begin = START_MS + 1_000 + number * 37
            value = _jobs.encode_stored_job(
                number, True, begin // 1000, begin % 1000 * 1_000_000, None, b"@every 1s", None, None, None, metadata(APP), None,
                _jobs.DEFAULT_POLICY,
            )  # fmt: skip
            self.etcd.put(JOBS + composed, value)
        self._looking = loop.create_task(self._look())

    # -- time and chance
    def now_ms(self) -> int:
        return START_MS + (self.loop.now_ns - 1_000_000_000) // 1_000_000

    def delay_s(self) -> float:
        return self.random.uniform(0.0002, 0.003)

    def answer_s(self) -> float:
        return self.random.choice(self.answers_s)

    # -- the store
    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        if not changes:
            return
        self.history.append((list(changes), revision, self.loop.time()))
        for change in changes:
            if change.key.startswith(COUNTERS) and not change.deleted:
                _, _, last, _ = _jobs.decode_counter(_jobs.parse_kv(change.record)[1])
                if last is not None:
                    self.done_at.setdefault((change.key.removeprefix(COUNTERS), last[0] * 1000 + last[1] // 1_000_000), revision)
            if change.key.startswith(LEADERSHIP):
                self._note_key(change)
        for replica in self.replicas.values():
            replica.kv.heard()

    def on_reset(self) -> None: ...

    def _note_key(self, change: Change) -> None:
        told = "gone"
        if not change.deleted:
            _, value, changed, lease, created = _jobs.parse_kv(change.record)
            total = read_key(value, changed, lease, created).total
            told = str(total)
            if total == GIVEN_UP:
                self.accused.discard(change.key.removeprefix(LEADERSHIP).decode())
        self.trace.append(f"{self.now_ms() - START_MS:>8} store {change.key.decode()} {told}")

    def revision_of(self, batches: int) -> int:
        return self.history[batches - 1][1] if batches else 0

    # -- replicas
    async def join(self, name: str, skew_ms: int = 0) -> Replica:
        replica = self.replicas[name] = Replica(self, name, skew_ms)
        self.lost.pop(name, None)
        self._elect()
        await replica.start()
        return replica

    async def leave(self, name: str) -> None:
        """A clean stop; until it is over the replica still counts."""
        replica = self.replicas[name]
        await replica.service.stop()
        replica.crash()
        self.lost[name] = self.replicas.pop(name)  # its member is silent from now on
        self._elect()

    def crash(self, name: str) -> None:
        replica = self.lost[name] = self.replicas.pop(name)
        replica.crash()
        self._elect()

    def disturb(self, name: str) -> Replica:
        self.replicas[name].disturbed_s = self.loop.time()
        return self.replicas[name]

    def slow(self, name: str, seconds: float) -> None:
        """So much later than others it sees what is committed."""
        self.disturb(name).kv.slow_s = seconds

    def spoil(self, name: str, how: str) -> None:
        """Something is done to its key by hand."""
        self.disturb(name)
        key = LEADERSHIP + name.encode()
        if how == "deleted":
            self.etcd.delete(key)
        elif how == "revoked":
            self.etcd.revoke(self.etcd.keys[key].lease if key in self.etcd.keys else 0)
        else:
            self.etcd.put(key, b"by hand")

    def cut(self, name: str) -> None:
        self.disturb(name).cut_s = self.loop.time()
        self._elect()

    def heal(self, name: str) -> None:
        self.disturb(name).cut_s = None
        self.replicas[name].kv.reconnect()
        self._elect()

    def _elect(self) -> None:
        """The store's leader is some member that is there; a new one needs a while."""
        leader = self.replicas.get(self.leader)
        if leader is not None and leader.cut_s is None:
            return
        there = [one.name for one in self.replicas.values() if one.cut_s is None]
        self.leader = self.random.choice(there) if there else ""
        self.elected_s = self.loop.time() + self.random.uniform(0.0, 0.7)

    def is_dead(self, name: str, asking: Replica) -> bool:
        if asking.name != self.leader or self.loop.time() < self.elected_s + FENCE_ELECTED_MS / 1000:
            return False
        if name in self.accused:
            return True
        silent = self.replicas.get(name) or self.lost.get(name)
        if silent is None or silent.cut_s is None:
            return False
        patience_ms = FENCE_SILENT_MS if silent.cut_s > self.elected_s else 0
        return self.loop.time() - silent.cut_s >= patience_ms / 1000

    # -- what is promised
    def delivered(self, replica: Replica, composed: bytes) -> None:
        known = replica.service.engine.describe(composed)
        assert known is not None
        assert known["tick"] is not None
        tick_ms = known["tick"][0] * 1000 + known["tick"][1] // 1_000_000
        where = f"{composed.decode()} tick {tick_ms - START_MS} at {replica.name}, {self.now_ms() - START_MS}"
        assert replica.alive, where
        assert replica.service._inside_fence(), f"{where}: outside its fence"
        assert known["owned"], f"{where}: not its own"
        assert replica.wall_ms() >= tick_ms, f"{where}: early"
        earlier = self.ticks[composed].setdefault(tick_ms, [])
        if earlier:
            self.repeats += 1
            done = self.done_at.get((composed, tick_ms))
            if earlier[-1][1] != replica.name:
                assert done is None or done > replica.taken_at, f"{where}: was done before it took over"
        else:
            self._lateness(replica, composed, tick_ms)
        earlier.append((self.loop.time(), replica.name))

    def _lateness(self, replica: Replica, composed: bytes, tick_ms: int) -> None:
        """Of a tick that fell into a time in which its job stayed where it was."""
        late_ms = replica.wall_ms() - tick_ms
        self.first_late_ms.append(late_ms)
        name, since_s = self.owner_since.get(composed, ("", 0.0))
        due_s = self.loop.time() - late_ms / 1000
        if name != replica.name or due_s - since_s < 0.1 or self.loop.time() < replica.disturbed_s + 3:
            return
        if self.caught_up.get(composed) == (name, since_s):  # the one before was on time
            self.late_ms.append((late_ms, composed, f"{replica.name} at {self.now_ms() - START_MS}"))
        elif late_ms <= LATE_MS_MAX:
            self.caught_up[composed] = (name, since_s)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.check_owners()
            for lease, end_s in list(self.lease_ends_s.items()):
                if end_s < self.loop.time():
                    del self.lease_ends_s[lease]
                    self.etcd.revoke(lease)

    def check_owners(self) -> None:
        for composed in self.jobs:
            owners = [one.name for one in self.replicas.values() if one.inside_fence() and one.owns(composed)]
            assert len(owners) <= 1, f"{composed.decode()} is owned by {owners} at {self.now_ms() - START_MS}"
            known = self.owner_since.get(composed)
            if not owners:
                self.owner_since.pop(composed, None)
            elif known is None or known[0] != owners[0]:
                self.owner_since[composed] = (owners[0], self.loop.time())

    def settled(self) -> bool:
        """All agree, and every job has an owner."""
        whole = len(self.replicas)
        partitions = [one.service.leadership.partition for one in self.replicas.values()]
        return all(one is not None and one.total == whole for one in partitions) and all(one in self.owner_since for one in self.jobs)

    async def settle(self, seconds: float = 40.0) -> float:
        """Waits until all agree; for how long, in seconds."""
        begin_s = self.loop.time()
        while not self.settled():
            assert self._looking.done() is False, self._looking.exception()
            assert self.loop.time() - begin_s < seconds, "no agreement:\n" + "\n".join(self.trace[-60:])
            await asyncio.sleep(LOOK_S)
        await asyncio.sleep(LOOK_S)  # what is known of owners is as old as the last look
        return self.loop.time() - begin_s

    async def rest(self, seconds: float) -> None:
        end_s = self.loop.time() + seconds
        while self.loop.time() < end_s:
            if self._looking.done():
                self._looking.result()
            await asyncio.sleep(min(0.05, end_s - self.loop.time()))

    def _up_to_date(self) -> bool:
        latest_ms = min(one.wall_ms() for one in self.replicas.values())
        return all(max(self.ticks[composed], default=0) >= latest_ms - 1_100 for composed in self.jobs)

    async def end(self) -> None:
        """Everybody is there; what was owed is delivered; then each tick must have been."""
        for name in list(self.replicas):
            if self.replicas[name].cut_s is not None:
                self.heal(name)
        if not self.replicas:
            await self.join("z")
        await self.rest(1.5)
        await self.settle()
        self.answers_s = [0.0]
        end_s = self.loop.time() + 30
        while not self._up_to_date() and self.loop.time() < end_s:
            await self.rest(0.5)
        latest_ms = min(one.wall_ms() for one in self.replicas.values())
        for composed in self.jobs:
            ticks = sorted(self.ticks[composed])
            begin = START_MS + 1_000 + self.jobs.index(composed) * 37
            assert ticks == [begin + 1_000 * number for number in range(len(ticks))], f"{composed.decode()}: a tick was skipped"
            assert ticks[-1] >= latest_ms - 1_100, f"{composed.decode()}: nobody fires it"
            _, counted, last, _ = _jobs.decode_counter(self.etcd.keys[COUNTERS + composed].value)
            assert last is not None
            assert last[0] * 1000 + last[1] // 1_000_000 == begin + 1_000 * (counted - 1)
        late = [one for one in self.late_ms if one[0] > LATE_MS_MAX]
        assert not late, late[:5]
        assert len([lease for lease in self.etcd.leases if self.etcd.leases[lease]]) == len(self.replicas)
        for name in list(self.replicas):
            await self.leave(name)
        self._looking.cancel()
        assert not [key for key in self.etcd.keys if key.startswith(LEADERSHIP) and key.removeprefix(LEADERSHIP).decode() not in self.lost]


def play(seed: int, story: Callable[[Cluster], Coroutine[Any, Any, None]]) -> Cluster:
    """One cluster on one virtual clock; what a broken promise is told with is the end of the trace."""
    loop = VirtualLoop()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    try:
        cluster = Cluster(loop, seed)

        async def run() -> None:
            await story(cluster)
            await cluster.end()

        loop.run_until_complete(run())
        for context in errors:
            raise context.get("exception") or AssertionError(context)
    except AssertionError as error:
        error.add_note("\n".join(cluster.trace[-40:]))
        raise
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    return cluster
