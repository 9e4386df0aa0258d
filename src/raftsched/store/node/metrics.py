"""Counts of a histogram, cheap enough for every batch.

Must not know: what is measured; Prometheus.
"""

from bisect import bisect_left
from collections.abc import Sequence

ETCD_DISK_BOUNDS = tuple(0.001 * 2**power for power in range(14))  # etcd's buckets of fsync and commit, in seconds
HASH_BOUNDS = tuple(0.01 * 2**power for power in range(15))  # etcd_mvcc_hash(_rev)_duration_seconds
SNAPSHOT_BOUNDS = tuple(0.01 * 2**power for power in range(17))  # etcd_disk_backend_snapshot_duration_seconds
DEFRAGMENT_BOUNDS = tuple(0.1 * 2**power for power in range(13))  # etcd_disk_backend_defrag_duration_seconds
APPLY_BOUNDS = tuple(0.0001 * 2**power for power in range(20))  # etcd_server_apply_duration_seconds


class Histogram:
    """Observations by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def sample(self) -> tuple[Sequence[tuple[float, int]], float]:
        """([(upper bound, cumulative count), ..., (inf, all)], sum)."""
        total = 0
        found = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            found.append((bound, total))
        return found, self._sum
