"""A file of `dapr scheduler export` with as many jobs as one likes, for tests and benchmarks."""

import time
from pathlib import Path

from raftsched.cli.moving import gob
from raftsched.pb.dapr import scheduler_pb2, stored_api_pb2, stored_pb2

JOBS, COUNTERS = b"dapr/jobs/", b"dapr/counters/"
STRIDE = 7_919  # a prime: the file's order is not that of its keys


def write_export(path: Path, jobs: int, payload_bytes: int = 100) -> None:
    """Jobs of the app `app` that fire every 1000 hours, each with a counter, in no order, as a Dapr Scheduler would have them."""
    target = scheduler_pb2.JobTargetMetadata(job=scheduler_pb2.TargetJob())
    metadata = scheduler_pb2.JobMetadata(app_id="app", namespace="default", target=target)
    now_s = int(time.time())
    with path.open("w+b") as file:
        writer = gob.Writer(file)
        writer.begin(1, jobs)
        for number in range(jobs):
            job = stored_pb2.Job(partition_id=number, job=stored_api_pb2.Job(schedule="@every 1000h"))
            job.start.seconds = now_s
            job.job.metadata.Pack(metadata)
            job.job.payload.value = bytes(payload_bytes)
            writer.add(JOBS + _name(number, jobs), job.SerializeToString())
        writer.begin(2, jobs)
        for number in range(jobs):
            counter = stored_pb2.Counter(job_partition_id=number, count=number % 100)
            counter.last_trigger.seconds = now_s
            writer.add(COUNTERS + _name(number, jobs), counter.SerializeToString())
        writer.end()


def _name(number: int, jobs: int) -> bytes:
    return b"app||default||app||%07d" % (number * STRIDE % jobs)
