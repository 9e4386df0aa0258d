"""WebSocket in front of the gateway's streams: the handshake, frames as clients may cut them, and what they may not send."""

import base64
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from raftsched.rpc.gateway.websocket import FRAMES_PER_TURN, PARTIAL, FrameError, Frames, WebSocket, accepted, frame, metadata_of
from raftsched.rpc.http2.http_request import HttpRequest
from raftsched.testing.http_peer import MASK, OPENING, WebSocketPeer, masked, post
from raftsched.testing.lone_node import EtcdDoor

FOO = base64.b64encode(b"foo").decode()


@pytest.fixture
def door() -> Iterator[EtcdDoor]:
    with EtcdDoor() as opened:
        yield opened
        assert opened.errors == []
        deadline = time.monotonic() + 5
        while len(opened.engine.local) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(opened.engine.local) == 0


def test_a_watch(door: EtcdDoor) -> None:
    with WebSocketPeer(door.port) as talk:
        opened = talk.open("/v3/watch")
        assert opened.status == 101
        assert opened.headers == (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        )
        talk.send(masked(1, b'{"create_request":{"key":"Zm9v"}}'))
        assert talk.message()["result"]["created"] is True
        post(door.port, "/v3/kv/put", {"key": FOO, "value": base64.b64encode(bytes(70_000)).decode()})
        assert talk.message()["result"]["events"][0]["kv"]["key"] == FOO
        talk.send(masked(9, b"are you there") + masked(10, b""))
        assert talk.frame() == (10, b"are you there")
        talk.send(masked(1, b'{"cancel_', final=False) + masked(9, b"") + masked(0, b'request":{"watch_id":0}}'))
        assert talk.frame() == (10, b"")
        assert talk.message()["result"]["canceled"] is True
        talk.send(masked(8, struct.pack(">H", 1000)))
        assert talk.frame() == (8, struct.pack(">H", 1000))
        assert talk.is_closed()


def test_what_is_sent_ahead_of_the_handshakes_answer(door: EtcdDoor) -> None:
    with WebSocketPeer(door.port) as talk:
        opening = "".join(f"{name}: {value}\r\n" for name, value in OPENING.items())
        talk.send(f"GET /v3/lease/keepalive HTTP/1.1\r\nHost: a\r\n{opening}\r\n".encode() + masked(2, b'{"ID":7}{"ID":8}'))
        assert talk.head().status == 101
        assert [talk.message()["result"]["ID"] for _ in range(2)] == ["7", "8"]


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Sec-WebSocket-Protocol": "Bearer, abc"}, "Bearer abc"),
        ({"Sec-WebSocket-Protocol": "Bearer,abc"}, "Bearer abc"),
        ({"Sec-WebSocket-Protocol": "chat"}, ""),
        ({"Cookie": "a=b; token=abc"}, "Bearer abc"),
        ({}, None),
    ],
)
def test_tokens(headers: dict[str, str], token: str | None) -> None:
    request = HttpRequest(_Nobody(), "GET", "/v3/watch", [(name.lower(), value) for name, value in {**OPENING, **headers}.items()])
    assert metadata_of(request).get("authorization") == token
    assert dict(accepted(request)).get("Sec-WebSocket-Protocol") == ("Bearer" if "Bearer" in str(headers) else None)
    assert metadata_of(request)["grpcgateway-accept"] == ""


class _Nobody:
    """Behind a request that nobody answers."""

    peer, secure, body_bytes_max = "", False, 100

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_no_opening_handshake(door: EtcdDoor) -> None:
    for wrong in ({"Sec-WebSocket-Version": "8"}, {"Sec-WebSocket-Key": ""}):
        with WebSocketPeer(door.port) as talk:
            assert talk.open("/v3/watch", **wrong).status == 400
    with WebSocketPeer(door.port) as talk:
        assert talk.open("/v3/kv/range").status == 501  # no stream: the upgrade is ignored


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x02{}", 1002),  # not masked
        (b"\xc1\x80" + MASK, 1002),  # an extension
        (masked(3, b""), 1002),
        (masked(0, b"x"), 1002),  # goes on with nothing
        (masked(1, b"{", final=False) + masked(1, b"}"), 1002),
        (masked(9, b"", final=False), 1002),
        (masked(9, bytes(126)), 1002),
        (b"\x81\xff" + (1 << 60).to_bytes(8, "big") + MASK, 1009),
    ],
)
def test_what_a_client_must_not_send(door: EtcdDoor, data: bytes, code: int) -> None:
    with WebSocketPeer(door.port) as talk:
        assert talk.open("/v3/watch").status == 101
        talk.send(data)
        assert talk.frame() == (8, struct.pack(">H", code))
        assert talk.is_closed()


def test_many_small_frames_of_one_message_are_bounded() -> None:
    frames = Frames(100)
    frames.feed(masked(1, bytes(60), final=False))
    assert frames.next() == PARTIAL
    assert frames.next() is None
    frames.feed(masked(0, bytes(60), final=False))
    with pytest.raises(FrameError) as refused:
        frames.next()
    assert refused.value.code == 1009


class Body:
    """An `Upload` that counts, and has more to do with each message as often as `busy_for` says."""

    def __init__(self, busy_for: int = 0) -> None:
        self.taken, self.held_bytes, self._busy_for, self._left = 0, 0, busy_for, 0

    @property
    def busy(self) -> bool:
        return self._left > 0

    def on_begin(self) -> None:
        """Nothing to open."""

    def on_body(self, data: bytes) -> None:
        assert not self.busy
        self.taken, self._left = self.taken + 1, self._busy_for

    def go_on(self) -> None:
        self._left -= 1

    def on_body_end(self) -> None:
        """A socket has none."""


class Answered:
    """What a WebSocket does to its connection, kept."""

    peer, secure, body_bytes_max = "", False, 1 << 20

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def upgrade(self, *_: object) -> None:
        """Accepted."""

    def write(self, _request: HttpRequest, data: bytes) -> bool:
        self.written.append(data)
        return True

    def end(self, _request: HttpRequest) -> None:
        self.written.append(b"end")


@pytest.mark.parametrize("small", [masked(1, b"{}"), masked(9, b""), masked(1, b"", final=False) + masked(0, b"")])
def test_many_small_frames_take_turns(small: bytes) -> None:
    """A quarter of a megabyte of them in one go would hold everything else up for seconds."""
    body, connection = Body(), Answered()
    socket = WebSocket(HttpRequest(connection, "GET", "/", []), lambda *_: body)  # type: ignore[arg-type]
    socket.on_body(small * 1_000)
    turns = 1
    while socket.busy:
        done = body.taken + len(connection.written)
        socket.go_on()
        assert body.taken + len(connection.written) - done <= FRAMES_PER_TURN
        turns += 1
    assert body.taken + len(connection.written) == 1_000
    assert turns >= 1_000 // FRAMES_PER_TURN


def test_a_frame_waits_for_what_is_left_of_the_one_before() -> None:
    body = Body(busy_for=3)
    socket = WebSocket(HttpRequest(Answered(), "GET", "/", []), lambda *_: body)  # type: ignore[arg-type]
    socket.on_body(masked(1, b"{}") * 10)
    for turn in range(1, 31):
        assert body.taken == (turn + 2) // 3
        socket.go_on()
    assert not socket.busy


@pytest.mark.parametrize("length", [0, 1, 5, 125, 126, 65_535, 65_536])
def test_lengths(length: int) -> None:
    payload = bytes(index % 251 for index in range(length))
    frames = Frames(1 << 20)
    data = masked(2, payload)
    for at in range(0, len(data), 7_000):
        frames.feed(data[at : at + 7_000])
    assert frames.next() == (1, payload)
    assert frames.next() is None
    assert frame(1, payload).endswith(payload)


def test_garbage_on_a_watch_ends_its_requests_alone(door: EtcdDoor) -> None:
    with WebSocketPeer(door.port) as talk:
        talk.open("/v3/watch")
        talk.send(masked(1, b'{"create_request":{"key":"Zm9v"}}') + masked(1, b"garbage"))
        assert talk.message()["result"]["created"] is True
        post(door.port, "/v3/kv/put", {"key": FOO})
        assert "events" in talk.message()["result"]


def test_a_server_that_stops_says_so(door: EtcdDoor) -> None:
    with WebSocketPeer(door.port) as talk:
        talk.open("/v3/watch")
        talk.send(masked(1, b'{"create_request":{"key":"Zm9v"}}'))
        talk.message()
        door.run(door.engine.end_streams)
        assert talk.message()["error"]["code"] == 14
        assert talk.frame()[0] == 8
        assert talk.is_closed()
