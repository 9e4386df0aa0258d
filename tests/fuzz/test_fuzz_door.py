"""Bytes nobody meant, at the door's entrance: it answers or closes, and another connection notices nothing."""

import hypothesis.strategies as st
from hypothesis import HealthCheck, example, given, settings

from raftsched.testing.door_peer import H2Peer, ManualDoor, RawPeer, frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def record(*calls: tuple[str, bytes, bool]) -> bytes:
    """The client's bytes of a valid conversation."""
    door = ManualDoor()
    peer = H2Peer(door.manual, door.engine)
    peer.sync()
    sent: list[bytes] = []
    feed = peer.feed
    peer.feed = lambda data, *, run=True: (sent.append(bytes(data)), feed(data, run=run))[1]  # type: ignore[method-assign,assignment]
    for path, body, end in calls:
        stream = peer.open(path, ("grpc-timeout", "3S"), ("token", "t"), ("x-bin", "AAEC"))
        peer.send(stream, body, end=end)
        peer.sync()
    peer.h2.ping(b"12345678")
    peer.h2.reset_stream(stream, 8)
    peer.sync()
    return PREFACE + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)) + b"".join(sent)


CORPUS = [
    record(("/test.Echo/Batch", frame(b"hello"), True), ("/test.Echo/Stream", frame(b"a", b"bc"), False)),
    record(("/test.Echo/Burst", frame(b"50 100"), True), ("/test.Echo/Nope", b"", True), ("/test.Echo/Silent", frame(bytes(300)), False)),
    PREFACE + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\5\2\0\0\0\0\1\0\0\0\0\x10" + b"\0\0\4\x08\0\0\0\0\0\0\0\x10\0",
    b"POST /v3/kv/put HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n\r\n",
]

edits = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "repeat", "insert", "drop"]), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=12)),
    max_size=8,
)


def mutate(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    keep = 24 if data.startswith(PREFACE) and (not changes or changes[0][1] % 10) else 0  # mostly behind the preface
    head, tail = data[:keep], bytearray(data[keep:])
    for kind, position, extra in changes:
        at = position % (len(tail) + 1)
        if kind == "flip":
            for offset, byte in enumerate(extra[: len(tail) - at]):
                tail[at + offset] ^= byte
        elif kind == "cut":
            del tail[at:]
        elif kind == "repeat":
            tail[at:at] = tail[at : at + 40]
        elif kind == "insert":
            tail[at:at] = extra
        else:
            del tail[at : at + len(extra)]
    return head + bytes(tail)


def check(data: bytes, cuts: list[int]) -> None:
    door = ManualDoor(message_bytes_max=1 << 20)
    other = door.peer()
    stream = other.open("/test.Echo/Stream")
    other.sync()
    raw: RawPeer = door.raw()
    at = 0
    for cut in sorted(cut % (len(data) + 1) for cut in cuts):
        raw.feed(data[at:cut], run=cut % 2 == 0)
        at = cut
    raw.feed(data[at:])
    other.send(stream, frame(b"untouched"), end=True)
    other.sync()
    assert other.messages(stream) == [b"untouched"]
    assert other.answer(stream)["grpc-status"] == "0"
    assert door.counters()["bodies_bytes"] < 1 << 20
    door.manual.advance(130)  # everything that waits for more comes to its end in time
    raw.lose()
    other.lose()
    door.assert_empty()
    assert not door.manual.errors
    assert not door.errors


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(CORPUS), edits, st.lists(st.integers(0, 1 << 20), max_size=4))
def test_mutated_conversations(data: bytes, changes: list[tuple[str, int, bytes]], cuts: list[int]) -> None:
    check(mutate(data, changes), cuts)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.booleans(), st.lists(st.integers(0, 1 << 20), max_size=3))
@example(b"\0" * 100, True, [])
def test_noise(data: bytes, behind_the_preface: bool, cuts: list[int]) -> None:
    check((PREFACE + b"\0\0\0\4\0\0\0\0\0" if behind_the_preface else b"") + data, cuts)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 255), st.sampled_from([0, 1, 3, 5, 2, 1 << 31]), st.binary(max_size=40)),
        max_size=20,
    )
)
def test_well_formed_frames_of_nonsense(frames: list[tuple[int, int, int, bytes]]) -> None:
    opening = b"\x83\x86\x44\x0a/test.Echo"  # a field or two that HPACK understands
    data = PREFACE + b"\0\0\0\4\0\0\0\0\0"
    for kind, flags, stream, payload in frames:
        body = opening + payload if kind == 1 else payload
        data += len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body
    check(data, [])


def test_the_corpus_itself_is_valid() -> None:
    for data in CORPUS[:2]:
        door = ManualDoor()
        raw = door.raw()
        raw.feed(data)
        assert not raw.transport.closed
        assert door.counters()["requests_total"] >= 2
        raw.lose()
        door.assert_empty()
