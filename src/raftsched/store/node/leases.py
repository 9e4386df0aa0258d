"""What clients ask of leases beyond grant and revoke: only the leader knows deadlines, so a follower asks it.

Invariant: a renewal is answered after leadership was confirmed behind it: a deposed leader renews nothing.
Must not know: how requests travel (a callable), what hangs on a lease.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from raftsched.errors import EtcdError, PeerError, status_of
from raftsched.store import codec
from raftsched.store.codec import WireError, bytes_field, fields, signed, varint_field
from raftsched.store.lease import Lessor
from raftsched.store.transport.ports import LEASE_TIME_TO_LIVE, RENEW_LEASE

RETRY_S = 0.05  # while no leader is known

Here = TypeVar("Here")
Ask = Callable[[int, int, bytes, int], Awaitable[bytes]]
"""(member, kind of request, payload, timeout in ms) -> answer; raises PeerError."""


class Leases:
    """The lease requests of one member."""

    def __init__(
        self,
        lessor: Lessor,
        *,
        barrier: Callable[[], Awaitable[None]],
        mono_ms: Callable[[], int],
        leader: Callable[[], int],
        own_id: int,
        ask: Ask | None,
        timeout_ms: int,
    ) -> None:
        """`leader()`: 0 = none is known. `ask`: None = there is no other member."""
        self._lessor = lessor
        self._barrier = barrier
        self._mono_ms = mono_ms
        self._leader = leader
        self._own_id = own_id
        self._ask = ask
        self._timeout_ms = timeout_ms
        self._revoke_waiters: list[tuple[int, asyncio.Future[int]]] = []

    # -- here

    async def _renew_here(self, lease: int) -> int:
        await self._barrier()  # leadership is confirmed; also waits for what was granted before
        if not self._lessor.primary:
            raise status_of(EtcdError.NO_LEADER)
        ttl_s = self._lessor.renew(lease, self._mono_ms())
        if ttl_s >= 0:
            return ttl_s
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._revoke_waiters.append((lease, future))
        try:
            return await asyncio.wait_for(future, self._timeout_ms / 1000)
        except TimeoutError:
            raise status_of(EtcdError.TIMEOUT) from None

    async def _time_to_live_here(self, lease: int, *, keys: bool) -> tuple[int, int, Sequence[bytes]]:
        await self._barrier()
        left_s, granted_s = self._lessor.time_to_live(lease, self._mono_ms())
        return left_s, granted_s, (self._lessor.keys_of(lease) or ()) if keys and left_s >= 0 else ()

    def on_applied(self) -> None:
        """Something was applied: who waits for the end of a lease looks again."""
        still = []
        for lease, future in self._revoke_waiters:
            if future.done():
                continue
            if self._lessor.exists(lease):
                still.append((lease, future))
            else:
                future.set_result(0)
        self._revoke_waiters = still

    def stop(self) -> None:
        for _, future in self._revoke_waiters:
            if not future.done():
                future.set_exception(status_of(EtcdError.STOPPED))
        self._revoke_waiters = []

    # -- anywhere

    async def renew(self, lease: int) -> int:
        """See `ports.StoreNode.lease_renew`."""
        answer = await self._at_leader(RENEW_LEASE, varint_field(1, lease), lambda: self._renew_here(lease))
        return answer if isinstance(answer, int) else codec.numbers(answer).get(1, 0)

    async def time_to_live(self, lease: int, *, keys: bool) -> tuple[int, int, Sequence[bytes]]:
        """See `ports.StoreNode.lease_time_to_live`."""
        payload = varint_field(1, lease) + varint_field(2, int(keys))
        answer = await self._at_leader(LEASE_TIME_TO_LIVE, payload, lambda: self._time_to_live_here(lease, keys=keys))
        return answer if isinstance(answer, tuple) else decode_time_to_live(answer)

    async def _at_leader(self, kind: int, payload: bytes, here: Callable[[], Awaitable[Here]]) -> Here | bytes:
        """`here()` if this member leads, else the leader's answer; waits for a leader as long as a request may."""
        stop_ms = self._mono_ms() + self._timeout_ms
        while True:
            leader = self._leader()
            if leader == self._own_id:
                return await here()
            if leader and self._ask is not None:
                try:
                    return await self._ask(leader, kind, payload, max(stop_ms - self._mono_ms(), 1))
                except PeerError as error:
                    if error.code > 0 and error.code != EtcdError.NO_LEADER:  # that one: it leads no more, another will
                        raise status_of(error.code) from None
            if self._mono_ms() >= stop_ms:
                raise status_of(EtcdError.NO_LEADER if not self._leader() else EtcdError.TIMEOUT)
            await asyncio.sleep(RETRY_S)

    # -- for the others

    async def answer(self, kind: int, payload: bytes) -> bytes:
        """A request of another member, to this one as the leader. Raises StatusError; WireError for bytes that are no request."""
        asked = codec.numbers(payload)
        lease = asked.get(1, 0)
        if kind == RENEW_LEASE:
            return varint_field(1, await self._renew_here(lease))
        return encode_time_to_live(*await self._time_to_live_here(lease, keys=bool(asked.get(2, 0))))


def encode_time_to_live(left_s: int, granted_s: int, keys: Sequence[bytes]) -> bytes:
    return varint_field(1, left_s) + varint_field(2, granted_s) + b"".join(bytes_field(3, key) for key in keys)


def decode_time_to_live(data: bytes) -> tuple[int, int, Sequence[bytes]]:
    """Raises WireError."""
    left_s, granted_s, keys = 0, 0, []
    for number, value in fields(data):
        if isinstance(value, bytes):
            keys.append(value)
        elif number == 1:
            left_s = signed(value)
        else:
            granted_s = value
    if granted_s < 0:
        raise WireError("a lease with a negative time to live")
    return left_s, granted_s, keys
