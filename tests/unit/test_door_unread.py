"""Answers that nobody reads, of all connections together: who has to wait, who has to go, and who notices nothing."""

from collections.abc import Iterator
from typing import Any

import pytest

from raftsched import limits
from raftsched.rpc.unread import UnreadLog
from raftsched.testing.door_peer import H2Peer, ManualDoor, frame

KIB = 1 << 10
ROOM, FLOOR = 4 << 20, 256 << 10
PART = 100 * KIB
ANSWER = PART + 5  # with the framing


class Door(ManualDoor):
    """With little room; `closed_peers` are those who had to go, with what they had unread."""

    def __init__(self, **options: Any) -> None:
        self.closed_peers: list[tuple[str, int]] = []
        super().__init__(unread_bytes_max=ROOM, on_unread=lambda peer, size: self.closed_peers.append((peer, size)), **options)

    def deaf(self) -> H2Peer:
        """Who never reads."""
        peer = self.peer(window=0)
        peer.acknowledge = False
        return peer

    @property
    def unread(self) -> int:
        return self.counters()["buffered_bytes"]


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(limits, "UNREAD_FLOOR_BYTES", FLOOR)
    door = Door()
    yield door
    for peer in door.peers:
        if not peer.transport.closed:
            peer.lose()
    door.assert_empty()


def ask(peer: H2Peer, count: int = 1, size: int = PART, path: str = "/test.Echo/Batch") -> list[int]:
    """That many requests at once, whose answers are as large as they are."""
    streams = []
    for _ in range(count):
        if peer.transport.closed:
            break
        streams.append(peer.open(path))
        peer.send(streams[-1], frame(bytes(size)), end=True)
        peer.sync()
    return streams


def test_the_largest_goes_and_who_reads_is_served(door: Door) -> None:
    small, large, good = door.deaf(), door.deaf(), door.peer()
    ask(small, 2)
    ask(large, 45)
    assert not large.transport.closed, "half of the room is used: it waits"
    assert door.unread < ROOM * 3 // 4
    others = [door.deaf() for _ in range(10)]
    for other in others:
        ask(other, 3)
        assert door.unread <= ROOM + ANSWER
    assert large.transport.closed, "the largest of them"
    assert door.closed_peers == [("127.0.0.1:4711", pytest.approx(ROOM // 2, abs=2 * ANSWER))]
    assert door.counters()["unread_total"] == 1
    assert not any(one.transport.closed for one in (small, good, *others))
    assert good.call("/test.Echo/Batch", frame(b"x" * PART))["grpc-status"] == "0"


def test_what_is_asked_in_one_go_has_no_more_room(door: Door) -> None:
    """Requests that are handed over together are not counted before they are answered."""
    door.engine.add_batch("/test.Echo/Large", lambda handles, _: [door.engine.reply(one, bytes(PART)) for one in handles])
    peer, good = door.deaf(), door.peer()
    for _ in range(100):
        peer.send(peer.open("/test.Echo/Large"), frame(b""), end=True)
    peer.sync()
    assert peer.transport.closed
    assert door.closed_peers[0][1] <= ROOM + 2 * ANSWER
    assert good.call("/test.Echo/Batch", frame(b"x"))["grpc-status"] == "0"


def test_many_with_little_are_closed_one_by_one(door: Door) -> None:
    peers = [door.deaf() for _ in range(60)]
    for peer in peers:
        ask(peer)
        assert door.unread <= ROOM + ANSWER
    assert sum(one.transport.closed for one in peers) == 60 - ROOM // ANSWER - 1


def test_one_answer_may_be_larger_than_the_room(door: Door) -> None:
    door.engine.add_batch("/test.Echo/Large", lambda handles, _: door.engine.reply(handles[0], bytes(2 * ROOM)))
    reader = door.peer(window=64 * KIB)
    reader.acknowledge = False
    (stream,) = ask(reader, size=0, path="/test.Echo/Large")
    assert door.unread > ROOM
    for _ in range(3):
        ask(door.deaf(), 2)
    reader.acknowledge = True
    reader.h2.increment_flow_control_window(1 << 30)
    reader.h2.increment_flow_control_window(1 << 30, stream)
    reader.sync()
    assert len(reader.answer(stream)["body"]) == 2 * ROOM + 5
    assert not door.closed_peers


def test_who_takes_nothing_goes_before_who_reads(door: Door) -> None:
    """The one who reads has more waiting."""
    reader, stalled = door.peer(window=64 * KIB), door.deaf()
    reader.acknowledge = False
    door.engine.add_batch("/test.Echo/Large", lambda handles, _: door.engine.reply(handles[0], bytes(ROOM // 2 - PART)))
    (large,) = ask(reader, size=0, path="/test.Echo/Large")
    ask(stalled, 5)
    door.manual.advance(limits.UNREAD_STALL_MS / 1e3)
    reader.h2.increment_flow_control_window(PART)
    reader.h2.increment_flow_control_window(PART, large)
    reader.sync()
    for _ in range(25):
        if not door.closed_peers:
            ask(door.deaf(), 2)
    assert stalled.transport.closed
    assert not reader.transport.closed


def test_streams_of_who_is_behind_are_told_to_stop(door: Door) -> None:
    full = [door.deaf() for _ in range(8)]
    for peer in full:
        ask(peer, 3)
    assert door.unread > ROOM // 2
    behind = door.deaf()
    ask(behind, 3)
    stream = behind.open("/test.Echo/Burst")
    behind.send(stream, frame(b"1000 1000"), end=True)
    behind.sync()
    assert door.stopped == 1, "behind the first message"
    behind.h2.increment_flow_control_window(1 << 30)
    for one in (1, 3, 5, stream):
        behind.h2.increment_flow_control_window(1 << 24, one)
    behind.sync()
    assert len(behind.messages(stream)) == 1000
    assert behind.answer(stream)["grpc-status"] == "0"


def test_what_a_stream_sends_waits_for_who_is_behind(door: Door) -> None:
    for _ in range(8):
        ask(door.deaf(), 3)
    behind = door.deaf()
    ask(behind, 3)
    stream = behind.open("/test.Echo/Stream")
    for number in range(5):
        behind.send(stream, frame(b"%d" % number))
        behind.sync()
    assert sum(door.lists) == 1
    behind.h2.increment_flow_control_window(1 << 30)
    for one in (1, 3, 5, stream):
        behind.h2.increment_flow_control_window(1 << 24, one)
    behind.sync()
    assert behind.messages(stream) == [b"%d" % number for number in range(5)]


def test_answers_over_http1_count(door: Door) -> None:
    peers = []
    for _ in range(60):
        peers.append(peer := door.raw())
        peer.transport.stuck = True
        peer.feed(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        door.requests.pop().respond(200, [], bytes(PART))
        door.manual.advance(1.0)  # what a paused transport holds is looked after once in a second
        assert door.unread <= ROOM + ANSWER
    assert sum(one.transport.closed for one in peers) == 60 - ROOM // PART - 1
    good = door.raw()
    good.feed(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    assert good.take().startswith(b"HTTP/1.1 200")


def test_a_line_tells_of_it_but_not_a_line_for_each() -> None:
    lines: list[tuple[str, dict[str, object]]] = []
    now = 0

    class Log:
        def warning(self, message: str, /, **fields: object) -> None:
            lines.append((message, fields))

    log = UnreadLog(Log(), lambda: now)  # type: ignore[arg-type]
    for _ in range(3):
        log.closed("10.0.0.1:7", 9_000)
    now += limits.UNREAD_LOGGED_MS
    log.closed("", 8_000)
    assert [fields for _, fields in lines] == [
        {"remote-addr": "10.0.0.1:7", "unread_bytes": 9_000},
        {"remote-addr": "@", "unread_bytes": 8_000, "suppressed": 2},
    ]
