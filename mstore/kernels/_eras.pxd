"""Eras as whoever takes samples in sees them: which one a time belongs to, before the sample is on its way."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mstore.kernels._atomics cimport ms_load_acquire_u32, ms_load_acquire_u64
from mstore.kernels._layout cimport SERIES_LIVE, SERIES_REMOVING, ms_series
from mstore.kernels._segment cimport Segment

cdef enum:
    ERAS_MAX = 65536          # followed from one series: a damaged directory may lead in circles

cdef struct eras_t:           # the series table as one batch sees it
    const ms_series* table
    const uint64_t* published # how many there are: it grows while a batch is in hand
    uint64_t room             # as many fit the segment
    int64_t changed_s         # only samples before this time can belong to an era of another type or step

# Look at a directory's words. To be called within the worker's epoch: what is found holds until its end, because types
# and steps change only while no worker is in one, and an era that is removed waits for it.
cdef int view_eras(Segment directory, eras_t* eras) except -1

cdef inline uint64_t n_series_of(const eras_t* eras) noexcept nogil:
    # SYNC POINT (acquire) counts: entries below them are complete
    cdef uint64_t n = ms_load_acquire_u64(eras.published)
    return n if n < eras.room else eras.room

cdef inline const ms_series* series_of(const eras_t* eras, uint64_t ref) noexcept nogil:
    """The series of a reference; NULL for 0, and for one that nobody may have in hand."""
    cdef uint64_t slot = <uint32_t>ref
    if ref == 0 or slot >= n_series_of(eras) or eras.table[slot].generation != ref >> 32:
        return NULL
    return eras.table + slot

cdef inline const ms_series* era_of(const eras_t* eras, uint64_t ref, int64_t t, int64_t* newest_s) noexcept nogil:
    """The era that a grid sample at t (seconds) goes to when it is applied under this reference, as _chunks.resolve has it.

    newest_s   the newest time accepted at all; set to where the next era begins if the sample belongs to an older one
    returns    NULL: the era is about to be removed, because all of it is past retention
    """
    cdef uint64_t n_series = n_series_of(eras)
    cdef const ms_series* s = series_of(eras, ref)
    cdef const ms_series* older
    cdef uint32_t hops = 0, states
    cdef bint going = False
    if s == NULL:
        return NULL
    while t < s.era_start and 0 < s.prev_slot <= n_series and hops < ERAS_MAX:
        older = eras.table + (s.prev_slot - 1)
        # SYNC POINT (acquire) series live: the fields of an era that is there
        states = ms_load_acquire_u32(&older.kind) >> 24
        if older.generation != s.prev_generation or not states & SERIES_LIVE:
            break
        going = states & SERIES_REMOVING != 0
        newest_s[0] = s.era_start
        s = older
        hops += 1
    if going:
        return NULL
    return s
