"""Putting the chunks of a snapshot's block back into memory.

One call takes a whole block's payload, whose checksum the caller has verified; an entry is what kernels/_snapshot.pyx
wrote: 64 bytes of header and the payload. Samples.load_chunk does the same with one entry at a time.
"""

from collections import namedtuple

from libc.stdint cimport INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from mstore.kernels._backing cimport ms_back
from mstore.kernels._chunks cimport *
from mstore.kernels._runs cimport grid_class
from mstore.kernels._samples cimport Samples

# stopped_at          bytes done; less than the payload's length: there is no room for the entry that begins there
# n_loaded            chunks that are in memory now
# n_samples           samples in them, missing slots not counted
# n_stale             chunks left out because their series is gone or of another shape
# n_expired, n_older  chunks left out because they end before `expired_s`, and else before `older_s`
LoadResult = namedtuple("LoadResult", ["stopped_at", "n_loaded", "n_samples", "n_stale", "n_expired", "n_older"])

cdef enum:
    IN = 0
    STALE = 1
    FULL = 2
    BAD = 3
    EXPIRED = 4
    OLDER = 5

cdef struct loading:
    int64_t expired_s
    int64_t older_s
    const uint8_t* protect
    uint64_t n_protected
    const int64_t* kept_from
    uint64_t n_kept_from
    uint64_t n_samples


cdef inline int64_t samples_in(const char* values, uint64_t size, int value_type) noexcept nogil:
    """Slots that hold a sample."""
    cdef uint64_t i, found = 0
    cdef const float* single = <const float*>values
    cdef const double* wide = <const double*>values
    cdef const uint64_t* whole = <const uint64_t*>values
    if value_type == TYPE_F32:
        for i in range(size / 4):
            found += single[i] == single[i]
    elif value_type == TYPE_F64:
        for i in range(size / 8):
            found += wide[i] == wide[i]
    else:
        for i in range(size / 8):
            found += whole[i] != 0xffffffffffffffffu
    return found


cdef inline bint ends_by(const ms_chunk* saved, int64_t before_s) noexcept nogil:
    """Whether all of a chunk lies before a second; the rule of Expiry.expired_range."""
    cdef int64_t span
    if before_s == INT64_MIN:
        return False
    if saved.kind == KIND_STAMPED:
        return floor_div(saved.t_max_ms, 1000) < before_s
    span = <int64_t>saved.step_s * MS_CHUNK_SLOTS
    return saved.n <= floor_div(before_s - saved.anchor_s, span) - 1


cdef int load_entry(Samples m, const ms_chunk* saved, const char* values, uint64_t size, loading* how) noexcept nogil:
    cdef ms_series* s = m.live(saved.series)
    cdef ms_chunk* chunk
    cdef uint64_t width
    cdef unsigned size_class
    cdef int why = DONE
    if s == NULL or s.generation != saved.generation or s.kind != saved.kind or s.type != saved.type:
        return STALE
    if s.kind == KIND_GRID:
        if s.anchor_s != saved.anchor_s or s.step_s != saved.step_s:
            return STALE
        width = 4 if s.type == TYPE_F32 else 8
        if size == 0 or size % width or size > MS_CHUNK_SLOTS * width:
            return BAD
        size_class = grid_class(saved.n, <uint32_t>(size / width - 1), s.type)
    else:
        if s.n_columns != saved.n_columns:
            return STALE
        width = (1 + s.n_columns) * 8
        if size == 0 or size != saved.count * width or size > SIZES[CLASS_FULL_8] - CHUNK_HEADER_BYTES:
            return BAD
        size_class = stamped_class(saved.n, s.n_columns)
        while SIZES[size_class] - CHUNK_HEADER_BYTES < size:
            size_class += 1
    if saved.series >= how.n_protected or not how.protect[saved.series]:
        if ends_by(saved, how.kept_from[s.metric] if s.metric < how.n_kept_from else how.expired_s):
            return EXPIRED
        if ends_by(saved, how.older_s):
            return OLDER
    if s.n_chunks:
        m.unlink(s, saved.n)
    chunk = m.new_chunk(saved.series, s, saved.n, size_class, &why)
    if chunk == NULL:
        return FULL if why == NO_ROOM else STALE
    memcpy(<char*>chunk + CHUNK_HEADER_BYTES, values, size)
    m.settle(s, saved.n, chunk, <ms_chunk*>saved, size)
    how.n_samples += saved.count if s.kind == KIND_STAMPED else samples_in(values, size, s.type)
    return IN


def prefault(Samples samples not None, uint64_t start, uint64_t n_bytes) -> bool:
    """Give memory to a part of the samples segment and map it, before the allocator comes to it; another thread may
    write elsewhere in it meanwhile. False when there is none to be had, or nothing to be done.

    Memory allocated so counts as committed only once the allocator commits it. A kernel before 5.14 cannot map it in
    one go: then it is mapped page by page when it is written to, as ever.
    """
    cdef int failed = 1
    if samples.fd >= 0 and start % MS_PAGE == 0 and start < <uint64_t>samples.samples.length:
        n_bytes = min(n_bytes, <uint64_t>samples.samples.length - start)
        with nogil:
            failed = ms_back(samples.fd, samples.base, MS_SAMPLES_DATA, start, n_bytes)
    return failed == 0


def load_chunks(Samples samples not None, const unsigned char[::1] payload, uint64_t at=0, int64_t expired_s=INT64_MIN,
                int64_t older_s=INT64_MIN, protected=None, kept_from=None):
    """Restore the chunks of a block's payload from offset `at` on, before any record is applied to their series.

    expired_s, older_s  chunks that end before these seconds are left out and counted; INT64_MIN: none is
    protected           uint8[n]: series below n whose entry is not 0 are never left out; or None
    kept_from           int64[n]: for metrics below n instead of expired_s; or None
    returns             LoadResult
    raises              ValueError naming the offset when the entries are not what a snapshot's writer makes
    """
    cdef const unsigned char[::1] mask = protected
    cdef const int64_t[::1] seconds = kept_from
    cdef ms_chunk saved
    cdef loading how
    cdef uint64_t size = payload.shape[0], n_bytes, start = at
    cdef uint64_t counts[6]
    cdef int status = IN
    cdef const char* base = ""
    if size:
        base = <const char*>&payload[0]
    counts[:] = [0, 0, 0, 0, 0, 0]
    how.expired_s, how.older_s, how.n_samples = expired_s, older_s, 0
    how.protect, how.n_protected = NULL, 0
    how.kept_from, how.n_kept_from = NULL, 0
    if seconds is not None and seconds.shape[0]:
        how.kept_from, how.n_kept_from = &seconds[0], seconds.shape[0]
    if mask is not None and mask.shape[0]:
        how.protect, how.n_protected = &mask[0], mask.shape[0]
    with nogil:
        while start < size:
            if size - start < sizeof(ms_chunk):
                status = BAD
                break
            memcpy(&saved, base + start, sizeof(ms_chunk))
            n_bytes = saved.reserved
            if n_bytes > size - start - sizeof(ms_chunk) or not -(TIME_MAX) < saved.n < TIME_MAX:
                status = BAD
                break
            status = load_entry(samples, &saved, base + start + sizeof(ms_chunk), n_bytes, &how)
            if status == FULL or status == BAD:
                break
            counts[status] += 1
            start += sizeof(ms_chunk) + ((n_bytes + 7) & ~<uint64_t>7)
    if status == BAD:
        raise ValueError(f"no chunk of a snapshot at offset {start}")
    return LoadResult(start, counts[IN], how.n_samples, counts[STALE], counts[EXPIRED], counts[OLDER])
