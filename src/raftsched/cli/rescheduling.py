"""`raftsched job reschedule`: another schedule for jobs that are there, by raftsched.v1."""

from typing import Annotated

import typer

from raftsched.cli.explaining import DIALECT_HELP
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


def reschedule(
    names: Names = None,
    *,
    schedule: Annotated[str | None, typer.Option("--schedule", "-s", help="When they recur.")] = None,
    dialect: Annotated[str, typer.Option("--dialect", help=DIALECT_HELP)] = "",
    due_time: Annotated[str | None, typer.Option("--due-time", "-d", help="When they fire first.")] = None,
    repeats: Annotated[int | None, typer.Option("--repeats", "-r", min=0, max=2**32 - 1, help="How often they fire.")] = None,
    ttl: Annotated[str | None, typer.Option("--ttl", help="When they end.")] = None,
    match: Match = None,
    everything: Everything = False,
    kind: OfKind = None,
    labels: Labels = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; `job describe` shows it.")] = "",
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
    """Give jobs another schedule, due time, ttl and repeats; what is not given they will not have. Payload and failure policy stay."""
    selectors = list(select(names, match, everything, kind, labels, actor_type, actor_id, namespace, app_id))
    with jobs(address) as stub:
        for selector in selectors:
            request = jobs_pb2.RescheduleJobsRequest(
                jobs=selector, schedule=schedule, due_time=due_time, ttl=ttl, repeats=repeats, reason=reason, by=who(by), dialect=dialect
            )
            tell("rescheduled", stub.RescheduleJobs(request, timeout=timeout), as_json=as_json or output is Output.JSON)
