"""The slow, obvious twin of the timing wheel: a dict, a heap per advance, and a list of cron seconds."""

import heapq
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from raftsched._core import FREE_WHEN_DONE, HORIZON_MS, MISSED_COALESCE, MISSED_SKIP, TimerWheel

Fire = tuple[object, int]


@cache
def buffers(capacity: int) -> tuple[array, array, array]:
    """handles, due, tags; one set per capacity, written over by each call"""
    return array("Q", bytes(8 * capacity)), array("q", bytes(8 * capacity)), array("I", bytes(4 * capacity))


def drain(wheel: TimerWheel, now: int, capacity: int = 4096) -> list[tuple[int, int, int]]:
    """All that is due: (handle, tag, due), by as many calls as the buffer needs."""
    handles, due, tags = buffers(capacity)
    fires: list[tuple[int, int, int]] = []
    while True:
        count = wheel.advance(now, handles, due, tags)
        fires += zip(handles[:count], tags[:count], due[:count], strict=True)
        if not wheel.more:
            return fires


def drain_keys(wheel: TimerWheel, now: int, capacity: int = 4096) -> list[tuple[bytes | None, int]]:
    """All that is due, by key; read after each call, as a caller would."""
    handles, due, _ = buffers(capacity)
    fires: list[tuple[bytes | None, int]] = []
    while True:
        count = wheel.advance(now, handles, due)
        fires += zip(wheel.keys_of(handles, count), due[:count], strict=True)
        if not wheel.more:
            return fires


@dataclass(slots=True)
class ModelJob:
    due: int
    period: int = 0
    flags: int = 0
    next_cron: Callable[[int], int] | None = None
    """Strictly after a ms; -1 = none."""


class WheelModel:
    """What one wheel must do, job by job."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.jobs: dict[object, ModelJob] = {}

    @property
    def live(self) -> int:
        return sum(job.due >= 0 for job in self.jobs.values())

    def next_due(self) -> int | None:
        return min((max(job.due, self.now) for job in self.jobs.values() if job.due >= 0), default=None)

    def advance(self, target: int) -> list[Fire]:
        target = max(target, self.now)
        fires: list[Fire] = []
        heap = [(job.due, number, name) for number, (name, job) in enumerate(self.jobs.items()) if 0 <= job.due <= target]
        heapq.heapify(heap)
        while heap:
            due, number, name = heapq.heappop(heap)
            job = self.jobs[name]
            if job.flags & MISSED_SKIP:
                due = self._newest(job, due, target)
            fires.append((name, due))
            job.due = self._following(job, due, target)
            if 0 <= job.due <= target:
                heapq.heappush(heap, (job.due, number, name))
            elif job.due < 0 and job.flags & FREE_WHEN_DONE:
                del self.jobs[name]
        self.now = target
        return fires

    def _tick(self, job: ModelJob, due: int) -> int:
        """The next tick after one at `due`; -1 = none."""
        if job.next_cron is not None:
            return job.next_cron(due)
        following = due + job.period
        return following if job.period and following <= HORIZON_MS else -1

    def _newest(self, job: ModelJob, due: int, target: int) -> int:
        """The last tick at or before the target; by division where the steps would be too many to walk."""
        if job.next_cron is None:
            return due + (target - due) // job.period * job.period if job.period and due < target else due
        while 0 <= (following := self._tick(job, due)) <= target:
            due = following
        return due

    def _following(self, job: ModelJob, due: int, target: int) -> int:
        if job.flags & (MISSED_COALESCE | MISSED_SKIP):
            due = max(due, self._newest(job, due, target))
        return self._tick(job, due)
