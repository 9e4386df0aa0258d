"""`raftsched job run`: a run now, beside those of the schedule, by raftsched.v1."""

from typing import Annotated

import typer

from raftsched.cli.finding import jobs
from raftsched.cli.holding import select, tell, who
from raftsched.cli.options import (
    ADDRESS,
    APP_ID,
    NAMESPACE,
    TIMEOUT_S,
    ActorId,
    ActorType,
    Address,
    AppId,
    As,
    AsJson,
    By,
    Everything,
    Labels,
    Match,
    Names,
    Namespace,
    OfKind,
    Output,
    Timeout,
)
from raftsched.pb.v1 import jobs_pb2


def run(
    names: Names = None,
    *,
    match: Match = None,
    everything: Everything = False,
    kind: OfKind = None,
    labels: Labels = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; stands in the store until the run is over.")] = "",
    by: By = None,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    as_json: AsJson = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Ask for a run now, also of paused jobs. The schedule goes on as if it had not been; count and last run stay."""
    selectors = list(select(names, match, everything, kind, labels, actor_type, actor_id, namespace, app_id))
    with jobs(address) as stub:
        for selector in selectors:
            request = jobs_pb2.RunJobsRequest(jobs=selector, reason=reason, by=who(by))
            tell("run asked of", stub.RunJobs(request, timeout=timeout), as_json=as_json or output is Output.JSON)
