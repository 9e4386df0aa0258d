"""The disk of a member is full and its process lives: writes and ticks go on at the others, leadership does not wander, and all is
as before once there is room."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from stories import NS, Writer, plant, play, said, serving, ticks, until

from raftsched.testing.sim.machine import Machine
from raftsched.testing.sim.options import Options
from raftsched.testing.sim.world import World

CALM = Options(members=3, faults=(), clients=2, planners=0, apps=2, watches=1, work_s=0.002, failing=0.0, restless=False, leases=False)
JOBS, EVERY_MS = 12, 300
FULL_S = 4.5
ELECTION_MS = 850.0
TAKEN_OVER_MS = 2_500.0  # stuck for 500 ms, silent for the fence for 900, two rounds of keys
LEADER = 3
AT_ONCE, SOON, NEVER = 0, 20_000, 1 << 30  # stuck; bytes that are left


def leader_of(world: World) -> Machine:
    (found,) = [one for one in world.machines if one.process and one.process.member and one.process.member.replica.kernel.state == LEADER]
    return found


class FullDisks:
    """Some disks are full for `FULL_S`, while jobs fire and keys are written."""

    def __init__(self, of_leader: bool, left_bytes: int, count: int = 1) -> None:
        self._of_leader, self._left_bytes, self._count = of_leader, left_bytes, count
        self.gap_ms = self.late_ms = 0.0
        self.moved = False
        self.terms = 0

    async def tell(self, world: World) -> None:
        await until(lambda: serving(world, *range(len(world.machines))), 10.0)
        await plant(world, JOBS, EVERY_MS)
        writer = Writer(world)
        world.spawn(writer.run())
        await asyncio.sleep(2.0)
        leader, begin_ns = leader_of(world), world.loop.now_ns
        others = [one for one in world.machines if one is not leader]
        for machine in [leader, *others][: self._count] if self._of_leader else others[: self._count]:
            machine.faults.fill(self._left_bytes)
        term = self._term(world)
        await asyncio.sleep(FULL_S)
        self.moved = leader_of(world) is not leader
        self.terms = self._term(world) - term
        self.gap_ms = writer.longest_gap_ms(begin_ns, world.loop.now_ns)
        self.late_ms = max(one.late_ms for one in ticks(world) if one.due_ns > begin_ns)
        seen = {one.name for one in ticks(world) if one.due_ns > world.loop.now_ns - NS}
        assert len(seen) == JOBS, f"of {JOBS} jobs {len(seen)} fire"
        for machine in world.machines:
            machine.faults.full = False
        await asyncio.sleep(3.0)
        keys = await self._keys(world)
        assert keys == len(world.machines), f"{keys} schedulers take part"

    def _term(self, world: World) -> int:
        return max(one.process.node.term for one in world.machines if one.process)

    async def _keys(self, world: World) -> int:
        return len([one for one in world.machines if one.process and one.process.service.leadership.partition is not None])


@pytest.mark.parametrize(("of_leader", "left_bytes"), [(False, SOON), (False, NEVER), (True, AT_ONCE), (True, NEVER)])
def test_one_full_disk_harms_nobody(of_leader: bool, left_bytes: int) -> None:
    story = FullDisks(of_leader, left_bytes)
    report = play(story.tell, CALM, f"full-{of_leader}-{left_bytes}")
    assert not report.error
    print(f"\nfull: gap {story.gap_ms:.0f} ms, ticks late {story.late_ms:.0f} ms")
    assert story.moved is of_leader
    assert story.terms == of_leader, "leadership wandered"
    assert story.gap_ms < ELECTION_MS
    assert story.late_ms < TAKEN_OVER_MS
    assert len(said(report, "the disk is full")) == 1
    assert len(said(report, "the disk has room again")) == 1
    assert bool(said(report, "the others are to do without this member")) == (left_bytes != NEVER)
    assert bool(said(report, "is silent, its jobs go to the others")) == (left_bytes != NEVER)


def test_two_of_five_full_disks_harm_nobody() -> None:
    story = FullDisks(True, 0, count=2)
    report = play(story.tell, replace(CALM, members=5), "full-two-of-five")
    assert not report.error
    assert story.moved
    assert story.terms == 1, "leadership wandered"
    assert story.late_ms < TAKEN_OVER_MS


def test_where_all_disks_are_full_leadership_stays_and_writes_are_refused() -> None:
    """And what waits for room is done when it comes."""

    async def story(world: World) -> None:
        await until(lambda: serving(world, 0, 1, 2), 10.0)
        await asyncio.sleep(1.0)
        leader = leader_of(world)
        assert leader.process is not None
        term = leader.process.node.term
        for machine in world.machines:
            machine.faults.fill(1 << 20)
        await asyncio.sleep(1.0)
        writer = Writer(world)
        world.spawn(writer.run())
        await asyncio.sleep(5.0)
        assert leader_of(world) is leader
        assert leader.process.node.term == term
        assert not writer.acknowledged_ns
        for machine in world.machines:
            machine.faults.full = False
        await until(lambda: len(writer.acknowledged_ns) > 20, 3.0)

    report = play(story, CALM, "full-all")
    assert not report.error
    assert len(said(report, "nobody with room on the disk can lead")) == 1


def test_what_a_full_follower_is_asked_for_is_done_by_the_others() -> None:
    """As long as it can follow: only the leader's room counts."""

    async def story(world: World) -> None:
        await until(lambda: serving(world, 0, 1, 2), 10.0)
        full = next(one for one in world.machines if one is not leader_of(world))
        full.faults.fill(1 << 30)
        await asyncio.sleep(1.0)
        writer = OneDoor(world, full)
        world.spawn(writer.run())
        begin_ns = world.loop.now_ns
        await asyncio.sleep(2.0)
        assert len(writer.acknowledged_ns) > 120
        assert writer.longest_gap_ms(begin_ns, world.loop.now_ns) < 200

    assert not play(story, CALM, "full-door").error


class OneDoor(Writer):
    """All at one member."""

    def __init__(self, world: World, machine: Machine) -> None:
        super().__init__(world)
        self._machine = machine

    def run(self) -> Coroutine[Any, Any, None]:
        return self._run_there()

    async def _run_there(self) -> None:
        count = 0
        while not self._world.quiet:
            await asyncio.sleep(self.EVERY_S)
            count += 1
            if self._machine.process is not None:
                self._world.spawn(self._put(self._machine.process, f"door{count % 50}", str(count)))
