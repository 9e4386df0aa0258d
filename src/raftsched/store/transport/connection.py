"""One TCP connection between members: bytes in, frames out, and when there is room.

Invariant: nothing is handed on after `end` or a malformed frame. Frames are either awaited one by one (`receive`) or, after `attach`,
pushed to a sink as they come. Must not know: who is at the other end, what a frame means.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable

from raftsched.limits import PEER_HANDSHAKE_BYTES_MAX, PEER_WRITE_BYTES
from raftsched.security.tls import words as tls_words
from raftsched.store.raft._kernel import Message
from raftsched.store.transport._frames import FRAME_BYTES_MAX, Decoder, WireError

Item = Message | tuple[int, bytes]
_UNREAD_BYTES_MAX = 2 << 20  # of frames that nobody has awaited yet; beyond: the socket is not read
_READ = bytearray(256 << 10)  # of all connections: what was read is copied before anybody else reads
_READ_VIEW = memoryview(_READ)
_UNSENT_BYTES = 128 << 10  # in the kernel's buffer: more would stand in front of a heartbeat


class Connection(asyncio.BufferedProtocol):
    """Made by a server or a dialer; until `allow` frames are small, and no message in parts is put together."""

    def __init__(self, on_made: Callable[["Connection"], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_made = on_made
        self._decoder = Decoder(payload_bytes_max=PEER_HANDSHAKE_BYTES_MAX, message_bytes_max=0)
        self._transport: asyncio.Transport | None = None
        self._sink: Callable[[Item], None] | None = None
        self._on_end: Callable[[str], None] = lambda _cause: None
        self._on_writable: Callable[[], None] = lambda: None
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.on_read: Callable[[int], None] = lambda _count: None
        self.on_malformed: Callable[[], None] = lambda: None
        self.heard_at = 0.0  # the loop's time
        self.paused = False
        self.ended = ""  # why; "" = it lives
        self.remote = ""

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._use(transport)
        if self._on_made is not None:
            transport.pause_reading()  # TLS may have to be put in between first
            self._on_made(self)

    def _use(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.heard_at = self._loop.time()
        address = transport.get_extra_info("peername")
        self.remote = str(address[0]) if address else ""
        transport.set_write_buffer_limits(high=PEER_WRITE_BYTES, low=PEER_WRITE_BYTES // 4)
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ_VIEW  # a view, since asyncio's TLS writes into slices of it

    def buffer_updated(self, nbytes: int) -> None:
        self.take_in(_READ, nbytes)

    def take_in(self, data: bytes | bytearray, count: int) -> None:
        """The first `count` bytes of `data` came."""
        if self.ended:
            return
        self.heard_at = self._loop.time()
        self.on_read(count)
        self._decoder.feed(data, count)
        if self._sink is not None:
            self._push()
        else:
            self._wake()
            if self._decoder.buffered >= _UNREAD_BYTES_MAX and self._transport is not None:
                self._transport.pause_reading()

    def _push(self) -> None:
        assert self._sink is not None
        try:
            items = self._decoder.take()
        except WireError as error:
            self.on_malformed()
            self.end(str(error))
            return
        for item in items:
            if self.ended:
                return
            self._sink(item)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._on_writable()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(words(exc) if exc is not None else "closed by the other side")

    # -- ours

    async def start_tls(self, context: ssl.SSLContext, timeout_s: float) -> None:
        """As the server. ssl.SSLError, OSError."""
        assert self._transport is not None
        transport = await self._loop.start_tls(self._transport, self, context, server_side=True, ssl_handshake_timeout=timeout_s)
        if transport is None:
            raise ConnectionResetError("closed by the other side")
        self._use(transport)

    def start_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def tls(self) -> ssl.SSLObject | None:
        """What knows what the other side has shown; None without TLS."""
        return self._transport.get_extra_info("ssl_object") if self._transport is not None else None

    def allow(self, *, payload_bytes_max: int = FRAME_BYTES_MAX, message_bytes_max: int = 0) -> None:
        """The handshake is over: larger frames may come, and messages in parts up to `message_bytes_max`."""
        self._decoder.payload_bytes_max = payload_bytes_max
        self._decoder.message_bytes_max = message_bytes_max

    def attach(self, sink: Callable[[Item], None], on_end: Callable[[str], None], on_writable: Callable[[], None]) -> None:
        """From now on frames are pushed; `on_end(cause)` is called once."""
        self._sink, self._on_end, self._on_writable = sink, on_end, on_writable
        self.start_reading()
        self._push()

    async def receive(self) -> Item:
        """The next frame. WireError; ConnectionError when it ended and all that came is taken."""
        while True:
            items = self._decoder.take(1)
            if self._decoder.buffered < _UNREAD_BYTES_MAX:
                self.start_reading()
            if items:
                return items[0]
            if self.ended:
                raise ConnectionResetError(self.ended)
            self._waiter = self._pending(self._waiter)
            await asyncio.shield(self._waiter)

    async def room(self) -> None:
        """Waits until what was written is mostly gone. ConnectionError when it ended."""
        while self.paused and not self.ended:
            self._room = self._pending(self._room)
            await asyncio.shield(self._room)
        if self.ended:
            raise ConnectionResetError(self.ended)

    def _pending(self, future: asyncio.Future[None] | None) -> asyncio.Future[None]:
        """Several may wait for the same; shielded, so that one which is cancelled leaves the others waiting."""
        return future if future is not None and not future.done() else self._loop.create_future()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self.ended:
            self._transport.write(data)

    def close(self) -> None:
        """What was written still goes out."""
        if self._transport is not None:
            self._transport.close()

    def end(self, cause: str) -> None:
        """At once, whatever is unsent."""
        if self.ended:
            return
        self.ended = cause
        if self._transport is not None:
            self._transport.abort()
        for waiter in (self._waiter, self._room):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self._on_end(cause)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def words(error: BaseException) -> str:
    """A few words for a log line and a counter: no names, no numbers that an evil peer could vary."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {tls_words(error)}"
    if isinstance(error, TimeoutError) and not error.strerror:
        return "timeout"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio's own text names address and port
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
