"""The contract of the native door; docs/internals.md tells how it is built. All on the loop thread."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from raftsched.ports import Stream, StreamHandler

class Call:
    """A unary call on the cold path."""

    handle: int
    method: str
    """/package.Service/Method"""
    deadline: float
    """Loop time at which the client gives up; 0.0 = never."""
    peer: str
    def metadata(self, name: str) -> str | None:
        """First value of a request header, lower-case name; None if absent. `-bin` values come decoded as latin-1."""
    def peer_certificate(self) -> dict[str, Any] | None: ...
    def set_trailer(self, name: str, value: str | bytes) -> None: ...

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
        ping_interval_min_ms: int = 5_000,
        server_ping_idle_ms: int = 0,
        server_ping_timeout_ms: int = 20_000,
        on_http: Callable[[HttpRequest], None] | None = None,
        on_error: Callable[[str, BaseException], None] | None = None,
    ) -> None: ...

    # -- methods: one of three kinds per path
    def add_batch(self, path: str, handler: Callable[[list[int], list[bytes]], None]) -> None:
        """Hot unary: once per tick, with all requests of that path that are complete: handles and messages, in order of
        arrival. The handler answers each handle by `reply`/`fail`, now or later; an exception fails the whole batch INTERNAL."""
    def add_unary(self, path: str, handler: Callable[[Call, bytes], Awaitable[bytes]]) -> None:
        """Cold unary: a task per call, cancelled when the client goes or its deadline passes. `StatusError` becomes the status."""
    def add_stream(self, path: str, handler: Callable[[Stream, str], StreamHandler]) -> None:
        """Bidi or server stream: the factory is called with (stream, path) when the headers have arrived."""
    def add_unimplemented(self, service: str) -> None:
        """Paths of `service` answer UNIMPLEMENTED `unknown method M for service S`; other services `unknown service S`."""

    # -- answers; a handle whose call is gone is ignored
    def reply(self, handle: int, message: bytes, header: bytes = b"") -> None:
        """Status 0 with one message = header + message, without joining them in Python."""
    def reply_many(self, handles: Sequence[int], messages: Sequence[bytes]) -> None: ...
    def fail(self, handle: int, code: int, message: str) -> None: ...
    def alive(self, handle: int) -> bool: ...
    def metadata(self, handle: int, name: str) -> str | None: ...
    def deadline(self, handle: int) -> float: ...

    # -- listeners and lifecycle
    async def listen(self, host: str, port: int, *, ssl: Any = None) -> asyncio.Server: ...
    async def listen_unix(self, path: str) -> asyncio.Server: ...
    async def drain(self, timeout_ms: int) -> None:
        """GOAWAY in two steps, refuse new streams, wait for open ones up to the limit, then cut with UNAVAILABLE."""
    def counters(self) -> dict[str, int]:
        """connections, streams, requests_total, messages_in/out, bytes_in/out, resets_total, floods_total, buffered_bytes."""

class HttpRequest:
    """An HTTP/1.1 request on the same port, whole (bounded body)."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    def respond(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None: ...
