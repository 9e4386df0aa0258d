"""What both ends of a stream share around the protocol: lines about progress, and patience that ends.

Must not know: what is sent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from raftsched import limits
from raftsched.ports import Log as LogPort
from raftsched.store.snapshot.stream import Offer, StreamError

T = TypeVar("T")


class Report:
    """One line at the beginning, one each few seconds, one at the end."""

    def __init__(self, log: LogPort, mono_ns: Callable[[], int], what: str, member_id: int, offer: Offer) -> None:
        self._log = log
        self._mono_ns = mono_ns
        self._what = what
        self._member = f"{member_id:x}"
        self._offer = offer
        self._began_ns = mono_ns()
        self._next_ns = self._began_ns + limits.SNAPSHOT_PROGRESS_MS * 1_000_000
        log.info(what, member=self._member, index=offer.index, bytes=offer.size_bytes)

    def at(self, offset_bytes: int) -> None:
        now_ns = self._mono_ns()
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + limits.SNAPSHOT_PROGRESS_MS * 1_000_000
            percent = offset_bytes * 100 // self._offer.size_bytes
            self._log.info(self._what, member=self._member, percent=percent, bytes=offset_bytes, of=self._offer.size_bytes)

    def end(self) -> None:
        seconds = round((self._mono_ns() - self._began_ns) / 1e9, 3)
        self._log.info(f"{self._what}: done", member=self._member, index=self._offer.index, bytes=self._offer.size_bytes, seconds=seconds)


async def within(stall_ms: int, awaitable: Awaitable[T]) -> T:
    """Raises StreamError after that time."""
    try:
        async with asyncio.timeout(stall_ms / 1000):  # `wait_for` would swallow a cancellation that comes together with the result
            return await awaitable
    except TimeoutError as error:
        raise StreamError(f"no progress for {stall_ms} ms") from error


async def undisturbed(work: Coroutine[Any, Any, T]) -> T:
    """Waits for a worker thread's end also when cancelled: it must not write into what comes after."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
