"""One replica of a scheduler over an etcd that is not its own: its lives, as `machine.Machine` is for a member. What it is made of is real,
but the connections.

Must not know: what befalls it.
"""

import asyncio
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from raftsched.scheduler.bridge.external.kv import ExternalKv, Target
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.scheduler.service import SchedulerService
from raftsched.testing.scheduling import START_MS
from raftsched.testing.sim.etcd import MEMBERS, SimChannel
from raftsched.testing.sim.loop import Owner, SimTimer
from raftsched.zones import zone_table

if TYPE_CHECKING:
    from raftsched.testing.sim.external import ExternalWorld

START_NS: Final = START_MS * 1_000_000


class _Lines:
    def __init__(self, world: "ExternalWorld", who: str) -> None:
        self._world, self._who = world, who

    def info(self, message: str, /, **fields: object) -> None:
        self._world.note(self._who, f"{message} {fields or ''}")

    debug = warning = error = info


class Process:
    """One life of a replica."""

    def __init__(self, replica: "Replica", number: int) -> None:
        self.replica = replica
        self.name = f"{replica.name}.{number}"
        self.owner = Owner(self.name)
        self.serving = False
        self.gone: asyncio.Future[None] = replica.world.loop.create_future()
        self.stopping = False

    async def begin(self) -> None:
        world, name = self.replica.world, self.replica.name
        numbers = random.Random(f"{world.seed}/{self.name}")
        lines = _Lines(world, self.name)
        self.kv = ExternalKv([Target(str(number), False) for number in range(MEMBERS)], log=lines)
        channels: Any = self.kv._caller.endpoints
        channels._open = lambda target: SimChannel(world.etcd, name, int(target.address))
        self.node = SimpleNamespace(propose_many=self.kv.write_many)  # by which `workers.Planner` writes
        self.kv.start()
        self.service = SchedulerService(
            self.kv,
            scheduler_id=name,
            address=f"{name}:50006",
            zone_source=zone_table,
            rng=lambda: numbers.getrandbits(64),
            log=lines,
            engine_log=lines,
            wall_ns=self.replica.wall_ns,
            mono_ns=lambda: world.loop.now_ns,
            timer=SimTimer,
        )
        await self.service.start()
        self.serving = True

    async def end(self) -> None:
        """In order, as `ExternalServer.stop`."""
        self.stopping, self.serving = True, False
        await self.service.stop()
        await self.kv.close()

    @property
    def alive(self) -> bool:
        return not self.owner.dead

    @property
    def fires(self) -> bool:
        return self.alive and hasattr(self, "service") and self.service._inside_fence()

    def records(self, name: bytes) -> tuple[bytes | None, bytes | None]:
        """Job and counter as this replica knows them."""
        known = self.service.engine.describe(name) or {"main": 0, "counter_main": 0}
        etcd = self.replica.world.etcd
        return etcd.record(JOBS + name, known["main"]), etcd.record(COUNTERS + name, known["counter_main"])


class Replica:
    """A name; where `workers.App` connects to."""

    def __init__(self, world: "ExternalWorld", name: str) -> None:
        self.world, self.name = world, name
        self.process: Process | None = None
        self.lives = 0
        self.skew_ns = 0
        self._highest_ns = 0

    def wall_ns(self) -> int:
        return START_NS + self.world.loop.now_ns + self.skew_ns

    def set_skew(self, skew_ns: int) -> None:
        self._highest_ns = max(self._highest_ns, self.wall_ns())
        self.skew_ns = skew_ns

    @property
    def highest_ns(self) -> int:
        """What its clock has shown at most: what was due once may come when it has been set back."""
        return max(self._highest_ns, self.wall_ns())

    def start(self) -> None:
        if self.process is None:
            self.lives += 1
            self.process = Process(self, self.lives)
            self.world.note(self.name, "starts")
            self.process.owner.run(self.world.loop.create_task, self.process.begin())

    def kill(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            self.world.note(self.name, "is killed")
            process.serving = False
            process.owner.kill()
            self.world.etcd.hang_up(self.name)
            if not process.gone.done():
                process.gone.set_result(None)

    async def stop(self) -> None:
        process = self.process
        if process is None or not process.serving:
            return
        self.world.note(self.name, "stops")
        task = process.owner.run(self.world.loop.create_task, process.end())
        await asyncio.wait([task, process.gone], return_when=asyncio.FIRST_COMPLETED)
        if self.process is process:
            if task.done():
                task.result()
            self.kill()
