"""Records of the reference's log found in a buffer: bytes in, columns of times, values and series out.

    u32 0xCC1DA7A1 | u32 length | PAYLOAD | u32 crc32(PAYLOAD)
    PAYLOAD:  i64 time | u16 length, metric | u8 n { u8 length, name } x n | f32 value

What lies between time and value is the series: equal bytes, equal series. They are numbered as they come, through a
table of hashes whose entries are places in the buffer.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

import numpy as np

cdef enum:
    C_PAYLOAD_MAX = 8 + 2 + 65535 + 1 + 255 * 256 + 4
    C_RECORD_MIN = 27
    C_END = 0
    C_FULL = 1
    C_BAD_MAGIC = 2
    C_BAD_LENGTH = 3
    C_SHORT = 4
    C_BAD_CRC = 5

cdef uint32_t C_MAGIC = 0xCC1DA7A1u
RECORD_MAGIC = C_MAGIC
PAYLOAD_BYTES_MAX = C_PAYLOAD_MAX
RECORD_BYTES_MIN = C_RECORD_MIN
END, FULL, BAD_MAGIC, BAD_LENGTH, SHORT, BAD_CRC = range(6)

cdef uint32_t crc_tables[8][256]


cdef void fill_tables() noexcept:
    """CRC-32/IEEE, reflected; table k takes a byte k places further on, so that eight bytes go at a time."""
    cdef uint32_t i, crc
    cdef int k
    for i in range(256):
        crc = i
        for k in range(8):
            crc = (crc >> 1) ^ (0xEDB88320u if crc & 1 else 0)
        crc_tables[0][i] = crc
    for i in range(256):
        for k in range(1, 8):
            crc_tables[k][i] = (crc_tables[k - 1][i] >> 8) ^ crc_tables[0][crc_tables[k - 1][i] & 0xFF]


fill_tables()


cdef uint32_t crc32(const uint8_t* data, size_t n) noexcept nogil:
    cdef uint32_t crc = 0xFFFFFFFFu, low, high
    while n >= 8:
        memcpy(&low, data, 4)
        memcpy(&high, data + 4, 4)
        low ^= crc
        crc = (
            crc_tables[7][low & 0xFF] ^ crc_tables[6][(low >> 8) & 0xFF]
            ^ crc_tables[5][(low >> 16) & 0xFF] ^ crc_tables[4][low >> 24]
            ^ crc_tables[3][high & 0xFF] ^ crc_tables[2][(high >> 8) & 0xFF]
            ^ crc_tables[1][(high >> 16) & 0xFF] ^ crc_tables[0][high >> 24]
        )
        data += 8
        n -= 8
    while n:
        crc = (crc >> 8) ^ crc_tables[0][(crc ^ data[0]) & 0xFF]
        data += 1
        n -= 1
    return crc ^ 0xFFFFFFFFu


cdef bint well_formed(const uint8_t* payload, size_t n) noexcept nogil:
    """The names fill the payload exactly: a length that did not fit its byte does not."""
    cdef uint16_t metric
    cdef size_t at, i, n_names
    if n < 15:
        return False
    memcpy(&metric, payload + 8, 2)
    at = 10 + <size_t>metric
    if at >= n:
        return False
    n_names = payload[at]
    at += 1
    for i in range(n_names):
        if at >= n:
            return False
        at += 1 + <size_t>payload[at]
    return at + 4 == n


cdef uint64_t hash_of(const uint8_t* key, size_t n) noexcept nogil:
    cdef uint64_t found = 0xCBF29CE484222325u
    cdef size_t i
    for i in range(n):
        found = (found ^ key[i]) * 0x100000001B3u
    return found ^ (found >> 29)


cdef int record_at(const uint8_t* base, size_t length, size_t at, size_t* size) noexcept nogil:
    """C_FULL and the payload's size, or why no sound record begins here."""
    cdef uint32_t word
    if at == length:
        return C_END
    if length - at < 8:
        return C_SHORT
    memcpy(&word, base + at, 4)
    if word != C_MAGIC:
        return C_BAD_MAGIC
    memcpy(&word, base + at + 4, 4)
    if word > C_PAYLOAD_MAX:
        return C_BAD_LENGTH
    size[0] = word
    if length - at < 12 + size[0]:
        return C_SHORT
    memcpy(&word, base + at + 8 + size[0], 4)
    return C_FULL if crc32(base + at + 8, size[0]) == word else C_BAD_CRC


# Series by their keys: entry i is places[i], lengths[i]; the table holds i + 1 at or behind the key's hash.
cdef struct Keys:
    const uint8_t* base
    int64_t* places
    uint32_t* lengths
    size_t n
    uint32_t* table
    size_t mask


cdef int widen(Keys* keys) noexcept nogil:
    """A table for twice as many; -1 when there is no memory."""
    cdef size_t n_slots = 2 * (keys.mask + 1) if keys.table != NULL else 1024
    cdef size_t i, slot
    cdef uint32_t* table = <uint32_t*>calloc(n_slots, 4)
    if table == NULL:
        return -1
    for i in range(keys.n):
        slot = hash_of(keys.base + keys.places[i], keys.lengths[i]) & (n_slots - 1)
        while table[slot] != 0:
            slot = (slot + 1) & (n_slots - 1)
        table[slot] = <uint32_t>(i + 1)
    free(keys.table)
    keys.table = table
    keys.mask = n_slots - 1
    return 0


cdef int64_t series_of(Keys* keys, size_t place, size_t n) noexcept nogil:
    """The number of the series whose key stands here, a new one if need be; -1 when there is no memory."""
    if (keys.table == NULL or 2 * (keys.n + 1) > keys.mask + 1) and widen(keys) != 0:
        return -1
    cdef size_t slot = hash_of(keys.base + place, n) & keys.mask
    cdef uint32_t entry
    while True:
        entry = keys.table[slot]
        if entry == 0:
            break
        if keys.lengths[entry - 1] == n and memcmp(keys.base + keys.places[entry - 1], keys.base + place, n) == 0:
            return <int64_t>entry - 1
        slot = (slot + 1) & keys.mask
    keys.places[keys.n] = <int64_t>place
    keys.lengths[keys.n] = <uint32_t>n
    keys.n += 1
    keys.table[slot] = <uint32_t>keys.n
    return <int64_t>keys.n - 1


def scan(const uint8_t[::1] data, size_t start, size_t n_max):
    """Records from `start` on: until the end, one that is damaged, or n_max well-formed ones.

    returns  (where it stopped, why: END, FULL, BAD_MAGIC, BAD_LENGTH, SHORT or BAD_CRC,
              times int64[n] in Unix seconds, series uint32[n], values as bits uint32[n],
              where the key of each series begins int64[k], its length uint32[k],
              sound records whose names do not fill them, where the first of those begins or -1)
    raises   MemoryError. Takes 28 bytes for each record that the rest of the buffer could hold, n_max at most.
    """
    cdef size_t length = data.shape[0], at = start, n = 0, size = 0, n_malformed = 0, most
    cdef int64_t first_malformed = -1, number = 0
    cdef int status = C_FULL
    if start > length:
        raise ValueError(f"start {start} of {length} bytes")
    most = min(n_max, (length - start) // C_RECORD_MIN)
    times_array = np.empty(most + 1, np.int64)
    series_array = np.empty(most + 1, np.uint32)
    bits_array = np.empty(most + 1, np.uint32)
    places_array = np.empty(most + 1, np.int64)
    lengths_array = np.empty(most + 1, np.uint32)
    cdef int64_t[::1] times = times_array, places = places_array
    cdef uint32_t[::1] series = series_array, bits = bits_array, lengths = lengths_array
    cdef const uint8_t* base = &data[0] if length else NULL
    cdef Keys keys = Keys(base, &places[0], &lengths[0], 0, NULL, 0)
    with nogil:
        while n < n_max:
            status = record_at(base, length, at, &size)
            if status != C_FULL:
                break
            if well_formed(base + at + 8, size):
                number = series_of(&keys, at + 16, size - 12)
                if number < 0:
                    break
                memcpy(&times[n], base + at + 8, 8)
                memcpy(&bits[n], base + at + 4 + size, 4)
                series[n] = <uint32_t>number
                n += 1
            else:
                n_malformed += 1
                if first_malformed < 0:
                    first_malformed = <int64_t>at
            at += 12 + size
        free(keys.table)
    if number < 0:
        raise MemoryError
    return (
        at, status, times_array[:n], series_array[:n], bits_array[:n],
        places_array[: keys.n], lengths_array[: keys.n], n_malformed, first_malformed,
    )
