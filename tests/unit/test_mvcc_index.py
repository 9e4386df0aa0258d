"""The key index at sizes where it splits, merges, doubles and sorts: thousands of awkward keys against a sorted list."""

import random
from bisect import bisect_left

import pytest

from raftsched.pb.etcd import rpc_pb2 as R
from raftsched.store._records import MemoryRecords
from raftsched.store.mvcc._store import MvccStore

ALL = R.RangeRequest(key=b"\0", range_end=b"\0", keys_only=True).SerializeToString()


class NoLeases:
    def exists(self, lease: int) -> bool:
        return False

    def attach(self, lease: int, key: bytes) -> None:
        raise AssertionError

    def detach(self, lease: int, key: bytes) -> None:
        raise AssertionError


def new_store(source: MemoryRecords | None = None, seed: int = 3) -> MvccStore:
    return MvccStore(source or MemoryRecords(), NoLeases(), hash_seed=seed)


def put(store: MvccStore, key: bytes, value: bytes = b"") -> None:
    assert store.put(R.PutRequest(key=key, value=value).SerializeToString())[0] == 0


def delete(store: MvccStore, key: bytes, end: bytes = b"") -> int:
    _, _, body = store.delete_range(R.DeleteRangeRequest(key=key, range_end=end).SerializeToString())
    return R.DeleteRangeResponse.FromString(body).deleted


def keys_in(store: MvccStore, request: bytes = ALL) -> list[bytes]:
    error, _, body = store.range(request)
    assert error == 0
    return [kv.key for kv in R.RangeResponse.FromString(body).kvs]


def sequential(count: int) -> list[bytes]:
    return [b"dapr/jobs/app||default||billing||invoice-%08d" % number for number in range(count)]


def shuffled(keys: list[bytes]) -> list[bytes]:
    return random.Random(1).sample(keys, len(keys))


def zeros(count: int) -> list[bytes]:
    """Keys that agree up to trailing zeros, across the 8-byte words of the sort."""
    chance = random.Random(2)
    made = {b"p" * chance.randrange(20) + b"\0" * chance.randrange(20) + chance.choice([b"", b"x", b"\xff"]) for _ in range(count * 3)}
    return [key for key in made if key]


def wild(count: int) -> list[bytes]:
    chance = random.Random(3)
    heads = [b"", b"registry/pods/", b"registry/pods/kube-system/", b"a|b||", b"\xff" * 9, b"/" * 30, b"long" * 200]
    return list({chance.choice(heads) + chance.randbytes(chance.randrange(1, 12)) for _ in range(count)})


def one_prefix(count: int) -> list[bytes]:
    return [b"dapr/counters/actorreminder||default||%d||" % (number % 3) + b"%x" % (number * 7919) for number in range(count)]


SHAPES = {
    "ascending": sequential(9000),
    "descending": sequential(9000)[::-1],
    "shuffled": shuffled(sequential(9000)),
    "zeros": zeros(400),
    "wild": wild(9000),
    "prefixes": shuffled(one_prefix(9000)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_keys_come_in_order_inserted_or_loaded(shape: str) -> None:
    keys = SHAPES[shape]
    source = MemoryRecords()
    store = new_store(source)
    for key in keys:
        put(store, key)
    assert store.key_count == len(keys)
    assert keys_in(store) == sorted(keys)
    source.store(store.swap())
    store.release()
    loaded = new_store(source, seed=99)
    assert loaded.load() == []
    assert keys_in(loaded) == sorted(keys)
    assert loaded.revision == store.revision
    for key in keys[:200]:
        assert keys_in(loaded, R.RangeRequest(key=key).SerializeToString()) == [key]
        assert keys_in(loaded, R.RangeRequest(key=key + b"\0?").SerializeToString()) == []


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loaded", [False, True])
def test_keys_vanish_one_by_one_and_come_back(shape: str, loaded: bool) -> None:
    source = MemoryRecords()
    store = new_store(source)
    alive = sorted(SHAPES[shape])
    for key in SHAPES[shape]:
        put(store, key)
    if loaded:
        source.store(store.swap())
        store.release()
        store = new_store(source)
        store.load()
    chance = random.Random(4)
    empty = store.memory_bytes()["tree"]
    while alive:
        count = max(1, len(alive) // 3)
        at = chance.choice([0, len(alive) - count, (len(alive) - count) // 2])  # runs at either end, and in the middle
        for key in alive[at : at + count]:
            assert delete(store, key) == 1
        del alive[at : at + count]
        assert store.compact(store.revision)[0] == 0
        put(store, b"mark")  # one more revision: tombstones at the compacted one stay until the next compaction
        assert delete(store, b"mark") == 1
        store.compact(store.revision)
        while not store.scrub(500)[1]:
            pass
        assert keys_in(store) == alive
    assert store.key_count == 0
    assert store.superseded_count == 1
    assert store.memory_bytes()["tree"] < empty or len(SHAPES[shape]) < 500
    for key in SHAPES[shape]:
        put(store, key)
    assert keys_in(store) == sorted(SHAPES[shape])


def test_ranges_over_many_leaves() -> None:
    keys = sorted(SHAPES["wild"])
    store = new_store()
    for key in SHAPES["wild"]:
        put(store, key)
    chance = random.Random(5)
    for _ in range(300):
        start, end = chance.choice(keys), chance.choice(keys) + chance.choice([b"", b"\0"])
        request = R.RangeRequest(key=start, range_end=end, keys_only=True)
        assert keys_in(store, request.SerializeToString()) == keys[bisect_left(keys, start) : bisect_left(keys, end)]


def test_history_is_read_at_every_revision() -> None:
    store = new_store()
    seen = {}
    for number in range(400):
        if number % 17 == 16:
            delete(store, b"k")
        else:
            put(store, b"k", b"%d" % number)
        seen[store.revision] = None if number % 17 == 16 else b"%d" % number
    for revision, value in seen.items():
        _, _, body = store.range(R.RangeRequest(key=b"k", revision=revision).SerializeToString())
        kvs = R.RangeResponse.FromString(body).kvs
        assert [kv.value for kv in kvs] == ([] if value is None else [value])
    store.compact(300)
    dropped, finished = store.scrub(10)
    assert finished
    assert {main for main, _, _ in dropped} == set(range(2, 300))
    assert store.range(R.RangeRequest(key=b"k", revision=299).SerializeToString())[0] == 19
    assert store.range(R.RangeRequest(key=b"k", revision=300).SerializeToString())[0] == 0


def test_a_key_with_much_history_is_scrubbed_in_slices() -> None:
    """Also with another compaction, and more puts, between two slices."""
    store = new_store()
    for number in range(1_000):
        put(store, b"k", b"%d" % number)
    store.compact(600)
    gone: list[tuple[int, int, bool]] = []
    finished = False
    for slice_number in range(100):
        dropped, finished = store.scrub(512, records_max=100)
        assert len(dropped) <= 100
        gone += dropped
        if finished:
            break
        if slice_number == 2:
            put(store, b"k")
            store.compact(800)
    assert finished
    assert sorted(gone) == [(main, 0, False) for main in range(2, 800)]
    assert store.superseded_count == 202
    assert store.range(R.RangeRequest(key=b"k", revision=800).SerializeToString())[0] == 0


def test_bound_of_history_keeps_what_it_says() -> None:
    store = new_store()
    for number in range(20_000):
        put(store, b"%d" % (number % 10))
    assert store.superseded_count == 19_990
    revision = store.oldest_revision_keeping(5_000)
    store.compact(revision)
    while not store.scrub(3)[1]:
        pass
    assert 5_000 - 300 <= store.superseded_count <= 5_000
    assert store.oldest_revision_keeping(5_000) == revision


def test_an_entry_takes_less_than_100_bytes() -> None:
    store = new_store()
    for key in sequential(30_000):
        put(store, key)
    memory = store.memory_bytes()
    assert sum(memory[part] for part in ("entries", "table", "tree", "history")) < 100 * 30_000
