"""What may go: chunks past retention, in slices of the series table, and the oldest chunks of the store for the memory cap.

Planning changes nothing. A plan is a list of ranges, which the persister writes to the log as a FREE or EVICT record
and then applies (`free_ranges`) by the same path a replay takes:

    {slot, generation, first, last}      grid: chunks first..last      stamped: rows stamped first..last ms

Stamped rows go by stamp and not by chunk: a replay may divide rows into other chunks than the live store did.
"""

import numpy as np

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport INT64_MAX, INT64_MIN
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from mstore.kernels._aggregate cimport ms_count_f32, ms_count_f64, ms_count_u64
from mstore.kernels._chunks cimport *

RANGE = np.dtype([("slot", "<u4"), ("generation", "<u4"), ("first", "<i8"), ("last", "<i8")])
assert RANGE.itemsize == sizeof(freed)

cdef enum:
    IDLE_STEPS = 8
    IDLE_STAMPED_S = 600

cdef int64_t SECONDS_MAX = INT64_MAX / 1000


cdef int64_t last_evictable(ms_series* s, int64_t now_s) noexcept nogil:
    """The newest chunk that eviction may take: the last one only of a series without a sample for several steps."""
    cdef int64_t idle_from
    if s.kind == KIND_GRID:
        idle_from = s.last_t + IDLE_STEPS * <int64_t>s.step_s
    else:
        idle_from = floor_div(s.last_t, 1000) + IDLE_STAMPED_S
    return s.last_n if idle_from < now_s else s.last_n - 1


cdef uint64_t n_values(const ms_chunk* chunk) noexcept nogil:
    """Samples of a grid chunk."""
    cdef const char* values = <const char*>chunk + CHUNK_HEADER_BYTES
    if chunk.type == TYPE_F32:
        return ms_count_f32(<const float*>values, chunk.capacity)
    if chunk.type == TYPE_F64:
        return ms_count_f64(<const double*>values, chunk.capacity)
    return ms_count_u64(<const uint64_t*>values, chunk.capacity)


cdef uint64_t n_rows(const ms_chunk* chunk, int64_t first, int64_t last) noexcept nogil:
    """Rows of a stamped chunk with stamps in first .. last."""
    cdef const int64_t* words = <const int64_t*>(<const char*>chunk + CHUNK_HEADER_BYTES)
    cdef uint64_t i, found = 0
    for i in range(chunk.count):
        found += first <= words[i * (1 + chunk.n_columns)] <= last
    return found


cdef class Expiry(Chunks):
    """See Chunks for the arguments."""

    def __dealloc__(self):
        free(self.heap)
        free(self.plan)

    # ---- retention ----

    cdef bint expired_range(self, uint32_t slot, ms_series* s, int64_t before_s, freed* out) noexcept nogil:
        """The chunks of a series that lie before `before_s` whole; False if there are none."""
        cdef int64_t n
        cdef ms_chunk* chunk
        if s.n_chunks == 0 or before_s == INT64_MIN:
            return False
        out.slot, out.generation = slot, s.generation
        if s.kind == KIND_GRID:
            out.first = s.first_n
            out.last = min(floor_div(before_s - s.anchor_s, <int64_t>s.step_s * MS_CHUNK_SLOTS) - 1, s.last_n)
            return out.last >= out.first
        out.first, out.last = INT64_MIN, INT64_MIN
        n = s.first_n
        while n <= s.last_n:
            chunk = find_chunk(self.base, s, n)
            if chunk != NULL and chunk.count and chunk.t_max_ms < before_s * 1000 and chunk.t_max_ms > out.last:
                out.last = chunk.t_max_ms
            n += 1
        return out.last != INT64_MIN

    def expired(self, uint64_t start_slot, uint64_t n_slots, before_s):
        """What retention frees in series start_slot .. start_slot + n_slots - 1: whole chunks that end by then.

        before_s  seconds, for all; or int64[n_slots], INT64_MIN = keep everything of that series
        returns   RANGE[k]; nothing is freed yet
        """
        cdef const int64_t[::1] each = None
        cdef int64_t limit = INT64_MIN
        cdef uint64_t slot, stop, n = 0, room = self.plan_room
        cdef ms_series* s
        cdef freed* grown
        cdef bint no_memory = False
        if isinstance(before_s, int):
            limit = before_s
        else:
            each = before_s
            if <uint64_t>each.shape[0] < n_slots:
                raise ValueError(f"{each.shape[0]} limits for {n_slots} series")
        self.n_series = ms_load_acquire_u64(&self.words.n_series)
        stop = min(start_slot + n_slots, self.n_series)
        with nogil:
            for slot in range(start_slot, stop):
                s = self.table + slot
                if not s.flags & SERIES_LIVE:
                    continue
                if n == room:
                    room = 2 * room if room else 256
                    grown = <freed*>realloc(self.plan, room * sizeof(freed))
                    if grown == NULL:
                        no_memory = True
                        break
                    self.plan, self.plan_room = grown, room
                if each is not None:
                    limit = each[slot - start_slot]
                if -SECONDS_MAX < limit < SECONDS_MAX:
                    n += self.expired_range(<uint32_t>slot, s, limit, self.plan + n)
        if no_memory:
            raise MemoryError
        found = np.empty(n, RANGE)
        if n:
            _copy_out(found, self.plan, n * sizeof(freed))
        return found

    def free_ranges(self, ranges):
        """Apply the ranges of a FREE or EVICT record (RANGE[k], or its bytes): (chunks freed, ranges of a series that is gone)."""
        cdef Py_buffer view
        cdef uint64_t i, n, n_freed = 0, n_stale = 0
        cdef freed item
        cdef ms_series* s
        PyObject_GetBuffer(ranges, &view, PyBUF_SIMPLE)
        try:
            if view.len % <Py_ssize_t>sizeof(freed):
                raise ValueError(f"{view.len} bytes are not whole ranges of {sizeof(freed)}")
            n = <uint64_t>view.len / sizeof(freed)
            with nogil:
                for i in range(n):
                    memcpy(&item, <const char*>view.buf + i * sizeof(freed), sizeof(freed))
                    s = self.live(item.slot)
                    if s == NULL or s.generation != item.generation:
                        n_stale += 1
                    else:
                        n_freed += self.drop_range(item.slot, s, item.first, item.last)
        finally:
            PyBuffer_Release(&view)
        return n_freed, n_stale

    def chunks_in(self, ranges) -> tuple:
        """(chunks, their bytes) that `free_ranges` would free of these ranges, chunks of stamped rows only if whole."""
        cdef uint64_t n_chunks = 0, n_bytes = 0
        cdef freed item
        cdef ms_series* s
        cdef ms_chunk* chunk
        cdef int64_t n, stop
        cdef const unsigned char[::1] view = np.frombuffer(ranges, np.uint8)
        cdef uint64_t i
        with nogil:
            for i in range(<uint64_t>view.shape[0] / sizeof(freed)):
                memcpy(&item, &view[i * sizeof(freed)], sizeof(freed))
                s = self.live(item.slot)
                if s == NULL or s.generation != item.generation or s.n_chunks == 0:
                    continue
                n, stop = s.first_n, s.last_n
                if s.kind == KIND_GRID:
                    n, stop = max(n, item.first), min(stop, item.last)
                while n <= stop:
                    chunk = find_chunk(self.base, s, n)
                    if chunk != NULL and (
                        s.kind == KIND_GRID or (chunk.anchor_s >= item.first and chunk.t_max_ms <= item.last)
                    ):
                        n_chunks += 1
                        n_bytes += SIZES[chunk.size_class]
                    n += 1
        return n_chunks, n_bytes

    def samples_in(self, ranges) -> int:
        """Samples that `free_ranges` would free of these ranges, missing slots not counted."""
        cdef uint64_t found = 0, i
        cdef freed item
        cdef ms_series* s
        cdef ms_chunk* chunk
        cdef int64_t n, stop
        cdef const unsigned char[::1] view = np.frombuffer(ranges, np.uint8)
        with nogil:
            for i in range(<uint64_t>view.shape[0] / sizeof(freed)):
                memcpy(&item, &view[i * sizeof(freed)], sizeof(freed))
                s = self.live(item.slot)
                if s == NULL or s.generation != item.generation or s.n_chunks == 0:
                    continue
                n, stop = s.first_n, s.last_n
                if s.kind == KIND_GRID:
                    n, stop = max(n, item.first), min(stop, item.last)
                while n <= stop:
                    chunk = find_chunk(self.base, s, n)
                    if chunk != NULL:
                        found += n_rows(chunk, item.first, item.last) if s.kind == KIND_STAMPED else n_values(chunk)
                    n += 1
        return found

    def sweep(self, start_slot, n_slots, before_s) -> int:
        """Plan and free in one step, unlogged; the number of chunks freed."""
        return self.free_ranges(self.expired(start_slot, n_slots, before_s))[0]

    def free_before(self, uint32_t slot, int64_t before_s) -> int:
        """The same for one series."""
        return self.sweep(slot, 1, before_s)

    def ranges_of(self, const uint32_t[::1] slots, const int64_t[::1] numbers, int64_t now_s=INT64_MAX):
        """RANGE[k] that free the chunks (slots[i], numbers[i]), without those that are gone by now or, being the newest
        of a series that is not idle at now_s, may not go."""
        cdef freed item
        cdef ms_series* s
        cdef ms_chunk* chunk
        cdef uint64_t i, kept = 0
        found = np.zeros(slots.shape[0], RANGE)
        if slots.shape[0] != numbers.shape[0] or slots.shape[0] == 0:
            return found[:0]
        cdef char[::1] out = found.view(np.int8)
        with nogil:
            for i in range(<uint64_t>slots.shape[0]):
                s = self.live(slots[i])
                chunk = NULL
                if s != NULL and s.n_chunks and numbers[i] <= last_evictable(s, now_s):
                    chunk = find_chunk(self.base, s, numbers[i])
                if chunk == NULL:
                    continue
                item.slot, item.generation, item.first, item.last = slots[i], s.generation, numbers[i], numbers[i]
                if s.kind == KIND_STAMPED:
                    item.first, item.last = chunk.anchor_s, chunk.t_max_ms
                memcpy(&out[kept * sizeof(freed)], &item, sizeof(freed))
                kept += 1
        return found[:kept]

    # ---- the memory cap: the oldest chunks of all ----

    cdef void heap_offer(self, int64_t t_end_s, uint32_t slot, int64_t n) noexcept nogil:
        """Keep the heap_limit oldest: a max-heap by end time."""
        cdef candidate* heap = self.heap
        cdef candidate entry
        cdef uint32_t i, child
        entry.t_end_s, entry.slot, entry.n = t_end_s, slot, n
        if self.heap_size < self.heap_limit:
            i = self.heap_size
            self.heap_size += 1
            while i and heap[(i - 1) / 2].t_end_s < t_end_s:
                heap[i] = heap[(i - 1) / 2]
                i = (i - 1) / 2
            heap[i] = entry
            return
        i = 0
        while 2 * i + 1 < self.heap_size:
            child = 2 * i + 1
            if child + 1 < self.heap_size and heap[child + 1].t_end_s > heap[child].t_end_s:
                child += 1
            if heap[child].t_end_s <= t_end_s:
                break
            heap[i] = heap[child]
            i = child
        heap[i] = entry

    def scan_oldest(self, uint32_t limit, uint64_t n_slots, int64_t now_s, protected=None) -> bool:
        """Look at the next n_slots series for chunks to evict; True when the whole table has been seen.

        limit      keep that many of the oldest
        now_s      the newest chunk of a series counts only if its last sample is 8 steps (stamped: 10 minutes)
                   older than this; INT64_MIN: never
        protected  uint8[>= n_series] or None: series to leave out
        """
        cdef const unsigned char[::1] mask = protected
        cdef uint64_t stop
        cdef int64_t n, last, t_end = 0
        cdef ms_series* s
        cdef ms_chunk* chunk
        if limit == 0:
            raise ValueError("limit must be positive")
        if self.heap == NULL or self.heap_limit != limit:
            free(self.heap)
            self.heap = <candidate*>malloc(limit * sizeof(candidate))
            if self.heap == NULL:
                self.heap_limit = 0
                raise MemoryError
            self.heap_limit = limit
            self.heap_size = 0
            self.scan_at = 0
        self.n_series = ms_load_acquire_u64(&self.words.n_series)
        stop = min(self.scan_at + n_slots, self.n_series)
        if mask is not None and <uint64_t>mask.shape[0] < self.n_series:
            raise ValueError(f"a mask of {mask.shape[0]} series, the table has {self.n_series}")
        with nogil:
            while self.scan_at < stop:
                s = self.table + self.scan_at
                self.scan_at += 1
                if not s.flags & SERIES_LIVE or s.n_chunks == 0:
                    continue
                if mask is not None and mask[self.scan_at - 1]:
                    continue
                last = last_evictable(s, now_s)
                n = s.first_n
                while n <= last:
                    if s.kind == KIND_GRID:
                        t_end = s.anchor_s + (n + 1) * MS_CHUNK_SLOTS * <int64_t>s.step_s
                        if self.heap_size == self.heap_limit and t_end >= self.heap[0].t_end_s:
                            break
                    chunk = find_chunk(self.base, s, n)
                    if chunk != NULL:
                        if s.kind == KIND_STAMPED:
                            t_end = floor_div(chunk.t_max_ms, 1000) + 1
                        if self.heap_size < self.heap_limit or t_end < self.heap[0].t_end_s:
                            self.heap_offer(t_end, <uint32_t>(self.scan_at - 1), n)
                    n += 1
        return self.scan_at >= self.n_series

    def oldest(self, uint32_t limit, int64_t now_s=INT64_MIN, protected=None):
        """The oldest chunks of the store, oldest first, finishing the scan that `scan_oldest` began.

        returns (t_end_s int64[k], slot uint32[k], n int64[k]), k <= limit; t_end_s is the first second after the chunk
        """
        cdef uint32_t i
        while not self.scan_oldest(limit, 65536, now_s, protected):
            pass
        ends = np.empty(self.heap_size, np.int64)
        slots = np.empty(self.heap_size, np.uint32)
        numbers = np.empty(self.heap_size, np.int64)
        cdef int64_t[::1] end_view = ends
        cdef uint32_t[::1] slot_view = slots
        cdef int64_t[::1] n_view = numbers
        for i in range(self.heap_size):
            end_view[i], slot_view[i], n_view[i] = self.heap[i].t_end_s, self.heap[i].slot, self.heap[i].n
        self.heap_size = 0
        self.scan_at = 0
        order = np.lexsort((numbers, slots, ends))
        return ends[order], slots[order], numbers[order]


cdef _copy_out(array, const void* source, size_t n):
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    memcpy(view.buf, source, n)
    PyBuffer_Release(&view)
