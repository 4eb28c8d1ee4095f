# How long a record of a ring or of the log is, told by its first bytes. The one definition for all kernels that walk
# records (docs/format/wal-samples.md says it in words; reference_ring.record_length is its twin).
from libc.stdint cimport uint64_t

from mstore.kernels._layout cimport *

cdef enum:
    COUNT_MAX = 8192     # limits.RUN_VALUES_MAX; tests/unit/test_ring_records.py holds them together
    COLUMNS_MAX = 63     # limits.STAMPED_COLUMNS_MAX

# What is wrong with a record, by the names of _ring.FAULTS.
cdef enum:
    SOUND = 0
    FAULT_CUT = 1        # it does not fit what is left
    FAULT_LENGTH = 2     # its stated length is below 8 or no multiple of 8
    FAULT_TYPE = 3
    FAULT_VTYPE = 4
    FAULT_COUNT = 5
    FAULT_COLUMNS = 6


cdef inline int measure(const char* at, uint64_t left, uint64_t* length) noexcept nogil:
    """SOUND and the length of the record at `at`, of which `left` bytes may be read; else what is wrong with it."""
    cdef const ms_run* run = <const ms_run*>at
    cdef uint64_t n, width
    length[0] = 0
    if left < sizeof(ms_record):
        return FAULT_CUT
    if run.type == MS_REC_PAD or run.type >= MS_REC_LEVEL:
        n = (<const ms_record*>at).length
        if n < sizeof(ms_record) or n % 8:
            return FAULT_LENGTH
    else:
        if left < sizeof(ms_run):
            return FAULT_CUT
        if run.type > MS_REC_SCATTER:
            return FAULT_TYPE
        if run.count == 0 or run.count > COUNT_MAX:
            return FAULT_COUNT
        n = run.count
        if run.type == MS_REC_STAMPED:
            if run.vtype == 0 or run.vtype > COLUMNS_MAX:
                return FAULT_COLUMNS
            n = sizeof(ms_run) + n * 8 * (1 + <uint64_t>run.vtype)
        else:
            if run.vtype < TYPE_F32 or run.vtype > TYPE_U64:
                return FAULT_VTYPE
            width = 4 if run.vtype == TYPE_F32 else 8
            n = sizeof(ms_run) + ((n * width + 7) & ~<uint64_t>7)
            if run.type == MS_REC_COLUMN:
                n += 8
            elif run.type == MS_REC_SCATTER:
                n += 8 * <uint64_t>run.count
    if n > left:
        return FAULT_CUT
    length[0] = n
    return SOUND


cdef inline uint64_t record_bytes(const char* at, uint64_t left) noexcept nogil:
    """Length of the record at `at`; 0 when it is malformed or does not fit into `left` bytes."""
    cdef uint64_t length
    measure(at, left, &length)
    return length
