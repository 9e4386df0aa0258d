"""The table of etcd 3.7's flags: type, default, what becomes of each here.

Invariant: a flag stands here once; the command line, the environment, the configuration file and the help all read this table. What has no
effect here says so with one line; nothing that is given is ignored silently.
Names and defaults are those of `etcd --help` of 3.7.1 (tests/interop/test_etcd_flags.py).
"""

from typing import Final

from raftsched.config.etcd.urls import Url, parse_urls
from raftsched.config.etcd.values import Effect, Flag, Kind

_B, _S, _L, _SET, _URLS = Kind.BOOL, Kind.STRING, Kind.LIST, Kind.SET, Kind.URLS
_I, _I64, _U, _U32, _U64, _D = Kind.INT, Kind.INT64, Kind.UINT, Kind.UINT32, Kind.UINT64, Kind.DURATION
_NONE: Final[tuple[Url, ...]] = ()
_WARNED: Final = Effect.WARNED
_MS, _SECOND, _MINUTE, _HOUR = 1_000_000, 1_000_000_000, 60_000_000_000, 3_600_000_000_000
_NO_PROXY: Final = "the gateway calls its server without a connection"
_TRACING: Final = "there is no tracing"

MEMBER: Final = (
    Flag("name", _S, "default", "name of this member"),
    Flag("data-dir", _S, "", "directory of all data (default ${name}.etcd)"),
    Flag("wal-dir", _S, "", "directory of the log, if it is not to lie in the data directory"),
    Flag("snapshot-count", _U64, 10_000, "applied entries between Raft snapshots"),
    Flag("heartbeat-interval", _U, 100, "milliseconds between heartbeats"),
    Flag("election-timeout", _U, 1000, "milliseconds without a leader before an election"),
    Flag(
        "initial-election-tick-advance", _B, True, "campaign sooner at start", _WARNED, "a member campaigns as soon as its others are there"
    ),
    Flag("listen-peer-urls", _URLS, parse_urls("http://localhost:2380"), "URLs that other members connect to"),
    Flag("listen-client-urls", _URLS, parse_urls("http://localhost:2379"), "URLs that clients connect to"),
    Flag("listen-client-http-urls", _URLS, _NONE, "URLs for HTTP alone; takes HTTP away from --listen-client-urls"),
    Flag("max-snapshots", _U, 5, "snapshot files kept; 0 = all"),
    Flag("max-wals", _U, 5, "log files kept; 0 = all"),
    Flag("memory-mlock", _B, False, "keep the database in RAM", _WARNED, "the database is read through the page cache and never locked"),
    Flag("quota-backend-bytes", _I64, 0, "space bound of the store; 0 = 2 GiB, below 0 = none"),
    Flag("backend-bbolt-freelist-type", _S, "", "of bbolt", _WARNED, "the database is no bbolt"),
    Flag("backend-batch-interval", _D, 0, "longest time before the backend commits; 0 = 100ms"),
    Flag("backend-batch-limit", _I, 0, "operations per commit of the backend; 0 = 10000"),
    Flag("max-txn-ops", _U, 128, "operations that one transaction may have"),
    Flag("max-request-bytes", _U, 1_572_864, "bytes of one request"),
    Flag("max-concurrent-streams", _U32, 0xFFFFFFFF, "streams of one connection; 0 = no limit"),
    Flag("grpc-keepalive-min-time", _D, 5 * _SECOND, "clients that ping more often are sent away; 0 = as often as they like"),
    Flag("grpc-keepalive-interval", _D, 2 * _HOUR, "idle time before the server pings; 0 = never"),
    Flag("grpc-keepalive-timeout", _D, 20 * _SECOND, "time for the answer to a ping; 0 = no pings"),
    Flag("socket-reuse-port", _B, False, "SO_REUSEPORT on listeners"),
    Flag("socket-reuse-address", _B, False, "SO_REUSEADDR on listeners; always set here"),
    Flag("enable-grpc-gateway", _B, True, "serve the JSON gateway"),
    Flag("raft-read-timeout", _D, 5 * _SECOND, "of peer connections", _WARNED, "peer connections have time limits of their own"),
    Flag("raft-write-timeout", _D, 5 * _SECOND, "of peer connections", _WARNED, "peer connections have time limits of their own"),
    Flag("feature-gates", Kind.GATES, {}, "NAME=true|false,… (docs/etcd-command.md)"),
)
CLUSTER: Final = (
    Flag("initial-advertise-peer-urls", _URLS, parse_urls("http://localhost:2380"), "URLs at which the other members reach this one"),
    Flag("initial-cluster", _S, "default=http://localhost:2380", "members of a new cluster as NAME=URL,…"),
    Flag("initial-cluster-state", _S, "new", "new, or existing for a member that was added to a cluster", valid=("new", "existing")),
    Flag("initial-cluster-token", _S, "etcd-cluster", "tells clusters with the same members apart"),
    Flag("advertise-client-urls", _URLS, parse_urls("http://localhost:2379"), "URLs at which clients reach this member"),
    Flag("discovery-token", _S, "", "of the cluster that is to be found at --discovery-endpoints"),
    Flag("discovery-endpoints", _SET, (), "etcd members at which the members of a new cluster find each other"),
    Flag("discovery-dial-timeout", _D, 2 * _SECOND, "longest time for one endpoint, if there are several, and for logging in"),
    Flag("discovery-request-timeout", _D, 5 * _SECOND, "longest time for one request"),
    Flag("discovery-keepalive-time", _D, 2 * _SECOND, "idle time before a connection is pinged; at least 10s"),
    Flag("discovery-keepalive-timeout", _D, 6 * _SECOND, "time for the answer to a ping"),
    Flag("discovery-insecure-transport", _B, True, "no TLS to endpoints without a scheme"),
    Flag("discovery-insecure-skip-tls-verify", _B, False, "TLS, whoever the service is: for tests alone"),
    Flag("discovery-cert", _S, "", "certificate shown to the service"),
    Flag("discovery-key", _S, "", "key of --discovery-cert"),
    Flag("discovery-cacert", _S, "", "authorities that the service's certificate must come from"),
    Flag("discovery-user", _S, "", "name of a user of the service"),
    Flag("discovery-password", _S, "", "its password"),
    Flag("discovery-fallback", _S, "exit", "what follows a failure: exit", valid=("exit", "proxy")),
    Flag("discovery-srv", _S, "", "domain with SRV records of the members"),
    Flag("discovery-srv-name", _S, "", "suffix of the SRV records' service"),
    Flag("strict-reconfig-check", _B, True, "refuse changes of the members that would cost the quorum"),
    Flag("pre-vote", _B, True, "ask before an election whether it could be won", _WARNED, "this is always so"),
    Flag("auto-compaction-retention", _S, "0", "history kept: a duration (hours without a unit) or a number of revisions; 0 = all"),
    Flag("auto-compaction-mode", _S, "periodic", "periodic or revision"),
    Flag(
        "v2-deprecation",
        _S,
        "",
        "no effect, as in etcd 3.7",
        valid=("write-only", "write-only-skip-check", "write-only-drop-data", "gone"),
        several=True,
    ),
    Flag("max-learners", _I, 1, "learners that the cluster may have at once"),
    Flag("force-new-cluster", _B, False, "make this member, with its data, the only one"),
)
SECURITY: Final = (
    Flag("cert-file", _S, "", "certificate shown to clients"),
    Flag("key-file", _S, "", "key of --cert-file"),
    Flag("client-cert-auth", _B, False, "demand a certificate of clients"),
    Flag("client-cert-file", _S, "", "certificate with which the gateway calls its own server", _WARNED, _NO_PROXY),
    Flag("client-key-file", _S, "", "key of --client-cert-file", _WARNED, _NO_PROXY),
    Flag("client-crl-file", _S, "", "revoked certificates of clients"),
    Flag("client-cert-allowed-hostname", _L, (), "names that clients' certificates must have"),
    Flag("trusted-ca-file", _S, "", "authorities that clients' certificates must come from"),
    Flag("auto-tls", _B, False, "make a certificate for clients"),
    Flag("peer-cert-file", _S, "", "certificate shown to peers"),
    Flag("peer-key-file", _S, "", "key of --peer-cert-file"),
    Flag("peer-client-cert-auth", _B, False, "demand a certificate of peers that connect"),
    Flag("peer-client-cert-file", _S, "", "another certificate for dialling peers"),
    Flag("peer-client-key-file", _S, "", "key of --peer-client-cert-file"),
    Flag("peer-trusted-ca-file", _S, "", "authorities that peers' certificates must come from"),
    Flag("peer-cert-allowed-cn", _L, (), "common name that peers' certificates must have"),
    Flag("peer-cert-allowed-hostname", _L, (), "name that peers' certificates must have"),
    Flag("peer-auto-tls", _B, False, "make a certificate for peers"),
    Flag("self-signed-cert-validity", _U, 1, "years that certificates made here are valid"),
    Flag("peer-crl-file", _S, "", "revoked certificates of peers"),
    Flag(
        "peer-skip-client-san-verification",
        _B,
        False,
        "do not compare addresses with a peer's certificate",
        _WARNED,
        "peers are known by their authority and by --peer-cert-allowed-*, never by the address that they dial from",
    ),
    Flag("cipher-suites", _L, (), "cipher suites of TLS"),
    Flag("cors", Kind.ORIGINS, ("*",), "origins that web pages may come from"),
    Flag("host-whitelist", _SET, ("*",), "host names in HTTP requests"),
    Flag("tls-min-version", _S, "TLS1.2", "TLS1.2 or TLS1.3"),
    Flag("tls-max-version", _S, "", "TLS1.2 or TLS1.3"),
    Flag("auth-token", _S, "simple", "tokens: simple, or jwt,sign-method=…,pub-key=FILE,priv-key=FILE,ttl=…"),
    Flag("bcrypt-cost", _U, 10, "cost of hashing passwords"),
    Flag("auth-token-ttl", _U, 300, "seconds that a simple token lives after its last use"),
)
MONITORING: Final = (
    Flag("enable-pprof", _B, False, "profiles of the Go runtime", _WARNED, "there is no Go runtime to profile"),
    Flag("metrics", _S, "basic", "basic or extensive"),
    Flag("listen-metrics-urls", _URLS, _NONE, "further URLs for /metrics and /health"),
    Flag("logger", _S, "zap", "zap"),
    Flag("log-outputs", _SET, ("default",), "default, stderr, stdout or files"),
    Flag("log-level", _S, "info", "debug, info, warn, error, panic or fatal"),
    Flag("log-format", _S, "json", "json or console"),
    Flag("enable-log-rotation", _B, False, "of a log file", _WARNED, "a log file is appended to: rotate it with copytruncate"),
    Flag(
        "log-rotation-config-json",
        _S,
        '{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}',
        "of a log file",
        _WARNED,
        "a log file is appended to: rotate it with copytruncate",
    ),
    Flag("warning-unary-request-duration", _D, 300 * _MS, "slow calls are told", _WARNED, "calls are not timed one by one"),
    Flag("enable-distributed-tracing", _B, False, "tracing", _WARNED, _TRACING),
    Flag("distributed-tracing-address", _S, "localhost:4317", "tracing", _WARNED, _TRACING),
    Flag("distributed-tracing-service-name", _S, "etcd", "tracing", _WARNED, _TRACING),
    Flag("distributed-tracing-instance-id", _S, "", "tracing", _WARNED, _TRACING),
    Flag("distributed-tracing-sampling-rate", _I, 0, "tracing", _WARNED, _TRACING),
)
FEATURES: Final = (
    Flag("corrupt-check-time", _D, 0, "time between two comparisons of all data"),
    Flag("compact-hash-check-time", _D, _MINUTE, "time between two comparisons of compactions' hashes"),
    Flag("initial-corrupt-check", _B, False, "the feature gate InitialCorruptCheck"),
    Flag("compact-hash-check-enabled", _B, False, "the feature gate CompactHashCheck"),
    Flag("compaction-batch-limit", _I, 0, "revisions that one slice of a compaction drops; 0 = as many as a few milliseconds allow"),
    Flag("compaction-sleep-interval", _D, 0, "between two slices of a compaction; 0 = 1ms"),
    Flag("watch-progress-notify-interval", _D, 0, "between two progress notifications of a watch; 0 = 10m"),
    Flag("warning-apply-duration", _D, 100 * _MS, "slow requests are told"),
    Flag("bootstrap-defrag-threshold-megabytes", _U, 0, "reclaim space at start if at least this much is free; 0 = off"),
    Flag("downgrade-check-time", _D, 5 * _SECOND, "between two looks at a downgrade", _WARNED, "versions are compared as members meet"),
    Flag("snapshot-catchup-entries", _U64, 5_000, "who is further behind gets a snapshot; at 5000 whoever is behind the log files kept"),
    Flag("unsafe-no-fsync", _B, False, "lose data", _WARNED, "every write is synced"),
    Flag("enable-v2", _B, False, "the v2 API", _WARNED, "there is no v2 API, as in etcd since 3.6"),
)
COMMAND: Final = (
    Flag("config-file", _S, "", "YAML file with options; all other flags and variables are ignored then"),
    Flag("version", _B, False, "print the version and exit"),
    *(
        Flag(name, Kind.IGNORED, "", "no longer supported", _WARNED, "no longer supported, as in etcd")
        for name in (
            "cluster-active-size",
            "cluster-remove-delay",
            "cluster-sync-interval",
            "config",
            "force",
            "max-result-buffer",
            "max-retry-attempts",
            "peer-heartbeat-interval",
            "peer-election-timeout",
            "retry-interval",
            "snapshot",
            "v",
            "vv",
            "test.coverprofile",
            "test.outputdir",
        )
    ),
)
GROUPS: Final = {
    "Member": MEMBER,
    "Clustering": CLUSTER,
    "Security": SECURITY,
    "Monitoring": MONITORING,
    "Features": FEATURES,
    "Command": COMMAND,
}
FLAGS: Final = tuple(flag for group in GROUPS.values() for flag in group)
BY_NAME: Final = {flag.name: flag for flag in FLAGS}
DEFAULTS: Final = {flag.name: flag.default for flag in FLAGS}
DEPRECATED: Final = {
    "max-snapshots": "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
    "v2-deprecation": (
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input."
    ),
}
"""etcd's own words."""
