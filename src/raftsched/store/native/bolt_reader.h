/* A bbolt file, read by pread and never trusted: a damaged, cut or hostile file is an error with its page, not a signal.
 *
 * Every page is checked before anything in it is used: its number, kind and length, and each element's bounds. A walk keeps one page per
 * level on an explicit stack of BOLT_DEPTH_MAX, keys must rise strictly over the whole tree, and no walk sees more pages than the file
 * has: so a tree that leads back into itself ends as one. Memory: the pages of one path, which lie within the file.
 *
 * Never takes the interpreter's lock.
 */
#ifndef RAFTSCHED_BOLT_READER_H
#define RAFTSCHED_BOLT_READER_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "bolt_format.h"

typedef struct {
    int fd;
    uint64_t file_bytes;
    bolt_meta_t meta;
    const char *why; /* of the last failure; NULL: `error` is an errno */
    int error;
    uint64_t where; /* the page */
} bolt_file_t;

typedef struct {
    uint8_t *page;
    size_t room, bytes;
    uint64_t number;
    uint32_t count, next;
    int leaf;
} bolt_level_t;

typedef struct {
    bolt_file_t *file;
    bolt_level_t levels[BOLT_DEPTH_MAX];
    int depth;           /* levels in use */
    uint64_t pages_seen; /* overflow pages counted */
    uint8_t *last_key;
    size_t last_bytes, last_room;
} bolt_cursor_t;

typedef struct {
    uint32_t flags;
    const uint8_t *key, *value;
    size_t key_bytes, value_bytes;
} bolt_pair_t;

static int bolt_bad(bolt_file_t *file, const char *why, uint64_t page)
{
    file->why = why;
    file->where = page;
    return -1;
}

static int bolt_failed(bolt_file_t *file, int error, uint64_t page)
{
    file->why = NULL;
    file->error = error;
    file->where = page;
    return -1;
}

static int bolt_read_at(bolt_file_t *file, uint8_t *out, size_t length, uint64_t offset, uint64_t page)
{
    while (length) {
        ssize_t count = pread(file->fd, out, length, (off_t)offset);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return bolt_failed(file, errno, page);
        if (!count)
            return bolt_bad(file, "the file ends inside it", page);
        out += count;
        offset += (uint64_t)count;
        length -= (size_t)count;
    }
    return 0;
}

static int bolt_meta_at(bolt_file_t *file, uint64_t offset, bolt_meta_t *out)
{
    uint8_t bytes[BOLT_META_BYTES];
    if (file->file_bytes < offset + BOLT_PAGE_HEADER + BOLT_META_BYTES || bolt_read_at(file, bytes, sizeof bytes, offset + BOLT_PAGE_HEADER, 0))
        return 0;
    return bolt_get_meta(bytes, out);
}

/* Chooses the meta page: of two good ones the one of the later transaction. Where the second lies only a page size tells: if the first is
 * damaged, each is tried. 0, or -1 with the reason in `file`. */
static int bolt_open(bolt_file_t *file, int fd, uint64_t file_bytes)
{
    bolt_meta_t first, second;
    memset(file, 0, sizeof *file);
    file->fd = fd;
    file->file_bytes = file_bytes;
    int has_first = bolt_meta_at(file, 0, &first), has_second = 0;
    for (uint32_t bytes = 1024; bytes <= 65536 && !has_second; bytes *= 2)
        if (!has_first || first.page_bytes == bytes)
            has_second = bolt_meta_at(file, bytes, &second) && second.page_bytes == bytes;
    if (!has_first && !has_second)
        return bolt_bad(file, "no valid meta page: this is no bbolt database", 0);
    file->meta = !has_first || (has_second && second.txid > first.txid) ? second : first;
    if (file->meta.page_count < 3 || file->meta.page_count > file_bytes / file->meta.page_bytes)
        return bolt_bad(file, "the file is shorter than its meta page says: it was cut", 0);
    return 0;
}

/* ---- pages ---------------------------------------------------------------------------------------------------------------- */

static const uint8_t *bolt_element(const bolt_level_t *level, uint32_t index)
{
    return level->page + BOLT_PAGE_HEADER + (size_t)index * BOLT_ELEMENT;
}

/* Every element lies within the page, behind the headers. */
static int bolt_check_elements(bolt_file_t *file, const bolt_level_t *level)
{
    uint64_t heads = BOLT_PAGE_HEADER + (uint64_t)level->count * BOLT_ELEMENT;
    if (heads > level->bytes)
        return bolt_bad(file, "more elements than fit in", level->number);
    for (uint32_t i = 0; i < level->count; i++) {
        const uint8_t *at = bolt_element(level, i);
        uint64_t position = bolt_get32(level->leaf ? at + 4 : at), key = bolt_get32(level->leaf ? at + 8 : at + 4);
        uint64_t value = level->leaf ? bolt_get32(at + 12) : 0, start = (uint64_t)(at - level->page) + position;
        if (start < heads || start + key + value > level->bytes)
            return bolt_bad(file, "an element reaches over its end", level->number);
        if (!key || key > BOLT_KEY_MAX)
            return bolt_bad(file, "a key without or with too many bytes", level->number);
    }
    return 0;
}

static int bolt_take_header(bolt_file_t *file, bolt_level_t *level, const uint8_t *header)
{
    uint16_t flags = bolt_get16(header + 8);
    if (flags != BOLT_BRANCH && flags != BOLT_LEAF)
        return bolt_bad(file, "neither branch nor leaf", level->number);
    level->leaf = flags == BOLT_LEAF;
    level->count = bolt_get16(header + 10);
    level->next = 0;
    if (!level->leaf && !level->count)
        return bolt_bad(file, "a branch without children", level->number);
    return 0;
}

static int bolt_make_room(bolt_file_t *file, bolt_level_t *level)
{
    if (level->bytes <= level->room)
        return 0;
    uint8_t *page = (uint8_t *)realloc(level->page, level->bytes);
    if (!page)
        return bolt_failed(file, ENOMEM, level->number);
    level->page = page;
    level->room = level->bytes;
    return 0;
}

static int bolt_push_page(bolt_cursor_t *cursor, uint64_t number)
{
    bolt_file_t *file = cursor->file;
    uint8_t header[BOLT_PAGE_HEADER];
    uint64_t page_bytes = file->meta.page_bytes, page_count = file->meta.page_count;
    if (cursor->depth >= BOLT_DEPTH_MAX)
        return bolt_bad(file, "the tree is too deep", number);
    if (number < 2 || number >= page_count)
        return bolt_bad(file, "a page that is outside of the database", number);
    if (bolt_read_at(file, header, sizeof header, number * page_bytes, number))
        return -1;
    uint64_t pages = (uint64_t)bolt_get32(header + 12) + 1;
    if (bolt_get64(header) != number || pages > page_count - number)
        return bolt_bad(file, "its header is not its own", number);
    if ((cursor->pages_seen += pages) > page_count)
        return bolt_bad(file, "the tree leads back into itself", number);
    bolt_level_t *level = &cursor->levels[cursor->depth];
    level->number = number;
    level->bytes = (size_t)(pages * page_bytes);
    if (bolt_take_header(file, level, header) || bolt_make_room(file, level)
        || bolt_read_at(file, level->page, level->bytes, number * page_bytes, number) || bolt_check_elements(file, level))
        return -1;
    cursor->depth++;
    return 0;
}

/* A bucket whose only page lies in its value, behind root and sequence. */
static int bolt_push_inline(bolt_cursor_t *cursor, const uint8_t *data, size_t bytes, uint64_t holder)
{
    bolt_level_t *level = &cursor->levels[0];
    if (bytes < BOLT_PAGE_HEADER)
        return bolt_bad(cursor->file, "a bucket inside it is cut", holder);
    level->number = holder;
    level->bytes = bytes;
    if (bolt_take_header(cursor->file, level, data) || bolt_make_room(cursor->file, level))
        return -1;
    memcpy(level->page, data, bytes);
    if (!level->leaf)
        return bolt_bad(cursor->file, "a bucket inside it is no leaf", holder);
    if (bolt_check_elements(cursor->file, level))
        return -1;
    cursor->depth = 1;
    return 0;
}

/* ---- cursors -------------------------------------------------------------------------------------------------------------- */

static void bolt_cursor_end(bolt_cursor_t *cursor)
{
    for (int i = 0; i < BOLT_DEPTH_MAX; i++)
        free(cursor->levels[i].page);
    free(cursor->last_key);
    memset(cursor, 0, sizeof *cursor);
}

/* Before the first pair of the tree at `root`. */
static int bolt_cursor_begin(bolt_cursor_t *cursor, bolt_file_t *file, uint64_t root)
{
    memset(cursor, 0, sizeof *cursor);
    cursor->file = file;
    return bolt_push_page(cursor, root);
}

/* Before the first pair of the bucket that `value` is. */
static int bolt_cursor_bucket(bolt_cursor_t *cursor, bolt_file_t *file, const uint8_t *value, size_t bytes, uint64_t holder)
{
    memset(cursor, 0, sizeof *cursor);
    cursor->file = file;
    if (bytes < BOLT_BUCKET_BYTES)
        return bolt_bad(file, "a bucket without a root", holder);
    uint64_t root = bolt_get64(value);
    return root ? bolt_push_page(cursor, root) : bolt_push_inline(cursor, value + BOLT_BUCKET_BYTES, bytes - BOLT_BUCKET_BYTES, holder);
}

static int bolt_compare(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : a_bytes < b_bytes ? -1 : a_bytes > b_bytes;
}

/* Keys rise; the last one is remembered, since its page goes. */
static int bolt_check_order(bolt_cursor_t *cursor, const bolt_pair_t *pair, uint64_t page)
{
    if (cursor->last_key && bolt_compare(pair->key, pair->key_bytes, cursor->last_key, cursor->last_bytes) <= 0)
        return bolt_bad(cursor->file, "its keys do not rise", page);
    if (pair->key_bytes > cursor->last_room) {
        uint8_t *grown = (uint8_t *)realloc(cursor->last_key, pair->key_bytes);
        if (!grown)
            return bolt_failed(cursor->file, ENOMEM, page);
        cursor->last_key = grown;
        cursor->last_room = pair->key_bytes;
    }
    memcpy(cursor->last_key, pair->key, pair->key_bytes);
    cursor->last_bytes = pair->key_bytes;
    return 0;
}

/* 1 and the next pair, which is valid until the next call; 0 at the end; -1 and the reason in the file. */
static int bolt_next(bolt_cursor_t *cursor, bolt_pair_t *pair)
{
    while (cursor->depth) {
        bolt_level_t *level = &cursor->levels[cursor->depth - 1];
        if (level->next >= level->count) {
            cursor->depth--;
            continue;
        }
        const uint8_t *at = bolt_element(level, level->next++);
        if (!level->leaf) {
            if (bolt_push_page(cursor, bolt_get64(at + 8)))
                return -1;
            continue;
        }
        pair->flags = bolt_get32(at);
        pair->key = at + bolt_get32(at + 4);
        pair->key_bytes = bolt_get32(at + 8);
        pair->value = pair->key + pair->key_bytes;
        pair->value_bytes = bolt_get32(at + 12);
        return bolt_check_order(cursor, pair, level->number) ? -1 : 1;
    }
    return 0;
}

/* The page that the last pair lies on. */
static uint64_t bolt_page_of(const bolt_cursor_t *cursor)
{
    return cursor->depth ? cursor->levels[cursor->depth - 1].number : 0;
}

#endif
