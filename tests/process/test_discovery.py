"""Members of a new cluster that find each other: through the registry of another `raftsched etcd`, or by SRV records."""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from raftsched.pb.etcd.rpc_pb2 import (
    AuthEnableRequest,
    AuthRoleAddRequest,
    AuthUserAddRequest,
    AuthUserGrantRoleRequest,
    MemberListRequest,
    PutRequest,
)
from raftsched.pb.etcd.rpc_pb2_grpc import AuthStub, ClusterStub, KVStub
from raftsched.testing.authority import Authority
from raftsched.testing.dns_server import DnsServer
from raftsched.testing.etcd_command import OURS, READY, Member, run

pytestmark = pytest.mark.process
TOKEN = "--discovery-token=t"


@contextmanager
def members(directory: Path, *names: str) -> Iterator[list[Member]]:
    """Not started yet, and without an initial cluster."""
    with ExitStack() as stack:
        made = [stack.enter_context(Member(directory, name)) for name in names]
        for member in made:
            member.cluster = ""
        yield made


def put_size(service: Member, size: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{service.client_port}") as channel:
        KVStub(channel).Put(PutRequest(key=b"/_etcd/registry/t/_config/size", value=str(size).encode()), timeout=20)


def together(made: list[Member]) -> None:
    """All are ready and members of one cluster, by their names."""
    for member in made:
        member.wait_for(READY)
    with grpc.insecure_channel(f"127.0.0.1:{made[0].client_port}") as channel:
        listed = ClusterStub(channel).MemberList(MemberListRequest(linearizable=True), timeout=20).members
    assert {(one.name, one.peerURLs[0]) for one in listed} == {(member.name, member.peer) for member in made}


def test_three_find_each_other_and_a_fourth_is_late(tmp_path: Path) -> None:
    with Member(tmp_path, "service") as service, members(tmp_path, "m1", "m2", "m3", "m4") as (*three, late):
        put_size(service.start(), 3)
        dead = "http://127.0.0.1:1"  # is passed over
        flags = (TOKEN, f"--discovery-endpoints={dead},{service.client}")
        for member in three:
            member.start(*flags, wait=False)
        together(three)
        assert len(three[0].lines("discovery joined cluster successfully")) == 1
        late.start(*flags, wait=False)
        assert late.wait() == 1
        assert late.lines("discovery failed to join cluster")[0]["error"] == "discovery: cluster is full"
        (told,) = late.lines("failed to bootstrap; discovery token was already used")
        assert told["error"] == "failed to join discovery cluster (discovery: cluster is full)"
        assert (told["discovery-token"], told["discovery-endpoints"]) == ("t", [dead, service.client])
        service.close()  # who has data asks nobody
        three[0].stop(signal.SIGTERM)
        three[0].start(*flags)
        assert len(three[0].lines("discovery token is ignored since cluster already initialized; valid logs are found")) == 1


def test_a_service_that_is_not_there(tmp_path: Path) -> None:
    """As in etcd: without a user it is asked again for ever, with one the start ends."""
    flags = ("--discovery-endpoints=127.0.0.1:1", TOKEN, "--discovery-request-timeout=200ms", "--discovery-dial-timeout=200ms")
    done = run(OURS, [*flags, "--discovery-user=u", "--discovery-password=p"], tmp_path)
    assert done.returncode == 1
    assert '"error":"failed to join discovery cluster (context deadline exceeded)"' in done.stderr
    assert "Traceback" not in done.stderr
    with members(tmp_path, "m1") as (member,):
        member.start(*flags, wait=False)
        member.wait_for("retry connecting to discovery service")
        assert member.lines("failed to get cluster size from discovery service")[0]["error"] == "context deadline exceeded"
        assert member.stop(signal.SIGTERM) == -signal.SIGTERM


def test_a_service_with_tls_and_users(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    authority.issue("service")
    authority.issue("member")
    tls = (f"--cert-file={authority.path('service.crt')}", f"--key-file={authority.path('service.key')}")
    trust = (f"--trusted-ca-file={authority.path('ca.crt')}", "--client-cert-auth")
    with Member(tmp_path, "service") as service, members(tmp_path, "m1") as (member,):
        put_size(service.start(), 1)
        with grpc.insecure_channel(f"127.0.0.1:{service.client_port}") as channel:
            auth = AuthStub(channel)
            auth.UserAdd(AuthUserAddRequest(name="root", password="secret"), timeout=20)
            auth.RoleAdd(AuthRoleAddRequest(name="root"), timeout=20)
            auth.UserGrantRole(AuthUserGrantRoleRequest(user="root", role="root"), timeout=20)
            auth.AuthEnable(AuthEnableRequest(), timeout=20)
        service.stop(signal.SIGTERM)
        service.client = service.client.replace("http://", "https://")
        service.start(*tls, *trust)
        files = [f"--discovery-{name}={authority.path(file)}" for name, file in (("cert", "member.crt"), ("key", "member.key"))]
        user = ("--discovery-user=root", "--discovery-password=secret")
        wrong = [*member.flags, TOKEN, f"--discovery-endpoints={service.client}", *files, *user[:1], "--discovery-password=x"]
        done = run(OURS, [*wrong, f"--discovery-cacert={authority.path('ca.crt')}"], tmp_path)
        assert done.returncode == 1
        assert "authentication failed, invalid user ID or password" in done.stderr
        plain = f"127.0.0.1:{service.client_port}"  # files alone ask for TLS, too
        member.start(TOKEN, f"--discovery-endpoints={plain}", *files, *user, f"--discovery-cacert={authority.path('ca.crt')}")
        together([member])


def test_three_find_each_other_by_their_records(tmp_path: Path) -> None:
    with members(tmp_path, "m1", "m2", "m3") as three:
        for member in three:
            member.peer = member.peer.replace("127.0.0.1", "localhost")
        records = [f"0 0 {member.peer_port} localhost." for member in three]
        with DnsServer({"_etcd-server._tcp.x.example.": ("SRV", records)}) as server:
            program = (
                "import functools, sys, raftsched.cli.srv as srv; from raftsched.cli.etcd import etcd; "
                f"srv.Dns = functools.partial(srv.Dns, [{server.address!r}]); sys.exit(etcd(sys.argv[1:]))"
            )
            for member in three:
                member.program = (sys.executable, "-c", program)
                member.start("--discovery-srv=x.example", wait=False)
            together(three)
            assert len(three[0].lines("got bootstrap from DNS for etcd-server")) == 3


def test_a_domain_without_records(tmp_path: Path) -> None:
    done = run(OURS, ["--discovery-srv=nothing.invalid"], tmp_path)
    assert done.returncode == 1
    assert "error setting up initial cluster: error querying DNS SRV records for _etcd-server-ssl lookup" in done.stderr
    assert "Traceback" not in done.stderr
