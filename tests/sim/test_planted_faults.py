"""The simulator's own proof: each of these bugs, put in on purpose, is seen within the stated number of seeds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.scheduler.bridge.embedded import EmbeddedKv
from raftsched.scheduler.delivery import gates
from raftsched.scheduler.delivery.gates import Limit
from raftsched.scheduler.engine.clock import TickClock
from raftsched.scheduler.service import SchedulerService
from raftsched.store.lease import Lessor
from raftsched.store.wal import recovery
from raftsched.store.watch.hub import WatchHub
from raftsched.testing.sim.backend import SimBackend
from raftsched.testing.sim.log import SimLog
from raftsched.testing.sim.options import Options
from raftsched.testing.sim.world import simulate
from raftsched.types import HardState

Patch = pytest.MonkeyPatch
CRASHES = Options(faults=("kill", "power"), fault_every_s=0.7, duration_s=8.0, clients=3, keys=3, think_s=0.02, planners=1, watches=1)
SLOW = Options(faults=("power", "slow"), fault_every_s=0.5, duration_s=8.0, clients=4, keys=3, think_s=0.02)
CALM = Options(faults=("slow",), fault_every_s=2.0, duration_s=8.0, clients=2, think_s=0.05, planners=2, plan_s=0.1, work_s=0.1, watches=3)

CUTS = Options(members=3, faults=("cut", "one-way", "heal"), fault_every_s=1.0, duration_s=8.0, clients=6, keys=2, think_s=0.01, planners=0)
FENCES = Options(
    members=3, faults=("cut", "heal"), fault_every_s=3.0, duration_s=20.0, clients=1, planners=2, plan_s=0.1, apps=1, watches=0
)
GATED = Options(
    members=3,
    faults=("stop",),
    fault_every_s=4.0,
    duration_s=8.0,
    clients=1,
    planners=3,
    plan_s=0.1,
    work_s=0.3,
    watches=0,
    gates=(Limit("cat", None, 4), Limit("cat", "red", 2)),
    late_apps_s=3.0,
)
VOTES = Options(
    members=3,
    faults=("kill", "weather", "cut"),
    fault_every_s=0.05,
    duration_s=20.0,
    clients=1,
    keys=1,
    think_s=0.2,
    planners=0,
    watches=0,
    apps=0,
    node={"election_ms_min": 160, "election_ms_max": 210, "election_retry_ms_max": 50},
)


def index_beside_the_data(patch: Patch) -> None:
    """Two transactions: first the applied index, the data some milliseconds later."""

    def store(self: SimBackend, commit: Any) -> None:
        self._database.take_index(commit)
        self._loop.call_later(0.05, self._database.take_data, commit)

    patch.setattr(SimBackend, "_store", store)


def answers_before_the_sync(patch: Patch) -> None:
    """A log that says durable when it has only written."""
    write = SimLog._write

    def written(self: SimLog, batch: Any) -> None:
        write(self, batch)
        self._durable = batch.number
        self._loop.set_readable(self.fd)

    patch.setattr(SimLog, "_write", written)


def leases_end_early(patch: Patch) -> None:
    """A keep-alive is answered and moves nothing."""

    def renew(self: Lessor, lease: int, mono_ms: int) -> int:
        found = self._leases.get(lease)
        return found.ttl_s if found is not None and self.primary else 0

    patch.setattr(Lessor, "renew", renew)


def results_without_a_guard(patch: Patch) -> None:
    """A result is stored although its job was replaced or removed meanwhile."""
    packed = EmbeddedKv.txn_packed

    def unguarded(self: EmbeddedKv, request: bytes, count: int, done: Callable[[int, int, bytes], None]) -> None:
        message = pb.TxnRequest.FromString(request)
        for operation in message.success:
            del operation.request_txn.compare[:]
        packed(self, message.SerializeToString(), count, done)

    patch.setattr(EmbeddedKv, "txn_packed", unguarded)


def fires_early(patch: Patch) -> None:
    """The clock that the wheel is given is ahead of the wall."""
    read = TickClock.read
    patch.setattr(TickClock, "read", lambda self, wall_ns, mono_ns: read(self, wall_ns, mono_ns) + 3_000_000)


def hears_late_of_a_delete(patch: Patch) -> None:
    """The engine is told of changes a while after they were applied."""
    told = SchedulerService.on_changes

    def later(self: SchedulerService, changes: Sequence[Any], revision: int) -> None:
        assert self._loop is not None
        self._loop.call_later(0.02, told, self, changes, revision)

    patch.setattr(SchedulerService, "on_changes", later)


def watch_leaves_one_out(patch: Patch) -> None:
    """Who had no room goes on one revision too late."""
    unsync = WatchHub._unsync
    patch.setattr(WatchHub, "_unsync", lambda self, watcher, following: unsync(self, watcher, following + 1))


def delivers_a_watch_twice(patch: Patch) -> None:
    """Who had no room goes on one revision too early."""
    unsync = WatchHub._unsync
    patch.setattr(WatchHub, "_unsync", lambda self, watcher, following: unsync(self, watcher, following - 1))


def forgets_a_tick(patch: Patch) -> None:
    """Every tenth result is thrown away: the job waits for ever."""
    acks = SchedulerService.on_acks
    count = [0]

    def some(self: SchedulerService, stream: Any, messages: Sequence[bytes]) -> None:
        count[0] += 1
        if count[0] % 10:
            acks(self, stream, messages)

    patch.setattr(SchedulerService, "on_acks", some)


def triggers_behind_the_fence(patch: Patch) -> None:
    """Who was cut off goes on triggering for ever."""
    patch.setattr(EmbeddedKv, "fence_ms", lambda self: 1 << 62)


def forgets_its_vote(patch: Patch) -> None:
    """A restart finds the log, but neither term nor vote: two leaders in a term, or a log whose terms fall."""
    recover = recovery.recover

    def forgetful(disk: Any, *, after_index: int) -> Any:
        found = recover(disk, after_index=after_index)
        term = max(found.terms, default=found.base_term)
        commit = found.hard_state.commit if found.hard_state else 0
        return replace(found, hard_state=HardState(term, 0, commit))

    patch.setattr(recovery, "recover", forgetful)


def shares_are_whole(patch: Patch) -> None:
    """Each replica lets through what all of them may."""
    patch.setattr(gates, "share_of", lambda limit, index, total: limit)


def gates_stand_open(patch: Patch) -> None:
    """Who should wait for a slot goes."""
    patch.setattr(gates.Gates, "_has_room", lambda self, key: True)


PLANTED: list[tuple[Callable[[Patch], None], Options, int, str]] = [
    (index_beside_the_data, CRASHES, 12, ""),
    (answers_before_the_sync, SLOW, 12, ""),
    (leases_end_early, CALM, 6, "lease safety"),
    (results_without_a_guard, CALM, 12, "guarded results"),
    (fires_early, CALM, 3, "none early"),
    (hears_late_of_a_delete, CALM, 12, ""),
    (watch_leaves_one_out, CALM, 6, "watch order"),
    (delivers_a_watch_twice, CALM, 6, "watch order"),
    (forgets_a_tick, CALM, 8, "none lost"),
    (triggers_behind_the_fence, FENCES, 10, "fenced"),
    (forgets_its_vote, VOTES, 8, ""),
    (shares_are_whole, GATED, 4, "gates"),
    (gates_stand_open, GATED, 4, "gates"),
]


@pytest.mark.parametrize(("plant", "options", "seeds", "promise"), PLANTED, ids=[plant.__name__ for plant, *_ in PLANTED])
def test_planted_fault_is_seen(plant: Callable[[Patch], None], options: Options, seeds: int, promise: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    for seed in range(seeds):
        report = simulate(f"planted-{seed}", options=options)
        if report.error:
            assert promise in report.error
            print(f"seed {seed}: {report.error[:200]}")
            return
    pytest.fail(f"not seen in {seeds} seeds: {plant.__doc__}")


@pytest.mark.parametrize(
    "options", [CRASHES, SLOW, CALM, CUTS, FENCES, VOTES, GATED], ids=["crashes", "slow", "calm", "cuts", "fences", "votes", "gated"]
)
def test_nothing_is_seen_without_one(options: Options) -> None:
    for seed in range(2):
        report = simulate(f"planted-{seed}", options=options)
        assert not report.error
