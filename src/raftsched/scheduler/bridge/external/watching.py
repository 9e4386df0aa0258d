"""The scheduler's keys as they change: one stream on an etcd with a watch for each root, resumed without a gap wherever it breaks off.

`order` says up to which revisions everything has been told. A stream that ends is opened again behind them, at another member if need
be. If etcd has compacted that away, or its history is another one (restored from a backup), what was told is worth nothing any
more: `on_reset`, and the watch begins at the present. A member that lags answers with what it knows, and is silent about the rest:
it is found out by what the others say (`seen`).
Invariant: changes are told in the order of order.py, whole revisions, each once. Must not know: what a change means.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from raftsched.errors import EtcdError, GrpcCode
from raftsched.limits import (
    EXTERNAL_ASK_AGAIN_MS,
    EXTERNAL_CALL_MS,
    EXTERNAL_PROGRESS_MS,
    EXTERNAL_SILENCE_MS,
    EXTERNAL_TELL_CHANGES,
    STORE_RETRY_MS_MAX,
    STORE_RETRY_MS_MIN,
)
from raftsched.pb.etcd import kv_pb2, rpc_pb2
from raftsched.ports import ChangeSink, Log
from raftsched.scheduler.bridge.external.caller import KV_RANGE, WATCH, Caller, Stream, stopping
from raftsched.scheduler.bridge.external.order import BESIDE, RANGES, ROOTS, Order, Told, TooManyError
from raftsched.scheduler.bridge.external.pace import Pace
from raftsched.scheduler.bridge.external.packing import split_header
from raftsched.scheduler.bridge.external.records import Records
from raftsched.scheduler.bridge.external.refusals import CallError, cancel_error
from raftsched.scheduler.jobs.names import JOBS, LEADERSHIP
from raftsched.scheduler.jobs.requests import range_request
from raftsched.types import Change

ASK: Final = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()).SerializeToString()
OVERSLEPT_MS: Final = 500


class HistoryLostError(Exception):
    """What was to be told next is not to be had any more."""


class Watch:
    """`run` is a task; the rest are calls on its loop."""

    def __init__(self, caller: Caller, records: Records, log: Log) -> None:
        self._caller = caller
        self._records = records
        self._log = log
        self._sinks: list[ChangeSink] = []
        self.order = Order()
        self._cluster_id = 0
        self.live = asyncio.Event()
        """A stream is open and begins where the last one ended."""
        self._waiting: list[tuple[int, bool, asyncio.Future[None]]] = []
        self._wanted = asyncio.Event()
        self._holds = 0
        self._free = asyncio.Event()
        self._free.set()
        self._stream: Stream | None = None
        self.pace = Pace()
        self.bare = False
        """The user may not read what Dapr does not have, and goes without it."""
        self.resumes_total = 0
        self.resets_total = 0
        self._logged = EtcdError.OK
        self.trouble = ""
        """Why there is no stream; "" = there is one."""

    # -- for the bridge
    @property
    def known(self) -> int:
        """The revision up to which all of Dapr's keys were told; 0 = nothing yet, or not any more."""
        return self.order.main

    def subscribe(self, sink: ChangeSink) -> Callable[[], None]:
        self._sinks.append(sink)
        return lambda: self._sinks.remove(sink) if sink in self._sinks else None

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Nothing is told meanwhile: what is read now must not be older than what was told."""
        self._holds += 1
        self._free.clear()
        try:
            yield
        finally:
            self._holds -= 1
            if not self._holds:
                self.pace.moved(_now_ms())
                self._free.set()

    async def told(self, revision: int, *, comes: bool, beside: bool) -> None:
        """Done when everything up to `revision` has been told, of the keys that Dapr does not have only if `beside`. `comes`: there is a
        change of one of Dapr's keys at this revision, so nobody needs to ask."""
        if self.order.covers(revision, beside=beside):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (revision, beside, future)
        self._waiting.append(entry)
        if beside or not comes:
            self._wanted.set()
        try:
            await future
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def restart(self) -> None:
        """The stream is given up for a new one."""
        if self._stream is not None:
            self._stream.cancel()

    def seen(self, revision: int) -> None:
        """etcd has this revision, said one of its members just now: does the stream come to it, and how soon?"""
        if self.pace.seen(revision, self.known, _now_ms()):
            self._wanted.set()

    # -- the task
    async def run(self) -> None:
        """Until cancelled."""
        delay_ms = STORE_RETRY_MS_MIN
        while True:
            began_s = time.monotonic()
            try:
                await self._one_stream()
            except CallError as error:
                self._broke_off(error)
            except HistoryLostError as error:
                self._reset(str(error))
            except BaseException as error:  # a fault of ours: what was told may be half of something
                if stopping(error):
                    raise
                self._log.error("the watch on etcd failed", error=repr(error))
                self._reset("unknown")
            finally:
                self._stream = None
                self.live.clear()
            delay_ms = STORE_RETRY_MS_MIN if time.monotonic() - began_s > 1 else min(delay_ms * 2, STORE_RETRY_MS_MAX)
            await asyncio.sleep(delay_ms / 1000)

    def _broke_off(self, error: CallError) -> None:
        if error.error != self._logged:
            self._logged = error.error
            at = self._stream.address if self._stream is not None else self._caller.endpoints.address
            self._log.warning(f"the watch on etcd broke off: {error.message}", at=at, known=self.known)
        self.trouble = error.message

    async def _one_stream(self) -> None:
        stream = self._stream = await self._caller.open_stream(WATCH)
        parts: list[asyncio.Task[None]] = []
        try:
            early = await self._create(stream)
            loop = asyncio.get_running_loop()
            parts = [loop.create_task(self._follow(stream, early)), loop.create_task(self._ask(stream))]
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            self.pace.ended(_now_ms())
            for one in parts:
                one.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            stream.cancel()

    async def _create(self, stream: Stream) -> list[Any]:
        """What was told already by the watches that were opened first."""
        early: list[Any] = []
        resumes = bool(self.order.main or self.order.beside)
        for side in RANGES:
            answer = await self._open(stream, side, early)
            denied = answer.canceled and cancel_error(answer.cancel_reason).error == EtcdError.PERMISSION_DENIED
            if side == BESIDE:
                self._note_permission(denied=denied)
            if answer.canceled and not (denied and side == BESIDE):
                await self._canceled(stream, answer)
            if resumes and answer.header.cluster_id != self._cluster_id:
                raise HistoryLostError("it is another cluster")
            self._cluster_id = answer.header.cluster_id
            if answer.header.revision < self.known:
                await self._check_history()
            self.order.opened(side, answer.header.revision)
        self.resumes_total += resumes
        if self.trouble:
            self._log.info("the watch on etcd goes on", at=self._caller.endpoints.address, known=self.known)
        self.trouble = ""
        self._logged = EtcdError.OK
        self.pace.opened(_now_ms())
        self.live.set()
        return early

    async def _open(self, stream: Stream, side: int, early: list[Any]) -> Any:
        """The answer to the creation of a watch. What comes of another one before goes to `early`."""
        root, end = RANGES[side]
        create = rpc_pb2.WatchCreateRequest(
            key=root, range_end=end, start_revision=self.order.start(side), progress_notify=True, fragment=True, watch_id=side
        )
        await stream.write(rpc_pb2.WatchRequest(create_request=create).SerializeToString(), EXTERNAL_CALL_MS)
        while True:
            answer = rpc_pb2.WatchResponse.FromString(await stream.read(EXTERNAL_CALL_MS))
            if answer.created or answer.canceled:
                return answer
            if not early and side == next(iter(RANGES)):
                raise CallError(GrpcCode.INTERNAL, "etcd did not open the watch", EtcdError.TIMEOUT, sent=True)
            early.append(answer)

    def _note_permission(self, *, denied: bool) -> None:
        if denied and not self.bare:
            self._log.warning(f"the user may not read {ROOTS[BESIDE].decode()} in etcd: no job is paused, frozen or run when asked for")
        gained, self.bare = self.bare and not denied, denied
        if gained:
            raise HistoryLostError(f"{ROOTS[BESIDE].decode()} may be read now")

    async def _check_history(self) -> None:
        """A member that lags is not a store that was set back."""
        revision, _ = split_header(await self._caller.call(KV_RANGE, range_request(LEADERSHIP), again=True))
        if revision < self.known:
            raise HistoryLostError(f"etcd is at revision {revision}, and was at {self.known}")

    async def _canceled(self, stream: Stream, answer: Any) -> None:
        error = cancel_error(answer.cancel_reason)
        if answer.compact_revision or error.error == EtcdError.COMPACTED:
            raise HistoryLostError(f"etcd has compacted up to revision {answer.compact_revision}, and {self.known} was known")
        raise await stream.refused(error)

    def _reset(self, reason: str) -> None:
        self._log.warning(f"the history of etcd was lost: {reason}")
        self.order.forget()
        self.pace.forget()
        self.resets_total += 1
        for sink in list(self._sinks):
            sink.on_reset()

    # -- what comes
    async def _follow(self, stream: Stream, early: list[Any]) -> None:
        for answer in early:
            await self._heard(stream, answer)
        while True:
            await self._heard(stream, rpc_pb2.WatchResponse.FromString(await stream.read(EXTERNAL_SILENCE_MS)))

    async def _heard(self, stream: Stream, answer: Any) -> None:
        if answer.canceled:
            await self._canceled(stream, answer)
        try:
            for told in self.order.came(answer):
                await self._tell(told)
        except TooManyError as error:
            raise HistoryLostError(str(error)) from None
        if self.order.holds:
            self._wanted.set()

    async def _tell(self, told: Told) -> None:
        while self._holds:
            await self._free.wait()
        changes = [self._change(sub, event) for sub, event in enumerate(told.events)]
        before = self.known
        self.order.done(told)
        if self.known > before:
            self.pace.moved(_now_ms())
        if changes:
            for sink in list(self._sinks):
                sink.on_changes(changes, self.known if self.bare else min(self.known, self.order.beside))
        for wanted, beside, future in self._waiting:
            if self.order.covers(wanted, beside=beside) and not future.done():
                future.set_result(None)
        if len(changes) >= EXTERNAL_TELL_CHANGES:
            await asyncio.sleep(0)

    def _change(self, sub: int, event: Any) -> Change:
        kv = event.kv
        job = kv.key.startswith(JOBS)
        if event.type == kv_pb2.Event.DELETE:
            if job:
                self._records.remove(kv.key)
            return Change(True, kv.key, kv.mod_revision, sub, kv_pb2.KeyValue(key=kv.key).SerializeToString())
        record = kv.SerializeToString()
        return Change(False, kv.key, kv.mod_revision, self._records.put(kv.key, kv.mod_revision, record) if job else sub, record)

    # -- what is asked for
    async def _ask(self, stream: Stream) -> None:
        """How far the watch has come: at once when somebody waits for it, else often enough to notice a stream that is dead."""
        while True:
            self._wanted.clear()
            await stream.write(ASK, EXTERNAL_SILENCE_MS)
            urgent = self._waiting or self.order.holds or self.pace.behind(self.known)
            pause_ms = EXTERNAL_ASK_AGAIN_MS if urgent else EXTERNAL_PROGRESS_MS
            asked_ms = _now_ms()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_ms / 1000):
                    await self._wanted.wait()
            await self._check_pace(stream, slept=_now_ms() - asked_ms > pause_ms + OVERSLEPT_MS)

    async def _check_pace(self, stream: Stream, *, slept: bool) -> None:
        """Raises `CallError`: the stream is to be given up for one at another member. `slept`: this process did, and reads first."""
        now_ms = _now_ms()
        if slept or self._holds:
            self.pace.moved(now_ms)
        elif reason := self.pace.too_slow(self.known, now_ms):
            raise await stream.refused(CallError(GrpcCode.UNAVAILABLE, reason, EtcdError.TIMEOUT, sent=True))


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
