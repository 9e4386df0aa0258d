"""The fence under seeded faults, and proof that the checker sees what it must."""

import pytest
from fence_cluster import Beat, FenceCluster

from raftsched.store.fence import Fence

SEEDS = 30


@pytest.mark.parametrize("block", range(4))
def test_nobody_fires_after_its_jobs_were_given_away(block: int) -> None:
    taken = fired = elections = 0
    for seed in range(block * SEEDS, (block + 1) * SEEDS):
        cluster = FenceCluster(seed)
        seen: list[tuple[int, int, int]] = []
        for _ in range(10):
            cluster.run(1.5)
            seen += [one for one in cluster.taken if one not in seen]
        taken += len(seen)
        fired += cluster.fired
        elections += cluster.elections
    assert taken > SEEDS
    assert fired > 1_000 * SEEDS
    assert elections > 2 * SEEDS


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_quiet_cluster_fires_without_a_gap(size: int) -> None:
    cluster = FenceCluster(0, calm=size)
    cluster.run(3)
    for _ in range(2_000):
        cluster.run(0.005)
        assert all(one.may_fire(cluster.now_us) for one in cluster.members.values())
        left = [one.fence.until_ms(one.applied) - one.mono_ms(cluster.now_us) for one in cluster.members.values()]
        assert min(left) >= 430  # a follower's is two heartbeats and three messages behind
    assert not cluster.taken
    assert cluster.elections == 1


# The caught ones need up to 86 seeds each. A loan that counts from its arrival needs a schedule too rare for chance:
# tests/unit/test_fence.py, a_loan_ends_with_the_leaders_own.


class HeedsNoCommit(Fence):
    """A loan counts although what was committed is not applied here."""

    def until_ms(self, applied: int) -> int:
        return super().until_ms(1 << 62)


class LendsBeforeItKnows(Fence):
    """A new leader lends before it knows what is committed."""

    def outgoing(self, message: Beat, mono_ms: int, commit: int) -> None:
        super().outgoing(message, mono_ms, max(0, commit))


class NeedsNoQuorum(Fence):
    """Any leader lends, whoever answers."""

    def _quorum(self, mono_ms: int, commit: int) -> tuple[int, int] | None:
        return mono_ms, commit


class AsksNobodyTwice(Fence):
    """Calls a member dead as soon as one heartbeat is unanswered."""

    def dead(self, mono_ms: int) -> list[int]:
        return [one for one in self._peers if self.silent_ms(one, mono_ms) > 400]


@pytest.mark.parametrize("broken", [HeedsNoCommit, LendsBeforeItKnows, NeedsNoQuorum, AsksNobodyTwice])
def test_the_checker_finds_a_broken_promise(broken: type[Fence]) -> None:
    for seed in range(300):
        cluster = FenceCluster(seed, make_fence=broken)
        try:
            cluster.run(15)
        except AssertionError:
            return
    pytest.fail(f"{broken.__name__}: not found")
