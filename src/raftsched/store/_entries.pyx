"""What a log entry holds: an etcdserverpb.InternalRaftRequest, wrapped and unwrapped a batch at a time; response headers.

Invariant: `unwrap(wrap(kind, messages, first))` gives back kind, messages and ids; an empty entry is kind 0, and bytes that are no
InternalRaftRequest with one request in it are UNREADABLE, never an exception, on every member alike.
Must not know: what a request means.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    HEADER_FIELD = 100
    PREFIX_BYTES_MAX = 32
    UNREADABLE_KIND = -1

UNREADABLE = UNREADABLE_KIND


cdef inline int put_varint(uint8_t* out, uint64_t value) noexcept nogil:
    cdef int size = 0
    while value >= 0x80:
        out[size] = <uint8_t>(value & 0x7F) | 0x80
        value >>= 7
        size += 1
    out[size] = <uint8_t>value
    return size + 1


cdef inline int get_varint(const uint8_t* data, Py_ssize_t end, Py_ssize_t* at, uint64_t* value) noexcept nogil:
    """0 = well, -1 = cut off or too long."""
    cdef int shift = 0
    cdef Py_ssize_t position = at[0]
    cdef uint64_t found = 0
    while position < end and shift < 64:
        found |= <uint64_t>(data[position] & 0x7F) << shift
        if data[position] < 0x80:
            at[0] = position + 1
            value[0] = found
            return 0
        position += 1
        shift += 7
    return -1


def wrap(int kind, messages, uint64_t first_id):
    """One entry per message: header.ID = first_id, first_id + 1, ..., and the message's bytes, verbatim, as field `kind`."""
    cdef list items = messages if type(messages) is list else list(messages)
    cdef list entries = []
    cdef Py_ssize_t i, size, count = len(items)
    cdef uint8_t prefix[PREFIX_BYTES_MAX]
    cdef int length, id_length
    cdef bytes message
    cdef char* out
    if kind <= 0 or kind == HEADER_FIELD:
        raise ValueError(f"field {kind} is no request")
    for i in range(count):
        message = items[i]
        size = PyBytes_GET_SIZE(message)
        id_length = put_varint(prefix + 4, first_id + <uint64_t>i)
        prefix[0] = 0xA2  # field 100, length-delimited
        prefix[1] = 0x06
        prefix[2] = <uint8_t>(id_length + 1)
        prefix[3] = 0x08  # RequestHeader.ID
        length = 4 + id_length
        length += put_varint(prefix + length, (<uint64_t>kind << 3) | 2)
        length += put_varint(prefix + length, <uint64_t>size)
        entry = PyBytes_FromStringAndSize(NULL, length + size)
        out = PyBytes_AS_STRING(entry)
        memcpy(out, prefix, length)
        memcpy(out + length, PyBytes_AS_STRING(message), size)
        entries.append(entry)
    return entries


cdef int parse_header(const uint8_t* data, Py_ssize_t at, Py_ssize_t end, uint64_t* request_id) noexcept nogil:
    cdef uint64_t tag, value
    while at < end:
        if get_varint(data, end, &at, &tag) or get_varint(data, end, &at, &value):
            return -1
        if tag == 0x08:
            request_id[0] = value
        elif tag & 7 == 2:
            if value > <uint64_t>(end - at):
                return -1
            at += <Py_ssize_t>value
        elif tag & 7 != 0:
            return -1
    return 0


cdef int parse_entry(const uint8_t* data, Py_ssize_t size, uint64_t* request_id, int64_t* kind,
                     Py_ssize_t* start, Py_ssize_t* stop) noexcept nogil:
    """-1: not one request and nothing else but its id. What is not known is never passed over: a later version means something by it."""
    cdef Py_ssize_t at = 0
    cdef uint64_t tag, value
    request_id[0] = 0
    kind[0] = 0
    while at < size:
        if get_varint(data, size, &at, &tag):
            return -1
        if tag == 0x08 and not get_varint(data, size, &at, &value):
            request_id[0] = value  # InternalRaftRequest.ID, where etcd itself had put it once
            continue
        if tag & 7 != 2 or get_varint(data, size, &at, &value) or value > <uint64_t>(size - at):
            return -1
        if tag >> 3 == HEADER_FIELD:
            if parse_header(data, at, at + <Py_ssize_t>value, request_id):
                return -1
        else:
            if kind[0]:
                return -1
            kind[0] = <int64_t>(tag >> 3)
            start[0] = at
            stop[0] = at + <Py_ssize_t>value
        at += <Py_ssize_t>value
    return 0 if kind[0] or size == 0 else -1


def unwrap(list entries):
    """(payloads, kind runs [(kind, start, stop)], id runs [(first id, start, stop)]); positions are those of `entries`.

    An id run holds ids that rise by one. Kind 0: an empty entry; UNREADABLE: none that can be read.
    """
    cdef list payloads = [], kinds = [], ids = []
    cdef Py_ssize_t i, start = 0, stop = 0, count = len(entries), kind_start = 0, id_start = 0
    cdef uint64_t request_id, run_id = 0
    cdef int64_t kind, run_kind = 0
    cdef const uint8_t* data
    for i in range(count):
        entry = <object>PyList_GET_ITEM(entries, i)
        data = <const uint8_t*>PyBytes_AS_STRING(entry)
        if parse_entry(data, PyBytes_GET_SIZE(entry), &request_id, &kind, &start, &stop):
            kind = UNREADABLE_KIND
        payloads.append(PyBytes_FromStringAndSize(<const char*>data + start, stop - start) if kind > 0 else b"")
        if i == 0:
            run_kind = kind
            run_id = request_id
            continue
        if kind != run_kind:
            kinds.append((run_kind, kind_start, i))
            run_kind = kind
            kind_start = i
        if request_id != run_id + <uint64_t>(i - id_start):
            ids.append((run_id, id_start, i))
            run_id = request_id
            id_start = i
    if count:
        kinds.append((run_kind, kind_start, count))
        ids.append((run_id, id_start, count))
    return payloads, kinds, ids


def kinds_of(list entries):
    """The set of their kinds, without a look at what they hold."""
    cdef set found = set()
    cdef Py_ssize_t i, start = 0, stop = 0
    cdef uint64_t request_id
    cdef int64_t kind, last = -2
    cdef bytes entry
    for i in range(len(entries)):
        entry = entries[i]
        if parse_entry(<const uint8_t*>PyBytes_AS_STRING(entry), PyBytes_GET_SIZE(entry), &request_id, &kind, &start, &stop):
            kind = UNREADABLE_KIND
        if kind != last:
            found.add(kind)
            last = kind
    return found


def largest(messages):
    """(bytes of the longest, bytes of all)."""
    cdef Py_ssize_t longest = 0, size
    cdef uint64_t total = 0
    for message in messages:
        size = len(<bytes>message)
        total += <uint64_t>size
        if size > longest:
            longest = size
    return longest, total


cdef class Headers:
    """Field 1 of a response (tag, length, ResponseHeader) for one member; set `term` when it changes."""

    cdef uint8_t _ids[PREFIX_BYTES_MAX]
    cdef uint8_t _terms[PREFIX_BYTES_MAX]
    cdef int _ids_bytes, _terms_bytes
    cdef uint64_t _term

    def __init__(self, uint64_t cluster_id, uint64_t member_id):
        cdef int length = 0
        if cluster_id:
            self._ids[0] = 0x08
            length = 1 + put_varint(self._ids + 1, cluster_id)
        if member_id:
            self._ids[length] = 0x10
            length += 1 + put_varint(self._ids + length + 1, member_id)
        self._ids_bytes = length

    @property
    def term(self):
        return self._term

    @term.setter
    def term(self, uint64_t value):
        self._term = value
        self._terms_bytes = 0
        if value:
            self._terms[0] = 0x20
            self._terms_bytes = 1 + put_varint(self._terms + 1, value)

    def encode(self, uint64_t revision):
        """Revision 0 is left out."""
        cdef uint8_t out[3 * PREFIX_BYTES_MAX]
        cdef int length = 2
        memcpy(out + length, self._ids, self._ids_bytes)
        length += self._ids_bytes
        if revision and revision <= <uint64_t>INT64_MAX:
            out[length] = 0x18
            length += 1 + put_varint(out + length + 1, revision)
        memcpy(out + length, self._terms, self._terms_bytes)
        length += self._terms_bytes
        out[0] = 0x0A
        out[1] = <uint8_t>(length - 2)
        return PyBytes_FromStringAndSize(<const char*>out, length)
