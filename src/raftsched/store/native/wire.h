/* Protobuf's wire format, read and written in place.

   Invariant: a reader never looks at or beyond `end`; a malformed input is answered with -1 and never with a crash.
   Must not know: any message. */
#ifndef RAFTSCHED_WIRE_H
#define RAFTSCHED_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_GROUP = 3, WIRE_GROUP_END = 4, WIRE_FIXED32 = 5 };
enum { WIRE_GROUP_DEPTH_MAX = 100, WIRE_FIELD_MAX = 536870911 };

typedef struct { const uint8_t *data; size_t length; } wire_span;
typedef struct { const uint8_t *at, *end; } wire_reader;

static inline wire_reader wire_open(wire_span span) {
    wire_reader reader = {span.data, span.data + span.length};
    return reader;
}

static inline int wire_varint(wire_reader *reader, uint64_t *out) {
    const uint8_t *at = reader->at;
    uint64_t value = 0;
    if (at < reader->end && *at < 0x80) {
        *out = *at;
        reader->at = at + 1;
        return 0;
    }
    for (int shift = 0; shift < 64 && at < reader->end; shift += 7) {
        uint8_t byte = *at++;
        if (shift == 63 && byte > 1) return -1; /* more than 64 bits */
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            reader->at = at;
            return 0;
        }
    }
    return -1;
}

static inline int wire_bytes(wire_reader *reader, wire_span *out) {
    uint64_t length;
    if (wire_varint(reader, &length) || length > (uint64_t)(reader->end - reader->at)) return -1;
    out->data = reader->at;
    out->length = (size_t)length;
    reader->at += length;
    return 0;
}

/* 1 = a tag was read, 0 = the message ended, -1 = malformed. */
static inline int wire_tag(wire_reader *reader, uint32_t *field, uint32_t *type) {
    uint64_t tag;
    if (reader->at >= reader->end) return 0;
    if (wire_varint(reader, &tag)) return -1;
    if (tag >> 3 == 0 || tag >> 3 > WIRE_FIELD_MAX || (tag & 7) > WIRE_FIXED32) return -1;
    *field = (uint32_t)(tag >> 3);
    *type = (uint32_t)(tag & 7);
    return 1;
}

static inline int wire_skip_plain(wire_reader *reader, uint32_t type) {
    uint64_t number;
    wire_span span;
    size_t size = type == WIRE_FIXED64 ? 8 : 4;
    if (type == WIRE_VARINT) return wire_varint(reader, &number);
    if (type == WIRE_BYTES) return wire_bytes(reader, &span);
    if ((type != WIRE_FIXED64 && type != WIRE_FIXED32) || (size_t)(reader->end - reader->at) < size) return -1;
    reader->at += size;
    return 0;
}

/* Skips the value of an unknown field whose tag was just read. */
static inline int wire_skip(wire_reader *reader, uint32_t field, uint32_t type) {
    uint32_t open[WIRE_GROUP_DEPTH_MAX];
    int depth = 0;
    if (type != WIRE_GROUP) return wire_skip_plain(reader, type);
    open[depth++] = field;
    while (depth) {
        if (wire_tag(reader, &field, &type) != 1) return -1;
        if (type == WIRE_GROUP) {
            if (depth == WIRE_GROUP_DEPTH_MAX) return -1;
            open[depth++] = field;
        } else if (type == WIRE_GROUP_END) {
            if (open[--depth] != field) return -1;
        } else if (wire_skip_plain(reader, type)) {
            return -1;
        }
    }
    return 0;
}

static inline int wire_take_bytes(wire_reader *reader, uint32_t type, wire_span *out) {
    return type == WIRE_BYTES ? wire_bytes(reader, out) : -1;
}

static inline int wire_take_int(wire_reader *reader, uint32_t type, int64_t *out) {
    uint64_t number;
    if (type != WIRE_VARINT || wire_varint(reader, &number)) return -1;
    *out = (int64_t)number;
    return 0;
}

static inline int wire_take_enum(wire_reader *reader, uint32_t type, int32_t *out) {
    int64_t number;
    if (wire_take_int(reader, type, &number)) return -1;
    *out = (int32_t)number; /* as protobuf does: the low 32 bits */
    return 0;
}

static inline int wire_take_bool(wire_reader *reader, uint32_t type, uint8_t *out) {
    int64_t number;
    if (wire_take_int(reader, type, &number)) return -1;
    *out = number != 0;
    return 0;
}

static inline size_t wire_varint_size(uint64_t value) {
    return (size_t)((70 - __builtin_clzll(value | 1)) / 7); /* 7 bits a byte, at least one */
}

static inline uint8_t *wire_put_varint(uint8_t *at, uint64_t value) {
    while (value >= 0x80) {
        *at++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *at++ = (uint8_t)value;
    return at;
}

/* An integer field with a one-byte tag; zero is dropped, as the canonical encoding asks. */
static inline size_t wire_int_size(uint64_t value) { return value ? 1 + wire_varint_size(value) : 0; }

static inline uint8_t *wire_put_int(uint8_t *at, uint8_t tag, uint64_t value) {
    if (!value) return at;
    *at++ = tag;
    return wire_put_varint(at, value);
}

static inline size_t wire_bytes_size(size_t length) { return 1 + wire_varint_size(length) + length; }

static inline uint8_t *wire_put_length(uint8_t *at, uint8_t tag, size_t length) {
    *at++ = tag;
    return wire_put_varint(at, length);
}

static inline uint8_t *wire_put_bytes(uint8_t *at, uint8_t tag, const void *data, size_t length) {
    at = wire_put_length(at, tag, length);
    if (length) memcpy(at, data, length);
    return at + length;
}

#endif
