"""The LMDB backend: commits, reads, stalls, bulk jobs, and a second reader's view of the file."""

import ctypes
import os
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftsched.errors import CorruptError, FatalError
from raftsched.store._records import Generation, MemoryRecords
from raftsched.store.backend._lmdb import BUCKETS, Backend, stored_applied_index
from raftsched.store.wal._walio import crc32c

Record = tuple[int, int, bool, bytes]


def generation(*records: Record) -> Generation:
    made = Generation()
    for record in records:
        made.add(*record)
    made.freeze()
    return made


def finish(backend: Backend) -> int:
    assert backend.wait(20_000)
    applied = backend.completed()
    if not backend.committing:
        backend.renew()
    return applied


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    opened = Backend(str(tmp_path / "db.0"))
    yield opened
    opened.close()


def revision_key(main: int, sub: int, tombstone: bool) -> bytes:
    return main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big") + (b"t" if tombstone else b"")


def stored(path: str) -> dict[str, list[tuple[bytes, bytes]]]:
    """What another library reads in the file."""
    with lmdb.open(path, readonly=True, max_dbs=20) as env, env.begin() as txn:
        return {name: list(txn.cursor(db=env.open_db(name.encode(), txn=txn, create=False))) for name in BUCKETS}


def test_fresh_environment(backend: Backend) -> None:
    assert (backend.applied_index, backend.term, backend.last_revision, backend.record_count()) == (0, 0, (0, 0), 0)
    assert backend.read(1, 0) is None
    assert all(backend.bucket_items(name) == [] for name in BUCKETS)
    assert sorted(BUCKETS) == list(BUCKETS)
    assert os.stat(backend.path).st_mode & 0o777 == 0o700
    assert os.stat(backend.path + "/data.mdb").st_mode & 0o777 == 0o600


def test_commit_shows_after_renew_and_lasts(backend: Backend) -> None:
    backend.commit(generation((2, 0, False, b"v2"), (2, 1, True, b"k"), (3, 0, False, b"")), [], [("lease", b"id", b"L")], 5, 2)
    assert backend.committing
    with pytest.raises(ValueError, match="under way"):
        backend.commit(None, [], [], 6, 2)
    assert select.select([backend.fd], [], [], 20)[0]
    assert backend.completed() == 5
    assert not select.select([backend.fd], [], [], 0)[0]
    assert backend.read(2, 0) is None  # the loop's transaction is still the old one
    assert backend.bucket_get("lease", b"id") is None
    backend.renew()
    assert (backend.read(2, 0), backend.read(2, 1, True), backend.read(2, 1), backend.read(3, 0)) == (b"v2", b"k", None, b"")
    assert backend.bucket_items("lease") == [(b"id", b"L")]
    assert (backend.last_revision, backend.record_count(), backend.term) == ((3, 0), 3, 2)
    backend.close()
    assert stored(backend.path) == {
        **{name: [] for name in BUCKETS},
        "key": [(revision_key(2, 0, False), b"v2"), (revision_key(2, 1, True), b"k"), (revision_key(3, 0, False), b"")],
        "lease": [(b"id", b"L")],
        "meta": [(b"consistent_index", (5).to_bytes(8, "big")), (b"term", (2).to_bytes(8, "big"))],
    }
    assert stored_applied_index(backend.path) == 5
    again = Backend(backend.path)
    assert (again.applied_index, again.term, again.last_revision) == (5, 2, (3, 0))
    again.close()


def test_side_changes_and_deletes(backend: Backend) -> None:
    backend.commit(generation((2, 0, False, b"a"), (3, 0, False, b"b")), [], [("alarm", b"x", b""), ("members", b"1", b"{}")], 1, 1)
    finish(backend)
    # a record that is superseded before it was ever stored, one that is gone already, one that never was
    backend.commit(
        generation((4, 0, False, b"c"), (5, 0, True, b"d")),
        [(4, 0, False), (2, 0, False), (9, 9, True), (2, 0, False)],
        [("alarm", b"x", None), ("alarm", b"never", None), ("members", b"1", b"{2}")],
        2,
        1,
    )
    finish(backend)
    assert backend.bucket_items("alarm") == []
    assert backend.bucket_items("members") == [(b"1", b"{2}")]
    assert [backend.read(main, 0, main == 5) for main in range(2, 6)] == [None, b"b", None, b"d"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((Generation(), [], [], 1, 1), ValueError),
        ((None, [(1, 2)], [], 1, 1), ValueError),
        ((None, [(-1, 0, False)], [], 1, 1), OverflowError),
        ((None, [], [("nowhere", b"k", b"v")], 1, 1), KeyError),
        ((None, [], [("key", b"k", b"v")], 1, 1), ValueError),
        ((None, [], [("lease", b"", b"v")], 1, 1), ValueError),
        ((None, [], [("lease", bytes(512), b"v")], 1, 1), ValueError),
        ((None, [], [("lease", b"k", "text")], 1, 1), ValueError),
    ],
)
def test_bad_commits_are_refused_before_anything_happens(backend: Backend, arguments: tuple, error: type[Exception]) -> None:
    with pytest.raises(error):
        backend.commit(*arguments)
    assert not backend.committing
    backend.commit(None, [], [], 7, 1)
    assert finish(backend) == 7
    with pytest.raises(ValueError, match="falls from 7 to 6"):
        backend.commit(None, [], [], 6, 1)


def test_records_below_the_stored_ones_end_the_backend(backend: Backend) -> None:
    backend.commit(generation((5, 0, False, b"x")), [], [], 1, 1)
    finish(backend)
    backend.commit(generation((4, 0, False, b"y")), [], [], 2, 1)
    backend.wait(20_000)
    with pytest.raises(FatalError, match="cannot commit the database"):
        backend.completed()
    assert backend.applied_index == 1


def test_large_values(backend: Backend) -> None:
    large = random.Random(1).randbytes(40 << 20)
    backend.commit(generation((2, 0, False, large), (3, 0, False, b"small")), [], [], 1, 1)
    finish(backend)
    assert backend.read(2, 0) == large
    assert backend.read(3, 0) == b"small"


values = st.binary(max_size=40)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_same_as_the_source_in_memory(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Random generations and deletes, reopened in between: the backend holds what the twin holds."""
    path = str(tmp_path_factory.mktemp("twin") / "db.0")
    backend, twin = Backend(path), MemoryRecords()
    main = 0
    for index in range(1, data.draw(st.integers(2, 6))):
        records: list[Record] = []
        for _ in range(data.draw(st.integers(0, 8))):
            main += data.draw(st.integers(1, 3))
            records += [(main, sub, data.draw(st.booleans()), data.draw(values)) for sub in range(data.draw(st.integers(1, 3)))]
        made = generation(*records)
        known = [item[:3] for item in twin.items()] + [record[:3] for record in records]
        deletes = data.draw(st.lists(st.sampled_from(known), unique=True, max_size=5)) if known else []
        backend.commit(made, deletes, [], index, 1)
        twin.store(made)
        for place in deletes:
            twin.remove(*place)
        assert finish(backend) == index
        if data.draw(st.booleans()):
            backend.close()
            backend = Backend(path)
        assert backend.record_count() == len(twin.items())
    for item in twin.items():
        assert backend.read(*item[:3]) == item[3]
    backend.close()
    assert stored(path)["key"] == [(revision_key(*item[:3]), item[3]) for item in twin.items()]


# --------------------------------------------------------------------------------------------------------------------
# Full map, full disk
# --------------------------------------------------------------------------------------------------------------------


def test_full_map_stalls_and_loses_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "db.0")
    backend = Backend(path, map_bytes=1 << 20)
    main = 1
    while not backend.stalled:
        main += 1
        backend.commit(generation((main, 0, False, bytes([main & 255]) * 100_000)), [], [], main, 1)
        finish(backend)
        assert main < 20
    assert "MDB_MAP_FULL" in backend.stalled
    assert path in backend.stalled
    assert backend.committing
    assert backend.applied_index == main - 1
    assert backend.read(main - 1, 0) == bytes([main - 1]) * 100_000  # reads go on
    assert backend.read(main, 0) is None
    backend.retry()
    finish(backend)
    assert backend.stalled  # still full
    with pytest.raises(ValueError, match="under way"):
        backend.commit(None, [], [], main, 1)
    backend.close()
    backend = Backend(path, map_bytes=1 << 22)  # what a restart with a larger map finds
    assert backend.applied_index == main - 1
    backend.commit(generation((main, 0, False, b"again")), [], [], main, 1)
    assert finish(backend) == main
    with pytest.raises(ValueError, match="no stalled commit"):
        backend.retry()
    backend.close()


def test_full_disk_stalls_until_space_returns(tmp_path: Path) -> None:
    where = tmp_path / "small"
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(where)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        backend = Backend(str(where / "db.0"))
        (where / "other").write_bytes(bytes(2 << 20))
        main = 1
        while not backend.stalled:
            main += 1
            backend.commit(generation((main, 0, False, bytes([main & 255]) * 100_000)), [], [], main, 1)
            finish(backend)
            assert main < 60
        assert "No space left" in backend.stalled
        assert backend.applied_index == main - 1
        (where / "other").unlink()
        backend.retry()
        assert finish(backend) == main
        assert not backend.stalled
        assert [backend.read(n, 0) for n in range(2, main + 1)] == [bytes([n]) * 100_000 for n in range(2, main + 1)]
        backend.close()
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


# --------------------------------------------------------------------------------------------------------------------
# Damage
# --------------------------------------------------------------------------------------------------------------------


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "db.0"
    backend = Backend(str(path))
    backend.commit(generation(*((main, 0, False, bytes(3000)) for main in range(2, 200))), [], [], 1, 1)
    finish(backend)
    backend.close()
    data = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptError, match="cannot read the database"):
        Backend(str(path))
    (path / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(CorruptError, match="cannot open the database"):
        Backend(str(path))
    with pytest.raises(FatalError, match="no database in"):
        Backend(str(tmp_path / "db.7"), create=False)
    with pytest.raises(FatalError, match="cannot create"):
        Backend(str(tmp_path / "a" / "b"))


def test_closed_backend_answers_in_words(tmp_path: Path) -> None:
    backend = Backend(str(tmp_path / "db.0"))
    backend.close()
    backend.close()
    for call in (
        backend.renew,
        backend.record_count,
        backend.start_hash,
        lambda: backend.bucket_items("meta"),
        lambda: backend.last_revision,
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    with pytest.raises(OSError, match="cannot be read"):
        backend.read(1, 0)


KILLED = """
import sys
from raftsched.store._records import Generation
from raftsched.store.backend._lmdb import Backend
backend = Backend(sys.argv[1])
main = backend.applied_index
while True:
    made = Generation()
    main += 1
    for sub in range(50):
        made.add(main, sub, False, b"%d.%d" % (main, sub) * 20)
    made.freeze()
    backend.commit(made, [(max(0, main - 9), sub, False) for sub in range(50)], [], main, 1)
    assert backend.wait(20000)
    print(backend.completed(), flush=True)
    backend.renew()
"""


def test_killed_again_and_again_data_and_applied_index_agree(tmp_path: Path) -> None:
    path = str(tmp_path / "db.0")
    for round_number in range(6):
        with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(10 + 13 * round_number):
                acknowledged = int(child.stdout.readline())
            child.kill()
            rest = child.stdout.read().split(b"\n")[:-1]
            acknowledged = int(rest[-1]) if rest else acknowledged
        backend = Backend(path)
        applied = backend.applied_index
        assert applied >= acknowledged
        assert backend.last_revision == (applied, 49)
        for main in range(max(1, applied - 8), applied + 1):
            for sub in range(50):
                assert backend.read(main, sub) == b"%d.%d" % (main, sub) * 20
        assert backend.record_count() == 50 * min(applied, 9)
        backend.close()


# --------------------------------------------------------------------------------------------------------------------
# Bulk jobs
# --------------------------------------------------------------------------------------------------------------------


def bulk(backend: Backend, number: int) -> int:
    assert backend.wait_bulk(20_000)
    ((job, result, error),) = backend.bulk_completed()
    assert (job, error) == (number, "")
    return result


def filled(backend: Backend) -> None:
    records = [(main, sub, (main + sub) % 5 == 0, b"%d/%d" % (main, sub) * (main % 7)) for main in range(2, 900) for sub in range(2)]
    side = [
        ("lease", b"\0" * 7 + b"\5", b"L"),
        ("meta", b"confState", b"{}"),
        ("meta", b"storageVersion", b"3.7.0"),
        ("authUsers", b"r", b"u"),
    ]
    backend.commit(generation(*records), [], side, 77, 3)
    finish(backend)


def twin_hash(path: str) -> int:
    crc = 0
    for name, items in stored(path).items():
        crc = crc32c(name.encode(), crc)
        for key, value in items:
            if not (name == "meta" and key in {b"term", b"consistent_index", b"storageVersion"}):
                crc = crc32c(value, crc32c(key, crc))
    return crc


def test_hash_is_over_all_but_the_local_parts(backend: Backend, tmp_path: Path) -> None:
    filled(backend)
    first = bulk(backend, backend.start_hash())
    backend.commit(None, [], [("meta", b"storageVersion", b"3.6.0")], 78, 4)
    finish(backend)
    assert bulk(backend, backend.start_hash()) == first
    backend.commit(None, [], [("meta", b"confState", b"{1}")], 79, 4)
    finish(backend)
    changed = bulk(backend, backend.start_hash())
    assert changed != first
    backend.close()
    assert twin_hash(backend.path) == changed


def test_copy_and_swap(backend: Backend) -> None:
    filled(backend)
    before = bulk(backend, backend.start_hash())
    backend.commit(None, [(main, 0, False) for main in range(2, 800)] + [(main, 1, False) for main in range(2, 800)], [], 78, 3)
    finish(backend)
    backend.commit(None, [], [], 79, 3)
    finish(backend)
    backend.measure_now()
    assert backend.in_use_bytes < backend.size_bytes
    old, copy = backend.path, backend.path + ".copy"
    bulk(backend, backend.start_copy(copy))
    assert os.stat(copy).st_mode & 0o777 == 0o700
    sizes, count, last = backend.size_bytes, backend.record_count(), backend.last_revision
    backend.swap(copy)
    assert backend.path == copy
    assert backend.size_bytes < sizes
    assert backend.in_use_bytes == backend.size_bytes
    assert (backend.record_count(), backend.last_revision, backend.applied_index) == (count, last, 79)
    assert bulk(backend, backend.start_hash()) != before
    backend.commit(generation((1000, 0, False, b"after")), [], [], 80, 3)
    assert finish(backend) == 80
    assert backend.read(1000, 0) == b"after"
    assert stored_applied_index(old) == 79


def test_swap_to_a_stale_copy_is_refused(backend: Backend) -> None:
    filled(backend)
    bulk(backend, backend.start_copy(backend.path + ".copy"))
    backend.commit(generation((1000, 0, False, b"after")), [], [], 78, 3)
    finish(backend)
    with pytest.raises(ValueError, match="a commit came in between"):
        backend.swap(backend.path + ".copy")
    assert backend.read(1000, 0) == b"after"
    with pytest.raises(ValueError, match="exists"):
        backend.start_copy(backend.path + ".copy")


def test_failed_copy_tells_why(backend: Backend) -> None:
    job = backend.start_copy(backend.path + "/no/such/place")
    backend.wait_bulk(20_000)
    assert backend.bulk_completed() == [(job, 0, "No such file or directory")]


class RecordStruct(ctypes.Structure):
    _fields_ = (
        ("main", ctypes.c_uint64),
        ("sub", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
        ("value", ctypes.c_void_p),
        ("tombstone", ctypes.c_uint8),
    )


class JobStruct(ctypes.Structure):
    _fields_ = (("callback", ctypes.c_void_p), ("context", ctypes.c_void_p))


def test_scan_job_sees_every_record_of_the_range(backend: Backend) -> None:
    filled(backend)
    seen: list[Record] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(RecordStruct))
    def callback(_context: int, pointer: "ctypes._Pointer[RecordStruct]") -> int:
        record = pointer.contents
        seen.append((record.main, record.sub, bool(record.tombstone), ctypes.string_at(record.value or 0, record.length)))
        return 42 if len(seen) == 1500 else 0

    job = JobStruct(ctypes.cast(callback, ctypes.c_void_p).value, None)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    capsule = new(ctypes.addressof(job), b"raftsched.scan_job", None)
    assert bulk(backend, backend.start_scan(100, 499, capsule)) == 0
    assert seen == [(main, sub, (main + sub) % 5 == 0, b"%d/%d" % (main, sub) * (main % 7)) for main in range(100, 500) for sub in range(2)]
    seen.clear()
    assert bulk(backend, backend.start_scan(0, 2**63, capsule)) == 42
    assert len(seen) == 1500
    with pytest.raises(ValueError, match="PyCapsule"):
        backend.start_scan(0, 1, new(ctypes.addressof(job), b"another", None))


def test_too_many_bulk_jobs_are_refused(backend: Backend) -> None:
    for _ in range(64):
        backend.start_hash()
    with pytest.raises(ValueError, match="more than 64"):
        backend.start_hash()
    backend.wait_bulk(20_000)
    assert len(backend.bulk_completed()) == 64
