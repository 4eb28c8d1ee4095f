from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from mstore.kernels._directory cimport DirectoryReader, RecordBuffer
from mstore.kernels._layout cimport ms_metric

# A definition of a metric as the writer needs it.
cdef struct metric_def:
    uint32_t step_s
    uint8_t type
    uint8_t kind
    uint8_t aggregation
    uint8_t n_columns
    uint8_t origin
    int64_t retention_s
    const char* unit
    size_t unit_len
    const char* columns
    size_t columns_len

# One name as bytes somewhere.
cdef struct span:
    const char* at
    size_t n

# Where a series hangs, taken apart and checked. host.n > 0; cluster.n may be 0.
cdef struct series_path:
    span cluster
    span host
    span metric
    span type
    span type_id
    span subtype
    span subtype_id
    span unit

# Points `out` at the UTF-8 of a str or bytes; 0, or the reason it cannot be a name.
cdef int check_text(object text, span* out, bint required) except -1

cdef class Definer(DirectoryReader):
    cdef readonly int fd
    cdef public int64_t commits_allowed
    cdef public uint64_t limit_bytes
    cdef public bint admits
    cdef uint64_t n_levels, n_series, n_metrics, n_keys, names_used, keys_used, live
    cdef bint register_unknown
    cdef uint32_t default_step_s, config_version
    cdef uint64_t max_series, max_keys
    cdef object source
    cdef dict retentions
    cdef set unknown
    cdef set removing, hidden, ignored
    cdef set protected             # (cluster, host) names
    cdef RecordBuffer log, new_series, new_keys, eras
    cdef bint free_known, changing

    cdef void begin(self) noexcept
    cdef void turn_critical(self) noexcept
    cdef bint commit(self, int region, uint64_t upto) noexcept
    cdef int64_t store_text(self, const char* text, size_t n) noexcept
    cdef bint allocate(self, uint64_t region, uint64_t at, uint64_t n) noexcept
    cdef uint64_t entry_hash(self, int table, uint32_t low) noexcept nogil
    cdef void expect_entry(self, int table, uint64_t word) noexcept nogil
    cdef uint64_t entries(self, int table) noexcept nogil
    cdef bint ensure_table(self, int table, uint64_t extra) noexcept
    cdef uint64_t read_slot(self, int table, uint64_t i) noexcept nogil
    cdef void write_slot(self, int table, uint64_t i, uint64_t word) noexcept nogil
    cdef uint32_t low_of(self, int table, uint64_t word) noexcept nogil
    cdef void split_table(self, int table, uint64_t log2, char* moved) noexcept
    cdef void trim(self, int table, uint64_t i, uint64_t mask) noexcept
    cdef uint64_t slot_word(self, int table, uint64_t hash, uint32_t low) noexcept nogil
    cdef void put_slot(self, int table, uint64_t hash, uint32_t low) noexcept
    cdef bint replace_slot(self, int table, uint64_t hash, uint32_t low, uint32_t by) noexcept
    cdef int64_t make_level(self, uint32_t parent, const char* name, size_t n, size_t type_len) except? -2
    cdef bint is_protected(self, uint32_t id) except -1
    cdef void show_level(self, uint32_t id) noexcept
    cdef void hide_level(self, uint32_t id) noexcept
    cdef bint is_configured(self, uint32_t cluster) noexcept
    cdef int64_t level_for(self, int64_t parent, span type, span id, bint create) except? -2
    cdef int64_t make_metric(self, uint32_t cluster, span name, metric_def* d) except? -2
    cdef bint write_definition(self, ms_metric* metric, metric_def* d) noexcept
    cdef bint read_spec(self, object spec, metric_def* d) except? False
    cdef int64_t metric_for(self, int64_t* cluster, series_path* path, object override, bint create, int* reason) except? -2
    cdef object spec_for(self, series_path* path)
    cdef int adopt_unit(self, uint32_t index, series_path* path) except -1
    cdef bint same_definition(self, ms_metric* metric, metric_def* d) noexcept
