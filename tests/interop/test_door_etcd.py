"""The door's verdicts on odd requests beside those of grpc-go in a real etcd: same HTTP status, same code, same text.

A request that is cut inside the five bytes of framing is not among them: grpc-go of etcd 3.5 says `unexpected EOF`, as we do,
that of 3.7 `EOF`.
"""

import socket
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import pytest

from raftsched.errors import GrpcCode, StatusError
from raftsched.testing.door import EchoDoor
from raftsched.testing.door_peer import frame
from raftsched.testing.etcd import RealEtcd

RANGE = "/etcdserverpb.KV/Range"
MESSAGE = frame(b"\x0a\x01k")
CASES = {
    "one message": (RANGE, MESSAGE),
    "no message": (RANGE, b""),
    "two messages": (RANGE, MESSAGE + MESSAGE),
    "second one cut": (RANGE, MESSAGE + MESSAGE[:3]),
    "cut in the message": (RANGE, MESSAGE[:6]),
    "compressed without encoding": (RANGE, b"\1" + MESSAGE[1:]),
    "flag 2": (RANGE, b"\2" + MESSAGE[1:]),
    "too large": (RANGE, b"\0\x7f\0\0\0"),
    "unknown service": ("/a.B/C", MESSAGE),
    "unknown method": ("/etcdserverpb.KV/Nope", MESSAGE),
    "stream cut in the message": ("/etcdserverpb.Watch/Watch", MESSAGE[:6]),
}


@pytest.fixture
def echo() -> Iterator[EchoDoor]:
    """KV/Range that answers anything; a Watch that waits. With etcd's limit of 2 MiB."""
    with EchoDoor() as opened:

        async def register() -> None:
            async def answer(_call: object, message: bytes) -> bytes:
                if message != MESSAGE[5:]:
                    raise StatusError(GrpcCode.INTERNAL, "not what was sent")
                return message

            opened.engine.add_unary(RANGE, answer)
            opened.engine.add_stream("/etcdserverpb.Watch/Watch", lambda stream, path: SilentWatch())

        opened.run(register())
        yield opened


class SilentWatch:
    def on_messages(self, messages: object) -> None: ...
    def on_half_close(self) -> None: ...
    def on_writable(self) -> None: ...
    def on_closed(self, code: int) -> None: ...


def ask(port: int, path: str, body: bytes) -> tuple[str, str, str]:
    """:status, grpc-status and grpc-message of one request on a connection of its own."""
    peer = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    peer.initiate_connection()
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"), ("content-type", "application/grpc")]
    peer.send_headers(1, [*fields, ("te", "trailers")])
    peer.send_data(1, body, end_stream=True)
    found: dict[str, str] = {}
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(5)
        client.sendall(peer.data_to_send())
        while "grpc-status" not in found:
            for event in peer.receive_data(client.recv(65_536)):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    found.update(event.headers)  # type: ignore[arg-type]
                assert not isinstance(event, h2.events.StreamReset)
            client.sendall(peer.data_to_send())
    return found[":status"], found["grpc-status"], found.get("grpc-message", "")


def test_verdicts_are_those_of_grpc_go(echo: EchoDoor, real_etcd: RealEtcd) -> None:
    ours = {name: ask(echo.port, *case) for name, case in CASES.items()}
    theirs = {name: ask(real_etcd.port, *case) for name, case in CASES.items()}
    assert ours == theirs
