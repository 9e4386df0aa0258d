"""The messages around the messages: response headers, and what travels through the log."""

def header(cluster_id: int, member_id: int, revision: int, term: int) -> bytes:
    """Field 1 of every etcd response: tag, length and ResponseHeader. Zero values are left out, as proto3 does."""

def internal_request(kind: int, request_id: int, message: bytes) -> bytes:
    """InternalRaftRequest: header.ID = request_id (0 .. 2^64 - 1), and `message` verbatim as field `kind`. ValueError for a kind
    that is no request's field."""

def parse_internal(data: bytes) -> tuple[int, int, bytes]:
    """(kind, request id, payload) of an InternalRaftRequest. ValueError if it is malformed or holds no request."""
