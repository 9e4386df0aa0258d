"""No tick waits for long behind what went wrong, while it is fair to ask that.

Fair is: a majority of the machines, and of the voters in force, hears one another and has room on its disks, the network is calm, no disk
is ill otherwise, and no clock of theirs is behind what it has shown in this life: a scheduler whose clock was set back stands still until
it has caught up. Nor while somebody may still wait for a message that was lost on a connection that stands, or overtaken there, which TCP
does not do: until its time is over. A tick is due once every clock of those machines says so. Whatever else happens (a kill, a stop, a cut,
a healing, a jump of a clock, a new life, a disk that is full, a log that can write nothing any more) gives each waiting tick `LATE_NS`
more: the two seconds of the promise about the ticks of an owner that died or was cut off, and one election that found no winner.
Must not know: the engine, who owns what.
"""

import asyncio
from typing import TYPE_CHECKING

from raftsched.limits import REQUEST_TIMEOUT_MS
from raftsched.testing.sim.checkers import Broken
from raftsched.testing.sim.ticks import TickKey, next_tick

if TYPE_CHECKING:
    from raftsched.testing.sim.machine import Machine
    from raftsched.testing.sim.world import World

NS = 1_000_000_000
ACTORS = b"actorreminder||"
LATE_NS = 2_850_000_000  # 700 ms and a second try of 150 ms are an election
LOOK_S = 0.1
CALM_DELAY_S = 0.01  # a message that takes longer makes an election longer
HELD_UP_NS = 50_000_000  # less than this is no waiting
LOST_NS = REQUEST_TIMEOUT_MS * 1_000_000


class Promptness:
    """See the module's text. Raises `Broken`."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._situation: object = None
        self._since_ns = 0
        self._due_ns: dict[TickKey, int] = {}  # when it was first seen due, and was not delivered yet
        self._shown_ns: dict[tuple[str, int], int] = {}  # machine and life -> the latest wall time that was seen
        self._lossy_ns = -LOST_NS  # when messages were last lost or overtaken at random
        self.asked = 0  # ticks that were held up, and came in time
        self.latest_ns = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        now_ns = self._world.loop.now_ns
        for machine in self._world.machines:
            life = (machine.name, machine.lives)
            self._shown_ns[life] = max(machine.clock.peek_ns(), self._shown_ns.get(life, 0))
        group = self._group()
        situation = self._describe(group)
        if not group or situation != self._situation:
            self._situation, self._since_ns = situation, now_ns
        if group:
            self._note_due(now_ns, min(machine.clock.peek_ns() for machine in group))
            self._judge(now_ns)

    def delivered(self, tick: TickKey) -> None:
        due_ns = self._due_ns.pop(tick, None)
        if due_ns is not None:
            waited_ns = self._world.loop.now_ns - max(due_ns, self._since_ns)
            if waited_ns > HELD_UP_NS:
                self.asked += 1
                self.latest_ns = max(self.latest_ns, waited_ns)

    def _note_due(self, now_ns: int, clock_ns: int) -> None:
        ticks = self._world.ticks
        waiting: dict[TickKey, int] = {}
        for name, job in ticks.jobs.items():
            if self._world.options.gates and name.startswith(ACTORS):
                continue  # it may wait for a slot that is held by a worker that never answers
            tick = next_tick(job, ticks.counters.get(name))
            key = (name, job.partition, tick or 0)
            if tick is not None and tick <= clock_ns and not ticks.was_delivered(key):
                waiting[key] = self._due_ns.get(key, now_ns)
        self._due_ns = waiting

    def _judge(self, now_ns: int) -> None:
        for key, due_ns in self._due_ns.items():
            waited_ns = now_ns - max(due_ns, self._since_ns)
            if waited_ns > LATE_NS:
                raise Broken(
                    f"prompt: the tick {key[2]} of {key[0]!r} has waited {waited_ns / NS:.3f} s, and {(now_ns - due_ns) / NS:.3f} s in all"
                )

    def _group(self) -> "list[Machine]":
        """Who decides, if all is well enough to ask for anything."""
        world, network = self._world, self._world.network
        weather = network.weather
        if weather.drop or weather.late or weather.twice:  # what arrives behind a later one is taken for a repetition
            self._lossy_ns = world.loop.now_ns
        if world.loop.now_ns < self._lossy_ns + LOST_NS or weather.delay_s > CALM_DELAY_S or network.one_way:
            return []
        if any(machine.faults.slowness > 1 or machine.faults.fail_sync for machine in world.machines):
            return []
        voting = [machine for machine in world.machines if machine.voting and not machine.faults.full]
        for one in voting:
            group = [other for other in voting if other is one or self._hear_each_other(one, other)]
            if 2 * len(group) > len(world.machines) and _decides(group):
                return group if all(self._goes_on(machine) for machine in group) else []
        return []

    def _goes_on(self, machine: "Machine") -> bool:
        return machine.clock.peek_ns() >= self._shown_ns[machine.name, machine.lives]

    def _hear_each_other(self, one: "Machine", other: "Machine") -> bool:
        network = self._world.network
        return network.passes(one.name, other.name) and network.passes(other.name, one.name)

    def _describe(self, group: "list[Machine]") -> object:
        lives = [
            (one.name, one.lives, one.serving, one.voting, one.skew_ns, one.faults.full, one.faults.stalled) for one in self._world.machines
        ]
        return lives, [machine.name for machine in group]


def _decides(group: "list[Machine]") -> bool:
    """Whether they are a majority by what each of them has in force, which may be a change that is not committed."""
    members = [machine.process.member for machine in group if machine.process is not None and machine.process.member is not None]
    ids = {member.member_id for member in members}
    in_force = [member.replica.kernel.voter_ids for member in members]
    return all(2 * len(ids & set(voters)) > len(voters) for voters in in_force)
