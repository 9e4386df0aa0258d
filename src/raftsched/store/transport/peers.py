"""The transport as the node sees it: one listener, one dialled link per other member, questions, bulk streams.

Invariant: before `join` only questions from outside (`ask`) are served; after it only members of the same cluster are heard.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from raftsched.errors import PeerCode, PeerError
from raftsched.limits import PEER_BULK_STREAMS_MAX, PEER_REQUEST_BYTES_MAX
from raftsched.ports import Log
from raftsched.store.raft._kernel import Message
from raftsched.store.transport import handshake
from raftsched.store.transport._frames import WireError
from raftsched.store.transport.accepting import Acceptor
from raftsched.store.transport.bulk import PeerBulkStream
from raftsched.store.transport.connection import Connection, words
from raftsched.store.transport.dialing import Surroundings, dial
from raftsched.store.transport.handshake import Identity, Version
from raftsched.store.transport.link import Link
from raftsched.store.transport.ports import BulkStream, PeerHandler
from raftsched.store.transport.report import PeerFamily, Report
from raftsched.store.transport.requests import read_response, request_frame, result_of
from raftsched.store.transport.resolving import Resolve, SystemResolver
from raftsched.store.transport.tls import PeerContexts, PeerSecurity, PeerTls


class Peers:
    """All connections of one member with the others."""

    def __init__(
        self,
        *,
        listen_host: str,
        port: int,
        handler: PeerHandler,
        log: Log,
        version: Version,
        tls: PeerTls | PeerSecurity | None = None,
        resolve: Resolve | None = None,
        chance: random.Random | None = None,
        nonce: Callable[[int], bytes] = secrets.token_bytes,
        more: Sequence[tuple[str, int]] = (),
        reuse_port: bool = False,
    ) -> None:
        """`listen_host` "" = all interfaces; `port` 0 = any free one; `more`: where else to listen; `reuse_port`: others may listen there
        too. ConfigError: a certificate file is wrong."""
        self._reuse_port = reuse_port
        self._listen = (listen_host, port)
        self._more = tuple(more)
        report = Report(log)
        self._around = Surroundings(
            own=Identity(0, 0, version),
            handler=handler,
            report=report,
            tls=PeerContexts(tls, report.unusable_files) if isinstance(tls, PeerTls) else tls,
            resolve=resolve or SystemResolver(),
            chance=chance or random.Random(),
            nonce=nonce,
        )
        self._acceptor = Acceptor(self._around, on_peer=self._came_in)
        self._servers: list[asyncio.Server] = []
        self._links: dict[int, Link] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._streams: set[PeerBulkStream] = set()
        self._opening = 0
        self._versions: dict[int, Version] = {}

    @property
    def listen_address(self) -> tuple[str, int]:
        """(host, port) as it was asked for."""
        return self._listen

    async def start(self) -> None:
        """Listens. OSError: the port cannot be had."""
        for address in (self._listen, *self._more):
            await self.listen(*address)

    async def listen(self, host: str, port: int) -> None:
        """At one more address. OSError."""
        self._servers.append(
            await asyncio.get_running_loop().create_server(self._acceptor.make, host or None, port, reuse_port=self._reuse_port or None)
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._servers[0].sockets[0].getsockname()[1])

    def join(self, *, cluster_id: int, member_id: int) -> None:
        """From now on this is who we are."""
        self._around.own = replace(self._around.own, cluster_id=cluster_id, member_id=member_id)
        self._around.report.local = member_id

    def set_incarnation(self, incarnation: int) -> None:
        """Of the cluster, as soon as it is known; 0 = not yet. The others are told; who is of another one is heard no more."""
        if incarnation == self._around.own.incarnation:
            return
        self._around.own = replace(self._around.own, incarnation=incarnation)
        self._acceptor.tell_incarnation()
        for link in list(self._links.values()):
            link.tell_incarnation()

    def update(self, members: Mapping[int, Sequence[str]]) -> None:
        """The other members and their peer URLs: connects to new ones, again to those whose URLs changed, drops the rest."""
        others = {member: tuple(urls) for member, urls in members.items() if member != self._around.own.member_id}
        self._acceptor.members = frozenset(others)
        self._acceptor.drop_strangers()
        for member, link in list(self._links.items()):
            if others.get(member) != link.urls:
                del self._links[member]
                self._close_later(link)
        for stream in list(self._streams):
            if stream.member_id not in others:
                stream.abort()
        self._versions = {member: version for member, version in self._versions.items() if member in others}
        self._around.report.keep(others)
        for member, urls in others.items():
            if member not in self._links:
                self._links[member] = Link(self._around, member, urls, self._heard_version)

    def _close_later(self, link: Link) -> None:
        task = asyncio.get_running_loop().create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _heard_version(self, member_id: int, version: Version) -> None:
        self._versions[member_id] = version

    def _came_in(self, member_id: int, version: Version) -> None:
        self._versions[member_id] = version
        if member_id in self._links:
            self._links[member_id].hurry()

    # -- messages, requests, streams

    def send(self, member_id: int, message: Message) -> bool:
        """False = dropped. ValueError: more entries than a message may have."""
        link = self._links.get(member_id)
        return link is not None and link.send(message)

    def is_connected(self, member_id: int) -> bool:
        """Whether `send` has a connection now."""
        link = self._links.get(member_id)
        return link is not None and link.is_connected

    def connection(self, member_id: int) -> int:
        """The number of the connection that `send` has now, never that of an earlier one; 0: none. What was sent on one that is gone may be
        lost."""
        link = self._links.get(member_id)
        return 0 if link is None else link.connection

    async def request(self, member_id: int, kind: int, payload: bytes, timeout_ms: int) -> bytes:
        """PeerError: UNREACHABLE, BUSY and TOO_LARGE mean that nothing was done; with TIMEOUT and LOST the outcome is unknown."""
        link = self._links.get(member_id)
        if link is None:
            raise PeerError(PeerCode.UNREACHABLE, "no such peer")
        return await link.request(kind, payload, timeout_ms)

    async def ask(self, url: str, payload: bytes, timeout_ms: int) -> bytes:
        """One question to whoever listens there, before there is a cluster. PeerError."""
        question = request_frame(1, 0, timeout_ms, payload)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                connection, _ = await dial(self._around, url, receiver_id=0, purpose=handshake.ASK)
                return await self._ask(connection, question)
        except TimeoutError:
            raise PeerError(PeerCode.TIMEOUT, "the peer did not answer in time") from None
        except (OSError, WireError) as error:
            raise PeerError(PeerCode.LOST, f"the connection to the peer broke: {words(error)}") from None

    async def _ask(self, connection: Connection, question: bytes) -> bytes:
        try:
            connection.allow(payload_bytes_max=PEER_REQUEST_BYTES_MAX + 64)
            connection.write(question)
            item = await connection.receive()
            if not isinstance(item, tuple) or item[0] != handshake.RESPONSE:
                raise WireError("a frame out of order")
            _, code, body = read_response(item[1])
            return result_of(code, body)
        finally:
            connection.end("asked")

    async def open_bulk(self, member_id: int, purpose: int) -> BulkStream:
        """PeerError: UNREACHABLE, REFUSED, BUSY."""
        link = self._links.get(member_id)
        if link is None or not link.urls:
            raise PeerError(PeerCode.UNREACHABLE, "no such peer")
        if len(self._streams) + self._opening >= PEER_BULK_STREAMS_MAX:
            raise PeerError(PeerCode.BUSY, "too many bulk streams are open")
        self._opening += 1
        try:
            connection = await self._dial_any(link, purpose)
        finally:
            self._opening -= 1
        stream = PeerBulkStream(connection, purpose=purpose, member_id=member_id, stats=self._around.report.peer(member_id))
        self._streams.add(stream)
        stream.done.add_done_callback(lambda _done: self._streams.discard(stream))
        return stream

    async def _dial_any(self, link: Link, purpose: int) -> Connection:
        failure = PeerError(PeerCode.UNREACHABLE, "no such peer")
        for url in link.urls:
            try:
                connection, _ = await dial(self._around, url, receiver_id=link.member_id, purpose=handshake.BULK, detail=purpose)
            except PeerError as error:
                failure = error
            else:
                return connection
        raise failure

    # -- what is shown, and the end

    def versions(self) -> Mapping[int, Version]:
        """Of the members that shook hands since they are known."""
        return dict(self._versions)

    def counters(self) -> Mapping[str, float]:
        """Without labels: sums over all peers."""
        return self._around.report.totals()

    def families(self) -> Iterator[PeerFamily]:
        """With labels: `rpc.metrics.Family(*family)` of each."""
        return self._around.report.families()

    async def close(self) -> None:
        """Ends everything at once; what is unsent is lost."""
        await self._stop_listening()
        links, self._links = list(self._links.values()), {}
        for stream in list(self._streams):
            stream.abort()
        await asyncio.gather(*(link.close() for link in links), *self._closing, return_exceptions=True)
        await self._acceptor.close()
        for server in self._servers:
            await server.wait_closed()

    async def _stop_listening(self) -> None:
        """asyncio forgets a socket that it has accepted in the very turn in which its server is closed: so first nobody is accepted."""
        for listening in [one for server in self._servers for one in server.sockets]:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        await asyncio.sleep(0)
        for server in self._servers:
            server.close()
