"""Sample runs -> chunks: the one code path for live data and for replay of the log.

    ROW, COLUMN, SCATTER    samples of grid series: _grid.pyx
    STAMPED                 rows with stamps of their own: here

Applying the same bytes twice gives the same samples, so a replay may start anywhere before the point it is needed from.
"""

from collections import namedtuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.math cimport isnan
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from mstore.kernels._chunks cimport *
from mstore.kernels._grid cimport TOGETHER, GridSamples, tally
from mstore.kernels._records cimport *
from mstore.kernels._runs cimport *

from mstore.kernels._ring import record_fault

# n_samples           samples stored (stamped: rows), of the records applied whole
# n_stale             samples of references whose series is gone or that do not fit its definition: never applied
# n_records_skipped   padding
# stopped_at          offset of the first record not applied, or the length of the buffer
# why                 DONE, NO_ROOM (no chunk to be had) or OTHER (a record of type >= 16, for somebody else)
ApplyResult = namedtuple("ApplyResult", ["n_samples", "n_stale", "n_records_skipped", "stopped_at", "why"])
STOPPED_DONE, STOPPED_NO_ROOM, STOPPED_OTHER = 0, 1, 2
LOADED, LOAD_STALE, LOAD_NO_ROOM = 1, 0, 2  # what load_chunk answers

cdef enum:
    BAD = 4
    OTHER = 5
    TOGETHER_MIN = 256  # values of a ROW: shorter ones are not worth the search for others of the same series


cdef bint is_missing(const char* values, int64_t place, int value_type) noexcept nogil:
    if value_type == TYPE_F32:
        return isnan((<const float*>values)[place])
    if value_type == TYPE_F64:
        return isnan((<const double*>values)[place])
    return (<const uint64_t*>values)[place] == 0xffffffffffffffffu


cdef int64_t find_row(ms_chunk* chunk, int64_t stamp) noexcept nogil:
    """Index of the row with that stamp, or -1."""
    cdef const uint64_t* rows = <const uint64_t*>(<char*>chunk + CHUNK_HEADER_BYTES)
    cdef uint64_t words = 1 + chunk.n_columns
    cdef int64_t low = 0, high = <int64_t>chunk.count - 1, middle
    if high < 0 or stamp < chunk.anchor_s or stamp > chunk.t_max_ms:
        return -1
    if chunk.flags & CHUNK_UNORDERED:
        while high >= 0 and <int64_t>rows[high * words] != stamp:
            high -= 1
        return high
    while low <= high:
        middle = (low + high) / 2
        if <int64_t>rows[middle * words] == stamp:
            return middle
        if <int64_t>rows[middle * words] < stamp:
            low = middle + 1
        else:
            high = middle - 1
    return -1


cdef uint32_t gather(const char* at, uint64_t left, const ms_run** runs, uint64_t* together) noexcept nogil:
    """The ROW records from `at` on that could be applied together; their number, at least 1.

    together   their length in bytes if some of them hold the same series, else 0: nothing is won then
    """
    cdef uint32_t n = 0
    cdef uint64_t at_byte = 0, length, top = 0
    cdef const ms_run* run = <const ms_run*>at
    cdef bint meet = False
    while n < TOGETHER and at_byte < left:
        run = <const ms_run*>(at + at_byte)
        length = record_bytes(<const char*>run, left - at_byte)
        if (length == 0 or run.type != MS_REC_ROW or run.count < TOGETHER_MIN
                or (n and (run.generation != runs[0].generation or run.vtype != runs[0].vtype))):
            break
        meet = meet or run.slot < top
        top = max(top, <uint64_t>run.slot + run.count)
        runs[n] = run
        n += 1
        at_byte += length
    together[0] = at_byte if meet else 0
    return max(n, 1)


cdef class Samples(GridSamples):
    """See Chunks for the arguments. `apply` is the only way samples enter chunks."""

    cdef int rows_from(self, const char* at, uint64_t left, uint64_t* length, uint32_t* singly, tally* counts) noexcept nogil:
        """Apply the long ROW record at `at`, and with it those after it that hold the same series at other times.

        length   set to the bytes of all of them when there were several
        singly   long ROW records from here on of which is known that they are better applied alone
        """
        cdef const ms_run* runs[TOGETHER]
        cdef uint64_t together = 0
        if singly[0] == 0:
            singly[0] = gather(at, left, runs, &together)
            if together and self.apply_rows(runs, singly[0], counts) == DONE:
                length[0], singly[0] = together, 0
                return DONE
            counts.samples = counts.stale = 0
        singly[0] -= 1
        return self.apply_row(<const ms_run*>at, counts)

    # ---- stamped rows ----

    cdef int put_row(self, uint32_t slot, ms_series* s, const uint64_t* row) noexcept nogil:
        """Append one row, or overwrite the row of the same stamp where it stands: stamps are unique in a series."""
        cdef int64_t stamp = <int64_t>row[0], n, found
        cdef uint64_t words = 1 + s.n_columns, k
        cdef uint64_t* at
        cdef ms_chunk* chunk = NULL
        cdef int why = DONE
        if s.n_chunks and stamp <= s.last_t:
            n = s.last_n
            while n >= s.first_n:
                chunk = find_chunk(self.base, s, n)
                found = find_row(chunk, stamp) if chunk != NULL else -1
                if found >= 0:
                    at = <uint64_t*>(<char*>chunk + CHUNK_HEADER_BYTES) + <uint64_t>found * words
                    ms_store_relaxed_u32(&chunk.seq, chunk.seq + 1)
                    ms_fence_release()  # SYNC POINT (release) row: odd sequence before the columns
                    for k in range(1, words):
                        ms_store_relaxed_u64(at + k, row[k])
                    ms_store_release_u32(&chunk.seq, chunk.seq + 1)  # SYNC POINT (release) row: columns before even
                    return DONE
                n -= 1
        n = 0
        chunk = NULL
        if s.n_chunks:
            n = s.last_n
            chunk = find_chunk(self.base, s, n)
            if chunk.count == chunk.capacity:
                n += 1
                chunk = NULL
        if chunk == NULL:
            chunk = self.new_chunk(slot, s, n, stamped_class(n, s.n_columns), &why)
            if chunk == NULL:
                return why
            ms_store_relaxed_u64(&chunk.anchor_s, <uint64_t>stamp)
            s.cur_n, s.cur_link = n, link_place(self.base, s, n)[0]
        at = <uint64_t*>(<char*>chunk + CHUNK_HEADER_BYTES) + <uint64_t>chunk.count * words
        for k in range(words):
            ms_store_relaxed_u64(at + k, row[k])
        if chunk.count == 0 or stamp < chunk.anchor_s:
            ms_store_relaxed_u64(&chunk.anchor_s, <uint64_t>stamp)
        if chunk.count and stamp <= chunk.t_max_ms:
            ms_store_relaxed_u32(&chunk.flags, chunk.flags | CHUNK_UNORDERED)
        else:
            ms_store_relaxed_u64(&chunk.t_max_ms, <uint64_t>stamp)
        ms_store_release_u32(&chunk.count, chunk.count + 1)  # SYNC POINT (release) rows: the row before the count
        if stamp > s.last_t or (s.n_chunks == 1 and chunk.count == 1):
            ms_store_relaxed_u64(&s.last_t, <uint64_t>max(stamp, s.last_t))
        return DONE

    cdef int apply_stamped(self, const ms_run* run, tally* counts) noexcept nogil:
        cdef const uint64_t* row = <const uint64_t*>(<const char*>run + sizeof(ms_run))
        cdef uint32_t i, slot
        cdef ms_series* s
        cdef int why
        for i in range(run.count):
            slot = run.slot
            s = self.resolve(&slot, run.generation, <int64_t>row[0], KIND_STAMPED)
            if s == NULL or s.n_columns != run.vtype:
                counts.stale += 1
            else:
                why = self.put_row(slot, s, row)
                if why != DONE:
                    return why
                counts.samples += 1
            row += 1 + run.vtype
        return DONE

    def apply(self, records):
        """Apply the sample records of a buffer in order, without the GIL.

        records   8-byte aligned whole records (docs/format/wal-samples.md)
        returns   ApplyResult. On NO_ROOM and OTHER `stopped_at` is the record to go on with; what it has stored
                  already is neither counted nor wrong: applying the record again is the same
        raises    ValueError(message, offset) at a malformed record, or one of a type that does not exist
        """
        cdef Py_buffer view
        cdef const char* at
        cdef uint64_t offset = 0, length, skipped = 0
        cdef uint32_t singly = 0
        cdef tally total, counts
        cdef int why = DONE
        total.samples = total.stale = 0
        PyObject_GetBuffer(records, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                while offset < <uint64_t>view.len:
                    at = <const char*>view.buf + offset
                    length = record_bytes(at, <uint64_t>view.len - offset)
                    if length == 0:
                        why = BAD
                        break
                    if (<const ms_run*>at).type >= MS_REC_LEVEL:
                        why = OTHER
                        break
                    counts.samples = counts.stale = 0
                    if (<const ms_run*>at).type == MS_REC_ROW:
                        if (<const ms_run*>at).count < TOGETHER_MIN:
                            why = self.apply_row(<const ms_run*>at, &counts)
                        else:
                            why = self.rows_from(at, <uint64_t>view.len - offset, &length, &singly, &counts)
                    elif (<const ms_run*>at).type == MS_REC_SCATTER:
                        why = self.apply_scatter(<const ms_run*>at, &counts)
                    elif (<const ms_run*>at).type == MS_REC_COLUMN:
                        why = self.apply_column(<const ms_run*>at, &counts)
                    elif (<const ms_run*>at).type == MS_REC_STAMPED:
                        why = self.apply_stamped(<const ms_run*>at, &counts)
                    else:
                        skipped += 1
                    if why != DONE:
                        break
                    total.samples += counts.samples
                    total.stale += counts.stale
                    offset += length
            if why == BAD:
                fault = record_fault(memoryview(records).cast("B")[offset:])
                raise ValueError(f"malformed record at offset {offset}: {fault}", offset)
        finally:
            PyBuffer_Release(&view)
        return ApplyResult(total.samples, total.stale, skipped, offset,
                           STOPPED_DONE if why == DONE else STOPPED_OTHER if why == OTHER else STOPPED_NO_ROOM)

    def n_shifts(self) -> int:
        """How many `shifts` would name at most."""
        return self.n_shifted

    def shifts(self):
        """[(slot, t)] of grid series whose phase has moved; t is a time of the new phase that no sample has reached.

        A series is named when, at a chunk border, at least half of the finished chunk's samples, and no fewer than 8,
        lay within an eighth of a step of a slot border. No stored sample lies in or after [t - step / 2, t + step / 2),
        so a new era whose anchor and start are t - step // 2 takes nothing from the old one. Each series is named
        once; the call forgets them.
        """
        cdef uint32_t i
        cdef ms_series* s
        cdef int64_t t, stop
        found = []
        for i in range(self.n_shifted):
            s = self.live(self.shifted[i].slot)
            if s == NULL or s.kind != KIND_GRID or s.flags & (SERIES_ENDED | SERIES_REMOVING) or s.step_s == 0:
                continue
            t = self.shifted[i].t
            stop = s.last_t - (s.step_s >> 1) + s.step_s + (s.step_s >> 1)
            if t < stop:
                t += -floor_div(t - stop, s.step_s) * s.step_s
            found.append((self.shifted[i].slot, t))
        self.n_shifted = 0
        return found

    # ---- snapshots ----

    def load_chunk(self, uint32_t slot, uint32_t generation, int64_t n, const unsigned char[::1] header,
                   const unsigned char[::1] payload) -> int:
        """Restore one chunk as a snapshot holds it, before any record is applied to its series.

        header    the 64 bytes of ms_chunk; count, stamps and flags of stamped chunks are taken from it
        payload   grid: up to 512 values from slot n * 512 on, the rest missing; stamped: header.count rows
        returns   LOADED, LOAD_STALE (series gone or of another shape) or LOAD_NO_ROOM
        raises    ValueError if the payload does not fit what the header says
        """
        cdef ms_series* s = self.live(slot)
        cdef ms_chunk saved
        cdef ms_chunk* chunk
        cdef uint64_t size = payload.shape[0], width
        cdef unsigned size_class
        cdef int why = DONE
        if header.shape[0] != sizeof(ms_chunk):
            raise ValueError(f"a chunk header has {sizeof(ms_chunk)} bytes, not {header.shape[0]}")
        memcpy(&saved, &header[0], sizeof(ms_chunk))
        if s == NULL or s.generation != generation or s.kind != saved.kind or s.type != saved.type:
            return LOAD_STALE
        if s.kind == KIND_GRID:
            if s.anchor_s != saved.anchor_s or s.step_s != saved.step_s:
                return LOAD_STALE
            width = 4 if s.type == TYPE_F32 else 8
            if size % width or size > MS_CHUNK_SLOTS * width or n != saved.n:
                raise ValueError(f"{size} bytes are not the values of chunk {n}, series {slot}")
            size_class = grid_class(n, <uint32_t>(size / width - 1) if size else 0, s.type)
        else:
            if s.n_columns != saved.n_columns:
                return LOAD_STALE
            width = (1 + s.n_columns) * 8
            if size != saved.count * width or size > SIZES[CLASS_FULL_8] - CHUNK_HEADER_BYTES or n != saved.n:
                raise ValueError(f"{size} bytes are not {saved.count} rows of chunk {n}, series {slot}")
            size_class = stamped_class(n, s.n_columns)
            while SIZES[size_class] - CHUNK_HEADER_BYTES < size:
                size_class += 1
        if s.n_chunks:
            self.unlink(s, n)
        chunk = self.new_chunk(slot, s, n, size_class, &why)
        if chunk == NULL:
            return LOAD_NO_ROOM if why == NO_ROOM else LOAD_STALE
        if size:
            memcpy(<char*>chunk + CHUNK_HEADER_BYTES, &payload[0], size)
        self.settle(s, n, chunk, &saved, size)
        return LOADED

    cdef void settle(self, ms_series* s, int64_t n, ms_chunk* chunk, ms_chunk* saved, uint64_t size) noexcept nogil:
        """Newest time and current chunk of a series after a chunk was loaded."""
        cdef int64_t place = -1, newest
        cdef const char* values = <char*>chunk + CHUNK_HEADER_BYTES
        if s.kind == KIND_GRID:
            place = <int64_t>(size / (4 if s.type == TYPE_F32 else 8)) - 1
            while place >= 0 and is_missing(values, place, s.type):
                place -= 1
            newest = s.anchor_s + (n * MS_CHUNK_SLOTS + place) * <int64_t>s.step_s + (s.step_s >> 1)
        else:
            chunk.anchor_s, chunk.t_max_ms, chunk.flags = saved.anchor_s, saved.t_max_ms, saved.flags
            newest = saved.t_max_ms
            ms_store_release_u32(&chunk.count, saved.count)  # SYNC POINT (release) rows
        if s.cur_link == 0 or n >= s.cur_n:
            s.cur_n, s.cur_link, s.n_seen, s.n_edge = n, link_place(self.base, s, n)[0], 0, 0
        if (s.kind == KIND_STAMPED or place >= 0) and newest > s.last_t:
            ms_store_relaxed_u64(&s.last_t, <uint64_t>newest)
