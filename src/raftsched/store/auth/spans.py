"""Unions of key intervals: what a user may read, or write.

Invariant: spans are disjoint, in order, and never touch: [a, b) and [b, c) are one.
Must not know: users, requests.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

OPEN: Final = b"\0"
"""The range end that means: every key from the beginning on."""

Interval = tuple[bytes, bytes]
"""(key, range end) as in a permission or a request: end "" = this key alone, "\\0" = without end."""


class Spans:
    """The union of intervals. A look-up is one bisection."""

    __slots__ = ("_begins", "_ends")

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._begins: list[bytes] = []
        self._ends: list[bytes | None] = []  # None = without end
        for begin, end in sorted((key, _bound(key, end)) for key, end in intervals):
            self._add(begin, end)

    def _add(self, begin: bytes, bound: tuple[bool, bytes]) -> None:
        """In order of their beginnings."""
        endless, end = bound
        if not endless and end <= begin:
            return  # holds no key
        last = self._ends[-1] if self._ends else b""
        if not self._begins or (last is not None and last < begin):
            self._begins.append(begin)
            self._ends.append(None if endless else end)
        elif last is not None and (endless or end > last):
            self._ends[-1] = None if endless else end

    def cover(self, key: bytes, end: bytes = b"") -> bool:
        """Whether all keys of the interval are in the union. One that is reversed, and so is empty, is covered where its key is (etcd)."""
        at = bisect_right(self._begins, key) - 1
        if at < 0:
            return False
        bound = self._ends[at]
        if bound is None:
            return True
        return key < bound and end != OPEN and end <= bound

    def __len__(self) -> int:
        return len(self._begins)


def _bound(key: bytes, end: bytes) -> tuple[bool, bytes]:
    """(whether it has no end, the end), in the order of the ends."""
    if end == OPEN:
        return True, b""
    return False, end or key + b"\0"
