"""What queries ask of shared memory: one series' slots, an aggregate of many, stamped rows, the level tree.

Samples come through validated copies (_gather_runs.pyx says how). Aggregation adds from scratch, one series after
the other in the order given. Nothing here keeps state between calls except texts, which never change while the
directory's generation stays. Methods return a status number instead of an answer when there is none.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memcmp, memcpy
from mstore.kernels._aggregate cimport *
from mstore.kernels._atomics cimport *
from mstore.kernels._directory cimport DirectoryReader
from mstore.kernels._gather_runs cimport (
    _BROKEN,
    _BUSY,
    _GONE,
    _LIMIT,
    _NO_MEMORY,
    _OK,
    _OTHER_KIND,
    RETRIES,
    SCRATCH_WORDS,
    RunReader,
    ceil_div,
    count_present,
    era,
    era_pool,
    nominal,
    push_words,
    sink,
    width_of,
    word_list,
)
from mstore.kernels._layout cimport *
from mstore.kernels._segment cimport Segment

import numpy as np

cdef extern from *:
    """
    static inline void ms_prefetch(const void *p) { __builtin_prefetch(p, 0, 2); }
    """
    void ms_prefetch(const void* p) nogil

# What a call returns instead of an answer: the reference is gone (plan again), memory kept changing (plan again), memory
# is damaged, the answer would exceed the limit, out of memory, the series is of the other kind.
GONE, BUSY, BROKEN, LIMIT, NO_MEMORY, OTHER_KIND = _GONE, _BUSY, _BROKEN, _LIMIT, _NO_MEMORY, _OTHER_KIND

cdef enum:
    DEPTH_MAX = 32
    LINE = 64
    AHEAD_LINKS = 8           # while a series is copied, the links of the 8th after it are fetched from memory,
    AHEAD_CHUNKS_MAX = 8
    BLOCK = 1024              # slots added at a time: sums, coverage and four runs of them stay in the first cache
    ROWS = 4
    TILE = 128                # slots of ROWS runs that are added between two fetches

cdef void expect(fetch_list* list, const char* at, size_t size) noexcept nogil:
    """Note `size` bytes to be fetched; what finds no room is not, it is only slower to read."""
    if list.n == FETCHES_MAX:
        return
    list.at[list.n] = at
    list.end[list.n] = at + size
    list.n += 1
    list.lines += (size + LINE - 1) // LINE

cdef void fetch(fetch_list* list, size_t lines) noexcept nogil:
    """Fetch the next so many lines; a fetch of a wrong address does nothing."""
    cdef const char* at
    cdef const char* end
    cdef size_t left
    if lines > list.lines:
        lines = list.lines
    list.lines -= lines
    while lines:
        at = list.at[list.first]
        end = list.end[list.first]
        left = <size_t>(end - at + LINE - 1) // LINE
        if left > lines:
            end = at + lines * LINE
            list.at[list.first] = end
            lines = 0
        else:
            lines -= left
            list.first += 1
        while at < end:
            ms_prefetch(at)
            at += LINE
    if list.lines == 0:
        list.first = list.n = 0

cdef int by_slot(const void* a, const void* b) noexcept nogil:
    cdef uint32_t x = <uint32_t>(<const uint64_t*>a)[0], y = <uint32_t>(<const uint64_t*>b)[0]
    return (x > y) - (x < y)


cdef class Gatherer(RunReader):
    """Reads grid and stamped series, and the level tree as far as queries need it. Threads may share one."""

    def __init__(self, DirectoryReader directory not None, Segment samples not None):
        RunReader.__init__(self, directory, samples)
        self._texts = {}
        self._texts_generation = self.generation_c()

    # ---- directory entries, bounds checked ----

    cdef const ms_level* level_at(self, uint64_t level) noexcept nogil:
        """Also a level that is not yet published: its links are valid before it is linked itself."""
        if level >= self.head.region[<int>MS_REGION_LEVELS].reserved // sizeof(ms_level):
            return NULL
        return &self.directory.levels_p[level]

    cdef bint copy_metric_c(self, uint32_t metric, ms_metric* into) noexcept nogil:
        """A metric as it was at one moment; its generation is odd while the writer changes it."""
        cdef uint32_t generation
        cdef int attempt
        if metric >= ms_load_acquire_u64(&self.head.n_metrics):
            return False
        for attempt in range(RETRIES):
            generation = ms_load_acquire_u32(&self.directory.metrics_p[metric].generation)  # SYNC POINT (acquire) metric
            into[0] = self.directory.metrics_p[metric]
            ms_fence_acquire()
            if not generation & 1 and ms_load_relaxed_u32(&self.directory.metrics_p[metric].generation) == generation:
                return True
        return False

    cdef object text(self, uint64_t offset, size_t length):
        """Names are written before they are published and never moved: kept while the generation stays."""
        if offset == 0 or length == 0:
            return ""
        if offset > self.directory.length or length > self.directory.length - offset:
            return ""  # damage; never so in a valid directory
        cdef uint32_t generation = self.generation_c()
        if generation != self._texts_generation or len(self._texts) > 65536:
            self._texts = {}
            self._texts_generation = generation
        key = offset << 16 | length
        found = self._texts.get(key)
        if found is None:
            found = (<const char*>self.directory.base)[offset:offset + length].decode("utf-8", "replace")
            self._texts[key] = found
        return found

    # ---- grids ----

    cdef void expect_links(self, const era* e) noexcept nogil:
        """Fetch the link words of an era ahead of time; a hint that reads only what find_link() allows."""
        cdef uint64_t table, word
        cdef const uint64_t* at
        if self.find_link(e, 0, &table, &at, &word) == _OK:
            ms_prefetch(at)

    cdef void expect_chunks(self, const era* e, int64_t t0, int64_t t1, fetch_list* ahead) noexcept nogil:
        """Note what an era's chunks hold for the times t0 to t1, and their headers, to be fetched."""
        cdef uint64_t table, word, low, high
        cdef const uint64_t* at
        cdef const char* chunk
        cdef int64_t first = floor_div(t0 - e.anchor_s, e.step_s), stop = floor_div(t1 - e.anchor_s, e.step_s) + 1
        cdef int64_t n = floor_div(first, MS_CHUNK_SLOTS), last = floor_div(stop - 1, MS_CHUNK_SLOTS)
        cdef uint32_t width = width_of(e.type)
        if last - n > AHEAD_CHUNKS_MAX:
            last = n + AHEAD_CHUNKS_MAX
        while n <= last:
            if self.find_link(e, n, &table, &at, &word) == _OK and word != 0 and MS_LINK_CLASS(word) < CHUNK_CLASSES:
                chunk = self.samples.base + MS_LINK_OFFSET(word)
                low = CHUNK_HEADER_BYTES + <uint64_t>max(first - n * MS_CHUNK_SLOTS, 0) * width
                high = CHUNK_HEADER_BYTES + <uint64_t>min(stop - n * MS_CHUNK_SLOTS, MS_CHUNK_SLOTS) * width
                high = min(high, self.chunk_bytes(MS_LINK_CLASS(word)))
                if low > CHUNK_HEADER_BYTES:
                    ms_prefetch(chunk)
                else:
                    low = 0
                if low < high:
                    expect(ahead, chunk + low, high - low)
            n += 1

    cdef int add_chains(
        self, const era* eras, const uint64_t* bounds, size_t m, int64_t t0, int64_t step, int64_t n, sink* to
    ) noexcept nogil:
        """Add m chains to to.sums and to.coverage; chain i has the eras from bounds[2 * i] to before bounds[2 * i + 1]."""
        cdef sink part
        cdef int64_t at = 0, run
        cdef int status = _OK
        cdef char* rows = <char*>realloc(NULL, ROWS * BLOCK * 4)
        if rows == NULL:
            return _NO_MEMORY
        while at < n and status == _OK:
            run = BLOCK if n - at > BLOCK else n - at
            part = sink(NULL, 0, to.sums + at, to.coverage + at)
            status = self.add_block(eras, bounds, m, t0 + at * step, step, run, &part, rows)
            at += run
        free(rows)
        return status

    cdef int add_block(
        self, const era* eras, const uint64_t* bounds, size_t m, int64_t t0, int64_t step, int64_t n, sink* to,
        char* rows
    ) noexcept nogil:
        cdef sink row = sink(NULL, TYPE_F32, NULL, NULL)
        cdef const era* chain
        cdef fetch_list ahead
        cdef size_t i, k, n_eras, n_rows = 0
        cdef bint narrow
        cdef int status
        ahead.first = ahead.n = ahead.lines = 0
        for i in range(min(m, <size_t>AHEAD_LINKS)):
            self.expect_links(&eras[bounds[2 * i]])
        for i in range(min(m, <size_t>ROWS)):
            self.expect_chunks(&eras[bounds[2 * i]], t0, t0 + (n - 1) * step, &ahead)
        fetch(&ahead, ahead.lines)
        for i in range(m):
            if i + AHEAD_LINKS < m:
                self.expect_links(&eras[bounds[2 * (i + AHEAD_LINKS)]])
            if i + ROWS < m:
                self.expect_chunks(&eras[bounds[2 * (i + ROWS)]], t0, t0 + (n - 1) * step, &ahead)
            chain = &eras[bounds[2 * i]]
            n_eras = bounds[2 * i + 1] - bounds[2 * i]
            narrow = True
            for k in range(n_eras):
                narrow = narrow and chain[k].type == TYPE_F32
            if narrow:  # by far the most: copied beside each other, four are added at once
                row.values = rows + n_rows * BLOCK * 4
                status = self.map_chain(chain, n_eras, t0, step, n, &row)
                n_rows += 1
            if n_rows == ROWS or (n_rows and not narrow):
                self.add_rows(rows, n_rows, n, to, &ahead)
                n_rows = 0
            if not narrow:
                fetch(&ahead, ahead.lines)
                status = self.map_chain(chain, n_eras, t0, step, n, to)
            if status:
                return status
        self.add_rows(rows, n_rows, n, to, &ahead)
        return _OK

    cdef void add_rows(self, const char* rows, size_t n_rows, int64_t n, sink* to, fetch_list* ahead) noexcept nogil:
        cdef size_t i
        cdef int64_t at = 0, run
        cdef size_t lines = ahead.lines * TILE // n + 1
        if n_rows == ROWS:
            while at < n:
                run = TILE if n - at > TILE else n - at
                ms_add4_f32(to.sums + at, to.coverage + at, <const float*>rows + at, BLOCK, run)
                fetch(ahead, lines)
                at += run
            return
        for i in range(n_rows):
            ms_add_f32(to.sums, to.coverage, <const float*>rows + i * BLOCK, n)

    cdef int64_t n_slots(self, int64_t nominal_s, int64_t step, int64_t start, int64_t end, int64_t* t0) noexcept nogil:
        """Slots whose nominal time is in [start, end), and the first such time."""
        cdef int64_t first = ceil_div(start - nominal_s, step)
        t0[0] = nominal_s + first * step
        return ceil_div(end - nominal_s, step) - first

    def grid(self, uint64_t ref, int64_t start, int64_t end, int64_t limit):
        """The slots of one grid series, all its eras, whose nominal times are in [start, end).

        returns  (values, start, step, type, n_present, metric): values f32, f64 or u64 [n] with missing = NaN or 2^64-1,
                 on the grid of the newest era in the range; f64 when its eras are of several types. Or a status.
        """
        cdef era_pool pool = era_pool(NULL, 0, 0)
        cdef const era* e
        cdef size_t first = 0, i
        cdef int64_t n, t0 = 0, step
        cdef uint8_t type
        cdef sink to = sink(NULL, 0, NULL, NULL)
        cdef size_t present = 0
        cdef Py_buffer view
        cdef uint32_t generation = self.generation_c(), metric
        cdef int status = self.load_chain(ref, start, &pool)
        try:
            if status:
                return status
            if pool.eras[0].kind != KIND_GRID:
                return _OTHER_KIND
            while first + 1 < pool.n and pool.eras[first].start >= end:
                first += 1
            e = &pool.eras[first]
            type = e.type
            metric = e.metric
            step = e.step_s
            for i in range(first, pool.n):
                if pool.eras[i].type != type:
                    type = TYPE_F64
            n = self.n_slots(nominal(e), step, start, end, &t0)
            if n > limit:
                return _LIMIT
            values = np.empty(n, FLOAT32 if type == TYPE_F32 else FLOAT64 if type == TYPE_F64 else UINT64)
            if n > 0:
                PyObject_GetBuffer(values, &view, PyBUF_WRITABLE)
                to.values = <char*>view.buf
                to.type = type
                with nogil:
                    status = self.map_chain(e, pool.n - first, t0, step, n, &to)
                    if not status:
                        present = count_present(to.values, type, n)
                PyBuffer_Release(&view)
                if status:
                    return status
            if self.generation_c() != generation:
                return _GONE
            return values, t0, step, type, present, metric
        finally:
            free(pool.eras)

    def aggregate(self, const uint64_t[::1] refs, int64_t start, int64_t end, bint average, bint propagate, int64_t limit):
        """The sum or mean over several grid series in float64, added in the order given, missing samples skipped.

        refs       uint64[m], m >= 1, in series order; the first one's phase and the coarsest step make the answer's grid
        propagate  a slot that any series misses is missing
        returns    (float64[n], coverage uint32[n], start, step, n_covered slots, metric) or a status
        """
        cdef era_pool pool = era_pool(NULL, 0, 0)
        cdef word_list firsts = word_list(NULL, 0, 0)
        cdef sink to = sink(NULL, 0, NULL, NULL)
        cdef int64_t n, t0 = 0, step = 0, phase = 0
        cdef uint64_t first
        cdef size_t i, covered = 0, m = refs.shape[0]
        cdef uint32_t generation = self.generation_c(), metric
        cdef const char* entry
        cdef double[::1] sums
        cdef uint32_t[::1] coverage
        cdef int status = _OK
        try:
            with nogil:
                for i in range(m):
                    if i + AHEAD_LINKS < m:
                        entry = <const char*>self.series_at(<uint32_t>refs[i + AHEAD_LINKS])
                        ms_prefetch(entry)
                        ms_prefetch(entry + LINE)
                    first = pool.n
                    status = self.load_chain(refs[i], start, &pool)
                    if status:
                        break
                    if pool.eras[first].kind != KIND_GRID:
                        status = _OTHER_KIND
                        break
                    while first + 1 < pool.n and pool.eras[first].start >= end:
                        first += 1
                    status = push_words(&firsts, &first, 1)
                    if status:
                        break
                    first = pool.n  # where this chain ends
                    status = push_words(&firsts, &first, 1)
                    if status:
                        break
            if status:
                return status
            for i in range(m):
                step = max(step, pool.eras[firsts.words[2 * i]].step_s)
            phase = nominal(&pool.eras[firsts.words[0]])
            metric = pool.eras[firsts.words[0]].metric
            n = self.n_slots(phase, step, start, end, &t0)
            if n > limit:
                return _LIMIT
            values = np.zeros(n, FLOAT64)
            counts = np.zeros(n, UINT32)
            if n > 0:
                sums = values
                coverage = counts
                to.sums = &sums[0]
                to.coverage = &coverage[0]
                with nogil:
                    status = self.add_chains(pool.eras, firsts.words, m, t0, step, n, &to)
                    if not status:
                        ms_finish(to.sums, to.coverage, n, <uint32_t>m if propagate else 1, average)
                        covered = ms_covered(to.coverage, n)
                if status:
                    return status
            if self.generation_c() != generation:
                return _GONE
            return values, counts, t0, step, covered, metric
        finally:
            free(pool.eras)
            free(firsts.words)

    # ---- stamped series ----

    cdef int read_rows(
        self, const era* e, int64_t n, int64_t start_ms, int64_t end_ms, uint64_t limit, word_list* rows
    ) noexcept nogil:
        """Append the rows of chunk n with stamps in [start_ms, end_ms), as they arrived."""
        cdef uint64_t scratch[SCRATCH_WORDS]
        cdef uint64_t table, word, payload, i
        cdef const uint64_t* at
        cdef const ms_chunk* c
        cdef uint32_t width = 1 + e.n_columns, count, seq
        cdef int64_t stamp
        cdef int attempt, status
        for attempt in range(RETRIES):
            status = self.open_chunk(e, n, &table, &at, &word, &c, &payload)
            if status == _BUSY:
                continue
            if status:
                return status
            count = 0
            if c != NULL:
                # SYNC POINT (acquire) row overwrite: seq is odd while a row is written in place.
                seq = ms_load_acquire_u32(&c.seq)
                if seq & 1:
                    continue
                # SYNC POINT (acquire) row count: a row is complete before the count that shows it.
                count = ms_load_acquire_u32(&c.count)
                if count > payload // (8 * width):
                    count = <uint32_t>(payload // (8 * width))
                memcpy(scratch, <const char*>c + CHUNK_HEADER_BYTES, count * width * 8)
                ms_fence_acquire()
                if ms_load_relaxed_u32(&c.seq) != seq:
                    continue
            if not self.link_holds(e, table, at, word):
                continue
            for i in range(count):
                stamp = <int64_t>scratch[i * width]
                if start_ms <= stamp < end_ms:
                    if (rows.n + width) > limit * width:
                        return _LIMIT
                    status = push_words(rows, &scratch[i * width], width)
                    if status:
                        return status
            return _OK
        return _BUSY

    def rows(self, uint64_t ref, int64_t start, int64_t end, int64_t limit):
        """The rows of one stamped series with stamps in [start, end) seconds, in order of arrival within each chunk.

        returns  (uint64[m, 1 + k] of stamp in ms and k columns as 8-byte words, ascending: bool, type, metric) or a status
        """
        cdef era_pool pool = era_pool(NULL, 0, 0)
        cdef word_list rows = word_list(NULL, 0, 0)
        cdef int64_t n, last, low, high, i_era, before = INT64_MIN
        cdef size_t i, width, m
        cdef bint ascending = True
        cdef uint32_t generation = self.generation_c(), metric
        cdef uint8_t type
        cdef uint64_t[:, ::1] out
        cdef const era* e
        cdef int status = self.load_chain(ref, start, &pool)
        try:
            if status:
                return status
            if pool.eras[0].kind != KIND_STAMPED:
                return _OTHER_KIND
            width = 1 + pool.eras[0].n_columns
            type = pool.eras[0].type
            metric = pool.eras[0].metric
            with nogil:
                for i_era in range(<int64_t>pool.n - 1, -1, -1):
                    e = &pool.eras[i_era]
                    if 1 + <size_t>e.n_columns != width or e.type != type:
                        continue  # rows of another shape do not fit the answer
                    low = max(start * 1000, e.start)
                    if e.kept_s > start:
                        low = max(low, e.kept_s * 1000)
                    high = min(end * 1000, e.stop)
                    n = <int64_t>ms_load_relaxed_u64(&e.at.first_n)
                    last = <int64_t>ms_load_acquire_u64(&e.at.last_n)
                    while n <= last and low < high and not status:
                        status = self.read_rows(e, n, low, high, limit, &rows)
                        n += 1
                    if status:
                        break
                m = rows.n // width
                for i in range(m):
                    if <int64_t>rows.words[i * width] <= before:
                        ascending = False
                    before = <int64_t>rows.words[i * width]
            if status:
                return status
            found = np.empty((m, width), UINT64)
            if m:
                out = found
                memcpy(&out[0, 0], rows.words, m * width * 8)
            if self.generation_c() != generation:
                return _GONE
            return found, ascending, type, metric
        finally:
            free(pool.eras)
            free(rows.words)

    # ---- the tree ----

    cdef int collect_level(
        self, uint32_t level, uint32_t metric, int depth, uint64_t* budget, word_list* refs
    ) noexcept nogil:
        """The level's own series of the metric, or else those of all its children, each asked the same way."""
        cdef uint64_t ref
        if level >= ms_load_acquire_u64(&self.head.n_levels):
            return _GONE
        cdef int64_t slot = self.directory.series_c(level, metric, ms_load_acquire_u64(&self.head.n_series), False)
        if slot < 0:
            return self.collect_children(level, metric, NULL, 0, depth + 1, budget, refs)
        ref = <uint64_t>ms_load_acquire_u32(&self.directory.series_p[slot].generation) << 32 | <uint64_t>slot
        return push_words(refs, &ref, 1)

    cdef int collect_children(
        self, uint32_t level, uint32_t metric, const char* type, size_t type_len, int depth, uint64_t* budget,
        word_list* refs
    ) noexcept nogil:
        cdef const ms_level* at = self.level_at(level)
        cdef uint64_t n_levels = ms_load_acquire_u64(&self.head.n_levels)
        cdef uint32_t child
        cdef int status
        if at == NULL or depth > DEPTH_MAX:
            return _BROKEN
        child = ms_load_acquire_u32(&at.first_child)  # SYNC POINT (acquire) child link
        while child:
            at = self.level_at(child)
            if at == NULL or budget[0] == 0:
                return _BROKEN
            budget[0] -= 1
            # A child that is not yet published is not there yet; its links are.
            if child < n_levels and (type == NULL or self.is_type(at, type, type_len)):
                status = self.collect_level(child, metric, depth, budget, refs)
                if status:
                    return status
            child = ms_load_acquire_u32(&at.next_sibling)
        return _OK

    def collect(self, levels, uint32_t metric, bytes type=None):
        """References of the series that answer for the metric at these levels, in series order, each once.

        levels   list of level ids; a level without the metric stands for all its children, and so on
        type     when given, not the levels themselves are asked but their children of this type
        returns  uint64[m] or a status
        """
        cdef word_list refs = word_list(NULL, 0, 0)
        # More steps than there are levels: links in a circle, which a valid directory never has.
        cdef uint64_t budget = self.head.region[<int>MS_REGION_LEVELS].reserved // sizeof(ms_level)
        cdef const char* type_text = PyBytes_AS_STRING(type) if type is not None else NULL
        cdef size_t type_len = PyBytes_GET_SIZE(type) if type is not None else 0
        cdef uint32_t level
        cdef uint64_t[::1] out
        cdef size_t i, kept = 0
        cdef int status
        try:
            for level in levels:
                with nogil:
                    if type_text == NULL:
                        status = self.collect_level(level, metric, 0, &budget, &refs)
                    else:
                        status = self.collect_children(level, metric, type_text, type_len, 0, &budget, &refs)
                if status:
                    return status
            qsort(refs.words, refs.n, 8, by_slot)
            for i in range(refs.n):
                if kept == 0 or refs.words[kept - 1] != refs.words[i]:
                    refs.words[kept] = refs.words[i]
                    kept += 1
            found = np.empty(kept, UINT64)
            if kept:
                out = found
                memcpy(&out[0], refs.words, kept * 8)
            return found
        finally:
            free(refs.words)

    def children(self, uint32_t level, bytes type=None):
        """(id, type text, id text) of the children of a level, only those of `type` when given; or a status."""
        cdef const ms_level* at
        cdef uint32_t child
        cdef uint64_t n_levels = ms_load_acquire_u64(&self.head.n_levels), budget
        cdef size_t want = PyBytes_GET_SIZE(type) if type is not None else 0
        if level >= n_levels:
            return _GONE
        budget = self.head.region[<int>MS_REGION_LEVELS].reserved // sizeof(ms_level)
        found = []
        child = ms_load_acquire_u32(&self.level_at(level).first_child)  # SYNC POINT (acquire) child link
        while child:
            at = self.level_at(child)
            if at == NULL or budget == 0:
                return _BROKEN
            budget -= 1
            if child < n_levels and (type is None or self.is_type(at, PyBytes_AS_STRING(type), want)):
                found.append((child, self.text(at.name, at.type_len),
                              self.text(at.name + at.type_len, at.name_len - at.type_len)))
            child = ms_load_acquire_u32(&at.next_sibling)
        return found

    cdef bint is_type(self, const ms_level* at, const char* type, size_t n) noexcept nogil:
        return (at.type_len == n and at.name <= self.directory.length and n <= self.directory.length - at.name
                and memcmp(self.directory.base + at.name, type, n) == 0)

    def unit(self, uint32_t metric):
        """Unit text of a metric, "" = not known."""
        cdef ms_metric entry
        return self.text(entry.unit, entry.unit_len) if self.copy_metric_c(metric, &entry) else ""

    def metric(self, uint32_t metric):
        """(kind, type, aggregation, step_s, unit, columns text) of a metric, or a status."""
        cdef ms_metric m
        if not self.copy_metric_c(metric, &m):
            return _BUSY
        return (m.kind, m.type, m.aggregation, m.step_s, self.text(m.unit, m.unit_len),
                self.text(m.columns, m.columns_len))

    def generation(self):
        """The directory's: a rebuild bumps it, and everything planned before is void."""
        return self.generation_c()

    # ---- chunks without a copy ----

    def describe(self, uint64_t ref):
        """(kind, type, n_columns, anchor_s, step_s, level, metric) of one era, or a status."""
        cdef era e
        cdef int status = self.load_era(<uint32_t>ref, <uint32_t>(ref >> 32), &e)
        if status:
            return status
        return e.kind, e.type, e.n_columns, e.anchor_s, e.step_s, e.level, e.metric

    def eras(self, uint64_t ref):
        """References of a series' eras, oldest first, or a status."""
        cdef era_pool pool = era_pool(NULL, 0, 0)
        cdef int64_t i
        cdef int status = self.load_chain(ref, INT64_MIN // 1000 + 1, &pool)
        try:
            if status:
                return status
            return [<uint64_t>pool.eras[i].generation << 32 | pool.eras[i].slot for i in range(<int64_t>pool.n - 1, -1, -1)]
        finally:
            free(pool.eras)

    def chunks(self, uint64_t ref):
        """The linked chunks of one era in order: list of (n, table word, link word, offset of the payload, slots or rows)."""
        cdef era e
        cdef uint64_t table, word, payload
        cdef const uint64_t* at
        cdef const ms_chunk* c
        cdef int64_t n, last
        cdef uint32_t count, width
        cdef int attempt, status = self.load_era(<uint32_t>ref, <uint32_t>(ref >> 32), &e)
        if status:
            return status
        found = []
        width = width_of(e.type) if e.kind == KIND_GRID else 8 * (1 + e.n_columns)
        n = <int64_t>ms_load_relaxed_u64(&e.at.first_n)
        last = <int64_t>ms_load_acquire_u64(&e.at.last_n)
        while n <= last:
            for attempt in range(RETRIES):
                status = self.find_link(&e, n, &table, &at, &word)
                if status:
                    continue
                c = NULL
                if word != 0:
                    c = self.chunk_at(&e, n, word, &payload)
                count = 0
                if c != NULL:
                    count = c.capacity if e.kind == KIND_GRID else ms_load_acquire_u32(&c.count)
                    if count > payload // width:
                        count = <uint32_t>(payload // width)
                if self.link_holds(&e, table, at, word):
                    break
                if ms_load_acquire_u32(&e.at.generation) != e.generation:
                    return _GONE
            else:
                return status if status else _BUSY
            if c != NULL:
                found.append((n, table, word, MS_LINK_OFFSET(word) + CHUNK_HEADER_BYTES, count))
            n += 1
        return found

    def still_linked(self, uint64_t ref, int64_t n, uint64_t table, uint64_t word):
        """Whether chunk n of ref is still the one that (table, word) linked: what was read from it until now was its own."""
        cdef era e
        cdef uint64_t table_now, word_now
        cdef const uint64_t* at
        ms_fence_acquire()
        if self.load_era(<uint32_t>ref, <uint32_t>(ref >> 32), &e) or self.find_link(&e, n, &table_now, &at, &word_now):
            return False
        return table_now == table and word_now == word and self.link_holds(&e, table, at, word)

    def view(self, uint64_t offset, size_t length):
        """Read-only memory of the samples segment, bounds checked; ValueError outside of what is committed."""
        if offset > self.committed() or length > self.committed() - offset:
            raise ValueError(f"{length} bytes at {offset} are outside of the committed samples")
        return memoryview(self.samples._owner).toreadonly().cast("B")[offset:offset + length]


FLOAT32, FLOAT64, UINT32, UINT64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.uint32), np.dtype(np.uint64)
