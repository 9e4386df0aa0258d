"""Calls of the door's methods from within this process: what the JSON gateway makes of a request.

A handler cannot tell such a call from one that came over HTTP/2: it has a handle (below zero), metadata, a deadline, and it is answered
through the engine. Invariant: as the engine's: each call is answered at most once, a stream's handler hears of its end exactly once.
Must not know: JSON, HTTP.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from raftsched.errors import GrpcCode, StatusError
from raftsched.ports import StreamHandler

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Engine

T = TypeVar("T")
Certificate = dict[str, Any] | None
"""As `ssl` gives it. None, by default: a certificate names who speaks HTTP, not who calls; whoever takes them for one hands it over."""
Answered = Callable[[int, str, bytes], None]
"""(code, text, message): the end of a unary call; the message counts for code 0 only."""
DEADLINE: Final = (int(GrpcCode.DEADLINE_EXCEEDED), "context deadline exceeded")
CANCELED: Final = (int(GrpcCode.CANCELLED), "context canceled")
INTERNAL: Final = (int(GrpcCode.INTERNAL), "internal error")
STOPPING: Final = (int(GrpcCode.UNAVAILABLE), "server is shutting down")


class StreamSink(Protocol):
    """Who reads a local stream."""

    def on_message(self, message: bytes) -> bool:
        """False: no more room; `LocalStream.writable` says when there is again."""

    def on_finished(self, code: int, message: str) -> None: ...


class LocalCall:
    """A unary call: what a handler may ask of it, and `cancel` for who made it."""

    def __init__(
        self, owner: "LocalCalls", method: str, metadata: Mapping[str, str], peer: str, on_answer: Answered, certificate: Certificate
    ) -> None:
        self.handle = owner.next_handle(self)
        self.method = method
        self.deadline = 0.0
        self.peer = peer
        self._owner = owner
        self._metadata = metadata
        self._on_answer: Answered | None = on_answer
        self._certificate = certificate
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def can_be_cancelled(self) -> bool:
        """Whether it is under way, and giving it up would change anything."""
        return self._on_answer is not None and self._task is not None

    def metadata(self, name: str) -> str | None:
        return self._metadata.get(name)

    def peer_certificate(self) -> Certificate:
        return self._certificate

    def set_trailer(self, name: str, value: str | bytes) -> None:
        """HTTP has no place for it."""

    def begin(self, kind: str, handler: Any, message: bytes, timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        if timeout_s is not None:
            self.deadline = loop.time() + timeout_s
            self._timer = loop.call_later(timeout_s, self._expire)
        if kind == "unary":
            self._task = loop.create_task(self._run(handler, message))
            return
        try:
            handler([self.handle], [message])
        except Exception as error:  # as the engine: whatever a handler raises ends its call, not the loop
            self._owner.engine.report(self.method, error)
            self.end(*INTERNAL)

    async def _run(self, handler: Any, message: bytes) -> None:
        try:
            self.end(0, "", await handler(self, message))
        except StatusError as error:
            self.end(int(error.code), error.message)
        except asyncio.CancelledError:
            self.end(*CANCELED)
            raise
        except Exception as error:  # as the engine: whatever a handler raises ends its call, not the loop
            self._owner.engine.report(self.method, error)
            self.end(*INTERNAL)

    def end(self, code: int, text: str, message: bytes = b"") -> None:
        """The first end counts."""
        answered, self._on_answer = self._on_answer, None
        if answered is None:
            return
        self._owner.forget(self.handle)
        if self._timer is not None:
            self._timer.cancel()
        answered(code, text, message)

    def _expire(self) -> None:
        self.end(*DEADLINE)
        self.cancel()

    def cancel(self) -> None:
        """Whoever called is gone: nobody is told."""
        self._on_answer = None
        self._owner.forget(self.handle)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


class LocalStream:
    """A stream: `ports.Stream` for its handler; `send`, `close`, `writable` and `cancel` for who opened it."""

    def __init__(
        self, owner: "LocalCalls", method: str, metadata: Mapping[str, str], peer: str, sink: StreamSink, certificate: Certificate
    ) -> None:
        self.handle = owner.next_handle(self)
        self.method = method
        self.deadline = 0.0
        self.peer = peer
        self.queued_bytes = 0
        self._owner = owner
        self._metadata = metadata
        self._sink: StreamSink | None = sink
        self._certificate = certificate
        self._handler: StreamHandler | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, factory: Callable[[Any, str], StreamHandler], timeout_s: float | None) -> None:
        if timeout_s is not None:
            loop = asyncio.get_running_loop()
            self.deadline = loop.time() + timeout_s
            self._timer = loop.call_later(timeout_s, self.finish, *DEADLINE)
        handler = self._guarded(lambda: factory(self, self.method))
        if self._sink is not None:
            self._handler = handler
        elif handler is not None:
            asyncio.get_running_loop().call_soon(handler.on_closed, int(GrpcCode.CANCELLED))

    # -- for the handler

    def metadata(self, name: str) -> str | None:
        return self._metadata.get(name)

    def peer_certificate(self) -> Certificate:
        return self._certificate

    def set_trailer(self, name: str, value: str | bytes) -> None:
        """HTTP has no place for it."""

    def push(self, message: bytes) -> bool:
        return self._sink is not None and self._sink.on_message(message)

    def push_many(self, messages: Sequence[bytes]) -> bool:
        room = True
        for message in messages:
            room = self.push(message)
        return room

    def finish(self, code: int = 0, message: str = "") -> None:
        sink = self._end(code)
        if sink is not None:
            sink.on_finished(code, message)

    def reset(self, error_code: int = 8) -> None:
        self.finish(*CANCELED)

    # -- for who opened it

    def send(self, message: bytes) -> None:
        if self._handler is not None:
            handler = self._handler
            self._guarded(lambda: handler.on_messages([message]))

    def close(self) -> None:
        """There is nothing more to send."""
        if self._handler is not None:
            self._guarded(self._handler.on_half_close)

    def writable(self) -> None:
        if self._handler is not None:
            self._guarded(self._handler.on_writable)

    def cancel(self) -> None:
        """Whoever reads is gone."""
        self._end(int(GrpcCode.CANCELLED))

    def _guarded(self, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except StatusError as error:
            self.finish(int(error.code), error.message)
        except Exception as error:  # as the engine: whatever a handler raises ends its stream, not the loop
            self._owner.engine.report(self.method, error)
            self.finish(*INTERNAL)
        return None

    def _end(self, code: int) -> StreamSink | None:
        """Who is to be told, if this is the end. The handler hears of it when it has returned."""
        sink, self._sink = self._sink, None
        if sink is None:
            return None
        self._owner.forget(self.handle)
        if self._timer is not None:
            self._timer.cancel()
        handler, self._handler = self._handler, None
        if handler is not None:
            asyncio.get_running_loop().call_soon(handler.on_closed, code)
        return sink


class LocalCalls:
    """The calls of one engine that are under way."""

    def __init__(self, engine: "Engine") -> None:
        self.engine = engine
        self.stopping = False
        self._last = 0
        self._open: dict[int, LocalCall | LocalStream] = {}

    def __len__(self) -> int:
        return len(self._open)

    def next_handle(self, one: LocalCall | LocalStream) -> int:
        self._last -= 1
        self._open[self._last] = one
        return self._last

    def forget(self, handle: int) -> None:
        self._open.pop(handle, None)

    # -- for who calls

    def call(
        self,
        path: str,
        message: bytes,
        metadata: Mapping[str, str],
        on_answer: Answered,
        *,
        timeout_s: float | None = None,
        peer: str = "",
        certificate: Certificate = None,
    ) -> LocalCall:
        """`on_answer` may come before this returns."""
        call = LocalCall(self, path, metadata, peer, on_answer, certificate)
        found = self.engine.handler_of(path)
        if found is None:
            call.end(*self._unknown(path))
        else:
            call.begin(*found, message, timeout_s)
        return call

    def open(
        self,
        path: str,
        metadata: Mapping[str, str],
        sink: StreamSink,
        *,
        timeout_s: float | None = None,
        peer: str = "",
        certificate: Certificate = None,
    ) -> LocalStream:
        """`sink` may hear of the end before this returns."""
        stream = LocalStream(self, path, metadata, peer, sink, certificate)
        found = self.engine.handler_of(path)
        if found is None:
            stream.finish(*self._unknown(path))
        elif self.stopping:
            stream.finish(*STOPPING)
        else:
            stream.begin(found[1], timeout_s)
        return stream

    @staticmethod
    def _unknown(path: str) -> tuple[int, str]:
        service, _, method = path.lstrip("/").rpartition("/")
        return int(GrpcCode.UNIMPLEMENTED), f"unknown method {method} for service {service}"

    # -- for the engine

    def reply(self, handle: int, message: bytes) -> None:
        call = self._open.get(handle)
        if isinstance(call, LocalCall):
            call.end(0, "", message)

    def fail(self, handle: int, code: int, text: str) -> None:
        call = self._open.get(handle)
        if isinstance(call, LocalCall):
            call.end(code, text)
        elif call is not None:
            call.finish(code, text)

    def alive(self, handle: int) -> bool:
        return handle in self._open

    def metadata(self, handle: int, name: str) -> str | None:
        call = self._open.get(handle)
        return None if call is None else call.metadata(name)

    def deadline(self, handle: int) -> float:
        call = self._open.get(handle)
        return 0.0 if call is None else call.deadline

    def peer(self, handle: int) -> str:
        call = self._open.get(handle)
        return "" if call is None else call.peer

    def end_calls(self) -> None:
        """Nothing is waited for any more."""
        for one in list(self._open.values()):
            if isinstance(one, LocalCall):
                one.end(*STOPPING)
                one.cancel()

    def end_streams(self) -> None:
        """The server stops; what is opened from now on ends at once, until the engine listens again."""
        self.stopping = True
        for one in list(self._open.values()):
            if isinstance(one, LocalStream):
                one.finish(*STOPPING)
