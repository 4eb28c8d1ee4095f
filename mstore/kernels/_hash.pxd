from libc.stdint cimport uint64_t

cdef extern from "hash.h" nogil:
    uint64_t ms_hash(const void* bytes, size_t n, uint64_t seed)
