"""Triggers and answers in batches, and the ids of runs: what every delivery of one attempt has in common, whoever makes it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftsched.limits import BATCH_BYTES, BATCHED_ACKS_BYTES_MAX
from raftsched.pb.dapr import scheduler_pb2
from raftsched.pb.v1 import workers_pb2
from raftsched.scheduler.jobs.names import NAMESPACES, RUNS
from raftsched.testing.scheduling import FAILED, START_MS, SUCCESS, BatchedWorker, Bench, acks, actor, policy

T = START_MS


def test_a_trigger_tells_its_run() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    bench.put("a", due_ms=T + 1_500, partition=0xABC, data=b"\x0a\x01t\x12\x01v")
    bench.tick(1_500)
    [trigger] = worker.got
    assert (trigger.id, trigger.attempt, trigger.asked) == (1, 0, False)
    assert (trigger.name.namespace, trigger.name.app_id, trigger.name.name) == ("ns", "app", "a")
    assert (trigger.data.type_url, trigger.data.value) == ("t", b"v")
    assert trigger.scheduled_at.ToMilliseconds() == T + 1_500
    assert trigger.run_id == f"app||ns||app||a/{T // 1000 + 1}.500000000/0000000000000abc/0"
    bench.ack(worker, 1)
    assert bench.job_keys() == []


def test_a_reminder_tells_its_actor() -> None:
    bench = Bench()
    owner = actor("cat", "7", app_id="who")
    worker = bench.connect_batched(owner)
    bench.put("a", due_ms=T, owner=owner)
    bench.tick()
    [trigger] = worker.got
    name = trigger.name
    assert (name.namespace, name.app_id, name.actor_type, name.actor_id, name.name) == ("ns", "who", "cat", "7", "a")
    assert not trigger.HasField("data")
    assert trigger.run_id.startswith("actorreminder||ns||cat||7||a/")


def test_an_attempt_has_one_id_over_redelivery_and_failover() -> None:
    bench = Bench()
    bench.put("a", schedule="@every 10s", failure_policy=policy(interval_ms=1_000, max_retries=1))
    first = bench.connect_batched()
    bench.tick(10_000)
    [once] = first.got
    bench.disconnect(first)
    second = bench.connect_batched()
    [twice] = second.got
    assert (twice.run_id, twice.scheduled_at, twice.attempt) == (once.run_id, once.scheduled_at, 0)
    bench.restart()
    third = bench.connect_batched()
    bench.tick()
    [thrice] = third.got
    assert thrice.run_id == once.run_id
    bench.ack(third, thrice.id, status=FAILED)
    bench.tick(1_000)
    [_, retried] = third.got
    assert (retried.attempt, retried.scheduled_at) == (1, once.scheduled_at)
    assert retried.run_id == once.run_id.removesuffix("/0") + "/1"
    bench.restart()
    fourth = bench.connect_batched()
    bench.tick()
    [again] = fourth.got
    assert (again.run_id, again.attempt) == (retried.run_id, 1)


def test_an_overwritten_job_has_other_ids() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    for _ in range(2):
        bench.put("a", due_ms=T + 1_000)
        bench.tick(1_000 if not worker.got else 0)
    first, second = worker.got
    assert first.scheduled_at == second.scheduled_at
    assert first.run_id != second.run_id


def test_a_run_that_was_asked_for_has_the_id_of_its_request() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    name = bench.put("a", schedule="@every 10s")
    bench.etcd.put(RUNS + name, b"")
    bench.tick()
    [trigger] = worker.got
    assert (trigger.asked, trigger.attempt, trigger.HasField("scheduled_at")) == (True, 0, False)
    bench.restart()
    worker = bench.connect_batched()
    bench.tick(50)
    [again] = worker.got
    assert again.run_id == trigger.run_id
    bench.ack(worker, again.id)
    bench.etcd.put(RUNS + name, b"")
    bench.tick()
    assert worker.got[-1].asked
    assert worker.got[-1].run_id != trigger.run_id


def test_many_come_in_a_message_and_are_answered_in_one() -> None:
    bench = Bench(backlog_max=10_000, branches_max=1_000)
    worker = bench.connect_batched()
    for number in range(300):
        bench.put(f"j{number}", due_ms=T)
    bench.tick()
    assert len(worker.got) == 300
    assert max(worker.batches) > 30
    bench.ack(worker, *(trigger.id for trigger in worker.got))
    assert bench.job_keys() == []


def test_a_message_ends_at_its_bound_and_a_large_trigger_goes_alone() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    large = b"\x12\x82\x80\x04" + b"v" * 65_538
    for number in range(6):
        bench.put(f"j{number}", due_ms=T, data=large if number % 2 else None)
    bench.tick()
    assert len(worker.got) == 6
    assert len(large) > BATCH_BYTES
    assert max(worker.batches) <= 2


def test_a_stream_without_room_gets_one_message_more() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    worker.room = 1
    for number in range(3):
        bench.put(f"j{number}", due_ms=T)
    bench.tick()
    assert sum(worker.batches) == len(worker.got) == 3
    bench.put("late", due_ms=T)
    bench.tick()
    assert len(worker.got) == 3
    worker.room = None
    assert worker.stream is not None
    bench.engine.stream_writable(worker.stream)
    bench.flush()
    assert len(worker.got) == 4


def test_streams_of_both_kinds_take_turns() -> None:
    bench = Bench()
    plain, batched = bench.connect(), bench.connect_batched()
    for number in range(10):
        bench.put(f"j{number}", due_ms=T)
    bench.tick()
    assert (len(plain.got), len(batched.got)) == (5, 5)
    bench.disconnect(plain)
    assert len(batched.got) == 10
    bench.ack(batched, *(id_ for _, id_ in batched.take()))
    assert bench.job_keys() == []


@pytest.mark.parametrize(
    "message",
    [
        b"",
        workers_pb2.WatchTriggersRequest(initial=workers_pb2.Initial()).SerializeToString(),
        b"\x12\x05\x0a",
        b"\x12\x02\x0a\x05",
        b"\x10\x01",
        b"\xff",
    ],
)
def test_what_is_no_answer_closes_the_stream(message: bytes) -> None:
    bench = Bench()
    worker = bench.connect_batched()
    assert worker.stream is not None
    assert bench.engine.on_acks(worker.stream, [message], T) == "unexpected message: acks are required"


def test_an_answer_message_has_a_bound() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    bench.put("a", due_ms=T)
    bench.tick()
    assert worker.stream is not None
    assert bench.engine.on_acks(worker.stream, [acks(*range(100, 100 + BATCHED_ACKS_BYTES_MAX // 4))], T) == "too many acks in a message"
    assert bench.engine.on_acks(worker.stream, [acks(1, 1, 7)], T) is None
    assert bench.engine.unknown_acks_total == 2
    bench.commit()
    assert bench.job_keys() == []


@given(st.binary(max_size=40))
def test_no_bytes_do_harm(message: bytes) -> None:
    bench = Bench()
    worker = bench.connect_batched()
    bench.put("a", due_ms=T)
    bench.tick()
    assert worker.stream is not None
    bench.engine.on_acks(worker.stream, [message], T)
    bench.engine.check_invariants()


STEPS = st.lists(st.sampled_from(["tick", "done", "fail", "cut", "kill", "freeze", "thaw", "ask"]), max_size=25)


@given(STEPS)
def test_ids_are_those_of_runs_whatever_happens(steps: list[str]) -> None:
    """Two deliveries have one id exactly if they are of one attempt at one instant, or of one request."""
    bench = Bench()
    names = [bench.put(short, schedule="@every 3s", failure_policy=policy(interval_ms=500, max_retries=2)) for short in "ab"]
    worker: BatchedWorker = bench.connect_batched()
    told: dict[str, tuple[object, ...]] = {}
    done: set[str] = set()
    requests = 0
    for step in steps:
        if step == "tick":
            bench.tick(1_500)
        elif step in ("done", "fail") and worker.got:
            trigger = worker.got.pop(0)
            if step == "done":
                done.add(trigger.run_id)
            bench.ack(worker, trigger.id, status=SUCCESS if step == "done" else FAILED)
        elif step in ("cut", "kill"):
            if step == "cut":
                bench.disconnect(worker)
            else:
                bench.restart()
            worker = bench.connect_batched()
            bench.tick()
        elif step in ("freeze", "thaw"):
            bench.etcd.put(NAMESPACES + b"ns", b"\x0a\x00") if step == "freeze" else bench.etcd.delete(NAMESPACES + b"ns")
        elif step == "ask" and RUNS + names[0] not in bench.etcd.keys:
            requests += 1
            bench.etcd.put(RUNS + names[0], b"")
            bench.tick()
        for trigger in worker.got:
            assert trigger.run_id not in done, "a run that is done with came again"
            asked = (requests,) if trigger.asked else (trigger.scheduled_at.ToNanoseconds(),)
            told.setdefault(trigger.run_id, (trigger.name.name, trigger.attempt, trigger.asked, *asked))
            assert told[trigger.run_id] == (trigger.name.name, trigger.attempt, trigger.asked, *asked)
    assert len(set(told.values())) == len(told), "two ids of one attempt"


def test_dapr_s_message_is_as_it_was() -> None:
    bench = Bench()
    worker = bench.connect()
    bench.put("a", due_ms=T)
    bench.tick()
    [trigger] = worker.got
    assert {field.name for field, _ in trigger.ListFields()} == {"name", "id", "metadata"}
    assert isinstance(trigger, scheduler_pb2.WatchJobsResponse)
