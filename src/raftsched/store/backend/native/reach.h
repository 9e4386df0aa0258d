/* Whether a database file holds every page that can be reached from its newest meta page.
 *
 * A healthy file may be shorter than its count of pages: LMDB never writes a page that one transaction took from the end of the file and
 * freed again, as a commit does that stores records and scrubs them. A file that lost its tail looks the same from outside, and reading
 * it through the map would end the process by a signal. So pages are read by pread and followed here (data format 1, LMDB 0.9).
 */
#ifndef RAFTSCHED_REACH_H
#define RAFTSCHED_REACH_H

#include <errno.h>
#include <lmdb.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define REACH_DEPTH_MAX 64 /* LMDB's is 32 per tree; a named tree hangs in the main one */
#define REACH_HEADER_BYTES 16
#define REACH_NODE_BYTES 8
#define REACH_TREE_BYTES 48
#define REACH_TREE_ROOT 40
#define REACH_META_TREES (REACH_HEADER_BYTES + 24)
#define REACH_META_TXN (REACH_META_TREES + 2 * REACH_TREE_BYTES + 8)
#define REACH_BRANCH 0x01
#define REACH_LEAF 0x02
#define REACH_BIG_DATA 0x01
#define REACH_SUB_DATA 0x02
#define REACH_NO_PAGE UINT64_MAX

typedef struct {
    int fd;
    size_t page_bytes;
    uint64_t page_count; /* whole pages in the file */
    uint8_t *pages;      /* one per level */
} reach_t;

static uint16_t reach_u16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t reach_u64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* The page into the level's room; 0 or an error. */
static int reach_read(const reach_t *reach, uint64_t number, uint8_t *page)
{
    size_t done = 0;
    if (number >= reach->page_count)
        return MDB_CORRUPTED;
    while (done < reach->page_bytes) {
        ssize_t count = pread(reach->fd, page + done, reach->page_bytes - done, (off_t)(number * reach->page_bytes + done));
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return errno;
        if (count == 0)
            return MDB_CORRUPTED;
        done += (size_t)count;
    }
    return 0;
}

static int reach_page(const reach_t *reach, uint64_t number, int depth);

/* What a leaf's node refers to. `room`: bytes from the node to the page's end. */
static int reach_leaf_node(const reach_t *reach, const uint8_t *node, size_t room, int depth)
{
    uint64_t bytes = reach_u16(node) | (uint64_t)reach_u16(node + 2) << 16;
    uint16_t flags = reach_u16(node + 4);
    const uint8_t *data = node + REACH_NODE_BYTES + reach_u16(node + 6);
    size_t inline_bytes = flags & REACH_BIG_DATA ? sizeof(uint64_t) : bytes;
    if ((size_t)(data - node) + inline_bytes > room)
        return MDB_CORRUPTED;
    if (flags & REACH_BIG_DATA) {
        uint64_t first = reach_u64(data), count = (REACH_HEADER_BYTES - 1 + bytes) / reach->page_bytes + 1;
        return first < reach->page_count && count <= reach->page_count - first ? 0 : MDB_CORRUPTED;
    }
    if (flags & REACH_SUB_DATA)
        return bytes == REACH_TREE_BYTES ? reach_page(reach, reach_u64(data + REACH_TREE_ROOT), depth + 1) : MDB_CORRUPTED;
    return 0;
}

static int reach_page(const reach_t *reach, uint64_t number, int depth)
{
    if (number == REACH_NO_PAGE)
        return 0; /* an empty tree */
    if (depth >= REACH_DEPTH_MAX)
        return MDB_CORRUPTED;
    uint8_t *page = reach->pages + (size_t)depth * reach->page_bytes;
    int error = reach_read(reach, number, page);
    if (error)
        return error;
    uint16_t flags = reach_u16(page + 10), lower = reach_u16(page + 12);
    if (reach_u64(page) != number || !(flags & (REACH_BRANCH | REACH_LEAF)) || lower < REACH_HEADER_BYTES || lower > reach->page_bytes)
        return MDB_CORRUPTED;
    for (size_t at = REACH_HEADER_BYTES; at < lower && !error; at += 2) {
        size_t offset = reach_u16(page + at);
        const uint8_t *node = page + offset;
        if (offset < lower || offset + REACH_NODE_BYTES > reach->page_bytes)
            return MDB_CORRUPTED;
        if (flags & REACH_LEAF)
            error = reach_leaf_node(reach, node, reach->page_bytes - offset, depth);
        else
            error = reach_page(reach, reach_u16(node) | (uint64_t)reach_u16(node + 2) << 16 | (uint64_t)reach_u16(node + 4) << 32, depth + 1);
    }
    return error;
}

/* 0, MDB_CORRUPTED, or an error of the system. `txn_id`: of the meta page in force; `file_bytes`: the file's length. */
static int reach_check(int fd, size_t page_bytes, uint64_t file_bytes, uint64_t txn_id)
{
    reach_t reach = {fd, page_bytes, file_bytes / page_bytes, (uint8_t *)malloc(page_bytes * REACH_DEPTH_MAX)};
    int error = reach.pages ? MDB_CORRUPTED : ENOMEM;
    uint64_t roots[2] = {REACH_NO_PAGE, REACH_NO_PAGE};
    for (uint64_t meta = 0; reach.pages && meta < 2; meta++) {
        int unread = reach_read(&reach, meta, reach.pages);
        if (unread || reach_u64(reach.pages + REACH_META_TXN) != txn_id)
            continue;
        for (int tree = 0; tree < 2; tree++) /* the list of free pages, and the main tree */
            roots[tree] = reach_u64(reach.pages + REACH_META_TREES + tree * REACH_TREE_BYTES + REACH_TREE_ROOT);
        error = 0;
    }
    for (int tree = 0; tree < 2 && !error; tree++)
        error = reach_page(&reach, roots[tree], 0);
    free(reach.pages);
    return error;
}

#endif
