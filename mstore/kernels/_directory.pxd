from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from mstore.kernels._atomics cimport *
from mstore.kernels._hash cimport ms_hash
from mstore.kernels._layout cimport *
from mstore.kernels._segment cimport Segment

cdef enum:
    NAME_MAX = 255
    KEY_MAX = 8192

cdef extern from *:
    """
    #define MS_ODD 0x9E3779B97F4A7C15ull
    """
    const uint64_t MS_ODD

# The bodies of definition records, after the ms_record header; docs/format/wal-definitions.md draws them.
cdef packed struct rec_level:
    uint32_t id
    uint32_t parent
    uint16_t type_len
    uint16_t name_len
    uint32_t generation

cdef packed struct rec_metric:
    uint32_t index
    uint32_t cluster
    uint32_t step_s
    uint8_t kind
    uint8_t type
    uint8_t aggregation
    uint8_t n_columns
    uint8_t origin
    uint8_t pad
    uint16_t name_len
    uint16_t unit_len
    uint16_t columns_len
    int64_t retention_s

cdef packed struct rec_series:
    uint32_t slot
    uint32_t generation
    uint32_t level
    uint32_t metric
    uint8_t kind
    uint8_t type
    uint8_t n_columns
    uint8_t flags
    uint32_t step_s
    int64_t anchor_s
    int64_t era_start
    uint64_t prev
    uint64_t next

cdef packed struct rec_key:
    uint64_t ref
    uint32_t default_cluster
    uint16_t len
    uint8_t type
    uint8_t kind

cdef packed struct rec_remove:
    uint64_t ref
    uint64_t prev
    uint64_t next

# A growable byte buffer for records.
cdef class RecordBuffer:
    cdef char* bytes
    cdef size_t used
    cdef size_t room
    cdef char* grow(self, size_t n) except NULL
    cdef char* begin(self, int type, size_t body, size_t text) except NULL
    cdef bytes take(self)

cdef class DirectoryReader:
    cdef readonly Segment segment
    cdef char* base
    cdef uint64_t length
    cdef ms_directory* head
    cdef ms_level* levels_p
    cdef ms_series* series_p
    cdef ms_metric* metrics_p
    cdef char* keys_p
    cdef uint64_t seed
    cdef uint32_t id_mask            # bits of a 4-byte slot that hold the id
    cdef uint64_t hash_level(self, uint32_t parent, const char* name, size_t n, size_t type_len) noexcept nogil
    cdef uint64_t hash_metric(self, uint32_t cluster, const char* name, size_t n) noexcept nogil
    cdef uint64_t hash_series(self, uint32_t level, uint32_t metric) noexcept nogil
    cdef void* table_slots(self, int table, uint64_t* word, uint64_t* mask) noexcept nogil
    cdef bint table_moved(self, int table, uint64_t word) noexcept nogil
    cdef bint name_is(self, uint64_t offset, const char* text, size_t n) noexcept nogil
    cdef int64_t level_c(self, uint32_t parent, const char* name, size_t n, size_t type_len, uint64_t bound) noexcept nogil
    cdef int64_t metric_c(self, uint32_t cluster, const char* name, size_t n, uint64_t bound) noexcept nogil
    cdef int64_t series_c(self, uint32_t level, uint32_t metric, uint64_t bound, bint pending) noexcept nogil
    cdef ms_key* key_c(self, uint64_t hash, const char* key, size_t n, uint32_t cluster) noexcept nogil
    cdef int64_t present(self, int64_t level) noexcept nogil
    cdef int64_t child_c(self, int64_t parent, object type, object id, uint64_t bound)
    cdef int64_t below_host_c(self, int64_t level, object type, object type_id, object subtype, object subtype_id,
                              uint64_t bound)
    cdef list walk_series(self, uint32_t level, bint eras)
    cdef bint copy_metric(self, uint32_t index, ms_metric* into) noexcept nogil
    cdef bint copy_series(self, uint32_t slot, ms_series* into) noexcept nogil
    cdef void put_series_row(self, RecordBuffer out, int type, uint32_t slot, ms_series* s) except *
    cdef void put_level(self, RecordBuffer out, uint32_t id) except *
    cdef void put_metric(self, RecordBuffer out, uint32_t index) except *
    cdef void put_series(self, RecordBuffer out, int type, uint32_t slot) except *
    cdef void put_key(self, RecordBuffer out, ms_key* entry) except *
    cdef void put_remove(self, RecordBuffer out, uint64_t ref, uint64_t prev, uint64_t next) except *

cdef inline uint64_t slot_bytes(int table) noexcept nogil:
    return 8 if table == MS_TABLE_KEYS else 4

# A slot of a table of 4-byte words: the id below, the hash in the bits that no id needs.
cdef inline uint32_t short_slot(uint64_t hash, uint32_t mask, uint32_t id) noexcept nogil:
    return (<uint32_t>(hash >> 32) & ~mask) | (id + 2)

# The id that a slot leads to if its hash bits agree; -1 if they do not, or the slot is empty or taken away.
cdef inline int64_t short_id(uint32_t slot, uint64_t hash, uint32_t mask) noexcept nogil:
    if slot < 2 or (slot ^ <uint32_t>(hash >> 32)) & ~mask:
        return -1
    return <int64_t>(slot & mask) - 2

cdef const char* text_of(object text, Py_ssize_t* n)
cdef size_t join_name(char* into, const char* type, size_t type_len, const char* id, size_t id_len) noexcept nogil
