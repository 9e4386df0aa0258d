"""`raftsched job pause|resume|freeze|unfreeze|frozen`: what may not fire, why, and by whom, by raftsched.v1."""

import getpass
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from google.protobuf import json_format

from raftsched.cli import render
from raftsched.cli.finding import instant, job_filter, job_name, jobs
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
    Kind,
    Labels,
    Match,
    Missed,
    MissedTicks,
    Names,
    Namespace,
    OfKind,
    Output,
    Reason,
    Timeout,
)
from raftsched.pb.v1 import jobs_pb2

MISSED = {
    Missed.SKIP: jobs_pb2.MISSED_TICKS_SKIP,
    Missed.RUN: jobs_pb2.MISSED_TICKS_RUN,
    Missed.POLICY: jobs_pb2.MISSED_TICKS_POLICY,
}


def pause(
    names: Names = None,
    *,
    match: Match = None,
    everything: Everything = False,
    kind: OfKind = None,
    labels: Labels = None,
    reason: Reason = "",
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
    """Hold jobs back: nothing of them fires until they are resumed. What a worker has already is finished."""
    selectors = list(select(names, match, everything, kind, labels, actor_type, actor_id, namespace, app_id))
    with jobs(address) as stub:
        for selector in selectors:
            request = jobs_pb2.PauseJobsRequest(jobs=selector, reason=reason, by=who(by))
            tell("paused", stub.PauseJobs(request, timeout=timeout), as_json=as_json or output is Output.JSON)


def resume(
    names: Names = None,
    *,
    match: Match = None,
    everything: Everything = False,
    kind: OfKind = None,
    labels: Labels = None,
    missed: MissedTicks = Missed.SKIP,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    as_json: AsJson = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Let paused jobs fire again."""
    selectors = list(select(names, match, everything, kind, labels, actor_type, actor_id, namespace, app_id))
    with jobs(address) as stub:
        for selector in selectors:
            request = jobs_pb2.ResumeJobsRequest(jobs=selector, missed=MISSED[missed])
            tell("resumed", stub.ResumeJobs(request, timeout=timeout), as_json=as_json or output is Output.JSON)


def freeze(
    namespace: Annotated[str, typer.Argument(help="Name of the namespace.", show_default=False)],
    *,
    reason: Reason = "",
    by: By = None,
    address: Address = ADDRESS,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Hold back every job of a namespace, also those that are created later."""
    with jobs(address) as stub:
        stub.FreezeNamespace(jobs_pb2.FreezeNamespaceRequest(namespace=namespace, reason=reason, by=who(by)), timeout=timeout)
    print(f"frozen {render.plain(namespace)}")


def unfreeze(
    namespace: Annotated[str, typer.Argument(help="Name of the namespace.", show_default=False)],
    *,
    missed: MissedTicks = Missed.SKIP,
    address: Address = ADDRESS,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Let the jobs of a namespace fire again; exit code 3 when it is not frozen."""
    with jobs(address) as stub:
        stub.UnfreezeNamespace(jobs_pb2.UnfreezeNamespaceRequest(namespace=namespace, missed=MISSED[missed]), timeout=timeout)
    print(f"unfrozen {render.plain(namespace)}")


def frozen(*, address: Address = ADDRESS, output: As = Output.TABLE, as_json: AsJson = False, timeout: Timeout = TIMEOUT_S) -> None:
    """List the namespaces that are frozen."""
    with jobs(address) as stub:
        found = stub.ListFreezes(jobs_pb2.ListFreezesRequest(), timeout=timeout).freezes
    if as_json or output is Output.JSON:
        render.print_json([json_format.MessageToDict(one, preserving_proto_field_name=True) for one in found])
        return
    rows = [("NAMESPACE", "SINCE", "BY", "REASON")]
    rows += [(render.plain(one.namespace), instant(one.hold.at), render.plain(one.hold.by), render.plain(one.hold.reason)) for one in found]
    render.print_rows(rows, cut=True)


def select(
    names: list[str] | None,
    match: str | None,
    everything: bool,
    kind: Kind | None,
    labels: list[str] | None,
    actor_type: str | None,
    actor_id: str | None,
    namespace: str,
    app_id: str,
) -> Iterator[jobs_pb2.JobSelector]:
    if bool(names) + (match is not None) + everything != 1:
        raise typer.BadParameter("give names, or --match, or --all")
    if match == "":
        raise typer.BadParameter("--match is empty; to select every job say --all")
    if not names:
        yield jobs_pb2.JobSelector(filter=job_filter(match or "", kind, actor_type, actor_id, namespace, app_id, labels))
    elif kind is not None or labels:
        raise typer.BadParameter("--type and --label go with --match or --all")
    for name in names or []:
        yield jobs_pb2.JobSelector(name=job_name(name, actor_type, actor_id, namespace, app_id))


def who(by: str | None) -> str:
    """Who is at the console, if nothing is said."""
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return ""


def tell(done: str, summary: jobs_pb2.ChangeSummary, *, as_json: bool) -> None:
    if as_json:
        render.print_json_line({"changed": summary.changed, "unchanged": summary.unchanged})
    else:
        rest = f", {summary.unchanged} unchanged" if summary.unchanged else ""
        print(f"{done} {summary.changed}{rest}")


COMMANDS: tuple[Callable[..., None], ...] = (pause, resume, freeze, unfreeze, frozen)
