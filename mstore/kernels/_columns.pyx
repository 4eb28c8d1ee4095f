"""Columns frames -> run records in the ring: consecutive series at one time become a ROW, one series over time a COLUMN.

A frame is a matrix of n_times x n_series values. With many times and few series, COLUMN runs cost one header a series;
with few times and many series, ROW runs cost one header a time and range of consecutive slots. Scattered series at one
time share a SCATTER header. The twin is reference_columns.py.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from mstore.kernels._layout cimport (
    MS_REC_COLUMN, MS_REC_ROW, MS_REC_SCATTER, MS_REC_STAMPED, SERIES_LIVE, TYPE_F32, TYPE_F64, TYPE_U64, ms_run,
)
from mstore.kernels._ring cimport RingWriter
from mstore.kernels._values cimport bad, missing4

import numpy as np

cdef extern from *:
    void __builtin_prefetch(const void* at) noexcept nogil

cdef enum:
    AHEAD = 24                 # series fetched ahead of use
    STRIDE = 32                # series looked at together
    RUN_MAX = 8192             # limits.RUN_VALUES_MAX
    ROW_MIN = 4                # shorter runs of consecutive slots go into a SCATTER
    COLUMN_TIMES_MIN = 16
    STAMPED_BYTES_MAX = 262144 # payload of a STAMPED record: the persister takes a ring in steps of a megabyte

# Of a series' first word: its generation and its flags.
cdef uint64_t STANDING = 0xFF000000FFFFFFFFu
cdef uint64_t LIVE = <uint64_t>SERIES_LIVE << 56
cdef int64_t DT_MAX = <int64_t>1 << 40      # of a COLUMN, seconds: as far apart as one record may say


cdef inline uint32_t load4(const void* at) noexcept nogil:
    cdef uint32_t bits
    memcpy(&bits, at, 4)                              # values of a frame need not be aligned
    return bits


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


cdef inline int64_t run_max(uint64_t ring_bytes) noexcept nogil:
    """Samples in one record: small rings take small records, so that a quarter of the ring holds each."""
    return RUN_MAX if RUN_MAX * 16 <= ring_bytes // 4 else <int64_t>(ring_bytes // 64)


cdef class ColumnEncoder:
    """One frame on its way into the ring; encode() continues where a full ring stopped it.

    refs    uint64[n_series], generation << 32 | slot, all grid series of the value type `vtype`
    times   int64[n_times], seconds, 0 or later; the caller has checked them against the accepted window
    values  bytes, row-major [n_times][n_series], float32, float64 or uint64
    Arrays need not be aligned. After encode() returned True: n_written samples are in the ring, n_bad were missing
    values (NaN, infinity, 2^64-1).
    raises  ValueError for lengths that do not fit together
    """

    cdef const uint64_t[::1] refs
    cdef const int64_t[::1] times
    cdef const uint8_t[::1] values
    cdef int vtype
    cdef int size
    cdef int64_t most
    cdef int64_t i_time
    cdef int64_t i_series
    cdef bint by_column
    cdef readonly int64_t n_written
    cdef readonly int64_t n_bad

    def __init__(self, refs, times, values, int vtype):
        self.refs = np.require(np.frombuffer(refs, dtype=np.uint64), requirements="A")
        self.times = np.require(np.frombuffer(times, dtype=np.int64), requirements="A")
        self.values = np.frombuffer(values, dtype=np.uint8)
        self.vtype = vtype
        if vtype != TYPE_F32 and vtype != TYPE_F64 and vtype != TYPE_U64:
            raise ValueError(f"value type {vtype} is none of 1 (f32), 2 (f64), 3 (u64)")
        self.size = 4 if vtype == TYPE_F32 else 8
        if self.values.shape[0] != self.refs.shape[0] * self.times.shape[0] * self.size:
            raise ValueError(
                f"{self.values.shape[0]} bytes of values for {self.times.shape[0]} times x {self.refs.shape[0]} series"
                f" of {self.size} bytes"
            )
        self.by_column = self.times.shape[0] >= COLUMN_TIMES_MIN and self.refs.shape[0] > 0

    def encode(self, RingWriter ring not None) -> bool:
        """Append records from where the last call stopped; True when all are in the ring, False: no room now."""
        cdef bint done
        self.most = run_max(ring.size)
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
        cdef int64_t n = self.refs.shape[0], i = first, length, alone, count = 0, n_bad = 0, took
        if bad(row, first, self.vtype):
            self.n_bad += 1
            return 1
        alone = self._consecutive(row, first, n)
        if alone >= ROW_MIN:
            return self._put_row(ring, row, i_time, first, alone)
        # Short runs one after the other, over missing values, up to the next run that is worth a ROW.
        while i < n and count < self.most:
            if bad(row, i, self.vtype):
                n_bad += 1
                i += 1
                continue
            length = self._consecutive(row, i, n)
            if length >= ROW_MIN:
                break
            if length > self.most - count:
                length = self.most - count
            count += length
            i += length
        if count <= alone:
            return self._put_row(ring, row, i_time, first, count)
        took = self._put_scatter(ring, row, i_time, first, i, count)
        if took > 0:
            self.n_bad += n_bad
        return took

    cdef int64_t _consecutive(self, const char* row, int64_t first, int64_t n) noexcept nogil:
        """How many series from `first` on are the next slots of one generation, and have a value."""
        cdef int64_t i = first + 1
        cdef int64_t stop = n if n - first < self.most else first + self.most
        while i + STRIDE <= stop and self._stride(row, i):
            i += STRIDE
        while i < stop and self.refs[i] == self.refs[i - 1] + 1 and not bad(row, i, self.vtype):
            i += 1
        return i - first

    cdef bint _stride(self, const char* row, int64_t i) noexcept nogil:
        """Whether the STRIDE series from i on all go on the run: without branches, for the compiler to vectorise."""
        cdef const uint64_t* refs = &self.refs[i]
        cdef const uint32_t* narrow = <const uint32_t*>(row + 4 * i)
        cdef uint64_t breaks = 0
        cdef uint32_t holes = 0
        cdef int64_t k
        for k in range(STRIDE):
            breaks |= (refs[k] - refs[k - 1]) ^ 1
        if self.vtype == TYPE_F32:
            for k in range(STRIDE):
                holes |= missing4(load4(narrow + k))
        else:
            for k in range(STRIDE):
                holes |= bad(row, i + k, self.vtype)
        return breaks == 0 and holes == 0

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

    cdef int64_t _put_scatter(self, RingWriter ring, const char* row, int64_t i_time, int64_t first, int64_t stop,
                              int64_t count) noexcept nogil:
        """The `count` values among the series first..stop that are not missing."""
        cdef uint64_t n_bytes = <uint64_t>(count * self.size), padded = (n_bytes + 7) & ~<uint64_t>7
        cdef int64_t i, k = 0
        cdef uint64_t ref
        cdef char* place = ring.reserve(24 + 8 * <uint64_t>count + padded)
        cdef char* to
        if place == NULL:
            return -1
        header(place, MS_REC_SCATTER, self.vtype, <uint32_t>count, 0, self.times[i_time])
        to = place + 24 + 8 * count
        for i in range(first, stop):
            if bad(row, i, self.vtype):
                continue
            ref = self.refs[i]
            memcpy(place + 24 + 8 * k, &ref, 8)      # little endian: slot, then generation
            if self.size == 4:
                memcpy(to + 4 * k, row + 4 * i, 4)
            else:
                memcpy(to + 8 * k, row + 8 * i, 8)
            k += 1
        memset(to + n_bytes, 0, padded - n_bytes)
        ring.advance(24 + 8 * <uint64_t>count + padded)
        self.n_written += count
        return stop - first

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
        cdef int64_t stop = m if m - first < self.most else first + self.most
        cdef uint64_t n_bytes, padded
        cdef char* place
        if bad(values, first * n + i_series, self.vtype):
            self.n_bad += 1
            return 1
        i = first + 1
        if i < stop:
            dt = self.times[i] - self.times[first]
            if not -DT_MAX <= dt <= DT_MAX:
                dt = 0
                stop = i
        while i < stop and self.times[i] - self.times[i - 1] == dt and not bad(values, i * n + i_series, self.vtype):
            i += 1
        length = i - first
        if length == 1:
            dt = 0
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


cdef class RowEncoder:
    """Rows of one stamped series on their way into the ring; encode() continues where a full ring stopped it.

    ref     generation << 32 | slot
    stamps  int64[m] milliseconds
    values  bytes, row-major [m][n_columns] of 8-byte words
    types   uint8[n_columns]: f64 (2) or u64 (3) each
    Arrays need not be aligned. A row is refused when none of its columns has a value (NaN; 2^64-1), or one of them is
    infinite. After encode() returned True: n_written rows are in the ring, n_bad were refused.
    raises  ValueError for lengths that do not fit together
    """

    cdef uint64_t ref
    cdef const uint8_t[::1] stamps
    cdef const uint8_t[::1] values
    cdef const uint8_t[::1] types
    cdef int64_t n_rows
    cdef int64_t n_columns
    cdef int64_t i_row
    cdef readonly int64_t n_written
    cdef readonly int64_t n_bad

    def __init__(self, uint64_t ref, stamps, values, types):
        self.ref = ref
        self.stamps = np.frombuffer(stamps, dtype=np.uint8)
        self.values = np.frombuffer(values, dtype=np.uint8)
        self.types = np.frombuffer(types, dtype=np.uint8)
        self.n_rows = self.stamps.shape[0] // 8
        self.n_columns = self.types.shape[0]
        if (not 1 <= self.n_columns <= 63 or self.stamps.shape[0] % 8
                or self.values.shape[0] != 8 * self.n_columns * self.n_rows):
            raise ValueError(
                f"{self.values.shape[0]} bytes of values for {self.stamps.shape[0] / 8} rows of {self.n_columns} columns"
            )

    def encode(self, RingWriter ring not None) -> bool:
        """Append records from where the last call stopped; True when all are in the ring, False: no room now."""
        cdef int64_t most = <int64_t>(min(<uint64_t>STAMPED_BYTES_MAX, ring.size // 4) // (8 + 8 * <uint64_t>self.n_columns))
        cdef int64_t took = 0
        most = max(1, min(<int64_t>RUN_MAX, most))
        with nogil:
            while self.i_row < self.n_rows and took >= 0:
                took = self._piece(ring, most)
                if took > 0:
                    self.i_row += took
        return took >= 0

    cdef bint refused(self, int64_t i_row) noexcept nogil:
        cdef bint empty = True
        cdef uint64_t word, magnitude
        cdef int64_t k
        for k in range(self.n_columns):
            memcpy(&word, &self.values[8 * (i_row * self.n_columns + k)], 8)
            if self.types[k] == TYPE_U64:
                empty = empty and word == <uint64_t>0xFFFFFFFFFFFFFFFF
                continue
            magnitude = word & <uint64_t>0x7FFFFFFFFFFFFFFF
            if magnitude == <uint64_t>0x7FF0000000000000:
                return True
            empty = empty and magnitude > <uint64_t>0x7FF0000000000000
        return empty

    cdef int64_t _piece(self, RingWriter ring, int64_t most) noexcept nogil:
        """Encode rows up to the next refused one as one record; the number of rows it took, or -1 when the ring is full."""
        cdef int64_t first = self.i_row, stop = first, i
        cdef uint64_t row = 8 + 8 * <uint64_t>self.n_columns
        cdef int64_t t
        cdef char* place
        if self.refused(first):
            self.n_bad += 1
            return 1
        while stop < self.n_rows and stop - first < most and not self.refused(stop):
            stop += 1
        place = ring.reserve(24 + <uint64_t>(stop - first) * row)
        if place == NULL:
            return -1
        memcpy(&t, &self.stamps[8 * first], 8)
        header(place, MS_REC_STAMPED, <int>self.n_columns, <uint32_t>(stop - first), self.ref, t)
        place += 24
        for i in range(first, stop):
            memcpy(place, &self.stamps[8 * i], 8)
            memcpy(place + 8, &self.values[8 * self.n_columns * i], row - 8)
            place += row
        ring.advance(24 + <uint64_t>(stop - first) * row)
        self.n_written += stop - first
        return stop - first


def same(const uint32_t[::1] one, const uint32_t[::1] other) -> bool:
    """Whether two arrays hold the same numbers, at the speed of memory."""
    return one.shape[0] == other.shape[0] and (
        one.shape[0] == 0 or memcmp(&one[0], &other[0], <size_t>one.shape[0] * 4) == 0
    )


def stale(const uint64_t[::1] refs, const uint64_t[:] words):
    """Where in `refs` the series is not there: intp[k], ascending; mostly empty.

    refs   uint64[n], generation << 32 | slot; 0 = not made yet
    words  uint64[n_series], the first word of each series: generation, then kind, type, columns and flags in its
           upper half; a strided view of the series table
    A reference stands for a series that is live and nothing else: that an era follows, or that its removal has begun,
    ends it as well; so does a slot that is being given back, whose flags go before its generation.
    """
    cdef Py_ssize_t n = refs.shape[0], n_series = words.shape[0], i, n_stale = 0
    cdef uint64_t ref, slot
    with nogil:
        for i in range(n):
            # The persister on another core has just written these lines: fetching them is all the time this takes.
            if i + AHEAD < n and <Py_ssize_t>(refs[i + AHEAD] & 0xFFFFFFFFu) < n_series:
                __builtin_prefetch(&words[refs[i + AHEAD] & 0xFFFFFFFFu])
            ref = refs[i]
            slot = ref & 0xFFFFFFFFu
            n_stale += ref == 0 or <Py_ssize_t>slot >= n_series or (words[slot] & STANDING) != (ref >> 32 | LIVE)
    if n_stale == 0:
        return np.empty(0, np.intp)
    found = np.empty(n_stale, np.intp)
    cdef Py_ssize_t[::1] at = found
    n_stale = 0
    for i in range(n):
        ref = refs[i]
        slot = ref & 0xFFFFFFFFu
        if ref == 0 or <Py_ssize_t>slot >= n_series or (words[slot] & STANDING) != (ref >> 32 | LIVE):
            if n_stale < at.shape[0]:  # a series may change between the two looks; the next frame looks again
                at[n_stale] = i
            n_stale += 1
    return found[:n_stale]
