"""--auto-tls and --peer-auto-tls: a certificate that nobody has signed but its own key, made once and kept (etcd's `fixtures`).

Invariant: the key is never readable by anybody else, not even while it is written; a pair that is there is used as it is.
Must not know: what it is for.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raftsched.errors import ConfigError

if TYPE_CHECKING:
    from cryptography import x509

CERTIFICATE: Final = "cert.pem"
KEY: Final = "key.pem"
YEARS_MAX: Final = 1_000


def self_signed_pair(directory: Path, hosts: Sequence[str], years: int) -> tuple[str, str, bool]:
    """(certificate file, key file, whether they are new), of `hosts` (names and IP addresses), good for so many years. ConfigError."""
    if not 0 < years <= YEARS_MAX:
        text = "selfSignedCertValidity is invalid,it should be greater than 0"  # etcd's
        raise ConfigError(text if years <= 0 else f"invalid value for --self-signed-cert-validity: {years} years are too many")
    certificate, key = directory / CERTIFICATE, directory / KEY
    if certificate.exists() and key.exists():
        return str(certificate), str(key), False
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        certificate_pem, key_pem = _make(hosts, years)
        _write(key, key_pem, 0o600)
        _write(certificate, certificate_pem, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot keep a self-signed certificate in {directory}: {error.strerror}") from None
    return str(certificate), str(key), True


def _make(hosts: Sequence[str], years: int) -> tuple[bytes, bytes]:
    """PEM of both. P-256, where etcd takes P-521: all clients know it, and it signs faster."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "etcd")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=365 * years))
    for extension, critical in _extensions(hosts):
        made = made.add_extension(extension, critical)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    key_pem = key.private_bytes(encoding, form, serialization.NoEncryption())
    return made.sign(key, hashes.SHA256()).public_bytes(encoding), key_pem


def _extensions(hosts: Sequence[str]) -> "list[tuple[x509.ExtensionType, bool]]":
    """Those of etcd's, and the right to sign: without it OpenSSL takes nobody for his own authority."""
    from cryptography import x509

    usage = dict.fromkeys(("data_encipherment", "key_agreement", "encipher_only", "decipher_only", "content_commitment"), False)
    found: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (x509.KeyUsage(digital_signature=True, key_encipherment=True, key_cert_sign=True, crl_sign=True, **usage), True),
        (x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), False),
    ]
    names = [_general_name(host) for host in dict.fromkeys(hosts) if host]
    return [*found, (x509.SubjectAlternativeName(names), False)] if names else found


def _general_name(host: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Complete or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
