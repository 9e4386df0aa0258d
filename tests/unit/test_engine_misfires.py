"""Misfire policies in the engine: edges that the property does not draw."""

import pytest

from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.engine.states import State
from raftsched.scheduler.jobs.names import RUNS, STATES
from raftsched.testing.scheduling import FAILED, START_MS, BatchedWorker, Bench, policy

T = START_MS
DAY_MS = 86_400_000


def misfire(window_s: int | None = None, most: int = 0) -> bytes:
    wanted = state_pb2.Misfire(max=most)
    if window_s is not None:
        wanted.window.FromSeconds(window_s)
    return state_pb2.JobExtra(misfire=wanted).SerializeToString()


def job(bench: Bench, wanted: bytes, schedule: str = "@every 1s") -> bytes:
    name = bench.put("a", schedule=schedule, partition=7)
    bench.etcd.put(STATES + name, wanted)
    return name


def told(worker: BatchedWorker) -> list[int]:
    return [trigger.scheduled_at.ToMilliseconds() - T for trigger in worker.got]


def test_a_day_away_obeys_each_policy() -> None:
    for wanted, count in ((misfire(most=1), 1), (misfire(60, 1), 1), (misfire(10), 11), (misfire(most=3), 3)):
        bench = Bench()
        job(bench, wanted)
        bench.tick(DAY_MS)
        worker = bench.connect_batched()
        came = 0
        while worker.got:
            came += 1
            bench.ack(worker, worker.got.pop().id)
            bench.tick()
        assert came == count
        assert bench.engine.metrics()["passed"][1] == 86_400 - count


def test_what_was_passed_over_is_written_with_the_next_run_alone() -> None:
    bench = Bench()
    name = job(bench, misfire(most=1))
    worker = bench.connect_batched()
    bench.now_ms += 3_600_000
    bench.tick()
    assert told(worker) == [3_600_000]
    assert bench.counter(name) is None
    bench.ack(worker, 1)
    assert bench.counter(name) == (7, 1, (T // 1000 + 3_600, 0), 0)


def test_a_run_that_has_failed_is_tried_again_however_late() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 10s", failure_policy=policy(interval_ms=30_000, max_retries=5))
    bench.etcd.put(STATES + name, misfire(5, 1))
    worker = bench.connect_batched()
    bench.tick(10_000)
    bench.ack(worker, 1, status=FAILED)
    bench.tick(30_000)
    assert [trigger.attempt for trigger in worker.got] == [0, 1]
    assert told(worker) == [10_000, 10_000]
    bench.ack(worker, 2)
    bench.tick()
    assert told(worker) == [10_000, 10_000, 40_000]


def test_a_one_shot_that_is_too_late_ends_without_its_run() -> None:
    bench = Bench()
    for name, window in (("late", 5), ("soon", 60), ("last", None)):
        composed = bench.put(name, due_ms=T + 1_000)
        bench.etcd.put(STATES + composed, misfire(window, 1))
    bench.now_ms += 20_000
    bench.tick()
    worker = bench.connect_batched()
    bench.commit()
    assert sorted(trigger.name.name for trigger in worker.got) == ["last", "soon"]
    assert len(bench.job_keys()) == 2
    bench.commit()
    assert STATES + b"app||ns||app||late" not in bench.etcd.keys


def test_a_run_waits_for_a_worker_and_is_then_of_the_tick_that_is_wanted() -> None:
    bench = Bench()
    name = job(bench, misfire(most=1), "@every 10s")
    bench.tick(10_000)
    assert bench.engine.state_of(name) == State.STAGED
    bench.tick(45_000)
    assert told(bench.connect_batched()) == [50_000]


def test_a_run_that_waited_too_long_is_passed_over_and_the_next_one_comes() -> None:
    bench = Bench()
    name = job(bench, misfire(2), "@every 10s")
    bench.tick(10_000)
    bench.tick(5_000)
    worker = bench.connect_batched()
    assert worker.got == []
    assert bench.engine.state_of(name) == State.ARMED
    bench.tick(5_000)
    assert told(worker) == [20_000]


def test_a_policy_that_comes_and_goes_holds_from_then_on() -> None:
    bench = Bench()
    name = job(bench, misfire(0), "@every 10s")
    worker = bench.connect_batched()
    bench.now_ms += 25_000
    bench.tick()
    assert worker.got == []
    bench.etcd.put(STATES + name, b"")
    bench.tick()
    assert told(worker) == [10_000], "nothing has been written: all of them are owed again"
    bench.etcd.put(STATES + name, misfire(most=1))
    bench.ack(worker, 1)
    bench.tick()
    assert told(worker) == [10_000, 20_000]


def test_it_ends_with_its_job_and_a_later_one_of_the_name_has_none() -> None:
    bench = Bench()
    name = job(bench, misfire(most=1), "@every 10s")
    bench.etcd.delete(b"dapr/jobs/" + name)
    bench.commit()
    assert STATES + name not in bench.etcd.keys
    bench.put("a", schedule="@every 10s")
    worker = bench.connect_batched()
    bench.now_ms += 25_000
    bench.tick()
    assert told(worker) == [10_000]


def test_an_overwritten_job_keeps_it() -> None:
    bench = Bench()
    job(bench, misfire(most=1), "@every 10s")
    bench.put("a", schedule="@every 5s")
    worker = bench.connect_batched()
    bench.now_ms += 26_000
    bench.tick()
    assert told(worker) == [25_000]


def test_a_run_that_was_asked_for_is_made_whatever_the_policy() -> None:
    bench = Bench()
    name = job(bench, misfire(0), "@every 1h")
    bench.etcd.put(RUNS + name, b"")
    bench.tick()
    bench.now_ms += 60_000
    worker = bench.connect_batched()
    assert [trigger.asked for trigger in worker.got] == [True]


def test_ticks_behind_the_ttl_are_not_reached_by_passing_over() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 10s", expires_ms=T + 35_000)
    bench.etcd.put(STATES + name, misfire(5))
    bench.now_ms += 100_000
    bench.tick()
    bench.commit()
    assert bench.job_keys() == []


def test_passed_ticks_count_in_no_repeats() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 10s", repeats=2)
    bench.etcd.put(STATES + name, misfire(most=1))
    worker = bench.connect_batched()
    for _ in range(2):
        bench.now_ms += 55_000
        bench.tick()
        bench.ack(worker, worker.got[-1].id)
        bench.commit()
    assert told(worker) == [50_000, 110_000]
    assert bench.job_keys() == []


UNREADABLE = [b"\x22\x02\x0a\x05", b"\x22\x05\x0a\x03\x08\xff", b"\x22\x00", b"\x22\x0d\x0a\x0b\x08" + b"\xff" * 9 + b"\x01"]


def test_a_window_holds_the_tick_at_its_edge() -> None:
    for schedule, ticks in (("@every 10s", [20_000, 30_000]), ("*/10 * * * * *", [20_000, 30_000])):
        for late_ms, count in ((0, 2), (1, 1)):
            bench = Bench()
            job(bench, misfire(10), schedule)
            bench.now_ms += 30_000 + late_ms
            bench.tick()
            worker = bench.connect_batched()
            assert told(worker) == ticks[2 - count :][:1]


@pytest.mark.parametrize("stored", UNREADABLE)
def test_what_cannot_be_read_is_no_policy(stored: bytes) -> None:
    bench = Bench()
    job(bench, stored, "@every 10s")
    worker = bench.connect_batched()
    bench.now_ms += 25_000
    bench.tick()
    assert told(worker) == [10_000]


def test_a_schedule_without_a_pause_between_its_ticks_goes_on() -> None:
    bench = Bench()
    job(bench, misfire(1, 1), "@every 0s")
    worker = bench.connect_batched()
    bench.now_ms += 25_000
    bench.tick()
    assert len(worker.got) == 1
