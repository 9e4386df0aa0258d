"""raftsched.v1.Jobs/ListRuns: the runs that are kept of a job.

Must not know: who asks, how they are written.
"""

from google.protobuf.message import DecodeError

from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.scheduler.jobs._jobs import range_kvs
from raftsched.scheduler.jobs.names import HISTORY, prefix_end
from raftsched.scheduler.jobs.requests import range_request
from raftsched.scheduler.service import SchedulerService


async def kept_runs(service: SchedulerService, composed: bytes, created: int) -> list[jobs_pb2.Run]:
    """Of the job that was created at that revision, the newest first: those of a job before it have lower numbers."""
    prefix = HISTORY + composed + b"/"
    _, body = await service.kv.range(range_request(prefix + b"%016x" % created, prefix_end(prefix)))
    return [run_of(composed, value, revision) for _, value, revision, _, _ in reversed(range_kvs(body))]


def run_of(composed: bytes, value: bytes, revision: int) -> jobs_pb2.Run:
    """Of a RunRecord; one that cannot be read has its revision alone."""
    try:
        record = state_pb2.RunRecord.FromString(value)
    except DecodeError:
        return jobs_pb2.Run(revision=revision)
    run = jobs_pb2.Run(
        run_id=_run_id(composed, record),
        asked=record.asked != 0,
        attempts=record.attempts,
        result=record.result,
        error=record.error,
        replica=record.replica,
        revision=revision,
    )
    for field in ("scheduled_at", "sent_at", "answered_at"):
        if record.HasField(field):
            getattr(run, field).CopyFrom(getattr(record, field))
    return run


def _run_id(composed: bytes, record: state_pb2.RunRecord) -> str:
    """As engine/native/batched.h writes it for workers."""
    at = record.scheduled_at
    instant = f"asked-{record.asked}" if record.asked else f"{at.seconds}.{at.nanos:09}"
    return f"{composed.decode('utf-8', 'replace')}/{instant}/{record.partition_id:016x}/{max(record.attempts, 1) - 1}"
