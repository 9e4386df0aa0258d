"""Copies of the own database for members that are behind, and sending one.

A copy is made by LMDB on the bulk thread once everything applied is durable; index, term and members are read from the copy itself. One
copy serves several members and those who come again to go on where their stream stopped; it goes when nobody has wanted it for a while, and
at every start (`DataDirectory.tidy`).

Invariant: a copy that is being sent is not changed and not removed. No read transaction lives longer than the making of the copy.
Must not know: Raft's rules; who is behind.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from raftsched import limits
from raftsched.errors import FatalError, NoSpaceError
from raftsched.ports import Log as LogPort
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.backend.removal import remove_later
from raftsched.store.snapshot.install import DATA_NAME, Stored, read_stored
from raftsched.store.snapshot.progress import Report, within
from raftsched.store.snapshot.stream import Offer, Pace, Sending
from raftsched.store.transport.ports import BulkStream

HASH_STEP_BYTES = 1 << 20
LOCK_NAME = "lock.mdb"


class Copy:
    """One copy on disk. `users`: streams that read it."""

    def __init__(self, path: Path, stored: Stored, offer: Offer) -> None:
        self.path = path
        self.stored = stored
        self.offer = offer
        self.users = 0
        self.idle_since_ms = 0
        self.idle_ms_max = limits.SNAPSHOT_COPY_IDLE_MS

    @property
    def index(self) -> int:
        return self.stored.index


class Outgoing:
    """Makes copies, shares them, removes them."""

    def __init__(
        self,
        directory: DataDirectory,
        *,
        make: Callable[[str], Awaitable[None]],
        in_use_bytes: Callable[[], int],
        mono_ms: Callable[[], int],
        log: LogPort,
    ) -> None:
        """`make(path)`: a compacting copy into the new directory `path`, with everything that is applied (`Flusher.copy`)."""
        self._directory = directory
        self._make = make
        self._in_use_bytes = in_use_bytes
        self._mono_ms = mono_ms
        self._log = log
        self._copies: list[Copy] = []  # the newest last
        self._lock = asyncio.Lock()
        self.copies_total = 0

    async def acquire(self, oldest_index: int) -> Copy:
        """A copy from which the log goes on: entry `oldest_index` is the oldest that the log holds. To be given back by `release`.

        Raises NoSpaceError, FatalError, and what `make` raises.
        """
        async with self._lock:
            copy = self._copies[-1] if self._copies else None
            if copy is None or copy.index + 1 < oldest_index:
                copy = await self._new()
                self._copies.append(copy)
            copy.users += 1
            return copy

    def release(self, copy: Copy, *, wanted: bool = False) -> None:
        """`wanted`: a member has not got all of it yet, and may come again (it keeps its part as long)."""
        copy.users -= 1
        copy.idle_ms_max = limits.SNAPSHOT_PARTIAL_IDLE_MS if wanted else limits.SNAPSHOT_COPY_IDLE_MS
        copy.idle_since_ms = self._mono_ms()

    def tick(self, mono_ms: int) -> None:
        """Now and then: removes what nobody wants any more; at once if there is a newer one."""
        for copy in self._copies[:]:
            newest = copy is self._copies[-1]
            if copy.users == 0 and (not newest or mono_ms - copy.idle_since_ms >= copy.idle_ms_max):
                self._copies.remove(copy)
                remove_later(copy.path)

    def close(self) -> None:
        """Removes all. No stream may run any more."""
        for copy in self._copies:
            shutil.rmtree(copy.path, ignore_errors=True)
        self._copies.clear()

    async def _new(self) -> Copy:
        began_ms = self._mono_ms()
        self._check_room()
        unnamed = self._directory.snap_path / "outgoing.new.db"
        shutil.rmtree(unnamed, ignore_errors=True)
        try:
            await self._make(str(unnamed))
            stored, offer = await asyncio.to_thread(_describe, unnamed)
            path = self._directory.outgoing_path(stored.index)
            shutil.rmtree(path, ignore_errors=True)
            unnamed.rename(path)
        except OSError as error:
            shutil.rmtree(unnamed, ignore_errors=True)
            raise FatalError(f"cannot make a copy in {unnamed}: {error.strerror}") from error
        except BaseException:
            shutil.rmtree(unnamed, ignore_errors=True)
            raise
        self.copies_total += 1
        self._log.info(
            "database copied for a member that is behind", index=stored.index, bytes=offer.size_bytes, ms=self._mono_ms() - began_ms
        )
        return Copy(path, stored, offer)

    def _check_room(self) -> None:
        info = os.statvfs(self._directory.snap_path)
        free, needed = info.f_bavail * info.f_frsize, self._in_use_bytes() + limits.SNAPSHOT_SPACE_RESERVE_BYTES
        if free < needed:
            raise NoSpaceError(f"a copy for a member that is behind needs {needed} bytes in {self._directory.snap_path}, {free} are free")


def _describe(path: Path) -> tuple[Stored, Offer]:
    """Reads all of it once. Raises OSError, FatalError."""
    stored = read_stored(path)
    (path / LOCK_NAME).unlink(missing_ok=True)
    digest = hashlib.sha256()
    with open(path / DATA_NAME, "rb", buffering=0) as file:
        while block := file.read(HASH_STEP_BYTES):
            digest.update(block)
        size_bytes = file.tell()
    return stored, Offer(stored.index, stored.term, size_bytes, digest.digest())


async def send(
    stream: BulkStream,
    copy: Copy,
    *,
    pace: Pace,
    mono_ns: Callable[[], int],
    log: LogPort,
    on_sent: Callable[[int], None] = lambda _bytes: None,
    stall_ms: int = limits.SNAPSHOT_STALL_MS,
) -> None:
    """Sends one copy; done when the other side has all of it, synced. Cancel it to give up. `on_sent(bytes)` after each chunk.

    Raises StreamError (RefusedError: it is not wanted), PeerError of the transport, OSError.
    """
    state = Sending(copy.offer)
    report = Report(log, mono_ns, "sending a snapshot", stream.member_id, copy.offer)
    with open(copy.path / DATA_NAME, "rb", buffering=0) as file:
        await within(stall_ms, stream.send(copy.offer.encode()))
        while not state.done:
            place = state.next_chunk()
            if place is None:
                state.on_message(await within(stall_ms, stream.receive()))
                continue
            wait_ns = pace.wait_ns(place[1], mono_ns())
            if wait_ns > 0:
                await asyncio.sleep(wait_ns / 1e9)
            data = await asyncio.to_thread(os.pread, file.fileno(), place[1], place[0])
            await within(stall_ms, stream.send(state.chunk(data)))
            on_sent(len(data))
            report.at(place[0] + len(data))
    report.end()
