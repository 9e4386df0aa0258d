"""The real etcdctl, 3.5.1 and 3.7, against the etcd API."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from raftsched.testing.lone_node import EtcdDoor

Etcdctl = Callable[..., subprocess.CompletedProcess[str]]


def test_keys(door: EtcdDoor, etcdctl: Etcdctl) -> None:
    assert etcdctl(door.address, "put", "foo", "bar").stdout == "OK\n"
    assert etcdctl(door.address, "get", "foo").stdout == "foo\nbar\n"
    assert etcdctl(door.address, "put", "foo", "baz", "--prev-kv").stdout == "OK\nfoo\nbar\n"
    assert etcdctl(door.address, "get", "", "--prefix", "--keys-only").stdout.split() == ["foo"]
    assert etcdctl(door.address, "get", "foo", "--rev=2", "--print-value-only").stdout == "bar\n"
    assert etcdctl(door.address, "del", "foo", "--prev-kv").stdout == "1\nfoo\nbaz\n"
    missing = etcdctl(door.address, "get", "foo", "-w", "json")
    assert json.loads(missing.stdout)["header"]["revision"] == 4
    assert etcdctl(door.address, "compaction", "4").stdout == "compacted revision 4\n"
    refused = etcdctl(door.address, "compaction", "4", check=False)
    assert "etcdserver: mvcc: required revision has been compacted" in refused.stderr
    assert refused.returncode != 0


def test_txn(door: EtcdDoor, etcdctl: Etcdctl) -> None:
    etcdctl(door.address, "put", "k", "1")
    done = etcdctl(door.address, "txn", stdin='value("k") = "1"\n\nput k 2\nget k\n\nput k 3\n\n')
    assert done.stdout == "SUCCESS\n\nOK\n\nk\n2\n"


def test_leases(door: EtcdDoor, etcdctl: Etcdctl) -> None:
    granted = etcdctl(door.address, "lease", "grant", "100").stdout
    lease = granted.split()[1]
    assert granted == f"lease {lease} granted with TTL(100s)\n"
    etcdctl(door.address, "put", "leased", "1", f"--lease={lease}")
    told = etcdctl(door.address, "lease", "timetolive", lease, "--keys").stdout
    assert "attached keys([leased])" in told
    assert etcdctl(door.address, "lease", "list").stdout == f"found 1 leases\n{lease}\n"
    assert "keepalived with TTL(100)" in etcdctl(door.address, "lease", "keep-alive", "--once", lease).stdout
    assert etcdctl(door.address, "lease", "revoke", lease).stdout == f"lease {lease} revoked\n"
    assert etcdctl(door.address, "get", "leased").stdout == ""


def test_cluster_and_maintenance(door: EtcdDoor, etcdctl: Etcdctl) -> None:
    health = etcdctl(door.address, "endpoint", "health")
    assert "is healthy" in health.stdout + health.stderr
    status = json.loads(etcdctl(door.address, "endpoint", "status", "-w", "json").stdout)[0]["Status"]
    assert status["version"] == "3.7.1"
    assert status["leader"] == status["header"]["member_id"] == door.node.member_id
    members = json.loads(etcdctl(door.address, "member", "list", "-w", "json").stdout)["members"]
    assert [member["name"] for member in members] == ["lone"]
    assert etcdctl(door.address, "alarm", "list").stdout == ""
    assert "Finished defragmenting" in etcdctl(door.address, "defrag").stdout
    assert json.loads(etcdctl(door.address, "endpoint", "hashkv", "-w", "json").stdout)[0]["HashKV"]["hash"]


def test_user_and_password_with_auth_off(door: EtcdDoor, etcdctl: Etcdctl) -> None:
    """The client is told that authentication is off, and goes on without a token."""
    assert etcdctl(door.address, "--user=root:secret", "put", "a", "1").stdout == "OK\n"


def test_watch(door: EtcdDoor, etcdctl: Etcdctl, etcdctl_path: Path) -> None:
    """From a past revision, so that nothing depends on who is first."""
    etcdctl(door.address, "put", "w", "1")
    etcdctl(door.address, "put", "w", "2")
    etcdctl(door.address, "del", "w")
    command = [str(etcdctl_path), f"--endpoints={door.address}", "watch", "w", "--rev=2", "--prev-kv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        try:
            seen = [watching.stdout.readline().strip() for _ in range(13)]
        finally:
            watching.kill()
    assert seen == ["PUT", "w", "1", "PUT", "w", "1", "w", "2", "DELETE", "w", "2", "w", ""]
