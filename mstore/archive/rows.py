"""Samples -> the rows of the archive: one metric of one host, all its series, in order of time.

    memory  chunks --copied by the readers' protocol--> slots of the window, and those that are marked as late
    files   chunks that left before their time      --> slots that no pass has archived
                                                    --one order, one row a series and time--> columns

A group's rows are ordered by time across its series, as the file says they are; of one time, by scope. What is held at
a time is bounded: a group with more rows than ROWS_MAX is asked for in pieces of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.archive.index import Group, Window
from mstore.archive.leavers import EarlyLeavers, Kept, entries
from mstore.archive.lives import Life, Memory
from mstore.kernels._snapshot import ChunkCopier
from mstore.query.gather import DTYPES
from mstore.shm import chunks, layout

ROWS_MAX = 1 << 20
_SCRATCH_BYTES = 256 << 10

Times = NDArray[np.int64]
Archived = Callable[[Life, int, int], Times]
"""Times in ms of the rows that the archive has of a series in [start, stop) seconds."""


@dataclass(slots=True)
class Rows:
    """Rows of one group, in order. `life[i]` is the place of row i's series in the group.

    key_ms  int64[n]: nominal time of the slot, or the row's stamp, milliseconds
    type    uint8[n]: layout.TYPE_*
    value   float32[n], rounded where the type is wider; NaN = a cell of a stamped row that is missing
    word    uint64[n]: the bits of an f64 or u64 value; of an f32 value 0
    column  int64[n]: which of its series' columns; 0 for series with one
    early   bool[n]: it left memory before its time
    """

    key_ms: Times
    life: NDArray[np.int64]
    type: NDArray[np.uint8]
    value: NDArray[np.float32]
    word: NDArray[np.uint64]
    column: NDArray[np.int64]
    early: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.key_ms)

    def chosen(self, which: NDArray[Any]) -> Rows:
        return Rows(*(getattr(self, name)[which] for name in Rows.__slots__))


def together(pieces: list[Rows]) -> Rows:
    """One after the other; of none a Rows without any."""
    return Rows(
        *(np.concatenate([getattr(one, name) for one in (_NOTHING, *pieces)]) for name in Rows.__slots__)
    )


class Source:
    """Where rows come from.

    early     what left memory before its time
    archived  asked for what left while a pass was under way, which may have archived it
    """

    def __init__(self, memory: Memory, early: EarlyLeavers, archived: Archived) -> None:
        self._memory = memory
        self._early = early
        self._archived = archived

    def rows(self, group: Group, window: Window) -> Iterator[Rows]:
        """The rows of a group in one day's window, in pieces that follow each other in time."""
        start, stop = int(window.start[group.index]), int(window.stop[group.index])
        kept = self._kept(group)
        if kept or group.marks_ms:
            first, end = window.day_start, window.day_stop
        else:
            first, end = start, stop
        n_pieces = min(max(1, -(-_expected(group, first, end) // ROWS_MAX)), max(1, end - first))
        for piece in range(n_pieces):
            low = first + (end - first) * piece // n_pieces
            high = first + (end - first) * (piece + 1) // n_pieces
            found = self._in_memory(group, low, high, start, stop)
            if kept:
                found = together([self._that_left(group, kept, low, high, start), found])
            if len(found := _ordered(found)):
                yield found

    def _kept(self, group: Group) -> list[tuple[int, Kept]]:
        """(place of the series, chunk) of what left memory, in that order."""
        held = self._early.chunks
        return [(place, kept) for place, life in enumerate(group.lives) for kept in held.get(life.ref, ())]

    def _in_memory(self, group: Group, low: int, high: int, start: int, stop: int) -> Rows:
        found = []
        places = {life.ref & 0xFFFF_FFFF: place for place, life in enumerate(group.lives)}
        for head, payload in copied(self._memory, group.lives):
            place = places[int(head["series"])]
            rows = _rows(group, place, head, payload, low, high, early=False)
            if not len(rows):
                continue
            due = (rows.key_ms >= start * 1000) & (rows.key_ms < stop * 1000)
            found.append(rows.chosen(due | _marked(group, place, rows.key_ms)))
        return together(found)

    def _that_left(self, group: Group, kept: list[tuple[int, Kept]], low: int, high: int, start: int) -> Rows:
        """What lies before `start` is archived, but for what is marked."""
        found = []
        for place, one in kept:
            rows = _rows(group, place, one.head, self._early.payload(one), low, high, early=True)
            before = rows.key_ms < start * 1000
            due = ~before | _marked(group, place, rows.key_ms)
            if one.during and before.any():
                known = self._archived(group.lives[place], low, high)
                due |= ~np.isin(rows.key_ms, known)
            found.append(rows.chosen(due))
        return together(found)


def _expected(group: Group, start: int, stop: int) -> int:
    """About how many rows there are at most: slots; of stamped series a row a second and column."""
    seconds = np.minimum(group.spans[:, 1], stop) - np.maximum(group.spans[:, 0], start)
    steps = np.array([life.step_s for life in group.lives])
    columns = np.array([life.n_columns for life in group.lives])
    return int((np.maximum(seconds, 0) * columns // np.maximum(steps, 1)).sum())


def _marked(group: Group, place: int, key_ms: Times) -> NDArray[np.bool_]:
    """Which rows of a series are marked as late. A mark of a sample is one of the slot it lies in."""
    marks = group.marks_ms.get(place)
    life = group.lives[place]
    if marks is None or not len(key_ms):
        return np.zeros(len(key_ms), np.bool_)
    if life.kind == layout.KIND_GRID:
        marks = life.nominal_s(0) * 1000 + (marks // 1000 - life.anchor_s) // life.step_s * life.step_s * 1000
    return np.isin(key_ms, marks)


def _ordered(rows: Rows) -> Rows:
    """By time, of one time by series; of one series and time the row that came last."""
    order = np.lexsort((np.arange(len(rows)), rows.column, rows.life, rows.key_ms))
    rows = rows.chosen(order)
    last = np.ones(len(rows), np.bool_)
    same = (rows.key_ms[1:] == rows.key_ms[:-1]) & (rows.life[1:] == rows.life[:-1])
    last[:-1] = ~(same & (rows.column[1:] == rows.column[:-1]))
    return rows if last.all() else rows.chosen(last)


def copied(memory: Memory, lives: list[Life]) -> Iterator[tuple[np.void, memoryview]]:
    """(header, payload) of every chunk of these series, each copied whole while the store works.

    The payload is valid until the next one; grid chunks end with their last sample.
    """
    slots = np.array([life.ref & 0xFFFF_FFFF for life in lives], np.uint32)
    generations = np.array([life.ref >> 32 for life in lives], np.uint32)
    copier = ChunkCopier(memory.directory.segment, memory.samples, slots, generations)
    scratch = memoryview(bytearray(_SCRATCH_BYTES))
    while used := copier.fill(scratch):
        yield from entries(scratch[:used])


def _rows(
    group: Group, place: int, head: np.void, payload: memoryview, start: int, stop: int, *, early: bool
) -> Rows:
    """The samples of one chunk in [start, stop) seconds; slots without one are left out."""
    life = group.lives[place]
    found = (
        _stamped(life, payload, start, stop)
        if life.kind == layout.KIND_STAMPED
        else _slots(life, head, payload, start, stop)
    )
    if found is None:
        return _NOTHING
    key_ms, values, column = found
    n = len(key_ms)
    lives, left = np.full(n, place, np.int64), np.full(n, early, np.bool_)
    if values.dtype == np.float32:
        kind = np.full(n, layout.TYPE_F32, np.uint8)
        return Rows(key_ms, lives, kind, values.copy(), np.zeros(n, np.uint64), column, left)
    kind = np.array([code for _, code in group.columns_of(life)], np.uint8)[column]
    word = values.view(np.uint64).copy()
    return Rows(key_ms, lives, kind, rounded(word, kind), word, column, left)


def _stamped(
    life: Life, payload: memoryview, start: int, stop: int
) -> tuple[Times, NDArray[Any], NDArray[np.int64]] | None:
    """(times in ms, cells, column of each): a row of the archive for every cell, missing ones, too."""
    rows = np.frombuffer(payload, np.uint64).reshape(-1, 1 + life.n_columns)
    stamps = rows[:, 0].view(np.int64)
    rows = rows[(stamps >= start * 1000) & (stamps < stop * 1000)]
    if not len(rows):
        return None
    key_ms = np.repeat(rows[:, 0].view(np.int64), life.n_columns)
    return key_ms, rows[:, 1:].reshape(-1), np.tile(np.arange(life.n_columns), len(rows))


def _slots(
    life: Life, head: np.void, payload: memoryview, start: int, stop: int
) -> tuple[Times, NDArray[Any], NDArray[np.int64]] | None:
    values = np.frombuffer(payload, DTYPES[life.type])
    first = life.nominal_s(int(head["n"]) * layout.CHUNK_SLOTS)
    low = max(0, -((first - start) // life.step_s))
    high = min(len(values), -((first - stop) // life.step_s))
    if low >= high:
        return None
    values = values[low:high]
    places = np.flatnonzero(~chunks.missing(values))
    key_ms = (first + (low + places) * life.step_s) * 1000
    return key_ms, values[places], np.zeros(len(places), np.int64)


def rounded(word: NDArray[np.uint64], kind: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8-byte values as float32: to the nearest, infinite beyond its range, NaN where there is none."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = word.view(np.float64).astype(np.float32)
        whole = kind == layout.TYPE_U64
        found[whole] = word[whole]
    found[whole & (word == layout.U64_MISSING)] = np.nan
    return found


_NOTHING = Rows(
    np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.float32),
    np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.bool_),
)  # fmt: skip
