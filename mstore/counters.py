"""Counters: what they grew by, how fast, where they began again. Numpy arrays in and out, nothing else.

A counter only ever grows, until what counts is started anew: a sample below the one before is a reset, and what it
shows has been counted since. So from each sample to the next a counter grows by

    v[k] - v[k-1]     where v[k] >= v[k-1]
    v[k]              at a reset

and from any sample to any later one by the sum of that. Growth belongs to the time *between* samples, t[k-1] to t[k],
and is booked at t[k], when it is known; the growth over a gap is booked where samples come again. So the growth of
adjoining windows adds up to that of the whole: nothing falls between two windows.

Of u64 everything is computed in integers and is exact; what becomes a float does so in the last division. Floats are
differences of samples, not sums of small steps.

source   reset and sum: Prometheus promql/functions.go (extrapolatedRate) and TimescaleDB toolkit counter_agg, which agree.
         A window counts from the sample before it, as in VictoriaMetrics and Prometheus' `anchored`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mstore.statistics import Number, sum_of_integers

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

U64_LARGEST: Final = 2**64 - 2
"""2^64 - 1 says that a sample is missing."""
_LOW_HALF = np.uint64(0xFFFF_FFFF)
_32 = np.uint64(32)


@dataclass(frozen=True, slots=True, eq=False)
class Counter:
    """The m samples of one counter in order of time, and what it grew by from each to the next."""

    times_ms: Ints
    """int64[m], Unix milliseconds, not falling."""
    values: NDArray[Any]
    """uint64[m] or float64[m]."""
    grown: NDArray[Any]
    """Of the same type [m]: since the sample before; grown[0] is 0."""
    resets: NDArray[np.bool_]
    """bool[m]: the counter began again between the sample before and this one."""

    @staticmethod
    def of(values: NDArray[Any], times_ms: Ints, restarted: NDArray[np.bool_] | None = None) -> Counter:
        """values     float32, float64 or uint64 [m]: the samples, none missing
        restarted  bool[m]: resets that are known from elsewhere, where the value alone might hide them: a start time
                   that changed, another counter of the same entry that fell
        """
        if values.dtype.kind == "f":
            values = values.astype(np.float64, copy=False)
        resets = np.zeros(len(values), np.bool_)
        grown = np.zeros_like(values)
        with np.errstate(invalid="ignore", over="ignore"):
            resets[1:] = values[1:] < values[:-1]
            if restarted is not None:
                resets[1:] |= restarted[1:]
            grown[1:] = np.where(resets[1:], values[1:], values[1:] - values[:-1])
        return Counter(times_ms, values, grown, resets)

    def from_zero(self, zero_ms: int) -> Counter:
        """With a sample of 0 before the first one, at a time when the counter had not counted yet."""
        times_ms = np.concatenate([np.array([zero_ms], np.int64), self.times_ms])
        return Counter.of(
            np.concatenate([np.zeros(1, self.values.dtype), self.values]), times_ms,
            np.concatenate([np.zeros(1, np.bool_), self.resets]),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.values)

    def total(self, anchor: int, last: int) -> Number:
        """The growth from one sample to a later one: an exact int of u64, however large, else a float."""
        if self.values.dtype.kind == "u":
            return sum_of_integers(self.grown[anchor + 1 : last + 1])
        with np.errstate(invalid="ignore", over="ignore"):
            return float(self._float_totals(np.array([anchor]), np.array([last]))[0])

    def rates(self) -> Floats:
        """What it grew by a second up to each sample, since the one before; float64[m], NaN for the first."""
        found = np.full(len(self), np.nan)
        found[1:] = _quotients(self.grown[1:].astype(np.float64), np.diff(self.times_ms))
        return found

    def totals(self, anchors: Ints, lasts: Ints) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The growth from sample anchors[i] to lasts[i] >= anchors[i].

        returns  (uint64[n] or float64[n], bool[n]: it has a place in the type: less than 2^64 - 1, no NaN)
        """
        with np.errstate(invalid="ignore", over="ignore"):
            if self.values.dtype.kind != "u":
                found = self._float_totals(anchors, lasts)
                return found, ~np.isnan(found)
            if sum_of_integers(self.grown) <= U64_LARGEST:
                sums = np.cumsum(self.grown)
                return sums[lasts] - sums[anchors], np.ones(len(lasts), np.bool_)
            above, below = self._halves(anchors, lasts)
            carried = above + (below >> _32)
            total = (above << _32) + below
        fits = (carried <= _LOW_HALF) & (total <= np.uint64(U64_LARGEST))
        return np.where(fits, total, np.uint64(0)), fits

    def totals_as_floats(self, anchors: Ints, lasts: Ints) -> Floats:
        """totals() rounded once to float64; what has no place in u64 has one here."""
        found, fits = self.totals(anchors, lasts)
        if found.dtype.kind != "u":
            return found
        floats = found.astype(np.float64)
        if not fits.all():
            above, below = self._halves(anchors[~fits], lasts[~fits])
            floats[~fits] = above.astype(np.float64) * 2.0**32 + below.astype(np.float64)
        return floats

    def _halves(self, anchors: Ints, lasts: Ints) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Sums of the upper and the lower 32 bits of what was grown: exact for 2^32 samples."""
        above = np.cumsum(self.grown >> _32)
        below = np.cumsum(self.grown & _LOW_HALF)
        return above[lasts] - above[anchors], below[lasts] - below[anchors]

    def _float_totals(self, anchors: Ints, lasts: Ints) -> Floats:
        difference: Floats = self.values[lasts] - self.values[anchors]
        if not self.resets.any():
            return difference
        before = np.zeros(len(self))
        before[1:] = np.where(self.resets[1:], self.values[:-1], 0.0)
        return difference + window_sums(before, anchors + 1, lasts + 1)


@dataclass(frozen=True, slots=True)
class Windows:
    """Stretches of a counter's samples, one for each of n moments."""

    anchors: Ints
    """int64[n]: the sample that growth is counted from."""
    lasts: Ints
    """int64[n]: the last sample, at or before the moment."""
    known: NDArray[np.bool_]
    """bool[n]: there are two samples to compare. Where not, anchor and last are any."""


def windows(counter: Counter, at_ms: Ints, window_ms: int) -> Windows:
    """The windows (t - window_ms, t] for each t of at_ms, each counted from the sample before it.

    The window with the first sample of all is counted from that one.
    """
    firsts = np.searchsorted(counter.times_ms, at_ms - window_ms, side="right")
    lasts = np.searchsorted(counter.times_ms, at_ms, side="right") - 1
    anchors = np.maximum(firsts - 1, 0)
    known = (firsts <= lasts) & (lasts > anchors)
    return Windows(np.where(known, anchors, 0), np.where(known, lasts, 0), known)


def increases(counter: Counter, at_ms: Ints, window_ms: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The growth in (t - window_ms, t] for each t: (uint64[n] or float64[n], bool[n]: known)."""
    found = windows(counter, at_ms, window_ms)
    if not len(counter):
        return np.zeros(len(at_ms), counter.values.dtype), found.known
    totals, fits = counter.totals(found.anchors, found.lasts)
    return totals, fits & found.known


def rates(counter: Counter, at_ms: Ints, window_ms: int) -> Floats:
    """increases() by the seconds between the two samples that are compared; float64[n], NaN = not known.

    Not by the window's length: samples a little too early or too late do not show as a change of the rate.
    """
    found = windows(counter, at_ms, window_ms)
    if not len(counter):
        return np.full(len(at_ms), np.nan)
    times_ms = counter.times_ms[found.lasts] - counter.times_ms[found.anchors]
    quotients = _quotients(counter.totals_as_floats(found.anchors, found.lasts), times_ms)
    return np.where(found.known, quotients, np.nan)


def deltas(counter: Counter, at_ms: Ints, start_ms: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The growth since start_ms, as far as it is known at each t of at_ms: (uint64[n] or float64[n], bool[n]: known).

    Counted from the last sample before start_ms, else from the first one of all. Between samples it stays.
    """
    lasts = np.searchsorted(counter.times_ms, at_ms, side="right") - 1
    anchor = max(int(np.searchsorted(counter.times_ms, start_ms, side="left")) - 1, 0)
    known = lasts >= anchor
    if not len(counter):
        return np.zeros(len(at_ms), counter.values.dtype), np.zeros(len(at_ms), np.bool_)
    totals, fits = counter.totals(np.full(len(at_ms), anchor), np.where(known, lasts, anchor))
    return totals, fits & known


def extrapolated(counter: Counter, ends_ms: Ints, window_ms: int) -> Floats:
    """Prometheus' increase: the samples in (t - window_ms, t] alone, stretched to the edges of the window.

    float64[n] for the n ends t, NaN where fewer than two samples lie in the window. The growth between first and last
    sample is stretched to an edge that is nearer than 1.1 mean distances of samples, else by half a distance, and at
    the front no further than to where the counter would have been 0.
    source  Prometheus promql/functions.go, extrapolatedRate; its rate is this by the window's seconds
    """
    firsts = np.searchsorted(counter.times_ms, ends_ms - window_ms, side="right")
    lasts = np.searchsorted(counter.times_ms, ends_ms, side="right") - 1
    known = lasts > firsts
    firsts, lasts = firsts[known], lasts[known]
    found = np.full(len(ends_ms), np.nan)
    grown = counter.totals_as_floats(firsts, lasts)
    first_ms, last_ms = counter.times_ms[firsts], counter.times_ms[lasts]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        sampled = (last_ms - first_ms) / 1000.0
        distance = sampled / (lasts - firsts)
        front = (first_ms - (ends_ms[known] - window_ms)) / 1000.0
        back = (ends_ms[known] - last_ms) / 1000.0
        front = np.where(front >= 1.1 * distance, distance / 2, front)
        back = np.where(back >= 1.1 * distance, distance / 2, back)
        begin = counter.values[firsts].astype(np.float64)
        to_zero = np.where((grown > 0) & (begin >= 0), sampled * (begin / grown), np.inf)
        front = np.minimum(front, to_zero)
        found[known] = grown * ((sampled + front + back) / sampled)
    return found


def _quotients(grown: Floats, times_ms: Ints) -> Floats:
    """A second; NaN where no time has passed."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.where(times_ms > 0, grown / (times_ms / 1000.0), np.nan)


def window_sums(values: Floats, starts: Ints, ends: Ints) -> Floats:
    """The sum of values[starts[i]:ends[i]] for each i, in float64.

    Nothing is subtracted, so that a large value outside a window leaves no trace in its sum: sums of 1, 2, 4, ... values
    are made by doubling, and a window is put together of them. O(n log n).
    """
    left = np.maximum(ends - starts, 0)
    sums, at = np.zeros(len(starts)), starts.copy()
    block, size = values.astype(np.float64), 1
    while left.any():
        taken = (left & size) != 0
        sums[taken] += block[at[taken]]
        at[taken] += size
        left = left & ~np.int64(size)
        if len(block) > size:
            block = block[:-size] + block[size:]
        size *= 2
    return sums
