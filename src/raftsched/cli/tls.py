"""The options of commands that speak TLS to a server; they have etcdctl's names."""

from pathlib import Path
from typing import Annotated

import typer

CaCert = Annotated[
    Path | None,
    typer.Option("--cacert", envvar="RAFTSCHED_ETCD_CACERT", show_default=False, help="Believe servers that this bundle signs."),
]
Cert = Annotated[
    Path | None, typer.Option("--cert", envvar="RAFTSCHED_ETCD_CERT", show_default=False, help="Show the server this certificate.")
]
Key = Annotated[Path | None, typer.Option("--key", envvar="RAFTSCHED_ETCD_KEY", show_default=False, help="The key of --cert.")]
SkipVerify = Annotated[
    bool,
    typer.Option(
        "--insecure-skip-tls-verify",
        envvar="RAFTSCHED_ETCD_INSECURE_SKIP_TLS_VERIFY",
        help="TLS, whoever the server is. Anybody in between can read and change everything: for tests alone.",
    ),
]
