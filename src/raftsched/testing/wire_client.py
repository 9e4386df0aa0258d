"""A gRPC client for comparisons: one connection, many calls under way, no thread, and a tenth of the processor time of grpcio's.

The caller begins calls (`begin`, which writes nothing yet, so that many leave in one piece) and waits for them (`wait`). Bytes come
back as they are: statuses as numbers, texts decoded, messages undecoded. Server HPACK tables are switched off by SETTINGS, so that a
block of headers always means the same and is decoded once.
"""

import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

from hpack import Decoder

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535
TOP_UP_BYTES: Final = 1 << 29
FRAME_BYTES: Final = 16_384
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PADDED, PRIORITY = 8, 32
RESET_CODES: Final = {1: 13, 2: 13, 3: 13, 5: 13, 7: 14, 8: 1, 11: 8, 12: 7}
"""HTTP/2 error codes as gRPC statuses, as gRPC's own clients take them."""

Headers = Sequence[tuple[str, str]]


class Call:
    """One call; `status` is None until it ended."""

    def __init__(self, client: "WireClient", number: int, window: int) -> None:
        self.client = client
        self.number = number
        self.headers: dict[str, str] = {}
        self.messages: list[bytes] = []
        self.status: int | None = None
        self.text = ""
        self.window = window
        self.unsent = bytearray()
        self.ends = False
        self._partial = bytearray()

    @property
    def done(self) -> bool:
        return self.status is not None

    def take(self, data: bytes) -> None:
        """Payload of DATA."""
        partial = self._partial
        partial += data
        at = 0
        while len(partial) - at >= 5:
            size = int.from_bytes(partial[at + 1 : at + 5], "big")
            if len(partial) - at - 5 < size:
                break
            self.messages.append(bytes(partial[at + 5 : at + 5 + size]))
            at += 5 + size
        del partial[:at]

    def end(self, status: int, text: str) -> None:
        if self.status is None:
            self.status, self.text = status, text


def _is_done(call: Call) -> bool:
    return call.done


class WireClient:
    """Of one address, host:port."""

    def __init__(self, address: str, *, timeout_s: float = 20.0) -> None:
        host, _, port = address.rpartition(":")
        self._timeout_s = timeout_s
        self._socket = socket.create_connection((host, int(port)), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._authority = address
        self._calls: dict[int, Call] = {}
        self._next = 1
        self._heads: dict[tuple[str, tuple[tuple[str, str], ...]], bytes] = {}
        self._blocks: dict[bytes, dict[str, str]] = {}
        self._block = bytearray()
        self._block_ends = 0
        self._in = bytearray()
        self._unacknowledged = 0
        self._window, self._stream_window = DEFAULT_WINDOW, DEFAULT_WINDOW
        settings = b"".join(struct.pack(">HI", name, value) for name, value in ((1, 0), (2, 0), (4, WINDOW)))
        self._out = bytearray(PREFACE + frame(SETTINGS, 0, 0, settings))
        self._out += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - DEFAULT_WINDOW))
        self.closed: str | None = None

    def close(self) -> None:
        self._socket.close()
        self.closed = self.closed or "closed here"

    # -- calls

    def begin(self, path: str, *messages: bytes, metadata: Headers = (), end: bool = True) -> Call:
        """A call with these request messages, to be sent by the next `flush` or `wait`. `end`: there will be no more of them."""
        call = Call(self, self._next, self._stream_window)
        self._next += 2
        self._calls[call.number] = call
        self._out += frame(HEADERS, END_HEADERS, call.number, self._head(path, metadata))
        for message in messages:
            call.unsent += b"\0" + len(message).to_bytes(4, "big") + message
        call.ends = end
        self._push(call)
        return call

    def begin_odd(self, fields: Headers, data: bytes | None, *, end: bool = True) -> Call:
        """A stream of exactly these header fields and this payload, whatever it means; None: the headers are all."""
        call = Call(self, self._next, self._stream_window)
        self._next += 2
        self._calls[call.number] = call
        block = b"".join(literal(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields)
        parts = [block[at : at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)]
        for at, part in enumerate(parts):
            flags = (END_HEADERS if at == len(parts) - 1 else 0) | (END_STREAM if data is None and end and not at else 0)
            self._out += frame(CONTINUATION if at else HEADERS, flags, call.number, part)
        call.unsent += data or b""
        call.ends = end and data is not None
        self._push(call)
        return call

    def send(self, call: Call, message: bytes) -> None:
        """One more request message of a call that was not ended."""
        call.unsent += b"\0" + len(message).to_bytes(4, "big") + message
        self._push(call)
        self.flush()

    def cancel(self, call: Call) -> None:
        if not call.done:
            self._out += frame(RESET, 0, call.number, struct.pack(">I", 8))
            self._calls.pop(call.number, None)
            call.end(1, "cancelled here")
            self.flush()

    def wait(self, *calls: Call) -> None:
        """Until all have ended."""
        for call in calls:
            self.wait_for(partial(_is_done, call), f"call {call.number}")

    def wait_for(self, done: Callable[[], Any], what: str, *, for_s: float | None = None) -> None:
        """Until `done()`. Raises TimeoutError; ConnectionError when the server is gone."""
        self.flush()
        stop = time.monotonic() + (self._timeout_s if for_s is None else for_s)
        while not done():
            if self.closed is not None:
                raise ConnectionError(f"{what}: {self.closed}")
            if not self.read(max(0.0, stop - time.monotonic())):
                raise TimeoutError(f"waited in vain for {what}")

    def flush(self) -> None:
        if self._out:
            data, self._out = self._out, bytearray()
            self._socket.sendall(data)

    def _head(self, path: str, metadata: Headers) -> bytes:
        key = (path, tuple(metadata))
        if (found := self._heads.get(key)) is None:
            fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", self._authority)]
            fields += [("content-type", "application/grpc"), ("te", "trailers"), *metadata]
            found = self._heads[key] = b"".join(literal(name.encode(), value.encode()) for name, value in fields)
        return found

    def _push(self, call: Call) -> None:
        """As much of what is unsent as the windows allow."""
        while call.unsent and (size := min(len(call.unsent), call.window, self._window, FRAME_BYTES)) > 0:
            last = call.ends and size == len(call.unsent)
            self._out += frame(DATA, END_STREAM if last else 0, call.number, bytes(call.unsent[:size]))
            del call.unsent[:size]
            call.window -= size
            self._window -= size
            if last:
                call.ends = False
        if call.ends and not call.unsent:
            self._out += frame(DATA, END_STREAM, call.number, b"")
            call.ends = False

    # -- what comes back

    def read(self, for_s: float) -> bool:
        """Takes what comes within that time; whether anything came."""
        if not select.select([self._socket], [], [], for_s)[0]:
            return False
        try:
            data = self._socket.recv(1 << 18)
        except OSError as error:
            data, self.closed = b"", str(error)
        if not data:
            self.closed = self.closed or "the server closed the connection"
            for call in self._calls.values():
                call.end(14, self.closed)
        self._in += data
        self._frames()
        self.flush()
        return True

    def _frames(self) -> None:
        buffer, at = self._in, 0
        while len(buffer) - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at - 9 < size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            number = int.from_bytes(buffer[at + 5 : at + 9], "big") & WINDOW
            self._frame(kind, flags, number, bytes(buffer[at + 9 : at + 9 + size]))
            at += 9 + size
        del buffer[:at]

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == DATA:
            self._data(flags, number, payload)
        elif kind in (HEADERS, CONTINUATION):
            self._block += payload[5:] if kind == HEADERS and flags & PRIORITY else payload
            self._block_ends = flags & END_STREAM if kind == HEADERS else self._block_ends
            if flags & END_HEADERS:
                block, self._block = bytes(self._block), bytearray()
                self._fields(number, block, ends=bool(self._block_ends))
        elif kind == RESET:
            (code,) = struct.unpack(">I", payload)
            if (call := self._calls.pop(number, None)) is not None:
                call.end(RESET_CODES.get(code, 2), f"stream reset with HTTP/2 code {code}")
        else:
            self._of_connection(kind, flags, number, payload)

    def _of_connection(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self._settings(payload)
            self._out += frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self._out += frame(PING, ACK, 0, payload)
        elif kind == GOAWAY:
            self.closed = f"the server said goodbye: {payload[8:].decode('utf-8', 'replace')!r}, code {int.from_bytes(payload[4:8], 'big')}"
        elif kind == WINDOW_UPDATE:
            self._widen(number, int.from_bytes(payload, "big"))

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == 4:
                for call in self._calls.values():
                    call.window += value - self._stream_window
                self._stream_window = value
        self._widen(0, 0)

    def _widen(self, number: int, by: int) -> None:
        if number:
            if (call := self._calls.get(number)) is not None:
                call.window += by
                self._push(call)
            return
        self._window += by
        for call in self._calls.values():
            if call.unsent:
                self._push(call)

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        self._unacknowledged += len(payload)
        if self._unacknowledged > TOP_UP_BYTES:
            self._out += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unacknowledged))
            self._unacknowledged = 0
        if (call := self._calls.get(number)) is None:
            return
        call.take(payload[1 : len(payload) - payload[0]] if flags & PADDED else payload)
        if flags & END_STREAM:
            del self._calls[number]
            call.end(13, "the stream ended without a status")

    def _fields(self, number: int, block: bytes, *, ends: bool) -> None:
        if (fields := self._blocks.get(block)) is None:
            fields = {str(name): str(value) for name, value in Decoder(1 << 24).decode(block)}
            if len(self._blocks) < 4096:
                self._blocks[block] = fields
        if (call := self._calls.get(number)) is None:
            return
        call.headers.update(fields)
        if ends:
            del self._calls[number]
            call.end(int(call.headers.get("grpc-status", "2")), unquote(call.headers.get("grpc-message", "")))


def frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that no table is needed for and none remembers (RFC 7541 §6.2.2)."""
    return b"\0" + _length(name) + name + _length(value) + value


def _length(text: bytes) -> bytes:
    if (rest := len(text) - 127) < 0:
        return bytes((len(text),))
    told = bytearray(b"\x7f")
    while rest >= 128:
        told.append(rest & 127 | 128)
        rest >>= 7
    return bytes((*told, rest))
