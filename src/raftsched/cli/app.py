"""The `raftsched` command for people: its sub-commands, and how any error becomes one line and an exit code.

Must not be imported by `serve`: typer, rich and grpc are slow to import.
"""

import io
import os
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated

import grpc
import typer

from raftsched.cli import (
    calendars,
    configuring,
    events,
    explaining,
    exporting,
    finding,
    holding,
    importing,
    job,
    member,
    receiving,
    rescheduling,
    retrying,
    running,
    snapshot,
)
from raftsched.version import COMMIT, VERSION


class ExitCode(IntEnum):
    """What a script can tell apart."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4


CODES = {grpc.StatusCode.NOT_FOUND: ExitCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS: ExitCode.CONFLICT}

app = typer.Typer(
    help="A replicated job scheduler whose store speaks the etcd v3 API.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
finding.register(job.app)
job.app.add_typer(retrying.dead, name="dead")
job.app.command("explain")(explaining.explain)
JOB_COMMANDS: tuple[Callable[..., None], ...] = (
    *holding.COMMANDS,
    running.run,
    rescheduling.reschedule,
    configuring.configure,
    receiving.receive,
    *events.COMMANDS,
)
for command in JOB_COMMANDS:
    job.app.command()(command)
job.app.add_typer(calendars.app, name="calendar")
app.add_typer(job.app, name="job")
app.add_typer(member.app, name="member")
app.add_typer(snapshot.app, name="snapshot")
app.add_typer(importing.app, name="import")
app.command("export", epilog="Example: raftsched export jobs.export --address scheduler-0:2379")(exporting.export)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"raftsched {VERSION} (commit {COMMIT})")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """A replicated job scheduler whose store speaks the etcd v3 API."""


@app.command("version")
def version() -> None:
    """Show the version."""
    _version(True)


@app.command("serve", context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
def serve(arguments: Annotated[list[str] | None, typer.Argument(help="Flags of the server.")] = None) -> None:
    """Run a server; `raftsched serve --help` lists its flags."""
    from raftsched.cli import serve as server

    raise typer.Exit(server.serve(arguments or []))


@app.command("etcd", context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
def etcd(arguments: Annotated[list[str] | None, typer.Argument(help="etcd's flags.")] = None) -> None:
    """Run the store alone, in etcd's place; `raftsched etcd --help` lists its flags."""
    from raftsched.cli import etcd as command

    raise typer.Exit(command.etcd(arguments or []))


def run(arguments: list[str]) -> int:
    """Runs one command; the exit code."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # closed by who started us: nobody wants to read
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 gets escapes, not an error
    try:
        code = _run(arguments)
        sys.stdout.flush()  # here, where it can still be told
    except OSError as error:
        _give_output_up()
        return _say(error.strerror or str(error), ExitCode.FAILED)
    return code


def _run(arguments: list[str]) -> int:
    try:
        app(arguments, prog_name="raftsched")
    except grpc.RpcError as error:
        return _fail(error)
    except UnicodeEncodeError as error:  # what the shell gave as bytes: Python holds them as surrogates, no message takes them
        return _say(f"not UTF-8: {error.object[:200]}", ExitCode.USAGE)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    return ExitCode.OK


def _give_output_up() -> None:
    """What is still in the buffer would be tried again at the end of the process, with a complaint of Python's own."""
    if (stdout := sys.__stdout__) is not None and sys.stdout is stdout:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout.fileno())
        os.close(nowhere)


def _say(text: str, code: ExitCode) -> int:
    print(f"Error: {job.plain(text)}", file=sys.stderr)
    return code


def _fail(error: grpc.RpcError) -> int:
    """One line for what the server, or the way to it, answered."""
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    details = (error.details() if isinstance(error, grpc.Call) else str(error)) or code.name
    if code is grpc.StatusCode.UNAVAILABLE and ("onnect" in details or "resolv" in details):
        details = f"cannot reach the server: {details}"
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        details = f"this is not the scheduler's port, or its version is another: {details}"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = "no answer in time: the server is not ready, or too busy"
    return _say(details, CODES.get(code, ExitCode.FAILED))
