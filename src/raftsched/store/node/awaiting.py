"""For how long a member has been waiting for what only others can give it: company, a leader, the entries that it missed.

Why health asks: docs/decisions/0009-health-does-not-wait-for-others.md.
Pure: times come as arguments. Must not know: who waits for the answer.
"""

from raftsched import limits


class Awaiting:
    """Of one incarnation."""

    def __init__(self) -> None:
        self._since_ms: int | None = None  # until it serves for the first time
        self._alone_since_ms: int | None = None

    def begin(self, mono_ms: int) -> None:
        """The others can be asked from now on."""
        self._since_ms = self._alone_since_ms = mono_ms

    def look(self, *, alone: bool, mono_ms: int) -> None:
        """Now and then. `alone`: no leader is known; of an empty member, no cluster that it could join."""
        if not alone:
            self._alone_since_ms = None
        elif self._alone_since_ms is None:
            self._alone_since_ms = mono_ms

    def served(self) -> None:
        """Everything is there: from here on it waits only while it is alone."""
        self._since_ms = None

    def for_long(self, mono_ms: int) -> bool:
        """A member that comes back hears of its leader within half a second, and has caught up soon: until then it is its own turn."""
        alone, behind = self._alone_since_ms, self._since_ms
        if alone is not None and mono_ms - alone >= limits.HEALTH_ALONE_MS:
            return True
        return behind is not None and mono_ms - behind >= limits.HEALTH_BEHIND_MS
