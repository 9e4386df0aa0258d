"""The etcd API over the real state machine without a log: what rpc/etcd's own tests and profiles run against.

`LoneNode` is a `StoreNode` that applies a proposal at once, in memory; store/node.py is the real one. `EtcdDoor` serves it on a
loopback port from a loop in a thread.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from raftsched import limits
from raftsched.errors import EtcdError, GrpcCode, StatusError, status_of
from raftsched.ports import ChangeSink, Labelled, Permit, SnapshotFile, StoreStatus, TokenSigner
from raftsched.proposals import COMPACTION
from raftsched.rpc.etcd.services import EtcdServices
from raftsched.rpc.gateway.front import Front
from raftsched.rpc.gateway.gateway import Gateway
from raftsched.rpc.http import HttpEndpoints
from raftsched.rpc.http2._h2 import Engine
from raftsched.rpc.metrics import Metrics
from raftsched.store._records import MemoryRecords
from raftsched.store._wire import sole_number, two_numbers
from raftsched.store.alarm import AlarmStore
from raftsched.store.apply import Applier, SideWrites
from raftsched.store.auth.identity import wire_identity
from raftsched.store.codec import Headers, RequestIds, wrap
from raftsched.store.lease import Lessor
from raftsched.store.membership import Membership
from raftsched.store.mvcc._store import MvccStore
from raftsched.store.node.authentication import Authentication
from raftsched.types import NOBODY, Identity, MemberInfo, Result, ResultSink

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Guard

MEMBER_ID = 0x1001
CLUSTER_ID = 0x2002
BCRYPT_COST = 4  # the least: tests log in often


class LoneNode:
    """A member without peers, log and disk."""

    def __init__(self, *, request_bytes_max: int = limits.REQUEST_BYTES_MAX) -> None:
        side = SideWrites()
        self.lessor = Lessor(side.write)
        self._records = MemoryRecords()
        self.mvcc = MvccStore(self._records, self.lessor, hash_seed=7)
        self._alarms = AlarmStore(side.write)
        self._applier = Applier(self.mvcc, self.lessor, self._alarms, Membership(side.write), side)
        self._headers = Headers(CLUSTER_ID, MEMBER_ID)
        self._headers.term = self.term = 2
        self._ids = RequestIds(MEMBER_ID, 1)
        self.auth = Authentication(
            self._applier, propose=self.propose_many, barrier=self.read_barrier, mono_ms=self._now_ms, bcrypt_cost=BCRYPT_COST
        )
        self._sinks: list[ChangeSink] = []
        self._request_bytes_max = request_bytes_max
        self.member_id = MEMBER_ID
        self.cluster_id = CLUSTER_ID
        self.leader_id = MEMBER_ID
        self.is_learner = False
        self.cluster_version = "3.7.0"
        self.lessor.promote(self._now_ms(), 0)

    @staticmethod
    def _now_ms() -> int:
        return time.monotonic_ns() // 1_000_000

    @property
    def revision(self) -> int:
        return self.mvcc.revision

    def propose_many(
        self, kind: int, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink, *, identity: Identity = NOBODY
    ) -> None:
        if not self.leader_id:
            sink.on_results(tokens, [(EtcdError.NO_LEADER, 0, b"")] * len(tokens))
            return
        fitting = [(token, one) for token, one in zip(tokens, messages, strict=True) if len(one) + 20 <= self._request_bytes_max]
        if len(fitting) < len(tokens):
            kept = {token for token, _ in fitting}
            large = [token for token in tokens if token not in kept]
            sink.on_results(large, [(EtcdError.REQUEST_TOO_LARGE, 0, b"")] * len(large))
        if not fitting:
            return
        self._applier.set_time(self._now_ms())
        entries = wrap(kind, [one for _, one in fitting], self._ids.take(len(fitting)), wire_identity(identity))
        _, results = self._applier.apply(self._applier.applied_index + 1, self.term, 0, entries)
        if kind == COMPACTION:
            self._scrub()
        changes = self.mvcc.take_changes()
        for listener in list(self._sinks) if changes else ():
            listener.on_changes(changes, self.mvcc.revision)
        sink.on_results([token for token, _ in fitting], results)

    def read_many(self, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink, *, permit: Permit | None = None) -> None:
        if self.leader_id:
            if permit is not None and self.auth.store.enabled:
                tokens, messages = permit(tokens, messages)
            sink.on_results(tokens, self.mvcc.range_many(messages))
        else:
            sink.on_results(tokens, [(EtcdError.NO_LEADER, 0, b"")] * len(tokens))

    def read_local(self, message: bytes) -> Result:
        return self.mvcc.range(message)

    def read_local_many(self, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink) -> None:
        sink.on_results(tokens, self.mvcc.range_many(messages))

    def read_barrier(self) -> Awaitable[None]:
        return asyncio.sleep(0)

    def header(self, revision: int) -> bytes:
        return self._headers.encode(revision)

    def members(self) -> Sequence[MemberInfo]:
        return [MemberInfo(MEMBER_ID, "lone", ("http://localhost:2380",), ("http://localhost:2379",))]

    def fence_ms(self) -> int:
        return limits.FENCE_ALONE_MS

    def waiting_since_ms(self) -> int:
        return 0

    def peers(self) -> Sequence[int]:
        return ()

    def dead(self, names: Collection[str]) -> Collection[str]:
        return ()

    def add_change_sink(self, sink: ChangeSink) -> Callable[[], None]:
        self._sinks.append(sink)
        self.mvcc.watching = True

        def end() -> None:
            self._sinks.remove(sink)
            self.mvcc.watching = bool(self._sinks)

        return end

    def next_lease_id(self) -> int:
        return self._ids.lease_id()

    async def lease_renew(self, lease: int) -> int:
        return max(0, self.lessor.renew(lease, self._now_ms()))

    def lease_answer_now(self, message: bytes) -> bytes | None:
        lease = sole_number(message)
        ttl_s = -1 if lease is None else self.lessor.renew(lease, self._now_ms())
        return None if lease is None or ttl_s < 0 else two_numbers(self.header(self.mvcc.revision), lease, ttl_s)

    async def lease_time_to_live(self, lease: int, *, keys: bool) -> tuple[int, int, Sequence[bytes]]:
        left, granted = self.lessor.time_to_live(lease, self._now_ms())
        return left, granted, (self.lessor.keys_of(lease) or ()) if keys else ()

    async def lease_ids(self) -> Sequence[int]:
        return self.lessor.ids()

    def alarms(self) -> Sequence[tuple[int, int]]:
        return self._alarms.raised()

    def status(self) -> StoreStatus:
        index = self._applier.applied_index
        return StoreStatus(
            db_size=4096, db_size_in_use=4096, quota=2 << 30, raft_index=index, applied_index=index, is_learner=self.is_learner
        )

    async def scrubbed(self) -> None: ...

    def _scrub(self) -> None:
        """Commits what is pending and drops what the compaction made unreachable, at once."""
        self._records.store(self.mvcc.swap())
        self.mvcc.release()
        done = False
        while not done:
            dropped, done = self.mvcc.scrub(1_000)
            for main, sub, tombstone in dropped:
                self._records.remove(main, sub, tombstone)

    async def defragment(self) -> None: ...

    async def hash(self) -> int:
        return self.mvcc.hash_kv(0)[1]

    async def hash_kv(self, revision: int) -> tuple[int, int, int]:
        error, value, compact_revision, hash_revision = self.mvcc.hash_kv(revision)
        if error:
            raise status_of(error)
        return value, compact_revision, hash_revision

    async def snapshot(self) -> SnapshotFile:
        raise StatusError(GrpcCode.UNIMPLEMENTED, "a node without a disk")

    def counters(self) -> Mapping[str, float]:
        return {"etcd_debugging_lease_granted_total": self.lessor.granted_total}

    def histograms(self) -> Mapping[str, tuple[Sequence[tuple[float, int]], float]]:
        return {}

    def labelled(self) -> Labelled:
        return {}


@asynccontextmanager
async def lone() -> AsyncIterator[LoneNode]:
    yield LoneNode()


class EtcdDoor:
    """A node behind a real door, on a loop in a thread; a context manager. `open_node` makes it there, by default a `LoneNode`."""

    def __init__(
        self,
        *,
        open_node: Callable[[], AbstractAsyncContextManager[Any]] = lone,
        progress_interval_ms: float = limits.WATCH_PROGRESS_INTERVAL_MS,
        leader_lost_ms: int = 3_000,
        extensive_metrics: bool = False,
        token_signer: TokenSigner | None = None,
        cors: Collection[str] = ("*",),
        hosts: Collection[str] = ("*",),
        guard: "Guard | None" = None,
        names_users: Callable[[], bool] = lambda: False,
        streams_max: int = limits.STREAMS_MAX,
    ) -> None:
        """With `guard` TLS and clear text share the port."""
        self.node: Any = None
        self.errors: list[tuple[str, BaseException]] = []
        self._cors, self._hosts, self._guard, self._names_users = cors, hosts, guard, names_users
        self._streams_max = streams_max
        self._open_node = open_node
        self.port = 0
        self._options: dict[str, Any] = {"progress_interval_ms": lambda: progress_interval_ms, "leader_lost_ms": leader_lost_ms}
        self._options["extensive_metrics"] = extensive_metrics
        self._options["token_signer"] = token_signer
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.main()), daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> "EtcdDoor":
        self._thread.start()
        self.wait_ready(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join(10)

    def wait_ready(self, timeout_s: float) -> None:
        assert self._ready.wait(timeout_s), "the door did not open"

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)

    def run(self, work: Callable[[], Any]) -> Any:
        """`work()` on the loop thread; its result."""

        async def call() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(10)

    async def main(self) -> None:
        """Serves on the running loop until `end`."""
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._open_node() as self.node:
            await self._serve()

    async def _serve(self) -> None:
        self.metrics = Metrics()
        self.endpoints = HttpEndpoints(self.node, self.metrics)
        self.front = Front(self.endpoints, cors=self._cors, hosts=self._hosts, names_users=self._names_users)
        self.engine = Engine(
            self.loop,
            message_bytes_max=limits.REQUEST_BYTES_MAX + limits.GRPC_OVERHEAD_BYTES,
            streams_max=self._streams_max,
            on_http=self.front,
            on_http_head=self.front.head,
            on_error=lambda where, error: self.errors.append((where, error)),
        )
        self.front.gateway = Gateway(self.engine)
        self.services = EtcdServices(self.engine, self.node, **self._options)
        self.metrics.add(self.services.families)
        server = await self.engine.listen("127.0.0.1", 0, guard=self._guard, plaintext_too=self._guard is not None)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        await self.engine.drain(500)
