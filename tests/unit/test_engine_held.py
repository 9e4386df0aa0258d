"""Paused jobs and frozen namespaces in the engine: nothing of them is sent, what was sent counts, and their states go with the job."""

import pytest

from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.delivery.gates import Limit
from raftsched.scheduler.engine.states import State
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, NAMESPACES, RUNS, STATES, TARGET_JOB, Owner
from raftsched.testing.memory_etcd import MemoryEtcd
from raftsched.testing.scheduling import FAILED, START_MS, Bench, actor, policy

T = START_MS
PAUSED = state_pb2.JobExtra(pause=state_pb2.Hold(reason="x")).SerializeToString()
EMPTY_PAUSE = state_pb2.JobExtra(pause=state_pb2.Hold()).SerializeToString()
FROZEN = state_pb2.NamespaceExtra(freeze=state_pb2.Hold(reason="x")).SerializeToString()
OTHER = Owner("other", "app", TARGET_JOB)


def pause(bench: Bench, name: bytes) -> None:
    bench.etcd.put(STATES + name, PAUSED)
    bench.engine.check_invariants()


def resume(bench: Bench, name: bytes) -> None:
    bench.etcd.delete(STATES + name)
    bench.engine.check_invariants()


def states(bench: Bench) -> list[bytes]:
    return sorted(key for key in bench.etcd.keys if key.startswith(b"raftsched/"))


def test_a_paused_job_does_not_fire_and_goes_on_when_resumed() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 1s")
    pause(bench, name)
    bench.tick(5_000)
    assert worker.take() == []
    assert bench.engine.state_of(name) == State.IDLE
    resume(bench, name)
    bench.tick()
    assert [one for one, _ in worker.take()] == ["a"]
    assert bench.engine.look(name) is not None


@pytest.mark.parametrize("value", [PAUSED, EMPTY_PAUSE])
def test_it_is_the_field_that_counts(value: bytes) -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 1s")
    bench.etcd.put(STATES + name, value)
    bench.tick(1_000)
    assert worker.take() == []
    bench.etcd.put(STATES + name, b"")
    bench.tick()
    assert len(worker.take()) == 1


@pytest.mark.parametrize("junk", [b"\xff", b"\x0a\x05x", b"\x08\x01"])
def test_what_cannot_be_read_holds_nobody(junk: bytes) -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 1s")
    bench.etcd.put(STATES + name, junk)
    bench.etcd.put(NAMESPACES + b"ns", junk)
    bench.tick(1_000)
    assert len(worker.take()) == 1
    assert states(bench) == [STATES + name, NAMESPACES + b"ns"]


def test_resumed_with_its_counter_moved_on_it_owes_nothing() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 1s", partition=7)
    pause(bench, name)
    bench.tick(5_500)
    missed = bench.engine.missed(name, bench.now_ms // 1000, bench.now_ms % 1000 * 1_000_000)
    look = bench.engine.look(name)
    assert look is not None
    assert missed == ((T // 1000 + 5, 0), look[0], 0, 7, 0)
    bench.etcd.put(COUNTERS + name, _jobs.encode_counter(7, 0, missed[0], 0))
    resume(bench, name)
    bench.tick()
    assert worker.take() == []
    bench.tick(500)
    [(_, id_)] = worker.take()
    bench.ack(worker, id_)
    assert bench.counter(name) == (7, 1, (T // 1000 + 6, 0), 0)


def test_what_is_missed() -> None:
    bench = Bench()
    cron = bench.put("cron", schedule="*/10 * * * * *")
    once = bench.put("once", due_ms=T)
    zero = bench.put("zero", schedule="@every 0s", due_ms=T)
    second = T // 1000
    later = bench.engine.missed(cron, second + 35, 0)
    assert later is not None
    assert later[0] == ((second + 35) // 10 * 10, 0)
    assert bench.engine.missed(cron, second, 0) is None
    assert bench.engine.missed(once, second + 35, 0) is None
    instant = bench.engine.missed(zero, second + 35, 5)
    assert instant is not None
    assert instant[0] == (second + 35, 5)
    assert bench.engine.missed(b"nothing", second, 0) is None


def test_what_a_worker_has_is_answered_and_counted() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 1s", partition=7)
    bench.tick(1_000)
    [(_, id_)] = worker.take()
    pause(bench, name)
    bench.ack(worker, id_)
    assert bench.counter(name) == (7, 1, (T // 1000 + 1, 0), 0)
    assert bench.engine.state_of(name) == State.IDLE
    bench.tick(5_000)
    assert worker.take() == []


def test_a_failed_run_is_not_tried_again_before_it_is_resumed() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 1h", due_ms=T, failure_policy=policy(interval_ms=1_000), partition=7)
    bench.tick()
    [(_, id_)] = worker.take()
    pause(bench, name)
    bench.ack(worker, id_, status=FAILED)
    bench.tick(10_000)
    assert worker.take() == []
    assert bench.counter(name) == (7, 0, None, 1)
    resume(bench, name)
    bench.tick()
    assert len(worker.take()) == 1


def test_staged_queued_and_gated_triggers_are_taken_back() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    bench.tick(1_000)
    assert bench.engine.state_of(name) == State.STAGED
    pause(bench, name)
    worker = bench.connect()
    assert worker.take() == []
    assert bench.engine.state_of(name) == State.IDLE
    resume(bench, name)
    worker.room = 1
    bench.tick()
    assert len(worker.take()) == 1  # and now there is no room
    other = bench.put("b", due_ms=bench.now_ms)
    bench.tick()
    pause(bench, other)
    assert worker.stream is not None
    bench.engine.stream_writable(worker.stream)
    bench.flush()
    assert worker.take() == []
    owner = actor("cat")
    gated = bench.connect(owner, limits=[Limit("cat", None, 1)])
    first = bench.put("j0", due_ms=bench.now_ms, owner=owner)
    second = bench.put("j1", due_ms=bench.now_ms + 1, owner=owner)
    bench.tick(10)
    [(shown, id_)] = gated.take()
    assert shown == "j0"
    pause(bench, second)
    bench.ack(gated, id_)
    bench.flush()
    assert gated.take() == []
    assert bench.gates.gauges()["cat"] == (0, 0)
    resume(bench, second)
    bench.tick()
    assert [one for one, _ in gated.take()] == ["j1"]
    assert bench.engine.state_of(first) is None


def test_a_stream_that_breaks_does_not_send_a_paused_job_again() -> None:
    bench = Bench()
    worker, other = bench.connect(), bench.connect()
    name = bench.put("a", schedule="@every 1s")
    bench.tick(1_000)
    holder = worker if worker.take() else other
    other.take()
    pause(bench, name)
    bench.disconnect(holder)
    bench.tick(1_000)
    assert worker.take() + other.take() == []
    assert bench.engine.state_of(name) == State.IDLE


def test_a_pause_outlives_an_overwrite_and_a_restart_and_ends_with_the_job() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    pause(bench, name)
    bench.put("a", schedule="@every 2s")
    bench.restart()
    worker = bench.connect()
    bench.tick(10_000)
    assert worker.take() == []
    bench.etcd.delete(JOBS + name)  # by some tool
    bench.put("a", schedule="@every 1s")
    bench.tick(1_000)
    assert len(worker.take()) == 1
    assert states(bench) == [STATES + name]
    bench.commit()
    assert states(bench) == []


def test_a_state_that_was_written_anew_is_not_removed_with_the_old_one() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", schedule="@every 1s")
    pause(bench, name)
    bench.etcd.delete(JOBS + name)
    bench.put("a", schedule="@every 1s")
    pause(bench, name)
    bench.commit()
    assert states(bench) == [STATES + name]
    bench.tick(5_000)
    assert worker.take() == []


def test_a_job_that_ends_takes_its_state_along() -> None:
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", due_ms=T)
    bench.etcd.put(STATES + name, b"")
    bench.tick()
    [(_, id_)] = worker.take()
    bench.ack(worker, id_)
    bench.commit()
    assert (bench.job_keys(), states(bench)) == ([], [])


def test_an_undecodable_record_ends_the_pause_with_the_job() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    pause(bench, name)
    bench.etcd.put(JOBS + name, b"\xff")
    bench.commit()
    assert states(bench) == []


@pytest.mark.parametrize(("index", "left"), [(0, 0), (1, 2)])
def test_what_was_left_while_nothing_ran_is_removed_at_the_load_by_the_first_replica(index: int, left: int) -> None:
    etcd = MemoryEtcd()
    etcd.put(STATES + b"app||ns||app||gone", PAUSED)
    etcd.put(STATES + b"app||ns||app||a", PAUSED)
    first = Bench(etcd)
    first.put("a", schedule="@every 1s")  # younger than the state of its name
    bench = Bench(etcd, total=2, index=index)
    bench.commit()
    assert len(states(bench)) == left
    look = bench.engine.look(b"app||ns||app||a")
    assert look is not None
    assert not look[9]


def test_another_replica_leaves_the_state_to_the_owner() -> None:
    bench = Bench(total=2, index=1)
    name = bench.put("a", schedule="@every 1s", partition=2)  # of replica 0
    pause(bench, name)
    bench.etcd.delete(JOBS + name)
    bench.commit()
    assert states(bench) == [STATES + name]


@pytest.mark.parametrize("total", [2, 0], ids=["its owner is another", "nobody knows yet whose it is"])
@pytest.mark.parametrize("again", [False, True], ids=["gone", "created again"])
def test_the_first_replica_sees_to_the_states_of_jobs_whose_owner_may_be_dead(total: int, again: bool) -> None:
    bench = Bench(total=total, index=0)
    name = bench.put("a", schedule="@every 1s", partition=1)
    pause(bench, name)
    bench.etcd.put(RUNS + name, b"")
    bench.etcd.delete(JOBS + name)
    if again:
        bench.put("a", schedule="@every 1s", partition=1)
    bench.commit()
    if total == 0:
        assert len(states(bench)) == 2
        bench.engine.set_partition(2, 0)
        bench.commit()
    assert states(bench) == []


def test_a_frozen_namespace_is_still_until_it_thaws() -> None:
    bench = Bench()
    worker, other = bench.connect(), bench.connect(OTHER)
    cats = bench.connect(actor("cat"))
    bench.put("a", schedule="@every 1s")
    bench.put("b", schedule="@every 1s", owner=OTHER)
    bench.put("c", schedule="@every 1s", owner=actor("cat"))
    bench.etcd.put(NAMESPACES + b"ns", FROZEN)
    late = bench.put("late", schedule="@every 1s")
    app = Owner("ns", "another", TARGET_JOB)
    elsewhere = bench.connect(app)
    bench.put("elsewhere", schedule="@every 1s", owner=app)  # a route that is made now
    bench.tick(1_000)
    assert [one for one, _ in other.take()] == ["b"]
    assert worker.take() + cats.take() + elsewhere.take() == []
    look = bench.engine.look(late)
    assert look is not None
    assert look[9:11] == (False, True)
    bench.etcd.delete(NAMESPACES + b"ns")
    bench.tick()
    assert sorted(one for one, _ in worker.take()) == ["a", "late"]
    assert [one for one, _ in cats.take() + elsewhere.take()] == ["c", "elsewhere"]


def test_a_freeze_is_loaded_and_a_reload_forgets_one_that_is_over() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    bench.etcd.put(NAMESPACES + b"ns", FROZEN)
    bench.restart()
    worker = bench.connect()
    bench.tick(5_000)
    assert worker.take() == []
    bench.etcd.sinks = []
    bench.etcd.delete(NAMESPACES + b"ns")  # unseen: the history was lost
    bench.etcd.sinks = [bench]
    bench.engine.begin_load()
    for prefix in (JOBS, COUNTERS, NAMESPACES, STATES):
        bench.engine.on_changes(bench.etcd.live(prefix))
    bench.engine.finish_load()
    while bench.engine.arm_some(7):
        pass
    bench.tick()
    assert len(worker.take()) == 1
    assert bench.engine.state_of(name) == State.IN_FLIGHT


def test_a_job_whose_end_is_due_waits_for_its_resumption() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s", expires_ms=T + 500)
    pause(bench, name)
    bench.commit()
    assert bench.job_keys() == [JOBS + name]
    resume(bench, name)
    bench.commit()
    assert bench.job_keys() == []


@pytest.mark.parametrize("recreated", [False, True])
def test_a_state_that_is_heard_of_before_its_job_is_loaded_is_kept(recreated: bool) -> None:
    bench = Bench()
    if recreated:
        name = bench.put("a", schedule="@every 1s")
        bench.etcd.delete(JOBS + name)
    name = bench.put("a", schedule="@every 1s")
    pause(bench, name)
    bench.engine.begin_load()
    bench.engine.on_changes(bench.etcd.live(STATES))  # somebody pauses it while the jobs are still being read
    for prefix in (JOBS, COUNTERS, NAMESPACES, STATES):
        bench.engine.on_changes(bench.etcd.live(prefix))
    bench.engine.finish_load()
    while bench.engine.arm_some(7):
        pass
    worker = bench.connect()
    bench.commit()
    bench.tick(5_000)
    assert (states(bench), worker.take()) == ([STATES + name], [])


def test_what_a_former_job_left_goes_although_the_one_after_it_goes_first() -> None:
    etcd = MemoryEtcd()
    name = b"app||ns||app||a"
    for prefix in (STATES, RUNS):
        etcd.put(prefix + name, b"")
    Bench(etcd).put("a", schedule="@every 1h")
    bench = Bench(etcd)
    etcd.delete(JOBS + name)
    for _ in range(2):
        bench.commit()
    assert [key for key in etcd.keys if key.startswith((STATES, RUNS))] == []
