"""A scripted etcd behind real gRPC, on the test's own loop: does what a real one does on one bad day in a thousand, when it is told to.

Keys, transactions and leases are `MemoryEtcd`'s; here are headers, watches with their history, tokens, and faults: a call that is
refused, one that is done and not answered, one that never ends.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from raftsched.errors import ETCD_STATUS, EtcdError
from raftsched.pb.etcd import kv_pb2, rpc_pb2, rpc_pb2_grpc
from raftsched.testing.memory_etcd import MemoryEtcd
from raftsched.types import Change

LOST = "lost"
"""Done, and the connection breaks before the answer."""
LATE = "late"
"""Done, and answered when `FakeEtcd.release` is set."""
HANGS = "hangs"
"""Not done, and never answered."""
Fault = str | EtcdError | tuple[grpc.StatusCode, str]


class FakeEtcd:
    """An async context manager. `faults[method]` are taken one per call, in their order."""

    def __init__(self, etcd: MemoryEtcd | None = None) -> None:
        self.etcd = etcd or MemoryEtcd()
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.calls: list[tuple[str, Any]] = []
        self.password: str | None = None
        """None = authentication is off."""
        self.tokens: set[str] = set()
        self.operations_max = 128
        self.bytes_max = 1_572_864
        self.alarms: list[str] = []
        self.compacted = 0
        self.fragments = False
        """Each event comes in a message of its own."""
        self.mute = False
        """No progress is told."""
        self.watches: list[_Watch] = []
        self.history: list[tuple[int, Sequence[Change]]] = []
        self.renewals = 0
        self.release = asyncio.Event()
        self.cluster_id = 1
        self.lag = 0
        """Revisions that the member is behind when a watch is opened."""
        self.behind: int | None = None
        """The member has not come further than to this revision: its watches tell no more, and answer with it."""
        self.stuck: dict[bytes, int] = {}
        """By first key of a watcher's range: it tells nothing after this revision, as one whose messages etcd could not get rid of."""
        self.denied = b""
        """What begins so may be neither read nor watched; "" = all may."""
        self.late = False
        self.port = 0
        self._server: Any = None
        self.etcd.sinks.append(self)

    # -- ChangeSink of the MemoryEtcd
    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        if changes:
            self.history.append((revision, tuple(changes)))
        for watch in self.watches:
            watch.news.set()

    def on_reset(self) -> None:
        raise AssertionError("a MemoryEtcd keeps everything")

    # -- the server
    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def open(self) -> None:
        """At the port of the last time."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        rpc_pb2_grpc.add_KVServicer_to_server(_Kv(self), self._server)  # type: ignore[abstract]
        rpc_pb2_grpc.add_LeaseServicer_to_server(_Lease(self), self._server)  # type: ignore[abstract]
        rpc_pb2_grpc.add_WatchServicer_to_server(_Watches(self), self._server)
        rpc_pb2_grpc.add_AuthServicer_to_server(_Auth(self), self._server)  # type: ignore[abstract]
        rpc_pb2_grpc.add_MaintenanceServicer_to_server(_Maintenance(self), self._server)  # type: ignore[abstract]
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def close(self) -> None:
        """All connections end."""
        await self._server.stop(None)

    def compact(self, revision: int) -> None:
        self.compacted = revision
        self.history = [entry for entry in self.history if entry[0] > revision]

    def count(self, method: str) -> int:
        """How often it was called."""
        return sum(name == method for name, _ in self.calls)

    def header(self) -> rpc_pb2.ResponseHeader:
        return rpc_pb2.ResponseHeader(cluster_id=self.cluster_id, member_id=2, revision=self.etcd.revision, raft_term=1)

    @property
    def applied(self) -> int:
        return self.etcd.revision if self.behind is None else min(self.behind, self.etcd.revision)

    # -- what every call goes through
    async def enter(self, method: str, request: Any, context: Any) -> bool:
        """True: it is to be done, and not answered."""
        self.calls.append((method, request))
        fault = self.faults[method].popleft() if self.faults[method] else None
        if fault == HANGS:
            await asyncio.sleep(3600)
        if isinstance(fault, EtcdError):
            await refuse(context, fault)
        if isinstance(fault, tuple):
            await context.abort(*fault)
        await self.check_token(context)
        self.late = fault == LATE
        return fault == LOST

    def denies(self, key: bytes) -> bool:
        return bool(self.denied) and key.startswith(self.denied)

    async def released(self) -> None:
        """At once, but for a call that is LATE."""
        if self.late:
            self.late = False
            await self.release.wait()

    async def check_token(self, context: Any) -> None:
        if self.password is None:
            return
        token = dict(context.invocation_metadata()).get("token")
        if token is None:
            await refuse(context, EtcdError.USER_EMPTY)
        if token not in self.tokens:
            await refuse(context, EtcdError.INVALID_AUTH_TOKEN)


async def refuse(context: Any, error: int) -> None:
    code, text = ETCD_STATUS[EtcdError(error)]
    await context.abort(next(one for one in grpc.StatusCode if one.value[0] == code), text)


async def lose(context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset by peer")


class _Kv(rpc_pb2_grpc.KVServicer):
    def __init__(self, fake: FakeEtcd) -> None:
        self._fake = fake

    async def Range(self, request: Any, context: Any) -> Any:
        lost = await self._fake.enter("Range", request, context)
        if self._fake.denies(request.key):
            await refuse(context, EtcdError.PERMISSION_DENIED)
        answer = self._fake.etcd.range(request.SerializeToString())
        answer.header.CopyFrom(self._fake.header())
        await self._fake.released()
        return await lose(context) if lost else answer

    async def Put(self, request: Any, context: Any) -> Any:
        return await self._write("Put", 4, request, rpc_pb2.PutResponse, context)

    async def DeleteRange(self, request: Any, context: Any) -> Any:
        return await self._write("DeleteRange", 5, request, rpc_pb2.DeleteRangeResponse, context)

    async def Txn(self, request: Any, context: Any) -> Any:
        if operations(request) > self._fake.operations_max:
            self._fake.calls.append(("Txn", request))
            await refuse(context, EtcdError.TOO_MANY_OPS)
        if request.ByteSize() > self._fake.bytes_max:
            self._fake.calls.append(("Txn", request))
            await refuse(context, EtcdError.REQUEST_TOO_LARGE)
        return await self._write("Txn", 6, request, rpc_pb2.TxnResponse, context)

    async def _write(self, name: str, kind: int, request: Any, answer: Any, context: Any) -> Any:
        lost = await self._fake.enter(name, request, context)
        error, _, body = self._fake.etcd.apply(kind, request.SerializeToString())
        if error:
            await refuse(context, error)
        if lost:
            await lose(context)
        made = answer.FromString(body)
        made.header.CopyFrom(self._fake.header())
        return made


def operations(txn: Any) -> int:
    """As etcd counts them."""
    own = max(len(txn.compare), len(txn.success), len(txn.failure))
    return own + max((operations(op.request_txn) for op in [*txn.success, *txn.failure] if op.HasField("request_txn")), default=0)


class _Lease(rpc_pb2_grpc.LeaseServicer):
    def __init__(self, fake: FakeEtcd) -> None:
        self._fake = fake

    async def LeaseGrant(self, request: Any, context: Any) -> Any:
        lost = await self._fake.enter("LeaseGrant", request, context)
        if request.ID in self._fake.etcd.leases:
            await refuse(context, EtcdError.LEASE_EXISTS)
        self._fake.etcd.leases[request.ID] = set()
        return await lose(context) if lost else rpc_pb2.LeaseGrantResponse(header=self._fake.header(), ID=request.ID, TTL=request.TTL)

    async def LeaseRevoke(self, request: Any, context: Any) -> Any:
        lost = await self._fake.enter("LeaseRevoke", request, context)
        if request.ID not in self._fake.etcd.leases:
            await refuse(context, EtcdError.LEASE_NOT_FOUND)
        self._fake.etcd.revoke(request.ID)
        return await lose(context) if lost else rpc_pb2.LeaseRevokeResponse(header=self._fake.header())

    async def LeaseKeepAlive(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            await self._fake.enter("LeaseKeepAlive", request, context)
            self._fake.renewals += 1
            ttl = 20 if request.ID in self._fake.etcd.leases else 0
            await self._fake.released()
            yield rpc_pb2.LeaseKeepAliveResponse(header=self._fake.header(), ID=request.ID, TTL=ttl)


class _Watcher:
    """One range of a stream."""

    def __init__(self, fake: FakeEtcd, create: Any) -> None:
        self._fake = fake
        self.number = create.watch_id
        self._key, self._end = create.key, create.range_end
        self.next = create.start_revision or fake.etcd.revision + 1

    @property
    def _until(self) -> int:
        return min(self._fake.applied, self._fake.stuck.get(self._key, self._fake.applied))

    @property
    def synced(self) -> bool:
        return self._until == self._fake.applied

    def answers(self) -> list[Any]:
        """What there is to be told now."""
        found = []
        if self.next <= self._fake.compacted:
            header, revision = self._fake.header(), self._fake.compacted
            return [rpc_pb2.WatchResponse(header=header, watch_id=self.number, canceled=True, compact_revision=revision)]
        for revision, changes in self._fake.history:
            if self.next <= revision <= self._until:
                found += self._responses(revision, [event_of(change) for change in changes if self._key <= change.key < self._end])
                self.next = revision + 1
        return found

    def _responses(self, revision: int, events: list[Any]) -> list[Any]:
        header, number = rpc_pb2.ResponseHeader(revision=revision), self.number
        if not self._fake.fragments:
            return [rpc_pb2.WatchResponse(header=header, watch_id=number, events=events)] if events else []
        last = len(events) - 1
        return [
            rpc_pb2.WatchResponse(header=header, watch_id=number, events=[event], fragment=at < last) for at, event in enumerate(events)
        ]


class _Watch:
    """One stream with its watchers."""

    def __init__(self, fake: FakeEtcd, create: Any) -> None:
        self._fake = fake
        self._created = [create]
        self._watchers: list[_Watcher] = []
        self.news = asyncio.Event()
        self.asked = 0

    def heard(self, request: Any) -> None:
        if request.HasField("progress_request"):
            self._fake.calls.append(("progress", request))
            self.asked += 1
        else:
            self._created.append(request.create_request)
        self.news.set()

    def answers(self) -> list[Any]:
        """What there is to be told now."""
        found = []
        for create in self._created:
            if self._fake.denies(create.key):
                header = self._fake.header()
                reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"  # in just these words
                found.append(rpc_pb2.WatchResponse(header=header, watch_id=-1, created=True, canceled=True, cancel_reason=reason))
                continue
            self._watchers.append(_Watcher(self._fake, create))
            created = self._fake.header()
            created.revision = self._fake.applied - self._fake.lag
            found.append(rpc_pb2.WatchResponse(header=created, watch_id=create.watch_id, created=True))
        self._created = []
        for watcher in list(self._watchers):
            answers = watcher.answers()
            found += answers
            if answers and answers[-1].canceled:
                self._watchers.remove(watcher)  # the stream goes on, as etcd's does
        if self.asked and not self._fake.mute and all(watcher.synced for watcher in self._watchers):
            self.asked = 0
            told = self._fake.header()
            told.revision = self._fake.applied
            found.append(rpc_pb2.WatchResponse(header=told, watch_id=-1))
        return found


def event_of(change: Change) -> Any:
    kv = kv_pb2.KeyValue.FromString(change.record)
    kv.mod_revision = change.main
    return kv_pb2.Event(type=kv_pb2.Event.DELETE if change.deleted else kv_pb2.Event.PUT, kv=kv)


class _Watches(rpc_pb2_grpc.WatchServicer):
    def __init__(self, fake: FakeEtcd) -> None:
        self._fake = fake

    async def Watch(self, requests: Any, context: Any) -> Any:
        first = await anext(aiter(requests))
        await self._fake.enter("Watch", first, context)
        watch = _Watch(self._fake, first.create_request)
        self._fake.watches.append(watch)
        listening = asyncio.ensure_future(self._listen(requests, watch))
        try:
            while True:
                watch.news.clear()
                for answer in watch.answers():
                    yield answer
                await watch.news.wait()
        finally:
            listening.cancel()
            self._fake.watches.remove(watch)

    async def _listen(self, requests: Any, watch: _Watch) -> None:
        async for request in requests:
            watch.heard(request)


class _Auth(rpc_pb2_grpc.AuthServicer):
    def __init__(self, fake: FakeEtcd) -> None:
        self._fake = fake

    async def Authenticate(self, request: Any, context: Any) -> Any:
        self._fake.calls.append(("Authenticate", request))
        if self._fake.password is None:
            await refuse(context, EtcdError.AUTH_NOT_ENABLED)
        if request.password != self._fake.password:
            await refuse(context, EtcdError.AUTH_FAILED)
        token = f"{request.name}.{len(self._fake.tokens)}"
        self._fake.tokens.add(token)
        return rpc_pb2.AuthenticateResponse(header=self._fake.header(), token=token)


class _Maintenance(rpc_pb2_grpc.MaintenanceServicer):
    def __init__(self, fake: FakeEtcd) -> None:
        self._fake = fake

    async def Status(self, request: Any, context: Any) -> Any:
        await self._fake.enter("Status", request, context)
        return rpc_pb2.StatusResponse(header=self._fake.header(), version="3.7.1", errors=self._fake.alarms)
