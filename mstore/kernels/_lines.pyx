"""Line protocol -> samples -> runs in a ring.

    scan      text -> samples of known keys, and the list of unknown keys with the samples that wait for them
    resolve   the answers for the unknown keys -> the waiting samples get their reference and value
    encode    samples -> ROW, SCATTER and STAMPED records in the ring, in the order of the lines

A line is everything up to a newline (a string with a newline in it is two bad lines):

    [blanks] key spaces field=value[,field=value]... [spaces timestamp] [spaces] [CR] LF

What decides a line's reason, in this order: its length; a key known to be ignored; an unknown key that is refused;
the fields; the timestamp; the time window; the value against the series' type. The key table is shared and
read-only here; the hints (which key follows which) are private to a scanner.

The fast path takes a line whose key is the predicted one, with one plain field `value` and a timestamp, straight to its
sample; any other line goes through the long way, which gives the same answer (the fast path only skips work).
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memset, memcpy
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from mstore.kernels._atomics cimport ms_load_acquire_u64, ms_load_relaxed_u32
from mstore.kernels._eras cimport era_of, eras_t, view_eras
from mstore.kernels._hash cimport ms_hash
from mstore.kernels._keys cimport key_parts, parse_key
from mstore.kernels._layout cimport (
    KIND_STAMPED, MS_IGNORE_SLOT, MS_PAGE, MS_REGION_KEYS, MS_TABLE_KEYS, TYPE_F32, TYPE_F64, TYPE_U64, ms_directory, ms_key,
    ms_region, ms_series,
)
from mstore.kernels._lines_batch cimport OK, REFUSED, WAITING, LineBatch, append, sample_t, settle
from mstore.kernels._lines_text cimport (
    KEY_BYTES_MAX, KEY_HEADER, LINE_BYTES_MAX, LINE_FIELDS_MAX, MS_PREFETCH, SERIES_SLOTS_MAX, ahead_t, beyond_reach,
    fetch_entries, field_t, ignore_reason, is_comment, joined_key, key_end, look_ahead, ms_exact_f64, ms_fast_number, ms_load8, not_there, odd_start, parse_fields,
    parse_time, stamp_ms, view_t,
)
from mstore.kernels._reasons cimport BAD_SYNTAX, TOO_FAR_AHEAD, TOO_LATE, TOO_LONG
from mstore.kernels._segment cimport Segment

from mstore.errors import InvariantBroken

cdef extern from *:
    """
    #define MS_VALUE_MASK 0x00FFFFFFFFFFFFFFull
    #define MS_VALUE_WORD 0x003D65756C617620ull    /* " value=" as a little-endian word */
    """
    uint64_t MS_VALUE_WORD, MS_VALUE_MASK

cdef enum:
    FAST_ROOM = 64        # bytes after the key that the fast path may read
    STEPS_AHEAD = 8       # entries are fetched so many lines before they are compared
    GROUP_LINES = 16      # lines whose keys are hashed together
    TRUST_MAX = 8         # so many predictions may fail in a row before keys are hashed at once

globals()["LineBatch"] = LineBatch  # a cimported name is not importable by itself

cdef struct target_t:     # what a key stands for
    uint64_t ref          # 0 = unknown
    uint32_t step_s
    uint8_t type
    uint8_t kind
    uint8_t reason        # not 0: ignored

cdef struct hint_t:           # which key followed another one last time
    uint32_t at               # position / 8 in the key region, 0 = not known yet: probably the adjacent one
    uint32_t index            # its KEY.index, so that the chain can be followed without touching the entries

cdef struct stamp_t:          # the text of the last timestamp and its value: most lines repeat it
    int len                   # 0 = none
    uint64_t head             # its first 8 bytes
    uint64_t tail             # its last 8 bytes
    int64_t ms
    int64_t least_step_s      # of a grid series that reaches so far back, and has one grid since then

cdef struct policy_t:         # the arguments of a scan
    int64_t now_s
    int64_t oldest_s
    int64_t newest_s
    uint32_t cluster
    uint32_t version          # of the configuration, 24 bits
    int precision
    bint join


cdef class LineScanner:
    """Scans text against the key table of a directory segment (mapped read-only); one for each worker.

    n_hashed   keys looked up by hash since the scanner was made: all others were predicted
    """

    cdef readonly Segment directory
    cdef readonly uint64_t n_hashed
    cdef view_t view
    cdef eras_t eras
    cdef policy_t policy
    cdef hint_t* hints            # by KEY.index
    cdef uint32_t n_hints
    cdef uint32_t generation      # of the directory when the hints were learnt
    cdef uint64_t last            # the last key found, for the first line of the next batch
    cdef int trust                # predictions are tried while this is above 0
    cdef const uint8_t* missed    # a key of this scan's text that the key table does not hold ...
    cdef uint64_t missed_hash     # ... and its hash
    cdef field_t fields[LINE_FIELDS_MAX]
    cdef key_parts parts
    cdef uint8_t joined[KEY_BYTES_MAX]

    def __cinit__(self, Segment directory not None):
        if directory.length < MS_PAGE + sizeof(ms_directory):
            raise InvariantBroken(f"a directory of {directory.length} bytes has no room for its header")
        self.directory = directory

    def __dealloc__(self):
        free(self.hints)

    def scan(self, LineBatch batch not None, text, Py_ssize_t start, Py_ssize_t stop, *, bint final, uint32_t cluster_id,
             int precision, int64_t now_s, int64_t oldest_s, int64_t newest_s, uint32_t config_version, bint join):
        """Consume whole lines of text[start:stop] until stop or until the batch is full; the position reached.

        text            bytes, bytearray or memoryview (contiguous)
        final           a last line without newline is whole, too
        cluster_id      level id of the connection's default cluster, 0 = none or not in the directory yet
        precision       model.Precision of the timestamps
        now_s           time of lines without timestamp; oldest_s..newest_s: the times accepted, both included
        config_version  ignore words of another version count as unknown
        join            every numeric field is the metric `measurement_field`
        raises          InvariantBroken when the directory's header is damaged, MemoryError (nothing of that line is kept)
        """
        cdef Py_buffer buffer
        cdef const uint8_t* p
        cdef const uint8_t* base
        if not 0 <= precision <= 4:
            raise ValueError(f"precision {precision} is none of 0 to 4")
        if not 0 <= now_s <= INT64_MAX // 1000:
            raise ValueError(f"now_s {now_s} is no time in seconds")
        self.policy.now_s, self.policy.oldest_s, self.policy.newest_s = now_s, oldest_s, newest_s
        self.policy.cluster, self.policy.version = cluster_id, config_version & 0xFFFFFF
        self.policy.precision, self.policy.join = precision, join
        self.look()
        PyObject_GetBuffer(text, &buffer, PyBUF_SIMPLE)
        try:
            if not 0 <= start <= stop <= buffer.len:
                raise ValueError(f"{start}:{stop} is not a part of {buffer.len} bytes")
            base = <const uint8_t*>buffer.buf
            with nogil:
                p = self.scan_lines(batch, base + start, base + stop, final)
            if p == NULL:
                raise MemoryError("no memory for the unknown keys of a batch")
            return p - base
        finally:
            PyBuffer_Release(&buffer)

    cdef int look(self) except -1:
        """Load the words that say where keys and key table are, and check them against the segment."""
        cdef const ms_directory* d = <const ms_directory*>(self.directory.base + MS_PAGE)
        cdef const ms_region* region = &d.region[MS_REGION_KEYS]
        cdef size_t length = self.directory.length
        # SYNC POINT (acquire) table word: the slots of a new table
        cdef uint64_t word = ms_load_acquire_u64(&d.table[MS_TABLE_KEYS])
        cdef uint64_t at = word >> 8, log2 = word & 0xFF
        cdef uint64_t offset = region.offset
        view_eras(self.directory, &self.eras)
        self.view.seed = d.hash_seed
        self.view.slots = NULL
        if word:
            if log2 > 40 or at % 8 or at > length or <uint64_t>8 << log2 > length - at:
                raise InvariantBroken(f"the key table (offset {at}, 2^{log2} slots) is not inside {length} bytes")
            self.view.slots = <const uint8_t*>self.directory.base + at
            self.view.mask = (<uint64_t>1 << log2) - 1
        # SYNC POINT (acquire) counts: the bytes of the entries below
        self.view.used = ms_load_acquire_u64(&region.used)
        if offset % 8 or offset > length or self.view.used > length - offset:
            raise InvariantBroken(f"the key region (offset {offset}, {self.view.used} bytes) is not inside {length} bytes")
        self.view.keys = <const uint8_t*>self.directory.base + offset
        if ms_load_relaxed_u32(&d.generation) != self.generation:  # rebuilt: positions mean other keys now
            self.generation = ms_load_relaxed_u32(&d.generation)
            self.last = 0
            if self.hints != NULL:
                memset(self.hints, 0, sizeof(hint_t) * <size_t>self.n_hints)
        return 0

    cdef const uint8_t* scan_lines(self, LineBatch b, const uint8_t* p, const uint8_t* stop, bint final) noexcept nogil:
        cdef const uint8_t* q
        self.missed = NULL
        b.newest_s = self.policy.newest_s
        if b.skipping:
            p = self.skip(b, p, stop, final)
        if b.previous == 0 or b.generation != self.generation:
            b.previous = self.last
            b.generation = self.generation
        while p < stop and b.n_lines < b.max_lines and b.n_entries < b.max_lines:
            q = p
            if not self.policy.join:
                q = self.fast_lines(b, p, stop) if self.trust > 0 else self.hashed_lines(b, p, stop)
            if q == p:
                q = self.one_line(b, p, stop, final)
            if q == NULL:
                return NULL
            if q == p:
                break
            p = q
        self.last = b.previous
        return p

    cdef const uint8_t* skip(self, LineBatch b, const uint8_t* p, const uint8_t* stop, bint final) noexcept nogil:
        cdef const uint8_t* newline = <const uint8_t*>memchr(p, c'\n', stop - p)
        b.skipping = newline == NULL and not final
        return stop if newline == NULL else newline + 1

    cdef const uint8_t* one_line(self, LineBatch b, const uint8_t* p, const uint8_t* stop, bint final) noexcept nogil:
        """Consume one line; p when it is not whole yet, NULL without memory."""
        cdef size_t room = stop - p
        cdef const uint8_t* newline = <const uint8_t*>memchr(p, c'\n', min(room, <size_t>(LINE_BYTES_MAX + 1)))
        cdef const uint8_t* end = newline
        cdef int reason
        if newline == NULL:
            if room > LINE_BYTES_MAX:
                if not is_comment(p, stop):
                    b.n_lines += 1
                    b.count[TOO_LONG] += 1
                return self.skip(b, p, stop, final)
            if not final:
                return p
            end = stop
        reason = self.line(b, p, end)
        if reason < 0:
            return NULL
        if reason > 0:
            b.count[reason] += 1
        return stop if newline == NULL else newline + 1

    cdef int line(self, LineBatch b, const uint8_t* p, const uint8_t* end) noexcept nogil:
        """One whole line without its newline: the Reason it is refused for, 0 when it is taken care of, -1 without memory."""
        cdef const uint8_t* q
        if p < end and (end - 1)[0] == c'\r':
            end -= 1
        while p < end and (p[0] == c' ' or p[0] == c'\t'):
            p += 1
        if p == end or p[0] == c'#':
            return 0
        b.n_lines += 1
        q = key_end(p, end)
        if q == NULL:
            return BAD_SYNTAX
        return self.join_line(b, p, q, end) if self.policy.join else self.value_line(b, p, q, end)

    cdef int value_line(self, LineBatch b, const uint8_t* key, const uint8_t* p, const uint8_t* end) noexcept nogil:
        cdef size_t n = p - key
        cdef uint64_t hash_ = 0
        cdef int64_t ms = 0
        cdef int reason, n_fields = 0
        cdef target_t target
        cdef sample_t* s
        reason = self.find(b, key, n, &target, &hash_)
        if reason == 0:
            reason = self.after_key(p, end, &n_fields, &ms)
        if reason:
            return reason
        s = &b.samples[b.n_entries]
        reason = self.fill(b, s, key, n, hash_, &target, &self.fields[0], ms)
        if reason:
            return reason
        b.n_entries += 1
        if s.state == OK:
            b.count[0] += 1
        return 0

    cdef int join_line(self, LineBatch b, const uint8_t* key, const uint8_t* p, const uint8_t* end) noexcept nogil:
        cdef size_t n = p - key, metric_len = 0, joined_len
        cdef uint64_t hash_ = 0
        cdef int64_t ms = 0
        cdef int reason, n_fields = 0, i
        cdef uint32_t first = b.n_entries
        cdef bint waits = False
        cdef target_t target
        cdef sample_t* s
        while metric_len < n and key[metric_len] != c',':
            metric_len += 2 if key[metric_len] == c'\\' and metric_len + 1 < n and key[metric_len + 1] == c',' else 1
        if metric_len == 0:
            return BAD_SYNTAX
        reason = self.after_key(p, end, &n_fields, &ms)
        if reason:
            return reason
        for i in range(n_fields):
            s = &b.samples[b.n_entries]
            joined_len = joined_key(key, n, metric_len, &self.fields[i], self.joined)
            reason = TOO_LONG
            if joined_len:
                reason = self.find(b, self.joined, joined_len, &target, &hash_)
            if reason == 0:
                reason = self.fill(b, s, self.joined, joined_len, hash_, &target, &self.fields[i], ms)
            if reason < 0:
                b.n_entries = first
                return reason
            if reason:
                s.line = b.n_lines
                s.state = REFUSED
                s.reason = reason
                b.n_refused += 1
            waits |= s.state == WAITING
            b.n_entries += 1
        if not waits:
            b.count_line(first, b.n_entries)
        return 0

    cdef int after_key(self, const uint8_t* p, const uint8_t* end, int* n_fields, int64_t* ms) noexcept nogil:
        """Fields (into self.fields), timestamp and time window: 0 or a Reason."""
        cdef int reason
        cdef int64_t t_s
        while p < end and p[0] == c' ':
            p += 1
        reason = parse_fields(&p, end, self.policy.join, self.fields, n_fields)
        if reason == 0:
            reason = parse_time(p, end, self.policy.precision, self.policy.now_s, ms)
        if reason:
            return reason
        t_s = ms[0] // 1000
        return TOO_LATE if t_s < self.policy.oldest_s else TOO_FAR_AHEAD if t_s > self.policy.newest_s else 0

    cdef int fill(self, LineBatch b, sample_t* s, const uint8_t* key, size_t n, uint64_t hash_, const target_t* target,
                  const field_t* field, int64_t ms) noexcept nogil:
        """Make the sample of one field: 0, the Reason it has none, -1 without memory."""
        cdef int k
        s.line = b.n_lines
        s.reason = 0
        s.t = ms
        if target.ref:
            s.state = OK
            s.ref = target.ref
            s.type = target.type
            s.kind = target.kind
            return settle(s, &self.eras, self.policy.newest_s, target.step_s, field.text, field.len, field.cls)
        k = b.known_unknown(key, n, hash_)
        if k < 0:
            k = b.wait(key, n, hash_, ms // 1000)
        s.value = <uint64_t>b.numbers.used << 32 | field.len
        if k < 0 or append(&b.numbers, field.text, field.len) != 0:
            return -1
        s.state = WAITING
        s.ref = k
        return 0

    # ---- keys ----

    cdef int find(self, LineBatch b, const uint8_t* key, size_t n, target_t* target, uint64_t* hash_) noexcept nogil:
        """What a key stands for: 0 with the target (ref 0 = unknown, and worth asking for), or the Reason to refuse it."""
        cdef uint64_t at = 0
        target.ref = 0
        target.reason = 0
        if n > KEY_BYTES_MAX:
            return TOO_LONG
        if self.trust > 0:
            at = self.predicted(b.previous)
            if not self.matches(at, key, n, target):
                at = 0
        if at == 0 and key == self.missed:
            hash_[0] = self.missed_hash
        elif at == 0:
            hash_[0] = ms_hash(key, n, self.view.seed)
            at = self.find_hashed(key, n, hash_[0], target)
            if at:
                self.learn(b.previous, at)
        if at:
            b.previous = at
            if target.reason:
                return target.reason
            if target.ref:
                return 0
            hash_[0] = ms_hash(key, n, self.view.seed)  # an old ignore word: ask again
        if b.known_unknown(key, n, hash_[0]) >= 0:
            return 0
        return parse_key(key, n, &self.parts)

    cdef bint matches(self, uint64_t at, const uint8_t* key, size_t n, target_t* target) noexcept nogil:
        """Whether the entry at this position is this key's, for this connection; target is then filled."""
        cdef const ms_key* e = <const ms_key*>(self.view.keys + at)
        cdef uint64_t word
        if at == 0 or self.view.used < KEY_HEADER or at > self.view.used - KEY_HEADER:
            return False
        if e.len != n or n > self.view.used - at - KEY_HEADER:
            return False
        if e.default_cluster != 0 and e.default_cluster != self.policy.cluster:
            return False
        if memcmp(<const uint8_t*>e + KEY_HEADER, key, n) != 0:
            return False
        # SYNC POINT (acquire) key ref: type and kind are those of this reference or of a later one
        # SYNC POINT (acquire) key unpublished: what was read before is a reference the epoch of this worker keeps alive
        word = ms_load_acquire_u64(&e.ref)
        if not_there(word):
            return False
        target.ref = word
        target.reason = 0
        target.type = e.type
        target.kind = e.kind
        target.step_s = e.step_s
        if <uint32_t>word == MS_IGNORE_SLOT:
            target.ref = 0
            if ((word >> 32) & 0xFFFFFF) == self.policy.version:
                target.reason = ignore_reason(word)
        return True

    cdef uint64_t find_hashed(self, const uint8_t* key, size_t n, uint64_t hash_, target_t* target) noexcept nogil:
        """Position of the key's entry by the key table, 0 when it has none."""
        cdef uint64_t i, probes, word, at
        cdef uint64_t high = hash_ >> 32
        self.n_hashed += 1
        if self.view.slots == NULL:
            return 0
        for probes in range(self.view.mask + 1):
            i = (hash_ + probes) & self.view.mask
            # SYNC POINT (acquire) table slot: the entry's bytes
            word = ms_load_acquire_u64(self.view.slots + 8 * i)
            if word == 0:
                return 0
            if word == 1 or word >> 32 != high:
                continue
            at = (word & 0xFFFFFFFFULL) * 8
            if at + KEY_HEADER > self.view.used:
                self.refresh_used()
            if self.matches(at, key, n, target):
                return at
        return 0

    cdef void refresh_used(self) noexcept nogil:
        """Keys were published since the scan began: see them, too."""
        cdef const ms_directory* d = <const ms_directory*>(self.directory.base + MS_PAGE)
        # SYNC POINT (acquire) counts: the bytes of the entries below
        cdef uint64_t used = ms_load_acquire_u64(&d.region[MS_REGION_KEYS].used)
        if used <= self.directory.length - <size_t>(self.view.keys - <const uint8_t*>self.directory.base):
            self.view.used = used

    cdef inline uint64_t predicted(self, uint64_t previous) noexcept nogil:
        """Where the key after the one at `previous` was last time; 0 = no idea. The position is checked by its user."""
        cdef const ms_key* e = <const ms_key*>(self.view.keys + previous)
        cdef uint64_t hint = 0
        if previous == 0 or previous > self.view.used - KEY_HEADER:
            return 0
        if e.index < self.n_hints:
            hint = self.hints[e.index].at
        return hint * 8 if hint else previous + KEY_HEADER + ((e.len + 7) & ~7)

    cdef void learn(self, uint64_t previous, uint64_t at) noexcept nogil:
        """The key at `at` was found by its hash after the one at `previous`. Trust predictions again when this is no news."""
        if previous == 0 or previous > self.view.used - KEY_HEADER:
            self.trust = max(self.trust, 1)
        elif self.predicted(previous) == at:
            self.trust = TRUST_MAX
        else:
            self.trust = max(self.trust - 1, 0)
            self.remember(previous, at)

    cdef void remember(self, uint64_t previous, uint64_t at) noexcept nogil:
        """Write the hint: the entry at `at` follows the one at `previous`."""
        cdef const ms_key* e = <const ms_key*>(self.view.keys + previous)
        cdef uint64_t size
        cdef hint_t* grown
        if e.index >= self.n_hints:
            # Indexes are dense, so they are bounded by the region's size: a wild one is damage, and learns nothing.
            if e.index > self.view.used // KEY_HEADER:
                return
            size = max(2 * <uint64_t>self.n_hints, <uint64_t>e.index + 1024)
            grown = <hint_t*>realloc(self.hints, sizeof(hint_t) * size)
            if grown == NULL:
                return
            memset(grown + self.n_hints, 0, sizeof(hint_t) * (size - self.n_hints))
            self.hints = grown
            self.n_hints = <uint32_t>size
        self.hints[e.index].at = <uint32_t>(at // 8)
        self.hints[e.index].index = (<const ms_key*>(self.view.keys + at)).index

    cdef inline uint32_t step_ahead(self, uint32_t index) noexcept nogil:
        """One step along the chain of hints: fetch that entry into the cache, return its index."""
        if index >= self.n_hints:
            return 0
        MS_PREFETCH(self.view.keys + <uint64_t>self.hints[index].at * 8)
        MS_PREFETCH(self.view.keys + <uint64_t>self.hints[index].at * 8 + 64)
        return self.hints[index].index

    # ---- the fast path ----

    cdef const uint8_t* fast_lines(self, LineBatch b, const uint8_t* p, const uint8_t* stop) noexcept nogil:
        """Consume lines for as long as each is plain and its key the predicted one; where the first other line begins."""
        cdef uint64_t at, word, previous = b.previous
        cdef const uint8_t* keys = self.view.keys
        cdef const uint8_t* q
        cdef const ms_key* e = <const ms_key*>(keys + previous)
        cdef size_t n
        cdef uint32_t lines = b.n_lines, entries = b.n_entries, most = b.max_lines, far
        cdef int64_t written = 0
        cdef int i
        cdef stamp_t stamp
        if previous == 0 or self.view.used < KEY_HEADER or previous > self.view.used - KEY_HEADER:
            return p
        stamp.len = 0
        far = e.index
        for i in range(STEPS_AHEAD):
            far = self.step_ahead(far)
        while lines < most and entries < most:
            far = self.step_ahead(far)
            at = self.predicted(previous)
            if at > self.view.used - KEY_HEADER:
                break
            e = <const ms_key*>(keys + at)
            n = e.len
            if n == 0 or n > self.view.used - at - KEY_HEADER or <size_t>(stop - p) < n + FAST_ROOM:
                break
            if memcmp(keys + at + KEY_HEADER, p, n) != 0 or p[n] != c' ' or odd_start(p[0]):
                if self.trust > 0:
                    self.trust -= 1
                break
            if e.default_cluster != 0 and e.default_cluster != self.policy.cluster:
                break
            # SYNC POINT (acquire) key ref, key unpublished: as in matches()
            word = ms_load_acquire_u64(&e.ref)
            if not_there(word):
                break
            if <uint32_t>word == MS_IGNORE_SLOT:
                if ((word >> 32) & 0xFFFFFF) != self.policy.version:
                    break
                q = <const uint8_t*>memchr(p + n, c'\n', min(<size_t>(stop - p), <size_t>(LINE_BYTES_MAX + 1)) - n)
                if q == NULL:
                    break
                b.count[ignore_reason(word)] += 1
                lines += 1
                p = q + 1
            else:
                q = self.plain_rest(&b.samples[entries], e, word, p + n, lines + 1, &stamp)
                if q == NULL:
                    break
                lines += 1
                entries += 1
                written += 1
                p = q
            if self.hints == NULL or self.hints[(<const ms_key*>(keys + previous)).index].at == 0:
                self.remember(previous, at)  # the adjacent one: now the chain can be followed ahead
            previous = at
        if written:
            self.trust = TRUST_MAX
        b.previous = previous
        b.n_lines = lines
        b.n_entries = entries
        b.count[0] += written
        return p

    cdef const uint8_t* hashed_lines(self, LineBatch b, const uint8_t* p, const uint8_t* stop) noexcept nogil:
        """Consume whole lines, found by hash in groups so that their cache misses overlap, until predictions hold again.

        One group is hashed while the entries of the one before it are on their way. Where it stopped; NULL without memory.
        """
        cdef ahead_t groups[2][GROUP_LINES]
        cdef ahead_t* group
        cdef const uint8_t* q = p
        cdef stamp_t stamp
        cdef int i, which = 0
        cdef int n, n_next
        stamp.len = 0
        n = look_ahead(groups[0], GROUP_LINES, &q, stop, &self.view)
        fetch_entries(groups[0], n, &self.view)
        while n and self.trust == 0:
            group = groups[which]
            which ^= 1
            n_next = look_ahead(groups[which], GROUP_LINES, &q, stop, &self.view)
            self.fetch_hints(group, n)
            for i in range(n):
                if b.n_lines == b.max_lines or b.n_entries >= b.max_lines:
                    return p
                if not self.hashed_line(b, &group[i], stop, &stamp):
                    return NULL
                p = group[i].end + 1
            n = n_next
            fetch_entries(groups[which], n, &self.view)
        return p

    cdef void fetch_hints(self, const ahead_t* group, int n) noexcept nogil:
        """Fetch the hints of a group's keys: learn() compares each with the key that follows."""
        cdef uint64_t index
        cdef int i
        for i in range(n):
            if group[i].at and group[i].at + KEY_HEADER <= self.view.used:
                index = (<const ms_key*>(self.view.keys + group[i].at)).index
                if index < self.n_hints:
                    MS_PREFETCH(&self.hints[index])

    cdef bint hashed_line(self, LineBatch b, const ahead_t* line, const uint8_t* stop, stamp_t* stamp) noexcept nogil:
        """Take care of one line whose key's hash is known; False without memory."""
        cdef target_t target
        cdef uint64_t at
        cdef int reason
        if line.n:
            at = self.find_hashed(line.p, line.n, line.hash_, &target)
            if at == 0:
                self.missed = line.p
                self.missed_hash = line.hash_
            else:
                self.learn(b.previous, at)
                b.previous = at
                if target.reason:
                    b.n_lines += 1
                    b.count[target.reason] += 1
                    return True
                if target.ref and <size_t>(stop - line.p) >= line.n + FAST_ROOM and self.plain_rest(
                        &b.samples[b.n_entries], <const ms_key*>(self.view.keys + at), target.ref, line.p + line.n,
                        b.n_lines + 1, stamp) != NULL:
                    b.n_lines += 1
                    b.n_entries += 1
                    b.count[0] += 1
                    return True
        reason = self.line(b, line.p, line.end)
        if reason > 0:
            b.count[reason] += 1
        return reason >= 0

    cdef inline const uint8_t* plain_rest(self, sample_t* s, const ms_key* e, uint64_t ref, const uint8_t* q, uint32_t line,
                                          stamp_t* stamp) noexcept nogil:
        """Take ` value=<short number> <digits>` and a newline at q into s; the byte after it, NULL when q is anything else.

        Reads at most FAST_ROOM bytes. What it refuses may still be right: s is then to be filled the long way.
        """
        cdef uint64_t w = 0
        cdef int used, frac = 0
        cdef int64_t back_s
        cdef bint negative
        cdef double wide
        cdef float narrow
        if ms_load8(q) & MS_VALUE_MASK != MS_VALUE_WORD:
            return NULL
        q += 7
        negative = q[0] == c'-'
        q += negative
        used = ms_fast_number(q, &w, &frac)
        if used == 0 or (negative and w == 0):
            return NULL
        if e.type == TYPE_U64:
            if negative or frac:
                return NULL
            s.value = w
        else:
            wide = ms_exact_f64(w, -frac) if w else 0.0
            if negative:
                wide = -wide
            if e.type == TYPE_F32 and e.kind != KIND_STAMPED:
                narrow = <float>wide
                s.value = 0
                memcpy(&s.value, &narrow, 4)
            elif e.type == TYPE_F32 or e.type == TYPE_F64:
                memcpy(&s.value, &wide, 8)
            else:
                return NULL
        q += used + 1
        if not (stamp.len and ms_load8(q) == stamp.head and ms_load8(q + stamp.len - 8) == stamp.tail
                and q[stamp.len] == c'\n'):
            stamp.len = self.plain_stamp(q, &stamp.ms)
            if stamp.len == 0:
                return NULL
            back_s = self.policy.newest_s - stamp.ms // 1000  # not negative: the time is accepted
            stamp.least_step_s = back_s // SERIES_SLOTS_MAX + (back_s % SERIES_SLOTS_MAX != 0)
            if stamp.ms // 1000 < self.eras.changed_s:
                stamp.least_step_s = INT64_MAX  # it may belong to an older era, which late_alike() looks for
            stamp.head = ms_load8(q)
            stamp.tail = ms_load8(q + stamp.len - 8)
        if e.step_s < stamp.least_step_s and e.kind != KIND_STAMPED and not self.late_alike(e, ref, stamp.ms // 1000):
            return NULL
        s.ref = ref
        s.t = stamp.ms if e.kind == KIND_STAMPED else stamp.ms // 1000
        s.line = line
        s.type = e.type
        s.kind = e.kind
        s.state = OK
        s.reason = 0
        return q + stamp.len + 1

    cdef bint late_alike(self, const ms_key* e, uint64_t ref, int64_t t_s) noexcept nogil:
        """Whether a late sample belongs to an era of the type that its series has now, and is not too late for it."""
        cdef int64_t newest_s = self.policy.newest_s
        cdef const ms_series* era = NULL
        if t_s < self.eras.changed_s:
            era = era_of(&self.eras, ref, t_s, &newest_s)
        return era != NULL and era.type == e.type and not beyond_reach(t_s, newest_s, era.step_s, e.kind)

    cdef int plain_stamp(self, const uint8_t* q, int64_t* ms) noexcept nogil:
        """Length of the 8 to 18 digits at q when a newline follows and the time is accepted, else 0. Reads 19 bytes."""
        cdef uint64_t v = 0
        cdef int i = 0
        cdef int64_t t_s
        while i < 18 and c'0' <= q[i] <= c'9':
            v = v * 10 + (q[i] - c'0')
            i += 1
        if i < 8 or q[i] != c'\n' or stamp_ms(v, self.policy.precision, ms) != 0:
            return 0
        t_s = ms[0] // 1000
        return i if self.policy.oldest_s <= t_s <= self.policy.newest_s else 0
