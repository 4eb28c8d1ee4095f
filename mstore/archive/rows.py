"""Samples in memory -> the rows of the archive: one metric of one host, all its series, in order of time.

    chunks of the group --copied by the readers' protocol--> slots in [start, stop) --one order--> columns

A group's rows are ordered by time across its series, as the file says they are; of one time, by scope. What is held at
a time is bounded: a group with more rows than ROWS_MAX is asked for in pieces of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.archive.lives import Group, Life, Memory
from mstore.kernels._snapshot import ChunkCopier
from mstore.query.gather import DTYPES
from mstore.shm import chunks, layout

ROWS_MAX = 1 << 20
_SCRATCH_BYTES = 256 << 10


@dataclass(slots=True)
class Rows:
    """Rows of one group, in order. `life[i]` is the place of row i's series in the group.

    key_ms  int64[n]: nominal time of the slot, or the row's stamp, milliseconds
    type    uint8[n]: layout.TYPE_*
    value   float32[n], rounded where the type is wider; NaN = a cell of a stamped row that is missing
    word    uint64[n]: the bits of an f64 or u64 value; of an f32 value 0
    column  int64[n]: which of its series' columns; 0 for series with one
    """

    key_ms: NDArray[np.int64]
    life: NDArray[np.int64]
    type: NDArray[np.uint8]
    value: NDArray[np.float32]
    word: NDArray[np.uint64]
    column: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.key_ms)


def rows_of(memory: Memory, group: Group, start: int, stop: int) -> Iterator[Rows]:
    """The rows of a group with times in [start, stop) seconds, in pieces that follow each other in time."""
    n = _expected(group, start, stop)
    n_pieces = min(max(1, -(-n // ROWS_MAX)), stop - start)
    for piece in range(n_pieces):
        low = start + (stop - start) * piece // n_pieces
        high = start + (stop - start) * (piece + 1) // n_pieces
        found = _piece(memory, group, low, high)
        if len(found):
            yield found


def _expected(group: Group, start: int, stop: int) -> int:
    """About how many rows there are at most: slots; of stamped series a row a second and column."""
    seconds = np.minimum(group.spans[:, 1], stop) - np.maximum(group.spans[:, 0], start)
    steps = np.array([life.step_s for life in group.lives])
    columns = np.array([life.n_columns for life in group.lives])
    return int((np.maximum(seconds, 0) * columns // np.maximum(steps, 1)).sum())


def _piece(memory: Memory, group: Group, start: int, stop: int) -> Rows:
    found = [_NOTHING]
    places = {life.ref & 0xFFFF_FFFF: place for place, life in enumerate(group.lives)}
    for head, payload in copied(memory, group.lives):
        place = places[int(head["series"])]
        part = samples_of(group.lives[place], head, payload, start, stop)
        if part is not None:
            found.append(_columns(place, *part, group.columns_of(group.lives[place])))
    if len(found) == 2:
        whole = found[1]
    else:
        whole = Rows(*(np.concatenate([getattr(one, name) for one in found]) for name in Rows.__slots__))
    # Series come in the order that rows of one time have, so a stable order by time is the whole order.
    order = np.lexsort((whole.column, whole.life, whole.key_ms))
    return Rows(*(getattr(whole, name)[order] for name in Rows.__slots__))


def copied(memory: Memory, lives: list[Life]) -> Iterator[tuple[np.void, memoryview]]:
    """(header, payload) of every chunk of these series, each copied whole while the store works.

    The payload is valid until the next one; grid chunks end with their last sample.
    """
    slots = np.array([life.ref & 0xFFFF_FFFF for life in lives], np.uint32)
    generations = np.array([life.ref >> 32 for life in lives], np.uint32)
    copier = ChunkCopier(memory.directory.segment, memory.samples, slots, generations)
    scratch = memoryview(bytearray(_SCRATCH_BYTES))
    while used := copier.fill(scratch):
        at = 0
        while at < used:
            head = np.frombuffer(scratch, layout.CHUNK, 1, at)[0]
            at += layout.CHUNK.itemsize
            n_bytes = int(head["reserved"])
            yield head, scratch[at : at + n_bytes]
            at += (n_bytes + 7) // 8 * 8


def samples_of(
    life: Life, head: np.void, payload: memoryview, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64] | None] | None:
    """(times in ms, values, column of each or None) of a chunk's samples in [start, stop) seconds; None: none."""
    if life.kind == layout.KIND_STAMPED:
        rows = np.frombuffer(payload, np.uint64).reshape(-1, 1 + life.n_columns)
        stamps = rows[:, 0].view(np.int64)
        rows = rows[(stamps >= start * 1000) & (stamps < stop * 1000)]
        if not len(rows):
            return None
        key_ms = np.repeat(rows[:, 0].view(np.int64), life.n_columns)
        column = np.tile(np.arange(life.n_columns), len(rows))
        return key_ms, rows[:, 1:].reshape(-1), column
    values = np.frombuffer(payload, DTYPES[life.type])
    first = life.nominal_s(int(head["n"]) * layout.CHUNK_SLOTS)
    low = max(0, -((first - start) // life.step_s))
    high = min(len(values), -((first - stop) // life.step_s))
    if low >= high:
        return None
    values = values[low:high]
    places = np.flatnonzero(~chunks.missing(values))
    return (first + (low + places) * life.step_s) * 1000, values[places], None


def _columns(
    place: int,
    key_ms: NDArray[np.int64],
    values: NDArray[Any],
    column: NDArray[np.int64] | None,
    types: tuple[tuple[str, int], ...],
) -> Rows:
    n = len(key_ms)
    life = np.full(n, place, np.int64)
    if values.dtype == np.float32:
        kind = np.full(n, layout.TYPE_F32, np.uint8)
        return Rows(key_ms, life, kind, values.copy(), np.zeros(n, np.uint64), np.zeros(n, np.int64))
    if column is None:
        column = np.zeros(n, np.int64)
    kind = np.array([code for _, code in types], np.uint8)[column]
    word = values.view(np.uint64).copy()
    return Rows(key_ms, life, kind, rounded(word, kind), word, column)


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
    np.empty(0, np.uint64), np.empty(0, np.int64),
)  # fmt: skip
