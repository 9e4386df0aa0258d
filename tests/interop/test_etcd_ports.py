"""Ports for gRPC and for HTTP alone, the number of streams, shared ports: `raftsched etcd` and a real etcd with the same flags.

What differs on purpose: in clear text a port for HTTP alone speaks HTTP/2 too; etcd closes such a connection.
"""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from raftsched.pb.etcd.rpc_pb2 import RangeRequest
from raftsched.pb.etcd.rpc_pb2_grpc import KVStub
from raftsched.testing.authority import Authority
from raftsched.testing.etcd_command import OURS, Member
from raftsched.testing.http2_peer import Http2Peer
from raftsched.testing.http_peer import HttpPeer
from raftsched.testing.process import free_ports

pytestmark = pytest.mark.process
STREAMS = 3
REFUSED_STREAM = 7
GRPC = {"content-type": "application/grpc", "te": "trailers"}


class Side(NamedTuple):
    """Ports for gRPC alone and for HTTP alone, in clear text and through TLS."""

    member: Member
    grpc: int
    grpc_tls: int
    http: int
    http_tls: int


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.issue("server")
    return made


@pytest.fixture(scope="module", params=["ours", "judge"])
def side(request: pytest.FixtureRequest, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    program: Sequence[str] = OURS if request.param == "ours" else [str(request.getfixturevalue("etcd_program"))]
    ports = free_ports(3)
    with Member(tmp_path_factory.mktemp(request.param), program=program) as member:
        member.start(
            f"--listen-client-urls=http://127.0.0.1:{member.client_port},https://127.0.0.1:{ports[0]}",
            f"--listen-client-http-urls=http://127.0.0.1:{ports[1]},https://127.0.0.1:{ports[2]}",
            f"--cert-file={authority.path('server.crt')}",
            f"--key-file={authority.path('server.key')}",
            f"--max-concurrent-streams={STREAMS}",
            "--socket-reuse-port",
        )
        yield Side(member, member.client_port, *ports)


def test_grpc_alone(side: Side, authority: Authority) -> None:
    secure = grpc.ssl_channel_credentials(Path(authority.path("ca.crt")).read_bytes())
    channels = [grpc.insecure_channel(f"127.0.0.1:{side.grpc}"), grpc.secure_channel(f"localhost:{side.grpc_tls}", secure)]
    for channel in channels:
        with channel:
            assert KVStub(channel).Range(RangeRequest(key=b"a"), timeout=10).header.revision == 1
    for port, context in ((side.grpc, None), (side.grpc_tls, authority.client_context(alpn=("h2",)))):
        with Http2Peer(port, context=context) as peer:
            answer = peer.ask("GET", "/health")
            assert (answer.status, answer.header("grpc-message")) == (415, 'invalid gRPC request content-type ""')
    with HttpPeer(side.grpc) as http1, contextlib.suppress(ConnectionResetError):
        http1.request("GET", "/health")
        assert not http1.is_closed_behind(b"HTTP")


def test_http_alone(side: Side, authority: Authority) -> None:
    with HttpPeer(side.http) as plain, HttpPeer(side.http_tls, context=authority.client_context()) as secure:
        for peer in (plain, secure):
            assert peer.ask("GET", "/health").json() == {"health": "true", "reason": ""}
            assert peer.ask("POST", "/v3/kv/range", b'{"key":"YQ=="}').json()["header"]["revision"] == "1"
    with Http2Peer(side.http_tls, context=authority.client_context(alpn=("h2",))) as peer:
        assert peer.ask("GET", "/health").json() == {"health": "true", "reason": ""}
        grpc_there = peer.ask("POST", "/etcdserverpb.KV/Range", b"\0\0\0\0\0", GRPC)
        assert (grpc_there.status, grpc_there.body) == (404, b"404 page not found\n")


def test_streams_beyond_their_number(side: Side) -> None:
    with Http2Peer(side.grpc) as peer:
        for _ in range(STREAMS - 1):
            peer.request("POST", "/etcdserverpb.Watch/Watch", headers=GRPC, end=False)
        assert peer.ask("POST", "/etcdserverpb.KV/Range", b"\0\0\0\0\0", GRPC).status == 200
        assert peer.streams_max == STREAMS
        peer.streams_max = 100  # a client that does not care
        peer.request("POST", "/etcdserverpb.Watch/Watch", headers=GRPC, end=False)
        over = peer.request("POST", "/etcdserverpb.KV/Range", b"\0\0\0\0\0", GRPC)
        with pytest.raises(ConnectionError, match=f"stream {over} was reset: {REFUSED_STREAM}"):
            peer.answer(over)
        assert list(peer.resets) == [over]


def test_a_port_is_shared(side: Side) -> None:
    for port in (side.grpc, side.http, side.member.peer_port):
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", port))


def test_what_is_said(side: Side) -> None:
    for text in ("serving client traffic insecurely; this is strongly discouraged!", "serving client traffic securely"):
        assert sorted(line["traffic"] for line in side.member.lines(text)) == ["grpc", "http"]


def test_one_address_for_both_is_refused(tmp_path: Path, etcd_program: Path) -> None:
    (port,) = free_ports(1)
    words = []
    for number, program in enumerate((OURS, [str(etcd_program)])):
        with Member(tmp_path / str(number), program=program) as member:
            member.start(f"--listen-client-urls=http://127.0.0.1:{port}", f"--listen-client-http-urls=http://127.0.0.1:{port}", wait=False)
            assert member.wait() == 1
            text = member.log()
            start = text.index("cannot bind both")
            words.append(text[start : text.index(str(port), start)])
    assert words[0] == words[1]
