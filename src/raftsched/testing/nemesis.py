"""Faults on a cluster of processes, drawn from a seed. At most a minority is down at a time, unless the fault is that all are.

Every fault ends: `heal` starts what is down, resumes what is paused, joins what is cut. What cannot be done (no links, so no cuts) is
not drawn.
"""

import random
import time
from collections import Counter
from collections.abc import Callable

from raftsched.testing.cluster import Cluster, Member

DELAY_S = 0.03
CALM_S = (1.5, 4.0)
FAULT_S = (0.5, 4.0)


class Nemesis:
    """`strike` does one fault and undoes it; `done` counts them by name."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.draw = random.Random(seed)
        self._cluster = cluster
        self._faults: dict[str, tuple[int, Callable[[], None]]] = {
            "kill the leader": (5, self._kill_leader),
            "kill a follower": (2, self._kill_follower),
            "kill all": (1, self._kill_all),
            "pause the leader": (2, self._pause_leader),
            "pause a follower": (1, self._pause_follower),
        }
        if cluster.stops_one:
            self._faults["stop one in order"] = (1, self._stop_one)
        if cluster.links is not None:
            self._faults |= {
                "cut off the leader": (4, lambda: self._separate(self._cluster.leader())),
                "cut off a follower": (2, lambda: self._separate(self._follower())),
                "cut what the leader hears": (2, self._deaf_leader),
                "cut what the leader says": (2, self._mute_leader),
                "cut one link": (2, self._one_link),
                "no majority": (1, self._no_majority),
                "slow links": (2, self._slow),
            }

    def strike(self, name: str = "") -> str:
        """One fault for a while, `name` or one that is drawn; afterwards everything is whole and there is a leader. Its name."""
        names = list(self._faults)
        name = name or self.draw.choices(names, [self._faults[one][0] for one in names])[0]
        try:
            self._faults[name][1]()
        finally:
            self.heal()
        self.done[name] += 1
        return name

    def heal(self) -> None:
        if self._cluster.links is not None:
            self._cluster.links.heal()
        for member in self._cluster.members:
            if member.paused:
                member.resume()
            if member.process is not None and member.process.poll() is not None:
                raise RuntimeError(f"{member.name} ended by itself with {member.process.returncode}:\n{member.logs()}")
        self._cluster.start()
        self._cluster.leader()

    def calm(self) -> None:
        time.sleep(self.draw.uniform(*CALM_S))

    def _hold(self) -> None:
        time.sleep(self.draw.uniform(*FAULT_S))

    def _follower(self) -> Member:
        return self.draw.choice(self._cluster.followers())

    def _others(self, member: Member) -> list[int]:
        return [one.number for one in self._cluster.members if one is not member]

    def _kill_leader(self) -> None:
        self._cluster.leader().kill()
        self._hold()

    def _kill_follower(self) -> None:
        self._follower().kill()
        self._hold()

    def _kill_all(self) -> None:
        for member in self.draw.sample(self._cluster.members, len(self._cluster.members)):
            member.kill()
        time.sleep(self.draw.uniform(0, 1))

    def _stop_one(self) -> None:
        member = self.draw.choice(self._cluster.members)
        code = member.stop()
        if code != member.stop_code:
            raise RuntimeError(f"{member.name} was asked to stop and ended with {code}:\n{member.logs()}")
        self._hold()

    def _pause_leader(self) -> None:
        self._cluster.leader().pause()
        self._hold()

    def _pause_follower(self) -> None:
        self._follower().pause()
        self._hold()

    def _separate(self, member: Member) -> None:
        assert self._cluster.links is not None
        self._cluster.links.separate(member.number, self._others(member))
        self._hold()

    def _deaf_leader(self) -> None:
        leader = self._cluster.leader()
        for other in self._others(leader):
            assert self._cluster.links is not None
            self._cluster.links.cut(other, leader.number)
        self._hold()

    def _mute_leader(self) -> None:
        leader = self._cluster.leader()
        for other in self._others(leader):
            assert self._cluster.links is not None
            self._cluster.links.cut(leader.number, other)
        self._hold()

    def _one_link(self) -> None:
        """Two members do not see each other, and both see the third."""
        assert self._cluster.links is not None
        one, other = self.draw.sample(range(len(self._cluster.members)), 2)
        self._cluster.links.separate(one, [other])
        self._hold()

    def _no_majority(self) -> None:
        assert self._cluster.links is not None
        for member in self._cluster.members:
            self._cluster.links.separate(member.number, self._others(member))
        self._hold()

    def _slow(self) -> None:
        assert self._cluster.links is not None
        for one in self._cluster.members:
            for other in self._others(one):
                self._cluster.links.slow(one.number, other, self.draw.uniform(0, DELAY_S))
        self._hold()
