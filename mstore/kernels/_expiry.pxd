from libc.stdint cimport int64_t, uint32_t, uint64_t

from mstore.kernels._chunks cimport Chunks
from mstore.kernels._layout cimport ms_series


cdef struct candidate:  # a chunk that may be evicted
    int64_t t_end_s
    int64_t n
    uint32_t slot

cdef struct freed:      # one range of a FREE or EVICT record
    uint32_t slot
    uint32_t generation
    int64_t first
    int64_t last

cdef class Expiry(Chunks):
    cdef candidate* heap        # bounded max-heap of the eviction scan
    cdef uint32_t heap_size
    cdef uint32_t heap_limit
    cdef uint64_t scan_at
    cdef freed* plan
    cdef uint64_t plan_room

    cdef bint expired_range(self, uint32_t slot, ms_series* s, int64_t before_s, freed* out) noexcept nogil
    cdef void heap_offer(self, int64_t t_end_s, uint32_t slot, int64_t n) noexcept nogil
