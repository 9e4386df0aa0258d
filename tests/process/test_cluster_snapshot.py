"""A member that was down while the others let its segments go: it gets a snapshot from the leader, begins anew, and is equal."""

import itertools
import json
import os
import threading
import time
from datetime import datetime
from pathlib import Path

import grpc
import pytest
from serving import metrics

from raftsched.pb.etcd import auth_pb2, rpc_pb2, rpc_pb2_grpc
from raftsched.testing.cluster import Cluster, Member

pytestmark = [pytest.mark.slow, pytest.mark.process]

VALUE_BYTES = 200_000
SNAPSHOT_PAUSE_S = 10.5  # between two Raft snapshots, which let segments go


def write(member: Member, first: int, count: int, keys: int = 300) -> None:
    """Puts over so many keys, 16 at a time."""
    with grpc.insecure_channel(member.client_address) as channel:
        stub = rpc_pb2_grpc.KVStub(channel)
        waiting = []
        for number in range(first, first + count):
            put = rpc_pb2.PutRequest(key=b"k%d" % (number % keys), value=os.urandom(VALUE_BYTES))
            waiting.append(stub.Put.future(put, timeout=30))
            if len(waiting) == 16:
                waiting.pop(0).result()
        for one in waiting:
            one.result()


def add_user(member: Member) -> None:
    """One, with a role that may read [a, b)."""
    with grpc.insecure_channel(member.client_address) as channel:
        auth = rpc_pb2_grpc.AuthStub(channel)
        auth.UserAdd(rpc_pb2.AuthUserAddRequest(name="ann", password="pw"), timeout=10)
        auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name="r"), timeout=10)
        permission = auth_pb2.Permission(key=b"a", range_end=b"b")
        auth.RoleGrantPermission(rpc_pb2.AuthRoleGrantPermissionRequest(name="r", perm=permission), timeout=10)
        auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="ann", role="r"), timeout=10)


def users(member: Member) -> tuple[int, list[str], list[tuple[str, bytes, bytes]]]:
    """What a member knows of users: the auth revision, their names, the permissions of their roles."""
    with grpc.insecure_channel(member.client_address) as channel:
        auth = rpc_pb2_grpc.AuthStub(channel)
        revision = auth.AuthStatus(rpc_pb2.AuthStatusRequest(), timeout=10).authRevision
        names = list(auth.UserList(rpc_pb2.AuthUserListRequest(), timeout=10).users)
        roles = [role for name in names for role in auth.UserGet(rpc_pb2.AuthUserGetRequest(name=name), timeout=10).roles]
        held = [(role, one.key, one.range_end) for role in roles for one in auth.RoleGet(rpc_pb2.AuthRoleGetRequest(role=role)).perm]
        return revision, names, held


def segments(member: Member) -> list[str]:
    return sorted(path.name for path in (member.directory / "data").rglob("*.wal"))


def test_a_member_older_than_the_oldest_segment(tmp_path: Path) -> None:
    with Cluster(tmp_path, args=["--etcd-max-wals=1", "--etcd-snapshot-count=100"]) as cluster:
        leader, absent = cluster.leader(), cluster.followers()[0]
        absent.kill()
        add_user(leader)
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
        sent, to = metrics(leader.metrics_port), f'{{To="{absent.status(5).header.member_id:x}"}}'
        assert sent[f"etcd_network_snapshot_send_success{to}"] >= 1
        assert sent[f"etcd_network_snapshot_send_inflights_total{to}"] == 0
        assert sent[f"etcd_network_snapshot_send_total_duration_seconds_count{to}"] == sent[f"etcd_network_snapshot_send_success{to}"]
        assert f"etcd_network_snapshot_send_failures{to}" in sent
        assert users(absent) == users(leader) == (5, ["ann"], [("r", b"a", b"b")])
        write(absent, 2_000, 20)  # through it
        cluster.wait_equal()
        absent.kill()
        absent.start()
        cluster.wait_equal()
        [own] = (absent.directory / "data").glob("*/raftsched-1")
        assert len(list(own.glob("db.*"))) == 1
        assert not (own / "db.0").exists()


class Putting:
    """One client that puts and puts at the leader; when each put was answered, in seconds since the epoch."""

    def __init__(self, member: Member) -> None:
        self.answered: list[float] = []
        self.errors: list[str] = []
        self._member = member
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with grpc.insecure_channel(self._member.client_address) as channel:
            stub = rpc_pb2_grpc.KVStub(channel)
            while not self._stopping.wait(0.002):
                try:
                    stub.Put(rpc_pb2.PutRequest(key=b"while", value=b"%d" % len(self.answered)), timeout=10)
                    self.answered.append(time.time())
                except grpc.RpcError as error:
                    self.errors.append(f"{error.code()} {error.details()}")

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(15)

    def between(self, begin: float, end: float) -> tuple[int, float]:
        """How many were answered, and the longest time without an answer."""
        times = [begin, *(one for one in self.answered if begin < one < end), end]
        return len(times) - 2, max(after - before for before, after in itertools.pairwise(times))


def when(member: Member, message: str) -> float | None:
    """When it was logged first: what goes on for long says so again."""
    lines = [json.loads(line) for line in member.logs(1 << 22).splitlines() if f'"msg":"{message}"' in line]
    return datetime.fromisoformat(lines[0]["ts"]).timestamp() if lines else None


def test_the_leader_goes_on_serving_while_it_streams_a_snapshot(tmp_path: Path) -> None:
    """300 MB: more than two seconds at the pace that a stream is held to."""
    with Cluster(tmp_path, args=["--etcd-max-wals=1", "--etcd-snapshot-count=100"]) as cluster:
        leader, absent = cluster.leader(), cluster.followers()[0]
        absent.kill()
        write(leader, 0, 1_500, keys=1_500)
        time.sleep(SNAPSHOT_PAUSE_S)
        write(leader, 0, 150, keys=1_500)
        deadline = time.monotonic() + 15
        while segments(leader)[0].startswith("0" * 16):
            assert time.monotonic() < deadline, segments(leader)
            time.sleep(0.1)
        term = leader.status(5).raftTerm
        putting = Putting(leader)
        absent.start(wait=False)
        deadline = time.monotonic() + 60
        while (end := when(leader, "sending a snapshot: done")) is None:
            assert time.monotonic() < deadline, leader.logs()
            time.sleep(0.1)
        putting.stop()
        begin = when(leader, "sending a snapshot")
        assert begin is not None
        count, gap_s = putting.between(begin, end)
        assert end - begin > 1.5, "nothing was measured"
        assert not putting.errors, putting.errors[:3]
        assert count > 10 * (end - begin), f"{count} puts in {end - begin:.1f} s"
        assert gap_s < 1.0, f"no put was answered for {gap_s:.2f} s"
        assert leader.status(5).raftTerm == term, "it stayed the leader"
        cluster.wait_equal(60)
