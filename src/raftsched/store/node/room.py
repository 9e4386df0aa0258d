"""What a member does when its disk is full and the others' are not: see docs/cluster.md, "A full disk".

Invariant: leadership goes only to who says that it has room, so it does not wander among full members; nothing is decided here about what
is in the log already.
Must not know: Raft's rules, who proposes what.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from raftsched import limits
from raftsched.errors import PeerCode, PeerError
from raftsched.ports import Log as LogPort
from raftsched.store.node.clustering import Clustering
from raftsched.store.node.flush import Flusher
from raftsched.store.node.opening import Member
from raftsched.store.node.peering import Peering
from raftsched.store.replica import LEADER
from raftsched.store.transport.ports import HAS_ROOM

LOOK_MS: Final = 200
STUCK_MS: Final = 500  # the log gives up its reserve, and tries again, within this
ASK_AGAIN_MS: Final = 2_000
ASK_MS: Final = 500
YES, NO = b"\x01", b"\x00"
SILENT: Final = frozenset({PeerCode.UNREACHABLE, PeerCode.TIMEOUT, PeerCode.LOST, PeerCode.BUSY, PeerCode.STOPPED, PeerCode.REFUSED})
"""Who answers so leads nobody now. Any other error is that of a member which does not know the question."""


class Room:
    """One member's disk, looked at now and then."""

    def __init__(self, member: Member, flusher: Flusher, clustering: Clustering, peering: Peering | None, log: LogPort) -> None:
        self._member, self._flusher, self._clustering, self._peering, self._log = member, flusher, clustering, peering, log
        self._full = ""
        self._next_ms = 0
        self._stalled_since_ms: int | None = None
        self._ask_ms = 0
        self._asking: asyncio.Task[None] | None = None
        self._handed_over_total = 0
        self.stuck = False
        """What this member is given does not get to its disk any more."""
        if peering is not None:
            peering.requests[HAS_ROOM] = self._answer

    # -- what is so

    def tick(self, now_ms: int) -> None:
        """Each heartbeat interval."""
        if now_ms < self._next_ms:
            return
        self._next_ms = now_ms + LOOK_MS
        self._look_stuck(now_ms)
        self._look_full()
        self._lead(now_ms)

    def _why_full(self) -> str:
        """Empty while there is room for ordinary proposals."""
        log, flusher = self._member.log, self._flusher
        if flusher.stalled:
            return flusher.stalled
        return "" if log.has_room(log.queued_bytes) and not log.stalled else f"{log.directory}: No space left on device"

    def _look_full(self) -> None:
        why, before = self._why_full(), self._full
        self._full = why
        if why and not before:
            self._log.warning("the disk is full", what=why, follows=self._what_follows(), **self._figures())
        elif before and not why:
            self._log.warning("the disk has room again, this member goes on as before", **self._figures())

    def _figures(self) -> Mapping[str, int]:
        log = self._member.log
        return {"free_bytes": log.free_bytes(), "needed_bytes": limits.WAL_ZERO_AHEAD_BYTES + log.queued_bytes}

    def _what_follows(self) -> str:
        replica = self._member.replica
        if replica.is_alone:
            return "writes are refused, but for what frees space"
        if replica.kernel.state == LEADER:
            return "another member with room is to lead"
        return "what is asked for here goes to the leader; once nothing more can be written here, this member's jobs go to the others"

    def _look_stuck(self, now_ms: int) -> None:
        crowded = bool(self._flusher.stalled) and self._member.store.pending_bytes > limits.PENDING_RECORDS_BYTES_MAX
        if not self._member.log.stalled and not crowded:
            self._stalled_since_ms = None
        elif self._stalled_since_ms is None:
            self._stalled_since_ms = now_ms
        stuck = self._stalled_since_ms is not None and now_ms - self._stalled_since_ms >= STUCK_MS
        if stuck and not self.stuck and not self._member.replica.is_alone:
            self._log.warning("nothing more can be written here, the others are to do without this member", **self._figures())
        self.stuck = self._member.replica.fence.stands_back = stuck

    # -- who leads

    def _lead(self, now_ms: int) -> None:
        replica = self._member.replica
        if not self._full or replica.kernel.state != LEADER:
            replica.no_room = False
        elif self._asking is None and now_ms >= self._ask_ms:
            self._asking = asyncio.get_running_loop().create_task(self._hand_over())
            self._asking.add_done_callback(self._asked)
            self._ask_ms = now_ms + ASK_AGAIN_MS

    def _asked(self, task: "asyncio.Task[None]") -> None:
        self._asking = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("leadership could not be handed over", reason=repr(error))

    async def _hand_over(self) -> None:
        replica = self._member.replica
        for heir in self._clustering.heirs():
            if await self._has_room(heir) and self._full and replica.kernel.state == LEADER:
                replica.no_room = False  # proposals wait for who leads next
                if await self._clustering.transfer(heir):
                    self._handed_over_total += 1
                    self._log.info("leadership was handed over, for want of room on the disk", to=f"{heir:x}")
                    return
        if self._full and replica.kernel.state == LEADER and not replica.no_room:
            replica.no_room = True
            if not replica.is_alone:
                self._log.warning("nobody with room on the disk can lead, writes are refused, but for what frees space")

    async def _has_room(self, member: int) -> bool:
        assert self._peering is not None  # there is an heir
        try:
            return await self._peering.ask(member, HAS_ROOM, b"", ASK_MS) != NO
        except PeerError as error:
            return error.code not in SILENT

    async def _answer(self, _sender: int, _payload: bytes) -> bytes:
        return NO if self._why_full() else YES

    # -- for the node

    def counters(self) -> Mapping[str, float]:
        return {"raftsched_disk_full": float(bool(self._full)), "raftsched_disk_full_handovers_total": self._handed_over_total}

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
