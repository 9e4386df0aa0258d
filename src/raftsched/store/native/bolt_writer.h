/* A bbolt file out of sorted keys and values, written front to back through one descriptor (etcd-api §3.2, data format 2).
 *
 *   bolt_writer_begin, for each tree: bolt_put … bolt_end_tree, at last the tree of buckets and bolt_finish
 *
 * Pages are numbered as they are written, so everything goes out in order but the two meta pages, which come last. Each level of a tree holds
 * one unfinished page: memory is bounded by the depth and the largest value. No inline buckets, no free pages, the freelist "not stored".
 *
 * Invariant: until bolt_finish has succeeded the file has no meta page and nobody takes it for a database.
 * Never takes the interpreter's lock; knows nothing of what it writes.
 */
#ifndef RAFTSCHED_BOLT_WRITER_H
#define RAFTSCHED_BOLT_WRITER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "bolt_format.h"

#define BOLT_OUT_BYTES (1 << 20)        /* written at a time */
#define BOLT_LOOK_BYTES (16u << 20)     /* between two looks at the free space, and two pushes to the disk */
#define BOLT_WRITER_PAGE 4096u

typedef struct {
    uint8_t *heads, *body; /* element headers; keys and values behind them */
    size_t count, body_used, head_room, body_room;
    size_t first_key; /* length of the first key, which lies at the beginning of body */
} bolt_level_out_t;

/* Asked before each write: a non-zero answer (an errno) ends the work. */
typedef int (*bolt_stop_fn)(void *context);

typedef struct {
    int fd;
    uint64_t reserve_bytes; /* stay free on the file system */
    bolt_stop_fn stop;
    void *stop_context;
    uint64_t next_page;
    uint8_t *out;
    size_t out_used;
    uint64_t written;   /* bytes, from the beginning of the file */
    uint64_t looked_at; /* `written` at the last look */
    bolt_level_out_t levels[BOLT_DEPTH_MAX];
} bolt_writer_t;

static int bolt_write_at(int fd, const uint8_t *data, size_t length, uint64_t offset)
{
    while (length) {
        ssize_t count = pwrite(fd, data, length, (off_t)offset);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count ? errno : EIO;
        data += count;
        offset += (uint64_t)count;
        length -= (size_t)count;
    }
    return 0;
}

/* Now and then: others need the rest of the disk, and one large burst of dirty pages would hold up their syncs. */
static int bolt_look_around(bolt_writer_t *writer)
{
    struct statvfs info;
    if (writer->written - writer->looked_at < BOLT_LOOK_BYTES)
        return 0;
    sync_file_range(writer->fd, (off_t)writer->looked_at, (off_t)(writer->written - writer->looked_at), SYNC_FILE_RANGE_WRITE);
    writer->looked_at = writer->written;
    if (fstatvfs(writer->fd, &info))
        return errno;
    return (uint64_t)info.f_bavail * info.f_frsize < writer->reserve_bytes ? ENOSPC : 0;
}

static int bolt_flush(bolt_writer_t *writer)
{
    int error = writer->stop ? writer->stop(writer->stop_context) : 0;
    if (error || (error = bolt_write_at(writer->fd, writer->out, writer->out_used, writer->written)))
        return error;
    writer->written += writer->out_used;
    writer->out_used = 0;
    return bolt_look_around(writer);
}

static int bolt_emit(bolt_writer_t *writer, const uint8_t *data, size_t length)
{
    while (length) {
        size_t count = BOLT_OUT_BYTES - writer->out_used;
        if (count > length)
            count = length;
        if (data) {
            memcpy(writer->out + writer->out_used, data, count);
            data += count;
        } else {
            memset(writer->out + writer->out_used, 0, count);
        }
        writer->out_used += count;
        length -= count;
        if (writer->out_used == BOLT_OUT_BYTES) {
            int error = bolt_flush(writer);
            if (error)
                return error;
        }
    }
    return 0;
}

static int bolt_writer_begin(bolt_writer_t *writer, int fd, uint64_t reserve_bytes, bolt_stop_fn stop, void *stop_context)
{
    memset(writer, 0, sizeof *writer);
    writer->fd = fd;
    writer->reserve_bytes = reserve_bytes;
    writer->stop = stop;
    writer->stop_context = stop_context;
    writer->next_page = 2;
    writer->written = writer->looked_at = 2 * BOLT_WRITER_PAGE;
    writer->out = (uint8_t *)malloc(BOLT_OUT_BYTES);
    return writer->out ? 0 : ENOMEM;
}

static void bolt_writer_end(bolt_writer_t *writer)
{
    free(writer->out);
    for (int i = 0; i < BOLT_DEPTH_MAX; i++) {
        free(writer->levels[i].heads);
        free(writer->levels[i].body);
    }
    memset(writer, 0, sizeof *writer);
}

static int bolt_grow(uint8_t **buffer, size_t *room, size_t want)
{
    if (want <= *room)
        return 0;
    size_t more = *room ? *room : BOLT_WRITER_PAGE;
    while (more < want)
        more += more >> 1;
    uint8_t *grown = (uint8_t *)realloc(*buffer, more);
    if (!grown)
        return ENOMEM;
    *buffer = grown;
    *room = more;
    return 0;
}

/* Writes the page that a level has collected; `*page` is its number. An empty leaf is a page, too. */
static int bolt_close_page(bolt_writer_t *writer, int depth, uint64_t *page)
{
    bolt_level_out_t *level = &writer->levels[depth];
    uint8_t header[BOLT_PAGE_HEADER];
    size_t heads = level->count * BOLT_ELEMENT, bytes = BOLT_PAGE_HEADER + heads + level->body_used;
    uint64_t pages = (bytes + BOLT_WRITER_PAGE - 1) / BOLT_WRITER_PAGE;
    int error;
    *page = writer->next_page;
    bolt_put_page_header(header, *page, depth ? BOLT_BRANCH : BOLT_LEAF, (uint16_t)level->count, (uint32_t)(pages - 1));
    for (size_t i = 0; i < level->count; i++) { /* positions were kept from the beginning of body */
        uint8_t *at = level->heads + i * BOLT_ELEMENT + (depth ? 0 : 4);
        bolt_put32(at, bolt_get32(at) + (uint32_t)(heads - i * BOLT_ELEMENT));
    }
    if ((error = bolt_emit(writer, header, sizeof header)) || (error = bolt_emit(writer, level->heads, heads))
        || (error = bolt_emit(writer, level->body, level->body_used)) || (error = bolt_emit(writer, NULL, pages * BOLT_WRITER_PAGE - bytes)))
        return error;
    writer->next_page += pages;
    return 0;
}

static void bolt_clear_level(bolt_level_out_t *level)
{
    level->count = level->body_used = level->first_key = 0;
}

static int bolt_add(bolt_writer_t *writer, int depth, uint64_t word, const uint8_t *key, size_t key_bytes, const uint8_t *value, size_t value_bytes);

/* The level's page is full: it goes out, and its first key up. */
static int bolt_turn_page(bolt_writer_t *writer, int depth)
{
    bolt_level_out_t *level = &writer->levels[depth];
    uint64_t page;
    int error = bolt_close_page(writer, depth, &page);
    if (!error)
        error = bolt_add(writer, depth + 1, page, level->body, level->first_key, NULL, 0);
    bolt_clear_level(level);
    return error;
}

/* One element. `word`: of a leaf its flags, of a branch the child's page. */
static int bolt_add(bolt_writer_t *writer, int depth, uint64_t word, const uint8_t *key, size_t key_bytes, const uint8_t *value, size_t value_bytes)
{
    bolt_level_out_t *level = &writer->levels[depth];
    size_t least = depth ? 2 : 1, need = BOLT_ELEMENT + key_bytes + value_bytes; /* a branch of one child would make no progress */
    size_t bytes = BOLT_PAGE_HEADER + level->count * BOLT_ELEMENT + level->body_used;
    int error;
    if (depth >= BOLT_DEPTH_MAX - 1 || value_bytes > BOLT_VALUE_MAX || key_bytes > BOLT_KEY_MAX)
        return EFBIG;
    if (level->count >= least && (bytes + need > BOLT_WRITER_PAGE || level->count >= BOLT_ELEMENTS_MAX))
        if ((error = bolt_turn_page(writer, depth)))
            return error;
    if ((error = bolt_grow(&level->heads, &level->head_room, (level->count + 1) * BOLT_ELEMENT))
        || (error = bolt_grow(&level->body, &level->body_room, level->body_used + key_bytes + value_bytes)))
        return error;
    uint8_t *at = level->heads + level->count * BOLT_ELEMENT;
    if (depth) {
        bolt_put32(at, (uint32_t)level->body_used);
        bolt_put32(at + 4, (uint32_t)key_bytes);
        bolt_put64(at + 8, word);
    } else {
        bolt_put32(at, (uint32_t)word);
        bolt_put32(at + 4, (uint32_t)level->body_used);
        bolt_put32(at + 8, (uint32_t)key_bytes);
        bolt_put32(at + 12, (uint32_t)value_bytes);
    }
    memcpy(level->body + level->body_used, key, key_bytes);
    if (value_bytes)
        memcpy(level->body + level->body_used + key_bytes, value, value_bytes);
    if (!level->count++)
        level->first_key = key_bytes;
    level->body_used += key_bytes + value_bytes;
    return 0;
}

/* The next pair of the present tree; keys rise. 0 or an errno. */
static int bolt_put(bolt_writer_t *writer, uint32_t flags, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
    return bolt_add(writer, 0, flags, (const uint8_t *)key, key_bytes, (const uint8_t *)value, value_bytes);
}

/* Writes what is left of the present tree; its root page. The next `bolt_put` begins another. */
static int bolt_end_tree(bolt_writer_t *writer, uint64_t *root)
{
    for (int depth = 0;; depth++) {
        bolt_level_out_t *level = &writer->levels[depth];
        int error = bolt_close_page(writer, depth, root);
        if (!error && writer->levels[depth + 1].count)
            error = bolt_add(writer, depth + 1, *root, level->body, level->first_key, NULL, 0);
        bolt_clear_level(level);
        if (error || !writer->levels[depth + 1].count)
            return error;
    }
}

/* The bucket of a tree, for the tree of buckets. */
static void bolt_bucket_value(uint8_t *out, uint64_t root)
{
    bolt_put64(out, root);
    bolt_put64(out + 8, 0);
}

/* Both meta pages; `*size` is the length of the whole file. */
static int bolt_finish(bolt_writer_t *writer, uint64_t root, uint64_t *size)
{
    uint8_t pages[2 * BOLT_WRITER_PAGE];
    int error = bolt_flush(writer);
    if (error)
        return error;
    memset(pages, 0, sizeof pages);
    for (uint64_t i = 0; i < 2; i++) {
        bolt_meta_t meta = {BOLT_WRITER_PAGE, root, writer->next_page, 2 - i};
        bolt_put_page_header(pages + i * BOLT_WRITER_PAGE, i, BOLT_META, 0, 0);
        bolt_put_meta(pages + i * BOLT_WRITER_PAGE + BOLT_PAGE_HEADER, &meta);
    }
    *size = writer->next_page * BOLT_WRITER_PAGE;
    return bolt_write_at(writer->fd, pages, sizeof pages, 0);
}

#endif
