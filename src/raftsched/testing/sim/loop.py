"""An asyncio loop whose time is virtual: it jumps to the next timer when nothing is ready, and counts a little for each turn.

What runs is tagged with its `Owner` (an incarnation of a member): callbacks, timers and tasks inherit it by context, and those of a dead
owner are never run: that is a kill -9 in the middle of anything.
Invariant: the same calls with the same seed run in the same order, whatever the hash seed. Must not know: what runs on it.
"""

import asyncio
import contextlib
import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

R = TypeVar("R")

TURN_NS_MAX = 40_000  # what one turn of the loop costs, at most
EXECUTOR_NS_MAX = 8_000_000


class Stuck(Exception):  # a verdict, not an error of the caller's
    """Nothing is ready and no timer is set: the run would wait for ever."""


class Owner:
    """Who a callback belongs to. `kill` ends everything of it, now."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self._context = copy_context()
        self._context.run(OWNER.set, self)

    def run(self, call: Callable[..., R], *args: Any) -> R:
        """`call` as this owner's: what it schedules dies with it."""
        return self._context.copy().run(call, *args)

    def kill(self) -> None:
        self.dead = True


OWNER: ContextVar[Owner | None] = ContextVar("owner", default=None)


class _Handle(asyncio.Handle):
    """Runs nothing of a dead owner."""

    __slots__ = ("_owner",)

    def __init__(self, callback: Callable[..., Any], args: Sequence[Any], loop: "SimLoop", context: Context | None) -> None:
        super().__init__(callback, args, loop, context)
        self._owner = OWNER.get() if context is None else context.get(OWNER)  # an empty context is false

    def _run(self) -> None:
        if self._owner is None or not self._owner.dead:
            super()._run()


class _TimerHandle(asyncio.TimerHandle):
    __slots__ = ("_owner",)
    _scheduled: bool

    def __init__(self, when: float, callback: Callable[..., Any], args: Sequence[Any], loop: "SimLoop", context: Context | None) -> None:
        super().__init__(when, callback, args, loop, context)
        self._owner = OWNER.get() if context is None else context.get(OWNER)  # an empty context is false

    def _run(self) -> None:
        if self._owner is None or not self._owner.dead:
            super()._run()


class SimLoop(asyncio.BaseEventLoop):
    """See the module's text. `on_complaint` is told of exceptions that nobody caught."""

    _ready: "deque[_Handle]"
    _scheduled: "list[_TimerHandle]"

    def __init__(self, seed: str) -> None:
        super().__init__()
        self.now_ns = 0
        self.turns = 0
        self.on_complaint: Callable[[str], None] = lambda line: None
        self._chance = random.Random(f"{seed}/loop")
        self._selector = self
        self._clock_resolution = 1e-9
        self._readers: dict[int, _Handle] = {}
        self._readable: dict[int, None] = {}
        self._next_fd = 1_000
        self._tasks: list[asyncio.Task[Any]] = []
        self.set_exception_handler(self._complain)

    # -- time

    def time(self) -> float:
        return self.now_ns / 1e9

    def select(self, timeout: float | None) -> list[_Handle]:
        """In place of a selector: what is readable; else time passes."""
        found = [self._readers[fd] for fd in self._readable if fd in self._readers]
        if found:
            timeout = 0
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        self.now_ns += int(timeout * 1e9) + 1 if timeout else self._chance.randrange(1, TURN_NS_MAX)
        self.turns += 1
        return found

    def _process_events(self, event_list: list[_Handle]) -> None:
        self._ready.extend(handle for handle in event_list if not handle.cancelled())

    # -- handles, with their owners

    def _call_soon(self, callback: Callable[..., Any], args: Sequence[Any], context: Context | None) -> _Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:  # type: ignore[override]
        timer = _TimerHandle(when, callback, args, self, context)
        self._schedule_timer(timer)
        return timer

    def _schedule_timer(self, timer: _TimerHandle) -> None:
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:  # type: ignore[override]
        task: asyncio.Task[Any] = super().create_task(coro, name=name, context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a killed member's tasks stay unfinished
        self._tasks.append(task)  # never collected in the middle of a run: its `finally` would act for a dead member
        if len(self._tasks) > 4_096:
            self._tasks = [one for one in self._tasks if not one.done()]
        return task

    # -- descriptors that are none

    def new_fd(self) -> int:
        self._next_fd += 1
        return self._next_fd

    def set_readable(self, fd: int, readable: bool = True) -> None:
        if readable:
            self._readable[fd] = None
        else:
            self._readable.pop(fd, None)

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        self._readers[fd] = _Handle(callback, args, self, None)

    def remove_reader(self, fd: Any) -> bool:
        handle = self._readers.pop(fd, None)
        if handle is not None:
            handle.cancel()
        return handle is not None

    # -- threads that are none

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """The work is done in one go, some milliseconds later."""
        future: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:
                future.set_exception(error)

        self.call_later(self._chance.randrange(EXECUTOR_NS_MAX) / 1e9, work)
        return future

    # -- end

    def discard(self) -> None:
        """Throws away what is unfinished: tasks of killed members, whose coroutines nobody will ever go on with."""
        asyncio._set_running_loop(self)  # their `finally` may want a loop, and would get a real one that nobody closes
        try:
            for task in self._tasks:
                coroutine: Any = task.get_coro()
                if not task.done() and coroutine is not None:
                    with contextlib.suppress(Exception):
                        coroutine.close()
        finally:
            asyncio._set_running_loop(None)
        self._tasks.clear()
        self._ready.clear()
        self._scheduled.clear()
        self.close()

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.on_complaint(f"{context.get('message')}: {context.get('exception')!r}")

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""

    def _check_closed(self) -> None:
        """What a dead task does while it is collected is of no interest."""


class SimTimer:
    """A scheduler's wake-up (`service.Timer`) on the virtual clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, delay_ns: int) -> None:
        self.close()
        self._handle = self._loop.call_later(max(delay_ns, 1) / 1e9, self._wake)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
