"""Which segments there are, and which may go. Pure: names and numbers in, names out.

Invariant: what `droppable` names is a prefix of the log (oldest first) and never holds an entry above the durable applied index
or above the last snapshot mark.
Must not know: files, threads, what an entry means.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from raftsched.errors import CorruptError
from raftsched.store.wal.format import parse_segment_name

NOT_HELD = 1 << 62


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the log."""

    sequence: int
    first_index: int  # entries of lower index are in older segments (or replaced ones)
    name: str
    size_bytes: int


def arrange(sizes: Iterable[tuple[str, int]]) -> list[Segment]:
    """The segments among (file name, size), oldest first. CorruptError if one is missing between others."""
    found = []
    for name, size in sizes:
        numbers = parse_segment_name(name)
        if numbers is not None:
            found.append(Segment(sequence=numbers[0], first_index=numbers[1], name=name, size_bytes=size))
    found.sort(key=lambda segment: segment.sequence)
    for before, after in pairwise(found):
        if after.sequence != before.sequence + 1:
            raise CorruptError(f"write-ahead log: the segment between {before.name} and {after.name} is missing")
    return found


def droppable(segments: Sequence[Segment], *, to_index: int, keep_count: int, keep_bytes: int, held_index: int = NOT_HELD) -> list[Segment]:
    """The segments to drop now, oldest first.

    `segments`: all, oldest first, the newest is in use. `to_index`: the lower of durable applied index and last snapshot mark:
    only segments wholly at or below it may go. Of those the newest `keep_count` stay (0 = all), and those that hold `held_index` or more
    (a member that is behind reads them), as long as all segments together take at most `keep_bytes`.
    """
    free = []
    for segment, following in pairwise(segments):
        if following.first_index - 1 > to_index:
            break
        free.append(segment)
    surplus = len(free) - keep_count if keep_count else 0
    total = sum(segment.size_bytes for segment in segments)
    dropped = []
    for position, (segment, following) in enumerate(zip(free, segments[1:], strict=False)):
        if (position >= surplus or following.first_index > held_index) and total <= keep_bytes:
            break
        dropped.append(segment)
        total -= segment.size_bytes
    return dropped
