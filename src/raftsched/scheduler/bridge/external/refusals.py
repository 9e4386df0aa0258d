"""From what gRPC says of a call that failed to `StatusError`, and what may follow from it.

Invariant: a text of etcd's is told on as it is. What is not known to be refused is "unknown": it may have been done.
Must not know: who called.
"""

from typing import Any, Final

import grpc

from raftsched.errors import ETCD_STATUS, EtcdError, GrpcCode, StatusError, status_of

BY_TEXT: Final = {text: error for error, (_, text) in ETCD_STATUS.items()}
NEVER_SENT: Final = ("failed to connect to all addresses", "connections to all backends failing", "DNS resolution failed")
LOGIN: Final = frozenset(
    {EtcdError.INVALID_AUTH_TOKEN, EtcdError.AUTH_OLD_REVISION, EtcdError.USER_EMPTY, EtcdError.USER_NOT_FOUND, EtcdError.AUTH_FAILED}
)
"""Who the server takes us for is the matter: nothing was done, and a new token may help."""
ELSEWHERE: Final = frozenset(
    {
        EtcdError.NO_LEADER,
        EtcdError.LEADER_CHANGED,
        EtcdError.STOPPED,
        EtcdError.TIMEOUT,
        EtcdError.TIMEOUT_LEADER_FAILURE,
        EtcdError.TIMEOUT_CONNECTION_LOST,
        EtcdError.TIMEOUT_WAIT_APPLIED,
        EtcdError.UNHEALTHY,
        EtcdError.CORRUPT,
        EtcdError.NOT_SUPPORTED_FOR_LEARNER,
    }
)
"""Another member may do better."""
TRANSIENT: Final = ELSEWHERE | {EtcdError.TOO_MANY_REQUESTS, EtcdError.NOT_LEADER}
ALONE: Final = frozenset(
    {EtcdError.TOO_MANY_OPS, EtcdError.DUPLICATE_KEY, EtcdError.REQUEST_TOO_LARGE, EtcdError.LEASE_NOT_FOUND, EtcdError.MALFORMED}
)
"""Of a pack of requests: none of them was done, because of one of them or of their number."""
_BY_CODE: Final = {
    GrpcCode.PERMISSION_DENIED: EtcdError.PERMISSION_DENIED,
    GrpcCode.UNAUTHENTICATED: EtcdError.INVALID_AUTH_TOKEN,
    GrpcCode.RESOURCE_EXHAUSTED: EtcdError.REQUEST_TOO_LARGE,  # grpc-go: "received message larger than max"
    GrpcCode.UNIMPLEMENTED: EtcdError.UNKNOWN_METHOD,
}


class CallError(StatusError):
    """A failed call; the text is etcd's own, or gRPC's where etcd did not answer."""

    def __init__(self, code: GrpcCode, text: str, error: EtcdError, *, sent: bool) -> None:
        super().__init__(code, text)
        self.error = error
        """What it comes down to; TIMEOUT = unknown."""
        self.sent = sent
        """The request may have reached etcd."""

    def for_callers(self) -> StatusError:
        """In etcd's words, by which the scheduler tells what passes; gRPC's own words are for the log."""
        return StatusError(self.code, self.message) if self.message in BY_TEXT else status_of(self.error)


def cancel_error(reason: str) -> CallError:
    """Of a WatchResponse's cancel_reason, in which etcd repeats gRPC's words around its own."""
    text = reason.rpartition(" desc = ")[2] or "etcd canceled the watch"
    return CallError(GrpcCode.UNKNOWN, text, BY_TEXT.get(text, EtcdError.TIMEOUT), sent=True)


def call_error(code: Any, details: str) -> CallError:
    """Of a grpc.StatusCode and its text."""
    number = GrpcCode(code.value[0]) if isinstance(code, grpc.StatusCode) else GrpcCode.UNKNOWN
    error = BY_TEXT.get(details) or _BY_CODE.get(number, EtcdError.TIMEOUT)
    sent = not any(text in details for text in NEVER_SENT)
    return CallError(number, details or number.name, error, sent=sent)
