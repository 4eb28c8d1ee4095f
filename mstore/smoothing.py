"""Moving means, and values for slots that have none. Numpy arrays in and out, nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.counters import window_sums

Ints = NDArray[np.int64]


def moving_means(
    values: NDArray[Any], valid: NDArray[np.bool_], times_ms: Ints, window_ms: int, centred: bool
) -> NDArray[Any]:
    """The mean of the samples in a window around each slot, the missing ones left out.

    values    float32, float64 or uint64 [n];  valid  bool[n];  times_ms  int64[n], rising
    centred   False: samples of (t - window_ms, t]; True: those no further from t than window_ms / 2
    returns   float32 of float32, else float64 [n]; added in float64; NaN where the window has no sample
    """
    kept_ms, kept = times_ms[valid], values[valid].astype(np.float64)
    if centred:
        starts = np.searchsorted(kept_ms, times_ms - window_ms // 2, side="left")
        ends = np.searchsorted(kept_ms, times_ms + window_ms // 2, side="right")
    else:
        starts = np.searchsorted(kept_ms, times_ms - window_ms, side="right")
        ends = np.searchsorted(kept_ms, times_ms, side="right")
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        means = window_sums(kept, starts, ends) / (ends - starts)
        return means.astype(np.float32) if values.dtype == np.float32 else means


def filled(
    values: NDArray[Any], valid: NDArray[np.bool_], times_ms: Ints, linear: bool, max_gap_ms: int
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values for slots without a sample, from those around them.

    linear      False: the sample before, if it is no older than max_gap_ms; also after the last sample
                True: on the line between the samples around, if these are no further apart than max_gap_ms
    max_gap_ms  0 = however far
    returns     (values of the same type, bool[n]: which slots have one now). u64 on a line are
                rounded to whole numbers
    """
    n = len(values)
    places = np.arange(n)
    before = np.maximum.accumulate(np.where(valid, places, -1))
    after = np.minimum.accumulate(np.where(valid, places, n)[::-1])[::-1]
    holes = np.flatnonzero(~valid & (before >= 0) & ((after < n) if linear else True))
    left, right = before[holes], after[holes] if linear else holes
    if max_gap_ms:
        near = times_ms[right] - times_ms[left] <= max_gap_ms
        holes, left, right = holes[near], left[near], right[near]
    found, present = values.copy(), valid.copy()
    present[holes] = True
    if linear:
        gap_ms = np.maximum(times_ms[right] - times_ms[left], 1)  # 0 if stamps are there twice
        found[holes] = _between(values[left], values[right], times_ms[holes] - times_ms[left], gap_ms)
    else:
        found[holes] = values[left]
    return found, present


def _between(low: NDArray[Any], high: NDArray[Any], past_ms: Ints, gap_ms: Ints) -> NDArray[Any]:
    """What lies past_ms on the way of gap_ms from low to high."""
    found: NDArray[Any]
    if low.dtype.kind == "f":
        start = low.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            found = (start + (high.astype(np.float64) - start) * (past_ms / gap_ms)).astype(low.dtype)
        return found
    rises = high >= low
    span = np.where(rises, high - low, low - high)
    # span * past / gap in integers: the product of two numbers below 2^32 fits. A gap of 49 days is told in 2 ms.
    coarse = 1 + (gap_ms >> 32)
    past, gap = (past_ms // coarse).astype(np.uint64), (gap_ms // coarse).astype(np.uint64)
    whole, rest = np.divmod(span, gap)
    steps = whole * past + (rest * past + gap // np.uint64(2)) // gap
    found = np.where(rises, low + steps, low - steps)
    return found
