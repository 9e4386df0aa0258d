"""One member becomes three, five, three and one again, while clients write and jobs fire: every checker of the simulator watches, and these
figures are kept, in virtual time.
"""

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest
from stories import MS, Tick, Writer, plant, play, said, serving, ticks, until

from raftsched.testing.sim.machine import Machine
from raftsched.testing.sim.options import Options
from raftsched.testing.sim.world import World

ELECTION_MS = 700 + 150  # the longest time-out, and a second try
UNMOVED_MS = 50
MOVED_MS = 1_000
PAUSE_S = 2.0
LOAD = Options(
    members=1, networked=True, faults=(), clients=3, planners=1, apps=2, watches=2, work_s=0.002, failing=0.0,
    restless=False, lost_answers=0.0, node={"request_timeout_ms": 1_500},
)  # fmt: skip
JOBS, EVERY_MS = 40, 400


class Scaling:
    """The story; what it measured."""

    def __init__(self) -> None:
        self.gaps_ms: list[float] = []
        self.ticks: list[Tick] = []
        self.sizes: list[int] = []
        self.written = self.left = self.shrinks_ns = 0

    async def tell(self, world: World) -> None:
        await until(lambda: serving(world, 0), 5.0)
        writer = Writer(world)
        world.spawn(writer.run())
        await plant(world, JOBS, EVERY_MS)
        await asyncio.sleep(2.0)
        for size in (3, 5, 3, 1):
            began_ns = world.loop.now_ns
            if size < len(world.machines) and not self.shrinks_ns:
                self.shrinks_ns = began_ns
            await self._scale(world, size)
            await asyncio.sleep(3.0)
            self.gaps_ms.append(writer.longest_gap_ms(began_ns, world.loop.now_ns))
            self.sizes.append(len(next(one for one in world.machines if one.name == "m0").process.node.members()))  # type: ignore[union-attr]
        self.ticks, self.written = list(ticks(world)), len(writer.acknowledged_ns)

    async def _scale(self, world: World, size: int) -> None:
        """As a StatefulSet does: one after the other, upward, and from the highest ordinal down."""
        names = [f"m{number}" for number in range(size)]
        for name in names[len(world.machines) :]:
            one = world.add_machine(name, names)
            one.start()
            await until(lambda one=one: one.voting and one.process.service.ready.is_set(), 30.0)  # type: ignore[misc, union-attr]
            await asyncio.sleep(1.0)
        for machine in [one for one in world.machines if one.name not in names][::-1]:
            await self._leave(world, machine)
        await until(lambda: all(one.voting for one in world.machines), 30.0)

    async def _leave(self, world: World, machine: Machine) -> None:
        """`raftsched member leave` in a preStop: again as long as it is refused because the cluster has changed just now."""
        async with asyncio.timeout(20.0):
            while machine.up and world.happened["left"] == self.left:
                await machine.depart()
                await asyncio.sleep(0.2)
        self.left += 1
        world.retire(machine)
        await asyncio.sleep(PAUSE_S)  # two at once may move a job away and back: then nobody can say which were moved


@pytest.mark.parametrize("seed", ["scaling-1"])
def test_one_three_five_three_one_under_load(seed: str) -> None:
    scaling = Scaling()
    report = play(scaling.tell, LOAD, seed)
    assert not report.error
    assert scaling.sizes == [3, 5, 3, 1]
    assert scaling.written > 1_000
    print(f"longest gaps between writes {[round(gap) for gap in scaling.gaps_ms]} ms")
    assert max(scaling.gaps_ms) <= ELECTION_MS
    assert report.happened["left"] == 4
    check_ticks(scaling.ticks, scaling.shrinks_ns)


def firsts(found: list[Tick]) -> list[Tick]:
    """Of a tick that came twice, because its owner left before it was counted, the first."""
    earliest: dict[int, Tick] = {}
    for one in sorted(found, key=lambda one: one.at_ns):
        earliest.setdefault(one.due_ns, one)
    return [earliest[due_ns] for due_ns in sorted(earliest)]


def check_ticks(found: list[Tick], shrinks_ns: int) -> None:
    """None left out; of who kept its job none late; of who got it none later than a second."""
    grown, shrunk, unmoved = [0.0], [0.0], [0.0]
    for name in sorted({one.name for one in found}):
        of_job = firsts([one for one in found if one.name == name])
        for before, one in pairwise(of_job):
            assert one.due_ns - before.due_ns == EVERY_MS * MS
            moved = shrunk if one.at_ns > shrinks_ns else grown
            (unmoved if one.who == before.who else moved).append(one.behind_ms(before))
    print(f"{len(unmoved)} ticks of unmoved jobs, at most {max(unmoved):.1f} ms late")
    print(f"{len(grown)} first ticks of jobs that went to a new one, {max(grown):.1f}; {len(shrunk)} from one that left, {max(shrunk):.1f}")
    assert min(len(grown), len(shrunk)) > JOBS // 2  # the story moves jobs
    assert max(unmoved) <= UNMOVED_MS
    assert max(grown) <= MOVED_MS
    assert max(shrunk) <= MOVED_MS


THREE = replace(LOAD, members=3, clients=1, planners=0)


class Refused:
    """A member wants to leave while another is dead: it may not, and goes on. `asks`: it hears so before it gives its jobs away."""

    def __init__(self, *, asks: bool) -> None:
        self.asks = asks
        self.left = True
        self.since_ns = 0
        self.ticks: list[Tick] = []

    async def tell(self, world: World) -> None:
        await until(lambda: serving(world, 0, 1, 2), 10.0)
        await plant(world, JOBS, EVERY_MS)
        await asyncio.sleep(2.0)
        world.machines[2].crash(power_cut=False)
        await asyncio.sleep(3.0)
        if not self.asks:
            ask_nobody(world.machines[1])
        self.left = await world.machines[1].depart()
        await asyncio.sleep(2.0)
        self.since_ns = world.loop.now_ns
        await asyncio.sleep(2.0)
        self.ticks = [one for one in ticks(world) if one.due_ns > self.since_ns]


def ask_nobody(machine: Machine) -> None:
    """As if whoever was asked had said yes, and the answer did not hold until the removal."""

    async def may_leave() -> None:
        return

    assert machine.process is not None
    machine.process.node._clustering.changes.may_leave = may_leave


@pytest.mark.parametrize("asks", [True, False])
def test_who_may_not_leave_keeps_its_jobs_or_takes_them_up_again(asks: bool) -> None:
    refused = Refused(asks=asks)
    report = play(refused.tell, THREE, "refused-1")
    assert not report.error
    assert not refused.left
    assert bool(said(report, "the jobs were handed over to the other members")) is not asks
    assert bool(said(report, "this member takes part again")) is not asks
    assert {one.who for one in refused.ticks} == {"m0", "m1"}
    assert len({one.name for one in refused.ticks if one.who == "m1"}) > JOBS // 4
    assert {one.name for one in refused.ticks} == {one.name for one in refused.ticks if one.late_ms < UNMOVED_MS}
    assert len({one.name for one in refused.ticks}) == JOBS


class Hesitating(Refused):
    """A member begins to leave again and again, and who asked it goes away, at once or later."""

    async def tell(self, world: World) -> None:
        await until(lambda: serving(world, 0, 1, 2), 10.0)
        await plant(world, JOBS, EVERY_MS)
        await asyncio.sleep(2.0)
        process = world.machines[1].process
        assert process is not None
        ask_nobody(world.machines[1])
        for turns in (0, 1, 2, 3, 4, 6, 9):
            task = process.owner.run(lambda: world.loop.create_task(process.node.leave()))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await asyncio.sleep(2.0)
            self.since_ns = world.loop.now_ns
            await asyncio.sleep(2.0)
            found = [one for one in ticks(world) if one.due_ns > self.since_ns]
            assert {one.who for one in found} == {"m0", "m1", "m2"}, turns
            assert len({one.name for one in found}) == JOBS


def test_whom_nobody_waits_for_any_more_takes_its_jobs_up_again() -> None:
    report = play(Hesitating(asks=False).tell, THREE, "hesitating-1")
    assert not report.error
