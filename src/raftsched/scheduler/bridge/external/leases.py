"""The lease of the leadership key, and how long this replica may trigger on it (`KvClient.fence_ms`).

etcd ends a lease no sooner than its TTL after it was asked for the last renewal that it granted; we count from before we asked, and
stop EXTERNAL_FENCE_MARGIN_MS earlier: so nobody else is given what we still fire (docs/decisions/0010). Each renewal is a stream of
one question and one answer; without an answer it is asked again at once, wherever somebody answers, until it is known that the lease
is over. Then the key is claimed anew, by whom `lost` tells.
Must not know: which keys hang on the lease.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Final

from raftsched.errors import EtcdError, GrpcCode
from raftsched.limits import EXTERNAL_FENCE_MARGIN_MS, EXTERNAL_RENEW_AGAIN_MS, EXTERNAL_RENEW_MS, EXTERNAL_RENEW_TIMEOUT_MS
from raftsched.pb.etcd import rpc_pb2
from raftsched.ports import Log
from raftsched.scheduler.bridge.external.caller import LEASE_GRANT, LEASE_KEEP_ALIVE, LEASE_REVOKE, Caller, stopping
from raftsched.scheduler.bridge.external.refusals import CallError

ID_BITS: Final = 62  # positive, as etcd's own are


class Leases:
    """At most one lease at a time is the fence's: the one granted last."""

    def __init__(self, caller: Caller, log: Log) -> None:
        self._caller = caller
        self._log = log
        self._lease = 0
        self.fence_ms = 0
        """Monotonic ms."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.renewals_total = 0
        self.failures_total = 0
        self._failing = ""
        """Why the last renewal failed; "" = it did not."""
        self._pause_told = False

    async def grant(self, ttl_s: int) -> int:
        """Its id is ours to choose, so that asking twice makes one. Raises `CallError`."""
        lease = secrets.randbits(ID_BITS) | 1
        asked_ms = _now_ms()
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s, ID=lease).SerializeToString()
        try:
            body = await self._caller.call(LEASE_GRANT, request, again=True)
            granted_s = rpc_pb2.LeaseGrantResponse.FromString(body).TTL
        except CallError as error:
            if error.error != EtcdError.LEASE_EXISTS:
                raise
            granted_s = ttl_s  # an answer was lost
        self._lease = lease
        self._lend(asked_ms, granted_s)
        return lease

    def _lend(self, asked_ms: int, ttl_s: int) -> None:
        self.fence_ms = max(self.fence_ms, asked_ms + ttl_s * 1000 - EXTERNAL_FENCE_MARGIN_MS)

    def keep_alive(self, lease: int, lost: Callable[[], None]) -> Callable[[], None]:
        task = asyncio.get_running_loop().create_task(self._renew(lease, lost))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def stop() -> None:
            task.cancel()

        return stop

    async def _renew(self, lease: int, lost: Callable[[], None]) -> None:
        delay_ms = EXTERNAL_RENEW_MS
        while True:
            await asyncio.sleep(delay_ms / 1000)
            asked_ms = _now_ms()
            try:
                ttl_s = await self._ask(lease)
            except BaseException as error:  # whatever it is: without an answer the fence ends by itself
                if stopping(error):
                    raise
                self._failed(lease, error)
                delay_ms = EXTERNAL_RENEW_AGAIN_MS  # no leader for the moment: the lease is not lost by that
                continue
            self.renewals_total += 1
            self._answered()
            if ttl_s <= 0:
                self._over(lease)
                lost()
                return
            if lease == self._lease:
                self._lend(asked_ms, ttl_s)
            delay_ms = EXTERNAL_RENEW_MS

    def _failed(self, lease: int, error: BaseException) -> None:
        """Said when it begins, when its cause is another, and when triggers stop for it: not four times a second."""
        self.failures_total += 1
        left_ms = self.fence_ms - _now_ms()
        cause = error.error.name if isinstance(error, CallError) else type(error).__name__
        over = left_ms <= 0 and lease == self._lease
        if cause == self._failing and (self._pause_told or not over):
            return
        self._failing, self._pause_told = cause, over
        then = "triggers pause until it is" if over else f"asked again in {EXTERNAL_RENEW_AGAIN_MS} ms, triggers pause in {left_ms} ms"
        self._log.warning(f"the leadership lease could not be renewed: {error}: {then}")

    def _answered(self) -> None:
        if self._failing:
            self._log.info("the leadership lease is answered for again")
        self._failing, self._pause_told = "", False

    @property
    def left_ms(self) -> int:
        """How long the fence still lasts."""
        return max(0, self.fence_ms - _now_ms())

    @property
    def trouble(self) -> str:
        """Why this replica may not trigger though it has a lease; "" = it may, or has none."""
        if not self._lease or self.left_ms:
            return ""
        return f"the leadership lease is not renewed: {self._failing or 'no answer yet'}"

    async def _ask(self, lease: int) -> int:
        """The TTL in seconds after renewing; 0 = there is no such lease."""
        stream = await self._caller.open_stream(LEASE_KEEP_ALIVE, timeout_ms=EXTERNAL_RENEW_TIMEOUT_MS)
        try:
            await stream.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease).SerializeToString(), EXTERNAL_RENEW_TIMEOUT_MS)
            answer = rpc_pb2.LeaseKeepAliveResponse.FromString(await stream.read(EXTERNAL_RENEW_TIMEOUT_MS))
        finally:
            stream.cancel()
        if lease != answer.ID:
            raise CallError(GrpcCode.INTERNAL, "an answer about another lease", EtcdError.TIMEOUT, sent=True)
        return int(answer.TTL)

    def _over(self, lease: int) -> None:
        if lease == self._lease:
            self._lease = self.fence_ms = 0

    async def revoke(self, lease: int) -> None:
        """Raises `CallError`."""
        self._over(lease)
        try:
            await self._caller.call(LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease).SerializeToString(), again=True)
        except CallError as error:
            if error.error != EtcdError.LEASE_NOT_FOUND:
                raise

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
