"""A run that somebody asked for: an extra trigger beside the schedule, at least once, serial, gone with its result."""

import pytest

from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.engine.states import State
from raftsched.scheduler.jobs.names import JOBS, NAMESPACES, RUNS, STATES
from raftsched.testing.memory_etcd import MemoryEtcd
from raftsched.testing.scheduling import FAILED, START_MS, Bench, policy

T = START_MS
PAUSED = state_pb2.JobExtra(pause=state_pb2.Hold()).SerializeToString()
FROZEN = state_pb2.NamespaceExtra(freeze=state_pb2.Hold()).SerializeToString()


def ask(bench: Bench, name: bytes) -> None:
    bench.etcd.put(RUNS + name, b"")
    bench.engine.check_invariants()
    bench.tick()


def asked(bench: Bench) -> list[bytes]:
    return sorted(key for key in bench.etcd.keys if key.startswith(RUNS))


def test_it_comes_at_once_and_changes_nothing() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 10s", partition=7)
    bench.tick(1_000)
    ask(bench, name)
    [(shown, id_)] = worker.take()
    assert shown == "a"
    assert asked(bench) == [RUNS + name]
    bench.ack(worker, id_)
    assert (asked(bench), bench.counter(name)) == ([], None)
    bench.tick(8_999)
    assert worker.take() == []
    bench.tick(1)
    [(_, id_)] = worker.take()
    bench.ack(worker, id_)
    assert bench.counter(name) == (7, 1, (T // 1000 + 10, 0), 0)


def test_it_waits_for_the_run_that_is_out_and_the_other_way_round() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 10s", partition=7)
    bench.tick(10_000)
    [(_, first)] = worker.take()
    ask(bench, name)
    assert worker.take() == []
    bench.ack(worker, first)
    bench.tick()
    [(_, extra)] = worker.take()
    bench.tick(10_000)
    assert worker.take() == []
    bench.ack(worker, extra)
    bench.tick()
    [(_, second)] = worker.take()
    bench.ack(worker, second)
    assert bench.counter(name) == (7, 2, (T // 1000 + 20, 0), 0)


def test_a_one_shot_still_fires_when_it_is_due() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", due_ms=T + 5_000)
    ask(bench, name)
    [(_, id_)] = worker.take()
    bench.ack(worker, id_)
    assert bench.job_keys() == [JOBS + name]
    bench.tick(5_000)
    [(_, id_)] = worker.take()
    bench.ack(worker, id_)
    bench.commit()
    assert (bench.job_keys(), asked(bench)) == ([], [])


def test_a_paused_job_runs_and_stays_paused() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 1s")
    bench.etcd.put(STATES + name, PAUSED)
    bench.tick(5_000)
    ask(bench, name)
    [(_, id_)] = worker.take()
    bench.ack(worker, id_)
    bench.tick(5_000)
    assert worker.take() == []
    assert (bench.engine.state_of(name), asked(bench)) == (State.IDLE, [])


def test_in_a_frozen_namespace_it_waits() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 10s")
    bench.etcd.put(NAMESPACES + b"ns", FROZEN)
    ask(bench, name)
    assert worker.take() == []
    bench.etcd.delete(NAMESPACES + b"ns")
    bench.tick()
    [(_, id_)] = worker.take()
    bench.ack(worker, id_)
    assert asked(bench) == []


def test_a_failed_one_is_tried_again_as_the_policy_says() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 1h", failure_policy=policy(interval_ms=1_000, max_retries=2))
    ask(bench, name)
    for wait_ms in (1_000, 1_000, 0):
        [(_, id_)] = worker.take()
        bench.ack(worker, id_, status=FAILED)
        bench.tick(max(wait_ms - 1, 0))
        assert worker.take() == []
        bench.tick(min(wait_ms, 1))
    assert worker.take() == []
    assert (asked(bench), bench.counter(name)) == ([], None)


def test_nobody_takes_it_and_then_somebody_does() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1h")
    ask(bench, name)
    assert bench.engine.state_of(name) == State.STAGED
    worker = bench.connect()
    [(_, id_)] = worker.take()
    bench.disconnect(worker)
    other = bench.connect()
    [(_, id_)] = other.take()
    bench.ack(other, id_)
    assert asked(bench) == []


def test_it_outlives_a_restart_and_an_overwrite() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 1h")
    ask(bench, name)
    assert len(worker.take()) == 1
    bench.restart()
    worker = bench.connect()
    bench.tick()
    [(_, id_)] = worker.take()
    bench.put("a", schedule="@every 2h")
    bench.ack(worker, id_)  # of the job that is no more
    assert asked(bench) == [RUNS + name]
    bench.tick()
    [(_, id_)] = worker.take()
    bench.ack(worker, id_)
    assert asked(bench) == []


@pytest.mark.parametrize("sent", [False, True])
def test_it_goes_with_the_job_and_with_its_key(sent: bool) -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1h")
    worker = bench.connect() if sent else None
    ask(bench, name)
    bench.etcd.delete(RUNS + name)
    bench.engine.check_invariants()
    assert bench.engine.state_of(name) == State.ARMED
    if worker is not None:
        [(_, id_)] = worker.take()
        bench.ack(worker, id_)
        assert bench.counter(name) is None
    ask(bench, name)
    bench.etcd.delete(JOBS + name)
    bench.commit()
    assert asked(bench) == []


def test_a_request_for_a_former_job_is_none() -> None:
    etcd = MemoryEtcd()
    etcd.put(RUNS + b"app||ns||app||a", b"")
    Bench(etcd).put("a", schedule="@every 1h")
    bench = Bench(etcd)
    worker = bench.connect()
    bench.tick()
    assert worker.take() == []
    bench.commit()
    assert asked(bench) == []


def test_of_a_job_that_never_fires() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="0 0 0 30 2 *")
    ask(bench, name)
    [(_, id_)] = worker.take()
    bench.ack(worker, id_)
    assert (bench.engine.state_of(name), asked(bench)) == (State.IDLE, [])


def test_a_request_that_came_meanwhile_is_not_taken_for_the_one_that_ran() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 1h")
    ask(bench, name)
    [(_, first)] = worker.take()
    assert bench.answer(worker, first) is None
    bench.etcd.delete(RUNS + name)
    bench.etcd.put(RUNS + name, b"")
    bench.commit()
    assert asked(bench) == [RUNS + name]
    bench.tick()
    [(_, second)] = worker.take()
    bench.ack(worker, second)
    assert asked(bench) == []
