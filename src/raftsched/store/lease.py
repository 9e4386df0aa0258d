"""The lessor: which leases there are, which keys hang on them, and, at the leader, when they end.

Two halves. What is *replicated* (grant, revoke, attachments) changes in apply alone and is the same on every member. *Deadlines* are
the leader's own: they start when it is promoted, move with keep-alives, and end in a revoke that travels through the log.
Invariant: a key has at most one lease; a lease lives at least its TTL after its last acknowledged keep-alive. Times are whole milliseconds,
rounded down: so a deadline is over when the clock shows more than it, for one that shows just as much may be a millisecond short of it.
Must not know: clocks (time comes as an argument), Raft, how keys are stored.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence

from raftsched import limits
from raftsched.errors import CorruptError, EtcdError
from raftsched.store.codec import WireError, numbers, varint_field

HEAP_SLACK = 1_024  # places of the heap without a lease, beyond as many as there are leases

SideWrite = Callable[[tuple[str, bytes, bytes | None]], None]
"""Takes (bucket, key, value or None) for the next transaction of the backend."""


class Lease:
    """One lease. `keys` are those attached now."""

    __slots__ = ("keys", "lease_id", "ttl_s")

    def __init__(self, lease_id: int, ttl_s: int) -> None:
        self.lease_id = lease_id
        self.ttl_s = ttl_s
        self.keys: set[bytes] = set()


def bucket_key(lease_id: int) -> bytes:
    return lease_id.to_bytes(8, "big", signed=True)


class Lessor:
    """All leases of one member; a `LeaseBook` for store/mvcc."""

    def __init__(self, write: SideWrite, *, ttl_min_s: int = limits.LEASE_TTL_S_MIN) -> None:
        self._write = write
        self._ttl_min_s = ttl_min_s
        self._leases: dict[int, Lease] = {}
        self._now_ms = 0
        self.primary = False
        # Leader only. Each lease has a place in the heap; when that comes up it is put back by its real deadline.
        self._deadlines_ms: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []
        self._revoking: set[int] = set()
        self.on_granted: Callable[[int], None] = lambda _ttl_s: None
        self.granted_total = 0
        self.revoked_total = 0
        self.renewed_total = 0
        self.expired_total = 0

    def __len__(self) -> int:
        return len(self._leases)

    # -- LeaseBook: called by mvcc inside apply

    def exists(self, lease: int) -> bool:
        return lease in self._leases

    def attach(self, lease: int, key: bytes) -> None:
        self._leases[lease].keys.add(key)

    def detach(self, lease: int, key: bytes) -> None:
        found = self._leases.get(lease)
        if found is not None:
            found.keys.discard(key)

    # -- apply

    def grant(self, lease: int, ttl_s: int) -> tuple[EtcdError, int]:
        """(error, effective TTL)."""
        if lease == 0:
            return EtcdError.LEASE_NOT_FOUND, 0
        if ttl_s > limits.LEASE_TTL_S_MAX:
            return EtcdError.LEASE_TTL_TOO_LARGE, 0
        if lease in self._leases:
            return EtcdError.LEASE_EXISTS, 0
        ttl_s = max(ttl_s, self._ttl_min_s)
        self._leases[lease] = Lease(lease, ttl_s)
        self._write(("lease", bucket_key(lease), varint_field(1, lease) + varint_field(2, ttl_s)))
        self.granted_total += 1
        self.on_granted(ttl_s)
        if self.primary:
            self._arm(lease, self._now_ms + ttl_s * 1000)
        return EtcdError.OK, ttl_s

    def keys_of(self, lease: int) -> list[bytes] | None:
        """Attached keys, sorted; None = no such lease."""
        found = self._leases.get(lease)
        return None if found is None else sorted(found.keys)

    def attached(self, lease: int) -> Collection[bytes]:
        """The same in no order and not copied; empty if there is no such lease."""
        found = self._leases.get(lease)
        return () if found is None else found.keys

    def revoke(self, lease: int) -> None:
        """The lease ends; its keys have been deleted before."""
        del self._leases[lease]
        self._deadlines_ms.pop(lease, None)
        self._revoking.discard(lease)
        self._write(("lease", bucket_key(lease), None))
        self.revoked_total += 1

    # -- start

    def load(self, items: Iterable[tuple[bytes, bytes]], attachments: Iterable[tuple[int, bytes]]) -> None:
        """From the bucket `lease` and the keys that the store found. Raises CorruptError."""
        for key, value in items:
            try:
                found = numbers(value)
            except WireError as error:
                raise CorruptError(f"bucket lease, key {key.hex()}: {error}") from error
            lease = found.get(1, 0)
            if bucket_key(lease) != key:
                raise CorruptError(f"bucket lease, key {key.hex()}: holds lease {lease:x}")
            self._leases[lease] = Lease(lease, found.get(2, 0))
        for lease, attached in attachments:
            if lease in self._leases:  # else its revocation is still to be replayed, or etcd left such a key behind
                self._leases[lease].keys.add(attached)

    # -- the leader's clock

    def set_time(self, mono_ms: int) -> None:
        """The present, for deadlines alone; nothing that is replicated depends on it."""
        self._now_ms = mono_ms

    def promote(self, mono_ms: int, extend_ms: int) -> None:
        """This member leads: every lease starts anew with its full TTL, and `extend_ms` for the time without a leader."""
        self.set_time(mono_ms)
        self.primary = True
        self._revoking.clear()
        self._deadlines_ms = {one.lease_id: mono_ms + one.ttl_s * 1000 + extend_ms for one in self._leases.values()}
        self._heap = [(deadline, lease) for lease, deadline in self._deadlines_ms.items()]
        heapq.heapify(self._heap)

    def demote(self) -> None:
        self.primary = False
        self._deadlines_ms.clear()
        self._heap.clear()
        self._revoking.clear()

    def _arm(self, lease: int, deadline_ms: int) -> None:
        self._deadlines_ms[lease] = deadline_ms
        heapq.heappush(self._heap, (deadline_ms, lease))
        if len(self._heap) > 2 * len(self._deadlines_ms) + HEAP_SLACK:  # most places belong to leases that were revoked early
            self._heap = [(deadline, one) for one, deadline in self._deadlines_ms.items() if one not in self._revoking]
            heapq.heapify(self._heap)

    def renew(self, lease: int, mono_ms: int) -> int:
        """The TTL in seconds after renewing; 0 = unknown; -1 = over, its revocation is on its way."""
        found = self._leases.get(lease)
        if found is None or not self.primary:
            return 0
        if self._deadlines_ms[lease] < mono_ms or lease in self._revoking:
            return -1
        self._deadlines_ms[lease] = mono_ms + found.ttl_s * 1000
        self.renewed_total += 1
        return found.ttl_s

    def expired(self, mono_ms: int, count_max: int = limits.LEASE_REVOKES_PER_TICK) -> list[int]:
        """Leases whose time is over, each once until `retry` names it again; the caller proposes their revocation."""
        over: list[int] = []
        while self._heap and self._heap[0][0] < mono_ms and len(over) < count_max:
            _, lease = heapq.heappop(self._heap)
            deadline = self._deadlines_ms.get(lease)
            if deadline is None or lease in self._revoking:
                continue  # revoked meanwhile; or granted again under its id and named by its other place
            if deadline >= mono_ms:
                heapq.heappush(self._heap, (deadline, lease))  # renewed meanwhile
                continue
            self._revoking.add(lease)
            over.append(lease)
        self.expired_total += len(over)
        return over

    def retry(self, lease: int) -> None:
        """The revocation of an expired lease did not get through: name it again."""
        if self.primary and lease in self._revoking:
            self._revoking.discard(lease)
            heapq.heappush(self._heap, (self._deadlines_ms[lease], lease))

    def time_to_live(self, lease: int, mono_ms: int) -> tuple[int, int]:
        """(seconds left, rounded down; granted TTL); (-1, 0) = unknown, or over."""
        found = self._leases.get(lease)
        if found is None:
            return -1, 0
        if not self.primary:
            return found.ttl_s, found.ttl_s
        left_ms = self._deadlines_ms[lease] - mono_ms
        return max(left_ms // 1000, 0), found.ttl_s

    def ids(self) -> Sequence[int]:
        """All leases, soonest end first."""
        return sorted(self._leases, key=lambda lease: (self._deadlines_ms.get(lease, 0), lease))
