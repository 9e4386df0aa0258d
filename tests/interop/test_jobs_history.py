"""History and events over the real door: what is configured, kept and shown, and what a watch is told, refused and spared."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from test_jobs_api import JobsSite, get, name
from test_jobs_configuring import configure
from test_jobs_holding import pause, resume, selector
from test_scheduler_api import actor_target, job_target, pb, refused, schedule

from raftsched.limits import EVENT_WATCHES_MAX, HISTORY_RUNS_MAX
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.rpc.jobs import events
from raftsched.scheduler.jobs.names import HISTORY, JOBS, NAMESPACES

KEY = HISTORY + b"app||ns||app||a/"


@pytest.fixture
async def site() -> AsyncIterator[JobsSite]:
    one = JobsSite()
    await one.open()
    await one.service.start()
    yield one
    await one.close()


async def runs(site: JobsSite, limit: int = 0) -> list[jobs_pb2.Run]:
    return list((await site.jobs.ListRuns(jobs_pb2.ListRunsRequest(name=name(), limit=limit))).runs)


class Worker:
    """Acknowledges what comes; counts."""

    def __init__(self, site: JobsSite) -> None:
        self.came = 0
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._answers.put_nowait(pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="app", namespace="ns")))
        self._stream = site.stub.WatchJobs(self._send())
        self._task = asyncio.ensure_future(self._take())

    async def _send(self) -> AsyncIterator[Any]:
        while True:
            yield await self._answers.get()

    async def _take(self) -> None:
        while True:
            trigger = await self._stream.read()
            self.came += 1
            self._answers.put_nowait(pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=trigger.id)))

    def stop(self) -> None:
        self._task.cancel()
        self._stream.cancel()


class Watcher:
    """One WatchEvents stream."""

    def __init__(self, site: JobsSite, **asked: Any) -> None:
        self.stream = site.jobs.WatchEvents(jobs_pb2.WatchEventsRequest(**asked))
        self.told: list[jobs_pb2.Event] = []
        self.token = ""

    async def read(self) -> jobs_pb2.WatchEventsResponse:
        answer: jobs_pb2.WatchEventsResponse = await self.stream.read()
        assert answer is not grpc.aio.EOF
        self.told += answer.events
        self.token = answer.resume_token
        return answer

    async def until(self, *wanted: str) -> list[jobs_pb2.Event]:
        """Reads until these have come; all so far, which are taken."""
        async with asyncio.timeout(20):
            while [kind(event) for event in self.told] != list(wanted):
                await self.read()
        told, self.told = self.told, []
        return told


def kind(event: jobs_pb2.Event) -> str:
    return jobs_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_").lower()


async def watching(site: JobsSite, **asked: Any) -> Watcher:
    watcher = Watcher(site, **asked)
    assert not (await watcher.read()).events
    return watcher


async def test_runs_are_kept_and_shown(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule(schedule="@every 1s", due_time="0s"))
    assert await runs(site) == []
    assert await configure(site, selector("a"), history=state_pb2.History(runs=2)) == (1, 0)
    assert await configure(site, selector("a"), history=state_pb2.History(runs=2)) == (0, 1)
    assert (await get(site, name())).history.runs == 2
    worker = Worker(site)
    while (await get(site, name())).count < 3:
        await asyncio.sleep(0.02)
    worker.stop()
    kept = await runs(site)
    assert len(kept) == 2
    assert kept[0].scheduled_at.seconds == kept[1].scheduled_at.seconds + 1
    assert kept[0].revision > kept[1].revision
    for run in kept:
        assert (run.attempts, run.result, run.asked, run.replica) == (1, state_pb2.RUN_RESULT_SUCCEEDED, False, site.service._id)
        assert run.scheduled_at.ToNanoseconds() <= run.sent_at.ToNanoseconds() + 10**6 <= run.answered_at.ToNanoseconds() + 2 * 10**6
        at = run.scheduled_at
        assert run.run_id.startswith(f"app||ns||app||a/{at.seconds}.{at.nanos:09}/")
        assert run.run_id.endswith("/0")
    assert await runs(site, limit=1) == kept[:1]
    assert await configure(site, selector("a"), history=state_pb2.History()) == (1, 0)
    while [key for key in site.kv.etcd.keys if key.startswith(HISTORY)]:
        await asyncio.sleep(0.01)
    assert not (await get(site, name())).HasField("history")


async def test_what_cannot_be_kept_is_refused(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    code, text = await refused(configure(site, selector("a"), history=state_pb2.History(runs=HISTORY_RUNS_MAX + 1)))
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, f"at most {HISTORY_RUNS_MAX} runs can be kept")
    code, text = await refused(site.jobs.ListRuns(jobs_pb2.ListRunsRequest(name=name("none"))))
    assert (code, text) == (grpc.StatusCode.NOT_FOUND, "job not found: none")


async def test_runs_of_a_job_before_are_not_told(site: JobsSite) -> None:
    site.kv.etcd.put(KEY + b"%016x" % site.kv.etcd.revision, state_pb2.RunRecord(attempts=7).SerializeToString())
    await site.stub.ScheduleJob(schedule())
    assert await runs(site) == []
    site.kv.etcd.put(KEY + b"%016x" % site.kv.etcd.revision, b"\xff")
    assert [run.revision for run in await runs(site)] in ([], [site.kv.etcd.revision]), "one that cannot be read breaks nothing"


async def test_a_watch_is_told_what_happens(site: JobsSite) -> None:
    watcher = await watching(site)
    await site.stub.ScheduleJob(schedule(schedule="@every 1h", due_time="0s"))
    [created] = await watcher.until("created")
    assert created.name == name()
    assert (created.job_type, created.revision) == (jobs_pb2.JOB_TYPE_JOB, (await get(site, name())).revision)
    assert abs(created.heard_at.ToNanoseconds() - site.service.now_ns()) < 10**10
    await pause(site, selector("a"))
    await resume(site, selector("a"))
    _, skipped, _ = await watcher.until("paused", "skipped", "resumed")
    assert (skipped.count, skipped.scheduled_at) == (0, (await get(site, name())).last_run)
    worker = Worker(site)
    await site.stub.ScheduleJob(schedule("b", due_time="0s", schedule="@every 1h"))
    _, ran = await watcher.until("created", "ran")
    assert (ran.name, ran.count, ran.scheduled_at) == (name("b"), 1, (await get(site, name("b"))).last_run)
    await configure(site, selector("a"), history=state_pb2.History(runs=1))
    await site.jobs.RunJobs(jobs_pb2.RunJobsRequest(jobs=selector("a")))
    told = await watcher.until("configured", "run_asked", "succeeded")
    [run] = await runs(site)
    assert (told[-1].run, run.asked, run.result) == (run, True, state_pb2.RUN_RESULT_SUCCEEDED)
    worker.stop()
    await site.jobs.FreezeNamespace(jobs_pb2.FreezeNamespaceRequest(namespace="ns"))
    await site.stub.DeleteJob(pb.DeleteJobRequest(name="a", metadata=schedule().metadata))
    frozen, deleted = await watcher.until("frozen", "deleted")
    assert (frozen.name, deleted.name) == (jobs_pb2.JobName(namespace="ns"), name())
    watcher.stream.cancel()


async def test_a_filter_is_obeyed(site: JobsSite) -> None:
    app = await watching(site, filter=jobs_pb2.JobFilter(namespace="ns", app_id="other"))
    cats = await watching(site, filter=jobs_pb2.JobFilter(actor_type="cat", actor_id="1", name_pattern="b*"))
    everything = await watching(site)
    await site.stub.ScheduleJob(schedule("a"))
    await site.stub.ScheduleJob(schedule("b||c", job_target("other")))
    for short, actor_id in (("a", "1"), ("b", "2"), ("b", "1")):
        await site.stub.ScheduleJob(schedule(short, actor_target("cat", actor_id)))
    await site.jobs.FreezeNamespace(jobs_pb2.FreezeNamespaceRequest(namespace="ns"))
    told = await everything.until(*["created"] * 5, "frozen")
    assert [one.name for one in await app.until("created")] == [name("b||c", app_id="other")]
    [cat] = await cats.until("created")
    assert (cat.name, cat.job_type) == (told[4].name, jobs_pb2.JOB_TYPE_ACTOR_REMINDER)
    assert (cat.name.actor_id, cat.name.name, cat.name.app_id) == ("1", "b", "app"), "the app is in the record alone"
    code, text = await refused(Watcher(site, filter=jobs_pb2.JobFilter(labels={"a": "b"})).read())
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "events cannot be filtered by label")
    for one in (app, cats, everything):
        one.stream.cancel()


async def test_a_token_goes_on_behind_what_was_told(site: JobsSite) -> None:
    watcher = await watching(site)
    await site.stub.ScheduleJob(schedule("a"))
    await watcher.until("created")
    watcher.stream.cancel()
    await site.stub.ScheduleJob(schedule("b"))
    again = Watcher(site, resume_token=watcher.token)
    assert [event.name.name for event in await again.until("created")] == ["b"]
    again.stream.cancel()
    kept = [answer async for answer in site.jobs.WatchEvents(jobs_pb2.WatchEventsRequest(oldest=True, once=True))]
    assert [event.name.name for answer in kept for event in answer.events] == ["a", "b"]
    assert kept[-1].resume_token == str(site.kv.etcd.revision)
    new = [answer async for answer in site.jobs.WatchEvents(jobs_pb2.WatchEventsRequest(once=True))]
    assert [event for answer in new for event in answer.events] == []


async def test_a_token_that_leads_nowhere_is_refused(site: JobsSite) -> None:
    for token in ("x", "-1", "1" * 20, "\u0661"):
        assert await refused(Watcher(site, resume_token=token).read()) == (grpc.StatusCode.INVALID_ARGUMENT, "not a resume token")
    for number in range(3):
        await site.stub.ScheduleJob(schedule(str(number)))
    ahead = site.kv.etcd.revision + 1
    code, text = await refused(Watcher(site, resume_token=str(ahead)).read())
    assert code == grpc.StatusCode.OUT_OF_RANGE
    assert text == f"the token is of revision {ahead}, and the store is at {ahead - 1}: it is another store's"
    token = str(site.kv.etcd.revision)
    site.service.on_reset()
    await asyncio.sleep(0)
    await site.stub.ScheduleJob(schedule("later"))
    while not site.service.loaded.is_set():
        await asyncio.sleep(0.01)
    code, text = await refused(Watcher(site, resume_token=str(int(token) - 1)).read())
    assert code == grpc.StatusCode.OUT_OF_RANGE
    assert text.startswith(f"events behind revision {int(token) - 1} are not kept any more")


async def test_a_reader_that_does_not_read_is_told_that_it_missed_something(site: JobsSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVENTS_PER_MESSAGE", 8)
    watcher = await watching(site)
    for number in range(30_000):
        site.kv.etcd.put(NAMESPACES + b"n" * 200 + str(number).encode(), b"\x0a\x00")
        site.kv.etcd.delete(NAMESPACES + b"n" * 200 + str(number).encode())
    oldest, newest, *_ = site.service.engine.event_span()
    assert newest - oldest <= 8 << 20
    answer = await watcher.read()
    assert answer.missed
    assert len(answer.events) == 8
    assert not (await watcher.read()).missed
    watcher.stream.cancel()


async def test_a_quiet_watch_gets_a_token_now_and_then(site: JobsSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVENT_PROGRESS_MS", 50)
    watcher = await watching(site, filter=jobs_pb2.JobFilter(name_pattern="b"))
    await site.stub.ScheduleJob(schedule("a"))
    async with asyncio.timeout(20):
        while int(watcher.token) < site.kv.etcd.revision:
            assert not (await watcher.read()).events
    watcher.stream.cancel()


async def test_watches_are_bounded_and_leave_nothing(site: JobsSite) -> None:
    watchers = [await watching(site) for _ in range(EVENT_WATCHES_MAX)]
    code, text = await refused(Watcher(site).read())
    assert (code, text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, f"{EVENT_WATCHES_MAX} watches of events are under way")
    assert len(site.service.event_listeners) == EVENT_WATCHES_MAX
    for watcher in watchers:
        watcher.stream.cancel()
    async with asyncio.timeout(20):
        while site.service.event_listeners:
            await asyncio.sleep(0.01)
    assert JOBS  # the door goes on
    (await watching(site)).stream.cancel()
