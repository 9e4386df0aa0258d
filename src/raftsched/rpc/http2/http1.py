"""HTTP/1.1 for the same port: a bounded conversation over h11, one request at a time, whole bodies.

Invariant: one response per request, in order; headers, body and what waits behind a running request are bounded.
Must not know: what any path means.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import h11

KEEP_ALIVE_S: Final = 120.0  # an idle connection between requests
PIPELINE_BYTES: Final = 65_536  # what a client may send ahead of its answer before we stop reading
REASONS: Final = {
    400: "Bad Request",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    505: "HTTP Version Not Supported",
}


class HttpRequest:
    """A request, whole. Answer it once, now or later, with `respond`; an answer to a client that has gone is dropped."""

    __slots__ = ("_connection", "body", "headers", "method", "peer", "target")

    def __init__(self, connection: "Http1Connection", head: h11.Request, body: bytes) -> None:
        self._connection: Http1Connection | None = connection
        self.method = head.method.decode("ascii")
        self.target = head.target.decode("latin-1")
        self.headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers]
        self.body = body
        self.peer = connection.peer

    def header(self, name: str) -> str | None:
        """First value of a header, lower-case name."""
        return next((value for found, value in self.headers if found == name), None)

    def respond(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """`content-length` is added. Raises ValueError for a header that cannot be sent; the request stays unanswered."""
        if self._connection is not None and self._connection.respond(self, status, headers, body):
            self._connection = None

    def fail(self) -> None:
        """500, if it is not answered yet."""
        self.respond(500, [("content-type", "text/plain")], b"internal error\n")


class Http1Connection:
    """Sans-IO h11 joined to a transport. `charge(n)` takes n bytes of the budget of bodies (False: none left) or gives -n back."""

    def __init__(
        self,
        transport: asyncio.Transport,
        on_request: Callable[[HttpRequest], None],
        charge: Callable[[int], bool],
        *,
        peer: str,
        body_bytes_max: int,
        header_bytes_max: int,
    ) -> None:
        self._transport = transport
        self._on_request = on_request
        self._charge = charge
        self._body_bytes_max = body_bytes_max
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=header_bytes_max)
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._charged = 0
        self._current: HttpRequest | None = None
        self._ahead_bytes = 0
        self._reading_paused = False
        self._draining = False
        self._ended = False
        self._inside = False
        self.peer = peer
        self.paused = False

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._ended:
            return
        if self._current is not None:
            self._ahead_bytes += len(data)
            if self._ahead_bytes > PIPELINE_BYTES and not self._reading_paused:
                self._reading_paused = True
                self._transport.pause_reading()
        try:
            self._h11.receive_data(data)
            self._advance()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint)

    def eof(self) -> bool:
        """True keeps our half open: the answer is still to come."""
        if self._ended or self._current is None:
            return False
        self._draining = True
        return True

    def _advance(self) -> None:
        """Events up to the next whole request. Not re-entered: an answer given inside the handler only ends the cycle."""
        if self._inside:
            return
        self._inside = True
        try:
            while self._current is None and not self._ended and not self.paused:
                if not self._one_event():
                    break
        finally:
            self._inside = False

    def _one_event(self) -> bool:
        event = self._h11.next_event()
        if event is h11.NEED_DATA:
            if self._h11.they_are_waiting_for_100_continue:
                self._send(h11.InformationalResponse(status_code=100, headers=[]))
            return False
        if isinstance(event, h11.Request):
            self._head = event
            return self._acceptable(event)
        if isinstance(event, h11.Data):
            return self._take_body(bytes(event.data))
        if isinstance(event, h11.EndOfMessage) and self._head is not None:
            request = self._current = HttpRequest(self, self._head, bytes(self._body))
            self._head = None
            self._body = bytearray()
            self._on_request(request)
            return True
        self._close()  # ConnectionClosed, PAUSED after a close: there is no next request
        return False

    def _acceptable(self, head: h11.Request) -> bool:
        """Refuses what is no HTTP/1, and a body that announces more than there is room for."""
        if head.http_version not in (b"1.0", b"1.1"):
            self._refuse(505)
            return False
        for name, value in head.headers:
            if name == b"content-length" and int(value) > self._body_bytes_max:
                self._refuse(413)
                return False
        return True

    def _take_body(self, data: bytes) -> bool:
        if len(self._body) + len(data) > self._body_bytes_max:
            self._refuse(413)
            return False
        if not self._charge(len(data)):
            self._refuse(503)
            return False
        self._charged += len(data)
        self._body += data
        return True

    def _uncharge(self) -> None:
        self._charge(-self._charged)
        self._charged = 0

    def respond(self, request: HttpRequest, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        """False when the response is not one that can be sent."""
        if self._ended or request is not self._current:
            return True
        fields = [(name, value) for name, value in headers if name.lower() not in ("content-length", "connection", "transfer-encoding")]
        if status >= 200 and status != 204:
            fields.append(("content-length", str(len(body))))
        if self._draining:
            fields.append(("connection", "close"))
        try:
            response: Any = h11.Response(status_code=status, headers=fields)
        except h11.LocalProtocolError as error:
            raise ValueError(str(error)) from None
        self._uncharge()
        self._send(response)
        if body and request.method != "HEAD" and status not in (204, 304):
            self._send(h11.Data(data=body))
        self._send(h11.EndOfMessage())
        self._next_cycle()
        return True

    def _next_cycle(self) -> None:
        self._current = None
        self._ahead_bytes = 0
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE or self._draining:
            self._close()
            return
        self._h11.start_next_cycle()
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        try:
            self._advance()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint)

    def _send(self, event: Any) -> None:
        data = self._h11.send(event)
        if data:
            self._transport.write(data)

    def _refuse(self, status: int) -> None:
        """An answer to what is no acceptable request; then the connection ends."""
        if self._ended:
            return
        text = REASONS.get(status, "Service Unavailable").encode() + b"\n"
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [("content-type", "text/plain"), ("content-length", str(len(text))), ("connection", "close")]
            self._send(h11.Response(status_code=status, headers=headers, reason=REASONS.get(status, "").encode()))
            self._send(h11.Data(data=text))
            self._send(h11.EndOfMessage())
        self._close()

    def _close(self) -> None:
        if not self._ended:
            self._ended = True
            self._uncharge()
            self._transport.close()

    def resume(self) -> None:
        """The transport can write again."""
        self.paused = False
        if not self._ended and self._current is None:
            try:
                self._advance()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint)

    def sweep(self, now_s: float, read_at_s: float, first_request_timeout_s: float) -> None:
        """Ends a conversation that stands still: in the middle of a request, or idle for long."""
        if self._current is not None or self._ended:
            return
        started = self._head is not None or self._h11.trailing_data[0] != b""
        fresh = self._h11.our_state is h11.IDLE and self._h11.their_state is h11.IDLE and not started
        if now_s - read_at_s > (KEEP_ALIVE_S if fresh else first_request_timeout_s):
            self._close()

    def drain(self) -> None:
        """After the current response the connection ends; an idle one at once."""
        self._draining = True
        if self._current is None and self._head is None:
            self._close()

    def lost(self) -> None:
        """The client is gone."""
        self._ended = True
        self._uncharge()
        self._current = None
