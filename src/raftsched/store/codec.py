"""The small messages that the store writes and reads itself: varints, fields, requests of leases and alarms, request ids.

Puts, ranges and transactions never pass here (store/mvcc takes their bytes); batches of entries are `_entries`.
Invariant: encoders drop zero fields and write ascending field numbers, so equal values have equal bytes (HashKV, bucket keys).
Must not know: what a request does, sockets, files.
"""

from collections.abc import Iterator
from typing import Final

from raftsched.store._entries import UNREADABLE, Headers, identity_fields, kinds_of, largest, unwrap, wrap
from raftsched.varint import MASK_64, varint

__all__ = [
    "UNREADABLE",
    "Headers",
    "RequestIds",
    "WireError",
    "bytes_field",
    "fields",
    "identity_fields",
    "kinds_of",
    "largest",
    "numbers",
    "signed",
    "text_field",
    "unwrap",
    "varint",
    "varint_field",
    "wrap",
]

_SUFFIX_MASK: Final = (1 << 48) - 1
_INT64_MAX: Final = (1 << 63) - 1


class WireError(ValueError):
    """The bytes are no protobuf message."""


def varint_field(number: int, value: int) -> bytes:
    """Empty for 0, as proto3 has it."""
    return varint(number << 3) + varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """Written even if empty: callers leave out what is not there."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def text_field(number: int, value: str) -> bytes:
    return bytes_field(number, value.encode()) if value else b""


def signed(value: int) -> int:
    """The int64 that a varint stands for."""
    return value - (1 << 64) if value > _INT64_MAX else value


def _varint_at(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & MASK_64, at
        shift += 7
    raise WireError("a varint is cut off or too long")


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, int of a varint or fixed field, bytes of a length-delimited one). Raises WireError."""
    at = 0
    while at < len(data):
        tag, at = _varint_at(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint_at(data, at)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(wire, -1)
        if wire == 2:
            size, at = _varint_at(data, at)
        if size < 0 or size > len(data) - at:
            raise WireError(f"field {tag >> 3} is cut off or of unknown type {wire}")
        chunk = data[at : at + size]
        at += size
        yield tag >> 3, chunk if wire == 2 else int.from_bytes(chunk, "little")


def numbers(data: bytes) -> dict[int, int]:
    """The varint fields of a message, signed; what is absent is not there. Raises WireError."""
    return {number: signed(value) for number, value in fields(data) if isinstance(value, int)}


class RequestIds:
    """Ids of requests and leases: 2 bytes of the member id, 5 of ms time, 1 counter (etcd-api §5).

    More than 256 in a ms run into the next ms, as etcd's do; ids of one process rise by one each, without a gap, and `skip_past`
    keeps those of its next life above them.
    """

    def __init__(self, member_id: int, now_ms: int) -> None:
        self._prefix = (member_id & 0xFFFF) << 48
        self._next = (now_ms << 8) & _SUFFIX_MASK

    def take(self, count: int = 1) -> int:
        """The first of `count` neighbouring ids."""
        if self._next + count > _SUFFIX_MASK:
            self._next = 1  # once in 34 years
        first = self._next
        self._next += count
        return self._prefix | first

    def skip_past(self, request_id: int) -> None:
        """Later ids are above `request_id`, if that is one of this member's."""
        if request_id & ~_SUFFIX_MASK == self._prefix:
            self._next = max(self._next, (request_id & _SUFFIX_MASK) + 1)

    def ahead(self, count: int) -> int:
        """The id that comes after `count` more."""
        return self._prefix | min(self._next + count, _SUFFIX_MASK)

    def left(self, ceiling: int) -> int:
        """How many come before `ceiling`; negative: they are past it."""
        return (ceiling & _SUFFIX_MASK) - self._next

    def lease_id(self) -> int:
        """A positive int64."""
        return self.take() & _INT64_MAX
