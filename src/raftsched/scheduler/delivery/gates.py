"""Concurrency gates (spec §4): how many triggers of an actor type, or of a named key of it, may be out at once.

Invariant: a run holds a slot in all of its gates or in none; the oldest waiter that can take all its gates goes first, and
one that is passed over keeps its place. Must not know: streams' wire form, jobs, time.

Waiters of a type are kept in one queue per named gate, each with a running number: "the oldest that can go" is then a look
at the heads, not a walk over a hundred thousand waiters.
"""

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from raftsched.limits import GATE_LABEL_CHARACTERS_MAX, GATE_WAITERS_MAX, THROTTLED_LABELS_MAX

DEAD_WAITERS_MAX: Final = 1_000  # more than are alive, before they are swept out


class Admission(IntEnum):
    """What a gate says."""

    GO = 0
    WAIT = 1
    FULL = 2


class Limit(NamedTuple):
    """A declared limit; `name` None = the whole type."""

    actor_type: str
    name: str | None
    max_concurrent: int


GateKey = tuple[str, str, str | None]
"""(namespace, actor type, name or None)."""


def label(key: GateKey) -> str:
    """The gate key as metrics show it: `<type>` or `<type>:<name>`, cut at `GATE_LABEL_CHARACTERS_MAX`."""
    return (key[1] if key[2] is None else f"{key[1]}:{key[2]}")[:GATE_LABEL_CHARACTERS_MAX]


def share_of(limit: int, index: int, total: int) -> int:
    """What replica `index` of `total` may let through (spec §4): a limit below `total` is exceeded, never starved."""
    if total <= 1:
        return limit
    if limit < total:
        return 1
    return limit // total + (1 if index < limit % total else 0)


@dataclass(slots=True)
class _Gate:
    limit: int
    share: int
    used: int = 0
    declared_by: set[Hashable] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Waiter:
    number: int
    run: int  # -1: dropped, passed over when it comes to the head
    keys: tuple[GateKey, ...]


class Gates:
    """All gates of this replica."""

    def __init__(self, waiters_max: int = GATE_WAITERS_MAX) -> None:
        self._gates: dict[GateKey, _Gate] = {}
        self._types: dict[tuple[str, str], int] = {}  # (namespace, actor type) -> its gates
        # The gates themselves, not their keys: one that was dropped and declared again owes these runs nothing.
        self._held: dict[int, tuple[tuple[GateKey, _Gate], ...]] = {}
        self._queues: dict[GateKey, dict[GateKey | None, deque[_Waiter]]] = {}  # first gate -> second gate -> waiters
        self._waiters: dict[int, _Waiter] = {}
        self._waiting: dict[GateKey, int] = {}  # live waiters per first gate
        self._waiters_max = waiters_max
        self._dropped = 0  # waiters that may still stand dead in a queue
        self._next_number = 0
        self._index = 0
        self._total = 1
        self.throttled: dict[str, int] = {}  # the last one refused stands last

    # -- declarations
    def declare(self, stream: Hashable, namespace: str, limits: Iterable[Limit]) -> list[int]:
        """A stream's limits; a later declaration of a gate overwrites. Entries <= 0 are ignored. Runs that may go now."""
        touched: set[tuple[str, str]] = set()
        for limit in limits:
            if limit.max_concurrent <= 0:
                continue
            key = (namespace, limit.actor_type, limit.name or None)
            if (gate := self._gates.get(key)) is None:
                gate = self._gates[key] = _Gate(0, 0)
                self._types[key[:2]] = self._types.get(key[:2], 0) + 1
            gate.limit = limit.max_concurrent
            gate.share = share_of(gate.limit, self._index, self._total)
            gate.declared_by.add(stream)
            touched.add(key[:2])
        return self._admit_waiters([first for first in self._queues if first[:2] in touched])

    def withdraw(self, stream: Hashable) -> tuple[list[int], list[int]]:
        """The stream is gone: (runs that may go now, waiters of gates that nobody declares any more: undeliverable)."""
        dropped: list[int] = []
        gone = []
        for key, gate in self._gates.items():
            gate.declared_by.discard(stream)
            if not gate.declared_by:
                gone.append(key)
        for key in gone:
            dropped += self._drop_queue(key)
            self._forget(key)
        types = {key[:2] for key in gone}
        still = [key for key in self._queues if key[:2] in types]
        return self._admit_waiters(still), dropped

    def gated(self, namespace: str, actor_type: str) -> bool:
        """Any gate of this type is declared."""
        return (namespace, actor_type) in self._types

    def declared_types(self) -> set[tuple[str, str]]:
        """(namespace, actor type) of every gate."""
        return set(self._types)

    def set_share(self, index: int, total: int) -> list[int]:
        """The place of this replica among all; runs that may go now."""
        self._index, self._total = index, total
        for gate in self._gates.values():
            gate.share = share_of(gate.limit, index, total)
        return self._admit_waiters(list(self._queues))

    # -- runs
    def admit(self, run: int, namespace: str, actor_type: str, concurrency_key: str | None) -> Admission:
        """Takes a slot in every gate of the run, or lets it wait."""
        keys = self._keys_of(namespace, actor_type, concurrency_key)
        refused = next((key for key in keys if not self._has_room(key)), None)
        if refused is None:
            self._hold(run, keys)
            return Admission.GO
        self._count_throttled(label(refused))
        first = keys[0]
        if self._waiting.get(first, 0) >= self._waiters_max:
            return Admission.FULL
        waiter = _Waiter(self._next_number, run, keys)
        self._next_number += 1
        self._queues.setdefault(first, {}).setdefault(keys[1] if len(keys) > 1 else None, deque()).append(waiter)
        self._waiters[run] = waiter
        self._waiting[first] = self._waiting.get(first, 0) + 1
        return Admission.WAIT

    def release(self, run: int) -> list[int]:
        """A run has its result, or its stream went; runs that may go now, slots taken."""
        held = self._held.pop(run, ())
        for _, gate in held:
            gate.used -= 1
        firsts = [key for key in self._queues if held and key[:2] == held[0][0][:2]]
        return self._admit_waiters(firsts)

    def drop(self, run: int) -> None:
        """A waiter whose job changed or went."""
        waiter = self._waiters.pop(run, None)
        if waiter is not None:
            waiter.run = -1
            self._waiting[waiter.keys[0]] -= 1
            self._forget_if_empty(waiter.keys[0])
            self._dropped += 1
            if self._dropped > len(self._waiters) + DEAD_WAITERS_MAX:
                self._sweep()

    def evict(self, namespace: str, actor_type: str) -> list[int]:
        """No stream takes this type any more: its waiters, undeliverable."""
        dropped: list[int] = []
        for key in [key for key in self._queues if key[:2] == (namespace, actor_type)]:
            dropped += self._drop_queue(key)
        return dropped

    def gauges(self) -> dict[str, tuple[int, int]]:
        """Gate label -> (in flight, waiting), summed over namespaces."""
        found: dict[str, tuple[int, int]] = {}
        for key, gate in self._gates.items():
            used, waiting = found.get(label(key), (0, 0))
            found[label(key)] = (used + gate.used, waiting + self._waiting.get(key, 0))
        return found

    # -- inside
    def _count_throttled(self, gate: str) -> None:
        # As with Dapr a count outlives its gate; but not without a bound, where limits come and go with the names of tenants.
        count = self.throttled.pop(gate, 0)
        if len(self.throttled) >= THROTTLED_LABELS_MAX:
            del self.throttled[next(iter(self.throttled))]
        self.throttled[gate] = count + 1

    def _forget(self, key: GateKey) -> None:
        del self._gates[key]
        self._types[key[:2]] -= 1
        if not self._types[key[:2]]:
            del self._types[key[:2]]

    def _keys_of(self, namespace: str, actor_type: str, concurrency_key: str | None) -> tuple[GateKey, ...]:
        whole: GateKey = (namespace, actor_type, None)
        named: GateKey = (namespace, actor_type, concurrency_key)
        keys = (whole,) if whole in self._gates else ()
        return (*keys, named) if concurrency_key and named in self._gates else keys

    def _has_room(self, key: GateKey) -> bool:
        gate = self._gates.get(key)
        return gate is None or gate.used < gate.share

    def _hold(self, run: int, keys: tuple[GateKey, ...]) -> None:
        held = tuple((key, gate) for key in keys if (gate := self._gates.get(key)) is not None)
        for _, gate in held:
            gate.used += 1
        if held:
            self._held[run] = held

    def _admit_waiters(self, firsts: Iterable[GateKey]) -> list[int]:
        admitted: list[int] = []
        for first in firsts:
            while self._has_room(first) and (waiter := self._oldest_that_can_go(first)) is not None:
                self._hold(waiter.run, waiter.keys)
                del self._waiters[waiter.run]
                self._waiting[first] -= 1
                admitted.append(waiter.run)
            self._forget_if_empty(first)
        return admitted

    def _oldest_that_can_go(self, first: GateKey) -> _Waiter | None:
        best: deque[_Waiter] | None = None
        for second, queue in self._queues.get(first, {}).items():
            while queue and queue[0].run < 0:
                queue.popleft()
            if queue and (second is None or self._has_room(second)) and (best is None or queue[0].number < best[0].number):
                best = queue
        return None if best is None else best.popleft()

    def _sweep(self) -> None:
        # Behind a gate that nothing leaves, the dead would never come to the head.
        for queues in self._queues.values():
            for second, queue in queues.items():
                queues[second] = deque(waiter for waiter in queue if waiter.run >= 0)
        self._dropped = 0

    def _drop_queue(self, first: GateKey) -> list[int]:
        waiting = [waiter for queue in self._queues.pop(first, {}).values() for waiter in queue if waiter.run >= 0]
        self._waiting.pop(first, None)
        waiting.sort(key=lambda waiter: waiter.number)
        for waiter in waiting:
            del self._waiters[waiter.run]
        return [waiter.run for waiter in waiting]

    def _forget_if_empty(self, first: GateKey) -> None:
        if not self._waiting.get(first):
            self._waiting.pop(first, None)
            self._queues.pop(first, None)
