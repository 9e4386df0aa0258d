"""A door without a network: a loop that is moved by hand, transports that are lists, and python-hyper `h2` as the client.

Time moves only by `ManualLoop.advance`; nothing here sleeps. Cold unary methods need a real loop: use `EchoDoor`.
"""

import heapq
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from raftsched.rpc.http2._h2 import Connection, Engine  # type: ignore[attr-defined]
from raftsched.testing.door import EchoDoor, make_engine

Headers = list[tuple[str, str]]


class _Timer:
    """What `call_at` gives."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualLoop:
    """The part of an event loop that `Engine` uses, driven by the test."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.errors: list[dict[str, Any]] = []
        self._ready: list[Callable[[], None]] = []
        self._timers: list[tuple[float, int, _Timer, Callable[[], None]]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self._ready.append(lambda: callback(*arguments))

    def call_at(self, when: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer()
        heapq.heappush(self._timers, (when, next(self._order), timer, callback))
        return timer

    def call_later(self, delay: float, callback: Callable[[], None]) -> _Timer:
        return self.call_at(self.now + delay, callback)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def run(self) -> None:
        """Until nothing is ready."""
        for _ in range(10_000):
            if not self._ready:
                return
            self._ready.pop(0)()
        raise AssertionError("the door never comes to rest")

    def turn(self) -> None:
        """What is ready now, and nothing that comes of it."""
        ready, self._ready = self._ready, []
        for work in ready:
            work()

    def advance(self, seconds: float) -> None:
        """Move the clock, firing timers at their instants."""
        end = self.now + seconds
        self.run()
        while self._timers and self._timers[0][0] <= end:
            when, _, timer, callback = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            if not timer.cancelled:
                callback()
                self.run()
        self.now = end


class FakeTransport:
    """Keeps what is written; `stuck` plays a peer that does not read."""

    def __init__(self, loop: ManualLoop, protocol: Any) -> None:
        self.loop = loop
        self.protocol = protocol
        self.written = bytearray()
        self.total = 0
        self.closed = False
        self.half_closed = False
        self.reading = True
        self.stuck = False
        self._pausing = False

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after the end"
        self.written += data
        self.total += len(data)
        if self.stuck and not self._pausing:
            self._pausing = True
            self.protocol.pause_writing()

    def unstick(self) -> None:
        self.stuck = False
        if self._pausing:
            self._pausing = False
            self.protocol.resume_writing()

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        pass

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 4711) if name == "peername" else None

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.loop.call_soon(self.protocol.connection_lost, None)

    abort = close


class RawPeer:
    """One connection: bytes in, bytes out."""

    def __init__(self, loop: ManualLoop, engine: Engine, *, grpc: bool = True, http: bool = True) -> None:
        self.loop = loop
        self.protocol = Connection(engine, None, False, grpc, http)
        self.transport = FakeTransport(loop, self.protocol)
        self.protocol.connection_made(self.transport)

    def feed(self, data: bytes, *, run: bool = True) -> None:
        """As the kernel would hand it over; nothing after the end of the connection."""
        view = memoryview(data)
        while view and not self.transport.closed:
            room = self.protocol.get_buffer(-1)
            part = view[: len(room)]
            room[: len(part)] = part
            self.protocol.buffer_updated(len(part))
            view = view[len(part) :]
        if run:
            self.loop.run()

    def take(self) -> bytes:
        """What the door wrote since the last time."""
        data = bytes(self.transport.written)
        self.transport.written.clear()
        return data

    def lose(self) -> None:
        """The client's machine is gone."""
        self.transport.close()
        self.loop.run()


class H2Peer(RawPeer):
    """A client that speaks through `h2`; `events` are all that came back."""

    def __init__(self, loop: ManualLoop, engine: Engine, *, window: int = 65_535, **serves: bool) -> None:
        super().__init__(loop, engine, **serves)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window, h2.settings.SettingCodes.ENABLE_PUSH: 0}
        )
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.acknowledge = True
        self.sync()

    def sync(self) -> None:
        """Exchange until both sides are silent."""
        for _ in range(100_000):
            out = self.h2.data_to_send()
            if out:
                self.feed(out)
            self.loop.run()
            answer = self.take()
            if not out and not answer:
                return
            if answer:
                self._receive(answer)
        raise AssertionError("never silent")

    def _receive(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived) and self.acknowledge and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def open(self, path: str, *extra: tuple[str, str], end: bool = False, headers: Headers | None = None) -> int:
        """A request's headers; the stream id."""
        stream = self.h2.get_next_available_stream_id()
        fields = headers or [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "door"),
            ("content-type", "application/grpc"), ("te", "trailers"),
        ]  # fmt: skip
        self.h2.send_headers(stream, [*fields, *extra], end_stream=end)
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Body bytes, in frames that fit, waiting for windows."""
        view = memoryview(data)
        while len(view) > 0:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(view))
            if not room:
                before = self.h2.local_flow_control_window(stream)
                self.sync()
                assert self.h2.local_flow_control_window(stream) > before, "no window"
                continue
            self.h2.send_data(stream, bytes(view[:room]), end_stream=end and room == len(view))
            view = view[room:]
        if not data:
            self.h2.send_data(stream, b"", end_stream=end)

    def call(self, path: str, body: bytes, *extra: tuple[str, str]) -> dict[str, str]:
        """A whole request; all headers and trailers of the answer, `body` and `reset` among them."""
        stream = self.open(path, *extra)
        self.send(stream, body, end=True)
        self.sync()
        return self.answer(stream)

    def answer(self, stream: int) -> dict[str, str]:
        """What came back on a stream so far."""
        found: dict[str, str] = {}
        body = bytearray()
        for event in self.events:
            if getattr(event, "stream_id", None) != stream:
                continue
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                found.update(event.headers)  # type: ignore[arg-type]
            elif isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.StreamReset):
                found["reset"] = str(int(event.error_code))
            elif isinstance(event, h2.events.StreamEnded):
                found["ended"] = "yes"
        found["body"] = body.decode("latin-1")
        return found

    def messages(self, stream: int) -> list[bytes]:
        """The gRPC messages that came back on a stream."""
        return list(unframe(self.answer(stream)["body"].encode("latin-1")))

    @property
    def goaway(self) -> h2.events.ConnectionTerminated | None:
        return next((event for event in self.events if isinstance(event, h2.events.ConnectionTerminated)), None)


class ManualDoor(EchoDoor):
    """The echo door on a manual loop. Keyword arguments go to `Engine`."""

    def __init__(self, **options: Any) -> None:
        self.manual = ManualLoop()
        self.peers: list[RawPeer] = []
        super().__init__(**options)
        self.loop.close()
        self.engine = make_engine(self, self.manual)  # type: ignore[arg-type]

    def peer(self, **options: Any) -> H2Peer:
        peer = H2Peer(self.manual, self.engine, **options)
        self.peers.append(peer)
        return peer

    def raw(self, **serves: bool) -> RawPeer:
        peer = RawPeer(self.manual, self.engine, **serves)
        self.peers.append(peer)
        return peer

    def counters(self) -> dict[str, int]:
        return self.engine.counters()

    def assert_empty(self) -> None:
        """Nothing is left of any connection."""
        self.manual.run()
        counters = self.counters()
        left = {name: counters[name] for name in ("connections", "streams", "streams_live", "bodies_bytes", "buffered_bytes")}
        assert not any(left.values()), left


def frame(*messages: bytes) -> bytes:
    """gRPC framing, uncompressed."""
    return b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in messages)


def unframe(body: bytes) -> Iterable[bytes]:
    """The messages of a body; AssertionError for an incomplete one."""
    at = 0
    while at < len(body):
        length = int.from_bytes(body[at + 1 : at + 5], "big")
        assert body[at] == 0
        assert len(body) >= at + 5 + length
        yield body[at + 5 : at + 5 + length]
        at += 5 + length
