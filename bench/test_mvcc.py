"""The store alone, one thread, 256-byte values, 100 000 keys in job-like names; targets in docs/performance.md.

Run: `pytest bench/test_mvcc.py --benchmark-enable`. Each round makes 2 000 calls: divide by that.
"""

import random
from collections.abc import Callable, Sequence

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from raftsched.store._records import MemoryRecords
from raftsched.store.mvcc._store import MvccStore
from raftsched.varint import varint

KEYS = 100_000
CALLS = 2_000
BRANCHES = 10_000


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def key(number: int, kind: bytes = b"jobs") -> bytes:
    return b"dapr/%s/app||default||billing||invoice-%08d" % (kind, number)


def put(name: bytes) -> bytes:
    return field(1, name) + field(2, b"x" * 256)


def compare(name: bytes, mod: int) -> bytes:
    return field(1, b"\x10\x02" + field(3, name) + b"\x30" + varint(mod))


class NoLeases:
    def exists(self, lease: int) -> bool:
        return True

    def attach(self, lease: int, key: bytes) -> None: ...

    def detach(self, lease: int, key: bytes) -> None: ...


def commit(store: MvccStore, source: MemoryRecords) -> None:
    source.store(store.swap())
    store.release()


def filled(kinds: Sequence[bytes] = (b"jobs",), keys: int = KEYS) -> tuple[MvccStore, MemoryRecords]:
    source = MemoryRecords()
    store = MvccStore(source, NoLeases(), hash_seed=11, txn_ops_max=1 << 30)
    for number in random.Random(1).sample(range(keys), keys):
        for kind in kinds:
            store.put(put(key(number, kind)))
    return store, source


@pytest.fixture(scope="module")
def pending() -> MvccStore:
    return filled()[0]


def names(count: int = CALLS, seed: int = 2) -> list[bytes]:
    return [key(number) for number in random.Random(seed).sample(range(KEYS), count)]


def each(call: Callable[[bytes], object], requests: Sequence[bytes]) -> None:
    for request in requests:
        call(request)


def test_put_over(benchmark: BenchmarkFixture, pending: MvccStore) -> None:
    benchmark(each, pending.put, [put(name) for name in names()])


def test_put_new(benchmark: BenchmarkFixture, pending: MvccStore) -> None:
    fresh = iter(range(10**9))
    benchmark.pedantic(each, setup=lambda: ((pending.put, [put(key(next(fresh), b"new")) for _ in range(CALLS)]), {}), rounds=20)


def test_range_one_pending(benchmark: BenchmarkFixture, pending: MvccStore) -> None:
    benchmark(each, pending.range, [field(1, name) for name in names()])


def test_range_one_memory_source(benchmark: BenchmarkFixture) -> None:
    store, source = filled()
    commit(store, source)
    benchmark(each, store.range, [field(1, name) for name in names()])


def test_range_many_pending(benchmark: BenchmarkFixture, pending: MvccStore) -> None:
    benchmark(pending.range_many, [field(1, name) for name in names()])


def test_txn_compare_put(benchmark: BenchmarkFixture, pending: MvccStore) -> None:
    benchmark(each, pending.txn, [compare(name, 0) + field(3, field(2, put(name))) for name in names()])


@pytest.mark.parametrize("kind", ["put", "range", "delete_range", "txn"])
def test_check(benchmark: BenchmarkFixture, pending: MvccStore, kind: str) -> None:
    requests = {
        "put": [put(name) for name in names()],
        "range": [field(1, name) for name in names()],
        "delete_range": [field(1, name) for name in names()],
        "txn": [compare(name, 0) + field(2, field(2, put(name))) for name in names()],
    }[kind]
    benchmark(each, getattr(pending, f"check_{kind}"), requests)


def branches(revisions: dict[bytes, int]) -> bytes:
    """What the engine sends when one-shots end: job and counter guarded, both deleted."""
    ops = []
    for number in range(BRANCHES):
        job, counter = key(number), key(number, b"counters")
        nested = compare(job, revisions[job]) + compare(counter, revisions[counter])
        nested += field(2, field(3, field(1, job))) + field(2, field(3, field(1, counter)))
        ops.append(field(2, field(4, nested)))
    return b"".join(ops)


def many() -> tuple[MvccStore, bytes]:
    store, _ = filled((b"jobs", b"counters"), BRANCHES)
    return store, branches({change.key: change.main for change in store.live(b"\0", b"\0", None, 4 * BRANCHES)})


def test_txn_many(benchmark: BenchmarkFixture) -> None:
    """One transaction of 10 000 nested ones, 2 compares and 2 deletes each: per branch, divide by 10 000."""
    made = []

    def setup() -> tuple[tuple[MvccStore, bytes], dict[str, object]]:
        made.append(many())
        return made[-1], {}

    benchmark.pedantic(lambda store, request: store.txn(request), setup=setup, rounds=5)
    assert made[-1][0].key_count == 0


def test_check_txn_many(benchmark: BenchmarkFixture) -> None:
    store, request = many()
    assert benchmark(store.check_txn, request) == 0


def test_load(benchmark: BenchmarkFixture) -> None:
    """The index of 100 000 keys from a source in memory (LMDB's scan is faster than this dict)."""
    store, source = filled()
    commit(store, source)
    source.items()

    def load(fresh: MvccStore) -> None:
        fresh.load()

    benchmark.pedantic(load, setup=lambda: ((MvccStore(source, NoLeases(), hash_seed=5),), {}), rounds=5)


def test_count_all(benchmark: BenchmarkFixture, pending: MvccStore) -> None:
    benchmark(pending.range, field(1, b"\0") + field(2, b"\0") + b"\x48\x01")


def test_hash_kv(benchmark: BenchmarkFixture, pending: MvccStore) -> None:
    assert benchmark(pending.hash_kv, 0)[0] == 0
