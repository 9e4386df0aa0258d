"""The connection that this member dials to one other, for all that it has to say: made again whenever it ends.

Invariant: messages are sent on no other connection; while there is none they are dropped, since the kernel asks again with something newer.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from struct import Struct
from typing import Final

from raftsched.errors import PeerCode, PeerError
from raftsched.limits import PEER_IDLE_TIMEOUT_MS, PEER_PING_MS, PEER_RECONNECT_MS_MAX, PEER_RECONNECT_MS_MIN
from raftsched.store.raft._kernel import Message
from raftsched.store.transport import handshake
from raftsched.store.transport._frames import WireError, frame
from raftsched.store.transport.connection import Connection, Item
from raftsched.store.transport.dialing import Surroundings, dial
from raftsched.store.transport.outlet import Outlet
from raftsched.store.transport.requests import Asked

_STAMP: Final = Struct("<d")  # the loop's time in seconds, for nobody else's eyes
_STABLE_S: Final = 5.0  # a connection that lived so long ends the back-off


class Link:
    """To one member. `on_version` hears what version it says it is."""

    def __init__(
        self, around: Surroundings, member_id: int, urls: Sequence[str], on_version: Callable[[int, handshake.Version], None]
    ) -> None:
        self.member_id = member_id
        self.urls = tuple(urls)
        self._around = around
        self._on_version = on_version
        self._stats = around.report.peer(member_id)
        self._outlet: Outlet | None = None
        self._connection: Connection | None = None
        self._who: handshake.Identity | None = None
        self._number = 0
        self._asked = Asked()
        self._hurry = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def is_connected(self) -> bool:
        return self._outlet is not None

    @property
    def connection(self) -> int:
        """See `Peers.connection`."""
        return self._number if self._outlet is not None else 0

    def send(self, message: Message) -> bool:
        if self._outlet is None:
            self._stats.send_failures += 1
            return False
        return self._outlet.send(message)

    async def request(self, kind: int, payload: bytes, timeout_ms: int) -> bytes:
        if self._outlet is None:
            raise PeerError(PeerCode.UNREACHABLE, "the peer is not connected")
        return await self._asked.ask(self._outlet.send_frame, kind, payload, timeout_ms)

    def hurry(self) -> None:
        """The member is there: dial now."""
        self._hurry.set()

    def tell_incarnation(self) -> None:
        """The own one became known."""
        if self._outlet is not None:
            self._outlet.send_frame(handshake.known(self._around.own.incarnation))
        self._check_incarnation()

    def _check_incarnation(self) -> None:
        if self._connection is not None and self._who is not None and not self._who.is_of(self._around.own.incarnation):
            self._connection.end(handshake.WRONG_INCARNATION)

    async def close(self) -> None:
        self._task.cancel()
        if self._connection is not None:
            self._connection.end("closed")
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        delay_ms, attempt = PEER_RECONNECT_MS_MIN, 0
        while True:
            self._hurry.clear()
            try:
                url = self.urls[attempt % len(self.urls)] if self.urls else ""
                attempt += 1
                said = self._around.own.incarnation
                connection, who = await dial(self._around, url, receiver_id=self.member_id, purpose=handshake.CONTROL)
                self._who = who
                self._on_version(self.member_id, who.version)
                since = loop.time()
                cause = await self._live(connection, is_told=said == self._around.own.incarnation)
                self._around.report.refuse("lost the connection to a peer", cause, f"{self.member_id:x}")
                attempt -= 1  # the same URL again
                if loop.time() - since >= _STABLE_S:
                    delay_ms = PEER_RECONNECT_MS_MIN
            except PeerError:
                pass  # counted and logged where it arose
            except Exception as error:  # a link must outlive whatever the node's handler does
                self._around.report.error("a link failed", peer=f"{self.member_id:x}", error=f"{type(error).__name__}: {error}")
            await self._wait(delay_ms)
            delay_ms = min(2 * delay_ms, PEER_RECONNECT_MS_MAX)

    async def _wait(self, delay_ms: int) -> None:
        try:
            async with asyncio.timeout(delay_ms * self._around.chance.uniform(0.5, 1.0) / 1000):
                await self._hurry.wait()
                await asyncio.sleep(PEER_RECONNECT_MS_MIN / 2000)  # even then not in a busy loop
        except TimeoutError:
            pass

    async def _live(self, connection: Connection, *, is_told: bool) -> str:
        """Until the connection ends; why it did. `is_told`: the other side knows the own incarnation as this one does."""
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        outlet = Outlet(connection, self._stats)
        self._connection, self._outlet, self._number = connection, outlet, next(self._around.numbers)
        connection.allow()
        connection.on_read = self._count
        connection.on_malformed = self._count_failure
        connection.attach(self._on_item, ended.set_result, outlet.schedule)
        self._stats.connected = 1
        self._around.report.info("connected to a peer", peer=f"{self.member_id:x}", remote=connection.remote)
        if not is_told:
            self.tell_incarnation()
        try:
            while not connection.ended:
                self._ping(connection, outlet)
                await asyncio.wait([ended], timeout=PEER_PING_MS / 1000)
            return connection.ended
        finally:
            connection.end("closed")
            self._connection = self._outlet = None
            self._stats.connected = 0
            self._stats.disconnects += 1
            self._asked.lost()
            for message in outlet.queue.unsent():
                self._around.handler.on_unsent(self.member_id, message)

    def _ping(self, connection: Connection, outlet: Outlet) -> None:
        now = asyncio.get_running_loop().time()
        if now - connection.heard_at > PEER_IDLE_TIMEOUT_MS / 1000:
            connection.end("the peer is silent")
        else:
            outlet.send_frame(frame(handshake.PING, _STAMP.pack(now)))

    def _count(self, count: int) -> None:
        self._stats.received_bytes += count

    def _count_failure(self) -> None:
        self._stats.receive_failures += 1

    def _on_item(self, item: Item) -> None:
        kind, payload = item if isinstance(item, tuple) else (0, b"")
        try:
            self._on_frame(kind, payload)
        except WireError as error:
            self._count_failure()
            if self._connection is not None:
                self._connection.end(str(error))

    def _on_frame(self, kind: int, payload: bytes) -> None:
        if kind == handshake.RESPONSE:
            self._asked.answered(payload)
        elif kind == handshake.KNOWN and self._who is not None:
            self._who = replace(self._who, incarnation=handshake.read_known(payload))
            self._check_incarnation()
        elif kind == handshake.PONG and len(payload) == _STAMP.size:
            self._pong(payload)
        else:
            raise WireError("a frame out of order")

    def _pong(self, stamp: bytes) -> None:
        seconds: float = asyncio.get_running_loop().time() - _STAMP.unpack(stamp)[0]
        if 0 <= seconds < 2 * PEER_IDLE_TIMEOUT_MS / 1000:  # anything else is not an echo of ours
            self._stats.observe_round_trip(seconds)
