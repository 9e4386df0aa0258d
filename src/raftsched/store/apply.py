"""From committed entries to deterministic changes of everything that is replicated.

The chain, outermost first: *corrupt* (a CORRUPT alarm stops keys and leases), *capped* (a NOSPACE alarm stops what grows), *auth* (who may
touch what, once authentication is on: store/auth), *backend* (the store itself). It is a table of handlers by kind of request, rebuilt only
when an alarm changes or authentication is switched, so that a run of puts costs no look-ups. The quota asks for the alarm before a proposal
(store/quota.py) and after a batch (store/node), never here: sizes differ between members, and what is applied must not.

Invariant: the same entries in the same order give the same state and results on every member; a refused request, or one whose message
cannot be read, is a result, never an exception. A request of a kind that is not known here ends the member, as it ends etcd's ("not
implemented apply"): the cluster has gone on to what a later version knows, and to pass over it would be a state of one's own.
Must not know: clocks, the log, who waits for a result.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from raftsched import proposals
from raftsched.errors import EtcdError, FatalError
from raftsched.store import alarm, codec
from raftsched.store.alarm import AlarmStore
from raftsched.store.auth import requests
from raftsched.store.auth.checks import Checks
from raftsched.store.auth.requests import AuthRequests
from raftsched.store.auth.store import AuthStore
from raftsched.store.codec import WireError, numbers, varint_field
from raftsched.store.lease import Lessor
from raftsched.store.membership import Membership, decode_change
from raftsched.store.mvcc._store import MvccStore
from raftsched.types import NOBODY, Identity, Result

Side = tuple[str, bytes, bytes | None]
Handler = Callable[[bytes], Result]
Meter = Callable[[int, Sequence[Result]], None]
"""Told what was applied since it was called last: requests of one kind, and their results."""
IdRun = tuple[int, int, int]
IdentityRun = tuple[bytes, int, int, int]

NORMAL_ENTRY = 0
NOTHING = 0  # the kind of an empty entry


class SideWrites:
    """What goes into the small buckets with the next transaction; later writes of one key win there by order."""

    def __init__(self) -> None:
        self._writes: list[Side] = []
        self.write = self._writes.append

    def __len__(self) -> int:
        return len(self._writes)

    def take(self) -> list[Side]:
        taken = self._writes[:]
        self._writes.clear()
        return taken


class Applier:
    """Applies runs of committed entries; owns the order in which they reach the rooms."""

    def __init__(
        self,
        store: MvccStore,
        lessor: Lessor,
        alarms: AlarmStore,
        membership: Membership,
        side: SideWrites,
        *,
        auth: AuthStore | None = None,
        version: str = "",
    ) -> None:
        """`auth`: by default one without users. `version`: this member's, for the line that says that it is too old."""
        self.version = version
        self.store = store
        self.lessor = lessor
        self.alarms = alarms
        self.membership = membership
        self.auth = auth or AuthStore(side.write)
        self.checks = Checks(self.auth, lessor.attached)
        self._auth_requests = AuthRequests(self.auth, self.checks)
        self._who = NOBODY  # whose request is being applied; of interest only while authentication is on
        self._index = 0  # of the entry that is being applied, for requests of KINDS
        self.side = side
        self.meter: Meter = lambda _kind, _results: None
        self.applied_index = 0
        self.applied_term = 0
        self.largest_id = 0
        self.compacted_to = 0  # the revision of the last compaction applied since the start, 0 = none
        self._handlers: dict[int, Handler] = {}
        self.rebuild()

    def rebuild(self) -> None:
        """The chain for the alarms that are raised, and for authentication as it is, now."""
        store = self.store
        handlers: dict[int, Handler] = {
            NOTHING: self._nothing,
            proposals.PUT: store.put,
            proposals.DELETE_RANGE: store.delete_range,
            proposals.TXN: store.txn,
            proposals.COMPACTION: self._compact,
            proposals.LEASE_GRANT: self._grant,
            proposals.LEASE_REVOKE: self._revoke,
            proposals.ALARM: self._alarm,
            proposals.CLUSTER_VERSION_SET: self._wire(self.membership.apply_version),
            proposals.MEMBER_ATTRIBUTES_SET: self._wire(self.membership.apply_attributes),
            proposals.DOWNGRADE_INFO_SET: self._wire(self.membership.apply_downgrade),
        }
        handlers |= {kind: partial(self._auth_request, kind) for kind in requests.KINDS}
        if self.auth.enabled:
            handlers |= {
                kind: partial(self._permitted, kind, handlers[kind]) for kind in (proposals.PUT, proposals.DELETE_RANGE, proposals.TXN)
            }
            handlers[proposals.LEASE_REVOKE] = self._permitted_revoke
        if self.alarms.has(alarm.NOSPACE):
            full = self._refuse(EtcdError.NO_SPACE)
            handlers |= {
                proposals.PUT: full,
                proposals.TXN: partial(self._capped_txn, handlers[proposals.TXN]),
                proposals.LEASE_GRANT: full,
            }
        if self.alarms.has(alarm.CORRUPT):
            corrupt = self._refuse(EtcdError.CORRUPT)
            refused = (
                proposals.PUT,
                proposals.DELETE_RANGE,
                proposals.TXN,
                proposals.COMPACTION,
                proposals.LEASE_GRANT,
                proposals.LEASE_REVOKE,
            )
            handlers |= dict.fromkeys(refused, corrupt)
        self._handlers = handlers

    def apply(self, first_index: int, term: int, entry_kind: int, entries: list[bytes]) -> tuple[list[IdRun], list[Result]]:
        """One run of committed entries; (runs of request ids, one result per entry). FatalError, and none of them is applied: one of
        them is of a kind that this member does not know."""
        if first_index != self.applied_index + 1:
            raise AssertionError(f"entry {first_index} after {self.applied_index}")
        if entry_kind != NORMAL_ENTRY:
            changes = [self._change(index, term, entry) for index, entry in enumerate(entries, first_index)]
            return [(change_id, at, at + 1) for at, (change_id, _) in enumerate(changes) if change_id], [result for _, result in changes]
        payloads, kinds, ids, identities = codec.unwrap(entries)
        for kind, start, _ in kinds:
            if kind not in self._handlers:
                raise FatalError(self._too_old(first_index + start, kind))
        results: list[Result] = []
        self.meter(NOTHING, results)
        for kind, start, stop in kinds:
            part: list[Result] = []
            if self.auth.enabled or kind in requests.KINDS:
                self._apply_identified(kind, first_index, payloads, identities, start, stop, part)
            else:
                part += map(self._handlers[kind], payloads if stop - start == len(payloads) else payloads[start:stop])
            self.meter(kind, part)
            if results:
                results += part
            else:
                results = part
        self.applied_index += len(entries)
        self.applied_term = term
        last_id, start, stop = ids[-1]
        self.largest_id = last_id + (stop - start) - 1
        return ids, results

    def _apply_identified(
        self,
        kind: int,
        first_index: int,
        payloads: list[bytes],
        identities: list[IdentityRun],
        start: int,
        stop: int,
        results: list[Result],
    ) -> None:
        """A run of one kind whose requests' owners matter, or their indexes."""
        for who, begin, end in _owners(identities, start, stop):
            self._who = who
            for at in range(begin, end):
                self._index = first_index + at
                results.append(self._handlers[kind](payloads[at]))
        self._who = NOBODY

    def set_time(self, mono_ms: int) -> None:
        """The present, for the ends of leases and tokens alone; nothing that is replicated depends on it."""
        self.lessor.set_time(mono_ms)
        self.auth.now_ms = mono_ms

    # -- handlers

    def _answer(self, body: bytes = b"") -> Result:
        return EtcdError.OK, self.store.revision, body

    def _nothing(self, _payload: bytes) -> Result:
        """A leader's first entry."""
        return self._answer()

    def _too_old(self, index: int, kind: int) -> str:
        what = "none that this member can read" if kind == codec.UNREADABLE else f"of kind {kind}, which this member does not know"
        versions = f"It is of version {self.version or 'unknown'}, its cluster of {self.membership.cluster_version or 'an undecided one'}"
        return f"entry {index} of the log holds a request {what}. {versions}. Nothing of it was applied here; start a later version"

    def _refuse(self, error: EtcdError) -> Handler:
        return lambda _payload: (error, self.store.revision, b"")

    def _wire(self, act: Callable[[bytes], None]) -> Handler:
        def handler(payload: bytes) -> Result:
            try:
                act(payload)
            except WireError:
                return EtcdError.MALFORMED, self.store.revision, b""
            return self._answer()

        return handler

    def _change(self, index: int, term: int, entry: bytes) -> tuple[int, Result]:
        """(the id of the change, 0 = nobody waits; its result). A change has no revision: etcd's Cluster answers show none."""
        self.applied_index = index
        self.applied_term = term
        change_id, error = 0, EtcdError.OK
        try:
            change_id = decode_change(entry)[3]
            error = self.membership.apply_change(entry)
        except WireError:
            error = EtcdError.MALFORMED
        return change_id, (error, self.store.revision, b"")

    def _capped_txn(self, then: Handler, payload: bytes) -> Result:
        if self.store.cost(proposals.TXN, payload) > 0:
            return EtcdError.NO_SPACE, self.store.revision, b""
        return then(payload)

    def _permitted(self, kind: int, then: Handler, payload: bytes) -> Result:
        error = self.checks.request(self._who, kind, payload)
        return (error, self.store.revision, b"") if error else then(payload)

    def _permitted_revoke(self, payload: bytes) -> Result:
        try:
            lease = numbers(payload).get(1, 0)
        except WireError:
            return EtcdError.MALFORMED, self.store.revision, b""
        error = self.checks.keys(self._who, lease, write=True)
        return (error, self.store.revision, b"") if error else self._revoke(payload)

    def _auth_request(self, kind: int, payload: bytes) -> Result:
        was_enabled = self.auth.enabled
        error, body = self._auth_requests.apply(self._who, kind, payload, self._index)
        if self.auth.enabled != was_enabled:
            self.rebuild()
        return error, self.store.revision, body

    def _compact(self, payload: bytes) -> Result:
        try:
            revision = numbers(payload).get(1, 0)
        except WireError:
            return EtcdError.MALFORMED, self.store.revision, b""
        result = self.store.compact(revision)
        if result[0] == EtcdError.OK:
            self.compacted_to = revision
            self.side.write(("meta", b"scheduledCompactRev", revision_key(revision)))
        return result

    def _grant(self, payload: bytes) -> Result:
        try:
            found = numbers(payload)
        except WireError:
            return EtcdError.MALFORMED, self.store.revision, b""
        lease = found.get(2, 0)
        error, ttl_s = self.lessor.grant(lease, found.get(1, 0))
        if error:
            return error, self.store.revision, b""
        return self._answer(varint_field(2, lease) + varint_field(3, ttl_s))

    def _revoke(self, payload: bytes) -> Result:
        try:
            lease = numbers(payload).get(1, 0)
        except WireError:
            return EtcdError.MALFORMED, self.store.revision, b""
        keys = self.lessor.keys_of(lease)
        if keys is None:
            return EtcdError.LEASE_NOT_FOUND, self.store.revision, b""
        if keys:
            self.store.delete_keys(keys)  # detaches them
        self.lessor.revoke(lease)
        return self._answer()

    def _alarm(self, payload: bytes) -> Result:
        try:
            body = self.alarms.apply(payload)
        except WireError:
            return EtcdError.MALFORMED, self.store.revision, b""
        self.rebuild()
        return self._answer(body)


def _owners(identities: list[IdentityRun], start: int, stop: int) -> Iterator[tuple[Identity, int, int]]:
    """Whose the entries of [start, stop) are."""
    if not identities:
        yield NOBODY, start, stop
    for name, revision, first, last in identities:
        begin, end = max(first, start), min(last, stop)
        if begin < end:
            yield Identity(name.decode(errors="replace"), revision), begin, end


def revision_key(revision: int) -> bytes:
    """etcd's 17 bytes of a main revision (etcd-api §3.3)."""
    return revision.to_bytes(8, "big") + b"_" + bytes(8)
