"""Is there one order of all operations that explains every answer? The search of Wing, Gong and Lowe, one partition at a time.

An operation takes effect at one instant between its call and its return. One whose outcome nobody knows (a timeout, a broken
connection) took effect at some instant after its call, or never: which is the same as after everything else. So it has no output and no
return, a model must let it happen in every state, and a history is explained as soon as all operations with a return are placed.

The search is exhaustive, so a `Violation` is a proof and None is one as well. It remembers (set of placed operations, state) pairs;
a history that needs more than `budget` of them raises `Undecided`, which is neither.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

BUDGET = 1_000_000  # pairs of (placed, state); each costs about 200 bytes
EXPLAINING_BUDGET = 200_000
SHOWN_STATES = 5
SHOWN_BEFORE = 8


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client. Instants are integers of one clock that all clients share; what they count is the caller's affair."""

    client: int
    call: int
    returned: int | None  # None: it may take effect at any later instant, or never
    input: Any
    output: Any = None  # None: the outcome is unknown

    def __str__(self) -> str:
        until = "?" if self.returned is None else self.returned
        answer = "outcome unknown" if self.output is None else self.output
        return f"[{self.call}..{until}] client {self.client}: {self.input} -> {answer}"


class Model(Protocol):
    """The sequential object that the history should look like."""

    def partition(self, history: Sequence[Operation]) -> Iterable[tuple[str, Sequence[Operation]]]:
        """Parts that do not touch each other, each with a name; without operations that change and explain nothing."""

    def initial(self) -> Hashable:
        """The state before the first operation."""

    def step(self, state: Any, operation: Operation) -> Iterable[Hashable]:
        """The states after `operation`; none when a known answer is impossible here. At least one for an unknown outcome."""

    def hopeless(self, state: Any, operation: Operation) -> bool:
        """Whether `operation` is impossible in `state` and in all that can follow: speed, never the verdict."""

    def order(self, operation: Operation) -> Any:
        """Which of several candidates to try first (smallest): speed, never the verdict."""


@dataclass(frozen=True, slots=True)
class Violation:
    """The smallest prefix that has no explanation (of a very hard one, some prefix): it ends with the return of `blocked`."""

    partition: str
    blocked: Operation
    prefix: tuple[Operation, ...]  # called before `blocked` returned, in order of their calls
    states: tuple[Hashable, ...]  # some of those that explain everything which returned earlier

    def __str__(self) -> str:
        others = [one for one in self.prefix if one is not self.blocked]
        beside = [one for one in others if one.returned is None or one.returned > self.blocked.call]
        before = [one for one in others if one.returned is not None and one.returned <= self.blocked.call]
        before.sort(key=lambda one: one.returned or 0)
        lines = [f"{self.partition}: no order explains this answer:", f"    {self.blocked}"]
        lines += ["everything that returned earlier is explained by one of these states, among others:" if self.states else ""]
        lines += [f"    {state}" for state in self.states]
        lines += ["at the same time, or with an unknown outcome:"] + [f"    {one}" for one in beside]
        lines += [f"the last of {len(before)} before it:"] + [f"    {one}" for one in before[-SHOWN_BEFORE:]]
        return "\n".join(line for line in lines if line)


class Undecided(Exception):  # no error of anybody: the search was not allowed to go on
    """The budget is used up."""


def check(history: Sequence[Operation], model: Model, *, budget: int = BUDGET) -> Violation | None:
    """The first violation found, or None: the history is linearizable. Raises `Undecided` when a partition needs too long."""
    for name, part in model.partition(history):
        if (found := Search(name, part, model, budget).run()) is not None:
            return _smallest(found, part, model)
    return None


def _smallest(found: Violation, part: Sequence[Operation], model: Model) -> Violation:
    """The same verdict by a search that gives no branch up early, and so sees how far every one goes; if that is feasible."""
    try:
        return Search(found.partition, part, model, EXPLAINING_BUDGET, patient=True).run() or found
    except Undecided:
        return found


@dataclass(slots=True)
class _Frame:
    """One choice: the state before it, what may be placed next, and what has been placed to come here."""

    state: Hashable
    choices: list[tuple[int, Hashable]]
    placed: int = -1


@dataclass(slots=True)
class Search:
    """The search over one partition.

    Calls and returns stand in one list by time (an event is `2 i` for the call of operation i and `2 i + 1` for its return), linked
    both ways, and a placed operation is unlinked. So what may come next are the calls before the first return.
    """

    name: str
    part: Sequence[Operation]
    model: Model
    budget: int
    patient: bool = False  # goes on where a later operation is hopeless already
    _after: list[int] = field(default_factory=list)
    _before: list[int] = field(default_factory=list)
    _seen: set[tuple[int, Hashable]] = field(default_factory=set)
    _bits: int = 0
    _blocked: tuple[int, int] = (-1, -1)  # the latest first return that any node had to face: its position and its operation
    _states: list[Hashable] = field(default_factory=list)
    _position: dict[int, int] = field(default_factory=dict)

    def run(self) -> Violation | None:
        self.part = sorted(self.part, key=lambda one: one.call)
        self._link()
        stack = [_Frame(self.model.initial(), [])]
        waiting = sum(one.returned is not None for one in self.part)
        self._open(stack[-1])
        while waiting:
            if stack[-1].choices:
                number, state = stack[-1].choices.pop()
                if self._place(number, state):
                    waiting -= self.part[number].returned is not None
                    stack.append(_Frame(state, [], number))
                    self._open(stack[-1])
                continue
            frame = stack.pop()
            if not stack:
                return self._violation()
            waiting += self.part[frame.placed].returned is not None
            self._take_back(frame.placed)
        return None

    def _link(self) -> None:
        """At one instant returns stand behind calls: the operations overlap, which allows more and never accuses wrongly."""
        count = len(self.part)
        events = [(one.call, 0, 2 * number) for number, one in enumerate(self.part)]
        returns = [(number, one) for number, one in enumerate(self.part) if one.returned is not None]
        events += [(one.returned or 0, 1 + (one.output is None), 2 * number + 1) for number, one in returns]
        order = [event for _, _, event in sorted(events)]
        self._position = {event: position for position, event in enumerate(order)}
        end = 2 * count  # the list's head and end
        self._after, self._before = [-1] * (end + 1), [-1] * (end + 1)
        for left, right in zip([end, *order], [*order, end], strict=True):
            self._after[left], self._before[right] = right, left

    def _open(self, frame: _Frame) -> None:
        """Fills in the choices, best last."""
        event = self._after[-1]
        candidates = []
        while event % 2 == 0 and event != 2 * len(self.part):
            candidates.append(event // 2)
            event = self._after[event]
        if event % 2:
            self._note_blocked(event, frame.state)
        if not self.patient and any(self.model.hopeless(frame.state, self.part[number]) for number in candidates):
            return
        candidates.sort(key=lambda number: (self.part[number].output is None, self.model.order(self.part[number])), reverse=True)
        for number in candidates:
            after = list(self.model.step(frame.state, self.part[number]))
            if after == [frame.state] and self.part[number].output is not None:
                frame.choices = [(number, frame.state)]  # a read that fits: to place it now never spoils anything
                return
            frame.choices += [(number, state) for state in after]

    def _note_blocked(self, event: int, state: Hashable) -> None:
        position = self._position[event]
        if position > self._blocked[0]:
            self._blocked = position, event // 2
            self._states = []
        if position == self._blocked[0] and len(self._states) < SHOWN_STATES and state not in self._states:
            self._states.append(state)

    def _place(self, number: int, state: Hashable) -> bool:
        bits = self._bits | 1 << number
        if (bits, state) in self._seen:
            return False
        if len(self._seen) >= self.budget:
            raise Undecided(f"{self.name}: {len(self.part)} operations, {self.budget} pairs of placed operations and state were not enough")
        self._seen.add((bits, state))
        self._bits = bits
        for event in self._events(number):
            left, right = self._before[event], self._after[event]
            self._after[left], self._before[right] = right, left
        return True

    def _take_back(self, number: int) -> None:
        self._bits &= ~(1 << number)
        for event in reversed(self._events(number)):
            self._after[self._before[event]] = self._before[self._after[event]] = event

    def _events(self, number: int) -> tuple[int, ...]:
        return (2 * number,) if self.part[number].returned is None else (2 * number, 2 * number + 1)

    def _violation(self) -> Violation:
        blocked = self.part[self._blocked[1]]
        assert blocked.returned is not None
        prefix = tuple(one for one in self.part if one.call <= blocked.returned)
        return Violation(self.name, blocked, prefix, tuple(self._states))
