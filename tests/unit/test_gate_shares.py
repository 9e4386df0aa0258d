"""Three schedulers over one store: together they let through what a concurrency limit says, whoever comes and goes (spec §4, gates)."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from test_scheduler_service import until

from raftsched.scheduler.delivery.gates import Limit
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import JOBS, TARGET_ACTOR, actor_route
from raftsched.scheduler.service import SchedulerService
from raftsched.testing.memory_etcd import MemoryEtcd, MemoryKv
from raftsched.testing.peers import LogLines
from raftsched.testing.scheduling import START_MS, Worker, actor, metadata, result

ROUTE = actor_route("ns", "cat").encode()
ADDRESSES = ("10.0.0.9:1", "10.0.0.10:1", "10.0.0.2:1")  # sorted otherwise than the ids
JOBS_PER_REPLICA = 20


class Replica:
    """One scheduler, with one worker that has declared a limit."""

    def __init__(self, etcd: MemoryEtcd, number: int, limit: int) -> None:
        numbers = count(number * 1_000 + 1)
        self.service = SchedulerService(
            MemoryKv(etcd),
            scheduler_id=f"s-{number}",
            address=ADDRESSES[number],
            zone_source=lambda name: None,
            rng=lambda: next(numbers),
            log=LogLines(),
            engine_log=LogLines(),
            wall_ns=lambda: START_MS * 1_000_000,
            mono_ns=lambda: START_MS * 1_000_000,
        )
        self.worker = Worker()
        self.limit = limit
        self.answered = 0

    async def start(self) -> None:
        await self.service.start()
        limits = [Limit("cat", None, self.limit)]
        self.worker.stream = self.service.open_stream(self.worker.push, self.worker, [(ROUTE, TARGET_ACTOR, ("ns", "cat"))], "ns", limits)

    @property
    def out(self) -> int:
        return len(self.worker.got) - self.answered

    def answer(self, number: int) -> None:
        assert self.worker.stream is not None
        self.service.on_acks(self.worker.stream, [result(self.answered + index + 1) for index in range(number)])
        self.answered += number


def put(etcd: MemoryEtcd, number: int) -> None:
    begin = (START_MS // 1000, 0)
    value = _jobs.encode_stored_job(number, True, *begin, None, None, None, None, None, metadata(actor("cat", str(number))), None, None)
    etcd.put(JOBS + ROUTE + b"%d||r" % number, value)


@pytest.fixture
async def started() -> AsyncIterator[list[Replica]]:
    made: list[Replica] = []
    yield made
    for one in made:
        await one.service.stop()


@pytest.mark.parametrize(("limit", "shares"), [(10, [3, 4, 3]), (11, [3, 4, 4]), (3, [1, 1, 1]), (2, [1, 1, 1])])
async def test_together_they_let_through_what_the_limit_says(limit: int, shares: list[int], started: list[Replica]) -> None:
    """Shares by sorted address: ⌊limit/N⌋, one more for the first ones; below N one each, so it is exceeded and never starved."""
    etcd = MemoryEtcd()
    started.extend(Replica(etcd, number, limit) for number in range(3))
    for one in started:
        await one.start()
    await until(lambda: all(one.service.leadership.partition and one.service.leadership.partition.total == 3 for one in started))
    for number in range(3 * JOBS_PER_REPLICA):
        put(etcd, number)
    await until(lambda: [one.out for one in started] == shares)
    await asyncio.sleep(0.02)
    assert [one.out for one in started] == shares
    while any(one.answered < JOBS_PER_REPLICA for one in started):
        for one, share in zip(started, shares, strict=True):
            one.answer(min(one.out, 2))
            assert one.out <= share
        await asyncio.sleep(0)
    assert not [key for key in etcd.keys if key.startswith(JOBS)]


async def test_a_replica_that_goes_leaves_its_share_to_the_others(started: list[Replica]) -> None:
    """A membership change recomputes shares and lets waiters go."""
    etcd = MemoryEtcd()
    started.extend(Replica(etcd, number, 12) for number in range(3))
    for one in started:
        await one.start()
    await until(lambda: all(one.service.leadership.partition and one.service.leadership.partition.total == 3 for one in started))
    for number in range(3 * JOBS_PER_REPLICA):
        put(etcd, number)
    await until(lambda: [one.out for one in started] == [4, 4, 4])
    gone = started.pop()
    gone.answer(4)
    await gone.service.stop()
    await until(lambda: [one.out for one in started] == [6, 6])
