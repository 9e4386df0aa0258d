/* The requests of etcd's KV service and the stored KeyValue, decoded into structs that point at their bytes.

   Invariant: spans lie inside the message they were parsed from. A repeated scalar: the last wins. An unknown field is
   skipped, a known one of the wrong wire type is malformed. Must not know: the index. */
#ifndef RAFTSCHED_REQUEST_H
#define RAFTSCHED_REQUEST_H

#include "../../native/wire.h"

typedef struct {
    wire_span key, end;
    int64_t limit, revision, min_mod, max_mod, min_create, max_create;
    int32_t order, target;
    uint8_t serializable, keys_only, count_only;
} range_request;

typedef struct {
    wire_span key, value;
    int64_t lease;
    uint8_t prev_kv, ignore_value, ignore_lease;
} put_request;

typedef struct {
    wire_span key, end;
    uint8_t prev_kv;
} delete_request;

typedef struct {
    wire_span key, end, value;
    int64_t number;
    int32_t result, target;
    uint32_t given; /* which field of the oneof is set: 4 version, 5 create, 6 mod, 7 value, 8 lease; 0 none */
} compare_request;

typedef struct {
    wire_span key, value;
    int64_t create, mod, version, lease;
} key_value;

enum { ORDER_NONE = 0, ORDER_ASCEND = 1, ORDER_DESCEND = 2 };
enum { TARGET_KEY = 0, TARGET_VERSION = 1, TARGET_CREATE = 2, TARGET_MOD = 3, TARGET_VALUE = 4 };
enum { RESULT_EQUAL = 0, RESULT_GREATER = 1, RESULT_LESS = 2, RESULT_NOT_EQUAL = 3 };
enum { COMPARE_VERSION = 0, COMPARE_CREATE = 1, COMPARE_MOD = 2, COMPARE_VALUE = 3, COMPARE_LEASE = 4 };
enum { OP_NONE = 0, OP_RANGE = 1, OP_PUT = 2, OP_DELETE = 3, OP_TXN = 4 };
enum { TXN_COMPARE = 1, TXN_SUCCESS = 2, TXN_FAILURE = 3, TXN_DEPTH_MAX = 128 };

/* The loop that all messages share: `BODY` is a switch over `field` that sets `bad`. */
#define PARSE_FIELDS(message, BODY)                                   \
    wire_reader reader = wire_open(message);                          \
    uint32_t field = 0, type = 0;                                     \
    int more, bad = 0;                                                \
    while ((more = wire_tag(&reader, &field, &type)) == 1 && !bad) {  \
        switch (field) {                                              \
            BODY                                                      \
            default: bad = wire_skip(&reader, field, type);           \
        }                                                             \
        if (bad) return -1;                                           \
    }                                                                 \
    return more;

static int range_parse(wire_span message, range_request *out) {
    memset(out, 0, sizeof *out);
    PARSE_FIELDS(message,
        case 1: bad = wire_take_bytes(&reader, type, &out->key); break;
        case 2: bad = wire_take_bytes(&reader, type, &out->end); break;
        case 3: bad = wire_take_int(&reader, type, &out->limit); break;
        case 4: bad = wire_take_int(&reader, type, &out->revision); break;
        case 5: bad = wire_take_enum(&reader, type, &out->order); break;
        case 6: bad = wire_take_enum(&reader, type, &out->target); break;
        case 7: bad = wire_take_bool(&reader, type, &out->serializable); break;
        case 8: bad = wire_take_bool(&reader, type, &out->keys_only); break;
        case 9: bad = wire_take_bool(&reader, type, &out->count_only); break;
        case 10: bad = wire_take_int(&reader, type, &out->min_mod); break;
        case 11: bad = wire_take_int(&reader, type, &out->max_mod); break;
        case 12: bad = wire_take_int(&reader, type, &out->min_create); break;
        case 13: bad = wire_take_int(&reader, type, &out->max_create); break;)
}

static int put_parse(wire_span message, put_request *out) {
    memset(out, 0, sizeof *out);
    PARSE_FIELDS(message,
        case 1: bad = wire_take_bytes(&reader, type, &out->key); break;
        case 2: bad = wire_take_bytes(&reader, type, &out->value); break;
        case 3: bad = wire_take_int(&reader, type, &out->lease); break;
        case 4: bad = wire_take_bool(&reader, type, &out->prev_kv); break;
        case 5: bad = wire_take_bool(&reader, type, &out->ignore_value); break;
        case 6: bad = wire_take_bool(&reader, type, &out->ignore_lease); break;)
}

static int delete_parse(wire_span message, delete_request *out) {
    memset(out, 0, sizeof *out);
    PARSE_FIELDS(message,
        case 1: bad = wire_take_bytes(&reader, type, &out->key); break;
        case 2: bad = wire_take_bytes(&reader, type, &out->end); break;
        case 3: bad = wire_take_bool(&reader, type, &out->prev_kv); break;)
}

static int compare_parse(wire_span message, compare_request *out) {
    memset(out, 0, sizeof *out);
    PARSE_FIELDS(message,
        case 1: bad = wire_take_enum(&reader, type, &out->result); break;
        case 2: bad = wire_take_enum(&reader, type, &out->target); break;
        case 3: bad = wire_take_bytes(&reader, type, &out->key); break;
        case 4: case 5: case 6: case 8:
            bad = wire_take_int(&reader, type, &out->number);
            out->given = field;
            break;
        case 7:
            bad = wire_take_bytes(&reader, type, &out->value);
            out->given = field;
            break;
        case 64: bad = wire_take_bytes(&reader, type, &out->end); break;)
}

static int key_value_parse(wire_span message, key_value *out) {
    memset(out, 0, sizeof *out);
    PARSE_FIELDS(message,
        case 1: bad = wire_take_bytes(&reader, type, &out->key); break;
        case 2: bad = wire_take_int(&reader, type, &out->create); break;
        case 3: bad = wire_take_int(&reader, type, &out->mod); break;
        case 4: bad = wire_take_int(&reader, type, &out->version); break;
        case 5: bad = wire_take_bytes(&reader, type, &out->value); break;
        case 6: bad = wire_take_int(&reader, type, &out->lease); break;)
}

/* A RequestOp: its kind (OP_*) and the bytes of its message. The same kind twice in one op would have to be merged by
   protobuf's rules; no client writes that, so it is refused as malformed. */
static int op_parse(wire_span message, int *kind, wire_span *body) {
    *kind = OP_NONE;
    body->data = NULL;
    body->length = 0;
    PARSE_FIELDS(message,
        case 1: case 2: case 3: case 4:
            bad = *kind == (int)field ? -1 : wire_take_bytes(&reader, type, body);
            *kind = (int)field;
            break;)
}

static int compaction_parse(wire_span message, int64_t *revision, uint8_t *physical) {
    *revision = 0;
    *physical = 0;
    PARSE_FIELDS(message,
        case 1: bad = wire_take_int(&reader, type, revision); break;
        case 2: bad = wire_take_bool(&reader, type, physical); break;)
}

/* The next sub-message `wanted` (TXN_*) of a TxnRequest that is known to be well formed; 0 at its end. */
static inline int txn_next(wire_reader *reader, uint32_t wanted, wire_span *out) {
    uint32_t field, type;
    while (wire_tag(reader, &field, &type) == 1) {
        if (field == wanted) return wire_bytes(reader, out) == 0;
        if (wire_skip(reader, field, type)) return 0;
    }
    return 0;
}

static int txn_validate(wire_span message, int depth);

static int op_validate(wire_span message, int depth) {
    wire_span body;
    int kind;
    union { range_request range; put_request put; delete_request delete; } parsed;
    if (op_parse(message, &kind, &body)) return -1;
    switch (kind) {
        case OP_RANGE: return range_parse(body, &parsed.range);
        case OP_PUT: return put_parse(body, &parsed.put);
        case OP_DELETE: return delete_parse(body, &parsed.delete);
        case OP_TXN: return txn_validate(body, depth + 1);
        default: return 0;
    }
}

/* 0 if the TxnRequest and all inside it are well formed and nested at most TXN_DEPTH_MAX deep. */
static int txn_validate(wire_span message, int depth) {
    wire_span part;
    compare_request compare;
    if (depth > TXN_DEPTH_MAX) return -1;
    PARSE_FIELDS(message,
        case 1: bad = wire_take_bytes(&reader, type, &part) || compare_parse(part, &compare); break;
        case 2: case 3: bad = wire_take_bytes(&reader, type, &part) || op_validate(part, depth); break;)
}

#endif
