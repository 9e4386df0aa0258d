"""What an etcd does to those who depend on it, and `raftsched serve --etcd-embed=false` going on by itself: /healthz tells, nothing is
lost, nothing comes early (spec §10.2, §11, D15)."""

import subprocess
import time
from pathlib import Path

import grpc
import pytest
from externals import etcd_program, healthy, ill, load, one_etcd, replicas, three_etcds, tools
from serving import Clients, Worker, job_metadata, refused, wait_for

from raftsched.pb.dapr import scheduler_pb2
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.authority import Authority
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.external import ExternalScheduler, Wire
from raftsched.testing.process import free_ports

pytestmark = [pytest.mark.process, pytest.mark.slow]
CRAWL_S = 20.0


def test_etcd_loses_its_leader_and_members(tmp_path: Path) -> None:
    """Two of three at work all the time: not even /healthz notices."""
    with three_etcds(tmp_path) as etcd, replicas(tmp_path, etcd.addresses, 2) as servers, load(servers, etcd.addresses):
        for _ in range(3):
            leader = etcd.leader()
            leader.kill()
            time.sleep(4)
            leader.start(wait=False)
            leader.wait_healthy()
            time.sleep(1)
        for one in servers:
            healthy(one)


def test_etcd_loses_its_quorum_for_a_while(tmp_path: Path) -> None:
    with three_etcds(tmp_path) as etcd, replicas(tmp_path, etcd.addresses, 2) as servers:
        with load(servers, etcd.addresses):
            time.sleep(2)
            down = etcd.members[:2]
            for member in down:
                member.kill()
            for one in servers:
                ill(one, 30)
            time.sleep(3)
            for member in down:
                member.start(wait=False)
            for one in servers:
                healthy(one, 60)
        assert any("etcd is in trouble" in one.stderr_path.read_text() for one in servers)
        assert all("etcd answers again" in one.stderr_path.read_text() for one in servers)


def test_etcd_stands_still_longer_than_the_lease(tmp_path: Path) -> None:
    """All members, 25 s: the leases may be over when it goes on; ticks wait, and each comes."""
    with (
        three_etcds(tmp_path) as etcd,
        replicas(tmp_path, etcd.addresses, 2) as servers,
        load(servers, etcd.addresses, recurring=4, pause_s=0.5),
    ):
        time.sleep(2)
        for member in etcd.members:
            member.pause()
        for one in servers:
            ill(one, 30)
        time.sleep(17)
        for member in etcd.members:
            member.resume()
        for one in servers:
            healthy(one, 60)


def test_a_member_that_crawls(tmp_path: Path) -> None:
    """It is there, takes connections and answers, fifty times too slowly: who asked it turns to another, and no job waits long."""
    with three_etcds(tmp_path) as etcd, replicas(tmp_path, etcd.addresses, 2) as servers:
        log = servers[0].stderr_path
        wait_for(lambda: "connected to etcd" in log.read_text(), 30, servers[0].logs)
        slow = next(member for member in etcd.members if f'"at":"{member.address}"' in log.read_text())
        with load(servers, [member.address for member in etcd.members if member is not slow]) as jobs:
            end_s = time.monotonic() + CRAWL_S
            while time.monotonic() < end_s:
                slow.pause()
                time.sleep(0.98)
                slow.resume()
                time.sleep(0.02)
        assert jobs.figures()["recurring_gap_max_s"] < CRAWL_S / 2
        for one in servers:
            healthy(one)


def test_a_replica_that_stands_still_longer_than_its_lease(tmp_path: Path) -> None:
    """Its jobs go on at the other one; awake again it fires nothing that is not its own any more, and takes part."""
    with one_etcd(tmp_path) as etcd, replicas(tmp_path, [etcd.address], 2) as servers, load(servers[:1], [etcd.address]) as jobs:
        jobs.connect(servers[1].scheduler_address)
        clients = Clients(servers[0])
        wait_for(lambda: len(clients.under(b"dapr/leadership/")) == 2, 30, "a key is missing")
        jobs.addresses.remove(servers[1].scheduler_address)  # nobody asks it anything
        servers[1].pause()
        wait_for(lambda: len(clients.under(b"dapr/leadership/")) == 1, 40, "the lease of a replica that stands still does not end")
        time.sleep(3)
        servers[1].resume()
        wait_for(lambda: len(clients.under(b"dapr/leadership/")) == 2, 30, servers[1].logs)
        time.sleep(3)
        for one in servers:
            healthy(one)
        clients.close()


def test_a_compaction_while_the_wire_is_cut(tmp_path: Path) -> None:
    """What was to be told next is gone: everything is loaded again."""
    with one_etcd(tmp_path) as etcd:
        wire = Wire(etcd.port)
        server = ExternalScheduler(tmp_path / "replica", [wire.address])
        try:
            server.start(wait=False).wait_ready(180)
            with load([server], [etcd.address], recurring=4, pause_s=0.5):
                time.sleep(2)
                wire.cut()
                with grpc.insecure_channel(etcd.address) as channel:
                    kv = rpc_pb2_grpc.KVStub(channel)
                    for number in range(20):
                        revision = kv.Put(rpc_pb2.PutRequest(key=b"dapr/x", value=b"%d" % number)).header.revision
                    kv.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=True))
                ill(server, 30)
                wire.mend()
                healthy(server, 60)
                time.sleep(1)
            assert "the history of etcd was lost" in server.stderr_path.read_text()
        finally:
            server.__exit__(None, None, None)
            wire.close()


def test_compactions_under_way_are_not_noticed(tmp_path: Path) -> None:
    with one_etcd(tmp_path) as etcd, replicas(tmp_path, [etcd.address], 1) as (server,), load([server], [etcd.address]):
        with grpc.insecure_channel(etcd.address) as channel:
            kv = rpc_pb2_grpc.KVStub(channel)
            for _ in range(10):
                revision = kv.Range(rpc_pb2.RangeRequest(key=b"a")).header.revision
                kv.Compact(rpc_pb2.CompactionRequest(revision=revision - 1, physical=True))
                time.sleep(0.5)
        healthy(server)
        assert "the history of etcd was lost" not in server.stderr_path.read_text()


def fill(clients: Clients) -> None:
    """Puts until etcd refuses: it measures its size only as often as it writes to its file (each 100 ms)."""
    for number in range(200):
        clients.put(b"ballast/%d" % (number % 20), b"x" * 500_000)
        time.sleep(0.02)


def test_a_full_etcd(tmp_path: Path) -> None:
    """NOSPACE: said on /healthz and to who schedules; deletes work; freed, it goes on without a restart."""
    with one_etcd(tmp_path, "--quota-backend-bytes=4194304") as etcd, replicas(tmp_path, [etcd.address], 1) as (server,):
        clients = Clients(server)
        clients.schedule("ticks", schedule="@every 1s")
        clients.schedule("goes", schedule="@every 1h")
        with Worker(server) as worker:
            wait_for(lambda: len(worker.acknowledged) >= 2, 20, "no triggers")
            _, text = refused(lambda: fill(clients))
            assert "database space exceeded" in text
            ill(server, 30)
            code, text = refused(lambda: clients.schedule("no", schedule="@every 1h"))
            assert code == grpc.StatusCode.UNKNOWN
            assert "etcdserver: mvcc: database space exceeded" in text
            clients.scheduler.DeleteJob(scheduler_pb2.DeleteJobRequest(name="goes", metadata=job_metadata("app")), timeout=30)
            assert clients.listed() == {"ticks"}
            clients.delete_under(b"ballast/")
            revision = clients.kv.Range(rpc_pb2.RangeRequest(key=b"a")).header.revision
            clients.kv.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=True))
            clients.maintenance.Defragment(rpc_pb2.DefragmentRequest())
            alarm = clients.maintenance.Alarm(rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)).alarms[0]
            clients.maintenance.Alarm(
                rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm)
            )
            healthy(server)
            count = len(worker.acknowledged)
            wait_for(lambda: len(worker.acknowledged) > count + 1, 20, "no triggers any more")
            clients.schedule("yes", schedule="@every 1h")
        counter = clients.counter("ticks")
        assert counter is not None
        assert counter.count <= len(worker.acknowledged)
        clients.close()


@pytest.fixture
def etcdctl() -> Path:
    path = tools.etcdctl("3.7")
    if path is None:
        pytest.skip("no etcdctl 3.7 here: not built by `make tools`")
    return path


def ctl(program: Path, address: str, *words: str) -> str:
    done = subprocess.run([str(program), f"--endpoints={address}", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def test_users_passwords_and_permissions(tmp_path: Path, etcdctl: Path) -> None:
    """Off, on, another password and back, another permission and back."""
    words = ("--etcd-client-username=sched", "--etcd-client-password=secret")
    with (
        one_etcd(tmp_path, "--auth-token-ttl=2", "--bcrypt-cost=4") as etcd,
        replicas(tmp_path, [etcd.address], 1, args=words) as (server,),
    ):
        clients = Clients(server)
        with Worker(server) as worker:
            clients.schedule("ticks", schedule="@every 1s")  # with authentication off (spec §11: MUST work)
            wait_for(lambda: worker.acknowledged, 20, "no triggers")
            root = ("--user=root:root",)
            for line in ("user add root:root", "user grant-role root root", "user add sched:secret", "role add dapr"):
                ctl(etcdctl, etcd.address, *line.split())
            ctl(etcdctl, etcd.address, "role", "grant-permission", "dapr", "--prefix=true", "readwrite", "dapr/")
            ctl(etcdctl, etcd.address, "user", "grant-role", "sched", "dapr")
            ctl(etcdctl, etcd.address, "auth", "enable")
            _goes_on(worker)
            time.sleep(4)  # the tokens run out
            _goes_on(worker)
            _password(etcdctl, etcd, "other")
            ill(server, 30)
            _password(etcdctl, etcd, "secret")
            healthy(server, 30)
            _goes_on(worker)
            ctl(etcdctl, etcd.address, *root, "user", "revoke-role", "sched", "dapr")
            ill(server, 30)
            assert "permission denied" in server.stderr_path.read_text()
            ctl(etcdctl, etcd.address, *root, "user", "grant-role", "sched", "dapr")
            healthy(server, 30)
            _goes_on(worker)
            ctl(etcdctl, etcd.address, *root, "auth", "disable")
            _goes_on(worker)
        clients.close()


def _password(etcdctl: Path, etcd: RealEtcd, password: str) -> None:
    command = [str(etcdctl), f"--endpoints={etcd.address}", "--user=root:root", "user", "passwd", "sched", "--interactive=false"]
    done = subprocess.run(command, input=f"{password}\n", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def _goes_on(worker: Worker) -> None:
    count = len(worker.acknowledged)
    wait_for(lambda: len(worker.acknowledged) >= count + 2, 40, "no triggers any more")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "tls")
    made.issue("etcd")
    made.issue("scheduler")
    return made


def client_files(authority: Authority) -> list[str]:
    """The flags."""
    files = {"cacert": "ca.crt", "cert": "scheduler.crt", "key": "scheduler.key"}
    return [f"--etcd-client-{flag}={authority.path(name)}" for flag, name in files.items()]


def secure_etcd(folder: Path, authority: Authority) -> tuple[RealEtcd, str]:
    """Clients must show a certificate at its second port; (it, that URL). The first one is for the test."""
    [port] = free_ports(1)
    etcd = RealEtcd(folder / "etcd", etcd_program())
    etcd.add_flags(
        [
            f"--listen-client-urls=http://{etcd.address},https://127.0.0.1:{port}",
            f"--cert-file={authority.path('etcd.crt')}",
            f"--key-file={authority.path('etcd.key')}",
            f"--trusted-ca-file={authority.path('ca.crt')}",
            "--client-cert-auth",
        ]
    )
    return etcd, f"https://127.0.0.1:{port}"


def test_certificates_that_change(tmp_path: Path, authority: Authority) -> None:
    """The server's anew by the same authority; then all of another authority, files first here, then there; and in the wrong order."""
    files = client_files(authority)
    etcd, url = secure_etcd(tmp_path, authority)
    with etcd, replicas(tmp_path, [url], 1, args=files) as (server,):
        server._etcd = etcd.address
        clients = Clients(server)
        clients.schedule("ticks", schedule="@every 1s")
        with Worker(server) as worker:
            _goes_on(worker)
            authority.issue("etcd")
            etcd.kill()
            etcd.start()
            healthy(server, 30)
            _goes_on(worker)
            etcd.kill()
            other = Authority(tmp_path / "tls")  # in the same files
            other.issue("etcd")
            etcd.start()
            ill(server, 30)  # its own certificate is the old one
            other.issue("scheduler")
            healthy(server, 60)
            _goes_on(worker)
        clients.close()


def test_a_wrong_certificate_is_never_spoken_to(tmp_path: Path, authority: Authority) -> None:
    authority.issue("etcd", "elsewhere.example")
    etcd, url = secure_etcd(tmp_path, authority)
    files = client_files(authority)
    with etcd, replicas(tmp_path, [url], 1, args=files) as (server,):
        wait_for(lambda: "etcd is in trouble" in server.stderr_path.read_text(), 30, server.logs)
        with grpc.insecure_channel(etcd.address) as channel:
            assert rpc_pb2_grpc.KVStub(channel).Range(rpc_pb2.RangeRequest(key=b"dapr/", range_end=b"dapr0")).count == 0
        assert server.stop() == 0


def test_it_stops_in_time_while_etcd_is_away(tmp_path: Path) -> None:
    with one_etcd(tmp_path) as etcd, replicas(tmp_path, [etcd.address], 1) as (server,):
        clients = Clients(server)
        clients.schedule("ticks", schedule="@every 1s")
        clients.close()
        etcd.pause()
        time.sleep(1)
        began = time.monotonic()
        assert server.stop(timeout_s=40) == 0
        assert time.monotonic() - began < 15  # spec §12
        etcd.resume()
