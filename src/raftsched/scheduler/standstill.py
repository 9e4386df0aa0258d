"""Whether this replica delivers (docs/observability.md, "Readiness"): what was to go on and does not, told of instants.

What delivers is known by what goes through: the canary, a trigger of no job that goes from the wheel through the engine and delivery and
comes back, and the triggers of jobs themselves. So a reason that nobody thought of is seen, too; who knows one names it.
Pure: all times are monotonic ms and arguments. Must not know: the engine, the store, who asks.
"""

from bisect import bisect_right
from collections.abc import Hashable
from typing import Final

from raftsched.limits import STUCK_MS

PARTS: Final = ("server", "store", "commit", "wheel", "delivery", "namespaces")
"""Of what something may stand still; the bounded label of the metric."""
Obstacle = tuple[str, str]
"""(one of PARTS, why)."""


class Standstill:
    """Of one scheduler."""

    def __init__(self, bounds_ms: tuple[int, ...]) -> None:
        """`bounds_ms`: of the canary's buckets, rising; one more holds the rest."""
        self._bounds_ms = bounds_ms
        self.canary_counts = [0] * (len(bounds_ms) + 1)
        self.canary_sum_ms = 0
        self._canary_due_ms = 0
        self._back_ms = -STUCK_MS  # nothing has come back yet: it has not shown that it can deliver
        self._sent_ms = -STUCK_MS
        self._commits: dict[Hashable, int] = {}  # since when each is on its way; COMMITS_IN_FLIGHT_MAX of them

    # -- what happens
    def canary_due(self, due_ms: int) -> None:
        """It is to come back then."""
        self._canary_due_ms = due_ms

    def canary_back(self, mono_ms: int) -> None:
        """A clock that is set forth brings it early: that is on time."""
        late_ms = max(0, mono_ms - self._canary_due_ms)
        self.canary_counts[bisect_right(self._bounds_ms, late_ms)] += 1
        self.canary_sum_ms += late_ms
        self._back_ms = mono_ms

    def sent(self, mono_ms: int) -> None:
        """A trigger of a job went to a worker."""
        self._sent_ms = mono_ms

    def commit_begun(self, commit: Hashable, mono_ms: int) -> None:
        """Results went to the store, perhaps again: it counts from the first time."""
        self._commits.setdefault(commit, mono_ms)

    def commit_ended(self, commit: Hashable) -> None:
        """They are stored, or will never be asked for again."""
        self._commits.pop(commit, None)

    # -- what follows
    def oldest_commit_ms(self, mono_ms: int) -> int:
        """For how long the oldest results have been on their way to the store; 0 = there are none."""
        return max((mono_ms - since_ms for since_ms in self._commits.values()), default=0)

    def look(self, mono_ms: int, *, obstacle: Obstacle, store: str, unsent_ms: int) -> dict[str, str]:
        """What stands still, and why, by its part; empty = this replica delivers.

        `obstacle`: what is in the way of the canary now, as far as that is known. `store`: why the store does not go on, "" = it does.
        `unsent_ms`: for how long the oldest trigger has been in the line of a worker that reads.
        """
        found: dict[str, str] = {}
        if store:
            found["store"] = store
        commit_ms = self.oldest_commit_ms(mono_ms)
        if commit_ms >= STUCK_MS:
            found["commit"] = f"results of triggers have been on their way to the store for {commit_ms / 1000:.1f} s"
        if mono_ms - max(self._back_ms, self._sent_ms) >= STUCK_MS:
            part, why = obstacle
            found[part] = f"{found[part]}; {why}" if part in found else why
        if unsent_ms >= STUCK_MS and mono_ms - self._sent_ms >= STUCK_MS:
            found.setdefault("delivery", f"a trigger has been in the line of a worker that reads for {unsent_ms / 1000:.1f} s")
        return found
