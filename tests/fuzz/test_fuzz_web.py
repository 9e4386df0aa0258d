"""Requests that are no gRPC beside such that are, in any order of heads, parts, ends, resets, answers and losses, on one door: whatever
comes, each handler hears of its client's end at most once, and nothing is left."""

import random
from typing import Any

import h2.errors
import h2.exceptions
import pytest

from raftsched.rpc.http2.http_request import HttpRequest
from raftsched.testing.door_peer import H2Peer, ManualDoor, frame

HEAD = [(":scheme", "http"), (":authority", "a")]
ROUNDS = 60


class Sink:
    """Takes a body as it comes, keeps up to 2 000 bytes of it, is busy with it or not, answers now and then."""

    def __init__(self, chance: random.Random, request: HttpRequest) -> None:
        self.chance, self.request, self.held_bytes, self.gone = chance, request, 0, 0
        self.over, self.left = False, 0
        request.on_gone = self.on_gone

    def on_gone(self) -> None:
        assert not self.over
        self.gone += 1
        self.over = True

    def on_begin(self) -> None:
        if self.chance.random() < 0.8:
            self.request.start(200, [])

    @property
    def busy(self) -> bool:
        return self.left > 0

    def on_body(self, data: bytes) -> None:
        assert not self.busy
        self.held_bytes = self.chance.randrange(2_000)
        self.left = self.chance.choice((0, 0, 1, 5))
        self.request.write(data)
        if self.chance.random() < 0.05:
            self.end()

    def go_on(self) -> None:
        assert self.busy
        self.left -= 1
        if self.chance.random() < 0.05:
            self.end()

    def on_body_end(self) -> None:
        assert not self.busy
        self.end()

    def end(self) -> None:
        self.over = True
        self.request.on_gone = None
        self.request.start(200, [])
        self.request.end()


class Doors(ManualDoor):
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.sinks: list[Sink] = []
        super().__init__(bodies_bytes_max=150_000, http_body_bytes_max=30_000, streams_max=40, on_http_head=self.on_head)

    def on_head(self, request: HttpRequest) -> Any:
        if not request.target.startswith("/up"):
            return None
        if request.target == "/up/raise":
            raise RuntimeError("asked for")
        self.sinks.append(Sink(self.chance, request))
        return self.sinks[-1]


def act(chance: random.Random, door: Doors, peer: H2Peer, open_ones: list[int]) -> None:
    what = chance.choice(("open", "open", "send", "send", "end", "reset", "grpc", "answer", "sync", "lose"))
    stream = chance.choice(open_ones) if open_ones else 0
    if what == "open" or (what in ("send", "end", "reset") and not stream):
        path = chance.choice(("/a", "/hold", "/hold", "/up", "/up", "/up/raise", "/raise", "/test.Echo/Batch"))
        head = [*HEAD, (":method", chance.choice(("GET", "POST", "HEAD"))), (":path", path)]
        end = chance.random() < 0.3
        opened = peer.open(path, headers=sorted(head), end=end)
        open_ones += [] if end else [opened]
    elif what == "send":
        peer.h2.send_data(stream, bytes(min(chance.choice((0, 1, 100, 16_384)), peer.h2.local_flow_control_window(stream))))
    elif what == "end":
        open_ones.remove(stream)
        peer.h2.end_stream(stream)
    elif what == "reset":
        open_ones.remove(stream)
        peer.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
    elif what == "grpc":
        opened = peer.open("/test.Echo/Batch")
        peer.h2.send_data(opened, frame(b"x" * chance.randrange(9_000)), end_stream=True)
    elif what == "answer" and door.requests:
        answer(chance, door.requests.pop(chance.randrange(len(door.requests))))
    elif what == "sync":
        peer.sync()
    elif what == "lose" and chance.random() < 0.1:
        peer.lose()


def answer(chance: random.Random, request: HttpRequest) -> None:
    if chance.random() < 0.5:
        request.respond(chance.choice((200, 204, 404)), [("X", "y")], bytes(chance.choice((0, 10, 100_000))))
        return
    request.start(200, [])
    for _ in range(chance.randrange(20)):
        request.write(bytes(chance.choice((1, 5_000, 20_000))))
    request.end()


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_anything_in_any_order(seed: int) -> None:
    chance = random.Random(seed)
    door = Doors(chance)
    peers = [(door.peer(window=chance.choice((100, 65_535, 1 << 20))), list[int]()) for _ in range(2)]
    for peer, _ in peers:
        peer.acknowledge = chance.random() < 0.7
    for _ in range(chance.randrange(150)):
        peer, open_ones = chance.choice(peers)
        try:
            act(chance, door, peer, open_ones)
        except (h2.exceptions.ProtocolError, ValueError):  # the other side has ended it
            open_ones.clear()
    for peer, _ in peers:
        if chance.random() < 0.5:
            peer.sync()
        peer.lose()
    assert all(sink.over and sink.gone <= 1 for sink in door.sinks)
    assert all(isinstance(error, RuntimeError) for _, error in door.errors)
    door.assert_empty()
