"""Events of jobs: what the engine tells by the store's changes alone, and the ring in which they are kept."""

import random

import pytest

from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, HISTORY, JOBS, NAMESPACES, RUNS, STATES
from raftsched.testing.memory_etcd import MemoryEtcd
from raftsched.testing.scheduling import FAILED, START_MS, Bench, policy

KINDS = {
    1: "created",
    2: "overwritten",
    3: "deleted",
    4: "ran",
    5: "recorded",
    6: "failed",
    7: "skipped",
    8: "paused",
    9: "resumed",
    10: "configured",
    11: "run asked",
    12: "asked ran",
    13: "frozen",
    14: "unfrozen",
    15: "dead",
}


def extra(**parts: object) -> bytes:
    return state_pb2.JobExtra(**parts).SerializeToString()  # type: ignore[arg-type]


class Watch:
    """A reader of a bench's events."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.position = bench.engine.event_span()[1]
        self.missed = False
        self.told = 0

    def read(self) -> list[tuple]:
        found, self.position, self.told, missed = self.bench.engine.read_events(self.position)
        self.missed = self.missed or missed
        return found

    def kinds(self) -> list[str]:
        return [KINDS[event[0]] for event in self.read()]


def test_each_change_of_a_job_is_told() -> None:
    bench = Bench()
    watch = Watch(bench)
    name = bench.put("a", schedule="@every 10s", failure_policy=policy(interval_ms=1_000, max_retries=3))
    assert watch.kinds() == ["created"]
    bench.etcd.put(STATES + name, extra(pause=state_pb2.Hold(reason="x")))
    bench.etcd.put(STATES + name, extra(pause=state_pb2.Hold(reason="y")))
    bench.etcd.delete(STATES + name)
    bench.etcd.put(STATES + name, extra(labels={"a": "b"}))
    assert watch.kinds() == ["paused", "configured", "resumed", "configured"]
    bench.etcd.put(NAMESPACES + b"ns", state_pb2.NamespaceExtra(freeze=state_pb2.Hold()).SerializeToString())
    bench.etcd.put(NAMESPACES + b"ns", state_pb2.NamespaceExtra(freeze=state_pb2.Hold(by="x")).SerializeToString())
    bench.etcd.delete(NAMESPACES + b"ns")
    assert [(KINDS[kind], told) for kind, _, _, told, *_ in watch.read()] == [("frozen", b"ns"), ("unfrozen", b"ns")]
    worker = bench.connect()
    bench.tick(10_000)
    bench.ack(worker, 1, status=FAILED)
    bench.tick(1_000)
    bench.ack(worker, 2)
    failed, ran = watch.read()
    assert (KINDS[failed[0]], failed[6:8]) == ("failed", (0, 1))
    assert (KINDS[ran[0]], ran[5:8], ran[3]) == ("ran", ((START_MS // 1000 + 10, 0), 1, 0), name)
    bench.etcd.put(RUNS + name, b"")
    bench.tick()
    bench.ack(worker, 3)
    assert watch.kinds() == ["run asked", "asked ran"]
    bench.put("a", schedule="@every 20s")
    bench.etcd.delete(JOBS + name)
    assert watch.kinds() == ["overwritten", "deleted"]
    bench.commit()
    assert watch.kinds() == [], "what goes with a job is no event of its own"


def test_a_counter_that_is_set_is_no_run() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 10s", partition=7)
    watch = Watch(bench)
    tick = (START_MS // 1000 + 20, 0)
    bench.etcd.put(COUNTERS + name, _jobs.encode_counter(7, 0, tick, 0))
    assert watch.kinds() == ["skipped"]
    bench.etcd.put(COUNTERS + name, _jobs.encode_counter(7, 5, tick, 0))
    bench.etcd.put(COUNTERS + name, _jobs.encode_counter(8, 6, tick, 0))
    bench.etcd.put(COUNTERS + b"app||ns||app||nobody", _jobs.encode_counter(8, 1, tick, 0))
    assert watch.kinds() == []


def test_runs_of_a_job_with_history_come_with_their_record() -> None:
    bench = Bench()
    name = bench.put("a", due_ms=START_MS + 1_000)
    bench.etcd.put(STATES + name, extra(history=state_pb2.History(runs=2)))
    watch = Watch(bench)
    worker = bench.connect()
    bench.tick(1_000)
    bench.ack(worker, 1)
    deleted, recorded = watch.read()
    assert KINDS[deleted[0]] == "deleted"
    assert (KINDS[recorded[0]], recorded[3]) == ("recorded", name)
    assert state_pb2.RunRecord.FromString(recorded[8]).result == state_pb2.RUN_RESULT_SUCCEEDED
    bench.etcd.put(HISTORY + b"a key of others", b"x")
    assert watch.kinds() == []


def test_a_run_that_is_given_up_is_told_once() -> None:
    for history in (0, 2):
        bench = Bench()
        name = bench.put("a", schedule="@every 10s", failure_policy=policy(drop=True))
        last = bench.put("b", due_ms=START_MS + 10_000, failure_policy=policy(drop=True))
        for one in (name, last):
            bench.etcd.put(STATES + one, extra(dead_letters=True, history=state_pb2.History(runs=history)))
        watch = Watch(bench)
        worker = bench.connect()
        bench.tick(10_000)
        bench.ack(worker, 1, 2, status=FAILED)
        told = sorted((event[3][-1:], KINDS[event[0]]) for event in watch.read())
        if history:
            assert told == [(b"a", "recorded"), (b"b", "deleted"), (b"b", "recorded")]
        else:
            assert told == [(b"a", "dead"), (b"a", "ran"), (b"b", "dead"), (b"b", "deleted")]
            dead = next(event for event in bench.engine.read_events(0)[0] if KINDS[event[0]] == "dead")
            assert dead[5:8] == ((START_MS // 1000 + 10, 0), 0, 1)


def test_every_replica_tells_the_same() -> None:
    one = Bench(total=2, index=0)
    two = Bench(one.etcd, total=2, index=1)
    one.etcd.sinks = [one, two]
    watches = [Watch(one), Watch(two)]
    name = one.put("a", schedule="@every 1s", partition=2)
    one.put("b", schedule="@every 1s", partition=3)
    worker = one.connect()
    for _ in range(3):
        one.tick(1_000)
        one.ack(worker, *(id_ for _, id_ in worker.take()))
    one.etcd.delete(JOBS + name)
    mine, theirs = ([(*event[:2], event[3], *event[5:]) for event in watch.read()] for watch in watches)
    assert mine == theirs
    assert [KINDS[kind] for kind, *_ in mine] == ["created", "created", "ran", "ran", "ran", "deleted"]
    assert watches[0].told == watches[1].told == one.etcd.revision


def test_a_load_is_no_event_and_what_was_before_cannot_be_asked_for() -> None:
    bench = Bench()
    bench.put("a", schedule="@every 1s")
    bench.restart()
    oldest, newest, floor, told, _ = bench.engine.event_span()
    assert (oldest == newest, floor, told) == (True, bench.etcd.revision, bench.etcd.revision)
    watch = Watch(bench)
    bench.put("b", schedule="@every 1s")
    bench.engine.begin_load()
    for prefix in (JOBS, COUNTERS):
        bench.engine.on_changes(bench.etcd.live(prefix))
    bench.put("c", schedule="@every 1s")
    bench.engine.finish_load()
    bench.put("d", schedule="@every 1s")
    assert [event[3][-1:] for event in watch.read()] == [b"d"]
    assert watch.missed


def test_who_had_read_everything_misses_what_came_during_a_load() -> None:
    bench = Bench()
    bench.put("a", schedule="@every 1s")
    bench.put("b", schedule="@every 1s")
    watch = Watch(bench)
    revision = bench.etcd.revision
    bench.engine.begin_load()
    bench.etcd.delete(JOBS + b"app||ns||app||a")
    bench.engine.on_changes(bench.etcd.live(JOBS))
    bench.engine.finish_load(bench.etcd.revision)
    assert watch.read() == []
    assert watch.missed
    assert bench.engine.event_span()[2] == revision + 1, "the deletion cannot be asked for, though no key tells of it"


def test_a_store_that_was_set_back_is_told_of_from_where_it_is() -> None:
    bench = Bench()
    for number in range(10):
        bench.put(str(number), schedule="@every 1s")
    bench.etcd = MemoryEtcd()
    bench.etcd.sinks = [bench]
    bench.engine.begin_load()
    bench.engine.finish_load(bench.etcd.revision)
    bench.put("new", schedule="@every 1s")
    oldest, _, floor, told, _ = bench.engine.event_span()
    assert (floor, told) == (1, 2)
    assert [event[3][-3:] for event in bench.engine.read_events(oldest)[0]] == [b"new"]


def test_a_mark_says_how_far_all_is_told() -> None:
    bench = Bench()
    watch = Watch(bench)
    for letter in "abc":
        bench.put(letter, schedule="@every 1s")
    revision = bench.etcd.revision
    found, position, told, _ = bench.engine.read_events(watch.position, 0, 2)
    assert ([event[3][-1:] for event in found], told) == ([b"a", b"b"], revision - 2), "the second one's mark is behind it"
    found, position, told, _ = bench.engine.read_events(position)
    assert ([event[3][-1:] for event in found], told) == ([b"c"], revision)
    assert bench.engine.read_events(position)[0] == []
    after = bench.engine.read_events(watch.position, revision - 1)[0]
    assert [event[3][-1:] for event in after] == [b"c"]


@pytest.mark.parametrize("seed", range(5))
def test_the_ring_keeps_the_newest_in_order(seed: int) -> None:
    chance = random.Random(seed)
    bench = Bench(MemoryEtcd(), event_log_bytes=4_096)
    slow, fast = Watch(bench), Watch(bench)
    put, seen = [], []
    for number in range(400):
        name = f"{number}-{'x' * chance.randrange(120)}"
        put.append(bench.put(name, schedule="@every 1h"))
        if chance.random() < 0.5:
            seen += [event[3] for event in fast.read()]
    seen += [event[3] for event in fast.read()]
    assert seen == put
    assert not fast.missed
    kept = [event[3] for event in slow.read()]
    assert slow.missed
    assert kept == put[-len(kept) :]
    assert 4_096 // 300 <= len(kept) < 4_096 // 72
    oldest, _, floor, told, dropped = bench.engine.event_span()
    first = bench.engine.read_events(oldest)[0][0]
    assert (floor, told, dropped) == (first[1] - 1, bench.etcd.revision, 0)


def test_one_that_is_too_large_is_missed_and_said_so() -> None:
    bench = Bench(event_log_bytes=4_096)
    bench.put("x" * 300, schedule="@every 1h")
    bench.put("y" * 100, schedule="@every 1h")
    oldest, _, floor, _, dropped = bench.engine.event_span()
    assert (dropped, floor) == (1, bench.etcd.revision - 1)
    assert len(bench.engine.read_events(oldest)[0]) == 1
