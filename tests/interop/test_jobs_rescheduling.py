"""RescheduleJobs over the real door: what changes, what stays, one and many, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from test_jobs_api import JobsSite, get, name
from test_jobs_holding import pause, selector
from test_scheduler_api import job_target, pb, refused, schedule

from raftsched.pb.dapr import stored_pb2
from raftsched.pb.v1 import jobs_pb2
from raftsched.scheduler.jobs._jobs import encode_counter
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, STATES

KEY = b"app||ns||app||a"


@pytest.fixture
async def site() -> AsyncIterator[JobsSite]:
    one = JobsSite()
    await one.open()
    await one.service.start()
    yield one
    await one.close()


async def reschedule(site: JobsSite, jobs: jobs_pb2.JobSelector, **fields: Any) -> tuple[int, int]:
    answer = await site.jobs.RescheduleJobs(jobs_pb2.RescheduleJobsRequest(jobs=jobs, **fields))
    return answer.changed, answer.unchanged


def stored(site: JobsSite) -> Any:
    return stored_pb2.Job.FromString(site.kv.etcd.keys[JOBS + KEY].value)


async def test_the_when_is_new_and_the_rest_stays(site: JobsSite) -> None:
    request = schedule(schedule="@every 1h", repeats=5, due_time="1s", ttl="100h")
    request.job.data.Pack(StringValue(value="x"))
    request.job.failure_policy.drop.SetInParent()
    await site.stub.ScheduleJob(request)
    before = stored(site)
    site.kv.etcd.put(COUNTERS + KEY, encode_counter(before.partition_id, 3, None, 0))
    assert (await get(site, name())).count == 3
    assert await reschedule(site, selector("a"), schedule="0 0 5 * * *", reason="quieter", by="ops") == (1, 0)
    after = stored(site)
    assert (after.job.payload, after.job.metadata, after.job.failure_policy) == (
        before.job.payload,
        before.job.metadata,
        before.job.failure_policy,
    )
    assert (after.job.schedule, after.job.HasField("due_time"), after.job.HasField("ttl"), after.job.HasField("repeats")) == (
        "0 0 5 * * *",
        False,
        False,
        False,
    )
    assert (after.WhichOneof("begin"), after.HasField("expiration")) == ("start", False)
    shown = await get(site, name())
    assert (shown.count, shown.state, shown.next_run.seconds % 86_400) == (0, jobs_pb2.JOB_STATE_SCHEDULED, 5 * 3600)
    assert (shown.last_change.what, shown.last_change.reason, shown.last_change.by) == ("reschedule", "quieter", "ops")
    assert (await site.stub.GetJob(pb.GetJobRequest(name="a", metadata=job_target()))).job.schedule == "0 0 5 * * *"


async def test_a_due_time_a_ttl_and_repeats_are_resolved(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    assert await reschedule(site, selector("a"), schedule="@daily", due_time="2030-01-01T00:00:00Z", ttl="48h", repeats=2) == (1, 0)
    after = stored(site)
    assert (after.WhichOneof("begin"), after.expiration.seconds - after.due_time.seconds, after.job.repeats) == ("due_time", 48 * 3600, 2)
    assert (await get(site, name())).next_run.ToJsonString() == "2030-01-01T00:00:00Z"


async def test_a_paused_job_stays_paused(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    await pause(site, selector("a"), "why")
    await reschedule(site, selector("a"), schedule="@daily")
    shown = await get(site, name())
    assert (shown.state, shown.hold.reason, shown.schedule) == (jobs_pb2.JOB_STATE_PAUSED, "why", "@daily")


async def test_many_by_a_filter(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    for number in range(300):
        site.kv.etcd.put(JOBS + KEY + b"-%03d" % number, site.kv.etcd.keys[JOBS + KEY].value)
    assert await reschedule(site, selector(namespace="ns", name_pattern="a-*"), schedule="@daily") == (300, 0)
    ids = {stored_pb2.Job.FromString(site.kv.etcd.keys[JOBS + KEY + b"-%03d" % number].value).partition_id for number in range(300)}
    assert len(ids) == 300, "each with an id of its own: they are spread over the replicas"
    assert stored(site).job.schedule == "@every 1h"


async def test_what_is_left_of_it_goes_with_the_job(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    await reschedule(site, selector("a"), schedule="@daily")
    assert STATES + KEY in site.kv.etcd.keys
    await site.stub.DeleteJob(pb.DeleteJobRequest(name="a", metadata=job_target()))
    for _ in range(200):
        if not JobsSite.keys(site):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(JobsSite.keys(site))


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({}, "INVALID_ARGUMENT", "job failed validation: job must have either a due time or a schedule"),
        ({"schedule": "0 0 99 * * *"}, "INVALID_ARGUMENT", "job failed validation: end of range (99) above maximum (23): 99"),
        ({"schedule": "@daily", "reason": "x" * 1025}, "INVALID_ARGUMENT", "reason has at most 1024 bytes"),
    ],
)
async def test_refusals(site: JobsSite, fields: dict[str, Any], code: str, text: str) -> None:
    await site.stub.ScheduleJob(schedule())
    assert await refused(reschedule(site, selector("a"), **fields)) == (grpc.StatusCode[code], text)
    assert stored(site).job.schedule == "@every 1h"
    code_, _ = await refused(reschedule(site, selector("none"), schedule="@daily"))
    assert code_ == grpc.StatusCode.NOT_FOUND
