"""Segments that a snapshot leads on to, kept while the member that got it begins anew.

Between the snapshot's last byte and the first word of the next incarnation nobody serves the member, and under writes the log would let
those segments go: it would need the next snapshot, and again the next.

Invariant: what is kept is bounded by time, and by the log's share of the space. Must not know: Raft's rules, who asks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from raftsched import limits
from raftsched.store.wal.log import Log


@dataclass(frozen=True, slots=True)
class _Held:
    hold: int  # the log's number of it
    index: int  # of the snapshot
    until_ms: int


class Holding:
    """By member. Owned by the loop thread."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._held: dict[int, _Held] = {}

    def keep(self, member: int, hold: int, index: int, mono_ms: int) -> None:
        """Takes over `hold`, at `index`, in place of what was kept for that member."""
        self._drop(member)
        self._held[member] = _Held(hold, index, mono_ms + limits.SNAPSHOT_COPY_IDLE_MS)

    def look(self, matches: Mapping[int, tuple[int, int, int, bool]], mono_ms: int) -> None:
        """Now and then. `matches`: those of a leader, or empty; a member that has acknowledged so much is served by others."""
        for member, held in list(self._held.items()):
            if member not in matches or matches[member][0] >= held.index or mono_ms >= held.until_ms:
                self._drop(member)

    def close(self) -> None:
        for member in list(self._held):
            self._drop(member)

    def _drop(self, member: int) -> None:
        held = self._held.pop(member, None)
        if held is not None:
            self._log.unhold(held.hold)
