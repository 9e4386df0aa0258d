/* The stored records (docs: spec "Stored state"): mvccpb.KeyValue, stored.Job, stored.Counter, JobMetadata.
 * Decoded into slices of the caller's bytes; valid only while those live. */
#ifndef RAFTSCHED_STORED_H
#define RAFTSCHED_STORED_H

#include <stdio.h>

#include "wire.h"

#define METADATA_TYPE_URL "type.googleapis.com/dapr.proto.scheduler.v1.JobMetadata"
#define JOBS_PREFIX "dapr/jobs/"
#define COUNTERS_PREFIX "dapr/counters/"
#define LEADERSHIP_PREFIX "dapr/leadership/"
#define STATES_PREFIX "raftsched/jobs/"           /* JobExtra by composed name */
#define NAMESPACES_PREFIX "raftsched/namespaces/"  /* NamespaceExtra by namespace */
#define CALENDARS_PREFIX "raftsched/calendars/"   /* CalendarRecord by namespace/name */
#define RUNS_PREFIX "raftsched/runs/"             /* RunRequest by composed name */
enum { STATES_PREFIX_SIZE = sizeof(STATES_PREFIX) - 1, NAMESPACES_PREFIX_SIZE = sizeof(NAMESPACES_PREFIX) - 1 };
#define DEAD_PREFIX "raftsched/dead/"             /* StoredDeadLetter by composed name and run */
#define HISTORY_PREFIX "raftsched/history/"       /* RunRecord by composed name and number */
enum { RUNS_PREFIX_SIZE = sizeof(RUNS_PREFIX) - 1, CALENDARS_PREFIX_SIZE = sizeof(CALENDARS_PREFIX) - 1 };
enum { HISTORY_PREFIX_SIZE = sizeof(HISTORY_PREFIX) - 1, DEAD_PREFIX_SIZE = sizeof(DEAD_PREFIX) - 1 };
enum { LEADERSHIP_PREFIX_SIZE = sizeof(LEADERSHIP_PREFIX) - 1 };
enum { JOBS_PREFIX_SIZE = sizeof(JOBS_PREFIX) - 1, COUNTERS_PREFIX_SIZE = sizeof(COUNTERS_PREFIX) - 1 };
#define SECONDS_MIN (-62135596800LL)
#define SECONDS_MAX 253402300799LL

enum { BEGIN_NONE = 0, BEGIN_START = 1, BEGIN_DUE = 2 };
enum { POLICY_UNSET = 0, POLICY_DROP = 1, POLICY_CONSTANT = 2 };
enum { TARGET_NONE = 0, TARGET_JOB = 1, TARGET_ACTOR = 2 };

typedef struct { slice_t key, value; uint64_t create_revision, mod_revision, version; int64_t lease; } kv_t;

typedef struct {
    slice_t app_id, name_space, actor_id, actor_type, concurrency_key;
    uint8_t target, has_target, has_concurrency_key;
} metadata_t;

typedef struct { uint8_t kind, has_max; uint32_t max_retries; int64_t interval_ns; } policy_t;

typedef struct {
    uint64_t partition_id;
    instant_t begin, expiration;
    slice_t schedule, due_time, ttl, metadata, payload, policy;  /* metadata: the Any's value; payload, policy: the message */
    uint32_t repeats;
    uint8_t begin_kind, has_expiration, has_schedule, has_due_time, has_ttl, has_repeats, has_metadata, has_payload, has_policy;
} stored_job_t;

typedef struct { uint64_t partition_id; instant_t last; uint32_t count, attempts; uint8_t has_last; } counter_t;

static int kv_parse(slice_t record, kv_t *out) {
    pb_in in = pb_open(record);
    pb_field f;
    int got;
    memset(out, 0, sizeof *out);
    while ((got = pb_next(&in, &f)) == 1) switch (f.number) {
        case 1: out->key = f.body; break;
        case 2: out->create_revision = f.value; break;
        case 3: out->mod_revision = f.value; break;
        case 4: out->version = f.value; break;
        case 5: out->value = f.body; break;
        case 6: out->lease = (int64_t)f.value; break;
        default: break;
    }
    return got;
}

static int any_parse(slice_t body, slice_t *url, slice_t *value) {
    pb_in in = pb_open(body);
    pb_field f;
    int got;
    url->data = value->data = NULL;
    url->size = value->size = 0;
    while ((got = pb_next(&in, &f)) == 1)
        if (f.number <= 2 && f.type == PB_BYTES) {
            if (f.number == 1) *url = f.body; else *value = f.body;
        }
    return got;
}

static int target_parse(slice_t body, metadata_t *out) {
    pb_in in = pb_open(body);
    pb_field f;
    int got;
    while ((got = pb_next(&in, &f)) == 1) {
        if (f.number > 2 || f.type != PB_BYTES) continue;
        if (out->target != f.number) out->actor_id.size = out->actor_type.size = 0;
        out->target = (uint8_t)f.number;
        pb_in inner = pb_open(f.body);
        pb_field g;
        while ((got = pb_next(&inner, &g)) == 1)
            if (f.number == 2 && g.number <= 2 && g.type == PB_BYTES) {
                if (g.number == 1) out->actor_id = g.body; else out->actor_type = g.body;
            }
        if (got < 0) return -1;
    }
    return got;
}

static int metadata_parse(slice_t body, metadata_t *out) {
    pb_in in = pb_open(body);
    pb_field f;
    int got;
    memset(out, 0, sizeof *out);
    while ((got = pb_next(&in, &f)) == 1) {
        if (f.number > 4 || f.type != PB_BYTES) continue;
        if (f.number == 1) out->app_id = f.body;
        else if (f.number == 2) out->name_space = f.body;
        else if (f.number == 3) { out->has_target = 1; if (target_parse(f.body, out) < 0) return -1; }
        else { out->concurrency_key = f.body; out->has_concurrency_key = 1; }
    }
    return got;
}

static int64_t duration_ns(instant_t d) {
    int64_t ns;
    if (__builtin_mul_overflow(d.s, 1000000000LL, &ns) || __builtin_add_overflow(ns, (int64_t)d.ns, &ns))
        return d.s < 0 ? INT64_MIN : INT64_MAX;
    return ns;
}

/* Serves api.FailurePolicy and common.v1.JobFailurePolicy: the same numbers. */
static int policy_parse(slice_t body, policy_t *out) {
    pb_in in = pb_open(body);
    pb_field f;
    int got;
    memset(out, 0, sizeof *out);
    while ((got = pb_next(&in, &f)) == 1) {
        if (f.number > 2 || f.type != PB_BYTES) continue;
        if (out->kind != f.number) memset(out, 0, sizeof *out);
        out->kind = f.number == 1 ? POLICY_DROP : POLICY_CONSTANT;
        pb_in inner = pb_open(f.body);
        pb_field g;
        while ((got = pb_next(&inner, &g)) == 1) {
            if (f.number == 1 || g.number > 2) continue;
            if (g.number == 1 && g.type == PB_BYTES) {
                instant_t interval;
                if (pb_instant(g.body, &interval) < 0) return -1;
                out->interval_ns = duration_ns(interval);
            } else if (g.number == 2 && g.type == PB_VARINT) {
                out->has_max = 1;
                out->max_retries = (uint32_t)g.value;
            }
        }
        if (got < 0) return -1;
    }
    return got;
}

/* Dapr stores what its clients wish, also years that a Timestamp cannot name: what is before the year 1 is due, what is after 9999 never is. */
static int timestamp_parse(slice_t body, instant_t *out) {
    if (pb_instant(body, out) < 0) return -1;
    int32_t carry = out->ns / 1000000000 - (out->ns % 1000000000 < 0);
    out->ns -= carry * 1000000000;
    if (__builtin_add_overflow(out->s, (int64_t)carry, &out->s)) out->s = carry < 0 ? INT64_MIN : INT64_MAX;
    if (out->s < SECONDS_MIN) out->s = SECONDS_MIN, out->ns = 0;
    else if (out->s > SECONDS_MAX) out->s = SECONDS_MAX, out->ns = 999999999;
    return 0;
}

static int api_job_parse(slice_t body, stored_job_t *out) {
    pb_in in = pb_open(body);
    pb_field f;
    int got;
    while ((got = pb_next(&in, &f)) == 1) {
        if (f.number > 7 || f.type != (f.number == 4 ? PB_VARINT : PB_BYTES)) continue;
        switch (f.number) {
        case 1: out->schedule = f.body; out->has_schedule = 1; break;
        case 2: out->due_time = f.body; out->has_due_time = 1; break;
        case 3: out->ttl = f.body; out->has_ttl = 1; break;
        case 4: out->repeats = (uint32_t)f.value; out->has_repeats = 1; break;
        case 5: {
            slice_t url;
            if (any_parse(f.body, &url, &out->metadata) < 0) return -1;
            out->has_metadata = url.size == sizeof(METADATA_TYPE_URL) - 1 && !memcmp(url.data, METADATA_TYPE_URL, url.size);
            break;
        }
        case 6: out->payload = f.body; out->has_payload = 1; break;
        default: out->policy = f.body; out->has_policy = 1; break;
        }
    }
    return got;
}

/* -1 also for a record without `begin` or without a job: nothing could be computed from it. */
static int stored_job_parse(slice_t value, stored_job_t *out) {
    pb_in in = pb_open(value);
    pb_field f;
    int got, has_job = 0;
    memset(out, 0, sizeof *out);
    while ((got = pb_next(&in, &f)) == 1) {
        if (f.number > 5 || f.type != (f.number == 1 ? PB_VARINT : PB_BYTES)) continue;
        switch (f.number) {
        case 1: out->partition_id = f.value; break;
        case 2:
        case 3:
            if (timestamp_parse(f.body, &out->begin) < 0) return -1;
            out->begin_kind = f.number == 2 ? BEGIN_START : BEGIN_DUE;
            break;
        case 4: if (timestamp_parse(f.body, &out->expiration) < 0) return -1; out->has_expiration = 1; break;
        default: if (api_job_parse(f.body, out) < 0) return -1; has_job = 1; break;
        }
    }
    return got < 0 || !has_job || out->begin_kind == BEGIN_NONE ? -1 : 0;
}

static int counter_parse(slice_t value, counter_t *out) {
    pb_in in = pb_open(value);
    pb_field f;
    int got;
    memset(out, 0, sizeof *out);
    while ((got = pb_next(&in, &f)) == 1) {
        if (f.number > 4 || f.type != (f.number == 3 ? PB_BYTES : PB_VARINT)) continue;
        switch (f.number) {
        case 1: out->partition_id = f.value; break;
        case 2: out->count = (uint32_t)f.value; break;
        case 3: if (timestamp_parse(f.body, &out->last) < 0) return -1; out->has_last = 1; break;
        default: out->attempts = (uint32_t)f.value; break;
        }
    }
    return got;
}

enum { COUNTER_SIZE_MAX = 11 + 6 + 2 + INSTANT_SIZE_MAX + 6 };
static uint8_t *counter_put(uint8_t *at, const counter_t *c) {
    if (c->partition_id) at = pb_put_number(at, 1, c->partition_id);
    if (c->count) at = pb_put_number(at, 2, c->count);
    if (c->has_last) at = pb_put_instant(at, 3, c->last);
    if (c->attempts) at = pb_put_number(at, 4, c->attempts);
    return at;
}

/* The prefix that the metadata rebuild: app||ns||app|| or actorreminder||ns||type||id||. `route` is its part without the
 * actor id, which is what streams register. Sizes; 0 when the key does not start with it. */
static size_t prefix_match(slice_t name, const metadata_t *m, size_t *route_size) {
    const uint8_t *at = name.data, *end = name.data + name.size;
#define TAKE(source, length) do { size_t n_ = (length); \
        if ((size_t)(end - at) < n_ || (n_ && memcmp(at, (source), n_))) { return 0; } \
        at += n_; } while (0)
    if (m->target == TARGET_JOB) {
        TAKE("app||", 5);
        TAKE(m->name_space.data, m->name_space.size);
        TAKE("||", 2);
        TAKE(m->app_id.data, m->app_id.size);
        TAKE("||", 2);
        *route_size = (size_t)(at - name.data);
    } else if (m->target == TARGET_ACTOR) {
        TAKE("actorreminder||", 15);
        TAKE(m->name_space.data, m->name_space.size);
        TAKE("||", 2);
        TAKE(m->actor_type.data, m->actor_type.size);
        TAKE("||", 2);
        *route_size = (size_t)(at - name.data);
        TAKE(m->actor_id.data, m->actor_id.size);
        TAKE("||", 2);
    } else return 0;
#undef TAKE
    return (size_t)(at - name.data);
}

/* WatchJobsResponse: 1 name, 2 id, 3 data, 4 metadata, by copying slices. */
static size_t trigger_size(slice_t name, uint64_t id, const stored_job_t *job) {
    return (name.size ? pb_bytes_size(1, name.size) : 0) + pb_number_size(2, id)
        + (job->has_payload ? pb_bytes_size(3, job->payload.size) : 0) + pb_bytes_size(4, job->metadata.size);
}
static uint8_t *trigger_put(uint8_t *at, slice_t name, uint64_t id, const stored_job_t *job) {
    if (name.size) at = pb_put_bytes(at, 1, name.data, name.size);
    at = pb_put_number(at, 2, id);
    if (job->has_payload) at = pb_put_bytes(at, 3, job->payload.data, job->payload.size);
    return pb_put_bytes(at, 4, job->metadata.data, job->metadata.size);
}

/* -- guarded branches: RequestOp{request_txn: Txn{compare job.mod, counter.mod; success ...}} as field 2 of the outer Txn */
enum { BRANCH_FINISH = 0, BRANCH_COUNTER = 1, BRANCH_ORPHAN = 2, BRANCH_STRAY = 3, BRANCH_STRAY_RUN = 4, BRANCH_RAN = 5,
       BRANCH_STRAY_HISTORY = 8 };

static size_t compare_size(size_t key_size, uint64_t revision) {
    return 2 + pb_bytes_size(3, key_size) + pb_number_size(6, revision);  /* result EQUAL is the default and stays out */
}
static uint8_t *compare_put(uint8_t *at, const char *prefix, size_t prefix_size, slice_t name, uint64_t revision) {
    at = pb_put_head(at, 1, compare_size(prefix_size + name.size, revision));
    at = pb_put_number(at, 2, 2);  /* target MOD */
    at = pb_put_head(at, 3, prefix_size + name.size);
    at = pb_put_raw(at, prefix, prefix_size);
    at = pb_put_raw(at, name.data, name.size);
    return pb_put_number(at, 6, revision);
}
static size_t branch_size_max(size_t name_size) {
    return 4 * (name_size + COUNTERS_PREFIX_SIZE + 48) + COUNTER_SIZE_MAX + 32;
}
static size_t delete_op_size(size_t key_size) { return pb_bytes_size(3, pb_bytes_size(1, key_size)); }
static uint8_t *delete_put(uint8_t *at, const char *prefix, size_t prefix_size, slice_t name) {
    size_t key = prefix_size + name.size;
    at = pb_put_head(at, 2, delete_op_size(key));
    at = pb_put_head(at, 3, pb_bytes_size(1, key));
    at = pb_put_head(at, 1, key);
    at = pb_put_raw(at, prefix, prefix_size);
    return pb_put_raw(at, name.data, name.size);
}
enum { GONE_SEEN = 0, GONE_MISSING = 1, GONE_RECREATED = 2 };

/* Deletes what a job left behind, unless it is younger than `revision`, by which the job was gone. Who has not seen it go may not have heard
 * of everything yet: then only if there is no job (GONE_MISSING), or one that came later (GONE_RECREATED). */
static uint8_t *stray_put(uint8_t *at, const char *prefix, size_t prefix_size, slice_t name, uint64_t revision, int gone) {
    int recreated = gone == GONE_RECREATED;
    size_t key = prefix_size + name.size, compare = 4 + pb_bytes_size(3, key) + pb_number_size(6, revision + 1);
    size_t job_key = JOBS_PREFIX_SIZE + name.size;
    uint64_t created = recreated ? revision : 0;
    size_t job_compare = (recreated ? 4 : 2) + pb_bytes_size(3, job_key) + pb_number_size(5, created);
    size_t txn = pb_bytes_size(1, compare) + pb_bytes_size(2, delete_op_size(key));
    if (gone != GONE_SEEN) txn += pb_bytes_size(1, job_compare);
    at = pb_put_head(at, 2, pb_bytes_size(4, txn));
    at = pb_put_head(at, 4, txn);
    at = pb_put_head(at, 1, compare);
    at = pb_put_number(at, 1, 2);  /* result LESS */
    at = pb_put_number(at, 2, 2);  /* target MOD */
    at = pb_put_head(at, 3, key);
    at = pb_put_raw(at, prefix, prefix_size);
    at = pb_put_raw(at, name.data, name.size);
    at = pb_put_number(at, 6, revision + 1);
    if (gone == GONE_SEEN) return delete_put(at, prefix, prefix_size, name);
    at = pb_put_head(at, 1, job_compare);
    if (recreated) at = pb_put_number(at, 1, 1);  /* result GREATER */
    at = pb_put_number(at, 2, 1);  /* target CREATE */
    at = pb_put_head(at, 3, job_key);
    at = pb_put_raw(at, JOBS_PREFIX, JOBS_PREFIX_SIZE);
    at = pb_put_raw(at, name.data, name.size);
    at = pb_put_number(at, 5, created);
    return delete_put(at, prefix, prefix_size, name);
}

/* One more RequestOp of a branch, as its field 2: `key`, put or deleted. */
static size_t put_op_size(size_t key_size, size_t value_size) {
    return pb_bytes_size(2, pb_bytes_size(2, pb_bytes_size(1, key_size) + pb_bytes_size(2, value_size)));
}
static uint8_t *put_op_put(uint8_t *at, slice_t key, slice_t value) {
    size_t put = pb_bytes_size(1, key.size) + pb_bytes_size(2, value.size);
    at = pb_put_head(at, 2, pb_bytes_size(2, put));
    at = pb_put_head(at, 2, put);
    at = pb_put_bytes(at, 1, key.data, key.size);
    return pb_put_bytes(at, 2, value.data, value.size);
}
static size_t drop_op_size(size_t key_size) { return pb_bytes_size(2, delete_op_size(key_size)); }
static uint8_t *drop_op_put(uint8_t *at, slice_t key) { return delete_put(at, "", 0, key); }

/* The keys from `key` up to, without, `end` go. */
static size_t drop_range_body_size(size_t key_size, size_t end_size) { return pb_bytes_size(1, key_size) + pb_bytes_size(2, end_size); }
static size_t drop_range_op_size(size_t key_size, size_t end_size) {
    return pb_bytes_size(2, pb_bytes_size(3, drop_range_body_size(key_size, end_size)));
}
static uint8_t *drop_range_op_put(uint8_t *at, slice_t key, slice_t end) {
    size_t body = drop_range_body_size(key.size, end.size);
    at = pb_put_head(at, 2, pb_bytes_size(3, body));
    at = pb_put_head(at, 3, body);
    at = pb_put_bytes(at, 1, key.data, key.size);
    return pb_put_bytes(at, 2, end.data, end.size);
}

/* What is kept of runs of a job that went by `revision`: their numbers are not above it, and those of a later job of this name are. So
 * there is nothing to guard. */
static uint8_t *stray_history_put(uint8_t *at, slice_t name, uint64_t revision) {
    size_t key = HISTORY_PREFIX_SIZE + name.size + 1, end = key + 16;
    size_t body = drop_range_body_size(key, end), op = pb_bytes_size(2, pb_bytes_size(3, body));
    char number[17];
    snprintf(number, sizeof number, "%016llx", (unsigned long long)(revision + 1));
    at = pb_put_head(at, 2, pb_bytes_size(4, op));
    at = pb_put_head(at, 4, op);
    at = pb_put_head(at, 2, pb_bytes_size(3, body));
    at = pb_put_head(at, 3, body);
    for (int i = 1; i <= 2; i++) {
        at = pb_put_head(at, (uint32_t)i, i == 1 ? key : end);
        at = pb_put_raw(at, HISTORY_PREFIX, HISTORY_PREFIX_SIZE);
        at = pb_put_raw(at, name.data, name.size);
        *at++ = '/';
    }
    return pb_put_raw(at, number, 16);
}

/* A run that somebody asked for is over: the request goes, if it and the job are still those that ran. */
static uint8_t *ran_put(uint8_t *at, slice_t name, uint64_t job_main, uint64_t asked, slice_t further) {
    size_t key = RUNS_PREFIX_SIZE + name.size;
    size_t txn = pb_bytes_size(1, compare_size(JOBS_PREFIX_SIZE + name.size, job_main)) + pb_bytes_size(1, compare_size(key, asked))
        + pb_bytes_size(2, delete_op_size(key)) + further.size;
    at = pb_put_head(at, 2, pb_bytes_size(4, txn));
    at = pb_put_head(at, 4, txn);
    at = compare_put(at, JOBS_PREFIX, JOBS_PREFIX_SIZE, name, job_main);
    at = compare_put(at, RUNS_PREFIX, RUNS_PREFIX_SIZE, name, asked);
    at = delete_put(at, RUNS_PREFIX, RUNS_PREFIX_SIZE, name);
    return pb_put_raw(at, further.data, further.size);
}

/* `at` has branch_size_max(name.size) + further.size bytes of room. A FINISH without a counter deletes the job alone. For a STRAY `job_main`
 * is the revision by which the job was gone, and `counter_main` one of GONE_*; of a RAN `counter_main` is the request's revision.
 * `further`: operations that are done with a FINISH, COUNTER or RAN, under the same guards; empty for the others. */
static uint8_t *branch_put(uint8_t *at, int kind, slice_t name, uint64_t job_main, uint64_t counter_main, const counter_t *counter,
                           slice_t further) {
    size_t job_key = JOBS_PREFIX_SIZE + name.size, counter_key = COUNTERS_PREFIX_SIZE + name.size;
    size_t job_compare = compare_size(job_key, job_main), counter_compare = compare_size(counter_key, counter_main);
    uint8_t value[COUNTER_SIZE_MAX];
    size_t value_size = 0, put_size = 0, ops = 0;
    if (kind == BRANCH_STRAY) return stray_put(at, STATES_PREFIX, STATES_PREFIX_SIZE, name, job_main, (int)counter_main);
    if (kind == BRANCH_STRAY_RUN) return stray_put(at, RUNS_PREFIX, RUNS_PREFIX_SIZE, name, job_main, (int)counter_main);
    if (kind == BRANCH_STRAY_HISTORY) return stray_history_put(at, name, job_main);
    if (kind == BRANCH_RAN) return ran_put(at, name, job_main, counter_main, further);
    if (kind == BRANCH_COUNTER) {
        value_size = (size_t)(counter_put(value, counter) - value);
        put_size = pb_bytes_size(1, counter_key) + pb_bytes_size(2, value_size);
        ops = pb_bytes_size(2, pb_bytes_size(2, put_size));
    } else {
        if (kind == BRANCH_FINISH) ops += pb_bytes_size(2, delete_op_size(job_key));
        if (kind == BRANCH_ORPHAN || counter_main) ops += pb_bytes_size(2, delete_op_size(counter_key));
    }
    size_t txn = pb_bytes_size(1, job_compare) + pb_bytes_size(1, counter_compare) + ops + further.size;
    at = pb_put_head(at, 2, pb_bytes_size(4, txn));
    at = pb_put_head(at, 4, txn);
    at = compare_put(at, JOBS_PREFIX, JOBS_PREFIX_SIZE, name, job_main);
    at = compare_put(at, COUNTERS_PREFIX, COUNTERS_PREFIX_SIZE, name, counter_main);
    if (kind == BRANCH_COUNTER) {
        at = pb_put_head(at, 2, pb_bytes_size(2, put_size));
        at = pb_put_head(at, 2, put_size);
        at = pb_put_head(at, 1, counter_key);
        at = pb_put_raw(at, COUNTERS_PREFIX, COUNTERS_PREFIX_SIZE);
        at = pb_put_raw(at, name.data, name.size);
        at = pb_put_bytes(at, 2, value, value_size);
        return pb_put_raw(at, further.data, further.size);
    }
    if (kind == BRANCH_FINISH) at = delete_put(at, JOBS_PREFIX, JOBS_PREFIX_SIZE, name);
    if (kind == BRANCH_ORPHAN || counter_main) at = delete_put(at, COUNTERS_PREFIX, COUNTERS_PREFIX_SIZE, name);
    return pb_put_raw(at, further.data, further.size);
}

/* TxnResponse of `count` nested Txns → one byte 0/1 each; -1 if it is no such answer. */
static int outcomes_parse(slice_t body, uint8_t *out, size_t count) {
    pb_in in = pb_open(body);
    pb_field f;
    int got;
    size_t index = 0;
    while ((got = pb_next(&in, &f)) == 1) {
        if (f.number != 3) continue;
        if (f.type != PB_BYTES || index == count) return -1;
        pb_in op = pb_open(f.body);
        pb_field g;
        int found = 0;
        while ((got = pb_next(&op, &g)) == 1)
            if (g.number == 4 && g.type == PB_BYTES) {
                pb_in txn = pb_open(g.body);
                pb_field h;
                found = 1;
                out[index] = 0;
                while ((got = pb_next(&txn, &h)) == 1)
                    if (h.number == 2 && h.type == PB_VARINT) out[index] = h.value != 0;
                if (got < 0) return -1;
            }
        if (got < 0 || !found) return -1;
        index++;
    }
    return got < 0 || index != count ? -1 : 0;
}
#endif
