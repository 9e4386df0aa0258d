/* CRC-32C (Castagnoli), chained: the value that etcd calls a running CRC, with the standard start and end inversion.
 *
 * Uses the processor's instruction where there is one (decided at run time on x86-64, at compile time on ARM), else eight tables.
 * Pure: no state but the tables, which every thread may build at the same time to the same content.
 */
#ifndef RAFTSCHED_CRC32C_H
#define RAFTSCHED_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

static uint32_t crc32c_table[8][256];
static int crc32c_table_ready;

static void crc32c_build(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? (value >> 1) ^ 0x82F63B78u : value >> 1;
        crc32c_table[0][i] = value;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            crc32c_table[k][i] = (crc32c_table[k - 1][i] >> 8) ^ crc32c_table[0][crc32c_table[k - 1][i] & 255];
    __atomic_store_n(&crc32c_table_ready, 1, __ATOMIC_RELEASE);
}

static uint32_t crc32c_portable(uint32_t crc, const uint8_t *data, size_t length)
{
    if (!__atomic_load_n(&crc32c_table_ready, __ATOMIC_ACQUIRE))
        crc32c_build();
    for (; length >= 8; data += 8, length -= 8) {
        crc ^= (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
        crc = crc32c_table[7][crc & 255] ^ crc32c_table[6][(crc >> 8) & 255] ^ crc32c_table[5][(crc >> 16) & 255]
            ^ crc32c_table[4][crc >> 24] ^ crc32c_table[3][data[4]] ^ crc32c_table[2][data[5]]
            ^ crc32c_table[1][data[6]] ^ crc32c_table[0][data[7]];
    }
    while (length--)
        crc = (crc >> 8) ^ crc32c_table[0][(crc ^ *data++) & 255];
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_hardware(uint32_t crc, const uint8_t *data, size_t length)
{
    uint64_t value = crc;
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        value = __builtin_ia32_crc32di(value, word);
    }
    crc = (uint32_t)value;
    while (length--)
        crc = __builtin_ia32_crc32qi(crc, *data++);
    return crc;
}
#endif

/* `crc` is the value so far (0 at the start); the value after `data`. */
static inline uint32_t crc32c_update(uint32_t crc, const void *data, size_t length)
{
    crc = ~crc;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return ~crc32c_hardware(crc, (const uint8_t *)data, length);
    return ~crc32c_portable(crc, (const uint8_t *)data, length);
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
    const uint8_t *at = (const uint8_t *)data;
    for (; length >= 8; at += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        crc = __crc32cd(crc, word);
    }
    while (length--)
        crc = __crc32cb(crc, *at++);
    return ~crc;
#else
    return ~crc32c_portable(crc, (const uint8_t *)data, length);
#endif
}

#endif
