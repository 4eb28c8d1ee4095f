# Chunks for the values of sample records (docs/format/wal-samples.md), for the kernels that read them.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from mstore.kernels._chunks cimport *
from mstore.kernels._records cimport *

cdef inline uint32_t grid_slots(unsigned size_class, int value_type) noexcept nogil:
    """Slots that fit a chunk of the classes 0..3."""
    cdef uint32_t slots = (SIZES[size_class] - CHUNK_HEADER_BYTES) >> (2 if value_type == TYPE_F32 else 3)
    return slots if slots < MS_CHUNK_SLOTS else MS_CHUNK_SLOTS

cdef inline unsigned grid_class(int64_t n, uint32_t place, int value_type) noexcept nogil:
    """The smallest class for a new chunk; only chunk 0 starts small."""
    if n == 0 and place < grid_slots(0, value_type):
        return 0
    if n == 0 and place < grid_slots(1, value_type):
        return 1
    return CLASS_FULL_4 if value_type == TYPE_F32 else CLASS_FULL_8
