"""Statistics of samples, missing ones left out: the same numbers to the last bit in a client and in the store.

Sums of floats depend on the order of adding. It is fixed here, so that no machine and no length of a vector unit
shows in an answer: slot k is added in float64 to lane k mod 8, and then the lanes, from the first, to each other.
kernels/_statistics does the same to a whole array in one scan. Integers are added as integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mstore.errors import InvalidRequest

Number: TypeAlias = "int | float"

LANES = 8


@dataclass(frozen=True, slots=True)
class Stats:
    """Of samples in order of time; in their unit. Of u64 all but avg are integers, and exact, however large.

    Without a sample count and sum are 0, the times are None and everything else is NaN.
    """

    min: Number
    max: Number
    avg: float
    """sum / count, rounded once for u64."""
    sum: Number
    count: int
    first: Number
    last: Number
    first_time_ms: int | None
    """Of the first sample, Unix milliseconds; of a slot its nominal time."""
    last_time_ms: int | None


NO_STATS = Stats(math.nan, math.nan, math.nan, 0, 0, math.nan, math.nan, None, None)


class Scan(NamedTuple):
    """What one pass over values finds; first and last are places. Without a sample only n, 0, means anything."""

    n: int
    """How many of them are samples."""
    first: int
    last: int
    min: Number
    max: Number
    sum: Number


def scan(values: NDArray[Any], valid: NDArray[np.bool_]) -> Scan:
    """values  float32, float64 or uint64 [n];  valid  bool[n]: which of them are samples"""
    places = np.flatnonzero(valid)
    if not len(places):
        return Scan(0, 0, 0, 0, 0, 0)
    kept = values[places]
    if values.dtype.kind == "u":
        total: Number = sum_of_integers(kept)
    else:
        total = _sum_of_floats(np.where(valid, values, 0.0).astype(np.float64, copy=False))
    # Adding 0 makes of the two float zeros the positive one.
    low, high = kept.min().item() + 0, kept.max().item() + 0
    return Scan(len(places), int(places[0]), int(places[-1]), low, high, total)


def statistics(values: NDArray[Any], times_ms: NDArray[np.int64], found: Scan) -> Stats:
    """What a scan of values [n] at times_ms int64[n] says."""
    if not found.n:
        return NO_STATS
    mean = found.sum / found.n
    if not math.isfinite(mean) and math.isfinite(found.min) and math.isfinite(found.max):
        # Only their sum is beyond float64.
        mean = _sum_of_floats(np.where(np.isnan(values), 0.0, values) / found.n)
    return Stats(
        found.min, found.max, mean, found.sum, found.n, values[found.first].item(), values[found.last].item(),
        int(times_ms[found.first]), int(times_ms[found.last]),
    )  # fmt: skip


def percentile(samples: NDArray[Any], q: float) -> Number:
    """The value below which q percent of the samples lie, between two of them in proportion.

    samples  float32, float64 or uint64 [n], none of them missing, in any order
    q        0 to 100; 50 = the median
    returns  a float, rounded once; of u64 an integer where q falls on a sample; NaN of no samples
    raises   InvalidRequest for another q
    follows  Hyndman and Fan, Sample quantiles in statistical packages, 1996, type 7, which is numpy's default
    """
    if not 0 <= q <= 100:  # NaN, too, is none of these
        raise InvalidRequest(f"percentile {q!r}: expected a number from 0 to 100")
    if not len(samples):
        return math.nan
    from fractions import Fraction

    # The decimals that were written are meant: 99.9 of 1001 samples is one of them, though the float is a little off.
    rank = Fraction(str(q)) * (len(samples) - 1) / 100
    place, share = divmod(rank, 1)
    if not share:
        exact: Number = np.partition(samples, int(place))[int(place)].item()
        return exact
    low, high = np.partition(samples, [int(place), int(place) + 1])[int(place) : int(place) + 2].tolist()
    if low == high or not (math.isfinite(low) and math.isfinite(high)):
        return float(low if low == high else low + high)
    return float(Fraction(low) + (Fraction(high) - Fraction(low)) * share)


def sum_of_integers(values: NDArray[np.uint64]) -> int:
    """The exact sum of fewer than 2^32 unsigned integers."""
    return (int((values >> np.uint64(32)).sum()) << 32) + int((values & np.uint64(0xFFFF_FFFF)).sum())


def _sum_of_floats(values: NDArray[np.float64]) -> float:
    """values float64[n], 0 where there is no sample, which changes no sum."""
    padded = np.zeros(-(-len(values) // LANES) * LANES)
    padded[: len(values)] = values
    # accumulate, unlike sum, adds row by row whatever numpy's version.
    with np.errstate(invalid="ignore", over="ignore"):
        lanes = np.add.accumulate(padded.reshape(-1, LANES), axis=0)[-1]
    total = 0.0
    for lane in lanes.tolist():  # not sum(), which compensates since Python 3.12
        total += lane
    return total
