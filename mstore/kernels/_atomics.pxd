"""Loads, stores and fences of shared words; atomics.h says how the two ends of an ordering are labelled."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "atomics.h" nogil:
    uint64_t ms_load_acquire_u64(const void* p)
    uint64_t ms_load_relaxed_u64(const void* p)
    void ms_store_release_u64(void* p, uint64_t v)
    void ms_store_relaxed_u64(void* p, uint64_t v)
    uint32_t ms_load_acquire_u32(const void* p)
    uint32_t ms_load_relaxed_u32(const void* p)
    void ms_store_release_u32(void* p, uint32_t v)
    void ms_store_relaxed_u32(void* p, uint32_t v)
    void ms_fence_acquire()
    void ms_fence_release()
    void ms_fence_full()
