"""What retention still allows to be served: slots and rows that are too old are missing, though their chunk is there.

Retention frees whole chunks, hours after their first samples have become too old. So that an answer does not
depend on when a chunk goes, whatever lies before now - retention is made missing here, between gathering and all that
follows: single series, aggregates and resampled answers see the same. A slot's time is its nominal one, an aggregate's
slot that of the answer's grid. A ChunkView shows a chunk as it is in memory, old samples and all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.kernels._gather import Gatherer
from mstore.kernels._segment import Segment
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader

_KEEP_ALL_S = -(1 << 53)


class RetainedGatherer(Gatherer):
    """A Gatherer whose answers begin where retention does.

    retention_s  asked at every call, seconds; 0 = everything is served
    now_s        the wall clock
    """

    def __init__(
        self,
        directory: DirectoryReader,
        samples: Segment,
        retention_s: Callable[[], int],
        now_s: Callable[[], int],
    ) -> None:
        super().__init__(directory, samples)
        self._retention_s = retention_s
        self._now_s = now_s

    def oldest_s(self) -> int:
        """Samples before this time are not served."""
        retention = self._retention_s()
        return self._now_s() - retention if retention else _KEEP_ALL_S

    def grid(
        self, ref: int, start: int, end: int, limit: int
    ) -> tuple[NDArray[Any], int, int, int, int, int] | int:
        found = super().grid(ref, start, end, limit)
        oldest = self.oldest_s()
        if oldest <= start or isinstance(found, int):
            return found
        values, t0, step, value_type, present, metric = found
        old = values[: slots_before(oldest, t0, step)]
        if value_type == layout.TYPE_U64:
            present -= int(np.count_nonzero(old != layout.U64_MISSING))
            old[:] = layout.U64_MISSING
        else:
            present -= int(np.count_nonzero(~np.isnan(old)))
            old[:] = np.nan
        return values, t0, step, value_type, present, metric

    def aggregate(
        self, refs: NDArray[np.uint64], start: int, end: int, average: bool, propagate: bool, limit: int
    ) -> tuple[NDArray[np.float64], NDArray[np.uint32], int, int, int, int] | int:
        found = super().aggregate(refs, start, end, average, propagate, limit)
        oldest = self.oldest_s()
        if oldest <= start or isinstance(found, int):
            return found
        values, coverage, t0, step, covered, metric = found
        n_old = slots_before(oldest, t0, step)
        covered -= int(np.count_nonzero(coverage[:n_old]))
        values[:n_old] = np.nan
        coverage[:n_old] = 0
        return values, coverage, t0, step, covered, metric

    def rows(
        self, ref: int, start: int, end: int, limit: int
    ) -> tuple[NDArray[np.uint64], bool, int, int] | int:
        # A row has no place in an answer but its stamp: it is left out by asking for less.
        oldest = self.oldest_s()
        return super().rows(ref, min(max(start, oldest), max(start, end)), end, limit)


def slots_before(oldest_s: int, t0: int, step: int) -> int:
    """How many of the slots at t0, t0 + step, ... lie before oldest_s."""
    return max(0, -((t0 - oldest_s) // step))
