from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from mstore.kernels._directory cimport DirectoryReader, ms_directory, ms_level, ms_metric, ms_series
from mstore.kernels._segment cimport Segment

cdef extern from "layout.h" nogil:
    enum: MS_SAMPLES_DATA
    enum: MS_CHUNK_SLOTS
    ctypedef struct ms_segment_header:
        uint64_t committed_bytes
    ctypedef struct ms_chunk:
        uint32_t series
        uint32_t generation
        int64_t n
        uint8_t kind
        uint8_t type
        uint8_t n_columns
        uint32_t capacity
        uint32_t count
        uint32_t seq
    uint64_t MS_LINK_OFFSET(uint64_t word)
    unsigned MS_LINK_CLASS(uint64_t word)

# One era of a series as it was when the chain was read: what never changes while the generation stays.
cdef struct era:
    const ms_series* at
    uint32_t slot
    uint32_t generation
    uint8_t kind
    uint8_t type
    uint8_t n_columns
    int64_t anchor_s
    int64_t step_s
    uint32_t level
    uint32_t metric
    int64_t start            # the times it covers, [start, stop): seconds; stamped: ms
    int64_t stop

# Eras of one or many chains, newest first within a chain.
cdef struct era_pool:
    era* eras
    size_t n
    size_t room

# Where values go: into an array of `type`, or onto sums and coverage.
cdef struct sink:
    char* values
    uint8_t type
    double* sums
    uint32_t* coverage

cdef struct word_list:
    uint64_t* words
    size_t n
    size_t room

cdef class Gatherer:
    cdef readonly DirectoryReader directory
    cdef readonly Segment samples
    cdef const ms_directory* head
    cdef dict _texts
    cdef uint32_t _texts_generation

    cdef uint32_t generation_c(self) noexcept nogil
    cdef uint64_t committed(self) noexcept nogil
    cdef const ms_series* series_at(self, uint64_t slot) noexcept nogil
    cdef const ms_level* level_at(self, uint64_t level) noexcept nogil
    cdef bint copy_metric_c(self, uint32_t metric, ms_metric* into) noexcept nogil
    cdef int load_era(self, uint32_t slot, uint32_t generation, era* out) noexcept nogil
    cdef int load_chain(self, uint64_t ref, int64_t start_s, era_pool* pool) noexcept nogil
    cdef int find_link(self, const era* e, int64_t n, uint64_t* table, const uint64_t** at, uint64_t* word) noexcept nogil
    cdef bint link_holds(self, const era* e, uint64_t table, const uint64_t* at, uint64_t word) noexcept nogil
    cdef const ms_chunk* chunk_at(self, const era* e, int64_t n, uint64_t word, uint64_t* payload) noexcept nogil
    cdef int read_run(self, const era* e, int64_t n, uint32_t place, uint32_t count, char* dest) noexcept nogil
    cdef int map_era(self, const era* e, int64_t t0, int64_t step, int64_t j, int64_t count, sink* to) noexcept nogil
    cdef int add_chains(self, const era* eras, const uint64_t* bounds, size_t m, int64_t t0, int64_t step, int64_t n, sink* to) noexcept nogil
    cdef int add_block(self, const era* eras, const uint64_t* bounds, size_t m, int64_t t0, int64_t step, int64_t n, sink* to, char* rows) noexcept nogil
    cdef void add_rows(self, const char* rows, size_t n_rows, int64_t n, sink* to) noexcept nogil
    cdef void expect_links(self, const era* e) noexcept nogil
    cdef void expect_chunks(self, const era* e, int64_t t0, int64_t t1) noexcept nogil
    cdef int map_chain(self, const era* eras, size_t n_eras, int64_t t0, int64_t step, int64_t count, sink* to) noexcept nogil
    cdef int read_rows(self, const era* e, int64_t n, int64_t start_ms, int64_t end_ms, uint64_t limit, word_list* rows) noexcept nogil
    cdef int64_t n_slots(self, int64_t nominal_s, int64_t step, int64_t start, int64_t end, int64_t* t0) noexcept nogil
    cdef bint is_type(self, const ms_level* at, const char* type, size_t n) noexcept nogil
    cdef int collect_children(self, uint32_t level, uint32_t metric, const char* type, size_t type_len, int depth, uint64_t* budget, word_list* refs) noexcept nogil
    cdef int collect_level(self, uint32_t level, uint32_t metric, int depth, uint64_t* budget, word_list* refs) noexcept nogil
    cdef object text(self, uint64_t offset, size_t length)
