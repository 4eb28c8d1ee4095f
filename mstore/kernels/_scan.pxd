from libc.stdint cimport uint64_t

cdef extern from "scan.h" nogil:
    const size_t MS_LANES
    ctypedef struct ms_scan:
        uint64_t n
        double sum
        double low
        double high
        uint64_t ulow
        uint64_t uhigh
    void ms_scan_f32(ms_scan* to, const float* values, size_t first, size_t n)
    void ms_scan_f64(ms_scan* to, const double* values, size_t first, size_t n)
    void ms_scan_u64(ms_scan* to, const uint64_t* values, size_t first, size_t n)
