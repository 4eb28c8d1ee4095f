/* Loops over runs of samples that are worth a vector unit: add a run to sums in float64, count what is present, divide.
 *
 * Compiled three times (AVX-512, AVX2, any x86-64) and chosen when the module is loaded; other machines get the plain one.
 * All versions give the same bits: additions stay in the order of the calls, one lane a slot, and nothing is contracted.
 *
 * A missing sample adds +0.0. That changes no sum: sums start at +0.0 and rounding to nearest never makes -0.0 of
 * (+0.0) + x or of x + (-x), so no sum is ever -0.0.
 */
#ifndef MSTORE_AGGREGATE_H
#define MSTORE_AGGREGATE_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Sanitizers run before ifunc resolvers may; clang and musl know them in part only. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) \
    && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(MSTORE_NO_CLONES)
#define MS_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MS_CLONES
#endif

#define MS_U64_MISSING UINT64_MAX

/* All ones where a float is not NaN, by its bits: a comparison of floats may trap, and so would not be vectorised. */
static inline uint32_t ms_present_f32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint32_t)-(int32_t)((bits & 0x7FFFFFFFu) <= 0x7F800000u);
}
static inline uint64_t ms_present_f64(double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return (uint64_t)-(int64_t)((int64_t)(bits & 0x7FFFFFFFFFFFFFFFull) <= 0x7FF0000000000000ll);
}

MS_CLONES static void ms_add_f32(double *restrict sums, uint32_t *restrict coverage, const float *restrict values, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint32_t present = ms_present_f32(values[i]);
        uint32_t bits;
        float value;
        memcpy(&bits, &values[i], 4);
        bits &= present; /* +0.0 when missing */
        memcpy(&value, &bits, 4);
        sums[i] += (double)value;
        coverage[i] -= present;
    }
}
/* Four runs at once, in their order: sums and coverage are loaded and stored once instead of four times. */
MS_CLONES static void ms_add4_f32(double *restrict sums, uint32_t *restrict coverage, const float *restrict values,
                                  size_t stride, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double sum = sums[i];
        uint32_t count = coverage[i];
        for (size_t row = 0; row < 4; row++) {
            const float *from = &values[row * stride + i];
            const uint32_t present = ms_present_f32(*from);
            uint32_t bits;
            float value;
            memcpy(&bits, from, 4);
            bits &= present;
            memcpy(&value, &bits, 4);
            sum += (double)value;
            count -= present;
        }
        sums[i] = sum;
        coverage[i] = count;
    }
}
MS_CLONES static void ms_add_f64(double *restrict sums, uint32_t *restrict coverage, const double *restrict values, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint64_t present = ms_present_f64(values[i]);
        uint64_t bits;
        double value;
        memcpy(&bits, &values[i], 8);
        bits &= present;
        memcpy(&value, &bits, 8);
        sums[i] += value;
        coverage[i] -= (uint32_t)present;
    }
}
MS_CLONES static void ms_add_u64(double *restrict sums, uint32_t *restrict coverage, const uint64_t *restrict values, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint64_t present = (uint64_t)-(int64_t)(values[i] != MS_U64_MISSING);
        sums[i] += (double)(values[i] & present);
        coverage[i] -= (uint32_t)present;
    }
}

MS_CLONES static size_t ms_count_f32(const float *values, size_t n) {
    size_t count = 0;
    while (n) { /* blocks, so that the inner count stays in lanes as wide as the values */
        const size_t block = n < 65536 ? n : 65536;
        uint32_t present = 0;
        for (size_t i = 0; i < block; i++) present -= ms_present_f32(values[i]);
        count += present;
        values += block;
        n -= block;
    }
    return count;
}
MS_CLONES static size_t ms_count_f64(const double *values, size_t n) {
    uint64_t count = 0;
    for (size_t i = 0; i < n; i++) count -= ms_present_f64(values[i]);
    return count;
}
MS_CLONES static size_t ms_count_u64(const uint64_t *values, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += values[i] != MS_U64_MISSING;
    return count;
}

/* Sums become answers in place: a slot that fewer than `least` series (at least 1) contributed to is missing. */
MS_CLONES static void ms_finish(double *restrict sums, const uint32_t *restrict coverage, size_t n, uint32_t least, int average) {
    for (size_t i = 0; i < n; i++) {
        const double divisor = average ? (double)coverage[i] : 1.0;
        sums[i] = coverage[i] >= least ? sums[i] / divisor : (double)NAN;
    }
}

/* Slots that at least one series contributed to. */
MS_CLONES static size_t ms_covered(const uint32_t *coverage, size_t n) {
    size_t covered = 0;
    for (size_t i = 0; i < n; i++) covered += coverage[i] != 0;
    return covered;
}

/* Runs of `factor` slots become their mean, added in order of time in float64; the last run may be shorter. */
#define MS_BUCKET_MEANS(NAME, TYPE, PRESENT)                                                                            \
static void NAME(double *restrict means, uint32_t *restrict counts, const TYPE *restrict values, size_t n, size_t factor) { \
    for (size_t b = 0, i = 0; i < n; b++) {                                                                             \
        const size_t end = factor < n - i ? i + factor : n;                                                             \
        double sum = 0.0;                                                                                               \
        uint32_t count = 0;                                                                                             \
        for (; i < end; i++) if (PRESENT) { sum += (double)values[i]; count++; }                                        \
        means[b] = count ? sum / (double)count : (double)NAN;                                                           \
        counts[b] = count;                                                                                              \
    }                                                                                                                   \
}
MS_BUCKET_MEANS(ms_means_f32, float, values[i] == values[i])
MS_BUCKET_MEANS(ms_means_f64, double, values[i] == values[i])
MS_BUCKET_MEANS(ms_means_u64, uint64_t, values[i] != MS_U64_MISSING)
#endif
