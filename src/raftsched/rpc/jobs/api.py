"""raftsched.v1.Jobs on the scheduler's door (docs/jobs-api.md).

Gates are those of Dapr's service: readiness, who asks, the name. With TLS a caller sees the jobs of its own app; without, everybody sees
everything, as there.
Must not know: how jobs fire.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import DEAD_LETTER_RUNS_MAX, EVENT_WATCHES_MAX, JOB_PAGE_DEFAULT, JOB_PAGE_MAX, JOB_SCAN_MAX
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.rpc.counted import CountedMethods
from raftsched.rpc.jobs.calendars import delete_calendar, get_calendar, list_calendars, put_calendar
from raftsched.rpc.jobs.changing import Changer
from raftsched.rpc.jobs.configuring import configuring
from raftsched.rpc.jobs.dead_letters import Wanted, delete_letters, list_letters, of_filter, of_job, redrive_letters
from raftsched.rpc.jobs.events import EventWatch
from raftsched.rpc.jobs.explaining import explain_schedule
from raftsched.rpc.jobs.filters import Filter, page_token, token_key
from raftsched.rpc.jobs.history import kept_runs
from raftsched.rpc.jobs.holding import change_of, freeze, freezes, hold_of, pausing, put_extra, resuming, unfreeze
from raftsched.rpc.jobs.listing import found_jobs, put_missing, shown_job
from raftsched.rpc.jobs.rescheduling import rescheduling
from raftsched.rpc.jobs.rows import Record, job_of, put_details, put_failures
from raftsched.rpc.jobs.running import running
from raftsched.rpc.jobs.search import Searches
from raftsched.rpc.metrics import Family, GrpcStats
from raftsched.rpc.scheduler.access import Access, caller, checked_name
from raftsched.rpc.scheduler.stats import TYPES
from raftsched.scheduler.jobs._jobs import WireError, range_kvs
from raftsched.scheduler.jobs.names import JOBS, TARGET_ACTOR, TARGET_JOB, Owner, name_prefix
from raftsched.scheduler.jobs.requests import range_request
from raftsched.scheduler.service import SchedulerService

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call, Engine

SERVICE: Final = "raftsched.v1.Jobs"
PATH: Final = f"/{SERVICE}/"
Request = TypeVar("Request", bound=Message)
Certificate = Mapping[str, Any] | None  # Any: as ssl gives it


class JobsApi:
    """Registers the methods."""

    def __init__(self, service: SchedulerService, door: "Engine", access: Access, stats: GrpcStats) -> None:
        self._service = service
        self._access = access
        self._methods = CountedMethods(door, stats)
        self._unary("GetJob", jobs_pb2.GetJobRequest, self._get)
        self._unary("ListJobs", jobs_pb2.ListJobsRequest, self._list)
        self._unary("ExplainSchedule", jobs_pb2.ExplainScheduleRequest, self._explain)
        self._unary("PauseJobs", jobs_pb2.PauseJobsRequest, self._pause)
        self._unary("ResumeJobs", jobs_pb2.ResumeJobsRequest, self._resume)
        self._unary("RunJobs", jobs_pb2.RunJobsRequest, self._run)
        self._unary("RescheduleJobs", jobs_pb2.RescheduleJobsRequest, self._reschedule)
        self._unary("ConfigureJobs", jobs_pb2.ConfigureJobsRequest, self._configure)
        self._unary("FreezeNamespace", jobs_pb2.FreezeNamespaceRequest, self._freeze)
        self._unary("UnfreezeNamespace", jobs_pb2.UnfreezeNamespaceRequest, self._unfreeze)
        self._unary("ListFreezes", jobs_pb2.ListFreezesRequest, self._freezes)
        self._unary("ListDeadLetters", jobs_pb2.ListDeadLettersRequest, self._dead_letters)
        self._unary("RedriveDeadLetters", jobs_pb2.RedriveDeadLettersRequest, self._redrive)
        self._unary("DeleteDeadLetters", jobs_pb2.DeleteDeadLettersRequest, self._delete_dead)
        self._unary("PutCalendar", jobs_pb2.PutCalendarRequest, self._put_calendar)
        self._unary("GetCalendar", jobs_pb2.GetCalendarRequest, self._get_calendar)
        self._unary("ListCalendars", jobs_pb2.ListCalendarsRequest, self._list_calendars)
        self._unary("DeleteCalendar", jobs_pb2.DeleteCalendarRequest, self._delete_calendar)
        self._unary("ListRuns", jobs_pb2.ListRunsRequest, self._runs)
        self._searches = Searches(service, self.admitted_filter)
        self._methods.add_stream(PATH + "SearchJobs", self._searches.open)
        self._watches = Searches(service, self.admitted_filter, EventWatch, EVENT_WATCHES_MAX, "watches of events")
        self._methods.add_stream(PATH + "WatchEvents", self._watches.open)
        door.add_unimplemented(SERVICE)

    def families(self) -> Iterator[Family]:
        """A `metrics.Source`: what Dapr does not count."""
        passed = self._service.stats()["passed"]
        name, text = "raftsched_scheduler_ticks_passed_over_total", "Missed ticks that a job's misfire policy did not want"
        yield Family(name, "counter", text, ("type",), {(kind,): passed[index] for index, kind in enumerate(TYPES)})
        dead, bound = self._service.stats()["dead"], self._service.dead_letters
        name, text = "raftsched_scheduler_dead_letters_total", "Runs that were given up and kept"
        yield Family(name, "counter", text, ("type",), {(kind,): dead[index] for index, kind in enumerate(TYPES)})
        name, text = "raftsched_scheduler_dead_letters_dropped_total", "Dead letters that went because their namespace had too many"
        yield Family(name, "counter", text, (), {(): bound.dropped_total})

    def close_streams(self) -> None:
        """The first step of a shutdown."""
        self._searches.close()
        self._watches.close()

    def _unary(self, name: str, kind: type[Request], method: Callable[[Request, Certificate], Awaitable[Message]]) -> None:
        async def handler(call: "Call", message: bytes) -> bytes:
            request = parsed(kind, message)
            await self._service.loaded.wait()
            answer = await method(request, call.peer_certificate() if self._access.tls else None)
            return answer.SerializeToString()

        self._methods.add_unary(PATH + name, handler)

    # -- gates
    def composed(self, name: jobs_pb2.JobName, certificate: Certificate) -> bytes:
        """The composed name of a job that the caller may touch. Raises `StatusError`."""
        target = TARGET_ACTOR if name.actor_type else TARGET_JOB
        if name.actor_id and not name.actor_type:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, "actor_id needs actor_type")
        self._access.authorise(name.namespace, name.app_id, certificate)
        owner = Owner(name.namespace, name.app_id, target, name.actor_type, name.actor_id)
        try:
            return checked_name(name_prefix(owner) + name.name)
        except StatusError as error:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, error.message) from None

    def admitted_filter(self, asked: jobs_pb2.JobFilter, certificate: Certificate) -> Filter:
        """Raises `StatusError`."""
        if self._access.tls:
            self._access.authorise(asked.namespace, asked.app_id, certificate)
        return Filter(asked)

    def by(self, said: str, certificate: Certificate) -> str:
        """Who changes something: with TLS what the certificate says."""
        identity = caller(certificate) if self._access.tls else None
        return said if identity is None else "/".join(identity)

    def _admit_operator(self) -> None:
        """Of what concerns all apps of a namespace."""
        if self._access.tls:
            raise StatusError(GrpcCode.PERMISSION_DENIED, "an app may not change what concerns other apps")

    def _admit_namespace(self, namespace: str, certificate: Certificate) -> None:
        """Of what the apps of a namespace may read: with TLS, those alone."""
        identity = caller(certificate) if self._access.tls else None
        if self._access.tls and (identity is None or identity[0] != namespace):
            raise StatusError(GrpcCode.PERMISSION_DENIED, "an app may read what is of its own namespace")

    # -- methods
    async def _get(self, request: jobs_pb2.GetJobRequest, certificate: Certificate) -> jobs_pb2.Job:
        composed = self.composed(request.name, certificate)
        found = range_kvs((await self._service.kv.range(range_request(JOBS + composed)))[1])
        if not found:
            raise not_found(request.name)
        try:
            record = Record(found[0][0], found[0][1], found[0][2], found[0][4])
            job = job_of(record, self._service.engine.look(record.composed), self._service.now_ns())
            put_details(job, record)
            put_failures(job, record.composed, self._service.engine)
            put_missing(self._service, job)
            await put_extra(self._service, record, job)
        except WireError as error:
            raise StatusError(GrpcCode.DATA_LOSS, f"the stored job cannot be read: {error}") from None
        return job

    async def _list(self, request: jobs_pb2.ListJobsRequest, certificate: Certificate) -> jobs_pb2.ListJobsResponse:
        wanted = self.admitted_filter(request.filter, certificate)
        size, looked_at, last = page_size(request.page_size), 0, b""
        answer = jobs_pb2.ListJobsResponse()
        async for key, record in found_jobs(self._service, wanted, token_key(request.page_token)):
            if len(answer.jobs) == size or looked_at == JOB_SCAN_MAX:
                answer.next_page_token = page_token(last)
                break
            looked_at, last = looked_at + 1, key
            if record is not None:
                answer.jobs.append(await shown_job(self._service, record))
        return answer

    async def _explain(self, request: jobs_pb2.ExplainScheduleRequest, certificate: Certificate) -> jobs_pb2.ExplainScheduleResponse:
        key = self.composed(request.job, certificate) if request.job.name else None
        if key is None and request.job.namespace:
            self._admit_namespace(request.job.namespace, certificate)
        return explain_schedule(self._service.schedules, request, self._service.now_ns(), key)

    async def _pause(self, request: jobs_pb2.PauseJobsRequest, certificate: Certificate) -> jobs_pb2.ChangeSummary:
        hold = hold_of(request.reason, self.by(request.by, certificate), self._service.now_ns())
        return await self._changed(request.jobs, certificate, pausing(self._service, hold))

    async def _resume(self, request: jobs_pb2.ResumeJobsRequest, certificate: Certificate) -> jobs_pb2.ChangeSummary:
        return await self._changed(request.jobs, certificate, resuming(self._service, request.missed))

    async def _run(self, request: jobs_pb2.RunJobsRequest, certificate: Certificate) -> jobs_pb2.ChangeSummary:
        hold = hold_of(request.reason, self.by(request.by, certificate), self._service.now_ns())
        wanted = state_pb2.RunRequest(reason=hold.reason, by=hold.by, at=hold.at)
        return await self._changed(request.jobs, certificate, running(self._service, wanted))

    async def _reschedule(self, request: jobs_pb2.RescheduleJobsRequest, certificate: Certificate) -> jobs_pb2.ChangeSummary:
        change = change_of("reschedule", request.reason, self.by(request.by, certificate), self._service.now_ns())
        return await self._changed(request.jobs, certificate, rescheduling(self._service, request, change))

    async def _configure(self, request: jobs_pb2.ConfigureJobsRequest, certificate: Certificate) -> jobs_pb2.ChangeSummary:
        return await self._changed(request.jobs, certificate, configuring(self._service, request))

    async def _changed(self, jobs: jobs_pb2.JobSelector, certificate: Certificate, changer: Changer) -> jobs_pb2.ChangeSummary:
        which = jobs.WhichOneof("jobs")
        if which == "name":
            return await changer.change_one(self.composed(jobs.name, certificate), not_found(jobs.name))
        if which == "filter":
            return await changer.change_all(self.admitted_filter(jobs.filter, certificate))
        raise StatusError(GrpcCode.INVALID_ARGUMENT, "no jobs are selected: name one, or give a filter")

    async def _freeze(self, request: jobs_pb2.FreezeNamespaceRequest, _: Certificate) -> jobs_pb2.FreezeNamespaceResponse:
        self._admit_operator()
        await freeze(self._service, request.namespace, hold_of(request.reason, request.by, self._service.now_ns()))
        return jobs_pb2.FreezeNamespaceResponse()

    async def _unfreeze(self, request: jobs_pb2.UnfreezeNamespaceRequest, _: Certificate) -> jobs_pb2.ChangeSummary:
        self._admit_operator()
        return await unfreeze(self._service, request.namespace, request.missed)

    async def _freezes(self, _: jobs_pb2.ListFreezesRequest, __: Certificate) -> jobs_pb2.ListFreezesResponse:
        self._admit_operator()
        return await freezes(self._service)

    async def _put_calendar(self, request: jobs_pb2.PutCalendarRequest, _: Certificate) -> jobs_pb2.PutCalendarResponse:
        self._admit_operator()
        await put_calendar(self._service, request.calendar)
        return jobs_pb2.PutCalendarResponse()

    async def _get_calendar(self, request: jobs_pb2.GetCalendarRequest, certificate: Certificate) -> jobs_pb2.Calendar:
        self._admit_namespace(request.namespace, certificate)
        return await get_calendar(self._service, request.namespace, request.name)

    async def _list_calendars(self, request: jobs_pb2.ListCalendarsRequest, certificate: Certificate) -> jobs_pb2.ListCalendarsResponse:
        self._admit_namespace(request.namespace, certificate)
        return await list_calendars(self._service, request.namespace)

    async def _delete_calendar(self, request: jobs_pb2.DeleteCalendarRequest, _: Certificate) -> jobs_pb2.DeleteCalendarResponse:
        self._admit_operator()
        await delete_calendar(self._service, request.namespace, request.name, force=request.force)
        return jobs_pb2.DeleteCalendarResponse()

    async def _runs(self, request: jobs_pb2.ListRunsRequest, certificate: Certificate) -> jobs_pb2.ListRunsResponse:
        composed = self.composed(request.name, certificate)
        found = range_kvs((await self._service.kv.range(range_request(JOBS + composed)))[1])
        if not found:
            raise not_found(request.name)
        runs = await kept_runs(self._service, composed, found[0][4])
        return jobs_pb2.ListRunsResponse(runs=runs[: request.limit or None])

    # -- dead letters
    async def _dead_letters(self, request: jobs_pb2.ListDeadLettersRequest, certificate: Certificate) -> jobs_pb2.ListDeadLettersResponse:
        wanted = of_filter(self.admitted_filter(request.filter, certificate))
        return await list_letters(self._service, wanted, page_size(request.page_size), request)

    async def _redrive(self, request: jobs_pb2.RedriveDeadLettersRequest, certificate: Certificate) -> jobs_pb2.ChangeSummary:
        hold = hold_of(request.reason, self.by(request.by, certificate), self._service.now_ns())
        wanted = self._wanted_letters(request.jobs, request.runs, certificate)
        return _found(await redrive_letters(self._service, wanted, hold), request.jobs)

    async def _delete_dead(self, request: jobs_pb2.DeleteDeadLettersRequest, certificate: Certificate) -> jobs_pb2.ChangeSummary:
        wanted = self._wanted_letters(request.jobs, request.runs, certificate)
        return _found(await delete_letters(self._service, wanted), request.jobs)

    def _wanted_letters(self, jobs: jobs_pb2.JobSelector, runs: Sequence[str], certificate: Certificate) -> Wanted:
        which = jobs.WhichOneof("jobs")
        if which is None or (runs and which != "name"):
            raise StatusError(GrpcCode.INVALID_ARGUMENT, "no jobs are selected: name one, or give a filter; runs go with a name")
        if len(runs) > DEAD_LETTER_RUNS_MAX:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, f"at most {DEAD_LETTER_RUNS_MAX} runs")
        if which == "name":
            return of_job(self.composed(jobs.name, certificate), runs)
        return of_filter(self.admitted_filter(jobs.filter, certificate))


def page_size(asked: int) -> int:
    """Raises `StatusError`."""
    if asked > JOB_PAGE_MAX:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"page_size is at most {JOB_PAGE_MAX}")
    return asked or JOB_PAGE_DEFAULT


def _found(summary: jobs_pb2.ChangeSummary, jobs: jobs_pb2.JobSelector) -> jobs_pb2.ChangeSummary:
    """Of a job that is named there must be some. Raises `StatusError`."""
    if jobs.WhichOneof("jobs") == "name" and not summary.changed and not summary.unchanged:
        raise StatusError(GrpcCode.NOT_FOUND, f"no dead letters of job: {jobs.name.name}")
    return summary


def parsed(kind: type[Request], message: bytes) -> Request:
    """Raises `StatusError`."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise StatusError(GrpcCode.INTERNAL, "grpc: error unmarshalling request: malformed message") from None


def not_found(name: jobs_pb2.JobName) -> StatusError:
    return StatusError(GrpcCode.NOT_FOUND, f"job not found: {name.name}")
