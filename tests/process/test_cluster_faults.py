"""Short forms of `make chaos` and `make kills`, one fault each: three members under both APIs' load, every checker at the end."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from clustering import get, make_cluster, new_leader, put, started, under_load
from serving import wait_for
from test_disk_full import fill

from raftsched.testing.cluster import Cluster
from raftsched.testing.slow_disk import SlowDisk, why_not

pytestmark = [pytest.mark.process, pytest.mark.slow]
LEADER_KILLS = 4
GAP_MS_MAX = 8_000.0  # on a busy machine; the figure itself is measured by make kills


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    yield from started(make_cluster(tmp_path))


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


def test_a_follower_with_a_full_disk_harms_nobody(small_disk: Path, tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path / "cluster")
    full = cluster.members[2]
    with cluster:
        if cluster.leader() is full:
            full.stop()
            new_leader(cluster, full)
            full.start()
        with under_load(cluster):
            fill(small_disk / "filler")
            for number in range(20):
                put(cluster.leader(), b"big/%d" % number, bytes(100_000))
            time.sleep(2)
            (small_disk / "filler").unlink()
            if not full.running:  # an etcd ends when its disk is full
                full.process = None
                full.start()
        assert get(full, b"big/19") == bytes(100_000)


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
