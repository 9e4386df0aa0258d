"""etcd's flags, environment and configuration file, as `raftsched etcd` reads them."""

from pathlib import Path

import pytest

from raftsched.cli import stdflags
from raftsched.cli.goflags import HelpAsked, UsageError
from raftsched.config.etcd import EtcdConfig, bootstrap, gates, load
from raftsched.config.etcd.flags import BY_NAME, DEFAULTS, FLAGS
from raftsched.config.etcd.sources import Line, ShadowedError
from raftsched.config.etcd.urls import parse_cluster, parse_urls
from raftsched.config.etcd.values import Effect, Kind
from raftsched.config.listening import ClientListener
from raftsched.errors import ConfigError
from raftsched.standalone import node_options, store_plan


def read(*words: str, env: dict[str, str] | None = None) -> tuple[EtcdConfig, list[Line]]:
    given, rest = stdflags.parse(words, BY_NAME)
    assert rest == []
    lines: list[Line] = []
    return load(given, env or {}, lines), lines


def refused(*words: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*words, env=env)
    return str(caught.value)


def from_file(tmp_path: Path, text: str) -> tuple[EtcdConfig, list[Line]]:
    path = tmp_path / "etcd.yml"
    path.write_text(text)
    return read(f"--config-file={path}")


# -- the table


def test_a_flag_stands_once_and_says_why_it_has_no_effect() -> None:
    assert len(BY_NAME) == len(FLAGS)
    assert all(bool(flag.note) == (flag.effect is not Effect.TAKEN) for flag in FLAGS)


def as_text(flag: stdflags.Flag) -> str:
    """The default, as it would be given."""
    if flag.kind is Kind.BOOL:
        return str(flag.default).lower()
    if isinstance(flag.default, tuple):
        return ",".join(map(str, flag.default))
    return f"{flag.default}ns" if flag.kind is Kind.DURATION else str(flag.default)


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.effect is not Effect.TAKEN and as_text(flag)], ids=lambda flag: flag.name)
def test_the_default_itself_is_never_told(flag: stdflags.Flag) -> None:
    assert read(f"--{flag.name}={as_text(flag)}")[1] == []


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--unsafe-no-fsync"], "--unsafe-no-fsync"),
        (["--pre-vote=false"], "--pre-vote"),
        (["--enable-v2"], "--enable-v2"),
        (["--enable-pprof"], "--enable-pprof"),
        (["--force"], "--force"),
    ],
)
def test_what_makes_no_sense_is_one_line(words: list[str], flag: str) -> None:
    _, lines = read(*words)
    assert [line.fields["flag"] for line in lines if "no effect" in line.message] == [flag]


def test_a_gate_that_changes_nothing_is_one_line() -> None:
    config, lines = read("--feature-gates=LeaseCheckpoint=true,InitialCorruptCheck=true,FastLeaseKeepAlive=true")
    assert [line.fields["gate"] for line in lines] == ["LeaseCheckpoint=true"]
    assert config.feature_gates == {"LeaseCheckpoint": True, "InitialCorruptCheck": True, "FastLeaseKeepAlive": True}
    assert read("--initial-corrupt-check")[0].feature_gates == {"InitialCorruptCheck": True}
    assert read("--compact-hash-check-enabled=true")[0].feature_gates == {"CompactHashCheck": True}


def test_deprecated_flags_have_etcds_words() -> None:
    assert [line.message for line in read("--max-snapshots=7")[1]] == [
        "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."
    ]
    assert [line.message for line in read("--v2-deprecation=write-only-drop-data")[1]] == [
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input."
    ]
    assert read("--socket-reuse-address", "--socket-reuse-address=false")[1] == [], "set on every listener, whatever is asked for"


# -- Go's flag package


@pytest.mark.parametrize("words", [["--name=a"], ["-name=a"], ["--name", "a"], ["-name", "a"], ["--name=b", "--name=a"]])
def test_one_dash_or_two(words: list[str]) -> None:
    assert read(*words)[0].name == "a"


def test_switches_take_no_next_word() -> None:
    given, rest = stdflags.parse(["--pre-vote", "false"], BY_NAME)
    assert (given, rest) == ({"pre-vote": True}, ["false"])
    assert stdflags.parse(["--name=a", "--", "--pre-vote"], BY_NAME) == ({"name": "a"}, ["--pre-vote"])
    assert stdflags.parse(["-", "--pre-vote"], BY_NAME) == ({}, ["-", "--pre-vote"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-nope"], "flag provided but not defined: -nope"),
        (["--nope=1"], "flag provided but not defined: -nope"),
        (["---name"], "bad flag syntax: ---name"),
        (["--=1"], "bad flag syntax: --=1"),
        (["--name"], "flag needs an argument: -name"),
        (["--max-txn-ops=abc"], 'invalid value "abc" for flag -max-txn-ops: parse error'),
        (["--max-txn-ops=99999999999999999999"], 'invalid value "99999999999999999999" for flag -max-txn-ops: value out of range'),
        (["--pre-vote=foo"], 'invalid boolean value "foo" for -pre-vote: parse error'),
        (["--initial-cluster-state=x"], 'invalid value "x" for flag -initial-cluster-state: invalid value'),
        (["--grpc-keepalive-timeout=x"], 'invalid value "x" for flag -grpc-keepalive-timeout: parse error'),
        (
            ["--max-concurrent-streams=x"],
            'invalid value "x" for flag -max-concurrent-streams: strconv.ParseUint: parsing "x": invalid syntax',
        ),
        (["--feature-gates=X=true"], 'invalid value "X=true" for flag -feature-gates: unrecognized feature gate: X'),
        (["--feature-gates=AllAlpha"], 'invalid value "AllAlpha" for flag -feature-gates: missing bool value for AllAlpha'),
        (
            ["--listen-client-urls=foo"],
            'invalid value "foo" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: foo',
        ),
        (
            ["--listen-client-urls=http://a"],
            'invalid value "http://a" for flag -listen-client-urls: URL address does not have the form "host:port": http://a',
        ),
        (
            ["--listen-client-urls=http://1.2.3.4:5/x"],
            'invalid value "http://1.2.3.4:5/x" for flag -listen-client-urls: URL must not contain a path: http://1.2.3.4:5/x',
        ),
    ],
)
def test_what_is_malformed_has_gos_words(words: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        stdflags.parse(words, BY_NAME)
    assert str(caught.value) == text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("word", ["-h", "--help", "-help"])
def test_help(word: str) -> None:
    with pytest.raises(HelpAsked):
        stdflags.parse([word], BY_NAME)


# -- rules


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (["--election-timeout=100"], "--election-timeout[100ms] should be at least as 5 times as --heartbeat-interval[100ms]"),
        (["--election-timeout=50001"], "--election-timeout[50001ms] is too long, and should be set less than 50000ms"),
        (["--auto-compaction-mode=x"], 'unknown auto-compaction-mode "x"'),
        (["--auto-compaction-retention=x"], 'error parsing CompactionRetention: time: invalid duration "x"'),
        (["--auth-token=x"], "auth: invalid auth options"),
        (["--logger=x"], 'unknown logger option "x"'),
        (["--log-format=x"], "unknown log format: x, supported values json, console"),
        (["--log-outputs=default,stdout"], 'multi logoutput for "default" is not supported yet'),
        (["--listen-client-urls=http://127.0.0.1:1"], "--advertise-client-urls is required when --listen-client-urls is set explicitly"),
        (
            ["--listen-client-urls=http://foo:1", "--advertise-client-urls=http://foo:1"],
            "expected IP in URL for binding (http://foo:1)",
        ),
        (["--listen-peer-urls=http://:1"], "expected IP in URL for binding (http://:1)"),
        (
            ["--initial-advertise-peer-urls=http://:1"],
            '--initial-advertise-peer-urls "http://:1" must be "host:port" (unexpected empty host (http://:1))',
        ),
        (
            ["--discovery-srv=x.example", "--initial-cluster=a=http://1:1"],
            'multiple discovery or bootstrap flags are set. Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"',
        ),
        (["--discovery-token=x"], "both --discovery-token and --discovery-endpoints must be set"),
        (["--compact-hash-check-time=0"], "--compact-hash-check-time must be >0 (set to 0s)"),
        (["--tls-min-version=x"], 'unexpected TLS version "x" (must be one of: TLS1.2, TLS1.3)'),
        (
            ["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (
            ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            ["--listen-peer-urls=https://127.0.0.1:1"],
            "cannot listen on TLS for https://127.0.0.1:1: KeyFile and CertFile are not presented",
        ),
    ],
)
def test_what_does_not_fit_has_etcds_words(words: list[str], text: str) -> None:
    assert refused(*words) == text


@pytest.mark.parametrize(
    ("mode", "text", "found"),
    [
        ("periodic", "0", 0),
        ("periodic", "2", 7_200_000),
        ("periodic", "90s", 90_000),
        ("revision", "1000", 1000),
        ("revision", "5m", 300_000_000_000),
        ("periodic", "", 0),
    ],
)
def test_retention(mode: str, text: str, found: int) -> None:
    config, _ = read(f"--auto-compaction-mode={mode}", f"--auto-compaction-retention={text}")
    assert config.auto_compaction_retention == found


# -- what the store is told


def no_host() -> str:
    return ""


def test_defaults_are_etcds() -> None:
    given, lines = read()
    config, _ = bootstrap.complete(given, no_host)
    options = node_options(config, parse_cluster(config.initial_cluster))
    assert lines == []
    assert (options.heartbeat_ms, options.election_ms_min, options.election_ms_max) == (100, 1000, 2000)
    assert (options.request_timeout_ms, options.lease_ttl_s_min) == (7000, 2)
    assert (options.txn_ops_max, options.request_bytes_max, options.snapshot_count) == (128, 1_572_864, 10_000)
    assert (options.max_wals, options.max_snapshots, options.learners_max) == (5, 5, 1)
    assert (options.quota_bytes, options.history_bound, options.strict_reconfig_check) == (0, False, True)
    assert (options.compaction_mode, options.compaction_retention) == ("periodic", 0)
    assert (options.batch_interval_ms, options.batch_limit) == (100, 10_000)
    assert (options.catch_up_entries, options.compaction_records, options.compaction_pause_ms) == (None, 0, 1)
    plan = store_plan(config, parse_cluster(config.initial_cluster))
    assert (plan.message_bytes_max, plan.progress_interval_ms) == (2_097_152, 600_000)
    assert (plan.ping_interval_min_ms, plan.ping_idle_ms, plan.ping_timeout_ms) == (5_000, 7_200_000, 20_000)


def test_flags_reach_the_store() -> None:
    config, lines = read(
        "--data-dir=d",
        "--heartbeat-interval=20",
        "--election-timeout=4000",
        "--max-txn-ops=7",
        "--max-request-bytes=1000",
        "--quota-backend-bytes=-1",
        "--snapshot-count=11",
        "--strict-reconfig-check=false",
        "--auto-compaction-mode=revision",
        "--auto-compaction-retention=9",
        "--backend-batch-interval=30ms",
        "--backend-batch-limit=12",
        "--watch-progress-notify-interval=3s",
        "--grpc-keepalive-timeout=0",
        "--warning-apply-duration=2s",
        "--max-learners=2",
        "--snapshot-catchup-entries=13",
        "--compaction-batch-limit=14",
        "--compaction-sleep-interval=15ms",
        "--auth-token-ttl=17",
        "--bcrypt-cost=4",
        "--listen-peer-urls=http://127.0.0.1:7,http://[::1]:8",
    )
    plan = store_plan(config, None)
    options = plan.node
    assert lines == []
    assert (options.heartbeat_ms, options.election_ms_min, options.request_timeout_ms, options.lease_ttl_s_min) == (20, 4000, 13_000, 6)
    assert (options.txn_ops_max, options.request_bytes_max, options.quota_bytes, options.snapshot_count) == (7, 1000, -1, 11)
    assert (options.strict_reconfig_check, options.compaction_mode, options.compaction_retention) == (False, "revision", 9)
    assert (options.batch_interval_ms, options.batch_limit, options.slow_apply_ms, options.learners_max) == (30, 12, 2000, 2)
    assert (options.auth_token_ttl_s, options.bcrypt_cost) == (17, 4)
    assert (options.catch_up_entries, options.compaction_records, options.compaction_pause_ms) == (13, 14, 15)
    assert (plan.message_bytes_max, plan.progress_interval_ms, plan.ping_idle_ms) == (1000 + 524_288, 3_000, 0)
    assert list(plan.peer_listen) == [("127.0.0.1", 7), ("::1", 8)]
    assert (options.initial_cluster, options.cluster_state) == ((), "new")


def test_streams_and_shared_ports_reach_the_doors() -> None:
    plan = store_plan(read("--data-dir=d", "--max-concurrent-streams=8", "--socket-reuse-port")[0], None)
    assert (plan.streams_max, plan.reuse_port) == (8, True)
    plan = store_plan(read("--data-dir=d")[0], None)
    assert (plan.streams_max, plan.reuse_port) == (0xFFFFFFFF, False)


def test_urls_for_http_alone() -> None:
    """Then the others are for gRPC alone."""
    urls = ["--listen-client-urls=http://127.0.0.1:1,https://127.0.0.1:2", "--advertise-client-urls=http://127.0.0.1:1"]
    files = ["--cert-file=c", "--key-file=k"]
    config, lines = read("--data-dir=d", *urls, *files, "--listen-client-http-urls=https://127.0.0.1:3,http://127.0.0.1:3,unix:///s")
    assert lines == []
    assert [(one.port or one.path, one.secure, one.plaintext, one.grpc, one.http) for one in store_plan(config, None).client_listeners] == [
        (1, False, True, True, False),
        (2, True, False, True, False),
        (3, True, True, False, True),
        ("/s", False, True, False, True),
    ]
    alone, _ = read("--data-dir=d", *urls, *files)
    assert all(one.grpc and one.http for one in store_plan(alone, None).client_listeners)
    text = "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url https://127.0.0.1:1"
    assert refused("--data-dir=d", *urls, *files, "--listen-client-http-urls=https://127.0.0.1:1") == text
    text = "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:9 with HTTPS scheme"
    assert refused("--data-dir=d", "--listen-client-http-urls=https://127.0.0.1:9") == text


def test_flags_reach_the_doors() -> None:
    config, lines = read(
        "--data-dir=d",
        "--listen-client-urls=https://127.0.0.1:1,http://127.0.0.1:1,unix:///s",
        "--advertise-client-urls=https://127.0.0.1:1",
        "--listen-metrics-urls=https://127.0.0.1:2",
        "--cert-file=c",
        "--key-file=k",
        "--trusted-ca-file=a",
        "--client-cert-auth",
        "--client-crl-file=r",
        "--client-cert-allowed-hostname=h",
        "--cipher-suites=TLS_AES_128_GCM_SHA256",
        "--tls-max-version=TLS1.3",
        "--cors=http://w:1",
        "--host-whitelist=x,y",
        "--enable-grpc-gateway=false",
        "--metrics=extensive",
    )
    plan = store_plan(config, None)
    assert lines == []
    assert list(plan.client_listeners) == [
        ClientListener("127.0.0.1", 1, "", True, True),
        ClientListener("", 0, "/s", False, True),
    ]
    assert list(plan.metrics_listeners) == [ClientListener("127.0.0.1", 2, "", True, False)]
    assert plan.client_tls is not None
    assert plan.client_tls.cert_file == "c"
    assert plan.client_tls.key_file == "k"
    assert plan.client_tls.trusted_ca_file == "a"
    assert plan.client_tls.crl_file == "r"
    assert (plan.client_tls.allowed_hostnames, plan.client_tls.cipher_suites) == (("h",), ("TLS_AES_128_GCM_SHA256",))
    assert (plan.client_tls.min_version, plan.client_tls.max_version) == ("TLS1.2", "TLS1.3")
    assert (list(plan.cors), list(plan.hosts), plan.gateway) == (["http://w:1"], ["x", "y"], False)
    assert plan.client_cert_auth
    assert plan.extensive_metrics
    assert str(plan.fixtures) == "d/fixtures"


def test_certificates_that_are_to_be_made() -> None:
    config, _ = read(
        "--data-dir=d",
        "--listen-client-urls=https://127.0.0.1:1",
        "--advertise-client-urls=https://127.0.0.1:1",
        "--auto-tls",
        "--listen-peer-urls=https://127.0.0.2:3",
        "--peer-auto-tls",
        "--self-signed-cert-validity=7",
    )
    assert config.client_tls is not None
    assert config.peer_tls is not None
    assert (config.client_tls.self_signed_hosts, config.client_tls.self_signed_years) == (("127.0.0.1",), 7)
    assert (config.peer_tls.self_signed_hosts, config.peer_tls.self_signed_years) == (("127.0.0.2",), 7)


def test_when_members_compare_their_data() -> None:
    config, lines = read(
        "--data-dir=d",
        "--initial-corrupt-check",
        "--corrupt-check-time=3s",
        "--feature-gates=CompactHashCheck=true",
        "--compact-hash-check-time=9s",
    )
    options = node_options(config, None)
    assert (options.initial_corrupt_check, options.corrupt_check_ms) == (True, 3_000)
    assert (options.compact_hash_check, options.compact_hash_check_ms, lines) == (True, 9_000, [])


@pytest.mark.parametrize(
    ("heartbeat", "election", "request_timeout", "lease"), [(100, 1000, 7000, 2), (200, 1050, 7000, 2), (1000, 50_000, 105_000, 75)]
)
def test_times_follow_from_ticks(heartbeat: int, election: int, request_timeout: int, lease: int) -> None:
    options = node_options(read("--data-dir=d", f"--heartbeat-interval={heartbeat}", f"--election-timeout={election}")[0], None)
    assert (options.request_timeout_ms, options.lease_ttl_s_min) == (request_timeout, lease)


# -- the cluster


def test_a_name_alone_makes_a_cluster_of_its_own() -> None:
    config, host = bootstrap.complete(read("--name=abc")[0], no_host)
    assert (config.initial_cluster, config.data_dir, host) == ("abc=http://localhost:2380", "abc.etcd", "")


def test_who_listens_everywhere_is_reached_at_this_machine() -> None:
    words = ("--name=abc", "--listen-peer-urls=http://0.0.0.0:7", "--listen-client-urls=http://0.0.0.0:8")
    config, host = bootstrap.complete(read(*words, "--advertise-client-urls=http://localhost:2379")[0], lambda: "10.1.2.3")
    assert list(map(str, config.initial_advertise_peer_urls)) == ["http://10.1.2.3:7"]
    assert list(map(str, config.advertise_client_urls)) == ["http://10.1.2.3:8"]
    assert (config.initial_cluster, host) == ("abc=http://10.1.2.3:7", "10.1.2.3")


def cluster_refusal(*words: str, addresses: dict[str, list[str]] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        bootstrap.founders(bootstrap.complete(read(*words)[0], no_host)[0], lambda host, _: (addresses or {}).get(host, []))
    return str(caught.value)


def test_the_own_entry_is_checked_as_etcd_does() -> None:
    assert cluster_refusal("--initial-cluster=a=http://127.0.0.1:1") == (
        'couldn\'t find local name "default" in the initial cluster configuration'
    )
    assert cluster_refusal("--name=a", "--initial-cluster=a=http://1.2.3.4:1").startswith(
        "--initial-cluster has a=http://1.2.3.4:1 but missing from --initial-advertise-peer-urls=http://localhost:2380"
    )
    words = ("--name=a", "--initial-cluster=a=http://h:1,b=http://h:1", "--initial-advertise-peer-urls=http://h:1")
    assert cluster_refusal(*words) == "initial cluster a=http://h:1,b=http://h:1 has duplicate url"


def test_names_and_their_addresses_are_the_same_place() -> None:
    words = ("--name=a", "--initial-cluster=a=http://h:1,b=http://i:1,b=http://i:2", "--initial-advertise-peer-urls=http://1.2.3.4:1")
    config, _ = bootstrap.complete(read(*words)[0], no_host)
    found = bootstrap.founders(config, lambda host, _: ["1.2.3.4"] if host in {"h", "1.2.3.4"} else [])
    assert {name: list(map(str, urls)) for name, urls in found.items()} == {"a": ["http://h:1"], "b": ["http://i:1", "http://i:2"]}
    options = node_options(config, found)
    assert options.peer_urls == ("http://h:1",)
    assert options.listed["b"] == ("http://i:1", "http://i:2")


def test_members_do_not_meet_on_sockets() -> None:
    words = ("--initial-cluster=default=unix:///x", "--initial-advertise-peer-urls=unix:///x")
    assert "unix sockets" in cluster_refusal(*words)


# -- the environment


def test_variables_are_read_and_told() -> None:
    config, lines = read(env={"ETCD_NAME": "e", "ETCD_MAX_TXN_OPS": "5", "ETCD_SNAPSHOT_COUNT": "", "OTHER": "1"})
    assert (config.name, config.max_txn_ops, config.snapshot_count) == ("e", 5, 10_000)
    assert [(line.level, line.message, dict(line.fields)) for line in lines] == [
        ("info", "recognized and used environment variable", {"variable-name": "ETCD_MAX_TXN_OPS", "variable-value": "5"}),
        ("info", "recognized and used environment variable", {"variable-name": "ETCD_NAME", "variable-value": "e"}),
        ("warning", "unrecognized environment variable", {"environment-variable": "ETCD_SNAPSHOT_COUNT="}),  # so does etcd
    ]


def test_unknown_variables_are_warned_of() -> None:
    _, lines = read(env={"ETCD_VERIFY": "all", "ETCD_UNSUPPORTED_ARCH": "arm64", "ETCD_VERSION": "3"})
    assert [(line.message, dict(line.fields)) for line in lines] == [
        ("cannot set special environment variable", {"key": "ETCD_VERSION", "value": "3"}),
        ("unrecognized environment variable", {"environment-variable": "ETCD_VERIFY=all"}),
        ("unrecognized environment variable", {"environment-variable": "ETCD_UNSUPPORTED_ARCH=arm64"}),
    ]


def test_a_variable_beside_its_flag_is_refused() -> None:
    with pytest.raises(ShadowedError) as caught:
        read("--name=a", env={"ETCD_NAME": "a"})
    assert caught.value.variable == "ETCD_NAME"


def test_a_bad_variable() -> None:
    assert refused(env={"ETCD_MAX_TXN_OPS": "abc"}) == 'invalid value "abc" for ETCD_MAX_TXN_OPS: parse error'


# -- the file


def test_a_file_takes_the_place_of_everything(tmp_path: Path) -> None:
    path = tmp_path / "etcd.yml"
    path.write_text("name: f\nmax-txn-ops: 3\nheartbeat-interval: 50\n")
    config, lines = read(f"--config-file={path}", "--max-txn-ops=9", env={"ETCD_NAME": "e", "ETCD_WHATEVER": "1"})
    assert (config.name, config.max_txn_ops, config.heartbeat_interval) == ("f", 3, 50)
    assert [line.message for line in lines] == [
        "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided"
    ]
    assert read(env={"ETCD_CONFIG_FILE": str(path)})[0].name == "f"


def test_every_kind_of_value_of_a_file(tmp_path: Path) -> None:
    config, lines = from_file(
        tmp_path,
        """
name: "f"
data-dir: /x
listen-client-urls: http://127.0.0.1:7,http://127.0.0.1:6
advertise-client-urls: http://127.0.0.1:7
listen-metrics-urls: http://127.0.0.1:9
initial-cluster: f=http://localhost:2380
initial-cluster-state: existing
watch-progress-notify-interval: 5000000000
quota-backend-bytes: -1
force-new-cluster: false
log-outputs: [stderr]
feature-gates: LeaseCheckpoint=true
cors: "*"
host-whitelist: "*"
wal-dir:
peer-transport-security:
  cert-file: c
  key-file: k
  trusted-ca-file: t
  client-cert-auth: true
  allowed-cn: [cn]
listen-peer-urls: https://127.0.0.1:8
socket-options:
  reuse-address: true
nonsense: 1
client-transport-security:
  client-cert-auth: false
  other: 2
""",
    )
    assert list(map(str, config.listen_client_urls)) == ["http://127.0.0.1:6", "http://127.0.0.1:7"]
    assert (config.data_dir, config.initial_cluster_state, config.watch_progress_interval_ms) == ("/x", "existing", 5_000)
    assert (config.quota_backend_bytes, config.log_outputs, config.wal_dir) == (-1, ("stderr",), "")
    assert config.peer_tls is not None
    assert (config.peer_tls.cert_file, config.peer_tls.client_cert_auth, config.peer_tls.allowed_cns) == ("c", True, ("cn",))
    assert [line.fields["key"] for line in lines if "key" in line.fields] == ["nonsense", "client-transport-security.other"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('snapshot-count: "5"', "cannot unmarshal string into Go struct field configYAML.Config.snapshot-count of type uint64"),
        ("heartbeat-interval: [1]", "cannot unmarshal array into Go struct field configYAML.Config.heartbeat-interval of type uint"),
        ("heartbeat-interval: -1", "cannot unmarshal number -1 into Go struct field configYAML.Config.heartbeat-interval of type uint"),
        ("name: 5", "cannot unmarshal number into Go struct field configYAML.Config.name of type string"),
        (
            "corrupt-check-time: 5m",
            "cannot unmarshal string into Go struct field configYAML.Config.corrupt-check-time of type time.Duration",
        ),
        ("pre-vote: 1", "cannot unmarshal number into Go struct field configYAML.Config.pre-vote of type bool"),
        ("name: x\n  y: [1", "error converting YAML to JSON: yaml: line 2: mapping values are not allowed"),
        ("a: " + "[" * 3_000, "error converting YAML to JSON: yaml: exceeded max depth"),
        ("- a", "cannot unmarshal array into Go value of type embed.configYAML"),
        ("peer-transport-security: 5", "configYAML.configJSON.peer-transport-security of type embed.securityConfig"),
        ("listen-peer-urls: [a]", "cannot unmarshal array into Go struct field configYAML.configJSON.listen-peer-urls of type string"),
        ("listen-peer-urls: foo", "unexpected error setting up listen-peer-urls: URL scheme must be http"),
        ("initial-cluster-state: x", 'unexpected clusterState "x"'),
        ("discovery-config: {token: t, endpoints: [e]}", "both --discovery-token and --discovery-endpoints must be set"),
        ("discovery-token: t\nlisten-peer-urls: foo", "unexpected error setting up listen-peer-urls"),
        ("discovery-config: {client: {auth: {token: t}}}", "discovery-config.client.auth.token: not supported"),
        (
            "discovery-config: {client: 5}",
            "field DiscoveryConfig.Config.discovery-config.client of type clientv3.ConfigSpec",
        ),
        (
            "discovery-config: {client: {endpoints: x}}",
            "string into Go struct field ConfigSpec.Config.discovery-config.client.endpoints of type []string",
        ),
        (
            "discovery-config: {client: {secure: {cert: 5}}}",
            "number into Go struct field SecureConfig.Config.discovery-config.client.secure.cert of type string",
        ),
        ("initial-cluster: a=b\ndiscovery-config: {token: t, client: {endpoints: [e]}}", "multiple discovery or bootstrap flags are set"),
    ],
)
def test_what_a_file_must_not_have(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_file(tmp_path, text)
    assert error in str(caught.value)


def test_counts_of_zero(tmp_path: Path) -> None:
    """etcd takes its default for the first, and refuses every request with the others."""
    told = Line("info", "updating snapshot-count to default", {"given-snapshot-count": 0, "updated-snapshot-count": 10_000})
    for config, lines in (read("--snapshot-count=0"), from_file(tmp_path, "snapshot-count: 0")):
        assert config.snapshot_count == 10_000
        assert told in lines
    assert read("--backend-batch-limit=-1")[0].batch_limit == 10_000
    assert refused("--max-txn-ops=0") == "--max-txn-ops must be >0 (set to 0)"
    assert refused("--max-request-bytes=0") == "--max-request-bytes must be >0 (set to 0)"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refused(f"--config-file={tmp_path}/no.yml") == f"open {tmp_path}/no.yml: no such file or directory"


# -- small rooms


def test_groups_of_gates() -> None:
    assert gates.parse("AllBeta=false,FastLeaseKeepAlive=true") == {"TxnModeWriteWithSharedBuffer": False, "FastLeaseKeepAlive": True}
    assert gates.parse("") == {}
    assert set(gates.NOTES) == set(gates.DEFAULTS) - {"InitialCorruptCheck", "CompactHashCheck"}, "these two take effect"


def test_urls_are_a_sorted_set() -> None:
    assert list(map(str, parse_urls("http://b:1, http://a:1,http://b:1"))) == ["http://a:1", "http://b:1"]
    assert [url.socket_path for url in parse_urls("unix://localhost:m1,unixs:///run/x")] == ["localhost:m1", "/run/x"]
    assert parse_urls("http://[::1]:5")[0].host_port == ("::1", 5)


def test_every_flag_has_a_value_by_default() -> None:
    assert set(DEFAULTS) == set(BY_NAME)
