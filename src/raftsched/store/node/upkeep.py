"""What a node sees to by itself now and then: the alarm for space; at the leader leases that ran out, compaction, the cluster's version.

Invariant: whatever it changes goes through the log.
Must not know: the pump; connections.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from raftsched import limits, proposals
from raftsched.errors import EtcdError
from raftsched.ports import Log as LogPort
from raftsched.store import alarm
from raftsched.store.codec import text_field, varint_field
from raftsched.store.membership import encode_downgrade
from raftsched.store.node.compaction import AutoCompactor, history_full
from raftsched.store.node.flush import Flusher
from raftsched.store.node.opening import Member
from raftsched.store.node.options import NodeOptions
from raftsched.store.node.peering import Peering
from raftsched.store.node.sinks import AnswerTo, CompactionEnd, Revocations
from raftsched.store.node.versions import version_key
from raftsched.store.quota import Quota
from raftsched.store.replica import LEADER
from raftsched.types import INTERNAL, NOBODY, Identity, ResultSink

INTERVAL_MS = 500
NEVER_MS = -(10**9)


class NodePort(Protocol):
    """What is used of the driver."""

    def mono_ms(self) -> int: ...
    def propose_many(
        self,
        kind: int,
        messages: Sequence[bytes],
        tokens: Sequence[int],
        sink: ResultSink,
        *,
        identity: Identity = NOBODY,
        term: int = 0,
    ) -> None:
        """`term`: see `replica.Propose`."""

    def propose_own(self, kind: int, message: bytes, sink: ResultSink | None = None) -> None:
        """Past the door."""


class Upkeep:
    """See the module's text."""

    def __init__(
        self, node: NodePort, member: Member, options: NodeOptions, *, flusher: Flusher, quota: Quota, peering: Peering | None, log: LogPort
    ) -> None:
        self._node, self._member, self._options = node, member, options
        self._flusher, self._quota, self._peering, self._log = flusher, quota, peering, log
        self._compactor = AutoCompactor(options.compaction_mode, options.compaction_retention, node.mono_ms())
        self._compaction_asked = 0
        self._no_space_asked_ms = NEVER_MS  # when the last one was asked for that was not raised: not more often than INTERVAL_MS
        self._alarm_asked = False  # proposed, and not answered yet
        self._refusals: list[Callable[[], None]] = []
        self._grown = self._growth()  # when space was looked at last
        self._version_asked = False

    def tick(self, now_ms: int) -> None:
        """Each `INTERVAL_MS`, once the node is ready."""
        self._check_space(now_ms)
        if self._member.replica.kernel.state == LEADER:
            self._expire_leases(now_ms)
            self._compact(now_ms)
            self._decide_version()

    # -- space

    def _check_space(self, now_ms: int) -> None:
        """What other members have let through grows here too; what only frees space raises nothing, as in etcd."""
        grown = self._growth()
        if grown != self._grown and self._quota.over(1, self._flusher.used_bytes):
            self._flusher.measure()  # the alarm stays until it is cleared by hand: never on an estimate
            if self._quota.over(1, self._flusher.used_bytes) and not self.raise_no_space(now_ms):
                return  # looks again
        self._grown = grown

    def _growth(self) -> int:
        """Puts and leases applied in this life."""
        return self._member.store.put_total + self._member.applier.lessor.granted_total

    def raise_no_space(self, now_ms: int) -> bool:
        """Proposes the alarm, which stays until it is cleared by hand; False: not so soon after one that could not be raised."""
        own_id, raised = self._member.member_id, self._member.applier.alarms.raised()
        if (own_id, alarm.NOSPACE) in raised or self._alarm_asked:
            return True
        if now_ms - self._no_space_asked_ms < INTERVAL_MS:
            return False
        self._no_space_asked_ms, self._alarm_asked = now_ms, True
        self._log.warning("the space quota is used up, raising the alarm", used=self._flusher.used_bytes, quota=self._quota.limit_bytes)
        self._node.propose_own(proposals.ALARM, alarm.encode_request(alarm.ACTIVATE, own_id, alarm.NOSPACE), AnswerTo(self._on_alarm))
        return True

    def after_alarm(self, refuse: Callable[[], None]) -> None:
        """Who is refused for want of space is told so when the alarm stands, as in etcd: then everybody can see why."""
        if self._alarm_asked and len(self._refusals) < limits.REFUSALS_WAITING_MAX:
            self._refusals.append(refuse)
        else:
            refuse()

    def _on_alarm(self, error: int) -> None:
        self._alarm_asked = False
        if not error:
            self._no_space_asked_ms = NEVER_MS  # once it is cleared it may be raised again at once
        refusals, self._refusals = self._refusals, []
        for refuse in refusals:
            refuse()

    # -- at the leader

    def _expire_leases(self, now_ms: int) -> None:
        lessor = self._member.applier.lessor
        over = lessor.expired(now_ms) if lessor.primary else []
        if over:
            messages = [varint_field(1, lease) for lease in over]
            # the next leader gives every lease its full time again: what is over here is not over there
            term = self._member.replica.kernel.term
            self._node.propose_many(proposals.LEASE_REVOKE, messages, over, Revocations(lessor.retry), identity=INTERNAL, term=term)

    def _compact(self, now_ms: int) -> None:
        """The documented retention, and the bound on history beyond it."""
        store = self._member.store
        target = self._compactor.due(now_ms, store.revision)
        if target and target <= store.compact_revision:
            self._compactor.done(now_ms, target)
            target = 0
        target = target or self._history_target()
        if target > max(store.compact_revision, 0) and not self._compaction_asked:
            self._compaction_asked = target
            self._node.propose_many(
                proposals.COMPACTION, [varint_field(1, target)], [target], CompactionEnd(self._compaction_done), identity=INTERNAL
            )

    def _history_target(self) -> int:
        """Where to compact to because history takes too much; 0 = it does not."""
        store, bound = self._member.store, self._member.bound_bytes
        if not self._options.history_bound or self._flusher.scrubbing or self._compaction_asked:
            return 0
        if not history_full(store.superseded_count, store.key_count, self._flusher.used_bytes, bound):
            return 0
        target = store.oldest_revision_keeping(limits.SUPERSEDED_RECORDS_KEPT)
        if target <= store.compact_revision:
            return 0
        self._log.info("history is full, compacting", revision=target, superseded=store.superseded_count)
        return target

    def _compaction_done(self, revision: int, error: int) -> None:
        self._compaction_asked = 0
        if error in (EtcdError.OK, EtcdError.COMPACTED):
            self._compactor.done(self._node.mono_ms(), revision)
        else:
            self._log.warning("automatic compaction failed", revision=revision, error=EtcdError(error).name)

    def _decide_version(self) -> None:
        """The cluster's version is the lowest of its members', and rises when all run a newer one; or the target of a downgrade, which is
        over once all run that."""
        members = self._member.applier.membership
        present, target, own = members.cluster_version, members.downgrade_target, self._options.cluster_version
        if not present or self._version_asked:
            return
        if target and target == own and (self._peering is None or self._peering.all_run(target)):
            self._propose("the downgrade is complete", proposals.DOWNGRADE_INFO_SET, encode_downgrade(""), version=target)
            return
        wanted = target or (own if self._peering is None else self._peering.lowest_version(own))
        if wanted is not None and version_key(wanted) > version_key(present):
            self._propose("raising the cluster version", proposals.CLUSTER_VERSION_SET, text_field(1, wanted), old=present, new=wanted)
        elif target and target != present:
            self._propose("lowering the cluster version", proposals.CLUSTER_VERSION_SET, text_field(1, target), old=present, new=target)

    def _propose(self, line: str, kind: int, message: bytes, **fields: str) -> None:
        self._version_asked = True
        self._log.info(line, **fields)
        self._node.propose_own(kind, message, AnswerTo(self._on_version))

    def _on_version(self, _error: int) -> None:
        self._version_asked = False
