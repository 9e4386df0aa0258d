"""The JSON gateway behind the real door and before the real state machine (etcd-api §4.1, §4.2, appendix D).

A real etcd is asked the same in tests/interop/test_gateway_differential.py.
"""

import asyncio
import base64
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from raftsched import limits
from raftsched.errors import GrpcCode
from raftsched.rpc.gateway.answers import http_status
from raftsched.rpc.gateway.routes import BODY_STREAMS, PATHS, route_of
from raftsched.rpc.gateway.streams import MESSAGES_PER_TURN, Upload
from raftsched.rpc.http2.local import LocalStream
from raftsched.testing.http_peer import HttpPeer, get, post
from raftsched.testing.lone_node import CLUSTER_ID, MEMBER_ID, EtcdDoor

CORS = (
    ("Access-Control-Allow-Headers", "accept, content-type, authorization"),
    ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE"),
    ("Access-Control-Allow-Origin", "*"),
)
SERVED = (*CORS, ("Content-Type", "application/json"), ("Grpc-Metadata-Content-Type", "application/grpc"))
STREAMED = (*SERVED, ("Transfer-Encoding", "chunked"))
FOO = base64.b64encode(b"foo").decode()
MIB = 1 << 20


@pytest.fixture
def door() -> Iterator[EtcdDoor]:
    with EtcdDoor(progress_interval_ms=150, leader_lost_ms=200) as opened:
        yield opened
        assert opened.errors == []  # no traceback, whatever was sent
        deadline = time.monotonic() + 5
        while len(opened.engine.local) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(opened.engine.local) == 0  # nothing stays behind


def header(revision: int) -> dict[str, str]:
    return {"cluster_id": str(CLUSTER_ID), "member_id": str(MEMBER_ID), "revision": str(revision), "raft_term": "2"}


def refused(code: int, message: str) -> dict[str, Any]:
    return {"error": message, "code": code, "message": message}


# -- golden samples


def test_put_and_range(door: EtcdDoor) -> None:
    answer = post(door.port, "/v3/kv/put", {"key": FOO, "value": "YmFy"})
    assert (answer.status, answer.json()) == (200, {"header": header(2)})
    body = b'{"header":{"cluster_id":"8194","member_id":"4097","revision":"2","raft_term":"2"},"kvs":[{"key":"Zm9v","create_revision":"2",'
    body += b'"mod_revision":"2","version":"1","value":"YmFy"}],"count":"1"}'
    answer = post(door.port, "/v3/kv/range", {"key": FOO})
    assert answer.body == body
    assert answer.headers == (*SERVED, ("Content-Length", str(len(body))))


def test_refusals(door: EtcdDoor) -> None:
    answer = post(door.port, "/v3/kv/range", b"{}")
    assert (answer.status, answer.json()) == (400, refused(3, "etcdserver: key is not provided"))
    assert answer.headers == (*CORS, ("Content-Type", "application/json"), ("Content-Length", str(len(answer.body))))
    assert post(door.port, "/v3/kv/range", b"").json() == refused(3, "etcdserver: key is not provided")
    assert post(door.port, "/v3/kv/range", b"{").json() == refused(3, "unexpected EOF")
    missing = post(door.port, "/v3/lease/revoke", {"ID": "9"})
    assert (missing.status, missing.json()) == (404, refused(5, "etcdserver: requested lease not found"))
    future = post(door.port, "/v3/kv/range", {"key": FOO, "revision": 99})
    assert (future.status, future.json()) == (400, refused(11, "etcdserver: mvcc: required revision is a future revision"))


def test_a_transaction(door: EtcdDoor) -> None:
    inner = {"success": [{"request_put": {"key": FOO, "value": "YQ=="}}]}
    text = {"compare": [{"key": FOO, "target": "CREATE", "create_revision": 0}], "success": [{"request_txn": inner}]}
    assert post(door.port, "/v3/kv/txn", text).json() == {
        "header": header(2),
        "succeeded": True,
        "responses": [{"response_txn": {"header": {}, "succeeded": True, "responses": [{"response_put": {"header": {"revision": "2"}}}]}}],
    }
    again = post(door.port, "/v3/kv/txn", text).json()
    assert again == {"header": header(2)}  # succeeded is left out when it is false
    deleted = post(door.port, "/v3/kv/deleterange", {"key": FOO, "prev_kv": True}).json()
    kv = {"key": FOO, "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YQ=="}
    assert deleted == {"header": header(3), "deleted": "1", "prev_kvs": [kv]}


def test_leases(door: EtcdDoor) -> None:
    assert post(door.port, "/v3/lease/grant", {"ID": 7, "TTL": "100"}).json() == {"header": header(1), "ID": "7", "TTL": "100"}
    post(door.port, "/v3/kv/put", {"key": FOO, "lease": "7"})
    for path in ("/v3/lease/timetolive", "/v3/kv/lease/timetolive"):
        left = post(door.port, path, {"ID": 7, "keys": True}).json()
        assert (left["ID"], left["grantedTTL"], left["keys"]) == ("7", "100", [FOO])
    for path in ("/v3/lease/leases", "/v3/kv/lease/leases"):
        assert post(door.port, path).json()["leases"] == [{"ID": "7"}]
    assert post(door.port, "/v3/kv/lease/revoke", {"ID": 7}).json() == {"header": header(3)}
    assert post(door.port, "/v3/lease/timetolive", {"ID": 7}).json() == {"header": header(3), "ID": "7", "TTL": "-1"}


def test_status_and_members(door: EtcdDoor) -> None:
    status = post(door.port, "/v3/maintenance/status").json()
    assert status["version"] == "3.7.1"
    assert status["storageVersion"] == "3.7.0"
    assert status["downgradeInfo"] == {}
    assert status["leader"] == str(MEMBER_ID)
    members = post(door.port, "/v3/cluster/member/list", b"{}").json()
    assert members["members"][0]["peerURLs"] == ["http://localhost:2380"]
    assert "revision" not in members["header"]


# -- paths and methods


@pytest.mark.parametrize("path", sorted(PATHS))
def test_every_path_is_a_method_with_types(path: str) -> None:
    route = route_of(path)
    assert route.method == PATHS[path]
    streams = {"/v3/watch", "/v3/lease/keepalive", "/v3/maintenance/snapshot", "/v3/election/observe"}
    assert route.many == (path in streams)
    assert streams >= BODY_STREAMS
    assert route.request.decode(b"{}") == b""


@pytest.mark.parametrize("path", sorted(PATHS))
def test_every_path_takes_post_alone(door: EtcdDoor, path: str) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        answer = get(door.port, path, method=method)
        assert (answer.status, answer.json()) == (501, refused(12, "Method Not Allowed"))


def test_old_odd_and_unknown_paths(door: EtcdDoor) -> None:
    body = {"key": FOO}
    for path in ("/v3beta/kv/range", "/v3/kv/%72ange", "/v3/kv/range?x=1", f"http://localhost:{door.port}/v3/kv/range"):
        assert post(door.port, path, body).json() == {"header": header(1)}, path
    for path in ("/v3/x", "/v3/", "/v3/kv", "/v3/kv/range/", "/v3/KV/range", "/v3/kv/rangestream"):
        answer = post(door.port, path, body)
        assert (answer.status, answer.json()) == (404, refused(5, "Not Found")), path
    for path in ("/x", "/v2/keys", "/config/local/log", "/v3alpha/kv/range"):
        answer = post(door.port, path, body)
        assert (answer.status, answer.body) == (404, b"404 page not found\n"), path
        assert answer.header("x-content-type-options") == "nosniff"


@pytest.mark.parametrize(
    ("path", "where"),
    [("/v3", "/v3/"), ("/v3//kv/range", "/v3/kv/range"), ("/v3/kv/./range?a=b", "/v3/kv/range?a=b"), ("/a/../health/", "/health/")],
)
def test_unclean_paths_are_sent_on(door: EtcdDoor, path: str, where: str) -> None:
    answer = post(door.port, path)
    assert (answer.status, answer.header("location"), answer.body) == (307, where, b"")
    shown = get(door.port, path)
    assert (shown.status, shown.body) == (307, f'<a href="{where}">Temporary Redirect</a>.\n\n'.encode())


def test_a_path_that_cannot_be_read_is_refused(door: EtcdDoor) -> None:
    assert post(door.port, "/v3/kv/%zz").status == 400


def test_what_is_not_served_here_says_so_as_grpc_does(door: EtcdDoor) -> None:
    answer = post(door.port, "/v3/cluster/member/add", {"peerURLs": ["http://a:1"]})  # a lone node has no changes of members
    assert (answer.status, answer.json()["code"]) == (501, 12)


# -- the body


def test_only_the_first_value_of_a_body_counts(door: EtcdDoor) -> None:
    assert post(door.port, "/v3/kv/range", b'{"key":"Zm9v"} and so on {').status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"5",
        b'"x"',
        b"null",
        b"{]",
        b"\x00",
        b"\xff\xfe",
        b"{" * 50_000,
        b"[" * 50_000,
        b'{"key":"' + b"\\u" * 9,
        b'{"key":' + b"9" * 10_000,
    ],
    ids=lambda body: repr(body[:12]),
)
@pytest.mark.parametrize("path", ["/v3/kv/range", "/v3/kv/txn", "/v3/election/observe"])
def test_garbage_is_the_callers_fault(door: EtcdDoor, path: str, body: bytes) -> None:
    answer = post(door.port, path, body)
    assert answer.status == 400
    assert answer.json()["code"] == 3


def test_too_deep_and_too_many(door: EtcdDoor) -> None:
    deep = b'{"success":[{"request_txn":' * 400 + b"{}" + b"}]}" * 400
    assert post(door.port, "/v3/kv/txn", deep).json() == refused(3, "proto: exceeded max recursion depth")
    many = {"success": [{"request_put": {"key": base64.b64encode(b"%d" % i).decode()}} for i in range(129)]}
    assert post(door.port, "/v3/kv/txn", many).json() == refused(3, "etcdserver: too many operations in txn request")


def test_a_message_as_large_as_grpc_takes_and_one_byte_more(door: EtcdDoor) -> None:
    most = limits.REQUEST_BYTES_MAX + limits.GRPC_OVERHEAD_BYTES
    frame = 1 + 4 + 2 + 3  # tag and length of the value, the key
    fits = {"key": "a" + "A==", "value": base64.b64encode(bytes(most - frame + 2)).decode()}
    answer = post(door.port, "/v3/kv/put", fits)
    assert (answer.status, answer.json()) == (400, refused(3, "etcdserver: request is too large"))
    large = {"key": "a" + "A==", "value": base64.b64encode(bytes(most)).decode()}
    answer = post(door.port, "/v3/kv/put", large)
    assert answer.status == 429
    assert answer.json()["code"] == 8
    assert re.fullmatch(rf"grpc: received message larger than max \(\d+ vs\. {most}\)", answer.json()["message"])


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_all_bounds_is_not_read(door: EtcdDoor, chunked: bool) -> None:
    with HttpPeer(door.port) as peer:
        if chunked:
            peer.send(b"POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(5):
                peer.chunk(b" " * MIB)
        else:
            peer.send(b"POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n")
        answer = peer.answer()
        assert (answer.status, answer.json()["code"]) == (429, 8)
        assert answer.header("access-control-allow-origin") == "*"
        assert peer.is_closed()
    assert post(door.port, "/v3/kv/range", {"key": FOO}).status == 200


@pytest.mark.parametrize("digits", [30, 5_000])
def test_an_absurd_length_is_refused(door: EtcdDoor, digits: int) -> None:
    with HttpPeer(door.port) as peer:
        peer.send(b"POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * digits + b"\r\n\r\n")
        assert peer.answer().status in (400, 429)


def test_an_absurd_length_behind_another_request_is_refused(door: EtcdDoor) -> None:
    with HttpPeer(door.port) as peer:
        length = b"9" * 5_000
        peer.send(b"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
        peer.send(b"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nContent-Length: " + length + b"\r\n\r\n")
        assert peer.answer().json() == refused(3, "etcdserver: key is not provided")
        assert peer.answer().status in (400, 429)


def test_a_value_that_is_not_whole_is_in_the_budget_of_bodies(door: EtcdDoor) -> None:
    def held() -> int:
        return int(door.run(lambda: door.engine.counters()["bodies_bytes"]))

    def wait_until(low: int, high: int) -> None:
        deadline = time.monotonic() + 5
        while not low <= held() <= high and time.monotonic() < deadline:
            time.sleep(0.01)
        assert low <= held() <= high

    with HttpPeer(door.port) as peer:
        peer.send(b"POST /v3/watch HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer.chunk(b'{"create_request":{"key":"Zm9v"},"x":"' + b"a" * MIB)
        wait_until(MIB, MIB + 100)
        peer.chunk(b'"}')
        peer.head()
        assert peer.line()["result"]["created"] is True
        wait_until(0, 0)
        peer.chunk(b'{"x":"' + b"a" * MIB)
        wait_until(MIB, MIB + 100)
    wait_until(0, 0)


def test_headers_beyond_the_bound_are_refused(door: EtcdDoor) -> None:
    with HttpPeer(door.port) as peer:
        peer.send(b"POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nX: " + b"a" * limits.HEADER_LIST_BYTES_MAX * 2)
        assert peer.answer().status == 431


def test_chunked_bodies_keep_alive_and_pipelining(door: EtcdDoor) -> None:
    with HttpPeer(door.port) as peer:
        peer.send(b"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for letter in b'{"key":"Zm9v"}':
            peer.chunk(bytes((letter,)))
        peer.send(b"0\r\n\r\n")
        assert peer.answer().json() == {"header": header(1)}
        for number in range(20):
            peer.request("POST", "/v3/kv/put", json.dumps({"key": FOO, "value": base64.b64encode(b"%d" % number).decode()}).encode())
        assert [peer.answer().json()["header"]["revision"] for _ in range(20)] == [str(2 + number) for number in range(20)]
        peer.request("POST", "/v3/kv/range", b'{"key":"Zm9v"}', {"Connection": "close"})
        answer = peer.answer()
        assert answer.json()["kvs"][0]["value"] == base64.b64encode(b"19").decode()
        assert answer.header("connection") == "close"
        assert peer.is_closed()


def test_expect_100_continue(door: EtcdDoor) -> None:
    with HttpPeer(door.port) as peer:
        peer.send(b"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n")
        assert peer.head().status == 100
        peer.send(b'{"key":"Zm9v"}')
        assert peer.answer().status == 200


# -- headers


def test_metadata_and_deadlines(door: EtcdDoor) -> None:
    door.node.leader_id = 0
    answer = post(door.port, "/v3/kv/range", {"key": FOO}, {"Grpc-Metadata-Hasleader": "true"})
    assert (answer.status, answer.json()) == (503, refused(14, "etcdserver: no leader"))
    watch = post(door.port, "/v3/watch", b'{"create_request":{}}', {"Grpc-Metadata-hasleader": "true"})
    error = {"grpc_code": 14, "http_code": 503, "code": 14, "message": "etcdserver: no leader", "http_status": "Service Unavailable"}
    assert (watch.status, watch.json()) == (503, {"error": error})
    assert watch.headers == (*CORS, ("Content-Type", "application/json"), ("Transfer-Encoding", "chunked"))
    bad = post(door.port, "/v3/kv/range", {"key": FOO}, {"Grpc-Timeout": "1x"})
    assert (bad.status, bad.json()) == (400, refused(3, "invalid grpc-timeout: 1x"))
    binary = post(door.port, "/v3/kv/range", {"key": FOO}, {"Grpc-Metadata-A-Bin": "!"})
    assert (binary.status, binary.json()["code"]) == (400, 3)


def test_a_call_that_takes_too_long_and_a_client_that_goes(door: EtcdDoor) -> None:
    cancelled = []

    async def slow(call: Any, message: bytes) -> bytes:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(call.metadata("authorization"))
            raise
        return b""

    door.run(lambda: door.engine.add_unary("/etcdserverpb.Cluster/MemberAdd", slow))
    answer = post(door.port, "/v3/cluster/member/add", b"{}", {"Grpc-Timeout": "50m", "Authorization": "one"})
    assert (answer.status, answer.json()) == (504, refused(4, "context deadline exceeded"))
    with HttpPeer(door.port) as peer:
        peer.request("POST", "/v3/cluster/member/add", b"{}", {"Authorization": "two"})
        assert peer.is_silent(0.2)
    deadline = time.monotonic() + 5
    while len(cancelled) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cancelled == ["one", "two"]


def test_what_a_call_sees_of_the_headers(door: EtcdDoor) -> None:
    seen: list[str | None] = []
    names = ("authorization", "token", "grpcgateway-accept", "grpcgateway-user-agent", "x", "grpc-metadata-token", "bin-bin")

    async def look(call: Any, message: bytes) -> bytes:
        seen.extend(call.metadata(name) for name in names)
        assert call.peer_certificate() is None
        assert call.peer.startswith("127.0.0.1:")
        return b""

    door.run(lambda: door.engine.add_unary("/etcdserverpb.Cluster/MemberAdd", look))
    sent = [("Authorization", "Bearer t"), ("Grpc-Metadata-Token", "u"), ("User-Agent", "me"), ("X", "y"), ("Grpc-Metadata-Bin-Bin", "AAE")]
    assert post(door.port, "/v3/cluster/member/add", b"", sent).body == b"{}"
    assert seen == ["Bearer t", "u", "", "me", None, None, "\0\x01"]


def test_a_failing_handler_is_500_and_told(door: EtcdDoor) -> None:
    async def fails(call: Any, message: bytes) -> bytes:
        raise ZeroDivisionError

    def fails_in_a_batch(handles: list[int], messages: list[bytes]) -> None:
        raise ZeroDivisionError

    door.run(lambda: door.engine.add_unary("/etcdserverpb.Cluster/MemberAdd", fails))
    door.run(lambda: door.engine.add_batch("/etcdserverpb.Cluster/MemberRemove", fails_in_a_batch))
    for path in ("/v3/cluster/member/add", "/v3/cluster/member/remove"):
        answer = post(door.port, path)
        assert (answer.status, answer.json()) == (500, refused(13, "internal error"))
    assert [where for where, _ in door.errors] == ["/etcdserverpb.Cluster/MemberAdd", "/etcdserverpb.Cluster/MemberRemove"]
    door.errors.clear()


def test_statuses() -> None:
    wanted = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401]
    assert [http_status(code) for code in GrpcCode] == wanted
    assert http_status(77) == 500


# -- origins and hosts


def test_options_is_answered_for_every_path(door: EtcdDoor) -> None:
    for path in ("/v3/kv/range", "/health", "/nope"):
        answer = get(door.port, path, method="OPTIONS")
        assert (answer.status, answer.headers, answer.body) == (200, (*CORS, ("Content-Length", "0")), b"")
    assert get(door.port, "*", method="OPTIONS").headers == (("Content-Length", "0"),)


def test_origins_that_are_listed_are_told_so() -> None:
    with EtcdDoor(cors=("http://a.example:80", "http://b.example:80")) as door:
        named = get(door.port, "/version", {"Origin": "http://b.example:80"})
        assert named.headers[2] == ("Access-Control-Allow-Origin", "http://b.example:80")
        for headers in ({"Origin": "http://c.example:80"}, {}):
            assert get(door.port, "/version", headers).header("access-control-allow-origin") is None
        assert get(door.port, "/version", {"Origin": "x"}).status == 200  # it is the browser that refuses


def test_hosts_that_are_not_listed_are_refused() -> None:
    with EtcdDoor(hosts=("localhost", "::1")) as door:
        for host in ("localhost", "localhost:2379", "[::1]:2379"):
            assert get(door.port, "/version", host=host).status == 200, host
        for path, method in (("/version", "GET"), ("/v3/kv/range", "POST"), ("/v3/watch", "POST"), ("/x", "OPTIONS")):
            answer = get(door.port, path, method=method, host="evil.example:2379")
            assert answer.status == 421
            assert b'--host-whitelist "evil.example"' in answer.body
            assert answer.header("access-control-allow-origin") is None


# -- streams


def test_a_watch_goes_on_after_its_body(door: EtcdDoor) -> None:
    with HttpPeer(door.port) as peer:
        peer.request("POST", "/v3/watch", b'{"create_request":{"key":"Zm9v"}}')
        assert peer.head().headers == STREAMED
        assert peer.line() == {"result": {"header": header(1), "created": True}}
        post(door.port, "/v3/kv/put", {"key": FOO, "value": "YQ=="})
        kv = {"key": FOO, "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YQ=="}
        assert peer.line() == {"result": {"header": header(2), "events": [{"kv": kv}]}}
        post(door.port, "/v3/kv/deleterange", {"key": FOO})
        assert peer.line() == {"result": {"header": header(3), "events": [{"type": "DELETE", "kv": {"key": FOO, "mod_revision": "3"}}]}}
        assert peer.is_silent(0.1)


def test_several_requests_in_one_body_that_stays_open(door: EtcdDoor) -> None:
    with HttpPeer(door.port) as peer:
        peer.send(b"POST /v3/watch HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert peer.is_silent(0.1)
        peer.chunk(b'{"create_request":{"key":"Zm9v","watch_id":5}}{"create_request":{"key":"Zm9v","prog')
        peer.head()
        assert peer.line()["result"]["watch_id"] == "5"
        peer.chunk(b'ress_notify":true}}\n')
        assert peer.line() == {"result": {"header": header(1), "created": True}}
        assert peer.line() == {"result": {"header": header(1)}}  # progress
        peer.chunk(b'{"cancel_request":{"watch_id":0}}{"progress_request":{}}')
        lines = [peer.line()["result"] for _ in range(2)]
        assert {"header": header(1), "canceled": True} in lines
        assert {"header": header(1), "watch_id": "-1"} in lines


def test_a_compacted_watch(door: EtcdDoor) -> None:
    for value in ("YQ==", "Yg==", "Yw=="):
        post(door.port, "/v3/kv/put", {"key": FOO, "value": value})
    post(door.port, "/v3/kv/compaction", {"revision": 3, "physical": True})
    with HttpPeer(door.port) as peer:
        peer.request("POST", "/v3/watch", b'{"create_request":{"key":"Zm9v","start_revision":"1"}}')
        peer.head()
        assert peer.line()["result"]["created"] is True
        without = {name: value for name, value in header(0).items() if name != "revision"}
        assert peer.line() == {"result": {"header": without, "canceled": True, "compact_revision": "3"}}


def test_a_watch_that_asked_for_nothing_says_nothing(door: EtcdDoor) -> None:
    for body in (b"", b"garbage", b'{"create_req'):
        with HttpPeer(door.port) as peer:
            peer.request("POST", "/v3/watch", body)
            assert peer.is_silent(0.15)


def test_many_requests_in_one_part_of_a_body_take_turns(door: EtcdDoor) -> None:
    """Each is as dear as a call; a quarter of a megabyte of them in one go would hold everything else up."""
    sent: list[int] = []
    whole = Upload.go_on

    def counted(upload: Upload) -> None:
        before = len(sent)
        whole(upload)
        assert len(sent) - before <= MESSAGES_PER_TURN

    def send(stream: LocalStream, message: bytes) -> None:
        sent.append(len(message))
        push(stream, message)

    push = LocalStream.send
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Upload, "go_on", counted)
        patch.setattr(LocalStream, "send", send)
        with HttpPeer(door.port) as peer:
            answer = peer.ask("POST", "/v3/lease/keepalive", b'{"ID":7}' * 1_000)
            assert len(answer.body.splitlines()) == 1_000
    assert len(sent) == 1_000


def test_garbage_behind_a_watch_does_not_end_it(door: EtcdDoor) -> None:
    with HttpPeer(door.port) as peer:
        peer.request("POST", "/v3/watch", b'{"create_request":{"key":"Zm9v"}} garbage {"create_request":{"key":"Zm9v"}}')
        peer.head()
        assert peer.line()["result"]["created"] is True
        post(door.port, "/v3/kv/put", {"key": FOO})
        assert "events" in peer.line()["result"]
        assert peer.is_silent(0.1)


def test_watchers_go_with_their_client(door: EtcdDoor) -> None:
    def watchers() -> int:
        return int(door.run(lambda: door.services.watch.hub.watcher_count))

    for half in (False, True):
        with HttpPeer(door.port) as peer:
            peer.request("POST", "/v3/watch", b'{"create_request":{"key":"Zm9v"}}')
            peer.head()
            peer.line()
            assert watchers() == 1
            if half:
                peer.half_close()  # which is how Go sees a client go
                assert peer.is_closed()
        deadline = time.monotonic() + 5
        while watchers() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert watchers() == 0


def test_keep_alives_end_with_their_body(door: EtcdDoor) -> None:
    post(door.port, "/v3/lease/grant", {"ID": 7, "TTL": 60})
    with HttpPeer(door.port) as peer:
        answer = peer.ask("POST", "/v3/lease/keepalive", b'{"ID":"7"}{"ID":8}')
        assert answer.headers == STREAMED
        assert [json.loads(line) for line in answer.body.splitlines()] == [
            {"result": {"header": header(1), "ID": "7", "TTL": "60"}},
            {"result": {"header": header(1), "ID": "8"}},
        ]
        assert peer.ask("POST", "/v3/kv/range", b'{"key":"Zm9v"}').status == 200  # the connection goes on
        empty = peer.ask("POST", "/v3/lease/keepalive")
        assert (empty.status, empty.headers, empty.body) == (200, (*CORS, ("Transfer-Encoding", "chunked")), b"")
    cut_off = post(door.port, "/v3/lease/keepalive", b'{"ID":7}garbage')
    assert (cut_off.status, len(cut_off.body.splitlines())) == (200, 1)


def test_keep_alives_one_by_one(door: EtcdDoor) -> None:
    post(door.port, "/v3/lease/grant", {"ID": 7, "TTL": 60})
    with HttpPeer(door.port) as peer:
        peer.send(b"POST /v3/lease/keepalive HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            peer.chunk(b'{"ID":7}\n')
            if not number:
                peer.head()
            assert peer.line()["result"]["TTL"] == "60"
        peer.send(b"0\r\n\r\n")
        assert peer.next_chunk() == b""


def test_a_client_that_does_not_read_stops_its_watch(door: EtcdDoor) -> None:
    value = base64.b64encode(bytes(200_000)).decode()
    with HttpPeer(door.port) as peer:
        peer.request("POST", "/v3/watch", b'{"create_request":{"key":"Zm9v"}}')
        peer.head()
        peer.line()
        for _ in range(100):
            post(door.port, "/v3/kv/put", {"key": FOO, "value": value})
        assert door.engine.counters()["buffered_bytes"] < 4 * MIB
        seen = 0
        while seen < 100:
            seen += len(peer.line()["result"]["events"])
        assert seen == 100


def test_a_stream_to_http_1_0_ends_with_its_connection(door: EtcdDoor) -> None:
    with HttpPeer(door.port) as peer:
        peer.send(b"POST /v3/lease/keepalive HTTP/1.0\r\nHost: a\r\nContent-Length: 8\r\n\r\n" + b'{"ID":7}')
        head = peer.head()
        assert head.header("transfer-encoding") is None
        assert peer.is_closed_behind(b'{"result":{"header":')


def test_streams_end_when_the_server_stops(door: EtcdDoor) -> None:
    with HttpPeer(door.port) as peer:
        peer.request("POST", "/v3/watch", b'{"create_request":{"key":"Zm9v"}}')
        peer.head()
        peer.line()
        door.run(door.engine.end_streams)
        error = peer.line()["error"]
        assert (error["code"], error["http_status"], error["message"]) == (14, "Service Unavailable", "server is shutting down")
        assert peer.next_chunk() == b""
    late = post(door.port, "/v3/watch", b'{"create_request":{}}')
    assert (late.status, late.json()["error"]["code"]) == (503, 14)


def test_a_call_that_waits_is_told_when_the_server_stops(door: EtcdDoor) -> None:
    async def waits(call: Any, message: bytes) -> bytes:
        await asyncio.sleep(60)
        return b""

    door.run(lambda: door.engine.add_unary("/etcdserverpb.Cluster/MemberAdd", waits))
    with HttpPeer(door.port) as peer:
        peer.request("POST", "/v3/cluster/member/add")
        assert peer.is_silent(0.1)
        asyncio.run_coroutine_threadsafe(door.engine.drain(50), door.loop).result(10)
        answer = peer.answer()
        assert (answer.status, answer.json()) == (503, refused(14, "server is shutting down"))
        assert answer.header("connection") == "close"
        assert peer.is_closed()


def test_too_much_json_for_one_message_of_a_stream(door: EtcdDoor) -> None:
    with HttpPeer(door.port) as peer:
        peer.send(b"POST /v3/watch HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(5):
            peer.chunk(b'{"x":"' + b"a" * MIB if not _ else b"a" * MIB)
        assert peer.head().status == 429
        assert peer.line()["error"]["code"] == 8


# -- who asks


def test_tokens_over_http(door: EtcdDoor) -> None:
    def told(path: str, body: dict[str, Any], token: str | None = None) -> tuple[int, Any]:
        answer = post(door.port, path, body, {} if token is None else {"Authorization": token})
        return answer.status, answer.json()

    name = base64.b64encode(b"f").decode()
    for path, body in (
        ("/v3/auth/user/add", {"name": "root", "password": "pw"}),
        ("/v3/auth/role/add", {"name": "root"}),
        ("/v3/auth/user/grant", {"user": "root", "role": "root"}),
        ("/v3/auth/user/add", {"name": "reader", "password": "pw"}),
        ("/v3/auth/role/add", {"name": "reads"}),
        ("/v3/auth/role/grant", {"name": "reads", "perm": {"permType": "READ", "key": name, "range_end": "Zw=="}}),
        ("/v3/auth/user/grant", {"user": "reader", "role": "reads"}),
        ("/v3/auth/enable", {}),
    ):
        assert told(path, body)[0] == 200, path
    assert told("/v3/kv/range", {"key": FOO}) == (400, refused(3, "etcdserver: user name is empty"))
    status, wrong = told("/v3/kv/range", {"key": FOO}, "nonsense")
    assert (status, wrong) == (401, refused(16, "etcdserver: invalid auth token"))
    challenge = post(door.port, "/v3/kv/range", {"key": FOO}, {"Authorization": "nonsense"}).header("www-authenticate")
    assert challenge == "etcdserver: invalid auth token"
    token = told("/v3/auth/authenticate", {"name": "reader", "password": "pw"})[1]["token"]
    for shown in (token, f"Bearer {token}"):
        assert told("/v3/kv/range", {"key": FOO}, shown)[0] == 200
        assert told("/v3/kv/put", {"key": FOO}, shown) == (403, refused(7, "etcdserver: permission denied"))
        assert told("/v3/auth/user/list", {}, shown) == (403, refused(7, "etcdserver: permission denied"))
    with HttpPeer(door.port) as peer:
        peer.request("POST", "/v3/watch", b'{"create_request":{"key":"Zm9v"}}{"create_request":{"key":"YQ=="}}', {"Authorization": token})
        peer.head()
        results = [peer.line()["result"] for _ in range(2)]
        assert results[0]["created"] is True
        assert results[1]["canceled"] is True
        assert results[1]["cancel_reason"] == "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    assert get(door.port, "/health").json() == {"health": "true", "reason": ""}  # needs nobody
