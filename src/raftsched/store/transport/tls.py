"""TLS between members, from certificate files: who listens with it, who dials with it, and whose certificate is good enough.

Files are read again when they change, so that a renewed certificate needs no restart. Must not know: member ids; they are the handshake's.
"""

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from raftsched.errors import ConfigError
from raftsched.security.tls import client_context, server_context


@dataclass(frozen=True, slots=True)
class PeerTls:
    """The `--peer-*` options: PEM files, and what is demanded of who dials in."""

    cert_file: str
    key_file: str
    trusted_ca_file: str = ""
    """For both directions. With it who dials in must show a certificate of this authority; "" = the system's, for who is dialled."""
    client_cert_auth: bool = False
    """Who dials in must show a certificate: needs `trusted_ca_file`, which says the same (as in etcd)."""
    allowed_cn: str = ""
    allowed_hostname: str = ""
    """Of the certificate of who dials in: its common name, or one of its names (`*.example` stands for one label)."""


class PeerContexts:
    """The contexts of one PeerTls. ConfigError at once when a file is wrong; when one turns bad later, the last good context stays, and
    `on_unusable` is told why: once for each time that the files change."""

    def __init__(self, tls: PeerTls, on_unusable: Callable[[str], None] = lambda _reason: None) -> None:
        self.tls = tls
        self._on_unusable = on_unusable
        self._told: object = None  # of what state of the files
        self._server = _Cached(tls, self._make_server, self._tell)
        self._client = _Cached(tls, self._make_client, self._tell)

    def _tell(self, state: object, error: Exception) -> None:
        if state != self._told:
            self._told = state
            self._on_unusable(str(error))

    def server(self) -> ssl.SSLContext:
        return self._server.get()

    def client(self) -> ssl.SSLContext:
        return self._client.get()

    def _make_server(self) -> ssl.SSLContext:
        tls = self.tls
        demanded = tls.client_cert_auth or bool(tls.trusted_ca_file)
        return server_context(tls.cert_file, tls.key_file, client_ca=tls.trusted_ca_file, client_certificate_required=demanded)

    def _make_client(self) -> ssl.SSLContext:
        return client_context(self.tls.cert_file, self.tls.key_file, ca=self.tls.trusted_ca_file)

    def is_allowed(self, certificate: dict[str, object] | None) -> bool:
        """Whether the names in a certificate, already verified, are those that are asked for."""
        tls = self.tls
        if not tls.allowed_cn and not tls.allowed_hostname:
            return True
        if not certificate:
            return False
        if tls.allowed_cn and tls.allowed_cn not in _common_names(certificate):
            return False
        return not tls.allowed_hostname or any(_matches(name, tls.allowed_hostname) for name in _host_names(certificate))


class _Cached:
    """One context. `tell(state of the files, error)` whenever it cannot be made anew."""

    def __init__(self, tls: PeerTls, make: Callable[[], ssl.SSLContext], tell: Callable[[object, Exception], None]) -> None:
        self._files = [name for name in (tls.cert_file, tls.key_file, tls.trusted_ca_file) if name]
        self._make = make
        self._tell = tell
        self._context = make()
        self._stamp = self._look()

    def _look(self) -> list[tuple[int, int]]:
        found = [os.stat(name) for name in self._files]
        return [(one.st_mtime_ns, one.st_ino) for one in found]

    def get(self) -> ssl.SSLContext:
        """Files that are being replaced may not fit each other for a moment: the next connection looks again."""
        state: object = None
        try:
            state = stamp = self._look()
            if stamp != self._stamp:
                self._context, self._stamp = self._make(), stamp
        except (OSError, ConfigError) as error:
            self._tell(state or str(error), error)
        return self._context


def _common_names(certificate: dict[str, object]) -> list[str]:
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    return [value for group in subject for name, value in group if name == "commonName"]


def _host_names(certificate: dict[str, object]) -> list[str]:
    names = certificate.get("subjectAltName", ())
    assert isinstance(names, tuple)
    return [value for kind, value in names if kind in {"DNS", "IP Address"}]


def _matches(name: str, wanted: str) -> bool:
    if name.startswith("*."):
        return "." in wanted and fnmatchcase(wanted.partition(".")[2].lower(), name[2:].lower())
    return name.lower() == wanted.lower()
