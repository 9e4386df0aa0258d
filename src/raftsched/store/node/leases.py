"""What clients ask of leases beyond grant and revoke: only the leader knows deadlines, so a follower asks it.

Invariant: a renewal is answered after leadership was confirmed behind it: a deposed leader renews nothing.
Must not know: how requests travel (a callable), what hangs on a lease.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from raftsched.errors import EtcdError, PeerError, StatusError, status_of
from raftsched.store import codec
from raftsched.store._wire import sole_number, two_numbers
from raftsched.store.codec import WireError, varint_field
from raftsched.store.lease import Lessor
from raftsched.store.transport.ports import LEASE_TIME_TO_LIVE, RENEW_LEASE

RETRY_S = 0.05  # while no leader is known
ASK_MS = 2_000  # a leader that does not answer may have been replaced meanwhile: who leads is looked at again
ELSEWHERE: Final = frozenset({EtcdError.NO_LEADER, EtcdError.NOT_LEADER, EtcdError.LEADER_CHANGED})
"""That member leads no more, or not yet; another will."""
ELSEWHERE_TEXTS: Final = frozenset(status_of(error).message for error in ELSEWHERE)

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
        certain: Callable[[], bool],
        header: Callable[[], bytes],
        mono_ms: Callable[[], int],
        leader: Callable[[], int],
        own_id: int,
        ask: Ask | None,
        timeout_ms: int,
    ) -> None:
        """`certain()`: whether `barrier` has nothing to wait for. `header()`: of an answer, at the present revision. `leader()`: 0 = none
        is known. `ask`: None = there is no other member."""
        self._lessor = lessor
        self._barrier = barrier
        self._certain = certain
        self._header = header
        self._mono_ms = mono_ms
        self._leader = leader
        self._own_id = own_id
        self._ask = ask
        self._timeout_ms = timeout_ms
        self._revoke_waiters: list[tuple[int, asyncio.Future[int]]] = []
        self._stopped = False

    # -- here

    async def _lead(self) -> None:
        await self._barrier()  # leadership is confirmed; also waits for what was granted before
        if not self._lessor.primary:
            raise status_of(EtcdError.NO_LEADER)

    def answer_now(self, message: bytes) -> bytes | None:
        """See `ports.StoreNode.lease_answer_now`. The header is made in the same turn: its revision is as old as the answer's truth."""
        lessor = self._lessor
        if not lessor.primary or not self._certain():
            return None
        lease = sole_number(message)
        ttl_s = -1 if lease is None else lessor.renew(lease, self._mono_ms())
        return None if lease is None or ttl_s < 0 else two_numbers(self._header(), lease, ttl_s)

    async def _renew_here(self, lease: int) -> int:
        await self._lead()
        ttl_s = self._lessor.renew(lease, self._mono_ms())
        if ttl_s >= 0:
            return ttl_s
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._revoke_waiters.append((lease, future))
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                return await future
        except TimeoutError:
            raise status_of(EtcdError.TIMEOUT) from None

    async def _time_to_live_here(self, lease: int) -> tuple[int, int]:
        await self._lead()
        return self._lessor.time_to_live(lease, self._mono_ms())

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
        self._stopped = True
        for _, future in self._revoke_waiters:
            if not future.done():
                future.set_exception(status_of(EtcdError.STOPPED))
        self._revoke_waiters = []

    # -- anywhere

    async def renew(self, lease: int) -> int:
        """See `ports.StoreNode.lease_renew`."""
        answer = await self._at_leader(RENEW_LEASE, varint_field(1, lease), lambda: self._renew_here(lease))
        return answer if isinstance(answer, int) else decoded(answer).get(1, 0)

    async def time_to_live(self, lease: int, *, keys: bool) -> tuple[int, int, Sequence[bytes]]:
        """See `ports.StoreNode.lease_time_to_live`."""
        answer = await self._at_leader(LEASE_TIME_TO_LIVE, varint_field(1, lease), lambda: self._time_to_live_here(lease))
        if isinstance(answer, bytes):
            found = decoded(answer)
            answer = found.get(1, 0), found.get(2, 0)
            if keys and answer[0] >= 0:
                await self._barrier()
        # the keys are the same everywhere, and may be more than an answer between members may hold
        return *answer, (self._lessor.keys_of(lease) or ()) if keys and answer[0] >= 0 else ()

    async def _at_leader(self, kind: int, payload: bytes, here: Callable[[], Awaitable[Here]]) -> Here | bytes:
        """`here()` if this member leads, else the leader's answer; waits for a leader as long as a request may."""
        stop_ms = self._mono_ms() + self._timeout_ms
        while not self._stopped:
            leader = self._leader()
            try:
                if leader == self._own_id:
                    return await here()
                if leader and self._ask is not None:
                    return await self._ask(leader, kind, payload, max(min(stop_ms - self._mono_ms(), ASK_MS), 1))
            except StatusError as error:
                if error.message not in ELSEWHERE_TEXTS:
                    raise
            except PeerError as error:
                if error.code > 0 and error.code not in ELSEWHERE and error.code != EtcdError.STOPPED:  # that one stops, not this
                    raise status_of(error.code) from None
            if self._mono_ms() >= stop_ms:
                raise status_of(EtcdError.NO_LEADER if not self._leader() else EtcdError.TIMEOUT)
            await asyncio.sleep(RETRY_S)
        raise status_of(EtcdError.STOPPED)

    # -- for the others

    def serve(self, requests: dict[int, Callable[[int, bytes], Awaitable[bytes]]]) -> None:
        requests[RENEW_LEASE] = lambda _sender, payload: self.answer(RENEW_LEASE, payload)
        requests[LEASE_TIME_TO_LIVE] = lambda _sender, payload: self.answer(LEASE_TIME_TO_LIVE, payload)

    async def answer(self, kind: int, payload: bytes) -> bytes:
        """A request of another member, to this one as the leader. Raises StatusError; WireError for bytes that are no request."""
        lease = codec.numbers(payload).get(1, 0)
        if kind == RENEW_LEASE:
            return varint_field(1, await self._renew_here(lease))
        left_s, granted_s = await self._time_to_live_here(lease)
        return varint_field(1, left_s) + varint_field(2, granted_s)


def decoded(answer: bytes) -> Mapping[int, int]:
    """What another member answered; done there, but unreadable: as if no answer had come. Raises StatusError."""
    try:
        return codec.numbers(answer)
    except WireError:
        raise status_of(EtcdError.TIMEOUT) from None
