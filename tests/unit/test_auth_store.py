"""The auth store by itself, through the apply chain: each row of etcd-api §1.6 that needs no client."""

from typing import Any

import pytest

from raftsched import limits, proposals
from raftsched.errors import CorruptError, EtcdError
from raftsched.pb.etcd import auth_pb2
from raftsched.pb.etcd import raft_internal_pb2 as internal
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.store import alarm, codec
from raftsched.store._records import MemoryRecords
from raftsched.store.alarm import AlarmStore
from raftsched.store.apply import Applier, SideWrites
from raftsched.store.auth.identity import wire_identity
from raftsched.store.auth.store import AuthStore
from raftsched.store.auth.tokens import SimpleTokens, index_of
from raftsched.store.lease import Lessor
from raftsched.store.membership import Membership
from raftsched.store.mvcc._store import MvccStore
from raftsched.types import INTERNAL, NOBODY, Identity

HASH = "JDJhJDA0JHNvbWVoYXNo"  # base64 of "$2a$04$somehash"
OK = EtcdError.OK


class Machine:
    """Applies one request after another, as a log would."""

    def __init__(self) -> None:
        self.side = SideWrites()
        self.lessor = Lessor(self.side.write)
        store = MvccStore(MemoryRecords(), self.lessor, hash_seed=1)
        self.applier = Applier(store, self.lessor, AlarmStore(self.side.write), Membership(self.side.write), self.side)
        self.auth = self.applier.auth
        self.buckets: dict[str, dict[bytes, bytes]] = {"auth": {}, "authUsers": {}, "authRoles": {}}

    def __call__(self, kind: int, message: Any, who: Identity = NOBODY) -> EtcdError:
        return self.result(kind, message, who)[0]

    def result(self, kind: int, message: Any, who: Identity = NOBODY) -> tuple[EtcdError, int, bytes]:
        entries = codec.wrap(kind, [message.SerializeToString()], 77, wire_identity(who))
        _, results = self.applier.apply(self.applier.applied_index + 1, 1, 0, entries)
        for bucket, key, value in self.side.take():
            if bucket in self.buckets and value is not None:
                self.buckets[bucket][key] = value
            elif bucket in self.buckets:
                self.buckets[bucket].pop(key, None)
        error, revision, body = results[0]
        return EtcdError(error), revision, body

    def who(self, name: str) -> Identity:
        return Identity(name, self.auth.revision)

    def user(self, name: str, *roles: str) -> None:
        assert self(proposals.AUTH_USER_ADD, pb.AuthUserAddRequest(name=name, hashedPassword=HASH), INTERNAL) == OK
        for role in roles:
            assert self(proposals.AUTH_USER_GRANT_ROLE, pb.AuthUserGrantRoleRequest(user=name, role=role), INTERNAL) == OK

    def role(self, name: str, *permissions: tuple[int, bytes, bytes]) -> None:
        assert self(proposals.AUTH_ROLE_ADD, pb.AuthRoleAddRequest(name=name), INTERNAL) == OK
        for permission in permissions:
            assert self.grant(name, *permission) == OK

    def grant(self, role: str, kind: int, key: bytes, end: bytes = b"") -> EtcdError:
        perm = auth_pb2.Permission(permType=auth_pb2.Permission.Type.ValueType(kind), key=key, range_end=end)
        return self(proposals.AUTH_ROLE_GRANT_PERMISSION, pb.AuthRoleGrantPermissionRequest(name=role, perm=perm), INTERNAL)

    def enable(self) -> EtcdError:
        return self(proposals.AUTH_ENABLE, pb.AuthEnableRequest())

    def reloaded(self) -> AuthStore:
        """From what is in the buckets."""
        found = AuthStore(self.side.write)
        found.load(*(self.buckets[name].items() for name in ("auth", "authUsers", "authRoles")))
        return found


READ, WRITE, BOTH = 0, 1, 2


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def secured() -> Machine:
    """root, `reader` of [a, c), `writer` of [a, c), `both` of key m, authentication on."""
    made = Machine()
    made.user("root", "root")
    made.role("reads", (READ, b"a", b"c"))
    made.role("writes", (WRITE, b"a", b"c"))
    made.role("m", (BOTH, b"m", b""))
    made.user("reader", "reads")
    made.user("writer", "writes")
    made.user("both", "m")
    made.user("nothing")
    assert made.enable() == OK
    return made


# -- on, off, revisions


def test_enable_needs_root_and_its_role(machine: Machine) -> None:
    assert machine.enable() == EtcdError.ROOT_USER_NOT_EXIST
    machine.user("root")
    assert machine.enable() == EtcdError.ROOT_ROLE_NOT_EXIST
    assert machine(proposals.AUTH_USER_GRANT_ROLE, pb.AuthUserGrantRoleRequest(user="root", role="root")) == OK, "the role need not exist"
    revision = machine.auth.revision
    assert machine.enable() == OK
    assert machine.auth.enabled
    assert machine.auth.revision == revision, "enable is no change"
    assert machine(proposals.AUTH_ENABLE, pb.AuthEnableRequest(), machine.who("root")) == OK


def test_the_revision_counts_changes_of_users_roles_permissions_and_disable(machine: Machine) -> None:
    auth = machine.auth
    assert auth.revision == 1
    machine.user("root", "root")
    assert auth.revision == 3
    machine.role("r", (READ, b"k", b""))
    assert auth.revision == 5
    assert machine(proposals.AUTH_ROLE_ADD, pb.AuthRoleAddRequest(name="r")) == EtcdError.ROLE_EXISTS
    assert auth.revision == 5, "what is refused is no change"
    machine.enable()
    assert machine(proposals.AUTH_DISABLE, pb.AuthDisableRequest(), machine.who("root")) == OK
    assert (auth.revision, auth.enabled) == (6, False)
    assert machine(proposals.AUTH_DISABLE, pb.AuthDisableRequest()) == OK
    assert auth.revision == 6


def test_while_it_is_on_only_root_manages(secured: Machine) -> None:
    for kind, message in MANAGEMENT:
        before = secured.auth.revision
        assert secured(kind, message) == EtcdError.USER_EMPTY
        assert secured(kind, message, secured.who("reader")) == EtcdError.PERMISSION_DENIED
        assert secured(kind, message, secured.who("gone")) == EtcdError.USER_NOT_FOUND
        assert secured.auth.revision == before
    old = Identity("root", 1)
    assert secured(proposals.AUTH_ROLE_ADD, pb.AuthRoleAddRequest(name="late"), old) == OK, (
        "an old revision does not matter to root's rights"
    )


MANAGEMENT = [
    (proposals.AUTH_ENABLE, pb.AuthEnableRequest()),
    (proposals.AUTH_DISABLE, pb.AuthDisableRequest()),
    (proposals.AUTH_USER_ADD, pb.AuthUserAddRequest(name="x", hashedPassword=HASH)),
    (proposals.AUTH_USER_DELETE, pb.AuthUserDeleteRequest(name="reader")),
    (proposals.AUTH_USER_CHANGE_PASSWORD, pb.AuthUserChangePasswordRequest(name="reader", hashedPassword=HASH)),
    (proposals.AUTH_USER_GRANT_ROLE, pb.AuthUserGrantRoleRequest(user="reader", role="root")),
    (proposals.AUTH_USER_REVOKE_ROLE, pb.AuthUserRevokeRoleRequest(name="reader", role="reads")),
    (proposals.AUTH_ROLE_ADD, pb.AuthRoleAddRequest(name="x")),
    (proposals.AUTH_ROLE_DELETE, pb.AuthRoleDeleteRequest(role="reads")),
    (proposals.AUTH_ROLE_GRANT_PERMISSION, pb.AuthRoleGrantPermissionRequest(name="reads", perm=auth_pb2.Permission(key=b"k"))),
    (proposals.AUTH_ROLE_REVOKE_PERMISSION, pb.AuthRoleRevokePermissionRequest(role="reads", key=b"a", range_end=b"c")),
]


# -- users


def test_users(machine: Machine) -> None:
    def add(**fields: Any) -> EtcdError:
        return machine(proposals.AUTH_USER_ADD, pb.AuthUserAddRequest(**fields))

    assert add(name="") == EtcdError.USER_EMPTY
    assert add(name="u", hashedPassword=HASH) == OK
    assert add(name="u", hashedPassword=HASH) == EtcdError.USER_EXISTS
    assert add(name="v", hashedPassword="%%%") == EtcdError.NO_PASSWORD_USER
    assert add(name="v", password="plain") == EtcdError.NO_PASSWORD_USER, "never hashed here"
    assert add(name="n", options=auth_pb2.UserAddOptions(no_password=True)) == OK
    assert add(name="x" * (limits.AUTH_NAME_BYTES_MAX + 1)) == EtcdError.REQUEST_TOO_LARGE
    assert add(name="x" * limits.AUTH_NAME_BYTES_MAX, hashedPassword=HASH) == OK
    stored = auth_pb2.User.FromString(machine.buckets["authUsers"][b"u"])
    assert stored == auth_pb2.User(name=b"u", password=b"$2a$04$somehash", options=auth_pb2.UserAddOptions())
    assert stored.HasField("options")
    none = auth_pb2.User.FromString(machine.buckets["authUsers"][b"n"])
    assert (none.password, none.options.no_password) == (b"", True)
    assert machine(proposals.AUTH_USER_DELETE, pb.AuthUserDeleteRequest(name="u")) == OK
    assert machine(proposals.AUTH_USER_DELETE, pb.AuthUserDeleteRequest(name="u")) == EtcdError.USER_NOT_FOUND
    assert b"u" not in machine.buckets["authUsers"]


def test_a_password_is_changed_with_what_the_user_has(machine: Machine) -> None:
    def change(name: str, hashed: str) -> EtcdError:
        return machine(proposals.AUTH_USER_CHANGE_PASSWORD, pb.AuthUserChangePasswordRequest(name=name, hashedPassword=hashed))

    machine.user("u", "root")
    assert change("nobody", HASH) == EtcdError.USER_NOT_FOUND
    assert change("u", "???") == EtcdError.NO_PASSWORD_USER
    assert change("u", "QUJD") == OK
    assert machine.auth.users["u"].password == b"ABC"
    assert machine.auth.users["u"].roles == ("root",)
    options = auth_pb2.UserAddOptions(no_password=True)
    assert machine(proposals.AUTH_USER_ADD, pb.AuthUserAddRequest(name="n", options=options)) == OK
    assert change("n", "???") == OK, "of who has none it is not looked at"
    assert machine.auth.users["n"].no_password


def test_roles_of_a_user_are_sorted_and_granted_once(machine: Machine) -> None:
    def grant(user: str, role: str) -> EtcdError:
        return machine(proposals.AUTH_USER_GRANT_ROLE, pb.AuthUserGrantRoleRequest(user=user, role=role))

    def revoke(user: str, role: str) -> EtcdError:
        return machine(proposals.AUTH_USER_REVOKE_ROLE, pb.AuthUserRevokeRoleRequest(name=user, role=role))

    machine.user("u")
    for name in ("b", "a", "z"):
        machine.role(name)
    assert grant("nobody", "a") == EtcdError.USER_NOT_FOUND
    assert grant("u", "no") == EtcdError.ROLE_NOT_FOUND
    for name in ("z", "a", "root", "b"):
        assert grant("u", name) == OK
    assert machine.auth.users["u"].roles == ("a", "b", "root", "z")
    revision = machine.auth.revision
    assert grant("u", "a") == OK
    assert machine.auth.revision == revision
    assert revoke("u", "a") == OK
    assert revoke("u", "a") == EtcdError.ROLE_NOT_GRANTED
    assert revoke("nobody", "a") == EtcdError.USER_NOT_FOUND
    assert machine(proposals.AUTH_ROLE_DELETE, pb.AuthRoleDeleteRequest(role="b")) == OK
    assert machine.auth.users["u"].roles == ("root", "z"), "a deleted role is nobody's"


def test_root_cannot_be_taken_away_while_it_matters(secured: Machine) -> None:
    root = secured.who("root")
    assert secured(proposals.AUTH_USER_DELETE, pb.AuthUserDeleteRequest(name="root"), root) == EtcdError.INVALID_AUTH_MANAGEMENT
    request = pb.AuthUserRevokeRoleRequest(name="root", role="root")
    assert secured(proposals.AUTH_USER_REVOKE_ROLE, request, root) == EtcdError.INVALID_AUTH_MANAGEMENT
    assert secured(proposals.AUTH_ROLE_DELETE, pb.AuthRoleDeleteRequest(role="root"), root) == EtcdError.INVALID_AUTH_MANAGEMENT
    assert secured(proposals.AUTH_DISABLE, pb.AuthDisableRequest(), root) == OK
    assert secured(proposals.AUTH_USER_DELETE, pb.AuthUserDeleteRequest(name="root")) == OK


# -- roles


def test_permissions_of_a_role(machine: Machine) -> None:
    assert machine(proposals.AUTH_ROLE_ADD, pb.AuthRoleAddRequest()) == EtcdError.ROLE_EMPTY
    machine.role("r")
    missing = pb.AuthRoleGrantPermissionRequest(name="r")
    assert machine(proposals.AUTH_ROLE_GRANT_PERMISSION, missing) == EtcdError.PERMISSION_NOT_GIVEN
    for key, end in ((b"", b""), (b"", b"b"), (b"b", b"b"), (b"b", b"a")):
        assert machine.grant("r", READ, key, end) == EtcdError.INVALID_AUTH_MANAGEMENT
    assert machine.grant("no", READ, b"a") == EtcdError.ROLE_NOT_FOUND
    for kind, key, end in ((READ, b"m", b""), (WRITE, b"a", b"c"), (BOTH, b"x", b"\0"), (WRITE, b"m", b"")):
        assert machine.grant("r", kind, key, end) == OK
    held = [(one.kind, one.key, one.end) for one in machine.auth.roles["r"].permissions]
    assert held == [(WRITE, b"a", b"c"), (WRITE, b"m", b""), (BOTH, b"x", b"\0")], "sorted by key; the same interval again changes its kind"
    stored = auth_pb2.Role.FromString(machine.buckets["authRoles"][b"r"])
    assert [(one.permType, one.key, one.range_end) for one in stored.keyPermission] == held

    def revoke(key: bytes, end: bytes = b"") -> EtcdError:
        return machine(proposals.AUTH_ROLE_REVOKE_PERMISSION, pb.AuthRoleRevokePermissionRequest(role="r", key=key, range_end=end))

    assert revoke(b"a") == EtcdError.PERMISSION_NOT_GRANTED, "the exact interval is needed"
    assert revoke(b"a", b"c") == OK
    absent = pb.AuthRoleRevokePermissionRequest(role="no", key=b"a")
    assert machine(proposals.AUTH_ROLE_REVOKE_PERMISSION, absent) == EtcdError.ROLE_NOT_FOUND
    assert machine(proposals.AUTH_ROLE_DELETE, pb.AuthRoleDeleteRequest(role="no")) == EtcdError.ROLE_NOT_FOUND


def test_nothing_grows_without_a_bound(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "AUTH_NAMES_MAX", 2)
    monkeypatch.setattr(limits, "AUTH_PERMISSIONS_MAX", 2)
    monkeypatch.setattr(limits, "AUTH_TOKENS_MAX", 2)
    for name in ("a", "b"):
        machine.user(name)
        machine.role(name)
        assert machine.grant("a", READ, name.encode()) == OK
    assert machine(proposals.AUTH_USER_ADD, pb.AuthUserAddRequest(name="c", hashedPassword=HASH)) == EtcdError.NO_SPACE
    assert machine(proposals.AUTH_ROLE_ADD, pb.AuthRoleAddRequest(name="c")) == EtcdError.NO_SPACE
    assert machine.grant("a", READ, b"c") == EtcdError.NO_SPACE
    assert machine.grant("a", WRITE, b"b") == OK, "what is there may change"
    tokens = SimpleTokens(1_000)
    for name in ("one", "two", "three"):
        tokens.assign(name, "u", 0)
    assert [tokens.find(name, 1) for name in ("one", "two", "three")] == [None, "u", "u"]


# -- what may be done with keys


def put(key: bytes, **fields: Any) -> tuple[int, Any]:
    return proposals.PUT, pb.PutRequest(key=key, **fields)


def delete(key: bytes, end: bytes = b"", **fields: Any) -> tuple[int, Any]:
    return proposals.DELETE_RANGE, pb.DeleteRangeRequest(key=key, range_end=end, **fields)


def txn(*success: Any, failure: Any = (), compare: Any = ()) -> tuple[int, Any]:
    return proposals.TXN, pb.TxnRequest(compare=compare, success=success, failure=failure)


GET_A = pb.RequestOp(request_range=pb.RangeRequest(key=b"a"))
GET_M = pb.RequestOp(request_range=pb.RangeRequest(key=b"m"))
PUT_A = pb.RequestOp(request_put=pb.PutRequest(key=b"a"))
PUT_M = pb.RequestOp(request_put=pb.PutRequest(key=b"m"))
DELETE_A = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"a", range_end=b"b"))
DELETE_A_SEEN = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"a", prev_kv=True))
NESTED_M = pb.RequestOp(request_txn=pb.TxnRequest(failure=[PUT_M]))
DEEP_M = pb.RequestOp(request_txn=pb.TxnRequest(success=[NESTED_M]))


@pytest.mark.parametrize(
    ("user", "request_", "permitted"),
    [
        ("writer", put(b"a"), True),
        ("writer", put(b"b\xff"), True),
        ("writer", put(b"c"), False),
        ("writer", put(b"a", prev_kv=True), False),
        ("reader", put(b"a"), False),
        ("both", put(b"m", prev_kv=True), True),
        ("both", put(b"m\0"), False),
        ("nothing", put(b"a"), False),
        ("gone", put(b"a"), False),
        ("root", put(b"anything", prev_kv=True), True),
        ("writer", delete(b"a", b"c"), True),
        ("writer", delete(b"a", b"c\0"), False),
        ("writer", delete(b"a", b"\0"), False),
        ("writer", delete(b"a", prev_kv=True), False),
        ("both", delete(b"m", prev_kv=True), True),
        ("writer", txn(PUT_A, DELETE_A), True),
        ("writer", txn(GET_A, PUT_A), False),
        ("writer", txn(PUT_A, failure=[PUT_M]), False),
        ("writer", txn(PUT_A, NESTED_M), False),
        ("writer", txn(PUT_A, DEEP_M), False),
        ("writer", txn(PUT_A, DELETE_A_SEEN), False),
        ("writer", txn(PUT_A, compare=[pb.Compare(key=b"a")]), False),
        ("both", txn(PUT_M, GET_M, compare=[pb.Compare(key=b"m")]), True),
        ("both", txn(PUT_M, compare=[pb.Compare(key=b"m", range_end=b"n")]), False),
        ("both", txn(DEEP_M), True),
    ],
)
def test_what_a_write_needs(secured: Machine, user: str, request_: tuple[int, Any], permitted: bool) -> None:
    revision = secured.applier.store.revision
    error = secured(*request_, secured.who(user))
    assert error == (OK if permitted else EtcdError.PERMISSION_DENIED)
    assert permitted or secured.applier.store.revision == revision


@pytest.mark.parametrize("request_", [put(b"a"), delete(b"a"), txn(PUT_A)])
def test_whose_and_of_when(secured: Machine, request_: tuple[int, Any]) -> None:
    assert secured(*request_) == EtcdError.USER_EMPTY
    assert secured(*request_, Identity("root", 0)) == EtcdError.USER_EMPTY
    assert secured(*request_, Identity("root", secured.auth.revision - 1)) == EtcdError.AUTH_OLD_REVISION
    assert secured(*request_, Identity("writer", secured.auth.revision - 1)) == EtcdError.AUTH_OLD_REVISION
    assert secured(*request_, secured.who("writer")) == OK
    assert secured(*request_, INTERNAL) == OK, "the process's own"


def test_a_transaction_of_nothing_needs_nothing(secured: Machine) -> None:
    assert secured(proposals.TXN, pb.TxnRequest()) == OK


def test_permissions_follow_every_change(secured: Machine) -> None:
    assert secured(*put(b"z"), secured.who("writer")) == EtcdError.PERMISSION_DENIED
    assert secured.grant("writes", WRITE, b"z") == OK
    assert secured(*put(b"z"), secured.who("writer")) == OK
    assert secured(proposals.AUTH_ROLE_DELETE, pb.AuthRoleDeleteRequest(role="writes"), INTERNAL) == OK
    assert secured(*put(b"z"), secured.who("writer")) == EtcdError.PERMISSION_DENIED
    assert secured(proposals.AUTH_USER_DELETE, pb.AuthUserDeleteRequest(name="both"), INTERNAL) == OK
    assert secured(*put(b"m"), secured.who("both")) == EtcdError.PERMISSION_DENIED


def test_a_lease_is_its_keys(secured: Machine) -> None:
    root = secured.who("root")
    assert secured(proposals.LEASE_GRANT, pb.LeaseGrantRequest(ID=5, TTL=100), secured.who("nothing")) == OK, "is not looked at in apply"
    assert secured(*put(b"a", lease=5), secured.who("writer")) == OK
    assert secured(*put(b"m", lease=5), secured.who("both")) == EtcdError.PERMISSION_DENIED, "key a hangs on it"
    assert secured(proposals.TXN, txn(pb.RequestOp(request_put=pb.PutRequest(key=b"m", lease=5)))[1], secured.who("both")) == (
        EtcdError.PERMISSION_DENIED
    )
    revoke = pb.LeaseRevokeRequest(ID=5)
    assert secured(proposals.LEASE_REVOKE, revoke, secured.who("both")) == EtcdError.PERMISSION_DENIED
    assert secured(proposals.LEASE_REVOKE, revoke) == EtcdError.USER_EMPTY
    assert secured(proposals.LEASE_REVOKE, revoke, Identity("writer", 1)) == EtcdError.AUTH_OLD_REVISION
    assert secured(*put(b"q", lease=5), root) == OK
    assert secured(proposals.LEASE_REVOKE, revoke, secured.who("writer")) == EtcdError.PERMISSION_DENIED
    assert secured(proposals.LEASE_REVOKE, revoke, Identity("root", 1)) == OK, "root's rights over leases do not age"
    assert secured(proposals.LEASE_REVOKE, revoke, secured.who("both")) == EtcdError.LEASE_NOT_FOUND
    assert secured(proposals.LEASE_GRANT, pb.LeaseGrantRequest(ID=6, TTL=100)) == OK
    assert secured(proposals.LEASE_REVOKE, pb.LeaseRevokeRequest(ID=6)) == OK, "nothing hangs on it"


def test_alarms_come_before_permissions(secured: Machine) -> None:
    def raise_alarm(kind: int, action: int = alarm.ACTIVATE) -> None:
        assert secured(proposals.ALARM, pb.AlarmRequest.FromString(alarm.encode_request(action, 7, kind))) == OK

    raise_alarm(alarm.NOSPACE)
    assert secured(*put(b"m"), secured.who("nothing")) == EtcdError.NO_SPACE
    assert secured(*txn(PUT_A), secured.who("nothing")) == EtcdError.NO_SPACE
    assert secured(*txn(GET_A), secured.who("nothing")) == EtcdError.PERMISSION_DENIED
    assert secured(*delete(b"a"), secured.who("nothing")) == EtcdError.PERMISSION_DENIED
    raise_alarm(alarm.CORRUPT)
    assert secured(*delete(b"a"), secured.who("nothing")) == EtcdError.CORRUPT
    raise_alarm(alarm.CORRUPT, alarm.DEACTIVATE)
    raise_alarm(alarm.NOSPACE, alarm.DEACTIVATE)
    assert secured(*put(b"m"), secured.who("nothing")) == EtcdError.PERMISSION_DENIED


def test_a_run_of_entries_is_split_by_owner_and_by_enable(machine: Machine) -> None:
    machine.user("root", "root")
    machine.role("a", (WRITE, b"a", b""))
    machine.user("ann", "a")
    ann = wire_identity(machine.who("ann"))
    message = pb.PutRequest(key=b"a").SerializeToString()
    entries = [
        *codec.wrap(proposals.PUT, [message], 1),
        *codec.wrap(proposals.AUTH_ENABLE, [b""], 2),
        *codec.wrap(proposals.PUT, [message], 3),
        *codec.wrap(proposals.PUT, [message, pb.PutRequest(key=b"b").SerializeToString()], 4, ann),
        *codec.wrap(proposals.PUT, [message], 6, wire_identity(INTERNAL)),
        *codec.wrap(proposals.AUTH_DISABLE, [b""], 7, wire_identity(machine.who("root"))),
        *codec.wrap(proposals.PUT, [message], 8),
    ]
    _, results = machine.applier.apply(machine.applier.applied_index + 1, 1, 0, entries)
    denied = EtcdError.PERMISSION_DENIED
    assert [error for error, _, _ in results] == [OK, OK, EtcdError.USER_EMPTY, OK, denied, OK, OK, OK]


# -- tokens


def test_a_simple_token_ends_with_its_index_and_lives_as_long_as_it_is_used(secured: Machine) -> None:
    def authenticate(name: str) -> tuple[EtcdError, str]:
        request = internal.InternalAuthenticateRequest(name=name, simple_token="abc")
        error, _, body = secured.result(proposals.AUTHENTICATE, request)
        return error, pb.AuthenticateResponse.FromString(body).token

    secured.applier.set_time(1_000)
    error, token = authenticate("reader")
    assert (error, token) == (OK, f"abc.{secured.applier.applied_index}")
    tokens = secured.auth.tokens
    assert tokens.find(token, 1_000) == "reader"
    assert tokens.find(token, 300_999) == "reader"
    assert tokens.find(token, 600_000) == "reader", "each use begins its time anew"
    assert tokens.find(token, 900_000) is None
    assert authenticate("nobody")[0] == EtcdError.AUTH_FAILED
    token = authenticate("reader")[1]
    assert (
        secured(proposals.AUTH_USER_CHANGE_PASSWORD, pb.AuthUserChangePasswordRequest(name="reader", hashedPassword=HASH), INTERNAL) == OK
    )
    assert tokens.find(token, 1_000) is None, "a changed password ends its tokens"
    token = authenticate("both")[1]
    assert secured(proposals.AUTH_USER_DELETE, pb.AuthUserDeleteRequest(name="both"), INTERNAL) == OK
    assert tokens.find(token, 1_000) is None
    token = authenticate("root")[1]
    assert secured(proposals.AUTH_DISABLE, pb.AuthDisableRequest(), INTERNAL) == OK
    assert len(tokens) == 0
    assert authenticate("root")[0] == EtcdError.AUTH_NOT_ENABLED


def test_users_without_a_password_do_not_log_in(secured: Machine) -> None:
    options = auth_pb2.UserAddOptions(no_password=True)
    assert secured(proposals.AUTH_USER_ADD, pb.AuthUserAddRequest(name="cert", options=options), INTERNAL) == OK
    request = internal.InternalAuthenticateRequest(name="cert", simple_token="abc")
    assert secured(proposals.AUTHENTICATE, request) == EtcdError.AUTH_FAILED


@pytest.mark.parametrize(
    ("token", "index"), [("a.7", 7), ("a", None), ("a.b", None), ("a.1.2", None), ("a.", None), ("a.²", None), ("a." + "9" * 30, None)]
)
def test_the_index_of_a_token(token: str, index: int | None) -> None:
    assert index_of(token) == index


# -- what is stored


def test_what_is_stored_is_loaded(secured: Machine) -> None:
    loaded = secured.reloaded()
    assert loaded.enabled
    assert (loaded.revision, loaded.users, loaded.roles) == (secured.auth.revision, secured.auth.users, secured.auth.roles)
    assert secured.buckets["auth"] == {b"authEnabled": b"\x01", b"authRevision": secured.auth.revision.to_bytes(8, "big")}
    assert secured(proposals.AUTH_DISABLE, pb.AuthDisableRequest(), INTERNAL) == OK
    assert secured.buckets["auth"][b"authEnabled"] == b"\0"
    assert not secured.reloaded().enabled


def test_a_fresh_store_is_written_as_etcds() -> None:
    side = SideWrites()
    store = AuthStore(side.write)
    store.load((), (), ())
    assert store.revision == 1
    assert side.take() == [("auth", b"authRevision", b"\0\0\0\0\0\0\0\x01")]


def test_what_etcd_wrote_before_there_were_options(machine: Machine) -> None:
    old = auth_pb2.User(name=b"old", password=b"x", roles=["r"]).SerializeToString()
    machine.auth.load([(b"authRevision", (9).to_bytes(8, "big"))], [(b"old", old)], ())
    assert machine.auth.revision == 9
    machine(proposals.AUTH_USER_GRANT_ROLE, pb.AuthUserGrantRoleRequest(user="old", role="root"))
    assert not auth_pb2.User.FromString(machine.buckets["authUsers"][b"old"]).HasField("options"), "none are added"


@pytest.mark.parametrize(
    ("auth", "users", "roles"), [([(b"authRevision", b"1")], (), ()), ((), [(b"u", b"\xff")], ()), ((), (), [(b"r", b"\x0a")])]
)
def test_what_cannot_be_read_is_corrupt(auth: Any, users: Any, roles: Any) -> None:
    with pytest.raises(CorruptError):
        AuthStore(lambda _write: None).load(auth, users, roles)


@pytest.mark.parametrize("kind", [kind for kind, _ in MANAGEMENT[2:]])
@pytest.mark.parametrize("payload", [b"\xff", b"\x0a\x05ab", b"\x08\x01\x10\x01\x18\x01", b"\x0a\x01\xff\x12\x01\xff"])
def test_bytes_that_are_no_request_are_a_result(machine: Machine, kind: int, payload: bytes) -> None:
    entries = codec.wrap(kind, [payload], 77)
    _, results = machine.applier.apply(1, 1, 0, entries)
    assert results[0][0] in (EtcdError.MALFORMED, EtcdError.USER_EMPTY, EtcdError.ROLE_EMPTY)
    assert machine.auth.revision == 1
