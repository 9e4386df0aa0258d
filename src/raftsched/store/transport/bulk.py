"""Bulk streams: a TCP connection each, DATA frames and an END, with the flow control of TCP.

Invariant: `receive` answers b"" only after the other side's END; a connection that breaks is an error, never an end.
"""

import asyncio
from collections.abc import Coroutine
from typing import Final, TypeVar

from raftsched.errors import PeerCode, PeerError
from raftsched.limits import PEER_BULK_CHUNK_BYTES_MAX, PEER_BULK_IDLE_TIMEOUT_MS, PEER_LINGER_MS
from raftsched.store.transport._frames import WireError, frame
from raftsched.store.transport.connection import Connection, words
from raftsched.store.transport.handshake import DATA, END
from raftsched.store.transport.report import PeerStats

Answer = TypeVar("Answer")
_IDLE_S: Final = PEER_BULK_IDLE_TIMEOUT_MS / 1000


class PeerBulkStream:
    """`ports.BulkStream` over one connection that shook hands."""

    def __init__(self, connection: Connection, *, purpose: int, member_id: int, stats: PeerStats) -> None:
        self.purpose = purpose
        self.member_id = member_id
        self.done = asyncio.get_running_loop().create_future()
        """When nothing of it is left."""
        self._connection = connection
        self._stats = stats
        self._closed = self._ended = False
        self._lingering: asyncio.Task[None] | None = None
        connection.allow(payload_bytes_max=PEER_BULK_CHUNK_BYTES_MAX)
        connection.on_read = self._count

    def _count(self, count: int) -> None:
        self._stats.received_bytes += count

    async def send(self, data: bytes) -> None:
        if not 0 < len(data) <= PEER_BULK_CHUNK_BYTES_MAX:
            raise ValueError(f"1 to {PEER_BULK_CHUNK_BYTES_MAX} bytes at a time")
        await self._within(self._send(frame(DATA, data)))

    async def _send(self, data: bytes) -> None:
        await self._connection.room()
        self._stats.sent_bytes += len(data)
        self._connection.write(data)

    async def receive(self) -> bytes:
        return b"" if self._ended else await self._within(self._receive())

    async def _receive(self) -> bytes:
        item = await self._connection.receive()
        if isinstance(item, tuple) and item[0] == DATA and item[1]:
            return item[1]
        if isinstance(item, tuple) and item[0] == END:
            self._ended = True
            return b""
        raise WireError("a frame out of order")

    async def _within(self, work: Coroutine[object, object, Answer]) -> Answer:
        """With the errors of the port; after one of them the stream is of no use."""
        if self._closed:
            work.close()
            raise PeerError(PeerCode.LOST, "the stream is closed")
        try:
            async with asyncio.timeout(_IDLE_S):
                return await work
        except TimeoutError:
            self.abort()
            raise PeerError(PeerCode.TIMEOUT, "the other side of a bulk stream stands still") from None
        except (OSError, WireError) as error:
            self.abort()
            raise PeerError(PeerCode.LOST, f"a bulk stream broke: {words(error)}") from None

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._connection.write(frame(END, b""))
            self._lingering = asyncio.get_running_loop().create_task(self._linger())

    async def _linger(self) -> None:
        """Closing a socket with unread bytes throws away what the other side has not read yet: so read on to its end."""
        try:
            async with asyncio.timeout(PEER_LINGER_MS / 1000):
                while not self._ended:
                    await self._receive()
            self._connection.close()
        except (OSError, WireError) as error:  # TimeoutError is an OSError
            self._connection.end(words(error))
        finally:
            self._finish()

    def abort(self) -> None:
        self._closed = True
        if self._lingering is not None:
            self._lingering.cancel()
        self._connection.end("aborted")
        self._finish()

    def _finish(self) -> None:
        """Whoever does not read what is left to be written has as long again."""
        asyncio.get_running_loop().call_later(PEER_LINGER_MS / 1000, self._connection.end, "closed")
        if not self.done.done():
            self.done.set_result(None)
