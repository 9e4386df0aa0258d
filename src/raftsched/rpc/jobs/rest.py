"""raftsched.v1 over HTTP, on the scheduler's port: POST of a JSON request, its answer as JSON (docs/jobs-api.md).

The content type must be JSON's: a web page of strangers can send no such request across origins without having asked first, and nobody
answers that. Must not know: what methods do.
"""

import json
from functools import cache
from typing import TYPE_CHECKING, Final

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message_factory import GetMessageClass

from raftsched.errors import GrpcCode
from raftsched.pb.v1 import jobs_pb2
from raftsched.rpc.gateway._json import JsonError
from raftsched.rpc.gateway.answers import HTML, JSON, encoded, refusal
from raftsched.rpc.gateway.gateway import Gateway
from raftsched.rpc.gateway.routes import Api, Route
from raftsched.rpc.http2.http_request import HttpRequest
from raftsched.rpc.targets import path_of

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Engine

PATHS: Final = {
    "/v1/jobs/get": "/raftsched.v1.Jobs/GetJob",
    "/v1/jobs/list": "/raftsched.v1.Jobs/ListJobs",
    "/v1/jobs/search": "/raftsched.v1.Jobs/SearchJobs",
    "/v1/jobs/pause": "/raftsched.v1.Jobs/PauseJobs",
    "/v1/jobs/run": "/raftsched.v1.Jobs/RunJobs",
    "/v1/jobs/reschedule": "/raftsched.v1.Jobs/RescheduleJobs",
    "/v1/jobs/configure": "/raftsched.v1.Jobs/ConfigureJobs",
    "/v1/jobs/resume": "/raftsched.v1.Jobs/ResumeJobs",
    "/v1/dead/list": "/raftsched.v1.Jobs/ListDeadLetters",
    "/v1/dead/redrive": "/raftsched.v1.Jobs/RedriveDeadLetters",
    "/v1/dead/delete": "/raftsched.v1.Jobs/DeleteDeadLetters",
    "/v1/jobs/runs": "/raftsched.v1.Jobs/ListRuns",
    "/v1/jobs/events": "/raftsched.v1.Jobs/WatchEvents",
    "/v1/namespaces/freeze": "/raftsched.v1.Jobs/FreezeNamespace",
    "/v1/namespaces/unfreeze": "/raftsched.v1.Jobs/UnfreezeNamespace",
    "/v1/namespaces/frozen": "/raftsched.v1.Jobs/ListFreezes",
    "/v1/calendars/put": "/raftsched.v1.Jobs/PutCalendar",
    "/v1/calendars/get": "/raftsched.v1.Jobs/GetCalendar",
    "/v1/calendars/list": "/raftsched.v1.Jobs/ListCalendars",
    "/v1/calendars/delete": "/raftsched.v1.Jobs/DeleteCalendar",
    "/v1/schedules/explain": "/raftsched.v1.Jobs/ExplainSchedule",
}
WRONG_TYPE: Final = (415, JSON, b'{"code":3,"message":"content-type must be application/json"}')


class MessageJson:
    """A `routes.Codec` with protobuf's own JSON: instants and durations are text. Fields have the names of the .proto file."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._kind = GetMessageClass(descriptor)

    def decode(self, text: bytes) -> bytes:
        try:
            return json_format.Parse(text, self._kind()).SerializeToString()
        except (json_format.ParseError, ValueError, RecursionError) as error:
            raise JsonError(str(error)) from None

    def encode(self, wire: bytes, *, html: bool = False) -> bytes:
        try:
            shown = json_format.MessageToDict(self._kind.FromString(wire), preserving_proto_field_name=True)
        except (json_format.SerializeToJsonError, ValueError) as error:  # an instant that is none, as others may have stored
            raise JsonError(f"the answer cannot be told as JSON: {error}") from None
        text = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
        return encoded(text.translate(HTML) if html else text)


@cache
def route_of(path: str) -> Route:
    """KeyError for a path that is none."""
    method = PATHS[path]
    found = jobs_pb2.DESCRIPTOR.services_by_name["Jobs"].methods_by_name[method.rpartition("/")[2]]
    return Route(method, MessageJson(found.input_type), MessageJson(found.output_type), found.server_streaming)


class JobsFront:
    """`Engine.on_http` of the scheduler's port. `serve` says whose methods these are."""

    def __init__(self) -> None:
        self._gateway: Gateway | None = None

    def serve(self, engine: "Engine") -> None:
        self._gateway = Gateway(engine, Api(PATHS, (), route_of, shows_certificate=True))

    def __call__(self, request: HttpRequest) -> None:
        path = path_of(request.target)
        if path is None or self._gateway is None or path not in PATHS:
            request.respond(*refusal(int(GrpcCode.NOT_FOUND), "Not Found"))
        elif request.method == "POST" and not is_json(request.header("content-type")):
            request.respond(*WRONG_TYPE)
        else:
            self._gateway.serve(request, path)


def is_json(content_type: str | None) -> bool:
    return (content_type or "").partition(";")[0].strip().lower() == "application/json"
