"""What the Dapr Scheduler itself does where raftsched differs on purpose (the decisions D4 to D9 and D11 of the contract): judged here,
since the contract read it off the code. Each with a process of its own, which may not survive it.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dapr_pair import Pair, actor, app, pair, schedule_request
from real_dapr import dapr_scheduler
from test_real_dapr_watch import Stream, opening, result

from raftsched.pb.dapr import scheduler_pb2 as pb
from raftsched.testing.lock_side import until

pytestmark = pytest.mark.process
STARTED = "Dapr Scheduler is starting"
QUIET_S = 3.0  # nothing comes any more


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Pair]:
    with pair(dapr_scheduler(), tmp_path) as made:
        yield made


def alive(sides: Pair) -> None:
    """Ours is, and serves."""
    process = sides.ours.server.process
    assert process is not None
    assert process.poll() is None
    assert sides.ours.call("ListJobs", pb.ListJobsRequest(metadata=app()).SerializeToString()).code == "OK"


def test_an_unknown_result_closes_its_stream(sides: Pair) -> None:
    """D4: ours stays open and says so in the log."""
    theirs, ours = (Stream(side, opening(), result(77)) for side in sides.sides)
    assert theirs.until(lambda one: one.end).end == ("CANCELLED", "context canceled")
    sides.ask("ScheduleJob", schedule_request("next", due_time="0s"))
    assert ours.until(lambda one: one.triggers).end is None
    ours.close()


def test_after_an_unknown_status_the_job_is_stuck(sides: Pair) -> None:
    """D5: ours gives the trigger to the next stream."""
    sides.ask("ScheduleJob", schedule_request("stuck", due_time="0s"))
    for side in sides.sides:
        stream = Stream(side, opening()).until(lambda one: one.triggers)
        stream.send(result(1, 9))
        assert stream.until(lambda one: one.end).end == ("CANCELLED", "context canceled")
    theirs, ours = (Stream(side, opening()) for side in sides.sides)
    ours.until(lambda one: one.triggers)
    time.sleep(QUIET_S)
    assert theirs.triggers == []
    for stream in (theirs, ours):
        stream.close()


def test_a_request_without_a_job_ends_the_process(sides: Pair) -> None:
    """D6."""
    body = pb.ScheduleJobRequest(name="none", metadata=app()).SerializeToString()
    assert sides.theirs.call("ScheduleJob", body).code == "UNAVAILABLE"
    process = sides.theirs.server.process
    assert process is not None
    assert process.wait(20) == 2
    sides.theirs.server.process = None
    assert "nil pointer dereference" in sides.theirs.server.stderr_path.read_text()
    answer = sides.ours.call("ScheduleJob", body)
    assert (answer.code, answer.text) == ("UNKNOWN", "job failed validation: job must have either a due time or a schedule")
    alive(sides)


def test_a_stream_that_can_take_nothing_ends_all_streams(sides: Pair) -> None:
    """D7: it begins anew in its process; ours leaves the stream open and idle, and the others as they are."""
    others = [Stream(side, opening()) for side in sides.sides]
    time.sleep(0.5)
    theirs, ours = (Stream(side, opening(accept_job_types=[1])) for side in sides.sides)
    assert others[0].until(lambda one: one.end).end == ("UNKNOWN", "server is closing")
    assert theirs.until(lambda one: one.end).end is not None
    assert sides.theirs.server.stdout_path.read_text().count("no prefixes provided") == 1
    time.sleep(QUIET_S)
    assert (others[1].end, ours.end) == (None, None)
    assert sides.theirs.server.stdout_path.read_text().count(STARTED) == 2
    for stream in (others[1], ours):
        stream.close()


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        ("0 0 0 30 2 *", "job failed validation: schedule never fires: 0 0 0 30 2 *"),
        ("@every -1s", "job failed validation: failed to parse duration @every -1s: must not be negative"),
    ],
)
def test_schedules_that_spin(schedule: str, text: str, sides: Pair) -> None:
    """D8, D9: delivered as fast as they are answered, with instants that are not later than the last."""
    theirs, ours = sides.answers("ScheduleJob", schedule_request("spins", schedule=schedule))
    assert (theirs.code, ours.code, ours.text) == ("OK", "UNKNOWN", text)
    stream = Stream(sides.theirs, opening())
    answered = 0
    begin = time.monotonic()
    while answered < 20 and time.monotonic() - begin < 10:
        if len(stream.triggers) > answered:
            answered += 1
            stream.send(result(answered))
    stream.close()
    assert answered == 20


def test_a_waiter_for_a_named_gate_is_forgotten(sides: Pair) -> None:
    """It waits at the gate of its type, which is asked before that of its name is free again. Ours lets it in."""
    limits = [pb.ConcurrencyLimit(max_concurrent=3, actor=pb.ConcurrencyLimitActor(type="cat"))]
    limits.append(pb.ConcurrencyLimit(max_concurrent=1, name="k", actor=pb.ConcurrencyLimitActor(type="cat")))
    theirs, ours = (Stream(side, opening(actor_types=["cat"], concurrency_limits=limits)) for side in sides.sides)
    time.sleep(0.5)
    for name in ("first", "second"):
        sides.ask("ScheduleJob", schedule_request(name, actor(concurrency_key="k"), due_time="0s"))
    for stream in (theirs, ours):
        stream.until(lambda one: one.triggers).send(result(1))
    ours.until(lambda one: len(one.triggers) == 2)
    time.sleep(QUIET_S)
    assert len(theirs.triggers) == 1
    for stream in (theirs, ours):
        stream.close()


def test_a_record_that_cannot_be_read(sides: Pair) -> None:
    """D11: it begins anew, and again; ours passes over it and goes on."""
    for side in sides.sides:
        side.put(b"dapr/jobs/app||ns||app||broken", b"\xff\xff\xff")
    time.sleep(QUIET_S)
    body = schedule_request("next", due_time="0s").SerializeToString()
    assert sides.ours.call("ScheduleJob", body).code == "OK"
    stream = Stream(sides.ours, opening()).until(lambda one: one.triggers)
    stream.close()
    alive(sides)
    until(lambda: sides.theirs.server.stdout_path.read_text().count(STARTED) > 1, "for the real one to begin anew")
