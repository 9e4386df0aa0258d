"""Changes of the members: etcd's checks before a proposal, the rules at apply, and who is replaced when an empty member asks to join."""

import pytest

from raftsched.errors import ETCD_STATUS, EtcdError, GrpcCode
from raftsched.store import membership
from raftsched.store._records import MemoryRecords
from raftsched.store.alarm import AlarmStore
from raftsched.store.apply import Applier, SideWrites
from raftsched.store.codec import WireError
from raftsched.store.lease import Lessor
from raftsched.store.membership import ADD_LEARNER, ADD_NODE, REMOVE_NODE, UPDATE_NODE, Membership
from raftsched.store.mvcc._store import MvccStore
from raftsched.store.reconfigure import HEALTH_INTERVAL_MS, JOIN_SILENCE_MS, JoinPlan, Rules, View, check, parse_peer_urls, plan_join
from raftsched.types import MemberInfo

LENIENT = Rules(strict=False)
STRICT = Rules()


def member(number: int, *, started: bool = True, learner: bool = False) -> MemberInfo:
    return MemberInfo(number, f"m{number}" if started else "", (f"http://m{number}:2380",), (), learner)


def view(*members: MemberInfo, down: tuple[int, ...] = (), young: tuple[int, ...] = (), matches: dict[int, int] | None = None) -> View:
    """Member 1 leads."""
    connected = {
        one.member_id: HEALTH_INTERVAL_MS - (one.member_id in young) for one in members if one.member_id != 1 and one.member_id not in down
    }
    return View(1, members, connected, matches if matches is not None else {one.member_id: 100 for one in members})


THREE = (member(1), member(2), member(3))


def add(number: int = 9, *, learner: bool = False) -> tuple[int, MemberInfo]:
    return (ADD_LEARNER if learner else ADD_NODE), member(number, started=False, learner=learner)


# -- before the proposal


def test_a_healthy_cluster_takes_members_in() -> None:
    assert check(*add(), view(*THREE), STRICT) == EtcdError.OK
    assert check(*add(learner=True), view(*THREE), STRICT) == EtcdError.OK


def test_a_voter_needs_enough_started_members_for_the_new_quorum() -> None:
    unstarted = (member(2, started=False), member(3, started=False))
    assert check(*add(), view(member(1), *unstarted), STRICT) == EtcdError.NOT_ENOUGH_STARTED_MEMBERS
    assert check(*add(), view(member(1), member(2, started=False)), STRICT) == EtcdError.NOT_ENOUGH_STARTED_MEMBERS
    assert check(*add(), view(member(1), member(2, started=False)), LENIENT) == EtcdError.OK
    assert check(*add(learner=True), view(member(1), *unstarted), STRICT) == EtcdError.OK
    assert check(*add(), view(member(1)), STRICT) == EtcdError.OK  # one that holds the data may always get a second


def test_a_member_that_is_not_connected_for_five_seconds_makes_the_cluster_unhealthy() -> None:
    for broken in (view(*THREE, down=(3,)), view(*THREE, young=(3,))):
        assert check(*add(), broken, STRICT) == EtcdError.UNHEALTHY
        assert check(*add(learner=True), broken, STRICT) == EtcdError.UNHEALTHY
        assert check(*add(), broken, LENIENT) == EtcdError.OK


def test_urls_are_unique_and_learners_are_counted() -> None:
    assert check(*add(2), view(*THREE), LENIENT) == EtcdError.PEER_URL_EXISTS
    with_learner = view(*THREE, member(4, learner=True))
    assert check(*add(learner=True), with_learner, STRICT) == EtcdError.TOO_MANY_LEARNERS
    assert check(*add(learner=True), with_learner, Rules(learners_max=2)) == EtcdError.OK
    assert check(*add(), with_learner, STRICT) == EtcdError.OK


def test_a_removal_must_leave_a_quorum_of_healthy_members() -> None:
    assert check(REMOVE_NODE, member(3), view(*THREE), STRICT) == EtcdError.OK
    assert check(REMOVE_NODE, member(3), view(*THREE, down=(3,)), STRICT) == EtcdError.OK  # what is down costs nothing
    assert check(REMOVE_NODE, member(2), view(*THREE, down=(3,)), STRICT) == EtcdError.UNHEALTHY
    assert check(REMOVE_NODE, member(2), view(*THREE, down=(3,)), LENIENT) == EtcdError.OK
    assert check(REMOVE_NODE, member(2), view(*THREE, down=(2, 3)), STRICT) == EtcdError.UNHEALTHY  # elected just now, by whom if not by 2?
    assert check(REMOVE_NODE, member(1), view(member(1)), STRICT) == EtcdError.UNHEALTHY
    lone = view(member(1), member(2, started=False), member(3, started=False))
    assert check(REMOVE_NODE, member(2), lone, STRICT) == EtcdError.NOT_ENOUGH_STARTED_MEMBERS
    assert check(REMOVE_NODE, member(4, learner=True), view(*THREE, member(4, learner=True), down=(2, 3)), STRICT) == EtcdError.OK


def test_a_learner_is_promoted_once_it_has_nine_tenths_of_the_log() -> None:
    learner = member(4, learner=True)

    def promote(matches: dict[int, int], rules: Rules = STRICT, members=(*THREE, learner)) -> EtcdError:
        return check(ADD_NODE, learner, view(*members, matches=matches), rules, promotion=True)

    assert promote({1: 1_000, 4: 900}) == EtcdError.OK
    assert promote({1: 1_000, 4: 899}) == EtcdError.LEARNER_NOT_READY
    assert promote({1: 1_000}) == EtcdError.MEMBER_NOT_FOUND
    assert promote({}) == EtcdError.NOT_LEADER
    assert promote({1: 10, 4: 10}, members=THREE) == EtcdError.MEMBER_NOT_FOUND
    waiting = (member(1), member(2, started=False), member(3, started=False), member(5, started=False), learner)
    assert promote({1: 10, 4: 10}, members=waiting) == EtcdError.NOT_ENOUGH_STARTED_MEMBERS
    assert promote({1: 10, 4: 10}, LENIENT, waiting) == EtcdError.OK


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        (["http://b:1", " http://a:2"], ("http://a:2", "http://b:1")),
        (["https://[::1]:2380"], ("https://[::1]:2380",)),
        ([], None),
        (["http://a"], None),
        (["a:1"], None),
        (["http://a:1/path"], None),
        (["http://a:x"], None),
        (["ftp://a:1"], None),
        (["http://a:1", ""], None),
        (["http://a:99999"], None),
        (["http://[::1:2"], None),
        (["http://:2380"], None),
        (["http://a:0"], None),
        (["unix://a:1"], None),
        (["unixs://a:1"], None),
        (["http://a:1?q=1"], None),
    ],
)
def test_peer_urls(urls: list[str], expected: tuple[str, ...] | None) -> None:
    assert parse_peer_urls(urls) == expected


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (EtcdError.MEMBER_NOT_LEARNER, GrpcCode.FAILED_PRECONDITION, "etcdserver: can only promote a learner member"),
        (
            EtcdError.LEARNER_NOT_READY,
            GrpcCode.FAILED_PRECONDITION,
            "etcdserver: can only promote a learner member which is in sync with leader",
        ),
        (EtcdError.TOO_MANY_LEARNERS, GrpcCode.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster"),
        (EtcdError.CLUSTER_ID_MISMATCH, GrpcCode.FAILED_PRECONDITION, "etcdserver: cluster ID mismatch"),
        (EtcdError.TIMEOUT_LEADER_TRANSFER, GrpcCode.UNKNOWN, "etcdserver: request timed out, leader transfer took too long"),
        (EtcdError.UNHEALTHY, GrpcCode.UNAVAILABLE, "etcdserver: unhealthy cluster"),
        (EtcdError.PEER_URL_EXISTS, GrpcCode.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists"),
        (
            EtcdError.NOT_ENOUGH_STARTED_MEMBERS,
            GrpcCode.UNKNOWN,
            "etcdserver: re-configuration failed due to not enough started members",
        ),
    ],
)
def test_the_texts_of_the_contract(error: EtcdError, code: GrpcCode, text: str) -> None:
    assert ETCD_STATUS[error] == (code, text)


def test_every_error_has_a_status() -> None:
    assert set(ETCD_STATUS) == set(EtcdError) - {EtcdError.OK}


# -- at apply


class Table:
    def __init__(self) -> None:
        self.side = SideWrites()
        lessor = Lessor(self.side.write)
        store = MvccStore(MemoryRecords(), lessor, hash_seed=1)
        self.members = Membership(self.side.write)
        self.applier = Applier(store, lessor, AlarmStore(self.side.write), self.members, self.side)

    def apply(self, *entries: bytes):
        return self.applier.apply(self.applier.applied_index + 1, 1, 1, list(entries))

    def change(self, kind: int, one: MemberInfo, *, promotion: bool = False, change_id: int = 0) -> int:
        context = membership.encode_promotion(one) if promotion else membership.encode_json(one)
        _, ((error, _, _),) = self.apply(membership.encode_change(kind, one.member_id, context, change_id))
        return error

    def remove(self, number: int) -> int:
        _, ((error, _, _),) = self.apply(membership.encode_change(REMOVE_NODE, number))
        return error


@pytest.fixture
def table() -> Table:
    made = Table()
    for one in THREE:
        assert made.change(ADD_NODE, one) == EtcdError.OK
    made.side.take()
    return made


def test_a_refused_change_changes_nothing_and_says_why(table: Table) -> None:
    before = table.members.members()
    stranger, twin = member(9), MemberInfo(9, "", ("http://m2:2380",), ())
    assert table.change(ADD_NODE, member(2)) == EtcdError.MEMBER_EXISTS
    assert table.change(ADD_LEARNER, member(2)) == EtcdError.MEMBER_EXISTS
    assert table.change(ADD_NODE, twin) == EtcdError.PEER_URL_EXISTS
    assert table.change(UPDATE_NODE, stranger) == EtcdError.MEMBER_NOT_FOUND
    assert table.change(UPDATE_NODE, MemberInfo(1, "", ("http://x:1", "http://m2:2380"), ())) == EtcdError.PEER_URL_EXISTS
    assert table.remove(9) == EtcdError.MEMBER_NOT_FOUND
    assert table.change(ADD_NODE, stranger, promotion=True) == EtcdError.MEMBER_NOT_FOUND
    assert table.change(ADD_NODE, member(2), promotion=True) == EtcdError.MEMBER_NOT_LEARNER
    assert table.apply(b"\xff")[1][0][0] == EtcdError.MALFORMED
    assert table.apply(membership.encode_change(ADD_NODE, 9, b"no json"))[1][0][0] == EtcdError.MALFORMED
    assert table.members.members() == before
    assert table.side.take() == []
    assert not table.members.was_removed(9)


def test_a_removed_id_never_comes_back(table: Table) -> None:
    assert table.remove(2) == EtcdError.OK
    assert table.members.was_removed(2)
    for kind in (ADD_NODE, ADD_LEARNER, UPDATE_NODE):
        assert table.change(kind, member(2)) == EtcdError.MEMBER_NOT_FOUND
    assert table.remove(2) == EtcdError.MEMBER_NOT_FOUND
    assert [one.member_id for one in table.members.members()] == [1, 3]
    loaded = Membership(lambda _: None)
    loaded.load([], [(b"2", b"removed")], None)
    assert loaded.check_change(membership.encode_change(ADD_NODE, 2, membership.encode_json(member(2)))) == EtcdError.MEMBER_NOT_FOUND


def test_a_learner_is_added_published_and_promoted_and_keeps_what_it_told(table: Table) -> None:
    assert table.change(ADD_LEARNER, member(4, started=False)) == EtcdError.OK
    assert table.members.member(4) == member(4, started=False, learner=True)
    table.members.apply_attributes(membership.encode_attributes(4, "m4", ["http://m4:2379"]))
    assert table.change(ADD_NODE, member(4, started=False), promotion=True) == EtcdError.OK
    assert table.members.member(4) == MemberInfo(4, "m4", ("http://m4:2380",), ("http://m4:2379",))


def test_urls_are_updated_alone(table: Table) -> None:
    assert table.change(UPDATE_NODE, MemberInfo(1, "other", ("http://new:1",), ("http://x:1",), True)) == EtcdError.OK
    assert table.members.member(1) == MemberInfo(1, "m1", ("http://new:1",), ())


def test_who_waits_finds_the_result_by_the_id_of_the_change(table: Table) -> None:
    add = membership.encode_change(ADD_NODE, 4, membership.encode_json(member(4)), 77)
    ids, results = table.apply(membership.encode_change(REMOVE_NODE, 3), add, membership.encode_change(REMOVE_NODE, 9, b"", 80))
    assert ids == [(77, 1, 2), (80, 2, 3)]
    assert [error for error, _, _ in results] == [EtcdError.OK, EtcdError.OK, EtcdError.MEMBER_NOT_FOUND]


def test_the_first_incarnation_stays(table: Table) -> None:
    table.members.apply_version(membership.encode_version("3.7.0", (1 << 64) - 1))
    table.members.apply_version(membership.encode_version("3.8.0", 5))
    assert (table.members.cluster_version, table.members.incarnation) == ("3.8.0", (1 << 64) - 1)
    written = {key: value for _, key, value in table.side.take()}
    loaded = Membership(lambda _: None)
    loaded.load([], [], written[b"clusterVersion"], written[membership.INCARNATION_KEY])
    assert (loaded.cluster_version, loaded.incarnation) == ("3.8.0", (1 << 64) - 1)
    loaded.load([], [], b"3.7.0")
    assert loaded.incarnation == 0


@pytest.mark.parametrize("data", [b'{"id":1e999}', b"[" * 100_000])
def test_json_that_cannot_be_read_is_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        membership.decode_json(data)


# -- joining

QUIET = {2: JOIN_SILENCE_MS, 3: JOIN_SILENCE_MS}


def test_a_stranger_is_added() -> None:
    assert plan_join("m9", ("http://m9:2380",), view(*THREE), {}, STRICT) == JoinPlan()


def test_a_wiped_member_is_replaced_by_url_or_name_once_it_is_silent() -> None:
    by_url = plan_join("new", ("http://m2:2380",), view(*THREE), QUIET, STRICT)
    by_name = plan_join("m3", ("http://elsewhere:1",), view(*THREE), QUIET, STRICT)
    both = plan_join("m3", ("http://m2:2380",), view(*THREE), QUIET, STRICT)
    assert (by_url.remove, by_name.remove, both.remove) == ((2,), (3,), (2, 3))
    assert not by_url.reuse
    alive = plan_join("m2", ("http://m2:2380",), view(*THREE), {2: JOIN_SILENCE_MS - 1, 3: 0}, STRICT)
    assert "still heard" in alive.later
    assert "still heard" in plan_join("m2", ("http://m2:2380",), view(*THREE), {}, STRICT).later
    assert "leader's own" in plan_join("m1", ("http://x:1",), view(*THREE), QUIET, STRICT).later


def test_who_was_added_and_never_started_gives_its_id_at_once() -> None:
    learner, voter = member(4, started=False, learner=True), member(5, started=False)
    heard = {4: 0, 5: 0}  # nobody can have been heard by an id that nobody has
    assert plan_join("m4", learner.peer_urls, view(*THREE, learner), heard, STRICT) == JoinPlan(reuse=4)
    is_added = [voter].__contains__
    assert plan_join("m5", voter.peer_urls, view(*THREE, voter), heard, STRICT, is_added=is_added) == JoinPlan(reuse=5)
    elsewhere = plan_join("m3", voter.peer_urls, view(*THREE, voter), QUIET, STRICT, is_added=is_added)
    assert elsewhere == JoinPlan(remove=(3,), reuse=5), "the older self of this name goes"
    assert "still heard" in plan_join("m3", voter.peer_urls, view(*THREE, voter), heard, STRICT, is_added=is_added).later


def test_who_may_have_started_gives_its_id_to_nobody() -> None:
    """A founder votes before it has a name; a name is set before an id is told."""
    founder, silent = member(5, started=False), {4: 9_999, 5: 9_999}
    assert plan_join("m5", founder.peer_urls, view(*THREE, founder), silent, STRICT) == JoinPlan(remove=(5,))
    assert "still heard" in plan_join("m5", founder.peer_urls, view(*THREE, founder), {}, STRICT).later
    for started in (member(4, learner=True), member(4)):
        found = plan_join("m4", started.peer_urls, view(*THREE, started), silent, STRICT, is_added=lambda _member: True)
        assert found == JoinPlan(remove=(4,))
    two_urls = ("http://m5:2380", "http://m5:2381")
    assert plan_join("m5", two_urls, view(*THREE, founder), silent, STRICT, is_added=lambda _member: True) == JoinPlan(remove=(5,))


def test_one_joins_after_the_other() -> None:
    joining = view(*THREE, member(4, learner=True))
    assert "another learner is not a voter yet: m4" in plan_join("m9", ("http://m9:1",), joining, {}, STRICT).later
    assert plan_join("m9", ("http://m9:1",), joining, {}, Rules(learners_max=2)) == JoinPlan()
