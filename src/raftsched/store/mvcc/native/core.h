/* The native state of the store: the index, what is superseded, and which keys compaction has work on.

   Invariant: `superseded` = older revisions of all entries + entries whose latest is a tombstone; an entry with any of those is
   in `dirty`, once. Must not know: where records lie, leases, requests. */
#ifndef RAFTSCHED_CORE_H
#define RAFTSCHED_CORE_H

#include "index.h"
#include "request.h"

#define SAMPLE_EVERY 256u /* superseded records between two samples: how finely the history bound cuts */
#define SAMPLES_MAX 16384u
#define LOAD_AHEAD 16u

typedef struct { uint64_t main, ever; } sample_t;

typedef struct {
    index_t index;
    uint64_t keys, superseded, superseded_ever;
    uint32_t *dirty;
    size_t dirty_count, dirty_capacity;
    size_t scrub_left; /* entries of `dirty` that the present compaction has not looked at */
    uint32_t named_handle, named; /* the key whose oldest revisions are being named, and how many are */
    sample_t *sample;  /* ascending: when `superseded_ever` was reached */
    uint32_t sample_count;
} core_t;

static int core_open(core_t *core, uint64_t seed) {
    memset(core, 0, sizeof *core);
    if (!(core->sample = malloc(SAMPLES_MAX * sizeof *core->sample))) return -1;
    return index_open(&core->index, seed);
}

static void core_close(core_t *core) {
    index_close(&core->index);
    free(core->dirty);
    free(core->sample);
}

static inline entry_t *core_entry(const core_t *core, uint32_t handle) { return entry_at(&core->index.entries, handle); }

static int core_mark_dirty(core_t *core, uint32_t handle) {
    entry_t *entry = core_entry(core, handle);
    if (entry->dirty) return 0;
    if (core->dirty_count == core->dirty_capacity) {
        size_t capacity = core->dirty_capacity ? core->dirty_capacity * 2 : 1024;
        uint32_t *dirty = realloc(core->dirty, capacity * sizeof *dirty);
        if (!dirty) return -1;
        core->dirty = dirty;
        core->dirty_capacity = capacity;
    }
    entry->dirty = 1;
    core->dirty[core->dirty_count++] = handle;
    return 0;
}

static void core_count_superseded(core_t *core, uint64_t main) {
    core->superseded++;
    if (++core->superseded_ever % SAMPLE_EVERY) return;
    if (core->sample_count == SAMPLES_MAX) { /* keep every second one: coarser, but bounded */
        for (uint32_t i = 0; i < SAMPLES_MAX / 2; i++) core->sample[i] = core->sample[2 * i + 1];
        core->sample_count = SAMPLES_MAX / 2;
    }
    core->sample[core->sample_count].main = main;
    core->sample[core->sample_count++].ever = core->superseded_ever;
}

/* Records a put at (main, sub); `create` and `version` are the record's. -1 when out of memory. */
static int core_put(core_t *core, uint32_t handle, int fresh, uint64_t main, uint32_t sub, uint64_t create, uint64_t version, int64_t lease) {
    entry_t *entry = core_entry(core, handle);
    if (fresh || entry->dead) core->keys++;
    if (!fresh) {
        if (history_push(&core->index.entries, entry) || core_mark_dirty(core, handle)) return -1;
        if (!entry->dead) core_count_superseded(core, main); /* a tombstone was counted when it was written */
    }
    entry->main = main;
    entry->sub = sub;
    entry->create = create;
    entry->version = version;
    entry->lease = lease;
    entry->dead = 0;
    return 0;
}

/* Records a tombstone at (main, sub). A fresh entry: its puts were compacted away. */
static int core_delete(core_t *core, uint32_t handle, int fresh, uint64_t main, uint32_t sub) {
    entry_t *entry = core_entry(core, handle);
    if (!fresh && history_push(&core->index.entries, entry)) return -1;
    if (core_mark_dirty(core, handle)) return -1;
    if (!fresh && !entry->dead) {
        core->keys--;
        core_count_superseded(core, main);
    }
    core_count_superseded(core, main);
    entry->main = main;
    entry->sub = sub;
    entry->create = entry->version = 0;
    entry->lease = 0;
    entry->dead = 1;
    return 0;
}

/* Records on their way into the index at start. The bucket of each is asked for some records before it is needed. */
typedef struct {
    uint64_t main, hash;
    key_value kv;
    uint32_t sub;
    uint8_t tombstone;
} loading_t;

typedef struct {
    core_t *core;
    loading_t ahead[LOAD_AHEAD];
    uint32_t begun, done; /* counts; their difference waits in `ahead` */
    uint64_t main;        /* last record seen */
    uint32_t sub;
    uint32_t *handle; /* of every entry, as they were made */
    size_t handle_count, handle_capacity;
} load_t;

static int load_note(load_t *load, uint32_t handle) {
    if (load->handle_count == load->handle_capacity) {
        size_t capacity = load->handle_capacity ? load->handle_capacity * 2 : 4096;
        uint32_t *more = realloc(load->handle, capacity * sizeof *more);
        if (!more) return -1;
        load->handle = more;
        load->handle_capacity = capacity;
    }
    load->handle[load->handle_count++] = handle;
    return 0;
}

static int load_oldest(load_t *load) {
    core_t *core = load->core;
    loading_t *one = &load->ahead[load->done++ % LOAD_AHEAD];
    int fresh;
    uint32_t handle = index_add(&core->index, one->kv.key, one->hash, 1, &fresh);
    if (!handle || (fresh && load_note(load, handle))) return -1;
    if (one->tombstone) return core_delete(core, handle, fresh, one->main, one->sub);
    return core_put(core, handle, fresh, one->main, one->sub, (uint64_t)one->kv.create, (uint64_t)one->kv.version, one->kv.lease);
}

/* One record of the source, in ascending order; its bytes stay where they are until the load has ended.
   0, -1 = out of memory, -2 = no KeyValue. */
static int load_record(load_t *load, uint64_t main, uint32_t sub, int tombstone, const uint8_t *value, size_t length) {
    loading_t *one = &load->ahead[load->begun % LOAD_AHEAD];
    wire_span message = {value, length};
    load->main = main;
    load->sub = sub;
    if (load->begun - load->done == LOAD_AHEAD && load_oldest(load)) return -1;
    if (key_value_parse(message, &one->kv)) return -2;
    if (!one->kv.key.length) return 0; /* the empty record that `etcdutl snapshot restore --bump-revision` writes */
    one->main = main;
    one->sub = sub;
    one->tombstone = (uint8_t)tombstone;
    one->hash = index_hash(&load->core->index, one->kv.key);
    table_prefetch(&load->core->index.table, one->hash);
    load->begun++;
    return 0;
}

/* All records were seen: the last of them, and the tree. What is left of `handle` are those of keys with a lease, in key order. */
static int load_finish(load_t *load) {
    uint32_t *leased;
    size_t count = 0;
    while (load->done != load->begun)
        if (load_oldest(load)) return -1;
    for (size_t i = 0; i < load->handle_count; i++) count += core_entry(load->core, load->handle[i])->lease != 0;
    if (!(leased = malloc((count + 1) * sizeof *leased))) return -1;
    count = 0;
    for (size_t i = 0; i < load->handle_count; i++)
        if (core_entry(load->core, load->handle[i])->lease) leased[count++] = load->handle[i];
    int status = index_build(&load->core->index, load->handle, load->handle_count);
    free(load->handle);
    load->handle = leased;
    load->handle_count = count;
    return status || sort_handles(&load->core->index.entries, leased, count) ? -1 : 0;
}

/* The oldest revision to compact to so that about `kept_max` superseded records stay at most; 0 = nothing to do. */
static uint64_t core_revision_keeping(const core_t *core, uint64_t kept_max) {
    uint32_t low = 0, high = core->sample_count;
    if (core->superseded <= kept_max) return 0;
    uint64_t wanted = core->superseded_ever - kept_max;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (core->sample[middle].ever < wanted) low = middle + 1;
        else high = middle;
    }
    return low < core->sample_count ? core->sample[low].main + 1 : UINT64_MAX; /* + 1: a tombstone at the revision itself stays */
}

static void core_begin_scrub(core_t *core, uint64_t revision) {
    uint32_t gone = 0;
    core->scrub_left = core->dirty_count;
    while (gone < core->sample_count && core->sample[gone].main < revision) gone++;
    core->sample_count -= gone;
    memmove(core->sample, core->sample + gone, core->sample_count * sizeof *core->sample);
}

/* How many of the oldest older revisions compaction at `revision` drops; `*all` = the latest, a tombstone, goes too.
   etcd's rule: per key the newest <= revision stays if it is a put, or a tombstone at exactly that revision. */
static uint32_t entry_compactable(const entry_t *entry, uint64_t revision, int *all) {
    *all = 0;
    if (entry->main <= revision) {
        *all = entry->dead && entry->main < revision;
        return entry->older ? entry->older->count : 0;
    }
    uint32_t until = history_until(entry->older, revision);
    if (!until) return 0;
    const older_t *newest = &entry->older->item[until - 1];
    return newest->tombstone && newest->main < revision ? until : until - 1;
}

static void core_drop_older(core_t *core, entry_t *entry, uint32_t count) {
    core->superseded -= count;
    history_drop(&core->index.entries, entry, count);
}

/* Forgets a key whose latest, a tombstone, was compacted; its older revisions are gone already. */
static int core_drop_entry(core_t *core, uint32_t handle) {
    if (index_drop(&core->index, handle)) return -1;
    core->superseded--;
    return 0;
}

/* Takes `dirty[position]` out of the list; what moves into its place was added later. */
static void core_clean(core_t *core, size_t position) { core->dirty[position] = core->dirty[--core->dirty_count]; }

static inline uint32_t core_find(const core_t *core, wire_span key) { return index_find(&core->index, key); }
static inline uint32_t core_add(core_t *core, wire_span key, int *fresh) { return index_add(&core->index, key, index_hash(&core->index, key), 0, fresh); }
static inline uint32_t core_walk_next(const core_t *core, index_walk *walk) { return index_walk_next(&core->index, walk); }

static inline void core_walk_from(const core_t *core, wire_span start, wire_span end, index_walk *walk) {
    index_walk_from(&core->index, start, end, walk);
}

static inline size_t core_key_length(const core_t *core, const entry_t *entry) { return entry_key_length(&core->index.entries, entry); }

static inline void core_key_copy(const core_t *core, const entry_t *entry, uint8_t *out) {
    entry_key_copy(&core->index.entries, entry, out);
}

static size_t core_index_bytes(const core_t *core, size_t *table, size_t *tree, size_t *history, size_t *other) {
    const entries_t *entries = &core->index.entries;
    *table = core->index.table.segment_count * sizeof(segment_t) + (sizeof(segment_t *) << core->index.table.depth);
    *tree = core->index.tree.leaf_count * sizeof(leaf_t) + core->index.tree.inner_count * sizeof(inner_t);
    *history = entries->history_bytes;
    *other = core->dirty_capacity * sizeof *core->dirty + SAMPLES_MAX * sizeof *core->sample + entries->prefix_bytes
        + PREFIX_MAX * sizeof *entries->prefixes + PREFIX_TABLE * sizeof *entries->prefix_table + PREFIX_COUNTERS
        + ENTRY_CHUNKS_MAX * sizeof *entries->chunks;
    return (size_t)entries->chunk_count * ENTRY_CHUNK_UNITS * 8 + entries->large_bytes;
}

#endif
