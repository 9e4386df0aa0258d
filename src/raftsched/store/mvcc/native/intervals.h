/* Does a transaction put a key twice, or put into what it deletes? etcd's rule (checkIntervals), in nearly linear time.

   Per branch: deletes of this level count for every put below; those of a nested transaction only for what follows it; of a
   nested transaction both branches count, but may put the same key. A range end of "\0" is compared as the plain bytes it is,
   so it never overlaps anything, as in etcd. Must not know: the store. */
#ifndef RAFTSCHED_INTERVALS_H
#define RAFTSCHED_INTERVALS_H

#include <stdlib.h>

#include "entry.h"
#include "request.h"

enum { INTERVALS_OK = 0, INTERVALS_DUPLICATE = 6, INTERVALS_MEMORY = -1, KEY_SET_SCAN_MAX = 8 };

typedef struct { wire_span key; uint64_t hash; uint32_t owner; } set_key;

/* A set of keys: a list, with an index over it from KEY_SET_SCAN_MAX on. */
typedef struct {
    set_key *key;
    uint32_t *slot; /* position + 1; 0 = free */
    uint32_t count, capacity, slot_count;
} key_set;

typedef struct { wire_span begin, end; } range_span;

/* Disjoint ranges in order; ranges that overlap are joined. */
typedef struct { range_span *range; uint32_t count, capacity; } range_set;

typedef struct { key_set puts, points; range_set ranges; } branch_set;

static inline int span_compare(wire_span a, wire_span b) {
    int order = memcmp(a.data, b.data, a.length < b.length ? a.length : b.length);
    if (order) return order;
    return a.length < b.length ? -1 : a.length > b.length;
}

static inline int span_equal(wire_span a, wire_span b) { return a.length == b.length && !memcmp(a.data, b.data, a.length); }

static void key_set_slot(key_set *set, uint32_t position) {
    uint32_t at = (uint32_t)set->key[position].hash & (set->slot_count - 1);
    while (set->slot[at]) at = (at + 1) & (set->slot_count - 1);
    set->slot[at] = position + 1;
}

static set_key *key_set_find(const key_set *set, wire_span key, uint64_t hash) {
    if (!set->slot) {
        for (uint32_t i = 0; i < set->count; i++)
            if (set->key[i].hash == hash && span_equal(set->key[i].key, key)) return &set->key[i];
        return NULL;
    }
    for (uint32_t at = (uint32_t)hash & (set->slot_count - 1); set->slot[at]; at = (at + 1) & (set->slot_count - 1)) {
        set_key *found = &set->key[set->slot[at] - 1];
        if (found->hash == hash && span_equal(found->key, key)) return found;
    }
    return NULL;
}

static int key_set_grow(key_set *set) {
    uint32_t capacity = set->capacity ? set->capacity * 2 : KEY_SET_SCAN_MAX;
    set_key *key = realloc(set->key, capacity * sizeof *key);
    if (!key) return -1;
    set->key = key;
    set->capacity = capacity;
    if (capacity <= KEY_SET_SCAN_MAX) return 0;
    free(set->slot);
    set->slot_count = capacity * 2;
    if (!(set->slot = calloc(set->slot_count, sizeof *set->slot))) return -1;
    for (uint32_t i = 0; i < set->count; i++) key_set_slot(set, i);
    return 0;
}

/* Adds a key that is not in the set. */
static int key_set_add(key_set *set, wire_span key, uint64_t hash, uint32_t owner) {
    if (set->count == set->capacity && key_set_grow(set)) return INTERVALS_MEMORY;
    set_key *added = &set->key[set->count++];
    added->key = key;
    added->hash = hash;
    added->owner = owner;
    if (set->slot) key_set_slot(set, set->count - 1);
    return 0;
}

/* The first range whose end lies behind `key`; all before it end at or before `key`. */
static uint32_t range_set_seek(const range_set *set, wire_span key) {
    uint32_t low = 0, high = set->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (span_compare(set->range[middle].end, key) <= 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

static int range_set_holds(const range_set *set, wire_span key) {
    uint32_t at = range_set_seek(set, key);
    return at < set->count && span_compare(set->range[at].begin, key) <= 0;
}

static int range_set_add(range_set *set, wire_span begin, wire_span end) {
    if (span_compare(begin, end) >= 0) return 0; /* empty */
    uint32_t at = range_set_seek(set, begin), last = at;
    while (last < set->count && span_compare(set->range[last].begin, end) <= 0) last++;
    if (last > at) {
        if (span_compare(set->range[at].begin, begin) < 0) begin = set->range[at].begin;
        if (span_compare(set->range[last - 1].end, end) > 0) end = set->range[last - 1].end;
    } else if (set->count == set->capacity) {
        uint32_t capacity = set->capacity ? set->capacity * 2 : 4;
        range_span *range = realloc(set->range, capacity * sizeof *range);
        if (!range) return INTERVALS_MEMORY;
        set->range = range;
        set->capacity = capacity;
    }
    /* The joined ones [at, last) make room for one. */
    memmove(set->range + at + 1, set->range + last, (set->count - last) * sizeof *set->range);
    set->count = set->count - last + at + 1;
    set->range[at].begin = begin;
    set->range[at].end = end;
    return 0;
}

static void branch_close(branch_set *branch) {
    free(branch->puts.key);
    free(branch->puts.slot);
    free(branch->points.key);
    free(branch->points.slot);
    free(branch->ranges.range);
}

static int branch_deletes(const branch_set *branch, wire_span key, uint64_t hash) {
    return key_set_find(&branch->points, key, hash) || range_set_holds(&branch->ranges, key);
}

static int branch_add_deletes(branch_set *into, const branch_set *from) {
    for (uint32_t i = 0; i < from->points.count; i++) {
        set_key *one = &from->points.key[i];
        if (!key_set_find(&into->points, one->key, one->hash) && key_set_add(&into->points, one->key, one->hash, 0)) return INTERVALS_MEMORY;
    }
    for (uint32_t i = 0; i < from->ranges.count; i++)
        if (range_set_add(&into->ranges, from->ranges.range[i].begin, from->ranges.range[i].end)) return INTERVALS_MEMORY;
    return 0;
}

/* Takes the puts of one branch of the nested transaction `owner`; only its other branch may have put the same key. */
static int branch_add_puts(branch_set *into, const branch_set *from, uint32_t owner, const branch_set *other) {
    for (uint32_t i = 0; i < from->puts.count; i++) {
        set_key *one = &from->puts.key[i], *had = key_set_find(&into->puts, one->key, one->hash);
        if (had && !(other && had->owner == owner && key_set_find(&other->puts, one->key, one->hash))) return INTERVALS_DUPLICATE;
        if (branch_deletes(into, one->key, one->hash)) return INTERVALS_DUPLICATE;
        if (!had && key_set_add(&into->puts, one->key, one->hash, owner)) return INTERVALS_MEMORY;
    }
    return 0;
}

static int branch_collect(wire_span txn, uint32_t which, uint64_t seed, branch_set *out);

static int branch_add_txn(branch_set *into, wire_span txn, uint32_t owner, uint64_t seed) {
    branch_set then, otherwise;
    memset(&then, 0, sizeof then);
    memset(&otherwise, 0, sizeof otherwise);
    int error = branch_collect(txn, TXN_SUCCESS, seed, &then);
    if (!error) error = branch_collect(txn, TXN_FAILURE, seed, &otherwise);
    if (!error) error = branch_add_puts(into, &then, owner, NULL);
    if (!error) error = branch_add_puts(into, &otherwise, owner, &then);
    if (!error) error = branch_add_deletes(into, &then);
    if (!error) error = branch_add_deletes(into, &otherwise);
    branch_close(&then);
    branch_close(&otherwise);
    return error;
}

static int branch_add_delete(branch_set *into, wire_span body, uint64_t seed) {
    delete_request request;
    if (delete_parse(body, &request)) return 0;
    if (request.end.length) return range_set_add(&into->ranges, request.key, request.end);
    uint64_t hash = hash_bytes(request.key.data, request.key.length, seed);
    return key_set_find(&into->points, request.key, hash) ? 0 : key_set_add(&into->points, request.key, hash, 0);
}

static int branch_add_put(branch_set *into, wire_span body, uint64_t seed) {
    put_request request;
    if (put_parse(body, &request)) return 0;
    uint64_t hash = hash_bytes(request.key.data, request.key.length, seed);
    if (key_set_find(&into->puts, request.key, hash) || branch_deletes(into, request.key, hash)) return INTERVALS_DUPLICATE;
    return key_set_add(&into->puts, request.key, hash, UINT32_MAX);
}

/* The puts and deletes of one branch (TXN_SUCCESS or TXN_FAILURE) of a well-formed TxnRequest, or why they clash. */
static int branch_collect(wire_span txn, uint32_t which, uint64_t seed, branch_set *out) {
    static const int order[] = {OP_DELETE, OP_TXN, OP_PUT};
    int kind, error = 0, present = 0;
    wire_span op, body;
    for (int pass = 0; pass < 3 && !error; pass++) {
        if (pass && !(present & 1 << order[pass])) continue;
        wire_reader reader = wire_open(txn);
        for (uint32_t owner = 0; !error && txn_next(&reader, which, &op); owner++) {
            if (op_parse(op, &kind, &body)) continue;
            present |= 1 << kind;
            if (kind != order[pass]) continue;
            if (kind == OP_DELETE) error = branch_add_delete(out, body, seed);
            else if (kind == OP_TXN) error = branch_add_txn(out, body, owner, seed);
            else error = branch_add_put(out, body, seed);
        }
    }
    return error;
}

/* Counts what could clash: without two puts, or a put and a delete, there is nothing to check. */
static void txn_count_writes(wire_span txn, uint32_t *puts, uint32_t *deletes) {
    for (uint32_t which = TXN_SUCCESS; which <= TXN_FAILURE; which++) {
        wire_reader reader = wire_open(txn);
        wire_span op, body;
        int kind;
        while (txn_next(&reader, which, &op)) {
            if (op_parse(op, &kind, &body)) continue;
            *puts += kind == OP_PUT;
            *deletes += kind == OP_DELETE;
            if (kind == OP_TXN) txn_count_writes(body, puts, deletes);
        }
    }
}

static int txn_check_intervals(wire_span txn, uint64_t seed) {
    uint32_t puts = 0, deletes = 0;
    int error = 0;
    txn_count_writes(txn, &puts, &deletes);
    if (!puts || puts + deletes < 2) return INTERVALS_OK;
    for (uint32_t which = TXN_SUCCESS; which <= TXN_FAILURE && !error; which++) {
        branch_set branch;
        memset(&branch, 0, sizeof branch);
        error = branch_collect(txn, which, seed, &branch);
        branch_close(&branch);
    }
    return error;
}

#endif
