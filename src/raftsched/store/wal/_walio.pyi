"""The contract of the native log writer. `store/wal/log.py` holds the face that the node uses: `open_log` and `Log`."""

from collections.abc import Buffer, Sequence  # type: ignore[attr-defined]

from raftsched.types import HardState

def crc32c(data: Buffer, value: int = 0) -> int:
    """CRC-32C (Castagnoli) of `data`, chained on from `value`."""

class LogWriter:
    """Appends to the newest segment. Writing, syncing and preparing run on two native threads that never take the GIL.

    Owned by the loop thread. A batch is durable when `completed()` has returned its number; batches become durable in order.
    """

    @property
    def directory(self) -> str: ...
    @property
    def fd(self) -> int:
        """An eventfd for `loop.add_reader`: readable when `completed()` has news."""
    @property
    def last_index(self) -> int:
        """Index of the last entry appended (perhaps not durable yet)."""
    @property
    def batch_last(self) -> int:
        """Number of the last batch appended."""
    @property
    def room_bytes(self) -> int:
        """Zeroed bytes ahead of the last append, and the spare segment."""
    @property
    def queued_bytes(self) -> int:
        """Appended and not yet durable."""
    @property
    def stalled(self) -> bool:
        """A batch waits for disk space (never a write error): reads go on, nothing is lost, it is tried again each 200 ms."""
    @property
    def no_space(self) -> bool:
        """The disk could not give what the log wanted ahead; kept until it could again."""
    @property
    def reserve_ready(self) -> bool: ...
    @property
    def sync_count(self) -> int:
        """fdatasync calls of the writer thread so far; one per group of batches."""
    @property
    def written_bytes(self) -> int:
        """Bytes of all groups that were synced."""
    def durations(self) -> tuple[tuple[list[int], float], tuple[list[int], float]]:
        """Of the writer thread's writes, and of its syncs: how many took up to 1 ms, 2 ms, 4 ms ... 8.192 s, and longer; seconds of all."""
    @property
    def segment(self) -> tuple[int, str]:
        """(sequence, file name) that the next batch goes to, if it fits."""
    @property
    def drops_pending(self) -> int: ...
    def __init__(
        self,
        directory: str,
        name: str,
        *,
        sequence: int,
        offset_bytes: int,
        crc: int,
        last_index: int,
        hard_state: HardState | None,
        metadata: bytes,
        segment_bytes: int,
        zero_ahead_bytes: int,
        reserve_bytes: int,
    ) -> None:
        """Goes on in segment `name` at `offset_bytes`, with the chain at `crc`. Use `log.open_log`. Raises FatalError."""

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
        """Queues one batch and returns its number (from 1, rising by 1). Never blocks, never does IO.

        Entries `first_index ...` (index, term, type, data); an index that is in the log already replaces it and all after it.
        `types`: raftpb.EntryType per entry (0 normal, 1 and 2 configuration change, these with data), None = all normal. `mark`:
        an encoded walpb.Snapshot (`format.encode_mark`). Order on disk: entries, hard state, mark. `restart_index`: the mark (one that
        `restarts`) is that of an installed snapshot of this index; the log is empty then and goes on behind it. Raises ValueError for a gap
        (an entry beyond last_index + 1), a term 0, an empty batch; FatalError when the log has failed or is closed.
        """

    def completed(self) -> int:
        """Clears the eventfd; the number of the last durable batch (0 = none yet). Raises FatalError, always again, when a
        write or sync failed: the process must end, it is never retried."""

    def has_room(self, size_bytes: int = 0, *, privileged: bool = False) -> bool:
        """False = refuse the proposal (NOSPACE, local). `size_bytes`: the proposal's and all others' that are accepted and not yet
        appended. Ordinary ones need 4 MiB + `size_bytes` of room (or of free disk), and the reserve file in place if the disk was found
        full; `privileged` ones (deletes, compaction, alarms) may use the reserve."""

    def wait_durable(self, batch: int, timeout_ms: int) -> bool:
        """Blocks (without the GIL) until `batch` is durable; for start, stop and tests, not for the loop. Raises FatalError."""

    def drop_segments(self, names: Sequence[str]) -> int:
        """Has these files removed in the background, in this order, each for good before the next; how many were taken."""

    def close(self) -> None:
        """Writes out what is queued, stops the threads. Idempotent. Raises FatalError if that failed."""

class RecordEncoder:
    """Records into bytes, without files or threads: for the first segment, the simulator and tests. Same code as the writer."""

    crc: int
    def __init__(self, crc: int = 0) -> None: ...
    def group(
        self,
        sequence: int,
        offset: int,
        first_index: int,
        terms: Sequence[int] = (),
        datas: Sequence[bytes] = (),
        *,
        types: Sequence[int] | None = None,
        hard_state: HardState | None = None,
        mark: bytes = b"",
        metadata: bytes = b"",
        head_state: HardState | None = None,
    ) -> bytes:
        """The bytes of one group at `offset` of segment `sequence`: batch start; for offset 0 metadata and `head_state`; entries, hard
        state, mark."""

class LogReader:
    """Reads segments in order, verifies the chain, keeps the entries after `after_index`. Decides nothing about a break."""

    @property
    def after_index(self) -> int: ...
    @property
    def crc(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def last_term(self) -> int: ...
    @property
    def base_term(self) -> int: ...
    @property
    def metadata(self) -> bytes: ...
    @property
    def terms(self) -> list[int]: ...
    @property
    def datas(self) -> list[bytes]: ...
    @property
    def types(self) -> dict[int, int]: ...
    @property
    def mark(self) -> bytes: ...
    @property
    def mark_index(self) -> int: ...
    @property
    def mark_term(self) -> int: ...
    @property
    def restart_index(self) -> int: ...
    @property
    def record_count(self) -> int: ...
    @property
    def head_read(self) -> bool: ...
    @property
    def hard_state(self) -> HardState | None: ...
    def __init__(self, after_index: int, *, foreign: bool = False) -> None:
        """`foreign`: a log that etcd has written, without this writer's stamps."""

    def read(self, data: Buffer, sequence: int, first_index: int) -> tuple[int, str, str]:
        """One segment: (offset where reading ended, reason of a break or "", reason of an illegal record or "")."""

def batch_start_after(data: Buffer, offset: int, sequence: int) -> int:
    """Offset of the first batch start of segment `sequence` at or after `offset`; -1 = none."""

def data_end(data: Buffer, offset: int) -> int:
    """Offset behind the last byte at or after `offset` that is not zero; `offset` if all are."""

Section = tuple[int, int, int, int, int]
"""(first index, last index, offset, chain before it, kind): kind 0 goes on, 1 replaces what is from its first index on, 2 an installed
snapshot, without entries: what came before counts no more and the log goes on with its first index."""

def scan_sections(
    data: Buffer, sequence: int, offset: int, crc: int, last_index: int, spacing_bytes: int
) -> tuple[int, int, int, list[Section]]:
    """Where the entries of one segment lie, from `offset` (the chain there: `crc`; 0 and 0 = the segment's beginning) to the end of what
    verifies: (offset, chain, last index, sections). A section is closed after `spacing_bytes` of the file. Without the interpreter's
    lock; what is still being written ends the walk."""

def read_section(
    data: Buffer, sequence: int, offset: int, crc: int, first: int, to_index: int, entries_max: int, bytes_max: int
) -> tuple[list[tuple[int, int, int, list[bytes]]], int, int]:
    """Entries `first ..` (at most to `to_index`, so many, so many bytes, but at least one) as runs (first index, term, kind, data), and
    offset and chain behind them. They are verified first. No runs: the entries are not there."""
