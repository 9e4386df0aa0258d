"""etcdserverpb.Cluster (etcd-api §1.4): the member list and its changes.

The header of these answers has no revision. The checks and the errors are the store's; a node that cannot change its members
(`ports.MemberNode`) has MemberList alone.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from raftsched.errors import EtcdError, status_of
from raftsched.pb.etcd.rpc_pb2 import (
    Member,
    MemberAddRequest,
    MemberAddResponse,
    MemberListRequest,
    MemberListResponse,
    MemberPromoteRequest,
    MemberPromoteResponse,
    MemberRemoveRequest,
    MemberRemoveResponse,
    MemberUpdateRequest,
    MemberUpdateResponse,
)
from raftsched.ports import MemberNode
from raftsched.rpc.etcd.calls import Door, Metadata, parse
from raftsched.types import MemberInfo

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call

# raftpb.ConfChangeType
ADD: Final = 0
REMOVE: Final = 1
UPDATE: Final = 2
LEAVE: Final = "raftsched-leave"
"""Metadata of a MemberRemove by which a member itself wants to go, and of the MemberList before it; see `ports.MemberNode.leave`."""


def leaves(metadata: Metadata) -> bool:
    """Whether it is the member's own wish to go, which a learner may have as well."""
    return metadata(LEAVE) == "true"


def _members(members: Iterable[MemberInfo]) -> list[Member]:
    """Sorted by id."""
    return [
        Member(ID=one.member_id, name=one.name, peerURLs=one.peer_urls, clientURLs=one.client_urls, isLearner=one.is_learner)
        for one in sorted(members, key=lambda one: one.member_id)
    ]


class ClusterService:
    """MemberList, MemberAdd, MemberRemove, MemberUpdate, MemberPromote."""

    def __init__(self, door: Door) -> None:
        self._node = door.node
        self._access = door.access
        door.cold("/etcdserverpb.Cluster/MemberList", self._list, of_learner=leaves)
        if isinstance(door.node, MemberNode):
            self._changes: MemberNode = door.node
            door.cold("/etcdserverpb.Cluster/MemberAdd", self._add)
            door.cold("/etcdserverpb.Cluster/MemberRemove", self._remove, of_learner=leaves)
            door.cold("/etcdserverpb.Cluster/MemberUpdate", self._update)
            door.cold("/etcdserverpb.Cluster/MemberPromote", self._promote)

    async def _list(self, call: "Call", message: bytes) -> bytes:
        if parse(MemberListRequest, message).linearizable:
            await self._node.read_barrier()
        await self._access.known(call)
        return self._answer(MemberListResponse(members=_members(self._node.members())))

    async def _add(self, call: "Call", message: bytes) -> bytes:
        request = parse(MemberAddRequest, message)
        before = {one.member_id for one in self._node.members()}
        after = await self._changes.change_members(ADD, 0, request.peerURLs, is_learner=request.isLearner)
        members = _members(after)
        added = _added(members, before, request.peerURLs)
        return self._answer(MemberAddResponse(member=added, members=members))

    async def _remove(self, call: "Call", message: bytes) -> bytes:
        request = parse(MemberRemoveRequest, message)
        if leaves(call.metadata) and self._node.member_id == request.ID:
            after = await self._changes.leave()
        else:
            after = await self._changes.change_members(REMOVE, request.ID, (), is_learner=False)
        return self._answer(MemberRemoveResponse(members=_members(after)))

    async def _update(self, call: "Call", message: bytes) -> bytes:
        request = parse(MemberUpdateRequest, message)
        after = await self._changes.change_members(UPDATE, request.ID, request.peerURLs, is_learner=False)
        return self._answer(MemberUpdateResponse(members=_members(after)))

    async def _promote(self, call: "Call", message: bytes) -> bytes:
        after = await self._changes.promote(parse(MemberPromoteRequest, message).ID)
        return self._answer(MemberPromoteResponse(members=_members(after)))

    def _answer(
        self,
        response: MemberListResponse | MemberAddResponse | MemberRemoveResponse | MemberUpdateResponse | MemberPromoteResponse,
    ) -> bytes:
        return self._node.header(0) + response.SerializeToString()


def _added(members: Sequence[Member], before: set[int], peer_urls: Iterable[str]) -> Member:
    """The new one: URLs are unique, and ids are never used again."""
    urls = sorted(url.strip() for url in peer_urls)
    found = next((one for one in members if sorted(one.peerURLs) == urls), None)
    found = found or next((one for one in members if one.ID not in before), None)
    if found is None:
        raise status_of(EtcdError.MEMBER_NOT_FOUND)  # removed again before the answer
    return found
