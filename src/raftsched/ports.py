"""The joints between the rooms, as protocols: who offers what to whom. No behaviour here.

Time is always an argument: `now_ms` is wall time in ms since the epoch, `mono_ms` a monotonic clock in ms.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from raftsched.types import Change, Identity, MemberInfo, Result, ResultSink

# --------------------------------------------------------------------------------------------------------------------
# The bridge: what the scheduler knows of any etcd (docs/architecture.md, "Two towers and one bridge")
# --------------------------------------------------------------------------------------------------------------------


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

    def write_many(self, kind: int, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink) -> None:
        """Independent writes: `kind` 4 PutRequests, 5 DeleteRangeRequests, 6 TxnRequests. Each token is answered once, see
        `StoreNode.propose_many`; transient refusals are the caller's to repeat."""

    def txn_packed(self, request: bytes, count: int, done: Callable[[int, int, bytes], None]) -> None:
        """Many independent guarded changes as one Raft entry: a TxnRequest whose success operations are `count` nested Txns,
        each of which decides for itself.

        `done(error, revision, outcomes)`, once: error 0, one byte per branch, 1 = its guards held; before it the subscribers
        have been told all changes up to `revision`. Else an `EtcdError`: refused, or with TIMEOUT and the like unknown.
        Guards on ModRevision make it safe to send the same request again. An external etcd gets it cut to its operation limit.
        """

    def subscribe(self, sink: ChangeSink) -> Callable[[], None]:
        """Changes of all of the scheduler's keys from now on (others may be among them); call the result to end it."""

    async def scan(self, prefix: bytes, on_page: Callable[[Sequence[Change]], None]) -> int:
        """All live keys of a prefix, paged, in key order; the revision of the last page.

        A page's items are `Change`s with deleted=False, and main, sub of the record. Subscribed changes come between the
        pages; a page is never older than the changes told before it.
        """

    def read_record(self, main: int, sub: int) -> bytes | None:
        """The stored mvccpb.KeyValue put at (main, sub), or None if compacted away. Local and immediate."""

    async def lease_grant(self, ttl_s: int) -> int:
        """A new lease; its id."""

    def lease_keep_alive(self, lease: int, lost: Callable[[], None]) -> Callable[[], None]:
        """Renews until the result is called; `lost` is called once when the lease is gone."""

    async def lease_revoke(self, lease: int) -> None:
        """Its keys go with it; a lease that is not there is no error."""

    def owns_directory(self) -> bool:
        """Embedded: this process holds the lock of the data directory, so an older lease on its own leadership key is its own."""

    def shared(self) -> bool:
        """External: replicas of Dapr's Scheduler may be among those that write leadership keys."""

    def peers(self) -> Sequence[int]:
        """Embedded: ids of the members that the leader heard within one election timeout. External: empty."""

    def fence_ms(self) -> int:
        """Monotonic ms until which this replica may trigger; a lone voter: FENCE_ALONE_MS. External: while its lease surely lives."""

    def dead(self, names: Collection[str]) -> Collection[str]:
        """Embedded, at the leader: those of these schedulers whose members cannot trigger any more. Elsewhere: none."""

    def stuck(self, mono_ms: int) -> str:
        """Why the store has not gone on with what it was asked for STUCK_MS, in words for people; "" = it goes on."""


# --------------------------------------------------------------------------------------------------------------------
# The store's public face, as rpc/etcd and the embedded bridge see it (store/node.py)
# --------------------------------------------------------------------------------------------------------------------


Permit = Callable[[Sequence[int], Sequence[bytes]], tuple[Sequence[int], Sequence[bytes]]]
"""Of (tokens, messages) those that may be read; the others it has answered."""


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
    def is_learner(self) -> bool:
        """It has no vote, and serves clients next to nothing (etcd-api §1.0). Asked for every batch."""

    @property
    def revision(self) -> int: ...

    def propose_many(
        self, kind: int, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink, *, identity: Identity = ...
    ) -> None:
        """Writes: `kind` is the field number of InternalRaftRequest (put 4, delete_range 5, txn 6, compaction 7,
        lease_grant 8, lease_revoke 9, alarm 10, auth 1000 ...), `messages` the clients' request bytes, verbatim and already validated;
        `identity`: whose they are, by default nobody's. Every member permits or refuses them where they are applied.

        Each token is answered exactly once: after apply, or with NO_LEADER, TOO_MANY_REQUESTS, REQUEST_TOO_LARGE, NO_SPACE,
        TIMEOUT (outcome unknown) or STOPPED.
        """

    def read_many(self, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink, *, permit: Permit | None = None) -> None:
        """Linearizable RangeRequests (already validated), by one ReadIndex for the batch. `permit` is asked behind it, while
        authentication is on."""

    def read_local(self, message: bytes) -> Result:
        """A serializable RangeRequest, at once; whoever calls has asked whether it is permitted."""

    def read_local_many(self, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink) -> None:
        """As `read_local`, several in one go; large ones are answered later, in slices of the loop, as of one revision each."""

    def read_barrier(self) -> Awaitable[None]:
        """Done when everything committed before the call is applied here (ReadIndex). Raises `StatusError`."""

    def header(self, revision: int) -> bytes:
        """Field 1 of a response: tag, length and ResponseHeader; revision 0 leaves the revision out."""

    def members(self) -> Sequence[MemberInfo]: ...

    @property
    def auth(self) -> Any:
        """store/node/authentication.Authentication: users, what they may do, logging in. Any: no port knows a room."""

    @property
    def cluster_version(self) -> str:
        """Major and minor, the patch is 0; "" = not decided yet."""

    def fence_ms(self) -> int:
        """Monotonic ms until which this member's scheduler may trigger; a lone voter: FENCE_ALONE_MS."""

    def waiting_since_ms(self) -> int:
        """Since when (monotonic ms) the oldest write that was asked for here has waited for its answer; 0 = none waits."""

    def peers(self) -> Sequence[int]:
        """At the leader: members that it heard within one election timeout. Elsewhere: none."""

    def dead(self, names: Collection[str]) -> Collection[str]:
        """At the leader: those of these members, by name, that cannot trigger any more. Elsewhere: none."""

    # -- what rpc/etcd needs beyond writes and reads; all of it local and immediate unless it is awaitable
    @property
    def mvcc(self) -> "StoreReader":
        """The store's validation and read side (store/mvcc/_store.pyi); never its apply side."""

    def add_change_sink(self, sink: ChangeSink) -> Callable[[], None]:
        """All changes from the next applied entry on, each batch before its writers are answered; the result ends it.
        While no sink is there the store may skip collecting changes (`MvccStore.watching`)."""

    def next_lease_id(self) -> int:
        """A fresh positive id for LeaseGrant with ID 0: 2 bytes of the member id, 5 of ms time, 1 counter (etcd-api §1.3)."""

    async def lease_renew(self, lease: int) -> int:
        """LeaseKeepAlive: the granted TTL in seconds after renewing; 0 = unknown or expired (waits for its revocation).
        Raises `StatusError` (NO_LEADER, ...)."""

    def lease_answer_now(self, message: bytes) -> bytes | None:
        """The LeaseKeepAliveResponse to a LeaseKeepAliveRequest where nothing has to be waited for: at a lone leader. None: it must be, or
        the message is an odd one; decode it and ask `lease_renew`."""

    async def lease_time_to_live(self, lease: int, *, keys: bool) -> tuple[int, int, Sequence[bytes]]:
        """(remaining seconds, granted seconds, attached keys sorted if asked); (-1, 0, ()) = unknown."""

    async def lease_ids(self) -> Sequence[int]:
        """All leases that are applied here, soonest expiry first; at once."""

    def alarms(self) -> Sequence[tuple[int, int]]:
        """(member id, alarm type: 1 NOSPACE, 2 CORRUPT) that are raised."""

    def status(self) -> "StoreStatus": ...

    async def scrubbed(self) -> None:
        """Done when every compaction applied so far has been scrubbed and committed (Compact with physical=true)."""

    async def defragment(self) -> None: ...

    async def hash(self) -> int:
        """Maintenance.Hash: CRC-32C over the whole backend but meta{term, consistent_index, storageVersion}."""

    async def hash_kv(self, revision: int) -> tuple[int, int, int]:
        """Maintenance.HashKV: (hash, compact revision, hash revision); 0 = the present revision. Raises `StatusError`."""

    async def snapshot(self) -> "SnapshotFile":
        """Maintenance.Snapshot: everything that is applied now, in a file that is complete when this returns. Raises `StatusError`."""

    def counters(self) -> Mapping[str, float]:
        """Monotonic counts and present values under etcd's metric names without label (etcd-api §4.5, appendix C);
        a name that has no true value here is absent."""

    def histograms(self) -> Mapping[str, tuple[Sequence[tuple[float, int]], float]]:
        """Metric name without suffix -> ([(upper bound, cumulative count)...] ending with inf, sum in the metric's unit)."""

    def labelled(self) -> "Labelled":
        """Metrics with labels, in the same forms."""


Labelled = Mapping[str, tuple[tuple[str, ...], Mapping[tuple[str, ...], float | tuple[Sequence[tuple[float, int]], float]]]]
"""Metric name -> (names of labels, {their values: number, or histogram})."""


class Duties(Protocol):
    """What a member does for all, and gives to the others before it leaves them: the scheduler's jobs."""

    async def give_away(self) -> None:
        """Done when the others may go on with it; takes at most some seconds, and does not fail."""

    def take_up(self) -> None:
        """The member stays after all; no effect if nothing was given away, or the process ends."""


@runtime_checkable
class MemberNode(Protocol):
    """A `StoreNode` whose members can be changed. Each raises `StatusError` with etcd's errors, and is done when the change is applied."""

    async def change_members(self, change: int, member_id: int, peer_urls: Sequence[str], *, is_learner: bool) -> Sequence[MemberInfo]:
        """`change` is a raftpb.ConfChangeType: 0 add (`member_id` 0: it is drawn), 1 remove, 2 update of the URLs. The members after it."""

    async def leave(self) -> Sequence[MemberInfo]:
        """This member is removed by its own wish: started again on its directory later, it joins as a new one. The members after it."""

    async def promote(self, member_id: int) -> Sequence[MemberInfo]:
        """A learner becomes a voter. The members after it."""

    def promotion_failures(self) -> Mapping[str, int]:
        """Promotions that this member has refused as the leader, by etcd's words for the reason."""

    async def downgrade(self, action: int, version: str) -> str:
        """Maintenance.Downgrade: `action` 0 validates, 1 enables, 2 cancels. The cluster's version when it was asked for."""

    async def move_leader(self, member_id: int) -> None:
        """Leader only; done when the target leads."""


class TokenSigner(Protocol):
    """Tokens that every member can tell by their signature (security/jwt_tokens.py)."""

    def find(self, token: str) -> Identity | None:
        """Whom it names, and the auth revision of when it was signed; None: not ours, or over."""

    def sign(self, user: str, revision: int) -> str:
        """Raises `StatusError`: this member can only verify."""


class SnapshotFile(Protocol):
    """A bbolt file of one moment, to be read once from its beginning to its end."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def version(self) -> str:
        """The storage version that it has stored; "" = none."""

    async def read(self) -> bytes:
        """The next bytes; b"" = that was all. Raises OSError."""

    def digest(self) -> bytes:
        """SHA-256 of all that was read."""

    def close(self) -> None:
        """The file goes. Idempotent; not while `read` is under way."""


class StoreReader(Protocol):
    """What rpc/etcd and store/watch call of `MvccStore`; same meaning as there."""

    @property
    def revision(self) -> int: ...
    @property
    def compact_revision(self) -> int: ...
    def check_put(self, request: bytes) -> int: ...
    def check_range(self, request: bytes) -> int: ...
    def range_is_serializable(self, request: bytes) -> bool: ...
    def check_delete_range(self, request: bytes) -> int: ...
    def check_txn(self, request: bytes) -> int: ...
    def txn_is_read_only(self, request: bytes) -> int: ...
    def txn(self, request: bytes) -> Result:
        """Called by rpc/etcd for read-only transactions only."""

    def record(self, main: int, sub: int) -> bytes | None: ...
    def live(self, start: bytes, end: bytes, after: bytes | None, limit: int) -> list[Change]: ...
    def previous(self, key: bytes, before_main: int) -> bytes | None: ...
    def history(self, from_main: int, revisions_max: int, bytes_max: int = ...) -> tuple[list[Change], int]: ...


class StoreStatus(NamedTuple):
    """What Maintenance.Status tells beside the header (etcd-api §1.5); sizes in bytes."""

    db_size: int
    db_size_in_use: int
    quota: int
    raft_index: int
    """Committed."""
    applied_index: int
    is_learner: bool
    downgrade_target: str = ""
    """The version that the cluster is being downgraded to; "" = it is not."""


class Log(Protocol):
    """Where log lines go: one message, then fields in the order given. structlog's bound loggers are such."""

    def debug(self, message: str, /, **fields: object) -> object: ...
    def info(self, message: str, /, **fields: object) -> object: ...
    def warning(self, message: str, /, **fields: object) -> object: ...
    def error(self, message: str, /, **fields: object) -> object: ...


class Stream(Protocol):
    """One open gRPC stream, as a handler sees it (rpc/http2)."""

    @property
    def handle(self) -> int: ...
    @property
    def method(self) -> str:
        """/package.Service/Method."""

    def push(self, message: bytes) -> bool:
        """Queues one message; False = no room any more: stop until `on_writable`. The message is taken in any case."""

    def finish(self, code: int = 0, message: str = "") -> None: ...

    def metadata(self, name: str) -> str | None: ...

    def peer_certificate(self) -> dict[str, Any] | None:
        """What the peer showed, as `ssl` gives it; None without TLS."""


class StreamHandler(Protocol):
    """What a bidi or server-streaming method implements; made per stream, called on the loop thread.

    It may have an `on_broken(error: StatusError)`: what came behind the last messages cannot be unpacked. It then finishes the stream by
    `error` once it has answered what came before; without one the door finishes it at once."""

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """What arrived in this tick, in order."""

    def on_half_close(self) -> None:
        """The client sent its last message."""

    def on_writable(self) -> None:
        """There is room again after `push` said no."""

    def on_closed(self, code: int) -> None:
        """Gone, exactly once: the client cancelled, the deadline passed, the connection broke, or `finish` was sent."""
