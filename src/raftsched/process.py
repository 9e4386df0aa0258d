"""What this process shares with its system: file descriptors, and asyncio's complaints about them.

Invariant: the clients of one port cannot use up the descriptors that the store's files and the other ports need; what asyncio complains
of is one JSON line, and the same complaint comes at most every `COMPLAINT_INTERVAL_S`.
Must not know: what is served.
"""

import asyncio
import errno
import gc
import resource
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

from raftsched.log import Logger

COMPLAINT_INTERVAL_S: Final = 10.0
COMPLAINTS_REMEMBERED_MAX: Final = 100
OWN_DESCRIPTORS: Final = 128  # files and listeners: never lent to clients
DOORS: Final = 4  # scheduler API, etcd API, /healthz, metrics: none may use up what another needs
NO_DESCRIPTORS: Final = {errno.EMFILE, errno.ENFILE}


def raise_descriptor_limit() -> int:
    """As many descriptors as the system allows, as Go programs do at their start; the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft  # a hard limit beyond what the kernel grants: what was given stays
    return hard


def connections_max(descriptors: int) -> int:
    """How many connections each door may have of `descriptors`, at least 16; 0, which is no limit, for RLIM_INFINITY."""
    if descriptors == resource.RLIM_INFINITY:
        return 0
    return max((descriptors - OWN_DESCRIPTORS) // DOORS, 16)


class LoopComplaints:
    """A loop's exception handler: asyncio's own writes its text with a trace, for every try, past the log."""

    def __init__(self, log: Logger, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._now = now
        self._said: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def __call__(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in NO_DESCRIPTORS:
            self._say("no file descriptor is left: new connections wait", error, trace=False)
        else:
            self._say(str(context.get("message", "the event loop complains")), error, trace=True)

    def _say(self, message: str, error: BaseException | None, *, trace: bool) -> None:
        now = self._now()
        if now - self._said.get(message, -COMPLAINT_INTERVAL_S) < COMPLAINT_INTERVAL_S:
            self._untold[message] = self._untold.get(message, 0) + 1
            return
        if len(self._said) >= COMPLAINTS_REMEMBERED_MAX:
            self._said.clear()
            self._untold.clear()
        self._said[message] = now
        fields: dict[str, object] = {"untold": untold} if (untold := self._untold.pop(message, 0)) else {}
        if error is not None:
            fields["error"] = repr(error)
            if trace:
                fields["trace"] = "".join(traceback.format_exception(error))
        self._log.error(message, **fields)


def settle_garbage() -> None:
    """To be called once everything is imported."""
    # Collections of the oldest generation walk every object that start-up made: freeze them, and collect rarely.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
