"""The last runs of jobs in the engine: what is written with a result, what goes, and what jobs without a history write."""

from itertools import pairwise

from raftsched.limits import ERROR_BYTES_MAX, HISTORY_RUNS_MAX
from raftsched.pb.etcd import rpc_pb2
from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.jobs.names import HISTORY, JOBS, RUNS, STATES
from raftsched.testing.memory_etcd import MemoryEtcd
from raftsched.testing.scheduling import APP, FAILED, START_MS, SUCCESS, Bench, actor, policy

SUCCEEDED, GIVEN_UP = state_pb2.RUN_RESULT_SUCCEEDED, state_pb2.RUN_RESULT_GIVEN_UP


def extra(runs: int) -> bytes:
    return state_pb2.JobExtra(history=state_pb2.History(runs=runs)).SerializeToString()


def records(etcd: MemoryEtcd, name: bytes) -> list[state_pb2.RunRecord]:
    """What is kept, the oldest first."""
    prefix = HISTORY + name + b"/"
    return [state_pb2.RunRecord.FromString(etcd.keys[key].value) for key in sorted(etcd.keys) if key.startswith(prefix)]


def ticks(bench: Bench, name: bytes) -> list[int]:
    return [(record.scheduled_at.ToMilliseconds() - START_MS) // 1000 for record in records(bench.etcd, name)]


def run_once(bench: Bench, ms: int = 1000) -> None:
    """One tick, acknowledged."""
    worker = bench.workers[-1]
    bench.tick(ms)
    bench.ack(worker, *(id_ for _, id_ in worker.take()))


def test_the_last_runs_are_kept() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s", partition=7)
    bench.etcd.put(STATES + name, extra(3))
    bench.connect()
    for kept in ([1], [1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]):
        run_once(bench)
        assert ticks(bench, name) == kept
    record = records(bench.etcd, name)[-1]
    assert (record.attempts, record.result, record.replica, record.partition_id, record.asked) == (1, SUCCEEDED, "bench", 7, 0)
    assert record.sent_at.ToMilliseconds() == record.answered_at.ToMilliseconds() == START_MS + 5_000


def test_a_result_and_its_record_are_of_one_revision() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    bench.etcd.put(STATES + name, extra(3))
    bench.connect()
    run_once(bench)
    [key] = [key for key in bench.etcd.keys if key.startswith(HISTORY)]
    assert bench.etcd.keys[key].mod_revision == bench.etcd.keys[b"dapr/counters/" + name].mod_revision
    assert int(key[-16:], 16) < bench.etcd.keys[key].mod_revision


def test_attempts_count_and_only_what_is_over_is_kept() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 10s", failure_policy=policy(interval_ms=1_000, max_retries=1))
    bench.etcd.put(STATES + name, extra(5))
    worker = bench.connect()
    bench.tick(10_000)
    bench.ack(worker, 1, status=FAILED)
    assert records(bench.etcd, name) == []
    bench.tick(1_000)
    bench.ack(worker, 2)
    bench.tick(9_000)
    bench.ack(worker, 3, status=FAILED)
    bench.tick(1_000)
    bench.ack(worker, 4, status=FAILED)
    assert [(record.attempts, record.result) for record in records(bench.etcd, name)] == [(2, SUCCEEDED), (2, GIVEN_UP)]
    assert ticks(bench, name) == [10, 20]


def test_a_run_that_was_asked_for_is_kept_in_its_place() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 10s")
    bench.etcd.put(STATES + name, extra(5))
    worker = bench.connect()
    bench.tick(10_000)
    bench.etcd.put(RUNS + name, b"")
    asked = bench.etcd.revision
    bench.ack(worker, 1)
    bench.tick()
    bench.ack(worker, 2)
    bench.tick(10_000)
    bench.ack(worker, 3)
    assert [record.asked for record in records(bench.etcd, name)] == [0, asked, 0]
    assert not records(bench.etcd, name)[1].HasField("scheduled_at")


def test_it_goes_with_its_job_and_a_later_job_has_its_own() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    bench.etcd.put(STATES + name, extra(3))
    bench.connect()
    run_once(bench)
    bench.etcd.delete(JOBS + name)
    bench.put("a", schedule="@every 1s")
    bench.commit()
    assert records(bench.etcd, name) == []
    bench.etcd.put(STATES + name, extra(3))
    run_once(bench)
    assert ticks(bench, name) == [2]


def test_the_last_run_of_a_job_that_ends_is_told_and_goes() -> None:
    bench = Bench()
    name = bench.put("a", due_ms=START_MS + 1_000)
    bench.etcd.put(STATES + name, extra(3))
    worker = bench.connect()
    bench.tick(1_000)
    assert bench.answer(worker, 1) is None
    bench.store()
    assert bench.job_keys() == []
    bench.outcomes()
    bench.commit()
    assert [key for key in bench.etcd.keys if key.startswith(b"raftsched/")] == []


def test_what_went_while_nothing_ran_goes_at_the_next_load() -> None:
    for index in (0, 1):
        bench = Bench()
        name = bench.put("a", schedule="@every 1s")
        kept = bench.put("b", schedule="@every 1s")
        bench.etcd.put(STATES + name, extra(3))
        bench.etcd.put(STATES + kept, extra(3))
        bench.connect()
        run_once(bench)
        bench.etcd.sinks = []
        bench.etcd.delete(JOBS + name)
        bench.etcd.delete(STATES + name)
        bench.restart(total=2, index=index)
        bench.commit()
        assert bool(records(bench.etcd, name)) == (index == 1), "the first replica sees to it"
        assert len(records(bench.etcd, kept)) == 1


def test_a_history_that_is_not_wanted_any_more_goes() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    bench.etcd.put(STATES + name, extra(3))
    bench.connect()
    for _ in range(3):
        run_once(bench)
    bench.etcd.put(STATES + name, extra(1))
    run_once(bench)
    assert ticks(bench, name) == [4]
    worker = bench.workers[-1]
    bench.tick(1_000)
    [(_, id_)] = worker.take()
    assert bench.answer(worker, id_) is None
    bench.etcd.put(STATES + name, b"")
    bench.commit()
    bench.commit()
    assert records(bench.etcd, name) == [], "also what was on its way when it was taken away"
    run_once(bench)
    assert records(bench.etcd, name) == []


def test_another_owner_goes_on_with_the_ring() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    bench.etcd.put(STATES + name, extra(3))
    bench.connect()
    for _ in range(4):
        run_once(bench)
    bench.restart()
    bench.connect()
    run_once(bench)
    assert ticks(bench, name) == [3, 4, 5]
    numbers = [int(key[-16:], 16) for key in sorted(bench.etcd.keys) if key.startswith(HISTORY)]
    assert all(earlier < later for earlier, later in pairwise(numbers))


def test_a_result_that_is_sent_twice_is_kept_once() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    bench.etcd.put(STATES + name, extra(3))
    worker = bench.connect()
    bench.tick(1_000)
    assert bench.answer(worker, 1) is None
    [commit] = bench.engine.take_commits()
    for _ in range(2):
        error, _, _ = bench.etcd.apply(6, commit.request)
        assert error == 0
    assert ticks(bench, name) == [1]


def test_no_more_than_the_bound_is_kept() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 1s")
    bench.etcd.put(STATES + name, extra(1 << 31))
    bench.connect()
    for _ in range(HISTORY_RUNS_MAX + 2):
        run_once(bench)
    assert len(records(bench.etcd, name)) == HISTORY_RUNS_MAX


def test_others_write_what_they_wrote_before() -> None:
    """Two engines, the same jobs; in one of them a third job has a history: the branches of the two others are the same, byte by byte."""
    requests = []
    for runs in (0, 3):
        bench = Bench(branches_max=1)
        for letter in ("a", "b", "c"):
            bench.put(letter, schedule="@every 1s", owner=actor(actor_id=letter) if letter == "b" else APP)
        name = b"app||ns||app||c"
        bench.etcd.put(STATES + name, extra(runs))
        worker = bench.connect(actor(), APP)
        bench.tick(1_000)
        assert bench.answer(worker, *sorted(id_ for _, id_ in worker.take())) is None
        branches = {bytes(_job_of(commit.request)): commit.request for commit in bench.engine.take_commits()}
        requests.append(branches)
    plain, kept = requests
    assert sorted(plain) == sorted(kept)
    assert {key for key in plain if plain[key] != kept[key]} == {JOBS + b"app||ns||app||c"}
    [branch] = rpc_pb2.TxnRequest.FromString(plain[JOBS + b"app||ns||app||a"]).success
    assert [op.WhichOneof("request") for op in branch.request_txn.success] == ["request_put"]
    assert len(plain[JOBS + b"app||ns||app||a"]) < 150


def _job_of(request: bytes) -> bytes:
    [branch] = rpc_pb2.TxnRequest.FromString(request).success
    key: bytes = branch.request_txn.compare[0].key
    return key


def test_what_the_worker_said_of_the_last_failure_is_kept() -> None:
    bench = Bench()
    name = bench.put("a", schedule="@every 10s", failure_policy=policy(interval_ms=0, max_retries=1))
    bench.etcd.put(STATES + name, extra(5))
    worker = bench.connect_batched()
    bench.tick(10_000)
    for id_, status, error in ((1, FAILED, "first"), (2, FAILED, "second"), (3, FAILED, "third"), (4, SUCCESS, ""), (5, SUCCESS, "")):
        bench.ack(worker, id_, status=status, error=error)
        bench.tick(0 if id_ in (1, 3) else 10_000)
    bench.tick(10_000)
    bench.ack(worker, 6, status=FAILED)
    bench.tick()
    bench.ack(worker, 7, status=FAILED, error="ü" * ERROR_BYTES_MAX)
    assert records(bench.etcd, name)[-1].error == "ü" * (ERROR_BYTES_MAX // 2), "cut, and still a text"
    assert [(record.error, record.attempts) for record in records(bench.etcd, name)][:3] == [("second", 2), ("third", 2), ("", 1)]
