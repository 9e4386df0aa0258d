"""TLS between members, from certificate files: who listens with it, who dials with it, and whose certificate is good enough.

Files are read again when they change, so that a renewed certificate needs no restart. Must not know: member ids; they are the handshake's.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from raftsched.security.guard import ListenerFiles, check_files, make_server_context, objection
from raftsched.security.renewing import Renewing
from raftsched.security.revocation import read_revoked
from raftsched.security.tls import client_context


@dataclass(frozen=True, slots=True)
class PeerTls(ListenerFiles):
    """The `--peer-*` options. The authority is for both directions, "" = the system's, for who is dialled. So are the lists of names and of
    what is revoked."""

    client_cert_file: str = ""
    """Shown to who is dialled, with `client_key_file`; "" = the listener's."""
    client_key_file: str = ""
    verify: bool = True
    """False = whoever is dialled is believed: --peer-auto-tls, whose certificates nobody has signed."""


class PeerSecurity(Protocol):
    """Who listens and dials with which context, and who is not welcome. What is behind it may change from one connection to the next."""

    def server(self) -> ssl.SSLContext: ...
    def client(self) -> ssl.SSLContext: ...
    def objection(self, shown: ssl.SSLObject | None) -> str:
        """Why the other side, already verified, is not welcome: words that a stranger cannot vary; "" = it is."""


class PeerContexts:
    """The contexts of one PeerTls. ConfigError at once when a file is wrong; when one turns bad later, the last good ones stay, and
    `on_unusable` is told why: once for each time that the files change."""

    def __init__(self, tls: PeerTls, on_unusable: Callable[[str], None] = lambda _reason: None) -> None:
        check_files(tls)
        self.tls = tls
        files = (tls.cert_file, tls.key_file, tls.client_cert_file, tls.client_key_file, tls.trusted_ca_file)
        self._contexts = Renewing(files, self._make, on_unusable)
        self._revoked = Renewing([tls.crl_file], lambda: read_revoked(tls.crl_file), on_unusable)

    def server(self) -> ssl.SSLContext:
        return self._contexts.get()[0]

    def client(self) -> ssl.SSLContext:
        return self._contexts.get()[1]

    def objection(self, shown: ssl.SSLObject | None) -> str:
        """See `PeerSecurity`."""
        return objection(shown, self.tls.allowed, self._revoked.get()) if shown is not None else ""

    def _make(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        tls, server = self.tls, make_server_context(self.tls)
        return server, client_context(
            tls.client_cert_file or tls.cert_file,
            tls.client_key_file or tls.key_file,
            ca=tls.trusted_ca_file,
            verify=tls.verify,
            cipher_suites=tls.cipher_suites,
            min_version=tls.min_version,
            max_version=tls.max_version,
        )
