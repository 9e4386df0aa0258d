"""Whether a replica delivers: the rules on instants alone, and the service that tells them."""

from collections.abc import Callable

import pytest
from test_scheduler_service import KEY, Site, rest, started

from raftsched.errors import EtcdError
from raftsched.limits import CANARY_MS, STUCK_MS
from raftsched.scheduler.bridge.embedded import EmbeddedKv
from raftsched.scheduler.engine._engine import LATENESS_BOUNDS_MS
from raftsched.scheduler.jobs.names import JOBS
from raftsched.scheduler.standstill import PARTS, Standstill
from raftsched.testing.lone_node import LoneNode
from raftsched.testing.memory_etcd import MemoryKv
from raftsched.testing.scheduling import result

T = 50_000
STEPS = STUCK_MS // CANARY_MS + 2
FENCE = "this replica may not trigger: neither a majority nor the leadership lease has let it go on"


def look(one: Standstill, mono_ms: int, store: str = "", unsent_ms: int = 0) -> dict[str, str]:
    return one.look(mono_ms, obstacle=("wheel", "the obstacle"), store=store, unsent_ms=unsent_ms)


def test_who_has_not_shown_that_it_delivers_does_not() -> None:
    one = Standstill((10, 100))
    assert look(one, 0) == {"wheel": "the obstacle"}
    one.canary_back(10)
    assert look(one, 10) == {}


def test_canaries_and_triggers_are_both_a_proof() -> None:
    one = Standstill((10, 100))
    one.canary_back(T)
    assert look(one, T + STUCK_MS - 1) == {}
    assert look(one, T + STUCK_MS) == {"wheel": "the obstacle"}
    one.sent(T + STUCK_MS)  # a tick of a million jobs: canaries wait behind them
    assert look(one, T + 2 * STUCK_MS - 1) == {}
    assert look(one, T + 2 * STUCK_MS) == {"wheel": "the obstacle"}
    one.canary_back(T + 2 * STUCK_MS)
    assert look(one, T + 2 * STUCK_MS) == {}


def test_results_that_wait_for_the_store() -> None:
    one = Standstill((10, 100))
    one.commit_begun("a", T)
    one.commit_begun("a", T + 2_000)  # sent again
    one.commit_begun("b", T + 1_000)
    assert one.oldest_commit_ms(T + 10) == 10
    one.canary_back(T + STUCK_MS)
    assert look(one, T + STUCK_MS - 1) == {}
    assert look(one, T + STUCK_MS) == {"commit": "results of triggers have been on their way to the store for 3.0 s"}
    one.commit_ended("a")
    assert look(one, T + STUCK_MS) == {}
    one.commit_ended("b")
    assert one.oldest_commit_ms(T + 99_999) == 0


def test_a_line_that_moves_is_no_standstill() -> None:
    one = Standstill((10, 100))
    one.canary_back(T)
    one.sent(T - 1)
    assert look(one, T + 1, unsent_ms=60_000) == {}
    one.canary_back(T + STUCK_MS)
    assert look(one, T + STUCK_MS, unsent_ms=STUCK_MS - 1) == {}
    assert look(one, T + STUCK_MS, unsent_ms=STUCK_MS) == {"delivery": "a trigger has been in the line of a worker that reads for 3.0 s"}


def test_each_part_is_told_once_and_the_store_first() -> None:
    one = Standstill((10, 100))
    one.commit_begun("a", 0)
    found = one.look(T, obstacle=("store", "no majority"), store="a write waits", unsent_ms=0)
    assert list(found) == ["store", "commit"]
    assert found["store"] == "a write waits; no majority"
    assert set(found) <= set(PARTS)


def test_the_lateness_of_canaries() -> None:
    one = Standstill((10, 100))
    for late_ms in (-5, 0, 9, 10, 99, 100, 5_000):
        one.canary_due(T)
        one.canary_back(T + late_ms)
    assert (one.canary_counts, one.canary_sum_ms) == ([3, 2, 2], 5_218)


class Node:
    """As far as the bridge asks for what waits."""

    def __init__(self, since_ms: int, leader_id: int) -> None:
        self.mvcc = LoneNode().mvcc
        self.leader_id = leader_id
        self.waiting_since_ms = lambda: since_ms


@pytest.mark.parametrize(
    ("since_ms", "leader_id", "told"),
    [
        (0, 0, ""),
        (T - STUCK_MS + 1, 1, ""),
        (T - STUCK_MS, 1, "a write has waited for its answer for 3.0 s"),
        (T - STUCK_MS, 0, "a write has waited for its answer for 3.0 s, and no leader is known"),
    ],
)
async def test_writes_without_an_answer(since_ms: int, leader_id: int, told: str) -> None:
    assert EmbeddedKv(Node(since_ms, leader_id)).stuck(T) == told  # type: ignore[arg-type]


async def pass_time(site: Site, steps: int = STEPS) -> None:
    for _ in range(steps):
        await site.move(CANARY_MS)


async def test_an_idle_replica_shows_that_it_delivers() -> None:
    site = Site()
    async with started(site):
        assert site.service.stuck() == {"wheel": "what is due does not leave the timing wheel"}, "nothing has come back yet"
        await site.move(CANARY_MS + 7)
        assert site.service.stuck() == {}
        for _ in range(20):
            await site.move(CANARY_MS)
            assert site.service.stuck() == {}
        counts, sum_ms = site.service.stats()["canary"]
        assert (sum(counts), sum_ms, counts[LATENESS_BOUNDS_MS.index(10)]) == (21, 7, 1)
        figures = site.service.stats()
        assert (figures["streams"], figures["routes"], figures["queued"], figures["jobs"]) == (0, 0, 0, 0)
        assert list(site.kv.etcd.keys) == [KEY], "nothing is stored for a canary"
        assert site.service.engine.fired_total == 0
    assert site.service.stuck() == {"server": "this replica gives its jobs to the others"}


async def test_a_canary_outlives_a_reload() -> None:
    site = Site()
    async with started(site):
        await pass_time(site, 2)
        site.service.on_reset()
        await rest()
        await pass_time(site)
        assert site.service.stuck() == {}


def fence(site: Site) -> Callable[[], None]:
    before = site.kv.fence
    site.kv.fence = 0

    def mend() -> None:
        site.kv.fence = before

    return mend


def clock(site: Site) -> Callable[[], None]:
    ahead_ms = -3_600_000
    wall = site.service._wall_ns
    site.service._wall_ns = lambda: wall() + ahead_ms * 1_000_000

    def mend() -> None:
        nonlocal ahead_ms
        ahead_ms = 0

    return mend


def store(site: Site) -> Callable[[], None]:
    site.kv.stuck = lambda mono_ms: "a write waits"  # type: ignore[method-assign]

    def mend() -> None:
        del site.kv.stuck

    return mend


@pytest.mark.parametrize(
    ("stall", "part", "why"),
    [
        (fence, "store", FENCE),
        (clock, "wheel", "the clock was set back: time stands still for 359"),
        (store, "store", "a write waits"),
    ],
)
async def test_what_stands_in_the_way_is_named(stall: Callable[[Site], Callable[[], None]], part: str, why: str) -> None:
    site = Site()
    async with started(site):
        await pass_time(site)
        assert site.service.stuck() == {}
        mend = stall(site)
        await pass_time(site)
        [(found, text)] = site.service.stuck().items()
        assert (found, text[: len(why)]) == (part, why)
        mend()
        await pass_time(site)
        assert site.service.stuck() == {}


async def test_results_that_are_refused_and_stored_at_last() -> None:
    site = Site()
    async with started(site):
        worker = site.connect()
        name = site.put("a", site.ms)
        await site.move(1)
        assert worker.stream is not None
        site.kv.fail_next = [EtcdError.NO_SPACE] * 1_000
        site.service.on_acks(worker.stream, [result(1)])
        await pass_time(site)
        site.service._retry_refused()
        [(part, why)] = site.service.stuck().items()
        assert part == "commit"
        assert why.endswith("; results of triggers are refused: etcdserver: mvcc: database space exceeded")
        site.kv.fail_next.clear()
        site.service._retry_refused()
        await pass_time(site)
        assert site.service.stuck() == {}
        assert JOBS + name not in site.kv.etcd.keys


async def test_results_that_are_not_answered() -> None:
    site = Site(MemoryKv())
    async with started(site):
        worker = site.connect()
        site.put("a", site.ms)
        await site.move(1)
        assert worker.stream is not None
        site.kv.held = True
        site.service.on_acks(worker.stream, [result(1)])
        await pass_time(site, STEPS - 3)
        assert site.service.stuck() == {}
        await pass_time(site, 3)
        assert list(site.service.stuck()) == ["commit"], "canaries go on"
        site.kv.held = False
        site.kv.deliver()
        assert site.service.stuck() == {}


async def test_workers_that_do_not_read_are_not_this_replicas_fault() -> None:
    site = Site(MemoryKv())
    async with started(site):
        worker = site.connect()
        worker.room = 1
        for number in range(3):
            site.put(f"job-{number}", site.ms)
        await pass_time(site)
        assert len(worker.got) == 1
        assert site.service.stuck() == {}


async def test_a_line_that_nobody_works_off_is() -> None:
    """A worker has room, and the engine does not know it: no turn would ever come back to it."""
    site = Site()
    async with started(site):
        worker = site.connect()
        worker.room = 1
        for number in range(3):
            site.put(f"job-{number}", site.ms)
        await site.move(1)
        assert worker.stream is not None
        worker.stream.writable = True
        await pass_time(site)
        assert list(site.service.stuck()) == ["delivery"]
        site.service.stream_writable(worker.stream)
        worker.room = None
        await pass_time(site, 1)
        assert site.service.stuck() == {}
