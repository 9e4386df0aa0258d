"""The scheduler's rows with millions of jobs: memory of each, restart, and what a server costs that has nothing to do.

RAFTSCHED_BENCH_TEN_MILLION=1 adds ten million jobs on one replica and three million on three: half an hour, 30 GB of disk.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import grpc

from bench.load.jobs import Answer
from bench.load.process import cpu_s, rss_anon_bytes
from raftsched.pb.dapr import scheduler_pb2, stored_pb2
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.cluster import Cluster
from raftsched.testing.process import ServerProcess

LOAD_TIMEOUT_S = 300
IDLE_S = 30
SETTLED_S = 10  # LMDB's last pages, and timers of the start
PUTS_AT_ONCE = 5_000
STOP_TIMEOUT_S = 120
Servers = Sequence[ServerProcess]


def stored_job() -> tuple[bytes, bytes]:
    """A recurring job that is next due in years, with a payload of 100 bytes, and its counter."""
    target = scheduler_pb2.JobMetadata(app_id="app", namespace="default")
    target.target.job.SetInParent()
    job = stored_pb2.Job(partition_id=1)
    job.start.GetCurrentTime()
    job.job.schedule = "@every 100000h"
    job.job.metadata.Pack(target)
    job.job.payload.type_url, job.job.payload.value = "type.googleapis.com/google.protobuf.BytesValue", b"p" * 100
    job.job.failure_policy.constant.interval.seconds = 1
    job.job.failure_policy.constant.max_retries = 3
    counter = stored_pb2.Counter(job_partition_id=1, count=3)
    counter.last_trigger.CopyFrom(job.start)
    return job.SerializeToString(), counter.SerializeToString()


def fill(address: str, count: int) -> None:
    """`count` jobs, written as an import would, then all history dropped."""
    job, counter = stored_job()
    with grpc.insecure_channel(address) as channel:
        stub = rpc_pb2_grpc.KVStub(channel)
        revision = 0
        for first in range(0, count, PUTS_AT_ONCE):
            request = rpc_pb2.TxnRequest()
            for position in range(first, min(first + PUTS_AT_ONCE, count)):
                name = b"app||default||app||job-%08d" % position
                request.success.add().request_put.CopyFrom(rpc_pb2.PutRequest(key=b"dapr/jobs/" + name, value=job))
                request.success.add().request_put.CopyFrom(rpc_pb2.PutRequest(key=b"dapr/counters/" + name, value=counter))
            revision = stub.Txn(request, timeout=60).header.revision
        stub.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=True), timeout=LOAD_TIMEOUT_S)


def wait_loaded(server: ServerProcess) -> None:
    """Until the engine says that it knows every job of its own: it serves before, and fires what it knows."""
    begin = time.monotonic()
    while b'"msg":"jobs loaded"' not in server.stderr_path.read_bytes()[server.stderr_offset :]:
        if time.monotonic() - begin > LOAD_TIMEOUT_S:
            raise TimeoutError(f"jobs not loaded within {LOAD_TIMEOUT_S} s:\n{server.logs()}")
        time.sleep(0.02)


def pids(servers: Servers) -> list[int]:
    return [one.process.pid for one in servers if one.process is not None]


def restart(servers: Servers) -> tuple[float, float]:
    """Seconds until the last one is ready, and until the last one has all its jobs; all stop before the first starts."""
    for one in servers:
        one.stop(timeout_s=STOP_TIMEOUT_S)
    begin = time.monotonic()
    for one in servers:
        one.start(wait=False)
    for one in servers:
        one.wait_ready(STOP_TIMEOUT_S)
    ready_s = time.monotonic() - begin
    for one in servers:
        wait_loaded(one)
    return ready_s, time.monotonic() - begin


def idle_percent(servers: Servers) -> float:
    """CPU of the busiest one while nothing happens, in percent of a core."""
    time.sleep(SETTLED_S)
    before = [cpu_s(pid) for pid in pids(servers)]
    time.sleep(IDLE_S)
    return max(cpu_s(pid) - then for pid, then in zip(pids(servers), before, strict=True)) / IDLE_S * 100


def many_jobs(servers: Servers, count: int, title: str, ready_target_s: float, idle_target: float) -> Iterator[Answer]:
    """`servers` run, and are empty."""
    empty = [rss_anon_bytes(pid) for pid in pids(servers)]
    fill(servers[0].client_address, count)
    ready_s, loaded_s = restart(servers)
    told = f"{ready_s:.2f} s (engine has all after {loaded_s:.2f} s)"
    yield f"{title}start to ready, {count:,} jobs", f"< {ready_target_s:g} s", told, ready_s < ready_target_s
    with grpc.insecure_channel(servers[0].client_address) as channel:
        request = rpc_pb2.RangeRequest(key=b"dapr/counters/", range_end=b"dapr/counters0", count_only=True)
        held = rpc_pb2_grpc.KVStub(channel).Range(request, timeout=60).count
    each = max((rss_anon_bytes(pid) - before) / count for pid, before in zip(pids(servers), empty, strict=True))
    told = f"{each:.0f} bytes ({held:,} counters held)"
    yield f"{title}memory per recurring job, {count:,} jobs", "<= 500 bytes", told, each <= 500
    idle = idle_percent(servers)
    yield f"{title}CPU of a server that only waits, {count:,} jobs", f"< {idle_target:g} % of a core", f"{idle:.2f} %", idle < idle_target


def on_one(folder: Path, count: int, ready_target_s: float) -> Iterator[Answer]:
    with ServerProcess(folder / f"jobs-{count}") as server:
        yield from many_jobs([server], count, "", ready_target_s, 1)


def on_three(folder: Path, count: int, ready_target_s: float) -> Iterator[Answer]:
    with Cluster(folder / f"three-{count}") as cluster:
        yield from many_jobs(cluster.members, count, "three members: ", ready_target_s, 2)


def rows(folder: Path, quick: bool) -> Iterable[Answer]:
    scale = 10 if quick else 1
    yield from on_one(folder, 1_000_000 // scale, 5)
    yield from on_three(folder, 1_000_000 // scale, 60)
    if os.environ.get("RAFTSCHED_BENCH_TEN_MILLION"):
        yield from on_one(folder, 10_000_000, 60)
        yield from on_three(folder, 3_000_000, 60)
