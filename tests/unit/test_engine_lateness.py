"""How late triggers are, as the engine counts it: each step once, by what held the trigger back."""

from raftsched.rpc.scheduler.lateness import lateness_families
from raftsched.scheduler.delivery.gates import Limit
from raftsched.scheduler.engine._engine import LATENESS_BOUNDS_MS
from raftsched.testing.scheduling import FAILED, START_MS, Bench, actor, policy

T = START_MS
JOB, ACTOR = 1, 2
NOBODY, WORKER, GATE = range(3)


def sent(bench: Bench, waited_for: int = NOBODY, kind: int = JOB) -> tuple[int, int]:
    """(how many, their sum in ms)."""
    counts, sum_ms = bench.engine.lateness()["due_to_sent"][kind][waited_for]
    return sum(counts), sum_ms


def step(bench: Bench, name: str, kind: int = JOB) -> tuple[int, int]:
    counts, sum_ms = bench.engine.lateness()[name][kind]
    return sum(counts), sum_ms


def test_each_step_of_a_trigger_is_counted_once() -> None:
    bench = Bench()
    bench.put("a", schedule="@every 10s")
    worker = bench.connect()
    bench.tick(10_003)
    assert sent(bench) == (1, 3)
    bench.now_ms += 40
    bench.answer(worker, 1)
    assert step(bench, "sent_to_acknowledged") == (1, 40)
    assert step(bench, "acknowledged_to_committed") == step(bench, "due_to_committed") == (0, 0)
    bench.store()
    bench.now_ms += 7
    bench.outcomes()
    assert step(bench, "acknowledged_to_committed") == (1, 7)
    assert step(bench, "due_to_committed") == (1, 50)


def test_a_bucket_holds_what_is_below_its_bound() -> None:
    assert tuple(sorted(LATENESS_BOUNDS_MS)) == LATENESS_BOUNDS_MS
    for late_ms, bucket in ((0, 0), (1, 1), (4, 2), (99, 6), (100, 7), (59_999, 14), (60_000, 15), (10**9, 15)):
        bench = Bench()
        bench.put("a", due_ms=T)
        bench.connect()
        bench.tick(late_ms)
        counts, sum_ms = bench.engine.lateness()["due_to_sent"][JOB][NOBODY]
        assert [index for index, count in enumerate(counts) if count] == [bucket]
        assert sum_ms == late_ms


def test_who_has_no_worker_waits_for_one() -> None:
    bench = Bench()
    bench.put("a", due_ms=T)
    bench.tick()
    bench.now_ms += 500
    bench.connect()
    assert (sent(bench), sent(bench, WORKER)) == ((0, 0), (1, 500))


def test_who_is_in_the_line_of_a_stream_that_does_not_read_waits_for_it() -> None:
    bench = Bench()
    worker = bench.connect()
    worker.room = 1
    for name in ("a", "b"):
        bench.put(name, due_ms=T)
    bench.tick()
    assert sent(bench) == (1, 0)
    bench.tick(2_000)
    worker.room = None
    assert worker.stream is not None
    bench.engine.stream_writable(worker.stream)
    bench.flush()
    assert sent(bench, WORKER) == (1, 2_000)
    bench.put("c", due_ms=T + 2_001)
    bench.tick(1)
    assert sent(bench) == (2, 0), "it reads again: who comes later waits for nobody"


def test_who_is_held_by_a_gate_waits_for_it() -> None:
    bench = Bench()
    worker = bench.connect(actor(), limits=[Limit("cat", None, 1)])
    for name in ("a", "b"):
        bench.put(name, due_ms=T, owner=actor())
    bench.tick()
    assert sent(bench, NOBODY, ACTOR) == (1, 0)
    bench.now_ms += 300
    bench.ack(worker, 1)
    bench.tick()
    assert sent(bench, GATE, ACTOR) == (1, 300)
    assert step(bench, "sent_to_acknowledged", ACTOR) == (1, 300)


def test_a_second_delivery_is_no_second_lateness() -> None:
    bench = Bench()
    bench.put("a", due_ms=T)
    first = bench.connect()
    bench.tick(2)
    bench.now_ms += 5_000
    bench.disconnect(first)
    second = bench.connect()
    assert second.take() == [("a", 1)]
    assert (sent(bench), sent(bench, WORKER)) == ((1, 2), (0, 0))
    bench.now_ms += 10
    bench.ack(second, 1)
    assert step(bench, "sent_to_acknowledged") == (1, 10), "of the last sending"
    assert step(bench, "due_to_committed") == (1, 5_012)


def test_an_attempt_is_due_at_its_own_time() -> None:
    bench = Bench()
    bench.put("a", due_ms=T, failure_policy=policy(interval_ms=30_000, max_retries=5))
    worker = bench.connect()
    bench.tick()
    bench.ack(worker, 1, status=FAILED)
    assert step(bench, "due_to_committed") == (1, 0)
    bench.tick(30_004)
    assert sent(bench) == (2, 4)
    bench.ack(worker, 2)
    assert step(bench, "due_to_committed") == (2, 4)


def test_what_was_never_sent_has_no_steps() -> None:
    """A result that a gate makes, a job that is found finished, a counter without its job."""
    bench = Bench()
    bench.put("done", schedule="@every 1s", repeats=0)
    bench.tick()
    bench.commit()
    name = bench.put("a", schedule="@every 1s")
    worker = bench.connect()
    bench.tick(1_000)
    bench.ack(worker, 1)
    before = bench.engine.lateness()
    bench.etcd.delete(b"dapr/jobs/" + name)
    bench.commit()
    assert bench.engine.lateness() == before


def test_metrics_have_them_in_seconds() -> None:
    bench = Bench()
    bench.put("a", due_ms=T)
    bench.connect()
    bench.tick(15)
    now = {**bench.engine.lateness(), "canary": ([0] * 16, 0), "oldest_commit_ms": 1_500}
    families = {family.name: family for family in lateness_families(now)}
    assert len(families) == 6
    assert families["raftsched_scheduler_oldest_commit_seconds"].samples == {(): 1.5}
    sample = families["raftsched_scheduler_due_to_sent_seconds"].samples["job", "nobody"]
    assert isinstance(sample, tuple)
    buckets = dict(sample[0])
    assert (buckets[0.01], buckets[0.02], buckets[float("inf")], sample[1]) == (0, 1, 1, 0.015)
    assert families["raftsched_scheduler_due_to_committed_seconds"].samples["actor",] == ([(bound, 0) for bound in buckets], 0)
