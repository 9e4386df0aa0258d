"""The contract of the entry codec: batches of requests to and from log entries."""

from collections.abc import Sequence

UNREADABLE: int

def wrap(kind: int, messages: Sequence[bytes], first_id: int, identity: bytes = b"") -> list[bytes]:
    """One InternalRaftRequest per message: header.ID = first_id + position, then `identity`, and the message verbatim as field `kind`."""

def identity_fields(name: bytes, revision: int) -> bytes:
    """Fields 2 and 3 of a RequestHeader: `identity` of `wrap`."""

def unwrap(
    entries: list[bytes],
) -> tuple[list[bytes], list[tuple[int, int, int]], list[tuple[int, int, int]], list[tuple[bytes, int, int, int]]]:
    """(payloads, [(kind, start, stop)], [(first id, start, stop)], [(name, auth revision, start, stop)]): runs of one kind, of ids that
    rise by one, and of one identity.

    Kind 0: an empty entry; UNREADABLE: bytes that are no InternalRaftRequest with one request in it. The payload of both is empty. The last
    list is empty unless some entry has an identity.
    """

def kinds_of(entries: list[bytes]) -> set[int]:
    """As `unwrap` has them."""

def largest(messages: Sequence[bytes]) -> tuple[int, int]:
    """(bytes of the longest, bytes of all)."""

class Headers:
    """Field 1 of a response (tag, length, ResponseHeader) for one member."""

    term: int
    def __init__(self, cluster_id: int, member_id: int) -> None: ...
    def encode(self, revision: int) -> bytes:
        """Revision 0 is left out."""
