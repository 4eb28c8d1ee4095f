from libc.stdint cimport int64_t, uint32_t, uint64_t

from mstore.kernels._layout cimport ms_run
from mstore.kernels._room cimport Room


cdef enum:
    TOGETHER = 64          # ROW records applied together at most

cdef struct shift:
    uint32_t slot
    int64_t t

cdef struct tally:
    uint64_t samples
    uint64_t stale

cdef struct sheet:         # ROW records of one generation and type, as one matrix: the next sample of each, side by side
    uint32_t depth
    uint32_t generation
    int vtype
    int64_t earliest
    int64_t t[TOGETHER]
    const char* values[TOGETHER]

cdef class GridSamples(Room):
    cdef shift* shifted
    cdef uint32_t n_shifted

    cdef int slow(self, uint32_t slot, uint32_t generation, int64_t t, int vtype, const char* value, tally* counts) noexcept nogil
    cdef int apply_row(self, const ms_run* run, tally* counts) noexcept nogil
    cdef int apply_rows(self, const ms_run** runs, uint32_t n, tally* counts) noexcept nogil
    cdef int apply_sheet(self, sheet* rows, uint32_t slot, uint32_t count, tally* counts) noexcept nogil
    cdef int apply_scatter(self, const ms_run* run, tally* counts) noexcept nogil
    cdef int apply_column(self, const ms_run* run, tally* counts) noexcept nogil
