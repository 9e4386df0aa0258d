"""An event loop that sleeps by moving its clock, and a scheduler's timer on it."""

import asyncio
import selectors


class VirtualLoop(asyncio.SelectorEventLoop):
    """Sleeps by moving its clock."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now_ns / 1e9


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            assert timeout is not None, "everybody waits for ever"
            self._loop.now_ns += max(0, -int(-timeout * 1e9 // 1))
        return found
