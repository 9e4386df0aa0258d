"""The contract of the native MVCC store; docs/internals.md tells how it is built."""

import sys
from collections.abc import Sequence
from typing import Protocol

from raftsched.store._records import Generation, RecordSource
from raftsched.types import Change, Result

def crc32c(data: bytes, crc: int = 0, *, by_table: bool = False) -> int:
    """Continues `crc` over `data`; `by_table` takes the road of a processor without the instruction."""

class LeaseBook(Protocol):
    """What the store asks of the lessor (store/lease.py); called inside apply, deterministic.

    `attach` names a lease that `exists` just confirmed; `detach` names one that the key was attached to.
    """

    def exists(self, lease: int) -> bool: ...
    def attach(self, lease: int, key: bytes) -> None: ...
    def detach(self, lease: int, key: bytes) -> None: ...

class HashPlan:
    """The hash of a revision, computed while others write: what `hash_kv` does at once, in three parts.

    Every record up to `revision` must be in the backend, `revision` not compacted, and nothing may be scrubbed until the end.
    """

    crc: int
    """Once the scan has ended: the hash."""
    compact_revision: int
    """As of the beginning."""
    def __init__(self, store: MvccStore, revision: int) -> None: ...
    def step(self, keys_max: int) -> bool:
        """Looks at that many keys of the index, on the loop's thread; whether all were seen."""
    def job(self) -> object:
        """After the last step: what `Backend.start_scan` runs from 0 to `revision`, on any thread."""

class RangePlan:
    """A range too large to be answered in one turn of the loop, as of `revision`, whatever is written between two steps."""

    revision: int
    def step(self, keys_max: int, bytes_max: int) -> Result | None:
        """Looks at `keys_max` keys at most, and none more once it has found `bytes_max`; the answer once all are seen, not to be called
        again then. COMPACTED: what it reads was compacted meanwhile."""

class MvccStore:
    """All keys and their history. Decides; does no IO and reads no clock.

    Records come from `source` (what LMDB holds) and from two pending generations: *filling* (since the last swap) and
    *committing* (handed to the backend). Invariant: a live record is found in exactly one of the three, or in source and
    committing for the moment between commit and `release`.
    """

    revision: int
    """Current main revision; 1 on a fresh store."""
    compact_revision: int
    """-1 = nothing compacted."""
    key_count: int
    """Live keys."""
    superseded_count: int
    """Records that compaction could drop: old versions and tombstones not yet scrubbed."""
    put_total: int
    delete_total: int
    range_total: int
    txn_total: int
    """Operations since the start, as etcd counts them: compares, previous values and checks are ranges; a transaction is
    what did more than one operation on one view of the store, so that a put with prev_kv is one, and a lone put is none."""
    put_bytes_total: int
    """Keys and values of all puts."""
    watching: bool
    """While False `take_changes` stays empty and costs nothing."""

    def __init__(self, source: RecordSource, leases: LeaseBook, *, hash_seed: int, txn_ops_max: int = 128) -> None: ...

    # -- validation, at the door (pure): 0 or an EtcdError number, MALFORMED if the bytes are no such message
    def check_put(self, request: bytes) -> int: ...
    def check_range(self, request: bytes) -> int: ...
    def check_delete_range(self, request: bytes) -> int: ...
    def check_txn(self, request: bytes) -> int:
        """Counts operations against txn_ops_max, empty keys, duplicate keys by interval (etcd-api §1.1)."""
    def range_is_serializable(self, request: bytes) -> bool:
        """Whether a RangeRequest asks for a local read; False for what is none."""
    def txn_is_read_only(self, request: bytes) -> int:
        """0 = it writes; 1 = reads only, linearizable; 2 = reads only, all serializable or compares only."""
    def cost(self, kind: int, request: bytes) -> int:
        """Bytes for the quota check (etcd-api §1.5); 0 for what the quota lets through."""

    # -- apply side: called by store/apply.py only, in log order
    def put(self, request: bytes) -> Result: ...
    def delete_range(self, request: bytes) -> Result: ...
    def txn(self, request: bytes) -> Result:
        """Also evaluates read-only transactions, which then take no revision."""
    def delete_keys(self, keys: Sequence[bytes]) -> int:
        """Lease expiry: deletes what exists of `keys` (sorted) in one revision; the revision, unchanged if none existed."""
    def compact(self, revision: int) -> Result:
        """Logical compaction (COMPACTED, FUTURE_REVISION); the scrub is done by `scrub`."""

    # -- read side
    def range(self, request: bytes) -> Result: ...
    def range_many(self, requests: Sequence[bytes]) -> list[Result]: ...
    def range_some(
        self, requests: Sequence[bytes], *, bytes_max: int, slice_keys: int, slice_bytes: int
    ) -> tuple[list[Result], RangePlan | None]:
        """As `range_many`, but none more once `bytes_max` of answers are reached, and ends at the first that has more than `slice_keys`
        keys to be looked at, or more than `slice_bytes` to be sent: for that one, which is behind the answered ones, there is a plan.
        What is sorted or filtered is answered whole."""
    def record(self, main: int, sub: int) -> bytes | None:
        """The stored KeyValue at (main, sub), pending ones included."""
    def previous(self, key: bytes, before_main: int) -> bytes | None:
        """KeyValue of `key` as of revision before_main - 1 (for prev_kv of watches), None if absent or compacted."""
    def live(self, start: bytes, end: bytes, after: bytes | None, limit: int) -> list[Change]:
        """Up to `limit` live keys of [start, end) after key `after`, in key order, as changes with deleted=False."""
    def history(self, from_main: int, revisions_max: int, bytes_max: int = ...) -> tuple[list[Change], int]:
        """Changes of main >= from_main, ascending, whole revisions only, at most `revisions_max` distinct ones, none more
        once `bytes_max` of records are reached; and the next revision to ask for (current + 1 when caught up)."""
    def hash_kv(self, revision: int) -> tuple[int, int, int, int]:
        """(error, hash, compact_revision, hash_revision), as etcd computes it (etcd-api §3.6)."""

    # -- changes of the present apply batch
    def take_changes(self) -> list[Change]: ...

    # -- pending generations
    pending_bytes: int
    def swap(self) -> Generation:
        """Freezes *filling* and makes it *committing*; legal only after the former committing one was released."""
    def release(self) -> None:
        """The backend has committed and renewed its read transaction: drop the committing generation."""

    # -- compaction in slices
    def scrub(self, keys_max: int, *, records_max: int = sys.maxsize) -> tuple[list[tuple[int, int, bool]], bool]:
        """Next slice of records that the last `compact` made unreachable, as (main, sub, tombstone) to delete from the
        backend, and whether the scrub is finished. Looks at `keys_max` keys at most, of those with history alone, and names
        `records_max` records at most, and one tombstone.

        Some of the records may still be pending: hand the deletions to the backend together with the *next* swapped
        generation, which it stores first. After a restart the first compaction, or `load`, finds what was not deleted."""
    def oldest_revision_keeping(self, superseded_max: int) -> int:
        """The oldest revision to compact to so that at most `superseded_max` superseded records stay (history bound), finer than
        256 records; `compact_revision` when there is nothing to do."""

    # -- start
    def load(self, *, revision_hint: int = 0, compact_revision: int = -1) -> list[tuple[int, bytes]]:
        """Rebuilds the index from `source` (releases the GIL); (lease id, key) of every attached key. Once, before use.

        With a `compact_revision`, `scrub` then finishes what a crash interrupted. Raises CorruptError, FatalError."""
    def memory_bytes(self) -> dict[str, int]:
        """Bytes by part: entries (keys with what is latest), table, tree, history, pending, other."""
