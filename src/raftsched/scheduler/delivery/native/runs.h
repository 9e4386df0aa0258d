/* Runs (one trigger from its fire to its committed result), the queue of a stream, and its ids in flight. */
#ifndef RAFTSCHED_RUNS_H
#define RAFTSCHED_RUNS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define RUN_NONE UINT32_MAX
enum { PLACE_NONE = 0, PLACE_QUEUED = 1, PLACE_SENT = 2, PLACE_GATED = 3, PLACE_STAGED = 4 };

typedef struct {
    uint64_t main, counter_main;      /* the guards: what the job and its counter were when it fired */
    int64_t tick_s, planned_s;        /* the scheduled instant; when this attempt was planned */
    int64_t started_ms;
    int64_t sent_ms;                  /* the last time; 0: not yet, in this attempt */
    uint64_t stream_id;               /* the id that the stream knows it by, once SENT */
    char *name;                       /* composed name, from the first reading of the record on */
    int32_t tick_ns, planned_ns;
    uint32_t job;                     /* RUN_NONE: orphaned, its job changed or went; the result is dropped */
    uint32_t route, stream;
    uint32_t next, prev;              /* staging list of the route; free list */
    uint32_t seq;                     /* counts uses of this slot and commits: late outcomes are told apart */
    uint32_t name_size;               /* of any key that etcd takes, not only of names that the API lets in */
    uint8_t place, gated, pending, kind, retry;  /* kind: of the target, for metrics; retry: planned_* is of a further attempt */
    uint8_t extra;                    /* somebody asked for it: no tick of the schedule, and it counts in no counter */
    uint8_t waited_for;               /* what held it back before it was sent: WAITED_FOR_... (engine/native/lateness.h) */
    uint32_t tries;                   /* of an extra run, that failed */
} run_t;

enum { RUN_CHUNK_BITS = 10, RUN_CHUNK = 1 << RUN_CHUNK_BITS };
typedef struct { run_t **chunks; uint32_t chunk_count, chunk_capacity, used, free_head, live; } run_pool;

static inline run_t *run_at(const run_pool *p, uint32_t run) { return &p->chunks[run >> RUN_CHUNK_BITS][run & (RUN_CHUNK - 1)]; }

static uint32_t run_new(run_pool *p) {
    uint32_t run = p->free_head;
    if (run != RUN_NONE) p->free_head = run_at(p, run)->next;
    else {
        if (p->used == p->chunk_count << RUN_CHUNK_BITS) {
            if (p->chunk_count == p->chunk_capacity) {
                uint32_t capacity = p->chunk_capacity ? p->chunk_capacity * 2 : 64;
                run_t **chunks = realloc(p->chunks, capacity * sizeof *chunks);
                if (!chunks) return RUN_NONE;
                p->chunks = chunks;
                p->chunk_capacity = capacity;
            }
            run_t *chunk = calloc(RUN_CHUNK, sizeof *chunk);
            if (!chunk) return RUN_NONE;
            p->chunks[p->chunk_count++] = chunk;
        }
        run = p->used++;
    }
    run_t *r = run_at(p, run);
    uint32_t seq = r->seq;
    memset(r, 0, sizeof *r);
    r->seq = seq + 1;
    r->job = r->route = r->stream = r->next = r->prev = RUN_NONE;
    p->live++;
    return run;
}
static void run_free(run_pool *p, uint32_t run) {
    run_t *r = run_at(p, run);
    free(r->name);
    r->name = NULL;
    r->job = RUN_NONE;
    r->next = p->free_head;
    p->free_head = run;
    p->live--;
}
static int run_set_name(run_t *r, const uint8_t *name, size_t size) {
    if (r->name || size > UINT32_MAX) return r->name ? 0 : -1;
    r->name = malloc(size ? size : 1);
    if (!r->name) return -1;
    memcpy(r->name, name, size);
    r->name_size = (uint32_t)size;
    return 0;
}
static void run_pool_clear(run_pool *p) {
    for (uint32_t i = 0; i < p->used; i++) free(run_at(p, i)->name);
    for (uint32_t i = 0; i < p->chunk_count; i++) free(p->chunks[i]);
    free(p->chunks);
    memset(p, 0, sizeof *p);
    p->free_head = RUN_NONE;
}

/* -- a ring of runs */
typedef struct { uint32_t *items; uint32_t head, count, capacity; } run_ring;
static int ring_push(run_ring *q, uint32_t run) {
    if (q->count == q->capacity) {
        uint32_t capacity = q->capacity ? q->capacity * 2 : 64;
        uint32_t *items = malloc(capacity * sizeof *items);
        if (!items) return -1;
        for (uint32_t i = 0; i < q->count; i++) items[i] = q->items[(q->head + i) & (q->capacity - 1)];
        free(q->items);
        q->items = items;
        q->capacity = capacity;
        q->head = 0;
    }
    q->items[(q->head + q->count++) & (q->capacity - 1)] = run;
    return 0;
}
/* The next one of a ring that is not empty. */
static inline uint32_t ring_first(const run_ring *q) { return q->items[q->head]; }
static uint32_t ring_pop(run_ring *q) {
    uint32_t run = q->items[q->head];
    q->head = (q->head + 1) & (q->capacity - 1);
    if (--q->count == 0 && q->capacity > 4096) { free(q->items); memset(q, 0, sizeof *q); }
    return run;
}

/* -- id → run, ids from 1 (0 = empty); linear probing, backward-shift delete, load <= 1/2.
 * Ids come in sequence: without scattering they would form one cluster, and each deletion would walk all of it. */
typedef struct { uint64_t id; uint32_t run; } id_entry;
typedef struct { id_entry *entries; uint32_t capacity, count; } id_map;
static inline uint32_t id_home(uint64_t id) { return (uint32_t)((id * 0x9E3779B97F4A7C15ULL) >> 32); }
static int ids_put(id_map *m, uint64_t id, uint32_t run) {
    if ((m->count + 1) * 2 > m->capacity) {
        id_map bigger = { calloc(m->capacity ? m->capacity * 2 : 64, sizeof(id_entry)), m->capacity ? m->capacity * 2 : 64, 0 };
        if (!bigger.entries) return -1;
        for (uint32_t i = 0; i < m->capacity; i++)
            if (m->entries[i].id) (void)ids_put(&bigger, m->entries[i].id, m->entries[i].run);
        free(m->entries);
        *m = bigger;
    }
    uint32_t mask = m->capacity - 1, at = id_home(id) & mask;
    while (m->entries[at].id) at = (at + 1) & mask;
    m->entries[at].id = id;
    m->entries[at].run = run;
    m->count++;
    return 0;
}
static uint32_t ids_take(id_map *m, uint64_t id) {
    if (!m->count || !id) return RUN_NONE;
    uint32_t mask = m->capacity - 1, hole = id_home(id) & mask;
    while (m->entries[hole].id != id) {
        if (!m->entries[hole].id) return RUN_NONE;
        hole = (hole + 1) & mask;
    }
    uint32_t run = m->entries[hole].run;
    for (uint32_t i = (hole + 1) & mask; m->entries[i].id; i = (i + 1) & mask) {
        uint32_t home = id_home(m->entries[i].id) & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            m->entries[hole] = m->entries[i];
            hole = i;
        }
    }
    m->entries[hole].id = 0;
    m->count--;
    return run;
}
#endif
