"""From one member to three, to five, and back to one, under the load of both APIs: nothing is lost, no tick is missing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from clustering import needs_raftsched, running_under_load
from serving import wait_for

from raftsched.cli.app import run as command
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.chaos import Run
from raftsched.testing.cluster import Cluster, Member
from raftsched.testing.kubernetes import KubernetesApi

pytestmark = [pytest.mark.process, pytest.mark.slow, needs_raftsched]
GAP_MS_MAX = 5_000.0  # an election takes 0.5 to 1.5 s; two busy cores serve five members and the load


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    with KubernetesApi(tmp_path) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", 5, first=1) as made:
        yield made


def names(member: Member) -> list[str]:
    with grpc.insecure_channel(member.client_address) as channel:
        found = rpc_pb2_grpc.ClusterStub(channel).MemberList(rpc_pb2.MemberListRequest(linearizable=True), timeout=20).members
    return sorted(one.name for one in found)


def leads(cluster: Cluster, member: Member) -> None:
    """Makes it the leader: the hardest one to take away."""
    leader = cluster.leader()
    if leader is not member:
        with grpc.insecure_channel(leader.client_address) as channel:
            target = rpc_pb2.MoveLeaderRequest(targetID=member.status(5).header.member_id)
            rpc_pb2_grpc.MaintenanceStub(channel).MoveLeader(target, timeout=20)


def leave(member: Member, api: KubernetesApi) -> int:
    """What a preStop hook does."""
    words = ["member", "leave", "--if-scaled-down", f"--id={member.name}", f"--address={member.client_address}"]
    return command([*words, f"--service-account-dir={api.folder}"])


def ends(member: Member, code: int, line: str) -> None:
    assert member.process is not None
    assert member.process.wait(30) == code, member.logs()
    member.process = None
    assert line in member.logs()


def test_one_three_five_three_one(cluster: Cluster, api: KubernetesApi, record_property: Callable[[str, object], None]) -> None:
    gaps: dict[str, float] = {}

    def measure(name: str, since_ns: int) -> None:
        gaps[name] = round(load.store.longest_gap_ms(since_ns))

    def grow(size: int) -> None:
        begin = load.store.now_ns()
        for one in cluster.grow(size, timeout_s=60):
            load.connect(one)
        assert len(names(cluster.members[0])) == size
        steady(load)
        measure(f"to {size}", begin)

    def shrink(size: int) -> None:
        """The highest ordinals go, one after the other; the first of them leads."""
        leads(cluster, cluster.members[cluster.size - 1])
        for one in reversed(cluster.members[size : cluster.size]):
            begin = load.store.now_ns()
            if one.number % 2:  # somebody else removes it, by hand
                assert command(["member", "remove", one.name, f"--address={cluster.members[0].client_address}"]) == 0
                ends(one, 1, "this member was removed from the cluster")
            else:
                api.scale(one.number + 1)
                assert leave(one, api) == 0
                assert one.running, "an ordinal that is to be there has left"
                api.scale(size)
                assert leave(one, api) == 0
                ends(one, 0, "this member has left the cluster")
            cluster.shrink(one.number)
            load.disconnect(one)
            cluster.leader()
            steady(load)
            measure(f"without {one.number}", begin)
        assert len(names(cluster.members[0])) == size

    with running_under_load(cluster) as load:
        steady(load)
        for size in (3, 5):
            grow(size)
        for size in (3, 1):
            shrink(size)
    record_property("longest time without an acknowledged write, ms", gaps)
    print(f"without writes, ms: {gaps}; {load.figures()}")
    assert max(gaps.values()) < GAP_MS_MAX, gaps


def steady(load: Run) -> None:
    """Waits until the load has written something more, and its recurring jobs have ticked twice."""
    assert load.jobs is not None
    written, deliveries = load.store.writes, load.jobs.deliveries
    wanted = len(deliveries) + 2 * load.jobs.recurring
    wait_for(lambda: len(deliveries) >= wanted, 30, "no ticks")
    wait_for(lambda: load.store.writes > written + 50, 30, "no writes")
