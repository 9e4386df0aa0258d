"""etcd's recipes for locks and elections, as the services v3lock and v3election run them inside the server (etcd-api §1.7).

A recipe is a generator: it says what is to be done next (`Step`) and is sent what came of it (`Answer`), or thrown a `StatusError`. What it
returns is the whole response. So the decisions are here, and clients, clocks, the log and watches are not.
Everything is ordinary keys, leases and transactions, and takes the revisions that it takes in etcd.

Invariant: who waits has a key `<name>/<lease in hex>` on its lease; who has the lowest create revision below `<name>/` holds or leads.
Must not know: gRPC, tasks, how a step is done.
"""

from collections.abc import Generator
from contextlib import suppress
from typing import Final, NamedTuple

from raftsched.errors import GrpcCode, StatusError
from raftsched.pb.etcd.kv_pb2 import KeyValue
from raftsched.pb.etcd.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    LeaseGrantResponse,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from raftsched.pb.etcd.v3election_pb2 import CampaignResponse, LeaderKey, LeaderResponse
from raftsched.pb.etcd.v3lock_pb2 import LockResponse

SESSION_TTL_S: Final = 60  # of the lease that the server makes for who brings none; nobody renews it
SESSION_EXPIRED: Final = "mutex: session is expired"
NOT_LEADER: Final = "election: not leader"
NO_LEADER: Final = "election: no leader"
LEADER_MISSING: Final = '"leader" field must be provided'


class Grant(NamedTuple):
    """A new lease; the answer's body is a LeaseGrantResponse."""

    ttl_s: int


class Txn(NamedTuple):
    """Through the log; the answer's body is a TxnResponse."""

    request: TxnRequest


class Delete(NamedTuple):
    """Through the log; the answer's body is a DeleteRangeResponse."""

    key: bytes


class Undo(NamedTuple):
    """A place in line is given up. It is nobody's request, as in etcd: while authentication is on it is refused, and the key stays as long
    as its lease."""

    step: Txn | Delete


class Read(NamedTuple):
    """Linearizable; the answer's body is a RangeResponse."""

    request: RangeRequest


class Deletion(NamedTuple):
    """Waits until `key` is deleted behind revision `after`; an empty answer."""

    key: bytes
    after: int


class Appearance(NamedTuple):
    """Waits for the first put below `prefix` behind revision `after`; the answer's body is the KeyValue, its revision the key's."""

    prefix: bytes
    after: int


class Follow(NamedTuple):
    """Tells every put of `key` behind revision `after` until it is deleted; an empty answer."""

    key: bytes
    after: int


class Tell(NamedTuple):
    """One message of a stream; an empty answer."""

    message: bytes


class Answer(NamedTuple):
    """`header` is field 1 of a response, as it was when the step was done; the others as in `types.Result`."""

    header: bytes
    revision: int
    body: bytes


Step = Grant | Txn | Delete | Undo | Read | Deletion | Appearance | Follow | Tell
Recipe = Generator[Step, Answer, bytes]
DONE: Final = Answer(b"", 0, b"")


class GoneError(StatusError):
    """Nobody waits for the response any more: the client is gone, or the server is about to be."""


# -- locks


def lock(name: bytes, lease: int) -> Recipe:
    """Raises `StatusError` when the lock is not had; a key that is still in line is taken back then, the lease stays."""
    lease = yield from session(lease)
    prefix = name + b"/"
    key = b"%s%x" % (prefix, lease)
    first = first_of(prefix)
    request = TxnRequest(
        compare=[created_at(key, 0)],
        success=[putting(key, b"", lease), reading(first)],
        failure=[reading(RangeRequest(key=key)), reading(first)],
    )
    answer = yield Txn(request)
    found = TxnResponse.FromString(answer.body)
    holders = found.responses[1].response_range.kvs
    created = answer.revision if found.succeeded else found.responses[0].response_range.kvs[0].create_revision
    if holders and holders[0].create_revision != created:
        try:
            yield from predecessors_gone(prefix, created)
            answer = yield Read(RangeRequest(key=key))
        except StatusError:
            yield from attempt(Undo(Delete(key)))
            raise
        if not RangeResponse.FromString(answer.body).kvs:  # looked at only when the line is done: etcd does not end it earlier
            raise StatusError(GrpcCode.UNKNOWN, SESSION_EXPIRED)
    return answer.header + LockResponse(key=key).SerializeToString()


def unlock(key: bytes) -> Recipe:
    """Whatever `key` is."""
    answer = yield Delete(key)
    return answer.header


# -- elections


def campaign(name: bytes, lease: int, value: bytes) -> Recipe:
    """The response's header is of when the candidate got into line. A candidate whose key is lost while it waits is told that it leads,
    as in etcd: its first Proclaim tells it better."""
    lease = yield from session(lease)
    prefix = name + b"/"
    key = b"%s%x" % (prefix, lease)
    request = TxnRequest(
        compare=[created_at(key, 0)],
        success=[putting(key, value, lease)],
        failure=[reading(RangeRequest(key=key))],
    )
    answer = yield Txn(request)
    found = TxnResponse.FromString(answer.body)
    created = answer.revision
    if not found.succeeded:
        earlier = found.responses[0].response_range.kvs[0]
        created = earlier.create_revision
        if earlier.value != value:
            yield from _candidate_proclaims(LeaderKey(key=key, rev=created, lease=lease), value)
    try:
        yield from predecessors_gone(prefix, created)
    except GoneError:  # after any other failure the key stays, as in etcd
        yield from attempt(Undo(resigning(key, created)))
        raise
    leader = LeaderKey(name=name, key=key, rev=created, lease=lease)
    return answer.header + CampaignResponse(leader=leader).SerializeToString()


def _candidate_proclaims(leader: LeaderKey, value: bytes) -> Generator[Step, Answer, None]:
    try:
        yield from _proclaim(leader, value, leader.lease)
    except StatusError as error:
        if error.message != NOT_LEADER:
            yield from attempt(resigning(leader.key, leader.rev))
        raise


def proclaim(leader: LeaderKey | None, value: bytes) -> Recipe:
    """A leader key without a lease gets a new one, as in etcd."""
    if leader is None:
        raise StatusError(GrpcCode.UNKNOWN, LEADER_MISSING)
    lease = yield from session(leader.lease)
    answer = yield from _proclaim(leader, value, lease)
    return answer.header


def _proclaim(leader: LeaderKey, value: bytes, lease: int) -> Generator[Step, Answer, Answer]:
    request = TxnRequest(compare=[created_at(leader.key, leader.rev)], success=[putting(leader.key, value, lease)])
    answer = yield Txn(request)
    if not TxnResponse.FromString(answer.body).succeeded:
        raise StatusError(GrpcCode.UNKNOWN, NOT_LEADER)
    return answer


def resign(leader: LeaderKey | None) -> Recipe:
    """No error when somebody else leads. A leader key without a lease makes one, as in etcd."""
    if leader is None:
        raise StatusError(GrpcCode.UNKNOWN, LEADER_MISSING)
    yield from session(leader.lease)
    answer = yield resigning(leader.key, leader.rev)
    return answer.header


def leader_of(name: bytes) -> Recipe:
    """Who leads now."""
    answer = yield Read(first_of(name + b"/"))
    kvs = RangeResponse.FromString(answer.body).kvs
    if not kvs:
        raise StatusError(GrpcCode.UNKNOWN, NO_LEADER)
    return leader_response(answer.header, kvs[0])


def observe(name: bytes) -> Recipe:
    """Tells the present leader and each of its values, then the next one, without end. A leader that was so only between two looks may be
    left out, as in etcd."""
    prefix = name + b"/"
    while True:
        answer = yield Read(first_of(prefix))
        kvs = RangeResponse.FromString(answer.body).kvs
        if kvs:
            kv = kvs[0]
        else:
            answer = yield Appearance(prefix, answer.revision)
            kv = KeyValue.FromString(answer.body)
        yield Tell(leader_response(answer.header, kv))
        yield Follow(kv.key, answer.revision)


# -- what they share


def session(lease: int) -> Generator[Step, Answer, int]:
    """The caller's lease, not looked at; a new one for 0."""
    if lease:
        return lease
    answer = yield Grant(SESSION_TTL_S)
    return LeaseGrantResponse.FromString(answer.body).ID


def predecessors_gone(prefix: bytes, created: int) -> Generator[Step, Answer, None]:
    """Until no key below `prefix` is older than revision `created`. Each waits for the youngest before it, so that a deletion wakes one."""
    while True:
        answer = yield Read(last_before(prefix, created))
        kvs = RangeResponse.FromString(answer.body).kvs
        if not kvs:
            return
        yield Deletion(kvs[0].key, answer.revision)


def attempt(step: Step) -> Generator[Step, Answer, None]:
    """Does what can be done: a failure behind a failure is not told."""
    with suppress(StatusError):
        yield step


def resigning(key: bytes, created: int) -> Txn:
    delete = RequestOp(request_delete_range=DeleteRangeRequest(key=key))
    return Txn(TxnRequest(compare=[created_at(key, created)], success=[delete]))


def prefix_end(prefix: bytes) -> bytes:
    """Of a prefix that ends in a slash."""
    return prefix[:-1] + b"0"


def first_of(prefix: bytes) -> RangeRequest:
    return RangeRequest(key=prefix, range_end=prefix_end(prefix), limit=1, sort_order=RangeRequest.ASCEND, sort_target=RangeRequest.CREATE)


def last_before(prefix: bytes, created: int) -> RangeRequest:
    """The youngest key that is older than `created`, which is at least 2: the first revision that a key can have."""
    return RangeRequest(
        key=prefix,
        range_end=prefix_end(prefix),
        limit=1,
        sort_order=RangeRequest.DESCEND,
        sort_target=RangeRequest.CREATE,
        keys_only=True,
        max_create_revision=created - 1,
    )


def created_at(key: bytes, revision: int) -> Compare:
    return Compare(result=Compare.EQUAL, target=Compare.CREATE, key=key, create_revision=revision)


def putting(key: bytes, value: bytes, lease: int) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key, value=value, lease=lease))


def reading(request: RangeRequest) -> RequestOp:
    return RequestOp(request_range=request)


def leader_response(header: bytes, kv: KeyValue) -> bytes:
    return header + LeaderResponse(kv=kv).SerializeToString()
