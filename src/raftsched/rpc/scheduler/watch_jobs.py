"""WatchJobs (spec §4): one stream of triggers to a sidecar, and its answers back.

Invariant: the first message is `initial`, all later ones are results; whatever ends the stream, it is deregistered once and
what it had in flight goes elsewhere. Must not know: jobs, routing, gates.
"""

from collections.abc import Callable, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from raftsched.errors import STREAM_MALFORMED, GrpcCode, StatusError
from raftsched.limits import STREAM_TYPES_MAX
from raftsched.pb.dapr.scheduler_pb2 import JobTargetType, WatchJobsRequest, WatchJobsRequestInitial
from raftsched.ports import Log, Stream
from raftsched.rpc.scheduler.access import Access
from raftsched.rpc.scheduler.stats import SchedulerStats
from raftsched.scheduler.delivery._delivery import StreamState
from raftsched.scheduler.delivery.gates import Limit
from raftsched.scheduler.jobs.names import TARGET_ACTOR, TARGET_JOB, actor_route, app_route
from raftsched.scheduler.service import SchedulerService

JOB: Final = JobTargetType.JOB_TARGET_TYPE_JOB
ACTOR: Final = JobTargetType.JOB_TARGET_TYPE_ACTOR_REMINDER
ENDED: Final = (GrpcCode.CANCELLED, "context canceled")
"""How Dapr ends a stream whose client has nothing more to say, or says what it must not."""
EARLY_MESSAGES_MAX: Final = 1_000  # results before readiness: nothing was sent, so they can only be noise
EARLY_BYTES_MAX: Final = 64 << 10

Prefix = tuple[bytes, int, tuple[str, str] | None]


class WatchJobs:
    """The handler of one stream; made when its headers arrive."""

    batched = False
    """It takes triggers in the form of raftsched.v1.Workers."""

    def __init__(
        self,
        service: SchedulerService,
        access: Access,
        stats: SchedulerStats,
        *,
        log: Log,
        stream: Stream,
        ended: Callable[["WatchJobs", int], None],
    ) -> None:
        """`ended(self, code)` is called once, when the stream is gone."""
        self._ended = ended
        self._service = service
        self._access = access
        self._stats = stats
        self._log = log
        self._stream = stream
        self._state: StreamState | None = None
        self._initial: WatchJobsRequestInitial | None = None
        self._early: list[bytes] = []
        self._done = False

    # -- StreamHandler
    def on_messages(self, messages: Sequence[bytes]) -> None:
        if self._done:
            return
        if self._state is not None:
            self._service.on_acks(self._state, messages)
            return
        if self._initial is None:
            self._open(messages[0])
            messages = messages[1:]
        if messages and not self._done:
            self._early.extend(messages)
            if self._state is not None:
                self._service.on_acks(self._state, self._early)
                self._early = []
            elif len(self._early) > EARLY_MESSAGES_MAX or sum(map(len, self._early)) > EARLY_BYTES_MAX:
                self._finish(GrpcCode.UNKNOWN, "results before any trigger")

    def on_half_close(self) -> None:
        """The client has said its last word: nothing that is sent now could be answered."""
        if self.batched:
            self._finish(GrpcCode.OK, "")
        elif self._initial is None:
            self._finish(GrpcCode.UNKNOWN, "EOF")
        else:
            self._finish(*ENDED)

    def on_writable(self) -> None:
        if self._state is not None:
            self._service.stream_writable(self._state)

    def on_closed(self, code: int) -> None:
        if self._state is not None and not self._state.writable:  # a trigger was being sent, and could not be
            self._stats.sidecar_error("send_failed")
        self._done = True
        self._ended(self, code)
        self._deregister()

    # -- StreamOwner
    def cut_off(self, reason: str) -> None:
        """The engine cannot go on with this stream."""
        unread = "not read" in reason
        self._stats.sidecar_error("send_failed" if unread else "recv_failed")
        self._log.warning(f"WatchJobs stream closed: {reason}")
        if unread or self.batched:
            self._finish(GrpcCode.UNKNOWN, reason)
        else:
            self._finish(*ENDED)  # Dapr tells its log alone

    def close(self) -> None:
        """The server is closing."""
        self._finish(GrpcCode.UNKNOWN, "server is closing")

    # -- inside
    def _open(self, message: bytes) -> None:
        try:
            request = WatchJobsRequest.FromString(message)
        except DecodeError:
            self._finish(GrpcCode.INTERNAL, STREAM_MALFORMED[1])
            return
        if request.WhichOneof("watch_job_request_type") != "initial":
            self._finish(GrpcCode.UNKNOWN, "initial request is required on stream connection")
            return
        self._admit(request.initial)

    def _admit(self, initial: WatchJobsRequestInitial) -> None:
        try:
            self._access.authorise(initial.namespace, initial.app_id, self._stream.peer_certificate())
        except StatusError as error:
            self._finish(error.code, error.message)
            return
        if (twice := _first_duplicate(initial.accept_job_types)) is not None:
            self._finish(GrpcCode.UNKNOWN, f"duplicate target type specified: {_type_name(twice)}")
            return
        self._initial = initial
        self._service.when_ready(self._register)

    def _register(self) -> None:
        if self._done or self._initial is None:
            return
        initial = self._initial
        if len(initial.actor_types) + len(initial.concurrency_limits) > STREAM_TYPES_MAX:
            self._finish(GrpcCode.RESOURCE_EXHAUSTED, f"more than {STREAM_TYPES_MAX} actor types and concurrency limits on one stream")
            return
        prefixes = prefixes_of(initial)
        limits = [
            Limit(limit.actor.type, limit.name or None, limit.max_concurrent)
            for limit in initial.concurrency_limits
            if limit.WhichOneof("target") == "actor"
        ]
        self._state = self._service.open_stream(self._stream.push, self, prefixes, initial.namespace, limits, batched=self.batched)
        types = " ".join(initial.actor_types if not initial.accept_job_types or ACTOR in initial.accept_job_types else ())
        names = " ".join(prefix.decode() for prefix, _, _ in prefixes)
        self._log.info(f"Sidecar connected: {initial.namespace}/{initial.app_id} (actorTypes=[{types}]) (prefixes=[{names}]).")
        if self._early:
            early, self._early = self._early, []
            self._service.on_acks(self._state, early)

    def _deregister(self) -> None:
        state, self._state = self._state, None
        if state is not None:
            self._service.close_stream(state)

    def _finish(self, code: GrpcCode, text: str) -> None:
        if not self._done:
            self._done = True
            self._deregister()
            self._stream.finish(int(code), text)


def prefixes_of(initial: WatchJobsRequestInitial) -> list[Prefix]:
    """What a stream can take (spec §4, Registration); nothing if it takes reminders and names no type (D7)."""
    accepted = set(initial.accept_job_types)
    found: list[Prefix] = []
    if not accepted or JOB in accepted:
        found.append((app_route(initial.namespace, initial.app_id).encode(), TARGET_JOB, None))
    if not accepted or ACTOR in accepted:
        for actor_type in dict.fromkeys(initial.actor_types):
            target = (initial.namespace, actor_type)
            found.append((actor_route(*target).encode(), TARGET_ACTOR, target))
    return found


def _first_duplicate(types: Sequence[int]) -> int | None:
    seen: set[int] = set()
    for kind in types:
        if kind in seen:
            return kind
        seen.add(kind)
    return None


def _type_name(kind: int) -> str:
    return next((name for name, number in JobTargetType.items() if number == kind), str(kind))
