"""The engine on a virtual clock: each rule of spec §5.3, §5.4 and §4 by its smallest case."""

import pytest

from raftsched.limits import COMMIT_BYTES_MAX
from raftsched.scheduler.delivery.gates import Gates, Limit
from raftsched.scheduler.engine.states import TRANSITIONS, Input, State
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.testing.scheduling import APP, FAILED, START_MS, Bench, actor, metadata, policy

T = START_MS


def test_one_shot_fires_at_its_time_once_and_goes() -> None:
    bench = Bench()
    bench.put("a", due_ms=T + 100, data=b"\x0a\x01x")
    worker = bench.connect()
    bench.tick(99)
    assert worker.take() == []
    bench.tick(1)
    [response] = worker.got
    assert (response.name, response.id, response.data.type_url) == ("a", 1, "x")
    assert response.metadata.SerializeToString() == metadata(APP)
    bench.ack(worker, 1)
    assert bench.etcd.keys == {}
    assert bench.engine.jobs == 0
    bench.tick(10_000)
    assert len(worker.got) == 1


def test_never_early_within_a_millisecond() -> None:
    bench = Bench()
    value = _jobs.encode_stored_job(1, True, T // 1000 + 1, 1, None, None, None, None, None, metadata(APP), None, None)
    bench.etcd.put(JOBS + b"app||ns||app||a", value)  # one nanosecond after the second
    worker = bench.connect()
    bench.tick(1000)
    assert worker.take() == []
    bench.tick(1)
    assert worker.take() == [("a", 1)]


def test_every_is_anchored_on_receipt_and_does_not_drift() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s", start_ms=T + 7)
    worker = bench.connect()
    bench.tick(1006)
    assert worker.take() == []
    bench.tick(1)
    assert worker.take() == [("a", 1)]
    bench.now_ms += 600  # a slow handler
    bench.ack(worker, 1)
    assert bench.counter(name) == (1, 1, ((T + 1007) // 1000, (T + 1007) % 1000 * 1_000_000), 0)
    bench.tick(399)
    assert worker.take() == []
    bench.tick(1)
    assert worker.take() == [("a", 2)]


def test_due_time_of_a_recurring_job_is_its_first_tick() -> None:
    bench = Bench()
    bench.put("a", schedule="@every 1s", due_ms=T + 250, repeats=2)
    worker = bench.connect()
    bench.tick(250)
    bench.ack(worker, 1)
    bench.tick(999)
    assert worker.take() == [("a", 1)]
    bench.tick(1)
    bench.ack(worker, 2)
    assert bench.etcd.keys == {}


def test_ttl_of_three_seconds_gives_exactly_three_triggers() -> None:
    bench = Bench()
    bench.put("a", schedule="@every 1s", expires_ms=T + 3000)
    worker = bench.connect()
    for tick in range(1, 6):
        bench.tick(1000)
        if worker.take():
            bench.ack(worker, tick)
    assert worker.stream is not None
    assert bench.engine.metrics()["triggered"][1] == 3
    assert bench.etcd.keys == {}


def test_every_missed_tick_is_delivered_one_after_another() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    bench.now_ms += 5500
    bench.restart()
    worker = bench.connect()
    for tick in range(1, 6):
        bench.tick()
        assert worker.take() == [("a", tick)]
        bench.tick()
        assert worker.take() == []  # serial: nothing before the result
        bench.ack(worker, tick)
    bench.tick()
    assert worker.take() == []
    assert bench.counter(name) == (1, 5, (T // 1000 + 5, 0), 0)


def test_every_zero_is_one_delivery_per_result() -> None:
    bench = Bench()
    bench.put("a", schedule="@every 0s", repeats=3)
    worker = bench.connect()
    for tick in (1, 2, 3):
        bench.tick()
        assert worker.take() == [("a", tick)]
        bench.ack(worker, tick)
    assert bench.etcd.keys == {}


def test_cron_fires_on_whole_seconds_strictly_after() -> None:
    bench = Bench()
    bench.put("a", schedule="*/10 * * * * *", start_ms=T + 500)
    worker = bench.connect()
    bench.tick(9999)
    assert worker.take() == []
    bench.tick(1)
    assert worker.take() == [("a", 1)]


def test_failed_with_the_default_policy_is_delivered_four_times() -> None:
    bench = Bench()
    name = bench.put("a", due_ms=T)
    worker = bench.connect()
    for attempt in (1, 2, 3):
        bench.tick()
        assert worker.take() == [("a", attempt)]
        bench.ack(worker, attempt, status=FAILED)
        assert bench.counter(name) == (1, 0, None, attempt)
        bench.tick(999)
        assert worker.take() == []
        bench.tick(1)
    bench.ack(worker, 4, status=FAILED)
    assert bench.etcd.keys == {}
    assert bench.engine.metrics()["failed"][1] == 4


def test_retries_are_planned_from_the_previous_plan() -> None:
    bench = Bench()
    bench.put("a", due_ms=T, failure_policy=policy(interval_ms=1000, max_retries=5))
    worker = bench.connect()
    bench.tick()
    bench.now_ms += 700
    bench.ack(worker, 1, status=FAILED)  # planned at T + 1000, not at T + 1700
    bench.tick(300)
    assert [id_ for _, id_ in worker.take()] == [1, 2]
    bench.now_ms += 1500  # past the next plan: at once
    bench.ack(worker, 2, status=FAILED)
    bench.tick()
    assert worker.take() == [("a", 3)]


def test_unset_interval_and_unset_maximum_repeat_at_once_and_for_ever() -> None:
    bench = Bench()
    bench.put("a", due_ms=T, failure_policy=policy())
    worker = bench.connect()
    for attempt in range(1, 9):
        bench.tick()
        assert worker.take() == [("a", attempt)]
        bench.ack(worker, attempt, status=FAILED)


def test_drop_counts_a_failure_as_done() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s", failure_policy=policy(drop=True))
    worker = bench.connect()
    bench.tick(1000)
    bench.ack(worker, 1, status=FAILED)
    assert bench.counter(name) == (1, 1, (T // 1000 + 1, 0), 0)


def test_exhausted_retries_go_on_from_the_original_tick() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 10s", failure_policy=policy(interval_ms=1000, max_retries=1))
    worker = bench.connect()
    bench.tick(10_000)
    bench.ack(worker, 1, status=FAILED)
    bench.tick(1000)
    bench.ack(worker, 2, status=FAILED)
    assert bench.counter(name) == (1, 1, (T // 1000 + 10, 0), 0)
    bench.tick(8_999)
    worker.take()
    bench.tick(1)
    assert worker.take() == [("a", 3)]


def test_without_a_policy_a_failed_tick_is_dropped() -> None:
    """As others may store a job; ScheduleJob never does."""
    bench = Bench()
    bench.etcd.put(
        b"dapr/jobs/app||ns||app||a",
        _jobs.encode_stored_job(1, True, T // 1000, 0, None, None, None, None, None, metadata(APP), None, None),
    )
    worker = bench.connect()
    bench.tick()
    bench.ack(worker, 1, status=FAILED)
    bench.tick(5000)
    assert (worker.take(), bench.etcd.keys) == ([("a", 1)], {})


def test_attempts_survive_a_restart_and_the_retry_comes_at_once() -> None:
    bench = Bench()
    name = bench.put("a", due_ms=T)
    worker = bench.connect()
    bench.tick()
    bench.ack(worker, 1, status=FAILED)
    bench.restart()
    worker = bench.connect()
    bench.tick()
    assert worker.take() == [("a", 1)]
    bench.ack(worker, 1, status=FAILED)
    assert bench.counter(name) == (1, 0, None, 2)


@pytest.mark.parametrize("killed", ["before the ack", "before the commit", "after the commit"])
def test_a_kill_redelivers_unless_the_result_was_committed(killed: str) -> None:
    bench = Bench()
    bench.put("a", schedule="@every 1s", repeats=2)
    worker = bench.connect()
    bench.tick(1000)
    assert worker.take() == [("a", 1)]
    if killed != "before the ack":
        assert bench.answer(worker, 1) is None
    if killed == "after the commit":
        bench.store()  # the outcome never arrives: the change list had it
    bench.restart()
    worker = bench.connect()
    bench.tick()
    assert worker.take() == ([] if killed == "after the commit" else [("a", 1)])


def test_finished_jobs_found_at_load_are_removed() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s", repeats=1)
    bench.etcd.put(COUNTERS + name, _jobs.encode_counter(1, 1, (T // 1000 + 1, 0), 0))
    bench.put("b", schedule="@every 1h", expires_ms=T + 1)
    bench.restart()
    bench.tick()
    bench.commit()
    assert bench.etcd.keys == {}


def test_a_stale_counter_counts_for_nothing_and_is_overwritten() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s", partition=5)
    bench.etcd.put(COUNTERS + name, _jobs.encode_counter(4, 9, (T // 1000 + 77, 0), 2))
    worker = bench.connect()
    bench.tick(1000)
    bench.ack(worker, 1)
    assert bench.counter(name) == (5, 1, (T // 1000 + 1, 0), 0)


def test_a_restored_pair_counts_whatever_comes_first() -> None:
    """`dapr scheduler import` writes keys in any order: the counter may be there before its job."""
    bench = Bench()
    name = b"app||ns||app||a"
    bench.etcd.put(COUNTERS + name, _jobs.encode_counter(5, 3, (T // 1000, 0), 0))
    bench.put("a", schedule="@every 1s", partition=5, repeats=4)
    worker = bench.connect()
    bench.tick(1000)
    bench.ack(worker, 1)
    assert bench.etcd.keys == {}


def test_an_overwrite_during_a_trigger_wins() -> None:
    bench = Bench()
    bench.put("a", schedule="@every 1s")
    worker = bench.connect()
    bench.tick(1000)
    name = bench.put("a", schedule="@every 5s")
    bench.ack(worker, 1)
    assert bench.counter(name) is None
    assert bench.engine.describe(name)["tick"] == (T // 1000 + 6, 0)  # type: ignore[index]
    assert bench.delivery.stats()["runs"] == 0


def test_an_overwrite_between_ack_and_commit_wins() -> None:
    bench = Bench()
    bench.put("a", due_ms=T)
    worker = bench.connect()
    bench.tick()
    assert bench.answer(worker, 1) is None
    commits = bench.engine.take_commits()
    bench.put("a", due_ms=T + 5000)
    [commit] = commits
    _, _, body = bench.etcd.apply(6, commit.request)
    assert bench.engine.on_outcomes(commit, _jobs.txn_outcomes(body, 1)) == 0
    assert _jobs.txn_outcomes(body, 1) == b"\0"
    assert len(bench.job_keys()) == 1
    bench.tick(5000)
    assert [id_ for _, id_ in worker.take()] == [1, 2]


def test_a_delete_during_a_trigger_drops_the_result() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    worker = bench.connect()
    bench.tick(1000)
    bench.etcd.delete(JOBS + name)
    bench.ack(worker, 1)
    assert bench.etcd.keys == {}
    assert bench.delivery.stats()["runs"] == 0
    assert bench.engine.metrics()["triggered"][1] == 1


def test_a_counter_changed_by_hand_makes_the_result_stale() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s", partition=1)
    worker = bench.connect()
    bench.tick(1000)
    bench.etcd.put(COUNTERS + name, _jobs.encode_counter(1, 7, (T // 1000 + 40, 0), 0))
    assert bench.engine.state_of(name) == State.ARMED
    bench.ack(worker, 1)
    assert bench.counter(name) == (1, 7, (T // 1000 + 40, 0), 0)
    assert bench.engine.describe(name)["tick"] == (T // 1000 + 41, 0)  # type: ignore[index]


def test_a_worker_that_never_answers_does_not_hold_back_what_another_replica_went_on_with() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s", partition=1)
    worker = bench.connect()
    bench.tick(1000)
    worker.take()
    bench.etcd.put(COUNTERS + name, _jobs.encode_counter(1, 3, (T // 1000 + 1, 0), 0))
    bench.tick(1000)
    assert worker.take() == [("a", 2)]
    bench.ack(worker, 1)  # late: nobody asks for it any more
    assert bench.counter(name) == (1, 3, (T // 1000 + 1, 0), 0)
    bench.ack(worker, 2)
    assert bench.counter(name) == (1, 4, (T // 1000 + 2, 0), 0)


def test_a_guard_that_fails_in_the_store_leads_back_to_the_wheel() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s", partition=1)
    worker = bench.connect()
    bench.tick(1000)
    assert bench.answer(worker, 1) is None
    [commit] = bench.engine.take_commits()
    assert bench.engine.on_outcomes(commit, b"\0") == 0  # as if somebody had been quicker
    assert bench.engine.state_of(name) == State.ARMED
    bench.tick()
    assert worker.take()[-1] == ("a", 2)


def test_a_success_without_its_change_is_reported() -> None:
    bench = Bench()
    bench.put("a", schedule="@every 1s")
    worker = bench.connect()
    bench.tick(1000)
    assert bench.answer(worker, 1) is None
    [commit] = bench.engine.take_commits()
    assert bench.engine.on_outcomes(commit, b"\1") == 1


def test_a_counter_left_by_a_delete_by_hand_is_removed() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    worker = bench.connect()
    bench.tick(1000)
    bench.ack(worker, 1)
    bench.etcd.delete(JOBS + name)
    bench.commit()
    assert bench.etcd.keys == {}
    assert bench.delivery.stats()["runs"] == 0


def test_job_and_counter_deleted_together_leave_nothing_to_commit() -> None:
    bench = Bench()
    bench.put("a", schedule="@every 1s")
    worker = bench.connect()
    bench.tick(1000)
    bench.ack(worker, 1)
    bench.etcd.delete(b"dapr/", b"dapr0")
    assert not bench.engine.commit_waiting


@pytest.mark.parametrize("value", [b"", b"\xff", b"\x08\x01", b"\x08\x01\x12\x00", b"\x2a\x00"])
def test_an_undecodable_job_is_skipped_and_noted(value: bytes) -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    bench.etcd.put(JOBS + name, value)
    worker = bench.connect()
    bench.tick(60_000)
    assert worker.take() == []
    assert bench.notes == [("undecodable job", name)]
    assert bench.engine.undecodable_total == 1
    bench.put("a", schedule="@every 1s")
    bench.tick(1000)
    assert len(worker.take()) == 1


def test_an_undecodable_counter_is_overwritten() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s", partition=1)
    bench.etcd.put(COUNTERS + name, b"\xff\xff")
    worker = bench.connect()
    bench.tick(1000)
    bench.ack(worker, 1)
    assert bench.counter(name) == (1, 1, (T // 1000 + 1, 0), 0)


@pytest.mark.parametrize("schedule", ["", "nonsense", "0 0 0 30 2 *", "@every -1s"])
def test_a_stored_schedule_that_cannot_fire_is_kept_and_never_fires(schedule: str) -> None:
    bench = Bench()
    name = bench.put("a", schedule=schedule)
    worker = bench.connect()
    bench.tick(86_400_000)
    assert worker.take() == []
    assert bench.notes == [("schedule that never fires", name)]
    assert bench.job_keys() == [JOBS + name]


def test_metadata_that_do_not_lead_to_the_key_are_undeliverable() -> None:
    bench = Bench()
    value = _jobs.encode_stored_job(1, True, T // 1000, 0, None, None, None, None, None, metadata(APP), None, None)
    bench.etcd.put(JOBS + b"app||other||app||a", value)
    worker = bench.connect()
    bench.tick(1)
    assert worker.take() == []
    assert bench.engine.state_of(b"app||other||app||a") == State.STAGED
    assert bench.engine.metrics()["undelivered"] == [1, 0, 0]


def test_nobody_there_parks_the_job_and_a_stream_gets_it_once() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    bench.tick(10_000)
    assert bench.engine.state_of(name) == State.STAGED
    worker = bench.connect()
    assert worker.take() == [("a", 1)]
    assert bench.counter(name) is None
    assert bench.engine.metrics()["undelivered"][1] == 1


def test_a_disconnect_redelivers_to_another_stream_without_an_attempt() -> None:
    bench = Bench()
    bench.put("a", due_ms=T)
    first, second = bench.connect(), bench.connect()
    bench.tick()
    got, other = (first, second) if first.got else (second, first)
    bench.disconnect(got)
    assert other.take() == [("a", 1)]
    assert bench.etcd.revision == 2  # nothing was written
    bench.disconnect(other)
    assert bench.delivery.stats()["staged"] == 1
    third = bench.connect()
    bench.ack(third, 1)
    assert bench.etcd.keys == {}
    assert bench.engine.metrics()["undelivered"][1] == 2


def test_round_robin_over_streams_and_ids_per_stream() -> None:
    bench = Bench()
    workers = [bench.connect() for _ in range(3)]
    for index in range(9):
        bench.put(f"j{index}", due_ms=T)
    bench.tick()
    assert [[id_ for _, id_ in worker.take()] for worker in workers] == [[1, 2, 3]] * 3


def test_other_namespaces_apps_and_types_are_not_served() -> None:
    bench = Bench()
    bench.put("a", due_ms=T, owner=actor("cat"))
    app, dog, elsewhere = bench.connect(APP), bench.connect(actor("dog")), bench.connect(actor("cat", namespace="other"))
    bench.tick()
    assert not app.got
    assert not dog.got
    assert not elsewhere.got
    cat = bench.connect(actor("cat", app_id="another app"))
    assert cat.take() == [("a", 1)]


def test_an_unknown_or_repeated_id_is_dropped() -> None:
    bench = Bench()
    bench.put("a", due_ms=T)
    worker = bench.connect()
    bench.tick()
    assert bench.answer(worker, 7, 0, 1, 1) is None
    assert bench.engine.unknown_acks_total == 3
    bench.commit()
    assert bench.etcd.keys == {}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "unexpected message: a result is required"),
        (b"\x0a\x00", "unexpected message: a result is required"),
        (b"\xff", "unexpected message: a result is required"),
        (b"\x12\x04\x08\x01\x10\x02", "unknown trigger result status"),
    ],
)
def test_a_message_that_is_no_result_asks_for_the_end_of_the_stream(message: bytes, reason: str) -> None:
    bench = Bench()
    bench.put("a", due_ms=T)
    worker = bench.connect()
    bench.tick()
    assert worker.stream is not None
    assert bench.engine.on_acks(worker.stream, [message], bench.now_ms) == reason
    bench.disconnect(worker)
    assert bench.delivery.stats()["staged"] == 1


def test_a_reader_without_room_keeps_only_numbers() -> None:
    bench = Bench()
    for index in range(10):
        bench.put(f"j{index}", due_ms=T)
    worker = bench.connect()
    worker.room = 3
    bench.tick()
    assert len(worker.take()) == 3
    assert worker.stream is not None
    assert worker.stream.backlog == 7
    bench.etcd.delete(JOBS, JOBS + b"\xff")  # what was not sent yet is not sent any more
    worker.room = None
    bench.engine.stream_writable(worker.stream)
    bench.flush()
    assert worker.take() == []
    assert bench.answer(worker, 1, 2, 3) is None
    assert bench.delivery.stats()["runs"] == 0


def test_a_partition_owns_its_share_and_gives_it_up() -> None:
    bench = Bench(total=2, index=0)
    for partition in range(6):
        bench.put(f"j{partition}", due_ms=T, partition=partition)
    worker = bench.connect()
    bench.tick()
    assert sorted(name for name, _ in worker.take()) == ["j0", "j2", "j4"]
    bench.engine.set_partition(2, 1)
    while bench.engine.arm_some(2):
        pass
    bench.tick()
    assert sorted(name for name, _ in worker.take()) == ["j1", "j3", "j5"]
    assert bench.answer(worker, 1, 2, 3) is None  # results of jobs that are another's now
    assert not bench.engine.commit_waiting


def test_what_is_narrowed_away_stops_at_once_and_its_results_still_count() -> None:
    bench = Bench(total=1, index=0)
    for partition in range(6):
        bench.put(f"j{partition}", schedule="@every 1s", due_ms=T, partition=partition)
    worker = bench.connect()
    worker.room = 4
    bench.tick()
    sent = worker.take()
    assert len(sent) == 4
    bench.engine.narrow(2, 0)
    odd = [id_ for name, id_ in sent if int(name[1:]) % 2]
    assert bench.engine.leaving == len(odd) > 0
    worker.room = None
    bench.engine.stream_writable(worker.stream)
    bench.flush()
    assert [name for name, _ in worker.take() if int(name[1:]) % 2] == []  # queued before, not sent any more
    bench.ack(worker, *odd)
    assert bench.engine.leaving == 0
    counted = [bench.counter(f"app||ns||app||j{partition}".encode()) for partition in (1, 3, 5)]
    assert len([one for one in counted if one is not None]) == len(odd)
    bench.tick(5_000)
    assert [name for name, _ in worker.take() if int(name[1:]) % 2] == []
    bench.engine.check_invariants()


def test_several_narrowings_add_up_and_end_with_the_next_partition() -> None:
    bench = Bench(total=1, index=0)
    for partition in range(12):
        bench.put(f"j{partition}", due_ms=T + 10, partition=partition)
    worker = bench.connect()
    bench.engine.narrow(2, 0)
    bench.engine.narrow(3, 0)
    bench.engine.narrow(2, 0)
    bench.tick(10)
    assert sorted(name for name, _ in worker.take()) == ["j0", "j6"]
    bench.engine.set_partition(2, 1)
    while bench.engine.arm_some(2):
        pass
    bench.tick()
    assert sorted(name for name, _ in worker.take()) == ["j1", "j11", "j3", "j5", "j7", "j9"]
    assert bench.engine.leaving == 0  # j0 and j6 are somebody else's, and nobody waits for them
    for number in range(2, 11):
        bench.engine.narrow(number, 0)
    assert not any(bench.engine.describe(f"app||ns||app||j{partition}".encode())["owned"] for partition in range(12))


def test_gates_hold_triggers_back_and_let_the_oldest_go() -> None:
    bench = Bench()
    owner = actor("cat")
    worker = bench.connect(owner, limits=[Limit("cat", None, 2)])
    for index in range(4):
        bench.put(f"j{index}", due_ms=T + index, owner=owner)
    bench.tick(10)
    assert [name for name, _ in worker.take()] == ["j0", "j1"]
    bench.ack(worker, 2, status=FAILED)
    bench.flush()
    assert worker.take() == [("j2", 3)]
    bench.ack(worker, 1, 3)
    bench.flush()
    assert worker.take() == [("j3", 4)]
    assert bench.gates.gauges() == {"cat": (1, 0)}
    assert bench.gates.throttled == {"cat": 2}


def test_a_full_gate_answers_failed() -> None:
    bench = Bench()
    bench.gates._waiters_max = 1
    owner = actor("cat")
    worker = bench.connect(owner, limits=[Limit("cat", None, 1)])
    names = [bench.put(f"j{index}", due_ms=T + index, owner=owner) for index in range(3)]
    bench.tick(10)
    bench.commit()
    assert worker.take() == [("j0", 1)]
    assert bench.counter(names[2]) == (3, 0, None, 1)


def test_waiters_of_a_gone_gate_are_parked_and_come_back() -> None:
    bench = Bench()
    owner = actor("cat")
    worker = bench.connect(owner, limits=[Limit("cat", None, 1)])
    for index in range(2):
        bench.put(f"j{index}", due_ms=T + index, owner=owner)
    bench.tick(10)
    bench.disconnect(worker)
    assert bench.delivery.stats()["staged"] == 2
    assert bench.engine.metrics()["undelivered"][2] == 2
    assert sorted(name for name, _ in bench.connect(owner).take()) == ["j0", "j1"]


def test_a_counter_changed_before_the_sending_gives_the_slot_back() -> None:
    bench = Bench()
    worker = bench.connect(actor(), limits=[Limit("cat", None, 1)])
    assert worker.stream is not None
    worker.room = 1
    first = bench.put("a", owner=actor(), schedule="@every 1s", due_ms=START_MS, failure_policy=policy(interval_ms=60_000))
    bench.tick()
    bench.ack(worker, 1, status=FAILED)
    bench.tick(60_000)  # the stream has no room: the second attempt waits in its queue, and has the slot
    partition, count, last, _ = bench.counter(first) or (0, 0, None, 0)
    bench.etcd.put(COUNTERS + first, _jobs.encode_counter(partition, count, last, 1))
    worker.room = None
    bench.engine.stream_writable(worker.stream)
    bench.flush()
    assert bench.gates.gauges()["cat"] == (0, 0)


def test_names_longer_than_the_api_takes_do_no_harm() -> None:
    bench = Bench()
    worker = bench.connect()
    composed = bench.put("n" * 100_000, due_ms=START_MS)
    other = bench.put("o" * 100_000, due_ms=START_MS + 60_000)
    bench.etcd.put(COUNTERS + other, _jobs.encode_counter(1, 0, None, 0))
    bench.tick()
    assert [name for name, _ in worker.take()] == ["n" * 100_000]
    bench.ack(worker, 1)
    bench.etcd.delete(JOBS + other)
    bench.commit()
    assert bench.etcd.keys == {}, composed


def test_many_waiters_that_went_are_not_kept() -> None:
    gates = Gates()
    gates.declare(1, "ns", [Limit("cat", None, 1)])
    gates.admit(0, "ns", "cat", None)
    gates.admit(1, "ns", "cat", None)
    for run in range(2, 10_000):
        gates.admit(run, "ns", "cat", None)
        gates.drop(run)
    assert sum(len(queue) for queues in gates._queues.values() for queue in queues.values()) < 2_000
    assert gates.release(0) == [1]


def test_a_waiter_whose_job_goes_leaves_the_gate() -> None:
    bench = Bench()
    owner = actor("cat")
    worker = bench.connect(owner, limits=[Limit("cat", None, 1), Limit("cat", "red", 1)])
    bench.put("j0", due_ms=T, owner=owner, key="red")
    name = bench.put("j1", due_ms=T + 1, owner=owner, key="red")
    bench.put("j2", due_ms=T + 2, owner=owner, key="blue")
    bench.tick(10)
    bench.etcd.delete(JOBS + name)
    bench.ack(worker, 1)
    bench.flush()
    assert [name for name, _ in worker.take()] == ["j0", "j2"]
    assert bench.gates.gauges() == {"cat": (1, 0), "cat:red": (0, 0)}


def test_the_table_names_every_state_and_only_possible_pairs() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State)
    assert {happening for _, happening in TRANSITIONS} == set(Input)


STEPS = {
    # how a bench brings the job `a` (`@every 1s`, partition 1) into a state
    State.ARMED: "",
    State.IN_FLIGHT: "C t",
    State.STAGED: "t",
    State.COMMITTING: "C t r",
    State.IDLE: "lose",
}


def _into(state: State) -> tuple[Bench, bytes]:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s", partition=1, failure_policy=policy(interval_ms=1000))
    worker = None
    for step in STEPS[state].split():
        if step == "C":
            worker = bench.connect()
        elif step == "t":
            bench.tick(1000)
        elif step == "r":
            assert worker is not None
            assert bench.answer(worker, 1) is None
        else:
            bench.engine.set_partition(2, 0)
            bench.engine.arm_some(100)
    assert bench.engine.state_of(name) == state
    return bench, name


@pytest.mark.parametrize(("state", "happening"), [pair for pair in TRANSITIONS if pair[0] is not State.FINISHING])
def test_every_pair_of_the_table(state: State, happening: Input) -> None:
    bench, name = _into(state)
    engine = bench.engine
    stream = next((stream for stream in bench.delivery_streams() if stream is not None), None)
    if happening is Input.FIRE:
        bench.tick(1000)
        assert engine.state_of(name) == State.STAGED  # IN_FLIGHT for a moment: there is no stream
        return
    if happening is Input.RESULT:
        assert stream is not None
        assert engine.on_acks(stream, [b"\x12\x02\x08\x01"], bench.now_ms) is None
    elif happening is Input.UNDELIVERABLE:
        assert stream is not None
        engine.close_stream(stream)
    elif happening is Input.CONSUMER:
        bench.connect()
    elif happening is Input.REJECTED:
        [commit] = engine.take_commits()
        engine.on_outcomes(commit, b"\0")
    elif happening is Input.JOB_CHANGED:
        bench.put("a", schedule="@every 2s", partition=2 if state is State.IDLE else 1)
    elif happening is Input.COUNTER_CHANGED:
        if state is State.IDLE:
            engine.set_partition(1, 0)
        bench.etcd.put(COUNTERS + name, _jobs.encode_counter(1, 1, (T // 1000 + 1, 0), 0))
    elif happening is Input.LOST:
        engine.set_partition(2, 0)
        while engine.arm_some(10):
            pass
    elif happening is Input.GAINED:
        engine.set_partition(1, 0)
        while engine.arm_some(10):
            pass
    else:
        assert happening is Input.FOUND_FINISHED
        if state is State.IDLE:
            engine.set_partition(1, 0)
        bench.put("a", schedule="@every 1s", repeats=1, partition=1)
        bench.etcd.put(COUNTERS + name, _jobs.encode_counter(1, 1, (T // 1000 + 1, 0), 0))
    engine.check_invariants()
    assert engine.state_of(name) == TRANSITIONS[state, happening]


def test_finishing_goes_over_to_committing() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s", repeats=1, partition=1)
    bench.etcd.put(COUNTERS + name, _jobs.encode_counter(1, 1, (T // 1000 + 1, 0), 0))
    assert bench.engine.state_of(name) == State.FINISHING
    bench.engine.finish_some(1)
    assert bench.engine.state_of(name) == TRANSITIONS[State.FINISHING, Input.FINISH_SENT]


def test_results_of_one_name_are_never_in_one_transaction() -> None:
    """etcd refuses what puts one key twice, and would do so for ever: the job was overwritten while its result waited for its turn."""
    bench = Bench(branches_max=64)
    worker = bench.connect()
    for round_ in range(4):
        for letter in "abc":
            bench.put(letter, schedule="@every 1s", start_ms=bench.now_ms - 1_000, partition=10 * round_ + ord(letter))
        bench.tick()
        ids = [id_ for _, id_ in worker.take()]
        assert len(ids) == 3
        assert bench.answer(worker, *ids) is None
    bench.commit()
    for letter in "abc":
        found = bench.counter(b"app||ns||app||" + letter.encode())
        assert found is not None
        assert found[:2] == (30 + ord(letter), 1)


def test_a_commit_has_a_bound_of_bytes() -> None:
    bench = Bench(branches_max=64)
    worker = bench.connect()
    for number in range(8):
        bench.put(f"{number}" * 200_000, due_ms=bench.now_ms)
    bench.tick()
    assert bench.answer(worker, *(id_ for _, id_ in worker.take())) is None
    sizes = [(commit.count, len(commit.request)) for commit in bench.engine.take_commits()]
    assert sum(count for count, _ in sizes) == 8
    assert len(sizes) > 1
    assert max(size for _, size in sizes) <= COMMIT_BYTES_MAX
