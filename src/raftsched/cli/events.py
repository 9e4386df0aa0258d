"""`raftsched job history` and `job events`: what became of jobs, by raftsched.v1."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from google.protobuf import json_format

from raftsched.cli import render
from raftsched.cli.finding import TYPES, instant, job_filter, job_name, jobs
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
    Kind,
    Name,
    Namespace,
    Output,
    Timeout,
)
from raftsched.pb.v1 import jobs_pb2, state_pb2

HEAD = ("SCHEDULED", "SENT", "ANSWERED", "ATTEMPTS", "RESULT", "REPLICA", "ERROR")


def history(
    name: Name,
    *,
    limit: Annotated[int, typer.Option("--limit", min=0, help="The newest so many; 0: all that are kept.")] = 0,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    as_json: AsJson = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Show the last runs of a job that keeps them, the newest first; exit code 3 when there is no such job.

    \b
    raftsched job configure nightly --history 20
    raftsched job history nightly
    """
    asked = job_name(name, actor_type, actor_id, namespace, app_id)
    with jobs(address) as stub:
        runs = stub.ListRuns(jobs_pb2.ListRunsRequest(name=asked, limit=limit), timeout=timeout).runs
    if as_json or output is Output.JSON:
        render.print_json([run_as_dict(run) for run in runs])
        return
    render.print_rows([HEAD, *(_row(run) for run in runs)], cut=True)


def events(
    pattern: Annotated[str, typer.Argument(help="Name: '*' is any run of characters.", show_default=False)] = "",
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then go on with what happens; ends by Ctrl-C.")] = False,
    since: Annotated[str, typer.Option("--since", help="Behind this resume_token, of --json; else all that is kept.")] = "",
    kind: Annotated[Kind | None, typer.Option("--type", help="Of this kind only.")] = None,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Of this namespace only.")] = "",
    app_id: Annotated[str, typer.Option("--app-id", help="Of this app only.")] = "",
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    as_json: AsJson = False,
) -> None:
    """Show what happened to jobs, on all replicas, as far back as the asked one remembers it. One line each.

    \b
    raftsched job events 'invoice-*' --follow
    raftsched job events --json --since 4711
    """
    wanted = job_filter(pattern, kind, actor_type, actor_id, namespace, app_id)
    request = jobs_pb2.WatchEventsRequest(filter=wanted, resume_token=since, oldest=not since, once=not follow)
    say = _say_json if as_json or output is Output.JSON else _say
    with jobs(address) as stub:
        for answer in stub.WatchEvents(request):
            say(answer)


def _say(answer: jobs_pb2.WatchEventsResponse) -> None:
    if answer.missed:
        print("-- something is missing here: it was not read in time, or jobs had to be loaded again")
    for event in answer.events:
        print(_line(event))
    sys.stdout.flush()


def _say_json(answer: jobs_pb2.WatchEventsResponse) -> None:
    """The token is at the last event of those that come together: who goes on from a token that it has seen misses none."""
    shown: list[dict[str, Any]] = [{"missed": True}] if answer.missed else []
    shown += [_event_as_dict(event) for event in answer.events]
    if shown:
        shown[-1]["resume_token"] = answer.resume_token
    for one in shown:
        render.print_json_line(one)


def word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")


def run_as_dict(run: jobs_pb2.Run) -> dict[str, Any]:
    """What is set; attempts always."""
    shown = json_format.MessageToDict(run, preserving_proto_field_name=True)
    result = word(state_pb2.RunResult.Name(run.result), "RUN_RESULT_")
    return shown | {"result": result, "attempts": run.attempts, "revision": run.revision}


def _row(run: jobs_pb2.Run) -> tuple[str, ...]:
    scheduled = "asked for" if run.asked else instant(run.scheduled_at)
    result = word(state_pb2.RunResult.Name(run.result), "RUN_RESULT_")
    cells = (scheduled, instant(run.sent_at), instant(run.answered_at), str(run.attempts), result, run.replica, run.error or "-")
    return tuple(render.plain(cell) for cell in cells)


def _event_as_dict(event: jobs_pb2.Event) -> dict[str, Any]:
    shown: dict[str, Any] = {"event": word(jobs_pb2.EventType.Name(event.type), "EVENT_TYPE_")}
    shown |= json_format.MessageToDict(event.name, preserving_proto_field_name=True)
    rest = json_format.MessageToDict(event, preserving_proto_field_name=True)
    shown |= {name: value for name, value in rest.items() if name not in ("type", "name", "job_type", "run")}
    if event.job_type:
        shown["type"] = next((str(kind) for kind, number in TYPES.items() if number == event.job_type), "?")
    if event.HasField("run"):
        shown["run"] = run_as_dict(event.run)
    return shown | {"revision": event.revision}


def _line(event: jobs_pb2.Event) -> str:
    name = event.name
    parts = (name.namespace, name.app_id, name.actor_type, name.actor_id, name.name)
    what = word(jobs_pb2.EventType.Name(event.type), "EVENT_TYPE_")
    return f"{instant(event.heard_at):24} {what:11} {render.plain('/'.join(part for part in parts if part))}{render.plain(_details(event))}"


def _details(event: jobs_pb2.Event) -> str:
    told = []
    if event.HasField("scheduled_at"):
        told.append(f"of {instant(event.scheduled_at)}")
    if event.count:
        told.append(f"count {event.count}")
    if event.HasField("run"):
        told.append(f"attempts {event.run.attempts}")
    elif event.attempts:
        told.append(f"attempts {event.attempts}")
    if event.run.error:
        told.append(event.run.error)
    return f"  {', '.join(told)}" if told else ""


COMMANDS: tuple[Callable[..., None], ...] = (history, events)
