"""The gateway through TLS: unary calls, streams and WebSockets over HTTP/1.1, the same over HTTP/2, and how such connections end."""

import base64
import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from raftsched import limits
from raftsched.rpc.http2.http1 import LINGER_S
from raftsched.security.tls import server_context
from raftsched.testing.authority import Authority
from raftsched.testing.door import FixedGuard
from raftsched.testing.http2_peer import Http2Peer
from raftsched.testing.http_peer import HttpPeer, WebSocketPeer, masked
from raftsched.testing.lone_node import EtcdDoor

FOO = "Zm9v"
WATCH = b'{"create_request":{"key":"Zm9v"}}'
PUT = json.dumps({"key": FOO, "value": "YQ=="}).encode()
CN_REFUSED = b"CommonName of client sending a request against gateway will be ignored and not used as expected\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    for name in ("server", "client"):
        made.issue(name)
    return made


def guard_of(authority: Authority, **options: Any) -> FixedGuard:
    return FixedGuard(server_context(authority.path("server.crt"), authority.path("server.key"), **options))


def serve(authority: Authority, **options: Any) -> Iterator[EtcdDoor]:
    with EtcdDoor(progress_interval_ms=150, **options) as door:
        yield door
        assert door.errors == []
        until(lambda: len(door.engine.local) == 0 and door.run(door.engine.counters)["connections"] == 0)
        left = door.run(door.engine.counters)
        assert (left["streams_live"], left["bodies_bytes"], left["buffered_bytes"]) == (0, 0, 0)


@pytest.fixture
def door(authority: Authority) -> Iterator[EtcdDoor]:
    yield from serve(authority, guard=guard_of(authority))


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS1.2", "TLS1.3"])
def context(authority: Authority, request: pytest.FixtureRequest) -> ssl.SSLContext:
    return authority.client_context(version=request.param)


def until(condition: Any, timeout_s: float = 10) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < timeout_s
        time.sleep(0.01)


# -- what is served


def test_unary_calls(door: EtcdDoor, context: ssl.SSLContext) -> None:
    with HttpPeer(door.port, context=context) as peer:
        for number in range(2, 5):
            assert peer.ask("POST", "/v3/kv/put", PUT).json()["header"]["revision"] == str(number)
        answer = peer.ask("POST", "/v3/kv/range", b"{}")
        assert (answer.status, answer.json()["message"]) == (400, "etcdserver: key is not provided")
        assert peer.ask("GET", "/health").json() == {"health": "true", "reason": ""}
        large = peer.ask("POST", "/v3/kv/put", json.dumps({"key": FOO, "value": "YWFh" * 300_000}).encode())
        assert large.status == 200
        assert len(peer.ask("POST", "/v3/kv/range", b'{"key":"Zm9v"}').json()["kvs"][0]["value"]) == 1_200_000


def test_a_watch(door: EtcdDoor, context: ssl.SSLContext) -> None:
    with HttpPeer(door.port, context=context) as watch, HttpPeer(door.port, context=context) as other:
        watch.request("POST", "/v3/watch", WATCH)
        assert watch.head().status == 200
        assert watch.line()["result"]["created"] is True
        for _ in range(3):
            other.ask("POST", "/v3/kv/put", PUT)
            assert watch.line()["result"]["events"][0]["kv"]["value"] == "YQ=="
    until(lambda: len(door.engine.local) == 0)


def test_a_watch_whose_body_stays_open(door: EtcdDoor, context: ssl.SSLContext) -> None:
    with HttpPeer(door.port, context=context) as peer:
        peer.send(b"POST /v3/watch HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer.chunk(WATCH)
        assert peer.head().status == 200
        assert peer.line()["result"]["created"] is True
        peer.chunk(b'{"progress_request":{}}')
        assert peer.line()["result"]["header"]["revision"] == "1"


def test_a_websocket(door: EtcdDoor, context: ssl.SSLContext) -> None:
    with WebSocketPeer(door.port, context=context) as peer:
        assert peer.open("/v3/watch").status == 101
        peer.send(masked(1, WATCH))
        assert peer.message()["result"]["created"] is True
        with HttpPeer(door.port, context=context) as other:
            other.ask("POST", "/v3/kv/put", PUT)
        assert peer.message()["result"]["events"][0]["kv"]["key"] == FOO
        peer.send(masked(9, b"there?"))
        assert peer.frame() == (10, b"there?")
        peer.send(masked(8, b"\x03\xe8"))
        assert peer.frame() == (8, b"\x03\xe8")
        assert peer.is_closed()


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_a_client_that_does_not_read_stops_its_watch(door: EtcdDoor, authority: Authority, version: str) -> None:
    body = json.dumps({"key": FOO, "value": base64.b64encode(bytes(200_000)).decode()}).encode()
    with HttpPeer(door.port, context=authority.client_context()) as other, contextlib.ExitStack() as stack:
        if version == "HTTP/1.1":
            slow = stack.enter_context(HttpPeer(door.port, context=authority.client_context()))
            slow.request("POST", "/v3/watch", WATCH)
            line = slow.line
            assert slow.line_behind_head()["result"]["created"] is True
        else:
            second = stack.enter_context(Http2Peer(door.port, context=authority.client_context(alpn=("h2",))))
            watch = second.request("POST", "/v3/watch", WATCH)
            line = partial(second.line, watch)
            assert line()["result"]["created"] is True
        for _ in range(60):
            assert other.ask("POST", "/v3/kv/put", body).status == 200
        assert door.run(door.engine.counters)["buffered_bytes"] < 4 << 20
        seen = 0
        while seen < 60:
            seen += len(line()["result"]["events"])
        assert seen == 60


def test_all_of_it_over_http2(door: EtcdDoor, authority: Authority) -> None:
    with Http2Peer(door.port, context=authority.client_context(alpn=("h2",))) as peer:
        watch = peer.request("POST", "/v3/watch", WATCH, end=False)
        assert peer.line(watch)["result"]["created"] is True
        assert [peer.ask("POST", "/v3/kv/put", PUT).status for _ in range(3)] == [200] * 3
        assert [len(peer.line(watch)["result"]["events"]) for _ in range(3)] == [1] * 3
        peer.reset(watch)
        until(lambda: len(door.engine.local) == 0)
        calls = peer.request("POST", "/v3/lease/keepalive", b'{"ID":"5"}{"ID":"6"}')
        assert [peer.line(calls)["result"]["ID"] for _ in range(2)] == ["5", "6"]
        assert peer.is_over(calls)


def test_http2_in_clear_text(door: EtcdDoor) -> None:
    with Http2Peer(door.port) as peer:
        assert peer.ask("POST", "/v3/kv/put", PUT, {"content-type": "application/json"}).status == 200
        answer = peer.ask("OPTIONS", "/v3/kv/put", headers={"origin": "http://a"})
        assert (answer.status, answer.header("access-control-allow-origin"), answer.body) == (200, "*", b"")
        assert peer.ask("GET", "/v3/kv/put").status == 501
        assert b"\netcd_server_has_leader" in peer.ask("GET", "/metrics").body
        too_large = peer.ask("POST", "/v3/kv/put", json.dumps({"key": FOO, "value": "YWFh" * 700_000}).encode())
        assert (too_large.status, too_large.json()["code"]) == (429, 8)
        deadline = peer.ask("POST", "/v3/lock/lock", b'{"name":"YQ=="}', {"grpc-timeout": "1n"})
        assert deadline.status in (200, 504)  # one nanosecond is a limit, and a lock may still be had at once


def test_hosts_are_looked_at_in_clear_text_alone(authority: Authority) -> None:
    for door in serve(authority, guard=guard_of(authority), hosts=("localhost",)):
        with Http2Peer(door.port) as plain, Http2Peer(door.port, context=authority.client_context(alpn=("h2",))) as secure:
            assert [one.ask("GET", "/version", host="evil.example").status for one in (plain, secure)] == [421, 200]
            assert [one.ask("GET", "/version", host="localhost:1").status for one in (plain, secure)] == [200, 200]


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_a_certificate_is_no_user_of_the_gateway(authority: Authority, version: str) -> None:
    """As etcd: where it would be one for gRPC, the gateway refuses it; elsewhere it is not looked at."""
    users: list[str] = ["client"]
    guard = guard_of(authority, client_ca=authority.path("ca.crt"))
    peer_class: Any = HttpPeer if version == "HTTP/1.1" else Http2Peer
    alpn = ("http/1.1",) if version == "HTTP/1.1" else ("h2",)
    for door in serve(authority, guard=guard, names_users=lambda: bool(users)):
        with (
            peer_class(door.port, context=authority.client_context("client", alpn=alpn)) as shown,
            peer_class(door.port, context=authority.client_context(alpn=alpn)) as hidden,
            peer_class(door.port) as plain,
        ):
            answer = shown.ask("POST", "/v3/kv/put", PUT)
            assert (answer.status, answer.body, answer.header("access-control-allow-origin")) == (400, CN_REFUSED, None)
            assert [one.ask("POST", "/v3/kv/put", PUT).status for one in (hidden, plain)] == [200, 200]
            assert shown.ask("GET", "/health").status == 200
            assert shown.ask("POST", "/v3/nope").status == 400  # a path below /v3/ is the gateway's
            users.clear()
            assert shown.ask("POST", "/v3/kv/put", PUT).status == 200


# -- how connections end


def test_an_answer_before_the_end_of_its_body_arrives(door: EtcdDoor, context: ssl.SSLContext) -> None:
    """Announced as over by TLS, half-closed, and what the client still sends is thrown away for a moment."""
    body_max = limits.GATEWAY_BODY_BYTES_MAX * 4
    with HttpPeer(door.port, context=context) as peer:
        begin = time.monotonic()
        peer.send(b"POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % body_max)
        for _ in range(4):
            peer.send(bytes(100_000))
        answer = peer.answer()
        assert (answer.status, answer.json()["code"], answer.header("connection")) == (429, 8, "close")
        assert peer.is_closed()  # an end that TLS announces: no ragged one
        assert time.monotonic() - begin < LINGER_S + 2
        with contextlib.suppress(OSError):  # still taken, or reset a little later
            peer.send(bytes(100_000))
    until(lambda: door.run(door.engine.counters)["connections"] == 0)


def test_a_client_that_never_stops_sending_is_cut_off(door: EtcdDoor, context: ssl.SSLContext) -> None:
    with HttpPeer(door.port, context=context) as peer:
        peer.send(b"POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n")
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - begin < 20:
                peer.send(bytes(10_000))
                time.sleep(0.005)
        assert LINGER_S * 0.5 < time.monotonic() - begin < LINGER_S + 5


def test_more_of_a_body_in_the_same_read_does_not_cost_the_answer(door: EtcdDoor, context: ssl.SSLContext) -> None:
    """The door says that it is over in the middle of what it decrypts."""
    for _ in range(5):
        with HttpPeer(door.port, context=context) as peer:
            raw = peer._socket
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            peer.send(b"POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n")
            for _ in range(4):
                peer.send(bytes(16_000))
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
            time.sleep(0.02)
            peer.send(bytes(16_000))  # a reset would come back for this, and the answer be gone
            time.sleep(0.02)
            assert peer.answer().status == 429
            assert peer.is_closed()


def test_garbage_behind_tls_is_told(door: EtcdDoor, context: ssl.SSLContext) -> None:
    for request, status in ((b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505), (b"GET\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n\r\n", 400)):
        with HttpPeer(door.port, context=context) as peer:
            peer.send(request)
            assert peer.answer().status == status
            assert peer.is_closed()


def test_a_stream_ends_with_its_client(door: EtcdDoor, context: ssl.SSLContext) -> None:
    """By an end that TLS announces, by one without it, and by a reset."""
    for how in ("announced", "bare", "reset"):
        with HttpPeer(door.port, context=context) as watch:
            watch.request("POST", "/v3/watch", WATCH)
            assert watch.line_behind_head()["result"]["created"] is True
            raw = watch._socket
            assert isinstance(raw, ssl.SSLSocket)
            if how == "announced":
                raw.setblocking(False)
                with contextlib.suppress(ssl.SSLWantReadError):
                    raw.unwrap()
            elif how == "reset":
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                raw.close()
            else:
                raw.shutdown(socket.SHUT_WR)
            until(lambda: len(door.engine.local) == 0)


def test_the_server_stops_under_streams(authority: Authority) -> None:
    """Each is told, over either version, and nobody is left waiting."""
    made = serve(authority, guard=guard_of(authority))
    door = next(made)
    with (
        HttpPeer(door.port, context=authority.client_context()) as first,
        Http2Peer(door.port, context=authority.client_context(alpn=("h2",))) as second,
    ):
        first.request("POST", "/v3/watch", WATCH)
        assert first.line_behind_head()["result"]["created"] is True
        stream = second.request("POST", "/v3/watch", WATCH)
        assert second.line(stream)["result"]["created"] is True
        door.run(door.engine.end_streams)
        assert first.line()["error"]["code"] == 14
        assert first.next_chunk() == b""
        assert second.line(stream)["error"]["code"] == 14
        assert second.is_over(stream)
        late = second.ask("POST", "/v3/watch", WATCH)
        assert (late.status, late.json()["error"]["code"]) == (503, 14)
    with contextlib.suppress(StopIteration):
        next(made)
