"""The JSON gateway and the other HTTP paths beside a real etcd 3.7: statuses, headers that matter, bodies, field by field.

What differs on purpose: a refusal here also has `error`, and its stream form more names than etcd's (etcd-api §4.2); there is no space
behind commas. Members' numbers, ports, sizes and indexes are each side's own. Ours is a member alone, or one of three that does not lead,
where the list of members is longer than that of the judge, who is alone.
"""

import base64
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raftsched.rpc.gateway.routes import PATHS
from raftsched.testing.door_cluster import one_door
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.http_peer import Answered, HttpPeer, WebSocketPeer, get, masked
from raftsched.testing.lone_node import EtcdDoor

KINDS = ("one", "follower")
OWN = {"cluster_id", "member_id", "raft_term", "leader", "raftIndex", "raftTerm", "raftAppliedIndex", "dbSize", "dbSizeInUse"}
OWN |= {"authRevision", "hash", "clientURLs", "peerURLs", "name", "ID"}
"""Values that are a side's own. `ID` is one in members only."""
HEADERS = {
    "content-type",
    "grpc-metadata-content-type",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "allow",
    "location",
    "www-authenticate",
    "x-content-type-options",
}
"""Not the framing: Go sends what is longer than 2 KiB in chunks, here it has its length; streams are chunked on both sides."""


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


A, B, C = b64(b"a"), b64(b"b"), b64(b"c")
VALUE = b64(bytes(range(256)))

STORY: Sequence[tuple[str, Any]] = (
    ("/v3/kv/put", {"key": A, "value": VALUE}),
    ("/v3/kv/put", {"key": A, "value": C, "prev_kv": True}),
    ("/v3/kv/put", {"key": B, "lease": "9"}),
    ("/v3/kv/put", {"key": A, "ignore_value": True}),
    ("/v3/kv/put", {"key": A, "ignoreValue": True, "value": A}),
    ("/v3/kv/put", {}),
    ("/v3beta/kv/put", {"key": B, "value": B}),
    ("/v3/kv/range", {"key": A}),
    ("/v3/kv/range", {"key": "AA==", "range_end": "AA=="}),
    ("/v3/kv/range", {"key": "AA==", "rangeEnd": "AA==", "sort_order": "DESCEND", "sort_target": "VALUE", "limit": "1"}),
    ("/v3/kv/range", {"key": "AA==", "range_end": "AA==", "keys_only": True}),
    ("/v3/kv/range", {"key": "AA==", "range_end": "AA==", "count_only": True}),
    ("/v3/kv/range", {"key": A, "revision": "2"}),
    ("/v3/kv/range", {"key": A, "revision": "200"}),
    ("/v3/kv/range", {"key": A, "sort_order": 7}),
    ("/v3/kv/range", {"key": A, "serializable": True}),
    ("/v3/kv/txn", {}),
    (
        "/v3/kv/txn",
        {"compare": [{"key": A, "target": "VERSION", "result": "EQUAL", "version": "9"}], "failure": [{"request_range": {"key": A}}]},
    ),
    ("/v3/kv/txn", {"compare": [{"key": A, "target": "VALUE", "value": C}], "success": [{"request_put": {"key": C, "value": A}}]}),
    ("/v3/kv/txn", {"success": [{"request_put": {"key": C}}, {"request_put": {"key": C}}]}),
    ("/v3/kv/txn", {"success": [{"request_txn": {"failure": [{}]}}]}),
    ("/v3/kv/txn", {"success": [{"request_txn": {"success": [{"request_delete_range": {"key": C, "prev_kv": True}}]}}]}),
    ("/v3/kv/deleterange", {"key": C}),
    ("/v3/kv/deleterange", {"key": B, "prev_kv": True}),
    ("/v3/kv/compaction", {"revision": "3"}),
    ("/v3/kv/compaction", {"revision": "3"}),
    ("/v3/kv/compaction", {"revision": "300"}),
    ("/v3/lease/grant", {"TTL": "1000", "ID": "7"}),
    ("/v3/lease/grant", {"TTL": "1000", "ID": "7"}),
    ("/v3/lease/grant", {"TTL": "9000000001"}),
    ("/v3/kv/put", {"key": B, "lease": 7}),
    ("/v3/lease/keepalive", b'{"ID":"7"} {"ID":8}'),
    ("/v3/lease/keepalive", b""),
    ("/v3/lease/keepalive", b"garbage"),
    ("/v3/lease/keepalive", b'{"ID":"7"}garbage'),
    ("/v3/lease/leases", {}),
    ("/v3/kv/lease/leases", {}),
    ("/v3/kv/lease/timetolive", {"ID": 8}),
    ("/v3/kv/lease/revoke", {"ID": 7}),
    ("/v3/lease/revoke", {"ID": 7}),
    ("/v3/cluster/member/list", {}),
    ("/v3/cluster/member/list", {"linearizable": True}),
    ("/v3/maintenance/status", {}),
    ("/v3/maintenance/alarm", {}),
    ("/v3/maintenance/hash", {}),
    ("/v3/maintenance/hashkv", {}),
    ("/v3/maintenance/hashkv", {"revision": "400"}),
    ("/v3/maintenance/defragment", {}),
    ("/v3/lease/grant", {"TTL": "1000", "ID": "21"}),
    ("/v3/lock/lock", {"name": A, "lease": "21"}),
    ("/v3/lock/lock", {"name": A, "lease": "22"}),
    ("/v3/lock/unlock", {}),
    ("/v3/lock/unlock", {"key": b64(b"a/15")}),
    ("/v3/election/leader", {"name": B}),
    ("/v3/election/proclaim", {}),
    ("/v3/election/campaign", {"name": B, "lease": "21", "value": C}),
    ("/v3/election/leader", {"name": B}),
    ("/v3/election/proclaim", {"leader": {"name": B, "key": b64(b"b/15"), "rev": "2", "lease": "21"}, "value": A}),
    ("/v3/election/resign", {"leader": {"name": B, "key": b64(b"b/15"), "rev": "2", "lease": "21"}}),
    ("/v3/auth/status", {}),
    ("/v3/auth/authenticate", {"name": "a", "password": "b"}),
)
"""Requests that change the store the same way on both sides, one after the other."""

BODIES = (
    b"",
    b"  ",
    b"{",
    b"}",
    b"[]",
    b"null",
    b"5",
    b"5x",
    b'"x"',
    b"tru",
    b"trux",
    b"-",
    b"1.",
    b"1.x",
    b"1e",
    b"'",
    b"\x00",
    b"\xff",
    b'{"a\tb":1}',
    b'{"key":"\\q"}',
    b'{"key":"\\u00zz"}',
    b"{1}",
    b'{"a"}',
    b'{"a":1 2}',
    b"[1 2]",
    b"[1,]",
    b'{"key":"YQ==",}',
    b'{"key":5}',
    b'{"key":tru',
    b'{"key":{"a":1}}',
    b' {"key":[1]}',
    b'{"key":"!"}',
    b'{"key":"Zm9"}',
    b'{"key":"Zm9v\\n"}',
    b'{"key":"Zg="}',
    b'{"key":"Zg=\\n="}',
    b'{"key":"Zg==Zg=="}',
    b'{"key":"_-8="}',
    b'{"key":"_+8="}',
    b'{"key":"===="}',
    b'{"key":"Zg"}',
    b'{"key":"\xff"}',
    b'{"key":"\\ud800"}',
    b'{"key":"\\ud800\\u0020ab"}',
    b'{"key":null}',
    b'{"key":"YQ==","key":null}',
    b'{"key":"YQ==",\n "limit":"\xc3\xa9"}',
    b'{"key":"YQ==","limit":1.0}',
    b'{"key":"YQ==","limit":10e-1}',
    b'{"key":"YQ==","limit":1e-1}',
    b'{"key":"YQ==","limit":1e30}',
    b'{"key":"YQ==","limit":0.0e5}',
    b'{"key":"YQ==","limit":9223372036854775808}',
    b'{"key":"YQ==","limit":"5 "}',
    b'{"key":"YQ==","limit":"5 x"}',
    b'{"key":"YQ==","limit":"5\\u00a0"}',
    b'{"key":"YQ==","limit":"1e x"}',
    b'{"key":"YQ==","limit":""}',
    b'{"serializable":1}',
    b'{"key":"YQ==","serializable":"true"}',
    b'{"key":"YQ==","sortOrder":"NO_SUCH"}',
    b'{"key":"YQ==","sort_order":2147483648}',
    b'{"key":"YQ==","sort_order":true}',
    b'{"key":"YQ==","nope":{"a":[1,{"b":"\\ud800"}]}}',
    b'{"key":"YQ==","nope":{"a":[1,{"b":[{},[]]}],"c":null}}',
    b'{"key":"YQ==","[ext]":1,"@type":"x"}',
    b'{"key":"YQ=="} trailing',
    b"[" * 10_001 + b"]" * 10_001,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
)
"""For RangeRequest: what is JSON, what is a message, and in which words it is not."""

PAGES = (
    ("GET", "/version"),
    ("POST", "/version"),
    ("HEAD", "/version"),
    ("GET", "/health"),
    ("POST", "/health"),
    ("HEAD", "/health"),
    ("GET", "/health?serializable=true"),
    ("GET", "/health?exclude=NOSPACE&exclude="),
    ("GET", "/livez"),
    ("GET", "/livez?verbose"),
    ("GET", "/livez/serializable_read"),
    ("GET", "/livez/nope"),
    ("PUT", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/readyz?verbose"),
    ("GET", "/readyz?verbose&exclude=linearizable_read&exclude=nope"),
    ("GET", "/readyz/data_corruption?verbose"),
    ("GET", "/readyz/linearizable_read"),
    ("GET", "/readyz/non_learner"),
    ("GET", "/readyz/"),
    ("GET", "/debug/pprof/"),
    ("GET", "/debug/requests"),
    ("GET", "/config/local/log"),
    ("POST", "/debug/vars"),
    ("GET", "/nope"),
    ("GET", "/"),
    ("GET", "/v2/keys"),
    ("GET", "/v3"),
    ("POST", "/v3"),
    ("POST", "/v3/"),
    ("POST", "/v3/x"),
    ("POST", "/v3alpha/kv/range"),
    ("POST", "/v3beta/x"),
    ("POST", "/v3//kv/range"),
    ("GET", "//health"),
    ("GET", "/a/../health?b=c"),
    ("GET", "/health/."),
    ("POST", "/v3/kv/range/"),
    ("OPTIONS", "/v3/kv/range"),
    ("OPTIONS", "/nope"),
    ("OPTIONS", "*"),
    ("GET", "/v3/kv/range"),
    ("PATCH", "/v3/kv/range"),
    ("HEAD", "/v3/kv/range"),
)


@contextmanager
def standing(kind: str, folder: Path, etcd_program: Path) -> Iterator[tuple[int, int]]:
    """The ports: of ours, of the judge."""
    with one_door(kind, folder / "subject") as ours, RealEtcd(folder / "judge", etcd_program) as judge:
        yield ours.port, judge.port
        judge.kill()  # a WebSocket, even one that is gone, would hold it for seven seconds


@pytest.fixture(params=KINDS)
def sides(request: pytest.FixtureRequest, tmp_path: Path, etcd_program: Path) -> Iterator[tuple[int, int]]:
    with standing(request.param, tmp_path, etcd_program) as ports:
        yield ports


@pytest.fixture(scope="module", params=KINDS)
def idle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, etcd_program: Path) -> Iterator[tuple[int, int]]:
    """The same for tests that change nothing."""
    with standing(request.param, tmp_path_factory.mktemp("idle"), etcd_program) as ports:
        yield ports


def without_own(value: Any, inside: str = "") -> Any:
    """Each side's own values by their names."""
    if isinstance(value, list):
        return [without_own(one, inside) for one in value]
    if not isinstance(value, dict):
        return value
    named = {name: without_own(one, name) for name, one in value.items()}
    if isinstance(named.get("members"), list):
        members = named["members"]
        named["members"] = [one for number, one in enumerate(members) if one not in members[:number]]  # where only their own values differ
    return {name: f"<{name}>" if name in OWN and (name != "ID" or inside == "members") else one for name, one in named.items()}


def without_superset(value: Any) -> Any:
    """What ours says more than etcd 3.7 is taken away, having been looked at."""
    if not isinstance(value, dict):
        return value
    error = value.get("error")
    if isinstance(error, str):
        assert value == {"error": value["message"], "code": value["code"], "message": value["message"]}
        return {"code": value["code"], "message": value["message"]}
    if isinstance(error, dict):
        assert error["grpc_code"] == error["code"]
        return {"error": {"code": error["code"], "message": error["message"]}}
    return value


def told(answer: Answered, *, judge: bool) -> Any:
    """An answer in a form in which both sides can be compared."""
    headers = {name.lower(): value for name, value in answer.headers if name.lower() in HEADERS}
    body: Any = answer.body.decode("utf-8", "surrogateescape").replace("\xa0", " ")
    if headers.get("content-type") == "application/json":
        body = [without_own(json.loads(line) if judge else without_superset(json.loads(line))) for line in body.splitlines()]
        assert judge or '": ' not in answer.body.decode("utf-8", "replace")[:100]  # compact
    return answer.status, headers, body


def names_in(value: Any) -> list[str]:
    """Of fields, in their order; of members those of the first."""
    if isinstance(value, list):
        return [name for one in value for name in names_in(one)]
    if not isinstance(value, dict):
        return []
    return [name for key, one in value.items() for name in (key, *names_in(one[:1] if key == "members" else one))]


def order_of(answer: Answered) -> list[list[str]]:
    """Names of fields as they stand in each line of the text."""
    return [names_in(json.loads(line)) for line in answer.body.splitlines()]


def ask(port: int, path: str, body: Any, headers: Any = ()) -> Answered:
    with HttpPeer(port) as peer:
        return peer.ask("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)


def compare(sides: tuple[int, int], path: str, body: Any, headers: Any = ()) -> None:
    ours, judge = (ask(port, path, body, headers) for port in sides)
    assert told(ours, judge=False) == told(judge, judge=True), (path, body)
    if ours.status == 200:
        assert order_of(ours) == order_of(judge), (path, body)


def test_a_story(sides: tuple[int, int]) -> None:
    for path, body in STORY:
        compare(sides, path, body)


def test_bodies(idle: tuple[int, int]) -> None:
    for body in BODIES:
        compare(idle, "/v3/kv/range", body)


def test_headers_of_a_request(idle: tuple[int, int]) -> None:
    body = {"key": A}
    for headers in (
        {"Grpc-Timeout": "1x"},
        {"Grpc-Timeout": "5S"},
        {"Grpc-Metadata-A-Bin": "AAE="},
        {"Grpc-Metadata-Hasleader": "true"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/grpc"},
        {"Accept": "text/html"},
        {"Accept-Encoding": "gzip"},
        {"Origin": "http://a.example"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "nonsense"},
        {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQ"},
    ):
        compare(idle, "/v3/kv/range", body, headers)


@pytest.mark.parametrize("path", sorted(PATHS))
def test_every_path_is_there_and_takes_post_alone(idle: tuple[int, int], path: str) -> None:
    answers = [get(port, path) for port in idle]
    assert told(answers[0], judge=False) == told(answers[1], judge=True)
    if path not in ("/v3/watch", "/v3/lease/keepalive"):  # their bodies may be anything
        compare(idle, path, b"{")


def test_pages(idle: tuple[int, int]) -> None:
    for method, path in PAGES:
        ours, judge = (page(port, method, path) for port in idle)
        verbose = path.startswith("/readyz?verbose")
        if verbose:  # etcd's checks come in any order
            ours, judge = ((*one[:2], sorted(one[2].splitlines())) for one in (ours, judge))
        assert ours == judge, (method, path)


def page(port: int, method: str, path: str) -> Any:
    answer = get(port, path, method=method)
    status, headers, body = told(answer, judge=True)
    return status, headers, without_superset(body[0]) if isinstance(body, list) and body else body


def test_expvar_is_an_object_with_etcds_names(idle: tuple[int, int]) -> None:
    ours, judge = (get(port, "/debug/vars") for port in idle)
    assert told(ours, judge=False)[:2] == told(judge, judge=True)[:2]
    assert set(ours.json()) == set(judge.json())
    assert set(ours.json()["raft.status"]) <= set(judge.json()["raft.status"])


def lines(peer: HttpPeer, count: int) -> list[Any]:
    return [without_own(peer.line()) for _ in range(count)]


def test_watches(sides: tuple[int, int]) -> None:
    def story(port: int) -> list[Any]:
        seen: list[Any] = []
        for number in range(4):
            ask(port, "/v3/kv/put", {"key": A, "value": b64(b"%d" % number)})
        ask(port, "/v3/kv/compaction", {"revision": "3", "physical": True})
        creates = b'{"create_request":{"key":"YQ==","start_revision":"4","prev_kv":true,"watch_id":"3"}}'
        creates += b'{"createRequest":{"key":"YQ==","start_revision":1,"watch_id":4}}'
        with HttpPeer(port) as peer:
            peer.request("POST", "/v3/watch", creates)
            head = peer.head()
            seen.append((told(head, judge=True)[:2], head.header("transfer-encoding")))
            first = lines(peer, 4)
            seen.append(sorted(first, key=json.dumps))
            ask(port, "/v3/kv/deleterange", {"key": A})
            seen.extend(lines(peer, 1))
        with HttpPeer(port) as peer:
            creates = b'{"create_request":{"key":"YQ==","range_end":"YQ=="}}'
            creates += b'{"create_request":{"key":"YQ==","watch_id":1}}' * 2 + b'{"cancel_request":{"watch_id":1}}'
            peer.request("POST", "/v3/watch", creates)
            peer.head()
            seen.extend(lines(peer, 4))
        return seen

    ours, judge = (story(port) for port in sides)
    assert ours == judge


def test_observing_and_a_client_that_gives_up_its_lock(sides: tuple[int, int]) -> None:
    def story(port: int) -> list[Any]:
        seen: list[Any] = []
        for lease in ("31", "32"):
            ask(port, "/v3/lease/grant", {"TTL": "1000", "ID": lease})
        ask(port, "/v3/election/campaign", {"name": B, "lease": "31", "value": C})
        with HttpPeer(port) as peer:
            peer.request("POST", "/v3/election/observe", json.dumps({"name": B}).encode())
            seen.append(told(peer.head(), judge=True)[:2])
            seen.extend(lines(peer, 1))
        ask(port, "/v3/lock/lock", {"name": A, "lease": "31"})
        with HttpPeer(port) as peer:
            peer.request("POST", "/v3/lock/lock", json.dumps({"name": A, "lease": "32"}).encode())
            assert peer.is_silent(0.3)
            seen.append(without_own(ask(port, "/v3/lease/timetolive", {"ID": "32", "keys": True}).json())["keys"])
        deadline = time.monotonic() + 5
        while "keys" in (left := ask(port, "/v3/lease/timetolive", {"ID": "32", "keys": True}).json()) and time.monotonic() < deadline:
            time.sleep(0.02)
        seen.append("keys" in left)
        return seen

    ours, judge = (story(port) for port in sides)
    assert ours == judge


def test_a_watch_that_asked_for_nothing(idle: tuple[int, int]) -> None:
    for port in idle:
        for body in (b"", b"garbage"):
            with HttpPeer(port) as peer:
                peer.request("POST", "/v3/watch", body)
                assert peer.is_silent(0.2)


def test_websockets(sides: tuple[int, int]) -> None:
    def story(port: int) -> list[Any]:
        seen: list[Any] = []
        with WebSocketPeer(port) as peer:
            opened = peer.open("/v3/watch", **{"Sec-WebSocket-Protocol": "Bearer, nonsense"})
            seen.append((opened.status, sorted((name.lower(), value) for name, value in opened.headers)))
            peer.send(masked(1, b'{"create_request":{"key":"YQ==","watch_id":"2"}}'))
            seen.append(without_own(peer.message()))
            ask(port, "/v3/kv/put", {"key": A, "value": VALUE})
            seen.append(without_own(peer.message()))
            peer.send(masked(1, b'{"cancel_request":{"watch_id":"2"}}') + masked(1, b"garbage"))
            seen.append(without_own(peer.message()))
        with WebSocketPeer(port) as peer:
            peer.open("/v3/lease/keepalive")
            peer.send(masked(2, b'{"ID":"77"}{"ID":"78"}'))
            seen.extend(without_own(peer.message()) for _ in range(2))
        with WebSocketPeer(port) as peer:
            seen.append(peer.open("/v3/watch", **{"Sec-WebSocket-Version": "8"}).status)
        return seen

    ours, judge = (story(port) for port in sides)
    assert ours == judge


def test_origins_and_hosts(tmp_path: Path, etcd_program: Path) -> None:
    flags = ["--cors=http://a.example:80,http://b.example:80", "--host-whitelist=localhost,127.0.0.1"]
    ours_options: dict[str, Any] = {"cors": ("http://a.example:80", "http://b.example:80"), "hosts": ("localhost", "127.0.0.1")}
    with EtcdDoor(**ours_options) as ours, RealEtcd(tmp_path, etcd_program, args=flags) as judge:
        for origin in ("http://a.example:80", "http://b.example:80", "http://c.example:80", ""):
            for path in ("/version", "/v3/x", "/nope"):
                answers = [told(get(port, path, {"Origin": origin} if origin else ()), judge=True) for port in (ours.port, judge.port)]
                assert answers[0][:2] == answers[1][:2], (origin, path)
        for host in ("localhost", "localhost:1", "evil.example", "evil.example:2379", "a:b:c", "[::1]", "[::1]:80"):
            for path in ("/version", "/v3/kv/range", "//x"):
                answers = [told(get(port, path, host=host), judge=True) for port in (ours.port, judge.port)]
                assert answers[0][:2] == answers[1][:2], (host, path)
                if answers[0][0] == 421:
                    assert answers[0][2] == answers[1][2]


def test_http_odds(idle: tuple[int, int]) -> None:
    for data in (
        b"POST /v3/kv/range HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",  # no host
        b"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n{}",
        b"POST /v3/kv/%zz HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v3/kv/range HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
        b"POST http://a/v3/kv/range HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ):
        statuses = []
        for port in idle:
            with HttpPeer(port) as peer:
                peer.send(data)
                statuses.append(peer.head().status)
        assert statuses[0] == statuses[1], data
