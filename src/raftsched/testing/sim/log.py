"""The write-ahead log on a simulated disk: `store.wal.log.Log` as the node uses it, with real records and the real recovery.

Groups are written one at a time and synced before the next, each after a delay of its own; between write and sync a crash keeps any of
the sectors. A sync error is for ever; on a full disk the log writes what it has room for, then waits (`DiskFaults.fill`).
Must not know: Raft, who appends.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from raftsched import limits
from raftsched.errors import FatalError
from raftsched.store.wal import segments
from raftsched.store.wal._walio import RecordEncoder
from raftsched.store.wal.format import encode_metadata, segment_name
from raftsched.store.wal.recovery import Recovered
from raftsched.testing.disk import SimulatedDisk
from raftsched.testing.sim.loop import SimLoop
from raftsched.types import HardState

ROOM_BYTES = 64 << 20
RETRY_S = 0.05  # how often a log that waits for room tries again
LATENCIES_NS = ((0, 300_000), (100_000, 4_000_000), (1_000_000, 60_000_000))


class DiskFaults:
    """What is wrong with a machine's disk at present; shared by its log and its backend."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.slowness = 0  # index in LATENCIES_NS
        self.full = False
        self.left_bytes = 0  # of a full disk: what the log had taken ahead, and may still write
        self.stalled = False  # the log waits for room
        self.fail_sync = False  # the next one
        self.failed = False  # one has failed: the process must end

    def fill(self, left_bytes: int) -> None:
        self.full, self.left_bytes = True, left_bytes

    def delay_s(self) -> float:
        low, high = LATENCIES_NS[self.slowness]
        return self._chance.randrange(low, high) / 1e9


@dataclass(slots=True)
class _Batch:
    """Neighbouring batches that go to the disk as one group."""

    number: int
    state: HardState | None
    first: int
    terms: list[int]
    datas: list[bytes]
    types: list[int]
    mark: bytes
    restart_index: int

    @property
    def size_bytes(self) -> int:
        return sum(len(data) + 30 for data in self.datas) + 60

    def take(self, other: "_Batch") -> bool:
        """Joins the next batch on, if the two are one run of entries."""
        if self.mark or other.mark or (other.datas and self.datas and other.first != self.first + len(self.datas)):
            return False
        self.first = self.first if self.datas else other.first
        self.number, self.state = other.number, other.state or self.state
        self.terms, self.datas, self.types = self.terms + other.terms, self.datas + other.datas, self.types + other.types
        return True


class SimLog:
    """See the module's text."""

    def __init__(
        self, loop: SimLoop, disk: SimulatedDisk, recovered: Recovered, faults: DiskFaults, *, segment_bytes: int, keep_segments: int
    ) -> None:
        self.directory = disk.path
        self.fd = loop.new_fd()
        self.last_index = recovered.last_index
        self.batch_last = 0
        self.keep_bytes = 1 << 62
        self.sync_count = 0
        self.written_bytes = 0
        self._loop = loop
        self.disk = disk
        self._faults = faults
        faults.stalled = False
        self._segment_bytes = segment_bytes
        self._keep_segments = keep_segments
        self._metadata = encode_metadata(recovered.metadata)
        self._encoder = RecordEncoder(recovered.crc)
        newest = recovered.segments[-1]
        self._sequence, self._name, self._offset = newest.sequence, newest.name, recovered.end_offset
        self._written_index = recovered.last_index
        self._state = recovered.hard_state
        self._waiting: list[_Batch] = []
        self._writing: _Batch | None = None
        self._on_disk = False  # the group being written is in the file, unsynced
        self._durable = 0
        self._failed = ""
        self._closed = False
        self._holds: dict[int, int] = {}
        self._last_hold = 0

    # -- what the node calls

    def append(
        self,
        hard_state: HardState | None,
        first_index: int,
        terms: Sequence[int],
        datas: Sequence[bytes],
        *,
        types: Sequence[int] | None = None,
        mark: bytes = b"",
        restart_index: int = 0,
    ) -> int:
        self._check()
        if not (datas or hard_state or mark):
            raise ValueError("an empty batch")
        if datas and first_index > self.last_index + 1:
            raise ValueError(f"entry {first_index} after {self.last_index}")
        self.batch_last += 1
        if datas or restart_index:
            self.last_index = restart_index or first_index + len(datas) - 1
        kinds = list(types) if types is not None else [0] * len(datas)
        self._waiting.append(_Batch(self.batch_last, hard_state, first_index, list(terms), list(datas), kinds, mark, restart_index))
        self._begin()
        return self.batch_last

    def completed(self) -> int:
        self._loop.set_readable(self.fd, False)
        self._check()
        return self._durable

    def has_room(self, size_bytes: int = 0, *, privileged: bool = False) -> bool:
        return privileged or not self._faults.full

    @property
    def stalled(self) -> bool:
        """A group waits for room."""
        return self._faults.stalled

    def free_bytes(self) -> int:
        return 0 if self._faults.full else ROOM_BYTES

    @property
    def room_bytes(self) -> int:
        return 0 if self._faults.full else ROOM_BYTES

    @property
    def no_space(self) -> bool:
        return self._faults.full

    @property
    def queued_bytes(self) -> int:
        return sum(batch.size_bytes for batch in [*self._waiting, *([self._writing] if self._writing else [])])

    def wait_durable(self, batch: int, timeout_ms: int) -> bool:
        """At once: the caller does not let time pass."""
        self._finish(batch)
        self._check()
        return self._durable >= batch

    def size_bytes(self) -> int:
        return sum(size for _, size in self.disk.sizes())

    def release(self, *, applied_index: int, mark_index: int) -> list[str]:
        found = segments.arrange(self.disk.sizes())
        to_index = min(applied_index, mark_index)
        held_index = min(self._holds.values(), default=segments.NOT_HELD)
        keep = self._keep_segments
        going = segments.droppable(found, to_index=to_index, keep_count=keep, keep_bytes=self.keep_bytes, held_index=held_index)
        for segment in going:
            self.disk.remove(segment.name)
            self.disk.sync_directory()
        return [segment.name for segment in going]

    def hold(self, index: int) -> int:
        self._last_hold += 1
        self._holds[self._last_hold] = index
        return self._last_hold

    def move_hold(self, number: int, index: int) -> None:
        if number in self._holds:
            self._holds[number] = index

    def unhold(self, number: int) -> None:
        self._holds.pop(number, None)

    def close(self) -> None:
        if not self._closed:
            self._faults.stalled = False
            if not self._failed:
                self._finish(self.batch_last)
            self._closed = True
            if not self._failed and self._durable < self.batch_last:
                raise FatalError(f"no space for the last writes to {self.directory}/{self._name}: No space left on device")

    # -- the writer

    def _check(self) -> None:
        if self._failed or self._closed:
            raise FatalError(self._failed or "the log is closed")

    def _begin(self) -> None:
        if self._writing is None and self._waiting and not self._failed and not self._closed:
            self._gather()
            self._loop.call_later(self._faults.delay_s(), self._write_step)

    def _gather(self) -> None:
        self._writing = self._waiting.pop(0)
        while self._waiting and self._writing.size_bytes < limits.WAL_ZERO_AHEAD_BYTES and self._writing.take(self._waiting[0]):
            del self._waiting[0]

    def _write_step(self) -> None:
        if self._writing is not None and not self._closed and not self._failed and not self._on_disk:
            if not self._takes(self._writing):
                self._loop.call_later(RETRY_S, self._write_step)
                return
            self._write(self._writing)
            self._loop.call_later(self._faults.delay_s(), self._sync_step)

    def _sync_step(self) -> None:
        if self._writing is not None and self._on_disk and not self._closed and not self._failed:
            self._sync()
            self._begin()

    def _takes(self, batch: _Batch) -> bool:
        """Whether there is room for it, in what was taken ahead if the disk is full."""
        faults = self._faults
        faults.stalled = faults.full and batch.size_bytes > faults.left_bytes
        if faults.full and not faults.stalled:
            faults.left_bytes -= batch.size_bytes
        return not faults.stalled

    def _write(self, batch: _Batch) -> None:
        if self._offset >= self._segment_bytes:
            self._rotate()
        data = self._encoder.group(
            self._sequence, self._offset, batch.first, batch.terms, batch.datas, types=batch.types, hard_state=batch.state, mark=batch.mark
        )
        self.disk.write(self._name, self._offset, data)
        self._offset += len(data)
        self.written_bytes += len(data)
        if batch.datas or batch.restart_index:
            self._written_index = batch.restart_index or batch.first + len(batch.datas) - 1
        self._state = batch.state or self._state
        self._on_disk = True

    def _rotate(self) -> None:
        self._sequence, self._offset = self._sequence + 1, 0
        self._name = segment_name(self._sequence, self._written_index + 1)
        head = self._encoder.group(self._sequence, 0, self._written_index + 1, metadata=self._metadata, head_state=self._state)
        self.disk.create(self._name, head)
        self._offset = len(head)

    def _sync(self) -> None:
        if self._faults.fail_sync:
            self._faults.fail_sync, self._faults.failed = False, True
            self._failed = f"cannot sync {self.directory}/{self._name}: Input/output error"
        else:
            assert self._writing is not None
            self.disk.sync(self._name)
            self.sync_count += 1
            self._durable = self._writing.number
            self._writing, self._on_disk = None, False
        self._loop.set_readable(self.fd)

    def _finish(self, batch: int) -> None:
        """Everything up to `batch` is written and synced now."""
        while self._durable < batch and not self._failed:
            if self._writing is None:
                self._gather()
            assert self._writing is not None
            if not self._on_disk:
                if not self._takes(self._writing):
                    return
                self._write(self._writing)
            self._sync()
