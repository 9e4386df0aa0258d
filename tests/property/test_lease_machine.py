"""The lessor against a model that keeps everything in plain dicts and sorts it all each time."""

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from raftsched.errors import EtcdError
from raftsched.store.lease import Lessor

LEASES = st.integers(-2, 6)
KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
EXTEND_MS = 500


class LeaseMachine(RuleBasedStateMachine):
    """Time is a number that the machine moves; the leader's deadlines follow it, what is replicated does not."""

    @initialize()
    def begin(self) -> None:
        self.bucket: dict[bytes, bytes] = {}
        self.lessor = Lessor(self.write)
        self.now_ms = 1_000
        self.primary = False
        self.ttl: dict[int, int] = {}
        self.keys: dict[bytes, int] = {}
        self.deadline: dict[int, int] = {}
        self.named: set[int] = set()

    def write(self, write: tuple[str, bytes, bytes | None]) -> None:
        bucket, key, value = write
        assert bucket == "lease"
        if value is None:
            del self.bucket[key]
        else:
            self.bucket[key] = value

    @rule(lease=LEASES, ttl_s=st.sampled_from([-5, 0, 1, 2, 3, 10, 9_000_000_000, 9_000_000_001]))
    def grant(self, lease: int, ttl_s: int) -> None:
        self.lessor.set_time(self.now_ms)
        error, told = self.lessor.grant(lease, ttl_s)
        if lease == 0:
            assert error == EtcdError.LEASE_NOT_FOUND
        elif ttl_s > 9_000_000_000:
            assert error == EtcdError.LEASE_TTL_TOO_LARGE
        elif lease in self.ttl:
            assert error == EtcdError.LEASE_EXISTS
        else:
            assert (error, told) == (EtcdError.OK, max(ttl_s, 2))
            self.ttl[lease] = told
            if self.primary:
                self.deadline[lease] = self.now_ms + told * 1000

    @rule(lease=LEASES, key=KEYS)
    def attach(self, lease: int, key: bytes) -> None:
        """As a put does: the old lease lets go first."""
        assert self.lessor.exists(lease) == (lease in self.ttl)
        if lease not in self.ttl:
            return
        if key in self.keys:
            self.lessor.detach(self.keys[key], key)
        self.lessor.attach(lease, key)
        self.keys[key] = lease

    @rule(lease=LEASES)
    def revoke(self, lease: int) -> None:
        attached = sorted(key for key, owner in self.keys.items() if owner == lease)
        assert self.lessor.keys_of(lease) == (attached if lease in self.ttl else None)
        if lease in self.ttl:
            for key in attached:
                self.lessor.detach(lease, key)
                del self.keys[key]
            self.lessor.revoke(lease)
            del self.ttl[lease]
            self.deadline.pop(lease, None)
            self.named.discard(lease)

    @rule(step_ms=st.sampled_from([1, 499, 1_000, 2_000, 11_000]))
    def pass_time(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @rule()
    def promote(self) -> None:
        self.primary = True
        self.lessor.promote(self.now_ms, EXTEND_MS)
        self.deadline = {lease: self.now_ms + ttl * 1000 + EXTEND_MS for lease, ttl in self.ttl.items()}
        self.named.clear()

    @rule()
    def demote(self) -> None:
        self.primary = False
        self.lessor.demote()
        self.deadline.clear()
        self.named.clear()

    @rule(lease=LEASES)
    def renew(self, lease: int) -> None:
        told = self.lessor.renew(lease, self.now_ms)
        if lease not in self.ttl or not self.primary:
            assert told == 0
        elif self.deadline[lease] < self.now_ms:
            assert told == -1
        else:
            assert told == self.ttl[lease]
            self.deadline[lease] = self.now_ms + told * 1000

    @rule(count_max=st.integers(1, 4))
    def expire(self, count_max: int) -> None:
        over = self.lessor.expired(self.now_ms, count_max)
        due = {lease for lease, deadline in self.deadline.items() if deadline < self.now_ms} - self.named
        assert len(over) == min(len(due), count_max)
        assert set(over) <= due
        self.named.update(over)

    @rule(lease=LEASES)
    def retry(self, lease: int) -> None:
        self.lessor.retry(lease)
        self.named.discard(lease)

    @rule()
    def restart(self) -> None:
        """A new process, from the bucket and the keys that the store found."""
        self.lessor = Lessor(self.write)
        self.lessor.load(sorted(self.bucket.items()), [(lease, key) for key, lease in self.keys.items()])
        self.demote()

    @invariant()
    def agrees(self) -> None:
        assert len(self.lessor) == len(self.ttl) == len(self.bucket)
        assert set(self.lessor.ids()) == set(self.ttl)
        if self.primary:
            assert list(self.lessor.ids()) == sorted(self.ttl, key=lambda lease: (self.deadline[lease], lease))
        for lease in range(-2, 7):
            left_s, granted_s = self.lessor.time_to_live(lease, self.now_ms)
            if lease not in self.ttl:
                assert (left_s, granted_s) == (-1, 0)
            elif self.primary:
                assert (left_s, granted_s) == (max((self.deadline[lease] - self.now_ms) // 1000, 0), self.ttl[lease])
        assert len(self.lessor._heap) <= len(self.ttl) + 64, "one place in the heap per lease"


LeaseMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestLeases = LeaseMachine.TestCase


@pytest.mark.parametrize("renewed", [False, True])
def test_a_lease_lives_its_whole_time_by_a_clock_of_whole_milliseconds(renewed: bool) -> None:
    """What is granted or renewed at 1,000.9 ms is seen at 1,000, and at 3,000.1 ms has 0.8 ms left."""
    lessor = Lessor(lambda _write: None)
    lessor.promote(0, 0)
    lessor.set_time(999 if renewed else 1_000)
    lessor.grant(1, 2)
    if renewed:
        assert lessor.renew(1, 1_000) == 2
    assert lessor.expired(3_000) == []
    assert lessor.renew(1, 3_000) == 2
    assert lessor.expired(5_000) == []
    assert lessor.expired(5_001) == [1]
    assert lessor.renew(1, 5_001) == -1
