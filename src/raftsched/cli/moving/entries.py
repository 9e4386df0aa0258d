"""Jobs with their counters, side by side in key order, out of any store that can be read in pages; what becomes of one that is there.

Invariant: a job and its counter are one entry: whoever writes them writes both at once, so no job fires from somebody else's count.
Must not know: gRPC, files.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from google.protobuf.message import DecodeError

from raftsched.pb.dapr import stored_pb2
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, prefix_end

PAGE_KEYS_FIRST: Final = 16
PAGE_KEYS_MAX: Final = 256
PAGE_BYTES: Final = 4 << 20


class Record(NamedTuple):
    """One pair under a prefix."""

    name: bytes  # of the key, what follows the prefix
    value: bytes
    revision: int  # of its last change; 0 where the source has none


class Entry(NamedTuple):
    """One job and how far it has come."""

    name: bytes
    job: bytes | None
    counter: bytes | None
    revision: int  # of the later change of the two


class Known(NamedTuple):
    """What the target has under a name; revision 0 = nothing."""

    job: bytes = b""
    job_revision: int = 0
    counter: bytes = b""
    counter_revision: int = 0


ABSENT: Final = Known()


class Action(StrEnum):
    """What becomes of an entry."""

    CREATED = "created"
    SAME = "same"  # it is there as it is here, or further on
    ADVANCED = "advanced"  # the same job, whose counter was behind
    REPLACED = "replaced"
    KEPT = "kept"  # another job has the name


class Source(Protocol):
    """Where entries come from."""

    identity: str
    """The same for the same data; what a target remembers."""
    revision: int
    """That everything is read at; 0 where there is none."""

    def count(self) -> int:
        """Of the jobs."""

    def records(self, prefix: bytes) -> Iterator[Record]:
        """Ascending."""


Fetch = Callable[[bytes, bytes, int], list[tuple[bytes, bytes, int]]]
"""`fetch(from, up to, so many)`: (key, value, revision) ascending."""


def paged(prefix: bytes, fetch: Fetch) -> Iterator[Record]:
    """All under `prefix`; pages are small where values are large."""
    at, end, limit = prefix, prefix_end(prefix), PAGE_KEYS_FIRST
    while page := fetch(at, end, limit):
        for key, value, revision in page:
            yield Record(key[len(prefix) :], value, revision)
        if len(page) < limit:
            return
        at = page[-1][0] + b"\0"
        size = sum(len(value) for _, value, _ in page)
        limit = min(PAGE_KEYS_MAX, limit * 2) if size < PAGE_BYTES else max(1, limit * PAGE_BYTES // size)


def entries(source: Source) -> Iterator[Entry]:
    """All names that have a job or a counter, ascending."""
    jobs, counters = source.records(JOBS), source.records(COUNTERS)
    job, counter = next(jobs, None), next(counters, None)
    while job is not None or counter is not None:
        if counter is None or (job is not None and job.name < counter.name):
            assert job is not None
            yield Entry(job.name, job.value, None, job.revision)
            job = next(jobs, None)
        elif job is None or counter.name < job.name:
            yield Entry(counter.name, None, counter.value, counter.revision)
            counter = next(counters, None)
        else:
            yield Entry(job.name, job.value, counter.value, max(job.revision, counter.revision))
            job, counter = next(jobs, None), next(counters, None)


def readable(job: bytes) -> bool:
    """Whether it can ever fire; what cannot be read goes along all the same."""
    try:
        return stored_pb2.Job.FromString(job).HasField("job")
    except DecodeError:
        return False


def decide(entry: Entry, known: Known, *, overwrite: bool) -> Action:
    """For an entry with a job."""
    if known.job_revision == 0:
        return Action.CREATED
    if known.job == entry.job:
        return Action.ADVANCED if _is_ahead(entry, known) else Action.SAME
    return Action.REPLACED if overwrite else Action.KEPT


def _is_ahead(entry: Entry, known: Known) -> bool:
    """Whether the entry's counter has seen more of the same job than the target's."""
    if entry.counter is None or entry.counter == known.counter:
        return False
    assert entry.job is not None
    try:
        partition = stored_pb2.Job.FromString(entry.job).partition_id
        theirs, ours = _progress(entry.counter, partition), _progress(known.counter, partition)
    except DecodeError:
        return False
    return theirs > ours


def _progress(counter: bytes, partition: int) -> tuple[int, int, int, int]:
    """Of a counter of another job's: none."""
    found = stored_pb2.Counter.FromString(counter)
    if found.job_partition_id != partition:
        return (0, 0, 0, 0)
    return (found.count, found.last_trigger.seconds, found.last_trigger.nanos, found.attempts)
