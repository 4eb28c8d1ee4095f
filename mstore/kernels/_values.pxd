"""Single values as bytes: which are none, and the same number in another type."""

from libc.math cimport floor, isinf
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from mstore.kernels._layout cimport TYPE_F32, TYPE_F64, TYPE_U64


cdef inline bint missing4(uint32_t bits) noexcept nogil:
    return (bits & 0x7F800000u) == 0x7F800000u       # NaN and infinity


cdef inline bint missing8(uint64_t bits, int vtype) noexcept nogil:
    if vtype == TYPE_U64:
        return bits == <uint64_t>0xFFFFFFFFFFFFFFFF
    return (bits & <uint64_t>0x7FF0000000000000) == <uint64_t>0x7FF0000000000000


cdef inline bint bad(const char* values, int64_t i, int vtype) noexcept nogil:
    """Whether the i-th of some values, which need not be aligned, is none that a series could hold."""
    cdef uint32_t narrow
    cdef uint64_t wide
    if vtype == TYPE_F32:
        memcpy(&narrow, values + 4 * i, 4)
        return missing4(narrow)
    memcpy(&wide, values + 8 * i, 8)
    return missing8(wide, vtype)


cdef inline bint recast(int from_type, const char* value, int to_type, uint64_t* word) noexcept nogil:
    """A value of one type in another, rounded as text of it would be; False where that type has no such number.

    u64 becomes f32 by way of f64, as text does.
    """
    cdef float f = 0
    cdef double d
    cdef uint64_t u
    word[0] = 0
    if from_type == to_type:
        memcpy(word, value, 4 if to_type == TYPE_F32 else 8)
        return True
    if from_type == TYPE_F32:
        memcpy(&f, value, 4)
        d = f
    elif from_type == TYPE_F64:
        memcpy(&d, value, 8)
    else:
        memcpy(&u, value, 8)
        d = <double>u
    if to_type == TYPE_U64:
        if not (0 <= d < 18446744073709551616.0) or d != floor(d):
            return False
        word[0] = <uint64_t>d
    elif to_type == TYPE_F64:
        memcpy(word, &d, 8)
    else:
        f = <float>d
        if isinf(f):
            return False
        memcpy(word, &f, 4)
    return True
