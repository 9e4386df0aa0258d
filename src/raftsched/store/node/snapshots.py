"""Raft snapshots: which members were in force at a durable applied index; and the log segments that this lets go.

Each `snapshot_count` entries, or when the log takes more than its share of the space, at most one in ten seconds: the file `snap/*.snap`,
then a mark in the log, then, once that is synced, the release of segments.
Invariant: a mark never names an index above LMDB's durable applied index; its members are those that LMDB holds at that index, neither what
is applied since nor what the kernel already has in force.
Must not know: Raft's rules.
"""

import asyncio
from collections.abc import Callable

from raftsched import limits
from raftsched.errors import FatalError
from raftsched.ports import Log as LogPort
from raftsched.store.node.metrics import ETCD_DISK_BOUNDS, Histogram
from raftsched.store.node.opening import Member
from raftsched.store.node.options import NodeOptions
from raftsched.store.snapshot import files
from raftsched.store.snapshot.install import stored_in
from raftsched.store.wal.format import SnapshotMark, encode_mark

LOOK_INTERVAL_MS = 1_000


class Snapshots:
    """Takes them when they are due."""

    def __init__(self, member: Member, options: NodeOptions, log: LogPort, on_fatal: Callable[[FatalError], None]) -> None:
        self._member = member
        self._count = options.snapshot_count
        self._keep = options.max_snapshots
        self._keep_entries = options.catch_up_entries or 0
        self._log = log
        self._on_fatal = on_fatal
        self._last_index = member.mark_index
        self._last_ms = -limits.SNAPSHOT_INTERVAL_MIN_MS
        self._next_look_ms = 0
        self._task: asyncio.Task[None] | None = None
        self._mark_batch = 0
        self._mark_index = 0
        self._problem = ""
        self._ended = False
        self.save_seconds = Histogram(ETCD_DISK_BOUNDS)
        self.sync_seconds = Histogram(ETCD_DISK_BOUNDS)

    def end(self) -> None:
        """The log is not this incarnation's any more: one that is under way leaves no mark in it."""
        self._ended = True

    def look(self, mono_ms: int) -> None:
        """To be called when LMDB has committed, and now and then: without room in the log nothing is committed any more."""
        index = self._member.backend.applied_index
        if index <= self._last_index or mono_ms - self._last_ms < limits.SNAPSHOT_INTERVAL_MIN_MS:
            return
        if self._task is not None or self._mark_batch or not (index - self._last_index >= self._count or self._is_log_large(mono_ms)):
            return
        self._last_index, self._last_ms = index, mono_ms
        try:
            snapshot = stored_in(self._member.backend).snapshot
        except FatalError as error:
            self._on_fatal(error)
            return
        self._task = asyncio.get_running_loop().create_task(self._take(snapshot))

    def _is_log_large(self, mono_ms: int) -> bool:
        """The count alone would let large values fill the disk; looks into the directory once a second at most."""
        if mono_ms < self._next_look_ms:
            return False
        self._next_look_ms = mono_ms + LOOK_INTERVAL_MS
        log = self._member.log
        return log.no_space or log.size_bytes() > log.keep_bytes

    async def _take(self, snapshot: files.RaftSnapshot) -> None:
        """Two syncs, off the loop. A full disk is no reason to stop: the log is merely kept."""
        directory = self._member.directory.snap_path
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        try:
            self.sync_seconds.observe(await asyncio.to_thread(files.save, directory, snapshot))
            self.save_seconds.observe(loop.time() - begun_s)
            if self._ended:
                return
            files.prune(directory, keep=self._keep)
            mark = SnapshotMark(index=snapshot.index, term=snapshot.term, conf_state=snapshot.conf_state)
            log = self._member.log
            self._mark_batch = log.append(None, log.last_index + 1, [], [], mark=encode_mark(mark))
            self._mark_index = snapshot.index
            self._problem = ""
        except (FatalError, OSError) as error:
            if str(error) != self._problem:
                self._problem = str(error)
                self._log.warning("raft snapshot not taken", reason=self._problem)
        finally:
            self._task = None

    def on_synced(self, batch: int) -> None:
        """The log has synced everything up to `batch`."""
        if self._mark_batch and batch >= self._mark_batch:
            self._mark_batch = 0
            unneeded = max(self._mark_index - self._keep_entries, 0)  # the entries after it stay
            names = self._member.log.release(applied_index=self._member.backend.applied_index, mark_index=unneeded)
            if names:
                self._log.debug("log segments released", count=len(names), last=names[-1])

    async def close(self) -> None:
        """Waits for one that is under way."""
        if self._task is not None:
            await self._task
