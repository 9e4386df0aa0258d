"""The write-ahead log as the node uses it: open, append, learn what is durable, let old segments go.

Invariant: see `_walio`. Batches become durable in order; a failed write or sync ends the log for good (FatalError).
Must not know: Raft's rules, LMDB; it is told which index both have left behind.
"""

import os

from raftsched import limits
from raftsched.errors import CorruptError
from raftsched.store.wal import recovery, segments
from raftsched.store.wal._walio import LogWriter
from raftsched.store.wal.disk import Disk, RealDisk
from raftsched.store.wal.format import Metadata, encode_metadata, parse_segment_name
from raftsched.store.wal.recovery import Recovered


class Log(LogWriter):
    """An open log: `LogWriter` plus the list of segments and their retention."""

    def __init__(
        self,
        directory: str,
        recovered: Recovered,
        *,
        segment_bytes: int = limits.WAL_SEGMENT_BYTES,
        zero_ahead_bytes: int = limits.WAL_ZERO_AHEAD_BYTES,
        reserve_bytes: int = limits.WAL_RESERVE_BYTES,
        keep_segments: int = 10,
        keep_bytes: int = 1 << 62,
    ) -> None:
        """`keep_segments`: --etcd-max-wals (0 = all); `keep_bytes`: 25 % of the space bound. See `release`."""
        newest = recovered.segments[-1]
        super().__init__(
            directory,
            newest.name,
            sequence=newest.sequence,
            offset_bytes=recovered.end_offset,
            crc=recovered.crc,
            last_index=recovered.last_index,
            hard_state=recovered.hard_state,
            metadata=encode_metadata(recovered.metadata),
            segment_bytes=segment_bytes,
            zero_ahead_bytes=zero_ahead_bytes,
            reserve_bytes=reserve_bytes,
        )
        self.keep_segments = keep_segments
        self.keep_bytes = keep_bytes
        self.disk: Disk = RealDisk(directory)
        self._dropping: set[str] = set()
        self._holds: dict[int, int] = {}
        self._last_hold = 0

    def hold(self, index: int) -> int:
        """Keeps the segments with entry `index` and later ones, within `keep_bytes`, until `unhold`; a number for `move_hold`."""
        self._last_hold += 1
        self._holds[self._last_hold] = index
        return self._last_hold

    def move_hold(self, number: int, index: int) -> None:
        """Entries below `index` are not needed any more."""
        if number in self._holds:
            self._holds[number] = index

    def unhold(self, number: int) -> None:
        """Idempotent."""
        self._holds.pop(number, None)

    def size_bytes(self) -> int:
        """Of all segments that are to stay. Looks into the directory: not per batch."""
        return sum(size for name, size in self.disk.sizes() if is_segment(name) and name not in self._dropping)

    def free_bytes(self) -> int:
        """Of its file system, for a log line."""
        info = os.statvfs(self.directory)
        return info.f_bavail * info.f_frsize

    def release(self, *, applied_index: int, mark_index: int) -> list[str]:
        """Lets segments go that nobody needs; the names, oldest first. To be called now and then (after a snapshot), not per batch.

        `applied_index`: the store's *durable* applied index; `mark_index`: the last *durable* snapshot mark. Files go in the background.
        """
        found = segments.arrange(item for item in self.disk.sizes() if item[0] not in self._dropping)
        going = segments.droppable(
            found,
            to_index=min(applied_index, mark_index),
            keep_count=self.keep_segments,
            keep_bytes=self.keep_bytes,
            held_index=min(self._holds.values(), default=segments.NOT_HELD),
        )
        names = [segment.name for segment in going]
        names = names[: self.drop_segments(names)]
        if not self.drops_pending:
            self._dropping.clear()
        self._dropping.update(names)
        return names


def open_log(
    directory: str,
    *,
    metadata: Metadata | None = None,
    after_index: int = 0,
    segment_bytes: int = limits.WAL_SEGMENT_BYTES,
    zero_ahead_bytes: int = limits.WAL_ZERO_AHEAD_BYTES,
    reserve_bytes: int = limits.WAL_RESERVE_BYTES,
    keep_segments: int = 10,
    keep_bytes: int = 1 << 62,
) -> tuple[Log, Recovered]:
    """Opens the log in an existing directory, or begins one there if `metadata` is given and the directory holds none.

    `after_index`: the store's durable applied index; `Recovered` has the entries after it. A given `metadata` must be that of the log.
    Raises FatalError, CorruptError (file, offset, reason).
    """
    disk = RealDisk(directory)
    for name, _size in disk.sizes():
        if name.endswith(".tmp"):
            disk.remove(name)  # a segment that was never named
    if metadata is not None and not recovery.has_log(disk):
        recovery.create(disk, metadata)
    recovered = recovery.recover(disk, after_index=after_index)
    if metadata is not None and recovered.metadata != metadata:
        raise CorruptError(
            f"{directory}: the log belongs to member {recovered.metadata.node_id:x} of cluster {recovered.metadata.cluster_id:x}"
        )
    log = Log(
        directory,
        recovered,
        segment_bytes=segment_bytes,
        zero_ahead_bytes=zero_ahead_bytes,
        reserve_bytes=reserve_bytes,
        keep_segments=keep_segments,
        keep_bytes=keep_bytes,
    )
    return log, recovered


def is_segment(name: str) -> bool:
    return parse_segment_name(name) is not None
