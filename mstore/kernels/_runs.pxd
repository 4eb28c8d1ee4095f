# Sample records as rings and the log hold them (docs/format/wal-samples.md), for the kernels that read them.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from mstore.kernels._chunks cimport *

cdef enum:
    COUNT_MAX = 8192


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


cdef inline uint64_t record_bytes(const char* at, uint64_t left) noexcept nogil:
    """Length of the record at `at`; 0 when it is malformed or does not fit into `left` bytes."""
    cdef const ms_run* run = <const ms_run*>at
    cdef const ms_record* record = <const ms_record*>at
    cdef uint64_t length, width
    if left < 8:
        return 0
    if run.type == MS_REC_PAD or run.type >= MS_REC_LEVEL:
        length = record.length if run.type == MS_REC_PAD else (<uint64_t>record.length + 7) & ~<uint64_t>7
        return length if 8 <= length <= left and length % 8 == 0 else 0
    if left < sizeof(ms_run) or run.count > COUNT_MAX:
        return 0
    if run.type == MS_REC_STAMPED:
        length = sizeof(ms_run) + <uint64_t>run.count * (1 + run.vtype) * 8
        return length if 1 <= run.vtype <= 63 and length <= left else 0
    if run.type > MS_REC_SCATTER or run.vtype < TYPE_F32 or run.vtype > TYPE_U64:
        return 0
    width = 4 if run.vtype == TYPE_F32 else 8
    length = sizeof(ms_run) + ((run.count * width + 7) & ~<uint64_t>7)
    if run.type == MS_REC_COLUMN:
        length += 8
    elif run.type == MS_REC_SCATTER:
        length += <uint64_t>run.count * 8
    return length if length <= left else 0
