"""`raftsched snapshot …`: take, show and restore snapshots, ours and those of an etcd or a Dapr Scheduler: they are the same files.

Exit codes: 0 done, 1 failed, 2 usage. What is refused leaves everything as it was.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raftsched.cli import render, saving
from raftsched.cli.channel import Tls
from raftsched.cli.login import User
from raftsched.cli.options import Output
from raftsched.cli.progress import shown
from raftsched.cli.render import plain
from raftsched.cli.tls import CaCert, Cert, Key, SkipVerify
from raftsched.errors import ConfigError, FatalError, NoSpaceError

if TYPE_CHECKING:
    from raftsched.store.node.restoring import Plan, Restored

app = typer.Typer(
    help="Take, show and restore snapshots: bbolt files, as etcd's tools write and read them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

USAGE: Final = 2


class Layout(StrEnum):
    """Which command is to start on what is restored."""

    SERVE = "serve"
    ETCD = "etcd"


Address = Annotated[str, typer.Option("--address", "-a", envvar="RAFTSCHED_ETCD_ADDRESS", help="host:port of a member's etcd API.")]
As = Annotated[Output, typer.Option("--output", "-o", help="table for people, json for scripts.")]
Json = Annotated[bool, typer.Option("--json", help="Short for --output json.")]
SkipHash = Annotated[
    bool, typer.Option("--skip-hash-check", help="The file has no SHA-256 at its end: a copy of a stopped server's database.")
]


@contextmanager
def told() -> Iterator[None]:
    """Whatever goes wrong with files is one line and an exit code."""
    try:
        yield
    except ConfigError as error:
        print(f"Error: {plain(str(error))}", file=sys.stderr)
        raise typer.Exit(USAGE) from None
    except (FatalError, NoSpaceError) as error:
        print(f"Error: {plain(str(error))}", file=sys.stderr)
        raise typer.Exit(1) from None


def print_found(found: dict[str, Any], output: Output, *, json: bool) -> None:
    if json or output is Output.JSON:
        render.print_json(found)
    else:
        render.print_rows([(name.replace("_", " "), plain(str(value))) for name, value in found.items() if value != []], cut=False)


# -- save


@app.command("save", epilog="Example: raftsched snapshot save backup.db --address scheduler-0:2379")
def save(
    file: Annotated[Path, typer.Argument(help="Where to; it is complete when it has this name.", show_default=False)],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of that name.")] = False,
    address: Address = "localhost:2379",
    output: As = Output.TABLE,
    json: Json = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds for all of it; 0 = as long as it takes.")] = 0,
    user: User = "",
    cacert: CaCert = None,
    cert: Cert = None,
    key: Key = None,
    skip_verify: SkipVerify = False,
) -> None:
    """Take a snapshot of a running member, ours or an etcd's; everything that was answered before is in it."""
    tls = Tls(cacert, cert, key, skip_verify)
    with told(), shown() as on_progress:
        saved = saving.save(address, file, force=force, timeout_s=timeout or None, on_progress=on_progress, user=user, tls=tls)
    print_found(saved, output, json=json)


# -- status


@app.command("status", epilog="Example: raftsched snapshot status backup.db --json")
def status(
    file: Annotated[Path, typer.Argument(help="A snapshot, a database of etcd's, or a data directory.", show_default=False)],
    *,
    output: As = Output.TABLE,
    json: Json = False,
) -> None:
    """Read all of a snapshot and say what is in it; exit code 1 if it is damaged. The first five fields are those of `etcdutl`."""
    from raftsched.store.bolt import sources  # the store is slow to import, and other commands do without it

    with told(), shown() as on_progress:
        bolt = sources.open_database(sources.find(file))
        has_sum = sources.has_sum(bolt)
        digest = sources.check_sum(bolt, required=has_sum, on_bytes=lambda done, total: on_progress("checking the sum", done, total))
        value, revision, keys, records = bolt.digest(lambda pages: on_progress("reading", min(pages, bolt.page_count), bolt.page_count))
        version = dict(bolt.items("meta")).get(b"storageVersion", b"").decode(errors="replace")
    found = {"hash": value, "revision": revision, "totalKey": keys, "totalSize": bolt.size_bytes, "version": version}
    print_found({**found, "records": records, "sha256": digest.hex(), "sha256_checked": has_sum}, output, json=json)


# -- restore


@app.command(
    "restore",
    epilog="Examples: raftsched snapshot restore backup.db --data-dir /data --name dapr-scheduler-server-0 | "
    "raftsched snapshot restore /data/default-dapr-scheduler-server-0/dapr-0.1 --data-dir /data | "
    "raftsched snapshot restore backup.db --layout etcd --name m1 --initial-cluster m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380 "
    "--initial-advertise-peer-urls http://10.0.0.1:2380 --data-dir /var/lib/m1",
)
def restore_(
    source: Annotated[
        Path, typer.Argument(help="A snapshot file, or the data directory of a stopped etcd or Dapr Scheduler.", show_default=False)
    ],
    *,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Of the new member (default: ./data for serve, NAME.etcd for etcd).", show_default=False),
    ] = None,
    wal_dir: Annotated[
        Path | None, typer.Option("--wal-dir", help="Where its log is to lie; for --layout etcd.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the member (default: dapr-scheduler-server-0 for serve, default for etcd).")
    ] = None,
    initial_cluster: Annotated[
        str | None, typer.Option("--initial-cluster", help="All members of the new cluster: NAME=URL,… (default: this one).")
    ] = None,
    initial_cluster_token: Annotated[
        str, typer.Option("--initial-cluster-token", help="Makes ids of clusters different.")
    ] = "etcd-cluster",
    initial_advertise_peer_urls: Annotated[
        str | None, typer.Option("--initial-advertise-peer-urls", help="Of this member (default: as in --initial-cluster).")
    ] = None,
    bump_revision: Annotated[int, typer.Option("--bump-revision", min=0, help="How far the revision goes on beyond the last one.")] = 0,
    mark_compacted: Annotated[
        bool, typer.Option("--mark-compacted", help="Nothing before the bumped revision can be watched; goes with --bump-revision.")
    ] = False,
    skip_hash_check: SkipHash = False,
    layout: Annotated[Layout, typer.Option("--layout", help="Which command is to start on it.")] = Layout.SERVE,
    namespace: Annotated[
        str, typer.Option("--namespace", envvar="NAMESPACE", help="Of the control plane; part of serve's directory.")
    ] = "default",
    output: As = Output.TABLE,
    json: Json = False,
) -> None:
    """Make a new member out of a snapshot: the first of a new cluster, with new ids. Keys, revisions, leases, alarms and users stay.

    All members of a cluster are restored from the same snapshot, each with its own name. Nothing is restored over data that are there.
    """
    from raftsched.store.node.restoring import restore

    with told(), shown() as on_progress:
        plan = plan_of(
            source,
            layout,
            data_dir=data_dir,
            wal_dir=wal_dir,
            name=name or ("default" if layout is Layout.ETCD else "dapr-scheduler-server-0"),
            namespace=namespace,
            cluster=initial_cluster,
            token=initial_cluster_token,
            urls=initial_advertise_peer_urls,
            bump_revision=bump_revision,
            mark_compacted=mark_compacted,
            skip_hash_check=skip_hash_check,
        )
        restored = restore(plan, on_progress)
    print_found(as_dict(restored), output, json=json)


def plan_of(
    source: Path,
    layout: Layout,
    *,
    data_dir: Path | None,
    wal_dir: Path | None,
    name: str,
    namespace: str,
    cluster: str | None,
    token: str,
    urls: str | None,
    **options: Any,
) -> "Plan":
    """Raises ConfigError."""
    from raftsched.store.backend.directory import OWN_NAME
    from raftsched.store.node.restoring import Plan

    if layout is Layout.ETCD:
        root = data_dir or Path(f"{name}.etcd")
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ConfigError(f'data-dir "{root}" not empty or could not be read')
        target = root / "member"
    elif wal_dir is not None:
        raise ConfigError("--wal-dir is for --layout etcd: serve keeps its log in the data directory")
    else:
        root = target = (data_dir or Path("data")) / f"{namespace}-{name}" / OWN_NAME
    listed = parse_cluster(cluster or f"{name}={urls or 'http://localhost:2380'}")
    return Plan(
        source=Path(os.path.abspath(source)),
        target=Path(os.path.abspath(target)),
        root=Path(os.path.abspath(root)),
        wal_dir=None if wal_dir is None else Path(os.path.abspath(wal_dir)),
        name=name,
        peer_urls=tuple(urls.split(",")) if urls else listed.get(name, ()),
        initial_cluster=listed,
        cluster_token=token,
        **options,
    )


def parse_cluster(text: str) -> dict[str, tuple[str, ...]]:
    """`a=http://h:1,b=http://h:2`; a name may come again with a further URL. Raises ConfigError."""
    found: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        name, equals, url = part.strip().partition("=")
        if not name or not equals or not url.startswith(("http://", "https://", "unix://", "unixs://")):
            raise ConfigError(f"--initial-cluster: {part!r} is not NAME=URL")
        found[name] = (*found.get(name, ()), url)
    return found


def as_dict(restored: "Restored") -> dict[str, Any]:
    """Ids as hexadecimal text: as numbers they are beyond what many readers of JSON take."""
    return {
        "path": restored.path,
        "member_id": f"{restored.member_id:x}",
        "cluster_id": f"{restored.cluster_id:x}",
        "revision": restored.revision,
        "compact_revision": restored.compact_revision,
        "keys": restored.keys,
        "leases": restored.leases,
        "auth_enabled": restored.auth_enabled,
        "replayed": restored.replayed,
        "notes": list(restored.notes),
    }
