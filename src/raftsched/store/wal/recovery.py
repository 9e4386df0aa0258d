"""From the files of a log to what a restart needs: verify everything, mend a torn tail, refuse corruption.

The decision about a *break* (bytes that do not verify), in the order of the questions:

    in an older segment?                        corrupt: it was synced before the next one got its name
    inside the segment's head?                  corrupt: a segment gets its name after its first batch is synced
    a batch start of this segment behind it?    corrupt: a batch is written only after the one before it is synced
    else                                        a torn tail: zeros from the break to the end of what was written, sync

The last one also holds when whole records of the torn batch lie behind the break: unsynced sectors land in any order.

Invariant: what is returned is on stable storage when `recover` returns: a killed process may have left a batch in the page
cache alone, and nobody may count on it before it is synced.
Must not know: what an entry's data means, threads.
"""

from dataclasses import dataclass, field

from raftsched.errors import CorruptError, FatalError
from raftsched.store.wal._walio import LogReader, RecordEncoder, batch_start_after, data_end
from raftsched.store.wal.disk import Disk
from raftsched.store.wal.format import (
    Metadata,
    SnapshotMark,
    WireError,
    decode_mark,
    decode_metadata,
    encode_mark,
    encode_metadata,
    segment_name,
)
from raftsched.store.wal.segments import Segment, arrange
from raftsched.types import HardState

ZERO_BYTES = bytes(1 << 20)
EVERYTHING = (1 << 63) - 1  # an applied index behind which nothing can be
NO_MARK = SnapshotMark(index=0, term=0)


@dataclass(frozen=True, slots=True)
class Recovered:
    """A log as it was read. Entry `first_index + i` has terms[i], types[i] (0 normal), datas[i]."""

    metadata: Metadata
    hard_state: HardState | None  # None: nothing was ever voted or accepted
    first_index: int  # after_index + 1
    terms: list[int]
    datas: list[bytes]
    types: dict[int, int] = field(default_factory=dict)  # position in `datas`: raftpb.EntryType, where it is not 0
    base_term: int = 0  # term of the entry `first_index - 1`; 0 = the log does not hold it any more
    last_index: int = 0
    mark: SnapshotMark = NO_MARK  # the snapshot mark of the highest index
    segments: tuple[Segment, ...] = ()
    end_offset: int = 0  # where the next record goes, in the last segment
    crc: int = 0  # the chain's value there
    repaired: str = ""  # what was mended, for a log line


def has_log(disk: Disk) -> bool:
    """Whether the directory holds any segment."""
    return bool(arrange(disk.sizes()))


def create(disk: Disk, metadata: Metadata) -> None:
    """The first segment of a new log: checksum, metadata, snapshot mark (0, 0), as etcd begins one."""
    data = RecordEncoder().group(0, 0, 1, metadata=encode_metadata(metadata), mark=encode_mark(SnapshotMark(index=0, term=0)))
    disk.create(segment_name(0, 0), data)


def recover(disk: Disk, *, after_index: int) -> Recovered:
    """Reads the whole log; entries up to `after_index` (the store's durable applied index) are verified and dropped.

    Raises CorruptError (file, offset, reason), or FatalError if the log ends before `after_index` or the disk fails.
    """
    segments = arrange(disk.sizes())
    if not segments:
        raise FatalError(f"no write-ahead log in {disk.path}")
    if max(segments[0].first_index, 1) - 1 > after_index:
        raise CorruptError(f"{disk.path}: the log begins at entry {segments[0].first_index}, the store ends at {after_index}")
    reader = LogReader(after_index)
    end = 0
    repaired = ""
    for segment in segments:
        last = segment is segments[-1]
        end, repaired = _read_segment(disk, reader, segment, last=last)
    disk.sync(segments[-1].name)
    return _recovered(disk, reader, segments, end, repaired)


def peek_mark(disk: Disk) -> SnapshotMark:
    """The snapshot mark of the highest index in a log, as far as the log verifies, synced; nothing is mended. For an installation that was
    cut short."""
    reader = LogReader(EVERYTHING)
    segments = arrange(disk.sizes())
    if segments:
        disk.sync(segments[-1].name)  # a killed process may have left the mark in the page cache alone
    for segment in segments:
        with disk.open_bytes(segment.name) as data:
            _, broken, illegal = reader.read(data, segment.sequence, max(segment.first_index, 1))
        if broken or illegal:
            break  # `recover` tells the reason
    try:
        return decode_mark(reader.mark) if reader.mark else NO_MARK
    except WireError as error:
        raise CorruptError(f"{disk.path}: {error}") from error


def _read_segment(disk: Disk, reader: LogReader, segment: Segment, *, last: bool) -> tuple[int, str]:
    with disk.open_bytes(segment.name) as data:
        # etcd names the first segment's first index 0, all others' by the next entry
        end, broken, illegal = reader.read(data, segment.sequence, max(segment.first_index, 1))
        where = f"{disk.path}/{segment.name}, offset {end}"
        if illegal:
            raise CorruptError(f"{where}: {illegal}")
        if not broken:
            return end, ""
        if not last:
            raise CorruptError(f"{where}: {broken} (newer segments follow)")
        # behind the start of the broken batch, which may look sound itself: its checksum is a part of it that can break
        following = batch_start_after(data, end + 1, segment.sequence)
        if following >= 0:
            raise CorruptError(f"{where}: {broken} (a later batch begins at offset {following})")
        if not reader.head_read:
            raise CorruptError(f"{where}: {broken} (in the segment's head)")
        stop = data_end(data, end)
    _zero(disk, segment.name, end, stop)
    return end, f"{where}: {broken}: {stop - end} bytes of an unfinished batch cleared"


def _zero(disk: Disk, name: str, start: int, stop: int) -> None:
    while start < stop:
        count = min(stop - start, len(ZERO_BYTES))
        disk.write(name, start, ZERO_BYTES[:count])
        start += count


def _recovered(disk: Disk, reader: LogReader, segments: list[Segment], end: int, repaired: str) -> Recovered:
    state = reader.hard_state
    if reader.last_index < reader.after_index:
        raise FatalError(
            f"{disk.path}: the log ends at entry {reader.last_index}, the store has applied {reader.after_index}: "
            "the two do not belong together"
        )
    if state is not None and state.commit > reader.last_index:
        raise CorruptError(f"{disk.path}: the log ends at entry {reader.last_index}, but {state.commit} was committed")
    try:
        metadata, mark = decode_metadata(reader.metadata), decode_mark(reader.mark)
    except WireError as error:
        raise CorruptError(f"{disk.path}/{segments[-1].name}: {error}") from error
    return Recovered(
        metadata=metadata,
        hard_state=_raised(state, reader.last_term),
        first_index=reader.after_index + 1,
        terms=reader.terms,
        datas=reader.datas,
        types=reader.types,
        base_term=reader.base_term,
        last_index=reader.last_index,
        mark=mark,
        segments=tuple(segments),
        end_offset=end,
        crc=reader.crc,
        repaired=repaired,
    )


def _raised(state: HardState | None, last_term: int) -> HardState | None:
    """The hard state, not behind the entries: a torn batch may have kept entries of a new term and lost the state behind them.

    A vote in that term was never sent (it waits for the whole batch), so none is remembered.
    """
    if last_term > (state.term if state else 0):
        return HardState(term=last_term, vote=0, commit=state.commit if state else 0)
    return state
