"""How the Kubernetes API is reached: from within a pod, or as a kubeconfig file says.

Invariant: what cannot be used is refused with one line that names the file. Must not know: who answers.
"""

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from raftsched.errors import ConfigError

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
NO_POD: Final = "unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined"


@dataclass(frozen=True, slots=True)
class KubeSource:
    """Where to look."""

    kubeconfig: str | None
    """A file; None = in a pod."""
    host: str
    port: str
    """KUBERNETES_SERVICE_HOST and _PORT."""


@dataclass(frozen=True, slots=True)
class KubeAccess:
    """An API server, and what proves to it who we are. Files are read anew for each connection: they change."""

    host: str
    port: int
    path: str = ""
    """What stands before /api."""
    server_name: str = ""
    """What its certificate must be for, if it is not `host`."""
    ca_file: str = ""
    ca_pem: str = ""
    """Neither = the authorities of the machine."""
    verify: bool = True
    token_file: str = ""
    token: str = field(default="", repr=False)
    cert_file: str = ""
    key_file: str = ""
    pair_pem: bytes = field(default=b"", repr=False)
    """Certificate and key in one."""


def kube_source(options: Mapping[str, Any], environ: Mapping[str, str]) -> KubeSource | None:
    """None without --mode=kubernetes."""
    if options["mode"] != "kubernetes":
        return None
    host, port = (environ.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
    return KubeSource(options["kubeconfig"] or None, host, port)


def read_access(source: KubeSource, service_account: str = SERVICE_ACCOUNT) -> KubeAccess:
    """ConfigError."""
    if source.kubeconfig is not None:
        return _read_kubeconfig(source.kubeconfig)
    if not source.host or not source.port.isdecimal():
        raise ConfigError(NO_POD)
    ca_file, token_file = f"{service_account}/ca.crt", f"{service_account}/token"
    for path in (ca_file, token_file):
        if not os.access(path, os.R_OK):
            raise ConfigError(f"unable to load in-cluster configuration: cannot read {path}")
    return KubeAccess(source.host, int(source.port), ca_file=ca_file, token_file=token_file)


def _read_kubeconfig(path: str) -> KubeAccess:
    import yaml  # slow to import, and wanted with a file alone

    try:
        table = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read --kubeconfig {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"cannot read --kubeconfig {path}: {' '.join(str(error).split())}") from None
    try:
        context = _named(table, "context", _text(table, "current-context"))
        cluster, user = (_named(table, kind, _text(context, kind)) for kind in ("cluster", "user"))
        return _access(cluster, user, Path(path).parent)
    except (ValueError, binascii.Error) as error:
        raise ConfigError(f"cannot use --kubeconfig {path}: {error}") from None


def _named(table: Any, kind: str, name: str) -> Mapping[str, Any]:
    """Of a list of {name, <kind>: …}; ValueError."""
    rows = table.get(f"{kind}s") if isinstance(table, Mapping) else None
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, Mapping) and row.get("name") == name and isinstance(row.get(kind), Mapping):
            found: Mapping[str, Any] = row[kind]
            return found
    raise ValueError(f'{kind} "{name}" does not exist')


def _text(table: Any, key: str) -> str:
    """ "" = not given; ValueError."""
    value = table.get(key) if isinstance(table, Mapping) else None
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} is no text")
    return value or ""


def _access(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> KubeAccess:
    """Paths are relative to the file; data go before files, as for kubectl. ValueError."""
    for table, keys in ((cluster, ("proxy-url",)), (user, ("exec", "auth-provider", "username", "password", "as"))):
        for option in keys:
            if table.get(option):
                raise ValueError(f"{option} is not supported")
    server = urlsplit(_text(cluster, "server"))
    if server.scheme != "https" or not server.hostname:
        raise ValueError(f"server {_text(cluster, 'server')!r} is not https://<host>:<port>")
    certificate, key = _data(user, "client-certificate-data"), _data(user, "client-key-data")
    files = {one: str(folder / name) if (name := _text(user, one)) else "" for one in ("client-certificate", "client-key", "tokenFile")}
    if bool(certificate or files["client-certificate"]) != bool(key or files["client-key"]) or bool(certificate) != bool(key):
        raise ValueError("client-certificate and client-key need each other, both as data or both as files")
    authority = _text(cluster, "certificate-authority")
    ca_pem = _data(cluster, "certificate-authority-data").decode()
    return KubeAccess(
        server.hostname,
        server.port or 443,
        path=server.path.rstrip("/"),
        server_name=_text(cluster, "tls-server-name"),
        ca_file=str(folder / authority) if authority and not ca_pem else "",
        ca_pem=ca_pem,
        verify=not cluster.get("insecure-skip-tls-verify"),
        token_file=files["tokenFile"],
        token=_text(user, "token"),
        cert_file="" if certificate else files["client-certificate"],
        key_file="" if certificate else files["client-key"],
        pair_pem=certificate + b"\n" + key if certificate else b"",
    )


def _data(table: Mapping[str, Any], key: str) -> bytes:
    """b"" = not given; ValueError."""
    try:
        return base64.b64decode(_text(table, key), validate=True)
    except binascii.Error:
        raise ValueError(f"{key} is not base64") from None
