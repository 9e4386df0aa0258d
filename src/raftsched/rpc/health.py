"""Whether this process serves, three ways: grpc.health.v1, gRPC server reflection, and the plain HTTP of the scheduler:
/healthz, and /readyz beside it.

The two gRPC services belong to the etcd port only (scheduler spec §2.5: Dapr's port has neither). Readiness is told from
outside; nothing here looks for itself.
Must not know: why something is or is not ready.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError, Message

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import STUCK_MS
from raftsched.pb.wellknown import health_pb2
from raftsched.ports import Stream, StreamHandler
from raftsched.rpc import readiness
from raftsched.rpc._watchdog import Watchdog
from raftsched.rpc.http2._h2 import Call, Engine, HttpRequest
from raftsched.rpc.targets import path_of

HEALTH = "grpc.health.v1.Health"
BEAT_S = 1.0  # the watchdog hears from the loop so often
SERVICES_MAX = 100  # names that may be given a status of their own
WATCHED_NAME_BYTES_MAX = 256
M = TypeVar("M", bound=Message)


class Methods(Protocol):
    """What of an `Engine` a service registers with."""

    def add_unary(self, path: str, handler: Callable[[Call, bytes], Awaitable[bytes]]) -> None: ...
    def add_stream(self, path: str, handler: Callable[[Any, str], StreamHandler]) -> None: ...


def parse(kind: type[M], data: bytes) -> M:
    """The message; StatusError INTERNAL, as grpc-go says it, for bytes that are none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise StatusError(GrpcCode.INTERNAL, f"grpc: error unmarshalling request: {error}") from None


class HealthService:
    """grpc.health.v1: Check, List and Watch over a small table of service names; "" is the whole server."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {"": health_pb2.HealthCheckResponse.NOT_SERVING}
        self._watchers: set[HealthWatcher] = set()

    def register(self, engine: Methods) -> None:
        engine.add_unary(f"/{HEALTH}/Check", self.check)
        engine.add_unary(f"/{HEALTH}/List", self.list)
        engine.add_stream(f"/{HEALTH}/Watch", lambda stream, _path: HealthWatcher(self, stream))

    def set_serving(self, serving: bool, service: str = "") -> None:
        """Watchers of that name hear of a change. ValueError beyond `SERVICES_MAX` names."""
        if service not in self._statuses and len(self._statuses) >= SERVICES_MAX:
            raise ValueError("too many services")
        kind = health_pb2.HealthCheckResponse
        status = kind.SERVING if serving else kind.NOT_SERVING
        changed = self._statuses.get(service) != status
        self._statuses[service] = status
        for watcher in list(self._watchers) if changed else []:
            watcher.tell(service)

    def answer(self, service: str) -> bytes | None:
        """HealthCheckResponse; None for a name that nobody set."""
        status = self._statuses.get(service)
        if status is None:
            return None
        return health_pb2.HealthCheckResponse(status=status).SerializeToString()  # type: ignore[arg-type]

    async def check(self, _call: Call, message: bytes) -> bytes:
        answer = self.answer(parse(health_pb2.HealthCheckRequest, message).service)
        if answer is None:
            raise StatusError(GrpcCode.NOT_FOUND, "unknown service")
        return answer

    async def list(self, _call: Call, message: bytes) -> bytes:
        parse(health_pb2.HealthListRequest, message)
        response = health_pb2.HealthListResponse()
        for service, status in self._statuses.items():
            response.statuses[service].status = status  # type: ignore[assignment]
        return response.SerializeToString()

    def watch(self, watcher: "HealthWatcher") -> None:
        self._watchers.add(watcher)

    def unwatch(self, watcher: "HealthWatcher") -> None:
        self._watchers.discard(watcher)


class HealthWatcher:
    """One Watch stream: the status now, then each change. A reader that is behind gets the latest only."""

    def __init__(self, service: HealthService, stream: Stream) -> None:
        self._service = service
        self._stream = stream
        self._name: str | None = None
        self._room = True
        self._behind = False

    def on_messages(self, messages: Sequence[bytes]) -> None:
        if self._name is not None or len(messages) > 1:
            text = "cardinality violation: received multiple request messages for non-client-streaming RPC"
            raise StatusError(GrpcCode.INTERNAL, text)
        name = parse(health_pb2.HealthCheckRequest, messages[0]).service
        if len(name) > WATCHED_NAME_BYTES_MAX:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, "service name too long")
        self._name = name
        self._service.watch(self)
        self.tell(name)

    def tell(self, name: str) -> None:
        """The status of `name` changed."""
        if name != self._name:
            return
        if not self._room:
            self._behind = True
            return
        unknown = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        self._room = self._stream.push(self._service.answer(name) or unknown.SerializeToString())

    def on_half_close(self) -> None:
        if self._name is None:
            text = "cardinality violation: received no request message from non-client-streaming RPC"
            raise StatusError(GrpcCode.INTERNAL, text)

    def on_writable(self) -> None:
        self._room = True
        if self._behind and self._name is not None:
            self._behind = False
            self.tell(self._name)

    def on_closed(self, code: int) -> None:
        self._service.unwatch(self)


def add_reflection(engine: Methods, services: Iterable[str]) -> None:
    """grpc.reflection.v1 and v1alpha: `services` are the names to list; descriptors come from protobuf's default pool."""
    from raftsched.pb.wellknown import reflection_v1_pb2, reflection_v1alpha_pb2

    names = sorted({*services, "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"})
    _reflect(engine, "v1", reflection_v1_pb2, names)
    _reflect(engine, "v1alpha", reflection_v1alpha_pb2, names)


def _reflect(engine: Methods, version: str, module: Any, names: Sequence[str]) -> None:
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    engine.add_stream(path, lambda stream, _path: ReflectionStream(module, names, stream))


class ReflectionStream:
    """One ServerReflectionInfo stream: an answer for each question."""

    def __init__(self, module: Any, names: Sequence[str], stream: Stream) -> None:
        self._module = module
        self._names = names
        self._stream = stream

    def on_messages(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            self._stream.push(self._answer(parse(self._module.ServerReflectionRequest, message)).SerializeToString())

    def _answer(self, request: Any) -> Any:
        response = self._module.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            self._fill(response, request, request.WhichOneof("message_request"))
        except KeyError as error:
            response.error_response.error_code = GrpcCode.NOT_FOUND
            response.error_response.error_message = f"not found: {error.args[0]}"
        return response

    def _fill(self, response: Any, request: Any, question: str | None) -> None:
        """KeyError for a name that is not there."""
        pool = descriptor_pool.Default()
        if question == "list_services":
            response.list_services_response.SetInParent()
            for name in self._names:
                response.list_services_response.service.add(name=name)
        elif question == "file_by_filename":
            self._add_files(response, pool.FindFileByName(request.file_by_filename))
        elif question == "file_containing_symbol":
            self._add_files(response, pool.FindFileContainingSymbol(request.file_containing_symbol))
        elif question == "all_extension_numbers_of_type":
            found = pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
            response.all_extension_numbers_response.base_type_name = found.full_name
        elif question == "file_containing_extension":
            raise KeyError(request.file_containing_extension.containing_type)  # our protos define no extensions
        else:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, f"invalid MessageRequest: {question}")

    @staticmethod
    def _add_files(response: Any, file: Any) -> None:
        """The file and everything that it imports, each once."""
        seen: set[str] = set()
        waiting = [file]
        while waiting:
            one = waiting.pop(0)
            if one.name not in seen:
                seen.add(one.name)
                response.file_descriptor_response.file_descriptor_proto.append(one.serialized_pb)
                waiting.extend(one.dependencies)

    def on_half_close(self) -> None:
        self._stream.finish()

    def on_writable(self) -> None:
        pass  # a client that does not read gets no more questions answered: Engine's hold_bytes

    def on_closed(self, code: int) -> None:
        pass


class HealthzServer:
    """`GET /healthz`: 200 when `is_ready()`, else 503, empty body; `GET /readyz`: 200 when nothing is `stuck()`, else 503, and what is, as
    JSON; other paths 404. While the loop does not turn a native thread says 503 here."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, is_ready: Callable[[], bool], *, stuck: readiness.Stuck, connections_max: int = 0
    ) -> None:
        self._is_ready = is_ready
        self._stuck = stuck
        self._loop = loop
        self._watchdog: Watchdog | None = None
        self._beating: asyncio.TimerHandle | None = None
        self._engine = Engine(loop, on_http=self._on_http, http_body_bytes_max=4_096, connections_max=connections_max)

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """An empty host = all addresses. OSError as from `loop.create_server`."""
        server = await self._engine.listen(host, port)
        try:
            self._watchdog = Watchdog([one.fileno() for one in server.sockets], STUCK_MS)
        except OSError:
            server.close()
            raise
        self._beat()
        return server

    def _beat(self) -> None:
        if self._watchdog is not None:
            self._watchdog.beat()
            self._beating = self._loop.call_later(BEAT_S, self._beat)

    def _on_http(self, request: HttpRequest) -> None:
        path = path_of(request.target)
        if path == readiness.PATH:
            status, body = readiness.answer(self._stuck())
            request.respond(status, readiness.JSON, body)
            return
        if path != "/healthz":
            request.respond(404, [("content-type", "text/plain; charset=utf-8")], b"404 page not found\n")
            return
        request.respond(200 if self._is_ready() else 503, [], b"")

    async def close(self) -> None:
        """Ends the listener and what is connected to it."""
        if self._beating is not None and self._watchdog is not None:
            self._beating.cancel()
            self._watchdog.close()
            self._watchdog = None
        await self._engine.drain(100)
