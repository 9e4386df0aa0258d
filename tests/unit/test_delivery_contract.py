"""Delivery and time as spec/scheduler.md has them, line by line, on a virtual clock: what test_engine.py leaves open."""

import time

import pytest

from raftsched.limits import GATE_WAITERS_MAX, STREAM_BACKLOG_TRIGGERS_MAX, STREAM_TYPES_MAX
from raftsched.scheduler.delivery.gates import Limit
from raftsched.scheduler.jobs.names import Owner
from raftsched.testing.scheduling import APP, FAILED, START_MS, SUCCESS, Bench, Worker, actor, policy

T = START_MS
MINUTE_MS = 60_000
OTHER_APP = APP._replace(app_id="other")


def names(worker: Worker) -> list[str]:
    return [name for name, _ in worker.take()]


def run_out(bench: Bench, worker: Worker, status: int = SUCCESS) -> int:
    """Answers each trigger as soon as it comes, until nothing comes any more; how many came."""
    count = 0
    bench.tick()
    while got := worker.take():
        count += len(got)
        bench.ack(worker, *(id_ for _, id_ in got), status=status)
        bench.tick()
    return count


# -- §5.3
@pytest.mark.parametrize(("schedule", "ttl_ms", "step_ms", "triggers"), [("@every 1s", 3_000, 1_000, 3), ("@every 1ms", 10, 1, 10)])
def test_a_tick_at_the_very_end_still_fires(schedule: str, ttl_ms: int, step_ms: int, triggers: int) -> None:
    """§5.3: next > expiration is finished, equal still fires: `3s` of `@every 1s` gives 3, `10ms` of `@every 1ms` gives 10."""
    bench = Bench()
    bench.put("a", schedule=schedule, expires_ms=T + ttl_ms)
    worker = bench.connect()
    count = 0
    for _ in range(triggers + 3):
        bench.tick(step_ms)
        count += run_out(bench, worker)
    assert count == triggers
    assert bench.etcd.keys == {}


def test_what_is_past_due_fires_at_once_the_oldest_first() -> None:
    """§5.3: past due fires at once, older due times first."""
    bench = Bench()
    worker = bench.connect()
    for seconds in (30, 3_600, 1, 7_200, 60):
        bench.put(f"j{seconds}", due_ms=T - seconds * 1_000)
    bench.tick()
    assert names(worker) == ["j7200", "j3600", "j60", "j30", "j1"]


@pytest.mark.parametrize("how", ["down", "nobody there", "a due time in the past", "a slow handler"])
def test_every_missed_tick_is_delivered_whatever_was_missing(how: str) -> None:
    """§5.3, catch-up, and D17: two days of `@every 1m` are 2 880 triggers, one after another, whatever was missing meanwhile."""
    bench = Bench()
    days_ms = 2 * 1_440 * MINUTE_MS
    if how == "a due time in the past":
        bench.put("a", schedule="@every 1m", due_ms=T - days_ms + MINUTE_MS)
    else:
        bench.put("a", schedule="@every 1m")
    if how == "down":
        bench.now_ms += days_ms
        bench.restart()
    elif how == "nobody there":
        bench.tick(days_ms)
    worker = bench.connect()
    if how == "a slow handler":
        bench.tick(MINUTE_MS)
        assert worker.take() == [("a", 1)]
        bench.tick(days_ms - MINUTE_MS)
        assert worker.take() == []
        bench.ack(worker, 1)
        assert run_out(bench, worker) == 2_879
    else:
        assert run_out(bench, worker) == 2_880
    bench.tick(MINUTE_MS)
    assert len(worker.take()) == 1


def test_a_one_shot_with_one_repeat_is_a_one_shot() -> None:
    """§5.2: `repeats = 1` without a schedule is a valid one-shot."""
    bench = Bench()
    bench.put("a", due_ms=T, repeats=1)
    assert run_out(bench, bench.connect()) == 1
    assert bench.etcd.keys == {}


# -- §4
def test_ids_are_of_the_stream_and_begin_at_one() -> None:
    """§4, trigger: id = per-stream counter from 1, whatever else the worker's other streams have got."""
    bench = Bench()
    first = bench.connect(APP, actor("cat"))
    for index in range(3):
        bench.put(f"j{index}", due_ms=T)
    bench.tick()
    assert [id_ for _, id_ in first.take()] == [1, 2, 3]
    second = bench.connect(actor("dog"))
    bench.put("d", due_ms=T, owner=actor("dog"))
    bench.put("c", due_ms=T, owner=actor("cat"))
    bench.tick()
    assert (second.take(), first.take()) == ([("d", 1)], [("c", 4)])


def test_round_robin_per_app_and_per_actor_type() -> None:
    """§4, routing: round robin over the live streams of each entry, its turn its own; a type that one declares is that one's alone."""
    bench = Bench()
    both = [bench.connect(APP, actor("cat")) for _ in range(2)]
    alone = bench.connect(actor("dog"))
    for index in range(6):
        bench.put(f"job{index}", due_ms=T)
        bench.put(f"cat{index}", due_ms=T, owner=actor("cat", str(index)))
        bench.put(f"dog{index}", due_ms=T, owner=actor("dog", str(index)))
        bench.tick(1)
    for worker in both:
        got = names(worker)
        assert sorted(name[:3] for name in got) == ["cat"] * 3 + ["job"] * 3
    assert names(alone) == [f"dog{index}" for index in range(6)]


def test_actors_are_reached_from_every_app_of_the_namespace() -> None:
    """§3.2, §3.3: the app id is no part of a reminder; any app of a namespace that hosts the type takes it."""
    bench = Bench()
    worker = bench.connect(Owner("ns", "another", actor().target, "cat"))
    bench.put("r", due_ms=T, owner=actor("cat", app_id="app"))
    bench.tick()
    assert names(worker) == ["r"]


def test_a_prefix_lives_until_its_last_stream_goes() -> None:
    """§4, registration: prefixes are reference-counted over streams, each stream counted once."""
    bench = Bench()
    streams = [bench.connect(APP) for _ in range(3)]
    route = bench.delivery.route(b"app||ns||app||")
    assert route is not None
    for left in (2, 1):
        bench.disconnect(streams.pop())
        assert route.live == left
        bench.put(f"j{left}", due_ms=T)
        bench.tick()
        assert [name for worker in streams for name in [one.name for one in worker.got]].count(f"j{left}") == 1
    bench.disconnect(streams.pop())
    assert bench.delivery.stats()["staged"] == 2  # both unanswered ones
    assert sorted(names(bench.connect(APP))) == ["j1", "j2"]


def test_what_was_parked_comes_when_its_type_comes_and_not_before() -> None:
    """§4, staging: a stream that registers a matching prefix re-queues all of its matches at once, and no others."""
    bench = Bench()
    for index in range(50):
        bench.put(f"cat{index}", due_ms=T, owner=actor("cat", str(index)))
        bench.put(f"dog{index}", due_ms=T, owner=actor("dog", str(index)))
    bench.tick(10)
    assert bench.delivery.stats()["staged"] == 100
    worker = bench.connect(actor("cat"))
    assert sorted(names(worker)) == sorted(f"cat{index}" for index in range(50))
    assert bench.delivery.stats()["staged"] == 50


def test_parking_is_not_remembered_and_harmless_to_lose() -> None:
    """§4, staging: lost at a restart, harmlessly: nothing was written, the tick is still due."""
    bench = Bench()
    bench.put("a", schedule="@every 1s")
    revision = bench.etcd.revision
    bench.tick(1_000)
    assert bench.delivery.stats()["staged"] == 1
    bench.restart()
    assert bench.etcd.revision == revision
    worker = bench.connect()
    bench.tick()
    assert worker.take() == [("a", 1)]


def test_an_answer_that_never_comes_holds_its_job_and_nothing_else() -> None:
    """§4, result: no ack timeout; an unanswered trigger on a live stream holds that one job back for ever."""
    bench = Bench()
    bench.put("held", schedule="@every 1h")
    bench.put("free", schedule="@every 1h", start_ms=T + 1)
    worker = bench.connect()
    bench.tick(3_600_001)
    ids = dict(worker.take())
    bench.ack(worker, ids["free"])
    for _ in range(48):
        bench.tick(3_600_000)
        [(name, id_)] = worker.take()
        assert name == "free"
        bench.ack(worker, id_)
    bench.ack(worker, ids["held"])
    bench.tick()
    assert names(worker) == ["held"]


def test_streams_and_what_they_registered_survive_a_change_of_members() -> None:
    """§4, D10: registrations are the stream's, not the partition's: what comes to this replica is delivered to streams of before."""
    bench = Bench(total=2, index=0)
    worker = bench.connect(APP, actor("cat"))
    for total, index in ((3, 2), (1, 0)):
        bench.engine.set_partition(total, index)
        while bench.engine.arm_some(100):
            pass
    bench.put("job", due_ms=T, partition=1)
    bench.put("reminder", due_ms=T, partition=2, owner=actor("cat"))
    bench.tick()
    assert sorted(names(worker)) == ["job", "reminder"]


def test_an_unread_stream_may_have_a_hundred_thousand_triggers() -> None:
    """D16: the backlog per stream is bounded, generously."""
    assert STREAM_BACKLOG_TRIGGERS_MAX >= 100_000


def test_ten_thousand_streams_share_the_work() -> None:
    """Bad input: ten thousand streams of one app: each job goes to one of them, each stream gets its share, and all can go."""
    bench = Bench()
    workers = [Worker() for _ in range(10_000)]
    prefixes = [(b"app||ns||app||", APP.target, None)]
    for worker in workers:
        worker.stream = bench.engine.open_stream(worker.push, worker, prefixes, "ns", ())
    for index in range(20_000):
        bench.put(f"j{index}", due_ms=T)
    bench.tick()
    assert {len(worker.got) for worker in workers} == {2}
    for worker in workers[1:]:
        assert worker.stream is not None
        bench.engine.close_stream(worker.stream)
    bench.flush()
    assert len(workers[0].got) == 20_000
    assert bench.delivery.stats()["streams"] == 1


# -- §4, gates
def test_gates_are_for_actors_alone() -> None:
    """§4, gates: actor targets only; a job with the same concurrency key is held back by nothing."""
    bench = Bench()
    worker = bench.connect(APP, actor("cat"), limits=[Limit("cat", None, 1), Limit("cat", "red", 1)])
    for index in range(3):
        bench.put(f"job{index}", due_ms=T, key="red")
        bench.put(f"cat{index}", due_ms=T + index, owner=actor("cat", str(index)), key="red")
    bench.tick(10)
    assert sorted(names(worker)) == ["cat0", "job0", "job1", "job2"]


@pytest.mark.parametrize("max_concurrent", [0, -1, -(2**31)])
def test_a_limit_of_nothing_is_no_limit(max_concurrent: int) -> None:
    """§4, gates: entries with `max_concurrent` <= 0 are ignored."""
    bench = Bench()
    worker = bench.connect(actor("cat"), limits=[Limit("cat", None, max_concurrent)])
    for index in range(5):
        bench.put(f"cat{index}", due_ms=T, owner=actor("cat", str(index)))
    bench.tick()
    assert len(worker.take()) == 5


def test_a_later_declaration_overwrites_an_earlier_one() -> None:
    """§4, gates: the newer limit counts at once, for waiters too."""
    bench = Bench()
    first = bench.connect(actor("cat"), limits=[Limit("cat", None, 1)])
    for index in range(5):
        bench.put(f"cat{index}", due_ms=T, owner=actor("cat", str(index)))
    bench.tick()
    assert len(first.take()) == 1
    second = bench.connect(actor("cat"), limits=[Limit("cat", None, 4)])
    bench.flush()
    assert len(first.take()) + len(second.take()) == 3


@pytest.mark.parametrize("how", [SUCCESS, FAILED, None])
def test_any_result_frees_the_slot(how: int | None) -> None:
    """§4, gates: SUCCESS, FAILED and a disconnect free it, and the oldest waiter goes."""
    bench = Bench()
    limits = [Limit("cat", None, 1)]
    worker, other = bench.connect(actor("cat"), limits=limits), bench.connect(actor("cat"), limits=limits)
    for index in range(2):
        bench.put(f"cat{index}", due_ms=T + index, owner=actor("cat", str(index)), failure_policy=policy(drop=True))
    bench.tick(10)
    got = worker if worker.got else other
    assert got.take() == [("cat0", 1)]
    if how is None:
        bench.disconnect(got)
        left = other if got is worker else worker
        assert len(left.take()) == 1
    else:
        bench.ack(got, 1, status=how)
        bench.flush()
        assert [*names(worker), *names(other)] == ["cat1"]


def test_shares_follow_the_members_and_let_waiters_go() -> None:
    """§4, gates: a change of members recomputes the shares and lets waiters go; a limit below N is exceeded, never starved."""
    bench = Bench()
    worker = bench.connect(actor("cat"), limits=[Limit("cat", None, 10)])
    bench.engine.set_gate_share(1, 3)  # 10 = 4 + 3 + 3
    for index in range(12):
        bench.put(f"cat{index}", due_ms=T, owner=actor("cat", str(index)))
    bench.tick()
    assert len(worker.take()) == 3
    bench.engine.set_gate_share(0, 3)
    bench.flush()
    assert len(worker.take()) == 1
    bench.engine.set_gate_share(0, 1)
    bench.flush()
    assert len(worker.take()) == 6
    assert bench.gates.gauges() == {"cat": (10, 2)}


def test_those_who_are_passed_over_keep_their_place() -> None:
    """§4, gates: a freed slot lets the oldest waiter go that can take all of its gates; those skipped keep their place."""
    bench = Bench()
    worker = bench.connect(actor("cat"), limits=[Limit("cat", None, 2), Limit("cat", "red", 1)])
    for index, key in enumerate(["red", "blue", "red", "red", "green"]):
        bench.put(f"{key}{index}", due_ms=T + index, owner=actor("cat", str(index)), key=key)
    bench.tick(10)
    ids = dict(worker.take())
    assert list(ids) == ["red0", "blue1"]
    bench.ack(worker, ids["blue1"])  # red2 and red3 are older than green4, and cannot go yet
    bench.flush()
    ids |= dict(worker.take())
    assert list(ids)[2:] == ["green4"]
    for done, follows in (("red0", "red2"), ("red2", "red3")):
        bench.ack(worker, ids[done])
        bench.flush()
        got = dict(worker.take())
        assert list(got) == [follows]
        ids |= got


def test_a_gate_of_another_apps_streams_stays() -> None:
    """§4, gates: a gate goes with the last live stream that declares it; a stream without limits does not remove it."""
    bench = Bench()
    declaring = bench.connect(actor("cat"), limits=[Limit("cat", None, 1)])
    plain = bench.connect(actor("cat", app_id="plain"))
    for index in range(3):
        bench.put(f"cat{index}", due_ms=T + index, owner=actor("cat", str(index)))
    bench.disconnect(plain)
    bench.tick(10)
    assert len(declaring.take()) == 1
    second = bench.connect(actor("cat"))
    bench.disconnect(declaring)  # the last that declared it: one comes again, the waiters are told undeliverable and come too
    assert sorted(names(second)) == ["cat0", "cat1", "cat2"]
    assert bench.gates.gauges() == {}


def test_gates_wait_for_a_hundred_thousand() -> None:
    """§4, gates: at most 100 000 wait per gate; test_engine.py::test_a_full_gate_answers_failed has what comes beyond."""
    assert GATE_WAITERS_MAX == 100_000


def test_as_many_types_and_limits_as_a_stream_may_have() -> None:
    """Bad input: a stream with all the types and limits that it may declare opens and goes in no time, beside others of its kind."""
    bench = Bench()
    owners = [actor(f"type{number}") for number in range(STREAM_TYPES_MAX // 2)]
    limits = [Limit(owner.actor_type, "red", 1) for owner in owners]
    began_s = time.process_time()
    for _ in range(3):
        worker = bench.connect(*owners, limits=limits)
    assert bench.delivery.stats()["routes"] == len(owners)
    for worker in list(bench.workers):
        bench.disconnect(worker)
    assert time.process_time() - began_s < 5  # without a look at every gate for every type
    assert bench.gates.gauges() == {}
    assert bench.gates.declared_types() == set()


# -- §10.1
def test_latency_is_from_the_trigger_to_its_result_gates_included() -> None:
    """§10.1: `trigger_latency`, ms, bounds 100, 500, 1000, 5000, 10000: SUCCESS and FAILED, not UNDELIVERABLE; waiting included."""
    bench = Bench()
    worker = bench.connect(actor("cat"), limits=[Limit("cat", None, 1)])
    for index in range(2):
        bench.put(f"cat{index}", due_ms=T, owner=actor("cat", str(index)), failure_policy=policy(drop=True))
    bench.tick()
    bench.now_ms += 700
    bench.ack(worker, 1)  # 700 ms: the third bucket
    bench.flush()
    bench.now_ms += 600
    bench.ack(worker, 2, status=FAILED)  # 1300 ms, of which it waited 700: the fourth
    measured = bench.engine.metrics()
    assert measured["latency"][2] == [0, 0, 1, 1, 0, 0]
    assert measured["latency_sum_ms"][2] == 700 + 1300
    bench.put("job", due_ms=bench.now_ms)
    bench.tick()  # nobody takes it
    assert bench.engine.metrics()["undelivered"][1] == 1
    assert sum(bench.engine.metrics()["latency"][1]) == 0


def test_each_delivery_that_fails_counts() -> None:
    """§10.1: `jobs_failed_total` counts results FAILED, one per delivery; `jobs_triggered_total` results SUCCESS alone."""
    bench = Bench()
    bench.put("a", due_ms=T, failure_policy=policy(interval_ms=0, max_retries=2))
    worker = bench.connect()
    assert run_out(bench, worker, status=FAILED) == 3
    assert (bench.engine.metrics()["failed"][1], bench.engine.metrics()["triggered"][1]) == (3, 0)


# -- §5.4
@pytest.mark.parametrize(("max_retries", "deliveries"), [(0, 1), (1, 2), (5, 6)])
def test_max_plus_one_deliveries_in_all(max_retries: int, deliveries: int) -> None:
    """§5.4: constant with a maximum of n: n + 1 deliveries in all, then the job goes on or ends."""
    bench = Bench()
    bench.put("a", due_ms=T, failure_policy=policy(interval_ms=0, max_retries=max_retries))
    assert run_out(bench, bench.connect(), status=FAILED) == deliveries
    assert bench.etcd.keys == {}


def test_jobs_do_not_wait_for_each_other() -> None:
    """§4, order, and dapr #7924: no order between jobs, none waits for another: a thousand are out at the same moment."""
    bench = Bench()
    worker = bench.connect()
    for index in range(1_000):
        bench.put(f"j{index}", due_ms=T)
    bench.tick()
    assert len(worker.take()) == 1_000
