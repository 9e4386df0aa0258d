"""Alarms: NOSPACE and CORRUPT, per member, raised and cleared through the log.

Invariant: bucket `alarm` holds exactly the raised ones: key = encoded AlarmMember, value empty.
Must not know: what raises them; how big anything is.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from raftsched.errors import CorruptError
from raftsched.store.codec import WireError, bytes_field, numbers, varint_field

NONE: Final = 0
NOSPACE: Final = 1
CORRUPT: Final = 2
GET: Final = 0
ACTIVATE: Final = 1
DEACTIVATE: Final = 2


def encode_member(member_id: int, alarm: int) -> bytes:
    return varint_field(1, member_id) + varint_field(2, alarm)


def encode_request(action: int, member_id: int, alarm: int) -> bytes:
    """An etcdserverpb.AlarmRequest."""
    return varint_field(1, action) + varint_field(2, member_id) + varint_field(3, alarm)


class AlarmStore:
    """What is raised."""

    def __init__(self, write: Callable[[tuple[str, bytes, bytes | None]], None]) -> None:
        self._write = write
        self._raised: dict[tuple[int, int], None] = {}

    def load(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """From the bucket. Raises CorruptError."""
        for key, _ in items:
            try:
                found = numbers(key)
            except WireError as error:
                raise CorruptError(f"bucket alarm, key {key.hex()}: {error}") from error
            self._raised[found.get(1, 0) & (1 << 64) - 1, found.get(2, 0)] = None

    def raised(self) -> Sequence[tuple[int, int]]:
        """(member id, alarm), sorted."""
        return sorted(self._raised)

    def has(self, alarm: int) -> bool:
        return any(kind == alarm for _, kind in self._raised)

    def apply(self, request: bytes) -> bytes:
        """One committed AlarmRequest; the AlarmResponse without header. Raises WireError."""
        found = numbers(request)
        action, member_id, alarm = found.get(1, GET), found.get(2, 0) & (1 << 64) - 1, found.get(3, NONE)
        told: list[tuple[int, int]] = []
        if action == GET:
            told = [one for one in self.raised() if alarm in (NONE, one[1])]
        elif action == ACTIVATE and alarm != NONE:
            self._raised[member_id, alarm] = None
            self._write(("alarm", encode_member(member_id, alarm), b""))
            told = [(member_id, alarm)]
        elif action == DEACTIVATE and (member_id, alarm) in self._raised:
            del self._raised[member_id, alarm]
            self._write(("alarm", encode_member(member_id, alarm), None))
            told = [(member_id, alarm)]
        return b"".join(bytes_field(2, encode_member(*one)) for one in told)
