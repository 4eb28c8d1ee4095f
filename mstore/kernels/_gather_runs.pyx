"""Validated copies out of shared memory that another process is writing: eras, chunks, runs of slots.

Reading slots [k, k + count) of chunk n of a series:

    generation of the series entry == that of the reference          else the series is gone
    word = its link word (in the series entry, or in its link table)   SYNC POINT (acquire) chunk link
    the header at word's offset names series, generation and n       else there is no chunk n
    copy the values to scratch
    acquire fence                                                      SYNC POINT (acquire) chunk reuse
    generation, table word and link word are still the same          else start again

A chunk's contents are complete before its link is stored, and a chunk is unlinked before its memory is used
again. So when the link word did not change, every copied value belonged to chunk n of that series when it was
copied. The stamp in the word makes two links to the same place differ. Values of a linked chunk are written in
place, each with one store: a copy holds for each slot the value before or after it.

Every offset is checked against what is committed before it is followed. Words that point outside and do not
change are damage (BROKEN); words that change are a race, tried again RETRIES times (BUSY: plan again).

_gather.pyx asks the questions; this module reads.
"""

from libc.math cimport NAN
from libc.stdint cimport INT64_MAX, INT64_MIN, UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset
from mstore.kernels._aggregate cimport *
from mstore.kernels._atomics cimport *
from mstore.kernels._copies cimport ms_copy_out
from mstore.kernels._directory cimport DirectoryReader
from mstore.kernels._eras cimport ERAS_MAX
from mstore.kernels._layout cimport *
from mstore.kernels._segment cimport Segment

cdef enum:
    EMPTY_ERAS_MAX = 4096
    DEPTH_MAX = 32
    HOST_DEPTH = 2

cdef uint64_t* CLASS_BYTES = [128, 512, 2112, 4160]


cdef void fill_missing(char* dest, uint8_t type, size_t count) noexcept nogil:
    cdef size_t i
    if type == TYPE_F32:
        for i in range(count):
            (<float*>dest)[i] = <float>NAN
    elif type == TYPE_F64:
        for i in range(count):
            (<double*>dest)[i] = NAN
    else:
        memset(dest, 0xFF, count * 8)

cdef size_t count_present(const char* values, uint8_t type, size_t n) noexcept nogil:
    if type == TYPE_F32:
        return ms_count_f32(<const float*>values, n)
    if type == TYPE_F64:
        return ms_count_f64(<const double*>values, n)
    return ms_count_u64(<const uint64_t*>values, n)

cdef void emit(sink* to, int64_t j, const char* values, uint8_t type, size_t count) noexcept nogil:
    """Hand `count` validated values of answer slots j, j + 1 .. on to where they go."""
    cdef size_t i
    cdef double* wide
    if to.sums != NULL:
        if type == TYPE_F32:
            ms_add_f32(to.sums + j, to.coverage + j, <const float*>values, count)
        elif type == TYPE_F64:
            ms_add_f64(to.sums + j, to.coverage + j, <const double*>values, count)
        else:
            ms_add_u64(to.sums + j, to.coverage + j, <const uint64_t*>values, count)
    elif to.type == type:
        memcpy(to.values + j * width_of(type), values, count * width_of(type))
    else:  # eras of several types meet in float64
        wide = <double*>to.values + j
        if type == TYPE_F32:
            for i in range(count):
                wide[i] = (<const float*>values)[i]
        elif type == TYPE_F64:
            memcpy(wide, values, count * 8)
        else:
            for i in range(count):
                wide[i] = NAN if (<const uint64_t*>values)[i] == UINT64_MAX else <double>(<const uint64_t*>values)[i]

cdef int push_era(era_pool* pool, const era* e) noexcept nogil:
    cdef size_t room
    cdef void* grown
    if pool.n == pool.room:
        room = 2 * pool.room if pool.room else 8
        grown = realloc(pool.eras, room * sizeof(era))
        if grown == NULL:
            return _NO_MEMORY
        pool.eras = <era*>grown
        pool.room = room
    pool.eras[pool.n] = e[0]
    pool.n += 1
    return _OK

cdef int push_words(word_list* to, const uint64_t* words, size_t n) noexcept nogil:
    cdef size_t room
    cdef void* grown
    if to.n + n > to.room:
        room = 2 * (to.n + n)
        grown = realloc(to.words, room * 8)
        if grown == NULL:
            return _NO_MEMORY
        to.words = <uint64_t*>grown
        to.room = room
    memcpy(to.words + to.n, words, n * 8)
    to.n += n
    return _OK


cdef class RunReader:
    """Reads runs of slots; Gatherer builds on it. Threads may share one.

    directory, samples  mapped segments; PROT_READ is enough
    now_s               retention is counted from here: slots and rows that are older are missing, though their chunk may
                        still be there, unless their host is protected. Below 0, as at first: nothing is too old
    retention_s         of metrics that have none of their own; 0 = for ever
    """

    def __init__(self, DirectoryReader directory not None, Segment samples not None):
        if samples.length < MS_SAMPLES_DATA:
            raise ValueError("a samples segment shorter than its own header")
        self.directory = directory
        self.samples = samples
        self.head = directory.head
        self.now_s = -1

    cdef uint64_t chunk_bytes(self, unsigned size_class) noexcept nogil:
        return CLASS_BYTES[size_class]

    cdef uint32_t generation_c(self) noexcept nogil:
        return ms_load_acquire_u32(&self.head.generation)

    cdef uint64_t committed(self) noexcept nogil:
        cdef uint64_t bytes = ms_load_acquire_u64(&(<const ms_segment_header*>self.samples.base).committed_bytes)
        return bytes if bytes < self.samples.length else self.samples.length

    cdef const ms_series* series_at(self, uint64_t slot) noexcept nogil:
        # SYNC POINT (acquire) counts: entries below them are complete, and inside the region by the reader's own check.
        if slot >= ms_load_acquire_u64(&self.head.n_series):
            return NULL
        return &self.directory.series_p[slot]

    # ---- eras ----

    cdef int64_t kept_from(self, uint32_t metric) noexcept nogil:
        """The first second of a metric that is served, INT64_MIN = all of it."""
        cdef int64_t period
        if self.now_s < 0 or metric >= ms_load_acquire_u64(&self.head.n_metrics):
            return INT64_MIN
        period = <int64_t>ms_load_relaxed_u64(&self.directory.metrics_p[metric].retention_s)
        period = self.retention_s if period < 0 else period
        return self.now_s - period if period else INT64_MIN

    cdef bint is_protected(self, uint32_t level) noexcept nogil:
        """Whether the data of a level's host outlives retention."""
        cdef const ms_level* at
        cdef int depth
        for depth in range(DEPTH_MAX):
            if level >= ms_load_acquire_u64(&self.head.n_levels):
                return False
            at = &self.directory.levels_p[level]
            if at.depth <= HOST_DEPTH:
                return at.flags & LEVEL_PROTECTED != 0
            level = at.parent
        return False  # links in a circle, which a valid directory never has

    def oldest_s(self, uint32_t metric):
        """The first second of a metric that retention serves, of hosts that are not protected; -2^63 = all of it."""
        return self.kept_from(metric)

    cdef int load_era(self, uint32_t slot, uint32_t generation, era* out) noexcept nogil:
        cdef const ms_series* s = self.series_at(slot)
        # SYNC POINT (acquire) series entry: its fields were written before its generation and LIVE were stored.
        if s == NULL or ms_load_acquire_u32(&s.generation) != generation or not s.flags & SERIES_LIVE:
            return _GONE
        out.at = s
        out.slot = slot
        out.generation = generation
        out.kind = s.kind
        out.type = s.type
        out.n_columns = s.n_columns
        out.anchor_s = s.anchor_s
        out.step_s = s.step_s
        out.level = s.level
        out.metric = s.metric
        out.start = s.era_start
        out.stop = INT64_MAX
        out.kept_s = INT64_MIN
        ms_fence_acquire()
        if ms_load_relaxed_u32(&s.generation) != generation:
            return _GONE
        if out.kind == KIND_GRID:
            return _OK if out.step_s > 0 and TYPE_F32 <= out.type <= TYPE_U64 else _BROKEN
        return _OK if out.kind == KIND_STAMPED and 0 < out.n_columns < 64 else _BROKEN

    cdef int load_chain(self, uint64_t ref, int64_t start_s, era_pool* pool) noexcept nogil:
        """Append the eras of ref's series from the newest back to the one that covers start_s."""
        cdef era e, other
        cdef size_t n = 0, passed
        cdef uint32_t slot, generation
        cdef int status = self.load_era(<uint32_t>ref, <uint32_t>(ref >> 32), &e)
        if status:
            return status
        while n < ERAS_MAX:  # a later era may have begun since the reference was looked up
            slot = ms_load_relaxed_u32(&e.at.next_slot)
            generation = ms_load_relaxed_u32(&e.at.next_generation)
            if slot == 0 or self.load_era(slot - 1, generation, &other) or other.kind != e.kind:
                break
            e = other
            n += 1
        cdef int64_t start = start_s * 1000 if e.kind == KIND_STAMPED else start_s
        cdef int64_t kept_s = self.kept_from(e.metric)
        if kept_s <= start_s or self.is_protected(e.level):
            kept_s = INT64_MIN
        n = 0
        while True:
            e.kept_s = kept_s
            status = push_era(pool, &e)
            n += 1
            if status or e.start <= start or n == ERAS_MAX:
                return status
            other = e
            passed = 0
            while other.start == e.start:
                # An era that never had a sample begins where its successor does, and lies before nothing of its own.
                slot = ms_load_relaxed_u32(&other.at.prev_slot)
                generation = ms_load_relaxed_u32(&other.at.prev_generation)
                if slot == 0 or self.load_era(slot - 1, generation, &other) or other.kind != e.kind:
                    return _OK  # the older era was freed
                passed += 1
                if other.start > e.start or passed == EMPTY_ERAS_MAX:
                    return _OK  # never so in a valid directory; and never a circle
            other.stop = e.start
            e = other

    # ---- one chunk ----

    cdef int find_link(self, const era* e, int64_t n, uint64_t* table, const uint64_t** at, uint64_t* word) noexcept nogil:
        """Table word, place and value of the link of chunk n; a word of 0 = no such chunk."""
        cdef uint64_t offset, log2
        # SYNC POINT (acquire) link table: a table is complete before its word is stored.
        table[0] = ms_load_acquire_u64(&e.at.table)
        if table[0] == 0:
            at[0] = &e.at.link0
        else:
            offset = table[0] >> 8
            log2 = table[0] & 255
            if log2 > TABLE_LOG2_MAX or offset & 7 or offset < MS_SAMPLES_DATA:
                return _BROKEN
            if offset > self.committed() or (<uint64_t>8 << log2) > self.committed() - offset:
                return _BROKEN
            at[0] = <const uint64_t*>(self.samples.base + offset) + (<uint64_t>n & ((<uint64_t>1 << log2) - 1))
        # SYNC POINT (acquire) chunk link: header and values are written before the word.
        word[0] = ms_load_acquire_u64(at[0])
        return _OK

    cdef bint link_holds(self, const era* e, uint64_t table, const uint64_t* at, uint64_t word) noexcept nogil:
        # SYNC POINT (acquire) chunk reuse: unlinked before the memory is written again.
        ms_fence_acquire()
        return (ms_load_relaxed_u64(at) == word and ms_load_relaxed_u64(&e.at.table) == table
                and ms_load_relaxed_u32(&e.at.generation) == e.generation)

    cdef const ms_chunk* chunk_at(self, const era* e, int64_t n, uint64_t word, uint64_t* payload) noexcept nogil:
        """Header of the chunk a link word names, if it is chunk n of e; payload = bytes after the header."""
        cdef uint64_t offset = MS_LINK_OFFSET(word)
        cdef unsigned size_class = MS_LINK_CLASS(word)
        cdef const ms_chunk* c
        cdef ms_chunk head
        if size_class >= CHUNK_CLASSES or offset < MS_SAMPLES_DATA:
            return NULL
        if offset > self.committed() or CLASS_BYTES[size_class] > self.committed() - offset:
            return NULL
        c = <const ms_chunk*>(self.samples.base + offset)
        ms_copy_out(&head, c, sizeof(ms_chunk))
        if head.series != e.slot or head.generation != e.generation or head.n != n or head.kind != e.kind:
            return NULL
        if head.type != e.type or (e.kind == KIND_STAMPED and head.n_columns != e.n_columns):
            return NULL
        payload[0] = CLASS_BYTES[size_class] - CHUNK_HEADER_BYTES
        return c

    cdef int open_chunk(
        self, const era* e, int64_t n, uint64_t* table, const uint64_t** at, uint64_t* word, const ms_chunk** chunk,
        uint64_t* payload
    ) noexcept nogil:
        """What is linked as chunk n, NULL = nothing: to be copied, and kept if link_holds() then. _BUSY: try again."""
        cdef int status
        chunk[0] = NULL
        if ms_load_acquire_u32(&e.at.generation) != e.generation:
            return _GONE
        status = self.find_link(e, n, table, at, word)
        if status:
            if ms_load_acquire_u64(&e.at.table) == table[0] and ms_load_relaxed_u32(&e.at.generation) == e.generation:
                return status
            return _BUSY
        if word[0] != 0:
            chunk[0] = self.chunk_at(e, n, word[0], payload)
        return _OK

    cdef int read_run(self, const era* e, int64_t n, uint32_t place, uint32_t count, char* dest) noexcept nogil:
        """Copy `count` values from `place` on of chunk n of a grid series to dest; what is not there is missing."""
        cdef uint64_t table, word, payload
        cdef const uint64_t* at
        cdef const ms_chunk* c
        cdef uint32_t width = width_of(e.type), capacity, have = 0
        cdef int attempt, status
        for attempt in range(RETRIES):
            status = self.open_chunk(e, n, &table, &at, &word, &c, &payload)
            if status == _BUSY:
                continue
            if status:
                return status
            have = 0
            if c != NULL:
                capacity = ms_load_relaxed_u32(&c.capacity)
                if capacity > payload // width:
                    capacity = <uint32_t>(payload // width)
                have = 0 if capacity <= place else capacity - place
                have = count if have > count else have
                ms_copy_out(dest, <const char*>c + CHUNK_HEADER_BYTES + place * width, have * width)
            if self.link_holds(e, table, at, word):
                fill_missing(dest + have * width, e.type, count - have)
                return _OK
        return _BUSY

    # ---- grids ----

    cdef int map_era(self, const era* e, int64_t t0, int64_t step, int64_t j, int64_t count, sink* to) noexcept nogil:
        """Answer slots [j, j + count), slot j at time t0 + j * step, from the slots of e that contain their times."""
        cdef uint64_t chunk[SCRATCH_WORDS]
        cdef uint64_t picked[SCRATCH_WORDS]
        cdef char* dest
        cdef int64_t k, n, place, run, t, i
        cdef uint32_t width = width_of(e.type)
        cdef int status
        cdef bint direct
        while count > 0:
            t = t0 + j * step - e.anchor_s
            k = floor_div(t, e.step_s)
            n = floor_div(k, MS_CHUNK_SLOTS)
            place = k - n * MS_CHUNK_SLOTS
            if e.step_s == step:
                run = MS_CHUNK_SLOTS - place
                run = count if run > count else run
                direct = to.sums == NULL and to.type == e.type
                dest = to.values + j * width if direct else <char*>chunk
                status = self.read_run(e, n, <uint32_t>place, <uint32_t>run, dest)
                if status:
                    return status
                if not direct:
                    emit(to, j, dest, e.type, run)
            else:
                t -= n * MS_CHUNK_SLOTS * e.step_s  # now from the start of the chunk, never negative
                run = ceil_div(MS_CHUNK_SLOTS * e.step_s - t, step)
                run = count if run > count else run
                run = SCRATCH_WORDS if run > SCRATCH_WORDS else run
                status = self.read_run(e, n, 0, MS_CHUNK_SLOTS, <char*>chunk)
                if status:
                    return status
                for i in range(run):
                    place = (t + i * step) // e.step_s
                    if width == 4:
                        (<uint32_t*>picked)[i] = (<uint32_t*>chunk)[place]
                    else:
                        picked[i] = chunk[place]
                emit(to, j, <char*>picked, e.type, run)
            j += run
            count -= run
        return _OK

    cdef int map_chain(
        self, const era* eras, size_t n_eras, int64_t t0, int64_t step, int64_t count, sink* to
    ) noexcept nogil:
        """Every answer slot from the era its time belongs to; eras newest first, the oldest one also covers what is before.
        What is too old is missing, whether or not its chunk is still there."""
        cdef int64_t low, high = count, old = 0
        cdef size_t i
        cdef int status
        if eras[0].kept_s > t0:
            old = ceil_div(eras[0].kept_s - t0, step)
            old = count if old > count else old
            if to.sums == NULL:
                fill_missing(to.values, to.type, old)
        for i in range(n_eras):
            low = old
            if i + 1 < n_eras and eras[i].start > t0:
                low = max(old, ceil_div(eras[i].start - t0, step))
                low = high if low > high else low
            status = self.map_era(&eras[i], t0, step, low, high - low, to)
            if status:
                return status
            high = low
        return _OK
