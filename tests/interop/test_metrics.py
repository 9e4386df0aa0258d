"""What Prometheus reads, beside a real etcd 3.7.1: after the same traffic names, types, labels, buckets, and values that must be equal."""

import re
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftsched.pb.etcd import kv_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.pb.wellknown import health_pb2, health_pb2_grpc
from raftsched.rpc.counted import CountedMethods
from raftsched.rpc.health import HealthService
from raftsched.rpc.metrics import Family
from raftsched.store.node import Node, NodeOptions
from raftsched.store.transport.peers import Peers
from raftsched.store_server import door_families
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.lone_node import EtcdDoor
from raftsched.testing.process import free_ports
from raftsched.testing.wire_client import WireClient

LEFT_OUT = {
    "etcd_debugging_disk_backend_commit_rebalance_duration_seconds": "bbolt's own: LMDB does not rebalance",
    "etcd_debugging_disk_backend_commit_spill_duration_seconds": "bbolt's own: LMDB does not spill",
    "etcd_debugging_disk_backend_commit_write_duration_seconds": "LMDB writes and syncs in one call, which backend_commit measures",
    "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds": "nobody waits for a compaction's deletions",
    "etcd_debugging_server_watch_send_loop_*": "there is no loop per watch stream",
    "etcd_debugging_snap_save_marshalling_duration_seconds": "a snapshot file is a few hundred bytes, made and written in one go",
    "etcd_debugging_store_*": "of the v2 store",
    "etcd_grpc_proxy_*": "of the proxy",
    "etcd_server_go_version": "there is no Go",
    "etcd_snap_db_*": "a received database is counted by the incarnation that it ends",
    "go_*": "of the Go runtime",
}
"""No true value here; a star stands for any end."""


class Log:
    def __getattr__(self, _level: str) -> Callable[..., None]:
        return lambda message, **fields: None


class Peered:
    """A whole member, with a transport though nobody else is there."""

    def __init__(self, directory: Path) -> None:
        self._port = free_ports(1)[0]
        self._directory = directory
        self.peers: Any = None

    def _network(self, handler: Any) -> Any:
        self.peers = Peers(listen_host="127.0.0.1", port=self._port, handler=handler, log=Log(), version=(3, 7, 1))
        return self.peers

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Node]:
        url = f"http://127.0.0.1:{self._port}"
        options = NodeOptions(data_dir=str(self._directory), peer_urls=(url,), history_bound=False, txn_ops_max=128)
        node = Node(options, log=Log(), on_fatal=print, network=self._network)
        await node.start()
        try:
            yield node
        finally:
            await node.stop()


@pytest.fixture
def member(tmp_path: Path) -> Iterator[EtcdDoor]:
    made = Peered(tmp_path / "subject")
    opened: Callable[[], AbstractAsyncContextManager[Any]] = made.open
    with EtcdDoor(open_node=opened) as door:
        door.run(lambda: door.metrics.add(lambda: (Family(*family) for family in made.peers.families())))
        door.run(lambda: door.metrics.add(lambda: door_families([door.engine])))
        health = HealthService()
        health.set_serving(True)
        door.run(lambda: health.register(CountedMethods(door.engine, door.services.stats)))
        yield door


class Scrape:
    """The text of /metrics, taken apart."""

    def __init__(self, address: str) -> None:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        self.kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
        self.samples: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        for name, labels, value in re.findall(r"^([a-z_]+[a-z0-9_]*)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
            found = frozenset(re.findall(r'(\w+)="([^"]*)"', labels))
            self.samples.setdefault(name, {})[found] = float(value)

    def of(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        return self.samples.get(name, {})

    def labels(self, name: str) -> set[frozenset[str]]:
        """The sets of label names that samples of this family have."""
        kind = self.kinds[name]
        sampled = f"{name}_bucket" if kind == "histogram" else name
        return {frozenset(label for label, _ in one) for one in self.of(sampled)}

    def bounds(self, name: str) -> set[float]:
        return {float(dict(one)["le"].replace("Inf", "inf")) for one in self.of(f"{name}_bucket")}


def is_left_out(name: str) -> bool:
    return any(name.startswith(one[:-1]) if one.endswith("*") else name == one for one in LEFT_OUT)


def refused(call: Callable[[], Any]) -> None:
    with pytest.raises(grpc.RpcError):
        call()


def traffic(address: str) -> None:
    """Something of everything, in order, each call answered before the next; a watch stream stays open behind it."""
    with grpc.insecure_channel(address) as channel:
        kv, lease, watch, maintenance, cluster, auth = (
            getattr(stubs, f"{name}Stub")(channel) for name in ("KV", "Lease", "Watch", "Maintenance", "Cluster", "Auth")
        )
        events = watch.Watch(iter([pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"k", range_end=b"l"))]))
        assert next(events).created
        _writes(kv)
        seen = 0
        while seen < 13:
            seen += len(next(events).events)
        events.cancel()
        _leases(kv, lease, watch)
        _others(kv, maintenance, cluster, auth)
        health = health_pb2_grpc.HealthStub(channel)
        health.Check(health_pb2.HealthCheckRequest())
        refused(lambda: health.Check(health_pb2.HealthCheckRequest(service="nobody")))
        watched = health.Watch(health_pb2.HealthCheckRequest())
        assert next(iter(watched)).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()


def _writes(kv: Any) -> None:
    for number in range(10):
        kv.Put(pb.PutRequest(key=b"k%d" % number, value=b"v" * number))
    kv.Put(pb.PutRequest(key=b"k0", value=b"again"), metadata=(("client-api-version", "3.7"),))
    kv.DeleteRange(pb.DeleteRangeRequest(key=b"k9"))
    kv.DeleteRange(pb.DeleteRangeRequest(key=b"nothing"))
    put = pb.RequestOp(request_put=pb.PutRequest(key=b"k1", value=b"txn"))
    read = pb.RequestOp(request_range=pb.RangeRequest(key=b"k", range_end=b"l"))
    kv.Txn(pb.TxnRequest(success=[put, read]))
    kv.Txn(pb.TxnRequest(success=[read]))
    for _ in range(3):
        kv.Range(pb.RangeRequest(key=b"k", range_end=b"l"))
    kv.Range(pb.RangeRequest(key=b"k1", serializable=True))
    list(kv.RangeStream(pb.RangeRequest(key=b"k", range_end=b"l")))
    refused(lambda: kv.Put(pb.PutRequest()))
    refused(lambda: kv.Range(pb.RangeRequest(key=b"k", revision=1_000)))
    refused(lambda: kv.Txn(pb.TxnRequest(success=[put, put])))
    refused(lambda: kv.Put(pb.PutRequest(key=b"k", lease=77)))
    refused(lambda: kv.Put(pb.PutRequest(key=b"none", ignore_value=True)))


def _leases(kv: Any, lease: Any, watch: Any) -> None:
    ends = watch.Watch(iter([pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"short", filters=[pb.WatchCreateRequest.NOPUT]))]))
    assert next(ends).created
    for number, ttl in ((1, 60), (2, 100)):
        lease.LeaseGrant(pb.LeaseGrantRequest(ID=number, TTL=ttl))
    refused(lambda: lease.LeaseGrant(pb.LeaseGrantRequest(ID=1, TTL=60)))
    kv.Put(pb.PutRequest(key=b"leased", lease=1))
    lease.LeaseGrant(pb.LeaseGrantRequest(ID=3, TTL=4))  # long enough for the next call, on a busy machine too
    kv.Put(pb.PutRequest(key=b"short", lease=3))
    assert [one.TTL for one in lease.LeaseKeepAlive(iter([pb.LeaseKeepAliveRequest(ID=2)] * 3))] == [100] * 3
    lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=1, keys=True))
    lease.LeaseLeases(pb.LeaseLeasesRequest())
    lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=1))
    refused(lambda: lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=1)))
    assert [one.type for one in next(ends).events] == [kv_pb2.Event.DELETE]
    ends.cancel()


def _others(kv: Any, maintenance: Any, cluster: Any, auth: Any) -> None:
    kv.Compact(pb.CompactionRequest(revision=10, physical=True))
    refused(lambda: kv.Compact(pb.CompactionRequest(revision=10)))
    maintenance.Hash(pb.HashRequest())
    maintenance.HashKV(pb.HashKVRequest())
    maintenance.Defragment(pb.DefragmentRequest())
    maintenance.Status(pb.StatusRequest())
    for kind in (pb.NOSPACE, pb.CORRUPT):
        maintenance.Alarm(pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=5, alarm=kind))
    maintenance.Alarm(pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=5, alarm=pb.CORRUPT))
    refused(lambda: kv.Put(pb.PutRequest(key=b"full")))
    cluster.MemberList(pb.MemberListRequest(linearizable=True))
    auth.AuthStatus(pb.AuthStatusRequest())


# of etcd's, what depends on the clock, on the machine, or on how a member begins
OWN = re.compile(
    r"process_|os_fd_|promhttp_|etcd_disk_|etcd_server_id|etcd_server_proposals_(applied|committed)_total|etcd_server_health_"
    r"|etcd_network_known_peers|etcd_network_client_grpc_|etcd_mvcc_db_total_size|etcd_debugging_mvcc_db_compaction_last"
    r"|etcd_debugging_mvcc_\w+_duration_milliseconds|etcd_debugging_snap_|etcd_server_slow_"
)
BEFORE_OURS = {"etcd_mvcc_range_total": 2, "etcd_server_range_duration_seconds_count": 1}
"""etcd reads a key to answer Compact, and one for the request for its health by which a test sees that it is ready."""
LATE_SERVICES = {("grpc_service", "v3lockpb.Lock"), ("grpc_service", "v3electionpb.Election")}
"""etcd shows their methods once they were called; here they are there from the start, as all others."""
KNOWN = {
    "etcd_server_request_duration_seconds": "etcd counts what members ask of themselves: its own health, its start, the end of a lease",
    "etcd_server_feature_enabled": "gates that mean nothing here are not shown",
    "etcd_debugging_server_alarms": "etcd keeps a disarmed alarm as 0, here it goes",
    "etcd_debugging_mvcc_pending_events_total": "etcd goes on counting what it had for a stream that was cancelled",
    "grpc_server_msg_sent_total": "etcd counts an error as a message that was sent",
    "grpc_server_msg_received_total": "etcd counts the end of a stream as a message that was received",
    "etcd_server_apply_duration_seconds": "etcd calls a refused compaction a success; and it applies an entry `unknown` at its start",
}


def test_names_types_labels_and_buckets_are_etcds(real_etcd: RealEtcd, member: EtcdDoor) -> None:
    for one in (real_etcd, member):
        traffic(one.address)
    judge, subject = Scrape(real_etcd.address), Scrape(member.address)
    wanted = {name for name in judge.kinds if not is_left_out(name)}
    assert wanted - set(subject.kinds) == set()
    assert {name: subject.kinds[name] for name in wanted} == {name: judge.kinds[name] for name in wanted}
    for name in sorted(wanted):
        assert subject.labels(name) == judge.labels(name), name
        if judge.kinds[name] == "histogram":
            assert sorted(subject.bounds(name)) == pytest.approx(sorted(judge.bounds(name))), name
    ours_alone = {name for name in subject.kinds if name not in judge.kinds and not name.startswith("raftsched_")}
    assert ours_alone == {"etcd_debugging_mvcc_db_total_size_in_bytes"}, "an old name that dashboards still ask for"
    assert not {name for name in subject.kinds if is_left_out(name)}, "then it is not left out"


def test_the_same_traffic_gives_the_same_values(real_etcd: RealEtcd, member: EtcdDoor) -> None:
    for one in (real_etcd, member):
        traffic(one.address)
    judge, subject = Scrape(real_etcd.address), Scrape(member.address)
    compared = 0
    for name in sorted(set(judge.samples) - set(KNOWN)):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        if is_left_out(family) or is_left_out(name) or OWN.match(name) or family in KNOWN or name.endswith("_seconds_bucket"):
            continue
        if name.endswith("_sum") and family != "etcd_debugging_lease_ttl_total":
            continue
        expected = {labels: value - BEFORE_OURS.get(name, 0) * (value > 2) for labels, value in judge.of(name).items()}
        uncalled = {labels for labels, value in subject.of(name).items() if not value and labels & LATE_SERVICES}
        assert {labels: value for labels, value in subject.of(name).items() if labels not in uncalled} == expected, name
        compared += len(expected)
    assert compared > 800
    assert subject.of("etcd_mvcc_put_total") == {frozenset(): 14}


def test_what_is_counted_otherwise_is_counted_right(real_etcd: RealEtcd, member: EtcdDoor) -> None:
    """The rows of KNOWN: how both differ, so that nothing else hides behind them."""
    took = "etcd_server_request_duration_seconds_count"
    before = Scrape(real_etcd.address).of(took)  # its start, and each time that it was asked for its health
    for one in (real_etcd, member):
        traffic(one.address)
    judge, subject = Scrape(real_etcd.address), Scrape(member.address)
    assert subject.of("etcd_debugging_mvcc_pending_events_total") == {frozenset(): 0}
    applied = "etcd_server_apply_duration_seconds_count"
    assert totals(subject, applied, "op") == {op: count for op, count in totals(judge, applied, "op").items() if op != "unknown"}
    failed = {labels: count for labels, count in subject.of(applied).items() if ("success", "false") in labels}
    theirs = {labels: count for labels, count in judge.of(applied).items() if ("success", "false") in labels}
    refused_compaction = frozenset({("op", "Compaction"), ("success", "false"), ("version", "v3")})
    assert failed == theirs | {refused_compaction: 1}
    for labels, sent in judge.of("grpc_server_msg_sent_total").items():
        if ("grpc_type", "unary") in labels:
            handled = judge.of("grpc_server_handled_total")
            errors = sum(count for one, count in handled.items() if labels < one and ("grpc_code", "OK") not in one)
            assert subject.of("grpc_server_msg_sent_total")[labels] == sent - errors, labels
    for labels, received in judge.of("grpc_server_msg_received_total").items():
        streams = judge.of("grpc_server_started_total")[labels] if ("grpc_type", "bidi_stream") in labels else 0
        assert subject.of("grpc_server_msg_received_total")[labels] == received - streams, labels
    theirs = {labels: count - before.get(labels, 0) for labels, count in judge.of(took).items()}
    theirs[frozenset({("type", "LeaseRevoke"), ("success", "true")})] -= 1  # one lease has expired
    own = {"ClusterVersionSet", "ClusterMemberAttrSet"}  # may come late
    theirs = {labels: count for labels, count in theirs.items() if count and dict(labels)["type"] not in own}
    assert subject.of(took) == theirs
    gates = {
        labels: value
        for labels, value in judge.of("etcd_server_feature_enabled").items()
        if ("name", "TxnModeWriteWithSharedBuffer") not in labels
    }
    assert subject.of("etcd_server_feature_enabled") == gates
    raised = {labels for labels, value in judge.of("etcd_debugging_server_alarms").items() if value}
    assert set(subject.of("etcd_debugging_server_alarms")) == raised


@pytest.mark.parametrize(("path", "api"), [("Watch/Watch", "watch"), ("Lease/LeaseKeepAlive", "lease-keepalive")])
def test_a_stream_whose_message_is_none_has_failed(path: str, api: str, real_etcd: RealEtcd, member: EtcdDoor) -> None:
    """A client that goes, or cancels, is no failure. etcd has the counter, but by the time it looks the call's context has ended, as if
    the client had gone: it never counts, and shows none."""
    name = "etcd_network_server_stream_failures_total"
    for one in (real_etcd, member):
        client = WireClient(one.address)
        for message in (b"\xff", b"", b""):
            call = client.begin(f"/etcdserverpb.{path}", message, end=False)
            client.wait_for(lambda call=call, message=message: call.done or call.messages or not message, "an answer")
            client.cancel(call)
        client.close()
    assert name not in Scrape(real_etcd.address).kinds
    assert Scrape(member.address).kinds[name] == "counter"
    assert Scrape(member.address).of(name) == {frozenset({("API", api), ("Type", "receive")}): 1}


def totals(scrape: Scrape, name: str, label: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for labels, value in scrape.of(name).items():
        found[dict(labels)[label]] = found.get(dict(labels)[label], 0) + value
    return found
