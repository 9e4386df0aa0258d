"""The few etcd requests that the scheduler sends, as bytes; answers are read by `_jobs`.

Invariant: what is written here is what etcd's own clients would send. Must not know: who carries it.
Field numbers: spec etcd-api, appendix; messages are small, so plain joining does.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from raftsched.scheduler.jobs.names import COUNTERS, DEAD, JOBS, LEADERSHIP, prefix_end
from raftsched.varint import varint


def field(number: int, body: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(body)) + body


def number_field(number: int, value: int) -> bytes:
    """A varint field; negative numbers as 64-bit two's complement."""
    return varint(number << 3) + varint(value)


def put_request(key: bytes, value: bytes, lease: int = 0) -> bytes:
    """PutRequest."""
    return field(1, key) + field(2, value) + (number_field(3, lease) if lease else b"")


def range_request(key: bytes, end: bytes = b"", *, limit: int = 0, revision: int = 0) -> bytes:
    """RangeRequest; ascending by key, as ranges come."""
    tail = (field(2, end) if end else b"") + (number_field(3, limit) if limit else b"")
    return field(1, key) + tail + (number_field(4, revision) if revision else b"")


def create_request(key: bytes, value: bytes, lease: int = 0) -> bytes:
    """Txn: if the key is not there, put it; else read it."""
    compare = number_field(2, 1) + field(3, key) + number_field(5, 0)  # target CREATE, create_revision 0
    put = field(2, put_request(key, value, lease))
    read = field(1, field(1, key))
    return field(1, compare) + field(2, put) + field(3, read)


def _has_value(key: bytes, value: bytes) -> bytes:
    return field(1, number_field(2, 3) + field(3, key) + field(7, value))  # target VALUE, result EQUAL


def follow_request(key: bytes, old: bytes, value: bytes, lease: int, newest: int) -> bytes:
    """Txn: if the own leadership key has value `old`, and no leadership key was created after revision `newest`, put `value`."""
    none_newer = number_field(1, 2) + number_field(2, 1) + field(3, LEADERSHIP)  # result LESS, target CREATE
    none_newer += number_field(5, newest + 1) + field(64, prefix_end(LEADERSHIP))
    return _has_value(key, old) + field(1, none_newer) + field(2, field(2, put_request(key, value, lease)))


def replace_request(key: bytes, old: bytes, value: bytes, lease: int) -> bytes:
    """Txn: if the key has value `old` and hangs on this lease, put `value` there."""
    same_lease = number_field(2, 4) + field(3, key) + number_field(8, lease)  # target LEASE
    return _has_value(key, old) + field(1, same_lease) + field(2, field(2, put_request(key, value, lease)))


def remove_request(key: bytes, old: bytes) -> bytes:
    """Txn: if the key has value `old`, delete it."""
    return _has_value(key, old) + _delete_op(key)


def _delete_op(key: bytes, end: bytes = b"") -> bytes:
    return field(2, field(3, field(1, key) + (field(2, end) if end else b"")))


def delete_job_request(composed: bytes) -> bytes:
    """Txn: the job and its counter go together."""
    return _delete_op(JOBS + composed) + _delete_op(COUNTERS + composed)


def delete_prefix_request(prefix: bytes) -> bytes:
    """Txn: all jobs and counters whose composed name starts with `prefix`."""
    return b"".join(_delete_op(root + prefix, prefix_end(root + prefix)) for root in (JOBS, COUNTERS))


def delete_letters_request(prefix: bytes) -> bytes:
    """Txn: all dead letters of jobs whose composed name starts with `prefix`."""
    return _delete_op(DEAD + prefix, prefix_end(DEAD + prefix))


class Branch(NamedTuple):
    """A nested Txn of a packed request: if each key has the revision that was seen (0 = there is none), do all changes."""

    seen: Sequence[tuple[bytes, int]]
    changes: Sequence[tuple[bytes, bytes | None]]
    """(key, value); None = delete."""


def packed_request(branches: Sequence[Branch]) -> bytes:
    """TxnRequest for `KvClient.txn_packed`."""
    return b"".join(field(2, field(4, _branch(one))) for one in branches)


def _branch(branch: Branch) -> bytes:
    compares = (field(1, number_field(2, 2) + field(3, key) + number_field(6, revision)) for key, revision in branch.seen)  # target MOD
    changes = (_delete_op(key) if value is None else field(2, field(2, put_request(key, value))) for key, value in branch.changes)
    return b"".join((*compares, *changes))


HOST_TYPE_URL: Final = b"type.googleapis.com/dapr.proto.scheduler.v1.Host"


def leadership_value(total: int, uid: int, address: str) -> bytes:
    """cron.stored.Leadership{total, uid, replica_data Any(Host)}."""
    host = field(1, address.encode()) if address else b""
    replica = field(1, HOST_TYPE_URL) + (field(2, host) if host else b"")
    return (number_field(1, total) if total else b"") + (number_field(2, uid) if uid else b"") + field(3, replica)
