"""Run now: a request beside the job, which its owner takes up and removes with the result.

Must not know: gRPC's side of a call, how the engine makes a run of it.
"""

from raftsched.pb.v1 import state_pb2
from raftsched.rpc.jobs.changing import Changer, Seen
from raftsched.scheduler.jobs.names import JOBS, RUNS
from raftsched.scheduler.jobs.requests import Branch
from raftsched.scheduler.service import SchedulerService


def running(service: SchedulerService, request: state_pb2.RunRequest) -> Changer:
    """Whose run was asked for already is left alone."""

    def plan(seen: Seen) -> Branch | None:
        composed = seen.record.composed
        view = service.engine.look(composed)
        if view is not None and view[12]:
            return None
        revisions = [(JOBS + composed, seen.record.revision), (RUNS + composed, 0)]
        return Branch(revisions, [(RUNS + composed, request.SerializeToString())])

    return Changer(service, plan)
