"""The configuration of `raftsched etcd`, and the rules that a set of options must keep.

Invariant: an `EtcdConfig` has passed every check that needs no look at the machine; order and texts are etcd's
(embed.Config.Validate). What the store's part of the server asks of a configuration has the same name here as in `ServeConfig`.
Must not know: where an option came from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from raftsched.config.auth import AuthToken, bcrypt_cost, parse_auth_token
from raftsched.config.etcd import discovery, gates
from raftsched.config.etcd.discovery import DiscoveryOptions
from raftsched.config.etcd.flags import BY_NAME, DEFAULTS
from raftsched.config.etcd.urls import Url, check_bind, check_hosts
from raftsched.config.etcd.values import Value
from raftsched.config.listening import ClientListener, join_listeners
from raftsched.config.tls import TlsOptions, client_tls, peer_options
from raftsched.errors import ConfigError
from raftsched.limits import AUTH_TOKEN_TTL_S
from raftsched.units import INT64_MAX, NS_PER_S, format_duration, parse_duration, parse_int, quote

ELECTION_MS_MAX: Final = 50_000
NS_PER_MS: Final = 1_000_000
TLS_VERSIONS: Final = ("", "TLS1.2", "TLS1.3")
LEVELS: Final = ("debug", "info", "warn", "error", "dpanic", "panic", "fatal")
FORMATS: Final = ("json", "console")
DEFAULT_OUTPUT: Final = "default"
JOURNAL: Final = "systemd/journal"
BATCH_INTERVAL_MS: Final = 100
BATCH_LIMIT: Final = 10_000
PROGRESS_INTERVAL_NS: Final = 600 * NS_PER_S
NO_ADVERTISED: Final = "--advertise-client-urls is required when --listen-client-urls is set explicitly"


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdConfig:
    """Every option of one member, as etcd names it. Times say their unit; 0 where etcd has a default behind it is that default."""

    name: str
    data_dir: str
    wal_dir: str
    """"" = in the data directory."""
    snapshot_count: int
    heartbeat_interval: int
    """Milliseconds, as in etcd."""
    election_timeout: int
    listen_peer_urls: tuple[Url, ...]
    listen_client_urls: tuple[Url, ...]
    listen_client_http_urls: tuple[Url, ...]
    listen_metrics_urls: tuple[Url, ...]
    initial_advertise_peer_urls: tuple[Url, ...]
    advertise_client_urls: tuple[Url, ...]
    initial_cluster: str
    initial_cluster_state: str
    initial_cluster_token: str
    discovery: DiscoveryOptions | None
    """None = no discovery service."""
    discovery_srv: str
    """"" = no discovery by SRV records."""
    discovery_srv_name: str
    strict_reconfig_check: bool
    max_learners: int
    force_new_cluster: bool
    max_snapshots: int
    max_wals: int
    catch_up_entries: int | None
    """None = etcd's default was not changed: what the log files hold is there for whoever is behind."""
    compaction_records: int
    compaction_pause_ms: int
    quota_backend_bytes: int
    batch_interval_ms: int
    batch_limit: int
    max_txn_ops: int
    max_request_bytes: int
    max_concurrent_streams: int
    """0 = no limit."""
    socket_reuse_port: bool
    keepalive_min_ms: int
    keepalive_interval_ms: int
    """0 = no pings."""
    keepalive_timeout_ms: int
    enable_grpc_gateway: bool
    feature_gates: Mapping[str, bool]
    auto_compaction_mode: str
    auto_compaction_retention: int
    """Milliseconds (periodic) or revisions; 0 = off."""
    watch_progress_interval_ms: int
    warning_apply_ms: int
    peer_tls: TlsOptions | None
    client_listeners: tuple[ClientListener, ...]
    metrics_listeners: tuple[ClientListener, ...]
    client_tls: TlsOptions | None
    """None = nothing listens with TLS."""
    client_cert_auth: bool
    cors: tuple[str, ...]
    host_whitelist: tuple[str, ...]
    initial_corrupt_check: bool
    corrupt_check_ms: int
    """0 = never."""
    compact_hash_check: bool
    compact_hash_check_ms: int
    etcd_metrics: str
    """`basic` or anything else, which is `extensive` if it is that."""
    etcd_bootstrap_defrag_threshold_bytes: int
    auth_token: AuthToken
    auth_token_ttl_s: int
    bcrypt_cost: int
    log_level: str
    log_format: str
    log_outputs: tuple[str, ...]


def validate(values: Mapping[str, Value], explicit: Mapping[str, Value]) -> EtcdConfig:
    """`explicit`: those that were given. Raises ConfigError with etcd's words, where etcd refuses too."""
    options: dict[str, Any] = {BY_NAME[name].field: value for name, value in values.items()}
    if "listen-client-urls" in explicit and "advertise-client-urls" not in explicit:
        options["advertise_client_urls"] = ()
    try:
        _check(options, explicit)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    _refuse_sockets(options)
    options["initial_cluster"] = discovery.initial_cluster(options, given="initial-cluster" in explicit)
    return _build(options)


def _check(options: Mapping[str, Any], explicit: Mapping[str, Value]) -> None:
    if options["discovery_fallback"] == "proxy":
        raise ValueError('v2 proxy is deprecated, and --discovery-fallback can\'t be configured as "proxy"')
    _check_log(options)
    for name in ("listen_peer_urls", "listen_client_urls", "listen_client_http_urls", "listen_metrics_urls"):
        check_bind(options[name])
    _check_advertised(options)
    _check_bootstrap(options, explicit)
    _check_times(options)
    if options["listen_client_urls"] and not options["advertise_client_urls"]:
        raise ValueError(NO_ADVERTISED)
    mode = options["auto_compaction_mode"]
    if mode not in {"periodic", "revision"}:
        raise ValueError(f"unknown auto-compaction-mode {quote(mode)}" if mode else "undefined auto-compaction-mode")
    set_gates = {**gates.DEFAULTS, **options["feature_gates"]}
    if set_gates["LeaseCheckpointPersist"] and not set_gates["LeaseCheckpoint"]:
        raise ValueError("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")
    if options["compact_hash_check_time"] <= 0:
        raise ValueError(f"--compact-hash-check-time must be >0 (set to {format_duration(options['compact_hash_check_time'])})")
    for name in ("max_txn_ops", "max_request_bytes"):  # etcd starts, and refuses everything
        if not options[name]:
            raise ValueError(f"--{name.replace('_', '-')} must be >0 (set to 0)")
    _check_tls_versions(options)


def _check_log(options: Mapping[str, Any]) -> None:
    if options["logger"] != "zap":
        removed = options["logger"] == "capnslog"
        raise ValueError("--logger=capnslog is removed in v3.5" if removed else f"unknown logger option {quote(options['logger'])}")
    outputs = options["log_outputs"]
    if len(outputs) > 1 and DEFAULT_OUTPUT in outputs:
        raise ValueError(f"multi logoutput for {quote(DEFAULT_OUTPUT)} is not supported yet")
    if JOURNAL in outputs:
        raise ValueError(f"--log-outputs={JOURNAL} is not supported by this version of raftsched: journald takes what stderr says")
    if options["log_level"].lower() not in LEVELS:
        raise ValueError(f"unrecognized level: {quote(options['log_level'])}")
    if options["log_format"] not in FORMATS:
        raise ValueError(f"unknown log format: {options['log_format']}, supported values json, console")


def _check_advertised(options: Mapping[str, Any]) -> None:
    forms = {
        "initial_advertise_peer_urls": '"host:port"',
        "advertise_client_urls": 'in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket"',
    }
    for name, form in forms.items():
        try:
            check_hosts(options[name])
        except ValueError as error:
            listed = ",".join(map(str, options[name]))
            raise ValueError(f"--{name.replace('_', '-')} {quote(listed)} must be {form} ({error})") from None


def _check_bootstrap(options: Mapping[str, Any], explicit: Mapping[str, Value]) -> None:
    state = options["initial_cluster_state"]
    if state not in {"new", "existing"}:
        raise ValueError(f"unexpected clusterState {quote(state)}")
    discovery.check(options, cluster_given="initial-cluster" in explicit)


def _check_times(options: Mapping[str, Any]) -> None:
    heartbeat, election = options["heartbeat_interval"], options["election_timeout"]
    for name, value in (("heartbeat-interval", heartbeat), ("election-timeout", election)):
        if value == 0:
            raise ValueError(f"--{name} must be >0 (set to {value}ms)")
    if 5 * heartbeat > election:
        raise ValueError(f"--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]")
    if election > ELECTION_MS_MAX:
        raise ValueError(f"--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms")


def _check_tls_versions(options: Mapping[str, Any]) -> None:
    low, high = options["tls_min_version"], options["tls_max_version"]
    for version in (low, high):
        if version not in TLS_VERSIONS:
            raise ValueError(f"unexpected TLS version {quote(version)} (must be one of: TLS1.2, TLS1.3)")
    if high and low > high:
        raise ValueError(f"min version ({low}) is greater than max version ({high})")
    if low == "TLS1.3" and options["cipher_suites"]:
        raise ValueError("cipher suites cannot be configured when only TLS1.3 is enabled")


def _refuse_sockets(options: Mapping[str, Any]) -> None:
    for url in options["listen_peer_urls"]:
        if url.is_socket:
            raise ConfigError(f"--listen-peer-urls: {url}: unix sockets are not for members")


def _build(options: Mapping[str, Any]) -> EtcdConfig:
    given = dict(options["feature_gates"])
    given |= {"InitialCorruptCheck": True} if options["initial_corrupt_check"] else {}
    given |= {"CompactHashCheck": True} if options["compact_hash_check_enabled"] else {}
    pings = options["grpc_keepalive_interval"] > 0 and options["grpc_keepalive_timeout"] > 0
    derived: dict[str, Any] = {
        "feature_gates": given,
        "batch_interval_ms": max(options["backend_batch_interval"] // NS_PER_MS, 0) or BATCH_INTERVAL_MS,
        "batch_limit": max(options["backend_batch_limit"], 0) or BATCH_LIMIT,
        "catch_up_entries": None if (kept := options["snapshot_catchup_entries"]) in {0, DEFAULTS["snapshot-catchup-entries"]} else kept,
        "compaction_records": max(options["compaction_batch_limit"], 0),
        "compaction_pause_ms": max(options["compaction_sleep_interval"] // NS_PER_MS, 0) or 1,
        "snapshot_count": options["snapshot_count"] or DEFAULTS["snapshot-count"],
        "keepalive_min_ms": options["grpc_keepalive_min_time"] // NS_PER_MS,
        "keepalive_interval_ms": options["grpc_keepalive_interval"] // NS_PER_MS if pings else 0,
        "keepalive_timeout_ms": options["grpc_keepalive_timeout"] // NS_PER_MS,
        "auto_compaction_retention": retention(options["auto_compaction_mode"], options["auto_compaction_retention"]),
        "watch_progress_interval_ms": (options["watch_progress_notify_interval"] or PROGRESS_INTERVAL_NS) // NS_PER_MS,
        "warning_apply_ms": options["warning_apply_duration"] // NS_PER_MS,
        "discovery": discovery.build(options),
        "peer_tls": _peer_tls(options),
        "client_listeners": client_listeners(options["listen_client_urls"], options["listen_client_http_urls"]),
        "metrics_listeners": listeners(options["listen_metrics_urls"]),
        "client_tls": _client_tls(options),
        "initial_corrupt_check": given.get("InitialCorruptCheck", False),
        "corrupt_check_ms": max(options["corrupt_check_time"], 0) // NS_PER_MS,
        "compact_hash_check": given.get("CompactHashCheck", False),
        "compact_hash_check_ms": max(options["compact_hash_check_time"] // NS_PER_MS, 1),
        "etcd_metrics": options["metrics"],
        "etcd_bootstrap_defrag_threshold_bytes": options["bootstrap_defrag_threshold_megabytes"] << 20,
        "auth_token": parse_auth_token(options["auth_token"]),
        "auth_token_ttl_s": options["auth_token_ttl"] or AUTH_TOKEN_TTL_S,
        "bcrypt_cost": bcrypt_cost(options["bcrypt_cost"]),
        "log_level": options["log_level"].lower(),
        "log_outputs": options["log_outputs"] or (DEFAULT_OUTPUT,),
    }
    known = {**options, **derived}
    return EtcdConfig(**{name: known[name] for name in EtcdConfig.__dataclass_fields__})


def retention(mode: str, text: str) -> int:
    """etcd's parseCompactionRetention, in ms or revisions. Raises ConfigError."""
    try:
        number = parse_int(text or "0")
    except ValueError:
        number = -1
    if number >= 0:
        return number * (3_600_000 if mode == "periodic" else 1)
    try:
        duration_ns = parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"error parsing CompactionRetention: {error}") from None
    if mode == "revision":
        return min(max(duration_ns, 0), INT64_MAX)  # as etcd does: `5m` are 300 000 000 000 revisions
    return max(duration_ns // NS_PER_MS, 0)


def listeners(urls: Sequence[Url]) -> tuple[ClientListener, ...]:
    """Raises ConfigError: no such port."""
    try:
        return join_listeners((("", 0, url.socket_path) if url.is_socket else (*url.host_port, ""), url.is_secure) for url in urls)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def client_listeners(urls: Sequence[Url], http_urls: Sequence[Url]) -> tuple[ClientListener, ...]:
    """With URLs for HTTP alone the others are for gRPC alone. Raises ConfigError: one address is among both."""
    both = listeners(urls)
    if not http_urls:
        return both
    taken = {(one.host, one.port, one.path) for one in both}
    for url, one in ((url, listeners([url])[0]) for url in http_urls):
        if (one.host, one.port, one.path) in taken:
            raise ConfigError(f"cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}")
    return (*(replace(one, http=False) for one in both), *(replace(one, grpc=False) for one in listeners(http_urls)))


def _client_tls(options: Mapping[str, Any]) -> TlsOptions | None:
    urls = (*options["listen_client_urls"], *options["listen_client_http_urls"], *options["listen_metrics_urls"])
    clients = (*options["listen_client_urls"], *options["listen_client_http_urls"])
    hosts = tuple(url.host_port[0] for url in clients if not url.is_socket)
    return client_tls(options, tuple(filter(None, hosts)), next((str(url) for url in urls if url.is_secure), ""))


def _peer_tls(options: Mapping[str, Any]) -> TlsOptions | None:
    """As etcd: with files, https URLs speak TLS. Raises ConfigError."""
    secure = [str(url) for url in options["listen_peer_urls"] if url.is_secure]
    plain = [str(url) for url in options["listen_peer_urls"] if not url.is_secure]
    if not secure:
        return None
    if not options["peer_auto_tls"] and not all(options[f"peer_{name}"] for name in ("cert_file", "key_file")):
        raise ConfigError(f"cannot listen on TLS for {secure[0]}: KeyFile and CertFile are not presented")
    if plain:
        raise ConfigError(f"--listen-peer-urls: TLS on {secure[0]} needs TLS on {plain[0]}")
    return peer_options(options, options["listen_peer_urls"][0].host_port[0])
