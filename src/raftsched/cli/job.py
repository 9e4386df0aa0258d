"""`raftsched job …`: create, show, delete and watch jobs through the scheduler API, by hand or from a script.

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 there is one already.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

import grpc
import typer

from raftsched.cli import render
from raftsched.cli.channel import PLAIN, Tls, open_channel
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
    Name,
    Namespace,
    Output,
    Repeats,
    Timeout,
)
from raftsched.cli.render import plain
from raftsched.cli.watching import Connect, Watcher
from raftsched.errors import ConfigError
from raftsched.limits import MESSAGE_BYTES_MAX
from raftsched.pb.dapr import common_pb2, scheduler_pb2, scheduler_pb2_grpc
from raftsched.units import NS_PER_S, parse_duration

__all__ = ["app", "plain"]

app = typer.Typer(help="Schedule, show, delete and watch jobs.", no_args_is_help=True, rich_markup_mode="rich")


_tls: ContextVar[Tls] = ContextVar("tls", default=PLAIN)
Authority = Annotated[Path | None, typer.Option("--cacert", envvar="RAFTSCHED_CACERT", help="TLS: believe what this bundle signs.")]
Certificate = Annotated[Path | None, typer.Option("--cert", envvar="RAFTSCHED_CERT", help="TLS: certificate to show.")]
Key = Annotated[Path | None, typer.Option("--key", envvar="RAFTSCHED_KEY", help="TLS: key of --cert.")]


@app.callback()
def with_files(cacert: Authority = None, cert: Certificate = None, key: Key = None) -> None:
    """Schedule, show, delete and watch jobs."""
    _tls.set(Tls(cacert, cert, key))


def channel_to(address: str, tls: Tls | None = None) -> grpc.Channel:
    """To a scheduler, with the certificates of the command line. `tls`: for who is in another thread than the command."""
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX), ("grpc.max_send_message_length", MESSAGE_BYTES_MAX)]
    options += [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1_000)]
    try:
        return open_channel(address, tls or _tls.get(), options)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


@contextmanager
def scheduler(address: str, tls: Tls | None = None) -> Iterator[scheduler_pb2_grpc.SchedulerStub]:
    """A stub on a channel of its own; `tls` as of `channel_to`."""
    with channel_to(address, tls) as channel:
        yield scheduler_pb2_grpc.SchedulerStub(channel)


def replicas_of(address: str, tls: Tls) -> Connect:
    """Opens `address` and the others that it names, which are spoken to as it is."""
    scheme = "https://" if address.startswith("https://") else ""
    return lambda host: scheduler(host if "://" in host else scheme + host, tls)


def metadata_of(namespace: str, app_id: str, actor_type: str | None, actor_id: str | None) -> scheduler_pb2.JobMetadata:
    if actor_id is not None and actor_type is None:
        raise typer.BadParameter("--actor-id needs --actor-type")
    if actor_type is None:
        target = scheduler_pb2.JobTargetMetadata(job=scheduler_pb2.TargetJob())
    else:
        target = scheduler_pb2.JobTargetMetadata(actor=scheduler_pb2.TargetActorReminder(type=actor_type, id=actor_id or ""))
    return scheduler_pb2.JobMetadata(namespace=namespace, app_id=app_id, target=target)


@app.command("schedule")
def schedule(
    name: Name,
    *,
    schedule: Annotated[
        str | None, typer.Option("--schedule", "-s", help="When it recurs: six cron fields, '@daily' …, or '@every <duration>'.")
    ] = None,
    due_time: Annotated[
        str | None, typer.Option("--due-time", "-d", help="When it fires first: RFC 3339, or from now as '10s' or 'PT10S'.")
    ] = None,
    repeats: Repeats = None,
    ttl: Annotated[str | None, typer.Option("--ttl", help="When it ends, in the forms of --due-time.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Payload: JSON, or any text; '-' reads standard input.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a job of this name.")] = False,
    retry_interval: Annotated[
        str | None, typer.Option("--retry-interval", help="Wait before a failed trigger is tried again, as '1s'.")
    ] = None,
    max_retries: Annotated[
        int | None, typer.Option("--max-retries", min=0, max=2**32 - 1, help="How often a failed trigger is tried again.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Do not try a failed trigger again.")] = False,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Create a job.

    \b
    raftsched job schedule hello -s '@every 1s' --data '{"text": "hi"}'
    raftsched job schedule nightly -s '0 30 2 * * *'
    raftsched job schedule once -d 10s
    """
    job = scheduler_pb2.Job(schedule=schedule, due_time=due_time, ttl=ttl, repeats=repeats)
    if data is not None:
        job.data.CopyFrom(render.encode_payload(_standard_input() if data == "-" else data))
    if (policy := _policy(retry_interval, max_retries, drop=drop)) is not None:
        job.failure_policy.CopyFrom(policy)
    metadata = metadata_of(namespace, app_id, actor_type, actor_id)
    with scheduler(address) as stub:
        stub.ScheduleJob(scheduler_pb2.ScheduleJobRequest(name=name, job=job, metadata=metadata, overwrite=overwrite), timeout=timeout)
    _done(output, f"scheduled {name}", {"scheduled": name})


def _standard_input() -> str:
    if sys.stdin is None:
        raise typer.BadParameter("--data=-: standard input is closed")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise typer.BadParameter("--data=-: standard input is not UTF-8 text") from None


def _policy(retry_interval: str | None, max_retries: int | None, *, drop: bool) -> common_pb2.JobFailurePolicy | None:
    if drop:
        if retry_interval is not None or max_retries is not None:
            raise typer.BadParameter("--drop excludes --retry-interval and --max-retries")
        return common_pb2.JobFailurePolicy(drop=common_pb2.JobFailurePolicyDrop())
    if retry_interval is None and max_retries is None:
        return None
    constant = common_pb2.JobFailurePolicyConstant(max_retries=max_retries)
    if retry_interval is not None:
        try:
            seconds, rest_ns = divmod(parse_duration(retry_interval), NS_PER_S)
        except ValueError as error:
            raise typer.BadParameter(f"--retry-interval: {error}") from None
        constant.interval.seconds, constant.interval.nanos = seconds, rest_ns
    return common_pb2.JobFailurePolicy(constant=constant)


@app.command("get")
def get(
    name: Name,
    *,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Show one job; exit code 3 when there is none."""
    metadata = metadata_of(namespace, app_id, actor_type, actor_id)
    with scheduler(address) as stub:
        answer = stub.GetJob(scheduler_pb2.GetJobRequest(name=name, metadata=metadata), timeout=timeout)
    shown = render.job_as_dict(name, metadata, answer.job)
    (render.print_json if output is Output.JSON else render.print_job)(shown)


@app.command("list")
def list_(
    *,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """List the jobs of an app, or the reminders of an actor type or actor."""
    metadata = metadata_of(namespace, app_id, actor_type, actor_id)
    with scheduler(address) as stub:
        answer = stub.ListJobs(scheduler_pb2.ListJobsRequest(metadata=metadata), timeout=timeout)
    shown = [render.job_as_dict(one.name, one.metadata, one.job) for one in answer.jobs]
    (render.print_json if output is Output.JSON else render.print_jobs)(shown)


@app.command("delete")
def delete(
    *,
    names: Annotated[list[str] | None, typer.Argument(help="Names of jobs.", show_default=False)] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="Delete every job whose name begins so.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete every job of the app, actor type or actor.")] = False,
    actor_type: ActorType = None,
    actor_id: ActorId = None,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Delete jobs by name, or all that share a prefix. A job that does not exist counts as deleted."""
    if bool(names) + (prefix is not None) + everything != 1:
        raise typer.BadParameter("give names, or --prefix, or --all")
    if prefix == "":
        raise typer.BadParameter("--prefix is empty; to delete every job say --all")
    metadata = metadata_of(namespace, app_id, actor_type, actor_id)
    with scheduler(address) as stub:
        for name in names or []:
            stub.DeleteJob(scheduler_pb2.DeleteJobRequest(name=name, metadata=metadata), timeout=timeout)
            _done(output, f"deleted {name}", {"deleted": name})
        if not names:
            stub.DeleteByNamePrefix(scheduler_pb2.DeleteByNamePrefixRequest(name_prefix=prefix or "", metadata=metadata), timeout=timeout)
            _done(output, f"deleted {prefix or ''}*", {"deleted_prefix": prefix or ""})


@app.command("watch")
def watch(
    *,
    actor_types: Annotated[
        list[str] | None, typer.Option("--actor-type", help="Take reminders of this actor type too; repeatable.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", "-c", min=1, help="End after so many triggers.")] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Answer FAILED instead of SUCCESS, to see the retries.")] = False,
    single: Annotated[
        bool, typer.Option("--single", help="Only the replica at --address, for a forwarded port: the others are not looked for.")
    ] = False,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
) -> None:
    """Receive the triggers of an app live, print and acknowledge each. Ctrl-C ends.

    The replica at --address tells where the others are, and all of them are followed, also those that come later.
    While this runs it is a consumer like any other: what it acknowledges is done.
    """
    initial = scheduler_pb2.WatchJobsRequestInitial(namespace=namespace, app_id=app_id, actor_types=actor_types or [])
    status = scheduler_pb2.FAILED if fail else scheduler_pb2.SUCCESS
    watcher = Watcher(initial, status, as_json=output is Output.JSON, count=count)
    if sys.stderr.isatty():
        print(f"waiting for triggers of {plain(app_id)} in {plain(namespace)}; Ctrl-C ends", file=sys.stderr)
    try:
        watcher.follow(address, replicas_of(address, _tls.get()), single=single)
    except KeyboardInterrupt:
        raise typer.Exit from None


def _done(output: Output, text: str, record: dict[str, str]) -> None:
    if output is Output.JSON:
        render.print_json_line(record)
    else:
        print(plain(text))
