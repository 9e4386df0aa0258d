"""Space that is given back while others are served, as a Dapr Scheduler does it: every ten minutes, if half of the file is free.

Must not know: how a file is made smaller; the pump.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from raftsched.errors import StatusError
from raftsched.ports import Log

INTERVAL_S: Final = 600.0
RETRY_S: Final = 5.0
SIZE_RATIO: Final = 2  # of the file to what is in use


class Sizes(Protocol):
    """What is asked of a store's status."""

    @property
    def db_size(self) -> int: ...
    @property
    def db_size_in_use(self) -> int: ...


class Store(Protocol):
    """What is asked of a node."""

    def status(self) -> Sizes: ...
    async def defragment(self) -> None: ...


async def keep_small(
    store: Store,
    log: Log,
    *,
    interval_s: float = INTERVAL_S,
    retry_s: float = RETRY_S,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Until it is cancelled. What goes wrong is tried again after `retry_s`, and told once."""
    wait_s, told = interval_s, ""
    while True:
        await sleep(wait_s)
        wait_s = interval_s
        before = store.status()
        if before.db_size < SIZE_RATIO * before.db_size_in_use:
            continue
        size = before.db_size
        try:
            await store.defragment()
        except StatusError as error:
            wait_s = retry_s
            if error.message != told:
                told = error.message
                log.warning("space could not be reclaimed, trying again", error=told, seconds=retry_s)
            continue
        told = ""
        if (freed := size - store.status().db_size) > 0:
            log.info("reclaimed space", freed_bytes=freed)
