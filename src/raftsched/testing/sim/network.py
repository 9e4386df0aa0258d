"""The network between members: one `SimPeers` per process, with the interface of `store.transport.peers.Peers`.

Messages pass through the real codec, in order as on a connection, or, in bad weather, dropped, repeated, late and in any order; requests,
questions and bulk streams fail when the way there or back is cut. A cut is per direction. Who is dead hears nothing, and what it sent
before its end still arrives.
Must not know: what a message means.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from raftsched.errors import PeerCode, PeerError
from raftsched.limits import PEER_BULK_IDLE_TIMEOUT_MS
from raftsched.store.raft._kernel import Message
from raftsched.store.transport import _frames
from raftsched.store.transport.ports import BulkStream, PeerHandler
from raftsched.testing.sim.loop import Owner, SimLoop

BULK_WINDOW = 4  # chunks under way in one direction
REFUSED_S = 0.001
REPEATED_S = 2.0
VERSION = (3, 7, 0)
PROPOSE = 2


@dataclass(slots=True)
class Weather:
    """What the network does to a message at present."""

    drop: float = 0.0
    twice: float = 0.0  # share that comes again: half of it soon, half up to `REPEATED_S` later
    delay_s: float = 0.001  # at most, of nearly all
    late: float = 0.0  # share that takes up to a second, and is overtaken


class SimNetwork:
    """All links. `cut` has the directed pairs of machine names between which nothing passes."""

    def __init__(self, loop: SimLoop, seed: str) -> None:
        self.loop = loop
        self.chance = random.Random(f"{seed}/network")
        self.weather = Weather()
        self.cut: set[tuple[str, str]] = set()
        self.happened: Counter[str] = Counter()
        self.peers: dict[str, SimPeers] = {}  # by URL
        self.numbers = itertools.count(1)
        self.sent = 0
        self.on_sent: Callable[[SimPeers, Message], None] | None = None  # told of each message
        self.censor: Callable[[SimPeers, Message], bool] | None = None  # True: this one is lost; for stories

    def delay_s(self) -> float:
        late = self.chance.random() < self.weather.late
        self.happened["late"] += late
        return self.chance.random() * (1.0 if late else self.weather.delay_s)

    def passes(self, sender: str, receiver: str) -> bool:
        return (sender, receiver) not in self.cut

    @property
    def one_way(self) -> bool:
        return any((two, one) not in self.cut for one, two in self.cut)

    def partition(self, sides: Sequence[Sequence[str]], *, one_way: bool) -> None:
        """Nothing passes between sides; `one_way`: only from earlier to later ones."""
        for number, side in enumerate(sides):
            for other in sides[number + 1 :]:
                self.cut |= {(one, two) for one in side for two in other}
                if not one_way:
                    self.cut |= {(two, one) for one in side for two in other}

    def ended(self, peers: "SimPeers") -> None:
        """A process is gone: the other ends of its streams notice, some time later."""
        for stream in peers.streams:
            self.later(self.delay_s(), stream.other.abort)

    def heal(self) -> None:
        self.cut.clear()
        self.weather = Weather()

    def later(self, delay_s: float, call: Callable[..., Any], *arguments: Any) -> None:
        """Not as the sender: what is on its way arrives although it died."""
        self.loop.call_later(delay_s, call, *arguments, context=Context())


class SimPeers:
    """See the module's text."""

    def __init__(self, network: SimNetwork, owner: Owner, machine: str, urls: Sequence[str], handler: PeerHandler) -> None:
        self.machine = machine
        self.number = next(network.numbers)
        self.owner = owner
        self.handler = handler
        self.cluster_id = self.member_id = self.incarnation = 0
        self.members: dict[int, tuple[str, ...]] = {}
        self._network = network
        self._urls = tuple(urls)
        self._open = False
        self._told_removed = False
        self.streams: list[SimBulkStream] = []
        self._broken: dict[int, int] = {}  # the number of the connection to a member since something was lost
        self._forwarded: dict[int, int] = {}  # the last sequence of a proposal to a member
        self._last_s: dict[int, float] = {}  # when the latest message to a member arrives: a connection keeps its order

    # -- life

    async def start(self) -> None:
        self._open = True
        for url in self._urls:
            self._network.peers[url] = self

    def join(self, *, cluster_id: int, member_id: int) -> None:
        self.cluster_id, self.member_id = cluster_id, member_id

    def set_incarnation(self, incarnation: int) -> None:
        self.incarnation = incarnation

    def update(self, members: Mapping[int, Sequence[str]]) -> None:
        self.members = {member: tuple(urls) for member, urls in members.items() if member != self.member_id}
        for stream in self.streams:
            if stream.member_id not in self.members:
                stream.abort()

    async def close(self) -> None:
        self._open = False
        for stream in self.streams:
            stream.abort()

    @property
    def port(self) -> int:
        return 2380

    @property
    def listening(self) -> bool:
        return self._open and not self.owner.dead

    # -- who is reached

    def _at(self, url: str) -> "SimPeers | None":
        """Who listens there and can be reached there and back."""
        peers = self._network.peers.get(url)
        if peers is None or not peers.listening or not self._network.passes(self.machine, peers.machine):
            return None
        return peers if self._network.passes(peers.machine, self.machine) else None

    def _peer(self, member_id: int) -> "SimPeers | None":
        """The other member, as a handshake would find it."""
        for url in self.members.get(member_id, ()):
            peers = self._at(url)
            if peers is not None and peers.cluster_id == self.cluster_id and peers.member_id == member_id and self._welcome(peers):
                return peers
        return None

    def _welcome(self, peers: "SimPeers") -> bool:
        if self.incarnation != peers.incarnation and 0 not in (self.incarnation, peers.incarnation):
            return False
        if peers.handler.is_removed(self.member_id):
            if not self._told_removed:
                self._told_removed = True
                self._network.later(self._network.delay_s(), self._hear_removed)
            return False
        return self.member_id in peers.members

    def _hear_removed(self) -> None:
        if self.listening:
            self.owner.run(self.handler.on_removed)

    def is_connected(self, member_id: int) -> bool:
        return self._peer(member_id) is not None

    def connection(self, member_id: int) -> int:
        """A new one with each life of the other, and when a forwarded proposal was lost: no connection that lives loses one."""
        peers = self._peer(member_id)
        return 0 if peers is None else max(peers.number, self._broken.get(member_id, 0))

    def _lost(self, member_id: int, message_type: int) -> None:
        if message_type == PROPOSE:
            self._broken[member_id] = next(self._network.numbers)

    # -- messages

    def send(self, member_id: int, message: Message) -> bool:
        network = self._network
        network.sent += 1
        weather, chance = network.weather, network.chance
        if member_id not in self.members or not self.listening:
            return False
        data = _frames.encode(message)
        twice = chance.random() < weather.twice
        if twice:
            network.happened["twice"] += 1
            again_s = network.delay_s() if chance.random() < 0.5 else chance.random() * REPEATED_S
            network.later(again_s, self._arrive, member_id, data)
        if message.type == PROPOSE:
            network.happened["forwarded again"] += message.context <= self._forwarded.get(member_id, 0)
            self._forwarded[member_id] = message.context
        if chance.random() < weather.drop or (network.censor is not None and network.censor(self, message)):
            network.happened["dropped"] += 1
            self._lost(member_id, message.type)
        else:
            network.later(self._delay_s(member_id), self._arrive, member_id, data)
        if network.on_sent is not None:
            network.on_sent(self, message)
        return True

    def _delay_s(self, member_id: int) -> float:
        network = self._network
        delay_s = network.delay_s()
        if network.weather.late or network.weather.twice:
            return delay_s
        now_s = network.loop.time()
        self._last_s[member_id] = max(now_s + delay_s, self._last_s.get(member_id, 0.0) + 1e-6)
        return self._last_s[member_id] - now_s

    def _arrive(self, member_id: int, data: bytes) -> None:
        for url in self.members.get(member_id, ()):
            peers = self._network.peers.get(url)
            if peers is None or not peers.listening or not self._network.passes(self.machine, peers.machine):
                continue
            if (peers.cluster_id, peers.member_id) == (self.cluster_id, member_id) and self._welcome(peers):
                peers.owner.run(peers.handler.on_message, self.member_id, _frames.decode(data))
                return
        self._network.happened["cut off"] += 1
        self._lost(member_id, _frames.decode(data).type)

    # -- requests and questions

    async def request(self, member_id: int, kind: int, payload: bytes, timeout_ms: int) -> bytes:
        peers = self._peer(member_id)
        if peers is None:
            await asyncio.sleep(REFUSED_S)
            raise PeerError(PeerCode.UNREACHABLE, "no such peer")
        handler, member = peers.handler, self.member_id
        return await self._exchange(peers, lambda: handler.on_request(member, kind, payload), timeout_ms)

    async def ask(self, url: str, payload: bytes, timeout_ms: int) -> bytes:
        peers = self._at(url)
        if peers is None:
            await asyncio.sleep(REFUSED_S)
            raise PeerError(PeerCode.LOST, "nobody listens there")
        handler = peers.handler
        return await self._exchange(peers, lambda: handler.on_ask(payload), timeout_ms)

    async def _exchange(self, peers: "SimPeers", work: Callable[[], Coroutine[Any, Any, bytes]], timeout_ms: int) -> bytes:
        """There, the other's work, and back."""
        answer: asyncio.Future[bytes] = self._network.loop.create_future()
        self._network.later(self._network.delay_s(), self._begin, peers, work, answer)
        try:
            async with asyncio.timeout(timeout_ms / 1000):  # `wait_for` of Python 3.11 swallows a cancellation that comes with the answer
                return await answer
        except TimeoutError:
            raise PeerError(PeerCode.TIMEOUT, "the peer did not answer in time") from None

    def _begin(self, peers: "SimPeers", work: Callable[[], Coroutine[Any, Any, bytes]], answer: "asyncio.Future[bytes]") -> None:
        if peers.listening and self._network.passes(self.machine, peers.machine):
            peers.owner.run(lambda: self._network.loop.create_task(self._serve(peers, work, answer)))

    async def _serve(self, peers: "SimPeers", work: Callable[[], Coroutine[Any, Any, bytes]], answer: "asyncio.Future[bytes]") -> None:
        failure: PeerError | None = None
        body = b""
        try:
            body = await work()
        except PeerError as error:
            failure = error
        except Exception as error:  # as the transport answers for a handler that failed
            failure = PeerError(PeerCode.INTERNAL, repr(error))
        self._network.later(self._network.delay_s(), self._finish, peers, answer, body, failure)

    def _finish(self, peers: "SimPeers", answer: "asyncio.Future[bytes]", body: bytes, failure: PeerError | None) -> None:
        if answer.done() or not self.listening or not self._network.passes(peers.machine, self.machine):
            return
        if failure is not None:
            answer.set_exception(failure)
        else:
            answer.set_result(body)

    # -- bulk

    async def open_bulk(self, member_id: int, purpose: int) -> BulkStream:
        await asyncio.sleep(self._network.delay_s())
        peers = self._peer(member_id)
        if peers is None:
            raise PeerError(PeerCode.UNREACHABLE, "no such peer")
        near, far = SimBulkStream(self._network, self, member_id, purpose), SimBulkStream(self._network, peers, self.member_id, purpose)
        near.other, far.other = far, near
        self.streams.append(near)
        peers.streams.append(far)
        self._network.later(0.0, lambda: peers.owner.run(lambda: self._network.loop.create_task(peers._serve_bulk(far))))
        return near

    async def _serve_bulk(self, stream: "SimBulkStream") -> None:
        try:
            await self.handler.on_bulk(stream.member_id, stream)
            stream.close()
        except BaseException:
            stream.abort()
            raise

    # -- what is shown

    def versions(self) -> Mapping[int, tuple[int, int, int]]:
        return dict.fromkeys(self.members, VERSION)

    def counters(self) -> Mapping[str, float]:
        return {}

    def families(self) -> Iterator[Any]:
        return iter(())


class SimBulkStream:
    """One end of a bulk stream."""

    other: "SimBulkStream"

    def __init__(self, network: SimNetwork, peers: SimPeers, member_id: int, purpose: int) -> None:
        self.purpose, self.member_id = purpose, member_id
        self._network, self._peers = network, peers
        self._came: asyncio.Queue[bytes | None] = asyncio.Queue()  # None: it broke
        self._room = asyncio.Semaphore(BULK_WINDOW)
        self._ended = False
        self._last_s = 0.0

    def _broken(self) -> bool:
        here, there = self._peers, self.other._peers
        whole = self._network.passes(here.machine, there.machine) and self._network.passes(there.machine, here.machine)
        return not (whole and here.listening and there.listening)

    async def send(self, data: bytes) -> None:
        await self._room.acquire()
        if self._ended or self._broken():
            self.abort()
            raise PeerError(PeerCode.LOST, "the stream broke")
        self._give(data)

    def _give(self, data: bytes | None) -> None:
        """In order: no chunk overtakes another."""
        loop = self._network.loop
        self._last_s = max(loop.time() + self._network.delay_s(), self._last_s + 1e-6)
        self._network.later(self._last_s - loop.time(), self.other._take, data)

    def _take(self, data: bytes | None) -> None:
        self._came.put_nowait(None if data is None or (data and self._broken()) else data)

    async def receive(self) -> bytes:
        try:
            async with asyncio.timeout(PEER_BULK_IDLE_TIMEOUT_MS / 1000):
                data = await self._came.get()
        except TimeoutError:
            raise PeerError(PeerCode.TIMEOUT, "nothing came") from None
        if data is None:
            self._ended = True
            self._came.put_nowait(None)
            raise PeerError(PeerCode.LOST, "the stream broke")
        self.other._room.release()
        return data

    def close(self) -> None:
        if not self._ended:
            self._ended = True
            self._give(b"")

    def abort(self) -> None:
        if not self._ended:
            self._ended = True
            self._came.put_nowait(None)
            self._give(None)
