"""When Sentry is asked for a certificate: the first one, the next one, again after a failure (spec §2.7). No IO.

Invariant: from the first certificate on there always is an instant at which the next one is asked for, ahead of now when it is chosen: a
certificate that is of little use is no reason to ask in a circle. Instants and durations are seconds; `now` is the wall clock, as that of
certificates is.
Must not know: who asks, and how.
"""

from collections.abc import Callable
from typing import Final

ATTEMPTS: Final = 5  # of one request, while Sentry cannot be reached
ATTEMPT_S: Final = 3.0  # for the answer to one
PAUSE_S_MIN: Final = 0.5  # between the beginnings of two attempts: doubling up to ATTEMPT_S, with jitter
RETRY_S: Final = 10.0  # after a renewal that failed; sooner when the certificate is about to expire
RETRY_S_MIN: Final = 1.0
LOOK_S_MAX: Final = 60.0  # a clock that was set, a machine that slept
JITTER: Final = 0.1  # of a pause
EARLIER: Final = 0.02  # of the way to the half: at most so much before it


def pause_s(attempt: int, took_s: float, chance: Callable[[], float]) -> float | None:
    """How long to wait behind attempt number `attempt` (from 1), which took so long and failed; None = that was the last one."""
    if attempt >= ATTEMPTS:
        return None
    gap_s = min(PAUSE_S_MIN * (1 << (attempt - 1)), ATTEMPT_S)
    return max(gap_s * (1 - JITTER * chance()) - took_s, 0.0)


class Renewal:
    """`chance()` is uniform in [0, 1): members that started together do not ask together for ever."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._not_after = 0.0
        self.due = 0.0
        """0 = at once."""

    def on_signed(self, now: float, not_before: float, not_after: float) -> None:
        """At half of the validity; Sentry dates certificates back, so that the half of a short one may lie behind us: then at a quarter of
        what is left."""
        half_s = (not_before + not_after) / 2 - now
        wait_s = max(half_s, (not_after - now) / 4, RETRY_S_MIN)
        self._not_after = not_after
        self.due = now + max(wait_s * (1 - EARLIER * self._chance()), RETRY_S_MIN)

    def on_failed(self, now: float) -> float:
        """Seconds until the next try."""
        left_s = self._not_after - now
        wait_s = RETRY_S if left_s <= 0 else min(RETRY_S, max(left_s / 4, RETRY_S_MIN))
        self.due = now + wait_s * (1 + JITTER * self._chance())
        return self.due - now

    def on_anchors_changed(self, now: float) -> None:
        """Whoever has only the new ones must be able to verify us: asked soon."""
        self.due = min(self.due, now + RETRY_S_MIN * (1 + self._chance()))

    def wait_s(self, now: float) -> float:
        """0 = ask now."""
        return min(max(self.due - now, 0.0), LOOK_S_MAX)
