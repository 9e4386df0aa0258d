"""HTTP/1.1 for the same port: a bounded conversation over h11, one request at a time.

A body is handed over whole; or, to who asks for it when the head is there, as it comes, while the answer may already be on its way.
Invariant: one response per request, in order; headers, body and what waits behind a running request are bounded, and nothing more is read
for a client that does not read its answer. Of what a client sends ahead, be it requests or parts of a body for which there is much to do,
each waits for a turn of the loop of its own.
Must not know: what any path means.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from functools import lru_cache
from http.client import responses
from typing import Any, Final

import h11

from raftsched.rpc.http2.http_request import TEXT, BodySink, HttpRequest

KEEP_ALIVE_S: Final = 120.0  # an idle connection between requests
PIPELINE_BYTES: Final = 65_536  # what a client may send ahead of its answer before we stop reading
LINGER_S: Final = 0.5  # Go's: an answer that comes before the end of its request must reach the client before a reset does
REASONS: Final = {**responses, 413: "Content Too Large", 421: "Misdirected Request", 499: "status code 499"}
"""A client that knows no code reads these; the names are Go's."""
FRAMING: Final = ("content-length", "connection", "transfer-encoding")


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
        later: Callable[[Callable[[], None]], object],
        on_head: Callable[[HttpRequest], BodySink | None] = lambda request: None,
        linger: Callable[[], None] | None = None,
        secure: bool = False,
        certificate: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        """`on_head`: who takes the body of a request as it comes; None = nobody. `linger` closes the transport, a little later;
        `later` calls in the next turn."""
        self._linger = linger or transport.close
        self._later = later
        self.peer_certificate = certificate
        self._transport = transport
        self._on_head = on_head
        self._sink: BodySink | None = None
        self.secure = secure
        self._on_request = on_request
        self._charge = charge
        self.body_bytes_max = body_bytes_max
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=header_bytes_max)
        self._head: HttpRequest | None = None
        self._body = bytearray()
        self._charged = 0
        self._current: HttpRequest | None = None
        self._ahead_bytes = 0
        self._reading_paused = False
        self._draining = False
        self._ended = False
        self._inside = False
        self._awaits_turn = False
        self._streaming = False
        self._upgraded = False  # another protocol has begun
        self.peer = peer
        self.paused = False

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._ended:
            return
        if self._upgraded:
            self._take_body(data)
            self._hold_if(self._blocked)
            return
        if self._blocked:
            self._ahead_bytes += len(data)
            self._hold_if(self._ahead_bytes > PIPELINE_BYTES)
        self._h11.receive_data(data)
        self._go_on()

    def _go_on(self) -> None:
        try:
            self._advance()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint)
        except ValueError:  # a length of more digits than Python reads
            self._refuse(400)

    def _hold_if(self, full: bool) -> None:
        if full and not self._reading_paused and not self._ended:
            self._reading_paused = True
            self._transport.pause_reading()

    @property
    def _blocked(self) -> bool:
        """Whether what arrives has to wait."""
        return self.paused or self._awaits_turn or (self._current is not None and self._sink is None)

    def eof(self) -> bool:
        """True keeps our half open: the answer is still to come. A call that may go on for ever ends: as Go sees it, its client is gone."""
        if self._awaits_turn and self._current is None and not self._ended:
            self._h11.receive_data(b"")  # the end stands behind the requests that wait
            return True
        if self._ended or self._current is None or self._current.on_gone is not None:
            return False
        self._draining = True
        return True

    def _advance(self) -> None:
        """Events up to the next whole request. Not re-entered: an answer given inside the handler only ends the cycle."""
        if self._inside:
            return
        self._inside = True
        try:
            while not self._blocked and not self._ended and not self._upgraded and not self._transport.is_closing():
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
            return self._acceptable(event) and self._begin(request_of(self, event))
        if isinstance(event, h11.Data):
            return self._take_body(bytes(event.data))
        if isinstance(event, h11.EndOfMessage):
            return self._end_body()
        self._close()  # ConnectionClosed, PAUSED after a close: there is no next request
        return False

    def _acceptable(self, head: h11.Request) -> bool:
        """Refuses what is no HTTP/1."""
        if head.http_version in (b"1.0", b"1.1"):
            return True
        self._refuse(505)
        return False

    def _begin(self, request: HttpRequest) -> bool:
        """A head is there. A body that announces more than there is room for is refused."""
        self._head = request
        self._sink = self._on_head(request)
        if self._sink is not None:
            self._current, self._head = request, None
            self._sink.on_begin()
            return True
        if int(request.header("content-length") or 0) <= request.body_bytes_max:
            return True
        self._refuse_with(*request.too_large, extra=request.extra_headers)
        return False

    def _end_body(self) -> bool:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.on_body_end()
            return True
        request, self._head = self._head, None
        if request is None:  # of a streaming request that is answered already
            return False
        request.body = bytes(self._body)
        self._body = bytearray()
        self._current = request
        self._on_request(request)
        return True

    def _take_body(self, data: bytes) -> bool:
        if self._sink is not None:
            self._sink.on_body(data)
            return self._count_held() and self._look_after_sink()
        if self._head is None:  # of a streaming request that is answered already
            return False
        if len(self._body) + len(data) > self._head.body_bytes_max:
            self._refuse_with(*self._head.too_large, extra=self._head.extra_headers)
            return False
        if not self._charge(len(data)):
            self._refuse(503)
            return False
        self._charged += len(data)
        self._body += data
        return True

    def _count_held(self) -> bool:
        """What a sink keeps is in the budget; without room there the connection ends."""
        more = 0 if self._sink is None else self._sink.held_bytes - self._charged
        if more > 0 and not self._charge(more):
            self._refuse(503)
            return False
        if more < 0:
            self._charge(more)
        self._charged += more
        return True

    def _look_after_sink(self) -> bool:
        """Whether it may be given more now."""
        if self._sink is None or not self._sink.busy or self._ended:
            return True
        self._await_turn()
        return False

    def _uncharge(self) -> None:
        self._charge(-self._charged)
        self._charged = 0

    def respond(self, request: HttpRequest, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        """False when it is not answered by this: its answer has begun already."""
        if self._ended or request is not self._current:
            return True
        if self._streaming:
            return False
        if request.method == "CONNECT" and 200 <= status < 300:  # which would make a tunnel of the connection
            self._refuse(405)
            return True
        fields = [] if status < 200 or status == 204 else [("Content-Length", str(len(body)))]
        response = self._head_of(status, [*request.extra_headers, *headers], fields)
        self._uncharge()
        self._send(response)
        if body and request.method != "HEAD" and status not in (204, 304):
            self._send(h11.Data(data=body))
        self._finish()
        return True

    def _head_of(self, status: int, headers: Sequence[tuple[str, str]], fields: list[tuple[str, str]]) -> Any:
        """ValueError for what cannot be sent."""
        fields = [one for one in headers if one[0].lower() not in FRAMING] + [("Date", http_date())] + fields
        if self._draining:
            fields.append(("Connection", "close"))
        try:
            return h11.Response(status_code=status, headers=fields, reason=REASONS.get(status, "").encode())
        except h11.LocalProtocolError as error:
            raise ValueError(str(error)) from None

    def start(self, request: HttpRequest, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """In parts: h11 makes chunks of them for who speaks HTTP/1.1."""
        if self._ended or request is not self._current or self._streaming:
            return
        fields = [] if request.method == "HEAD" else [("Transfer-Encoding", "chunked")]
        response = self._head_of(status, [*request.extra_headers, *headers], fields)
        self._uncharge()
        self._streaming = True
        self._send(response)

    def write(self, request: HttpRequest, data: bytes) -> bool:
        """Whether there is room for more."""
        if self._ended or request is not self._current or not self._streaming:
            return False
        if self._upgraded:
            self._put(data)
        elif request.method != "HEAD":
            self._send(h11.Data(data=data))
        return not self.paused

    def end(self, request: HttpRequest) -> None:
        if not self._ended and request is self._current and self._streaming:
            self._finish()

    def upgrade(self, request: HttpRequest, headers: Sequence[tuple[str, str]], sink: BodySink) -> None:
        """Another protocol; `sink` gets what has come already before this returns."""
        if self._ended or request is not self._current or self._streaming:
            return
        self._uncharge()
        self._send(h11.InformationalResponse(status_code=101, headers=list(headers), reason=b"Switching Protocols"))
        self._streaming = self._upgraded = True
        self._sink = sink
        sink.on_begin()
        early = self._h11.trailing_data[0]
        if early:
            self._take_body(bytes(early))

    def _finish(self) -> None:
        self._uncharge()
        if self._upgraded:
            self._close()
            return
        self._streaming = False
        self._sink = None
        self._send(h11.EndOfMessage())
        self._next_cycle()

    def _next_cycle(self) -> None:
        self._current = None
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE or self._draining:
            self._close(linger=self._h11.their_state is h11.SEND_BODY)
            return
        self._h11.start_next_cycle()
        self._await_turn()

    def _await_turn(self) -> None:
        if not self._awaits_turn:
            self._awaits_turn = True
            self._later(self._take_turn)

    def _take_turn(self) -> None:
        self._awaits_turn = False
        if self._sink is not None and self._sink.busy and not self._ended:
            self._sink.go_on()
            if not self._count_held() or not self._look_after_sink():
                return
        self._read_on()

    def _read_on(self) -> None:
        """What waited goes on."""
        if self._ended or self._blocked:
            return
        self._ahead_bytes = 0
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        if not self._upgraded:
            self._go_on()

    def _send(self, event: Any) -> None:
        data = self._h11.send(event)
        if data:
            self._put(data)

    def _put(self, data: bytes) -> None:
        """Nothing to who has gone: asyncio would complain of each part."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def _refuse(self, status: int) -> None:
        """An answer to what is no acceptable request; then the connection ends."""
        self._refuse_with(status, TEXT, REASONS[status].encode() + b"\n")

    def _refuse_with(self, status: int, headers: Sequence[tuple[str, str]], body: bytes, *, extra: Sequence[tuple[str, str]] = ()) -> None:
        if self._ended:
            return
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            fields = [*extra, *headers, ("Date", http_date()), ("Content-Length", str(len(body))), ("Connection", "close")]
            self._send(h11.Response(status_code=status, headers=fields, reason=REASONS[status].encode()))
            self._send(h11.Data(data=body))
            self._send(h11.EndOfMessage())
        self._close(linger=True)

    def _close(self, *, linger: bool = False) -> None:
        """`linger`: what the client still sends is taken and thrown away for a moment."""
        if self._ended:
            return
        self._ended = True
        self._uncharge()
        if not linger or self._transport.is_closing():
            self._transport.close()
            return
        if self._reading_paused:
            self._transport.resume_reading()
        self._linger()

    def resume(self) -> None:
        """The transport can write again."""
        self.paused = False
        current = self._current
        if current is not None and current.on_writable is not None and not self._ended:
            current.on_writable()
        self._read_on()

    def sweep(self, now_s: float, read_at_s: float, first_request_timeout_s: float) -> None:
        """Ends a conversation that stands still: in the middle of a request, or idle for long."""
        if self._current is not None or self._ended or self._awaits_turn:
            return
        started = self._head is not None or self._h11.trailing_data[0] != b""
        fresh = self._h11.our_state is h11.IDLE and self._h11.their_state is h11.IDLE and not started
        if now_s - read_at_s > (KEEP_ALIVE_S if fresh else first_request_timeout_s):
            self._close()

    def drain(self) -> None:
        """After the current response the connection ends; at once where none is under way: a body may never end."""
        self._draining = True
        if self._head is not None:
            self._refuse(503)
        elif self._current is None:
            self._close()

    def lost(self) -> None:
        """The client is gone."""
        self._ended = True
        self._uncharge()
        current, self._current, self._sink = self._current, None, None
        if current is not None and current.on_gone is not None:
            current.on_gone()


def request_of(connection: Http1Connection, head: h11.Request) -> HttpRequest:
    headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers]
    return HttpRequest(connection, head.method.decode("ascii"), head.target.decode("latin-1"), headers)


def http_date() -> str:
    """Of now."""
    return date_of(int(time.time()))


@lru_cache(maxsize=1)
def date_of(now_s: int) -> str:
    return formatdate(now_s, usegmt=True)
