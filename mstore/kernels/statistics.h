/* Sums and extremes of a run of samples, the missing ones left out. mstore/statistics.py says in which order is added.
 *
 * Written so that compilers find the vectors: a sum in eight lanes, and extremes of integers that are ordered as the
 * floats are, because a comparison of floats may trap. A missing sample adds +0.0, which changes no sum (aggregate.h
 * says why).
 */
#ifndef MSTORE_STATISTICS_H
#define MSTORE_STATISTICS_H
#include "aggregate.h"

#define MS_LANES 8

/* KEYS: signed integers as wide as TYPE. A float's key is its bits, those below the sign turned over if it is negative. */
#define MS_SUM_AND_EXTREMES(SUFFIX, TYPE, BITS, KEYS, LEAST, MOST)                                                      \
static inline TYPE ms_only_##SUFFIX(TYPE value) { /* +0.0 when missing */                                               \
    const BITS present = ms_present_##SUFFIX(value);                                                                    \
    BITS bits;                                                                                                          \
    memcpy(&bits, &value, sizeof bits);                                                                                 \
    bits &= present;                                                                                                    \
    memcpy(&value, &bits, sizeof bits);                                                                                 \
    return value;                                                                                                       \
}                                                                                                                       \
static inline KEYS ms_key_##SUFFIX(KEYS bits) {                                                                         \
    return bits ^ ((bits >> (8 * sizeof bits - 1)) & MOST);                                                             \
}                                                                                                                       \
static inline double ms_of_key_##SUFFIX(KEYS key) {                                                                     \
    const KEYS bits = ms_key_##SUFFIX(key);                                                                             \
    TYPE value;                                                                                                         \
    memcpy(&value, &bits, sizeof value);                                                                                \
    return (double)value + 0.0; /* of the two zeros the positive one */                                                 \
}                                                                                                                       \
MS_CLONES static double ms_sum_##SUFFIX(const TYPE *restrict values, size_t n) {                                        \
    double sums[MS_LANES] = {0}, sum = 0.0;                                                                             \
    size_t i = 0;                                                                                                       \
    for (; i + MS_LANES <= n; i += MS_LANES)                                                                            \
        for (size_t lane = 0; lane < MS_LANES; lane++) sums[lane] += (double)ms_only_##SUFFIX(values[i + lane]);        \
    for (size_t lane = 0; i < n; i++, lane++) sums[lane] += (double)ms_only_##SUFFIX(values[i]);                        \
    for (size_t lane = 0; lane < MS_LANES; lane++) sum += sums[lane];                                                   \
    return sum;                                                                                                         \
}                                                                                                                       \
/* Of at least one sample. */                                                                                           \
MS_CLONES static void ms_extremes_##SUFFIX(double *low, double *high, const TYPE *values, size_t n) {                   \
    KEYS least = MOST, most = LEAST;                                                                                    \
    for (size_t i = 0; i < n; i++) {                                                                                    \
        const KEYS present = (KEYS)ms_present_##SUFFIX(values[i]);                                                      \
        KEYS key;                                                                                                       \
        memcpy(&key, &values[i], sizeof key);                                                                           \
        key = ms_key_##SUFFIX(key) & present;                                                                           \
        const KEYS down = key | (MOST & ~present), up = key | (LEAST & ~present);                                       \
        least = down < least ? down : least;                                                                            \
        most = up > most ? up : most;                                                                                   \
    }                                                                                                                   \
    *low = ms_of_key_##SUFFIX(least), *high = ms_of_key_##SUFFIX(most);                                                 \
}
MS_SUM_AND_EXTREMES(f32, float, uint32_t, int32_t, INT32_MIN, INT32_MAX)
MS_SUM_AND_EXTREMES(f64, double, uint64_t, int64_t, INT64_MIN, INT64_MAX)

/* Count, extremes and the exact sum in two halves: of 32 bits each, added apart, which holds for 2^32 samples. */
MS_CLONES static size_t ms_scan_u64(uint64_t *sum_above, uint64_t *sum_below, uint64_t *low, uint64_t *high,
                                    const uint64_t *values, size_t n) {
    uint64_t above = 0, below = 0, least = UINT64_MAX, most = 0, count = 0;
    for (size_t i = 0; i < n; i++) {
        const uint64_t present = (uint64_t)-(int64_t)(values[i] != MS_U64_MISSING);
        const uint64_t value = values[i] & present;
        above += value >> 32;
        below += value & 0xFFFFFFFFu;
        count -= present;
        least = values[i] < least ? values[i] : least; /* a missing one is the largest: never the least */
        most = value > most ? value : most;
    }
    *sum_above = above, *sum_below = below, *low = least, *high = most;
    return (size_t)count;
}
#endif
