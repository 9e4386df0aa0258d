"""Labels and misfire policies over the real door: what is stored, shown, found by them, refused, and what becomes of them with the job."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from test_jobs_api import JobsSite, get, name
from test_jobs_holding import extras, pause, resume, selector
from test_scheduler_api import job_target, refused, schedule

from raftsched.limits import LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX, MISFIRE_RUNS_MAX, MISFIRE_WINDOW_S_MAX
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.scheduler.jobs.names import JOBS, STATES


@pytest.fixture
async def site() -> AsyncIterator[JobsSite]:
    one = JobsSite()
    await one.open()
    await one.service.start()
    yield one
    await one.close()


async def configure(site: JobsSite, jobs: jobs_pb2.JobSelector, **wanted: Any) -> tuple[int, int]:
    answer = await site.jobs.ConfigureJobs(jobs_pb2.ConfigureJobsRequest(jobs=jobs, **wanted))
    return answer.changed, answer.unchanged


async def add(site: JobsSite, short: str, app_id: str = "app") -> None:
    request = schedule(short, job_target(app_id))
    await site.stub.ScheduleJob(request)


async def test_labels_are_set_shown_and_taken_away(site: JobsSite) -> None:
    await add(site, "a")
    before = site.kv.etcd.keys[JOBS + b"app||ns||app||a"].value
    assert await configure(site, selector("a"), set_labels={"team": "x", "tier": "1"}) == (1, 0)
    assert await configure(site, selector("a"), set_labels={"team": "x"}) == (0, 1)
    assert dict((await get(site, name())).labels) == {"team": "x", "tier": "1"}
    assert site.kv.etcd.keys[JOBS + b"app||ns||app||a"].value == before, "Dapr's record is as it was"
    assert await configure(site, selector("a"), set_labels={"team": "y"}, remove_labels=["tier", "unknown"]) == (1, 0)
    assert dict((await get(site, name())).labels) == {"team": "y"}
    [listed] = (await site.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs
    assert dict(listed.labels) == {"team": "y"}
    assert await configure(site, selector("a"), remove_labels=["team"]) == (1, 0)
    assert extras(site) == []


async def test_they_live_beside_a_pause_and_outlive_an_overwrite_but_not_the_job(site: JobsSite) -> None:
    await add(site, "a")
    await configure(site, selector("a"), set_labels={"team": "x"})
    assert await pause(site, selector("a")) == (1, 0)
    assert dict((await get(site, name())).labels) == {"team": "x"}
    assert await resume(site, selector("a")) == (1, 0)
    request = schedule(schedule="@every 2h")
    request.overwrite = True
    await site.stub.ScheduleJob(request)
    shown = await get(site, name())
    assert (shown.schedule, dict(shown.labels)) == ("@every 2h", {"team": "x"})
    site.kv.etcd.delete(JOBS + b"app||ns||app||a")
    for _ in range(100):
        assert (await refused(get(site, name())))[0] == grpc.StatusCode.NOT_FOUND
        if not extras(site):
            break
    assert extras(site) == []


async def test_they_find_jobs(site: JobsSite) -> None:
    for app_id in ("app", "other"):
        for short in "abcd":
            await add(site, short, app_id)
    assert await configure(site, selector(name_pattern="a"), set_labels={"team": "x", "tier": "1"}) == (2, 0)
    assert await configure(site, selector("b"), set_labels={"team": "x"}) == (1, 0)
    assert await configure(site, selector("c"), set_labels={"team": "y"}) == (1, 0)
    assert await site.searched(labels={"team": "x"}) == ["a", "b", "a"]
    assert await site.searched(labels={"team": "x", "tier": "1"}) == ["a", "a"]
    assert await site.searched(labels={"team": "x"}, app_id="app", name_pattern="b") == ["b"]
    assert await site.searched(labels={"team": "z"}) == []
    assert await pause(site, selector(labels={"team": "x"})) == (3, 0)
    pages, token = [], ""
    while True:
        wanted = jobs_pb2.JobFilter(labels={"team": "x"})
        page = await site.jobs.ListJobs(jobs_pb2.ListJobsRequest(filter=wanted, page_size=1, page_token=token))
        pages += [(job.name.app_id, job.name.name) for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert pages == [("app", "a"), ("app", "b"), ("other", "a")]


async def test_labels_of_a_job_before_are_nobodys(site: JobsSite) -> None:
    key = b"app||ns||app||a"
    site.kv.etcd.put(STATES + key, state_pb2.JobExtra(labels={"team": "x"}).SerializeToString())
    await add(site, "a")
    assert await site.searched(labels={"team": "x"}) == []
    assert dict((await get(site, name())).labels) == {}


async def test_a_misfire_policy_is_stored_shown_and_taken_away(site: JobsSite) -> None:
    await add(site, "a")
    wanted = state_pb2.Misfire(max=3, window=Duration(seconds=600))
    assert await configure(site, selector("a"), misfire=wanted) == (1, 0)
    assert await configure(site, selector("a"), misfire=wanted, set_labels={"team": "x"}) == (1, 0)
    assert await configure(site, selector("a"), set_labels={"team": "y"}) == (1, 0)
    shown = await get(site, name())
    assert (shown.misfire, dict(shown.labels)) == (wanted, {"team": "y"})
    [listed] = (await site.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs
    assert listed.misfire == wanted
    assert await configure(site, selector("a"), misfire=state_pb2.Misfire(), remove_labels=["team"]) == (1, 0)
    assert extras(site) == []
    assert not (await get(site, name())).HasField("misfire")


async def test_a_missed_tick_that_is_not_wanted_is_not_run(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule(schedule="@every 1h", due_time="1s"))
    await configure(site, selector("a"), misfire=state_pb2.Misfire(max=1))
    before = (await get(site, name())).next_run.seconds
    site.service._wall_ns = lambda wall=site.service._wall_ns: wall() + 10 * 3600 * 10**9
    site.service._wake()
    for _ in range(200):
        if (shown := await get(site, name())).state == jobs_pb2.JOB_STATE_LATE:
            break
        await asyncio.sleep(0.01)
    assert shown.next_run.seconds - before in (9 * 3600, 10 * 3600), "the latest of those that are due"
    [passed] = [family for family in site.jobs_api.families() if family.name == "raftsched_scheduler_ticks_passed_over_total"]
    assert passed.samples[("job",)] >= 9


@pytest.mark.parametrize(
    "wanted",
    [
        {"set_labels": {"": "x"}},
        {"set_labels": {"n" * (LABEL_NAME_BYTES_MAX + 1): "x"}},
        {"set_labels": {"n": "v" * (LABEL_VALUE_BYTES_MAX + 1)}},
        {"set_labels": {str(number): "" for number in range(LABELS_MAX + 1)}},
        {"set_labels": {"a": "b"}, "remove_labels": ["a"]},
        {"misfire": state_pb2.Misfire(max=MISFIRE_RUNS_MAX + 1)},
        {"misfire": state_pb2.Misfire(window=Duration(seconds=-1))},
        {"misfire": state_pb2.Misfire(window=Duration(nanos=-1))},
        {"misfire": state_pb2.Misfire(window=Duration(seconds=MISFIRE_WINDOW_S_MAX + 1))},
    ],
)
async def test_what_is_refused(site: JobsSite, wanted: Any) -> None:
    await add(site, "a")
    assert (await refused(configure(site, selector("a"), **wanted)))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert extras(site) == []


async def test_labels_have_a_bound_together(site: JobsSite) -> None:
    await add(site, "a")
    await configure(site, selector("a"), set_labels={str(number): "" for number in range(LABELS_MAX)})
    assert (await refused(configure(site, selector("a"), set_labels={"more": ""})))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert len((await get(site, name())).labels) == LABELS_MAX
