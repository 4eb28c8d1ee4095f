from libc.stdint cimport int64_t, uint32_t, uint64_t

from mstore.kernels._expiry cimport Expiry
from mstore.kernels._layout cimport ms_series


cdef struct counted:           # what a dry run knows of a chunk, or of a series
    uint64_t key
    int64_t lowest             # series: chunks after the records so far
    int64_t highest
    unsigned log2              # series: words of its link table by then; 0 = no table

cdef class Room(Expiry):
    cdef counted* seen         # open addressing table by key
    cdef uint64_t seen_mask
    cdef uint64_t seen_used
    cdef uint64_t wanted[11]   # chunks by class that a dry run found missing

    cdef counted* entry(self, uint64_t key, bint* fresh) noexcept nogil
    cdef bint first_time(self, uint64_t key) noexcept nogil
    cdef void want_chunk(self, uint32_t slot, ms_series* s, int64_t n, unsigned size_class) noexcept nogil
    cdef void want_grid(self, uint32_t slot, uint32_t generation, int64_t t) noexcept nogil
    cdef void want_stamped(self, uint32_t slot, uint32_t generation, const int64_t* row, uint32_t count) noexcept nogil
    cdef unsigned largest_table(self, int64_t first_s, int64_t last_s, uint64_t n_rows) noexcept nogil
    cdef void dry_run(self, const char* records, uint64_t size) noexcept nogil
