/* Seeded 64-bit hash of short byte strings: 16 bytes a round, folded by a 64 x 64 -> 128 bit multiplication (the mixing
 * step of the wyhash family, Wang Yi). Seeded per store, so that nobody outside can choose colliding names. */
#ifndef MSTORE_HASH_H
#define MSTORE_HASH_H
#include <stdint.h>
#include <string.h>

static inline uint64_t ms_fold(uint64_t a, uint64_t b) {
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}
static inline uint64_t ms_hash(const void *bytes, size_t n, uint64_t seed) {
    const unsigned char *p = (const unsigned char *)bytes;
    const uint64_t odd1 = 0x9E3779B97F4A7C15ull, odd2 = 0xD1B54A32D192ED03ull;
    uint64_t h = seed ^ (n * odd1), a, b;
    size_t left = n;
    while (left > 16) {
        memcpy(&a, p, 8); memcpy(&b, p + 8, 8);
        h = ms_fold(a ^ odd1 ^ h, b ^ odd2);
        p += 16; left -= 16;
    }
    a = b = 0;
    if (left >= 8) { memcpy(&a, p, 8); memcpy(&b, p + left - 8, 8); }
    else if (left) memcpy(&a, p, left);
    return ms_fold(a ^ odd1 ^ h, b ^ odd2 ^ h);
}
#endif
