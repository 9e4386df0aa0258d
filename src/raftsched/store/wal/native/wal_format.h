/* Records of the write-ahead log, in etcd's format: frames out of entries, and frames out of bytes.
 *
 * frame  = length word (i64 LE: low 56 bits record bytes, top byte 0x80|pad if padded), record, zero padding to 8 bytes
 * record = protobuf walpb.Record {1 type, 2 crc, 3 data}; crc = CRC-32C chained over the data of all records but type 4
 *
 * A batch starts with a record of type 4 whose crc is the chain so far. Ours carries 16 bytes of data, which readers of the
 * format ignore: sequence of the segment and offset of the frame, both u64 LE. So a batch start is recognised behind a
 * break, and a copy of log bytes inside somebody's value is not taken for one.
 *
 * Pure: memory in, memory out. Knows no file and no thread.
 */
#ifndef RAFTSCHED_WAL_FORMAT_H
#define RAFTSCHED_WAL_FORMAT_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/crc32c.h"

enum { RECORD_METADATA = 1, RECORD_ENTRY = 2, RECORD_STATE = 3, RECORD_CRC = 4, RECORD_SNAPSHOT = 5 };

enum {
    FRAME_BYTES = 8,
    RECORD_HEAD_BYTES_MAX = FRAME_BYTES + 2 + 6 + 1 + 10 + 7, /* length word, type, crc, tag and length of data, padding */
    ENTRY_HEAD_BYTES_MAX = 2 + 11 + 11 + 11,
    STATE_BYTES_MAX = 33,
    STAMP_BYTES = 16,
    EXTERNAL_BYTES = 1 << 18 /* from here on an entry's data is written from where it lies, not copied */
};

typedef struct {
    uint64_t term;
    uint64_t type;
    const uint8_t *data;
    uint64_t length;
    void *owner; /* keeps `data` alive */
} wal_entry_t;

typedef struct {
    uint64_t term, vote, commit;
    int known;
} wal_state_t;

/* A run of bytes of a group: at `offset` of its own buffer (which may still move), or external. */
typedef struct {
    const uint8_t *external;
    size_t offset, length;
} wal_piece_t;

/* The bytes of one write: consecutive records, at one place of one segment. */
typedef struct wal_group {
    struct wal_group *next;
    struct wal_segment *segment;
    uint64_t offset; /* of the first byte, in the file */
    uint64_t length;
    uint64_t batch_last;
    int publishes; /* the first write of a new segment: give it its name afterwards */
    uint8_t *buffer;
    size_t used, capacity;
    wal_piece_t *pieces;
    size_t piece_count, piece_capacity;
    void **owners;
    size_t owner_count, owner_capacity;
} wal_group_t;

static inline size_t varint_size(uint64_t value)
{
    return (size_t)(value ? (70 - __builtin_clzll(value)) / 7 : 1);
}

static inline uint8_t *put_varint(uint8_t *at, uint64_t value)
{
    while (value >= 0x80) {
        *at++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *at++ = (uint8_t)value;
    return at;
}

static inline uint8_t *put_u64le(uint8_t *at, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)(value >> (8 * i));
    return at + 8;
}

static inline uint64_t get_u64le(const uint8_t *at)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}

/* Room for `bytes` more in the buffer and for `externals` more external pieces; -1 = out of memory, nothing changed. */
static int group_reserve(wal_group_t *group, size_t bytes, size_t externals)
{
    size_t want = group->used + bytes;
    if (want > group->capacity) {
        size_t capacity = group->capacity ? group->capacity : 1 << 16;
        while (capacity < want)
            capacity += capacity >> 1;
        uint8_t *buffer = (uint8_t *)realloc(group->buffer, capacity);
        if (!buffer)
            return -1;
        group->buffer = buffer;
        group->capacity = capacity;
    }
    want = group->piece_count + 2 * externals + 1;
    if (want > group->piece_capacity) {
        wal_piece_t *pieces = (wal_piece_t *)realloc(group->pieces, 2 * want * sizeof *pieces);
        if (!pieces)
            return -1;
        group->pieces = pieces;
        group->piece_capacity = 2 * want;
    }
    want = group->owner_count + externals;
    if (want > group->owner_capacity) {
        void **owners = (void **)realloc(group->owners, 2 * want * sizeof *owners);
        if (!owners)
            return -1;
        group->owners = owners;
        group->owner_capacity = 2 * want;
    }
    return 0;
}

/* Counts `length` bytes just written at the end of the buffer. */
static inline void group_grew(wal_group_t *group, size_t length)
{
    wal_piece_t *last = group->piece_count ? &group->pieces[group->piece_count - 1] : NULL;
    if (!last || last->external) {
        last = &group->pieces[group->piece_count++];
        last->external = NULL;
        last->offset = group->used;
        last->length = 0;
    }
    last->length += length;
    group->used += length;
    group->length += length;
}

/* Frame and record head, up to the data. `at` has RECORD_HEAD_BYTES_MAX; answers the end, and the padding due after the data. */
static inline uint8_t *put_record_head(uint8_t *at, unsigned type, uint32_t crc, uint64_t data_length, unsigned *pad)
{
    uint64_t record = 2 + 1 + varint_size(crc) + (data_length ? 1 + varint_size(data_length) + data_length : 0);
    *pad = (unsigned)(-record & 7);
    at = put_u64le(at, record | (*pad ? (uint64_t)(0x80 | *pad) << 56 : 0));
    *at++ = 0x08;
    *at++ = (uint8_t)type;
    *at++ = 0x10;
    at = put_varint(at, crc);
    if (data_length) {
        *at++ = 0x1a;
        at = put_varint(at, data_length);
    }
    return at;
}

static inline uint8_t *put_padding(uint8_t *at, unsigned pad)
{
    memset(at, 0, pad);
    return at + pad;
}

/* A small record; room was reserved. */
static void group_put_record(wal_group_t *group, unsigned type, uint32_t *crc, const uint8_t *data, size_t length)
{
    uint8_t *start = group->buffer + group->used;
    unsigned pad;
    if (type != RECORD_CRC)
        *crc = crc32c_update(*crc, data, length);
    uint8_t *at = put_record_head(start, type, *crc, length, &pad);
    memcpy(at, data, length);
    at = put_padding(at + length, pad);
    group_grew(group, (size_t)(at - start));
}

/* The record that starts a batch: `offset` is where in the file this frame will stand. */
static void group_put_batch_start(wal_group_t *group, uint32_t *crc, uint64_t sequence, uint64_t offset)
{
    uint8_t stamp[STAMP_BYTES];
    put_u64le(put_u64le(stamp, sequence), offset);
    group_put_record(group, RECORD_CRC, crc, stamp, sizeof stamp);
}

static void group_put_state(wal_group_t *group, uint32_t *crc, const wal_state_t *state)
{
    uint8_t data[STATE_BYTES_MAX], *at = data;
    *at++ = 0x08;
    at = put_varint(at, state->term);
    *at++ = 0x10;
    at = put_varint(at, state->vote);
    *at++ = 0x18;
    at = put_varint(at, state->commit);
    group_put_record(group, RECORD_STATE, crc, data, (size_t)(at - data));
}

static void group_put_entry(wal_group_t *group, uint32_t *crc, const wal_entry_t *entry, uint64_t index)
{
    uint8_t head[ENTRY_HEAD_BYTES_MAX], *h = head;
    *h++ = 0x08;
    h = put_varint(h, entry->type);
    *h++ = 0x10;
    h = put_varint(h, entry->term);
    *h++ = 0x18;
    h = put_varint(h, index);
    if (entry->length) {
        *h++ = 0x22;
        h = put_varint(h, entry->length);
    }
    size_t head_length = (size_t)(h - head);
    *crc = crc32c_update(crc32c_update(*crc, head, head_length), entry->data, entry->length);

    uint8_t *start = group->buffer + group->used;
    unsigned pad;
    uint8_t *at = put_record_head(start, RECORD_ENTRY, *crc, head_length + entry->length, &pad);
    memcpy(at, head, head_length);
    at += head_length;
    if (entry->length < EXTERNAL_BYTES) {
        memcpy(at, entry->data, entry->length);
        at = put_padding(at + entry->length, pad);
        group_grew(group, (size_t)(at - start));
        return;
    }
    group_grew(group, (size_t)(at - start));
    wal_piece_t *piece = &group->pieces[group->piece_count++];
    piece->external = entry->data;
    piece->offset = 0;
    piece->length = entry->length;
    group->length += entry->length;
    group->owners[group->owner_count++] = entry->owner;
    if (pad) {
        put_padding(group->buffer + group->used, pad);
        group_grew(group, pad);
    }
}

/* What `entries` need at most: bytes on disk, bytes of the buffer, external pieces. */
static void entries_need(const wal_entry_t *entries, size_t count, uint64_t *disk, size_t *buffer, size_t *externals)
{
    *disk = 0;
    *buffer = *externals = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = RECORD_HEAD_BYTES_MAX + ENTRY_HEAD_BYTES_MAX;
        *disk += bytes + entries[i].length;
        if (entries[i].length < EXTERNAL_BYTES)
            bytes += entries[i].length;
        else
            *externals += 1;
        *buffer += (size_t)bytes;
    }
}

/* ---- reading ---------------------------------------------------------------------------------------------------------- */

typedef enum {
    READ_OK,
    READ_END,      /* a zero length word, or the end of the file on a frame boundary */
    READ_LENGTH,   /* a length word that cannot be */
    READ_RECORD,   /* not a walpb.Record in canonical form */
    READ_CHECKSUM, /* does not verify */
    READ_PADDING
} wal_read_t;

typedef struct {
    uint64_t end; /* offset of the next frame */
    uint64_t type;
    uint32_t crc;
    const uint8_t *data;
    uint64_t length;
} wal_frame_t;

/* A varint of at most `bits` bits within [at, end); the byte after it, NULL if there is none. */
static inline const uint8_t *get_varint(const uint8_t *at, const uint8_t *end, uint64_t *value, unsigned bits)
{
    uint64_t result = 0;
    for (unsigned shift = 0; at < end && shift < 64; shift += 7) {
        uint8_t byte = *at++;
        result |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            if ((shift == 63 && byte > 1) || (bits < 64 && result >> bits))
                return NULL;
            *value = result;
            return at;
        }
    }
    return NULL;
}

/* A field `tag varint`, as above. */
static inline const uint8_t *get_field(const uint8_t *at, const uint8_t *end, uint8_t tag, uint64_t *value)
{
    if (!at || at == end || *at != tag)
        return NULL;
    return get_varint(at + 1, end, value, 64);
}

/* The frame at `offset` (a multiple of 8); checks everything but the checksum chain. */
static wal_read_t frame_at(const uint8_t *bytes, uint64_t size, uint64_t offset, wal_frame_t *out)
{
    if (size - offset < FRAME_BYTES)
        return offset == size ? READ_END : READ_LENGTH;
    uint64_t word = get_u64le(bytes + offset);
    if (word == 0)
        return READ_END;
    uint64_t length = word & 0x00ffffffffffffffull, top = word >> 56, pad = -length & 7;
    uint64_t left = size - offset - FRAME_BYTES;
    if (top != (pad ? 0x80 | pad : 0) || length > left || pad > left - length)
        return READ_LENGTH;
    const uint8_t *at = bytes + offset + FRAME_BYTES, *end = at + length;
    uint64_t crc;
    for (uint64_t i = 0; i < pad; i++)
        if (end[i])
            return READ_PADDING;
    at = get_field(at, end, 0x08, &out->type);
    if (!at || at == end || *at != 0x10 || !(at = get_varint(at + 1, end, &crc, 32)))
        return READ_RECORD;
    out->crc = (uint32_t)crc;
    out->data = at;
    out->length = 0;
    if (at != end) {
        at = get_field(at, end, 0x1a, &out->length);
        if (!at || out->length != (uint64_t)(end - at))
            return READ_RECORD;
        out->data = at;
    }
    out->end = offset + FRAME_BYTES + length + pad;
    return READ_OK;
}

typedef struct {
    uint64_t kind, term, index;
    const uint8_t *data;
    uint64_t length;
} wal_entry_view_t;

/* The entry in a frame of type RECORD_ENTRY; 0 = it is none. */
static inline int entry_of(const wal_frame_t *frame, wal_entry_view_t *out)
{
    const uint8_t *at = frame->data, *end = at + frame->length;
    out->kind = out->term = out->index = out->length = 0;
    if (at != end && *at == 0x08) /* etcd 3.7 leaves a normal entry's type out */
        at = get_field(at, end, 0x08, &out->kind);
    at = get_field(get_field(at, end, 0x10, &out->term), end, 0x18, &out->index);
    if (at && at != end)
        at = get_field(at, end, 0x22, &out->length);
    out->data = at;
    return at && out->length == (uint64_t)(end - at) && out->kind <= 2 && out->term && out->index && (!out->kind || out->length);
}

typedef struct {
    uint64_t index, term;
    uint64_t restarts; /* 1 = an installed snapshot: nothing before it counts, the log goes on behind it */
} wal_mark_view_t;

/* The mark in a frame of type RECORD_SNAPSHOT; 0 = it is none. Field 15 is ours: readers of the format skip what they do not know. */
static inline int mark_of(const wal_frame_t *frame, wal_mark_view_t *out)
{
    const uint8_t *at = frame->data, *end = at + frame->length;
    uint64_t length;
    out->index = out->term = out->restarts = 0;
    at = get_field(get_field(at, end, 0x08, &out->index), end, 0x10, &out->term);
    if (at && at != end && *at == 0x1a) {
        at = get_field(at, end, 0x1a, &length);
        if (!at || length > (uint64_t)(end - at))
            return 0;
        at += length;
    }
    if (at && at != end)
        at = get_field(at, end, 0x78, &out->restarts);
    return at == end && out->restarts <= 1;
}

/* Whether this frame, found at `offset` of segment `sequence`, starts a batch there. */
static inline int is_batch_start(const wal_frame_t *frame, uint64_t sequence, uint64_t offset)
{
    return frame->type == RECORD_CRC && frame->length == STAMP_BYTES && get_u64le(frame->data) == sequence
        && get_u64le(frame->data + 8) == offset;
}

/* Offset of the first batch start at or after `from` (rounded up to 8); -1 = none. */
static int64_t find_batch_start(const uint8_t *bytes, uint64_t size, uint64_t from, uint64_t sequence)
{
    wal_frame_t frame;
    for (uint64_t offset = (from + 7) & ~7ull; offset + FRAME_BYTES + 3 + STAMP_BYTES <= size; offset += 8) {
        const uint8_t *at = bytes + offset;
        if (at[8] != 0x08 || at[9] != RECORD_CRC || at[10] != 0x10)
            continue;
        if (frame_at(bytes, size, offset, &frame) == READ_OK && is_batch_start(&frame, sequence, offset))
            return (int64_t)offset;
    }
    return -1;
}

/* Offset of the first byte at or after `from` that is not zero; `size` if there is none. */
static uint64_t find_nonzero(const uint8_t *bytes, uint64_t size, uint64_t from)
{
    uint64_t at = from;
    while (at < size && (at & 7)) {
        if (bytes[at])
            return at;
        at++;
    }
    for (; at + 8 <= size; at += 8) {
        uint64_t word;
        memcpy(&word, bytes + at, 8);
        if (word)
            break;
    }
    while (at < size && !bytes[at])
        at++;
    return at;
}

#endif
