"""HTTP/2 without gRPC for the same port: one request, and its answer, on a stream of the native door.

The same bounds as over HTTP/1.1: a body is handed over whole, or as it comes to who asks for it; what is kept of it is in the budget.
Invariant: one answer per request; nothing is held for a client that goes.
Must not know: frames, what any path means.
"""

import re
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Final

from raftsched.rpc.http2.http1 import FRAMING, http_date
from raftsched.rpc.http2.http_request import TEXT, Answer, BodySink, HttpRequest

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import WebStream

INTERNAL_ERROR, HTTP_1_1_REQUIRED = 2, 13
NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
VALUE: Final = re.compile(rb"(?:[!-~](?:[\t -~]*[!-~])?)?")
NO_ROOM: Final[Answer] = (503, TEXT, b"Service Unavailable\n")


class Http2Exchange:
    """`http_request.Exchange`. The engine calls `begin`, `on_parts`, `on_end`, `on_writable`, and `lost` at most once, last; while it is
    `busy` neither `on_parts` nor `on_end`.

    `charge(n)` takes n bytes of the budget of bodies (False: none left) or gives -n back; `later(work)` does it in a turn of its own.
    """

    def __init__(
        self,
        stream: "WebStream",
        on_request: Callable[[HttpRequest], None],
        on_head: Callable[[HttpRequest], BodySink | None],
        charge: Callable[[int], bool],
        later: Callable[[Callable[[], None]], object],
        *,
        body_bytes_max: int,
    ) -> None:
        self.peer, self.secure, self.body_bytes_max = stream.peer, stream.secure, body_bytes_max
        self.peer_certificate = stream.peer_certificate
        self.target = ""
        self._stream = stream
        self._on_request, self._on_head, self._charge, self._later = on_request, on_head, charge, later
        self._request: HttpRequest | None = None
        self._sink: BodySink | None = None
        self._parts: deque[bytes] = deque()  # for a sink that is busy: at most what came in one go
        self._body = bytearray()
        self._charged = 0
        self._whole = False
        self._streaming = False
        self._over = False

    # -- for the engine

    @property
    def busy(self) -> bool:
        """Whether it wants nothing more of the body now; `WebStream.go_on` says when it does."""
        return self._sink is not None and not self._over and (self._sink.busy or bool(self._parts))

    def begin(self) -> None:
        """The head is there."""
        method, self.target, headers = self._stream.head()
        self._request = request = HttpRequest(self, method, self.target, headers)
        self._sink = self._on_head(request)
        if self._sink is not None:
            self._sink.on_begin()
        elif announced_bytes(request) > request.body_bytes_max:
            self._refuse(request.too_large)
        if (request.header("expect") or "").lower() == "100-continue" and not self._over and not self._streaming:
            self._stream.proceed()

    def on_parts(self, parts: Sequence[bytes]) -> None:
        if self._sink is not None:
            self._parts.extend(parts)
            self._feed_sink()
            return
        for part in parts:
            if self._request is not None and not self._over and not self._streaming:
                self._keep(part, self._request)

    def _feed_sink(self) -> None:
        """Part by part; where one is much to do, the rest of it and the others have a turn of their own."""
        while self._sink is not None and not self._over:
            if self._sink.busy:
                self._later(self._go_on)
                return
            if not self._parts:
                return
            self._sink.on_body(self._parts.popleft())
            self._count_sink()

    def _go_on(self) -> None:
        if self._sink is None or self._over:
            return
        self._sink.go_on()
        self._count_sink()
        self._feed_sink()
        if self.busy:
            return
        if self._whole:
            self.on_end()
        self._stream.go_on()

    def _count_sink(self) -> None:
        self._count(0 if self._sink is None else self._sink.held_bytes + sum(map(len, self._parts)))

    def on_end(self) -> None:
        """The body is whole."""
        self._whole = True
        if self.busy:
            return
        sink, self._sink = self._sink, None
        if self._over:
            return
        if sink is not None:
            sink.on_body_end()
        elif self._request is not None and not self._streaming:
            self._request.body, self._body = bytes(self._body), bytearray()
            self._on_request(self._request)

    def on_writable(self) -> None:
        if self._request is not None and self._request.on_writable is not None and not self._over:
            self._request.on_writable()

    def lost(self) -> None:
        """The client is gone."""
        if self._over:
            return
        request = self._request
        self._finish()
        if request is not None and request.on_gone is not None:
            request.on_gone()

    def fail(self) -> None:
        """500, or an end where the answer has begun."""
        if self._request is not None and not self._streaming:
            self._request.fail()
        else:
            self._stream.reset(INTERNAL_ERROR)

    def _keep(self, part: bytes, request: HttpRequest) -> None:
        if len(self._body) + len(part) > request.body_bytes_max:
            self._refuse(request.too_large)
        elif self._count(len(self._body) + len(part)):
            self._body += part

    def _count(self, held_bytes: int) -> bool:
        """What is kept is in the budget; without room there the request ends."""
        more = held_bytes - self._charged
        if self._over or (more and not self._charge(more)):
            self._refuse(NO_ROOM)
            return False
        self._charged += more
        return True

    def _refuse(self, answer: Answer) -> None:
        request = self._request
        if request is None or self._over:
            return
        gone = request.on_gone
        if self._streaming:
            self._stream.reset(INTERNAL_ERROR)
            self._finish()
        else:
            request.respond(*answer)
        if gone is not None:
            gone()

    # -- for the request

    def respond(self, request: HttpRequest, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        """False when it is not answered by this: its answer has begun already."""
        if self._over:
            return True
        if self._streaming:
            return False
        fields = head_of(status, [*request.extra_headers, *headers])
        if status != 204:
            fields.append((b"content-length", b"%d" % len(body)))
        bodiless = not body or request.method == "HEAD" or status in (204, 304)
        self._finish()
        self._stream.start(fields, bodiless)
        if not bodiless:
            self._stream.write(body)
            self._stream.end()
        return True

    def start(self, request: HttpRequest, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """ValueError for what cannot be sent."""
        if self._over or self._streaming:
            return
        fields = head_of(status, [*request.extra_headers, *headers])
        self._streaming = True
        self._body = bytearray()
        self._count_sink()
        self._stream.start(fields, False)  # also of HEAD: until it ends, its client is looked after

    def write(self, request: HttpRequest, data: bytes) -> bool:
        """Whether there is room for more."""
        if self._over or not self._streaming:
            return False
        return request.method == "HEAD" or self._stream.write(data)

    def end(self, request: HttpRequest) -> None:
        if self._streaming and not self._over:
            self._finish()
            self._stream.end()

    def upgrade(self, request: HttpRequest, headers: Sequence[tuple[str, str]], sink: BodySink) -> None:
        """HTTP/2 has no such thing: the client may come again by HTTP/1.1."""
        self._finish()
        self._stream.reset(HTTP_1_1_REQUIRED)

    def _finish(self) -> None:
        self._over = True
        self._request = self._sink = None
        self._parts.clear()
        self._body = bytearray()
        self._charge(-self._charged)
        self._charged = 0


def announced_bytes(request: HttpRequest) -> float:
    """Of its content-length. At a unix socket nghttp2 judges no fields (session.h): what is no number is without end."""
    text = request.header("content-length") or "0"
    return int(text) if text.isdecimal() and len(text) < 20 else inf


def head_of(status: int, headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """The fields of an answer. ValueError for one that cannot be sent."""
    fields = [(b":status", b"%d" % status)]
    for name, value in headers:
        if name.lower() in FRAMING:
            continue
        field = name.lower().encode("ascii"), value.encode("ascii")
        if not NAME.fullmatch(field[0]) or not VALUE.fullmatch(field[1]):
            raise ValueError(f"header {name}: cannot be sent")
        fields.append(field)
    fields.append((b"date", http_date().encode("ascii")))
    return fields
