"""`KvClient` over an external etcd: joins the parts of this room.

Invariant: subscribers hear of a change before those of this process who wait for it are answered, as far as the watch is there.
Must not know: jobs, the engine.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import EXTERNAL_PAGE_BYTES, EXTERNAL_SETTLE_MS, SCAN_PAGE_KEYS, STORE_RETRY_MS_MAX, STORE_RETRY_MS_MIN
from raftsched.pb.etcd import rpc_pb2
from raftsched.ports import ChangeSink, Log
from raftsched.scheduler.bridge.external.caller import KV_RANGE, Caller
from raftsched.scheduler.bridge.external.condition import Condition
from raftsched.scheduler.bridge.external.endpoints import ClientFiles, Endpoints, Target
from raftsched.scheduler.bridge.external.leases import Leases
from raftsched.scheduler.bridge.external.order import BESIDE, ROOTS
from raftsched.scheduler.bridge.external.packing import split_header
from raftsched.scheduler.bridge.external.records import Records
from raftsched.scheduler.bridge.external.refusals import TRANSIENT, CallError
from raftsched.scheduler.bridge.external.watching import Watch
from raftsched.scheduler.bridge.external.writing import Writer
from raftsched.scheduler.jobs.names import JOBS, prefix_end
from raftsched.scheduler.jobs.requests import range_request
from raftsched.types import Change

FIRST_PAGE_KEYS = 100


class ExternalKv:
    """Made and started on the loop that it runs on."""

    def __init__(
        self, targets: Sequence[Target], *, log: Log, files: ClientFiles | None = None, user: str = "", password: str = ""
    ) -> None:
        """Raises OSError: a certificate file cannot be read."""
        self._caller = Caller(Endpoints(targets, files or ClientFiles(), log), log, user=user, password=password)
        self._records = Records()
        self._watch = Watch(self._caller, self._records, log)
        self._leases = Leases(self._caller, log)
        self._writer = Writer(self._caller, self._watch)
        self.condition = Condition(self._caller, self._watch, self._leases, log)
        self._tasks: list[asyncio.Task[None]] = []
        self.read_record = self._records.read
        self.write_many = self._writer.write_many
        self.txn_packed = self._writer.txn_packed
        self.lease_keep_alive = self._leases.keep_alive
        self.loads_total = 0

    def start(self) -> None:
        """Needs nobody to answer."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._watch.run()), loop.create_task(self.condition.run())]

    async def close(self) -> None:
        """After the scheduler has stopped. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._writer.close()
        await self._leases.close()
        await self._caller.close()

    # -- reads
    async def range(self, request: bytes) -> tuple[int, bytes]:
        delay_ms = STORE_RETRY_MS_MIN
        while True:
            try:
                return split_header(await self._caller.call(KV_RANGE, request, again=True))
            except CallError as error:
                if error.error not in TRANSIENT or self._caller.closed:
                    raise error.for_callers() from None
            await asyncio.sleep(delay_ms / 1000)
            delay_ms = min(delay_ms * 2, STORE_RETRY_MS_MAX)

    async def scan(self, prefix: bytes, on_page: Callable[[Sequence[Change]], object]) -> int:
        """Each page is of its own moment, and no compaction can take it away: what changes meanwhile is told between the pages."""
        await self._watch.live.wait()
        if prefix == JOBS:
            self.loads_total += 1
            self._records.begin_sweep()
        beside = prefix.startswith(ROOTS[BESIDE])
        if beside and self._watch.bare:
            return self._watch.known
        start, end, keys = prefix, prefix_end(prefix), FIRST_PAGE_KEYS
        while True:
            with self._watch.holding():
                revision, body = await self._page(range_request(start, end, limit=keys), beside=beside)
                page = rpc_pb2.RangeResponse.FromString(body)
                if page.kvs:
                    on_page(list(self._changes(page)))
            if not page.more:
                break
            start = page.kvs[-1].key + b"\0"
            keys = _page_keys(len(page.kvs), len(body))
            await asyncio.sleep(0)  # who waited with changes is before us in the line
        if prefix == JOBS:
            self._records.end_sweep()
        if beside:
            await self._caught_up(revision)
        return revision

    async def _page(self, request: bytes, *, beside: bool) -> tuple[int, bytes]:
        try:
            return await self.range(request)
        except StatusError as error:
            if beside and error.code == GrpcCode.PERMISSION_DENIED:
                self._watch.restart()  # which finds out that it has to go without
            raise

    async def _caught_up(self, revision: int) -> None:
        """What was read may be newer than what was told: a pause that is over already, without the counter that moved with it. Done when
        all of it was told, or the history is lost and everything is read again."""
        resets = self._watch.resets_total
        while self._watch.resets_total == resets:
            with suppress(TimeoutError):
                async with asyncio.timeout(EXTERNAL_SETTLE_MS / 1000):
                    await self._watch.told(revision, comes=False, beside=True)
                    return

    def _changes(self, page: rpc_pb2.RangeResponse) -> Iterator[Change]:
        for kv in page.kvs:
            record = kv.SerializeToString()
            slot = self._records.put(kv.key, kv.mod_revision, record) if kv.key.startswith(JOBS) else 0
            yield Change(False, kv.key, kv.mod_revision, slot, record)

    # -- writes
    async def txn(self, request: bytes) -> tuple[int, bytes]:
        try:
            return await self._writer.txn(request)
        except CallError as error:
            raise error.for_callers() from None

    def subscribe(self, sink: ChangeSink) -> Callable[[], None]:
        return self._watch.subscribe(sink)

    # -- leases
    async def lease_grant(self, ttl_s: int) -> int:
        try:
            return await self._leases.grant(ttl_s)
        except CallError as error:
            raise error.for_callers() from None

    async def lease_revoke(self, lease: int) -> None:
        try:
            await self._leases.revoke(lease)
        except CallError as error:
            raise error.for_callers() from None

    # -- the others
    def owns_directory(self) -> bool:
        return False

    def shared(self) -> bool:
        return True

    def peers(self) -> Sequence[int]:
        return ()

    def fence_ms(self) -> int:
        return self._leases.fence_ms

    def stuck(self, mono_ms: int) -> str:
        return self.condition.stuck(mono_ms)

    def dead(self, names: Collection[str]) -> Collection[str]:
        return ()

    # -- for the process
    @property
    def healthy(self) -> bool:
        """False while etcd does not let the scheduler do its work."""
        return self.condition.healthy

    @property
    def reachable(self) -> bool:
        """It answered the last question."""
        return self.condition.met and not self.condition.trouble

    def stats(self) -> dict[str, float]:
        """What is counted here, by metric name."""
        return {
            "raftsched_external_etcd_up": float(self.reachable),
            "raftsched_external_endpoint_changes_total": self._caller.endpoints.moves_total,
            "raftsched_external_calls_repeated_total": self._caller.repeats_total,
            "raftsched_external_logins_total": self._caller.logins_total,
            "raftsched_external_watch_resumes_total": self._watch.resumes_total,
            "raftsched_external_watch_lags_total": self._watch.pace.lags_total,
            "raftsched_external_history_lost_total": self._watch.resets_total,
            "raftsched_external_loads_total": self.loads_total,
            "raftsched_external_lease_renewals_total": self._leases.renewals_total,
            "raftsched_external_lease_renewals_failed_total": self._leases.failures_total,
            "raftsched_external_trigger_seconds_left": self._leases.left_ms / 1000,
            "raftsched_external_writes_total": self._writer.writes_total,
            "raftsched_external_packs_total": self._writer.packs_total,
            "raftsched_external_known_revision": self._watch.known,
            "raftsched_external_records": len(self._records),
            "raftsched_external_records_bytes": self._records.bytes_held,
        }


def _page_keys(keys: int, size_bytes: int) -> int:
    """How many keys the next page asks for, by what the last one weighed."""
    fitting = EXTERNAL_PAGE_BYTES * max(keys, 1) // max(size_bytes, 1)
    return max(1, min(SCAN_PAGE_KEYS, 4 * keys, fitting))


__all__ = ["ClientFiles", "ExternalKv", "Target"]
