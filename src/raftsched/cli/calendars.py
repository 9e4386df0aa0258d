"""`raftsched job calendar put|get|list|delete`: days on which schedules that name them do not fire, by raftsched.v1."""

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format

from raftsched.cli import render
from raftsched.cli.finding import instant, jobs
from raftsched.cli.holding import who
from raftsched.cli.options import ADDRESS, NAMESPACE, TIMEOUT_S, Address, As, AsJson, By, Namespace, Output, Reason, Timeout
from raftsched.pb.v1 import jobs_pb2

app = typer.Typer(help="Days on which jobs do not fire.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the calendar.", show_default=False)]


@app.command("put")
def put(
    name: Name,
    rules: Annotated[
        list[str] | None, typer.Argument(help="2026-12-25; 12-25 of each year; either as a range a..b; SAT.", show_default=False)
    ] = None,
    *,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="More of them, one a line; what follows '#' is a remark.")] = None,
    reason: Reason = "",
    by: By = None,
    namespace: Namespace = NAMESPACE,
    address: Address = ADDRESS,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Create a calendar, or replace the one of this name.

    \b
    raftsched job calendar put holidays-de 01-01 05-01 10-03 12-25..12-26 2026-04-03 2026-04-06
    raftsched job schedule report -s 'DIALECT=extended EXCLUDE=holidays-de 0 9 BD * *'
    """
    given = [*(rules or []), *(_lines(file) if file is not None else ())]
    calendar = jobs_pb2.Calendar(namespace=namespace, name=name, exclude=given, reason=reason, by=who(by))
    with jobs(address) as stub:
        stub.PutCalendar(jobs_pb2.PutCalendarRequest(calendar=calendar), timeout=timeout)
    print(f"put {render.plain(name)}: {len(given)} rules")


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--file: {error}") from None
    return [rule for line in text.splitlines() if (rule := line.partition("#")[0].strip())]


@app.command("get")
def get(
    name: Name,
    *,
    namespace: Namespace = NAMESPACE,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    as_json: AsJson = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Show a calendar, a rule a line; exit code 3 when there is none."""
    with jobs(address) as stub:
        found = stub.GetCalendar(jobs_pb2.GetCalendarRequest(namespace=namespace, name=name), timeout=timeout)
    if as_json or output is Output.JSON:
        render.print_json(json_format.MessageToDict(found, preserving_proto_field_name=True))
        return
    for rule in found.exclude:
        print(render.plain(rule))


@app.command("list")
def list_(
    *,
    namespace: Namespace = NAMESPACE,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    as_json: AsJson = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """List the calendars of a namespace; of all with -n ''."""
    with jobs(address) as stub:
        found = stub.ListCalendars(jobs_pb2.ListCalendarsRequest(namespace=namespace), timeout=timeout).calendars
    if as_json or output is Output.JSON:
        render.print_json([json_format.MessageToDict(one, preserving_proto_field_name=True) for one in found])
        return
    rows = [["NAMESPACE", "NAME", "RULES", "JOBS", "SINCE", "BY", "REASON"]]
    for one in found:
        texts = (one.namespace, one.name, str(one.rules), str(one.jobs), instant(one.at), one.by, one.reason)
        rows.append([render.plain(text) for text in texts])
    render.print_rows(rows, cut=True)


@app.command("delete")
def delete(
    name: Name,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also while jobs go by it: they do not fire until it is there again.")] = False,
    namespace: Namespace = NAMESPACE,
    address: Address = ADDRESS,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Delete a calendar; exit code 3 when there is none."""
    with jobs(address) as stub:
        stub.DeleteCalendar(jobs_pb2.DeleteCalendarRequest(namespace=namespace, name=name, force=force), timeout=timeout)
    print(f"deleted {render.plain(name)}")
