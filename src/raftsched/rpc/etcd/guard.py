"""Streams that asked for a leader (`hasleader: true`): they end when there was none for too long, so that clients go elsewhere.

Invariant: no timer runs while no such stream is open. Must not know: what a stream is for.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from raftsched.errors import ETCD_STATUS, EtcdError

LOOKS: Final = 3  # within the time that a leader may be missing: etcd looks once per election timeout


class Guarded(Protocol):
    """A stream's handler."""

    def finish(self, code: int, message: str) -> None:
        """Ends the stream, which discards itself from the guard; nothing if it is over."""


class LeaderGuard:
    """`leader()` is the leader's id, 0 = none is known; `lost_ms`: three election timeouts."""

    def __init__(self, leader: Callable[[], int], lost_ms: int) -> None:
        self._leader = leader
        self._lost_ms = lost_ms
        self._streams: set[Guarded] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._leaderless_since: float | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: Guarded) -> None:
        """Call it on the loop."""
        self._streams.add(stream)
        if self._timer is None:
            self._look()

    def discard(self, stream: Guarded) -> None:
        """Also of one that was never added."""
        self._streams.discard(stream)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self._leader():
            self._leaderless_since = None
        elif self._leaderless_since is None:
            self._leaderless_since = loop.time()
        elif (loop.time() - self._leaderless_since) * 1_000 >= self._lost_ms:
            code, text = ETCD_STATUS[EtcdError.NO_LEADER]
            for stream in list(self._streams):
                stream.finish(int(code), text)
        if self._streams:
            self._timer = loop.call_later(self._lost_ms / LOOKS / 1_000, self._look)
        else:
            self._timer = self._leaderless_since = None
