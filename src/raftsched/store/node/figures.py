"""What a node counts and measures, under etcd's names.

What concerns every request is counted per run of entries, or per batch of reads, and shared out evenly among its requests: sums and counts
are exact, buckets hold means.
Must not know: Prometheus, the pump.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

from raftsched.ports import Labelled
from raftsched.store.apply import NOTHING
from raftsched.store.node.flush import Flusher
from raftsched.store.node.metrics import APPLY_BOUNDS, ETCD_DISK_BOUNDS, SNAPSHOT_BOUNDS, TTL_BOUNDS, Histogram, Samples, cumulative
from raftsched.store.node.opening import Member
from raftsched.store.node.snapshots import Snapshots
from raftsched.store.quota import Quota
from raftsched.store.raft._kernel import Kernel
from raftsched.store.replica import LEADER
from raftsched.types import Result

OPERATIONS = {
    4: "Put",
    5: "DeleteRange",
    6: "Txn",
    7: "Compaction",
    8: "LeaseGrant",
    9: "LeaseRevoke",
    10: "Alarm",
    1000: "AuthEnable",
    1011: "AuthDisable",
    1012: "Authenticate",
    1100: "AuthUserAdd",
    1101: "AuthUserDelete",
    1103: "AuthUserChangePassword",
    1104: "AuthUserGrantRole",
    1105: "AuthUserRevokeRole",
    1200: "AuthRoleAdd",
    1201: "AuthRoleDelete",
    1203: "AuthRoleGrantPermission",
    1204: "AuthRoleRevokePermission",
    1300: "ClusterVersionSet",
    1301: "ClusterMemberAttrSet",
    1302: "DowngradeInfoSet",
}
"""Kind of request -> etcd's label `op`."""

error_of = itemgetter(0)


def failures(results: Sequence[Result]) -> int:
    return sum(map(bool, map(error_of, results))) if any(map(error_of, results)) else 0


class Figures:
    """The driver adds to it, a scrape reads it."""

    def __init__(self, mono_ns: Callable[[], int]) -> None:
        self._mono_ns = mono_ns
        self._metered_ns = 0
        self._operations: dict[tuple[int, bool], Histogram] = {}  # by kind and success
        self._ranges = {True: Histogram(APPLY_BOUNDS), False: Histogram(APPLY_BOUNDS)}  # by success
        self._lease_ttl_s = Histogram(TTL_BOUNDS)
        self.apply_seconds = Histogram(APPLY_BOUNDS)
        self.snapshot_seconds = Histogram(SNAPSHOT_BOUNDS)  # of Maintenance.Snapshot, from the call to the end of its stream
        self.slow_apply_total = 0
        self.callback_failures_total = 0
        self.late_heartbeats_total = 0
        self._beat_ms = 0  # when the last heartbeats left; 0 = none since this member leads

    def watch(self, member: Member) -> None:
        """Measures what this member applies from here on."""
        member.applier.meter = self._applied
        member.applier.lessor.on_granted = self._lease_ttl_s.observe

    def _applied(self, kind: int, results: Sequence[Result]) -> None:
        """See `apply.Meter`."""
        now_ns = self._mono_ns()
        if kind != NOTHING:
            seconds = (now_ns - self._metered_ns) / 1e9 / len(results)
            failed = failures(results)
            if failed:
                self._operation(kind, succeeded=False).observe(seconds, failed)
            if failed < len(results):
                self._operation(kind, succeeded=True).observe(seconds, len(results) - failed)
        self._metered_ns = now_ns

    def _operation(self, kind: int, *, succeeded: bool) -> Histogram:
        found = self._operations.get((kind, succeeded))
        if found is None:
            found = self._operations[kind, succeeded] = Histogram(APPLY_BOUNDS)
        return found

    def ranged(self, results: Sequence[Result], seconds: float) -> None:
        """A batch of ranges was served."""
        seconds /= len(results) or 1
        failed = failures(results)
        if failed:
            self._ranges[False].observe(seconds, failed)
        if failed < len(results):
            self._ranges[True].observe(seconds, len(results) - failed)

    def note_heartbeats(self, kernel: Kernel, now_ms: int, interval_ms: int) -> None:
        """They leave now, if it is the leader. Late is, as in etcd, later than two intervals after the last; counted for each receiver."""
        receivers = len(kernel.voter_ids) + len(kernel.learner_ids) - 1 if kernel.state == LEADER else 0
        if receivers and self._beat_ms and now_ms - self._beat_ms > 2 * interval_ms:
            self.late_heartbeats_total += receivers
        self._beat_ms = now_ms if receivers else 0

    def counters(self, member: Member, quota: Quota, flusher: Flusher) -> Mapping[str, float]:
        """See `ports.StoreNode`; without those of several members (`Clustering.counters`)."""
        return {**self._of_server(member, quota), **_of_store(member, flusher), **self._of_disk(member, flusher)}

    def _of_server(self, member: Member, quota: Quota) -> Mapping[str, float]:
        replica = member.replica
        kernel = replica.kernel
        return {
            "etcd_server_has_leader": float(kernel.leader != 0),
            "etcd_server_is_leader": float(kernel.state == LEADER),
            "etcd_server_is_learner": float(member.member_id in kernel.learner_ids),
            "etcd_server_leader_changes_seen_total": replica.leader_changes_total,
            "etcd_server_proposals_committed_total": kernel.commit,
            "etcd_server_proposals_applied_total": kernel.applied,
            "etcd_server_proposals_pending": replica.pending,
            "etcd_server_proposals_failed_total": replica.proposals_failed_total,
            "etcd_server_slow_apply_total": self.slow_apply_total,
            "etcd_server_heartbeat_send_failures_total": self.late_heartbeats_total,
            "etcd_server_read_indexes_failed_total": replica.reading.failed_total,
            "etcd_server_slow_read_indexes_total": replica.reading.timed_out_total,
        }

    def _of_disk(self, member: Member, flusher: Flusher) -> Mapping[str, float]:
        return {
            "etcd_mvcc_db_total_size_in_bytes": member.backend.size_bytes,
            "etcd_mvcc_db_total_size_in_use_in_bytes": member.backend.in_use_bytes,
            "etcd_disk_defrag_inflight": float(flusher.defragmenting),
            "etcd_disk_wal_write_bytes_total": member.log.written_bytes,
            "etcd_mvcc_db_open_read_transactions": flusher.open_reads,
            "raftsched_store_callback_failures_total": self.callback_failures_total,
            "raftsched_wal_sync_total": member.log.sync_count,
            "raftsched_wal_room_bytes": member.log.room_bytes,
        }

    def histograms(self, member: Member, flusher: Flusher, snapshots: Snapshots) -> Mapping[str, Samples]:
        """See `ports.StoreNode`."""
        (writes, write_s), (syncs, sync_s) = member.log.durations()
        return {
            "etcd_disk_wal_write_duration_seconds": cumulative(ETCD_DISK_BOUNDS, writes, write_s),
            "etcd_disk_wal_fsync_duration_seconds": cumulative(ETCD_DISK_BOUNDS, syncs, sync_s),
            "etcd_disk_backend_commit_duration_seconds": flusher.commit_seconds.sample(),
            "etcd_disk_backend_defrag_duration_seconds": flusher.defragment_seconds.sample(),
            "etcd_disk_backend_snapshot_duration_seconds": self.snapshot_seconds.sample(),
            "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds": flusher.scrub_pause_ms.sample(),
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds": flusher.scrub_ms.sample(),
            "etcd_debugging_lease_ttl_total": self._lease_ttl_s.sample(),
            "etcd_debugging_snap_save_total_duration_seconds": snapshots.save_seconds.sample(),
            "etcd_snap_fsync_duration_seconds": snapshots.sync_seconds.sample(),
            "etcd_mvcc_hash_duration_seconds": flusher.hash_seconds.sample(),
            "etcd_mvcc_hash_rev_duration_seconds": flusher.hash_kv_seconds.sample(),
            "raftsched_apply_batch_duration_seconds": self.apply_seconds.sample(),
        }

    def labelled(self, features: Mapping[tuple[str, str], bool]) -> Labelled:
        """See `ports.StoreNode`."""
        operations: dict[tuple[str, ...], float | Samples] = {
            (OPERATIONS.get(kind, "unknown"), _truth(succeeded), "v3"): one.sample() for (kind, succeeded), one in self._operations.items()
        }
        ranges: dict[tuple[str, ...], float | Samples] = {(_truth(succeeded),): one.sample() for succeeded, one in self._ranges.items()}
        return {
            "etcd_server_apply_duration_seconds": (("op", "success", "version"), operations),
            "etcd_server_range_duration_seconds": (("success",), ranges),
            "etcd_server_feature_enabled": (("name", "stage"), {one: float(enabled) for one, enabled in features.items()}),
        }


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _of_store(member: Member, flusher: Flusher) -> Mapping[str, float]:
    store, lessor = member.store, member.applier.lessor
    return {
        "etcd_mvcc_put_total": store.put_total,
        "etcd_mvcc_delete_total": store.delete_total,
        "etcd_mvcc_range_total": store.range_total,
        "etcd_mvcc_txn_total": store.txn_total,
        "etcd_debugging_mvcc_total_put_size_in_bytes": store.put_bytes_total,
        "etcd_debugging_mvcc_keys_total": store.key_count,
        "etcd_debugging_mvcc_db_compaction_last": flusher.compacted_at_s,
        "etcd_debugging_mvcc_db_compaction_keys_total": flusher.scrubbed_keys_total,
        "etcd_debugging_lease_granted_total": lessor.granted_total,
        "etcd_debugging_lease_revoked_total": lessor.revoked_total,
        "etcd_debugging_lease_renewed_total": lessor.renewed_total,
        "etcd_debugging_server_lease_expired_total": lessor.expired_total,
    }
