"""The messages around the messages: response headers, and what travels through the log.

Invariant: what is written here is canonical (ascending fields, zero fields dropped, minimal varints). A payload goes in and comes
out byte for byte. Must not know: what a request does.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    FIELD_ID = 1            # InternalRaftRequest.ID, of etcd before 3.0's header; still read
    FIELD_HEADER = 100
    HEADER_BYTES_MAX = 48


cdef inline wire_span span_of(bytes data) noexcept:
    cdef wire_span span
    span.data = <const uint8_t*> PyBytes_AS_STRING(data)
    span.length = <size_t> PyBytes_GET_SIZE(data)
    return span


def header(uint64_t cluster_id, uint64_t member_id, int64_t revision, uint64_t term):
    """Field 1 of every etcd response: tag, length and ResponseHeader. Zero values are left out, as proto3 does."""
    cdef uint8_t room[HEADER_BYTES_MAX]
    cdef uint8_t* at = wire_put_int(room + 2, 0x08, cluster_id)
    at = wire_put_int(at, 0x10, member_id)
    at = wire_put_int(at, 0x18, <uint64_t> revision)
    at = wire_put_int(at, 0x20, term)
    room[0] = 0x0A
    room[1] = <uint8_t> (at - room - 2)  # at most 44: one byte is enough
    return PyBytes_FromStringAndSize(<const char*> room, at - room)


def internal_request(uint32_t kind, uint64_t request_id, bytes message not None):
    """InternalRaftRequest: header.ID = request_id, and `message` verbatim as field `kind` (1 < kind < 2^29, not 100)."""
    cdef wire_span payload = span_of(message)
    cdef size_t inner = wire_int_size(request_id)
    cdef uint64_t tag = <uint64_t> kind << 3 | 2
    cdef size_t size = wire_varint_size(tag) + wire_varint_size(payload.length) + payload.length
    cdef bytes whole
    cdef uint8_t* at
    if kind <= FIELD_ID or kind == FIELD_HEADER or kind >= 1 << 29:
        raise ValueError(f"InternalRaftRequest has no request in field {kind}")
    size += wire_varint_size(FIELD_HEADER << 3 | 2) + 1 + inner
    whole = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> size)
    at = <uint8_t*> PyBytes_AS_STRING(whole)
    if kind < FIELD_HEADER:
        at = put_payload(at, tag, payload)
    at = wire_put_varint(at, FIELD_HEADER << 3 | 2)
    at = wire_put_int(wire_put_varint(at, inner), 0x08, request_id)
    if kind > FIELD_HEADER:
        put_payload(at, tag, payload)
    return whole


cdef uint8_t* put_payload(uint8_t* at, uint64_t tag, wire_span payload) noexcept:
    at = wire_put_varint(wire_put_varint(at, tag), payload.length)
    memcpy(at, payload.data, payload.length)
    return at + payload.length


def parse_internal(bytes data not None):
    """(kind, request id, payload) of an InternalRaftRequest. ValueError if it is malformed or holds no request."""
    cdef wire_reader reader = wire_open(span_of(data))
    cdef wire_span payload, inner
    cdef uint32_t field = 0, type = 0, kind = 0
    cdef int64_t request_id = 0, old_id = 0
    cdef int more = wire_tag(&reader, &field, &type), bad = 0
    payload.data = NULL
    payload.length = 0
    while more == 1 and not bad:
        if field == FIELD_ID:
            bad = wire_take_int(&reader, type, &old_id)
        elif field == FIELD_HEADER:
            bad = wire_take_bytes(&reader, type, &inner)
            if not bad:
                bad = parse_request_id(inner, &request_id)
        elif type == WIRE_BYTES:
            bad = wire_bytes(&reader, &payload)
            kind = field
        else:
            bad = wire_skip(&reader, field, type)
        if not bad:
            more = wire_tag(&reader, &field, &type)
    if bad or more or not kind:
        raise ValueError("not an InternalRaftRequest with a request in it")
    return kind, <uint64_t> (request_id or old_id), PyBytes_FromStringAndSize(<const char*> payload.data, <Py_ssize_t> payload.length)


cdef int parse_request_id(wire_span message, int64_t* request_id) noexcept:
    cdef wire_reader reader = wire_open(message)
    cdef uint32_t field = 0, type = 0
    cdef int bad = 0
    cdef int more = wire_tag(&reader, &field, &type)
    while more == 1 and not bad:
        bad = wire_take_int(&reader, type, request_id) if field == 1 else wire_skip(&reader, field, type)
        if not bad:
            more = wire_tag(&reader, &field, &type)
    return bad or more


def sole_number(bytes message not None):
    """The int of a message that holds its field 1 and nothing else; None for every other message, malformed or not."""
    cdef wire_reader reader = wire_open(span_of(message))
    cdef uint32_t field = 0, type = 0
    cdef int64_t value = 0
    if wire_tag(&reader, &field, &type) != 1 or field != 1 or wire_take_int(&reader, type, &value):
        return None
    return value if wire_tag(&reader, &field, &type) == 0 else None


def two_numbers(bytes head not None, int64_t second, int64_t third):
    """`head`, which is a message's field 1, and behind it the ints of its fields 2 and 3. Zero values are left out."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(head)
    cdef size_t size = <size_t> length + (1 + wire_int_size(<uint64_t> second)) + (1 + wire_int_size(<uint64_t> third))
    cdef uint8_t room[64 + HEADER_BYTES_MAX]
    cdef uint8_t* at
    if size > sizeof(room):
        raise ValueError("a head of so many bytes is none of ours")
    memcpy(room, PyBytes_AS_STRING(head), <size_t> length)
    at = wire_put_int(room + length, 0x10, <uint64_t> second)
    at = wire_put_int(at, 0x18, <uint64_t> third)
    return PyBytes_FromStringAndSize(<const char*> room, at - room)
