"""Memory for parts of segments; backing.h says how and why."""

from libc.stdint cimport uint64_t

cdef extern from "backing.h" nogil:
    int ms_back(int fd, char* base, uint64_t region, uint64_t at, uint64_t n)
    int ms_back_or_nothing(int fd, char* base, uint64_t region, uint64_t at, uint64_t n)
