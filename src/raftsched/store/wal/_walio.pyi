"""The contract of the native log writer. `store/wal/log.py` holds the face that the node uses: `open_log` and `Log`."""

from collections.abc import Sequence

from raftsched.types import HardState

def crc32c(data: bytes, value: int = 0) -> int:
    """CRC-32C (Castagnoli) of `data`, chained on from `value`."""

class LogWriter:
    """Appends to the newest segment. Writing, syncing and preparing run on two native threads that never take the GIL.

    Owned by the loop thread. A batch is durable when `completed()` has returned its number; batches become durable in order.
    """

    fd: int
    """An eventfd for `loop.add_reader`: readable when `completed()` has news."""
    last_index: int
    """Index of the last entry appended (perhaps not durable yet)."""
    room_bytes: int
    """Zeroed bytes ahead of the last append, and the spare segment."""
    queued_bytes: int
    """Appended and not yet durable."""
    stalled: bool
    """A batch waits for disk space (never a write error): reads go on, nothing is lost, it is tried again each 200 ms."""
    sync_count: int
    """fdatasync calls of the writer thread so far; one per group of batches."""

    def append(
        self,
        hard_state: HardState | None,
        first_index: int,
        terms: Sequence[int],
        datas: Sequence[bytes],
        *,
        types: Sequence[int] | None = None,
        mark: bytes = b"",
    ) -> int:
        """Queues one batch and returns its number (from 1, rising by 1). Never blocks, never does IO.

        Entries `first_index ...` (index, term, type, data); an index that is in the log already replaces it and all after it.
        `types`: raftpb.EntryType per entry (0 normal, 1 and 2 configuration change), None = all normal. `mark`: an encoded
        walpb.Snapshot (`format.encode_mark`). Order on disk: entries, hard state, mark. Raises ValueError for a gap (an entry
        beyond last_index + 1), or nothing to write; FatalError when the log has failed or is closed.
        """

    def completed(self) -> int:
        """Clears the eventfd; the number of the last durable batch (0 = none yet). Raises FatalError, always again, when a
        write or sync failed: the process must end, it is never retried."""

    def has_room(self, size_bytes: int = 0, *, privileged: bool = False) -> bool:
        """False = refuse the proposal (NOSPACE, local). Ordinary ones need 4 MiB + `size_bytes` of room and the reserve file in
        place; `privileged` ones (deletes, compaction, alarms) may use the reserve."""

    def wait_durable(self, batch: int, timeout_ms: int) -> bool:
        """Blocks (without the GIL) until `batch` is durable; for start, stop and tests, not for the loop."""

    def close(self) -> None:
        """Writes out what is queued, stops the threads, closes the files. Idempotent."""
