"""What a node shows that needs no turn of the pump: who it is, its changes of data and of members, leases, maintenance, figures.

`Node` adds its life, writes and reads, and is a `ports.StoreNode` and a `ports.MemberNode` with it.
Must not know: when anything is proposed or applied.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from raftsched.errors import EtcdError, FatalError, GrpcCode, StatusError, status_of
from raftsched.ports import ChangeSink, Duties, Labelled, StoreStatus
from raftsched.store.codec import Headers
from raftsched.store.host import ReplicationHost
from raftsched.store.membership import ADD_LEARNER, ADD_NODE, REMOVE_NODE
from raftsched.store.mvcc._store import MvccStore
from raftsched.store.node.authentication import Authentication
from raftsched.store.node.callbacks import ChangeSinks
from raftsched.store.node.clustering import Clustering
from raftsched.store.node.downgrading import Downgrading
from raftsched.store.node.figures import Figures
from raftsched.store.node.flush import Flusher
from raftsched.store.node.leases import Leases
from raftsched.store.node.members import Change
from raftsched.store.node.metrics import Samples
from raftsched.store.node.opening import Member
from raftsched.store.node.options import Clock, NodeOptions
from raftsched.store.node.room import Room
from raftsched.store.node.snapshots import Snapshots
from raftsched.store.quota import Quota
from raftsched.store.raft._kernel import Kernel
from raftsched.store.replica import LEADER, Replica
from raftsched.store.snapshot.exporting import Export, Exports, describe
from raftsched.types import MemberInfo


class Face(ABC):
    """See the module's text. The driver fills in what is named here before anything is asked."""

    _options: NodeOptions
    _clock: Clock
    _member: Member
    _replica: Replica
    _kernel: Kernel
    _store: MvccStore
    _headers: Headers
    _quota: Quota
    _flusher: Flusher
    _exports: Exports
    _snapshots: Snapshots
    _host: ReplicationHost
    _clustering: Clustering
    _room: Room
    _leases: Leases
    _auth: Authentication
    _figures: Figures
    _change_sinks: ChangeSinks

    @abstractmethod
    def fail(self, error: Exception) -> None: ...
    @abstractmethod
    def read_barrier(self) -> Awaitable[None]: ...
    @abstractmethod
    def propose_and_wait(self, kind: int, message: bytes) -> Awaitable[int]: ...
    @property
    @abstractmethod
    def is_up(self) -> bool:
        """Whether it is started, has not failed, and its incarnation is not over."""

    # -- time

    def mono_ms(self) -> int:
        return self._clock.mono_ns() // 1_000_000

    def mono_ns(self) -> int:
        return self._clock.mono_ns()

    def wall_ms(self) -> int:
        return self._clock.wall_ms()

    # -- identity

    @property
    def member_id(self) -> int:
        return self._member.member_id

    @property
    def cluster_id(self) -> int:
        return self._member.cluster_id

    @property
    def term(self) -> int:
        return self._kernel.term

    @property
    def leader_id(self) -> int:
        return self._kernel.leader

    @property
    def is_learner(self) -> bool:
        learners = self._kernel.learner_ids
        return bool(learners) and self._member.member_id in learners

    @property
    def stays_learner(self) -> bool:
        """Whether it was added as a learner, so that somebody else is to promote it."""
        me = self._member.applier.membership.member(self.member_id)
        return me is not None and me.stays_learner

    @property
    def revision(self) -> int:
        return self._store.revision

    @property
    def mvcc(self) -> MvccStore:
        return self._store

    @property
    def host(self) -> ReplicationHost:
        """For its status alone."""
        return self._host

    def header(self, revision: int) -> bytes:
        return self._headers.encode(revision)

    def members(self) -> Sequence[MemberInfo]:
        return self._member.applier.membership.members()

    @property
    def cluster_version(self) -> str:
        return self._member.applier.membership.cluster_version

    def add_change_sink(self, sink: ChangeSink) -> Callable[[], None]:
        """See `ports.StoreNode`."""
        return self._change_sinks.add(sink)

    # -- the cluster's changes

    async def change_members(self, change: int, member_id: int, peer_urls: Sequence[str], *, is_learner: bool) -> Sequence[MemberInfo]:
        """See `ports.MemberNode`."""
        kind = ADD_LEARNER if change == ADD_NODE and is_learner else change
        return await self._clustering.changes.change(Change(kind, member_id, tuple(peer_urls), stays=kind == ADD_LEARNER))

    async def leave(self) -> Sequence[MemberInfo]:
        """See `ports.MemberNode`."""
        if self._options.wal_dir:
            raise StatusError(GrpcCode.FAILED_PRECONDITION, "a member with --wal-dir is removed by another one: its log is not set aside")
        changes, removal = self._clustering.changes, Change(REMOVE_NODE, self.member_id)
        return await self._clustering.leaving.leave(changes.may_leave, lambda: changes.change(removal))

    def set_duties(self, duties: Duties) -> None:
        """What this member gives away before it leaves. After `start`."""
        self._clustering.leaving.duties = duties

    async def promote(self, member_id: int) -> Sequence[MemberInfo]:
        """See `ports.MemberNode`."""
        return await self._clustering.changes.change(Change(ADD_NODE, member_id, promotion=True))

    def promotion_failures(self) -> Mapping[str, int]:
        """See `ports.MemberNode`."""
        return self._clustering.changes.promotion_failures

    async def move_leader(self, member_id: int) -> None:
        """See `ports.MemberNode`."""
        if self._kernel.state != LEADER:
            raise status_of(EtcdError.NOT_LEADER)
        if member_id not in self._kernel.voter_ids:
            raise status_of(EtcdError.BAD_LEADER_TRANSFEREE)
        if not await self._clustering.transfer(member_id):
            raise status_of(EtcdError.TIMEOUT_LEADER_TRANSFER)

    @property
    def reaches_majority(self) -> bool:
        """Whether this member and those that it is connected to are a majority: else nothing is committed, and who stops need not wait."""
        return self.is_up and self._clustering.reaches_majority

    # -- who is alive

    def fence_ms(self) -> int:
        """See `ports.StoreNode`."""
        return self._replica.fence.until_ms(self._kernel.applied)

    def waiting_since_ms(self) -> int:
        """See `ports.StoreNode`."""
        return self._replica.waiting_since_ms()

    def peers(self) -> Sequence[int]:
        """See `ports.StoreNode`."""
        return self._replica.fence.present(self.mono_ms(), self._options.election_ms_min)

    def dead(self, names: Collection[str]) -> Collection[str]:
        """See `ports.StoreNode`."""
        return self._clustering.dead(names)

    # -- leases

    def next_lease_id(self) -> int:
        lease = self._replica.ids.lease_id()
        while self._member.applier.lessor.exists(lease):  # the clock was set back between two lives
            lease = self._replica.ids.lease_id()
        return lease

    async def lease_renew(self, lease: int) -> int:
        """See `ports.StoreNode`."""
        return await self._leases.renew(lease)

    def lease_answer_now(self, message: bytes) -> bytes | None:
        """See `ports.StoreNode`."""
        return self._leases.answer_now(message)

    async def lease_time_to_live(self, lease: int, *, keys: bool) -> tuple[int, int, Sequence[bytes]]:
        """See `ports.StoreNode`."""
        return await self._leases.time_to_live(lease, keys=keys)

    async def lease_ids(self) -> Sequence[int]:
        return self._member.applier.lessor.ids()

    # -- authentication

    @property
    def auth(self) -> Authentication:
        """See `ports.StoreNode`."""
        return self._auth

    # -- maintenance

    def alarms(self) -> Sequence[tuple[int, int]]:
        return self._member.applier.alarms.raised()

    def status(self) -> StoreStatus:
        backend = self._member.backend
        return StoreStatus(
            db_size=backend.size_bytes,
            db_size_in_use=backend.in_use_bytes,
            quota=self._quota.limit_bytes or self._options.quota_bytes,  # below 0 = none
            raft_index=self._kernel.commit,
            applied_index=self._kernel.applied,
            is_learner=self.is_learner,
            downgrade_target=self._member.applier.membership.downgrade_target,
        )

    async def downgrade(self, action: int, version: str) -> str:
        """See `ports.MemberNode`."""
        return await Downgrading(self._member.applier.membership, self.read_barrier, self.propose_and_wait).ask(action, version)

    async def scrubbed(self) -> None:
        await self._flusher.scrubbed()

    async def defragment(self) -> None:
        try:
            await self._flusher.defragment()
        except FatalError as error:
            self.fail(error)
            raise StatusError(GrpcCode.INTERNAL, str(error)) from error

    async def hash(self) -> int:
        return await self._flusher.hash(describe)

    async def hash_kv(self, revision: int) -> tuple[int, int, int]:
        """See `ports.StoreNode`."""
        return await self._flusher.hash_kv(revision)

    async def snapshot(self) -> Export:
        """See `ports.StoreNode`."""
        return await self._exports.open()

    async def settle(self) -> None:
        """Done when all that is applied now is in LMDB (before a snapshot is taken)."""
        await self._flusher.settle()

    def counters(self) -> Mapping[str, float]:
        """See `ports.StoreNode`."""
        counted = self._figures.counters(self._member, self._quota, self._flusher)
        return {**counted, **self._clustering.counters(), **self._room.counters()}

    def histograms(self) -> Mapping[str, Samples]:
        """See `ports.StoreNode`."""
        return self._figures.histograms(self._member, self._flusher, self._snapshots)

    def labelled(self) -> Labelled:
        """See `ports.StoreNode`."""
        return {**self._figures.labelled(self._options.features), **self._clustering.labelled()}
