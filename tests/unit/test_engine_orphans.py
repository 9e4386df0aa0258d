"""Counters whose job is gone: somebody removes them, whoever owned them when a tool deleted the job alone."""

from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.testing.scheduling import START_MS, Bench

T = START_MS


def counted(bench: Bench, name: str, partition: int) -> bytes:
    composed = bench.put(name, schedule="@every 1s", partition=partition)
    bench.etcd.put(COUNTERS + composed, _jobs.encode_counter(partition, 1, (T // 1000 + 1, 0), 0))
    return composed


def take_over(bench: Bench, total: int, index: int) -> None:
    bench.engine.set_partition(total, index)
    while bench.engine.arm_some(1):
        pass
    bench.commit()


def test_who_takes_over_removes_what_a_dead_owner_left() -> None:
    bench = Bench(total=2, index=0)
    mine, others = counted(bench, "mine", 4), counted(bench, "others", 5)
    bench.etcd.delete(JOBS + mine)
    bench.etcd.delete(JOBS + others)
    bench.commit()
    assert list(bench.etcd.keys) == [COUNTERS + others]
    take_over(bench, 1, 0)
    assert bench.etcd.keys == {}
    assert bench.engine.results_pending == 0


def test_a_load_finds_what_was_deleted_before_it() -> None:
    bench = Bench(total=2, index=0)
    mine, others = counted(bench, "mine", 4), counted(bench, "others", 5)
    bench.etcd.sinks = []
    bench.etcd.delete(JOBS, JOBS + b"\xff")
    bench.restart(total=2, index=0)
    bench.commit()
    assert list(bench.etcd.keys) == [COUNTERS + others]
    assert COUNTERS + mine not in bench.etcd.keys


def test_what_has_a_job_again_or_cannot_be_read_stays() -> None:
    bench = Bench(total=2, index=0)
    back, odd = counted(bench, "back", 5), counted(bench, "odd", 7)
    bench.etcd.delete(JOBS + back)
    bench.etcd.delete(JOBS + odd)
    bench.put("back", schedule="@every 1s", partition=5)
    bench.etcd.put(COUNTERS + odd, b"\xff\xff")
    take_over(bench, 1, 0)
    assert {COUNTERS + back, JOBS + back, COUNTERS + odd} == bench.etcd.keys.keys()
    bench.restart()
    bench.commit()
    assert {COUNTERS + back, JOBS + back, COUNTERS + odd} == bench.etcd.keys.keys()


def test_a_job_that_comes_while_its_counter_is_to_go_keeps_it() -> None:
    bench = Bench(total=2, index=0)
    name = counted(bench, "a", 5)
    bench.etcd.delete(JOBS + name)
    bench.engine.set_partition(1, 0)
    while bench.engine.arm_some(1):
        pass
    bench.put("a", schedule="@every 1s", partition=5)
    bench.commit()
    assert bench.counter(name) == (5, 1, (T // 1000 + 1, 0), 0)


def test_a_job_that_was_overwritten_by_something_unreadable_keeps_its_counter() -> None:
    bench = Bench()
    name = counted(bench, "a", 5)
    bench.etcd.put(JOBS + name, b"\xff\xff")
    take_over(bench, 1, 0)
    bench.restart()
    bench.commit()
    assert COUNTERS + name in bench.etcd.keys
