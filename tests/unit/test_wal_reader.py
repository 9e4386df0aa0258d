"""Entries out of the segments of a log that is being written: what is replaced, what is gone, what is held."""

import os
import random
from pathlib import Path

import pytest

from raftsched.errors import CorruptError
from raftsched.store.wal.disk import RealDisk
from raftsched.store.wal.format import ConfState, Metadata, SnapshotMark, decode_mark, encode_mark
from raftsched.store.wal.log import Log, open_log
from raftsched.store.wal.reader import SegmentCursor, TooOldError
from raftsched.store.wal.recovery import peek_mark
from raftsched.store.wal.segments import arrange
from raftsched.types import HardState

METADATA = Metadata(node_id=7, cluster_id=9)
BIG = 1 << 40


def make(path: Path, *, segment_bytes: int = 64 << 10, keep_segments: int = 0, keep_bytes: int = 1 << 62, after_index: int = 0) -> Log:
    return open_log(
        str(path),
        metadata=METADATA,
        segment_bytes=segment_bytes,
        zero_ahead_bytes=8 << 10,
        reserve_bytes=8 << 10,
        keep_segments=keep_segments,
        keep_bytes=keep_bytes,
        after_index=after_index,
    )[0]


def sync(log: Log, batch: int) -> None:
    assert log.wait_durable(batch, 20_000)
    log.completed()


def flat(path: Path, first: int, to_index: int, *, entries_max: int = 1000, bytes_max: int = BIG) -> dict[int, tuple[int, int, bytes]]:
    """{index: (term, kind, data)} of all chunks; checks that they are neighbours and that each names the term before it."""
    cursor = SegmentCursor(RealDisk(str(path)), first)
    found: dict[int, tuple[int, int, bytes]] = {}
    previous = None
    while chunk := cursor.read(to_index=to_index, entries_max=entries_max, bytes_max=bytes_max):
        assert previous is None or chunk.previous_term == previous
        assert sum(len(run[3]) for run in chunk.runs) <= entries_max
        for start, term, kind, datas in chunk.runs:
            for index, data in enumerate(datas, start):
                assert index == first + len(found)
                found[index] = (term, kind, data)
            previous = term
    return found


def restart(log: Log, index: int, term: int) -> None:
    mark = encode_mark(SnapshotMark(index, term, ConfState((7,)), restarts=True))
    sync(log, log.append(None, log.last_index + 1, [], [], mark=mark, restart_index=index))


def test_chunks_are_bounded_and_go_on_where_the_last_ended(tmp_path: Path) -> None:
    log = make(tmp_path)
    datas = [os.urandom(100 + index % 300) for index in range(1000)]
    for at in range(0, 1000, 7):
        part = datas[at : at + 7]
        sync(log, log.append(HardState(1, 7, at), at + 1, [1 + at // 500] * len(part), part, types=[at % 2] * len(part)))
    assert len(arrange(RealDisk(str(tmp_path)).sizes())) > 3
    for entries_max, bytes_max in ((1, BIG), (50, BIG), (1000, 700), (1000, BIG)):
        found = flat(tmp_path, 1, 1000, entries_max=entries_max, bytes_max=bytes_max)
        assert [found[index + 1][2] for index in range(1000)] == datas
    assert flat(tmp_path, 1, 1000)[8] == (1, 1, datas[7])
    assert sorted(flat(tmp_path, 990, 995)) == [990, 991, 992, 993, 994, 995]
    cursor = SegmentCursor(RealDisk(str(tmp_path)), 300)
    sizes = []
    while chunk := cursor.read(to_index=1000, entries_max=10_000, bytes_max=4000):
        sizes.append(sum(len(data) for run in chunk.runs for data in run[3]))
    assert max(sizes) <= 4000
    assert len(sizes) < 60  # the chunks are full, not cut at every mark of ours
    log.close()


def test_what_is_appended_meanwhile_is_found(tmp_path: Path) -> None:
    log = make(tmp_path)
    sync(log, log.append(None, 1, [1, 1], [b"a", b"b"]))
    cursor = SegmentCursor(RealDisk(str(tmp_path)), 1)
    chunk = cursor.read(to_index=2, entries_max=10, bytes_max=BIG)
    assert chunk is not None
    assert (chunk.previous_term, chunk.runs, chunk.first_index, chunk.last_index) == (0, [(1, 1, 0, [b"a", b"b"])], 1, 2)
    assert cursor.read(to_index=2, entries_max=10, bytes_max=BIG) is None
    for index in range(3, 400):
        sync(log, log.append(None, index, [2], [os.urandom(1000)]))
        chunk = cursor.read(to_index=index, entries_max=10, bytes_max=BIG)
        assert chunk is not None
        assert (chunk.first_index, chunk.last_index, chunk.previous_term) == (index, index, 1 if index == 3 else 2)
    assert len(arrange(RealDisk(str(tmp_path)).sizes())) > 3
    assert cursor.next_index == 400
    log.close()


def test_an_index_that_was_written_twice_counts_as_the_later(tmp_path: Path) -> None:
    """Random cuts at random places against a dictionary."""
    for seed in range(12):
        path = tmp_path / str(seed)
        path.mkdir()
        rng = random.Random(seed)
        log = make(path, segment_bytes=32 << 10)
        twin: dict[int, tuple[int, int, bytes]] = {}
        term, base = 1, 0
        for _ in range(150):
            what = rng.random()
            first = len(twin) + base + 1
            if what < 0.15 and twin:
                first, term = rng.randrange(base + 1, first), term + 1
            elif what < 0.17:
                base, term = first + rng.randrange(-2, 500), term + 1
                base = max(base, 1)
                restart(log, base, term)
                twin, first = {}, base + 1
            for index in [index for index in twin if index >= first]:
                del twin[index]
            datas = [rng.randbytes(rng.choice((0, 10, 3000))) for _ in range(rng.randrange(1, 12))]
            sync(log, log.append(None, first, [term] * len(datas), datas))
            twin |= {index: (term, 0, data) for index, data in enumerate(datas, first)}
        last = max(twin)
        if base == 0:
            assert flat(path, 1, last, entries_max=5) == twin
        else:  # the term of the entry before the first is not in the log
            with pytest.raises(TooOldError) as error:
                flat(path, base + 1, last)
            assert error.value.oldest_index == base + 1
        for _ in range(10):
            start = rng.randrange(base + 2, last + 1) if last > base + 1 else 0
            if start:
                assert flat(path, start, last, bytes_max=5000) == {index: twin[index] for index in range(start, last + 1)}
        log.close()
        log = make(path, segment_bytes=32 << 10, after_index=base)  # what a start makes of it
        assert log.last_index == last
        log.close()


def test_a_log_goes_on_behind_an_installed_snapshot(tmp_path: Path) -> None:
    log = make(tmp_path)
    sync(log, log.append(HardState(3, 7, 2), 1, [1, 3, 3], [b"a", b"b", b"c"]))
    with pytest.raises(ValueError, match="without entries"):
        log.append(None, 4, [3], [b"x"], mark=b"\x08\x01\x10\x01", restart_index=9)
    restart(log, 100, 5)
    assert log.last_index == 100
    with pytest.raises(ValueError, match="does not follow"):
        log.append(None, 102, [5], [b"gap"])
    sync(log, log.append(HardState(5, 0, 101), 101, [5, 5], [b"101", b"102"]))
    log.close()
    assert peek_mark(RealDisk(str(tmp_path))) == SnapshotMark(100, 5, ConfState((7,)), restarts=True)
    log, recovered = open_log(str(tmp_path), metadata=METADATA, after_index=100)
    assert (recovered.first_index, recovered.base_term, recovered.datas) == (101, 5, [b"101", b"102"])
    assert recovered.mark.index == 100
    log.close()
    log, recovered = open_log(str(tmp_path), metadata=METADATA, after_index=101)
    assert (recovered.base_term, recovered.datas) == (5, [b"102"])
    log.close()
    with pytest.raises(CorruptError, match="the snapshot at 100 is not in the store, which ends at 2"):
        open_log(str(tmp_path), metadata=METADATA, after_index=2)
    with pytest.raises(TooOldError, match="entry 1 is older than the oldest in the log, 101"):
        flat(tmp_path, 2, 102)
    assert flat(tmp_path, 102, 102) == {102: (5, 0, b"102")}


def test_entries_that_contradict_a_snapshot_are_gone(tmp_path: Path) -> None:
    """A tail of a deposed leader that reaches beyond the snapshot: not one of its entries may come back."""
    log = make(tmp_path)
    sync(log, log.append(HardState(6, 7, 2), 1, [1, 1] + [6] * 8, [b"%d" % index for index in range(1, 11)]))
    restart(log, 5, 4)  # entry 5 of term 6 is not that of the snapshot, whose term may even be lower
    assert log.last_index == 5
    log.close()
    log, recovered = open_log(str(tmp_path), metadata=METADATA, after_index=5)
    assert (recovered.last_index, recovered.datas, recovered.base_term) == (5, [], 4)
    sync(log, log.append(HardState(7, 0, 5), 6, [7], [b"new"]))
    log.close()
    log, recovered = open_log(str(tmp_path), metadata=METADATA, after_index=5)
    assert (recovered.terms, recovered.datas) == ([7], [b"new"])
    log.close()


def test_marks_keep_what_etcd_reads_in_front() -> None:
    plain = SnapshotMark(100, 3, ConfState((7, 9), (11,)))
    restarts = SnapshotMark(100, 3, ConfState((7, 9), (11,)), restarts=True)
    assert encode_mark(restarts).startswith(encode_mark(plain))
    assert (decode_mark(encode_mark(plain)), decode_mark(encode_mark(restarts))) == (plain, restarts)


def test_older_than_the_oldest_and_held(tmp_path: Path) -> None:
    log = make(tmp_path, keep_segments=1)
    for index in range(1, 400):
        sync(log, log.append(None, index, [1], [os.urandom(1000)]))
    disk = RealDisk(str(tmp_path))
    names = [segment.name for segment in arrange(disk.sizes())]
    starts = [segment.first_index for segment in arrange(disk.sizes())]
    assert len(names) > 5
    held = log.hold(starts[2] + 3)
    other = log.hold(starts[4])
    assert log.release(applied_index=399, mark_index=399) == names[:2]
    cursor = SegmentCursor(disk, starts[2] + 3)
    assert cursor.read(to_index=399, entries_max=5, bytes_max=BIG) is not None
    log.move_hold(held, starts[3])
    assert log.release(applied_index=399, mark_index=399) == [names[2]]
    while log.drops_pending:
        pass
    with pytest.raises(TooOldError):
        cursor.read(to_index=399, entries_max=5, bytes_max=BIG)
    with pytest.raises(TooOldError) as error:
        flat(tmp_path, 2, 399)
    assert error.value.oldest_index == starts[3]
    log.unhold(held)
    log.unhold(held)
    log.unhold(other)
    assert log.release(applied_index=399, mark_index=399) == names[3:-2]
    log.keep_bytes = 1
    log.hold(1)  # the bound in bytes goes before every hold
    assert log.release(applied_index=399, mark_index=399) == [names[-2]]
    log.close()


def test_a_damaged_entry_is_not_handed_out(tmp_path: Path) -> None:
    log = make(tmp_path)
    for index in range(1, 100):
        sync(log, log.append(None, index, [1], [b"<%04d>" % index * 100]))
    log.close()
    [first, *_] = arrange(RealDisk(str(tmp_path)).sizes())
    data = (tmp_path / first.name).read_bytes()
    at = data.index(b"<0050>" * 10)
    cursor = SegmentCursor(RealDisk(str(tmp_path)), 1)
    assert cursor.read(to_index=99, entries_max=10, bytes_max=BIG) is not None
    (tmp_path / first.name).write_bytes(data[:at] + b"X" + data[at + 1 :])
    assert cursor.read(to_index=99, entries_max=30, bytes_max=BIG) is not None
    assert cursor.read(to_index=99, entries_max=30, bytes_max=BIG) is not None
    assert cursor.next_index == 50
    with pytest.raises(CorruptError, match="entry 50 does not verify"):
        cursor.read(to_index=99, entries_max=30, bytes_max=BIG)
    with pytest.raises(CorruptError, match="what follows entry 49 does not verify"):
        flat(tmp_path, 1, 99)
