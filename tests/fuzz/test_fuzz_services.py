"""Requests nobody meant, at the entrance of every service of the etcd API: each is answered with a status, none leaves a traceback."""

import random
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from mutations import mutate

from raftsched.pb.etcd import auth_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import v3election_pb2 as election_pb
from raftsched.pb.etcd import v3lock_pb2 as lock_pb
from raftsched.testing.door_cluster import DoorCluster
from raftsched.testing.traffic import Traffic
from raftsched.testing.wire_client import WireClient
from raftsched.testing.wire_side import METHODS

SOON = (("grpc-timeout", "300m"),)  # whoever waits for a lock or for events ends with its deadline
LEADER = election_pb.LeaderKey(name=b"n", key=b"n/5", rev=3, lease=5)
SAMPLES: dict[str, list[Any]] = {
    "Watch/Watch": [
        pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"a", range_end=b"b", start_revision=1, prev_kv=True, watch_id=3)),
        pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=3)),
        pb.WatchRequest(progress_request=pb.WatchProgressRequest()),
    ],
    "Lease/LeaseGrant": [pb.LeaseGrantRequest(ID=5, TTL=100)],
    "Lease/LeaseRevoke": [pb.LeaseRevokeRequest(ID=6)],
    "Lease/LeaseKeepAlive": [pb.LeaseKeepAliveRequest(ID=5)],
    "Lease/LeaseTimeToLive": [pb.LeaseTimeToLiveRequest(ID=5, keys=True)],
    "Cluster/MemberAdd": [pb.MemberAddRequest(peerURLs=["no url", ""], isLearner=True)],
    "Cluster/MemberRemove": [pb.MemberRemoveRequest(ID=5)],
    "Cluster/MemberUpdate": [pb.MemberUpdateRequest(ID=5, peerURLs=["no url"])],
    "Cluster/MemberPromote": [pb.MemberPromoteRequest(ID=5)],
    "Cluster/MemberList": [pb.MemberListRequest(linearizable=True)],
    "Maintenance/Alarm": [pb.AlarmRequest(memberID=5, alarm=pb.CORRUPT)],
    "Maintenance/HashKV": [pb.HashKVRequest(revision=1)],
    "Maintenance/MoveLeader": [pb.MoveLeaderRequest(targetID=5)],
    "Maintenance/Downgrade": [pb.DowngradeRequest(action=pb.DowngradeRequest.VALIDATE, version="3.6.0")],
    "Auth/Authenticate": [pb.AuthenticateRequest(name="ann", password="pw")],
    "Auth/UserAdd": [pb.AuthUserAddRequest(name="ann", options=auth_pb2.UserAddOptions(no_password=True), hashedPassword="x")],
    "Auth/UserGet": [pb.AuthUserGetRequest(name="ann")],
    "Auth/UserDelete": [pb.AuthUserDeleteRequest(name="ann")],
    "Auth/UserChangePassword": [pb.AuthUserChangePasswordRequest(name="ann", hashedPassword="QUJD")],
    "Auth/UserGrantRole": [pb.AuthUserGrantRoleRequest(user="ann", role="r")],
    "Auth/UserRevokeRole": [pb.AuthUserRevokeRoleRequest(name="ann", role="r")],
    "Auth/RoleAdd": [pb.AuthRoleAddRequest(name="r")],
    "Auth/RoleGet": [pb.AuthRoleGetRequest(role="r")],
    "Auth/RoleDelete": [pb.AuthRoleDeleteRequest(role="r")],
    "Auth/RoleGrantPermission": [
        pb.AuthRoleGrantPermissionRequest(
            name="r", perm=auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=b"a", range_end=b"b")
        )
    ],
    "Auth/RoleRevokePermission": [pb.AuthRoleRevokePermissionRequest(role="r", key=b"a", range_end=b"b")],
    "Lock/Lock": [lock_pb.LockRequest(name=b"n", lease=5)],
    "Lock/Unlock": [lock_pb.UnlockRequest(key=b"n/5")],
    "Election/Campaign": [election_pb.CampaignRequest(name=b"n", lease=5, value=b"v")],
    "Election/Proclaim": [election_pb.ProclaimRequest(leader=LEADER, value=b"v")],
    "Election/Resign": [election_pb.ResignRequest(leader=LEADER)],
    "Election/Leader": [election_pb.LeaderRequest(name=b"n")],
    "Election/Observe": [election_pb.LeaderRequest(name=b"n")],
}
TRAFFIC = {
    "KV/Put": "put",
    "KV/Range": "range",
    "KV/RangeStream": "range",
    "KV/DeleteRange": "delete",
    "KV/Txn": "txn",
    "KV/Compact": "compact",
}
NEVER = {"Auth/AuthEnable", "Maintenance/Snapshot"}
"""The one shuts all doors, the other writes a file each time; both are in tests/interop/test_entrances.py."""
EDITS = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "repeat", "insert", "drop"]), st.integers(0, 1 << 16), st.binary(min_size=1, max_size=10)),
    max_size=5,
)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with DoorCluster(tmp_path_factory.mktemp("member"), 1, bcrypt_cost=4) as cluster:
        yield cluster.doors[0]


def sample(method: str, seed: int) -> bytes:
    if method in TRAFFIC:
        request = getattr(Traffic(seed), TRAFFIC[method])().request
    else:
        request = random.Random(seed).choice(SAMPLES.get(method, [METHODS[method].request()]))
    data: bytes = request.SerializeToString()
    return data


def harmless(method: str, message: bytes) -> bytes:
    """A new peer URL by accident would make the member one of two, which ends what is tried here."""
    if method in ("Cluster/MemberAdd", "Cluster/MemberUpdate"):
        try:
            urls = METHODS[method].request.FromString(message).peerURLs
        except DecodeError:
            return message
        return b"" if any("//" in url for url in urls) else message
    return message


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(sorted(set(METHODS) - NEVER)), st.integers(0, 1 << 20), EDITS), min_size=1, max_size=12))
def test_mutated_requests(door: Any, asked: list[tuple[str, int, list[tuple[str, int, bytes]]]]) -> None:
    """Several at a time on one connection, which stays."""
    client = WireClient(door.address)
    try:
        calls = []
        for method, seed, edits in asked:
            message = harmless(method, mutate(sample(method, seed), edits))
            calls.append((method, message, client.begin(METHODS[method].path, message, metadata=SOON)))
        client.wait(*(call for *_, call in calls))
        for method, message, call in calls:
            assert call.status is not None
            if call.status == 13:
                assert call.text.startswith("grpc: "), (method, message, call.text)
        probe = client.begin(METHODS["KV/Range"].path, pb.RangeRequest(key=b"probe", serializable=True).SerializeToString())
        client.wait(probe)
        assert probe.status == 0
        assert door.errors == []
    finally:
        client.close()


def test_every_method_has_a_sample() -> None:
    plain = {"AuthEnable", "AuthDisable", "AuthStatus", "UserList", "RoleList", "LeaseLeases", "Status", "Defragment", "Hash", "Snapshot"}
    assert {name for name in METHODS if name.split("/")[1] not in plain} == set(SAMPLES) | set(TRAFFIC)
