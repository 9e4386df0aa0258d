/* HashKV: etcd's CRC-32C over all records that a revision and the compaction leave (etcd-api §3.6).

   `hash_plan_make` reads the index once, on its owner's thread; `hash_record` then needs no index and may run on any thread.
   Records must come in ascending order. */
#ifndef RAFTSCHED_HASH_H
#define RAFTSCHED_HASH_H

#include "answer.h"
#include "crc32c.h"

typedef struct {
    int64_t revision, compact_revision;
    uint32_t crc;
    int keeps_any;
    place_t *keep; /* records <= compact_revision that count, ascending */
    size_t keep_count, keep_at;
} hash_plan;

static int hash_plan_make(hash_plan *plan, const core_t *core, int64_t revision, int64_t compact_revision) {
    size_t capacity = 0;
    memset(plan, 0, sizeof *plan);
    plan->revision = revision;
    plan->compact_revision = compact_revision;
    plan->crc = crc32c_update(0, (const uint8_t *)"key", 3);
    for (const leaf_t *leaf = core->index.tree.first_leaf; leaf && revision >= 0; leaf = leaf->next)
        for (uint32_t i = 0; i < leaf->count; i++) {
            version_at found = entry_version_at(core_entry(core, leaf->item[i]), (uint64_t)revision);
            if (!found.exists || found.tombstone) continue;
            plan->keeps_any = 1;
            if ((int64_t)found.main > compact_revision) continue;
            if (plan->keep_count == capacity) {
                capacity = capacity ? capacity * 2 : 1024;
                place_t *keep = realloc(plan->keep, capacity * sizeof *keep);
                if (!keep) return -1;
                plan->keep = keep;
            }
            plan->keep[plan->keep_count].main = found.main;
            plan->keep[plan->keep_count++].sub = found.sub;
        }
    if (plan->keep_count) qsort(plan->keep, plan->keep_count, sizeof *plan->keep, place_compare);
    return 0;
}

static int hash_keeps(hash_plan *plan, place_t place) {
    while (plan->keep_at < plan->keep_count && place_compare(&plan->keep[plan->keep_at], &place) < 0) plan->keep_at++;
    return plan->keep_at < plan->keep_count && !place_compare(&plan->keep[plan->keep_at], &place);
}

static void hash_record(hash_plan *plan, uint64_t main, uint32_t sub, int tombstone, const uint8_t *value, size_t length) {
    place_t place = {main, sub};
    uint8_t key[18];
    uint64_t word = __builtin_bswap64(main);
    if ((int64_t)main > plan->revision) return;
    if ((int64_t)main <= plan->compact_revision) {
        if (plan->keeps_any && !hash_keeps(plan, place)) return;
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
