/* One pass over a run of samples: how many there are, their sum, smallest and largest.
 *
 * Sums are float64. A run of a chunk is added in MS_LANES lanes, slot number modulo MS_LANES, each in order of time; the lanes
 * are then added pairwise. So the bits depend on where the slots stand in their series and on nothing else, and no addition
 * waits for the one before. A missing sample adds +0.0 (aggregate.h says why that changes nothing) and is neither smaller nor
 * larger than anything.
 */
#ifndef MSTORE_SCAN_H
#define MSTORE_SCAN_H
#include "aggregate.h"

#define MS_LANES 16

typedef struct {
    uint64_t n;
    double sum;
    double low, high;        /* of floats; u64: in ulow and uhigh */
    uint64_t ulow, uhigh;
} ms_scan;

/* Lanes become one: each of the first half takes its partner in the second, until one is left. */
static inline double ms_pairwise(double *lanes) {
    for (size_t half = MS_LANES / 2; half; half /= 2)
        for (size_t j = 0; j < half; j++) lanes[j] += lanes[j + half];
    return lanes[0];
}

/* values[i] is in lane (first + i) % MS_LANES; BITS: an unsigned integer as wide as TYPE. */
#define MS_SCAN_FLOATS(NAME, TYPE, BITS, PRESENT)                                                                        \
MS_CLONES static void NAME(ms_scan *to, const TYPE *values, size_t first, size_t n) {                                    \
    double sums[MS_LANES];                                                                                               \
    TYPE low[MS_LANES], high[MS_LANES];                                                                                  \
    BITS counts[MS_LANES];                                                                                               \
    for (size_t j = 0; j < MS_LANES; j++) {                                                                              \
        sums[j] = 0.0;                                                                                                   \
        counts[j] = 0;                                                                                                   \
        low[j] = (TYPE)INFINITY;                                                                                         \
        high[j] = -(TYPE)INFINITY;                                                                                       \
    }                                                                                                                    \
    for (size_t lane = first % MS_LANES, part; n; lane = 0, values += part, n -= part) {                                 \
        part = MS_LANES - lane < n ? MS_LANES - lane : n;                                                                \
        for (size_t j = 0; j < part; j++) {                                                                              \
            const TYPE value = values[j];                                                                                \
            const BITS present = PRESENT(value);                                                                         \
            BITS bits;                                                                                                   \
            TYPE kept;                                                                                                   \
            memcpy(&bits, &value, sizeof bits);                                                                          \
            bits &= present;                                                                                             \
            memcpy(&kept, &bits, sizeof kept);                                                                           \
            sums[lane + j] += (double)kept;                                                                              \
            counts[lane + j] -= present;                                                                                 \
            low[lane + j] = value < low[lane + j] ? value : low[lane + j];                                               \
            high[lane + j] = value > high[lane + j] ? value : high[lane + j];                                            \
        }                                                                                                                \
    }                                                                                                                    \
    to->sum += ms_pairwise(sums);                                                                                        \
    for (size_t j = 0; j < MS_LANES; j++) {                                                                              \
        to->n += counts[j];                                                                                              \
        to->low = (double)low[j] < to->low ? (double)low[j] : to->low;                                                   \
        to->high = (double)high[j] > to->high ? (double)high[j] : to->high;                                              \
    }                                                                                                                    \
}
MS_SCAN_FLOATS(ms_scan_f32, float, uint32_t, ms_present_f32)
MS_SCAN_FLOATS(ms_scan_f64, double, uint64_t, ms_present_f64)

MS_CLONES static void ms_scan_u64(ms_scan *to, const uint64_t *values, size_t first, size_t n) {
    double sums[MS_LANES] = {0.0};
    for (size_t i = 0; i < n; i++) {
        const uint64_t value = values[i];
        if (value == MS_U64_MISSING) continue;
        sums[(first + i) % MS_LANES] += (double)value;
        to->n++;
        to->ulow = value < to->ulow ? value : to->ulow;
        to->uhigh = value > to->uhigh ? value : to->uhigh;
    }
    to->sum += ms_pairwise(sums);
}
#endif
