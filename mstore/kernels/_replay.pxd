from libc.stdint cimport uint32_t, uint64_t
from mstore.kernels._directory cimport rec_series
from mstore.kernels._intern cimport Interner
from mstore.kernels._layout cimport ms_series

cdef class DirectoryWriter(Interner):
    cdef object apply_one(self, int type, const char* body, size_t n)
    cdef object apply_level(self, const char* body, size_t n)
    cdef object apply_metric(self, const char* body, size_t n)
    cdef object apply_series(self, const char* body, size_t n, bint era)
    cdef void place_series(self, ms_series* s, rec_series* r) noexcept
    cdef object apply_key(self, const char* body, size_t n)
    cdef object apply_remove(self, const char* body, size_t n)
    cdef void settle_keys(self, uint64_t ref) noexcept
    cdef void bridge_eras(self, uint64_t prev, uint64_t next) noexcept
    cdef void hide_series(self, uint32_t slot, bint hide)
