"""`raftsched import dapr …`: the jobs of a Dapr Scheduler, with their counters, into a running raftsched or a new data directory.

Exit codes: 0 done, 1 failed, 2 usage, 4 other jobs have some of the names, and were kept.
"""

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from raftsched.cli import saving
from raftsched.cli.channel import Tls, open_channel
from raftsched.cli.login import User, logged_in
from raftsched.cli.moving import sources
from raftsched.cli.moving.target import NAMES_TOLD_MAX, Report, Target
from raftsched.cli.options import Output
from raftsched.cli.progress import OnProgress, shown
from raftsched.cli.render import plain
from raftsched.cli.snapshot import As, Json, Layout, SkipHash, as_dict, plan_of, print_found, told
from raftsched.cli.tls import CaCert, Cert, Key, SkipVerify
from raftsched.pb.etcd import rpc_pb2_grpc

app = typer.Typer(help="Take over the jobs of others.", no_args_is_help=True, rich_markup_mode="rich")
CONFLICT: Final = 4
ADDRESS: Final = "localhost:2379"


@app.callback()
def importing() -> None:
    """Take over the jobs of others."""


@app.command(
    "dapr",
    epilog="Examples: raftsched import dapr jobs.export --address scheduler-0:2379 | "
    "raftsched import dapr http://old-scheduler:2379 --address scheduler-0:2379 --dry-run | "
    "raftsched import dapr backup.db --data-dir /data --name dapr-scheduler-server-0",
)
def dapr(
    source: Annotated[
        str,
        typer.Argument(
            help="A snapshot, the directory of a stopped scheduler or etcd, a file of `dapr scheduler export`, or an etcd's host:port.",
            show_default=False,
        ),
    ],
    *,
    address: Annotated[
        str, typer.Option("--address", "-a", envvar="RAFTSCHED_ETCD_ADDRESS", help="host:port of the etcd API that takes the jobs.")
    ] = ADDRESS,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Make a new data directory for serve instead.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other jobs that have the same name.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="That other jobs have the same name is no reason for exit code 4.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; nothing is written.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also what an earlier run has imported, even if it has ended since.")] = False,
    source_user: Annotated[str, typer.Option("--source-user", envvar="RAFTSCHED_SOURCE_USER", help="NAME:PASSWORD at the source.")] = "",
    source_cacert: Annotated[
        Path | None, typer.Option("--source-cacert", help="Believe sources that this bundle signs.", show_default=False)
    ] = None,
    source_cert: Annotated[Path | None, typer.Option("--source-cert", help="Show the source this.", show_default=False)] = None,
    source_key: Annotated[Path | None, typer.Option("--source-key", help="The key of --source-cert.", show_default=False)] = None,
    source_skip_verify: Annotated[
        bool, typer.Option("--source-insecure-skip-tls-verify", help="TLS, whoever the source is: for tests alone.")
    ] = False,
    skip_hash_check: SkipHash = False,
    scratch: Annotated[
        Path | None, typer.Option("--scratch", help="Where to put files in order (default: the system's place).", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option("--name", help="With --data-dir: of the member.")] = "dapr-scheduler-server-0",
    initial_cluster: Annotated[
        str | None, typer.Option("--initial-cluster", help="With --data-dir: all members, NAME=URL,… (default: this one).")
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", envvar="NAMESPACE", help="With --data-dir: of the control plane.")] = "default",
    output: As = Output.TABLE,
    json: Json = False,
    user: User = "",
    cacert: CaCert = None,
    cert: Cert = None,
    key: Key = None,
    skip_verify: SkipVerify = False,
) -> None:
    """Import jobs with their counters. Killed half-way, or when in doubt, run it again: what was imported is not imported twice.

    Stop the old schedulers first: what they do afterwards is not seen. Nothing of the source is changed.
    """
    source_tls = Tls(source_cacert, source_cert, source_key, source_skip_verify)
    if data_dir is not None:
        if overwrite or again or dry_run:
            raise typer.BadParameter("--overwrite, --again and --dry-run are for a running server, not for --data-dir")
        with told(), shown() as on_progress:
            options = {"data_dir": data_dir, "name": name, "cluster": initial_cluster, "namespace": namespace}
            found = _into_directory(source, source_user, source_tls, scratch, skip_hash_check, on_progress, options)
        print_found(found, output, json=json)
        return
    with (
        told(),
        shown() as on_progress,
        open_channel(address, Tls(cacert, cert, key, skip_verify), sources.UNLIMITED) as channel,
        sources.open_source(
            source, user=source_user, tls=source_tls, scratch=scratch, skip_hash=skip_hash_check, on_progress=on_progress
        ) as opened,
    ):
        target = Target(rpc_pb2_grpc.KVStub(logged_in(channel, user)), address, overwrite=overwrite, dry_run=dry_run)
        report = target.take(opened, plain(source), again=again, on_progress=on_progress)
    print_found(_as_dict(source, address, report, dry_run=dry_run), output, json=json)
    if report.counts["kept"] and not keep:
        print_conflicts(report)
        raise typer.Exit(CONFLICT)


def _into_directory(
    source: str, user: str, tls: Tls, scratch: Path | None, skip_hash: bool, on_progress: OnProgress, options: dict[str, Any]
) -> dict[str, Any]:
    """Raises ConfigError, FatalError, NoSpaceError."""
    from raftsched.cli.moving.founding import found_from
    from raftsched.store.node.restoring import restore

    path = Path(source)
    options |= {"wal_dir": None, "token": "etcd-cluster", "urls": None, "skip_hash_check": skip_hash}
    if sources.is_there(source) and sources.is_gob(path):
        with sources.exported(path, scratch, on_progress) as opened:
            return as_dict(found_from(plan_of(path, Layout.SERVE, **options), opened, on_progress))
    with tempfile.TemporaryDirectory(prefix=sources.SCRATCH_PREFIX, dir=scratch) as place:
        if not sources.is_there(source):
            path = Path(place) / "source.db"
            saving.save(source, path, force=False, timeout_s=None, on_progress=on_progress, user=user, tls=tls)
        return as_dict(restore(plan_of(path, Layout.SERVE, **options), on_progress))


def _as_dict(source: str, address: str, report: Report, *, dry_run: bool) -> dict[str, Any]:
    """Counts by what was done; of some kinds the first names, too."""
    counts = {str(name): count for name, count in report.counts.items()}
    names = {f"{what}_names": found for what, found in report.names.items()}
    return {"source": source, "target": address, "dry_run": dry_run, "jobs": report.jobs, **counts, **names}


def print_conflicts(report: Report) -> None:
    count = report.counts["kept"]
    names = ", ".join(plain(name) for name in report.names["kept"][:3])
    more = ", …" if count > min(3, NAMES_TOLD_MAX) else ""
    print(
        f"Error: {count} {'job was' if count == 1 else 'jobs were'} not imported, since other jobs have the names: {names}{more}. "
        "--overwrite replaces them, --keep leaves them and says nothing",
        file=sys.stderr,
    )
