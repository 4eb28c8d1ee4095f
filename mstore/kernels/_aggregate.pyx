"""Sums over series, means over runs of slots: arrays in, arrays out, the same bits on every machine.

The loops are in aggregate.h; _gather uses them on scratch memory, these entries take whole arrays.
"""

from libc.stdint cimport uint32_t, uint64_t

import numpy as np

ctypedef fused sample:
    float
    double
    uint64_t


def add(double[::1] sums, uint32_t[::1] coverage, const sample[::1] values):
    """Add one series to sums and coverage, skipping what is missing (NaN; u64: 2^64-1).

    sums      float64[n], changed in place;  coverage  uint32[n], changed in place
    values    float32[n], float64[n] or uint64[n]
    raises    ValueError when the lengths differ
    """
    cdef size_t n = values.shape[0]
    if <size_t>sums.shape[0] != n or <size_t>coverage.shape[0] != n:
        raise ValueError(f"{n} values for {sums.shape[0]} sums and {coverage.shape[0]} counts")
    if n == 0:
        return
    with nogil:
        if sample is float:
            ms_add_f32(&sums[0], &coverage[0], &values[0], n)
        elif sample is double:
            ms_add_f64(&sums[0], &coverage[0], &values[0], n)
        else:
            ms_add_u64(&sums[0], &coverage[0], &values[0], n)


def finish(double[::1] sums, const uint32_t[::1] coverage, uint32_t least, bint average):
    """Turn sums into the answer in place: divided by coverage when `average`; NaN where coverage < max(least, 1)."""
    cdef size_t n = sums.shape[0]
    if <size_t>coverage.shape[0] != n:
        raise ValueError(f"{n} sums for {coverage.shape[0]} counts")
    if n == 0:
        return
    with nogil:
        ms_finish(&sums[0], &coverage[0], n, least if least > 1 else 1, average)


def count_present(const sample[::1] values):
    """How many of the values are not missing."""
    cdef size_t n = values.shape[0], count
    if n == 0:
        return 0
    with nogil:
        if sample is float:
            count = ms_count_f32(&values[0], n)
        elif sample is double:
            count = ms_count_f64(&values[0], n)
        else:
            count = ms_count_u64(&values[0], n)
    return count


def bucket_means(const sample[::1] values, size_t factor):
    """Mean of each run of `factor` slots, the last run possibly shorter; missing slots are skipped.

    values   float32[n], float64[n] or uint64[n]
    factor   slots a run, >= 1
    returns  (float64[ceil(n / factor)], NaN where a run has no sample; uint32 counts of samples)
    """
    if factor < 1:
        raise ValueError("a run needs at least one slot")
    cdef size_t n = values.shape[0]
    cdef size_t n_runs = n // factor + (n % factor != 0)
    means_array = np.empty(n_runs, np.float64)
    counts_array = np.empty(n_runs, np.uint32)
    cdef double[::1] means = means_array
    cdef uint32_t[::1] counts = counts_array
    if n == 0:
        return means_array, counts_array
    with nogil:
        if sample is float:
            ms_means_f32(&means[0], &counts[0], &values[0], n, factor)
        elif sample is double:
            ms_means_f64(&means[0], &counts[0], &values[0], n, factor)
        else:
            ms_means_u64(&means[0], &counts[0], &values[0], n, factor)
    return means_array, counts_array
