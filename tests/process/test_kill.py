"""kill -9 under load, again and again: nothing that was acknowledged may be missing afterwards.

Two writers run against the real server: one puts keys, one schedules far-away jobs. Each notes a write only after its
acknowledgement. After every kill the server starts again on the same directory and everything noted is looked for.
"""

import random
import threading
import time
from pathlib import Path

import grpc
import pytest
from serving import Clients

from raftsched.pb.dapr import scheduler_pb2
from raftsched.pb.etcd import kv_pb2, rpc_pb2
from raftsched.testing.process import ServerProcess

KILLS = 50
WRITERS = 8
METADATA = scheduler_pb2.JobMetadata(
    app_id="app", namespace="default", target=scheduler_pb2.JobTargetMetadata(job=scheduler_pb2.TargetJob())
)


class Load:
    """Writers that note what was acknowledged; `stop` joins them."""

    def __init__(self, server: ServerProcess, round_number: int, keys: dict[bytes, bytes], jobs: set[str]) -> None:
        self._server = server
        self._round = round_number
        self._keys = keys
        self._jobs = jobs
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._put, args=(n,)) for n in range(WRITERS)]
        self._threads.append(threading.Thread(target=self._schedule))
        for thread in self._threads:
            thread.start()

    def _put(self, writer: int) -> None:
        clients = Clients(self._server)
        number = 0
        while not self._stopping.is_set():
            key = b"load/%d/%d/%d" % (self._round, writer, number)
            value = random.randbytes(200)
            try:
                clients.kv.Put(rpc_pb2.PutRequest(key=key, value=value), timeout=5)
            except grpc.RpcError:
                break  # the kill: the outcome of this one is unknown, so it is not noted
            self._keys[key] = value
            number += 1
        clients.close()

    def _schedule(self) -> None:
        clients = Clients(self._server)
        number = 0
        while not self._stopping.is_set():
            name = f"job-{self._round}-{number}"
            request = scheduler_pb2.ScheduleJobRequest(name=name, job=scheduler_pb2.Job(due_time="24h"), metadata=METADATA)
            try:
                clients.scheduler.ScheduleJob(request, timeout=5)
            except grpc.RpcError:
                break
            self._jobs.add(name)
            number += 1
        clients.close()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def stored(clients: Clients, prefix: bytes) -> dict[bytes, bytes]:
    answer = clients.kv.Range(rpc_pb2.RangeRequest(key=prefix, range_end=prefix[:-1] + bytes([prefix[-1] + 1])), timeout=30)
    pairs: list[kv_pb2.KeyValue] = list(answer.kvs)
    return {pair.key: pair.value for pair in pairs}


def check(server: ServerProcess, keys: dict[bytes, bytes], jobs: set[str]) -> None:
    """Every noted write is there, by both APIs."""
    clients = Clients(server)
    found = stored(clients, b"load/")
    lost = [key for key, value in keys.items() if found.get(key) != value]
    assert not lost, f"{len(lost)} acknowledged puts are gone, the first is {lost[0]!r}"
    listed = {job.name for job in clients.scheduler.ListJobs(scheduler_pb2.ListJobsRequest(metadata=METADATA), timeout=30).jobs}
    missing = jobs - listed
    assert not missing, f"{len(missing)} acknowledged jobs are gone, one is {min(missing)}"
    clients.close()


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.once
def test_nothing_acknowledged_is_lost_over_fifty_kills(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server")
    keys: dict[bytes, bytes] = {}
    jobs: set[str] = set()
    chance = random.Random(20)
    for round_number in range(KILLS):
        server.start()
        check(server, keys, jobs)
        load = Load(server, round_number, keys, jobs)
        time.sleep(chance.uniform(0.05, 0.6))  # the moment of the kill, not a wait for a condition
        server.kill()
        load.stop()
    server.start()
    check(server, keys, jobs)
    assert len(keys) > KILLS, "the load did not write"
    assert len(jobs) > KILLS
    assert server.stop() == 0
