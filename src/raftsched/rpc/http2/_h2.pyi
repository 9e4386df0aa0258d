"""The contract of the native door; docs/internals.md tells how it is built. All on the loop thread."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from raftsched.ports import StreamHandler
from raftsched.rpc.http2.http_request import BodySink
from raftsched.rpc.http2.http_request import HttpRequest as HttpRequest
from raftsched.rpc.http2.local import LocalCalls

class Guard(Protocol):
    """Who may come in by TLS (security/guard.py)."""

    def context(self) -> ssl.SSLContext:
        """For the connection that begins now."""

    def objection(self, tls: ssl.SSLObject) -> str:
        """After the handshake: why this client must go, in a few words; "" = it may stay."""

    def refused(self, peer: str, cause: str) -> None:
        """That connection was closed before anything was served. Once per connection."""

class Call:
    """A unary call on the cold path."""

    @property
    def handle(self) -> int: ...
    @property
    def method(self) -> str:
        """/package.Service/Method"""

    @property
    def deadline(self) -> float:
        """Loop time at which the client gives up; 0.0 = never."""

    @property
    def peer(self) -> str:
        """host:port; empty for a unix socket."""

    def metadata(self, name: str) -> str | None:
        """First value of a request header, lower-case name; None if absent or the call is gone. `-bin` values come decoded as latin-1."""

    def peer_certificate(self) -> dict[str, Any] | None:
        """As `ssl.SSLSocket.getpeercert()`; None without TLS or without a client certificate."""

    def set_trailer(self, name: str, value: str | bytes) -> None:
        """Sent with the status; `-bin` values are encoded here. At most 31; ValueError for what no header may carry."""

class Stream:
    """One open gRPC stream: `ports.Stream` and more. Everything is ignored once the stream is gone."""

    @property
    def handle(self) -> int: ...
    @property
    def method(self) -> str: ...
    @property
    def deadline(self) -> float:
        """Loop time at which the client gives up; 0.0 = never."""

    @property
    def peer(self) -> str: ...
    @property
    def queued_bytes(self) -> int:
        """Pushed and not yet collected for the connection."""

    def push(self, message: bytes) -> bool:
        """Queues one message; False = no room any more (or the stream is gone): stop until `on_writable`. Taken in any case."""

    def push_many(self, messages: Sequence[bytes]) -> bool:
        """All of them, in order; the room after the last."""

    def finish(self, code: int = 0, message: str = "") -> None:
        """Trailers behind what was pushed. `on_closed(code)` follows in the next tick."""

    def reset(self, error_code: int = 8) -> None:
        """RST_STREAM with an HTTP/2 error code: what is queued is dropped, the handler hears `on_closed(1)`."""

    def metadata(self, name: str) -> str | None: ...
    def peer_certificate(self) -> dict[str, Any] | None: ...
    def set_trailer(self, name: str, value: str | bytes) -> None: ...

class WebStream:
    """One request over HTTP/2 that is no gRPC. Everything is ignored once its answer is over or its client is gone."""

    @property
    def peer(self) -> str: ...
    @property
    def secure(self) -> bool: ...
    def head(self) -> tuple[str, str, list[tuple[str, str]]]:
        """Method, target and headers as HTTP/1.1 has them, but for headers that only gRPC or the door go by."""

    def start(self, fields: list[tuple[bytes, bytes]], last: bool) -> None:
        """The head of the answer, `:status` first; `last`: it has no body. Once."""

    def write(self, part: bytes) -> bool:
        """A part of the body; False = no room any more: stop until told. Taken in any case."""

    def end(self) -> None:
        """Behind the last part."""

    def go_on(self) -> None:
        """The exchange is not busy any more: what waits of the body may come."""

    def proceed(self) -> None:
        """100: the client may send the body."""

    def reset(self, error_code: int) -> None:
        """RST_STREAM with an HTTP/2 error code."""

    def peer_certificate(self) -> dict[str, Any] | None: ...

class Engine:
    """One HTTP/2 + HTTP/1.1 door; listeners share it. Limits come as keyword arguments, defaults from limits.py."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        message_bytes_max: int = ...,
        bodies_bytes_max: int = ...,
        header_list_bytes_max: int = ...,
        connections_max: int = 0,
        write_buffer_bytes: int = ...,
        stream_buffer_bytes: int = ...,
        ping_interval_min_ms: int = 5_000,
        server_ping_idle_ms: int = 0,
        server_ping_timeout_ms: int = 20_000,
        first_request_timeout_ms: int = ...,
        tls_handshake_timeout_ms: int = ...,
        http_body_bytes_max: int = ...,
        resets_burst: int = ...,
        resets_per_s: float = ...,
        control_frames_burst: int = ...,
        control_frames_per_s: float = ...,
        streams_max: int = ...,
        on_http: Callable[[HttpRequest], None] | None = None,
        on_http_head: Callable[[HttpRequest], BodySink | None] | None = None,
        on_error: Callable[[str, BaseException], None] | None = None,
        unread_bytes_max: int = ...,
        on_unread: Callable[[str, int], None] | None = None,
    ) -> None:
        """`bodies_bytes_max` 0 = a quarter of RAM; `connections_max` 0 = no limit; `server_ping_idle_ms` 0 = no pings; `streams_max`: open
        streams of one connection, 0 = no limit; beyond, a stream is refused.

        Without `on_http` a connection that is not HTTP/2 is closed, and what is no gRPC is refused as gRPC refuses it. `on_http_head`
        sees each request first, without its body, and may take that as it comes; then `on_http` does not hear of it.
        `on_error(where, error)` hears of a handler's exception; without it the loop's exception handler does. `unread_bytes_max`: of all
        answers together that nobody has read; beyond it connections are closed, and `on_unread(peer, unread bytes)` hears of each.
        """
    # -- methods: one of three kinds per path; ValueError for a path that is there already or is none
    def add_batch(self, path: str, handler: Callable[[list[int], list[bytes]], None]) -> None:
        """Hot unary: once per tick, with all requests of that path that are complete: handles and messages, in order of
        arrival. The handler answers each handle by `reply`/`fail`, now or later; an exception fails the whole batch INTERNAL."""

    def add_unary(self, path: str, handler: Callable[[Call, bytes], Awaitable[bytes]]) -> None:
        """Cold unary: a task per call, cancelled when the client goes or its deadline passes. `StatusError` becomes the status."""

    def add_stream(self, path: str, handler: Callable[[Stream, str], StreamHandler], *, hold_bytes: int = ...) -> None:
        """Bidi or server stream: the factory is called with (stream, path) when the headers have arrived.

        A peer that does not read gets no more of its own messages delivered while more than `hold_bytes` of answers wait
        for it (0 = never held). `StatusError` from any method of the handler ends the stream with that status.
        """

    def handler_of(self, path: str) -> tuple[str, Any] | None:
        """What serves `path` and how: ("batch", "unary" or "stream", handler); None if nothing does."""

    @property
    def local(self) -> LocalCalls:
        """Calls of these methods from within this process. Their handles are below zero, and are answered like any other."""

    @property
    def message_bytes_max(self) -> int: ...
    def report(self, where: str, error: BaseException) -> None:
        """Tells `on_error` of a handler's exception."""

    def add_unimplemented(self, service: str) -> None:
        """Paths of `service` answer UNIMPLEMENTED `unknown method M for service S`; other services `unknown service S`."""
    # -- answers; a handle whose call is gone is ignored
    def reply(self, handle: int, message: bytes, header: bytes = b"") -> None:
        """Status 0 with one message = header + message, without joining them in Python."""

    def answer_many(
        self, handles: Sequence[int], results: Sequence[tuple[int, int, bytes]], make_header: Callable[[int], bytes]
    ) -> list[int]:
        """Answers a batch with (error, revision, body) results, header = make_header(revision), and writes at once unless a tick is
        under way. The positions of those with an error, which are left to the caller."""
    def write_now(self) -> None:
        """`flush`, unless a tick is under way: its end writes."""
    def reply_many(self, handles: Sequence[int], messages: Sequence[bytes], headers: Sequence[bytes] | None = None) -> None: ...
    def fail(self, handle: int, code: int, message: str) -> None:
        """Ends a call with a status, trailers-only when nothing was sent."""

    def alive(self, handle: int) -> bool: ...
    def metadata(self, handle: int, name: str) -> str | None: ...
    def metadata_many(self, handles: list[int], name: bytes) -> list[str | None] | None:
        """The header `name` (lower case) of each call; None when none of them has it."""
    def deadline(self, handle: int) -> float: ...
    def peer(self, handle: int) -> str: ...
    def peer_certificate(self, handle: int) -> dict[str, Any] | None: ...
    def set_trailer(self, handle: int, name: str, value: str | bytes) -> None: ...
    def flush(self) -> int:
        """Write answers now instead of in the next iteration of the loop: for who answers many handles outside of a handler."""
    # -- listeners and lifecycle
    async def listen(
        self,
        host: str,
        port: int,
        *,
        guard: Guard | None = None,
        plaintext_too: bool = False,
        grpc: bool = True,
        http: bool = True,
        reuse_port: bool = False,
    ) -> asyncio.Server:
        """An empty host = all addresses. OSError as from `loop.create_server`. With `guard` clients speak TLS; `plaintext_too`: or
        not, as their first byte says. `grpc`, `http`: what is served there."""

    async def listen_unix(
        self, sock: socket.socket, *, guard: Guard | None = None, plaintext_too: bool = False, grpc: bool = True, http: bool = True
    ) -> asyncio.Server:
        """`sock` is bound; its name in the file system stays the caller's to remove."""

    def end_streams(self) -> None:
        """Every streaming call ends as UNAVAILABLE behind what was pushed to it, also those that come until the next `listen`."""

    async def drain(self, timeout_ms: int) -> None:
        """Close the listeners, GOAWAY in two steps, end what is not whole, wait for open streams up to the limit, then cut (UNAVAILABLE).
        Afterwards no connection is left."""

    def counters(self) -> dict[str, int]:
        """connections, streams, streams_live (structs not yet freed), requests_total, http_requests_total, messages_in/out,
        bytes_in/out, resets_total, floods_total, refused_total, bodies_bytes, buffered_bytes (answers that
        are not yet read), unread_total (connections closed for want of room for these)."""
