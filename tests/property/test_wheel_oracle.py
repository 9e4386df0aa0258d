"""The wheel against a dict and a heap, under random operations: the multiset of (key, due) of every advance.

More seeds: WHEEL_SEEDS=50 in the environment.
"""

import os
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raftsched._core import FREE_WHEN_DONE, HORIZON_MS, MISSED_ALL, MISSED_COALESCE, MISSED_SKIP, TimerWheel

sys.path.insert(0, str(Path(__file__).parent.parent))
from wheel_model import ModelJob, WheelModel, drain, drain_keys

PERIODS = [0, 0, 0, 1, 7, 50, 1000, 60_000, 86_400_000]
KEY_SIZES = [0, 1, 3, 7, 8, 15, 16, 17, 29, 30, 31, 33, 64, 200]
OFFSET_BITS = [3, 6, 7, 10, 13, 16, 20, 26, 33, 40, 46]
SEEDS = range(int(os.environ.get("WHEEL_SEEDS", "2")))
RULES = [MISSED_COALESCE, MISSED_SKIP, MISSED_COALESCE | FREE_WHEN_DONE, FREE_WHEN_DONE | MISSED_SKIP]


class Twins:
    """A wheel and its model, driven by the same keyed and keyless operations."""

    def __init__(self, seed: int, now: int, names: int, capacity: int) -> None:
        self.rng = random.Random(seed)
        self.capacity = capacity
        self.wheel = TimerWheel(now, max_jobs=1 << 14, hash_seed=seed, huge_pages=False, debug=True)
        self.model = WheelModel(now)
        self.keys = [self.rng.randbytes(self.rng.choice(KEY_SIZES)) + b"%d" % i for i in range(names)]
        self.handles: dict[int, int] = {}  # keyless jobs: tag -> handle
        self.next_tag = 0

    def random_due(self) -> int:
        rng = self.rng
        due = self.model.now + rng.randrange(-5, 1 << rng.choice(OFFSET_BITS))
        if rng.random() < 0.1:
            due = ((due >> 12) + 1) << 12
        return min(max(due, 0), HORIZON_MS - 10)

    def keyed(self) -> None:
        key, due, choice = self.rng.choice(self.keys), self.random_due(), self.rng.random()
        known = self.model.jobs.get(key)
        if choice < 0.5:
            period, flags = self.rng.choice(PERIODS), self.rng.choice(RULES)
            self.wheel.schedule(key, due, period, flags=flags)
            self.model.jobs[key] = ModelJob(due, period, flags)
        elif choice < 0.75:
            assert self.wheel.cancel(key) == (known is not None)
            self.model.jobs.pop(key, None)
        else:
            assert self.wheel.reschedule(key, due) == (known is not None)
            if known is not None:
                known.due = due

    def keyless(self) -> None:
        rng, due = self.rng, self.random_due()
        choice = rng.random()
        if choice < 0.4 or not self.handles:
            self.next_tag += 1
            period, flags = rng.choice(PERIODS), rng.choice(RULES)
            self.handles[self.next_tag] = self.wheel.arm(self.next_tag, due, period, flags=flags)
            self.model.jobs[self.next_tag] = ModelJob(due, period, flags)
            return
        tag = rng.choice(list(self.handles))
        handle, known = self.handles[tag], self.model.jobs.get(tag)
        if choice < 0.6:
            assert self.wheel.disarm(handle) == (known is not None)
            self.model.jobs.pop(tag, None)
            del self.handles[tag]
        elif choice < 0.7:
            assert self.wheel.pause(handle) == (known is not None)
            if known is not None:
                known.due = -1
        else:
            assert self.wheel.rearm(handle, due) == (known is not None)
            if known is not None:
                known.due = due

    def random_target(self) -> int:
        rng = self.rng
        step = 1 if rng.random() < 0.5 else rng.randrange(1 << rng.choice([2, 5, 8, 13, 18, 24]))
        if rng.random() < 0.003:
            step = rng.randrange(1 << 36)
        return min(self.model.now + step, HORIZON_MS)

    def advance(self, target: int) -> int:
        was = self.model.now
        got = drain(self.wheel, target, self.capacity)
        visits = [max(due, was) for _, _, due in got]  # what was overdue is visited first, at the old now
        assert visits == sorted(visits)
        # Tags name the keyless jobs (0 = keyed); keys are compared by drain_keys in test_agrees_by_key.
        wanted = self.model.advance(target)
        assert Counter((tag, due) for _, tag, due in got if tag) == Counter((name, due) for name, due in wanted if isinstance(name, int))
        assert Counter(due for _, tag, due in got if not tag) == Counter(due for name, due in wanted if isinstance(name, bytes))
        return len(got)

    def compare(self) -> None:
        assert len(self.wheel) == self.model.live
        due = self.model.next_due()
        wakeup = self.wheel.next_wakeup()
        if due is not None:
            assert 0 <= wakeup <= due

    def compare_sample(self) -> None:
        self.wheel.check_invariants()
        for key in self.rng.sample(self.keys, min(20, len(self.keys))):
            found, job = self.wheel.get(key), self.model.jobs.get(key)
            assert (found is None) == (job is None)
            if found is not None and job is not None:
                assert found == (job.due, job.period, -1, 0, job.flags)
        for tag, handle in self.handles.items():
            job = self.model.jobs.get(tag)
            assert self.wheel.due_of(handle) == (-2 if job is None else job.due)


@pytest.mark.parametrize("capacity", [65_536, 300])
@pytest.mark.parametrize("seed", SEEDS)
def test_agrees_with_dict_and_heap(seed: int, capacity: int) -> None:
    twins = Twins(seed, random.Random(seed).randrange(1 << 41), names=300, capacity=capacity)
    fires = 0
    for step in range(2500):
        for _ in range(twins.rng.randrange(12)):
            twins.keyed() if twins.rng.random() < 0.6 else twins.keyless()
        fires += twins.advance(twins.random_target())
        twins.compare()
        if step % 50 == 0:
            twins.compare_sample()
    assert fires > 5_000


@pytest.mark.parametrize("capacity", [65_536, 128])
def test_agrees_by_key(capacity: int) -> None:
    """Keys of fired one-shots too, which are freed by then: an oracle of times alone once hid a use after free."""
    twins = Twins(77, 1 << 40, names=200, capacity=capacity)
    for _ in range(1500):
        for _ in range(twins.rng.randrange(8)):
            twins.keyed()
        target = twins.random_target()
        assert Counter(drain_keys(twins.wheel, target, capacity)) == Counter(twins.model.advance(target))
        twins.compare()


@pytest.mark.parametrize("capacity", [4096, 128])
def test_every_missed_tick_fires(capacity: int) -> None:
    """The default rule, MISSED_ALL, in small jumps so that the model stays quick."""
    rng = random.Random(5)
    wheel, model = TimerWheel(1 << 40, max_jobs=4096, huge_pages=False), WheelModel(1 << 40)
    handles: dict[object, int] = {}
    for step in range(400):
        if step % 3 == 0:
            due, period = model.now + rng.randrange(-300, 2000), rng.choice([1, 2, 7, 50, 1000])
            handles[step + 1] = wheel.arm(step + 1, due, period, flags=MISSED_ALL)
            model.jobs[step + 1] = ModelJob(due, period)
        if step % 7 == 6:
            name = rng.choice(list(model.jobs))
            del model.jobs[name]
            assert wheel.disarm(handles[name])
        target = model.now + rng.choice([1, 1, 3, 40, 500])
        got = drain(wheel, target, capacity)
        assert Counter((tag, due) for _, tag, due in got) == Counter(model.advance(target))
    wheel.check_invariants()


def test_a_due_that_comes_back_fires_once() -> None:
    """Its former entry is valid again, beside the new one."""
    now = 1_000_000
    wheel = TimerWheel(now, max_jobs=64, huge_pages=False, debug=True)
    wheel.schedule(b"a", now, 1000)
    for _ in range(3):
        assert drain_keys(wheel, now, 128) == [(b"a", now)]
        wheel.reschedule(b"a", now)
        wheel.check_invariants()
    assert drain_keys(wheel, now, 128) == [(b"a", now)]
    assert drain_keys(wheel, now + 1000, 128) == [(b"a", now + 1000)]
    wheel.check_invariants()
    assert wheel.stats()["entries"] == 1


def test_a_job_that_goes_to_and_fro_stays_within_bounds() -> None:
    """Each round leaves an entry of the far due behind; without the compaction of doubles they were there until then."""
    now, rounds = 1_000_000, 300_000
    far = now + 3 * rounds
    wheel = TimerWheel(now, max_jobs=64, huge_pages=False)
    wheel.schedule(b"a", far)
    for _ in range(rounds):
        wheel.reschedule(b"a", now + 1)
        wheel.reschedule(b"a", far)
        now += 2
        assert drain_keys(wheel, now, 128) == []
    assert wheel.stats()["entries"] < 70_000
    wheel.check_invariants()
    assert drain_keys(wheel, far, 128) == [(b"a", far)]


class WheelMachine(RuleBasedStateMachine):
    """The same rules with shrinking."""

    def __init__(self) -> None:
        super().__init__()
        self.wheel = TimerWheel(1_000_000, max_jobs=64, huge_pages=False, debug=True)
        self.model = WheelModel(1_000_000)

    @rule(
        name=st.integers(0, 7),
        offset=st.one_of(st.integers(-10, 600), st.sampled_from([256, 511, 512, 65_535, 65_536, 1 << 24, 1 << 33, 1 << 41])),
        period=st.sampled_from(PERIODS),
        flags=st.sampled_from(RULES),
        long=st.booleans(),
    )
    def schedule(self, name: int, offset: int, period: int, flags: int, long: bool) -> None:
        key = b"%d" % name + (b"x" * 40 if long else b"")
        self.wheel.schedule(key, self.model.now + offset, period, flags=flags)
        self.model.jobs[key] = ModelJob(self.model.now + offset, period, flags)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), offset=st.integers(-10, 100_000))
    def reschedule(self, data: st.DataObject, offset: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.model.jobs)))
        assert self.wheel.reschedule(key, self.model.now + offset)
        self.model.jobs[key].due = self.model.now + offset

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model.jobs)))
        assert self.wheel.cancel(key)
        del self.model.jobs[key]

    @rule(step=st.one_of(st.integers(0, 3), st.sampled_from([255, 256, 257, 512, 70_000, 1 << 25, 1 << 34])))
    def advance(self, step: int) -> None:
        target = self.model.now + step
        assert Counter(drain_keys(self.wheel, target, 128)) == Counter(self.model.advance(target))

    @invariant()
    def agrees(self) -> None:
        self.wheel.check_invariants()
        assert len(self.wheel) == self.model.live
        assert all(self.wheel.get(key) == (job.due, job.period, -1, 0, job.flags) for key, job in self.model.jobs.items())


TestWheelMachine = WheelMachine.TestCase
TestWheelMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
