"""What a node does because there are other members: changes of the membership, members that are behind, snapshots that arrive.

Invariant: a snapshot is installed only while nothing is applied or written any more; what comes after is a new incarnation of the node.
Must not know: the pump; frames; Raft's rules.
"""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Protocol

from raftsched import proposals
from raftsched.errors import FatalError, IncarnationOverError, NoSpaceError, PeerCode, PeerError
from raftsched.limits import FENCE_SILENT_MS
from raftsched.ports import Labelled
from raftsched.ports import Log as LogPort
from raftsched.store import membership
from raftsched.store.membership import Membership
from raftsched.store.node.catch_up import CatchUp
from raftsched.store.node.flush import Flusher
from raftsched.store.node.gone import Gone
from raftsched.store.node.leaving import Leaving
from raftsched.store.node.members import Identity, MembershipChanges
from raftsched.store.node.numbering import Numbering
from raftsched.store.node.opening import Member
from raftsched.store.node.options import NodeOptions
from raftsched.store.node.peering import Peering
from raftsched.store.node.receiving import Receiving, install_received
from raftsched.store.node.sinks import Waiter
from raftsched.store.node.versions import check_version
from raftsched.store.raft._kernel import Kernel
from raftsched.store.reconfigure import Rules, View
from raftsched.store.replica import LEADER, Event, Propose, ProposeChange, Transfer
from raftsched.store.snapshot.install import Stored
from raftsched.store.snapshot.outgoing import Outgoing
from raftsched.store.transport.ports import CHANGE_MEMBERS, MAY_LEAVE, PROMOTE, SNAPSHOT

LOOK_S = 0.005  # how often a transfer of leadership is looked at


class NodePort(Identity, Protocol):
    """What is used of the driver."""

    def take_event(self, event: Event, *, at_once: bool = False) -> None:
        """Queues it; `at_once`: the step is taken within the call."""

    def mono_ms(self) -> int: ...
    def mono_ns(self) -> int: ...
    def wall_ms(self) -> int: ...
    def wake(self) -> None: ...
    def read_barrier(self) -> Awaitable[None]: ...
    def end_incarnation(self, line: str) -> bool:
        """Nothing is applied or written any more; a new incarnation is asked for. False: it was over before, or has failed."""

    def fail(self, error: Exception) -> None: ...


class Clustering:
    """One member's dealings with the cluster; also a lone one's, who may get company. FatalError: it is older than the cluster."""

    def __init__(
        self, node: NodePort, member: Member, options: NodeOptions, flusher: Flusher, peering: Peering | None, log: LogPort
    ) -> None:
        self._node = node
        self._member = member
        self._own_id = member.member_id
        self._kernel: Kernel = member.replica.kernel
        self._peering = peering
        self._log = log
        self._election_ms = options.election_ms_max
        self._connected_since: dict[int, int] = {}
        self._gone = Gone()
        rules = Rules(strict=options.strict_reconfig_check, learners_max=options.learners_max)
        self.changes = MembershipChanges(
            node, self, rules, cluster_token=options.cluster_token, request_timeout_ms=options.request_timeout_ms
        )
        self.leaving = Leaving(
            member.directory.path,
            member.member_id,
            member.cluster_id,
            is_member=lambda: self.membership.member(member.member_id) is not None,
            barrier=node.read_barrier,
            doubt_ms=2 * options.request_timeout_ms,
            log=log,
            wall_ms=node.wall_ms,
        )
        self._removed = False
        self._version = options.cluster_version
        check_version(self._version, self.membership.cluster_version)
        self._catch_up: CatchUp | None = None
        self._numbering = Numbering(member.directory.path, member.replica.ids, log)
        if peering is not None:
            outgoing = Outgoing(
                member.directory,
                make=flusher.copy,
                in_use_bytes=lambda: member.backend.in_use_bytes,
                mono_ms=node.mono_ms,
                log=log,
            )
            self._catch_up = CatchUp(
                self._kernel,
                member.log,
                outgoing,
                open_bulk=peering.port.open_bulk,
                connection=peering.port.connection,
                wake=node.wake,
                mono_ns=node.mono_ns,
                lines=log,
                entries_max=options.catch_up_entries,
            )
            self._receiving = Receiving(member, self._on_received, node.mono_ns, log)
            peering.requests[CHANGE_MEMBERS] = peering.requests[PROMOTE] = self._on_change
            peering.requests[MAY_LEAVE] = self._on_may_leave
            peering.bulk[SNAPSHOT] = self._receiving.on_bulk

    # -- what the driver calls

    async def begin(self) -> None:
        """Before anything is sent to the others."""
        if not self._member.replica.is_alone:  # who is alone forwards nothing: the first tick is soon enough
            await self._numbering.reserve(self._node.mono_ms())

    def after_turn(self, catch_ups: Sequence[tuple[int, int]]) -> None:
        """`catch_ups`: members that need entries which memory does not hold, as the kernel named them."""
        if self._catch_up is not None:
            for member, next_index in catch_ups:
                self._catch_up.ask(member, next_index)
            self._catch_up.on_turn()

    def tick(self, mono_ms: int) -> None:
        """Now and then."""
        try:
            check_version(self._version, self.membership.cluster_version)
        except FatalError as error:
            self._node.fail(error)
        if self._peering is None or self._catch_up is None:
            return
        self.look_who_is_gone()  # a name may also be given up
        self._peering.tick()
        self._catch_up.tick(mono_ms)
        self._receiving.tick(mono_ms)
        self.leaving.tick()
        self._numbering.tick(mono_ms)
        if self.leaving.left_before and self.membership.was_removed(self._own_id):
            self.removed()
        connected = {one for one in self._peering.others() if self._peering.port.is_connected(one)}
        self._connected_since = {one: self._connected_since.get(one, mono_ms) for one in connected}

    def look_who_is_gone(self) -> None:
        """After each change that was applied."""
        if self._catch_up is not None:
            members = {one.member_id for one in self.membership.members()}
            self._catch_up.streams.keep(members)
            self._receiving.streams.keep(members)
        self._gone.look({one.name for one in self.membership.members()}, self.membership.take_departed(), self._node.mono_ms())

    def dead(self, names: Collection[str]) -> Collection[str]:
        """See `ports.StoreNode`. A removed member is told nothing any more, so that its fence passes as that of a silent one."""
        if self._kernel.state != LEADER:
            return ()
        now_ms = self._node.mono_ms()
        found = [self.membership.member(one) for one in self._member.replica.fence.dead(now_ms)]
        dead = {one.name for one in found if one is not None}
        return (dead | self._gone.for_ms(FENCE_SILENT_MS, now_ms)) & set(names)

    def removed(self) -> None:
        """It is certain that this member was removed: the node ends, or begins anew without data if it wanted to leave."""
        if self._removed:
            return
        self._removed = True
        end = self.leaving.removed()
        if isinstance(end, IncarnationOverError):
            self._node.end_incarnation(str(end))
        else:
            self._node.fail(end)

    async def close(self) -> None:
        await self.leaving.close()
        await self._numbering.close()
        if self._catch_up is not None:
            await self._catch_up.close()

    def counters(self) -> Mapping[str, float]:
        own = {"etcd_server_learner_promote_successes": self.changes.promotions_total}
        return own if self._catch_up is None else {**own, **self._catch_up.counters(), **self._receiving.counters()}

    def labelled(self) -> Labelled:
        """See `ports.StoreNode`."""
        return {} if self._catch_up is None else {**self._catch_up.streams.labelled(), **self._receiving.streams.labelled()}

    # -- who leads

    async def transfer(self, member_id: int) -> bool:
        """Whether that voter leads within an election timeout."""
        self._node.take_event(Transfer(member_id))
        stop_ms = self._node.mono_ms() + self._election_ms
        while self._kernel.leader != member_id and self._node.mono_ms() < stop_ms:
            await asyncio.sleep(LOOK_S)
        return self._kernel.leader == member_id

    async def hand_over(self) -> None:
        """A leader that goes names its successor, so that nobody waits for an election."""
        if heirs := self.heirs():
            await self.transfer(heirs[0])

    def heirs(self) -> Sequence[int]:
        """Of a leader: the voters that it reaches, the one with the longest log first."""
        kernel = self._kernel
        matches = {member: found[0] for member, found in kernel.matches().items() if member in kernel.voter_ids and self._reaches(member)}
        return sorted(matches, key=lambda member: (matches[member], member), reverse=True) if kernel.state == LEADER else []

    def _reaches(self, member: int) -> bool:
        return self._peering is not None and self._peering.port.is_connected(member)

    @property
    def reaches_majority(self) -> bool:
        """Whether this member and those that it is connected to are a majority of the voters: else nothing is committed."""
        voters = self._kernel.voter_ids
        return 2 * sum(one == self._own_id or self._reaches(one) for one in voters) > len(voters)

    # -- ChangeHost

    @property
    def membership(self) -> Membership:
        return self._member.applier.membership

    def mono_ms(self) -> int:
        return self._node.mono_ms()

    def wall_s(self) -> int:
        return self._node.wall_ms() // 1000

    def view(self) -> View:
        now_ms, kernel = self._node.mono_ms(), self._kernel
        matches = {member: found[0] for member, found in kernel.matches().items()}
        if kernel.state == LEADER:
            matches[self._own_id] = kernel.last_index
        connected = {member: now_ms - since_ms for member, since_ms in self._connected_since.items()}
        return View(self._own_id, self.membership.members(), connected, matches)

    def silent_ms(self) -> Mapping[int, int]:
        fence, now_ms = self._member.replica.fence, self._node.mono_ms()
        return {one.member_id: fence.silent_ms(one.member_id, now_ms) for one in self.membership.members() if one.member_id != self._own_id}

    def take_id(self) -> int:
        return self._member.replica.ids.take()

    def propose_change(self, change: bytes, change_id: int) -> Awaitable[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._node.take_event(ProposeChange(change, change_id, Waiter(future)), at_once=True)
        return future

    @property
    def term(self) -> int:
        return self._kernel.term

    def barrier(self) -> Awaitable[None]:
        return self._node.read_barrier()

    def publish(self, member_id: int, name: str, client_urls: Sequence[str], term: int) -> Awaitable[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        attributes = membership.encode_attributes(member_id, name, client_urls)
        self._node.take_event(Propose(proposals.MEMBER_ATTRIBUTES_SET, [attributes], [0], Waiter(future), term))
        return future

    async def request(self, member_id: int, kind: int, payload: bytes, timeout_ms: int) -> bytes:
        if self._peering is None:
            raise PeerError(PeerCode.UNREACHABLE, "no such peer")
        return await self._peering.ask(member_id, kind, payload, timeout_ms)

    async def _on_change(self, _sender: int, payload: bytes) -> bytes:
        return await self.changes.on_request(payload)

    async def _on_may_leave(self, _sender: int, payload: bytes) -> bytes:
        return await self.changes.on_request(payload, only_asked=True)

    # -- a snapshot arrived

    def _on_received(self, stored: Stored) -> None:
        """The last act of this incarnation; what the installation could not finish, the next one does."""
        if not self._node.end_incarnation(f"a snapshot at entry {stored.index} was received, starting anew behind it"):
            return  # another stream was first: what it installed stays
        try:
            line = install_received(self._member, stored)
        except (FatalError, NoSpaceError) as error:
            self._log.error("the snapshot was not installed", reason=str(error))
        else:
            self._log.info(line or "the log has overtaken the snapshot", index=stored.index)
