/* What the door refuses before a request is proposed: etcd's argument checks, as EtcdError numbers. No state. */
#ifndef RAFTSCHED_CHECK_H
#define RAFTSCHED_CHECK_H

#include "intervals.h"
#include "request.h"

enum {
    CHECK_OK = 0, CHECK_KEY_NOT_PROVIDED = 1, CHECK_KEY_NOT_FOUND = 2, CHECK_VALUE_PROVIDED = 3, CHECK_LEASE_PROVIDED = 4,
    CHECK_TOO_MANY_OPS = 5, CHECK_DUPLICATE_KEY = 6, CHECK_INVALID_SORT_OPTION = 7, CHECK_MALFORMED = 41
};
enum { COST_PUT_OVERHEAD_BYTES = 256, COST_LEASE_BYTES = 64 }; /* etcd's kvOverhead and leaseOverhead */

static int check_range(wire_span message) {
    range_request request;
    if (range_parse(message, &request)) return CHECK_MALFORMED;
    if (!request.key.length) return CHECK_KEY_NOT_PROVIDED;
    if (request.order < ORDER_NONE || request.order > ORDER_DESCEND) return CHECK_INVALID_SORT_OPTION;
    if (request.target < TARGET_KEY || request.target > TARGET_VALUE) return CHECK_INVALID_SORT_OPTION;
    return CHECK_OK;
}

static int check_put(wire_span message) {
    put_request request;
    if (put_parse(message, &request)) return CHECK_MALFORMED;
    if (!request.key.length) return CHECK_KEY_NOT_PROVIDED;
    if (request.ignore_value && request.value.length) return CHECK_VALUE_PROVIDED;
    if (request.ignore_lease && request.lease) return CHECK_LEASE_PROVIDED;
    return CHECK_OK;
}

static int check_delete(wire_span message) {
    delete_request request;
    if (delete_parse(message, &request)) return CHECK_MALFORMED;
    return request.key.length ? CHECK_OK : CHECK_KEY_NOT_PROVIDED;
}

#define TXN_PARSE_DEPTH_MAX 4999 /* Go's are 10000 messages, of which a level is two */

static int check_txn_ops(wire_span txn, int64_t budget);

static int check_op(wire_span op, int64_t budget) {
    wire_span body;
    int kind;
    if (op_parse(op, &kind, &body)) return CHECK_MALFORMED;
    switch (kind) {
        case OP_RANGE: return check_range(body);
        case OP_PUT: return check_put(body);
        case OP_DELETE: return check_delete(body);
        case OP_TXN: return check_txn_ops(body, budget);
        default: return CHECK_KEY_NOT_FOUND; /* an empty oneof, as etcd answers it */
    }
}

/* Counts of compares, success and failure; the largest is what a nested transaction's budget is lessened by. */
static int64_t txn_widest(wire_span txn) {
    int64_t count[4] = {0, 0, 0, 0}, widest = 0;
    uint32_t field, type;
    wire_reader reader = wire_open(txn);
    while (wire_tag(&reader, &field, &type) == 1 && !wire_skip(&reader, field, type))
        if (field <= TXN_FAILURE) count[field]++;
    for (int i = TXN_COMPARE; i <= TXN_FAILURE; i++)
        if (count[i] > widest) widest = count[i];
    return widest;
}

static int check_txn_ops(wire_span txn, int64_t budget) {
    wire_span part;
    int64_t widest = txn_widest(txn);
    if (widest > budget) return CHECK_TOO_MANY_OPS;
    wire_reader reader = wire_open(txn);
    while (txn_next(&reader, TXN_COMPARE, &part)) {
        compare_request compare;
        if (compare_parse(part, &compare)) return CHECK_MALFORMED;
        if (!compare.key.length) return CHECK_KEY_NOT_PROVIDED;
    }
    for (uint32_t which = TXN_SUCCESS; which <= TXN_FAILURE; which++) {
        reader = wire_open(txn);
        while (txn_next(&reader, which, &part)) {
            int error = check_op(part, budget - widest);
            if (error) return error;
        }
    }
    return CHECK_OK;
}

/* 0 if a TxnRequest is well formed, however deep it nests, up to where Go's own parser gives up. Without recursion, for that is deep. */
static int txn_well_formed(wire_span message) {
    wire_reader *levels = (wire_reader *)malloc(TXN_PARSE_DEPTH_MAX * sizeof *levels);
    int depth = 0, bad = !levels;
    if (levels) levels[0] = wire_open(message);
    while (depth >= 0 && !bad) {
        wire_reader *reader = &levels[depth];
        uint32_t field = 0, type = 0;
        wire_span part, body;
        compare_request compare;
        int kind, more = wire_tag(reader, &field, &type);
        if (more < 1) {
            bad = more;
            depth--;
        } else if (field == TXN_COMPARE) {
            bad = wire_take_bytes(reader, type, &part) || compare_parse(part, &compare);
        } else if (field != TXN_SUCCESS && field != TXN_FAILURE) {
            bad = wire_skip(reader, field, type);
        } else if (!(bad = wire_take_bytes(reader, type, &part) || op_parse(part, &kind, &body))) {
            if (kind != OP_TXN) bad = op_validate(part, 1);
            else if (!(bad = ++depth == TXN_PARSE_DEPTH_MAX)) levels[depth] = wire_open(body);
        }
    }
    free(levels);
    return bad;
}

/* Of what was not taken for a transaction: nested too deep is too many operations, unless something before that is wrong. */
static int check_deep(wire_span txn, int64_t ops_max) {
    if (txn_well_formed(txn)) return CHECK_MALFORMED;
    int error = check_txn_ops(txn, ops_max < TXN_DEPTH_MAX ? ops_max : TXN_DEPTH_MAX);
    return error ? error : CHECK_TOO_MANY_OPS;
}

/* -1 when out of memory. */
static int check_txn(wire_span txn, int64_t ops_max, uint64_t seed) {
    if (txn_validate(txn, 1)) return check_deep(txn, ops_max);
    int error = check_txn_ops(txn, ops_max);
    return error ? error : txn_check_intervals(txn, seed);
}

/* 0 = writes or nests, 1 = only ranges, 2 = only serializable ranges, or none at all. */
static int txn_read_only(wire_span txn) {
    int answer = 2;
    for (uint32_t which = TXN_SUCCESS; which <= TXN_FAILURE; which++) {
        wire_reader reader = wire_open(txn);
        wire_span op, body;
        range_request request;
        int kind;
        while (txn_next(&reader, which, &op)) {
            if (op_parse(op, &kind, &body) || kind != OP_RANGE || range_parse(body, &request)) return 0;
            if (!request.serializable) answer = 1;
        }
    }
    return answer;
}

static uint64_t put_cost(wire_span message) {
    put_request request;
    if (put_parse(message, &request)) return 0;
    return COST_PUT_OVERHEAD_BYTES + request.key.length + request.value.length;
}

/* etcd's costTxn: the dearer branch; reads and deletes are free. */
static uint64_t txn_cost(wire_span txn) {
    uint64_t cost[2] = {0, 0};
    for (uint32_t which = TXN_SUCCESS; which <= TXN_FAILURE; which++) {
        wire_reader reader = wire_open(txn);
        wire_span op, body;
        int kind;
        while (txn_next(&reader, which, &op)) {
            if (op_parse(op, &kind, &body)) continue;
            if (kind == OP_PUT) cost[which - TXN_SUCCESS] += put_cost(body);
            else if (kind == OP_TXN) cost[which - TXN_SUCCESS] += txn_cost(body);
        }
    }
    return cost[0] > cost[1] ? cost[0] : cost[1];
}

#endif
