"""`--etcd-initial-election-tick-advance`: members that start again elect one of them sooner; off, as it is by default, they wait first."""

import asyncio
from dataclasses import replace

from stories import play, serving, until

from raftsched.testing.sim.options import Options
from raftsched.testing.sim.world import World

CALM = Options(members=3, faults=(), clients=2, planners=1, watches=1, node={"request_timeout_ms": 1_500})


def elections_s(*, advance: bool) -> list[float]:
    """How long all members need, crashed together, until all serve again; several times, in virtual time, under every checker."""
    took: list[float] = []

    async def story(world: World) -> None:
        await until(lambda: serving(world, 0, 1, 2), 10.0)
        for _ in range(5):
            await asyncio.sleep(2.0)
            for machine in world.machines:
                machine.crash(power_cut=False)
            for machine in world.machines:
                machine.start()
            began_ns = world.loop.now_ns
            await until(lambda: serving(world, 0, 1, 2), 10.0)
            took.append((world.loop.now_ns - began_ns) / 1e9)

    report = play(story, replace(CALM, node={**CALM.node, "election_tick_advance": advance}))
    assert not report.error
    return took


def test_members_elect_sooner_when_they_are_told_to() -> None:
    sooner, later = elections_s(advance=True), elections_s(advance=False)
    print(f"seconds until all serve: advanced {sooner}, else {later}")
    assert min(later) > 0.5, "the shortest timeout is 500 ms"
    assert sum(sooner) / len(sooner) < sum(later) / len(later) - 0.3
