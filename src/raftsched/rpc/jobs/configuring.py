"""Configure: what a job has beside Dapr's fields, in its record under raftsched/jobs/.

Must not know: gRPC's side of a call, how the engine uses it.
"""

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import (
    HISTORY_RUNS_MAX,
    MISFIRE_RUNS_MAX,
    MISFIRE_WINDOW_S_MAX,
    RETRY_ATTEMPTS_MAX,
    RETRY_FACTOR_PERCENT_MAX,
    RETRY_WAIT_S_MAX,
)
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.rpc.jobs.changing import Changer, Seen
from raftsched.rpc.jobs.filters import check_labels
from raftsched.scheduler.jobs.dead_letters import dead_key
from raftsched.scheduler.jobs.names import HISTORY, JOBS, STATES
from raftsched.scheduler.jobs.requests import Branch
from raftsched.scheduler.service import SchedulerService

NS_PER_S = 1_000_000_000


def configuring(service: SchedulerService, request: jobs_pb2.ConfigureJobsRequest) -> Changer:
    """Raises `StatusError`, also from the changer, for a job that would have too much."""
    check_labels(request.set_labels)
    check_misfire(request.misfire)
    check_retry(request.retry)
    if request.history.runs > HISTORY_RUNS_MAX:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"at most {HISTORY_RUNS_MAX} runs can be kept")
    if twice := sorted(set(request.set_labels) & set(request.remove_labels)):
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"a label cannot be set and removed: {twice[0]}")

    def plan(seen: Seen) -> Branch | None:
        composed = seen.record.composed
        extra = state_pb2.JobExtra()
        extra.CopyFrom(seen.extra)
        for name in request.remove_labels:
            extra.labels.pop(name, None)
        extra.labels.update(request.set_labels)
        if request.HasField("misfire"):
            extra.misfire.CopyFrom(request.misfire)
            if not request.misfire.ByteSize():
                extra.ClearField("misfire")
        if request.HasField("retry"):
            extra.retry.CopyFrom(request.retry)
            if not request.retry.ByteSize():
                extra.ClearField("retry")
        if request.HasField("dead_letters"):
            extra.dead_letters = request.dead_letters
        if request.HasField("history"):
            extra.history.CopyFrom(request.history)
            if not request.history.runs:
                extra.ClearField("history")
        if extra == seen.extra:
            return None
        check_labels(extra.labels)
        revisions = [(JOBS + composed, seen.record.revision), (STATES + composed, seen.extra_revision)]
        changes: list[tuple[bytes, bytes | None]] = [(STATES + composed, extra.SerializeToString() or None)]
        if extra.dead_letters and not seen.extra.dead_letters:
            # Nothing is there. Who may not write there is told so now: later no result of this job could be stored, nor others beside it.
            changes.append((dead_key(composed, b""), None))
        if extra.history.runs and not seen.extra.history.runs:
            changes.append((HISTORY + composed + b"/", None))  # for the same reason
        return Branch(revisions, changes)

    return Changer(service, plan)


def check_misfire(misfire: state_pb2.Misfire) -> None:
    """Raises `StatusError`."""
    if misfire.max > MISFIRE_RUNS_MAX:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"at most {MISFIRE_RUNS_MAX} missed ticks can be wanted, or all")
    window = misfire.window
    if not (0 <= window.seconds <= MISFIRE_WINDOW_S_MAX and 0 <= window.nanos < NS_PER_S):
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"the window of missed ticks is 0 to {MISFIRE_WINDOW_S_MAX} s")


def check_retry(retry: state_pb2.Retry) -> None:
    """Raises `StatusError`. An empty one is none."""
    if not retry.ByteSize():
        return
    for wait, what in ((retry.initial, "the first wait"), (retry.cap, "the cap")):
        if not (0 <= wait.seconds <= RETRY_WAIT_S_MAX and 0 <= wait.nanos < NS_PER_S):
            raise StatusError(GrpcCode.INVALID_ARGUMENT, f"{what} of a retry ladder is 0 to {RETRY_WAIT_S_MAX} s")
    if not retry.initial.seconds and not retry.initial.nanos:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, "a retry ladder needs its first wait")
    if retry.HasField("cap") and (retry.cap.seconds, retry.cap.nanos) < (retry.initial.seconds, retry.initial.nanos):
        raise StatusError(GrpcCode.INVALID_ARGUMENT, "the cap of a retry ladder is not below its first wait")
    if retry.factor_percent and not 100 <= retry.factor_percent <= RETRY_FACTOR_PERCENT_MAX:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"the factor of a retry ladder is 100 to {RETRY_FACTOR_PERCENT_MAX} percent")
    if retry.jitter_percent > 100:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, "the jitter of a retry ladder is at most 100 percent")
    if retry.max_attempts > RETRY_ATTEMPTS_MAX:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"at most {RETRY_ATTEMPTS_MAX} attempts can be wanted, or without end")
