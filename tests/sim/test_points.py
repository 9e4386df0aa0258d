"""Every point between the write of the log and the deletion of its segments: a member ends there, killed or without power, again and
again; then every checker of the simulator looks.

RAFTSCHED_KILL_SEEDS says how many runs each point has (2)."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from raftsched import limits, proposals
from raftsched.pb.etcd.rpc_pb2 import PutRequest
from raftsched.store import replica
from raftsched.testing.sim.clients import propose
from raftsched.testing.sim.machine import Machine
from raftsched.testing.sim.options import Options, Report
from raftsched.testing.sim.points import ALL, ALONE, INSTALL, PointedDisk, PointedWorld
from raftsched.testing.sim.world import World

SEEDS = range(int(os.environ.get("RAFTSCHED_KILL_SEEDS", "2")))
KILLS = 4  # of a run
KEPT = 40  # entries in memory
WITHIN_S = 20.0
NODE = {"request_timeout_ms": 1_500, "batch_interval_ms": 20, "snapshot_count": 50, "max_wals": 1}


def options(members: int, think_s: float) -> Options:
    return Options(
        members=members,
        faults=(),
        clients=2,
        think_s=think_s,
        planners=1,
        plan_s=0.3,
        jobs_max=8,
        apps=1,
        watches=1,
        leases=False,
        node=NODE,
    )


async def until(world: World, what: str, holds: Callable[[], bool]) -> None:
    end_s = world.loop.time() + WITHIN_S
    while not holds():
        assert world.loop.time() < end_s, what
        await asyncio.sleep(0.02)


def oldest_index(machine: Machine) -> int:
    """Of the first entry that its log still has."""
    return min(int(name[17:33], 16) for name in machine.disk.files)


def play(point: str, members: int, *, power_cut: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> Report:
    monkeypatch.setattr(limits, "SNAPSHOT_INTERVAL_MIN_MS", 300)
    monkeypatch.setattr(replica, "CATCH_UP_ENTRIES", KEPT)  # memory reaches no further back

    kills = 2 if point in INSTALL else KILLS

    async def tell(world: PointedWorld) -> None:
        points = world.points
        points.hook_files(monkeypatch.setattr)
        await until(world, "all serve", lambda: all(one.serving for one in world.machines))
        for _ in range(kills):
            hits = points.hits[point]
            points.arm(point, passes=world.chance.randrange(1, 5) if point not in INSTALL else 1, power_cut=power_cut)
            if point in INSTALL:
                await leave_behind(world)
            await until(world, point, lambda hits=hits: points.hits[point] > hits)
            if world.chance.random() < 0.5:  # else once more while it is on its way
                await until(world, "it serves again", lambda: all(one.serving for one in world.machines))
        points.disarm()
        await asyncio.sleep(2.0)

    world = PointedWorld(f"{point}/{members}/{power_cut}/{seed}", options(members, 0.05 if point in INSTALL else 0.01), tell)
    report = world.run()
    if not report.error:
        assert world.points.hits == {point: kills}
        assert report.lives >= members + kills
    return report


async def leave_behind(world: PointedWorld) -> None:
    """A member is away until nobody's log reaches back to where it stopped."""
    await until(world, "all vote", lambda: all(one.voting for one in world.machines))
    away = world.chance.choice(world.machines)
    assert away.process is not None
    last = away.process.node.status().applied_index
    away.crash(power_cut=False)
    others = [one for one in world.machines if one is not away]
    await until(world, "a leader", lambda: any(one.process is not None and one.process.node.leader_id for one in others))
    for number in range(4 * KEPT):
        process = others[number % 2].process
        assert process is not None
        await propose(process, proposals.PUT, PutRequest(key=b"ballast", value=bytes(1_000)).SerializeToString())
    await until(world, "segments go", lambda: all(oldest_index(one) > last + 2 * KEPT for one in others))
    away.start()


@pytest.mark.parametrize("power_cut", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("point", ALL)
def test_one_of_three_ends_there(point: str, power_cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in SEEDS:
        report = play(point, 3, power_cut=power_cut, seed=seed, monkeypatch=monkeypatch)
        assert not report.error, (point, power_cut, seed)
        assert report.operations > 20


@pytest.mark.parametrize("power_cut", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("point", ALONE)
def test_a_lone_member_ends_there(point: str, power_cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in SEEDS:
        report = play(point, 1, power_cut=power_cut, seed=seed, monkeypatch=monkeypatch)
        assert not report.error, (point, power_cut, seed)
        assert report.operations > 20


def test_the_table_of_the_docs_has_every_point() -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()
    missing = [point for point in ALL if f"| {point} |" not in page]
    assert not missing


@pytest.mark.parametrize(("members", "point"), [(1, "applied, LMDB not asked"), (3, "sent: an acknowledgement")])
def test_a_disk_that_only_says_that_it_has_synced_is_found(members: int, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkers see what these kills would bring to light."""
    monkeypatch.setattr(PointedDisk, "sync", lambda _self, _name: None)
    reports = [play(point, members, power_cut=True, seed=seed, monkeypatch=monkeypatch) for seed in range(3)]
    assert any(report.error for report in reports)
