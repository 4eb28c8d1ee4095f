"""Chunks of the samples segment: extents, links, promotion, freeing. One process writes, any number read.

    SERIES[slot].table == 0:  link0 ----------------------> chunk n          (the only one)
    SERIES[slot].table != 0:  table of 2^k words, word n & (2^k - 1) ------> chunk n, n + 1, ...

Memory is handed out in extents of 256 KiB, each of one size class while it holds a chunk; an extent whose last chunk
is given back may get any class. All bookkeeping of free memory is private to the writer and is rebuilt from the
links, which are the only truth: whatever no link reaches is free. So a writer killed between any two stores leaks
nothing and damages nothing.

What a reader does, and why every change below is safe for it (`docs/format/wal-samples.md` draws the orders):

    1. load the table word (acquire), the link word (acquire); 0: no such chunk, if the table word is still the same
    2. bounds, header (series, generation, n), copy the values
    3. fence (acquire), load link and table word again: both unchanged, or start again

A chunk's bytes are complete before a link shows them, and are overwritten only after the link has gone.
"""

from collections import namedtuple

from libc.stdint cimport INT64_MAX, INT64_MIN
from libc.stdlib cimport calloc, free

from mstore.kernels._backing cimport ms_back_or_nothing
from mstore.kernels._copies cimport ms_copy_in, ms_fill_in
from mstore.kernels._eras cimport ERAS_MAX
from mstore.kernels._rows cimport drop_rows, narrow_range
cdef extern from *:
    """
    #define ms_prefetch_link(p) __builtin_prefetch((p), 0, 3)
    """
    void ms_prefetch_link(const void *p) noexcept nogil

cdef extern from "<errno.h>" nogil:
    int ENOMEM

# Memory of one size class: bytes of a chunk, extents held, chunks in use and free in these extents.
ClassStats = namedtuple("ClassStats", ["chunk_bytes", "extents", "chunks", "free_chunks"])

cdef enum:
    COMMITTED_AT = 128       # ms_segment_header.committed_bytes
    COMMIT_EXTENTS = 8       # asked of the system at once, at most: a 32nd of what there is
    AHEAD = 16               # series records, and below chunk headers, fetched ahead when all links are walked
    NEAR = 8

cdef int64_t I64_MIN = INT64_MIN
cdef uint64_t[4] FILL = [0, 0x7fc000007fc00000u, 0x7ff8000000000000u, 0xffffffffffffffffu]  # by TYPE_*: missing values

for _i, _size in enumerate((128, 512, 2112, 4160, 64, 256, 1024, 4096, 16384, 65536, 262144)):
    SIZES[_i] = _size


cdef unsigned stamped_class(int64_t n, unsigned n_columns) noexcept nogil:
    """Chunks of a stamped series grow: the first holds one row at least, every next is a class larger up to 4 KiB."""
    cdef uint64_t row = (1 + n_columns) * 8
    cdef unsigned smallest = 0
    while smallest < CLASS_FULL_8 and SIZES[smallest] - CHUNK_HEADER_BYTES < row:
        smallest += 1
    return CLASS_FULL_8 if n >= CLASS_FULL_8 - smallest else smallest + <unsigned>n


cdef class Chunks:
    """The allocator and the links. Not thread-safe: one instance, in the persister.

    directory   segment with the series table (writable)
    samples     segment of chunks (writable)
    fd          descriptor of the samples segment to commit more of it; -1: all of it is committed
    cap_bytes   of the samples segment to use at most; 0 = all that is reserved
    fresh       nothing is linked yet; False: adopt what is there (`rebuild_free_lists`)
    """

    def __cinit__(self, Segment directory, Segment samples, int fd, uint64_t cap_bytes, bint fresh):
        if not (directory.writable and samples.writable):
            raise ValueError("the writer of samples needs writable segments")
        if samples.length < MS_SAMPLES_DATA + MS_EXTENT_BYTES:
            raise ValueError(
                f"a samples segment has at least {MS_SAMPLES_DATA + MS_EXTENT_BYTES} bytes, not {samples.length}"
            )
        cdef uint64_t committed
        self.directory, self.samples = directory, samples
        self.base = samples.base
        self.words = <ms_directory*>(directory.base + MS_PAGE)
        self.table = <ms_series*>(directory.base + self.words.region[MS_REGION_SERIES].offset)
        self.n_series = ms_load_acquire_u64(&self.words.n_series)
        self.fd = fd
        self.max_extents = <uint32_t>((samples.length - MS_SAMPLES_DATA) / MS_EXTENT_BYTES)
        self.extents = <extent*>calloc(self.max_extents, sizeof(extent))
        if self.extents == NULL:
            raise MemoryError
        self.set_cap(cap_bytes)
        committed = samples.length if fd < 0 else ms_load_acquire_u64(self.base + COMMITTED_AT)
        if committed > samples.length:
            raise ValueError(f"{committed} bytes committed of a segment of {samples.length}")
        self.n_extents = <uint32_t>((committed - MS_SAMPLES_DATA) / MS_EXTENT_BYTES) if committed > MS_SAMPLES_DATA else 0
        self.stamp = 0
        self.earliest_s, self.latest_s, self.least_step_s, self.most_stamped = INT64_MAX, I64_MIN, 0xffffffff, 0
        if fresh:
            self.forget()
        else:
            self.rebuild_free_lists()

    def __dealloc__(self):
        free(self.extents)

    # ---- extents ----

    def set_cap(self, uint64_t cap_bytes):
        """Change the cap; memory in use beyond it stays until it is freed."""
        cdef uint64_t allowed = (cap_bytes - MS_SAMPLES_DATA) / MS_EXTENT_BYTES if cap_bytes > MS_SAMPLES_DATA else 0
        self.cap_extents = self.max_extents
        if cap_bytes and allowed < self.max_extents:
            self.cap_extents = <uint32_t>allowed

    cdef void list_push(self, uint32_t* head, uint32_t i) noexcept nogil:
        self.extents[i].prev = 0
        self.extents[i].next = head[0]
        if head[0]:
            self.extents[head[0] - 1].prev = i + 1
        head[0] = i + 1

    cdef void list_remove(self, uint32_t* head, uint32_t i) noexcept nogil:
        cdef extent* e = &self.extents[i]
        if e.prev:
            self.extents[e.prev - 1].next = e.next
        else:
            head[0] = e.next
        if e.next:
            self.extents[e.next - 1].prev = e.prev
        e.prev = e.next = 0

    cdef int commit_extent(self) noexcept nogil:
        """Back more of the segment with memory; 0 or an errno. A full /dev/shm is met here and nowhere else."""
        cdef uint32_t i, ask = self.max_extents - self.n_extents
        cdef uint64_t start = MS_SAMPLES_DATA + <uint64_t>self.n_extents * MS_EXTENT_BYTES
        cdef int failed
        if ask > self.cap_extents - min(self.cap_extents, self.n_extents):
            ask = self.cap_extents - min(self.cap_extents, self.n_extents)
        if ask > min(COMMIT_EXTENTS, 1 + self.n_extents / 32):
            ask = min(COMMIT_EXTENTS, 1 + self.n_extents / 32)
        if ask == 0:
            return ENOMEM
        while True:
            failed = ms_back_or_nothing(self.fd, self.base, MS_SAMPLES_DATA, start, <uint64_t>ask * MS_EXTENT_BYTES)
            if failed == 0:
                break
            if ask == 1:
                self.last_errno = failed
                return failed
            ask = 1
        for i in range(ask):  # the lowest ends up first in the list
            self.extents[self.n_extents + ask - 1 - i].size_class = CLASSES
            self.list_push(&self.free_extents, self.n_extents + ask - 1 - i)
        self.n_extents += ask
        # SYNC POINT (release) committed: the memory is there before a link can lead to it
        ms_store_release_u64(self.base + COMMITTED_AT, start + <uint64_t>ask * MS_EXTENT_BYTES)
        return 0

    cdef uint64_t alloc(self, unsigned size_class) noexcept nogil:
        """Offset of a chunk of that class, its bytes undefined; 0 = no room."""
        cdef uint32_t i, index
        cdef extent* e
        cdef uint64_t start
        if self.partial[size_class] == 0:
            if self.used_extents >= self.cap_extents:
                return 0
            if self.free_extents == 0 and self.commit_extent() != 0:
                return 0
            i = self.free_extents - 1
            self.list_remove(&self.free_extents, i)
            e = &self.extents[i]
            e.used = e.bump = e.free_head = 0
            e.size_class = size_class
            self.used_extents += 1
            self.class_extents[size_class] += 1
            self.list_push(&self.partial[size_class], i)
        i = self.partial[size_class] - 1
        e = &self.extents[i]
        start = MS_SAMPLES_DATA + <uint64_t>i * MS_EXTENT_BYTES
        if e.free_head:
            index = e.free_head - 1
            e.free_head = (<ms_chunk*>(self.base + start + <uint64_t>index * SIZES[size_class])).series
        else:
            index = e.bump
            e.bump += 1
        e.used += 1
        self.n_chunks[size_class] += 1
        if e.used == MS_EXTENT_BYTES / SIZES[size_class]:
            self.list_remove(&self.partial[size_class], i)
        return start + <uint64_t>index * SIZES[size_class]

    cdef void give_back(self, uint64_t offset, unsigned size_class) noexcept nogil:
        """A chunk that no link reaches any more."""
        cdef uint32_t i = <uint32_t>((offset - MS_SAMPLES_DATA) / MS_EXTENT_BYTES)
        cdef uint32_t index = <uint32_t>(((offset - MS_SAMPLES_DATA) % MS_EXTENT_BYTES) / SIZES[size_class])
        cdef extent* e = &self.extents[i]
        cdef ms_chunk* chunk = <ms_chunk*>(self.base + offset)
        ms_fence_release()  # SYNC POINT (release) reuse: the link has gone before the chunk's bytes change
        ms_store_relaxed_u32(&chunk.generation, 0)
        ms_store_relaxed_u32(&chunk.series, e.free_head)
        e.free_head = index + 1
        if e.used == MS_EXTENT_BYTES / SIZES[size_class]:
            self.list_push(&self.partial[size_class], i)
        e.used -= 1
        self.n_chunks[size_class] -= 1
        if e.used == 0:
            self.list_remove(&self.partial[size_class], i)
            e.size_class = CLASSES
            self.used_extents -= 1
            self.class_extents[size_class] -= 1
            self.list_push(&self.free_extents, i)

    cdef uint64_t free_of_class(self, unsigned size_class) noexcept nogil:
        return self.class_extents[size_class] * (MS_EXTENT_BYTES / SIZES[size_class]) - self.n_chunks[size_class]

    # ---- series and links ----

    cdef ms_series* live(self, uint64_t slot) noexcept nogil:
        if slot >= self.n_series:
            self.n_series = ms_load_acquire_u64(&self.words.n_series)
            if slot >= self.n_series:
                return NULL
        return self.table + slot if self.table[slot].flags & SERIES_LIVE else NULL

    cdef ms_series* resolve(self, uint32_t* slot, uint32_t generation, int64_t t, int kind) noexcept nogil:
        """The series (era) that a sample at t belongs to, its slot in `slot`; NULL: the reference is stale."""
        cdef ms_series* s = self.live(slot[0])
        cdef ms_series* other
        cdef int hops = 0
        if s == NULL or s.generation != generation or s.kind != kind or not -TIME_MAX < t < TIME_MAX:
            return NULL
        while s.flags & SERIES_ENDED and s.next_slot and hops < ERAS_MAX:
            other = self.live(s.next_slot - 1)
            if other == NULL or other.generation != s.next_generation or t < other.era_start:
                break
            slot[0] = s.next_slot - 1
            s = other
            hops += 1
        while t < s.era_start and s.prev_slot and hops < ERAS_MAX:
            other = self.live(s.prev_slot - 1)
            if other == NULL or other.generation != s.prev_generation:
                break
            slot[0] = s.prev_slot - 1
            s = other
            hops += 1
        return s if s.kind == kind and (kind == KIND_STAMPED or s.step_s) else NULL

    cdef uint64_t make_link(self, uint64_t offset, unsigned size_class) noexcept nogil:
        self.stamp = (self.stamp + 1) & 0xffffff
        if self.stamp == 0:
            self.stamp = 1
        return MS_LINK(offset, size_class, self.stamp)

    cdef int make_place(self, uint32_t slot, ms_series* s, int64_t n) noexcept nogil:
        """Make sure chunk n has a link word of its own; grows the table by copying it."""
        cdef int64_t first, last
        cdef uint64_t old = s.table, i, offset, word
        cdef unsigned log2 = TABLE_LOG2_MIN
        cdef uint64_t* words
        cdef uint64_t* was = &s.link0
        if s.n_chunks == 0:
            return DONE
        if n < s.first_n and <uint64_t>(s.last_n - n) >= (<uint64_t>1 << TABLE_LOG2_MAX):
            return NO_PLACE
        while s.n_chunks and n > s.last_n and <uint64_t>(n - s.first_n) >= (<uint64_t>1 << TABLE_LOG2_MAX):
            self.unlink(s, s.first_n)
            self.n_out_of_span += 1
        if s.n_chunks == 0:
            return DONE
        first, last = min(s.first_n, n), max(s.last_n, n)
        old = s.table  # the last unlink may have given the table back
        if <uint64_t>(last - first) < (1 if old == 0 else <uint64_t>1 << (old & 255)):
            return DONE
        while <uint64_t>(last - first) >= (<uint64_t>1 << log2):
            log2 += TABLE_LOG2_STEP
        offset = self.alloc(table_class(log2))
        if offset == 0:
            return NO_ROOM
        words = <uint64_t*>(self.base + offset)
        for i in range(<uint64_t>1 << log2):
            ms_store_relaxed_u64(words + i, 0)
        if old:
            was = <uint64_t*>(self.base + (old >> 8))
        for i in range(<uint64_t>1 << (old & 255)):
            word = was[i]
            if word:
                first = (<ms_chunk*>(self.base + MS_LINK_OFFSET(word))).n
                ms_store_relaxed_u64(words + (<uint64_t>first & ((<uint64_t>1 << log2) - 1)), word)
        ms_store_release_u64(&s.table, offset << 8 | log2)  # SYNC POINT (release) table: links before the table word
        ms_fence_release()
        # The old words go too, so that a reader still holding them sees the change at its second look.
        for i in range(<uint64_t>1 << (old & 255)):
            ms_store_relaxed_u64(was + i, 0)
        if old:
            self.give_back(old >> 8, table_class(old & 255))
        return DONE

    cdef ms_chunk* new_chunk(self, uint32_t slot, ms_series* s, int64_t n, unsigned size_class, int* why) noexcept nogil:
        """Link an empty chunk n (all values missing, no rows). NULL and `why` when it cannot be had."""
        cdef uint64_t offset, link
        cdef ms_chunk* chunk
        cdef ms_chunk fresh
        why[0] = self.make_place(slot, s, n)
        if why[0] != DONE:
            return NULL
        offset = self.alloc(size_class)
        if offset == 0:
            why[0] = NO_ROOM
            return NULL
        chunk = <ms_chunk*>(self.base + offset)
        fresh.series, fresh.generation, fresh.n = slot, s.generation, n
        fresh.anchor_s, fresh.step_s = s.anchor_s, s.step_s
        fresh.kind, fresh.type, fresh.size_class, fresh.n_columns = s.kind, s.type, <uint8_t>size_class, s.n_columns
        fresh.seq = fresh.flags = 0
        fresh.t_max_ms = I64_MIN
        fresh.reserved = 0
        if s.kind == KIND_GRID:
            fresh.capacity = min((SIZES[size_class] - CHUNK_HEADER_BYTES) / (4 if s.type == TYPE_F32 else 8), MS_CHUNK_SLOTS)
            fresh.count = fresh.capacity
            ms_fill_in(chunk + 1, FILL[s.type & 3], (SIZES[size_class] - CHUNK_HEADER_BYTES) / 8)
        else:
            fresh.capacity = (SIZES[size_class] - CHUNK_HEADER_BYTES) / ((1 + s.n_columns) * 8)
            fresh.count = 0
        ms_copy_in(chunk, &fresh, sizeof(ms_chunk) / 8)
        if s.n_chunks == 0:
            ms_store_relaxed_u64(&s.first_n, <uint64_t>n)
            ms_store_relaxed_u64(&s.last_n, <uint64_t>n)
        elif n < s.first_n:
            ms_store_relaxed_u64(&s.first_n, <uint64_t>n)
        elif n > s.last_n:
            ms_store_relaxed_u64(&s.last_n, <uint64_t>n)
        self.note_span(s)
        ms_store_relaxed_u32(&s.n_chunks, s.n_chunks + 1)
        link = self.make_link(offset, size_class)
        ms_store_release_u64(link_place(self.base, s, n), link)  # SYNC POINT (release) link: chunk before its link
        return chunk

    cdef void note_span(self, ms_series* s) noexcept nogil:
        """Count the chunks of a series, first_n to last_n, into what bounds all link tables."""
        cdef int64_t span_s = <int64_t>s.step_s * MS_CHUNK_SLOTS
        if s.kind == KIND_STAMPED:
            self.most_stamped = max(self.most_stamped, s.last_n - s.first_n + 1)
            return
        self.earliest_s = min(self.earliest_s, s.anchor_s + s.first_n * span_s)
        self.latest_s = max(self.latest_s, s.anchor_s + (s.last_n + 1) * span_s)
        self.least_step_s = min(self.least_step_s, s.step_s)

    cdef ms_chunk* promote(self, ms_series* s, int64_t n, unsigned size_class) noexcept nogil:
        """Move chunk n of a grid series into a larger class: copy, then one link store. NULL = no room."""
        cdef uint64_t* place = link_place(self.base, s, n)
        cdef uint64_t word = place[0], offset = self.alloc(size_class), held
        cdef ms_chunk* old = <ms_chunk*>(self.base + MS_LINK_OFFSET(word))
        cdef ms_chunk* chunk
        cdef ms_chunk larger
        if offset == 0:
            return NULL
        chunk = <ms_chunk*>(self.base + offset)
        held = SIZES[MS_LINK_CLASS(word)]
        larger = old[0]
        larger.size_class = <uint8_t>size_class
        larger.capacity = min((SIZES[size_class] - CHUNK_HEADER_BYTES) / (4 if s.type == TYPE_F32 else 8), MS_CHUNK_SLOTS)
        larger.count = larger.capacity
        ms_copy_in(chunk, &larger, sizeof(ms_chunk) / 8)
        ms_copy_in(chunk + 1, old + 1, (held - CHUNK_HEADER_BYTES) / 8)
        ms_fill_in(<char*>chunk + held, FILL[s.type & 3], (SIZES[size_class] - held) / 8)
        ms_store_release_u64(place, self.make_link(offset, size_class))  # SYNC POINT (release) link
        self.give_back(MS_LINK_OFFSET(word), MS_LINK_CLASS(word))
        if s.cur_n == n:
            s.cur_link = place[0]
        return chunk

    cdef int unlink(self, ms_series* s, int64_t n) noexcept nogil:
        """Free chunk n; 1 if there was one. The last chunk of a series takes its link table with it."""
        cdef uint64_t* place = link_place(self.base, s, n)
        cdef uint64_t word = place[0], old
        if word == 0 or (<ms_chunk*>(self.base + MS_LINK_OFFSET(word))).n != n:
            return 0
        ms_store_relaxed_u64(place, 0)
        self.give_back(MS_LINK_OFFSET(word), MS_LINK_CLASS(word))
        if s.cur_link == word:
            s.cur_link = 0
            s.n_seen = s.n_edge = 0
        ms_store_relaxed_u32(&s.n_chunks, s.n_chunks - 1)
        if s.n_chunks == 0:
            ms_store_relaxed_u64(&s.first_n, 0)
            ms_store_relaxed_u64(&s.last_n, <uint64_t>-1)
            old = s.table
            if old:
                ms_store_release_u64(&s.table, 0)
                self.give_back(old >> 8, table_class(old & 255))
            return 1
        if n == s.first_n:
            n += 1
            while find_chunk(self.base, s, n) == NULL:
                n += 1
            ms_store_relaxed_u64(&s.first_n, <uint64_t>n)
        elif n == s.last_n:
            n -= 1
            while find_chunk(self.base, s, n) == NULL:
                n -= 1
            ms_store_relaxed_u64(&s.last_n, <uint64_t>n)
        return 1

    cdef uint64_t drop_range(self, uint32_t slot, ms_series* s, int64_t first, int64_t last) noexcept nogil:
        """Free chunks first..last of a grid series, or the rows with stamps first..last (ms) of a stamped one.

        Stamped rows go by stamp and not by chunk, because a replay may have divided them into other chunks.
        Returns the number of chunks freed.
        """
        cdef uint64_t freed = 0
        cdef int64_t n, stop
        cdef ms_chunk* chunk
        if s.n_chunks == 0:
            return 0
        n, stop = s.first_n, s.last_n
        if s.kind == KIND_GRID:
            n, stop = max(n, first), min(stop, last)
        while n <= stop:
            chunk = find_chunk(self.base, s, n)
            if chunk != NULL:
                if s.kind == KIND_GRID or chunk.count == 0 or (chunk.anchor_s >= first and chunk.t_max_ms <= last):
                    freed += self.unlink(s, n)
                elif chunk.anchor_s <= last and chunk.t_max_ms >= first:
                    drop_rows(chunk, first, last, False)
                    if chunk.count == 0:
                        freed += self.unlink(s, n)
            n += 1
        return freed

    # ---- rebuilding the private part ----

    def forget(self):
        """All committed memory is free."""
        cdef uint32_t i
        for i in range(CLASSES):
            self.partial[i] = 0
            self.n_chunks[i] = self.class_extents[i] = 0
        self.free_extents = self.used_extents = 0
        for i in range(self.n_extents):
            self.extents[self.n_extents - 1 - i].size_class = CLASSES
            self.list_push(&self.free_extents, self.n_extents - 1 - i)

    def rebuild_free_lists(self):
        """Adopt the segment as a dead writer left it: everything is derived again from the links.

        Which chunk a link leads to follows from its place and from first_n, which no chunk lies before: so a store of any
        size is adopted without a look at each of its chunks, and each page that one lies in. The newest chunk of a series
        is looked at, because the writer goes on in it, and stamped ones, because rows may be half written.

        raises ValueError naming the series if a link leads where none of its chunks can be; the segment is then damaged
        and must be restored from snapshots and log.
        """
        cdef uint64_t slot, i
        cdef uint32_t e
        cdef ms_series* s
        cdef char* taken = <char*>calloc(self.n_extents or 1, MS_EXTENT_BYTES / 64 / 8)
        cdef uint32_t newest = 0
        if taken == NULL:
            raise MemoryError
        try:
            self.forget()
            for i in range(self.n_extents):
                self.extents[i].used = self.extents[i].bump = self.extents[i].free_head = 0
            self.n_series = ms_load_acquire_u64(&self.words.n_series)
            for slot in range(self.n_series):
                s = self.table + slot
                ms_prefetch_link(s + AHEAD)
                if slot + NEAR < self.n_series:
                    ms_prefetch_link(self.base + min(s[NEAR].table >> 8, <uint64_t>self.samples.length))
                    ms_prefetch_link(self.base + min(MS_LINK_OFFSET(s[NEAR].cur_link), <uint64_t>self.samples.length))
                if not s.flags & SERIES_LIVE:
                    s.table = s.link0 = s.cur_link = 0
                    s.n_chunks = 0
                    continue
                if s.table:
                    if not is_table_log2(s.table & 255):
                        raise ValueError(f"series {slot}: link table of 2^{s.table & 255} words")
                    self._take(taken, slot, s.table >> 8, table_class(s.table & 255))
                    ms_store_relaxed_u64(&s.link0, 0)
                self._take_links(taken, slot, s, &newest)
            self.stamp = newest
            for e in range(self.n_extents):
                self.adopt_extent(taken + <uint64_t>e * (MS_EXTENT_BYTES / 64 / 8), e)
        finally:
            free(taken)

    cdef int _take_links(self, char* taken, uint64_t slot, ms_series* s, uint32_t* newest) except -1:
        """The chunks that the link words of a series lead to, and with them what its record says of them."""
        cdef uint64_t mask = (<uint64_t>1 << (s.table & 255)) - 1, i, word, last_word = 0
        cdef uint64_t* words = link_place(self.base, s, 0)
        cdef int64_t n, first = 0, last = -1, last_t = s.last_t
        cdef uint32_t found = 0
        cdef ms_chunk* chunk
        for i in range(mask + 1):
            word = words[i]
            if word == 0:
                continue
            n = s.first_n + <int64_t>((i - <uint64_t>s.first_n) & mask)
            if n > s.last_n or MS_LINK_CLASS(word) > CLASS_FULL_8:
                raise ValueError(f"series {slot}: link {i} of {mask + 1} leads to none of the chunks {s.first_n} to {s.last_n}")
            self._take(taken, slot, MS_LINK_OFFSET(word), MS_LINK_CLASS(word))
            newest[0] = max(newest[0], <uint32_t>(word >> 40))
            if s.kind == KIND_STAMPED:
                chunk = self._own(slot, s, n, word)
                if chunk.seq & 1:
                    drop_rows(chunk, 1, 0, True)
                if n == s.last_n:  # where rows are appended
                    narrow_range(chunk)
                last_t = max(last_t, chunk.t_max_ms)  # a row may have been published just before the kill
            if found == 0 or n < first:
                first = n
            if found == 0 or n > last:
                last, last_word = n, word
            found += 1
        if found:
            self._own(slot, s, last, last_word)
        # Readers are at work meanwhile: for them first_n .. last_n never leave out a chunk.
        ms_store_relaxed_u64(&s.first_n, <uint64_t>first)
        ms_store_relaxed_u64(&s.last_n, <uint64_t>last)
        ms_store_relaxed_u64(&s.last_t, <uint64_t>last_t)
        if found:
            self.note_span(s)
        ms_store_relaxed_u32(&s.n_chunks, found)
        s.cur_n, s.cur_link, s.n_seen, s.n_edge = (last if found else 0), last_word, 0, 0
        return 0

    cdef ms_chunk* _own(self, uint64_t slot, ms_series* s, int64_t n, uint64_t word) except NULL:
        """The chunk behind a link that was taken; raises ValueError if it is not chunk n of this series."""
        cdef ms_chunk* chunk = <ms_chunk*>(self.base + MS_LINK_OFFSET(word))
        if (chunk.series != slot or chunk.generation != s.generation or chunk.n != n
                or chunk.size_class != MS_LINK_CLASS(word)):
            raise ValueError(
                f"series {slot}: the link of chunk {n} leads to chunk {chunk.n} of series {chunk.series}"
            )
        return chunk

    cdef int _take(self, char* taken, uint64_t slot, uint64_t offset, unsigned size_class) except -1:
        """Mark memory as taken; raises ValueError where no chunk of that class can be, or is already."""
        cdef uint64_t i = (offset - MS_SAMPLES_DATA) / MS_EXTENT_BYTES
        cdef uint64_t inside = (offset - MS_SAMPLES_DATA) % MS_EXTENT_BYTES
        cdef uint32_t index
        cdef extent* e
        if (size_class >= CLASSES or offset < MS_SAMPLES_DATA or i >= self.n_extents or inside % SIZES[size_class]
                or inside + SIZES[size_class] > MS_EXTENT_BYTES):
            raise ValueError(f"series {slot}: link to offset {offset} of class {size_class}, outside the committed memory")
        index = <uint32_t>(inside / SIZES[size_class])
        e = &self.extents[i]
        if e.used and e.size_class != size_class:
            raise ValueError(f"series {slot}: extent {i} holds chunks of classes {e.size_class} and {size_class}")
        if taken[i * (MS_EXTENT_BYTES / 64 / 8) + index / 8] & (1 << (index & 7)):
            raise ValueError(f"series {slot}: the chunk at offset {offset} is linked twice")
        taken[i * (MS_EXTENT_BYTES / 64 / 8) + index / 8] |= <char>(1 << (index & 7))
        if e.used == 0:
            self.list_remove(&self.free_extents, <uint32_t>i)
            self.used_extents += 1
            self.class_extents[size_class] += 1
        e.size_class = size_class
        e.used += 1
        e.bump = max(e.bump, index + 1)
        self.n_chunks[size_class] += 1
        return 0

    cdef void adopt_extent(self, char* taken, uint32_t i) noexcept nogil:
        cdef extent* e = &self.extents[i]
        cdef uint32_t index
        cdef ms_chunk* chunk
        if e.used == 0:
            return
        for index in range(e.bump):
            if not taken[index / 8] & (1 << (index & 7)):
                chunk = <ms_chunk*>(
                    self.base + MS_SAMPLES_DATA + <uint64_t>i * MS_EXTENT_BYTES + <uint64_t>index * SIZES[e.size_class]
                )
                ms_store_relaxed_u32(&chunk.generation, 0)
                ms_store_relaxed_u32(&chunk.series, e.free_head)
                e.free_head = index + 1
        if e.used < MS_EXTENT_BYTES / SIZES[e.size_class]:
            self.list_push(&self.partial[e.size_class], i)

    # ---- what the rest of the persister asks ----

    def free_bytes(self) -> int:
        """Bytes of extents that may still be taken under the cap (a full /dev/shm may refuse them all the same)."""
        if self.cap_extents <= self.used_extents:
            return 0
        return <uint64_t>(self.cap_extents - self.used_extents) * MS_EXTENT_BYTES

    def used_bytes(self) -> int:
        """Bytes of extents that hold chunks."""
        return <uint64_t>self.used_extents * MS_EXTENT_BYTES

    @property
    def committed_bytes(self) -> int:
        return MS_SAMPLES_DATA + <uint64_t>self.n_extents * MS_EXTENT_BYTES

    @property
    def out_of_span(self) -> int:
        """Chunks dropped because their series would have spanned more than 2^15 chunks."""
        return self.n_out_of_span

    def view(self):
        """The samples segment as a read-only memoryview."""
        return memoryview(self.samples._owner).toreadonly().cast("B")

    def stats(self):
        """dict: chunk class 0..10 -> ClassStats."""
        return {
            c: ClassStats(SIZES[c], self.class_extents[c], self.n_chunks[c], self.free_of_class(c)) for c in range(CLASSES)
        }

    def free_range(self, uint32_t slot, uint32_t generation, int64_t first, int64_t last) -> int:
        """Free chunks first..last (grid) or rows stamped first..last ms; the number of chunks freed, -1 = another generation."""
        cdef ms_series* s = self.live(slot)
        if s == NULL or s.generation != generation:
            return -1
        return self.drop_range(slot, s, first, last)

    def free_series(self, uint32_t slot) -> int:
        """Free every chunk and the link table of a slot, before its generation changes."""
        cdef ms_series* s = self.live(slot)
        cdef int64_t n, stop
        cdef uint64_t freed = 0
        if s == NULL or s.n_chunks == 0:
            return 0
        n, stop = s.first_n, s.last_n
        while n <= stop:
            freed += self.unlink(s, n)
            n += 1
        return freed

    def chunks_of(self, uint32_t slot):
        """[(n, offset, size class, link word)] of the linked chunks of a live series, by n."""
        cdef ms_series* s = self.live(slot)
        cdef int64_t n
        cdef uint64_t word
        found = []
        if s == NULL or s.n_chunks == 0:
            return found
        for n in range(s.first_n, s.last_n + 1):
            if find_chunk(self.base, s, n) != NULL:
                word = link_place(self.base, s, n)[0]
                found.append((n, MS_LINK_OFFSET(word), MS_LINK_CLASS(word), word))
        return found
