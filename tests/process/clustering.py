"""What the cluster tests share: clusters of raftsched (or of real etcds, to try the tests), and a load whose verdict is asserted."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.chaos import Run
from raftsched.testing.cluster import Cluster, Member
from raftsched.testing.job_load import JobLoad
from raftsched.testing.store_load import StoreLoad

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import tools

SLOWER = 3.0  # than the load of make chaos: the tests share two cores with three members
OF_ETCD = os.environ.get("RAFTSCHED_CLUSTER_OF") == "etcd"  # runs these tests on real etcds
needs_raftsched = pytest.mark.skipif(OF_ETCD, reason="what no etcd does, and RAFTSCHED_CLUSTER_OF=etcd")


def make_cluster(folder: Path, count: int = 3, *, linked: bool = False, args: tuple[str, ...] = ()) -> Cluster:
    """Not started yet."""
    if not OF_ETCD:
        return Cluster(folder, count, linked=linked, args=args)
    program = tools.etcd()
    if program is None:
        pytest.skip("no etcd here")
    return Cluster(folder, count, etcd=program, linked=linked)


@contextmanager
def under_load(cluster: Cluster) -> Iterator[StoreLoad]:
    """Both APIs' load for as long as the block takes; afterwards no checker may have found anything."""
    with running_under_load(cluster) as run:
        yield run.store


@contextmanager
def running_under_load(cluster: Cluster) -> Iterator[Run]:
    """The same; whose block may `connect` and `disconnect` members."""
    members = cluster.members[: cluster.size]
    stores = [one.client_address for one in members]
    jobs = None if OF_ETCD else JobLoad([one.scheduler_address for one in members], stores, recurring=10, pause_s=0.2)
    run = Run(cluster, jobs, StoreLoad(stores, slower=SLOWER), seed=0)
    try:
        if jobs is not None:
            jobs.start()
        yield run
    except BaseException:
        run.store.stop()
        raise
    wrong = run.finish(cluster.members[0].directory)
    assert not wrong, "\n".join(wrong[:5])
    figures = run.figures()
    assert figures["store"]["register"] > 100, f"hardly any load: {figures}"
    assert jobs is None or figures["jobs"]["deliveries"] > 10, f"hardly any job: {figures}"


def put(member: Member, key: bytes, value: bytes, timeout_s: float = 10) -> int:
    """The revision."""
    with grpc.insecure_channel(member.client_address) as channel:
        return int(rpc_pb2_grpc.KVStub(channel).Put(rpc_pb2.PutRequest(key=key, value=value), timeout=timeout_s).header.revision)


def get(member: Member, key: bytes, *, serializable: bool = False) -> bytes | None:
    with grpc.insecure_channel(member.client_address) as channel:
        pairs = rpc_pb2_grpc.KVStub(channel).Range(rpc_pb2.RangeRequest(key=key, serializable=serializable), timeout=10).kvs
        return pairs[0].value if pairs else None


def new_leader(cluster: Cluster, old: Member, timeout_s: float = 15) -> Member:
    """Another leader than `old`, which may still take itself for one."""
    deadline = time.monotonic() + timeout_s
    while (found := cluster.leader_now()) is None or found is old:
        assert time.monotonic() < deadline, f"no other leader than {old.name}\n{cluster.logs()}"
        time.sleep(0.05)
    return found


def etcdctl_program() -> Path:
    program = tools.etcdctl()
    if program is None:
        pytest.skip("no etcdctl here")
    return program


def started(cluster: Cluster) -> Iterator[Cluster]:
    """For fixtures."""
    with cluster:
        yield cluster
