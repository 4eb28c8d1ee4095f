from libc.stdint cimport uint8_t, uint32_t

# Where one unescaped name lies inside key_parts.text; len 0 = absent.
cdef struct key_span:
    uint32_t off
    uint32_t len

# A key (measurement and tags, up to the first unescaped space) taken apart. Names are unescaped, checked for length
# (1..255 bytes), UTF-8 and control characters. type=node leaves `type` and `type_id` empty.
cdef struct key_parts:
    key_span metric
    key_span cluster
    key_span host
    key_span type
    key_span type_id
    key_span subtype
    key_span subtype_id
    key_span unit
    uint8_t text[8192]

# 0, or the Reason (model.py) the key is refused for. NO_HOST is decided here; a missing cluster is not an error here
# (cluster.len == 0): the caller knows the connection's default.
cdef int parse_key(const uint8_t* key, size_t n, key_parts* parts) noexcept nogil
