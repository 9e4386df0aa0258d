"""Receiving a database: into `db.<n>.incoming`, checked, synced, ready to be installed.

What an interrupted stream has brought is kept, so that a stream of the same offer goes on behind it, also in the next life of this member:
then from what was synced last, once it has been read and is what was written (`part.py`).

Invariant: nothing but a whole database, whose hash is that of the offer and which has been read once, is returned. One at a time.
Must not know: Raft's rules; what installing means.
"""

import asyncio
import os
from collections.abc import Callable
from functools import partial as bind
from pathlib import Path

from raftsched import limits
from raftsched.errors import FatalError, NoSpaceError, PeerError
from raftsched.ports import Log as LogPort
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.backend.removal import remove_later
from raftsched.store.snapshot import install, part
from raftsched.store.snapshot.install import Stored
from raftsched.store.snapshot.progress import Report, undisturbed, within
from raftsched.store.snapshot.stream import Offer, Partial, Receiving, RefusedError, StreamError, refusal
from raftsched.store.transport.ports import BulkStream
from raftsched.store.wal.disk import private


class Incoming:
    """The place where a snapshot arrives. Owned by the loop thread; writes and hashes run on a worker thread."""

    def __init__(self, directory: DataDirectory, *, is_wanted: Callable[[Offer], str], mono_ns: Callable[[], int], log: LogPort) -> None:
        """`is_wanted(offer)`: "" or why not (this member has that index already)."""
        self._directory = directory
        self._is_wanted = is_wanted
        self._mono_ns = mono_ns
        self._log = log
        self._partial: Partial | None = None
        self._kept = part.read(directory.incoming_path)
        """Of an earlier life; not looked at yet."""
        self._file = directory.incoming_path / install.DATA_NAME
        self._unsynced_bytes = 0
        self._receiving = False
        self._complete = False
        self._idle_since_ms = mono_ns() // 1_000_000
        self.received_bytes_total = 0

    async def receive(self, stream: BulkStream, *, stall_ms: int = limits.SNAPSHOT_STALL_MS) -> Stored:
        """All of one stream; the database is in `DataDirectory.incoming_path`, for `install.install`.

        Raises RefusedError (this side does not want it, or cannot take it; the other side was told), StreamError, PeerError.
        """
        if self._receiving:
            raise await _refuse(stream, "another snapshot is being received")
        if self._complete:
            raise await _refuse(stream, "a snapshot is being installed")
        self._receiving = True
        try:
            return await self._receive(stream, stall_ms)
        finally:
            self._receiving = False
            self._idle_since_ms = self._mono_ns() // 1_000_000

    async def _receive(self, stream: BulkStream, stall_ms: int) -> Stored:
        state = Receiving()
        offer = state.on_offer(await within(stall_ms, stream.receive()))
        if reason := self._is_wanted(offer):
            raise await _refuse(stream, reason)
        try:
            partial = await self._place(offer)
        except (NoSpaceError, FatalError) as error:
            raise await _refuse(stream, str(error)) from error
        report = Report(self._log, self._mono_ns, "receiving a snapshot", stream.member_id, offer)
        await within(stall_ms, stream.send(state.begin(partial)))
        while not partial.complete:
            data = state.on_chunk(await within(stall_ms, stream.receive()))
            await self._write(stream, partial, data)
            report.at(partial.offset_bytes)
            if answer := state.written():
                await within(stall_ms, stream.send(answer))
        stored = await self._finish(stream, partial)
        report.end()
        try:
            await within(stall_ms, stream.send(state.done()))
        except (StreamError, PeerError) as error:  # the sender finds out by probing
            self._log.info("the sender could not be told that its snapshot is complete", reason=str(error))
        return stored

    async def _place(self, offer: Offer) -> Partial:
        """What there is of this offer already, or an empty place."""
        if self._kept is not None and self._kept.offer == offer:
            self._partial = await undisturbed(asyncio.to_thread(part.verified, self._kept, self._file))
            if self._partial is None:
                self._log.warning("what was kept of a snapshot is damaged", index=offer.index)
        self._kept = None
        if self._partial is None or self._partial.offer != offer:
            self._forget()
            prepare = bind(install.prepare, self._directory, offer.size_bytes, reserve_bytes=limits.SNAPSHOT_SPACE_RESERVE_BYTES)
            self._file = await undisturbed(asyncio.to_thread(prepare))
            self._partial = Partial(offer)
            self._unsynced_bytes = 0
        elif self._partial.offset_bytes:
            self._log.info("a snapshot goes on where it stopped", index=offer.index, bytes=self._partial.offset_bytes)
        return self._partial

    async def _write(self, stream: BulkStream, partial: Partial, data: bytes) -> None:
        self._unsynced_bytes += len(data)
        sync = self._unsynced_bytes >= limits.SNAPSHOT_SYNC_BYTES
        if sync:
            self._unsynced_bytes = 0
        try:
            await undisturbed(asyncio.to_thread(_write, self._file, partial, data, sync))
        except OSError as error:  # nothing that counts is lost: another stream begins anew
            self._forget()
            raise await _refuse(stream, f"cannot write {self._file}: {error.strerror}") from error
        self.received_bytes_total += len(data)

    async def _finish(self, stream: BulkStream, partial: Partial) -> Stored:
        """The whole, read once and synced."""
        offer = partial.offer
        if not partial.intact:
            self._forget()
            raise await _refuse(stream, f"the snapshot at {offer.index} is not what was offered: its hash differs")
        try:
            stored = await undisturbed(asyncio.to_thread(install.secure, self._directory))
            await undisturbed(asyncio.to_thread(part.write, self._directory.incoming_path, partial))
        except (FatalError, OSError) as error:  # CorruptError is one
            self._forget()
            raise await _refuse(stream, str(error)) from error
        if (stored.index, stored.term) != (offer.index, offer.term):
            self._forget()
            raise await _refuse(stream, f"the snapshot is of entry {stored.index}, {offer.index} was offered")
        self._partial, self._complete = None, True  # it belongs to the installation now
        return stored

    def tick(self, mono_ms: int) -> None:
        """Now and then: a part that nobody goes on with takes no space for ever."""
        if (self._partial or self._kept) and not self._receiving and mono_ms - self._idle_since_ms >= limits.SNAPSHOT_PARTIAL_IDLE_MS:
            self._log.info("an interrupted snapshot was discarded", path=str(self._file.parent))
            self._forget()

    def _forget(self) -> None:
        if self._partial is not None or self._kept is not None:
            self._partial = self._kept = None
            remove_later(self._directory.incoming_path)


def _write(path: Path, partial: Partial, data: bytes, sync: bool) -> None:
    with open(path, "r+b" if partial.offset_bytes else "wb", buffering=0, opener=private) as file:
        rest, at = memoryview(data), partial.offset_bytes
        while rest:
            count = os.pwrite(file.fileno(), rest, at)
            rest, at = rest[count:], at + count
        if sync:
            os.fdatasync(file.fileno())
    partial.took(data)
    if sync:
        part.write(path.parent, partial)


async def _refuse(stream: BulkStream, reason: str) -> RefusedError:
    await within(limits.SNAPSHOT_STALL_MS, stream.send(refusal(reason)))
    return RefusedError(reason)
