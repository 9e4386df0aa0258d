"""Asking Sentry: what is sent, who is believed, what is made of each answer. A fake Sentry on a real socket; no server of ours."""

import asyncio
import ssl
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from raftsched.config.sentry import SentryOptions
from raftsched.errors import GrpcCode, StatusError
from raftsched.pb.dapr.sentry_pb2 import SignCertificateRequest, SignCertificateResponse
from raftsched.pb.dapr.sentry_pb2_grpc import CAServicer, add_CAServicer_to_server
from raftsched.security import sentry as subject
from raftsched.security.anchors import read_anchors
from raftsched.security.grpc_call import Exchange
from raftsched.security.identity import IdentityError, client_context, make_identity, make_request, server_context
from raftsched.security.sentry import Sentry, SentryError, read_token
from raftsched.security.spiffe import workload_id
from raftsched.store.transport.resolving import SystemResolver
from raftsched.testing.sentry import FakeSentry, TrustRoot

OWN = workload_id("localhost", "default", "dapr-scheduler")


@dataclass
class Lines:
    """A `ports.Log`."""

    lines: list[str] = field(default_factory=list)

    def info(self, message: str, /, **fields: object) -> None:
        self.lines.append(f"{message} {fields}")

    debug = warning = error = info


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeSentry]:
    with FakeSentry(tmp_path / "sentry") as made:
        yield made


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts take what they take; the pauses between them are tested by themselves."""
    monkeypatch.setattr(subject, "pause_s", lambda attempt, took_s, chance: 0.01 if attempt < 5 else None)


def options(fake: FakeSentry, **changes: Any) -> SentryOptions:
    made = SentryOptions("127.0.0.1", fake.port, "localhost", "default", "dapr-scheduler", str(fake.anchors), None, False, None)
    return replace(made, **changes)


def client(fake: FakeSentry, log: Lines | None = None, **changes: Any) -> Sentry:
    made = options(fake, **changes)
    return Sentry(made, lambda: read_anchors(str(fake.anchors)), SystemResolver(), lambda: 0.5, log or Lines())


async def failure(asking: Sentry) -> SentryError:
    with pytest.raises(SentryError) as caught:
        await asking.sign()
    return caught.value


async def test_a_fresh_ed25519_key_is_signed(fake: FakeSentry) -> None:
    asking = client(fake)
    first, second = await asking.sign(), await asking.sign()
    assert first.spiffe_id == OWN
    assert first.dns_names == tuple(f"dapr-scheduler-server-{n}.dapr-scheduler-server.default.svc.localhost" for n in range(3))
    assert isinstance(serialization.load_pem_private_key(first.key_pem, None), ed25519.Ed25519PrivateKey)
    assert first.key_pem != second.key_pem
    assert first.not_after == pytest.approx(time.time() + 86_400, abs=60)
    for request in fake.requests:
        assert (request.id, request.namespace, request.trust_domain) == ("dapr-scheduler", "default", "localhost")
        assert (request.token, request.token_validator) == ("", SignCertificateRequest.UNKNOWN)
        csr = x509.load_pem_x509_csr(request.certificate_signing_request)
        assert list(csr.subject) == []
        assert list(csr.extensions) == []
    assert first.key_pem.decode() not in repr(first)
    assert "PRIVATE" not in repr(make_request())


async def test_names_and_token_are_the_ones_that_were_given(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret-1\n")
    with FakeSentry(tmp_path / "sentry", trust_domain="cluster.example", namespace="dapr-system", token="secret-1") as fake:
        changes = {"trust_domain": "cluster.example", "namespace": "dapr-system", "token_file": str(token), "app_id": "other"}
        made = await client(fake, **changes).sign()
        assert str(made.spiffe_id) == "spiffe://cluster.example/ns/dapr-system/other"
        assert made.dns_names == ()
        assert (fake.requests[0].token, fake.requests[0].token_validator) == ("secret-1", SignCertificateRequest.JWKS)
        token.write_text("secret-2")
        lines = Lines()
        refused = await failure(client(fake, lines, **changes))
        assert str(refused) == (
            "error from sentry SignCertificate: rpc error: code = PermissionDenied desc = validation error: token <token> is not valid"
        )
        assert "secret" not in "".join(lines.lines)


async def test_a_refusal_is_final(fake: FakeSentry) -> None:
    fake.behaviour.refusal = StatusError(GrpcCode.PERMISSION_DENIED, "not you: 100 %")
    refused = await failure(client(fake))
    assert str(refused) == "error from sentry SignCertificate: rpc error: code = PermissionDenied desc = not you: 100 %"
    assert len(fake.requests) == 1


async def test_a_sentry_that_is_busy_is_asked_five_times(fake: FakeSentry) -> None:
    fake.behaviour.refusal = StatusError(GrpcCode.UNAVAILABLE, "starting")
    lines = Lines()
    refused = await failure(client(fake, lines))
    assert str(refused) == "error from sentry SignCertificate: rpc error: code = Unavailable desc = starting"
    assert len(fake.requests) == 5
    assert len(lines.lines) == 4
    fake.behaviour.refusal = None
    await client(fake).sign()


async def test_nobody_answers(fake: FakeSentry) -> None:
    fake.close()
    assert str(await failure(client(fake))) == f"error establishing connection to sentry: {fake.address}: Connection refused"
    opening = asyncio.get_running_loop().run_in_executor(None, fake.open)
    await opening
    await client(fake).sign()


async def test_an_answer_that_does_not_come_costs_an_attempt(fake: FakeSentry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "ATTEMPT_S", 0.2)
    monkeypatch.setattr(subject, "ATTEMPTS", 2)
    monkeypatch.setattr(subject, "pause_s", lambda attempt, took_s, chance: 0.01 if attempt < 2 else None)
    fake.behaviour.delay_s = 5
    began = time.monotonic()
    assert str(await failure(client(fake))) == f"error establishing connection to sentry: no answer from {fake.address} within 0.2 s"
    assert 0.4 <= time.monotonic() - began < 4


async def test_another_authority_is_not_sentry(fake: FakeSentry) -> None:
    fake.set_anchors(TrustRoot("other"))
    text = str(await failure(client(fake)))
    assert text == f"error establishing connection to sentry: {fake.address}: unable to get local issuer certificate"
    assert fake.requests == []


@pytest.mark.parametrize("shown", ["spiffe://localhost/ns/default/app", "spiffe://other/ns/default/dapr-sentry"])
async def test_another_id_is_not_sentry(shown: str, tmp_path: Path) -> None:
    with FakeSentry(tmp_path / "sentry", shown_id=shown) as fake:
        text = str(await failure(client(fake)))
        expected = "spiffe://localhost/ns/default/dapr-sentry"
        assert text == f"error establishing connection to sentry: {fake.address}: unexpected ID {shown}: expected {expected}"
        assert fake.requests == [], "nothing was told to him"


async def test_a_chain_that_leads_elsewhere_is_refused(fake: FakeSentry) -> None:
    fake.behaviour.sign_with = TrustRoot("other")
    text = str(await failure(client(fake)))
    assert text == "the newly signed certificate cannot be used: unable to get local issuer certificate"


async def test_an_identity_that_is_not_ours_is_refused(fake: FakeSentry) -> None:
    fake.behaviour.sign_as = "spiffe://localhost/ns/default/app"
    assert str(await failure(client(fake))) == f"sentry signed another identity: expected {OWN} got [spiffe://localhost/ns/default/app]"


async def test_an_expired_certificate_is_refused(fake: FakeSentry) -> None:
    fake.behaviour.ttl_s, fake.behaviour.age_s = -10, 100
    assert str(await failure(client(fake))) == "the newly signed certificate cannot be used: certificate has expired"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "error parsing newly signed certificate"),
        (
            SignCertificateResponse(
                workload_certificate=b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
            ).SerializeToString(),
            "err",
        ),
        (b"\xff\xff", "Error parsing message"),
    ],
)
async def test_an_answer_that_is_no_certificate(answer: bytes, text: str, fake: FakeSentry) -> None:
    fake.behaviour.answer = answer
    assert str(await failure(client(fake))).lower().startswith(text.lower())


async def test_a_web_token_is_kept_and_not_shown(fake: FakeSentry) -> None:
    fake.behaviour.jwt = "a.b.c"
    made = await client(fake).sign()
    assert made.jwt == "a.b.c"
    assert "a.b.c" not in repr(made)


def test_a_certificate_of_another_key_is_refused() -> None:
    root, asked = TrustRoot(), make_request()
    chain, _ = root.pair([str(OWN)])
    with pytest.raises(IdentityError, match="cannot be used: KEY_VALUES_MISMATCH"):
        make_identity(asked, chain, root.pem.decode(), OWN)


def test_the_key_is_in_no_file_while_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    root, asked = TrustRoot(), make_request()
    key = serialization.load_pem_private_key(asked.key_pem, None).public_key()
    made = make_identity(asked, root.svid(key, [str(OWN)]), root.pem.decode(), OWN)
    assert server_context(made, root.pem.decode()).verify_mode is ssl.CERT_REQUIRED
    assert client_context(root.pem.decode()).verify_mode is ssl.CERT_REQUIRED
    assert list(tmp_path.iterdir()) == []


# -- tokens


def test_tokens_by_mode(fake: FakeSentry, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    two.write_text(" kubernetes token \n")
    standard = (str(one), str(two))
    assert read_token(options(fake), standard) == ("", SignCertificateRequest.UNKNOWN)
    in_cluster = options(fake, kubernetes=True)
    assert read_token(in_cluster, standard) == ("kubernetes token", SignCertificateRequest.KUBERNETES)
    one.write_text("sentry's own")
    assert read_token(in_cluster, standard) == ("sentry's own", SignCertificateRequest.KUBERNETES)
    given = options(fake, token_file=str(two))
    assert read_token(given, standard) == ("kubernetes token", SignCertificateRequest.JWKS)
    assert read_token(replace(given, kubernetes=True), standard) == ("kubernetes token", SignCertificateRequest.KUBERNETES)


def test_a_token_that_cannot_be_read(fake: FakeSentry, tmp_path: Path) -> None:
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.write_text("\n")
    with pytest.raises(SentryError, match=f"failed to read token at path '{missing}': No such file or directory"):
        read_token(options(fake, token_file=str(missing)))
    with pytest.raises(SentryError, match=f"failed to read token at path '{empty}': it is empty"):
        read_token(options(fake, kubernetes=True), (str(missing), str(empty)))


# -- the call itself, against servers that are not ours


class Grpcio(CAServicer):
    def SignCertificate(self, request: SignCertificateRequest, context: grpc.ServicerContext) -> SignCertificateResponse:
        if request.id == "refused":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no, größer")
        csr = x509.load_pem_x509_csr(request.certificate_signing_request)
        chain = self.root.svid(csr.public_key(), [f"spiffe://{request.trust_domain}/ns/{request.namespace}/{request.id}"])
        return SignCertificateResponse(workload_certificate=chain, trust_chain_certificates=[b"x" * 200_000])

    def __init__(self, root: TrustRoot) -> None:
        self.root = root


async def test_against_grpcio(fake: FakeSentry) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = fake.root.svid(key.public_key(), ["spiffe://localhost/ns/default/dapr-sentry"])
    form = serialization.PrivateFormat.PKCS8
    key_pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_CAServicer_to_server(Grpcio(fake.root), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key_pem, chain)]))
    server.start()
    try:
        assert (await client(fake, port=port).sign()).spiffe_id == OWN
        refused = await failure(client(fake, port=port, app_id="refused"))
        assert str(refused) == "error from sentry SignCertificate: rpc error: code = PermissionDenied desc = no, größer"
    finally:
        server.stop(None).wait()


def exchange(**changes: Any) -> Exchange:
    return Exchange("host:1", "/s/m", b"hello", **{"timeout_s": 3, "answer_bytes_max": 100, **changes})


def test_a_server_whose_frames_are_none() -> None:
    asked = exchange()
    assert asked.outgoing().startswith(b"PRI * HTTP/2.0")
    with pytest.raises(StatusError, match="the server does not speak gRPC") as caught:
        asked.feed(bytes(30))
    assert caught.value.code == GrpcCode.UNAVAILABLE


def answers(*headers: tuple[str, str], body: bytes = b"") -> bytes:
    """What a server sends that has read all of the request."""
    side = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=False, validate_outbound_headers=False, normalize_outbound_headers=False)
    )
    asked = exchange()
    side.initiate_connection()
    side.receive_data(asked.outgoing())
    side.send_headers(1, [(":status", "200"), *headers], end_stream=not body)
    if body:
        side.send_data(1, body)
        side.send_headers(1, [("grpc-status", "0")], end_stream=True)
    asked.feed(side.data_to_send())
    assert asked.answer is not None
    return asked.answer


def test_answers() -> None:
    assert answers(("content-type", "application/grpc"), body=b"\0\0\0\0\2ok") == b"ok"
    for headers, body, code in (
        ((("grpc-status", "7"), ("grpc-message", "no%0Aline")), b"", GrpcCode.PERMISSION_DENIED),
        ((("grpc-status", "7"), ("grpc-message", "no ")), b"", GrpcCode.PERMISSION_DENIED),  # h2 would take the space for a fault
        ((("grpc-status", "99"),), b"", GrpcCode.UNKNOWN),
        ((("content-type", "text/html"),), b"", GrpcCode.UNAVAILABLE),
        ((), b"\0\0\0\0\3ok", GrpcCode.INTERNAL),
        ((), b"\1\0\0\0\2ok", GrpcCode.INTERNAL),
        ((), bytes(106), GrpcCode.RESOURCE_EXHAUSTED),
    ):
        with pytest.raises(StatusError) as caught:
            answers(*headers, body=body)
        assert caught.value.code == code


async def test_a_server_without_http2_is_not_talked_to(fake: FakeSentry) -> None:
    real = fake.context

    def without() -> ssl.SSLContext:
        context = real()
        context.set_alpn_protocols(["http/1.1"])
        return context

    fake.context = without  # type: ignore[method-assign]
    assert str(await failure(client(fake))).endswith("code = Unavailable desc = the server does not speak HTTP/2")


def test_a_server_that_closes() -> None:
    with pytest.raises(StatusError, match="the connection was closed before an answer came"):
        exchange().feed(b"")
