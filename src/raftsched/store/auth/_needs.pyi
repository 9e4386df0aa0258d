"""The contract of what a request needs."""

READ: int
WRITE: int
LEASE: int

def needs(kind: int, message: bytes) -> list[tuple[int, bytes | int, bytes]]:
    """What a RangeRequest (3), PutRequest (4), DeleteRangeRequest (5) or TxnRequest (6, every branch at every depth) must be allowed.

    (READ or WRITE, key, range end as in the request), or (LEASE, lease id, b""): WRITE of all keys on that lease. ValueError: no such
    request.
    """
