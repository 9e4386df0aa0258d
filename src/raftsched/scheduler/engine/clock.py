"""The time that the wheel is given: wall time, carried by the monotonic clock (docs/timing-wheel.md §4).

Invariant: it never runs backward and is never ahead of the wall clock: nothing fires early. Must not know: any clock; both
readings are arguments, in ns.
"""

from typing import Final

REANCHOR_NS: Final = 50_000_000  # a larger difference is a step of the wall clock, a smaller one drift
SLEW_SHARE: Final = 20  # at most 1/20 of the time that passed is added or taken to follow the drift


class TickClock:
    """Backward step: stands still until the wall catches up. Forward step: follows at once."""

    def __init__(self, wall_ns: int, mono_ns: int) -> None:
        self._anchor_wall_ns = wall_ns
        self._anchor_mono_ns = mono_ns
        self._last_ns = wall_ns
        self.steps_total = 0
        self.frozen_ns = 0
        """How far the wall clock is behind the last reading: so long time stands still."""

    def read(self, wall_ns: int, mono_ns: int) -> int:
        """The present instant in ns since the epoch."""
        elapsed = mono_ns - self._anchor_mono_ns
        estimate = self._anchor_wall_ns + elapsed
        drift = wall_ns - estimate
        if abs(drift) > REANCHOR_NS:
            self.steps_total += 1
            estimate = wall_ns
        else:
            bound = elapsed // SLEW_SHARE
            estimate += max(-bound, min(bound, drift))
        self._anchor_wall_ns, self._anchor_mono_ns = estimate, mono_ns
        present = min(estimate, wall_ns)
        self.frozen_ns = max(0, self._last_ns - present)
        self._last_ns = max(self._last_ns, present)
        return self._last_ns
