"""Columns frames -> run records in the ring: consecutive series at one time become a ROW, one series over time a COLUMN.

A frame is a matrix of n_times x n_series values. With many times and few series, COLUMN runs cost one header a series;
with few times and many series, ROW runs cost one header a time and range of consecutive slots. Scattered series at one
time share a SCATTER header. The twin is reference_columns.py.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from mstore.kernels._ring cimport RingWriter

import numpy as np

cdef extern from "layout.h" nogil:
    int MS_REC_ROW, MS_REC_COLUMN, MS_REC_SCATTER, MS_REC_STAMPED
    ctypedef struct ms_run:
        uint16_t type
        uint8_t vtype
        uint8_t flags
        uint32_t count
        uint32_t slot
        uint32_t generation
        int64_t t

cdef enum:
    RUN_MAX = 8192
    ROW_MIN = 4          # shorter runs of consecutive slots go into a SCATTER
    COLUMN_TIMES_MIN = 16

cdef enum:
    F32 = 1
    U64 = 3


cdef inline bint missing4(uint32_t bits) noexcept nogil:
    return (bits & 0x7F800000u) == 0x7F800000u       # NaN and infinity


cdef inline bint missing8(uint64_t bits, int vtype) noexcept nogil:
    if vtype == U64:
        return bits == <uint64_t>0xFFFFFFFFFFFFFFFF
    return (bits & <uint64_t>0x7FF0000000000000) == <uint64_t>0x7FF0000000000000


cdef inline bint bad(const char* values, int64_t i, int vtype) noexcept nogil:
    cdef uint32_t narrow
    cdef uint64_t wide
    if vtype == F32:
        memcpy(&narrow, values + 4 * i, 4)
        return missing4(narrow)
    memcpy(&wide, values + 8 * i, 8)
    return missing8(wide, vtype)


cdef inline void header(char* place, int type, int vtype, uint32_t count, uint64_t ref, int64_t t) noexcept nogil:
    cdef ms_run run
    run.type = <uint16_t>type
    run.vtype = <uint8_t>vtype
    run.flags = 0
    run.count = count
    run.slot = <uint32_t>(ref & 0xFFFFFFFFu)
    run.generation = <uint32_t>(ref >> 32)
    run.t = t
    memcpy(place, &run, sizeof(ms_run))


cdef class ColumnEncoder:
    """One frame on its way into the ring; encode() continues where a full ring stopped it.

    refs    uint64[n_series], generation << 32 | slot, all grid series of the value type `vtype`
    times   int64[n_times], seconds; the caller has checked them against the accepted window
    values  bytes, row-major [n_times][n_series], float32, float64 or uint64
    After encode() returned True: n_written samples are in the ring, n_bad were missing values (NaN, infinity, 2^64-1).
    """

    cdef const uint64_t[::1] refs
    cdef const int64_t[::1] times
    cdef const uint8_t[::1] values
    cdef int vtype
    cdef int size
    cdef int64_t i_time
    cdef int64_t i_series
    cdef bint by_column
    cdef readonly int64_t n_written
    cdef readonly int64_t n_bad

    def __init__(self, refs, times, values, int vtype):
        self.refs = np.frombuffer(refs, dtype=np.uint64)
        self.times = np.frombuffer(times, dtype=np.int64)
        self.values = np.frombuffer(values, dtype=np.uint8)
        self.vtype = vtype
        self.size = 4 if vtype == F32 else 8
        if self.values.shape[0] != self.refs.shape[0] * self.times.shape[0] * self.size:
            raise ValueError(
                f"{self.values.shape[0]} bytes of values for {self.times.shape[0]} times x {self.refs.shape[0]} series"
                f" of {self.size} bytes"
            )
        self.by_column = self.times.shape[0] >= COLUMN_TIMES_MIN and self.refs.shape[0] > 0

    def encode(self, RingWriter ring) -> bool:
        cdef bint done
        with nogil:
            done = self._columns(ring) if self.by_column else self._rows(ring)
        return done

    cdef bint _rows(self, RingWriter ring) noexcept nogil:
        cdef int64_t n = self.refs.shape[0], took
        while self.i_time < self.times.shape[0]:
            while self.i_series < n:
                took = self._row_piece(ring, self.i_time, self.i_series)
                if took < 0:
                    return False
                self.i_series += took
            self.i_series = 0
            self.i_time += 1
        return True

    cdef int64_t _row_piece(self, RingWriter ring, int64_t i_time, int64_t first) noexcept nogil:
        """Encode one record starting at series `first`; the number of series it took, or -1 when the ring is full."""
        cdef const char* row = <const char*>&self.values[0] + i_time * self.refs.shape[0] * self.size
        cdef int64_t n = self.refs.shape[0], length
        if bad(row, first, self.vtype):
            self.n_bad += 1
            return 1
        length = self._consecutive(row, first, n)
        if length >= ROW_MIN or first + length == n:
            return self._put_row(ring, row, i_time, first, length)
        return self._put_scatter(ring, row, i_time, first, n)

    cdef int64_t _consecutive(self, const char* row, int64_t first, int64_t n) noexcept nogil:
        cdef int64_t i = first + 1
        cdef int64_t stop = n if n - first < RUN_MAX else first + RUN_MAX
        while i < stop and self.refs[i] == self.refs[i - 1] + 1 and not bad(row, i, self.vtype):
            i += 1
        return i - first

    cdef int64_t _put_row(self, RingWriter ring, const char* row, int64_t i_time, int64_t first, int64_t length) noexcept nogil:
        cdef uint64_t n_bytes = <uint64_t>(length * self.size), padded = (n_bytes + 7) & ~<uint64_t>7
        cdef char* place = ring.reserve(24 + padded)
        if place == NULL:
            return -1
        header(place, MS_REC_ROW, self.vtype, <uint32_t>length, self.refs[first], self.times[i_time])
        memcpy(place + 24, row + first * self.size, n_bytes)
        memset(place + 24 + n_bytes, 0, padded - n_bytes)
        ring.advance(24 + padded)
        self.n_written += length
        return length

    cdef int64_t _put_scatter(self, RingWriter ring, const char* row, int64_t i_time, int64_t first, int64_t n) noexcept nogil:
        """Short runs one after the other, up to the next run that is worth a ROW, a missing value or RUN_MAX."""
        cdef int64_t i = first, length, count, k
        cdef uint64_t n_bytes, padded
        cdef uint64_t ref
        cdef char* place
        while i < n and i - first < RUN_MAX and not bad(row, i, self.vtype):
            length = self._consecutive(row, i, n)
            if length >= ROW_MIN:
                break
            i += length
        count = i - first
        if count > RUN_MAX:
            count = RUN_MAX
        n_bytes = <uint64_t>(count * self.size)
        padded = (n_bytes + 7) & ~<uint64_t>7
        place = ring.reserve(24 + 8 * <uint64_t>count + padded)
        if place == NULL:
            return -1
        header(place, MS_REC_SCATTER, self.vtype, <uint32_t>count, 0, self.times[i_time])
        for k in range(count):
            ref = self.refs[first + k]
            memcpy(place + 24 + 8 * k, &ref, 8)      # little endian: slot, then generation
        memcpy(place + 24 + 8 * count, row + first * self.size, n_bytes)
        memset(place + 24 + 8 * count + n_bytes, 0, padded - n_bytes)
        ring.advance(24 + 8 * <uint64_t>count + padded)
        self.n_written += count
        return count

    cdef bint _columns(self, RingWriter ring) noexcept nogil:
        cdef int64_t m = self.times.shape[0], took
        while self.i_series < self.refs.shape[0]:
            while self.i_time < m:
                took = self._column_piece(ring, self.i_series, self.i_time)
                if took < 0:
                    return False
                self.i_time += took
            self.i_time = 0
            self.i_series += 1
        return True

    cdef int64_t _column_piece(self, RingWriter ring, int64_t i_series, int64_t first) noexcept nogil:
        """One run of equally spaced times without a missing value; the number of times it took, or -1."""
        cdef int64_t m = self.times.shape[0], n = self.refs.shape[0], i, dt = 0, length
        cdef const char* values = <const char*>&self.values[0]
        cdef int64_t stop = m if m - first < RUN_MAX else first + RUN_MAX
        cdef uint64_t n_bytes, padded
        cdef char* place
        if bad(values, first * n + i_series, self.vtype):
            self.n_bad += 1
            return 1
        i = first + 1
        if i < stop:
            dt = self.times[i] - self.times[first]
        while i < stop and self.times[i] - self.times[i - 1] == dt and not bad(values, i * n + i_series, self.vtype):
            i += 1
        length = i - first
        n_bytes = <uint64_t>(length * self.size)
        padded = (n_bytes + 7) & ~<uint64_t>7
        place = ring.reserve(32 + padded)
        if place == NULL:
            return -1
        header(place, MS_REC_COLUMN, self.vtype, <uint32_t>length, self.refs[i_series], self.times[first])
        memcpy(place + 24, &dt, 8)
        memset(place + 32 + n_bytes, 0, padded - n_bytes)
        if self.size == 4:
            for i in range(length):
                memcpy(place + 32 + 4 * i, values + 4 * ((first + i) * n + i_series), 4)
        else:
            for i in range(length):
                memcpy(place + 32 + 8 * i, values + 8 * ((first + i) * n + i_series), 8)
        ring.advance(32 + padded)
        self.n_written += length
        return length


def encode_rows(RingWriter ring, uint64_t ref, stamps, values, int n_columns) -> bool:
    """One STAMPED record: rows of one series, atomic for readers. False when the ring has no room now.

    stamps  int64[m] milliseconds, m <= 8192
    values  bytes, row-major [m][n_columns] of 8-byte words
    """
    cdef const int64_t[::1] t = np.frombuffer(stamps, dtype=np.int64)
    cdef const uint64_t[:, ::1] words = np.frombuffer(values, dtype=np.uint64).reshape(t.shape[0], n_columns)
    cdef int64_t m = t.shape[0], i
    cdef uint64_t row = 8 * (1 + <uint64_t>n_columns), n_bytes = 24 + m * row
    cdef char* place
    if m == 0:
        return True
    if m > RUN_MAX:
        raise ValueError(f"{m} rows in one record; at most {RUN_MAX}")
    with nogil:
        place = ring.reserve(n_bytes)
        if place != NULL:
            header(place, MS_REC_STAMPED, n_columns, <uint32_t>m, ref, t[0])
            for i in range(m):
                memcpy(place + 24 + i * row, &t[i], 8)
                memcpy(place + 32 + i * row, &words[i, 0], 8 * n_columns)
            ring.advance(n_bytes)
    return place != NULL
