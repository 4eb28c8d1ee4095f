"""Copies out of and into memory that others write or read meanwhile; copies.h says why not memcpy."""

from libc.stdint cimport uint64_t

cdef extern from "copies.h" nogil:
    void ms_copy_out(void* to, const void* source, size_t n_bytes)
    void ms_copy_in(void* to, const void* source, size_t n_words)
    void ms_fill_in(void* to, uint64_t word, size_t n_words)
