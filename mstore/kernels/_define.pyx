"""The directory, write side, first part: space, hash tables, levels and metric definitions.

Memory is committed in steps of 64 KiB before it is touched: a full /dev/shm, or the limit that the
memory cap sets, is an answer (STORE_FULL), not a SIGBUS. Hash tables double in their place at load 0.8: each has a
quarter of its region's addresses to itself, so that no old table is left behind; ids never move.

_define.Definer -> _intern.Interner -> _replay.DirectoryWriter are one class in three files.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_Check, PyUnicode_DecodeUTF8
from libc.stdint cimport uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from mstore.kernels._backing cimport ms_back_or_nothing
from mstore.kernels._directory cimport *
from mstore.kernels._reasons cimport *
from mstore.kernels._segment cimport Segment

cdef enum:
    STEP = 65536         # memory of a region grows by this much
    METRICS_MAX = 65536
    UNKNOWN_MAX = 65536  # (cluster, metric) pairs remembered as unknown
    AHEAD = 16           # slots of a table that doubles, whose entries are fetched ahead

cdef extern from *:
    """
    #define ms_prefetch(p) __builtin_prefetch((p), 0, 3)
    """
    void ms_prefetch(const void* p) noexcept nogil


cdef int check_text(object text, span* out, bint required) except -1:
    """Point `out` at the UTF-8 of str or bytes; 0, or the reason it cannot be a name. Absent = empty."""
    cdef Py_ssize_t n = 0
    cdef size_t i
    cdef unsigned char c
    cdef const char* at
    if text is None:
        text = ""
    at = text_of(text, &n)
    if at == NULL:
        return BAD_ENCODING
    out.at, out.n = at, <size_t>n
    if n == 0:
        return BAD_SYNTAX if required else 0
    if n > NAME_MAX:
        return TOO_LONG
    for i in range(<size_t>n):
        c = <unsigned char>at[i]
        if c < 0x20 or c == 0x7F or (c == 0xC2 and i + 1 < <size_t>n and 0x80 <= <unsigned char>at[i + 1] < 0xA0):
            return BAD_ENCODING
    if not PyUnicode_Check(text):
        try:
            PyUnicode_DecodeUTF8(at, n, NULL)
        except UnicodeDecodeError:
            return BAD_ENCODING
    return 0


cdef class Definer(DirectoryReader):
    """Space, tables, levels and metrics. Use _replay.DirectoryWriter."""

    def __init__(self, Segment segment, int fd=-1):
        cdef ms_directory* head = self.head
        if not segment.writable:
            raise ValueError("a directory writer needs a writable segment")
        if head.critical & 1:
            raise RuntimeError("the directory was left in the middle of a change")
        self.fd, self.commits_allowed, self.limit_bytes, self.admits = fd, -1, 0, True
        self.n_levels, self.n_series, self.n_metrics = head.n_levels, head.n_series, head.n_metrics
        self.n_keys, self.live = head.n_keys, head.live_series
        self.names_used = head.region[<int>MS_REGION_NAMES].used
        self.keys_used = head.region[<int>MS_REGION_KEYS].used
        self.register_unknown, self.default_step_s, self.config_version = True, 60, 1
        self.max_series, self.max_keys = head.max_series, 4 * <uint64_t>head.max_series + 1024
        self.source, self.unknown, self.removing, self.retentions = None, set(), set(), {}
        self.hidden, self.ignored, self.protected = set(), set(), set()
        self.log, self.new_series, self.new_keys, self.eras = (
            RecordBuffer(), RecordBuffer(), RecordBuffer(), RecordBuffer()
        )
        self.free_known = self.changing = False

    def set_policy(self, bint register_unknown, uint32_t default_step_s, uint32_t config_version, uint64_t max_series,
                   uint64_t max_keys):
        """What to do with unknown metrics, and the bounds. A new config_version makes every ignore word unknown again.

        default_step_s  of registered metrics, >= 1
        max_keys        key entries; one half of them at most are ignore words
        """
        if default_step_s < 1:
            raise ValueError("default_step_s must be at least 1")
        self.register_unknown, self.default_step_s = register_unknown, default_step_s
        self.config_version = config_version & 0xFFFFFF
        self.max_series, self.max_keys = min(max_series, <uint64_t>self.head.max_series), max_keys
        self.unknown = set()

    def set_retentions(self, dict retentions not None):
        """{cluster bytes: seconds}: of metrics made from now on whose definition names no retention; 0 = for ever."""
        self.retentions = retentions

    def set_source(self, source):
        """callable(cluster bytes, metric bytes) -> definition tuple (shm.directory.definition) or None = unknown."""
        self.source, self.unknown = source, set()

    # ---- space ----

    cdef void begin(self) noexcept:
        if not self.changing:
            self.changing = True
            self.turn_critical()

    cdef void turn_critical(self) noexcept:
        """Odd: what follows are several words that belong together; even: they are all there."""
        ms_store_release_u64(&self.head.critical, self.head.critical + 1)
        ms_fence_release()  # SYNC POINT (release) critical: none of these words before the odd number

    cdef bint allocate(self, uint64_t region, uint64_t at, uint64_t n) noexcept:
        """Back n bytes of the segment, of a region that began there, with memory; False when the limit or the system says no."""
        cdef int i
        cdef uint64_t held = 2 * MS_PAGE
        if self.commits_allowed == 0:
            return False
        if self.limit_bytes:
            for i in range(MS_REGIONS):
                held += self.head.region[i].committed
            if held + n > self.limit_bytes:
                return False
        if self.commits_allowed > 0:
            self.commits_allowed -= 1
        return self.fd < 0 or ms_back_or_nothing(self.fd, self.base, region, at, n) == 0

    cdef bint commit(self, int region, uint64_t upto) noexcept:
        """Make the first `upto` bytes of a region usable; False when there is no memory or no reservation left."""
        cdef ms_region* r = &self.head.region[region]
        cdef uint64_t target
        if upto <= r.committed:
            return True
        if upto > r.reserved:
            return False
        target = min((upto + STEP - 1) // STEP * STEP, r.reserved)
        if not self.allocate(r.offset, r.offset + r.committed, target - r.committed):
            return False
        ms_store_release_u64(&r.committed, target)
        return True

    def committed_bytes(self):
        """Bytes of the segment that have memory."""
        cdef int i
        cdef uint64_t held = 2 * MS_PAGE
        for i in range(MS_REGIONS):
            held += self.head.region[i].committed
        return held

    cdef int64_t store_text(self, const char* text, size_t n) noexcept:
        """Offset in the segment of a copy of the text, -1 when full."""
        cdef ms_region* names = &self.head.region[<int>MS_REGION_NAMES]
        cdef uint64_t at = self.names_used
        if not self.commit(MS_REGION_NAMES, at + n):
            return -1
        memcpy(self.base + names.offset + at, text, n)
        self.names_used = at + n
        return <int64_t>(names.offset + at)

    # ---- hash tables ----

    cdef uint64_t read_slot(self, int table, uint64_t i) noexcept nogil:
        cdef char* slots = self.base + (self.head.table[table] >> 8)
        return (<uint64_t*>slots)[i] if table == MS_TABLE_KEYS else (<uint32_t*>slots)[i]

    cdef void write_slot(self, int table, uint64_t i, uint64_t word) noexcept nogil:
        cdef char* slots = self.base + (self.head.table[table] >> 8)
        # SYNC POINT (release) table slot: the entry's bytes
        if table == MS_TABLE_KEYS:
            ms_store_release_u64(<uint64_t*>slots + i, word)
        else:
            ms_store_release_u32(<uint32_t*>slots + i, <uint32_t>word)

    cdef uint32_t low_of(self, int table, uint64_t word) noexcept nogil:
        """What a slot leads to: offset / 8 of a key, id + 2 of anything else."""
        return <uint32_t>word if table == MS_TABLE_KEYS else <uint32_t>word & self.id_mask

    cdef uint64_t entry_hash(self, int table, uint32_t low) noexcept nogil:
        """Hash of the entry a slot word's low half leads to."""
        cdef ms_level* level
        cdef ms_metric* metric
        cdef ms_series* series
        cdef ms_key* key
        if table == MS_TABLE_LEVELS:
            level = &self.levels_p[low - 2]
            return self.hash_level(level.parent, self.base + level.name, level.name_len, level.type_len)
        if table == MS_TABLE_METRICS:
            metric = &self.metrics_p[low - 2]
            return self.hash_metric(metric.cluster, self.base + metric.name, metric.name_len)
        if table == MS_TABLE_SERIES:
            series = &self.series_p[low - 2]
            return self.hash_series(series.level, series.metric)
        key = <ms_key*>(self.keys_p + (<uint64_t>low << 3))
        return ms_hash(<char*>key + sizeof(ms_key), key.len, self.seed)

    cdef void expect_entry(self, int table, uint64_t word) noexcept nogil:
        """Fetch what entry_hash() of a slot's word will read: a miss for each is half of what doubling a table takes."""
        cdef uint32_t low = self.low_of(table, word)
        if word < 2:
            return
        if table == MS_TABLE_LEVELS:
            ms_prefetch(&self.levels_p[low - 2])
        elif table == MS_TABLE_SERIES:
            ms_prefetch(&self.series_p[low - 2])
        elif table == MS_TABLE_KEYS:
            ms_prefetch(self.keys_p + (<uint64_t>low << 3))
            ms_prefetch(self.keys_p + (<uint64_t>low << 3) + 64)

    cdef uint64_t entries(self, int table) noexcept nogil:
        """Entries that the table holds at most."""
        if table == MS_TABLE_KEYS:
            return self.n_keys
        if table == MS_TABLE_SERIES:
            return self.live
        return self.n_levels if table == MS_TABLE_LEVELS else self.n_metrics

    cdef bint ensure_table(self, int table, uint64_t extra) noexcept:
        """Room for `extra` more entries at load <= 0.8, tombstones counted 0.9; False when the table cannot grow."""
        cdef uint64_t word = self.head.table[table], log2 = word & 255, bytes
        cdef char* moved
        cdef ms_region* region = &self.head.region[<int>MS_REGION_TABLES]
        while (self.entries(table) * 10 >= (<uint64_t>8 << log2)
               or (self.head.table_used[table] + extra) * 10 > (<uint64_t>9 << log2)):
            bytes = slot_bytes(table) << log2
            if (2 * bytes > region.reserved // MS_TABLES // MS_PAGE * MS_PAGE
                    or not self.allocate(word >> 8, (word >> 8) + bytes, bytes)):
                return False
            moved = <char*>calloc(1, (<size_t>1 << log2) // 8)
            if moved == NULL:
                return False
            if not self.changing:
                self.turn_critical()
            ms_store_release_u64(&region.committed, region.committed + bytes)
            ms_store_release_u64(&region.used, region.used + bytes)
            self.split_table(table, log2, moved)
            if not self.changing:
                self.turn_critical()
            free(moved)
            log2 += 1
        return True

    cdef void split_table(self, int table, uint64_t log2, char* moved) noexcept:
        """Twice the slots in the same place: the upper half, zeros so far, takes over what belongs there.

        Entries are copied first, then the table word says so, then they leave the lower half. So a reader finds every
        entry with the old word or with the new one; with the old word it may miss, but then it sees that it is old.

        moved  zeros, one bit for each slot of the old table
        """
        cdef uint64_t n = <uint64_t>1 << log2, mask = 2 * n - 1, i, j, home, word, used = 0
        for i in range(n):
            self.expect_entry(table, self.read_slot(table, i + AHEAD))  # beyond the end: zeros, or copies
            word = self.read_slot(table, i)
            if word < 2:
                continue
            home = self.entry_hash(table, self.low_of(table, word)) & mask
            if home <= i:
                continue  # stays; else it belongs into the upper half, or had gone round the end of the old table
            j = home
            while self.read_slot(table, j) and self.read_slot(table, j) != word:
                j = (j + 1) & mask
            if j != i and self.read_slot(table, j) == 0:  # else this is a copy that went round the end of the new table
                self.write_slot(table, j, word)
                moved[i >> 3] |= <char>(1 << (i & 7))
        word = self.head.table[table]
        # SYNC POINT (release) table word: the copies in the upper half
        ms_store_release_u64(&self.head.table[table], (word >> 8 << 8) | (log2 + 1))
        for i in range(n):
            if moved[i >> 3] & (1 << (i & 7)):
                self.write_slot(table, i, 1)
        for i in range(n):
            self.trim(table, n - 1 - i, mask)
        for i in range(2 * n):
            used += self.read_slot(table, i) != 0
        self.head.table_used[table] = used

    cdef void trim(self, int table, uint64_t i, uint64_t mask) noexcept:
        """A tombstone before an empty slot ends no probe that the empty slot does not end: it becomes empty itself."""
        while self.read_slot(table, i) == 1 and self.read_slot(table, (i + 1) & mask) == 0:
            self.write_slot(table, i, 0)
            self.head.table_used[table] -= 1
            i = (i - 1) & mask

    cdef void put_slot(self, int table, uint64_t hash, uint32_t low) noexcept:
        """Insert a word; ensure_table() has made room."""
        cdef uint64_t mask = (<uint64_t>1 << (self.head.table[table] & 255)) - 1, i = hash & mask
        while self.read_slot(table, i) > 1:
            i = (i + 1) & mask
        if self.read_slot(table, i) == 0:
            self.head.table_used[table] += 1
        self.write_slot(table, i, self.slot_word(table, hash, low))

    cdef uint64_t slot_word(self, int table, uint64_t hash, uint32_t low) noexcept nogil:
        if table == MS_TABLE_KEYS:
            return hash >> 32 << 32 | low
        return short_slot(hash, self.id_mask, low - 2)

    cdef bint replace_slot(self, int table, uint64_t hash, uint32_t low, uint32_t by) noexcept:
        """Let the slot that leads to `low` lead to `by`, or to nothing (by 1). False when there is none."""
        cdef uint64_t mask = (<uint64_t>1 << (self.head.table[table] & 255)) - 1, i = hash & mask, word
        cdef uint64_t expected = self.slot_word(table, hash, low)
        while True:
            word = self.read_slot(table, i)
            if word == 0:
                return False
            if word == expected:
                self.write_slot(table, i, 1 if by == 1 else self.slot_word(table, hash, by))
                if by == 1:
                    self.trim(table, i, mask)
                return True
            i = (i + 1) & mask

    # ---- levels and metrics ----

    cdef int64_t make_level(self, uint32_t parent, const char* name, size_t n, size_t type_len) except? -2:
        cdef uint32_t id = <uint32_t>self.n_levels
        cdef ms_level* level = &self.levels_p[id]
        cdef ms_level* above = &self.levels_p[parent]
        cdef int64_t at
        if not self.ensure_table(MS_TABLE_LEVELS, 1):
            return -1
        if not self.commit(MS_REGION_LEVELS, (self.n_levels + 1) * sizeof(ms_level)):
            return -1
        at = self.store_text(name, n)
        if at < 0:
            return -1
        self.begin()
        memset(level, 0, sizeof(ms_level))
        level.parent, level.depth, level.cluster = parent, above.depth + 1, above.cluster if parent else id
        level.name, level.name_len, level.type_len, level.generation = at, <uint16_t>n, <uint16_t>type_len, 1
        level.next_sibling = above.first_child
        self.n_levels += 1
        if self.protected and self.is_protected(id):
            level.flags = LEVEL_PROTECTED
        ms_store_release_u32(&above.first_child, id)  # SYNC POINT (release) child link: the level's bytes
        above.n_children += 1
        self.show_level(parent)
        self.put_slot(MS_TABLE_LEVELS, self.hash_level(parent, name, n, type_len), id + 2)
        self.put_level(self.log, id)
        return id

    cdef int64_t level_for(self, int64_t parent, span type, span id, bint create) except? -2:
        cdef char name[2 * NAME_MAX]
        cdef size_t n = join_name(name, type.at, type.n, id.at, id.n)
        cdef int64_t level = self.level_c(<uint32_t>parent, name, n, type.n, self.n_levels)
        if level < 0 and create:
            level = self.make_level(<uint32_t>parent, name, n, type.n)
        return level

    # ---- levels that hold nothing, and hosts that keep everything ----

    cdef void show_level(self, uint32_t id) noexcept:
        """Link a level below its parent again that was unlinked as empty, and so what is above it."""
        cdef ms_level* level
        cdef ms_level* above
        while id and self.levels_p[id].flags & LEVEL_EMPTY:
            level, above = &self.levels_p[id], &self.levels_p[self.levels_p[id].parent]
            level.flags &= ~LEVEL_EMPTY
            # A reader that stands on it since before it was unlinked goes through the whole list again: it may meet a
            # level twice, and misses none.
            ms_store_release_u32(&level.next_sibling, above.first_child)
            ms_store_release_u32(&above.first_child, id)  # SYNC POINT (release) child link
            above.n_children += 1
            id = level.parent

    cdef void hide_level(self, uint32_t id) noexcept:
        """Unlink a level without series and children, and so what is empty above it; its id and its name stay its own.

        Its own next_sibling stays, too: a reader that stands on it goes on from there.
        """
        cdef ms_level* level
        cdef ms_level* above
        cdef uint32_t* link
        while id:
            level, above = &self.levels_p[id], &self.levels_p[self.levels_p[id].parent]
            if level.flags & LEVEL_EMPTY or level.first_series or level.first_child:
                return
            if level.depth == 1 and self.is_configured(id):
                return
            link = &above.first_child
            while link[0] and link[0] != id:
                link = &self.levels_p[link[0]].next_sibling
            if link[0]:
                ms_store_release_u32(link, level.next_sibling)
                above.n_children -= 1
            level.flags |= LEVEL_EMPTY
            id = level.parent

    cdef bint is_configured(self, uint32_t cluster) noexcept:
        """Whether the configuration names metrics of a cluster: then it is there without a host as well."""
        cdef uint64_t index
        for index in range(self.n_metrics):
            if self.metrics_p[index].cluster == cluster and self.metrics_p[index].origin == ORIGIN_CONFIGURED:
                return True
        return False

    def hide_empty_levels(self, uint32_t start=1, uint64_t stop=0xFFFFFFFF):
        """Unlink those of levels start .. stop - 1 that hold nothing: for a replay, and for interning that failed."""
        cdef bint nested = self.changing
        cdef uint64_t id = min(stop, self.n_levels)
        self.begin()
        while id > start:  # from the end: children have higher ids than their parents
            id -= 1
            self.hide_level(<uint32_t>id)
        if not nested:
            self.publish()

    cdef bint is_protected(self, uint32_t id) except -1:
        cdef ms_level* host = &self.levels_p[id]
        cdef ms_level* cluster = &self.levels_p[host.parent]
        if host.depth != 2:
            return False
        return ((self.base + cluster.name)[:cluster.name_len], (self.base + host.name)[:host.name_len]) in self.protected

    def protect(self, bytes cluster, bytes host, bint on=True):
        """Say of a host whether its data outlives retention, now and when its level is made later."""
        cdef int64_t level
        if on:
            self.protected.add((cluster, host))
        else:
            self.protected.discard((cluster, host))
        level = self.level_c(0, cluster, len(cluster), 0, self.n_levels)
        if level >= 0:
            level = self.level_c(<uint32_t>level, host, len(host), 0, self.n_levels)
        if level >= 0:
            if on:
                self.levels_p[level].flags |= LEVEL_PROTECTED
            else:
                self.levels_p[level].flags &= ~LEVEL_PROTECTED

    def forget_protection(self):
        """For a writer that took over: no host is protected until it is said again."""
        cdef uint64_t id
        self.protected = set()
        for id in range(self.n_levels):
            self.levels_p[id].flags &= ~LEVEL_PROTECTED

    cdef bint write_definition(self, ms_metric* metric, metric_def* d) noexcept:
        """Store a definition's fields into a metric under its change count; False when the names region is full."""
        cdef int64_t unit = metric.unit, columns = metric.columns
        if d.unit_len != metric.unit_len or memcmp(self.base + metric.unit, d.unit, d.unit_len) != 0:
            unit = self.store_text(d.unit, d.unit_len)
        if d.columns_len != metric.columns_len or memcmp(self.base + metric.columns, d.columns, d.columns_len) != 0:
            columns = self.store_text(d.columns, d.columns_len)
        if unit < 0 or columns < 0:
            return False
        ms_store_release_u32(&metric.generation, metric.generation | 1)
        ms_fence_release()  # SYNC POINT (release) metric definition: odd before, even and higher after
        metric.step_s, metric.type, metric.kind, metric.aggregation = d.step_s, d.type, d.kind, d.aggregation
        metric.n_columns, metric.origin, metric.retention_s = d.n_columns, d.origin, d.retention_s
        metric.unit, metric.unit_len, metric.columns, metric.columns_len = (
            unit, <uint16_t>d.unit_len, columns, <uint16_t>d.columns_len
        )
        ms_store_release_u32(&metric.generation, (metric.generation | 1) + 1)
        return True

    cdef int64_t make_metric(self, uint32_t cluster, span name, metric_def* d) except? -2:
        cdef uint32_t index = <uint32_t>self.n_metrics
        cdef ms_metric* metric = &self.metrics_p[index]
        cdef int64_t at
        if index >= METRICS_MAX or not self.ensure_table(MS_TABLE_METRICS, 1):
            return -1
        if not self.commit(MS_REGION_METRICS, (self.n_metrics + 1) * sizeof(ms_metric)):
            return -1
        at = self.store_text(name.at, name.n)
        if at < 0:
            return -1
        self.begin()
        memset(metric, 0, sizeof(ms_metric))
        metric.cluster, metric.name, metric.name_len = cluster, at, <uint16_t>name.n
        if not self.write_definition(metric, d):
            return -1
        self.n_metrics += 1
        self.put_slot(MS_TABLE_METRICS, self.hash_metric(cluster, name.at, name.n), index + 2)
        return index

    cdef bint read_spec(self, object spec, metric_def* d) except? False:
        """Take a definition tuple apart; the caller keeps it alive while `d` is in use."""
        step_s, type, kind, aggregation, n_columns, origin, retention_s, unit, columns = spec
        d.step_s, d.type, d.kind, d.aggregation, d.n_columns = step_s, type, kind, aggregation, n_columns
        d.origin, d.retention_s = origin, retention_s
        d.unit, d.unit_len = PyBytes_AS_STRING(<bytes?>unit), PyBytes_GET_SIZE(unit)
        d.columns, d.columns_len = PyBytes_AS_STRING(<bytes?>columns), PyBytes_GET_SIZE(columns)
        if d.unit_len > NAME_MAX or d.columns_len > 0xFFFF:
            raise ValueError("a unit has at most 255 bytes, a column list 65535")
        return True

    cdef int64_t metric_for(self, int64_t* cluster, series_path* path, object override, bint create,
                            int* reason) except? -2:
        """Index of the path's metric; defines it (and its cluster's level) when source, override or policy allow."""
        cdef int64_t index = -1
        cdef metric_def d
        cdef span none
        cdef ms_metric* metric
        none.at, none.n = "", 0
        if cluster[0] >= 0:
            index = self.metric_c(<uint32_t>cluster[0], path.metric.at, path.metric.n, self.n_metrics)
        if index >= 0:
            if self.ignored and index in self.ignored:
                reason[0] = UNKNOWN_METRIC
                return -1
            metric = &self.metrics_p[index]
            if metric.unit_len == 0 and path.unit.n:
                self.adopt_unit(<uint32_t>index, path)
            return index
        spec = self.spec_for(path) or override
        if spec is not None:
            self.read_spec(spec, &d)
        elif self.register_unknown:
            memset(&d, 0, sizeof(d))
            d.step_s, d.type, d.kind, d.aggregation, d.n_columns = self.default_step_s, TYPE_F32, KIND_GRID, AGG_AVG, 1
            d.origin, d.retention_s, d.unit, d.columns = ORIGIN_REGISTERED, -1, "", ""
        else:
            reason[0] = UNKNOWN_METRIC
            return -1
        if d.unit_len == 0:
            d.unit, d.unit_len = path.unit.at, path.unit.n
        if d.retention_s < 0 and self.retentions:
            d.retention_s = self.retentions.get(path.cluster.at[:path.cluster.n], -1)
        if not create:
            reason[0] = SERIES_LIMIT
            return -1
        if cluster[0] < 0:
            cluster[0] = self.level_for(0, none, path.cluster, True)
        if cluster[0] >= 0:
            index = self.make_metric(<uint32_t>cluster[0], path.metric, &d)
        if index < 0:
            reason[0] = STORE_FULL
        else:
            self.put_metric(self.log, <uint32_t>index)
        return index

    cdef object spec_for(self, series_path* path):
        """The configured definition, None = unknown; asked once per (cluster, metric) that has none."""
        if self.source is None:
            return None
        pair = (path.cluster.at[:path.cluster.n], path.metric.at[:path.metric.n])
        if pair in self.unknown:
            return None
        spec = self.source(*pair)
        if spec is None:
            if len(self.unknown) >= UNKNOWN_MAX:
                self.unknown.clear()
            self.unknown.add(pair)
        return spec

    cdef int adopt_unit(self, uint32_t index, series_path* path) except -1:
        """The first unit tag seen becomes the unit of a metric that has none."""
        cdef metric_def d
        cdef ms_metric* metric = &self.metrics_p[index]
        memset(&d, 0, sizeof(d))
        d.step_s, d.type, d.kind, d.aggregation, d.n_columns = (
            metric.step_s, metric.type, metric.kind, metric.aggregation, metric.n_columns
        )
        d.origin, d.retention_s, d.unit, d.unit_len = metric.origin, metric.retention_s, path.unit.at, path.unit.n
        d.columns, d.columns_len = self.base + metric.columns, metric.columns_len
        self.begin()
        if self.write_definition(metric, &d):
            self.put_metric(self.log, index)
        return 0

    def define(self, cluster, name, spec):
        """Create or change a metric from a definition tuple: log records, b"" if it is so already.

        Series keep the step and type they were made with until new_era(). Raises MemoryError when full, ValueError for
        names that cannot be names.
        """
        cdef metric_def d
        cdef ms_metric* metric
        cdef span none, cluster_span, name_span
        cdef int64_t level, index
        none.at, none.n = "", 0
        if check_text(cluster, &cluster_span, True) or check_text(name, &name_span, True):
            raise ValueError(f"cluster and metric must be names of 1 to 255 bytes: {cluster!r}, {name!r}")
        self.read_spec(spec, &d)
        level = self.level_for(0, none, cluster_span, True)
        if level < 0:
            raise MemoryError("no room for another level")
        if self.levels_p[level].flags & LEVEL_EMPTY:
            self.begin()
            self.show_level(<uint32_t>level)
        index = self.metric_c(<uint32_t>level, name_span.at, name_span.n, self.n_metrics)
        if index < 0:
            index = self.make_metric(<uint32_t>level, name_span, &d)
            if index < 0:
                raise MemoryError("no room for another metric")
        else:
            metric = &self.metrics_p[index]
            if d.unit_len == 0:  # a unit seen in the samples stands until the configuration names one
                d.unit, d.unit_len = self.base + metric.unit, metric.unit_len
            if self.same_definition(metric, &d):
                return self.log.take()
            self.begin()
            if not self.write_definition(metric, &d):
                raise MemoryError("no room for the definition's texts")
        self.unknown.discard((cluster_span.at[:cluster_span.n], name_span.at[:name_span.n]))
        self.put_metric(self.log, <uint32_t>index)
        return self.log.take()

    cdef bint same_definition(self, ms_metric* metric, metric_def* d) noexcept:
        return (metric.step_s == d.step_s and metric.type == d.type and metric.kind == d.kind
                and metric.aggregation == d.aggregation and metric.n_columns == d.n_columns
                and metric.origin == d.origin and metric.retention_s == d.retention_s
                and metric.unit_len == d.unit_len and metric.columns_len == d.columns_len
                and memcmp(self.base + metric.unit, d.unit, d.unit_len) == 0
                and memcmp(self.base + metric.columns, d.columns, d.columns_len) == 0)
