"""What a node counts and measures, under etcd's names.

Must not know: Prometheus, the pump.
"""

from collections.abc import Mapping, Sequence

from raftsched.store.node.flush import Flusher
from raftsched.store.node.metrics import APPLY_BOUNDS, ETCD_DISK_BOUNDS, SNAPSHOT_BOUNDS, Histogram
from raftsched.store.node.opening import Member
from raftsched.store.quota import Quota
from raftsched.store.raft._kernel import Kernel
from raftsched.store.replica import LEADER

Samples = tuple[Sequence[tuple[float, int]], float]
"""Of a histogram: cumulative counts by upper bound, and the sum."""


class Figures:
    """The driver adds to it, a scrape reads it."""

    def __init__(self) -> None:
        self.fsync_seconds = Histogram(ETCD_DISK_BOUNDS)  # from handing a batch over until the loop knows that it is synced
        self.apply_seconds = Histogram(APPLY_BOUNDS)
        self.snapshot_seconds = Histogram(SNAPSHOT_BOUNDS)  # of Maintenance.Snapshot, from the call to the end of its stream
        self.slow_apply_total = 0
        self.callback_failures_total = 0
        self.late_heartbeats_total = 0
        self._beat_ms = 0  # when the last heartbeats left; 0 = none since this member leads

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
            "etcd_server_quota_backend_bytes": quota.limit_bytes,
            "etcd_server_read_indexes_failed_total": replica.reading.failed_total,
            "etcd_server_slow_read_indexes_total": replica.reading.timed_out_total,
        }

    def _of_disk(self, member: Member, flusher: Flusher) -> Mapping[str, float]:
        return {
            "etcd_mvcc_db_total_size_in_bytes": member.backend.size_bytes,
            "etcd_mvcc_db_total_size_in_use_in_bytes": member.backend.in_use_bytes,
            "etcd_disk_defrag_inflight": float(flusher.defragmenting),
            "etcd_disk_wal_write_bytes_total": member.log.written_bytes,
            "raftsched_store_callback_failures_total": self.callback_failures_total,
            "raftsched_wal_sync_total": member.log.sync_count,
            "raftsched_wal_room_bytes": member.log.room_bytes,
        }

    def histograms(self, flusher: Flusher) -> Mapping[str, Samples]:
        """See `ports.StoreNode`."""
        return {
            "etcd_disk_wal_fsync_duration_seconds": self.fsync_seconds.sample(),
            "etcd_disk_backend_commit_duration_seconds": flusher.commit_seconds.sample(),
            "etcd_disk_backend_defrag_duration_seconds": flusher.defragment_seconds.sample(),
            "etcd_disk_backend_snapshot_duration_seconds": self.snapshot_seconds.sample(),
            "etcd_mvcc_hash_duration_seconds": flusher.hash_seconds.sample(),
            "etcd_mvcc_hash_rev_duration_seconds": flusher.hash_kv_seconds.sample(),
            "raftsched_apply_batch_duration_seconds": self.apply_seconds.sample(),
        }


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
