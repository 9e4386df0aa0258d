"""Entries of the retained segments, for a member that is behind, while the log goes on being written.

A cursor first walks its segments to the end of what is written, which tells where entries lie and which were replaced later (an index
written twice; an installed snapshot, before which nothing counts); then it reads chunk after chunk from where it stopped. Every
entry is verified by the chain of checksums before it is handed out.

Invariant: only entries up to `to_index` are returned, which the caller knows to be stable; of an index written twice the later one.
May run on a worker thread: the walks are native and do not hold the interpreter's lock.
Must not know: Raft's rules, who is behind.
"""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from raftsched.errors import CorruptError, FatalError
from raftsched.store.wal._walio import read_section, scan_sections
from raftsched.store.wal.disk import Bytes, Disk
from raftsched.store.wal.segments import Segment, arrange

SPACING_BYTES = 1 << 20  # of a section: a search walks over half of this
GOES_ON, REPLACES, RESTARTS = 0, 1, 2  # kinds of sections, see `_walio.Section`

Run = tuple[int, int, int, list[bytes]]


class TooOldError(Exception):
    """The entries asked for are in no segment any more."""

    def __init__(self, first_index: int, oldest_index: int) -> None:
        super().__init__(f"entry {first_index} is older than the oldest in the log, {oldest_index}")
        self.oldest_index = oldest_index


class Chunk(NamedTuple):
    """Neighbouring entries."""

    previous_term: int  # of the entry before the first; 0 for the entry 0
    runs: list[Run]  # (first index, term, kind, data)

    @property
    def first_index(self) -> int:
        return self.runs[0][0]

    @property
    def last_index(self) -> int:
        return self.runs[-1][0] + len(self.runs[-1][3]) - 1


@dataclass(slots=True)
class _Section:
    """Entries `first .. last` lie in one segment, in order."""

    first: int
    last: int
    offset: int
    crc: int
    kind: int
    segment: Segment


@dataclass(slots=True)
class _Place:
    """Where a walk goes on."""

    segment: Segment
    offset: int = 0
    crc: int = 0


class SegmentCursor:
    """Reads forward from one entry. Not for two threads at a time."""

    def __init__(self, disk: Disk, next_index: int) -> None:
        """`disk`: the directory of the log; `next_index` >= 1: the first entry that `read` returns."""
        self._disk = disk
        self._next = next_index
        self._previous_term = 0 if next_index == 1 else -1  # -1 = not known yet
        self._sections: list[_Section] = []  # in order of entries, without gaps
        self._oldest = 0  # first entry of all, as far as was walked
        self._end: _Place | None = None  # of what was walked
        self._last = 0
        self._at: _Place | None = None  # behind what was read

    @property
    def next_index(self) -> int:
        return self._next

    def read(self, *, to_index: int, entries_max: int, bytes_max: int) -> Chunk | None:
        """The next entries, at most to `to_index`, so many, so many bytes, but one at least; None if `to_index` has been returned.

        Raises TooOldError if the entry, or the one before it whose term is asked for, is gone; CorruptError, FatalError.
        """
        if self._next > to_index:
            return None
        if self._last < to_index:
            self._walk()
        if self._previous_term < 0:
            self._previous_term = self._read(self._next - 1, self._next - 1, 1, 1)[0][1]
        runs = self._read(self._next, to_index, entries_max, bytes_max)
        chunk = Chunk(self._previous_term, runs)
        self._next = chunk.last_index + 1
        self._previous_term = runs[-1][1]
        return chunk

    def _read(self, first: int, to_index: int, entries_max: int, bytes_max: int) -> list[Run]:
        position = bisect_right(self._sections, first, key=lambda section: section.first) - 1
        if position < 0:
            raise TooOldError(first, self._oldest)
        section = self._sections[position]
        if first > section.last:
            raise CorruptError(f"{self._disk.path}: the log ends at entry {self._last}, but {first} was written")
        at = self._at
        if at is None or at.segment is not section.segment or at.offset < section.offset:
            at = _Place(section.segment, section.offset, section.crc)
        with self._opened(section.segment) as data:
            runs, offset, crc = read_section(
                data, section.segment.sequence, at.offset, at.crc, first, min(to_index, self._run_end(position)), entries_max, bytes_max
            )
        if not runs:
            raise CorruptError(f"{self._disk.path}/{section.segment.name}: entry {first} does not verify any more")
        self._at = _Place(section.segment, offset, crc)
        return runs

    def _run_end(self, position: int) -> int:
        """The last entry that can be read on to from this section: over those that merely go on in the same segment."""
        sections = self._sections
        segment = sections[position].segment
        while position + 1 < len(sections) and sections[position + 1].kind == GOES_ON and sections[position + 1].segment is segment:
            position += 1
        return sections[position].last

    # -- where entries lie

    def _walk(self) -> None:
        """Goes on from where the last walk ended."""
        segments = arrange(self._disk.sizes())
        if self._end is None:
            self._end = self._start(segments)
        for segment in segments:
            end = self._end
            if segment.sequence < end.segment.sequence:
                continue
            place = end if segment.sequence == end.segment.sequence else _Place(segment)
            if place is not end and max(segment.first_index, 1) != self._last + 1:
                raise CorruptError(f"{self._disk.path}/{end.segment.name}: what follows entry {self._last} does not verify any more")
            with self._opened(place.segment) as data:
                place.offset, place.crc, self._last, found = scan_sections(
                    data, segment.sequence, place.offset, place.crc, self._last, SPACING_BYTES
                )
            self._end = place
            for first, last, offset, crc, kind in found:
                self._add(_Section(first, last, offset, crc, kind, place.segment))

    def _start(self, segments: list[Segment]) -> _Place:
        """The newest segment that can hold the entry before the next; no later one begins at or below it."""
        wanted = max(self._next - 1, 1)
        for segment in reversed(segments):
            if max(segment.first_index, 1) <= wanted:
                self._last = max(segment.first_index, 1) - 1
                return _Place(segment)
        raise TooOldError(wanted, segments[0].first_index if segments else 0)

    def _add(self, section: _Section) -> None:
        sections = self._sections
        if section.kind == RESTARTS:
            sections.clear()
            self._oldest = section.first
            return
        while sections and sections[-1].first >= section.first:
            sections.pop()
        if sections:
            sections[-1].last = min(sections[-1].last, section.first - 1)
        else:
            self._oldest = section.first
        sections.append(section)

    @contextmanager
    def _opened(self, segment: Segment) -> Iterator[Bytes]:
        try:
            with self._disk.open_bytes(segment.name) as data:
                yield data
        except FatalError:
            if all(name != segment.name for name, _size in self._disk.sizes()):
                raise TooOldError(self._next, self._oldest) from None  # let go since the walk
            raise
