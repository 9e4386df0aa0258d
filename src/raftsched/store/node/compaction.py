"""When to compact, and to which revision: etcd's two modes, and the bound on history.

Pure: time and revisions come as arguments. Must not know: how a compaction is done.
"""

from typing import Literal

from raftsched import limits

HOUR_MS = 3_600_000
REVISION_MODE_INTERVAL_MS = 300_000  # etcd checks every five minutes
HISTORY_SPACE_SHARE = 0.25


class AutoCompactor:
    """`due` says where to compact to; `done` that it worked."""

    def __init__(self, mode: Literal["periodic", "revision"], retention: int, mono_ms: int) -> None:
        """`retention`: ms (periodic) or revisions (revision); 0 = off."""
        self._periodic = mode == "periodic"
        self._retention = retention
        self._compact_interval_ms = min(retention, HOUR_MS) if self._periodic else REVISION_MODE_INTERVAL_MS
        self._sample_interval_ms = max(self._compact_interval_ms // 10, 1) if self._periodic else REVISION_MODE_INTERVAL_MS
        self._wait_ms = retention  # the first compaction comes after the whole retention, later ones each interval
        self._last_success_ms = mono_ms
        self._last_revision = 0
        self._next_ms = mono_ms + (0 if self._periodic else REVISION_MODE_INTERVAL_MS)
        self._samples: list[int] = []

    def due(self, mono_ms: int, revision: int) -> int:
        """To be called now and then; a revision to compact to, or 0."""
        if not self._retention or mono_ms < self._next_ms:
            return 0
        self._next_ms = mono_ms + self._sample_interval_ms
        target = self._sampled(mono_ms, revision) if self._periodic else revision - self._retention
        return target if target > 0 and target != self._last_revision else 0

    def _sampled(self, mono_ms: int, revision: int) -> int:
        """etcd's rule: the oldest sample within the retention, once the interval has passed since the last success."""
        oldest = self._samples[0] if self._samples else 0
        self._samples.append(revision)
        del self._samples[: -(self._retention // self._sample_interval_ms + 1)]
        if mono_ms - self._last_success_ms < self._wait_ms:
            return 0
        self._wait_ms = self._compact_interval_ms
        return oldest

    def done(self, mono_ms: int, revision: int) -> None:
        """The compaction to `revision` was applied, or another had gone further."""
        self._last_revision = revision
        self._last_success_ms = mono_ms


def history_full(superseded: int, keys: int, in_use_bytes: int, bound_bytes: int) -> bool:
    """Whether what only history needs is above its bound; its bytes are estimated by its share of all records."""
    if superseded > limits.SUPERSEDED_RECORDS_MAX:
        return True
    if superseded <= limits.SUPERSEDED_RECORDS_KEPT or not bound_bytes:
        return False
    return in_use_bytes * superseded / (superseded + keys) > HISTORY_SPACE_SHARE * bound_bytes
