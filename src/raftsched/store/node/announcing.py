"""What a member that starts tells its cluster about itself, and the first ones about the cluster: name, URLs, version, incarnation.

Must not know: how a proposal is replicated.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Sequence
from typing import Protocol

from raftsched import proposals
from raftsched.errors import EtcdError, StatusError
from raftsched.ports import Log as LogPort
from raftsched.store import membership
from raftsched.store.node.opening import Member
from raftsched.store.node.options import NodeOptions
from raftsched.store.node.peering import Peering
from raftsched.store.node.versions import FIRST
from raftsched.types import MemberInfo

RETRY_S = 1.0


class NodePort(Protocol):
    """What is used of the driver."""

    @property
    def is_up(self) -> bool: ...
    def mono_ns(self) -> int: ...
    def wall_ms(self) -> int: ...
    def propose_and_wait(self, kind: int, message: bytes) -> Awaitable[int]:
        """The error of the answer."""

    async def change_members(self, change: int, member_id: int, peer_urls: Sequence[str], *, is_learner: bool) -> Sequence[MemberInfo]: ...


class Announcing:
    """Of one start."""

    def __init__(self, node: NodePort, member: Member, options: NodeOptions, peering: Peering | None, log: LogPort) -> None:
        self._node, self._member, self._options, self._peering, self._log = node, member, options, peering, log

    async def announce(self) -> None:
        """Tells the cluster about this member until it knows: MemberList is right before anyone asks."""
        while self._node.is_up:
            problem = await self.publish()
            if not problem:
                return
            self._log.warning("the cluster could not be told about this member", error=EtcdError(problem).name)
            if self._member.replica.is_alone:
                return
            await asyncio.sleep(RETRY_S)

    async def publish(self) -> int:
        """What has changed about this member; the first error."""
        options, members, own_id = self._options, self._member.applier.membership, self._member.member_id
        me = members.member(own_id)
        told: list[Awaitable[int]] = []
        if me is not None and me.peer_urls != options.peer_urls and not options.keeps_peer_urls:
            told.append(self._move(options.peer_urls))
        if me is None or (me.name, me.client_urls) != (options.name, options.client_urls):
            attributes = membership.encode_attributes(own_id, options.name, options.client_urls)
            told.append(self._node.propose_and_wait(proposals.MEMBER_ATTRIBUTES_SET, attributes))
        if not members.cluster_version:
            lowest = options.cluster_version if self._peering is None else self._peering.lowest_version(options.cluster_version)
            version = membership.encode_version(lowest or FIRST, self._draw_incarnation())
            told.append(self._node.propose_and_wait(proposals.CLUSTER_VERSION_SET, version))
        errors = [await one for one in told]
        return next(filter(None, errors), 0)

    def _draw_incarnation(self) -> int:
        """What tells this cluster from another that is begun with the same list: of all that members propose, the first applied stays."""
        seed = f"{self._member.member_id}/{self._node.wall_ms()}/{self._node.mono_ns()}".encode()
        return int.from_bytes(hashlib.sha256(seed).digest()[:7], "big") + 1

    async def _move(self, peer_urls: Sequence[str]) -> int:
        """This member is reached elsewhere now; the error."""
        try:
            await self._node.change_members(membership.UPDATE_NODE, self._member.member_id, peer_urls, is_learner=False)
        except StatusError as error:
            self._log.warning("the cluster was not told the new peer URLs", error=error.message)
            return int(EtcdError.TIMEOUT)
        return 0
