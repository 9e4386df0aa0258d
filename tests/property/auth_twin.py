"""What permissions cover and what requests need, slow and obvious: every key looked at by itself, generated messages walked."""

from collections.abc import Iterable, Iterator
from typing import Any

from raftsched.store.auth._needs import LEASE, READ, WRITE

LETTERS = b"\x00\x01ab\xff"


def words(depth: int) -> Iterator[bytes]:
    """All keys of up to `depth` letters."""
    level = [b""]
    for _ in range(depth):
        level = [word + bytes([letter]) for word in level for letter in LETTERS]
        yield from level


ALL = sorted(words(3))


def inside(key: bytes, begin: bytes, end: bytes) -> bool:
    if not end:
        return key == begin
    return key >= begin and (end == b"\0" or key < end)


def covered(intervals: Iterable[tuple[bytes, bytes]], key: bytes, end: bytes) -> bool:
    """Whether every key of [key, end) among ALL is in some interval, and the range does not go on where the intervals end."""
    held = list(intervals)
    if end == b"\0" and not any(one[1] == b"\0" for one in held):
        return False  # keys beyond ALL
    wanted = [one for one in ALL if inside(one, key, end)]
    return bool(wanted) and all(any(inside(one, *interval) for interval in held) for one in wanted)


def needs(kind: str, request: Any) -> set[tuple[int, bytes | int, bytes]]:
    """By the generated message."""
    if kind == "range":
        return {(READ, request.key, request.range_end)}
    if kind == "put":
        found: set[tuple[int, bytes | int, bytes]] = {(WRITE, request.key, b"")}
        found |= {(LEASE, request.lease, b"")} if request.lease else set()
        return found | ({(READ, request.key, b"")} if request.prev_kv else set())
    if kind == "delete_range":
        found = {(WRITE, request.key, request.range_end)}
        return found | ({(READ, request.key, request.range_end)} if request.prev_kv else set())
    found = {(READ, one.key, one.range_end) for one in request.compare}
    for op in (*request.success, *request.failure):
        which = op.WhichOneof("request")
        if which:
            found |= needs(which.removeprefix("request_"), getattr(op, which))
    return found
