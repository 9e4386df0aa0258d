"""Lateness as a running server tells it (docs/observability.md): a trigger's steps are counted once, over both kinds of stores."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from externals import one_etcd
from serving import Worker, job_metadata, metrics, wait_for

from raftsched.pb.dapr import scheduler_pb2, scheduler_pb2_grpc
from raftsched.testing.external import ExternalScheduler
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
RUNS = 5
STEPS = {
    'due_to_sent_seconds_count{type="job",waited_for="nobody"}',
    'sent_to_acknowledged_seconds_count{type="job"}',
    'acknowledged_to_committed_seconds_count{type="job"}',
    'due_to_committed_seconds_count{type="job"}',
}


@pytest.fixture(params=["embedded", "external"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    if request.param == "embedded":
        with ServerProcess(tmp_path / "server") as one:
            yield one
        return
    with one_etcd(tmp_path) as etcd, ExternalScheduler(tmp_path / "replica", [etcd.address]) as one:
        yield one


def steps(server: ServerProcess) -> dict[str, float]:
    found = metrics(server.metrics_port)
    return {step: found[f"raftsched_scheduler_{step}"] for step in STEPS}


def test_each_step_of_each_trigger_is_counted(server: ServerProcess) -> None:
    assert set(steps(server).values()) == {0}
    with Worker(server) as worker, grpc.insecure_channel(server.scheduler_address) as channel:
        sidecars = "dapr_scheduler_sidecars_connected"
        wait_for(lambda: metrics(server.metrics_port)[sidecars] == 1, 20, "the worker is not connected")
        job = scheduler_pb2.Job(schedule="@every 100ms", repeats=RUNS)
        request = scheduler_pb2.ScheduleJobRequest(name="ticks", job=job, metadata=job_metadata("app"))
        scheduler_pb2_grpc.SchedulerStub(channel).ScheduleJob(request, timeout=20)
        wait_for(lambda: set(steps(server).values()) == {RUNS}, 30, lambda: f"{steps(server)}\n{server.logs()}")
        assert worker.deliveries == ["ticks"] * RUNS
    found = metrics(server.metrics_port)
    total = found['raftsched_scheduler_due_to_committed_seconds_sum{type="job"}']
    parts = [
        found['raftsched_scheduler_due_to_sent_seconds_sum{type="job",waited_for="nobody"}'],
        found['raftsched_scheduler_sent_to_acknowledged_seconds_sum{type="job"}'],
        found['raftsched_scheduler_acknowledged_to_committed_seconds_sum{type="job"}'],
    ]
    assert total == pytest.approx(sum(parts), abs=1e-6)
