"""raftsched.v1.Jobs/WatchEvents: what the engine hears of jobs, as messages.

A token is a revision: everything up to it has been told. So it holds at every replica, and what is told after a resume may have been told
before; what is lost is said.
Must not know: how events are kept, who asks.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import EVENT_PROGRESS_MS, EVENTS_PER_MESSAGE
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.rpc.jobs.filters import Filter, type_of
from raftsched.rpc.jobs.history import run_of
from raftsched.rpc.jobs.rows import Record
from raftsched.rpc.jobs.search import Search, Work
from raftsched.scheduler.jobs._jobs import WireError, range_kvs
from raftsched.scheduler.jobs.fields import EventView, Metadata
from raftsched.scheduler.jobs.names import JOBS, LEADERSHIP, TARGET_ACTOR, TARGET_JOB
from raftsched.scheduler.jobs.requests import field, range_request
from raftsched.scheduler.service import SchedulerService

REVISION_MAX: Final = (1 << 63) - 1
RECORDED: Final = 5  # kinds of events as in engine/_engine/events.pxi
OF_NAMESPACE: Final = (13, 14)
TYPES: Final = {
    1: jobs_pb2.EVENT_TYPE_CREATED,
    2: jobs_pb2.EVENT_TYPE_OVERWRITTEN,
    3: jobs_pb2.EVENT_TYPE_DELETED,
    4: jobs_pb2.EVENT_TYPE_RAN,
    6: jobs_pb2.EVENT_TYPE_FAILED,
    7: jobs_pb2.EVENT_TYPE_SKIPPED,
    8: jobs_pb2.EVENT_TYPE_PAUSED,
    9: jobs_pb2.EVENT_TYPE_RESUMED,
    10: jobs_pb2.EVENT_TYPE_CONFIGURED,
    11: jobs_pb2.EVENT_TYPE_RUN_ASKED,
    12: jobs_pb2.EVENT_TYPE_RAN,
    13: jobs_pb2.EVENT_TYPE_FROZEN,
    14: jobs_pb2.EVENT_TYPE_UNFROZEN,
    15: jobs_pb2.EVENT_TYPE_GIVEN_UP,
}
WITH_INSTANT: Final = (4, 7, 15)
RESULTS: Final = {
    state_pb2.RUN_RESULT_SUCCEEDED: jobs_pb2.EVENT_TYPE_SUCCEEDED,
    state_pb2.RUN_RESULT_GIVEN_UP: jobs_pb2.EVENT_TYPE_GIVEN_UP,
}


@dataclass(slots=True)
class Place:
    """Where a watch is."""

    position: int
    after: int
    """Events up to this revision are passed over: they have been told."""
    told: int
    """The token."""
    dropped: int
    """How many events had found no room, as of now."""


def token_revision(token: str) -> int:
    """Raises `StatusError`."""
    if not (token.isascii() and token.isdecimal() and len(token) < 20 and int(token) <= REVISION_MAX):
        raise StatusError(GrpcCode.INVALID_ARGUMENT, "not a resume token")
    return int(token)


async def begin(service: SchedulerService, request: jobs_pb2.WatchEventsRequest) -> Place:
    """Raises `StatusError`, OUT_OF_RANGE for a token behind which something has gone."""
    if not request.resume_token:
        oldest, newest, floor, told, dropped = service.engine.event_span()
        return Place(oldest, 0, floor, dropped) if request.oldest else Place(newest, 0, told, dropped)
    after = token_revision(request.resume_token)
    present, _ = await service.kv.range(range_request(LEADERSHIP))
    oldest, _, floor, _, dropped = service.engine.event_span()
    if after < floor:
        raise StatusError(GrpcCode.OUT_OF_RANGE, f"events behind revision {after} are not kept any more, only those behind {floor}")
    if after > present:
        raise StatusError(GrpcCode.OUT_OF_RANGE, f"the token is of revision {after}, and the store is at {present}: it is another store's")
    return Place(oldest, after, after, dropped)


class EventWatch(Search):
    """One stream."""

    def _work(self, message: bytes) -> Work:
        request = jobs_pb2.WatchEventsRequest.FromString(message)
        if request.filter.labels:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, "events cannot be filtered by label")
        return partial(self._tell_all, request, self._owner.admit(request.filter, self._stream.peer_certificate()))

    async def _tell_all(self, request: jobs_pb2.WatchEventsRequest, wanted: Filter) -> None:
        service, wake = self._owner.service, asyncio.Event()
        service.event_listeners.add(wake.set)
        try:
            place = await begin(service, request)
            end = service.engine.event_span()[1]
            quiet = False
            while True:
                wake.clear()
                answer, more = next_message(service, wanted, place)
                if answer.events or answer.missed or not quiet:
                    await self._push(answer)
                    quiet = True
                if more:
                    await asyncio.sleep(0)
                elif request.once and place.position >= end:
                    return
                else:
                    quiet = await _news(wake)
        finally:
            service.event_listeners.discard(wake.set)


async def _news(wake: asyncio.Event) -> bool:
    """False: there was none for so long that the watcher is told how far it has come."""
    with suppress(TimeoutError):
        async with asyncio.timeout(EVENT_PROGRESS_MS / 1000):
            await wake.wait()
            return True
    return False


def next_message(service: SchedulerService, wanted: Filter, place: Place) -> tuple[jobs_pb2.WatchEventsResponse, bool]:
    """(what comes next, whether there is more at once); `place` is then behind it."""
    found, position, told, missed = service.engine.read_events(place.position, place.after, EVENTS_PER_MESSAGE)
    if missed and place.after:  # the store may have been set back since
        place.after = 0
        found, position, told, _ = service.engine.read_events(place.position, 0, EVENTS_PER_MESSAGE)
    _, newest, floor, _, dropped = service.engine.event_span()
    place.told = (told or floor) if missed else max(place.told, told)
    missed = missed or dropped != place.dropped
    place.position, place.dropped = position, dropped
    events = [event for one in found if (event := event_of(service, wanted, one)) is not None]
    return jobs_pb2.WatchEventsResponse(events=events, resume_token=str(place.told), missed=missed), position < newest


def event_of(service: SchedulerService, wanted: Filter, one: EventView) -> jobs_pb2.Event | None:
    """None: it is not wanted."""
    kind, revision, heard_ms, composed, place, at, count, attempts, detail = one
    event = jobs_pb2.Event(revision=revision, count=count, attempts=attempts)
    event.heard_at.FromMilliseconds(heard_ms)
    if kind in OF_NAMESPACE:
        event.type, event.name.namespace = TYPES[kind], composed.decode("utf-8", "replace")
        return event if wanted.wants_namespace(event.name.namespace) else None
    metadata, name = whose(service, composed, place)
    if not wanted.wants(metadata, name):
        return None
    app_id, namespace, target, actor_id, actor_type, _ = metadata
    event.name.CopyFrom(jobs_pb2.JobName(namespace=namespace, app_id=app_id, name=name, actor_type=actor_type, actor_id=actor_id))
    event.job_type = type_of(target, actor_type) if target else jobs_pb2.JOB_TYPE_UNSPECIFIED
    if kind == RECORDED:
        event.run.CopyFrom(run_of(composed, detail, revision))
        event.type = RESULTS.get(event.run.result, jobs_pb2.EVENT_TYPE_RAN)
        if event.run.HasField("scheduled_at"):
            event.scheduled_at.CopyFrom(event.run.scheduled_at)
        return event
    event.type = TYPES[kind]
    if kind in WITH_INSTANT and any(at):
        event.scheduled_at.seconds, event.scheduled_at.nanos = at
    return event


def whose(service: SchedulerService, composed: bytes, place: tuple[int, int]) -> tuple[Metadata, str]:
    """(metadata, short name): of the key where it can mean one thing only and says all, else of the record, if that is still there. What
    nobody knows is empty."""
    parts = composed.decode("utf-8", "replace").split("||")
    if parts[0] == "app" and len(parts) == 4:
        return (parts[2], parts[1], TARGET_JOB, "", "", None), parts[3]
    record = service.kv.read_record(*place) if place[0] else None
    if record is not None:
        [(key, value, revision, _, created)] = range_kvs(field(2, record))
        with suppress(WireError):
            if key == JOBS + composed:
                found = Record(key, value, revision, created)
                return found.metadata, found.name
    if parts[0] == "actorreminder" and len(parts) == 5:
        return ("", parts[1], TARGET_ACTOR, parts[3], parts[2], None), parts[4]
    return ("", "", 0, "", "", None), composed.decode("utf-8", "replace")
