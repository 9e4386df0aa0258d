"""What every stream of an etcd service is: counted, let in or refused, and finished once, whoever ends it.

Must not know: what is asked and told on it.
"""

import asyncio

from raftsched.ports import Stream
from raftsched.rpc.etcd.calls import Door
from raftsched.rpc.metrics import MethodStats


class StreamCall:
    """Base of a `StreamHandler`. A subclass calls `admit` at the end of its constructor; `_end` says what else goes with the stream."""

    def __init__(self, door: Door, stream: Stream, stats: MethodStats) -> None:
        self._door = door
        self._stream = stream
        self._stats = stats
        self._stats.started += 1
        self._began = self._stats.begin()
        self._task: asyncio.Task[None] | None = None  # works for this call alone
        self._over = False

    def admit(self, *, of_learner: bool = False) -> None:
        """See `Door.admit_stream`."""
        self._door.admit_stream(self._stream, self, of_learner=of_learner)

    def on_closed(self, code: int) -> None:
        self._close(code)

    def finish(self, code: int, message: str) -> None:
        """Ends the call, if it is not over."""
        if not self._over:
            self._close(code)
            self._stream.finish(code, message)

    def _close(self, code: int) -> None:
        if self._over:
            return
        self._over = True
        self._end()
        self._door.release(self)
        self._stats.ended(code, 1, self._began)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _end(self) -> None:
        """Once, at the end: nothing, if a subclass has nothing to let go."""
