"""Snapshots go both ways: ours into etcd's tools and servers, an etcd's into ours (etcd-api §3)."""

import json
import os
import queue
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from snapshots import Api, fill, raftsched, serve_on, start_etcd, state

from raftsched.pb.dapr import scheduler_pb2, scheduler_pb2_grpc, stored_pb2
from raftsched.pb.etcd import rpc_pb2
from raftsched.store.bolt._bolt import BoltFile
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
Run = Callable[..., subprocess.CompletedProcess[str]]


def runner(path: object, what: str) -> Run:
    if path is None:
        pytest.skip(f"no {what} here")

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([str(path), *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 or not check, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def etcdutl(tools: ModuleType) -> Run:
    return runner(tools.etcdutl("3.7"), "etcdutl 3.7")


@pytest.fixture
def etcd37(tools: ModuleType) -> Path:
    path = tools.etcd("3.7")
    if path is None:
        pytest.skip("no etcd 3.7 here")
    return Path(path)


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "ours", args=["--etcd-compaction-retention=24h"]) as server:
        yield server


@pytest.fixture(params=["3.5", "3.7"])
def theirs(request: pytest.FixtureRequest, tools: ModuleType, tmp_path: Path) -> RealEtcd:
    """Not started."""
    path = tools.etcd(request.param)
    if path is None:
        pytest.skip(f"no etcd {request.param} here")
    return RealEtcd(tmp_path / "theirs", path)


def answers(address: str) -> bool:
    with Api(address) as api:
        try:
            api.kv.Range(rpc_pb2.RangeRequest(key=b"x"), timeout=1)
        except grpc.RpcError:
            return False
    return True


def without_scheduler(found: dict[str, Any]) -> dict[str, Any]:
    """Leases that the scheduler of ours holds for itself come and go."""
    leases = found["leases"]
    assert isinstance(leases, dict)
    return {**found, "leases": {one: told for one, told in leases.items() if one < 2_000_000}}


# --------------------------------------------------------------------------------------------------------------------
# Ours into etcd's
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["3.5", "3.7"])
def test_etcdctl_saves_and_a_real_etcd_goes_on(
    version: str, ours: ServerProcess, tools: ModuleType, etcdutl: Run, etcd37: Path, tmp_path: Path
) -> None:
    fill(ours.client_address)
    before = state(ours.client_address, old=50)
    file = tmp_path / "saved.db"
    etcdctl = runner(tools.etcdctl(version), f"etcdctl {version}")
    etcdctl(f"--endpoints={ours.client_address}", "snapshot", "save", str(file))
    status = json.loads(etcdutl("snapshot", "status", str(file), "-w", "json").stdout)
    own = json.loads(raftsched("snapshot", "status", file, "--json").stdout)
    assert {name: own[name] for name in status} == status
    assert own["sha256_checked"] is True
    assert status["revision"] == before["revision"]
    assert status["totalKey"] == len(before["keys"])
    assert status["version"] == "3.7.0"
    copy = shutil.copy(file, tmp_path / "copy.db")
    assert etcdutl("hashkv", str(copy)).stdout.split(", ")[0] == str(before["hash"])
    with start_etcd(tmp_path / "judge", etcd37, etcdutl, file) as judge:
        assert state(judge.address, old=50) == before
        with Api(judge.address) as api:
            assert api.put(b"and", b"on") == before["revision"] + 1
            api.kv.Compact(rpc_pb2.CompactionRequest(revision=before["revision"], physical=True), timeout=60)
            api.maintenance.Defragment(rpc_pb2.DefragmentRequest(), timeout=60)
        now = state(judge.address)
        assert len(now["keys"]) == len(before["keys"]) + 1


def test_alarms_go_along(ours: ServerProcess, etcdutl: Run, etcd37: Path, tmp_path: Path) -> None:
    with Api(ours.client_address) as api:
        api.put(b"a", b"1")
        member = api.cluster.MemberList(rpc_pb2.MemberListRequest(), timeout=20).members[0].ID
        raised = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.ACTIVATE, memberID=member, alarm=rpc_pb2.NOSPACE)
        api.maintenance.Alarm(raised, timeout=20)
    before = state(ours.client_address)
    assert before["alarms"] == [(member, 1)]
    raftsched("snapshot", "save", tmp_path / "saved.db", "--address", ours.client_address)
    judge = start_etcd(tmp_path / "judge", etcd37, etcdutl, tmp_path / "saved.db")
    judge._healthy = lambda: answers(judge.address)  # type: ignore[method-assign]  # with an alarm raised no etcd calls itself healthy
    with judge:
        assert state(judge.address)["alarms"] == [(member, 1)]
    server, _ = serve_on(tmp_path / "again", tmp_path / "saved.db")
    server.start(wait=False)  # its scheduler waits until it can write again
    try:
        with Api(server.client_address) as api:
            alarms = api.maintenance.Alarm(rpc_pb2.AlarmRequest(), timeout=20, wait_for_ready=True).alarms
            assert [(one.memberID, one.alarm) for one in alarms] == [(member, 1)]
            disarmed = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=member, alarm=rpc_pb2.NOSPACE)
            api.maintenance.Alarm(disarmed, timeout=20)
        server.wait_ready()
    finally:
        server.kill()


def test_users_go_along_and_root_alone_may_save(ours: ServerProcess, etcdutl: Run, tools: ModuleType, etcd37: Path, tmp_path: Path) -> None:
    etcdctl37 = runner(tools.etcdctl("3.7"), "etcdctl 3.7")

    def console(address: str, *words: str, user: str = "", check: bool = True) -> str:
        return etcdctl37(f"--endpoints={address}", *([f"--user={user}"] if user else []), *words, check=check).stderr

    for name in ("root", "ann"):
        console(ours.client_address, "user", "add", f"{name}:pw")
    console(ours.client_address, "user", "grant-role", "root", "root")
    console(ours.client_address, "auth", "enable")
    file = tmp_path / "saved.db"
    for user in ("", "ann:pw"):
        done = raftsched("snapshot", "save", file, "--address", ours.client_address, *(["--user", user] if user else []), check=False)
        assert (done.returncode, file.exists()) == (1, False)
        assert ("permission denied" if user else "user name is empty") in done.stderr
        assert "denied" in console(ours.client_address, "snapshot", "save", str(file), user="ann:pw", check=False)
    raftsched("snapshot", "save", file, "--address", ours.client_address, "--user", "root:pw")
    judge = start_etcd(tmp_path / "judge", etcd37, etcdutl, file)
    with judge:
        assert "permission denied" in console(judge.address, "put", "a", "b", user="ann:pw", check=False)
        console(judge.address, "put", "a", "b", user="root:pw")


def test_an_empty_store_is_a_snapshot_too(ours: ServerProcess, etcdutl: Run, etcd37: Path, tmp_path: Path) -> None:
    raftsched("snapshot", "save", tmp_path / "saved.db", "--address", ours.client_address)
    assert json.loads(etcdutl("snapshot", "status", str(tmp_path / "saved.db"), "-w", "json").stdout)["totalKey"] <= 1
    with start_etcd(tmp_path / "judge", etcd37, etcdutl, tmp_path / "saved.db") as judge, Api(judge.address) as api:
        assert api.put(b"first", b"1") > 1


# --------------------------------------------------------------------------------------------------------------------
# An etcd's into ours
# --------------------------------------------------------------------------------------------------------------------


def test_an_etcds_snapshot_is_restored(theirs: RealEtcd, tools: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "saved.db"
    with theirs:
        fill(theirs.address)
        before = state(theirs.address, old=50)
        raftsched("snapshot", "save", file, "--address", theirs.address)
    etcdutl = tools.etcdutl("3.7")
    if etcdutl is not None:
        told = json.loads(runner(etcdutl, "etcdutl")("snapshot", "status", str(file), "-w", "json").stdout)
        own = json.loads(raftsched("snapshot", "status", file, "--json").stdout)
        assert {name: own[name] for name in told} == told
    server, restored = serve_on(tmp_path / "server", file)
    assert restored["revision"] == before["revision"]
    assert restored["keys"] == len(before["keys"])
    assert restored["leases"] == 2
    with server:
        now = state(server.client_address)
        assert now["revision"] >= before["revision"]
        with Api(server.client_address) as api:
            at = rpc_pb2.HashKVRequest(revision=before["revision"])
            assert api.maintenance.HashKV(at, timeout=20).hash == before["hash"]
            request = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", revision=before["revision"])
            assert [one.SerializeToString() for one in api.kv.Range(request, timeout=20).kvs] == before["keys"]
            request.revision -= 50
            assert [one.SerializeToString() for one in api.kv.Range(request, timeout=20).kvs] == before["earlier"]
        assert without_scheduler(now)["leases"] == before["leases"]
        assert now["compact_revision"] == before["compact_revision"]


def test_the_directory_of_a_killed_etcd_is_restored_with_what_only_its_log_holds(theirs: RealEtcd, tmp_path: Path) -> None:
    """etcd commits to its database every 100 ms: with a batch interval of ten minutes everything since the start is in the log alone."""
    theirs._command += ["--backend-batch-interval=600s", "--backend-batch-limit=1000000"]
    with theirs:
        fill(theirs.address, compact=False)
        before = state(theirs.address, old=50)
        assert theirs._process is not None
        in_use = raftsched("snapshot", "restore", tmp_path / "theirs" / "etcd", "--data-dir", tmp_path / "no", check=False)
        assert in_use.returncode == 1
        assert "is in use: stop the server first" in in_use.stderr
        assert not (tmp_path / "no").exists() or not any((tmp_path / "no").rglob("VERSION"))
        os.kill(theirs._process.pid, signal.SIGKILL)
        theirs._process.wait()
    kept = {path: path.read_bytes() for path in (tmp_path / "theirs" / "etcd").rglob("*") if path.is_file()}
    server, restored = serve_on(tmp_path / "server", tmp_path / "theirs" / "etcd")
    assert {path: path.read_bytes() for path in (tmp_path / "theirs" / "etcd").rglob("*") if path.is_file()} == kept
    assert restored["replayed"] > 500
    assert restored["revision"] == before["revision"]
    with server, Api(server.client_address) as api:
        request = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", revision=before["revision"])
        assert [one.SerializeToString() for one in api.kv.Range(request, timeout=20).kvs] == before["keys"]
        at = rpc_pb2.HashKVRequest(revision=before["revision"])
        assert api.maintenance.HashKV(at, timeout=20).hash == before["hash"]
        assert without_scheduler(state(server.client_address))["leases"] == before["leases"]


def frames(log: bytes) -> list[int]:
    """Where the records begin, and where the last one ends."""
    found = [0]
    while word := int.from_bytes(log[found[-1] : found[-1] + 8], "little"):
        found.append(found[-1] + 8 + (word & (1 << 56) - 1) + (word >> 56 & 7 if word >> 63 else 0))
    return found


def test_a_torn_end_of_an_etcds_log_is_passed_over_and_damage_is_not(theirs: RealEtcd, tmp_path: Path) -> None:
    theirs._command += ["--backend-batch-interval=600s", "--backend-batch-limit=1000000"]
    with theirs:
        fill(theirs.address, compact=False)
        with Api(theirs.address) as api:
            last = api.put(b"large", b"x" * 5_000)
        assert theirs._process is not None
        os.kill(theirs._process.pid, signal.SIGKILL)
        theirs._process.wait()
    path = next((tmp_path / "theirs" / "etcd" / "member" / "wal").glob("*.wal"))
    whole = path.read_bytes()
    starts = frames(whole)
    put = max(at for at, end in pairwise(starts) if end - at > 5_000)

    def restored(name: str, log: bytes, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        path.write_bytes(log)
        return raftsched("snapshot", "restore", tmp_path / "theirs" / "etcd", "--data-dir", tmp_path / name, "--json", check=check)

    for name, cut in (("sectors", (put // 512 + 3) * 512), ("word", put + 8)):
        told = json.loads(restored(name, whole[:cut] + bytes(len(whole) - cut)).stdout)
        assert told["revision"] == last - 1
        assert "bytes of an unfinished write were passed over" in told["notes"][0]
    assert json.loads(restored("whole", whole).stdout)["revision"] == last
    middle = starts[len(starts) // 2] + 12
    for name, at in (("middle", middle), ("end", put + 3_000)):
        refused = restored(name, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], check=False)
        assert refused.returncode == 1
        assert f"{path}, offset" in refused.stderr
        assert not (tmp_path / name).exists() or not any(one.is_file() for one in (tmp_path / name).rglob("*"))


def test_the_directory_of_a_stopped_etcd_is_restored(theirs: RealEtcd, tmp_path: Path) -> None:
    with theirs:
        fill(theirs.address)
        before = state(theirs.address)
    server, restored = serve_on(tmp_path / "server", tmp_path / "theirs" / "etcd")
    assert restored["revision"] == before["revision"]
    with server, Api(server.client_address) as api:
        at = rpc_pb2.HashKVRequest(revision=before["revision"])
        assert api.maintenance.HashKV(at, timeout=20).hash == before["hash"]


# --------------------------------------------------------------------------------------------------------------------
# Dapr's jobs
# --------------------------------------------------------------------------------------------------------------------

JOBS = rpc_pb2.RangeRequest(key=b"dapr/jobs/", range_end=b"dapr/jobs0")
HOST_KEY = b"dapr/leadership/dapr-scheduler-server-7"


def triggers(server: ServerProcess, count: int, timeout_s: float) -> list[str]:
    """The names of the first so many triggers that an app gets, each answered."""
    target = scheduler_pb2.WatchJobsRequestInitial(app_id="app", namespace="default")
    requests: queue.Queue[scheduler_pb2.WatchJobsRequest | None] = queue.Queue()
    requests.put(scheduler_pb2.WatchJobsRequest(initial=target))
    names: list[str] = []
    with grpc.insecure_channel(server.scheduler_address) as channel:
        stream = scheduler_pb2_grpc.SchedulerStub(channel).WatchJobs(iter(requests.get, None), timeout=timeout_s)
        for trigger in stream:
            names.append(trigger.name)
            result = scheduler_pb2.WatchJobsRequestResult(id=trigger.id, status=scheduler_pb2.WatchJobsRequestResultStatus.SUCCESS)
            requests.put(scheduler_pb2.WatchJobsRequest(result=result))
            if len(names) == count:
                break
        requests.put(None)
    return names


@pytest.mark.parametrize("form", ["snapshot", "directory"])
def test_jobs_of_a_dapr_scheduler_survive_and_fire(form: str, theirs: RealEtcd, tmp_path: Path) -> None:
    """Stored.Job and Counter as Dapr's scheduler keeps them in its etcd, and the key by which a scheduler that is gone claimed them."""
    begins = time.time_ns()
    jobs = {b"tick": "@every 1s", b"odd \xc3\xa9 name": "@every 1s", b"later": "@every 24h"}
    stored = {}
    for number, (name, schedule) in enumerate(jobs.items()):
        target = scheduler_pb2.JobTargetMetadata(job=scheduler_pb2.TargetJob())
        kept = stored_pb2.Job(partition_id=12_345_678_901 + number)
        kept.start.FromNanoseconds(begins)
        kept.job.schedule = schedule
        kept.job.metadata.Pack(scheduler_pb2.JobMetadata(app_id="app", namespace="default", target=target))
        kept.job.payload.Pack(struct_pb2.Value(string_value=name.decode()))
        kept.job.failure_policy.constant.interval.seconds = 1
        kept.job.failure_policy.constant.max_retries = 3
        stored[b"dapr/jobs/app||default||app||" + name] = kept.SerializeToString(deterministic=True)
    with theirs, Api(theirs.address) as api:
        for key, value in stored.items():
            api.put(key, value)
        lease = api.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=20), timeout=20).ID
        api.put(HOST_KEY, b"", lease)
        before = [one.SerializeToString() for one in api.kv.Range(JOBS, timeout=20).kvs]
        raftsched("snapshot", "save", tmp_path / "saved.db", "--address", theirs.address)
    server = ServerProcess(tmp_path / "server")
    source = tmp_path / "saved.db"
    if form == "directory":  # where a Dapr Scheduler keeps it, beside where ours goes
        source = tmp_path / "server" / "data" / "default-dapr-scheduler-server-0" / "dapr-0.1"
        source.parent.mkdir(parents=True)
        shutil.copytree(tmp_path / "theirs" / "etcd", source)
        server.start(wait=False)
        assert server.process is not None
        assert server.process.wait(20) == 1
        server.process = None
        told = server.logs()
        assert f"raftsched snapshot restore {source} --data-dir" in told
    raftsched("snapshot", "restore", source, "--data-dir", tmp_path / "server" / "data")
    with server, Api(server.client_address) as api:
        assert [one.SerializeToString() for one in api.kv.Range(JOBS, timeout=20).kvs] == before
        assert set(triggers(server, 6, 90)) == {"tick", "odd é name"}
        assert [one.SerializeToString() for one in api.kv.Range(JOBS, timeout=20).kvs] == before


# --------------------------------------------------------------------------------------------------------------------
# Flags
# --------------------------------------------------------------------------------------------------------------------


def test_bump_revision_is_etcdutls(ours: ServerProcess, etcdutl: Run, etcd37: Path, tmp_path: Path) -> None:
    """The same records, revision and compaction, whoever restores, and both servers start with them."""
    fill(ours.client_address)
    with Api(ours.client_address) as api:  # the last revision has several records
        operations = [rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"last-%d" % one, value=b"1")) for one in range(3)]
        api.kv.Txn(rpc_pb2.TxnRequest(success=operations), timeout=20)
    file = tmp_path / "saved.db"
    raftsched("snapshot", "save", file, "--address", ours.client_address)
    ours.kill()
    flags = ("--bump-revision=100000", "--mark-compacted")
    judge = start_etcd(tmp_path / "judge", etcd37, etcdutl, file, *flags)
    theirs = BoltFile(str(tmp_path / "judge" / "etcd" / "member" / "snap" / "db"))
    server, restored = serve_on(tmp_path / "server", file, *flags)
    assert theirs.items("key")[-1][1] == b""
    last = int.from_bytes(theirs.items("key")[-1][0][:8], "big")
    assert last == restored["revision"] == restored["compact_revision"] == BoltFile(str(file)).digest()[1] + 100_000
    with judge, server, Api(judge.address) as one, Api(server.client_address) as other:
        for api in (one, other):
            assert api.kv.Range(rpc_pb2.RangeRequest(key=b"x"), timeout=20).header.revision >= last
        hashes = [api.maintenance.HashKV(rpc_pb2.HashKVRequest(revision=last), timeout=20) for api in (one, other)]
        assert hashes[0].compact_revision == hashes[1].compact_revision == last
        assert hashes[0].hash == hashes[1].hash
        request = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", revision=last)
        keys = [[kv.SerializeToString() for kv in api.kv.Range(request, timeout=20).kvs] for api in (one, other)]
        assert keys[0] == keys[1]


def test_ids_are_etcds(ours: ServerProcess, etcdutl: Run, tools: ModuleType, tmp_path: Path) -> None:
    """Member and cluster ids follow from names, URLs and token alone, as etcdutl derives them."""
    file = tmp_path / "saved.db"
    raftsched("snapshot", "save", file, "--address", ours.client_address)
    flags = [
        "--name=m2",
        "--initial-cluster=m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380,m3=http://10.0.0.3:2380",
        "--initial-cluster-token=another",
        "--initial-advertise-peer-urls=http://10.0.0.2:2380",
    ]
    etcdutl("snapshot", "restore", str(file), "--data-dir", str(tmp_path / "theirs"), *flags)
    members = dict(BoltFile(str(tmp_path / "theirs" / "member" / "snap" / "db")).items("members"))
    told = json.loads(raftsched("snapshot", "restore", file, "--data-dir", tmp_path / "mine", "--json", *flags).stdout)
    assert json.loads(members[told["member_id"].encode()])["name"] == "m2"
    dumper = tools.dump_logs()
    if dumper is None:
        pytest.skip("no etcd-dump-logs here: the cluster id was not compared")
    log = runner(dumper, "etcd-dump-logs")(str(tmp_path / "theirs")).stdout
    assert f"clusterID={told['cluster_id']}" in log
    assert f"nodeID={told['member_id']}" in log


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--bump-revision=5"], "--mark-compacted is required with --bump-revision"),
        (["--mark-compacted"], "--mark-compacted is required with --bump-revision"),
        (["--name=b", "--initial-cluster=a=http://h:1"], 'couldn\'t find local name "b" in the initial cluster configuration'),
        (["--name=a", "--initial-cluster=a=http://h:1", "--initial-advertise-peer-urls=http://h:2"], "--initial-cluster has a=http://h:1"),
        (["--name=a", "--initial-cluster=a=http://h:1,b=http://h:1"], "http://h:1 belongs to a and to b"),
        (["--initial-cluster=nonsense"], "is not NAME=URL"),
        (["--wal-dir=/nowhere"], "--wal-dir is for --layout etcd"),
    ],
)
def test_flags_that_make_no_sense_are_one_line(flags: list[str], text: str, tmp_path: Path) -> None:
    (tmp_path / "saved.db").write_bytes(b"")
    done = raftsched("snapshot", "restore", tmp_path / "saved.db", "--data-dir", tmp_path / "new", *flags, check=False)
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()
