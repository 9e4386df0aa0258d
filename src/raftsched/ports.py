"""The joints between the rooms, as protocols: who offers what to whom. No behaviour here.

Time is always an argument: `now_ms` is wall time in ms since the epoch, `mono_ms` a monotonic clock in ms.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from raftsched.types import Change, MemberInfo, Result, ResultSink, TxnBranch

# --------------------------------------------------------------------------------------------------------------------
# The bridge: what the scheduler knows of any etcd (docs/architecture.md, "Two towers and one bridge")
# --------------------------------------------------------------------------------------------------------------------


class KvChange(Change):
    """A `Change`, as the bridge hands it over; `sub` locates the record in embedded mode, a name table in external mode."""


class ChangeSink(Protocol):
    """Receives the changes of subscribed prefixes, in revision order, each once."""

    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        """`changes` of one apply batch (may hold several revisions, never part of one); all up to `revision` are now known."""

    def on_reset(self) -> None:
        """The history was lost (compaction, snapshot, new connection): drop what you know and `scan` again."""


class KvClient(Protocol):
    """An etcd as the scheduler needs it; two implementations (embedded, external) run one test suite."""

    async def range(self, request: bytes) -> tuple[int, bytes]:
        """A linearizable etcdserverpb.RangeRequest; (revision, RangeResponse without header).

        Raises `StatusError`; transient failures are retried inside until the caller is cancelled.
        """

    async def txn(self, request: bytes) -> tuple[int, bytes]:
        """An etcdserverpb.TxnRequest; (revision, TxnResponse without header). Raises `StatusError`."""

    def txn_many(self, branches: Sequence[TxnBranch], done: Callable[[Sequence[bool] | None], None]) -> None:
        """Many independent guarded changes as one request: one Raft entry, one revision, each branch decides for itself.

        `done(succeeded per branch)` or `done(None)` when the outcome is unknown: then re-read. Form: one Txn whose success
        operations are nested Txns; an external etcd gets it cut to its operation limit.
        """

    def subscribe(self, prefixes: Sequence[bytes], sink: ChangeSink) -> Callable[[], None]:
        """Changes of these prefixes from now on; call the result to end it."""

    async def scan(self, prefix: bytes, on_page: Callable[[Sequence[Change]], None]) -> int:
        """All live keys of a prefix at one revision, paged, in key order; returns that revision.

        A page's items are `Change`s with deleted=False, and main, sub of the record.
        """

    def read_record(self, main: int, sub: int, key: bytes | None) -> bytes | None:
        """The stored mvccpb.KeyValue put at (main, sub), or None if compacted away. Local and immediate (embedded)."""

    async def lease_grant(self, ttl_s: int) -> int:
        """A new lease; its id."""

    def lease_keep_alive(self, lease: int, lost: Callable[[], None]) -> Callable[[], None]:
        """Renews until the result is called; `lost` is called once when the lease is gone."""

    async def lease_revoke(self, lease: int) -> None: ...

    def peers(self) -> Sequence[int]:
        """Embedded: ids of the members that the leader heard within one election timeout. External: empty."""

    def fence_ms(self) -> int:
        """Monotonic ms until which this replica may trigger; a lone voter: far in the future."""


# --------------------------------------------------------------------------------------------------------------------
# The store's public face, as rpc/etcd and the embedded bridge see it (store/node.py)
# --------------------------------------------------------------------------------------------------------------------


class StoreNode(Protocol):
    """One member of the store."""

    @property
    def member_id(self) -> int: ...
    @property
    def cluster_id(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def leader_id(self) -> int:
        """0 when none is known."""

    @property
    def revision(self) -> int: ...

    def propose_many(self, kind: int, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink) -> None:
        """Writes: `kind` is the field number of InternalRaftRequest (put 4, delete_range 5, txn 6, compaction 7,
        lease_grant 8, lease_revoke 9, alarm 10), `messages` the clients' request bytes, verbatim and already validated.

        Each token is answered exactly once: after apply, or with NO_LEADER, TOO_MANY_REQUESTS, REQUEST_TOO_LARGE, NO_SPACE,
        TIMEOUT (outcome unknown) or STOPPED.
        """

    def read_many(self, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink) -> None:
        """Linearizable RangeRequests (already validated), by one ReadIndex for the batch."""

    def read_local(self, message: bytes) -> Result:
        """A serializable RangeRequest, at once."""

    def read_barrier(self) -> Awaitable[None]:
        """Done when everything committed before the call is applied here (ReadIndex). Raises `StatusError`."""

    def header(self, revision: int) -> bytes:
        """Field 1 of a response: tag, length and ResponseHeader; revision 0 leaves the revision out."""

    def members(self) -> Sequence[MemberInfo]: ...


class Stream(Protocol):
    """One open gRPC stream, as a handler sees it (rpc/http2)."""

    @property
    def handle(self) -> int: ...

    def push(self, message: bytes) -> bool:
        """Queues one message; False = no room any more: stop until `on_writable`. The message is taken in any case."""

    def finish(self, code: int = 0, message: str = "") -> None: ...

    def metadata(self, name: str) -> str | None: ...


class StreamHandler(Protocol):
    """What a bidi or server-streaming method implements; made per stream, called on the loop thread."""

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """What arrived in this tick, in order."""

    def on_half_close(self) -> None:
        """The client sent its last message."""

    def on_writable(self) -> None:
        """There is room again after `push` said no."""

    def on_closed(self, code: int) -> None:
        """Gone, exactly once: the client cancelled, the deadline passed, the connection broke, or `finish` was sent."""
