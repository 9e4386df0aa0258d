"""Maintenance.Hash: the CRC of the whole database is a real etcd's after the same history of a member with the same ids."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from raftsched.pb.etcd import auth_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.testing.etcd_command import OURS, READY, Member

pytestmark = pytest.mark.process
SETTLED_S = 20


class Side:
    """One member's address, and the token of root once there is one."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.kv, self.lease, self.auth, self.maintenance, self.cluster = (
            getattr(stubs, f"{name}Stub")(self.channel) for name in ("KV", "Lease", "Auth", "Maintenance", "Cluster")
        )
        self.metadata: list[tuple[str, str]] = []

    def hash(self) -> int:
        return int(self.maintenance.Hash(pb.HashRequest(), timeout=20, metadata=self.metadata).hash)

    def hash_kv(self) -> int:
        return int(self.maintenance.HashKV(pb.HashKVRequest(), timeout=20, metadata=self.metadata).hash)

    def close(self) -> None:
        self.channel.close()

    def ids(self) -> tuple[int, int]:
        header = self.maintenance.Status(pb.StatusRequest(), timeout=20).header
        return header.cluster_id, header.member_id


def write_history(side: Side) -> None:
    for number in range(50):
        side.kv.Put(pb.PutRequest(key=b"key-%d" % (number % 17), value=b"value %d" % number), timeout=20)
    side.kv.DeleteRange(pb.DeleteRangeRequest(key=b"key-1", range_end=b"key-2"), timeout=20)
    puts = [pb.RequestOp(request_put=pb.PutRequest(key=b"txn-%d" % number, value=bytes(number))) for number in range(9)]
    side.kv.Txn(pb.TxnRequest(success=puts), timeout=20)


def compact(side: Side) -> None:
    revision = side.kv.Range(pb.RangeRequest(key=b"x"), timeout=20).header.revision
    side.kv.Compact(pb.CompactionRequest(revision=revision - 5, physical=True), timeout=20)


def lease(side: Side) -> None:
    for number, ttl_s in ((5, 600), (-7, 7_200), (9, 60_000)):
        side.lease.LeaseGrant(pb.LeaseGrantRequest(ID=number, TTL=ttl_s), timeout=20)
        side.kv.Put(pb.PutRequest(key=b"leased%d" % number, lease=number), timeout=20)
    side.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=9), timeout=20)


def alarms(side: Side) -> None:
    raised = pb.AlarmRequest.ACTIVATE
    for member, kind in ((5, pb.NOSPACE), (3, pb.CORRUPT), (7, pb.NOSPACE)):
        side.maintenance.Alarm(pb.AlarmRequest(action=raised, memberID=member, alarm=kind), timeout=20)
    side.maintenance.Alarm(pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=7, alarm=pb.NOSPACE), timeout=20)


def disarm(side: Side) -> None:
    for member, kind in ((5, pb.NOSPACE), (3, pb.CORRUPT)):
        side.maintenance.Alarm(pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=member, alarm=kind), timeout=20)


def downgrade(side: Side) -> None:
    for action in (pb.DowngradeRequest.ENABLE, pb.DowngradeRequest.CANCEL):
        side.maintenance.Downgrade(pb.DowngradeRequest(action=action, version="3.6.0"), timeout=20)  # type: ignore[arg-type]


def users(side: Side) -> None:
    """Passwords are salted: only users without one are stored alike."""
    auth, permission = side.auth, auth_pb2.Permission
    for name in ("root", "reader"):
        auth.RoleAdd(pb.AuthRoleAddRequest(name=name), timeout=20)
    grants = ((permission.READ, b"a", b"b"), (permission.WRITE, b"key", b""), (permission.READWRITE, b"c", b"\0"))
    for kind, key, end in grants:
        given = permission(permType=kind, key=key, range_end=end)
        auth.RoleGrantPermission(pb.AuthRoleGrantPermissionRequest(name="reader", perm=given), timeout=20)
    for name in ("root", "some", "other"):
        auth.UserAdd(pb.AuthUserAddRequest(name=name, options=auth_pb2.UserAddOptions(no_password=True)), timeout=20)
    for user, role in (("root", "root"), ("some", "reader"), ("other", "reader")):
        auth.UserGrantRole(pb.AuthUserGrantRoleRequest(user=user, role=role), timeout=20)
    auth.UserRevokeRole(pb.AuthUserRevokeRoleRequest(name="other", role="reader"), timeout=20)
    auth.UserDelete(pb.AuthUserDeleteRequest(name="other"), timeout=20)


STEPS: tuple[Callable[[Side], None], ...] = (write_history, compact, lease, alarms, disarm, users, write_history, compact, downgrade)


def same_hash(sides: Sequence[Side]) -> int:
    """What all say sooner or later: an etcd writes the version of its cluster, and the end of a compaction, when it gets to it."""
    deadline = time.monotonic() + SETTLED_S
    while len(told := {side.hash() for side in sides}) > 1:
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
    assert len({side.hash_kv() for side in sides}) == 1
    return told.pop()


def wait_for_version(members: Sequence[Member]) -> None:
    """Until the cluster's version is decided, and who is a member has told its addresses: both are in the hash."""
    for member in members:
        deadline = time.monotonic() + SETTLED_S
        while '"etcdcluster":"3.7.0"' not in member.call("/version"):
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture
def both(etcd_program: Path, tmp_path: Path) -> Iterator[list[Side]]:
    """An etcd and a raftsched that say the same of themselves, and so have the same ids."""
    with Member(tmp_path / "judge", program=[etcd_program]) as judge, Member(tmp_path / "subject", program=OURS) as subject:
        said = judge.peer
        sides = []
        for member in (judge, subject):
            listened = f"--listen-peer-urls={member.peer}"
            member.peer, member.cluster = said, f"m1={said}"
            member.start(listened, f"--advertise-client-urls={judge.client}")
            sides.append(Side(member.client.removeprefix("http://")))
        yield sides
        for side in sides:
            side.close()


def test_the_same_history_has_the_same_hash(both: list[Side]) -> None:
    assert len({side.ids() for side in both}) == 1
    told = [same_hash(both)]
    for step in STEPS:
        for side in both:
            step(side)
        told.append(same_hash(both))
    assert all(before != after for before, after in pairwise(told)), "each step is in it"


def test_three_members_have_the_hash_of_three_etcds(etcd_program: Path, tmp_path: Path) -> None:
    """One cluster after the other at the same addresses."""
    peers = [Member(tmp_path / "addresses", f"m{number}") for number in range(3)]
    told = []
    for program in ([etcd_program], OURS):
        with ExitStack() as stack:
            folder = tmp_path / f"cluster-{len(told)}"
            members = [stack.enter_context(Member(folder, one.name, program=program)) for one in peers]
            for member, like in zip(members, peers, strict=True):
                member.client, member.peer = like.client, like.peer
                member.cluster = ",".join(f"{one.name}={one.peer}" for one in peers)
                member.start(wait=False)
            sides = []
            for member in members:
                member.wait_for(READY)
                sides.append(Side(member.client.removeprefix("http://")))
                stack.callback(sides[-1].close)
            wait_for_version(members)
            found = []
            for step in (write_history, compact, lease, users):
                step(sides[1])
                found.append(same_hash(sides))
            told.append(found)
    assert told[0] == told[1]
