"""A member and the question which cluster it is of: an empty one settles, one with data asks the others, both answer who asks.

Order of a start: `begin`; the member is opened; `check` before any message of Raft; then `go_on`.
Invariant: nothing is written, and nothing of Raft said, before it is decided.
Must not know: how asks travel, the pump.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence

from raftsched.errors import FatalError
from raftsched.ports import Log as LogPort
from raftsched.store.asks import Answer, InCluster, JoinAsk, Later, Listed
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.birth import Birth
from raftsched.store.codec import WireError
from raftsched.store.forming import Form, Forming
from raftsched.store.membership import ADD_NODE, Membership, bucket_key, encode_json, make_member_id
from raftsched.store.node.awaiting import Awaiting
from raftsched.store.node.beginning import was_forced
from raftsched.store.node.clustering import Clustering
from raftsched.store.node.joining import Marker, Settling, promote_self
from raftsched.store.node.members import Change
from raftsched.store.node.moving import hear, keep_telling
from raftsched.store.node.newcomers import keep_looking
from raftsched.store.node.opening import Member
from raftsched.store.node.options import NodeOptions
from raftsched.store.node.peering import Peering
from raftsched.store.node.reception import Reception, check_cluster, check_force, check_list, keep_checking, keep_checking_list
from raftsched.store.transport.ports import HERE, JOIN
from raftsched.types import MemberInfo


class Entering:
    """The `reception.Host` of a node."""

    def __init__(self, peering: Peering, options: NodeOptions, log: LogPort, mono_ms: Callable[[], int], awaiting: Awaiting) -> None:
        self._awaiting = awaiting
        self._peering, self._options, self._log, self._mono_ms = peering, options, log, mono_ms
        self._listed = [Listed(name, tuple(urls)) for name, urls in options.listed.items()]
        self._own = Listed(options.founder, options.listed[options.founder])
        self._forming = Forming(self._own, self._listed, form_wait_ms=options.form_wait_ms, cluster_token=options.cluster_token)
        self._reception = Reception(self, self._forming, log=log, mono_ms=mono_ms)
        self._member: Member | None = None
        self._clustering: Clustering | None = None
        self._first_members: Sequence[MemberInfo] = ()  # while nothing is applied yet
        self._tasks: list[asyncio.Task[None]] = []
        peering.answer_ask = self._reception.answer
        peering.requests[JOIN] = self._on_join
        peering.requests[HERE] = lambda sender, payload: hear(peering, sender, payload)

    # -- the start

    async def begin(self, directory: DataDirectory) -> Birth | None:
        """Listens. How an empty member begins, as soon as it is decided; None: there are data. Raises FatalError, NoSpaceError."""
        await self._peering.port.start()
        self._awaiting.begin(self._mono_ms())
        if self._options.force_new_cluster and not was_forced(directory.path):
            await self._check_force()
        return None if directory.has_member else await self._find_birth(directory)

    async def _find_birth(self, directory: DataDirectory) -> Birth:
        settling = Settling(
            self._forming,
            own=self._own,
            listed=self._listed,
            ask=self._peering.port.ask,
            log=self._log,
            mono_ms=self._mono_ms,
            version=self._options.cluster_version,
            looked=lambda alone: self._awaiting.look(alone=alone, mono_ms=self._mono_ms()),
            state=self._options.cluster_state,
        )
        decided = await settling.settle()
        if isinstance(decided, Form):
            own_id = make_member_id(self._own.peer_urls, self._options.cluster_token)
            return Birth(own_id, decided.cluster_id, tuple(decided.entries))
        Marker(directory.path).write(decided.members)
        return Birth(decided.member_id, decided.cluster_id)

    async def _check_force(self) -> None:
        """Raises FatalError if the listed members that are there need no `--force-new-cluster`."""
        others = [MemberInfo(0, one.name, one.peer_urls, ()) for one in self._listed if one != self._own]
        await check_force(self._own.name, others, self._peering.port.ask)

    def opened(self, member: Member, clustering: Clustering) -> None:
        """Raises FatalError: this member cannot read its marker."""
        self._clustering = clustering
        self._first_members = members_behind(member)
        marked = Marker(member.directory.path).read()
        if marked is not None:
            self._first_members = self._first_members or marked
            self._peering.expect(marked)
        self._peering.list_contacts({one.name: one.peer_urls for one in self._listed})
        self._member = member

    async def check(self) -> None:
        """Before any message of Raft: are these this member's data, and the others of the same cluster? Raises FatalError."""
        self._check_name()
        await check_list(self._require_state(), self._listed, self._peering.port.ask, self._log)
        await check_cluster(self.member_id, self._require_state, self._peering.port.ask, log=self._log, mono_ms=self._mono_ms)

    def _check_name(self) -> None:
        """A copied directory must not make two members with one id: each vote of theirs would count twice."""
        assert self._member is not None
        me = next((one for one in self._require_state().members if one.member_id == self.member_id), None)
        if me is not None and me.name not in ("", self._options.name):
            raise FatalError(
                f"{self._member.directory.path} holds the data of member {me.name}, and this one is {self._options.name}: refusing to "
                "serve. Nothing was changed"
            )

    def go_on(self, fail: Callable[[Exception], None]) -> None:
        """What is not finished with the start: members that have not answered yet or look for this one elsewhere, and the promotion of a
        learner that joined by itself."""
        assert self._member is not None
        ask, log, mono_ms = self._peering.port.ask, self._log, self._mono_ms
        answers = keep_checking(self.member_id, self._require_state, ask, log=log, mono_ms=mono_ms)
        strangers = keep_checking_list(self._require_state, self._listed, ask, self._reception.strange, log=log, mono_ms=mono_ms)
        self._tasks += [asyncio.create_task(self._keep_checking(one, fail)) for one in (answers, strangers)]
        if not self._options.keeps_peer_urls:
            self._tasks.append(asyncio.create_task(keep_telling(self._peering, self.member_id, self._options.peer_urls)))
        looking = keep_looking(self._peering, self.member_id, lambda: self.leader_id, self._require_state, self._peering.port.ask)
        self._tasks.append(asyncio.create_task(looking))
        marker = Marker(self._member.directory.path)
        if marker.read() is not None:
            self._tasks.append(asyncio.create_task(self._promote(marker, fail)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_checking(self, check: Coroutine[None, None, None], fail: Callable[[Exception], None]) -> None:
        try:
            await check
        except FatalError as error:
            fail(error)

    async def _promote(self, marker: Marker, fail: Callable[[Exception], None]) -> None:
        assert self._member is not None
        assert self._clustering is not None
        member, clustering = self._member, self._clustering
        members, promotion = member.applier.membership, Change(ADD_NODE, member.member_id, promotion=True)

        def me() -> MemberInfo | None:
            return members.member(member.member_id)

        try:
            await promote_self(marker, me, lambda: clustering.changes.change(promotion), log=self._log, mono_ms=self._mono_ms)
        except FatalError as error:
            fail(error)

    # -- reception.Host

    @property
    def member_id(self) -> int:
        return 0 if self._member is None else self._member.member_id

    @property
    def leader_id(self) -> int:
        return 0 if self._member is None else self._member.replica.kernel.leader

    def state(self) -> InCluster | None:
        if self._member is None:
            return None
        kernel, members = self._member.replica.kernel, self._member.applier.membership
        founding = kernel.term == 1 and kernel.vote == 0 and kernel.last_index == len(self._first_members)
        return InCluster(
            self._options.name,
            self._member.cluster_id,
            members.incarnation,
            founding=founding,
            members=tuple(members.members() or self._first_members),
            cluster_version=members.cluster_version,
        )

    def take_in(self, ask: JoinAsk) -> Awaitable[Answer]:
        if self._clustering is None:
            return _later()
        return self._clustering.changes.take_in(ask)

    async def request(self, member_id: int, kind: int, payload: bytes, timeout_ms: int) -> bytes:
        return await self._peering.ask(member_id, kind, payload, timeout_ms)

    def _require_state(self) -> InCluster:
        state = self.state()
        assert state is not None
        return state

    async def _on_join(self, _sender: int, payload: bytes) -> bytes:
        return await self._reception.on_join(payload)


async def _later() -> Answer:
    return Later("this member is starting")


def members_behind(member: Member) -> list[MemberInfo]:
    """The members with every change that the log holds behind what is applied."""
    applied, table = member.applier.membership, Membership(lambda _write: None)
    table.load([(bucket_key(one.member_id), encode_json(one)) for one in applied.members()], (), None)
    for _, change in member.changes:
        try:
            table.apply_change(change)
        except WireError:
            continue  # applies as a refused change
    return list(table.members())
