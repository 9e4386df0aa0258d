"""HTTP/2 without gRPC at the door: who gets it, bodies, answers in parts, bounds, and that nothing stays behind.

A real etcd is asked the same in tests/interop/test_gateway_http2.py.
"""

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest

from raftsched import limits
from raftsched.rpc.http2.http2 import Http2Exchange, announced_bytes
from raftsched.rpc.http2.http_request import HttpRequest
from raftsched.testing.door import EchoDoor
from raftsched.testing.door_peer import H2Peer, Headers, ManualDoor, frame
from raftsched.testing.http2_peer import Http2Peer

BODY_MAX = 100_000


class WebDoor(ManualDoor):
    """Echoes; `/hold` is kept, a path below `/up/` takes its body as it comes."""

    def __init__(self, **options: Any) -> None:
        self.heads: list[HttpRequest] = []
        self.sinks: list[Upload] = []
        super().__init__(**{"http_body_bytes_max": BODY_MAX, "on_http_head": self.on_head, **options})

    def on_head(self, request: HttpRequest) -> "Upload | None":
        self.heads.append(request)
        request.extra_headers = (("X-Every", "answer"),)
        if not request.target.startswith("/up/"):
            return None
        self.sinks.append(Upload(request, int(request.target[4:])))
        return self.sinks[-1]


class Upload:
    """Answers each part at once, and is busy with it for `turns`; says that it keeps `held_bytes`."""

    turns, _left = 0, 0

    def __init__(self, request: HttpRequest, held_bytes: int) -> None:
        self.request, self.held_bytes, self.gone, self.body, self.ended = request, held_bytes, 0, b"", False
        request.on_gone = self.on_gone

    def on_gone(self) -> None:
        self.gone += 1

    def on_begin(self) -> None:
        self.request.start(200, [("Content-Type", "text/plain")])

    def on_body(self, data: bytes) -> None:
        assert not self.busy
        self.body += data
        self.request.write(b"<%d>" % len(data))
        self._left = self.turns

    @property
    def busy(self) -> bool:
        return self._left > 0

    def go_on(self) -> None:
        self._left -= 1
        self.request.write(b".")

    def on_body_end(self) -> None:
        self.ended = True
        self.request.write(b"end")
        self.request.end()


@pytest.fixture
def door() -> Iterator[WebDoor]:
    made = WebDoor()
    yield made
    for peer in made.peers:
        peer.lose()
    made.assert_empty()


def fields(method: str, path: str, *extra: tuple[str, str]) -> Headers:
    return [(":method", method), (":scheme", "http"), (":path", path), (":authority", "door:1"), *extra]


def ask(peer: H2Peer, method: str, path: str, *extra: tuple[str, str], body: bytes = b"") -> dict[str, str]:
    stream = peer.open(path, headers=fields(method, path, *extra), end=not body)
    if body:
        peer.send(stream, body, end=True)
    peer.sync()
    return peer.answer(stream)


# -- who gets it


def test_methods_and_headers(door: WebDoor) -> None:
    peer = door.peer()
    answer = ask(peer, "GET", "/a?b=c", ("accept", "*/*"), ("grpc-timeout", "5S"), ("te", "trailers"))
    assert (answer[":status"], answer["body"], answer["ended"]) == ("200", "GET /a?b=c ", "yes")
    assert (answer["content-type"], answer["content-length"], answer["x-every"]) == ("text/plain", "11", "answer")
    assert answer["date"].endswith(" GMT")
    assert "grpc-status" not in answer
    request = door.heads[0]
    assert request.headers == [("host", "door:1"), ("accept", "*/*"), ("grpc-timeout", "5000000u")]
    assert (request.peer, request.secure, request.peer_certificate()) == ("127.0.0.1:4711", False, None)
    head = ask(peer, "HEAD", "/a")
    assert (head[":status"], head["content-length"], head["body"], head["ended"]) == ("200", "8", "", "yes")
    assert ask(peer, "POST", "/a", body=b"x" * 50_000)["body"] == "POST /a " + "x" * 50_000
    assert ask(peer, "OPTIONS", "*")["body"] == "OPTIONS * "
    assert door.counters()["http_requests_total"] == 4


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/test.Echo/Batch", "application/json", "415"),
        ("/test.Echo/Nope", "application/json", "415"),
        ("/test.Echo/Batch", "", "415"),
        ("/a", "application/grpc-web", "415"),
        ("/a", "application/grpc", "200"),
        ("/a", "application/json", "200"),
        ("/v3/kv/put", "", "200"),
    ],
)
def test_clear_text_is_decided_by_path_and_type(door: WebDoor, path: str, kind: str, status: str) -> None:
    """What names a service, or says that it is gRPC, is gRPC's to refuse."""
    answer = ask(door.peer(), "POST", path, *([("content-type", kind)] if kind else []), body=b"b")
    assert answer[":status"] == status
    assert ("grpc-status" in answer) == (kind == "application/grpc" or status == "415")
    if kind == "application/grpc":
        assert answer["grpc-status"] == "12"


def test_grpc_and_http_on_one_connection(door: WebDoor) -> None:
    peer = door.peer()
    streams = [peer.open("/test.Echo/Batch") if n % 2 else peer.open("/a", headers=fields("POST", f"/{n}")) for n in range(20)]
    for number, stream in enumerate(streams):
        peer.send(stream, frame(b"%d" % number) if number % 2 else b"%d" % number, end=True)
    peer.sync()
    for number, stream in enumerate(streams):
        text = peer.answer(stream)["body"]
        assert text == (f"\0\0\0\0{chr(len(str(number)))}{number}" if number % 2 else f"POST /{number} {number}")


def test_a_door_without_http_and_ports_for_one_of_them(door: WebDoor) -> None:
    alone = ManualDoor(on_http=None)
    assert ask(alone.peer(), "GET", "/a")[":status"] == "415"
    assert ask(door.peer(http=False), "GET", "/a")[":status"] == "415"
    http1 = door.raw(http=False)
    http1.feed(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert http1.transport.closed
    web = door.peer(grpc=False)
    assert web.call("/test.Echo/Batch", frame(b"x"))["body"].startswith("POST /test.Echo/Batch ")
    plain = door.raw(grpc=False)
    plain.feed(b"GET /b HTTP/1.1\r\nhost: a\r\n\r\n")
    assert plain.take().endswith(b"GET /b ")


# -- bodies


def test_bodies_beyond_their_bound(door: WebDoor) -> None:
    peer = door.peer()
    announced = peer.open("/a", headers=fields("POST", "/a", ("content-length", str(BODY_MAX + 1))))
    peer.sync()
    answer = peer.answer(announced)
    assert (answer[":status"], answer["ended"], answer["x-every"]) == ("413", "yes", "answer")
    peer.send(announced, bytes(BODY_MAX + 1), end=True)  # what it is in the middle of does not cost it the answer
    peer.sync()
    assert "reset" not in peer.answer(announced)
    stream = peer.open("/a", headers=fields("POST", "/a"))
    peer.send(stream, b"x" * BODY_MAX)
    peer.sync()
    assert peer.answer(stream) == {"body": ""}
    peer.send(stream, b"x")
    peer.sync()
    assert (peer.answer(stream)[":status"], peer.answer(stream).get("reset")) == ("413", None)
    peer.send(stream, bytes(1 << 20))
    peer.sync()
    assert "reset" not in peer.answer(stream)
    peer.send(stream, b"x")
    peer.sync()
    assert peer.answer(stream)["reset"] == "0"  # the rest is not wanted
    assert len(ask(peer, "POST", "/a", body=b"y" * BODY_MAX)["body"]) == BODY_MAX + 8


def test_bodies_are_in_the_budget() -> None:
    door = WebDoor(bodies_bytes_max=60_000)
    peer = door.peer()
    first = peer.open("/a", headers=fields("POST", "/a"))
    peer.send(first, b"x" * 40_000)
    peer.sync()
    second = ask(peer, "POST", "/b", body=b"y" * 30_000)
    assert (second[":status"], second["ended"]) == ("503", "yes")
    peer.send(first, b"x", end=True)
    peer.sync()
    assert len(peer.answer(first)["body"]) == 40_001 + 8
    assert door.counters()["bodies_bytes"] == 0


def test_what_a_sink_keeps_is_in_the_budget() -> None:
    door = WebDoor(bodies_bytes_max=60_000)
    peer = door.peer()
    stream = peer.open("/up/9", headers=fields("POST", "/up/70000"))
    peer.send(stream, b"a")
    peer.sync()
    assert peer.answer(stream)["reset"] == "2"  # its answer had begun
    assert door.sinks[0].gone == 1
    peer.lose()
    assert door.sinks[0].gone == 1
    door.assert_empty()


def test_a_body_as_it_comes(door: WebDoor) -> None:
    peer = door.peer()
    stream = peer.open("/up/0", headers=fields("POST", "/up/0"))
    peer.sync()
    assert (peer.answer(stream)[":status"], peer.answer(stream)["body"]) == ("200", "")
    assert "content-length" not in peer.answer(stream)
    for number in (1, 10, 9_000):
        peer.send(stream, b"x" * number)
        peer.sync()
    assert peer.answer(stream)["body"] == "<1><10><9000>"
    peer.send(stream, b"", end=True)
    peer.sync()
    assert (peer.answer(stream)["body"], peer.answer(stream)["ended"]) == ("<1><10><9000>end", "yes")
    assert (door.sinks[0].body, door.sinks[0].gone) == (b"x" * 9_011, 0)


def test_expect_100_continue(door: WebDoor) -> None:
    peer = door.peer()
    stream = peer.open("/a", headers=fields("POST", "/a", ("expect", "100-continue")))
    peer.sync()
    assert any(isinstance(one, h2.events.InformationalResponseReceived) for one in peer.events)
    peer.send(stream, b"x", end=True)
    peer.sync()
    assert peer.answer(stream)["body"] == "POST /a x"
    peer.events.clear()
    ask(peer, "POST", "/a", ("expect", "100-continue"), ("content-length", str(BODY_MAX + 1)))
    assert not any(isinstance(one, h2.events.InformationalResponseReceived) for one in peer.events)


# -- answers


def test_an_answer_in_parts_stops_for_who_does_not_read(door: WebDoor) -> None:
    peer = door.peer()
    peer.acknowledge = False
    stream = peer.open("/hold", headers=fields("GET", "/hold"), end=True)
    peer.sync()
    (request,) = door.requests
    room: list[bool] = []
    request.on_writable = lambda: room.append(True)
    request.start(200, [])
    written = 0
    while request.write(b"z" * 10_000):
        written += 10_000
        assert written < 1_000_000
    peer.sync()
    assert len(peer.answer(stream)["body"]) == 65_535  # its window
    assert room == []
    peer.acknowledge = True
    peer.h2.increment_flow_control_window(1 << 20)
    peer.h2.increment_flow_control_window(1 << 20, stream)
    peer.sync()
    assert room == [True]
    request.end()
    peer.sync()
    answer = peer.answer(stream)
    assert (answer["body"], answer["ended"]) == ("z" * (written + 10_000), "yes")


def test_a_client_that_goes_is_told_once(door: WebDoor) -> None:
    peer = door.peer()
    gone: list[str] = []
    streams = [peer.open("/hold", headers=fields("GET", "/hold"), end=True) for _ in range(3)]
    peer.sync()
    for number, request in enumerate(door.requests):
        request.on_gone = lambda number=number: gone.append(f"{number}")  # type: ignore[misc]
    door.requests[1].start(200, [])
    door.requests[2].respond(200, [], b"done")
    peer.sync()
    peer.h2.reset_stream(streams[0])
    peer.sync()
    assert gone == ["0"]
    peer.lose()
    assert gone == ["0", "1"]
    assert door.requests[1].write(b"x") is False
    door.requests[1].end()
    door.requests[0].respond(200, [], b"late")
    door.assert_empty()


def test_parts_of_an_answer_to_head_are_not_sent(door: WebDoor) -> None:
    peer = door.peer()
    streams = [peer.open("/hold", headers=fields("HEAD", "/hold"), end=True) for _ in range(2)]
    peer.sync()
    gone: list[int] = []
    for number, request in enumerate(door.requests):
        request.on_gone = lambda number=number: gone.append(number)  # type: ignore[misc]
        request.start(200, [])
        assert request.write(b"part") is True
    door.requests[0].end()
    peer.sync()
    answer = peer.answer(streams[0])
    assert (answer[":status"], answer["body"], answer["ended"]) == ("200", "", "yes")
    peer.h2.reset_stream(streams[1])
    peer.sync()
    assert gone == [1]


def test_handlers_that_fail(door: WebDoor) -> None:
    peer = door.peer()
    answer = ask(peer, "GET", "/raise")
    assert (answer[":status"], answer["body"]) == ("500", "internal error\n")
    assert [where for where, _ in door.errors] == ["/raise"]
    peer.open("/hold", headers=fields("GET", "/hold"), end=True)
    peer.sync()
    for name, value in (("x", "a\nb"), ("x y", "a"), ("x", "ü"), ("x", " a"), (":x", "a")):
        with pytest.raises(ValueError, match=r"cannot be sent|ordinal"):
            door.requests[0].respond(200, [(name, value)], b"")
    door.requests[0].respond(204, [("Connection", "close"), ("Transfer-Encoding", "chunked")], b"")
    peer.sync()
    (stream,) = (one for one in (1, 3, 5) if peer.answer(one).get(":status") == "204")
    assert not {"connection", "transfer-encoding", "content-length"} & peer.answer(stream).keys()


def test_an_upgrade_is_sent_to_http1(door: WebDoor) -> None:
    peer = door.peer()
    stream = peer.open("/hold", headers=fields("GET", "/hold"), end=True)
    peer.sync()
    door.requests[0].upgrade([], Upload(door.requests[0], 0))
    peer.sync()
    assert peer.answer(stream)["reset"] == str(int(h2.errors.ErrorCodes.HTTP_1_1_REQUIRED))


def test_requests_wait_for_who_does_not_read_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTION_BACKLOG_BYTES", 1 << 20)
    door = WebDoor(http_body_bytes_max=3_000_000)
    peer = door.peer()
    peer.acknowledge = False
    large = peer.open("/hold", headers=fields("GET", "/hold"), end=True)
    peer.sync()
    door.requests[0].respond(200, [], bytes(size := 1_200_000))
    small = [peer.open("/a", headers=fields("GET", "/a"), end=True) for _ in range(3)]
    kept = peer.open("/a", headers=fields("POST", "/a"))
    peer.send(kept, b"in ")
    peer.send(kept, b"parts", end=True)
    peer.h2.reset_stream(small[2])
    peer.sync()
    assert [":status" in peer.answer(one) for one in (*small, kept)] == [False] * 4
    peer.acknowledge = True
    peer.h2.increment_flow_control_window(1 << 30)
    peer.h2.increment_flow_control_window(1 << 30, large)
    peer.sync()
    assert len(peer.answer(large)["body"]) == size
    assert [peer.answer(one)["body"] for one in (*small[:2], kept)] == ["GET /a ", "GET /a ", "POST /a in parts"]
    peer.lose()
    door.assert_empty()


def test_the_stop_of_the_door_cuts_off_what_still_waits() -> None:
    gone: list[str] = []
    with EchoDoor() as door, Http2Peer(door.port) as peer:
        kept, begun = (peer.request("GET", "/hold") for _ in range(2))
        assert peer.ask("GET", "/a").status == 200  # so both are there
        for name, request in zip(("kept", "begun"), door.requests, strict=True):
            request.on_gone = lambda name=name: gone.append(name)  # type: ignore[misc]
        door.loop.call_soon_threadsafe(door.requests[1].start, 200, [])
        assert peer.head(begun).status == 200
        door.run(door.engine.drain(100))
        assert sorted(gone) == ["begun", "kept"]
        with pytest.raises((ConnectionError, h2.exceptions.ProtocolError)):  # h2 takes no reset behind a GOAWAY
            peer.answer(kept)


# -- how many streams


def test_streams_beyond_their_number_are_refused() -> None:
    door = WebDoor(streams_max=3)
    peer = door.peer()
    peer.sync()
    told = [one for one in peer.events if isinstance(one, h2.events.RemoteSettingsChanged)]
    code = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
    assert [one.changed_settings[code].new_value for one in told] == [3]
    open_ones = [peer.open("/test.Echo/Silent") for _ in range(2)] + [peer.open("/hold", headers=fields("GET", "/hold"), end=True)]
    peer.sync()
    peer.h2.remote_settings.max_concurrent_streams = 100  # a client that does not care
    peer.h2.remote_settings.acknowledge()
    over = peer.open("/test.Echo/Batch")
    peer.sync()
    assert peer.answer(over) == {"reset": "7", "body": ""}
    assert peer.goaway is None
    assert door.counters()["refused_total"] == 1
    door.requests[0].respond(200, [], b"")
    peer.sync()
    assert peer.call("/test.Echo/Batch", frame(b"again"))["grpc-status"] == "0"
    assert [peer.answer(one) for one in open_ones[:2]] == [{"body": ""}] * 2
    other = door.peer()
    assert other.call("/test.Echo/Batch", frame(b"another connection"))["grpc-status"] == "0"
    for one in (peer, other):
        one.lose()
    door.assert_empty()


@pytest.mark.parametrize(("number", "told"), [(0, 0x7FFFFFFF), (0xFFFFFFFF, 0x7FFFFFFF), (1 << 20, 1 << 20), (0x01020304, 0x01020304)])
def test_the_number_of_streams_that_is_told(number: int, told: int) -> None:
    peer = ManualDoor(streams_max=number).peer()
    assert peer.h2.remote_settings.max_concurrent_streams == told


def test_a_body_for_which_there_is_much_to_do_takes_turns(monkeypatch: pytest.MonkeyPatch, door: WebDoor) -> None:
    monkeypatch.setattr(Upload, "turns", 3)
    peer = door.peer()
    stream = peer.open("/up/0", headers=fields("POST", "/up/0"))
    for length in (1_000, 2_000, 3_000):
        peer.send(stream, bytes(length))
    peer.sync()
    peer.send(stream, bytes(4_000), end=True)
    peer.sync()
    answer = peer.answer(stream)
    assert answer["body"] == "<1000>...<2000>...<3000>...<4000>...end"
    assert answer["ended"] == "yes"
    assert door.sinks[0].ended


def test_a_client_that_goes_while_there_is_much_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of its body is forgotten, and given back to the budget."""
    monkeypatch.setattr(Upload, "turns", 1 << 30)
    later: list[Callable[[], None]] = []
    charged: list[int] = []
    stream: Any = MagicMock(peer="", secure=False)
    stream.head.return_value = ("POST", "/", [])
    sinks: list[Upload] = []

    def on_head(request: HttpRequest) -> Upload:
        sinks.append(Upload(request, 0))
        return sinks[0]

    exchange = Http2Exchange(stream, lambda _: None, on_head, lambda count: charged.append(count) is None, later.append, body_bytes_max=1)
    exchange.begin()
    exchange.on_parts([bytes(100), bytes(200)])
    assert exchange.busy
    assert sum(charged) == 200
    exchange.lost()
    assert (sum(charged), sinks[0].gone, exchange.busy) == (0, 1, False)
    later[0]()
    assert (len(later), sinks[0].body, sinks[0].ended) == (1, bytes(100), False)


@pytest.mark.parametrize(
    ("text", "length"), [(None, 0), ("17", 17), ("x", math.inf), ("-1", math.inf), ("9" * 4_400, math.inf), ("²", math.inf)]
)
def test_lengths_that_nobody_has_judged(text: str | None, length: float) -> None:
    headers = [] if text is None else [("content-length", text)]
    request = HttpRequest(SimpleNamespace(body_bytes_max=1, peer="", secure=False), "POST", "/", headers)
    assert announced_bytes(request) == length
