from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from mstore.kernels._gather cimport Gatherer
from mstore.kernels._gather_runs cimport era, era_pool

cdef enum:
    AHEAD_LINKS = 8           # while a series is copied, the links of the 8th after it are fetched from memory,
    AHEAD_CHUNKS = 3          # and the chunks of the third
    FETCHES_MAX = 32

# The eras of one series, newest first, in a pool.
cdef struct chain:
    size_t first
    size_t stop
    const uint64_t* links     # where the newest era's were when it was loaded: to fetch them, never to follow them
    uint64_t mask
    uint32_t slot
    bint narrow               # f32 in all its eras

cdef struct group:
    size_t first              # its chains: [first, stop)
    size_t stop
    int64_t t0
    int64_t step
    int64_t n
    uint32_t metric
    uint8_t type              # of the values
    uint8_t how
    size_t values_at          # bytes
    size_t counts_at          # elements; of an aggregate
    size_t present

cdef struct batch:
    era_pool pool
    chain* chains
    group* groups
    size_t n_groups

# Memory that will be read soon, fetched a few lines at a time while something is computed: all at once they would fill the
# few places for loads under way, and nothing would be computed meanwhile.
cdef struct fetch_list:
    const char* at[FETCHES_MAX]
    const char* end[FETCHES_MAX]
    size_t first
    size_t n
    size_t lines

cdef int begin(batch* b, size_t n_chains, size_t n_groups) noexcept nogil
cdef void release(batch* b) noexcept nogil
cdef int load(Gatherer g, batch* b, const uint64_t* refs, size_t m, size_t m_ahead, int64_t start, int64_t end, size_t at) noexcept nogil
cdef void expect_tile(const char* base, const era* e, const chain* c, int64_t t0, int64_t t1, fetch_list* ahead) noexcept nogil
cdef void fetch(fetch_list* list, size_t lines) noexcept nogil
