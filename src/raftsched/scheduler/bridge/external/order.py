"""Two watches on one stream as one sequence: of Dapr's keys, and of those that Dapr does not have (decision 0012).

etcd keeps the order within a watch, not between two. What comes of Dapr's keys is told at once. What comes beside them waits until
everything of Dapr's up to its revision has been told: a pause that ends must not be heard of before the counter that was moved with it,
nor a state before its job. That takes a question for progress, so it is later than the job's own keys, by the time of one question.
Invariant: whole revisions, each watch in revision order, nothing twice. Pure. Must not know: streams, what a change means.
"""

import heapq
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from raftsched.limits import EXTERNAL_HELD_CHANGES_MAX, EXTERNAL_TELL_CHANGES
from raftsched.scheduler.jobs.names import prefix_end

MAIN: Final = 1
BESIDE: Final = 2
ROOTS: Final = {BESIDE: b"raftsched/", MAIN: b"dapr/"}
"""By id of the watch, in the order in which they are opened."""
RANGES: Final = {side: (root, prefix_end(root)) for side, root in ROOTS.items()}
ALL: Final = -1  # the id in an answer that is of every watch on the stream


class TooManyError(Exception):
    """More is waiting to be told than is kept."""


class Told(NamedTuple):
    """Events (etcd's messages) that are next, and the revisions that are told with them."""

    events: Sequence[Any]
    main: int
    beside: int


class Order:
    """`main` and `beside`: the revisions up to which all was told. Who takes a `Told` says so by `done`."""

    def __init__(self) -> None:
        self.main = 0
        self.beside = 0
        self._got = 0
        """What came of BESIDE is all there is up to this revision."""
        self._held: list[Any] = []
        self._parts: dict[int, list[Any]] = {}
        """Of a revision whose events do not fit into one message, by watch."""

    @property
    def holds(self) -> bool:
        """Something waits for progress of the other watch."""
        return bool(self._held)

    def covers(self, revision: int, *, beside: bool) -> bool:
        """All up to there was told; `beside`: of both watches."""
        return revision <= self.main and (not beside or revision <= self.beside)

    def start(self, side: int) -> int:
        """The revision at which a watch has to begin; 0 = at the present."""
        known = self.main if side == MAIN else self.beside
        return known + 1 if known else 0

    def opened(self, side: int, revision: int) -> None:
        """A watch begins, at this revision of the store; what an earlier one did not get to tell comes again."""
        self._parts.pop(side, None)
        if side == MAIN:
            self.main = self.main or revision
            return
        self.beside = self._got = self.beside or revision
        self._held.clear()

    def forget(self) -> None:
        """The history was lost."""
        self.main = self.beside = self._got = 0
        self._held.clear()
        self._parts.clear()

    def came(self, answer: Any) -> Iterator[Told]:
        """A WatchResponse that is not the end of a watch. Raises `TooManyError`."""
        if not answer.events:
            for side in ROOTS if answer.watch_id == ALL else (answer.watch_id,):
                if not self._parts.get(side):
                    yield from self._reached(side, [], answer.header.revision)
            return
        events = [*self._parts.pop(answer.watch_id, ()), *answer.events]
        if answer.fragment:
            last = events[-1].kv.mod_revision
            whole = next((at for at, event in enumerate(events) if event.kv.mod_revision == last), 0)
            self._parts[answer.watch_id] = events[whole:]
            events = events[:whole]
        if events:
            yield from self._reached(answer.watch_id, events, events[-1].kv.mod_revision)

    def done(self, told: Told) -> None:
        self.main, self.beside = max(self.main, told.main), max(self.beside, told.beside)

    # -- inside
    def _reached(self, side: int, events: list[Any], revision: int) -> Iterator[Told]:
        if side == BESIDE:
            self._held += events
            self._got = max(self._got, revision)
            if len(self._held) > EXTERNAL_HELD_CHANGES_MAX:
                raise TooManyError(f"{len(self._held)} changes of {ROOTS[BESIDE].decode()} wait for older ones")
            events, revision = [], self.main
        limit = max(self.main, revision)
        free = [event for event in self._held if event.kv.mod_revision <= limit]
        self._held = self._held[len(free) :]
        for some in _slices(list(heapq.merge(events, free, key=_revision))):
            reached = _revision(some[-1])
            yield Told(some, reached, min(self._got, max(self.main, reached)))
        yield Told((), limit, min(self._got, limit))


def _revision(event: Any) -> int:
    return int(event.kv.mod_revision)


def _slices(events: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Of events in revision order: some at a time, whole revisions."""
    begin = 0
    for at in range(1, len(events)):
        if at - begin >= EXTERNAL_TELL_CHANGES and events[at].kv.mod_revision != events[at - 1].kv.mod_revision:
            yield events[begin:at]
            begin = at
    if begin < len(events):
        yield events[begin:]
