"""Since when a removed member is gone, by its name: that still holds what its scheduler could not give up.

Pure: times come as arguments. Must not know: why a member was removed.
"""

from collections.abc import Collection

from raftsched.limits import MEMBERS_MAX


class Gone:
    """At most `MEMBERS_MAX` names, the latest."""

    def __init__(self) -> None:
        self._names: Collection[str] = ()
        self._since_ms: dict[str, int] = {}

    def look(self, names: Collection[str], departed: Collection[str], mono_ms: int) -> None:
        """After each change that was applied, and now and then: the names of the members now, and of those that were removed since the last
        look. Who is among the latter alone had its name for a moment only, and may have used it."""
        gone = {*self._names, *departed} - {*names, ""}
        since_ms = {name: since for name, since in self._since_ms.items() if name not in names}
        since_ms |= {name: mono_ms for name in sorted(gone) if name not in since_ms}
        self._names, self._since_ms = names, dict(list(since_ms.items())[-MEMBERS_MAX:])

    def for_ms(self, least_ms: int, mono_ms: int) -> set[str]:
        """Who has been gone for that long."""
        return {name for name, since in self._since_ms.items() if mono_ms - since >= least_ms}
