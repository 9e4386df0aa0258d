"""An etcd of three members as its clients see it, in virtual time: one truth, which members apply at their pace, and what befalls it.

A call goes to one member, takes its time, and is done only while a leader has a quorum and the member hears it; its answer may be lost.
Leases live by the leader's clock, and are whole again at each election. A leader that was cut off answers renewals until it notices.
Must not know: who asks.
"""

import asyncio
import random
from collections.abc import Sequence
from contextvars import Context
from typing import Any, Final

import grpc
import grpc.aio

from raftsched.errors import ETCD_STATUS, EtcdError
from raftsched.pb.etcd import rpc_pb2
from raftsched.scheduler.bridge.external import caller
from raftsched.testing.fake_etcd import event_of
from raftsched.testing.memory_etcd import MemoryEtcd
from raftsched.testing.sim.loop import SimLoop
from raftsched.types import Change

MEMBERS: Final = 3
AFTER_S = 1e-9
TICK_S: Final = 0.05
FIRST: Final = 2  # the revision of the first change; each later one is one more
WRITES: Final[dict[str, tuple[int, Any]]] = {
    caller.KV_PUT: (4, rpc_pb2.PutResponse),
    caller.KV_DELETE: (5, rpc_pb2.DeleteRangeResponse),
    caller.KV_TXN: (6, rpc_pb2.TxnResponse),
}
RESET: Final = (grpc.StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer")
REFUSED: Final = (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: Connection refused")


def told(error: int) -> grpc.aio.AioRpcError:
    """As etcd says it."""
    code, text = ETCD_STATUS[EtcdError(error)]
    return failure(next(one for one in grpc.StatusCode if one.value[0] == code), text)


def failure(code: grpc.StatusCode, text: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=text, debug_error_string=None)


class EtcdMember:
    """One of them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.up = True
        self.apart = False
        """It does not hear the others."""
        self.lag_s = 0.0
        """So much later than it happened it applies."""
        self.slow_s = 0.0
        """So long a call takes."""
        self.applied = 1
        self.notices_s = 0.0
        """When a leader that was cut off notices."""


class SimEtcd:
    """See the module's text."""

    def __init__(self, loop: SimLoop, seed: str) -> None:
        self.loop = loop
        self.chance = random.Random(f"{seed}/etcd")
        self.store = MemoryEtcd()
        self.store.sinks.append(self)
        self.members = [EtcdMember(number) for number in range(MEMBERS)]
        self.leader: int | None = 0
        self.compacted = 0
        self.history: list[tuple[int, Sequence[Change]]] = []
        self.links: dict[Any, None] = {}  # calls and streams under way
        self.cuts: set[tuple[str, int]] = set()  # (replica, member) that do not reach each other
        self.deaf_renewals = False
        self._ttl_s: dict[int, int] = {}
        self._end_s: dict[int, float] = {}
        self._elections = 0

    # -- the truth
    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        if not changes:
            return
        self.history.append((revision, tuple(changes)))
        for member in self.members:
            delay_s = member.lag_s + self.chance.uniform(0.0002, 0.003)
            self.loop.call_later(delay_s, self._apply, member, context=Context())

    def on_reset(self) -> None: ...

    def _apply(self, member: EtcdMember) -> None:
        """One revision more, in order."""
        if member.applied == self.store.revision or not member.up or member.apart:
            return
        member.applied += 1
        self._tell(member)

    def _tell(self, member: EtcdMember) -> None:
        for link in [link for link in self.links if link.member is member]:
            link.news()

    def record(self, key: bytes, main: int) -> bytes | None:
        """What was put there at that revision."""
        changes = self.history[main - FIRST][1] if main else ()
        return next((change.record for change in changes if change.key == key and not change.deleted), None)

    @property
    def applied_all(self) -> bool:
        return all(member.applied == self.store.revision for member in self.members)

    # -- what befalls it
    def changed(self) -> None:
        """Somebody went, came, or is cut off: perhaps there must be another leader."""
        if self.leader is not None and not self._has_quorum(self.members[self.leader]):
            self.members[self.leader].notices_s = self.loop.time() + self.chance.uniform(0.5, 1.9)
            self.leader = None
            self._elections += 1
            self.loop.call_later(self.chance.uniform(1.0, 2.0), self._elect, self._elections, context=Context())
        for member in self.members:
            if not member.up:
                for link in [link for link in self.links if link.member is member]:
                    link.end(RESET)

    def _has_quorum(self, member: EtcdMember) -> bool:
        return member.up and not member.apart and sum(one.up and not one.apart for one in self.members) * 2 > MEMBERS

    def _elect(self, number: int) -> None:
        able = [member for member in self.members if self._has_quorum(member)]
        if number != self._elections or self.leader is not None:
            return
        if not able:
            self.loop.call_later(self.chance.uniform(1.0, 2.0), self._elect, number, context=Context())
            return
        self.leader = self.chance.choice(able).number
        self._end_s = {lease: self.loop.time() + ttl_s for lease, ttl_s in self._ttl_s.items()}

    def set_member(self, number: int, *, up: bool | None = None, apart: bool | None = None) -> None:
        member = self.members[number]
        member.up = member.up if up is None else up
        member.apart = member.apart if apart is None else apart
        self.changed()
        for _ in range(self.store.revision - member.applied):
            self.loop.call_later(self.chance.uniform(0.01, 0.3), self._apply, member, context=Context())

    def cut(self, replica: str, number: int) -> None:
        """Its connection breaks, and no other one comes about."""
        self.cuts.add((replica, number))
        self.hang_up(replica, number)

    def hang_up(self, replica: str, number: int | None = None) -> None:
        for link in [link for link in self.links if link.replica == replica and number in (None, link.member.number)]:
            link.end(RESET)

    def cancel_watches(self) -> None:
        for link in list(self.links):
            if isinstance(link, SimStream) and link.path == caller.WATCH:
                link.end((grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader"))

    def compact(self) -> None:
        self.compacted = self.store.revision
        for member in self.members:
            self._tell(member)

    # -- leases
    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(0.5)
            if self.leader is not None:
                for lease in [lease for lease, end_s in self._end_s.items() if end_s < self.loop.time()]:
                    self.drop_lease(lease)

    def drop_lease(self, lease: int) -> None:
        self._ttl_s.pop(lease, None)
        self._end_s.pop(lease, None)
        self.store.revoke(lease)

    def renewed(self, member: EtcdMember, lease: int) -> int | None:
        """Its time to live from now on; 0 = there is none; None = no answer."""
        if self.deaf_renewals:
            return None
        if self.leader is None or member.apart:
            return self._ttl_s.get(lease) if self.loop.time() < member.notices_s else None
        if lease not in self._end_s:
            return 0
        self._end_s[lease] = self.loop.time() + self._ttl_s[lease]
        return self._ttl_s[lease]

    # -- calls
    async def serve(self, member: EtcdMember, path: str, request: bytes) -> bytes:
        """What the member answers. Raises AioRpcError. Goes on when nobody waits for it any more."""
        await asyncio.sleep(member.slow_s + self.chance.uniform(0.0002, 0.004))
        patience_s = self.loop.time() + self.chance.choice([1.0, 7.0])
        while path != caller.STATUS and (self.leader is None or member.apart or not member.up):
            if self.loop.time() > patience_s or not member.up:
                raise told(self.chance.choice([EtcdError.NO_LEADER, EtcdError.TIMEOUT, EtcdError.TIMEOUT_LEADER_FAILURE]))
            await asyncio.sleep(TICK_S)
        answer = self._do(member, path, request)
        while member.applied < answer.header.revision and path in WRITES and member.up and not member.apart:
            await asyncio.sleep(0.002)  # a member answers when it has applied it itself
        await asyncio.sleep(self.chance.uniform(0.0001, 0.003))
        return bytes(answer.SerializeToString())

    def _do(self, member: EtcdMember, path: str, request: bytes) -> Any:
        if path == caller.KV_RANGE:
            answer = self.store.range(request)
        elif path == caller.STATUS:
            answer = rpc_pb2.StatusResponse(version="3.7.1", errors=["memberID:1 alarm:NOSPACE "] if self.store.full else [])
        elif path in WRITES:
            kind, shape = WRITES[path]
            error, _, body = self.store.apply(kind, request)
            if error:
                raise told(error)
            answer = shape.FromString(body)
        else:
            answer = self._lease(path, request)
        answer.header.cluster_id, answer.header.member_id, answer.header.revision = 1, member.number + 1, self.store.revision
        return answer

    def _lease(self, path: str, request: bytes) -> Any:
        if path == caller.LEASE_GRANT:
            grant = rpc_pb2.LeaseGrantRequest.FromString(request)
            if grant.ID in self._ttl_s:
                raise told(EtcdError.LEASE_EXISTS)
            self.store.leases[grant.ID] = set()
            self._ttl_s[grant.ID], self._end_s[grant.ID] = grant.TTL, self.loop.time() + grant.TTL
            return rpc_pb2.LeaseGrantResponse(ID=grant.ID, TTL=grant.TTL)
        assert path == caller.LEASE_REVOKE, path
        lease = rpc_pb2.LeaseRevokeRequest.FromString(request).ID
        if lease not in self._ttl_s:
            raise told(EtcdError.LEASE_NOT_FOUND)
        self.drop_lease(lease)
        return rpc_pb2.LeaseRevokeResponse()

    def reaches(self, replica: str, member: EtcdMember) -> bool:
        return member.up and (replica, member.number) not in self.cuts


class SimChannel:
    """In place of a grpc.aio.Channel: one replica's connection to one member."""

    def __init__(self, etcd: SimEtcd, replica: str, number: int) -> None:
        self._etcd, self._replica, self._member = etcd, replica, etcd.members[number]

    def unary_unary(self, path: str) -> Any:
        def call(request: bytes, *, timeout: float, metadata: Any) -> Any:
            return SimCall(self._etcd, self._replica, self._member, path).answer(request, timeout)

        return call

    def stream_stream(self, path: str) -> Any:
        def call(*, timeout: float | None, metadata: Any) -> "SimStream":
            return SimStream(self._etcd, self._replica, self._member, path)

        return call

    async def close(self, grace: float | None) -> None:
        self._etcd.hang_up(self._replica, self._member.number)


class SimCall:
    """One call under way."""

    def __init__(self, etcd: SimEtcd, replica: str, member: EtcdMember, path: str) -> None:
        self._etcd, self.replica, self.member, self.path = etcd, replica, member, path
        self._answer: asyncio.Future[bytes] = etcd.loop.create_future()

    async def answer(self, request: bytes, timeout_s: float) -> bytes:
        if not self._etcd.reaches(self.replica, self.member):
            await asyncio.sleep(0.001)
            raise failure(*REFUSED)
        self._etcd.links[self] = None
        self._etcd.loop.create_task(self._serve(request), context=Context())
        try:
            async with asyncio.timeout(timeout_s):
                return await self._answer
        except TimeoutError:
            raise failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
        finally:
            self._etcd.links.pop(self, None)

    async def _serve(self, request: bytes) -> None:
        try:
            answer = await self._etcd.serve(self.member, self.path, request)
        except grpc.aio.AioRpcError as error:
            if not self._answer.done():
                self._answer.set_exception(error)
            return
        if not self._answer.done():
            self._answer.set_result(answer)

    def end(self, why: tuple[grpc.StatusCode, str]) -> None:
        if not self._answer.done():
            self._answer.set_exception(failure(*why))

    def news(self) -> None: ...


class SimStream:
    """A watch, or a renewal of a lease; what a grpc.aio.StreamStreamCall is to the bridge."""

    def __init__(self, etcd: SimEtcd, replica: str, member: EtcdMember, path: str) -> None:
        self._etcd, self.replica, self.member, self.path = etcd, replica, member, path
        self._inbox: list[bytes] = []
        self._arrived = asyncio.Event()
        self._error: grpc.aio.AioRpcError | None = None
        self._cancelled = False
        self._due_s = 0.0
        self._range: tuple[bytes, bytes] | None = None
        self._next = 0
        self._asked = 0
        etcd.links[self] = None
        if not etcd.reaches(replica, member):
            self.end(REFUSED)

    # -- the client's side
    async def write(self, message: bytes) -> None:
        self._raise()
        self._etcd.loop.call_later(self._etcd.chance.uniform(0.0001, 0.002) + self.member.slow_s, self._take, message, context=Context())

    async def read(self) -> bytes:
        while not self._inbox:
            self._raise()
            self._arrived.clear()
            await self._arrived.wait()
        return self._inbox.pop(0)

    def cancel(self) -> None:
        self._cancelled = True
        self._etcd.links.pop(self, None)
        self._arrived.set()

    def _raise(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError
        if self._error is not None:
            raise self._error

    # -- the member's side
    def end(self, why: tuple[grpc.StatusCode, str]) -> None:
        self._error = self._error or failure(*why)
        self._etcd.links.pop(self, None)
        self._arrived.set()

    def _push(self, message: Any) -> None:
        data = bytes(message.SerializeToString())
        # Strictly later than the one before: timers of one moment have no order, and what a stream carries has.
        self._due_s = max(self._due_s + AFTER_S, self._etcd.loop.time() + self._etcd.chance.uniform(0.0001, 0.002) + self.member.slow_s)
        self._etcd.loop.call_at(self._due_s, self._arrive, data, context=Context())

    def _arrive(self, data: bytes) -> None:
        if self._error is None and not self._cancelled:
            self._inbox.append(data)
            self._arrived.set()

    def _take(self, message: bytes) -> None:
        if self._error is not None or self._cancelled:
            return
        if self.path == caller.LEASE_KEEP_ALIVE:
            lease = rpc_pb2.LeaseKeepAliveRequest.FromString(message).ID
            ttl_s = self._etcd.renewed(self.member, lease)
            if ttl_s is not None:
                self._push(rpc_pb2.LeaseKeepAliveResponse(ID=lease, TTL=ttl_s))
            return
        request = rpc_pb2.WatchRequest.FromString(message)
        if request.HasField("progress_request"):
            self._asked += 1
        else:
            self._create(request.create_request)
        self.news()

    def _create(self, create: Any) -> None:
        self._range = (create.key, create.range_end)
        self._next = create.start_revision or self.member.applied + 1
        self._push(rpc_pb2.WatchResponse(header=self._header(), created=True))

    def _header(self, revision: int | None = None) -> Any:
        return rpc_pb2.ResponseHeader(cluster_id=1, member_id=self.member.number + 1, revision=revision or self.member.applied)

    def news(self) -> None:
        """The member has applied more, or compacted, or was asked."""
        if self.path != caller.WATCH or self._range is None or self._error is not None:
            return
        if self._next <= self._etcd.compacted and self._next <= self.member.applied:
            self._push(rpc_pb2.WatchResponse(header=self._header(), canceled=True, compact_revision=self._etcd.compacted))
            self._range = None
            return
        for revision, changes in self._etcd.history[self._next - FIRST : self.member.applied - FIRST + 1]:
            self._push_events(revision, [event_of(change) for change in changes if self._range[0] <= change.key < self._range[1]])
            self._next = revision + 1
        if self._asked:
            self._asked = 0
            self._push(rpc_pb2.WatchResponse(header=self._header(), watch_id=-1))

    def _push_events(self, revision: int, events: list[Any]) -> None:
        header = self._header(revision)
        if len(events) > 1 and self._etcd.chance.random() < 0.3:
            for event in events:
                self._push(rpc_pb2.WatchResponse(header=header, events=[event], fragment=event is not events[-1]))
        elif events:
            self._push(rpc_pb2.WatchResponse(header=header, events=events))
