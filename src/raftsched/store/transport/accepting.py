"""Who dials in: handshakes, the one live control connection per member, bulk streams, questions from outside.

Invariant: before a dialer is known nothing it sends reaches the handler, and it holds no more than a small buffer for
PEER_HANDSHAKE_TIMEOUT_MS. Of two control connections of one member only the younger is heard.
"""

import asyncio
from collections.abc import Callable, Container

from raftsched.errors import PeerError
from raftsched.limits import (
    PEER_ASKS_MAX,
    PEER_BULK_STREAMS_MAX,
    PEER_HANDSHAKE_TIMEOUT_MS,
    PEER_HANDSHAKES_MAX,
    PEER_MESSAGE_BYTES_MAX,
    PEER_REQUEST_BYTES_MAX,
)
from raftsched.store.transport import handshake
from raftsched.store.transport._frames import WireError
from raftsched.store.transport.bulk import PeerBulkStream
from raftsched.store.transport.connection import Connection, words
from raftsched.store.transport.dialing import Surroundings
from raftsched.store.transport.handshake import Hello
from raftsched.store.transport.inbound import Inbound
from raftsched.store.transport.requests import answer_frame, read_request

_TIMEOUT_S = PEER_HANDSHAKE_TIMEOUT_MS / 1000
_ASK_TIMEOUT_MS_MAX = 60_000


class Acceptor:
    """The listening half. `on_peer(member, version)` tells of each control connection that is let in."""

    def __init__(self, around: Surroundings, *, on_peer: Callable[[int, handshake.Version], None]) -> None:
        self.members: Container[int] = ()
        self.message_bytes_max = PEER_MESSAGE_BYTES_MAX
        self._around = around
        self._on_peer = on_peer
        self._tasks: dict[asyncio.Task[None], Connection] = {}
        self._shaking = self._asks = 0
        self._inbound: dict[int, Inbound] = {}
        self._streams: set[PeerBulkStream] = set()
        self._closed = False

    def make(self) -> Connection:
        """The protocol factory of the server."""
        return Connection(self._made)

    def _made(self, connection: Connection) -> None:
        if self._closed:  # it was accepted before and is told of only now
            connection.end("closed")
            return
        if self._shaking >= PEER_HANDSHAKES_MAX:
            self._refuse(connection, "too many handshakes", connection.remote)
            return
        self._shaking += 1
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks[task] = connection
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def _refuse(self, connection: Connection, cause: str, peer: str) -> None:
        connection.end(cause)
        self._around.report.refuse("closed a peer's connection", cause, peer, remote=connection.remote)

    # -- the handshake

    async def _serve(self, connection: Connection) -> None:
        said: Hello | None = None
        try:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    said, cause = await self._greet(connection)
            except (WireError, OSError) as error:
                cause = words(error)
        finally:
            self._shaking -= 1
        if said is None or cause:
            self._turn_away(connection, said, cause)
        elif said.purpose == handshake.CONTROL:
            self._let_in(connection, said)
        elif said.purpose == handshake.BULK:
            await self._serve_bulk(connection, said)
        else:
            await self._serve_ask(connection)

    async def _greet(self, connection: Connection) -> tuple[Hello, str]:
        """What the dialer said, and why it may not come in."""
        around = self._around
        if around.tls is not None:
            await connection.start_tls(around.tls.server(), _TIMEOUT_S)
            if cause := around.tls.objection(connection.tls()):
                raise WireError(cause)
        connection.start_reading()
        nonce = around.nonce(handshake.NONCE_BYTES)
        connection.write(handshake.challenge(nonce))
        said = handshake.read_hello(await connection.receive())
        return said, handshake.objection(said, around.own, nonce, self.members, around.handler.is_removed)

    def _turn_away(self, connection: Connection, said: Hello | None, cause: str) -> None:
        known = said is not None and said.sender.cluster_id == self._around.own.cluster_id and said.sender.member_id in self.members
        peer = f"{said.sender.member_id:x}" if said is not None and known else connection.remote
        if said is not None and cause == "removed member":
            connection.write(handshake.refused(self._around.own, handshake.REMOVED, said.sender.member_id))
            connection.close()
            asyncio.get_running_loop().call_later(_TIMEOUT_S, connection.end, cause)
            self._around.report.refuse("closed a peer's connection", cause, peer, remote=connection.remote)
        elif cause != "closed by the other side" or said is not None:
            self._refuse(connection, cause, peer)
        else:
            self._refuse(connection, "closed in the handshake", peer)

    # -- control

    def _let_in(self, connection: Connection, said: Hello) -> None:
        sender = said.sender.member_id
        stats = self._around.report.peer(sender)
        stats.generation += 1
        older = self._inbound.pop(sender, None)
        if older is not None:
            older.connection.end("a newer connection of this peer came in")
        connection.allow(message_bytes_max=self.message_bytes_max)
        connection.write(handshake.welcome(self._around.own))
        self._inbound[sender] = inbound = Inbound(self._around, connection, said.sender, stats, self._gone)
        self._on_peer(sender, said.sender.version)
        inbound.start()

    def _gone(self, inbound: Inbound) -> None:
        if inbound.connection.ended == handshake.WRONG_INCARNATION:
            for stream in [one for one in self._streams if one.member_id == inbound.sender]:
                stream.abort()
        if self._inbound.get(inbound.sender) is inbound:
            del self._inbound[inbound.sender]

    # -- bulk streams and questions

    async def _serve_bulk(self, connection: Connection, said: Hello) -> None:
        sender = said.sender.member_id
        if len(self._streams) >= PEER_BULK_STREAMS_MAX:
            connection.write(handshake.refused(self._around.own, handshake.BUSY, sender))
            connection.close()
            self._around.report.refuse("closed a peer's connection", "too many bulk streams", f"{sender:x}")
            return
        stats = self._around.report.peer(sender)
        stream = PeerBulkStream(connection, purpose=said.detail, member_id=sender, stats=stats)
        self._streams.add(stream)
        stream.done.add_done_callback(lambda _done: self._streams.discard(stream))
        connection.write(handshake.welcome(self._around.own))
        try:
            await self._around.handler.on_bulk(sender, stream)
            stream.close()
        except PeerError as error:
            stream.abort()
            self._around.report.refuse("a bulk stream ended early", error.text, f"{sender:x}")
        except Exception as error:
            stream.abort()
            self._around.report.error("a bulk stream failed", peer=f"{sender:x}", error=f"{type(error).__name__}: {error}")
        except BaseException:
            stream.abort()
            raise

    async def _serve_ask(self, connection: Connection) -> None:
        if self._asks >= PEER_ASKS_MAX:
            connection.write(handshake.refused(self._around.own, handshake.BUSY, 0))
            connection.close()
            return
        self._asks += 1
        try:
            connection.allow(payload_bytes_max=PEER_REQUEST_BYTES_MAX + 64)
            connection.write(handshake.welcome(self._around.own))
            await self._answer(connection)
        except (WireError, OSError) as error:
            self._refuse(connection, f"ask: {words(error)}", connection.remote)
        finally:
            self._asks -= 1
            connection.close()
            asyncio.get_running_loop().call_later(_TIMEOUT_S, connection.end, "answered")

    async def _answer(self, connection: Connection) -> None:
        async with asyncio.timeout(_TIMEOUT_S):
            item = await connection.receive()
        if not isinstance(item, tuple) or item[0] != handshake.REQUEST:
            raise WireError("a frame out of order")
        number, _, timeout_ms, payload = read_request(item[1])
        handler, report = self._around.handler, self._around.report
        connection.write(await answer_frame(number, 0, min(timeout_ms, _ASK_TIMEOUT_MS_MAX), report, lambda: handler.on_ask(payload)))

    # -- from above

    def tell_incarnation(self) -> None:
        """The own one became known: tells the others, and ends what belongs to those who said that theirs is another one."""
        for inbound in list(self._inbound.values()):
            inbound.tell_incarnation()

    def drop_strangers(self) -> None:
        """Ends what belongs to those who are no longer in `members`."""
        for sender, inbound in list(self._inbound.items()):
            if sender not in self.members:
                inbound.connection.end("no member any more")
        for stream in list(self._streams):
            if stream.member_id not in self.members:
                stream.abort()

    async def close(self) -> None:
        self._closed = True
        for connection in list(self._tasks.values()):
            connection.end("closed")
        for task in list(self._tasks):
            task.cancel()
        for inbound in list(self._inbound.values()):
            inbound.connection.end("closed")
        for stream in list(self._streams):
            stream.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
