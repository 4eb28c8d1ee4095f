"""Chunks as they lie in shared memory, for those who want no copy at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.kernels._gather import Gatherer
from mstore.query.gather import DTYPES, checked
from mstore.shm import layout


@dataclass(frozen=True, slots=True)
class ChunkView:
    """One chunk of a series, read in place.

    The memory belongs to the store, which may free the chunk or use it for another series at any time: read
    the values, then ask valid(). Only if it still says yes was everything read until then this chunk's.
    """

    values: NDArray[Any]
    """Read-only. Grid: float32, float64 or uint64, missing = NaN or 2^64-1. Stamped: uint64[m, 1 + k]."""
    start: int
    """Nominal time of values[0], Unix seconds; 0 for stamped."""
    step: int
    """Seconds between values; 0 = stamped: column 0 holds the stamps."""
    _gatherer: Gatherer
    _ref: int
    _n: int
    _table: int
    _word: int

    @property
    def times(self) -> NDArray[np.int64]:
        """int64, Unix seconds; stamped: milliseconds as they stand in column 0."""
        if self.step == 0:
            return self.values[:, 0].view(np.int64)
        return self.start + self.step * np.arange(len(self.values), dtype=np.int64)

    def valid(self) -> bool:
        """Whether the series still has this chunk at this place."""
        return self._gatherer.still_linked(self._ref, self._n, self._table, self._word)


def chunk_views(gatherer: Gatherer, ref: int) -> Iterator[ChunkView]:
    """Every chunk of every era of a series, oldest era first, chunks by time (stamped: by creation)."""
    for era in checked(gatherer.eras(ref)):
        kind, value_type, n_columns, anchor_s, step_s, _, _ = checked(gatherer.describe(era))
        for n, table, word, offset, count in checked(gatherer.chunks(era)):
            if kind == layout.KIND_STAMPED:
                view = gatherer.view(offset, count * 8 * (1 + n_columns))
                values = np.frombuffer(view, np.uint64).reshape(count, 1 + n_columns)
                yield ChunkView(values, 0, 0, gatherer, era, n, table, word)
            else:
                dtype = DTYPES[value_type]
                values = np.frombuffer(gatherer.view(offset, count * dtype.itemsize), dtype)
                start = anchor_s + step_s // 2 + n * layout.CHUNK_SLOTS * step_s
                yield ChunkView(values, start, step_s, gatherer, era, n, table, word)
