"""The messages around the messages: response headers, and what travels through the log."""

def header(cluster_id: int, member_id: int, revision: int, term: int) -> bytes:
    """Field 1 of every etcd response: tag, length and ResponseHeader. Zero values are left out, as proto3 does."""

def internal_request(kind: int, request_id: int, message: bytes) -> bytes:
    """InternalRaftRequest: header.ID = request_id (0 .. 2^64 - 1), and `message` verbatim as field `kind`. ValueError for a kind
    that is no request's field."""

def parse_internal(data: bytes) -> tuple[int, int, bytes]:
    """(kind, request id, payload) of an InternalRaftRequest. ValueError if it is malformed or holds no request."""

def sole_number(message: bytes) -> int | None:
    """The int of a message that holds its field 1 and nothing else; None for every other message, malformed or not."""

def two_numbers(head: bytes, second: int, third: int) -> bytes:
    """`head`, which is a message's field 1, and behind it the ints of its fields 2 and 3. Zero values are left out."""
