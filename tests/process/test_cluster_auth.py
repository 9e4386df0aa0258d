"""Authentication on three real processes: tokens, checks and passwords are the cluster's, and the scheduler goes on as before."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from clustering import started
from serving import Clients, Worker, wait_for

from raftsched.pb.etcd import auth_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.testing.cluster import Cluster, Member

pytestmark = [pytest.mark.process, pytest.mark.slow]
DENIED = "etcdserver: permission denied"
EMPTY = "etcdserver: user name is empty"
UNKNOWN = "etcdserver: invalid auth token"


@contextmanager
def services(member: Member) -> Iterator[tuple[Any, Any, Any]]:
    with grpc.insecure_channel(member.client_address) as channel:
        yield stubs.AuthStub(channel), stubs.KVStub(channel), stubs.LeaseStub(channel)


def secure(member: Member) -> None:
    """root, and ann with [a, b); authentication on."""
    with services(member) as (auth, _, _):
        for name in ("root", "ann"):
            auth.UserAdd(pb.AuthUserAddRequest(name=name, password="pw"), timeout=10)
            auth.RoleAdd(pb.AuthRoleAddRequest(name=name), timeout=10)
            auth.UserGrantRole(pb.AuthUserGrantRoleRequest(user=name, role=name), timeout=10)
        permission = auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=b"a", range_end=b"b")
        auth.RoleGrantPermission(pb.AuthRoleGrantPermissionRequest(name="ann", perm=permission), timeout=10)
        auth.AuthEnable(pb.AuthEnableRequest(), timeout=10)


def log_in(member: Member, name: str) -> tuple[tuple[str, str], ...]:
    """Metadata."""
    with services(member) as (auth, _, _):
        return (("token", auth.Authenticate(pb.AuthenticateRequest(name=name, password="pw"), timeout=10).token),)


def put(member: Member, key: bytes, metadata: Any = None) -> str:
    """OK, or the text of the refusal."""
    with services(member) as (_, kv, _):
        try:
            kv.Put(pb.PutRequest(key=key), metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            return str(error.details())
        return "OK"


def get(member: Member, key: bytes, metadata: Any = None) -> str:
    with services(member) as (_, kv, _):
        try:
            kv.Range(pb.RangeRequest(key=key), metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            return str(error.details())
        return "OK"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    yield from started(Cluster(tmp_path, args=["--bcrypt-cost=4"]))


def test_a_token_is_good_and_the_checks_are_the_same_everywhere(cluster: Cluster) -> None:
    secure(cluster.leader())
    for giver in cluster.members:
        ann, root = log_in(giver, "ann"), log_in(giver, "root")
        for member in cluster.members:  # at once: one that is behind waits for the token's entry
            assert (put(member, b"a", ann), put(member, b"b", ann)) == ("OK", DENIED)
            assert (get(member, b"a", ann), get(member, b"b", ann)) == ("OK", DENIED)
            assert put(member, b"b", root) == get(member, b"dapr/jobs/x", root) == "OK"
            assert put(member, b"a") == get(member, b"a") == EMPTY
            assert put(member, b"a", (("token", "abcdefghijklmnop.1"),)) == UNKNOWN
    root, ann = log_in(cluster.members[0], "root"), log_in(cluster.members[1], "ann")
    permission = auth_pb2.Permission(permType=auth_pb2.Permission.WRITE, key=b"z")
    with services(cluster.members[2]) as (auth, _, _):
        grant = pb.AuthRoleGrantPermissionRequest(name="ann", perm=permission)
        auth.RoleGrantPermission(grant, metadata=root, timeout=10)
    for member in cluster.members:
        # first what is linearizable, so that this member has the grant: else it would propose at the revision before it
        assert get(member, b"z", ann) == DENIED
        assert put(member, b"z", ann) == "OK"


def test_the_scheduler_is_not_subject_to_it(cluster: Cluster) -> None:
    """Jobs are taken, fire and are counted down before, while and after authentication is switched on."""
    member = cluster.members[0]
    clients = Clients(member)
    workers = [Worker(one) for one in cluster.members]  # whoever owns a job fires it at its own

    def delivered(name: str) -> int:
        return sum(worker.deliveries.count(name) for worker in workers)

    try:
        clients.schedule("before", schedule="@every 200ms", repeats=1_000)
        wait_for(lambda: delivered("before") > 2, 20, "nothing fires without authentication")
        secure(member)
        clients.schedule("after", schedule="@every 200ms", repeats=1_000)
        seen = delivered("before")
        wait_for(lambda: delivered("before") > seen + 5 and delivered("after") > 5, 20, "triggers stopped")
        assert clients.listed() == {"before", "after"}
        root = log_in(member, "root")
        with services(member) as (_, kv, _):

            def found(prefix: bytes) -> Any:
                return kv.Range(pb.RangeRequest(key=prefix, range_end=prefix[:-1] + b"0"), metadata=root, timeout=10).kvs

            first = {one.key: one.version for one in found(b"dapr/counters/")}
            assert len(first) == 2
            wait_for(lambda: all(one.version > first[one.key] for one in found(b"dapr/counters/")), 20, "results are not stored")
            assert len(found(b"dapr/leadership/")) == 3
    finally:
        for worker in workers:
            worker.stop()
        clients.close()


def test_it_is_still_on_after_all_were_killed(cluster: Cluster) -> None:
    secure(cluster.members[0])
    log_in(cluster.members[0], "ann")
    for member in cluster.members:
        member.kill()
    cluster.start()
    ann = log_in(cluster.members[1], "ann")
    for member in cluster.members:
        assert (put(member, b"a", ann), put(member, b"b", ann), put(member, b"a")) == ("OK", DENIED, EMPTY)


def test_a_lease_still_ends(cluster: Cluster) -> None:
    """The leader revokes it in nobody's name but its own."""
    member = cluster.members[0]
    secure(member)
    ann = log_in(member, "ann")
    with services(member) as (_, kv, lease):
        granted = lease.LeaseGrant(pb.LeaseGrantRequest(TTL=2), metadata=ann, timeout=10).ID
        kv.Put(pb.PutRequest(key=b"a", lease=granted), metadata=ann, timeout=10)
        deadline = time.monotonic() + 15
        while kv.Range(pb.RangeRequest(key=b"a"), metadata=ann, timeout=10).count:
            assert time.monotonic() < deadline, "the key outlives its lease"
            time.sleep(0.2)
