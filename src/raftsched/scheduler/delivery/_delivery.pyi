"""Who gets a trigger, native; see `_delivery.pyx`."""

from collections.abc import Callable, Sequence
from typing import Any

class StreamState:
    """One open WatchJobs stream, as the delivery sees it."""

    index: int
    open: bool
    writable: bool
    """Set False when `push` says that there is no room; the driver sets it True again."""
    push: Callable[[bytes], bool] | None
    batched: bool
    """It takes triggers in the form of raftsched.v1.Workers, many in a message."""
    owner: Any  # the handler that opened it; this room never looks inside
    @property
    def backlog(self) -> int:
        """Triggers queued and not yet pushed."""

    @property
    def in_flight(self) -> int:
        """Triggers pushed and not yet answered."""

class Route:
    """A deliverable prefix: `app||ns||app||` or `actorreminder||ns||type||`."""

    prefix: bytes
    index: int
    kind: int
    target: tuple[str, str] | None
    gated: bool
    staged: int
    @property
    def live(self) -> int:
        """Open streams that take it."""

class Delivery:
    """All routes and streams of one scheduler."""

    overflowed: list[StreamState]
    open_streams: int
    queued: int
    def __init__(self, backlog_max: int = ..., stall_ms: int = ...) -> None: ...
    def route(self, prefix: bytes) -> Route | None: ...
    def open_stream(self, push: Callable[[bytes], bool], owner: Any, prefixes: Sequence[tuple[bytes, int]]) -> StreamState:
        """A new stream that takes `prefixes`: (prefix, target kind) each."""

    def close_stream(self, stream: StreamState) -> tuple[list[int], list[Route]]:
        """Deregisters; (runs that were in flight or queued, routes now without a stream). Once per stream, then empty."""

    def stats(self) -> dict[str, int]: ...
