from libc.stdint cimport int64_t, uint32_t, uint64_t
from mstore.kernels._gather_runs cimport RunReader, era, sink, word_list
from mstore.kernels._layout cimport ms_level, ms_metric

cdef enum:
    FETCHES_MAX = 72          # of 8 series, 9 chunks each

# Memory that will be read soon. While ROWS series are added, the chunks of the next ROWS are fetched, a few lines between
# two tiles: fetched all at once they would fill the few places for loads under way, and nothing would be added meanwhile.
cdef struct fetch_list:
    const char* at[FETCHES_MAX]
    const char* end[FETCHES_MAX]
    size_t first
    size_t n
    size_t lines


cdef class Gatherer(RunReader):
    cdef dict _texts
    cdef uint32_t _texts_generation

    cdef const ms_level* level_at(self, uint64_t level) noexcept nogil
    cdef bint copy_metric_c(self, uint32_t metric, ms_metric* into) noexcept nogil
    cdef int add_chains(self, const era* eras, const uint64_t* bounds, size_t m, int64_t t0, int64_t step, int64_t n, sink* to) noexcept nogil
    cdef int add_block(self, const era* eras, const uint64_t* bounds, size_t m, int64_t t0, int64_t step, int64_t n, sink* to, char* rows) noexcept nogil
    cdef void add_rows(self, const char* rows, size_t n_rows, int64_t n, sink* to, fetch_list* ahead) noexcept nogil
    cdef void expect_links(self, const era* e) noexcept nogil
    cdef void expect_chunks(self, const era* e, int64_t t0, int64_t t1, fetch_list* ahead) noexcept nogil
    cdef int read_rows(self, const era* e, int64_t n, int64_t start_ms, int64_t end_ms, uint64_t limit, word_list* rows) noexcept nogil
    cdef int64_t n_slots(self, int64_t nominal_s, int64_t step, int64_t start, int64_t end, int64_t* t0) noexcept nogil
    cdef bint is_type(self, const ms_level* at, const char* type, size_t n) noexcept nogil
    cdef int collect_children(self, uint32_t level, uint32_t metric, const char* type, size_t type_len, int depth, uint64_t* budget, word_list* refs) noexcept nogil
    cdef int collect_level(self, uint32_t level, uint32_t metric, int depth, uint64_t* budget, word_list* refs) noexcept nogil
    cdef object text(self, uint64_t offset, size_t length)
