"""Registers all etcd services on a door: the one place that knows them together."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from raftsched.limits import GRPC_OVERHEAD_BYTES, REQUEST_BYTES_MAX, WATCH_PROGRESS_INTERVAL_MS
from raftsched.pb.etcd import rpc_pb2
from raftsched.pb.wellknown import health_pb2
from raftsched.ports import MemberNode, StoreNode, TokenSigner
from raftsched.rpc.etcd.access import Access
from raftsched.rpc.etcd.auth import AuthService
from raftsched.rpc.etcd.calls import Door
from raftsched.rpc.etcd.cluster import ClusterService
from raftsched.rpc.etcd.election import ElectionService
from raftsched.rpc.etcd.kv import KvService
from raftsched.rpc.etcd.lease import LeaseService
from raftsched.rpc.etcd.lock import LockService
from raftsched.rpc.etcd.maintenance import MaintenanceService
from raftsched.rpc.etcd.version import SERVER_VERSION
from raftsched.rpc.etcd.waiting import Recipes
from raftsched.rpc.etcd.watch import WatchService
from raftsched.rpc.metrics import Family, GrpcStats, Histogram, Kind, descriptor_families

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Engine

SERVICES: Final = (
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
)
"""What is not registered of these answers UNIMPLEMENTED "unknown method M for service S"."""


class EtcdServices:
    """The etcd v3 API of `node` on `engine`.

    `request_bytes_max` is --max-request-bytes (fragments of watch answers stay below it plus 512 KiB);
    `progress_interval_ms` draws the next progress interval of a watch stream; `leader_lost_ms` is three election time-outs;
    `extensive_metrics` is --etcd-metrics=extensive: the durations of calls, too. `token_signer`: of JWTs, None = simple tokens;
    `client_cert_auth`: who shows a verified certificate and no token is the user of its common name.
    """

    def __init__(
        self,
        engine: "Engine",
        node: StoreNode,
        *,
        request_bytes_max: int = REQUEST_BYTES_MAX,
        progress_interval_ms: Callable[[], float] = lambda: WATCH_PROGRESS_INTERVAL_MS,
        leader_lost_ms: int = 3_000,
        extensive_metrics: bool = False,
        token_signer: TokenSigner | None = None,
        client_cert_auth: bool = False,
    ) -> None:
        self.stats = GrpcStats(extensive=extensive_metrics)
        self.stats.announce((*rpc_pb2.DESCRIPTOR.services_by_name.values(), *health_pb2.DESCRIPTOR.services_by_name.values()))
        self._node = node
        access = Access(engine, node, signer=token_signer, client_cert_auth=client_cert_auth)
        door = Door(engine, node, self.stats, leader_lost_ms=leader_lost_ms, access=access)
        self.guard = door.guard
        self._requests = door.requests
        KvService(door)
        LeaseService(door)
        ClusterService(door)
        MaintenanceService(door)
        AuthService(door)
        self.watch = WatchService(
            door,
            message_bytes_max=request_bytes_max + GRPC_OVERHEAD_BYTES,
            progress_interval_ms=progress_interval_ms,
        )
        self.recipes = Recipes(door, self.watch.hub)
        LockService(door, self.recipes)
        ElectionService(door, self.recipes)
        for service in SERVICES:
            engine.add_unimplemented(service)

    def end_waiting(self) -> None:
        """The server stops: calls that wait for others' locks and leaders end now, and give up their places in line."""
        self.recipes.stop()

    def families(self) -> Iterator[Family]:
        """Everything that the etcd side has to tell Prometheus (rpc/metrics.py)."""
        yield from self.stats.families()
        yield from self._requests.families()
        yield from self.watch.families()
        yield from store_families(self._node)
        yield from descriptor_families()


def store_families(node: StoreNode) -> Iterator[Family]:
    """The store's own metrics: what `node` counts, and what follows from its face."""
    member = f"{node.member_id:x}"
    status = node.status()
    yield _labelled("etcd_server_version", "Which version is running.", {"server_version": SERVER_VERSION})
    if node.cluster_version:
        version = node.cluster_version.rpartition(".")[0]
        yield _labelled("etcd_cluster_version", "Which version of the cluster is running.", {"cluster_version": version})
    yield _labelled("etcd_server_id", "Server or member ID in hexadecimal format.", {"server_id": member})
    gauges = {
        "etcd_server_has_leader": float(bool(node.leader_id)),
        "etcd_server_is_leader": float(node.leader_id == node.member_id),
        "etcd_server_is_learner": float(status.is_learner),
        "etcd_server_proposals_committed_total": float(status.raft_index),
        "etcd_server_proposals_applied_total": float(status.applied_index),
        "etcd_server_quota_backend_bytes": float(status.quota),
        "etcd_mvcc_db_total_size_in_bytes": float(status.db_size),
        "etcd_debugging_mvcc_db_total_size_in_bytes": float(status.db_size),
        "etcd_mvcc_db_total_size_in_use_in_bytes": float(status.db_size_in_use),
        "etcd_debugging_mvcc_current_revision": float(node.mvcc.revision),
        "etcd_debugging_mvcc_compact_revision": float(node.mvcc.compact_revision),
        "etcd_debugging_mvcc_pending_events_total": 0.0,  # none is ever kept for a watcher that does not read
        "etcd_server_snapshot_apply_in_progress_total": 0.0,  # nobody is answered while a snapshot takes the database's place
        "etcd_debugging_auth_revision": float(node.auth.store.revision),
    }
    for name, value in gauges.items():
        yield Family(name, "gauge", HELP.get(name, name), (), {(): value})
    alarms: dict[tuple[str, ...], float | Histogram] = {
        (f"{one:x}", {1: "NOSPACE", 2: "CORRUPT"}.get(kind, str(kind))): 1.0 for one, kind in node.alarms()
    }
    yield Family("etcd_debugging_server_alarms", "gauge", "Raised alarms, by member and type.", ("server_id", "alarm_type"), alarms)
    if isinstance(node, MemberNode):
        failures: dict[tuple[str, ...], float | Histogram] = {(reason,): count for reason, count in node.promotion_failures().items()}
        name = "etcd_server_learner_promote_failures"
        yield Family(name, "counter", HELP[name], ("Reason",), failures)
    for name, value in node.counters().items():
        yield Family(name, "gauge" if name in GAUGES else "counter", HELP.get(name, name), (), {(): value})
    for name, histogram in node.histograms().items():
        yield Family(name, "histogram", HELP.get(name, name), (), {(): histogram})
    for name, (labels, found) in node.labelled().items():
        kind: Kind = "gauge" if name in GAUGES else "histogram" if name.endswith("_seconds") else "counter"
        yield Family(name, kind, HELP.get(name, name), labels, found)


def _labelled(name: str, text: str, labels: dict[str, str]) -> Family:
    return Family(name, "gauge", text, tuple(labels), {tuple(labels.values()): 1})


GAUGES: Final = frozenset(
    {
        "etcd_server_proposals_pending",
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_server_snapshot_apply_in_progress_total",
        "etcd_mvcc_db_open_read_transactions",
        "etcd_server_feature_enabled",
        "etcd_network_snapshot_send_inflights_total",
        "etcd_network_snapshot_receive_inflights_total",
        "etcd_debugging_mvcc_keys_total",
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "etcd_debugging_mvcc_pending_events_total",
        "etcd_debugging_mvcc_db_compaction_last",
        "etcd_debugging_auth_revision",
        "etcd_disk_wal_write_bytes_total",
        "etcd_disk_defrag_inflight",
    }
)
"""Names among `StoreNode.counters` that may fall, or that etcd declares as gauges although they end in _total."""

HELP: Final[dict[str, str]] = {
    "etcd_server_has_leader": "Whether or not a leader exists. 1 is existence, 0 is not.",
    "etcd_server_is_leader": "Whether or not this member is a leader. 1 if is, 0 otherwise.",
    "etcd_server_is_learner": "Whether or not this member is a learner. 1 if is, 0 otherwise.",
    "etcd_server_leader_changes_seen_total": "The number of leader changes seen.",
    "etcd_server_proposals_committed_total": "The total number of consensus proposals committed.",
    "etcd_server_proposals_applied_total": "The total number of consensus proposals applied.",
    "etcd_server_proposals_pending": "The current number of pending proposals to commit.",
    "etcd_server_proposals_failed_total": "The total number of failed proposals seen.",
    "etcd_server_quota_backend_bytes": "Current backend storage quota size in bytes.",
    "etcd_mvcc_db_total_size_in_bytes": "Total size of the underlying database physically allocated in bytes.",
    "etcd_debugging_mvcc_db_total_size_in_bytes": "Total size of the underlying database physically allocated in bytes.",
    "etcd_mvcc_db_total_size_in_use_in_bytes": "Total size of the underlying database logically in use in bytes.",
    "etcd_mvcc_put_total": "Total number of puts seen by this member.",
    "etcd_mvcc_delete_total": "Total number of deletes seen by this member.",
    "etcd_mvcc_range_total": "Total number of ranges seen by this member.",
    "etcd_mvcc_txn_total": "Total number of txns seen by this member.",
    "etcd_disk_wal_fsync_duration_seconds": "The latency distributions of fsync called by WAL.",
    "etcd_disk_backend_commit_duration_seconds": "The latency distributions of commit called by backend.",
    "etcd_disk_backend_defrag_duration_seconds": "The latency distribution of backend defragmentation.",
    "etcd_disk_backend_snapshot_duration_seconds": "The latency distribution of backend snapshots.",
    "etcd_disk_defrag_inflight": "Whether or not defrag is active on the member. 1 means active, 0 means not.",
    "etcd_disk_wal_write_bytes_total": "Total number of bytes written in WAL.",
    "etcd_mvcc_hash_duration_seconds": "The latency distribution of storage hash operation.",
    "etcd_mvcc_hash_rev_duration_seconds": "The latency distribution of storage hash by revision operation.",
    "etcd_debugging_mvcc_total_put_size_in_bytes": "The total size of put kv pairs seen by this member.",
    "etcd_debugging_mvcc_keys_total": "Total number of keys.",
    "etcd_debugging_mvcc_db_compaction_last": "The unix time of the last db compaction. Resets to 0 on start.",
    "etcd_server_heartbeat_send_failures_total": "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
    "etcd_server_learner_promote_successes": "The total number of successful learner promotions while this member is leader.",
    "etcd_server_learner_promote_failures": (
        "The total number of failed learner promotions (likely learner not ready) while this member is leader."
    ),
    "etcd_server_read_indexes_failed_total": "The total number of failed read indexes seen.",
    "etcd_server_slow_read_indexes_total": "The total number of read index requests that timed out.",
    "etcd_debugging_mvcc_pending_events_total": "Total number of pending events to be sent.",
    "etcd_server_snapshot_apply_in_progress_total": "1 if the server is applying the incoming snapshot. 0 if none.",
    "etcd_snap_fsync_duration_seconds": "The latency distributions of fsync called by snap.",
    "etcd_debugging_auth_revision": "The current revision of auth store.",
    "etcd_server_feature_enabled": "Whether or not a feature is enabled. 1 is enabled, 0 is not.",
    "etcd_server_apply_duration_seconds": "The latency distributions of v2 apply called by backend.",
    "etcd_server_range_duration_seconds": "The latency distributions of txn.Range",
    "etcd_disk_wal_write_duration_seconds": "The latency distributions of write called by WAL.",
    "etcd_mvcc_db_open_read_transactions": "The number of currently open read transactions",
    "etcd_debugging_lease_ttl_total": "Bucketed histogram of lease TTLs.",
    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds": "Bucketed histogram of index compaction pause duration.",
    "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds": "Bucketed histogram of db compaction total duration.",
    "etcd_debugging_snap_save_total_duration_seconds": "The total latency distributions of save called by snapshot.",
    "etcd_debugging_mvcc_current_revision": "The current revision of store.",
    "etcd_debugging_mvcc_compact_revision": "The revision of the last compaction in store.",
    "etcd_server_slow_apply_total": "The total number of slow apply requests (likely overloaded from slow disk).",
    "etcd_debugging_mvcc_db_compaction_keys_total": "Total number of db keys compacted.",
    "etcd_debugging_lease_granted_total": "The total number of granted leases.",
    "etcd_debugging_lease_revoked_total": "The total number of revoked leases.",
    "etcd_debugging_lease_renewed_total": "The number of renewed leases seen by the leader.",
    "etcd_debugging_server_lease_expired_total": "The total number of expired leases.",
    "etcd_network_snapshot_send_success": "Total number of successful snapshot sends",
    "etcd_network_snapshot_send_failures": "Total number of snapshot send failures",
    "etcd_network_snapshot_send_inflights_total": "Total number of inflight snapshot sends",
    "etcd_network_snapshot_send_total_duration_seconds": "Total latency distributions of v3 snapshot sends",
    "etcd_network_snapshot_receive_success": "Total number of successful snapshot receives",
    "etcd_network_snapshot_receive_failures": "Total number of snapshot receive failures",
    "etcd_network_snapshot_receive_inflights_total": "Total number of inflight snapshot receives",
    "etcd_network_snapshot_receive_total_duration_seconds": "Total latency distributions of v3 snapshot receives",
}
