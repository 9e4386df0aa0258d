"""Missed ticks: what a worker gets of jobs with a policy, against the policy's words over the list of all ticks."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.jobs.names import STATES
from raftsched.testing.scheduling import FAILED, START_MS, BatchedWorker, Bench, policy

SCHEDULES = {"@every 7s": None, "@every 1500ms": None, "*/10 * * * * *": None, "0 */2 * * * *": None, "5,6,50 * * * * *": None}
POLICIES = st.builds(
    lambda window_s, most: (window_s, most),
    st.none() | st.sampled_from([0, 1, 5, 30, 200]),
    st.sampled_from([0, 1, 2, 5]),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["tick", "jump", "away", "back", "kill", "fail", "done"]), st.integers(1, 400)), min_size=1, max_size=25
)


def all_ticks(schedule: str, from_ms: int, until_ms: int) -> list[int]:
    """In ms; what the schedule says, one by one."""
    if schedule.startswith("@every"):
        period = int(schedule.removeprefix("@every ").removesuffix("ms")) if schedule.endswith("ms") else 7_000
        return list(range(from_ms + period, until_ms + 1, period))
    seconds, minutes, *_ = schedule.split()
    found = []
    at = datetime.fromtimestamp(from_ms // 1000, UTC) + timedelta(seconds=1)
    while at.timestamp() * 1000 <= until_ms:
        if fits(seconds, at.second) and fits(minutes, at.minute):
            found.append(int(at.timestamp()) * 1000)
        at += timedelta(seconds=1)
    return found


def fits(field: str, value: int) -> bool:
    if field == "*":
        return True
    return value % int(field[2:]) == 0 if field.startswith("*/") else str(value) in field.split(",")


def expected(ticks: list[int], now_ms: int, window_s: int | None, most: int) -> list[int]:
    """Of the missed ticks those that are wanted: first the window's, of these the latest."""
    due = [tick for tick in ticks if tick <= now_ms]
    if window_s is not None:
        due = [tick for tick in due if now_ms - tick <= window_s * 1000]
    return due[-most:] if most else due


class Story:
    """A job, a worker that comes and goes, and what the words say of it."""

    def __init__(self, schedule: str, window_s: int | None, most: int) -> None:
        self.bench = Bench()
        self.schedule, self.window_s, self.most = schedule, window_s, most
        self.last_ms, self.attempts = START_MS, 0
        name = self.bench.put("a", schedule=schedule, failure_policy=policy(interval_ms=0, max_retries=2))
        misfire = state_pb2.Misfire(max=most)
        if window_s is not None:
            misfire.window.FromSeconds(window_s)
        self.bench.etcd.put(STATES + name, state_pb2.JobExtra(misfire=misfire).SerializeToString())
        self.worker: BatchedWorker | None = self.bench.connect_batched()

    def wanted(self) -> list[int]:
        ticks = all_ticks(self.schedule, self.last_ms, self.bench.now_ms)
        return ticks[:1] if self.attempts else expected(ticks, self.bench.now_ms, self.window_s, self.most)

    def step(self, what: str, amount: int) -> None:
        if what == "tick":
            self.bench.tick(amount * 10)
        elif what == "jump":
            self.bench.tick(amount * 1_000)
        elif what == "away" and self.worker is not None:
            self.bench.disconnect(self.worker)
            self.worker = None
        elif what == "back" and self.worker is None:
            self.worker = self.bench.connect_batched()
        elif what == "kill":
            self.bench.restart()
            self.worker = self.bench.connect_batched()
            self.bench.tick()
        elif what in ("fail", "done"):
            self.answer(failed=what == "fail")

    def answer(self, *, failed: bool) -> None:
        if self.worker is None or not self.worker.got:
            return
        [trigger] = self.worker.got
        self.worker.got.clear()
        retried = failed and self.attempts < 2
        self.attempts = self.attempts + 1 if retried else 0
        if not retried:
            self.last_ms = trigger.scheduled_at.ToMilliseconds()
        self.bench.ack(self.worker, trigger.id, status=FAILED if failed else 0)
        self.bench.tick()

    def check(self, out: Any) -> Any:
        """`out`: what was out before the step. A trigger that has just come is the first of those that are wanted now."""
        now = self.worker.got[0] if self.worker is not None and self.worker.got else None
        wanted = self.wanted()
        if now is not None and now is not out:
            assert now.scheduled_at.ToMilliseconds() == wanted[0]
            assert now.attempt == self.attempts
        elif now is None and self.worker is not None:
            assert wanted == [], "a wanted tick does not come"
        return now


@given(st.sampled_from(sorted(SCHEDULES)), POLICIES, STEPS)
def test_a_worker_gets_the_ticks_that_the_policy_wants(schedule: str, asked: tuple[int | None, int], steps: list[tuple[str, int]]) -> None:
    story = Story(schedule, *asked)
    out = None
    for what, amount in steps:
        story.step(what, amount)
        out = story.check(out)
