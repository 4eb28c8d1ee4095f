"""One item of a batch made ready for its answer.

    statistics -> resample -> scale -> ends without samples cut off -> data left out

Statistics are of the slots at native step, before anything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.errors import InvalidRequest, InvalidStep, MstoreError, NotAggregatable
from mstore.fetching.packed import EMPTY, HELD, NO_DATA, Packing
from mstore.frames import U64_MISSING, Series, with_missing
from mstore.kernels.chosen import statistics as kernel
from mstore.query.finder import Refs
from mstore.query.gather import DTYPES
from mstore.query.plan import Metric
from mstore.query.resample import factor_of, resample

Gathered = Series | NotAggregatable | None
Statistics = tuple[float, float, float, int]
"""min, max, avg, number of samples."""

_NOTHING: Refs = np.empty(0, np.uint64)
_NO_STATISTICS: Statistics = (math.nan, math.nan, math.nan, 0)


@dataclass(slots=True)
class Item:
    """One entry to be answered: a metric's series that become one, or why that cannot be."""

    metric: Metric | None = None
    refs: Refs = field(default_factory=lambda: _NOTHING)
    why: str = ""
    """Why there is none, when refs is empty."""
    name: str = ""
    resolution_s: int = 0
    scale: float = 1.0
    error: MstoreError | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """What is the same for all items: [start, end) in Unix seconds, and what is wanted of them."""

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

    def n_bytes(self, item: Item) -> int:
        """What the values of an entry will take; also of one whose slots are all missing, where it is looked at."""
        if not self.data or item.metric is None:
            return 0
        as_stored = len(item.refs) <= 1 and item.scale == 1.0
        n_points = self.n_slots(max(item.metric.step_s, item.resolution_s))
        return n_points * (DTYPES[item.metric.type].itemsize if as_stored else 8)

    def window(self, step_s: int) -> tuple[int, int]:
        """A range of nominal times: its n_slots slots, whatever their phase, are those that contain start + k * step."""
        first = self.start + step_s // 2 - step_s + 1
        return first, first + self.n_slots(step_s) * step_s

    def factor(self, step_s: int, resolution_s: int) -> int:
        """Slots that become one; 1 for a resolution that is not coarser, or too few points; raises InvalidStep"""
        factor = factor_of(step_s, resolution_s) if resolution_s > step_s else 1
        return factor if self.n_slots(step_s) >= self.minimum_points else 1


def scale_of(factor: float) -> float:
    """What to multiply by: 0 means no scaling; raises InvalidRequest when it is not finite"""
    if not math.isfinite(factor):
        raise InvalidRequest(f"scale-by is {factor}: expected a finite number; 0 or 1 do not scale")
    return factor or 1.0


def pack(packing: Packing, item: Item, series: Gathered, frame: Frame) -> None:
    """Add an item's entry. series: its slots in the frame at its own step, as stored; None when it has none."""
    if isinstance(series, NotAggregatable):
        packing.fail(series)
    elif item.error is not None or item.metric is None:
        packing.fail(item.error or InvalidRequest("an item without a metric"))
    else:
        try:
            if series is None or series.why:
                _pack_nothing(packing, item, item.metric, series, frame)
            else:
                _pack_samples(packing, item, series, frame)
        except InvalidStep as error:
            packing.fail(error)


def _pack_nothing(packing: Packing, item: Item, metric: Metric, series: Series | None, frame: Frame) -> None:
    step_s = metric.step_s if series is None else series.step
    dtype = DTYPES[metric.type] if series is None else series.values.dtype
    factor = frame.factor(step_s, item.resolution_s)
    n_slots = frame.n_points(step_s, factor) if frame.padding else 0
    why = item.why if series is None else series.why
    packing.add(
        frame.start, step_s * factor, n_slots, None, dtype, EMPTY if frame.data else NO_DATA,
        unit=metric.unit, why=why, n_series=len(item.refs),
    )  # fmt: skip


def _pack_samples(packing: Packing, item: Item, series: Series, frame: Frame) -> None:
    values, start, step_s = as_stored(series), frame.start, series.step
    factor = frame.factor(step_s, item.resolution_s)
    statistics = statistics_of(values) if frame.statistics else _NO_STATISTICS
    if factor > 1 and frame.data:
        values, _ = resample(values, factor, frame.algo)
    n_slots, step_s = frame.n_points(step_s, factor), step_s * factor
    if item.scale != 1.0:
        values, statistics = _scaled(values, statistics, item.scale)
    if not frame.padding and frame.data:
        first, stop = _extent(values)
        values, start, n_slots = values[first:stop], start + first * step_s, stop - first
    packing.add(
        start, step_s, n_slots, values, values.dtype, HELD if frame.data else NO_DATA, statistics, series.unit, "",
        series.aggregation, len(item.refs),
    )  # fmt: skip


def as_stored(series: Series) -> NDArray[Any]:
    """Its values with missing ones as memory has them: NaN or 2^64-1."""
    values = series.values
    return with_missing(values, series.valid) if values.dtype.kind == "u" else values


def statistics_of(values: NDArray[Any]) -> Statistics:
    """min, max and mean of the samples, as doubles, and their number.

    values   float32, float64 or uint64 [n]; missing = NaN or 2^64-1
    """
    n_samples, _, _, low, high, total = kernel.scan(values)
    return (float(low), float(high), total / n_samples, n_samples) if n_samples else _NO_STATISTICS


def _scaled(values: NDArray[Any], statistics: Statistics, scale: float) -> tuple[NDArray[Any], Statistics]:
    wide = values.astype(np.float64)
    if values.dtype.kind == "u":
        wide[values == U64_MISSING] = np.nan
    *numbers, n_samples = statistics
    low, high, mean = (one * scale for one in numbers)
    with np.errstate(over="ignore"):
        return wide * scale, (min(low, high), max(low, high), mean, n_samples)


def _extent(values: NDArray[Any]) -> tuple[int, int]:
    """Where the samples begin and end."""
    present = np.flatnonzero(values != U64_MISSING if values.dtype.kind == "u" else values == values)
    return (int(present[0]), int(present[-1]) + 1) if len(present) else (0, 0)
