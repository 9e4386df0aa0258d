"""How long etcd's requests took: `etcd_server_request_duration_seconds`, by type and success as etcd counts them.

A batch is one observation of as many requests, so that a hot method pays once for all of them. What is checked before a request counts
as one (no key, duplicate keys) is not in here. Success is that a request got through: a write that found no lease was applied, and is one.
Must not know: which service asks.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Final

from raftsched.errors import ETCD_STATUS, EtcdError, StatusError
from raftsched.pb.etcd.raft_internal_pb2 import InternalRaftRequest
from raftsched.rpc.metrics import Durations, Family

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call

    Handler = Callable[[Call, bytes], Awaitable[bytes]]

BOUNDS: Final = tuple(0.001 * 2**step for step in range(14))
TYPES: Final = {
    number: "".join(part.capitalize() for part in field.name.split("_"))
    for number, field in InternalRaftRequest.DESCRIPTOR.fields_by_number.items()
}
"""Kinds of proposals as etcd calls them: Put, LeaseGrant, AuthUserAdd."""
READ_ONLY_TXN: Final = "ReadonlyTxn"
NOT_DONE: Final = frozenset(
    {
        EtcdError.REQUEST_TOO_LARGE,
        EtcdError.TOO_MANY_REQUESTS,
        EtcdError.NO_LEADER,
        EtcdError.LEADER_CHANGED,
        EtcdError.STOPPED,
        EtcdError.TIMEOUT,
        EtcdError.TIMEOUT_LEADER_FAILURE,
        EtcdError.TIMEOUT_CONNECTION_LOST,
        EtcdError.TIMEOUT_WAIT_APPLIED,
    }
)
"""What a write is told that was not applied, or of which nobody knows."""
_NOT_DONE_TEXTS: Final = frozenset(ETCD_STATUS[error][1] for error in NOT_DONE)


class RequestDurations:
    """All types together."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, bool], Durations] = {}

    def observe(self, kind: str, began: float, *, success: bool = True, count: int = 1) -> None:
        """`count` requests that began at `began` (time.perf_counter) have their answers now."""
        found = self._found.get((kind, success))
        if found is None:
            found = self._found[kind, success] = Durations(BOUNDS)
        found.observe(time.perf_counter() - began, count)

    def timed(self, kind: str, handler: "Handler", *, refusals: bool = True) -> "Handler":
        """A cold method that reads here what etcd asks its log. `refusals`: whether etcd's log is asked before it refuses."""

        @wraps(handler)
        async def measured(call: "Call", message: bytes) -> bytes:
            began = time.perf_counter()
            try:
                answer = await handler(call, message)
            except StatusError as error:
                not_done = error.message in _NOT_DONE_TEXTS
                if refusals or not_done:
                    self.observe(kind, began, success=not not_done)
                raise
            self.observe(kind, began)
            return answer

        return measured

    def families(self) -> Iterator[Family]:
        yield Family(
            "etcd_server_request_duration_seconds",
            "histogram",
            "Response latency distribution in seconds for each type.",
            ("type", "success"),
            {(kind, str(success).lower()): found.sample() for (kind, success), found in self._found.items()},
        )
