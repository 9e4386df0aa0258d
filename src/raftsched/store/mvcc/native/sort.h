/* Sorting handles by key, for the bottom-up build: radix sort, most significant byte first, over cached 8-byte words of the keys.

   Comparing whole keys would miss the cache twice per comparison; here a key is touched once per 8 bytes of shared prefix, and, as
   the sort is stable and handles come in the order of their entries, most of these touches walk through memory forwards. */
#ifndef RAFTSCHED_SORT_H
#define RAFTSCHED_SORT_H

#include "entry.h"

#define SORT_SMALL 24

typedef struct { uint64_t word; uint32_t handle; } sort_item;

static int sort_compare(const entries_t *entries, uint32_t a, uint32_t b, size_t depth) {
    const entry_t *left = entry_at(entries, a), *right = entry_at(entries, b);
    size_t left_length = entry_key_length(entries, left), right_length = entry_key_length(entries, right);
    for (; depth < left_length && depth < right_length; depth += 8) {
        uint64_t x = entry_key_word(entries, left, depth), y = entry_key_word(entries, right, depth);
        if (x != y) return x < y ? -1 : 1;
    }
    return left_length < right_length ? -1 : left_length > right_length;
}

static void sort_insertion(const entries_t *entries, sort_item *item, size_t count, size_t depth) {
    for (size_t i = 1; i < count; i++) {
        sort_item moving = item[i];
        size_t k = i;
        for (; k; k--) {
            sort_item *before = &item[k - 1];
            if (before->word < moving.word) break;
            if (before->word == moving.word && sort_compare(entries, before->handle, moving.handle, depth) < 0) break;
            item[k] = *before;
        }
        item[k] = moving;
    }
}

static void sort_swap(sort_item *a, sort_item *b) {
    sort_item kept = *a;
    *a = *b;
    *b = kept;
}

/* How deep the keys, which agree up to depth + 8, are known to agree: a large group often shares its stored prefix whole, and
   then one look at each key is enough for it. */
static size_t sort_shared(const entries_t *entries, const sort_item *item, size_t count, size_t depth) {
    unsigned prefix = entry_at(entries, item[0].handle)->prefix;
    size_t length = entries->prefixes[prefix]->length;
    if (count < 1024 || length < depth + 24) return depth + 8;
    for (size_t i = 1; i < count; i++) {
        if (i + 12 < count) entry_prefetch(entries, item[i + 12].handle);
        if (entry_at(entries, item[i].handle)->prefix != prefix) return depth + 8;
    }
    return length;
}

/* Loads the words at `depth`, up to which all keys agree (zero-padded). Those that end there go first, by length; how many. */
static size_t sort_deepen(const entries_t *entries, sort_item *item, size_t count, size_t depth) {
    size_t ended = 0;
    for (size_t i = 0; i < count; i++) {
        if (i + 12 < count) entry_prefetch(entries, item[i + 12].handle);
        const entry_t *entry = entry_at(entries, item[i].handle);
        if (entry_key_length(entries, entry) <= depth) sort_swap(&item[i], &item[ended++]);
        else item[i].word = entry_key_word(entries, entry, depth);
    }
    for (size_t i = 0; i < ended; i++) item[i].word = 0;
    sort_insertion(entries, item, ended, depth); /* at most nine: they differ in trailing zeros alone */
    return ended;
}

/* Deals the items out by the highest byte in which their words differ; where each byte's begin. */
static void sort_deal(sort_item *item, sort_item *spare, size_t count, uint64_t differing, size_t *begin) {
    int shift = (63 - __builtin_clzll(differing)) & ~7;
    size_t next[256] = {0}, sum = 0;
    for (size_t i = 0; i < count; i++) next[item[i].word >> shift & 255]++;
    for (int byte = 0; byte < 256; byte++) {
        size_t these = next[byte];
        begin[byte] = next[byte] = sum;
        sum += these;
    }
    begin[256] = count;
    for (size_t i = 0; i < count; i++) spare[next[item[i].word >> shift & 255]++] = item[i];
    memcpy(item, spare, count * sizeof *item);
}

/* All keys agree up to `depth`; their words there are loaded. Recurses into all parts but the largest: no deeper than log2(count). */
static void sort_items(const entries_t *entries, sort_item *item, sort_item *spare, size_t count, size_t depth) {
    size_t begin[257];
    while (count > SORT_SMALL) {
        uint64_t differing = 0;
        for (size_t i = 1; i < count; i++) differing |= item[i].word ^ item[0].word;
        if (!differing) {
            depth = sort_shared(entries, item, count, depth);
            size_t ended = sort_deepen(entries, item, count, depth);
            item += ended;
            count -= ended;
            continue;
        }
        sort_deal(item, spare, count, differing, begin);
        int largest = 0;
        for (int byte = 1; byte < 256; byte++)
            if (begin[byte + 1] - begin[byte] > begin[largest + 1] - begin[largest]) largest = byte;
        for (int byte = 0; byte < 256; byte++)
            if (byte != largest && begin[byte + 1] > begin[byte] + 1)
                sort_items(entries, item + begin[byte], spare, begin[byte + 1] - begin[byte], depth);
        count = begin[largest + 1] - begin[largest];
        item += begin[largest];
    }
    sort_insertion(entries, item, count, depth);
}

/* Orders `count` handles of distinct keys by key; -1 when out of memory. */
static int sort_handles(const entries_t *entries, uint32_t *handle, size_t count) {
    sort_item *item = malloc((count ? count : 1) * 2 * sizeof *item);
    if (!item) return -1;
    for (size_t i = 0; i < count; i++) {
        if (i + 12 < count) entry_prefetch(entries, handle[i + 12]);
        item[i].handle = handle[i];
        item[i].word = entry_key_word(entries, entry_at(entries, handle[i]), 0);
    }
    sort_items(entries, item, item + count, count, 0);
    for (size_t i = 0; i < count; i++) handle[i] = item[i].handle;
    free(item);
    return 0;
}

#endif
