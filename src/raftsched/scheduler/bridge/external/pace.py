"""Whether a watch keeps pace with its etcd: what is known to be there, and what has been told.

A member that lags (a slow disk, a starved machine) answers all the same, with what it knows; a stream at it is neither silent nor broken.
Results of triggers would wait for it, and changes of others come late. So it is given up, the less readily the more often that was
so: where all members lag, another one is no better. Invariant: pure; ms of one monotonic clock are arguments.
Must not know: streams.
"""

from collections import deque
from typing import Final

from raftsched.limits import EXTERNAL_LAGS_MS, EXTERNAL_STANDS_MS, EXTERNAL_STEADY_MS

SEEN_MAX: Final = 64  # revisions not told yet that are remembered, one for each look at etcd's condition
PATIENCE_MAX: Final = 8


class Pace:
    """Of one watch, over all of its streams."""

    def __init__(self) -> None:
        self._ahead: deque[tuple[int, int]] = deque(maxlen=SEEN_MAX)
        """(a revision of etcd's that was not told yet, when it was heard of)."""
        self._opened_ms = self._moved_ms = 0
        self._patience = 1
        self.lags_total = 0
        self.lag = ""
        """Why a stream was given up, until what etcd is known to have was told after all."""

    def opened(self, now_ms: int) -> None:
        """A stream begins."""
        self._opened_ms = self._moved_ms = now_ms

    def ended(self, now_ms: int) -> None:
        if now_ms - self._opened_ms > EXTERNAL_STEADY_MS:
            self._patience = 1

    def moved(self, now_ms: int) -> None:
        """It told something new; or it was us who held it up until now."""
        self._moved_ms = now_ms

    def seen(self, revision: int, known: int, now_ms: int) -> bool:
        """etcd has this revision, and `known` is told; True = the stream is to be asked for it."""
        if revision > known:
            self._ahead.append((revision, now_ms))
            return True
        if not self.behind(known):
            self.lag = ""
        return False

    def behind(self, known: int) -> bool:
        """Something is not told yet."""
        while self._ahead and self._ahead[0][0] <= known:
            self._ahead.popleft()
        return bool(self._ahead)

    def forget(self) -> None:
        """The history was lost."""
        self._ahead.clear()

    def too_slow(self, known: int, now_ms: int) -> str:
        """Why the stream is to be given up; "" = it is not."""
        if not self.behind(known):
            return ""
        since_ms = self._ahead[0][1]
        stands_ms, lags_ms = now_ms - max(since_ms, self._moved_ms), now_ms - max(since_ms, self._opened_ms)
        if stands_ms <= EXTERNAL_STANDS_MS * self._patience and lags_ms <= EXTERNAL_LAGS_MS * self._patience:
            return ""
        self.lags_total += 1
        self._patience = min(2 * self._patience, PATIENCE_MAX)
        self.lag = f"it lags: etcd is at revision {self._ahead[-1][0]}, and {known} was told"
        return self.lag
