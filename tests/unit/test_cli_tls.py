"""`raftsched member` and `raftsched snapshot save` over TLS, with etcdctl's options, against gRPC's own server."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftsched.cli.app import run
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.testing.authority import Authority

DATABASE = b"database" * 64


class Cluster(stubs.ClusterServicer):
    def MemberList(self, request: pb.MemberListRequest, context: Any) -> pb.MemberListResponse:
        return pb.MemberListResponse(members=[pb.Member(ID=7, name="one")])


class Maintenance(stubs.MaintenanceServicer):
    def Snapshot(self, request: pb.SnapshotRequest, context: Any) -> Iterator[pb.SnapshotResponse]:
        yield pb.SnapshotResponse(blob=DATABASE + hashlib.sha256(DATABASE).digest())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "authority")
    for name in ("server", "client"):
        made.issue(name)
    made.issue("elsewhere", "elsewhere.example")
    return made


def serve(authority: Authority, name: str, *, client_auth: bool = False) -> tuple[grpc.Server, str]:
    key, cert, roots = (Path(authority.path(one)).read_bytes() for one in (f"{name}.key", f"{name}.crt", "ca.crt"))
    server = grpc.server(ThreadPoolExecutor(2))
    stubs.add_ClusterServicer_to_server(Cluster(), server)  # type: ignore[no-untyped-call]
    stubs.add_MaintenanceServicer_to_server(Maintenance(), server)  # type: ignore[no-untyped-call]
    credentials = grpc.ssl_server_credentials([(key, cert)], roots if client_auth else None, client_auth)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, f"127.0.0.1:{port}"


def listed(address: str, *options: str) -> int:
    return run(["member", *options, "list", "--address", address, "--timeout", "5"])


def test_members_over_tls(authority: Authority, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    server, address = serve(authority, "server")
    try:
        assert listed(address, "--cacert", authority.path("ca.crt")) == 0
        assert listed("https://" + address, "--cacert", authority.path("ca.crt")) == 0
        assert listed("https://" + address, "--insecure-skip-tls-verify") == 0
        assert capsys.readouterr().out.count("one") == 3
        assert listed("https://" + address) == 1, "nobody here believes that authority"
        assert listed(address) == 1, "no TLS was asked for"
        monkeypatch.setenv("RAFTSCHED_ETCD_CACERT", authority.path("ca.crt"))
        assert listed(address) == 0
    finally:
        server.stop(0).wait()


def test_who_shows_a_certificate_is_let_in(authority: Authority, tmp_path: Path) -> None:
    server, address = serve(authority, "server", client_auth=True)
    own = ["--cert", authority.path("client.crt"), "--key", authority.path("client.key")]
    try:
        assert listed(address, "--cacert", authority.path("ca.crt")) == 1
        assert listed(address, "--cacert", authority.path("ca.crt"), *own) == 0
        assert listed(address, "--insecure-skip-tls-verify", *own) == 0
        file = tmp_path / "saved.db"
        assert run(["snapshot", "save", str(file), "--address", address, "--cacert", authority.path("ca.crt"), *own, "--timeout", "9"]) == 0
        assert file.read_bytes() == DATABASE + hashlib.sha256(DATABASE).digest()
    finally:
        server.stop(0).wait()


def test_a_server_of_another_name(authority: Authority) -> None:
    server, address = serve(authority, "elsewhere")
    try:
        assert listed(address, "--cacert", authority.path("ca.crt")) == 1
        assert listed(address, "--insecure-skip-tls-verify") == 0
    finally:
        server.stop(0).wait()


def test_what_is_wrong_is_told(authority: Authority, capsys: pytest.CaptureFixture[str]) -> None:
    for options, address, told in (
        (["--cert", authority.path("client.crt")], "localhost:1", "--cert and --key go together"),
        (["--cacert", "/nowhere"], "localhost:1", "cannot read /nowhere: No such file or directory"),
        (["--insecure-skip-tls-verify"], "127.0.0.1:1", "cannot look at the certificate of 127.0.0.1:1"),
        ([], "ftp://localhost:1", "give host:port, http://host:port or https://host:port"),
    ):
        assert listed(address, *options) != 0
        assert told in capsys.readouterr().err
