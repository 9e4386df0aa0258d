"""Methods that are registered with an engine and counted as the etcd services are: for services that know nothing of metrics.

Must not know: what a method does.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from raftsched.errors import GrpcCode, StatusError
from raftsched.ports import StreamHandler
from raftsched.rpc.metrics import GrpcStats, MethodStats

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call, Engine


def counted(stats: MethodStats, handler: "Callable[[Call, bytes], Awaitable[bytes]]") -> "Callable[[Call, bytes], Awaitable[bytes]]":
    """A unary method, counted: one answer per request, and how it ended."""

    async def call_counted(call: "Call", message: bytes) -> bytes:
        began = stats.begin()
        stats.started += 1
        stats.received += 1
        code = int(GrpcCode.CANCELLED)
        try:
            answer = await handler(call, message)
            code = 0
            stats.sent += 1
        except StatusError as error:
            code = int(error.code)
            raise
        except Exception:
            code = int(GrpcCode.INTERNAL)
            raise
        finally:
            stats.ended(code, 1, began)
        return answer

    return call_counted


class CountedMethods:
    """What `rpc.health.Methods` asks of an engine."""

    def __init__(self, engine: "Engine", stats: GrpcStats) -> None:
        self._engine = engine
        self._stats = stats

    def add_unary(self, path: str, handler: "Callable[[Call, bytes], Awaitable[bytes]]") -> None:
        count_client = self._stats.count_client

        async def known(call: "Call", message: bytes) -> bytes:
            count_client("unary", call.metadata("client-api-version"))
            return await handler(call, message)

        self._engine.add_unary(path, counted(self._stats.method(path), known))

    def add_stream(self, path: str, handler: Callable[[Any, str], StreamHandler]) -> None:
        stats = self._stats.method(path, "server_stream")

        def open_stream(stream: Any, name: str) -> StreamHandler:
            self._stats.count_client("stream", stream.metadata("client-api-version"))
            return _CountedStream(handler, stream, name, stats)

        self._engine.add_stream(path, open_stream)


class _CountedStream:
    """A StreamHandler around another; also the stream that the other one sees."""

    def __init__(self, handler: Callable[[Any, str], StreamHandler], stream: Any, path: str, stats: MethodStats) -> None:
        self._stream = stream
        self._stats = stats
        self._began = stats.begin()
        self._over = False
        stats.started += 1
        self._inner = handler(self, path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def push(self, message: bytes) -> bool:
        self._stats.sent += 1
        return bool(self._stream.push(message))

    def on_messages(self, messages: Sequence[bytes]) -> None:
        self._stats.received += len(messages)
        self._inner.on_messages(messages)

    def on_half_close(self) -> None:
        self._inner.on_half_close()

    def on_writable(self) -> None:
        self._inner.on_writable()

    def on_closed(self, code: int) -> None:
        if not self._over:
            self._over = True
            self._stats.ended(code, 1, self._began)
        self._inner.on_closed(code)
