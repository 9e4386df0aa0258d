/* How late triggers are, step by step: due, sent, acknowledged, committed. Counts alone, a few additions for each step.
 *
 * Times are whole ms, the due time rounded up and the others down, so a difference of 0 is less than a ms: a bucket holds what is below its
 * bound. Nothing is late by less than nothing: clocks that are read in another order count as 0.
 */
#ifndef RAFTSCHED_LATENESS_H
#define RAFTSCHED_LATENESS_H

#include <stdint.h>

enum { LATENESS_BOUNDS = 15, LATENESS_KINDS = 3 };
enum { WAITED_FOR_NOBODY = 0, WAITED_FOR_WORKER = 1, WAITED_FOR_GATE = 2, WAITED_FORS = 3 };

static const int32_t LATENESS_MS[LATENESS_BOUNDS] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 60000};

typedef struct {
    uint64_t counts[LATENESS_BOUNDS + 1];
    int64_t sum_ms;
} lateness_t;

typedef struct {
    lateness_t due_to_sent[LATENESS_KINDS][WAITED_FORS];
    lateness_t sent_to_acknowledged[LATENESS_KINDS], acknowledged_to_committed[LATENESS_KINDS], due_to_committed[LATENESS_KINDS];
} steps_t;

static inline void lateness_add(lateness_t *l, int64_t ms) {
    int bucket = 0;
    if (ms < 0) ms = 0;
    while (bucket < LATENESS_BOUNDS && ms >= LATENESS_MS[bucket]) bucket++;
    l->counts[bucket]++;
    l->sum_ms += ms;
}
#endif
