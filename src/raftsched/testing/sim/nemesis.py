"""What goes wrong in a run, and when."""

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

from raftsched.store.raft._kernel import Message
from raftsched.testing.sim.machine import Machine
from raftsched.testing.sim.network import SimPeers, Weather

if TYPE_CHECKING:
    from raftsched.testing.sim.world import World

NS = 1_000_000_000
DEPARTURES = 6  # a cluster that has changed just now refuses, for five seconds
TELLING = (3, 4, 5, 6)  # APPEND and its answer, VOTE and its answer


class Nemesis:
    """Hurts one machine, or the network, again and again."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._chance = world.chance
        self._replacing = False  # a disk is not what it was, until all vote again

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
        self._world.happened[fault] += 1
        if fault in ("kill", "power"):
            machine.crash(power_cut=fault == "power")
            self._world.loop.call_later(chance.choice([0.01, 0.3, 2.0]) * chance.random(), machine.start)
        elif fault == "stop":
            self._world.spawn(self._restart(machine))
        elif fault == "slow":
            machine.faults.slowness = chance.randrange(3)
        elif fault == "full":
            machine.faults.fill(chance.choice([0, 5_000, 1 << 20]))
            self._world.loop.call_later(chance.random() * chance.choice([2.0, 2.0, 8.0]), setattr, machine.faults, "full", False)
        elif fault == "sync":
            machine.faults.fail_sync = True
        elif fault == "skew":
            machine.set_skew(chance.randrange(-5 * NS, 5 * NS))
        elif fault == "jump":
            machine.set_skew(machine.skew_ns + chance.randrange(-NS, NS))
        elif fault == "behind":
            self._cut_power_behind_a_message(machine)
        elif fault in ("wipe", "leave", "depart", "oust"):
            self._replace(fault, machine)
        else:
            self._disturb(fault)

    def _replace(self, fault: str, machine: Machine) -> None:
        """One disk at a time: what a majority has acknowledged must stay on a majority's disks."""
        if self._replacing or not self._whole():
            return
        self._replacing = True
        ways = {"oust": self._oust, "wipe": self._wipe, "leave": self._leave, "depart": self._depart}
        self._world.spawn(self._until_whole(ways[fault](machine)))

    async def _until_whole(self, way: Coroutine[None, None, None]) -> None:
        await way
        while not self._whole():
            await asyncio.sleep(0.1)
        self._replacing = False

    def _whole(self) -> bool:
        """Everybody votes, and that is so in the configuration that each has in force: a removal is, before it is committed. Who then
        lost its disk could leave nobody behind who has what it had."""
        machines = self._world.machines
        members = [one.process.member for one in machines if one.voting and one.process is not None]
        return len(members) == len(machines) and all(
            one is not None and len(one.replica.kernel.voter_ids) == len(machines) for one in members
        )

    async def _wipe(self, machine: Machine) -> None:
        machine.wipe()
        await asyncio.sleep(self._chance.random())
        machine.start()

    async def _oust(self, _: Machine) -> None:
        """Somebody asks one member to remove two others, at once."""
        asked = self._world.some_process(self._chance)
        others = [one for one in self._world.machines if asked is not None and one is not asked.machine]
        if asked is not None:
            await asyncio.gather(*[machine.leave(asked) for machine in self._chance.sample(others, min(2, len(others)))])
        await asyncio.sleep(self._chance.random())
        for machine in others:
            machine.start()

    def _cut_power_behind_a_message(self, machine: Machine) -> None:
        """Whatever it says next of one kind is the last that it says: what must be durable before that, is."""
        network, kind = self._world.network, self._chance.choice(TELLING)

        def on_sent(peers: SimPeers, message: Message) -> None:
            if peers.machine == machine.name and message.type == kind and not message.reject:
                network.on_sent = None
                self._world.happened["cut behind"] += 1
                end, begin = partial(machine.crash, power_cut=True), machine.start
                self._world.loop.call_later(self._chance.random() * 0.001, end, context=Context())
                self._world.loop.call_later(0.002 + self._chance.choice([0.0, 0.02]), begin, context=Context())

        network.on_sent = on_sent

    async def _depart(self, machine: Machine) -> None:
        """Scaled down, and up again on the disk that it kept. A StatefulSet ends the pod whatever its preStop said, after some time."""
        for _ in range(DEPARTURES):
            left = await machine.depart()
            self._world.happened["left"] += left and machine.up  # else it has ended with a line that says so
            if left or not machine.up:
                break
            await asyncio.sleep(1.0)
        machine.crash(power_cut=False)
        await asyncio.sleep(self._chance.random() * 2.0)
        machine.start()

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
