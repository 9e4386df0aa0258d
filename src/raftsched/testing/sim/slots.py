"""Concurrency gates (spec §4), counted from outside: at each replica, no more triggers of a gate are out than its share.

Out is what was pushed to a live stream and has no answer yet. A share that has just become smaller binds only those who are let go from
then on: the former one counts for a while. Must not know: how the product counts.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from raftsched.scheduler.delivery.gates import Limit
from raftsched.testing.sim.checkers import Broken

FORMER_SHARE_NS = 1_500_000_000  # who was let go by it may wait that long for a stream that reads slowly
Place = tuple[int, int]
"""(index, number of replicas)."""


def share(limit: int, place: Place) -> int:
    """Each replica's part, the first ones get what is left over; never less than one."""
    index, total = place
    parts = [limit // total + (number < limit % total) for number in range(total)] if total > 1 else [limit]
    return max(1, parts[index] if index < len(parts) else limit)


class Slots:
    """See the module's text. `who` is a life of a replica."""

    def __init__(self, gates: Sequence[Limit]) -> None:
        self._gates = gates
        self._out: dict[str, dict[tuple[Hashable, int], list[Limit]]] = defaultdict(dict)
        self._places: dict[str, list[tuple[int, Place]]] = defaultdict(list)
        self.full: Counter[Limit] = Counter()
        """How often the last slot of a gate was taken."""

    def delivered(self, who: str, stream: Hashable, number: int, kind: str, key: str, place: Place | None, now_ns: int) -> None:
        """Raises `Broken`: it should have waited."""
        mine = [gate for gate in self._gates if gate.actor_type == kind and (gate.name is None or gate.name == key)]
        self._out[who][stream, number] = mine
        places = self._places[who]
        if place is not None and (not places or places[-1][1] != place):
            places.append((now_ns, place))
        for gate in mine:
            self._check(who, gate, now_ns)

    def _check(self, who: str, gate: Limit, now_ns: int) -> None:
        places = self._places[who]
        counted = [place for at, (_, place) in enumerate(places) if at + 1 == len(places) or places[at + 1][0] + FORMER_SHARE_NS > now_ns]
        most = max((share(gate.max_concurrent, place) for place in counted), default=gate.max_concurrent)
        used = sum(gate in held for held in self._out[who].values())
        if used > most:
            raise Broken(f"gates: {who} has {used} triggers of {gate} out, its share is {most}: {places}")
        self.full[gate] += used == most

    def answered(self, who: str, stream: Hashable, number: int) -> None:
        self._out[who].pop((stream, number), None)

    def closed(self, who: str, stream: Hashable) -> None:
        """All that it had is free."""
        for place in [place for place in self._out[who] if place[0] is stream]:
            del self._out[who][place]
