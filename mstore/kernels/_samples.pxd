from libc.stdint cimport int64_t, uint32_t, uint64_t

from mstore.kernels._layout cimport ms_chunk, ms_run, ms_series
from mstore.kernels._room cimport Room


cdef struct shift:
    uint32_t slot
    int64_t t

cdef struct tally:
    uint64_t samples
    uint64_t stale

cdef class Samples(Room):
    cdef shift* shifted
    cdef uint32_t n_shifted

    cdef int slow(self, uint32_t slot, uint32_t generation, int64_t t, int vtype, const char* value, tally* counts) noexcept nogil
    cdef int apply_row(self, const ms_run* run, tally* counts) noexcept nogil
    cdef int apply_scatter(self, const ms_run* run, tally* counts) noexcept nogil
    cdef int apply_column(self, const ms_run* run, tally* counts) noexcept nogil
    cdef int apply_stamped(self, const ms_run* run, tally* counts) noexcept nogil
    cdef int put_row(self, uint32_t slot, ms_series* s, const uint64_t* row) noexcept nogil
    cdef void settle(self, ms_series* s, int64_t n, ms_chunk* chunk, ms_chunk* saved, uint64_t size) noexcept nogil
