"""Three replicas on one thread: forwarding, reads, changes of members and the fence, with messages in the test's hand."""

from collections.abc import Callable, Sequence

import pytest

from raftsched import proposals
from raftsched.errors import EtcdError
from raftsched.limits import FENCE_WINDOW_MS
from raftsched.pb.etcd import rpc_pb2
from raftsched.store import codec, membership
from raftsched.store import replica as replica_module
from raftsched.store._records import MemoryRecords
from raftsched.store.alarm import AlarmStore
from raftsched.store.apply import Applier, SideWrites
from raftsched.store.codec import RequestIds
from raftsched.store.lease import Lessor
from raftsched.store.membership import Membership
from raftsched.store.mvcc._store import MvccStore
from raftsched.store.raft._kernel import Kernel, Message
from raftsched.store.replica import (
    LEADER,
    Event,
    More,
    Output,
    Persisted,
    Propose,
    ProposeChange,
    Read,
    Received,
    Replica,
    Tick,
    Transfer,
    Unsent,
)
from raftsched.types import MemberInfo, Result

APPEND = 3
PROPOSE = 2
HEARTBEAT, HEARTBEAT_RESPONSE, READ_INDEX = 8, 9, 15


def put(key: bytes, value: bytes = b"v") -> bytes:
    return rpc_pb2.PutRequest(key=key, value=value).SerializeToString()


def state_machine() -> Applier:
    side = SideWrites()
    lessor = Lessor(side.write)
    store = MvccStore(MemoryRecords(), lessor, hash_seed=7)
    store.load()
    return Applier(store, lessor, AlarmStore(side.write), Membership(side.write), side)


class One:
    """A member: its log syncs at once unless it `hangs`."""

    def __init__(self, group: "Group", member_id: int, voters: Sequence[int]) -> None:
        self.group, self.id = group, member_id
        self.replica = Replica(Kernel(member_id, voters=voters, seed=member_id), state_machine(), RequestIds(member_id, 1))
        self.hangs = False
        self.got: list[tuple[int, Result]] = []
        self.outputs: list[Output] = []

    @property
    def kernel(self) -> Kernel:
        return self.replica.kernel

    @property
    def leads(self) -> bool:
        return self.kernel.state == LEADER and self.kernel.committed_in_term

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        self.got += zip(tokens, results, strict=True)

    def step(self, *events: Event) -> None:
        output = self.replica.step(events, self.group.now_ms)
        self.outputs.append(output)
        self.group.in_flight += output.send
        for sink, tokens, results in output.replies:
            sink.on_results(tokens, results)
        for serve, error in output.reads:
            serve(error)
        if output.persist is not None and not self.hangs:
            self.step(Persisted(output.persist.batch))
        if output.more:
            self.step(More())

    def put(self, token: int, key: bytes) -> None:
        self.step(Propose(proposals.PUT, [put(key)], [token], self))

    def answers(self) -> list[tuple[int, int]]:
        return [(token, result[0]) for token, result in self.got]

    def keys(self) -> list[bytes]:
        return [one.key for one in self.replica.applier.store.live(b"", b"\xff", None, 1000)]


class Group:
    """Three members, and messages that travel when `run` says so."""

    def __init__(self, ids: Sequence[int] = (1, 2, 3)) -> None:
        self.now_ms = 1_000
        self.in_flight: list[Message] = []
        self.lost: Callable[[Message], bool] = lambda _message: False
        self.members = {one: One(self, one, ids) for one in ids}

    def run(self) -> None:
        while self.in_flight:
            message = self.in_flight.pop(0)
            if not self.lost(message) and message.to in self.members:
                self.members[message.to].step(Received(message))

    def tick(self, count: int = 1, *, but: int = 0) -> None:
        for _ in range(count):
            self.now_ms += 50
            for member in list(self.members.values()):
                if member.id != but:
                    member.step(Tick())
            self.run()

    def elect(self, *, but: int = 0) -> One:
        for _ in range(200):
            self.tick(but=but)
            found = [one for one in self.members.values() if one.leads and one.id != but]
            if found:
                self.tick(but=but)
                return found[0]
        raise AssertionError("nobody was elected")

    def others(self, one: One) -> list[One]:
        return [member for member in self.members.values() if member is not one]


@pytest.fixture
def group() -> Group:
    return Group()


def test_a_follower_answers_its_own_clients_at_its_own_apply(group: Group) -> None:
    leader = group.elect()
    follower = group.others(leader)[0]
    follower.put(7, b"k")
    assert follower.got == []
    group.run()
    assert follower.answers() == [(7, 0)]
    assert follower.keys() == [b"k"], "who is answered reads its own write"
    group.tick()
    assert {tuple(one.keys()) for one in group.members.values()} == {(b"k",)}


def test_what_is_proposed_before_there_is_a_leader_goes_to_the_first(group: Group) -> None:
    for number, member in group.members.items():
        member.put(number, b"k%d" % number)
    group.elect()
    assert [member.answers() for member in group.members.values()] == [[(1, 0)], [(2, 0)], [(3, 0)]]


def test_a_forwarded_proposal_that_never_came_is_asked_again_when_a_new_leader_has_committed(group: Group) -> None:
    leader = group.elect()
    follower = group.others(leader)[0]
    group.lost = lambda message: message.type == PROPOSE
    follower.put(7, b"k")
    group.run()
    group.lost = lambda message: leader.id in (message.to, message.sender)
    new = group.elect(but=leader.id)
    group.tick(2, but=leader.id)
    assert follower.answers() == [(7, 0)]
    assert follower.keys() == [b"k"]
    assert new.replica.applier.store.revision == 2, "once"


def test_a_deposed_leader_tells_what_was_lost_and_keeps_what_was_not(group: Group) -> None:
    leader = group.elect()
    leader.put(1, b"kept")
    group.lost = lambda message: leader.id in (message.to, message.sender) and message.type != APPEND
    group.run()  # the entry arrives, the answers do not
    group.lost = lambda message: leader.id in (message.to, message.sender)
    leader.put(2, b"lost")
    group.run()
    new = group.elect(but=leader.id)
    group.lost = lambda _message: False
    group.tick(3)
    assert leader.answers() == [(1, 0), (2, EtcdError.LEADER_CHANGED)]
    assert leader.keys() == new.keys() == [b"kept"]


def test_a_follower_reads_what_was_committed_before(group: Group) -> None:
    leader = group.elect()
    follower = group.others(leader)[0]
    group.lost = lambda message: follower.id == message.to and message.type == APPEND
    leader.put(1, b"k")
    group.run()
    served: list[tuple[int, list[bytes]]] = []
    follower.step(Read(lambda error: served.append((error, follower.keys()))))
    group.run()
    assert served == [], "the index is known, the entry is not here"
    group.lost = lambda _message: False
    group.tick(4)
    assert served == [(0, [b"k"])]


def test_a_question_for_a_read_index_that_was_lost_is_asked_again(group: Group) -> None:
    leader = group.elect()
    follower = group.others(leader)[0]
    served: list[int] = []
    group.lost = lambda message: message.type == 15
    follower.step(Read(served.append))
    group.tick(9)
    assert served == []
    group.lost = lambda _message: False
    group.tick(3)
    assert served == [0]


def test_a_leader_that_is_cut_off_serves_no_read(group: Group) -> None:
    leader = group.elect()
    group.lost = lambda message: leader.id in (message.to, message.sender)
    group.tick(2)
    served: list[int] = []
    leader.step(Read(served.append))
    group.tick(8)  # an election timeout since it heard the others
    assert leader.kernel.state != LEADER
    assert served == [EtcdError.LEADER_CHANGED]


def test_a_change_of_members_is_answered_by_its_id_and_in_force_everywhere(group: Group) -> None:
    leader = group.elect()
    told = MemberInfo(9, "", ("http://nine:2380",), ())
    change_id = leader.replica.ids.take()
    change = membership.encode_change(membership.ADD_LEARNER, 9, membership.encode_json(told), change_id)
    leader.step(ProposeChange(change, change_id, leader))
    group.run()
    assert leader.answers() == [(0, 0)]
    assert any(output.members_changed for output in leader.outputs)
    group.tick()
    assert {one.kernel.learner_ids for one in group.members.values()} == {frozenset({9})}


def test_a_second_change_waits_for_the_first(group: Group) -> None:
    leader = group.elect()
    group.lost = lambda message: True
    for number in (8, 9):
        told = membership.encode_json(MemberInfo(number, "", (f"http://{number}:2380",), ()))
        change_id = leader.replica.ids.take()
        leader.step(ProposeChange(membership.encode_change(membership.ADD_LEARNER, number, told, change_id), change_id, leader))
    assert leader.answers() == [(0, -4)]


def test_leadership_moves_without_an_election_timeout(group: Group) -> None:
    leader = group.elect()
    heir = group.others(leader)[1]
    leader.step(Transfer(heir.id))
    group.run()
    assert heir.leads
    assert leader.kernel.leader == heir.id


def test_who_is_cut_off_may_trigger_no_more_when_another_leads(group: Group) -> None:
    leader = group.elect()
    group.tick(3)
    for one in group.members.values():
        assert one.replica.fence.until_ms(one.kernel.applied) > group.now_ms
    group.lost = lambda message: leader.id in (message.to, message.sender)
    group.elect(but=leader.id)
    assert leader.replica.fence.until_ms(leader.kernel.applied) <= group.now_ms


def test_an_answer_between_two_steps_counts_for_the_fence(group: Group) -> None:
    leader = group.elect()
    group.tick(3)
    group.lost = lambda message: leader.id in (message.to, message.sender)
    group.now_ms += 50
    leader.step(Tick())
    sent_ms, beats = group.now_ms, [message for message in group.in_flight if message.type == HEARTBEAT]
    group.in_flight.clear()
    before_ms = leader.replica.fence.until_ms(leader.kernel.applied)
    for beat in beats:
        other = group.members[beat.to]
        other.step(Received(beat))
        (answer,) = (message for message in group.in_flight if message.type == HEARTBEAT_RESPONSE)
        group.in_flight.clear()
        group.now_ms += 5
        assert leader.replica.absorb(answer, group.now_ms)
        assert not leader.kernel.has_ready, "no step needs to follow"
        assert leader.replica.fence.silent_ms(other.id, group.now_ms) == 0
    assert leader.replica.fence.until_ms(leader.kernel.applied) == sent_ms + FENCE_WINDOW_MS > before_ms
    assert not leader.replica.absorb(Message(APPEND, leader.id, beats[0].to, leader.kernel.term), group.now_ms)


def test_applied_entries_in_memory_are_bounded_on_every_member(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their bytes, whoever proposed them, and by their number; some always stay for who is a little behind."""
    monkeypatch.setattr(replica_module, "CATCH_UP_BYTES", 1 << 20)
    monkeypatch.setattr(replica_module, "CATCH_UP_ENTRIES", 200)
    leader = group.elect()

    def held(size_bytes: int) -> list[int]:
        return [(one.kernel.applied - one.kernel.first_index + 1) * size_bytes for one in group.members.values()]

    for number in range(300):
        one = leader if number % 2 else group.others(leader)[0]
        one.step(Propose(proposals.PUT, [put(b"k", bytes(10_000))], [number], one))
        group.run()
        group.tick()
        assert max(held(10_000)) <= (1 << 20) + 10_000
    assert min(held(10_000)) >= (1 << 19) - 10_000
    for number in range(1_000):
        leader.put(number, b"k")
        group.run()
        group.tick()
    assert all(200 <= count <= 400 for count in held(1))
    group.tick(20)
    assert {one.kernel.applied for one in group.members.values()} == {leader.kernel.last_index}


def heard(group: Group, type_: int, to: int, sender: int, term: int) -> Received:
    return Received(Message(type_, to, sender, term))


def test_who_waited_for_a_leader_goes_first_and_keeps_its_deadline(group: Group) -> None:
    leader = group.elect()
    follower = group.others(leader)[0]
    group.lost = lambda _message: True
    group.tick(40)
    assert not follower.kernel.leader
    follower.put(1, b"early")
    group.tick(20, but=follower.id)  # a second
    term = follower.kernel.term + 1
    other = next(one.id for one in group.members.values() if one.id != follower.id)
    follower.step(heard(group, 8, follower.id, other, term), Propose(proposals.PUT, [put(b"late")], [2], follower))
    assert follower.kernel.leader == other
    while not follower.got:
        group.now_ms += 50
        follower.step(Tick())
    assert follower.answers()[0][0] == 1
    assert len(follower.got) == 1, "the later one has a second more"


def test_since_when_somebody_waits(group: Group) -> None:
    """Of what waits for a leader, and of what waits for its commit, the oldest."""
    leader = group.elect()
    follower = group.others(leader)[0]
    assert {one.replica.waiting_since_ms() for one in group.members.values()} == {0}
    group.lost = lambda _message: True
    leader.put(1, b"a")
    asked_ms = group.now_ms
    group.tick(40)
    leader.put(2, b"b")
    follower.put(3, b"c")
    assert leader.replica.waiting_since_ms() == asked_ms
    assert follower.replica.waiting_since_ms() == group.now_ms
    group.lost = lambda _message: False
    group.elect()
    group.tick(10)
    assert {one.replica.waiting_since_ms() for one in group.members.values()} == {0}


def test_a_leader_that_is_gone_and_back_within_one_step_gets_what_waited(group: Group) -> None:
    leader = group.elect()
    follower, other = group.others(leader)
    term = follower.kernel.term + 1
    follower.step(
        heard(group, 9, follower.id, other.id, term),  # a newer term, without a leader
        Propose(proposals.PUT, [put(b"k")], [1], follower),
        heard(group, 8, follower.id, leader.id, term),
    )
    assert follower.kernel.leader == leader.id
    sent = [message for output in follower.outputs for message in output.send if message.type == PROPOSE]
    assert [(one.to, one.term) for one in sent] == [(leader.id, term)]
    assert follower.outputs[-1].leader_changed or follower.outputs[-2].leader_changed, "the term in headers follows"


def test_writes_wait_while_leadership_is_moving(group: Group) -> None:
    leader = group.elect()
    to = group.others(leader)[0]
    group.lost = lambda message: message.type == 14
    leader.step(Transfer(to.id))
    leader.put(1, b"k")
    assert leader.got == []
    group.tick(40)  # it did not move
    assert leader.answers() == [(1, 0)]


def sent_proposals(one: One) -> list[Message]:
    return [message for output in one.outputs for message in output.send if message.type == PROPOSE]


def test_writes_on_a_follower_wait_while_leadership_is_moving(group: Group) -> None:
    """The leader refuses them; before, so did the follower, with "too many requests"."""
    leader = group.elect()
    to, follower = group.others(leader)
    group.lost = lambda message: message.type == 14
    leader.step(Transfer(to.id))
    for token in range(3):
        follower.put(token, b"k%d" % token)
        group.run()
    assert follower.got == []
    assert len(sent_proposals(follower)) == 1, "who hands over is not asked again in the same tick"
    group.lost = lambda _message: False
    group.tick(40)  # it did not move: the leader takes them again
    assert follower.answers() == [(0, 0), (1, 0), (2, 0)]
    assert follower.replica.applier.store.revision == 4, "each once"
    assert len(sent_proposals(follower)) < 40


def test_writes_on_a_follower_go_to_the_leader_that_took_over(group: Group) -> None:
    leader = group.elect()
    to, follower = group.others(leader)
    leader.step(Transfer(to.id))
    follower.put(1, b"k")  # arrives where leadership leaves
    group.run()
    group.tick(3)
    assert to.leads
    assert follower.answers() == [(1, 0)]
    assert follower.replica.applier.store.revision == 2


def test_a_follower_waits_for_a_transfer_no_longer_than_a_request_may_take(group: Group) -> None:
    leader = group.elect()
    to, follower = group.others(leader)
    group.lost = lambda message: message.type == 14
    begun_ms = group.now_ms
    leader.step(Transfer(to.id))
    follower.put(1, b"k")
    group.run()
    while not follower.got and group.now_ms < begun_ms + 20_000:
        leader.step(Transfer(to.id))
        group.tick()
        group.lost = lambda message: message.type == 14 or (message.type == PROPOSE and leader.kernel.transferee == 0)
    assert follower.answers()[0][1] in (EtcdError.TIMEOUT, EtcdError.TIMEOUT_LEADER_FAILURE)
    assert group.now_ms - begun_ms <= 7_100


def test_proposals_that_surely_were_not_sent_are_refused_or_asked_again_at_once(group: Group) -> None:
    leader = group.elect()
    follower = group.others(leader)[0]
    group.lost = lambda message: message.type == PROPOSE
    for token in (1, 2):
        follower.put(token, b"k%d" % token)
    group.run()
    full, broken = sent_proposals(follower)
    group.lost = lambda _message: False
    follower.step(Unsent(full.context, full=True))
    assert follower.answers() == [(1, EtcdError.TOO_MANY_REQUESTS)]
    follower.step(Unsent(broken.context, full=False), Unsent(broken.context, full=False))
    group.run()
    assert follower.answers() == [(1, EtcdError.TOO_MANY_REQUESTS), (2, 0)]
    assert follower.keys() == [b"k2"]
    follower.step(Unsent(broken.context, full=True))  # nobody waits for it any more
    assert len(follower.got) == 2


def test_what_waits_again_keeps_its_place_and_its_deadline(group: Group) -> None:
    leader = group.elect()
    follower = group.others(leader)[0]
    group.lost = lambda message: message.type == PROPOSE
    follower.put(1, b"first")
    group.run()
    group.now_ms += 1_000
    connected = False
    follower.replica.connection = lambda _member: connected
    follower.put(2, b"second")
    follower.step(Unsent(sent_proposals(follower)[0].context, full=False))
    connected, group.lost = True, lambda _message: False
    follower.step(Tick())
    group.run()
    assert follower.answers() == [(1, 0), (2, 0)]


def test_much_that_is_forwarded_goes_in_several_messages(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module.limits, "FORWARD_BYTES_MAX", 1_000)
    monkeypatch.setattr(replica_module.limits, "FORWARD_ENTRIES_MAX", 4)
    leader = group.elect()
    follower = group.others(leader)[0]
    sizes = [10, 400, 400, 400, 2_000, 10, 10, 10, 10, 10, 10]
    follower.step(
        Propose(proposals.PUT, [put(b"k%02d" % at, bytes(size)) for at, size in enumerate(sizes)], list(range(len(sizes))), follower)
    )
    group.run()
    assert [len(message.runs[0][3]) for message in sent_proposals(follower)] == [3, 1, 1, 4, 2]
    group.tick()
    assert sorted(follower.answers()) == [(token, 0) for token in range(len(sizes))]
    follower.outputs.clear()
    follower.put(99, b"k")
    follower.step(Propose(proposals.PUT, [put(b"k", bytes(2_000))], [100], follower))
    assert [len(message.runs[0][3]) for message in sent_proposals(follower)] == [1, 1]


def test_what_waits_for_a_leader_is_bounded_in_bytes(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module.limits, "LEADERLESS_BYTES_MAX", 1_000)
    member = group.members[1]
    for number in range(3):
        member.step(Propose(proposals.PUT, [put(b"k", bytes(900))], [number], member))
    assert member.answers() == [(1, EtcdError.TOO_MANY_REQUESTS), (2, EtcdError.TOO_MANY_REQUESTS)]
    group.elect()
    assert (0, 0) in member.answers()


def test_reads_of_one_index_time_out_one_by_one(group: Group) -> None:
    leader = group.elect()
    follower = group.others(leader)[0]
    got: list[tuple[str, int]] = []
    reading = follower.replica.reading
    reading.ask(lambda error: got.append(("old", error)), group.now_ms, [])
    reading.ask(lambda error: got.append(("new", error)), group.now_ms + 3_000, [])
    reading.request(group.now_ms + 3_000)
    reading.known(next(iter(reading._open)), follower.kernel.applied + 100)
    late: list[tuple[Callable[[int], None], int]] = []
    reading.tick(group.now_ms + 7_500, late)
    assert [error for _, error in late] == [EtcdError.TIMEOUT_WAIT_APPLIED]
    served: list[tuple[Callable[[int], None], int]] = []
    reading.serve(follower.kernel.applied + 100, served)
    assert [error for _, error in served] == [0]


def test_what_a_leader_proposes_as_such_is_not_passed_on_to_the_next(group: Group) -> None:
    """The end of a lease: the next leader gives it its full time again."""
    leader = group.elect()
    term = leader.kernel.term
    revoke = codec.varint_field(1, 77)
    leader.step(
        heard(group, HEARTBEAT, leader.id, group.others(leader)[0].id, term + 1),
        Propose(proposals.LEASE_REVOKE, [revoke], [5], leader, term),
    )
    assert leader.answers()[-1] == (5, EtcdError.NOT_LEADER)
    again = group.elect()
    again.step(Propose(proposals.LEASE_REVOKE, [revoke], [6], again, again.kernel.term - 1))
    assert again.answers()[-1] == (6, EtcdError.NOT_LEADER)
    again.step(Propose(proposals.LEASE_REVOKE, [revoke], [7], again, again.kernel.term))
    group.tick(2)
    assert again.answers()[-1] == (7, EtcdError.LEASE_NOT_FOUND)


def test_what_cannot_reach_the_leader_now_waits_for_the_connection(group: Group) -> None:
    follower = group.others(group.elect())[0]
    connected, served = False, []
    follower.replica.connection = lambda _member: connected
    follower.put(1, b"k")
    follower.step(Read(served.append))
    assert not [one for one in group.in_flight if one.type in (PROPOSE, 15)], "it would be lost, and time out"
    connected = True
    group.tick()
    assert (follower.answers(), served) == ([(1, 0)], [0])


class Broken:
    """A follower's connection to its leader, in the test's hand: what is sent on it is lost."""

    def __init__(self, group: Group) -> None:
        self.group, self.number, self.made = group, 1, 1
        self.leader = group.elect()
        self.follower = group.others(self.leader)[0]
        self.follower.replica.connection = lambda _member: self.number

    def lose(self, *types: int, to: int = 0) -> None:
        ends = {self.leader.id, self.follower.id}
        self.group.lost = lambda message: message.type in types and {message.to, message.sender} == ends and to in (0, message.to)

    def back(self) -> None:
        """Another connection, and nothing more is lost; as long as one tick."""
        self.made = self.number = max(self.made, self.number) + 1
        self.group.lost = lambda _message: False
        self.group.tick()

    def revisions(self) -> list[int]:
        self.group.tick(2)
        return [one.replica.applier.store.revision for one in self.group.members.values()]


def test_what_was_under_way_on_a_connection_that_broke_is_sent_again_on_the_next(group: Group) -> None:
    pair = Broken(group)
    pair.lose(PROPOSE)
    for token in (1, 2):
        pair.follower.put(token, b"k%d" % token)
    group.run()
    group.tick(5)
    assert pair.follower.got == []
    assert len(sent_proposals(pair.follower)) == 2, "on a connection that lives nothing is lost"
    pair.number = 0
    pair.follower.put(3, b"k3")
    group.tick(5)
    assert len(sent_proposals(pair.follower)) == 2
    pair.back()
    assert pair.follower.answers() == [(1, 0), (2, 0), (3, 0)], "in a tick, in their order"
    assert pair.revisions() == [4, 4, 4]
    assert len(sent_proposals(pair.follower)) == 5


def test_what_is_newer_does_not_overtake_what_is_sent_again(group: Group) -> None:
    """The leader takes rising sequences alone: a newer one first, and it would drop the older ones for good."""
    pair = Broken(group)
    pair.lose(PROPOSE)
    pair.follower.put(1, b"k1")
    group.run()
    pair.number, group.lost = 2, lambda _message: False
    pair.follower.put(2, b"k2")
    group.run()
    group.tick()
    assert pair.follower.answers() == [(1, 0), (2, 0)]
    assert pair.revisions() == [3, 3, 3]


def test_what_is_committed_and_was_not_answered_is_not_applied_again(group: Group) -> None:
    pair = Broken(group)
    pair.lose(APPEND, HEARTBEAT, to=pair.follower.id)
    pair.follower.put(1, b"k1")
    group.run()
    group.tick(2)
    assert pair.leader.replica.applier.store.revision == 2, "the leader has committed and applied it"
    assert pair.follower.got == []
    last = pair.leader.kernel.last_index
    for number in range(2, 6):
        pair.number = number
        group.tick()
    again = [one.context for one in sent_proposals(pair.follower)]
    assert len(again) == 5, "once for each connection"
    assert len(set(again)) == 1
    assert pair.leader.kernel.last_index == last
    pair.back()
    group.tick(2)
    assert pair.follower.answers() == [(1, 0)]
    assert pair.revisions() == [2, 2, 2]


@pytest.mark.parametrize("full", [False, True])
def test_a_copy_that_never_left_says_nothing_of_the_one_before(group: Group, full: bool) -> None:
    """Asked for anew, under another id, it would be applied twice; refused, it would be done and called a failure."""
    pair = Broken(group)
    pair.lose(APPEND, HEARTBEAT, to=pair.follower.id)
    pair.follower.put(1, b"k1")
    group.run()
    pair.number = 2
    group.tick()
    context = sent_proposals(pair.follower)[-1].context
    pair.follower.step(Unsent(context, full=full))
    assert pair.follower.got == []
    pair.back()
    group.tick(2)
    assert pair.follower.answers() == [(1, 0)]
    assert pair.revisions() == [2, 2, 2]
    assert {one.context for one in sent_proposals(pair.follower)} == {context}


def test_a_copy_that_never_left_is_sent_on_the_next_connection(group: Group) -> None:
    pair = Broken(group)
    pair.lose(PROPOSE)
    pair.follower.put(1, b"k1")
    group.run()
    pair.number = 2
    pair.follower.step(Tick())
    group.run()
    pair.follower.step(Unsent(sent_proposals(pair.follower)[-1].context, full=False))
    pair.back()
    assert pair.follower.answers() == [(1, 0)]
    assert pair.revisions() == [2, 2, 2]


def test_nothing_of_an_older_term_is_sent_again(group: Group) -> None:
    """The next leader has not seen its sequence, and may have its entry: the old leader's log is the longest."""
    pair = Broken(group)
    third = next(one for one in group.others(pair.leader) if one is not pair.follower)
    group.lost = lambda message: message.to == pair.follower.id or (message.sender == third.id and message.to == pair.leader.id)
    pair.follower.put(1, b"k1")
    group.run()  # the third has the entry, and nobody knows that it is committed
    assert third.kernel.last_index == pair.leader.kernel.last_index
    (first,) = sent_proposals(pair.follower)
    old = pair.leader.id
    group.lost = lambda message: old in (message.to, message.sender) or (message.type == APPEND and message.to == pair.follower.id)
    while pair.follower.kernel.leader != third.id:
        group.tick(but=old)
    assert pair.follower.got == [], "it waits, and knows who leads"
    pair.number += 1
    group.tick(2, but=old)
    group.lost = lambda message: old in (message.to, message.sender)
    group.tick(5, but=old)
    assert sent_proposals(pair.follower) == [first]
    assert pair.follower.answers() == [(1, 0)]
    assert [one.replica.applier.store.revision for one in (third, pair.follower)] == [2, 2]


def test_what_is_sent_again_is_bounded(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module.limits, "FORWARD_AGAIN_BYTES_MAX", 2_000)
    pair = Broken(group)
    pair.lose(PROPOSE)
    for token in range(4):
        pair.follower.step(Propose(proposals.PUT, [put(b"k", bytes(900))], [token], pair.follower))
    pair.follower.step(Propose(proposals.PUT, [put(b"k", bytes(9_000))], [4], pair.follower))
    group.run()
    pair.back()
    assert pair.follower.answers() == [(0, 0), (1, 0)]
    pair.back()
    assert len(sent_proposals(pair.follower)) == 5 + 2 + 2, "those that were overtaken by none; the leader may take them"
    group.tick(400)
    unknown = (EtcdError.TIMEOUT, EtcdError.TIMEOUT_LEADER_FAILURE)
    assert all(error in (0, *unknown) for _, error in pair.follower.answers())
    assert len(pair.follower.got) == 5
    pair.lose(PROPOSE)
    pair.follower.step(Propose(proposals.PUT, [put(b"k", bytes(9_000))], [5], pair.follower))
    group.run()
    pair.back()
    assert pair.follower.answers()[-1] == (5, 0), "one is always sent"


def owners_of(message: Message) -> list[tuple[bytes, int, int, int]]:
    ((_, _, _, entries),) = message.runs
    return codec.unwrap(list(entries))[3]


def test_whose_it_is_goes_with_it_however_often_it_is_sent(group: Group) -> None:
    """Else the leader would permit it to nobody, and every member refuse what its user may do."""
    pair = Broken(group)
    pair.lose(PROPOSE)
    pair.follower.step(Propose(proposals.PUT, [put(b"k1")], [1], pair.follower, identity=codec.identity_fields(b"ann", 3)))
    group.run()
    pair.number = 2
    group.tick()  # the same again, on another connection
    pair.follower.step(Propose(proposals.PUT, [put(b"k2")], [2], pair.follower, identity=codec.identity_fields(b"bob", 4)))
    pair.follower.step(Unsent(sent_proposals(pair.follower)[-1].context, full=False))  # anew
    group.run()
    pair.back()
    assert sorted(pair.follower.answers()) == [(1, 0), (2, 0)]
    ann, bob = [(b"ann", 3, 0, 1)], [(b"bob", 4, 0, 1)]
    owners = [owners_of(one) for one in sent_proposals(pair.follower)]
    assert [owners.count(ann), owners.count(bob), len(owners)] == [3, 3, 6], "of each, and of nobody else"


def test_a_leader_without_room_takes_of_others_only_what_frees_space(group: Group) -> None:
    leader = group.elect()
    follower = group.others(leader)[0]
    leader.replica.no_room = True
    before = leader.kernel.last_index
    follower.put(1, b"k")
    group.run()
    group.tick(3)
    assert follower.answers() == [(1, EtcdError.NO_SPACE)], "at once, and for certain"
    assert leader.kernel.last_index == before
    follower.step(Propose(proposals.DELETE_RANGE, [rpc_pb2.DeleteRangeRequest(key=b"k").SerializeToString()], [2], follower))
    group.run()
    group.tick()
    leader.replica.no_room = False
    follower.put(3, b"k")
    group.run()
    group.tick()
    assert follower.answers()[1:] == [(2, 0), (3, 0)]


@pytest.mark.parametrize("follows", [False, True])
def test_all_reads_of_a_step_cost_one_round(group: Group, follows: bool) -> None:
    leader = group.elect()
    asked = group.others(leader)[0] if follows else leader
    told: list[int] = []
    asked.step(*[Read(told.append) for _ in range(20)])
    assert len([message for message in group.in_flight if message.type == READ_INDEX]) == follows
    beats: list[int] = []

    def note(message: Message) -> bool:
        beats.extend([message.to] * (message.type == HEARTBEAT))
        return False

    group.lost = note
    group.run()
    assert sorted(beats) == sorted(one.id for one in group.others(leader)), "one heartbeat to each"
    assert told == [0] * 20
