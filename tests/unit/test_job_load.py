"""What the checker of the jobs' load finds, on deliveries and counters made up for it."""

import time
from typing import Any

import pytest

from raftsched.pb.dapr import stored_pb2
from raftsched.pb.etcd import kv_pb2
from raftsched.testing.job_load import CounterWatch, JobLoad, Shot, without_delivery

SECOND_NS = 10**9


class Made(JobLoad):
    """Recurring jobs as the test says they stand in the store."""

    stored: dict[str, tuple[stored_pb2.Job, stored_pb2.Counter]]
    ticks: dict[str, list[tuple[int, int]]]

    def _stored(self) -> dict[str, tuple[stored_pb2.Job, stored_pb2.Counter]]:
        return self.stored

    def committed(self) -> dict[str, list[tuple[int, int]]]:
        return self.ticks


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftsched.testing.job_load.SETTLE_TIMEOUT_S", 0.05)


def load(*, recurring: int = 0) -> Made:
    made = Made([], [], recurring=recurring)
    made.stored, made.ticks = {}, {}
    return made


def standing(start_ns: int, count: int, last_ns: int) -> tuple[stored_pb2.Job, stored_pb2.Counter]:
    job, counter = stored_pb2.Job(), stored_pb2.Counter(count=count)
    job.start.FromNanoseconds(start_ns)
    counter.last_trigger.FromNanoseconds(last_ns)
    return job, counter


def test_one_shots() -> None:
    now = time.time_ns()
    made = load()
    made.shots = {
        "fine": Shot(now - 100, acknowledged=True),
        "twice": Shot(now - 100, acknowledged=True),
        "lost": Shot(now - 100, acknowledged=True),
        "early": Shot(now - 100, acknowledged=True),
        "unknown": Shot(now - 100, acknowledged=False),
        "deleted": Shot(now - 9 * SECOND_NS, acknowledged=True, deleted_ns=now - 8 * SECOND_NS),
        "gone": Shot(now - 9 * SECOND_NS, acknowledged=True, deleted_ns=now - 10 * SECOND_NS),
        "perhaps deleted": Shot(now - 100, acknowledged=True, deleted_ns=-1),
    }
    made.deliveries = [(now, "fine"), (now, "twice"), (now, "twice"), (now - 5_000_100, "early"), (now, "deleted")]
    assert made.finish() == [
        "lost: acknowledged, due, and never delivered",
        "early: delivered 5.000 ms early",
        "deleted: delivered 8000 ms after its delete was acknowledged",
    ]
    assert made.figures()["one_shots_twice"] == 1


def test_recurring_jobs() -> None:
    now = time.time_ns()
    start = now - 10 * SECOND_NS - SECOND_NS // 2
    made = load(recurring=4)
    made.stored = {
        "every-0": standing(start, 10, start + 10 * SECOND_NS),
        "every-1": standing(start, 4, start + 4 * SECOND_NS),
        "every-2": standing(start, 10, start + 11 * SECOND_NS),
    }
    made.ticks = {name: [(start + n * SECOND_NS, now) for n in range(1, 11)] for name in ("every-0", "every-2")}
    made.ticks["every-1"] = made.ticks["every-0"][:1]
    made.deliveries = [(due, name) for name, ticks in made.ticks.items() for due, _ in ticks]
    made.deliveries = [one for one in made.deliveries if one != (start + 4 * SECOND_NS, "every-0")] + [(start + SECOND_NS, "every-0")] * 5
    wrong = made.finish()
    assert [one.partition(" ")[0] + one.partition(":")[2] for one in wrong if "behind" not in one] == [
        "every-3: acknowledged, and not in the store",
        "every-1: 4 ticks committed, 1 seen",
        "every-2: tick 10 stands at the wrong instant",
        f"every-0: the tick of {start + 10 * SECOND_NS} is committed, and no delivery can be its own",
    ]
    assert [one.split(":")[0] for one in wrong if "s behind, at tick 4" in one] == ["every-1"]


@pytest.mark.parametrize(
    ("moments", "missing"),
    [
        ([11, 21, 31], []),
        ([11, 12, 21, 22, 31], []),  # some came twice
        ([10, 20, 30], []),
        ([11, 12, 13, 31], [20]),  # the first one's come again do not stand in for the second's
        ([11, 26, 31], [20]),  # behind its own commit: of the next one, or nobody's
        ([], [10, 20, 30]),
        ([36], [10, 20, 30]),
    ],
)
def test_each_tick_has_a_delivery_of_its_own(moments: list[int], missing: list[int]) -> None:
    assert without_delivery([(10, 15), (20, 25), (30, 35)], moments) == missing


def test_a_delivery_counts_once() -> None:
    assert without_delivery([(10, 40), (20, 40), (30, 40)], [31, 32]) == [30]


def event(count: int, revision: int, last_ns: int = 0, *, deleted: bool = False) -> Any:
    counter = stored_pb2.Counter(count=count)
    if last_ns:
        counter.last_trigger.FromNanoseconds(last_ns)
    kv = kv_pb2.KeyValue(key=b"dapr/counters/x", value=counter.SerializeToString(), mod_revision=revision)
    return kv_pb2.Event(type=kv_pb2.Event.DELETE if deleted else kv_pb2.Event.PUT, kv=kv)


def test_counters() -> None:
    watch = CounterWatch([])
    for one in [event(1, 2), event(1, 3), event(2, 4), event(0, 5, deleted=True), event(1, 6)]:
        watch._take(one)
    assert (watch.wrong, watch.ticks) == ([], 3)
    watch._take(event(3, 7))
    watch._take(event(2, 8))
    watch._take(event(3, 7))
    watch._take(event(4, 9, time.time_ns() + SECOND_NS))
    assert [one.split(" at revision")[0].split(" ns early")[0].rpartition("'")[2][:24] for one in watch.wrong] == [
        " goes from 1 to 3",
        " goes from 3 to 2",
        "",
        ": tick 4 is committed 99",
    ]
