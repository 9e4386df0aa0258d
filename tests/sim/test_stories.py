"""Clusters that form, lose a majority of their disks, and come back: told step by step, with every checker of the simulator watching."""

import asyncio
from dataclasses import replace

from stories import play, said, serving, until

from raftsched.testing.sim.checkers import OneHistory, OneLeader, OneLog, SameState
from raftsched.testing.sim.options import Options
from raftsched.testing.sim.world import World

CALM = Options(members=3, faults=(), clients=2, planners=1, watches=1, node={"request_timeout_ms": 1_500})


def test_a_majority_of_the_list_forms_when_the_rest_stays_away_and_takes_it_in_later() -> None:
    async def story(world: World) -> None:
        await asyncio.sleep(2.5)
        assert not serving(world, 0)
        await until(lambda: serving(world, 0, 1), 3.0)  # three seconds and an election
        await asyncio.sleep(3.0)
        world.machines[2].start()
        await until(lambda: serving(world, 0, 1, 2), 5.0)

    report = play(story, replace(CALM, absent=(2,)))
    assert not report.error
    assert report.operations > 20


def test_a_wiped_majority_waits_for_the_member_with_the_data() -> None:
    """Nobody forms a second cluster beside it; `--force-new-cluster` on the survivor brings the others back in."""

    async def story(world: World) -> None:
        survivor, *others = world.machines
        await until(lambda: serving(world, 0, 1, 2), 5.0)
        await asyncio.sleep(3.0)
        await until(lambda: survivor.process is not None and survivor.process.node.revision >= max(world.one_history.revisions), 3.0)
        for machine in others:
            machine.wipe()
            machine.start()
        await asyncio.sleep(20.0)
        assert not serving(world, 1)
        assert not serving(world, 2)
        survivor.crash(power_cut=True)
        survivor.options = replace(survivor.options, force_new_cluster=True)
        survivor.start()
        await until(lambda: serving(world, 0), 5.0)
        survivor.options = replace(survivor.options, force_new_cluster=False)
        await until(lambda: all(machine.voting for machine in world.machines), 20.0)

    report = play(story, CALM)
    assert not report.error
    assert said(report, "--force-new-cluster")
    assert len(said(report, "forming a new cluster")) == 3


def test_an_old_member_that_comes_too_late_refuses_the_cluster_that_was_formed_without_it() -> None:
    async def story(world: World) -> None:
        old, *others = world.machines
        await until(lambda: serving(world, 0, 1, 2), 5.0)
        await asyncio.sleep(1.0)
        for machine in world.machines:
            machine.crash(power_cut=False)
        world.log, world.one_history, world.same_state, world.one_leader = OneLog(), OneHistory(), SameState(), OneLeader()
        for machine in others:
            machine.wipe()
            machine.start()
        await until(lambda: serving(world, 1, 2), 6.0)
        old.start()
        await asyncio.sleep(5.0)

    report = play(story, replace(CALM, planners=0, watches=0, clients=0))
    (line,) = said(report, "m0.2: ends: ")
    assert "another cluster" in line
    assert "ended without a reason: " + line.split("ends: ")[1] in report.error


def test_who_was_cut_off_follows_a_leader_that_it_never_heard_of() -> None:
    """Two of five begin anew meanwhile, and one of these leads: the log that would tell of it comes from nobody else."""

    async def story(world: World) -> None:
        await until(lambda: serving(world, 0, 1, 2, 3, 4), 8.0)
        away, *others = world.machines
        world.network.partition([[away.name], [one.name for one in others]], one_way=False)
        for machine in others[2:]:
            machine.wipe()
            machine.start()
            await until(lambda machine=machine: machine.voting, 20.0)
        leader = others[3].process
        assert leader is not None
        await until(lambda: any(one.process is not None and one.process.node.leader_id for one in others), 5.0)
        old = next(one.process.node for one in others if one.process and one.process.node.leader_id == one.process.node.member_id)
        if old is not leader.node:
            await old.move_leader(leader.node.member_id)
        world.network.heal()
        assert away.process is not None
        node = away.process.node
        await until(lambda: node.leader_id == leader.node.member_id, 5.0)
        await until(lambda: node.revision >= leader.node.revision - 5, 5.0)

    report = play(story, replace(CALM, members=5))
    assert not report.error
