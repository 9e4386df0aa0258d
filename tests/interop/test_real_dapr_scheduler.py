"""The Dapr Scheduler itself, in external mode, on `raftsched etcd`: what it keeps there, members that are killed under it, and how
raftsched takes over from it. It is its own judge: each tick comes, none early, and the store holds what the contract says (spec §6).
"""

import json
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from real_dapr import GOES_ON_S, LEADERSHIP, addresses, dapr_scheduler, etcd, hosts, leader, payload, ready, totals, triggered
from snapshots import raftsched

from raftsched.pb.dapr import leadership_pb2, scheduler_pb2, stored_pb2
from raftsched.pb.etcd import rpc_pb2
from raftsched.testing.dapr_scheduler import DaprScheduler, Keeper
from raftsched.testing.external import ExternalScheduler
from raftsched.testing.job_load import JobLoad
from raftsched.testing.process import ServerProcess

sys.path.append(str(Path(__file__).resolve().parents[1] / "process"))
from externals import READY_TIMEOUT_S, load
from serving import (
    COUNTERS,
    FAILED,
    JOBS,
    SUCCESS,
    Clients,
    Worker,
    composed,
    constant,
    instant_ns,
    job_metadata,
    refused,
    wait_for,
)

pytestmark = pytest.mark.process
SECOND_NS = 10**9
HOUR_NS = 3600 * SECOND_NS
REPEATS = 8
PROGRESS = 12  # deliveries: two of each recurring job


@pytest.fixture(scope="module")
def program() -> Path:
    return dapr_scheduler()


def answer(name: str) -> int:
    return int(FAILED if name == "failing" else SUCCESS)


def fill(clients: Clients) -> None:
    """A job of each kind."""
    clients.schedule("ticking", schedule="@every 1s", data=payload(b"\x00\xff each"))
    clients.schedule("thrice", schedule="@every 1s", repeats=3)
    clients.schedule("at-once", due_time="0s")
    clients.schedule("failing", due_time="0s", policy=constant(500, 1000))
    clients.schedule("far é||name", schedule="@yearly", due_time="10h", ttl="20h", data=payload(b"far"))


@pytest.mark.parametrize("count", [1, 3])
def test_jobs_from_the_first_call_to_the_last_key(count: int, program: Path, tmp_path: Path) -> None:
    with etcd(tmp_path, count) as members, DaprScheduler(program, tmp_path / "dapr", [one.client for one in members]) as dapr:
        ready(dapr)
        clients = Clients(dapr)
        begin_ns = time.time_ns()
        fill(clients)
        with Worker(dapr, answer=answer) as worker:
            wait_for(lambda: worker.deliveries.count("thrice") == 3 and worker.deliveries.count("failing") > 3, 60, dapr.logs)
            wait_for(lambda: clients.stored_job("thrice") is None, 30, "a finished job stays")
            assert worker.deliveries.count("at-once") == 1
            at = worker.deliveries.index("ticking")
            assert worker.payloads[at] == payload(b"\x00\xff each").value
            check_store(clients, dapr, begin_ns)
            check_answers(clients)
            check_edits(clients, worker)
        wanted = scheduler_pb2.DeleteByMetadataRequest(metadata=job_metadata("app"))
        clients.scheduler.DeleteByMetadata(wanted, timeout=10)
        assert list(clients.under(b"dapr/")) == [LEADERSHIP + b"dapr-scheduler-server-0"]
        assert dapr.stop(timeout_s=30) == 0, dapr.logs()
        assert clients.under(b"dapr/") == {}
        assert not clients.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest(), timeout=10).leases
        clients.close()


def check_store(clients: Clients, dapr: DaprScheduler, begin_ns: int) -> None:
    """The keys and values of spec §6.1, and one lease of 20 s."""
    left = {"ticking", "failing", "far é||name"}
    jobs = {JOBS + composed(name) for name in left}
    counters = {COUNTERS + composed(name) for name in left - {"far é||name"}}
    everything = clients.kv.Range(rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0"), timeout=10).kvs
    assert {pair.key for pair in everything} == jobs | counters | {LEADERSHIP + b"dapr-scheduler-server-0"}
    check_counters(clients)
    far = clients.stored_job("far é||name")
    assert far is not None
    assert 0 <= instant_ns(far.due_time) - begin_ns - 10 * HOUR_NS < 60 * SECOND_NS
    assert 0 <= instant_ns(far.expiration) - begin_ns - 30 * HOUR_NS < 60 * SECOND_NS
    metadata = scheduler_pb2.JobMetadata()
    assert far.job.metadata.Unpack(metadata)
    assert metadata == job_metadata("app")
    assert (far.job.due_time, far.job.ttl, far.job.payload) == ("10h", "20h", payload(b"far"))
    check_leadership(clients, dapr)


def check_counters(clients: Clients) -> None:
    (ticking, counted), (failing, failed) = ((clients.stored_job(name), clients.counter(name)) for name in ("ticking", "failing"))
    assert ticking is not None
    assert counted is not None
    assert counted.job_partition_id == ticking.partition_id
    assert counted.count >= 3
    assert instant_ns(counted.last_trigger) == instant_ns(ticking.start) + counted.count * SECOND_NS
    assert failing is not None
    assert failed is not None
    assert failed.job_partition_id == failing.partition_id
    assert (failed.count, failed.attempts >= 2) == (0, True)


def check_leadership(clients: Clients, dapr: DaprScheduler) -> None:
    (pair,) = clients.kv.Range(rpc_pb2.RangeRequest(key=LEADERSHIP + b"dapr-scheduler-server-0"), timeout=10).kvs
    leadership, host = leadership_pb2.Leadership.FromString(pair.value), scheduler_pb2.Host()
    assert leadership.replica_data.Unpack(host)
    assert (leadership.total, leadership.uid > 0, host.address) == (1, True, dapr.scheduler_address)
    assert [one.ID for one in clients.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest(), timeout=10).leases] == [pair.lease]
    assert clients.lease.LeaseTimeToLive(rpc_pb2.LeaseTimeToLiveRequest(ID=pair.lease), timeout=10).grantedTTL == 20


def check_answers(clients: Clients) -> None:
    """GetJob, ListJobs, ScheduleJob of what is there, DeleteJob."""
    asked = scheduler_pb2.GetJobRequest(name="far é||name", metadata=job_metadata("app"))
    found = clients.scheduler.GetJob(asked, timeout=10).job
    assert (found.due_time, found.ttl, found.data) == ("10h", "20h", payload(b"far"))
    assert found.failure_policy == constant(1000, 3)
    assert clients.listed() == {"ticking", "failing", "far é||name"}
    there = (grpc.StatusCode.ALREADY_EXISTS, "job already exists: 'app||default||app||far é||name'")
    assert refused(lambda: clients.schedule("far é||name", due_time="1h")) == there
    before = clients.stored_job("far é||name")
    clients.schedule("far é||name", due_time="11h", overwrite=True)
    after = clients.stored_job("far é||name")
    assert before is not None
    assert after is not None
    assert before.partition_id != after.partition_id
    for _ in range(2):
        clients.scheduler.DeleteJob(scheduler_pb2.DeleteJobRequest(name="far é||name", metadata=job_metadata("app")), timeout=10)
        missing = (grpc.StatusCode.NOT_FOUND, "job not found: far é||name")
        assert refused(lambda: clients.scheduler.GetJob(asked, timeout=10)) == missing


def check_edits(clients: Clients, worker: Worker) -> None:
    """What others write counts at once: it hears of it by its watch."""
    job = stored_pb2.Job(partition_id=12345)
    job.due_time.FromSeconds(1_700_000_000)
    job.job.due_time = "2023-11-14T22:13:20Z"
    job.job.metadata.Pack(job_metadata("app"))
    clients.put(JOBS + composed("edited"), job.SerializeToString())
    wait_for(lambda: "edited" in worker.deliveries, 20, "a job that was written into the store is not triggered")
    wait_for(lambda: clients.stored_job("edited") is None, 20, "a finished job stays")
    clients.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=JOBS + composed("ticking")), timeout=10)
    time.sleep(1.5)
    seen = worker.deliveries.count("ticking")
    time.sleep(2.5)
    assert worker.deliveries.count("ticking") == seen, "a job that was deleted in the store goes on"


def progress(jobs: JobLoad, scheduler: ExternalScheduler) -> None:
    """Deliveries go on."""
    before = len(jobs.deliveries)
    wait_for(lambda: len(jobs.deliveries) >= before + PROGRESS, GOES_ON_S, lambda: f"{jobs.figures()}\n{scheduler.logs()}")


@pytest.mark.parametrize(("store", "count"), [("raftsched", 1), ("raftsched", 3), ("etcd", 3)])
def test_members_are_killed_while_it_works(store: str, count: int, program: Path, etcd_program: Path, tmp_path: Path) -> None:
    """First one that follows, then the leader; of one, the one, twice. No job, tick or result is lost. If its process ends, as it does at
    some errors of any etcd, it is started again, as Kubernetes does. On a real etcd the same: what is asked here is not too much."""
    with ExitStack() as stack:
        members = stack.enter_context(etcd(tmp_path, count, real=etcd_program if store == "etcd" else None))
        dapr = stack.enter_context(DaprScheduler(program, tmp_path / "dapr", [one.client for one in members]))
        ready(dapr)
        keeper = stack.enter_context(Keeper(dapr))
        jobs = stack.enter_context(load([dapr], addresses(members)))
        progress(jobs, dapr)
        for follows in (True, False):
            victim = next(one for one in members if count == 1 or (one is not leader(members)) == follows)
            victim.stop(signal.SIGKILL)
            if count > 1:
                progress(jobs, dapr)
            victim.start()
            progress(jobs, dapr)
        print(f"its process ended {len(keeper.ends)} times", *keeper.ends, jobs.figures(), sep="\n")


def test_its_records_are_imported_from_a_snapshot(program: Path, tmp_path: Path) -> None:
    """Each job goes on at the tick where it was."""
    with etcd(tmp_path, 1) as members, DaprScheduler(program, tmp_path / "dapr", [members[0].client]) as dapr:
        ready(dapr)
        theirs = Clients(dapr)
        theirs.schedule("counted", schedule="@every 1s", repeats=REPEATS, data=payload(b"counted"))
        theirs.schedule("failing", due_time="0s", policy=constant(500, 1000))
        theirs.schedule("far", schedule="@yearly", due_time="10h", ttl="20h", data=payload(b"far"))
        with Worker(dapr, answer=answer) as worker:
            wait_for(lambda: worker.deliveries.count("counted") >= 3 and worker.deliveries.count("failing") >= 2, 30, dapr.logs)
        assert dapr.stop(timeout_s=30) == 0, dapr.logs()
        raftsched("snapshot", "save", tmp_path / "dapr.db", "--address", dapr.client_address)
        with ServerProcess(tmp_path / "target") as target:
            told = json.loads(raftsched("import", "dapr", tmp_path / "dapr.db", "--address", target.client_address, "--json").stdout)
            assert (told["created"], told["unreadable"]) == (3, 0)
            check_taken_over(theirs, target)
        theirs.close()


def check_taken_over(theirs: Clients, target: ServerProcess) -> None:
    """Byte by byte; what is left of "counted" comes here, no tick more and none less."""
    ours = Clients(target)
    for prefix in (JOBS, COUNTERS):
        assert ours.under(prefix) == theirs.under(prefix) != {}
    counted = ours.counter("counted")
    assert counted is not None
    assert counted.count >= 2
    with Worker(target, answer=answer) as worker:
        wait_for(lambda: ours.stored_job("counted") is None, 30, target.logs)
        assert worker.deliveries.count("counted") == REPEATS - counted.count
        wait_for(lambda: "failing" in worker.deliveries, 10, target.logs)
        paired = zip(worker.deliveries, worker.payloads, strict=True)
        assert {data for name, data in paired if name == "counted"} == {payload(b"counted").value}
    assert ours.listed() == {"failing", "far"}
    ours.close()


def test_ours_takes_its_place_and_gives_it_back(program: Path, tmp_path: Path) -> None:
    """Mixed operation on one etcd, which is ours: joined by one of raftsched's the real one leaves, and comes back. No tick is lost."""
    with ExitStack() as stack:
        members = stack.enter_context(etcd(tmp_path, 3))
        endpoints = [one.client for one in members]
        dapr = DaprScheduler(program, tmp_path / "dapr", endpoints, name="dapr-scheduler-server-0")
        ours = ExternalScheduler(tmp_path / "ours", endpoints, name="dapr-scheduler-server-1")
        stack.enter_context(dapr)
        stack.callback(ours.__exit__, None, None, None)
        ready(dapr)
        clients = Clients(dapr)
        stack.callback(clients.close)
        jobs = stack.enter_context(load([dapr], addresses(members)))
        progress(jobs, dapr)
        ours.start(wait=False).wait_ready(READY_TIMEOUT_S)
        both(jobs, ours, clients, dapr)
        leave(jobs, dapr, clients, ours)
        dapr.start()
        both(jobs, dapr, clients, ours)
        leave(jobs, ours, clients, dapr)


def both(jobs: JobLoad, joined: ExternalScheduler, clients: Clients, other: ExternalScheduler) -> None:
    """Two replicas know each other, and each triggers its part."""
    jobs.connect(joined.scheduler_address)
    wait_for(lambda: totals(clients) == [2, 2], GOES_ON_S, lambda: f"{totals(clients)}\n{joined.logs()}\n{other.logs()}")
    known = {joined.scheduler_address, other.scheduler_address}
    wait_for(lambda: hosts(joined) == hosts(other) == known, GOES_ON_S, lambda: f"{joined.logs()}\n{other.logs()}")
    before = triggered(joined), triggered(other)
    wait_for(lambda: triggered(joined) > before[0] and triggered(other) > before[1], GOES_ON_S, lambda: f"{joined.logs()}\n{other.logs()}")


def leave(jobs: JobLoad, gone: ExternalScheduler, clients: Clients, other: ExternalScheduler) -> None:
    assert gone.stop(timeout_s=30) == 0, gone.logs()
    jobs.disconnect(gone.scheduler_address)
    wait_for(lambda: totals(clients) == [1], GOES_ON_S, lambda: f"{totals(clients)}\n{other.logs()}")
    progress(jobs, other)
