"""Members on loopback sockets: a handler that remembers, and a cluster of them in one loop."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from raftsched.errors import PeerCode, PeerError
from raftsched.store.raft._kernel import Message
from raftsched.store.transport.peers import Peers
from raftsched.store.transport.ports import BulkStream

CLUSTER = 0xC1


class LogLines:
    """A `ports.Log` that keeps (level, message, fields)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def debug(self, message: str, /, **fields: object) -> None:
        self.lines.append(("debug", message, fields))

    def info(self, message: str, /, **fields: object) -> None:
        self.lines.append(("info", message, fields))

    def warning(self, message: str, /, **fields: object) -> None:
        self.lines.append(("warning", message, fields))

    def error(self, message: str, /, **fields: object) -> None:
        self.lines.append(("error", message, fields))

    def texts(self) -> list[str]:
        return [message for _, message, _ in self.lines]

    def causes(self) -> list[object]:
        return [fields["cause"] for level, _, fields in self.lines if level == "warning"]


class Recorder:
    """A `PeerHandler` that keeps what it hears; requests answer `kind` and payload, bulk streams are echoed."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, Message]] = []
        self.unsent: list[tuple[int, Message]] = []
        self.requests: list[tuple[int, int, bytes]] = []
        self.asks: list[bytes] = []
        self.removed: set[int] = set()
        self.told_removed = 0
        self.bulk: Callable[[int, BulkStream], Awaitable[None]] = echo
        self.answering: Callable[[int, int, bytes], Awaitable[bytes]] | None = None

    def on_message(self, sender: int, message: Message) -> None:
        self.messages.append((sender, message))

    def on_unsent(self, receiver: int, message: Message) -> None:
        self.unsent.append((receiver, message))

    async def on_request(self, sender: int, kind: int, payload: bytes) -> bytes:
        self.requests.append((sender, kind, payload))
        if self.answering is not None:
            return await self.answering(sender, kind, payload)
        if kind == 0xBAD:
            raise PeerError(30, "etcdserver: not leader")
        return b"%d:" % kind + payload

    async def on_bulk(self, sender: int, stream: BulkStream) -> None:
        await self.bulk(sender, stream)

    async def on_ask(self, payload: bytes) -> bytes:
        self.asks.append(payload)
        if payload == b"no":
            raise PeerError(PeerCode.BUSY, "not now")
        return b"heard " + payload

    def is_removed(self, member_id: int) -> bool:
        return member_id in self.removed

    def on_removed(self) -> None:
        self.told_removed += 1


async def echo(_sender: int, stream: BulkStream) -> None:
    while data := await stream.receive():
        await stream.send(data)


class Member:
    """One transport with its handler and its log."""

    def __init__(self, member_id: int, *, port: int = 0, **options: Any) -> None:  # Any: whatever Peers takes
        self.id = member_id
        self.handler = Recorder()
        self.log = LogLines()
        given: dict[str, Any] = {"listen_host": "127.0.0.1", "port": port, "handler": self.handler, "log": self.log, "version": (1, 2, 3)}
        self.peers = Peers(**{**given, **options})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.peers.port}"

    async def start(self, cluster_id: int = CLUSTER) -> "Member":
        await self.peers.start()
        self.peers.join(cluster_id=cluster_id, member_id=self.id)
        return self


async def start_members(*ids: int, **options: Any) -> list[Member]:  # Any: whatever Peers takes
    """Members that know and have reached each other."""
    members = [await Member(one, **options).start() for one in ids]
    meet(members)
    await until(lambda: all(one.peers.is_connected(other.id) for one in members for other in members if one is not other))
    return members


def meet(members: list[Member]) -> None:
    urls: Mapping[int, list[str]] = {one.id: [one.url] for one in members}
    for one in members:
        one.peers.update({member: url for member, url in urls.items() if member != one.id})


async def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Polls; TimeoutError when it does not come true."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


async def close_members(members: list[Member]) -> None:
    await asyncio.gather(*(one.peers.close() for one in members))
