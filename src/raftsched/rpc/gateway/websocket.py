"""WebSocket (RFC 6455) in front of the gateway's two-way streams, as etcd's proxy has it: what comes is the body, each line goes alone.

Invariant: what a client may make us hold is bounded by the largest body; a message is handed over whole.
Must not know: sockets, what a message means.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Final

from raftsched.limits import GATEWAY_STREAM_BYTES_MAX
from raftsched.rpc.http2.http_request import Answer, BodySink, HttpRequest

MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT_FRAME, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
NORMAL, PROTOCOL_ERROR, TOO_BIG = 1000, 1002, 1009
CONTROL_BYTES_MAX: Final = 125
BEARER: Final = "Bearer"
FORWARDED: Final = ("origin", "referer")
FRAMES_PER_TURN: Final = 64
PARTIAL: Final = (0, b"")


class FrameError(Exception):
    """What a client must not send; the code of the close that tells it so."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def wants_websocket(request: HttpRequest) -> bool:
    return "upgrade" in words(request.header("connection")) and "websocket" in words(request.header("upgrade"))


def words(value: str | None) -> list[str]:
    return [word.strip().lower() for word in (value or "").split(",")]


def refusal(request: HttpRequest) -> Answer | None:
    """Why this is no opening handshake."""
    key = request.header("sec-websocket-key") or ""
    if request.method != "GET" or request.header("sec-websocket-version") != "13" or not key:
        return 400, (("Content-Type", "text/plain; charset=utf-8"), ("Sec-Websocket-Version", "13")), b"Bad Request\n"
    return None


def metadata_of(request: HttpRequest) -> dict[str, str]:
    """A browser cannot set headers: the token comes as a protocol, or as a cookie."""
    found = {f"grpcgateway-{name}": value for name in FORWARDED if (value := request.header(name)) is not None}
    protocol = request.header("sec-websocket-protocol")
    if protocol:
        _, comma, token = protocol.partition(BEARER + ",")
        found["authorization"] = f"{BEARER} {token.strip(' ')}" if comma else ""
    try:
        cookie = SimpleCookie(request.header("cookie") or "").get("token")
    except CookieError:
        cookie = None
    if cookie is not None:
        found["authorization"] = f"{BEARER} {cookie.value}"
    found.setdefault("grpcgateway-accept", "")
    return found


def accepted(request: HttpRequest) -> list[tuple[str, str]]:
    """The headers of the answer that opens it."""
    digest = hashlib.sha1((request.header("sec-websocket-key") or "").encode("latin-1") + MAGIC, usedforsecurity=False).digest()
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", base64.b64encode(digest).decode())]
    if (request.header("sec-websocket-protocol") or "").startswith(BEARER):
        headers.append(("Sec-WebSocket-Protocol", BEARER))
    return headers


def frame(opcode: int, payload: bytes) -> bytes:
    """One whole message of ours."""
    length = len(payload)
    if length < 126:
        head = bytes((0x80 | opcode, length))
    elif length < 1 << 16:
        head = bytes((0x80 | opcode, 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 127)) + length.to_bytes(8, "big")
    return head + payload


class Frames:
    """Cuts a client's bytes into messages and control frames."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()
        self._message = bytearray()
        self._opened = False  # a message in several frames is under way

    @property
    def held_bytes(self) -> int:
        return len(self._buffer) + len(self._message)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> tuple[int, bytes] | None:
        """Of the next frame: (opcode, payload) of a control frame, or of a message that is whole with it; PARTIAL if more of one must come;
        None if the frame itself is not whole. FrameError ends it."""
        found = self._frame()
        if found is None:
            return None
        final, opcode, payload = found
        if opcode >= CLOSE:
            return opcode, payload
        if self._opened == (opcode != 0):
            raise FrameError(PROTOCOL_ERROR)
        self._opened = not final
        self._message += payload
        if len(self._message) > self._bytes_max:
            raise FrameError(TOO_BIG)
        if not final:
            return PARTIAL
        message, self._message = bytes(self._message), bytearray()
        return TEXT_FRAME, message

    def _frame(self) -> tuple[bool, int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        final, opcode, length = bool(buffer[0] & 0x80), buffer[0] & 0x0F, buffer[1] & 0x7F
        if buffer[0] & 0x70 or not buffer[1] & 0x80 or opcode not in (0, TEXT_FRAME, BINARY, CLOSE, PING, PONG):
            raise FrameError(PROTOCOL_ERROR)  # nobody agreed on extensions; a client masks
        if opcode >= CLOSE and (not final or length > CONTROL_BYTES_MAX):
            raise FrameError(PROTOCOL_ERROR)
        more = {126: 2, 127: 8}.get(length, 0)
        if len(buffer) < 6 + more:
            return None
        if more:
            length = int.from_bytes(buffer[2 : 2 + more], "big")
        if length > self._bytes_max:
            raise FrameError(TOO_BIG)
        at = 2 + more
        if len(buffer) < at + 4 + length:
            return None
        payload = unmasked(bytes(buffer[at + 4 : at + 4 + length]), bytes(buffer[at : at + 4]))
        del buffer[: at + 4 + length]
        return final, opcode, payload


def unmasked(payload: bytes, mask: bytes) -> bytes:
    """Each byte against its byte of the mask; as one number, for that is quick."""
    pad = mask * (len(payload) // 4 + 1)
    number = int.from_bytes(payload, "big") ^ int.from_bytes(pad[: len(payload)], "big")
    return number.to_bytes(len(payload), "big")


class WebSocket:
    """One conversation: what a `Download` answers to, and a `BodySink` that feeds an `Upload`."""

    def __init__(self, request: HttpRequest, open_upload: Callable[["WebSocket", Mapping[str, str]], BodySink]) -> None:
        """`open_upload(whom it answers, metadata)`; `begin` answers the opening handshake."""
        self.peer = request.peer
        self.body_bytes_max = min(request.body_bytes_max, GATEWAY_STREAM_BYTES_MAX)
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self._request = request
        self._frames = Frames(self.body_bytes_max)
        self._over = False
        self._more = False  # frames, perhaps
        self._upload = open_upload(self, metadata_of(request))

    def begin(self) -> None:
        self._request.on_gone = self._gone
        self._request.on_writable = self._writable
        self._request.upgrade(accepted(self._request), self)

    # -- for a Download

    def start(self, status: int, headers: object) -> None:
        """There is no head."""

    def write(self, data: bytes) -> bool:
        """Each line is a message."""
        room = not self._over
        for line in data.splitlines() if room else ():
            room = self._request.write(frame(TEXT_FRAME, line))
        return room

    def end(self) -> None:
        self._close(NORMAL)

    # -- BodySink

    @property
    def held_bytes(self) -> int:
        return self._frames.held_bytes + self._upload.held_bytes

    def on_begin(self) -> None:
        self._upload.on_begin()

    def on_body(self, data: bytes) -> None:
        self._frames.feed(data)
        self.go_on()

    @property
    def busy(self) -> bool:
        return not self._over and (self._more or self._upload.busy)

    def go_on(self) -> None:
        if self._upload.busy:
            self._upload.go_on()
        self._more = True
        try:
            for _ in range(FRAMES_PER_TURN):
                if self._over or self._upload.busy:
                    return
                found = self._frames.next()
                if found is None:
                    self._more = False
                    return
                self._on_frame(*found)
        except FrameError as error:
            self._close(error.code)

    def on_body_end(self) -> None:
        """A socket has no end but its client's going."""

    def _on_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self._close(NORMAL)
        elif opcode == PING:
            self._request.write(frame(PONG, payload))
        elif opcode == TEXT_FRAME:
            self._upload.on_body(payload + b"\n")

    def _close(self, code: int) -> None:
        """Tells the client, and whoever answers it, that this is over."""
        if self._over:
            return
        self._request.write(frame(CLOSE, code.to_bytes(2, "big")))
        self._gone()
        self._request.end()

    # -- for the connection

    def _gone(self) -> None:
        self._over = True
        if self.on_gone is not None:
            self.on_gone()

    def _writable(self) -> None:
        if self.on_writable is not None:
            self.on_writable()
