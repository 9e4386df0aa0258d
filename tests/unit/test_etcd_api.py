"""The etcd services behind the real door and before the real state machine (testing/lone_node): the rules of etcd-api §1.0 to §1.5
that need no second server to judge."""

import json
import queue
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from raftsched.cli.member import LEAVING
from raftsched.errors import ETCD_STATUS, EtcdError, status_of
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.testing.lone_node import CLUSTER_ID, MEMBER_ID, EtcdDoor

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
HASLEADER = (("hasleader", "true"),)


@pytest.fixture
def door() -> Iterator[EtcdDoor]:
    with EtcdDoor(progress_interval_ms=150, leader_lost_ms=200) as opened:
        yield opened


@pytest.fixture
def channel(door: EtcdDoor) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(door.address, options=UNLIMITED) as opened:
        yield opened


class Watching:
    """One Watch stream; answers in order."""

    def __init__(self, channel: grpc.Channel, metadata: Any = None) -> None:
        self._requests: queue.SimpleQueue[pb.WatchRequest | None] = queue.SimpleQueue()
        self.call = stubs.WatchStub(channel).Watch(iter(self._requests.get, None), metadata=metadata, timeout=20)

    def create(self, key: bytes, **options: Any) -> pb.WatchResponse:
        self._requests.put(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=key, **options)))
        return self.next()

    def ask(self, **request: Any) -> None:
        self._requests.put(pb.WatchRequest(**request))

    def next(self) -> pb.WatchResponse:
        return next(self.call)

    def close(self) -> None:
        self.call.cancel()
        self._requests.put(None)


class KeepingAlive:
    """One LeaseKeepAlive stream."""

    def __init__(self, channel: grpc.Channel, metadata: Any = None) -> None:
        self._requests: queue.SimpleQueue[pb.LeaseKeepAliveRequest | None] = queue.SimpleQueue()
        self.call = stubs.LeaseStub(channel).LeaseKeepAlive(iter(self._requests.get, None), metadata=metadata, timeout=20)

    def renew(self, lease: int) -> pb.LeaseKeepAliveResponse:
        self._requests.put(pb.LeaseKeepAliveRequest(ID=lease))
        return next(self.call)

    def close(self) -> None:
        self.call.cancel()
        self._requests.put(None)


@pytest.fixture
def watching(channel: grpc.Channel) -> Iterator[Watching]:
    opened = Watching(channel)
    yield opened
    opened.close()


def refusal(call: Any, error: EtcdError) -> None:
    """`call()` fails with the code and text of `error`."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    code, text = ETCD_STATUS[error]
    assert (caught.value.code().value[0], caught.value.details()) == (code, text)


# -- headers and the checks before a handler


def test_every_answer_names_the_cluster_and_the_member(channel: grpc.Channel) -> None:
    answer = stubs.KVStub(channel).Put(pb.PutRequest(key=b"a"))
    assert (answer.header.cluster_id, answer.header.member_id, answer.header.raft_term) == (CLUSTER_ID, MEMBER_ID, 2)
    assert answer.header.revision == 2
    assert stubs.ClusterStub(channel).MemberList(pb.MemberListRequest()).header.revision == 0
    assert not stubs.MaintenanceStub(channel).Defragment(pb.DefragmentRequest()).HasField("header")


def test_hasleader_without_a_leader_is_refused_at_once(door: EtcdDoor, channel: grpc.Channel) -> None:
    door.run(lambda: setattr(door.node, "leader_id", 0))
    kv, lease = stubs.KVStub(channel), stubs.LeaseStub(channel)
    for call in (
        lambda: kv.Put(pb.PutRequest(key=b"a"), metadata=HASLEADER),
        lambda: kv.Range(pb.RangeRequest(key=b"a", serializable=True), metadata=HASLEADER),
        lambda: lease.LeaseLeases(pb.LeaseLeasesRequest(), metadata=HASLEADER),
        lambda: next(lease.LeaseKeepAlive(iter([pb.LeaseKeepAliveRequest(ID=1)]), metadata=HASLEADER)),
        lambda: next(Watching(channel, HASLEADER).call),
    ):
        refusal(call, EtcdError.NO_LEADER)
    refusal(lambda: kv.Put(pb.PutRequest(key=b"a")), EtcdError.NO_LEADER)
    assert kv.Range(pb.RangeRequest(key=b"a", serializable=True)).count == 0


def test_a_learner_serves_its_status_and_serializable_reads(door: EtcdDoor, channel: grpc.Channel) -> None:
    """etcd-api §1.0, step 2: all else is refused, before anything else is looked at."""
    kv, lease, cluster = stubs.KVStub(channel), stubs.LeaseStub(channel), stubs.ClusterStub(channel)
    maintenance, auth = stubs.MaintenanceStub(channel), stubs.AuthStub(channel)
    kv.Put(pb.PutRequest(key=b"a", value=b"v"))
    door.run(lambda: setattr(door.node, "is_learner", True))
    for call in (
        lambda: kv.Put(pb.PutRequest(key=b"a")),
        lambda: kv.Put(pb.PutRequest()),
        lambda: kv.DeleteRange(pb.DeleteRangeRequest(key=b"a")),
        lambda: kv.Txn(pb.TxnRequest()),
        lambda: kv.Range(pb.RangeRequest(key=b"a")),
        lambda: kv.Range(pb.RangeRequest(key=b"8\x01")),
        lambda: kv.Range(pb.RangeRequest()),
        lambda: kv.Compact(pb.CompactionRequest(revision=2)),
        lambda: next(kv.RangeStream(pb.RangeRequest(key=b"a", serializable=True))),
        lambda: lease.LeaseGrant(pb.LeaseGrantRequest(TTL=60)),
        lambda: lease.LeaseLeases(pb.LeaseLeasesRequest()),
        lambda: next(lease.LeaseKeepAlive(iter([pb.LeaseKeepAliveRequest(ID=1)]))),
        lambda: next(Watching(channel).call),
        lambda: cluster.MemberList(pb.MemberListRequest()),
        lambda: maintenance.Alarm(pb.AlarmRequest()),
        lambda: maintenance.HashKV(pb.HashKVRequest()),
        lambda: maintenance.Defragment(pb.DefragmentRequest()),
        lambda: auth.AuthStatus(pb.AuthStatusRequest()),
    ):
        refusal(call, EtcdError.NOT_SUPPORTED_FOR_LEARNER)
    assert kv.Range(pb.RangeRequest(key=b"a", serializable=True)).kvs[0].value == b"v"
    refusal(lambda: kv.Range(pb.RangeRequest(serializable=True)), EtcdError.KEY_NOT_PROVIDED)
    assert maintenance.Status(pb.StatusRequest()).isLearner
    assert fetch(door, "/health") == (200, '{"health":"true","reason":""}')
    assert fetch(door, "/readyz")[1].endswith("[-]non_learner failed: not supported for learner\n\n")
    door.run(lambda: setattr(door.node, "is_learner", False))
    assert kv.Put(pb.PutRequest(key=b"a")).header.revision == 3


def test_a_batch_on_a_learner_fails_only_what_is_not_local(door: EtcdDoor, channel: grpc.Channel) -> None:
    door.run(lambda: setattr(door.node, "is_learner", True))
    kv = stubs.KVStub(channel)
    calls = [kv.Range.future(pb.RangeRequest(key=b"k", serializable=number % 3 > 0)) for number in range(60)]
    for number, call in enumerate(calls):
        if number % 3 == 0:
            refusal(call.result, EtcdError.NOT_SUPPORTED_FOR_LEARNER)
        else:
            assert call.result().count == 0


def test_a_learner_may_wish_to_leave(door: EtcdDoor, channel: grpc.Channel) -> None:
    """`raftsched member leave`: a pod may be scaled away before it has caught up."""
    door.run(lambda: setattr(door.node, "is_learner", True))
    assert stubs.ClusterStub(channel).MemberList(pb.MemberListRequest(), metadata=LEAVING).members


def test_the_leader_of_a_learner_comes_before_other_checks(door: EtcdDoor, channel: grpc.Channel) -> None:
    door.run(lambda: (setattr(door.node, "is_learner", True), setattr(door.node, "leader_id", 0)))
    kv, local = stubs.KVStub(channel), pb.RangeRequest(key=b"a", serializable=True)
    refusal(lambda: kv.Put(pb.PutRequest(key=b"a"), metadata=HASLEADER), EtcdError.NOT_SUPPORTED_FOR_LEARNER)
    refusal(lambda: kv.Range(local, metadata=HASLEADER), EtcdError.NO_LEADER)
    assert kv.Range(local).count == 0


def test_a_keep_alive_that_asked_for_a_leader_ends_when_it_is_lost(door: EtcdDoor, channel: grpc.Channel) -> None:
    stub = stubs.LeaseStub(channel)
    stub.LeaseGrant(pb.LeaseGrantRequest(ID=7, TTL=60))
    guarded, plain = KeepingAlive(channel, HASLEADER), KeepingAlive(channel)
    assert (guarded.renew(7).TTL, plain.renew(7).TTL) == (60, 60)
    began = time.monotonic()
    door.run(lambda: setattr(door.node, "leader_id", 0))
    refusal(lambda: next(guarded.call), EtcdError.NO_LEADER)
    assert 0.15 < time.monotonic() - began < 2, "three election timeouts, here 200 ms"
    door.run(lambda: setattr(door.node, "leader_id", MEMBER_ID))
    assert plain.renew(7).TTL == 60
    plain.close()


def test_a_range_stream_that_asked_for_a_leader_ends_when_it_is_lost(door: EtcdDoor, channel: grpc.Channel) -> None:
    """While the client takes its time."""
    kv = stubs.KVStub(channel)
    for number in range(1_000):  # 30 MB: more than the two ends hold
        kv.Put(pb.PutRequest(key=b"r%d" % number, value=bytes(30_000)))
    request = pb.RangeRequest(key=b"r", range_end=b"s")
    guarded, plain = kv.RangeStream(request, metadata=HASLEADER), kv.RangeStream(request)
    next(guarded), next(plain)
    door.run(lambda: setattr(door.node, "leader_id", 0))
    time.sleep(0.6)
    refusal(lambda: list(guarded), EtcdError.NO_LEADER)
    assert list(plain)[-1].range_response.count == 1_000


def test_streams_that_are_over_are_not_guarded(door: EtcdDoor, channel: grpc.Channel) -> None:
    guard = door.services.guard
    door.run(lambda: setattr(door.node, "leader_id", 0))
    refusal(lambda: next(Watching(channel, HASLEADER).call), EtcdError.NO_LEADER)
    assert door.run(lambda: len(guard)) == 0, "it was refused at once"
    door.run(lambda: setattr(door.node, "leader_id", MEMBER_ID))
    opened, renewing = Watching(channel, HASLEADER), KeepingAlive(channel, HASLEADER)
    opened.create(b"a")
    renewing.renew(7)
    assert door.run(lambda: len(guard)) == 2
    opened.close()
    renewing.close()
    deadline = time.monotonic() + 5
    while door.run(lambda: len(guard)):
        assert time.monotonic() < deadline


def test_a_watch_that_asked_for_a_leader_ends_when_it_is_lost(door: EtcdDoor, channel: grpc.Channel) -> None:
    guarded, plain = Watching(channel, HASLEADER), Watching(channel)
    assert guarded.create(b"a").created
    assert plain.create(b"a").created
    door.run(lambda: setattr(door.node, "leader_id", 0))
    refusal(guarded.next, EtcdError.NO_LEADER)
    door.run(lambda: setattr(door.node, "leader_id", MEMBER_ID))
    stubs.KVStub(channel).Put(pb.PutRequest(key=b"a"))
    assert plain.next().events
    plain.close()


def test_clients_are_counted_by_their_version(door: EtcdDoor, channel: grpc.Channel) -> None:
    kv = stubs.KVStub(channel)
    kv.Put(pb.PutRequest(key=b"a"), metadata=(("client-api-version", "3.7"),))
    kv.Put(pb.PutRequest(key=b"a"))
    text = door.run(door.metrics.render).decode()
    assert 'etcd_server_client_requests_total{client_api_version="3.7",type="unary"} 1\n' in text
    assert 'etcd_server_client_requests_total{client_api_version="unknown",type="unary"} 1\n' in text


def test_a_batch_fails_only_what_is_wrong(channel: grpc.Channel) -> None:
    kv = stubs.KVStub(channel)
    calls = [kv.Put.future(pb.PutRequest(key=b"" if number % 3 == 0 else b"k%d" % number)) for number in range(60)]
    for number, call in enumerate(calls):
        if number % 3 == 0:
            refusal(call.result, EtcdError.KEY_NOT_PROVIDED)
        else:
            assert call.result().header.revision
    assert kv.Range(pb.RangeRequest(key=b"k", range_end=b"l", count_only=True)).count == 40


def test_a_key_may_hold_the_bytes_of_serializable(door: EtcdDoor, channel: grpc.Channel) -> None:
    """Such a read is still linearizable: without a leader it is refused."""
    kv = stubs.KVStub(channel)
    kv.Put(pb.PutRequest(key=b"8\x01", value=b"v"))
    assert kv.Range(pb.RangeRequest(key=b"8\x01")).kvs[0].value == b"v"
    assert kv.Range(pb.RangeRequest(key=b"8\x01", serializable=True)).kvs[0].value == b"v"
    door.run(lambda: setattr(door.node, "leader_id", 0))
    refusal(lambda: kv.Range(pb.RangeRequest(key=b"8\x01")), EtcdError.NO_LEADER)


# -- watch


def test_watch_ids_and_their_errors(watching: Watching) -> None:
    assert watching.create(b"a").watch_id == 0
    assert watching.create(b"a", watch_id=1).watch_id == 1
    assert watching.create(b"a").watch_id == 2  # 1 is taken
    refused = watching.create(b"a", watch_id=1)
    assert (refused.watch_id, refused.created, refused.canceled) == (-1, True, True)
    assert refused.cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream"
    assert watching.create(b"b", range_end=b"a").cancel_reason == "mvcc: watcher range is empty"
    assert watching.create(b"b", start_revision=-1).cancel_reason == "etcdserver: mvcc: required revision has been compacted"


def test_a_compacted_start_is_created_then_canceled(channel: grpc.Channel, watching: Watching) -> None:
    kv = stubs.KVStub(channel)
    for _ in range(5):
        kv.Put(pb.PutRequest(key=b"a"))
    kv.Compact(pb.CompactionRequest(revision=4))
    created = watching.create(b"a", start_revision=2)
    assert created.created
    assert created.header.revision == 6
    ended = watching.next()
    assert (ended.canceled, ended.compact_revision, ended.header.revision, ended.cancel_reason) == (True, 4, 0, "")
    resumed = watching.create(b"a", start_revision=4)
    assert resumed.created
    assert [event.kv.mod_revision for event in watching.next().events] == [4, 5, 6]


def test_progress_by_interval_and_on_request(channel: grpc.Channel, watching: Watching) -> None:
    stubs.KVStub(channel).Put(pb.PutRequest(key=b"other"))
    quiet = watching.create(b"a", progress_notify=True)
    notified = watching.next()
    assert (notified.watch_id, notified.header.revision, len(notified.events)) == (quiet.watch_id, 2, 0)
    watching.ask(progress_request=pb.WatchProgressRequest())
    while (asked := watching.next()).watch_id != -1:
        assert not asked.events
    assert asked.header.revision == 2


def test_fragments(channel: grpc.Channel, watching: Watching) -> None:
    kv = stubs.KVStub(channel)
    watching.create(b"f", range_end=b"g", fragment=True)
    operations = [pb.RequestOp(request_put=pb.PutRequest(key=b"f%d" % number, value=bytes(400_000))) for number in range(3)]
    kv.Txn(pb.TxnRequest(success=operations))
    parts = [watching.next()]
    while parts[-1].fragment:
        parts.append(watching.next())
    assert len(parts) == 1, "1.2 MB fit into one answer"
    assert [event.kv.key for part in parts for event in part.events] == [b"f0", b"f1", b"f2"]
    for number in range(3):
        kv.Put(pb.PutRequest(key=b"f%d" % number, value=bytes(1_000_000)))
        watching.next()
    deleted = kv.DeleteRange(pb.DeleteRangeRequest(key=b"f", range_end=b"g"))
    assert deleted.deleted == 3
    other = Watching(channel)
    other.create(b"f", range_end=b"g", fragment=True, prev_kv=True, start_revision=deleted.header.revision)
    parts = [other.next()]
    while parts[-1].fragment:
        parts.append(other.next())
    assert [len(part.events) for part in parts] == [2, 1], "three events with a prev_kv of 1 MB do not fit into 2 MiB"
    assert [event.prev_kv.key for part in parts for event in part.events] == [b"f0", b"f1", b"f2"]
    other.close()


def test_a_hundred_watchers_see_the_same(channel: grpc.Channel) -> None:
    many = [Watching(channel) for _ in range(100)]
    for one in many:
        one.create(b"a", range_end=b"b")
    kv = stubs.KVStub(channel)
    for number in range(20):
        kv.Put(pb.PutRequest(key=b"a%d" % number))
    for one in many:
        assert [one.next().events[0].kv.key for _ in range(20)] == [b"a%d" % number for number in range(20)]
        one.close()


def test_a_slow_watcher_holds_no_memory_and_loses_nothing(door: EtcdDoor, channel: grpc.Channel) -> None:
    """It reads nothing while 64 MB of changes pass: the door holds a little, the hub nothing; then it gets them all."""
    slow = Watching(channel)
    slow.create(b"s")
    kv = stubs.KVStub(channel)
    for number in range(64):
        kv.Put(pb.PutRequest(key=b"s", value=b"%d " % number + bytes(1_000_000)))
    hub = door.services.watch.hub
    assert door.run(lambda: hub.slow_count) == 1
    assert door.run(lambda: door.engine.counters()["buffered_bytes"]) < 16 << 20
    values: list[bytes] = []
    while len(values) < 64:
        values += [event.kv.value.split(b" ")[0] for event in slow.next().events]
    assert values == [b"%d" % number for number in range(64)]
    deadline = time.monotonic() + 5
    while door.run(lambda: hub.slow_count):
        assert time.monotonic() < deadline
    slow.close()


def test_the_end_of_a_stream_frees_its_watchers(door: EtcdDoor, channel: grpc.Channel) -> None:
    hub = door.services.watch.hub
    opened = Watching(channel)
    opened.create(b"a")
    assert door.run(lambda: (hub.stream_count, hub.watcher_count, door.node.mvcc.watching)) == (1, 1, True)
    opened.close()
    deadline = time.monotonic() + 5
    while door.run(lambda: (hub.stream_count, hub.watcher_count, door.node.mvcc.watching)) != (0, 0, False):
        assert time.monotonic() < deadline


# -- leases


def test_the_server_picks_lease_ids(channel: grpc.Channel) -> None:
    lease = stubs.LeaseStub(channel)
    first, second = (lease.LeaseGrant(pb.LeaseGrantRequest(TTL=60)).ID for _ in range(2))
    assert first > 0
    assert second > 0
    assert first != second
    refusal(lambda: lease.LeaseGrant(pb.LeaseGrantRequest(ID=first, TTL=60)), EtcdError.LEASE_EXISTS)
    refusal(lambda: lease.LeaseGrant(pb.LeaseGrantRequest(TTL=9_000_000_001)), EtcdError.LEASE_TTL_TOO_LARGE)
    refusal(lambda: lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=1)), EtcdError.LEASE_NOT_FOUND)
    assert {one.ID for one in lease.LeaseLeases(pb.LeaseLeasesRequest()).leases} == {first, second}


def test_keep_alives_are_answered_in_order_and_end_with_the_client(channel: grpc.Channel) -> None:
    lease = stubs.LeaseStub(channel)
    lease.LeaseGrant(pb.LeaseGrantRequest(ID=7, TTL=60))
    answers = list(lease.LeaseKeepAlive(iter([pb.LeaseKeepAliveRequest(ID=one) for one in (7, 8, 7)]), timeout=10))
    assert [(answer.ID, answer.TTL) for answer in answers] == [(7, 60), (8, 0), (7, 60)]


# -- HTTP/1.1 on the same port


def fetch(door: EtcdDoor, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{door.address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_version_and_unknown_paths(door: EtcdDoor) -> None:
    assert json.loads(fetch(door, "/version")[1]) == {"etcdserver": "3.7.1", "etcdcluster": "3.7.0", "storage": "3.7.0"}
    assert fetch(door, "/version", "POST")[0] == 405
    assert fetch(door, "/nope") == (404, "404 page not found\n")
    assert fetch(door, "/v2/keys") == (404, "404 page not found\n")


def test_health_says_what_is_wrong(door: EtcdDoor, channel: grpc.Channel) -> None:
    assert fetch(door, "/health") == (200, '{"health":"true","reason":""}')
    assert fetch(door, "/health", "PUT")[0] == 405
    maintenance = stubs.MaintenanceStub(channel)
    maintenance.Alarm(pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=1, alarm=pb.NOSPACE))
    assert fetch(door, "/health") == (503, '{"health":"false","reason":"ALARM NOSPACE"}\n')
    assert fetch(door, "/health?exclude=NOSPACE")[0] == 200
    assert fetch(door, "/health?exclude=CORRUPT")[0] == 503
    assert fetch(door, "/readyz")[0] == 200
    assert list(maintenance.Status(pb.StatusRequest()).errors) == ["memberID:1 alarm:NOSPACE"]
    refusal(lambda: stubs.KVStub(channel).Put(pb.PutRequest(key=b"a")), EtcdError.NO_SPACE)
    maintenance.Alarm(pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=1, alarm=pb.NOSPACE))
    door.run(lambda: setattr(door.node, "leader_id", 0))
    assert fetch(door, "/health") == (503, '{"health":"false","reason":"RAFT NO LEADER"}\n')
    assert fetch(door, "/health?serializable=true")[0] == 200
    assert list(maintenance.Status(pb.StatusRequest()).errors) == ["etcdserver: no leader"]


async def timed_out() -> None:
    """A read barrier after its 7 s."""
    raise status_of(EtcdError.TIMEOUT)


def test_livez_and_readyz(door: EtcdDoor, channel: grpc.Channel) -> None:
    assert fetch(door, "/livez") == (200, "ok\n")
    every = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n"
    assert fetch(door, "/readyz?verbose") == (200, every)
    assert fetch(door, "/readyz/linearizable_read") == (200, "ok\n")
    assert fetch(door, "/readyz/nope")[0] == 404
    door.run(lambda: setattr(door.node, "read_barrier", timed_out))
    local = "[+]data_corruption ok\n[+]serializable_read ok\n"
    text = local + "[-]linearizable_read failed: etcdserver: request timed out\n[+]non_learner ok\n\n"
    assert fetch(door, "/readyz?verbose") == (503, text)
    door.run(lambda: delattr(door.node, "read_barrier"))
    alarm = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=1, alarm=pb.CORRUPT)
    stubs.MaintenanceStub(channel).Alarm(alarm)
    status, text = fetch(door, "/readyz")
    assert status == 503
    assert text.startswith("[-]data_corruption failed: alarm activated: CORRUPT\n")
    assert fetch(door, "/readyz?exclude=data_corruption")[0] == 200


def test_metrics_have_etcds_names_and_forms(door: EtcdDoor, channel: grpc.Channel) -> None:
    stubs.KVStub(channel).Put(pb.PutRequest(key=b"a"))
    refusal(lambda: stubs.KVStub(channel).Put(pb.PutRequest()), EtcdError.KEY_NOT_PROVIDED)
    status, text = fetch(door, "/metrics")
    assert status == 200
    for line in (
        'etcd_server_version{server_version="3.7.1"} 1',
        'etcd_cluster_version{cluster_version="3.7"} 1',
        "etcd_server_has_leader 1",
        "etcd_debugging_mvcc_current_revision 2",
        'grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1',
        'grpc_server_handled_total{grpc_code="InvalidArgument",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1',
        'grpc_server_started_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 2',
    ):
        assert line + "\n" in text
    assert "process_resident_memory_bytes " in text


def test_durations_are_measured_when_extensive_metrics_are_asked_for(door: EtcdDoor) -> None:
    stats = 'grpc_method="{}",grpc_service="etcdserverpb.{}",grpc_type="{}"'
    with EtcdDoor(extensive_metrics=True) as extensive:
        for one in (extensive, door):
            with grpc.insecure_channel(one.address) as channel:
                kv = stubs.KVStub(channel)
                kv.Put(pb.PutRequest(key=b"a"))
                refusal(lambda kv=kv: kv.Put(pb.PutRequest()), EtcdError.KEY_NOT_PROVIDED)
                kv.Range(pb.RangeRequest(key=b"a"))
                kv.Range(pb.RangeRequest(key=b"a", serializable=True))
                kv.Txn(pb.TxnRequest())
                stubs.MaintenanceStub(channel).Status(pb.StatusRequest())
                list(kv.RangeStream(pb.RangeRequest(key=b"a")))
        text = fetch(extensive, "/metrics")[1]
        for method, service, kind, count in (
            ("Put", "KV", "unary", 2),
            ("Range", "KV", "unary", 2),
            ("Txn", "KV", "unary", 1),
            ("Status", "Maintenance", "unary", 1),
            ("RangeStream", "KV", "server_stream", 1),
            ("Compact", "KV", "unary", 0),
        ):
            labels = stats.format(method, service, kind)
            assert f"grpc_server_handling_seconds_count{{{labels}}} {count}\n" in text
            assert f'grpc_server_handling_seconds_bucket{{{labels},le="+Inf"}} {count}\n' in text
            total = re.search(rf"grpc_server_handling_seconds_sum{{{labels}}} (\S+)", text)
            assert total is not None
            assert 0 <= float(total[1]) < 10
            assert (float(total[1]) > 0) == (count > 0)
    assert "grpc_server_handling_seconds" not in fetch(door, "/metrics")[1]


def test_descriptors_are_counted(door: EtcdDoor) -> None:
    text = fetch(door, "/metrics")[1]
    used, limit = (float(line.split()[1]) for name in ("os_fd_used", "os_fd_limit") for line in text.splitlines() if line.startswith(name))
    assert 3 < used < limit
