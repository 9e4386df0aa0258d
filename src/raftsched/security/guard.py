"""Who may come in by TLS at a listener for clients: the files behind it, read again when they change, and what it says of those it refuses.

Invariant: a client that is let in has shown what is demanded by the files as they are now. While changed files cannot be used the last
good ones count. Per cause there is one log line in TLS_REFUSALS_LOGGED_MS, and the causes are bounded.
Must not know: what is served.
"""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from raftsched.errors import ConfigError
from raftsched.limits import TLS_CAUSES_MAX, TLS_REFUSALS_LOGGED_MS
from raftsched.ports import Log
from raftsched.security.names import AllowedNames
from raftsched.security.renewing import Renewing
from raftsched.security.revocation import read_revoked, shown_serials
from raftsched.security.tls import server_context

REVOKED: Final = "certificate revoked"
NOT_ALLOWED: Final = "certificate name not allowed"


@dataclass(frozen=True, slots=True)
class ListenerFiles:
    """etcd's options of one side: PEM files, "" = none; `crl_file` may be DER."""

    cert_file: str
    key_file: str
    trusted_ca_file: str = ""
    """With it a client must show a certificate of this authority, as in etcd."""
    client_cert_auth: bool = False
    """The same: needs `trusted_ca_file`."""
    crl_file: str = ""
    allowed: AllowedNames = field(default_factory=AllowedNames)
    cipher_suites: tuple[str, ...] = ()
    min_version: str = ""
    max_version: str = ""


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Refusals:
    """Connections that were closed before anything was served: counted by cause, and said now and then. `side`: who was refused."""

    def __init__(self, log: Log, side: str, clock_ms: Callable[[], int]) -> None:
        self._log = log
        self._side = side
        self._clock_ms = clock_ms
        self._logged: dict[str, tuple[int, int]] = {}  # when the last line was, how often since
        self.causes: dict[str, int] = {}

    def refused(self, peer: str, cause: str) -> None:
        """Counts, and says it unless it was said a moment ago."""
        cause = cause if cause in self.causes or len(self.causes) < TLS_CAUSES_MAX else "other"
        self.causes[cause] = self.causes.get(cause, 0) + 1
        now = self._clock_ms()
        said, suppressed = self._logged.get(cause, (now - TLS_REFUSALS_LOGGED_MS, 0))
        if now - said < TLS_REFUSALS_LOGGED_MS:
            self._logged[cause] = (said, suppressed + 1)
            return
        self._logged[cause] = (now, 0)
        more = {"suppressed": suppressed} if suppressed else {}
        self._log.warning(f"rejected connection on {self._side} endpoint", **{"remote-addr": peer or "@"}, error=cause, **more)


class ListenerGuard(Refusals):
    """A `Guard` of the door (rpc/http2/_h2.pyi). ConfigError at once when a file is wrong."""

    def __init__(
        self,
        files: ListenerFiles,
        log: Log,
        *,
        side: str = "client",
        clock_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        super().__init__(log, side, clock_ms)
        check_files(files)
        self._files = files
        self.unusable_total = 0
        names = (files.cert_file, files.key_file, files.trusted_ca_file)
        self._context = Renewing(names, partial(make_server_context, files), self._on_unusable)
        self._revoked = Renewing([files.crl_file], lambda: read_revoked(files.crl_file), self._on_unusable)

    def context(self) -> ssl.SSLContext:
        return self._context.get()

    def objection(self, tls: ssl.SSLObject) -> str:
        return objection(tls, self._files.allowed, self._revoked.get())

    def _on_unusable(self, reason: str) -> None:
        self.unusable_total += 1
        self._log.error("changed certificate files cannot be used, the last good ones stay", reason=reason)


def check_files(files: ListenerFiles) -> None:
    """ConfigError: what is demanded of certificates, and none is asked for."""
    if (files.crl_file or files.allowed) and not files.trusted_ca_file:
        raise ConfigError("a certificate's name or revocation means nothing without a trusted CA file")


def make_server_context(files: ListenerFiles) -> ssl.SSLContext:
    """ConfigError names the file or option that is wrong."""
    return server_context(
        files.cert_file,
        files.key_file,
        client_ca=files.trusted_ca_file,
        client_certificate_required=bool(files.trusted_ca_file) or files.client_cert_auth,
        cipher_suites=files.cipher_suites,
        min_version=files.min_version,
        max_version=files.max_version,
    )


def objection(tls: ssl.SSLObject, allowed: AllowedNames, revoked: frozenset[int]) -> str:
    """Why who has shown this certificate, which is verified, must go; "" = it may stay."""
    if allowed and not allowed.allow(tls.getpeercert()):
        return NOT_ALLOWED
    if revoked and not revoked.isdisjoint(shown_serials(tls)):
        return REVOKED
    return ""
