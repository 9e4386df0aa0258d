"""A Sentry for tests: a certificate authority that answers, refuses, delays and errs as Dapr's does, on a loop in a thread.

What it checks and says follows Dapr's own: a validator must be named or be the default, a token must be good, the request must be signed by
its key. Certificates come from an issuer under the root that is the trust anchor; they hold one URI, and for the scheduler its DNS names.
"""

import asyncio
import datetime
import ssl
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from raftsched.errors import GrpcCode, StatusError
from raftsched.pb.dapr.sentry_pb2 import SignCertificateRequest, SignCertificateResponse
from raftsched.rpc.http2._h2 import Call, Engine
from raftsched.testing.process import free_ports

T = TypeVar("T")
METHOD = "/dapr.proto.sentry.v1.CA/SignCertificate"
SCHEDULER = "dapr-scheduler"
SKEW = datetime.timedelta(minutes=15)  # as Sentry dates back
Usage = x509.oid.ExtendedKeyUsageOID


class TrustRoot:
    """A root and the issuer under it."""

    def __init__(self, name: str = "root") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = _authority(name, self.key, name, self.key)
        self.issuer_key = ec.generate_private_key(ec.SECP256R1())
        self.issuer = _authority(f"{name} issuer", self.issuer_key, name, self.key)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def svid(
        self, key: Any, ids: Sequence[str], *, dns_names: Sequence[str] = (), ttl_s: float = 86_400, age_s: float | None = None
    ) -> bytes:
        """PEM of certificate and issuer, for a public key. `ids` are its URIs; `age_s` = how far it is dated back."""
        now = datetime.datetime.now(datetime.UTC)
        before = SKEW if age_s is None else datetime.timedelta(seconds=age_s)
        names = [*map(x509.UniformResourceIdentifier, ids), *map(x509.DNSName, dns_names)]
        made = x509.CertificateBuilder(
            self.issuer.subject, x509.Name([]), key, x509.random_serial_number(), now - before, now + datetime.timedelta(seconds=ttl_s)
        )
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=True)
        made = made.add_extension(x509.ExtendedKeyUsage([Usage.SERVER_AUTH, Usage.CLIENT_AUTH]), critical=False)
        signed = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True).sign(self.issuer_key, hashes.SHA256())
        return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in (signed, self.issuer))

    def pair(self, ids: Sequence[str], **options: Any) -> tuple[bytes, bytes]:
        """(chain, key) in PEM, of a fresh Ed25519 key; options of `svid`."""
        key = ed25519.Ed25519PrivateKey.generate()
        form = serialization.PrivateFormat.PKCS8
        key_pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        return self.svid(key.public_key(), ids, **options), key_pem


def _authority(name: str, key: ec.EllipticCurvePrivateKey, by: str, by_key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject, issuer = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (name, by))
    until = now + datetime.timedelta(days=30)
    made = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), now - SKEW, until)
    return made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(by_key, hashes.SHA256())


@dataclass
class Behaviour:
    """What it does next; tests change it while it runs."""

    ttl_s: float = 86_400
    age_s: float | None = None
    delay_s: float = 0
    refusal: StatusError | None = None
    sign_with: TrustRoot | None = None
    """Somebody else's authority."""
    sign_as: str = ""
    """Another id than was asked for."""
    answer: bytes | None = None
    """Instead of what it would say."""
    jwt: str = ""


class FakeSentry:
    """`with FakeSentry(folder) as sentry:`; `folder/ca.crt` holds the trust anchors."""

    def __init__(
        self, folder: Path, *, trust_domain: str = "localhost", namespace: str = "default", shown_id: str = "", token: str = ""
    ) -> None:
        """`shown_id`: of its own certificate, if that is to be a wrong one; `token`: demanded of who asks, "" = the insecure validator."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.trust_domain, self.namespace, self.token = trust_domain, namespace, token
        self.shown_id = shown_id or self.id_of("dapr-sentry")
        self.root = TrustRoot()
        self.port = free_ports(1)[0]
        self.behaviour = Behaviour()
        self.requests: list[SignCertificateRequest] = []
        self.when: list[float] = []
        self.causes: list[str] = []
        self.set_anchors(self.root)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._engine: Engine | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def anchors(self) -> Path:
        return self.folder / "ca.crt"

    def id_of(self, app_id: str, namespace: str = "") -> str:
        return f"spiffe://{self.trust_domain}/ns/{namespace or self.namespace}/{app_id}"

    def set_anchors(self, *roots: TrustRoot) -> None:
        """Replaces the file as a whole."""
        temporary = self.anchors.with_suffix(".new")
        temporary.write_bytes(b"".join(root.pem for root in roots))
        temporary.replace(self.anchors)

    # -- life

    def __enter__(self) -> Self:
        self._thread.start()
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def open(self) -> Self:
        """Listens, again if it was closed."""
        self._run(self._open())
        return self

    def close(self) -> None:
        """Nobody answers any more, until `open`."""
        if self._engine is not None:
            self._run(self._engine.drain(100))
            self._engine = None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _open(self) -> None:
        self._engine = Engine(self._loop)
        self._engine.add_unary(METHOD, self._sign)
        await self._engine.listen("127.0.0.1", self.port, guard=self)

    # -- the door's guard

    def context(self) -> ssl.SSLContext:
        """A fresh certificate for each connection, of the authority of now."""
        chain, key = self.root.pair([self.shown_id])
        path = self.folder / f"sentry-{threading.get_ident()}.pem"
        path.write_bytes(chain + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        context.set_alpn_protocols(["h2"])
        path.unlink()
        return context

    def objection(self, tls: ssl.SSLObject) -> str:
        return ""

    def refused(self, peer: str, cause: str) -> None:
        self.causes.append(cause)

    # -- the service

    async def _sign(self, call: Call, message: bytes) -> bytes:
        request, now = SignCertificateRequest.FromString(message), self.behaviour
        self.requests.append(request)
        self.when.append(time.monotonic())
        if now.delay_s:
            await asyncio.sleep(now.delay_s)
        if now.refusal is not None:
            raise now.refusal
        self._validate(request)
        answer = SignCertificateResponse(workload_certificate=self._certificate(request), trust_chain_certificates=[self.root.pem])
        answer.valid_until.FromSeconds(int(time.time() + now.ttl_s))
        if now.jwt:
            answer.jwt.value = now.jwt
        return answer.SerializeToString() if now.answer is None else now.answer

    def _validate(self, request: SignCertificateRequest) -> None:
        validator = request.token_validator or (0 if self.token else SignCertificateRequest.INSECURE)
        if validator == SignCertificateRequest.UNKNOWN:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, "a validator name must be specified in this environment")
        if (validator == SignCertificateRequest.INSECURE) is bool(self.token):
            raise StatusError(GrpcCode.INVALID_ARGUMENT, "the requested validator is not enabled")
        if self.token and request.token != self.token:
            raise StatusError(GrpcCode.PERMISSION_DENIED, f"validation error: token {request.token} is not valid")
        if not request.id or not request.namespace:
            raise StatusError(GrpcCode.PERMISSION_DENIED, "validation error: id and namespace are required")

    def _certificate(self, request: SignCertificateRequest) -> bytes:
        try:
            csr = x509.load_pem_x509_csr(request.certificate_signing_request)
        except ValueError:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, "invalid certificate signing request") from None
        if not csr.is_signature_valid:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, "invalid signature")
        now, own = self.behaviour, request.id == SCHEDULER and request.namespace == self.namespace
        domain = f"dapr-scheduler-server.{request.namespace}.svc.{self.trust_domain}"
        names = [f"dapr-scheduler-server-{ordinal}.{domain}" for ordinal in range(3)] if own else []
        spiffe_id = now.sign_as or f"spiffe://{request.trust_domain}/ns/{request.namespace}/{request.id}"
        root = now.sign_with or self.root
        return root.svid(csr.public_key(), [spiffe_id], dns_names=names, ttl_s=now.ttl_s, age_s=now.age_s)
