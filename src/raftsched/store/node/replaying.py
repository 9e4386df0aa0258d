"""The end of a stopped etcd's log, behind what its database has applied: read from its files, applied to a member that is being restored.

Which entries count: in a cluster of one voter all that the log holds (an entry may have been answered before the commit index behind it was
written), else those up to the stored commit index.
Invariant: the log's files are not changed. Members, versions and what only etcd itself has use for (`PASSED_OVER`) are not taken over.
Must not know: what becomes of the member.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from raftsched import proposals
from raftsched.errors import CorruptError, FatalError
from raftsched.store import codec
from raftsched.store.apply import Applier
from raftsched.store.membership import Membership
from raftsched.store.wal._walio import LogReader, data_end
from raftsched.store.wal.disk import RealDisk
from raftsched.store.wal.segments import Segment, arrange

NORMAL: Final = 0
PASSED_OVER: Final = frozenset({2, 11, proposals.CLUSTER_VERSION_SET, proposals.MEMBER_ATTRIBUTES_SET, 1302, 9900})
"""Fields of InternalRaftRequest: v2, lease_checkpoint, cluster version, member attributes, downgrade_info_set, downgrade_version_test."""
V2_METHODS: Final = (b"PUT", b"POST", b"DELETE", b"QGET", b"SYNC")
SECTOR_BYTES: Final = 512
TORN_BYTES_MAX: Final = 64 << 20  # behind the last whole record of a log that was being written


@dataclass(frozen=True, slots=True)
class Tail:
    """Entry `first_index + i` has terms[i], datas[i], kinds.get(i, NORMAL)."""

    first_index: int
    terms: Sequence[int] = ()
    datas: Sequence[bytes] = ()
    kinds: dict[int, int] = field(default_factory=dict)
    left_out: int = 0  # entries that the log holds and nobody can know to be committed
    torn: str = ""  # what was found behind the last whole record


def read_tail(wal: Path, applied_index: int, members: Membership) -> Tail:
    """The entries behind `applied_index`; `members` are those there, and are brought up to the commit index.

    Raises CorruptError, FatalError (the log does not reach back or on to it).
    """
    disk = RealDisk(str(wal))
    segments = arrange(disk.sizes())
    if not segments or max(segments[0].first_index, 1) - 1 > applied_index:
        first = segments[0].first_index if segments else 0
        raise FatalError(f"{wal}: the log begins at entry {first}, the database ends at {applied_index}: entries between them are missing")
    reader = LogReader(applied_index, foreign=True)
    torn = ""
    for segment in segments:
        torn = _read_segment(disk, reader, segment, last=segment is segments[-1])
    if reader.last_index < applied_index:
        raise FatalError(
            f"{wal}: the log ends at entry {reader.last_index}, the database has applied {applied_index}: they are not of one member"
        )
    state = reader.hard_state
    committed = min(max(state.commit if state else 0, applied_index), reader.last_index)
    count = (reader.last_index if _is_lone(members, reader, committed - applied_index) else committed) - applied_index
    kinds = {at: kind for at, kind in reader.types.items() if at < count}
    return Tail(applied_index + 1, reader.terms[:count], reader.datas[:count], kinds, len(reader.datas) - count, torn)


def _is_lone(members: Membership, reader: LogReader, committed: int) -> bool:
    """Whether there is one voter after so many of the entries, and no change behind them."""
    for position, kind in sorted(reader.types.items()):
        if kind != NORMAL and position >= committed:
            return False
        try:
            members.apply_change(reader.datas[position])
        except codec.WireError:
            return False
    return sum(not one.is_learner for one in members.members()) == 1


def _read_segment(disk: RealDisk, reader: LogReader, segment: Segment, *, last: bool) -> str:
    """What was torn off at the end; "" = nothing."""
    with disk.open_bytes(segment.name) as data:
        end, broken, illegal = reader.read(data, segment.sequence, max(segment.first_index, 1))
        where = f"{disk.path}/{segment.name}, offset {end}"
        if illegal:
            raise CorruptError(f"{where}: {illegal}")
        if not broken:
            return ""
        rest = data_end(data, end) - end
        if not last or not reader.head_read or rest > TORN_BYTES_MAX or not _is_torn(bytes(data[end : end + rest]), end):
            raise CorruptError(f"{where}: {broken}")
    return f"{where}: {broken}: {rest} bytes of an unfinished write were passed over"


def _is_torn(data: bytes, offset: int) -> bool:
    """etcd's rule, for all that is left: a write that was cut short leaves whole sectors of zeros, or ends with the file's data."""
    first = SECTOR_BYTES - offset % SECTOR_BYTES
    sectors = [data[:first], *(data[at : at + SECTOR_BYTES] for at in range(first, len(data), SECTOR_BYTES))]
    length = int.from_bytes(data[:8], "little") & (1 << 56) - 1
    return len(data) < 8 + length or any(sector.count(0) == len(sector) for sector in sectors)


def replay(applier: Applier, tail: Tail) -> int:
    """Applies the tail; how many entries were requests of clients. `applier.applied_index` must be the one before it.

    Raises FatalError for a request that this version does not know: what it did would be missing.
    """
    applied = at = 0
    while at < len(tail.datas):
        stop = at
        kind, term = tail.kinds.get(at, NORMAL), tail.terms[at]
        while stop < len(tail.datas) and tail.kinds.get(stop, NORMAL) == kind and tail.terms[stop] == term:
            stop += 1
        if kind == NORMAL:
            applied += _apply_run(applier, tail.first_index + at, term, list(tail.datas[at:stop]))
        else:
            applier.applied_index += stop - at  # changes of members: those of the new cluster are others
        at = stop
    return applied


def _is_v2(entry: bytes) -> bool:
    """Whether it is a bare etcdserverpb.Request of the v2 API, by which etcd before 3.6 tells its attributes and version."""
    try:
        found: dict[int, int | bytes] = dict(codec.fields(entry))
    except codec.WireError:
        return False
    path = found.get(3)
    return found.get(2) in V2_METHODS and isinstance(path, bytes) and path.startswith(b"/")


def _apply_run(applier: Applier, first_index: int, term: int, entries: list[bytes]) -> int:
    applied = 0
    for kind, start, stop in codec.unwrap(entries)[1]:
        if kind in PASSED_OVER or (kind == codec.UNREADABLE and all(map(_is_v2, entries[start:stop]))):
            applier.applied_index += stop - start
            continue
        applier.apply(first_index + start, term, NORMAL, entries[start:stop])
        applied += stop - start if kind else 0
    return applied
