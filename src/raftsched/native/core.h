/* Bits, address space and the key hash of the timing wheel (_core.pyx). No state. */
#ifndef RAFTSCHED_CORE_H
#define RAFTSCHED_CORE_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define TW_CLZ64(x) __builtin_clzll(x)
#define TW_CTZ64(x) __builtin_ctzll(x)
#define TW_CTZ32(x) __builtin_ctz(x)
#define TW_PREFETCH(p) __builtin_prefetch((p), 1)
#define TW_LIKELY(x) __builtin_expect(!!(x), 1)
#define TW_UNLIKELY(x) __builtin_expect(!!(x), 0)
#ifdef RAFTSCHED_DEBUG
#define TW_DEBUG 1
#else
#define TW_DEBUG 0
#endif

static const size_t TW_HUGE_PAGE = (size_t)2 << 20;

/* Reserves zeroed address space, aligned to 2 MiB; memory comes with the first touch, so growth never copies. NULL when refused. */
static void *tw_reserve(size_t bytes, int huge_pages) {
    bytes = (bytes + TW_HUGE_PAGE - 1) & ~(TW_HUGE_PAGE - 1);
    char *raw = (char *)mmap(0, bytes + TW_HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) return NULL;
    char *aligned = (char *)(((uintptr_t)raw + TW_HUGE_PAGE - 1) & ~(uintptr_t)(TW_HUGE_PAGE - 1));
    size_t before = (size_t)(aligned - raw);
    if (before) munmap(raw, before);
    if (before != TW_HUGE_PAGE) munmap(aligned + bytes, TW_HUGE_PAGE - before);
#ifdef MADV_HUGEPAGE
    if (huge_pages) madvise(aligned, bytes, MADV_HUGEPAGE);
#endif
    return aligned;
}

static void tw_release(void *memory, size_t bytes) {
    if (memory != NULL) munmap(memory, (bytes + TW_HUGE_PAGE - 1) & ~(TW_HUGE_PAGE - 1));
}

static inline uint64_t tw_mix(uint64_t a, uint64_t b) {
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}
static inline uint64_t tw_read8(const unsigned char *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline uint64_t tw_read4(const unsigned char *p) { uint32_t v; memcpy(&v, p, 4); return v; }

/* A seeded multiply-fold hash in the manner of wyhash; the seed is the caller's, so equal calls give equal wheels. */
static inline uint64_t tw_hash(const unsigned char *key, size_t length, uint64_t seed0, uint64_t seed1) {
    uint64_t a, b, h = seed0 ^ (length * 0x9E3779B97F4A7C15ull);
    const unsigned char *p = key;
    size_t n = length;
    while (n > 16) {
        h = tw_mix(tw_read8(p) ^ seed1 ^ 0xa0761d6478bd642full, tw_read8(p + 8) ^ h);
        p += 16;
        n -= 16;
    }
    if (n >= 8) {
        a = tw_read8(p);
        b = tw_read8(p + n - 8);
    } else if (n >= 4) {
        a = tw_read4(p);
        b = tw_read4(p + n - 4);
    } else if (n) {
        a = ((uint64_t)p[0] << 16) | ((uint64_t)p[n >> 1] << 8) | p[n - 1];
        b = 0;
    } else {
        a = b = 0;
    }
    return tw_mix(seed1 ^ 0xe7037ed1a0b428dbull, tw_mix(a ^ 0x8ebc6af09c88c6e3ull ^ seed1, b ^ h));
}
#endif
