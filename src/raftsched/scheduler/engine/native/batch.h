/* Whose branches are in the batch that is being filled. etcd refuses a transaction in which two operations put one key, or one deletes
 * and a later one puts it, and would refuse it each time that it is sent again.
 *
 * Invariant: at most half of the entries are of the present batch; those of former ones are free. */
#ifndef RAFTSCHED_BATCH_H
#define RAFTSCHED_BATCH_H

#include <stdint.h>
#include <stdlib.h>

typedef struct { uint64_t name, mark; } batch_entry;    /* mark: batch << 1 | it puts */
typedef struct { batch_entry *entries; uint64_t batch; uint32_t mask; } batch_names;

static int batch_init(batch_names *b, uint32_t branches_max) {
    uint32_t capacity = 4;
    while (capacity < 2 * branches_max) capacity *= 2;
    b->entries = calloc(capacity, sizeof *b->entries);
    b->mask = capacity - 1;
    b->batch = 1;
    return b->entries ? 0 : -1;
}
static void batch_next(batch_names *b) { b->batch++; }

/* `name` is a keyed hash. 0 = it is in the batch now; 1 = it is not: one of its name is there, and one of the two puts. */
static int batch_add(batch_names *b, uint64_t name, int puts) {
    uint32_t at = (uint32_t)name & b->mask;
    for (; b->entries[at].mark >> 1 == b->batch; at = (at + 1) & b->mask) {
        if (b->entries[at].name != name) continue;
        return puts || b->entries[at].mark & 1;
    }
    b->entries[at].name = name;
    b->entries[at].mark = b->batch << 1 | (puts != 0);
    return 0;
}
#endif
