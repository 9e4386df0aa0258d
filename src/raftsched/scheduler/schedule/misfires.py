"""Which of the ticks that nobody ran in time are run after all, as the engine finds it out (engine/_engine/misfires.pxi), for explaining.

Invariant: the same ticks as the engine's, to the millisecond in which it looks. Must not know: the clock, jobs.
"""

from bisect import bisect_right
from dataclasses import dataclass

from raftsched.limits import EXPLAINED_PASSED_MAX, MISFIRE_RUNS_MAX
from raftsched.scheduler.schedule.dialect import Extended
from raftsched.scheduler.schedule.go import NS_PER_S
from raftsched.scheduler.schedule.schedules import EVERY, Schedule

NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Misfire:
    """The policy of a job: those that are not older than the window (None: however old), of these the latest `most` (0: all)."""

    window_ns: int | None = None
    most: int = 0

    def wanted(self, schedule: Schedule | Extended | None, tick_ns: int, now_ns: int) -> int | None:
        """The first tick from `tick_ns` on that is run, if somebody looks now; None: there is none. `schedule` None: a one-shot."""
        now_ns -= now_ns % NS_PER_MS
        if tick_ns > now_ns - NS_PER_MS or (self.window_ns is None and not self.most):
            return tick_ns
        if schedule is None:
            return tick_ns if self.window_ns is None or now_ns - tick_ns <= self.window_ns else None
        if isinstance(schedule, Extended):
            return self._of_extended(schedule, tick_ns, now_ns)
        if schedule.kind == EVERY:
            return tick_ns + self._passed(schedule.interval_ns, now_ns - tick_ns) * schedule.interval_ns
        return self._of_calendar(schedule, tick_ns, now_ns)

    def _passed(self, interval_ns: int, elapsed_ns: int) -> int:
        if interval_ns <= 0:
            return 0
        by_number = elapsed_ns // interval_ns + 1 - self.most if self.most else 0
        by_age = 0 if self.window_ns is None else -((self.window_ns - elapsed_ns) // interval_ns)
        return max(by_number, by_age, 0)

    def _of_calendar(self, schedule: Schedule, tick_ns: int, now_ns: int) -> int | None:
        first: int | None = tick_ns
        if self.most:
            latest = latest_ticks(schedule, tick_ns, now_ns, min(self.most, MISFIRE_RUNS_MAX))
            first = latest[-1] if len(latest) == self.most else tick_ns
        if self.window_ns is not None and first is not None and first // NS_PER_S * NS_PER_S < now_ns - self.window_ns:
            first = schedule.next_after(now_ns - self.window_ns - 1)
        return first if first is None or first // NS_PER_S > tick_ns // NS_PER_S else tick_ns

    def _of_extended(self, schedule: Extended, tick_ns: int, now_ns: int) -> int | None:
        first, until_ns = tick_ns, now_ns
        for _ in range(min(self.most, MISFIRE_RUNS_MAX)):
            found = schedule.last_between(tick_ns, until_ns)
            if found is None:
                first = tick_ns
                break
            first, until_ns = found, found - NS_PER_MS
        if self.window_ns is None or first >= now_ns - self.window_ns:
            return first
        found = schedule.next_after(now_ns - self.window_ns - NS_PER_MS)
        return None if found is None else max(found, tick_ns)


def latest_ticks(schedule: Schedule, after_ns: int, until_ns: int, most: int) -> list[int]:
    """The last ticks of a calendar that are after one instant and not after another, the latest first."""
    found: list[int] = []
    start_s, end_s = after_ns // NS_PER_S, until_ns // NS_PER_S
    while len(found) < most:
        seconds = range(start_s, end_s + 1)  # those from which the next tick is too late are the last ones
        late = bisect_right(seconds, until_ns, key=lambda second: _next(schedule, second * NS_PER_S, until_ns))
        if not late:
            return found
        tick_ns = _next(schedule, seconds[late - 1] * NS_PER_S, until_ns)
        found.append(tick_ns)
        until_ns = tick_ns - 1
        end_s = until_ns // NS_PER_S
    return found


def _next(schedule: Schedule | Extended, after_ns: int, until_ns: int) -> int:
    tick_ns = schedule.next_after(after_ns)
    return until_ns + 1 if tick_ns is None else tick_ns


def count_passed(schedule: Schedule | Extended | None, from_ns: int, to_ns: int) -> int:
    """Ticks from one, which is one, to another instant, which is not counted; of a calendar up to `EXPLAINED_PASSED_MAX`."""
    if to_ns <= from_ns:
        return 0
    if schedule is None:
        return 1
    if schedule.kind == EVERY:
        return -((from_ns - to_ns) // schedule.interval_ns) if schedule.interval_ns else 0
    count, tick_ns = 0, from_ns
    while tick_ns < to_ns and count < EXPLAINED_PASSED_MAX:
        count += 1
        tick_ns = _next(schedule, tick_ns, to_ns)
    return count
