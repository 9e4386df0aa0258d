"""What goes wrong in a run of `external.ExternalWorld`, and when."""

import asyncio
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Final

from raftsched.scheduler.jobs.names import LEADERSHIP
from raftsched.testing.sim.etcd import MEMBERS
from raftsched.testing.sim.external_options import NAMES, REPLICA_FAULTS
from raftsched.testing.sim.replicas import Replica

if TYPE_CHECKING:
    from raftsched.testing.sim.external import ExternalWorld

NS = 1_000_000_000
BY_HAND_S: Final = 20.0  # whose key was taken away fires until it hears of it (docs/decisions/0010)


class Faults:
    """Hurts a replica, or the etcd, again and again."""

    def __init__(self, world: "ExternalWorld") -> None:
        self._world, self._etcd, self._chance = world, world.etcd, world.chance

    async def run(self) -> None:
        options, loop = self._world.options, self._world.loop
        end_s = loop.time() + options.duration_s
        while (left_s := end_s - loop.time()) > 0:
            await asyncio.sleep(min(self._chance.expovariate(1 / options.fault_every_s), left_s))
            if options.faults and loop.time() < end_s:
                fault = self._chance.choice(options.faults)
                self._world.note("faults", fault)
                self._world.happened[fault] += 1
                await self._hurt(fault)

    async def _hurt(self, fault: str) -> None:
        if fault in REPLICA_FAULTS:
            await self._hurt_replica(fault, self._world.replicas[self._chance.choice(sorted(self._world.wanted))])
        else:
            self._hurt_etcd(fault, self._chance.randrange(MEMBERS))

    async def _hurt_replica(self, fault: str, replica: Replica) -> None:
        chance, world = self._chance, self._world
        if fault == "kill":
            replica.kill()
            world.loop.call_later(chance.choice([0.05, 3.0, 25.0]) * chance.random(), self._start_again, replica, context=Context())
        elif fault == "stop":
            await replica.stop()
            world.loop.call_later(chance.random() * 3, self._start_again, replica, context=Context())
        elif fault == "scale up":
            more = [name for name in NAMES if name not in world.wanted]
            if more:
                world.wanted.add(chance.choice(more))
                self._start_again(world.replicas[max(world.wanted)])
                for name in sorted(world.wanted):
                    self._start_again(world.replicas[name])
        elif fault == "scale down" and len(world.wanted) > 1:
            world.wanted.discard(replica.name)
            await replica.stop()
            replica.kill()
        elif fault == "hang up":
            self._etcd.hang_up(replica.name)
        elif fault == "cut":
            for number in chance.sample(range(MEMBERS), chance.randrange(1, MEMBERS + 1)):
                self._etcd.cut(replica.name, number)
        elif fault == "skew":
            replica.set_skew(chance.randrange(-2 * NS, 2 * NS))

    def _start_again(self, replica: Replica) -> None:
        if replica.name in self._world.wanted:
            replica.start()

    def _hurt_etcd(self, fault: str, number: int) -> None:
        etcd, chance, loop = self._etcd, self._chance, self._world.loop
        member, away_s = etcd.members[number], chance.choice([1.0, 8.0, 30.0]) * chance.random()
        if fault in ("leader", "member"):
            number = etcd.leader if fault == "leader" and etcd.leader is not None else number
            etcd.set_member(number, up=False)
            loop.call_later(away_s, partial(etcd.set_member, number, up=True), context=Context())
        elif fault == "apart":
            etcd.set_member(number, apart=True)
            loop.call_later(away_s, partial(etcd.set_member, number, apart=False), context=Context())
        elif fault == "quorum":
            for one in chance.sample(range(MEMBERS), 2):
                etcd.set_member(one, up=False)
                loop.call_later(away_s, partial(etcd.set_member, one, up=True), context=Context())
        elif fault == "compact":
            etcd.compact()
        elif fault == "no space":
            etcd.store.full = True
            loop.call_later(away_s, setattr, etcd.store, "full", False, context=Context())
        elif fault == "lag":
            member.lag_s = chance.choice([0.05, 0.5, 3.0])
        elif fault == "slow":
            member.slow_s = chance.choice([0.02, 0.3, 1.5])
        elif fault == "watches":
            etcd.cancel_watches()
        elif fault == "renewals":
            etcd.deaf_renewals = True
            loop.call_later(away_s, setattr, etcd, "deaf_renewals", False, context=Context())
        elif fault in ("lease", "key"):
            self._by_hand(fault)
        elif fault == "heal":
            self.heal()

    def _by_hand(self, what: str) -> None:
        """A leadership key is deleted, or its lease revoked."""
        store = self._etcd.store
        keys = sorted(key for key in store.keys if key.startswith(LEADERSHIP))
        if keys:
            key = self._chance.choice(keys)
            self._world.by_hand_until_s = self._world.loop.time() + BY_HAND_S
            if what == "lease":
                self._etcd.drop_lease(store.keys[key].lease)
            else:
                store.delete(key)

    def heal(self) -> None:
        etcd = self._etcd
        etcd.cuts.clear()
        etcd.store.full = etcd.deaf_renewals = False
        for member in etcd.members:
            member.lag_s = member.slow_s = 0.0
            etcd.set_member(member.number, up=True, apart=False)
