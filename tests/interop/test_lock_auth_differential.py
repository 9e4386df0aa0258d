"""Locks and elections while authentication is on, beside a real etcd: whose each step is, and what becomes of places in line."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from raftsched.pb.etcd import auth_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.pb.etcd.v3election_pb2 import LeaderKey
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.lock_side import LockSide, until
from raftsched.testing.lone_node import EtcdDoor

LINE = auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=b"n/", range_end=b"n0")
READING = auth_pb2.Permission(permType=auth_pb2.Permission.READ, key=b"n/", range_end=b"n0")


class Users:
    """One server with authentication on, as each of its users sees it. All tell into one list."""

    def __init__(self, stack: ExitStack, address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            auth = stubs.AuthStub(channel)
            for role, permission in (("root", None), ("line", LINE), ("reading", READING)):
                user = {"line": "ann", "reading": "bob"}.get(role, role)
                auth.UserAdd(pb.AuthUserAddRequest(name=user, password="pw"))
                auth.RoleAdd(pb.AuthRoleAddRequest(name=role))
                if permission is not None:
                    auth.RoleGrantPermission(pb.AuthRoleGrantPermissionRequest(name=role, perm=permission))
                auth.UserGrantRole(pb.AuthUserGrantRoleRequest(user=user, role=role))
            auth.AuthEnable(pb.AuthEnableRequest())
            tokens = [auth.Authenticate(pb.AuthenticateRequest(name=name, password="pw")).token for name in ("root", "ann", "bob")]
        self.root, self.ann, self.bob, self.nobody, self.forged = sides = [LockSide(address, one) for one in (*tokens, "", "x.1")]
        self.auth = stubs.AuthStub(self.root.channel)
        self.told: list[str] = []
        for side in sides:
            side.told = self.told
            stack.callback(side.close)


Story = Callable[[Users], None]


def who_may(users: Users) -> None:
    users.ann.grant(1)
    users.ann.lock(b"n", 1)
    for title, side in vars(users).items():
        if not isinstance(side, LockSide):
            continue
        users.told.append(title)
        side.lock(b"n", 1)
        side.lock(b"m", 1)
        side.lock(b"m")
        side.leader(b"n")
        side.leader(b"m")
        side.campaign(b"n", 1)
        side.campaign(b"n", 1, title.encode())
        side.proclaim(None)
        side.proclaim(LeaderKey(key=b"n/1", rev=7, lease=1))
        side.resign(LeaderKey(key=b"m/1", rev=7, lease=1))
        side.unlock(b"")
        side.unlock(b"m/1")
        users.root.state()
    users.bob.unlock(b"n/1")
    users.ann.unlock(b"n/1")


def what_is_observed(users: Users) -> None:
    users.root.grant(1)
    users.root.campaign(b"n", 1, b"value")
    for side in (users.ann, users.bob, users.root, users.nobody, users.forged):
        observer = side.observe(b"n")
        observer.wait(1)
        observer.cancel()
    users.bob.observe(b"m").wait(1)


def a_waiter_that_goes_leaves_its_key(users: Users) -> None:
    """Giving up a place in line is nobody's request, and refused."""
    users.root.grant(1, 2, 3)
    users.ann.lock(b"n", 1)
    waiting = users.ann.locking(b"n", 2)
    users.ann.appears(b"n/2")
    waiting.cancel()
    candidate = users.root.campaigning(b"n", 3)
    users.ann.appears(b"n/3")
    candidate.cancel()
    users.root.put(b"behind")
    users.root.put(b"behind")
    users.root.state()


def what_is_taken_away_while_somebody_waits(users: Users) -> None:
    users.root.grant(1, 2)
    users.root.lock(b"n", 1)
    waiting = users.ann.locking(b"n", 2)
    users.root.appears(b"n/2")
    users.auth.RoleRevokePermission(pb.AuthRoleRevokePermissionRequest(role="line", key=LINE.key, range_end=LINE.range_end))
    users.root.unlock(b"n/1")
    users.ann.end(waiting)
    users.root.state()


def waiting_while_authentication_is_switched_off(users: Users) -> None:
    users.root.grant(1, 2, 3)
    users.root.lock(b"n", 1)
    waiting = users.ann.locking(b"n", 2)
    users.root.appears(b"n/2")
    candidate = users.ann.campaigning(b"n", 3)
    users.root.appears(b"n/3")
    users.auth.AuthDisable(pb.AuthDisableRequest())
    candidate.cancel()
    users.nobody.vanishes(b"n/3")
    users.nobody.unlock(b"n/1")
    users.ann.end(waiting)
    users.nobody.state()


@pytest.fixture
def judge(tmp_path: Path, etcd_program: Path) -> Iterator[RealEtcd]:
    with RealEtcd(tmp_path / "judge", etcd_program, args=["--bcrypt-cost=4"]) as etcd:
        yield etcd


@pytest.mark.parametrize(
    "story",
    [
        who_may,
        what_is_observed,
        a_waiter_that_goes_leaves_its_key,
        what_is_taken_away_while_somebody_waits,
        waiting_while_authentication_is_switched_off,
    ],
)
def test_same_users_same_answers(story: Story, judge: RealEtcd, door: EtcdDoor) -> None:
    told = []
    with ExitStack() as stack:
        for address in (judge.address, door.address):
            users = Users(stack, address)
            story(users)
            told.append(users.told)
        until(lambda: not door.services.recipes.running, "for the last call")
    assert told[0]
    assert told[1] == told[0]
