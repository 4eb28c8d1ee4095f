"""A mapped segment as kernels see it: base pointer and length.

Passing one such object costs 0.03 us, eight memoryview arguments cost up to 1 us: so every kernel class takes Segments.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer


# The collector must not take the buffer's owner away before __dealloc__ has released the buffer.
@cython.no_gc_clear
cdef class Segment:
    """Hold `buffer` (mmap, bytearray, numpy uint8) for as long as this object lives.

    buffer    contiguous bytes; writable must be False for a read-only mapping
    writable  whether kernels may store through it; they check
    """

    def __cinit__(self, buffer, bint writable=False):
        PyObject_GetBuffer(buffer, &self._view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self._held = True
        self.base = <char*>self._view.buf
        self.length = <size_t>self._view.len
        self.writable = writable
        self._owner = buffer

    def __dealloc__(self):
        if self._held:
            PyBuffer_Release(&self._view)
