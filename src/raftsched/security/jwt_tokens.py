"""JSON web tokens for the etcd API (etcd-api §1.6): claims username, revision, exp; RS, PS, ES, HS or EdDSA.

A token is proved by its signature alone, so that it is good on every member that has the key; a member with nothing but the public key can
verify and not sign. The revision is that of the auth store when the user logged in: every change of users or roles makes it old.
Invariant: no other method than the configured one is accepted.
Must not know: who may do what.
"""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import load_pem_x509_certificate

from raftsched import limits
from raftsched.errors import ConfigError, EtcdError, status_of
from raftsched.types import Identity

MISSING_KEY: Final = "auth: missing key data"
MISMATCH: Final = "auth: public and private keys don't match"
INVALID: Final = "auth: invalid auth options"
UINT64_MAX: Final = (1 << 64) - 1
CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----")
# exp and nbf are looked at if they are there; the rest says nothing to etcd. (Any: its type is a class that PyJWT renames.)
OPTIONS: Final[Any] = {
    "verify_signature": True,
    "verify_exp": True,
    "verify_nbf": True,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}
PRIVATE: Final[Mapping[str, type]] = {
    "RS": rsa.RSAPrivateKey,
    "PS": rsa.RSAPrivateKey,
    "ES": ec.EllipticCurvePrivateKey,
    "Ed": ed25519.Ed25519PrivateKey,
}
PUBLIC: Final[Mapping[str, type]] = {
    "RS": rsa.RSAPublicKey,
    "PS": rsa.RSAPublicKey,
    "ES": ec.EllipticCurvePublicKey,
    "Ed": ed25519.Ed25519PublicKey,
}


class JwtTokens:
    """A `ports.TokenSigner`."""

    def __init__(
        self,
        method: str,
        *,
        public_key_file: str = "",
        private_key_file: str = "",
        ttl_ns: int,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`method`: one of `config.auth.METHODS`. Raises ConfigError for keys that cannot be read or used."""
        self._method = method
        self._ttl_ns = ttl_ns
        self._now_ns = now_ns
        self._signing, self._verifying = _keys(method, _content(public_key_file), _content(private_key_file))
        if self._signing is not None:
            _try(method, self._signing)
        self._known: dict[str, tuple[Identity, float]] = {}  # verified ones, and until when (seconds)

    def find(self, token: str) -> Identity | None:
        """See `ports.TokenSigner`. A signature is verified once."""
        known = self._known.get(token)
        if known is not None and known[1] > self._now_ns() / 1e9:
            return known[0]
        found = self._verified(token)
        if found is not None:
            if len(self._known) >= limits.AUTH_JWT_CACHE_MAX:
                self._known.clear()
            self._known[token] = found
        return None if found is None else found[0]

    def sign(self, user: str, revision: int) -> str:
        """See `ports.TokenSigner`."""
        if self._signing is None:
            raise status_of(EtcdError.VERIFY_ONLY)
        until_s = (self._now_ns() + self._ttl_ns) // 1_000_000_000
        return jwt.encode({"username": user, "revision": revision, "exp": until_s}, self._signing, algorithm=self._method)

    def _verified(self, token: str) -> tuple[Identity, float] | None:
        try:
            claims = jwt.decode(token, self._verifying, algorithms=[self._method], options=OPTIONS)
        except (jwt.PyJWTError, ValueError, OverflowError):  # the last: of a time that is no time, 1e999
            return None
        user, revision, until_s = claims.get("username"), claims.get("revision"), claims.get("exp", float("inf"))
        if not isinstance(user, str) or not isinstance(revision, int | float) or isinstance(revision, bool):
            return None
        if not 0 <= revision <= UINT64_MAX:
            return None
        return Identity(user, int(revision)), float(until_s)


def _try(method: str, key: Any) -> None:
    """Whether the key can sign: the curve fits, a secret is not the text of a key. Raises ConfigError."""
    try:
        jwt.encode({}, key, algorithm=method)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise ConfigError(f"{INVALID}: {error}") from None


def _content(path: str) -> bytes:
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{INVALID}: {path}: {error.strerror}") from None


def _keys(method: str, public: bytes, private: bytes) -> tuple[Any, Any]:
    """(to sign with, None = cannot; to verify with)."""
    family = method[:2]
    if family == "HS":
        if not private:
            raise ConfigError(MISSING_KEY)
        return private, private
    signing = _of(PRIVATE[family], lambda: serialization.load_pem_private_key(private, None)) if private else None
    verifying = _of(PUBLIC[family], lambda: _public(public)) if public else None
    if signing is None:
        if verifying is None:
            raise ConfigError(MISSING_KEY)
        return None, verifying
    own = signing.public_key()
    if verifying is not None and own != verifying:
        raise ConfigError(MISMATCH)
    return signing, own


def _public(data: bytes) -> Any:
    """Of a PEM public key, or of a certificate."""
    if CERTIFICATE.search(data):
        return load_pem_x509_certificate(data).public_key()
    return serialization.load_pem_public_key(data)


def _of(kind: type, load: Callable[[], Any]) -> Any:
    try:
        key = load()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{INVALID}: {error}") from None
    if not isinstance(key, kind):
        raise ConfigError(f"{INVALID}: the key does not fit the signature method")
    return key
