"""What queries ask of shared memory: one series' slots, stamped rows, the level tree. Many at once: _gather_batch.pyx.

Samples come through validated copies (_gather_runs.pyx says how). Nothing here keeps state between calls except texts,
which never change while the directory's generation stays. Methods return a status number instead of an answer when
there is none.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcmp, memcpy
from mstore.kernels._atomics cimport *
from mstore.kernels._copies cimport ms_copy_out
from mstore.kernels._directory cimport DirectoryReader, short_id
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
    ms_prefetch,
    nominal,
    push_words,
    sink,
    width_of,
    word_list,
)
from mstore.kernels._layout cimport *
from mstore.kernels._segment cimport Segment

import numpy as np

# What a call returns instead of an answer: the reference is gone (plan again), memory kept changing (plan again), memory
# is damaged, the answer would exceed the limit, out of memory, the series is of the other kind.
GONE, BUSY, BROKEN, LIMIT, NO_MEMORY, OTHER_KIND = _GONE, _BUSY, _BROKEN, _LIMIT, _NO_MEMORY, _OTHER_KIND

cdef enum:
    DEPTH_MAX = 32
    AHEAD_SERIES = 64         # looked up at a time: their places are fetched from memory first


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
                ms_copy_out(scratch, <const char*>c + CHUNK_HEADER_BYTES, count * width * 8)
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
        cdef uint32_t found[AHEAD_SERIES]
        cdef uint32_t child
        cdef size_t i, n = 0
        cdef int status
        if at == NULL or depth > DEPTH_MAX:
            return _BROKEN
        child = ms_load_acquire_u32(&at.first_child)  # SYNC POINT (acquire) child link
        while child or n:
            if n == AHEAD_SERIES or not child:
                self.expect_series(found, &metric, 0, n)
                for i in range(n):
                    status = self.collect_level(found[i], metric, depth, budget, refs)
                    if status:
                        return status
                n = 0
                continue
            at = self.level_at(child)
            if at == NULL or budget[0] == 0:
                return _BROKEN
            budget[0] -= 1
            # A child that is not yet published is not there yet; its links are.
            if child < n_levels and (type == NULL or self.is_type(at, type, type_len)):
                found[n] = child
                n += 1
            child = ms_load_acquire_u32(&at.next_sibling)
        return _OK

    cdef void expect_series(
        self, const uint32_t* levels, const uint32_t* metrics, size_t metric_stride, size_t n
    ) noexcept nogil:
        """Fetch the places in the hash table of n series, at most AHEAD_SERIES, and then the series that they lead to."""
        cdef uint64_t hashes[AHEAD_SERIES]
        cdef uint64_t word, mask = 0, n_series = ms_load_acquire_u64(&self.head.n_series)
        cdef uint32_t* slots = <uint32_t*>self.directory.table_slots(MS_TABLE_SERIES, &word, &mask)
        cdef int64_t id
        cdef size_t i
        if slots == NULL:
            return
        for i in range(n):
            hashes[i] = self.directory.hash_series(levels[i], metrics[i * metric_stride])
            ms_prefetch(&slots[hashes[i] & mask])
        for i in range(n):
            id = short_id(ms_load_relaxed_u32(&slots[hashes[i] & mask]), hashes[i], self.directory.id_mask)
            if 0 <= id < <int64_t>n_series:
                ms_prefetch(&self.directory.series_p[id])
                ms_prefetch(<const char*>&self.directory.series_p[id] + 64)

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
        cdef set seen = set()
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
            # One that was linked again meanwhile leads through the list once more.
            if child < n_levels and child not in seen and (type is None or self.is_type(at, PyBytes_AS_STRING(type), want)):
                seen.add(child)
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
                    count = ms_load_relaxed_u32(&c.capacity) if e.kind == KIND_GRID else ms_load_acquire_u32(&c.count)
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


FLOAT32, FLOAT64, UINT64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.uint64)
