"""Short forms of `make chaos` and `make kills`, one fault each: three members under both APIs' load, every checker at the end."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from clustering import get, make_cluster, needs_raftsched, new_leader, put, running_under_load, started, under_load
from serving import metrics, wait_for
from test_disk_full import fill

from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.cluster import Cluster, Member
from raftsched.testing.managed import ManagedCluster
from raftsched.testing.nemesis import Nemesis
from raftsched.testing.slow_disk import SlowDisk, why_not

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.once]
LEADER_KILLS = 4
FULL_PUTS = 40  # of 1 MB: more than the log has taken ahead, with its reserve
TAKEN_OVER_S = 6.0  # between two ticks of one job, on a busy machine; a tick a second, and about two until others have the job
GAP_MS_MAX = 8_000.0  # on a busy machine; the figure itself is measured by make kills


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    yield from started(make_cluster(tmp_path))


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Cluster]:
    yield from started(ManagedCluster(tmp_path, 3, Path(__file__).parents[2] / "scripts" / "cluster.py"))


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[Cluster]:
    yield from started(make_cluster(tmp_path, linked=True))


def test_the_leader_is_killed_again_and_again(cluster: Cluster) -> None:
    with under_load(cluster) as load:
        for _ in range(LEADER_KILLS):
            time.sleep(1)  # load between two kills, not a wait for a condition
            begin = load.now_ns()
            leader = cluster.leader()
            leader.kill()
            new_leader(cluster, leader)
            leader.start()
            assert load.longest_gap_ms(begin) < GAP_MS_MAX


def test_all_members_are_killed_at_once(cluster: Cluster) -> None:
    with under_load(cluster):
        for _ in range(2):
            time.sleep(1)
            for member in cluster.members:
                member.kill()
            cluster.start()
            cluster.leader()


@needs_raftsched
def test_what_make_cluster_starts_survives_faults(managed: Cluster) -> None:
    """As `make chaos`: members of `make cluster`, its manager starts again what is killed."""
    with under_load(managed):
        nemesis = Nemesis(managed, 11)
        for fault in ("cut off the leader", "kill the leader", "pause the leader"):
            nemesis.strike(fault)
        assert nemesis.done.total() == 3


def test_a_leader_that_sleeps_wakes_as_a_follower(cluster: Cluster) -> None:
    with under_load(cluster):
        time.sleep(1)
        leader = cluster.leader()
        leader.pause()
        other = new_leader(cluster, leader)
        put(other, b"meanwhile", b"x")
        leader.resume()
        assert get(leader, b"meanwhile") == b"x"
        time.sleep(1)


def test_a_leader_that_is_cut_off_serves_nothing_stale(linked: Cluster) -> None:
    assert linked.links is not None
    with under_load(linked):
        time.sleep(1)
        old = linked.leader()
        put(old, b"key", b"before")
        linked.links.separate(old.number, [one.number for one in linked.members if one is not old])
        other = new_leader(linked, old)
        put(other, b"key", b"after")
        with pytest.raises(grpc.RpcError):
            get(old, b"key")
        assert get(old, b"key", serializable=True) == b"before"
        linked.links.heal()
        wait_for(lambda: get(old, b"key", serializable=True) == b"after", 15, linked.logs)


@pytest.mark.parametrize("heard", [True, False])
def test_a_leader_with_one_way_links_is_replaced(linked: Cluster, heard: bool) -> None:
    assert linked.links is not None
    with under_load(linked):
        time.sleep(1)
        old = linked.leader()
        for other in linked.members:
            if other is not old:
                linked.links.cut(*((other.number, old.number) if heard else (old.number, other.number)))
        put(new_leader(linked, old), b"key", b"after")
        linked.links.heal()
        assert get(old, b"key") == b"after"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    path = tmp_path / "cluster" / "member-2"
    path.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mount refuses a tmpfs: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def lead(cluster: Cluster, member: Member) -> None:
    leader = cluster.leader()
    if leader is not member:
        with grpc.insecure_channel(leader.client_address) as channel:
            target = member.status(5).header.member_id
            rpc_pb2_grpc.MaintenanceStub(channel).MoveLeader(rpc_pb2.MoveLeaderRequest(targetID=target), timeout=20)
    wait_for(lambda: cluster.leader_now() is member, 15, cluster.logs)


def keep_alive(member: Member, lease: int) -> int:
    """The time to live, s."""
    with grpc.insecure_channel(member.client_address) as channel:
        requests = iter([rpc_pb2.LeaseKeepAliveRequest(ID=lease)])
        return int(next(iter(rpc_pb2_grpc.LeaseStub(channel).LeaseKeepAlive(requests, timeout=5))).TTL)


def applied(member: Member) -> int:
    answer = member.status(5)
    assert answer is not None, member.name
    return int(answer.raftAppliedIndex)


def is_full(member: Member) -> bool:
    return metrics(member.client_port)["raftsched_disk_full"] == 1


@needs_raftsched
@pytest.mark.parametrize("of_leader", [False, True])
def test_a_full_disk_harms_nobody(small_disk: Path, tmp_path: Path, of_leader: bool) -> None:
    """More is written than the full log has room for: its member falls behind, and has the same in the end. Its jobs are the others' after
    about two seconds, leases live on, and it leads nobody."""
    cluster = make_cluster(tmp_path / "cluster")
    full, healthy = cluster.members[2], cluster.members[:2]
    with cluster:
        lead(cluster, full if of_leader else healthy[0])
        with running_under_load(cluster) as run:
            time.sleep(3)  # every job fires
            begin_ns = time.time_ns()
            fill(small_disk / "filler")
            wait_for(lambda: cluster.leader_now() in healthy, 10, cluster.logs)
            term = cluster.leader().status(5).raftTerm
            for number in range(FULL_PUTS):
                put(healthy[number % 2], b"big/%d" % number, bytes(1_000_000))
            wait_for(lambda: applied(full) < min(map(applied, healthy)) - 10, 10, cluster.logs)
            with grpc.insecure_channel(healthy[1].client_address) as channel:
                lease = rpc_pb2_grpc.LeaseStub(channel).LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=10), timeout=9).ID
            for _ in range(8):
                time.sleep(1)  # load while it is behind, not a wait for a condition
                assert keep_alive(healthy[0], lease) == 10
            behind, end_ns = min(map(applied, healthy)) - applied(full), time.time_ns()
            assert behind > 100, "the disk was not full"
            assert [is_full(one) for one in cluster.members] == [False, False, True]
            assert run.jobs is not None
            gaps_s = run.jobs.gaps_s(begin_ns, end_ns)
            print(f"\nfull {'leader' if of_leader else 'follower'}: {behind} entries behind, the longest gap {max(gaps_s.values()):.2f} s")
            assert len(gaps_s) == run.jobs.recurring
            assert max(gaps_s.values()) < TAKEN_OVER_S
            answer = cluster.leader().status(5)
            assert (cluster.leader() in healthy, answer.raftTerm) == (True, term), "leadership wandered"
            (small_disk / "filler").unlink()
        assert get(full, b"big/%d" % (FULL_PUTS - 1)) == bytes(1_000_000)
        cluster.wait_equal()
        wait_for(lambda: not is_full(full), 5, full.logs)


@pytest.mark.parametrize("of_leader", [False, True])
def test_a_slow_disk_loses_nothing(cluster: Cluster, of_leader: bool) -> None:
    """A follower's is not waited for, and a majority without the leader's is enough as well."""
    if reason := why_not():
        pytest.skip(reason)
    slow = cluster.leader() if of_leader else cluster.followers()[0]
    assert slow.process is not None
    with under_load(cluster) as load:
        time.sleep(1)  # load before and during the slowness, not a wait for a condition
        begin = load.now_ns()
        with SlowDisk(slow.directory, slow.process.pid, writes_per_s=10) as disk:
            time.sleep(4)
            assert disk.writes() > 20, "it was not held back"
        assert load.longest_gap_ms(begin) < GAP_MS_MAX
