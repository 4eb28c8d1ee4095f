"""What retention still allows to be served: slots and rows that are too old are missing, though their chunk is there.

Retention frees whole chunks, hours after their first samples have become too old. So that an answer does not
depend on when a chunk goes, whatever lies before now - retention is missing from the moment it is copied out
(kernels/_gather_runs.pyx): single series, aggregates and resampled answers see the same. Each series is judged by its
own metric's retention. A slot's time is its nominal one, an aggregate's slot that of the answer's grid. A ChunkView
shows a chunk as it is in memory, old samples and all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.kernels._gather import Gatherer
from mstore.kernels._segment import Segment
from mstore.shm.directory import DirectoryReader


class RetainedGatherer(Gatherer):
    """A Gatherer whose answers begin where retention does, as of the moment of each call.

    retention_s  asked at every call, seconds; 0 = everything is served. Metrics may have one of their own
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
        self._ask_retention_s = retention_s
        self._ask_now_s = now_s

    def as_of_now(self) -> None:
        """What a call of the kernel copies from here on is as old as it may be now."""
        self.now_s, self.retention_s = self._ask_now_s(), self._ask_retention_s()

    def oldest_s(self, metric: int) -> int:
        self.as_of_now()
        return super().oldest_s(metric)

    def grid(
        self, ref: int, start: int, end: int, limit: int
    ) -> tuple[NDArray[Any], int, int, int, int, int] | int:
        self.as_of_now()
        return super().grid(ref, start, end, limit)

    def aggregate(
        self, refs: NDArray[np.uint64], start: int, end: int, average: bool, propagate: bool, limit: int
    ) -> tuple[NDArray[np.float64], NDArray[np.uint32], int, int, int, int] | int:
        self.as_of_now()
        return super().aggregate(refs, start, end, average, propagate, limit)

    def rows(
        self, ref: int, start: int, end: int, limit: int
    ) -> tuple[NDArray[np.uint64], bool, int, int] | int:
        self.as_of_now()
        return super().rows(ref, start, end, limit)
