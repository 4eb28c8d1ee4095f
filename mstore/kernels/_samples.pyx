"""Sample runs -> chunks: the one code path for live data and for replay of the log.

    run (ROW, COLUMN, SCATTER, STAMPED) -> reference -> SERIES line 0 -> current chunk -> one relaxed store

In order, a sample touches two cache lines: the first line of its series (reference, grid, current chunk, newest time)
and the line of its slot. Everything else (another chunk, a larger one, another era, another type) is the slow path.
Applying the same bytes twice gives the same samples, so a replay may start anywhere before the point it is needed from.
"""

from collections import namedtuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.math cimport floor, isnan
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from mstore.kernels._chunks cimport *
from mstore.kernels._runs cimport *

cdef extern from *:
    """
    #define ms_prefetch_write(p) __builtin_prefetch((p), 1, 3)
    #define ms_prefetch_read(p) __builtin_prefetch((p), 0, 3)
    """
    void ms_prefetch_write(const void *p) noexcept nogil
    void ms_prefetch_read(const void *p) noexcept nogil

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
    SHIFTS_MAX = 4096
    AHEAD = 24          # series records fetched ahead of use
    NEAR = 12           # values' cache lines fetched ahead of use

# Generation, kind, type and flags of a series as one word; the number of columns is left out.
cdef uint64_t HEAD_MASK = 0xff00ffffffffffffu

# Slots that fit a chunk, by size class and by value type: what a link word says without a look at the chunk.
cdef uint32_t SLOTS_OF[16][4]
memset(SLOTS_OF, 0, sizeof(SLOTS_OF))
for _c in range(4):
    SLOTS_OF[_c][TYPE_F32] = min((SIZES[_c] - CHUNK_HEADER_BYTES) / 4, MS_CHUNK_SLOTS)
    SLOTS_OF[_c][TYPE_F64] = SLOTS_OF[_c][TYPE_U64] = min((SIZES[_c] - CHUNK_HEADER_BYTES) / 8, MS_CHUNK_SLOTS)


cdef struct memo:        # neighbours in a run mostly share step and place: saves a division
    uint32_t distance
    uint32_t step
    uint32_t place


cdef inline char* quick(char* base, ms_series* s, uint64_t head, int64_t t, memo* last) noexcept nogil:
    """Where the value of a sample goes, if its series' newest chunk holds the slot, noting it; NULL: the slow path.

    A sample before the newest one may belong to an earlier era: era_start tells, on the record's other line.
    """
    cdef uint64_t span, start, distance
    cdef uint32_t step, place, rest, edge
    cdef int64_t nominal
    if (ms_load_relaxed_u64(s) & HEAD_MASK) != head or s.cur_link == 0 or (t < s.last_t and t < s.era_start):
        return NULL
    step = s.step_s
    span = <uint64_t>step << SLOTS_LOG2
    start = <uint64_t>s.anchor_s + <uint64_t>s.cur_n * span
    distance = <uint64_t>t - start
    if distance >= span or distance >> 32:
        return NULL
    if <uint32_t>distance != last.distance or step != last.step:
        last.distance, last.step, last.place = <uint32_t>distance, step, <uint32_t>distance / step
    place = last.place
    if place >= SLOTS_OF[MS_LINK_CLASS(s.cur_link)][s.type & 3]:
        return NULL
    rest = <uint32_t>distance - place * step
    edge = step >> 3
    if s.n_seen != 0xffff:
        s.n_seen += 1
        s.n_edge += rest < edge or rest >= step - edge
    nominal = <int64_t>(start + <uint64_t>place * step + (step >> 1))
    if nominal > s.last_t:
        ms_store_relaxed_u64(&s.last_t, <uint64_t>nominal)
    return base + MS_LINK_OFFSET(s.cur_link) + CHUNK_HEADER_BYTES + (place << (2 if s.type == TYPE_F32 else 3))


cdef inline void put(char* at, const char* value, bint narrow) noexcept nogil:
    cdef uint32_t word4
    cdef uint64_t word8
    if narrow:
        memcpy(&word4, value, 4)
        ms_store_relaxed_u32(at, word4)
    else:
        memcpy(&word8, value, 8)
        ms_store_relaxed_u64(at, word8)


cdef bint convert(int from_type, const char* value, int to_type, uint64_t* word) noexcept nogil:
    """A value sent as one type to a series (era) of another; False where the new type has no such number."""
    cdef float f = 0
    cdef double d
    cdef uint64_t u
    word[0] = 0
    if from_type == to_type:
        memcpy(word, value, 4 if to_type == TYPE_F32 else 8)
        return True
    if from_type == TYPE_F32:
        memcpy(&f, value, 4)
        d = f
    elif from_type == TYPE_F64:
        memcpy(&d, value, 8)
    else:
        memcpy(&u, value, 8)
        d = <double>u
    if to_type == TYPE_U64:
        if not (0 <= d < 18446744073709551616.0) or d != floor(d):
            return False
        word[0] = <uint64_t>d
    elif to_type == TYPE_F64:
        memcpy(word, &d, 8)
    else:
        if d > 3.4028234663852886e38 or d < -3.4028234663852886e38:
            return False
        f = <float>d
        memcpy(word, &f, 4)
    return not (to_type == TYPE_U64 and word[0] == 0xffffffffffffffffu)


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


cdef class Samples(Room):
    """See Chunks for the arguments. `apply` is the only way samples enter chunks."""

    def __init__(self, directory, samples, fd, cap_bytes, fresh):
        self.shifted = <shift*>malloc(SHIFTS_MAX * sizeof(shift))
        if self.shifted == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.shifted)

    # ---- one sample, every case ----

    cdef int slow(self, uint32_t slot, uint32_t generation, int64_t t, int vtype, const char* value, tally* counts) noexcept nogil:
        """Apply one grid sample. DONE (counted as stored or stale) or NO_ROOM."""
        cdef ms_series* s = self.resolve(&slot, generation, t, KIND_GRID)
        cdef uint64_t word
        cdef int64_t index, n
        cdef uint32_t place, rest, edge
        cdef ms_chunk* chunk
        cdef char* at
        cdef int why = DONE
        if s == NULL or not convert(vtype, value, s.type, &word):
            counts.stale += 1
            return DONE
        index = floor_div(t - s.anchor_s, s.step_s)
        n, place = index >> SLOTS_LOG2, <uint32_t>(index & (MS_CHUNK_SLOTS - 1))
        chunk = find_chunk(self.base, s, n) if s.n_chunks else NULL
        if chunk == NULL:
            chunk = self.new_chunk(slot, s, n, grid_class(n, place, s.type), &why)
            if why == NO_PLACE:
                counts.stale += 1
                return DONE
        elif place >= chunk.capacity:
            chunk = self.promote(s, n, grid_class(n, place, s.type))
        if chunk == NULL:
            return NO_ROOM
        at = <char*>chunk + CHUNK_HEADER_BYTES + (place << (2 if s.type == TYPE_F32 else 3))
        put(at, <const char*>&word, s.type == TYPE_F32)
        if s.cur_link == 0 or n > s.cur_n:
            if s.cur_link and s.n_edge >= 8 and s.n_edge * 2 >= s.n_seen and self.n_shifted < SHIFTS_MAX:
                self.shifted[self.n_shifted].slot = slot
                self.shifted[self.n_shifted].t = t
                self.n_shifted += 1
            s.cur_n, s.n_seen, s.n_edge = n, 0, 0
            s.cur_link = link_place(self.base, s, n)[0]
        if n == s.cur_n and s.n_seen != 0xffff:
            rest = <uint32_t>(t - s.anchor_s - index * s.step_s)
            edge = s.step_s >> 3
            s.n_seen += 1
            s.n_edge += rest < edge or rest >= s.step_s - edge
        t = s.anchor_s + index * s.step_s + (s.step_s >> 1)
        if t > s.last_t or s.n_chunks == 1:
            ms_store_relaxed_u64(&s.last_t, <uint64_t>max(t, s.last_t))
        counts.samples += 1
        return DONE

    # ---- runs ----

    cdef int apply_row(self, const ms_run* run, tally* counts) noexcept nogil:
        cdef char* base = self.base
        cdef ms_series* s = self.table + run.slot
        cdef bint narrow = run.vtype == TYPE_F32
        cdef uint32_t width = 4 if narrow else 8
        cdef const char* value = <const char*>run + sizeof(ms_run)
        cdef uint64_t head = run.generation | <uint64_t>KIND_GRID << 32 | <uint64_t>run.vtype << 40 | <uint64_t>SERIES_LIVE << 56
        cdef int64_t t = run.t
        cdef uint32_t i, count = run.count, known = 0
        cdef char* at
        cdef memo last
        last.distance = last.step = last.place = 0
        if <uint64_t>run.slot + count > self.n_series:
            self.n_series = ms_load_acquire_u64(&self.words.n_series)
        if run.slot < self.n_series:
            known = <uint32_t>min(<uint64_t>count, self.n_series - run.slot)
        for i in range(count):
            ms_prefetch_write(s + i + AHEAD)
            if i + NEAR < known:
                # Its record is here by now; the value most likely goes to the same place as its neighbours'.
                ms_prefetch_write(base + MS_LINK_OFFSET(s[i + NEAR].cur_link) + CHUNK_HEADER_BYTES + last.place * width)
            at = quick(base, s + i, head, t, &last) if i < known else NULL
            if at != NULL:
                put(at, value, narrow)
                counts.samples += 1
            elif self.slow(run.slot + i, run.generation, t, run.vtype, value, counts) != DONE:
                return NO_ROOM
            value += width
        return DONE

    cdef int apply_scatter(self, const ms_run* run, tally* counts) noexcept nogil:
        cdef char* base = self.base
        cdef const uint32_t* refs = <const uint32_t*>(<const char*>run + sizeof(ms_run))
        cdef bint narrow = run.vtype == TYPE_F32
        cdef uint32_t width = 4 if narrow else 8
        cdef uint32_t i, slot, count = run.count
        cdef const char* value = <const char*>(refs + 2 * <uint64_t>count)
        cdef uint64_t rest = <uint64_t>KIND_GRID << 32 | <uint64_t>run.vtype << 40 | <uint64_t>SERIES_LIVE << 56
        cdef char* at
        cdef memo last
        last.distance = last.step = last.place = 0
        self.n_series = ms_load_acquire_u64(&self.words.n_series)
        for i in range(min(count, AHEAD)):
            ms_prefetch_write(self.table + refs[2 * i])
        for i in range(count):
            if i + AHEAD < count:
                ms_prefetch_write(self.table + refs[2 * (i + AHEAD)])
            if i + NEAR < count and refs[2 * (i + NEAR)] < self.n_series:
                ms_prefetch_write(
                    base + MS_LINK_OFFSET(self.table[refs[2 * (i + NEAR)]].cur_link) + CHUNK_HEADER_BYTES + last.place * width)
            slot = refs[2 * i]
            at = NULL
            if slot < self.n_series:
                at = quick(base, self.table + slot, refs[2 * i + 1] | rest, run.t, &last)
            if at != NULL:
                put(at, value, narrow)
                counts.samples += 1
            elif self.slow(slot, refs[2 * i + 1], run.t, run.vtype, value, counts) != DONE:
                return NO_ROOM
            value += width
        return DONE

    cdef int apply_column(self, const ms_run* run, tally* counts) noexcept nogil:
        cdef const char* value = <const char*>run + sizeof(ms_run) + 8
        cdef bint narrow = run.vtype == TYPE_F32
        cdef uint32_t width = 4 if narrow else 8
        cdef uint64_t head = run.generation | <uint64_t>KIND_GRID << 32 | <uint64_t>run.vtype << 40 | <uint64_t>SERIES_LIVE << 56
        cdef int64_t dt, t = run.t
        cdef uint32_t i
        cdef char* at
        cdef memo last
        last.distance = last.step = last.place = 0
        memcpy(&dt, value - 8, 8)
        if not (-TIME_MAX < t < TIME_MAX and -(DT_MAX) <= dt <= DT_MAX):
            counts.stale += run.count
            return DONE
        if run.slot >= self.n_series:
            self.n_series = ms_load_acquire_u64(&self.words.n_series)
        for i in range(run.count):
            at = NULL
            if run.slot < self.n_series:
                at = quick(self.base, self.table + run.slot, head, t, &last)
            if at != NULL:
                put(at, value, narrow)
                counts.samples += 1
            elif self.slow(run.slot, run.generation, t, run.vtype, value, counts) != DONE:
                return NO_ROOM
            value += width
            t += dt
        return DONE

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
                        why = self.apply_row(<const ms_run*>at, &counts)
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
                raise ValueError(f"no whole sample record of a known type at offset {offset}", offset)
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
            if s == NULL or s.kind != KIND_GRID or s.flags & SERIES_ENDED or s.step_s == 0:
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
