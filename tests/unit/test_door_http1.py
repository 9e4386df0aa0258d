"""The HTTP/1.1 half of the door on a loop that is moved by hand: its bounds, its times and its end."""

from collections.abc import Iterator

import pytest

from raftsched.rpc.http2.http1 import LINGER_S
from raftsched.testing.door_peer import ManualDoor, RawPeer

GET = b"GET /%s HTTP/1.1\r\nhost: a\r\n\r\n"
HOLD = GET % b"hold"


@pytest.fixture
def door() -> Iterator[ManualDoor]:
    opened = ManualDoor(bodies_bytes_max=100_000, http_body_bytes_max=80_000)
    yield opened
    for peer in opened.peers:
        peer.lose()
    opened.assert_empty()


def bodies(raw: RawPeer) -> list[bytes]:
    return [part.split(b"\r\n\r\n", 1)[1] for part in raw.take().split(b"HTTP/1.1 200 ")[1:]]


def test_a_request_line_that_never_ends_is_given_up(door: ManualDoor) -> None:
    raw = door.raw()
    for _ in range(3):
        raw.feed(b"GET /")
        door.manual.advance(15)
        assert not raw.transport.closed
    door.manual.advance(10)
    assert raw.transport.closed


def test_a_body_that_stands_still_is_given_up_and_uncounted(door: ManualDoor) -> None:
    raw = door.raw()
    raw.feed(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n" + bytes(50_000))
    assert door.counters()["bodies_bytes"] == 50_000
    door.manual.advance(25)
    assert raw.transport.closed
    assert door.counters()["bodies_bytes"] == 0


def test_an_idle_connection_is_kept_for_two_minutes(door: ManualDoor) -> None:
    raw = door.raw()
    raw.feed(GET % b"a")
    door.manual.advance(115)
    assert not raw.transport.closed
    door.manual.advance(10)
    assert raw.transport.closed


def test_a_running_request_is_not_given_up(door: ManualDoor) -> None:
    raw = door.raw()
    raw.feed(HOLD)
    door.manual.advance(1_000)
    assert not raw.transport.closed
    door.requests[0].respond(200, [], b"late")
    assert bodies(raw) == [b"late"]


def test_what_comes_ahead_of_an_answer_is_bounded(door: ManualDoor) -> None:
    raw = door.raw()
    raw.feed(HOLD)
    raw.feed((GET % b"next") * 3_000)
    assert not raw.transport.reading
    assert len(door.requests) == 1
    door.requests[0].respond(200, [], b"first")
    door.manual.run()
    assert raw.transport.reading
    assert bodies(raw) == [b"first", *[b"GET /next "] * 3_000]


def test_requests_sent_ahead_take_turns_with_everything_else(door: ManualDoor) -> None:
    """A loop that answered all of them in one go would do nothing else: a page of metrics costs milliseconds."""
    raw, other = door.raw(), door.raw()
    raw.feed((GET % b"a") * 500, run=False)
    assert len(bodies(raw)) == 1
    other.feed(GET % b"b", run=False)
    assert len(bodies(other)) == 1
    raw.feed((GET % b"a") * 5_000, run=False)
    assert not raw.transport.reading
    assert raw.take() == b""
    door.manual.run()
    assert len(bodies(raw)) == 5_499
    assert raw.transport.reading


def test_what_was_sent_ahead_of_an_end_is_answered(door: ManualDoor) -> None:
    raw = door.raw()
    raw.feed((GET % b"a") * 5, run=False)
    assert raw.protocol.eof_received()  # our half stays open
    door.manual.run()
    assert len(bodies(raw)) == 5
    assert raw.transport.closed


def test_nobody_is_answered_who_has_gone(door: ManualDoor) -> None:
    raw = door.raw()
    before = door.counters()["http_requests_total"]
    raw.feed((GET % b"a") * 100, run=False)
    raw.transport.close()
    door.manual.run()
    assert door.counters()["http_requests_total"] == before + 1


class Sink:
    """Takes a body, and is busy with each part for three turns."""

    held_bytes = 0

    def __init__(self) -> None:
        self.did: list[str] = []
        self._left = 0

    @property
    def busy(self) -> bool:
        return self._left > 0

    def on_begin(self) -> None:
        self.did.append("begin")

    def on_body(self, data: bytes) -> None:
        self.did.append(f"body {len(data)}")
        self._left = 3

    def go_on(self) -> None:
        self.did.append("more")
        self._left -= 1

    def on_body_end(self) -> None:
        self.did.append("end")


def test_a_body_for_which_there_is_much_to_do_takes_turns() -> None:
    sink = Sink()
    door = ManualDoor(on_http_head=lambda request: sink)
    raw = door.raw()
    raw.feed(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 80000\r\n\r\n" + bytes(1_000), run=False)
    assert sink.did == ["begin", "body 1000"]
    raw.feed(bytes(79_000), run=False)
    assert sink.did == ["begin", "body 1000"]
    assert not raw.transport.reading
    door.manual.run()
    assert sink.did == ["begin", "body 1000", *["more"] * 3, "body 79000", *["more"] * 3, "end"]
    assert raw.transport.reading
    raw.lose()
    door.assert_empty()


@pytest.mark.parametrize("path", [b"hold", b"a"])
def test_nobody_gets_a_tunnel(door: ManualDoor, path: bytes) -> None:
    """HTTP has no body for an answer to CONNECT that is a success: the connection would be another thing from there on."""
    raw = door.raw()
    raw.feed(b"CONNECT /%s HTTP/1.1\r\nhost: a\r\n\r\n" % path)
    for request in door.requests:
        request.respond(200, [], b"x")
    assert raw.take().startswith(b"HTTP/1.1 405 ")
    assert door.manual.errors == []
    assert raw.transport.half_closed


def test_bodies_share_one_budget(door: ManualDoor) -> None:
    first, second = door.raw(), door.raw()
    post = b"POST /hold HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n" + bytes(60_000)
    first.feed(post)
    second.feed(post)
    assert second.take().startswith(b"HTTP/1.1 503 ")
    assert second.transport.half_closed  # a reset would take the answer away
    assert not second.transport.closed
    door.manual.advance(LINGER_S)
    assert second.transport.closed
    door.requests[0].respond(204, [], b"")
    assert first.take().startswith(b"HTTP/1.1 204 ")
    third = door.raw()
    third.feed(post)
    assert len(door.requests) == 2


def test_an_answer_to_a_client_that_has_gone_is_dropped(door: ManualDoor) -> None:
    raw = door.raw()
    raw.feed(HOLD)
    raw.lose()
    door.requests[0].respond(200, [], b"x")
    assert raw.take() == b""


def test_only_the_first_answer_counts(door: ManualDoor) -> None:
    raw = door.raw()
    raw.feed(HOLD)
    with pytest.raises(ValueError, match="header"):
        door.requests[0].respond(200, [("bad name", "x")], b"")
    door.requests[0].respond(200, [("content-length", "999")], b"right")
    door.requests[0].respond(200, [], b"again")
    assert bodies(raw) == [b"right"]


def test_head_has_the_length_and_no_body(door: ManualDoor) -> None:
    raw = door.raw()
    raw.feed(b"HEAD /hold HTTP/1.1\r\nhost: a\r\n\r\n")
    door.requests[0].respond(200, [], b"12345")
    answer = raw.take()
    assert b"content-length: 5\r\n" in answer.lower()
    assert answer.endswith(b"\r\n\r\n")


def test_a_slow_reader_gets_no_further_answers(door: ManualDoor) -> None:
    raw = door.raw()
    raw.transport.stuck = True
    raw.feed((GET % b"a") * 10)
    assert len(bodies(raw)) == 1
    raw.transport.unstick()
    door.manual.run()
    assert len(bodies(raw)) == 9


def test_without_a_handler_http1_is_closed() -> None:
    door = ManualDoor(on_http=None)
    raw = door.raw()
    raw.feed(GET % b"a")
    assert raw.transport.closed
    assert raw.take() == b""
