"""The native writer and reader of bbolt files against the slow twin, over random trees."""

import os
import tempfile
from functools import cache
from pathlib import Path

import bolt_twin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftsched.store._records import Generation
from raftsched.store.backend._lmdb import BUCKETS, Backend
from raftsched.store.bolt._bolt import BoltFile, RecordReader

SIZES = st.one_of(st.integers(0, 60), st.integers(1_000, 5_000), st.integers(8_000, 70_000))
SMALL = st.dictionaries(st.binary(min_size=1, max_size=200), SIZES, max_size=40)
SIDES = tuple(name for name in BUCKETS if name != "key")
RUNS = st.lists(st.tuples(st.integers(1, 400), SIZES), max_size=8)
MEMORY = next((path for path in ("/dev/shm",) if os.access(path, os.W_OK)), None)  # what is synced here, a disk need not see
SLOW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@cache
def pattern(salt: int) -> bytes:
    return bytes((salt + at * 7) & 0xFF for at in range(251))


def value_of(size: int, salt: int) -> bytes:
    return pattern(salt)[:size] * (size // 251 + 1)


def revision(main: int, sub: int, tombstone: bool) -> bytes:
    return main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big") + (b"t" if tombstone else b"")


def export(backend: Backend, path: Path, sides: list[tuple[str, bytes, bytes | None]]) -> bytes:
    with path.open("w+b") as file:
        number = backend.start_export(file.fileno(), lambda _found: sides, 0)
        assert backend.wait_bulk(20_000)
        ((ended, size, problem),) = backend.bulk_completed()
        assert (ended, problem) == (number, "")
        data = file.read()
        assert len(data) == size
        return data


@SLOW
@given(
    runs=RUNS, small=st.fixed_dictionaries(dict.fromkeys(SIDES, SMALL)), told=st.dictionaries(st.sampled_from(SIDES), SMALL), data=st.data()
)
def test_what_lmdb_holds_is_what_the_slow_reader_finds(runs, small, told, data) -> None:  # type: ignore[no-untyped-def]
    """All pairs, with the sides in place of what has their keys."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        backend, made, main = Backend(f"{name}/db"), Generation(), 1
        wanted: dict[bytes, dict[bytes, bytes]] = {one.encode(): {} for one in BUCKETS}
        for count, size in runs:
            for sub in range(count):
                main += sub % 3 == 0
                place = (main, sub % 3, sub % 5 == 4)
                made.add(*place, value_of(size, sub))
                wanted[b"key"][revision(*place)] = value_of(size, sub)
        made.freeze()
        stored = [(bucket, key, value_of(size, 1)) for bucket, pairs in small.items() for key, size in pairs.items()]
        backend.commit(made, [], stored, 7, 3)
        assert backend.wait(20_000)
        backend.completed()
        sides: list[tuple[str, bytes, bytes | None]] = []
        for bucket, pairs in told.items():
            for key, size in pairs.items():
                sides.append((bucket, key, None if size % 3 == 0 else value_of(size, 2)))
            sides += [(bucket, key, data.draw(st.sampled_from([None, b"other"]))) for key in list(small[bucket])[:3] if key not in pairs]
        for bucket, key, value in stored:
            wanted[bucket.encode()][key] = value
        wanted[b"meta"] |= {b"consistent_index": (7).to_bytes(8, "big"), b"term": (3).to_bytes(8, "big")}
        for bucket, key, value in sides:
            wanted[bucket.encode()].pop(key, None)
            if value is not None:
                wanted[bucket.encode()][key] = value
        found = bolt_twin.read(export(backend, Path(name) / "file", sides))
        backend.close()
        assert {bucket: dict(pairs) for bucket, pairs in found.items()} == wanted


@SLOW
@given(
    page_bytes=st.sampled_from([1024, 4096, 16384]),
    small=st.dictionaries(st.sampled_from(SIDES), SMALL, min_size=1),
    records=st.lists(SIZES, max_size=300),
    free=st.integers(0, 40),
    txid=st.integers(2, 9),
)
def test_what_the_slow_writer_makes_is_read(
    page_bytes: int, small: dict[str, dict[bytes, int]], records: list[int], free: int, txid: int
) -> None:
    """With branch pages, overflow, inline buckets, a stored list of free pages, other page sizes, and either meta page the newer."""
    buckets = {name.encode(): sorted((key, value_of(size, 5)) for key, size in pairs.items()) for name, pairs in small.items()}
    places = [(main, main % 2, main % 7 == 0) for main in range(2, len(records) + 2)]
    buckets[b"key"] = [(revision(*place), value_of(size, 9)) for place, size in zip(places, records, strict=True)]
    made = bolt_twin.Writer(page_bytes).finish(buckets, inline=frozenset(buckets), free=free, txid=txid)
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        path = Path(name) / "db"
        path.write_bytes(made)
        bolt = BoltFile(str(path))
        assert (bolt.page_bytes, bolt.txid, bolt.size_bytes) == (page_bytes, txid, len(made))
        assert bolt.buckets == sorted(one.decode() for one in buckets)
        for bucket, pairs in buckets.items():
            assert bolt.items(bucket.decode()) == pairs
        assert bolt.items("nothing") == []
        reader, more, found = RecordReader(bolt), True, []
        while more:
            generation = Generation()
            more = reader.fill(generation, 4096)
            found += generation.items()
        assert [(main, sub, tombstone, value) for main, sub, tombstone, value in found] == [
            (*place, value_of(size, 9)) for place, size in zip(places, records, strict=True)
        ]
        assert bolt.digest()[3] == sum(map(len, buckets.values()))
