"""The stored records of all jobs, in this process: what fires is read at once (`KvClient.read_record`).

A key has a *slot* as long as it lives, which is the `sub` of its changes. Records lie one behind the other in chunks of memory, not as
objects of their own; a chunk in which half is dead is written anew, in slices.
Memory: the records, at most as much again, and some 300 bytes each for the key. Must not know: what a record says.
"""

from array import array
from typing import Final

CHUNK_BYTES: Final = 1 << 20


class _Chunk:
    __slots__ = ("data", "live", "slots")

    def __init__(self) -> None:
        self.data = bytearray()
        self.live = 0
        self.slots = array("I")
        """Who was written here, in this order; some may have gone since."""


class Records:
    """Not re-entrant."""

    def __init__(self) -> None:
        self._slots: dict[bytes, int] = {}
        self._chunk_of = array("I")
        self._offset = array("I")
        self._size = array("I")
        self._main = array("Q")
        self._marks = bytearray()
        self._free: list[int] = []
        self._chunks: dict[int, _Chunk] = {}
        self._filling = 0
        self._next_chunk = 1

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def bytes_held(self) -> int:
        return sum(len(chunk.data) for chunk in self._chunks.values())

    def put(self, key: bytes, main: int, record: bytes) -> int:
        """The slot of the key, which holds this record now."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = self._new_slot()
        self._marks[slot] = 1
        if self._main[slot] == main:
            return slot
        self._drop(slot)
        self._main[slot] = main
        self._write(slot, record)
        return slot

    def remove(self, key: bytes) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._drop(slot)
            self._main[slot] = 0
            self._free.append(slot)

    def read(self, main: int, slot: int) -> bytes | None:
        """What was put at this revision into this slot; None = something else is there by now."""
        if slot >= len(self._main) or self._main[slot] != main:
            return None
        offset = self._offset[slot]
        return bytes(self._chunks[self._chunk_of[slot]].data[offset : offset + self._size[slot]])

    # -- a load: who was not put since its beginning is not there any more
    def begin_sweep(self) -> None:
        self._marks = bytearray(len(self._marks))

    def end_sweep(self) -> None:
        for key in [key for key, slot in self._slots.items() if not self._marks[slot]]:
            self.remove(key)

    # -- inside
    def _new_slot(self) -> int:
        if self._free:
            return self._free.pop()
        for column in (self._chunk_of, self._offset, self._size, self._main):
            column.append(0)
        self._marks.append(1)
        return len(self._main) - 1

    def _write(self, slot: int, record: bytes) -> None:
        chunk = self._room(len(record))
        self._chunk_of[slot] = self._filling
        self._offset[slot] = len(chunk.data)
        self._size[slot] = len(record)
        chunk.data += record
        chunk.slots.append(slot)
        chunk.live += len(record)

    def _room(self, size: int) -> _Chunk:
        """The chunk that is filled, a new one if that has no room."""
        chunk = self._chunks.get(self._filling)
        while chunk is None or (chunk.data and len(chunk.data) + size > CHUNK_BYTES):
            full, self._filling, self._next_chunk = self._filling, self._next_chunk, self._next_chunk + 1
            self._chunks[self._filling] = _Chunk()
            if chunk is not None and chunk.live * 2 <= len(chunk.data):
                self._move(full, chunk)  # it died while it was filled
            chunk = self._chunks[self._filling]
        return chunk

    def _drop(self, slot: int) -> None:
        """The record in a slot is dead; a chunk that is half dead is written anew."""
        if not self._main[slot]:
            return
        number = self._chunk_of[slot]
        chunk = self._chunks[number]
        chunk.live -= self._size[slot]
        self._chunk_of[slot] = 0
        if number != self._filling and chunk.live * 2 <= len(chunk.data):
            self._move(number, chunk)

    def _move(self, number: int, chunk: _Chunk) -> None:
        del self._chunks[number]
        for slot in chunk.slots:
            if self._chunk_of[slot] == number:  # written twice into one chunk: moved once, for then it is elsewhere
                offset = self._offset[slot]
                self._write(slot, bytes(chunk.data[offset : offset + self._size[slot]]))
