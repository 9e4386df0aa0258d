"""The last runs of jobs, and events, over kills of real processes: each result has its record, none is there twice, the ring goes on."""

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from clustering import make_cluster, needs_raftsched, started
from externals import one_etcd, replicas
from serving import COUNTERS, FAILED, JOBS, SUCCESS, Clients, Worker, composed, constant, instant_ns, wait_for
from test_jobs_v1 import job_command, ok, post

from raftsched.pb.dapr import stored_pb2
from raftsched.pb.etcd import rpc_pb2
from raftsched.pb.v1 import jobs_pb2, jobs_pb2_grpc, state_pb2
from raftsched.scheduler.jobs.names import prefix_end
from raftsched.testing.cluster import Cluster
from raftsched.testing.external import ExternalScheduler
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
HISTORY = b"raftsched/history/"
APP = "--app-id=app"
NAMES = [f"job-{number}" for number in range(6)]
NS_PER_S = 10**9


def stored(clients: Clients, name: str) -> tuple[stored_pb2.Counter, list[state_pb2.RunRecord]]:
    """Counter and kept runs of a job, of one moment."""
    prefix = HISTORY + composed(name) + b"/"
    reads = [rpc_pb2.RangeRequest(key=COUNTERS + composed(name)), rpc_pb2.RangeRequest(key=prefix, range_end=prefix_end(prefix))]
    answer = clients.kv.Txn(rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_range=one) for one in reads]), timeout=20)
    counter, runs = (response.response_range.kvs for response in answer.responses)
    value = counter[0].value if counter else b""
    return stored_pb2.Counter.FromString(value), [state_pb2.RunRecord.FromString(kv.value) for kv in runs]


def check(clients: Clients, name: str, keep: int) -> int:
    """Each tick that counts has its record, as far back as they are kept; the count."""
    counter, runs = stored(clients, name)
    assert len(runs) == min(counter.count, keep)
    instants = [instant_ns(run.scheduled_at) for run in runs]
    assert instants == [instant_ns(counter.last_trigger) - NS_PER_S * (len(runs) - 1 - at) for at in range(len(runs))]
    assert all(run.result == state_pb2.RUN_RESULT_SUCCEEDED and run.replica for run in runs)
    return counter.count


def kept_from_the_start(clients: Clients, server: ServerProcess | ExternalScheduler, keep: int) -> None:
    """Before the first tick."""
    for name in NAMES:
        clients.schedule(name, schedule="@every 1s", due_time="3s")
    summary = ok(server, "configure", "--all", APP, f"--history={keep}", "--json")
    assert json.loads(summary) == {"changed": len(NAMES), "unchanged": 0}


def until_counted(clients: Clients, more: int, logs: object) -> None:
    before = {name: stored(clients, name)[0].count for name in NAMES}
    wait_for(lambda: all(stored(clients, name)[0].count >= before[name] + more for name in NAMES), 90, logs)  # type: ignore[arg-type]


def test_every_result_has_its_record_over_kills(tmp_path: Path) -> None:
    chance = random.Random(3)
    with ServerProcess(tmp_path / "server") as server, Worker(server):
        clients = Clients(server)
        kept_from_the_start(clients, server, 100)
        until_counted(clients, 1, server.logs)
        for _ in range(4):
            time.sleep(chance.uniform(0.3, 1.5))
            server.kill()
            server.start()
            clients.close()
            clients = Clients(server)
            for name in NAMES:
                check(clients, name, 100)
        ok(server, "configure", "--all", APP, "--history=3")
        until_counted(clients, 4, server.logs)
        for name in NAMES:
            check(clients, name, 3)
        clients.delete_under(JOBS + composed(""))
        wait_for(lambda: not clients.under(b"raftsched/"), 20, server.logs)
        clients.close()


def test_the_console_shows_runs_and_events(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server, Worker(server, answer=lambda name: FAILED if name == "bad" else SUCCESS):
        clients = Clients(server)
        for name in ("good", "bad"):
            clients.schedule(name, schedule="@every 24h", due_time="2s", policy=constant(100, 1))
        ok(server, "configure", "good", "bad", APP, "--history=5")
        wait_for(lambda: all(stored(clients, name)[1] for name in ("good", "bad")), 30, server.logs)
        [run] = json.loads(ok(server, "history", "bad", APP, "--json"))
        assert (run["attempts"], run["result"]) == (2, "given up")
        assert {"scheduled_at", "sent_at", "answered_at", "replica"} <= set(run)
        table = ok(server, "history", "good", APP).splitlines()
        assert table[0].split()[:5] == ["SCHEDULED", "SENT", "ANSWERED", "ATTEMPTS", "RESULT"]
        assert table[1].split()[3:5] == ["1", "succeeded"]
        assert job_command(server, "history", "none", APP) == (3, "", "Error: job not found: none\n")
        assert job_command(server, "configure", "good", APP, "--history=101")[0] == 2
        name = {"namespace": "default", "app_id": "app", "name": "bad"}
        status, body = post(server, "/v1/jobs/runs", {"name": name})
        assert (status, json.loads(body)["runs"][0]["result"]) == (200, "RUN_RESULT_GIVEN_UP")
        told = [json.loads(line) for line in ok(server, "events", "bad", "--json").splitlines()]
        assert [one["event"] for one in told] == ["created", "configured", "failed", "given up"]
        assert told[-1]["run"]["run_id"] == run["run_id"]
        lines = ok(server, "events", "--app-id=app", "--type=job").splitlines()
        assert [sum(f"default/app/{name}  " in f"{line}  " for line in lines) for name in ("bad", "good")] == [4, 3]
        status, body = post(server, "/v1/jobs/events", {"oldest": True, "once": True, "filter": {"name_pattern": "good"}})
        shown = [event for line in body.splitlines() for event in json.loads(line)["result"].get("events", [])]
        assert (status, [event["type"] for event in shown]) == (
            200,
            [f"EVENT_TYPE_{one}" for one in ("CREATED", "CONFIGURED", "SUCCEEDED")],
        )
        token = told[-1]["resume_token"]
        assert "resume_token" not in told[0], "what stands in the same message is not told yet"
        ok(server, "pause", "bad", APP)
        again = [json.loads(line) for line in ok(server, "events", "bad", "--json", f"--since={token}").splitlines()]
        assert [one["event"] for one in again] == ["paused"]
        server.kill()
        server.start()
        code, out, error = job_command(server, "events", f"--since={token}")
        assert (code, out) == (1, "")
        assert "are not kept any more" in error
        assert len(json.loads(ok(server, "history", "bad", APP, "--json"))) == 1
        clients.close()


def events_of(server: object, token: str = "") -> set[tuple[int, int, str]]:
    with grpc.insecure_channel(server.scheduler_address) as channel:  # type: ignore[attr-defined]
        asked = jobs_pb2.WatchEventsRequest(resume_token=token, oldest=not token, once=True)
        answers = list(jobs_pb2_grpc.JobsStub(channel).WatchEvents(asked, timeout=30))
    return {(event.revision, event.type, event.name.name) for answer in answers for event in answer.events}


def check_events(clients: Clients, servers: Sequence[object]) -> None:
    """Of a change that is made now, every replica tells the same, behind a token of any of them."""
    with grpc.insecure_channel(servers[0].scheduler_address) as channel:  # type: ignore[attr-defined]
        [*_, last] = jobs_pb2_grpc.JobsStub(channel).WatchEvents(jobs_pb2.WatchEventsRequest(once=True), timeout=30)
    clients.schedule("told", schedule="@every 24h")
    ok(servers[-1], "pause", "told", APP)  # type: ignore[arg-type]
    wanted = [jobs_pb2.EVENT_TYPE_CREATED, jobs_pb2.EVENT_TYPE_PAUSED]

    def told(server: object) -> list[tuple[int, int]]:
        return sorted((revision, kind) for revision, kind, name in events_of(server, last.resume_token) if name == "told")

    for one in servers:
        wait_for(lambda one=one: [kind for _, kind in told(one)] == wanted, 30, "an event is missing")  # type: ignore[misc]
    assert len({tuple(told(one)) for one in servers}) == 1


@needs_raftsched
def test_the_ring_goes_on_when_the_leader_is_lost(tmp_path: Path) -> None:
    for cluster in started(make_cluster(tmp_path)):
        _check_cluster(cluster)


def _check_cluster(cluster: Cluster) -> None:
    workers = [Worker(member) for member in cluster.members]
    clients = Clients(cluster.members[0])
    try:
        kept_from_the_start(clients, cluster.members[1], 100)
        until_counted(clients, 2, cluster.logs)
        leader = cluster.leader()
        leader.kill()
        time.sleep(2)
        leader.start()
        clients.close()
        clients = Clients(cluster.members[0])
        until_counted(clients, 3, cluster.logs)
        assert all(check(clients, name, 100) for name in NAMES)
        replicas_seen = {run.replica for name in NAMES for run in stored(clients, name)[1]}
        assert len(replicas_seen) > 1
        check_events(clients, cluster.members)
    finally:
        for worker in workers:
            worker.stop()
        clients.close()


def test_the_ring_on_an_etcd_of_others(tmp_path: Path) -> None:
    with one_etcd(tmp_path) as etcd, replicas(tmp_path, [etcd.address], 2) as servers:
        workers = [Worker(one) for one in servers]
        clients = Clients(servers[0])
        try:
            kept_from_the_start(clients, servers[1], 100)
            until_counted(clients, 2, servers[0].logs)
            servers[1].kill()
            time.sleep(2)
            servers[1].start()
            until_counted(clients, 3, servers[0].logs)
            assert all(check(clients, name, 100) for name in NAMES)
            ok(servers[0], "configure", "--all", APP, "--history=2")
            until_counted(clients, 3, servers[0].logs)
            assert all(check(clients, name, 2) for name in NAMES)
            check_events(clients, servers)
            clients.delete_under(JOBS + composed(""))
            wait_for(lambda: not clients.under(b"raftsched/"), 30, servers[0].logs)
        finally:
            for worker in workers:
                worker.stop()
            clients.close()
