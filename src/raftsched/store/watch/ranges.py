"""Which watchers a changed key concerns.

Single keys are found by one dict access; prefixes by one access per distinct prefix length; other ranges by stabbing a sorted
array with the greatest end of each subtree (an implicit augmented tree), with the newest ranges in a short list beside it.
Equal ranges share one group, so that a thousand watchers of one prefix cost one look-up.

Invariant: a watcher is in exactly the group of its (key, end); a group without watchers is found by no look-up.
Must not know: revisions, streams, what a watcher is.
"""

from typing import Final, Generic, TypeVar

Watched = TypeVar("Watched")

OPEN_END: Final = b""
"""As `end`: every key >= start. As etcd's watch service hands it on for range_end "\\0"."""

RECENT_RANGES_MAX: Final = 32  # scanned one by one; beyond this and an eighth of all, the sorted array is built anew


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all keys that start with `prefix`; OPEN_END when there is none."""
    cut = prefix.rstrip(b"\xff")
    return cut[:-1] + bytes((cut[-1] + 1,)) if cut else OPEN_END


class _Group(Generic[Watched]):
    """The watchers of one range, and the range."""

    __slots__ = ("end", "start", "watchers")

    def __init__(self, start: bytes, end: bytes) -> None:
        self.start = start
        self.end = end
        self.watchers: dict[Watched, None] = {}


class RangeIndex(Generic[Watched]):
    """General ranges [start, end), looked up by a key inside."""

    def __init__(self) -> None:
        self._groups: dict[tuple[bytes, bytes], _Group[Watched]] = {}
        self._recent: list[_Group[Watched]] = []
        self._sorted: list[_Group[Watched]] = []
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []  # of the subtree whose root is at the same index; OPEN_END is the greatest
        self._dead = 0

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, start: bytes, end: bytes, watcher: Watched) -> None:
        group = self._groups.get((start, end))
        if group is None:
            group = self._groups[start, end] = _Group(start, end)
            self._recent.append(group)
            if len(self._recent) > max(RECENT_RANGES_MAX, len(self._sorted) >> 3):
                self._rebuild()
        group.watchers[watcher] = None

    def remove(self, start: bytes, end: bytes, watcher: Watched) -> None:
        group = self._groups[start, end]
        del group.watchers[watcher]
        if not group.watchers:
            del self._groups[start, end]
            self._dead += 1
            if self._dead > max(RECENT_RANGES_MAX, len(self._groups)):
                self._rebuild()

    def match(self, key: bytes, found: list[Watched]) -> None:
        """Appends the watchers of all ranges that hold `key`."""
        for group in self._recent:
            if group.start <= key and (key < group.end or not group.end):
                found.extend(group.watchers)
        if self._sorted:
            self._stab(key, found)

    def _stab(self, key: bytes, found: list[Watched]) -> None:
        """Walks the subtrees [low, high) that start at or before `key` and reach behind it."""
        roots = [(0, len(self._sorted))]
        while roots:
            low, high = roots.pop()
            if low >= high:
                continue
            middle = (low + high) >> 1
            furthest = self._ends[middle]
            if furthest and furthest <= key:
                continue
            roots.append((low, middle))
            if self._starts[middle] <= key:
                group = self._sorted[middle]
                if not group.end or key < group.end:
                    found.extend(group.watchers)
                roots.append((middle + 1, high))

    def _rebuild(self) -> None:
        self._sorted = sorted(self._groups.values(), key=lambda group: group.start)
        self._starts = [group.start for group in self._sorted]
        self._ends = [OPEN_END] * len(self._sorted)
        self._recent = []
        self._dead = 0
        self._furthest(0, len(self._sorted))

    def _furthest(self, low: int, high: int) -> bytes | None:
        """Fills `_ends` of [low, high) and returns the greatest end in it; None when empty. Depth is log2 of the size."""
        if low >= high:
            return None
        middle = (low + high) >> 1
        furthest = self._sorted[middle].end
        for end in (self._furthest(low, middle), self._furthest(middle + 1, high)):
            if end is not None and furthest and (not end or end > furthest):
                furthest = end
        self._ends[middle] = furthest
        return furthest


class KeyMatcher(Generic[Watched]):
    """All watchers, looked up by a changed key."""

    def __init__(self) -> None:
        self._keys: dict[bytes, dict[Watched, None]] = {}
        self._prefixes: dict[bytes, dict[Watched, None]] = {}
        self._prefix_lengths: dict[int, int] = {}  # length -> how many distinct prefixes have it
        self._ranges: RangeIndex[Watched] = RangeIndex()
        self._simple = True  # only single keys

    def add(self, start: bytes, end: bytes | None, watcher: Watched) -> None:
        """`end` None: the single key `start`; OPEN_END: all keys from it; else [start, end)."""
        if end is None:
            self._keys.setdefault(start, {})[watcher] = None
        elif end and end == prefix_end(start):
            if start not in self._prefixes:
                self._prefixes[start] = {}
                self._prefix_lengths[len(start)] = self._prefix_lengths.get(len(start), 0) + 1
            self._prefixes[start][watcher] = None
        else:
            self._ranges.add(start, end, watcher)
        self._simple = not self._prefixes and not self._ranges

    def remove(self, start: bytes, end: bytes | None, watcher: Watched) -> None:
        """Undoes one `add`; KeyError if there was none."""
        if end is None:
            group = self._keys[start]
            del group[watcher]
            if not group:
                del self._keys[start]
        elif end and end == prefix_end(start):
            group = self._prefixes[start]
            del group[watcher]
            if not group:
                del self._prefixes[start]
                self._drop_length(len(start))
        else:
            self._ranges.remove(start, end, watcher)
        self._simple = not self._prefixes and not self._ranges

    def match(self, key: bytes) -> list[Watched]:
        """Every watcher whose range holds `key`, each once, in a fresh list."""
        group = self._keys.get(key)
        found = list(group) if group else []
        if self._simple:
            return found
        prefixes = self._prefixes
        size = len(key)
        for length in self._prefix_lengths:
            if length <= size and (group := prefixes.get(key[:length])):
                found.extend(group)
        if self._ranges:
            self._ranges.match(key, found)
        return found

    def _drop_length(self, length: int) -> None:
        left = self._prefix_lengths[length] - 1
        if left:
            self._prefix_lengths[length] = left
        else:
            del self._prefix_lengths[length]
