/* What bbolt's reader and writer share: numbers, page headers, meta pages (etcd-api §3.2). Pure: memory in, memory out. */
#ifndef RAFTSCHED_BOLT_FORMAT_H
#define RAFTSCHED_BOLT_FORMAT_H

#include <stdint.h>
#include <string.h>

#define BOLT_MAGIC 0xED0CDAEDu
#define BOLT_VERSION 2u
#define BOLT_PAGE_HEADER 16u
#define BOLT_ELEMENT 16u
#define BOLT_META_BYTES 64u
#define BOLT_BRANCH 0x01u
#define BOLT_LEAF 0x02u
#define BOLT_META 0x04u
#define BOLT_BUCKET 0x01u /* flag of a leaf element */
#define BOLT_BUCKET_BYTES 16u
#define BOLT_NO_FREELIST UINT64_MAX
#define BOLT_DEPTH_MAX 32
#define BOLT_ELEMENTS_MAX 0xFFFEu
#define BOLT_KEY_MAX 32768u
#define BOLT_VALUE_MAX 0x7FFFFFFEu

typedef struct {
    uint32_t page_bytes;
    uint64_t root, page_count, txid;
} bolt_meta_t;

static void bolt_put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static void bolt_put32(uint8_t *at, uint32_t value)
{
    bolt_put16(at, (uint16_t)value);
    bolt_put16(at + 2, (uint16_t)(value >> 16));
}

static void bolt_put64(uint8_t *at, uint64_t value)
{
    bolt_put32(at, (uint32_t)value);
    bolt_put32(at + 4, (uint32_t)(value >> 32));
}

static uint16_t bolt_get16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static uint32_t bolt_get32(const uint8_t *at)
{
    return (uint32_t)bolt_get16(at) | (uint32_t)bolt_get16(at + 2) << 16;
}

static uint64_t bolt_get64(const uint8_t *at)
{
    return (uint64_t)bolt_get32(at) | (uint64_t)bolt_get32(at + 4) << 32;
}

static uint64_t bolt_checksum(const uint8_t *meta) /* FNV-1a of what stands before it */
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < BOLT_META_BYTES - 8; i++)
        hash = (hash ^ meta[i]) * 0x100000001b3u;
    return hash;
}

static void bolt_put_page_header(uint8_t *at, uint64_t number, uint16_t flags, uint16_t count, uint32_t overflow)
{
    bolt_put64(at, number);
    bolt_put16(at + 8, flags);
    bolt_put16(at + 10, count);
    bolt_put32(at + 12, overflow);
}

static void bolt_put_meta(uint8_t *at, const bolt_meta_t *meta)
{
    bolt_put32(at, BOLT_MAGIC);
    bolt_put32(at + 4, BOLT_VERSION);
    bolt_put32(at + 8, meta->page_bytes);
    bolt_put32(at + 12, 0);
    bolt_put64(at + 16, meta->root);
    bolt_put64(at + 24, 0);
    bolt_put64(at + 32, BOLT_NO_FREELIST);
    bolt_put64(at + 40, meta->page_count);
    bolt_put64(at + 48, meta->txid);
    bolt_put64(at + 56, bolt_checksum(at));
}

/* Whether the 64 bytes are a meta page's that can be trusted. */
static int bolt_get_meta(const uint8_t *at, bolt_meta_t *out)
{
    if (bolt_get32(at) != BOLT_MAGIC || bolt_get32(at + 4) != BOLT_VERSION || bolt_get64(at + 56) != bolt_checksum(at))
        return 0;
    out->page_bytes = bolt_get32(at + 8);
    out->root = bolt_get64(at + 16);
    out->page_count = bolt_get64(at + 40);
    out->txid = bolt_get64(at + 48);
    return out->page_bytes >= 1024 && out->page_bytes <= 65536 && !(out->page_bytes & (out->page_bytes - 1));
}

#endif
