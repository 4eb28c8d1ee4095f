"""Copying the chunks of a store that is being written, in slices of a buffer.

series_by_cluster() says which series there are; a ChunkCopier takes those of one cluster, or all. For each, in order:
note which chunks it has (the numbers n its link words lead to), then copy each
by the readers' protocol: table and link word (acquire), header, values, fence, the same words again. A chunk that moves
meanwhile is looked up again by its n; one that was freed is left out (its removal is in the log behind the snapshot's
sequence); one that was made meanwhile is left out too (its samples are there).

An entry is 64 bytes of header and the payload, padded with zeros to a multiple of 8:

    u32 series, u32 generation, i64 n, i64 anchor, u32 step, u8 kind, type, 0, n_columns,
    u32 0, u32 count, u32 0, u32 flags, i64 t_max_ms, u64 payload bytes

Grid payloads end with the last slot that is not missing; chunks without any sample are left out. docs/format/snapshot.md says the same.
"""

import numpy as np

from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from mstore.errors import InvariantBroken

from mstore.kernels._atomics cimport *
from mstore.kernels._copies cimport ms_copy_out
from mstore.kernels._layout cimport *
from mstore.kernels._segment cimport Segment


cdef enum:
    RETRIES = 10000
    ENTRY_BYTES_MAX = 64 + 4096
    COPIED = 0
    ABSENT = 1
    BUSY = 2
    AGES = 257              # the last one holds whatever is older

cdef uint64_t[4] CLASS_BYTES = [128, 512, 2112, 4160]


def series_by_cluster(Segment directory not None):
    """(slots uint32[n], generations uint32[n], clusters uint32[n]) of the live series, in order of slot.

    A slot that changes hands during the look is named once at most, with a cluster that fits its generation.
    raises  InvariantBroken when a series belongs to no level
    """
    if directory.length < 2 * MS_PAGE:
        raise ValueError("a segment shorter than its own header")
    cdef const ms_directory* words = <const ms_directory*>(directory.base + MS_PAGE)
    cdef const ms_series* table = <const ms_series*>(directory.base + words.region[MS_REGION_SERIES].offset)
    cdef const ms_level* levels = <const ms_level*>(directory.base + words.region[MS_REGION_LEVELS].offset)
    # SYNC POINT (acquire) counts: entries below the count are complete
    cdef uint64_t n = ms_load_acquire_u64(&words.n_series), n_levels, i, kept = 0, lost = 0
    n = min(n, (directory.length - words.region[MS_REGION_SERIES].offset) // sizeof(ms_series))
    found = np.empty((3, max(n, 1)), np.uint32)
    cdef uint32_t[:, ::1] out = found
    cdef uint32_t generation, level, cluster
    with nogil:
        for i in range(n):
            # SYNC POINT (acquire) series entry
            generation = ms_load_acquire_u32(&table[i].generation)
            if not table[i].flags & SERIES_LIVE:
                continue
            level = table[i].level
            # Levels are only ever added, so the count of this moment covers every series met by now.
            n_levels = ms_load_acquire_u64(&words.n_levels)
            cluster = levels[level].cluster if level < n_levels else 0
            ms_fence_acquire()
            if ms_load_relaxed_u32(&table[i].generation) != generation or not table[i].flags & SERIES_LIVE:
                continue  # removed meanwhile: its removal, and what came after it, is in the log
            if level >= n_levels:
                lost = i + 1
                break
            out[0, kept], out[1, kept], out[2, kept] = <uint32_t>i, generation, cluster
            kept += 1
    if lost:
        raise InvariantBroken(f"series {lost - 1} belongs to level {level} of {n_levels}")
    return found[0, :kept], found[1, :kept], found[2, :kept]


cdef class ChunkCopier:
    """One pass over the chunks of some series, or of all.

    directory, samples  mapped segments; read-only is enough
    slots, generations  uint32[n] each: the series to copy, in this order; one of another generation is left out.
                        None: every live series, in order of slot
    now_s, age_s        `memory_by_age` counts by the age of a chunk at now_s, in steps of age_s seconds
    """

    cdef readonly Segment directory
    cdef readonly Segment samples
    cdef const ms_directory* words
    cdef const ms_series* table
    cdef int64_t* numbers        # chunk numbers of the series in hand
    cdef uint32_t n_numbers
    cdef uint32_t next_number
    cdef uint64_t slot           # of the series in hand, + 1
    cdef const uint32_t[::1] slots
    cdef const uint32_t[::1] generations
    cdef bint chosen             # by `slots`
    cdef uint64_t next_series    # the next one to look at: in `slots`, or its slot
    cdef int64_t now_s
    cdef int64_t age_s
    cdef uint64_t ages[AGES]
    cdef uint32_t generation
    cdef readonly uint64_t n_series
    """Live series met."""
    cdef readonly uint64_t n_chunks
    cdef readonly uint64_t n_slots
    """Slots and rows copied, missing ones between others included."""
    cdef readonly int64_t t_min
    """Nominal second of the first slot of the oldest chunk; INT64_MAX without chunks."""
    cdef readonly int64_t t_max
    """Nominal second of the last slot copied; INT64_MIN without chunks."""

    def __cinit__(self, Segment directory not None, Segment samples not None, slots=None, generations=None,
                  int64_t now_s=0, int64_t age_s=675):
        if slots is not None:
            self.slots, self.generations, self.chosen = slots, generations, True
            if self.slots.shape[0] != self.generations.shape[0]:
                raise ValueError(f"{len(generations)} generations of {len(slots)} series")
        if age_s < 1:
            raise ValueError(f"steps of {age_s} seconds")
        self.now_s, self.age_s = now_s, age_s
        memset(self.ages, 0, sizeof(self.ages))
        self.directory = directory
        self.samples = samples
        if directory.length < 2 * MS_PAGE or samples.length < MS_SAMPLES_DATA:
            raise ValueError("a segment shorter than its own header")
        self.words = <const ms_directory*>(directory.base + MS_PAGE)
        if self.words.region[MS_REGION_SERIES].offset > directory.length:
            raise InvariantBroken("the series region lies outside of the directory")
        self.table = <const ms_series*>(directory.base + self.words.region[MS_REGION_SERIES].offset)
        self.numbers = <int64_t*>malloc((<size_t>1 << TABLE_LOG2_MAX) * sizeof(int64_t))
        if self.numbers == NULL:
            raise MemoryError
        self.t_min = INT64_MAX
        self.t_max = INT64_MIN

    def __dealloc__(self):
        free(self.numbers)

    @property
    def n_looked(self) -> int:
        """Series, or slots, that have been looked at so far."""
        return self.next_series

    def memory_by_age(self):
        """uint64[257]: bytes of shared memory by age: i * age_s <= now_s - end < (i + 1) * age_s; newer first, the
        last one holds everything older."""
        found = np.empty(AGES, np.uint64)
        cdef uint64_t[::1] out = found
        cdef int i
        for i in range(AGES):
            out[i] = self.ages[i]
        return found

    def fill(self, unsigned char[::1] out) -> int:
        """Copy entries to `out`, whole ones only; returns the bytes used, 0 when all chunks have been copied.

        out     at least 4160 bytes; 256 KiB is a good slice
        raises  InvariantBroken when links are damaged
        """
        cdef uint64_t used = 0, size = out.shape[0]
        cdef int status
        if size < ENTRY_BYTES_MAX:
            raise ValueError(f"a slice has at least {ENTRY_BYTES_MAX} bytes")
        with nogil:
            status = self.fill_c(&out[0], size, &used)
        if status == BUSY:
            raise InvariantBroken(f"series {self.slot - 1}: its links are damaged or never at rest")
        return used

    cdef int fill_c(self, unsigned char* out, uint64_t size, uint64_t* used) noexcept nogil:
        cdef int status
        cdef uint64_t limit
        while True:
            while self.next_number < self.n_numbers:
                if size - used[0] < ENTRY_BYTES_MAX:
                    return COPIED
                status = self.copy(self.numbers[self.next_number], out + used[0], used)
                if status == BUSY:
                    return BUSY
                self.next_number += 1
            # SYNC POINT (acquire) counts: entries below the count are complete
            limit = ms_load_acquire_u64(&self.words.n_series)
            limit = min(limit, (self.directory.length - self.words.region[MS_REGION_SERIES].offset) // sizeof(ms_series))
            self.n_numbers = self.next_number = 0
            if self.chosen:
                if self.next_series >= <uint64_t>self.slots.shape[0]:
                    return COPIED
                self.slot = <uint64_t>self.slots[self.next_series] + 1
                self.next_series += 1
                if self.slot > limit:
                    continue
            elif self.next_series >= limit:
                return COPIED
            else:
                self.slot = self.next_series = self.next_series + 1
            if self.enumerate(&self.table[self.slot - 1]) == BUSY:
                return BUSY

    cdef uint64_t committed(self) noexcept nogil:
        cdef uint64_t committed = ms_load_acquire_u64(&(<const ms_segment_header*>self.samples.base).committed_bytes)
        return min(committed, <uint64_t>self.samples.length)

    cdef int links(self, const ms_series* s, uint64_t* table, const uint64_t** first, uint64_t* n) noexcept nogil:
        """The table word and the link words it leads to; BUSY when it leads outside."""
        cdef uint64_t offset, log2
        # SYNC POINT (acquire) table: links before the table word
        table[0] = ms_load_acquire_u64(&s.table)
        if table[0] == 0:
            first[0], n[0] = &s.link0, 1
            return COPIED
        offset, log2 = table[0] >> 8, table[0] & 255
        if log2 > TABLE_LOG2_MAX or offset & 7 or offset < MS_SAMPLES_DATA:
            return BUSY
        n[0] = <uint64_t>1 << log2
        if offset > self.committed() or 8 * n[0] > self.committed() - offset:
            return BUSY
        first[0] = <const uint64_t*>(self.samples.base + offset)
        return COPIED

    cdef const ms_chunk* chunk_of(self, uint64_t word) noexcept nogil:
        """Where a link word leads; NULL when that is no place for a chunk."""
        cdef uint64_t offset = MS_LINK_OFFSET(word)
        cdef unsigned size_class = MS_LINK_CLASS(word)
        if size_class >= CHUNK_CLASSES or offset < MS_SAMPLES_DATA or offset > self.committed():
            return NULL
        if CLASS_BYTES[size_class] > self.committed() - offset:
            return NULL
        return <const ms_chunk*>(self.samples.base + offset)

    cdef int enumerate(self, const ms_series* s) noexcept nogil:
        """Take a series in hand: the numbers of its chunks at one moment."""
        cdef uint64_t table, word, n, i
        cdef const uint64_t* first
        cdef const ms_chunk* chunk
        cdef bint moved
        cdef int attempt
        self.n_numbers = self.next_number = 0
        # SYNC POINT (acquire) series entry
        self.generation = ms_load_acquire_u32(&s.generation)
        if not s.flags & SERIES_LIVE:
            return COPIED
        if self.chosen and self.generation != self.generations[self.next_series - 1]:
            return COPIED       # the slot has changed hands: it may be another cluster's now
        self.n_series += 1
        for attempt in range(RETRIES):
            if ms_load_acquire_u32(&s.generation) != self.generation:
                self.n_numbers = 0
                return COPIED       # removed meanwhile: what follows is in the log
            moved = self.links(s, &table, &first, &n) == BUSY
            self.n_numbers = 0
            if not moved:
                for i in range(n):
                    word = ms_load_acquire_u64(first + i)  # SYNC POINT (acquire) link
                    if word == 0:
                        continue
                    chunk = self.chunk_of(word)
                    if (chunk == NULL or chunk.series != self.slot - 1 or chunk.generation != self.generation):
                        moved = True
                        break
                    self.numbers[self.n_numbers] = chunk.n
                    self.n_numbers += 1
                    ms_fence_acquire()
                    if ms_load_relaxed_u64(first + i) != word:
                        moved = True
                        break
            ms_fence_acquire()
            if not moved and ms_load_relaxed_u64(&s.table) == table:
                return COPIED
        return BUSY

    cdef int copy(self, int64_t n, unsigned char* out, uint64_t* used) noexcept nogil:
        """Chunk n of the series in hand to `out`."""
        cdef const ms_series* s = &self.table[self.slot - 1]
        cdef uint64_t table, word, n_links, payload
        cdef const uint64_t* first
        cdef const uint64_t* at
        cdef const ms_chunk* chunk
        cdef ms_chunk* entry = <ms_chunk*>out
        cdef uint32_t seq
        cdef bint same
        cdef int attempt
        for attempt in range(RETRIES):
            if ms_load_acquire_u32(&s.generation) != self.generation:
                return ABSENT
            if self.links(s, &table, &first, &n_links) == BUSY:
                continue
            at = first + (<uint64_t>n & (n_links - 1))
            word = ms_load_acquire_u64(at)  # SYNC POINT (acquire) link: header and values before the word
            chunk = self.chunk_of(word) if word else NULL
            if chunk == NULL:
                ms_fence_acquire()
                if word == 0 and ms_load_relaxed_u64(at) == 0 and ms_load_relaxed_u64(&s.table) == table:
                    return ABSENT
                continue
            seq = ms_load_acquire_u32(&chunk.seq)  # SYNC POINT (acquire) row
            ms_copy_out(entry, chunk, sizeof(ms_chunk))
            if entry.series != self.slot - 1 or entry.generation != self.generation:
                continue
            if entry.n != n:
                ms_fence_acquire()
                if ms_load_relaxed_u64(at) == word and ms_load_relaxed_u64(&s.table) == table:
                    return ABSENT   # another chunk took its place
                continue
            if entry.kind == KIND_GRID:
                payload = <uint64_t>min(entry.capacity, <uint32_t>MS_CHUNK_SLOTS) * (4 if entry.type == TYPE_F32 else 8)
            else:
                entry.count = min(ms_load_acquire_u32(&chunk.count), entry.capacity)
                payload = <uint64_t>entry.count * (1 + entry.n_columns) * 8
            if payload > CLASS_BYTES[MS_LINK_CLASS(word)] - sizeof(ms_chunk) or (entry.kind == KIND_STAMPED and seq & 1):
                continue
            ms_copy_out(out + sizeof(ms_chunk), <const unsigned char*>chunk + sizeof(ms_chunk), payload)
            ms_fence_acquire()  # SYNC POINT (acquire) reuse: unlinked before the memory is written again
            same = ms_load_relaxed_u64(at) == word and ms_load_relaxed_u64(&s.table) == table
            same = same and ms_load_relaxed_u32(&s.generation) == self.generation
            if same and (entry.kind == KIND_GRID or ms_load_relaxed_u32(&chunk.seq) == seq):
                if entry.kind == KIND_STAMPED:
                    describe_rows(entry, <const int64_t*>(out + sizeof(ms_chunk)))
                used[0] += self.finish(entry, out, payload, MS_LINK_CLASS(word))
                return COPIED
        return BUSY

    cdef unsigned age_of(self, const ms_chunk* entry, int64_t last) noexcept nogil:
        """By the end of the chunk, as retention counts it: of a grid chunk the end of its last slot, used or not."""
        cdef int64_t end = last
        if entry.kind == KIND_GRID:
            end = entry.anchor_s + (entry.n + 1) * MS_CHUNK_SLOTS * <int64_t>entry.step_s
        if end >= self.now_s:
            return 0
        return <unsigned>min((self.now_s - end) // self.age_s, <int64_t>AGES - 1)

    cdef uint64_t finish(self, ms_chunk* entry, unsigned char* out, uint64_t payload, unsigned size_class) noexcept nogil:
        """Trim, pad and count what has been copied; returns the bytes of the whole entry."""
        cdef unsigned char* values = out + sizeof(ms_chunk)
        cdef uint64_t padded
        cdef int64_t first, last
        if entry.kind == KIND_GRID:
            payload = trimmed(values, payload, entry.type)
            entry.count = <uint32_t>(payload // (4 if entry.type == TYPE_F32 else 8))
            first = entry.anchor_s + entry.step_s // 2 + entry.n * MS_CHUNK_SLOTS * <int64_t>entry.step_s
            last = first + (<int64_t>entry.count - 1) * entry.step_s
        else:
            first, last = entry.anchor_s // 1000, entry.t_max_ms // 1000
        if entry.count == 0:
            return 0
        padded = (payload + 7) & ~<uint64_t>7
        memset(values + payload, 0, padded - payload)
        entry.size_class = 0
        entry.capacity = entry.seq = 0
        entry.reserved = payload
        self.n_chunks += 1
        self.n_slots += entry.count
        self.t_min = min(self.t_min, first)
        self.t_max = max(self.t_max, last)
        self.ages[self.age_of(entry, last)] += CLASS_BYTES[size_class]
        return sizeof(ms_chunk) + padded


cdef void describe_rows(ms_chunk* entry, const int64_t* rows) noexcept nogil:
    """Range and order of the rows that were copied: what the header said is of another moment than their count, and a
    row beyond the range that it names would be taken for a missing one, and stored again, when the log is replayed."""
    cdef uint64_t width = 1 + entry.n_columns
    cdef int64_t stamp, oldest = INT64_MAX, newest = INT64_MIN
    cdef uint32_t i
    entry.flags = 0
    for i in range(entry.count):
        stamp = rows[i * width]
        if i and stamp <= newest:
            entry.flags = CHUNK_UNORDERED
        oldest, newest = min(oldest, stamp), max(newest, stamp)
    entry.anchor_s, entry.t_max_ms = oldest, newest


cdef uint64_t trimmed(const unsigned char* values, uint64_t n_bytes, uint8_t type) noexcept nogil:
    """Bytes up to the last slot that holds a sample."""
    cdef uint64_t n
    cdef float single
    cdef double wide
    if type == TYPE_F32:
        n = n_bytes // 4
        while n:
            single = (<const float*>values)[n - 1]
            if single == single:
                break
            n -= 1
        return 4 * n
    n = n_bytes // 8
    while n:
        wide = (<const double*>values)[n - 1]
        if (<const uint64_t*>values)[n - 1] != <uint64_t>-1 if type == TYPE_U64 else wide == wide:
            break
        n -= 1
    return 8 * n
