"""Changes of the members: the path from the RPC to the applied change, on the leader, through a follower, and for an empty member."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest

from raftsched import limits
from raftsched.cli.member import LEAVING
from raftsched.errors import ETCD_STATUS, EtcdError, PeerCode, PeerError, StatusError, status_of
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.store import membership
from raftsched.store.asks import Granted, JoinAsk, Later, Refused
from raftsched.store.codec import WireError
from raftsched.store.membership import ADD_LEARNER, ADD_NODE, REMOVE_NODE, UPDATE_NODE, Membership
from raftsched.store.node import members as room
from raftsched.store.node.members import Change, MembershipChanges, decode_members, decode_request, encode_members, encode_request
from raftsched.store.reconfigure import HEALTH_INTERVAL_MS, JOIN_SILENCE_MS, Rules, View
from raftsched.store.transport.ports import CHANGE_MEMBERS, MAY_LEAVE, PROMOTE
from raftsched.testing.lone_node import MEMBER_ID, EtcdDoor, LoneNode
from raftsched.types import MemberInfo

CLUSTER = 0xC


class Log:
    """What was decided, shared by all hosts: a change is applied in the call that proposes it."""

    def __init__(self, *members: MemberInfo) -> None:
        self.table = Membership(lambda _: None)
        for one in members:
            self.table.apply_change(membership.encode_change(ADD_NODE, one.member_id, membership.encode_json(one)))
            self.table.apply_attributes(membership.encode_attributes(one.member_id, one.name, ()))
        self.leader = members[0].member_id if members else 0
        self.hosts: dict[int, Host] = {}
        self.refusals: list[int] = []  # negatives of the kernel that come first
        self.matches: dict[int, int] = {}
        self.silent: dict[int, int] = {}
        self.order: list[str] = []
        self.term = 5
        self.meanwhile: Callable[[], object] | None = None  # what others did that a barrier waits for


class Host:
    """`members.ChangeHost` and `Identity` on a `Log`."""

    def __init__(self, log: Log, member_id: int) -> None:
        self.log, self.member_id, self.cluster_id = log, member_id, CLUSTER
        self.now_ms = 0
        self.requests: list[tuple[int, int]] = []
        self.broken: PeerError | bytes | None = None
        self.connected = True
        self.successor = 0  # who leads once this one hands over
        self.proposed: list[int] = []
        self.changes = MembershipChanges(self, self, Rules(), cluster_token="t", request_timeout_ms=500)
        log.hosts[member_id] = self
        log.matches.setdefault(member_id, 100)

    @property
    def leader_id(self) -> int:
        return self.log.leader

    @property
    def membership(self) -> Membership:
        return self.log.table

    def mono_ms(self) -> int:
        self.now_ms += 10
        return self.now_ms

    def wall_s(self) -> int:
        return 1_700_000_000

    def view(self) -> View:
        found = self.log.table.members()
        leading = self.leader_id == self.member_id
        return View(
            self.member_id,
            found,
            dict.fromkeys((one.member_id for one in found), HEALTH_INTERVAL_MS) if self.connected else {},
            self.log.matches if leading else {},
        )

    def silent_ms(self) -> dict[int, int]:
        return self.log.silent

    def take_id(self) -> int:
        return 1_000 + len(self.proposed)

    async def propose_change(self, change: bytes, change_id: int) -> int:
        if self.log.refusals:
            return self.log.refusals.pop(0)
        assert membership.decode_change(change)[3] == change_id
        self.proposed.append(change_id)
        kind, member_id, _, _ = membership.decode_change(change)
        self.log.order.append(f"{('add', 'remove', 'update', 'learner')[kind]}")
        await asyncio.sleep(0)
        error = self.log.table.apply_change(change)
        self.log.matches.setdefault(member_id, 0)
        return int(error)

    async def hand_over(self) -> None:
        self.log.order.append(f"{self.member_id} hands over")
        self.log.leader = self.successor or self.log.leader

    @property
    def term(self) -> int:
        return self.log.term

    async def barrier(self) -> None:
        if self.log.meanwhile is not None:
            self.log.meanwhile()

    async def publish(self, member_id: int, name: str, client_urls: Sequence[str], term: int) -> int:
        if term != self.log.term:
            return int(EtcdError.NOT_LEADER)
        self.log.order.append("publish")
        self.log.table.apply_attributes(membership.encode_attributes(member_id, name, client_urls))
        return 0

    async def request(self, member_id: int, kind: int, payload: bytes, timeout_ms: int) -> bytes:
        self.requests.append((member_id, kind))
        if isinstance(self.broken, PeerError):
            raise self.broken
        if self.broken is not None:
            return self.broken
        return await self.log.hosts[member_id].changes.on_request(payload, only_asked=kind == MAY_LEAVE)


def member(number: int, name: str | None = None) -> MemberInfo:
    return MemberInfo(number, f"m{number}" if name is None else name, (f"http://m{number}:2380",), ())


@pytest.fixture
def log() -> Log:
    made = Log(member(1), member(2), member(3))
    for number in (1, 2, 3):
        Host(made, number)
    return made


def run(work):
    return asyncio.run(work)


def error_of(work) -> EtcdError:
    with pytest.raises(StatusError) as caught:
        run(work)
    return next(error for error, status in ETCD_STATUS.items() if status == (caught.value.code, caught.value.message))


URL9 = ("http://m9:2380",)


@pytest.mark.parametrize("at", [1, 2])
def test_each_change_on_the_leader_and_through_a_follower(log: Log, at: int) -> None:
    changes = log.hosts[at].changes
    added = run(changes.change(Change(ADD_LEARNER, 0, (" http://m9:2380",))))
    (fresh,) = [one for one in added if one.peer_urls == URL9]
    assert fresh.is_learner
    assert fresh.member_id == membership.make_member_id(URL9, "t", 1_700_000_000)
    assert error_of(changes.change(Change(ADD_NODE, fresh.member_id, promotion=True))) == EtcdError.LEARNER_NOT_READY
    log.matches[fresh.member_id] = 90
    promoted = run(changes.change(Change(ADD_NODE, fresh.member_id, promotion=True)))
    assert [one.is_learner for one in promoted if one.member_id == fresh.member_id] == [False]
    updated = run(changes.change(Change(UPDATE_NODE, 3, ("http://new:1",))))
    assert [one.peer_urls for one in updated if one.member_id == 3] == [("http://new:1",)]
    left = run(changes.change(Change(REMOVE_NODE, 3)))
    assert sorted(one.member_id for one in left) == sorted([1, 2, fresh.member_id])
    assert error_of(changes.change(Change(REMOVE_NODE, 3))) == EtcdError.MEMBER_NOT_FOUND
    kinds = {kind for _, kind in log.hosts[at].requests}
    assert kinds == (set() if at == 1 else {CHANGE_MEMBERS, PROMOTE})


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize(
    ("change", "error"),
    [
        (Change(ADD_NODE, 0, ("no url",)), EtcdError.BAD_MEMBER_URLS),
        (Change(ADD_NODE, 0, ()), EtcdError.BAD_MEMBER_URLS),
        (Change(UPDATE_NODE, 2, ("x",)), EtcdError.BAD_MEMBER_URLS),
        (Change(UPDATE_NODE, 999, ("x",)), EtcdError.MEMBER_NOT_FOUND),
        (Change(UPDATE_NODE, 999, ()), EtcdError.MEMBER_NOT_FOUND),
        (Change(ADD_NODE, 0, ("http://m3:2380",)), EtcdError.PEER_URL_EXISTS),
        (Change(UPDATE_NODE, 2, ("http://m3:2380",)), EtcdError.PEER_URL_EXISTS),
        (Change(UPDATE_NODE, 9, URL9), EtcdError.MEMBER_NOT_FOUND),
        (Change(REMOVE_NODE, 9), EtcdError.MEMBER_NOT_FOUND),
        (Change(ADD_NODE, 9, promotion=True), EtcdError.MEMBER_NOT_FOUND),
        (Change(ADD_NODE, 3, promotion=True), EtcdError.MEMBER_NOT_LEARNER),
    ],
)
def test_the_errors_are_etcds_wherever_one_asks(log: Log, at: int, change: Change, error: EtcdError) -> None:
    assert error_of(log.hosts[at].changes.change(change)) == error
    assert not log.order


def test_an_earlier_change_or_a_new_term_is_waited_for(log: Log) -> None:
    log.refusals = [room.EARLIER_PENDING, room.TERM_UNCOMMITTED, room.EARLIER_PENDING]
    assert len(run(log.hosts[1].changes.change(Change(REMOVE_NODE, 3)))) == 2
    log.refusals = [room.EARLIER_PENDING] * 1_000
    assert error_of(log.hosts[1].changes.change(Change(REMOVE_NODE, 2))) == EtcdError.TIMEOUT


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (room.LEADERSHIP_MOVING, EtcdError.LEADER_CHANGED),
        (room.TOO_MUCH, EtcdError.TOO_MANY_REQUESTS),
        (room.SENSELESS, EtcdError.UNHEALTHY),
        (EtcdError.TIMEOUT, EtcdError.TIMEOUT),
        (EtcdError.STOPPED, EtcdError.STOPPED),
    ],
)
def test_what_the_kernel_or_the_replica_refuses(log: Log, refusal: int, error: EtcdError) -> None:
    log.refusals = [refusal]
    assert error_of(log.hosts[1].changes.change(Change(REMOVE_NODE, 3))) == error


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (PeerError(PeerCode.UNREACHABLE, ""), EtcdError.TIMEOUT),
        (PeerError(PeerCode.TIMEOUT, ""), EtcdError.TIMEOUT),
        (PeerError(PeerCode.LOST, ""), EtcdError.TIMEOUT_CONNECTION_LOST),
        (PeerError(PeerCode.BUSY, ""), EtcdError.TOO_MANY_REQUESTS),
        (PeerError(12_345, ""), EtcdError.TIMEOUT),
        (b"\xff", EtcdError.TIMEOUT),
    ],
)
def test_a_leader_that_does_not_answer(log: Log, broken, error: EtcdError) -> None:
    log.hosts[2].broken = broken
    assert error_of(log.hosts[2].changes.change(Change(REMOVE_NODE, 3))) == error


def test_what_nobody_knows_to_be_undone_is_not_asked_again(log: Log) -> None:
    for code in (PeerCode.TIMEOUT, PeerCode.LOST, PeerCode.BUSY, PeerCode.INTERNAL):
        log.hosts[2].requests.clear()
        log.hosts[2].broken = PeerError(code, "")
        error_of(log.hosts[2].changes.change(Change(REMOVE_NODE, 3)))
        assert len(log.hosts[2].requests) == 1


def test_without_a_leader_a_change_waits_as_long_as_a_request_may_and_a_follower_does_not_pass_on(log: Log) -> None:
    log.leader = 0
    for change in (Change(REMOVE_NODE, 3), Change(UPDATE_NODE, 3, URL9), Change(ADD_NODE, 3, promotion=True), Change(ADD_NODE, 0, URL9)):
        began_ms = log.hosts[1].now_ms
        error = EtcdError.NO_LEADER if change.promotion else EtcdError.TIMEOUT  # etcd's own difference
        assert error_of(log.hosts[1].changes.change(change)) == error
        assert log.hosts[1].now_ms - began_ms >= 500
    with pytest.raises(PeerError) as caught:
        run(log.hosts[2].changes.on_request(encode_request(Change(REMOVE_NODE, 3))))
    assert caught.value.code == EtcdError.NO_LEADER
    assert not log.order


@pytest.mark.parametrize("change", [Change(ADD_NODE, 0, URL9), Change(ADD_LEARNER, 0, URL9)])
def test_without_a_leader_an_unhealthy_cluster_takes_nobody_in(log: Log, change: Change) -> None:
    log.leader, log.hosts[1].connected = 0, False
    assert error_of(log.hosts[1].changes.change(change)) == EtcdError.UNHEALTHY
    assert log.hosts[1].now_ms < 100, "at once"


def test_a_change_waits_for_a_leader_and_for_one_that_knows_that_it_leads(log: Log) -> None:
    async def scenario() -> Sequence[MemberInfo]:
        log.leader = 0
        asked = asyncio.ensure_future(log.hosts[2].changes.change(Change(REMOVE_NODE, 3)))
        await asyncio.sleep(0.05)
        log.hosts[2].broken, log.leader = PeerError(EtcdError.NO_LEADER, "not yet"), 1
        await asyncio.sleep(0.05)
        log.hosts[2].broken = PeerError(PeerCode.UNREACHABLE, "not yet")
        await asyncio.sleep(0.05)
        log.hosts[2].broken = None
        return await asked

    assert [one.member_id for one in run(scenario())] == [1, 2]
    assert log.order == ["remove"]
    log.refusals = [room.NO_LEADER_HERE]
    assert len(run(log.hosts[1].changes.change(Change(REMOVE_NODE, 2)))) == 1, "nothing was done: it is asked again"


@pytest.mark.parametrize("at", [1, 2])
def test_a_leader_that_is_removed_hands_over_first_wherever_one_asks(log: Log, at: int) -> None:
    log.hosts[1].successor = 3
    assert [one.member_id for one in run(log.hosts[at].changes.change(Change(REMOVE_NODE, 1)))] == [2, 3]
    assert log.order == ["1 hands over", "remove"]
    assert log.hosts[3].proposed
    assert not log.hosts[1].proposed


@pytest.mark.parametrize("at", [1, 2])
def test_a_refused_removal_moves_no_leadership(log: Log, at: int) -> None:
    log.hosts[1].connected, log.hosts[1].successor = False, 3
    assert error_of(log.hosts[at].changes.change(Change(REMOVE_NODE, 1))) == EtcdError.UNHEALTHY
    assert (log.order, log.leader) == ([], 1)


def test_a_leader_without_a_successor_removes_itself(log: Log) -> None:
    assert [one.member_id for one in run(log.hosts[1].changes.change(Change(REMOVE_NODE, 1)))] == [2, 3]
    assert log.order == ["1 hands over", "remove"]


@pytest.mark.parametrize("at", [1, 2])
def test_whether_a_member_may_leave_is_asked_of_who_would_remove_it(log: Log, at: int) -> None:
    log.hosts[1].successor = 3
    run(log.hosts[at].changes.may_leave())
    assert log.order == (["1 hands over"] if at == 1 else []), "nothing is proposed"
    assert log.hosts[at].requests == [(3 if at == 1 else 1, MAY_LEAVE)]
    assert len(log.table.members()) == 3
    asked = log.hosts[log.leader]
    asked.connected = False
    assert error_of(log.hosts[at].changes.may_leave()) == EtcdError.UNHEALTHY
    assert error_of(log.hosts[at].changes.change(Change(REMOVE_NODE, at))) == EtcdError.UNHEALTHY, (
        "the removal would have been refused alike"
    )


def test_nobody_may_leave_behind_a_leader_that_has_lost_its_majority_or_its_office(log: Log) -> None:
    def silent() -> None:
        raise status_of(EtcdError.TIMEOUT)

    log.meanwhile = silent
    assert error_of(log.hosts[2].changes.may_leave()) == EtcdError.TIMEOUT
    log.meanwhile = lambda: setattr(log, "leader", 0)
    began_ms = log.hosts[2].now_ms
    assert error_of(log.hosts[2].changes.may_leave()) == EtcdError.TIMEOUT, "nobody leads"
    assert log.hosts[2].now_ms - began_ms >= 500
    assert not log.order


def test_the_last_voter_may_not_leave_whatever_the_rules() -> None:
    host = Host(Log(member(1)), 1)
    host.changes = MembershipChanges(host, host, Rules(strict=False), cluster_token="t", request_timeout_ms=500)
    assert error_of(host.changes.may_leave()) == EtcdError.UNHEALTHY


def test_a_leader_that_does_not_know_the_question_answers_by_the_removal_itself(log: Log) -> None:
    log.hosts[2].broken = PeerError(PeerCode.INTERNAL, f"request {MAY_LEAVE} is not known here")
    run(log.hosts[2].changes.may_leave())
    log.hosts[2].broken = PeerError(PeerCode.LOST, "")
    assert error_of(log.hosts[2].changes.may_leave()) == EtcdError.TIMEOUT_CONNECTION_LOST


def test_a_change_that_another_overtook_is_checked_again(log: Log) -> None:
    """Two add the same URL at once; the second finds it taken."""

    async def both():
        changes = log.hosts[1].changes
        return await asyncio.gather(
            changes.change(Change(ADD_LEARNER, 0, URL9)), changes.change(Change(ADD_LEARNER, 0, URL9)), return_exceptions=True
        )

    results = run(both())
    assert sum(isinstance(one, StatusError) for one in results) == 1
    assert sum(one.peer_urls == URL9 for one in log.table.members()) == 1


def test_requests_there_and_back_and_garbage() -> None:
    for change in (Change(ADD_NODE, 0, ("http://a:1", "http://b:1")), Change(REMOVE_NODE, 7), Change(ADD_NODE, 7, promotion=True)):
        assert decode_request(encode_request(change)) == change
    assert decode_members(encode_members([member(1), member(2)])) == [member(1), member(2)]
    for data in (b"\xff", b"\x08\x09", b"\x22\x01\xff", b"x" * (limits.CHANGE_BYTES_MAX + 1)):
        with pytest.raises(WireError):
            decode_request(data)
    host = Host(Log(member(1)), 1)
    with pytest.raises(PeerError) as caught:
        run(host.changes.on_request(b"\xff"))
    assert caught.value.code == EtcdError.MALFORMED


# -- joining


def test_an_empty_stranger_is_marked_as_started_before_it_hears_of_its_id(log: Log) -> None:
    granted = run(log.hosts[1].changes.take_in(JoinAsk("m9", URL9)))
    assert isinstance(granted, Granted)
    assert log.order == ["learner", "publish"]
    fresh = log.table.member(granted.member_id)
    assert (fresh.name, fresh.is_learner, granted.cluster_id) == ("m9", True, CLUSTER)
    assert granted.members == tuple(log.table.members())


def test_a_wiped_member_gets_a_new_id_and_so_does_one_whose_answer_was_lost(log: Log) -> None:
    log.silent = {2: 0, 3: JOIN_SILENCE_MS}
    changes = log.hosts[1].changes
    first = run(changes.take_in(JoinAsk("m3", ("http://m3:2380",))))
    assert log.order == ["remove", "learner", "publish"]
    assert log.table.was_removed(3)
    again = run(changes.take_in(JoinAsk("m3", ("http://m3:2380",))))
    assert isinstance(again, Later)  # the learner counts as heard until it is known to be silent
    log.silent[first.member_id] = JOIN_SILENCE_MS
    second = run(changes.take_in(JoinAsk("m3", ("http://m3:2380",))))
    assert second.member_id not in (3, first.member_id)  # within the same second of the clock
    assert len(log.table.members()) == 3


def test_joins_that_must_wait_or_never_come(log: Log) -> None:
    changes = log.hosts[1].changes
    assert isinstance(run(changes.take_in(JoinAsk("m9", ("nothing",)))), Refused)
    assert isinstance(run(log.hosts[2].changes.take_in(JoinAsk("m9", URL9))), Later)
    log.silent = {2: 0, 3: 0}
    assert isinstance(run(changes.take_in(JoinAsk("m3", ("http://m3:2380",)))), Later)
    log.refusals = [room.TOO_MUCH]
    assert isinstance(run(changes.take_in(JoinAsk("m9", URL9))), Later)
    assert not log.order
    assert isinstance(run(changes.take_in(JoinAsk("m9", URL9))), Granted)
    assert isinstance(run(changes.take_in(JoinAsk("m8", ("http://m8:1",)))), Later)  # one after the other


@pytest.mark.parametrize("kind", [ADD_NODE, ADD_LEARNER])
def test_who_was_added_by_hand_starts_with_the_id_that_was_shown(log: Log, kind: int) -> None:
    changes = log.hosts[1].changes
    (added,) = [one for one in run(changes.change(Change(kind, 0, URL9))) if one.peer_urls == URL9]
    log.silent = {added.member_id: 0}
    log.order.clear()
    granted = run(changes.take_in(JoinAsk("m9", URL9)))
    assert (granted.member_id, granted.is_learner) == (added.member_id, kind == ADD_LEARNER)
    assert log.order == ["publish"], "it has its name before it hears of its id"
    log.silent = {added.member_id: JOIN_SILENCE_MS}
    again = run(changes.take_in(JoinAsk("m9", URL9)))
    assert again.member_id != added.member_id, "it may have started: it is a wiped one now"
    assert log.table.was_removed(added.member_id)


def test_a_founder_that_never_told_its_name_does_not_get_its_id_again(log: Log) -> None:
    """It may have voted. That its URLs were changed since makes it nobody who was added."""
    for urls in (URL9, ("http://moved:1",)):
        founder = MemberInfo(membership.make_member_id(URL9, "t"), "", urls, ())
        log.table.apply_change(membership.encode_change(ADD_NODE, founder.member_id, membership.encode_json(founder)))
        log.silent = {founder.member_id: JOIN_SILENCE_MS}
        assert run(log.hosts[1].changes.take_in(JoinAsk("m9", urls))).member_id != founder.member_id
        log.__init__(member(1), member(2), member(3))  # type: ignore[misc]
        Host(log, 1)


def test_no_id_is_told_twice_whoever_led_before(log: Log) -> None:
    changes = log.hosts[1].changes
    (added,) = [one for one in run(changes.change(Change(ADD_LEARNER, 0, URL9))) if one.peer_urls == URL9]
    log.silent = {added.member_id: JOIN_SILENCE_MS}
    named = membership.encode_attributes(added.member_id, "m9", ())
    log.meanwhile = lambda: log.table.apply_attributes(named)  # an older leader told it: that is committed, and not applied here yet
    assert run(changes.take_in(JoinAsk("m9", URL9))).member_id != added.member_id


def test_a_leader_that_was_deposed_meanwhile_tells_nobody_an_id(log: Log) -> None:
    def deposed() -> None:
        log.term += 1

    log.meanwhile = deposed
    assert isinstance(run(log.hosts[1].changes.take_in(JoinAsk("m9", URL9))), Later)
    assert "publish" not in log.order


def test_two_asks_at_once_do_not_get_in_each_others_way(log: Log) -> None:
    async def both():
        changes = log.hosts[1].changes
        return await asyncio.gather(changes.take_in(JoinAsk("m9", URL9)), changes.take_in(JoinAsk("m9", URL9)))

    first, second = run(both())
    assert isinstance(first, Granted)
    assert isinstance(second, Later)
    assert len(log.table.members()) == 4


# -- the RPCs


class Changeable(LoneNode):
    """A lone node whose member table is a `Log`'s."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log(MemberInfo(MEMBER_ID, "lone", ("http://localhost:2380",), ()), member(2), member(3))
        self.log.matches |= {2: 100, 3: 100}
        self.changes = Host(self.log, MEMBER_ID).changes
        self.moved: list[int] = []
        self.left = 0

    def members(self) -> Sequence[MemberInfo]:
        return self.log.table.members()

    async def change_members(self, change: int, member_id: int, peer_urls: Sequence[str], *, is_learner: bool) -> Sequence[MemberInfo]:
        return await self.changes.change(Change(ADD_LEARNER if is_learner else change, member_id, tuple(peer_urls)))

    async def leave(self) -> Sequence[MemberInfo]:
        self.left += 1
        return self.members()

    async def promote(self, member_id: int) -> Sequence[MemberInfo]:
        return await self.changes.change(Change(ADD_NODE, member_id, promotion=True))

    async def downgrade(self, action: int, version: str) -> str:
        raise status_of(EtcdError.BAD_DOWNGRADE_VERSION)

    def promotion_failures(self) -> Mapping[str, int]:
        return self.changes.promotion_failures

    async def move_leader(self, member_id: int) -> None:
        if member_id not in (2, 3):
            raise status_of(EtcdError.BAD_LEADER_TRANSFEREE)
        self.moved.append(member_id)


@asynccontextmanager
async def changeable():
    yield Changeable()


@pytest.fixture
def door() -> Iterator[EtcdDoor]:
    with EtcdDoor(open_node=changeable) as opened:
        yield opened


@pytest.fixture
def channel(door: EtcdDoor) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(door.address) as opened:
        yield opened


def refused(call) -> tuple[int, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().value[0], caught.value.details()


def test_members_are_added_promoted_updated_and_removed_over_the_api(door: EtcdDoor, channel: grpc.Channel) -> None:
    stub = stubs.ClusterStub(channel)
    added = stub.MemberAdd(pb.MemberAddRequest(peerURLs=URL9, isLearner=True))
    assert (list(added.member.peerURLs), added.member.isLearner, added.member.name) == (list(URL9), True, "")
    assert len(added.members) == 4
    assert added.header.revision == 0
    assert added.header.member_id == MEMBER_ID
    assert [one.ID for one in added.members] == sorted(one.ID for one in added.members)
    number = added.member.ID
    assert refused(lambda: stub.MemberPromote(pb.MemberPromoteRequest(ID=number))) == (
        9,
        "etcdserver: can only promote a learner member which is in sync with leader",
    )
    for _ in range(2):
        refused(lambda: stub.MemberPromote(pb.MemberPromoteRequest(ID=77)))
    refused(lambda: stub.MemberPromote(pb.MemberPromoteRequest(ID=2)))
    text, name = door.run(door.metrics.render).decode(), "etcd_server_learner_promote_failures"
    assert f"# TYPE {name} counter\n" in text
    assert f'{name}{{Reason="etcdserver: can only promote a learner member which is in sync with leader"}} 1\n' in text
    assert f'{name}{{Reason="membership: can only promote a learner member"}} 1\n' in text
    assert f'{name}{{Reason="membership: ID not found"}} 2\n' in text
    assert door.node.changes.promotions_total == 0
    door.run(lambda: door.node.log.matches.__setitem__(number, 100))
    promoted = stub.MemberPromote(pb.MemberPromoteRequest(ID=number))
    assert not any(one.isLearner for one in promoted.members)
    assert door.node.changes.promotions_total == 1
    updated = stub.MemberUpdate(pb.MemberUpdateRequest(ID=number, peerURLs=["http://moved:1"]))
    assert [list(one.peerURLs) for one in updated.members if number == one.ID] == [["http://moved:1"]]
    removed = stub.MemberRemove(pb.MemberRemoveRequest(ID=number))
    assert len(removed.members) == 3
    assert removed.header.revision == 0
    assert [one.ID for one in stub.MemberList(pb.MemberListRequest(linearizable=True)).members] == [one.ID for one in removed.members]


def test_a_member_that_wants_to_go_asks_for_its_own_removal_alone(door: EtcdDoor, channel: grpc.Channel) -> None:
    stub = stubs.ClusterStub(channel)
    stub.MemberRemove(pb.MemberRemoveRequest(ID=3), metadata=LEAVING)
    assert door.node.left == 0, "another member's removal is an ordinary one"
    assert len(door.node.members()) == 2
    stub.MemberRemove(pb.MemberRemoveRequest(ID=MEMBER_ID), metadata=LEAVING)
    assert door.node.left == 1
    stub.MemberRemove(pb.MemberRemoveRequest(ID=2))
    assert door.node.left == 1


def test_the_errors_of_the_api(channel: grpc.Channel) -> None:
    stub = stubs.ClusterStub(channel)
    assert refused(lambda: stub.MemberAdd(pb.MemberAddRequest(peerURLs=["x"]))) == (3, "etcdserver: given member URLs are invalid")
    assert refused(lambda: stub.MemberAdd(pb.MemberAddRequest(peerURLs=["http://m2:2380"]))) == (9, "etcdserver: Peer URLs already exists")
    assert refused(lambda: stub.MemberRemove(pb.MemberRemoveRequest(ID=99))) == (5, "etcdserver: member not found")
    assert refused(lambda: stub.MemberPromote(pb.MemberPromoteRequest(ID=2))) == (9, "etcdserver: can only promote a learner member")
    stub.MemberAdd(pb.MemberAddRequest(peerURLs=URL9, isLearner=True))
    assert refused(lambda: stub.MemberAdd(pb.MemberAddRequest(peerURLs=["http://x:1"], isLearner=True))) == (
        9,
        "etcdserver: too many learner members in cluster",
    )


def test_the_leader_is_moved_and_the_answer_has_no_header(door: EtcdDoor, channel: grpc.Channel) -> None:
    stub = stubs.MaintenanceStub(channel)
    assert stub.MoveLeader(pb.MoveLeaderRequest(targetID=2)) == pb.MoveLeaderResponse()
    assert door.node.moved == [2]
    assert refused(lambda: stub.MoveLeader(pb.MoveLeaderRequest(targetID=9))) == (9, "etcdserver: bad leader transferee")


def test_a_node_that_cannot_change_its_members_says_unimplemented() -> None:
    with EtcdDoor() as door, grpc.insecure_channel(door.address) as channel:
        assert len(stubs.ClusterStub(channel).MemberList(pb.MemberListRequest()).members) == 1
        assert refused(lambda: stubs.ClusterStub(channel).MemberAdd(pb.MemberAddRequest(peerURLs=URL9)))[0] == 12
        assert refused(lambda: stubs.MaintenanceStub(channel).MoveLeader(pb.MoveLeaderRequest(targetID=2)))[0] == 12
