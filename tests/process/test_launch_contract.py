"""What tools rely on that edit the store beside the scheduler (spec/scheduler.md §6.1, §12): leases, job keys, stalled streams."""

import signal
import socket
import time
from pathlib import Path

import pytest
from google.protobuf import any_pb2
from serving import COUNTERS, JOBS, Clients, Worker, composed, job_metadata, wait_for

from raftsched.pb.dapr import scheduler_pb2, stored_pb2
from raftsched.pb.etcd import rpc_pb2
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
LEADERSHIP = b"dapr/leadership/dapr-scheduler-server-0"


def leases(clients: Clients) -> list[int]:
    return [one.ID for one in clients.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest(), timeout=10).leases]


def test_a_revoked_lease_is_replaced(server: ServerProcess, clients: Clients) -> None:
    wait_for(lambda: clients.get(LEADERSHIP), 10, "no leadership key")
    clients.schedule("ticking", schedule="@every 100ms")
    with Worker(server) as worker:
        wait_for(lambda: len(worker.deliveries) > 2, 10, "no trigger")
        before = leases(clients)
        assert len(before) == 1
        clients.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=before[0]), timeout=10)
        wait_for(lambda: clients.get(LEADERSHIP) and leases(clients) not in ([], before), 30, "no new lease")
        assert len(leases(clients)) == 1
        count = len(worker.deliveries)
        wait_for(lambda: len(worker.deliveries) > count + 5, 10, "triggers do not go on")
        clients.schedule("after", due_time="0s")
        wait_for(lambda: "after" in worker.deliveries, 10, "a new job does not fire")


def test_a_deleted_leadership_key_is_claimed_again(server: ServerProcess, clients: Clients) -> None:
    wait_for(lambda: clients.get(LEADERSHIP), 10, "no leadership key")
    clients.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=LEADERSHIP), timeout=10)
    wait_for(lambda: clients.get(LEADERSHIP), 30, "not claimed again")
    wait_for(lambda: len(leases(clients)) == 1, 10, lambda: f"{len(leases(clients))} leases")
    with Worker(server) as worker:
        clients.schedule("after", due_time="0s")
        wait_for(lambda: worker.deliveries, 10, "no trigger")


def test_keys_that_others_edit_schedule_and_deschedule(server: ServerProcess, clients: Clients) -> None:
    with Worker(server) as worker:
        clients.schedule("gone", schedule="@every 100ms")
        wait_for(lambda: worker.deliveries.count("gone") > 2, 10, "no trigger")
        clients.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=JOBS + composed("gone")), timeout=10)
        job = stored_pb2.Job(partition_id=42)
        job.start.GetCurrentTime()
        job.job.schedule = "@every 100ms"
        job.job.metadata.Pack(job_metadata("app"), type_url_prefix="type.googleapis.com/")
        job.job.payload.value = b"by hand"
        clients.put(JOBS + composed("put"), job.SerializeToString())
        wait_for(lambda: worker.deliveries.count("put") > 2, 10, "the job that was put does not fire")
        assert b"by hand" in worker.payloads
        gone = worker.deliveries.count("gone")
        count = worker.deliveries.count("put")
        wait_for(lambda: worker.deliveries.count("put") > count + 5, 10, "it does not go on")
        assert worker.deliveries.count("gone") - gone == 0, "a deleted job fires"
        # an edit by hand counts at once, with the counter of before gone stale
        job.partition_id = 43
        job.job.payload.value = b"edited"
        clients.put(JOBS + composed("put"), job.SerializeToString())
        wait_for(lambda: b"edited" in worker.payloads, 10, "the edit is not seen")
        clients.put(JOBS + composed("broken"), b"\xff\xff no job")
        clients.put(COUNTERS + composed("put"), b"\xff no counter")
        clients.schedule("after", due_time="0s")
        wait_for(lambda: "after" in worker.deliveries, 10, "a record that cannot be read stops the others")
    assert clients.get(JOBS + composed("broken")) == b"\xff\xff no job"
    clients.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=JOBS, range_end=b"dapr/jobs0"), timeout=10)
    assert clients.listed() == set()


def test_a_job_put_while_the_server_was_down_fires(tmp_path: Path) -> None:
    """The store is the truth: what lies in it at the start is loaded, whoever wrote it."""
    server = ServerProcess(tmp_path / "server").start()
    clients = Clients(server)
    clients.schedule("kept", due_time="0s")
    clients.scheduler.DeleteJob(scheduler_pb2.DeleteJobRequest(name="none", metadata=job_metadata("app")), timeout=10)
    server.kill()
    server.start()
    with Worker(server) as worker:
        wait_for(lambda: worker.deliveries == ["kept"], 15, "not delivered after the restart")
        wait_for(lambda: clients.under(JOBS) == {}, 10, "its key stays")
    clients.close()
    assert server.stop() == 0


def test_deliveries_resume_soon_after_a_kill(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server").start()
    clients = Clients(server)
    clients.schedule("ticking", schedule="@every 100ms")
    with Worker(server) as worker:
        wait_for(lambda: len(worker.deliveries) > 2, 10, "no trigger")
        server.kill()
        count = len(worker.deliveries)
        begin = time.monotonic()
        server.start()
        wait_for(lambda: len(worker.deliveries) > count, 20, "deliveries do not resume")
        assert time.monotonic() - begin < 10  # the contract: within the old lease of 20 s; aim: 2 s
    assert len(leases(clients)) == 1
    clients.close()
    assert server.stop() == 0


def test_an_interrupt_ends_it_in_time_with_stalled_streams(tmp_path: Path) -> None:
    """Streams that never spoke, a worker that never answers, and a client that does not read what it asked for."""
    server = ServerProcess(tmp_path / "server").start()
    clients = Clients(server)
    silent = [clients.scheduler.WatchJobs(iter(lambda: time.sleep(60), None)) for _ in range(5)]
    for number in range(20):
        clients.put(b"big/%d" % number, bytes(1 << 20))
    unread = socket.create_connection(("127.0.0.1", server.client_port))
    unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    unread.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
    lagging = clients.kv.Range.future(rpc_pb2.RangeRequest(key=b"big/", range_end=b"big0"), timeout=60)
    with Worker(server, answer=lambda _: None) as worker:
        clients.schedule("held", due_time="0s")
        wait_for(lambda: worker.deliveries, 10, "no trigger")
        begin = time.monotonic()
        assert server.stop(number=signal.SIGINT) == 0
        assert time.monotonic() - begin < 15
    assert "Scheduler service shut down gracefully" in server.stdout_path.read_text()
    lagging.cancel()
    for stream in silent:
        stream.cancel()
    unread.close()
    clients.close()


def test_nothing_but_the_contracts_keys_is_in_the_store(server: ServerProcess, clients: Clients) -> None:
    """§6.1: nothing else of the scheduler is visible in the key space: jobs, counters, one leadership key."""
    clients.schedule("ticking", schedule="@every 50ms")
    with Worker(server) as worker:
        wait_for(lambda: clients.counter("ticking"), 20, "no counter")
    assert worker.deliveries
    every = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", keys_only=True)
    keys = [pair.key for pair in clients.kv.Range(every, timeout=10).kvs]
    assert keys == [COUNTERS + composed("ticking"), JOBS + composed("ticking"), LEADERSHIP]


def test_a_payload_of_256_mib(server: ServerProcess, clients: Clients) -> None:
    """§2.5, §3: messages up to 2 GiB, here 256 MiB: stored, read again when it is due, delivered; and memory is given back."""
    data = any_pb2.Any(type_url="x", value=bytes(256 << 20))
    request = scheduler_pb2.ScheduleJobRequest(name="large", job=scheduler_pb2.Job(due_time="0s", data=data), metadata=job_metadata("app"))
    clients.scheduler.ScheduleJob(request, timeout=120)
    keys = rpc_pb2.RangeRequest(key=JOBS, range_end=b"dapr/jobs0", count_only=True)
    with Worker(server) as worker:
        wait_for(lambda: worker.payloads, 120, "not delivered")
        assert (worker.deliveries, len(worker.payloads[0])) == (["large"], 256 << 20)
        wait_for(lambda: not clients.kv.Range(keys, timeout=60).count, 60, "its key stays")
    wait_for(lambda: server.memory_bytes() < 256 << 20, 60, lambda: f"{server.memory_bytes()} bytes are kept")
