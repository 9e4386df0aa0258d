"""raftsched.v1.Workers over the real door with a grpcio client: triggers with the ids of their runs, answers, limits, what is refused."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from test_jobs_api import JobsSite
from test_scheduler_api import actor_target, pb, refused, schedule, until

from raftsched.pb.v1 import workers_pb2, workers_pb2_grpc
from raftsched.rpc.jobs.workers import WorkersApi
from raftsched.rpc.metrics import GrpcStats


class WorkersSite(JobsSite):
    def __init__(self) -> None:
        super().__init__()
        self.grpc_stats = GrpcStats()
        self.workers_api = WorkersApi(self.service, self.door, self.api.access, self.api.stats, log=self.log, grpc_stats=self.grpc_stats)

    def watch(self, *first: workers_pb2.WatchTriggersRequest) -> "Watching":
        return Watching(workers_pb2_grpc.WorkersStub(self.channel), first)

    async def close(self) -> None:
        self.workers_api.close_streams()
        await super().close()


class Watching:
    """One stream, from the worker's side."""

    def __init__(self, stub: Any, first: tuple[workers_pb2.WatchTriggersRequest, ...]) -> None:
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        for one in first:
            self._requests.put_nowait(one)
        self.stream = stub.WatchTriggers(self._send())
        self._came: list[Any] = []

    async def _send(self) -> AsyncIterator[Any]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def trigger(self) -> Any:
        while not self._came:
            message = await self.stream.read()
            assert message is not grpc.aio.EOF
            self._came = list(message.triggers)
        return self._came.pop(0)

    def answer(self, *ids: int, failed: bool = False) -> None:
        answers = [workers_pb2.Ack(id=id_, failed=failed) for id_ in ids]
        self._requests.put_nowait(workers_pb2.WatchTriggersRequest(acks=workers_pb2.Acks(acks=answers)))

    def end(self) -> None:
        self._requests.put_nowait(None)

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.stream.read()
        return caught.value.code(), caught.value.details() or ""


def initial(**fields: Any) -> workers_pb2.WatchTriggersRequest:
    return workers_pb2.WatchTriggersRequest(initial=workers_pb2.Initial(**{"namespace": "ns", "app_id": "app", **fields}))


@pytest.fixture
async def site() -> AsyncIterator[WorkersSite]:
    one = WorkersSite()
    await one.open()
    await one.service.start()
    yield one
    await one.close()


async def test_triggers_come_with_their_runs_and_are_answered_together(site: WorkersSite) -> None:
    for number in range(20):
        await site.stub.ScheduleJob(schedule(f"j{number}", due_time="0s"))
    watching = site.watch(initial())
    triggers = [await watching.trigger() for _ in range(20)]
    assert {one.name.name for one in triggers} == {f"j{number}" for number in range(20)}
    assert len({one.run_id for one in triggers}) == 20
    watching.answer(*(one.id for one in triggers))
    await until(lambda: site.keys() == [])
    watching.end()
    assert await watching.stream.read() is grpc.aio.EOF


async def test_what_fails_or_is_not_answered_comes_again_under_its_id(site: WorkersSite) -> None:
    await site.stub.ScheduleJob(schedule("a", due_time="0s"))
    first = site.watch(initial())
    once = await first.trigger()
    first.end()
    second = site.watch(initial())
    again = await second.trigger()
    assert (again.run_id, again.attempt) == (once.run_id, 0)
    second.answer(again.id, failed=True)
    retried = await second.trigger()
    assert (retried.attempt, retried.scheduled_at) == (1, once.scheduled_at)
    assert retried.run_id != once.run_id


async def test_reminders_alone_and_their_limits(site: WorkersSite) -> None:
    await site.stub.ScheduleJob(schedule("job", due_time="0s"))
    for number in range(3):
        await site.stub.ScheduleJob(schedule("r", actor_target("cat", str(number)), due_time="0s"))
    limits = [workers_pb2.ConcurrencyLimit(actor_type="cat", max_concurrent=2)]
    watching = site.watch(initial(actor_types=["cat"], reminders_only=True, concurrency_limits=limits))
    out = [await watching.trigger(), await watching.trigger()]
    assert {one.name.actor_type for one in out} == {"cat"}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await watching.trigger()
    watching.end()


@pytest.mark.parametrize(
    ("first", "code", "text"),
    [
        (workers_pb2.WatchTriggersRequest(), "INVALID_ARGUMENT", "the first message of a stream is `initial`"),
        (workers_pb2.WatchTriggersRequest(acks=workers_pb2.Acks()), "INVALID_ARGUMENT", "the first message of a stream is `initial`"),
        (initial(app_id=""), "INVALID_ARGUMENT", "missing namespace or appID in request"),
    ],
)
async def test_what_is_refused(site: WorkersSite, first: workers_pb2.WatchTriggersRequest, code: str, text: str) -> None:
    assert await site.watch(first).refusal() == (grpc.StatusCode[code], text)


async def test_a_second_initial_ends_the_stream_and_its_triggers_go_elsewhere(site: WorkersSite) -> None:
    await site.stub.ScheduleJob(schedule("a", due_time="0s"))
    watching = site.watch(initial())
    await watching.trigger()
    watching._requests.put_nowait(initial())
    code, text = await watching.refusal()
    assert (code, text) == (grpc.StatusCode.UNKNOWN, "unexpected message: acks are required")
    assert (await site.watch(initial()).trigger()).name.name == "a"


async def test_a_worker_of_dapr_s_kind_takes_turns_with_one_of_this(site: WorkersSite) -> None:
    watching = site.watch(initial())
    requests: asyncio.Queue[Any] = asyncio.Queue()

    async def send() -> AsyncIterator[Any]:
        while True:
            yield await requests.get()

    requests.put_nowait(pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="app", namespace="ns")))
    plain = site.stub.WatchJobs(send())
    await until(lambda: site.service.delivery.open_streams == 2)
    for number in range(4):
        await site.stub.ScheduleJob(schedule(f"j{number}", due_time="0s"))
    names = {(await watching.trigger()).name.name, (await watching.trigger()).name.name}
    names |= {(await plain.read()).name, (await plain.read()).name}
    assert names == {"j0", "j1", "j2", "j3"}


async def test_the_shutdown_ends_streams(site: WorkersSite) -> None:
    watching = site.watch(initial())
    await until(lambda: site.service.delivery.open_streams == 1)
    site.workers_api.close_streams()
    assert await watching.refusal() == (grpc.StatusCode.UNKNOWN, "server is closing")
    late = workers_pb2_grpc.WorkersStub(site.channel).WatchTriggers()
    assert await refused(late.read()) == (grpc.StatusCode.UNKNOWN, "server is closing")
