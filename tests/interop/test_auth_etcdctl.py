"""`etcdctl auth`, `user` and `role`, in every command, of 3.5.1 and 3.7; and what other commands say to whom."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from raftsched.testing.door_cluster import one_door
from raftsched.testing.lone_node import EtcdDoor

Etcdctl = Callable[..., subprocess.CompletedProcess[str]]
ROOT = "--user=root:pw"


@pytest.fixture(params=[("one", "3.5"), ("one", "3.7"), ("follower", "3.7")], ids="-".join)
def setting(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A member alone or one of three that does not lead, and the version of etcdctl."""
    kind, version = request.param
    return kind, version


@pytest.fixture
def door(setting: tuple[str, str], tmp_path: Path) -> Iterator[EtcdDoor]:
    with one_door(setting[0], tmp_path, bcrypt_cost=4) as opened:
        yield opened


@pytest.fixture
def etcdctl_path(setting: tuple[str, str], tools: ModuleType) -> Path:
    path = tools.etcdctl(setting[1])
    if path is None:
        pytest.skip(f"no etcdctl {setting[1]} here")
    return Path(path)


@pytest.fixture
def secured(door: EtcdDoor, etcdctl: Etcdctl) -> EtcdDoor:
    """root, ann with the prefix a, authentication on."""
    for words in (
        ("user", "add", "root:pw"),
        ("user", "add", "ann:pw"),
        ("role", "add", "as"),
        ("role", "grant-permission", "as", "readwrite", "a", "--prefix"),
        ("user", "grant-role", "ann", "as"),
    ):
        etcdctl(door.address, *words)
    # the role root is not there yet: etcdctl tells by the text of the refusal, makes it, grants it, and asks again
    assert etcdctl(door.address, "auth", "enable").stdout.splitlines()[-1] == "Authentication Enabled"
    return door


def refusal(etcdctl: Etcdctl, door: EtcdDoor, *words: str) -> str:
    done = etcdctl(door.address, *words, check=False)
    assert done.returncode != 0, done.stdout
    return done.stdout + done.stderr


def test_users(door: EtcdDoor, etcdctl: Etcdctl) -> None:
    assert etcdctl(door.address, "user", "add", "ann:pw").stdout == "User ann created\n"
    assert etcdctl(door.address, "user", "add", "bob", "--interactive=false", stdin="pw\n").stdout == "User bob created\n"
    assert etcdctl(door.address, "user", "add", "cert", "--no-password").stdout == "User cert created\n"
    assert "user name already exists" in refusal(etcdctl, door, "user", "add", "ann:pw")
    assert etcdctl(door.address, "user", "list").stdout.split() == ["ann", "bob", "cert"]
    assert etcdctl(door.address, "user", "passwd", "ann", "--interactive=false", stdin="new\n").stdout == "Password updated\n"
    etcdctl(door.address, "role", "add", "r")
    etcdctl(door.address, "role", "grant-permission", "r", "read", "k")
    assert etcdctl(door.address, "user", "grant-role", "ann", "r").stdout == "Role r is granted to user ann\n"
    assert "role name not found" in refusal(etcdctl, door, "user", "grant-role", "ann", "no")
    assert etcdctl(door.address, "user", "get", "ann").stdout == "User: ann\nRoles: r\n"
    assert "KV Read:\n\tk\n" in etcdctl(door.address, "user", "get", "ann", "--detail").stdout
    assert etcdctl(door.address, "user", "revoke-role", "ann", "r").stdout == "Role r is revoked from user ann\n"
    assert "role is not granted to the user" in refusal(etcdctl, door, "user", "revoke-role", "ann", "r")
    assert etcdctl(door.address, "user", "delete", "ann").stdout == "User ann deleted\n"
    assert "user name not found" in refusal(etcdctl, door, "user", "get", "ann")


def test_roles(door: EtcdDoor, etcdctl: Etcdctl) -> None:
    assert etcdctl(door.address, "role", "add", "r").stdout == "Role r created\n"
    assert "role name already exists" in refusal(etcdctl, door, "role", "add", "r")
    for words in (("read", "k"), ("write", "w", "x"), ("readwrite", "p", "--prefix"), ("read", "t", "--from-key")):
        assert etcdctl(door.address, "role", "grant-permission", "r", *words).stdout == "Role r updated\n"
    shown = etcdctl(door.address, "role", "get", "r").stdout
    assert shown.startswith("Role r\nKV Read:\n\tk\n\t[p, q) (prefix p)\n\t[t, <open ended>\nKV Write:\n\t[p, q) (prefix p)\n\t[w, x)")
    assert etcdctl(door.address, "role", "list").stdout == "r\n"
    assert "Permission of key k is revoked from role r" in etcdctl(door.address, "role", "revoke-permission", "r", "k").stdout
    assert "permission is not granted to the role" in refusal(etcdctl, door, "role", "revoke-permission", "r", "k")
    assert etcdctl(door.address, "role", "delete", "r").stdout == "Role r deleted\n"
    assert "role name not found" in refusal(etcdctl, door, "role", "get", "r")


def test_enable_status_disable(secured: EtcdDoor, etcdctl: Etcdctl) -> None:
    status = etcdctl(secured.address, ROOT, "auth", "status").stdout
    assert "Authentication Status: true\n" in status
    assert "AuthRevision: 8\n" in status
    assert "permission denied" in refusal(etcdctl, secured, "--user=ann:pw", "auth", "disable")
    assert etcdctl(secured.address, ROOT, "auth", "disable").stdout == "Authentication Disabled\n"
    assert "Authentication Status: false\n" in etcdctl(secured.address, "auth", "status").stdout
    assert etcdctl(secured.address, "put", "z", "1").stdout == "OK\n"


def test_keys_of_a_user(secured: EtcdDoor, etcdctl: Etcdctl) -> None:
    ann = "--user=ann:pw"
    assert etcdctl(secured.address, ann, "put", "a/1", "v").stdout == "OK\n"
    assert etcdctl(secured.address, "--user=ann", "--password=pw", "get", "a", "--prefix").stdout == "a/1\nv\n"
    assert "permission denied" in refusal(etcdctl, secured, ann, "put", "b", "v")
    assert "permission denied" in refusal(etcdctl, secured, ann, "get", "", "--prefix")
    assert "permission denied" in refusal(etcdctl, secured, ann, "compaction", "1")
    assert "user name is empty" in refusal(etcdctl, secured, "get", "a")
    assert "authentication failed, invalid user ID or password" in refusal(etcdctl, secured, "--user=ann:no", "get", "a")
    assert etcdctl(secured.address, ROOT, "get", "a/1", "--print-value-only").stdout == "v\n"


def test_leases_and_the_cluster(secured: EtcdDoor, etcdctl: Etcdctl) -> None:
    ann = "--user=ann:pw"
    lease = etcdctl(secured.address, ann, "lease", "grant", "100").stdout.split()[1]
    etcdctl(secured.address, ROOT, "put", "z", "v", f"--lease={lease}")
    assert "permission denied" in refusal(etcdctl, secured, ann, "lease", "revoke", lease)
    assert "permission denied" in refusal(etcdctl, secured, ann, "lease", "timetolive", lease, "--keys")
    assert etcdctl(secured.address, ROOT, "lease", "revoke", lease).stdout == f"lease {lease} revoked\n"
    assert "m0" in etcdctl(secured.address, ann, "member", "list").stdout
    assert "user name is empty" in refusal(etcdctl, secured, "member", "list")
    status = json.loads(etcdctl(secured.address, ann, "endpoint", "status", "-w", "json").stdout)
    assert status[0]["Status"]["version"] == "3.7.1"
    assert "permission denied" in refusal(etcdctl, secured, ann, "defrag")
    assert etcdctl(secured.address, ROOT, "defrag").returncode == 0
    health = etcdctl(secured.address, ann, "endpoint", "health")
    assert "is healthy" in health.stdout + health.stderr, "a refused look at a key is a sign of health"
