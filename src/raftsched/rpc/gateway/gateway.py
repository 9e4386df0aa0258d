"""etcd's JSON gateway: POST /v3/... as calls of the door's own methods (etcd-api §4.1, §4.2); other APIs are served in the same way.

A call takes the road that a gRPC call takes, checks and all, but for the network: rpc/http2/local.py.
Must not know: hosts, origins, other paths (front.py).
"""

from typing import TYPE_CHECKING

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import GATEWAY_BODY_BYTES_MAX
from raftsched.rpc.gateway import websocket
from raftsched.rpc.gateway._json import JsonError, Scanner
from raftsched.rpc.gateway.answers import SERVED, refusal
from raftsched.rpc.gateway.metadata import metadata_of, timeout_s
from raftsched.rpc.gateway.routes import ETCD, Api, Route
from raftsched.rpc.gateway.streams import Download, Upload, too_large
from raftsched.rpc.http2.http_request import HttpRequest

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Engine


class Gateway:
    """The gateway to the methods of `engine`; they need not be there yet."""

    def __init__(self, engine: "Engine", api: Api = ETCD) -> None:
        """`api`: by default etcd's."""
        self._engine = engine
        self._api = api
        self.body_bytes_max = min(engine.message_bytes_max * 2, GATEWAY_BODY_BYTES_MAX)

    def prepare(self, request: HttpRequest) -> None:
        """The head of a request for a path below /v3/ is there: how large it may get."""
        request.body_bytes_max = self.body_bytes_max
        announced = int(request.header("content-length") or 0)
        request.too_large = refusal(*too_large(announced or self.body_bytes_max, self._engine.message_bytes_max))

    def upload(self, request: HttpRequest, path: str) -> Upload | None:
        """Who takes the body, if the method wants a stream of messages. Headers that are refused are refused when the body is there."""
        if path not in self._api.body_streams or request.method != "POST":
            return None
        try:
            metadata, timeout = metadata_of(request.headers), timeout_s(request.header("grpc-timeout"))
        except StatusError:
            return None
        return Upload(self._engine.local, request, self._api.route_of(path), metadata, timeout)

    def serve(self, request: HttpRequest, path: str) -> None:
        """Answers a whole request, now or later."""
        if path not in self._api.paths:
            request.respond(*refusal(int(GrpcCode.NOT_FOUND), "Not Found"))
            return
        if path in self._api.body_streams and websocket.wants_websocket(request):
            self._converse(request, self._api.route_of(path))
            return
        if request.method != "POST":
            request.respond(*refusal(int(GrpcCode.UNIMPLEMENTED), "Method Not Allowed"))
            return
        route = self._api.route_of(path)
        try:
            metadata, timeout = metadata_of(request.headers), timeout_s(request.header("grpc-timeout"))
            message = self._message(route, request.body)
        except StatusError as error:
            request.respond(*refusal(int(error.code), error.message))
            return
        if route.many:
            self._download(request, route, message, metadata, timeout)
        else:
            self._call(request, route, message, metadata, timeout)

    def _converse(self, request: HttpRequest, route: Route) -> None:
        refused = websocket.refusal(request)
        if refused is not None:
            request.extra_headers = ()
            request.respond(*refused)
            return
        websocket.WebSocket(request, lambda client, metadata: Upload(self._engine.local, client, route, metadata, None)).begin()

    def _message(self, route: Route, body: bytes) -> bytes:
        """The first JSON value of the body, what follows is not looked at; an empty body is an empty message. StatusError."""
        scanner = Scanner()
        scanner.feed(body)
        try:
            text = scanner.end()
            message = b"" if text is None else route.request.decode(text)
        except JsonError as error:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, str(error)) from None
        if len(message) > self._engine.message_bytes_max:
            raise StatusError(GrpcCode.RESOURCE_EXHAUSTED, too_large(len(message), self._engine.message_bytes_max)[1])
        return message

    def _call(self, request: HttpRequest, route: Route, message: bytes, metadata: dict[str, str], timeout: float | None) -> None:
        def answered(code: int, text: str, answer: bytes) -> None:
            request.on_gone = None
            if code:
                request.respond(*refusal(code, text))
                return
            try:
                shown = route.response.encode(answer)
            except JsonError as error:  # who is not answered would wait for ever
                request.respond(*refusal(int(GrpcCode.INTERNAL), str(error)))
                return
            request.respond(200, SERVED, shown)

        certificate = request.peer_certificate() if self._api.shows_certificate else None
        call = self._engine.local.call(
            route.method, message, metadata, answered, timeout_s=timeout, peer=request.peer, certificate=certificate
        )
        if call.can_be_cancelled:
            request.on_gone = call.cancel

    def _download(self, request: HttpRequest, route: Route, message: bytes, metadata: dict[str, str], timeout: float | None) -> None:
        certificate = request.peer_certificate() if self._api.shows_certificate else None
        download = Download(self._engine.local, request, route, metadata, timeout, certificate)
        if download.stream is not None:
            download.stream.send(message)
        if download.stream is not None:
            download.stream.close()
