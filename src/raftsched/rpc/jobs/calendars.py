"""Calendars of raftsched.v1: put, get, list, delete (docs/schedules.md). Their records are the store's; what uses them is the engine's.

Must not know: gRPC's side of a call.
"""

from google.protobuf.message import DecodeError

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import CALENDAR_BYTES_MAX, CALENDARS_MAX, JOB_NAME_BYTES_MAX
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.rpc.jobs.changing import commit
from raftsched.rpc.jobs.holding import hold_of
from raftsched.scheduler.jobs._jobs import range_kvs
from raftsched.scheduler.jobs.names import CALENDARS, prefix_end
from raftsched.scheduler.jobs.requests import Branch, range_request
from raftsched.scheduler.schedule import InvalidJobError
from raftsched.scheduler.schedule.calendars import parse_days
from raftsched.scheduler.schedule.dialect import CALENDAR_NAME
from raftsched.scheduler.service import SchedulerService

PAGE_CALENDARS = 20  # of up to CALENDAR_BYTES_MAX each


def calendar_key(namespace: str, name: str) -> bytes:
    """Raises `StatusError`."""
    if not namespace or len(namespace.encode()) > JOB_NAME_BYTES_MAX:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"namespace is missing, or has more than {JOB_NAME_BYTES_MAX} bytes")
    if CALENDAR_NAME.fullmatch(name) is None:
        raise StatusError(
            GrpcCode.INVALID_ARGUMENT, "the name of a calendar is 1 to 63 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    return CALENDARS + f"{namespace}/{name}".encode()


async def put_calendar(service: SchedulerService, asked: jobs_pb2.Calendar) -> None:
    """Replaces one that is there. Raises `StatusError`."""
    key = calendar_key(asked.namespace, asked.name)
    hold = hold_of(asked.reason, asked.by, service.now_ns())
    record = state_pb2.CalendarRecord(exclude=asked.exclude, reason=hold.reason, by=hold.by, at=hold.at)
    if record.ByteSize() > CALENDAR_BYTES_MAX:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"a calendar has at most {CALENDAR_BYTES_MAX} bytes")
    try:
        parse_days(asked.exclude)
    except InvalidJobError as error:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"calendar {asked.name}: {error}") from None
    known = service.schedules.calendars
    if len(known) >= CALENDARS_MAX and known.get(asked.namespace, asked.name) is None:
        raise StatusError(GrpcCode.RESOURCE_EXHAUSTED, f"there are {CALENDARS_MAX} calendars: delete one")
    await commit(service, [Branch([], [(key, record.SerializeToString())])])


async def get_calendar(service: SchedulerService, namespace: str, name: str) -> jobs_pb2.Calendar:
    """Raises `StatusError`."""
    found = range_kvs((await service.kv.range(range_request(calendar_key(namespace, name))))[1])
    if not found:
        raise StatusError(GrpcCode.NOT_FOUND, f"calendar not found: {name}")
    return _shown(service, found[0][0], found[0][1])


async def list_calendars(service: SchedulerService, namespace: str) -> jobs_pb2.ListCalendarsResponse:
    """Those of a namespace, of all if it is empty; there are CALENDARS_MAX at most, and their rules stay out."""
    answer = jobs_pb2.ListCalendarsResponse()
    prefix = CALENDARS + (f"{namespace}/".encode() if namespace else b"")
    start, end = prefix, prefix_end(prefix)
    while page := range_kvs((await service.kv.range(range_request(start, end, limit=PAGE_CALENDARS)))[1]):
        for key, value, _, _, _ in page:
            one = _shown(service, key, value)
            del one.exclude[:]
            answer.calendars.append(one)
        start = page[-1][0] + b"\0"
    return answer


async def delete_calendar(service: SchedulerService, namespace: str, name: str, *, force: bool) -> None:
    """Raises `StatusError`."""
    await get_calendar(service, namespace, name)
    jobs = service.schedules.calendars.users(namespace, name)
    if jobs and not force:
        raise StatusError(
            GrpcCode.FAILED_PRECONDITION,
            f"calendar {name} is used by {jobs} jobs, which would not fire without it: reschedule them, or use force",
        )
    await commit(service, [Branch([], [(calendar_key(namespace, name), None)])])


def _shown(service: SchedulerService, key: bytes, value: bytes) -> jobs_pb2.Calendar:
    namespace, _, name = key[len(CALENDARS) :].decode("utf-8", "replace").rpartition("/")
    shown = jobs_pb2.Calendar(namespace=namespace, name=name, jobs=service.schedules.calendars.users(namespace, name))
    try:
        record = state_pb2.CalendarRecord.FromString(value)
    except DecodeError:  # somebody else wrote it: it counts as not there
        return shown
    shown.exclude.extend(record.exclude)
    shown.reason, shown.by, shown.rules = record.reason, record.by, len(record.exclude)
    shown.at.CopyFrom(record.at)
    return shown
