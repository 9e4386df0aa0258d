"""raftsched.v1 against real processes: by gRPC, as JSON over HTTP, by `raftsched job …`, on one replica and on three."""

import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import grpc
import pytest
from clustering import make_cluster, needs_raftsched, started
from serving import COUNTERS, JOBS, Clients, Worker, composed, instant_ns, wait_for

from raftsched.cli.app import run
from raftsched.pb.etcd import rpc_pb2
from raftsched.pb.v1 import jobs_pb2, jobs_pb2_grpc
from raftsched.testing.cluster import Cluster
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
MANY = int(os.environ.get("RAFTSCHED_MANY_JOBS", "20000"))
PUTS_AT_ONCE = 100


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("v1") / "server") as server:
        yield server


@pytest.fixture
def calls(running: ServerProcess) -> Iterator[Clients]:
    opened = Clients(running)
    yield opened
    opened.close()


def job_command(server: ServerProcess, *words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(["job", *words, f"--address={server.scheduler_address}"])
    return code, out.getvalue(), err.getvalue()


def ok(server: ServerProcess, *words: str) -> str:
    code, out, err = job_command(server, *words)
    assert (code, err) == (0, "")
    return out


def post(server: ServerProcess, path: str, body: object, content_type: str = "application/json") -> tuple[int, bytes]:
    request = urllib.request.Request(
        f"http://{server.scheduler_address}{path}", json.dumps(body).encode(), {"Content-Type": content_type}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def search(address: str, **asked: Any) -> list[jobs_pb2.Job]:
    with grpc.insecure_channel(address) as channel:
        request = jobs_pb2.SearchJobsRequest(filter=jobs_pb2.JobFilter(**asked))
        return list(jobs_pb2_grpc.JobsStub(channel).SearchJobs(request, timeout=60))


def test_the_console_finds_and_describes(running: ServerProcess, calls: Clients) -> None:
    calls.schedule("hourly", app="console", schedule="@every 1h", due_time="0s")
    calls.schedule("later", app="console", due_time="24h")
    with Worker(running, app="console") as worker:
        wait_for(lambda: worker.acknowledged == ["hourly"], 20, "the job does not fire")
    wait_for(lambda: calls.counter("hourly", app="console") is not None, 10, "its result is not stored")
    words = ("--app-id=console",)
    table = ok(running, "search", *words).splitlines()
    assert table[0].split() == ["NAMESPACE", "APP", "TYPE", "NAME", "STATE", "NEXT", "RUN", "LAST", "RUN", "COUNT", "ATTEMPTS", "SCHEDULE"]
    assert [line.split()[3:5] for line in table[1:]] == [["hourly", "scheduled"], ["later", "scheduled"]]
    lines = [json.loads(line) for line in ok(running, "search", "h*", "--json", *words).splitlines()]
    assert [(one["name"], one["count"], one["attempts"], one["type"]) for one in lines] == [("hourly", 1, 0, "job")]
    assert lines[0]["last_run"] == lines[0]["begins"] < lines[0]["next_run"]
    assert ok(running, "search", "--limit=1", "--json", *words).count("\n") == 1
    assert ok(running, "search", "--type=workflow", "--json", *words) == ""
    shown = json.loads(ok(running, "describe", "hourly", "-o", "json", *words))
    assert shown["failure_policy"] == {"interval": "1s", "max_retries": 3}
    assert (shown["state"], shown["owned"], shown["schedule"]) == ("scheduled", True, "@every 1h")
    assert "next run" in ok(running, "describe", "hourly", *words)
    assert job_command(running, "describe", "none", *words) == (3, "", "Error: job not found: none\n")
    assert job_command(running, "describe", "x", "--actor-id=1")[0] == 2


def test_the_console_explains(running: ServerProcess) -> None:
    lines = ok(running, "explain", "CRON_TZ=Asia/Kathmandu 0 0 9 * * *", "--next=2").splitlines()
    assert lines[0].split() == ["UTC", "Asia/Kathmandu", "REMARKS"]
    assert [line.split()[1][10:] for line in lines[1:]] == ["T09:00:00+05:45"] * 2
    assert ok(running, "explain", "-d", "10s").splitlines()[-1] == "no run after these"
    found = json.loads(ok(running, "explain", "@every 1h", "--next=1", "--json"))
    assert (len(found["fires"]), found["zone"], found["ends"]) == (1, "UTC", False)
    lines = ok(running, "explain", "@every 1h", "--last-run=2026-01-01T00:00:00Z", "--misfire=latest", "--next=2").splitlines()
    assert ["missed, run at once" in line for line in lines[1:]] == [True, False, False]
    assert lines[3].startswith("passed over: ")
    assert job_command(running, "explain", "@every 1h", "--misfire=nonsense")[0] == 2
    code, out, err = job_command(running, "explain", "0 0 99 * * *")
    assert (code, err) == (1, "")
    assert out.splitlines()[0] == "refused: end of range (99) above maximum (23): 99"
    assert out.splitlines()[2].index("^^") == out.splitlines()[1].index("99")
    code, out, _ = job_command(running, "explain", "0 0 99 * * *", "--json")
    assert (code, json.loads(out)["refusal"]["position"]) == (1, 4)
    status, body = post(running, "/v1/schedules/explain", {"schedule": "@daily", "count": 1})
    assert (status, json.loads(body)["fires"][0]["local"][10:]) == (200, "T00:00:00Z")


def test_json_over_http(running: ServerProcess, calls: Clients) -> None:
    calls.schedule("rest", app="rest", schedule="@daily")
    name = {"namespace": "default", "app_id": "rest", "name": "rest"}
    status, body = post(running, "/v1/jobs/get", {"name": name})
    shown = json.loads(body)
    assert (status, shown["name"], shown["state"]) == (200, name, "JOB_STATE_SCHEDULED")
    assert shown["next_run"].endswith("T00:00:00Z")
    status, body = post(running, "/v1/jobs/list", {"filter": {"appId": "rest"}, "pageSize": 1})
    assert (status, [one["name"]["name"] for one in json.loads(body)["jobs"]]) == (200, ["rest"])
    status, body = post(running, "/v1/jobs/search", {"filter": {"app_id": "rest"}})
    assert (status, [json.loads(line)["result"]["name"] for line in body.splitlines()]) == (200, [name])
    status, body = post(running, "/v1/jobs/get", {"name": name | {"name": "none"}})
    assert (status, json.loads(body)["message"]) == (404, "job not found: none")
    assert post(running, "/v1/jobs/get", {"nonsense": 1})[0] == 400
    assert post(running, "/v1/nothing", {})[0] == 404
    assert post(running, "/v1/jobs/list", {}, "text/plain")[0] == 415
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{running.scheduler_address}/v1/jobs/list", timeout=10)
    assert caught.value.code == 501
    caught.value.close()


def test_the_console_pauses_and_resumes(running: ServerProcess, calls: Clients) -> None:
    words = ("--app-id=held",)
    for short in ("one", "two"):
        calls.schedule(short, app="held", schedule="@every 1s")
    with Worker(running, app="held") as worker:
        wait_for(lambda: set(worker.deliveries) == {"one", "two"}, 10, "the jobs do not fire")
        assert ok(running, "pause", "one", "--reason=maintenance", "--by=ops", *words) == "paused 1\n"
        shown = json.loads(ok(running, "describe", "one", "--json", *words))
        assert (shown["state"], shown["hold"]["reason"], shown["hold"]["by"]) == ("paused", "maintenance", "ops")
        assert json.loads(ok(running, "pause", "--all", "--json", *words)) == {"changed": 1, "unchanged": 1}
        wait_for(lambda: calls.under(COUNTERS + composed("", "held")), 10, "no result is stored")
        time.sleep(0.5)  # what was out is answered
        count = len(worker.deliveries)
        time.sleep(2.2)
        assert len(worker.deliveries) == count
        resumed_s = time.time()
        assert ok(running, "resume", "--match=t*", *words) == "resumed 1\n"
        wait_for(lambda: len(worker.deliveries) > count, 10, "the job does not go on")
        assert worker.deliveries[count:] == ["two"], "what was missed was skipped"
        counter = calls.counter("two", app="held")
        assert counter is not None
        assert instant_ns(counter.last_trigger) / 1e9 > resumed_s - 1.1
        assert ok(running, "resume", "one", "--missed=policy", *words) == "resumed 1\n"
        wait_for(lambda: "one" in worker.deliveries[count:], 10, "the other job does not go on")
    calls.delete_under(JOBS + composed("", "held"))  # as etcdctl would
    wait_for(lambda: not calls.under(b"raftsched/jobs/"), 10, "the state stays without its job")
    for bad in (("pause",), ("pause", "x", "--all"), ("pause", "--match="), ("resume", "x", "--type=job")):
        assert job_command(running, *bad)[0] == 2
    assert job_command(running, "pause", "none", *words) == (3, "", "Error: job not found: none\n")


def test_the_console_reschedules(running: ServerProcess, calls: Clients) -> None:
    calls.schedule("moved", app="moved", schedule="@every 1h")
    words = ("--app-id=moved",)
    assert ok(running, "reschedule", "moved", "-s", "@every 1s", "--reason=faster", *words) == "rescheduled 1\n"
    with Worker(running, app="moved") as worker:
        wait_for(lambda: len(worker.deliveries) >= 2, 10, "the new schedule does not hold")
    shown = json.loads(ok(running, "describe", "moved", "--json", *words))
    assert (shown["schedule"], shown["last_change"]["what"], shown["last_change"]["reason"]) == ("@every 1s", "reschedule", "faster")
    assert json.loads(ok(running, "reschedule", "--match=m*", "-s", "@daily", "--json", *words)) == {"changed": 1, "unchanged": 0}
    code, _, err = job_command(running, "reschedule", "moved", *words)
    assert (code, err) == (1, "Error: job failed validation: job must have either a due time or a schedule\n")


def test_the_console_gives_labels_and_finds_by_them(running: ServerProcess, calls: Clients) -> None:
    for short in ("one", "two"):
        calls.schedule(short, app="labelled", schedule="@every 1h")
    words = ("--app-id=labelled",)
    assert ok(running, "configure", "one", "--set-label=team=x=y", *words) == "configured 1\n"
    assert json.loads(ok(running, "describe", "one", "--json", *words))["labels"] == {"team": "x=y"}
    [found] = ok(running, "search", "--label=team=x=y", "--json", *words).splitlines()
    assert json.loads(found)["name"] == "one"
    assert ok(running, "pause", "--all", "--label=team=x=y", *words) == "paused 1\n"
    assert ok(running, "configure", "--all", "--remove-label=team", *words) == "configured 1, 1 unchanged\n"
    assert ok(running, "resume", "one", *words) == "resumed 1\n"
    assert ok(running, "configure", "one", "--misfire=window=10m,max=2", *words) == "configured 1\n"
    assert json.loads(ok(running, "describe", "one", "--json", *words))["misfire"] == {"window": "600s", "max": 2}
    assert ok(running, "configure", "--all", "--misfire=all", *words) == "configured 1, 1 unchanged\n"
    unclear = ("configure", "one", "--misfire=window=1x")
    for bad in (("configure", "one"), ("configure", "one", "--set-label=x"), ("pause", "one", "--label=a=b"), unclear):
        assert job_command(running, *bad)[0] == 2


def test_the_console_is_a_worker_that_knows_its_runs(running: ServerProcess, calls: Clients) -> None:
    for short in ("one", "two"):
        calls.schedule(short, app="told", due_time="0s")
    lines = ok(running, "receive", "--count=1", "--failed", "--app-id=told").splitlines()
    lines += ok(running, "receive", "--count=2", "--app-id=told").splitlines()
    first, *others = map(json.loads, lines)
    assert {one["name"]["name"] for one in others} == {"one", "two"}
    [again] = [one for one in others if one["name"] == first["name"]]
    assert (first["attempt"], again["attempt"], again["scheduled_at"]) == (0, 1, first["scheduled_at"])
    assert again["run_id"] == first["run_id"].removesuffix("/0") + "/1"
    wait_for(lambda: not calls.under(JOBS + composed("", "told")), 10, "a run is not over")


def test_the_console_asks_for_a_run(running: ServerProcess, calls: Clients) -> None:
    calls.schedule("asked", app="asked", schedule="@every 1h")
    words = ("--app-id=asked",)
    assert ok(running, "run", "asked", "--reason=try", *words) == "run asked of 1\n"
    assert json.loads(ok(running, "run", "--all", "--json", *words)) == {"changed": 0, "unchanged": 1}
    with Worker(running, app="asked") as worker:
        wait_for(lambda: worker.acknowledged == ["asked"], 10, "the run does not come")
        wait_for(lambda: not calls.under(b"raftsched/runs/"), 10, "the request stays after its run")
    assert calls.counter("asked", app="asked") is None
    assert json.loads(ok(running, "describe", "asked", "--json", *words))["count"] == 0


def test_the_console_freezes_a_namespace(running: ServerProcess) -> None:
    assert ok(running, "freeze", "cold", "--reason=incident", "--by=ops") == "frozen cold\n"
    assert [one["namespace"] for one in json.loads(ok(running, "frozen", "--json"))] == ["cold"]
    assert ok(running, "frozen").splitlines()[1].split()[0::2] == ["cold", "ops"]
    status, body = post(running, "/v1/namespaces/frozen", {})
    assert (status, json.loads(body)["freezes"][0]["hold"]["reason"]) == (200, "incident")
    assert ok(running, "unfreeze", "cold") == "unfrozen cold\n"
    assert job_command(running, "unfreeze", "cold") == (3, "", "Error: namespace is not frozen: cold\n")


def test_a_pause_outlives_kill_9(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:
        clients = Clients(server)
        clients.schedule("a", schedule="@every 1s")
        clients.schedule("b", schedule="@every 1s")
        ok(server, "pause", "a", "--app-id=app")
        clients.schedule("asked", schedule="@every 1h")
        ok(server, "run", "asked", "--app-id=app")
        server.kill()
        server.start()
        with Worker(server) as worker:
            wait_for(lambda: worker.deliveries.count("b") >= 2, 20, server.logs)
            assert "a" not in worker.deliveries
            assert worker.deliveries.count("asked") == 1, "the run that was asked for"
            for prefix in (b"raftsched/jobs/", b"raftsched/runs/"):  # of a job that is not there
                clients.put(prefix + composed("ghost"), b"")
                wait_for(lambda prefix=prefix: clients.get(prefix + composed("ghost")) is None, 10, server.logs)
            ok(server, "resume", "a", "--app-id=app")
            wait_for(lambda: "a" in worker.deliveries, 10, server.logs)
        clients.close()


def test_many_jobs_stream_in_constant_memory(running: ServerProcess, calls: Clients) -> None:
    calls.schedule("many-0", app="many", due_time="240h")
    stored = calls.get(JOBS + composed("many-0", "many"))
    assert stored is not None
    for first in range(1, MANY, PUTS_AT_ONCE):
        numbers = range(first, min(first + PUTS_AT_ONCE, MANY))
        puts = [rpc_pb2.PutRequest(key=JOBS + composed(f"many-{number}", "many"), value=stored) for number in numbers]
        calls.kv.Txn(rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=put) for put in puts]), timeout=30)
    calls.kv.Range(rpc_pb2.RangeRequest(key=b"x"), timeout=30)
    before = running.memory_bytes()
    with grpc.insecure_channel(running.scheduler_address) as channel:
        request = jobs_pb2.SearchJobsRequest(filter=jobs_pb2.JobFilter(namespace="default", app_id="many"))
        stream = jobs_pb2_grpc.JobsStub(channel).SearchJobs(request, timeout=600)
        names = set()
        for count, job in enumerate(stream):
            assert job.state == jobs_pb2.JOB_STATE_SCHEDULED
            names.add(job.name.name)
            if count % 5_000 == 0:  # the others are served meanwhile
                calls.kv.Range(rpc_pb2.RangeRequest(key=b"x"), timeout=5)
    assert len(names) == MANY
    grown = running.memory_bytes() - before
    assert grown < 16 << 20, f"{grown >> 20} MiB more after {MANY} jobs"
    calls.delete_under(JOBS + composed("many-", "many"))


@needs_raftsched
def test_every_replica_tells_of_all_jobs(tmp_path: Path) -> None:
    for cluster in started(make_cluster(tmp_path)):
        _check_replicas(cluster)


def _check_replicas(cluster: Cluster) -> None:
    writer = Clients(cluster.members[0])
    for number in range(12):
        writer.schedule(f"job-{number:02}", schedule="@every 1h", due_time="0s")
    workers = [Worker(member) for member in cluster.members]
    try:
        wait_for(lambda: sum(len(worker.acknowledged) for worker in workers) >= 12, 30, cluster.logs)
        for member in cluster.members:
            wait_for(lambda member=member: all(job.count == 1 for job in search(member.scheduler_address)), 20, cluster.logs)
            found = search(member.scheduler_address)
            assert [job.name.name for job in found] == [f"job-{number:02}" for number in range(12)]
            assert all(job.next_run.seconds - job.last_run.seconds == 3600 for job in found)
        _check_holds(cluster, workers)
        owned = [sum(job.owned for job in search(member.scheduler_address)) for member in cluster.members]
        assert sum(owned) == 12, owned
    finally:
        for worker in workers:
            worker.stop()
        writer.close()


def _check_holds(cluster: Cluster, workers: list[Worker]) -> None:
    """Paused at one member, all hold; the leader is lost, and still nothing of it fires; the owner of each job removes what is left."""
    writer = Clients(cluster.members[0])
    for number in range(12):
        writer.schedule(f"fast-{number}", schedule="@every 1s")
    wait_for(lambda: all(any(one.startswith("fast") for one in worker.deliveries) for worker in workers), 30, cluster.logs)
    summary = json.loads(ok(cluster.members[1], "pause", "--match=fast-*", "--app-id=app", "--json"))
    assert summary == {"changed": 12, "unchanged": 0}
    time.sleep(1)  # what was out is answered
    before = [len(worker.deliveries) for worker in workers]
    leader = cluster.leader()
    leader.kill()
    time.sleep(3)
    leader.start()
    writer.close()
    writer = Clients(cluster.members[0])
    states = {search(member.scheduler_address, name_pattern="fast-*")[0].state for member in cluster.members}
    assert states == {jobs_pb2.JOB_STATE_PAUSED}
    assert [len(worker.deliveries) for worker in workers] == before
    summary = json.loads(ok(cluster.members[1], "run", "--match=fast-*", "--app-id=app", "--json"))
    assert summary == {"changed": 12, "unchanged": 0}
    wait_for(lambda: sum(len(worker.deliveries) for worker in workers) >= sum(before) + 12, 30, cluster.logs)
    wait_for(lambda: not writer.under(b"raftsched/runs/"), 20, cluster.logs)
    wait_for(lambda: sum(job.owned for member in cluster.members for job in search(member.scheduler_address)) == 24, 30, cluster.logs)
    writer.delete_under(JOBS + composed("fast"))
    wait_for(lambda: not writer.under(b"raftsched/jobs/"), 20, cluster.logs)
    writer.close()
