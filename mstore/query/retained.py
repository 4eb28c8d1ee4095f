"""What retention still allows to be served: slots and rows that are too old are missing, though their chunk is there.

Retention frees whole chunks, hours after their first samples have become too old. So that an answer does not
depend on when a chunk goes, whatever lies before now - retention is missing from the moment it is copied out
(kernels/_gather_runs.pyx): single series, aggregates and resampled answers see the same. Each series is judged by its
own metric's retention; of a protected host everything is served that is there. A slot's time is its nominal one, an
aggregate's slot that of the answer's grid. A ChunkView shows a chunk as it is in memory, old samples and all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mstore.kernels import _gather_batch, _scan
from mstore.kernels._gather import Gatherer
from mstore.kernels._segment import Segment
from mstore.shm.directory import DirectoryReader

_Words: TypeAlias = NDArray[np.uint64]
_Times: TypeAlias = NDArray[np.int64]
_Flags: TypeAlias = NDArray[np.uint8]
_Scan: TypeAlias = tuple[NDArray[np.uint64], NDArray[np.float64], _Words, _Times, _Flags]
_Newest: TypeAlias = tuple[_Words, _Times, _Flags]
_Runs: TypeAlias = tuple[_Words, _Times, _Flags, _Times, NDArray[np.float64]]

_grid = Gatherer.grid


class RetainedGatherer(Gatherer):
    """A Gatherer whose answers begin where retention does, as of the moment of each call.

    retention_s  asked at every call, seconds; 0 = everything is served. Metrics may have one of their own
    now_s        the wall clock
    """

    directory: DirectoryReader

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
        # as_of_now() and super() without their calls: most questions are this one.
        self.now_s, self.retention_s = self._ask_now_s(), self._ask_retention_s()
        return _grid(self, ref, start, end, limit)

    def gather(
        self,
        refs: NDArray[np.uint64],
        bounds: NDArray[np.int64],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        how: NDArray[np.uint8],
        slots_max: NDArray[np.int64],
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.int64]] | int:
        """As _gather_batch.gather."""
        self.as_of_now()
        return _gather_batch.gather(self, refs, bounds, starts, ends, how, slots_max)

    def grid_of(self, refs: NDArray[np.uint64], start: int, end: int) -> tuple[int, int, int] | int:
        """As _gather_batch.grid_of."""
        self.as_of_now()
        return _gather_batch.grid_of(self, refs, start, end)

    def add(
        self,
        refs: NDArray[np.uint64],
        end: int,
        t0: int,
        step: int,
        sums: NDArray[np.float64],
        counts: NDArray[np.uint32],
    ) -> int | None:
        """As _gather_batch.add."""
        self.as_of_now()
        return _gather_batch.add(self, refs, end, t0, step, sums, counts)

    def scan(self, refs: NDArray[np.uint64], start: int, end: int) -> _Scan | int:
        """As _scan.scan."""
        self.as_of_now()
        return _scan.scan(self, refs, start, end)

    def newest(self, refs: NDArray[np.uint64], start: int, end: int) -> _Newest | int:
        """As _scan.newest."""
        self.as_of_now()
        return _scan.newest(self, refs, start, end)

    def runs(
        self, refs: NDArray[np.uint64], start: int, end: int, level: float, below: bool, gap_s: int
    ) -> _Runs | int:
        """As _scan.runs."""
        self.as_of_now()
        return _scan.runs(self, refs, start, end, level, below, gap_s)

    def sample_words(
        self, refs: NDArray[np.uint64], start: int, end: int, into: NDArray[np.uint64]
    ) -> tuple[int] | int:
        """As _scan.values: all as float64."""
        self.as_of_now()
        return _scan.values(self, refs, start, end, into)

    def rows(
        self, ref: int, start: int, end: int, limit: int
    ) -> tuple[NDArray[np.uint64], bool, int, int] | int:
        self.as_of_now()
        return super().rows(ref, start, end, limit)
