"""`raftsched serve --etcd-embed=false` over real etcds: what is opened and what not, how replicas share, scale, die and come back."""

import socket
import time
from pathlib import Path

import grpc
import pytest
from externals import healthy, load, one_etcd, replicas, three_etcds
from serving import Clients, Worker, fetch, metrics, wait_for

from raftsched.pb.dapr import scheduler_pb2, scheduler_pb2_grpc
from raftsched.pb.etcd import rpc_pb2
from raftsched.scheduler.jobs._jobs import parse_leadership
from raftsched.testing.external import ExternalScheduler

pytestmark = pytest.mark.process
LEADERSHIP = b"dapr/leadership/"


def totals(clients: Clients) -> list[int]:
    """What the leadership keys say, in their order."""
    return [parse_leadership(value)[0] for _, value in sorted(clients.under(LEADERSHIP).items())]


def hosts(one: ExternalScheduler) -> set[str]:
    """The first message of WatchHosts."""
    with grpc.insecure_channel(one.scheduler_address) as channel:
        stream = scheduler_pb2_grpc.SchedulerStub(channel).WatchHosts(scheduler_pb2.WatchHostsRequest(), timeout=10)
        found = {host.address for host in next(iter(stream)).hosts}
        stream.cancel()
        return found


def test_it_is_ready_before_etcd_is_there_and_opens_nothing_of_a_store(tmp_path: Path) -> None:
    etcd = one_etcd(tmp_path)
    with ExternalScheduler(tmp_path / "replica", [f"http://{etcd.address}"], name="any-7") as server:
        assert server.health() == 200  # spec §10.2: without having connected
        with etcd:
            clients = Clients(server)
            clients.schedule("a", schedule="@every 1s", repeats=3)
            with Worker(server) as worker:
                wait_for(lambda: len(worker.acknowledged) == 3, 30, "no triggers")
                wait_for(lambda: not clients.under(b"dapr/jobs/"), 30, "a finished job stays")
            assert list(clients.under(b"dapr/")) == [LEADERSHIP + b"any-7"]
            assert len(clients.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest()).leases) == 1
            assert hosts(server) == {f"127.0.0.1:{server.scheduler_port}"}
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", server.client_port), timeout=2)
            assert not (server.directory / "data").exists()
            assert metrics(server.metrics_port)["raftsched_external_etcd_up"] == 1
            assert "dapr_scheduler_jobs_triggered_total" in fetch(server.metrics_port, "/metrics")[1]
            assert server.stop() == 0
            assert clients.under(b"dapr/") == {}
            assert not clients.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest()).leases
            clients.close()
    out = server.stdout_path.read_text()
    assert "Cron is ready" in out
    assert "Scheduler service shut down gracefully" in out


def test_replicas_come_and_go_while_jobs_run(tmp_path: Path) -> None:
    """1 -> 3 -> 1 over three etcds: nothing lost, nothing early."""
    with three_etcds(tmp_path) as etcd, replicas(tmp_path, etcd.addresses, 1) as (first,):
        clients = Clients(first)
        with load([first], etcd.addresses) as jobs:
            with replicas(tmp_path / "more", etcd.addresses, 3) as more:
                joined = more[1:]
                more[0].kill()  # its id is taken: it only waited
                for one in joined:
                    jobs.connect(one.scheduler_address)
                wait_for(lambda: totals(clients) == [3, 3, 3], 30, lambda: f"no agreement\n{first.logs()}")
                wait_for(lambda: len(hosts(first)) == 3, 30, "hosts are missing")
                time.sleep(4)
                for one in joined:
                    jobs.disconnect(one.scheduler_address)
                    assert one.stop() == 0
                wait_for(lambda: totals(clients) == [1], 30, lambda: f"no agreement\n{first.logs()}")
            time.sleep(3)
        clients.close()


def test_the_jobs_of_a_killed_replica_go_on_elsewhere(tmp_path: Path) -> None:
    """Its lease ends 20 s after its last renewal; the others' jobs do not notice."""
    with three_etcds(tmp_path) as etcd, replicas(tmp_path, etcd.addresses, 3) as (one, two, three):
        clients = Clients(one)
        wait_for(lambda: totals(clients) == [3, 3, 3], 30, "no agreement")
        with load([one, two, three], etcd.addresses, recurring=12) as jobs:
            time.sleep(2)
            two.kill()
            jobs.disconnect(two.scheduler_address)
            wait_for(lambda: totals(clients) == [2, 2], 40, lambda: f"the key of a dead replica stays\n{one.logs()}")
            time.sleep(1)
            two.start(wait=False).wait_ready(180)
            jobs.connect(two.scheduler_address)
            wait_for(lambda: totals(clients) == [3, 3, 3], 30, "it is not taken back")
            time.sleep(2)
        clients.close()


def test_a_second_process_of_one_id_waits_for_its_turn(tmp_path: Path) -> None:
    with one_etcd(tmp_path) as etcd, replicas(tmp_path, [etcd.address], 1) as (first,):
        clients = Clients(first)
        wait_for(lambda: totals(clients) == [1], 30, "no key")
        [before] = clients.under(LEADERSHIP).values()
        with replicas(tmp_path / "second", [etcd.address], 1) as (second,):
            time.sleep(1.5)
            assert clients.under(LEADERSHIP) == {LEADERSHIP + b"dapr-scheduler-server-0": before}
            assert "Cron is ready" not in second.stdout_path.read_text()
            assert first.stop() == 0
            wait_for(lambda: "Cron is ready" in second.stdout_path.read_text(), 30, lambda: f"it still waits\n{second.logs()}")
            [after] = clients.under(LEADERSHIP).values()
            assert parse_leadership(after)[1] != parse_leadership(before)[1]
        clients.close()


def test_a_lease_or_key_that_is_taken_away_is_claimed_again(tmp_path: Path) -> None:
    with one_etcd(tmp_path) as etcd, replicas(tmp_path, [etcd.address], 1) as (server,):
        clients = Clients(server)
        wait_for(lambda: totals(clients) == [1], 30, "no key")
        with load([server], [etcd.address], recurring=3):
            [lease] = clients.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest()).leases
            clients.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease.ID))
            wait_for(lambda: totals(clients) == [1], 30, "not claimed again")
            clients.delete_under(LEADERSHIP)
            wait_for(lambda: totals(clients) == [1], 30, "not claimed again")
            time.sleep(1.5)
            assert len(clients.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest()).leases) == 1
        healthy(server)
        clients.close()


def test_what_others_write_counts_at_once(tmp_path: Path) -> None:
    with one_etcd(tmp_path) as etcd, replicas(tmp_path, [etcd.address], 1) as (server,):
        clients = Clients(server)
        clients.schedule("a", schedule="@every 1s")
        [(key, value)] = clients.under(b"dapr/jobs/").items()
        with Worker(server) as worker:
            wait_for(lambda: worker.deliveries, 30, "no triggers")
            clients.delete_under(b"dapr/jobs/")
            wait_for(lambda: not clients.under(b"dapr/counters/"), 30, "the counter of a job deleted by hand stays")
            count = len(worker.deliveries)
            time.sleep(2.2)
            assert len(worker.deliveries) == count
            clients.put(key, value)
            wait_for(lambda: len(worker.deliveries) > count, 30, "a job put by hand does not run")
        clients.close()
