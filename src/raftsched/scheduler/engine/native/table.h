/* All jobs of the engine: 128-byte records in chunks that never move, found by a keyed 128-bit hash of the composed name.
 *
 * Invariant: every record with a name is in exactly one segment of the index; a free record is in the free list.
 * The hash is SipHash-2-4 with 128 bits (Aumasson, Bernstein): names come from clients, the key from the process.
 * The index is cut into SEGMENTS small tables, so that growing never stops the loop for more than one of them.
 */
#ifndef RAFTSCHED_TABLE_H
#define RAFTSCHED_TABLE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define JOB_NONE UINT32_MAX
enum { CHUNK_BITS = 12, CHUNK_JOBS = 1 << CHUNK_BITS, SEGMENT_BITS = 10, SEGMENTS = 1 << SEGMENT_BITS, SEGMENT_MIN = 8 };

typedef struct {
    uint64_t hash_low, hash_high;   /* of the composed name */
    uint64_t main;                  /* mod_revision of the job record, with `sub` its place; 0 = no job (counter only) */
    uint64_t counter_main;          /* mod_revision of the counter, 0 = none */
    uint64_t partition_id, counter_partition_id;
    uint64_t handle;                /* of the wheel, 0 = never armed */
    int64_t value;                  /* interval in ns, or number of the cron spec */
    int64_t begin_s, last_s, expires_s;
    int32_t begin_ns, last_ns, expires_ns;
    uint32_t sub;
    uint32_t count, repeats, attempts;
    uint32_t run;                   /* open run, JOB_NONE = none; of a free record the next free one */
    uint32_t route;
    uint8_t state, kind, flags, more;
} job_t;

_Static_assert(sizeof(job_t) == 128, "two cache lines per job");

typedef struct { uint32_t *slots; uint32_t capacity, used; } segment_t;

typedef struct {
    job_t **chunks;
    uint32_t chunk_count, chunk_capacity, used, free_head, live;
    uint64_t key[2];
    segment_t segments[SEGMENTS];
} job_table;

#define ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define SIP_ROUND do { v0 += v1; v1 = ROTL(v1, 13); v1 ^= v0; v0 = ROTL(v0, 32); v2 += v3; v3 = ROTL(v3, 16); v3 ^= v2; \
    v0 += v3; v3 = ROTL(v3, 21); v3 ^= v0; v2 += v1; v1 = ROTL(v1, 17); v1 ^= v2; v2 = ROTL(v2, 32); } while (0)

static void job_hash(const uint64_t key[2], const uint8_t *data, size_t size, uint64_t *low, uint64_t *high) {
    uint64_t v0 = 0x736f6d6570736575ULL ^ key[0], v1 = 0x646f72616e646f6dULL ^ key[1] ^ 0xee;
    uint64_t v2 = 0x6c7967656e657261ULL ^ key[0], v3 = 0x7465646279746573ULL ^ key[1], m;
    const uint8_t *end = data + (size & ~(size_t)7);
    uint64_t last = (uint64_t)size << 56;
    for (; data != end; data += 8) {
        memcpy(&m, data, 8);
        v3 ^= m; SIP_ROUND; SIP_ROUND; v0 ^= m;
    }
    for (unsigned i = 0; i < (size & 7); i++) last |= (uint64_t)end[i] << (8 * i);
    v3 ^= last; SIP_ROUND; SIP_ROUND; v0 ^= last;
    v2 ^= 0xee; SIP_ROUND; SIP_ROUND; SIP_ROUND; SIP_ROUND;
    *low = v0 ^ v1 ^ v2 ^ v3;
    v1 ^= 0xdd; SIP_ROUND; SIP_ROUND; SIP_ROUND; SIP_ROUND;
    *high = v0 ^ v1 ^ v2 ^ v3;
}

static inline job_t *job_at(const job_table *t, uint32_t slot) {
    return &t->chunks[slot >> CHUNK_BITS][slot & (CHUNK_JOBS - 1)];
}
static inline segment_t *segment_of(job_table *t, uint64_t low) { return &t->segments[low >> (64 - SEGMENT_BITS)]; }

static uint32_t job_find(job_table *t, uint64_t low, uint64_t high) {
    segment_t *s = segment_of(t, low);
    if (!s->capacity) return JOB_NONE;
    for (uint32_t mask = s->capacity - 1, i = (uint32_t)low & mask;; i = (i + 1) & mask) {
        uint32_t slot = s->slots[i];
        if (slot == JOB_NONE) return JOB_NONE;
        const job_t *job = job_at(t, slot);
        if (job->hash_low == low && job->hash_high == high) return slot;
    }
}

static int segment_grow(job_table *t, segment_t *s) {
    uint32_t capacity = s->capacity ? s->capacity * 2 : SEGMENT_MIN, mask = capacity - 1;
    uint32_t *slots = malloc(capacity * sizeof *slots);
    if (!slots) return -1;
    memset(slots, 0xff, capacity * sizeof *slots);
    for (uint32_t i = 0; i < s->capacity; i++) {
        if (s->slots[i] == JOB_NONE) continue;
        uint32_t at = (uint32_t)job_at(t, s->slots[i])->hash_low & mask;
        while (slots[at] != JOB_NONE) at = (at + 1) & mask;
        slots[at] = s->slots[i];
    }
    free(s->slots);
    s->slots = slots;
    s->capacity = capacity;
    return 0;
}

static int chunk_add(job_table *t) {
    if (t->chunk_count == t->chunk_capacity) {
        uint32_t capacity = t->chunk_capacity ? t->chunk_capacity * 2 : 64;
        job_t **chunks = realloc(t->chunks, capacity * sizeof *chunks);
        if (!chunks) return -1;
        t->chunks = chunks;
        t->chunk_capacity = capacity;
    }
    job_t *chunk = aligned_alloc(64, CHUNK_JOBS * sizeof *chunk);
    if (!chunk) return -1;
    t->chunks[t->chunk_count++] = chunk;
    return 0;
}

/* A zeroed record of this name (which is not there yet), or JOB_NONE when memory is out. */
static uint32_t job_insert(job_table *t, uint64_t low, uint64_t high) {
    segment_t *s = segment_of(t, low);
    if ((uint64_t)(s->used + 1) * 10 > (uint64_t)s->capacity * 7 && segment_grow(t, s) < 0) return JOB_NONE;
    uint32_t slot = t->free_head;
    if (slot != JOB_NONE) t->free_head = job_at(t, slot)->run;
    else {
        if (t->used == (uint32_t)t->chunk_count << CHUNK_BITS && chunk_add(t) < 0) return JOB_NONE;
        slot = t->used++;
    }
    job_t *job = job_at(t, slot);
    memset(job, 0, sizeof *job);
    job->hash_low = low;
    job->hash_high = high;
    job->run = job->route = JOB_NONE;
    uint32_t mask = s->capacity - 1, at = (uint32_t)low & mask;
    while (s->slots[at] != JOB_NONE) at = (at + 1) & mask;
    s->slots[at] = slot;
    s->used++;
    t->live++;
    return slot;
}

static void job_remove(job_table *t, uint32_t slot) {
    job_t *job = job_at(t, slot);
    segment_t *s = segment_of(t, job->hash_low);
    uint32_t mask = s->capacity - 1, hole = (uint32_t)job->hash_low & mask;
    while (s->slots[hole] != slot) hole = (hole + 1) & mask;
    for (uint32_t i = (hole + 1) & mask; s->slots[i] != JOB_NONE; i = (i + 1) & mask) {
        uint32_t home = (uint32_t)job_at(t, s->slots[i])->hash_low & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) {  /* probing from home passes the hole: shift back */
            s->slots[hole] = s->slots[i];
            hole = i;
        }
    }
    s->slots[hole] = JOB_NONE;
    s->used--;
    t->live--;
    memset(job, 0, sizeof *job);
    job->run = t->free_head;
    t->free_head = slot;
}

static void table_init(job_table *t, uint64_t key0, uint64_t key1) {
    memset(t, 0, sizeof *t);
    t->free_head = JOB_NONE;
    t->key[0] = key0;
    t->key[1] = key1;
}
static void table_clear(job_table *t) {
    for (uint32_t i = 0; i < t->chunk_count; i++) free(t->chunks[i]);
    for (uint32_t i = 0; i < SEGMENTS; i++) free(t->segments[i].slots);
    free(t->chunks);
    table_init(t, t->key[0], t->key[1]);
}
#endif
