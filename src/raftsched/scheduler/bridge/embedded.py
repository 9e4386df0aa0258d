"""The bridge to the store in this process: a `KvClient` over a `StoreNode`, by plain calls.

Invariant: subscribers hear of a change before the writer of the same batch is answered. The one file through which the
scheduler touches the other tower. What it writes is the process's own and is permitted, whoever may log in (`types.INTERNAL`).
Must not know: jobs, the engine.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

from raftsched.errors import TRANSIENT, TRANSIENT_TEXTS, EtcdError, StatusError, status_of
from raftsched.limits import SCAN_PAGE_KEYS, STORE_RETRY_MS_MAX, STORE_RETRY_MS_MIN, STUCK_MS
from raftsched.ports import ChangeSink, StoreNode
from raftsched.proposals import TXN
from raftsched.scheduler.jobs._jobs import txn_outcomes
from raftsched.scheduler.jobs.names import prefix_end
from raftsched.scheduler.jobs.requests import number_field
from raftsched.types import INTERNAL, Change, Result, ResultSink

LEASE_GRANT: Final = 8
LEASE_REVOKE: Final = 9
RENEWALS_PER_TTL: Final = 3


class _Answer:
    """A `ResultSink` for one awaited call."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        if not self.future.done():
            self.future.set_result(results[0])


class _Packed:
    """A `ResultSink` for one packed transaction."""

    def __init__(self, count: int, done: Callable[[int, int, bytes], None]) -> None:
        self._count = count
        self._done = done

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        error, revision, body = results[0]
        self._done(error, revision, b"" if error else txn_outcomes(body, self._count))


class EmbeddedKv:
    """`KvClient` over the store of the same process."""

    def __init__(self, node: StoreNode, *, owns_directory: bool = True) -> None:
        """`owns_directory`: this process holds the lock of the data directory."""
        self._node = node
        self._owns_directory = owns_directory
        self.read_record = node.mvcc.record  # the method itself: called once per trigger
        self._renewals: set[asyncio.Task[None]] = set()

    # -- reads
    async def range(self, request: bytes) -> tuple[int, bytes]:
        delay_ms = STORE_RETRY_MS_MIN
        while True:
            answer = _Answer()
            self._node.read_many([request], [0], answer)
            error, revision, body = await answer.future
            if not error:
                return revision, body
            if error not in TRANSIENT:
                raise status_of(error)
            await asyncio.sleep(delay_ms / 1000)
            delay_ms = min(delay_ms * 2, STORE_RETRY_MS_MAX)

    async def scan(self, prefix: bytes, on_page: Callable[[Sequence[Change]], object]) -> int:
        await self._barrier()
        after: bytes | None = None
        end = prefix_end(prefix)
        while True:
            page = self._node.mvcc.live(prefix, end, after, SCAN_PAGE_KEYS)
            if page:
                on_page(page)
            if len(page) < SCAN_PAGE_KEYS:
                return self._node.revision
            after = page[-1].key
            await asyncio.sleep(0)

    async def _barrier(self) -> None:
        delay_ms = STORE_RETRY_MS_MIN
        while True:
            try:
                await self._node.read_barrier()
            except StatusError as error:
                if error.message not in TRANSIENT_TEXTS:
                    raise
                await asyncio.sleep(delay_ms / 1000)
                delay_ms = min(delay_ms * 2, STORE_RETRY_MS_MAX)
            else:
                return

    # -- writes
    async def txn(self, request: bytes) -> tuple[int, bytes]:
        return await self._propose(TXN, request)

    async def _propose(self, kind: int, request: bytes) -> tuple[int, bytes]:
        answer = _Answer()
        self._node.propose_many(kind, [request], [0], answer, identity=INTERNAL)
        error, revision, body = await answer.future
        if error:
            raise status_of(error)
        return revision, body

    def write_many(self, kind: int, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink) -> None:
        self._node.propose_many(kind, messages, tokens, sink, identity=INTERNAL)

    def txn_packed(self, request: bytes, count: int, done: Callable[[int, int, bytes], None]) -> None:
        self._node.propose_many(TXN, [request], [0], _Packed(count, done), identity=INTERNAL)

    def subscribe(self, sink: ChangeSink) -> Callable[[], None]:
        return self._node.add_change_sink(sink)

    # -- leases
    async def lease_grant(self, ttl_s: int) -> int:
        lease = self._node.next_lease_id()
        await self._propose(LEASE_GRANT, number_field(1, ttl_s) + number_field(2, lease))
        return lease

    def lease_keep_alive(self, lease: int, lost: Callable[[], None]) -> Callable[[], None]:
        task = asyncio.get_running_loop().create_task(self._renew(lease, lost))
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)

        def stop() -> None:
            task.cancel()

        return stop

    async def _renew(self, lease: int, lost: Callable[[], None]) -> None:
        delay_s = 0.0
        while True:
            await asyncio.sleep(delay_s)
            try:
                ttl_s = await self._node.lease_renew(lease)
            except StatusError:
                delay_s = STORE_RETRY_MS_MIN / 1000  # no leader for the moment: the lease is not lost by that
                continue
            if ttl_s <= 0:
                lost()
                return
            delay_s = ttl_s / RENEWALS_PER_TTL

    async def lease_revoke(self, lease: int) -> None:
        try:
            await self._propose(LEASE_REVOKE, number_field(1, lease))
        except StatusError as error:
            if error.message != status_of(EtcdError.LEASE_NOT_FOUND).message:
                raise

    # -- the cluster
    def owns_directory(self) -> bool:
        return self._owns_directory

    def shared(self) -> bool:
        return False

    def peers(self) -> Sequence[int]:
        return self._node.peers()

    def fence_ms(self) -> int:
        return self._node.fence_ms()

    def stuck(self, mono_ms: int) -> str:
        since_ms = self._node.waiting_since_ms()
        if not since_ms or mono_ms - since_ms < STUCK_MS:
            return ""
        leader = "" if self._node.leader_id else ", and no leader is known"
        return f"a write has waited for its answer for {(mono_ms - since_ms) / 1000:.1f} s{leader}"

    def dead(self, names: Collection[str]) -> Collection[str]:
        return self._node.dead(names)
