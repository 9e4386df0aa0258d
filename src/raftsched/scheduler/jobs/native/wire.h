/* Protobuf wire form: a bounded scanner and plain writers. No allocation, no Python, never reads past `end`. */
#ifndef RAFTSCHED_WIRE_H
#define RAFTSCHED_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { const uint8_t *data; size_t size; } slice_t;
typedef struct { const uint8_t *at, *end; } pb_in;
typedef struct { uint32_t number, type; uint64_t value; slice_t body; } pb_field;

enum { PB_VARINT = 0, PB_FIXED64 = 1, PB_BYTES = 2, PB_GROUP = 3, PB_GROUP_END = 4, PB_FIXED32 = 5, PB_DEPTH_MAX = 100 };

static inline pb_in pb_open(slice_t s) { pb_in in = { s.data, s.data + s.size }; return in; }

/* 1 = read, 0 = malformed or cut off. */
static inline int pb_varint(pb_in *in, uint64_t *out) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (in->at == in->end) return 0;
        uint8_t byte = *in->at++;
        if (shift == 63 && byte > 1) return 0;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) { *out = value; return 1; }
    }
    return 0;
}

/* 1 = a field, 0 = the end, -1 = malformed. Groups (unknown to every message here) are passed over whole. Whoever knows the number of a
 * field, but with another wire type, passes over it, too. */
static int pb_next_at(pb_in *in, pb_field *field, int depth) {
    uint64_t tag;
    if (in->at == in->end) return 0;
    if (!pb_varint(in, &tag) || tag > UINT32_MAX || (tag >> 3) == 0) return -1;
    field->number = (uint32_t)(tag >> 3);
    field->type = (uint32_t)(tag & 7);
    field->value = 0;
    field->body.data = NULL;
    field->body.size = 0;
    size_t left;
    switch (field->type) {
    case PB_VARINT: return pb_varint(in, &field->value) ? 1 : -1;
    case PB_FIXED64:
    case PB_FIXED32:
        left = field->type == PB_FIXED64 ? 8 : 4;
        if ((size_t)(in->end - in->at) < left) return -1;
        in->at += left;
        return 1;
    case PB_BYTES: {
        uint64_t size;
        if (!pb_varint(in, &size) || size > (uint64_t)(in->end - in->at)) return -1;
        field->body.data = in->at;
        field->body.size = (size_t)size;
        in->at += size;
        return 1;
    }
    case PB_GROUP: {
        pb_field inner;
        int got;
        if (depth >= PB_DEPTH_MAX) return -1;
        while ((got = pb_next_at(in, &inner, depth + 1)) == 1)
            if (inner.type == PB_GROUP_END) return inner.number == field->number ? 1 : -1;
        return -1;
    }
    case PB_GROUP_END: return depth > 0 ? 1 : -1;
    default: return -1;
    }
}
static inline int pb_next(pb_in *in, pb_field *field) { return pb_next_at(in, field, 0); }

/* -- writers: the caller has reserved the room */
static inline size_t pb_varint_size(uint64_t value) {
    size_t size = 1;
    while (value >= 0x80) { value >>= 7; size++; }
    return size;
}
static inline uint8_t *pb_put_varint(uint8_t *at, uint64_t value) {
    while (value >= 0x80) { *at++ = (uint8_t)(value | 0x80); value >>= 7; }
    *at++ = (uint8_t)value;
    return at;
}
static inline uint8_t *pb_put_number(uint8_t *at, uint32_t number, uint64_t value) {
    at = pb_put_varint(at, (uint64_t)number << 3);
    return pb_put_varint(at, value);
}
static inline uint8_t *pb_put_head(uint8_t *at, uint32_t number, size_t size) {
    at = pb_put_varint(at, (uint64_t)number << 3 | PB_BYTES);
    return pb_put_varint(at, size);
}
static inline uint8_t *pb_put_raw(uint8_t *at, const void *data, size_t size) {
    if (size) memcpy(at, data, size);
    return at + size;
}
static inline uint8_t *pb_put_bytes(uint8_t *at, uint32_t number, const void *data, size_t size) {
    return pb_put_raw(pb_put_head(at, number, size), data, size);
}
static inline size_t pb_bytes_size(uint32_t number, size_t size) {
    return pb_varint_size((uint64_t)number << 3) + pb_varint_size(size) + size;
}
static inline size_t pb_number_size(uint32_t number, uint64_t value) {
    return pb_varint_size((uint64_t)number << 3) + pb_varint_size(value);
}

/* -- google.protobuf.Timestamp and Duration share one shape: 1 seconds int64, 2 nanos int32. Any nanos are read, as Go does. */
typedef struct { int64_t s; int32_t ns; } instant_t;
enum { INSTANT_SIZE_MAX = 2 + 10 + 1 + 10 };

static inline int pb_instant(slice_t body, instant_t *out) {
    pb_in in = pb_open(body);
    pb_field field;
    int got;
    out->s = 0;
    out->ns = 0;
    while ((got = pb_next(&in, &field)) == 1) {
        if (field.number == 1 && field.type == PB_VARINT) out->s = (int64_t)field.value;
        else if (field.number == 2 && field.type == PB_VARINT) out->ns = (int32_t)(uint32_t)field.value;
    }
    return got;
}
static inline size_t pb_instant_size(instant_t t) {
    return (t.s ? pb_number_size(1, (uint64_t)t.s) : 0) + (t.ns ? pb_number_size(2, (uint64_t)(int64_t)t.ns) : 0);
}
static inline uint8_t *pb_put_instant(uint8_t *at, uint32_t number, instant_t t) {
    at = pb_put_head(at, number, pb_instant_size(t));
    if (t.s) at = pb_put_number(at, 1, (uint64_t)t.s);
    if (t.ns) at = pb_put_number(at, 2, (uint64_t)(int64_t)t.ns);
    return at;
}

/* RFC 3339 in UTC, as machines write it: YYYY-MM-DDTHH:MM:SS[.1 to 9 digits]Z. 1 = read; 0 = another form, or no such instant. */
static inline int utc_digits(const uint8_t *at, int count, int *out) {
    int value = 0;
    for (int i = 0; i < count; i++) {
        if (at[i] < '0' || at[i] > '9') return 0;
        value = value * 10 + at[i] - '0';
    }
    *out = value;
    return 1;
}
static int utc_parse(slice_t text, instant_t *out) {
    static const uint8_t month_days[] = { 0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    const uint8_t *p = text.data;
    int year, month, day, hour, minute, second, digits = 0, fraction = 0;
    if (text.size < 20 || text.size > 30 || p[4] != '-' || p[7] != '-' || p[10] != 'T' || p[13] != ':' || p[16] != ':'
        || p[text.size - 1] != 'Z')
        return 0;
    if (!utc_digits(p, 4, &year) || !utc_digits(p + 5, 2, &month) || !utc_digits(p + 8, 2, &day) || !utc_digits(p + 11, 2, &hour)
        || !utc_digits(p + 14, 2, &minute) || !utc_digits(p + 17, 2, &second))
        return 0;
    if (text.size > 20) {
        digits = (int)text.size - 21;
        if (p[19] != '.' || digits < 1 || digits > 9 || !utc_digits(p + 20, digits, &fraction)) return 0;
        for (int i = digits; i < 9; i++) fraction *= 10;
    }
    if (month < 1 || month > 12 || hour > 23 || minute > 59 || second > 59) return 0;
    int leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (day < 1 || day > month_days[month] + (month == 2 && leap)) return 0;
    int64_t y = year - (month <= 2), era = (y >= 0 ? y : y - 399) / 400, of_era = y - era * 400;  /* years from March */
    int64_t of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    int64_t days = era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
    out->s = days * 86400 + hour * 3600 + minute * 60 + second;
    out->ns = fraction;
    return out->s >= -62135596800LL;
}

/* -- a growing buffer */
typedef struct { uint8_t *data; size_t size, capacity; } pb_buffer;

/* Room for `more` bytes behind `size`: where to write, or NULL when memory is out. */
static inline uint8_t *pb_reserve(pb_buffer *buffer, size_t more) {
    if (buffer->size + more > buffer->capacity) {
        size_t capacity = buffer->capacity ? buffer->capacity : 4096;
        while (capacity < buffer->size + more) capacity *= 2;
        uint8_t *data = realloc(buffer->data, capacity);
        if (!data) return NULL;
        buffer->data = data;
        buffer->capacity = capacity;
    }
    return buffer->data + buffer->size;
}
#endif
