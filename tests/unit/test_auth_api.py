"""Authentication as clients meet it: the Auth service, tokens, and what every other method asks (etcd-api §1.6), behind the real door."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from raftsched import limits
from raftsched.config.auth import METHODS, AuthToken, bcrypt_cost, parse_auth_token
from raftsched.errors import ETCD_STATUS, ConfigError, EtcdError, StatusError
from raftsched.pb.etcd import auth_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.rpc.etcd.access import ADMIN, KNOWN, Access, common_name
from raftsched.security.jwt_tokens import JwtTokens
from raftsched.store_server import NoTokens, token_signer
from raftsched.testing.lone_node import EtcdDoor
from raftsched.types import NOBODY, Identity

HOUR_NS = 3600 * 10**9


class Client:
    """All services of one server, as one user."""

    def __init__(self, channel: grpc.Channel, token: str = "", header: str = "token") -> None:
        self.channel = channel
        self.metadata = ((header, token),) if token else None
        self._stubs = (
            stubs.AuthStub(channel),
            stubs.KVStub(channel),
            stubs.LeaseStub(channel),
            stubs.ClusterStub(channel),
            stubs.MaintenanceStub(channel),
        )

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        stub = next(one for one in self._stubs if hasattr(one, method))
        call = getattr(stub, method)
        return lambda request: call(request, metadata=self.metadata, timeout=20)

    def log_in(self, name: str, password: str = "pw", header: str = "token") -> "Client":
        token = self.Authenticate(pb.AuthenticateRequest(name=name, password=password)).token
        return Client(self.channel, token, header)

    def renew(self, lease: int) -> int:
        return int(next(self.LeaseKeepAlive(iter([pb.LeaseKeepAliveRequest(ID=lease)]))).TTL)

    def watch(self, key: bytes, end: bytes = b"", **fields: Any) -> pb.WatchResponse:
        """The first answer."""
        requests: queue.SimpleQueue[pb.WatchRequest | None] = queue.SimpleQueue()
        requests.put(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=key, range_end=end, **fields)))
        call = stubs.WatchStub(self.channel).Watch(iter(requests.get, None), metadata=self.metadata, timeout=20)
        try:
            return next(call)
        finally:
            call.cancel()
            requests.put(None)


def refused(call: Callable[[], Any], error: EtcdError) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    code, text = ETCD_STATUS[error]
    assert (caught.value.code().value[0], caught.value.details()) == (code, text)


@pytest.fixture
def door() -> Iterator[EtcdDoor]:
    with EtcdDoor() as opened:
        yield opened


@pytest.fixture
def anybody(door: EtcdDoor) -> Iterator[Client]:
    with grpc.insecure_channel(door.address) as channel:
        yield Client(channel)


def secure(client: Client) -> None:
    """root, ann with [a, b) and bob with key m, authentication on."""
    for name in ("root", "ann", "bob"):
        client.UserAdd(pb.AuthUserAddRequest(name=name, password="pw"))
    client.RoleAdd(pb.AuthRoleAddRequest(name="root"))
    client.UserGrantRole(pb.AuthUserGrantRoleRequest(user="root", role="root"))
    for role, user, key, end in (("as", "ann", b"a", b"b"), ("m", "bob", b"m", b"")):
        client.RoleAdd(pb.AuthRoleAddRequest(name=role))
        perm = auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=key, range_end=end)
        client.RoleGrantPermission(pb.AuthRoleGrantPermissionRequest(name=role, perm=perm))
        client.UserGrantRole(pb.AuthUserGrantRoleRequest(user=user, role=role))
    client.AuthEnable(pb.AuthEnableRequest())


@pytest.fixture
def root(anybody: Client) -> Client:
    secure(anybody)
    return anybody.log_in("root")


@pytest.fixture
def ann(root: Client, anybody: Client) -> Client:
    return anybody.log_in("ann")


# -- the service


def test_users_and_roles_are_shown(anybody: Client, door: EtcdDoor) -> None:
    assert anybody.AuthStatus(pb.AuthStatusRequest()).authRevision == 1
    secure(anybody)
    root = anybody.log_in("root")
    assert list(root.UserList(pb.AuthUserListRequest()).users) == ["ann", "bob", "root"]
    assert list(root.RoleList(pb.AuthRoleListRequest()).roles) == ["as", "m", "root"]
    assert list(root.UserGet(pb.AuthUserGetRequest(name="ann")).roles) == ["as"]
    (held,) = root.RoleGet(pb.AuthRoleGetRequest(role="as")).perm
    assert (held.permType, held.key, held.range_end) == (auth_pb2.Permission.READWRITE, b"a", b"b")
    (everything,) = root.RoleGet(pb.AuthRoleGetRequest(role="root")).perm
    assert (everything.permType, everything.key, everything.range_end) == (auth_pb2.Permission.READWRITE, b"", b"\0")
    status = anybody.AuthStatus(pb.AuthStatusRequest())
    assert (status.enabled, status.authRevision) == (True, 12), "needs no credentials"
    assert status.header.member_id == door.node.member_id


def test_everybody_sees_himself_and_his_roles(ann: Client, anybody: Client) -> None:
    assert list(ann.UserGet(pb.AuthUserGetRequest(name="ann")).roles) == ["as"]
    assert ann.RoleGet(pb.AuthRoleGetRequest(role="as")).perm
    refused(lambda: ann.UserGet(pb.AuthUserGetRequest(name="bob")), EtcdError.PERMISSION_DENIED)
    refused(lambda: ann.RoleGet(pb.AuthRoleGetRequest(role="m")), EtcdError.PERMISSION_DENIED)
    refused(lambda: ann.UserList(pb.AuthUserListRequest()), EtcdError.PERMISSION_DENIED)
    refused(lambda: ann.RoleList(pb.AuthRoleListRequest()), EtcdError.PERMISSION_DENIED)
    refused(lambda: anybody.UserGet(pb.AuthUserGetRequest(name="ann")), EtcdError.USER_EMPTY)
    refused(lambda: anybody.RoleList(pb.AuthRoleListRequest()), EtcdError.USER_EMPTY)


def test_logging_in(anybody: Client) -> None:
    def log_in(name: str, password: str) -> Callable[[], Any]:
        return lambda: anybody.Authenticate(pb.AuthenticateRequest(name=name, password=password))

    refused(log_in("root", "pw"), EtcdError.AUTH_NOT_ENABLED)
    secure(anybody)
    refused(log_in("root", "wrong"), EtcdError.AUTH_FAILED)
    refused(log_in("root", "pw" * 100), EtcdError.AUTH_FAILED)
    refused(log_in("nobody", "pw"), EtcdError.AUTH_FAILED)
    root = anybody.log_in("root")
    options = auth_pb2.UserAddOptions(no_password=True)
    root.UserAdd(pb.AuthUserAddRequest(name="cert", options=options))
    refused(log_in("cert", "pw"), EtcdError.NO_PASSWORD_USER)
    root.UserChangePassword(pb.AuthUserChangePasswordRequest(name="ann", password="new"))
    refused(log_in("ann", "pw"), EtcdError.AUTH_FAILED)
    anybody.log_in("ann", "new")
    too_long = pb.AuthUserAddRequest(name="x", password="x" * 73)
    refused(lambda: root.UserAdd(too_long), EtcdError.PASSWORD_TOO_LONG)


def test_the_log_never_holds_a_password(door: EtcdDoor, anybody: Client) -> None:
    seen: list[bytes] = []
    propose = door.node.propose_many
    door.run(
        lambda: setattr(
            door.node, "propose_many", lambda kind, messages, *a, **k: (seen.extend(messages), propose(kind, messages, *a, **k))
        )
    )
    anybody.UserAdd(pb.AuthUserAddRequest(name="u", password="secret-word"))
    anybody.UserChangePassword(pb.AuthUserChangePasswordRequest(name="u", password="secret-word"))
    assert len(seen) == 2
    assert not any(b"secret-word" in one for one in seen)
    stored = door.node.auth.store.users["u"].password
    assert bcrypt.checkpw(b"secret-word", stored)
    assert stored.startswith(b"$2a$04$"), "the version that etcd writes, at the cost that was asked for"


def test_a_password_that_changes_while_it_is_compared_is_compared_again(door: EtcdDoor, anybody: Client) -> None:
    """Between the comparison and the entry the revision moved: the login is done once more, and now fails."""
    secure(anybody)
    root = anybody.log_in("root")
    auth = door.node.auth
    check, changed = auth._check_password, []

    async def slow(name: str, password: str) -> int:
        revision = await check(name, password)
        if not changed:
            changed.append(1)
            change = pb.AuthUserChangePasswordRequest(name="ann", password="new")
            await asyncio.get_running_loop().run_in_executor(None, root.UserChangePassword, change)
        return int(revision)

    door.run(lambda: setattr(auth, "_check_password", slow))
    refused(lambda: anybody.log_in("ann"), EtcdError.AUTH_FAILED)
    assert changed


def test_the_auth_revision_is_a_metric(anybody: Client, door: EtcdDoor) -> None:
    secure(anybody)
    assert "etcd_debugging_auth_revision 12" in door.run(door.metrics.render).decode()


# -- tokens


@pytest.mark.parametrize("header", ["token", "authorization"])
@pytest.mark.parametrize("prefix", ["", "Bearer "])
def test_a_token_is_taken_from_either_header(anybody: Client, header: str, prefix: str) -> None:
    secure(anybody)
    token = anybody.Authenticate(pb.AuthenticateRequest(name="ann", password="pw")).token
    assert len(token.split(".")[0]) == 16
    client = Client(anybody.channel, prefix + token, header)
    client.Put(pb.PutRequest(key=b"a"))
    assert client.Range(pb.RangeRequest(key=b"a")).count == 1
    assert client.MemberList(pb.MemberListRequest()).members


EVERY_METHOD: list[tuple[str, Any]] = [
    ("Put", pb.PutRequest(key=b"a")),
    ("Range", pb.RangeRequest(key=b"a")),
    ("Range", pb.RangeRequest(key=b"a", serializable=True)),
    ("DeleteRange", pb.DeleteRangeRequest(key=b"a")),
    ("Txn", pb.TxnRequest(success=[pb.RequestOp(request_put=pb.PutRequest(key=b"a"))])),
    ("Txn", pb.TxnRequest(success=[pb.RequestOp(request_range=pb.RangeRequest(key=b"a"))])),
    ("Txn", pb.TxnRequest(compare=[pb.Compare(key=b"a")])),
    ("Compact", pb.CompactionRequest(revision=1)),
    ("LeaseGrant", pb.LeaseGrantRequest(TTL=100)),
    ("LeaseRevoke", pb.LeaseRevokeRequest(ID=5)),
    ("LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=5)),
    ("LeaseLeases", pb.LeaseLeasesRequest()),
    ("MemberList", pb.MemberListRequest()),
    ("Status", pb.StatusRequest()),
    ("Alarm", pb.AlarmRequest()),
    ("Alarm", pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=1, alarm=pb.NOSPACE)),
    ("Defragment", pb.DefragmentRequest()),
    ("Hash", pb.HashRequest()),
    ("HashKV", pb.HashKVRequest()),
    ("UserList", pb.AuthUserListRequest()),
    ("UserAdd", pb.AuthUserAddRequest(name="x", password="y")),
    ("AuthDisable", pb.AuthDisableRequest()),
]


@pytest.mark.parametrize(("method", "request_"), EVERY_METHOD, ids=lambda one: one if isinstance(one, str) else "")
def test_nobody_and_a_forged_token_get_nowhere(root: Client, anybody: Client, method: str, request_: Any) -> None:
    refused(lambda: getattr(anybody, method)(request_), EtcdError.USER_EMPTY)
    for token in ("nonsense", "abcdefghijklmnop.1", "a.b.c", "."):
        forged = Client(anybody.channel, token)
        refused(lambda forged=forged: getattr(forged, method)(request_), EtcdError.INVALID_AUTH_TOKEN)


def test_a_forged_token_is_refused_where_nobody_would_be_served(root: Client, anybody: Client) -> None:
    forged = Client(anybody.channel, "abcdefghijklmnop.1")
    anybody.AuthStatus(pb.AuthStatusRequest())
    refused(lambda: forged.AuthStatus(pb.AuthStatusRequest()), EtcdError.INVALID_AUTH_TOKEN)
    anybody.Txn(pb.TxnRequest())
    refused(lambda: forged.Txn(pb.TxnRequest()), EtcdError.INVALID_AUTH_TOKEN)


ADMINS_METHODS: list[tuple[str, Any]] = [
    ("Compact", pb.CompactionRequest(revision=1)),
    ("Alarm", pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=1, alarm=pb.CORRUPT)),
    ("Defragment", pb.DefragmentRequest()),
    ("Hash", pb.HashRequest()),
    ("HashKV", pb.HashKVRequest()),
]


@pytest.mark.parametrize(("method", "request_"), ADMINS_METHODS, ids=lambda one: one if isinstance(one, str) else "")
def test_what_root_alone_may(ann: Client, root: Client, method: str, request_: Any) -> None:
    refused(lambda: getattr(ann, method)(request_), EtcdError.PERMISSION_DENIED)
    getattr(root, method)(request_)


@pytest.mark.parametrize("path", sorted(ADMIN))
def test_every_method_of_the_table_is_roots(door: EtcdDoor, ann: Client, path: str) -> None:
    """Also those that this node does not have, or has as a stream: by the guard that they are registered with."""
    access = Access(door.engine, door.node)
    caller = Caller(ann.metadata)
    refusal = door.run(lambda: access.refusal(path, caller))
    assert isinstance(refusal, StatusError)
    assert refusal.message == ETCD_STATUS[EtcdError.PERMISSION_DENIED][1]
    assert access.guard(path) == access.admin
    assert path not in KNOWN


class Caller:
    """A call with this metadata, over a connection with this certificate."""

    def __init__(self, metadata: Any = (), certificate: dict[str, Any] | None = None) -> None:
        self._metadata = dict(metadata or ())
        self._certificate = certificate

    def metadata(self, name: str) -> str | None:
        return self._metadata.get(name)

    def peer_certificate(self) -> dict[str, Any] | None:
        return self._certificate


def test_anybody_who_is_logged_in(ann: Client) -> None:
    ann.Status(pb.StatusRequest())
    ann.MemberList(pb.MemberListRequest(linearizable=True))
    ann.Alarm(pb.AlarmRequest())
    lease = ann.LeaseGrant(pb.LeaseGrantRequest(TTL=100)).ID
    assert ann.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease, keys=True)).grantedTTL == 100
    assert ann.renew(lease) == 100
    assert [one.ID for one in ann.LeaseLeases(pb.LeaseLeasesRequest()).leases] == [lease]
    ann.LeaseRevoke(pb.LeaseRevokeRequest(ID=lease))


def test_a_lease_with_keys_of_others_is_theirs(ann: Client, anybody: Client) -> None:
    bob = anybody.log_in("bob")
    lease = ann.LeaseGrant(pb.LeaseGrantRequest(TTL=100)).ID
    ann.Put(pb.PutRequest(key=b"a", lease=lease))
    assert ann.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease, keys=True)).keys == [b"a"]
    refused(lambda: bob.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease, keys=True)), EtcdError.PERMISSION_DENIED)
    assert bob.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease)).TTL > 0
    refused(lambda: bob.LeaseLeases(pb.LeaseLeasesRequest()), EtcdError.PERMISSION_DENIED)
    refused(lambda: bob.LeaseRevoke(pb.LeaseRevokeRequest(ID=lease)), EtcdError.PERMISSION_DENIED)
    refused(lambda: bob.renew(lease), EtcdError.PERMISSION_DENIED)
    refused(lambda: anybody.renew(lease), EtcdError.USER_EMPTY)
    assert bob.renew(12345) == 0, "a lease that is not there is none of others"
    assert ann.renew(lease) == 100


def test_one_batch_of_several_users(ann: Client, root: Client, anybody: Client, door: EtcdDoor) -> None:
    bob = anybody.log_in("bob")
    forged = Client(anybody.channel, "abcdefghijklmnop.1")
    outcomes: dict[str, str] = {}

    def ask(name: str, client: Client) -> None:
        try:
            client.Put(pb.PutRequest(key=b"a"))
            outcomes[name] = "OK"
        except grpc.RpcError as error:
            outcomes[name] = error.details()

    threads = [
        threading.Thread(target=ask, args=one)
        for one in (("ann", ann), ("bob", bob), ("forged", forged), ("nobody", anybody), ("root", root))
    ]
    door.run(lambda: time.sleep(0.3) if [thread.start() for thread in threads] else None)  # they all wait for one tick
    for thread in threads:
        thread.join(10)
    assert outcomes == {
        "ann": "OK",
        "root": "OK",
        "bob": "etcdserver: permission denied",
        "forged": "etcdserver: invalid auth token",
        "nobody": "etcdserver: user name is empty",
    }


def test_watches(ann: Client, anybody: Client) -> None:
    def reason(client: Client, key: bytes, end: bytes = b"", **fields: Any) -> tuple[int, bool, str]:
        answer = client.watch(key, end, **fields)
        assert answer.created
        return answer.watch_id, answer.canceled, answer.cancel_reason

    denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    assert reason(ann, b"a", b"b") == (0, False, "")
    assert reason(ann, b"a", b"c") == (-1, True, denied)
    assert reason(ann, b"a", b"\0") == (-1, True, denied)
    assert reason(ann, b"") == (-1, True, denied)
    assert reason(anybody, b"a") == (-1, True, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty")
    forged = Client(anybody.channel, "abcdefghijklmnop.1")
    assert reason(forged, b"a") == (-1, True, "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token")
    assert reason(forged, b"a", start_revision=-1) == (-1, True, ETCD_STATUS[EtcdError.COMPACTED][1]), "said first"


def stream(client: Client, **fields: Any) -> int:
    call = client.channel.unary_stream(
        "/etcdserverpb.KV/RangeStream",
        request_serializer=pb.RangeRequest.SerializeToString,
        response_deserializer=pb.RangeStreamResponse.FromString,
    )
    return sum(len(part.range_response.kvs) for part in call(pb.RangeRequest(**fields), metadata=client.metadata, timeout=20))


def test_range_streams(ann: Client, anybody: Client) -> None:
    for number in range(30):
        ann.Put(pb.PutRequest(key=b"a%d" % number))
    assert stream(ann, key=b"a", range_end=b"b") == 30
    refused(lambda: stream(ann, key=b"a", range_end=b"c"), EtcdError.PERMISSION_DENIED)
    refused(lambda: stream(anybody, key=b"a"), EtcdError.USER_EMPTY)
    refused(lambda: stream(Client(anybody.channel, "x.1"), key=b"a"), EtcdError.INVALID_AUTH_TOKEN)


def test_a_token_from_ahead_is_waited_for(door: EtcdDoor, ann: Client, anybody: Client) -> None:
    """It was given out by an entry that this member has still to apply: the request waits for it, whatever it is."""
    token = dict(ann.metadata or ())["token"]
    auth, store = door.node.auth, door.node.auth.store
    applier = door.node._applier
    door.run(store.tokens.clear)
    ahead = f"{token.split('.')[0]}.{applier.applied_index + 1}"
    client = Client(anybody.channel, ahead)
    done: dict[str, Any] = {}

    def ask(name: str, call: Callable[[], Any]) -> None:
        done[name] = call()

    calls: dict[str, Callable[[], Any]] = {
        "put": lambda: client.Put(pb.PutRequest(key=b"a")),
        "local": lambda: client.Range(pb.RangeRequest(key=b"a", serializable=True)),
        "cold": lambda: client.MemberList(pb.MemberListRequest()),
        "watch": lambda: client.watch(b"a").canceled,
    }
    threads = [threading.Thread(target=ask, args=one) for one in calls.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(auth._awaited) < len(calls):
        assert time.monotonic() < deadline, f"{len(auth._awaited)} wait, {done}"
        time.sleep(0.01)
    assert not done

    def apply() -> None:
        store.tokens.assign(ahead, "ann", door.node._now_ms())
        applier.applied_index += 1
        auth.on_applied()

    door.run(apply)
    for thread in threads:
        thread.join(10)
    assert done.keys() == calls.keys()
    assert done["watch"] is False


def test_a_token_that_never_comes_is_not_waited_for_long(
    door: EtcdDoor, anybody: Client, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.run(lambda: setattr(door.node.auth, "_timeout_ms", 50))
    client = Client(anybody.channel, "abcdefghijklmnop.999999")
    refused(lambda: client.Put(pb.PutRequest(key=b"a")), EtcdError.INVALID_AUTH_TOKEN)
    refused(lambda: client.MemberList(pb.MemberListRequest()), EtcdError.INVALID_AUTH_TOKEN)
    assert client.watch(b"a").cancel_reason.endswith("invalid auth token")
    door.run(lambda: setattr(door.node.auth, "_timeout_ms", 60_000))
    monkeypatch.setattr(limits, "AUTH_TOKENS_AWAITED_MAX", 0)
    refused(lambda: client.Put(pb.PutRequest(key=b"a")), EtcdError.INVALID_AUTH_TOKEN)


def test_too_many_passwords(door: EtcdDoor, anybody: Client, root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "AUTH_PASSWORDS_WAITING_MAX", 0)
    refused(lambda: anybody.log_in("ann"), EtcdError.TOO_MANY_REQUESTS)
    refused(lambda: root.UserAdd(pb.AuthUserAddRequest(name="x", password="y")), EtcdError.TOO_MANY_REQUESTS)


def test_the_loop_goes_on_while_a_password_is_hashed(door: EtcdDoor, anybody: Client, root: Client) -> None:
    """bcrypt works in its own thread: others are answered meanwhile."""
    door.run(lambda: setattr(door.node.auth, "_cost", 13))
    hashing = threading.Thread(target=lambda: root.UserAdd(pb.AuthUserAddRequest(name="slow", password="pw")))
    hashing.start()
    answered = 0
    while hashing.is_alive():
        root.Range(pb.RangeRequest(key=b"a"))
        answered += 1
    hashing.join()
    assert answered > 10


def test_what_waits_is_told_when_the_node_stops(door: EtcdDoor, anybody: Client, root: Client) -> None:
    """A request behind a token that is still to come, and one behind passwords."""
    auth = door.node.auth
    outcomes: list[str] = []

    def ask(call: Callable[[], Any]) -> None:
        try:
            call()
        except grpc.RpcError as error:
            outcomes.append(error.details())

    door.run(lambda: setattr(auth, "_cost", 14))
    ahead = Client(anybody.channel, "abcdefghijklmnop.999999")
    calls = [
        lambda: ahead.Put(pb.PutRequest(key=b"a")),
        lambda: ahead.MemberList(pb.MemberListRequest()),
        lambda: ahead.watch(b"a"),
        *(lambda name=name: root.UserAdd(pb.AuthUserAddRequest(name=name, password="pw")) for name in ("x", "y", "z")),
    ]
    threads = [threading.Thread(target=ask, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(auth._awaited) < 3 or auth._working < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    door.run(auth.close)
    for thread in threads:
        thread.join(20)
    assert outcomes == [ETCD_STATUS[EtcdError.STOPPED][1]] * len(outcomes)
    assert len(outcomes) >= 5, "the password that was being hashed may still be done"
    refused(lambda: anybody.log_in("ann"), EtcdError.STOPPED)


# -- JWTs and certificates


def keys_of(method: str, directory: Path) -> tuple[Path, Path]:
    """(public, private) PEM files for a method."""
    curves: dict[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    key: Any
    directory.mkdir(exist_ok=True)
    if method.startswith("HS"):
        (directory / "secret").write_bytes(bytes(range(64)))
        return directory / "secret", directory / "secret"
    if method in curves:
        key = ec.generate_private_key(curves[method])
    elif method == "EdDSA":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = rsa.generate_private_key(65537, 2048)
    public, private = directory / "public.pem", directory / "private.pem"
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return public, private


@pytest.mark.parametrize("method", METHODS)
def test_every_method_signs_and_verifies(tmp_path: Path, method: str) -> None:
    public, private = keys_of(method, tmp_path)
    now_ns = time.time_ns()
    signing = JwtTokens(method, public_key_file=str(public), private_key_file=str(private), ttl_ns=HOUR_NS)
    token = signing.sign("ann", 7)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims == {"username": "ann", "revision": 7, "exp": pytest.approx((now_ns + HOUR_NS) // 10**9, abs=2)}
    assert signing.find(token) == Identity("ann", 7)
    assert signing.find(token) == Identity("ann", 7), "and again from what is remembered"
    assert signing.find(token[:-8] + "AAAAAAAA") is None
    if method.startswith("HS"):
        return
    verifying = JwtTokens(method, public_key_file=str(public), ttl_ns=HOUR_NS)
    assert verifying.find(token) == Identity("ann", 7)
    with pytest.raises(StatusError) as caught:
        verifying.sign("ann", 7)
    assert caught.value.message == "auth: token signing attempted with verify-only key"
    others = keys_of(method, tmp_path / "others")
    with pytest.raises(ConfigError, match="don't match"):
        JwtTokens(method, public_key_file=str(others[0]), private_key_file=str(private), ttl_ns=HOUR_NS)


def test_a_jwt_is_exactly_what_etcd_takes(tmp_path: Path) -> None:
    _, private = keys_of("RS256", tmp_path)
    tokens = JwtTokens("RS256", private_key_file=str(private), ttl_ns=HOUR_NS)
    key = private.read_bytes()

    def signed(method: str = "RS256", **claims: Any) -> Identity | None:
        return tokens.find(jwt.encode(claims, key, algorithm=method))

    soon = int(time.time()) + 60
    assert signed(username="u", revision=3, exp=soon, aud="x", iat=soon + 999) == Identity("u", 3)
    assert signed(username="u", revision=3.0) == Identity("u", 3), "without an end it has none"
    assert signed(username="u", revision=3, exp=soon - 120) is None
    assert signed(username="u", revision=3, nbf=soon) is None
    assert signed(username="u", revision=3, exp=float("inf")) is None
    assert signed(username=3, revision=3) is None
    assert signed(username="u") is None
    assert signed(username="u", revision="3") is None
    assert signed(username="u", revision=True) is None
    assert signed(username="u", revision=-1) is None
    assert signed("RS384", username="u", revision=3) is None, "another method than the configured one"
    assert tokens.find(jwt.encode({"username": "u", "revision": 3}, None, algorithm="none")) is None
    assert tokens.find("") is None
    assert tokens.find("a.b.c") is None


def test_a_jwt_that_is_remembered_ends_all_the_same(tmp_path: Path) -> None:
    _, private = keys_of("ES256", tmp_path)
    now = [time.time_ns()]
    tokens = JwtTokens("ES256", private_key_file=str(private), ttl_ns=10**9, now_ns=lambda: now[0])
    token = tokens.sign("u", 1)
    assert tokens.find(token) == Identity("u", 1)
    time.sleep(2.1 - (time.time_ns() - now[0]) / 1e9)
    now[0] = time.time_ns()
    assert tokens.find(token) is None


@pytest.mark.parametrize(
    ("method", "content"),
    [
        ("RS256", b""),
        ("RS256", b"no key"),
        ("ES256", "RS256"),
        ("RS256", "EdDSA"),
        ("HS256", b""),
        ("HS256", "RS256"),
        ("ES256", "ES384"),
        ("EdDSA", None),
    ],
)
def test_keys_that_cannot_be_used(tmp_path: Path, method: str, content: Any) -> None:
    path = tmp_path / "key"
    if isinstance(content, str):
        path = keys_of(content, tmp_path)[1]
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="auth: "):
        JwtTokens(method, private_key_file=str(path), ttl_ns=1)


def test_logging_in_with_jwts(tmp_path: Path) -> None:
    _, private = keys_of("ES256", tmp_path)
    tokens = JwtTokens("ES256", private_key_file=str(private), ttl_ns=HOUR_NS)
    with EtcdDoor(token_signer=tokens) as door, grpc.insecure_channel(door.address) as channel:
        anybody = Client(channel)
        secure(anybody)
        ann, root = anybody.log_in("ann"), anybody.log_in("root")
        ann.Put(pb.PutRequest(key=b"a"))
        assert ann.Range(pb.RangeRequest(key=b"a")).count == 1
        ann.Status(pb.StatusRequest())
        root.RoleAdd(pb.AuthRoleAddRequest(name="new"))
        refused(lambda: ann.Put(pb.PutRequest(key=b"a")), EtcdError.AUTH_OLD_REVISION)
        refused(lambda: ann.Range(pb.RangeRequest(key=b"a")), EtcdError.AUTH_OLD_REVISION)
        refused(lambda: ann.Range(pb.RangeRequest(key=b"a", serializable=True)), EtcdError.AUTH_OLD_REVISION)
        refused(lambda: ann.Txn(pb.TxnRequest()), EtcdError.AUTH_OLD_REVISION)
        assert ann.watch(b"a").cancel_reason == "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old"
        root.RoleAdd(pb.AuthRoleAddRequest(name="newer"))  # root's rights do not age
        anybody.log_in("ann").Put(pb.PutRequest(key=b"a"))
        future = Client(channel, tokens.sign("ann", 999))
        future.Put(pb.PutRequest(key=b"a"))
        refused(lambda: future.Range(pb.RangeRequest(key=b"a")), EtcdError.AUTH_OLD_REVISION)


def subject(**names: str) -> dict[str, Any]:
    """A certificate as `ssl` gives it."""
    return {"subject": tuple(((name, value),) for name, value in names.items())}


def test_the_common_name_of_a_certificate_is_its_user(door: EtcdDoor, root: Client) -> None:
    access = Access(door.engine, door.node, client_cert_auth=True)
    ann = Identity("ann", door.node.auth.store.revision)
    shown = subject(organizationName="o", commonName="ann")

    def who(caller: Caller) -> Identity:
        return door.run(lambda: access.identify_nowait(caller))

    assert who(Caller((), shown)) == ann
    assert who(Caller((), None)) is NOBODY
    assert who(Caller([("grpcgateway-accept", "*/*")], shown)) is NOBODY, "the gateway's own certificate"
    assert who(Caller(root.metadata, shown)).name == "root", "a token comes first"
    with pytest.raises(StatusError):
        who(Caller([("token", "x")], shown))
    without = Access(door.engine, door.node)
    assert door.run(lambda: without.identify_nowait(Caller((), shown))) is NOBODY
    assert common_name(subject(organizationName="o")) == ""


# -- flags


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("simple", AuthToken()),
        ("", AuthToken("")),
        ("jwt,sign-method=HS256,priv-key=k", AuthToken("jwt", "HS256", "", "k")),
        ("jwt,pub-key=p,priv-key=k,sign-method=RS256,ttl=10m", AuthToken("jwt", "RS256", "p", "k", 600 * 10**9)),
        ("jwt,sign-method=EdDSA,what=ever", AuthToken("jwt", "EdDSA")),
    ],
)
def test_auth_token_flag(text: str, expected: AuthToken) -> None:
    assert parse_auth_token(text) == expected


@pytest.mark.parametrize(
    "text", ["other", "jwt", "jwt,sign-method=XX", "jwt,sign-method", "jwt,ttl=1h,ttl=2h,sign-method=RS256", "jwt,sign-method=RS256,ttl=x"]
)
def test_auth_token_flag_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="auth: invalid auth options"):
        parse_auth_token(text)


def test_bcrypt_cost_out_of_range_is_the_default() -> None:
    assert [bcrypt_cost(one) for one in (0, 3, 4, 31, 32)] == [10, 10, 4, 31, 10]


def test_signers(tmp_path: Path) -> None:
    assert token_signer(AuthToken()) is None
    none = token_signer(AuthToken(""))
    assert isinstance(none, NoTokens)
    assert none.find("x") is None
    with pytest.raises(StatusError):
        none.sign("u", 1)
    _, private = keys_of("ES256", tmp_path)
    assert isinstance(token_signer(AuthToken("jwt", "ES256", "", str(private))), JwtTokens)
