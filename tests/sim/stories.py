"""How a story of the simulator is told: what a test does to a `World`, step by step, in place of chance."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from raftsched import proposals
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import JOBS, TARGET_JOB, Owner, name_prefix
from raftsched.testing.scheduling import metadata
from raftsched.testing.sim.clients import propose
from raftsched.testing.sim.machine import EPOCH_NS
from raftsched.testing.sim.options import Options, Report
from raftsched.testing.sim.world import World

Story = Callable[[World], Coroutine[Any, Any, None]]
MS = 1_000_000
NS = 1_000_000_000
OWNER = Owner("ns", "app", TARGET_JOB)


def play(story: Story, options: Options, seed: str = "story") -> Report:
    class Told(World):
        def happen(self) -> Coroutine[Any, Any, None]:
            return story(self)

    return Told(seed, options, keep_trace=True).run()


async def until(what: Callable[[], bool], seconds: float) -> None:
    """Of virtual time."""
    async with asyncio.timeout(seconds):
        while not what():
            await asyncio.sleep(0.05)


def serving(world: World, *numbers: int) -> bool:
    return all(world.machines[number].serving for number in numbers)


def said(report: Report, text: str) -> list[str]:
    return [line for line in report.trace if text in line]


# -- writes, and how long none is acknowledged


class Writer:
    """Puts a fresh key every few milliseconds, each at another member, and waits for none: what it lacks is what no client gets."""

    EVERY_S = 0.01

    def __init__(self, world: World) -> None:
        self._world = world
        self.acknowledged_ns: list[int] = []
        self.keys: dict[str, str] = {}
        """Acknowledged ones."""
        self._count = 0

    async def run(self) -> None:
        while not self._world.quiet:
            await asyncio.sleep(self.EVERY_S)
            self._count += 1
            process = self._world.some_process(self._world.chance)
            if process is not None:
                self._world.spawn(self._put(process, f"steady{self._count % 50}", str(self._count)))

    async def _put(self, process: Any, key: str, value: str) -> None:
        request = pb.PutRequest(key=key.encode(), value=value.encode())
        answer = await propose(process, proposals.PUT, request.SerializeToString())
        if answer is not None and not answer[0]:
            self.acknowledged_ns.append(self._world.loop.now_ns)
            self.keys[f"{key}/{answer[1]}"] = value

    def longest_gap_ms(self, since_ns: int, until_ns: int) -> float:
        """The longest time without an acknowledged write; a gap counts whole if it touches the span."""
        times = sorted(self.acknowledged_ns)
        gaps = [(later - one) / MS for one, later in pairwise(times) if later >= since_ns and one <= until_ns]
        assert gaps
        return max(gaps)


# -- jobs, and how late each of their ticks came


class Tick(NamedTuple):
    """One tick of a job, as somebody first delivered it."""

    name: str
    due_ns: int  # } since the story began
    at_ns: int  # }
    who: str  # machine

    @property
    def late_ms(self) -> float:
        return (self.at_ns - self.due_ns) / MS

    def behind_ms(self, before: "Tick") -> float:
        """How late it is by itself: while the tick before it has not come it cannot."""
        return (self.at_ns - max(self.due_ns, before.at_ns)) / MS


async def plant(world: World, count: int, every_ms: int) -> None:
    """`count` jobs that fire in turn, spread over `every_ms`, and evenly over partitions."""
    for number in range(count):
        process = await _serving(world)
        begin_ns = process.service.now_ns() + every_ms * MS + every_ms * MS * number // count
        job = _jobs.encode_stored_job(
            number, True, *divmod(begin_ns, NS), None, f"@every {every_ms}ms".encode(),
            None, None, None, metadata(OWNER), b"\x0a\x01x", _jobs.DEFAULT_POLICY,
        )  # fmt: skip
        name = f"{name_prefix(OWNER)}steady-{number}".encode()
        answer = await propose(process, proposals.PUT, pb.PutRequest(key=JOBS + name, value=job).SerializeToString())
        assert answer is not None
        assert not answer[0]


async def _serving(world: World) -> Any:
    while (process := world.some_process(world.chance)) is None:
        await asyncio.sleep(0.05)
    return process


def ticks(world: World) -> Iterator[Tick]:
    """All ticks of the jobs that `plant` made, by their instants, each once for each machine that delivered it. Clocks are right."""
    found = sorted((key[2], key[0], deliveries) for key, deliveries in world.ticks.delivered_at.items() if b"steady-" in key[0])
    for due_ns, name, deliveries in found:
        for who, at_ns in {one.who.split(".")[0]: one.at_ns for one in reversed(deliveries)}.items():
            yield Tick(name.decode(), due_ns - EPOCH_NS, at_ns, who)
