"""Retry ladders, last errors and dead letters over the real door: what is stored, told, run again, refused."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.wrappers_pb2 import StringValue
from test_jobs_api import JobsSite, get, name
from test_jobs_holding import selector
from test_scheduler_api import refused, schedule

from raftsched.errors import GrpcCode
from raftsched.limits import DEAD_LETTER_RUNS_MAX, DEAD_LETTERS_MAX, RETRY_WAIT_S_MAX
from raftsched.pb.dapr import scheduler_pb2
from raftsched.pb.v1 import jobs_pb2, state_pb2, workers_pb2, workers_pb2_grpc
from raftsched.rpc.jobs.workers import WorkersApi
from raftsched.rpc.metrics import GrpcStats
from raftsched.scheduler import dead_letters
from raftsched.scheduler.jobs._jobs import decode_stored_job
from raftsched.scheduler.jobs.dead_letters import dead_key
from raftsched.scheduler.jobs.names import DEAD, JOBS, RUNS, STATES

KEY = b"app||ns||app||a"


@pytest.fixture
async def site() -> AsyncIterator[JobsSite]:
    one = JobsSite()
    await one.open()
    await one.service.start()
    yield one
    await one.close()


class Failing:
    """A worker of batches: fails, until it is told otherwise."""

    def __init__(self, site: JobsSite) -> None:
        WorkersApi(site.service, site.door, site.api.access, site.api.stats, log=site.log, grpc_stats=GrpcStats())
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        self.requests.put_nowait(workers_pb2.WatchTriggersRequest(initial=workers_pb2.Initial(namespace="ns", app_id="app")))
        self.stream = workers_pb2_grpc.WorkersStub(site.channel).WatchTriggers(self._send())

    async def _send(self) -> AsyncIterator[Any]:
        while True:
            yield await self.requests.get()

    async def take(self, error: str | None = None) -> workers_pb2.Trigger:
        """The next trigger, answered: None = done."""
        async with asyncio.timeout(20):
            [trigger] = (await self.stream.read()).triggers
        ack = workers_pb2.Ack(id=trigger.id, failed=error is not None, error=error or "")
        self.requests.put_nowait(workers_pb2.WatchTriggersRequest(acks=workers_pb2.Acks(acks=[ack])))
        return trigger


def dropped(short: str = "a", **fields: Any) -> Any:
    request = schedule(short, **fields)
    request.job.failure_policy.drop.SetInParent()
    return request


async def configure(site: JobsSite, jobs: jobs_pb2.JobSelector, **fields: Any) -> tuple[int, int]:
    answer = await site.jobs.ConfigureJobs(jobs_pb2.ConfigureJobsRequest(jobs=jobs, **fields))
    return answer.changed, answer.unchanged


async def dead(site: JobsSite, **fields: Any) -> Any:
    return (await site.jobs.ListDeadLetters(jobs_pb2.ListDeadLettersRequest(**fields))).dead_letters


async def redrive(site: JobsSite, jobs: jobs_pb2.JobSelector, **fields: Any) -> tuple[int, int]:
    answer = await site.jobs.RedriveDeadLetters(jobs_pb2.RedriveDeadLettersRequest(jobs=jobs, **fields))
    return answer.changed, answer.unchanged


async def delete(site: JobsSite, jobs: jobs_pb2.JobSelector, **fields: Any) -> tuple[int, int]:
    answer = await site.jobs.DeleteDeadLetters(jobs_pb2.DeleteDeadLettersRequest(jobs=jobs, **fields))
    return answer.changed, answer.unchanged


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.002)


def retry(**fields: Any) -> state_pb2.Retry:
    found = state_pb2.Retry(**{key: value for key, value in fields.items() if key not in ("initial", "cap")})
    if "initial" in fields:
        found.initial.FromMilliseconds(fields["initial"])
    if "cap" in fields:
        found.cap.FromMilliseconds(fields["cap"])
    return found


async def test_a_ladder_is_stored_told_and_taken_away(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    wanted = retry(initial=50, factor_percent=300, cap=2_000, jitter_percent=10, max_attempts=7)
    assert await configure(site, selector("a"), retry=wanted, dead_letters=True) == (1, 0)
    assert await configure(site, selector("a"), retry=wanted) == (0, 1)
    job = await get(site, name())
    assert (job.retry, job.dead_letters) == (wanted, True)
    [job] = (await site.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs
    assert (job.retry, job.dead_letters) == (wanted, True)
    assert await configure(site, selector("a"), retry=state_pb2.Retry()) == (1, 0)
    job = await get(site, name())
    assert (job.HasField("retry"), job.dead_letters) == (False, True)
    assert await configure(site, selector("a"), dead_letters=False) == (1, 0)
    assert STATES + KEY not in site.kv.etcd.keys


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (retry(max_attempts=1), "needs its first wait"),
        (retry(initial=-1), "the first wait of a retry ladder is 0 to"),
        (retry(initial=(RETRY_WAIT_S_MAX + 1) * 1000), "the first wait of a retry ladder is 0 to"),
        (retry(initial=1, cap=-5_000), "the cap of a retry ladder is 0 to"),
        (retry(initial=2_000, cap=1_999), "not below its first wait"),
        (retry(initial=1, factor_percent=99), "factor"),
        (retry(initial=1, factor_percent=10_001), "factor"),
        (retry(initial=1, jitter_percent=101), "jitter"),
        (retry(initial=1, max_attempts=1_000_001), "attempts"),
    ],
)
async def test_ladders_that_are_refused(site: JobsSite, wanted: state_pb2.Retry, text: str) -> None:
    await site.stub.ScheduleJob(schedule())
    request = jobs_pb2.ConfigureJobsRequest(jobs=selector("a"), retry=wanted)
    code, said = await refused(site.jobs.ConfigureJobs(request))
    assert code.value[0] == GrpcCode.INVALID_ARGUMENT
    assert text in said


async def test_a_run_climbs_is_kept_and_runs_again_as_the_job_that_is_gone(site: JobsSite) -> None:
    worker = Failing(site)
    data = schedule().job.data
    data.Pack(StringValue(value="x"))
    await site.stub.ScheduleJob(schedule(due_time="1s", data=data))
    await configure(site, selector("a"), retry=retry(initial=20, max_attempts=3), dead_letters=True)
    ids = [(await worker.take(f"no {attempt}")).run_id for attempt in range(3)]

    async def kept() -> bool:
        return bool(await dead(site))

    await until(kept)
    [letter] = await dead(site, with_data=True)
    assert (letter.name, letter.attempts, letter.error, letter.run_id) == (name(), 3, "no 2", ids[2])
    assert (letter.data.type_url, letter.data.value, letter.data_omitted) == (data.type_url, data.value, False)
    assert site.service.engine.jobs == 0
    assert [key for key in site.kv.etcd.keys if key.startswith(DEAD)] == [dead_key(KEY, letter.run.encode())]
    families = {family.name: family.samples for family in site.jobs_api.families()}
    assert families["raftsched_scheduler_dead_letters_total"][("job",)] == 1
    assert await redrive(site, selector("a"), reason="mended", by="ops") == (1, 0)
    assert await dead(site) == []
    shown = await get(site, name())
    assert (shown.dead_letters, shown.last_change.what, shown.last_change.reason) == (True, "redrive", "mended")
    trigger = await worker.take("again")
    assert (trigger.name, trigger.data) == (name(), letter.data)
    assert trigger.run_id.rpartition("/")[0] != ids[0].rpartition("/")[0]


async def test_of_a_job_that_is_there_the_oldest_runs_beside_the_schedule(site: JobsSite) -> None:
    worker = Failing(site)
    await site.stub.ScheduleJob(dropped(schedule="@every 1s"))
    await configure(site, selector("a"), dead_letters=True)
    first, second = await worker.take("first"), await worker.take("second")

    async def both() -> bool:
        return len(await dead(site)) == 2

    await until(both)
    letters = await dead(site)
    assert [letter.scheduled_at for letter in letters] == [first.scheduled_at, second.scheduled_at]
    assert await redrive(site, selector("a")) == (1, 1)
    stored = state_pb2.RunRequest.FromString(site.kv.etcd.keys[RUNS + KEY].value)
    assert stored.dead_letter == letters[0].run
    assert await redrive(site, selector("a"), runs=[letters[1].run]) == (0, 1)
    while not (trigger := await worker.take()).asked:
        pass
    assert trigger.name == name()

    async def one() -> bool:
        return [letter.run for letter in await dead(site)] == [letters[1].run]

    await until(one)
    assert RUNS + KEY not in site.kv.etcd.keys


async def give_up(site: JobsSite, worker: Failing, short: str = "a", **fields: Any) -> None:
    """A one-shot with a letter."""
    before = len(await dead(site))
    await site.stub.ScheduleJob(dropped(short, due_time="1s", **fields))
    await configure(site, selector(short), dead_letters=True)
    await worker.take("no")

    async def more() -> bool:
        return len(await dead(site)) > before

    await until(more)


async def test_another_job_in_its_place_does_not_run_for_it(site: JobsSite) -> None:
    worker = Failing(site)
    data = schedule().job.data
    data.Pack(StringValue(value="x"))
    await give_up(site, worker, data=data)
    await site.stub.ScheduleJob(schedule(schedule="@every 1h"))
    assert await redrive(site, selector("a")) == (0, 1)
    await site.stub.ScheduleJob(schedule(schedule="@every 1h", data=data, overwrite=True))
    assert await redrive(site, selector("a")) == (1, 0)
    assert (await worker.take()).data.value == data.value

    async def none() -> bool:
        return not await dead(site)

    await until(none)


async def test_filters_pages_and_deletion(site: JobsSite) -> None:
    worker = Failing(site)
    for short in ("a", "b", "c"):
        await give_up(site, worker, short)
    assert [letter.name.name for letter in await dead(site)] == ["a", "b", "c"]
    assert [letter.name.name for letter in await dead(site, filter=jobs_pb2.JobFilter(name_pattern="b*"))] == ["b"]
    assert await dead(site, filter=jobs_pb2.JobFilter(namespace="other")) == []
    assert await dead(site, filter=jobs_pb2.JobFilter(type=jobs_pb2.JOB_TYPE_WORKFLOW_REMINDER)) == []
    page = await site.jobs.ListDeadLetters(jobs_pb2.ListDeadLettersRequest(page_size=2))
    assert [letter.name.name for letter in page.dead_letters] == ["a", "b"]
    page = await site.jobs.ListDeadLetters(jobs_pb2.ListDeadLettersRequest(page_size=2, page_token=page.next_page_token))
    assert ([letter.name.name for letter in page.dead_letters], page.next_page_token) == (["c"], "")
    assert await delete(site, selector("a"), runs=["no such run", (await dead(site))[0].run]) == (1, 0)
    assert await delete(site, jobs_pb2.JobSelector(filter=jobs_pb2.JobFilter(namespace="ns"))) == (2, 0)
    assert not [key for key in site.kv.etcd.keys if key.startswith(DEAD)]


async def test_what_is_refused(site: JobsSite) -> None:
    invalid, many = GrpcCode.INVALID_ARGUMENT, ["x"] * (DEAD_LETTER_RUNS_MAX + 1)
    everything = jobs_pb2.JobSelector(filter=jobs_pb2.JobFilter())
    labels = jobs_pb2.JobFilter(labels={"a": "b"})
    for call, code in (
        (site.jobs.RedriveDeadLetters(jobs_pb2.RedriveDeadLettersRequest()), invalid),
        (site.jobs.RedriveDeadLetters(jobs_pb2.RedriveDeadLettersRequest(jobs=everything, runs=["x"])), invalid),
        (site.jobs.DeleteDeadLetters(jobs_pb2.DeleteDeadLettersRequest(jobs=selector("a"), runs=many)), invalid),
        (site.jobs.RedriveDeadLetters(jobs_pb2.RedriveDeadLettersRequest(jobs=selector("a"))), GrpcCode.NOT_FOUND),
        (site.jobs.DeleteDeadLetters(jobs_pb2.DeleteDeadLettersRequest(jobs=selector("a"))), GrpcCode.NOT_FOUND),
        (site.jobs.ListDeadLetters(jobs_pb2.ListDeadLettersRequest(filter=labels)), invalid),
        (site.jobs.ListDeadLetters(jobs_pb2.ListDeadLettersRequest(page_size=1_001)), invalid),
        (site.jobs.ListDeadLetters(jobs_pb2.ListDeadLettersRequest(page_token="ZGFwci9qb2JzL2E=")), invalid),
        (site.jobs.RedriveDeadLetters(jobs_pb2.RedriveDeadLettersRequest(jobs=selector("a"), reason="x" * 2_000)), invalid),
    ):
        assert (await refused(call))[0].value[0] == code
    site.kv.etcd.put(DEAD + KEY + b"/1", b"\xff")
    site.kv.etcd.put(DEAD + KEY + b"/2", state_pb2.StoredDeadLetter(metadata=b"\x0a\x01x").SerializeToString())
    assert await dead(site) == []


async def test_the_last_error_is_told(site: JobsSite) -> None:
    worker = Failing(site)
    await site.stub.ScheduleJob(dropped(schedule="@every 1s"))
    trigger = await worker.take("disk full")

    async def told() -> bool:
        return (await get(site, name())).HasField("last_error")

    await until(told)
    error = (await get(site, name())).last_error
    assert (error.run_id, error.scheduled_at, error.attempt, error.text) == (trigger.run_id, trigger.scheduled_at, 0, "disk full")
    assert error.at.ToNanoseconds() >= trigger.scheduled_at.ToNanoseconds()
    [job] = (await site.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs
    assert job.last_error == error


async def test_the_next_attempt_is_told(site: JobsSite) -> None:
    worker = Failing(site)
    await site.stub.ScheduleJob(schedule(due_time="1s"))
    await configure(site, selector("a"), retry=retry(initial=3_600_000))
    assert not (await get(site, name())).HasField("next_attempt")
    await worker.take("no")

    async def told() -> bool:
        return (await get(site, name())).HasField("next_attempt")

    await until(told)
    job = await get(site, name())
    assert job.next_attempt.ToMilliseconds() == job.last_error.at.ToMilliseconds() + 3_600_000
    assert job.late == jobs_pb2.LATE_REASON_RETRY


async def test_a_namespace_has_a_bound_and_the_oldest_go(site: JobsSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "DEAD_LETTERS_TRIM_MS", 1)
    for number in range(DEAD_LETTERS_MAX + 20):
        site.kv.etcd.put(DEAD + b"app||ns||app||b/%05d" % (99_999 - number), b"")
    site.kv.etcd.put(DEAD + b"app||ns2||app||b/1", b"")
    await give_up(site, Failing(site))

    async def fewer() -> bool:
        return site.service.dead_letters.dropped_total > 0

    await until(fewer)
    left = sorted(key for key in site.kv.etcd.keys if key.startswith(DEAD))
    assert len(left) == DEAD_LETTERS_MAX - dead_letters.SPARE + 1
    assert sum(key.startswith(DEAD + KEY) for key in left) == 1
    assert DEAD + b"app||ns||app||b/99999" not in left
    assert JOBS + KEY not in site.kv.etcd.keys


async def test_letters_that_nobody_here_has_written(site: JobsSite) -> None:
    """Whoever may write to the store writes what he likes: it is listed as far as it can be shown, and nothing is refused for it."""
    await site.stub.ScheduleJob(schedule(schedule="@every 1h"))
    put, job = site.kv.etcd.put, site.kv.etcd.keys[JOBS + KEY].value
    put(JOBS + KEY + b"/7", job)
    metadata = scheduler_pb2.JobMetadata(app_id="app", namespace="ns")
    metadata.target.job.SetInParent()
    letter = state_pb2.StoredDeadLetter(metadata=metadata.SerializeToString(), payload=decode_stored_job(job)[9] or b"")
    letter.given_up_at.seconds, letter.scheduled_at.nanos = 2**62, -5
    for name_and_run in (b"/0-1", b"/7/0-1", b"/asked-1", b"/\xff", b"\xff/1"):  # those of one job do not lie together
        put(DEAD + KEY + name_and_run, letter.SerializeToString())
    put(DEAD + KEY + b"/9", b"\xff")
    put(DEAD, b"")
    found = await dead(site)
    assert [(one.name.name, one.run) for one in found] == [("a", "0-1"), ("a/7", "0-1"), ("a", "asked-1")]
    assert {one.HasField("given_up_at") or one.HasField("scheduled_at") for one in found} == {False}
    for one in found:
        json_format.MessageToJson(one)
    everything = jobs_pb2.JobSelector(filter=jobs_pb2.JobFilter())
    assert await redrive(site, everything) == (2, 1)
    assert await delete(site, everything) == (3, 0)
