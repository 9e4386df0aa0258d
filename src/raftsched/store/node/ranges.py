"""Ranges: a batch in slices of the loop, and one that is too large for a turn slice by slice, such ones one after the other.

Invariant: an answer is of one revision, that at which its range was begun. Where that is compacted before the end, it is read anew, whole.
Must not know: who leads, who may read what.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raftsched import limits
from raftsched.errors import EtcdError, FatalError
from raftsched.ports import Permit
from raftsched.store.mvcc._store import MvccStore, RangePlan
from raftsched.store.node.figures import Figures
from raftsched.store.node.options import Clock
from raftsched.types import Result, ResultSink

READS_PER_CHECK = 64
SLICE_NS = limits.LOOP_SLICE_MS * 1_000_000


@dataclass(slots=True)
class Large:
    """One that is under way, or waits for those before it."""

    plan: RangePlan
    message: bytes
    token: int
    sink: ResultSink
    taken_ns: int = 0


class Ranges:
    """`is_running`: afterwards nothing is read any more, all are answered so; `is_guarded`: whether `permit` is to be asked; `fail`: the
    store cannot be read; `guard`: calls back."""

    def __init__(
        self,
        store: MvccStore,
        figures: Figures,
        clock: Clock,
        *,
        guard: Callable[..., None],
        is_running: Callable[[], bool],
        is_guarded: Callable[[], bool],
        fail: Callable[[Exception], None],
    ) -> None:
        self._store, self._figures, self._clock = store, figures, clock
        self._guard, self._fail = guard, fail
        self._is_running, self._is_guarded = is_running, is_guarded
        self._loop = asyncio.get_running_loop()
        self._large: deque[Large] = deque()

    def serve(self, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink, permit: Permit | None, start: int = 0) -> None:
        """From `start` on, in slices of the loop; each slice is permitted when it is read."""
        if len(messages) <= READS_PER_CHECK:
            self._slice(messages, tokens, sink, permit)
            return
        stop_ns = self._clock.mono_ns() + SLICE_NS
        while start < len(messages):
            end = start + READS_PER_CHECK
            self._slice(messages[start:end], tokens[start:end], sink, permit)
            start = end
            if start < len(messages) and self._clock.mono_ns() >= stop_ns:
                self._loop.call_soon(self._guard, self.serve, messages, tokens, sink, permit, start)
                return

    def _slice(self, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink, permit: Permit | None) -> None:
        """Answers leave in parts of READ_ANSWERS_BYTES: the door may count them before the next are made."""
        if permit is not None and self._is_guarded():
            tokens, messages = permit(tokens, messages)
        while messages:
            results, plan = self._read(messages)
            done = len(results)
            if done == len(messages):
                sink.on_results(tokens, results)
                return
            if done:
                sink.on_results(tokens[:done], results)
            if plan is not None:
                self._begin(Large(plan, messages[done], tokens[done], sink))
                done += 1
            tokens, messages = tokens[done:], messages[done:]

    def _read(self, messages: Sequence[bytes]) -> tuple[Sequence[Result], RangePlan | None]:
        """See `MvccStore.range_some`. A store that cannot be read ends the node, but not without an answer."""
        if self._is_running():
            began_ns = self._clock.mono_ns()
            try:
                results, plan = self._store.range_some(
                    messages,
                    bytes_max=limits.READ_ANSWERS_BYTES,
                    slice_keys=limits.RANGE_SLICE_KEYS,
                    slice_bytes=limits.RANGE_SLICE_BYTES,
                )
            except FatalError as error:
                self._fail(error)
            else:
                self._figures.ranged(results, (self._clock.mono_ns() - began_ns) / 1e9)
                return results, plan
        return [self._stopped()] * len(messages), None

    def at_once(self, message: bytes) -> Result:
        """One, however large."""
        began_ns = self._clock.mono_ns()
        result = self._whole(message)
        self._figures.ranged([result], (self._clock.mono_ns() - began_ns) / 1e9)
        return result

    def _whole(self, message: bytes) -> Result:
        if self._is_running():
            try:
                return self._store.range(message)
            except FatalError as error:
                self._fail(error)
        return self._stopped()

    def _stopped(self) -> Result:
        return EtcdError.STOPPED, self._store.revision, b""

    def _begin(self, large: Large) -> None:
        self._large.append(large)
        if len(self._large) == 1:
            self._loop.call_soon(self._guard, self._go_on)

    def _go_on(self) -> None:
        """What one turn of the loop has time for, and one answer at most: to send a large one takes time, too."""
        stop_ns = self._clock.mono_ns() + SLICE_NS
        large = self._large.popleft()
        try:
            result = self._step(large)
            while result is None and self._clock.mono_ns() < stop_ns:
                result = self._step(large)
            if result is None:
                self._large.appendleft(large)
            else:
                self._figures.ranged([result], large.taken_ns / 1e9)
                large.sink.on_results([large.token], [result])
        finally:
            if self._large:
                self._loop.call_soon(self._guard, self._go_on)

    def _step(self, large: Large) -> Result | None:
        """None: there is more of it."""
        if not self._is_running():
            return self._stopped()
        began_ns = self._clock.mono_ns()
        try:
            result = large.plan.step(limits.RANGE_SLICE_KEYS, limits.RANGE_SLICE_BYTES)
        except FatalError as error:
            self._fail(error)
            return self._stopped()
        if result is not None and result[0] == EtcdError.COMPACTED:  # a client that named the revision is told so by this, too
            result = self._whole(large.message)
        large.taken_ns += self._clock.mono_ns() - began_ns
        return result
