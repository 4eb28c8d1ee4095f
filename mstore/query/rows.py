"""A row of a batch: one metric at some levels, an entry each; and the frame that all rows share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mstore.errors import InvalidRequest, MstoreError
from mstore.query.gather import DTYPES
from mstore.query.plan import Metric
from mstore.query.resample import factor_of

NO_REFS: NDArray[np.uint64] = np.empty(0, np.uint64)


@dataclass(slots=True)
class Row:
    """Entries to be answered, each by the series that become one; or why they cannot be."""

    n: int
    """Entries."""
    name: str
    metric: Metric | None
    refs: NDArray[np.uint64]
    """The series of all entries, one entry after the other, those of an entry in series order."""
    sizes: NDArray[np.int64]
    """int64[n]: how many series each entry has."""
    whys: NDArray[np.uint8]
    """uint8[n]: why an entry has none, as in tables.WHYS."""
    resolution_s: int = 0
    scale: float = 1.0
    error: MstoreError | None = None
    """Of all entries; a row without a metric has one."""

    @classmethod
    def failed(cls, n: int, error: MstoreError) -> Row:
        return cls(n, "", None, NO_REFS, np.zeros(n, np.int64), np.zeros(n, np.uint8), error=error)


@dataclass(frozen=True, slots=True)
class Frame:
    """What is the same for all rows: [start, end) in Unix seconds, and what is wanted of them."""

    start: int
    end: int
    statistics: bool = True
    data: bool = True
    padding: bool = True
    algo: str = "lttb"
    minimum_points: int = 0
    """A range of fewer points at native step is not resampled."""

    def n_slots(self, step_s: int) -> int:
        return -((self.start - self.end) // step_s)

    def n_points(self, step_s: int, factor: int) -> int:
        """How many points that is with runs of `factor` slots as one."""
        n_slots = self.n_slots(step_s)
        if factor > 1 and self.algo == "lttb":
            return min(n_slots, max(n_slots // factor, 2))
        return -(-n_slots // factor)

    def n_bytes(self, row: Row) -> int:
        """What the values of a row take; also where all are missing, where they are looked at."""
        if not self.data or row.metric is None:
            return 0
        as_stored = len(row.refs) <= row.n and row.scale == 1.0
        n_points = self.n_slots(max(row.metric.step_s, row.resolution_s))
        return row.n * n_points * (DTYPES[row.metric.type].itemsize if as_stored else 8)

    def window(self, step_s: int) -> tuple[int, int]:
        """A range of nominal times: its n_slots slots, whatever their phase, are those that contain start + k * step."""
        first = self.start + step_s // 2 - step_s + 1
        return first, first + self.n_slots(step_s) * step_s

    def factor(self, step_s: int, resolution_s: int) -> int:
        """Slots that become one; 1 for a resolution that is not coarser, or too few points; raises InvalidStep"""
        factor = factor_of(step_s, resolution_s) if resolution_s > step_s else 1
        return factor if self.n_slots(step_s) >= self.minimum_points else 1

    def alters(self, row: Row) -> bool:
        """Whether values are answered otherwise than they were gathered."""
        if row.metric is None:
            return False
        return row.scale != 1.0 or not self.padding or row.resolution_s > row.metric.step_s


def scale_of(factor: float) -> float:
    """What to multiply by: 0 means no scaling; raises InvalidRequest when it is not finite"""
    if not math.isfinite(factor):
        raise InvalidRequest(f"scale-by is {factor}: expected a finite number; 0 or 1 do not scale")
    return factor or 1.0
