"""Locks and elections on three real members: one line whoever is asked, leases that end by themselves, leaders that die, members that stop.

RAFTSCHED_CLUSTER_OF=etcd tries the same on real etcds.
"""

import time
from collections.abc import Iterator

import grpc
import pytest
from clustering import make_cluster, needs_raftsched, new_leader

from raftsched.testing.cluster import Cluster, Member
from raftsched.testing.lock_side import LockSide, until

pytestmark = pytest.mark.process
AT_ONCE_S = 3.0  # of a stop; etcd takes seven
EXPIRED = "2 mutex: session is expired"
LATE = "2 etcdserver: request timed out"


class Sides:
    """A client for each member."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._made: dict[int, LockSide] = {}

    def at(self, member: Member) -> LockSide:
        if member.number not in self._made:
            self._made[member.number] = LockSide(member.client_address)
        return self._made[member.number]

    def cast(self) -> tuple[LockSide, LockSide, LockSide]:
        """At the leader and at the followers."""
        one, other = self.cluster.followers()
        return self.at(self.cluster.leader()), self.at(one), self.at(other)

    def close(self) -> None:
        for side in self._made.values():
            side.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with make_cluster(tmp_path_factory.mktemp("lock")) as opened:
        yield opened


@pytest.fixture
def sides(cluster: Cluster) -> Iterator[Sides]:
    cluster.start()
    cluster.leader()
    made = Sides(cluster)
    yield made
    made.close()


def test_one_line_whichever_member_is_asked(sides: Sides) -> None:
    leader, one, other = sides.cast()
    leader.grant(11, 12, 13)
    one.lock(b"line", 11)
    second = other.locking(b"line", 12)
    leader.appears(b"line/c")
    third = leader.locking(b"line", 13)
    leader.appears(b"line/d")
    assert not second.done()
    leader.unlock(b"line/b")
    assert second.result().key == b"line/c"
    assert not third.done()
    observer = one.observe(b"line")
    until(lambda: len(observer.seen) == 1, "for the present holder")
    candidate = other.campaigning(b"line", 11, b"elected")
    leader.appears(b"line/b")
    one.unlock(b"line/c")
    assert third.result().key == b"line/d"
    until(lambda: len(observer.seen) == 2, "for the next one")
    leader.unlock(b"line/d")
    assert candidate.result().leader.key == b"line/b"
    until(lambda: len(observer.seen) == 3, "for the one elected")
    assert 'value: "elected"' in observer.seen[2]
    observer.cancel()
    one.told.clear()
    one.leader(b"line")
    assert 'value: "elected"' in one.told[0]


def test_leases_end_by_themselves(sides: Sides) -> None:
    """Of a waiter: its line goes on without it. Of a holder: the next one is let in."""
    leader, one, other = sides.cast()
    leader.grant(21, 23)
    leader.grant(22, ttl_s=2)
    one.lock(b"ends", 21)
    waiting = other.locking(b"ends", 22)
    leader.appears(b"ends/16")
    next_one = one.locking(b"ends", 23)
    leader.appears(b"ends/17")
    other.vanishes(b"ends/16")
    assert not waiting.done()
    assert not next_one.done()
    leader.unlock(b"ends/15")
    assert next_one.result().key == b"ends/17"
    assert status(waiting) == EXPIRED
    leader.grant(24, ttl_s=2)
    leader.unlock(b"ends/17")
    other.lock(b"ends", 24)
    last = one.locking(b"ends", 21)
    assert last.result().key == b"ends/15"


def test_a_leader_that_dies_while_others_wait(sides: Sides) -> None:
    """Waiters at members that live go on waiting; the line is the same under the new leader."""
    leader, one, other = sides.cast()
    leader.grant(31, 32, 33)
    one.lock(b"failover", 31)
    second = one.locking(b"failover", 32)
    other.appears(b"failover/20")
    third = other.campaigning(b"failover", 33)
    other.appears(b"failover/21")
    observer = other.observe(b"failover")
    until(lambda: len(observer.seen) == 1, "for the present holder")
    killed = sides.cluster.leader()
    killed.kill()
    new_leader(sides.cluster, killed)
    assert not second.done()
    assert not third.done()
    other.unlock(b"failover/1f")
    assert second.result().key == b"failover/20"
    one.unlock(b"failover/20")
    assert third.result().leader.key == b"failover/21"
    until(lambda: len(observer.seen) >= 2 and "failover/21" in observer.seen[-1], "for the last holder")
    observer.cancel()


@needs_raftsched
def test_a_member_that_stops_ends_what_waits_there_at_once(sides: Sides) -> None:
    """And takes their places in line back. Those at other members go on."""
    leader, one, other = sides.cast()
    leader.grant(41, 42, 43, 44)
    leader.lock(b"stop", 41)
    lock, candidate = one.locking(b"stop", 42), one.campaigning(b"stop", 43)
    leader.appears(b"stop/2a")
    leader.appears(b"stop/2b")
    observer = one.observe(b"stop")
    until(lambda: observer.seen, "for the present holder")
    elsewhere = other.locking(b"stop", 44)
    leader.appears(b"stop/2c")
    stopped = sides.cluster.followers()[0]
    began_s = time.monotonic()
    stopped.stop()
    for call in (lock, candidate):
        assert status(call) == "14 etcdserver: server stopped"
    assert time.monotonic() - began_s < AT_ONCE_S
    until(lambda: observer.seen[-1] == "14", "for the end of the stream")
    leader.vanishes(b"stop/2a")
    leader.vanishes(b"stop/2b")
    assert not elsewhere.done()
    leader.unlock(b"stop/29")
    assert elsewhere.result().key == b"stop/2c"


def test_what_waits_where_no_majority_is(sides: Sides) -> None:
    """It goes on waiting, as it did; what is new is refused in time, with etcd's words and code."""
    leader, one, _ = sides.cast()
    leader.grant(51, 52)
    one.lock(b"alone", 51)
    waiting = one.locking(b"alone", 52)
    leader.appears(b"alone/34")
    killed = [sides.cluster.leader(), sides.cluster.followers()[1]]
    for member in killed:
        member.kill()
    assert status(one.locking(b"alone")) == LATE
    assert not waiting.done()
    sides.cluster.start()
    sides.cluster.leader()
    one.unlock(b"alone/33")
    assert waiting.result().key == b"alone/34"


def status(call: grpc.Future) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    return f"{caught.value.code().value[0]} {caught.value.details()}"
