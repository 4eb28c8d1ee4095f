from libc.stdint cimport int64_t, uint32_t, uint64_t
from mstore.kernels._segment cimport Segment

cdef class RingWriter:
    cdef readonly Segment segment
    cdef char* data
    cdef uint64_t size       # bytes, power of two
    cdef uint64_t private_head
    cdef uint64_t tail       # the durable position as last seen; only ever behind the real one
    # Contiguous room for one record of n bytes (n a multiple of 8), padding over the end of the ring when needed;
    # NULL when the ring has no room now. Nothing is visible before publish().
    cdef char* reserve(self, uint64_t n) noexcept nogil
    cdef void advance(self, uint64_t n) noexcept nogil
    cdef void publish_c(self) noexcept nogil

cdef class RingReader:
    cdef readonly Segment segment
    cdef const char* data
    cdef uint64_t size
    cdef object _bytes
    # Bytes of whole records from position `start` on that end at or before `stop` and before the end of the ring, at
    # most `limit`; -1 when a record is malformed (its position is stored in *bad).
    cdef int64_t whole_records(self, uint64_t start, uint64_t stop, uint64_t limit, uint64_t* bad) noexcept nogil

cdef class EpochWord:
    cdef readonly Segment segment
    cdef char* word
    cdef uint64_t value      # the word belongs to this process alone: kept here, only stored there
    cdef void enter_c(self) noexcept nogil
    cdef void exit_c(self) noexcept nogil
