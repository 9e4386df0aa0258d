"""`raftsched job search` and `job describe`: jobs with what the scheduler knows of them, of any app, by raftsched.v1."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import typer
from google.protobuf import any_pb2, json_format
from google.protobuf.timestamp_pb2 import Timestamp

from raftsched.cli import render
from raftsched.cli.job import channel_to
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
    Labels,
    Name,
    Namespace,
    Output,
    Timeout,
)
from raftsched.pb.v1 import jobs_pb2, jobs_pb2_grpc

HEAD = ("NAMESPACE", "APP", "TYPE", "NAME", "STATE", "NEXT RUN", "LAST RUN", "COUNT", "ATTEMPTS", "SCHEDULE")
ROWS_AT_ONCE = 500  # of a table, whose columns are as wide as they need


TYPES = {
    Kind.JOB: jobs_pb2.JOB_TYPE_JOB,
    Kind.ACTOR: jobs_pb2.JOB_TYPE_ACTOR_REMINDER,
    Kind.WORKFLOW: jobs_pb2.JOB_TYPE_WORKFLOW_REMINDER,
}


@contextmanager
def jobs(address: str) -> Iterator[jobs_pb2_grpc.JobsStub]:
    """A stub on a channel of its own."""
    with channel_to(address) as channel:
        yield jobs_pb2_grpc.JobsStub(channel)


def search(
    pattern: Annotated[str, typer.Argument(help="Name: '*' is any run of characters.", show_default=False)] = "",
    *,
    kind: Annotated[Kind | None, typer.Option("--type", help="Of this kind only.")] = None,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Of this namespace only.")] = "",
    app_id: Annotated[str, typer.Option("--app-id", help="Of this app only.")] = "",
    labels: Labels = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="End after so many.")] = None,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    as_json: AsJson = False,
) -> None:
    """Find jobs of any app, with next run, last run, count and attempts. JSON comes one job a line, as they are found."""
    wanted = job_filter(pattern, kind, actor_type, actor_id, namespace, app_id, labels)
    with jobs(address) as stub:
        found = islice(stub.SearchJobs(jobs_pb2.SearchJobsRequest(filter=wanted)), limit)
        if as_json or output is Output.JSON:
            for job in found:
                render.print_json_line(as_dict(job))
            return
        rows: list[tuple[str, ...]] = [HEAD]
        for job in found:
            rows.append(_row(job))
            if len(rows) == ROWS_AT_ONCE:
                render.print_rows(rows, cut=True)
                rows = []
        if rows:
            render.print_rows(rows, cut=True)


def describe(
    name: Name,
    *,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    as_json: AsJson = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Show all that is known of one job; exit code 3 when there is none."""
    asked = job_name(name, actor_type, actor_id, namespace, app_id)
    with jobs(address) as stub:
        shown = as_dict(stub.GetJob(jobs_pb2.GetJobRequest(name=asked), timeout=timeout))
    if as_json or output is Output.JSON:
        render.print_json(shown)
    else:
        render.print_job(shown)


def job_name(name: str, actor_type: str | None, actor_id: str | None, namespace: str, app_id: str) -> jobs_pb2.JobName:
    if actor_id is not None and actor_type is None:
        raise typer.BadParameter("--actor-id needs --actor-type")
    return jobs_pb2.JobName(namespace=namespace, app_id=app_id, name=name, actor_type=actor_type or "", actor_id=actor_id or "")


def job_filter(
    pattern: str,
    kind: Kind | None,
    actor_type: str | None,
    actor_id: str | None,
    namespace: str,
    app_id: str,
    labels: list[str] | None = None,
) -> jobs_pb2.JobFilter:
    if actor_id is not None and actor_type is None:
        raise typer.BadParameter("--actor-id needs --actor-type")
    return jobs_pb2.JobFilter(
        namespace=namespace,
        app_id=app_id,
        type=TYPES[kind] if kind is not None else jobs_pb2.JOB_TYPE_UNSPECIFIED,
        name_pattern=pattern,
        actor_type=actor_type or "",
        actor_id=actor_id or "",
        labels=labels_of(labels),
    )


def labels_of(texts: list[str] | None) -> dict[str, str]:
    """Of name=value; the value may hold further equal signs, or be empty."""
    found = {}
    for text in texts or []:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise typer.BadParameter(f"a label is name=value: {text}")
        found[name] = value
    return found


def as_dict(job: jobs_pb2.Job) -> dict[str, Any]:
    """For JSON: the parts of the name on the top level, only what is set; count and attempts always."""
    shown: dict[str, Any] = {"name": "", "namespace": "", "app_id": ""}
    shown |= json_format.MessageToDict(job.name, preserving_proto_field_name=True)
    shown |= {"type": kind_of(job), "state": state_of(job)}
    if job.late:
        shown["late"] = _word(jobs_pb2.LateReason.Name(job.late), "LATE_REASON_")
    rest = json_format.MessageToDict(job, preserving_proto_field_name=True)
    rest = {name: value for name, value in rest.items() if name not in ("name", "type", "state", "late", "data")}
    shown |= rest | {"count": job.count, "attempts": job.attempts, "owned": job.owned, "revision": job.revision}
    if job.HasField("data"):
        shown["data"] = render.decode_payload(any_pb2.Any(type_url=job.data.type_url, value=job.data.value))
    return shown


def kind_of(job: jobs_pb2.Job) -> str:
    return next((str(kind) for kind, number in TYPES.items() if number == job.type), "?")


def state_of(job: jobs_pb2.Job) -> str:
    return _word(jobs_pb2.JobState.Name(job.state), "JOB_STATE_")


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")


def instant(stamp: Timestamp) -> str:
    """To the millisecond, UTC; a dash for none."""
    if not stamp.ByteSize():
        return "-"
    whole = datetime.fromtimestamp(stamp.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{stamp.nanos // 1_000_000:03}Z" if stamp.nanos else f"{whole}Z"


def _row(job: jobs_pb2.Job) -> tuple[str, ...]:
    name = job.name
    shown = f"{name.actor_type}/{name.actor_id}/{name.name}" if name.actor_type else name.name
    state = state_of(job) + (f" ({_word(jobs_pb2.LateReason.Name(job.late), 'LATE_REASON_')})" if job.late else "")
    last = instant(job.last_run) if job.HasField("last_run") else "-"
    following = instant(job.next_run) if job.HasField("next_run") else "-"
    cells = (name.namespace, name.app_id, kind_of(job), shown, state, following, last, str(job.count), str(job.attempts))
    return (*(render.plain(cell) for cell in cells), render.plain(job.schedule or job.due_time or "-"))


def register(app: typer.Typer) -> None:
    """The commands, in `raftsched job`."""
    app.command("search")(search)
    app.command("describe")(describe)
