"""Authentication against a real etcd: the same random traffic of several users, every answer and error compared (testing/auth_traffic).

How much of it, and which: tests/interop/amounts.py.
"""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from amounts import Record, runs

from raftsched.pb.etcd import rpc_pb2
from raftsched.testing.auth_traffic import AuthDifferential
from raftsched.testing.door_cluster import DoorCluster
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.lone_node import EtcdDoor
from raftsched.testing.wire_side import Side

CLUSTER_SHARE = 10
"""To three members go so many times fewer requests."""


@pytest.fixture
def judge(tmp_path: Path, etcd_program: Path) -> Iterator[RealEtcd]:
    """Of 3.7: what users may do has changed since 3.5 (DIFFERENCES_3_5)."""
    with RealEtcd(tmp_path / "judge", etcd_program, args=["--bcrypt-cost=4", "--unsafe-no-fsync"]) as etcd:
        yield etcd


@pytest.mark.parametrize(("seed", "requests"), runs("users"))
def test_same_users_same_answers(seed: int, requests: int, judge: RealEtcd, door: EtcdDoor, record_property: Record) -> None:
    compared = AuthDifferential(judge.address, door.address, seed=seed)
    try:
        compared.run(requests)
    finally:
        compared.close()
    assert compared.steps >= requests
    assert_lively(compared, requests)
    record_property("compared", compared.steps)


def assert_lively(compared: AuthDifferential, steps: int) -> None:
    """Enough was refused, and enough was done, to say anything."""
    denied = sum(count for (_, said), count in compared.outcomes.items() if "permission denied" in said)
    done = sum(count for (_, said), count in compared.outcomes.items() if said == "OK")
    assert denied > steps * 0.05, compared.outcomes
    assert done > steps * 0.15, compared.outcomes


@pytest.mark.parametrize(("seed", "requests"), runs("users"))
def test_one_real_member_and_a_cluster_of_three(seed: int, requests: int, judge: RealEtcd, tmp_path: Path, record_property: Record) -> None:
    """Each request at another member, with tokens that yet another one gave out: the checks are the same on all."""
    steps = requests // CLUSTER_SHARE
    with DoorCluster(tmp_path / "subject", bcrypt_cost=4) as cluster:
        compared = AuthDifferential(judge.address, *cluster.addresses, seed=seed + 1_000)
        try:
            compared.run(steps)
        finally:
            compared.close()
        assert_lively(compared, steps)
        record_property("compared", compared.steps)
        stores = [door.node.auth.store for door in cluster.doors]
        held = [(store.enabled, store.revision, store.users, store.roles) for store in stores]
        assert held[1:] == held[:-1]


METHODS = [one.name for one in rpc_pb2.DESCRIPTOR.services_by_name["Auth"].methods]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_request_is_told_so(method: str, idle_etcd: RealEtcd, door: EtcdDoor) -> None:
    """Or is done: the judge is one for all methods, so that only whether it could be read is compared."""
    if idle_etcd.version < (3, 7):
        pytest.skip("an older etcd reads some bytes otherwise")
    for message in (b"\xff", b"\x0a\x05ab", b"\x0a\x01\xff", b"\x0a\x01a\x12\x01\xff", b"\x0b", b"\x12\x02\x08\x80"):
        judge, subject = (Side(address) for address in (idle_etcd.address, door.address))
        try:
            told = [one.raw(f"/etcdserverpb.Auth/{method}", message) for one in (judge, subject)]
        finally:
            judge.close()
            subject.close()
        unreadable = [isinstance(one, tuple) and one[0] is grpc.StatusCode.INTERNAL for one in told]
        assert unreadable[1] == unreadable[0], f"{message!r}: {told}"
