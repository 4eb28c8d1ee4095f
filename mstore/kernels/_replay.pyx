"""The directory, write side, third part: replaying its own records, ignoring metrics, keeping the key region in bounds.

Every record names its ids, slots and generations; applying one again, or one that a later state has overtaken, changes
nothing. That is what makes a dump taken while the writer works (a fuzzy snapshot) exact, after the log from its starting
position on has been applied to it.
"""

from libc.string cimport memcmp, memcpy, memmove, memset

from mstore.kernels._backing cimport ms_back
from mstore.kernels._define cimport metric_def, span
from mstore.kernels._directory cimport *
from mstore.kernels._intern cimport entry_bytes, pending_key
from mstore.kernels._segment cimport Segment

cdef enum:
    STEP = 65536
    KEYS_START = 16      # so that no slot word of the key table is 0 or 1
    TABLE_LOG2 = 10      # slots of a new table


def create(Segment segment, int fd, list sizes, uint32_t max_series, uint64_t seed):
    """Write the words of an empty directory into zeroed memory; sizes in the order of layout.REGION_NAMES.

    Raises MemoryError when the first pages cannot be had.
    """
    cdef ms_directory* head = <ms_directory*>(segment.base + MS_PAGE)
    cdef ms_region* tables = &head.region[<int>MS_REGION_TABLES]
    cdef uint64_t at = 2 * MS_PAGE, table_at
    cdef ms_level* root
    cdef int i
    if not segment.writable:
        raise ValueError("a directory is made in a writable segment")
    commit_first(segment, fd, 0, 2 * MS_PAGE)
    memset(head, 0, sizeof(ms_directory))
    for i in range(MS_REGIONS):
        head.region[i].offset, head.region[i].reserved = at, sizes[i]
        if i != MS_REGION_LIVES and i != MS_REGION_TABLES:
            commit_first(segment, fd, at, STEP)
            head.region[i].committed = STEP
        at += head.region[i].reserved
    for i in range(MS_TABLES):
        table_at = tables.offset + tables.reserved // MS_TABLES // MS_PAGE * MS_PAGE * i
        commit_first(segment, fd, table_at, slot_bytes(i) << TABLE_LOG2)
        tables.used += slot_bytes(i) << TABLE_LOG2
        head.table[i] = table_at << 8 | TABLE_LOG2
    tables.committed = tables.used
    head.region[<int>MS_REGION_KEYS].used = KEYS_START
    head.region[<int>MS_REGION_LEVELS].used = sizeof(ms_level)
    head.hash_seed, head.max_series, head.n_levels, head.generation = seed, max_series, 1, 1
    root = <ms_level*>(segment.base + head.region[<int>MS_REGION_LEVELS].offset)
    root.generation = 1
    root.name = head.region[<int>MS_REGION_NAMES].offset


cdef int commit_first(Segment segment, int fd, uint64_t at, uint64_t n) except -1:
    if fd >= 0 and ms_back(fd, segment.base, at, at, n):  # nothing is given back: the file goes as a whole
        raise MemoryError("no room for an empty directory")
    return 0


cdef class DirectoryWriter(Interner):
    """The directory's only writer.

    segment          writable Segment over the whole directory, made by create()
    fd               of the shared-memory file, to commit more of it; -1 = memory that needs no committing
    commits_allowed  number of commits that still succeed, -1 = all: lets a test make the store full at the n-th step
    limit_bytes      of the whole segment with memory; 0 = none. What would pass it fails as if memory were full
    admits           False: unknown series are not made but refused as STORE_FULL
    """

    # ---- replay ----

    def apply(self, const unsigned char[::1] records):
        """Apply concatenated definition records: the number applied or found applied already.

        Raises ValueError naming offset and fault for anything that is not a definition record in order; MemoryError
        when full. What came before the fault stays applied.
        """
        cdef size_t at = 0, n = <size_t>records.shape[0]
        cdef ms_record record
        cdef const char* base = ""
        if n:
            base = <const char*>&records[0]
        cdef bint nested = self.changing
        cdef size_t count = 0
        self.begin()
        try:
            while at < n:
                if n - at < sizeof(ms_record):
                    raise ValueError(f"half a record at offset {at}")
                memcpy(&record, base + at, sizeof(ms_record))
                if record.length < sizeof(ms_record) or record.length % 8 or record.length > n - at:
                    raise ValueError(f"record at offset {at} has an impossible length {record.length}")
                fault = self.apply_one(record.type, base + at + sizeof(ms_record), record.length - sizeof(ms_record))
                if fault is not None:
                    raise ValueError(f"record of type {record.type} at offset {at}: {fault}")
                at += record.length
                count += 1
        finally:
            if not nested:
                self.publish()
        return count

    cdef object apply_one(self, int type, const char* body, size_t n):
        """None, or what is wrong with the record."""
        if type == MS_REC_LEVEL:
            return self.apply_level(body, n)
        if type == MS_REC_METRIC:
            return self.apply_metric(body, n)
        if type == MS_REC_SERIES or type == MS_REC_ERA:
            return self.apply_series(body, n, type == MS_REC_ERA)
        if type == MS_REC_KEY:
            return self.apply_key(body, n)
        if type == MS_REC_REMOVE:
            return self.apply_remove(body, n)
        return "not a definition"

    cdef object apply_level(self, const char* body, size_t n):
        cdef rec_level r
        cdef size_t kept
        cdef ms_level* level
        if n < sizeof(r):
            return "too short"
        memcpy(&r, body, sizeof(r))
        if n < sizeof(r) + r.name_len or r.type_len > r.name_len or r.name_len == 0 or r.name_len > 2 * NAME_MAX:
            return "its name does not fit"
        if r.id == 0 or r.id > self.n_levels or r.parent >= r.id:
            return f"level {r.id} below level {r.parent} does not follow the {self.n_levels} levels known"
        if r.id < self.n_levels:
            level = &self.levels_p[r.id]
            if level.parent != r.parent or level.type_len != r.type_len or level.name_len != r.name_len \
                    or memcmp(self.base + level.name, body + sizeof(r), r.name_len):
                return f"level {r.id} is another level already"
            return None
        if self.level_c(r.parent, body + sizeof(r), r.name_len, r.type_len, self.n_levels) >= 0:
            return f"level {r.id} exists under another id"
        kept = self.log.used
        if self.make_level(r.parent, body + sizeof(r), r.name_len, r.type_len) < 0:
            raise MemoryError("no room for another level")
        self.log.used = kept  # what is replayed is in the log already
        return None

    cdef object apply_metric(self, const char* body, size_t n):
        cdef rec_metric r
        cdef metric_def d
        cdef span name
        cdef ms_metric* metric
        cdef const char* text = body + sizeof(r)
        if n < sizeof(r):
            return "too short"
        memcpy(&r, body, sizeof(r))
        if n < sizeof(r) + <size_t>r.name_len + r.unit_len + r.columns_len or r.name_len == 0 or r.name_len > NAME_MAX:
            return "its texts do not fit"
        if r.cluster == 0 or r.cluster >= self.n_levels or r.index > self.n_metrics:
            return f"metric {r.index} of cluster {r.cluster} does not follow what is known"
        d.step_s, d.type, d.kind, d.aggregation, d.n_columns = r.step_s, r.type, r.kind, r.aggregation, r.n_columns
        d.origin, d.retention_s = r.origin, r.retention_s
        d.unit, d.unit_len = text + r.name_len, r.unit_len
        d.columns, d.columns_len = text + r.name_len + r.unit_len, r.columns_len
        name.at, name.n = text, r.name_len
        if r.index == self.n_metrics:
            if self.metric_c(r.cluster, name.at, name.n, self.n_metrics) >= 0:
                return f"metric {r.index} exists under another index"
            if self.make_metric(r.cluster, name, &d) < 0:
                raise MemoryError("no room for another metric")
            return None
        metric = &self.metrics_p[r.index]
        if metric.cluster != r.cluster or metric.name_len != name.n or memcmp(self.base + metric.name, name.at, name.n):
            return f"metric {r.index} is another metric already"
        if not self.same_definition(metric, &d) and not self.write_definition(metric, &d):
            raise MemoryError("no room for the definition's texts")
        return None

    cdef object apply_series(self, const char* body, size_t n, bint era):
        cdef rec_series r
        cdef ms_series* s
        cdef ms_series* old
        if n < sizeof(r):
            return "too short"
        memcpy(&r, body, sizeof(r))
        if r.generation == 0 or r.level == 0 or r.level >= self.n_levels or r.metric >= self.n_metrics:
            return f"series {r.slot} belongs to level {r.level} and metric {r.metric}, not both are known"
        if self.metrics_p[r.metric].cluster != self.levels_p[r.level].cluster:
            return f"series {r.slot} has the metric of another cluster"
        if r.kind not in (1, 2) or r.type > 3 or (r.kind == 1 and r.step_s == 0):
            return f"series {r.slot} has kind {r.kind}, type {r.type} and step {r.step_s}"
        if r.slot >= self.head.max_series:
            return f"series {r.slot} is beyond max_series {self.head.max_series}"
        if r.slot >= self.n_series and not self.extend_series(r.slot):
            raise MemoryError("no room for another series")
        self.free_known = False
        s = &self.series_p[r.slot]
        if s.generation > r.generation:
            return None  # removed since, and maybe used again
        if s.level == MS_NO_LEVEL or s.generation < r.generation:
            if s.level != MS_NO_LEVEL:
                self.publish_removal(<uint64_t>s.generation << 32 | r.slot, 0, 0)
            self.place_series(s, &r)
            if not self.ensure_table(MS_TABLE_SERIES, 1):
                raise MemoryError("no room for another series")
            if not r.flags & SERIES_ENDED:
                self.table_series(r.slot)
        elif s.level != r.level or s.metric != r.metric:
            return f"series {r.slot} of generation {r.generation} is another series already"
        if era and r.prev:
            old = self.live_at(r.prev)
            # A dump may have seen the old era's end without the new era: its keys have yet to move.
            if old != NULL and old != s and (
                not old.flags & SERIES_ENDED
                or (old.next_slot == r.slot + 1 and old.next_generation == r.generation)
            ):
                self.join_eras(old, s)
        return None

    cdef void place_series(self, ms_series* s, rec_series* r) noexcept:
        cdef ms_series* near
        s.generation = r.generation
        self.fill_series(r.slot, r.level, r.metric, r.anchor_s)
        s.kind, s.type, s.n_columns, s.step_s, s.era_start = r.kind, r.type, r.n_columns, r.step_s, r.era_start
        if r.prev:
            s.prev_slot, s.prev_generation = <uint32_t>r.prev + 1, <uint32_t>(r.prev >> 32)
            near = self.live_at(r.prev)
            if near != NULL:
                self.note_change(near, s)
        if r.next:
            s.next_slot, s.next_generation = <uint32_t>r.next + 1, <uint32_t>(r.next >> 32)
            near = self.live_at(r.next)
            if near != NULL:
                self.note_change(s, near)
        self.link_series(r.slot)
        self.live += 1
        self.set_flags(s, SERIES_LIVE | (r.flags & SERIES_ENDED))

    cdef object apply_key(self, const char* body, size_t n):
        cdef rec_key r
        cdef uint64_t hash, ref
        cdef ms_key* entry
        cdef ms_series* s
        cdef const char* key = body + sizeof(r)
        cdef size_t pending = self.new_keys.used
        if n < sizeof(r):
            return "too short"
        memcpy(&r, body, sizeof(r))
        if n < sizeof(r) + r.len or r.len > KEY_MAX:
            return "its key does not fit"
        if r.default_cluster >= self.n_levels:
            return f"its default cluster {r.default_cluster} is not known"
        ref = self.newest_era(r.ref)
        s = self.live_at(ref)
        if s == NULL:
            return None  # the series was removed since, and its keys with it
        hash = ms_hash(key, r.len, self.seed)
        entry = self.key_c(hash, key, r.len, r.default_cluster)
        if entry == NULL:
            self.add_key(key, r.len, hash, r.default_cluster, ref, s.type, s.kind, s.step_s)
        elif entry.ref != ref:
            self.update_key(entry, hash, ref, s.type, s.kind, s.step_s)
        else:
            return None
        if self.new_keys.used > pending:  # nothing was added when the key region is full
            ms_store_release_u64(&self.head.n_keys, self.n_keys)
            ms_store_release_u64(&self.head.region[<int>MS_REGION_KEYS].used, self.keys_used)
            self.new_keys.used -= sizeof(pending_key)
            self.publish_key(<pending_key*>(self.new_keys.bytes + self.new_keys.used))
        return None

    cdef object apply_remove(self, const char* body, size_t n):
        cdef rec_remove r
        cdef ms_series* s
        cdef uint32_t slot, generation
        if n < sizeof(r):
            return "too short"
        memcpy(&r, body, sizeof(r))
        slot, generation = <uint32_t>r.ref, <uint32_t>(r.ref >> 32)
        if slot >= self.head.max_series or generation == 0 or generation == 0xFFFFFFFF:
            return f"series {slot} of generation {generation} cannot be"
        if slot >= self.n_series and not self.extend_series(slot):
            raise MemoryError("no room for another series")
        self.free_known = False
        s = &self.series_p[slot]
        if s.level != MS_NO_LEVEL and s.generation <= generation:
            self.publish_removal(<uint64_t>s.generation << 32 | slot, r.prev, r.next)
        else:
            self.mend_eras(r.ref, r.prev, r.next)
            self.bridge_eras(r.prev, r.next)
        self.settle_keys(r.prev)
        if s.generation <= generation:
            ms_store_release_u32(&s.generation, generation + 1)
        return None

    cdef void bridge_eras(self, uint64_t prev, uint64_t next) noexcept:
        """Link the neighbours of an era that a dump no longer held, so that its own record never linked them."""
        cdef ms_series* p = self.live_at(prev) if prev else NULL
        cdef ms_series* q = self.live_at(next) if next else NULL
        if p != NULL and q != NULL and not p.next_slot and p.level == q.level and p.metric == q.metric:
            self.join_eras(p, q)

    cdef void settle_keys(self, uint64_t ref) noexcept:
        """Move the keys of an ended era to the newest. A dump can leave them behind: it saw this era end, and the one
        in between, whose record would have moved them, was gone by then."""
        cdef ms_series* s = self.live_at(ref) if ref else NULL
        cdef uint64_t newest
        if s == NULL or not s.first_key:
            return
        newest = self.newest_era(ref)
        if newest != ref:
            self.move_keys(s, self.live_at(newest))

    # ---- metrics that are no longer wanted ----

    def ignore_metrics(self, indices):
        """Refuse samples of these metrics (and of no others) as UNKNOWN_METRIC; what they have stays readable.

        Keys and handles of their series lead nowhere from here on, and lead to them again once they are not among the
        indices. Nothing of it is logged: it is a matter of the configuration. raises IndexError for an index there is not
        """
        cdef uint64_t slot
        cdef uint8_t states
        cdef bint hide, any_hidden = bool(self.hidden)
        cdef bytearray wanted = bytearray(self.n_metrics)
        for index in indices:
            if not 0 <= index < self.n_metrics:
                raise IndexError(f"no metric {index}: there are {self.n_metrics}")
            wanted[index] = 1
        self.ignored = set(indices)
        if not self.ignored and not any_hidden:
            return
        # Ended eras first: whoever finds a series shown again finds the eras before it, too.
        for states in (SERIES_LIVE | SERIES_ENDED, SERIES_LIVE):
            for slot in range(self.n_series):
                if (self.series_p[slot].level == MS_NO_LEVEL
                        or self.series_p[slot].flags & (SERIES_LIVE | SERIES_ENDED) != states):
                    continue
                hide = wanted[self.series_p[slot].metric] != 0
                if (hide or any_hidden) and hide != (slot in self.hidden):
                    self.hide_series(<uint32_t>slot, hide)

    cdef void hide_series(self, uint32_t slot, bint hide):
        """Let a series' keys and handles lead nowhere, or to it again."""
        if hide:
            self.hidden.add(slot)
        else:
            self.hidden.discard(slot)
        if slot in self.removing:
            return  # its keys lead nowhere; remove_abort() looks at `hidden`
        if hide:
            self.unpublish_keys(slot)
        else:
            self.publish_keys(slot)

    def ignores(self, index):
        """Whether samples of this metric are refused by ignore_metrics()."""
        return index in self.ignored

    def newest_grids_unlike(self, const uint8_t[::1] types, const uint32_t[::1] steps=None, uint8_t without=0,
                            uint64_t limit=0xFFFFFFFF):
        """Slots of the grid series that no later era follows and whose type or step is not what is named here.

        types    uint8[n_metrics], by metric
        steps    uint32[n_metrics], seconds; None: any
        without  flags that leave a series out
        limit    slots at most
        returns  a list, ascending
        """
        cdef uint64_t slot
        cdef uint8_t states = SERIES_LIVE | SERIES_ENDED | without
        cdef ms_series* s
        cdef list found = []
        for slot in range(self.n_series):
            s = &self.series_p[slot]
            if s.flags & states != SERIES_LIVE or s.kind != KIND_GRID or s.metric >= <size_t>types.shape[0]:
                continue
            if s.type != types[s.metric] or (steps is not None and s.step_s != steps[s.metric]):
                found.append(slot)
                if <uint64_t>len(found) >= limit:
                    break
        return found

    # ---- keeping the key region in bounds ----

    def rebuild_keys(self):
        """Drop ignore words and dead entries, move the rest together: (entries before, entries after).

        Only while no ingest worker has a batch in hand: entries move under their hints. The directory's generation is
        bumped; a worker that sees it change forgets its hints.
        """
        cdef uint64_t read = KEYS_START, write = KEYS_START, size, before = self.n_keys, slot
        cdef uint32_t low
        cdef ms_key* entry
        cdef ms_series* s
        cdef uint64_t* slots
        cdef bint nested = self.changing
        if self.new_keys.used or self.removing:
            raise RuntimeError("publish, and finish or abort removals, before the keys are rebuilt")
        self.begin()
        slots = <uint64_t*>(self.base + (self.head.table[<int>MS_TABLE_KEYS] >> 8))
        memset(slots, 0, <size_t>8 << (self.head.table[<int>MS_TABLE_KEYS] & 255))
        self.head.table_used[<int>MS_TABLE_KEYS] = 0
        for slot in range(self.n_series):
            self.series_p[slot].first_key = 0
        self.n_keys = 0
        while read < self.keys_used:
            entry = <ms_key*>(self.keys_p + read)
            size = entry_bytes(entry.len)
            s = self.live_at(entry.ref)
            if s != NULL:
                memmove(self.keys_p + write, entry, size)
                entry = <ms_key*>(self.keys_p + write)
                self.n_keys += 1
                entry.index, entry.next_key = <uint32_t>self.n_keys, 0
                self.chain_key(entry, entry.ref)
                low = <uint32_t>(write >> 3)
                self.put_slot(MS_TABLE_KEYS, self.entry_hash(MS_TABLE_KEYS, low), low)
                write += size
            read += size
        memset(self.keys_p + write, 0, self.keys_used - write)
        self.keys_used = write
        ms_store_release_u32(&self.head.generation, self.head.generation + 1)
        self.publish_counts()
        if not nested:
            self.publish()
        return before, self.n_keys
