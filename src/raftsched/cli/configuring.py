"""`raftsched job configure`: what a job has beside Dapr's fields, by raftsched.v1."""

import re
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration

from raftsched.cli.finding import jobs, labels_of
from raftsched.cli.holding import select, tell
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
    Everything,
    Labels,
    Match,
    Names,
    Namespace,
    OfKind,
    Output,
    Timeout,
)
from raftsched.cli.retrying import RETRY_HELP, retry_of
from raftsched.limits import HISTORY_RUNS_MAX, MISFIRE_RUNS_MAX, MISFIRE_SKIP_S
from raftsched.pb.v1 import jobs_pb2, state_pb2

PRESETS = {
    "all": state_pb2.Misfire(),
    "latest": state_pb2.Misfire(max=1),
    "skip": state_pb2.Misfire(max=1, window=Duration(seconds=MISFIRE_SKIP_S)),
}
UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
WINDOW = re.compile(r"([0-9]{1,8})([smhd])")

HELP = "Which missed ticks are run: all; latest; skip: the latest, if it is not a minute late; window=10m; max=3; window=10m,max=3."


def misfire_of(text: str) -> state_pb2.Misfire:
    """`--misfire`."""
    if text in PRESETS:
        return PRESETS[text]
    found = state_pb2.Misfire()
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name == "window" and (window := WINDOW.fullmatch(value)):
            found.window.FromSeconds(int(window[1]) * UNITS_S[window[2]])
        elif name == "max" and value.isdecimal() and 0 < int(value) <= MISFIRE_RUNS_MAX:
            found.max = int(value)
        else:
            raise typer.BadParameter(f"--misfire: {text}: {HELP}")
    return found


def configure(
    names: Names = None,
    *,
    set_labels: Annotated[list[str] | None, typer.Option("--set-label", help="A label to be set, as name=value. May be repeated.")] = None,
    remove_labels: Annotated[list[str] | None, typer.Option("--remove-label", help="Name of a label that goes. May be repeated.")] = None,
    misfire: Annotated[str | None, typer.Option("--misfire", help=HELP, metavar="POLICY")] = None,
    retry: Annotated[str | None, typer.Option("--retry", help=RETRY_HELP, metavar="LADDER")] = None,
    dead_letters: Annotated[bool | None, typer.Option("--dead-letters/--no-dead-letters", help="Keep runs that are given up.")] = None,
    history: Annotated[
        int | None, typer.Option("--history", min=0, max=HISTORY_RUNS_MAX, help="How many of the last runs are kept; 0: none any more.")
    ] = None,
    match: Match = None,
    everything: Everything = False,
    kind: OfKind = None,
    labels: Labels = None,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    as_json: AsJson = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Give jobs labels, or take them away; say which missed ticks are run, when failed runs are tried again, and what is kept of runs.

    What is not named stays as it is, also when the job is overwritten."""
    wanted = jobs_pb2.ConfigureJobsRequest(set_labels=labels_of(set_labels), remove_labels=remove_labels or [])
    if misfire is not None:
        wanted.misfire.CopyFrom(misfire_of(misfire))
    if retry is not None:
        wanted.retry.CopyFrom(retry_of(retry))
    if dead_letters is not None:
        wanted.dead_letters = dead_letters
    if history is not None:
        wanted.history.CopyFrom(state_pb2.History(runs=history))
    if not wanted.ByteSize():
        raise typer.BadParameter("nothing is to be changed")
    selectors = list(select(names, match, everything, kind, labels, actor_type, actor_id, namespace, app_id))
    with jobs(address) as stub:
        for selector in selectors:
            wanted.jobs.CopyFrom(selector)
            tell("configured", stub.ConfigureJobs(wanted, timeout=timeout), as_json=as_json or output is Output.JSON)
