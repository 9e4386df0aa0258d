"""Entries from the log's segments for who is behind: docs/cluster.md, one test per promise."""

import pytest
from test_raft_kernel import (
    APPEND_RESPONSE,
    HEARTBEAT,
    HEARTBEAT_RESPONSE,
    elect,
    make,
    run,
    settle,
)
from test_raft_membership import ack, exchange

from raftsched.store.raft._kernel import Kernel, Message

PROPOSE, PROPOSE_RESPONSE, READ_INDEX = 2, 20, 15
PROBE, REPLICATE, CATCH_UP = 0, 1, 2


def behind(**options) -> tuple[Kernel, Kernel]:
    """A leader that holds entries 7 ... 11 in memory, and a member that has entry 1."""
    items = [b"%d" % number for number in range(2, 11)]
    leader = make(voters=[1, 2, 3], term=1, commit=10, applied=10, entries=run(1, 1, b"1", *items), **options)
    leader.compact(6)
    elect(leader, helper=3)
    ack(leader, 3, 11)
    settle(leader)
    follower = make(2, term=1, entries=run(1, 1, b"1"))
    leader.step(Message(APPEND_RESPONSE, 1, 2, 2, index=10, reject=True, hint_index=1, hint_term=1))
    assert leader.ready().catch_ups == [(2, 2)]
    return leader, follower


def test_supplied_entries_bring_a_member_to_where_memory_begins() -> None:
    leader, follower = behind()
    assert leader.supply(2, run(2, 1, b"2", b"3", b"4"), prev_term=1)
    assert leader.supply(2, run(5, 1, b"5", b"6"), prev_term=1)
    first, second = settle(leader)
    follower.step(first)
    (answer,) = settle(follower)
    leader.step(answer)
    assert leader.matches()[2] == (4, 7, CATCH_UP, True)
    follower.step(second)
    assert (follower.last_index, follower.commit) == (6, 6)
    (answer,) = settle(follower)
    leader.step(answer)
    assert leader.matches()[2][2] == REPLICATE
    assert not leader.supply(2, run(7, 1, b"7"), prev_term=1), "the kernel goes on by itself"
    exchange(leader, follower, ticks=2)
    assert follower.last_index == leader.last_index
    assert follower.commit == leader.commit


def test_a_member_in_catch_up_is_heartbeated_and_nothing_else() -> None:
    leader, _ = behind()
    leader.propose([b"new"])
    leader.tick()
    to_it = [one for one in settle(leader) if one.to == 2]
    assert [(one.type, one.commit) for one in to_it] == [(HEARTBEAT, 0)], "it may have another tail"
    leader.step(Message(HEARTBEAT_RESPONSE, 1, 2, 2))
    assert not settle(leader)
    assert leader.matches()[2][2:] == (CATCH_UP, True)


def test_what_was_lost_or_differs_is_asked_for_again_once() -> None:
    leader, _ = behind()
    leader.supply(2, run(2, 1, b"2", b"3", b"4"), prev_term=1)
    leader.supply(2, run(5, 1, b"5"), prev_term=1)
    leader.supply(2, run(6, 1, b"6"), prev_term=1)
    settle(leader)
    for index in (4, 5):  # the first was lost
        leader.step(Message(APPEND_RESPONSE, 1, 2, 2, index=index, reject=True, hint_index=1, hint_term=1))
    assert leader.ready().catch_ups == [(2, 2)]
    assert leader.ready() is None
    leader.step(Message(APPEND_RESPONSE, 1, 2, 2, index=4, reject=True, hint_index=1, hint_term=1))
    assert leader.ready() is None, "nothing was supplied since"


def test_only_the_leaders_own_entries_are_supplied() -> None:
    leader, _ = behind()
    for runs, prev_term in ((run(12, 2, b"none"), 2), (run(2, 3, b"of a later term"), 1), (run(8, 2, b"of another term"), 1)):
        with pytest.raises(ValueError, match="none of this log"):
            leader.supply(2, runs, prev_term=prev_term)
    assert not leader.supply(2, [], prev_term=1)
    assert not leader.supply(3, run(2, 1, b"2"), prev_term=1)
    assert not make().supply(2, run(2, 1, b"2"), prev_term=1)


def test_a_snapshot_still_helps_and_counts_once_the_member_says_so() -> None:
    """It may be killed before the snapshot is in place: a match that is not true would be held against its refusals for the whole term."""
    leader, _ = behind()
    leader.probe(2)
    (asked,) = [one for one in settle(leader) if one.to == 2]
    assert (asked.index, asked.runs) == (leader.last_index, [])
    assert leader.matches()[2][0] == 0
    leader.step(Message(APPEND_RESPONSE, 1, 2, leader.term, index=asked.index, reject=True, hint_index=10, hint_term=1))
    (append,) = [one for one in settle(leader) if one.to == 2]
    assert (append.index, append.log_term) == (10, 1)
    leader.step(Message(APPEND_RESPONSE, 1, 2, leader.term, index=append.index + len(append.runs)))
    assert leader.matches()[2][0] == append.index + len(append.runs)
