"""etcdserverpb.Maintenance (etcd-api §1.5)."""

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from raftsched.errors import ETCD_STATUS, EtcdError
from raftsched.pb.etcd.rpc_pb2 import (
    AlarmMember,
    AlarmRequest,
    AlarmResponse,
    AlarmType,
    DefragmentRequest,
    DowngradeInfo,
    DowngradeRequest,
    DowngradeResponse,
    HashKVRequest,
    HashKVResponse,
    HashRequest,
    HashResponse,
    MoveLeaderRequest,
    StatusRequest,
    StatusResponse,
)
from raftsched.ports import MemberNode
from raftsched.proposals import ALARM
from raftsched.rpc.durations import TYPES
from raftsched.rpc.etcd.calls import Door, parse
from raftsched.rpc.etcd.snapshot import SnapshotStream
from raftsched.rpc.etcd.version import SERVER_VERSION, storage_version

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call

ALARM_NAMES: Final = {1: "NOSPACE", 2: "CORRUPT"}


class MaintenanceService:
    """Status, Alarm, Defragment, Hash, HashKV, Snapshot; MoveLeader and Downgrade where there may be another member."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._node = door.node
        door.cold("/etcdserverpb.Maintenance/Status", self._status, of_learner=lambda _: True)
        door.cold("/etcdserverpb.Maintenance/Alarm", self._alarm)
        door.cold("/etcdserverpb.Maintenance/Defragment", self._defragment)
        door.cold("/etcdserverpb.Maintenance/Hash", self._hash)
        door.cold("/etcdserverpb.Maintenance/HashKV", self._hash_kv)
        door.engine.add_stream("/etcdserverpb.Maintenance/Snapshot", partial(SnapshotStream, door))
        if isinstance(door.node, MemberNode):
            self._members: MemberNode = door.node
            door.cold("/etcdserverpb.Maintenance/MoveLeader", self._move_leader)
            door.cold("/etcdserverpb.Maintenance/Downgrade", self._downgrade)

    async def _status(self, call: "Call", message: bytes) -> bytes:
        parse(StatusRequest, message)
        node, status = self._node, self._node.status()
        errors = [] if node.leader_id else [ETCD_STATUS[EtcdError.NO_LEADER][1]]
        errors += [f"memberID:{member} alarm:{ALARM_NAMES.get(kind, kind)}" for member, kind in node.alarms()]
        response = StatusResponse(
            version=SERVER_VERSION,
            dbSize=status.db_size,
            leader=node.leader_id,
            raftIndex=status.raft_index,
            raftTerm=node.term,
            raftAppliedIndex=status.applied_index,
            errors=errors,
            dbSizeInUse=status.db_size_in_use,
            isLearner=status.is_learner,
            storageVersion=storage_version(node.cluster_version),
            dbSizeQuota=status.quota,
            downgradeInfo=DowngradeInfo(enabled=bool(status.downgrade_target), targetVersion=status.downgrade_target),
        )
        return self._door.answer(response.SerializeToString())

    async def _alarm(self, call: "Call", message: bytes) -> bytes:
        """GET is a linearizable read; ACTIVATE and DEACTIVATE go through the log."""
        request = parse(AlarmRequest, message)
        if request.action != AlarmRequest.GET:
            _, revision, body = await self._door.propose(ALARM, message, await self._door.access.admin(call))
            return self._door.answer(body, revision)
        await self._door.access.known(call)
        began = time.perf_counter()
        await self._node.read_barrier()
        self._door.requests.observe(TYPES[ALARM], began)
        alarms = [
            AlarmMember(memberID=member, alarm=AlarmType.ValueType(kind))
            for member, kind in self._node.alarms()
            if request.alarm in (AlarmType.NONE, kind)
        ]
        return self._door.answer(AlarmResponse(alarms=alarms).SerializeToString())

    async def _defragment(self, call: "Call", message: bytes) -> bytes:
        """The answer has no header (etcd-api §1.0)."""
        parse(DefragmentRequest, message)
        await self._node.defragment()
        return b""

    async def _hash(self, call: "Call", message: bytes) -> bytes:
        parse(HashRequest, message)
        return self._door.answer(HashResponse(hash=await self._node.hash()).SerializeToString())

    async def _hash_kv(self, call: "Call", message: bytes) -> bytes:
        value, compact_revision, hash_revision = await self._node.hash_kv(parse(HashKVRequest, message).revision)
        response = HashKVResponse(hash=value, compact_revision=compact_revision, hash_revision=hash_revision)
        return self._door.answer(response.SerializeToString())

    async def _downgrade(self, call: "Call", message: bytes) -> bytes:
        request = parse(DowngradeRequest, message)
        version = await self._members.downgrade(request.action, request.version)
        return self._door.answer(DowngradeResponse(version=version.rpartition(".")[0]).SerializeToString())

    async def _move_leader(self, call: "Call", message: bytes) -> bytes:
        """The answer has no header (etcd-api §1.0)."""
        parse(DefragmentRequest, message)
        await self._members.move_leader(parse(MoveLeaderRequest, message).targetID)
        return b""
