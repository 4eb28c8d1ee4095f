"""Many series looked through without an answer for each slot: what they come to, their newest sample, how long it was so.

    scan     count, sum, extremes, first and last sample of [start, end)
    newest   the last sample of [start, end), found from the end
    runs     since when every sample has been above (below) a level, up to the last one of [start, end)
    values   the samples of several series as one array, in no particular order

What counts are the samples that grid() shows at the times of their own slots: those of every era inside its own time,
and none that is too old. Series are taken in blocks: the chains of all are loaded, then links, chunks and values are
fetched from memory ahead of the series that is looked through.
"""

from libc.math cimport INFINITY, NAN
from libc.stdint cimport INT64_MIN, UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from mstore.kernels._atomics cimport *
from mstore.kernels._gather cimport Gatherer
from mstore.kernels._gather_batch cimport (
    AHEAD_CHUNKS,
    AHEAD_LINKS,
    batch,
    begin,
    chain,
    expect_tile,
    fetch,
    fetch_list,
    load,
    release,
)
from mstore.kernels._gather_runs cimport (
    _GONE,
    _LIMIT,
    _OK,
    SCRATCH_WORDS,
    ceil_div,
    era,
    nominal,
)
from mstore.kernels._layout cimport *

import numpy as np

LANES = MS_LANES
"""In how many lanes a chunk's samples are added; scan.h says how."""

cdef enum:
    BLOCK = 64
    TAIL = 16                 # slots that are read first where the newest sample is expected: a line or two

# What a series has come to so far; words are 8 bytes of a float64, or of a u64 where all eras hold u64.
cdef struct tally:
    ms_scan scan
    bint whole                # u64 in all its eras
    int64_t first_t
    int64_t last_t
    uint64_t first
    uint64_t last

# Slots [first, stop) of an era.
cdef struct stretch:
    int64_t first
    int64_t stop


cdef stretch stretch_of(const era* e, bint oldest, int64_t start, int64_t end) noexcept nogil:
    """The slots of an era whose nominal times are in [start, end) and its own, and that a chunk may hold."""
    cdef int64_t low = max(start, e.kept_s), high = min(end, e.stop)
    cdef stretch found
    if not oldest:
        low = max(low, e.start)
    if low >= high:
        return stretch(0, 0)
    found.first = ceil_div(low - nominal(e), e.step_s)
    found.stop = ceil_div(high - nominal(e), e.step_s)
    # Chunks lie between these two, which widen before a link is stored and narrow after it has gone.
    found.first = max(found.first, <int64_t>ms_load_relaxed_u64(&e.at.first_n) * MS_CHUNK_SLOTS)
    found.stop = min(found.stop, (<int64_t>ms_load_acquire_u64(&e.at.last_n) + 1) * MS_CHUNK_SLOTS)
    return found


cdef inline bint is_present(const char* values, uint8_t type, size_t i) noexcept nogil:
    if type == TYPE_F32:
        return (<const float*>values)[i] == (<const float*>values)[i]
    if type == TYPE_F64:
        return (<const double*>values)[i] == (<const double*>values)[i]
    return (<const uint64_t*>values)[i] != UINT64_MAX


cdef inline uint64_t word_at(const char* values, uint8_t type, size_t i, bint whole) noexcept nogil:
    """A value as a word: itself if all are u64, else a float64."""
    cdef double value
    cdef uint64_t word
    if type == TYPE_U64 and whole:
        return (<const uint64_t*>values)[i]
    if type == TYPE_F32:
        value = (<const float*>values)[i]
    elif type == TYPE_F64:
        value = (<const double*>values)[i]
    else:
        value = <double>(<const uint64_t*>values)[i]
    memcpy(&word, &value, 8)
    return word


cdef bint all_u64(const batch* b, const chain* c) noexcept nogil:
    cdef size_t i
    for i in range(c.first, c.stop):
        if b.pool.eras[i].type != TYPE_U64:
            return False
    return True


# ---- scan ----

cdef void tell(tally* to, const era* e, int64_t k, const char* values, size_t n) noexcept nogil:
    """Take a run of slots k, k + 1, ... of an era into account."""
    cdef double wide[SCRATCH_WORDS]
    cdef uint64_t before = to.scan.n
    cdef size_t i, first = <size_t>(k - floor_div(k, MS_CHUNK_SLOTS) * MS_CHUNK_SLOTS)
    if e.type == TYPE_F32:
        ms_scan_f32(&to.scan, <const float*>values, first, n)
    elif e.type == TYPE_F64:
        ms_scan_f64(&to.scan, <const double*>values, first, n)
    elif to.whole:
        ms_scan_u64(&to.scan, <const uint64_t*>values, first, n)
    else:
        for i in range(n):
            wide[i] = <double>(<const uint64_t*>values)[i] if is_present(values, e.type, i) else NAN
        ms_scan_f64(&to.scan, wide, first, n)
    if to.scan.n == before:
        return
    if before == 0:
        i = 0
        while not is_present(values, e.type, i):
            i += 1
        to.first_t = nominal(e) + (k + <int64_t>i) * e.step_s
        to.first = word_at(values, e.type, i, to.whole)
    i = n - 1
    while not is_present(values, e.type, i):
        i -= 1
    to.last_t = nominal(e) + (k + <int64_t>i) * e.step_s
    to.last = word_at(values, e.type, i, to.whole)


cdef int scan_chain(Gatherer g, const batch* b, const chain* c, int64_t start, int64_t end, tally* to) noexcept nogil:
    cdef uint64_t scratch[SCRATCH_WORDS]
    cdef const era* e
    cdef stretch slots
    cdef size_t i
    cdef int64_t k, n, run
    cdef int status
    to.scan = ms_scan(0, 0.0, INFINITY, -INFINITY, UINT64_MAX, 0)
    to.whole = all_u64(b, c)
    to.first_t = to.last_t = INT64_MIN
    to.first = to.last = 0
    for i in range(c.stop - c.first):
        e = &b.pool.eras[c.stop - 1 - i]  # the oldest first
        slots = stretch_of(e, i == 0, start, end)
        k = slots.first
        while k < slots.stop:
            n = floor_div(k, MS_CHUNK_SLOTS)
            run = min((n + 1) * MS_CHUNK_SLOTS, slots.stop) - k
            status = g.read_run(e, n, <uint32_t>(k - n * MS_CHUNK_SLOTS), <uint32_t>run, <char*>scratch)
            if status:
                return status
            tell(to, e, k, <const char*>scratch, <size_t>run)
            k += run
    return _OK


# ---- from the end ----

# What is looked for from the newest sample back.
cdef struct search:
    bint whole
    bint found                # a sample
    bint done
    int64_t last_t
    uint64_t last
    # runs only
    bint judge
    bint below
    double level
    int64_t gap_s             # a longer time without a sample ends the run
    bint hit                  # the newest sample is above
    int64_t since_t
    double peak               # the value of the run that is furthest away from the level


cdef inline bint passes(const char* values, uint8_t type, size_t i, double level, bint below) noexcept nogil:
    """Whether a value is above (below) the level; exact for u64, where a level between two of them divides them."""
    cdef uint64_t whole
    if type == TYPE_F32:
        return (<const float*>values)[i] < level if below else (<const float*>values)[i] > level
    if type == TYPE_F64:
        return (<const double*>values)[i] < level if below else (<const double*>values)[i] > level
    if level < 0.0:
        return not below
    if level >= 18446744073709551616.0:
        return below
    whole = <uint64_t>level
    if below:
        return (<const uint64_t*>values)[i] < whole or ((<const uint64_t*>values)[i] == whole and <double>whole < level)
    return (<const uint64_t*>values)[i] > whole


cdef void look_back(search* for_, const era* e, int64_t k, const char* values, size_t n) noexcept nogil:
    """Take the slots k + n - 1, k + n - 2, ... k of an era into account, until it is known."""
    cdef size_t i = n
    cdef int64_t t
    cdef uint64_t word
    cdef double value
    while i > 0 and not for_.done:
        i -= 1
        if not is_present(values, e.type, i):
            continue
        t = nominal(e) + (k + <int64_t>i) * e.step_s
        if not for_.found:
            for_.found = True
            for_.last_t = t
            for_.last = word_at(values, e.type, i, for_.whole)
            for_.hit = for_.judge and passes(values, e.type, i, for_.level, for_.below)
            for_.done = not for_.hit
        elif for_.since_t - t > for_.gap_s or not passes(values, e.type, i, for_.level, for_.below):
            for_.done = True
        if not for_.done:
            for_.since_t = t
            word = word_at(values, e.type, i, False)
            memcpy(&value, &word, 8)
            if value < for_.peak if for_.below else value > for_.peak:
                for_.peak = value


cdef int search_chain(Gatherer g, const batch* b, const chain* c, int64_t start, int64_t end, search* for_) noexcept nogil:
    cdef uint64_t scratch[SCRATCH_WORDS]
    cdef const era* e
    cdef stretch slots
    cdef size_t i
    cdef int64_t k, n, last, run
    cdef int status
    for i in range(c.first, c.stop):
        e = &b.pool.eras[i]
        slots = stretch_of(e, i + 1 == c.stop, start, end)
        # No sample is newer than last_t, though one of that time may be gone.
        last = <int64_t>ms_load_relaxed_u64(&e.at.last_t)
        slots.stop = min(slots.stop, floor_div(last - e.anchor_s, e.step_s) + 1 if last != INT64_MIN else slots.first)
        k = slots.stop
        while k > slots.first and not for_.done:
            n = floor_div(k - 1, MS_CHUNK_SLOTS)
            run = k - max(n * MS_CHUNK_SLOTS, slots.first)
            if not for_.found:
                run = min(run, TAIL)
            k -= run
            status = g.read_run(e, n, <uint32_t>(k - n * MS_CHUNK_SLOTS), <uint32_t>run, <char*>scratch)
            if status:
                return status
            look_back(for_, e, k, <const char*>scratch, <size_t>run)
        if for_.done:
            break
    return _OK


# ---- blocks of series ----

cdef void expect_end(Gatherer g, const batch* b, const chain* c, int64_t end, fetch_list* ahead) noexcept nogil:
    """Fetch what holds the newest sample of a series before `end`."""
    cdef const era* e = &b.pool.eras[c.first]
    cdef int64_t last = min(<int64_t>ms_load_relaxed_u64(&e.at.last_t), end)
    if last != INT64_MIN:
        expect_tile(g.samples.base, e, c, last, last, ahead)


cdef void expect_range(Gatherer g, const batch* b, const chain* c, int64_t start, int64_t end, fetch_list* ahead) noexcept nogil:
    """Fetch what holds the samples of [start, end) of a series, of a long range the beginning."""
    cdef const era* e = &b.pool.eras[c.first]
    cdef stretch slots = stretch_of(e, True, start, end)
    if slots.first < slots.stop:
        expect_tile(g.samples.base, e, c, nominal(e) + slots.first * e.step_s, nominal(e) + (slots.stop - 1) * e.step_s, ahead)


def scan(Gatherer g not None, const uint64_t[::1] refs, int64_t start, int64_t end):
    """What the samples of [start, end) of each grid series come to.

    refs     uint64[m]
    returns  (counts uint64[m], sums float64[m], words uint64[m, 4], times int64[m, 2], whole uint8[m]) or a status
             words: smallest, largest, first and last value; float64, or u64 where `whole`. times: of first and last,
             Unix seconds. All of them mean nothing where the count is 0
    """
    cdef size_t m = refs.shape[0], at = 0, i, n
    cdef uint32_t generation = g.generation_c()
    cdef batch b
    cdef tally found
    cdef fetch_list ahead
    counts_array, sums_array = np.zeros(m, np.uint64), np.zeros(m, np.float64)
    words_array, times_array, whole_array = np.zeros((m, 4), np.uint64), np.zeros((m, 2), np.int64), np.zeros(m, np.uint8)
    cdef uint64_t[::1] counts = counts_array
    cdef double[::1] sums = sums_array
    cdef uint64_t[:, ::1] words = words_array
    cdef int64_t[:, ::1] times = times_array
    cdef uint8_t[::1] whole = whole_array
    cdef int status = begin(&b, BLOCK, 0)
    if status:
        return status
    with nogil:
        while at < m and not status:
            n = min(BLOCK, m - at)
            b.pool.n = 0
            status = load(g, &b, &refs[at], n, m - at - n, start, end, 0)
            ahead.first = ahead.n = ahead.lines = 0
            for i in range(n):
                if status:
                    break
                if i + AHEAD_LINKS < n:
                    expect_range(g, &b, &b.chains[i + AHEAD_LINKS], start, end, NULL)
                if i + AHEAD_CHUNKS < n:
                    expect_range(g, &b, &b.chains[i + AHEAD_CHUNKS], start, end, &ahead)
                    fetch(&ahead, ahead.lines)
                status = scan_chain(g, &b, &b.chains[i], start, end, &found)
                counts[at + i], sums[at + i], whole[at + i] = found.scan.n, found.scan.sum, found.whole
                times[at + i, 0], times[at + i, 1] = found.first_t, found.last_t
                words[at + i, 2], words[at + i, 3] = found.first, found.last
                if found.whole:
                    words[at + i, 0], words[at + i, 1] = found.scan.ulow, found.scan.uhigh
                else:
                    memcpy(&words[at + i, 0], &found.scan.low, 8)
                    memcpy(&words[at + i, 1], &found.scan.high, 8)
            at += n
    release(&b)
    if status or g.generation_c() != generation:
        return status if status else _GONE
    return counts_array, sums_array, words_array, times_array, whole_array


def newest(Gatherer g not None, const uint64_t[::1] refs, int64_t start, int64_t end):
    """The newest sample of [start, end) of each grid series.

    refs     uint64[m]
    returns  (words uint64[m], times int64[m], whole uint8[m]) or a status; words: float64, or u64 where `whole`;
             times: Unix seconds, -2^63 where there is no sample
    """
    found = _search(g, refs, start, end, False, 0.0, False, 0)
    return found if isinstance(found, int) else found[:3]


def runs(
    Gatherer g not None, const uint64_t[::1] refs, int64_t start, int64_t end, double level, bint below, int64_t gap_s
):
    """Since when each grid series has been above (below) a level, up to its newest sample of [start, end).

    level    compared exactly with every value
    gap_s    a longer time without a sample ends the run; shorter ones do not
    returns  (words, times, whole, since int64[m], peaks float64[m]) or a status; the first three as newest().
             since: the time of the first sample of the run, -2^63 where the newest sample is not above. peaks: the
             largest (smallest) value of the run
    """
    return _search(g, refs, start, end, True, level, below, gap_s)


cdef _search(
    Gatherer g, const uint64_t[::1] refs, int64_t start, int64_t end, bint judge, double level, bint below, int64_t gap_s
):
    cdef size_t m = refs.shape[0], at = 0, i, n
    cdef uint32_t generation = g.generation_c()
    cdef batch b
    cdef search for_
    cdef fetch_list ahead
    words_array, times_array, whole_array = np.zeros(m, np.uint64), np.zeros(m, np.int64), np.zeros(m, np.uint8)
    since_array, peaks_array = np.zeros(m if judge else 0, np.int64), np.zeros(m if judge else 0, np.float64)
    cdef uint64_t[::1] words = words_array
    cdef int64_t[::1] times = times_array, since = since_array
    cdef double[::1] peaks = peaks_array
    cdef uint8_t[::1] whole = whole_array
    cdef int status = begin(&b, BLOCK, 0)
    if status:
        return status
    with nogil:
        while at < m and not status:
            n = min(BLOCK, m - at)
            b.pool.n = 0
            status = load(g, &b, &refs[at], n, m - at - n, start, end, 0)
            ahead.first = ahead.n = ahead.lines = 0
            for i in range(n):
                if status:
                    break
                if i + AHEAD_LINKS < n:
                    expect_end(g, &b, &b.chains[i + AHEAD_LINKS], end, NULL)
                if i + AHEAD_CHUNKS < n:
                    expect_end(g, &b, &b.chains[i + AHEAD_CHUNKS], end, &ahead)
                    fetch(&ahead, ahead.lines)
                for_ = search(
                    all_u64(&b, &b.chains[i]), False, False, INT64_MIN, 0, judge, below, level, gap_s, False, INT64_MIN,
                    INFINITY if below else -INFINITY,
                )
                status = search_chain(g, &b, &b.chains[i], start, end, &for_)
                words[at + i], times[at + i], whole[at + i] = for_.last, for_.last_t, for_.whole
                if judge:
                    since[at + i], peaks[at + i] = for_.since_t, for_.peak
            at += n
    release(&b)
    if status or g.generation_c() != generation:
        return status if status else _GONE
    return words_array, times_array, whole_array, since_array, peaks_array


# ---- values ----

# Where words go.
cdef struct taker:
    uint64_t* words
    size_t n
    size_t room

cdef int take_chain(
    Gatherer g, const batch* b, const chain* c, int64_t start, int64_t end, taker* to
) noexcept nogil:
    """Append the samples of a series as float64."""
    cdef uint64_t scratch[SCRATCH_WORDS]
    cdef const era* e
    cdef stretch slots
    cdef size_t i, j
    cdef int64_t k, n, run
    cdef int status
    for i in range(c.stop - c.first):
        e = &b.pool.eras[c.stop - 1 - i]
        slots = stretch_of(e, i == 0, start, end)
        k = slots.first
        while k < slots.stop:
            n = floor_div(k, MS_CHUNK_SLOTS)
            run = min((n + 1) * MS_CHUNK_SLOTS, slots.stop) - k
            status = g.read_run(e, n, <uint32_t>(k - n * MS_CHUNK_SLOTS), <uint32_t>run, <char*>scratch)
            if status:
                return status
            for j in range(<size_t>run):
                if is_present(<const char*>scratch, e.type, j):
                    if to.n == to.room:
                        return _LIMIT
                    to.words[to.n] = word_at(<const char*>scratch, e.type, j, False)
                    to.n += 1
            k += run
    return _OK


def values(Gatherer g not None, const uint64_t[::1] refs, int64_t start, int64_t end, uint64_t[::1] into):
    """The samples of [start, end) of grid series, one series after the other, each from its oldest sample on.

    refs     uint64[m]
    into     uint64[k]: where they go, as the bits of float64; LIMIT when they find no room
    returns  (how many there are,) or a status
    """
    cdef size_t m = refs.shape[0], at = 0, i, n
    cdef uint32_t generation = g.generation_c()
    cdef batch b
    cdef taker to = taker(NULL, 0, into.shape[0])
    cdef fetch_list ahead
    cdef int status = begin(&b, BLOCK, 0)
    if status:
        return status
    if to.room:
        to.words = &into[0]
    with nogil:
        while at < m and not status:
            n = min(BLOCK, m - at)
            b.pool.n = 0
            status = load(g, &b, &refs[at], n, m - at - n, start, end, 0)
            ahead.first = ahead.n = ahead.lines = 0
            for i in range(n):
                if status:
                    break
                if i + AHEAD_LINKS < n:
                    expect_range(g, &b, &b.chains[i + AHEAD_LINKS], start, end, NULL)
                if i + AHEAD_CHUNKS < n:
                    expect_range(g, &b, &b.chains[i + AHEAD_CHUNKS], start, end, &ahead)
                    fetch(&ahead, ahead.lines)
                status = take_chain(g, &b, &b.chains[i], start, end, &to)
            at += n
    release(&b)
    if status or g.generation_c() != generation:
        return status if status else _GONE
    return (to.n,)
