"""The contract of the native backend: one LMDB environment, a native committer thread, a native bulk thread."""

from collections.abc import Sequence

from raftsched.store._records import Generation, RecordSource

BUCKETS: tuple[str, ...]
"""alarm auth authRoles authUsers cluster key lease members members_removed meta: etcd's, in byte order."""

class Backend(RecordSource):
    """The records (`key`) and the small buckets of one member. Owned by the loop thread.

    Invariant: data and applied index change in one transaction. Reads see the last `renew()`; pointers given by `get` and
    `scan` stay valid until the next `renew()`. At most one commit is under way. Never two on one directory in a process.
    """

    path: str
    fd: int
    """eventfd: readable when a commit has ended (well or stalled): call `completed()`."""
    bulk_fd: int
    """eventfd: readable when a bulk job has ended: call `bulk_completed()`."""
    applied_index: int
    """Durable applied index (meta consistent_index); 0 on a fresh environment. Rises when `completed()` sees a commit end."""
    term: int
    """Raft term of that entry (meta term)."""
    committing: bool
    """A commit is under way or stalled: `commit` is not allowed."""
    stalled: str
    """Not empty: the commit met a full map or disk; the text says which. Nothing is lost; call `retry()` each second."""
    size_bytes: int
    """Bytes that the environment takes in its file (etcd: dbSize)."""
    in_use_bytes: int
    """size_bytes without free pages (etcd: dbSizeInUse); refreshed by commits, at most twice a second, and by `renew()` after them."""
    last_revision: tuple[int, int]
    """(main, sub) of the last record as of the last renew; (0, 0) = none."""

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

        A missing record or key to delete is no error (a replay after a crash). Raises ValueError while `committing`.
        """
    def completed(self) -> int:
        """Clears the eventfd; the durable applied index. Afterwards, if `committing` is False: `renew()`, then drop the
        generation (`mvcc.release()`). If `stalled` is set: `retry()` after a second. Raises FatalError: the process must end."""
    def retry(self) -> None:
        """Runs the stalled commit again, unchanged."""
    def wait(self, timeout_ms: int) -> bool:
        """Blocks (without the GIL) until no commit runs (ended or stalled); for start, stop and tests."""

    # -- reading
    def renew(self) -> None:
        """Moves the loop's read transaction to the newest commit; pointers given before become invalid."""
    def bucket_items(self, bucket: str) -> list[tuple[bytes, bytes]]:
        """All (key, value) of a small bucket, in key order, as of the last renew."""
    def bucket_get(self, bucket: str, key: bytes) -> bytes | None: ...
    def record_count(self) -> int:
        """Records in bucket `key`, tombstones included."""

    # -- bulk jobs: one at a time in order; each answers a job number that `bulk_completed` gives back
    def start_hash(self) -> int:
        """CRC-32C over all buckets, as etcd's Maintenance.Hash; result = the hash. Commit what is pending first."""
    def start_copy(self, path: str) -> int:
        """Compacting copy into the new directory `path` (made 0700), synced. Result 0. Snapshot of the moment the job starts."""
    def bulk_completed(self) -> list[tuple[int, int, str]]:
        """Clears bulk_fd; (job, result, error text) of the jobs that ended; error "" = success."""
    bulk_pending: int

    def swap(self, path: str) -> None:
        """Defragment, last step: closes this environment and opens the copy at `path` in its place, with all pointers invalid.
        Refused (ValueError) while a commit or bulk job is under way or if the copy's applied index is another: then a
        commit came in between, and the copy is to be thrown away."""
    def close(self) -> None:
        """Waits for the running commit, stops the threads, closes the environment. Idempotent."""
