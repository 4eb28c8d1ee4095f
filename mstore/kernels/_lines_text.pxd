"""The pieces of one line: key, fields, timestamp. Pure functions over untrusted bytes."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr

from mstore.kernels._layout cimport KIND_STAMPED, MS_IGNORE_SLOT
from mstore.kernels._reasons cimport N_REASONS, UNKNOWN_METRIC

# mstore.model and mstore.limits in C; tests/unit/test_lines.py holds them together.
cdef enum:
    PRECISION_AUTO = 0
    KEY_BYTES_MAX = 8192
    LINE_BYTES_MAX = 65536
    LINE_FIELDS_MAX = 256
    SERIES_SLOTS_MAX = 16776192
    KEY_HEADER = 32       # sizeof(ms_key)

cdef extern from *:
    """
    #define MS_PREFETCH(p) __builtin_prefetch(p)
    #define MS_U64_MAX 0xFFFFFFFFFFFFFFFEull       /* 2^64-1 is the missing value */
    """
    void MS_PREFETCH(const void* p) nogil
    uint64_t MS_U64_MAX

cdef extern from "decimal.h" nogil:
    int MS_NUM_BAD
    int ms_decimal_init()
    int ms_number_class(const uint8_t* s, size_t n)
    int ms_number_f64(const uint8_t* s, size_t n, int cls, double* out)
    int ms_number_u64(const uint8_t* s, size_t n, int cls, uint64_t max, uint64_t* out)
    int ms_fast_number(const uint8_t* p, uint64_t* w, int* frac)
    double ms_exact_f64(uint64_t w, int e)
    uint64_t ms_load8(const uint8_t* p)

cdef struct field_t:
    const uint8_t* key        # as it stands in the line, escapes included
    size_t key_len
    const uint8_t* text
    size_t len
    int cls                   # MS_NUM_* of decimal.h

cdef struct view_t:           # the directory as one scan sees it
    const uint8_t* keys       # the key region
    uint64_t used             # bytes of it that are published
    const uint8_t* slots      # the key table; NULL = none yet
    uint64_t mask
    uint64_t seed

cdef struct ahead_t:          # a whole line and its key
    const uint8_t* p
    const uint8_t* end        # its newline
    size_t n                  # length of the key, 0 = an odd line
    uint64_t hash_
    uint64_t at               # where its key's entry most likely is; 0 = not known

cdef inline bint not_there(uint64_t word) noexcept nogil:
    """A key entry that is not, or no longer, published: nothing, or an ignore word without a reason."""
    return word == 0 or (<unsigned int>word == MS_IGNORE_SLOT and word >> 56 == 0)

cdef inline int ignore_reason(uint64_t word) noexcept nogil:
    cdef int reason = (word >> 56) & (N_REASONS - 1)
    return reason if reason else UNKNOWN_METRIC

cdef inline bint beyond_reach(int64_t t_s, int64_t newest_s, uint32_t step_s, int kind) noexcept nogil:
    """Whether a sample is older than its grid series could hold beside the newest sample that may come."""
    return kind != KIND_STAMPED and t_s < newest_s - <int64_t>step_s * SERIES_SLOTS_MAX

cdef inline bint is_comment(const uint8_t* p, const uint8_t* stop) noexcept nogil:
    """Whether a line that is longer than any line may be is a comment: a mark comes first, after blanks."""
    cdef const uint8_t* end = p + min(<size_t>(stop - p), <size_t>(LINE_BYTES_MAX + 1))
    while p < end and (p[0] == c' ' or p[0] == c'\t'):
        p += 1
    return p < end and p[0] == c'#'

cdef inline bint odd_start(uint8_t c) noexcept nogil:
    """A byte that begins no key: blanks, and the mark of a comment."""
    return c == c'#' or c == c' ' or c == c'\t'

cdef inline const uint8_t* key_end(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """The first unescaped space of p..end; NULL when there is none. p[0] is no space."""
    cdef const uint8_t* q = p
    while True:
        q = <const uint8_t*>memchr(q, c' ', end - q)
        if q == NULL or (q - 1)[0] != c'\\':
            return q
        q += 1

cdef int convert(const uint8_t* s, size_t n, int cls, int type_, int kind, uint64_t* out) noexcept nogil
cdef int number_class(const uint8_t* s, size_t n) noexcept nogil
cdef int parse_fields(const uint8_t** at, const uint8_t* end, bint join, field_t* fields, int* n_fields) noexcept nogil
cdef int stamp_ms(uint64_t v, int precision, int64_t* out) noexcept nogil
cdef int parse_time(const uint8_t* p, const uint8_t* end, int precision, int64_t now_s, int64_t* ms) noexcept nogil
cdef size_t joined_key(const uint8_t* key, size_t n, size_t metric_len, const field_t* field, uint8_t* out) noexcept nogil
cdef int look_ahead(ahead_t* lines, int most, const uint8_t** p, const uint8_t* stop, const view_t* view) noexcept nogil
cdef void fetch_entries(ahead_t* lines, int n, const view_t* view) noexcept nogil
