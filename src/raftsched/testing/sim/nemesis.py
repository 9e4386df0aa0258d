"""What goes wrong in a run, and when."""

import asyncio
from typing import TYPE_CHECKING

from raftsched.testing.sim.machine import Machine
from raftsched.testing.sim.network import Weather

if TYPE_CHECKING:
    from raftsched.testing.sim.world import World

NS = 1_000_000_000


class Nemesis:
    """Hurts one machine, or the network, again and again."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._chance = world.chance
        self._replacing: Machine | None = None  # its disk is not what it was, until it votes again

    async def run(self) -> None:
        """Until the time of safety is over."""
        chance, options, loop = self._chance, self._world.options, self._world.loop
        end_s = loop.time() + options.duration_s
        while (left_s := end_s - loop.time()) > 0:
            await asyncio.sleep(min(chance.expovariate(1 / options.fault_every_s), left_s))
            if options.faults and loop.time() < end_s:
                self._hurt(chance.choice(options.faults), chance.choice(self._world.machines))

    def _hurt(self, fault: str, machine: Machine) -> None:
        chance = self._chance
        self._world.note("nemesis", f"{fault} {machine.name}")
        if fault in ("kill", "power"):
            machine.crash(power_cut=fault == "power")
            self._world.loop.call_later(chance.choice([0.01, 0.3, 2.0]) * chance.random(), machine.start)
        elif fault == "stop":
            self._world.spawn(self._restart(machine))
        elif fault == "slow":
            machine.faults.slowness = chance.randrange(3)
        elif fault == "full":
            machine.faults.full = True
            self._world.loop.call_later(chance.random() * 2.0, setattr, machine.faults, "full", False)
        elif fault == "sync":
            machine.faults.fail_sync = True
        elif fault == "skew":
            machine.set_skew(chance.randrange(-5 * NS, 5 * NS))
        elif fault == "jump":
            machine.set_skew(machine.skew_ns + chance.randrange(-NS, NS))
        elif fault in ("wipe", "leave"):
            self._replace(fault, machine)
        else:
            self._disturb(fault)

    def _replace(self, fault: str, machine: Machine) -> None:
        """One disk at a time: what a majority has acknowledged must stay on a majority's disks."""
        if self._replacing is not None and self._replacing.voting:
            self._replacing = None
        if self._replacing is not None or not all(one.voting for one in self._world.machines):
            return
        self._replacing = machine
        if fault == "wipe":
            machine.wipe()
            self._world.loop.call_later(self._chance.random(), machine.start)
        else:
            self._world.spawn(self._leave(machine))

    async def _leave(self, machine: Machine) -> None:
        asked = self._world.some_process(self._chance)
        if asked is not None:
            await machine.leave(asked)
        await asyncio.sleep(self._chance.random())
        machine.start()

    def _disturb(self, fault: str) -> None:
        """The network."""
        chance = self._chance
        if fault in ("cut", "one-way"):
            names = [machine.name for machine in self._world.machines]
            chance.shuffle(names)
            at = chance.randrange(1, len(names))
            self._world.network.cut.clear()
            self._world.network.partition((names[:at], names[at:]), one_way=fault == "one-way")
        elif fault == "weather":
            self._world.network.weather = Weather(
                drop=chance.choice([0.0, 0.05, 0.3]),
                twice=chance.choice([0.0, 0.1]),
                delay_s=chance.choice([0.001, 0.01, 0.05]),
                late=chance.choice([0.0, 0.05]),
            )
        else:
            self._world.network.heal()

    async def _restart(self, machine: Machine) -> None:
        await machine.stop()
        await asyncio.sleep(self._chance.random())
        machine.start()
