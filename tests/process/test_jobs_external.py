"""raftsched.v1 on replicas over a real etcd that is not ours: pause, resume, run now, freeze, and what is left of a job that goes."""

import json
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from externals import healthy, one_etcd, replicas
from serving import JOBS, Clients, Worker, composed, instant_ns, wait_for
from test_jobs_v1 import job_command, ok, search

from raftsched.pb.etcd import auth_pb2, rpc_pb2, rpc_pb2_grpc
from raftsched.pb.v1 import jobs_pb2
from raftsched.scheduler.jobs.names import prefix_end
from raftsched.testing.external import ExternalScheduler

pytestmark = pytest.mark.process
NAMES = [f"job-{number}" for number in range(20)]  # to which replica each goes is chance: that one has none is one in half a million
BESIDE = b"raftsched/"


def test_jobs_are_held_run_and_let_go_on_an_etcd_of_others(tmp_path: Path) -> None:
    with one_etcd(tmp_path) as etcd, replicas(tmp_path, [etcd.address], 2) as servers:
        clients = Clients(servers[0])
        for short in NAMES:
            clients.schedule(short, schedule="@every 1s")
        workers = [Worker(one) for one in servers]
        try:
            wait_for(lambda: all(worker.deliveries for worker in workers), 60, servers[0].logs)
            _paused_and_resumed(clients, servers, workers)
            _asked_for(clients, servers, workers)
            _frozen(clients, servers, workers)
            _gone_by_hand(clients, servers)
        finally:
            for worker in workers:
                worker.stop()
            clients.close()


def came(workers: list[Worker]) -> int:
    return sum(len(worker.deliveries) for worker in workers)


def still(workers: list[Worker], seconds: float = 2.2) -> None:
    """What was out is answered; then nothing comes any more."""
    time.sleep(0.7)
    before = came(workers)
    time.sleep(seconds)
    assert came(workers) == before


def states(server: ExternalScheduler) -> set[int]:
    return {job.state for job in search(server.scheduler_address)}


def _paused_and_resumed(clients: Clients, servers: list[ExternalScheduler], workers: list[Worker]) -> None:
    assert json.loads(ok(servers[1], "pause", "--match=job-*", "--app-id=app", "--json")) == {"changed": len(NAMES), "unchanged": 0}
    for one in servers:
        wait_for(lambda one=one: states(one) == {jobs_pb2.JOB_STATE_PAUSED}, 10, one.logs)
    assert set(clients.under(BESIDE)) == {b"raftsched/jobs/" + composed(short) for short in NAMES}
    still(workers)
    resumed_s = time.time()
    before = came(workers)
    assert json.loads(ok(servers[0], "resume", "--all", "--app-id=app", "--json")) == {"changed": len(NAMES), "unchanged": 0}
    assert clients.under(BESIDE) == {}
    wait_for(lambda: came(workers) >= before + len(NAMES), 20, servers[0].logs)
    for short in NAMES:
        counter = clients.counter(short)
        assert counter is not None
        assert instant_ns(counter.last_trigger) / 1e9 > resumed_s - 1.1, "what was missed was skipped"


def _asked_for(clients: Clients, servers: list[ExternalScheduler], workers: list[Worker]) -> None:
    for short in NAMES:
        clients.schedule(f"rare-{short}", schedule="@every 24h")
    assert json.loads(ok(servers[1], "run", "--match=rare-*", "--app-id=app", "--json")) == {"changed": len(NAMES), "unchanged": 0}
    wait_for(lambda: sum(name.startswith("rare") for one in workers for name in one.acknowledged) == len(NAMES), 20, servers[0].logs)
    wait_for(lambda: clients.under(BESIDE) == {}, 10, servers[0].logs)
    assert all(clients.counter(f"rare-{short}") is None for short in NAMES), "count and last run stay"


def _frozen(clients: Clients, servers: list[ExternalScheduler], workers: list[Worker]) -> None:
    ok(servers[0], "freeze", "default", "--reason=incident")
    for one in servers:
        wait_for(lambda one=one: states(one) == {jobs_pb2.JOB_STATE_FROZEN}, 10, one.logs)
    still(workers)
    servers[1].kill()
    servers[1].start()
    assert "incident" in ok(servers[1], "frozen")
    still(workers)
    before = came(workers)
    ok(servers[1], "unfreeze", "default")
    assert clients.under(BESIDE) == {}
    wait_for(lambda: came(workers) >= before + len(NAMES), 60, servers[0].logs)


def _gone_by_hand(clients: Clients, servers: list[ExternalScheduler]) -> None:
    """As etcdctl would: what is beside a job goes, also while the replica that owned it has not its key back."""
    ok(servers[0], "pause", "--all", "--app-id=app")
    for one in servers:  # who has not heard of a pause yet leaves it to the first replica
        wait_for(lambda one=one: states(one) == {jobs_pb2.JOB_STATE_PAUSED}, 10, one.logs)
    assert len(clients.under(BESIDE)) == 2 * len(NAMES)
    clients.delete_under(JOBS + composed(""))
    wait_for(lambda: clients.under(BESIDE) == {}, 30, servers[0].logs)


def test_a_user_who_may_touch_daprs_keys_alone(tmp_path: Path) -> None:
    """Everything of Dapr's works; the rest from the moment at which somebody grants it."""
    words = ("--etcd-client-username=sched", "--etcd-client-password=secret")
    with one_etcd(tmp_path, "--bcrypt-cost=4") as etcd, grpc.insecure_channel(etcd.address) as channel:
        auth, root = _with_users(channel)
        with replicas(tmp_path, [etcd.address], 1, args=words) as (server,), Worker(server) as worker:
            clients = Clients(server)
            clients.schedule("ticks", schedule="@every 1s")
            wait_for(lambda: len(worker.acknowledged) >= 2, 30, server.logs)
            assert "may not read raftsched/" in server.stderr_path.read_text()
            code, _, error = job_command(server, "pause", "ticks", "--app-id=app")
            assert code != 0
            assert "permission denied" in error
            healthy(server)
            _kept_runs_need_their_keys(server, worker, auth, root)
            auth.RoleGrantPermission(_all_under("raftsched/"), timeout=10, metadata=root)
            wait_for(lambda: job_command(server, "pause", "ticks", "--app-id=app")[0] == 0, 30, server.logs)
            wait_for(lambda: states(server) == {jobs_pb2.JOB_STATE_PAUSED}, 30, server.logs)
            still([worker])
            clients.close()


def _kept_runs_need_their_keys(server: ExternalScheduler, worker: Worker, auth: Any, root: list[tuple[str, str]]) -> None:
    """Who may not write where they would lie is told when they are asked for; results are stored as before."""
    readable = _all_under("raftsched/")
    readable.perm.permType = auth_pb2.Permission.READ
    auth.RoleGrantPermission(readable, timeout=10, metadata=root)
    auth.RoleGrantPermission(_all_under("raftsched/jobs/"), timeout=10, metadata=root)
    words = ("configure", "ticks", "--app-id=app")
    wait_for(lambda: job_command(server, *words, "--set-label=a=b")[0] == 0, 30, server.logs)
    for wanted in ("--dead-letters", "--history=3"):
        code, _, error = job_command(server, *words, wanted)
        assert code != 0, wanted
        assert "permission denied" in error
    before = len(worker.acknowledged)
    wait_for(lambda: len(worker.acknowledged) >= before + 2, 30, server.logs)


def _with_users(channel: grpc.Channel) -> tuple[Any, list[tuple[str, str]]]:
    auth = rpc_pb2_grpc.AuthStub(channel)
    for name, password in (("root", "root"), ("sched", "secret")):
        auth.UserAdd(rpc_pb2.AuthUserAddRequest(name=name, password=password), timeout=10)
        auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name=name), timeout=10)
        auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user=name, role=name), timeout=10)
    auth.RoleGrantPermission(_all_under("dapr/"), timeout=10)
    auth.AuthEnable(rpc_pb2.AuthEnableRequest(), timeout=10)
    token = auth.Authenticate(rpc_pb2.AuthenticateRequest(name="root", password="root"), timeout=10).token
    return auth, [("token", token)]


def _all_under(prefix: str) -> rpc_pb2.AuthRoleGrantPermissionRequest:
    perm = auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=prefix.encode(), range_end=prefix_end(prefix.encode()))
    return rpc_pb2.AuthRoleGrantPermissionRequest(name="sched", perm=perm)
