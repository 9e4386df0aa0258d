"""raftsched.v1.Jobs/ExplainSchedule: the messages around scheduler/schedule/explain.py.

Must not know: jobs, the store.
"""

from google.protobuf.timestamp_pb2 import Timestamp

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import EXPLAINED_BYTES_MAX, EXPLAINED_FIRES_DEFAULT, EXPLAINED_FIRES_MAX
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.rpc.jobs.configuring import check_misfire
from raftsched.scheduler.schedule import InvalidJobError, Schedules
from raftsched.scheduler.schedule.dialect import named
from raftsched.scheduler.schedule.explain import Asked, Outage, explain, local_text
from raftsched.scheduler.schedule.instants import INSTANT_NS_MAX, INSTANT_NS_MIN
from raftsched.scheduler.schedule.misfires import NS_PER_MS, Misfire

NS_PER_S = 1_000_000_000


def explain_schedule(
    schedules: Schedules, request: jobs_pb2.ExplainScheduleRequest, now_ns: int, key: bytes | None
) -> jobs_pb2.ExplainScheduleResponse:
    """`key`: the composed name of the job that is meant. Raises `StatusError` for what cannot be asked; a schedule that is refused is an
    answer."""
    if any(len(text.encode()) > EXPLAINED_BYTES_MAX for text in (request.schedule, request.due_time, request.ttl)):
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"a text to be explained has at most {EXPLAINED_BYTES_MAX} bytes")
    if request.count > EXPLAINED_FIRES_MAX:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"count is at most {EXPLAINED_FIRES_MAX}")
    if request.HasField("now"):
        now_ns = _instant_ns(request.now, "now")
    stored_ns = _instant_ns(request.last_run, "last_run") if request.HasField("last_run") else now_ns
    if stored_ns > now_ns:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, "last_run is after now")
    outage = Outage(now_ns, _policy(request.misfire))
    schedule = named_schedule(request.schedule, request.dialect) if request.HasField("schedule") else None
    asked = Asked(
        schedule,
        request.due_time if request.HasField("due_time") else None,
        request.ttl if request.HasField("ttl") else None,
        request.repeats if request.HasField("repeats") else None,
        key,
        request.job.namespace,
    )
    found = explain(schedules, asked, now_ns=stored_ns, count=request.count or EXPLAINED_FIRES_DEFAULT, outage=outage)
    if found.refusal is not None:
        why = found.refusal
        before = len(schedule or "") - len(request.schedule) if why.field == "schedule" else 0  # what `dialect` put there
        position = max(why.position - before, 0)
        length = min(why.length, len(getattr(request, why.field)) - position) if before else why.length
        refusal = jobs_pb2.Refusal(reason=why.reason, field=why.field, position=position, length=length)
        return jobs_pb2.ExplainScheduleResponse(refusal=refusal)
    answer = jobs_pb2.ExplainScheduleResponse(
        ends=found.ends,
        zone=found.zone or "UTC",
        missed=found.missed,
        passed_over=found.passed_over,
        missing_calendars=found.missing_calendars,
    )
    for one in found.fires:
        fire = answer.fires.add(local=local_text(one.at_ns, one.offset_s), remarks=one.remarks)
        fire.at.seconds, fire.at.nanos = divmod(one.at_ns, NS_PER_S)
    return answer


def _instant_ns(stamp: Timestamp, name: str) -> int:
    """Raises `StatusError`."""
    instant_ns = stamp.seconds * NS_PER_S + stamp.nanos
    if not INSTANT_NS_MIN <= instant_ns <= INSTANT_NS_MAX:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"{name} is no instant of the years 1 to 9999")
    return instant_ns


def _policy(misfire: state_pb2.Misfire) -> Misfire:
    """Raises `StatusError`."""
    check_misfire(misfire)
    window = misfire.window
    window_ms = window.seconds * 1_000 + window.nanos // NS_PER_MS if misfire.HasField("window") else None
    return Misfire(None if window_ms is None else window_ms * NS_PER_MS, misfire.max)


def named_schedule(schedule: str, dialect: str) -> str:
    """With the dialect in front that a request names beside it. Raises `StatusError`."""
    try:
        return named(schedule, dialect)
    except InvalidJobError as error:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, str(error)) from None
