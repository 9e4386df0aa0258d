"""JSON web tokens: an etcd and a raftsched with the same keys take each other's tokens, over gRPC, by etcdctl and over JSON, and answer
alike with authentication switched on."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from raftsched.pb.etcd import auth_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.testing.etcd_command import OURS, Member

pytestmark = pytest.mark.process
METHODS = ("RS256", "ES256", "EdDSA")


def make_keys(method: str, folder: Path) -> tuple[Path, Path]:
    """(public, private) PEM files."""
    key: Any
    if method == "RS256":
        key = rsa.generate_private_key(65537, 2048)
    else:
        key = ec.generate_private_key(ec.SECP256R1()) if method == "ES256" else ed25519.Ed25519PrivateKey.generate()
    folder.mkdir()
    public, private = folder / "public.pem", folder / "private.pem"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return public, private


class Side:
    """One member; ann may read and write below `a`, root may all, both have the password `pw`."""

    def __init__(self, member: Member) -> None:
        self.url = member.client
        self.address = member.client.removeprefix("http://")
        self._channel = grpc.insecure_channel(self.address)
        self.kv, self.auth = stubs.KVStub(self._channel), stubs.AuthStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def secure(self) -> None:
        auth = self.auth
        for key in (b"a1", b"a2", b"b"):
            self.kv.Put(pb.PutRequest(key=key, value=b"v"), timeout=20)
        for name, role in (("root", "root"), ("ann", "as")):
            auth.UserAdd(pb.AuthUserAddRequest(name=name, password="pw"), timeout=20)
            auth.RoleAdd(pb.AuthRoleAddRequest(name=role), timeout=20)
            auth.UserGrantRole(pb.AuthUserGrantRoleRequest(user=name, role=role), timeout=20)
        permission = auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=b"a", range_end=b"b")
        auth.RoleGrantPermission(pb.AuthRoleGrantPermissionRequest(name="as", perm=permission), timeout=20)
        auth.AuthEnable(pb.AuthEnableRequest(), timeout=20)

    def token(self, name: str) -> str:
        return str(self.auth.Authenticate(pb.AuthenticateRequest(name=name, password="pw"), timeout=20).token)

    def get(self, token: str, key: bytes, header: str) -> tuple[Any, ...]:
        try:
            found = self.kv.Range(pb.RangeRequest(key=key), timeout=20, metadata=[(header, token)])
        except grpc.RpcError as error:
            return error.code().value[0], error.details()
        return tuple((one.key, one.value, one.mod_revision) for one in found.kvs)

    def post(self, path: str, body: dict[str, Any], authorization: str) -> tuple[Any, ...]:
        """Status, what asks for a token, and the answer but for its header."""
        headers = {"Authorization": authorization} if authorization else {}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                found = json.load(answer)
                found.pop("header", None)
                return answer.status, found
        except urllib.error.HTTPError as error:
            with error:
                found = json.load(error)
            return error.code, error.headers.get("WWW-Authenticate"), found["code"], found["message"]

    def etcdctl(self, program: Path, *words: str) -> tuple[int, str, str]:
        done = subprocess.run([program, f"--endpoints={self.address}", *words], capture_output=True, text=True, timeout=60, check=False)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]  # its own log
        return done.returncode, done.stdout, "\n".join(lines)


@pytest.fixture(params=METHODS)
def both(request: pytest.FixtureRequest, etcd_program: Path, tmp_path: Path) -> Iterator[list[Side]]:
    """An etcd, then a raftsched."""
    public, private = make_keys(request.param, tmp_path / "keys")
    flags = [f"--auth-token=jwt,pub-key={public},priv-key={private},sign-method={request.param},ttl=5m", "--bcrypt-cost=4"]
    with Member(tmp_path / "judge", program=[etcd_program]) as judge, Member(tmp_path / "subject", program=OURS) as subject:
        sides = [Side(member.start(*flags)) for member in (judge, subject)]
        for side in sides:
            side.secure()
        yield sides
        for side in sides:
            side.close()


CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v3/kv/range", {"key": "YTE="}),
    ("/v3/kv/range", {"key": "YQ==", "range_end": "Yg=="}),
    ("/v3/kv/range", {"key": "YQ==", "range_end": "Yw=="}),
    ("/v3/kv/put", {"key": "YTE=", "value": "dw=="}),
    ("/v3/kv/put", {"key": "Yg==", "value": "dw=="}),
    ("/v3/kv/txn", {"success": [{"request_range": {"key": "Yg=="}}]}),
    ("/v3/kv/deleterange", {"key": "YTI="}),
    ("/v3/kv/deleterange", {"key": "Yg=="}),
    ("/v3/kv/compaction", {"revision": "1"}),
    ("/v3/lease/grant", {"ID": "77", "TTL": "600"}),
    ("/v3/lease/revoke", {"ID": "77"}),
    ("/v3/auth/status", {}),
    ("/v3/auth/user/list", {}),
    ("/v3/auth/user/get", {"name": "ann"}),
    ("/v3/auth/role/get", {"role": "as"}),
    ("/v3/auth/role/add", {"role": "new"}),
    ("/v3/auth/authenticate", {"name": "ann", "password": "wrong"}),
    ("/v3/maintenance/alarm", {}),
    ("/v3/maintenance/hash", {}),
)


def test_each_takes_the_others_tokens(both: list[Side], etcdctl_program: Path) -> None:
    for issuer in both:
        token = issuer.token("ann")
        for header in ("token", "authorization"):
            told = [[side.get(token, key, header) for key in (b"a1", b"b")] for side in both]
            assert told[0] == told[1]
            assert told[0][0][0][:2] == (b"a1", b"v")
            assert told[0][1] == (7, "etcdserver: permission denied")
        for words in (("get", "a1"), ("get", "b"), ("put", "a1", "v"), ("user", "list")):
            outputs = [side.etcdctl(etcdctl_program, f"--auth-jwt-token={token}", *words) for side in both]
            address = [side.address for side in both]
            assert outputs[0] == (*outputs[1][:2], outputs[1][2].replace(address[1], address[0]))
            assert (outputs[0][0] == 0) == (words[-1] in {"a1", "v"}), outputs[0]


def test_the_gateway_answers_alike_while_authentication_is_on(both: list[Side]) -> None:
    denied = served = 0
    for name in ("ann", "root", ""):
        token = both[0].token(name) if name else ""
        for form in ("{}", "Bearer {}"):
            for path, body in CALLS:
                judge, subject = (side.post(path, body, form.format(token) if name else "") for side in both)
                if path != "/v3/maintenance/hash" or judge[0] != 200:
                    assert subject == judge, (name, form, path, body)
                denied += judge[0] == 403
                served += judge[0] == 200
    assert denied > 5
    assert served > 20


def test_forged_tokens_are_refused_alike(both: list[Side]) -> None:
    token = both[0].token("root")
    head, claims, signature = token.split(".")
    forged = (
        "x",
        f"{head}.{claims}.",
        f"{head}.{claims}",
        f"{head}.{claims}.{signature[:-8]}AAAAAAAA",
        f".{claims}.{signature}",
        "a.b.c",
        "",
    )
    for one in forged:
        judge, subject = ([side.get(one, b"b", header) for header in ("token", "authorization")] for side in both)
        assert subject == judge, one
        judge, subject = ([side.post("/v3/kv/range", {"key": "Yg=="}, form.format(one)) for form in ("{}", "Bearer {}")] for side in both)
        assert subject == judge, one
