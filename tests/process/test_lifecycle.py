"""How the process starts, stops and fails, as tools that launch it see it (spec/scheduler.md §2.5, §12)."""

import queue
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from serving import Clients

from raftsched.pb.dapr import scheduler_pb2
from raftsched.pb.etcd import rpc_pb2
from raftsched.pb.wellknown import health_pb2, health_pb2_grpc
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process


def wait_for(condition: object, timeout_s: float, what: str) -> None:
    begin = time.monotonic()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() - begin < timeout_s, what
        time.sleep(0.01)


def test_a_started_server_shows_one_leadership_key_with_one_lease(clients: Clients) -> None:
    def keys() -> list[bytes]:
        answer = clients.kv.Range(rpc_pb2.RangeRequest(key=b"dapr/leadership/", range_end=b"dapr/leadership0"), timeout=10)
        return [pair.key for pair in answer.kvs]

    wait_for(lambda: keys() == [b"dapr/leadership/dapr-scheduler-server-0"], 10, "no leadership key")
    assert len(clients.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest(), timeout=10).leases) == 1


def test_a_client_port_of_this_host_alone_is_one_line(tmp_path: Path) -> None:
    """Who maps the port out of a container would else wonder why a backup cannot connect (issue "The whole Dapr Scheduler service")."""
    for args, lines in ((), 1), (("--etcd-client-listen-address=0.0.0.0",), 0):
        with ServerProcess(tmp_path / f"server-{lines}", args=args) as server:
            found = [line for line in server.stdout_path.read_text().splitlines() if "cannot connect" in line]
            assert len(found) == lines, found
            assert all(f"The etcd API listens on localhost:{server.client_port}:" in line for line in found)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_zero(tmp_path: Path, number: signal.Signals) -> None:
    server = ServerProcess(tmp_path / "server").start()
    assert server.stop(number=number) == 0
    assert "Scheduler service shut down gracefully" in server.stdout_path.read_text()


def test_open_streams_do_not_delay_the_stop(tmp_path: Path) -> None:
    """Each ends at once, with the code at which its clients go to another member (etcd) or connect anew (a sidecar)."""
    server = ServerProcess(tmp_path / "server").start()
    clients = Clients(server)
    ask = rpc_pb2.LeaseKeepAliveRequest(ID=clients.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=60), timeout=10).ID)
    create = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"k"))
    initial = scheduler_pb2.WatchJobsRequest(initial=scheduler_pb2.WatchJobsRequestInitial(app_id="app", namespace="default"))
    etcd, ours = (grpc.StatusCode.UNAVAILABLE, "server is shutting down"), (grpc.StatusCode.UNKNOWN, "server is closing")
    with grpc.insecure_channel(server.client_address) as channel:
        streams = {
            "watch": (clients.watch.Watch(open_ended(create)), etcd),
            "silent watch": (clients.watch.Watch(open_ended()), etcd),
            "keep-alive": (clients.lease.LeaseKeepAlive(open_ended(ask)), etcd),
            "health": (health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()), etcd),
            "jobs": (clients.scheduler.WatchJobs(open_ended(initial)), ours),
            "silent jobs": (clients.scheduler.WatchJobs(open_ended()), ours),
            "hosts": (clients.scheduler.WatchHosts(scheduler_pb2.WatchHostsRequest()), ours),
        }
        for name in ("watch", "keep-alive", "health", "hosts"):
            next(streams[name][0])
        time.sleep(0.2)  # let the others reach the server: they are answered nothing
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 3  # 0.05 s; the limit of a drain is 5 s
        for name, (stream, expected) in streams.items():
            with pytest.raises(grpc.RpcError):
                list(stream)
            assert (stream.code(), stream.details()) == expected, name
    clients.close()


def open_ended(*messages: Any) -> Iterator[Any]:
    """These, and then nothing for as long as the call lives."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for message in messages:
        waiting.put(message)
    return iter(waiting.get, None)


def test_a_fresh_directory_is_small_and_private(server: ServerProcess) -> None:
    data = server.directory / "data"
    used = int(subprocess.run(["du", "-s", "-B1", str(data)], capture_output=True, text=True, check=True).stdout.split()[0])
    assert used < 128 << 20
    files = [path for path in data.rglob("*") if path.is_file()]
    assert files
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    assert (data / "default-dapr-scheduler-server-0" / "raftsched-1").is_dir()


def test_a_busy_client_port_is_waited_for(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server")
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", server.client_port))
        holder.listen()
        server.start(wait=False)
        wait_for(lambda: "Scheduler server failed, recreating in" in server.stdout_path.read_text(), 10, server.logs())
        text = f"cannot listen on localhost:{server.client_port} (--etcd-client-port): Address already in use"
        assert text in server.stdout_path.read_text()
        assert server.health() == 503
        assert server.process is not None
        assert server.process.poll() is None
    server.wait_ready(30)
    assert server.stop() == 0


def test_daprs_own_files_are_never_started_over(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server")
    foreign = tmp_path / "server" / "data" / "default-dapr-scheduler-server-0" / "dapr-0.1" / "member" / "snap"
    foreign.mkdir(parents=True)
    (foreign / "db").write_bytes(b"not ours")
    server.start(wait=False)
    assert server.process is not None
    assert server.process.wait(10) == 1
    server.process = None
    assert "raftsched snapshot restore" in server.logs()
    assert "Traceback" not in server.logs()
    assert (foreign / "db").read_bytes() == b"not ours"


def test_a_second_process_on_the_same_directory_waits(tmp_path: Path) -> None:
    first = ServerProcess(tmp_path / "server").start()
    second = ServerProcess(tmp_path / "server")
    second.stdout_path = tmp_path / "second.log"
    second.stderr_path = tmp_path / "second.err"
    second.start(wait=False)
    wait_for(lambda: "Scheduler server failed, recreating in" in second.stdout_path.read_text(), 10, second.logs())
    first.kill()
    second.wait_ready(30)
    assert second.stop() == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server").start()
    clients = Clients(server)
    stalled = clients.scheduler.WatchJobs(iter(lambda: time.sleep(60), None))
    time.sleep(0.2)  # let the stream open
    assert server.process is not None
    begin = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.05)  # a person presses Ctrl-C twice
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(3)
    server.process = None
    assert time.monotonic() - begin < 3
    stalled.cancel()
    clients.close()


def test_a_job_fires_and_its_keys_go(clients: Clients) -> None:
    metadata = scheduler_pb2.JobMetadata(
        app_id="app", namespace="default", target=scheduler_pb2.JobTargetMetadata(job=scheduler_pb2.TargetJob())
    )
    initial = scheduler_pb2.WatchJobsRequest(initial=scheduler_pb2.WatchJobsRequestInitial(app_id="app", namespace="default"))
    outgoing: list[scheduler_pb2.WatchJobsRequest] = [initial]
    requests: queue.Queue[scheduler_pb2.WatchJobsRequest | None] = queue.Queue()
    requests.put(outgoing[0])
    stream = clients.scheduler.WatchJobs(iter(requests.get, None))
    clients.scheduler.ScheduleJob(
        scheduler_pb2.ScheduleJobRequest(name="once", job=scheduler_pb2.Job(due_time="100ms"), metadata=metadata), timeout=10
    )
    trigger = next(stream)
    assert (trigger.name, trigger.id) == ("once", 1)
    requests.put(
        scheduler_pb2.WatchJobsRequest(
            result=scheduler_pb2.WatchJobsRequestResult(id=trigger.id, status=scheduler_pb2.WatchJobsRequestResultStatus.SUCCESS)
        )
    )

    def keys() -> int:
        return clients.kv.Range(rpc_pb2.RangeRequest(key=b"dapr/jobs/", range_end=b"dapr/jobs0", count_only=True), timeout=10).count

    wait_for(lambda: keys() == 0, 5, "the finished one-shot keeps its key")
    requests.put(None)
    stream.cancel()
    with pytest.raises(grpc.RpcError):
        clients.scheduler.GetJob(scheduler_pb2.GetJobRequest(name="once", metadata=metadata), timeout=10)
