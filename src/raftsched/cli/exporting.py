"""`raftsched export`: all jobs with their counters in one file, for `dapr scheduler import`, for `raftsched import`, or for scripts.

Exit codes: 0 done, 1 failed, 2 usage.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from raftsched.cli.channel import Tls
from raftsched.cli.login import User
from raftsched.cli.moving import sources, writing
from raftsched.cli.options import Output
from raftsched.cli.progress import shown
from raftsched.cli.snapshot import Address, As, Json, print_found, told
from raftsched.cli.tls import CaCert, Cert, Key, SkipVerify
from raftsched.errors import ConfigError


class Format(StrEnum):
    """What the file is for."""

    DAPR = "dapr"
    JSONL = "jsonl"


def export(
    file: Annotated[
        Path, typer.Argument(help="Where to; it is complete when it has this name. '-' with jsonl: the output.", show_default=False)
    ],
    *,
    format_: Annotated[
        Format, typer.Option("--format", "-f", help="dapr: as `dapr scheduler export`; jsonl: a line of JSON for each job.")
    ] = Format.DAPR,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of that name.")] = False,
    address: Address = "localhost:2379",
    output: As = Output.TABLE,
    json: Json = False,
    user: User = "",
    cacert: CaCert = None,
    cert: Cert = None,
    key: Key = None,
    skip_verify: SkipVerify = False,
) -> None:
    """Write all jobs with their counters, as of one moment, to a file. Ours, a Dapr Scheduler's or any etcd's: it is only read."""
    with told(), shown() as on_progress:
        if file == writing.STDOUT and format_ is Format.DAPR:
            raise ConfigError("'-' goes with --format jsonl: the other format is written to a file")
        with sources.live(address, user, Tls(cacert, cert, key, skip_verify)) as source:
            if format_ is Format.DAPR:
                counts = writing.write_export(source, source.counters, file, force=force, on_progress=on_progress)
            else:
                counts = writing.write_lines(source, file, force=force, on_progress=on_progress)
    if file != writing.STDOUT:
        print_found({"path": str(file), "format": str(format_), "revision": source.revision, **counts}, output, json=json)
