"""--auto-tls: a pair made once, kept, and never readable by others."""

import datetime
import os
import socket
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from raftsched.errors import ConfigError
from raftsched.security.selfsigned import self_signed_pair
from raftsched.security.tls import server_context
from raftsched.testing.door import EchoDoor

HOSTS = ("localhost", "127.0.0.1", "::1", "localhost", "")


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_pair_is_made_once_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "fixtures" / "client"
    certificate, key, new = self_signed_pair(folder, HOSTS, 3)
    assert new
    assert (mode(folder), mode(key)) == (0o700, 0o600)
    before = Path(certificate).read_bytes(), Path(key).read_bytes()
    assert self_signed_pair(folder, ("elsewhere",), 1) == (certificate, key, False)
    assert (Path(certificate).read_bytes(), Path(key).read_bytes()) == before
    assert sorted(path.name for path in folder.iterdir()) == ["cert.pem", "key.pem"]
    Path(key).unlink()
    assert self_signed_pair(folder, HOSTS, 1)[2], "half a pair is none"
    assert Path(certificate).read_bytes() != before[0]


def test_what_the_certificate_says(tmp_path: Path) -> None:
    certificate, _, _ = self_signed_pair(tmp_path, HOSTS, 3)
    made = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
    assert made.subject.rfc4514_string() == made.issuer.rfc4514_string() == "O=etcd"
    assert made.not_valid_after_utc - made.not_valid_before_utc == datetime.timedelta(days=3 * 365)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["127.0.0.1", "::1"]
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.SERVER_AUTH]
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_client_that_is_given_the_certificate_believes_it(tmp_path: Path, host: str) -> None:
    certificate, key, _ = self_signed_pair(tmp_path, HOSTS, 1)
    context = ssl.create_default_context(cafile=certificate)
    with (
        EchoDoor(context=server_context(certificate, key)) as door,
        socket.create_connection(("127.0.0.1", door.port)) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        assert connection.version() == "TLSv1.3"


def test_without_hosts_there_is_a_certificate_still(tmp_path: Path) -> None:
    """Unix sockets alone."""
    certificate, key, _ = self_signed_pair(tmp_path, (), 1)
    server_context(certificate, key)


def test_what_cannot_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot keep a self-signed certificate in .*file/client: Not a directory"):
        self_signed_pair(tmp_path / "file" / "client", HOSTS, 1)
    with pytest.raises(ConfigError, match=r"^selfSignedCertValidity is invalid,it should be greater than 0$"):
        self_signed_pair(tmp_path, HOSTS, 0)
    with pytest.raises(ConfigError, match="1001 years are too many"):
        self_signed_pair(tmp_path, HOSTS, 1_001)


def test_a_wide_umask_opens_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        _, key, _ = self_signed_pair(tmp_path / "client", HOSTS, 1)
    finally:
        os.umask(before)
    assert (mode(tmp_path / "client"), mode(key)) == (0o700, 0o600)
