"""Many selections in one call: the slots of single series, sums and means over several, all into two arrays.

    refs    | group 0: one series | group 1: 72 series ....... | group 2: 72 series ....... |
    values  | f32 [n0]            | f64 [n1]                   | f64 [n2]                   |
    counts  |                     | u32 [n1]                   | u32 [n2]                   |

Series of one host lie beside each other in memory, the groups that want them do not: a node's eight metrics over its
hardware threads take every eighth chunk each. So groups of the same shape are read together (a bundle), in the order of
their series' slots, tile by tile: memory is walked once, from front to back. Within a group series are added in the
order given, as if it were alone.

    for tile in tiles:                  TILE slots, chunk by chunk where the series agree on their borders
        for series in the bundle:       in slot order
            copy its tile to a row of its group; when ROWS of a group are there, add them at once
        what rows are left is added; sums become the answer while they are in the cache
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from mstore.kernels._aggregate cimport *
from mstore.kernels._atomics cimport *
from mstore.kernels._gather cimport Gatherer
from mstore.kernels._gather_runs cimport (
    _GONE,
    _LIMIT,
    _NO_MEMORY,
    _OK,
    _OTHER_KIND,
    count_present,
    era,
    era_pool,
    ms_prefetch,
    nominal,
    sink,
    width_of,
)
from mstore.kernels._layout cimport *

import numpy as np

cdef enum:
    TILE = 512                # slots: of a row 2 KiB, of sums and counts 6 KiB
    ROWS = 4                  # added at once
    BUNDLE_MAX = 8            # groups: their rows and sums are 112 KiB, which a second cache holds
    LINES_A_SERIES = 26       # of a chunk's 33 are fetched before a series is copied,
    LINES_A_PART = 10         # and some more after each part of a row that is added
    PART = 128
    LINE = 64

AVERAGE, PROPAGATE = 1, 2
"""Bits of a group's `how`."""

# Columns of the table of groups.
TYPE, START, STEP, SLOTS, VALUES_AT, COUNTS_AT, PRESENT, METRIC = range(8)

cdef enum:
    COLUMNS = 8

# A group while its bundle is read.
cdef struct reading:
    const group* of
    size_t next               # the chain that is its next
    double* sums
    uint32_t* counts
    float* rows               # ROWS of TILE values
    size_t n_rows
    size_t full               # how many rows are added next


cdef int begin(batch* b, size_t n_chains, size_t n_groups) noexcept nogil:
    b.pool = era_pool(NULL, 0, 0)
    b.n_groups = n_groups
    b.chains = <chain*>calloc(n_chains + 1, sizeof(chain))
    b.groups = <group*>calloc(n_groups + 1, sizeof(group))
    if b.chains != NULL and b.groups != NULL:
        return _OK
    release(b)
    return _NO_MEMORY


cdef void release(batch* b) noexcept nogil:
    free(b.pool.eras)
    free(b.chains)
    free(b.groups)


cdef int load(
    Gatherer g, batch* b, const uint64_t* refs, size_t m, size_t m_ahead, int64_t start, int64_t end, size_t at
) noexcept nogil:
    """The chains of m series, at chains[at] and after; the m_ahead references after them will be loaded next."""
    cdef size_t i, k
    cdef chain* c
    cdef const char* entry
    cdef int status
    for i in range(m):
        if i + AHEAD_LINKS < m + m_ahead:
            entry = <const char*>g.series_at(<uint32_t>refs[i + AHEAD_LINKS])
            ms_prefetch(entry)
            ms_prefetch(entry + LINE)
        c = &b.chains[at + i]
        c.slot = <uint32_t>refs[i]
        c.first = b.pool.n
        status = g.load_chain(refs[i], start, &b.pool)
        if status:
            return status
        if b.pool.eras[c.first].kind != KIND_GRID:
            return _OTHER_KIND
        c.stop = b.pool.n
        while c.first + 1 < c.stop and b.pool.eras[c.first].start >= end:
            c.first += 1
        c.narrow = True
        for k in range(c.first, c.stop):
            c.narrow = c.narrow and b.pool.eras[k].type == TYPE_F32
        note_links(g, &b.pool.eras[c.first], c)
    return _OK


cdef void note_links(Gatherer g, const era* e, chain* c) noexcept nogil:
    cdef uint64_t table = ms_load_relaxed_u64(&e.at.table), offset = table >> 8, log2 = table & 255
    c.links, c.mask = &e.at.link0, 0
    if table and log2 <= TABLE_LOG2_MAX and not offset & 7 and offset + (<uint64_t>8 << log2) <= g.committed():
        c.links = <const uint64_t*>(g.samples.base + offset)
        c.mask = (<uint64_t>1 << log2) - 1


cdef void expect(fetch_list* list, const char* at, const char* end) noexcept nogil:
    """Note memory to be fetched; what finds no room is not, it is only slower to read."""
    cdef size_t last = (list.first + list.n) % FETCHES_MAX
    if list.n == FETCHES_MAX or at >= end:
        return
    list.at[last] = at
    list.end[last] = end
    list.n += 1
    list.lines += (end - at + LINE - 1) // LINE


cdef void fetch(fetch_list* list, size_t lines) noexcept nogil:
    """Fetch the next so many lines; a fetch of a wrong address does nothing."""
    cdef const char* at
    cdef const char* end
    cdef size_t left
    lines = min(lines, list.lines)
    list.lines -= lines
    while lines:
        at = list.at[list.first]
        end = list.end[list.first]
        left = <size_t>(end - at + LINE - 1) // LINE
        if left > lines:
            end = at + lines * LINE
            list.at[list.first] = end
            lines = 0
        else:
            lines -= left
            list.first = (list.first + 1) % FETCHES_MAX
            list.n -= 1
        while at < end:
            ms_prefetch(at)
            at += LINE


cdef void expect_tile(
    const char* base, const era* e, const chain* c, int64_t t0, int64_t t1, fetch_list* ahead
) noexcept nogil:
    """Fetch the links of the chunks that hold an era's times t0 to t1, or the chunks they lead to."""
    cdef int64_t first = floor_div(t0 - e.anchor_s, e.step_s), last = floor_div(t1 - e.anchor_s, e.step_s)
    cdef int64_t n = floor_div(first, MS_CHUNK_SLOTS), end = min(floor_div(last, MS_CHUNK_SLOTS), n + 1)
    cdef const char* at
    cdef const char* stop
    cdef uint64_t word
    cdef uint32_t width = width_of(e.type)
    if ahead == NULL:
        ms_prefetch(e.at)
        ms_prefetch(&c.links[<uint64_t>n & c.mask])
        return
    while n <= end:
        word = ms_load_relaxed_u64(&c.links[<uint64_t>n & c.mask])
        if word != 0:
            at = base + MS_LINK_OFFSET(word)
            stop = at + CHUNK_HEADER_BYTES + min(last + 1 - n * MS_CHUNK_SLOTS, MS_CHUNK_SLOTS) * width
            expect(ahead, at, at + CHUNK_HEADER_BYTES)
            expect(ahead, at + CHUNK_HEADER_BYTES + max(first - n * MS_CHUNK_SLOTS, 0) * width, stop)
        n += 1


cdef int place(Gatherer g, batch* b, group* to, int64_t start, int64_t end, int64_t limit) noexcept nogil:
    """The grid of a group whose chains are loaded: the coarsest step, the phase of its first series."""
    cdef const chain* first = &b.chains[to.first]
    cdef const era* newest = &b.pool.eras[first.first]
    cdef size_t i, k
    to.step = 0
    for i in range(to.first, to.stop):
        to.step = max(to.step, b.pool.eras[b.chains[i].first].step_s)
    to.n = g.n_slots(nominal(newest), to.step, start, end, &to.t0)
    if to.n > limit:
        return _LIMIT
    to.n = max(to.n, 0)
    to.metric = newest.metric
    to.type = TYPE_F64
    if to.stop - to.first == 1:
        to.type = newest.type
        for k in range(first.first, first.stop):
            if b.pool.eras[k].type != to.type:
                to.type = TYPE_F64
    return _OK


cdef int read_single(Gatherer g, const batch* b, group* of, char* values) noexcept nogil:
    """The slots of a group of one series as they are stored."""
    cdef const chain* c = &b.chains[of.first]
    cdef sink to = sink(values, of.type, NULL, NULL)
    cdef int status = g.map_chain(&b.pool.eras[c.first], c.stop - c.first, of.t0, of.step, of.n, &to)
    if not status:
        of.present = count_present(values, of.type, of.n)
    return status


cdef void add_rows(reading* r, int64_t n, fetch_list* ahead) noexcept nogil:
    cdef size_t i
    cdef int64_t at = 0, part
    if r.n_rows == ROWS:
        while at < n:
            part = min(PART, n - at)
            ms_add4_f32(r.sums + at, r.counts + at, r.rows + at, TILE, part)
            fetch(ahead, LINES_A_PART)
            at += part
    else:
        for i in range(r.n_rows):
            ms_add_f32(r.sums, r.counts, r.rows + i * TILE, n)
    r.n_rows = 0
    r.full = ROWS


cdef int read_chain(
    Gatherer g, const batch* b, reading* r, const chain* c, int64_t t0, int64_t n, fetch_list* ahead
) noexcept nogil:
    """Add a series' n slots from t0 on to its group."""
    cdef sink to
    cdef int status
    if not c.narrow:
        add_rows(r, n, ahead)
        to = sink(NULL, 0, r.sums, r.counts)
        return g.map_chain(&b.pool.eras[c.first], c.stop - c.first, t0, r.of.step, n, &to)
    to = sink(<char*>(r.rows + r.n_rows * TILE), TYPE_F32, NULL, NULL)
    status = g.map_chain(&b.pool.eras[c.first], c.stop - c.first, t0, r.of.step, n, &to)
    r.n_rows += 1
    if r.n_rows == r.full:
        add_rows(r, n, ahead)
    return status


cdef size_t in_slot_order(const batch* b, reading* bundle, size_t n_bundle, uint32_t* order) noexcept nogil:
    """The chains of a bundle merged by their slots: pairs of (place in the bundle, chain), chains of a group in order."""
    cdef size_t i, best, n = 0
    cdef uint32_t slot, lowest
    while True:
        best = n_bundle
        lowest = 0xFFFFFFFF
        for i in range(n_bundle):
            if bundle[i].next < bundle[i].of.stop:
                slot = b.chains[bundle[i].next].slot
                if best == n_bundle or slot < lowest:
                    best, lowest = i, slot
        if best == n_bundle:
            return n
        order[2 * n] = <uint32_t>best
        order[2 * n + 1] = <uint32_t>bundle[best].next
        bundle[best].next += 1
        n += 1


cdef int read_tile(
    Gatherer g, const batch* b, reading* bundle, const uint32_t* order, size_t n_chains, int64_t at, int64_t n,
    fetch_list* ahead
) noexcept nogil:
    """Slots [at, at + n) of every group of a bundle, all its series added."""
    cdef size_t i, k
    cdef reading* r
    cdef const chain* c
    cdef int64_t t0
    cdef int status
    for i in range(n_chains + AHEAD_LINKS):
        # Links of a series are fetched first, its chunks some series later, when these have arrived.
        if i < n_chains:
            r = &bundle[order[2 * i]]
            c = &b.chains[order[2 * i + 1]]
            t0 = r.of.t0 + at * r.of.step
            expect_tile(g.samples.base, &b.pool.eras[c.first], c, t0, t0 + (n - 1) * r.of.step, NULL)
        if AHEAD_LINKS - AHEAD_CHUNKS <= i < n_chains + AHEAD_LINKS - AHEAD_CHUNKS:
            k = i - (AHEAD_LINKS - AHEAD_CHUNKS)
            r = &bundle[order[2 * k]]
            c = &b.chains[order[2 * k + 1]]
            t0 = r.of.t0 + at * r.of.step
            expect_tile(g.samples.base, &b.pool.eras[c.first], c, t0, t0 + (n - 1) * r.of.step, ahead)
            fetch(ahead, LINES_A_SERIES)
        if i >= AHEAD_LINKS:
            k = i - AHEAD_LINKS
            r = &bundle[order[2 * k]]
            status = read_chain(g, b, r, &b.chains[order[2 * k + 1]], r.of.t0 + at * r.of.step, n, ahead)
            if status:
                return status
    return _OK


cdef int read_bundle(
    Gatherer g, batch* b, size_t* members, size_t n_bundle, double* sums, uint32_t* counts, float* rows, bint whole
) noexcept nogil:
    """Groups of the same n and step, each into its place of `sums` and `counts`.

    whole  begins with nothing, and the sums become the answer; else what is there is added to
    """
    cdef reading bundle[BUNDLE_MAX]
    cdef fetch_list ahead
    cdef group* of
    cdef const era* newest
    cdef uint32_t* order
    cdef size_t i, n_chains = 0
    cdef int64_t at = 0, n
    cdef uint32_t least
    cdef int status = _OK
    for i in range(n_bundle):
        of = &b.groups[members[i]]
        n_chains += of.stop - of.first
        bundle[i] = reading(
            of, of.first, sums + of.values_at // 8, counts + of.counts_at, rows + i * ROWS * TILE, 0, ROWS
        )
    order = <uint32_t*>malloc(n_chains * 8)
    if order == NULL:
        return _NO_MEMORY
    in_slot_order(b, bundle, n_bundle, order)
    of = &b.groups[members[0]]
    ahead.first = ahead.n = ahead.lines = 0
    # The first tile ends where a chunk of the first series does, so that every chunk is opened once.
    newest = &b.pool.eras[b.chains[of.first].first]
    n = floor_div(of.t0 - newest.anchor_s, newest.step_s)
    n = TILE - (n - floor_div(n, TILE) * TILE)
    while at < of.n and not status:
        n = min(n, of.n - at)
        for i in range(n_bundle):
            if whole:
                memset(bundle[i].sums, 0, n * 8)
                memset(bundle[i].counts, 0, n * 4)
            bundle[i].full = 1 + i % ROWS  # not all groups shall add in one turn
        status = read_tile(g, b, bundle, order, n_chains, at, n, &ahead)
        for i in range(n_bundle):
            add_rows(&bundle[i], n, &ahead)
            if whole:
                of = &b.groups[members[i]]
                least = <uint32_t>(of.stop - of.first) if of.how & 2 else 1
                ms_finish(bundle[i].sums, bundle[i].counts, n, least, of.how & 1)
                of.present += ms_covered(bundle[i].counts, n)
            bundle[i].sums += n
            bundle[i].counts += n
        at += n
        n = TILE
    free(order)
    return status


cdef void expect_single(Gatherer g, const batch* b, const group* of, fetch_list* ahead) noexcept nogil:
    """Fetch what a group of one series will need; groups of several fetch for themselves."""
    cdef const chain* c = &b.chains[of.first]
    if of.stop - of.first == 1 and of.n > 0:
        expect_tile(g.samples.base, &b.pool.eras[c.first], c, of.t0, of.t0 + (of.n - 1) * of.step, ahead)


cdef bint alike(const group* x, const group* y) noexcept nogil:
    """Whether two groups can be read tile by tile together."""
    return x.n == y.n and x.step == y.step


cdef int read_all(Gatherer g, batch* b, const int64_t* turn, char* values, uint32_t* counts) noexcept nogil:
    """Every group, in the order of `turn`; neighbours of one shape in bundles."""
    cdef size_t members[BUNDLE_MAX]
    cdef size_t i, n_bundle = 0
    cdef fetch_list ahead
    cdef group* of
    cdef int status = _OK
    cdef float* rows = <float*>malloc(BUNDLE_MAX * ROWS * TILE * sizeof(float))
    if rows == NULL:
        return _NO_MEMORY
    ahead.first = ahead.n = ahead.lines = 0
    for i in range(b.n_groups):
        if i + AHEAD_LINKS < b.n_groups:
            expect_single(g, b, &b.groups[turn[i + AHEAD_LINKS]], NULL)
        if i + AHEAD_CHUNKS < b.n_groups:
            expect_single(g, b, &b.groups[turn[i + AHEAD_CHUNKS]], &ahead)
            fetch(&ahead, ahead.lines)
        of = &b.groups[turn[i]]
        if of.n == 0:
            continue
        if of.stop - of.first == 1:
            status = read_single(g, b, of, values + of.values_at)
        else:
            if n_bundle and (n_bundle == BUNDLE_MAX or not alike(of, &b.groups[members[0]])):
                status = read_bundle(g, b, members, n_bundle, <double*>values, counts, rows, True)
                n_bundle = 0
            members[n_bundle] = turn[i]
            n_bundle += 1
        if status:
            break
    if n_bundle and not status:
        status = read_bundle(g, b, members, n_bundle, <double*>values, counts, rows, True)
    free(rows)
    return status


cdef int prepare(
    Gatherer g, batch* b, const uint64_t[::1] refs, const int64_t[::1] bounds, const int64_t[::1] starts,
    const int64_t[::1] ends, const uint8_t[::1] how, const int64_t[::1] slots_max, size_t* n_bytes,
    size_t* n_counts
) noexcept nogil:
    """Chains, grids and places of all groups."""
    cdef size_t i, width
    cdef group* to
    cdef int status
    for i in range(b.n_groups):
        to = &b.groups[i]
        to.first, to.stop, to.how = bounds[i], bounds[i + 1], how[i]
        status = load(g, b, &refs[bounds[i]], to.stop - to.first, refs.shape[0] - to.stop, starts[i], ends[i], to.first)
        if not status:
            status = place(g, b, to, starts[i], ends[i], slots_max[i])
        if status:
            return status
        to.values_at = n_bytes[0]
        width = width_of(to.type)
        n_bytes[0] += (to.n * width + 7) & ~<size_t>7
        to.counts_at = n_counts[0]
        if to.stop - to.first > 1:
            n_counts[0] += to.n
    return _OK


def gather(
    Gatherer g not None, const uint64_t[::1] refs, const int64_t[::1] bounds, const int64_t[::1] starts,
    const int64_t[::1] ends, const uint8_t[::1] how, const int64_t[::1] slots_max
):
    """The slots of many groups of grid series, each with a range of its own.

    refs       uint64: the series of all groups, each group's in series order
    bounds     int64[g + 1]: group i has refs[bounds[i]:bounds[i + 1]], at least one
    starts, ends  int64[g]: the slots whose nominal times are in [start, end)
    how        uint8[g] of AVERAGE (else the sum) and PROPAGATE (a slot that any series misses is missing), for groups
               of several series; one series is answered as it is stored
    slots_max  int64[g]: more are refused before anything is allocated
    returns    (values uint8[bytes], counts uint32[k], table int64[g, 8]) or a status. A row of the table:
               TYPE of the values (f64 for aggregates, and where eras differ), START and STEP of the grid, SLOTS,
               VALUES_AT in bytes, COUNTS_AT in elements (-1: one series), PRESENT: slots that have a value, METRIC
    """
    cdef batch b
    cdef size_t i, n_bytes = 0, n_counts = 0
    cdef uint32_t generation = g.generation_c()
    cdef int64_t[:, ::1] row
    cdef int64_t[::1] turn
    cdef uint8_t[::1] values
    cdef uint32_t[::1] counts
    cdef group* of
    cdef int status
    _expect_shapes(refs, bounds, starts, ends, how, slots_max)
    if begin(&b, refs.shape[0], starts.shape[0]):
        return _NO_MEMORY
    try:
        with nogil:
            status = prepare(g, &b, refs, bounds, starts, ends, how, slots_max, &n_bytes, &n_counts)
        if status:
            return status
        # One element more than is used, so that there is a first one to point at.
        values_array = np.empty(n_bytes + 8, np.uint8)
        counts_array = np.empty(n_counts + 1, np.uint32)
        order = np.argsort(np.asarray(refs)[np.asarray(bounds)[: b.n_groups]] & 0xFFFFFFFF, kind="stable").astype(np.int64)
        table = np.empty((b.n_groups, COLUMNS), np.int64)
        values, counts, turn, row = values_array, counts_array, order, table
        if b.n_groups:
            with nogil:
                status = read_all(g, &b, &turn[0], <char*>&values[0], &counts[0])
        if status:
            return status
        if g.generation_c() != generation:
            return _GONE
        for i in range(b.n_groups):
            of = &b.groups[i]
            row[i, 0], row[i, 1], row[i, 2], row[i, 3] = of.type, of.t0, of.step, of.n
            row[i, 4], row[i, 6], row[i, 7] = of.values_at, of.present, of.metric
            row[i, 5] = of.counts_at if of.stop - of.first > 1 else -1
        return values_array[:n_bytes], counts_array[:n_counts], table
    finally:
        release(&b)


def grid_of(Gatherer g not None, const uint64_t[::1] refs, int64_t start, int64_t end):
    """What makes the grid of an aggregate over [start, end), of these series or of a part of them.

    refs     uint64[m], m >= 1, in series order
    returns  (coarsest step, nominal time of a slot of the first series, metric of the first) or a status
    """
    cdef batch b
    cdef int64_t step = 0
    cdef size_t i
    cdef const era* first
    cdef int status
    if begin(&b, refs.shape[0], 1):
        return _NO_MEMORY
    try:
        with nogil:
            status = load(g, &b, &refs[0], refs.shape[0], 0, start, end, 0)
        if status:
            return status
        for i in range(<size_t>refs.shape[0]):
            step = max(step, b.pool.eras[b.chains[i].first].step_s)
        first = &b.pool.eras[b.chains[0].first]
        return step, nominal(first), first.metric
    finally:
        release(&b)


def add(
    Gatherer g not None, const uint64_t[::1] refs, int64_t end, int64_t t0, int64_t step, double[::1] sums,
    uint32_t[::1] counts
):
    """Add more series to the sums of slots at t0, t0 + step, ..., each by the slot that contains its time.

    refs    uint64[m], m >= 1, in series order, behind those that were added before
    end     of the range that is asked for: eras that begin there do not count
    sums, counts  float64[n] and uint32[n], changed in place
    returns None, or a status: the sums are of no use then
    """
    cdef batch b
    cdef size_t member = 0
    cdef float* rows
    cdef int status
    if sums.shape[0] != counts.shape[0]:
        raise ValueError(f"{sums.shape[0]} sums for {counts.shape[0]} counts")
    if not sums.shape[0]:
        return None
    if begin(&b, refs.shape[0], 1):
        return _NO_MEMORY
    rows = <float*>malloc(ROWS * TILE * sizeof(float))
    try:
        if rows == NULL:
            return _NO_MEMORY
        b.groups[0].stop, b.groups[0].t0, b.groups[0].step, b.groups[0].n = refs.shape[0], t0, step, sums.shape[0]
        with nogil:
            status = load(g, &b, &refs[0], refs.shape[0], 0, t0, end, 0)
            if not status:
                status = read_bundle(g, &b, &member, 1, &sums[0], &counts[0], rows, False)
        return status if status else None
    finally:
        free(rows)
        release(&b)


def _expect_shapes(refs, bounds, starts, ends, how, slots_max):
    n = starts.shape[0]
    if bounds.shape[0] != n + 1 or any(one.shape[0] != n for one in (ends, how, slots_max)):
        raise ValueError(f"{n} groups need as many ends, bounds and limits")
    steps = np.diff(np.asarray(bounds))
    if n and (bounds[0] != 0 or bounds[n] != refs.shape[0] or steps.min() < 1):
        raise ValueError("every group has at least one series, and every series is in a group")
    if not n and refs.shape[0]:
        raise ValueError("series without a group")
