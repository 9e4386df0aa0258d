/* HashKV: etcd's CRC-32C over all records that a revision and the compaction leave (etcd-api §3.6).

   `hash_plan_step` reads the index in slices on its owner's thread: writes may come between them, a scrub may not. `hash_record`
   then needs no index and may run on any thread. Records must come in ascending order. */
#ifndef RAFTSCHED_HASH_H
#define RAFTSCHED_HASH_H

#include "answer.h"
#include "crc32c.h"

typedef struct {
    int64_t revision, compact_revision;
    uint32_t crc;
    int alive_any, at_compaction, sorted;
    place_t *keep; /* records <= compact_revision that count; ascending once `sorted` */
    size_t keep_count, keep_capacity, keep_at;
    uint8_t *next; /* the key to go on at */
    size_t next_length, next_capacity;
} hash_plan;

static void hash_plan_begin(hash_plan *plan, int64_t revision, int64_t compact_revision) {
    memset(plan, 0, sizeof *plan);
    plan->revision = revision;
    plan->compact_revision = compact_revision;
    plan->crc = crc32c_update(0, (const uint8_t *)"key", 3);
}

static void hash_plan_free(hash_plan *plan) {
    free(plan->keep);
    free(plan->next);
    plan->keep = NULL;
    plan->next = NULL;
}

static int hash_plan_keep(hash_plan *plan, uint64_t main, uint32_t sub) {
    if (plan->keep_count == plan->keep_capacity) {
        size_t capacity = plan->keep_capacity ? plan->keep_capacity + plan->keep_capacity / 2 : 1024;
        place_t *keep = realloc(plan->keep, capacity * sizeof *keep);
        if (!keep) return -1;
        plan->keep = keep;
        plan->keep_capacity = capacity;
    }
    plan->keep[plan->keep_count].main = main;
    plan->keep[plan->keep_count++].sub = sub;
    return 0;
}

/* Remembers the key to go on at: it exists as long as nothing scrubs. */
static int hash_plan_pause(hash_plan *plan, const core_t *core, const entry_t *entry) {
    size_t length = core_key_length(core, entry);
    if (length > plan->next_capacity) {
        uint8_t *next = realloc(plan->next, length);
        if (!next) return -1;
        plan->next = next;
        plan->next_capacity = length;
    }
    core_key_copy(core, entry, plan->next);
    plan->next_length = length;
    return 0;
}

/* Looks at `keys_max` more keys. 1 = all were seen, 0 = not yet, -1 = out of memory. Later writes change nothing about what counts
   at the plan's revision; without a compaction all records count. Where no key is alive at the revision, etcd hashes all that its
   compaction left: a second walk finds that, and not also what a scrub has not come to yet. */
static int hash_plan_step(hash_plan *plan, const core_t *core, size_t keys_max) {
    static const uint8_t zero[1] = {0};
    wire_span start = {plan->next_length ? plan->next : zero, plan->next_length ? plan->next_length : 1}, end = {zero, 1};
    index_walk walk;
    uint32_t handle;
    if (plan->compact_revision <= 0 || plan->revision < 0) return 1;
    uint64_t revision = (uint64_t)(plan->at_compaction ? plan->compact_revision : plan->revision);
    core_walk_from(core, start, end, &walk);
    while ((handle = core_walk_next(core, &walk))) {
        const entry_t *entry = core_entry(core, handle);
        if (!keys_max--) return hash_plan_pause(plan, core, entry);
        version_at found = entry_version_at(entry, revision);
        if (!found.exists || found.tombstone) continue;
        plan->alive_any = 1;
        if ((int64_t)found.main <= plan->compact_revision && hash_plan_keep(plan, found.main, found.sub)) return -1;
    }
    if (plan->alive_any || plan->at_compaction) return 1;
    plan->at_compaction = 1;
    plan->next_length = 0;
    return keys_max ? hash_plan_step(plan, core, keys_max) : 0;
}

static int hash_keeps(hash_plan *plan, place_t place) {
    if (!plan->sorted) qsort(plan->keep, plan->keep_count, sizeof *plan->keep, place_compare);
    plan->sorted = 1;
    while (plan->keep_at < plan->keep_count && place_compare(&plan->keep[plan->keep_at], &place) < 0) plan->keep_at++;
    return plan->keep_at < plan->keep_count && !place_compare(&plan->keep[plan->keep_at], &place);
}

static void hash_record(hash_plan *plan, uint64_t main, uint32_t sub, int tombstone, const uint8_t *value, size_t length) {
    place_t place = {main, sub};
    uint8_t key[18];
    uint64_t word = __builtin_bswap64(main);
    if ((int64_t)main > plan->revision) return;
    if ((int64_t)main <= plan->compact_revision) {
        if (!hash_keeps(plan, place) && length) return; /* without a value: what `--bump-revision` writes; etcd keeps it */
        if ((int64_t)main == plan->compact_revision && tombstone) return;
    }
    memcpy(key, &word, 8);
    key[8] = '_';
    word = __builtin_bswap64(sub);
    memcpy(key + 9, &word, 8);
    key[17] = 't';
    plan->crc = crc32c_update(plan->crc, key, tombstone ? 18 : 17);
    plan->crc = crc32c_update(plan->crc, value, length);
}

#endif
