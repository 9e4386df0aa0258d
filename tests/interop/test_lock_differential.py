"""etcd's lock and election services beside a real etcd: the same stories, every answer, error, key and lease compared (etcd-api §1.7)."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd.v3election_pb2 import LeaderKey
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.lock_side import LockSide, until
from raftsched.testing.lone_node import EtcdDoor

SYNCED_S = 0.3  # etcd looks after watches that begin in the past each 100 ms; until then a compaction ends them

Story = Callable[[LockSide], None]
STORIES: list[Story] = []


def story(told: Story) -> Story:
    STORIES.append(told)
    return told


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, etcd_program: Path) -> Iterator[RealEtcd]:
    with RealEtcd(tmp_path_factory.mktemp("judge"), etcd_program) as etcd:
        yield etcd


def wipe(side: LockSide) -> None:
    """Leaves nothing but revisions."""
    side.delete(b"\0", b"\0")
    for one in side.leases.LeaseLeases(pb.LeaseLeasesRequest()).leases:
        side.revoke(one.ID)


def level(sides: list[LockSide]) -> None:
    """The same revision on all: stories compare them."""
    revisions = [side.put(b"level") for side in sides]
    for side, revision in zip(sides, revisions, strict=True):
        for _ in range(max(revisions) - revision):
            side.put(b"level")
        side.delete(b"level")


# -- locks


@story
def a_lock_without_a_lease_gets_one_of_sixty_seconds(side: LockSide) -> None:
    answer = side.lock(b"a")
    side.state()
    side.time_to_live(int(answer.key.rpartition(b"/")[2], 16))
    side.unlock(answer.key)
    side.state()


@story
def unlocking_deletes_whatever_key(side: LockSide) -> None:
    side.put(b"any")
    side.unlock(b"any")
    side.unlock(b"any")
    side.unlock(b"")
    side.state()


@story
def a_lease_that_is_not_there(side: LockSide) -> None:
    for lease in (77, -1):
        side.lock(b"a", lease)
        side.campaign(b"a", lease)
    side.state()


@story
def names_and_leases_of_all_kinds(side: LockSide) -> None:
    side.grant(-5, 255, -(1 << 31))
    side.lock(b"a", -5)
    side.lock(b"a", -5)
    side.lock(b"", 255)
    side.lock(b"/", 255)
    side.lock(b"\xff\0x", -(1 << 31))
    side.lock(b"\xff", 255)
    side.campaign(b"\xff\xff", 255, b"\0")
    side.leader(b"\xff\xff")
    side.state()


@story
def waiters_get_it_in_the_order_in_which_they_came(side: LockSide) -> None:
    side.grant(1000, 999, 1002)
    side.lock(b"n", 1000)
    first = side.locking(b"n", 999)
    side.appears(b"n/3e7")
    second = side.locking(b"n", 1002)
    side.appears(b"n/3ea")
    side.state()
    assert not first.done()
    side.unlock(b"n/3e8")
    side.end(first)
    assert not second.done()
    side.unlock(b"n/3e7")
    side.end(second)
    side.state()


@story
def one_in_the_middle_goes(side: LockSide) -> None:
    """Who waited for it waits for the one before it."""
    side.grant(1, 2, 3)
    side.lock(b"n", 1)
    middle = side.locking(b"n", 2)
    side.appears(b"n/2")
    last = side.locking(b"n", 3)
    side.appears(b"n/3")
    middle.cancel()
    side.vanishes(b"n/2")
    assert not last.done()
    side.state()
    side.unlock(b"n/1")
    side.end(last)


@story
def a_waiter_that_goes_takes_its_key_along(side: LockSide) -> None:
    side.grant(1, 2)
    side.lock(b"n", 1)
    side.lock(b"n", 2, timeout_s=0.3)
    side.vanishes(b"n/2")
    waiting = side.locking(b"n", 2)
    side.appears(b"n/2")
    waiting.cancel()
    side.vanishes(b"n/2")
    without = side.locking(b"n")
    until(lambda: side.count(b"n/") == 2, "for a place in line")
    without.cancel()
    until(lambda: side.count(b"n/") == 1, "for its end")
    side.state()


@story
def the_same_lease_waits_twice(side: LockSide) -> None:
    """One key for both: who goes takes the other's place along, and that one learns it at the end of the line."""
    side.grant(1, 2)
    side.lock(b"n", 1)
    waiting = side.locking(b"n", 2)
    side.appears(b"n/2")
    again = side.locking(b"n", 2)
    side.put(b"behind")
    waiting.cancel()
    side.vanishes(b"n/2")
    side.unlock(b"n/1")
    side.end(again)
    side.state()


@story
def a_lease_that_is_revoked_while_its_lock_waits(side: LockSide) -> None:
    side.grant(1, 2)
    side.lock(b"n", 1)
    waiting = side.locking(b"n", 2)
    side.appears(b"n/2")
    side.revoke(2)
    side.put(b"behind")
    assert not waiting.done(), "etcd looks at the end of the line"
    side.unlock(b"n/1")
    side.end(waiting)
    side.state()


@story
def a_lease_that_expires_while_its_lock_waits(side: LockSide) -> None:
    side.grant(1)
    side.grant(2, ttl_s=2)
    side.lock(b"n", 1)
    waiting = side.locking(b"n", 2)
    side.appears(b"n/2")
    if isinstance(side, OurSide):
        side.revoke(2)  # a node without a clock of its own; real members are in test_cluster_lock
    side.vanishes(b"n/2")
    side.unlock(b"n/1")
    side.end(waiting)
    side.state()


@story
def a_holder_whose_lease_ends(side: LockSide) -> None:
    side.grant(1, 2)
    side.lock(b"n", 1)
    waiting = side.locking(b"n", 2)
    side.appears(b"n/2")
    side.revoke(1)
    side.end(waiting)
    side.state()


@story
def a_place_that_is_lost_and_taken_again(side: LockSide) -> None:
    """Both calls of the lease get the lock, as in etcd."""
    side.grant(1, 2)
    side.lock(b"n", 1)
    waiting = side.locking(b"n", 2)
    side.appears(b"n/2")
    side.delete(b"n/2")
    again = side.locking(b"n", 2)
    side.appears(b"n/2")
    side.unlock(b"n/1")
    side.end(waiting)
    side.end(again)
    side.state()


@story
def names_below_names_are_in_the_same_line(side: LockSide) -> None:
    side.grant(1, 2)
    side.lock(b"n/m", 1)
    waiting = side.locking(b"n", 2)
    side.appears(b"n/2")
    side.lock(b"n/m/o", 1)
    side.put(b"n", b"beside")
    side.unlock(b"n/m/1")
    side.end(waiting)
    side.state()


@story
def foreign_keys_below_the_name_count(side: LockSide) -> None:
    side.grant(1)
    side.put(b"n/", b"somebody's")
    waiting = side.locking(b"n", 1)
    side.appears(b"n/1")
    side.put(b"n/", b"again")
    assert not waiting.done()
    side.delete(b"n/")
    side.end(waiting)
    side.state()


@story
def history_is_compacted_while_somebody_waits(side: LockSide) -> None:
    side.grant(1, 2)
    side.lock(b"n", 1)
    waiting = side.locking(b"n", 2)
    side.appears(b"n/2")
    time.sleep(SYNCED_S)
    revision = [side.put(b"x") for _ in range(5)][-1]
    side.kv.Compact(pb.CompactionRequest(revision=revision))
    side.unlock(b"n/1")
    side.end(waiting)


@story
def requests_that_are_too_large(side: LockSide) -> None:
    side.grant(1)
    for size in (1_572_600, 1_572_700, 1_572_780, 1_572_800, 1_572_900):
        side.campaign(b"e", 1, bytes(size))
        side.delete(b"e/1")
    for size in (524_000, 786_300, 1_600_000):
        side.lock(b"x" * size, 1)
    side.delete(b"x", b"y")
    side.state()


# -- elections


@story
def a_leader_and_its_values(side: LockSide) -> None:
    leader = side.campaign(b"e", value=b"v").leader
    side.leader(b"e")
    side.proclaim(leader, b"v2")
    side.leader(b"e")
    side.state()
    side.resign(leader)
    side.leader(b"e")
    side.leader(b"")
    side.resign(leader)
    side.proclaim(leader, b"late")
    side.state()


@story
def leader_keys_that_are_wrong(side: LockSide) -> None:
    side.grant(1)
    leader = side.campaign(b"e", 1, b"v").leader
    wrong = {
        "another revision": LeaderKey(name=b"e", key=leader.key, rev=leader.rev - 1, lease=1),
        "a lease that is not there": LeaderKey(name=b"e", key=leader.key, rev=leader.rev, lease=99),
        "empty": LeaderKey(),
        "no key": LeaderKey(name=b"e", rev=leader.rev, lease=1),
        "no name": LeaderKey(key=leader.key, rev=leader.rev, lease=1),
        "a key that is not there, at revision 0": LeaderKey(name=b"e", key=b"elsewhere/1", lease=1),
        "negative": LeaderKey(name=b"e", key=leader.key, rev=-3, lease=1),
    }
    for title, key in wrong.items():
        side.told.append(title)
        side.proclaim(key, b"w")
        side.state()
        side.resign(key)
        side.state()
    side.proclaim(None, b"w")
    side.resign(None)


@story
def a_leader_key_without_a_lease_makes_one(side: LockSide) -> None:
    side.grant(1)
    leader = side.campaign(b"e", 1, b"v").leader
    leader.lease = 0
    side.proclaim(leader, b"w")
    side.state()
    side.revoke(1)
    side.leader(b"e")
    side.resign(leader)
    side.state()


@story
def candidates_follow_each_other(side: LockSide) -> None:
    """The answer's header is of when the candidate came."""
    side.grant(1, 2, 3)
    leader = side.campaign(b"e", 1, b"one").leader
    second = side.campaigning(b"e", 2, b"two")
    side.appears(b"e/2")
    third = side.campaigning(b"e", 3, b"three")
    side.appears(b"e/3")
    side.leader(b"e")
    side.put(b"between")
    side.resign(leader)
    leader = side.end(second).leader
    assert not third.done()
    side.leader(b"e")
    side.revoke(2)
    side.end(third)
    side.proclaim(leader, b"late")
    side.state()


@story
def the_same_candidate_again(side: LockSide) -> None:
    side.grant(1, 2)
    for value in (b"x", b"x", b"y"):
        side.campaign(b"e", 1, value)
    side.state()
    waiting = side.campaigning(b"e", 2, b"z")
    side.appears(b"e/2")
    again = side.campaigning(b"e", 2, b"zz")
    until(lambda: side.appears(b"e/2").value == b"zz", "for the other value")
    side.state()
    side.delete(b"e/1")
    side.end(waiting)
    side.end(again)


@story
def a_candidate_that_goes_takes_its_key_along(side: LockSide) -> None:
    side.grant(1, 2)
    side.campaign(b"e", 1)
    side.end(side.campaigning(b"e", 2, timeout_s=0.3))
    side.vanishes(b"e/2")
    waiting = side.campaigning(b"e", 2)
    side.appears(b"e/2")
    waiting.cancel()
    side.vanishes(b"e/2")
    side.state()


@story
def a_candidate_whose_key_was_made_anew_leaves_it(side: LockSide) -> None:
    """It takes back only what it made: another create revision is somebody else's key. A lock's waiter does not look."""
    side.grant(1, 2)
    side.campaign(b"e", 1)
    candidate = side.campaigning(b"e", 2)
    side.appears(b"e/2")
    side.delete(b"e/2")
    side.put(b"e/2", b"anew")
    candidate.cancel()
    side.grant(3)
    waiter = side.locking(b"e", 3)
    side.appears(b"e/3")
    side.delete(b"e/3")
    side.put(b"e/3", b"anew")
    waiter.cancel()
    side.vanishes(b"e/3")
    side.state()


@story
def a_candidate_whose_lease_is_revoked_is_told_that_it_leads(side: LockSide) -> None:
    """So it is in etcd: no look at the end of the line. Its Proclaim tells the truth."""
    side.grant(1, 2)
    side.campaign(b"e", 1)
    waiting = side.campaigning(b"e", 2, b"v")
    side.appears(b"e/2")
    side.revoke(2)
    side.delete(b"e/1")
    leader = side.end(waiting).leader
    side.proclaim(leader, b"w")
    side.leader(b"e")
    side.state()


@story
def a_candidates_key_on_no_lease(side: LockSide) -> None:
    """Its value is proclaimed; what cannot be attached is taken back."""
    side.put(b"e/4d", b"old")
    side.campaign(b"e", 0x4D, b"old")
    side.state()
    side.campaign(b"e", 0x4D, b"new")
    side.state()
    side.put(b"e/4d", b"old")
    side.lock(b"e", 0x4D)
    side.state()


# -- observers


@story
def an_observer_sees_leaders_and_values(side: LockSide) -> None:
    early = side.observe(b"o")
    side.put(b"p")
    side.grant(1, 2)
    leader = side.campaign(b"o", 1, b"1").leader
    early.wait(1)
    side.put(b"p")
    late = side.observe(b"o")
    late.wait(1)
    side.proclaim(leader, b"2")
    early.wait(2)
    late.wait(2)
    second = side.campaigning(b"o", 2, b"second")
    side.appears(b"o/2")
    side.put(b"o/2", b"not yet", lease=2)
    side.txn(putting(b"a"), putting(b"o/1", b"3", 1), putting(b"b"))
    early.wait(3)
    side.resign(leader)
    side.end(second)
    early.wait(4)
    late.wait(4)
    side.revoke(2)
    side.put(b"p")
    side.put(b"o/x", b"no candidate")
    early.wait(5)
    late.wait(5)
    for one in (early, late):
        one.cancel()
        assert one.seen[-1] == "1"


@story
def an_observer_of_several_at_once(side: LockSide) -> None:
    """From nothing: the first in the order of the transaction. Otherwise: the first in the order of the keys."""
    observer = side.observe(b"o")
    side.put(b"p")
    side.txn(putting(b"o/z"), putting(b"o/y"))
    observer.wait(1)
    side.txn(deleting(b"o/z"), putting(b"o/c"), putting(b"o/b"))
    observer.wait(2)
    side.txn(deleting(b"o/y"), putting(b"o/a"))
    observer.wait(3)  # a leader that is gone before the observer has read who it is, is never told
    side.delete(b"o/b")
    observer.wait(4)
    side.delete(b"o/", b"o0")
    side.put(b"other")
    side.put(b"o/1", b"again")
    observer.wait(5)
    observer.cancel()


@story
def an_observer_while_history_is_compacted(side: LockSide) -> None:
    observers = [side.observe(b"o"), side.observe(b"q")]
    side.put(b"q/1", b"there")
    observers[1].wait(1)
    time.sleep(SYNCED_S)
    side.kv.Compact(pb.CompactionRequest(revision=side.put(b"p")))
    side.put(b"o/1", b"came")
    side.put(b"q/1", b"again")
    observers[0].wait(1)
    observers[1].wait(2)
    for one in observers:
        one.cancel()


@story
def an_observers_deadline(side: LockSide) -> None:
    observer = side.observe(b"o", timeout_s=0.3)
    observer.wait(1)
    assert observer.seen == ["4"]


@story
def bytes_that_are_no_request(side: LockSide) -> None:
    for path in ("Lock/Lock", "Lock/Unlock"):
        side.told.append(refusal(side, f"/v3lockpb.{path}"))
    for method in ("Campaign", "Proclaim", "Leader", "Resign"):
        side.told.append(refusal(side, f"/v3electionpb.Election/{method}"))
    stream = side.channel.unary_stream("/v3electionpb.Election/Observe")(b"\xff")
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    side.told.append(f"Observe {caught.value.code()}")
    with pytest.raises(grpc.RpcError) as caught:
        side.channel.unary_unary("/v3lockpb.Lock/Nope")(b"")
    side.told.append(f"{caught.value.code()} {caught.value.details()}")


def refusal(side: LockSide, path: str) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        side.channel.unary_unary(path)(b"\xff")
    return f"{path} {caught.value.code()}"


def putting(key: bytes, value: bytes = b"", lease: int = 0) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))


def deleting(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))


class OurSide(LockSide):
    """raftsched without a log: leases do not expire by themselves."""


@pytest.fixture(scope="module")
def subject() -> Iterator[EtcdDoor]:
    with EtcdDoor() as door:
        yield door


@pytest.mark.parametrize("told", STORIES, ids=lambda told: told.__name__)
def test_same_story_same_answers(told: Story, judge: RealEtcd, subject: EtcdDoor) -> None:
    sides = [LockSide(judge.address), OurSide(subject.address)]
    try:
        for side in sides:
            wipe(side)
        level(sides)
        for side in sides:
            told(side)
        assert sides[0].told, "a story that tells nothing proves nothing"
        assert sides[1].told == sides[0].told
    finally:
        for side in sides:
            side.close()
