"""The door against python-hyper h2: whatever the reads and the order of events, the same answers.

The twin is h2 on the client's side and the plain list of what was asked for; hypothesis chooses the traffic and the cuts.
"""

import itertools
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.events
import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from raftsched.testing.door_peer import ManualDoor, RawPeer, frame, unframe

Answers = dict[int, tuple[str, list[bytes]]]


def client() -> h2.connection.H2Connection:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    return connection


def begin(connection: h2.connection.H2Connection, path: str) -> int:
    stream = connection.get_next_available_stream_id()
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"), ("content-type", "application/grpc")]
    connection.send_headers(stream, [*fields, ("te", "trailers")])
    return stream


def collect(connection: h2.connection.H2Connection, data: bytes) -> Answers:
    """Status and messages of each stream that ended."""
    status: dict[int, str] = {}
    bodies: dict[int, bytes] = {}
    for event in connection.receive_data(data):
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            status[event.stream_id] = dict(event.headers).get("grpc-status", status.get(event.stream_id, ""))  # type: ignore[arg-type]
        elif isinstance(event, h2.events.DataReceived):
            bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
        assert not isinstance(event, h2.events.ConnectionTerminated)
    return {stream: (status[stream], list(unframe(bodies.get(stream, b"")))) for stream in status}


def feed(raw: RawPeer, data: bytes, cuts: list[int]) -> None:
    at = 0
    for cut in sorted(cut % (len(data) + 1) for cut in cuts):
        raw.feed(data[at:cut], run=cut % 2 == 0)
        at = cut
    raw.feed(data[at:])


@dataclass
class Script:
    """One request: what is sent, in how many frames, and what must come back."""

    path: str
    messages: list[bytes]
    frames: list[int]

    @property
    def expected(self) -> tuple[str, list[bytes]]:
        if self.path.endswith("Stream"):
            return ("0", self.messages)
        if self.path.endswith("Nope"):
            return ("12", [])
        return ("0", self.messages[:1]) if self.messages else ("2", [])


def plain(message: bytes) -> bool:
    """None of the words that the echo takes as orders."""
    return not message.startswith((b"hold", b"raise", b"fail:", b"meta:", b"finish:"))


scripts = st.builds(
    Script,
    st.sampled_from(["/test.Echo/Batch", "/test.Echo/Stream", "/test.Echo/Nope"]),
    st.lists(st.one_of(st.binary(max_size=30).filter(plain), st.integers(0, 3_000).map(bytes)), max_size=4),
    st.lists(st.integers(0, 5_000), max_size=5),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(scripts, min_size=1, max_size=6), st.lists(st.integers(0, 1 << 30), max_size=12), st.randoms(use_true_random=False))
def test_any_split_and_interleaving_gives_the_same_answers(requests: list[Script], cuts: list[int], random: object) -> None:
    door, connection = ManualDoor(), client()
    pieces: dict[int, list[bytes]] = {}
    expected = {}
    for request in requests:
        stream = begin(connection, request.path)
        body = frame(*request.messages)
        ends = [0, *sorted(end % (len(body) + 1) for end in request.frames), len(body)]
        pieces[stream] = [body[a:b] for a, b in itertools.pairwise(ends)]
        expected[stream] = request.expected
    while pieces:
        stream = random.choice(sorted(pieces))  # type: ignore[attr-defined]
        piece = pieces[stream].pop(0)
        connection.send_data(stream, piece, end_stream=not pieces[stream])
        if not pieces[stream]:
            del pieces[stream]
    raw = door.raw()
    feed(raw, connection.data_to_send(), cuts)
    assert collect(connection, raw.take()) == expected
    raw.lose()
    door.assert_empty()


def test_every_single_split_of_one_conversation() -> None:
    connection = client()
    for path, messages in (("/test.Echo/Batch", [b"one"]), ("/test.Echo/Stream", [b"a", b"", b"bcd"]), ("/test.Echo/Nope", [])):
        connection.send_data(begin(connection, path), frame(*messages), end_stream=True)
    data = connection.data_to_send()
    expected: bytes | None = None
    for cut in range(len(data) + 1):
        door = ManualDoor()
        raw = door.raw()
        raw.feed(data[:cut])
        raw.feed(data[cut:])
        answer = raw.take()
        fresh = client()
        for _ in range(3):
            fresh.send_data(begin(fresh, "/x.Y/Z"), b"", end_stream=True)
        answers = collect(fresh, answer)
        assert answers == {1: ("0", [b"one"]), 3: ("0", [b"a", b"", b"bcd"]), 5: ("12", [])}
        expected = expected or answer
        raw.lose()
        door.assert_empty()


def test_one_byte_at_a_time() -> None:
    connection = client()
    connection.send_data(begin(connection, "/test.Echo/Stream"), frame(b"a", bytes(5_000)), end_stream=True)
    door = ManualDoor()
    raw = door.raw()
    for byte in connection.data_to_send():
        raw.feed(bytes((byte,)))
    assert collect(connection, raw.take()) == {1: ("0", [b"a", bytes(5_000)])}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["data", "end", "reset", "tick", "finish", "lose", "timeout", "push"]), max_size=12))
def test_whatever_the_order_of_events_a_stream_closes_once(steps: list[str]) -> None:
    door = ManualDoor()
    peer = door.peer()
    stream = peer.open("/test.Echo/Stream", ("grpc-timeout", "5S"))
    open_here = True
    for step in steps:
        if step == "tick":
            peer.sync()
        elif step == "timeout":
            door.manual.advance(6)
        elif step == "lose":
            peer.lose()
        if peer.transport.closed or not open_here or "ended" in peer.answer(stream) or "reset" in peer.answer(stream):
            continue
        if step in ("data", "finish", "push"):
            peer.h2.send_data(stream, frame(b"finish:5:x" if step == "finish" else b"abc"))
        elif step in ("end", "reset"):
            open_here = False
            if step == "end":
                peer.h2.end_stream(stream)
            else:
                peer.h2.reset_stream(stream, 8)
    if not peer.transport.closed:
        peer.sync()
    peer.lose()
    assert len(door.closed) <= 1
    if door.lists:  # it had a handler
        assert len(door.closed) == 1
    door.assert_empty()
    assert not door.errors
