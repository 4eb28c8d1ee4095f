from libc.stdint cimport uint32_t, uint64_t

cdef extern from "aggregate.h" nogil:
    void ms_add_f32(double* sums, uint32_t* coverage, const float* values, size_t n)
    void ms_add_f64(double* sums, uint32_t* coverage, const double* values, size_t n)
    void ms_add_u64(double* sums, uint32_t* coverage, const uint64_t* values, size_t n)
    void ms_add4_f32(double* sums, uint32_t* coverage, const float* values, size_t stride, size_t n)
    size_t ms_count_f32(const float* values, size_t n)
    size_t ms_count_f64(const double* values, size_t n)
    size_t ms_count_u64(const uint64_t* values, size_t n)
    size_t ms_covered(const uint32_t* coverage, size_t n)
    void ms_finish(double* sums, const uint32_t* coverage, size_t n, uint32_t least, int average)
    void ms_means_f32(double* means, uint32_t* counts, const float* values, size_t n, size_t factor)
    void ms_means_f64(double* means, uint32_t* counts, const double* values, size_t n, size_t factor)
    void ms_means_u64(double* means, uint32_t* counts, const uint64_t* values, size_t n, size_t factor)
