/* Triggers and answers of raftsched.v1.Workers; field numbers are those of proto/raftsched/pb/v1/workers.proto. */
#ifndef RAFTSCHED_BATCHED_H
#define RAFTSCHED_BATCHED_H

#include <stdio.h>

#include "../../jobs/native/stored.h"

typedef struct {
    slice_t composed, name;        /* the whole name, and the part that its owner gave */
    const metadata_t *metadata;
    const stored_job_t *job;
    uint64_t id, asked;            /* asked: the revision of the request for this run; 0 = it is a tick of the schedule */
    instant_t tick;
    uint32_t attempt;
} batched_t;

enum { RUN_TAIL_MAX = 96 };

/* What follows the composed name in a run's id: /<seconds>.<nanoseconds>/<partition id>/<attempt>. Names hold no slash. */
static size_t run_tail(const batched_t *b, char *out) {
    unsigned long long partition = b->job->partition_id;
    int size = b->asked
        ? snprintf(out, RUN_TAIL_MAX, "/asked-%llu/%016llx/%u", (unsigned long long)b->asked, partition, b->attempt)
        : snprintf(out, RUN_TAIL_MAX, "/%lld.%09d/%016llx/%u", (long long)b->tick.s, (int)b->tick.ns, partition, b->attempt);
    return (size_t)size;
}

static size_t text_size(uint32_t number, slice_t text) { return text.size ? pb_bytes_size(number, text.size) : 0; }
static uint8_t *text_put(uint8_t *at, uint32_t number, slice_t text) {
    return text.size ? pb_put_bytes(at, number, text.data, text.size) : at;
}

static size_t job_name_size(const batched_t *b) {
    const metadata_t *m = b->metadata;
    return text_size(1, m->name_space) + text_size(2, m->app_id) + text_size(3, b->name) + text_size(4, m->actor_type)
        + text_size(5, m->actor_id);
}

static size_t batched_body_size(const batched_t *b, size_t tail) {
    return pb_number_size(1, b->id) + pb_bytes_size(2, job_name_size(b)) + (b->job->has_payload ? text_size(3, b->job->payload) : 0)
        + pb_bytes_size(4, b->composed.size + tail) + (b->asked ? pb_number_size(7, 1) : pb_bytes_size(5, pb_instant_size(b->tick)))
        + (b->attempt ? pb_number_size(6, b->attempt) : 0);
}

/* As an element of WatchTriggersResponse. `at` has pb_bytes_size(1, batched_body_size(...)) bytes of room. */
static void batched_put(uint8_t *at, const batched_t *b, const char *tail, size_t tail_size) {
    const metadata_t *m = b->metadata;
    at = pb_put_head(at, 1, batched_body_size(b, tail_size));
    at = pb_put_number(at, 1, b->id);
    at = pb_put_head(at, 2, job_name_size(b));
    at = text_put(at, 1, m->name_space);
    at = text_put(at, 2, m->app_id);
    at = text_put(at, 3, b->name);
    at = text_put(at, 4, m->actor_type);
    at = text_put(at, 5, m->actor_id);
    if (b->job->has_payload) at = text_put(at, 3, b->job->payload);
    at = pb_put_head(at, 4, b->composed.size + tail_size);
    at = pb_put_raw(at, b->composed.data, b->composed.size);
    at = pb_put_raw(at, tail, tail_size);
    if (!b->asked) at = pb_put_instant(at, 5, b->tick);
    if (b->attempt) at = pb_put_number(at, 6, b->attempt);
    if (b->asked) pb_put_number(at, 7, 1);
}

/* The Acks of a WatchTriggersRequest. 0, or -1: it is none, or malformed. */
static int acks_open(slice_t message, pb_in *acks) {
    pb_in in = pb_open(message);
    pb_field f;
    int got, found = 0;
    while ((got = pb_next(&in, &f)) == 1) {
        if (f.number == 1) return -1;
        if (f.number != 2) continue;
        if (f.type != PB_BYTES || found) return -1;
        found = 1;
        *acks = pb_open(f.body);
    }
    return got == 0 && found ? 0 : -1;
}

/* 1 = the next Ack, 0 = there is none, -1 = malformed. */
static int ack_next(pb_in *acks, uint64_t *id, int *failed, slice_t *error) {
    pb_field f, g;
    int got;
    while ((got = pb_next(acks, &f)) == 1) {
        if (f.number != 1) continue;
        if (f.type != PB_BYTES) return -1;
        pb_in in = pb_open(f.body);
        *id = 0;
        *failed = 0;
        error->data = NULL;
        error->size = 0;
        while ((got = pb_next(&in, &g)) == 1) {
            if (g.number > 3) continue;
            if (g.type != (g.number == 3 ? PB_BYTES : PB_VARINT)) return -1;
            if (g.number == 1) *id = g.value;
            else if (g.number == 3) *error = g.body;
            else *failed = g.value != 0;
        }
        return got < 0 ? -1 : 1;
    }
    return got;
}
#endif
