"""Sentences of Raft, one test each; the thesis' section in the docstring. Schedules S1 to S12 and R1: docs/raft.md."""

import pytest

from raftsched.store.raft._kernel import Kernel, KernelError, Message

APPEND, APPEND_RESPONSE, VOTE, VOTE_RESPONSE, HEARTBEAT, HEARTBEAT_RESPONSE = 3, 4, 5, 6, 8, 9
TIMEOUT_NOW, PRE_VOTE, PRE_VOTE_RESPONSE = 14, 17, 18
FOLLOWER, PRE_CANDIDATE, CANDIDATE, LEADER = 0, 1, 2, 3


def make(member_id: int = 1, voters=(1, 2, 3), seed: int = 7, **options) -> Kernel:
    return Kernel(member_id, voters=voters, seed=seed, **options)


def settle(kernel: Kernel) -> list[Message]:
    """Syncs and applies everything; all messages that left."""
    sent = []
    while (ready := kernel.ready()) is not None:
        sent += ready.messages
        if ready.batch:
            kernel.persisted(ready.batch)
        for first, _, _, items in ready.committed:
            kernel.advance(first + len(items) - 1)
    return sent


def elect(kernel: Kernel, helper: int = 2) -> list[Message]:
    """Makes it leader of the next term; its first appends."""
    while kernel.state != PRE_CANDIDATE:
        kernel.tick()
    settle(kernel)
    kernel.step(Message(PRE_VOTE_RESPONSE, kernel.id, helper, kernel.term + 1))
    settle(kernel)
    kernel.step(Message(VOTE_RESPONSE, kernel.id, helper, kernel.term))
    assert kernel.state == LEADER
    return settle(kernel)


def run(first: int, term: int, *items: bytes):
    return [(first, term, 0, list(items))]


def test_a_lone_voter_leads_after_one_tick_and_commits_when_synced() -> None:
    kernel = make(voters=[1])
    kernel.tick()
    assert kernel.state == LEADER
    assert kernel.propose([b"a", b"b"]) == 2
    ready = kernel.ready()
    assert ready.hard_state == (1, 1, 0)
    assert ready.entries == [(1, 1, 0, [b"", b"a", b"b"])]
    assert not ready.committed, "§10.2.1: the leader counts itself only once it has synced"
    assert kernel.ready() is None
    kernel.persisted(ready.batch)
    assert kernel.ready().committed == [(1, 1, 0, [b"", b"a", b"b"])]


def test_what_is_proposed_while_a_write_is_under_way_is_the_next_batch() -> None:
    kernel = make(voters=[1])
    kernel.tick()
    first = kernel.ready()
    kernel.propose([b"a"])
    second = kernel.ready()
    assert (second.batch, second.entries) == (first.batch + 1, [(2, 1, 0, [b"a"])])
    kernel.persisted(first.batch)
    assert kernel.commit == 1
    kernel.persisted(second.batch)
    assert kernel.commit == 2


def test_who_is_no_leader_takes_no_proposal() -> None:
    assert make().propose([b"a"]) == -1


def test_uncommitted_bytes_are_bounded_but_one_large_entry_passes() -> None:
    kernel = make(voters=[1], uncommitted_bytes_max=10)
    kernel.tick()
    settle(kernel)
    assert kernel.propose([b"x" * 100]) > 0
    assert kernel.propose([b"y"]) == -3
    settle(kernel)
    assert kernel.uncommitted_bytes == 0
    assert kernel.propose([b"y"]) > 0


def test_a_vote_is_on_disk_before_it_leaves() -> None:
    """§3.8"""
    kernel = make()
    kernel.step(Message(VOTE, 1, 2, 5, index=0, log_term=0))
    ready = kernel.ready()
    assert ready.hard_state == (5, 2, 0)
    assert not ready.messages
    kernel.persisted(ready.batch)
    (vote,) = kernel.ready().messages
    assert (vote.type, vote.to, vote.term, vote.reject) == (VOTE_RESPONSE, 2, 5, False)


def test_one_vote_per_term_and_the_same_answer_for_the_same_candidate() -> None:
    """§3.4"""
    kernel = make()
    kernel.step(Message(VOTE, 1, 2, 5))
    kernel.step(Message(VOTE, 1, 3, 5))
    kernel.step(Message(VOTE, 1, 2, 5))
    assert [(one.to, one.reject) for one in settle(kernel)] == [(2, False), (3, True), (2, False)]


@pytest.mark.parametrize(("index", "log_term", "granted"), [(2, 3, True), (3, 3, True), (1, 3, False), (9, 2, False), (1, 4, True)])
def test_only_a_log_as_new_as_the_own_gets_the_vote(index: int, log_term: int, granted: bool) -> None:
    """§3.6.1"""
    kernel = make(term=3, entries=run(1, 3, b"a", b"b"))
    kernel.step(Message(VOTE, 1, 2, 5, index=index, log_term=log_term))
    (answer,) = settle(kernel)
    assert answer.reject is not granted


def test_a_pre_vote_raises_no_term() -> None:
    """§9.6"""
    kernel = make()
    while kernel.state != PRE_CANDIDATE:
        kernel.tick()
    assert kernel.term == 0
    assert {(one.type, one.term) for one in settle(kernel)} == {(PRE_VOTE, 1)}
    kernel.step(Message(PRE_VOTE, 1, 2, 9))
    settle(kernel)
    assert kernel.term == 0


def test_who_hears_a_leader_helps_nobody_to_depose_it() -> None:
    """§4.2.3, T8"""
    kernel = make()
    kernel.step(Message(HEARTBEAT, 1, 2, 5))
    settle(kernel)
    kernel.step(Message(VOTE, 1, 3, 9))
    kernel.step(Message(PRE_VOTE, 1, 3, 9))
    assert not settle(kernel)
    assert kernel.term == 5
    kernel.step(Message(VOTE, 1, 3, 9, context=1))  # a transfer, which that leader asked for
    assert kernel.term == 9


def test_votes_are_a_set() -> None:
    """E3: repeated answers of one member are one vote."""
    kernel = make(voters=[1, 2, 3, 4, 5])
    while kernel.state != PRE_CANDIDATE:
        kernel.tick()
    for _ in range(3):
        kernel.step(Message(PRE_VOTE_RESPONSE, 1, 2, 1))
    kernel.step(Message(PRE_VOTE_RESPONSE, 1, 9, 1))
    assert kernel.state == PRE_CANDIDATE


def test_a_lost_vote_is_tried_again_soon() -> None:
    kernel = make()
    while kernel.state != PRE_CANDIDATE:
        kernel.tick()
    settle(kernel)
    kernel.step(Message(PRE_VOTE_RESPONSE, 1, 2, 0, reject=True))
    kernel.step(Message(PRE_VOTE_RESPONSE, 1, 3, 0, reject=True))
    assert kernel.state == FOLLOWER
    for _ in range(3):
        kernel.tick()
    assert kernel.state == PRE_CANDIDATE


def ticks_until_the_next_pre_vote(kernel: Kernel) -> int:
    for count in range(1, 100):
        kernel.tick()
        if kernel.state == PRE_CANDIDATE and asked(kernel):
            return count
    raise AssertionError


def asked(kernel: Kernel) -> bool:
    return any(one.type == PRE_VOTE for one in settle(kernel))


@pytest.mark.parametrize("seed", range(20))
def test_a_split_vote_is_tried_again_after_longer_and_longer_times(seed: int) -> None:
    """§3.4, §9.6: two have voted for themselves, and the third never answers."""
    kernel = make(seed=seed)
    waits = [ticks_until_the_next_pre_vote(kernel)]
    for _ in range(6):
        kernel.step(Message(PRE_VOTE_RESPONSE, 1, 2, kernel.term + 1))
        assert kernel.state == CANDIDATE
        settle(kernel)
        kernel.step(Message(VOTE_RESPONSE, 1, 2, kernel.term, reject=True))
        waits.append(ticks_until_the_next_pre_vote(kernel))
    for wait, (low, high) in zip(waits, [(10, 14), (2, 4), (4, 8), (8, 14), (10, 14), (10, 14), (10, 14)], strict=True):
        assert low <= wait <= high, waits
    kernel.step(Message(HEARTBEAT, 1, 3, kernel.term))
    assert ticks_until_the_next_pre_vote(kernel) >= 10
    assert ticks_until_the_next_pre_vote(kernel) <= 4, "a leader was known: it begins anew"


def test_a_vote_that_nobody_answers_is_given_a_whole_timeout() -> None:
    """It may be on its way from a slow disk."""
    kernel = make()
    ticks_until_the_next_pre_vote(kernel)
    kernel.step(Message(PRE_VOTE_RESPONSE, 1, 2, 1))
    assert kernel.state == CANDIDATE
    assert ticks_until_the_next_pre_vote(kernel) >= 10


def test_a_leader_steps_down_when_it_hears_no_majority() -> None:
    """§6.2, R1: one election timeout after it heard one for the last time, whenever that was."""
    for heard in (0, 1, 5, 9, 13):
        kernel = make()
        elect(kernel)
        for _ in range(heard):
            kernel.tick()
            kernel.step(Message(HEARTBEAT_RESPONSE, 1, 2, 1))
        for _ in range(9):
            kernel.tick()
            assert kernel.state == LEADER
        kernel.tick()
        assert kernel.state == FOLLOWER


def test_only_entries_of_the_own_term_are_committed_by_counting() -> None:
    """§3.6.2, figure 3.7"""
    kernel = make(term=2, entries=run(1, 2, b"old"))
    elect(kernel)
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 3, index=1))
    assert kernel.commit == 0
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 3, index=2))
    assert kernel.commit == 2


def test_acks_of_another_term_count_for_nothing() -> None:
    """S8, L3"""
    kernel = make(term=2, entries=run(1, 2, b"old"))
    elect(kernel)
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 2, index=2))
    assert kernel.commit == 0
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 3, index=99))  # more than was ever sent
    assert kernel.commit == 0


def test_a_repeated_append_cuts_nothing() -> None:
    """S2, L1, K1"""
    kernel = make()
    kernel.step(Message(APPEND, 1, 2, 1, runs=run(1, 1, b"a", b"b", b"c")))
    settle(kernel)
    kernel.step(Message(APPEND, 1, 2, 1, runs=run(1, 1, b"a")))
    (ack,) = settle(kernel)
    assert kernel.last_index == 3
    assert ack.index == 1, "an ack says what was compared, never the last index"
    kernel.step(Message(HEARTBEAT, 1, 2, 1))
    settle(kernel)
    assert kernel.last_index == 3


def test_a_follower_commits_no_further_than_was_compared() -> None:
    """L2"""
    kernel = make(term=1, entries=run(1, 1, b"a", b"mine"))
    kernel.step(Message(APPEND, 1, 2, 2, index=1, log_term=1, commit=2))
    assert kernel.commit == 1


def test_a_conflict_cuts_from_there_and_a_rejection_skips_a_term() -> None:
    """§3.5, S6"""
    kernel = make(term=3, entries=[*run(1, 1, b"a"), *run(2, 2, *[b"x"] * 100)])
    kernel.step(Message(APPEND, 1, 2, 5, index=90, log_term=4))
    (rejection,) = settle(kernel)
    assert (rejection.reject, rejection.hint_index, rejection.hint_term) == (True, 90, 2)
    kernel.step(Message(APPEND, 1, 2, 5, index=90, log_term=1))
    (rejection,) = settle(kernel)
    assert (rejection.hint_index, rejection.hint_term) == (1, 1)
    kernel.step(Message(APPEND, 1, 2, 5, index=1, log_term=1, runs=run(2, 5, b"new")))
    settle(kernel)
    assert (kernel.last_index, kernel.term_at(2)) == (2, 5)


def test_a_leader_and_a_follower_with_a_foreign_tail_agree_within_few_rounds() -> None:
    """S6, L5: 500 entries of a deposed leader."""
    leader = make(1, term=2, entries=[*run(1, 1, b"a"), *run(2, 2, *[b"l"] * 500)])
    follower = make(2, term=1, entries=run(1, 1, *[b"f"] * 500))
    messages = elect(leader, helper=3)
    rounds = 0
    while follower.last_index != leader.last_index or follower.term_at(501) != 2:
        rounds += 1
        for message in messages:
            if message.to == 2:
                follower.step(message)
        for answer in settle(follower):
            leader.step(answer)
        messages = settle(leader)
        assert rounds < 6


def test_an_entry_below_the_commit_index_never_changes() -> None:
    kernel = make(term=1, commit=1, entries=run(1, 1, b"a", b"b"))
    kernel.step(Message(APPEND, 1, 2, 5, index=0, log_term=0, commit=1, runs=run(1, 5, b"x", b"y")))
    (ack,) = settle(kernel)
    assert (ack.reject, ack.index) == (False, 1)
    assert (kernel.term_at(1), kernel.term_at(2)) == (1, 1)


def test_a_write_that_completes_late_does_not_vouch_for_what_replaced_it() -> None:
    """Rule 8, with the same index and term coming back: only the third write makes entry 1 of term 1 stable."""
    kernel = make()
    kernel.step(Message(APPEND, 1, 2, 1, runs=run(1, 1, b"a")))
    first = kernel.ready()
    kernel.step(Message(APPEND, 1, 3, 2, runs=run(1, 2, b"b")))
    second = kernel.ready()
    kernel.step(Message(APPEND, 1, 2, 3, runs=run(1, 1, b"a")))
    third = kernel.ready()
    kernel.persisted(first.batch)
    assert kernel.stable == 0
    kernel.persisted(second.batch)
    assert kernel.stable == 0
    kernel.persisted(third.batch)
    assert kernel.stable == 1


def test_nothing_is_applied_that_the_own_log_could_lose() -> None:
    """Rule 9"""
    kernel = make()
    kernel.step(Message(APPEND, 1, 2, 1, commit=1, runs=run(1, 1, b"a")))
    ready = kernel.ready()
    assert kernel.commit == 1
    assert not ready.committed
    kernel.persisted(ready.batch)
    assert kernel.ready().committed == run(1, 1, b"a")


def test_a_stale_leader_is_told() -> None:
    kernel = make(term=5)
    kernel.step(Message(APPEND, 1, 2, 3, runs=run(1, 3, b"a")))
    (answer,) = settle(kernel)
    assert (answer.reject, answer.term) == (True, 5)
    assert kernel.last_index == 0


def test_a_newer_term_makes_a_follower_of_a_leader() -> None:
    kernel = make()
    elect(kernel)
    kernel.step(Message(HEARTBEAT, 1, 3, 9))
    assert (kernel.state, kernel.term, kernel.leader) == (FOLLOWER, 9, 3)


def test_a_read_needs_a_majority_and_a_commit_of_the_own_term() -> None:
    """§6.4, R1"""
    kernel = make(term=2, entries=run(1, 2, b"old"))
    elect(kernel)
    assert kernel.read_index("early")
    assert settle(kernel) == []
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 3, index=2))
    asked = [one for one in settle(kernel) if one.type == HEARTBEAT]
    assert len(asked) == 2
    kernel.step(Message(HEARTBEAT_RESPONSE, 1, 2, 3, context=asked[0].context))
    assert kernel.ready().read_states == [("early", 2)]


def test_an_answered_round_confirms_all_reads_before_it() -> None:
    """§6.4"""
    kernel = make()
    elect(kernel)
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 1, index=1))
    settle(kernel)
    for number in range(5):
        kernel.read_index(number)
    asked = [one for one in settle(kernel) if one.type == HEARTBEAT]
    latest = max(one.context for one in asked)
    kernel.step(Message(HEARTBEAT_RESPONSE, 1, 2, 1, context=latest))
    assert [context for context, _ in kernel.ready().read_states] == [0, 1, 2, 3, 4]


def test_reads_fail_when_leadership_is_lost() -> None:
    kernel = make()
    elect(kernel)
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 1, index=1))
    kernel.read_index("r")
    kernel.step(Message(HEARTBEAT, 1, 3, 9))
    assert kernel.ready().read_failures == ["r"]


def test_a_lone_voter_reads_without_a_round() -> None:
    kernel = make(voters=[1])
    kernel.tick()
    kernel.read_index("early")  # before its first commit
    assert kernel.ready().read_states == []
    kernel.persisted(1)
    assert kernel.ready().read_states == [("early", 1)]
    kernel.read_index("r")
    assert kernel.ready().read_states == [("r", 1)]


def test_a_transfer_stops_proposals_and_resumes_after_an_election_timeout() -> None:
    """§3.10"""
    kernel = make()
    elect(kernel)
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 1, index=1))
    settle(kernel)
    assert kernel.transfer(2)
    assert [one.type for one in settle(kernel)] == [TIMEOUT_NOW]
    assert kernel.propose([b"a"]) == -2
    for _ in range(10):
        kernel.step(Message(HEARTBEAT_RESPONSE, 1, 2, 1))
        kernel.tick()
    assert kernel.propose([b"a"]) > 0


def test_who_is_told_to_lead_asks_for_votes_at_once_and_gets_them_from_those_who_hear_a_leader() -> None:
    """§3.10, §4.2.3: its votes are asked for in the old leader's name."""
    heir, other = make(2), make(3)
    for kernel in (heir, other):
        kernel.step(Message(HEARTBEAT, kernel.id, 1, 1))
        settle(kernel)
    heir.step(Message(TIMEOUT_NOW, 2, 1, 1))
    asked = [message for message in settle(heir) if message.to == 3]
    assert [(message.type, message.term) for message in asked] == [(VOTE, 2)]
    other.step(asked[0])
    (vote,) = settle(other)
    assert (vote.type, vote.term, vote.reject) == (VOTE_RESPONSE, 2, False)
    heir.step(vote)
    assert heir.state == LEADER


def test_what_is_committed_is_written_down_with_what_is_written_anyway() -> None:
    kernel = make(1, [1])
    kernel.tick()
    settle(kernel)
    assert kernel.commit == 1
    assert kernel.ready() is None, "no write for the commit index alone"
    kernel.propose([b"a"])
    ready = kernel.ready()
    assert ready.hard_state == (1, 1, 1)
    entries = [*run(1, 1, b""), *run(2, 1, b"a")]
    again = make(1, [1, 2, 3], term=1, vote=1, commit=1, entries=entries)
    assert again.ready().committed == run(1, 1, b""), "applied at once, before anybody leads"


def test_a_stalled_follower_costs_one_window() -> None:
    """L6, T7"""
    kernel = make(window_messages=4, message_entries=1)
    elect(kernel)
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 1, index=1))
    settle(kernel)
    for number in range(50):
        kernel.propose([b"%d" % number])
    sent = [one for one in settle(kernel) if one.type == APPEND and one.to == 2 and one.runs]
    assert len(sent) == 4


def test_the_window_is_bounded_in_bytes_too() -> None:
    """L6: nothing is begun once that many bytes are unanswered, and an answer makes room for as much."""
    kernel = make(window_bytes=2_500, message_entries=1)
    elect(kernel)
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 1, index=1))
    settle(kernel)

    def sent() -> list[int]:
        return [one.runs[0][0] for one in settle(kernel) if one.type == APPEND and one.to == 2 and one.runs]

    for _ in range(10):
        kernel.propose([bytes(1_000)])
    assert sent() == [2, 3, 4]
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 1, index=3))
    assert sent() == [5, 6]
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 1, index=6))
    assert sent() == [7, 8, 9]


@pytest.mark.parametrize("size", range(1900, 2101, 40))
def test_an_entry_larger_than_a_message_travels_alone(size: int) -> None:
    """S12, L7"""
    kernel = make(message_bytes=1000)
    elect(kernel)
    kernel.propose([bytes(size), b"next"])
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 1, index=1))
    appends = [one for one in settle(kernel) if one.to == 2 and one.runs]
    assert [len(items) for one in appends for _, _, _, items in one.runs] == [1, 1]
    assert appends[0].runs[0][3][0] == bytes(size)


def test_a_follower_behind_the_log_in_memory_is_handed_to_the_driver() -> None:
    kernel = make(term=1, commit=5, applied=5, entries=run(1, 1, *[b"x"] * 5))
    kernel.compact(4)
    elect(kernel)
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 2, index=5, reject=True, hint_index=0, hint_term=0))
    assert kernel.ready().catch_ups == [(2, 1)]
    assert [one for one in settle(kernel) if one.to == 2] == [], "the driver's turn"
    kernel.probe(3)
    assert settle(kernel) == [], "not in catch-up"


def test_whom_the_driver_could_not_help_is_asked_where_it_is() -> None:
    """It may have installed a snapshot and lost the answer: to begin at its match again would offer it the same one for ever."""
    kernel = make(term=1, commit=5, applied=5, entries=run(1, 1, *[b"x"] * 5))
    kernel.compact(4)
    elect(kernel)
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 2, index=5, reject=True, hint_index=0, hint_term=0))
    assert kernel.ready().catch_ups == [(2, 1)]
    kernel.probe(2)
    assert kernel.matches()[2][0] == 0
    (probe,) = [one for one in settle(kernel) if one.to == 2]
    assert (probe.index, probe.runs) == (kernel.last_index, [])
    kernel.step(Message(APPEND_RESPONSE, 1, 2, 2, index=probe.index, reject=True, hint_index=5, hint_term=1))
    (append,) = [one for one in settle(kernel) if one.to == 2]
    assert (append.index, append.log_term, len(append.runs)) == (5, 1, 1)


@pytest.mark.parametrize(
    "message",
    [
        Message(APPEND, 1, 2, 5, index=-1, log_term=-1),
        Message(APPEND, 1, 2, 5, index=7, log_term=-1, commit=9),
        Message(APPEND, 1, 2, 5, runs=run(2, 5, b"gap")),
        Message(APPEND, 1, 2, 5, runs=run(1, 9, b"term above the message's")),
        Message(APPEND, 1, 2, 5, runs=[(1, 5, 0, [])]),
        Message(APPEND, 1, 2, 5, index=1, log_term=0, runs=[*run(2, 4, b"a"), *run(3, 3, b"terms fall")]),
        Message(APPEND, 9, 2, 5),
        Message(APPEND, 1, 1, 5),
    ],
)
def test_malformed_messages_change_nothing(message: Message) -> None:
    kernel = make()
    kernel.step(message)
    assert (kernel.term, kernel.last_index, kernel.commit, kernel.ready()) == (0, 0, 0, None)


def test_an_installed_snapshot_moves_commit_and_replaces_a_log_that_does_not_hold_it() -> None:
    """S1: no message does"""
    kernel = make(term=1, entries=run(1, 1, b"mine"))
    assert kernel.install(10, 3, [1, 2, 3])
    assert (kernel.first_index, kernel.last_index, kernel.commit, kernel.applied) == (11, 10, 10, 10)
    assert not kernel.install(9, 3, [1, 2, 3])
    keeps = make(term=3, entries=run(1, 3, b"a", b"b"))
    assert keeps.install(1, 3, [1, 2, 3])
    assert keeps.last_index == 2


def test_a_log_that_does_not_fit_the_applied_index_is_refused() -> None:
    with pytest.raises(KernelError):
        make(applied=5, entries=run(1, 1, b"a"))
    with pytest.raises(KernelError):
        make(entries=[*run(1, 1, b"a"), *run(3, 1, b"gap")])


def test_the_same_seed_gives_the_same_member() -> None:
    def trace(seed: int) -> list[int]:
        kernel = Kernel(1, voters=[1, 2, 3], seed=seed)
        states = []
        for _ in range(60):
            kernel.tick()
            states.append(kernel.state)
        return states

    assert trace(3) == trace(3)
    assert len({tuple(trace(seed)) for seed in range(20)}) > 1


def led(**options) -> Kernel:
    """A leader of three whose followers both replicate."""
    leader = make(**options)
    elect(leader)
    for member in (2, 3):
        leader.step(Message(APPEND_RESPONSE, 1, member, leader.term, index=leader.last_index))
    settle(leader)
    return leader


def test_what_is_news_between_two_readies_goes_in_one_append() -> None:
    leader = led()
    first = leader.propose([b"a"])
    ready = leader.ready()
    assert [(one.to, one.index) for one in ready.messages] == [(2, first - 1), (3, first - 1)]
    leader.persisted(ready.batch)
    leader.step(Message(APPEND_RESPONSE, 1, 2, leader.term, index=first))
    assert leader.commit == first
    leader.propose([b"b"])
    leader.propose([b"c", b"d"])
    told = [(one.to, one.commit, one.index, one.runs) for one in leader.ready().messages]
    assert told == [(to, first, first, run(first + 1, leader.term, b"b", b"c", b"d")) for to in (2, 3)]


def test_several_acks_to_one_leader_leave_as_the_last() -> None:
    follower = make()
    for index, item in enumerate((b"a", b"b", b"c")):
        follower.step(Message(APPEND, 1, 2, 1, index=index, log_term=min(index, 1), commit=index, runs=run(index + 1, 1, item)))
    (ack,) = settle(follower)
    assert (ack.to, ack.index, ack.commit, ack.reject) == (2, 3, 2, False)


def test_a_refusal_is_no_ack_and_stays() -> None:
    follower = make()
    follower.step(Message(APPEND, 1, 2, 1, runs=run(1, 1, b"a")))
    follower.step(Message(APPEND, 1, 2, 1, index=9, log_term=1, runs=run(10, 1, b"x")))
    assert sorted((one.reject, one.index) for one in settle(follower)) == [(False, 1), (True, 9)]


def test_an_ack_is_absorbed_and_says_whether_anything_follows() -> None:
    leader = led()
    first = leader.propose([b"a"])
    ready = leader.ready()
    leader.persisted(ready.batch)
    assert not leader.has_ready
    assert leader.absorb(Message(APPEND_RESPONSE, 1, 2, leader.term, index=first))
    assert leader.commit == first
    assert leader.has_ready, "it is to be applied, and the members are to be told"
    settle(leader)
    assert leader.absorb(Message(APPEND_RESPONSE, 1, 3, leader.term, index=first))
    assert not leader.has_ready
    assert leader.ready() is None


def test_an_answer_to_a_heartbeat_is_absorbed_and_a_read_follows_it() -> None:
    leader = led()
    settle(leader)
    assert leader.absorb(Message(HEARTBEAT_RESPONSE, 1, 2, leader.term))
    assert not leader.has_ready
    leader.read_index(b"r")
    (round_, *_) = {one.context for one in settle(leader) if one.type == HEARTBEAT}
    assert leader.absorb(Message(HEARTBEAT_RESPONSE, 1, 2, leader.term, context=round_))
    assert leader.has_ready
    assert [context for context, _ in leader.ready().read_states] == [b"r"]


def beats(leader: Kernel, ticks: int, *, answered: bool = True) -> list[int]:
    """At which of these ticks heartbeats left; each is answered at once."""
    found = []
    for tick in range(ticks):
        leader.tick()
        sent = [one for one in settle(leader) if one.type == HEARTBEAT]
        if sent:
            found.append(tick)
        for one in sent if answered else ():
            leader.step(Message(HEARTBEAT_RESPONSE, 1, one.to, leader.term))
        settle(leader)
    return found


def quiet_leader() -> Kernel:
    leader = led(quiet_heartbeat_ticks=2)
    settle(leader)
    return leader


def test_a_leader_with_nothing_to_do_sends_every_other_heartbeat() -> None:
    leader = quiet_leader()
    assert beats(leader, 10) == list(range(10)), "an election timeout long as ever: the fence of a new leader needs them"
    assert beats(leader, 8) == [1, 3, 5, 7]
    first = leader.propose([b"a"])
    settle(leader)
    assert beats(leader, 3) == [0, 1, 2]
    for member in (2, 3):
        leader.step(Message(APPEND_RESPONSE, 1, member, leader.term, index=first))
    assert beats(leader, 13) == [*range(9), 10, 12]
    beats(leader, 1)
    leader.read_index(b"r")
    settle(leader)
    assert beats(leader, 2, answered=False) == [0, 1], "a read waits"


def test_who_does_not_answer_a_quiet_leader_is_asked_more_often() -> None:
    leader = quiet_leader()
    beats(leader, 12)
    assert beats(leader, 5, answered=False) == [1, 2, 3, 4]


def test_without_being_told_a_quiet_leader_is_as_any() -> None:
    leader = led()
    settle(leader)
    assert beats(leader, 30) == list(range(30))
    with pytest.raises(ValueError, match="quiet_heartbeat_ticks"):
        make(quiet_heartbeat_ticks=10)


def test_what_is_more_than_an_ack_is_not_absorbed() -> None:
    leader = led()
    first = leader.propose([b"a"])
    term = leader.term
    settle(leader)
    for message in (
        Message(APPEND_RESPONSE, 1, 2, term, index=first, reject=True),
        Message(APPEND_RESPONSE, 1, 2, term - 1, index=first),
        Message(APPEND_RESPONSE, 1, 2, term + 1, index=first),
        Message(APPEND_RESPONSE, 1, 9, term, index=first),
        Message(APPEND_RESPONSE, 3, 2, term, index=first),
        Message(HEARTBEAT_RESPONSE, 1, 2, term - 1),
        Message(HEARTBEAT_RESPONSE, 1, 9, term),
        Message(APPEND, 1, 2, term),
    ):
        assert not leader.absorb(message)
    assert (leader.term, leader.state, leader.commit) == (term, LEADER, first - 1)
    assert not make(2).absorb(Message(APPEND_RESPONSE, 2, 1, 0, index=0)), "who leads nobody"
