"""etcd's discovery: the registry's keys and SRV records as clusters; a member on its way into the registry, without a network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftsched.cli import discovery, srv, stdflags
from raftsched.cli.registry import Pair, Registry, ServiceError, check_files
from raftsched.config.etcd import EtcdConfig, bootstrap, load
from raftsched.config.etcd.discovery import DiscoveryOptions
from raftsched.config.etcd.flags import BY_NAME
from raftsched.config.etcd.records import Record, entries, own_places, service_name
from raftsched.config.etcd.registry import DiscoveryError, Found, check_text, founders_of, member_key, members_prefix, parse_size, size_key
from raftsched.config.etcd.urls import parse_url, parse_urls
from raftsched.errors import ConfigError
from raftsched.standalone import node_options
from raftsched.testing.dns_server import DnsServer

SILENT = ("--discovery-endpoints=127.0.0.1:1,http://127.0.0.1:1", "--discovery-request-timeout=300ms")
SERVICE = ("--discovery-token=t", "--discovery-endpoints=http://b:1,a:1")


def read(*words: str) -> EtcdConfig:
    given, rest = stdflags.parse(words, BY_NAME)
    assert rest == []
    return bootstrap.complete(load(given, {}, []), lambda: "")[0]


def refused(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*words)
    return str(caught.value)


# -- options


def test_options_reach_the_client_of_the_service(tmp_path: Path) -> None:
    words = [
        "--discovery-dial-timeout=1s",
        "--discovery-request-timeout=1500ms",
        "--discovery-keepalive-time=7s",
        "--discovery-keepalive-timeout=8s",
        "--discovery-insecure-transport=false",
        "--discovery-insecure-skip-tls-verify",
        "--discovery-cert=c",
        "--discovery-key=k",
        "--discovery-cacert=ca",
        "--discovery-user=u",
        "--discovery-password=p",
    ]
    expected = DiscoveryOptions(
        token="t",
        endpoints=("a:1", "http://b:1"),
        dial_timeout_s=1.0,
        request_timeout_s=1.5,
        keepalive_ms=7_000,
        keepalive_timeout_ms=8_000,
        insecure_transport=False,
        skip_verify=True,
        cert="c",
        key="k",
        cacert="ca",
        user="u",
        password="p",
    )
    assert read(*SERVICE, *words).discovery == expected
    path = tmp_path / "etcd.yml"
    path.write_text(
        'discovery-config: {token: t, client: {endpoints: ["http://b:1", "a:1"], dial-timeout: 1000000000, request-timeout: 1500000000, '
        "keepalive-time: 7000000000, keepalive-timeout: 8000000000, auth: {username: u, password: p}, "
        "secure: {insecure-transport: false, insecure-skip-tls-verify: true, cert: c, key: k, cacert: ca}}}"
    )
    assert read(f"--config-file={path}").discovery == expected
    assert read().discovery is None


def test_who_discovers_has_no_initial_cluster_of_its_own() -> None:
    for words in (SERVICE, ("--discovery-srv=x.example",), ("--discovery-srv-name=n",)):
        assert read("--name=a", *words).initial_cluster == ""
    assert read("--name=a").initial_cluster == "a=http://localhost:2380"
    assert read("--discovery-srv-name=n", "--initial-cluster=default=http://localhost:2380").initial_cluster


def test_what_does_not_fit_together() -> None:
    assert refused("--discovery-endpoints=a") == "both --discovery-token and --discovery-endpoints must be set"
    assert refused("--discovery-token=t", "--discovery-endpoints=a,") == "--discovery-endpoints must not contain empty endpoints"
    assert refused(*SERVICE, "--discovery-srv=x").startswith("multiple discovery or bootstrap flags are set")
    assert "v2 proxy is deprecated" in refused("--discovery-fallback=proxy")


# -- the registry


def test_keys() -> None:
    assert size_key("t") == "/_etcd/registry/t/_config/size"
    assert member_key("t", 0xAB) == "/_etcd/registry/t/members/ab"
    assert members_prefix("a//b/../c") == "/_etcd/registry/a/c/members"  # path.Join of Go


def test_sizes() -> None:
    assert [parse_size(b"3"), parse_size(b"+05")] == [3, 5]
    for value in (b"", b"0", b"-1", b"x", b"3\n", b"1_0", b"9223372036854775808", b"9" * 5_000):
        with pytest.raises(DiscoveryError, match=r"^discovery: size key is bad$"):
            parse_size(value)
    with pytest.raises(DiscoveryError, match=r"^discovery: size key not found$"):
        parse_size(None)


def found_of(*created: int) -> Found:
    found = Found("t")
    for number in created:
        assert found.add(member_key("t", number), f"m{number}=http://h:{number}", number) == ""
    return found


def test_the_oldest_are_the_cluster() -> None:
    found = found_of(30, 10, 20)
    assert found.text(2) == "m10=http://h:10,m20=http://h:20"
    assert found.text(5).endswith(",m30=http://h:30")
    found.check_room(member_key("t", 20), 2)
    found.check_room(member_key("t", 99), 4)
    for late in (30, 99):
        with pytest.raises(DiscoveryError, match=r"^discovery: cluster is full$"):
            found.check_room(member_key("t", late), 2)


def test_what_is_no_member_is_passed_over() -> None:
    found = found_of(1)
    assert found.add("/elsewhere", "a=b", 2) == "invalid peer registry key"
    assert found.add(member_key("t", 2), "", 2) == "invalid peer info returned from discovery service"
    assert found.add(member_key("t", 1), "x=y", 2) == "found duplicate peer from discovery service"
    assert len(found) == 1


def test_a_cluster_that_cannot_be() -> None:
    with pytest.raises(DiscoveryError, match=r"^discovery: invalid peer URL$"):
        check_text("a=foo")
    own = parse_urls("http://h:1")
    assert founders_of("a=http://h:1,b=http://h:2", "a", own) == {"a": own, "b": (parse_url("http://h:2"),)}
    for text, words in (
        ("a=http://h:1,b=http://h:1", "discovery cluster a=http://h:1,b=http://h:1 has duplicate url"),
        ("a=http://h:1,a=http://h:2", 'another member of the name "a"'),
        ("a=http://h:1,b=unix:///x", "unix:///x: members do not meet on unix sockets"),
        (",".join(f"m{number}=http://h:{number}" for number in range(1, 131)), "130 members, at most 128"),
    ):
        with pytest.raises(ConfigError) as caught:
            founders_of(text, "a", own)
        assert words in str(caught.value)


# -- a member on its way


class FakeService:
    """A registry in this process; `broken` requests fail first."""

    def __init__(self, size: str | None = "3", *, broken: int = 0) -> None:
        self.pairs: dict[str, tuple[str, int]] = {}
        self.revision = 1
        self.broken = broken
        self.watched: list[list[Pair] | ServiceError] = []
        self.revisions: list[int] = []
        if size is not None:
            self.write(size_key("t"), size)

    def write(self, key: str, value: str) -> None:
        self._fail()
        self.revision += 1
        self.pairs[key] = (value, self.pairs.get(key, ("", self.revision))[1])

    def read(self, key: str, *, below: bool = False) -> tuple[list[Pair], int]:
        self._fail()
        some = [
            Pair(one, *pair, pair[0].encode()) for one, pair in sorted(self.pairs.items()) if one == key or (below and one.startswith(key))
        ]
        return some, self.revision

    def watch(self, prefix: str, revision: int) -> Iterator[list[Pair]]:
        self.revisions.append(revision)
        while self.watched:
            next_one = self.watched.pop(0)
            if isinstance(next_one, ServiceError):
                raise next_one
            yield next_one

    def _fail(self) -> None:
        if self.broken:
            self.broken -= 1
            raise ServiceError("context deadline exceeded")


class Lines:
    """A log."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def _tell(self, level: str, message: str, fields: dict[str, object]) -> None:
        self.lines.append((level, message, fields))

    def debug(self, message: str, /, **fields: object) -> None:
        self._tell("debug", message, fields)

    def info(self, message: str, /, **fields: object) -> None:
        self._tell("info", message, fields)

    def warning(self, message: str, /, **fields: object) -> None:
        self._tell("warn", message, fields)

    def error(self, message: str, /, **fields: object) -> None:
        self._tell("error", message, fields)

    fatal = error

    def of(self, message: str) -> list[dict[str, object]]:
        return [fields for _, one, fields in self.lines if one == message]


def joining(service: FakeService) -> tuple[discovery.Joining, Lines, list[float]]:
    log, pauses = Lines(), list[float]()
    options = read(*SERVICE).discovery
    assert options is not None
    return discovery.Joining(service, options, 0xA, log, pauses.append), log, pauses


def pair_of(number: int, revision: int) -> Pair:
    text = f"m{number}=http://h:{number}"
    return Pair(member_key("t", number), text, revision, text.encode())


def test_a_member_registers_and_waits_for_the_others() -> None:
    service = FakeService()
    service.write(member_key("t", 1), "m1=http://h:1")
    service.watched = [[pair_of(1, 3)], [pair_of(2, 9)]]
    member, log, pauses = joining(service)
    assert member.join("own=http://o:1") == "m1=http://h:1,own=http://o:1,m2=http://h:2"
    assert service.revisions == [service.revision + 1]
    assert not pauses
    fields = {"discovery-token": "t", "discovery-endpoints": "a:1,http://b:1"}
    assert log.of("waiting for peers from discovery service") == [{**fields, "clusterSize": 3, "found-peers": 2}]
    assert log.of("found all needed peers from discovery service") == [{**fields, "clusterSize": 3, "found-peers": 3}]
    assert log.lines[-1][:2] == ("info", "discovery joined cluster successfully")


def test_a_watch_that_breaks_begins_anew() -> None:
    service = FakeService("2")
    service.watched = [ServiceError("etcdserver: mvcc: required revision has been compacted"), [pair_of(2, 9)]]
    member, _, pauses = joining(service)
    assert member.join("own=http://o:1") == "own=http://o:1,m2=http://h:2"
    assert (len(service.revisions), pauses) == (2, [2])


def test_a_service_that_does_not_answer_is_asked_again() -> None:
    service = FakeService("1")
    service.broken = 9
    member, log, pauses = joining(service)
    assert member.join("own=http://o:1") == "own=http://o:1"
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 256]
    told = log.of("retry connecting to discovery service")
    assert (told[0]["reason"], told[0]["backoff"], told[-1]["backoff"]) == ("cluster status check", "2s", "4m16s")
    assert log.of("failed to get cluster size from discovery service")[0]["error"] == "context deadline exceeded"


@pytest.mark.parametrize(
    ("size", "others", "words"),
    [
        (None, 0, "discovery: size key not found"),
        ("none", 0, "discovery: size key is bad"),
        ("2", 2, "discovery: cluster is full"),
    ],
)
def test_what_the_service_says_once_and_for_all(size: str | None, others: int, words: str) -> None:
    service = FakeService(size)
    for number in range(others):
        service.write(member_key("t", number), f"m{number}=http://h:{number}")
    member, log, pauses = joining(service)
    with pytest.raises(DiscoveryError, match=f"^{words}$"):
        member.join("own=http://o:1")
    assert member_key("t", 0xA) not in service.pairs
    assert log.of("discovery failed to join cluster")[0]["error"] == words
    assert not pauses


def test_files_for_tls(tmp_path: Path) -> None:
    def refusal(*words: str) -> str:
        options = read(*SERVICE, *words).discovery
        assert options is not None
        with pytest.raises(DiscoveryError) as caught:
            check_files(options)
        return str(caught.value)

    assert refusal("--discovery-cert=/c") == "KeyFile and CertFile must both be present[key: , cert: /c]"
    assert refusal(f"--discovery-cacert={tmp_path}/ca") == f"open {tmp_path}/ca: no such file or directory"


def test_endpoints_that_do_not_answer_take_the_time_of_one_request() -> None:
    options = read("--discovery-token=t", *SILENT).discovery
    assert options is not None
    registry = Registry(options)
    try:
        with pytest.raises(ServiceError, match=r"^context deadline exceeded$"):
            registry.read("k")
    finally:
        registry.close()


# -- SRV records


def test_names_of_services() -> None:
    assert [service_name("etcd-server", ""), service_name("etcd-server-ssl", "n")] == ["etcd-server", "etcd-server-ssl-n"]


def numbered(host: str, port: int) -> tuple[str, int]:
    """hN. is 10.0.0.N."""
    if not host.startswith(("h", "10.")):
        raise OSError(f"lookup {host}: no such host")
    return "10.0.0." + host.strip("h.").removeprefix("10.0.0."), port


def test_records_make_a_cluster() -> None:
    records = [Record(0, 5, 2380, "h2."), Record(0, 9, 2380, "h1."), Record(0, 1, 2380, "gone."), Record(1, 9, 2380, "h3.")]
    own = own_places(parse_urls("http://10.0.0.2:2380"), numbered)
    assert entries("http", "etcd-server", records, "me", own, numbered) == ["0=http://h1:2380", "me=http://h2:2380", "1=http://h3:2380"]
    assert entries("http", "etcd-server", [], "me", own, numbered) == []
    with pytest.raises(OSError, match=r"^lookup gone\.: no such host$"):
        entries("http", "etcd-server", records[2:3], "me", own, numbered)
    with pytest.raises(ConfigError) as caught:
        entries("https", "etcd-server-ssl", records[:1], "me", own, numbered)
    assert str(caught.value) == (
        "bootstrap at https://h2:2380 from DNS for etcd-server-ssl has scheme mismatch with expected peer http://10.0.0.2:2380"
    )


def test_a_cluster_is_asked_of_a_dns_server() -> None:
    zone = {
        "_etcd-server-n._tcp.x.example.": ("SRV", ["0 0 7001 a.x.example.", "0 0 7002 b.x.example."]),
        "a.x.example.": ("A", ["127.0.0.1"]),
        "b.x.example.": ("A", ["127.0.0.1"]),
    }
    log = Lines()
    with DnsServer(zone) as server:
        config = read(
            "--name=me",
            "--discovery-srv=x.example",
            "--discovery-srv-name=n",
            "--initial-advertise-peer-urls=http://b.x.example:7002",
        )
        found, cluster = srv.discover(config, srv.Dns([server.address]), lambda _host, _port: [], log)
    assert found.initial_cluster == "0=http://a.x.example:7001,me=http://b.x.example:7002"
    assert {name: list(map(str, urls)) for name, urls in cluster.items()} == {
        "0": ["http://a.x.example:7001"],
        "me": ["http://b.x.example:7002"],
    }
    options = node_options(found, cluster)  # founders number each other differently, and must list the same names
    assert (options.name, options.founder) == ("me", "b.x.example:7002")
    assert sorted(options.listed) == ["a.x.example:7001", "b.x.example:7002"]
    assert log.of("get cluster for etcd-server-ssl SRV")[0]["error"] == (
        "error querying DNS SRV records for _etcd-server-ssl-n "
        f"lookup _etcd-server-ssl-n._tcp.x.example on 127.0.0.1:{server.address[1]}: no such host"
    )
    assert [one["node"] for one in log.of("got bootstrap from DNS for etcd-server")] == found.initial_cluster.split(",")


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        (
            {},
            "error setting up initial cluster: error querying DNS SRV records for _etcd-server-ssl lookup ",
        ),
        (
            {"_etcd-server._tcp.x.example.": ("SRV", ["0 0 7001 localhost."])},
            'error setting up initial cluster: cannot find local etcd member "me" in SRV records',
        ),
    ],
)
def test_a_domain_without_this_member(zone: Any, words: str) -> None:
    config = read("--name=me", "--discovery-srv=x.example", "--initial-advertise-peer-urls=http://127.0.0.1:7002")
    with DnsServer(zone) as server, pytest.raises(ConfigError) as caught:
        srv.discover(config, srv.Dns([server.address]), lambda _host, _port: [], Lines())
    assert str(caught.value).startswith(words)
