/* The last runs of a job: the numbers of those that are kept, and what is written of one that is over. Field numbers are those of RunRecord
 * in proto/raftsched/pb/v1/state.proto. */
#ifndef RAFTSCHED_HISTORY_H
#define RAFTSCHED_HISTORY_H

#include <stdlib.h>
#include <string.h>

#include "../../jobs/native/stored.h"

enum { NUMBER_DIGITS = 16 };

typedef struct {
    instant_t scheduled, sent, answered;   /* sent.s 0: it never was */
    slice_t error, replica;
    uint64_t asked, partition_id;          /* asked: the revision of the request; 0 = it is a tick of the schedule */
    uint32_t attempts;
    int result;
} finished_t;

/* Ascending, none twice. */
typedef struct { uint64_t *items; uint32_t count, capacity; } numbers_t;

static int numbers_add(numbers_t *n, uint64_t number) {
    uint32_t at = n->count;
    while (at && n->items[at - 1] >= number) at--;
    if (at < n->count && n->items[at] == number) return 0;
    if (n->count == n->capacity) {
        uint32_t capacity = n->capacity ? n->capacity * 2 : 4;
        uint64_t *items = realloc(n->items, capacity * sizeof *items);
        if (!items) return -1;
        n->items = items;
        n->capacity = capacity;
    }
    memmove(n->items + at + 1, n->items + at, (n->count - at) * sizeof *n->items);
    n->items[at] = number;
    n->count++;
    return 0;
}
static void numbers_remove(numbers_t *n, uint64_t number) {
    for (uint32_t at = 0; at < n->count && n->items[at] <= number; at++) {
        if (n->items[at] != number) continue;
        n->count--;
        memmove(n->items + at, n->items + at + 1, (n->count - at) * sizeof *n->items);
        return;
    }
}

static size_t finished_size_max(const finished_t *f) { return 3 * (2 + INSTANT_SIZE_MAX) + 4 * 12 + 2 * 12 + f->error.size + f->replica.size; }
static uint8_t *finished_put(uint8_t *at, const finished_t *f) {
    if (!f->asked) at = pb_put_instant(at, 1, f->scheduled);
    if (f->sent.s) at = pb_put_instant(at, 2, f->sent);
    at = pb_put_instant(at, 3, f->answered);
    at = pb_put_number(at, 4, f->attempts);
    at = pb_put_number(at, 5, (uint64_t)f->result);
    if (f->error.size) at = pb_put_bytes(at, 6, f->error.data, f->error.size);
    if (f->replica.size) at = pb_put_bytes(at, 7, f->replica.data, f->replica.size);
    if (f->asked) at = pb_put_number(at, 8, f->asked);
    return f->partition_id ? pb_put_number(at, 9, f->partition_id) : at;
}

/* Of <composed name>/<number>: `name` is then the first part. -1: it is none. */
static int number_parse(slice_t *name, uint64_t *number) {
    if (name->size <= NUMBER_DIGITS || name->data[name->size - NUMBER_DIGITS - 1] != '/') return -1;
    *number = 0;
    for (size_t at = name->size - NUMBER_DIGITS; at < name->size; at++) {
        uint8_t c = name->data[at];
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f')) return -1;
        *number = *number << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    name->size -= NUMBER_DIGITS + 1;
    return 0;
}
#endif
