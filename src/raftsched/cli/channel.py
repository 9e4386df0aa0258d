"""Channels to an etcd or a raftsched, with TLS where it is asked for.

TLS is spoken to an address that begins with https://, and whenever one of the options is given.
"""

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
from cryptography import x509

from raftsched.errors import ConfigError

LOOK_TIMEOUT_S: Final = 10.0


class Tls(NamedTuple):
    """How a server is spoken to."""

    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    skip_verify: bool = False


PLAIN: Final = Tls()


def open_channel(address: str, tls: Tls, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
    """To host:port, http://host:port or https://host:port. Raises ConfigError (a file cannot be read, --cert without --key,
    or, with --insecure-skip-tls-verify, nobody shows a certificate); else that nobody answers is told by the first call."""
    scheme, _, rest = address.rpartition("://")
    if scheme not in ("", "http", "https"):
        raise ConfigError(f"{address}: give host:port, http://host:port or https://host:port")
    target = rest.rstrip("/")
    if scheme != "https" and not any(tls):
        return grpc.insecure_channel(target, options=list(options))
    if (tls.cert is None) != (tls.key is None):
        raise ConfigError("--cert and --key go together")
    key, cert = (_read(path) for path in (tls.key, tls.cert))
    roots = _read(tls.cacert)
    extra: list[tuple[str, Any]] = []
    if tls.skip_verify:
        roots, name = _shown_by(target, tls)
        extra = [("grpc.ssl_target_name_override", name)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(roots, key, cert), options=[*options, *extra])


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _shown_by(target: str, tls: Tls) -> tuple[bytes, str]:
    """The certificate that the server shows, and a name in it: gRPC's client cannot be told to believe anybody, but to believe this one."""
    host, _, port = target.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
        with (
            socket.create_connection((host.strip("[]"), int(port)), LOOK_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")) as talking,
        ):
            shown = talking.getpeercert(binary_form=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot look at the certificate of {target}: {error}") from error
    assert shown is not None  # a server without a certificate ends the handshake
    return ssl.DER_cert_to_PEM_cert(shown).encode(), _a_name(x509.load_der_x509_certificate(shown))


def _a_name(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = None
    hosts = names.get_values_for_type(x509.DNSName) if names is not None else []
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    if names is not None:
        addresses = [
            one for one in names.get_values_for_type(x509.IPAddress) if isinstance(one, ipaddress.IPv4Address | ipaddress.IPv6Address)
        ]
    common = [str(one.value) for one in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    found = [*(one.replace("*", "any", 1) for one in hosts), *map(str, addresses), *common]
    return found[0] if found else "nobody"
