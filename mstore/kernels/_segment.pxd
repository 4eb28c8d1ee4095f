cdef class Segment:
    cdef char* base
    cdef readonly size_t length
    cdef readonly bint writable
    cdef object _owner
    cdef Py_buffer _view
    cdef bint _held
