"""A key taken apart: measurement and tags, up to the first unescaped space of a line.

    measurement[,tag=value]...          cpu_user,cluster=fritz,hostname=f0201,type=hwthread,type-id=12,unit=Percent

Escapes: `\\,` and `\\ ` everywhere, `\\=` in tag keys and tag values; a backslash before anything else is itself. The first
fault from the left decides the reason; a missing host is looked for last. The twin is reference_lines_text.parse_key.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memset

from mstore.kernels._reasons cimport BAD_ENCODING, BAD_SYNTAX, NO_HOST, TOO_LONG

# mstore.limits in C; tests/unit/test_lines.py holds them together.
cdef enum:
    NAME_BYTES_MAX = 255
    LINE_TAGS_MAX = 64
    KEY_BYTES_MAX = 8192


cdef size_t take(const uint8_t* s, size_t n, size_t i, bint tag, uint8_t* out, uint32_t* length) noexcept nogil:
    """Unescape s[i:] into `out` up to an unescaped comma or space (or `=`, in a tag); the position where it ended.

    The output is never longer than the input that was read.
    """
    cdef uint32_t m = 0
    cdef uint8_t c
    while i < n:
        c = s[i]
        if c == c'\\' and i + 1 < n and (s[i + 1] == c',' or s[i + 1] == c' ' or (tag and s[i + 1] == c'=')):
            i += 1
            c = s[i]
        elif c == c',' or c == c' ' or (tag and c == c'='):
            break
        out[m] = c
        m += 1
        i += 1
    length[0] = m
    return i


cdef bint clean_utf8(const uint8_t* s, uint32_t n) noexcept nogil:
    """Whether s is well-formed UTF-8 (no surrogates, no overlong forms) without control characters (C0, DEL, C1)."""
    cdef uint32_t i = 0, more, k
    cdef uint8_t c, low, high
    while i < n:
        c = s[i]
        if c < 0x80:
            if c < 0x20 or c == 0x7F:
                return False
            i += 1
            continue
        low, high = 0x80, 0xBF  # what the second byte may be
        if c < 0xC2:
            return False
        elif c < 0xE0:
            more = 1
            if c == 0xC2:
                low = 0xA0  # U+0080 .. U+009F are controls
        elif c < 0xF0:
            more = 2
            if c == 0xE0:
                low = 0xA0
            elif c == 0xED:
                high = 0x9F
        elif c < 0xF5:
            more = 3
            if c == 0xF0:
                low = 0x90
            elif c == 0xF4:
                high = 0x8F
        else:
            return False
        if n - i <= more or s[i + 1] < low or s[i + 1] > high:
            return False
        for k in range(2, more + 1):
            if s[i + k] & 0xC0 != 0x80:
                return False
        i += more + 1
    return True


cdef inline bint same(const uint8_t* s, uint32_t n, const char* word, uint32_t length) noexcept nogil:
    return n == length and memcmp(s, word, length) == 0


cdef key_span* which_tag(const uint8_t* s, uint32_t n, key_parts* parts) noexcept nogil:
    """Where the value of the tag named s belongs; NULL for a tag that names nothing here."""
    if same(s, n, b"hostname", 8) or same(s, n, b"host", 4):
        return &parts.host
    if same(s, n, b"cluster", 7):
        return &parts.cluster
    if same(s, n, b"type", 4):
        return &parts.type
    if same(s, n, b"type-id", 7):
        return &parts.type_id
    if same(s, n, b"stype", 5) or same(s, n, b"subtype", 7):
        return &parts.subtype
    if same(s, n, b"stype-id", 8) or same(s, n, b"subtype-id", 10):
        return &parts.subtype_id
    if same(s, n, b"unit", 4):
        return &parts.unit
    return NULL


cdef int check_name(const uint8_t* s, uint32_t n) noexcept nogil:
    if n == 0:
        return BAD_SYNTAX
    if n > NAME_BYTES_MAX:
        return TOO_LONG
    return 0 if clean_utf8(s, n) else BAD_ENCODING


cdef int parse_key(const uint8_t* key, size_t n, key_parts* parts) noexcept nogil:
    cdef size_t i, j
    cdef uint32_t used = 0, length = 0, n_tags = 0
    cdef key_span* span
    cdef int reason
    memset(parts, 0, <char*>parts.text - <char*>parts)
    if n > KEY_BYTES_MAX:
        return TOO_LONG
    i = take(key, n, 0, False, parts.text, &length)
    if i < n and key[i] != c',':
        return BAD_SYNTAX
    reason = check_name(parts.text, length)
    if reason:
        return reason
    parts.metric.len = length
    used = length
    while i < n:
        n_tags += 1
        if n_tags > LINE_TAGS_MAX:
            return TOO_LONG
        j = take(key, n, i + 1, True, parts.text + used, &length)
        if j >= n or key[j] != c'=' or length == 0:
            return BAD_SYNTAX
        span = which_tag(parts.text + used, length, parts)
        i = take(key, n, j + 1, True, parts.text + used, &length)
        if i < n and key[i] != c',':
            return BAD_SYNTAX
        if span == NULL:
            continue
        if length or span != &parts.host:  # an empty host is a missing one
            reason = check_name(parts.text + used, length)
            if reason:
                return reason
        span.off = used
        span.len = length
        used += length
    if same(parts.text + parts.type.off, parts.type.len, b"node", 4):
        parts.type.len = parts.type_id.len = 0  # the host itself, whatever id came along
    return 0 if parts.host.len else NO_HOST


def parse(bytes key) -> tuple[int, dict[str, bytes]]:
    """(0, {part: name} of the parts present) of one key, or (reason, {}): parse_key for tests and tools."""
    cdef key_parts parts
    cdef int reason = parse_key(<const uint8_t*><const char*>key, len(key), &parts)
    if reason:
        return reason, {}
    spans = {
        "metric": parts.metric, "cluster": parts.cluster, "host": parts.host, "type": parts.type,
        "type_id": parts.type_id, "subtype": parts.subtype, "subtype_id": parts.subtype_id, "unit": parts.unit,
    }
    text = <char*>parts.text
    return 0, {name: text[span["off"]:span["off"] + span["len"]] for name, span in spans.items() if span["len"]}
