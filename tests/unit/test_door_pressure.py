"""Rows of the door's duties: back-pressure and turns."""

import h2.events
import pytest
from door_side import BATCH, BURST, SILENT, STREAM, door, finish

from raftsched.rpc.http2._h2 import Stream
from raftsched.testing.door_peer import ManualDoor, frame

__all__ = ["door"]  # fixtures


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
