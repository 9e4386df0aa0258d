"""The contract of the native backend: one LMDB environment, a native committer thread, a native bulk thread."""

from collections.abc import Callable, Sequence

from raftsched.store._records import Generation, RecordSource

Describe = Callable[[dict[str, list[tuple[bytes, bytes]]]], Sequence[tuple[str, bytes, bytes | None]]]

BUCKETS: tuple[str, ...]
"""alarm auth authRoles authUsers cluster key lease members members_removed meta: etcd's, in byte order."""

def stored_applied_index(path: str) -> int:
    """The applied index in the environment at `path`, which must not be open in this process. Raises FatalError."""

class Backend(RecordSource):
    """The records (`key`) and the small buckets of one member. Owned by the loop thread.

    Invariant: data and applied index change in one transaction. Reads see the last `renew()`; pointers given by `get` and
    `scan` stay valid until the next `renew()`. At most one commit is under way. Never two on one directory in a process.
    """

    @property
    def path(self) -> str: ...
    @property
    def fd(self) -> int:
        """eventfd: readable when a commit has ended (well or stalled): call `completed()`."""
    @property
    def bulk_fd(self) -> int:
        """eventfd: readable when a bulk job has ended: call `bulk_completed()`."""
    @property
    def applied_index(self) -> int:
        """Durable applied index (meta consistent_index); 0 on a fresh environment. Rises when `completed()` sees a commit end."""
    @property
    def term(self) -> int:
        """Raft term of that entry (meta term)."""
    @property
    def committing(self) -> bool:
        """A commit is under way or stalled: `commit` is not allowed."""
    @property
    def stalled(self) -> str:
        """Not empty: the commit met a full map or disk; the text says which. Nothing is lost; call `retry()` each second."""
    @property
    def size_bytes(self) -> int:
        """Bytes that the environment takes in its file (etcd: dbSize)."""
    @property
    def in_use_bytes(self) -> int:
        """size_bytes without free pages (etcd: dbSizeInUse). Both are refreshed by `measure_now` and by each commit, but where the list
        of free pages is so long that the walk takes more than a twentieth of the time since the last one."""
    @property
    def last_revision(self) -> tuple[int, int]:
        """(main, sub) of the last record as of the last renew; (0, 0) = none."""
    @property
    def bulk_pending(self) -> int:
        """Bulk jobs that have not ended."""
    def __init__(self, path: str, *, map_bytes: int = 1 << 40, create: bool = True) -> None:
        """Opens (creates) the environment in directory `path`. Raises FatalError or CorruptError with the path and the reason."""

    # -- writing
    def commit(
        self,
        generation: Generation | None,
        deletes: Sequence[tuple[int, int, bool]],
        side: Sequence[tuple[str, bytes, bytes | None]],
        applied_index: int,
        term: int,
    ) -> None:
        """One write transaction on the committer thread: records (appended), then `deletes` of records, then `side` (bucket,
        key, value; None = delete), then applied index and term; synced. `generation` must be frozen, its records above all stored ones.

        A missing record or key to delete is no error (a replay after a crash). Raises ValueError while `committing`, for a falling
        applied index or a side key that LMDB cannot hold (1 to 511 bytes); KeyError for an unknown bucket.
        """
    def completed(self) -> int:
        """Clears the eventfd; the durable applied index. Afterwards, if `committing` is False: `renew()`, then drop the
        generation (`mvcc.release()`). If `stalled` is set: `retry()` after a second. Raises FatalError: the process must end."""
    def retry(self) -> None:
        """Runs the stalled commit again, unchanged. ValueError if none is stalled."""
    def wait(self, timeout_ms: int) -> bool:
        """Blocks (without the GIL) until no commit runs (ended or stalled); for start, stop and tests."""
    def measure_now(self) -> None:
        """Brings `size_bytes` and `in_use_bytes` up to date; walks the list of free pages."""

    # -- reading
    def renew(self) -> None:
        """Moves the loop's read transaction to the newest commit; pointers given before become invalid."""
    def bucket_items(self, bucket: str) -> list[tuple[bytes, bytes]]:
        """All (key, value) of a small bucket, in key order, as of the last renew."""
    def bucket_get(self, bucket: str, key: bytes) -> bytes | None: ...
    def record_count(self) -> int:
        """Records in bucket `key`, tombstones included."""

    # -- bulk jobs: one at a time in order; each answers a job number that `bulk_completed` gives back
    def start_hash(self, describe: Describe = ...) -> int:
        """CRC-32C over all buckets, as etcd's Maintenance.Hash; result = the hash. Commit what is pending first. Moment and `describe`: see
        `start_export`; by default the buckets are hashed as they are stored."""
    def start_copy(self, path: str) -> int:
        """Compacting copy into the new directory `path` (made 0700), synced. Result 0. Snapshot of the moment the job starts."""
    def start_scan(self, from_main: int, to_main: int, job: object) -> int:
        """Runs a C callback over all records of from_main..to_main, in a read transaction of its own, without the GIL.

        `job`: a PyCapsule named "raftsched.scan_job" that points to `struct { scan_fn callback; void* context; }` (`scan_fn` of
        `_records.pxd`); it is kept alive until `bulk_completed` has told the end. Result: the callback's last non-zero answer, or 0.
        """
    def start_export(self, descriptor: int, describe: Describe, reserve_bytes: int) -> int:
        """All ten buckets as a bbolt file, written to (a duplicate of) `descriptor`; result = its size in bytes. Commit what is pending
        first.

        The moment is that of this call. `describe` gets the buckets `cluster`, `members` and `meta` of that moment and answers what the
        file has other than they (value None: it does not have the key). Error ENOSPC once less than `reserve_bytes` are free, ECANCELED
        after `cancel_export` or `close`.
        """
    def cancel_export(self, number: int) -> None:
        """The job ends soon, if it is running or waiting."""
    def bulk_completed(self) -> list[tuple[int, int, str]]:
        """Clears bulk_fd; (job, result, error text) of the jobs that ended; error "" = success."""
    def wait_bulk(self, timeout_ms: int) -> bool:
        """Blocks (without the GIL) until no bulk job is pending."""
    def swap(self, path: str) -> None:
        """Defragment, last step: closes this environment and opens the copy at `path` in its place, with all pointers invalid.

        Refused (ValueError) while a commit or bulk job is under way, or if the copy's applied index is another: then a
        commit came in between, and the copy is to be thrown away. See `directory.finish_defragment`.
        """
    def close(self) -> None:
        """Waits for the running commit, stops the threads, closes the environment. Idempotent. A stalled commit is given up: its
        records are in the log."""
