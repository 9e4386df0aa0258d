"""TLS for the listeners: from files and options to one `ssl.SSLContext`, with errors that a person can act on.

Invariant: `h2` is chosen whenever the client offers it, as etcd does.
Must not know: gRPC, who the client is allowed to be.
"""

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from raftsched.errors import ConfigError
from raftsched.security.suites import apply_suites

ALPN: Final = ("h2", "http/1.1")  # the server's order decides; etcd's
VERSIONS: Final = {"": ssl.TLSVersion.TLSv1_2, "TLS1.2": ssl.TLSVersion.TLSv1_2, "TLS1.3": ssl.TLSVersion.TLSv1_3}


def server_context(
    certificate: str,
    key: str,
    *,
    client_ca: str = "",
    client_certificate_required: bool = False,
    cipher_suites: Sequence[str] = (),
    min_version: str = "",
    max_version: str = "",
) -> ssl.SSLContext:
    """A server's context from PEM files.

    `client_ca` makes a client's certificate, if it sends one, be checked; `client_certificate_required` refuses those that
    send none. Versions are etcd's `TLS1.2` and `TLS1.3`; the default minimum is 1.2, without a maximum. ConfigError names
    the file or option that is wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _limit(context, cipher_suites, min_version, max_version)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(ALPN)
    _load_pair(context, certificate, key)
    if client_ca:
        _load_ca(context, client_ca, "client CA file")
        context.verify_mode = ssl.CERT_REQUIRED if client_certificate_required else ssl.CERT_OPTIONAL
        # Each connection is judged anew: a session that is resumed has been judged by older files.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    elif client_certificate_required:
        raise ConfigError("client certificates cannot be required without a client CA file")
    return context


def client_context(
    certificate: str = "",
    key: str = "",
    *,
    ca: str = "",
    verify: bool = True,
    cipher_suites: Sequence[str] = (),
    min_version: str = "",
    max_version: str = "",
) -> ssl.SSLContext:
    """A client's context from PEM files: it verifies the server and its name against `ca` ("" = the system's authorities) unless told not
    to, and shows `certificate` if there is one. ConfigError names the file that is wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _limit(context, cipher_suites, min_version, max_version)
    context.options |= ssl.OP_NO_COMPRESSION
    if certificate:
        _load_pair(context, certificate, key)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca:
        _load_ca(context, ca, "CA file")
    else:
        context.load_default_certs()
    return context


def words(error: ssl.SSLError) -> str:
    """A few words for a log line and a counter: nothing that an evil peer could vary."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.partition(",")[0]
    return error.reason or "broken"


def _limit(context: ssl.SSLContext, cipher_suites: Sequence[str], min_version: str, max_version: str) -> None:
    context.minimum_version = _version(min_version)
    if max_version:
        context.maximum_version = _version(max_version)
        if context.maximum_version < context.minimum_version:
            raise ConfigError("the maximum TLS version is below the minimum")
    apply_suites(context, cipher_suites)


def _version(name: str) -> ssl.TLSVersion:
    if name not in VERSIONS:
        raise ConfigError(f"unknown TLS version {name!r}: use TLS1.2 or TLS1.3")
    return VERSIONS[name]


def _read(path: str, what: str) -> None:
    """Says which file it is before OpenSSL says only that there is none."""
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from None


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    _read(certificate, "certificate file")
    _read(key, "key file")

    def no_password() -> str:
        raise ConfigError(f"the key file {key} is encrypted")

    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except ssl.SSLError as error:
        raise ConfigError(f"cannot use certificate {certificate} with key {key}: {error.reason or error}") from None


def _load_ca(context: ssl.SSLContext, path: str, what: str) -> None:
    _read(path, what)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # whatever stands in the file is an authority, as in Go
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(f"cannot use {what} {path}: {error.reason or error}") from None
