"""What selectors ask of the directory, for many levels at a time: children, levels by name, series below, labels.

Levels are ids, uint32; NO_LEVEL stands for one that is not there, and has neither children nor series.
Every walk along links is bounded, and whatever is not published is not there: as in _gather.pyx.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memcmp, memcpy
from mstore.kernels._atomics cimport *
from mstore.kernels._gather cimport Gatherer, by_slot
from mstore.kernels._gather_runs cimport _BROKEN, _GONE, _LIMIT, _NO_MEMORY, _OK, push_words, word_list
from mstore.kernels._layout cimport *

import numpy as np

cdef enum:
    NAME_MAX = 255
    DEPTH_MAX = 8
    AHEAD = 64                # pairs of level and metric whose places in the hash table are fetched at a time

NO_LEVEL = MS_NO_LEVEL


# ---- names ----

cdef struct named_level:
    const char* name
    uint32_t id
    uint16_t n
    uint16_t type_len


cdef inline bint is_digit(char c) noexcept nogil:
    return c"0" <= c <= c"9"


cdef int compare_names(const char* a, size_t n, const char* b, size_t m) noexcept nogil:
    """Natural order: runs of digits by their value, then as text; the rest byte by byte. topology.natural_key says the same."""
    cdef size_t i = 0, j = 0, i1, j1, i0, j0, part
    cdef int order
    while True:
        i1, j1 = i, j
        while i1 < n and not is_digit(a[i1]):
            i1 += 1
        while j1 < m and not is_digit(b[j1]):
            j1 += 1
        order = memcmp(a + i, b + j, min(i1 - i, j1 - j))
        if order == 0:
            order = (i1 - i > j1 - j) - (i1 - i < j1 - j)
        if order:
            return order
        if i1 == n or j1 == m:
            return (i1 < n) - (j1 < m)
        i, j = i1, j1
        while i1 < n and is_digit(a[i1]):
            i1 += 1
        while j1 < m and is_digit(b[j1]):
            j1 += 1
        i0, j0 = i, j
        while i0 < i1 and a[i0] == c"0":
            i0 += 1
        while j0 < j1 and b[j0] == c"0":
            j0 += 1
        order = (i1 - i0 > j1 - j0) - (i1 - i0 < j1 - j0)
        if order == 0:
            order = memcmp(a + i0, b + j0, i1 - i0)
        if order == 0:  # of one value: as texts
            part = min(i1 - i, j1 - j)
            order = memcmp(a + i, b + j, part)
            if order == 0:
                order = (i1 - i > j1 - j) - (i1 - i < j1 - j)
        if order:
            return order
        i, j = i1, j1


cdef int by_name(const void* x, const void* y) noexcept nogil:
    cdef const named_level* a = <const named_level*>x
    cdef const named_level* b = <const named_level*>y
    cdef int order = compare_names(a.name, a.n, b.name, b.n)
    if order == 0:  # core1 with id 2, and core with id 12
        order = (a.type_len > b.type_len) - (a.type_len < b.type_len)
    if order == 0:
        order = (a.id > b.id) - (a.id < b.id)
    return order


def natural_order(list names):
    """The names (bytes) in natural order."""
    cdef named_level* found = <named_level*>realloc(NULL, (len(names) + 1) * sizeof(named_level))
    cdef size_t i
    if found == NULL:
        raise MemoryError
    for i in range(<size_t>len(names)):
        found[i] = named_level(
            PyBytes_AS_STRING(<bytes?>names[i]), <uint32_t>i, <uint16_t>PyBytes_GET_SIZE(<bytes?>names[i]), 0
        )
    qsort(found, len(names), sizeof(named_level), by_name)
    ordered = [names[found[i].id] for i in range(<size_t>len(names))]
    free(found)
    return ordered


# ---- levels ----

cdef int list_children(Gatherer g, uint32_t parent, named_level** found, size_t* room, size_t* n) noexcept nogil:
    """The children of a level, in natural order, each once."""
    cdef uint64_t n_levels = ms_load_acquire_u64(&g.head.n_levels)
    cdef uint64_t budget = g.head.region[<int>MS_REGION_LEVELS].reserved // sizeof(ms_level)
    cdef const ms_level* at
    cdef void* grown
    cdef uint32_t child
    cdef size_t i, kept
    cdef bint rising = True, falling = True
    n[0] = 0
    if parent >= n_levels:
        return _GONE
    child = ms_load_acquire_u32(&g.level_at(parent).first_child)  # SYNC POINT (acquire) child link
    while child:
        at = g.level_at(child)
        if at == NULL or budget == 0:
            return _BROKEN
        budget -= 1
        if child < n_levels and at.name <= g.directory.length and at.name_len <= g.directory.length - at.name:
            if n[0] == room[0]:
                grown = realloc(found[0], (2 * room[0] + 64) * sizeof(named_level))
                if grown == NULL:
                    return _NO_MEMORY
                found[0] = <named_level*>grown
                room[0] = 2 * room[0] + 64
            found[0][n[0]] = named_level(g.directory.base + at.name, child, at.name_len, at.type_len)
            if n[0]:
                rising = rising and by_name(&found[0][n[0] - 1], &found[0][n[0]]) < 0
                falling = falling and by_name(&found[0][n[0] - 1], &found[0][n[0]]) > 0
            n[0] += 1
        child = ms_load_acquire_u32(&at.next_sibling)
    if rising:
        return _OK
    if falling:  # the newest is linked first
        for i in range(n[0] // 2):
            found[0][i], found[0][n[0] - 1 - i] = found[0][n[0] - 1 - i], found[0][i]
        return _OK
    qsort(found[0], n[0], sizeof(named_level), by_name)
    kept = 0
    for i in range(n[0]):  # a list that changed meanwhile may lead to one twice
        if kept == 0 or found[0][kept - 1].id != found[0][i].id:
            found[0][kept] = found[0][i]
            kept += 1
    n[0] = kept
    return _OK


def children(Gatherer g not None, const uint32_t[::1] parents, size_t limit):
    """The levels directly below each parent, in natural order of their names.

    returns  (ids uint32[k], bounds int64[m + 1]: those of parent i are ids[bounds[i]:bounds[i + 1]]) or a status
    """
    cdef word_list ids = word_list(NULL, 0, 0)
    cdef named_level* found = NULL
    cdef size_t room = 0, n = 0, i, j, m = parents.shape[0]
    cdef uint64_t id
    cdef int status = _OK
    bounds_array = np.zeros(m + 1, np.int64)
    cdef int64_t[::1] bounds = bounds_array
    try:
        with nogil:
            for i in range(m):
                n = 0
                if parents[i] != MS_NO_LEVEL:
                    status = list_children(g, parents[i], &found, &room, &n)
                if ids.n + n > limit:
                    status = _LIMIT
                for j in range(n):
                    id = found[j].id
                    status = status or push_words(&ids, &id, 1)
                if status:
                    break
                bounds[i + 1] = ids.n
        return status if status else (_as_uint32(&ids), bounds_array)
    finally:
        free(found)
        free(ids.words)


def named(Gatherer g not None, const uint32_t[::1] parents, list names, bint missing, size_t limit):
    """The levels of these names below each parent: parent by parent, name by name.

    names    bytes; a name is a level's type followed by its id, and stands for every level of that whole name
    missing  one that is not there is found as NO_LEVEL
    returns  (ids uint32[k], places uint32[k] in parents, uint32[k] in names) or a status. A parent NO_LEVEL is found as
             NO_LEVEL, too, once, with a place in names of NO_LEVEL
    """
    cdef word_list found = word_list(NULL, 0, 0)
    cdef uint64_t bound = ms_load_acquire_u64(&g.head.n_levels)
    cdef uint64_t row[3]
    cdef size_t i, j, type_len, n, before, m = parents.shape[0], n_names = len(names)
    cdef int64_t id
    cdef const char* name
    cdef int status = _OK
    try:
        for i in range(m):
            if parents[i] == MS_NO_LEVEL:
                row[0], row[1], row[2] = MS_NO_LEVEL, i, MS_NO_LEVEL
                status = push_words(&found, row, 3)
            for j in range(n_names if parents[i] != MS_NO_LEVEL and not status else 0):
                name, n = PyBytes_AS_STRING(names[j]), PyBytes_GET_SIZE(names[j])
                before = found.n
                for type_len in range(n + 1 if n <= 2 * NAME_MAX else 0):
                    id = g.directory.present(g.directory.level_c(parents[i], name, n, type_len, bound))
                    if id >= 0:
                        row[0], row[1], row[2] = id, i, j
                        status = status or push_words(&found, row, 3)
                if missing and found.n == before:
                    row[0], row[1], row[2] = MS_NO_LEVEL, i, j
                    status = status or push_words(&found, row, 3)
            if found.n > 3 * limit:
                status = _LIMIT
            if status:
                return status
        columns = _as_uint32(&found).reshape(-1, 3)
        return tuple(np.ascontiguousarray(columns[:, i]) for i in range(3))
    finally:
        free(found.words)


# ---- series ----

def collect(Gatherer g not None, const uint32_t[::1] levels, const uint32_t[::1] metrics, size_t limit):
    """The series that answer for a metric at a level, for many pairs of them; as Gatherer.collect for each.

    levels   uint32[m], NO_LEVEL has none;  metrics  uint32[m]
    returns  (refs uint64[k], bounds int64[m + 1]) or a status; those of a pair in series order, each once
    """
    cdef word_list refs = word_list(NULL, 0, 0)
    cdef size_t i, j, first, kept, m = levels.shape[0]
    # More steps than there are levels for each: links in a circle, which a valid directory never has.
    cdef uint64_t steps = g.head.region[<int>MS_REGION_LEVELS].reserved // sizeof(ms_level), budget
    cdef uint64_t[::1] out
    cdef int status = _OK
    if <size_t>metrics.shape[0] != m:
        raise ValueError(f"{metrics.shape[0]} metrics for {m} levels")
    bounds_array = np.zeros(m + 1, np.int64)
    cdef int64_t[::1] bounds = bounds_array
    try:
        with nogil:
            for i in range(m):
                if i % AHEAD == 0:
                    g.expect_series(&levels[i], &metrics[i], 1, min(AHEAD, m - i))
                first = refs.n
                if levels[i] != MS_NO_LEVEL:
                    budget = steps
                    status = g.collect_level(levels[i], metrics[i], 0, &budget, &refs)
                if refs.n > limit:
                    status = _LIMIT
                if status:
                    break
                if refs.n > first + 1:
                    qsort(refs.words + first, refs.n - first, 8, by_slot)
                    kept = first
                    for j in range(first, refs.n):
                        if kept == first or refs.words[kept - 1] != refs.words[j]:
                            refs.words[kept] = refs.words[j]
                            kept += 1
                    refs.n = kept
                bounds[i + 1] = refs.n
        if status:
            return status
        found = np.empty(refs.n, np.uint64)
        if refs.n:
            out = found
            memcpy(&out[0], refs.words, refs.n * 8)
        return found, bounds_array
    finally:
        free(refs.words)


def levels_of(Gatherer g not None, const uint64_t[::1] refs):
    """The level of each series, uint32[m]; NO_LEVEL where the reference is no longer valid."""
    cdef size_t i
    cdef const ms_series* s
    cdef uint32_t level
    found = np.empty(refs.shape[0], np.uint32)
    cdef uint32_t[::1] out = found
    for i in range(<size_t>refs.shape[0]):
        s = g.series_at(<uint32_t>refs[i])
        out[i] = MS_NO_LEVEL
        if s != NULL:
            level = s.level
            ms_fence_acquire()  # SYNC POINT (acquire) series reuse
            if ms_load_relaxed_u32(&s.generation) == <uint32_t>(refs[i] >> 32):
                out[i] = level
    return found


def clusters_of(Gatherer g not None, const uint32_t[::1] levels):
    """The cluster above each level (itself for a cluster), uint32[m]; NO_LEVEL has none."""
    cdef size_t i
    cdef const ms_level* at
    found = np.full(levels.shape[0], MS_NO_LEVEL, np.uint32)
    cdef uint32_t[::1] out = found
    for i in range(<size_t>levels.shape[0]):
        at = g.level_at(levels[i])
        if at != NULL:
            out[i] = at.cluster
    return found


# ---- labels ----

def names(Gatherer g not None, const uint32_t[::1] levels):
    """The name of each level, a line each, which no name has the end of; bytes (UTF-8), or a status."""
    cdef const ms_level* at
    cdef size_t i, n = 0
    for i in range(<size_t>levels.shape[0]):
        at = g.level_at(levels[i])
        if at == NULL or at.name > g.directory.length or at.name_len > g.directory.length - at.name:
            return _BROKEN
        n += at.name_len + 1
    found = PyBytes_FromStringAndSize(NULL, n)
    cdef char* text = PyBytes_AS_STRING(found)
    for i in range(<size_t>levels.shape[0]):
        at = g.level_at(levels[i])
        memcpy(text, g.directory.base + at.name, at.name_len)
        text[at.name_len] = c"\n"
        text += at.name_len + 1
    return found


def labels(Gatherer g not None, const uint32_t[::1] levels):
    """Where each level hangs: a line of text each, the parts divided by tabs, which no name has.

    cluster  host  type  type_id  subtype  subtype_id, as far down as the level is; the line of NO_LEVEL is empty.
    returns  bytes (UTF-8), or a status
    """
    cdef const ms_level* path[DEPTH_MAX]
    cdef const ms_level* at
    cdef size_t i, depth, n = 0, room = 0, part
    cdef uint32_t level
    cdef char* text = NULL
    cdef void* grown
    cdef int status = _OK
    try:
        with nogil:
            for i in range(<size_t>levels.shape[0]):
                depth = 0
                level = levels[i] if levels[i] != MS_NO_LEVEL else 0
                while level and depth < DEPTH_MAX:
                    at = g.level_at(level)
                    if at == NULL or at.name > g.directory.length or at.name_len > g.directory.length - at.name or at.type_len > at.name_len:
                        status = _BROKEN
                        break
                    path[depth] = at
                    depth += 1
                    level = at.parent
                if status:
                    break
                if n + depth * (2 * NAME_MAX + 2) + 1 > room:
                    room = 2 * room + 8192
                    grown = realloc(text, room)
                    if grown == NULL:
                        status = _NO_MEMORY
                        break
                    text = <char*>grown
                for part in range(depth):
                    at = path[depth - 1 - part]
                    if part:
                        text[n] = c"\t"
                        n += 1
                    if part > 1:  # below the host type and id are told apart
                        memcpy(text + n, g.directory.base + at.name, at.type_len)
                        n += at.type_len
                        text[n] = c"\t"
                        n += 1
                        memcpy(text + n, g.directory.base + at.name + at.type_len, at.name_len - at.type_len)
                        n += at.name_len - at.type_len
                    else:
                        memcpy(text + n, g.directory.base + at.name, at.name_len)
                        n += at.name_len
                text[n] = c"\n"
                n += 1
        return status if status else PyBytes_FromStringAndSize(text, n)
    finally:
        free(text)


cdef _as_uint32(const word_list* found):
    """The words as uint32[n], which they all fit."""
    cdef size_t i
    array = np.empty(found.n, np.uint32)
    cdef uint32_t[::1] out = array
    for i in range(found.n):
        out[i] = <uint32_t>found.words[i]
    return array
