"""Authentication on a real node, with log and disk: what is stored, hashed, and there again after a restart; three members on one loop."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from test_auth_api import Client, refused, secure

from raftsched.errors import EtcdError
from raftsched.pb.etcd import auth_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.testing.door_cluster import DoorCluster
from raftsched.testing.lone_node import EtcdDoor


def client(door: EtcdDoor) -> Client:
    return Client(grpc.insecure_channel(door.address))


def buckets(door: EtcdDoor) -> dict[str, dict[bytes, bytes]]:
    """What LMDB holds of users, once everything is committed."""
    done = client(door)
    done.Hash(pb.HashRequest())  # which commits first
    backend = door.node._member.backend
    return {name: dict(door.run(lambda name=name: list(backend.bucket_items(name)))) for name in ("auth", "authUsers", "authRoles")}


def test_a_fresh_member_holds_what_a_fresh_etcd_holds(tmp_path: Path) -> None:
    with DoorCluster(tmp_path, 1) as cluster:
        assert buckets(cluster.doors[0]) == {"auth": {b"authRevision": (1).to_bytes(8, "big")}, "authUsers": {}, "authRoles": {}}


def test_users_are_stored_hashed_and_there_again(tmp_path: Path) -> None:
    with DoorCluster(tmp_path, 1, bcrypt_cost=4) as cluster:
        (door,) = cluster.doors
        anybody = client(door)
        before = anybody.Hash(pb.HashRequest()).hash
        anybody.RoleAdd(pb.AuthRoleAddRequest(name="first"))
        assert anybody.Hash(pb.HashRequest()).hash != before, "the buckets are part of it"
        held = buckets(door)
        assert held["authRoles"] == {b"first": auth_pb2.Role(name=b"first").SerializeToString()}
        secure(anybody)
        revision = anybody.AuthStatus(pb.AuthStatusRequest()).authRevision
        ann = anybody.log_in("ann")
        ann.Put(pb.PutRequest(key=b"a"))
    with DoorCluster(tmp_path, 1, bcrypt_cost=4) as cluster:
        (door,) = cluster.doors
        anybody = client(door)
        status = anybody.AuthStatus(pb.AuthStatusRequest())
        assert (status.enabled, status.authRevision) == (True, revision)
        refused(lambda: anybody.Range(pb.RangeRequest(key=b"a")), EtcdError.USER_EMPTY)
        ann = anybody.log_in("ann")
        assert ann.Range(pb.RangeRequest(key=b"a")).count == 1
        refused(lambda: ann.Put(pb.PutRequest(key=b"b")), EtcdError.PERMISSION_DENIED)


def test_tokens_are_lost_with_the_process(tmp_path: Path) -> None:
    """Their entries are behind what LMDB has applied: nothing brings them back, and clients log in again."""
    with DoorCluster(tmp_path, 1, bcrypt_cost=4) as cluster:
        anybody = client(cluster.doors[0])
        secure(anybody)
        token = anybody.Authenticate(pb.AuthenticateRequest(name="ann", password="pw")).token
    with DoorCluster(tmp_path, 1, bcrypt_cost=4) as cluster:
        old = Client(grpc.insecure_channel(cluster.doors[0].address), token)
        refused(lambda: old.Put(pb.PutRequest(key=b"a")), EtcdError.INVALID_AUTH_TOKEN)


def test_three_members_give_and_take_tokens(tmp_path: Path) -> None:
    with DoorCluster(tmp_path, 3, bcrypt_cost=4) as cluster:
        clients = [client(door) for door in cluster.doors]
        secure(clients[0])
        for giver in clients:
            token = giver.Authenticate(pb.AuthenticateRequest(name="ann", password="pw")).token
            for taker in clients:
                ann = Client(taker.channel, token)
                ann.Put(pb.PutRequest(key=b"a"))
                ann.Range(pb.RangeRequest(key=b"a", serializable=True))
                refused(lambda ann=ann: ann.Put(pb.PutRequest(key=b"b")), EtcdError.PERMISSION_DENIED)
                assert not ann.watch(b"a").canceled
                assert ann.watch(b"b").canceled
        root = clients[1].log_in("root")
        for call in MEMBERS:
            ann = clients[2].log_in("ann")
            refused(lambda call=call, ann=ann: call(ann), EtcdError.PERMISSION_DENIED)
            refused(lambda call=call: call(clients[2]), EtcdError.USER_EMPTY)
        refused(lambda: root.MemberRemove(pb.MemberRemoveRequest(ID=5)), EtcdError.MEMBER_NOT_FOUND)
        stores = [door.node.auth.store for door in cluster.doors]
        assert all((one.revision, one.users, one.roles) == (stores[0].revision, stores[0].users, stores[0].roles) for one in stores)


MEMBERS: list[Any] = [
    lambda one: one.MemberAdd(pb.MemberAddRequest(peerURLs=["http://127.0.0.1:1"])),
    lambda one: one.MemberRemove(pb.MemberRemoveRequest(ID=5)),
    lambda one: one.MemberUpdate(pb.MemberUpdateRequest(ID=5, peerURLs=["http://127.0.0.1:1"])),
    lambda one: one.MemberPromote(pb.MemberPromoteRequest(ID=5)),
    lambda one: one.MoveLeader(pb.MoveLeaderRequest(targetID=5)),
]


def test_many_linearizable_reads_are_each_asked_for(tmp_path: Path) -> None:
    """More than one slice of them in one tick, of two users."""
    with DoorCluster(tmp_path, 1, bcrypt_cost=4) as cluster:
        (door,) = cluster.doors
        anybody = client(door)
        secure(anybody)
        ann, bob = anybody.log_in("ann"), anybody.log_in("bob")
        ann.Put(pb.PutRequest(key=b"a"))
        path = "/etcdserverpb.KV/Range"
        ask = anybody.channel.unary_unary(path, pb.RangeRequest.SerializeToString, pb.RangeResponse.FromString)
        calls = [ask.future(pb.RangeRequest(key=b"a"), metadata=who.metadata, timeout=20) for _ in range(150) for who in (ann, bob)]
        for mine, others in zip(calls[::2], calls[1::2], strict=True):
            assert mine.result().count == 1
            with pytest.raises(grpc.RpcError) as caught:
                others.result()
            assert caught.value.details() == "etcdserver: permission denied"
