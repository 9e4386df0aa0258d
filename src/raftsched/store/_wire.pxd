"""Protobuf's wire format for native modules: cimport from here; native/wire.h says what each function does."""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "<string.h>" nogil:
    void* memcpy(void* to, const void* source, size_t length)

cdef extern from "native/wire.h" nogil:
    enum:
        WIRE_VARINT
        WIRE_FIXED64
        WIRE_BYTES
        WIRE_FIXED32
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
    int wire_take_bytes(wire_reader* reader, uint32_t type, wire_span* out)
    int wire_take_int(wire_reader* reader, uint32_t type, int64_t* out)
    int wire_take_enum(wire_reader* reader, uint32_t type, int32_t* out)
    int wire_take_bool(wire_reader* reader, uint32_t type, uint8_t* out)
    size_t wire_varint_size(uint64_t value)
    size_t wire_int_size(uint64_t value)
    size_t wire_bytes_size(size_t length)
    uint8_t* wire_put_varint(uint8_t* at, uint64_t value)
    uint8_t* wire_put_int(uint8_t* at, uint8_t tag, uint64_t value)
    uint8_t* wire_put_length(uint8_t* at, uint8_t tag, size_t length)
    uint8_t* wire_put_bytes(uint8_t* at, uint8_t tag, const void* data, size_t length)
