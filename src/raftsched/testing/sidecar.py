"""A client of the scheduler API as a sidecar is one: mTLS with an Ed25519 certificate, several calls and streams on one connection.

grpcio cannot stand in for it: its BoringSSL takes no Ed25519 certificate from a server.
"""

import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
from google.protobuf.message import Message

SERVICE = "/dapr.proto.scheduler.v1.Scheduler/"


def client_context(anchors: Path, pair: tuple[bytes, bytes] | None) -> ssl.SSLContext:
    """`pair`: (chain, key) in PEM; None = no certificate is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(anchors)
    context.set_alpn_protocols(["h2"])
    if pair is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"".join(pair))
            file.flush()
            context.load_cert_chain(file.name)
    return context


class Sidecar:
    """One connection; a context manager. Whatever ends it raises OSError from the call that notices."""

    def __init__(self, port: int, context: ssl.SSLContext, timeout_s: float = 10) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket = context.wrap_socket(plain, server_hostname="127.0.0.1")
        except OSError:
            plain.close()
            raise
        self._timeout_s = timeout_s
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._connection.initiate_connection()
        self._bodies: dict[int, bytearray] = {}
        self._headers: dict[int, dict[str, str]] = {}
        try:
            self._flush()
        except OSError:  # turned away already
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def server_certificate(self) -> dict[str, Any]:
        return self._socket.getpeercert() or {}

    def call(self, method: str, request: Message, answer: type[Message] | None = None) -> tuple[int, str, Any]:
        """(code, text, answer) of a unary call."""
        stream = self.open(method)
        self.send(stream, request, last=True)
        code, text = self.end(stream)
        body = bytes(self._bodies[stream][5:])
        return code, text, answer.FromString(body) if answer is not None and code == 0 else body

    def open(self, method: str) -> int:
        """A stream. `method`: of Dapr's service, or a path."""
        stream = int(self._connection.get_next_available_stream_id())
        authority = [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", method if method.startswith("/") else SERVICE + method),
            (":authority", "test"),
        ]
        self._connection.send_headers(stream, [*authority, ("content-type", "application/grpc"), ("te", "trailers")])
        self._bodies[stream], self._headers[stream] = bytearray(), {}
        self._flush()
        return stream

    def send(self, stream: int, message: Message, *, last: bool = False) -> None:
        data = message.SerializeToString()
        self._connection.send_data(stream, b"\0" + len(data).to_bytes(4, "big") + data, end_stream=last)
        self._flush()

    def half_close(self, stream: int) -> None:
        self._connection.end_stream(stream)
        self._flush()

    def receive(self, stream: int, kind: type[Message]) -> Any:
        """The next message."""
        body = self._bodies[stream]
        self._wait(lambda: len(body) >= 5 + int.from_bytes(body[1:5], "big") or "grpc-status" in self._headers[stream])
        size = int.from_bytes(body[1:5], "big")
        if len(body) < 5:
            raise ConnectionError(f"the stream ended: {self._headers[stream]}")
        data = bytes(body[5 : 5 + size])
        del body[: 5 + size]
        return kind.FromString(data)

    def end(self, stream: int) -> tuple[int, str]:
        """(code, text), when the server has ended it."""
        self._wait(lambda: "grpc-status" in self._headers[stream])
        found = self._headers[stream]
        return int(found["grpc-status"]), unquote(found.get("grpc-message", ""))

    def pump(self, seconds: float = 0.01) -> None:
        """Takes in what comes within that time and answers pings: a server closes a connection that does not."""
        self._socket.settimeout(seconds)
        try:
            data = self._socket.recv(65_536)
        except TimeoutError:
            return
        finally:
            self._socket.settimeout(self._timeout_s)
        if not data:
            raise ConnectionError("closed by the server")
        for event in self._connection.receive_data(data):
            self._on_event(event)
        self._flush()

    def _wait(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + self._timeout_s
        while not done():
            if time.monotonic() > until:
                raise TimeoutError("no answer")
            self.pump(self._timeout_s)

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self._headers[event.stream_id or 0].update({str(name): str(value) for name, value in event.headers or ()})
        elif isinstance(event, h2.events.DataReceived):
            self._bodies[event.stream_id or 0] += event.data or b""
            self._connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        elif isinstance(event, h2.events.StreamReset):
            self._headers[event.stream_id or 0].setdefault("grpc-status", "1")
        elif isinstance(event, h2.events.ConnectionTerminated):
            raise ConnectionError(f"GOAWAY {event.error_code}")

    def _flush(self) -> None:
        self._socket.sendall(self._connection.data_to_send())
