"""Samples against the eras they belong to, before they are acknowledged.

A late sample goes to the era of its time, which may have another value type or step than the series has now. What
that era cannot hold is refused here: in the store it could only be dropped. Lines ask for one sample at a time (era_of,
in _lines_batch), frames for a whole matrix. The twin is reference_eras.py.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from mstore.kernels._atomics cimport ms_load_acquire_u64
from mstore.kernels._layout cimport (
    KIND_GRID, MS_PAGE, MS_REGION_SERIES, TYPE_F32, ms_directory, ms_series,
)
from mstore.kernels._lines_text cimport beyond_reach
from mstore.kernels._reasons cimport OUT_OF_RANGE, TOO_LATE
from mstore.kernels._segment cimport Segment
from mstore.kernels._values cimport bad, recast

import numpy as np

from mstore.errors import InvariantBroken


cdef int view_eras(Segment directory, eras_t* eras) except -1:
    cdef const ms_directory* d = <const ms_directory*>(directory.base + MS_PAGE)
    cdef uint64_t offset
    if directory.length < MS_PAGE + sizeof(ms_directory):
        raise InvariantBroken(f"a directory of {directory.length} bytes has no room for its header")
    offset = d.region[<int>MS_REGION_SERIES].offset
    # SYNC POINT (acquire) grids changed: within an epoch, in which it does not change.
    eras.changed_s = <int64_t>ms_load_acquire_u64(&d.grids_changed_s)
    if offset % 8 or offset > directory.length:
        raise InvariantBroken(f"the series table (offset {offset}) is not inside {directory.length} bytes")
    eras.table = <const ms_series*>(directory.base + offset)
    eras.published = &d.n_series
    eras.room = (directory.length - offset) / sizeof(ms_series)
    return 0


cdef int verdict(const eras_t* eras, uint64_t ref, int64_t t, int64_t newest_s, int vtype, const char* value) noexcept nogil:
    """0, or the Reason why there is no place for a sample in the era of its time."""
    cdef const ms_series* s = era_of(eras, ref, t, &newest_s) if t < eras.changed_s else series_of(eras, ref)
    cdef bint missing = bad(value, 0, vtype)
    cdef uint64_t word
    if s == NULL:
        return 0 if missing else TOO_LATE
    if beyond_reach(t, newest_s, s.step_s, KIND_GRID):
        return TOO_LATE
    return 0 if missing or recast(vtype, value, s.type, &word) else OUT_OF_RANGE


def fit(Segment directory not None, refs, times, values, int vtype, int64_t newest_s):
    """A matrix of grid samples without those that the eras they belong to cannot hold.

    refs      uint64[n], generation << 32 | slot: series whose newest era has the value type `vtype`, in hand; 0 where
              all values are missing
    times     int64[m], seconds
    values    bytes, row-major [m][n] of `vtype`; they need not be aligned
    newest_s  the newest time that is accepted at all
    returns   (the values, with the missing value in place of these; how many were too late, missing ones of series
              that are there included; how many out of range of their era's type)
    raises    ValueError for lengths that do not fit together
    """
    cdef const uint64_t[::1] each = np.require(np.frombuffer(refs, dtype=np.uint64), requirements="A")
    cdef const int64_t[::1] moments = np.require(np.frombuffer(times, dtype=np.int64), requirements="A")
    cdef const uint8_t[::1] given = np.frombuffer(values, dtype=np.uint8)
    cdef Py_ssize_t n = each.shape[0], m = moments.shape[0], width = 4 if vtype == TYPE_F32 else 8, i, k
    cdef int64_t n_refused[2]
    cdef uint64_t blank = 0xFFFFFFFFFFFFFFFFu    # the missing u64, and a NaN of the others
    cdef eras_t eras
    cdef char* at
    cdef int why
    if given.shape[0] != n * m * width:
        raise ValueError(f"{given.shape[0]} bytes of values for {m} times x {n} series of {width} bytes")
    view_eras(directory, &eras)
    kept = PyBytes_FromStringAndSize(NULL, n * m * width)
    at = PyBytes_AS_STRING(kept)
    n_refused[0] = n_refused[1] = 0
    with nogil:
        if n and m:
            memcpy(at, &given[0], n * m * width)
        for i in range(m):
            for k in range(n):
                why = verdict(&eras, each[k], moments[i], newest_s, vtype, at)
                if why:
                    n_refused[why == OUT_OF_RANGE] += 1
                    memcpy(at, &blank, width)
                at += width
    return kept, n_refused[0], n_refused[1]
