"""The space quota: whether a write still fits.

Invariant: what frees space (deletes, compaction, revocation, alarms, Defragment) is never refused here.
Must not know: where sizes come from.
"""

from collections.abc import Callable, Sequence
from typing import Final

from raftsched.proposals import LEASE_GRANT, PUT, TXN

QUOTA_DEFAULT_BYTES: Final = 2 << 30  # etcd's, where the option is 0
CHARGED: Final = frozenset({PUT, TXN, LEASE_GRANT})
COST_OVERHEAD_BYTES: Final = 256  # of a put (etcd-api §1.5); more than its encoding ever takes


class Quota:
    """`limit_bytes`: the space bound; 0 = none."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes

    def refused(self, kind: int, messages: Sequence[bytes], total_bytes: int, used_bytes: int, cost: Callable[[int, bytes], int]) -> bool:
        """Whether any of the messages must be refused, so that the alarm is to be raised.

        A batch far from the limit is passed by one comparison: no message costs more than its length and a fixed part per operation.
        """
        if kind not in CHARGED or not self.limit_bytes:
            return False
        # an operation inside a transaction takes at least 4 bytes on the wire
        bound = total_bytes + COST_OVERHEAD_BYTES * (len(messages) + (total_bytes // 4 if kind == TXN else 0))
        if used_bytes + bound < self.limit_bytes:
            return False
        return any(self.over(cost(kind, message), used_bytes) for message in messages)

    def over(self, cost_bytes: int, used_bytes: int) -> bool:
        """etcd's rule: used + cost >= quota; what costs nothing passes."""
        return bool(self.limit_bytes) and cost_bytes > 0 and used_bytes + cost_bytes >= self.limit_bytes
