"""What the transport offers, and what it asks of the node: the contract of docs/cluster.md, "Transport". No behaviour here.

Invariant: everything is called on the loop's thread. A message may be lost, repeated or late; a request's answer is for that request.
"""

from typing import Final, Protocol

from raftsched.errors import PeerCode, PeerError
from raftsched.store.raft._kernel import Message

__all__ = ["BulkStream", "Message", "PeerCode", "PeerError", "PeerHandler"]

# Kinds of request: numbers are never used again for something else. The payloads are the node's business.
RENEW_LEASE: Final = 1
LEASE_TIME_TO_LIVE: Final = 2
PROMOTE: Final = 3
JOIN: Final = 4
CHANGE_MEMBERS: Final = 5
HASH_KV: Final = 6
MOVE_LEADER: Final = 7
MAY_LEAVE: Final = 8
STATUS: Final = 9
HERE: Final = 10
HAS_ROOM: Final = 11

# Purposes of a bulk stream
SNAPSHOT: Final = 1


class BulkStream(Protocol):
    """A TCP connection of its own for much data in one direction and little in the other, in order, without loss as long as it lives."""

    @property
    def purpose(self) -> int: ...

    @property
    def member_id(self) -> int:
        """Who is at the other end."""

    async def send(self, data: bytes) -> None:
        """1 to PEER_BULK_CHUNK_BYTES_MAX bytes; waits for room. PeerError: LOST, TIMEOUT (no room for PEER_BULK_IDLE_TIMEOUT_MS)."""

    async def receive(self) -> bytes:
        """What one `send` sent; b"" = the other side closed its end in order. PeerError: LOST (anything else), TIMEOUT."""

    def close(self) -> None:
        """Ends it in order: what was sent arrives, if the other side reads on. Nothing can be sent or received behind it."""

    def abort(self) -> None:
        """Ends it at once; the other side gets LOST."""


class PeerHandler(Protocol):
    """What the node implements."""

    def on_message(self, sender: int, message: Message) -> None:
        """`sender` is the member at the other end, and the message's own."""

    def on_unsent(self, receiver: int, message: Message) -> None:
        """Forwarded proposals that `send` had taken: the connection ended before anything of theirs, or all of it, had left. The other side
        surely never had them."""

    async def on_request(self, sender: int, kind: int, payload: bytes) -> bytes:
        """At most PEER_REQUEST_BYTES_MAX bytes. PeerError goes to the asker. Cancelled when the asker is gone or its time is up."""

    async def on_bulk(self, sender: int, stream: BulkStream) -> None:
        """The stream is closed when this returns, and aborted when it raises."""

    async def on_ask(self, payload: bytes) -> bytes:
        """Somebody without a cluster id asks (forming, joining)."""

    def is_removed(self, member_id: int) -> bool: ...

    def on_removed(self) -> None:
        """A member of the own cluster says that this one was removed from it. Called once."""
