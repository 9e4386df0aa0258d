"""Counts of a histogram, cheap enough for every batch.

Must not know: what is measured; Prometheus.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

Samples = tuple[Sequence[tuple[float, int]], float]
"""Of a histogram: ([(upper bound, cumulative count), ..., (inf, all)], sum)."""

ETCD_DISK_BOUNDS = tuple(0.001 * 2**power for power in range(14))  # etcd's buckets of fsync and commit, in seconds
HASH_BOUNDS = tuple(0.01 * 2**power for power in range(15))  # etcd_mvcc_hash(_rev)_duration_seconds
SNAPSHOT_BOUNDS = tuple(0.01 * 2**power for power in range(17))  # etcd_disk_backend_snapshot_duration_seconds
DEFRAGMENT_BOUNDS = tuple(0.1 * 2**power for power in range(13))  # etcd_disk_backend_defrag_duration_seconds
APPLY_BOUNDS = tuple(0.0001 * 2**power for power in range(20))  # etcd_server_(apply|range)_duration_seconds
TTL_BOUNDS = tuple(float(2**power) for power in range(24))  # etcd_debugging_lease_ttl_total, in seconds
INDEX_PAUSE_BOUNDS = tuple(0.5 * 2**power for power in range(14))  # etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds
COMPACTION_BOUNDS = tuple(100.0 * 2**power for power in range(14))  # etcd_debugging_mvcc_db_compaction_total_duration_milliseconds


class Histogram:
    """Observations by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """`count` observations of `value` each."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def sample(self) -> Samples:
        return cumulative(self._bounds, self._counts, self._sum)


def cumulative(bounds: Sequence[float], counts: Sequence[int], total: float) -> Samples:
    """From counts per bucket, the last of which has no bound."""
    return list(zip((*bounds, float("inf")), accumulate(counts), strict=True)), total
