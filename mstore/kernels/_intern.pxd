from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from mstore.kernels._define cimport Definer, series_path, span
from mstore.kernels._keys cimport key_parts
from mstore.kernels._layout cimport ms_key, ms_series

cdef struct pending_key:
    uint64_t offset       # of the entry in the key region
    uint64_t hash
    uint64_t ref
    uint32_t step_s
    uint8_t type
    uint8_t kind
    uint8_t fresh         # written behind the published end of the region

cdef struct pending_era:
    uint32_t old
    uint32_t new

cdef inline size_t entry_bytes(size_t n) noexcept nogil:
    return (sizeof(ms_key) + n + 7) & ~<size_t>7

cdef class Interner(Definer):
    cdef key_parts parts
    cdef void publish_counts(self) noexcept
    cdef int64_t take_slot(self) noexcept
    cdef void find_free(self) noexcept
    cdef void fill_series(self, uint32_t slot, uint32_t level, uint32_t index, int64_t anchor) noexcept
    cdef void link_series(self, uint32_t slot) noexcept
    cdef void unlink_series(self, uint32_t slot) noexcept
    cdef void set_flags(self, ms_series* series, uint8_t flags) noexcept
    cdef int resolve(self, series_path* path, int64_t t, object override, bint text, uint64_t* ref) except -1
    cdef bint extend_series(self, uint64_t slot) noexcept
    cdef int64_t table_series(self, uint32_t slot) noexcept
    cdef int64_t make_series(self, uint32_t level, uint32_t index, int64_t t) except? -2
    cdef void log_key(self, const char* key, size_t n, uint32_t cluster, uint64_t ref, ms_series* s) except *
    cdef void unchain_key(self, ms_key* entry) noexcept
    cdef uint64_t newest_era(self, uint64_t ref) noexcept
    cdef void kill_keys(self, ms_series* s) noexcept
    cdef void put_kind(self, uint64_t ref, char* type, char* kind) noexcept
    cdef uint64_t intern_key(self, const char* key, size_t n, int64_t t, span* default, int64_t* cluster) except? 0
    cdef void take_parts(self, series_path* path) noexcept
    cdef int intern_path(self, tuple item, int64_t t, object spec, uint64_t* ref) except -1
    cdef void join_eras(self, ms_series* old, ms_series* new) noexcept
    cdef void note_change(self, ms_series* old, ms_series* new) noexcept
    cdef void mend_eras(self, uint64_t ref, uint64_t prev, uint64_t next) noexcept
    cdef void add_key(self, const char* key, size_t n, uint64_t hash, uint32_t cluster, uint64_t ref, uint8_t type,
                      uint8_t kind, uint32_t step_s) except *
    cdef void update_key(self, ms_key* entry, uint64_t hash, uint64_t ref, uint8_t type, uint8_t kind,
                         uint32_t step_s) except *
    cdef uint64_t ignore_word(self, int reason) noexcept
    cdef uint64_t dead_word(self) noexcept
    cdef ms_series* live_at(self, uint64_t ref) noexcept
    cdef void chain_key(self, ms_key* entry, uint64_t ref) noexcept
    cdef void publish_key(self, pending_key* key) noexcept
    cdef void publish_era(self, uint32_t old, uint32_t new) noexcept
    cdef void publish_removal(self, uint64_t ref, uint64_t prev, uint64_t next) noexcept
    cdef void retable(self, uint32_t level, uint32_t metric) noexcept
    cdef void publish_keys(self, uint32_t slot) noexcept
    cdef void unpublish_keys(self, uint32_t slot) noexcept
    cdef void move_keys(self, ms_series* old, ms_series* new) noexcept
