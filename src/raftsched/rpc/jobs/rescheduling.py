"""Reschedule: another schedule for jobs that are there, which keep payload, target and failure policy.

Must not know: gRPC's side of a call.
"""

from raftsched.errors import GrpcCode, StatusError
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.rpc.jobs.changing import Changer, Seen
from raftsched.rpc.jobs.explaining import named_schedule
from raftsched.scheduler.jobs._jobs import DEFAULT_POLICY, encode_stored_job
from raftsched.scheduler.jobs.names import JOBS, STATES
from raftsched.scheduler.jobs.requests import Branch
from raftsched.scheduler.schedule import InvalidJobError, ResolvedJob, validate_job
from raftsched.scheduler.service import SchedulerService

NS_PER_S = 1_000_000_000


def rescheduling(service: SchedulerService, request: jobs_pb2.RescheduleJobsRequest, change: state_pb2.Change) -> Changer:
    """All count from now, with a new counter, as after an overwrite by ScheduleJob. Raises `StatusError` for what that would refuse."""
    if request.HasField("schedule"):
        request.schedule = named_schedule(request.schedule, request.dialect)
    resolved = _resolved(service, request)

    def plan(seen: Seen) -> Branch | None:
        composed = seen.record.composed
        extra = state_pb2.JobExtra()
        extra.CopyFrom(seen.extra)
        extra.last_change.CopyFrom(change)
        revisions = [(JOBS + composed, seen.record.revision), (STATES + composed, seen.extra_revision)]
        changes = [(JOBS + composed, _stored(service, request, resolved, seen)), (STATES + composed, extra.SerializeToString())]
        return Branch(revisions, changes)

    return Changer(service, plan)


def _resolved(service: SchedulerService, request: jobs_pb2.RescheduleJobsRequest) -> ResolvedJob:
    try:
        return validate_job(
            service.schedules,
            schedule=request.schedule if request.HasField("schedule") else None,
            due_time=request.due_time if request.HasField("due_time") else None,
            ttl=request.ttl if request.HasField("ttl") else None,
            repeats=request.repeats if request.HasField("repeats") else None,
            now_ns=service.now_ns(),
        )
    except InvalidJobError as error:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"job failed validation: {error}") from None


def _stored(service: SchedulerService, request: jobs_pb2.RescheduleJobsRequest, resolved: ResolvedJob, seen: Seen) -> bytes:
    metadata, payload, policy = seen.record.fields[8:]
    begin_ns = resolved.start_ns if resolved.due_ns is None else resolved.due_ns
    return encode_stored_job(
        service.random(),
        resolved.due_ns is not None,
        *divmod(begin_ns, NS_PER_S),
        None if resolved.expiration_ns is None else divmod(resolved.expiration_ns, NS_PER_S),
        request.schedule.encode() if request.HasField("schedule") else None,
        request.due_time.encode() if request.HasField("due_time") else None,
        request.ttl.encode() if request.HasField("ttl") else None,
        request.repeats if request.HasField("repeats") else None,
        metadata or b"",
        payload,
        policy or DEFAULT_POLICY,
    )
