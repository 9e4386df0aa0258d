"""What a stream that does not read costs, and when it is given up (spec D16)."""

import asyncio

import pytest

from raftsched.limits import STREAM_STALL_MS
from raftsched.scheduler._timer import LoopTimer
from raftsched.scheduler.delivery._delivery import Delivery
from raftsched.testing.scheduling import START_MS, Bench, actor


def fill(bench: Bench, count: int, first: int = 0) -> None:
    for index in range(first, first + count):
        bench.put(f"j{index:02}", due_ms=START_MS)


def test_what_does_not_fit_waits_at_the_route_and_follows_in_order() -> None:
    bench = Bench(backlog_max=3)
    worker = bench.connect()
    worker.room = 1
    fill(bench, 8)
    bench.tick(1)
    assert worker.stream is not None
    # Queued first, sent later: three found room in the queue, the others wait at the route.
    assert (len(worker.take()), worker.stream.backlog, bench.delivery.stats()["staged"]) == (1, 2, 5)
    assert bench.engine.metrics()["undelivered"] == [0, 0, 0]
    worker.room = None
    bench.engine.stream_writable(worker.stream)
    bench.flush()
    assert len(worker.take()) == 7
    assert bench.delivery.stats()["staged"] == 0


def test_a_reader_in_no_hurry_does_not_hold_up_another() -> None:
    bench = Bench(backlog_max=3)
    slow, quick = bench.connect(), bench.connect()
    slow.room = 1
    for round_ in range(10):
        fill(bench, 2, round_ * 2)
        bench.tick(1)
    assert len(slow.take()) == 1
    assert len(quick.take()) == 20 - 1 - 3
    assert not bench.delivery.overflowed


def test_a_full_backlog_that_stands_still_is_given_up_and_redelivered() -> None:
    bench = Bench(backlog_max=3)
    slow = bench.connect()
    slow.room = 1
    fill(bench, 5)
    bench.tick(1)  # one is sent, two are queued
    fill(bench, 2, 5)
    bench.tick()  # the last of these found it full: from here it must move
    bench.now_ms += STREAM_STALL_MS - 1
    fill(bench, 1, 7)
    bench.tick()
    assert not bench.delivery.overflowed
    bench.now_ms += 1
    fill(bench, 1, 8)
    bench.tick()
    assert bench.delivery.overflowed == [slow.stream]
    other = bench.connect()
    bench.disconnect(slow)
    assert len(other.take()) == 9
    assert not bench.delivery.overflowed


def test_routes_live_as_long_as_somebody_needs_them() -> None:
    bench = Bench()
    bench.put("a", due_ms=START_MS, owner=actor("cat"))
    worker = bench.connect(actor("cat"), actor("dog"))
    assert bench.delivery.stats()["routes"] == 2
    bench.disconnect(worker)
    assert bench.delivery.stats()["routes"] == 1
    bench.etcd.delete(b"dapr/jobs/", b"dapr/jobs0")
    assert bench.delivery.stats()["routes"] == 0


def test_a_stream_is_closed_once() -> None:
    delivery = Delivery()
    stream = delivery.open_stream(lambda message: True, None, [(b"p", 1)])
    assert delivery.route(b"p").live == 1  # type: ignore[union-attr]
    assert [len(part) for part in delivery.close_stream(stream)] == [0, 1]
    assert delivery.close_stream(stream) == ([], [])
    assert delivery.route(b"p") is None


async def test_the_timer_wakes_once_never_early_and_not_after_close() -> None:
    loop = asyncio.get_running_loop()
    woken: list[float] = []
    timer = LoopTimer(loop, lambda: woken.append(loop.time()))
    begin = loop.time()
    timer.arm(3_600_000_000_000)
    timer.arm(2_000_000)  # replaces
    async with asyncio.timeout(5):
        while not woken:
            await asyncio.sleep(0.001)
    assert woken[0] - begin >= 0.002
    timer.arm(1)
    timer.close()
    timer.close()
    await asyncio.sleep(0.005)
    assert len(woken) == 1
    with pytest.raises(RuntimeError):
        timer.arm(1)
