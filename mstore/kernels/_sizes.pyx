"""What series hold: one row for each of their chunks, counted where it lies. The twin is reference_sizes.chunk_rows.

Nothing is copied but counts: they belong to the chunk when its link is the same afterwards (_gather_runs.pyx).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

from mstore.kernels._aggregate cimport ms_count_f32, ms_count_f64, ms_count_u64
from mstore.kernels._atomics cimport *
from mstore.kernels._gather_runs cimport _BROKEN, _BUSY, _GONE, _NO_MEMORY, _OK, RETRIES, RunReader, era, width_of
from mstore.kernels._layout cimport *

import numpy as np

# One chunk of a series (a place in the references asked for). start, end: of a grid the first second of its first slot, and
# the first one after its last slot with a sample; of rows the smallest and the largest stamp in ms. length: slots up to the
# last sample, or rows. n_bytes: of the chunk with its header, and of the series' link table in the row of its first chunk.
ROW = np.dtype(
    [("series", "<u4"), ("length", "<u4"), ("n", "<i8"), ("start", "<i8"), ("end", "<i8"), ("n_samples", "<u4"),
     ("n_bytes", "<u4")]
)

cdef packed struct row_t:
    uint32_t series
    uint32_t length
    int64_t n
    int64_t start
    int64_t end
    uint32_t n_samples
    uint32_t n_bytes

assert ROW.itemsize == sizeof(row_t)

cdef struct row_list:
    row_t* rows
    size_t n
    size_t room


cdef inline size_t last_used(const char* values, uint8_t type, size_t n) noexcept nogil:
    """Slots up to the last one that holds a sample."""
    cdef float single
    cdef double wide
    cdef uint64_t whole
    while n:
        if type == TYPE_F32:
            single = (<const float*>values)[n - 1]
            if single == single:
                break
        elif type == TYPE_F64:
            wide = (<const double*>values)[n - 1]
            if wide == wide:
                break
        else:
            whole = (<const uint64_t*>values)[n - 1]
            if whole != 0xffffffffffffffffULL:
                break
        n -= 1
    return n


cdef class SizeReader(RunReader):
    """Counts chunks. Threads may share one."""

    cdef int push(self, row_list* to, const row_t* row) noexcept nogil:
        cdef size_t room
        cdef void* grown
        if to.n == to.room:
            room = 2 * to.room if to.room else 256
            grown = realloc(to.rows, room * sizeof(row_t))
            if grown == NULL:
                return _NO_MEMORY
            to.rows, to.room = <row_t*>grown, room
        to.rows[to.n] = row[0]
        to.n += 1
        return _OK

    cdef int count_chunk(self, const era* e, int64_t n, row_t* row, uint64_t* table) noexcept nogil:
        """Fill a row for chunk n; its n_bytes is 0 when there is no such chunk."""
        cdef uint64_t word, payload
        cdef const uint64_t* at
        cdef const ms_chunk* c
        cdef const char* values
        cdef size_t capacity
        cdef int attempt, status
        for attempt in range(RETRIES):
            status = self.open_chunk(e, n, table, &at, &word, &c, &payload)
            if status == _BUSY:
                continue
            if status:
                return status
            row.n_bytes = 0
            if c != NULL:
                row.n, row.n_bytes = n, <uint32_t>(payload + CHUNK_HEADER_BYTES)
                if e.kind == KIND_GRID:
                    values = <const char*>c + CHUNK_HEADER_BYTES
                    capacity = min(<uint64_t>c.capacity, payload // width_of(e.type))
                    row.length = <uint32_t>last_used(values, e.type, capacity)
                    if e.type == TYPE_F32:
                        row.n_samples = <uint32_t>ms_count_f32(<const float*>values, row.length)
                    elif e.type == TYPE_F64:
                        row.n_samples = <uint32_t>ms_count_f64(<const double*>values, row.length)
                    else:
                        row.n_samples = <uint32_t>ms_count_u64(<const uint64_t*>values, row.length)
                    row.start = e.anchor_s + n * MS_CHUNK_SLOTS * e.step_s
                    row.end = row.start + <int64_t>row.length * e.step_s
                else:
                    row.length = row.n_samples = ms_load_acquire_u32(&c.count)
                    row.start, row.end = c.anchor_s, c.t_max_ms
            if self.link_holds(e, table[0], at, word):
                return _OK
        return _BUSY

    cdef int count_series(self, uint32_t place, uint64_t ref, row_list* to) noexcept nogil:
        cdef era e
        cdef row_t row
        cdef uint64_t table = 0
        cdef int64_t n, last
        cdef bint first = True
        cdef int status = self.load_era(<uint32_t>ref, <uint32_t>(ref >> 32), &e)
        if status:
            return status
        row.series = place
        n = <int64_t>ms_load_relaxed_u64(&e.at.first_n)
        last = <int64_t>ms_load_acquire_u64(&e.at.last_n)
        while n <= last:
            status = self.count_chunk(&e, n, &row, &table)
            if status:
                return status
            if row.n_bytes:
                if first and table:
                    row.n_bytes += <uint32_t>8 << (table & 255)
                first = False
                status = self.push(to, &row)
                if status:
                    return status
            n += 1
        return _OK

    def chunk_rows(self, const uint64_t[::1] refs):
        """The chunks of these series, each by itself and without its other eras: ROW[k], in their order.

        A series that has gone meanwhile has none. Raises MemoryError; a status number for damaged memory, or when a chunk
        kept changing
        """
        cdef row_list found
        cdef size_t i, before
        cdef int status = _OK
        cdef Py_buffer view
        found.rows, found.n, found.room = NULL, 0, 0
        try:
            with nogil:
                for i in range(<size_t>refs.shape[0]):
                    before = found.n
                    status = self.count_series(<uint32_t>i, refs[i], &found)
                    if status == _GONE:
                        found.n, status = before, _OK
                    if status:
                        break
            if status == _NO_MEMORY:
                raise MemoryError("no memory for the rows of chunks")
            if status:
                return status
            rows = np.empty(found.n, ROW)
            if found.n:
                PyObject_GetBuffer(rows, &view, PyBUF_WRITABLE)
                memcpy(view.buf, found.rows, found.n * sizeof(row_t))
                PyBuffer_Release(&view)
            return rows
        finally:
            free(found.rows)
