"""Streams over HTTP: one JSON object a line down, JSON objects one after the other up (etcd-api §4.2).

Invariant: nothing is sent before there is something to say, so a stream that fails at once has the HTTP status of its failure.
Must not know: sockets, what a message means.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from raftsched.errors import GrpcCode
from raftsched.limits import GATEWAY_STREAM_BYTES_MAX
from raftsched.rpc.gateway._json import JsonError, Scanner
from raftsched.rpc.gateway.answers import JSON, SERVED, http_status, stream_refusal
from raftsched.rpc.gateway.routes import Route
from raftsched.rpc.http2.local import Certificate, LocalCalls, LocalStream

MESSAGES_PER_TURN: Final = 64
"""Of one body: each may cost as much as a call."""


class Client(Protocol):
    """Whom a stream answers: an HttpRequest, or a WebSocket."""

    on_gone: Callable[[], None] | None
    on_writable: Callable[[], None] | None

    @property
    def peer(self) -> str: ...
    @property
    def body_bytes_max(self) -> int: ...
    def start(self, status: int, headers: Sequence[tuple[str, str]]) -> None: ...
    def write(self, data: bytes) -> bool: ...
    def end(self) -> None: ...


def too_large(size_bytes: int, bytes_max: int) -> tuple[int, str]:
    """As grpc-go refuses a message."""
    return int(GrpcCode.RESOURCE_EXHAUSTED), f"grpc: received message larger than max ({size_bytes} vs. {bytes_max})"


class Download:
    """A stream's answers: the sink of a `LocalStream`."""

    def __init__(
        self,
        local: LocalCalls,
        request: Client,
        route: Route,
        metadata: Mapping[str, str],
        timeout_s: float | None,
        certificate: Certificate = None,
    ) -> None:
        self._request = request
        self._route = route
        self._started = False
        self._over = False
        self.stream: LocalStream | None = None
        request.on_gone = self._gone
        request.on_writable = self._writable
        stream = local.open(route.method, metadata, self, timeout_s=timeout_s, peer=request.peer, certificate=certificate)
        self.stream = None if self._over else stream

    # -- StreamSink

    def on_message(self, message: bytes) -> bool:
        if self._over:
            return False
        line = b'{"result":' + self._route.response.encode(message, html=True) + b"}\n"
        if not self._started:
            self._started = True
            self._request.start(200, SERVED)
        return self._request.write(line)

    def on_finished(self, code: int, message: str) -> None:
        if self._over:
            return
        self._over, self.stream = True, None
        if not self._started:
            self._request.start(http_status(code), JSON if code else ())
        if code:
            self._request.write(stream_refusal(code, message))
        self._request.end()

    # -- Client

    def _writable(self) -> None:
        if self.stream is not None:
            self.stream.writable()

    def _gone(self) -> None:
        self._over = True
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.cancel()


class Upload:
    """The body of a request that is a stream of messages: a `BodySink`. The end of it, or what is no message, ends the requests, not the
    answers."""

    def __init__(self, local: LocalCalls, request: Client, route: Route, metadata: Mapping[str, str], timeout_s: float | None) -> None:
        self._open: Callable[[], Download] = lambda: Download(local, request, route, metadata, timeout_s)
        self._schema = route.request
        self._message_bytes_max = local.engine.message_bytes_max
        self._value_bytes_max = min(request.body_bytes_max, GATEWAY_STREAM_BYTES_MAX)
        self._scanner = Scanner()
        self._closed = False
        self._download: Download | None = None
        self.busy = False

    @property
    def held_bytes(self) -> int:
        return self._scanner.pending_bytes

    def on_begin(self) -> None:
        self._download = self._open()

    def on_body(self, data: bytes) -> None:
        if self._stream is None or self._closed:
            return
        self._scanner.feed(data)
        self.go_on()

    def go_on(self) -> None:
        self.busy = False
        try:
            for _ in range(MESSAGES_PER_TURN):
                if self._stream is None or self._closed or (text := self._scanner.next()) is None:
                    break
                self._send(self._schema.decode(text))
            else:
                self.busy = True
                return
        except JsonError:
            self._close()
            return
        if self._scanner.pending_bytes > self._value_bytes_max and self._stream is not None:
            self._stream.finish(*too_large(self._scanner.pending_bytes, self._message_bytes_max))

    def on_body_end(self) -> None:
        if self._stream is None or self._closed:
            return
        try:
            text = self._scanner.end()
            if text is not None:
                self._send(self._schema.decode(text))
        except JsonError:
            pass  # as etcd: what was cut off ends the requests as their end does
        self._close()

    @property
    def _stream(self) -> LocalStream | None:
        return None if self._download is None else self._download.stream

    def _send(self, message: bytes) -> None:
        if self._stream is None:
            return
        if len(message) > self._message_bytes_max:
            self._stream.finish(*too_large(len(message), self._message_bytes_max))
        else:
            self._stream.send(message)

    def _close(self) -> None:
        self._closed = True
        if self._stream is not None:
            self._stream.close()
