"""Rows of the door's duties: floods, headers, sizes, pings, connections."""

import struct

import h2.events
import pytest
from door_side import BATCH, BURST, PREFACE, SILENT, STREAM, door, finish

from raftsched import limits
from raftsched.rpc.http2._h2 import Engine
from raftsched.testing.door_peer import H2Peer, ManualDoor, frame

__all__ = ["door"]  # fixtures

CALM = 11  # ENHANCE_YOUR_CALM


def raw_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


# -- floods


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


# -- headers


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


# -- message size and bodies in flight


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


# -- keepalive


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


# -- connections, streams, teardown


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
