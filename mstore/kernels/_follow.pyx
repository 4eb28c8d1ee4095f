"""Records of a log block -> the samples that somebody follows.

    block payload   [ROW slot 3.. t][SCATTER t][LEVEL ...][SERIES ...][ROW ...]
    wanted          generation by slot, 0 = nobody asked for it
                         |
    samples         slot, stamp in ms, type, words          in the order of the log

A slot's generation is compared, so a reference that outlived its series is nobody's. reference_follow.py is the twin.
"""

import numpy as np

from libc.math cimport isnan
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from mstore.kernels._layout cimport *
from mstore.kernels._records cimport *

cdef enum:
    MS_PER_S = 1000

cdef struct sink:
    uint32_t* slots      # NULL: count only
    int64_t* stamps_ms
    uint8_t* types
    uint64_t* words
    int64_t n
    int64_t n_words
    int64_t n_left_out   # beyond the limit
    int64_t limit        # words
    int64_t left_out_ms  # the earliest stamp left out


cdef void take(sink* to, uint32_t slot, int64_t stamp_ms, uint8_t type, const uint64_t* words, int64_t n) noexcept nogil:
    if to.n_words + n > to.limit:
        to.n_left_out += 1
        to.left_out_ms = min(to.left_out_ms, stamp_ms)
        return
    if to.slots != NULL:
        to.slots[to.n] = slot
        to.stamps_ms[to.n] = stamp_ms
        to.types[to.n] = type
        memcpy(to.words + to.n_words, words, <size_t>n * 8)
    to.n += 1
    to.n_words += n


cdef void take_value(sink* to, uint32_t slot, int64_t t, uint8_t vtype, const char* values, uint64_t i) noexcept nogil:
    """One grid value; floats as the bits of a double, which holds every one of them exactly."""
    cdef double wide
    cdef uint64_t word
    if vtype == TYPE_F32:
        wide = (<const float*>values)[i]
        memcpy(&word, &wide, 8)
    else:
        word = (<const uint64_t*>values)[i]
        memcpy(&wide, &word, 8)
    if (word == 0xffffffffffffffffu) if vtype == TYPE_U64 else isnan(wide):
        return  # a hole in a run, not a sample
    take(to, slot, t * MS_PER_S, vtype, &word, 1)


cdef int walk(const char* at, uint64_t left, const uint32_t* wanted, uint64_t n_slots, sink* to, bint* defines) noexcept nogil:
    """All records of a payload; SOUND, or what is wrong with the first bad one."""
    cdef const ms_run* run
    cdef const char* values
    cdef const uint32_t* refs
    cdef const uint64_t* row
    cdef uint64_t length, i, width
    cdef int64_t dt
    cdef int fault
    while left:
        fault = measure(at, left, &length)
        if fault != SOUND:
            return fault
        run = <const ms_run*>at
        if run.type >= MS_REC_LEVEL:
            # Names, definitions, series and removals; keys, freeing and lives change no selection.
            defines[0] = defines[0] or run.type in (
                MS_REC_LEVEL, MS_REC_METRIC, MS_REC_SERIES, MS_REC_REMOVE, MS_REC_ERA
            )
        elif run.type == MS_REC_ROW:
            values = at + sizeof(ms_run)
            for i in range(run.count):
                if run.slot + i < n_slots and run.generation and wanted[run.slot + i] == run.generation:
                    take_value(to, <uint32_t>(run.slot + i), run.t, run.vtype, values, i)
        elif run.type == MS_REC_COLUMN:
            if run.slot < n_slots and run.generation and wanted[run.slot] == run.generation:
                memcpy(&dt, at + sizeof(ms_run), 8)
                for i in range(run.count):
                    take_value(to, run.slot, run.t + <int64_t>i * dt, run.vtype, at + sizeof(ms_run) + 8, i)
        elif run.type == MS_REC_SCATTER:
            refs = <const uint32_t*>(at + sizeof(ms_run))
            values = at + sizeof(ms_run) + 8 * <uint64_t>run.count
            for i in range(run.count):
                if refs[2 * i] < n_slots and refs[2 * i + 1] and wanted[refs[2 * i]] == refs[2 * i + 1]:
                    take_value(to, refs[2 * i], run.t, run.vtype, values, i)
        elif run.type == MS_REC_STAMPED:
            if run.slot < n_slots and run.generation and wanted[run.slot] == run.generation:
                row = <const uint64_t*>(at + sizeof(ms_run))
                width = 1 + run.vtype
                for i in range(run.count):
                    take(to, run.slot, <int64_t>row[i * width], 0, &row[i * width + 1], run.vtype)
        at += length
        left -= length
    return SOUND


def pick(const unsigned char[::1] payload not None, const uint32_t[::1] wanted not None, int64_t limit):
    """The samples of a log block's payload that are wanted, in its order.

    wanted   uint32[n]: by slot the generation that is followed, 0 = none
    limit    words at most; samples beyond it are counted, not copied
    returns  (slots uint32[m], stamps_ms int64[m], types uint8[m], words uint64[k], n_left_out, left_out_ms, defines)
             type 1 f32, 2 f64, 3 u64: one word each, floats as bits of a double; type 0: a row of a stamped series,
             as many words as it has columns. left_out_ms: the earliest stamp left out, 2^63-1 = none.
             defines: levels, metrics or series came or went
    raises   ValueError for a record that is none
    """
    cdef sink to = sink(NULL, NULL, NULL, NULL, 0, 0, 0, limit, INT64_MAX)
    cdef const char* at = <const char*>&payload[0] if payload.shape[0] else NULL
    cdef const uint32_t* generations = &wanted[0] if wanted.shape[0] else NULL
    cdef uint64_t n_bytes = payload.shape[0], n_slots = wanted.shape[0]
    cdef bint defines = False
    cdef int fault
    cdef uint32_t[::1] slots
    cdef int64_t[::1] stamps_ms
    cdef uint8_t[::1] types
    cdef uint64_t[::1] words
    with nogil:
        fault = walk(at, n_bytes, generations, n_slots, &to, &defines)
    if fault != SOUND:
        raise ValueError(f"a malformed record in a block of the log (fault {fault})")
    found = (np.empty(to.n, np.uint32), np.empty(to.n, np.int64), np.empty(to.n, np.uint8), np.empty(to.n_words, np.uint64))
    if to.n:
        slots, stamps_ms, types, words = found
        to.slots, to.stamps_ms, to.types = &slots[0], &stamps_ms[0], &types[0]
        to.words = &words[0] if to.n_words else NULL
        to.n = to.n_words = to.n_left_out = 0
        with nogil:
            walk(at, n_bytes, generations, n_slots, &to, &defines)
    return (*found, to.n_left_out, to.left_out_ms, bool(defines))
