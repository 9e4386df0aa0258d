"""RunJobs over the real door: what is stored, what a worker gets, what is told, what is refused."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from test_jobs_api import JobsSite, get, name
from test_jobs_holding import pause, selector
from test_scheduler_api import pb, refused, schedule

from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, RUNS

KEY = b"app||ns||app||a"


@pytest.fixture
async def site() -> AsyncIterator[JobsSite]:
    one = JobsSite()
    await one.open()
    await one.service.start()
    yield one
    await one.close()


async def run(site: JobsSite, jobs: jobs_pb2.JobSelector, **fields: Any) -> tuple[int, int]:
    answer = await site.jobs.RunJobs(jobs_pb2.RunJobsRequest(jobs=jobs, **fields))
    return answer.changed, answer.unchanged


async def test_a_run_is_asked_for_once_and_made(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    await pause(site, selector("a"), "why")
    assert await run(site, selector("a"), reason="try it", by="ops") == (1, 0)
    assert await run(site, selector("a")) == (0, 1)
    stored = state_pb2.RunRequest.FromString(site.kv.etcd.keys[RUNS + KEY].value)
    assert (stored.reason, stored.by) == ("try it", "ops")
    for _ in range(100):
        if (shown := await get(site, name())).late == jobs_pb2.LATE_REASON_NO_WORKER:
            break
    assert (shown.run_wanted, shown.state, shown.hold.reason) == (True, jobs_pb2.JOB_STATE_LATE, "why")
    requests: asyncio.Queue[Any] = asyncio.Queue()

    async def send() -> AsyncIterator[Any]:
        while True:
            yield await requests.get()

    requests.put_nowait(pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="app", namespace="ns")))
    stream = site.stub.WatchJobs(send())
    trigger = await stream.read()
    assert trigger.name == "a"
    requests.put_nowait(pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=trigger.id)))
    while (shown := await get(site, name())).run_wanted:
        await asyncio.sleep(0.001)
    assert (shown.count, shown.state) == (0, jobs_pb2.JOB_STATE_PAUSED)
    assert RUNS + KEY not in site.kv.etcd.keys
    assert COUNTERS + KEY not in site.kv.etcd.keys
    stream.cancel()


async def test_many_by_a_filter(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    for number in range(300):
        site.kv.etcd.put(JOBS + KEY + b"-%03d" % number, site.kv.etcd.keys[JOBS + KEY].value)
    assert await run(site, selector(name_pattern="a-1*")) == (100, 0)
    assert await run(site, selector(namespace="ns")) == (201, 100)


async def test_refusals(site: JobsSite) -> None:
    code, text = await refused(run(site, selector("none")))
    assert (code, text) == (grpc.StatusCode.NOT_FOUND, "job not found: none")
    code, text = await refused(run(site, selector("a"), reason="x" * 1025))
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "reason has at most 1024 bytes")
