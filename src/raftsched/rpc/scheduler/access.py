"""The gates before every method (spec §3.2): who asks, and for which jobs. Texts and codes are the contract's.

Invariant: a request passes readiness, authorisation and target in the order of its method, and no later check runs before an
earlier one has passed. Must not know: what a method does.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from raftsched.errors import GrpcCode, StatusError
from raftsched.rpc.scheduler.stats import SchedulerStats
from raftsched.scheduler.jobs.fields import Metadata
from raftsched.scheduler.jobs.names import TARGET_ACTOR, TARGET_JOB, TARGET_NONE, Owner, check_name

_SPIFFE: Final = re.compile(r"^spiffe://[^/]+/ns/([^/]+)/([^/]+)$")


class Access:
    """Authorisation of one door; `tls` says whether peers must show a SPIFFE id."""

    def __init__(self, stats: SchedulerStats, *, tls: bool = False) -> None:
        self._stats = stats
        self.tls = tls

    def authorise(self, namespace: str, app_id: str, certificate: Mapping[str, Any] | None) -> None:  # Any: as ssl gives it
        """Gate 2. Raises `StatusError`."""
        error = self._refusal(namespace, app_id, certificate)
        if error is not None:
            self._stats.sidecar_error("auth_failed")
            raise error

    def _refusal(self, namespace: str, app_id: str, certificate: Mapping[str, Any] | None) -> StatusError | None:
        if not namespace or not app_id:
            return StatusError(GrpcCode.INVALID_ARGUMENT, "missing namespace or appID in request")
        if not self.tls:
            return None
        identity = spiffe_id(certificate)
        if identity is None:
            return StatusError(GrpcCode.UNAUTHENTICATED, "failed to get identity from context")
        if identity != (namespace, app_id):
            return StatusError(GrpcCode.PERMISSION_DENIED, "identity does not match request")
        return None

    def owner(self, metadata: Metadata | None, certificate: Mapping[str, Any] | None) -> Owner:
        """Gates 2 and 3. Raises `StatusError`."""
        app_id, namespace, target, actor_id, actor_type, _ = metadata or ("", "", TARGET_NONE, "", "", None)
        self.authorise(namespace, app_id, certificate)
        if target == TARGET_JOB:
            return Owner(namespace, app_id, target)
        if target == TARGET_ACTOR:
            return Owner(namespace, app_id, target, actor_type, actor_id)
        raise StatusError(GrpcCode.UNKNOWN, "unknown job type: <nil>")


def checked_name(composed: str) -> bytes:
    """Gate 4. Raises `StatusError`."""
    if (reason := check_name(composed)) is not None:
        raise StatusError(GrpcCode.UNKNOWN, reason)
    return composed.encode()


def spiffe_id(certificate: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """(namespace, app id) of the peer's SPIFFE id, None if it shows none."""
    for kind, value in (certificate or {}).get("subjectAltName", ()):
        if kind == "URI" and (match := _SPIFFE.match(value)):
            return (match[1], match[2])
    return None
