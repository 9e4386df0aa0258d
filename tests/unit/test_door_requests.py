"""Rows of the door's duties: sniffing, requests, deadlines, trailers, cancellation, metadata."""

import base64

import h2.events
import pytest
from door_side import BATCH, PREFACE, SILENT, STREAM, door

from raftsched.testing.door_peer import Headers, ManualDoor, frame

__all__ = ["door"]  # fixtures


# -- sniffing


def test_settings_are_sent_only_after_the_whole_preface(door: ManualDoor) -> None:
    raw = door.raw()
    for byte in PREFACE[:-1]:
        raw.feed(bytes((byte,)))
        assert raw.take() == b""
    raw.feed(PREFACE[-1:])
    assert raw.take()[3] == 4  # a SETTINGS frame


@pytest.mark.parametrize("split", range(1, 30))
def test_http1_is_told_apart_whatever_the_reads(door: ManualDoor, split: int) -> None:
    raw = door.raw()
    request = b"PRIX /a HTTP/1.1\r\nhost: x\r\n\r\n" if split % 2 else b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    raw.feed(request[:split])
    raw.feed(request[split:])
    assert raw.take().startswith(b"HTTP/1.1 200")


def test_a_foreign_protocol_is_closed_without_a_word(door: ManualDoor) -> None:
    raw = door.raw()
    raw.feed(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert raw.transport.closed
    assert raw.take() == b""


def test_silence_before_the_first_request_is_limited(door: ManualDoor) -> None:
    raw, speaking = door.raw(), door.peer()
    raw.feed(b"PRI")
    door.manual.advance(25)
    assert raw.transport.closed
    assert not speaking.transport.closed


# -- requests


def headers(**changes: str) -> Headers:
    fields = {"method": "POST", "scheme": "http", "path": BATCH, "authority": "a"}
    plain = {"content_type": "application/grpc", "te": "trailers"}
    for name, value in changes.items():
        (fields if name in fields else plain)[name] = value
    return [(f":{n}", v) for n, v in fields.items()] + [(n.replace("_", "-"), v) for n, v in plain.items() if v]


TIMEOUT = "malformed grpc-timeout: "
NO_BASE64 = '"x-bin": illegal base64 data at input byte '


@pytest.mark.parametrize(
    ("changes", "http", "status", "text"),
    [
        ({"method": "GET"}, "405", "13", 'Received a HEADERS frame with :method "GET" which should be POST'),
        ({"content_type": "application/json"}, "415", "3", 'invalid gRPC request content-type "application/json"'),
        ({"content_type": ""}, "415", "3", 'invalid gRPC request content-type ""'),
        ({"content_type": "application/grpcx"}, "415", "3", 'invalid gRPC request content-type "application/grpcx"'),
        ({"path": "/a.B/C"}, "200", "12", "unknown service a.B"),
        ({"path": "/test.Echo/Nope"}, "200", "12", "unknown method Nope for service test.Echo"),
        ({"path": "/nope"}, "200", "12", 'malformed method name: "/nope"'),
        ({"path": "/test.Later/Any"}, "200", "12", "unknown method Any for service test.Later"),
        ({"grpc_timeout": "5x"}, "400", "13", f'{TIMEOUT}transport: timeout unit is not recognized: "5x"'),
        ({"grpc_timeout": "5"}, "400", "13", f'{TIMEOUT}transport: timeout string is too short: "5"'),
        ({"grpc_timeout": "123456789S"}, "400", "13", f'{TIMEOUT}transport: timeout string is too long: "123456789S"'),
        ({"grpc_timeout": "-1S"}, "400", "13", f'{TIMEOUT}strconv.ParseUint: parsing "-1": invalid syntax'),
        ({"x_bin": 'a"b\\'}, "400", "13", f'malformed binary metadata "a\\"b\\\\" in header {NO_BASE64}1'),
        ({"x_bin": "YQ=="}, "200", "0", ""),
        ({"x_bin": "YQ="}, "400", "13", f'malformed binary metadata "YQ=" in header {NO_BASE64}2'),
        ({"x_bin": "YWJjY"}, "400", "13", f'malformed binary metadata "YWJjY" in header {NO_BASE64}4'),
        ({"x_bin": "YQ==YQ=="}, "400", "13", f'malformed binary metadata "YQ==YQ==" in header {NO_BASE64}4'),
        ({"x_bin": "!", "grpc_timeout": "5"}, "400", "13", f'{TIMEOUT}transport: timeout string is too short: "5"'),
        ({"grpc_timeout": "5", "x_bin": "!"}, "400", "13", f'malformed binary metadata "!" in header {NO_BASE64}0'),
        ({"x_bin": "!" * 5000}, "400", "13", f'malformed binary metadata "{"!" * 300}" in header {NO_BASE64}0'),
        ({"x_bin": "a" + "\t" * 5000 + "a"}, "400", "13", 'malformed binary metadata "a' + "\\t" * 299 + f'" in header {NO_BASE64}1'),
        ({"grpc_encoding": "br"}, "200", "12", 'grpc: Decompressor is not installed for grpc-encoding "br"'),
    ],
)
def test_requests_that_are_none(door: ManualDoor, changes: dict[str, str], http: str, status: str, text: str) -> None:
    door.engine.add_unimplemented("test.Later")
    peer = door.peer()
    stream = peer.open("", headers=headers(**changes))
    peer.send(stream, frame(b"x"), end=True)
    peer.sync()
    answer = peer.answer(stream)
    assert (answer[":status"], answer["grpc-status"], answer.get("grpc-message", "")) == (http, status, text)
    assert answer.get("grpc-accept-encoding") == ("identity,gzip" if "grpc_encoding" in changes else None)
    assert door.batches == ([1] if status == "0" else [])


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("application/grpc", "application/grpc"),
        ("application/grpc+proto", "application/grpc+proto"),
        ("application/grpc;charset=utf-8", "application/grpc+charset=utf-8"),
        ("application/grpc+", "application/grpc"),
        ("application/grpc+" + "x" * 239, "application/grpc+" + "x" * 239),
        ("application/grpc+" + "x" * 240, "application/grpc"),
    ],
)
def test_content_types_of_grpc(door: ManualDoor, kind: str, told: str) -> None:
    """The answer has that of the request, also one that says no, and one on a stream."""
    peer = door.peer()
    for path, status in ((BATCH, "0"), (STREAM, "0"), ("/test.Echo/Nope", "12")):
        stream = peer.open("", headers=headers(path=path, content_type=kind, grpc_encoding="identity"))
        peer.send(stream, frame(b"x"), end=True)
        peer.sync()
        answer = peer.answer(stream)
        assert (answer["grpc-status"], answer["content-type"]) == (status, told)


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        (BATCH, b"", "2", "EOF"),
        (BATCH, frame(b"abc")[:6], "2", "unexpected EOF"),
        (BATCH, frame(b"abc")[:5], "2", "unexpected EOF"),
        (BATCH, frame(b"abc")[:3], "2", "EOF"),
        (STREAM, frame(b"abc")[:6], "13", "unexpected EOF"),
        (BATCH, b"\1" + frame(b"abc")[1:], "13", "grpc: compressed flag set with identity or empty encoding"),
        (BATCH, b"\2" + frame(b"abc")[1:], "13", "grpc: received unexpected payload format 2"),
        (STREAM, b"\xff" + frame(b"abc")[1:], "13", "grpc: received unexpected payload format 255"),
    ],
)
def test_bodies_that_are_none(door: ManualDoor, path: str, body: bytes, status: str, text: str) -> None:
    answer = door.peer().call(path, body)
    assert (answer["grpc-status"], answer["grpc-message"]) == (status, text)
    assert "ended" in answer


def test_unary_serves_the_first_of_two_messages_as_grpc_go_does(door: ManualDoor) -> None:
    peer = door.peer()
    answer = peer.call(BATCH, frame(b"one", b"two"))
    assert (answer["grpc-status"], answer["body"]) == ("0", "\0\0\0\0\3one")
    assert door.batches == [1]


def test_a_batch_is_one_call_per_path_and_tick_in_order(door: ManualDoor) -> None:
    peers = [door.peer() for _ in range(3)]
    for peer in peers:
        for number in range(10):
            peer.send(peer.open(BATCH), frame(b"%d" % number), end=True)
        peer.feed(peer.h2.data_to_send(), run=False)
    door.manual.run()
    assert door.batches == [30]
    for peer in peers:
        peer.sync()
        assert [peer.messages(stream) for stream in range(1, 21, 2)] == [[b"%d" % n] for n in range(10)]


def test_an_exception_fails_the_batch_and_nothing_else(door: ManualDoor) -> None:
    peer = door.peer()
    assert peer.call(BATCH, frame(b"raise"))["grpc-status"] == "13"
    assert peer.call(BATCH, frame(b"fine"))["grpc-status"] == "0"
    assert [where for where, _ in door.errors] == [BATCH]


# -- grpc-timeout


@pytest.mark.parametrize(("text", "seconds"), [("2S", 2), ("1500m", 1.5), ("900000u", 0.9), ("50000000n", 0.05), ("1M", 60), ("1H", 3600)])
def test_deadline_passes_on_the_instant(door: ManualDoor, text: str, seconds: float) -> None:
    peer = door.peer()
    stream = peer.open(BATCH, ("grpc-timeout", text))
    peer.send(stream, frame(b"hold"), end=True)
    peer.sync()
    (handle, _), start = door.held.pop(), door.manual.now
    assert door.engine.deadline(handle) == pytest.approx(start + seconds)
    door.manual.advance(seconds - 0.01)
    assert door.engine.alive(handle)
    door.manual.advance(0.03)
    peer.sync()
    answer = peer.answer(stream)
    assert (answer["grpc-status"], answer["grpc-message"]) == ("4", "context deadline exceeded")
    assert not door.engine.alive(handle)
    door.engine.reply(handle, b"late")
    peer.sync()
    assert peer.answer(stream) == answer


def test_deadline_of_a_stream_reaches_its_handler_once(door: ManualDoor) -> None:
    peer = door.peer()
    stream = peer.open(SILENT, ("grpc-timeout", "1S"))
    peer.sync()
    door.manual.advance(2)
    peer.sync()
    assert peer.answer(stream)["grpc-status"] == "4"
    assert door.closed == [4]
    peer.lose()
    assert door.closed == [4]


def test_a_time_that_is_over_already_is_not_served(door: ManualDoor) -> None:
    assert door.peer().call(BATCH, frame(b"x"), ("grpc-timeout", "0m"))["grpc-status"] == "4"
    assert door.batches == []


def test_many_deadlines_fire_each_at_its_time(door: ManualDoor) -> None:
    peer = door.peer()
    times = [7 * n % 400 for n in range(1, 200)]
    streams = [peer.open(SILENT, ("grpc-timeout", f"{time * 100}m")) for time in times]
    peer.sync()
    for second in range(41):
        peer.sync()
        over = [t for t, s in zip(times, streams, strict=True) if "ended" in peer.answer(s)]
        assert sorted(over) == sorted(t for t in times if t * 100 <= second * 1000 - 20 or t == 0 or (t * 100 < second * 1000))
        door.manual.advance(1)


# -- trailers


def test_error_is_trailers_only_and_percent_encoded(door: ManualDoor) -> None:
    peer = door.peer()
    answer = peer.call(BATCH, frame("fail:5:50 % ö\n~".encode()))
    assert answer["grpc-message"] == "50 %25 %C3%B6%0A~"
    assert (answer[":status"], answer["grpc-status"], answer["content-type"]) == ("200", "5", "application/grpc")
    assert not any(isinstance(event, h2.events.TrailersReceived | h2.events.DataReceived) for event in peer.events)


def test_status_behind_messages_comes_as_trailers(door: ManualDoor) -> None:
    peer = door.peer()
    stream = peer.open(STREAM)
    peer.send(stream, frame(b"a", b"finish:10:stop"))
    peer.sync()
    assert peer.messages(stream) == [b"a"]
    assert peer.answer(stream)["grpc-status"] == "10"
    assert peer.answer(stream)["reset"] == "0"  # the rest of the request is not wanted
    assert door.closed == [10]


# -- cancel


def test_reset_reaches_the_handler_once(door: ManualDoor) -> None:
    peer = door.peer()
    stream = peer.open(STREAM)
    peer.send(stream, frame(b"a"))
    peer.sync()
    peer.h2.reset_stream(stream, 8)
    peer.sync()
    assert door.closed == [1]
    peer.lose()
    assert door.closed == [1]


def test_loss_of_the_connection_ends_every_stream_once(door: ManualDoor) -> None:
    peer = door.peer()
    for _ in range(5):
        peer.open(SILENT)
    peer.sync()
    peer.lose()
    assert door.closed == [1] * 5


def test_a_stream_that_came_and_went_in_one_read_makes_no_handler(door: ManualDoor) -> None:
    peer = door.peer()
    stream = peer.open(STREAM)
    peer.h2.reset_stream(stream, 8)
    peer.sync()
    assert door.closed == []


def test_handles_of_an_old_generation_are_ignored(door: ManualDoor) -> None:
    peer = door.peer()
    first = peer.open(BATCH)
    peer.send(first, frame(b"hold"), end=True)
    peer.sync()
    old = door.held.pop()[0]
    peer.h2.reset_stream(first, 8)
    second = peer.open(BATCH)
    peer.send(second, frame(b"hold"), end=True)
    peer.sync()
    new = door.held.pop()[0]
    assert new != old
    assert new & 0xFFFFFF == old & 0xFFFFFF  # the same slot
    door.engine.reply(old, b"wrong")
    door.engine.fail(old, 5, "wrong")
    assert door.engine.metadata(old, "te") is None
    door.engine.reply(new, b"right")
    door.engine.reply(new, b"again")
    peer.sync()
    assert peer.messages(second) == [b"right"]


@pytest.mark.parametrize("handle", [0, -1, 1, 1 << 62, -(1 << 62), 5 << 24])
def test_handles_that_never_were(door: ManualDoor, handle: int) -> None:
    door.engine.reply(handle, b"x")
    assert not door.engine.alive(handle)


def test_reset_after_the_answer_was_queued_frees_it(door: ManualDoor) -> None:
    peer = door.peer(window=10)
    peer.acknowledge = False
    stream = peer.open(BATCH)
    peer.send(stream, frame(bytes(100_000)), end=True)
    peer.sync()
    assert door.counters()["buffered_bytes"] > 90_000
    peer.h2.reset_stream(stream, 8)
    peer.sync()
    assert door.counters()["buffered_bytes"] == 0


# -- metadata


def test_metadata(door: ManualDoor) -> None:
    peer = door.peer()
    padded = base64.b64encode(b"\0\xff\x01").decode()
    extra = [("token", "abc.1"), ("hasleader", "true"), ("client-api-version", "3.6"), ("authorization", "Bearer x")]
    extra += [("a-bin", base64.b64encode(b"\xff\xfe\x01\x02").decode()), ("b-bin", padded.rstrip("="))]
    extra += [("twice", "first"), ("twice", "second")]
    extra += [(f"x-{n}", str(n)) for n in range(50)]
    expected = {
        "token": "abc.1", "hasleader": "true", "client-api-version": "3.6", "authorization": "Bearer x", "a-bin": "\xff\xfe\x01\x02",
        "b-bin": "\0\xff\x01", "twice": "first", "x-49": "49", "absent": "-", "TOKEN": "abc.1", ":authority": "door",
    }  # fmt: skip
    for name, value in expected.items():
        answer = peer.call(BATCH, frame(b"meta:" + name.encode()), *extra)
        assert answer["body"][5:] == value, name


def test_metadata_of_many_calls(door: ManualDoor) -> None:
    seen: list[list[str | None] | None] = []

    def handler(handles: list[int], messages: list[bytes]) -> None:
        seen.append(door.engine.metadata_many(handles, b"client-api-version"))
        seen.append(door.engine.metadata_many([*handles, 1 << 40], b"x"))
        door.engine.reply_many(handles, messages)

    door.engine.add_batch("/t.Test/Many", handler)
    peer = door.peer()
    peer.call("/t.Test/Many", frame(b"none"))
    peer.call("/t.Test/Many", frame(b"both"), ("client-api-version", "3.6"), ("x", "y"))
    assert seen == [None, None, ["3.6"], ["y", None]]
