"""Members that are behind, served by the leader: from the segments of the log, or, if those begin later, by a snapshot.

The kernel asks (`Output.catch_ups`) when a member needs entries that memory does not hold any more. One task per member reads chunks on
a worker thread, hands them to the kernel (`supply`) within a window, and goes on as acknowledgements come, until memory holds what
follows; then the kernel goes on by itself. Who is older than the oldest segment gets a copy of the database over a stream of its own, then
the segments behind it.

Invariant: only applied entries are supplied; the segments and the copy that a task needs stay until it ends; every task ends with
leadership or term, and when nothing moves for a bound.
Must not know: Raft's rules, frames, what an entry means.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from raftsched import limits
from raftsched.errors import FatalError, NoSpaceError, PeerError, StatusError
from raftsched.ports import Log as LogPort
from raftsched.store.node.holding import Holding
from raftsched.store.node.streams import StreamFigures
from raftsched.store.raft._kernel import Run
from raftsched.store.snapshot.outgoing import Copy, Outgoing, send
from raftsched.store.snapshot.stream import Pace, RefusedError, StreamError
from raftsched.store.transport.ports import SNAPSHOT, BulkStream
from raftsched.store.wal.disk import Disk
from raftsched.store.wal.log import Log
from raftsched.store.wal.reader import SegmentCursor, TooOldError

LEADER = 3
IN_CATCH_UP = 2  # the kernel's state of a member's progress
ATTEMPTS = 5  # streams for one snapshot; each goes on where the last one stopped
RETRY_MS = 500

SENT = "raftsched_snapshot_sent_bytes_total"
COPIES = "raftsched_snapshot_copies_total"
BEHIND = "raftsched_catch_up_members"
ENTRIES = "raftsched_catch_up_entries_total"
BYTES = "raftsched_catch_up_bytes_total"
COUNTERS = (SENT, ENTRIES, BYTES)


class Kernel(Protocol):
    """What is used of `raft._kernel.Kernel`."""

    @property
    def state(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def applied(self) -> int: ...
    def matches(self) -> dict[int, tuple[int, int, int, bool]]: ...
    def supply(self, member: int, runs: list[Run], *, prev_term: int) -> bool: ...
    def probe(self, member: int) -> None: ...


class _Ended(Exception):
    """There is nothing to do for this member any more."""


class _Silent(Exception):
    """The member has not been heard for a while: nothing is sent and nothing is kept for it until it is."""


class _Job:
    """One member that is being served."""

    def __init__(self, member: int, next_index: int, term: int) -> None:
        self.member = member
        self.next_index = next_index
        self.connection = 0  # on which it is supplied
        self.term = term
        self.moved = asyncio.Event()
        self.asked_again = False
        self.streams = False
        self.task: asyncio.Task[None]


class CatchUp:
    """Owned by the loop thread."""

    def __init__(
        self,
        kernel: Kernel,
        log: Log,
        outgoing: Outgoing,
        *,
        open_bulk: Callable[[int, int], Awaitable[BulkStream]],
        connection: Callable[[int], int],
        wake: Callable[[], None],
        mono_ns: Callable[[], int],
        lines: LogPort,
        bytes_per_s: int = limits.SNAPSHOT_BYTES_PER_S,
        stall_ms: int = limits.CATCH_UP_STALL_MS,
        retry_ms: int = RETRY_MS,
        entries_max: int | None = None,
    ) -> None:
        """`open_bulk(member, purpose)`, `connection(member)`: those of `Peers`; `wake()`: the kernel has something for its next `ready`;
        `lines`: log lines; `entries_max`: a member that is further behind gets a snapshot, whatever the log holds."""
        self._kernel = kernel
        self._log = log
        self._disk: Disk = log.disk
        self._outgoing = outgoing
        self._holding = Holding(log)
        self._open_bulk = open_bulk
        self._connection = connection
        self._wake = wake
        self._mono_ns = mono_ns
        self._lines = lines
        self._pace = Pace(bytes_per_s)
        self._stall_ms = stall_ms
        self._retry_ms = retry_ms
        self._entries_max = entries_max
        self._streams = asyncio.Semaphore(limits.SNAPSHOT_STREAMS_MAX)
        self._jobs: dict[int, _Job] = {}
        self._closed = False
        self._counts = dict.fromkeys(COUNTERS, 0.0)
        self.streams = StreamFigures("send", mono_ns)

    # -- what the driver calls

    def ask(self, member: int, next_index: int) -> None:
        """From `Output.catch_ups`."""
        if self._closed:
            return
        job = self._jobs.get(member)
        if job is not None and job.term == self._kernel.term and not job.task.done():
            if not job.streams:  # it did not hold what was supplied
                job.next_index, job.asked_again = next_index, True
                job.moved.set()
            return
        if job is not None:
            job.task.cancel()
        job = self._jobs[member] = _Job(member, next_index, self._kernel.term)
        job.task = asyncio.get_running_loop().create_task(self._run(job))

    def on_turn(self) -> None:
        """After each turn: members may have acknowledged, or leadership may be lost. Costs nothing while nobody is behind."""
        for job in self._jobs.values():
            if self._leads(job):
                job.moved.set()
            else:
                job.task.cancel()

    def tick(self, mono_ms: int) -> None:
        """Now and then."""
        self._outgoing.tick(mono_ms)
        self._holding.look(self._kernel.matches() if self._kernel.state == LEADER else {}, mono_ms)

    async def close(self) -> None:
        """Ends everything and removes the copies."""
        self._closed = True
        tasks = [job.task for job in self._jobs.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._holding.close()
        self._outgoing.close()

    def counters(self) -> Mapping[str, float]:
        """By metric name."""
        return {**self._counts, BEHIND: len(self._jobs), COPIES: self._outgoing.copies_total}

    # -- one member

    def _leads(self, job: _Job) -> bool:
        return self._kernel.state == LEADER and self._kernel.term == job.term

    def _match(self, job: _Job) -> int:
        """How far it is. Raises _Ended when it needs nothing from here any more."""
        if not self._leads(job):
            raise _Ended
        found = self._kernel.matches().get(job.member)
        if found is None or found[2] != IN_CATCH_UP:
            raise _Ended
        return found[0]

    async def _run(self, job: _Job) -> None:
        name = f"{job.member:x}"
        self._lines.info("a member is behind", member=name, next=job.next_index, applied=self._kernel.applied)
        try:
            try:
                self._look_how_far(job)
                await self._supply(job)
            except TooOldError as error:
                await self._send_snapshot(job, error.oldest_index)
        except _Ended:
            if self._leads(job):
                self._lines.info("a member has caught up", member=name)
        except (StreamError, PeerError, StatusError, NoSpaceError, FatalError, OSError) as error:
            self._lines.warning("a member that is behind could not be served", member=name, reason=str(error))
            await asyncio.sleep(self._retry_ms / 1000)  # what stands in the way may stand there for long
        finally:
            if self._jobs.get(job.member) is job:
                del self._jobs[job.member]
            if self._leads(job) and not self._closed:
                # Nothing, if it is not in catch-up any more. A member that was sent a whole snapshot may be killed, or run out of space,
                # before it is in place: it is asked.
                self._kernel.probe(job.member)
                self._wake()

    def _look_how_far(self, job: _Job) -> None:
        """Raises TooOldError."""
        if self._entries_max is not None and job.next_index < (wanted := self._kernel.applied - self._entries_max):
            raise TooOldError(job.next_index, wanted)

    # -- from segments

    async def _supply(self, job: _Job) -> None:
        """Until memory holds what follows. Raises _Ended, TooOldError, StreamError when nothing moves, CorruptError."""
        while True:
            await self._heard(job)
            hold = self._log.hold(max(job.next_index - 1, 1))
            try:
                await self._supply_heard(job, hold)
            except _Silent:
                self._lines.info("a member that is behind is silent", member=f"{job.member:x}")
                job.next_index = self._match(job) + 1
            finally:
                self._log.unhold(hold)

    async def _heard(self, job: _Job) -> None:
        while not self._is_heard(job):
            job.moved.clear()
            await job.moved.wait()

    def _is_heard(self, job: _Job) -> bool:
        self._match(job)
        return self._kernel.matches()[job.member][3] and bool(self._connection(job.member))

    async def _supply_heard(self, job: _Job, hold: int) -> None:
        cursor = SegmentCursor(self._disk, job.next_index)
        under_way: deque[tuple[int, int]] = deque()  # (last index, bytes)
        match, stalls, job.connection = self._match(job), 0, self._connection(job.member)
        while True:
            self._look_whether_lost(job)
            if job.asked_again:
                job.asked_again = False
                cursor, under_way = SegmentCursor(self._disk, job.next_index), deque()
                self._log.move_hold(hold, max(job.next_index - 1, 1))
            await self._fill(job, cursor, under_way)
            moved = await self._acknowledged(job, match)
            match = self._match(job)
            if moved:
                stalls = 0
                self._log.move_hold(hold, max(match, 1))
                while under_way and under_way[0][0] <= match:
                    under_way.popleft()
                continue
            if not self._is_heard(job):
                raise _Silent
            if stalls:
                raise StreamError(f"nothing was acknowledged for {2 * self._stall_ms} ms")
            stalls, job.next_index, job.asked_again = 1, match + 1, True  # what is lost nobody repeats

    async def _fill(self, job: _Job, cursor: SegmentCursor, under_way: deque[tuple[int, int]]) -> None:
        """Supplies what the window takes."""
        while sum(size for _, size in under_way) < limits.CATCH_UP_WINDOW_BYTES and not job.asked_again:
            chunk = await asyncio.to_thread(
                cursor.read,
                to_index=self._kernel.applied,
                entries_max=limits.CATCH_UP_CHUNK_ENTRIES,
                bytes_max=limits.CATCH_UP_CHUNK_BYTES,
            )
            if chunk is None:
                return
            self._match(job)
            if not self._kernel.supply(job.member, chunk.runs, prev_term=chunk.previous_term):
                raise _Ended
            self._wake()
            size = sum(len(data) for _, _, _, datas in chunk.runs for data in datas)
            under_way.append((chunk.last_index, size))
            self._counts[ENTRIES] += chunk.last_index - chunk.first_index + 1
            self._counts[BYTES] += size

    async def _acknowledged(self, job: _Job, match: int) -> bool:
        """Waits until the member is further than `match`, asks anew, or comes back after a silence; False = nothing within the bound."""
        stop_ns = self._mono_ns() + self._stall_ms * 1_000_000
        silent = False
        while self._match(job) <= match and not job.asked_again:
            self._look_whether_lost(job)
            if job.asked_again:
                break
            if silent and self._is_heard(job):  # cut off: what was under way then is lost
                job.next_index, job.asked_again = match + 1, True
                break
            silent = silent or not self._is_heard(job)
            left_ns = stop_ns - self._mono_ns()
            if left_ns <= 0:
                return False
            job.moved.clear()
            try:
                async with asyncio.timeout(left_ns / 1e9):
                    await job.moved.wait()
            except TimeoutError:
                return False
        return True

    def _look_whether_lost(self, job: _Job) -> None:
        """The member was killed, or the connection broke: what was under way is lost, however soon there is another one. Whoever is back
        before it is missed, and has acknowledged nothing, would wait for the bound."""
        connection = self._connection(job.member)
        if connection not in (0, job.connection):
            job.connection, job.next_index, job.asked_again = connection, self._match(job) + 1, True

    # -- by a snapshot

    async def _send_snapshot(self, job: _Job, oldest_index: int) -> None:
        """Until the member has all of it; whether it has put it in place it tells the kernel itself. Raises _Ended and what ends the last
        attempt."""
        job.streams = True
        hold = self._log.hold(max(self._kernel.applied, 1))
        try:
            async with self._streams:
                self._match(job)
                # the entry of the copy's own index must be there too: its term leads to the next one
                copy = await self._outgoing.acquire(oldest_index + 1)
                sent = False
                try:
                    self._log.move_hold(hold, copy.index)
                    await self._attempts(job, copy)
                    sent = True
                finally:
                    self._outgoing.release(copy, wanted=not sent)
        except BaseException:
            self._log.unhold(hold)
            raise
        self._holding.keep(job.member, hold, copy.index, self._mono_ns() // 1_000_000)

    async def _attempts(self, job: _Job, copy: Copy) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            self._match(job)
            try:
                with self.streams.counted(job.member):
                    await self._stream(job, copy)
            except (StreamError, PeerError) as error:
                if attempt == ATTEMPTS or isinstance(error, RefusedError):
                    raise
                self._lines.info("a snapshot was interrupted", member=f"{job.member:x}", attempt=attempt, reason=str(error))
            else:
                return
            await asyncio.sleep(self._retry_ms / 1000)

    async def _stream(self, job: _Job, copy: Copy) -> None:
        stream = await self._open_bulk(job.member, SNAPSHOT)
        try:
            await send(stream, copy, pace=self._pace, mono_ns=self._mono_ns, log=self._lines, on_sent=self._count_sent)
        except BaseException:
            stream.abort()
            raise
        stream.close()

    def _count_sent(self, size_bytes: int) -> None:
        self._counts[SENT] += size_bytes
