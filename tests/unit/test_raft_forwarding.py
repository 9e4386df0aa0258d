"""Proposals that followers forward to the leader: docs/cluster.md, one test per promise."""

import pytest
from test_raft_kernel import (
    APPEND,
    HEARTBEAT,
    HEARTBEAT_RESPONSE,
    elect,
    make,
    run,
    settle,
)
from test_raft_membership import ack, begin, changes, in_force, lead

from raftsched.store.membership import REMOVE_NODE, encode_change
from raftsched.store.raft._kernel import Kernel, Message

PROPOSE, PROPOSE_RESPONSE, READ_INDEX = 2, 20, 15
PROBE, REPLICATE, CATCH_UP = 0, 1, 2


def forwarded(sequence: int, term: int = 1, sender: int = 2, *items: bytes) -> Message:
    return Message(PROPOSE, 1, sender, term, context=sequence, runs=run(1, term, *(items or (b"w%d" % sequence,))))


def test_a_follower_forwards_to_the_leader_it_knows() -> None:
    kernel = make()
    assert not kernel.forward([b"a"], 7)
    kernel.step(Message(HEARTBEAT, 1, 2, 3))
    settle(kernel)
    assert kernel.forward([b"a", b"b"], 7)
    (message,) = settle(kernel)
    assert (message.type, message.to, message.term, message.context) == (PROPOSE, 2, 3, 7)
    leader = lead(voters=[2, 1, 3])
    assert not leader.forward([b"a"], 1)


def test_a_leader_appends_what_a_follower_forwarded() -> None:
    leader, follower = make(1), make(2)
    begin(leader, follower)
    before = leader.last_index
    assert follower.forward([b"a", b"b"], 1)
    for message in settle(follower):
        leader.step(message)
    assert leader.last_index == before + 2
    assert leader.uncommitted_bytes == 2


def test_each_forwarded_proposal_is_taken_once_per_term_in_rising_order() -> None:
    """X4, T11"""
    kernel = lead()
    for sequence in (5, 5, 4, 6, 6):
        kernel.step(forwarded(sequence))
    kernel.step(forwarded(5, 1, 3))  # of another member
    assert kernel.last_index == 4
    kernel.step(forwarded(7, 0))
    assert kernel.last_index == 4, "of another term"
    kernel.step(forwarded(8, 1, 9))
    assert kernel.last_index == 4, "of a stranger"


def test_a_new_term_begins_anew() -> None:
    kernel = lead()
    kernel.step(forwarded(5))
    kernel.step(Message(HEARTBEAT, 1, 3, 2))
    settle(kernel)
    elect(kernel)
    before = kernel.last_index
    kernel.step(forwarded(1, kernel.term))
    assert kernel.last_index == before + 1


def test_a_refused_one_comes_back_and_is_never_taken_later() -> None:
    leader = lead(uncommitted_bytes_max=10)
    leader.propose([b"x" * 20])
    settle(leader)
    leader.step(forwarded(5))
    (answer,) = [one for one in settle(leader) if one.type == PROPOSE_RESPONSE]
    assert (answer.to, answer.reject, answer.context, answer.hint_index) == (2, True, 5, -3)
    ack(leader, 2, 2)
    assert leader.uncommitted_bytes == 0
    leader.step(forwarded(5))
    assert leader.last_index == 2, "its repetition would make the refusal a lie"
    follower = make(2)
    follower.step(Message(HEARTBEAT, 2, 1, 1))
    settle(follower)
    follower.step(answer)
    assert follower.ready().refusals == [(5, -3)]
    follower.step(Message(PROPOSE_RESPONSE, 2, 3, 1, reject=True, context=6, hint_index=-1))
    assert follower.ready() is None, "3 does not lead"


def under_way() -> tuple[Kernel, int]:
    """A follower of 1 that has something to forward while its term is being written; the batch of that write."""
    kernel = make(2)
    kernel.step(Message(HEARTBEAT, 2, 1, 3))
    term = kernel.ready()
    assert kernel.forward([b"a"], 5)
    return kernel, term.batch


def left(kernel: Kernel) -> list[tuple[int, int]]:
    """(type, context) of what may leave now."""
    ready = kernel.ready()
    return [(one.type, one.context) for one in ready.messages] if ready else []


@pytest.mark.parametrize("held", [True, False], ids=["held", "not handed to a write yet"])
def test_a_forwarded_proposal_is_not_overtaken_by_a_later_one(held: bool) -> None:
    """X4: what the leader hears behind a higher number it takes for a repetition"""
    kernel, term = under_way()
    kernel.step(Message(APPEND, 2, 1, 3, runs=run(1, 3, b"")))
    entries = kernel.ready() if held else None
    kernel.persisted(term)
    kernel.forward([b"b"], 6)
    kernel.read_index(7)
    kernel.step(Message(APPEND, 2, 1, 3, index=1, log_term=3, runs=run(2, 3, b"c")))
    later = kernel.ready()
    assert [one.type for one in later.messages] == [HEARTBEAT_RESPONSE, READ_INDEX], "nothing else waits"
    kernel.persisted((entries or later).batch)
    assert [context for kind, context in left(kernel) if kind == PROPOSE] == [5, 6], "the second waits no longer than the first"
    kernel.forward([b"d"], 8)
    assert left(kernel) == [(PROPOSE, 8)], "there is nothing to wait for any more"


def test_what_waited_leaves_even_if_nothing_is_written_any_more() -> None:
    kernel, term = under_way()
    kernel.persisted(term)
    kernel.forward([b"b"], 6)
    assert left(kernel) == [(HEARTBEAT_RESPONSE, 0), (PROPOSE, 5), (PROPOSE, 6)]


def test_a_proposal_of_an_older_term_delays_none_of_this_one() -> None:
    kernel, term = under_way()
    kernel.step(Message(HEARTBEAT, 2, 1, 4))
    kernel.forward([b"b"], 6)
    kernel.persisted(term)
    assert left(kernel) == []
    kernel.persisted(term + 1)
    assert left(kernel) == [(HEARTBEAT_RESPONSE, 0), (PROPOSE, 6)]


def test_proposals_are_refused_while_leadership_moves() -> None:
    kernel = lead()
    kernel.transfer(3)
    settle(kernel)
    kernel.step(forwarded(5))
    assert [(one.type, one.hint_index) for one in settle(kernel)] == [(PROPOSE_RESPONSE, -2)]


def test_nobody_forwards_a_change() -> None:
    kernel = lead()
    kernel.step(Message(PROPOSE, 1, 2, 1, context=1, runs=changes(1, 1, encode_change(REMOVE_NODE, 3))))
    assert kernel.last_index == 1
    assert in_force(kernel) == ({1, 2, 3}, set())
