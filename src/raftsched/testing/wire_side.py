"""One server as a comparison sees it: every unary method by name, one Watch stream, over a `WireClient`."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import v3election_pb2, v3lock_pb2
from raftsched.testing.traffic import Step
from raftsched.testing.wire_client import Call, Headers, WireClient

CALL_TIMEOUT_S: Final = 20.0
STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}


class Method(NamedTuple):
    path: str
    request: type[Any]
    response: type[Any]


def _methods() -> Iterator[tuple[str, Method]]:
    for module in (pb, v3lock_pb2, v3election_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for one in service.methods:
                types = (GetMessageClass(found) for found in (one.input_type, one.output_type))
                yield f"{service.name}/{one.name}", Method(f"/{service.full_name}/{one.name}", *types)


METHODS: Final = dict(_methods())


class WatchClient:
    """One Watch stream of one server; keeps what arrived, by watch id, until `take_events`."""

    def __init__(self, client: WireClient, metadata: Headers = ()) -> None:
        self._client = client
        self._call = client.begin("/etcdserverpb.Watch/Watch", metadata=metadata, end=False)
        self._last: dict[int, int] = {}
        self._split: dict[int, bool] = {}
        self.controls: list[pb.WatchResponse] = []
        self.events: dict[int, list[Any]] = {}
        self.progress = 0

    def send(self, request: pb.WatchRequest) -> None:
        self._client.send(self._call, request.SerializeToString())

    def wait(self, what: str, done: Callable[[], Any]) -> None:
        """Until `done()`; for at most CALL_TIMEOUT_S."""

        def look() -> Any:
            self._drain()
            assert not self._call.done, f"{what}: stream ended: {self._call.status} {self._call.text}"
            return done()

        self._client.wait_for(look, what)

    def control(self, number: int, what: str) -> pb.WatchResponse:
        """The answer of that number that says created or canceled, once it is here."""
        self.wait(what, lambda: len(self.controls) > number)
        return self.controls[number]

    def catch_up(self, revision: int) -> None:
        """Until the server says that everything up to `revision` was sent; it says nothing while a watcher is behind."""
        deadline = time.monotonic() + CALL_TIMEOUT_S
        self._drain()
        self.progress = 0  # an answer from before the newest watch says nothing about it
        while self.progress < revision:
            assert time.monotonic() < deadline, f"no progress up to {revision}: {self.progress}, {self._call.text}"
            self.send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
            try:
                self._client.wait_for(lambda: self._has_come_to(revision), "progress", for_s=0.2)
            except TimeoutError:
                continue

    def _has_come_to(self, revision: int) -> bool:
        self._drain()
        return self.progress >= revision

    def take_events(self, watch_id: int) -> list[Any]:
        """What came since the last time."""
        self._drain()
        return self.events.pop(watch_id, [])

    def forget(self, watch_id: int) -> None:
        """It was canceled, and its id may come again."""
        self._drain()
        for kept in (self.events, self._last, self._split):
            kept.pop(watch_id, None)

    def _drain(self) -> None:
        for data in self._call.messages:
            self._take(pb.WatchResponse.FromString(data))
        self._call.messages.clear()

    def _take(self, response: pb.WatchResponse) -> None:
        if response.created or response.canceled:
            self.controls.append(response)
        elif response.watch_id == -1:
            self.progress = max(self.progress, response.header.revision)
        elif response.events:
            newest = max(event.kv.mod_revision for event in response.events)
            assert response.header.revision >= newest
            last = self._last.get(response.watch_id, 0)
            assert self._split.get(response.watch_id) or last < response.events[0].kv.mod_revision, "one revision came in two answers"
            self._last[response.watch_id], self._split[response.watch_id] = newest, response.fragment
            self.events.setdefault(response.watch_id, []).extend(response.events)


class Side:
    """One server and its clients."""

    def __init__(self, address: str, *, watching: bool = True) -> None:
        self.client = WireClient(address, timeout_s=CALL_TIMEOUT_S)
        if watching:
            self.watch = WatchClient(self.client)

    def start(self, step: Step, metadata: Headers = ()) -> Call:
        """Begins a request, which is sent by the next `finish` or flush."""
        return self.client.begin(METHODS[step.method].path, step.request.SerializeToString(), metadata=metadata)

    @staticmethod
    def finish(step: Step, call: Call) -> Any:
        """The response message, or (code, text)."""
        call.client.wait(call)
        return outcome(step, call)

    def raw(self, path: str, message: bytes) -> Any:
        """The response bytes, or (code, text)."""
        call = self.client.begin(path, message)
        self.client.wait(call)
        return b"".join(call.messages) if call.status == 0 else (STATUS[call.status or 0], call.text)

    def close(self) -> None:
        self.client.close()


def outcome(step: Step, call: Call) -> Any:
    """Of a call that has ended: the message (of a stream: joined), or (code, text)."""
    assert call.status is not None
    if call.status:
        return STATUS[call.status], call.text
    response = METHODS[step.method].response
    if step.method == "KV/RangeStream":
        joined = pb.RangeResponse()
        for data in call.messages:
            joined.MergeFrom(response.FromString(data).range_response)
        return joined
    (data,) = call.messages
    found: Message = response.FromString(data)
    return found
