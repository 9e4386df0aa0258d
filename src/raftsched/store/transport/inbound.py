"""One control connection that a member dialled to us: its messages to the node, its questions answered.

Invariant: a message whose sender is not the member at the other end, or that is meant for somebody else, is dropped and counted.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from raftsched.limits import PEER_IDLE_TIMEOUT_MS, PEER_PING_MS
from raftsched.store.transport import handshake
from raftsched.store.transport._frames import WireError, frame
from raftsched.store.transport.connection import Connection, Item
from raftsched.store.transport.dialing import Surroundings
from raftsched.store.transport.handshake import Identity
from raftsched.store.transport.outlet import Outlet
from raftsched.store.transport.report import PeerStats
from raftsched.store.transport.requests import Answered

OUR_OWN: Final = frozenset({"closed", "no member any more"})  # causes that need no line: this member decided so


class Inbound:
    def __init__(
        self, around: Surroundings, connection: Connection, who: Identity, stats: PeerStats, on_gone: Callable[["Inbound"], None]
    ) -> None:
        self.connection = connection
        self.who = who
        self.sender = sender = who.member_id
        self._around = around
        self._stats = stats
        self._on_gone = on_gone
        self._outlet = Outlet(connection, stats)
        self._answered = Answered(around.handler, sender, around.report, self._outlet.send_frame, self._full)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.connection.on_read = self._count
        self.connection.on_malformed = self._count_failure
        self._watch()
        self.connection.attach(self._on_item, self._on_end, self._outlet.schedule)

    def tell_incarnation(self) -> None:
        """The own one became known."""
        if not self._outlet.send_frame(handshake.known(self._around.own.incarnation)):
            self._full()
        self._check_incarnation()

    def _check_incarnation(self) -> None:
        if not self.who.is_of(self._around.own.incarnation):
            self.connection.end(handshake.WRONG_INCARNATION)

    def _count(self, count: int) -> None:
        self._stats.received_bytes += count

    def _count_failure(self) -> None:
        self._stats.receive_failures += 1

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self.connection.heard_at > PEER_IDLE_TIMEOUT_MS / 1000:
            self.connection.end("the peer is silent")
        else:
            self._timer = loop.call_later(PEER_PING_MS / 1000, self._watch)

    def _full(self) -> None:
        self.connection.end("the peer does not read its answers")

    def _on_item(self, item: Item) -> None:
        if not isinstance(item, tuple):
            if item.sender != self.sender or item.to != self._around.own.member_id:
                self._stats.forged += 1
                self._count_failure()
                return
            self._stats.received_messages += 1
            self._around.handler.on_message(self.sender, item)
            return
        try:
            self._on_frame(*item)
        except WireError as error:
            self._count_failure()
            self.connection.end(str(error))

    def _on_frame(self, kind: int, payload: bytes) -> None:
        if kind == handshake.REQUEST:
            self._answered.asked(payload)
        elif kind == handshake.KNOWN:
            self.who = replace(self.who, incarnation=handshake.read_known(payload))
            self._check_incarnation()
        elif kind == handshake.PING and len(payload) <= 64:
            if not self._outlet.send_frame(frame(handshake.PONG, payload)):
                self._full()
        else:
            raise WireError("a frame out of order")

    def _on_end(self, cause: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._answered.lost()
        self._on_gone(self)
        if cause not in OUR_OWN:
            self._around.report.refuse("a peer's connection ended", cause, f"{self.sender:x}")
