"""The sending half of a control connection: all that is queued in one turn of the loop leaves in one write.

Invariant: what asyncio has not written yet is at most PEER_WRITE_BYTES, so a heartbeat waits for no more than that.
"""

import asyncio

from raftsched.limits import PEER_WRITE_BYTES
from raftsched.store.raft._kernel import Message
from raftsched.store.transport.connection import Connection
from raftsched.store.transport.queues import SendQueue
from raftsched.store.transport.report import PeerStats


class Outlet:
    def __init__(self, connection: Connection, stats: PeerStats) -> None:
        self._connection = connection
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self.queue = SendQueue()

    def send(self, message: Message) -> bool:
        before = self.queue.dropped
        taken = self.queue.put_message(message)
        self._stats.dropped += self.queue.dropped - before
        self._stats.sent_messages += taken
        self.schedule()
        return taken

    def send_frame(self, data: bytes) -> bool:
        """False = no room."""
        taken = self.queue.put_frame(data)
        self.schedule()
        return taken

    def schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._connection.paused or self._connection.ended:
            return  # `resume_writing` schedules again
        data = self.queue.collect(PEER_WRITE_BYTES)
        if data:
            self._stats.sent_bytes += len(data)
            self._connection.write(data)
            if self.queue:
                self.schedule()
