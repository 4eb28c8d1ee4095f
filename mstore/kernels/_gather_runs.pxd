from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from mstore.kernels._directory cimport DirectoryReader
from mstore.kernels._layout cimport TYPE_F32, floor_div, ms_chunk, ms_directory, ms_series
from mstore.kernels._segment cimport Segment

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
    int64_t kept_s           # what lies before this second is too old to be served; the same in a whole chain

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

cdef enum:
    _OK = 0
    _GONE = 1
    _BUSY = 2
    _BROKEN = 3
    _LIMIT = 4
    _NO_MEMORY = 5
    _OTHER_KIND = 6

cdef enum:
    RETRIES = 256
    SCRATCH_WORDS = 512       # 4096 bytes: the largest chunk's payload


cdef inline int64_t ceil_div(int64_t a, int64_t b) noexcept nogil:
    return -floor_div(-a, b)

cdef inline uint32_t width_of(uint8_t type) noexcept nogil:
    return 4 if type == TYPE_F32 else 8

cdef inline int64_t nominal(const era* e) noexcept nogil:
    return e.anchor_s + e.step_s // 2


cdef size_t count_present(const char* values, uint8_t type, size_t n) noexcept nogil
cdef int push_words(word_list* to, const uint64_t* words, size_t n) noexcept nogil

cdef class RunReader:
    cdef readonly DirectoryReader directory
    cdef readonly Segment samples
    cdef const ms_directory* head
    cdef public int64_t now_s
    cdef public int64_t retention_s

    cdef uint64_t chunk_bytes(self, unsigned size_class) noexcept nogil
    cdef uint32_t generation_c(self) noexcept nogil
    cdef uint64_t committed(self) noexcept nogil
    cdef const ms_series* series_at(self, uint64_t slot) noexcept nogil
    cdef int64_t kept_from(self, uint32_t metric) noexcept nogil
    cdef int load_era(self, uint32_t slot, uint32_t generation, era* out) noexcept nogil
    cdef int load_chain(self, uint64_t ref, int64_t start_s, era_pool* pool) noexcept nogil
    cdef int find_link(self, const era* e, int64_t n, uint64_t* table, const uint64_t** at, uint64_t* word) noexcept nogil
    cdef bint link_holds(self, const era* e, uint64_t table, const uint64_t* at, uint64_t word) noexcept nogil
    cdef const ms_chunk* chunk_at(self, const era* e, int64_t n, uint64_t word, uint64_t* payload) noexcept nogil
    cdef int open_chunk(self, const era* e, int64_t n, uint64_t* table, const uint64_t** at, uint64_t* word, const ms_chunk** chunk, uint64_t* payload) noexcept nogil
    cdef int read_run(self, const era* e, int64_t n, uint32_t place, uint32_t count, char* dest) noexcept nogil
    cdef int map_era(self, const era* e, int64_t t0, int64_t step, int64_t j, int64_t count, sink* to) noexcept nogil
    cdef int map_chain(self, const era* eras, size_t n_eras, int64_t t0, int64_t step, int64_t count, sink* to) noexcept nogil
