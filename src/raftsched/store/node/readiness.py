"""When a node that starts may serve: once it knows that it has applied everything that was committed before.

Why none waits for ever once there is a quorum: `look` comes after each turn, and a turn with each heartbeat. While a leader is known,
exactly one barrier is open. Each is answered: `Reading` asks the leader again every 500 ms, whoever that is by then, as soon as it is
reached, and gives up when a request's time is over; an error of any kind opens the next one (tests/unit/test_readiness.py).
Must not know: who waits for it, how a read is confirmed.
"""

import asyncio
from collections.abc import Callable

from raftsched.errors import NoSpaceError
from raftsched.ports import Log as LogPort
from raftsched.store.node.opening import Member
from raftsched.store.replica import LEADER

START_TIMEOUT_S = 60.0
WAIT_TOLD_S = 10.0

Barrier = Callable[[Callable[[int], None]], None]
"""Calls back with an error, or 0 once everything that was committed before is applied here."""


class Readiness:
    """Of one start. Made on the loop."""

    def __init__(self, member: Member, barrier: Barrier, mono_ms: Callable[[], int], log: LogPort) -> None:
        self._member, self._barrier, self._mono_ms, self._log = member, barrier, mono_ms, log
        self._event = asyncio.Event()
        self._asked = False
        self.over = False
        """Ready, or never will be."""

    def end(self) -> None:
        """Nobody needs to wait any longer."""
        self.over = True
        self._event.set()

    def look(self) -> None:
        """After each turn, until it is over."""
        replica = self._member.replica
        if replica.readable:
            self.end()
        elif replica.kernel.leader and not self._asked:
            self._asked = True
            self._barrier(self._on_barrier)

    def _on_barrier(self, error: int) -> None:
        self._asked = False
        if not error:
            self.end()

    async def wait(self) -> str:
        """Until it is over; "", or why it never will be. A member of several waits for its quorum without limit, and says so. Raises
        NoSpaceError."""
        member, began_ms = self._member, self._mono_ms()
        while not self.over:
            try:
                async with asyncio.timeout(WAIT_TOLD_S):
                    await self._event.wait()
            except TimeoutError:
                if member.log.no_space:
                    raise NoSpaceError(f"the log in {member.log.directory} cannot be written: no space on the disk") from None
                if not member.replica.is_alone:
                    self._tell()
                elif self._mono_ms() - began_ms >= START_TIMEOUT_S * 1000:
                    return f"{member.directory.path}: no leader after {START_TIMEOUT_S:.0f} s"
        return ""

    def _tell(self) -> None:
        """What is waited for: others, or what this one has to do itself."""
        replica = self._member.replica
        kernel = replica.kernel
        if not kernel.leader:
            self._log.warning("waiting for a quorum of the cluster", term=kernel.term)
            return
        reached = kernel.state == LEADER or replica.connection(kernel.leader) != 0
        fields = {"leader": f"{kernel.leader:x}", "term": kernel.term, "commit": kernel.commit, "applied": kernel.applied}
        self._log.warning("waiting to know what the cluster has committed", **fields, reached=reached)
