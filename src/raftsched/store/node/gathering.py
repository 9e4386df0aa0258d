"""When a turn takes what was proposed: at once, or with what else comes while earlier proposals are on their way.

A turn, its batch in the log, its message to each member and their answers cost the same for one proposal as for fifty. So while a
leader has entries that are not committed, it lets proposals wait for the turn that the commit begins, but for no longer than GATHER_MS: a
slow disk or a far member keeps nobody waiting. What finds nothing on its way is taken at once; a follower passes on at once, and what it
passed on waits at the leader.

Must not know: hosts, logs, what is proposed.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from raftsched.store.raft._kernel import Kernel
from raftsched.store.replica import LEADER

GATHER_MS: Final = 1
GATHER_BYTES: Final = 128 << 10  # so much is worth a turn of its own: large proposals keep the connections full


class Gathering:
    """`turn()` asks for a turn, which tells `taken`."""

    def __init__(self, kernel: Kernel, turn: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._kernel = kernel
        self._turn = turn
        self._loop = loop
        self._waiting = False
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stalled(self) -> bool:
        """Something waits, and no timer ends that: the end of a write must begin a turn, whatever it means to the kernel."""
        return self._waiting and self._timer is None

    def arrived(self, size_bytes: int) -> None:
        """Something to propose is queued."""
        kernel = self._kernel
        self._waiting = True
        self._waiting_bytes += size_bytes
        if kernel.state != LEADER or kernel.commit == kernel.last_index or self._waiting_bytes > GATHER_BYTES:
            self._turn()
        elif self._timer is None and len(kernel.voter_ids) > 1:  # a lone voter waits for its own disk alone, and nothing is gained before
            self._timer = self._loop.call_later(GATHER_MS / 1000, self._over)

    def taken(self) -> None:
        """A turn has taken all that was queued. The timer stays, for whoever comes next: one that is set per turn would cost as much."""
        self._waiting = False
        self._waiting_bytes = 0

    def _over(self) -> None:
        self._timer = None
        if self._waiting:
            self._turn()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
