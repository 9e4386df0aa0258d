"""Certificate revocation lists as etcd reads them: a set of serial numbers, whoever has issued them, and however old the list is.

Must not know: what becomes of who is on the list.
"""

import ssl
from typing import Any

from raftsched.errors import ConfigError


def read_revoked(path: str) -> frozenset[int]:
    """The serial numbers in a list, DER or PEM; "" = none is. ConfigError."""
    if not path:
        return frozenset()
    from cryptography import x509  # a tenth of a second, for the few who have such a file

    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigError(f"cannot read the CRL file {path}: {error.strerror}") from None
    load = x509.load_pem_x509_crl if data.lstrip().startswith(b"-----BEGIN") else x509.load_der_x509_crl
    try:
        return frozenset(one.serial_number for one in load(data))
    except ValueError:
        raise ConfigError(f"cannot use the CRL file {path}: it is no certificate revocation list") from None


def shown_serials(tls: ssl.SSLObject) -> list[int]:
    """Of all certificates that the other side has shown: its own and those of authorities in between."""
    from cryptography import x509

    return [x509.load_der_x509_certificate(one).serial_number for one in _shown(tls)]


def _shown(tls: ssl.SSLObject) -> list[bytes]:
    """In DER."""
    public: Any = getattr(tls, "get_unverified_chain", None)  # Python 3.13
    if public is not None:
        return list(public())
    inner: Any = tls._sslobj  # type: ignore[attr-defined]  # until then the chain is there alone
    return [one.public_bytes(2) for one in inner.get_unverified_chain() or ()]  # 2: DER
