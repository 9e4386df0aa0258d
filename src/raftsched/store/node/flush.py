"""From applied changes to LMDB: commits of generations, scrubs, Raft snapshots, hash and Defragment.

Invariant: one commit at a time; a generation, the deletes and the side writes of one commit belong to exactly the applied index that is
committed with them. The log keeps everything above the durable applied index, so nothing here is in a hurry.
Must not know: Raft's rules, who waits for what.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from raftsched import limits
from raftsched.errors import EtcdError, FatalError, GrpcCode, NoSpaceError, StatusError, status_of
from raftsched.store.apply import Applier, revision_key
from raftsched.store.backend._lmdb import Backend
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.backend.removal import remove_later
from raftsched.store.mvcc._store import HashPlan, MvccStore
from raftsched.store.node.metrics import (
    COMPACTION_BOUNDS,
    DEFRAGMENT_BOUNDS,
    ETCD_DISK_BOUNDS,
    HASH_BOUNDS,
    INDEX_PAUSE_BOUNDS,
    Histogram,
)
from raftsched.store.node.options import Clock

RETRY_MS = 1_000
SCRUB_KEYS = 512  # looked at between two looks at the clock
SCRUB_RECORDS = 2_000  # named between two looks at the clock: a key may have a million
SCRUB_DELETES_MAX = 50_000  # waiting for a commit; beyond, the scrub pauses
WAIT_MS = 60_000
LONG_JOBS_MAX = 16  # hashes and Defragment, one at a time; who comes beyond is told to come again
HASH_STEP_KEYS = 2_048

Deletes = list[tuple[int, int, bool]]
Describe = Callable[[dict[str, list[tuple[bytes, bytes]]]], list[tuple[str, bytes, bytes | None]]]


class Flusher:
    """Drives the backend on the loop."""

    def __init__(
        self,
        backend: Backend,
        store: MvccStore,
        applier: Applier,
        directory: DataDirectory,
        clock: Clock,
        *,
        interval_ms: int,
        limit: int,
        scrub_records: int,
        scrub_wait_ms: int,
        on_fatal: Callable[[FatalError], None],
        on_durable: Callable[[], None],
    ) -> None:
        """`scrub_records`, `scrub_wait_ms`: `NodeOptions.compaction_records` and its pause."""
        self._backend = backend
        self._store = store
        self._applier = applier
        self._directory = directory
        self._clock = clock
        self._interval_ms = interval_ms
        self._limit = limit
        self._scrub_records = scrub_records
        self._scrub_wait_s = scrub_wait_ms / 1000
        self._on_fatal = on_fatal
        self._on_durable = on_durable
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fresh_entries = 0  # applied since the last commit began
        self._in_flight = False  # from `commit` until its end was seen here (the backend itself may know earlier)
        self._committing_generation = False
        self._committing_bytes = 0
        self._commit_started_ns = 0
        self._deletes: Deletes = []
        self._paused = False  # Defragment: no commit may come between copy and swap
        self._closed = False
        # scrub: a compaction was applied and not all it made unreachable is gone
        self._scrub_timer: asyncio.TimerHandle | None = None
        self._scrubbing = store.compact_revision > 0 and self._unfinished()
        self._scrub_target = store.compact_revision if self._scrubbing else 0
        self._finished_in_commit = 0
        self._scrub_waiters: list[asyncio.Future[None]] = []
        self._commit_waiters: list[asyncio.Future[None]] = []
        self._jobs: dict[int, asyncio.Future[int]] = {}
        self._retry_at_ns = 0
        self._unmeasured_bytes = 0  # committed since the backend last looked at its size
        self.commit_seconds = Histogram(ETCD_DISK_BOUNDS)
        self.scrubbed_keys_total = 0
        self.compacted_at_s = 0  # wall time of the end of the last scrub
        self._long_jobs = 0  # under way or waiting for their turn
        self._long_job_lock = asyncio.Lock()
        self._hashing = False  # no scrub: it would change what the hash is of
        self.hash_seconds = Histogram(HASH_BOUNDS)
        self.hash_kv_seconds = Histogram(HASH_BOUNDS)
        self.defragment_seconds = Histogram(DEFRAGMENT_BOUNDS)
        self.copy_seconds = Histogram(DEFRAGMENT_BOUNDS)
        self.export_seconds = Histogram(DEFRAGMENT_BOUNDS)
        self.scrub_pause_ms = Histogram(INDEX_PAUSE_BOUNDS)
        self.scrub_ms = Histogram(COMPACTION_BOUNDS)
        self._scrub_begun_ns = clock.mono_ns()
        self._loop.add_reader(backend.fd, self._on_commit_event)
        self._loop.add_reader(backend.bulk_fd, self._on_bulk_event)
        if self._scrubbing:
            self._schedule_scrub()

    def _unfinished(self) -> bool:
        value = self._backend.bucket_get("meta", b"finishedCompactRev")
        return value is None or value != revision_key(self._store.compact_revision)

    # -- commits

    def on_applied(self, count: int) -> None:
        """`count` more entries are applied; called after each batch."""
        self._fresh_entries += count
        if self._applier.compacted_to > self._scrub_target:
            self._scrub_target = self._applier.compacted_to
            if not self._scrubbing:
                self._scrub_begun_ns = self._clock.mono_ns()
            self._scrubbing = True
            self._schedule_scrub()
        self._arm()

    def _arm(self) -> None:
        if self._closed or self._paused or self._in_flight:
            return  # goes on when that has ended
        if self._fresh_entries >= self._limit:
            self._commit()
        elif self._timer is None and self._dirty():
            self._timer = self._loop.call_later(self._interval_ms / 1000, self._on_timer)

    def _dirty(self) -> bool:
        behind = self._applier.applied_index != self._backend.applied_index
        return behind or bool(self._deletes) or bool(self._applier.side) or self._scrub_to_note()

    def _scrub_to_note(self) -> bool:
        """A scrub has ended and LMDB does not say so yet."""
        return not self._scrubbing and self._finished_in_commit != self._scrub_target

    def _on_timer(self) -> None:
        self._timer = None
        if not (self._closed or self._paused or self._in_flight) and self._dirty():
            self._commit()

    def _commit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        generation = self._store.swap() if self._store.pending_bytes else None
        self._committing_generation = generation is not None
        self._committing_bytes = 0 if generation is None else generation.size_bytes
        deletes, self._deletes = self._deletes, []
        side = self._applier.side.take()
        if self._scrub_to_note():  # its last deletes are in this commit
            self._finished_in_commit = self._scrub_target
            side.append(("meta", b"finishedCompactRev", revision_key(self._scrub_target)))
        self._fresh_entries = 0
        self._commit_started_ns = self._clock.mono_ns()
        self._in_flight = True
        try:
            self._backend.commit(generation, deletes, side, self._applier.applied_index, self._applier.applied_term)
        except Exception as error:  # what it took is in no transaction now: a later commit would leave it out
            self._on_fatal(FatalError(f"cannot commit: {error!r}"))

    def _on_commit_event(self) -> None:
        try:
            if not self._in_flight:
                self._backend.completed()  # an event of a commit whose end was seen by waiting for it
                return
            if not self._end():
                return
        except FatalError as error:
            self._on_fatal(error)
            return
        self._retry_at_ns = 0
        self.commit_seconds.observe((self._clock.mono_ns() - self._commit_started_ns) / 1e9)
        waiters, self._commit_waiters = self._commit_waiters, []
        for waiter in waiters:
            _finish(waiter)
        self._wake_scrub_waiters()
        self._on_durable()
        self._arm()
        if self._scrubbing:
            self._schedule_scrub()  # it may have waited for this

    def _end(self) -> bool:
        """Takes note of a commit that has ended; False if it has not, or met a full disk. Raises FatalError."""
        self._backend.completed()
        if self._backend.committing:
            if self._backend.stalled and not self._retry_at_ns:
                self._retry_at_ns = self._clock.mono_ns() + RETRY_MS * 1_000_000
            return False
        self._backend.renew()
        self._in_flight = False
        if self._committing_generation:
            self._committing_generation = False
            self._unmeasured_bytes += self._committing_bytes  # until now they were among the pending ones
            self._store.release()
        return True

    def _wake_scrub_waiters(self) -> None:
        if not self._scrubbing and not self._scrub_to_note():
            waiters, self._scrub_waiters = self._scrub_waiters, []
            for waiter in waiters:
                _finish(waiter)

    def tick(self) -> None:
        """Now and then: a commit that met a full disk or map is tried again each second."""
        if self._retry_at_ns and self._clock.mono_ns() >= self._retry_at_ns:
            self._retry_at_ns = 0
            self._backend.retry()
        self.measure()

    def measure(self) -> None:
        """Brings the space in use up to date, if anything was committed since."""
        if self._unmeasured_bytes:
            self._backend.measure_now()
            self._unmeasured_bytes = 0

    @property
    def used_bytes(self) -> int:
        """What the data take, never less: in LMDB, committed since that was measured, and pending."""
        return self._backend.in_use_bytes + self._unmeasured_bytes + self._store.pending_bytes

    @property
    def stalled(self) -> str:
        """Not empty: why LMDB takes nothing at the moment."""
        return self._backend.stalled

    async def settle(self) -> None:
        """Done when everything that is applied now is durable in LMDB."""
        index = self._applier.applied_index
        while self._backend.applied_index < index:
            self._check_open()
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._commit_waiters.append(waiter)
            if not self._in_flight and not self._paused:
                self._commit()
            await waiter

    def _check_open(self) -> None:
        if self._closed:
            raise status_of(EtcdError.STOPPED)

    # -- scrub

    def _schedule_scrub(self) -> None:
        if self._scrub_timer is None and not self._closed:
            self._scrub_timer = self._loop.call_later(self._scrub_wait_s, self._scrub)

    def _scrub(self) -> None:
        """One slice; between slices everything else has its turn."""
        self._scrub_timer = None
        if self._closed or not self._scrubbing or self._hashing:
            return
        begun_ns = self._clock.mono_ns()
        finished = self._scrub_until(begun_ns + limits.LOOP_SLICE_MS * 500_000)
        now_ns = self._clock.mono_ns()
        self.scrub_pause_ms.observe((now_ns - begun_ns) / 1e6)
        if finished:
            self._scrubbing = False
            self.compacted_at_s = self._clock.wall_ms() // 1000
            self.scrub_ms.observe((now_ns - self._scrub_begun_ns) / 1e6)
        self._arm()
        if finished:
            return
        if len(self._deletes) < SCRUB_DELETES_MAX:
            self._schedule_scrub()  # else the end of a commit does

    def _scrub_until(self, stop_ns: int) -> bool:
        """Whether nothing is left."""
        left = self._scrub_records or SCRUB_DELETES_MAX
        while left > 0 and len(self._deletes) < SCRUB_DELETES_MAX:
            deletes, finished = self._store.scrub(SCRUB_KEYS, records_max=min(left, SCRUB_RECORDS))
            left -= len(deletes)
            self._deletes += deletes
            self.scrubbed_keys_total += len(deletes)
            if finished:
                return True
            if self._clock.mono_ns() >= stop_ns:
                break
        return False

    @property
    def scrubbing(self) -> bool:
        return self._scrubbing

    async def scrubbed(self) -> None:
        if self._scrubbing or self._scrub_to_note() or self._in_flight:
            self._check_open()
            future: asyncio.Future[None] = self._loop.create_future()
            self._scrub_waiters.append(future)
            self._arm()
            await future
        self.measure()  # who compacts, then asks how much is in use, has the answer of after

    # -- bulk jobs

    def _on_bulk_event(self) -> None:
        try:
            ended = self._backend.bulk_completed()
        except FatalError as error:
            self._on_fatal(error)
            return
        for job, result, problem in ended:
            future = self._jobs.pop(job, None)
            if future is None or future.done():
                continue
            if problem:
                future.set_exception(StatusError(GrpcCode.INTERNAL, problem))
            else:
                future.set_result(result)

    def _job(self, number: int) -> "asyncio.Future[int]":
        future: asyncio.Future[int] = self._loop.create_future()
        self._jobs[number] = future
        return future

    @asynccontextmanager
    async def _alone(self, seconds: Histogram) -> AsyncIterator[None]:
        """One long job at a time; how long it took, without the wait for its turn."""
        if self._long_jobs >= LONG_JOBS_MAX:
            raise status_of(EtcdError.TOO_MANY_REQUESTS)
        self._long_jobs += 1
        try:
            async with self._long_job_lock:
                began_ns = self._clock.mono_ns()
                yield
                seconds.observe((self._clock.mono_ns() - began_ns) / 1e9)
        finally:
            self._long_jobs -= 1

    async def hash(self, describe: Describe) -> int:
        """Of everything that is applied now, as an etcd has it stored. See `Backend.start_hash`."""
        async with self._alone(self.hash_seconds):
            await self.settle()
            self._check_open()
            return await self._job(self._backend.start_hash(describe))

    async def hash_kv(self, revision: int) -> tuple[int, int, int]:
        """(hash, compact revision, hash revision) of `revision`, 0 = the present one; read from LMDB on its bulk thread."""
        async with self._alone(self.hash_kv_seconds):
            at = await self._settled_revision(revision)
            self._hashing = True
            try:
                plan = HashPlan(self._store, at)
                while not plan.step(HASH_STEP_KEYS):
                    await asyncio.sleep(0)
                self._check_open()
                await self._job(self._backend.start_scan(0, max(at, 0), plan.job()))
            finally:
                self._hashing = False
                if self._scrubbing:
                    self._schedule_scrub()
            return plan.crc, plan.compact_revision, at

    async def _settled_revision(self, revision: int) -> int:
        """`revision`, or the present one for 0, once LMDB holds all of it. Raises StatusError when there is no such revision (now)."""
        store = self._store
        while True:
            at = revision or store.revision
            if at > store.revision:
                raise status_of(EtcdError.FUTURE_REVISION)
            await self.settle()
            if at >= store.compact_revision or at < 0:
                return at
            if revision:
                raise status_of(EtcdError.COMPACTED)

    async def copy(self, path: str) -> None:
        """A compacting copy of everything that is applied now, in the new directory `path`. Raises StatusError."""
        async with self._alone(self.copy_seconds):
            await self.settle()
            self._check_open()
            await self._job(self._backend.start_copy(path))

    async def export(self, descriptor: int, describe: Describe) -> int:
        """Everything that is applied now as a bbolt file into `descriptor`; its size. See `Backend.start_export`. Raises StatusError."""
        async with self._alone(self.export_seconds):
            await self.settle()
            self._check_open()
            number = self._backend.start_export(descriptor, describe, limits.SNAPSHOT_SPACE_RESERVE_BYTES)
            try:
                return await self._job(number)
            except asyncio.CancelledError:
                self._backend.cancel_export(number)
                raise

    @property
    def open_reads(self) -> int:
        """LMDB's read transactions: the loop's own, and one of each job on the bulk thread."""
        return 1 + len(self._jobs)

    @property
    def defragmenting(self) -> bool:
        return self._paused

    async def defragment(self) -> None:
        """Rewrites the database while reads and writes go on; they stay pending until the copy has taken its place."""
        async with self._alone(self.defragment_seconds):
            await self.settle()
            while self._in_flight or self._jobs:
                self._check_open()
                await asyncio.sleep(0.01)  # a commit that slipped in, or a hash; both end by themselves
            self._check_open()
            self._paused = True
            try:
                job = self._job(self._directory.start_defragment(self._backend))
                try:
                    await job
                except BaseException:
                    self._directory.discard_copy()
                    raise
                old = self._directory.finish_defragment(self._backend)
                self._backend.measure_now()
                self._unmeasured_bytes = 0
            except FatalError:
                raise  # stays paused: which of two databases the next start takes is open, so neither may change
            except BaseException as error:
                self._resume()
                if isinstance(error, NoSpaceError):
                    raise StatusError(GrpcCode.RESOURCE_EXHAUSTED, str(error)) from error
                raise
            self._resume()
            if (removal := remove_later(old)) is not None:
                await removal  # whoever asked finds the space given back

    def _resume(self) -> None:
        self._paused = False
        self._rewire()
        self._arm()

    def _rewire(self) -> None:
        """The backend keeps its descriptors over a swap; adding them again is harmless, and right if it did not."""
        if not self._closed:
            self._loop.add_reader(self._backend.fd, self._on_commit_event)
            self._loop.add_reader(self._backend.bulk_fd, self._on_bulk_event)

    # -- stop

    def close(self, *, commit: bool) -> None:
        """Leaves the loop; with `commit` all that is applied goes to LMDB first. Blocks. Raises FatalError."""
        self._closed = True
        for timer in (self._timer, self._scrub_timer):
            if timer is not None:
                timer.cancel()
        self._loop.remove_reader(self._backend.fd)
        self._loop.remove_reader(self._backend.bulk_fd)
        if commit and not self._paused and self._drained() and self._dirty():
            self._commit()
            self._drained()
        for waiter in [*self._scrub_waiters, *self._commit_waiters]:
            _fail(waiter)
        for job in self._jobs.values():
            _fail(job)
        self._jobs.clear()

    def _drained(self) -> bool:
        """The running commit has ended; False if it is stuck on a full disk: the log still holds what it would have written."""
        if self._in_flight:
            self._backend.wait(WAIT_MS)
            return self._end()
        return True


def _fail(future: "asyncio.Future[None] | asyncio.Future[int]") -> None:
    if not future.done():
        future.set_exception(status_of(EtcdError.STOPPED))


def _finish(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
