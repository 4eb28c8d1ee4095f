"""The naive twin of _resample: the oracle of its tests, and its stand-in under MSTORE_KERNELS=reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.kernels.reference_aggregate import present_of


def run_extremes(values: NDArray[Any], factor: int, largest: bool) -> NDArray[Any]:
    """As _resample.run_extremes."""
    chosen = []
    for start, end in _runs(len(values), factor):
        present = [i for i in range(start, end) if present_of(values[i : i + 1])[0]]
        if largest:
            chosen.append(max(present, key=lambda i: values[i], default=start))
        else:
            chosen.append(min(present, key=lambda i: values[i], default=start))
    return values[np.array(chosen, np.int64)]


def run_lasts(values: NDArray[Any], factor: int) -> NDArray[np.int64]:
    """As _resample.run_lasts."""
    present = present_of(values)
    places = [
        max((i for i in range(start, end) if present[i]), default=end - 1)
        for start, end in _runs(len(values), factor)
    ]
    return np.array(places, np.int64)


def lttb(values: NDArray[Any], factor: int) -> NDArray[np.int64]:
    """As _resample.lttb: point by point, in the same arithmetic."""
    if factor < 2:
        raise ValueError("lttb needs runs of at least two slots")
    n = len(values)
    m = max(n // factor, 2)
    if n <= m:
        return np.arange(n, dtype=np.int64)
    points = [
        float(value) if present else math.nan
        for value, present in zip(values.tolist(), present_of(values).tolist(), strict=True)
    ]
    places = [0]
    run = (n - 2) / (m - 2) if m > 2 else 0.0
    edges = [1, *(min(math.floor(k * run) + 1, n - 2 if k > 1 else n - 1) for k in range(1, m))]
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        mean = _mean_point(points, middle, high + 1)
        places.append(_farthest(points, places[-1], mean, low, middle))
    return np.array([*places, n - 1], np.int64)


def _farthest(points: list[float], kept: int, mean: tuple[float, float], low: int, end: int) -> int:
    largest, found = -1.0, kept
    for i in range(low, end):
        area = _area((float(kept), points[kept]), mean, (float(i), points[i]))
        if area > largest or math.isnan(area):
            largest, found = area, i
    return found


def _area(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return abs(((a[0] - c[0]) * (b[1] - a[1]) - (a[0] - b[0]) * (c[1] - a[1])) * 0.5)


def _mean_point(points: list[float], start: int, end: int) -> tuple[float, float]:
    if end == start:
        return math.nan, math.nan
    x = y = 0.0
    for i in range(start, end):
        x += float(i)
        y += points[i]
    return x / (end - start), y / (end - start)


def _runs(n: int, factor: int) -> list[tuple[int, int]]:
    if factor < 1:
        raise ValueError("a run needs at least one slot")
    return [(start, min(start + factor, n)) for start in range(0, n, factor)]
