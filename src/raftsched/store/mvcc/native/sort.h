/* Sorting handles by key, for the bottom-up build: multikey quicksort over cached 8-byte words (Bentley and Sedgewick 1997).

   Comparing whole keys would miss the cache twice per comparison; here a key is touched once per 8 bytes of shared prefix. */
#ifndef RAFTSCHED_SORT_H
#define RAFTSCHED_SORT_H

#include "entry.h"

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

static uint64_t sort_pivot(const sort_item *item, size_t count) {
    uint64_t a = item[count / 8].word, b = item[count / 2].word, c = item[count - count / 8 - 1].word;
    if (a > b) { uint64_t kept = a; a = b; b = kept; }
    return c < a ? a : c > b ? b : c;
}

static void sort_items(const entries_t *entries, sort_item *item, size_t count, size_t depth) {
    while (count > 24) {
        uint64_t pivot = sort_pivot(item, count);
        size_t less = 0, at = 0, greater = count;
        while (at < greater) {
            if (item[at].word < pivot) sort_swap(&item[less++], &item[at++]);
            else if (item[at].word > pivot) sort_swap(&item[at], &item[--greater]);
            else at++;
        }
        sort_items(entries, item, less, depth);
        sort_items(entries, item + greater, count - greater, depth);
        depth = sort_shared(entries, item + less, greater - less, depth);
        size_t ended = sort_deepen(entries, item + less, greater - less, depth);
        item += less + ended;
        count = greater - less - ended;
    }
    sort_insertion(entries, item, count, depth);
}

/* Orders `count` handles of distinct keys by key; -1 when out of memory. */
static int sort_handles(const entries_t *entries, uint32_t *handle, size_t count) {
    sort_item *item = malloc((count ? count : 1) * sizeof *item);
    if (!item) return -1;
    for (size_t i = 0; i < count; i++) {
        if (i + 12 < count) entry_prefetch(entries, handle[i + 12]);
        item[i].handle = handle[i];
        item[i].word = entry_key_word(entries, entry_at(entries, handle[i]), 0);
    }
    sort_items(entries, item, count, 0);
    for (size_t i = 0; i < count; i++) handle[i] = item[i].handle;
    free(item);
    return 0;
}

#endif
