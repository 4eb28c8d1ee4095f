"""Statistics of many rows of one buffer in one call: smallest, largest, mean and number of the samples of each.

    values   | row 0: f32 [n0] .. | row 1: f64 [n1] ....... |        each begins at a multiple of 8 bytes

Each row is scanned as _statistics does it, so its numbers are the same; the loops are in statistics.h.
"""

from libc.math cimport NAN
from libc.stdint cimport int64_t, uint8_t, uint64_t

from mstore.kernels._layout cimport TYPE_F32, TYPE_F64, TYPE_U64

import numpy as np

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


cdef size_t scan_floats(const char* at, int64_t type, size_t n, double* into) noexcept nogil:
    """Min, max and mean of a row to into[0:3]; the number of its samples."""
    cdef size_t count
    if type == TYPE_F32:
        count = ms_count_f32(<const float*>at, n)
        if count:
            ms_extremes_f32(&into[0], &into[1], <const float*>at, n)
            into[2] = ms_sum_f32(<const float*>at, n) / count
    else:
        count = ms_count_f64(<const double*>at, n)
        if count:
            ms_extremes_f64(&into[0], &into[1], <const double*>at, n)
            into[2] = ms_sum_f64(<const double*>at, n) / count
    return count


def scan(const uint8_t[::1] values, const int64_t[::1] types, const int64_t[::1] at, const int64_t[::1] n):
    """(numbers float64[g, 3], counts int64[g]) of g rows.

    values   bytes of all rows; missing = NaN or 2^64-1
    types    int64[g]: 1 f32, 2 f64, 3 u64;  at  int64[g]: where each begins, a multiple of 8;  n  int64[g] values
    returns  min, max, mean; NaN where counts is 0. Means of u64 are rounded once
    """
    cdef Py_ssize_t i, rows = types.shape[0]
    cdef int64_t width
    cdef uint64_t above, below, least, most
    if at.shape[0] != rows or n.shape[0] != rows:
        raise ValueError("rows with another number of types, places or sizes")
    for i in range(rows):
        if not TYPE_F32 <= types[i] <= TYPE_U64:
            raise ValueError(f"row {i} is of type {types[i]}")
        width = 4 if types[i] == TYPE_F32 else 8
        if at[i] < 0 or at[i] & 7 or n[i] < 0 or n[i] > (values.shape[0] - at[i]) // width:
            raise ValueError(f"row {i} lies outside of the values")
    numbers_array = np.full((rows, 3), NAN)
    counts_array = np.zeros(rows, np.int64)
    cdef double[:, ::1] numbers = numbers_array
    cdef int64_t[::1] counts = counts_array
    if not rows or not values.shape[0]:
        return numbers_array, counts_array
    cdef const char* base = <const char*>&values[0]
    cdef bint unsigned = False
    with nogil:
        for i in range(rows):
            if types[i] == TYPE_U64:
                unsigned = True
            elif n[i]:
                counts[i] = scan_floats(base + at[i], types[i], n[i], &numbers[i, 0])
    if unsigned:
        for i in range(rows):
            if types[i] == TYPE_U64 and n[i]:
                above = below = least = most = 0
                counts[i] = ms_scan_u64(&above, &below, &least, &most, <const uint64_t*>(base + at[i]), n[i])
                if counts[i]:
                    numbers[i, 0], numbers[i, 1] = least, most
                    numbers[i, 2] = ((int(above) << 32) + int(below)) / counts_array[i].item()
    return numbers_array, counts_array
