"""The gates before every method (spec §3.2): who asks, and for which jobs. Texts and codes are the contract's.

Invariant: a request passes readiness, authorisation and target in the order of its method, and no later check runs before an
earlier one has passed. Must not know: what a method does.
"""

from collections.abc import Mapping
from typing import Any

from raftsched.errors import NO_MESSAGE, NO_TEXT, GrpcCode, StatusError
from raftsched.rpc.scheduler.stats import SchedulerStats
from raftsched.scheduler.jobs._jobs import WireError
from raftsched.scheduler.jobs.fields import Metadata
from raftsched.scheduler.jobs.names import TARGET_ACTOR, TARGET_EMPTY, TARGET_JOB, TARGET_NONE, Owner, check_name
from raftsched.security.spiffe import shown_id


class Access:
    """Authorisation of one door; `tls`: each call is of the app that the SPIFFE id of the client's certificate names."""

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
        identity = caller(certificate)
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
        raise StatusError(GrpcCode.UNKNOWN, f"unknown job type: {'' if target == TARGET_EMPTY else '<nil>'}")


def unreadable(error: WireError) -> StatusError:
    """Of bytes that are no request, in the words of gRPC in Go; what was wrong with them is ours alone to know."""
    reason = NO_TEXT if str(error) == NO_TEXT else NO_MESSAGE
    return StatusError(GrpcCode.INTERNAL, f"grpc: error unmarshalling request: {reason}")


def checked_name(composed: str) -> bytes:
    """Gate 4. Raises `StatusError`."""
    if (reason := check_name(composed)) is not None:
        raise StatusError(GrpcCode.UNKNOWN, reason)
    return composed.encode()


def caller(certificate: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """(namespace, app id) of who shows this certificate, None if it does not say. The trust domain is not compared: whoever the anchors
    vouch for may belong to another one."""
    shown = shown_id(certificate)
    return None if shown is None else shown.workload
