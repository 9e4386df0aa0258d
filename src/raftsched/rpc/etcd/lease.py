"""etcdserverpb.Lease (etcd-api §1.3). Grant and revoke go through the log; time-to-live and renewals are the leader's own, the list is this
member's."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from raftsched.errors import STREAM_MALFORMED, EtcdError, GrpcCode, StatusError, status_of
from raftsched.limits import KEEP_ALIVES_WAITING_MAX
from raftsched.pb.etcd.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseStatus,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
)
from raftsched.ports import Stream, StreamHandler
from raftsched.proposals import LEASE_GRANT, LEASE_REVOKE
from raftsched.rpc.etcd.access import permit
from raftsched.rpc.etcd.calls import Door, parse
from raftsched.rpc.etcd.streams import StreamCall

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call

KEEP_ALIVE_PATH: Final = "/etcdserverpb.Lease/LeaseKeepAlive"


class LeaseService:
    """The five methods of Lease."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._access = door.access
        self._node = door.node
        door.cold("/etcdserverpb.Lease/LeaseGrant", self._grant)
        door.cold("/etcdserverpb.Lease/LeaseRevoke", self._revoke)
        door.cold("/etcdserverpb.Lease/LeaseTimeToLive", self._time_to_live)
        door.cold("/etcdserverpb.Lease/LeaseLeases", self._leases)
        door.engine.add_stream(KEEP_ALIVE_PATH, self._keep_alive)

    def _keep_alive(self, stream: Stream, path: str) -> StreamHandler:
        return KeepAlive(self._door, stream)

    async def _grant(self, call: "Call", message: bytes) -> bytes:
        """ID 0: the server picks one, before the proposal, so that every member applies the same."""
        request = parse(LeaseGrantRequest, message)
        if request.ID == 0:
            request.ID = self._node.next_lease_id()
            message = request.SerializeToString()
        who = await self._access.known(call)
        _, revision, body = await self._door.propose(LEASE_GRANT, message, who)
        return self._door.answer(body, revision)

    async def _revoke(self, call: "Call", message: bytes) -> bytes:
        parse(LeaseRevokeRequest, message)
        who = await self._access.known(call)
        _, revision, body = await self._door.propose(LEASE_REVOKE, message, who)
        return self._door.answer(body, revision)

    async def _time_to_live(self, call: "Call", message: bytes) -> bytes:
        request = parse(LeaseTimeToLiveRequest, message)
        who, checks, revision = await self._access.known(call), self._access.checks, self._access.revision
        if request.keys:
            permit(checks.keys(who, request.ID, write=False))
        remaining, granted, keys = await self._node.lease_time_to_live(request.ID, keys=request.keys)
        if request.keys and self._access.enabled and self._access.revision != revision:
            raise status_of(EtcdError.AUTH_OLD_REVISION)
        response = LeaseTimeToLiveResponse(ID=request.ID, TTL=remaining, grantedTTL=granted, keys=keys)
        return self._door.answer(response.SerializeToString())

    async def _leases(self, call: "Call", message: bytes) -> bytes:
        """As this member knows them: it answers without a leader, too."""
        parse(LeaseLeasesRequest, message)
        ids = await self._node.lease_ids()
        if self._access.enabled:
            who = await self._access.known(call)
            for lease in ids:
                permit(self._access.checks.keys(who, lease, write=False))
        leases = [LeaseStatus(ID=lease) for lease in ids]
        return self._door.answer(LeaseLeasesResponse(leases=leases).SerializeToString())


class KeepAlive(StreamCall):
    """One LeaseKeepAlive stream: an answer per message, in order; TTL 0 says that there is no such lease."""

    def __init__(self, door: Door, stream: Stream) -> None:
        super().__init__(door, stream, door.stats.method(KEEP_ALIVE_PATH, "bidi_stream"))
        self._access = door.access
        self._answer = door.node.lease_answer_now
        self._waiting: deque[int] = deque()
        self._half_closed = False
        self._broken: tuple[int, str] | None = None  # what came is no message: the stream ends by this, behind the answers that are due
        self.admit()

    def on_messages(self, messages: Sequence[bytes]) -> None:
        self._stats.received += len(messages)
        if self._over or self._broken is not None:
            return
        answered = 0
        if self._task is None and not self._access.enabled:
            answered = self._answer_now(messages)
            if answered == len(messages):
                return
        for message in messages[answered:]:
            try:
                self._waiting.append(LeaseKeepAliveRequest.FromString(message).ID)
            except DecodeError:  # those before it are served
                self._door.stats.count_stream_failure("lease-keepalive")
                self._broken, self._half_closed = STREAM_MALFORMED, True
                break
        if len(self._waiting) > KEEP_ALIVES_WAITING_MAX:
            self.finish(int(GrpcCode.RESOURCE_EXHAUSTED), "raftsched: too many keep-alives wait on this stream")
        elif self._task is None:
            self._task = self._door.spawn(self._drain())

    def on_half_close(self) -> None:
        self._half_closed = True
        if self._task is None:
            self.finish(0, "")

    def on_broken(self, error: StatusError) -> None:
        """See `ports.StreamHandler`."""
        self._broken, self._half_closed = self._broken or (int(error.code), error.message), True
        if self._task is None:
            self.finish(*self._broken)

    def on_writable(self) -> None:
        """Nothing: the door delivers no more requests while the client leaves its answers unread."""

    def _answer_now(self, messages: Sequence[bytes]) -> int:
        """How many, from the first on, need no waiting and are answered: on a lone leader that is all but what a client rarely sends."""
        count = 0
        for message in messages:
            answer = self._answer(message)
            if answer is None:
                break
            self._stream.push(answer)
            count += 1
        self._stats.sent += count
        return count

    async def _drain(self) -> None:
        """The header is made before the renewal: its revision is never newer than the answer's truth."""
        node, access = self._door.node, self._access
        try:
            while self._waiting and not self._over:
                lease = self._waiting.popleft()
                header = node.header(node.mvcc.revision)
                if access.enabled:  # whoever may renew a lease keeps its keys alive: he must be allowed to write them
                    permit(access.checks.keys(await access.known(self._stream), lease, write=True))
                ttl = await node.lease_renew(lease)
                if not self._over:
                    self._push(header + LeaseKeepAliveResponse(ID=lease, TTL=ttl).SerializeToString())
        except StatusError as error:
            self.finish(int(error.code), error.message)
        finally:
            self._task = None
        if self._half_closed:
            self.finish(*self._broken or (0, ""))

    def _push(self, message: bytes) -> None:
        self._stats.sent += 1
        self._stream.push(message)

    def _end(self) -> None:
        self._waiting.clear()
