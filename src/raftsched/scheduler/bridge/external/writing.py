"""Writes on their way: many small ones as few transactions, each answered for itself.

What comes while EXTERNAL_CALLS_MAX calls are under way waits, and leaves packed. A pack is one transaction of independent operations;
if etcd refuses it for what is in it, its parts go alone. A lost answer is told as TIMEOUT: the caller knows whether it may ask again.
Must not know: what is written.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from raftsched.errors import EtcdError
from raftsched.limits import EXTERNAL_CALLS_MAX, EXTERNAL_OPERATIONS, EXTERNAL_PACK_BYTES, EXTERNAL_PACK_BYTES_MIN, EXTERNAL_SETTLE_MS
from raftsched.proposals import DELETE_RANGE, PUT, TXN
from raftsched.scheduler.bridge.external.caller import KV_DELETE, KV_PUT, KV_TXN, Caller, stopping
from raftsched.scheduler.bridge.external.order import BESIDE, ROOTS
from raftsched.scheduler.bridge.external.packing import changed, joined, parted, pieces, refused, split_header
from raftsched.scheduler.bridge.external.refusals import ALONE, CallError
from raftsched.scheduler.bridge.external.watching import Watch
from raftsched.scheduler.jobs._jobs import txn_outcomes
from raftsched.types import Result, ResultSink

PATHS: Final = {PUT: KV_PUT, DELETE_RANGE: KV_DELETE, TXN: KV_TXN}


class Write(NamedTuple):
    """One of `KvClient.write_many`."""

    kind: int
    request: bytes
    token: int
    sink: ResultSink


def _answer(pack: Sequence[Write], results: Sequence[Result]) -> None:
    """One call per sink, as far as its writes follow one another."""
    begin = 0
    for at in range(1, len(pack) + 1):
        if at == len(pack) or pack[at].sink is not pack[begin].sink:
            pack[begin].sink.on_results([write.token for write in pack[begin:at]], results[begin:at])
            begin = at


def touches(request: bytes) -> bool:
    """It may be about keys that Dapr does not have; a payload that looks like one costs a question for progress."""
    return ROOTS[BESIDE] in request


def _cause(failure: BaseException) -> EtcdError:
    """Of a TaskGroup: what was refused; TIMEOUT = unknown, and asked for again."""
    several = failure.exceptions if isinstance(failure, BaseExceptionGroup) else ()
    return next((one.error for one in several if isinstance(one, CallError)), EtcdError.TIMEOUT)


class Writer:
    """On one loop."""

    def __init__(self, caller: Caller, watch: Watch) -> None:
        self._caller = caller
        self._watch = watch
        self._waiting: deque[Write] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._operations_max = EXTERNAL_OPERATIONS
        self._bytes_max = EXTERNAL_PACK_BYTES
        self.packs_total = 0
        self.writes_total = 0

    # -- many
    def write_many(self, kind: int, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink) -> None:
        self._waiting.extend(Write(kind, message, token, sink) for message, token in zip(messages, tokens, strict=True))
        self._go()

    def _go(self) -> None:
        while self._waiting and self._under_way < EXTERNAL_CALLS_MAX:
            pack = self._next_pack()
            self._under_way += 1
            self._start(self._do(pack))

    def _next_pack(self) -> list[Write]:
        pack = [self._waiting.popleft()]
        size = len(pack[0].request)
        while self._waiting and len(pack) < self._operations_max and size + len(self._waiting[0].request) <= self._bytes_max:
            pack.append(self._waiting.popleft())
            size += len(pack[-1].request)
        return pack

    async def _do(self, pack: Sequence[Write]) -> None:
        try:
            results = await self._results(pack)
        except BaseException as error:  # who waits is answered in any case
            if stopping(error):
                raise
            results = refused(EtcdError.TIMEOUT, len(pack))
        finally:
            self._under_way -= 1
        _answer(pack, results)
        self._go()

    async def _results(self, pack: Sequence[Write]) -> Sequence[Result]:
        if len(pack) == 1:
            return [await self._alone(pack[0])]
        writes = [(write.kind, write.request) for write in pack]
        self.packs_total += 1
        self.writes_total += len(pack)
        try:
            body = await self._caller.call(KV_TXN, joined(writes))
        except CallError as error:
            if error.error not in ALONE:
                return refused(error.error, len(pack))
            self._learn(error.error, len(pack), sum(len(write.request) for write in pack))
            return [await self._alone(write) for write in pack]
        try:
            results = parted(writes, body)
        except (ValueError, DecodeError):
            return refused(EtcdError.TIMEOUT, len(pack))
        await self._settle(results[0][1], comes=changed(body), beside=any(touches(request) for _, request in writes))
        return results

    def _learn(self, error: EtcdError, operations: int, size: int) -> None:
        if error == EtcdError.TOO_MANY_OPS:  # --max-txn-ops is lower there
            self._operations_max = max(1, min(self._operations_max, operations // 2))
        elif error == EtcdError.REQUEST_TOO_LARGE and operations > 1:  # --max-request-bytes is
            self._bytes_max = max(EXTERNAL_PACK_BYTES_MIN, min(self._bytes_max, size // 2))

    async def _alone(self, write: Write) -> Result:
        self.writes_total += 1
        try:
            body = await self._caller.call(PATHS[write.kind], write.request)
        except CallError as error:
            return (int(error.error), 0, b"")
        revision, rest = split_header(body)
        comes = write.kind == PUT or (write.kind == TXN and changed(body))
        await self._settle(revision, comes=comes, beside=touches(write.request))
        return (0, revision, rest)

    async def _settle(self, revision: int, *, comes: bool, beside: bool) -> None:
        """Who was answered finds what it did; a watch that is down does not hold up the answer, which is true."""
        try:
            async with asyncio.timeout(EXTERNAL_SETTLE_MS / 1000):
                await self._watch.told(revision, comes=comes, beside=beside)
        except TimeoutError:
            return

    # -- one
    async def txn(self, request: bytes) -> tuple[int, bytes]:
        """Raises `CallError`."""
        body = await self._caller.call(KV_TXN, request)
        revision, rest = split_header(body)
        await self._settle(revision, comes=changed(body), beside=touches(request))
        return revision, rest

    # -- results of triggers
    def txn_packed(self, request: bytes, count: int, done: Callable[[int, int, bytes], None]) -> None:
        self._start(self._packed(request, count, done))

    async def _packed(self, request: bytes, count: int, done: Callable[[int, int, bytes], None]) -> None:
        """Answers in any case, until this process stops: the jobs in it wait for nothing else."""
        error, revision, outcomes = EtcdError.OK, 0, b""
        try:
            async with asyncio.TaskGroup() as group:
                parts = [group.create_task(self._piece(*part)) for part in pieces(request, self._operations_max, self._bytes_max)]
            revision = max(part.result()[0] for part in parts)
            outcomes = b"".join(part.result()[1] for part in parts)
        except BaseException as failure:
            if stopping(failure):
                raise
            error = _cause(failure)
        if not error and len(outcomes) != count:
            error = EtcdError.TIMEOUT  # an answer that is none: unknown, and asked for again
        done(int(error), revision, outcomes)

    async def _piece(self, request: bytes, count: int) -> tuple[int, bytes]:
        """One part, of which all guards were decided: what they saw has been told. Its guards make it safe to ask twice."""
        try:
            body = await self._caller.call(KV_TXN, request, again=True)
        except CallError as error:
            self._learn(error.error, count, len(request))
            raise
        revision, rest = split_header(body)
        await self._watch.told(revision, comes=changed(body), beside=touches(request))
        return revision, txn_outcomes(rest, count)

    # -- tasks
    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """What waits is answered STOPPED; what is under way is not answered any more."""
        waiting, self._waiting = self._waiting, deque()
        for write in waiting:
            write.sink.on_results((write.token,), ((int(EtcdError.STOPPED), 0, b""),))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
