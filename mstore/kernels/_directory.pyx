"""The directory, read side: levels, metrics, series and keys of one store, found by hash and listed by links.

    root -- fritz (cluster, depth 1) -- f0201 (host, 2) -- hwthread12 (3) -- ...
              |                            |                  |
              | (cluster, name) -> METRIC  +--- SERIES        +--- SERIES (level, metric), newest era
              |                                                      |  prev
    key bytes -> KEY entry {ref = generation << 32 | slot}           +-- older era, ended

Four open-addressed tables (linear probing, power of two) lead from names to entries; shm/layout.py says what a slot
holds. Every hit is verified against the entry's own bytes, so a wrong word can only miss.

What a reader may see while the writer works:
  - entries are complete before the word that leads to them         SYNC POINT table slot, SYNC POINT counts
  - ids at or above the published counts and series that are not LIVE are not yet in the log: reported as absent
  - a table grows in place, and entries that belong into its upper half leave the lower one; hence a probe that finds
    nothing looks whether the table word is still the same, and probes again if not
  - a series slot may be reused under another level while its list is walked: every step checks level and generation
Readers never write, not even hints: the segment may be mapped PROT_READ.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.unicode cimport PyUnicode_Check
from libc.string cimport memcmp, memcpy, memset

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    ID_SPARE = 131072    # levels and series have ids below 2 * max_series + ID_SPARE
    WALK_ATTEMPTS = 64   # a list under change is walked again at most this often before the walk gives up

MISSING_CLUSTER, MISSING_HOST, MISSING_METRIC, MISSING_LEVEL, MISSING_SERIES = -1, -2, -3, -4, -5


cdef const char* text_of(object text, Py_ssize_t* n):
    """UTF-8 of a str (cached in the str) or the bytes themselves; NULL for text that has no UTF-8 (lone surrogates)."""
    if PyUnicode_Check(text):
        try:
            return PyUnicode_AsUTF8AndSize(text, n)
        except UnicodeEncodeError:
            return NULL
    n[0] = PyBytes_GET_SIZE(<bytes?>text)
    return PyBytes_AS_STRING(text)


cdef size_t join_name(char* into, const char* type, size_t type_len, const char* id, size_t id_len) noexcept nogil:
    """A level's name: type followed by id, as it is hashed and stored. `into` has 2 * NAME_MAX bytes."""
    memcpy(into, type, type_len)
    memcpy(into + type_len, id, id_len)
    return type_len + id_len


cdef class RecordBuffer:
    """Records one after the other; grows by doubling, taken as bytes."""

    def __dealloc__(self):
        PyMem_Free(self.bytes)

    cdef char* grow(self, size_t n) except NULL:
        cdef size_t room = self.room or 4096
        cdef char* moved
        while room < self.used + n:
            room *= 2
        if room != self.room or self.bytes == NULL:
            moved = <char*>PyMem_Realloc(self.bytes, room)
            if moved == NULL:
                raise MemoryError("no memory for definition records")
            self.bytes, self.room = moved, room
        return self.bytes + self.used

    cdef char* begin(self, int type, size_t body, size_t text) except NULL:
        """Header and zeroed space of one record; the caller fills body, then text."""
        cdef size_t length = (sizeof(ms_record) + body + text + 7) & ~<size_t>7
        cdef char* at = self.grow(length)
        cdef ms_record* record = <ms_record*>at
        memset(at, 0, length)
        record.type = <uint16_t>type
        record.length = <uint32_t>length
        self.used += length
        return at + sizeof(ms_record)

    cdef bytes take(self):
        cdef bytes taken = PyBytes_FromStringAndSize(self.bytes, <Py_ssize_t>self.used)
        self.used = 0
        return taken


cdef class RegionBytes:
    """The used part of one region as a read-only buffer that keeps the mapping alive."""

    cdef Segment segment
    cdef char* at
    cdef Py_ssize_t n

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.at, self.n, True, flags)


# A search in a table of 4-byte slots under way.
cdef struct probe:
    uint32_t* slots
    uint64_t word            # the table's, when the search began
    uint64_t mask
    uint64_t hash
    uint64_t tried           # slots looked at
    int table


cdef inline bint begin_probe(DirectoryReader reader, probe* at, int table, uint64_t hash) noexcept nogil:
    """Stand before the first slot where the hash may be; False when the table word is damaged."""
    at.table, at.hash = table, hash
    at.slots = <uint32_t*>reader.table_slots(table, &at.word, &at.mask)
    at.tried = 0
    return at.slots != NULL


cdef inline int64_t next_id(DirectoryReader reader, probe* at, uint64_t bound) noexcept nogil:
    """The next id below `bound` that the hash may stand for; -1: there is none, and the table was the same all along."""
    cdef uint32_t slot = 0
    cdef int64_t id
    while True:
        while at.tried <= at.mask:
            # SYNC POINT (acquire) table slot: the entry's bytes
            slot = ms_load_acquire_u32(&at.slots[(at.hash + at.tried) & at.mask])
            if slot == 0:
                break
            at.tried += 1
            id = short_id(slot, at.hash, reader.id_mask)
            if 0 <= id < <int64_t>bound:
                return id
        if not reader.table_moved(at.table, at.word) or not begin_probe(reader, at, at.table, at.hash):
            return -1


cdef class DirectoryReader:
    """Look-ups and listings over one mapped directory segment.

    segment  a Segment over the whole directory; may be read-only
    Ids are indices into the tables: level 0 is the root; metric and series slots start at 0. -1 means absent.
    """

    def __cinit__(self, Segment segment, *args, **kwargs):
        if segment.length < MS_PAGE + sizeof(ms_directory):
            raise ValueError("a directory segment has at least two pages")
        self.segment = segment
        self.base = segment.base
        self.length = segment.length
        self.head = <ms_directory*>(self.base + MS_PAGE)
        cdef int i
        for i in range(MS_REGIONS):
            if self.head.region[i].offset + self.head.region[i].reserved > self.length:
                raise ValueError(f"directory region {i} ends outside the segment")
        self.levels_p = <ms_level*>(self.base + self.head.region[<int>MS_REGION_LEVELS].offset)
        self.series_p = <ms_series*>(self.base + self.head.region[<int>MS_REGION_SERIES].offset)
        self.metrics_p = <ms_metric*>(self.base + self.head.region[<int>MS_REGION_METRICS].offset)
        self.keys_p = self.base + self.head.region[<int>MS_REGION_KEYS].offset
        self.seed = self.head.hash_seed
        self.id_mask = 0xFFFF
        while self.id_mask < 2 * <uint64_t>self.head.max_series + ID_SPARE:
            self.id_mask = self.id_mask << 1 | 1

    # ---- hashes and probes ----

    cdef uint64_t hash_level(self, uint32_t parent, const char* name, size_t n, size_t type_len) noexcept nogil:
        return ms_hash(name, n, self.seed ^ (parent * MS_ODD) ^ type_len)

    cdef uint64_t hash_metric(self, uint32_t cluster, const char* name, size_t n) noexcept nogil:
        return ms_hash(name, n, self.seed ^ (cluster * MS_ODD))

    cdef uint64_t hash_series(self, uint32_t level, uint32_t metric) noexcept nogil:
        cdef uint64_t pair = <uint64_t>metric << 32 | level
        return ms_hash(&pair, sizeof(pair), self.seed)

    cdef void* table_slots(self, int table, uint64_t* word, uint64_t* mask) noexcept nogil:
        # SYNC POINT (acquire) table word: the slots of its upper half
        word[0] = ms_load_acquire_u64(&self.head.table[table])
        cdef uint64_t log2 = word[0] & 255, offset = word[0] >> 8
        if log2 > 32 or offset > self.length or (slot_bytes(table) << log2) > self.length - offset:
            return NULL
        mask[0] = (<uint64_t>1 << log2) - 1
        return self.base + offset

    cdef bint table_moved(self, int table, uint64_t word) noexcept nogil:
        ms_fence_acquire()
        return ms_load_relaxed_u64(&self.head.table[table]) != word

    cdef bint name_is(self, uint64_t offset, const char* text, size_t n) noexcept nogil:
        return offset <= self.length and n <= self.length - offset and memcmp(self.base + offset, text, n) == 0

    cdef int64_t level_c(
        self, uint32_t parent, const char* name, size_t n, size_t type_len, uint64_t bound
    ) noexcept nogil:
        cdef probe at
        cdef int64_t id
        cdef ms_level* level
        if not begin_probe(self, &at, MS_TABLE_LEVELS, self.hash_level(parent, name, n, type_len)):
            return -1
        while True:
            id = next_id(self, &at, bound)
            if id < 0:
                return -1
            level = &self.levels_p[id]
            if (level.parent == parent and level.name_len == n and level.type_len == type_len
                    and self.name_is(level.name, name, n)):
                return id

    cdef int64_t metric_c(self, uint32_t cluster, const char* name, size_t n, uint64_t bound) noexcept nogil:
        cdef probe at
        cdef int64_t id
        cdef ms_metric* metric
        if not begin_probe(self, &at, MS_TABLE_METRICS, self.hash_metric(cluster, name, n)):
            return -1
        while True:
            id = next_id(self, &at, bound)
            if id < 0:
                return -1
            metric = &self.metrics_p[id]
            if metric.cluster == cluster and metric.name_len == n and self.name_is(metric.name, name, n):
                return id

    cdef int64_t series_c(self, uint32_t level, uint32_t metric, uint64_t bound, bint pending) noexcept nogil:
        """Newest era of (level, metric); `pending` also finds what is not yet published (the writer's own view)."""
        cdef probe at
        cdef int64_t id
        cdef ms_series* series
        if not begin_probe(self, &at, MS_TABLE_SERIES, self.hash_series(level, metric)):
            return -1
        while True:
            id = next_id(self, &at, bound)
            if id < 0:
                return -1
            series = &self.series_p[id]
            if series.level == level and series.metric == metric and (pending or series.flags & SERIES_LIVE):
                return id

    cdef ms_key* key_c(self, uint64_t hash, const char* key, size_t n, uint32_t cluster) noexcept nogil:
        cdef uint64_t tag = hash >> 32, word, mask = 0, i, probe, slot, offset, used
        cdef uint64_t* slots
        cdef ms_key* entry
        while True:
            slots = <uint64_t*>self.table_slots(MS_TABLE_KEYS, &word, &mask)
            if slots == NULL:
                return NULL
            i = hash & mask
            for probe in range(mask + 1):
                slot = ms_load_acquire_u64(&slots[i])  # SYNC POINT (acquire) table slot
                if slot == 0:
                    break
                if slot >> 32 == tag and slot != 1:
                    offset = <uint64_t><uint32_t>slot << 3
                    used = ms_load_acquire_u64(&self.head.region[<int>MS_REGION_KEYS].used)
                    if offset + sizeof(ms_key) + n <= used:
                        entry = <ms_key*>(self.keys_p + offset)
                        if (entry.len == n and (entry.default_cluster == 0 or entry.default_cluster == cluster)
                                and memcmp(<char*>entry + sizeof(ms_key), key, n) == 0):
                            return entry
                i = (i + 1) & mask
            if not self.table_moved(MS_TABLE_KEYS, word):
                return NULL

    # ---- finding ----

    cdef int64_t present(self, int64_t level) noexcept nogil:
        """The level, -1 if it holds nothing: then it is as if it had never been. A cluster's metrics stay defined."""
        if level >= 0 and self.levels_p[level].flags & LEVEL_EMPTY and self.levels_p[level].depth > 1:
            return -1
        return level

    def find_level(self, uint32_t parent, bytes type, bytes id):
        """Level id of the child of `parent` with this type and id, -1 if there is none or it holds nothing."""
        cdef char name[2 * NAME_MAX]
        if PyBytes_GET_SIZE(type) > NAME_MAX or PyBytes_GET_SIZE(id) > NAME_MAX:
            return -1
        cdef size_t n = join_name(name, type, PyBytes_GET_SIZE(type), id, PyBytes_GET_SIZE(id))
        return self.present(self.level_c(parent, name, n, PyBytes_GET_SIZE(type), ms_load_acquire_u64(&self.head.n_levels)))

    cdef int64_t child_c(self, int64_t parent, object type, object id, uint64_t bound):
        cdef char name[2 * NAME_MAX]
        cdef Py_ssize_t type_len = 0, id_len = 0
        cdef const char* type_text = text_of(type, &type_len)
        cdef const char* id_text = text_of(id, &id_len)
        if type_text == NULL or id_text == NULL or type_len > NAME_MAX or id_len > NAME_MAX:
            return -1
        cdef size_t n = join_name(name, type_text, <size_t>type_len, id_text, <size_t>id_len)
        return self.present(self.level_c(<uint32_t>parent, name, n, <size_t>type_len, bound))

    cdef int64_t below_host_c(self, int64_t level, object type, object type_id, object subtype, object subtype_id,
                              uint64_t bound):
        """From the host down; type "node" is the host itself, with or without an id."""
        if (type and type != "node") or (not type and type_id):
            level = self.child_c(level, type, type_id, bound)
        if level >= 0 and (subtype or subtype_id):
            level = self.child_c(level, subtype, subtype_id, bound)
        return level

    def find_path(self, cluster, host="", type="", type_id="", subtype="", subtype_id=""):
        """Level id of a path of str (or bytes) parts, -1 if any part is absent. host "" = the cluster itself."""
        cdef uint64_t bound = ms_load_acquire_u64(&self.head.n_levels)
        cdef int64_t level = self.child_c(0, "", cluster, bound)
        if level < 0 or not host:
            return level
        level = self.child_c(level, "", host, bound)
        return level if level < 0 else self.below_host_c(level, type, type_id, subtype, subtype_id, bound)

    def find_metric(self, uint32_t cluster_level, bytes name):
        """Index of the metric in this cluster, -1 if it is not defined."""
        return self.metric_c(
            cluster_level, name, PyBytes_GET_SIZE(name), ms_load_acquire_u64(&self.head.n_metrics)
        )

    def find_series(self, uint32_t level, uint32_t metric):
        """Slot of the newest era of (level, metric), -1 if there is none."""
        return self.series_c(level, metric, ms_load_acquire_u64(&self.head.n_series), False)

    def find_series_path(self, cluster, host, metric, type="", type_id="", subtype="", subtype_id=""):
        """Reference (generation << 32 | slot) of a path's series, or a negative MISSING_* code: which part is missing."""
        cdef uint64_t bound = ms_load_acquire_u64(&self.head.n_levels)
        cdef Py_ssize_t n = 0
        cdef const char* name
        cdef int64_t cluster_level = self.child_c(0, "", cluster, bound), level, index, slot
        if cluster_level < 0:
            return MISSING_CLUSTER
        level = self.child_c(cluster_level, "", host, bound)
        if level < 0:
            return MISSING_HOST
        name = text_of(metric, &n)
        index = -1
        if name != NULL:
            index = self.metric_c(
                <uint32_t>cluster_level, name, <size_t>n, ms_load_acquire_u64(&self.head.n_metrics)
            )
        if index < 0:
            return MISSING_METRIC
        level = self.below_host_c(level, type, type_id, subtype, subtype_id, bound)
        if level < 0:
            return MISSING_LEVEL
        slot = self.series_c(<uint32_t>level, <uint32_t>index, ms_load_acquire_u64(&self.head.n_series), False)
        if slot < 0:
            return MISSING_SERIES
        return <uint64_t>ms_load_relaxed_u32(&self.series_p[slot].generation) << 32 | <uint64_t>slot

    def lookup_key(self, bytes key, uint32_t cluster_id):
        """The reference or ignore word of a key as a connection with this default cluster sees it; 0 = unknown."""
        cdef uint64_t hash = ms_hash(<const char*>key, PyBytes_GET_SIZE(key), self.seed)
        cdef ms_key* entry = self.key_c(hash, key, PyBytes_GET_SIZE(key), cluster_id)
        if entry == NULL:
            return 0
        # SYNC POINT (acquire) key ref: type, kind and step of the entry
        cdef uint64_t ref = ms_load_acquire_u64(&entry.ref)
        return 0 if <uint32_t>ref == MS_IGNORE_SLOT and ref >> 56 == 0 else ref

    # ---- listing ----

    def children(self, uint32_t level):
        """Ids of the direct children: list[int], newest first."""
        cdef uint64_t bound = ms_load_acquire_u64(&self.head.n_levels)  # SYNC POINT (acquire) counts
        cdef uint64_t steps = 0
        if level >= bound:
            raise IndexError(f"level {level} does not exist")
        found = []
        cdef uint32_t id = ms_load_acquire_u32(&self.levels_p[level].first_child)  # SYNC POINT (acquire) child link
        cdef uint64_t reserved = self.head.region[<int>MS_REGION_LEVELS].reserved // sizeof(ms_level)
        while id != 0 and id < reserved and steps <= reserved:
            if id < bound:
                found.append(id)
            id = ms_load_acquire_u32(&self.levels_p[id].next_sibling)
            steps += 1
        return list(dict.fromkeys(found))  # one that was linked again meanwhile leads through the list once more

    def level_series(self, uint32_t level, bint eras=False):
        """Slots of the level's series: list[int], newest first; only newest eras unless eras=True."""
        if level >= ms_load_acquire_u64(&self.head.n_levels):
            raise IndexError(f"level {level} does not exist")
        cdef int attempt
        for attempt in range(WALK_ATTEMPTS):
            found = self.walk_series(level, eras)
            if found is not None:
                return found
        raise RuntimeError(f"the series of level {level} changed {WALK_ATTEMPTS} times while being listed")

    cdef list walk_series(self, uint32_t level, bint eras):
        """One walk of a level's list; None when a step was taken from a slot that no longer belongs to the level."""
        cdef uint64_t bound = self.head.region[<int>MS_REGION_SERIES].reserved // sizeof(ms_series), steps = 0
        cdef uint64_t published = ms_load_acquire_u64(&self.head.n_series)
        cdef uint32_t generation, link = ms_load_acquire_u32(&self.levels_p[level].first_series)
        cdef uint32_t next_link
        cdef uint8_t flags
        cdef ms_series* series
        found = []
        while link != 0 and steps <= bound:
            if link > bound:
                return None
            series = &self.series_p[link - 1]
            generation = ms_load_acquire_u32(&series.generation)
            next_link = series.next_series
            flags = series.flags
            ms_fence_acquire()  # SYNC POINT (acquire) series reuse: the link belonged to this level and generation
            if series.level != level or ms_load_relaxed_u32(&series.generation) != generation:
                return None
            if link - 1 < published and flags & SERIES_LIVE and (eras or not flags & SERIES_ENDED):
                found.append(link - 1)
            link = next_link
            steps += 1
        return found if steps <= bound else None

    def text(self, uint64_t offset, uint64_t n):
        """n bytes of the names region, as bytes; ValueError when they lie outside the segment."""
        if offset > self.length or n > self.length - offset:
            raise ValueError("a name lies outside the directory")
        return PyBytes_FromStringAndSize(self.base + offset, <Py_ssize_t>n)

    def level_fields(self, uint32_t id):
        """(parent, type bytes, id bytes, depth, cluster, n_series, n_children, flags) of a published level."""
        if id >= ms_load_acquire_u64(&self.head.n_levels):
            raise IndexError(f"level {id} does not exist")
        cdef ms_level* level = &self.levels_p[id]
        name = self.text(level.name, level.name_len)
        return (level.parent, name[: level.type_len], name[level.type_len :], level.depth, level.cluster,
                level.n_series, level.n_children, level.flags)

    cdef bint copy_metric(self, uint32_t index, ms_metric* into) noexcept nogil:
        """A metric as it was at one moment; False when the writer kept changing it (never, in practice)."""
        cdef ms_metric* metric = &self.metrics_p[index]
        cdef uint32_t generation
        cdef int attempt
        for attempt in range(1000000):
            generation = ms_load_acquire_u32(&metric.generation)  # SYNC POINT (acquire) metric definition
            into[0] = metric[0]
            ms_fence_acquire()
            if not generation & 1 and ms_load_relaxed_u32(&metric.generation) == generation:
                return True
        return False

    def metric_fields(self, uint32_t index):
        """(cluster, name, step_s, unit, aggregation, type, kind, columns, n_columns, origin, generation, retention_s)."""
        cdef ms_metric metric
        if index >= ms_load_acquire_u64(&self.head.n_metrics):
            raise IndexError(f"metric {index} does not exist")
        if not self.copy_metric(index, &metric):
            raise RuntimeError(f"metric {index} is stuck in a change")
        return (metric.cluster, self.text(metric.name, metric.name_len), metric.step_s,
                self.text(metric.unit, metric.unit_len), metric.aggregation, metric.type, metric.kind,
                self.text(metric.columns, metric.columns_len), metric.n_columns, metric.origin, metric.generation,
                metric.retention_s)

    cdef bint copy_series(self, uint32_t slot, ms_series* into) noexcept nogil:
        """A live series as it was at one moment; False when the slot is free or being reused."""
        cdef ms_series* series = &self.series_p[slot]
        cdef uint32_t generation = ms_load_acquire_u32(&series.generation)
        if not ms_load_acquire_u32(&series.kind) >> 24 & SERIES_LIVE:  # SYNC POINT (acquire) series live
            return False
        into[0] = series[0]
        ms_fence_acquire()  # SYNC POINT (acquire) series reuse
        return (ms_load_relaxed_u32(&series.generation) == generation and into.generation == generation
                and into.flags & SERIES_LIVE != 0)

    def series_fields(self, uint32_t slot):
        """The SERIES row as a tuple in the order of shm.directory.SeriesInfo; None when the slot is free."""
        cdef ms_series s
        if slot >= ms_load_acquire_u64(&self.head.n_series) or not self.copy_series(slot, &s):
            return None
        prev = <uint64_t>s.prev_generation << 32 | (s.prev_slot - 1) if s.prev_slot else 0
        next = <uint64_t>s.next_generation << 32 | (s.next_slot - 1) if s.next_slot else 0
        return (slot, s.generation, s.kind, s.type, s.n_columns, s.anchor_s, s.step_s, s.level, s.metric, prev, next,
                s.era_start, s.last_t, s.first_n, s.last_n, s.n_chunks, bool(s.flags & SERIES_ENDED))

    def lapses(self) -> int:
        """How often series have lapsed so far: taken out, continued by an era, or about to be removed."""
        return ms_load_acquire_u64(&self.head.lapses)  # SYNC POINT (acquire) lapses: the flags changed before the count

    def grids_changed_s(self) -> int:
        """No grid sample of this time (seconds) or later belongs to an era of another type or step than its series' newest."""
        # SYNC POINT (acquire) grids changed: within an epoch, in which it does not change.
        return <int64_t>ms_load_acquire_u64(&self.head.grids_changed_s)

    def counts(self):
        """Published counts and bytes: dict[str, int]."""
        cdef ms_directory* head = self.head
        cdef int i
        names = ("levels", "series", "metrics", "lives", "names", "keys", "tables")
        found = {
            "n_levels": ms_load_acquire_u64(&head.n_levels),
            "n_series": ms_load_acquire_u64(&head.n_series),
            "n_metrics": ms_load_acquire_u64(&head.n_metrics),
            "n_keys": ms_load_acquire_u64(&head.n_keys),
            "live_series": ms_load_acquire_u64(&head.live_series),
            "max_series": head.max_series,
            "generation": ms_load_acquire_u32(&head.generation),
            "critical": ms_load_acquire_u64(&head.critical),
        }
        for i in range(MS_REGIONS):
            found[f"{names[i]}_used"] = ms_load_acquire_u64(&head.region[i].used)
            found[f"{names[i]}_committed"] = ms_load_acquire_u64(&head.region[i].committed)
        return found

    def region_bytes(self, int region):
        """The used part of a region (index into layout.REGION_NAMES), read-only and live, for numpy.frombuffer."""
        if not 0 <= region < MS_REGIONS:
            raise IndexError(f"there is no region {region}")
        cdef RegionBytes found = RegionBytes()
        found.segment, found.at = self.segment, self.base + self.head.region[region].offset
        found.n = <Py_ssize_t>ms_load_acquire_u64(&self.head.region[region].used)
        return memoryview(found)

    def table_bytes(self, int table):
        """The slots of a hash table (index into layout.TABLE_NAMES), read-only, for numpy.frombuffer: uint64 for keys,
        uint32 for the others."""
        cdef uint64_t word, mask = 0
        cdef RegionBytes found = RegionBytes()
        if not 0 <= table < MS_TABLES:
            raise IndexError(f"there is no table {table}")
        found.segment, found.at = self.segment, <char*>self.table_slots(table, &word, &mask)
        if found.at == NULL:
            raise ValueError(f"hash table {table} lies outside the directory")
        found.n = <Py_ssize_t>((mask + 1) * slot_bytes(table))
        return memoryview(found)

    # ---- records: what the log and the snapshots hold ----

    cdef void put_level(self, RecordBuffer out, uint32_t id) except *:
        cdef ms_level* level = &self.levels_p[id]
        cdef char* at = out.begin(MS_REC_LEVEL, sizeof(rec_level), level.name_len)
        cdef rec_level* body = <rec_level*>at
        body.id, body.parent, body.generation = id, level.parent, level.generation
        body.type_len, body.name_len = level.type_len, level.name_len
        memcpy(at + sizeof(rec_level), self.base + level.name, level.name_len)

    cdef void put_metric(self, RecordBuffer out, uint32_t index) except *:
        cdef ms_metric m
        if not self.copy_metric(index, &m):
            raise RuntimeError(f"metric {index} is stuck in a change")
        cdef char* at = out.begin(MS_REC_METRIC, sizeof(rec_metric), <size_t>m.name_len + m.unit_len + m.columns_len)
        cdef rec_metric* body = <rec_metric*>at
        body.index, body.cluster, body.step_s, body.kind, body.type = index, m.cluster, m.step_s, m.kind, m.type
        body.aggregation, body.n_columns, body.origin = m.aggregation, m.n_columns, m.origin
        body.name_len, body.unit_len, body.columns_len = m.name_len, m.unit_len, m.columns_len
        body.retention_s = m.retention_s
        at += sizeof(rec_metric)
        memcpy(at, self.base + m.name, m.name_len)
        memcpy(at + m.name_len, self.base + m.unit, m.unit_len)
        memcpy(at + m.name_len + m.unit_len, self.base + m.columns, m.columns_len)

    cdef void put_series_row(self, RecordBuffer out, int type, uint32_t slot, ms_series* s) except *:
        cdef rec_series* body = <rec_series*>out.begin(type, sizeof(rec_series), 0)
        body.slot, body.generation, body.level, body.metric = slot, s.generation, s.level, s.metric
        body.kind, body.type, body.n_columns = s.kind, s.type, s.n_columns
        body.flags = SERIES_LIVE | (s.flags & SERIES_ENDED)
        body.step_s, body.anchor_s, body.era_start = s.step_s, s.anchor_s, s.era_start
        if s.prev_slot:
            body.prev = <uint64_t>s.prev_generation << 32 | (s.prev_slot - 1)
        if s.next_slot:
            body.next = <uint64_t>s.next_generation << 32 | (s.next_slot - 1)

    cdef void put_series(self, RecordBuffer out, int type, uint32_t slot) except *:
        self.put_series_row(out, type, slot, &self.series_p[slot])

    cdef void put_key(self, RecordBuffer out, ms_key* entry) except *:
        cdef char* at = out.begin(MS_REC_KEY, sizeof(rec_key), entry.len)
        cdef rec_key* body = <rec_key*>at
        body.ref, body.default_cluster, body.len = entry.ref, entry.default_cluster, entry.len
        body.type, body.kind = entry.type, entry.kind
        memcpy(at + sizeof(rec_key), <char*>entry + sizeof(ms_key), entry.len)

    cdef void put_remove(self, RecordBuffer out, uint64_t ref, uint64_t prev, uint64_t next) except *:
        cdef rec_remove* body = <rec_remove*>out.begin(MS_REC_REMOVE, sizeof(rec_remove), 0)
        body.ref, body.prev, body.next = ref, prev, next

    def dump_bounds(self):
        """(n_levels, n_metrics, n_series, key bytes): what a dump that starts now covers.

        Series are read first: whatever a series below its bound refers to was published no later than itself.
        """
        keys = ms_load_acquire_u64(&self.head.region[<int>MS_REGION_KEYS].used)
        series = ms_load_acquire_u64(&self.head.n_series)  # SYNC POINT (acquire) counts
        metrics = ms_load_acquire_u64(&self.head.n_metrics)
        return ms_load_acquire_u64(&self.head.n_levels), metrics, series, keys

    def dump_levels(self, uint32_t start, uint32_t stop, size_t limit):
        """LEVEL records of ids [start, stop) until `limit` bytes: (bytes, id to continue with)."""
        cdef RecordBuffer out = RecordBuffer()
        cdef uint32_t id = start if start else 1  # the root is in every directory
        while id < stop and out.used < limit:
            self.put_level(out, id)
            id += 1
        return out.take(), id

    def dump_metrics(self, uint32_t start, uint32_t stop, size_t limit):
        """METRIC records of indices [start, stop) until `limit` bytes: (bytes, index to continue with)."""
        cdef RecordBuffer out = RecordBuffer()
        cdef uint32_t index = start
        while index < stop and out.used < limit:
            self.put_metric(out, index)
            index += 1
        return out.take(), index

    def dump_series(self, uint32_t start, uint32_t stop, uint32_t n_levels, uint32_t n_metrics, size_t limit):
        """SERIES records of live slots, REMOVE records of free ones (they carry the generation): (bytes, next slot).

        A series whose level or metric is newer than the dump's bounds is left out: its definition is in the log.
        """
        cdef RecordBuffer out = RecordBuffer()
        cdef uint32_t slot = start, generation
        cdef ms_series s
        while slot < stop and out.used < limit:
            if self.copy_series(slot, &s):
                if s.level < n_levels and s.metric < n_metrics:
                    self.put_series_row(out, MS_REC_SERIES, slot, &s)
            else:
                generation = ms_load_acquire_u32(&self.series_p[slot].generation)
                if generation > 1:
                    self.put_remove(out, <uint64_t>(generation - 1) << 32 | slot, 0, 0)
            slot += 1
        return out.take(), slot

    def dump_keys(self, uint64_t start, uint64_t stop, uint32_t n_series, uint32_t n_levels, size_t limit):
        """KEY records of entries at byte offsets [start, stop) that lead to live series: (bytes, next offset)."""
        cdef RecordBuffer out = RecordBuffer()
        cdef uint64_t offset = start if start else 16, ref
        cdef ms_key* entry
        cdef ms_series* series
        while offset + sizeof(ms_key) <= stop and out.used < limit:
            entry = <ms_key*>(self.keys_p + offset)
            ref = ms_load_acquire_u64(&entry.ref)
            offset += sizeof(ms_key) + ((entry.len + 7) & ~7)
            if <uint32_t>ref >= n_series or offset > stop or entry.default_cluster >= n_levels:
                continue
            series = &self.series_p[<uint32_t>ref]
            if series.generation == ref >> 32 and series.flags & SERIES_LIVE:
                self.put_key(out, entry)
        return out.take(), offset
