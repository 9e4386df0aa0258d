"""Pause, resume, freeze, reschedule, run now, configure, dead letters over an external etcd: the suites of memory, over a scripted one."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import test_jobs_configuring as configuring
import test_jobs_dead_letters as dead_letters
import test_jobs_holding as holding
import test_jobs_rescheduling as rescheduling
import test_jobs_running as running
from test_jobs_api import JobsSite, get, name
from test_scheduler_api import Quiet, schedule

from raftsched.pb.v1 import jobs_pb2
from raftsched.scheduler.bridge.external.kv import ExternalKv, Target
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, STATES
from raftsched.testing.fake_etcd import FakeEtcd

OF_MEMORY = {"test_a_refused_write_is_sent_again_and_an_unknown_one_is_not_done_twice"}  # refused by the store in memory itself
for suite in (configuring, dead_letters, holding, rescheduling, running):
    for title in [one for one in vars(suite) if one.startswith("test_") and one not in OF_MEMORY]:
        globals()[f"{suite.__name__}_{title[5:]}"] = vars(suite)[title]
RAW = b"app||ns||app||a"


class OuterKv(ExternalKv):
    """With the store that the tests look into."""

    def __init__(self, fake: FakeEtcd) -> None:
        super().__init__([Target(fake.address, False)], log=Quiet())
        self.fake = fake
        self.etcd = fake.etcd

    async def range(self, request: bytes) -> tuple[int, bytes]:
        """Behind all that a test did to the store."""
        if not self._watch._holds:
            await self._caught_up(self.etcd.revision)
        return await super().range(request)


@pytest.fixture
async def site() -> AsyncIterator[JobsSite]:
    async with FakeEtcd() as fake:
        kv = OuterKv(fake)
        kv.start()
        one = JobsSite(kv)
        await one.open()
        await one.service.start()
        yield one
        await one.close()
        await kv.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def paused(site: JobsSite) -> bool:
    return (await get(site, name())).state == jobs_pb2.JOB_STATE_PAUSED


@pytest.mark.parametrize("whole", [True, False], ids=["job and counter", "job alone"])
async def test_a_job_that_goes_by_hand_takes_its_pause_and_its_run_along(site: JobsSite, whole: bool) -> None:
    await site.stub.ScheduleJob(schedule(schedule="@every 1h"))
    assert await holding.pause(site, holding.selector("a")) == (1, 0)
    await site.jobs.RunJobs(jobs_pb2.RunJobsRequest(jobs=holding.selector("a")))
    assert len(holding.extras(site)) == 2
    site.kv.etcd.delete(JOBS + RAW)
    if whole:
        site.kv.etcd.delete(COUNTERS + RAW)
    await until(lambda: not holding.extras(site))


async def test_a_pause_outlives_the_loss_of_the_history(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule(schedule="@every 1h"))
    assert await holding.pause(site, holding.selector("a"), "maintenance") == (1, 0)
    fake = site.kv.fake
    await fake.close()
    fake.compact(fake.etcd.revision)
    fake.etcd.put(JOBS + b"app||ns||app||b", fake.etcd.keys[JOBS + RAW].value)
    fake.compact(fake.etcd.revision)
    await fake.open()
    await until(lambda: site.kv.stats()["raftsched_external_history_lost_total"] == 1 and site.service.engine.jobs == 2)
    assert await paused(site)
    assert (await get(site, name())).hold.reason == "maintenance"
    assert await holding.resume(site, holding.selector("a")) == (1, 0)
    assert not await paused(site)


async def test_what_another_replica_writes_is_heard_of(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule(schedule="@every 1h"))
    site.kv.etcd.put(STATES + RAW, b"\x0a\x00")  # a pause without a word
    while not await paused(site):
        await asyncio.sleep(0.005)
    site.kv.etcd.delete(STATES + RAW)
    while await paused(site):
        await asyncio.sleep(0.005)


async def test_a_resumed_job_is_never_heard_of_before_its_counter(site: JobsSite) -> None:
    """Or it would run what was to be skipped: both change in one revision, and come by two watches."""
    await site.stub.ScheduleJob(schedule(schedule="@every 1h", due_time="1s"))
    await holding.pause(site, holding.selector("a"))
    site.service._wall_ns = lambda wall=site.service._wall_ns: wall() + 10 * 3600 * 10**9
    fake, engine = site.kv.fake, site.service.engine
    fake.stuck[b"dapr/"] = fake.etcd.revision
    resumed = asyncio.ensure_future(holding.resume(site, holding.selector("a")))
    await until(lambda: STATES + RAW not in site.kv.etcd.keys)
    await asyncio.sleep(0.3)
    look = engine.look(RAW)
    assert look is not None
    assert look[9], "still paused here"
    fake.stuck.clear()
    site.kv.etcd.put(b"dapr/counters/another", b"")
    assert await asyncio.wait_for(resumed, 20) == (1, 0)
    after = engine.look(RAW)
    assert after is not None
    assert not after[9]
    assert (after[4][0] - look[4][0]) % 3600 == 0
    assert after[4][0] > look[4][0], "what was missed is skipped"
