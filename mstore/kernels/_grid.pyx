"""Sample runs of grid series -> slots of their chunks.

    run (ROW, COLUMN, SCATTER) -> reference -> SERIES line 0 -> current chunk -> one relaxed store a sample

In order, a sample touches two cache lines: the first line of its series (reference, grid, current chunk, newest time)
and the line of its slot. With more series than a cache holds, moving these lines is most of what a sample costs. So
ROW records that hold the same series at several times are applied side by side: series by series, and in a series in
the order of the log. Then the lines are moved once for all of these times, whose slots are neighbours.

    log      ROW t0: s0 s1 s2 ...   ROW t1: s0 s1 s2 ...   ROW t2: s0 s1 s2 ...
    order    s0: t0 t1 t2    s1: t0 t1 t2    s2: t0 t1 t2  ...

Samples of different series do not meet, so this changes nothing, but for one case: a reference to an era may lead to
another series (`resolve`). When such a sample turns up, apply_rows says ODD and the caller goes through the records
one by one instead, from the first one again: applying a record twice is the same as once.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from mstore.kernels._chunks cimport *
from mstore.kernels._runs cimport *
from mstore.kernels._values cimport recast

cdef extern from *:
    """
    #define ms_prefetch_write(p) __builtin_prefetch((p), 1, 3)
    """
    void ms_prefetch_write(const void *p) noexcept nogil

cdef enum:
    ODD = 6
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


cdef inline uint64_t head_of(uint32_t generation, int vtype) noexcept nogil:
    """The first word of a live grid series that no era follows and nobody is about to remove."""
    return generation | <uint64_t>KIND_GRID << 32 | <uint64_t>vtype << 40 | <uint64_t>SERIES_LIVE << 56


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


cdef struct pattern:     # where the times of a sheet fall in a chunk: neighbours mostly share step and phase
    uint64_t distance    # of the earliest time from the chunk's start
    uint32_t step
    bint inside          # all of them lie in the chunk
    uint32_t highest     # place
    uint32_t n_edge      # times near a slot border
    int64_t newest       # nominal time of the highest place, from the chunk's start
    uint32_t place[TOGETHER]


cdef void lay_out(pattern* p, const sheet* rows, uint64_t distance, uint32_t step) noexcept nogil:
    cdef uint64_t at
    cdef uint32_t j, place, rest, edge = step >> 3
    p.distance, p.step, p.highest, p.n_edge = distance, step, 0, 0
    p.inside, p.newest, p.place[0] = True, 0, 0
    for j in range(rows.depth):
        at = distance + (<uint64_t>rows.t[j] - <uint64_t>rows.earliest)
        if at >= <uint64_t>step << SLOTS_LOG2 or at >> 32:
            p.inside = False
            return
        place = <uint32_t>at / step
        rest = <uint32_t>at - place * step
        p.place[j] = place
        p.highest = max(p.highest, place)
        p.n_edge += rest < edge or rest >= step - edge
    p.newest = <int64_t>(<uint64_t>p.highest * step + (step >> 1))


cdef inline void fill(char* slots, const pattern* p, const sheet* rows, uint64_t i) noexcept nogil:
    """The samples of the sheet's i-th series into its chunk."""
    cdef uint32_t j
    if rows.vtype == TYPE_F32:
        for j in range(rows.depth):
            put(slots + 4 * p.place[j], rows.values[j] + 4 * i, True)
    else:
        for j in range(rows.depth):
            put(slots + 8 * p.place[j], rows.values[j] + 8 * i, False)


cdef class GridSamples(Room):
    """See Chunks for the arguments."""

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
        if s == NULL or not recast(vtype, value, s.type, &word):
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
        cdef uint64_t head = head_of(run.generation, run.vtype)
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
            elif i >= known:
                counts.stale += 1
            elif self.slow(run.slot + i, run.generation, t, run.vtype, value, counts) != DONE:
                return NO_ROOM
            value += width
        return DONE

    cdef int apply_rows(self, const ms_run** runs, uint32_t n, tally* counts) noexcept nogil:
        """Apply up to TOGETHER ROW records of one generation and type as one. DONE; ODD or NO_ROOM: go one by one."""
        cdef sheet rows
        cdef uint64_t at = 0, stop = 0, first, end
        cdef uint32_t width = 4 if runs[0].vtype == TYPE_F32 else 8
        cdef uint32_t i
        cdef int why = DONE
        rows.generation, rows.vtype = runs[0].generation, runs[0].vtype
        while why == DONE:
            # Slots at..stop are in the same records, `depth` of them.
            rows.depth, rows.earliest, stop = 0, INT64_MAX, <uint64_t>1 << 33
            for i in range(n):
                first, end = runs[i].slot, <uint64_t>runs[i].slot + runs[i].count
                if at < first:
                    stop = min(stop, first)
                elif at < end:
                    stop = min(stop, end)
                    rows.t[rows.depth] = runs[i].t
                    rows.earliest = min(rows.earliest, runs[i].t)
                    rows.values[rows.depth] = <const char*>runs[i] + sizeof(ms_run) + (at - first) * width
                    rows.depth += 1
            if stop >> 33:
                return DONE
            if rows.depth:
                why = self.apply_sheet(&rows, <uint32_t>at, <uint32_t>(stop - at), counts)
            at = stop
        return why

    cdef int apply_sheet(self, sheet* rows, uint32_t slot, uint32_t count, tally* counts) noexcept nogil:
        """Series slot..slot + count, the samples of each in the order of the records; ODD at one whose reference does
        not stand for that series alone, and at slots that were never used.
        """
        cdef char* base = self.base
        cdef ms_series* s
        cdef uint32_t depth = rows.depth, known = 0, i, j
        cdef uint64_t width = 4 if rows.vtype == TYPE_F32 else 8
        cdef uint64_t head = head_of(rows.generation, rows.vtype), start
        cdef int64_t earliest = rows.earliest, newest
        cdef bint alive
        cdef pattern p
        lay_out(&p, rows, 0, 1)
        if <uint64_t>slot + count > self.n_series:
            self.n_series = ms_load_acquire_u64(&self.words.n_series)
        if slot < self.n_series:
            known = <uint32_t>min(<uint64_t>count, self.n_series - slot)
        for i in range(count):
            s = self.table + slot + i
            ms_prefetch_write(s + AHEAD)
            if i + NEAR < known:
                # Its record is here by now; the values most likely go to the same places as its neighbours'.
                ms_prefetch_write(base + MS_LINK_OFFSET(s[NEAR].cur_link) + CHUNK_HEADER_BYTES + p.place[0] * width)
            alive = i < known and (ms_load_relaxed_u64(s) & HEAD_MASK) == head
            # A sample before the newest one may belong to an earlier era: era_start tells, on the record's other line.
            if alive and s.cur_link and (earliest >= s.last_t or earliest >= s.era_start):
                start = <uint64_t>s.anchor_s + <uint64_t>s.cur_n * (<uint64_t>s.step_s << SLOTS_LOG2)
                if <uint64_t>earliest - start != p.distance or s.step_s != p.step:
                    lay_out(&p, rows, <uint64_t>earliest - start, s.step_s)
                if p.inside and p.highest < SLOTS_OF[MS_LINK_CLASS(s.cur_link)][rows.vtype]:
                    fill(base + MS_LINK_OFFSET(s.cur_link) + CHUNK_HEADER_BYTES, &p, rows, i)
                    if s.n_seen < 0xffff - TOGETHER:
                        s.n_seen += depth
                        s.n_edge += p.n_edge
                    newest = <int64_t>start + p.newest
                    if newest > s.last_t:
                        ms_store_relaxed_u64(&s.last_t, <uint64_t>newest)
                    counts.samples += depth
                    continue
            if not alive:
                return ODD
            for j in range(depth):
                if self.slow(slot + i, rows.generation, rows.t[j], rows.vtype, rows.values[j] + i * width, counts) != DONE:
                    return NO_ROOM
        return DONE

    cdef int apply_scatter(self, const ms_run* run, tally* counts) noexcept nogil:
        cdef char* base = self.base
        cdef const uint32_t* refs = <const uint32_t*>(<const char*>run + sizeof(ms_run))
        cdef bint narrow = run.vtype == TYPE_F32
        cdef uint32_t width = 4 if narrow else 8
        cdef uint32_t i, slot, count = run.count
        cdef const char* value = <const char*>(refs + 2 * <uint64_t>count)
        cdef uint64_t rest = head_of(0, run.vtype)
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
        cdef uint64_t head = head_of(run.generation, run.vtype)
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
