"""The native engine against a slow twin: whatever happens, both know the same next ticks, deliver the same and store the same.

The twin is the text of spec §5.3 and §5.4 over dicts. It decides by names; which stream gets a trigger is not compared.
"""

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raftsched.scheduler.engine.states import State
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.testing.scheduling import Bench, Worker, policy
from raftsched.types import Change

NS = 1_000_000
NAMES = [f"app||ns||app||{letter}".encode() for letter in "abcd"]


@dataclass(frozen=True)
class Job:
    main: int
    partition: int
    interval: int | None  # ns; None = one-shot
    begin: int
    due: bool
    expires: int | None
    repeats: int | None
    retry: tuple[int, int | None] | None  # (interval ns, max); None = drop


@dataclass(frozen=True)
class Counter:
    main: int
    partition: int
    count: int
    last: int | None
    attempts: int


@dataclass
class Run:
    tick: int
    planned: int
    main: int
    counter_main: int
    place: str  # armed, flying, staged, committing


def _ns(instant: tuple[int, int]) -> int:
    return instant[0] * 10**9 + instant[1]


class Twin:
    """Records and open runs; told the same as the engine."""

    def __init__(self) -> None:
        self.jobs: dict[bytes, Job] = {}
        self.counters: dict[bytes, Counter] = {}
        self.runs: dict[bytes, Run] = {}
        self.finishing: set[bytes] = set()
        self.consumers = 0

    def on_changes(self, changes: list[Change]) -> None:
        for change in changes:
            name = change.key.removeprefix(JOBS).removeprefix(COUNTERS)
            if change.key.startswith(JOBS):
                self.jobs.pop(name, None)
                self.runs.pop(name, None)
                self.finishing.discard(name)
                if not change.deleted:
                    self.jobs[name] = self._decode(change)
            else:
                self.counters.pop(name, None)
                if not change.deleted:
                    partition, count, last, attempts = _jobs.decode_counter(_jobs.parse_kv(change.record)[1])
                    self.counters[name] = Counter(change.main, partition, count, None if last is None else _ns(last), attempts)
            self.settle(name)

    def _decode(self, change: Change) -> Job:
        stored = _jobs.decode_stored_job(_jobs.parse_kv(change.record)[1])
        partition, due, begin, expires, schedule, _, _, repeats, _, _, failure = stored
        retry: tuple[int, int | None] | None = {_jobs.DEFAULT_POLICY: (10**9, 3), DROP: None, QUICK: (0, 1), SLOW: (700 * NS, 2)}[failure]
        interval = None if schedule is None else int(schedule.removeprefix(b"@every ").removesuffix(b"ms")) * NS
        return Job(change.main, partition, interval, _ns(begin), due, None if expires is None else _ns(expires), repeats, retry)

    def counted(self, name: bytes) -> Counter | None:
        counter = self.counters.get(name)
        return counter if counter is not None and counter.partition == self.jobs[name].partition else None

    def next_tick(self, job: Job, counter: Counter | None) -> int | None:
        """None = finished."""
        count = counter.count if counter else 0
        if job.interval is None:
            tick = job.begin if count == 0 else None
        elif job.repeats is not None and count >= job.repeats:
            tick = None
        elif counter and counter.last is not None:
            tick = counter.last + job.interval
        else:
            tick = job.begin if job.due else job.begin + job.interval
        return None if tick is None or (job.expires is not None and tick > job.expires) else tick

    def settle(self, name: bytes) -> None:
        job, run = self.jobs.get(name), self.runs.get(name)
        if job is None:
            return
        counter = self.counted(name)
        tick = self.next_tick(job, counter)
        keep = (
            run is not None
            and run.place in ("committing", "armed")
            and counter
            and counter.attempts > 0
            and run.tick == tick
            and run.planned != tick
        )
        if keep and run is not None:
            run.place = "armed"
        else:
            self.runs.pop(name, None)
        self.finishing.discard(name)
        if tick is None:
            self.finishing.add(name)

    def due(self, name: bytes) -> int | None:
        """When the job goes off, or None if it is not armed."""
        run = self.runs.get(name)
        if run is not None:
            return run.planned if run.place == "armed" else None
        return self.next_tick(self.jobs[name], self.counted(name))

    def tick(self, now: int) -> list[bytes]:
        """Names that are delivered now."""
        sent = []
        for name, job in self.jobs.items():
            due = self.due(name)
            if due is None or -(-due // NS) * NS > now:
                continue
            tick = self.next_tick(job, self.counted(name))
            assert tick is not None
            run = self.runs.setdefault(name, Run(tick, tick, 0, 0, ""))
            run.main, run.counter_main = job.main, self._counter_main(name)
            run.place = "flying" if self.consumers else "staged"
            if self.consumers:
                sent.append(name)
        return sent

    def _counter_main(self, name: bytes) -> int:
        return self.counters[name].main if name in self.counters else 0

    def result(self, name: bytes, status: int) -> None:
        job, run = self.jobs.get(name), self.runs.get(name)
        assert job is not None
        assert run is not None
        counter = self.counted(name) or Counter(0, job.partition, 0, None, 0)
        run.place = "committing"
        if status and job.retry is not None and (job.retry[1] is None or job.retry[1] > counter.attempts):
            run.planned += job.retry[0]
            self.expected = replace(counter, attempts=counter.attempts + 1)
        else:
            run.planned = run.tick
            self.expected = Counter(0, job.partition, counter.count + 1, run.tick, 0)

    def connected(self) -> list[bytes]:
        self.consumers += 1
        staged = [name for name, run in self.runs.items() if run.place == "staged"]
        for name in staged:
            self.runs[name].place = "flying"
        return staged

    def disconnected(self, names: list[bytes]) -> list[bytes]:
        self.consumers -= 1
        for name in names:
            self.runs[name].place = "flying" if self.consumers else "staged"
        return names if self.consumers else []


DROP, QUICK, SLOW = policy(drop=True), policy(max_retries=1), policy(interval_ms=700, max_retries=2)


class EngineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.twin = Twin()
        self.workers: list[Worker] = []
        self.out: dict[tuple[int, int], bytes] = {}  # (worker, id) -> name, as far as the twin expects a result
        self.seen: dict[int, int] = {}
        bench_changes = self.bench.on_changes

        def both(changes: Any, revision: int) -> None:
            bench_changes(changes, revision)
            before = {name: run for name, run in self.twin.runs.items() if run.place == "flying"}
            self.twin.on_changes(list(changes))
            for place in [place for place, name in self.out.items() if name in before and self.twin.runs.get(name) is not before[name]]:
                del self.out[place]

        self.bench.on_changes = both  # type: ignore[method-assign]

    def expect(self, names: list[bytes]) -> None:
        """Exactly these deliveries since the last look."""
        found = []
        for worker in self.workers:
            for name, id_ in worker.take():
                found.append(b"app||ns||app||" + name.encode())
                self.out[id(worker), id_] = found[-1]
        assert sorted(found) == sorted(names)

    @rule(
        name=st.sampled_from("abcd"),
        interval=st.sampled_from([None, 0, 1, 300, 1000]),
        due=st.sampled_from([None, 0, 1, 500, -2000]),
        ttl=st.sampled_from([None, None, 0, 1500]),
        repeats=st.sampled_from([None, None, 1, 3]),
        failure=st.sampled_from([None, DROP, QUICK, SLOW]),
        same=st.booleans(),
    )
    def put(
        self, *, name: str, interval: int | None, due: int | None, ttl: int | None, repeats: int | None, failure: bytes | None, same: bool
    ) -> None:
        now = self.bench.now_ms
        schedule = None if interval is None else f"@every {interval}ms"
        due_ms = None if due is None and interval is not None else now + (due or 0)
        partition = ord(name) if same else None
        expires = None if ttl is None else now + ttl
        self.bench.put(
            name, schedule=schedule, due_ms=due_ms, expires_ms=expires, repeats=repeats, failure_policy=failure, partition=partition
        )

    @rule(name=st.sampled_from(NAMES), which=st.sampled_from([b"both", JOBS, COUNTERS]))
    def delete(self, name: bytes, which: bytes) -> None:
        if which == b"both":
            self.bench.etcd.delete(JOBS + name)
            self.bench.etcd.delete(COUNTERS + name)
        else:
            self.bench.etcd.delete(which + name)

    @rule(
        name=st.sampled_from(NAMES),
        own=st.booleans(),
        count=st.integers(0, 3),
        last=st.sampled_from([None, 0, -1000]),
        attempts=st.integers(0, 2),
    )
    def put_counter(self, name: bytes, own: bool, count: int, last: int | None, attempts: int) -> None:
        job = self.twin.jobs.get(name)
        partition = job.partition if own and job is not None else 99
        instant = None if last is None else divmod(self.bench.now_ms + last, 1000)
        value = _jobs.encode_counter(partition, count, None if instant is None else (instant[0], instant[1] * NS), attempts)
        self.bench.etcd.put(COUNTERS + name, value)

    @rule(ms=st.sampled_from([0, 1, 299, 300, 700, 1000, 5000]))
    def tick(self, ms: int) -> None:
        self.bench.tick(ms)
        self.expect(self.twin.tick(self.bench.now_ms * NS))

    @precondition(lambda self: len(self.workers) < 3)
    @rule()
    def connect(self) -> None:
        self.workers.append(self.bench.connect())
        self.expect(self.twin.connected())

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        worker = self.workers.pop(data.draw(st.integers(0, len(self.workers) - 1)))
        lost = [name for place, name in self.out.items() if place[0] == id(worker)]
        self.out = {place: name for place, name in self.out.items() if place[0] != id(worker)}
        self.bench.disconnect(worker)
        self.expect(self.twin.disconnected(lost))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), status=st.sampled_from([0, 0, 1]))
    def ack(self, data: st.DataObject, status: int) -> None:
        place = data.draw(st.sampled_from(sorted(self.out, key=lambda place: (self.out[place], place[1]))))
        name = self.out.pop(place)
        worker = next(worker for worker in self.workers if id(worker) == place[0])
        assert self.bench.answer(worker, place[1], status=status) is None
        self.twin.result(name, status)

    @rule()
    def store(self) -> None:
        self.bench.store()

    @rule()
    def outcomes(self) -> None:
        self.bench.store()
        self.bench.outcomes()
        for name in [name for name, run in self.twin.runs.items() if run.place == "committing"]:
            self.twin.settle(name)  # a guard failed, and that change has been seen

    @rule()
    def restart(self) -> None:
        self.bench.restart()
        self.workers, self.out = [], {}
        runs = self.twin.runs
        self.twin.runs, self.twin.consumers, self.twin.finishing = {}, 0, set()
        assert all(name in self.twin.jobs for name in runs)
        for name in self.twin.jobs:
            self.twin.settle(name)

    @invariant()
    def same(self) -> None:
        bench, twin = self.bench, self.twin
        assert bench.engine.jobs == len(twin.jobs)
        for name in NAMES:
            found = bench.engine.describe(name)
            if name not in twin.jobs:
                assert found is None or not found["has_job"]
                continue
            assert found is not None
            tick = twin.next_tick(twin.jobs[name], twin.counted(name))
            assert found["tick"] == (None if tick is None else divmod(tick, 10**9))
            run = twin.runs.get(name)
            if run is None or run.place == "armed":
                if name in twin.finishing:
                    assert found["state"] in (State.FINISHING, State.COMMITTING)
                else:
                    due = twin.due(name)
                    assert due is not None
                    assert (found["state"], found["due_ms"]) == (State.ARMED, -(-due // NS))
            else:
                assert found["state"] == {"flying": State.IN_FLIGHT, "staged": State.STAGED, "committing": State.COMMITTING}[run.place]


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
