"""Linearizable reads (thesis §6.4): one read index for all reads of a step, served once everything up to it is applied.

Invariant: every read is served or refused exactly once; an index that was asked for may be lost on its way, and is asked for again.
Must not know: clocks (times come as arguments), what a read reads.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from raftsched import limits
from raftsched.errors import EtcdError
from raftsched.store.codec import RequestIds
from raftsched.store.raft._kernel import Kernel

RETRY_MS = 500  # etcd's: a question without an answer is asked again

Serve = Callable[[int], None]
Reads = list[tuple[Serve, int]]
"""(serve, error); 0 = now."""


class Batch(NamedTuple):
    """Reads that share an index."""

    deadline_ms: int
    asked_ms: int
    reads: list[tuple[int, Serve]]


class Reading:
    """The reads of one member."""

    def __init__(self, kernel: Kernel, ids: RequestIds, timeout_ms: int) -> None:
        self._kernel = kernel
        self._ids = ids
        self._timeout_ms = timeout_ms
        self.asked: list[tuple[int, Serve]] = []  # (deadline, serve): no index was asked for yet
        self._open: dict[int, Batch] = {}  # by context: an index is awaited
        self.waiting: deque[tuple[int, Batch]] = deque()  # (index, batch): applied >= index is awaited
        self.failed_total = 0
        self.timed_out_total = 0

    def ask(self, serve: Serve, mono_ms: int, output: Reads) -> None:
        if len(self.asked) >= limits.READS_ASKED_MAX:
            output.append((serve, int(EtcdError.TOO_MANY_REQUESTS)))
            return
        self.asked.append((mono_ms + self._timeout_ms, serve))

    def request(self, mono_ms: int) -> None:
        """One index for all that asked. Without a leader they go on waiting."""
        context = self._ids.lease_id()  # unique over restarts: an answer that comes late must not match
        if self._kernel.read_index(context):
            self._open[context] = Batch(self.asked[0][0], mono_ms, self.asked)
            self.asked = []

    def known(self, context: object, index: int) -> None:
        batch = self._open.pop(context, None) if isinstance(context, int) else None
        if batch is not None:
            self.waiting.append((index, batch))

    def lost(self, context: object, output: Reads) -> None:
        """Leadership was lost while the index was being confirmed."""
        batch = self._open.pop(context, None) if isinstance(context, int) else None
        if batch is not None:
            self.failed_total += 1
            refuse(batch.reads, EtcdError.LEADER_CHANGED, output)

    def serve(self, applied: int, output: Reads) -> None:
        while self.waiting and self.waiting[0][0] <= applied:
            output.extend((serve, 0) for _, serve in self.waiting.popleft()[1].reads)

    def tick(self, mono_ms: int, output: Reads) -> None:
        """Time-outs, and questions that were lost."""
        late = [read for read in self.asked if read[0] <= mono_ms]
        if late:
            self.asked = [read for read in self.asked if read[0] > mono_ms]
            self.failed_total += 1
            refuse(late, EtcdError.TIMEOUT, output)
        for context, batch in [item for item in self._open.items() if item[1].asked_ms + RETRY_MS <= mono_ms]:
            del self._open[context]
            self.timed_out_total += 1
            fresh = [read for read in batch.reads if read[0] > mono_ms]
            refuse([read for read in batch.reads if read[0] <= mono_ms], EtcdError.TIMEOUT, output)
            self.asked = fresh + self.asked
        while self.waiting and self.waiting[0][1].deadline_ms <= mono_ms:
            index, batch = self.waiting.popleft()
            refuse([read for read in batch.reads if read[0] <= mono_ms], EtcdError.TIMEOUT_WAIT_APPLIED, output)
            fresh = [read for read in batch.reads if read[0] > mono_ms]
            if fresh:  # asked while the first had waited long for a leader
                self.waiting.appendleft((index, Batch(fresh[0][0], batch.asked_ms, fresh)))

    def stop(self, output: Reads) -> None:
        for reads in (self.asked, *(batch.reads for batch in self._open.values()), *(batch.reads for _, batch in self.waiting)):
            refuse(reads, EtcdError.STOPPED, output)
        self.asked = []
        self._open.clear()
        self.waiting.clear()


def refuse(reads: list[tuple[int, Serve]], error: EtcdError, output: Reads) -> None:
    output.extend((serve, int(error)) for _, serve in reads)
