/* The key index: entries, the table for points and the tree for ranges, kept in step.

   Invariant: an entry is in the table and in the tree from `index_add` to `index_drop`, also while its key is deleted but has
   history that can still be read. Must not know: records, requests, leases. */
#ifndef RAFTSCHED_INDEX_H
#define RAFTSCHED_INDEX_H

#include "../../native/wire.h"
#include "sort.h"
#include "table.h"
#include "tree.h"

typedef struct {
    entries_t entries;
    table_t table;
    tree_t tree;
} index_t;

/* A walk over the entries of a range in key order. */
typedef struct { const leaf_t *leaf; uint32_t at; wire_span end; int bounded; } index_walk;

static int index_open(index_t *index, uint64_t seed) {
    return entries_open(&index->entries, seed) || table_open(&index->table) || tree_open(&index->tree) ? -1 : 0;
}

static void index_close(index_t *index) {
    if (index->entries.chunks && index->entries.prefixes) {
        uint32_t i;
        for (leaf_t *leaf = index->tree.first_leaf; leaf; leaf = leaf->next)
            for (i = 0; i < leaf->count; i++) {
                entry_t *entry = entry_at(&index->entries, leaf->item[i]);
                history_free(&index->entries, entry);
                if (entry->large) free((void *)entry_suffix(entry));
            }
    }
    tree_close(&index->tree);
    table_close(&index->table);
    entries_close(&index->entries);
}

static inline uint64_t index_hash(const index_t *index, wire_span key) { return hash_bytes(key.data, key.length, index->entries.seed); }

static inline uint32_t index_find(const index_t *index, wire_span key) {
    return table_find(&index->table, &index->entries, key.data, key.length, index_hash(index, key));
}

/* The entry of a key, made if it is new (`*fresh`); in the tree as well unless `table_only` (then index_build follows). */
static uint32_t index_add(index_t *index, wire_span key, uint64_t hash, int table_only, int *fresh) {
    uint32_t handle = table_find(&index->table, &index->entries, key.data, key.length, hash);
    *fresh = !handle;
    if (handle) return handle;
    if (!(handle = entry_new(&index->entries, key.data, key.length))) return 0;
    if (table_insert(&index->table, &index->entries, hash, handle)) return 0;
    if (!table_only && tree_insert(&index->tree, &index->entries, handle, key.data, key.length)) return 0;
    return handle;
}

/* Forgets an entry. -1 only if memory ran out before anything was changed. */
static int index_drop(index_t *index, uint32_t handle) {
    uint64_t hash;
    if (entry_hash(&index->table, &index->entries, handle, &hash)) return -1;
    size_t length = entry_key_length(&index->entries, entry_at(&index->entries, handle));
    tree_remove(&index->tree, &index->entries, handle, index->table.scratch, length); /* entry_hash left the key there */
    table_remove(&index->table, hash, handle);
    entry_free(&index->entries, handle);
    return 0;
}

/* Builds the tree, which must be empty, from the handles of all entries, which are put into key order. */
static int index_build(index_t *index, uint32_t *handle, size_t count) {
    return sort_handles(&index->entries, handle, count) ? -1 : tree_build(&index->tree, handle, count);
}

/* Starts a walk at the first key >= start. `end` as in a RangeRequest: "\0" = no end. */
static void index_walk_from(const index_t *index, wire_span start, wire_span end, index_walk *walk) {
    path_t path;
    tree_seek(&index->tree, &index->entries, start.data, start.length, &path);
    walk->leaf = path.leaf;
    walk->at = path.at;
    walk->end = end;
    walk->bounded = !(end.length == 1 && end.data[0] == 0);
}

/* The next entry of the walk, 0 at its end. The index must not change during a walk. */
static inline uint32_t index_walk_next(const index_t *index, index_walk *walk) {
    while (walk->leaf && walk->at == walk->leaf->count) {
        walk->leaf = walk->leaf->next;
        walk->at = 0;
        /* One comparison with its last key tells whether the whole leaf lies inside. */
        if (walk->bounded && walk->leaf && walk->leaf->count
            && handle_compare(&index->entries, walk->leaf->item[walk->leaf->count - 1], walk->end.data, walk->end.length) < 0)
            walk->bounded = 2;
        else if (walk->bounded) walk->bounded = 1;
    }
    if (!walk->leaf) return 0;
    uint32_t handle = walk->leaf->item[walk->at];
    if (walk->at + 4 < walk->leaf->count) __builtin_prefetch(entry_at(&index->entries, walk->leaf->item[walk->at + 4]));
    if (walk->bounded == 1 && handle_compare(&index->entries, handle, walk->end.data, walk->end.length) >= 0) {
        walk->leaf = NULL;
        return 0;
    }
    walk->at++;
    return handle;
}

#endif
