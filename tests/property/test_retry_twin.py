"""The native engine against a slow twin, with retry ladders and dead letters among everything else that happens.

What test_engine_twin.py does; the ladder is the text of docs/jobs-api.md, in Python's own numbers. Every letter comes in the transaction
that stores the result of a run that was given up, and every such result of a job that wants letters brings one.
"""

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from test_engine_twin import NAMES, NS, QUICK, Counter, EngineMachine, Run, Twin

from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.dead_letters import split_dead_key
from raftsched.scheduler.jobs.names import COUNTERS, DEAD, JOBS, STATES
from raftsched.testing.scheduling import FAILED, START_MS, Bench
from raftsched.types import Change

MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Ladder:
    initial_ms: int
    factor_percent: int
    cap_ms: int
    jitter_percent: int
    max_attempts: int

    def wait_ms(self, partition: int, attempts: int) -> int:
        wait = self.initial_ms
        for _ in range(attempts - 1):
            wait = min(self.cap_ms, -(-wait * self.factor_percent // 100))
        return wait - wait * self.jitter_percent // 100 * (mixed(partition + attempts * 0x9E3779B97F4A7C15) >> 48) // 65536

    def extra(self, *, dead: bool) -> bytes:
        retry = state_pb2.Retry(factor_percent=self.factor_percent, jitter_percent=self.jitter_percent, max_attempts=self.max_attempts)
        retry.initial.FromMilliseconds(self.initial_ms)
        retry.cap.FromMilliseconds(self.cap_ms)
        return state_pb2.JobExtra(retry=retry, dead_letters=dead).SerializeToString()


def mixed(value: int) -> int:
    """SplitMix64's finish."""
    value &= MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


LADDERS = [Ladder(300, 200, 1_000, 0, 3), Ladder(700, 150, 5_000, 40, 0), Ladder(1, 100, 1, 0, 2)]
WHATEVER = st.builds(
    Ladder,
    initial_ms=st.integers(1, 10_000),
    factor_percent=st.integers(100, 10_000),
    cap_ms=st.integers(10_000, 366 * 86_400_000),
    jitter_percent=st.integers(0, 99),
    max_attempts=st.just(0),
)


class RetryTwin(Twin):
    def __init__(self) -> None:
        super().__init__()
        self.ladders: dict[bytes, Ladder] = {}
        self.letters: set[bytes] = set()
        """Names of jobs that want them."""
        self.kept: dict[bytes, tuple[int, int]] = {}
        """(tick, attempts) of results on their way that bring a letter."""
        self.seen: set[bytes] = set()
        """Keys of letters: a job that is stored again as it was, number and tick, brings one under the same key."""
        self.clock = lambda: START_MS
        self.expected_counts: dict[bytes, tuple[int, int | None]] = {}

    def on_changes(self, changes: list[Change]) -> None:
        came = {split_dead_key(one.key)[0]: one for one in changes if one.key.startswith(DEAD)}
        for change in changes:
            name = change.key.removeprefix(STATES)
            if change.key.startswith(STATES):
                self._configure(name, change)
            elif change.key.startswith((JOBS, COUNTERS)):
                self._check_letter(change, came)
                if change.deleted and change.key.startswith(JOBS):
                    self._forget(change.key.removeprefix(JOBS))
                super().on_changes([change])
        assert not came, "a letter without its result"

    def _check_letter(self, change: Change, came: dict[bytes, Change]) -> None:
        """The first change of a name in a transaction is its result, or somebody else's: then there is no letter."""
        name = change.key.removeprefix(JOBS).removeprefix(COUNTERS)
        letter, kept = came.pop(name, None), self.kept.pop(name, None)
        if letter is None:
            run = self.runs.get(name)
            own = run is not None and run.place == "committing" and change.key.startswith(COUNTERS) and not change.deleted
            assert not (kept and own and self._counted(change) == self.expected_counts.get(name)), "a result without its letter"
            return
        stored = state_pb2.StoredDeadLetter.FromString(_value(letter))
        tick = stored.scheduled_at.ToNanoseconds()
        assert kept == (tick, stored.attempts)
        self.seen.add(letter.key)

    def _counted(self, change: Change) -> tuple[int, int | None]:
        _, count, last, _ = _jobs.decode_counter(_value(change))
        return count, None if last is None else last[0] * 10**9 + last[1]

    def _configure(self, name: bytes, change: Change) -> None:
        self.ladders.pop(name, None)
        self.letters.discard(name)
        if name in self.jobs and not change.deleted:
            extra = state_pb2.JobExtra.FromString(_value(change))
            retry = extra.retry
            self.ladders[name] = Ladder(
                retry.initial.ToMilliseconds(), retry.factor_percent, retry.cap.ToMilliseconds(), retry.jitter_percent, retry.max_attempts
            )
            if extra.dead_letters:
                self.letters.add(name)
        if name in self.jobs and (name not in self.runs or self.runs[name].place == "armed"):
            self.settle(name)

    def _forget(self, name: bytes) -> None:
        self.ladders.pop(name, None)
        self.letters.discard(name)

    def settle(self, name: bytes) -> None:
        run = self.runs.get(name)
        if run is not None and run.place in ("committing", "armed") and self._goes_on(name, run):
            run.place = "armed"
            self.finishing.discard(name)
            return
        if run is not None:
            self.runs.pop(name)
        super().settle(name)

    def _goes_on(self, name: bytes, run: Run) -> bool:
        """The same tick is tried again, when the run says."""
        job = self.jobs.get(name)
        counter = self.counted(name) if job is not None else None
        failed = job is not None and counter is not None and counter.attempts > 0 and getattr(run, "again", False)
        return failed and job is not None and run.tick == self.next_tick(job, counter)

    def due(self, name: bytes) -> int | None:
        due, ladder = super().due(name), self.ladders.get(name)
        counter = self.counted(name)
        if name in self.runs or due is None or ladder is None or counter is None or not counter.attempts:
            return due
        partition = self.jobs[name].partition
        waits = sum(ladder.wait_ms(partition, attempt) for attempt in range(1, counter.attempts + 1))
        return -(-due // NS) * NS + waits * NS

    def result(self, name: bytes, status: int) -> None:
        job, run, ladder = self.jobs[name], self.runs[name], self.ladders.get(name)
        counter = self.counted(name) or Counter(0, job.partition, 0, None, 0)
        if ladder is None:
            before = run.planned
            super().result(name, status)
            again = bool(status and job.retry is not None and (job.retry[1] is None or job.retry[1] > counter.attempts))
            run.planned = before + job.retry[0] if again and job.retry is not None else before
        else:
            again = bool(status) and not (ladder.max_attempts and counter.attempts + 1 >= ladder.max_attempts)
            run.place = "committing"
            if again:
                run.planned = (self.clock() + ladder.wait_ms(job.partition, counter.attempts + 1)) * NS
                self.expected = replace(counter, attempts=counter.attempts + 1)
        run.again = again  # type: ignore[attr-defined]
        self.kept.pop(name, None)
        if status and not again and name in self.letters:
            self.kept[name] = (run.tick, counter.attempts + 1)
            self.expected_counts[name] = (counter.count + 1, run.tick)


def _value(change: Change) -> bytes:
    return _jobs.parse_kv(change.record)[1]


class RetryMachine(EngineMachine):
    def __init__(self) -> None:
        super().__init__()
        self.retry = self.twin = RetryTwin()
        self.retry.clock = lambda: self.bench.now_ms

    @initialize(ladder=st.sampled_from(LADDERS), interval=st.sampled_from([None, 300, 1000]))
    def begin(self, ladder: Ladder, interval: int | None) -> None:
        """Else most stories would fail nothing."""
        self.connect()
        for short in "ab":
            self.put(name=short, interval=interval, due=0, ttl=None, repeats=None, failure=QUICK, same=False)
            self.configure(f"app||ns||app||{short}".encode(), ladder, dead=True)

    @rule(ms=st.sampled_from([0, 299, 300, 700, 1000]), status=st.sampled_from([0, 1, 1, 1]), stored=st.booleans(), heard=st.booleans())
    def go(self, ms: int, status: int, stored: bool, heard: bool) -> None:
        """What is due is sent, what is out is answered."""
        self.tick(ms)
        for place, name in sorted(self.out.items(), key=lambda one: one[1]):
            worker = next(worker for worker in self.workers if id(worker) == place[0])
            del self.out[place]
            assert self.bench.answer(worker, place[1], status=status) is None
            self.twin.result(name, status)
        if stored:
            self.store()
        if heard:
            self.outcomes()

    @rule(name=st.sampled_from(NAMES), ladder=st.sampled_from(LADDERS), dead=st.booleans())
    def configure(self, name: bytes, ladder: Ladder, dead: bool) -> None:
        if name in self.twin.jobs:
            self.bench.etcd.put(STATES + name, ladder.extra(dead=dead))

    @rule(name=st.sampled_from(NAMES))
    def take_away(self, name: bytes) -> None:
        self.bench.etcd.delete(STATES + name)

    def teardown(self) -> None:
        assert self.retry.seen == self.letters_left()

    def letters_left(self) -> set[bytes]:
        return {key for key in self.bench.etcd.keys if key.startswith(DEAD)}


TestRetry = RetryMachine.TestCase
TestRetry.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


@settings(max_examples=100, deadline=None)
@given(ladder=WHATEVER, partition=st.integers(1, MASK), fails=st.integers(1, 6))
def test_the_waits_are_those_of_the_model(ladder: Ladder, partition: int, fails: int) -> None:
    """By the owner that saw each failure, and by one that comes anew."""
    bench = Bench()
    worker = bench.connect()
    name = bench.put("a", due_ms=START_MS, partition=partition)
    bench.etcd.put(STATES + name, ladder.extra(dead=False))
    bench.tick()
    begin = START_MS
    for attempt in range(1, fails + 1):
        [(_, id_)] = worker.take()
        bench.ack(worker, id_, status=FAILED)
        found = bench.engine.describe(name)
        assert found is not None
        begin += ladder.wait_ms(partition, attempt)
        assert found["due_ms"] == begin
        if attempt < fails:
            bench.tick(begin - bench.now_ms)
    bench.restart()
    found = bench.engine.describe(name)
    assert found is not None
    assert found["due_ms"] == begin
