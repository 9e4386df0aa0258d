"""A wake-up finer than the loop's own; see `_timer.pyx`."""

import asyncio
from collections.abc import Callable

class LoopTimer:
    """Calls `wake()` on the loop once after each `arm`; never early."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None: ...
    def arm(self, delay_ns: int) -> None:
        """`wake` in `delay_ns` (at least 1); replaces what was set. RuntimeError after `close`."""

    def close(self) -> None: ...
