/* CRC-32C (Castagnoli), by the processor's instruction where it has one (SSE 4.2, found at run time), else by table. */
#ifndef RAFTSCHED_CRC32C_H
#define RAFTSCHED_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CRC32C_REVERSED 0x82f63b78u

static uint32_t crc32c_table[8][256];
static int crc32c_hardware; /* known after crc32c_setup */

static uint32_t crc32c_by_table(uint32_t state, const uint8_t *data, size_t length) {
    for (; length >= 8; data += 8, length -= 8) {
        uint32_t low, high;
        memcpy(&low, data, 4);
        memcpy(&high, data + 4, 4);
        low ^= state;
        state = crc32c_table[7][low & 255] ^ crc32c_table[6][low >> 8 & 255] ^ crc32c_table[5][low >> 16 & 255]
            ^ crc32c_table[4][low >> 24] ^ crc32c_table[3][high & 255] ^ crc32c_table[2][high >> 8 & 255]
            ^ crc32c_table[1][high >> 16 & 255] ^ crc32c_table[0][high >> 24];
    }
    while (length--) state = crc32c_table[0][(state ^ *data++) & 255] ^ state >> 8;
    return state;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_by_instruction(uint32_t state, const uint8_t *data, size_t length) {
    uint64_t wide = state;
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    state = (uint32_t)wide;
    while (length--) state = __builtin_ia32_crc32qi(state, *data++);
    return state;
}
#endif

static void crc32c_setup(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? CRC32C_REVERSED : 0);
        crc32c_table[0][i] = value;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++) crc32c_table[k][i] = crc32c_table[0][crc32c_table[k - 1][i] & 255] ^ crc32c_table[k - 1][i] >> 8;
#if defined(__x86_64__)
    crc32c_hardware = __builtin_cpu_supports("sse4.2");
#endif
}

/* Continues `crc` (0 at the start) over `data`, as Go's crc32.Update with the Castagnoli table. */
static inline uint32_t crc32c_update(uint32_t crc, const uint8_t *data, size_t length) {
#if defined(__x86_64__)
    if (crc32c_hardware) return ~crc32c_by_instruction(~crc, data, length);
#endif
    return ~crc32c_by_table(~crc, data, length);
}

#endif
