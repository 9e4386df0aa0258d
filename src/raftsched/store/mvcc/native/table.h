/* Key -> handle: extendible hashing. Segments of 256 buckets, a bucket is one cache line of 12 handles and their tags.

   A full segment is split alone (about 2,600 keys), so no insert ever pays for rehashing the whole table.
   Invariant: a bucket's `overflow` counts the keys that belong to it and lie in a later bucket of its segment. */
#ifndef RAFTSCHED_TABLE_H
#define RAFTSCHED_TABLE_H

#include "entry.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define BUCKET_SLOTS 12
#define SEGMENT_BUCKETS 256u
#define SEGMENT_KEYS_MAX 2600u /* 85 % of the slots */
#define TABLE_DEPTH_MAX 24

typedef struct {
    uint8_t tag[BUCKET_SLOTS];
    uint16_t overflow, used; /* `used`: one bit per slot */
    uint32_t handle[BUCKET_SLOTS];
} bucket_t;

typedef struct {
    bucket_t bucket[SEGMENT_BUCKETS];
    uint32_t count;
    int depth;
} segment_t;

typedef struct {
    segment_t **directory;
    int depth;
    size_t segment_count, count;
    uint8_t *scratch;
    size_t scratch_size;
} table_t;

static segment_t *segment_new(int depth) {
    segment_t *segment = NULL;
    if (posix_memalign((void **)&segment, 64, sizeof *segment)) return NULL;
    memset(segment, 0, sizeof *segment);
    segment->depth = depth;
    return segment;
}

static int table_open(table_t *table) {
    memset(table, 0, sizeof *table);
    if (!(table->directory = malloc(sizeof *table->directory))) return -1;
    if (!(table->directory[0] = segment_new(0))) return -1;
    table->segment_count = 1;
    return 0;
}

static inline size_t table_slot(const table_t *table, uint64_t hash) {
    return table->depth ? (size_t)(hash >> (64 - table->depth)) : 0;
}

static void table_close(table_t *table) {
    if (table->directory) {
        size_t size = (size_t)1 << table->depth;
        for (size_t i = 0; i < size; i++) {
            segment_t *segment = table->directory[i];
            if (segment && (i == 0 || table->directory[i - 1] != segment)) free(segment);
        }
    }
    free(table->directory);
    free(table->scratch);
}

static inline uint32_t bucket_matches(const bucket_t *bucket, uint8_t tag) {
#if defined(__SSE2__)
    __m128i line = _mm_load_si128((const __m128i *)bucket->tag);
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(line, _mm_set1_epi8((char)tag))) & bucket->used;
#else
    uint32_t found = 0;
    for (int i = 0; i < BUCKET_SLOTS; i++) found |= (uint32_t)(bucket->tag[i] == tag) << i;
    return found & bucket->used;
#endif
}

static inline void table_prefetch(const table_t *table, uint64_t hash) {
    __builtin_prefetch(&table->directory[table_slot(table, hash)]->bucket[(uint32_t)hash % SEGMENT_BUCKETS]);
}

static inline uint8_t hash_tag(uint64_t hash) { return (uint8_t)(hash >> 8); }

static inline uint32_t table_find(const table_t *table, const entries_t *entries, const uint8_t *key, size_t length, uint64_t hash) {
    const segment_t *segment = table->directory[table_slot(table, hash)];
    uint32_t at = (uint32_t)hash % SEGMENT_BUCKETS;
    for (uint32_t probes = 0; probes < SEGMENT_BUCKETS; probes++, at = (at + 1) % SEGMENT_BUCKETS) {
        const bucket_t *bucket = &segment->bucket[at];
        for (uint32_t found = bucket_matches(bucket, hash_tag(hash)); found; found &= found - 1) {
            uint32_t handle = bucket->handle[__builtin_ctz(found)];
            if (entry_key_equal(entries, entry_at(entries, handle), key, length)) return handle;
        }
        if (!bucket->overflow) return 0;
    }
    return 0;
}

static void segment_insert(segment_t *segment, uint64_t hash, uint32_t handle) {
    uint32_t at = (uint32_t)hash % SEGMENT_BUCKETS;
    while (segment->bucket[at].used == (1u << BUCKET_SLOTS) - 1) {
        segment->bucket[at].overflow++;
        at = (at + 1) % SEGMENT_BUCKETS;
    }
    bucket_t *bucket = &segment->bucket[at];
    int slot = __builtin_ctz(~(uint32_t)bucket->used);
    bucket->used |= (uint16_t)(1u << slot);
    bucket->tag[slot] = hash_tag(hash);
    bucket->handle[slot] = handle;
    segment->count++;
}

static int entry_hash(table_t *table, const entries_t *entries, uint32_t handle, uint64_t *hash) {
    const entry_t *entry = entry_at(entries, handle);
    size_t length = entry_key_length(entries, entry);
    if (length > table->scratch_size) {
        uint8_t *scratch = realloc(table->scratch, length + 256);
        if (!scratch) return -1;
        table->scratch = scratch;
        table->scratch_size = length + 256;
    }
    entry_key_copy(entries, entry, table->scratch);
    *hash = hash_bytes(table->scratch, length, entries->seed);
    return 0;
}

static int table_double(table_t *table) {
    size_t size = (size_t)1 << table->depth;
    segment_t **directory;
    if (table->depth == TABLE_DEPTH_MAX || !(directory = malloc(2 * size * sizeof *directory))) return -1;
    for (size_t i = 0; i < size; i++) directory[2 * i] = directory[2 * i + 1] = table->directory[i];
    free(table->directory);
    table->directory = directory;
    table->depth++;
    return 0;
}

static int table_split(table_t *table, const entries_t *entries, uint64_t hash) {
    segment_t *old = table->directory[table_slot(table, hash)], *half[2];
    if (old->depth == table->depth && table_double(table)) return -1;
    half[0] = segment_new(old->depth + 1);
    half[1] = segment_new(old->depth + 1);
    if (!half[0] || !half[1]) goto failed;
    for (uint32_t at = 0; at < SEGMENT_BUCKETS; at++) {
        bucket_t *bucket = &old->bucket[at], *ahead = &old->bucket[(at + 1) % SEGMENT_BUCKETS];
        for (uint32_t used = ahead->used; used; used &= used - 1) entry_prefetch(entries, ahead->handle[__builtin_ctz(used)]);
        for (uint32_t used = bucket->used; used; used &= used - 1) {
            uint32_t handle = bucket->handle[__builtin_ctz(used)];
            uint64_t one;
            if (entry_hash(table, entries, handle, &one)) goto failed;
            segment_insert(half[one >> (63 - old->depth) & 1], one, handle);
        }
    }
    size_t span = (size_t)1 << (table->depth - old->depth); /* directory slots that showed the old one */
    size_t first = table_slot(table, hash) / span * span;
    for (size_t i = 0; i < span; i++) table->directory[first + i] = half[i >= span / 2];
    table->segment_count++;
    free(old);
    return 0;
failed:
    free(half[0]);
    free(half[1]);
    return -1;
}

/* Adds a handle whose key is not in the table; -1 when out of memory. */
static int table_insert(table_t *table, const entries_t *entries, uint64_t hash, uint32_t handle) {
    segment_t *segment = table->directory[table_slot(table, hash)];
    while (segment->count >= SEGMENT_KEYS_MAX) {
        if (table_split(table, entries, hash)) {
            if (segment->count >= SEGMENT_BUCKETS * BUCKET_SLOTS) return -1;
            break;
        }
        segment = table->directory[table_slot(table, hash)];
    }
    segment_insert(segment, hash, handle);
    table->count++;
    return 0;
}

static int table_remove(table_t *table, uint64_t hash, uint32_t handle) {
    segment_t *segment = table->directory[table_slot(table, hash)];
    uint32_t home = (uint32_t)hash % SEGMENT_BUCKETS, at = home;
    for (uint32_t probes = 0; probes < SEGMENT_BUCKETS; probes++, at = (at + 1) % SEGMENT_BUCKETS) {
        bucket_t *bucket = &segment->bucket[at];
        for (uint32_t found = bucket_matches(bucket, hash_tag(hash)); found; found &= found - 1) {
            int slot = __builtin_ctz(found);
            if (bucket->handle[slot] != handle) continue;
            bucket->used &= (uint16_t)~(1u << slot);
            for (; home != at; home = (home + 1) % SEGMENT_BUCKETS) segment->bucket[home].overflow--;
            segment->count--;
            table->count--;
            return 0;
        }
    }
    return -1;
}

#endif
