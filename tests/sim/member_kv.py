"""A shared store in memory as one replica of a cluster sees it: later than it happens, and as long as its link holds."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from raftsched.errors import EtcdError, status_of
from raftsched.limits import FENCE_WINDOW_MS, LEADERSHIP_LEASE_TTL_S
from raftsched.pb.etcd import rpc_pb2
from raftsched.ports import ChangeSink
from raftsched.types import Change

if TYPE_CHECKING:
    from scheduler_cluster import Cluster, Replica

TIMEOUT_S = 3.0


class MemberKv:
    """The store as one replica sees it: a `KvClient`."""

    def __init__(self, cluster: "Cluster", replica: "Replica") -> None:
        self.cluster, self.replica = cluster, replica
        self.etcd = cluster.etcd
        self.applied = len(cluster.history)  # batches seen; a new process starts from what is on disk
        self.sink: ChangeSink | None = None
        self.gone = False
        self.slow_s = 0.0
        self._waiting: list[tuple[int, Callable[[], None]]] = []  # (batches, run): when so many are seen
        self._due_s = 0.0
        self.renewed_s: dict[int, float] = {}

    # -- what is seen, and when
    def heard(self) -> None:
        """Something was committed: it comes here in order, after a while."""
        loop = self.cluster.loop
        self._due_s = max(self._due_s, loop.time() + self.cluster.delay_s() + self.slow_s)
        loop.call_at(self._due_s, self._see)

    def _see(self) -> None:
        if self.gone or self.replica.cut_s is not None or self.applied >= len(self.cluster.history):
            return
        changes, revision, _ = self.cluster.history[self.applied]
        self.applied += 1
        if self.sink is not None:
            self.sink.on_changes(changes, revision)
        ready = [run for batches, run in self._waiting if batches <= self.applied]
        self._waiting = [one for one in self._waiting if one[0] > self.applied]
        for run in ready:
            run()

    def reconnect(self) -> None:
        for _ in range(len(self.cluster.history) - self.applied):
            self.heard()

    def when_seen(self, run: Callable[[], None]) -> None:
        batches = len(self.cluster.history)
        if batches <= self.applied:
            self.cluster.loop.call_soon(run)
        else:
            self._waiting.append((batches, run))

    # -- writes
    def submit(self, kind: int, request: bytes, answer: Callable[[int, int, bytes], None]) -> None:
        """A write; cut off, its outcome is unknown after a while, and it may yet happen."""
        if self.gone:
            return
        if self.replica.cut_s is not None:
            if self.cluster.random.random() < 0.2:
                self.cluster.loop.call_later(self.cluster.random.random() * 2, partial(self._late, kind, request))
            self.cluster.loop.call_later(TIMEOUT_S, partial(self._answer, answer, EtcdError.TIMEOUT, 0, b""))
            return
        self.cluster.loop.call_later(self.cluster.delay_s(), partial(self._commit, kind, request, answer))

    def _late(self, kind: int, request: bytes) -> None:
        self.etcd.apply(kind, request)

    def _commit(self, kind: int, request: bytes, answer: Callable[[int, int, bytes], None]) -> None:
        if self.replica.cut_s is not None:
            self._answer(answer, EtcdError.TIMEOUT, 0, b"")
            return
        error, revision, body = self.etcd.apply(kind, request)
        self.when_seen(partial(self._answer, answer, error, revision, body))

    def _answer(self, answer: Callable[[int, int, bytes], None], error: int, revision: int, body: bytes) -> None:
        if not self.gone:
            answer(error, revision, body)

    async def _ask(self, start: Callable[[Callable[[int, int, bytes], None]], None]) -> tuple[int, bytes]:
        future: asyncio.Future[tuple[int, int, bytes]] = self.cluster.loop.create_future()

        def answer(error: int, revision: int, body: bytes) -> None:
            if not future.done():
                future.set_result((error, revision, body))

        start(answer)
        error, revision, body = await future
        if error:
            raise status_of(error)
        return revision, body

    async def txn(self, request: bytes) -> tuple[int, bytes]:
        return await self._ask(lambda answer: self.submit(6, request, answer))

    def txn_packed(self, request: bytes, count: int, done: Callable[[int, int, bytes], None]) -> None:
        def answer(error: int, revision: int, body: bytes) -> None:
            if error:
                done(error, 0, b"")
                return
            answers = rpc_pb2.TxnResponse.FromString(body).responses
            done(0, revision, bytes(one.response_txn.succeeded for one in answers))

        self.submit(6, request, answer)

    def write_many(self, kind: int, messages: Sequence[bytes], tokens: Sequence[int], sink: Any) -> None:
        for message, token in zip(messages, tokens, strict=True):
            self.submit(kind, message, lambda error, revision, body, token=token: sink.on_results([token], [(error, revision, body)]))

    # -- reads
    async def range(self, request: bytes) -> tuple[int, bytes]:
        """The answer is what this replica has applied: made when all that was committed is."""
        while self.replica.cut_s is not None or self.applied < len(self.cluster.history):
            await asyncio.sleep(0.001)
        return self.etcd.revision, self.etcd.range(request).SerializeToString()

    async def scan(self, prefix: bytes, on_page: Callable[[Sequence[Change]], object]) -> int:
        while self.replica.cut_s is not None or self.applied < len(self.cluster.history):
            await asyncio.sleep(0.001)
        on_page(self.etcd.live(prefix))
        return self.etcd.revision

    def read_record(self, main: int, sub: int) -> bytes | None:
        return self.etcd.records.get((main, sub))

    def subscribe(self, sink: ChangeSink) -> Callable[[], None]:
        self.sink = sink

        def end() -> None:
            self.sink = None

        return end

    # -- leases
    async def lease_grant(self, ttl_s: int) -> int:
        while self.replica.cut_s is not None:
            await asyncio.sleep(0.05)
        await asyncio.sleep(self.cluster.delay_s())
        lease = self.etcd.grant()
        self.cluster.lease_ends_s[lease] = self.cluster.loop.time() + ttl_s
        return lease

    def lease_keep_alive(self, lease: int, lost: Callable[[], None]) -> Callable[[], None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(LEADERSHIP_LEASE_TTL_S / 3)
                if self.replica.cut_s is None and not self.gone:
                    if lease not in self.etcd.leases:
                        lost()
                        return
                    self.cluster.lease_ends_s[lease] = self.cluster.loop.time() + LEADERSHIP_LEASE_TTL_S

        task = self.cluster.loop.create_task(renew())
        self.replica.tasks.append(task)

        def stop() -> None:
            task.cancel()

        return stop

    async def lease_revoke(self, lease: int) -> None:
        await asyncio.sleep(self.cluster.delay_s())
        if self.gone:
            return
        if self.replica.cut_s is not None:
            raise status_of(EtcdError.TIMEOUT)
        self.etcd.revoke(lease)
        future: asyncio.Future[None] = self.cluster.loop.create_future()
        self.when_seen(lambda: None if future.done() else future.set_result(None))
        await future

    # -- the cluster
    def owns_directory(self) -> bool:
        return True

    def shared(self) -> bool:
        return False

    def peers(self) -> Sequence[int]:
        return ()

    def fence_s(self) -> float:
        since = self.cluster.loop.time() if self.replica.cut_s is None else self.replica.cut_s
        if self.applied < len(self.cluster.history):
            since = min(since, self.cluster.history[self.applied][2])
        return since + FENCE_WINDOW_MS / 1000

    def fence_ms(self) -> int:
        return int(self.fence_s() * 1000) + self.replica.mono_offset_ms

    def stuck(self, mono_ms: int) -> str:
        return ""

    def dead(self, names: Collection[str]) -> Collection[str]:
        return [name for name in names if self.cluster.is_dead(name, self.replica)]
