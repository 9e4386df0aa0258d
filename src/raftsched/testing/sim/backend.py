"""LMDB in a dict: `store.backend._lmdb.Backend` as the node uses it.

A commit is one step of the durable state some time after it was asked for; a crash before keeps the old state, or the new one.
Readers see what the last `renew` showed them. Must not know: what a record says.
"""

import random
from collections.abc import Sequence

from raftsched.errors import FatalError
from raftsched.store._records import Generation, MemoryRecords
from raftsched.store.backend._lmdb import BUCKETS, Backend
from raftsched.testing.sim.log import DiskFaults
from raftsched.testing.sim.loop import SimLoop

PAGE_BYTES = 4_096
MAP_BYTES = 64 << 20
WAIT_MS = 60_000
Record = tuple[int, int, bool]
Sides = Sequence[tuple[str, bytes, bytes | None]]


class Commit:
    """One transaction."""

    def __init__(
        self, records: list[tuple[int, int, bool, bytes]], deletes: list[Record], sides: Sides, applied_index: int, term: int
    ) -> None:
        self.records, self.deletes, self.sides = records, deletes, sides
        self.applied_index, self.term = applied_index, term


class Database:
    """What is on the disk."""

    def __init__(self) -> None:
        self.records: dict[Record, bytes] = {}
        self.buckets: dict[str, dict[bytes, bytes]] = {}
        self.applied_index = 0
        self.term = 0

    def take(self, commit: Commit) -> None:
        self.take_data(commit)
        self.take_index(commit)

    def take_data(self, commit: Commit) -> None:
        for main, sub, tombstone, value in commit.records:
            self.records[main, sub, tombstone] = value
        for place in commit.deletes:
            self.records.pop(place, None)
        for bucket, key, value_or_none in commit.sides:
            if value_or_none is None:
                self.buckets.setdefault(bucket, {}).pop(key, None)
            else:
                self.buckets.setdefault(bucket, {})[key] = value_or_none

    def take_index(self, commit: Commit) -> None:
        self.applied_index, self.term = commit.applied_index, commit.term

    def write_to(self, path: str) -> None:
        """A real environment in the new directory `path`, for what reads and sends files."""
        generation = Generation()
        for (main, sub, tombstone), value in sorted(self.records.items()):
            generation.add(main, sub, tombstone, value)
        generation.freeze()
        sides = [(bucket, key, value) for bucket, items in sorted(self.buckets.items()) for key, value in sorted(items.items())]
        real = Backend(path, map_bytes=MAP_BYTES)
        try:
            real.commit(generation, [], sides, self.applied_index, self.term)
            if not real.wait(WAIT_MS):
                raise FatalError(f"{path}: no end of the commit")
            real.completed()
        finally:
            real.close()

    @classmethod
    def read_from(cls, path: str) -> "Database":
        """What `write_to` wrote, on this machine or another."""
        found = cls()
        real = Backend(path, map_bytes=MAP_BYTES, create=False)
        try:
            found.applied_index, found.term = real.applied_index, real.term
            for bucket in BUCKETS:
                items = real.bucket_items(bucket)
                if bucket == "key":
                    found.records = {_place(key): value for key, value in items}
                else:
                    found.buckets[bucket] = dict(items)
        finally:
            real.close()
        for own in (b"consistent_index", b"term"):
            found.buckets["meta"].pop(own, None)
        return found

    @property
    def size_bytes(self) -> int:
        return PAGE_BYTES + sum(len(value) + 48 for value in self.records.values())


def _place(key: bytes) -> Record:
    """Of an etcd revision key: 8 bytes main, _, 8 bytes sub, and a t for a tombstone."""
    return int.from_bytes(key[:8], "big"), int.from_bytes(key[9:17], "big"), len(key) == 18


class SimBackend(MemoryRecords):
    """See the module's text."""

    def __init__(self, loop: SimLoop, database: Database, faults: DiskFaults, path: str) -> None:
        super().__init__()
        self.path = path
        self.fd = loop.new_fd()
        self.bulk_fd = loop.new_fd()
        self.applied_index = database.applied_index
        self.term = database.term
        self.stalled = ""
        self.size_bytes = database.size_bytes
        self.in_use_bytes = database.size_bytes
        self._loop = loop
        self._database = database
        self._faults = faults
        self._buckets = {name: dict(bucket) for name, bucket in database.buckets.items()}
        self._commit: Commit | None = None
        self._unseen: Commit | None = None  # done, and not yet shown to readers
        self._jobs = 0
        self._copied: list[tuple[int, int, str]] = []
        self._closed = False
        for (main, sub, tombstone), value in sorted(database.records.items()):
            self.put(main, sub, tombstone, value)

    # -- writing

    def commit(self, generation: Generation | None, deletes: Sequence[Record], side: Sides, applied_index: int, term: int) -> None:
        if self._commit is not None:
            raise ValueError("a commit is under way")
        if applied_index < self._database.applied_index:
            raise ValueError(f"the applied index falls from {self._database.applied_index} to {applied_index}")
        self._commit = Commit(generation.items() if generation is not None else [], list(deletes), list(side), applied_index, term)
        self._loop.call_later(self._faults.delay_s() * 3, self._run)

    def _run(self) -> None:
        if self._commit is None:
            return  # waited for
        if self._faults.full:
            self.stalled = f"{self.path}: No space left on device"
        else:
            self._store(self._commit)
            self._unseen, self._commit = self._commit, None
        self._loop.set_readable(self.fd)

    def _store(self, commit: Commit) -> None:
        self._database.take(commit)

    def completed(self) -> int:
        self._loop.set_readable(self.fd, False)
        self.applied_index, self.term = self._database.applied_index, self._database.term
        return self.applied_index

    @property
    def committing(self) -> bool:
        return self._commit is not None

    def retry(self) -> None:
        if not self.stalled:
            raise ValueError("no stalled commit")
        self.stalled = ""
        self._loop.call_later(self._faults.delay_s(), self._run)

    def wait(self, timeout_ms: int) -> bool:
        """At once: the caller does not let time pass."""
        if self._commit is not None and not self.stalled:
            self._run()
        return True

    def crash(self, chance: random.Random) -> None:
        """The process is gone: a commit under way is on the disk, or it is not."""
        if self._commit is not None and not self.stalled and chance.random() < 0.5:
            self._store(self._commit)

    def measure_now(self) -> None:
        self.size_bytes = self.in_use_bytes = self._database.size_bytes

    # -- reading

    def renew(self) -> None:
        commit, self._unseen = self._unseen, None
        if commit is None:
            return
        for main, sub, tombstone, value in commit.records:
            self.put(main, sub, tombstone, value)
        for main, sub, tombstone in commit.deletes:
            try:
                self.remove(main, sub, tombstone)
            except KeyError:
                continue  # a replay after a crash deletes again
        for bucket, key, value_or_none in commit.sides:
            if value_or_none is None:
                self._buckets.setdefault(bucket, {}).pop(key, None)
            else:
                self._buckets.setdefault(bucket, {})[key] = value_or_none

    def bucket_items(self, bucket: str) -> list[tuple[bytes, bytes]]:
        return sorted(self._buckets.get(bucket, {}).items())

    def bucket_get(self, bucket: str, key: bytes) -> bytes | None:
        return self._buckets.get(bucket, {}).get(key)

    # -- bulk jobs: copies alone

    def start_copy(self, path: str) -> int:
        """Of the moment in which it ends; nothing can tell the difference."""
        self._jobs += 1
        self._loop.call_later(self._faults.delay_s() * 5, self._copy, self._jobs, path)
        return self._jobs

    def _copy(self, job: int, path: str) -> None:
        if not self._closed:
            self._database.write_to(path)
            self._copied.append((job, 0, ""))
            self._loop.set_readable(self.bulk_fd)

    def bulk_completed(self) -> list[tuple[int, int, str]]:
        self._loop.set_readable(self.bulk_fd, False)
        ended, self._copied = self._copied, []
        return ended

    def close(self) -> None:
        self._commit = None
        self._closed = True
