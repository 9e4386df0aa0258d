"""`raftsched job explain`: what a schedule would do, or where it is wrong, asked of a running scheduler."""

from datetime import datetime
from typing import Annotated, Any

import typer
from google.protobuf import json_format

from raftsched.cli import render
from raftsched.cli.configuring import HELP, misfire_of
from raftsched.cli.finding import instant, job_name, jobs
from raftsched.cli.options import ADDRESS, APP_ID, NAMESPACE, TIMEOUT_S, Address, AppId, As, AsJson, Namespace, Output, Repeats, Timeout
from raftsched.limits import EXPLAINED_PASSED_MAX
from raftsched.pb.v1 import jobs_pb2

REFUSED = 1
INSTANTS = ["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]
MISSED = "missed, run at once"
DIALECT_HELP = "extended: as if the schedule began with DIALECT=extended (docs/schedules.md)."


def explain(
    schedule: Annotated[str | None, typer.Argument(help="Six cron fields, '@daily' …, or '@every <duration>'.", show_default=False)] = None,
    *,
    due_time: Annotated[str | None, typer.Option("--due-time", "-d", help="When it fires first.")] = None,
    repeats: Repeats = None,
    ttl: Annotated[str | None, typer.Option("--ttl", help="When it ends.")] = None,
    misfire: Annotated[str | None, typer.Option("--misfire", help=HELP, metavar="POLICY")] = None,
    last_run: Annotated[
        datetime | None,
        typer.Option(
            "--last-run", formats=INSTANTS, help="Nobody ran the job since then (UTC, or with an offset); the rest counts from there."
        ),
    ] = None,
    dialect: Annotated[str, typer.Option("--dialect", help=DIALECT_HELP)] = "",
    job: Annotated[str | None, typer.Option("--job", help="Name of the job by whose key H and jitter go; with --app-id and -n.")] = None,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    count: Annotated[int, typer.Option("--next", "-c", min=1, max=1000, help="How many fires to show.")] = 10,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    as_json: AsJson = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Show the next runs of a schedule with what clock changes do to them, or why and where it is refused (exit code 1).

    \b
    raftsched job explain 'CRON_TZ=Europe/Rome 0 30 2 * * *' --next 5
    raftsched job explain '@every 10m' --last-run 2026-11-20T18:00:00Z --misfire latest
    raftsched job explain --dialect extended 'H 9 LBD * *' --job invoices --app-id billing
    """
    request = jobs_pb2.ExplainScheduleRequest(schedule=schedule, due_time=due_time, ttl=ttl, repeats=repeats, count=count, dialect=dialect)
    if misfire is not None:
        request.misfire.CopyFrom(misfire_of(misfire))
    if last_run is not None:
        request.last_run.FromDatetime(last_run)
    if job is not None or "EXCLUDE=" in (schedule or ""):
        request.job.CopyFrom(job_name(job or "", None, None, namespace, app_id if job else ""))
    with jobs(address) as stub:
        answer = stub.ExplainSchedule(request, timeout=timeout)
    if as_json or output is Output.JSON:
        shown: dict[str, Any] = json_format.MessageToDict(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        render.print_json(shown)
    elif answer.HasField("refusal"):
        _print_refusal(getattr(request, answer.refusal.field), answer.refusal)
    else:
        _print_fires(answer)
    if answer.HasField("refusal"):
        raise typer.Exit(REFUSED)


def _print_refusal(given: object, refusal: jobs_pb2.Refusal) -> None:
    print(f"refused: {render.plain(refusal.reason)}")
    text = str(given)
    if given is not None and refusal.length and text.isprintable():
        print(f"  {refusal.field.replace('_', ' ')}: {text}")
        print(" " * (4 + len(refusal.field) + refusal.position) + "^" * refusal.length)


def _print_fires(answer: jobs_pb2.ExplainScheduleResponse) -> None:
    rows = [("UTC", render.plain(answer.zone), "REMARKS")]
    for number, fire in enumerate(answer.fires):
        remarks = [MISSED, *fire.remarks] if number < answer.missed else fire.remarks
        rows.append((instant(fire.at), render.plain(fire.local), render.plain("; ".join(remarks))))
    render.print_rows(rows, cut=False)
    if answer.passed_over:
        print(f"passed over: {answer.passed_over}{' or more' if answer.passed_over == EXPLAINED_PASSED_MAX else ''}")
    for name in answer.missing_calendars:
        print(f"nothing is run while this calendar is not there: {render.plain(name)}")
    if answer.ends:
        print("no run after these" if answer.fires else "it never runs")
