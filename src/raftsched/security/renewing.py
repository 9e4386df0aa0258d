"""What is made of files, made anew when they change.

Invariant: there always is a good one; while the files cannot be used the last one stays, and that is told once for each time that they
change. Must not know: what is made of them.
"""

import os
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from raftsched.errors import ConfigError

T = TypeVar("T")


class Renewing(Generic[T]):
    """`make` raises ConfigError; the first time it is the caller's. `on_unusable(reason)` hears of it later."""

    def __init__(self, files: Sequence[str], make: Callable[[], T], on_unusable: Callable[[str], None]) -> None:
        self._files = [name for name in files if name]
        self._make = make
        self._on_unusable = on_unusable
        self._told: object = None  # of what state of the files
        self._stamp: object = self._look_or_none()  # before they are read: what changes meanwhile is seen by the next caller
        self._value = make()

    def get(self) -> T:
        """Looks at the files' times: a few microseconds. Files that are being replaced may not fit each other for a moment: the next
        caller looks again."""
        state: object = None
        try:
            state = stamp = self._look()
            if stamp != self._stamp:
                self._value, self._stamp = self._make(), stamp
        except (OSError, ConfigError) as error:
            self._tell(state or str(error), str(error))
        return self._value

    def _look_or_none(self) -> object:
        """`make` has better words for a file that is not there."""
        try:
            return self._look()
        except OSError:
            return None

    def _look(self) -> list[tuple[int, int, int]]:
        found = [os.stat(name) for name in self._files]
        return [(one.st_mtime_ns, one.st_ino, one.st_size) for one in found]

    def _tell(self, state: object, reason: str) -> None:
        if state != self._told:
            self._told = state
            self._on_unusable(reason)
