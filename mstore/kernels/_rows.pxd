# Rows of a stamped chunk where they stand: taken out, and made whole again after a kill.
from libc.stdint cimport INT64_MIN, int64_t, uint32_t, uint64_t

from mstore.kernels._atomics cimport *
from mstore.kernels._layout cimport *

cdef inline void drop_rows(ms_chunk* chunk, int64_t first, int64_t last, bint repair) noexcept nogil:
    """Take the rows with stamps in [first, last] out of a stamped chunk, under its sequence number.

    Rows only move down, each stamp before its columns: a kill at any store leaves every kept row complete at its last
    place, and `repair` (after such a kill) keeps exactly these: the last one of equal stamps.
    """
    cdef uint64_t words = 1 + chunk.n_columns
    cdef uint64_t* rows = <uint64_t*>(<char*>chunk + CHUNK_HEADER_BYTES)
    cdef uint32_t i, j, kept = 0, count = chunk.count
    cdef uint64_t k
    cdef int64_t stamp, newest = INT64_MIN, oldest = 0
    cdef uint32_t flags = 0
    cdef bint drop
    ms_store_relaxed_u32(&chunk.seq, chunk.seq | 1)
    ms_fence_release()  # SYNC POINT (release) row: odd sequence before the rows, pairs with the reader's second look
    for i in range(count):
        stamp = <int64_t>rows[i * words]
        drop = first <= stamp <= last
        if repair and not drop:
            for j in range(i + 1, count):
                if <int64_t>rows[j * words] == stamp:
                    drop = True
                    break
        if drop:
            continue
        if kept != i:
            ms_store_relaxed_u64(rows + kept * words, <uint64_t>stamp)
            ms_fence_release()
            for k in range(1, words):
                ms_store_relaxed_u64(rows + kept * words + k, rows[i * words + k])
            ms_fence_release()
        if kept == 0 or stamp < oldest:
            oldest = stamp
        if kept and stamp <= newest:
            flags = CHUNK_UNORDERED
        if kept == 0 or stamp > newest:
            newest = stamp
        kept += 1
    ms_store_relaxed_u32(&chunk.count, kept)
    ms_store_relaxed_u32(&chunk.flags, flags)
    ms_store_relaxed_u64(&chunk.anchor_s, <uint64_t>oldest)
    ms_store_relaxed_u64(&chunk.t_max_ms, <uint64_t>newest)
    ms_store_release_u32(&chunk.seq, chunk.seq + 1)  # SYNC POINT (release) row: rows before the even sequence


cdef inline void narrow_range(ms_chunk* chunk) noexcept nogil:
    """Let the range of a stamped chunk be that of the rows it counts: a kill may have come between range and count."""
    cdef uint64_t words = 1 + chunk.n_columns
    cdef uint64_t* rows = <uint64_t*>(<char*>chunk + CHUNK_HEADER_BYTES)
    cdef uint32_t i
    cdef int64_t oldest, newest
    if chunk.count == 0:
        return
    oldest = newest = <int64_t>rows[0]
    for i in range(1, chunk.count):
        oldest, newest = min(oldest, <int64_t>rows[i * words]), max(newest, <int64_t>rows[i * words])
    ms_store_relaxed_u64(&chunk.anchor_s, <uint64_t>oldest)
    ms_store_relaxed_u64(&chunk.t_max_ms, <uint64_t>newest)
