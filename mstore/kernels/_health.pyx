"""How fresh the series of hosts are: one walk over each host's levels and their lists of series.

    host -> its series, then its children's, and theirs       state of (host, metric): the largest of its series'

A series says by its newest sample, in the newest of its eras that has any: it is in the series' own entry of the
directory, so no sample is read. reference_health.py is the twin.
"""

from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from mstore.kernels._atomics cimport *
from mstore.kernels._directory cimport DirectoryReader
from mstore.kernels._layout cimport *

# Of a metric of a host; a larger one wins: one stale series makes its metric stale.
ABSENT, FRESH, STALE = 0, 1, 2

cdef enum:
    _ABSENT = 0
    _FRESH = 1
    _STALE = 2
    MS_PER_S = 1000
    DEPTH_MAX = 32
    ERAS_MAX = 65536
    WALKS_MAX = 256       # of a list that changes while it is walked

cdef struct question:
    const int32_t* columns        # by metric: where its state goes, < 0: it was not asked for
    uint64_t n_metrics
    const int64_t* oldest_s       # by column: what is older is not served
    int64_t now_s
    int64_t steps_max
    uint64_t n_levels
    uint64_t n_series
    uint64_t levels_bound
    uint64_t series_bound


cdef int era_before(DirectoryReader directory, ms_series* s) noexcept nogil:
    """Go to the era before s that has samples; 0 when there is none."""
    cdef uint32_t slot, generation
    cdef int steps
    for steps in range(ERAS_MAX):
        if s.n_chunks:
            return 1
        slot = s.prev_slot
        generation = s.prev_generation
        if slot == 0 or not directory.copy_series(slot - 1, s) or s.generation != generation:
            return 0
    return 0


cdef uint8_t state_of(const ms_series* s, const question* q, int64_t oldest_s) noexcept nogil:
    cdef int64_t end
    if s.last_t == INT64_MIN:
        return _ABSENT
    if s.kind == KIND_STAMPED:  # no step, so no number of steps can be missing
        return _FRESH if floor_div(s.last_t, MS_PER_S) >= oldest_s else _ABSENT
    if s.last_t < oldest_s:
        return _ABSENT
    end = s.last_t - (s.step_s >> 1) + s.step_s
    return _FRESH if q.now_s - end <= q.steps_max * s.step_s else _STALE


cdef int look_at_series(DirectoryReader directory, uint32_t level, const question* q, uint8_t* states) noexcept nogil:
    """The level's own series, each chain of eras by its newest; 0 when the list changed under the walk."""
    cdef uint64_t steps = 0
    cdef uint32_t generation, next_link, link = ms_load_acquire_u32(&directory.levels_p[level].first_series)
    cdef ms_series* at
    cdef ms_series s
    cdef int32_t column
    cdef uint8_t flags, state
    while link != 0:
        if link > q.series_bound or steps > q.series_bound:
            return 0
        at = &directory.series_p[link - 1]
        generation = ms_load_acquire_u32(&at.generation)
        next_link = at.next_series
        flags = at.flags
        ms_fence_acquire()  # SYNC POINT (acquire) series reuse: the link belonged to this level and generation
        if at.level != level or ms_load_relaxed_u32(&at.generation) != generation:
            return 0
        if link - 1 < q.n_series and flags & SERIES_LIVE and not flags & SERIES_ENDED and at.metric < q.n_metrics:
            column = q.columns[at.metric]
            if column >= 0 and directory.copy_series(link - 1, &s) and s.generation == generation:
                if era_before(directory, &s):
                    state = state_of(&s, q, q.oldest_s[column])
                    if state > states[column]:
                        states[column] = state
        link = next_link
        steps += 1
    return 1


cdef int look_below(
    DirectoryReader directory, uint32_t level, const question* q, int depth, uint64_t* budget, uint8_t* states
) noexcept nogil:
    """A level and all that is below it; 0 when that kept changing, or goes in a circle."""
    cdef int walk
    cdef uint32_t child
    for walk in range(WALKS_MAX):
        if look_at_series(directory, level, q, states):
            break
    else:
        return 0
    if depth == DEPTH_MAX:
        return 0
    child = ms_load_acquire_u32(&directory.levels_p[level].first_child)  # SYNC POINT (acquire) child link
    while child:
        if child >= q.levels_bound or budget[0] == 0:
            return 0
        budget[0] -= 1
        # A child that is not yet published is not there yet; its links are.
        if child < q.n_levels and not look_below(directory, child, q, depth + 1, budget, states):
            return 0
        child = ms_load_acquire_u32(&directory.levels_p[child].next_sibling)
    return 1


def scan(
    DirectoryReader directory not None, const uint32_t[::1] hosts, const int32_t[::1] columns,
    const int64_t[::1] oldest_s, int64_t now_s, int64_t steps_max, uint8_t[:, ::1] states
):
    """The state of every metric of some hosts, over all series of the host and below it.

    hosts      uint32[n], their levels
    columns    int32[number of metrics of the directory]: the column of each metric, -1 = not asked for
    oldest_s   int64[m], by column: samples before that are not served, and no series has only such ones
    now_s      Unix seconds; a series is stale when the slot of its newest sample ended more than steps_max steps ago
    states     uint8[n, m], zeros: becomes ABSENT, FRESH or STALE
    returns    whether the directory kept still enough; if not, states are void
    """
    cdef question q
    cdef uint64_t budget, reserved
    cdef Py_ssize_t i
    cdef int good = 1
    if states.shape[0] != hosts.shape[0] or states.shape[1] != oldest_s.shape[0]:
        raise ValueError("states must have a row for every host and a column for every metric")
    for i in range(columns.shape[0]):
        if columns[i] >= oldest_s.shape[0]:
            raise ValueError("a metric's column is beyond the last")
    if not hosts.shape[0] or not oldest_s.shape[0] or not columns.shape[0]:
        return True
    reserved = directory.head.region[<int>MS_REGION_LEVELS].reserved // sizeof(ms_level)
    q = question(
        &columns[0], columns.shape[0], &oldest_s[0], now_s, steps_max, 0, 0, reserved,
        directory.head.region[<int>MS_REGION_SERIES].reserved // sizeof(ms_series),
    )
    with nogil:
        q.n_levels = ms_load_acquire_u64(&directory.head.n_levels)
        q.n_series = ms_load_acquire_u64(&directory.head.n_series)
        budget = reserved
        for i in range(hosts.shape[0]):
            if hosts[i] >= q.n_levels or not look_below(directory, hosts[i], &q, 0, &budget, &states[i, 0]):
                good = 0
                break
    return bool(good)
