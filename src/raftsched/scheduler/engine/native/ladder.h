/* How long a failed run waits before it is tried again: a pure function of the policy, the job and the attempt, in whole milliseconds,
 * so that every replica finds the same. */
#ifndef RAFTSCHED_LADDER_H
#define RAFTSCHED_LADDER_H

#include <stdint.h>

typedef struct {
    int64_t initial_ms, cap_ms;              /* 1 ... 366 days; the cap is not below the first */
    uint32_t factor_percent;                 /* 100 ... 10000 */
    uint32_t jitter_percent;                 /* 0 ... 100 */
    uint32_t max_attempts;                   /* 0 = without end */
} ladder_t;

enum { LADDER_SUM_MAX = 100000 };

/* Rounded up, so that a factor makes each wait longer, however short the first one is. */
static int64_t ladder_next(const ladder_t *l, int64_t wait_ms) {
    int64_t longer = (wait_ms * l->factor_percent + 99) / 100;
    return longer < l->cap_ms ? longer : l->cap_ms;
}
/* Less by up to jitter_percent: by the job's partition id, which each stored job has by chance, and the attempt (SplitMix64). */
static int64_t ladder_jittered(const ladder_t *l, int64_t wait_ms, uint64_t partition_id, uint32_t attempts) {
    uint64_t z = partition_id + attempts * 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    z ^= z >> 31;
    return wait_ms - wait_ms * l->jitter_percent / 100 * (int64_t)(z >> 48) / 65536;
}
/* Behind so many failed attempts, from 1. */
static int64_t ladder_wait_ms(const ladder_t *l, uint64_t partition_id, uint32_t attempts) {
    int64_t wait_ms = l->initial_ms;
    for (uint32_t k = 1; k < attempts; k++) {
        int64_t next = ladder_next(l, wait_ms);
        if (next == wait_ms) break;
        wait_ms = next;
    }
    return ladder_jittered(l, wait_ms, partition_id, attempts);
}
/* All the waits behind so many failed attempts; 0 of very many. */
static int64_t ladder_sum_ms(const ladder_t *l, uint64_t partition_id, uint32_t attempts) {
    int64_t sum = 0, wait_ms = l->initial_ms;
    if (attempts > LADDER_SUM_MAX) return 0;
    for (uint32_t k = 1; k <= attempts; k++) {
        sum += ladder_jittered(l, wait_ms, partition_id, k);
        wait_ms = ladder_next(l, wait_ms);
    }
    return sum;
}
#endif
