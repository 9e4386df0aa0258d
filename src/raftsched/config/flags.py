"""The table of every flag of the server: name, type, default, one line of help. Parsing one value is here too.

Invariant: a flag stands here once; the command line, the environment, the configuration file and the help all read this table.
Defaults are those of Dapr's documentation (spec/scheduler.md §2.1).
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from raftsched.units import parse_bool, parse_int, parse_uint

Value = str | int | bool | tuple[str, ...] | None
"""None: not given, where giving a flag means something beside its value."""


class Kind(Enum):
    """The type of a flag; the value is its name in the help."""

    BOOL = ""
    INT = "int"
    UINT = "uint"
    UINT32 = "uint32"
    STRING = "string"
    LIST = "strings"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag; `default` None means that its absence is told apart."""

    name: str
    kind: Kind
    default: Value
    help: str
    hidden: bool = False

    @property
    def field(self) -> str:
        """Its name in `ServeConfig` and, in capitals behind RAFTSCHED_, in the environment."""
        return self.name.replace("-", "_")

    def parse(self, text: str) -> Value:
        """The value that `text` means; ValueError with Go's words."""
        return _PARSERS[self.kind](text)


def _parse_list(text: str) -> tuple[str, ...]:
    """Comma-separated, quoted as in CSV."""
    if not text:
        return ()
    try:
        return tuple(next(csv.reader([text], strict=True)))
    except csv.Error as error:
        raise ValueError(str(error)) from None


_PARSERS: Final[dict[Kind, Callable[[str], Value]]] = {
    Kind.BOOL: parse_bool,
    Kind.INT: parse_int,
    Kind.UINT: parse_uint,
    Kind.UINT32: lambda text: parse_uint(text, 32),
    Kind.STRING: str,
    Kind.LIST: _parse_list,
}

_B, _I, _U, _S, _L = Kind.BOOL, Kind.INT, Kind.UINT, Kind.STRING, Kind.LIST

FLAGS: Final = (
    Flag("config", _S, "", "TOML file with options, named as the flags; flags and environment come before it"),
    Flag("port", _I, 50006, "port of the scheduler API (gRPC)"),
    Flag("listen-address", _S, "", "address the scheduler API listens on; empty = all"),
    Flag("healthz-port", _I, 8080, "port of /healthz"),
    Flag("healthz-listen-address", _S, "", "address /healthz listens on; empty = all"),
    Flag("override-broadcast-host-port", _S, None, "host:port that other hosts are told to reach this scheduler at"),
    Flag("mode", _S, "standalone", "standalone or kubernetes"),
    Flag("kubeconfig", _S, None, "path of a kubeconfig file, kubernetes mode only", hidden=True),
    Flag("id", _S, "dapr-scheduler-server-0", "name of this member; one of those in --etcd-initial-cluster"),
    Flag("tls-enabled", _B, False, "mTLS on the scheduler API and between members"),
    Flag("trust-domain", _S, "localhost", "trust domain of the control plane"),
    Flag("trust-anchors-file", _S, None, "file with the trust anchors (default /var/run/secrets/dapr.io/tls/ca.crt)"),
    Flag("sentry-address", _S, None, "address of the Sentry service (default dapr-sentry.<NAMESPACE>.svc:443)"),
    Flag(
        "identity-directory-write",
        _S,
        None,
        "directory that key, certificate and trust anchors are written to (default: nowhere)",
        hidden=True,
    ),
    Flag("scheduler-cert-file", _S, "", "certificate of the scheduler API, without Sentry; it then speaks TLS alone"),
    Flag("scheduler-key-file", _S, "", "key of --scheduler-cert-file"),
    Flag("scheduler-trusted-ca-file", _S, "", "authorities that the certificates of the scheduler API's clients must come from"),
    Flag("scheduler-client-cert-auth", _B, False, "the SPIFFE id in a client's certificate says for which app it may speak"),
    Flag("scheduler-crl-file", _S, "", "revocation list for the certificates of the scheduler API's clients"),
    Flag("workers", Kind.UINT32, 2048, "bound on triggers being prepared at once"),
    Flag("etcd-embed", _B, True, "run the embedded store; false = use an external etcd"),
    Flag("etcd-initial-cluster", _L, ("dapr-scheduler-server-0=http://localhost:2380",), "members as <id>=http(s)://host:peerport"),
    Flag(
        "form-wait",
        _S,
        None,
        "a majority of the members may begin a new cluster after so long (default 3s; in kubernetes mode all are needed)",
    ),
    Flag("force-new-cluster", _B, False, "make this member, with its data, the only one: when the majority of the others is lost for good"),
    Flag("strict-reconfig-check", _B, True, "refuse changes of the members that would cost the quorum"),
    Flag("max-learners", _U, 1, "learners that the cluster may have at once"),
    Flag(
        "peer-listen-address",
        _S,
        "",
        "host or host:port that peers connect to (default: from this member's entry in --etcd-initial-cluster)",
    ),
    Flag("peer-cert-file", _S, "", "certificate shown to peers"),
    Flag("peer-key-file", _S, "", "key of --peer-cert-file"),
    Flag("peer-trusted-ca-file", _S, "", "certificates of the authorities that peers' certificates must come from"),
    Flag("peer-client-cert-auth", _B, False, "demand a certificate of peers that connect"),
    Flag("peer-client-cert-file", _S, "", "certificate shown to peers that are dialled, if it is another one"),
    Flag("peer-client-key-file", _S, "", "key of --peer-client-cert-file"),
    Flag("peer-auto-tls", _B, False, "TLS between members with certificates made at the start: private, but anybody may take part"),
    Flag("peer-crl-file", _S, "", "revocation list for peers' certificates"),
    Flag("peer-cert-allowed-cn", _L, (), "common names, one of which a peer's certificate must have"),
    Flag("peer-cert-allowed-hostname", _L, (), "hosts, one of which a peer's certificate must be for"),
    Flag("etcd-data-dir", _S, "./data", "directory of all data"),
    Flag("etcd-client-port", _U, 2379, "port of the etcd API of the embedded store"),
    Flag("etcd-client-listen-address", _S, "localhost", "address the etcd API listens on"),
    Flag("cors", _L, ("*",), "origins whose web pages may use the etcd API's HTTP; * = all"),
    Flag("host-whitelist", _L, ("*",), "host names that plaintext HTTP requests to the etcd API may be for; * = all"),
    Flag("listen-metrics-urls", _L, (), "further URLs for /metrics, /health, /livez and /readyz of the store"),
    Flag("listen-client-urls", _L, (), "URLs the etcd API listens on: http, https, unix, unixs; instead of the address and port above"),
    Flag("advertise-client-urls", _L, (), "URLs that others are told to reach the etcd API at (default: those it listens on)"),
    Flag("cert-file", _S, "", "certificate shown to clients of the etcd API; https without --listen-client-urls"),
    Flag("key-file", _S, "", "key of --cert-file"),
    Flag("trusted-ca-file", _S, "", "authorities that clients' certificates must come from: every client must show one"),
    Flag("client-cert-auth", _B, False, "the common name of a client's certificate is its user"),
    Flag("client-crl-file", _S, "", "revocation list for clients' certificates"),
    Flag("client-cert-allowed-hostname", _L, (), "hosts, one of which a client's certificate must be for"),
    Flag("auto-tls", _B, False, "TLS for clients with a certificate made at the first start"),
    Flag("self-signed-cert-validity", _U, 1, "years that certificates made by --auto-tls and --peer-auto-tls are good for"),
    Flag("cipher-suites", _L, (), "cipher suites of TLS 1.2, by their names in Go, for clients and between members"),
    Flag("tls-min-version", _S, "TLS1.2", "TLS1.2 or TLS1.3"),
    Flag("tls-max-version", _S, "", "TLS1.2 or TLS1.3; empty = the newest"),
    Flag("etcd-space-quota", _S, "9.2E", "space bound of the store as a Kubernetes quantity; the default is as good as unlimited"),
    Flag("etcd-compaction-mode", _S, "periodic", "periodic or revision"),
    Flag("etcd-compaction-retention", _S, "10m", "history kept: a duration (periodic) or a number of revisions (revision)"),
    Flag("etcd-snapshot-count", _U, 10_000, "applied entries between Raft snapshots"),
    Flag("etcd-max-snapshots", _U, 10, "snapshot files kept; 0 = all"),
    Flag("etcd-max-wals", _U, 10, "log files kept; 0 = all"),
    Flag("etcd-backend-batch-limit", _I, 5_000, "operations per commit of the backend"),
    Flag("etcd-backend-batch-interval", _S, "50ms", "longest time before the backend commits"),
    Flag("etcd-max-txn-ops", _U, 10_000, "operations that one transaction may have"),
    Flag(
        "etcd-experimental-bootstrap-defrag-threshold-megabytes", _U, 100, "reclaim space at start if at least this much is free; 0 = off"
    ),
    Flag("etcd-initial-election-tick-advance", _B, False, "campaign sooner at start"),
    Flag("etcd-metrics", _S, "basic", "basic or extensive"),
    Flag("auth-token", _S, "simple", "tokens of the etcd API: simple, or jwt,sign-method=…,pub-key=FILE,priv-key=FILE,ttl=…"),
    Flag("auth-token-ttl", _U, 300, "seconds that a simple token lives after its last use"),
    Flag("bcrypt-cost", _U, 10, "cost of hashing the passwords of the etcd API"),
    Flag("etcd-client-endpoints", _L, (), "endpoints of the external etcd, with --etcd-embed=false"),
    Flag("etcd-client-username", _S, "", "user of the external etcd"),
    Flag("etcd-client-password", _S, "", "password of the external etcd"),
    Flag("etcd-client-cacert", _S, "", "certificates of the authorities that the external etcd's certificates must come from"),
    Flag("etcd-client-cert", _S, "", "certificate shown to the external etcd"),
    Flag("etcd-client-key", _S, "", "key of --etcd-client-cert"),
    Flag("log-level", _S, "info", "debug, info, warn, error or fatal"),
    Flag("log-as-json", _B, False, "log as JSON"),
    Flag("log-file", _S, "", "file that takes the log instead of stdout; appended to"),
    Flag("enable-metrics", _B, True, "serve metrics"),
    Flag("metrics-port", _S, "9090", "port of the metrics"),
    Flag("metrics-listen-address", _S, None, "address the metrics listen on (default: that of --listen-address)"),
    Flag("placement-enabled", _B, False, "not supported", hidden=True),
    Flag("placement-disseminate-timeout", _S, "", "only of use with placement", hidden=True),
    Flag("placement-disseminate-coalesce-window", _S, "", "only of use with placement", hidden=True),
)
BY_NAME: Final = {flag.name: flag for flag in FLAGS}
