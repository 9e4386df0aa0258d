"""etcdserverpb.Watch (etcd-api §1.2): decodes requests for the hub (store/watch), puts headers before its answers, and drives it:
catch-up rounds on the loop and progress intervals.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from raftsched.errors import STREAM_MALFORMED, EtcdError, GrpcCode, StatusError
from raftsched.limits import WATCH_PROGRESS_INTERVAL_MS, WATCH_REQUESTS_HELD_MAX
from raftsched.pb.etcd.rpc_pb2 import WatchCreateRequest, WatchRequest
from raftsched.ports import Stream
from raftsched.rpc.etcd.calls import STATUS, Door
from raftsched.rpc.etcd.streams import StreamCall
from raftsched.rpc.metrics import Family, MethodStats, single
from raftsched.store.watch.hub import WatchHub

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH: Final = "/etcdserverpb.Watch/Watch"
REFUSALS: Final[dict[int, str]] = {
    EtcdError.PERMISSION_DENIED: "rpc error: code = PermissionDenied desc = {}",
    EtcdError.INVALID_AUTH_TOKEN: "rpc error: code = Unauthenticated desc = {}",
    EtcdError.USER_EMPTY: "rpc error: code = InvalidArgument desc = {}",
    EtcdError.AUTH_OLD_REVISION: "rpc error: code = InvalidArgument desc = {}",
}
"""etcd's reason for cancelling a watch is its error as Go prints it."""


class WatchService:
    """The Watch service and the one hub behind it.

    `progress_interval_ms` returns how long the next progress interval of a stream is; etcd adds up to 10 % by chance.
    """

    def __init__(
        self,
        door: Door,
        *,
        message_bytes_max: int,
        progress_interval_ms: Callable[[], float] = lambda: WATCH_PROGRESS_INTERVAL_MS,
    ) -> None:
        self.door = door
        self.progress_interval_ms = progress_interval_ms
        self.stats: MethodStats = door.stats.method(PATH, "bidi_stream")
        self.hub = WatchHub(door.node.mvcc, on_work=self._schedule, on_demand=self._subscribe, message_bytes_max=message_bytes_max)
        self.answer = LastAnswer(door.node.header)
        self._unsubscribe: Callable[[], None] | None = None
        self._scheduled = False
        door.engine.add_stream(PATH, self._open)

    def families(self) -> "Iterator[Family]":
        hub = self.hub
        yield single("etcd_debugging_mvcc_watch_stream_total", "gauge", "Total number of watch streams.", hub.stream_count)
        yield single("etcd_debugging_mvcc_watcher_total", "gauge", "Total number of watchers.", hub.watcher_count)
        yield single("etcd_debugging_mvcc_slow_watcher_total", "gauge", "Total number of unsynced slow watchers.", hub.slow_count)
        yield single("etcd_debugging_mvcc_events_total", "counter", "Total number of events sent by this member.", hub.events_total)

    def _open(self, stream: Stream, path: str) -> "WatchCall":
        return WatchCall(self, stream)

    def _subscribe(self, wanted: bool) -> None:
        if wanted:
            self._unsubscribe = self.door.node.add_change_sink(self.hub)
        elif self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._round)

    def _round(self) -> None:
        """One bounded round per turn of the loop: others get theirs in between."""
        self._scheduled = False
        if self.hub.catch_up():
            self._schedule()


class LastAnswer:
    """The answer that was composed last: an event goes to many streams one after the other, as the same bytes."""

    __slots__ = ("_header_of", "body", "message", "revision")

    def __init__(self, header_of: Callable[[int], bytes]) -> None:
        self._header_of = header_of
        self.revision = -1
        self.body = b""
        self.message = b""

    def compose(self, revision: int, body: bytes) -> bytes:
        self.revision, self.body, self.message = revision, body, self._header_of(revision) + body
        return self.message


class WatchCall(StreamCall):
    """One Watch stream: a StreamHandler for the door and a WatchSink for the hub."""

    def __init__(self, service: WatchService, stream: Stream) -> None:
        super().__init__(service.door, stream, service.stats)
        self._service = service
        self._timer: asyncio.TimerHandle | None = None
        self._held: list[bytes] | None = None  # requests behind a token that is still to be applied here
        self._watches = service.hub.open(self)
        self.admit()

    # -- WatchSink

    def send(self, revision: int, body: bytes) -> bool:
        if self._over:
            return False
        answer = self._service.answer
        self._stats.sent += 1
        return self._stream.push(answer.message if body is answer.body and revision == answer.revision else answer.compose(revision, body))

    # -- StreamHandler

    def on_messages(self, messages: Sequence[bytes]) -> None:
        self._stats.received += len(messages)
        if self._over:
            return
        access = self._service.door.access
        if self._held is not None:
            self._hold(messages)
        elif access.enabled and access.must_wait(self._stream):
            self._held = list(messages)
            self._service.door.spawn(self._when_known())
        else:
            self._take(messages)

    def _hold(self, messages: Sequence[bytes]) -> None:
        assert self._held is not None
        self._held += messages
        if len(self._held) > WATCH_REQUESTS_HELD_MAX:
            self.finish(int(GrpcCode.RESOURCE_EXHAUSTED), "raftsched: too many requests wait on this stream")

    async def _when_known(self) -> None:
        try:
            await self._service.door.access.identify(self._stream)
        except StatusError as error:
            if error.message != STATUS[EtcdError.INVALID_AUTH_TOKEN][1]:  # else each watch is refused by itself
                self.finish(int(error.code), error.message)
        held, self._held = self._held or [], None
        self._take(held)

    def _take(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            if self._over:
                return
            try:
                request = WatchRequest.FromString(message)
            except DecodeError:
                self._service.door.stats.count_stream_failure("watch")
                self.finish(*STREAM_MALFORMED)
                return
            self._handle(request)

    def on_half_close(self) -> None:
        """Nothing: the watches go on until the client cancels."""

    def on_writable(self) -> None:
        if not self._over:
            self._watches.on_writable()

    def _handle(self, request: WatchRequest) -> None:
        kind = request.WhichOneof("request_union")
        if kind == "create_request":
            self._create(request.create_request)
        elif kind == "cancel_request":
            self._watches.cancel(request.cancel_request.watch_id)
        elif kind == "progress_request":
            self._watches.request_progress()

    def _refusal(self, create: WatchCreateRequest) -> str:
        """Why this caller must not watch that, as etcd words it; "" = he may."""
        access = self._service.door.access
        if not access.enabled or create.start_revision < 0:  # which is refused for itself, and first
            return ""
        try:
            error: int = access.checks.range(access.identify_nowait(self._stream), create.key or b"\0", create.range_end)
        except StatusError:
            error = EtcdError.INVALID_AUTH_TOKEN
        return REFUSALS[error].format(STATUS[error][1]) if error else ""

    def _create(self, create: WatchCreateRequest) -> None:
        if refusal := self._refusal(create):
            self._watches.refuse(refusal)
            return
        self._watches.create(
            create.key,
            create.range_end,
            start_revision=create.start_revision,
            watch_id=create.watch_id,
            no_put=WatchCreateRequest.NOPUT in create.filters,
            no_delete=WatchCreateRequest.NODELETE in create.filters,
            prev_kv=create.prev_kv,
            fragment=create.fragment,
            progress_notify=create.progress_notify,
        )
        if create.progress_notify and self._timer is None and not self._over:
            self._arm()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._service.progress_interval_ms() / 1_000, self._tick)

    def _tick(self) -> None:
        self._watches.tick_progress()
        if not self._over:
            self._arm()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._watches.close()
