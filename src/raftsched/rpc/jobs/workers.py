"""raftsched.v1.Workers on the scheduler's door (docs/jobs-api.md): triggers with the ids of their runs, many in a message.

Everything but the form of the messages is as in Dapr's WatchJobs, whose gates and registration these streams share.
Must not know: jobs, routing, how runs are told apart.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from raftsched.errors import GrpcCode
from raftsched.pb.dapr.scheduler_pb2 import JobTargetType, WatchJobsRequestInitial
from raftsched.pb.v1 import workers_pb2
from raftsched.ports import Log, Stream, StreamHandler
from raftsched.rpc.metrics import GrpcStats, MethodStats
from raftsched.rpc.scheduler.access import Access
from raftsched.rpc.scheduler.stats import SchedulerStats
from raftsched.rpc.scheduler.watch_jobs import WatchJobs
from raftsched.scheduler.service import SchedulerService

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Engine

SERVICE: Final = "raftsched.v1.Workers"
PATH: Final = f"/{SERVICE}/WatchTriggers"


class WorkersApi:
    """Registers the method and keeps the open streams."""

    def __init__(
        self, service: SchedulerService, door: "Engine", access: Access, stats: SchedulerStats, *, log: Log, grpc_stats: GrpcStats
    ) -> None:
        self._service = service
        self._access = access
        self._stats = stats
        self._log = log
        self._calls = grpc_stats.method(PATH, "bidi_stream")
        self._streams: set[WatchJobs] = set()
        self._closing = False
        door.add_stream(PATH, self._watch)
        door.add_unimplemented(SERVICE)

    def close_streams(self) -> None:
        """Ends every stream, also those that come later; the first step of a shutdown."""
        self._closing = True
        for stream in list(self._streams):
            stream.close()

    def _watch(self, stream: Stream, path: str) -> StreamHandler:
        self._calls.started += 1
        ended = _ended(self._calls, self._streams)
        handler = WatchTriggers(self._service, self._access, self._stats, log=self._log, stream=stream, ended=ended)
        self._streams.add(handler)
        if self._closing:
            handler.close()
        return handler


def _ended(calls: MethodStats, streams: set[WatchJobs]) -> Callable[[WatchJobs, int], None]:
    def ended(handler: WatchJobs, code: int) -> None:
        calls.ended(code)
        streams.discard(handler)

    return ended


class WatchTriggers(WatchJobs):
    """One stream."""

    batched = True

    def _open(self, message: bytes) -> None:
        try:
            request = workers_pb2.WatchTriggersRequest.FromString(message)
        except DecodeError:
            self._finish(GrpcCode.INTERNAL, "grpc: error unmarshalling request: malformed message")
            return
        if request.WhichOneof("request") != "initial":
            self._finish(GrpcCode.INVALID_ARGUMENT, "the first message of a stream is `initial`")
            return
        self._admit(_as_dapr_says(request.initial))


def _as_dapr_says(initial: workers_pb2.Initial) -> WatchJobsRequestInitial:
    asked = WatchJobsRequestInitial(namespace=initial.namespace, app_id=initial.app_id, actor_types=initial.actor_types)
    if initial.reminders_only:
        asked.accept_job_types.append(JobTargetType.JOB_TARGET_TYPE_ACTOR_REMINDER)
    for limit in initial.concurrency_limits:
        added = asked.concurrency_limits.add(max_concurrent=limit.max_concurrent)
        added.actor.type = limit.actor_type
        if limit.name:
            added.name = limit.name
    return asked
