"""Alarms, quota, membership, auto compaction and the apply chain, each by itself."""

import json

import pytest

from raftsched import proposals
from raftsched.errors import CorruptError, EtcdError, FatalError
from raftsched.limits import MEMBERS_MAX, PROPOSALS_PENDING_MAX
from raftsched.pb.etcd import membership_pb2, raft_internal_pb2, rpc_pb2
from raftsched.pb.raft.raft_pb2 import ConfChange
from raftsched.store import alarm, codec, membership
from raftsched.store._records import MemoryRecords
from raftsched.store.alarm import AlarmStore
from raftsched.store.apply import Applier, SideWrites
from raftsched.store.codec import RequestIds, WireError
from raftsched.store.lease import Lessor
from raftsched.store.membership import Membership
from raftsched.store.mvcc._store import MvccStore
from raftsched.store.node.compaction import HOUR_MS, AutoCompactor, history_full
from raftsched.store.node.gone import Gone
from raftsched.store.quota import Quota
from raftsched.store.raft._kernel import Kernel
from raftsched.store.replica import Persisted, Propose, Read, Replica, Tick
from raftsched.store.waiters import Waiters, Waiting
from raftsched.types import MemberInfo


def machine() -> tuple[Applier, SideWrites]:
    side = SideWrites()
    lessor = Lessor(side.write)
    store = MvccStore(MemoryRecords(), lessor, hash_seed=1)
    return Applier(store, lessor, AlarmStore(side.write), Membership(side.write), side), side


def put(key: bytes, value: bytes = b"v", lease: int = 0) -> bytes:
    return rpc_pb2.PutRequest(key=key, value=value, lease=lease).SerializeToString()


class Log:
    """Applies one request after another, as a log would."""

    def __init__(self) -> None:
        self.applier, self.side = machine()

    def __call__(self, kind: int, message: bytes):
        entries = codec.wrap(kind, [message], 77)
        ids, results = self.applier.apply(self.applier.applied_index + 1, 1, 0, entries)
        assert ids == [(77, 0, 1)]
        return results[0]


# -- alarms and the chain


def test_alarms_go_through_the_log_and_into_the_bucket() -> None:
    log = Log()
    request = alarm.encode_request(alarm.ACTIVATE, 7, alarm.NOSPACE)
    assert rpc_pb2.AlarmRequest.FromString(request) == rpc_pb2.AlarmRequest(action=1, memberID=7, alarm=1)
    body = log(proposals.ALARM, request)[2]
    assert rpc_pb2.AlarmResponse.FromString(body).alarms[0].memberID == 7
    assert log.side.take() == [("alarm", alarm.encode_member(7, 1), b"")]
    loaded = AlarmStore(lambda _: None)
    loaded.load([(alarm.encode_member(7, 1), b"")])
    assert loaded.raised() == [(7, 1)]
    assert log(proposals.ALARM, alarm.encode_request(alarm.GET, 0, alarm.CORRUPT))[2] == b""
    log(proposals.ALARM, alarm.encode_request(alarm.DEACTIVATE, 7, alarm.NOSPACE))
    assert log.applier.alarms.raised() == []
    assert log(proposals.ALARM, alarm.encode_request(alarm.ACTIVATE, 7, alarm.NONE))[2] == b""
    with pytest.raises(CorruptError):
        loaded.load([(b"\xff", b"")])


def txn(*operations: bytes) -> bytes:
    request = rpc_pb2.TxnRequest()
    for one in operations:
        request.success.add().request_put.ParseFromString(one)
    return request.SerializeToString()


def test_no_space_stops_what_grows_and_nothing_else() -> None:
    log = Log()
    log(proposals.PUT, put(b"a"))
    log(proposals.ALARM, alarm.encode_request(alarm.ACTIVATE, 7, alarm.NOSPACE))
    assert log(proposals.PUT, put(b"b"))[0] == EtcdError.NO_SPACE
    assert log(proposals.TXN, txn(put(b"b")))[0] == EtcdError.NO_SPACE
    assert log(proposals.TXN, rpc_pb2.TxnRequest().SerializeToString())[0] == EtcdError.OK
    assert log(proposals.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=5, TTL=5).SerializeToString())[0] == EtcdError.NO_SPACE
    assert log(proposals.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"a").SerializeToString())[0] == EtcdError.OK
    log(proposals.ALARM, alarm.encode_request(alarm.ACTIVATE, 7, alarm.CORRUPT))
    assert log(proposals.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"a").SerializeToString())[0] == EtcdError.CORRUPT
    assert log(proposals.LEASE_REVOKE, b"")[0] == EtcdError.CORRUPT
    for kind in (alarm.NOSPACE, alarm.CORRUPT):
        log(proposals.ALARM, alarm.encode_request(alarm.DEACTIVATE, 7, kind))
    assert log(proposals.PUT, put(b"b"))[0] == EtcdError.OK


def test_a_revoked_lease_takes_its_keys_in_one_revision() -> None:
    log = Log()
    error, _, body = log(proposals.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=5, TTL=1).SerializeToString())
    assert (error, rpc_pb2.LeaseGrantResponse.FromString(body).TTL) == (0, 2)
    for key in (b"b", b"a"):
        assert log(proposals.PUT, put(key, lease=5))[0] == EtcdError.OK
    assert log(proposals.PUT, put(b"c", lease=6))[0] == EtcdError.LEASE_NOT_FOUND
    revision = log.applier.store.revision
    assert log(proposals.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=5).SerializeToString()) == (0, revision + 1, b"")
    assert log.applier.store.key_count == 0
    assert log(proposals.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=5).SerializeToString())[0] == EtcdError.LEASE_NOT_FOUND


@pytest.mark.parametrize("kind", [proposals.COMPACTION, proposals.LEASE_GRANT, proposals.LEASE_REVOKE, proposals.ALARM, 1300, 1301])
def test_bytes_that_are_no_request_are_a_result(kind: int) -> None:
    assert Log()(kind, b"\xff\xff")[0] == EtcdError.MALFORMED


def test_an_empty_entry_changes_nothing() -> None:
    applier, _ = machine()
    _, results = applier.apply(1, 1, 0, [b"", b""])
    assert [error for error, _, _ in results] == [0, 0]
    assert applier.store.revision == 1
    with pytest.raises(AssertionError):
        applier.apply(9, 1, 0, [b""])


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (codec.wrap(999, [b"x"], 5)[0], "of kind 999, which this member does not know"),
        (codec.wrap(1 << 20, [b"x"], 5)[0], "of kind 1048576, which this member does not know"),
        (codec.wrap(proposals.PUT, [put(b"b")], 5)[0] + codec.bytes_field(999, b""), "none that this member can read"),
        (codec.wrap(proposals.PUT, [put(b"b")], 5)[0] + codec.varint_field(999, 1), "none that this member can read"),
        (codec.wrap(proposals.PUT, [put(b"b")], 5)[0][:8], "none that this member can read"),
        (b"\xff\xff\xff", "none that this member can read"),
    ],
)
def test_who_does_not_know_what_is_committed_stops_before_it(entry: bytes, what: str) -> None:
    """Never over it: the others have applied it. And nothing of the run that it is in, so that applied index and data agree."""
    applier, side = machine()
    applier.version = "3.7.0"
    applier.apply(1, 1, 0, codec.wrap(proposals.CLUSTER_VERSION_SET, [membership.encode_version("3.8.0", 1)], 1))
    side.take()
    with pytest.raises(FatalError) as caught:
        applier.apply(2, 1, 0, [*codec.wrap(proposals.PUT, [put(b"a")], 2), entry])
    assert f"entry 3 of the log holds a request {what}. It is of version 3.7.0, its cluster of 3.8.0." in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (applier.applied_index, applier.store.revision, len(side)) == (1, 1, 0)


# -- quota


def test_the_quota_refuses_at_its_bound_and_not_before() -> None:
    store = machine()[0].store
    quota = Quota(10_000)
    small = put(b"k", b"v" * 100)
    cost = store.cost(proposals.PUT, small)
    assert cost == 256 + 1 + 100
    assert not quota.refused(proposals.PUT, [small], len(small), 10_000 - cost - 1, store.cost)
    assert quota.refused(proposals.PUT, [small], len(small), 10_000 - cost, store.cost)
    assert not quota.refused(proposals.DELETE_RANGE, [small], len(small), 20_000, store.cost)
    assert not quota.refused(proposals.TXN, [b""], 0, 20_000, store.cost)
    many = txn(*[put(b"%d" % number, b"") for number in range(100)])
    assert quota.refused(proposals.TXN, [many], len(many), 0, store.cost)
    assert not Quota(0).refused(proposals.PUT, [small], len(small), 1 << 60, store.cost)


# -- membership


def test_ids_are_etcds() -> None:
    """The ids that etcd 3.7 gives a fresh `default` member (also in the public documentation of its defaults)."""
    member_id = membership.make_member_id(["http://localhost:2380"], "etcd-cluster")
    assert f"{member_id:x}" == "8e9e05c52164694d"
    assert f"{membership.make_cluster_id([member_id]):x}" == "cdf818194e3a8c32"
    assert membership.make_member_id(["http://b:1", "http://a:1"], "t") == membership.make_member_id(["http://a:1", "http://b:1"], "t")
    assert membership.make_member_id(["http://a:1"], "t", 1) != membership.make_member_id(["http://a:1"], "t")


def test_membership_changes_through_the_log_and_is_loaded_again() -> None:
    applier, side = machine()
    members = applier.membership
    me = MemberInfo(7, "", ("http://a:2380",), ())
    change = membership.encode_change(membership.ADD_NODE, 7, membership.encode_json(me), 3)
    assert ConfChange.FromString(change) == ConfChange(id=3, type=0, node_id=7, context=membership.encode_json(me))
    applier.apply(1, 1, 1, [change])
    attributes = membership_pb2.ClusterMemberAttrSetRequest(
        member_ID=7, member_attributes=membership_pb2.Attributes(name="n", client_urls=["http://a:2379"])
    )
    assert membership.encode_attributes(7, "n", ["http://a:2379"]) == attributes.SerializeToString()
    applier.apply(2, 1, 0, codec.wrap(1301, [attributes.SerializeToString()], 1))
    applier.apply(3, 1, 0, codec.wrap(1300, [membership_pb2.ClusterVersionSetRequest(ver="3.7.0").SerializeToString()], 2))
    assert members.members() == [MemberInfo(7, "n", ("http://a:2380",), ("http://a:2379",))]
    stored = {(bucket, key): value for bucket, key, value in side.take()}
    assert json.loads(stored["members", b"7"]) == {"id": 7, "name": "n", "peerURLs": ["http://a:2380"], "clientURLs": ["http://a:2379"]}
    loaded = Membership(lambda _: None)
    loaded.load([(b"7", stored["members", b"7"])], [], stored["cluster", b"clusterVersion"])
    assert loaded.members() == members.members()
    assert loaded.cluster_version == "3.7.0"
    applier.apply(4, 1, 1, [membership.encode_change(membership.REMOVE_NODE, 7)])
    applier.apply(5, 1, 1, [change])
    assert members.members() == []
    assert members.was_removed(7)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"id":"x"}', b'{"id":1,"peerURLs":3}', b"\xff"])
def test_a_bucket_that_is_no_member_is_corruption(data: bytes) -> None:
    with pytest.raises(WireError):
        membership.decode_json(data)
    with pytest.raises(CorruptError):
        Membership(lambda _: None).load([(b"1", data)], [], None)


# -- auto compaction: etcd's rules on a clock that the test moves


def test_periodic_compaction_waits_for_the_retention_then_each_interval() -> None:
    compactor = AutoCompactor("periodic", 10 * 60_000, 0)
    asked = []
    revision = 100
    for minute in range(31):
        revision += 10
        target = compactor.due(minute * 60_000, revision)
        if target:
            asked.append((minute, target))
            compactor.done(minute * 60_000, target)
    assert asked == [(10, 110), (20, 200), (30, 300)]  # etcd's loop looks at the samples before it takes the next


def test_periodic_compaction_of_days_goes_hourly() -> None:
    compactor = AutoCompactor("periodic", 5 * HOUR_MS, 0)
    hours = []
    for step in range(0, 8 * 60):
        now_ms = step * 60_000
        target = compactor.due(now_ms, 1000 + step)
        if target:
            hours.append(now_ms / HOUR_MS)
            compactor.done(now_ms, target)
    assert hours == [5.0, 6.0, 7.0]


def test_a_failed_compaction_is_asked_again() -> None:
    compactor = AutoCompactor("periodic", 600_000, 0)
    asked = [minute for minute in range(13) if compactor.due(minute * 60_000, 50 + minute)]
    assert asked == [10, 11, 12]


def test_revision_mode_keeps_the_last_revisions() -> None:
    compactor = AutoCompactor("revision", 100, 0)
    assert compactor.due(299_999, 500) == 0
    assert compactor.due(300_000, 500) == 400
    compactor.done(300_000, 400)
    assert compactor.due(600_000, 500) == 0
    assert compactor.due(900_000, 90) == 0
    assert AutoCompactor("revision", 0, 0).due(10**9, 10**6) == 0


def test_history_is_bounded_by_records_and_by_space() -> None:
    assert history_full(2_000_001, 1, 0, 0)
    assert not history_full(2_000_000, 1, 0, 0)
    assert history_full(300_000, 100_000, 1 << 30, 2 << 30)
    assert not history_full(300_000, 100_000, 1 << 28, 2 << 30)
    assert not history_full(100_000, 0, 1 << 40, 1)


# -- who is gone


def test_a_name_is_gone_from_the_look_that_misses_it_until_somebody_has_it_again() -> None:
    gone = Gone()
    gone.look(["a", "b", ""], [], 1_000)
    gone.look(["a", ""], [], 2_000)
    gone.look(["a"], ["b"], 2_500)
    assert gone.for_ms(900, 2_899) == set()
    assert gone.for_ms(900, 2_900) == {"b"}
    gone.look(["a", "b"], [], 3_000)
    assert gone.for_ms(0, 9_000) == set()


def test_who_was_named_and_removed_between_two_looks_is_gone_too() -> None:
    gone, table = Gone(), Membership(lambda _write: None)
    change = membership.encode_change(membership.ADD_LEARNER, 9, membership.encode_json(MemberInfo(9, "", ("http://x:1",), ())))
    gone.look([one.name for one in table.members()], table.take_departed(), 1_000)
    table.apply_change(change)
    table.apply_attributes(membership.encode_attributes(9, "brief", ()))
    table.apply_change(membership.encode_change(membership.REMOVE_NODE, 9))
    gone.look([one.name for one in table.members()], table.take_departed(), 1_100)
    assert gone.for_ms(900, 2_000) == {"brief"}
    assert not table.take_departed(), "told once"


def test_the_names_that_are_gone_are_bounded() -> None:
    gone = Gone()
    for number in range(MEMBERS_MAX + 10):
        gone.look([], [f"m{number}"], number)
    assert gone.for_ms(0, 10_000) == {f"m{number}" for number in range(10, MEMBERS_MAX + 10)}


# -- who waits for what


class Sink:
    def __init__(self) -> None:
        self.got: list = []

    def on_results(self, tokens, results) -> None:
        self.got += zip(tokens, results, strict=True)


def deliver(replies) -> None:
    for sink, tokens, results in replies:
        sink.on_results(tokens, results)


def test_waiters_get_their_own_results_once_in_pieces_and_in_any_order() -> None:
    waiters, sink = Waiters(), Sink()
    waiters.add(waiting(100, [1, 2, 3], sink, 10))
    waiters.add(waiting(103, [4], sink, 20))
    waiters.add(waiting(200, [5, 6], sink, 30))
    replies: list = []
    waiters.resolve([(200, 0, 2), (7, 2, 4), (102, 4, 5)], ["e", "f", "?", "?", "c"], replies)
    waiters.resolve([(100, 0, 4)], ["a", "b", "c again", "d"], replies)
    deliver(replies)
    assert sorted(sink.got) == [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e"), (6, "f")]
    assert len(waiters) == 0


def test_ids_that_nobody_waits_for_are_passed_by_the_run_up_to_the_next_that_somebody_does() -> None:
    waiters, sink, replies = Waiters(), Sink(), []
    waiters.resolve([(50, 0, 5)], list("abcde"), replies)
    for first_id in (100, 110):
        waiters.add(Waiting(first_id, [first_id, first_id + 1], sink, term=1, asked_ms=0, deadline_ms=10))
    waiters.resolve([(90, 0, 30)], [str(one) for one in range(90, 120)], replies)
    assert [(tokens, results) for _, tokens, results in replies] == [([100, 101], ["100", "101"]), ([110, 111], ["110", "111"])]
    waiters.resolve([(100, 0, 30)], [""] * 30, replies)
    assert len(replies) == 2
    assert not len(waiters)


def test_waiters_expire_in_order_with_what_is_left() -> None:
    waiters, sink = Waiters(), Sink()
    waiters.add(waiting(100, [1, 2, 3], sink, 10))
    waiters.add(waiting(103, [4], sink, 20))
    replies: list = []
    waiters.resolve([(101, 0, 1)], ["b"], replies)
    waiters.expire(9, lambda _asked_ms: "late", replies)
    waiters.expire(10, lambda asked_ms: f"late since {asked_ms}", replies)
    waiters.resolve([(100, 0, 1)], ["too late"], replies)
    deliver(replies)
    assert sink.got == [(2, "b"), (1, "late since 3"), (3, "late since 3")]


def test_what_an_older_term_left_behind_is_lost_and_no_more() -> None:
    waiters, sink = Waiters(), Sink()
    waiters.add(waiting(100, [1, 2], sink, 10, term=4))
    waiters.add(waiting(102, [3], sink, 10, term=5))
    replies: list = []
    waiters.resolve([(100, 0, 1)], ["applied"], replies)
    waiters.lose(5, "lost", replies)
    waiters.resolve([(102, 0, 1)], ["applied"], replies)
    deliver(replies)
    assert sink.got == [(1, "applied"), (2, "lost"), (3, "applied")]


def test_who_waits_is_bounded_and_a_batch_alone_may_be_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftsched.limits.PROPOSALS_WAITING_MAX", 3)
    waiters, sink, replies = Waiters(), Sink(), []
    assert waiters.has_room(100, 0)
    waiters.add(waiting(100, [1, 2], sink, 10))
    assert waiters.has_room(1, 0)
    assert not waiters.has_room(2, 0)
    waiters.add(waiting(102, [3], sink, 20))
    assert not waiters.has_room(1, 0)
    waiters.resolve([(100, 0, 2)], ["a", "b"], replies)
    assert waiters.has_room(2, 0)
    waiters.expire(20, lambda _asked_ms: "late", replies)
    assert waiters.has_room(3, 0)
    waiters.add(waiting(103, [4, 5, 6], sink, 30, term=1))
    waiters.lose(2, "lost", replies)
    assert waiters.has_room(3, 0)


def test_who_waits_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftsched.limits.PROPOSALS_BYTES_MAX", 100)
    waiters, sink, replies = Waiters(), Sink(), []
    assert waiters.has_room(1, 1_000)
    waiters.add(Waiting(100, [1], sink, term=1, asked_ms=0, deadline_ms=10, size_bytes=60))
    assert waiters.has_room(1, 40)
    assert not waiters.has_room(1, 41)
    waiters.resolve([(100, 0, 1)], ["a"], replies)
    assert waiters.has_room(1, 1_000)


def test_a_refusal_names_its_batch_by_the_first_id() -> None:
    waiters, sink, member = Waiters(), Sink(), 0x1234 << 48
    waiters.add(waiting(member | 100, [1, 2], sink, 10))
    waiters.add(waiting(member | 102, [3], sink, 10))
    replies: list = []
    waiters.refuse(102, "refused", replies)
    waiters.refuse(101, "refused", replies)
    waiters.refuse(102, "refused", replies)
    deliver(replies)
    assert sink.got == [(3, "refused")]


def waiting(first_id: int, tokens: list[int], sink: Sink, deadline_ms: int, *, term: int = 1) -> Waiting:
    return Waiting(first_id, tokens, sink, term=term, asked_ms=3, deadline_ms=deadline_ms)


class ReplicaRig:
    """A replica whose log syncs when the test says so."""

    def __init__(self, **options) -> None:
        applier, _ = machine()
        self.replica = Replica(Kernel(1, voters=[1], seed=1), applier, RequestIds(1, 1), **options)
        self.now_ms = 0
        self.batch = 0
        self.sink = Sink()
        self.served: list = []

    def step(self, *events):
        output = self.replica.step(events, self.now_ms)
        if output.persist:
            self.batch = output.persist.batch
        deliver(output.replies)
        for serve, error in output.reads:
            serve(error)
        return output

    def sync(self):
        return self.step(Persisted(self.batch))

    def put(self, *tokens: int):
        return self.step(Propose(proposals.PUT, [put(b"k%d" % one) for one in tokens], list(tokens), self.sink))

    def answers(self) -> list[tuple[int, int]]:
        return [(token, result[0]) for token, result in self.sink.got]


def test_a_replica_takes_no_more_proposals_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs, or followers that are gone: what comes until somebody notices must not grow without bound."""
    rig = ReplicaRig()
    rig.step(Tick())
    rig.sync()
    monkeypatch.setattr("raftsched.limits.PROPOSALS_WAITING_MAX", 4)
    rig.put(0, 1)
    rig.put(2, 3)
    rig.put(4, 5)
    assert rig.answers() == [(4, EtcdError.TOO_MANY_REQUESTS), (5, EtcdError.TOO_MANY_REQUESTS)]
    assert rig.replica.proposals_failed_total == 2
    rig.sync()
    rig.put(6, 7)
    rig.sync()
    late = [(token, EtcdError.OK) for token in (0, 1, 2, 3, 6, 7)]
    assert rig.answers()[2:] == late, "there is room again"


def test_a_replica_takes_no_more_bytes_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = ReplicaRig()
    rig.step(Tick())
    rig.sync()
    monkeypatch.setattr("raftsched.limits.PROPOSALS_BYTES_MAX", 1)
    rig.put(0)
    rig.put(1)
    assert rig.answers() == [(1, EtcdError.TOO_MANY_REQUESTS)]
    rig.sync()
    rig.put(2)
    rig.sync()
    assert rig.answers()[1:] == [(0, EtcdError.OK), (2, EtcdError.OK)]


def test_a_write_is_answered_when_it_is_synced_and_applied() -> None:
    rig = ReplicaRig()
    rig.step(Tick())
    rig.sync()
    rig.put(2, 3)
    assert rig.answers() == []
    rig.sync()
    assert rig.answers() == [(2, 0), (3, 0)]


def test_a_write_waits_for_a_leader_as_long_as_a_request_may() -> None:
    rig = ReplicaRig(request_timeout_ms=7_000)
    rig.put(1)
    rig.now_ms = 3_000
    rig.put(2)
    assert rig.answers() == []
    rig.now_ms = 7_000
    output = rig.step(Tick())
    assert output.leader_changed
    assert rig.answers() == [(1, EtcdError.TIMEOUT)], "it had no id yet: certain, but told as etcd tells it"
    rig.sync()
    assert rig.answers()[1:] == [(2, 0)]


def test_few_may_wait_for_a_leader() -> None:
    rig = ReplicaRig()
    rig.put(*range(PROPOSALS_PENDING_MAX))
    rig.put(-1)
    assert rig.answers() == [(-1, EtcdError.TOO_MANY_REQUESTS)]


def test_a_write_that_hangs_times_out_once() -> None:
    rig = ReplicaRig(request_timeout_ms=7_000)
    rig.step(Tick())
    rig.sync()
    rig.put(1)
    rig.now_ms = 6_999
    rig.step(Tick())
    assert rig.answers() == []
    rig.now_ms = 7_000
    rig.step(Tick())
    rig.sync()
    assert rig.answers() == [(1, EtcdError.TIMEOUT)]
    assert rig.replica.applier.store.key_count == 1, "the outcome was unknown, not failed"


def test_too_large_ones_are_refused_and_the_others_written() -> None:
    rig = ReplicaRig(request_bytes_max=100)
    rig.step(Tick())
    rig.sync()
    rig.step(Propose(proposals.PUT, [put(b"a"), put(b"b", bytes(100)), put(b"c")], [1, 2, 3], rig.sink))
    rig.sync()
    assert rig.answers() == [(2, EtcdError.REQUEST_TOO_LARGE), (1, 0), (3, 0)]


def test_too_many_unapplied_ones_are_refused() -> None:
    rig = ReplicaRig()
    rig.step(Tick())
    rig.sync()
    rig.put(*range(7_000))
    output = rig.sync()
    assert output.more
    rig.put(99_999)
    assert rig.answers()[-1] == (99_999, EtcdError.TOO_MANY_REQUESTS) or (99_999, EtcdError.TOO_MANY_REQUESTS) in rig.answers()


def test_reads_wait_for_what_was_committed_before_them() -> None:
    rig = ReplicaRig()
    rig.step(Read(rig.served.append))
    assert rig.served == []
    rig.step(Tick(), Read(rig.served.append))
    assert rig.served == [], "nothing is known before the first commit of the own term"
    rig.sync()
    assert rig.served == [0, 0]
    rig.put(*range(3_000))
    rig.sync()
    rig.step(Read(rig.served.append))
    assert len(rig.served) == 2
    while rig.step(Tick()).more:
        pass
    assert rig.served[2:] == [0]
    assert rig.replica.readable


def test_stop_answers_everyone() -> None:
    rig = ReplicaRig()
    rig.step(Tick())
    rig.step(Read(rig.served.append))
    rig.put(1)
    output = rig.replica.stop()
    deliver(output.replies)
    for serve, error in output.reads:
        serve(error)
    assert rig.answers() == [(1, EtcdError.STOPPED)]
    assert rig.served == [EtcdError.STOPPED]


def test_the_log_in_memory_is_bounded() -> None:
    rig = ReplicaRig()
    rig.step(Tick())
    rig.sync()
    for start in range(0, 30_000, 1_000):
        rig.put(*range(start, start + 1_000))
        rig.sync()
        while rig.step(Tick()).more:
            pass
    kernel = rig.replica.kernel
    assert kernel.last_index - kernel.first_index <= 11_000


def test_internal_requests_are_those_of_the_generated_messages() -> None:
    names = {
        "put": proposals.PUT,
        "delete_range": proposals.DELETE_RANGE,
        "txn": proposals.TXN,
        "compaction": proposals.COMPACTION,
        "lease_grant": proposals.LEASE_GRANT,
        "lease_revoke": proposals.LEASE_REVOKE,
        "alarm": proposals.ALARM,
        "cluster_version_set": proposals.CLUSTER_VERSION_SET,
        "cluster_member_attr_set": proposals.MEMBER_ATTRIBUTES_SET,
    }
    numbers = raft_internal_pb2.InternalRaftRequest.DESCRIPTOR.fields_by_name
    assert {name: numbers[name].number for name in names} == names
