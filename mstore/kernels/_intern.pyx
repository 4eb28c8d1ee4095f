"""The directory, write side, second part: unknown keys and paths become series and keys. One process writes.

A change has two halves, so that nothing is visible that the log does not hold:

    intern, intern_items, define, new_era, remove_finish     -> log records; entries written beyond the published counts,
                                                                series not LIVE, keys not in the table
    (the caller appends the records to the log, in the order it got them)
    publish()                                                -> LIVE, counts, eras, key refs, in this order

From the first half to the end of the second the word `critical` is odd: a writer that dies in between leaves a directory
that must be rebuilt, never adopted. remove_finish alone shows at once: it takes away a series that nobody uses.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MIN, uint16_t
from libc.string cimport memcmp, memcpy, memset

from mstore.kernels._define cimport *
from mstore.kernels._directory cimport *
from mstore.kernels._keys cimport parse_key
from mstore.kernels._reasons cimport *

REASONS = {
    "BAD_SYNTAX": BAD_SYNTAX, "BAD_ENCODING": BAD_ENCODING, "UNKNOWN_FIELD": UNKNOWN_FIELD, "NO_HOST": NO_HOST,
    "NO_CLUSTER": NO_CLUSTER, "UNKNOWN_METRIC": UNKNOWN_METRIC, "TOO_LONG": TOO_LONG, "SERIES_LIMIT": SERIES_LIMIT,
    "STORE_FULL": STORE_FULL,
}


cdef class Interner(Definer):
    """Series, keys, eras and removal. Use _replay.DirectoryWriter."""

    # ---- series ----

    cdef void find_free(self) noexcept:
        """Link all free slots, lowest first: after a replay, and for a writer that took over."""
        cdef uint64_t slot = self.n_series
        self.head.free_series = 0
        while slot > 0:
            slot -= 1
            if self.series_p[slot].level == MS_NO_LEVEL and self.series_p[slot].generation != 0xFFFFFFFF:
                self.series_p[slot].next_series = <uint32_t>self.head.free_series
                self.head.free_series = slot + 1
        self.free_known = True

    cdef int64_t take_slot(self) noexcept:
        """A slot nobody uses, its generation the one to use; -1 when full."""
        cdef uint64_t slot
        if not self.free_known:
            self.find_free()
        if self.head.free_series:
            slot = self.head.free_series - 1
            self.head.free_series = self.series_p[slot].next_series
        else:
            slot = self.n_series
            if not self.extend_series(slot):
                return -1
        if self.series_p[slot].generation == 0:
            self.series_p[slot].generation = 1
        return <int64_t>slot

    cdef bint extend_series(self, uint64_t slot) noexcept:
        """Make the series table reach `slot`; slots in between are free and were never used."""
        if slot >= self.head.max_series or not self.commit(MS_REGION_SERIES, (slot + 1) * sizeof(ms_series)):
            return False
        while self.n_series <= slot:
            memset(&self.series_p[self.n_series], 0, sizeof(ms_series))
            self.series_p[self.n_series].level = MS_NO_LEVEL
            self.n_series += 1
        return True

    cdef void fill_series(self, uint32_t slot, uint32_t level, uint32_t index, int64_t anchor) noexcept:
        """Everything but flags and generation, as the metric defines it; not LIVE before publish()."""
        cdef ms_series* s = &self.series_p[slot]
        cdef ms_metric* metric = &self.metrics_p[index]
        cdef uint32_t generation = s.generation
        memset(<char*>s + 4, 0, sizeof(ms_series) - 4)
        s.generation, s.kind, s.type, s.n_columns = generation, metric.kind, metric.type, metric.n_columns
        s.step_s, s.anchor_s, s.level, s.metric = metric.step_s, anchor, level, index
        s.last_t, s.era_start, s.first_n, s.last_n = INT64_MIN, INT64_MIN, 0, -1

    cdef void set_flags(self, ms_series* s, uint8_t flags) noexcept:
        cdef uint32_t word = <uint32_t>s.kind | <uint32_t>s.type << 8 | <uint32_t>s.n_columns << 16 | <uint32_t>flags << 24
        ms_store_release_u32(&s.kind, word)  # SYNC POINT (release) series live: every other field
        if flags != SERIES_LIVE:
            # SYNC POINT (release) lapses: counted after the flags changed; whoever meets the new count sees the flags.
            ms_store_release_u64(&self.head.lapses, self.head.lapses + 1)

    cdef void link_series(self, uint32_t slot) noexcept:
        cdef ms_level* level = &self.levels_p[self.series_p[slot].level]
        self.series_p[slot].next_series = level.first_series
        ms_store_release_u32(&level.first_series, slot + 1)
        level.n_series += 1
        self.show_level(self.series_p[slot].level)

    cdef void unlink_series(self, uint32_t slot) noexcept:
        cdef ms_level* level = &self.levels_p[self.series_p[slot].level]
        cdef uint32_t* link = &level.first_series
        while link[0] and link[0] != slot + 1:
            link = &self.series_p[link[0] - 1].next_series
        if link[0]:
            ms_store_release_u32(link, self.series_p[slot].next_series)
            level.n_series -= 1

    cdef int64_t table_series(self, uint32_t slot) noexcept:
        """Let (level, metric) lead to this slot, in place of the one before if there is one."""
        cdef ms_series* s = &self.series_p[slot]
        cdef uint64_t hash = self.hash_series(s.level, s.metric)
        cdef int64_t now = self.series_c(s.level, s.metric, self.n_series, True)
        if now == slot:
            return 0
        if now >= 0:
            self.replace_slot(MS_TABLE_SERIES, hash, <uint32_t>now + 2, slot + 2)
        elif self.ensure_table(MS_TABLE_SERIES, 1):
            self.put_slot(MS_TABLE_SERIES, hash, slot + 2)
        else:
            return -1
        return 0

    cdef int64_t make_series(self, uint32_t level, uint32_t index, int64_t t) except? -2:
        """A new series whose first sample is at t (s); -1 when full."""
        cdef int64_t slot
        if not self.ensure_table(MS_TABLE_SERIES, 1):
            return -1
        self.begin()
        slot = self.take_slot()
        if slot < 0:
            return -1
        self.fill_series(<uint32_t>slot, level, index, t - self.metrics_p[index].step_s // 2)
        if self.metrics_p[index].kind != KIND_GRID:
            self.series_p[slot].anchor_s = 0
        (<uint32_t*>self.new_series.grow(4))[0] = <uint32_t>slot
        self.new_series.used += 4
        self.link_series(<uint32_t>slot)
        self.table_series(<uint32_t>slot)
        self.live += 1
        self.put_series(self.log, MS_REC_SERIES, <uint32_t>slot)
        return slot

    cdef int resolve(self, series_path* path, int64_t t, object override, bint text, uint64_t* ref) except -1:
        """Find or make the path's series: 0 and its reference, or the reason there is none."""
        cdef bint create = self.admits and self.live < self.max_series
        cdef int reason = 0, refusal = SERIES_LIMIT if self.live >= self.max_series else STORE_FULL
        cdef int64_t cluster, index, level, slot
        cdef span none
        none.at, none.n = "", 0
        if path.cluster.n == 0:
            return NO_CLUSTER
        cluster = self.level_for(0, none, path.cluster, False)
        index = self.metric_for(&cluster, path, override, create, &reason)
        if index < 0:
            return refusal if reason == SERIES_LIMIT else reason
        if text and self.metrics_p[index].n_columns > 1:
            return UNKNOWN_FIELD  # a line holds one value, the metric's rows hold several
        level = self.level_for(cluster, none, path.host, create)
        if level >= 0 and (path.type.n or path.type_id.n):
            level = self.level_for(level, path.type, path.type_id, create)
        if level >= 0 and (path.subtype.n or path.subtype_id.n):
            level = self.level_for(level, path.subtype, path.subtype_id, create)
        slot = -1
        if level >= 0:
            slot = self.series_c(<uint32_t>level, <uint32_t>index, self.n_series, True)
            if slot < 0 and create:
                slot = self.make_series(<uint32_t>level, <uint32_t>index, t)
        if slot < 0:
            return refusal
        if self.removing and slot in self.removing:
            self.remove_abort(<uint32_t>slot)
        ref[0] = <uint64_t>self.series_p[slot].generation << 32 | <uint64_t>slot
        return 0

    # ---- keys ----

    cdef uint64_t ignore_word(self, int reason) noexcept:
        return (<uint64_t>reason << 24 | self.config_version) << 32 | MS_IGNORE_SLOT

    cdef uint64_t dead_word(self) noexcept:
        """What an unpublished key holds: an ignore word without a reason, of a configuration that is not this one."""
        return (<uint64_t>(self.config_version ^ 0x800000)) << 32 | MS_IGNORE_SLOT

    cdef ms_series* live_at(self, uint64_t ref) noexcept:
        """The series of a reference, NULL when the slot is free or of another generation."""
        cdef uint32_t slot = <uint32_t>ref
        cdef ms_series* s = &self.series_p[slot]
        if slot >= self.n_series or s.generation != ref >> 32 or s.level == MS_NO_LEVEL:
            return NULL
        return s

    cdef void add_key(self, const char* key, size_t n, uint64_t hash, uint32_t cluster, uint64_t ref, uint8_t type,
                      uint8_t kind, uint32_t step_s) except *:
        """Write a new entry behind the published end; nothing happens when the region or the bound is full."""
        cdef uint64_t at = self.keys_used, bound = self.max_keys
        cdef ms_key* entry = <ms_key*>(self.keys_p + at)
        cdef uint64_t pending = self.new_keys.used // sizeof(pending_key)
        cdef pending_key* p
        if <uint32_t>ref == MS_IGNORE_SLOT:
            bound //= 2
        if self.n_keys >= bound or at + entry_bytes(n) > <uint64_t>0x7FFFFFFF << 3:
            return
        if not self.ensure_table(MS_TABLE_KEYS, pending + 1) or not self.commit(MS_REGION_KEYS, at + entry_bytes(n)):
            return
        p = <pending_key*>self.new_keys.grow(sizeof(pending_key))
        self.begin()
        memset(entry, 0, entry_bytes(n))
        self.n_keys += 1
        entry.ref, entry.hash, entry.index = self.dead_word(), <uint32_t>(hash >> 32), <uint32_t>self.n_keys
        entry.default_cluster, entry.len, entry.type, entry.kind, entry.step_s = cluster, <uint16_t>n, type, kind, step_s
        memcpy(<char*>entry + sizeof(ms_key), key, n)
        self.keys_used = at + entry_bytes(n)
        p.offset, p.hash, p.ref, p.step_s, p.type, p.kind, p.fresh = at, hash, ref, step_s, type, kind, True
        self.new_keys.used += sizeof(pending_key)

    cdef void update_key(self, ms_key* entry, uint64_t hash, uint64_t ref, uint8_t type, uint8_t kind,
                         uint32_t step_s) except *:
        """Remember that an entry of an older configuration, or of a series that was being removed, gets a new word."""
        cdef pending_key* p = <pending_key*>self.new_keys.grow(sizeof(pending_key))
        self.begin()
        p.offset, p.hash, p.ref = <uint64_t>(<char*>entry - self.keys_p), hash, ref
        p.step_s, p.type, p.kind, p.fresh = step_s, type, kind, False
        self.new_keys.used += sizeof(pending_key)

    cdef void log_key(self, const char* key, size_t n, uint32_t cluster, uint64_t ref, ms_series* s) except *:
        cdef char* at = self.log.begin(MS_REC_KEY, sizeof(rec_key), n)
        cdef rec_key* body = <rec_key*>at
        body.ref, body.default_cluster, body.len, body.type, body.kind = ref, cluster, <uint16_t>n, s.type, s.kind
        memcpy(at + sizeof(rec_key), key, n)

    cdef void chain_key(self, ms_key* entry, uint64_t ref) noexcept:
        """Put the entry first in its series' list, unless it is in it."""
        cdef ms_series* s = self.live_at(ref)
        cdef uint32_t link, own = <uint32_t>((<char*>entry - self.keys_p) >> 3) + 1
        if s == NULL:
            return
        link = s.first_key
        while link and link != own:
            link = (<ms_key*>(self.keys_p + (<uint64_t>(link - 1) << 3))).next_key
        if link == 0:
            entry.next_key = s.first_key
            s.first_key = own

    cdef void unchain_key(self, ms_key* entry) noexcept:
        cdef ms_series* s = self.live_at(entry.ref)
        cdef uint32_t own = <uint32_t>((<char*>entry - self.keys_p) >> 3) + 1
        cdef uint32_t* link
        if s == NULL:
            return
        link = &s.first_key
        while link[0] and link[0] != own:
            link = &(<ms_key*>(self.keys_p + (<uint64_t>(link[0] - 1) << 3))).next_key
        if link[0]:
            link[0] = entry.next_key
        entry.next_key = 0

    cdef uint64_t newest_era(self, uint64_t ref) noexcept:
        cdef ms_series* s = self.live_at(ref)
        cdef uint64_t next
        while s != NULL and s.next_slot:
            next = <uint64_t>s.next_generation << 32 | (s.next_slot - 1)
            s = self.live_at(next)
            if s != NULL:
                ref = next
        return ref

    cdef void publish_key(self, pending_key* p) noexcept:
        cdef ms_key* entry = <ms_key*>(self.keys_p + p.offset)
        cdef uint64_t ref = p.ref
        cdef ms_series* s
        if <uint32_t>ref != MS_IGNORE_SLOT:
            ref = self.newest_era(ref)
            s = self.live_at(ref)
            if s == NULL:
                return
            p.type, p.kind, p.step_s = s.type, s.kind, s.step_s
        if p.fresh and self.key_c(p.hash, <char*>entry + sizeof(ms_key), entry.len, entry.default_cluster) != NULL:
            return  # two requests met the same key before either was published; the later entry stays dead
        if entry.ref != ref:
            self.unchain_key(entry)
            entry.type, entry.kind, entry.step_s = p.type, p.kind, p.step_s
            self.chain_key(entry, ref)
            ms_store_release_u64(&entry.ref, ref)  # SYNC POINT (release) key ref: type, kind and step
        if p.fresh:
            self.put_slot(MS_TABLE_KEYS, p.hash, <uint32_t>(p.offset >> 3))

    cdef void kill_keys(self, ms_series* s) noexcept:
        """A removed series' keys: dead for good, out of the table. Their space comes back with rebuild_keys()."""
        cdef uint32_t link = s.first_key
        cdef ms_key* entry
        while link:
            entry = <ms_key*>(self.keys_p + (<uint64_t>(link - 1) << 3))
            ms_store_release_u64(&entry.ref, self.dead_word())
            self.replace_slot(MS_TABLE_KEYS, self.entry_hash(MS_TABLE_KEYS, link - 1), link - 1, 1)
            link = entry.next_key
            entry.next_key = 0
        s.first_key = 0

    # ---- interning ----

    def intern(self, const unsigned char[::1] keys, const unsigned char[::1] offsets, const unsigned char[::1] times,
               bytes default_cluster=b""):
        """References of n keys, making what does not exist.

        keys      concatenated; offsets  int64[n + 1] as bytes; times  int64[n] as bytes: first time of each, s
        default_cluster  of the connection, b"" = none
        returns   (uint64[n] references or ignore words, uint8[n] types, uint8[n] kinds, log records), all bytes.
        Ignore words for unknown_metric and unknown_field are published with a key entry; all others are only returned.
        """
        cdef Py_ssize_t n = offsets.shape[0] // 8 - 1, i
        cdef int64_t start, stop, t, cluster = -1
        cdef span none, default
        if n < 0 or offsets.shape[0] % 8 or times.shape[0] != n * 8:
            raise ValueError("offsets must be int64[n + 1] and times int64[n]")
        none.at, none.n = "", 0
        if check_text(default_cluster, &default, False):
            default.n = 0
        if default.n:
            cluster = self.level_for(0, none, default, False)
        cdef bytes refs = PyBytes_FromStringAndSize(NULL, n * 8)
        cdef bytes types = PyBytes_FromStringAndSize(NULL, n)
        cdef bytes kinds = PyBytes_FromStringAndSize(NULL, n)
        cdef uint64_t ref
        cdef const char* base = ""
        if keys.shape[0]:
            base = <const char*>&keys[0]
        start = 0
        for i in range(n + 1):
            memcpy(&stop, &offsets[i * 8], 8)
            if stop < start or stop > keys.shape[0]:
                raise ValueError("offsets must rise and stay inside the keys")
            start = stop
        for i in range(n):
            memcpy(&start, &offsets[i * 8], 8)
            memcpy(&stop, &offsets[i * 8 + 8], 8)
            memcpy(&t, &times[i * 8], 8)
            ref = self.intern_key(base + start, <size_t>(stop - start), t, &default, &cluster)
            memcpy(PyBytes_AS_STRING(refs) + i * 8, &ref, 8)
            self.put_kind(ref, PyBytes_AS_STRING(types) + i, PyBytes_AS_STRING(kinds) + i)
        return refs, types, kinds, self.log.take()

    cdef void put_kind(self, uint64_t ref, char* type, char* kind) noexcept:
        type[0] = kind[0] = 0
        if <uint32_t>ref != MS_IGNORE_SLOT:
            type[0] = <char>self.series_p[<uint32_t>ref].type
            kind[0] = <char>self.series_p[<uint32_t>ref].kind

    cdef uint64_t intern_key(self, const char* key, size_t n, int64_t t, span* default, int64_t* cluster) except? 0:
        cdef uint64_t hash, ref = 0
        cdef series_path path
        cdef ms_key* entry
        cdef ms_series* s
        cdef uint32_t key_cluster
        cdef span none
        if n > KEY_MAX:
            return self.ignore_word(TOO_LONG)
        hash = ms_hash(key, n, self.seed)
        entry = self.key_c(hash, key, n, <uint32_t>cluster[0] if cluster[0] > 0 else 0)
        if entry != NULL:
            ref = entry.ref
            if <uint32_t>ref != MS_IGNORE_SLOT or (ref >> 56 and (ref >> 32 & 0xFFFFFF) == self.config_version):
                return ref
        cdef int reason = parse_key(<const uint8_t*>key, n, &self.parts)
        if reason:
            return self.ignore_word(reason)
        self.take_parts(&path)
        cdef bint defaulted = path.cluster.n == 0
        if defaulted:
            path.cluster = default[0]
        reason = self.resolve(&path, t, None, True, &ref)
        if reason:
            ref = self.ignore_word(reason)
            if reason != UNKNOWN_METRIC and reason != UNKNOWN_FIELD:
                return ref
        none.at, none.n = "", 0
        if defaulted and cluster[0] < 0:
            cluster[0] = self.level_for(0, none, path.cluster, True)
            if cluster[0] < 0:
                return ref
        key_cluster = <uint32_t>cluster[0] if defaulted else 0
        if reason:
            if entry != NULL:
                self.update_key(entry, hash, ref, 0, 0, 0)
            else:
                self.add_key(key, n, hash, key_cluster, ref, 0, 0, 0)
            return ref
        s = &self.series_p[<uint32_t>ref]
        self.log_key(key, n, key_cluster, ref, s)
        if entry != NULL:
            self.update_key(entry, hash, ref, s.type, s.kind, s.step_s)
        else:
            self.add_key(key, n, hash, key_cluster, ref, s.type, s.kind, s.step_s)
        return ref

    cdef void take_parts(self, series_path* path) noexcept:
        cdef const char* text = <const char*>self.parts.text
        path.metric.at, path.metric.n = text + self.parts.metric.off, self.parts.metric.len
        path.cluster.at, path.cluster.n = text + self.parts.cluster.off, self.parts.cluster.len
        path.host.at, path.host.n = text + self.parts.host.off, self.parts.host.len
        path.type.at, path.type.n = text + self.parts.type.off, self.parts.type.len
        path.type_id.at, path.type_id.n = text + self.parts.type_id.off, self.parts.type_id.len
        path.subtype.at, path.subtype.n = text + self.parts.subtype.off, self.parts.subtype.len
        path.subtype_id.at, path.subtype_id.n = text + self.parts.subtype_id.off, self.parts.subtype_id.len
        path.unit.at, path.unit.n = text + self.parts.unit.off, self.parts.unit.len

    def intern_items(self, list paths, const unsigned char[::1] times, specs=None):
        """References of n paths, without key entries: for handles.

        paths   n tuples (cluster, host, type, type_id, subtype, subtype_id, metric) of str or bytes, "" = absent
        times   int64[n] as bytes: first time of each, s
        specs   None, or n definition tuples or None: used when neither the directory nor the source knows the metric
        returns as intern()
        """
        cdef Py_ssize_t n = len(paths), i
        cdef int64_t t
        cdef uint64_t ref
        cdef int reason
        if times.shape[0] != n * 8 or (specs is not None and len(specs) != n):
            raise ValueError("times and specs must be as many as paths")
        cdef bytes refs = PyBytes_FromStringAndSize(NULL, n * 8)
        cdef bytes types = PyBytes_FromStringAndSize(NULL, n)
        cdef bytes kinds = PyBytes_FromStringAndSize(NULL, n)
        for i in range(n):
            memcpy(&t, &times[i * 8], 8)
            ref = 0
            reason = self.intern_path(<tuple?>paths[i], t, None if specs is None else specs[i], &ref)
            if reason:
                ref = self.ignore_word(reason)
            memcpy(PyBytes_AS_STRING(refs) + i * 8, &ref, 8)
            self.put_kind(ref, PyBytes_AS_STRING(types) + i, PyBytes_AS_STRING(kinds) + i)
        return refs, types, kinds, self.log.take()

    cdef int intern_path(self, tuple item, int64_t t, object spec, uint64_t* ref) except -1:
        cdef series_path path
        cdef int reason
        cluster, host, type, type_id, subtype, subtype_id, metric = item
        path.unit.at, path.unit.n = "", 0
        reason = check_text(metric, &path.metric, True)
        if not reason and not cluster:
            reason = NO_CLUSTER
        if not reason and not host:
            reason = NO_HOST
        if not reason:
            reason = (check_text(cluster, &path.cluster, True) or check_text(host, &path.host, True)
                      or check_text(type, &path.type, False) or check_text(type_id, &path.type_id, False)
                      or check_text(subtype, &path.subtype, False) or check_text(subtype_id, &path.subtype_id, False))
        if reason:
            return reason
        if path.type.n == 4 and memcmp(path.type.at, b"node", 4) == 0:
            path.type.n = path.type_id.n = 0
        return self.resolve(&path, t, spec, False, ref)

    # ---- publishing ----

    def take_log(self):
        """Records of a call that raised half way: they belong in the log before publish(). Usually b""."""
        return self.log.take()

    def publish(self):
        """Make everything since the last call visible. The records of those calls are in the log now."""
        cdef size_t i
        if self.log.used:
            raise RuntimeError("records of a call that failed are not in the log yet: take_log() has them")
        if not self.changing:
            return
        for i in range(self.new_series.used // 4):
            self.set_flags(&self.series_p[(<uint32_t*>self.new_series.bytes)[i]], SERIES_LIVE)
        self.new_series.used = 0
        self.publish_counts()
        for i in range(self.eras.used // sizeof(pending_era)):
            self.publish_era((<pending_era*>self.eras.bytes)[i].old, (<pending_era*>self.eras.bytes)[i].new)
        self.eras.used = 0
        for i in range(self.new_keys.used // sizeof(pending_key)):
            self.publish_key(&(<pending_key*>self.new_keys.bytes)[i])
        self.new_keys.used = 0
        self.changing = False
        self.turn_critical()

    cdef void publish_counts(self) noexcept:
        cdef ms_directory* head = self.head
        ms_store_release_u64(&head.region[<int>MS_REGION_NAMES].used, self.names_used)
        ms_store_release_u64(&head.region[<int>MS_REGION_LEVELS].used, self.n_levels * sizeof(ms_level))
        ms_store_release_u64(&head.region[<int>MS_REGION_METRICS].used, self.n_metrics * sizeof(ms_metric))
        ms_store_release_u64(&head.region[<int>MS_REGION_SERIES].used, self.n_series * sizeof(ms_series))
        # SYNC POINT (release) counts: entries below them, and what those refer to
        ms_store_release_u64(&head.n_levels, self.n_levels)
        ms_store_release_u64(&head.n_metrics, self.n_metrics)
        ms_store_release_u64(&head.n_series, self.n_series)
        ms_store_release_u64(&head.live_series, self.live)
        ms_store_release_u64(&head.n_keys, self.n_keys)
        ms_store_release_u64(&head.region[<int>MS_REGION_KEYS].used, self.keys_used)

    @property
    def unpublished(self):
        """Whether publish() has something to do."""
        return self.changing

    # ---- eras ----

    def new_era(self, uint32_t slot, int64_t anchor_s, uint32_t step_s, int64_t era_start, int type):
        """Another grid (or type) for the same level and metric from era_start on: (reference, log records).

        The old series stays, ended, and leads to the new one; keys follow at publish(). step_s 0 = stamped.
        """
        cdef ms_series* old
        cdef ms_series* new
        cdef int64_t made
        cdef pending_era* p
        cdef size_t i
        cdef bint nested = self.changing
        if slot >= self.n_series or self.series_p[slot].flags & (SERIES_LIVE | SERIES_ENDED) != SERIES_LIVE:
            raise ValueError(f"series slot {slot} is not a newest era")
        if slot in self.removing:
            raise ValueError(f"series slot {slot} is being removed")
        for i in range(self.eras.used // sizeof(pending_era)):
            if (<pending_era*>self.eras.bytes)[i].old == slot:
                raise ValueError(f"series slot {slot} has an unpublished era already")
        if self.live >= self.head.max_series:
            raise MemoryError("no room for another series")
        p = <pending_era*>self.eras.grow(sizeof(pending_era))
        self.begin()
        made = self.take_slot()
        if made < 0:
            if not nested:
                self.publish()  # nothing: else the directory would stay in the middle of a change that never was
            raise MemoryError("no room for another series")
        old, new = &self.series_p[slot], &self.series_p[made]
        self.fill_series(<uint32_t>made, old.level, old.metric, anchor_s)
        new.kind = KIND_GRID if step_s else KIND_STAMPED
        new.type, new.n_columns, new.step_s, new.era_start = <uint8_t>type, old.n_columns, step_s, era_start
        new.prev_slot, new.prev_generation = slot + 1, old.generation
        self.live += 1
        p.old, p.new = slot, <uint32_t>made
        self.eras.used += sizeof(pending_era)
        self.put_series(self.log, MS_REC_ERA, <uint32_t>made)
        return <uint64_t>new.generation << 32 | <uint64_t>made, self.log.take()

    cdef void publish_era(self, uint32_t old_slot, uint32_t new_slot) noexcept:
        cdef ms_series* old = &self.series_p[old_slot]
        cdef ms_series* new = &self.series_p[new_slot]
        if not new.flags & SERIES_LIVE:
            self.link_series(new_slot)
            self.set_flags(new, SERIES_LIVE)
        self.join_eras(old, new)

    cdef void join_eras(self, ms_series* old, ms_series* new) noexcept:
        """old ends, new follows; the table and the keys of old lead to new."""
        cdef uint32_t old_slot = <uint32_t>(old - self.series_p), new_slot = <uint32_t>(new - self.series_p)
        self.note_change(old, new)
        new.prev_slot, new.prev_generation = old_slot + 1, old.generation
        old.next_slot, old.next_generation = new_slot + 1, new.generation
        self.set_flags(old, SERIES_LIVE | SERIES_ENDED)
        if not new.flags & SERIES_ENDED:
            self.table_series(new_slot)
        self.move_keys(old, self.live_at(self.newest_era(<uint64_t>new.generation << 32 | new_slot)))

    cdef void note_change(self, ms_series* old, ms_series* new) noexcept:
        """Of two neighbours in time: an earlier sample than `new` begins with may need another type or reach than new's."""
        if (new.kind == KIND_GRID and (old.type != new.type or old.step_s != new.step_s)
                and new.era_start > self.head.grids_changed_s):
            # SYNC POINT (release) grids changed: before flags and keys lead to the new era; no batch is in hand meanwhile.
            ms_store_release_u64(&self.head.grids_changed_s, <uint64_t>new.era_start)

    cdef void move_keys(self, ms_series* old, ms_series* new) noexcept:
        cdef uint64_t ref = <uint64_t>new.generation << 32 | <uint64_t>(new - self.series_p)
        cdef uint32_t link
        cdef ms_key* entry
        while old.first_key:
            link = old.first_key
            entry = <ms_key*>(self.keys_p + (<uint64_t>(link - 1) << 3))
            old.first_key = entry.next_key
            entry.next_key = new.first_key
            new.first_key = link
            entry.type, entry.kind, entry.step_s = new.type, new.kind, new.step_s
            ms_store_release_u64(&entry.ref, ref)  # SYNC POINT (release) key ref

    # ---- removal ----

    def remove_begin(self, uint32_t slot):
        """Unpublish the keys of a series. A worker that meets one of them asks, and the asking cancels the removal."""
        cdef size_t i
        if slot >= self.n_series or not self.series_p[slot].flags & SERIES_LIVE:
            raise ValueError(f"series slot {slot} is free")
        for i in range(self.eras.used // sizeof(pending_era)):
            if (<pending_era*>self.eras.bytes)[i].old == slot:
                raise ValueError(f"series slot {slot} has an unpublished era")
        self.removing.add(slot)
        self.unpublish_keys(slot)

    cdef void unpublish_keys(self, uint32_t slot) noexcept:
        """Whoever meets a key of this series, or holds a handle, asks."""
        cdef uint32_t link
        cdef ms_key* entry
        # Handles of columns connections hold references without a key: they look at the flag.
        self.set_flags(&self.series_p[slot], self.series_p[slot].flags | SERIES_REMOVING)
        link = self.series_p[slot].first_key
        while link:
            entry = <ms_key*>(self.keys_p + (<uint64_t>(link - 1) << 3))
            ms_store_release_u64(&entry.ref, self.dead_word())  # SYNC POINT (release) key unpublished
            link = entry.next_key

    def remove_abort(self, uint32_t slot):
        """Publish the keys again; nothing happens when no removal of this series is under way."""
        if slot not in self.removing:
            return
        self.removing.discard(slot)
        if slot not in self.hidden:
            self.publish_keys(slot)

    cdef void publish_keys(self, uint32_t slot) noexcept:
        cdef uint32_t link
        cdef uint64_t ref
        cdef ms_key* entry
        cdef ms_series* s = &self.series_p[slot]
        self.set_flags(s, s.flags & ~SERIES_REMOVING)
        ref = <uint64_t>s.generation << 32 | slot
        link = s.first_key
        while link:
            entry = <ms_key*>(self.keys_p + (<uint64_t>(link - 1) << 3))
            entry.type, entry.kind, entry.step_s = s.type, s.kind, s.step_s  # not those of an ignore word
            ms_store_release_u64(&entry.ref, ref)  # SYNC POINT (release) key ref
            link = entry.next_key

    def show_removing(self) -> int:
        """For a writer that took over: publish the series again that the one before was about to remove; how many."""
        cdef uint64_t slot
        cdef int shown = 0
        for slot in range(self.n_series):
            if self.series_p[slot].flags & SERIES_REMOVING and self.series_p[slot].flags & SERIES_LIVE:
                self.removing.add(slot)
                self.remove_abort(<uint32_t>slot)
                shown += 1
        return shown

    def remove_finish(self, uint32_t slot):
        """Remove a series whose keys remove_begin() took away: log records; b"" when the removal was cancelled.

        The slot may be taken again at once, with the next generation. Its chunks must be free by now.
        """
        cdef ms_series* s
        cdef uint64_t ref, prev = 0, next = 0
        if slot not in self.removing:
            return b""
        self.removing.discard(slot)
        self.hidden.discard(slot)
        s = &self.series_p[slot]
        ref = <uint64_t>s.generation << 32 | slot
        if s.prev_slot:
            prev = <uint64_t>s.prev_generation << 32 | (s.prev_slot - 1)
        if s.next_slot:
            next = <uint64_t>s.next_generation << 32 | (s.next_slot - 1)
        self.begin()
        self.put_remove(self.log, ref, prev, next)
        self.publish_removal(ref, prev, next)
        return self.log.take()

    cdef void publish_removal(self, uint64_t ref, uint64_t prev, uint64_t next) noexcept:
        """Take a live series out of everything, then mend the chain of eras around it."""
        cdef uint32_t slot = <uint32_t>ref
        cdef ms_series* s = &self.series_p[slot]
        cdef uint32_t level = s.level, metric = s.metric
        self.set_flags(s, 0)
        self.kill_keys(s)
        self.unlink_series(slot)
        if self.series_c(level, metric, self.n_series, True) == slot:
            self.replace_slot(MS_TABLE_SERIES, self.hash_series(level, metric), slot + 2, 1)
        s.level = MS_NO_LEVEL
        # SYNC POINT (release) series reuse: readers that copied or walked this slot see another generation
        ms_store_release_u32(&s.generation, s.generation + 1)
        self.live -= 1
        if s.generation != 0xFFFFFFFF and self.free_known:
            s.next_series = <uint32_t>self.head.free_series
            self.head.free_series = slot + 1
        self.mend_eras(ref, prev, next)
        self.retable(level, metric)
        self.hide_level(level)

    cdef void mend_eras(self, uint64_t ref, uint64_t prev, uint64_t next) noexcept:
        cdef ms_series* p = self.live_at(prev) if prev else NULL
        cdef ms_series* q = self.live_at(next) if next else NULL
        if p != NULL and q != NULL:
            self.note_change(p, q)
        if p != NULL and p.next_slot and (<uint64_t>p.next_generation << 32 | (p.next_slot - 1)) == ref:
            p.next_slot = <uint32_t>next + 1 if next else 0
            p.next_generation = <uint32_t>(next >> 32)
            if next == 0:
                self.set_flags(p, p.flags & ~SERIES_ENDED)
                self.retable(p.level, p.metric)
        if q != NULL and q.prev_slot and (<uint64_t>q.prev_generation << 32 | (q.prev_slot - 1)) == ref:
            q.prev_slot = <uint32_t>prev + 1 if prev else 0
            q.prev_generation = <uint32_t>(prev >> 32)

    cdef void retable(self, uint32_t level, uint32_t metric) noexcept:
        """Let (level, metric) lead to the one of the level's series of this metric that no era follows, if any."""
        cdef uint32_t link = self.levels_p[level].first_series
        cdef ms_series* s
        if self.series_c(level, metric, self.n_series, True) >= 0:
            return
        while link:
            s = &self.series_p[link - 1]
            if s.metric == metric and not s.flags & SERIES_ENDED:
                self.table_series(link - 1)
                return
            link = s.next_series
