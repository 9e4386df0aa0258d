"""Compressed messages at the door: what they may cost, what is wrong with some. A real etcd is asked in tests/interop/test_entrances.py."""

import gzip
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest

from raftsched.errors import StatusError
from raftsched.ports import Stream
from raftsched.rpc.http2.gzip_messages import MEMBERS_MAX, inflate
from raftsched.testing.door import EchoDoor
from raftsched.testing.door_peer import ManualDoor, frame
from raftsched.testing.wire_client import WireClient

BATCH, UNARY, STREAM = (f"/test.Echo/{name}" for name in ("Batch", "Unary", "Stream"))
GZIP = ("grpc-encoding", "gzip")
MESSAGE_MAX = 3 << 20
TURN_BYTES = 8 << 20
"""INFLATED_PER_TURN in _h2/engine.pxi."""


def packed(*messages: bytes) -> bytes:
    return b"".join(b"\1" + frame(gzip.compress(message))[1:] for message in messages)


BOMB = packed(bytes(MESSAGE_MAX))


@pytest.fixture
def door() -> Iterator[ManualDoor]:
    made = ManualDoor(message_bytes_max=MESSAGE_MAX)
    yield made
    for peer in made.peers:
        peer.lose()
    made.assert_empty()
    assert made.errors == []


@pytest.mark.parametrize("path", [BATCH, STREAM])
def test_compressed_messages_are_served(door: ManualDoor, path: str) -> None:
    for message in (b"", b"x", b"abc" * 10_000):
        answer = door.peer().call(path, packed(message), GZIP)
        assert (answer["grpc-status"], answer["body"].encode("latin-1")) == ("0", frame(message))
        assert "grpc-encoding" not in answer


def test_compressed_and_plain_ones_on_one_stream(door: ManualDoor) -> None:
    peer = door.peer()
    stream = peer.open(STREAM, GZIP)
    for _ in range(2):
        peer.send(stream, packed(b"a") + frame(b"b") + packed(b"c", b"d"))
        peer.sync()
    peer.send(stream, frame(b"e"), end=True)
    peer.sync()
    assert peer.messages(stream) == [b"a", b"b", b"c", b"d"] * 2 + [b"e"]
    assert peer.answer(stream)["grpc-status"] == "0"


def test_compressed_messages_of_every_kind() -> None:
    """Over a socket, beside ones that are none."""
    with EchoDoor() as door:
        client = WireClient(f"127.0.0.1:{door.port}")
        for path in (BATCH, UNARY, STREAM):
            fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"), ("content-type", "application/grpc")]
            calls = [client.begin_odd([*fields, GZIP], data) for data in (packed(b"x" * 10_000), b"\1" + frame(b"x" * 40)[1:], frame(b"y"))]
            client.wait(*calls)
            assert [(call.status, call.messages) for call in calls] == [(0, [b"x" * 10_000]), (13, []), (0, [b"y"])]
        client.close()
        assert door.errors == []


@pytest.mark.parametrize("path", [BATCH, STREAM])
@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"\1" + frame(b"x" * 40)[1:], "13", "grpc: failed to decompress the message: gzip: invalid header"),
        (packed(bytes(MESSAGE_MAX + 1)), "8", f"grpc: received message after decompression larger than max {MESSAGE_MAX}"),
    ],
)
def test_what_is_none_ends_the_call_behind_what_was_before(door: ManualDoor, path: str, data: bytes, status: str, text: str) -> None:
    peer = door.peer()
    stream = peer.open(path, GZIP)
    before = packed(b"good") if path == STREAM else b""
    peer.send(stream, before + data + before, end=True)
    peer.sync()
    answer = peer.answer(stream)
    assert (answer["grpc-status"], answer["grpc-message"]) == (status, text)
    assert peer.messages(stream) == ([b"good"] if before else [])
    assert door.batches == []
    assert peer.call(path, packed(b"next"), GZIP)["grpc-status"] == "0"


def test_who_owes_answers_ends_the_stream_itself(door: ManualDoor) -> None:
    """With an `on_broken` it answers what came before, whenever it can; what comes after is its own affair."""
    opened: list[Owing] = []

    def owing(stream: Stream, _: str) -> Owing:
        opened.append(Owing(stream))
        return opened[-1]

    door.engine.add_stream("/test.Owing/Owing", owing)
    peer = door.peer()
    stream = peer.open("/test.Owing/Owing", GZIP)
    peer.send(stream, packed(b"good") + b"\1" + frame(b"x" * 40)[1:] + packed(b"behind"), end=True)
    peer.sync()
    (handler,) = opened
    assert handler.got == [b"good"]
    assert "grpc-status" not in peer.answer(stream)
    handler.pay()
    peer.sync()
    assert peer.messages(stream) == [b"good"]
    assert peer.answer(stream)["grpc-message"] == "grpc: failed to decompress the message: gzip: invalid header"


class Owing:
    """Answers late."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.got: list[bytes] = []
        self.broken: StatusError | None = None

    def on_messages(self, messages: Sequence[bytes]) -> None:
        self.got += messages

    def on_half_close(self) -> None: ...
    def on_writable(self) -> None: ...
    def on_closed(self, code: int) -> None: ...

    def on_broken(self, error: StatusError) -> None:
        self.broken = error

    def pay(self) -> None:
        assert self.broken is not None
        for message in self.got:
            self.stream.push(message)
        self.stream.finish(int(self.broken.code), self.broken.message)


def test_what_is_inflated_counts_in_the_budget_of_bodies() -> None:
    """Of ten calls whose messages are held, so many are taken as there is room for; then all is given back."""
    door = ManualDoor(message_bytes_max=MESSAGE_MAX, bodies_bytes_max=10_000_000)
    peer = door.peer()
    taken: list[int] = []
    door.engine.add_batch("/test.Hold/Hold", lambda handles, _: taken.extend(handles))
    streams = [peer.open("/test.Hold/Hold", GZIP) for _ in range(10)]
    for stream in streams:
        peer.send(stream, BOMB, end=True)
    peer.sync()
    assert len(taken) == 3
    assert 3 * MESSAGE_MAX < door.counters()["bodies_bytes"] < 10_000_000
    refused = [stream for stream in streams if "grpc-status" in peer.answer(stream)]
    assert [peer.answer(stream)["grpc-message"] for stream in refused] == ["too many request bytes in flight, try again"] * 7
    for handle in taken:
        door.engine.reply(handle, b"")
    peer.sync()
    assert door.counters()["bodies_bytes"] == 0
    peer.lose()
    door.assert_empty()


@pytest.mark.parametrize("path", [BATCH, STREAM])
def test_a_tick_inflates_so_much(door: ManualDoor, path: str) -> None:
    """Of twenty messages of 3 MiB each turn takes three; the others wait, and a call that is not compressed does not."""
    peer = door.peer(window=1 << 30)
    if path == STREAM:
        peer.send(stream := peer.open(STREAM, GZIP), BOMB * 20, end=True)
    else:
        for _ in range(20):
            peer.send(peer.open(BATCH, GZIP), BOMB, end=True)
    peer.send(peer.open(BATCH), frame(b"plain"), end=True)
    peer.feed(peer.h2.data_to_send(), run=False)
    tracemalloc.start()
    try:
        door.engine.tick()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < TURN_BYTES + 3 * MESSAGE_MAX + (1 << 20)
    assert door.batches == ([1] if path == STREAM else [4])
    peer.sync()
    if path == STREAM:
        assert [len(message) for message in peer.messages(stream)] == [MESSAGE_MAX] * 20
    else:
        assert sum(door.batches) == 21
        assert max(door.batches) == 4


def test_a_client_that_goes_leaves_nothing(door: ManualDoor) -> None:
    peer = door.peer()
    for path in (BATCH, STREAM):
        peer.send(peer.open(path, GZIP), BOMB * (1 if path != STREAM else 20), end=True)
    peer.feed(peer.h2.data_to_send(), run=False)
    peer.lose()


# -- inflating ----------------------------------------------------------------------------------------------------------

WHOLE = gzip.compress(b"message" * 100, mtime=0)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "decompress the message: EOF"),
        (WHOLE[:9], "decompress the message: unexpected EOF"),
        (b"x" * 9, "decompress the message: unexpected EOF"),
        (b"x" * 10, "decompress the message: gzip: invalid header"),
        (WHOLE[:2] + b"\7" + WHOLE[3:], "decompress the message: gzip: invalid header"),
        (WHOLE[:10], "read decompressed data: unexpected EOF"),
        (WHOLE[:-1], "read decompressed data: unexpected EOF"),
        (WHOLE[:-8] + bytes(4) + WHOLE[-4:], "read decompressed data: gzip: invalid checksum"),
        (WHOLE[:-4] + bytes(4), "read decompressed data: gzip: invalid checksum"),
        (WHOLE[:10] + b"\xff" * 20, "read decompressed data: flate: corrupt input"),
        (WHOLE + b"x", "read decompressed data: unexpected EOF"),
        (WHOLE + b"x" * 10, "read decompressed data: gzip: invalid header"),
    ],
)
def test_what_is_no_gzip(data: bytes, text: str) -> None:
    with pytest.raises(StatusError) as caught:
        inflate(data, 1 << 20)
    assert (caught.value.code, caught.value.message) == (13, f"grpc: failed to {text}")


def test_bounds_of_inflating() -> None:
    assert inflate(WHOLE, 700) == b"message" * 100
    assert inflate(WHOLE * MEMBERS_MAX, 700 * MEMBERS_MAX) == b"message" * 100 * MEMBERS_MAX
    for data, bytes_max in ((WHOLE, 699), (WHOLE * 2, 1399), (gzip.compress(b"") * (MEMBERS_MAX + 1), 700)):
        with pytest.raises(StatusError) as caught:
            inflate(data, bytes_max)
        assert caught.value.code == 8


def test_a_bomb_takes_no_more_than_twice_the_bound() -> None:
    bomb = gzip.compress(bytes(100 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(StatusError):
            inflate(bomb, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < (2 << 20) + 200_000
    finally:
        tracemalloc.stop()


def test_messages_of_many_parts(door: ManualDoor) -> None:
    assert door.peer().call(BATCH, b"\1" + frame(gzip.compress(b"") * 50_000)[1:], GZIP)["grpc-status"] == "8"
