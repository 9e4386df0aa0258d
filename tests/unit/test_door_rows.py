"""One test (or more) for each row of the door's table of duties, on a loop that is moved by hand."""

import base64
import struct
from collections.abc import Iterator

import h2.events
import pytest

from raftsched import limits
from raftsched.rpc.http2._h2 import Engine, Stream
from raftsched.testing.door_peer import H2Peer, Headers, ManualDoor, frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BATCH, STREAM, BURST, SILENT = (f"/test.Echo/{name}" for name in ("Batch", "Stream", "Burst", "Silent"))
CALM = 11  # ENHANCE_YOUR_CALM


@pytest.fixture
def door() -> Iterator[ManualDoor]:
    """Whatever a test does, nothing of its connections may be left."""
    with_connections = ManualDoor()
    yield with_connections
    finish(with_connections)


def finish(door: ManualDoor) -> None:
    for connection in list(door.peers):
        connection.lose()
    door.assert_empty()
    assert not door.manual.errors


def raw_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


# -- sniffing ---------------------------------------------------------------------------------------------------------


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


# -- requests ---------------------------------------------------------------------------------------------------------


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


# -- grpc-timeout --------------------------------------------------------------------------------------------------------


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


# -- trailers -----------------------------------------------------------------------------------------------------------


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


# -- cancel ---------------------------------------------------------------------------------------------------------------


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


# -- floods ----------------------------------------------------------------------------------------------------------------


def test_floods_of_resets_end_the_connection_only(door: ManualDoor) -> None:
    other, peer = door.peer(), door.peer()
    for _ in range(12_000):
        if peer.goaway is not None:
            break
        stream = peer.open(STREAM)
        peer.h2.reset_stream(stream, 8)
        if stream % 500 == 1:
            peer.sync()
    assert peer.goaway is not None
    assert (peer.goaway.error_code, peer.goaway.additional_data) == (CALM, b"too_many_resets")
    assert peer.transport.closed
    assert other.call(BATCH, frame(b"x"))["grpc-status"] == "0"
    assert door.counters()["floods_total"] == 1


def flood(door: ManualDoor, data: bytes) -> tuple[int, bytes]:
    """Feeds a fresh connection until it ends; code and reason of its GOAWAY."""
    other, peer = door.peer(), door.peer()
    for _ in range(400):
        if peer.transport.closed:
            break
        peer.feed(data)
    assert peer.transport.closed, "never ended"
    answer = peer.take()
    at = next(i for i in range(len(answer)) if answer[i + 3] == 7 and answer[i + 4] == 0 and answer[i + 5 : i + 9] == bytes(4))
    length = int.from_bytes(answer[at : at + 3], "big")
    assert other.call(BATCH, frame(b"x"))["grpc-status"] == "0"
    return struct.unpack(">I", answer[at + 13 : at + 17])[0], answer[at + 17 : at + 9 + length]


def test_ping_flood(door: ManualDoor) -> None:
    assert flood(door, raw_frame(6, 0, 0, b"12345678")) == (CALM, b"too_many_pings")


def test_settings_flood(door: ManualDoor) -> None:
    assert flood(door, raw_frame(4, 0, 0) * 200) == (CALM, b"too_many_control_frames")


def test_settings_flood_in_one_read_is_ended_by_the_queue_of_acks(door: ManualDoor) -> None:
    peer = door.peer()
    peer.feed(raw_frame(4, 0, 0) * 5_000)
    assert peer.transport.closed
    assert door.counters()["floods_total"] == 1


def test_window_update_flood(door: ManualDoor) -> None:
    assert flood(door, raw_frame(8, 0, 0, struct.pack(">I", 1)) * 200) == (CALM, b"too_many_control_frames")


def test_priority_and_unknown_frame_floods(door: ManualDoor) -> None:
    assert flood(door, raw_frame(2, 0, 1, b"\0\0\0\0\x10") * 200) == (CALM, b"too_many_control_frames")


def test_empty_data_flood(door: ManualDoor) -> None:
    peer = door.peer()
    stream = peer.open(SILENT)
    peer.sync()
    for _ in range(400):
        if peer.transport.closed:
            break
        peer.feed(raw_frame(0, 0, stream) * 100)
    assert b"too_many_control_frames" in peer.take()
    assert door.closed == [1]


def test_window_updates_of_a_reading_client_are_no_flood(door: ManualDoor) -> None:
    """One per DATA frame for 50 000 frames: what a client with a small window does."""
    peer = door.peer()
    stream = peer.open(BURST)
    peer.send(stream, frame(b"50000 600"), end=True)
    peer.sync()
    assert peer.answer(stream)["grpc-status"] == "0"


# -- headers ----------------------------------------------------------------------------------------------------------------


def test_header_list_of_8_kib_passes_and_beyond_the_limit_it_fails(door: ManualDoor) -> None:
    peer = door.peer()
    assert peer.call(BATCH, frame(b"x"), ("x-large", "v" * 8_192))["grpc-status"] == "0"
    refused = peer.call(BATCH, frame(b"x"), ("x-a", "v" * 9_000), ("x-b", "v" * 9_000))
    assert (refused[":status"], refused["grpc-status"]) == ("431", "8")
    assert peer.call(BATCH, frame(b"x"))["grpc-status"] == "0"


def test_the_limit_holds_for_the_decoded_size(door: ManualDoor) -> None:
    """Indexed fields: one byte on the wire, kilobytes decoded."""
    peer = door.peer()
    peer.call(BATCH, frame(b"x"), ("x-large", "v" * 3_000))
    small = len(peer.h2.data_to_send())
    refused = peer.call(BATCH, frame(b"x"), *[("x-large", "v" * 3_000)] * 8)
    assert small == 0
    assert refused["grpc-status"] == "8"
    peer.open(BATCH, *[("x-large", "v" * 3_000)] * 60)
    peer.sync()
    assert peer.goaway is not None
    assert peer.goaway.error_code == CALM


def test_continuation_flood_ends_the_connection(door: ManualDoor) -> None:
    raw = door.raw()
    raw.feed(PREFACE + raw_frame(4, 0, 0))
    raw.feed(raw_frame(1, 0, 1, b"\x82"))
    for _ in range(50):
        raw.feed(raw_frame(9, 0, 1, b""))
    assert raw.transport.closed


# -- message size and bodies in flight ------------------------------------------------------------------------------------------


def test_size_is_checked_before_allocation() -> None:
    door = ManualDoor(message_bytes_max=1_000)
    peer = door.peer()
    stream = peer.open(BATCH)
    peer.send(stream, b"\0\x7f\xff\xff\xff")
    peer.sync()
    answer = peer.answer(stream)
    assert (answer["grpc-status"], answer["grpc-message"]) == ("8", "grpc: received message larger than max (2147483647 vs. 1000)")
    assert peer.call(BATCH, frame(bytes(1_000)))["grpc-status"] == "0"
    assert peer.call(BATCH, frame(bytes(1_001)))["grpc-message"] == "grpc: received message larger than max (1001 vs. 1000)"
    finish(door)


def test_memory_follows_what_arrived_not_what_was_announced() -> None:
    door = ManualDoor(message_bytes_max=2**31 - 1)
    peer = door.peer()
    stream = peer.open(SILENT)
    peer.send(stream, b"\0\x7f\xff\xff\xff" + bytes(50_000))
    peer.sync()
    assert 50_000 <= door.counters()["bodies_bytes"] < 100_000
    peer.h2.reset_stream(stream, 8)
    peer.sync()
    assert door.counters()["bodies_bytes"] == 0
    finish(door)


def test_bodies_in_flight_are_bounded_in_total() -> None:
    door = ManualDoor(bodies_bytes_max=100_000)
    peers = [door.peer() for _ in range(3)]
    streams = [peer.open(BATCH) for peer in peers]
    for peer, stream in zip(peers, streams, strict=True):
        peer.send(stream, frame(bytes(60_000))[:50_000])
        peer.sync()
    answers = [peer.answer(stream).get("grpc-status") for peer, stream in zip(peers, streams, strict=True)]
    assert answers == [None, "8", "8"]
    peers[0].send(streams[0], bytes(10_005), end=True)
    peers[0].sync()
    assert peers[0].answer(streams[0])["grpc-status"] == "0"
    assert peers[1].call(BATCH, frame(bytes(60_000)))["grpc-status"] == "0"
    finish(door)


def test_streams_are_bounded_by_memory_and_refused_before_processing() -> None:
    door = ManualDoor(bodies_bytes_max=100 * 1024)
    peer = door.peer()
    streams = [peer.open(SILENT) for _ in range(120)]
    peer.sync()
    refused = [stream for stream in streams if peer.answer(stream).get("reset") == "7"]
    assert refused == streams[100:]
    finish(door)


# -- back-pressure ----------------------------------------------------------------------------------------------------------------


def test_push_stops_and_goes_on(door: ManualDoor) -> None:
    peer = door.peer()
    peer.acknowledge = False
    stream = peer.open(BURST)
    peer.send(stream, frame(b"10000 1000"), end=True)
    peer.sync()
    assert door.stopped == 1
    assert door.counters()["buffered_bytes"] < 400_000
    peer.acknowledge = True
    taken = sum(e.flow_controlled_length for e in peer.events if isinstance(e, h2.events.DataReceived))
    peer.h2.acknowledge_received_data(taken, stream)
    peer.sync()
    assert len(peer.messages(stream)) == 10_000
    assert door.stopped > 5
    assert peer.answer(stream)["grpc-status"] == "0"


def test_a_transport_that_cannot_write_stops_collection(door: ManualDoor) -> None:
    peer = door.peer(window=2**31 - 1)
    peer.h2.increment_flow_control_window(2**30)
    peer.sync()
    peer.transport.stuck = True
    stream = peer.open(BURST)
    peer.send(stream, frame(b"20000 1000"), end=True)
    peer.feed(peer.h2.data_to_send())
    door.manual.run()
    assert len(peer.transport.written) < 1_200_000
    assert door.counters()["buffered_bytes"] < 1_600_000
    peer.transport.unstick()
    peer.sync()
    assert len(peer.messages(stream)) == 20_000


def test_windows_come_back_with_delivery_only(door: ManualDoor) -> None:
    """A peer that does not read its answers is not listened to: its messages stay in its own buffers."""
    peer = door.peer()
    peer.acknowledge = False
    stream = peer.open(STREAM)
    with pytest.raises(AssertionError, match="no window"):
        peer.send(stream, frame(bytes(60_000)) * 400)
    peer.sync()
    counters = door.counters()
    assert counters["buffered_bytes"] < 6 << 20
    assert counters["bodies_bytes"] < 3 << 20


def test_a_megabyte_message_passes_a_small_window(door: ManualDoor) -> None:
    peer = door.peer()
    answer = peer.call(BATCH, frame(bytes(range(256)) * 7_000))
    assert answer["body"][5:] == (bytes(range(256)) * 7_000).decode("latin-1")


def test_requests_wait_while_answers_are_not_read() -> None:
    door = ManualDoor(message_bytes_max=1 << 22)
    peer = door.peer(window=1)
    peer.acknowledge = False
    for _ in range(40):
        stream = peer.open(BATCH)
        peer.send(stream, frame(bytes(3 << 20)), end=True)
        peer.sync()
    assert door.counters()["buffered_bytes"] < 80 << 20
    assert sum(door.batches) < 40
    finish(door)


def test_incoming_messages_of_a_tick_are_one_list(door: ManualDoor) -> None:
    peer = door.peer()
    stream = peer.open(SILENT)
    peer.send(stream, frame(*[b"m"] * 200))
    peer.sync()
    assert sum(door.lists) == 200
    assert len(door.lists) <= 2


def test_streams_take_turns_when_time_is_up(door: ManualDoor) -> None:
    """Their messages take 1 ms each here: a tick ends with the first look at the clock, every call waits one of them at most."""
    served: list[bytes] = []

    class Slow:
        def __init__(self, stream: Stream, method: str) -> None:
            self.stream = stream

        def on_messages(self, messages: list[bytes]) -> None:
            door.manual.now += 0.001 * len(messages)
            served.extend(messages)

        def on_half_close(self) -> None:
            self.stream.finish()

        def on_writable(self) -> None: ...

        def on_closed(self, status: int) -> None: ...

    door.engine.add_stream("/t.Test/Slow", Slow)
    peer = door.peer()
    streams = [peer.open("/t.Test/Slow") for _ in range(50)]
    for at, stream in enumerate(streams):
        peer.send(stream, frame(*[b"%d" % at] * 16), end=True)
    peer.send(peer.open(BATCH), frame(b"x"), end=True)
    peer.feed(peer.h2.data_to_send(), run=False)
    door.manual.turn()
    assert (len(served), door.batches) == (64, [1])
    door.manual.turn()
    assert len(served) == 128
    peer.sync()
    assert served == [b"%d" % at for at in range(50) for _ in range(16)]
    assert {peer.answer(stream)["grpc-status"] for stream in streams} == {"0"}


def test_who_reads_nothing_of_the_end_is_not_waited_for() -> None:
    door = ManualDoor(server_ping_timeout_ms=2_000)
    peer = door.peer()
    transport = peer.transport
    transport.close = lambda: setattr(transport, "closed", True)  # type: ignore[method-assign]  # what is written waits for the client
    transport.abort = lambda: door.manual.call_soon(peer.protocol.connection_lost, None)  # type: ignore[method-assign]
    peer.feed(bytes((0, 0, 0, 4, 0, 0, 0, 0, 1)))  # SETTINGS of a stream
    assert transport.closed
    for _ in range(4):
        door.manual.advance(1.5)
        assert len(transport.written) > 1
        assert door.counters()["connections"] == 1
        del transport.written[:1]
    door.manual.advance(3.5)
    door.assert_empty()


def test_many_messages_of_streams_take_turns(door: ManualDoor) -> None:
    """Each may be as dear as a call: a window full of creations of watches in one tick would hold everything else up."""
    peers = [door.peer() for _ in range(8)]
    streams = [peer.open(SILENT) for peer in peers]
    for peer in peers:
        peer.sync()
    for peer, stream in zip(peers, streams, strict=True):
        peer.send(stream, frame(*[b"m"] * 2_000))
        peer.feed(peer.h2.data_to_send(), run=False)
    assert door.lists == []
    door.manual.turn()
    assert len(door.lists) == 8
    assert max(door.lists) == 256
    assert sum(door.lists) == 4 * 256 + 4 * 16
    door.manual.run()
    assert sum(door.lists) == 16_000
    for peer in peers:
        peer.sync()


def test_the_end_and_the_order_survive_the_turns(door: ManualDoor) -> None:
    peer = door.peer(window=1 << 20)
    stream = peer.open(STREAM)
    sent = [b"%d" % number for number in range(3_000)]
    peer.send(stream, frame(*sent), end=True)
    peer.sync()
    assert max(door.lists) == 256
    assert peer.messages(stream) == sent
    assert peer.answer(stream)["grpc-status"] == "0"


def test_what_waits_for_its_turn_goes_with_its_client(door: ManualDoor) -> None:
    peer = door.peer()
    stream = peer.open(SILENT)
    peer.sync()
    peer.send(stream, frame(*[b"m"] * 2_000))
    peer.feed(peer.h2.data_to_send(), run=False)
    door.manual.turn()
    assert door.lists == [256]
    peer.lose()
    assert len(door.closed) == 1
    assert door.counters()["bodies_bytes"] == 0


# -- keepalive -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_stream", [False, True])
@pytest.mark.parametrize("seconds", [5, 10])
def test_pings_in_time_are_tolerated(door: ManualDoor, seconds: int, with_stream: bool) -> None:
    peer = door.peer()
    if with_stream:
        peer.open(SILENT)
    for _ in range(50):
        peer.h2.ping(b"12345678")
        peer.sync()
        door.manual.advance(seconds)
    assert peer.goaway is None
    assert sum(isinstance(event, h2.events.PingAckReceived) for event in peer.events) == 50


def test_pings_too_often_are_not(door: ManualDoor) -> None:
    peer = door.peer()
    sent = 0
    while peer.goaway is None:
        sent += 1
        peer.h2.ping(b"12345678")
        peer.sync()
        door.manual.advance(1)
    assert (peer.goaway.error_code, peer.goaway.additional_data) == (CALM, b"too_many_pings")
    assert sent == 4  # the first, two strikes forgiven, the third
    assert peer.transport.closed


def test_answers_in_between_wipe_the_strikes(door: ManualDoor) -> None:
    peer = door.peer()
    for _ in range(20):
        peer.call(BATCH, frame(b"x"))
        peer.h2.ping(b"12345678")
        peer.sync()
    assert peer.goaway is None


def test_server_pings_an_idle_connection_and_closes_a_dead_one() -> None:
    door = ManualDoor(server_ping_idle_ms=3_000, server_ping_timeout_ms=5_000)
    alive, dead = door.peer(), door.peer()
    for _ in range(20):
        door.manual.advance(1)
        alive.sync()
    assert not alive.transport.closed
    assert dead.transport.closed
    assert sum(isinstance(event, h2.events.PingReceived) for event in alive.events) >= 4
    finish(door)


# -- metadata ------------------------------------------------------------------------------------------------------------------


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


# -- connections, streams, teardown -------------------------------------------------------------------------------------------------


def test_settings_announce_the_limits(door: ManualDoor) -> None:
    settings = door.peer().h2.remote_settings
    assert settings.max_concurrent_streams == limits.STREAMS_MAX
    assert settings.max_header_list_size == 16_384


def test_connections_are_limited_by_option() -> None:
    door = ManualDoor(connections_max=2)
    first, second = door.peer(), door.peer()
    third = door.raw()
    assert third.transport.closed
    assert not first.transport.closed
    second.lose()
    assert not door.peer().transport.closed
    finish(door)


def test_ten_thousand_broken_connections_leave_nothing(door: ManualDoor) -> None:
    recorder = H2Peer(door.manual, ManualDoor().engine)
    recorder.h2.clear_outbound_data_buffer()
    request = PREFACE + raw_frame(4, 0, 0)
    stream = recorder.open(STREAM, ("grpc-timeout", "9S"), ("x-meta", "v"))
    body = recorder.h2.data_to_send()
    request += body + raw_frame(0, 0, stream, frame(b"one", bytes(100))[:60])
    for cut in range(10_000):
        raw = door.raw()
        raw.feed(request[: 24 + cut % (len(request) - 23)], run=cut % 3 != 0)
        raw.lose()
        door.peers.clear()
    door.assert_empty()


def test_wrong_registrations_are_refused() -> None:
    engine = ManualDoor().engine
    with pytest.raises(ValueError, match="handler already"):
        engine.add_batch(BATCH, lambda handles, messages: None)
    with pytest.raises(ValueError, match="not /package"):
        engine.add_batch("nonsense", lambda handles, messages: None)
    assert isinstance(engine, Engine)
