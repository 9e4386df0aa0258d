"""`raftsched etcd` as a process: start, restart, kill, signals, members, listeners."""

import json
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
import trustme

from raftsched.pb.etcd.rpc_pb2 import (
    AuthEnableRequest,
    AuthenticateRequest,
    AuthRoleAddRequest,
    AuthUserAddRequest,
    AuthUserGrantRoleRequest,
    MemberAddRequest,
    MemberListRequest,
    MemberListResponse,
    MemberPromoteRequest,
    MemberRemoveRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from raftsched.pb.etcd.rpc_pb2_grpc import AuthStub, ClusterStub, KVStub
from raftsched.testing.authority import Authority
from raftsched.testing.etcd_command import OURS, READY, Member, run
from raftsched.testing.process import free_ports

pytestmark = pytest.mark.process


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    with Member(tmp_path) as made:
        yield made


def channel(one: Member) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{one.client_port}")


def put(one: Member, key: str, value: str) -> None:
    with channel(one) as opened:
        KVStub(opened).Put(PutRequest(key=key.encode(), value=value.encode()), timeout=20)


def get(one: Member, key: str) -> str:
    with channel(one) as opened:
        return "".join(pair.value.decode() for pair in KVStub(opened).Range(RangeRequest(key=key.encode()), timeout=20).kvs)


def members(one: Member) -> MemberListResponse:
    with channel(one) as opened:
        return ClusterStub(opened).MemberList(MemberListRequest(linearizable=True), timeout=20)


def test_a_life_with_etcds_lines(member: Member) -> None:
    member.start()
    put(member, "k", "v")
    assert [line["traffic"] for line in member.lines("serving client traffic insecurely; this is strongly discouraged!")] == ["grpc+http"]
    for message in ("Running: ", "Initialize and start etcd server", "starting an etcd server", "now serving peer/client/metrics"):
        assert len(member.lines(message)) == 1, message
    own = members(member)
    assert member.lines("now serving peer/client/metrics")[0]["local-member-id"] == f"{own.header.member_id:x}"
    assert (own.members[0].name, list(own.members[0].clientURLs)) == ("m1", [member.client])
    assert (member.data_dir / "member" / "wal").is_dir()
    assert (member.data_dir / "member" / "snap").is_dir()
    assert json.loads(member.call("/version"))["etcdserver"] == "3.7.1"
    assert member.process is not None
    member.process.send_signal(signal.SIGTERM)
    member.wait_for("closed etcd server")
    assert member.lines("received signal; shutting down")[0]["signal"] == "terminated"
    assert member.wait() == -signal.SIGTERM


def test_a_restart_keeps_data_and_ignores_the_flags_of_a_new_cluster(member: Member) -> None:
    member.start()
    put(member, "k", "v")
    before = members(member)
    assert member.stop(signal.SIGINT) == -signal.SIGINT
    member.cluster, member.state, elsewhere = "other=http://127.0.0.1:1", "existing", free_ports(1)[0]
    member.start(f"--initial-advertise-peer-urls=http://127.0.0.1:{elsewhere}")
    assert len(member.lines("server has already been initialized")) == 1
    assert get(member, "k") == "v"
    assert members(member).members == before.members  # the peer URLs, too: only `member update` changes them
    member.stop(signal.SIGTERM)


def test_what_was_acknowledged_survives_a_kill(member: Member) -> None:
    member.start()
    for number in range(50):
        put(member, f"k{number}", str(number))
    assert member.stop(signal.SIGKILL) == -signal.SIGKILL
    member.start()
    assert [get(member, f"k{number}") for number in range(50)] == [str(number) for number in range(50)]


def test_a_log_of_its_own_and_a_file_for_lines(member: Member, tmp_path: Path) -> None:
    log = tmp_path / "lines.log"
    member.start(f"--wal-dir={tmp_path / 'log'}", f"--log-outputs={log}", "--log-format=console", wait=False)
    end = time.monotonic() + 60
    while READY not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < end, member.log()
        time.sleep(0.1)
    assert list((tmp_path / "log").glob("*.wal"))
    assert not (member.data_dir / "member" / "wal").exists()
    put(member, "k", "v")
    assert member.log() == ""
    assert "\tinfo\t" in log.read_text()
    member.stop(signal.SIGTERM)
    member.start(f"--wal-dir={tmp_path / 'log'}")
    assert get(member, "k") == "v"


def test_sockets_metrics_and_readiness(member: Member, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    path = tmp_path / "n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(path))
        notified.settimeout(30)
        urls = f"{member.client},unix://{tmp_path}/c.sock"
        member.start(
            f"--listen-client-urls={urls}",
            f"--advertise-client-urls={urls}",
            f"--listen-metrics-urls=http://127.0.0.1:{port}",
            "--metrics=extensive",
            env={"NOTIFY_SOCKET": str(path)},
        )
        assert notified.recv(100) == b"READY=1"
    with grpc.insecure_channel(f"unix:{tmp_path}/c.sock") as opened:
        KVStub(opened).Put(PutRequest(key=b"k", value=b"v"), timeout=20)
    assert get(member, "k") == "v"
    assert len(member.lines(READY)) == 2
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert "\netcd_mvcc_put_total 1\n" in text
    assert "grpc_server_handling_seconds_bucket" in text
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
        assert json.loads(answer.read())["health"] == "true"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v3/kv/range", data=b"{}", timeout=10)


def test_limits_are_those_of_the_flags(member: Member) -> None:
    member.start("--max-request-bytes=1000", "--max-txn-ops=1", "--auto-compaction-mode=revision", "--auto-compaction-retention=1")
    with channel(member) as opened, pytest.raises(grpc.RpcError) as caught:
        KVStub(opened).Put(PutRequest(key=b"k", value=bytes(1000)), timeout=20)
    assert caught.value.details() == "etcdserver: request is too large"
    put_of_one = RequestOp(request_put=PutRequest(key=b"k", value=b"v"))
    with channel(member) as opened, pytest.raises(grpc.RpcError) as caught:
        KVStub(opened).Txn(TxnRequest(success=[put_of_one, put_of_one]), timeout=20)
    assert caught.value.details() == "etcdserver: too many operations in txn request"
    with channel(member) as opened:
        assert KVStub(opened).Txn(TxnRequest(success=[put_of_one]), timeout=20).succeeded
    member.stop(signal.SIGTERM)
    member.start("--quota-backend-bytes=1")
    with channel(member) as opened, pytest.raises(grpc.RpcError) as caught:
        KVStub(opened).Put(PutRequest(key=b"k", value=b"v"), timeout=20)
    assert caught.value.details() == "etcdserver: mvcc: database space exceeded"


def test_users(member: Member) -> None:
    member.start("--bcrypt-cost=4", "--auth-token-ttl=60")
    with channel(member) as opened:
        auth = AuthStub(opened)
        auth.UserAdd(AuthUserAddRequest(name="root", password="p"), timeout=20)
        auth.RoleAdd(AuthRoleAddRequest(name="root"), timeout=20)
        auth.UserGrantRole(AuthUserGrantRoleRequest(user="root", role="root"), timeout=20)
        auth.AuthEnable(AuthEnableRequest(), timeout=20)
        token = auth.Authenticate(AuthenticateRequest(name="root", password="p"), timeout=20).token
        KVStub(opened).Put(PutRequest(key=b"k", value=b"v"), timeout=20, metadata=[("token", token)])
        with pytest.raises(grpc.RpcError) as caught:
            KVStub(opened).Put(PutRequest(key=b"k", value=b"v"), timeout=20)
    assert caught.value.details() == "etcdserver: user name is empty"


# -- members


def three(directory: Path, stack: ExitStack) -> list[Member]:
    made = [stack.enter_context(Member(directory, f"m{number}")) for number in (1, 2, 3)]
    for one in made:
        one.cluster = ",".join(f"{other.name}={other.peer}" for other in made)
        one.start(wait=False)
    for one in made:
        one.wait_for(READY)
    return made


def test_three_members_lose_one_and_take_it_back(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, second, third = three(tmp_path, stack)
        put(first, "a", "1")
        assert get(third, "a") == "1"
        assert {one.name for one in members(second).members} == {"m1", "m2", "m3"}
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        put(second, "b", "2")
        first.start()
        assert get(first, "b") == "2"
        assert third.stop(signal.SIGTERM) == -signal.SIGTERM
        put(first, "c", "3")


def test_a_member_that_was_added_joins_and_ends_with_0_when_it_is_removed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(Member(tmp_path, "m1")).start("--strict-reconfig-check=false")
        put(first, "a", "1")
        joining = stack.enter_context(Member(tmp_path, "m2"))
        joining.cluster, joining.state = f"{first.cluster},m2={joining.peer}", "existing"
        joining.start(wait=False)
        assert joining.wait() == 1
        assert "has no member with the URLs" in joining.lines("the member cannot go on")[0]["error"]
        with channel(first) as opened:
            added = ClusterStub(opened).MemberAdd(MemberAddRequest(peerURLs=[joining.peer]), timeout=20).member.ID
        joining.start()
        assert get(joining, "a") == "1"
        assert {one.ID: one.name for one in members(joining).members}[added] == "m2"
        with channel(first) as opened:
            ClusterStub(opened).MemberRemove(MemberRemoveRequest(ID=added), timeout=20)
        assert joining.wait() == 0
        assert len(joining.lines("data-dir used by this member must be removed")) == 1


def test_who_was_added_as_a_learner_stays_one_until_it_is_promoted(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(Member(tmp_path, "m1")).start("--strict-reconfig-check=false")
        joining = stack.enter_context(Member(tmp_path, "m2"))
        joining.cluster, joining.state = f"{first.cluster},m2={joining.peer}", "existing"
        with channel(first) as opened:
            ClusterStub(opened).MemberAdd(MemberAddRequest(peerURLs=[joining.peer], isLearner=True), timeout=20)
        joining.start()
        time.sleep(1)
        second = {one.name: one for one in members(first).members}["m2"]
        assert second.isLearner
        with channel(first) as opened:
            ClusterStub(opened).MemberPromote(MemberPromoteRequest(ID=second.ID), timeout=20)
        assert not {one.ID: one for one in members(joining).members}[second.ID].isLearner
        put(joining, "a", "1")
        assert get(first, "a") == "1"


def test_a_stop_while_it_waits_for_the_others(member: Member) -> None:
    member.cluster += f",m2=http://127.0.0.1:{free_ports(1)[0]},m3=http://127.0.0.1:{free_ports(1)[0]}"
    member.start(wait=False)
    member.wait_for("waiting for members of the new cluster")
    assert member.stop(signal.SIGTERM) == -signal.SIGTERM
    assert READY not in member.log_path.read_text()


@pytest.mark.parametrize(("heartbeat", "election"), [(10, 50), (1000, 50_000)])
def test_the_shortest_and_the_longest_times(member: Member, heartbeat: int, election: int) -> None:
    """A lone member has nobody to wait for."""
    member.start(f"--heartbeat-interval={heartbeat}", f"--election-timeout={election}")
    put(member, "k", "v")
    assert get(member, "k") == "v"


def test_several_peer_urls(tmp_path: Path) -> None:
    """The second of two members knows the first by its second URL alone."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(Member(tmp_path, name)) for name in ("m1", "m2"))
        more = f"http://127.0.0.1:{free_ports(1)[0]}"
        both = f"{first.peer},{more}"
        first.cluster = f"m1={first.peer},m1={more},m2={second.peer}"
        second.cluster = first.cluster
        first.start(f"--listen-peer-urls={both}", f"--initial-advertise-peer-urls={both}", wait=False)
        second.start()
        first.wait_for(READY)
        assert sorted(next(one for one in members(second).members if one.name == "m1").peerURLs) == sorted(both.split(","))
        first.stop(signal.SIGTERM)
        first.start(f"--listen-peer-urls={more}")
        put(first, "k", "v")
        assert get(second, "k") == "v"


def test_members_meet_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    issued = authority.issue_cert("127.0.0.1", common_name="peer")
    issued.private_key_pem.write_to_path(tmp_path / "key")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "crt")
    flags = [f"--peer-cert-file={tmp_path}/crt", f"--peer-key-file={tmp_path}/key", f"--peer-trusted-ca-file={tmp_path}/ca.crt"]
    with ExitStack() as stack:
        pair = [stack.enter_context(Member(tmp_path, name)) for name in ("m1", "m2")]
        for one in pair:
            one.peer = one.peer.replace("http:", "https:")
        for one in pair:
            one.cluster = ",".join(f"{other.name}={other.peer}" for other in pair)
            one.start(*flags, "--peer-client-cert-auth", "--peer-cert-allowed-cn=peer", wait=False)
        for one in pair:
            one.wait_for(READY)
        put(pair[0], "k", "v")
        assert get(pair[1], "k") == "v"
        pair[1].stop(signal.SIGTERM)
        pair[1].start(*flags, "--peer-cert-allowed-cn=other", wait=False)
        pair[1].wait_for("certificate name")
        time.sleep(2)
        assert READY not in pair[1].log()


def test_clients_over_tls(member: Member, tmp_path: Path) -> None:
    """gRPC, JSON and metrics; a client without a certificate of the authority hears nothing."""
    authority = Authority(tmp_path / "tls")
    authority.issue("server")
    authority.issue("client")
    member.client = member.client.replace("http:", "https:")
    metrics = f"https://127.0.0.1:{free_ports(1)[0]}"
    files = [f"--cert-file={authority.path('server.crt')}", f"--key-file={authority.path('server.key')}"]
    member.start(*files, f"--trusted-ca-file={authority.path('ca.crt')}", f"--listen-metrics-urls={metrics}")
    assert [line["traffic"] for line in member.lines("serving client traffic securely")] == ["grpc+http"]
    parts = (Path(authority.path(name)).read_bytes() for name in ("ca.crt", "client.key", "client.crt"))
    with grpc.secure_channel(f"127.0.0.1:{member.client_port}", grpc.ssl_channel_credentials(*parts)) as opened:
        KVStub(opened).Put(PutRequest(key=b"k", value=b"v"), timeout=20)
    context = authority.client_context("client")
    with urllib.request.urlopen(f"{member.client}/v3/kv/range", data=b'{"key":"aw=="}', context=context, timeout=20) as answer:
        assert json.load(answer)["kvs"][0]["value"] == "dg=="
    with urllib.request.urlopen(f"{metrics}/metrics", context=context, timeout=20) as answer:
        assert b"etcd_mvcc_put_total 1\n" in answer.read()
    for url in (f"{member.client}/health", f"{metrics}/health"):
        with pytest.raises((urllib.error.URLError, OSError)):
            urllib.request.urlopen(url, context=authority.client_context(), timeout=20)
        with pytest.raises((urllib.error.URLError, OSError)):
            urllib.request.urlopen(url.replace("https:", "http:"), timeout=20)


def test_certificates_that_it_makes(member: Member) -> None:
    member.client, member.peer = (url.replace("http:", "https:") for url in (member.client, member.peer))
    member.cluster = f"m1={member.peer}"
    member.start("--auto-tls", "--peer-auto-tls")
    made = member.data_dir / "fixtures"
    assert sorted(one.name for one in made.iterdir()) == ["client", "peer"]
    certificate = (made / "client" / "cert.pem").read_text()
    context = ssl.create_default_context(cadata=certificate)
    with urllib.request.urlopen(f"{member.client}/version", context=context, timeout=20) as answer:
        assert json.load(answer)["etcdserver"] == "3.7.1"
    member.stop(signal.SIGTERM)
    member.start("--auto-tls", "--peer-auto-tls")
    assert (made / "client" / "cert.pem").read_text() == certificate, "a restart makes no other one"


def test_an_existing_cluster_that_is_not_there(member: Member) -> None:
    member.state = "existing"
    member.start(wait=False)
    assert member.wait() == 1
    assert "could not retrieve cluster information from the given URLs" in member.lines("the member cannot go on")[0]["error"]


def test_who_lost_its_disk_does_not_begin_a_new_cluster(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, _, third = three(tmp_path, stack)
        put(first, "a", "1")
        third.stop(signal.SIGKILL)
        third.data_dir = tmp_path / "empty"
        third.start(wait=False)
        assert third.wait() == 1
        assert "has already been bootstrapped" in third.lines("the member cannot go on")[0]["error"]


def test_one_member_goes_on_alone_when_it_is_forced_to(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, second, third = three(tmp_path, stack)
        put(first, "a", "1")
        for one in (second, third, first):
            one.stop(signal.SIGKILL)
        first.start("--force-new-cluster")
        assert get(first, "a") == "1"
        assert [one.name for one in members(first).members] == ["m1"]


# -- refusals


def test_an_etcds_data_are_left_alone(member: Member) -> None:
    snap = member.data_dir / "member" / "snap"
    snap.mkdir(parents=True)
    (snap / "db").write_bytes(b"bbolt")
    member.start(wait=False)
    assert member.wait() == 1
    line = member.lines("the member cannot go on")[0]["error"]
    assert "raftsched snapshot restore" in line
    assert [path.name for path in (member.data_dir / "member").iterdir()] == ["snap"]


def test_a_restore_that_has_not_finished(member: Member) -> None:
    member.data_dir.with_name(member.data_dir.name + ".restoring").mkdir()
    member.start(wait=False)
    assert member.wait() == 1
    assert "has not finished" in member.lines("the member cannot go on")[0]["error"]


def test_a_port_that_is_taken(member: Member) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        member.start(f"--listen-client-urls={url}", wait=False)
        assert member.wait() == 1
    assert f"cannot listen on {url[7:]} (--listen-client-urls)" in member.lines("the member cannot go on")[0]["error"]


def test_two_processes_on_one_directory(member: Member, tmp_path: Path) -> None:
    member.start()
    with Member(tmp_path, "m2") as other:
        other.data_dir = member.data_dir
        other.name = "m1"
        other.cluster = f"m1={other.peer}"
        other.start(wait=False)
        assert other.wait() == 1
        assert "in use by another process" in other.lines("the member cannot go on")[0]["error"]


def test_the_default_directory_is_named_after_the_member(tmp_path: Path) -> None:
    client, peer = free_ports(2)
    flags = [f"--listen-client-urls=http://127.0.0.1:{client}", f"--advertise-client-urls=http://127.0.0.1:{client}", "--name=abc"]
    peers = [f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}"]
    done = run(OURS, [*flags, *peers, "--initial-cluster=x=http://127.0.0.1:1"], tmp_path)
    assert done.returncode == 1
    assert '"\'data-dir\' was empty; using default","data-dir":"abc.etcd"' in done.stderr
    assert "couldn't find local name" in done.stderr


def test_no_traceback_for_whatever_is_given(tmp_path: Path) -> None:
    for flags in (["--data-dir=/dev/null/x"], ["--log-outputs=/no/such/file"], ["gateway"], ["--config-file=/"], ["--max-txn-ops=0"]):
        done = run(OURS, flags, tmp_path)
        assert done.returncode == 1, flags
        assert "Traceback" not in done.stderr, flags
