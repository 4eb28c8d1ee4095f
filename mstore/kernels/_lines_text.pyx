"""The pieces of one line of text: fields, numbers, timestamps, keys of joined fields.

    [blanks] key spaces field=value[,field=value]... [spaces timestamp] [spaces] [CR] LF

A value is a string in quotes (with `\\"` and `\\\\`) or everything up to the next comma or space; it is a number, or it has no
value for us (strings, booleans, NaN, infinity). The twin is reference_lines_text.py.
"""

from libc.math cimport isinf
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from mstore.kernels._atomics cimport ms_load_relaxed_u64
from mstore.kernels._hash cimport ms_hash
from mstore.kernels._layout cimport KIND_STAMPED, TYPE_F32, TYPE_F64, TYPE_U64
from mstore.kernels._reasons cimport BAD_SYNTAX, BAD_TIMESTAMP, BAD_VALUE, OUT_OF_RANGE, TOO_LONG, UNKNOWN_FIELD

if ms_decimal_init() != 0:
    raise MemoryError("no C locale")


cdef int number_class(const uint8_t* s, size_t n) noexcept nogil:
    return ms_number_class(s, n)


cdef int convert(const uint8_t* s, size_t n, int cls, int type_, int kind, uint64_t* out) noexcept nogil:
    """The value of a number for a series of this type: 0, or the Reason it has none. Stamped columns are 8 bytes wide."""
    cdef double wide
    cdef float narrow
    if type_ == TYPE_U64:
        return OUT_OF_RANGE if ms_number_u64(s, n, cls, MS_U64_MAX, out) != 0 else 0
    if type_ != TYPE_F32 and type_ != TYPE_F64:
        return UNKNOWN_FIELD  # rows of several columns: one field `value` is none of them
    if ms_number_f64(s, n, cls, &wide) != 0:
        return OUT_OF_RANGE
    out[0] = 0
    if type_ == TYPE_F64 or kind == KIND_STAMPED:
        memcpy(out, &wide, 8)
        return 0
    narrow = <float>wide  # rounded twice: text to double, double to float
    if isinf(narrow):
        return OUT_OF_RANGE
    memcpy(out, &narrow, 4)
    return 0


cdef int parse_field(const uint8_t** at, const uint8_t* end, field_t* field) noexcept nogil:
    """Take one field off at[0]..end: 0, or BAD_SYNTAX. Afterwards at[0] is at a comma, a space or the end."""
    cdef const uint8_t* p = at[0]
    field.key = p
    while p < end and p[0] != c'=':
        if p[0] == c'\\' and p + 1 < end and (p[1] == c',' or p[1] == c' ' or p[1] == c'='):
            p += 1
        elif p[0] == c',' or p[0] == c' ':
            return BAD_SYNTAX
        p += 1
    field.key_len = p - field.key
    if p >= end or field.key_len == 0:
        return BAD_SYNTAX
    p += 1
    field.text = p
    if p < end and p[0] == c'"':
        p += 1
        while p < end and p[0] != c'"':
            if p[0] == c'\\' and p + 1 < end and (p[1] == c'"' or p[1] == c'\\'):
                p += 1
            p += 1
        if p >= end or (p + 1 < end and p[1] != c',' and p[1] != c' '):
            return BAD_SYNTAX
        p += 1
        field.cls = MS_NUM_BAD
    else:
        while p < end and p[0] != c',' and p[0] != c' ':
            p += 1
        if p == field.text:
            return BAD_SYNTAX
        field.cls = ms_number_class(field.text, p - field.text)
    field.len = p - field.text
    at[0] = p
    return 0


cdef int parse_fields(const uint8_t** at, const uint8_t* end, bint join, field_t* fields, int* n_fields) noexcept nogil:
    """Parse at[0]..end up to the space after the fields: 0 or a Reason.

    join: all numeric fields, at least one. Otherwise fields[0] is the last field `value`, and it is a number.
    """
    cdef field_t field
    cdef int reason, seen = 0, n = 0
    cdef bint strange = False
    while True:
        if seen == LINE_FIELDS_MAX:
            return TOO_LONG
        seen += 1
        reason = parse_field(at, end, &field)
        if reason:
            return reason
        if join:
            if field.cls != MS_NUM_BAD:
                fields[n] = field
                n += 1
        elif field.key_len == 5 and memcmp(field.key, b"value", 5) == 0:
            fields[0] = field
            n = 1
        else:
            strange = True
        if at[0] >= end or at[0][0] != c',':
            break
        at[0] += 1
    n_fields[0] = n
    if strange:
        return UNKNOWN_FIELD
    return BAD_VALUE if n == 0 or fields[0].cls == MS_NUM_BAD else 0


cdef int stamp_ms(uint64_t v, int precision, int64_t* out) noexcept nogil:
    """A timestamp as milliseconds; -1 when they do not fit 64 bits. Precision 0: told from the magnitude."""
    if precision == PRECISION_AUTO:
        precision = 1 if v < 100_000_000_000ULL else 2 if v < 100_000_000_000_000ULL \
            else 3 if v < 100_000_000_000_000_000ULL else 4
    if precision == 1:
        if v > <uint64_t>INT64_MAX // 1000:
            return -1
        out[0] = v * 1000
    elif precision == 2:
        out[0] = v
    elif precision == 3:
        out[0] = v // 1000
    else:
        out[0] = v // 1_000_000
    return 0


cdef int parse_time(const uint8_t* p, const uint8_t* end, int precision, int64_t now_s, int64_t* ms) noexcept nogil:
    """The rest of a line after its fields, p..end, as milliseconds: 0 or BAD_TIMESTAMP."""
    cdef uint64_t v = 0
    cdef const uint8_t* digits
    while p < end and p[0] == c' ':
        p += 1
    if p == end:
        ms[0] = now_s * 1000
        return 0
    digits = p
    while p < end and c'0' <= p[0] <= c'9':
        if v > (<uint64_t>INT64_MAX - (p[0] - c'0')) // 10:
            return BAD_TIMESTAMP
        v = v * 10 + (p[0] - c'0')
        p += 1
    if p == digits:
        return BAD_TIMESTAMP
    while p < end and p[0] == c' ':
        p += 1
    return BAD_TIMESTAMP if p < end or stamp_ms(v, precision, ms) != 0 else 0


cdef size_t joined_key(const uint8_t* key, size_t n, size_t metric_len, const field_t* field, uint8_t* out) noexcept nogil:
    """Write `measurement_field,tags`; its length, 0 when that is above KEY_BYTES_MAX. `out` has room for that much.

    A field's `\\=` becomes `=`: in a measurement the equals sign needs no escape and a backslash before it would stay.
    """
    cdef size_t m = metric_len + 1, i = 0
    if m > KEY_BYTES_MAX:
        return 0
    memcpy(out, key, metric_len)
    out[metric_len] = c'_'
    while i < field.key_len:
        if field.key[i] == c'\\' and i + 1 < field.key_len and field.key[i + 1] == c'=':
            i += 1
        if m == KEY_BYTES_MAX:
            return 0
        out[m] = field.key[i]
        m += 1
        i += 1
    if n - metric_len > KEY_BYTES_MAX - m:
        return 0
    memcpy(out + m, key + metric_len, n - metric_len)
    return m + n - metric_len


cdef bint look_at(ahead_t* line, const uint8_t* p, const uint8_t* stop, uint64_t seed) noexcept nogil:
    """Find the end of the line at p and hash its key; False when it is not whole or too long."""
    cdef const uint8_t* space
    line.p = p
    line.end = <const uint8_t*>memchr(p, c'\n', min(<size_t>(stop - p), <size_t>(LINE_BYTES_MAX + 1)))
    line.n = 0
    line.hash_ = 0
    line.at = 0
    if line.end == NULL:
        return False
    if line.end > p and not odd_start(p[0]):
        space = key_end(p, line.end)
        if space != NULL and space - p <= KEY_BYTES_MAX:
            line.n = space - p
            line.hash_ = ms_hash(p, line.n, seed)
    return True


cdef int look_ahead(ahead_t* lines, int most, const uint8_t** p, const uint8_t* stop, const view_t* view) noexcept nogil:
    """Hash the keys of the next whole lines at p and fetch their slots of the key table; how many lines there are."""
    cdef int n = 0
    while n < most and p[0] < stop and look_at(&lines[n], p[0], stop, view.seed):
        if view.slots != NULL:
            MS_PREFETCH(view.slots + 8 * (lines[n].hash_ & view.mask))
        p[0] = lines[n].end + 1
        n += 1
    return n


cdef void fetch_entries(ahead_t* lines, int n, const view_t* view) noexcept nogil:
    """Fetch the entries that the slots of these lines name: header and whole key."""
    cdef uint64_t word
    cdef const uint8_t* entry
    cdef int i
    if view.slots == NULL:
        return
    for i in range(n):
        if lines[i].n:
            word = ms_load_relaxed_u64(view.slots + 8 * (lines[i].hash_ & view.mask))
            if word >> 32 == lines[i].hash_ >> 32:
                lines[i].at = (word & 0xFFFFFFFFULL) * 8
                entry = view.keys + lines[i].at
                MS_PREFETCH(entry)
                MS_PREFETCH(entry + 64)
                MS_PREFETCH(entry + KEY_HEADER + lines[i].n - 1)
