"""Changes of the configuration: docs/cluster.md, one test per promise. Forwarding and supply have files of their own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_raft_kernel import (
    APPEND,
    APPEND_RESPONSE,
    FOLLOWER,
    HEARTBEAT,
    HEARTBEAT_RESPONSE,
    LEADER,
    PRE_CANDIDATE,
    PRE_VOTE,
    PRE_VOTE_RESPONSE,
    TIMEOUT_NOW,
    VOTE,
    VOTE_RESPONSE,
    elect,
    make,
    run,
    settle,
)

from raftsched.store.codec import WireError, bytes_field, varint
from raftsched.store.membership import ADD_LEARNER, ADD_NODE, REMOVE_NODE, UPDATE_NODE, decode_change, encode_change
from raftsched.store.raft._kernel import Kernel, KernelError, Message

PROPOSE, PROPOSE_RESPONSE, READ_INDEX = 2, 20, 15
PROBE, REPLICATE, CATCH_UP = 0, 1, 2


def changes(first: int, term: int, *items: bytes):
    return [(first, term, 1, list(items))]


def ack(kernel: Kernel, member: int, index: int, commit: int = 0) -> None:
    kernel.step(Message(APPEND_RESPONSE, kernel.id, member, kernel.term, index=index, commit=commit))


def campaign(kernel: Kernel) -> None:
    while kernel.state != PRE_CANDIDATE:
        kernel.tick()
    settle(kernel)


def lead(voters=(1, 2, 3), learners=(), **options) -> Kernel:
    """A leader whose no-op is committed and applied, as the others know."""
    kernel = make(voters=voters, learners=learners, **options)
    if len(voters) == 1:
        kernel.tick()
        settle(kernel)
        return kernel
    campaign(kernel)
    for helper in set(voters) - {kernel.id}:
        kernel.step(Message(PRE_VOTE_RESPONSE, kernel.id, helper, kernel.term + 1))
    settle(kernel)
    for helper in set(voters) - {kernel.id}:
        kernel.step(Message(VOTE_RESPONSE, kernel.id, helper, kernel.term))
    assert kernel.state == LEADER
    settle(kernel)
    for member in {*voters, *learners} - {kernel.id}:
        ack(kernel, member, kernel.last_index)
    settle(kernel)
    assert kernel.applied == kernel.last_index
    return kernel


def in_force(kernel: Kernel) -> tuple[set[int], set[int]]:
    return set(kernel.voter_ids), set(kernel.learner_ids)


# -- what a change does


@pytest.mark.parametrize(
    ("change", "member", "voters", "learners"),
    [
        (ADD_NODE, 4, {1, 2, 3, 4}, {9}),
        (ADD_NODE, 9, {1, 2, 3, 9}, set()),  # a promotion
        (ADD_LEARNER, 4, {1, 2, 3}, {4, 9}),
        (ADD_LEARNER, 3, {1, 2}, {3, 9}),
        (REMOVE_NODE, 3, {1, 2}, {9}),
        (REMOVE_NODE, 9, {1, 2, 3}, set()),
        (UPDATE_NODE, 3, {1, 2, 3}, {9}),
    ],
)
def test_a_change_is_in_force_when_appended_on_leader_and_follower(change: int, member: int, voters: set, learners: set) -> None:
    """§4.1"""
    data = encode_change(change, member, b'{"id":1}', change_id=77)
    leader = lead(learners=[9])
    assert leader.propose_change(data) == 2
    assert in_force(leader) == (voters, learners)
    assert leader.applied_members == ({1, 2, 3}, {9}), "a snapshot must not hold what is not applied"
    follower = make(2, learners=[9])
    follower.step(Message(APPEND, 2, 1, 1, runs=[*run(1, 1, b""), *changes(2, 1, data)]))
    assert in_force(follower) == (voters, learners)


def test_a_change_is_rolled_back_when_its_entry_is_cut() -> None:
    """§4.1, M4"""
    kernel = make(2)
    kernel.step(Message(APPEND, 2, 1, 1, runs=[*run(1, 1, b"a"), *changes(2, 1, encode_change(ADD_NODE, 4))]))
    settle(kernel)
    kernel.step(Message(APPEND, 2, 3, 2, index=1, log_term=1, runs=changes(2, 2, encode_change(REMOVE_NODE, 1))))
    assert in_force(kernel) == ({2, 3}, set())
    kernel.step(Message(APPEND, 2, 1, 3, index=1, log_term=1, runs=run(2, 3, b"b")))
    assert in_force(kernel) == ({1, 2, 3}, set())


def test_a_repeated_append_changes_nothing_twice() -> None:
    kernel = make(2)
    message = Message(APPEND, 2, 1, 1, commit=2, runs=[*run(1, 1, b"a"), *changes(2, 1, encode_change(REMOVE_NODE, 3))])
    kernel.step(message)
    settle(kernel)
    kernel.step(message)
    assert in_force(kernel) == ({1, 2}, set())
    assert kernel.applied_members == ({1, 2}, set())


def test_a_restart_puts_the_changes_behind_the_applied_index_on_top() -> None:
    """S10, M2: before the first tick."""
    log = [*run(1, 1, b""), *changes(2, 1, encode_change(ADD_NODE, 4)), *changes(3, 1, encode_change(REMOVE_NODE, 1))]
    assert in_force(make(2, term=1, commit=1, applied=1, entries=log)) == ({2, 3, 4}, set())
    assert in_force(make(2, voters=[1, 2, 3, 4], term=1, commit=2, applied=2, entries=log)) == ({2, 3, 4}, set())
    assert in_force(make(2, voters=[2, 3, 4], term=1, commit=3, applied=3, entries=log)) == ({2, 3, 4}, set())


def test_a_founder_begins_with_its_first_entries() -> None:
    log = changes(1, 1, *[encode_change(ADD_NODE, one) for one in (1, 2, 3)])
    kernel = make(2, voters=[], term=1, commit=3, entries=log)
    assert in_force(kernel) == ({1, 2, 3}, set())
    assert kernel.applied_members == (set(), set())
    settle(kernel)
    assert kernel.applied_members == ({1, 2, 3}, set())


def test_a_snapshot_sets_the_configuration_and_keeps_what_the_log_holds_behind_it() -> None:
    log = [*run(1, 1, b"a"), *changes(2, 1, encode_change(ADD_NODE, 4)), *changes(3, 1, encode_change(ADD_LEARNER, 5))]
    kernel = make(2, term=1, entries=log)
    assert kernel.install(2, 1, [1, 2, 3, 4], [])
    assert in_force(kernel) == ({1, 2, 3, 4}, {5})
    other = make(2, term=1, entries=log)
    assert other.install(7, 3, [2, 3], [6])
    assert in_force(other) == ({2, 3}, {6})


def test_a_snapshot_deposes_a_leader_that_does_not_know_its_successor() -> None:
    """It came by a stream of its own, faster than the messages of the newer term."""
    kernel = lead()
    kernel.propose([b"mine"])
    assert kernel.install(7, 3, [1, 2, 3])
    assert (kernel.state, kernel.leader, kernel.last_index, kernel.commit) == (FOLLOWER, 0, 7, 7)
    assert kernel.matches() == {}


def test_a_voter_that_is_a_learner_too_is_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        make(learners=[2])
    with pytest.raises(ValueError, match="0 is no member id"):
        make(learners=[0])


readable = st.builds(
    encode_change, st.integers(0, 3), st.integers(1, 2**64 - 1), st.one_of(st.just(b""), st.binary(max_size=9)), st.integers(0, 2**63)
)
fields_at_random = st.lists(
    st.one_of(
        st.builds(lambda number, value: varint(number << 3) + varint(value), st.integers(1, 9), st.integers(0, 5)),
        st.builds(bytes_field, st.integers(1, 9), st.binary(max_size=4)),
        st.builds(lambda number, value: varint(number << 3 | 5) + value, st.integers(1, 9), st.binary(min_size=4, max_size=4)),
        st.builds(lambda number, value: varint(number << 3 | 1) + value, st.integers(1, 9), st.binary(min_size=8, max_size=8)),
        st.binary(max_size=12),
    ),
    max_size=5,
).map(b"".join)


@given(st.one_of(readable, fields_at_random, st.builds(lambda data, cut: data[:cut], readable, st.integers(0, 20))))
def test_the_kernel_reads_a_change_as_the_member_table_does(data: bytes) -> None:
    """Else a member would vote here and not stand in the table there."""
    kernel = make(2, voters=[1, 2, 3], learners=[4])
    kernel.step(Message(APPEND, 2, 1, 1, runs=changes(1, 1, data)))
    try:
        change, member, _, _ = decode_change(data)
    except WireError:
        change, member = UPDATE_NODE, 0
    voters, learners = {1, 2, 3}, {4}
    if change in (ADD_NODE, REMOVE_NODE, ADD_LEARNER) and member:
        voters.discard(member)
        learners.discard(member)
        if change != REMOVE_NODE:
            (voters if change == ADD_NODE else learners).add(member)
    assert in_force(kernel) == (voters, learners)


# -- when one may be proposed


def test_changes_come_one_at_a_time() -> None:
    """§4.1, S3, M1: the next only when the one before is applied."""
    kernel = lead()
    assert kernel.propose_change(encode_change(ADD_NODE, 4)) == 2
    assert kernel.propose_change(encode_change(ADD_NODE, 5)) == -4
    settle(kernel)
    ack(kernel, 2, 2)
    ack(kernel, 3, 2)
    assert kernel.commit == 2
    assert kernel.propose_change(encode_change(ADD_NODE, 5)) == -4, "committed is not applied"
    settle(kernel)
    assert kernel.propose_change(encode_change(ADD_NODE, 5)) == 3


def test_a_change_of_an_older_term_counts_too() -> None:
    kernel = make(term=1, entries=[*run(1, 1, b""), *changes(2, 1, encode_change(ADD_NODE, 4))])
    campaign(kernel)
    for member in (2, 3):
        kernel.step(Message(PRE_VOTE_RESPONSE, 1, member, 2))
    for member in (2, 3):
        kernel.step(Message(VOTE_RESPONSE, 1, member, 2))
    settle(kernel)
    assert kernel.state == LEADER
    assert kernel.propose_change(encode_change(ADD_NODE, 5)) == -4


def test_a_change_waits_for_a_commit_of_the_own_term() -> None:
    kernel = make()
    elect(kernel)
    assert kernel.propose_change(encode_change(ADD_NODE, 4)) == -5
    ack(kernel, 2, 1)
    assert kernel.propose_change(encode_change(ADD_NODE, 4)) == 2


@pytest.mark.parametrize(
    "change",
    [
        encode_change(REMOVE_NODE, 8),
        encode_change(UPDATE_NODE, 8),
        encode_change(ADD_NODE, 0),
        encode_change(4, 2),
        b"\x12",
        b"",
        varint(3 << 3 | 2) + b"\x00",
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing_behind(change: bytes) -> None:
    kernel = lead()
    assert kernel.propose_change(change) == -6
    assert (kernel.last_index, kernel.uncommitted_bytes) == (1, 0)
    assert kernel.propose_change(encode_change(UPDATE_NODE, 3)) == 2


def test_the_last_voter_stays() -> None:
    kernel = lead(voters=[1], learners=[2])
    assert kernel.propose_change(encode_change(REMOVE_NODE, 1)) == -6
    assert kernel.propose_change(encode_change(ADD_LEARNER, 1)) == -6
    follower = make(2, voters=[1])
    follower.step(Message(APPEND, 2, 1, 1, runs=changes(1, 1, encode_change(REMOVE_NODE, 1))))
    assert in_force(follower) == ({1}, set()), "in a log it has no effect, alike on every member"


def test_who_is_no_leader_or_hands_over_takes_no_change() -> None:
    assert make().propose_change(encode_change(ADD_NODE, 4)) == -1
    kernel = lead()
    assert kernel.transfer(2)
    assert kernel.propose_change(encode_change(ADD_NODE, 4)) == -2
    full = lead(voters=[1, 2], uncommitted_bytes_max=10)
    assert full.propose([b"x" * 11]) > 0
    assert full.propose_change(encode_change(ADD_NODE, 4)) == -3


# -- majorities


def commits_with(kernel: Kernel, *members: int) -> bool:
    index = kernel.propose([b"w"])
    settle(kernel)
    for member in members:
        ack(kernel, member, index)
    return kernel.commit >= index


@pytest.mark.parametrize(("voters", "enough"), [((1, 2), 2), ((1, 2, 3), 2), ((1, 2, 3, 4), 3), ((1, 2, 3, 4, 5), 3)])
def test_a_majority_of_even_and_odd_numbers(voters: tuple, enough: int) -> None:
    assert not commits_with(lead(voters), *voters[1 : enough - 1])
    assert commits_with(lead(voters), *voters[1:enough])


def test_a_learner_counts_for_nothing() -> None:
    kernel = lead(voters=[1, 2, 3], learners=[4, 5])
    assert not commits_with(kernel, 4, 5)
    asked = kernel.read_index("r")
    assert asked
    (context, *_) = {one.context for one in settle(kernel) if one.type == HEARTBEAT}
    for learner in (4, 5):
        kernel.step(Message(HEARTBEAT_RESPONSE, 1, learner, 1, context=context))
    assert kernel.ready() is None
    kernel.step(Message(HEARTBEAT_RESPONSE, 1, 2, 1, context=context))
    assert kernel.ready().read_states == [("r", 1)]


def test_learners_do_not_keep_a_leader_in_office() -> None:
    kernel = lead(voters=[1, 2, 3], learners=[4, 5])
    for _ in range(10):
        for learner in (4, 5):
            kernel.step(Message(HEARTBEAT_RESPONSE, 1, learner, 1))
        kernel.tick()
    assert kernel.state == FOLLOWER


def test_a_new_member_counts_at_once_and_has_an_election_timeout_to_be_heard() -> None:
    kernel = lead(voters=[1])
    assert kernel.propose_change(encode_change(ADD_NODE, 2)) == 2
    (append,) = [one for one in settle(kernel) if one.type == APPEND]
    assert append.to == 2
    assert kernel.commit == 1, "half of two is no majority"
    for _ in range(9):
        kernel.tick()
    assert kernel.state == LEADER
    ack(kernel, 2, 2)
    assert kernel.commit == 2


def test_a_smaller_majority_commits_what_waited_for_the_larger_one() -> None:
    kernel = lead(voters=[1, 2])
    kernel.propose([b"a"])
    assert kernel.propose_change(encode_change(REMOVE_NODE, 2)) == 3
    settle(kernel)
    assert (kernel.commit, kernel.applied) == (3, 3)


def test_a_read_under_way_goes_by_the_voters_of_now() -> None:
    kernel = lead(voters=[1, 2])
    kernel.read_index("r")
    settle(kernel)
    kernel.propose_change(encode_change(REMOVE_NODE, 2))
    ready = kernel.ready()
    assert ready.read_states == [("r", 1)]


def test_an_answer_of_a_removed_voter_confirms_no_read() -> None:
    kernel = lead(voters=[1, 2, 3, 4])
    kernel.read_index("r")
    (context, *_) = {one.context for one in settle(kernel) if one.type == HEARTBEAT}
    kernel.step(Message(HEARTBEAT_RESPONSE, 1, 4, 1, context=context))
    kernel.propose_change(encode_change(REMOVE_NODE, 4))
    settle(kernel)
    assert kernel.read_index("s")
    assert all(not one.read_states for one in iter(kernel.ready, None)), "1 and the removed 4 are one of three"
    kernel.step(Message(HEARTBEAT_RESPONSE, 1, 3, 1, context=context))
    assert kernel.ready().read_states == [("r", 1)]


def test_leadership_moves_to_voters_alone() -> None:
    kernel = lead(learners=[4])
    assert not kernel.transfer(4)
    assert not kernel.transfer(9)
    assert kernel.transfer(3)


# -- who campaigns, who votes


@pytest.mark.parametrize(("voters", "learners"), [([1, 2], [3]), ([1, 2], []), ([], [])])
def test_who_is_no_voter_never_campaigns(voters: list, learners: list) -> None:
    kernel = make(3, voters=voters, learners=learners)
    for _ in range(100):
        kernel.tick()
    kernel.step(Message(HEARTBEAT, 3, 1, 1))
    kernel.step(Message(TIMEOUT_NOW, 3, 1, 1))
    assert kernel.state == FOLLOWER
    assert kernel.term == 1


def test_a_learner_grants_votes() -> None:
    """§4.2.1: it may have been promoted without knowing it, and then its vote is needed."""
    kernel = make(3, voters=[1, 2], learners=[3])
    kernel.step(Message(VOTE, 3, 1, 5))
    (vote,) = settle(kernel)
    assert (vote.type, vote.reject) == (VOTE_RESPONSE, False)


def test_a_promoted_learner_that_does_not_know_it_elects_the_leader() -> None:
    """A lone voter promotes its learner and restarts before the learner has heard of it."""
    log = [*run(1, 1, b""), *changes(2, 1, encode_change(ADD_NODE, 2))]
    leader = make(1, voters=[1], learners=[2], term=1, commit=1, applied=1, entries=log)
    learner = make(2, voters=[1], learners=[2], term=1, commit=1, applied=1, entries=run(1, 1, b""))
    exchange(leader, learner)
    assert leader.state == LEADER
    assert in_force(learner) == ({1, 2}, set())


def begin(leader: Kernel, *others: Kernel) -> None:
    campaign(leader)
    leader.step(Message(PRE_VOTE_RESPONSE, leader.id, others[0].id, leader.term + 1))
    exchange(leader, *others, ticks=3)
    assert leader.state == LEADER


def exchange(*kernels: Kernel, ticks: int = 60) -> None:
    """Time passes on a whole network."""
    members = {one.id: one for one in kernels}
    for _ in range(ticks):
        for one in kernels:
            one.tick()
        for _ in range(10):
            for message in [message for one in kernels for message in settle(one)]:
                if message.to in members:
                    members[message.to].step(message)


def test_who_voted_before_an_uncommitted_change_may_still_lead_without_a_vote_of_its_own() -> None:
    """§4.2.2, figure 4.6: one of two voters removed itself and died before the other heard of it, whose log is too short to win."""
    log = [*run(1, 1, b""), *changes(2, 1, encode_change(REMOVE_NODE, 1))]
    left = make(1, voters=[1, 2], term=1, commit=1, applied=1, entries=log)
    stays = make(2, voters=[1, 2], term=1, commit=1, applied=1, entries=run(1, 1, b""))
    for _ in range(50):
        left.tick()
        settle(left)
    assert left.state != LEADER, "it has no vote"
    exchange(left, stays)
    assert stays.state == LEADER
    assert in_force(stays) == ({2}, set())
    assert left.state == FOLLOWER
    assert stays.applied >= 2


def test_once_the_change_is_committed_it_is_over() -> None:
    log = [*run(1, 1, b""), *changes(2, 1, encode_change(REMOVE_NODE, 1))]
    kernel = make(1, voters=[1, 2], term=1, commit=2, applied=1, entries=log)
    for _ in range(100):
        kernel.tick()
    assert (kernel.state, kernel.term) == (FOLLOWER, 1)


# -- leaving


def test_a_removed_member_is_told_until_it_knows() -> None:
    """M3"""
    kernel = lead()
    index = kernel.propose_change(encode_change(REMOVE_NODE, 3))
    assert [one.to for one in settle(kernel) if one.type == APPEND] == [2, 3]
    ack(kernel, 3, index, commit=1)
    assert 3 in kernel.matches()
    ack(kernel, 2, index)
    assert [(one.to, one.commit) for one in settle(kernel) if one.type == APPEND] == [(2, index), (3, index)]
    ack(kernel, 3, index, commit=index)
    assert 3 not in kernel.matches()
    assert kernel.state == LEADER


def test_a_removed_member_that_is_silent_is_forgotten_after_an_election_timeout() -> None:
    kernel = lead()
    index = kernel.propose_change(encode_change(REMOVE_NODE, 3))
    settle(kernel)
    for _ in range(20):
        kernel.step(Message(HEARTBEAT_RESPONSE, 1, 2, 1))
        kernel.tick()
    assert 3 in kernel.matches(), "its removal is not committed"
    ack(kernel, 2, index)
    for _ in range(11):
        kernel.step(Message(HEARTBEAT_RESPONSE, 1, 2, 1))
        kernel.tick()
    assert kernel.state == LEADER
    assert 3 not in kernel.matches()


def test_its_answers_carry_what_it_knows() -> None:
    follower = make(3)
    follower.step(Message(APPEND, 3, 1, 1, commit=1, runs=run(1, 1, b"a", b"b")))
    follower.step(Message(HEARTBEAT, 3, 1, 1, commit=2))
    assert [(one.type, one.commit) for one in settle(follower)] == [(APPEND_RESPONSE, 1), (HEARTBEAT_RESPONSE, 2)]


def test_a_member_that_comes_back_while_it_is_told_is_a_member() -> None:
    kernel = lead(voters=[1, 2, 3])
    index = kernel.propose_change(encode_change(REMOVE_NODE, 3))
    settle(kernel)
    ack(kernel, 2, index)
    settle(kernel)
    assert kernel.propose_change(encode_change(ADD_NODE, 3)) == index + 1
    for _ in range(15):
        kernel.step(Message(HEARTBEAT_RESPONSE, 1, 2, 1))
        kernel.step(Message(HEARTBEAT_RESPONSE, 1, 3, 1, commit=index + 1))
        kernel.tick()
    assert 3 in kernel.matches()


def test_a_leader_that_removes_itself_does_not_count_itself_and_goes_when_it_is_applied() -> None:
    """§4.2.2"""
    kernel = lead(voters=[1, 2, 3])
    index = kernel.propose_change(encode_change(REMOVE_NODE, 1))
    settle(kernel)
    ack(kernel, 3, index)
    assert kernel.commit == index - 1, "1 and 3 are one of two"
    assert kernel.propose([b"w"]) == index + 1, "until then it leads as ever"
    settle(kernel)
    ack(kernel, 2, index)
    assert kernel.commit == index
    ack(kernel, 3, index + 1)
    assert kernel.state == LEADER
    sent = settle(kernel)
    assert (kernel.state, kernel.leader) == (FOLLOWER, 0)
    assert [one.to for one in sent if one.type == TIMEOUT_NOW] == [3], "who holds most"
    assert {one.to for one in sent if one.type == APPEND and one.commit == index} == {2, 3}
    for _ in range(50):
        kernel.tick()
    assert kernel.state == FOLLOWER


def test_a_leader_that_becomes_a_learner_goes_too() -> None:
    kernel = lead(voters=[1, 2])
    index = kernel.propose_change(encode_change(ADD_LEARNER, 1))
    settle(kernel)
    ack(kernel, 2, index)
    settle(kernel)
    assert (kernel.state, in_force(kernel)) == (FOLLOWER, ({2}, {1}))


def test_the_one_it_names_leads_at_once() -> None:
    one, two, three = make(1), make(2), make(3)
    begin(one, two, three)
    assert one.propose_change(encode_change(REMOVE_NODE, 1)) > 0
    exchange(one, two, three, ticks=1)
    exchange(one, two, three, ticks=1)
    assert one.state == FOLLOWER
    assert LEADER in (two.state, three.state), "no election timeout has passed"
    assert in_force(two) == in_force(three) == ({2, 3}, set())


def test_who_leads_as_the_only_voter_is_heard_of_when_its_term_is_written() -> None:
    """It counts its own vote at once. If it dies before that is on disk it may vote for another in that term: so nobody must have heard."""
    kernel = make(2, voters=[1, 2], learners=[9])
    kernel.step(Message(HEARTBEAT, 2, 1, 1))
    settle(kernel)
    kernel.step(Message(APPEND, 2, 1, 1, runs=[*run(1, 1, b""), *changes(2, 1, encode_change(REMOVE_NODE, 1))]))
    assert kernel.ready().entries
    kernel.tick()
    assert (kernel.state, kernel.term) == (LEADER, 2)
    kernel.read_index("a read")
    kernel.propose([b"a"])
    ready = kernel.ready()
    assert ready.hard_state == (2, 2, 0)
    assert (ready.messages, ready.committed, ready.read_states, kernel.ready()) == ([], [], [], None)
    kernel.persisted(ready.batch)
    ready = kernel.ready()
    assert {one.type for one in ready.messages} == {APPEND}
    assert ready.committed
    assert ready.read_states


# -- the fence's fields; commit advances


def test_the_kernel_carries_the_fields_of_the_fence_and_never_looks_at_them() -> None:
    message = Message(HEARTBEAT, 1, 2, 1, beat=1, echo=2, left_ms=3)
    assert (message.beat, message.echo, message.left_ms) == (1, 2, 3)
    plain = Message(HEARTBEAT, 1, 2, 1)
    assert (plain.beat, plain.echo, plain.left_ms) == (0, 0, 0)
    plain.beat, plain.echo, plain.left_ms = 7, 8, 1 << 40
    assert plain.left_ms == 1 << 40
    kernel, other = make(), make()
    kernel.step(message)
    other.step(Message(HEARTBEAT, 1, 2, 1))
    assert list(map(repr, settle(kernel))) == list(map(repr, settle(other)))


def test_a_commit_is_told_at_once_even_to_a_member_whose_window_was_full() -> None:
    kernel = make(window_messages=1, message_entries=1)
    elect(kernel)
    ack(kernel, 2, 1)
    ack(kernel, 3, 1)
    settle(kernel)
    kernel.propose([b"a"])
    assert sorted(one.to for one in settle(kernel)) == [2, 3]
    ack(kernel, 2, 2)  # commits; the window of 3 is full
    assert [(one.to, one.commit) for one in settle(kernel)] == [(2, 2)]
    ack(kernel, 3, 2)
    assert [(one.to, one.commit) for one in settle(kernel)] == [(3, 2)]


def test_a_committed_entry_is_never_cut_whatever_it_holds() -> None:
    kernel = make(2, term=1, commit=2, entries=[*run(1, 1, b"a"), *changes(2, 1, encode_change(ADD_NODE, 4))])
    with pytest.raises(KernelError):
        make(2, commit=3, entries=run(1, 1, b"a"))
    kernel.step(Message(APPEND, 2, 1, 2, index=1, log_term=1, runs=run(2, 2, b"x")))
    assert in_force(kernel) == ({1, 2, 3, 4}, set())
    assert PRE_VOTE not in {one.type for one in settle(kernel)}
