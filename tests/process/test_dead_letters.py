"""Retry ladders and dead letters through real processes that are killed in between, on the embedded store and over an etcd of others."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from externals import healthy, one_etcd, replicas
from google.protobuf.wrappers_pb2 import StringValue
from serving import Clients, Worker, composed, metrics, wait_for
from test_jobs_v1 import job_command, ok, post

from raftsched.limits import DEAD_LETTERS_MAX
from raftsched.pb.dapr import common_pb2, scheduler_pb2
from raftsched.pb.etcd import rpc_pb2
from raftsched.scheduler.dead_letters import SPARE
from raftsched.scheduler.jobs.names import DEAD
from raftsched.testing.external import ExternalScheduler
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
SUCCESS, FAILED = 0, 1
WORDS = ("--app-id=app",)
LADDER = "--retry=initial=200ms,factor=2,cap=1s,jitter=10%,max=6"
DROP = common_pb2.JobFailurePolicy(drop=common_pb2.JobFailurePolicyDrop())


def test_a_ladder_and_its_letter_outlive_kill_9(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:

        def kill() -> None:
            server.kill()
            server.start()

        _story([server], kill)
        status, body = post(server, "/v1/dead/list", {"filter": {"app_id": "app"}})
        assert (status, [one["name"]["name"] for one in json.loads(body)["dead_letters"]]) == (200, ["often"])
        status, body = post(server, "/v1/dead/delete", {"jobs": {"filter": {"app_id": "app"}}})
        assert (status, json.loads(body)) == (200, {"changed": "1"})
        assert ok(server, "dead", "list", "--json") == ""
        _bounded([server])


def _bounded(servers: Sequence[Any]) -> None:
    """Of too many the oldest go, by the order in which they came."""
    server = servers[0]
    clients = Clients(server)
    keys = [DEAD + composed(f"filler-{DEAD_LETTERS_MAX - number:05}") + b"/1" for number in range(DEAD_LETTERS_MAX)]
    for first in range(0, len(keys), 100):
        puts = [rpc_pb2.PutRequest(key=key, value=b"x") for key in keys[first : first + 100]]
        clients.kv.Txn(rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=put) for put in puts]), timeout=30)
    clients.schedule("last", due_time="1s", policy=DROP)
    ok(server, "configure", "last", "--dead-letters", *WORDS)
    workers = [Worker(one, answer=lambda _: FAILED) for one in servers]
    try:
        wait_for(lambda: len(clients.under(DEAD)) < DEAD_LETTERS_MAX, 30, server.logs)
    finally:
        for worker in workers:
            worker.stop()
    left = clients.under(DEAD)
    assert [name for name in left if name.startswith(DEAD + composed("last"))]
    gone = [number for number, key in enumerate(keys) if key not in left]
    assert max(gone) < 100, "of the first transaction, whose names are the last ones"
    assert len(left) == DEAD_LETTERS_MAX - SPARE == len(keys) + 1 - len(gone)
    clients.close()


def test_and_over_an_etcd_of_others(tmp_path: Path) -> None:
    with one_etcd(tmp_path) as etcd, replicas(tmp_path, [etcd.address], 2) as servers:

        def kill() -> None:
            """Both at once: their leases live on for twenty seconds."""
            for one in servers:
                one.kill()
            for one in servers:
                one.start()
                healthy(one)

        _story(servers, kill)
        ok(servers[0], "dead", "delete", "--all", *WORDS)
        _bounded(servers)


def _story(servers: Sequence[ServerProcess | ExternalScheduler], kill: Callable[[], None]) -> None:
    failing = True
    server = servers[0]
    clients = Clients(server)  # type: ignore[arg-type]
    workers = [Worker(one, answer=lambda _: FAILED if failing else SUCCESS) for one in servers]  # type: ignore[arg-type]
    try:
        payload = scheduler_pb2.Job().data
        payload.Pack(StringValue(value="of the letter"))
        clients.schedule("once", due_time="2s", data=payload)
        clients.schedule("often", schedule="@every 1h", due_time="2s", policy=DROP)
        ok(server, "configure", "once", LADDER, "--dead-letters", *WORDS)
        ok(server, "configure", "often", "--dead-letters", *WORDS)
        wait_for(lambda: came(workers, "once") >= 3, 30, server.logs)
        kill()
        wait_for(lambda: len(letters(server)) == 2, 60, server.logs)
        if len(servers) == 1:
            kill()
        found = letters(server)
        assert [(one["name"], one["attempts"]) for one in found] == [("often", 1), ("once", 6)]
        assert came(workers, "once") >= 6
        assert clients.stored_job("once") is None
        assert len(clients.under(DEAD + composed("once"))) == 1
        failing = False
        _redriven(server, clients, workers)
    finally:
        for worker in workers:
            worker.stop()
        clients.close()


def _redriven(server: Any, clients: Clients, workers: Sequence[Worker]) -> None:
    """The job that is gone comes back; of the one that is there the letter goes with its success. The last one is made anew."""
    before = came(workers, "once"), came(workers, "often")
    assert ok(server, "dead", "redrive", "once", "--reason=mended", *WORDS) == "redriven 1\n"
    wait_for(lambda: came(workers, "once") > before[0], 30, server.logs)
    wait_for(lambda: clients.stored_job("once") is None, 30, server.logs)
    assert b"of the letter" in next(worker.payloads[worker.deliveries.index("once")] for worker in workers if "once" in worker.deliveries)
    assert [one["name"] for one in letters(server)] == ["often"]
    assert json.loads(ok(server, "dead", "redrive", "--all", "--json", *WORDS)) == {"changed": 1, "unchanged": 0}
    wait_for(lambda: not letters(server), 30, server.logs)
    assert came(workers, "often") > before[1]
    assert clients.stored_job("often") is not None
    assert job_command(server, "dead", "redrive", "once", *WORDS) == (3, "", "Error: no dead letters of job: once\n")
    for worker in workers:
        worker.answer = lambda _: FAILED
    ok(server, "run", "often", *WORDS)
    wait_for(lambda: [one["name"] for one in letters(server)] == ["often"], 30, server.logs)
    table = ok(server, "dead", "list").splitlines()
    assert table[0].split()[:4] == ["NAMESPACE", "APP", "NAME", "RUN"]
    assert table[1].split()[:3] == ["default", "app", "often"]


def came(workers: Sequence[Worker], name: str) -> int:
    return sum(worker.deliveries.count(name) for worker in workers)


def letters(server: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ok(server, "dead", "list", "--json", "--app-id=app").splitlines()]


def test_the_console_configures_and_describes(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:
        clients = Clients(server)
        clients.schedule("a", due_time="0s", policy=DROP)
        clients.schedule("b", schedule="@every 1s")
        ok(server, "configure", "a", "b", "--retry=initial=1m,cap=1h,jitter=25%,max=3", "--dead-letters", *WORDS)
        assert ok(server, "receive", "--count=1", "--failed", "--error=disk full", *WORDS)
        shown: dict[str, Any] = {}

        def told() -> bool:
            shown.update(json.loads(ok(server, "describe", "a", "--json", *WORDS)))
            return "last_error" in shown

        wait_for(told, 20, server.logs)
        assert (shown["last_error"]["text"], shown["attempts"], shown["late"]) == ("disk full", 1, "retry")
        assert shown["retry"] == {"initial": "60s", "cap": "3600s", "jitter_percent": 25, "max_attempts": 3}
        assert shown["dead_letters"] is True
        ok(server, "configure", "a", "--retry=none", "--no-dead-letters", *WORDS)
        shown = json.loads(ok(server, "describe", "a", "--json", *WORDS))
        assert {"retry", "dead_letters"} & shown.keys() == set()
        for wrong in ("initial", "initial=x", "factor=two", "max=0", "jitter=5", "cap=", "often=1"):
            code, _, error = job_command(server, "configure", "a", f"--retry={wrong}", *WORDS)
            assert code == 2
            assert "initial=1s,factor=2" in error
        code, _, error = job_command(server, "configure", "a", "--retry=max=3", *WORDS)
        assert (code, error) == (1, "Error: a retry ladder needs its first wait\n")
        assert job_command(server, "dead", "delete", "a", "b", "--run=x", *WORDS)[0] == 2
        assert 'raftsched_scheduler_dead_letters_total{type="job"}' in metrics(server.metrics_port)
        clients.close()
