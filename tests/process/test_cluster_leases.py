"""Exactly one lease per scheduler, also in a cluster: after the start, after the leader was killed, and once everybody is back."""

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from clustering import new_leader
from serving import wait_for

from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.scheduler.jobs.names import LEADERSHIP, prefix_end
from raftsched.testing.cluster import Cluster, Member

pytestmark = pytest.mark.process
STEADY_S = 2.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 3) as opened:
        yield opened


def shown(member: Member) -> tuple[dict[str, int], list[int]]:
    """The leadership keys by scheduler with their leases, and all leases that there are."""
    with grpc.insecure_channel(member.client_address) as channel:
        keys = rpc_pb2_grpc.KVStub(channel).Range(rpc_pb2.RangeRequest(key=LEADERSHIP, range_end=prefix_end(LEADERSHIP)), timeout=10).kvs
        leases = rpc_pb2_grpc.LeaseStub(channel).LeaseLeases(rpc_pb2.LeaseLeasesRequest(), timeout=10).leases
    return {one.key.removeprefix(LEADERSHIP).decode(): one.lease for one in keys}, sorted(one.ID for one in leases)


def each_has_one(asked: list[Member], owners: list[Member]) -> bool:
    """As each of `asked` sees it."""
    for member in asked:
        keys, leases = shown(member)
        if sorted(keys) != sorted(one.name for one in owners) or 0 in leases or sorted(keys.values()) != leases:
            return False
    return True


def stay_so(cluster: Cluster, owners: list[Member]) -> None:
    wait_for(lambda: each_has_one(owners, owners), 20, lambda: f"{shown(owners[0])}\n{cluster.logs()}")
    until_s = time.monotonic() + STEADY_S
    while time.monotonic() < until_s:
        assert each_has_one(owners, owners), f"{shown(owners[0])}\n{cluster.logs()}"
        time.sleep(0.1)


def test_each_scheduler_of_a_cluster_has_one_lease_whoever_goes_and_comes(cluster: Cluster) -> None:
    stay_so(cluster, cluster.members)
    before = shown(cluster.members[0])[0]
    killed = cluster.leader()
    killed.kill()
    new_leader(cluster, killed)
    others = [one for one in cluster.members if one is not killed]
    stay_so(cluster, others)
    assert all(shown(others[0])[0][one.name] == before[one.name] for one in others), "a failover costs nobody its lease"
    killed.start(wait=False)
    killed.wait_ready(60)
    stay_so(cluster, cluster.members)
    stopped = others[0]
    stopped.stop()
    stay_so(cluster, [one for one in cluster.members if one is not stopped])
    stopped.start(wait=False)
    stopped.wait_ready(60)
    stay_so(cluster, cluster.members)
