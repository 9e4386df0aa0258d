"""Options of the server: documented defaults, sources and their order, and every refusal with its exact text."""

from pathlib import Path
from typing import Any

import pytest

from raftsched.cli.goflags import parse
from raftsched.cli.serve import ALIASES
from raftsched.config import ServeConfig, cluster, load
from raftsched.config.flags import FLAGS
from raftsched.config.tls import TlsOptions
from raftsched.errors import ConfigError

STORE = "Fatal error running scheduler: failed to create etcd config: "
EMBEDDED = "Fatal error running scheduler: failed to start embedded etcd: "
CLUSTER = STORE + "invalid format for initial cluster. Make sure to include 'http://' or 'https://' in Scheduler URL: "


def config(*words: str, environ: dict[str, str] | None = None) -> ServeConfig:
    return load(parse(words, FLAGS, ALIASES), environ or {})


def refusal(*words: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        config(*words, environ=environ)
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_the_defaults_are_those_of_the_documentation() -> None:
    made = config()
    expected: dict[str, Any] = {
        "namespace": "default",
        "port": 50006,
        "listen_address": "",
        "healthz_port": 8080,
        "healthz_listen_address": "",
        "override_broadcast_host_port": None,
        "mode": "standalone",
        "id": "dapr-scheduler-server-0",
        "tls_enabled": False,
        "trust_domain": "localhost",
        "sentry_address": "dapr-sentry.default.svc:443",
        "trust_anchors_file": "/var/run/secrets/dapr.io/tls/ca.crt",
        "workers": 2048,
        "etcd_embed": True,
        "etcd_initial_cluster": ("dapr-scheduler-server-0=http://localhost:2380",),
        "etcd_client_port": 2379,
        "etcd_client_listen_address": "localhost",
        "etcd_space_quota_bytes": 9_200_000_000_000_000_000,
        "etcd_compaction_mode": "periodic",
        "etcd_compaction_retention": 600_000_000_000,
        "etcd_snapshot_count": 10_000,
        "etcd_max_snapshots": 10,
        "etcd_max_wals": 10,
        "etcd_backend_batch_limit": 5_000,
        "etcd_backend_batch_interval_ns": 50_000_000,
        "etcd_max_txn_ops": 10_000,
        "etcd_bootstrap_defrag_threshold_bytes": 100 << 20,
        "etcd_initial_election_tick_advance": False,
        "etcd_metrics": "basic",
        "log_level": "info",
        "log_as_json": False,
        "log_file": "",
        "enable_metrics": True,
        "metrics_port": 9090,
        "metrics_listen_address": "",
        "peer_url": "http://localhost:2380",
    }
    assert {name: getattr(made, name) for name in expected} == expected
    assert made.store_directory == Path("data/default-dapr-scheduler-server-0/raftsched-1")
    assert made.dapr_directory == Path("data/default-dapr-scheduler-server-0/dapr-0.1")


def test_every_flag_of_the_contract_is_known() -> None:
    words = """port listen-address healthz-port healthz-listen-address override-broadcast-host-port mode kubeconfig id tls-enabled
    trust-domain trust-anchors-file sentry-address identity-directory-write workers etcd-embed etcd-initial-cluster etcd-data-dir
    etcd-client-port etcd-client-listen-address etcd-space-quota etcd-compaction-mode etcd-compaction-retention etcd-snapshot-count
    etcd-max-snapshots etcd-max-wals etcd-backend-batch-limit etcd-backend-batch-interval etcd-max-txn-ops
    etcd-experimental-bootstrap-defrag-threshold-megabytes etcd-initial-election-tick-advance etcd-metrics etcd-client-endpoints
    etcd-client-username etcd-client-password log-level log-as-json log-file enable-metrics metrics-port metrics-listen-address"""
    missing = set(words.split()) - {flag.name for flag in FLAGS}
    assert not missing


def test_the_launch_line_of_tools_is_accepted() -> None:
    """spec/scheduler.md §12, typical flags."""
    made = config(
        "--log-level=debug",
        "--id=any string-0",
        "--port=1",
        "--healthz-port=2",
        "--metrics-port=3",
        "--etcd-client-port=4",
        "--listen-address=127.0.0.1",
        "--healthz-listen-address=127.0.0.1",
        "--etcd-data-dir=/d",
        "--identity-directory-write=/i",
        "--etcd-backend-batch-interval=100ms",
        "--workers=128",
        "--etcd-initial-cluster=any string-0=http://127.0.0.1:5",
        environ={"NAMESPACE": "ns-1"},
    )
    assert made.metrics_listen_address == "127.0.0.1"
    assert made.member_directory == Path("/d/ns-1-any string-0")
    assert made.etcd_backend_batch_interval_ns == 100_000_000


def test_the_metrics_address_is_its_flag_when_given() -> None:
    assert config("--listen-address=1.2.3.4", "--metrics-listen-address=").metrics_listen_address == ""
    assert config("--metrics-listen-address=0.0.0.0").metrics_listen_address == "0.0.0.0"


def test_presence_of_the_broadcast_flag_counts() -> None:
    assert config("--override-broadcast-host-port=").override_broadcast_host_port == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--etcd-client-endpoints=h:1"], "cannot use --etcd-client-endpoints with --etcd-embed"),
        (["--etcd-client-username=u"], "cannot use --etcd-client-username with --etcd-embed"),
        (["--etcd-client-password=p"], "cannot use --etcd-client-password with --etcd-embed"),
        (["--etcd-embed=false"], "must specify --etcd-client-endpoints when not using embedded etcd"),
        (["--kubeconfig=k"], "kubeconfig flag is only valid in --mode=kubernetes"),
        (["--kubeconfig="], "kubeconfig flag is only valid in --mode=kubernetes"),
        (["--etcd-space-quota=1kk"], "failed to parse etcd space quota: unable to parse quantity's suffix"),
        (["--log-level=loud"], "invalid value for --log-level: loud"),
        (["--mode=nomad"], "invalid value for --mode: nomad: must be standalone or kubernetes"),
        (["--workers=0"], "Fatal error running scheduler: fail to create etcd-cron: workers must be larger than 0"),
        (["--id=x"], STORE + "scheduler ID: x is not found in initial cluster"),
        (["--etcd-initial-cluster=a"], CLUSTER + "incorrect format for initialPeerList: [a]. Should contain <id>=http://<ip>:<peer-port>"),
        (
            ["--etcd-initial-cluster=a=localhost:1"],
            CLUSTER + "unable to parse url from initialPeerList: localhost:1 is not http(s)://<host>:<peer-port>",
        ),
        (
            ["--etcd-initial-cluster=a=http://h:99999"],
            CLUSTER + "unable to parse url from initialPeerList: Port out of range 0-65535",
        ),
        (
            ["--etcd-backend-batch-interval=5"],
            STORE + "failed to parse backend batch interval. Please use a string representing time.Duration",
        ),
        (["--etcd-compaction-mode=never"], EMBEDDED + 'unknown auto-compaction-mode "never"'),
        (["--etcd-compaction-retention=x"], EMBEDDED + 'error parsing CompactionRetention: time: invalid duration "x"'),
        (["--etcd-compaction-retention=-5m"], EMBEDDED + "error parsing CompactionRetention: -5m is out of range"),
        (
            ["--etcd-compaction-mode=revision", "--etcd-compaction-retention=10m"],
            EMBEDDED + "error parsing CompactionRetention: 10m is not a number of revisions",
        ),
        (["--port=65536"], "invalid value for --port: 65536 is not a port"),
        (["--healthz-port=-1"], "invalid value for --healthz-port: -1 is not a port"),
        (["--metrics-port=abc"], "invalid value for --metrics-port: abc"),
        (["--metrics-port=70000"], "invalid value for --metrics-port: 70000 is not a port"),
        (["--etcd-backend-batch-limit=0"], "invalid value for --etcd-backend-batch-limit: 0: must be at least 1"),
        (["--etcd-metrics=all"], "invalid value for --etcd-metrics: all: must be basic or extensive"),
        (
            ["--id=a/b", "--etcd-initial-cluster=a/b=http://h:1"],
            "invalid value for --id: a/b: it names a directory and must not contain '/'",
        ),
    ],
)
def test_a_wrong_option_is_refused_with_one_line(words: list[str], text: str) -> None:
    assert refusal(*words) == text


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--placement-enabled=true"], "--placement-enabled"),
    ],
)
def test_what_does_not_exist_yet_stops_the_start(words: list[str], what: str) -> None:
    assert refusal(*words) == f"{what} is not supported by this version of raftsched"


EXTERNAL = ["--etcd-embed=false"]


@pytest.mark.parametrize(
    ("words", "endpoints"),
    [
        (["--etcd-client-endpoints=h:1,http://i:2", "--etcd-client-endpoints=h"], [("h:1", False), ("i:2", False), ("h:2379", False)]),
        (["--etcd-client-endpoints=h:1, http://h:1/,h:1"], [("h:1", False)]),
        (["--etcd-client-endpoints=https://[::1]:5,http://[::1]:6"], [("[::1]:5", True), ("[::1]:6", False)]),
        (["--etcd-client-endpoints=unix:///run/etcd.sock"], [("unix:/run/etcd.sock", False)]),
        (["--etcd-client-endpoints=h:1,http://i:2", "--etcd-client-cacert=ca"], [("h:1", True), ("i:2", False)]),
    ],
)
def test_endpoints_of_an_external_etcd(words: list[str], endpoints: list[tuple[str, bool]]) -> None:
    made = config(*EXTERNAL, *words).external
    assert made is not None
    assert [(one.address, one.secure) for one in made.endpoints] == endpoints


def test_an_external_etcd_needs_no_list_of_members() -> None:
    """Replicas are scaled freely (spec §11): an id need not be listed anywhere."""
    made = config(*EXTERNAL, "--id=any-42", "--etcd-client-endpoints=h", "--etcd-client-username=u", "--etcd-client-password=p")
    assert made.initial_cluster == ()
    assert made.external is not None
    assert (made.external.username, made.external.password) == ("u", "p")
    assert config().external is None


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--etcd-client-cacert=f"], "cannot use --etcd-client-cacert with --etcd-embed"),
        (["--etcd-client-cert=f"], "cannot use --etcd-client-cert with --etcd-embed"),
        (["--etcd-client-key=f"], "cannot use --etcd-client-key with --etcd-embed"),
        ([*EXTERNAL, "--etcd-client-username=u"], "must specify --etcd-client-endpoints when not using embedded etcd"),
        (
            [*EXTERNAL, "--etcd-client-endpoints=ftp://h"],
            "invalid value for --etcd-client-endpoints: URL scheme must be http, https, unix, or unixs: ftp://h",
        ),
        (
            [*EXTERNAL, "--etcd-client-endpoints=h:x"],
            "invalid value for --etcd-client-endpoints: Port could not be cast to integer value as 'x': h:x",
        ),
        (
            [*EXTERNAL, "--etcd-client-endpoints=http://h:1/p"],
            "invalid value for --etcd-client-endpoints: must be [http(s)://]<host>:<port>: http://h:1/p",
        ),
        ([*EXTERNAL, "--etcd-client-endpoints=unix://"], "invalid value for --etcd-client-endpoints: URL names no socket: unix://"),
        ([*EXTERNAL, "--etcd-client-endpoints=" + ",".join(["h"] * 65)], "invalid value for --etcd-client-endpoints: more than 64"),
        ([*EXTERNAL, "--etcd-client-endpoints=h", "--etcd-client-cert=f"], "--etcd-client-cert and --etcd-client-key must both be given"),
        (
            [*EXTERNAL, "--etcd-client-endpoints=http://h", "--etcd-client-cacert=f"],
            "certificates for etcd are given, and no endpoint is https",
        ),
        ([*EXTERNAL, "--etcd-client-endpoints=h", "--etcd-client-password=p"], "--etcd-client-password needs --etcd-client-username"),
    ],
)
def test_a_wrong_option_about_an_external_etcd(words: list[str], text: str) -> None:
    assert refusal(*words) == text


def options_of(*words: str) -> dict[str, Any]:
    values = {flag.name: flag.default for flag in FLAGS} | parse(words, FLAGS, ALIASES)
    return {name.replace("-", "_"): value for name, value in values.items()}


def test_a_list_of_several_members_is_read_in_its_order() -> None:
    entries = cluster.parse_cluster("b", ("a=http://a:2380", "b=https://b.svc:2381", "c=http://[::1]:2380"))
    assert [(one.name, one.url) for one in entries] == [("a", "http://a:2380"), ("b", "https://b.svc:2381"), ("c", "http://[::1]:2380")]


@pytest.mark.parametrize(
    ("own", "entries", "words"),
    [
        ("a", ("a=http://a:1", "a=http://b:1"), CLUSTER + "a is listed twice: http://a:1 and http://b:1"),
        ("a", ("a=http://a:1", "b=http://A:1"), CLUSTER + "a and b have the same URL: http://A:1"),
        ("x", ("a=http://a:1", "b=http://b:1"), STORE + "scheduler ID: x is not found in initial cluster"),
        (
            "a",
            ("a=http://a:1", "b"),
            CLUSTER + "incorrect format for initialPeerList: [a=http://a:1 b]. Should contain <id>=http://<ip>:<peer-port>",
        ),
        (
            "a",
            ("a=http://a:1", "b=http://b"),
            CLUSTER + "unable to parse url from initialPeerList: http://b is not http(s)://<host>:<peer-port>",
        ),
        ("m0", tuple(f"m{one}=http://m{one}:1" for one in range(129)), STORE + "129 members are listed, a cluster has at most 128"),
    ],
)
def test_a_wrong_list_is_one_clear_line(own: str, entries: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cluster.parse_cluster(own, entries)
    assert str(caught.value) == words


def test_members_of_a_cluster_are_taken_as_a_whole() -> None:
    listed = "--etcd-initial-cluster=dapr-scheduler-server-0=https://a:1,b=https://b:1"
    found = config(listed, "--force-new-cluster", *FILES)
    assert [one.name for one in found.initial_cluster] == ["dapr-scheduler-server-0", "b"]
    assert found.force_new_cluster
    assert found.peer_tls is not None


@pytest.mark.parametrize(
    ("flag", "url", "mode", "expected"),
    [
        ("", "http://localhost:2380", "standalone", ("localhost", 2380)),
        ("", "http://10.0.0.1:1", "standalone", ("10.0.0.1", 1)),
        ("", "http://[::1]:1", "standalone", ("::1", 1)),
        ("", "http://scheduler-0:1", "standalone", ("0.0.0.0", 1)),
        ("", "http://10.0.0.1:1", "kubernetes", ("0.0.0.0", 1)),
        ("127.0.0.1", "http://a:7", "standalone", ("127.0.0.1", 7)),
        ("[::1]:9", "http://a:7", "kubernetes", ("::1", 9)),
        (":9", "http://a:7", "standalone", ("", 9)),
    ],
)
def test_where_peers_are_listened_for(flag: str, url: str, mode: str, expected: tuple[str, int]) -> None:
    assert cluster.peer_listen(flag, url, mode) == expected


def test_a_wrong_peer_listen_address_is_refused() -> None:
    assert "--peer-listen-address: a:b" in refusal("--peer-listen-address=a:b")
    made = config("--listen-peer-urls=http://127.0.0.1:3380")
    assert (made.peer_listen_host, made.peer_listen_port) == ("127.0.0.1", 3380)


def test_the_wait_of_forming() -> None:
    assert config().form_wait_ms == 3_000
    assert config("--form-wait=1m").form_wait_ms == 60_000
    assert cluster.form_wait_ms(None, "kubernetes") is None
    assert cluster.form_wait_ms("5s", "kubernetes") == 5_000
    assert "--form-wait" in refusal("--form-wait=soon")
    assert "must not be negative" in refusal("--form-wait=-1s")
    assert "--max-learners" in refusal("--max-learners=0")
    assert config("--strict-reconfig-check=false").strict_reconfig_check is False


FILES = ("--peer-cert-file=c", "--peer-key-file=k", "--peer-trusted-ca-file=t")


def test_tls_between_peers_needs_its_files_and_https_everywhere() -> None:
    secure = [cluster.PeerEntry("a", "https://a:1"), cluster.PeerEntry("b", "https://b:1")]
    made = cluster.peer_tls(options_of(*FILES, "--peer-client-cert-auth"), secure, "h")
    assert made == TlsOptions("c", "k", "t", client_cert_auth=True, min_version="TLS1.2", self_signed_hosts=("h",))
    assert cluster.peer_tls(options_of(), [cluster.PeerEntry("a", "http://a:1")], "") is None
    for words, entries, text in [
        ((), secure, "needs mTLS: --peer-cert-file, --peer-key-file, --peer-trusted-ca-file"),
        (FILES[:2], secure, "needs mTLS: --peer-trusted-ca-file"),
        (FILES[:1], [cluster.PeerEntry("a", "http://a:1")], "needs --peer-key-file, --peer-trusted-ca-file too"),
        (FILES, [*secure, cluster.PeerEntry("c", "http://c:1")], "needs https in every peer URL: http://c:1"),
        (("--peer-client-cert-auth",), [cluster.PeerEntry("a", "http://a:1")], "--peer-client-cert-auth needs --peer-cert-file"),
    ]:
        with pytest.raises(ConfigError, match=text.replace("(", r"\(")):
            cluster.peer_tls(options_of(*words), entries, "")


def test_peers_with_https_need_what_does_not_exist_yet() -> None:
    assert "needs mTLS" in refusal("--etcd-initial-cluster=dapr-scheduler-server-0=https://localhost:2380")


def test_placement_flags_are_accepted_while_placement_is_off() -> None:
    config("--placement-enabled=false", "--placement-disseminate-timeout=3s", "--placement-disseminate-coalesce-window=1s")


def test_a_contradiction_is_told_before_a_wrong_value() -> None:
    assert refusal("--etcd-space-quota=x", "--etcd-client-username=u", "--log-level=loud").startswith("cannot use")


def test_periodic_retention_without_a_unit_is_hours() -> None:
    assert config("--etcd-compaction-retention=2").etcd_compaction_retention == 7_200_000_000_000
    assert config("--etcd-compaction-mode=revision", "--etcd-compaction-retention=1000").etcd_compaction_retention == 1_000


def test_flags_come_before_environment_before_file_before_defaults(tmp_path: Path) -> None:
    path = tmp_path / "raftsched.toml"
    path.write_text('port = 1\nhealthz-port = 1\nworkers = 1\nlog_as_json = true\netcd-initial-cluster = ["m=http://h:1"]\nid = "m"\n')
    environ = {"RAFTSCHED_CONFIG": str(path), "RAFTSCHED_PORT": "2", "RAFTSCHED_HEALTHZ_PORT": "2"}
    made = config("--port=3", environ=environ)
    assert (made.port, made.healthz_port, made.workers, made.log_as_json, made.id) == (3, 2, 1, True, "m")
    assert config(f"--config={path}", environ={"RAFTSCHED_WORKERS": "7"}).workers == 7


def test_a_service_link_of_kubernetes_is_no_port() -> None:
    assert config(environ={"RAFTSCHED_PORT": "tcp://10.0.0.1:50006"}).port == 50006


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("prt = 1", 'unknown option "prt" in '),
        ('config = "x"', 'unknown option "config" in '),
        ("[etcd]\nx = 1", 'unknown option "etcd" in '),
        ("port = true", 'invalid value for "port" in '),
        ("tls-enabled = 1", 'invalid value for "tls-enabled" in '),
        ("etcd-initial-cluster = [1]", 'invalid value for "etcd-initial-cluster" in '),
        ("port = ", "cannot read --config "),
        ("\u00e9 = \x00", "cannot read --config "),
    ],
)
def test_a_wrong_file_is_refused_with_one_line(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(content)
    message = refusal(f"--config={path}")
    assert message.startswith(text)
    assert "\n" not in message


def test_a_missing_file_is_refused() -> None:
    assert refusal("--config=/does/not/exist") == "cannot read --config /does/not/exist: No such file or directory"


def test_a_wrong_variable_is_refused() -> None:
    text = 'invalid value "x" for the environment variable RAFTSCHED_PORT: strconv.ParseInt: parsing "x": invalid syntax'
    assert refusal(environ={"RAFTSCHED_PORT": "x"}) == text
