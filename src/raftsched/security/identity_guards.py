"""Who may come in by an identity that Sentry has signed: clients of the scheduler API, and the other members.

Invariant: whoever is let in has shown a certificate of the anchors as they are now, and a SPIFFE id. A member has our own id, and a name
that Sentry gives to schedulers alone. Must not know: what is served; each call is authorised by itself.
"""

import ssl
from collections.abc import Callable
from typing import Any, Final

from raftsched.config.sentry import PEER_DOMAIN
from raftsched.errors import FatalError
from raftsched.ports import Log
from raftsched.security.guard import Refusals, monotonic_ms
from raftsched.security.provider import IdentityProvider
from raftsched.security.spiffe import shown_id

NO_ID: Final = "certificate without SPIFFE ID"
OTHER_ID: Final = "certificate of another SPIFFE ID"
NO_MEMBER: Final = "certificate without a scheduler's DNS name"


class ApiGuard(Refusals):
    """A `Guard` of the door (rpc/http2/_h2.pyi)."""

    def __init__(self, provider: IdentityProvider, log: Log, *, clock_ms: Callable[[], int] = monotonic_ms) -> None:
        super().__init__(log, "scheduler", clock_ms)
        self._provider = provider
        self.unusable_total = 0

    def context(self) -> ssl.SSLContext:
        return self._provider.server()

    def objection(self, tls: ssl.SSLObject) -> str:
        """Any id of any trust domain that the anchors vouch for."""
        return NO_ID if shown_id(tls.getpeercert()) is None else ""


class MemberGuard:
    """A `PeerSecurity` of the transport (store/transport/tls.py)."""

    def __init__(self, provider: IdentityProvider, suffix: str = "") -> None:
        self._provider = provider
        self.suffix = suffix
        """What the names of members end with; "" = not known yet, nobody is a member."""

    def server(self) -> ssl.SSLContext:
        return self._provider.server()

    def client(self) -> ssl.SSLContext:
        return self._provider.client()

    def objection(self, shown: ssl.SSLObject | None) -> str:
        """See `PeerSecurity`. Whether the address that was dialled is in the certificate says nothing: members are known by name."""
        if shown is None:
            return ""
        certificate: Any = shown.getpeercert()
        if shown_id(certificate) != self._provider.identity.spiffe_id:
            return OTHER_ID
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
        return "" if self.suffix and any(is_member(name, self.suffix) for name in names) else NO_MEMBER

    def check_own_name(self, member: str) -> None:
        """The others would refuse us. FatalError, in Dapr's words."""
        expected, names = f"{member}{self.suffix}", self._provider.identity.dns_names
        if expected not in names or not is_member(expected, self.suffix):
            raise FatalError(f"peer certificate does not contain the expected DNS name {expected} got [{' '.join(names)}]")


def member_suffix(namespace: str, domain: str) -> str:
    """`domain`: the trust domain, in kubernetes mode the cluster's (spec §2.7)."""
    return f".{PEER_DOMAIN}.{namespace}.svc.{domain}"


def is_member(name: str, suffix: str) -> bool:
    """Whether Sentry gives this name to schedulers; any ordinal, where Dapr knows three."""
    ordinal = name.removesuffix(suffix).removeprefix(f"{PEER_DOMAIN}-")
    return name == f"{PEER_DOMAIN}-{ordinal}{suffix}" and ordinal.isascii() and ordinal.isdigit()
