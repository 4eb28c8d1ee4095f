"""One scan of an array of samples: how many, which is first and last, smallest, largest, and their sum.

The loops are in statistics.h.
"""

from libc.stdint cimport uint64_t

ctypedef fused sample:
    float
    double
    uint64_t

cdef extern from "statistics.h" nogil:
    size_t ms_count_f32(const float* values, size_t n)
    size_t ms_count_f64(const double* values, size_t n)
    double ms_sum_f32(const float* values, size_t n)
    double ms_sum_f64(const double* values, size_t n)
    void ms_extremes_f32(double* low, double* high, const float* values, size_t n)
    void ms_extremes_f64(double* low, double* high, const double* values, size_t n)
    size_t ms_scan_u64(
        uint64_t* above, uint64_t* below, uint64_t* low, uint64_t* high, const uint64_t* values, size_t n
    )


cdef inline bint present(sample value) noexcept nogil:
    if sample is uint64_t:
        return value != <uint64_t>0xFFFFFFFFFFFFFFFF
    else:
        return value == value


def scan(const sample[::1] values):
    """(count, first, last, min, max, sum) of the samples in values.

    values   float32[n], float64[n] or uint64[n]; missing = NaN or 2^64-1
    returns  first and last are places; min and max as Python numbers; sum a float, of uint64 the exact int. Without
             a sample all are 0
    """
    cdef size_t n = values.shape[0], count = 0, first = 0, last = 0
    cdef double low = 0, high = 0, total = 0
    cdef uint64_t least = 0, most = 0, above = 0, below = 0
    if n == 0:
        return 0, 0, 0, 0, 0, 0
    with nogil:
        if sample is float:
            count = ms_count_f32(&values[0], n)
            total = ms_sum_f32(&values[0], n)
            ms_extremes_f32(&low, &high, &values[0], n)
        elif sample is double:
            count = ms_count_f64(&values[0], n)
            total = ms_sum_f64(&values[0], n)
            ms_extremes_f64(&low, &high, &values[0], n)
        else:
            count = ms_scan_u64(&above, &below, &least, &most, &values[0], n)
        if count:
            last = n - 1
            while not present(values[first]):
                first += 1
            while not present(values[last]):
                last -= 1
    if count == 0:
        return 0, 0, 0, 0, 0, 0
    if sample is uint64_t:
        return count, first, last, least, most, (int(above) << 32) + int(below)
    else:
        return count, first, last, low, high, total
