/* Responses on their way out: a growing buffer with nested messages, and the key-values that a range found.

   Stored KeyValue bytes are copied as they are; only keys_only answers are written anew, in the canonical encoding. */
#ifndef RAFTSCHED_ANSWER_H
#define RAFTSCHED_ANSWER_H

#include "core.h"

typedef struct { uint8_t *data; size_t length, capacity; } buffer_t;

/* One found key: where its record lies, and, when sorting, filtering or stripping asks for it, what the record says. */
typedef struct {
    uint64_t main, create, version;
    int64_t lease;
    const uint8_t *data; /* the stored KeyValue; NULL = not fetched */
    const uint8_t *value;
    size_t value_length;
    uint32_t length, sub, handle;
    uint8_t latest;
} item_t;

typedef struct { item_t *item; size_t count, capacity; } items_t;

static int buffer_room(buffer_t *buffer, size_t length) {
    size_t capacity = buffer->capacity * 2, wanted = buffer->length + length;
    uint8_t *data;
    if (wanted <= buffer->capacity) return 0;
    if (capacity < wanted) capacity = wanted + 256;
    if (!(data = realloc(buffer->data, capacity))) return -1;
    buffer->data = data;
    buffer->capacity = capacity;
    return 0;
}

/* Starts a nested message; one byte is kept for its length. The answer is for buffer_end; call buffer_room first. */
static inline size_t buffer_begin(buffer_t *buffer, uint8_t tag) {
    buffer->data[buffer->length++] = tag;
    return ++buffer->length;
}

static int buffer_end(buffer_t *buffer, size_t start) {
    size_t length = buffer->length - start, more = wire_varint_size(length) - 1;
    if (more) {
        if (buffer_room(buffer, more)) return -1;
        memmove(buffer->data + start + more, buffer->data + start, length);
        buffer->length += more;
    }
    wire_put_varint(buffer->data + start - 1, length);
    return 0;
}

static inline void buffer_int(buffer_t *buffer, uint8_t tag, uint64_t value) {
    buffer->length = (size_t)(wire_put_int(buffer->data + buffer->length, tag, value) - buffer->data);
}

static item_t *items_add(items_t *items) {
    if (items->count == items->capacity) {
        size_t capacity = items->capacity ? items->capacity * 2 : 64;
        item_t *item = realloc(items->item, capacity * sizeof *item);
        if (!item) return NULL;
        items->item = item;
        items->capacity = capacity;
    }
    return &items->item[items->count++];
}

static void items_free(items_t *items) {
    free(items->item);
    memset(items, 0, sizeof *items);
}

static int number_compare(uint64_t a, uint64_t b) { return a < b ? -1 : a > b; }

static int item_compare(const item_t *a, const item_t *b, int target) {
    switch (target) {
        case TARGET_VERSION: return number_compare(a->version, b->version);
        case TARGET_CREATE: return number_compare(a->create, b->create);
        case TARGET_MOD: return number_compare(a->main, b->main);
        default: {
            wire_span left = {a->value, a->value_length}, right = {b->value, b->value_length};
            size_t shorter = left.length < right.length ? left.length : right.length;
            int order = shorter ? memcmp(left.data, right.data, shorter) : 0;
            return order ? order : number_compare(left.length, right.length);
        }
    }
}

/* Merge sort of items in key order; ties stay in key order, whatever the direction. -1 when out of memory. */
static int items_sort(items_t *items, int target, int descending) {
    size_t count = items->count;
    if (target == TARGET_KEY) {
        for (size_t i = 0; descending && i < count / 2; i++) {
            item_t kept = items->item[i];
            items->item[i] = items->item[count - 1 - i];
            items->item[count - 1 - i] = kept;
        }
        return 0;
    }
    item_t *from = items->item, *to = malloc((count ? count : 1) * sizeof *to);
    if (!to) return -1;
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t start = 0; start < count; start += 2 * width) {
            size_t middle = start + width < count ? start + width : count;
            size_t end = start + 2 * width < count ? start + 2 * width : count;
            size_t left = start, right = middle;
            for (size_t at = start; at < end; at++) {
                int take_left = right == end;
                if (!take_left && left < middle) {
                    int order = item_compare(&from[left], &from[right], target);
                    take_left = descending ? order >= 0 : order <= 0;
                }
                to[at] = take_left ? from[left++] : from[right++];
            }
        }
        item_t *swapped = from;
        from = to;
        to = swapped;
    }
    if (from != items->item) {
        items->item = from;
        items->capacity = count ? count : 1;
    }
    free(to);
    return 0;
}

/* etcd's four filters, in its order; 0 = off. */
static void items_filter(items_t *items, const range_request *request) {
    size_t kept = 0;
    for (size_t i = 0; i < items->count; i++) {
        int64_t mod = (int64_t)items->item[i].main, create = (int64_t)items->item[i].create;
        if (request->max_mod && mod > request->max_mod) continue;
        if (request->min_mod && mod < request->min_mod) continue;
        if (request->max_create && create > request->max_create) continue;
        if (request->min_create && create < request->min_create) continue;
        items->item[kept++] = items->item[i];
    }
    items->count = kept;
}

/* -- key-values ---------------------------------------------------------------------------------------------------- */

static inline size_t key_value_size(size_t key, uint64_t create, uint64_t mod, uint64_t version, size_t value, int64_t lease) {
    return wire_bytes_size(key) + wire_int_size(create) + wire_int_size(mod) + wire_int_size(version)
        + (value ? wire_bytes_size(value) : 0) + wire_int_size((uint64_t)lease);
}

static inline uint8_t *key_value_write(uint8_t *at, wire_span key, uint64_t create, uint64_t mod, uint64_t version, wire_span value, int64_t lease) {
    at = wire_put_bytes(at, 0x0a, key.data, key.length);
    at = wire_put_int(at, 0x10, create);
    at = wire_put_int(at, 0x18, mod);
    at = wire_put_int(at, 0x20, version);
    if (value.length) at = wire_put_bytes(at, 0x2a, value.data, value.length);
    return wire_put_int(at, 0x30, (uint64_t)lease);
}

static size_t item_size(const core_t *core, const item_t *item, int stripped) {
    if (!stripped) return item->length;
    size_t key = entry_key_length(&core->index.entries, core_entry(core, item->handle));
    return key_value_size(key, item->create, item->main, item->version, 0, item->lease);
}

static uint8_t *item_write(const core_t *core, const item_t *item, int stripped, uint8_t *at) {
    if (!stripped) {
        memcpy(at, item->data, item->length);
        return at + item->length;
    }
    const entry_t *entry = core_entry(core, item->handle);
    size_t length = entry_key_length(&core->index.entries, entry);
    at = wire_put_length(at, 0x0a, length);
    entry_key_copy(&core->index.entries, entry, at);
    at = wire_put_int(at + length, 0x10, item->create);
    at = wire_put_int(at, 0x18, item->main);
    at = wire_put_int(at, 0x20, item->version);
    return wire_put_int(at, 0x30, (uint64_t)item->lease);
}

/* All items as repeated message fields with `tag`. */
static size_t items_size(const core_t *core, const items_t *items, int stripped) {
    size_t size = 0;
    for (size_t i = 0; i < items->count; i++) size += wire_bytes_size(item_size(core, &items->item[i], stripped));
    return size;
}

static uint8_t *items_write(const core_t *core, const items_t *items, uint8_t tag, int stripped, uint8_t *at) {
    for (size_t i = 0; i < items->count; i++) {
        at = wire_put_length(at, tag, item_size(core, &items->item[i], stripped));
        at = item_write(core, &items->item[i], stripped, at);
    }
    return at;
}

/* -- HashKV -------------------------------------------------------------------------------------------------------- */

typedef struct { uint64_t main; uint32_t sub; } place_t;

static int place_compare(const void *a, const void *b) {
    const place_t *x = a, *y = b;
    if (x->main != y->main) return x->main < y->main ? -1 : 1;
    return x->sub < y->sub ? -1 : x->sub > y->sub;
}

#endif
