"""Fewer points out of many: runs of slots give their smallest, largest or last sample, or the points an eye would keep.

Means of runs are in _aggregate. Every kernel says which slots, or which values, remain; nothing is rounded on the way.
"""

from libc.math cimport NAN, fabs, floor, isnan
from libc.stdint cimport int64_t, uint64_t

import numpy as np

ctypedef fused sample:
    float
    double
    uint64_t

cdef uint64_t MISSING = <uint64_t>0xFFFFFFFFFFFFFFFF


cdef inline bint present(sample value) noexcept nogil:
    if sample is uint64_t:
        return value != MISSING
    else:
        return value == value


cdef inline double as_double(sample value) noexcept nogil:
    if sample is uint64_t:
        return <double>value if value != MISSING else NAN
    else:
        return <double>value


cdef inline size_t runs_of(size_t n, size_t factor):
    return n // factor + (n % factor != 0)


def run_extremes(const sample[::1] values, size_t factor, bint largest):
    """The smallest (or largest) sample of each run of `factor` slots, the last run possibly shorter.

    values   float32[n], float64[n] or uint64[n]; missing = NaN or 2^64-1
    factor   slots a run, >= 1
    returns  [ceil(n / factor)] of the same type; of equal ones the first; a run without a sample is missing
    """
    if factor < 1:
        raise ValueError("a run needs at least one slot")
    cdef size_t n = values.shape[0], i = 0, run, end
    cdef sample best
    cdef bint found
    if sample is float:
        chosen_array = np.empty(runs_of(n, factor), np.float32)
    elif sample is double:
        chosen_array = np.empty(runs_of(n, factor), np.float64)
    else:
        chosen_array = np.empty(runs_of(n, factor), np.uint64)
    cdef sample[::1] chosen = chosen_array
    with nogil:
        for run in range(<size_t>chosen.shape[0]):
            end = i + factor if factor < n - i else n
            best = values[i]
            found = present(best)
            for i in range(i + 1, end):
                if present(values[i]) and (not found or (values[i] > best if largest else values[i] < best)):
                    best = values[i]
                    found = True
            i = end
            chosen[run] = best
    return chosen_array


def run_lasts(const sample[::1] values, size_t factor):
    """Where the last sample of each run of `factor` slots is; the run's last slot where it has none.

    values   float32[n], float64[n] or uint64[n];  factor  slots a run, >= 1
    returns  int64[ceil(n / factor)], rising
    """
    if factor < 1:
        raise ValueError("a run needs at least one slot")
    cdef size_t n = values.shape[0], start = 0, end, i, run
    places_array = np.empty(runs_of(n, factor), np.int64)
    cdef int64_t[::1] places = places_array
    with nogil:
        for run in range(<size_t>places.shape[0]):
            end = start + factor if factor < n - start else n
            i = end - 1
            while i > start and not present(values[i]):
                i -= 1
            places[run] = i if present(values[i]) else end - 1
            start = end
    return places_array


def lttb(const sample[::1] values, size_t factor):
    """The slots that largest triangles (LTTB) keep, so that about one of `factor` remains.

    values   float32[n], float64[n] or uint64[n]; missing = NaN or 2^64-1
    factor   >= 2
    returns  int64[m], rising; m = max(n // factor, 2), at most n; the first and the last slot are always kept

    The slots between the ends are cut into m - 2 runs. Of each, the slot is kept that makes the largest triangle with
    the slot kept before it and the mean of the next run, which reaches one slot into the run after. Where a corner of
    the triangle is missing there is no area, and the last such slot of the run is kept: so gaps stay visible.

    follows  ClusterCockpit/cc-lib v2.12.0 resampler.LargestTriangleThreeBucket, in its arithmetic, after
             S. Steinarsson, Downsampling Time Series for Visual Representation, 2013
    """
    if factor < 2:
        raise ValueError("lttb needs runs of at least two slots")
    cdef size_t n = values.shape[0]
    cdef size_t m = n // factor if n // factor > 2 else 2
    if n <= m:
        return np.arange(n, dtype=np.int64)
    places_array = np.empty(m, np.int64)
    cdef int64_t[::1] places = places_array
    places[0] = 0
    places[m - 1] = n - 1
    cdef size_t low = 1, middle, high, i, k, kept = 0
    cdef double run = 0.0, mean_x, mean_y, x, y, area, largest
    if m > 2:
        run = <double>(n - 2) / <double>(m - 2)
    middle = <size_t>floor(run) + 1
    with nogil:
        for k in range(m - 2):
            high = <size_t>floor(<double>(k + 2) * run) + 1
            if high >= n - 1:
                high = n - 2
            mean_x = 0.0
            mean_y = 0.0
            for i in range(middle, high + 1):
                mean_x += <double>i
                mean_y += as_double(values[i])
            # Without a slot in it (three points in all) both are NaN, as are means over a missing sample.
            mean_x /= <double>(high + 1 - middle)
            mean_y /= <double>(high + 1 - middle)
            x = <double>kept
            y = as_double(values[kept])
            largest = -1.0
            for i in range(low, middle):
                area = fabs(((x - <double>i) * (mean_y - y) - (x - mean_x) * (as_double(values[i]) - y)) * 0.5)
                if area > largest or isnan(area):
                    largest = area
                    kept = i
            places[k + 1] = kept
            low = middle
            middle = high
    return places_array
