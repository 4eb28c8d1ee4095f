from libc.stdint cimport int64_t, uint32_t, uint64_t
from mstore.kernels._gather_runs cimport RunReader, era, word_list
from mstore.kernels._layout cimport ms_level, ms_metric


cdef int by_slot(const void* a, const void* b) noexcept nogil

cdef class Gatherer(RunReader):
    cdef dict _texts
    cdef uint32_t _texts_generation

    cdef const ms_level* level_at(self, uint64_t level) noexcept nogil
    cdef bint copy_metric_c(self, uint32_t metric, ms_metric* into) noexcept nogil
    cdef int read_rows(self, const era* e, int64_t n, int64_t start_ms, int64_t end_ms, uint64_t limit, word_list* rows) noexcept nogil
    cdef int64_t n_slots(self, int64_t nominal_s, int64_t step, int64_t start, int64_t end, int64_t* t0) noexcept nogil
    cdef bint is_type(self, const ms_level* at, const char* type, size_t n) noexcept nogil
    cdef int collect_children(self, uint32_t level, uint32_t metric, const char* type, size_t type_len, int depth, uint64_t* budget, word_list* refs) noexcept nogil
    cdef void expect_series(self, const uint32_t* levels, const uint32_t* metrics, size_t metric_stride, size_t n) noexcept nogil
    cdef int collect_level(self, uint32_t level, uint32_t metric, int depth, uint64_t* budget, word_list* refs) noexcept nogil
    cdef object text(self, uint64_t offset, size_t length)
