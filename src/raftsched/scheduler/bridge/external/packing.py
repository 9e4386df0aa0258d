"""Many small requests as one transaction, and one large transaction as several: what an etcd's limits allow.

An outer Txn has no compare: its success operations are done one by one, nested transactions decide for themselves. etcd counts the
operations of a nested transaction on top of the outer one's (--max-txn-ops, 128 by default), and refuses the whole if two of them put
one key. Invariant: pure. Must not know: who sends it.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from raftsched.errors import EtcdError
from raftsched.pb.etcd import rpc_pb2
from raftsched.proposals import DELETE_RANGE, PUT, TXN
from raftsched.scheduler.jobs.requests import field
from raftsched.types import Result

HEADER_TAG: Final = 0x0A
BRANCH_TAG: Final = 0x12
_OP_FIELD: Final = {PUT: 2, DELETE_RANGE: 3, TXN: 4}
"""Of RequestOp, by the kind of a write."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, behind it). IndexError: cut off."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def split_header(body: bytes) -> tuple[int, bytes]:
    """(revision, the response without its header)."""
    if not body or body[0] != HEADER_TAG:
        return 0, body
    size, at = _varint(body, 1)
    return rpc_pb2.ResponseHeader.FromString(body[at : at + size]).revision, body[at + size :]


def branches(request: bytes) -> Iterator[bytes]:
    """The success operations of a TxnRequest that has nothing else, with their tags."""
    at = 0
    while at < len(request):
        if request[at] != BRANCH_TAG:
            raise ValueError("not a packed transaction")
        size, body = _varint(request, at + 1)
        yield request[at : body + size]
        at = body + size


def pieces(request: bytes, operations_max: int, bytes_max: int) -> list[tuple[bytes, int]]:
    """A packed transaction as several: (request, number of its branches), in order."""
    found: list[tuple[bytes, int]] = []
    held: list[bytes] = []
    size = 0
    for branch in branches(request):
        if held and (len(held) >= operations_max or size + len(branch) > bytes_max):
            found.append((b"".join(held), len(held)))
            held, size = [], 0
        held.append(branch)
        size += len(branch)
    if held:
        found.append((b"".join(held), len(held)))
    return found


def joined(writes: Sequence[tuple[int, bytes]]) -> bytes:
    """A TxnRequest that does them all: (kind, request) each."""
    return b"".join(field(2, field(_OP_FIELD[kind], request)) for kind, request in writes)


def parted(writes: Sequence[tuple[int, bytes]], body: bytes) -> list[Result]:
    """Of the answer to `joined(writes)`: what each would have been answered. ValueError: it is no such answer."""
    message = rpc_pb2.TxnResponse.FromString(body)
    if len(message.responses) != len(writes):
        raise ValueError("not the answer to this transaction")
    revision = message.header.revision
    results = []
    for (kind, _), response in zip(writes, message.responses, strict=True):
        answer = {PUT: response.response_put, DELETE_RANGE: response.response_delete_range, TXN: response.response_txn}[kind]
        answer.ClearField("header")
        results.append((0, revision, answer.SerializeToString()))
    return results


def changed(body: bytes) -> bool:
    """A TxnResponse tells of a change, so the watch will tell of its revision."""
    return any(_op_changed(response) for response in rpc_pb2.TxnResponse.FromString(body).responses)


def _op_changed(response: rpc_pb2.ResponseOp) -> bool:
    kind = response.WhichOneof("response")
    if kind == "response_txn":
        return any(_op_changed(inner) for inner in response.response_txn.responses)
    return kind == "response_put" or (kind == "response_delete_range" and response.response_delete_range.deleted > 0)


def refused(error: EtcdError, count: int) -> list[Result]:
    """The same answer for each of so many."""
    return [(int(error), 0, b"")] * count
