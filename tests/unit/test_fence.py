"""The fence's rules one by one; tests/sim/test_fence_cluster.py has them all at once, under faults."""

from dataclasses import dataclass

import pytest

from raftsched.limits import FENCE_ALONE_MS
from raftsched.store.fence import HEARTBEAT, HEARTBEAT_RESPONSE, Fence

LEADER, FOLLOWER, OTHER = 1, 2, 3
TERM = 7
THREE = frozenset({1, 2, 3})
NONE: frozenset[int] = frozenset()


@dataclass
class Beat:
    type: int
    sender: int
    to: int
    term: int = TERM
    index: int = 0
    beat: int = 0
    echo: int = 0
    left_ms: int = 0


def leader(voters: frozenset[int] = THREE, learners: frozenset[int] = NONE, mono_ms: int = 0) -> Fence:
    fence = Fence(LEADER, first_number=1_000)
    fence.lead(TERM, voters, learners, mono_ms)
    return fence


def follower(member: int = FOLLOWER, first_number: int = 5_000) -> Fence:
    fence = Fence(member, first_number=first_number)
    fence.follow(TERM, 0)
    return fence


def heartbeat(fence: Fence, mono_ms: int, *, to: int = FOLLOWER, commit: int = 10) -> Beat:
    message = Beat(HEARTBEAT, LEADER, to)
    fence.outgoing(message, mono_ms, commit)
    return message


def answer(fence: Fence, to: Beat, mono_ms: int) -> Beat:
    """The follower's, at the follower's clock."""
    fence.incoming(to, mono_ms)
    message = Beat(HEARTBEAT_RESPONSE, to.to, LEADER, to.term)
    fence.outgoing(message, mono_ms, -1)
    return message


def exchange(first: Fence, second: Fence, mono_ms: int, *, offset_ms: int = 0, to: int = FOLLOWER, commit: int = 10) -> None:
    """A heartbeat and its answer, without delay; the follower's clock is `offset_ms` ahead."""
    first.incoming(answer(second, heartbeat(first, mono_ms, to=to, commit=commit), mono_ms + offset_ms), mono_ms)


def test_a_lone_voter_may_trigger_for_ever_until_it_is_none() -> None:
    fence = Fence(LEADER, first_number=1)
    assert fence.until_ms(0) == 0
    fence.lead(TERM, frozenset({LEADER}), NONE, 50)
    assert fence.until_ms(0) == FENCE_ALONE_MS
    fence.lead(TERM, frozenset({LEADER, FOLLOWER}), NONE, 5_000)
    assert fence.until_ms(0) == 5_600


def test_a_lone_voter_lends_to_its_learner() -> None:
    first, second = leader(frozenset({LEADER}), frozenset({FOLLOWER})), follower()
    exchange(first, second, 100)
    exchange(first, second, 150)
    assert first.until_ms(10) == 750
    assert second.until_ms(10) == 700  # from its answer at 100, to a leader that could promise 600 at 150


@pytest.mark.parametrize(("voters", "answers"), [(2, 1), (3, 1), (4, 2), (5, 2), (7, 3)])
def test_a_leader_counts_from_the_heartbeat_that_a_quorum_answered(voters: int, answers: int) -> None:
    fence = leader(frozenset(range(1, voters + 1)))
    for number in range(answers):
        assert fence.until_ms(10) == 0
        other = follower(number + 2)
        message = answer(other, heartbeat(fence, 100, to=number + 2), 0)
        heartbeat(fence, 150)
        fence.incoming(message, 190)
    assert fence.until_ms(10) == 700


def test_a_leader_that_is_no_voter_does_not_count_itself() -> None:
    fence = leader(frozenset({2, 3}))
    exchange(fence, follower(), 100)
    assert fence.until_ms(10) == 0
    exchange(fence, follower(OTHER), 150, to=OTHER)
    assert fence.until_ms(10) == 700


def test_a_loan_ends_with_the_leaders_own_however_late_it_arrives() -> None:
    """Five voters: 1 and 2 are cut off from 3, 4, 5 right after 3 answered at 0; 3 may be elected at once.

    1 lends on what is left, and the heartbeat needs 480 ms. Counted from its arrival the loan would outlast the leader's by
    that, and the new leader's 700 ms of patience.
    """
    first, second = leader(frozenset({1, 2, 3, 4, 5})), follower()
    for other in (3, 4):
        exchange(first, follower(other), 0, to=other)
    exchange(first, second, 500)
    late = heartbeat(first, 550)
    assert (late.left_ms, first.until_ms(10)) == (50, 600)
    second.incoming(late, 1_030)
    assert second.until_ms(10) <= 600


def test_clocks_are_never_compared() -> None:
    first, second = leader(), follower()
    for mono_ms in range(0, 500, 50):
        exchange(first, second, mono_ms, offset_ms=10**12)
    assert first.until_ms(10) == 450 + 600
    assert second.until_ms(10) == 10**12 + 400 + 550


def test_a_loan_waits_until_what_was_committed_is_applied() -> None:
    first, second = leader(), follower()
    exchange(first, second, 0, commit=10)
    exchange(first, second, 50, commit=11)
    exchange(first, second, 100, commit=12)
    assert second.until_ms(10) == 0
    assert second.until_ms(11) == 550
    assert second.until_ms(12) == 600
    assert first.until_ms(9) == 0
    assert first.until_ms(11) == 650


def test_a_new_leader_lends_nothing_before_it_knows_what_is_committed() -> None:
    first, second = leader(), follower()
    exchange(first, second, 0, commit=-1)
    exchange(first, second, 50, commit=-1)
    assert (first.until_ms(99), second.until_ms(99)) == (0, 0)
    exchange(first, second, 100, commit=10)
    exchange(first, second, 150, commit=10)
    assert (first.until_ms(99), second.until_ms(99)) == (750, 650)


def test_other_terms_count_for_nothing() -> None:
    first, second = leader(), follower()
    stale = answer(second, heartbeat(first, 0), 0)
    second.follow(TERM + 1, 10)
    held_back = Beat(HEARTBEAT_RESPONSE, FOLLOWER, LEADER)
    second.outgoing(held_back, 20, -1)
    assert (held_back.beat, held_back.echo) == (0, 0)
    second.incoming(heartbeat(first, 20), 20)  # of a leader that is none any more
    assert second.until_ms(99) == 0
    first.lead(TERM + 2, THREE, NONE, 30)
    first.incoming(stale, 40)
    assert (first.until_ms(99), first.silent_ms(FOLLOWER, 100)) == (0, 70)
    forged = Beat(HEARTBEAT_RESPONSE, FOLLOWER, LEADER, TERM + 2, beat=1, echo=stale.echo)  # a number of another term
    first.incoming(forged, 50)
    assert first.until_ms(99) == 0


def test_what_was_lent_outlives_its_leader() -> None:
    first, second = leader(), follower()
    exchange(first, second, 0)
    exchange(first, second, 50)
    second.follow(TERM + 1, 60)
    first.follow(TERM + 1, 60)
    assert (first.until_ms(10), second.until_ms(10)) == (650, 550)


def test_repeated_and_reordered_messages_prolong_nothing() -> None:
    first, second = leader(), follower()
    old = heartbeat(first, 0)
    old_answer = answer(second, old, 0)
    first.incoming(old_answer, 1)
    exchange(first, second, 50)
    lent = heartbeat(first, 100)
    second.incoming(lent, 100)
    until = second.until_ms(10)
    for late in (old, lent):
        second.incoming(late, 400)
    first.incoming(old_answer, 400)
    assert (first.until_ms(10), second.until_ms(10)) == (650, until)


def test_an_earlier_incarnations_numbers_are_unknown() -> None:
    first, second = leader(), follower()
    exchange(first, second, 0)
    again = follower(first_number=9_000_000)
    again.incoming(heartbeat(first, 50), 50)
    assert again.until_ms(10) == 0
    exchange(first, again, 100)
    exchange(first, again, 150)
    assert again.until_ms(10) == 650


def test_one_way_cuts_end_the_loans() -> None:
    first, second, third = leader(), follower(), follower(OTHER)
    for mono_ms in (0, 50, 100):
        exchange(first, second, mono_ms)
        exchange(first, third, mono_ms, to=OTHER)
    for mono_ms in range(150, 900, 50):  # the follower hears, and is not heard
        answer(second, heartbeat(first, mono_ms), mono_ms)
        exchange(first, third, mono_ms, to=OTHER)
    assert second.until_ms(10) == 650  # its last answer that came was sent at 100, and 550 were left of the leader's time
    assert third.until_ms(10) == 1_350
    assert first.silent_ms(FOLLOWER, 1_000) == 900


def test_a_removed_member_gets_nothing_more() -> None:
    first, second = leader(), follower()
    exchange(first, second, 0)
    first.lead(TERM, frozenset({1, 3}), NONE, 40)
    message = heartbeat(first, 50)
    assert (message.left_ms, message.echo) == (0, 0)
    assert first.silent_ms(FOLLOWER, 90) == 0  # it is nobody's


def test_who_is_dead() -> None:
    first, second = leader(), follower()
    for mono_ms in range(0, 700, 50):
        exchange(first, second, mono_ms)
        assert first.dead(mono_ms) == []
    exchange(first, second, 700)
    assert first.dead(700) == [OTHER]  # never heard since the election
    assert first.present(800, 500) == [FOLLOWER]
    for mono_ms in range(750, 1_600, 50):
        heartbeat(first, mono_ms)
        assert first.dead(mono_ms) == [OTHER]
    assert first.present(1_600, 500) == []
    heartbeat(first, 1_600)
    assert sorted(first.dead(1_600)) == [FOLLOWER, OTHER]
    exchange(first, second, 1_650)
    assert first.dead(1_650) == [OTHER]
    first.follow(TERM + 1, 1_660)
    assert first.dead(5_000) == []


def test_a_leader_that_slept_listens_before_it_calls_anyone_dead() -> None:
    first, second = leader(), follower()
    exchange(first, second, 0)
    assert first.dead(5_000) == []
    heartbeat(first, 5_000)
    assert first.dead(5_010) == []
    for mono_ms in range(5_050, 5_300, 50):
        heartbeat(first, mono_ms)
        assert first.dead(mono_ms) == []
    heartbeat(first, 5_300)
    assert sorted(first.dead(5_300)) == [FOLLOWER, OTHER]


def test_a_follower_forges_no_number() -> None:
    first = leader()
    heartbeat(first, 0)
    first.incoming(Beat(HEARTBEAT_RESPONSE, FOLLOWER, LEADER, beat=1, echo=1_000_000), 10)
    first.incoming(Beat(HEARTBEAT_RESPONSE, 99, LEADER, beat=1, echo=1_000), 10)
    assert first.until_ms(10) == 0


def test_who_stands_back_is_dead_to_the_fence_and_alive_to_all_else() -> None:
    """Its loans end as if it had fallen silent with its last numbered answer."""
    first, second, third = leader(), follower(), follower(OTHER)
    for mono_ms in (100, 150):
        exchange(first, second, mono_ms)
        exchange(first, third, mono_ms, to=OTHER)
    second.stands_back = True
    for mono_ms in range(200, 1_101, 50):
        exchange(first, second, mono_ms)
        exchange(first, third, mono_ms, to=OTHER)
    assert second.until_ms(10) <= 150 + 600
    assert third.until_ms(10) > 1_100
    assert first.dead(1_049) == []
    assert first.dead(1_050) == [FOLLOWER]
    assert first.silent_ms(FOLLOWER, 1_100) == 0
    assert FOLLOWER in first.present(1_100, 100)
    second.stands_back = False
    for mono_ms in (1_150, 1_200):
        exchange(first, second, mono_ms)
    assert first.dead(1_200) == []
    assert second.until_ms(10) > 1_200
