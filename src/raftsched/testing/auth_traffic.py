"""Random traffic of several users from a seed: users, roles and permissions change while keys, leases and watches are asked for.

Two sides get each step at the same time under the same user; each side has its own tokens. `AuthDifferential` compares every answer.
"""

import random
from collections.abc import Callable
from typing import Any

import grpc

from raftsched.pb.etcd import auth_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.testing.differential import normal
from raftsched.testing.traffic import Step, Traffic
from raftsched.testing.wire_client import Call
from raftsched.testing.wire_side import STATUS, Side

USERS = ["root", "ann", "bob", "cid"]
ROLES = ["root", "r1", "r2", "r3"]
PASSWORDS = ["", "one", "two"]
KEYS = [b"", b"\x00", b"a", b"a/1", b"b", b"b\x00", b"c", b"\xff"]
ENDS = [b"", b"", b"\x00", b"a0", b"b", b"b\x00", b"c", b"a", b"\xff\xff"]
NOBODY = "nobody"
FORGED = "forged"


class AuthTraffic(Traffic):
    """Draws steps of the auth service, beside those of the keys. `members`: whether the subject can change its members."""

    def __init__(self, seed: int, *, members: bool = False) -> None:
        super().__init__(seed)
        self._members = members

    def key(self) -> bytes:
        return self.random.choice(KEYS[1:])

    def range_request(self, *, plain: bool = False) -> pb.RangeRequest:
        request = super().range_request(plain=plain)
        straight(request)
        return request

    def delete_request(self) -> pb.DeleteRangeRequest:
        request = super().delete_request()
        straight(request)
        return request

    def compare(self) -> pb.Compare:
        compare = super().compare()
        straight(compare)
        return compare

    def auth_step(self) -> Step:
        makers: list[tuple[int, Callable[[], Step]]] = [
            (14, self._grant_permission),
            (5, self._revoke_permission),
            (10, self._grant_role),
            (4, self._revoke_role),
            (6, self._add_role),
            (2, self._delete_role),
            (6, self._add_user),
            (2, self._delete_user),
            (4, self._change_password),
            (3, lambda: Step("Auth/UserGet", pb.AuthUserGetRequest(name=self._user()))),
            (3, lambda: Step("Auth/RoleGet", pb.AuthRoleGetRequest(role=self._role()))),
            (2, lambda: Step("Auth/UserList", pb.AuthUserListRequest())),
            (2, lambda: Step("Auth/RoleList", pb.AuthRoleListRequest())),
            (3, lambda: Step("Auth/AuthStatus", pb.AuthStatusRequest())),
            (3, lambda: Step("Auth/AuthEnable", pb.AuthEnableRequest())),
            (1, lambda: Step("Auth/AuthDisable", pb.AuthDisableRequest())),
        ]
        (make,) = self.random.choices([make for _, make in makers], [weight for weight, _ in makers])
        return make()

    def other_step(self) -> Step:
        """Of the methods that are guarded as a whole."""
        changes = [
            Step("Maintenance/MoveLeader", pb.MoveLeaderRequest(targetID=5)),
            Step("Cluster/MemberPromote", pb.MemberPromoteRequest(ID=5)),
        ]
        steps: list[Step] = [
            Step("Maintenance/Alarm", pb.AlarmRequest()),
            Step("Maintenance/Alarm", pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=5, alarm=pb.NOSPACE)),
            Step("Maintenance/HashKV", pb.HashKVRequest(revision=self.revision + 1)),
            Step("Maintenance/Status", pb.StatusRequest()),
            Step("Cluster/MemberList", pb.MemberListRequest()),
            Step("KV/Compact", pb.CompactionRequest(revision=self.revision + 7)),
            Step("KV/Txn", pb.TxnRequest()),
            *(changes if self._members else ()),
        ]
        return self.random.choice(steps)

    def login(self, name: str, password: str) -> Step:
        return Step("Auth/Authenticate", pb.AuthenticateRequest(name=name, password=password))

    def _user(self) -> str:
        return "" if self.random.random() < 0.04 else self.random.choice([*USERS, "dan"])

    def _role(self) -> str:
        return "" if self.random.random() < 0.04 else self.random.choice([*ROLES, "r9"])

    def _password(self) -> str:
        return "x" * 73 if self.random.random() < 0.04 else self.random.choice(PASSWORDS)

    def _permission(self) -> auth_pb2.Permission:
        kind: Any = self.random.choice([0, 1, 2, 2, 7])
        return auth_pb2.Permission(permType=kind, key=self.random.choice(KEYS), range_end=self.random.choice(ENDS))

    def _grant_permission(self) -> Step:
        request = pb.AuthRoleGrantPermissionRequest(name=self._role(), perm=self._permission())
        if self.random.random() < 0.05:
            request.ClearField("perm")
        return Step("Auth/RoleGrantPermission", request)

    def _revoke_permission(self) -> Step:
        one = self._permission()
        return Step(
            "Auth/RoleRevokePermission", pb.AuthRoleRevokePermissionRequest(role=self._role(), key=one.key, range_end=one.range_end)
        )

    def _grant_role(self) -> Step:
        return Step("Auth/UserGrantRole", pb.AuthUserGrantRoleRequest(user=self._user(), role=self._role()))

    def _revoke_role(self) -> Step:
        return Step("Auth/UserRevokeRole", pb.AuthUserRevokeRoleRequest(name=self._user(), role=self._role()))

    def _add_role(self) -> Step:
        return Step("Auth/RoleAdd", pb.AuthRoleAddRequest(name=self._role()))

    def _delete_role(self) -> Step:
        return Step("Auth/RoleDelete", pb.AuthRoleDeleteRequest(role=self._role()))

    def _add_user(self) -> Step:
        options = auth_pb2.UserAddOptions(no_password=self.random.random() < 0.5) if self.random.random() < 0.3 else None
        return Step("Auth/UserAdd", pb.AuthUserAddRequest(name=self._user(), password=self._password(), options=options))

    def _delete_user(self) -> Step:
        return Step("Auth/UserDelete", pb.AuthUserDeleteRequest(name=self._user()))

    def _change_password(self) -> Step:
        request = pb.AuthUserChangePasswordRequest(name=self._user(), password=self._password())
        if self.random.random() < 0.1:
            request.hashedPassword = self.random.choice(["###", "QUJD", "QUI=", "QUI"])
        return Step("Auth/UserChangePassword", request)


def straight(request: Any) -> None:
    """Without a reversed range. It holds no key, and whether etcd permits it depends on how its tree of intervals happens to stand."""
    if request.range_end not in (b"", b"\0") and request.range_end <= request.key:
        request.range_end = b""


class UserSide:
    """One server, or the members of one cluster, asked in the name of several users."""

    def __init__(self, *addresses: str) -> None:
        self.members = [Side(address, watching=False) for address in addresses]
        self.tokens: dict[str, str] = {FORGED: "abcdefghijklmnop.1"}
        self._next = 0

    def close(self) -> None:
        for one in self.members:
            one.close()

    def turn(self) -> Side:
        """Another member than the last time."""
        self._next += 1
        return self.members[self._next % len(self.members)]

    def settle(self) -> None:
        """Until every member has applied all that was answered: what is permitted locally is the same everywhere. (A linearizable list
        looks at the user only behind its barrier, so that nobody may ask for it.)"""
        for one in self.members if len(self.members) > 1 else ():
            step = Step("Cluster/MemberList", pb.MemberListRequest(linearizable=True))
            one.finish(step, one.start(step))

    def ask(self, step: Step, user: str, header: str = "token") -> Call:
        """Begins a request as `user`; the result is for `Side.finish`."""
        return self.turn().start(step, self._metadata(user, header))

    def watch_once(self, create: pb.WatchCreateRequest, user: str) -> Any:
        """The first answer to a watch of its own stream."""
        client = self.turn().client
        request = pb.WatchRequest(create_request=create).SerializeToString()
        call = client.begin("/etcdserverpb.Watch/Watch", request, metadata=self._metadata(user, "token"), end=False)
        client.wait_for(lambda: call.messages or call.done, "the answer to a watch")
        if not call.messages:
            assert call.status
            return STATUS[call.status], call.text
        client.cancel(call)
        return pb.WatchResponse.FromString(call.messages[0])

    def _metadata(self, user: str, header: str) -> tuple[tuple[str, str], ...]:
        token = self.tokens.get(user)
        return () if token is None else ((header, ("Bearer " if header != "token" else "") + token),)


class AuthDifferential:
    """Runs traffic of several users against `judge` (a real etcd) and `subject`, which may be several members."""

    def __init__(self, judge: str, *subject: str, seed: int, members: bool = False) -> None:
        self.traffic = AuthTraffic(seed, members=members)
        self.sides = (UserSide(judge), UserSide(*subject))
        self.draw = random.Random(seed + 1)
        self.steps = 0
        self.outcomes: dict[tuple[str, str], int] = {}

    def close(self) -> None:
        for side in self.sides:
            side.close()

    def prepare(self) -> None:
        """root, three users, three roles, and authentication on."""
        for name in USERS:
            self.one(Step("Auth/UserAdd", pb.AuthUserAddRequest(name=name, password="one")), NOBODY)
        for name in ROLES:
            self.one(Step("Auth/RoleAdd", pb.AuthRoleAddRequest(name=name)), NOBODY)
        self.one(Step("Auth/UserGrantRole", pb.AuthUserGrantRoleRequest(user="root", role="root")), NOBODY)
        for number in (1, 2, 3):
            grant = pb.AuthUserGrantRoleRequest(user=USERS[number], role=ROLES[number])
            self.one(Step("Auth/UserGrantRole", grant), NOBODY)
            perm = auth_pb2.Permission(
                permType=auth_pb2.Permission.READWRITE, key=b"abc"[number - 1 : number], range_end=b"\xff" if number == 1 else b""
            )
            self.one(Step("Auth/RoleGrantPermission", pb.AuthRoleGrantPermissionRequest(name=ROLES[number], perm=perm)), NOBODY)
        self.one(Step("Auth/AuthEnable", pb.AuthEnableRequest()), NOBODY)
        for name in USERS:
            self.log_in(name, "one")

    def run(self, steps: int) -> None:
        self.prepare()
        draw = self.draw.random
        for number in range(steps):
            if number % 25 == 0:
                self.log_in(self.draw.choice(USERS), self.draw.choice(PASSWORDS[1:]))
            if number % 100 == 0:
                self.recover()
            self.turn(draw())

    def turn(self, pick: float) -> None:
        """One request of somebody."""
        if pick < 0.22:
            self.one(self.traffic.auth_step(), "root" if self.draw.random() < 0.8 else self.user())
        elif pick < 0.27:
            self.one(self.traffic.other_step(), self.user())
        elif pick < 0.37:
            self.watch(self.user())
        else:
            self.one(self.traffic.step(), self.user())

    def recover(self) -> None:
        """Random changes may shut everybody out, or leave nobody with a permission: mends that as root, on both sides alike."""
        for name in USERS:
            self.one(Step("Auth/UserAdd", pb.AuthUserAddRequest(name=name, password="one")), "root")
            self.one(Step("Auth/UserChangePassword", pb.AuthUserChangePasswordRequest(name=name, password="one")), "root")
            self.log_in("root", "one")
        self.one(Step("Auth/UserGrantRole", pb.AuthUserGrantRoleRequest(user="root", role="root")), "root")
        self.one(Step("Auth/AuthEnable", pb.AuthEnableRequest()), "root")
        for name in USERS:
            self.log_in(name, "one")

    def user(self) -> str:
        return self.draw.choice(["root", "ann", "ann", "ann", "bob", "bob", "cid", NOBODY, FORGED])

    def log_in(self, name: str, password: str) -> None:
        step = self.traffic.login(name, password)
        answers = [Side.finish(step, side.ask(step, NOBODY)) for side in self.sides]
        kinds = [one if isinstance(one, tuple) else "token" for one in answers]
        assert kinds[1] == kinds[0], f"{step.request}\n--- etcd\n{kinds[0]}\n--- raftsched\n{kinds[1]}"
        if kinds[0] == "token":
            for side, answer in zip(self.sides, answers, strict=True):
                side.tokens[name] = answer.token

    def one(self, step: Step, user: str) -> None:
        """Both sides get the request; the answers are compared."""
        header = "token" if self.draw.random() < 0.8 else "authorization"
        calls = [side.ask(step, user, header) for side in self.sides]
        for call in calls:
            call.client.flush()
        answers = [Side.finish(step, call) for call in calls]
        for side in self.sides:
            side.settle()
        if not isinstance(answers[0], tuple):
            self.traffic.revision = max(self.traffic.revision, answers[0].header.revision)
            if step.method == "KV/Compact":
                self.traffic.compacted = step.request.revision
        self._compare(step, user, [comparable(step, answer) for answer in answers])

    def watch(self, user: str) -> None:
        """Creates one watch; what is compared is whether it may be."""
        create = pb.WatchCreateRequest(
            key=self.draw.choice(KEYS), range_end=self.draw.choice(ENDS), start_revision=self.draw.choice([0, 0, 0, 10**9, -1])
        )
        straight(create)
        answers = [normal(None, side.watch_once(create, user)) for side in self.sides]
        self._compare(Step("Watch/Watch", create), user, answers)

    def _compare(self, step: Step, user: str, answers: list[Any]) -> None:
        self.steps += 1
        said = answers[0][1] if isinstance(answers[0], tuple) and len(answers[0]) == 2 else "OK"
        self.outcomes[step.method, str(said)] = self.outcomes.get((step.method, str(said)), 0) + 1
        told = f"step {self.steps}, {user}: {step.method}\n{step.request}"
        assert answers[1] == answers[0], f"{told}\n--- etcd\n{answers[0]}\n--- raftsched\n{answers[1]}"


def comparable(step: Step, answer: Any) -> Any:
    """`normal`, and without what is a member's own or takes its order from a map."""
    if not isinstance(answer, tuple) and step.method in ("Maintenance/Status", "Cluster/MemberList"):
        return "OK"
    if isinstance(answer, tuple) and step.method == "Maintenance/MoveLeader" and answer[0] is grpc.StatusCode.UNKNOWN:
        return answer[0]
    return normal(step, answer)
