"""The external etcd: --etcd-client-endpoints and what is said to them.

Invariant: without the embedded store there is an endpoint, with it there is none of this. Texts are the contract's where it has one
(spec/scheduler.md §2.1). Must not know: who answers there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from raftsched.errors import ConfigError

ENDPOINTS_MAX: Final = 64
FLAGS: Final = ("endpoints", "username", "password", "cacert", "cert", "key")
"""Behind --etcd-client-."""
DEFAULT_PORT: Final = 2379


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member."""

    address: str
    """host:port, or unix:<path>."""
    secure: bool


@dataclass(frozen=True, slots=True)
class ExternalEtcd:
    """Where it is and who we are there; "" = nobody, no such file."""

    endpoints: tuple[Endpoint, ...]
    username: str
    password: str
    ca_file: str
    cert_file: str
    key_file: str


def refuse_external(options: Mapping[str, Any]) -> None:
    """With the embedded store. Raises ConfigError."""
    for name in FLAGS:
        if options[f"etcd_client_{name}"]:
            raise ConfigError(f"cannot use --etcd-client-{name} with --etcd-embed")


def external_etcd(options: Mapping[str, Any]) -> ExternalEtcd:
    """Raises ConfigError."""
    entries = [entry.strip() for entry in options["etcd_client_endpoints"]]
    if not entries:
        raise ConfigError("must specify --etcd-client-endpoints when not using embedded etcd")
    if len(entries) > ENDPOINTS_MAX:
        raise ConfigError(f"invalid value for --etcd-client-endpoints: more than {ENDPOINTS_MAX}")
    ca, cert, key = (options[f"etcd_client_{name}"] for name in FLAGS[3:])
    if bool(cert) != bool(key):
        raise ConfigError("--etcd-client-cert and --etcd-client-key must both be given")
    username, password = options["etcd_client_username"], options["etcd_client_password"]
    if password and not username:
        raise ConfigError("--etcd-client-password needs --etcd-client-username")
    endpoints = tuple(dict.fromkeys(_endpoint(entry, bool(ca or cert)) for entry in entries))
    if (ca or cert) and not any(one.secure for one in endpoints):
        raise ConfigError("certificates for etcd are given, and no endpoint is https")
    return ExternalEtcd(endpoints, username, password, ca, cert, key)


def _endpoint(text: str, files: bool) -> Endpoint:
    """host:port, with or without scheme; without one TLS is spoken if there are files for it, as etcd's own clients do."""

    def wrong(reason: str) -> ConfigError:
        return ConfigError(f"invalid value for --etcd-client-endpoints: {reason}: {text}")

    try:
        url = urlsplit(text if "://" in text else f"//{text}")
        port = url.port
    except ValueError as error:
        raise wrong(str(error)) from None
    if url.scheme in {"unix", "unixs"}:
        path = url.netloc + url.path
        if not path:
            raise wrong("URL names no socket")
        return Endpoint(f"unix:{path}", url.scheme == "unixs")
    if url.scheme not in {"", "http", "https"}:
        raise wrong("URL scheme must be http, https, unix, or unixs")
    if not url.hostname or url.username is not None or url.path.strip("/") or url.query or url.fragment:
        raise wrong("must be [http(s)://]<host>:<port>")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return Endpoint(f"{host}:{DEFAULT_PORT if port is None else port}", url.scheme == "https" or (not url.scheme and files))
