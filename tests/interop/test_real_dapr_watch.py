"""The streams of the scheduler API beside the Dapr Scheduler itself: triggers in bytes, how streams end, what results leave stored."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from dapr_pair import SERVICE, Pair, Side, actor, app, fields, how, pair, schedule_request
from google.protobuf.any_pb2 import Any as AnyMessage
from real_dapr import dapr_scheduler

from raftsched.pb.dapr import common_pb2
from raftsched.pb.dapr import scheduler_pb2 as pb

pytestmark = pytest.mark.process
ID = 2  # of WatchJobsResponse: in the order of delivery, which chance decides
WAIT_S = 20.0
LETTERS = AnyMessage(type_url="type.googleapis.com/google.protobuf.BytesValue", value=b"\x0a\x03abc")
SUCCESS, FAILED = pb.WatchJobsRequestResultStatus.SUCCESS, pb.WatchJobsRequestResultStatus.FAILED


class Stream:
    """One stream of either kind, in bytes."""

    def __init__(self, side: Side, *first: Any, method: str = "WatchJobs") -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.triggers: list[bytes] = []
        self.end: tuple[str, str] | None = None
        for message in first:
            self.send(message)
        self.call = side.channel.stream_stream(SERVICE + method)(iter(self._requests.get, None))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for message in self.call:
                self.triggers.append(message)
            self.end = ("OK", "")
        except grpc.RpcError as error:
            self.end = how(error)

    def send(self, message: Any) -> None:
        self._requests.put(message if isinstance(message, bytes) else message.SerializeToString())

    def half_close(self) -> None:
        self._requests.put(None)

    def until(self, holds: Callable[["Stream"], object], timeout_s: float = WAIT_S) -> "Stream":
        begin = time.monotonic()
        while not holds(self):
            assert time.monotonic() - begin < timeout_s, (self.end, self.triggers)
            time.sleep(0.01)
        return self

    def close(self) -> None:
        self.call.cancel()
        self._thread.join(WAIT_S)
        self._requests.put(None)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(dapr_scheduler(), tmp_path_factory.mktemp("watch")) as made:
        yield made


def opening(**given: Any) -> pb.WatchJobsRequest:
    return pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(**{"app_id": "app", "namespace": "ns", **given}))


def result(id_: int, status: Any = SUCCESS) -> pb.WatchJobsRequest:
    return pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=id_, status=status))


REFUSED = {
    "a result first": [result(1)],
    "an empty message": [b""],
    "no message": [b"\xff"],
    "no app": [opening(app_id="")],
    "no namespace": [opening(namespace="")],
    "jobs twice": [opening(accept_job_types=[0, 0])],
    "reminders twice": [opening(accept_job_types=[1, 0, 1])],
    "an unknown type twice": [opening(accept_job_types=[7, 7])],
    "two openings": [opening(), opening()],
    "nothing after the opening": [opening(), b""],
}


@pytest.mark.parametrize("messages", REFUSED.values(), ids=REFUSED.keys())
def test_how_a_stream_is_refused(messages: list[Any], sides: Pair) -> None:
    ends = []
    for side in sides.sides:
        stream = Stream(side, *messages).until(lambda one: one.end)
        ends.append(stream.end)
        stream.close()
    assert ends[0] == ends[1]
    assert ends[0] is not None
    assert ends[0][0] != "OK"


@pytest.mark.parametrize("messages", [[], [opening()]], ids=["before the opening", "after it"])
def test_how_a_stream_ends_that_is_half_closed(messages: list[Any], sides: Pair) -> None:
    ends = []
    for side in sides.sides:
        stream = Stream(side, *messages)
        time.sleep(0.3)  # the half-close comes after what was sent before
        stream.half_close()
        ends.append(stream.until(lambda one: one.end).end)
        stream.close()
    assert ends[0] == ends[1]


TRIGGERED = [
    ("plain", app(), {}),
    ("data", app(), {"data": LETTERS}),
    ("", app(), {"data": AnyMessage()}),
    ("é\U0001f600||x", app(), {}),
    ("keyed", app(concurrency_key=""), {}),
    ("reminder", actor(), {"data": LETTERS}),
    ("r||2", actor("cat", "1||2", concurrency_key="k"), {}),
    ("no id", actor("cat", ""), {}),
]


def test_triggers(sides: Pair) -> None:
    """Byte by byte; ids count from 1; after the results nothing is left of one-shots."""
    for name, owner, more in TRIGGERED:
        sides.ask("ScheduleJob", schedule_request(name, owner, due_time="0s", **more))
    metadata = app().SerializeToString() + b"\xf8\x3e\x07"
    job = pb.Job(due_time="0s").SerializeToString()
    sides.ask("ScheduleJob", b"\x0a\x03unk\x12" + bytes([len(job)]) + job + b"\x1a" + bytes([len(metadata)]) + metadata)
    seen = []
    for side in sides.sides:
        stream = Stream(side, opening(actor_types=["cat"])).until(lambda one: len(one.triggers) == len(TRIGGERED) + 1)
        read = [pb.WatchJobsResponse.FromString(trigger) for trigger in stream.triggers]
        assert [trigger.id for trigger in read] == list(range(1, len(read) + 1))
        seen.append({one.name: [pair for pair in fields(raw) if pair[0] != ID] for one, raw in zip(read, stream.triggers, strict=True)})
        for trigger in read:
            stream.send(result(trigger.id))
        stream.until(lambda _, side=side: not side.stored(b"dapr/jobs/"))  # type: ignore[misc]
        assert side.stored(b"dapr/counters/") == {}
        stream.close()
    assert seen[0] == seen[1]


POLICIES = {
    "unset": None,
    "drop": common_pb2.JobFailurePolicy(drop=common_pb2.JobFailurePolicyDrop()),
    "twice": common_pb2.JobFailurePolicy(constant=common_pb2.JobFailurePolicyConstant(max_retries=2)),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_counters_of_jobs_that_fail(policy: Any, sides: Pair) -> None:
    """Each tick of a recurring job fails as often as it comes: deliveries, and the last counter that is stored, are the same."""
    due = "2020-01-01T00:00:00Z"  # so that the instants of both are one
    owner = app("failing")
    for name in ("a", "b"):
        made = schedule_request(name, owner, schedule="@every 1h", due_time=due, repeats=3, overwrite=True, failure_policy=policy)
        sides.ask("ScheduleJob", made)
    seen = []
    for side in sides.sides:
        stream = Stream(side, opening(app_id="failing"))
        answered: dict[str, int] = {}
        counters: list[tuple[str, bytes]] = []
        while side.stored(b"dapr/jobs/app||ns||failing"):
            stream.until(lambda one: one.triggers or not side.stored(b"dapr/jobs/app||ns||failing"))  # noqa: B023
            if stream.triggers:
                trigger = pb.WatchJobsResponse.FromString(stream.triggers.pop(0))
                answered[trigger.name] = answered.get(trigger.name, 0) + 1
                stored = side.stored(b"dapr/counters/app||ns||failing||" + trigger.name.encode())
                counters += [
                    (trigger.name, b"".join(bytes(str(field), "utf-8") for field in fields(value)[1:])) for value in stored.values()
                ]
                stream.send(result(trigger.id, FAILED))
        stream.close()
        seen.append((answered, sorted(counters)))
    assert seen[0] == seen[1]
    assert seen[0][0] == dict.fromkeys(("a", "b"), 3 * (1 if policy is POLICIES["drop"] else 3 if policy else 4))


def test_hosts(sides: Pair) -> None:
    """One message at once, of the one host."""
    for side in sides.sides:
        stream = Stream(side, b"", method="WatchHosts")
        stream.half_close()
        stream.until(lambda one: one.triggers)
        host = pb.Host(address=side.server.scheduler_address)
        assert stream.triggers == [pb.WatchHostsResponse(hosts=[host]).SerializeToString()]
        stream.close()


def test_leadership(sides: Pair) -> None:
    """The same key, and the same fields in it."""
    values = [side.stored(b"dapr/leadership/") for side in sides.sides]
    assert values[0].keys() == values[1].keys() == {b"dapr/leadership/dapr-scheduler-server-0"}
    (theirs,), (ours,) = (list(one.values()) for one in values)
    assert [number for number, _ in fields(theirs)] == [number for number, _ in fields(ours)]
    assert fields(theirs)[0] == fields(ours)[0] == (1, 1)
    (their_any,), (our_any,) = ([value for number, value in fields(one) if number == 3] for one in (theirs, ours))
    assert isinstance(their_any, bytes)
    assert isinstance(our_any, bytes)
    assert fields(their_any)[0] == fields(our_any)[0]
