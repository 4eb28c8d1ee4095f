"""The samples of a batch of lines, those that wait for a reference among them, and their way into the ring.

    resolve    the answers for the unknown keys -> the waiting samples get their reference and value
    encode     samples -> ROW, SCATTER and STAMPED records in the ring, in the order of the lines

_lines.LineScanner fills a batch; the twin is reference_lines.ReferenceBatch.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from mstore.kernels._layout cimport (
    KIND_STAMPED, MS_IGNORE_SLOT, MS_REC_ROW, MS_REC_SCATTER, MS_REC_STAMPED, TYPE_F32, ms_run,
)
from mstore.kernels._lines_text cimport LINE_FIELDS_MAX, beyond_reach, convert, ignore_reason, ms_load8, number_class
from mstore.kernels._reasons cimport N_REASONS, TOO_LATE
from mstore.kernels._ring cimport RingWriter

import numpy as np

from mstore.limits import BATCH_LINES_MAX

cdef enum:
    RUN_VALUES_MAX = 8192  # limits.RUN_VALUES_MAX
    ROW_MIN = 4            # shorter runs of consecutive slots go into a SCATTER


cdef int append(bytes_t* to, const void* data, size_t n) noexcept nogil:
    cdef size_t size
    cdef uint8_t* at
    if to.size - to.used < n:
        size = 2 * to.size + n + 256
        at = <uint8_t*>realloc(to.at, size)
        if at == NULL:
            return -1
        to.at = at
        to.size = size
    memcpy(to.at + to.used, data, n)
    to.used += n
    return 0


cdef class LineBatch:
    """The samples of up to `max_lines` lines, with those that wait for a reference at their place in the order.

    n_lines    lines consumed, blank lines and comments not counted
    n_samples  samples to be encoded; final once n_unknown is 0
    n_unknown  distinct keys waiting for references
    skipping   the scan ended inside an over-long line (already counted), whose rest is skipped by the next scan. It
               belongs to the connection and outlives clear(): whoever lends a batch to another connection carries it over.
    """

    def __cinit__(self, max_lines=BATCH_LINES_MAX):
        if not 1 <= max_lines <= 32768:
            raise ValueError(f"max_lines must be 1 to 32768, not {max_lines}")
        self.max_lines = max_lines
        self.table_mask = 4096 - 1
        while self.table_mask < 2 * (self.max_lines + LINE_FIELDS_MAX):
            self.table_mask = 2 * self.table_mask + 1
        self.samples = <sample_t*>malloc((self.max_lines + LINE_FIELDS_MAX) * sizeof(sample_t))
        self.table = <uint32_t*>calloc(self.table_mask + 1, 4)
        if self.samples == NULL or self.table == NULL:
            raise MemoryError(f"a batch of {max_lines} lines")

    def __dealloc__(self):
        free(self.samples)
        free(self.table)
        free(self.numbers.at)
        free(self.keys.at)
        free(self.offsets.at)
        free(self.times.at)
        free(self.hashes.at)

    @property
    def n_samples(self):
        return self.n_entries - self.n_refused

    def counts(self):
        """int64[N_REASONS], a copy: [0] lines written, [reason] lines refused or ignored; final once n_unknown is 0."""
        return np.frombuffer((<char*>self.count)[:sizeof(self.count)], dtype=np.int64).copy()

    def unknown(self):
        """The waiting keys: (their bytes joined, int64[n + 1] offsets, int64[n] first time in seconds), all as bytes."""
        cdef int64_t end = <int64_t>self.keys.used
        return (
            self.keys.at[:self.keys.used] if self.keys.used else b"",
            (self.offsets.at[:self.offsets.used] if self.offsets.used else b"") + (<char*>&end)[:8],
            self.times.at[:self.times.used] if self.times.used else b"",
        )

    def resolve(self, text, bytes refs not None, bytes types not None, bytes kinds not None, bytes steps not None):
        """Give the waiting samples what the persister answered for unknown(), in that order.

        text   not needed (the batch keeps the numbers of waiting lines); may be None
        refs   uint64[n]: references or ignore words
        types  uint8[n], kinds  uint8[n]
        steps  uint32[n], seconds; 0 where there is no grid series
        raises ValueError, with nothing changed, when a length is wrong or a reference is 0
        """
        cdef uint32_t n = self.n_unknown
        cdef const uint8_t* words = <const uint8_t*><const char*>refs
        cdef uint32_t i
        if len(refs) != 8 * n or len(types) != n or len(kinds) != n or len(steps) != 4 * n:
            raise ValueError(
                f"{n} keys wait; got {len(refs) / 8} references, {len(types)} types, {len(kinds)} kinds, {len(steps) / 4} steps"
            )
        for i in range(n):
            if ms_load8(words + 8 * i) == 0:
                raise ValueError(f"reference {i} is 0")
        cdef answers_t known
        known.refs = words
        known.types = <const uint8_t*><const char*>types
        known.kinds = <const uint8_t*><const char*>kinds
        known.steps = <const uint8_t*><const char*>steps
        with nogil:
            self.resolve_all(&known)
            self.forget_unknown()

    cdef void resolve_all(self, const answers_t* known) noexcept nogil:
        cdef uint32_t i = 0, j
        cdef bint waited
        while i < self.n_entries:
            waited = False
            j = i
            while j < self.n_entries and self.samples[j].line == self.samples[i].line:
                if self.samples[j].state == WAITING:
                    waited = True
                    self.resolve_one(&self.samples[j], known)
                j += 1
            if waited:
                self.count_line(i, j)
            i = j

    cdef void resolve_one(self, sample_t* s, const answers_t* known) noexcept nogil:
        cdef uint64_t key = s.ref, word = ms_load8(known.refs + 8 * s.ref)
        cdef uint32_t step_s
        cdef const uint8_t* text = self.numbers.at + (s.value >> 32)
        cdef size_t n = s.value & 0xFFFFFFFFULL
        if <uint32_t>word == MS_IGNORE_SLOT:
            s.reason = ignore_reason(word)
        else:
            memcpy(&step_s, known.steps + 4 * key, 4)
            if beyond_reach(s.t // 1000, self.newest_s, step_s, known.kinds[key]):
                s.reason = TOO_LATE
            else:
                s.reason = convert(text, n, number_class(text, n), known.types[key], known.kinds[key], &s.value)
        s.ref = word
        s.type = known.types[key]
        s.kind = known.kinds[key]
        s.state = REFUSED if s.reason else OK
        self.n_refused += s.state == REFUSED
        if s.kind != KIND_STAMPED:
            s.t //= 1000  # never negative

    cdef void count_line(self, uint32_t start, uint32_t stop) noexcept nogil:
        """Count the line whose fields are the entries start..stop: written if one of them is, else why the first is not."""
        cdef uint32_t i
        for i in range(start, stop):
            if self.samples[i].state == OK:
                self.count[0] += 1
                return
        self.count[self.samples[start].reason] += 1

    cdef int wait(self, const uint8_t* key, size_t n, uint64_t hash_, int64_t t_s) noexcept nogil:
        """Number of this key in the unknown list (added when it is new); -1 out of memory. See known_unknown()."""
        cdef int64_t at = <int64_t>self.keys.used
        cdef uint64_t i = hash_ & self.table_mask
        while self.table[i]:
            i = (i + 1) & self.table_mask
        if append(&self.keys, key, n) or append(&self.offsets, &at, 8) or append(&self.times, &t_s, 8) \
                or append(&self.hashes, &hash_, 8):
            return -1
        self.n_unknown += 1
        self.table[i] = self.n_unknown
        return self.n_unknown - 1

    cdef int known_unknown(self, const uint8_t* key, size_t n, uint64_t hash_) noexcept nogil:
        """Number of this key in the unknown list, -1 when it is not there."""
        cdef uint64_t i = hash_ & self.table_mask
        cdef uint32_t k
        cdef int64_t start, stop
        cdef int64_t* offsets = <int64_t*>self.offsets.at
        while self.table[i]:
            k = self.table[i] - 1
            if (<uint64_t*>self.hashes.at)[k] == hash_:
                start = offsets[k]
                stop = offsets[k + 1] if k + 1 < self.n_unknown else <int64_t>self.keys.used
                if <size_t>(stop - start) == n and memcmp(self.keys.at + start, key, n) == 0:
                    return <int>k
            i = (i + 1) & self.table_mask
        return -1

    cdef void forget_unknown(self) noexcept nogil:
        if self.n_unknown:
            memset(self.table, 0, (self.table_mask + 1) * 4)
        self.n_unknown = 0
        self.numbers.used = self.keys.used = self.offsets.used = self.times.used = self.hashes.used = 0

    def late(self, int64_t before_s):
        """The samples to be encoded that lie before a second: (places uint32[k], references uint64[k], seconds int64[k]).

        For series whose retention is shorter than what the scan let pass; refuse() takes the places. Not while keys wait
        """
        cdef uint32_t i, k = 0, n = self.n_entries
        cdef int64_t t_s
        places, refs, times = np.empty(n, np.uint32), np.empty(n, np.uint64), np.empty(n, np.int64)
        cdef uint32_t[::1] place = places
        cdef uint64_t[::1] ref = refs
        cdef int64_t[::1] time = times
        with nogil:
            for i in range(n):
                t_s = self.samples[i].t // 1000 if self.samples[i].kind == KIND_STAMPED else self.samples[i].t
                if self.samples[i].state == OK and t_s < before_s:
                    place[k], ref[k], time[k] = i, self.samples[i].ref, t_s
                    k += 1
        return places[:k], refs[:k], times[:k]

    def refuse(self, const uint32_t[::1] places):
        """Refuse samples that late() named as too_late, before the first is encoded; their lines are counted anew.

        places  ascending
        """
        cdef Py_ssize_t i, n = places.shape[0]
        cdef uint32_t first, stop, line
        if self.n_unknown or self.n_encoded:
            raise ValueError("samples are refused after all keys are resolved and before any is encoded")
        for i in range(n):
            if places[i] >= self.n_entries or self.samples[places[i]].state != OK or (i and places[i] <= places[i - 1]):
                raise ValueError(f"place {places[i]} is none that late() named, or not in their order")
        for i in range(n):
            self.samples[places[i]].state = REFUSED
            self.samples[places[i]].reason = TOO_LATE
            self.n_refused += 1
        i = 0
        while i < n:
            line = self.samples[places[i]].line
            first = stop = places[i]
            while first and self.samples[first - 1].line == line:
                first -= 1
            while stop < self.n_entries and self.samples[stop].line == line:
                stop += 1
            self.count[0] -= 1  # it was written, for at least one of its fields was
            self.count_line(first, stop)
            while i < n and places[i] < stop:
                i += 1

    def encode(self, RingWriter ring not None):
        """Append the samples as records, from where the last call stopped; True when all are in the ring.

        False: the ring has no room now; call again when it has. Nothing is published here: the caller does that.
        raises ValueError while keys wait for references
        """
        cdef bint done
        if self.n_unknown:
            raise ValueError(f"{self.n_unknown} keys wait for references")
        with nogil:
            done = self.encode_all(ring)
        return done

    cdef bint encode_all(self, RingWriter ring) noexcept nogil:
        cdef uint32_t n, most = RUN_VALUES_MAX
        if <uint64_t>most * 16 > ring.size // 4:  # small rings take small records
            most = <uint32_t>(ring.size // 64)
        self.drop_refused()
        while self.n_encoded < self.n_entries:
            n = self.encode_next(ring, &self.samples[self.n_encoded], self.n_entries - self.n_encoded, most)
            if n == 0:
                return False
            self.n_encoded += n
        return True

    cdef void drop_refused(self) noexcept nogil:
        cdef uint32_t i, kept = 0
        if self.n_refused == 0:
            return
        for i in range(self.n_entries):
            if self.samples[i].state != REFUSED:
                self.samples[kept] = self.samples[i]
                kept += 1
        self.n_entries = kept
        self.n_refused = 0

    cdef uint32_t encode_next(self, RingWriter ring, const sample_t* s, uint32_t left, uint32_t most) noexcept nogil:
        """Encode the run that begins at s; how many samples it took, 0 = no room."""
        cdef uint32_t n, more
        if left > most:
            left = most
        if s.kind == KIND_STAMPED:
            n = 1
            while n < left and s[n].ref == s.ref and s[n].kind == KIND_STAMPED:
                n += 1
            return put_stamped(ring, s, n)
        n = consecutive(s, left)
        if n >= ROW_MIN:
            return put_row(ring, s, n)
        # Collect short runs of this time and type up to the next one worth a ROW.
        more = n
        while more < left and together(s, s + more):
            n = consecutive(s + more, left - more)
            if n >= ROW_MIN:
                break
            more += n
        n = consecutive(s, left)
        return put_row(ring, s, n) if more == n else put_scatter(ring, s, more)

    def clear(self):
        """Forget all lines, ready for the next batch."""
        self.n_lines = self.n_entries = self.n_refused = self.n_encoded = 0
        self.previous = 0
        memset(self.count, 0, sizeof(self.count))
        self.forget_unknown()


cdef inline bint together(const sample_t* a, const sample_t* b) noexcept nogil:
    """Whether b may share a record with a: same time and type, neither stamped."""
    return b.t == a.t and b.type == a.type and b.kind == a.kind


cdef uint32_t consecutive(const sample_t* s, uint32_t left) noexcept nogil:
    """How many samples from s on are the next slots of the same generation at the same time."""
    cdef uint32_t n = 1
    while n < left and s[n].ref == s.ref + n and together(s, s + n):
        n += 1
    return n


cdef inline size_t width_of(const sample_t* s) noexcept nogil:
    return 4 if s.type == TYPE_F32 else 8


cdef void put_values(char* to, const sample_t* s, uint32_t n) noexcept nogil:
    """The values of n samples, with zeros up to a multiple of 8 bytes."""
    cdef uint32_t i
    if s.type == TYPE_F32:
        for i in range(n):
            memcpy(to + 4 * i, &s[i].value, 4)
        if n & 1:
            memset(to + 4 * n, 0, 4)
    else:
        for i in range(n):
            memcpy(to + 8 * i, &s[i].value, 8)


cdef char* start_run(RingWriter ring, int kind, const sample_t* s, uint32_t n, size_t payload) noexcept nogil:
    """Room for a record of this payload, its header written; NULL = no room now."""
    cdef char* to = ring.reserve(sizeof(ms_run) + payload)
    cdef ms_run* run = <ms_run*>to
    if to == NULL:
        return NULL
    run.type = kind
    run.vtype = s.type
    run.flags = 0
    run.count = n
    run.slot = <uint32_t>s.ref
    run.generation = s.ref >> 32
    run.t = s.t
    return to + sizeof(ms_run)


cdef uint32_t put_row(RingWriter ring, const sample_t* s, uint32_t n) noexcept nogil:
    cdef size_t payload = (n * width_of(s) + 7) & ~<size_t>7
    cdef char* to = start_run(ring, MS_REC_ROW, s, n, payload)
    if to == NULL:
        return 0
    put_values(to, s, n)
    ring.advance(sizeof(ms_run) + payload)
    return n


cdef uint32_t put_scatter(RingWriter ring, const sample_t* s, uint32_t n) noexcept nogil:
    cdef size_t payload = 8 * <size_t>n + ((n * width_of(s) + 7) & ~<size_t>7)
    cdef char* to = start_run(ring, MS_REC_SCATTER, s, n, payload)
    cdef uint32_t i
    if to == NULL:
        return 0
    cdef ms_run* run = <ms_run*>(to - sizeof(ms_run))
    run.slot = run.generation = 0
    for i in range(n):
        memcpy(to + 8 * i, &s[i].ref, 8)  # little endian: the slot, then the generation
    put_values(to + 8 * n, s, n)
    ring.advance(sizeof(ms_run) + payload)
    return n


cdef uint32_t put_stamped(RingWriter ring, const sample_t* s, uint32_t n) noexcept nogil:
    cdef size_t payload = 16 * <size_t>n
    cdef char* to = start_run(ring, MS_REC_STAMPED, s, n, payload)
    cdef uint32_t i
    if to == NULL:
        return 0
    (<ms_run*>(to - sizeof(ms_run))).vtype = 1  # columns
    for i in range(n):
        memcpy(to + 16 * i, &s[i].t, 8)
        memcpy(to + 16 * i + 8, &s[i].value, 8)
    ring.advance(sizeof(ms_run) + payload)
    return n
