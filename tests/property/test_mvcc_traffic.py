"""Long random traffic against the twin: what Hypothesis' short lives seldom reach. The seed is in the test's name."""

import pytest
from mvcc_traffic import Traffic
from test_mvcc_machine import StoreMachine


class Life(StoreMachine):
    """A machine that is driven by a seeded generator instead of Hypothesis."""

    def step(self, traffic: Traffic) -> None:
        chance = traffic.random
        traffic.revision = self.twin.revision
        kind = chance.random()
        if kind < 0.2:
            self.put(traffic.put())
        elif kind < 0.28:
            self.delete(traffic.delete())
        elif kind < 0.62:
            self.txn(traffic.txn())
        elif kind < 0.76:
            self.range(traffic.range())
        elif kind < 0.80:
            self.compact(chance.choice([-1, 0, 0, 1, 2, 5]))
        elif kind < 0.84:
            self.scrub(chance.choice([1, 3, 100]), chance.choice([1, 3, 100]))
        elif kind < 0.85:
            self.scrub_a_little(chance.choice([1, 3, 100]))
        elif kind < 0.87:
            self.hash(traffic.near(0.8))
        elif kind < 0.90:
            self.history(max(traffic.near(), 0), chance.choice([1, 3]))
        elif kind < 0.92:
            self.previous(traffic.key(), traffic.near())
        elif kind < 0.93:
            self.live(traffic.key(), chance.choice([b"\0", b"c"]), chance.choice([None, traffic.key()]), chance.choice([1, 4]))
        elif kind < 0.95:
            self.grant(chance.choice(traffic.leases))
        elif kind < 0.96:
            self.revoke(chance.choice(traffic.leases))
        elif kind < 0.965:
            self.reload()
        elif self.taken is None:
            self.swap()
        else:
            self.release()
        self.same()


@pytest.mark.parametrize("seed", range(12))
def test_traffic(seed: int) -> None:
    life = Life()
    life.open(seed * 7919)
    traffic = Traffic(seed)
    for _ in range(700):
        life.step(traffic)
    assert life.twin.revision > 100
