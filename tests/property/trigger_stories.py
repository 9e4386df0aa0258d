"""Stories of random jobs, clocks, failures and acks: the real scheduler service on a virtual clock beside `trigger_model`.

Jobs come by the real handler of ScheduleJob, or from a tool that writes keys; workers take and answer; the process is killed, stopped
and started over what is stored; the wall clock is set. Each delivery and each write of the scheduler's must be the one that the
model says, and none may be missing.
"""

import asyncio
import random
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from google.protobuf import any_pb2
from trigger_jobs import Drawn, beginning_ns, drawn_job
from trigger_model import NS, Counter, Life, life_of

from raftsched.limits import CANARY_MS
from raftsched.pb.dapr import scheduler_pb2
from raftsched.rpc.metrics import MethodStats
from raftsched.rpc.scheduler.access import Access
from raftsched.rpc.scheduler.schedule_job import ScheduleJob
from raftsched.rpc.scheduler.stats import SchedulerStats
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, TARGET_JOB, Owner, actor_route, app_route, name_prefix
from raftsched.scheduler.jobs.requests import delete_job_request
from raftsched.scheduler.service import SchedulerService
from raftsched.testing.memory_etcd import MemoryEtcd, MemoryKv
from raftsched.testing.scheduling import APP, actor, metadata, result
from raftsched.testing.sim.loop import Owner as Process
from raftsched.testing.sim.loop import SimLoop, SimTimer
from raftsched.types import Change
from raftsched.zones import zone_table

OWNERS = (APP, actor())
LATE_NS = 5_000_000
JUMP_SEEN_NS = 1_100_000_000  # a clock that was set is looked at again within a second
EVENTS = ("create",) * 8 + ("tool", "edit", "delete", "delete key", "open", "open", "close", "swap", "swap", "kill", "stop", "jump", "jump")


class Silent:
    def info(self, message: str, /, **fields: object) -> None: ...

    debug = warning = error = info


class Kv(MemoryKv):
    """Results take `lag_s` to the store; a dead process's never get there."""

    def __init__(self, etcd: MemoryEtcd, lag_s: float) -> None:
        super().__init__(etcd)
        self._lag_s = lag_s

    def txn_packed(self, request: bytes, count: int, done: Callable[[int, int, bytes], None]) -> None:
        asyncio.get_running_loop().call_later(self._lag_s, super().txn_packed, request, count, done)


class Door:
    """Of one call: what it was answered."""

    def __init__(self) -> None:
        self.answer: str | None = None

    def peer_certificate(self, handle: int) -> None: ...

    def alive(self, handle: int) -> bool:
        return True

    def write_now(self) -> None: ...

    def reply(self, handle: int, body: bytes) -> None:
        self.answer = ""

    def fail(self, handle: int, code: int, text: str) -> None:
        self.answer = text


class Stream:
    """A worker."""

    def __init__(self, story: "Story", owner: Owner) -> None:
        self._story, self.owner = story, owner
        self.state: Any = None
        self.open = True

    def push(self, message: bytes) -> bool:
        self._story.delivered(self, scheduler_pb2.WatchJobsResponse.FromString(message))
        return True

    def cut_off(self, reason: str) -> None:
        raise AssertionError(reason)


class Story:
    """See the module's text."""

    def __init__(self, seed: str, *, scale: int = 1, events: int = 60) -> None:
        self.chance = random.Random(seed)
        self.loop = SimLoop(seed)
        self.loop.on_complaint = self._complained
        self.scale, self._events = scale, events
        self.base_ns = beginning_ns(self.chance, scale)
        self.skews = [(0, 0)]  # (from when, how much is added)
        self.etcd = MemoryEtcd()
        self.etcd.sinks.append(self)
        self.lag_s = self.chance.choice([0.0, 0.001, 0.05]) * scale
        self.failing = self.chance.choice([1, 3, 20])
        self.lives: dict[bytes, Life] = {}
        self._coming: Life | None = None
        self._by_hand = False
        self.streams: dict[Owner, Stream] = {}
        self.consumer_since: dict[Owner, int] = {}
        self.up_since: int | None = None
        self._thawed_ns = 0
        self.calm = False
        self.failures: list[str] = []
        self.triggers: list[tuple[str, int, int, bytes]] = []
        """(composed name, due instant, attempt, payload), in the order in which they came."""
        self.happened: Counts[str] = Counts()

    # -- time
    def wall_ns(self, at_ns: int | None = None) -> int:
        at_ns = self.loop.now_ns if at_ns is None else at_ns
        skew = next(skew for since, skew in reversed(self.skews) if since <= at_ns)
        return self.base_ns + at_ns + skew

    def frozen(self, at_ns: int) -> bool:
        """A clock that was set back has not come so far again."""
        before = [self.wall_ns(since - 1) for since, _ in self.skews if 0 < since <= at_ns]
        return self.wall_ns(at_ns) < max(before, default=0)

    def highest_ns(self, since_ns: int) -> int:
        """What the wall showed at most since then: what was due once may come when the clock has been set back."""
        turns = [since for since, _ in self.skews if since > since_ns]
        return max(self.wall_ns(at) for at in (since_ns, *(turn - 1 for turn in turns), *turns, self.loop.now_ns))

    def expect(self, holds: object, what: str) -> None:
        """A broken promise: it must not run into the scheduler that it is about."""
        if not holds:
            self.failures.append(f"{self.loop.now_ns / 1e9:.6f} {what}")

    def _complained(self, line: str) -> None:
        self.failures.append(line)

    # -- the process
    async def start(self) -> None:
        self.process = Process("scheduler")
        numbers = random.Random(self.chance.getrandbits(64))
        self.process.run(self._make, lambda: numbers.getrandbits(64))
        await self.process.run(self.loop.create_task, self.service.start())
        await self.service.ready.wait()
        self.up_since = self.loop.now_ns

    def _make(self, rng: Callable[[], int]) -> None:
        self.service = SchedulerService(
            Kv(self.etcd, self.lag_s),
            scheduler_id="s",
            address="s:50006",
            zone_source=zone_table,
            rng=rng,
            log=Silent(),
            engine_log=Silent(),
            wall_ns=self.wall_ns,
            mono_ns=lambda: self.loop.now_ns,
            timer=SimTimer,
            canary_ms=CANARY_MS * self.scale,
        )
        stats = SchedulerStats(self.service.stats)
        self.door = Door()
        calls = MethodStats("/dapr.proto.scheduler.v1.Scheduler/ScheduleJob", "unary")
        self._schedule = ScheduleJob(self.service, Access(stats), stats, self.door, calls)  # type: ignore[arg-type]

    async def end(self, *, kill: bool) -> None:
        """Killed in the middle of anything, or stopped in order."""
        self.up_since = None
        if not kill:
            await self.process.run(self.loop.create_task, self.service.stop())
        self.process.kill()
        self.service._let_go()
        for owner in list(self.streams):
            self.streams.pop(owner).open = False
        for life in self.lives.values():
            life.restarted(self.loop.now_ns)

    # -- what is stored
    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        for change in changes:
            if change.key.startswith(JOBS):
                self._job_changed(change, change.key.removeprefix(JOBS))
        for change in changes:
            if change.key.startswith(COUNTERS) and not self._by_hand:
                self._counted(change, change.key.removeprefix(COUNTERS))

    def on_reset(self) -> None: ...

    def _job_changed(self, change: Change, name: bytes) -> None:
        if not change.deleted:
            self.expect(self._coming, f"{name!r} was put by nobody")
            if self._coming is not None:
                self._coming.since_ns = self.loop.now_ns
                self.lives[name] = self._coming
            return
        life = self.lives.pop(name)
        if not self._by_hand:
            self.expect(life.ends or (life.next is None and life.tick() is None), f"{name!r} was removed, and has ticks left: {life}")

    def _counted(self, change: Change, name: bytes) -> None:
        life = self.lives.get(name)
        if change.deleted:
            self.expect(life is None, f"the counter of {name!r} was removed, which is there: {life}")
            return
        _, count, last, attempts = _jobs.decode_counter(_jobs.parse_kv(change.record)[1])
        found = Counter(count, None if last is None else last[0] * NS + last[1], attempts)
        self.expect(life is not None and life.next == found and not life.ends, f"{name!r} was counted as {found}: {life}")
        if life is not None and life.next is not None:
            life.committed(self.loop.now_ns)

    # -- jobs
    def create(self) -> None:
        """By the service's own door."""
        owner, drawn = self.chance.choice(OWNERS), drawn_job(self.chance, self.wall_ns(), self.scale)
        name, overwrite = f"j{self.chance.randrange(8)}", self.chance.random() < 0.7
        request = scheduler_pb2.ScheduleJobRequest(name=name, job=drawn.job, overwrite=overwrite)
        request.metadata.ParseFromString(metadata(owner))
        receipt_ns = self.service.now_ns()
        behind_ns = self.wall_ns() - receipt_ns  # a little step of the clock is followed little by little
        self.expect(0 <= behind_ns < 50_000_000 or self.frozen(self.loop.now_ns), f"a receipt {behind_ns} ns ago")
        self._coming = life_of(drawn.spec, receipt_ns)
        there = (name_prefix(owner) + name).encode() in self.lives
        self.process.run(self._schedule, [1], [request.SerializeToString()])
        refused = "ttl must be greater" if self._coming is None else "job already exists" if there and not overwrite else ""
        self.expect(
            self.door.answer is not None and (refused in self.door.answer) and bool(refused) == bool(self.door.answer), str(request)
        )
        self._coming = None

    def tool(self, *, edit: bool = False) -> None:
        """A key that somebody else writes; `edit`: the job stays the same one, so its counter counts on."""
        owner, name = self.chance.choice(OWNERS), f"j{self.chance.randrange(8)}"
        there = (name_prefix(owner) + name).encode() in self.lives
        if there or not edit:
            self.write(owner, name, drawn_job(self.chance, self.wall_ns(), self.scale), edit=edit)

    def write(self, owner: Owner, name: str, drawn: Drawn, *, edit: bool = False) -> None:
        composed = (name_prefix(owner) + name).encode()
        spec = drawn.spec if drawn.job.HasField("failure_policy") else replace(drawn.spec, retry=None)  # of whom ScheduleJob did not write
        life = life_of(spec, self.wall_ns())
        if life is None:
            return
        partition = self.chance.getrandbits(60) | 1
        if edit:
            partition = _jobs.decode_stored_job(self.etcd.keys[JOBS + composed].value)[0]
            life.counter = self.lives[composed].counter
        self._coming = life
        self.etcd.put(JOBS + composed, self._stored(partition, drawn, life, owner))
        self._coming = None

    def _stored(self, partition: int, drawn: Drawn, life: Life, owner: Owner) -> bytes:
        job = drawn.job
        return _jobs.encode_stored_job(
            partition,
            drawn.spec.due is not None,
            *divmod(life.begin_ns, NS),
            None if life.expires_ns is None else divmod(life.expires_ns, NS),
            job.schedule.encode() if job.HasField("schedule") else None,
            None,
            None,
            job.repeats if job.HasField("repeats") else None,
            metadata(owner),
            drawn.spec.payload,
            job.failure_policy.SerializeToString() if job.HasField("failure_policy") else None,
        )

    def delete(self, *, key_alone: bool = False) -> None:
        """`key_alone`: a tool that knows nothing of counters."""
        if not self.lives:
            return
        name = self.chance.choice(sorted(self.lives))
        self._by_hand = True
        if key_alone:
            self.etcd.delete(JOBS + name)
        else:
            self.etcd.apply(6, delete_job_request(name))
        self._by_hand = False

    # -- workers
    def open(self, owner: Owner) -> None:
        stream = self.streams[owner] = Stream(self, owner)
        self.consumer_since[owner] = self.loop.now_ns
        job = owner.target == TARGET_JOB
        route = app_route(owner.namespace, owner.app_id) if job else actor_route(owner.namespace, owner.actor_type)
        prefix = (route.encode(), owner.target, None if job else (owner.namespace, owner.actor_type))
        stream.state = self.process.run(self.service.open_stream, stream.push, stream, [prefix], owner.namespace, ())

    def close(self, stream: Stream) -> None:
        stream.open = False
        for name, life in self.lives.items():
            if name.startswith(name_prefix(stream.owner).encode()) and life.place == "out":
                life.back(self.loop.now_ns)
        self.process.run(self.service.close_stream, stream.state)

    def delivered(self, stream: Stream, trigger: Any) -> None:
        name = name_prefix(stream.owner) + trigger.name
        life = self.lives.get(name.encode())
        if life is None or life.place != "waiting" or (tick := life.tick()) is None:
            self.expect(False, f"{name} was delivered: {life}")
            return
        known = self.service.engine.describe(name.encode()) or {}
        self.expect(known["tick"] == divmod(tick, NS), f"{name} was delivered as {known}, its tick is {tick}")
        self.expect(known["attempts"] == life.counter.attempts, f"{name} was delivered as {known}, attempts: {life.counter.attempts}")
        early_ns = (life.due_ns or 0) - self.highest_ns(life.since_ns)
        self.expect(early_ns <= 0 or life.was_due, f"{name} came {early_ns} ns early: {life}")
        self.expect(trigger.data == any_pb2.Any.FromString(life.spec.payload), f"{name} came with {trigger.data}")
        self.triggers.append((name, tick, life.counter.attempts, life.spec.payload))
        life.place, life.was_due = "out", True
        self._plan_answer(stream, life, trigger.id)

    def _plan_answer(self, stream: Stream, life: Life, number: int) -> None:
        how = "done" if self.calm else self.chance.choice(["done"] * 7 + ["failed"] * self.failing + ["twice", "never", "unknown"])
        delay_s = self.chance.expovariate(1 / self.chance.choice([0.003, 0.1, 1.5])) * self.scale if not self.calm else 0.001
        self.happened[how] += 1
        if how == "unknown":
            self.loop.call_later(delay_s, self._answer, stream, number + 1_000, 0)
        if how != "never":
            self.loop.call_later(delay_s, self._take_answer, stream, life, number, how == "failed")
        if how == "twice":
            self.loop.call_later(delay_s * 1.5, self._answer, stream, number, self.chance.randrange(2))

    def _take_answer(self, stream: Stream, life: Life, number: int, failed: bool) -> None:
        if stream.open and life.place == "out" and any(one is life for one in self.lives.values()):
            life.result(failed=failed)
            life.since_ns = self.loop.now_ns
        self._answer(stream, number, int(failed))

    def _answer(self, stream: Stream, number: int, status: int) -> None:
        if stream.open:
            self.process.run(self.service.on_acks, stream.state, [result(number, status)])

    # -- the run
    async def _happen(self, event: str) -> None:
        self.happened[event] += 1
        owner = self.chance.choice(OWNERS)
        if event in ("kill", "stop"):
            await self._restart(kill=event == "kill")
        elif event == "jump":
            by_ns = int(self.chance.choice([-2, -0.3, -0.0004, 0.01, 3, 40]) * self.chance.random() * self.scale * NS)
            self.skews.append((self.loop.now_ns, self.skews[-1][1] + by_ns))
        elif event == "open" and owner not in self.streams:
            self.open(owner)
        elif event in ("close", "swap") and owner in self.streams:
            before = self.streams.pop(owner)
            if event == "swap":
                self.open(owner)
            self.close(before)
        else:
            calls = {"create": self.create, "tool": self.tool, "edit": lambda: self.tool(edit=True)}
            calls |= {"delete": self.delete, "delete key": lambda: self.delete(key_alone=True)}
            calls.get(event, lambda: None)()

    async def _restart(self, *, kill: bool) -> None:
        await self.end(kill=kill)
        for _ in range(self.chance.randrange(3)):
            await asyncio.sleep(self.chance.random() * 3 * self.scale)
            self.chance.choice([self.tool, lambda: self.tool(edit=True), self.delete, lambda: self.delete(key_alone=True)])()
        await self.start()

    def look(self) -> None:
        """Nothing that is due is missing, nothing that is over is there."""
        now_ns = self.loop.now_ns
        jumped = any(now_ns - since < 2 * JUMP_SEEN_NS * self.scale for since, _ in self.skews[1:])
        late_ns = LATE_NS + (2 * JUMP_SEEN_NS * self.scale if jumped else 0)
        then_ns = now_ns - late_ns
        if self.frozen(now_ns):
            self._thawed_ns = now_ns + 100_000_000 * self.scale  # at the latest, as far as this is looked at
        if self.up_since is None or max(self.up_since, self._thawed_ns) > then_ns - int(self.lag_s * NS):
            return
        for name, life in self.lives.items():
            owner = next(one for one in OWNERS if name.startswith(name_prefix(one).encode()))
            self._look_at(name, life, then_ns, owner in self.streams and self.consumer_since[owner] <= then_ns)
        alone = [key for key in self.etcd.keys if key.startswith(COUNTERS) and key.removeprefix(COUNTERS) not in self.lives]
        self.orphans = {key: self.orphans.get(key, now_ns) for key in alone}
        for key, since_ns in self.orphans.items():
            self.expect(since_ns > then_ns - int(self.lag_s * NS), f"a counter without a job: {key!r}")

    def _look_at(self, name: bytes, life: Life, then_ns: int, taken: bool) -> None:
        if life.place == "committing":
            self.expect(life.since_ns > then_ns - int(self.lag_s * NS), f"{name!r} was answered, and nothing is stored: {life}")
        if life.place != "waiting" or life.since_ns > then_ns:
            return
        due_ns = life.due_ns
        if due_ns is None:
            self.expect(life.since_ns > then_ns - int(self.lag_s * NS), f"{name!r} is over, and still there: {life}")
        elif taken and due_ns <= self.wall_ns(then_ns):
            self.expect(False, f"{name!r} is late by {self.wall_ns() - due_ns} ns: {life}")

    async def _looks(self) -> None:
        self.orphans: dict[bytes, int] = {}
        while True:
            await asyncio.sleep(0.05 * self.scale)
            self.look()

    async def run(self) -> None:
        await self.start()
        looking = self.loop.create_task(self._looks())
        for _ in range(self._events):
            await asyncio.sleep(self.chance.expovariate(2) * self.scale)
            if self.failures:
                break
            await self._happen(self.chance.choice(EVENTS))
        await self._come_to_rest()
        looking.cancel()
        self._compare()

    def discard(self) -> None:
        self.process.kill()
        self.loop.discard()

    async def _come_to_rest(self) -> None:
        """All workers are there and answer at once, until nothing is behind."""
        self.calm = True
        for owner in OWNERS:
            if owner in self.streams:
                self.close(self.streams.pop(owner))
            self.open(owner)
        for _ in range(100):
            await asyncio.sleep(0.5 * self.scale)
            behind = [life for life in self.lives.values() if life.due_ns is None or life.due_ns < self.wall_ns() - NS * self.scale]
            if not behind or self.failures:
                return
        self.expect(False, f"no rest: {behind[0]}, {len(behind)} of {len(self.lives)}")

    def _compare(self) -> None:
        """What is stored in the end."""
        jobs = {key.removeprefix(JOBS) for key in self.etcd.keys if key.startswith(JOBS)}
        self.expect(jobs == self.lives.keys(), f"stored are {sorted(jobs)}, not {sorted(self.lives)}")
        for name, life in self.lives.items():
            job, stored = self.etcd.keys.get(JOBS + name), self.etcd.keys.get(COUNTERS + name)
            found = Counter()
            if job is not None and stored is not None:
                partition, count, last, attempts = _jobs.decode_counter(stored.value)
                if partition == _jobs.decode_stored_job(job.value)[0]:
                    found = Counter(count, None if last is None else last[0] * NS + last[1], attempts)
            self.expect(found == life.counter, f"{name!r} ends with {found}: {life}")


def play(seed: str, *, scale: int = 1, events: int = 60) -> Story:
    """One story; `failures` tells how it ended."""
    story = Story(seed, scale=scale, events=events)
    try:
        story.loop.run_until_complete(story.run())
    finally:
        story.discard()
    return story
