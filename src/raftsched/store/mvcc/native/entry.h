/* One entry per key: its latest revision, what the newest record says of it, its older revisions, and the key itself.

   Entries live in chunks that never move and are named by a 32-bit handle (offset / 8; 32 GiB of entries). The key is cut into
   a shared prefix (keys of jobs and counters share long ones) and a suffix stored behind the header, so that a lookup has one
   dependent miss. Invariant: a handle stays valid until `entry_free`; 0 is no handle. */
#ifndef RAFTSCHED_ENTRY_H
#define RAFTSCHED_ENTRY_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ENTRY_CHUNK_UNITS 131072u /* of 8 bytes: 1 MiB */
#define ENTRY_CHUNKS_MAX 32768u
#define ENTRY_INLINE_MAX 448u /* a longer suffix has memory of its own */
#define ENTRY_CLASSES 66u     /* sizes in units of 8 bytes */
#define PREFIX_MAX 8192u
#define PREFIX_TABLE 16384u
#define PREFIX_BYTES_MAX 255u
#define PREFIX_COUNTERS 4096u
#define PREFIX_SEEN_MIN 8 /* a prefix is worth its room when this many keys came with it */

/* A revision older than the latest. */
typedef struct __attribute__((packed)) {
    uint64_t main;
    uint32_t sub : 31;
    uint32_t tombstone : 1;
} older_t;

typedef struct {
    uint32_t count, capacity;
    older_t item[];
} history_t;

typedef struct {
    uint64_t main;     /* latest revision: of the newest put, or of the tombstone when dead */
    uint64_t create;   /* 0 when dead */
    int64_t lease;     /* 0 when dead or without */
    history_t *older;  /* ascending (main, sub), all before the latest; NULL = none */
    uint32_t sub;
    uint32_t length;   /* of the suffix, bytes */
    uint64_t version : 44, prefix : 16, dead : 1, dirty : 1, large : 1;
} entry_t;             /* followed by the suffix, or by a pointer to it when `large` */

typedef struct { uint8_t length; uint8_t bytes[PREFIX_BYTES_MAX]; } prefix_t;

typedef struct {
    uint8_t **chunks;
    uint32_t chunk_count, used_units; /* of the last chunk */
    uint32_t free_list[ENTRY_CLASSES];
    prefix_t **prefixes; /* [0] is the empty one */
    uint32_t prefix_count;
    uint16_t *prefix_table;
    uint8_t *prefix_counters;
    size_t large_bytes, history_bytes, prefix_bytes;
    uint64_t seed;
} entries_t;

static inline entry_t *entry_at(const entries_t *entries, uint32_t handle) {
    return (entry_t *)(entries->chunks[handle / ENTRY_CHUNK_UNITS] + (size_t)(handle % ENTRY_CHUNK_UNITS) * 8);
}

/* Header and the start of the suffix may lie in two cache lines. */
static inline void entry_prefetch(const entries_t *entries, uint32_t handle) {
    const entry_t *entry = entry_at(entries, handle);
    __builtin_prefetch(entry);
    __builtin_prefetch(entry + 1);
}

static inline const uint8_t *entry_suffix(const entry_t *entry) {
    const uint8_t *inside = (const uint8_t *)(entry + 1);
    const uint8_t *outside;
    if (!entry->large) return inside;
    memcpy(&outside, inside, sizeof outside);
    return outside;
}

static inline uint32_t entry_key_length(const entries_t *entries, const entry_t *entry) {
    return entries->prefixes[entry->prefix]->length + entry->length;
}

static inline void entry_key_copy(const entries_t *entries, const entry_t *entry, uint8_t *out) {
    const prefix_t *prefix = entries->prefixes[entry->prefix];
    memcpy(out, prefix->bytes, prefix->length);
    memcpy(out + prefix->length, entry_suffix(entry), entry->length);
}

static inline int entry_key_equal(const entries_t *entries, const entry_t *entry, const uint8_t *key, size_t length) {
    const prefix_t *prefix = entries->prefixes[entry->prefix];
    return length == (size_t)prefix->length + entry->length && !memcmp(prefix->bytes, key, prefix->length)
        && !memcmp(entry_suffix(entry), key + prefix->length, entry->length);
}

/* memcmp order of the entry's key against `key`, the shorter first. */
static inline int entry_key_compare(const entries_t *entries, const entry_t *entry, const uint8_t *key, size_t length) {
    const prefix_t *prefix = entries->prefixes[entry->prefix];
    size_t head = prefix->length < length ? prefix->length : length, rest;
    int order = memcmp(prefix->bytes, key, head);
    if (order) return order;
    if (head < prefix->length) return 1;
    rest = length - head;
    order = memcmp(entry_suffix(entry), key + head, entry->length < rest ? entry->length : rest);
    if (order) return order;
    return entry->length < rest ? -1 : entry->length > rest;
}

/* 8 bytes of the key from `depth` on, big-endian, zero-padded. */
static inline uint64_t entry_key_word(const entries_t *entries, const entry_t *entry, size_t depth) {
    const prefix_t *prefix = entries->prefixes[entry->prefix];
    const uint8_t *suffix = entry_suffix(entry);
    size_t total = (size_t)prefix->length + entry->length;
    uint8_t bytes[8] = {0};
    uint64_t word;
    if (depth >= prefix->length && depth + 8 <= total) {
        memcpy(&word, suffix + (depth - prefix->length), 8);
        return __builtin_bswap64(word);
    }
    for (size_t i = 0; i < 8 && depth + i < total; i++)
        bytes[i] = depth + i < prefix->length ? prefix->bytes[depth + i] : suffix[depth + i - prefix->length];
    memcpy(&word, bytes, 8);
    return __builtin_bswap64(word);
}

static inline uint64_t hash_fold(uint64_t a, uint64_t b) {
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* A seeded multiply-and-fold hash: the seed keeps clients from choosing keys that collide. */
static inline uint64_t hash_bytes(const uint8_t *data, size_t length, uint64_t seed) {
    const uint64_t c0 = 0x9e3779b97f4a7c15u, c1 = 0xd6e8feb86659fd93u, c2 = 0xa0761d6478bd642fu;
    uint64_t state = hash_fold(seed ^ c0, c2 ^ length), a, b;
    while (length > 16) {
        memcpy(&a, data, 8);
        memcpy(&b, data + 8, 8);
        state = hash_fold(a ^ c1 ^ seed, b ^ state);
        data += 16;
        length -= 16;
    }
    a = b = 0;
    if (length >= 8) {
        memcpy(&a, data, 8);
        memcpy(&b, data + length - 8, 8);
    } else if (length >= 4) {
        uint32_t low, high;
        memcpy(&low, data, 4);
        memcpy(&high, data + length - 4, 4);
        a = low;
        b = high;
    } else if (length) {
        a = (uint64_t)data[0] << 16 | (uint64_t)data[length / 2] << 8 | data[length - 1];
    }
    return hash_fold(hash_fold(a ^ c1 ^ seed, b ^ state), c2 ^ seed);
}

/* -- prefixes ------------------------------------------------------------------------------------------------------ */

static uint32_t prefix_find(const entries_t *entries, const uint8_t *bytes, uint32_t length, uint64_t hash) {
    for (uint32_t at = (uint32_t)hash % PREFIX_TABLE;; at = (at + 1) % PREFIX_TABLE) {
        uint32_t id = entries->prefix_table[at];
        if (!id) return 0;
        if (entries->prefixes[id]->length == length && !memcmp(entries->prefixes[id]->bytes, bytes, length)) return id;
    }
}

static uint32_t prefix_add(entries_t *entries, const uint8_t *bytes, uint32_t length, uint64_t hash) {
    uint32_t at = (uint32_t)hash % PREFIX_TABLE, id = entries->prefix_count;
    prefix_t *prefix;
    if (id == PREFIX_MAX || !(prefix = malloc(sizeof *prefix - PREFIX_BYTES_MAX + length))) return 0;
    prefix->length = (uint8_t)length;
    memcpy(prefix->bytes, bytes, length);
    while (entries->prefix_table[at]) at = (at + 1) % PREFIX_TABLE;
    entries->prefix_table[at] = (uint16_t)id;
    entries->prefixes[id] = prefix;
    entries->prefix_bytes += length + 1;
    return entries->prefix_count++;
}

/* The prefix for a new key: the longest known one of those that end at its last three separators. One that keeps coming back
   becomes known; their number is bounded, a key without one is stored whole. */
static uint32_t prefix_choose(entries_t *entries, const uint8_t *key, size_t length) {
    size_t end = length < PREFIX_BYTES_MAX ? length : PREFIX_BYTES_MAX;
    for (int tries = 0; tries < 3; tries++) {
        uint64_t hash;
        uint32_t id;
        while (end && key[end - 1] != '/' && key[end - 1] != '|') end--;
        if (end < 4) return 0;
        hash = hash_bytes(key, end, entries->seed);
        if ((id = prefix_find(entries, key, (uint32_t)end, hash))) return id;
        uint8_t *seen = &entries->prefix_counters[(hash >> 32) % PREFIX_COUNTERS];
        if (++*seen >= PREFIX_SEEN_MIN) {
            *seen = 0;
            return prefix_add(entries, key, (uint32_t)end, hash);
        }
        end -= 2; /* "||" is one separator */
    }
    return 0;
}

/* -- allocation ---------------------------------------------------------------------------------------------------- */

static int entries_open(entries_t *entries, uint64_t seed) {
    memset(entries, 0, sizeof *entries);
    entries->seed = seed;
    entries->prefixes = calloc(PREFIX_MAX, sizeof *entries->prefixes);
    entries->prefix_table = calloc(PREFIX_TABLE, sizeof *entries->prefix_table);
    entries->prefix_counters = calloc(PREFIX_COUNTERS, 1);
    entries->chunks = calloc(ENTRY_CHUNKS_MAX, sizeof *entries->chunks);
    if (!entries->prefixes || !entries->prefix_table || !entries->prefix_counters || !entries->chunks) return -1;
    if (!(entries->prefixes[0] = calloc(1, sizeof(prefix_t)))) return -1;
    entries->prefix_count = 1;
    entries->used_units = ENTRY_CHUNK_UNITS;
    return 0;
}

static uint32_t entry_units(uint32_t length) {
    return (uint32_t)(sizeof(entry_t) + (length > ENTRY_INLINE_MAX ? sizeof(uint8_t *) : length) + 7) / 8;
}

static uint32_t entry_reserve(entries_t *entries, uint32_t units) {
    uint32_t handle = entries->free_list[units];
    if (handle) {
        memcpy(&entries->free_list[units], entry_at(entries, handle), sizeof handle);
        return handle;
    }
    if (entries->used_units + units > ENTRY_CHUNK_UNITS) {
        uint8_t *chunk;
        if (entries->chunk_count == ENTRY_CHUNKS_MAX || !(chunk = malloc((size_t)ENTRY_CHUNK_UNITS * 8))) return 0;
        entries->chunks[entries->chunk_count++] = chunk;
        entries->used_units = entries->chunk_count == 1; /* handle 0 means none */
    }
    handle = (entries->chunk_count - 1) * ENTRY_CHUNK_UNITS + entries->used_units;
    entries->used_units += units;
    return handle;
}

/* A zeroed entry that holds `key`; 0 when out of memory. */
static uint32_t entry_new(entries_t *entries, const uint8_t *key, size_t length) {
    uint32_t prefix = prefix_choose(entries, key, length);
    uint32_t head = entries->prefixes[prefix]->length, rest = (uint32_t)length - head;
    uint32_t handle = entry_reserve(entries, entry_units(rest));
    entry_t *entry;
    uint8_t *suffix;
    if (!handle) return 0;
    entry = entry_at(entries, handle);
    memset(entry, 0, sizeof *entry);
    entry->prefix = prefix;
    entry->length = rest;
    suffix = (uint8_t *)(entry + 1);
    if (rest > ENTRY_INLINE_MAX) {
        uint8_t *outside = malloc(rest);
        if (!outside) return 0; /* the room is lost until the process ends, which it is about to */
        memcpy(suffix, &outside, sizeof outside);
        entry->large = 1;
        entries->large_bytes += rest;
        suffix = outside;
    }
    memcpy(suffix, key + head, rest);
    return handle;
}

static void history_free(entries_t *entries, entry_t *entry) {
    if (!entry->older) return;
    entries->history_bytes -= sizeof(history_t) + entry->older->capacity * sizeof(older_t);
    free(entry->older);
    entry->older = NULL;
}

static void entry_free(entries_t *entries, uint32_t handle) {
    entry_t *entry = entry_at(entries, handle);
    uint32_t units = entry_units(entry->length);
    history_free(entries, entry);
    if (entry->large) {
        entries->large_bytes -= entry->length;
        free((void *)entry_suffix(entry));
    }
    memcpy(entry, &entries->free_list[units], sizeof handle);
    entries->free_list[units] = handle;
}

static void entries_close(entries_t *entries) {
    for (uint32_t i = 0; i < entries->chunk_count; i++) free(entries->chunks[i]);
    for (uint32_t i = 0; i < entries->prefix_count; i++) free(entries->prefixes[i]);
    free(entries->chunks);
    free(entries->prefixes);
    free(entries->prefix_table);
    free(entries->prefix_counters);
}

/* -- older revisions ----------------------------------------------------------------------------------------------- */

/* Makes the latest revision an older one, before a new latest is written. */
static int history_push(entries_t *entries, entry_t *entry) {
    history_t *older = entry->older;
    if (!older || older->count == older->capacity) {
        uint32_t capacity = older ? older->capacity + older->capacity / 2 + 1 : 2, had = older ? older->capacity : 0;
        older = realloc(older, sizeof *older + capacity * sizeof(older_t));
        if (!older) return -1;
        if (!entry->older) {
            older->count = 0;
            entries->history_bytes += sizeof *older;
        }
        entries->history_bytes += (capacity - had) * sizeof(older_t);
        older->capacity = capacity;
        entry->older = older;
    }
    older_t *item = &older->item[older->count++];
    item->main = entry->main;
    item->sub = entry->sub;
    item->tombstone = entry->dead;
    return 0;
}

/* Drops the oldest `count` revisions and gives back memory that is no longer worth keeping. */
static void history_drop(entries_t *entries, entry_t *entry, uint32_t count) {
    history_t *older = entry->older;
    if (!count) return;
    older->count -= count;
    if (!older->count) {
        history_free(entries, entry);
        return;
    }
    memmove(older->item, older->item + count, older->count * sizeof(older_t));
    if (older->count < older->capacity / 2) {
        history_t *less = realloc(older, sizeof *older + older->count * sizeof(older_t));
        if (!less) return;
        entries->history_bytes -= (less->capacity - less->count) * sizeof(older_t);
        less->capacity = less->count;
        entry->older = less;
    }
}

/* How many older revisions have main <= revision. */
static inline uint32_t history_until(const history_t *older, uint64_t revision) {
    uint32_t low = 0, high = older ? older->count : 0;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (older->item[middle].main <= revision) low = middle + 1;
        else high = middle;
    }
    return low;
}

typedef struct { uint64_t main; uint32_t sub; uint8_t exists, tombstone, latest; } version_at;

/* The newest revision of the entry with main <= revision. */
static inline version_at entry_version_at(const entry_t *entry, uint64_t revision) {
    version_at found = {0, 0, 0, 0, 0};
    if (entry->main <= revision) {
        found.main = entry->main;
        found.sub = entry->sub;
        found.exists = found.latest = 1;
        found.tombstone = entry->dead;
        return found;
    }
    uint32_t count = history_until(entry->older, revision);
    if (count) {
        const older_t *item = &entry->older->item[count - 1];
        found.main = item->main;
        found.sub = item->sub;
        found.exists = 1;
        found.tombstone = item->tombstone;
    }
    return found;
}

#endif
