"""Which samples of a block of records have times before a limit: marks of what came after its time was archived.

Only the times are looked at, a few bytes a record; of a block with none of them nothing is allocated.
"""

import numpy as np

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from mstore.kernels._layout cimport *
from mstore.kernels._records cimport *

MARK = np.dtype([("slot", "<u4"), ("generation", "<u4"), ("t_ms", "<i8")])

cdef struct mark:
    uint32_t slot
    uint32_t generation
    int64_t t_ms

assert MARK.itemsize == sizeof(mark)


cdef uint64_t marks_of(const char* at, int64_t before_s, mark* out) noexcept nogil:
    """Marks of one sample record; out may be NULL: they are only counted then."""
    cdef const ms_run* run = <const ms_run*>at
    cdef const char* body = at + sizeof(ms_run)
    cdef uint64_t n = 0, i, width
    cdef int64_t t, step
    cdef mark one
    if run.type == MS_REC_ROW or run.type == MS_REC_SCATTER:
        if run.t >= before_s:
            return 0
        one.t_ms = run.t * 1000
        for i in range(run.count):
            one.slot, one.generation = run.slot + <uint32_t>i, run.generation
            if run.type == MS_REC_SCATTER:
                memcpy(&one.slot, body + 8 * i, 4)
                memcpy(&one.generation, body + 8 * i + 4, 4)
            if out != NULL:
                out[i] = one
        return run.count
    one.slot, one.generation = run.slot, run.generation
    if run.type == MS_REC_COLUMN:
        memcpy(&step, body, 8)
        for i in range(run.count):
            t = run.t + <int64_t>i * step
            if t < before_s:
                one.t_ms = t * 1000
                if out != NULL:
                    out[n] = one
                n += 1
        return n
    width = 8 * (1 + <uint64_t>run.vtype)
    for i in range(run.count):
        memcpy(&t, body + i * width, 8)
        if t < before_s * 1000:
            one.t_ms = t
            if out != NULL:
                out[n] = one
            n += 1
    return n


cdef uint64_t walk(const char* base, uint64_t size, int64_t before_s, mark* out) noexcept nogil:
    cdef uint64_t at = 0, n = 0, length
    cdef const ms_run* run
    while at < size:
        length = record_bytes(base + at, size - at)
        if length == 0:
            break
        run = <const ms_run*>(base + at)
        if MS_REC_ROW <= run.type <= MS_REC_SCATTER:
            n += marks_of(base + at, before_s, out + n if out != NULL else NULL)
        at += length
    return n


def late_marks(const unsigned char[::1] records, int64_t before_s):
    """Marks of the samples before a second, in the order of the records.

    records   whole records, as they were applied; what is no sample is passed over
    before_s  |before_s| < 2^53
    returns   MARK[n]: the reference that the record names, and the time in ms that it says
    """
    cdef uint64_t n
    cdef char[::1] out
    if records.shape[0] == 0:
        return np.empty(0, MARK)
    with nogil:
        n = walk(<const char*>&records[0], records.shape[0], before_s, NULL)
    found = np.empty(n, MARK)
    if n:
        out = found.view(np.int8)
        with nogil:
            walk(<const char*>&records[0], records.shape[0], before_s, <mark*>&out[0])
    return found
