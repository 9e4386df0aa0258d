"""Both ends of a bulk stream in memory: the contract of `store.transport.ports.BulkStream` for tests, with faults.

Invariant: what one `send` sent one `receive` gets, in order; room for ROOM messages, then `send` waits.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from raftsched.errors import PeerCode, PeerError
from raftsched.store.transport.ports import SNAPSHOT

ROOM = 4
Fault = Callable[[int, bytes], bytes | None]
"""`fault(number, data)`: what arrives instead of the message; None = the stream breaks here."""


class MemoryStream:
    """One end."""

    def __init__(self, member_id: int, purpose: int = SNAPSHOT) -> None:
        self.member_id = member_id
        self.purpose = purpose
        self.sent_bytes = 0
        self.fault: Fault = lambda _number, data: data
        self.other: MemoryStream
        self._sent = 0
        self._arrived: deque[bytes] = deque()
        self._lost = self._ended = self._closed = False
        self._change = asyncio.Event()

    async def send(self, data: bytes) -> None:
        if not data or self._closed:
            raise ValueError("nothing to send, or closed")
        arrives = self.fault(self._sent, data)
        self._sent += 1
        if arrives is None:
            self.abort()
        while len(self.other._arrived) >= ROOM and not self._lost:
            await self._wait()
        if self._lost or arrives is None:
            raise PeerError(PeerCode.LOST, "the connection broke")
        self.other._arrived.append(arrives)
        self.other._change.set()
        self.sent_bytes += len(data)

    async def receive(self) -> bytes:
        while not self._arrived and not self._ended and not self._lost:
            await self._wait()
        if self._lost:
            raise PeerError(PeerCode.LOST, "the connection broke")
        data = self._arrived.popleft() if self._arrived else b""
        self.other._change.set()
        return data

    async def _wait(self) -> None:
        self._change.clear()
        await self._change.wait()

    def close(self) -> None:
        """What was sent still arrives."""
        self._closed = self.other._ended = True
        self.other._change.set()

    def abort(self) -> None:
        for end in (self, self.other):
            end._lost = True
            end._change.set()


def pair(first: int = 1, second: int = 2) -> tuple[MemoryStream, MemoryStream]:
    """(the end of member `first`, the end of member `second`); each names the other."""
    one, other = MemoryStream(second), MemoryStream(first)
    one.other, other.other = other, one
    return one, other
