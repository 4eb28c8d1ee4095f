"""layout.h for the kernels, and the numbers of shm/layout.py that its fields hold; tests/unit/test_layout.py compares them."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "layout.h" nogil:
    const uint64_t MS_PAGE
    const uint64_t MS_RING_HEAD, MS_RING_DRAINED, MS_RING_DURABLE, MS_RING_BYTES, MS_RING_DATA
    const uint64_t MS_STORE_WRITTEN, MS_STORE_DURABLE
    const uint64_t MS_SAMPLES_DATA, MS_EXTENT_BYTES
    const int MS_CHUNK_SLOTS
    const uint32_t MS_NO_LEVEL, MS_IGNORE_SLOT
    const int MS_REGION_LEVELS, MS_REGION_SERIES, MS_REGION_METRICS, MS_REGION_LIVES, MS_REGION_NAMES, MS_REGION_KEYS
    const int MS_REGION_TABLES, MS_REGIONS
    const int MS_TABLE_KEYS, MS_TABLE_LEVELS, MS_TABLE_SERIES, MS_TABLE_METRICS, MS_TABLES
    const int MS_REC_PAD, MS_REC_ROW, MS_REC_COLUMN, MS_REC_STAMPED, MS_REC_SCATTER
    const int MS_REC_LEVEL, MS_REC_METRIC, MS_REC_SERIES, MS_REC_KEY, MS_REC_REMOVE, MS_REC_ERA
    uint64_t MS_LINK_OFFSET(uint64_t word)
    unsigned MS_LINK_CLASS(uint64_t word)
    uint64_t MS_LINK(uint64_t offset, unsigned size_class, uint64_t stamp)
    ctypedef struct ms_segment_header:
        uint64_t committed_bytes
    ctypedef struct ms_region:
        uint64_t offset
        uint64_t reserved
        uint64_t committed
        uint64_t used
    ctypedef struct ms_directory:
        ms_region region[7]
        uint64_t table[4]
        uint64_t table_used[4]
        uint64_t hash_seed
        uint32_t generation
        uint32_t max_series
        uint64_t n_levels
        uint64_t n_series
        uint64_t n_metrics
        uint64_t n_keys
        uint64_t free_series
        uint64_t live_series
        uint64_t critical
        uint64_t lapses
        int64_t grids_changed_s
    ctypedef struct ms_level:
        uint32_t parent
        uint32_t first_child
        uint32_t next_sibling
        uint32_t first_series
        uint64_t name
        uint16_t name_len
        uint16_t type_len
        uint32_t cluster
        uint32_t n_series
        uint32_t n_children
        uint32_t metadata
        uint16_t generation
        uint8_t depth
        uint8_t flags
    ctypedef struct ms_metric:
        uint32_t cluster
        uint32_t step_s
        uint64_t name
        uint64_t unit
        uint64_t columns
        uint16_t name_len
        uint16_t unit_len
        uint16_t columns_len
        uint8_t kind
        uint8_t type
        uint8_t aggregation
        uint8_t n_columns
        uint8_t origin
        uint32_t generation
        int64_t retention_s
    ctypedef struct ms_series:
        uint32_t generation
        uint8_t kind
        uint8_t type
        uint8_t n_columns
        uint8_t flags
        int64_t anchor_s
        uint32_t step_s
        uint16_t n_seen
        uint16_t n_edge
        int64_t cur_n
        uint64_t cur_link
        uint64_t table
        uint64_t link0
        int64_t last_t
        uint32_t level
        uint32_t metric
        uint32_t next_series
        uint32_t prev_slot
        uint32_t prev_generation
        uint32_t next_slot
        uint32_t next_generation
        uint32_t first_key
        int64_t era_start
        int64_t first_n
        int64_t last_n
        uint32_t n_chunks
        uint32_t idle_n
    ctypedef struct ms_key:
        uint64_t ref
        uint32_t hash
        uint32_t index
        uint32_t default_cluster
        uint32_t next_key
        uint16_t len
        uint8_t type
        uint8_t kind
        uint32_t step_s
    ctypedef struct ms_chunk:
        uint32_t series
        uint32_t generation
        int64_t n
        int64_t anchor_s
        uint32_t step_s
        uint8_t kind
        uint8_t type
        uint8_t size_class
        uint8_t n_columns
        uint32_t capacity
        uint32_t count
        uint32_t seq
        uint32_t flags
        int64_t t_max_ms
        uint64_t reserved
    ctypedef struct ms_run:
        uint16_t type
        uint8_t vtype
        uint8_t flags
        uint32_t count
        uint32_t slot
        uint32_t generation
        int64_t t
    ctypedef struct ms_record:
        uint16_t type
        uint8_t vtype
        uint8_t flags
        uint32_t length

cdef enum:
    KIND_GRID = 1
    KIND_STAMPED = 2
    TYPE_F32 = 1
    TYPE_F64 = 2
    TYPE_U64 = 3
    AGG_AVG = 2
    ORIGIN_CONFIGURED = 1
    ORIGIN_REGISTERED = 2
    LEVEL_PROTECTED = 1
    LEVEL_EMPTY = 2
    SERIES_LIVE = 1
    SERIES_ENDED = 2
    SERIES_REMOVING = 4
    CHUNK_UNORDERED = 1
    CHUNK_HEADER_BYTES = 64
    CLASS_FULL_4 = 2
    CLASS_FULL_8 = 3
    CLASS_TABLE_8 = 4

# What follows from these.
cdef enum:
    CHUNK_CLASSES = 4      # classes of chunks; higher ones are link tables
    TABLE_LOG2_MAX = 15    # of the words of the largest link table

cdef inline int64_t floor_div(int64_t a, int64_t b) noexcept nogil:
    cdef int64_t q = a / b
    return q - 1 if a % b < 0 else q
