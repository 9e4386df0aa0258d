"""A member that was down while the others let its segments go: it gets a snapshot from the leader, begins anew, and is equal."""

import os
import time
from pathlib import Path

import grpc
import pytest

from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.cluster import Cluster, Member

pytestmark = [pytest.mark.slow, pytest.mark.process]

VALUE_BYTES = 200_000
SNAPSHOT_PAUSE_S = 10.5  # between two Raft snapshots, which let segments go


def write(member: Member, first: int, count: int) -> None:
    """Puts over 300 keys, 16 at a time."""
    with grpc.insecure_channel(member.client_address) as channel:
        stub = rpc_pb2_grpc.KVStub(channel)
        waiting = []
        for number in range(first, first + count):
            put = rpc_pb2.PutRequest(key=b"k%d" % (number % 300), value=os.urandom(VALUE_BYTES))
            waiting.append(stub.Put.future(put, timeout=30))
            if len(waiting) == 16:
                waiting.pop(0).result()
        for one in waiting:
            one.result()


def segments(member: Member) -> list[str]:
    return sorted(path.name for path in (member.directory / "data").rglob("*.wal"))


def test_a_member_older_than_the_oldest_segment(tmp_path: Path) -> None:
    with Cluster(tmp_path, args=["--etcd-max-wals=1", "--etcd-snapshot-count=100"]) as cluster:
        leader, absent = cluster.leader(), cluster.followers()[0]
        absent.kill()
        write(leader, 0, 900)
        time.sleep(SNAPSHOT_PAUSE_S)
        write(leader, 900, 150)
        deadline = time.monotonic() + 15
        while segments(leader)[0].startswith("0" * 16):
            assert time.monotonic() < deadline, segments(leader)
            time.sleep(0.1)
        for delay_s in (1.0, 2.0, 3.0, 4.0):  # kill -9 on the way: while it receives, installs or opens anew
            absent.start(wait=False)
            time.sleep(delay_s)
            absent.kill()
        absent.start()
        cluster.wait_equal(60)
        assert "receiving a snapshot: done" in absent.logs(1 << 20)
        write(absent, 2_000, 20)  # through it
        cluster.wait_equal()
        absent.kill()
        absent.start()
        cluster.wait_equal()
        [own] = (absent.directory / "data").glob("*/raftsched-1")
        assert len(list(own.glob("db.*"))) == 1
        assert not (own / "db.0").exists()
