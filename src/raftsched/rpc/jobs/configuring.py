"""Configure: what a job has beside Dapr's fields, in its record under raftsched/jobs/.

Must not know: gRPC's side of a call, how the engine uses it.
"""

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import MISFIRE_RUNS_MAX, MISFIRE_WINDOW_S_MAX
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.rpc.jobs.changing import Changer, Seen
from raftsched.rpc.jobs.filters import check_labels
from raftsched.scheduler.jobs.names import JOBS, STATES
from raftsched.scheduler.jobs.requests import Branch
from raftsched.scheduler.service import SchedulerService

NS_PER_S = 1_000_000_000


def configuring(service: SchedulerService, request: jobs_pb2.ConfigureJobsRequest) -> Changer:
    """Raises `StatusError`, also from the changer, for a job that would have too much."""
    check_labels(request.set_labels)
    check_misfire(request.misfire)
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
        if extra == seen.extra:
            return None
        check_labels(extra.labels)
        revisions = [(JOBS + composed, seen.record.revision), (STATES + composed, seen.extra_revision)]
        return Branch(revisions, [(STATES + composed, extra.SerializeToString() or None)])

    return Changer(service, plan)


def check_misfire(misfire: state_pb2.Misfire) -> None:
    """Raises `StatusError`."""
    if misfire.max > MISFIRE_RUNS_MAX:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"at most {MISFIRE_RUNS_MAX} missed ticks can be wanted, or all")
    window = misfire.window
    if not (0 <= window.seconds <= MISFIRE_WINDOW_S_MAX and 0 <= window.nanos < NS_PER_S):
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"the window of missed ticks is 0 to {MISFIRE_WINDOW_S_MAX} s")
