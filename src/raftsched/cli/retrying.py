"""`--retry` of `raftsched job configure`, and `raftsched job dead list|redrive|delete`: runs that failed for good, by raftsched.v1."""

import re
from typing import Annotated

import typer
from google.protobuf import any_pb2, json_format

from raftsched.cli import render
from raftsched.cli.finding import instant, job_filter, jobs
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
    Kind,
    Match,
    Namespace,
    OfKind,
    Output,
    Reason,
    Timeout,
)
from raftsched.limits import JOB_PAGE_MAX
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.units import parse_duration

RETRY_HELP = (
    "When failed runs are tried again: initial=1s,factor=2,cap=5m,jitter=10%,max=8 (the first wait alone is needed; max counts all "
    "attempts); none: as the job's failure policy says."
)
NUMBER = re.compile(r"[0-9]{1,7}")
FACTOR = re.compile(r"[0-9]{1,3}(\.[0-9]{1,2})?")
HEAD = ("NAMESPACE", "APP", "NAME", "RUN", "GIVEN UP", "ATTEMPTS", "ERROR")

dead = typer.Typer(no_args_is_help=True, help="Runs that were given up: list them, run them again, delete them.")


def retry_of(text: str) -> state_pb2.Retry:
    """`--retry`."""
    found = state_pb2.Retry()
    for part in text.split(",") if text != "none" else ():
        name, _, value = part.partition("=")
        try:
            _put(found, name, value)
        except ValueError:
            raise typer.BadParameter(f"--retry: {text}: {RETRY_HELP}") from None
    return found


def _put(found: state_pb2.Retry, name: str, value: str) -> None:
    """Raises ValueError."""
    if name in ("initial", "cap"):
        wait = found.initial if name == "initial" else found.cap
        wait.FromNanoseconds(parse_duration(value))
    elif name == "factor" and FACTOR.fullmatch(value):
        found.factor_percent = round(float(value) * 100)
    elif name == "jitter" and value.endswith("%") and NUMBER.fullmatch(value[:-1]):
        found.jitter_percent = int(value[:-1])
    elif name == "max" and NUMBER.fullmatch(value) and int(value):
        found.max_attempts = int(value)
    else:
        raise ValueError(name)


Job = Annotated[list[str] | None, typer.Argument(help="Names of jobs, that may be gone.", show_default=False)]
Runs = Annotated[list[str] | None, typer.Option("--run", help="Only this run of the job, as `dead list` shows it. May be repeated.")]


@dead.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Name: '*' is any run of characters.", show_default=False)] = "",
    *,
    kind: Annotated[Kind | None, typer.Option("--type", help="Of this kind only.")] = None,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Of this namespace only.")] = "",
    app_id: Annotated[str, typer.Option("--app-id", help="Of this app only.")] = "",
    with_data: Annotated[bool, typer.Option("--with-data", help="With the payloads; in JSON alone.")] = False,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    as_json: AsJson = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """List runs that were given up, the oldest of each job first. JSON comes one a line.

    raftsched job dead list 'invoice-*' -n default"""
    wanted = job_filter(pattern, kind, actor_type, actor_id, namespace, app_id)
    plain, token = not (as_json or output is Output.JSON), ""
    with jobs(address) as stub:
        while True:
            request = jobs_pb2.ListDeadLettersRequest(filter=wanted, page_size=JOB_PAGE_MAX, page_token=token, with_data=with_data)
            page = stub.ListDeadLetters(request, timeout=timeout)
            if plain and (page.dead_letters or not token):
                render.print_rows([HEAD, *(_row(letter) for letter in page.dead_letters)], cut=True)
            for letter in page.dead_letters if not plain else ():
                render.print_json_line(_shown(letter))
            token = page.next_page_token
            if not token:
                return


@dead.command("redrive")
def redrive(
    names: Job = None,
    *,
    runs: Runs = None,
    match: Match = None,
    everything: Everything = False,
    kind: OfKind = None,
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
    """Run them again, now: the oldest of each job, which goes when it succeeds. A job that is gone comes back for this one run.

    raftsched job dead redrive nightly --app-id billing --reason 'disk is free again'"""
    check_runs(names, runs)
    with jobs(address) as stub:
        for selector in list(select(names, match, everything, kind, None, actor_type, actor_id, namespace, app_id)):
            request = jobs_pb2.RedriveDeadLettersRequest(jobs=selector, runs=runs or [], reason=reason, by=who(by))
            tell("redriven", stub.RedriveDeadLetters(request, timeout=timeout), as_json=as_json or output is Output.JSON)


@dead.command("delete")
def delete(
    names: Job = None,
    *,
    runs: Runs = None,
    match: Match = None,
    everything: Everything = False,
    kind: OfKind = None,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    as_json: AsJson = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Delete them; they are not run any more.

    raftsched job dead delete --match 'invoice-*' --app-id billing"""
    check_runs(names, runs)
    with jobs(address) as stub:
        for selector in list(select(names, match, everything, kind, None, actor_type, actor_id, namespace, app_id)):
            request = jobs_pb2.DeleteDeadLettersRequest(jobs=selector, runs=runs or [])
            tell("deleted", stub.DeleteDeadLetters(request, timeout=timeout), as_json=as_json or output is Output.JSON)


def check_runs(names: list[str] | None, runs: list[str] | None) -> None:
    if runs and len(names or []) != 1:
        raise typer.BadParameter("--run goes with the name of one job")


def _shown(letter: jobs_pb2.DeadLetter) -> dict[str, object]:
    shown: dict[str, object] = json_format.MessageToDict(letter.name, preserving_proto_field_name=True)
    rest = json_format.MessageToDict(letter, preserving_proto_field_name=True)
    shown |= {name: value for name, value in rest.items() if name not in ("name", "data")}
    if letter.HasField("data"):
        shown["data"] = render.decode_payload(any_pb2.Any(type_url=letter.data.type_url, value=letter.data.value))
    return shown


def _row(letter: jobs_pb2.DeadLetter) -> tuple[str, ...]:
    name = letter.name
    shown = f"{name.actor_type}/{name.actor_id}/{name.name}" if name.actor_type else name.name
    cells = (name.namespace, name.app_id, shown, letter.run, instant(letter.given_up_at), str(letter.attempts), letter.error or "-")
    return tuple(render.plain(cell) for cell in cells)
