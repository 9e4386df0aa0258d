"""Random jobs, clocks, failures and acks: the triggers of the real scheduler are those of a slow model of the contract's time rules.

RAFTSCHED_TRIGGER_SECONDS says how long fresh stories are played (6), RAFTSCHED_TRIGGER_SEED=<seed> plays that one again.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from trigger_jobs import Drawn
from trigger_model import NS, Retry, Spec
from trigger_stories import Story, play

from raftsched.pb.dapr import scheduler_pb2, stored_pb2
from raftsched.pb.etcd import rpc_pb2
from raftsched.rpc.scheduler import schedule_job
from raftsched.scheduler import leadership, service
from raftsched.scheduler.engine.clock import TickClock
from raftsched.scheduler.jobs.names import COUNTERS
from raftsched.scheduler.service import SchedulerService
from raftsched.testing.memory_etcd import MemoryKv
from raftsched.testing.scheduling import APP, policy
from raftsched.zones import zone_table

FRESH_SECONDS = float(os.environ.get("RAFTSCHED_TRIGGER_SECONDS", "6"))
AGAIN = os.environ.get("RAFTSCHED_TRIGGER_SEED")
HOUR = 3_600
Patch = pytest.MonkeyPatch


def hours(patch: Patch) -> None:
    """What the service looks at each second and more often, it looks at each hour: days go by in moments."""
    patch.setattr(service, "WALL_LOOK_NS", HOUR * NS)
    patch.setattr(service, "FROZEN_POLL_NS", HOUR * service.FROZEN_POLL_NS)
    patch.setattr(leadership, "SILENCE_POLL_MS", HOUR * 1_000)


def played(seed: str, patch: Patch) -> Story:
    """A seed that begins with `days-` is a story of days."""
    if not seed.startswith("days-"):
        return play(seed)
    with patch.context() as own:
        hours(own)
        return play(seed, scale=HOUR)


def check(seed: str, patch: Patch) -> Story:
    story = played(seed, patch)
    again = f"RAFTSCHED_TRIGGER_SEED={seed} .venv/bin/python -m pytest tests/property/test_trigger_sequences.py -k again"
    assert not story.failures, f"seed {seed}:\n" + "\n".join(story.failures[:5]) + f"\n  again: {again}"
    return story


def test_the_triggers_are_those_of_the_model(monkeypatch: Patch) -> None:
    """Seeds of old, among them those that have found something, and fresh ones."""
    begin_s, first, count, triggers = time.process_time(), secrets.randbits(40), 0, 0
    for seed in ("2", "39", *(f"days-{number}" for number in range(5))):
        triggers += len(check(seed, monkeypatch).triggers)
    while time.process_time() - begin_s < FRESH_SECONDS:
        count += 1
        triggers += len(check(f"days-{first + count}" if count % 5 == 0 else str(first + count), monkeypatch).triggers)
    print(f"{count} fresh stories from {first + 1}, {triggers} triggers, {time.process_time() - begin_s:.1f} s")


@pytest.mark.skipif(AGAIN is None, reason="RAFTSCHED_TRIGGER_SEED names the seed")
def test_again(monkeypatch: Patch) -> None:
    check(AGAIN or "", monkeypatch)


def test_stories_tell_of_everything(monkeypatch: Patch) -> None:
    """A model that is asked nothing finds nothing: attempts, catch-up of what was missed, every kind of event."""
    stories = [check(seed, monkeypatch) for seed in ("t-0", "t-1", "t-2", "t-3", "t-4", "days-t")]
    happened = sum((story.happened for story in stories), start=type(stories[0].happened)())
    wanted = {"create", "tool", "edit", "delete", "delete key", "open", "close", "swap", "kill", "stop", "jump"}
    assert wanted | {"done", "failed", "twice", "never", "unknown"} <= happened.keys()
    triggers = [trigger for story in stories for trigger in story.triggers]
    assert {attempts for _, _, attempts, _ in triggers} >= {0, 1, 2}
    assert len(triggers) > 150
    assert sum(story.etcd.revision for story in stories) > 200


def test_a_seed_tells_the_same_story_again() -> None:
    first, second = play("same"), play("same")
    assert first.triggers == second.triggers != play("other").triggers


def test_a_clock_that_is_set_forth_is_seen_within_a_second() -> None:
    """A sleep goes by a clock that nobody sets, and that stands still while a machine is suspended: it must not be long."""
    story = Story("forth")

    async def run() -> None:
        await story.start()
        story.open(APP)
        spec = Spec(due=lambda base: base + 1_800 * NS)
        story.write(APP, "j", Drawn(scheduler_pb2.Job(due_time="1800s"), spec))
        await asyncio.sleep(5)
        assert not story.triggers
        story.skews.append((story.loop.now_ns, 1_800 * NS))
        await asyncio.sleep(1.1)

    story.loop.run_until_complete(run())
    story.discard()
    assert [name for name, *_ in story.triggers] == ["app||ns||app||j"]
    assert not story.failures


# -- deviations that are put in on purpose


def fires_early(patch: Patch) -> None:
    """The clock that the wheel is given is ahead of the wall."""
    read = TickClock.read
    patch.setattr(TickClock, "read", lambda self, wall_ns, mono_ns: read(self, wall_ns, mono_ns) + 3_000_000)


def _tampered(patch: Patch, change: Callable[[Any], None]) -> None:
    """The nested transactions of results, as they go to the store."""
    packed = MemoryKv.txn_packed

    def txn_packed(self: MemoryKv, request: bytes, count: int, done: Callable[[int, int, bytes], None]) -> None:
        message = rpc_pb2.TxnRequest.FromString(request)
        for operation in message.success:
            change(operation.request_txn)
        packed(self, message.SerializeToString(), count, done)

    patch.setattr(MemoryKv, "txn_packed", txn_packed)


def _counters(change: Callable[[stored_pb2.Counter], None]) -> Callable[[Any], None]:
    def changed(txn: Any) -> None:
        for operation in txn.success:
            if operation.HasField("request_put"):
                counter = stored_pb2.Counter.FromString(operation.request_put.value)
                change(counter)
                operation.request_put.value = counter.SerializeToString()

    return changed


def attempts_are_not_stored(patch: Patch) -> None:
    """Each retry is the first."""
    _tampered(patch, _counters(lambda counter: counter.ClearField("attempts")))


def ticks_drift(patch: Patch) -> None:
    """What is stored as the last tick is a little later than it was planned."""

    def later(counter: stored_pb2.Counter) -> None:
        if counter.HasField("last_trigger"):
            counter.last_trigger.nanos = min(counter.last_trigger.nanos + 7, 999_999_999)

    _tampered(patch, _counters(later))


def late_results_count(patch: Patch) -> None:
    """The result of a job that was replaced meanwhile is stored all the same."""

    def unguarded(txn: Any) -> None:
        del txn.compare[:]

    make = Story.__init__

    def slow(self: Story, *args: Any, **fields: Any) -> None:
        make(self, *args, **fields)
        self.lag_s = 0.4

    patch.setattr(Story, "__init__", slow)
    _tampered(patch, unguarded)


def results_are_lost(patch: Patch) -> None:
    """Every tenth answer of a worker is thrown away."""
    acks, count = SchedulerService.on_acks, [0]

    def some(self: SchedulerService, stream: Any, messages: Sequence[bytes]) -> None:
        count[0] += 1
        if count[0] % 10:
            acks(self, stream, messages)

    patch.setattr(SchedulerService, "on_acks", some)


def zones_are_one(patch: Patch) -> None:
    """Every zone is Berlin."""
    patch.setattr("trigger_stories.zone_table", lambda name: zone_table("Europe/Berlin"))


def a_ttl_ends_before_its_instant(patch: Patch) -> None:
    """A tick at the very end does not fire any more."""
    validate = schedule_job.validate_job

    def earlier(*args: Any, **fields: Any) -> Any:
        found = validate(*args, **fields)
        return replace(found, expiration_ns=None if found.expiration_ns is None else found.expiration_ns - 1)

    patch.setattr(schedule_job, "validate_job", earlier)


def a_due_time_is_no_tick(patch: Patch) -> None:
    """A recurring job first fires one interval behind its due time."""
    validate = schedule_job.validate_job

    def moved(*args: Any, **fields: Any) -> Any:
        found = validate(*args, **fields)
        return found if found.schedule is None or found.due_ns is None else replace(found, start_ns=found.due_ns, due_ns=None)

    patch.setattr(schedule_job, "validate_job", moved)


def the_default_policy_is_another(patch: Patch) -> None:
    """One retry too few."""
    assert Retry() == Retry(NS, 3)
    patch.setattr(schedule_job, "DEFAULT_POLICY", policy(interval_ms=1_000, max_retries=2))


def a_restart_forgets_counters(patch: Patch) -> None:
    """What is loaded are jobs alone."""
    scan = MemoryKv.scan

    async def jobs_alone(self: MemoryKv, prefix: bytes, on_page: Callable[[Sequence[Any]], None]) -> int:
        return self.etcd.revision if prefix == COUNTERS else await scan(self, prefix, on_page)

    patch.setattr(MemoryKv, "scan", jobs_alone)


PLANTED: list[tuple[Callable[[Patch], None], str]] = [
    (fires_early, ""),
    (attempts_are_not_stored, ""),
    (ticks_drift, ""),
    (late_results_count, ""),
    (results_are_lost, ""),
    (zones_are_one, "days-"),
    (a_ttl_ends_before_its_instant, ""),
    (a_due_time_is_no_tick, ""),
    (the_default_policy_is_another, ""),
    (a_restart_forgets_counters, ""),
]
STORIES_MAX = 25


@pytest.mark.parametrize(("plant", "kind"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED])
def test_a_planted_deviation_is_seen(plant: Callable[[Patch], None], kind: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    for number in range(STORIES_MAX):
        story = played(f"{kind}{number}", monkeypatch)
        if story.failures:
            print(f"story {number}: {story.failures[0][:300]}")
            return
    pytest.fail(f"not seen in {STORIES_MAX} stories: {plant.__doc__}")
