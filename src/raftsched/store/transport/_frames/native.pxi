# Declarations of ../native/*.h, and the numbers of the frame.

cdef extern from "../native/crc32c.h" nogil:
    uint32_t crc32c_update(uint32_t crc, const void* data, size_t length)

cdef extern from "../native/wire.h" nogil:
    enum:
        WIRE_BYTES
    ctypedef struct wire_span:
        const uint8_t* data
        size_t length
    ctypedef struct wire_reader:
        const uint8_t* at
        const uint8_t* end
    wire_reader wire_open(wire_span span)
    int wire_varint(wire_reader* reader, uint64_t* out)
    int wire_bytes(wire_reader* reader, wire_span* out)
    int wire_tag(wire_reader* reader, uint32_t* field, uint32_t* type)
    int wire_skip(wire_reader* reader, uint32_t field, uint32_t type)
    int wire_take_int(wire_reader* reader, uint32_t type, int64_t* out)
    size_t wire_varint_size(uint64_t value)
    size_t wire_int_size(uint64_t value)
    uint8_t* wire_put_varint(uint8_t* at, uint64_t value)
    uint8_t* wire_put_int(uint8_t* at, uint8_t tag, uint64_t value)

cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t length)
    char* bytes_data "PyBytes_AS_STRING"(PyObject* data)
    int _PyBytes_Resize(PyObject** data, Py_ssize_t length) except -1
    void Py_XDECREF(PyObject* object)

cdef enum:
    HEAD_BYTES = 9
    FRAME_PAYLOAD_BYTES_MAX = (4 << 20) - 9   # a frame is at most 4 MiB
    PART_PAYLOAD_BYTES = 256 << 10            # 2 ms at 1 Gbit/s: what a heartbeat waits for behind a part
    BIG_ENTRY_BYTES = 16 << 10                # a copy of it costs more than a piece of its own
    FIELD_BYTES_MAX = 4 << 10                 # in a message in parts: of a field that is no run
    FIRST_BYTES = 64 << 10                    # of an entry that is not whole yet
    KIND_MESSAGE = 1
    KIND_PART_FIRST = 2     # u64: bytes of the whole message; then the first of them
    KIND_PART = 3           # the next bytes

FRAME_BYTES_MAX = HEAD_BYTES + FRAME_PAYLOAD_BYTES_MAX
PART_BYTES = PART_PAYLOAD_BYTES
MESSAGE = KIND_MESSAGE
PART_FIRST = KIND_PART_FIRST
PART = KIND_PART

cdef Py_ssize_t ENTRIES_MAX = PEER_MESSAGE_ENTRIES_MAX


cdef inline void put_u32(uint8_t* at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>value
    at[1] = <uint8_t>(value >> 8)
    at[2] = <uint8_t>(value >> 16)
    at[3] = <uint8_t>(value >> 24)


cdef inline uint32_t get_u32(const uint8_t* at) noexcept nogil:
    return <uint32_t>at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 24


cdef inline void put_head(uint8_t* at, uint32_t length, uint8_t kind) noexcept nogil:
    """The head of the frame whose payload already stands behind it."""
    put_u32(at, length)
    at[4] = kind
    put_u32(at + 5, crc32c_update(crc32c_update(0, &kind, 1), at + HEAD_BYTES, length))
