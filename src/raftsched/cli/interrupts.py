"""Ctrl-C beside gRPC. Its native code runs Python where an exception has nowhere to go ("Exception ignored in …"): a KeyboardInterrupt
that comes just there is gone, and the command waits on.

Both blocks are for the main thread, which alone is told of signals; elsewhere they do nothing.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

AGAIN_S: Final = 0.5


@contextmanager
def repeated() -> Iterator[None]:
    """From the first Ctrl-C on, KeyboardInterrupt comes every half second until the block has ended."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        raise KeyboardInterrupt

    with _handler(interrupt) as handles:
        try:
            yield
        finally:
            if handles and signal.getsignal(signal.SIGALRM) is interrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)


@contextmanager
def told(on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C raises nothing: `on_interrupt` is called, between any two steps of the main thread."""
    with _handler(lambda _number, _frame: on_interrupt()):
        yield


@contextmanager
def _handler(handler: Callable[[int, FrameType | None], Any]) -> Iterator[bool]:
    """Whether it is one now."""
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    former = signal.signal(signal.SIGINT, handler)
    try:
        yield True
    finally:
        signal.signal(signal.SIGINT, former)
