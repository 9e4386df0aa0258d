"""Who gets a trigger, and when, beside the Dapr Scheduler itself: gates, round robin, staging, streams that go away (spec §4).

Each story is told by both; what it tells must be one.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dapr_pair import Pair, Side, actor, app, pair, schedule_request
from real_dapr import dapr_scheduler
from test_real_dapr_watch import FAILED, SUCCESS, Stream, opening, result

from raftsched.pb.dapr import scheduler_pb2 as pb

pytestmark = pytest.mark.process
QUIET_S = 0.7  # nothing more comes


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(dapr_scheduler(), tmp_path_factory.mktemp("delivery")) as made:
        yield made


def limit(actor_type: str, most: int, name: str | None = None) -> pb.ConcurrencyLimit:
    return pb.ConcurrencyLimit(max_concurrent=most, name=name, actor=pb.ConcurrencyLimitActor(type=actor_type))


def put(side: Side, name: str, owner: pb.JobMetadata) -> None:
    answer = side.call("ScheduleJob", schedule_request(name, owner, due_time="0s", overwrite=True).SerializeToString())
    assert answer.code == "OK", answer


def names(stream: Stream, wanted: int) -> list[str]:
    """Of what a stream has got, when `wanted` are there and no more come."""
    stream.until(lambda one: len(one.triggers) >= wanted)
    time.sleep(QUIET_S)
    return [pb.WatchJobsResponse.FromString(trigger).name for trigger in stream.triggers]


def settle(side: Side, *streams: Stream) -> None:
    """All that was and is still sent is answered; the store is empty."""
    answered = [0] * len(streams)
    begin = time.monotonic()
    while side.stored(b"dapr/jobs/"):
        assert time.monotonic() - begin < 20, side.server.logs()
        for index, stream in enumerate(streams):
            for trigger in stream.triggers[answered[index] :]:
                stream.send(result(pb.WatchJobsResponse.FromString(trigger).id))
            answered[index] = len(stream.triggers)
        time.sleep(0.05)
    for stream in streams:
        stream.close()


def a_gate_of_a_type(side: Side) -> Any:
    """Two at a time; each answer of either kind lets the next one in."""
    owner = actor("gated")
    stream = Stream(side, opening(actor_types=["gated"], concurrency_limits=[limit("gated", 2)]))
    time.sleep(QUIET_S)
    for index in range(5):
        put(side, f"g{index}", owner)
    told = [len(names(stream, 2))]
    for status in (SUCCESS, FAILED):
        stream.send(result(len(told), status))
        told.append(len(names(stream, 2 + len(told))))
    answered = len(told)
    while side.stored(b"dapr/jobs/"):
        if len(stream.triggers) >= answered:
            stream.send(result(answered))
            answered += 1
        time.sleep(0.02)
    stream.close()
    return told


def gates_of_names(side: Side) -> Any:
    """A reminder needs room in the gate of its type and in that of its concurrency key; others pass by."""
    limits = [limit("named", 3), limit("named", 1, "k"), limit("named", 0, "none"), pb.ConcurrencyLimit(max_concurrent=1)]
    stream = Stream(side, opening(actor_types=["named"], concurrency_limits=limits))
    time.sleep(QUIET_S)
    for index in range(3):
        put(side, f"k{index}", actor("named", concurrency_key="k"))
    told = [len(names(stream, 1))]
    for key in ("none", "other"):
        put(side, key, actor("named", concurrency_key=key))
    told.append(sorted(name for name in names(stream, 3) if not name.startswith("k")))
    assert side.call("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=actor("named")).SerializeToString()).code == "OK"
    stream.close()
    return told


def round_robin(side: Side) -> Any:
    """Over the streams of an app, and over those of a type whatever app they are of."""
    streams = [Stream(side, opening(app_id="turns")) for _ in range(3)]
    streams += [Stream(side, opening(app_id="others", actor_types=["t"])) for _ in range(2)]
    time.sleep(QUIET_S)
    for index in range(12):
        put(side, f"j{index}", app("turns"))
        put(side, f"r{index}", actor("t"))
    told = [len(names(stream, count)) for stream, count in zip(streams, (4, 4, 4, 6, 6), strict=True)]
    settle(side, *streams)
    return told


def staging(side: Side) -> Any:
    """What nobody takes waits, and comes once, when somebody does."""
    put(side, "early", app("late"))
    put(side, "early", actor("late"))
    other = Stream(side, opening(app_id="late", accept_job_types=[1], actor_types=["other"]))
    told = [names(other, 0)]
    jobs = Stream(side, opening(app_id="late", accept_job_types=[0]))
    told.append(names(jobs, 1))
    reminders = Stream(side, opening(app_id="late", accept_job_types=[1], actor_types=["late"]))
    told.append(names(reminders, 1))
    settle(side, other, jobs, reminders)
    return told


def a_stream_goes_away(side: Side) -> Any:
    """What it had not answered goes to the next one; what it had does not. No attempt is counted."""
    stream = Stream(side, opening(app_id="away"))
    time.sleep(QUIET_S)
    for index in range(4):
        put(side, f"a{index}", app("away"))
    names(stream, 4)
    first = pb.WatchJobsResponse.FromString(stream.triggers[0])
    stream.send(result(first.id))
    stream.until(lambda _: len(side.stored(b"dapr/jobs/")) == 3)
    stream.close()
    follower = Stream(side, opening(app_id="away"))
    told = [sorted(names(follower, 3)) == sorted({f"a{index}" for index in range(4)} - {first.name}), side.stored(b"dapr/counters/")]
    settle(side, follower)
    return told


def overwritten_while_it_is_out(side: Side) -> Any:
    """The late answer is of a job that is no more: the new one comes all the same."""
    stream = Stream(side, opening(app_id="over"))
    time.sleep(QUIET_S)
    put(side, "over", app("over"))
    told = [len(names(stream, 1))]
    put(side, "over", app("over"))
    stream.send(result(1))
    told.append(len(names(stream, 2)))
    stream.send(result(2))
    stream.until(lambda _: not side.stored(b"dapr/jobs/"))
    told.append(side.stored(b"dapr/counters/"))
    stream.close()
    return told


def deleted_while_it_is_out(side: Side) -> Any:
    """Its late answers of either kind leave nothing behind."""
    stream = Stream(side, opening(app_id="gone"))
    time.sleep(QUIET_S)
    for name in ("well", "badly"):
        put(side, name, app("gone"))
    told = [sorted(names(stream, 2))]
    for name in ("well", "badly"):
        assert side.call("DeleteJob", pb.DeleteJobRequest(name=name, metadata=app("gone")).SerializeToString()).code == "OK"
    for trigger in map(pb.WatchJobsResponse.FromString, list(stream.triggers)):
        stream.send(result(trigger.id, SUCCESS if trigger.name == "well" else FAILED))
    told.append(sorted(names(stream, 2)))
    told.append([*side.stored(b"dapr/jobs/"), *side.stored(b"dapr/counters/")])
    stream.close()
    return told


STORIES = [
    *(a_gate_of_a_type, gates_of_names, round_robin, staging, a_stream_goes_away),
    *(overwritten_while_it_is_out, deleted_while_it_is_out),
]


@pytest.mark.parametrize("story", STORIES, ids=[story.__name__ for story in STORIES])
def test_both_tell_the_same(story: Callable[[Side], Any], sides: Pair) -> None:
    theirs, ours = (story(side) for side in sides.sides)
    assert ours == theirs
    print(story.__name__, ours)
