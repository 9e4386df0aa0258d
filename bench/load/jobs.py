"""The scheduler's rows: durable creation, bursts, steady ticks, lateness, start and memory with many jobs.

The load comes from bench/schedload, a Go program whose figures for a real Dapr Scheduler stand in docs/performance.md.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from bench.load.process import rss_anon_bytes, thread_cpu_ns
from raftsched.pb.dapr import scheduler_pb2, stored_pb2
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.process import ServerProcess

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import tools

LOAD_TIMEOUT_S = 300
BEFORE_DUE_S = 0.1
BURST_CREATION_PER_S = 4_000  # slower than any creation seen: the burst must find an idle loop
Answer = tuple[str, str, str, bool | None]


def schedload(server: ServerProcess, command: str, *arguments: str) -> dict[str, float]:
    """Runs one command of schedload; its `key=value` figures, times in ms."""
    words = [str(tools.schedload()), command, "-addr", server.scheduler_address, *arguments]
    quiet = {"GOGC": "800", **os.environ}  # at Go's default its collector alone stops the generator for up to 70 ms
    answer = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False, env=quiet)
    if answer.returncode:
        raise RuntimeError(f"schedload {command} failed: {answer.stderr.strip()}")
    print(answer.stdout.strip(), file=sys.stderr)
    return {key: number(value) for key, value in re.findall(r"(\w+)=(\S+)", answer.stdout) if number(value) is not None}  # type: ignore[misc]


def number(text: str) -> float | None:
    """A figure without its unit; None for words."""
    match = re.fullmatch(r"(-?[\d.]+)(?:ms|s|us|/s)?", text)
    return float(match[1]) if match else None


def creation(server: ServerProcess, scale: int) -> Iterator[Answer]:
    figures = schedload(server, "schedule", "-n", str(60_000 // scale), "-c", "64")
    yield "ScheduleJob durable, 64 callers", ">= 15 000/s (Dapr: 4 000-4 900/s)", f"{figures['qps']:,.0f}/s", figures["qps"] >= 15_000


class LoopMeter:
    """Samples the CPU time of the server's loop thread beside a load, to find what a part of it cost."""

    INTERVAL_S = 0.02

    def __init__(self, server: ServerProcess) -> None:
        assert server.process is not None
        self._pid = server.process.pid
        self._samples: list[tuple[float, int]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self._stopping.wait(self.INTERVAL_S):
            self._samples.append((time.monotonic(), thread_cpu_ns(self._pid)))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()

    def spent_since_ns(self, moment: float) -> int:
        """CPU time from `moment` (monotonic) to the last sample."""
        return self._samples[-1][1] - max(cpu for at, cpu in self._samples if at <= moment)


def burst(server: ServerProcess, scale: int) -> Iterator[Answer]:
    count = 100_000 // scale
    lead_s = max(count // BURST_CREATION_PER_S, 3)
    with LoopMeter(server) as meter:
        due = time.monotonic() + lead_s  # schedload counts its lead from its own start, a few ms later
        figures = schedload(server, "burst", "-n", str(count), "-lead", f"{lead_s}s")
    rate, drained = figures["rate"], figures["drained_s"]
    yield "burst of 100 000: delivered", ">= 100 000/s (Dapr, 10 000: 62 000/s)", f"{rate:,.0f}/s", rate >= 100_000
    committed = count / drained
    told = f"{drained:.2f} s = {committed:,.0f}/s"
    yield "burst of 100 000: acknowledged and committed", "<= 2.5 s (>= 40 000/s)", told, drained <= 2.5
    each_us = meter.spent_since_ns(due - BEFORE_DUE_S) / count / 1000
    yield "burst of 100 000: CPU in the loop thread per trigger", "<= 18 us", f"{each_us:.1f} us", each_us <= 18


def sustained(server: ServerProcess, scale: int) -> Iterator[Answer]:
    figures = schedload(server, "sustained", "-n", str(30_000 // scale), "-d", "15s")
    told = f"missed {figures['missed']:.0f}, p50 {figures['late_p50_ms']:.2f} ms, p99 {figures['late_p99_ms']:.2f} ms"
    met = figures["missed"] == 0 and figures["late_p50_ms"] < 2 and figures["late_p99_ms"] < 20
    yield "30 000 jobs @every 1s, one stream", "none missed, p50 < 2 ms, p99 < 20 ms", told, met


def lateness(server: ServerProcess) -> Iterator[Answer]:
    figures = schedload(server, "lateness", "-n", "100")
    told = f"p50 {figures['late_p50_ms']:.2f} ms, p99 {figures['late_p99_ms']:.2f} ms, early {figures['early']:.0f}"
    met = figures["late_p50_ms"] < 1 and figures["late_p99_ms"] < 3 and figures["early"] == 0
    yield "100 one-shots over 10 s: lateness", "p50 < 1 ms, p99 < 3 ms, none early (Dapr: 1.1, 5.2)", told, met


def fill(server: ServerProcess, count: int) -> None:
    """`count` recurring jobs with counters and a 100-byte payload, written as an import would, by transactions of 5 000 puts."""
    stub = rpc_pb2_grpc.KVStub(grpc.insecure_channel(server.client_address))
    target = scheduler_pb2.JobMetadata(app_id="app", namespace="default")
    target.target.job.SetInParent()
    job = stored_pb2.Job(partition_id=1)
    job.start.GetCurrentTime()
    job.job.schedule = "@every 10000h"
    job.job.metadata.Pack(target)
    job.job.payload.type_url, job.job.payload.value = "type.googleapis.com/google.protobuf.BytesValue", b"p" * 100
    job.job.failure_policy.constant.interval.seconds = 1
    job.job.failure_policy.constant.max_retries = 3
    counter = stored_pb2.Counter(job_partition_id=1, count=3)
    counter.last_trigger.CopyFrom(job.start)
    job_bytes, counter_bytes = job.SerializeToString(), counter.SerializeToString()
    for first in range(0, count, 5_000):
        request = rpc_pb2.TxnRequest()
        for position in range(first, min(first + 5_000, count)):
            name = b"app||default||app||job-%08d" % position
            request.success.add().request_put.CopyFrom(rpc_pb2.PutRequest(key=b"dapr/jobs/" + name, value=job_bytes))
            request.success.add().request_put.CopyFrom(rpc_pb2.PutRequest(key=b"dapr/counters/" + name, value=counter_bytes))
        stub.Txn(request, timeout=60)


def compact(server: ServerProcess) -> None:
    """Drops all history, and waits until the scrub is done."""
    stub = rpc_pb2_grpc.KVStub(grpc.insecure_channel(server.client_address))
    revision = stub.Range(rpc_pb2.RangeRequest(key=b"x"), timeout=10).header.revision
    stub.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=True), timeout=300)


def many_jobs(folder: Path, count: int) -> Iterator[Answer]:
    server = ServerProcess(folder / f"jobs-{count}").start()
    assert server.process is not None
    empty = rss_anon_bytes(server.process.pid)
    fill(server, count)
    compact(server)
    server.stop(timeout_s=120)
    server.start(wait=False)
    ready_s = server.wait_ready(120)
    loaded_s = ready_s + wait_loaded(server)
    stub = rpc_pb2_grpc.KVStub(grpc.insecure_channel(server.client_address))
    held = stub.Range(rpc_pb2.RangeRequest(key=b"dapr/counters/", range_end=b"dapr/counters0", count_only=True), timeout=60).count
    assert server.process is not None
    each = (rss_anon_bytes(server.process.pid) - empty) / count
    server.stop(timeout_s=120)
    yield (
        f"start to ready, {count:,} jobs",
        "< 5 s" if count <= 1_000_000 else "< 60 s",
        f"{ready_s:.2f} s (engine has all after {loaded_s:.2f} s)",
        ready_s < (5 if count <= 1_000_000 else 60),
    )
    yield f"memory per recurring job, {count:,} jobs", "<= 500 bytes", f"{each:.0f} bytes ({held:,} counters held)", each <= 500


def wait_loaded(server: ServerProcess) -> float:
    """Seconds until the engine says that it knows every job: it serves before, and fires what it knows."""
    begin = time.monotonic()
    while b'"msg":"jobs loaded"' not in server.stderr_path.read_bytes()[server.stderr_offset :]:
        if time.monotonic() - begin > LOAD_TIMEOUT_S:
            raise TimeoutError(f"jobs not loaded within {LOAD_TIMEOUT_S} s:\n{server.logs()}")
        time.sleep(0.02)
    return time.monotonic() - begin


def rows(folder: Path, quick: bool) -> Iterable[Answer]:
    if tools.schedload() is None:
        yield "scheduler under load", "", "missing: go (bench/schedload)", None
        return
    scale = 10 if quick else 1
    with ServerProcess(folder / "jobs") as server:
        yield from lateness(server)
        yield from creation(server, scale)
        yield from burst(server, scale)
        yield from sustained(server, scale)
    yield from many_jobs(folder, 1_000_000 // scale)
    if os.environ.get("RAFTSCHED_BENCH_TEN_MILLION"):  # ten minutes, 15 GB of disk
        yield from many_jobs(folder, 10_000_000)
