"""Asking Sentry for an identity: token, request, attempts (spec §2.7).

Invariant: a token is read anew for each attempt, goes to who has proved to be Sentry, and into no text. Must not know: when to ask.
"""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from raftsched.config.sentry import TOKEN_FILES, SentryOptions
from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import SENTRY_ANSWER_BYTES_MAX
from raftsched.pb.dapr.sentry_pb2 import SignCertificateRequest, SignCertificateResponse
from raftsched.ports import Log
from raftsched.security.dialing import Resolve, connect
from raftsched.security.grpc_call import Exchange, call
from raftsched.security.identity import Identity, IdentityError, client_context, make_identity, make_request
from raftsched.security.renewal import ATTEMPT_S, ATTEMPTS, pause_s
from raftsched.security.spiffe import shown_id, workload_id
from raftsched.security.tls import words

METHOD: Final = "/dapr.proto.sentry.v1.CA/SignCertificate"
SENTRY: Final = "dapr-sentry"
WORDS_MAX: Final = 500  # of what Sentry says, in a log line
AGAIN: Final = {GrpcCode.UNAVAILABLE, GrpcCode.RESOURCE_EXHAUSTED, GrpcCode.DEADLINE_EXCEEDED}
"""Codes behind which the same question may have another answer at once."""


class SentryError(Exception):
    """No identity; the text is one line. `final`: Sentry has decided, asking again at once is of no use."""

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


@dataclass(frozen=True, slots=True)
class Sentry:
    """`anchors()` gives those of now."""

    options: SentryOptions
    anchors: Callable[[], str]
    resolve: Resolve
    chance: Callable[[], float]
    log: Log
    token_files: tuple[str, ...] = TOKEN_FILES

    async def sign(self) -> Identity:
        """A fresh key and what Sentry made of it, after at most ATTEMPTS attempts of ATTEMPT_S. SentryError."""
        for attempt in range(1, ATTEMPTS + 1):
            began = time.monotonic()
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    return await self._attempt()
            except TimeoutError:
                failure = SentryError(f"error establishing connection to sentry: no answer from {self._place} within {ATTEMPT_S:g} s")
            except SentryError as error:
                failure = error
            wait_s = pause_s(attempt, time.monotonic() - began, self.chance)
            if failure.final or wait_s is None:
                break
            self.log.warning(f"Sentry has not signed yet, attempt {attempt} of {ATTEMPTS}: {failure}")
            await asyncio.sleep(wait_s)
        raise failure

    @property
    def _place(self) -> str:
        return f"{self.options.host}:{self.options.port}"

    async def _attempt(self) -> Identity:
        options, anchors = self.options, self.anchors()
        request = make_request()
        token, validator = read_token(options, self.token_files)
        body = SignCertificateRequest(
            id=options.app_id,
            token=token,
            trust_domain=options.trust_domain,
            namespace=options.namespace,
            certificate_signing_request=request.csr_pem,
            token_validator=validator,
        )
        answer = await self._call(body.SerializeToString(), anchors, token)
        try:
            signed = SignCertificateResponse.FromString(answer)
            expected = workload_id(options.trust_domain, options.namespace, options.app_id)
            return make_identity(request, signed.workload_certificate, anchors, expected, signed.jwt.value)
        except (IdentityError, DecodeError) as error:
            raise SentryError(str(error)) from None

    async def _call(self, body: bytes, anchors: str, token: str) -> bytes:
        exchange = Exchange(self._place, METHOD, body, timeout_s=ATTEMPT_S, answer_bytes_max=SENTRY_ANSWER_BYTES_MAX)
        try:
            addresses = await self.resolve(self.options.host, self.options.port)
            return await call(exchange, await connect(addresses, client_context(anchors), self.options.host), self._judge)
        except StatusError as error:
            said = error.message.replace(token, "<token>") if token else error.message
            text = f"error from sentry SignCertificate: rpc error: code = {_name(error.code)} desc = {said[:WORDS_MAX]}"
            raise SentryError(text, final=error.code not in AGAIN) from None
        except OSError as error:
            cause = words(error) if isinstance(error, ssl.SSLError) else _reason(error)
            raise SentryError(f"error establishing connection to sentry: {self._place}: {cause}") from None

    def _judge(self, tls: ssl.SSLObject) -> None:
        """SentryError: somebody else, whatever the anchors say. He is not told the token."""
        expected, found = workload_id(self.options.trust_domain, self.options.namespace, SENTRY), shown_id(tls.getpeercert())
        if found != expected:
            raise SentryError(f"error establishing connection to sentry: {self._place}: unexpected ID {found}: expected {expected}")


def read_token(
    options: SentryOptions, default_files: tuple[str, ...] = TOKEN_FILES
) -> "tuple[str, SignCertificateRequest.TokenValidator.ValueType]":
    """What proves to Sentry who we are, and who is to verify that. SentryError."""
    if options.token_file is not None:
        validator = SignCertificateRequest.KUBERNETES if options.kubernetes else SignCertificateRequest.JWKS
        return _read(options.token_file), validator
    if not options.kubernetes:
        return "", SignCertificateRequest.UNKNOWN
    failure = SentryError("there is no token file")
    for path in default_files:
        try:
            return _read(path), SignCertificateRequest.KUBERNETES
        except SentryError as error:
            failure = error
    raise failure


def _read(path: str) -> str:
    try:
        token = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SentryError(f"failed to read token at path '{path}': {reason}") from None
    if not token:
        raise SentryError(f"failed to read token at path '{path}': it is empty")
    return token


def _reason(error: OSError) -> str:
    """asyncio's own text has an address in it, or several."""
    plain = error.errno is not None and error.errno > 0 and not isinstance(error, socket.gaierror)
    return os.strerror(error.errno) if plain and error.errno else error.strerror or str(error) or "closed by the other side"


def _name(code: GrpcCode) -> str:
    """As Go's clients write it: PermissionDenied."""
    return code.name.title().replace("_", "") if code is not GrpcCode.OK else "OK"
