"""Those who have jobs: they create, replace and remove them; and apps, which connect to every member, take triggers and answer.

Must not know: what is right; `ticks` says that.
"""

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raftsched import proposals
from raftsched.pb.dapr import scheduler_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.scheduler.delivery._delivery import StreamState
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import JOBS, TARGET_ACTOR, TARGET_JOB, Owner, actor_route, app_route, name_prefix
from raftsched.scheduler.jobs.requests import delete_job_request
from raftsched.testing.scheduling import metadata, policy, result
from raftsched.testing.sim.clients import propose

if TYPE_CHECKING:
    from raftsched.testing.sim.machine import Process
    from raftsched.testing.sim.world import World

NS = 1_000_000_000
MS = 1_000_000
PAYLOAD = b"\x0a\x01x"  # google.protobuf.Any{type_url: "x"}
OWNERS = (
    Owner("ns", "app", TARGET_JOB),
    Owner("ns", "other", TARGET_JOB),
    Owner("ns", "app", TARGET_ACTOR, "cat", "1"),
    Owner("ns", "app", TARGET_ACTOR, "cat", "2"),
)
POLICIES: tuple[Callable[[], bytes], ...] = (
    lambda: _jobs.DEFAULT_POLICY,
    lambda: policy(drop=True),
    lambda: policy(interval_ms=300, max_retries=2),
    lambda: policy(interval_ms=0, max_retries=1),
)


class Planner:
    """Creates, replaces and removes jobs."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self._name = f"planner{number}"
        self._chance = random.Random(f"{world.seed}/{self._name}")
        self._keys = random.Random(f"{world.seed}/{self._name}/keys")
        self._count = 0
        self._mine: list[tuple[bytes, Owner]] = []

    async def run(self) -> None:
        while not self._world.quiet:
            await asyncio.sleep(self._chance.expovariate(1 / self._world.options.plan_s))
            process = self._world.some_process(self._chance)
            if process is None or self._world.quiet:
                continue
            drawn = self._chance.random()
            if self._mine and drawn < 0.15:
                await self._remove(process)
            elif self._mine and drawn < 0.25:
                name, owner = self._chance.choice(self._mine)
                self._world.ticks.removing.add(name)
                await self._put(process, name, owner)
            elif self._count < self._world.options.jobs_max:
                await self._create(process)

    async def _create(self, process: "Process") -> None:
        owner = self._chance.choice(OWNERS)
        self._count += 1
        name = (name_prefix(owner) + f"{self._name}-{self._count}").encode()
        self._mine = [*self._mine[-9:], (name, owner)]
        await self._put(process, name, owner)

    async def _put(self, process: "Process", name: bytes, owner: Owner) -> None:
        request = pb.PutRequest(key=JOBS + name, value=self._job(owner, process.service.now_ns()))
        answer = await propose(process, proposals.PUT, request.SerializeToString())
        self._world.note(self._name, f"job {name.decode()} {answer and answer[:2]}")

    async def _remove(self, process: "Process") -> None:
        name, _ = self._mine.pop(self._chance.randrange(len(self._mine)))
        self._world.ticks.removing.add(name)
        if self._keys.random() < 0.3:  # as a tool does that knows nothing of counters
            await propose(process, proposals.DELETE_RANGE, pb.DeleteRangeRequest(key=JOBS + name).SerializeToString())
            return
        answer = await propose(process, proposals.TXN, delete_job_request(name))
        self._world.note(self._name, f"no job {name.decode()} {answer and answer[:2]}")

    def _job(self, owner: Owner, now_ns: int) -> bytes:
        """Any kind of job, as ScheduleJob stores it."""
        chance = self._chance
        schedule = chance.choice(
            [None, "@every 250ms", "@every 1000ms", f"@every {chance.randrange(200, 3000)}ms", "*/1 * * * * *", "*/5 * * * * *"]
        )
        due_ns = now_ns + chance.randrange(-2_000, 5_000) * MS if schedule is None or chance.random() < 0.4 else None
        expires_ns = (due_ns or now_ns) + chance.randrange(0, 8_000) * MS if schedule and chance.random() < 0.3 else None
        begin_ns = now_ns if due_ns is None else due_ns
        return _jobs.encode_stored_job(
            chance.getrandbits(63),
            due_ns is not None,
            *divmod(begin_ns, NS),
            None if expires_ns is None else divmod(expires_ns, NS),
            None if schedule is None else schedule.encode(),
            None,
            None,
            chance.randrange(1, 6) if schedule and chance.random() < 0.4 else None,
            metadata(owner, self._keys.choice([None, "red", "blue"]) if self._world.options.gates else None),
            PAYLOAD,
            chance.choice(POLICIES)(),
        )


class App:
    """A sidecar: one stream to each member that serves."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self.name = f"app{number}"
        self._chance = random.Random(f"{world.seed}/{self.name}")
        self.owners = self._chance.sample(OWNERS, self._chance.randrange(1, len(OWNERS) + 1)) if number else list(OWNERS)
        self.limits = world.options.gates if any(owner.target == TARGET_ACTOR for owner in self.owners) else ()

    async def run(self, machine: Any) -> None:
        """One connection after another to one machine."""
        if self._world.options.late_apps_s:
            late_s = random.Random(f"{self._world.seed}/{self.name}/{machine.name}").random() * self._world.options.late_apps_s
            await asyncio.wait([self._world.quieted], timeout=late_s)
        while True:
            process = machine.process
            if process is None or not process.serving:
                await asyncio.sleep(0.1 + self._chance.random() * 0.4)
                continue
            stream = _Stream(self._world, self, process)
            process.owner.run(stream.open)
            ends = [process.gone, stream.cut]
            if not self._world.quiet:
                ends.append(self._world.quieted)  # answers that were kept back are never given: it connects anew
            stays = self._world.quiet or not self._world.options.restless
            patience_s = None if stays else self._chance.expovariate(1 / 8.0)
            await asyncio.wait(ends, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            stream.closed = True
            if process.alive:
                process.owner.run(stream.close)
            await asyncio.sleep(0.02)


class _Stream:
    """One WatchJobs stream, seen from the client; a `StreamOwner`."""

    def __init__(self, world: "World", app: App, process: "Process") -> None:
        self._world = world
        self._app = app
        self._process = process
        self._chance = random.Random(f"{world.seed}/{app.name}/{process.name}/{world.loop.now_ns}")
        self._odd = random.Random(f"{world.seed}/{app.name}/{process.name}/{world.loop.now_ns}/odd")
        self._state: StreamState | None = None
        self._full = False
        self.closed = False
        self.cut: asyncio.Future[None] = world.loop.create_future()

    def open(self) -> None:
        prefixes: list[tuple[bytes, int, tuple[str, str] | None]] = []
        for owner in self._app.owners:
            if owner.target == TARGET_JOB:
                prefixes.append((app_route(owner.namespace, owner.app_id).encode(), TARGET_JOB, None))
            else:
                target = (owner.namespace, owner.actor_type)
                prefixes.append((actor_route(*target).encode(), TARGET_ACTOR, target))
        self._state = self._process.service.open_stream(self._push, self, list(dict.fromkeys(prefixes)), "ns", self._app.limits)

    def close(self) -> None:
        if self._state is not None:
            self._world.slots.closed(self._process.name, self)
            self._process.service.close_stream(self._state)
            self._state = None

    def cut_off(self, reason: str) -> None:
        self._world.note(self._app.name, f"cut off by {self._process.name}: {reason}")
        if not self.cut.done():
            self.cut.set_result(None)

    def _push(self, message: bytes) -> bool:
        trigger = scheduler_pb2.WatchJobsResponse.FromString(message)
        name = self._composed(trigger)
        self._world.delivered(self._process, name, *self._process.records(name))
        self._world.took(self._process, self, trigger)
        restless = self._world.options.restless and not self._world.quiet
        if not restless or self._chance.random() < 0.97:
            self._later(trigger.id)
        if restless and self._chance.random() < 0.03:
            self._full = True
            self._world.loop.call_later(self._chance.random() * 0.5, self._drain)
        return not self._full

    @staticmethod
    def _composed(trigger: scheduler_pb2.WatchJobsResponse) -> bytes:
        owner = trigger.metadata
        if owner.target.WhichOneof("type") == "job":
            prefix = app_route(owner.namespace, owner.app_id)
        else:
            prefix = f"{actor_route(owner.namespace, owner.target.actor.type)}{owner.target.actor.id}||"
        return (prefix + trigger.name).encode()

    def _later(self, number: int) -> None:
        chance, options = self._chance, self._world.options
        status = (
            0 if self._world.quiet or chance.random() >= options.failing else chance.choice([1, 1, 1, 1, 2])
        )  # 2: there is no such status
        delay_s = chance.expovariate(1 / (0.002 if self._world.quiet else options.work_s))
        self._world.loop.call_later(delay_s, self._answer, number, status)
        if options.twice and not self._world.quiet and self._odd.random() < options.twice:
            self._world.loop.call_later(delay_s * self._odd.uniform(1, 3), self._answer, number, self._odd.randrange(2))
            self._world.loop.call_later(delay_s, self._answer, number + 1_000_000, 0)

    def _answer(self, number: int, status: int) -> None:
        if not self.closed and self._state is not None:
            self._world.slots.answered(self._process.name, self, number)
            self._process.service.on_acks(self._state, [result(number, status)])

    def _drain(self) -> None:
        self._full = False
        if not self.closed and self._state is not None:
            self._process.service.stream_writable(self._state)
