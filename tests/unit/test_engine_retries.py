"""Retry ladders: when a failed run is tried again, by whom, and how often; and what is told of its last error."""

from typing import Any

import pytest

from raftsched.limits import ERROR_BYTES_MAX, LAST_ERRORS_MAX
from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.engine.states import State
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, RUNS, STATES
from raftsched.testing.scheduling import FAILED, START_MS, Bench, Worker, policy

T = START_MS
HOUR_MS = 3_600_000


def ladder(initial_ms: int = 1_000, cap_ms: int = 0, **fields: int) -> bytes:
    retry = state_pb2.Retry(**fields)
    retry.initial.FromMilliseconds(initial_ms)
    if cap_ms:
        retry.cap.FromMilliseconds(cap_ms)
    return state_pb2.JobExtra(retry=retry).SerializeToString()


def waits(bench: Bench, worker: Worker, most: int = 20) -> list[int]:
    """The job fails until it is given up: how long it was waited, by the clock."""
    found = []
    while True:
        [(_, id_)] = worker.take()
        bench.ack(worker, id_, status=FAILED)
        job = bench.engine.describe(b"app||ns||app||a")
        again = bench.engine.next_attempt_ms(b"app||ns||app||a")
        due = None if job is None else job["due_ms"]
        if due is None or due > bench.now_ms + HOUR_MS or len(found) == most:
            return found
        found.append(due - bench.now_ms)
        assert again == due
        bench.tick(due - bench.now_ms - 1)
        assert worker.take() == []
        bench.tick(1)


def test_each_wait_is_twice_the_one_before_up_to_the_cap() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", due_ms=T)
    bench.etcd.put(STATES + name, ladder(cap_ms=5_000, max_attempts=6))
    bench.tick()
    assert waits(bench, worker) == [1_000, 2_000, 4_000, 5_000, 5_000]
    bench.commit()
    assert (bench.job_keys(), bench.counter(name)) == ([], None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"factor_percent": 100, "max_attempts": 4}, [1_000] * 3),
        ({"factor_percent": 150, "max_attempts": 5}, [1_000, 1_500, 2_250, 3_375]),
        ({"factor_percent": 10_000, "max_attempts": 4, "cap_ms": 150_000}, [1_000, 100_000, 150_000]),
        ({"initial_ms": 1, "factor_percent": 101, "max_attempts": 4}, [1, 2, 3]),
        ({"max_attempts": 1}, []),
        ({"factor_percent": 100}, [1_000] * 20),
    ],
)
def test_factor_and_number_of_attempts(fields: dict[str, int], expected: list[int]) -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", due_ms=T, failure_policy=policy(drop=True))
    bench.etcd.put(STATES + name, ladder(**fields))
    bench.tick()
    assert waits(bench, worker) == expected


def test_jitter_takes_a_share_away_and_is_the_same_everywhere() -> None:
    several = []
    for _ in range(2):
        bench = Bench()
        worker = bench.connect()
        for partition in range(8):
            name = bench.put(f"{partition}", due_ms=T, partition=partition + 1)
            bench.etcd.put(STATES + name, ladder(8_000, jitter_percent=50, max_attempts=2))
        bench.tick()
        for _, id_ in worker.take():
            bench.ack(worker, id_, status=FAILED)
        dues = [bench.engine.describe(f"app||ns||app||{one}".encode()) for one in range(8)]
        several.append([one["due_ms"] - T for one in dues if one is not None])
    assert several[0] == several[1]
    assert len(set(several[0])) == 8
    assert all(4_000 < wait <= 8_000 for wait in several[0])


def test_a_wait_counts_from_the_answer() -> None:
    """A worker that was away for an hour does not burn all its attempts at once."""
    bench = Bench()
    name = bench.put("a", due_ms=T)
    bench.etcd.put(STATES + name, ladder(max_attempts=4))
    bench.tick(3_600_000)
    worker = bench.connect()
    assert waits(bench, worker) == [1_000, 2_000, 4_000]


def test_who_owns_the_job_anew_waits_on() -> None:
    """It counts from the tick: not later than the one before would have been, and not at once."""
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", due_ms=T)
    bench.etcd.put(STATES + name, ladder(10_000))
    bench.tick()
    [(_, id_)] = worker.take()
    bench.ack(worker, id_, status=FAILED)
    bench.tick(10_000)
    [(_, id_)] = worker.take()
    bench.ack(worker, id_, status=FAILED)
    bench.restart()
    worker = bench.connect()
    assert bench.counter(name) == (1, 0, None, 2)
    bench.tick(19_999)
    assert worker.take() == []
    bench.tick(1)
    [(_, id_)] = worker.take()
    bench.ack(worker, id_, status=FAILED)
    bench.tick(39_999)
    assert worker.take() == []
    bench.tick(1)
    assert len(worker.take()) == 1


def test_a_ladder_that_is_taken_away_leaves_the_failure_policy() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", due_ms=T, failure_policy=policy(interval_ms=100, max_retries=2))
    bench.etcd.put(STATES + name, ladder(60_000))
    bench.tick()
    [(_, id_)] = worker.take()
    bench.ack(worker, id_, status=FAILED)
    bench.restart()
    worker = bench.connect()
    assert bench.engine.state_of(name) == State.ARMED
    bench.etcd.delete(STATES + name)
    bench.tick()
    assert waits(bench, worker) == [100]


def test_a_run_that_was_asked_for_climbs_too() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 1000h")
    bench.etcd.put(STATES + name, ladder(max_attempts=3))
    bench.etcd.put(RUNS + name, b"")
    bench.tick()
    assert waits(bench, worker, 2) == [1_000, 2_000]
    assert bench.engine.next_attempt_ms(name) is None
    assert (bench.counter(name), RUNS + name in bench.etcd.keys) == (None, False)


@pytest.mark.parametrize(
    "extra",
    [
        b"\x2a\x02\x10\x05",  # no first wait
        b"\x2a\x04\x0a\x02\x08\x00",  # one of 0 s
        b"\x2a\x0d\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # cut off, or below 0
        b"\x2a\x08\x0a\x06\x08\x80\x80\x80\x80\x7f",  # longer than a year
        b"\x2a\x03\x0a\x01\x08",
        b"\x2a\xff",
    ],
)
def test_what_is_no_ladder_leaves_the_failure_policy(extra: bytes) -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", due_ms=T, failure_policy=policy(interval_ms=100, max_retries=1))
    bench.etcd.put(STATES + name, extra)
    bench.tick()
    assert waits(bench, worker) == [100]


def test_very_many_attempts_take_no_time() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", due_ms=T, partition=7)
    for attempts in (100_000, 4_000_000_000):
        bench.etcd.put(COUNTERS + name, _counter(7, attempts))
        bench.etcd.put(STATES + name, ladder(1, factor_percent=100))
    found = bench.engine.describe(name)
    assert found is not None
    assert found["due_ms"] == T
    bench.tick()
    assert len(worker.take()) == 1


def _counter(partition: int, attempts: int) -> bytes:
    return _jobs.encode_counter(partition, 0, None, attempts)


# -- the last error


def last(bench: Bench, name: bytes) -> Any:
    return bench.engine.last_error(name)


def test_the_last_error_is_told_with_its_attempt() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    name = bench.put("a", due_ms=T, partition=7)
    assert last(bench, name) is None
    bench.tick()
    [(_, id_)] = worker.take()
    bench.ack(worker, id_, status=FAILED, error="disk full")
    assert last(bench, name) == (T, (T // 1000, 0), 0, 7, 0, b"disk full")
    bench.tick(1_000)
    [(_, id_)] = worker.take()
    bench.ack(worker, id_, status=FAILED)
    assert last(bench, name) == (T + 1_000, (T // 1000, 0), 0, 7, 1, b"")


def test_of_a_run_that_was_asked_for() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    name = bench.put("a", schedule="@every 1h", partition=7)
    bench.etcd.put(RUNS + name, b"")
    revision = bench.etcd.revision
    bench.tick()
    [(_, id_)] = worker.take()
    bench.ack(worker, id_, status=FAILED, error="x" * 5_000)
    assert last(bench, name) == (T, None, revision, 7, 0, b"x" * ERROR_BYTES_MAX)


def test_a_success_leaves_it_and_an_overwrite_and_a_deletion_take_it_away() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    for short in "ab":
        bench.put(short, schedule="@every 1s")
    bench.tick(1_000)
    bench.ack(worker, *(id_ for _, id_ in worker.take()), status=FAILED, error="x")
    bench.tick(1_000)
    bench.ack(worker, *(id_ for _, id_ in worker.take()))
    names = [b"app||ns||app||a", b"app||ns||app||b"]
    assert [last(bench, name)[5] for name in names] == [b"x", b"x"]
    bench.put("a", schedule="@every 1s")
    bench.etcd.delete(b"dapr/jobs/" + names[1])
    assert [last(bench, name) for name in names] == [None, None]


def test_it_is_forgotten_with_the_ownership() -> None:
    bench = Bench()
    worker = bench.connect()
    names = [bench.put(short, due_ms=T, partition=ord(short)) for short in "ab"]
    bench.tick()
    bench.ack(worker, *(id_ for _, id_ in worker.take()), status=FAILED)
    assert all(last(bench, name) for name in names)
    bench.engine.set_partition(2, 1)
    assert [last(bench, name) is None for name in names] == [False, True]
    bench.engine.set_partition(1, 0)
    assert [last(bench, name) is None for name in names] == [False, True]


def test_what_is_remembered_has_a_bound() -> None:
    bench = Bench(branches_max=1024, backlog_max=LAST_ERRORS_MAX + 10)
    worker = bench.connect()
    names = [bench.put(f"{number}", due_ms=T) for number in range(LAST_ERRORS_MAX + 1)]
    bench.tick()
    bench.ack(worker, *(id_ for _, id_ in worker.take()), status=FAILED)
    assert [last(bench, name) is None for name in (names[0], names[1], names[-1])] == [True, False, False]
    bench.etcd.delete(b"dapr/jobs/" + names[0])
    assert last(bench, names[1]) is not None
