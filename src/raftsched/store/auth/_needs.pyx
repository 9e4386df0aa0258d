"""What a request of KV must be allowed to read and write, read from its bytes by the store's own parser (store/mvcc/native/request.h).

The same parser, because two that differ in one odd message would check one key and touch another.
Invariant: nothing that the store would read or write of a request is missing, in no branch of no nested transaction.
Must not know: users, permissions, what a lease holds.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef extern from "../native/wire.h" nogil:
    ctypedef struct wire_span:
        const uint8_t* data
        size_t length

cdef extern from "../mvcc/native/request.h" nogil:
    ctypedef struct wire_reader:
        pass
    ctypedef struct range_request:
        wire_span key
        wire_span end
    ctypedef struct put_request:
        wire_span key
        int64_t lease
        uint8_t prev_kv
    ctypedef struct delete_request:
        wire_span key
        wire_span end
        uint8_t prev_kv
    ctypedef struct compare_request:
        wire_span key
        wire_span end
    cdef enum:
        OP_RANGE
        OP_PUT
        OP_DELETE
        OP_TXN
        TXN_COMPARE
        TXN_SUCCESS
        TXN_FAILURE
    wire_reader wire_open(wire_span span)
    int range_parse(wire_span message, range_request* out)
    int put_parse(wire_span message, put_request* out)
    int delete_parse(wire_span message, delete_request* out)
    int compare_parse(wire_span message, compare_request* out)
    int op_parse(wire_span message, int* kind, wire_span* body)
    int txn_next(wire_reader* reader, uint32_t wanted, wire_span* out)
    int txn_validate(wire_span message, int depth)

cdef enum:
    KIND_RANGE = 3
    KIND_PUT = 4
    KIND_DELETE_RANGE = 5
    KIND_TXN = 6
    NEED_READ = 0
    NEED_WRITE = 1
    NEED_LEASE = 2

READ = NEED_READ
WRITE = NEED_WRITE
LEASE = NEED_LEASE


cdef inline bytes copied(wire_span span):
    return PyBytes_FromStringAndSize(<const char*>span.data if span.length else NULL, <Py_ssize_t>span.length)


cdef int range_needs(wire_span message, list out) except -1:
    cdef range_request request
    if range_parse(message, &request):
        raise ValueError("no RangeRequest")
    out.append((NEED_READ, copied(request.key), copied(request.end)))
    return 0


cdef int put_needs(wire_span message, list out) except -1:
    cdef put_request request
    if put_parse(message, &request):
        raise ValueError("no PutRequest")
    key = copied(request.key)
    out.append((NEED_WRITE, key, b""))
    if request.lease:
        out.append((NEED_LEASE, request.lease, b""))
    if request.prev_kv:
        out.append((NEED_READ, key, b""))
    return 0


cdef int delete_needs(wire_span message, list out) except -1:
    cdef delete_request request
    if delete_parse(message, &request):
        raise ValueError("no DeleteRangeRequest")
    key, end = copied(request.key), copied(request.end)
    out.append((NEED_WRITE, key, end))
    if request.prev_kv:
        out.append((NEED_READ, key, end))
    return 0


cdef int operation_needs(wire_span message, list out) except -1:
    cdef wire_span body
    cdef int kind
    if op_parse(message, &kind, &body):
        raise ValueError("no RequestOp")
    if kind == OP_RANGE:
        range_needs(body, out)
    elif kind == OP_PUT:
        put_needs(body, out)
    elif kind == OP_DELETE:
        delete_needs(body, out)
    elif kind == OP_TXN:
        txn_needs(body, out)
    return 0


cdef int txn_needs(wire_span message, list out) except -1:
    cdef wire_reader reader = wire_open(message)
    cdef wire_span part
    cdef compare_request compare
    cdef uint32_t branch
    while txn_next(&reader, TXN_COMPARE, &part):
        if compare_parse(part, &compare):
            raise ValueError("no Compare")
        out.append((NEED_READ, copied(compare.key), copied(compare.end)))
    for branch in (TXN_SUCCESS, TXN_FAILURE):
        reader = wire_open(message)
        while txn_next(&reader, branch, &part):
            operation_needs(part, out)
    return 0


def needs(int kind, bytes message not None):
    """[(READ or WRITE, key, range end) or (LEASE, lease id, b"")]; ValueError for bytes that are no such request."""
    cdef wire_span span
    cdef list out = []
    span.data = <const uint8_t*>PyBytes_AS_STRING(message)
    span.length = <size_t>PyBytes_GET_SIZE(message)
    if kind == KIND_PUT:
        put_needs(span, out)
    elif kind == KIND_RANGE:
        range_needs(span, out)
    elif kind == KIND_DELETE_RANGE:
        delete_needs(span, out)
    elif kind == KIND_TXN:
        if txn_validate(span, 1):  # bounds the depth, too
            raise ValueError("no TxnRequest")
        txn_needs(span, out)
    else:
        raise ValueError(f"requests of kind {kind} are asked for no permission of keys")
    return out
