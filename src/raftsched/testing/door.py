"""A door with echoing methods, on a loop in a thread: what the door's tests and benchmarks talk to.

Methods of `test.Echo`: Batch (hot unary), Unary (cold; see `_unary`), Stream (bidi, one answer per message), Burst
(server stream: "<count> <size>" as request), Silent (bidi that never answers). Everything else is unknown.
"""

import asyncio
import re
import ssl
import threading
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from raftsched.errors import GrpcCode, StatusError
from raftsched.rpc.http2._h2 import Call, Engine, HttpRequest, Stream

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Guard

T = TypeVar("T")


class EchoHandler:
    """Bidi: answers each message with itself."""

    def __init__(self, door: "EchoDoor", stream: Stream) -> None:
        self.door = door
        self.stream = stream

    def on_messages(self, messages: Sequence[bytes]) -> None:
        self.door.lists.append(len(messages))
        for message in messages:
            if message.startswith(b"finish:"):
                _, code, text = message.decode().split(":", 2)
                self.stream.finish(int(code), text)
                return
            self.stream.push(message)

    def on_half_close(self) -> None:
        self.stream.finish()

    def on_writable(self) -> None:
        self.door.writable += 1

    def on_closed(self, code: int) -> None:
        self.door.closed.append(code)


class SilentHandler(EchoHandler):
    """Takes messages, never answers."""

    def on_messages(self, messages: Sequence[bytes]) -> None:
        self.door.lists.append(len(messages))

    def on_half_close(self) -> None:
        pass


class BurstHandler(EchoHandler):
    """Pushes while there is room; goes on when told so."""

    left = 0
    payload = b""

    def on_messages(self, messages: Sequence[bytes]) -> None:
        match = re.fullmatch(rb"(\d{1,6}) (\d{1,6})", messages[0])
        if match is None:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, "not <count> <size>")
        self.left, self.payload = int(match[1]), bytes(int(match[2]))
        self.on_writable()

    def on_half_close(self) -> None:
        pass

    def on_writable(self) -> None:
        self.door.writable += 1
        while self.left:
            self.left -= 1
            if not self.stream.push(self.payload):
                self.door.stopped += 1
                return
        self.stream.finish()


class FixedGuard:
    """A `Guard` with one context, who lets everybody in and notes who did not get so far."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.causes: list[str] = []

    def context(self) -> ssl.SSLContext:
        return self._context

    def objection(self, tls: ssl.SSLObject) -> str:
        return ""

    def refused(self, peer: str, cause: str) -> None:
        self.causes.append(cause)


class EchoDoor:
    """`with EchoDoor(...) as door:` then connect to 127.0.0.1:door.port. Keyword arguments go to `Engine`."""

    def __init__(
        self, *, context: ssl.SSLContext | None = None, guard: "Guard | None" = None, plaintext_too: bool = False, **options: Any
    ) -> None:
        self.options = options
        self.guard = FixedGuard(context) if context is not None else guard
        self.plaintext_too = plaintext_too
        self.closed: list[int] = []
        self.lists: list[int] = []
        self.batches: list[int] = []
        self.errors: list[tuple[str, BaseException]] = []
        self.cancelled = self.started = self.writable = self.stopped = 0
        self.deadlines: list[float] = []
        self.held: list[tuple[int, bytes]] = []
        self.requests: list[HttpRequest] = []
        self.engine: Engine
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> "EchoDoor":
        self._thread.start()
        self.run(self.open())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.engine.drain(200))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run on the door's loop, from the test's thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    async def open(self) -> None:
        """Make the engine and listen, on the running loop."""
        loop = asyncio.get_running_loop()
        self.engine = make_engine(self, loop)
        server = await self.engine.listen("127.0.0.1", 0, guard=self.guard, plaintext_too=self.plaintext_too)
        self.port = server.sockets[0].getsockname()[1]

    def counters(self) -> dict[str, int]:
        async def ask() -> dict[str, int]:
            return self.engine.counters()

        return self.run(ask())

    def batch(self, handles: list[int], messages: list[bytes]) -> None:
        self.batches.append(len(handles))
        for handle, message in zip(handles, messages, strict=True):
            if message == b"hold":
                self.held.append((handle, message))
            elif message == b"raise":
                raise RuntimeError("asked for")
            elif message.startswith(b"fail:"):
                _, code, text = message.decode().split(":", 2)
                self.engine.fail(handle, int(code), text)
            elif message.startswith(b"meta:"):
                self.engine.reply(handle, (self.engine.metadata(handle, message[5:].decode()) or "-").encode("latin-1"))
            else:
                self.engine.reply(handle, message)

    def fast(self, handles: list[int], messages: list[bytes]) -> None:
        """What a benchmark calls: an echo in one call."""
        self.batches.append(len(handles))
        self.engine.reply_many(handles, messages)

    async def unary(self, call: Call, message: bytes) -> bytes:
        """`sleep`, `fail:<code>:<text>`, `raise`, `meta:<name>`, `peer`, `deadline`, `trailer`, `reply:<size>`, else an echo."""
        self.started += 1
        word, _, rest = message[:200].decode("latin-1").partition(":")
        if word == "sleep":
            await self._sleep()
        if word == "fail":
            code, _, text = rest.partition(":")
            raise StatusError(GrpcCode(int(code)), text)
        if word == "raise":
            raise RuntimeError("asked for")
        answers = {"peer": call.peer, "certificate": str(call.peer_certificate()), "deadline": str(call.deadline - self.loop_time())}
        if word == "meta":
            return (call.metadata(rest) or "-").encode("latin-1")
        if word == "trailer":
            call.set_trailer("x-note", "hello")
            call.set_trailer("x-note-bin", b"\x00\xff")
        if word == "reply":
            return bytes(int(rest))
        return answers[word].encode() if word in answers else message

    async def _sleep(self) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def loop_time(self) -> float:
        return asyncio.get_running_loop().time()

    def on_http(self, request: HttpRequest) -> None:
        if request.target == "/raise":
            raise RuntimeError("asked for")
        if request.target == "/hold":
            self.requests.append(request)
            return
        request.respond(200, [("content-type", "text/plain")], f"{request.method} {request.target} ".encode() + request.body)


def make_engine(door: EchoDoor, loop: asyncio.AbstractEventLoop) -> Engine:
    """The engine of an `EchoDoor`."""
    options = {"on_http": door.on_http, "on_error": lambda where, error: door.errors.append((where, error)), **door.options}
    engine = Engine(loop, **options)
    engine.add_batch("/test.Echo/Batch", door.batch)
    engine.add_batch("/test.Echo/Fast", door.fast)
    engine.add_unary("/test.Echo/Unary", door.unary)
    engine.add_stream("/test.Echo/Stream", lambda stream, path: EchoHandler(door, stream))
    engine.add_stream("/test.Echo/Burst", lambda stream, path: BurstHandler(door, stream))
    engine.add_stream("/test.Echo/Silent", lambda stream, path: SilentHandler(door, stream))
    return engine
