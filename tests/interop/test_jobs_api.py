"""raftsched.v1.Jobs over the real door with a grpcio client, on the memory store: what is told of a job, filters, pages, streams."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from test_scheduler_api import Site, actor_target, job_target, pb, refused, schedule

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import EXPLAINED_PASSED_MAX, JOB_SEARCHES_MAX
from raftsched.pb.v1 import jobs_pb2, jobs_pb2_grpc, state_pb2
from raftsched.rpc.jobs import listing
from raftsched.rpc.jobs.api import JobsApi
from raftsched.rpc.jobs.search import Searches
from raftsched.rpc.metrics import GrpcStats
from raftsched.scheduler.jobs.names import JOBS


class JobsSite(Site):
    def __init__(self, kv: Any = None) -> None:
        super().__init__(kv)
        self.jobs_api = JobsApi(self.service, self.door, self.api.access, GrpcStats())
        self.jobs: Any = None

    async def open(self) -> None:
        await super().open()
        self.jobs = jobs_pb2_grpc.JobsStub(self.channel)

    async def close(self) -> None:
        self.jobs_api.close_streams()
        await super().close()

    async def searched(self, **asked: Any) -> list[str]:
        stream = self.jobs.SearchJobs(jobs_pb2.SearchJobsRequest(filter=jobs_pb2.JobFilter(**asked)))
        return [job.name.name async for job in stream]


@pytest.fixture
async def site() -> AsyncIterator[JobsSite]:
    one = JobsSite()
    await one.open()
    await one.service.start()
    yield one
    await one.close()


def name(short: str = "a", **parts: str) -> jobs_pb2.JobName:
    return jobs_pb2.JobName(**{"namespace": "ns", "app_id": "app", **parts}, name=short)


async def get(site: JobsSite, asked: jobs_pb2.JobName) -> Any:
    return await site.jobs.GetJob(jobs_pb2.GetJobRequest(name=asked))


async def test_a_job_tells_its_runs(site: JobsSite) -> None:
    data = schedule().job.data
    data.Pack(StringValue(value="x"))
    await site.stub.ScheduleJob(schedule(schedule="@every 1h", repeats=3, due_time="0s", data=data))
    for _ in range(100):
        if (job := await get(site, name())).state == jobs_pb2.JOB_STATE_LATE:
            break
    assert (job.state, job.late) == (jobs_pb2.JOB_STATE_LATE, jobs_pb2.LATE_REASON_NO_WORKER)
    assert (job.owned, job.count, job.attempts, job.HasField("last_run")) == (True, 0, 0, False)
    assert job.next_run == job.begins
    assert (job.schedule, job.repeats, job.due_time, job.type) == ("@every 1h", 3, "0s", jobs_pb2.JOB_TYPE_JOB)
    assert (job.data.type_url, job.data.value) == (data.type_url, data.value)
    assert (job.failure_policy.drop, job.failure_policy.interval.seconds, job.failure_policy.max_retries) == (False, 1, 3)
    requests: asyncio.Queue[Any] = asyncio.Queue()

    async def send() -> AsyncIterator[Any]:
        while True:
            yield await requests.get()

    requests.put_nowait(pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="app", namespace="ns")))
    stream = site.stub.WatchJobs(send())
    trigger = await stream.read()
    job = await get(site, name())
    assert (job.state, job.late) == (jobs_pb2.JOB_STATE_RUNNING, jobs_pb2.LATE_REASON_AWAITING_RESULT)
    requests.put_nowait(pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=trigger.id)))
    while (after := await get(site, name())).count == 0:
        await asyncio.sleep(0.001)
    assert (after.state, after.last_run, after.revision) == (jobs_pb2.JOB_STATE_SCHEDULED, job.next_run, job.revision)
    assert after.next_run.seconds == job.next_run.seconds + 3600
    stream.cancel()


async def test_a_failed_run_counts_its_attempts(site: JobsSite) -> None:
    job = schedule(due_time="0s")
    job.job.failure_policy.constant.interval.seconds = 3600
    await site.stub.ScheduleJob(job)
    requests: asyncio.Queue[Any] = asyncio.Queue()

    async def send() -> AsyncIterator[Any]:
        while True:
            yield await requests.get()

    requests.put_nowait(pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="app", namespace="ns")))
    stream = site.stub.WatchJobs(send())
    trigger = await stream.read()
    requests.put_nowait(pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=trigger.id, status=pb.FAILED)))
    while not (shown := await get(site, name())).attempts:
        await asyncio.sleep(0.001)
    assert (shown.attempts, shown.count, shown.state, shown.late) == (1, 0, jobs_pb2.JOB_STATE_LATE, jobs_pb2.LATE_REASON_RETRY)
    stream.cancel()


async def test_filters(site: JobsSite) -> None:
    for short in ("alpha", "beta"):
        await site.stub.ScheduleJob(schedule(short))
    await site.stub.ScheduleJob(schedule("gamma", job_target("other")))
    await site.stub.ScheduleJob(schedule("delta", job_target("app", "elsewhere")))
    await site.stub.ScheduleJob(schedule("remind", actor_target("cat", "1")))
    await site.stub.ScheduleJob(schedule("flow", actor_target("dapr.internal.ns.app.workflow", "w1")))
    assert await site.searched() == ["remind", "flow", "delta", "alpha", "beta", "gamma"]
    assert await site.searched(namespace="ns") == ["remind", "flow", "alpha", "beta", "gamma"]
    assert await site.searched(app_id="other") == ["gamma"]
    assert await site.searched(name_pattern="*eta") == ["beta"]
    assert await site.searched(name_pattern="*l*a", namespace="ns") == ["alpha"]
    assert await site.searched(type=jobs_pb2.JOB_TYPE_JOB, namespace="elsewhere") == ["delta"]
    assert await site.searched(type=jobs_pb2.JOB_TYPE_ACTOR_REMINDER) == ["remind"]
    assert await site.searched(type=jobs_pb2.JOB_TYPE_WORKFLOW_REMINDER) == ["flow"]
    assert await site.searched(actor_type="cat", actor_id="1") == ["remind"]
    assert await site.searched(actor_type="cat", actor_id="2") == []
    shown = await get(site, name("flow", actor_type="dapr.internal.ns.app.workflow", actor_id="w1"))
    assert (shown.type, shown.name.app_id) == (jobs_pb2.JOB_TYPE_WORKFLOW_REMINDER, "app")


async def test_pages_tell_each_job_once(site: JobsSite) -> None:
    for number in range(25):
        await site.stub.ScheduleJob(schedule(f"job-{number:02}"))
    found, token, pages = [], "", 0
    while True:
        page = await site.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=10, page_token=token))
        found += [job.name.name for job in page.jobs]
        pages, token = pages + 1, page.next_page_token
        if not token:
            break
    assert found == [f"job-{number:02}" for number in range(25)]
    assert pages == 3
    assert len((await site.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs) == 25


async def test_a_page_whose_filter_finds_little_ends_short(site: JobsSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftsched.rpc.jobs.api.JOB_SCAN_MAX", 10)
    for number in range(25):
        await site.stub.ScheduleJob(schedule(f"job-{number:02}"))
    request = jobs_pb2.ListJobsRequest(filter=jobs_pb2.JobFilter(name_pattern="*24"))
    found: list[str] = []
    tokens = 0
    while True:
        page = await site.jobs.ListJobs(request)
        found += [job.name.name for job in page.jobs]
        if not page.next_page_token:
            break
        request.page_token, tokens = page.next_page_token, tokens + 1
    assert (found, tokens) == (["job-24"], 2)


async def test_what_is_no_job_is_passed_over(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    site.kv.etcd.put(JOBS + b"app||ns||app||junk", b"\xff\xff")
    site.kv.etcd.put(JOBS + b"app||ns||app||stray", site.kv.etcd.keys[JOBS + b"app||ns||app||a"].value)
    site.kv.etcd.put(JOBS + b"app||ns||other||stray", site.kv.etcd.keys[JOBS + b"app||ns||app||a"].value)
    assert await site.searched() == ["a", "stray"]
    code, text = await refused(get(site, name("junk")))
    assert (code, text) == (grpc.StatusCode.DATA_LOSS, "the stored job cannot be read: malformed stored.Job")


@pytest.mark.parametrize(
    ("asked", "code", "text"),
    [
        (name("none"), "NOT_FOUND", "job not found: none"),
        (name(app_id=""), "INVALID_ARGUMENT", "missing namespace or appID in request"),
        (name(namespace=""), "INVALID_ARGUMENT", "missing namespace or appID in request"),
        (name(actor_id="x"), "INVALID_ARGUMENT", "actor_id needs actor_type"),
        (name("a/b"), "INVALID_ARGUMENT", "job name is invalid \"app||ns||app||a/b\": must not contain '/', '\\', '#' or '?'"),
    ],
)
async def test_refusals(site: JobsSite, asked: Any, code: str, text: str) -> None:
    assert await refused(get(site, asked)) == (grpc.StatusCode[code], text)


async def test_bad_pages_are_refused(site: JobsSite) -> None:
    for request in ({"page_size": 1001}, {"page_token": "junk"}, {"filter": jobs_pb2.JobFilter(actor_id="x")}):
        code, _ = await refused(site.jobs.ListJobs(jobs_pb2.ListJobsRequest(**request)))
        assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_with_tls_a_caller_sees_its_own_app_alone(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    site.api.access.tls = True  # the channel shows no certificate
    unknown = (grpc.StatusCode.UNAUTHENTICATED, "failed to get identity from context")
    missing = (grpc.StatusCode.INVALID_ARGUMENT, "missing namespace or appID in request")
    assert await refused(get(site, name())) == unknown
    assert await refused(site.jobs.ListJobs(jobs_pb2.ListJobsRequest())) == missing
    whole = jobs_pb2.JobFilter(namespace="ns", app_id="app")
    assert await refused(site.jobs.ListJobs(jobs_pb2.ListJobsRequest(filter=whole))) == unknown
    stream = site.jobs.SearchJobs(jobs_pb2.SearchJobsRequest(filter=whole))
    assert await refused(stream.read()) == unknown


class Unread:
    """A stream whose peer takes nothing: there is never room."""

    def __init__(self) -> None:
        self.pushed: list[bytes] = []
        self.finished: tuple[int, str] | None = None

    def push(self, message: bytes) -> bool:
        self.pushed.append(message)
        return False

    def finish(self, code: int = 0, message: str = "") -> None:
        self.finished = (code, message)

    def peer_certificate(self) -> None:
        return None


async def test_searches_go_at_the_readers_pace_are_bounded_and_end_with_the_server(site: JobsSite) -> None:
    for short in ("a", "b", "c"):
        await site.stub.ScheduleJob(schedule(short))
    searches = Searches(site.service, site.jobs_api.admitted_filter)
    streams: list[Any] = [Unread() for _ in range(JOB_SEARCHES_MAX)]
    handlers = [searches.open(stream, "") for stream in streams]
    for handler in handlers:
        handler.on_messages([b""])
    for count in (1, 2, 3):
        for _ in range(20):
            await asyncio.sleep(0)
        assert {len(stream.pushed) for stream in streams} == {count}
        for handler in handlers:
            handler.on_writable()
        if count == 1:
            with pytest.raises(StatusError) as caught:
                searches.open(Unread(), "")  # type: ignore[arg-type]
            assert caught.value.code == GrpcCode.RESOURCE_EXHAUSTED
            handlers.pop().on_closed(1)
            streams.pop()
            late: Any = Unread()
            searches.open(late, "")
    for _ in range(20):
        await asyncio.sleep(0)
    assert {stream.finished for stream in streams} == {(0, "")}
    searches.close()
    assert late.finished == (int(GrpcCode.UNAVAILABLE), "server is closing")
    site.jobs_api.close_streams()
    code, text = await refused(site.jobs.SearchJobs(jobs_pb2.SearchJobsRequest()).read())
    assert (code, text) == (grpc.StatusCode.UNAVAILABLE, "server is closing")


async def test_the_loop_is_let_go_while_a_search_runs(site: JobsSite, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.stub.ScheduleJob(schedule("job"))
    stored = site.kv.etcd.keys[JOBS + b"app||ns||app||job"].value
    for number in range(500):
        site.kv.etcd.put(JOBS + b"app||ns||app||job-%04d" % number, stored)
    rests = []
    real = listing.Slices.rest

    async def counted(self: listing.Slices) -> None:
        rests.append(self)
        await real(self)

    monkeypatch.setattr(listing.Slices, "rest", counted)
    monkeypatch.setattr(listing, "LOOP_SLICE_MS", 0)
    assert len(await site.searched()) == 501
    assert len(rests) == 501


async def test_an_unknown_method_says_so(site: JobsSite) -> None:
    call = site.channel.unary_unary("/raftsched.v1.Jobs/Nothing")
    assert await refused(call(b"")) == (grpc.StatusCode.UNIMPLEMENTED, "unknown method Nothing for service raftsched.v1.Jobs")


async def test_schedules_are_explained(site: JobsSite) -> None:
    request = jobs_pb2.ExplainScheduleRequest(schedule="CRON_TZ=Europe/Rome 0 30 2 * * *", count=2)
    request.now.FromJsonString("2026-03-28T12:00:00Z")
    answer = await site.jobs.ExplainSchedule(request)
    assert ([fire.local for fire in answer.fires], answer.zone, answer.ends) == (
        ["2026-03-30T02:30:00+02:00", "2026-03-31T02:30:00+02:00"],
        "Europe/Rome",
        False,
    )
    assert answer.fires[0].at.ToJsonString() == "2026-03-30T00:30:00Z"
    assert "2026-03-29T02:30:00 is skipped" in answer.fires[0].remarks[0]
    assert len((await site.jobs.ExplainSchedule(jobs_pb2.ExplainScheduleRequest(schedule="@hourly"))).fires) == 10
    refusal = (await site.jobs.ExplainSchedule(jobs_pb2.ExplainScheduleRequest(schedule="0 0 99 * * *"))).refusal
    code, text = await refused(site.stub.ScheduleJob(schedule(schedule="0 0 99 * * *")))
    assert (text, refusal.field, refusal.position, refusal.length) == (f"job failed validation: {refusal.reason}", "schedule", 4, 2)
    for bad in ({"count": 1001}, {"schedule": "x" * 4097}):
        code, _ = await refused(site.jobs.ExplainSchedule(jobs_pb2.ExplainScheduleRequest(**bad)))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
    for instant in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        request = jobs_pb2.ExplainScheduleRequest(schedule="@hourly")
        request.now.FromJsonString(instant)
        assert len((await site.jobs.ExplainSchedule(request)).fires) in (0, 10)


async def test_an_outage_is_explained(site: JobsSite) -> None:
    request = jobs_pb2.ExplainScheduleRequest(schedule="@every 1h", count=4)
    request.last_run.FromJsonString("2026-11-20T18:00:00Z")
    request.now.FromJsonString("2026-11-24T06:30:00Z")
    answer = await site.jobs.ExplainSchedule(request)
    assert ([fire.local[:13] for fire in answer.fires[:1]], answer.missed, answer.passed_over) == (["2026-11-20T19"], 4, 0)
    request.misfire.max = 2
    answer = await site.jobs.ExplainSchedule(request)
    assert [fire.local[8:13] for fire in answer.fires] == ["24T05", "24T06", "24T07", "24T08"]
    assert (answer.missed, answer.passed_over, answer.ends) == (2, 82, False)
    request.schedule = "*/10 * * * * *"
    assert (await site.jobs.ExplainSchedule(request)).passed_over == EXPLAINED_PASSED_MAX
    request.ClearField("schedule")
    request.due_time = "10m"
    request.misfire.window.seconds = 3_600
    answer = await site.jobs.ExplainSchedule(request)
    assert (list(answer.fires), answer.ends, answer.passed_over) == ([], True, 1)


async def test_outages_that_cannot_be_explained(site: JobsSite) -> None:
    later = jobs_pb2.ExplainScheduleRequest(schedule="@hourly")
    later.now.FromJsonString("2026-01-01T00:00:00Z")
    later.last_run.FromJsonString("2026-01-01T00:00:01Z")
    nowhere = jobs_pb2.ExplainScheduleRequest(schedule="@hourly")
    nowhere.last_run.seconds = 2**62
    many = jobs_pb2.ExplainScheduleRequest(schedule="@hourly", misfire=state_pb2.Misfire(max=101))
    for request, text in (
        (later, "last_run is after now"),
        (nowhere, "last_run is no instant of the years 1 to 9999"),
        (many, "at most 100 missed ticks can be wanted, or all"),
    ):
        assert await refused(site.jobs.ExplainSchedule(request)) == (grpc.StatusCode.INVALID_ARGUMENT, text)
