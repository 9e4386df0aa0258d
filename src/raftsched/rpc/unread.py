"""Connections that the door closed because nobody read their answers (native/unread.h): one line in the log, and how many more there were.

Must not know: what was answered.
"""

import time
from collections.abc import Callable

from raftsched.limits import UNREAD_LOGGED_MS
from raftsched.log import Logger


class UnreadLog:
    """`Engine`'s `on_unread`."""

    def __init__(self, log: Logger, clock_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000) -> None:
        self._log = log
        self._clock_ms = clock_ms
        self._said_ms: int | None = None
        self._suppressed = 0

    def closed(self, peer: str, unread_bytes: int) -> None:
        """Says it, unless a line was written a moment ago: then the next line tells how many there were."""
        now = self._clock_ms()
        if self._said_ms is not None and now - self._said_ms < UNREAD_LOGGED_MS:
            self._suppressed += 1
            return
        more = {"suppressed": self._suppressed} if self._suppressed else {}
        self._said_ms, self._suppressed = now, 0
        text = "closed a client connection: too many answers are waiting to be read, most of them there"
        self._log.warning(text, **{"remote-addr": peer or "@"}, unread_bytes=unread_bytes, **more)
