"""What one connection has still to send: control first, bounded in bytes, the oldest message lost when it is full.

Invariant: frames (requests, answers, pings) and forwarded proposals are never dropped once taken; other messages keep their order among
those of their queue. Nothing of the control queue waits behind more than one part of a message. Must not know: sockets, time.
"""

from collections import deque

from raftsched.limits import PEER_CONTROL_QUEUE_BYTES_MAX, PEER_QUEUE_BYTES_MAX
from raftsched.store.raft._kernel import Message
from raftsched.store.transport._frames import PART_BYTES, Parts, frames, size_bytes

PROPOSE = 2
APPEND = 3
OVERHEAD_BYTES = 128  # of an item in the queue: a heartbeat's object is larger than its bytes
Item = Message | bytes


class _Queue:
    def __init__(self, bytes_max: int) -> None:
        self.items: deque[tuple[Item, int]] = deque()
        self.bytes_max = bytes_max
        self.size_bytes = 0

    def put(self, item: Item, size: int) -> None:
        self.items.append((item, size))
        self.size_bytes += size

    def pop(self) -> tuple[Item, int]:
        item, size = self.items.popleft()
        self.size_bytes -= size
        return item, size

    def drop_oldest_message(self) -> bool:
        for position, (item, size) in enumerate(self.items):
            if not isinstance(item, bytes) and item.type != PROPOSE:
                del self.items[position]
                self.size_bytes -= size
                return True
        return False


class SendQueue:
    """Two queues. What carries entries, and every APPEND (an empty one asks about those before it), waits in the second."""

    def __init__(self, *, control_bytes_max: int = PEER_CONTROL_QUEUE_BYTES_MAX, bulk_bytes_max: int = PEER_QUEUE_BYTES_MAX) -> None:
        self._control = _Queue(control_bytes_max)
        self._bulk = _Queue(bulk_bytes_max)
        self._parts: Parts | None = None
        self._in_parts: Message | None = None
        self._parts_bytes = 0
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self._control.items or self._bulk.items or self._parts is not None)

    @property
    def size_bytes(self) -> int:
        return self._control.size_bytes + self._bulk.size_bytes + self._parts_bytes

    def put_message(self, message: Message) -> bool:
        """False = dropped. ValueError: it has too many entries."""
        size = size_bytes(message) + OVERHEAD_BYTES
        if message.type != APPEND and not message.runs:
            return self._put(self._control, message, size, 0)
        return self._put(self._bulk, message, size, self._parts_bytes)

    def put_frame(self, data: bytes) -> bool:
        """False = no room. Small frames are control."""
        if len(data) <= PART_BYTES // 4:
            return self._put(self._control, data, len(data) + OVERHEAD_BYTES, 0)
        return self._put(self._bulk, data, len(data) + OVERHEAD_BYTES, self._parts_bytes)

    def _put(self, queue: _Queue, item: Item, size: int, busy_bytes: int) -> bool:
        if busy_bytes and busy_bytes + size > queue.bytes_max:
            return self._refuse(item)
        while queue.size_bytes + busy_bytes + size > queue.bytes_max and queue.size_bytes:
            if isinstance(item, bytes) or not queue.drop_oldest_message():
                return self._refuse(item)
            self.dropped += 1
        queue.put(item, size)
        return True

    def _refuse(self, item: Item) -> bool:
        self.dropped += not isinstance(item, bytes)
        return False

    def collect(self, bytes_max: int) -> bytes:
        """What goes out next: all of control, then of the rest until `bytes_max` is reached, in one piece; b"" = nothing is there."""
        items: list[Item] = [item for item, _ in self._control.items]
        size = self._control.size_bytes
        self._control.items.clear()
        self._control.size_bytes = 0
        while size < bytes_max:
            taken = self._next_bulk()
            if taken is None:
                break
            items.append(taken[0])
            size += taken[1]
        return frames(items) if items else b""

    def _next_bulk(self) -> tuple[Item, int] | None:
        if self._parts is not None:
            part = self._parts.next()
            if part is not None:
                return part, len(part)
            self._parts, self._in_parts, self._parts_bytes = None, None, 0
        if not self._bulk.items:
            return None
        item, size = self._bulk.pop()
        if isinstance(item, bytes) or size <= PART_BYTES:
            return item, size
        self._parts, self._in_parts, self._parts_bytes = Parts(item), item, size
        return self._next_bulk()

    def unsent(self) -> list[Message]:
        """The forwarded proposals of which something has not been collected yet, in order."""
        waiting = [self._in_parts if self._parts is not None and self._parts.left else None, *(item for item, _ in self._bulk.items)]
        return [item for item in waiting if isinstance(item, Message) and item.type == PROPOSE]
