"""A new data directory out of a file of `dapr scheduler export`: records as if each job had been put, with its counter.

Invariant: the same file makes the same records, so the members of a cluster may each be made of it. Counters without a job are left behind.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from raftsched.cli.moving.entries import Entry, entries
from raftsched.cli.moving.sources import Stored
from raftsched.cli.progress import OnProgress
from raftsched.pb.etcd import kv_pb2
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.store._records import Generation
from raftsched.store.node.restoring import Plan, Restored, restore_records

FIRST_REVISION: Final = 2  # of the first put in an empty store


class _Found:
    """A database that has nothing but jobs, and its records."""

    def __init__(self, source: Stored, path: Path) -> None:
        self.path = str(path)
        self.size_bytes = path.stat().st_size
        self.page_count = source.count()
        self.buckets = ["key"]
        self.empty: list[tuple[int, int, bool]] = []
        self.pages_seen = 0
        self._entries = self._with_jobs(entries(source))
        self._revision = FIRST_REVISION

    def items(self, _bucket: str, *, bytes_max: int = 0) -> list[tuple[bytes, bytes]]:
        return []

    @staticmethod
    def _with_jobs(found: Iterator[Entry]) -> Iterator[Entry]:
        return (entry for entry in found if entry.job is not None)

    def fill(self, generation: Generation, bytes_max: int) -> bool:
        while generation.size_bytes < bytes_max:
            entry = next(self._entries, None)
            if entry is None:
                return False
            assert entry.job is not None
            self._add(generation, 0, JOBS + entry.name, entry.job)
            if entry.counter is not None:
                self._add(generation, 1, COUNTERS + entry.name, entry.counter)
            self._revision += 1
            self.pages_seen += 1
        return True

    def _add(self, generation: Generation, sub: int, key: bytes, value: bytes) -> None:
        at = self._revision
        record = kv_pb2.KeyValue(key=key, value=value, create_revision=at, mod_revision=at, version=1)
        generation.add(at, sub, False, record.SerializeToString())


def found_from(plan: Plan, source: Stored, on_progress: OnProgress) -> Restored:
    """Raises ConfigError, FatalError, NoSpaceError; what was begun is removed then."""
    found = _Found(source, plan.source)
    return restore_records(plan, found, found, source.identity.encode(), on_progress)
