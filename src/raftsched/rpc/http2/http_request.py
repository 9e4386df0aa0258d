"""An HTTP request as its handler sees it, and how it is answered; what speaks HTTP stands behind `Exchange`.

Must not know: the version of HTTP, what any path means.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

Answer = tuple[int, Sequence[tuple[str, str]], bytes]
"""Status, headers, body."""
TEXT: Final = (("Content-Type", "text/plain"),)


class Exchange(Protocol):
    """The connection of a request."""

    @property
    def peer(self) -> str: ...
    @property
    def secure(self) -> bool: ...
    @property
    def body_bytes_max(self) -> int: ...
    def peer_certificate(self) -> dict[str, Any] | None: ...
    def respond(self, request: "HttpRequest", status: int, headers: Sequence[tuple[str, str]], body: bytes) -> bool: ...
    def start(self, request: "HttpRequest", status: int, headers: Sequence[tuple[str, str]]) -> None: ...
    def write(self, request: "HttpRequest", data: bytes) -> bool: ...
    def end(self, request: "HttpRequest") -> None: ...
    def upgrade(self, request: "HttpRequest", headers: Sequence[tuple[str, str]], sink: "BodySink") -> None: ...


class BodySink(Protocol):
    """Who takes a body as it comes."""

    def on_begin(self) -> None:
        """The request may be answered from now on."""

    @property
    def held_bytes(self) -> int:
        """Of the body, kept and not yet of use; in the budget of bodies."""

    @property
    def busy(self) -> bool:
        """Whether there is more to do with what has come: `go_on` does the next part, in a turn of the loop of its own."""

    def on_body(self, data: bytes) -> None: ...
    def go_on(self) -> None: ...
    def on_body_end(self) -> None: ...


class HttpRequest:
    """A request. Answer it once, now or later: whole, with `respond`, or in parts, with `start`, `write` and `end`; an answer to a client
    that has gone is dropped.

    Names of headers are lower-case. `on_gone` is called when the client goes before the answer is over (with it set, the end of what a
    client sends is taken for that), `on_writable` when there is room again. `body_bytes_max`, and `too_large`, the answer to a larger
    body, may be changed while only the head is there.
    """

    __slots__ = (
        "_connection",
        "body",
        "body_bytes_max",
        "extra_headers",
        "headers",
        "method",
        "on_gone",
        "on_writable",
        "peer",
        "secure",
        "target",
        "too_large",
    )

    def __init__(self, connection: Exchange, method: str, target: str, headers: list[tuple[str, str]]) -> None:
        self._connection: Exchange | None = connection
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.method = method
        self.target = target
        self.headers = headers
        self.body = b""
        self.body_bytes_max = connection.body_bytes_max
        self.extra_headers: Sequence[tuple[str, str]] = ()  # of whatever it is answered with
        self.too_large: Answer = (413, TEXT, b"Content Too Large\n")
        self.peer = connection.peer
        self.secure = connection.secure

    def header(self, name: str) -> str | None:
        """First value of a header, lower-case name."""
        return next((value for found, value in self.headers if found == name), None)

    def peer_certificate(self) -> dict[str, Any] | None:
        """As `ssl.SSLSocket.getpeercert()`; None without one."""
        return None if self._connection is None else self._connection.peer_certificate()

    def respond(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """`content-length` is added. Raises ValueError for a header that cannot be sent; the request stays unanswered."""
        if self._connection is not None and self._connection.respond(self, status, headers, body):
            self._connection = None

    def start(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """The head of an answer whose body comes in parts. ValueError as `respond`."""
        if self._connection is not None:
            self._connection.start(self, status, headers)

    def write(self, data: bytes) -> bool:
        """One part, not empty; False = no room: stop until `on_writable`. The part is taken in any case."""
        return self._connection is not None and self._connection.write(self, data)

    def end(self) -> None:
        """Behind the last part."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.end(self)

    def upgrade(self, headers: Sequence[tuple[str, str]], sink: BodySink) -> None:
        """101: from now on `write` sends bytes as they are, and `sink.on_body` gets them as they come. Only for who asked for it."""
        if self._connection is not None:
            self._connection.upgrade(self, headers, sink)

    def fail(self) -> None:
        """500, if it is not answered yet."""
        self.respond(500, [("content-type", "text/plain")], b"internal error\n")
