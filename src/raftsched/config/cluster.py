"""Who the members are and how they meet: --etcd-initial-cluster, where this member listens for its peers, their TLS files.

Invariant: names and URLs of a parsed list are unique, and this member is in it. Texts are the contract's where it has one
(spec/scheduler.md §2.5). Must not know: whether a file is there, who answers at a URL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from raftsched.config.tls import TlsOptions, peer_options
from raftsched.errors import ConfigError
from raftsched.hosts import is_address
from raftsched.limits import MEMBERS_MAX
from raftsched.units import parse_duration

STORE: Final = "Fatal error running scheduler: failed to create etcd config: "
CLUSTER: Final = STORE + "invalid format for initial cluster. Make sure to include 'http://' or 'https://' in Scheduler URL: "
FORM_WAIT: Final = "3s"
NS_PER_MS: Final = 1_000_000
PEER_FILES: Final = ("peer-cert-file", "peer-key-file", "peer-trusted-ca-file")


@dataclass(frozen=True, slots=True)
class PeerEntry:
    """One entry of the list."""

    name: str
    url: str


def parse_cluster(own: str, entries: Sequence[str]) -> tuple[PeerEntry, ...]:
    """The list, in its order. Raises ConfigError: no such format, a name or URL twice, this member is not in it."""
    found: dict[str, PeerEntry] = {}
    owners: dict[tuple[str | None, int | None], str] = {}
    for entry in entries:
        name, separator, url = entry.partition("=")
        if not separator:
            listed = " ".join(entries)
            raise ConfigError(f"{CLUSTER}incorrect format for initialPeerList: [{listed}]. Should contain <id>=http://<ip>:<peer-port>")
        parts = parse_peer_url(url)
        if name in found:
            raise ConfigError(f"{CLUSTER}{name} is listed twice: {found[name].url} and {url}")
        other = owners.setdefault((parts.hostname, parts.port), name)
        if other != name:
            raise ConfigError(f"{CLUSTER}{other} and {name} have the same URL: {url}")
        found[name] = PeerEntry(name, url)
    if own not in found:
        raise ConfigError(f"{STORE}scheduler ID: {own} is not found in initial cluster")
    if len(found) > MEMBERS_MAX:
        raise ConfigError(f"{STORE}{len(found)} members are listed, a cluster has at most {MEMBERS_MAX}")
    return tuple(found.values())


def parse_peer_url(url: str) -> SplitResult:
    """Raises ConfigError."""
    try:
        parsed = urlsplit(url)
        port = parsed.port
    except ValueError as error:
        raise ConfigError(f"{CLUSTER}unable to parse url from initialPeerList: {error}") from None
    if parsed.scheme not in {"http", "https"} or not parsed.hostname or port is None:
        raise ConfigError(f"{CLUSTER}unable to parse url from initialPeerList: {url} is not http(s)://<host>:<peer-port>")
    return parsed


def peer_tls(options: Mapping[str, Any], entries: Sequence[PeerEntry], host: str) -> TlsOptions | None:
    """All three files, or a certificate of one's own making, or nothing; https needs them, and they need https. `host` is where this
    member listens for the others. Raises ConfigError."""
    files = [options[name.replace("-", "_")] for name in PEER_FILES]
    secure = [one.url for one in entries if one.url.startswith("https:")]
    plain = [one.url for one in entries if not one.url.startswith("https:")]
    missing = [f"--{name}" for name, file in zip(PEER_FILES, files, strict=True) if not file]
    automatic = options["peer_auto_tls"] and not files[0] and not files[1]
    if peers_by_identity(options, entries):
        return None
    if secure and missing and not automatic:
        raise ConfigError(f"a peer URL with https ({secure[0]}) needs mTLS: {', '.join(missing)}")
    if len(missing) == len(PEER_FILES) and not automatic:
        if options["peer_client_cert_auth"]:
            raise ConfigError(f"--peer-client-cert-auth needs {', '.join(missing)}")
        return None
    if missing and not automatic:
        raise ConfigError(f"TLS between members needs {', '.join(missing)} too")
    if plain:
        raise ConfigError(f"TLS between members needs https in every peer URL: {plain[0]}")
    return peer_options(options, host)


def peers_by_identity(options: Mapping[str, Any], entries: Sequence[PeerEntry]) -> bool:
    """Whether members know each other by the identities that Sentry signs: with --tls-enabled, https, and no files of their own. Raises
    ConfigError."""
    given = [name for name in (*PEER_FILES, "peer-client-cert-file", "peer-auto-tls") if options[name.replace("-", "_")]]
    secure = [one.url for one in entries if one.url.startswith("https:")]
    mtls = options["etcd_embed"] and (options["tls_enabled"] or options["mode"] == "kubernetes")
    if given or not secure or not mtls:
        return False
    plain = [one.url for one in entries if not one.url.startswith("https:")]
    if plain:
        raise ConfigError(f"TLS between members needs https in every peer URL: {plain[0]}")
    for name in ("peer-crl-file", "peer-cert-allowed-cn", "peer-cert-allowed-hostname"):
        if options[name.replace("-", "_")]:
            raise ConfigError(f"--{name} needs --peer-cert-file: with --tls-enabled members know each other by what Sentry signs")
    return True


def peer_listen(flag: str, own_url: str, mode: str) -> tuple[str, int]:
    """(host, port) of the peers' listener: what --peer-listen-address says, else Dapr's rule. Raises ConfigError.

    Dapr: all interfaces in kubernetes mode; else the own entry's host if it is an IP address or localhost, else all.
    """
    own = parse_peer_url(own_url)
    host, port = own.hostname or "", own.port or 0
    if flag:
        try:
            given = urlsplit(f"//{flag}")
            port = port if given.port is None else given.port
        except ValueError as error:
            raise ConfigError(f"invalid value for --peer-listen-address: {flag}: {error}") from None
        return given.hostname or "", port
    if mode == "kubernetes" or not (host == "localhost" or is_address(host)):
        return "0.0.0.0", port
    return host, port


def form_wait_ms(text: str | None, mode: str) -> int | None:
    """None = without limit, as in kubernetes mode, where a volume may attach late and hold the data. Raises ConfigError."""
    if text is None and mode == "kubernetes":
        return None
    try:
        wait_ns = parse_duration(FORM_WAIT if text is None else text)
    except ValueError as error:
        raise ConfigError(f"invalid value for --form-wait: {error}") from None
    if wait_ns < 0:
        raise ConfigError(f"invalid value for --form-wait: {text}: must not be negative")
    return wait_ns // NS_PER_MS
