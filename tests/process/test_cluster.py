"""Three real processes as one store and one scheduler: forming, members, orders from the console, and what a missing majority means."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from clustering import OF_ETCD, etcdctl_program, get, make_cluster, needs_raftsched, new_leader, put, started, under_load
from serving import fetch, job_metadata, refused, wait_for

from raftsched.pb.dapr import scheduler_pb2, scheduler_pb2_grpc
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.cluster import Cluster, Member

pytestmark = pytest.mark.process
TIMED_OUT = "etcdserver: request timed out"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    yield from started(make_cluster(tmp_path))


def etcdctl(cluster: Cluster, *words: str) -> str:
    endpoints = ",".join(one.client_address for one in cluster.members)
    answer = subprocess.run([etcdctl_program(), f"--endpoints={endpoints}", *words], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_every_member_serves_what_any_member_took(cluster: Cluster) -> None:
    for writer in cluster.members:
        key = f"from-{writer.number}".encode()
        put(writer, key, b"x")
        assert [get(reader, key) for reader in cluster.members] == [b"x"] * 3
    statuses = [one.status() for one in cluster.members]
    assert len({one.header.member_id for one in statuses}) == 3
    assert len({(one.header.cluster_id, one.leader, one.raftTerm) for one in statuses}) == 1
    cluster.wait_equal()


def test_the_console_sees_the_cluster(cluster: Cluster) -> None:
    members = json.loads(etcdctl(cluster, "member", "list", "-w", "json"))["members"]
    assert sorted(one["name"] for one in members) == [one.name for one in cluster.members]
    urls = sorted(url for one in members for url in one["clientURLs"])
    assert sorted(url.rpartition(":")[2] for url in urls) == sorted(str(one.client_port) for one in cluster.members)
    statuses = json.loads(etcdctl(cluster, "endpoint", "status", "--cluster", "-w", "json"))
    assert len(statuses) == 3
    assert len({one["Status"]["leader"] for one in statuses}) == 1
    healthy = json.loads(etcdctl(cluster, "endpoint", "health", "--cluster", "-w", "json"))
    assert [one["health"] for one in healthy] == [True] * 3
    hashes = json.loads(etcdctl(cluster, "endpoint", "hashkv", "--cluster", "-w", "json"))
    assert len({one["HashKV"]["hash"] for one in hashes}) == 1


def test_leadership_moves_when_asked(cluster: Cluster) -> None:
    leader = cluster.leader()
    target = next(one for one in cluster.members if one is not leader)
    target_id = target.status().header.member_id
    words = [etcdctl_program(), f"--endpoints={leader.client_address}", "move-leader", f"{target_id:x}"]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    wait_for(lambda: cluster.leader_now() is target, 5, cluster.logs)


def test_without_a_majority_writes_time_out_and_serializable_reads_go_on(cluster: Cluster) -> None:
    put(cluster.leader(), b"before", b"x")
    cluster.wait_equal()
    survivor, *others = cluster.members
    for one in others:
        one.kill()
    for call in (lambda: put(survivor, b"after", b"x", 20), lambda: get(survivor, b"before")):
        code, text = refused(call)
        assert code is grpc.StatusCode.UNAVAILABLE, text
        assert text == TIMED_OUT or (OF_ETCD and ("no leader" in text or "leader changed" in text)), text
    assert survivor.status().leader == 0
    with grpc.insecure_channel(survivor.client_address) as channel:
        writing, reads = rpc_pb2_grpc.KVStub(channel).Put.future(rpc_pb2.PutRequest(key=b"after"), timeout=20), 0
        while not writing.done():
            assert get(survivor, b"before", serializable=True) == b"x"
            reads += 1
            time.sleep(0.1)
        late = (grpc.StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded") if OF_ETCD else (grpc.StatusCode.UNAVAILABLE, TIMED_OUT)
        assert (writing.code(), writing.details()) == late, "known from the first moment on that nobody leads"
    assert reads > 10
    assert fetch(survivor.client_port, "/health") == (503, '{"health":"false","reason":"RAFT NO LEADER"}\n')
    assert f"[-]linearizable_read failed: {TIMED_OUT}\n" in fetch(survivor.client_port, "/readyz?verbose")[1]
    cluster.start()
    cluster.leader()
    assert put(survivor, b"after", b"y") > 0
    assert [get(one, b"after") for one in cluster.members] == [b"y"] * 3


@needs_raftsched
def test_all_hosts_are_told_and_jobs_are_seen_everywhere(cluster: Cluster) -> None:
    def hosts(member: Member) -> set[str]:
        with grpc.insecure_channel(member.scheduler_address) as channel:
            stream = scheduler_pb2_grpc.SchedulerStub(channel).WatchHosts(scheduler_pb2.WatchHostsRequest(), timeout=10)
            return {host.address for host in next(iter(stream)).hosts}

    for member in cluster.members:
        wait_for(lambda member=member: len(hosts(member)) == 3, 20, lambda member=member: f"{member.name} tells {hosts(member)}")
    with grpc.insecure_channel(cluster.members[1].scheduler_address) as channel:
        request = scheduler_pb2.ScheduleJobRequest(name="far", job=scheduler_pb2.Job(due_time="24h"), metadata=job_metadata("app"))
        scheduler_pb2_grpc.SchedulerStub(channel).ScheduleJob(request, timeout=10)
    for member in cluster.members:
        with grpc.insecure_channel(member.scheduler_address) as channel:
            found = scheduler_pb2_grpc.SchedulerStub(channel).ListJobs(
                scheduler_pb2.ListJobsRequest(metadata=job_metadata("app")), timeout=10
            )
            assert [job.name for job in found.jobs] == ["far"]


def test_a_rolling_restart_loses_nothing(cluster: Cluster) -> None:
    with under_load(cluster) as load:
        for member in cluster.members:
            begin = load.now_ns()
            assert member.stop() == member.stop_code, member.logs()
            cluster.leader()
            member.start()
            cluster.leader()
            assert load.longest_gap_ms(begin) < 5000


@needs_raftsched
def test_a_wiped_member_is_replaced_under_a_new_id(cluster: Cluster) -> None:
    leader = cluster.leader()
    wiped = next(one for one in cluster.members if one is not leader)
    old_id = wiped.status().header.member_id
    with under_load(cluster):
        wiped.kill()
        wiped.wipe()
        wiped.start(wait=False)
        wiped.wait_ready(60)
        wait_for(lambda: wiped.status() is not None and not wiped.status().isLearner, 60, cluster.logs)
    assert wiped.status().header.member_id != old_id
    members = json.loads(etcdctl(cluster, "member", "list", "-w", "json"))["members"]
    assert sorted(one["name"] for one in members) == [one.name for one in cluster.members]
    assert not [one for one in members if one["ID"] == old_id]
    leader.kill()  # the new one counts: with it there is a majority
    assert new_leader(cluster, leader) is not None
    assert put(wiped, b"after", b"x") > 0
