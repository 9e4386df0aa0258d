"""One unary gRPC call over a TLS connection of its own.

grpcio would do it, were it not for its TLS: BoringSSL as it is built there takes no Ed25519 certificate from a server, and Sentry's is one
(decision 0010). `Exchange` is the protocol without IO, `call` the connection.
Invariant: nothing is sent before the server has been judged. Must not know: what is called.
"""

import ssl
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from raftsched.errors import GrpcCode, StatusError
from raftsched.security.dialing import Streams

READ_BYTES: Final = 64 << 10
PREFIX_BYTES: Final = 5
# Headers are not judged: h2 would end the connection for a space behind a message, which gRPC allows.
CONFIGURATION: Final = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_inbound_headers=False)


class Exchange:
    """Sans-IO: `outgoing` is what to send, `feed` takes what came; `answer` is None until it is complete."""

    def __init__(self, authority: str, path: str, message: bytes, *, timeout_s: float, answer_bytes_max: int) -> None:
        self._connection = h2.connection.H2Connection(CONFIGURATION)
        self._left = answer_bytes_max + PREFIX_BYTES
        self._body = bytearray()
        self._headers: dict[str, str] = {}
        self.answer: bytes | None = None
        self._connection.initiate_connection()
        self._connection.send_headers(1, _headers(authority, path, timeout_s))
        self._unsent = b"\0" + len(message).to_bytes(4, "big") + message
        self._send()

    def outgoing(self) -> bytes:
        return self._connection.data_to_send()

    def feed(self, data: bytes) -> None:
        """StatusError: the call failed; b"" = the server closed."""
        if not data:
            raise StatusError(GrpcCode.UNAVAILABLE, "the connection was closed before an answer came")
        try:
            for event in self._connection.receive_data(data):
                self._on_event(event)
            if self._unsent and self.answer is None:
                self._send()
        except (h2.exceptions.H2Error, UnicodeDecodeError) as error:
            raise StatusError(GrpcCode.UNAVAILABLE, f"the server does not speak gRPC: {type(error).__name__} {error}") from None

    def _send(self) -> None:
        """As much as the server has room for."""
        while self._unsent and (room := min(self._connection.local_flow_control_window(1), self._connection.max_outbound_frame_size)) > 0:
            piece, self._unsent = self._unsent[:room], self._unsent[room:]
            self._connection.send_data(1, piece, end_stream=not self._unsent)

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self._headers.update((_text(name), _text(value)) for name, value in event.headers or ())
        elif isinstance(event, h2.events.DataReceived):
            self._on_data(event)
        elif isinstance(event, h2.events.StreamEnded):
            self.answer = self._result()
        elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
            raise StatusError(GrpcCode.UNAVAILABLE, f"the server ended the call with HTTP/2 error {int(event.error_code or 0)}")

    def _on_data(self, event: h2.events.DataReceived) -> None:
        data = event.data or b""
        self._left -= len(data)
        if self._left < 0:
            raise StatusError(GrpcCode.RESOURCE_EXHAUSTED, "the answer is too large")
        self._body += data
        self._connection.acknowledge_received_data(event.flow_controlled_length or 0, 1)

    def _result(self) -> bytes:
        code, status = self._headers.get("grpc-status", ""), self._headers.get(":status", "")
        if not code.isdecimal():
            raise StatusError(GrpcCode.UNAVAILABLE, f"the server does not speak gRPC: HTTP status {status}")
        if code != "0":
            known = GrpcCode(int(code)) if int(code) <= max(GrpcCode) else GrpcCode.UNKNOWN
            raise StatusError(known, unquote(self._headers.get("grpc-message", "")))
        if len(self._body) < PREFIX_BYTES or self._body[0] or int.from_bytes(self._body[1:5], "big") != len(self._body) - PREFIX_BYTES:
            raise StatusError(GrpcCode.INTERNAL, "the answer is malformed")
        return bytes(self._body[PREFIX_BYTES:])


def _headers(authority: str, path: str, timeout_s: float) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", f"{max(int(timeout_s * 1000), 1)}m"),
    ]


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


async def call(exchange: Exchange, streams: Streams, judge: Callable[[ssl.SSLObject], None]) -> bytes:
    """The answer. `judge` raises if the server, whose certificate is verified, is not the one that was meant. StatusError, OSError."""
    reader, writer = streams
    try:
        tls = writer.get_extra_info("ssl_object")
        judge(tls)
        if tls.selected_alpn_protocol() != "h2":
            raise StatusError(GrpcCode.UNAVAILABLE, "the server does not speak HTTP/2")
        while exchange.answer is None:
            writer.write(exchange.outgoing())
            exchange.feed(await reader.read(READ_BYTES))
        return exchange.answer
    finally:
        writer.transport.abort()
