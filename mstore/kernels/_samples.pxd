from libc.stdint cimport int64_t, uint32_t, uint64_t

from mstore.kernels._grid cimport GridSamples, tally
from mstore.kernels._layout cimport ms_chunk, ms_run, ms_series


cdef class Samples(GridSamples):
    cdef int rows_from(self, const char* at, uint64_t left, uint64_t* length, uint32_t* singly, tally* counts) noexcept nogil
    cdef int apply_stamped(self, const ms_run* run, tally* counts) noexcept nogil
    cdef int put_row(self, uint32_t slot, ms_series* s, const uint64_t* row) noexcept nogil
    cdef void settle(self, ms_series* s, int64_t n, ms_chunk* chunk, ms_chunk* saved, uint64_t size) noexcept nogil
