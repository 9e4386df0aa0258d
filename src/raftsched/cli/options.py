"""Options and arguments that several `raftsched job` commands have, each said once: a command lists those it takes.

Must not know: what a command does with them.
"""

from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


Name = Annotated[str, typer.Argument(help="Name of the job, unique in its app.", show_default=False)]
Address = Annotated[str, typer.Option("--address", "-a", envvar="RAFTSCHED_ADDRESS", help="host:port of the scheduler.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", envvar="RAFTSCHED_NAMESPACE", help="Namespace of the app.")]
AppId = Annotated[str, typer.Option("--app-id", envvar="RAFTSCHED_APP_ID", help="The app that owns the job and receives its triggers.")]
ActorType = Annotated[str | None, typer.Option("--actor-type", help="For an actor reminder: the type of the actor.")]
ActorId = Annotated[str | None, typer.Option("--actor-id", help="For an actor reminder: the id of the actor.")]
As = Annotated[Output, typer.Option("--output", "-o", help="table for people, json for scripts.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait for an answer.")]

ADDRESS, NAMESPACE, APP_ID, TIMEOUT_S = "localhost:50006", "default", "cli", 30.0


class Kind(StrEnum):
    """What `--type` takes."""

    JOB = "job"
    ACTOR = "actor"
    WORKFLOW = "workflow"


class Missed(StrEnum):
    """What becomes of ticks that were missed."""

    SKIP = "skip"
    RUN = "run"
    POLICY = "policy"


Labels = Annotated[list[str] | None, typer.Option("--label", help="Only jobs that have this label, as name=value. May be repeated.")]
AsJson = Annotated[bool, typer.Option("--json", help="The same as --output json.")]
Names = Annotated[list[str] | None, typer.Argument(help="Names of jobs.", show_default=False)]
Match = Annotated[str | None, typer.Option("--match", help="Every job whose name fits: '*' is any run of characters.")]
Everything = Annotated[
    bool, typer.Option("--all", help="Every job of the app; of all apps with --app-id='', of all namespaces with -n ''.")
]
OfKind = Annotated[Kind | None, typer.Option("--type", help="Of this kind only; with --match or --all.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; `job describe` shows it.")]
By = Annotated[str | None, typer.Option("--by", help="Who; by default the user at this console.")]
MissedTicks = Annotated[
    Missed,
    typer.Option(
        "--missed",
        help="Ticks of recurring jobs that were missed: skip them; run them all; or run what the job's misfire policy wants, and skip "
        "those of jobs that have none.",
    ),
]
Repeats = Annotated[int | None, typer.Option("--repeats", "-r", min=0, max=2**32 - 1, help="How often it fires.")]
