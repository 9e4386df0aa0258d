"""HTTP over HTTP/2 beside a real etcd 3.7, through TLS, where the type of the content tells it from gRPC, and in clear text.

What differs on purpose: in clear text etcd has gRPC alone on HTTP/2 and refuses all else with 415; here only what names a gRPC service is
refused so. A path below /v3/ with a type that only begins like gRPC's is the gateway's in etcd, gRPC's to refuse here. What the gateway of
etcd says about its own call (`grpc-metadata-…` but for the content type) is not said.
"""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_gateway_differential import BODIES, PAGES, STORY, told

from raftsched.security.tls import server_context
from raftsched.testing.authority import Authority
from raftsched.testing.door import FixedGuard
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.http2_peer import Http2Peer
from raftsched.testing.http_peer import Answered
from raftsched.testing.lone_node import EtcdDoor
from raftsched.testing.process import free_ports

pytestmark = pytest.mark.process
CURL = shutil.which("curl")
WATCH = b'{"create_request":{"key":"Zm9v"}}'
FOO = base64.b64encode(b"foo").decode()
REFUSED_STREAM = 7


class Ports(NamedTuple):
    plain: int
    secure: int


class Sides(NamedTuple):
    ours: Ports
    judge: Ports


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.issue("server")
    return made


@pytest.fixture(scope="module")
def sides(authority: Authority, tmp_path_factory: pytest.TempPathFactory, etcd_program: Path) -> Iterator[Sides]:
    judge = RealEtcd(tmp_path_factory.mktemp("judge"), etcd_program)
    files = [f"--cert-file={authority.path('server.crt')}", f"--key-file={authority.path('server.key')}"]
    (secure,) = free_ports(1)
    judge.add_flags([*files, f"--listen-client-urls=http://{judge.address},https://127.0.0.1:{secure}"])
    guard = FixedGuard(server_context(authority.path("server.crt"), authority.path("server.key")))
    with EtcdDoor(guard=guard) as ours, judge:
        yield Sides(Ports(ours.port, ours.port), Ports(judge.port, secure))
        assert ours.errors == []


def peer_of(side: Ports, authority: Authority | None) -> Http2Peer:
    """With `authority` through TLS."""
    if authority is None:
        return Http2Peer(side.plain)
    return Http2Peer(side.secure, context=authority.client_context(alpn=("h2", "http/1.1")))


def both(sides: Sides, authority: Authority, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[Answered, Answered]:
    answers = []
    for side in sides:
        with peer_of(side, authority) as peer:
            answers.append(peer.ask(method, path, body, {"content-type": kind} if kind else None))
    return answers[0], answers[1]


def compare(sides: Sides, authority: Authority, method: str, path: str, body: bytes = b"", kind: str = "") -> None:
    ours, judge = both(sides, authority, method, path, body, kind)
    assert told(ours, judge=False) == told(judge, judge=True), (method, path, body)


def test_pages(sides: Sides, authority: Authority) -> None:
    for method, path in PAGES:
        ours, judge = both(sides, authority, method, path)
        if "verbose" in path:  # a Go map has no order
            ours, judge = (one._replace(body=b"".join(sorted(one.body.splitlines()))) for one in (ours, judge))
        assert told(ours, judge=False) == told(judge, judge=True), (method, path)


def test_a_story(sides: Sides, authority: Authority) -> None:
    for path, body in STORY:
        compare(sides, authority, "POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), "application/json")


def test_bodies(sides: Sides, authority: Authority) -> None:
    for body in BODIES[::5]:
        compare(sides, authority, "POST", "/v3/kv/range", body)


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("POST", "/etcdserverpb.KV/Range", "application/json", 404),
        ("POST", "/etcdserverpb.KV/Range", "", 404),
        ("POST", "/etcdserverpb.KV/Nope", "text/plain", 404),
        ("GET", "/etcdserverpb.KV/Range", "", 404),
        ("POST", "/etcdserverpb.KV/Range", "application/grpc", 200),
        ("POST", "/nope", "application/grpc", 200),
        ("POST", "/nope", "application/grpc-web", 415),
        ("POST", "/etcdserverpb.KV/Range", "application/grpcx", 415),
        ("GET", "/health", "application/grpc", 405),
        ("GET", "/health", "application/json", 200),
    ],
)
def test_through_tls_the_type_decides(sides: Sides, authority: Authority, method: str, path: str, kind: str, status: int) -> None:
    ours, judge = both(sides, authority, method, path, b"" if method == "GET" else b"\0\0\0\0\0", kind)
    assert (ours.status, judge.status) == (status, status)
    if "grpc" not in kind:
        assert told(ours, judge=False) == told(judge, judge=True)
    elif status == 200:
        assert ours.header("content-type") == judge.header("content-type") == "application/grpc"


@pytest.mark.parametrize(
    ("path", "kind", "same"),
    [
        ("/etcdserverpb.KV/Range", "application/json", True),
        ("/etcdserverpb.KV/Nope", "", True),
        ("/v3/kv/range", "application/grpc-web", True),
        ("/v3/kv/range", "application/json", False),
        ("/health", "", False),
    ],
)
def test_in_clear_text_etcd_has_grpc_alone(sides: Sides, path: str, kind: str, same: bool) -> None:
    answers = []
    for side in sides:
        with peer_of(side, None) as peer:
            answers.append(peer.ask("POST", path, b"{}", {"content-type": kind} if kind else None))
    ours, judge = answers
    assert judge.status == 415
    assert (ours == judge) is same
    assert same or ours.status in (400, 405)


def events_of(peer: Http2Peer, watch: int, count: int) -> list[Any]:
    return [[event["kv"]["value"] for event in peer.line(watch)["result"]["events"]] for _ in range(count)]


def test_watches(sides: Sides, authority: Authority) -> None:
    """A body that stays open, answers meanwhile, a watch that outlives its body, and other requests beside it."""
    for side in sides:
        with peer_of(side, authority) as peer:
            watch = peer.request("POST", "/v3/watch", WATCH, end=False)
            assert peer.line(watch)["result"]["created"] is True
            peer.send(watch, b'{"create_request":{"key":"Zm9v","watch_id":"5"}}', end=True)
            assert peer.line(watch)["result"] | {"header": 0} == {"header": 0, "watch_id": "5", "created": True}
            put = peer.ask("POST", "/v3/kv/put", json.dumps({"key": FOO, "value": "YQ=="}).encode())
            assert put.status == 200
            assert events_of(peer, watch, 2) == [["YQ=="]] * 2
            assert peer.head(watch).header("content-type") == "application/json"
            peer.reset(watch)
            assert peer.ask("GET", "/version").status == 200
            ended = peer.request("POST", "/v3/lease/keepalive", b'{"ID":"8"}{"ID":"9"}')
            assert [peer.line(ended)["result"]["ID"] for _ in range(2)] == ["8", "9"]
            assert peer.is_over(ended)
            refused = peer.ask("POST", "/v3/election/observe", b"{")
            assert (refused.status, refused.json()["message"]) == (400, "unexpected EOF")


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_curl(sides: Sides, authority: Authority) -> None:
    for side in sides:
        for flag, version in (("--http2", "2"), ("--http1.1", "1.1")):
            command = [CURL or "", "-sS", "-m", "10", "--cacert", authority.path("ca.crt"), flag, "-w", " %{http_version} %{http_code}"]
            for words, told_by in (
                (["/health"], '{"health":"true","reason":""}'),
                (["/v3/kv/put", "-d", '{"key":"Zm9v"}'], None),
                (["/v3/kv/range", "-d", "{}", "-H", "content-type: application/json"], None),
            ):
                url = f"https://localhost:{side.secure}{words[0]}"
                answer = subprocess.run([*command, url, *words[1:]], capture_output=True, text=True, timeout=20, check=True).stdout
                assert answer.endswith(f" {version} {400 if 'range' in words[0] else 200}")
                assert told_by is None or answer.startswith(told_by)
