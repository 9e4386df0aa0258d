"""The leadership keys as the store has them, and what they mean: who the replicas are, and whether they agree.

A key says "I fire for so many replicas". It is written *for a set of keys*: after the writer has stopped what it has no place for
in that set, and only if no key was created since it looked. A set agrees when each key says its size and is no older than its
youngest key; then each was written for this very set:

* Two sets of one size that follow each other differ by a key that was created in between, and what was written before that is
  older than it. Without the age, one replica that leaves while another joins would make a set that "agrees" at once, although
  nobody has stopped anything.
* A key that says 0 is given up: its owner fires nothing, and will not before it writes it again.
* In an etcd that is shared with Dapr's Scheduler, a key of Dapr's counts by its size alone, as Dapr has it: it is not written again
  for a set of the same size. Ours are told by their uid, of which one half follows from the other.

Invariant: a pure function of the keys; two replicas that see the same revision see the same.
Must not know: leases' lives, the engine, who acts on it.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from raftsched.scheduler.jobs._jobs import WireError, parse_kv, parse_leadership
from raftsched.types import Change

GIVEN_UP: Final = 0
UNREADABLE: Final = -1


def own_uid(chance: int) -> int:
    """A uid as this program writes it, of 64 random bits: the lower half is a digest of the upper."""
    upper = chance >> 32 & 0xFFFFFFFF
    return upper << 32 | zlib.crc32(b"raftsched" + upper.to_bytes(4, "big"))


class Key(NamedTuple):
    """One leadership key. `total` GIVEN_UP, UNREADABLE, or for how many replicas its owner fires."""

    value: bytes
    changed: int
    """Revision of the last write."""
    created: int
    lease: int
    total: int
    uid: int
    address: str

    @property
    def dapr(self) -> bool:
        """Another program wrote it; one in 2**32 of Dapr's is taken for ours, and waits for its next write."""
        return own_uid(self.uid) != self.uid


def read_key(value: bytes, changed: int, lease: int, created: int) -> Key:
    """From what the store holds."""
    try:
        total, uid, address = parse_leadership(value)
    except WireError:
        total, uid, address = UNREADABLE, 0, ""
    return Key(value, changed, created, lease, total, uid, address)


class Replicas:
    """All leadership keys, and the own one among them; kept current by `note` and `replace`."""

    def __init__(self, own_key: bytes, uid: int, *, shared: bool = False) -> None:
        """`shared`: keys of Dapr's Scheduler may be among them."""
        self._own_key = own_key
        self._shared = shared
        self._uid = uid
        self.keys: dict[bytes, Key] = {}

    # -- what the store says; the result: a key went that was not given up, so its owner may not know it yet
    def note(self, changes: Iterable[Change]) -> bool:
        vanished = False
        for change in changes:
            known = self.keys.get(change.key)
            if known is not None and known.changed >= change.main:
                continue
            if change.deleted:
                vanished |= self._remove(change.key)
                continue
            _, value, changed, lease, created = parse_kv(change.record)
            vanished |= known is not None and known.created != created and self._remove(change.key)
            self.keys[change.key] = read_key(value, changed, lease, created)
        return vanished

    def replace(self, found: Iterable[tuple[bytes, bytes, int, int, int]]) -> bool:
        """All keys, read anew: (key, value, changed, lease, created)."""
        keys = {key: read_key(value, changed, lease, created) for key, value, changed, lease, created in found}
        gone = [key for key, known in self.keys.items() if key not in keys or keys[key].created != known.created]
        vanished = any(self._remove(key) for key in gone)
        self.keys = keys
        return vanished

    def _remove(self, key: bytes) -> bool:
        known = self.keys.pop(key, None)
        return known is not None and key != self._own_key and known.total != GIVEN_UP

    # -- what it means
    @property
    def own(self) -> Key | None:
        """The own key, if it is this incarnation's."""
        held = self.keys.get(self._own_key)
        return held if held is not None and held.total != UNREADABLE and held.uid == self._uid else None

    @property
    def newest(self) -> int:
        """The revision of the youngest key's creation."""
        return max((held.created for held in self.keys.values()), default=0)

    def place(self) -> tuple[int, int]:
        """(number of replicas, the own one's index among them); the own key must be there."""
        return len(self.keys), sorted(self.keys).index(self._own_key)

    def is_for_this_set(self, held: Key) -> bool:
        """A key was written for the set of keys as it is."""
        return held.total == len(self.keys) and (held.changed >= self.newest or (self._shared and held.dapr))

    @property
    def mixed(self) -> bool:
        """Replicas of Dapr's Scheduler are among them, which stop when they hear of a change, and give no sign of it."""
        return self._shared and any(held.dapr for key, held in self.keys.items() if key != self._own_key)

    def agreed(self) -> Sequence[str] | None:
        """The hosts' addresses, sorted, if all agree."""
        if not all(self.is_for_this_set(held) for held in self.keys.values()):
            return None
        return sorted(held.address for held in self.keys.values())
