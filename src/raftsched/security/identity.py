"""An identity: a key that was made here, and the certificates that Sentry made of it.

Invariant: an `Identity` has been proved: TLS accepts key and chain against the anchors in both directions. The key is in memory, and in no
text that could be printed. Must not know: where certificates come from, who keeps them.
"""

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from raftsched.security.anchors import trust
from raftsched.security.spiffe import SpiffeId, parse_id
from raftsched.security.tls import words

ALPN: Final = ("h2",)
FLIGHTS_MAX: Final = 8  # of a handshake; TLS 1.3 needs three


class IdentityError(Exception):
    """What was signed is of no use; the text says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """A fresh key, and what asks for its certificate."""

    key_pem: bytes = field(repr=False)
    csr_pem: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are, as others see it. Instants: seconds of the wall clock."""

    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    """Our certificate first."""
    spiffe_id: SpiffeId
    dns_names: tuple[str, ...]
    not_before: float
    not_after: float
    jwt: str = field(default="", repr=False)


def make_request() -> Request:
    """Ed25519, and a request without any names: Sentry decides them (spec §2.7)."""
    key = Ed25519PrivateKey.generate()
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, None)
    key_pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Request(key_pem, csr.public_bytes(serialization.Encoding.PEM))


def make_identity(request: Request, chain_pem: bytes, anchors: str, expected: SpiffeId, jwt: str = "") -> Identity:
    """Of Sentry's answer. IdentityError."""
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        dns_names = tuple(names.get_values_for_type(x509.DNSName))
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise IdentityError(f"error parsing newly signed certificate: {error}") from None
    found = parse_id(uris[0]) if len(uris) == 1 else None
    if found is None or found != expected:
        raise IdentityError(f"sentry signed another identity: expected {expected} got [{' '.join(uris)}]")
    validity = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    made = Identity(request.key_pem, chain_pem, found, dns_names, *validity, jwt)
    _prove(made, anchors)
    return made


def server_context(identity: Identity, anchors: str) -> ssl.SSLContext:
    """A client must show a certificate of the anchors. Each connection is judged anew: no session is resumed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _set_up(context, identity, anchors)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def client_context(anchors: str, identity: Identity | None = None) -> ssl.SSLContext:
    """The server must show a certificate of the anchors; who it is the caller compares: these are no host names. Without `identity`
    nothing is shown to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    _set_up(context, identity, anchors)
    return context


def _set_up(context: ssl.SSLContext, identity: Identity | None, anchors: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(ALPN)
    trust(context, anchors)
    if identity is not None:
        load_pair(context, identity.chain_pem + b"\n" + identity.key_pem)


def load_pair(context: ssl.SSLContext, pem: bytes) -> None:
    """Certificates and key. `ssl` reads keys from files alone: one in memory, whose only name is that of our descriptor."""
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        data = memoryview(pem)
        while data:
            data = data[os.write(descriptor, data) :]
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _prove(identity: Identity, anchors: str) -> None:
    """Shakes hands with itself: the key fits, the chain leads to the anchors, all is good now and for both sides. IdentityError."""
    wires = [ssl.MemoryBIO(), ssl.MemoryBIO()]
    try:
        sides = [
            server_context(identity, anchors).wrap_bio(wires[0], wires[1], server_side=True),
            client_context(anchors, identity).wrap_bio(wires[1], wires[0]),
        ]
        _shake_hands(sides)
    except ssl.SSLError as error:
        raise IdentityError(f"the newly signed certificate cannot be used: {words(error)}") from None


def _shake_hands(sides: Sequence[ssl.SSLObject]) -> None:
    left = set(sides)
    for _ in range(FLIGHTS_MAX):
        for side in sides:
            if side in left:
                try:
                    side.do_handshake()
                    left.discard(side)
                except ssl.SSLWantReadError:
                    continue
    if left:
        raise ssl.SSLError("the handshake does not end")
