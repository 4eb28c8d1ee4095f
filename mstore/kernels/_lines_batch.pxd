from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mstore.kernels._eras cimport eras_t
from mstore.kernels._reasons cimport N_REASONS
from mstore.kernels._ring cimport RingWriter

cdef enum:                # sample_t.state
    OK = 0
    WAITING = 1           # ref: number of the unknown key; value: start and length of the number's text; t: ms
    REFUSED = 2           # one field of a line with several; reason says why

cdef struct sample_t:
    uint64_t ref          # generation << 32 | slot
    int64_t t             # grid: s; stamped: ms
    uint64_t value        # the value's bytes; f32 in the lower half
    uint32_t line         # number of the line in the batch: the fields of one line share it
    uint8_t type
    uint8_t kind
    uint8_t state
    uint8_t reason

cdef struct bytes_t:      # growing bytes
    uint8_t* at
    size_t used
    size_t size

cdef struct answers_t:    # for the unknown keys, in their order; unaligned
    const uint8_t* refs       # uint64
    const uint8_t* types      # uint8
    const uint8_t* kinds      # uint8
    const uint8_t* steps      # uint32, s

cdef int append(bytes_t* to, const void* data, size_t n) noexcept nogil

# The value of a sample from its number's text (class cls): 0, or the Reason it has none. s has its reference, kind, time in
# milliseconds and the type that its series has now, whose step is step_s; it gets the time of its kind and the type of
# the era it belongs to, in which it is encoded under the same reference.
cdef int settle(sample_t* s, const eras_t* eras, int64_t newest_s, uint32_t step_s, const uint8_t* text, size_t n,
                int cls) noexcept nogil

cdef class LineBatch:
    cdef readonly uint32_t max_lines
    cdef readonly uint32_t n_lines
    cdef readonly uint32_t n_unknown
    cdef public bint skipping
    cdef sample_t* samples        # [max_lines + LINE_FIELDS_MAX]
    cdef uint32_t n_entries       # of samples, those refused since included
    cdef uint32_t n_refused
    cdef uint32_t n_encoded
    cdef uint64_t previous        # the key of the line before: position in the key region, 0 = none
    cdef uint32_t generation      # of the directory that `previous` belongs to
    cdef int64_t newest_s         # of the last scan: the newest time accepted
    cdef int64_t count[N_REASONS]
    cdef bytes_t numbers          # texts of the numbers that wait
    cdef bytes_t keys             # the unknown keys, joined
    cdef bytes_t offsets          # int64: where each begins
    cdef bytes_t times            # int64: first time of each, s
    cdef bytes_t hashes           # uint64 of each
    cdef uint32_t* table          # hash table over them: number + 1, 0 = empty
    cdef uint64_t table_mask

    cdef void resolve_all(self, const answers_t* known, const eras_t* eras) noexcept nogil
    cdef void resolve_one(self, sample_t* s, const answers_t* known, const eras_t* eras) noexcept nogil
    cdef void count_line(self, uint32_t start, uint32_t stop) noexcept nogil
    cdef int wait(self, const uint8_t* key, size_t n, uint64_t hash_, int64_t t_s) noexcept nogil
    cdef int known_unknown(self, const uint8_t* key, size_t n, uint64_t hash_) noexcept nogil
    cdef void forget_unknown(self) noexcept nogil
    cdef bint encode_all(self, RingWriter ring) noexcept nogil
    cdef void drop_refused(self) noexcept nogil
    cdef uint32_t encode_next(self, RingWriter ring, const sample_t* s, uint32_t left, uint32_t most) noexcept nogil
