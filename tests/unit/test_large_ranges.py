"""Ranges that are too large for one turn: the same answer as whole, of one revision whatever comes between, and others have their turns."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from raftsched import limits
from raftsched.errors import EtcdError, FatalError
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.store._records import MemoryRecords
from raftsched.store.mvcc._store import MvccStore, RangePlan
from raftsched.store.node.figures import Figures
from raftsched.store.node.options import SystemClock
from raftsched.store.node.ranges import Ranges
from raftsched.types import Result

KEYS = 300
NO_BOUND = 1 << 40


class NoLeases:
    def exists(self, lease: int) -> bool:
        return False

    def attach(self, lease: int, key: bytes) -> None: ...
    def detach(self, lease: int, key: bytes) -> None: ...


def put(store: MvccStore, number: int, value: bytes) -> None:
    store.put(pb.PutRequest(key=b"k%05d" % number, value=value).SerializeToString())


def delete(store: MvccStore, number: int) -> None:
    store.delete_range(pb.DeleteRangeRequest(key=b"k%05d" % number).SerializeToString())


@pytest.fixture
def store() -> MvccStore:
    store = MvccStore(MemoryRecords(), NoLeases(), hash_seed=3)
    for number in range(KEYS):
        put(store, number, b"v" * (number % 40))
    for number in range(0, KEYS, 7):
        put(store, number, b"again")
    for number in range(0, KEYS, 11):
        delete(store, number)
    return store


def plan_of(store: MvccStore, request: pb.RangeRequest, *, keys: int = 3, size: int = NO_BOUND) -> RangePlan:
    results, plan = store.range_some([request.SerializeToString()], bytes_max=NO_BOUND, slice_keys=keys, slice_bytes=size)
    assert results == []
    assert plan is not None
    return plan


def disturb(store: MvccStore, chance: random.Random) -> None:
    """Writes to what was read already, and to what was not; new keys, too, and ones in between."""
    put(store, chance.randrange(KEYS), b"new" * 50)
    delete(store, chance.randrange(KEYS))
    store.put(pb.PutRequest(key=b"k%05d+" % chance.randrange(KEYS), value=b"x").SerializeToString())


REQUESTS = [
    pb.RangeRequest(key=b"k", range_end=b"l"),
    pb.RangeRequest(key=b"k00100", range_end=b"\0"),
    pb.RangeRequest(key=b"\0", range_end=b"\0", limit=17),
    pb.RangeRequest(key=b"k", range_end=b"l", limit=KEYS),
    pb.RangeRequest(key=b"k", range_end=b"l", limit=5, keys_only=True, sort_order=pb.RangeRequest.ASCEND),
    pb.RangeRequest(key=b"k", range_end=b"l", keys_only=True),
    pb.RangeRequest(key=b"k", range_end=b"l", count_only=True),
    pb.RangeRequest(key=b"k", range_end=b"l", count_only=True, limit=5),
    pb.RangeRequest(key=b"k", range_end=b"l", revision=KEYS - 50),
    pb.RangeRequest(key=b"k", range_end=b"l", revision=KEYS + 20, keys_only=True),
    pb.RangeRequest(key=b"k", range_end=b"l", serializable=True, revision=2),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: str(one).replace("\n", " "))
@pytest.mark.parametrize(("keys", "size"), [(1, NO_BOUND), (37, NO_BOUND), (10_000, 1), (10_000, 300)])
def test_slices_make_the_whole(store: MvccStore, request_: pb.RangeRequest, keys: int, size: int) -> None:
    whole = store.range(request_.SerializeToString())
    assert whole[0] == 0
    plan = plan_of(store, request_)
    chance = random.Random(keys)
    steps = 1
    while (result := plan.step(keys, size)) is None:
        disturb(store, chance)
        steps += 1
    assert result == whole
    assert plan.revision == whole[1] < store.revision or steps == 1
    sent = len(pb.RangeResponse.FromString(whole[2]).kvs)
    assert steps >= (KEYS * 0.5 // keys if keys < KEYS else min(sent, 2) if size == 1 else 1)


def test_what_is_small_or_must_be_seen_whole_is_answered(store: MvccStore) -> None:
    requests = [
        pb.RangeRequest(key=b"k00001"),
        pb.RangeRequest(key=b"k00001", range_end=b"k00004"),
        pb.RangeRequest(key=b"k", range_end=b"l", sort_order=pb.RangeRequest.DESCEND),
        pb.RangeRequest(key=b"k", range_end=b"l", sort_target=pb.RangeRequest.MOD),
        pb.RangeRequest(key=b"k", range_end=b"l", min_mod_revision=50),
        pb.RangeRequest(key=b"k", range_end=b"l", revision=10_000),
        pb.RangeRequest(key=b"l", range_end=b"k"),
    ]
    messages = [one.SerializeToString() for one in requests] + [b"\xff"]
    results, plan = store.range_some(messages, bytes_max=NO_BOUND, slice_keys=5, slice_bytes=200)
    assert plan is None
    assert results == [store.range(one) for one in messages]


def test_answers_before_a_large_one_come_first(store: MvccStore) -> None:
    small, large = pb.RangeRequest(key=b"k00001").SerializeToString(), REQUESTS[0].SerializeToString()
    results, plan = store.range_some([small, small, large, small], bytes_max=NO_BOUND, slice_keys=5, slice_bytes=NO_BOUND)
    assert results == [store.range(small)] * 2
    assert plan is not None
    results, plan = store.range_some([small, large], bytes_max=1, slice_keys=5, slice_bytes=NO_BOUND)
    assert (len(results), plan) == (1, None)


def test_large_values_are_a_large_range(store: MvccStore) -> None:
    assert plan_of(store, pb.RangeRequest(key=b"k00001", range_end=b"k00004"), keys=100, size=20).step(100, 20) is None


def test_a_compaction_of_what_is_read_ends_it(store: MvccStore) -> None:
    plan, old = plan_of(store, REQUESTS[0]), plan_of(store, REQUESTS[8])
    assert plan.step(10, NO_BOUND) is None
    assert old.step(10, NO_BOUND) is None
    assert store.compact(store.revision)[0] == 0
    assert old.step(10, NO_BOUND) == (EtcdError.COMPACTED, store.revision, b"")
    assert plan.step(10, NO_BOUND) is None  # the newest revision is kept
    put(store, 5, b"")
    assert store.compact(store.revision)[0] == 0
    assert plan.step(10, NO_BOUND) == (EtcdError.COMPACTED, store.revision, b"")


# -- on the loop -------------------------------------------------------------------------------------------------------


class Sink:
    def __init__(self) -> None:
        self.results: dict[int, Result] = {}
        self.turns: dict[int, int] = {}
        self.turn = 0

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        for token, result in zip(tokens, results, strict=True):
            assert token not in self.results
            self.results[token], self.turns[token] = result, self.turn


class Host:
    """What a node gives to its ranges. No time passes unless a test says so."""

    def __init__(self, store: MvccStore) -> None:
        self.running, self.now_ns = True, 0
        self.failed: list[Exception] = []
        clock = SystemClock()
        clock.mono_ns = self.mono_ns  # type: ignore[method-assign]
        self.ranges = Ranges(
            store,
            Figures(self.mono_ns),
            clock,
            guard=lambda call, *arguments: call(*arguments),
            is_running=lambda: self.running,
            is_guarded=lambda: False,
            fail=self.failed.append,
        )

    def mono_ns(self) -> int:
        self.now_ns += limits.LOOP_SLICE_MS * 1_000_000  # every look at the clock takes a whole slice: one step in each turn
        return self.now_ns


def on_loop(story: Any) -> None:
    asyncio.run(story())


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RANGE_SLICE_KEYS", 20)


WHOLE = REQUESTS[0].SerializeToString()
ONE = pb.RangeRequest(key=b"k00001").SerializeToString()


@pytest.mark.usefixtures("small_slices")
def test_others_have_their_turns(store: MvccStore) -> None:
    async def story() -> None:
        host, sink, written = Host(store), Sink(), 0
        expected = store.range(WHOLE)
        host.ranges.serve([ONE, WHOLE, ONE, WHOLE], [0, 1, 2, 3], sink, None)
        assert sorted(sink.results) == [0, 2]
        while not {1, 3} <= sink.results.keys():
            await asyncio.sleep(0)
            sink.turn += 1
            put(store, written, b"later")  # somebody else's turn
            host.ranges.serve([ONE], [100 + sink.turn], sink, None)
            written += 1
            assert sink.turn < 100
        assert sink.results[1] == sink.results[3] == expected
        assert 10 <= sink.turns[1] <= sink.turns[3] - 10, "one after the other, each in more than ten turns"
        assert store.revision == expected[1] + written

    on_loop(story)


@pytest.mark.usefixtures("small_slices")
def test_what_is_compacted_meanwhile_is_read_anew(store: MvccStore) -> None:
    async def story() -> None:
        host, sink = Host(store), Sink()
        host.ranges.serve([WHOLE, REQUESTS[8].SerializeToString()], [0, 1], sink, None)
        await asyncio.sleep(0)
        put(store, 1, b"later")
        assert store.compact(store.revision)[0] == 0
        for _ in range(5):
            await asyncio.sleep(0)
        assert sink.results == {0: store.range(WHOLE), 1: (EtcdError.COMPACTED, store.revision, b"")}

    on_loop(story)


@pytest.mark.usefixtures("small_slices")
def test_a_node_that_stops_answers(store: MvccStore) -> None:
    async def story() -> None:
        host, sink = Host(store), Sink()
        host.ranges.serve([WHOLE, WHOLE], [0, 1], sink, None)
        await asyncio.sleep(0)
        host.running = False
        for _ in range(3):
            await asyncio.sleep(0)
        assert sink.results == dict.fromkeys((0, 1), (EtcdError.STOPPED, store.revision, b""))

    on_loop(story)


@pytest.mark.usefixtures("small_slices")
def test_a_store_that_cannot_be_read_ends_the_node(store: MvccStore) -> None:
    class Broken(MvccStore):
        def range_some(self, *_: object, **__: object) -> Any:
            raise FatalError("unreadable")

    async def story() -> None:
        host, sink = Host(Broken(MemoryRecords(), NoLeases(), hash_seed=1)), Sink()
        host.ranges.serve([WHOLE], [0], sink, None)
        assert [str(one) for one in host.failed] == ["unreadable"]
        assert sink.results == {0: (EtcdError.STOPPED, 1, b"")}

    on_loop(story)
