"""The configuration of `raftsched serve`, and the rules that a set of options must keep.

Invariant: a `ServeConfig` has passed every check that needs no look at the machine; texts and order are the contract's
(spec/scheduler.md §2.1, §2.5, §2.6). Must not know: where an option came from.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raftsched.config.auth import AuthToken, bcrypt_cost, parse_auth_token
from raftsched.config.cluster import STORE, PeerEntry, form_wait_ms, parse_cluster, peer_listen, peer_tls, peers_by_identity
from raftsched.config.external import ExternalEtcd, external_etcd, refuse_external
from raftsched.config.flags import Value
from raftsched.config.http import check_origins
from raftsched.config.kube import KubeSource, kube_source
from raftsched.config.listening import ClientListener, listening
from raftsched.config.sentry import SentryOptions, scheduler_tls, sentry_options
from raftsched.config.tls import TlsOptions
from raftsched.errors import ConfigError
from raftsched.limits import AUTH_TOKEN_TTL_S
from raftsched.units import INT64_MAX, NS_PER_S, parse_duration, parse_quantity

PORT_MAX: Final = 65_535
DEFAULT_TRUST_ANCHORS: Final = "/var/run/secrets/dapr.io/tls/ca.crt"
_FATAL: Final = "Fatal error running scheduler: "
_EMBEDDED: Final = _FATAL + "failed to start embedded etcd: "
_LEVELS: Final = {"debug", "info", "warn", "warning", "error", "fatal"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Every option of one server. Ports 0 … 65 535, 0 = any free one; addresses "" = all interfaces."""

    namespace: str
    """NAMESPACE: the namespace of the control plane."""
    host_ip: str | None
    """DAPR_HOST_IP: goes before the detected host address."""

    port: int
    listen_address: str
    healthz_port: int
    healthz_listen_address: str
    override_broadcast_host_port: str | None
    mode: str
    kube: KubeSource | None
    """None outside of kubernetes mode."""
    root_allowed: bool
    """DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK: kubernetes mode refuses to run as root otherwise."""
    id: str
    tls_enabled: bool
    trust_domain: str
    trust_anchors_file: str
    sentry_address: str
    identity_directory_write: str | None
    """None = identity files are written nowhere."""
    sentry: SentryOptions | None
    """None = without mTLS."""
    scheduler_tls: TlsOptions | None
    """Of certificate files; never beside `sentry`."""
    scheduler_client_cert_auth: bool
    """With certificate files: each call is of the app that the client's SPIFFE id names."""
    workers: int
    etcd_embed: bool
    external: ExternalEtcd | None
    """None = the embedded store."""
    etcd_initial_cluster: tuple[str, ...]
    etcd_data_dir: Path
    etcd_client_port: int
    etcd_client_listen_address: str
    cors: tuple[str, ...]
    host_whitelist: tuple[str, ...]
    """Both: "*" among them = all."""
    metrics_listeners: tuple[ClientListener, ...]
    """Of --listen-metrics-urls."""
    etcd_space_quota_bytes: int
    """2**63 - 1 and less; the default is as good as unlimited."""
    etcd_compaction_mode: str
    """`periodic` or `revision`."""
    etcd_compaction_retention: int
    """Periodic: nanoseconds. Revision: revisions. 0 = off."""
    etcd_snapshot_count: int
    etcd_max_snapshots: int
    etcd_max_wals: int
    etcd_backend_batch_limit: int
    """Operations, from 1."""
    etcd_backend_batch_interval_ns: int
    etcd_max_txn_ops: int
    etcd_bootstrap_defrag_threshold_bytes: int
    """0 = off."""
    etcd_initial_election_tick_advance: bool
    etcd_metrics: str
    """`basic` or `extensive`."""
    auth_token: AuthToken
    auth_token_ttl_s: int
    bcrypt_cost: int
    log_level: str
    log_as_json: bool
    log_file: str
    enable_metrics: bool
    metrics_port: int
    metrics_listen_address: str
    """Its flag if given, else that of the scheduler API."""

    strict_reconfig_check: bool
    max_learners: int
    force_new_cluster: bool
    form_wait_ms: int | None
    """None = a new cluster needs every listed member."""
    initial_cluster: tuple[PeerEntry, ...]
    """`etcd_initial_cluster`, read."""
    peer_url: str
    """This member's own URL in the cluster list."""
    peer_listen_host: str
    peer_listen_port: int
    peer_tls: TlsOptions | None
    """Of certificate files, or made at the start."""
    peers_by_identity: bool
    """Members show each other what Sentry has signed, instead."""
    listen_client_urls: tuple[str, ...]
    client_listeners: tuple[ClientListener, ...]
    """--listen-client-urls, else --etcd-client-listen-address and --etcd-client-port, with TLS if there is a certificate."""
    advertise_client_urls: tuple[str, ...]
    """What other members and clients are told."""
    client_cert_auth: bool
    """The common name of a client's certificate is its user."""
    client_tls: TlsOptions | None
    """None = no certificate: nothing listens with TLS."""

    @property
    def member_directory(self) -> Path:
        """`<data-dir>/<NAMESPACE>-<id>`: ours and Dapr's directories lie in it, side by side."""
        return self.etcd_data_dir / self.instance if self.instance is not None else self.etcd_data_dir

    @property
    def instance(self) -> str | None:
        """None in kubernetes mode: there the volume is the member's own."""
        return f"{self.namespace}-{self.id}" if self.mode != "kubernetes" else None

    @property
    def store_directory(self) -> Path:
        """Where our store keeps its files."""
        return self.member_directory / "raftsched-1"

    @property
    def fixtures_directory(self) -> Path:
        """Where certificates of our own making are kept: `client` and `peer`."""
        return self.store_directory / "fixtures"

    @property
    def dapr_directory(self) -> Path:
        """Where Dapr's own etcd keeps its files; never written to."""
        return self.member_directory / "dapr-0.1"

    @property
    def dapr_marker(self) -> Path:
        """Dapr wipes its directory when this file is absent."""
        return self.etcd_data_dir / "dapr-scheduler-existing-cluster"


def validate(values: Mapping[str, Value], environ: Mapping[str, str]) -> ServeConfig:
    """Checks in the contract's order: contradictions, the log, what is not supported yet, the store, single values."""
    options: dict[str, Any] = {name.replace("-", "_"): value for name, value in values.items()}
    _refuse_contradictions(options)
    quota = _quota(options["etcd_space_quota"])
    if options["log_level"].lower() not in _LEVELS:
        raise ConfigError(f"invalid value for --log-level: {options['log_level']}")
    _refuse_unsupported(options)
    guarding = {"sentry": sentry_options(options, environ), "scheduler_tls": scheduler_tls(options)}
    cluster = _cluster(options)
    interval_ns = _batch_interval_ns(options["etcd_backend_batch_interval"])
    retention = _retention(options["etcd_compaction_mode"], options["etcd_compaction_retention"])
    _check_values(options)
    namespace = environ.get("NAMESPACE", "default")
    metrics_address = options["metrics_listen_address"]
    derived: dict[str, Any] = {
        "namespace": namespace,
        "kube": kube_source(options, environ),
        "root_allowed": environ.get("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK") == "true",
        "host_ip": environ.get("DAPR_HOST_IP") or None,
        "trust_anchors_file": options["trust_anchors_file"] or DEFAULT_TRUST_ANCHORS,
        "sentry_address": options["sentry_address"] or f"dapr-sentry.{namespace}.svc:443",
        "etcd_data_dir": Path(options["etcd_data_dir"]),
        "etcd_space_quota_bytes": quota,
        "etcd_compaction_retention": retention,
        "etcd_backend_batch_interval_ns": interval_ns,
        "etcd_bootstrap_defrag_threshold_bytes": options["etcd_experimental_bootstrap_defrag_threshold_megabytes"] << 20,
        "auth_token": parse_auth_token(options["auth_token"]),
        "auth_token_ttl_s": options["auth_token_ttl"] or AUTH_TOKEN_TTL_S,
        "bcrypt_cost": bcrypt_cost(options["bcrypt_cost"]),
        "log_level": options["log_level"].lower(),
        "metrics_port": _metrics_port(options["metrics_port"]),
        "metrics_listen_address": options["listen_address"] if metrics_address is None else metrics_address,
    }
    check_origins(options["cors"])
    known = options | derived | guarding | cluster | listening(options)
    return ServeConfig(**{name: known[name] for name in ServeConfig.__dataclass_fields__})


def _refuse_contradictions(options: Mapping[str, Any]) -> None:
    if options["etcd_embed"]:
        refuse_external(options)
    else:
        external_etcd(options)
    if options["kubeconfig"] is not None and options["mode"] != "kubernetes":
        raise ConfigError("kubeconfig flag is only valid in --mode=kubernetes")


def _cluster(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields about the members; beside an external etcd there are none, and the list is not looked at."""
    if not options["etcd_embed"]:
        none: dict[str, Any] = {"initial_cluster": (), "peer_url": "", "peer_listen_host": "", "peer_listen_port": 0}
        return none | {"peer_tls": None, "peers_by_identity": False, "form_wait_ms": None, "external": external_etcd(options)}
    own = options["id"]
    entries = parse_cluster(own, options["etcd_initial_cluster"])
    if "/" in own or "\0" in own:
        raise ConfigError(f"invalid value for --id: {own}: it names a directory and must not contain '/'")
    own_url = next(one.url for one in entries if one.name == own)
    host, port = peer_listen(options["peer_listen_address"], own_url, options["mode"])
    return {
        "initial_cluster": entries,
        "peer_url": own_url,
        "peer_listen_host": host,
        "peer_listen_port": port,
        "peer_tls": peer_tls(options, entries, host),
        "peers_by_identity": peers_by_identity(options, entries),
        "form_wait_ms": form_wait_ms(options["form_wait"], options["mode"]),
        "external": None,
    }


def _quota(text: str) -> int:
    try:
        return parse_quantity(text)
    except ValueError as error:
        raise ConfigError(f"failed to parse etcd space quota: {error}") from None


def _refuse_unsupported(options: Mapping[str, Any]) -> None:
    """What a later version brings must not look as if it worked."""
    if options["mode"] not in {"standalone", "kubernetes"}:
        raise ConfigError(f"invalid value for --mode: {options['mode']}: must be standalone or kubernetes")
    refusals = {
        "--placement-enabled": options["placement_enabled"],
    }
    for what, wanted in refusals.items():
        if wanted:
            raise ConfigError(f"{what} is not supported by this version of raftsched")


def _batch_interval_ns(text: str) -> int:
    try:
        interval_ns = parse_duration(text)
    except ValueError:
        raise ConfigError(f"{STORE}failed to parse backend batch interval. Please use a string representing time.Duration") from None
    if interval_ns <= 0:
        raise ConfigError(f"invalid value for --etcd-backend-batch-interval: {text}: must be positive")
    return interval_ns


def _retention(mode: str, text: str) -> int:
    """A bare number is hours in periodic mode, as in etcd."""
    if mode not in {"periodic", "revision"}:
        raise ConfigError(f'{_EMBEDDED}unknown auto-compaction-mode "{mode}"')
    whole = re.fullmatch(r"[+-]?[0-9]{1,18}", text)
    if mode == "revision" and not whole:
        raise ConfigError(f"{_EMBEDDED}error parsing CompactionRetention: {text} is not a number of revisions")
    try:
        number = (int(text) * (3600 * NS_PER_S if mode == "periodic" else 1)) if whole else parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{_EMBEDDED}error parsing CompactionRetention: {error}") from None
    if not 0 <= number <= INT64_MAX:
        raise ConfigError(f"{_EMBEDDED}error parsing CompactionRetention: {text} is out of range")
    return number


def _metrics_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > len(str(PORT_MAX)):
        raise ConfigError(f"invalid value for --metrics-port: {text}")
    return int(text)


def _check_values(options: Mapping[str, Any]) -> None:
    if options["workers"] == 0:
        raise ConfigError(_FATAL + "fail to create etcd-cron: workers must be larger than 0")
    for name in ("port", "healthz_port", "etcd_client_port"):
        if not 0 <= options[name] <= PORT_MAX:
            raise ConfigError(f"invalid value for --{name.replace('_', '-')}: {options[name]} is not a port")
    if _metrics_port(options["metrics_port"]) > PORT_MAX:
        raise ConfigError(f"invalid value for --metrics-port: {options['metrics_port']} is not a port")
    for name in ("etcd_backend_batch_limit", "etcd_snapshot_count", "etcd_max_txn_ops"):
        if options[name] < 1:
            raise ConfigError(f"invalid value for --{name.replace('_', '-')}: {options[name]}: must be at least 1")
    if options["max_learners"] < 1:
        raise ConfigError("invalid value for --max-learners: 0: must be at least 1")
    if options["etcd_metrics"] not in {"basic", "extensive"}:
        raise ConfigError(f"invalid value for --etcd-metrics: {options['etcd_metrics']}: must be basic or extensive")
    if not options["etcd_data_dir"]:
        raise ConfigError("invalid value for --etcd-data-dir: it is empty")
