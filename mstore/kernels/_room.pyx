"""How much memory records would take: asked before they enter the log, so that what is logged can be applied."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from mstore.kernels._chunks cimport *
from mstore.kernels._records cimport *
from mstore.kernels._runs cimport *

from mstore.kernels._ring import record_fault

cdef uint64_t MIX = 0x9E3779B97F4A7C15u
cdef uint64_t APART = 0xf0000000u  # keys of other things than chunks: above any (n, class)


cdef inline bint fits(ms_series* s, uint32_t generation, int64_t t) noexcept nogil:
    """Whether a sample goes into the current chunk of its series as it is: nearly every one does."""
    cdef uint64_t span, distance
    if (s.generation != generation or s.kind != KIND_GRID or s.flags != SERIES_LIVE or t < s.last_t
            or s.cur_link == 0 or s.step_s == 0):
        return False
    span = <uint64_t>s.step_s << SLOTS_LOG2
    distance = <uint64_t>t - (<uint64_t>s.anchor_s + <uint64_t>s.cur_n * span)
    if distance >= span or distance >> 32:
        return False
    return <uint32_t>distance / s.step_s < grid_slots(MS_LINK_CLASS(s.cur_link), s.type)


cdef class Room(Expiry):
    """See Chunks for the arguments."""

    def __dealloc__(self):
        free(self.seen)

    cdef counted* entry(self, uint64_t key, bint* fresh) noexcept nogil:
        """The entry of a key, made if need be; NULL without memory."""
        cdef uint64_t i, j, size
        cdef counted* grown
        if self.seen_used * 2 >= self.seen_mask:
            size = 2 * (self.seen_mask + 1) if self.seen_mask else 1024
            grown = <counted*>calloc(size, sizeof(counted))
            if grown == NULL:
                return NULL
            for i in range(self.seen_mask + 1 if self.seen_mask else 0):
                if self.seen[i].key:
                    j = (self.seen[i].key * MIX) >> 20 & (size - 1)
                    while grown[j].key:
                        j = (j + 1) & (size - 1)
                    grown[j] = self.seen[i]
            free(self.seen)
            self.seen, self.seen_mask = grown, size - 1
        i = (key * MIX) >> 20 & self.seen_mask
        while self.seen[i].key and self.seen[i].key != key:
            i = (i + 1) & self.seen_mask
        fresh[0] = self.seen[i].key == 0
        if fresh[0]:
            self.seen[i].key = key
            self.seen_used += 1
        return &self.seen[i]

    cdef bint first_time(self, uint64_t key) noexcept nogil:
        """Whether this dry run meets the key for the first time. Without memory it always is: counted too high."""
        cdef bint fresh = True
        self.entry(key, &fresh)
        return fresh

    cdef void want_chunk(self, uint32_t slot, ms_series* s, int64_t n, unsigned size_class) noexcept nogil:
        """Count chunk n of that class, and every link table its series grows through, once each."""
        cdef uint64_t tag = <uint64_t>(slot + 1) << 32
        cdef bint fresh = True
        cdef unsigned log2 = TABLE_LOG2_MIN
        cdef counted* known
        if not self.first_time(tag | (<uint64_t>n & 0xffffff) << 4 | size_class):
            return
        self.wanted[size_class] += 1
        known = self.entry(tag | APART, &fresh)
        if known == NULL:
            self.wanted[table_class(TABLE_LOG2_MAX)] += 1
            return
        if fresh:
            known.log2 = <unsigned>(s.table & 255)
            known.lowest, known.highest = (s.first_n, s.last_n) if s.n_chunks else (n, n)
        known.lowest, known.highest = min(known.lowest, n), max(known.highest, n)
        if <uint64_t>(known.highest - known.lowest) < (<uint64_t>1 << known.log2):
            return
        while <uint64_t>(known.highest - known.lowest) >= (<uint64_t>1 << log2) and log2 < TABLE_LOG2_MAX:
            log2 += TABLE_LOG2_STEP
        known.log2 = log2
        self.wanted[table_class(log2)] += 1

    cdef void want_grid(self, uint32_t slot, uint32_t generation, int64_t t) noexcept nogil:
        cdef ms_series* s
        cdef ms_chunk* chunk
        cdef int64_t index, n
        cdef uint32_t place
        if slot < self.n_series and fits(self.table + slot, generation, t):
            return
        s = self.resolve(&slot, generation, t, KIND_GRID)
        if s == NULL:
            return
        index = floor_div(t - s.anchor_s, s.step_s)
        n, place = index >> SLOTS_LOG2, <uint32_t>(index & (MS_CHUNK_SLOTS - 1))
        chunk = find_chunk(self.base, s, n) if s.n_chunks else NULL
        if chunk == NULL or place >= chunk.capacity:
            self.want_chunk(slot, s, n, grid_class(n, place, s.type))

    cdef void want_stamped(self, uint32_t slot, uint32_t generation, const int64_t* row, uint32_t count) noexcept nogil:
        cdef ms_series* s = self.resolve(&slot, generation, row[0], KIND_STAMPED) if count else NULL
        cdef ms_chunk* chunk
        cdef int64_t n = 0
        cdef uint32_t room = 0, capacity
        if s == NULL:
            return
        if s.n_chunks:
            n = s.last_n + 1
            chunk = find_chunk(self.base, s, s.last_n)
            room = chunk.capacity - chunk.count
        if count <= room and self.first_time(<uint64_t>(slot + 1) << 32 | APART | 1):
            return
        while count:
            capacity = (SIZES[stamped_class(n, s.n_columns)] - CHUNK_HEADER_BYTES) / ((1 + s.n_columns) * 8)
            while not self.first_time(<uint64_t>(slot + 1) << 32 | (<uint64_t>n & 0xffffff) << 4 | 14):
                n += 1
            self.want_chunk(slot, s, n, stamped_class(n, s.n_columns))
            count -= min(count, capacity)
            n += 1

    cdef unsigned largest_table(self, int64_t first_s, int64_t last_s, uint64_t n_rows) noexcept nogil:
        """Class of the largest link table that samples of times from first_s to last_s, and n_rows stamped rows, can make.

        A chunk reaches at most a chunk's length beyond its samples. A series without chunks may have a step of a second.
        """
        cdef int64_t low = max(min(first_s, self.earliest_s), -TIME_MAX), high = min(max(last_s, self.latest_s), TIME_MAX)
        cdef int64_t chunks = self.most_stamped + <int64_t>n_rows if n_rows else 0
        cdef unsigned log2 = TABLE_LOG2_MIN
        if last_s >= first_s:
            chunks = max(chunks, (min(last_s, TIME_MAX) - max(first_s, -TIME_MAX)) / MS_CHUNK_SLOTS + 3)
            if self.latest_s > self.earliest_s:
                chunks = max(chunks, (high - low) / (<int64_t>self.least_step_s * MS_CHUNK_SLOTS) + 3)
        while log2 < TABLE_LOG2_MAX and chunks > <int64_t>1 << log2:
            log2 += TABLE_LOG2_STEP
        return table_class(log2)

    def need(self, records, uint64_t limit) -> int:
        """Bytes of extents that applying these records takes at most, for comparison with `free_bytes()`.

        The bound that needs no look at the series is returned if it is within `limit`, else that of a dry run; records of
        other kinds need nothing.
        raises ValueError as `apply`
        """
        cdef Py_buffer view
        cdef const ms_run* run
        cdef uint64_t offset, length, bound = 0, n, n_rows = 0, per
        cdef int64_t first = TIME_MAX, last = -TIME_MAX, dt
        cdef bint bad = False
        cdef unsigned size_class
        PyObject_GetBuffer(records, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                offset = n = 0
                while offset < <uint64_t>view.len:
                    run = <const ms_run*>(<const char*>view.buf + offset)
                    length = record_bytes(<const char*>run, <uint64_t>view.len - offset)
                    if length == 0:
                        bad = True
                        break
                    offset += length
                    if not MS_REC_ROW <= run.type <= MS_REC_SCATTER:
                        continue
                    n += run.count
                    if run.type == MS_REC_STAMPED:
                        n_rows += run.count
                    elif -TIME_MAX < run.t < TIME_MAX:  # else it is of no series
                        first, last = min(first, run.t), max(last, run.t)
                        dt = 0
                        if run.type == MS_REC_COLUMN:
                            memcpy(&dt, <const char*>run + sizeof(ms_run), 8)
                        if -(DT_MAX) <= dt <= DT_MAX:
                            first = min(first, run.t + <int64_t>run.count * dt)
                            last = max(last, run.t + <int64_t>run.count * dt)
                if n:
                    bound = CLASSES + n / (MS_EXTENT_BYTES / SIZES[CLASS_FULL_8])
                    size_class = self.largest_table(first, last, n_rows)
                    bound = (bound + n / (MS_EXTENT_BYTES / SIZES[size_class])) * MS_EXTENT_BYTES
                if bound > limit and not bad:
                    self.dry_run(<const char*>view.buf, <uint64_t>view.len)
                    bound = 0
                    for size_class in range(CLASSES):
                        per = MS_EXTENT_BYTES / SIZES[size_class]
                        n = self.wanted[size_class]
                        n -= min(n, self.free_of_class(size_class))
                        bound += (n + per - 1) / per * MS_EXTENT_BYTES
            if bad:
                fault = record_fault(memoryview(records).cast("B")[offset:])
                raise ValueError(f"malformed record at offset {offset}: {fault}", offset)
        finally:
            PyBuffer_Release(&view)
        return bound

    def secure(self, uint64_t n_bytes) -> int:
        """Back free extents of `n_bytes` with memory, as far as cap and system allow; the free bytes that have memory."""
        while <uint64_t>(self.n_extents - self.used_extents) * MS_EXTENT_BYTES < n_bytes:
            if self.n_extents >= self.cap_extents or self.commit_extent() != 0:
                break
        return <uint64_t>(self.n_extents - self.used_extents) * MS_EXTENT_BYTES

    cdef void dry_run(self, const char* records, uint64_t size) noexcept nogil:
        """Count in `wanted` the chunks by class that these records would make."""
        cdef const ms_run* run
        cdef uint64_t offset = 0
        cdef const uint32_t* refs
        cdef uint32_t i
        cdef int64_t dt
        memset(self.wanted, 0, sizeof(self.wanted))
        self.seen_used = 0
        if self.seen != NULL:
            memset(self.seen, 0, (self.seen_mask + 1) * sizeof(counted))
        while offset < size:
            run = <const ms_run*>(records + offset)
            refs = <const uint32_t*>(<const char*>run + sizeof(ms_run))
            if run.type == MS_REC_ROW:
                for i in range(run.count):
                    self.want_grid(run.slot + i, run.generation, run.t)
            elif run.type == MS_REC_SCATTER:
                for i in range(run.count):
                    self.want_grid(refs[2 * i], refs[2 * i + 1], run.t)
            elif run.type == MS_REC_COLUMN:
                memcpy(&dt, refs, 8)
                if -(DT_MAX) <= dt <= DT_MAX and -TIME_MAX < run.t < TIME_MAX:
                    for i in range(run.count):
                        self.want_grid(run.slot, run.generation, run.t + i * dt)
            elif run.type == MS_REC_STAMPED:
                self.want_stamped(run.slot, run.generation, <const int64_t*>refs, run.count)
            offset += record_bytes(<const char*>run, size - offset)
