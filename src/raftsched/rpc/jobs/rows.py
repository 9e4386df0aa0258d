"""A stored record and what the engine knows of it → raftsched.v1.Job.

Must not know: who asks, where records come from.
"""

from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from raftsched.pb.dapr.stored_api_pb2 import FailurePolicy
from raftsched.pb.v1 import jobs_pb2
from raftsched.rpc.jobs.filters import type_of
from raftsched.scheduler.engine._engine import AT_GATE, AT_ROUTE, AT_STREAM, AT_WORKER, Engine
from raftsched.scheduler.engine.states import State
from raftsched.scheduler.jobs._jobs import DEFAULT_POLICY, WireError, decode_stored_job, parse_metadata
from raftsched.scheduler.jobs.dead_letters import error_text, run_id
from raftsched.scheduler.jobs.fields import Instant, JobView, Metadata
from raftsched.scheduler.jobs.names import JOBS, Owner, name_prefix
from raftsched.scheduler.schedule.dialect import dialect_of

LATE: Final = {
    AT_ROUTE: jobs_pb2.LATE_REASON_NO_WORKER,
    AT_GATE: jobs_pb2.LATE_REASON_CONCURRENCY_LIMIT,
    AT_STREAM: jobs_pb2.LATE_REASON_WORKER_BUSY,
    AT_WORKER: jobs_pb2.LATE_REASON_AWAITING_RESULT,
}


class Record:
    """A record under dapr/jobs/, parsed. Raises `WireError`, also for one whose metadata do not lead to its key."""

    __slots__ = ("composed", "created", "fields", "metadata", "name", "revision")

    def __init__(self, key: bytes, value: bytes, revision: int, created: int) -> None:
        """`revision`, `created`: of the key, of its last change and of its creation."""
        self.composed = key[len(JOBS) :]
        self.revision, self.created = revision, created
        self.fields = decode_stored_job(value)
        stored_metadata = self.fields[8]
        if stored_metadata is None:
            raise WireError("no metadata")
        self.metadata: Metadata = parse_metadata(stored_metadata)
        app_id, namespace, target, actor_id, actor_type, _ = self.metadata
        prefix = name_prefix(Owner(namespace, app_id, target, actor_type, actor_id)).encode() if target else b"?"
        if not self.composed.startswith(prefix):
            raise WireError("metadata do not lead to the key")
        self.name = self.composed[len(prefix) :].decode("utf-8", "replace")


def job_of(record: Record, view: JobView | None, now_ns: int) -> jobs_pb2.Job:
    """Without payload and failure policy. `view` None: the engine does not know the job; then its state is unspecified."""
    app_id, namespace, target, actor_id, actor_type, _ = record.metadata
    _, _, begin, expiration, schedule, due_time, ttl, repeats, _, _, _ = record.fields
    job = jobs_pb2.Job(
        name=jobs_pb2.JobName(namespace=namespace, app_id=app_id, name=record.name, actor_type=actor_type, actor_id=actor_id),
        type=type_of(target, actor_type) if target else jobs_pb2.JOB_TYPE_JOB,
        schedule=_text(schedule),
        due_time=_text(due_time),
        ttl=_text(ttl),
        repeats=repeats,
        begins=_stamp(begin),
        expires=_stamp(expiration),
        revision=record.revision,
        dialect=dialect_of(_text(schedule) or ""),
    )
    if view is not None:
        _put_view(job, view, now_ns)
    return job


def _put_view(job: jobs_pb2.Job, view: JobView, now_ns: int) -> None:
    _, state, place, owned, tick, finished, last, count, attempts, paused, frozen, _, wanted = view
    job.owned, job.count, job.attempts, job.run_wanted = owned, count, attempts, wanted
    if tick is not None:
        job.next_run.seconds, job.next_run.nanos = tick
    if last is not None:
        job.last_run.seconds, job.last_run.nanos = last
    job.state, job.late = state_of(state, place, owned=owned, finished=finished, tick=tick, attempts=attempts, now_ns=now_ns)
    if (frozen or (paused and not wanted)) and job.state != jobs_pb2.JOB_STATE_RUNNING:
        job.state = jobs_pb2.JOB_STATE_PAUSED if paused else jobs_pb2.JOB_STATE_FROZEN
        job.late = jobs_pb2.LATE_REASON_UNSPECIFIED


def state_of(
    state: int, place: int, *, owned: bool, finished: bool, tick: Instant | None, attempts: int, now_ns: int
) -> "tuple[jobs_pb2.JobState.ValueType, jobs_pb2.LateReason.ValueType]":
    """What the engine's state means to people."""
    unspecified = jobs_pb2.LATE_REASON_UNSPECIFIED
    if state == State.COMMITTING:
        return jobs_pb2.JOB_STATE_RUNNING, jobs_pb2.LATE_REASON_STORING_RESULT
    if finished:
        return jobs_pb2.JOB_STATE_FINISHED, unspecified
    if tick is None:
        return jobs_pb2.JOB_STATE_NEVER, unspecified
    if place == AT_WORKER:
        return jobs_pb2.JOB_STATE_RUNNING, jobs_pb2.LATE_REASON_AWAITING_RESULT
    if place in LATE:
        return jobs_pb2.JOB_STATE_LATE, LATE[place]
    if owned and attempts and tick[0] * 10**9 + tick[1] < now_ns:
        return jobs_pb2.JOB_STATE_LATE, jobs_pb2.LATE_REASON_RETRY
    return jobs_pb2.JOB_STATE_SCHEDULED, unspecified


def put_details(job: jobs_pb2.Job, record: Record) -> None:
    """Payload and failure policy; a policy that is not set is what it means."""
    payload, policy = record.fields[9], record.fields[10]
    try:
        if payload is not None:
            data = Any.FromString(payload)
            job.data.type_url, job.data.value = data.type_url, data.value
        stored = FailurePolicy.FromString(policy or b"")
        if stored.WhichOneof("policy") is None:
            stored = FailurePolicy.FromString(DEFAULT_POLICY)
    except DecodeError:
        raise WireError("malformed payload or failure policy") from None
    if stored.HasField("drop"):
        job.failure_policy.drop = True
        return
    job.failure_policy.interval.CopyFrom(stored.constant.interval)
    if stored.constant.HasField("max_retries"):
        job.failure_policy.max_retries = stored.constant.max_retries


def put_failures(job: jobs_pb2.Job, composed: bytes, engine: Engine) -> None:
    """When it is tried again, and its last error, of a job whose view was put."""
    if (job.attempts or job.run_wanted) and (due_ms := engine.next_attempt_ms(composed)) is not None:
        job.next_attempt.FromMilliseconds(due_ms)
    found = engine.last_error(composed)
    if found is None:
        return
    at_ms, tick, asked, partition_id, attempt, error = found
    job.last_error.at.FromMilliseconds(at_ms)
    job.last_error.run_id = run_id(composed, tick, asked, partition_id, attempt).decode("utf-8", "replace")
    if tick is not None:
        job.last_error.scheduled_at.seconds, job.last_error.scheduled_at.nanos = tick
    job.last_error.attempt, job.last_error.text = attempt, error_text(error)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _stamp(instant: Instant | None) -> Timestamp | None:
    return None if instant is None else Timestamp(seconds=instant[0], nanos=instant[1])
