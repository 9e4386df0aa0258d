"""Dead letters: a run that was given up is kept in the entry of its result, once, and goes when a run that was asked for it succeeds."""

from typing import Any

import pytest

from raftsched.limits import DEAD_LETTER_PAYLOAD_BYTES_MAX
from raftsched.pb.dapr import scheduler_pb2, stored_pb2
from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.dead_letters import split_dead_key
from raftsched.scheduler.jobs.names import COUNTERS, DEAD, JOBS, RUNS, STATES
from raftsched.scheduler.jobs.requests import field
from raftsched.testing.scheduling import FAILED, START_MS, SUCCESS, Bench, Worker, actor, policy

T = START_MS
WANTED = state_pb2.JobExtra(dead_letters=True).SerializeToString()
DROP = policy(drop=True)


def letters(bench: Bench) -> dict[bytes, Any]:
    return {key: state_pb2.StoredDeadLetter.FromString(kv.value) for key, kv in sorted(bench.etcd.keys.items()) if key.startswith(DEAD)}


def wanting(bench: Bench, name: str = "a", **fields: Any) -> bytes:
    composed = bench.put(name, **{"due_ms": T, "failure_policy": DROP, "partition": 7, **fields})
    bench.etcd.put(STATES + composed, WANTED)
    bench.tick()
    return composed


def fail(bench: Bench, worker: Worker, error: str = "") -> None:
    [(_, id_)] = worker.take()
    bench.ack(worker, id_, status=FAILED, error=error)


def test_a_run_that_is_given_up_is_kept_in_the_entry_that_ends_the_job() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    name = wanting(bench, data=b"\x0a\x01t\x12\x03abc", failure_policy=policy(interval_ms=0, max_retries=1))
    revision = bench.etcd.keys[JOBS + name].mod_revision
    fail(bench, worker, "first")
    assert letters(bench) == {}
    bench.tick()
    before = bench.etcd.revision
    fail(bench, worker, "disk full")
    assert (bench.etcd.revision, JOBS + name in bench.etcd.keys) == (before + 1, False)
    [(key, letter)] = letters(bench).items()
    run = b"%012d.%09d-%016x" % (T // 1000, 0, 7)
    assert (key, split_dead_key(key)) == (DEAD + name + b"/" + run, (name, run))
    assert (letter.attempts, letter.error, letter.job_revision, letter.payload_omitted) == (2, "disk full", revision, False)
    assert letter.run_id == f"{name.decode()}/{T // 1000}.000000000/{7:016x}/1"
    assert (letter.scheduled_at.seconds, letter.given_up_at.ToMilliseconds()) == (T // 1000, T)
    metadata = scheduler_pb2.JobMetadata.FromString(letter.metadata)
    assert (metadata.app_id, metadata.namespace, letter.payload) == ("app", "ns", b"\x0a\x01t\x12\x03abc")
    assert stored_pb2.Job().job.failure_policy.FromString(letter.failure_policy).constant.max_retries == 1
    assert bench.engine.metrics()["dead"] == [0, 1, 0]
    assert bench.engine.dead_namespaces == {b"ns"}


def test_of_a_recurring_job_each_run_that_is_given_up() -> None:
    bench = Bench()
    worker = bench.connect(actor())
    name = wanting(bench, owner=actor(), schedule="@every 1s", due_ms=None)
    for _ in range(3):
        bench.tick(1_000)
        fail(bench, worker)
    assert bench.counter(name) == (7, 3, (T // 1000 + 3, 0), 0)
    assert [letter.scheduled_at.seconds - T // 1000 for letter in letters(bench).values()] == [1, 2, 3]
    bench.etcd.delete(JOBS + name)
    bench.etcd.delete(COUNTERS + name)
    bench.commit()
    assert STATES + name not in bench.etcd.keys
    assert len(letters(bench)) == 3


def test_a_job_that_does_not_want_them_writes_what_it_wrote() -> None:
    requests = []
    for extra in (None, state_pb2.JobExtra(labels={"a": "b"}).SerializeToString(), WANTED):
        bench = Bench()
        worker = bench.connect()
        name = bench.put("a", schedule="@every 1s", failure_policy=DROP, partition=7)
        if extra:
            bench.etcd.put(STATES + name, extra)
        bench.tick(1_000)
        [(_, id_)] = worker.take()
        assert bench.answer(worker, id_, status=FAILED) is None
        requests.append(bench.engine.take_commits()[0].request)
    assert requests[0] == requests[1]
    assert len(requests[2]) > len(requests[0])
    assert requests[2].count(DEAD) == 1


@pytest.mark.parametrize("more", [0, 1])
def test_a_payload_that_is_too_large_stays_with_the_job(more: int) -> None:
    bench = Bench()
    worker = bench.connect()
    wanting(bench, data=field(2, bytes(DEAD_LETTER_PAYLOAD_BYTES_MAX + more - 4)))
    fail(bench, worker)
    [letter] = letters(bench).values()
    assert (letter.payload_omitted, len(letter.payload)) == (bool(more), 0 if more else DEAD_LETTER_PAYLOAD_BYTES_MAX)


def test_a_commit_that_is_sent_again_keeps_it_once_and_brings_none_back() -> None:
    bench = Bench()
    worker = bench.connect()
    name = wanting(bench, schedule="@every 1s", due_ms=None)
    bench.tick(1_000)
    [(_, id_)] = worker.take()
    assert bench.answer(worker, id_, status=FAILED) is None
    [commit] = bench.engine.take_commits()
    bench.etcd.apply(6, commit.request)
    assert len(letters(bench)) == 1
    for key in letters(bench):
        bench.etcd.delete(key)
    _, _, body = bench.etcd.apply(6, commit.request)
    assert _jobs.txn_outcomes(body, 1) == b"\0"
    assert letters(bench) == {}
    assert bench.counter(name) == (7, 1, (T // 1000 + 1, 0), 0)


def test_what_another_has_gone_on_without_is_no_letter() -> None:
    bench = Bench()
    worker = bench.connect()
    name = wanting(bench, schedule="@every 1s", due_ms=None)
    bench.tick(1_000)
    [(_, id_)] = worker.take()
    assert bench.answer(worker, id_, status=FAILED) is None
    bench.etcd.put(COUNTERS + name, _jobs.encode_counter(7, 1, (T // 1000 + 1, 0), 0))
    bench.commit()
    assert letters(bench) == {}


def ask(bench: Bench, name: bytes, run: bytes) -> None:
    bench.etcd.put(RUNS + name, state_pb2.RunRequest(dead_letter=run.decode()).SerializeToString())
    bench.tick()


def dead(bench: Bench, worker: Worker) -> tuple[bytes, bytes]:
    """A recurring job with one letter: its name and the run."""
    name = wanting(bench, schedule="@every 1h", due_ms=None)
    bench.tick(3_600_000)
    fail(bench, worker, "first")
    [key] = letters(bench)
    return name, split_dead_key(key)[1]


@pytest.mark.parametrize("restart", [False, True])
def test_a_redriven_run_takes_its_letter_along_when_it_succeeds(restart: bool) -> None:
    bench = Bench()
    worker = bench.connect_batched()
    name, run = dead(bench, worker)
    ask(bench, name, run)
    if restart:
        bench.restart()
        worker = bench.connect_batched()
        bench.tick()
    [(_, id_)] = worker.take()
    assert len(letters(bench)) == 1
    bench.ack(worker, id_)
    assert (letters(bench), RUNS + name in bench.etcd.keys) == ({}, False)


@pytest.mark.parametrize("still", [True, False])
def test_one_that_fails_again_stays_in_its_place(still: bool) -> None:
    bench = Bench()
    worker = bench.connect_batched()
    name, run = dead(bench, worker)
    if not still:
        bench.etcd.delete(STATES + name)
    ask(bench, name, run)
    fail(bench, worker, "second")
    [(key, letter)] = letters(bench).items()
    assert (split_dead_key(key)[1], letter.error) == (run, "second" if still else "first")
    assert RUNS + name not in bench.etcd.keys


def test_a_job_that_goes_while_its_letter_is_redriven_leaves_it() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    name, run = dead(bench, worker)
    ask(bench, name, run)
    [(_, id_)] = worker.take()
    bench.etcd.delete(JOBS + name)
    bench.ack(worker, id_)
    bench.commit()
    assert len(letters(bench)) == 1
    assert RUNS + name not in bench.etcd.keys


def test_another_request_in_its_place_leaves_the_letter() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    name, run = dead(bench, worker)
    ask(bench, name, run)
    [(_, id_)] = worker.take()
    assert bench.answer(worker, id_) is None
    bench.etcd.delete(RUNS + name)
    bench.etcd.put(RUNS + name, b"")
    bench.commit()
    assert len(letters(bench)) == 1
    bench.tick()
    [(_, id_)] = worker.take()
    bench.ack(worker, id_)
    assert len(letters(bench)) == 1


def test_an_error_that_is_cut_within_a_letter() -> None:
    bench = Bench()
    worker = bench.connect_batched()
    wanting(bench)
    fail(bench, worker, "x" + "ä" * 600)
    [letter] = letters(bench).values()
    assert letter.error == "x" + "ä" * 511


@pytest.mark.parametrize("status", [SUCCESS, FAILED])
@pytest.mark.parametrize("restart", [False, True])
def test_a_job_that_is_overwritten_before_its_letter_is_run_leaves_it(restart: bool, status: int) -> None:
    """What runs then is not what failed."""
    bench = Bench()
    worker = bench.connect_batched()
    name, run = dead(bench, worker)
    [key] = letters(bench)
    before = bench.etcd.keys[key].value
    bench.disconnect(worker)
    ask(bench, name, run)
    bench.put("a", schedule="@every 1h", failure_policy=DROP, partition=8, data=b"\x0a\x01t\x12\x03new")
    if restart:
        bench.restart()
    worker = bench.connect_batched()
    bench.tick()
    [(_, id_)] = worker.take()
    bench.ack(worker, id_, status=status)
    assert bench.etcd.keys[key].value == before
    assert RUNS + name not in bench.etcd.keys
    assert len(letters(bench)) == 1 + (status == FAILED)


@pytest.mark.parametrize("what", ["key", "failure_policy"])
def test_what_is_beside_the_payload_cannot_make_a_letter_that_no_etcd_takes(what: str) -> None:
    bench = Bench()
    worker = bench.connect()
    much = {"key": "k" * 1_400_000} if what == "key" else {"failure_policy": DROP + field(15, bytes(1_400_000))}
    wanting(bench, data=b"\x0a\x01t", **much)
    fail(bench, worker)
    [letter] = letters(bench).values()
    metadata = scheduler_pb2.JobMetadata.FromString(letter.metadata)
    assert (metadata.app_id, metadata.namespace, metadata.target.HasField("job"), letter.payload) == ("app", "ns", True, b"\x0a\x01t")
    assert letter.ByteSize() < 2_000
