"""Who belongs to which cluster, with real processes: disks that are lost, members that come late, a majority that is given up."""

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from clustering import get, put
from serving import wait_for

from raftsched.cli.app import run
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.store.reconfigure import HEALTH_INTERVAL_MS
from raftsched.testing.cluster import Cluster, Member
from raftsched.testing.process import free_ports

pytestmark = pytest.mark.process


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 3) as opened:
        yield opened


def ids(member: Member) -> dict[str, int]:
    with grpc.insecure_channel(member.client_address) as channel:
        listed = rpc_pb2_grpc.ClusterStub(channel).MemberList(rpc_pb2.MemberListRequest(linearizable=True), timeout=20).members
    return {one.name: one.ID for one in listed}


def votes(member: Member) -> bool:
    """A learner serves next to nothing."""
    status = member.status()
    return status is not None and not status.isLearner


def end_of(member: Member, timeout_s: float = 30, *, code: int = 1) -> str:
    """The logs of one that must not go on."""
    assert member.process is not None
    assert member.process.wait(timeout_s) == code, member.logs()
    member.process = None
    return member.logs()


def test_a_slow_old_member_refuses_the_cluster_that_two_wiped_ones_began(cluster: Cluster) -> None:
    old, *others = cluster.members
    put(old, b"k", b"old")
    for one in cluster.members:
        one.stop()
    for one in others:
        one.wipe()
        one.start(wait=False)  # without the third they begin anew after --form-wait
    for one in others:
        one.wait_ready(60)
    assert put(others[0], b"k", b"new") > 0
    old.start(wait=False)
    text = end_of(old)
    assert "but the other members have begun another cluster" in text
    assert "refusing to serve. Nothing was changed" in text
    assert get(others[1], b"k") == b"new"
    old.wipe()
    old.start(wait=False)
    old.wait_ready(60)
    wait_for(lambda: get(old, b"k", serializable=True) == b"new", 30, cluster.logs)


def test_the_survivor_of_a_lost_majority_is_brought_back_and_the_others_join_it(cluster: Cluster) -> None:
    survivor, wiped, late = cluster.members
    put(survivor, b"k", b"kept")
    before = ids(survivor)
    cluster.wait_equal()
    for one in cluster.members:
        one.kill()
    survivor.command.append("--force-new-cluster")
    survivor.start(wait=False)
    survivor.wait_ready(60)
    assert get(survivor, b"k") == b"kept"
    assert ids(survivor) == {survivor.name: before[survivor.name]}
    survivor.stop()
    survivor.start(wait=False)
    survivor.wait_ready(60)
    wiped.wipe()
    wiped.start(wait=False)
    wiped.wait_ready(60)
    wait_for(lambda: len(ids(survivor)) == 2, 30, cluster.logs)
    assert ids(survivor)[wiped.name] != before[wiped.name]
    wait_for(lambda: votes(wiped), 30, cluster.logs)
    survivor.stop()
    survivor.start(wait=False)  # the flag was left where it is
    survivor.wait_ready(60)
    assert survivor.logs(1 << 20).count("--force-new-cluster: removed") == 1
    assert "--force-new-cluster is ignored" in survivor.logs(1 << 20)
    assert len(ids(survivor)) == 2
    put(wiped, b"k", b"kept still")
    survivor.stop()
    survivor.command.remove("--force-new-cluster")
    survivor.start(wait=False)
    survivor.wait_ready(60)
    assert len(ids(survivor)) == 2
    survivor.stop()
    survivor.command.append("--force-new-cluster")  # given again by mistake
    survivor.start(wait=False)
    assert "with this member a majority: refusing to begin another one" in end_of(survivor)
    survivor.command.remove("--force-new-cluster")
    survivor.start(wait=False)
    survivor.wait_ready(60)
    late.start(wait=False)  # with the data of a member that is none any more
    assert "removed" in end_of(late)
    assert get(survivor, b"k") == b"kept still"
    assert len(ids(survivor)) == 2


def leave(member: Member) -> None:
    assert run(["member", "leave", "--id", member.name, "--address", member.client_address, "--timeout", "30"]) == 0


def test_scaled_down_and_up_again_on_kept_volumes(cluster: Cluster) -> None:
    first, *others = cluster.members
    put(first, b"k", b"kept")
    before = ids(first)
    for one in reversed(others):
        leave(one)
        text = end_of(one, code=0)
        assert "this member has left the cluster" in text
        assert "Fatal" not in text
    assert ids(first) == {first.name: before[first.name]}
    put(first, b"k", b"newer")
    for one in others:
        one.start(wait=False)
    for one in others:
        one.wait_ready(60)
        assert "its data were set aside in" in one.logs(20_000)
        wait_for(lambda one=one: get(one, b"k", serializable=True) == b"newer", 30, cluster.logs)
    after = ids(first)
    assert set(after) == set(before)
    assert all(after[one.name] != before[one.name] for one in others)
    cluster.wait_equal()


def test_a_member_that_comes_back_at_another_port_tells_its_cluster(cluster: Cluster) -> None:
    leader = cluster.leader()
    moved = next(one for one in cluster.members if one is not leader)
    before = ids(leader)
    put(leader, b"k", b"v")
    moved.stop()
    (port,) = free_ports(1)
    ports = [port if one is moved else old for one, old in zip(cluster.members, cluster.advertised, strict=True)]
    moved.list_members(ports)
    moved.command = [f"--peer-listen-address=127.0.0.1:{port}" if "--peer-listen" in word else word for word in moved.command]
    moved.start(wait=False)
    wait_for(lambda: moved.listens, 20, cluster.logs)
    assert get(moved, b"k") == b"v"
    assert ids(moved) == before, "it is who it was"
    put(moved, b"k", b"w")
    with grpc.insecure_channel(leader.client_address) as channel:
        listed = rpc_pb2_grpc.ClusterStub(channel).MemberList(rpc_pb2.MemberListRequest(linearizable=True), timeout=20).members
    assert [list(one.peerURLs) for one in listed if one.name == moved.name] == [[f"http://127.0.0.1:{port}"]]
    cluster.wait_equal()


def test_a_member_that_was_added_by_hand_starts_with_the_id_that_was_shown(tmp_path: Path) -> None:
    with Cluster(tmp_path, 4, first=3) as cluster:
        leader, late = cluster.leader(), cluster.members[3]
        time.sleep(HEALTH_INTERVAL_MS / 1000)  # etcd's strict check: all have been connected for as long
        with grpc.insecure_channel(leader.client_address) as channel:
            url = f"http://127.0.0.1:{cluster.advertised[3]}"
            added = rpc_pb2_grpc.ClusterStub(channel).MemberAdd(rpc_pb2.MemberAddRequest(peerURLs=[url]), timeout=20).member
        assert not added.isLearner
        late.list_members(cluster.advertised)
        late.start(wait=False)
        wait_for(lambda: ids(leader).get(late.name) == added.ID, 20, cluster.logs)
        late.wait_ready(60)
        put(late, b"k", b"v")
        assert len(ids(late)) == 4
        assert ids(late)[late.name] == added.ID
        late.stop()
        late.wipe()
        late.start(wait=False)
        late.wait_ready(60)
        wait_for(lambda: ids(leader).get(late.name) not in (None, added.ID), 30, cluster.logs)
        assert len(ids(leader)) == 4


def test_changes_of_members_without_a_majority_answer_as_etcd(cluster: Cluster) -> None:
    one, *others = cluster.members
    number = ids(one)[others[0].name]
    for other in others:
        other.kill()
    wait_for(lambda: (status := one.status()) is not None and status.leader == 0, 20, cluster.logs)
    with grpc.insecure_channel(one.client_address) as channel:
        stub, began_s = rpc_pb2_grpc.ClusterStub(channel), time.monotonic()
        waiting = [
            stub.MemberRemove.future(rpc_pb2.MemberRemoveRequest(ID=number), timeout=30),
            stub.MemberUpdate.future(rpc_pb2.MemberUpdateRequest(ID=number, peerURLs=["http://moved:1"]), timeout=30),
            stub.MemberPromote.future(rpc_pb2.MemberPromoteRequest(ID=number), timeout=30),
        ]
        with pytest.raises(grpc.RpcError) as refused:
            stub.MemberAdd(rpc_pb2.MemberAddRequest(peerURLs=["http://new:1"]), timeout=30)
        assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster")
        assert time.monotonic() - began_s < 3, "etcd asks no leader to know it"
        for call, text in zip(waiting, ("request timed out", "request timed out", "no leader"), strict=True):
            assert (call.code(), call.details()) == (grpc.StatusCode.UNAVAILABLE, f"etcdserver: {text}")
        assert 6 < time.monotonic() - began_s < 12
    for other in others:
        other.start(wait=False)
    cluster.leader()
    assert len(ids(one)) == 3, "none of them was done later"
