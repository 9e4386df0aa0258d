"""etcdserverpb.Cluster (etcd-api §1.4): the member list. Changing the membership comes with replication; until then the other
methods answer UNIMPLEMENTED."""

from typing import TYPE_CHECKING

from raftsched.pb.etcd.rpc_pb2 import Member, MemberListRequest, MemberListResponse
from raftsched.rpc.etcd.calls import Door, parse

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call


class ClusterService:
    """MemberList."""

    def __init__(self, door: Door) -> None:
        self._node = door.node
        door.cold("/etcdserverpb.Cluster/MemberList", self._list)

    async def _list(self, call: "Call", message: bytes) -> bytes:
        """Sorted by id; the header of Cluster answers has no revision."""
        if parse(MemberListRequest, message).linearizable:
            await self._node.read_barrier()
        members = [
            Member(
                ID=one.member_id,
                name=one.name,
                peerURLs=one.peer_urls,
                clientURLs=one.client_urls,
                isLearner=one.is_learner,
            )
            for one in sorted(self._node.members(), key=lambda one: one.member_id)
        ]
        return self._node.header(0) + MemberListResponse(members=members).SerializeToString()
