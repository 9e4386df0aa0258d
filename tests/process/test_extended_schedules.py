"""Jobs of the extended dialect through real processes: the right instants, over kill -9, by the console, and into another server."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from serving import Clients, Worker, composed, wait_for
from test_jobs_v1 import job_command, ok, post
from test_moving import run

from raftsched.pb.v1 import jobs_pb2, jobs_pb2_grpc
from raftsched.scheduler.schedule import Extended, Schedules
from raftsched.testing.process import ServerProcess
from raftsched.zones import zone_table

pytestmark = pytest.mark.process
NS = 1_000_000_000
JOBS = {
    "spread": "DIALECT=extended H/3 * * * * *",
    "moved": "DIALECT=extended JITTER=900ms */2 * * * * *",
    "every": "DIALECT=extended JITTER=700ms @every 1500ms",
}


def ticks(clients: Clients, name: str, count: int) -> list[int]:
    """The first ones of a stored job, in ns."""
    job = clients.stored_job(name)
    assert job is not None
    schedule = Schedules(zone_table).parse(job.job.schedule)
    assert isinstance(schedule, Extended)
    at = begin = job.start.ToNanoseconds()
    found = []
    for _ in range(count):
        following = schedule.of(composed(name), begin).next_after(at)
        assert following is not None
        found.append(following)
        at = following
    return found


def done(clients: Clients, name: str) -> int:
    counter = clients.counter(name)
    return 0 if counter is None else counter.count


def counted_right(clients: Clients, name: str) -> None:
    """Its n-th result is of the n-th tick: none was lost, none counted twice."""
    counter = clients.counter(name)
    assert counter is not None
    assert counter.last_trigger.ToNanoseconds() == ticks(clients, name, counter.count)[-1]


def test_the_right_instants_over_a_kill(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:
        clients = Clients(server)
        for name, schedule in JOBS.items():
            clients.schedule(name, schedule=schedule)
        came: dict[str, list[int]] = {name: [] for name in JOBS}

        def answer(name: str) -> int:
            came[name].append(time.time_ns())
            return 0

        worker = Worker(server, answer=answer)
        try:
            wait_for(lambda: all(done(clients, name) >= 2 for name in JOBS), 40, server.logs)
            server.kill()
            clients.close()
            server.start()
            clients = Clients(server)
            wait_for(lambda: all(done(clients, name) >= 5 for name in JOBS), 40, server.logs)
            for name in JOBS:
                counted_right(clients, name)
        finally:
            worker.stop()
        first = {name: ticks(clients, name, 3) for name in JOBS}
        clients.close()
        for name, at in first.items():
            assert all(when >= tick for when, tick in zip(came[name], at, strict=False)), "early"


def test_the_console_and_http_name_the_dialect(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:
        clients = Clients(server)
        clients.schedule("late", app="console", schedule="@daily")
        words = ("--app-id=console",)
        assert ok(server, "reschedule", "late", "--schedule", "H H * * MON#1", "--dialect=extended", *words) == "rescheduled 1\n"
        stored = clients.stored_job("late", app="console")
        assert stored is not None
        assert stored.job.schedule == "DIALECT=extended H H * * MON#1"
        shown = json.loads(ok(server, "describe", "late", "--json", *words))
        assert shown["schedule"] == "DIALECT=extended H H * * MON#1"
        found = json.loads(ok(server, "explain", "H H * * MON#1", "--dialect=extended", "--job=late", "--next=1", "--json", *words))
        assert found["fires"][0]["at"] == shown["next_run"], "explained as the engine has it"
        code, out, _ = job_command(server, "explain", "--dialect=extended", "0 9 32W * *")
        assert (code, out.splitlines()[0]) == (1, "refused: expected a number of 1 to 31: 32W")
        assert out.splitlines()[2].index("^^^") == out.splitlines()[1].index("32W")
        assert job_command(server, "explain", "--dialect=quartz", "@daily")[0] == 1
        status, body = post(server, "/v1/schedules/explain", {"schedule": "0 9 LBD * *", "dialect": "extended", "count": 1})
        assert (status, json.loads(body)["fires"][0]["local"][10:]) == (200, "T09:00:00Z")
        with pytest.raises(Exception, match=r"job failed validation: R is refused"):
            clients.schedule("drawn", app="console", schedule="DIALECT=extended R * * * *")
        with clients_of(server) as stub:
            name = jobs_pb2.JobName(namespace="default", app_id="console", name="late")
            assert stub.GetJob(jobs_pb2.GetJobRequest(name=name), timeout=10).dialect == "extended"
        clients.close()


@contextmanager
def clients_of(server: ServerProcess) -> Iterator[jobs_pb2_grpc.JobsStub]:
    with grpc.insecure_channel(server.scheduler_address) as channel:
        yield jobs_pb2_grpc.JobsStub(channel)


def test_they_move_with_their_counters(tmp_path: Path) -> None:
    file = tmp_path / "jobs.export"
    with ServerProcess(tmp_path / "old") as server:
        clients = Clients(server)
        for name, schedule in JOBS.items():
            clients.schedule(name, schedule=schedule)
        with Worker(server):
            wait_for(lambda: all(done(clients, name) >= 1 for name in JOBS), 40, server.logs)
        before = {name: clients.stored_job(name) for name in JOBS}
        run("export", file, "--address", server.client_address)
        clients.close()
    with ServerProcess(tmp_path / "new") as server:
        run("import", "dapr", file, "--address", server.client_address, "--scratch", tmp_path)
        clients = Clients(server)
        assert {name: clients.stored_job(name) for name in JOBS} == before
        with Worker(server):
            wait_for(lambda: all(done(clients, name) >= 4 for name in JOBS), 60, server.logs)
        for name in JOBS:
            counted_right(clients, name)
        clients.close()
