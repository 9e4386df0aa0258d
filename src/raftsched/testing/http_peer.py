"""An HTTP/1.1 client that says exactly what a test wants said, and shows exactly what came back."""

import json
import socket
import ssl
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
OPENING: Final = {"Connection": "keep-alive, Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": KEY}
MASK: Final = b"\x01\x02\x03\x04"


class Answered(NamedTuple):
    """One response. `headers`: names as they were sent, without Date."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for one, value in self.headers if one.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


class HttpPeer:
    """One connection; a context manager."""

    def __init__(self, port: int, *, timeout_s: float = 10.0, context: ssl.SSLContext | None = None) -> None:
        """With `context` through TLS."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        if context is not None:
            self._socket = context.wrap_socket(self._socket, server_hostname="localhost", suppress_ragged_eofs=False)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        *,
        host: str = "localhost",
    ) -> None:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {host}",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in pairs),
        ]
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def ask(self, method: str, path: str, body: bytes = b"", headers: Any = (), *, host: str = "localhost") -> Answered:
        self.request(method, path, body, headers, host=host)
        return self.answer(bodiless=method == "HEAD")

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    # -- what comes back

    def head(self) -> Answered:
        """Status and headers; the body is still to be read."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        pairs = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:]) if name != "Date")
        return Answered(int(lines[0].split(" ")[1]), pairs, b"")

    def answer(self, *, bodiless: bool = False) -> Answered:
        """A whole response."""
        head = self.head()
        if bodiless or head.status in (204, 304) or head.status < 200:
            return head
        if head.header("transfer-encoding") == "chunked":
            return head._replace(body=b"".join(iter(self.next_chunk, b"")))
        return head._replace(body=self._exactly(int(head.header("content-length") or 0)))

    def next_chunk(self) -> bytes:
        """b"" is the last. Raises TimeoutError, and ConnectionError at the connection's end."""
        size = int(self._until(b"\r\n"), 16)
        data = self._exactly(size)
        self._exactly(2)
        return data

    def line(self) -> Any:
        """The next chunk of a stream of the gateway: one object and the end of its line."""
        data = self.next_chunk()
        assert data.endswith(b"\n"), data
        return json.loads(data)

    def line_behind_head(self) -> Any:
        """The first line of a stream that is served."""
        head = self.head()
        assert head.status == 200, head
        return self.line()

    def is_closed(self) -> bool:
        """Waits for the other side to close. What it still sends is an error."""
        try:
            data = self._socket.recv(1)
        except ConnectionError:
            return True
        assert not data, data
        return True

    def is_closed_behind(self, start: bytes) -> bool:
        """Whether what comes until the end begins so."""
        while True:
            data = self._socket.recv(1 << 20)
            if not data:
                return self._buffer.startswith(start)
            self._buffer += data

    def is_silent(self, for_s: float) -> bool:
        """Whether nothing comes for so long, not even an end."""
        self._socket.settimeout(for_s)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return not self._buffer
        finally:
            self._socket.settimeout(10.0)
        return False

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _more(self) -> None:
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError(f"closed behind {self._buffer[:200]!r}")
        self._buffer += data


def masked(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A frame of a client."""
    length = len(payload)
    head = bytes(((0x80 if final else 0) | opcode,))
    if length < 126:
        head += bytes((0x80 | length,))
    else:
        head += bytes((0x80 | 126,)) + struct.pack(">H", length) if length < 1 << 16 else bytes((0x80 | 127,)) + struct.pack(">Q", length)
    return head + MASK + bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))


class WebSocketPeer(HttpPeer):
    """A client's side of a WebSocket."""

    def open(self, path: str, **headers: str) -> Answered:
        """The head of the answer to the opening handshake."""
        self.request("GET", path, headers={**OPENING, **headers})
        return self.head()

    def frame(self) -> tuple[int, bytes]:
        """(opcode, payload)."""
        first, length = self._exactly(2)
        if length == 126:
            (length,) = struct.unpack(">H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._exactly(8))
        return first & 0x0F, self._exactly(length)

    def message(self) -> Any:
        opcode, payload = self.frame()
        assert opcode == 1
        return json.loads(payload)


def post(port: int, path: str, body: bytes | dict[str, Any] = b"", headers: Any = ()) -> Answered:
    """One POST on a connection of its own."""
    with HttpPeer(port) as peer:
        return peer.ask("POST", path, json.dumps(body).encode() if isinstance(body, dict) else body, headers)


def get(port: int, path: str, headers: Any = (), *, method: str = "GET", host: str = "localhost") -> Answered:
    with HttpPeer(port) as peer:
        return peer.ask(method, path, b"", headers, host=host)
