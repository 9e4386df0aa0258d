"""What a log entry holds: an etcdserverpb.InternalRaftRequest, wrapped and unwrapped a batch at a time; response headers.

Invariant: `unwrap(wrap(kind, messages, first, identity))` gives back kind, messages, ids and who it was; an empty entry is kind 0,
and bytes that are no InternalRaftRequest with one request in it are UNREADABLE, never an exception, on every member alike.
Must not know: what a request means.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

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


def wrap(int kind, messages, uint64_t first_id, bytes identity=b""):
    """One entry per message: header.ID = first_id, first_id + 1, ..., and the message's bytes, verbatim, as field `kind`.

    `identity`: further fields of the header (`identity_fields`), the same in every entry.
    """
    cdef list items = messages if type(messages) is list else list(messages)
    cdef list entries = []
    cdef Py_ssize_t i, size, count = len(items)
    cdef uint8_t prefix[PREFIX_BYTES_MAX]
    cdef int length, id_length
    cdef bytes message
    cdef char* out
    if identity:
        return wrap_identified(kind, items, first_id, identity)
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


cdef list wrap_identified(int kind, list items, uint64_t first_id, bytes identity):
    """The same for requests of somebody."""
    cdef list entries = []
    cdef Py_ssize_t i, size, header, identity_size = PyBytes_GET_SIZE(identity), count = len(items)
    cdef uint8_t request_id[PREFIX_BYTES_MAX]
    cdef uint8_t tail[PREFIX_BYTES_MAX]
    cdef uint8_t head[PREFIX_BYTES_MAX]
    cdef int id_length, head_length, tail_length
    cdef bytes message
    cdef char* out
    if kind <= 0 or kind == HEADER_FIELD:
        raise ValueError(f"field {kind} is no request")
    head[0] = 0xA2  # field 100, length-delimited
    head[1] = 0x06
    request_id[0] = 0x08  # RequestHeader.ID
    for i in range(count):
        message = items[i]
        size = PyBytes_GET_SIZE(message)
        id_length = 1 + put_varint(request_id + 1, first_id + <uint64_t>i)
        header = id_length + identity_size
        head_length = 2 + put_varint(head + 2, <uint64_t>header)
        tail_length = put_varint(tail, (<uint64_t>kind << 3) | 2)
        tail_length += put_varint(tail + tail_length, <uint64_t>size)
        entry = PyBytes_FromStringAndSize(NULL, head_length + header + tail_length + size)
        out = PyBytes_AS_STRING(entry)
        memcpy(out, head, head_length)
        memcpy(out + head_length, request_id, id_length)
        memcpy(out + head_length + id_length, PyBytes_AS_STRING(identity), identity_size)
        memcpy(out + head_length + header, tail, tail_length)
        memcpy(out + head_length + header + tail_length, PyBytes_AS_STRING(message), size)
        entries.append(entry)
    return entries


def identity_fields(bytes name not None, uint64_t revision):
    """Fields 2 and 3 of a RequestHeader, for `wrap`; what is empty or 0 is left out."""
    cdef uint8_t head[PREFIX_BYTES_MAX]
    cdef uint8_t tail[PREFIX_BYTES_MAX]
    cdef int head_length = 0, tail_length = 0
    if name:
        head[0] = 0x12
        head_length = 1 + put_varint(head + 1, <uint64_t>PyBytes_GET_SIZE(name))
    if revision:
        tail[0] = 0x18
        tail_length = 1 + put_varint(tail + 1, revision)
    return (PyBytes_FromStringAndSize(<const char*>head, head_length) + name
            + PyBytes_FromStringAndSize(<const char*>tail, tail_length))


cdef struct header_t:
    uint64_t request_id
    uint64_t revision  # of the auth store
    const uint8_t* name
    Py_ssize_t name_size


cdef int parse_header(const uint8_t* data, Py_ssize_t at, Py_ssize_t end, header_t* header) noexcept nogil:
    cdef uint64_t tag, value
    while at < end:
        if get_varint(data, end, &at, &tag) or get_varint(data, end, &at, &value):
            return -1
        if tag == 0x08:
            header.request_id = value
        elif tag == 0x18:
            header.revision = value
        elif tag & 7 == 2:
            if value > <uint64_t>(end - at):
                return -1
            if tag == 0x12:
                header.name = data + at
                header.name_size = <Py_ssize_t>value
            at += <Py_ssize_t>value
        elif tag & 7 != 0:
            return -1
    return 0


cdef int parse_entry(const uint8_t* data, Py_ssize_t size, header_t* header, int64_t* kind,
                     Py_ssize_t* start, Py_ssize_t* stop) noexcept nogil:
    """-1: not one request and nothing else but its id. What is not known is never passed over: a later version means something by it."""
    cdef Py_ssize_t at = 0
    cdef uint64_t tag, value
    header.request_id = header.revision = 0
    header.name_size = 0
    kind[0] = 0
    while at < size:
        if get_varint(data, size, &at, &tag):
            return -1
        if tag == 0x08 and not get_varint(data, size, &at, &value):
            header.request_id = value  # InternalRaftRequest.ID, where etcd itself had put it once
            continue
        if tag & 7 != 2 or get_varint(data, size, &at, &value) or value > <uint64_t>(size - at):
            return -1
        if tag >> 3 == HEADER_FIELD:
            if parse_header(data, at, at + <Py_ssize_t>value, header):
                return -1
        else:
            if kind[0]:
                return -1
            kind[0] = <int64_t>(tag >> 3)
            start[0] = at
            stop[0] = at + <Py_ssize_t>value
        at += <Py_ssize_t>value
    return 0 if kind[0] or size == 0 else -1


cdef inline bint same_name(header_t* one, header_t* other) noexcept nogil:
    return one.name_size == other.name_size and (not one.name_size or memcmp(one.name, other.name, one.name_size) == 0)


cdef inline tuple identity_run(header_t* who, Py_ssize_t start, Py_ssize_t stop):
    return PyBytes_FromStringAndSize(<const char*>who.name if who.name_size else NULL, who.name_size), who.revision, start, stop


def unwrap(list entries):
    """(payloads, kind runs [(kind, start, stop)], id runs [(first id, start, stop)], identity runs [(name, revision, start, stop)]);
    positions are those of `entries`.

    An id run holds ids that rise by one. Kind 0: an empty entry; UNREADABLE: none that can be read. There are identity runs only if some
    entry has an identity; those without are of (b"", 0) then.
    """
    cdef list payloads = [], kinds = [], ids = [], identities = []
    cdef Py_ssize_t i, start = 0, stop = 0, count = len(entries), kind_start = 0, id_start = 0, who_start = 0
    cdef uint64_t run_id = 0
    cdef header_t header, who
    cdef int64_t kind, run_kind = 0
    cdef const uint8_t* data
    who.name = NULL
    who.name_size = 0
    who.revision = 0
    for i in range(count):
        entry = <object>PyList_GET_ITEM(entries, i)
        data = <const uint8_t*>PyBytes_AS_STRING(entry)
        if parse_entry(data, PyBytes_GET_SIZE(entry), &header, &kind, &start, &stop):
            kind = UNREADABLE_KIND
        payloads.append(PyBytes_FromStringAndSize(<const char*>data + start, stop - start) if kind > 0 else b"")
        if i == 0:
            run_kind = kind
            run_id = header.request_id
            who = header
            continue
        if kind != run_kind:
            kinds.append((run_kind, kind_start, i))
            run_kind = kind
            kind_start = i
        if header.request_id != run_id + <uint64_t>(i - id_start):
            ids.append((run_id, id_start, i))
            run_id = header.request_id
            id_start = i
        if header.revision != who.revision or not same_name(&header, &who):
            identities.append(identity_run(&who, who_start, i))
            who = header
            who_start = i
    if count:
        kinds.append((run_kind, kind_start, count))
        ids.append((run_id, id_start, count))
        if identities or who.name_size or who.revision:
            identities.append(identity_run(&who, who_start, count))
    return payloads, kinds, ids, identities


def kinds_of(list entries):
    """The set of their kinds, without a look at what they hold."""
    cdef set found = set()
    cdef Py_ssize_t i, start = 0, stop = 0
    cdef header_t header
    cdef int64_t kind, last = -2
    cdef bytes entry
    for i in range(len(entries)):
        entry = entries[i]
        if parse_entry(<const uint8_t*>PyBytes_AS_STRING(entry), PyBytes_GET_SIZE(entry), &header, &kind, &start, &stop):
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
