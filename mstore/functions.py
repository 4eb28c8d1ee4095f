"""What may be asked of a Series beyond its samples: statistics, a counter's growth, moving means, values for gaps.

Series has all of these as methods. The arithmetic is in statistics.py, counters.py and smoothing.py, on plain arrays;
here it meets the two kinds of series, their times, units and columns. A function of a series with several columns is
that of each column.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from mstore import choices, counters, smoothing, statistics
from mstore.counters import Counter
from mstore.errors import InvalidRequest
from mstore.statistics import Number, Stats

if TYPE_CHECKING:
    from mstore.frames import Series

TOO_FEW = "too few samples in range"
ANCHOR_S_MIN = 300
ANCHOR_STEPS = 5
"""How old the sample before a range may be for a counter to be counted from it: so many steps, and at least so long."""


class SeriesFunctions:
    """Methods of Series; nothing else has them."""

    __slots__ = ()

    @property
    def stats(self) -> Stats:
        """min, max, avg, sum, count, first and last of the samples; worked out at each call.

        raises InvalidRequest for several columns: ask .column(name).stats
        """
        series = _single(self)
        found = statistics.scan(series.values, series.valid)
        return statistics.statistics(series.values, series.times_ms, found)

    def percentile(self, q: float) -> Number:
        """The value below which q percent of the samples lie, in proportion between two of them; NaN of no sample.

        q        0 to 100; 50 = the median
        returns  float; of u64 an int where q falls on a sample
        raises   InvalidRequest for another q, or several columns
        """
        series = _single(self)
        return statistics.percentile(series.values[series.valid], q)

    def delta(self, *, start: int | None = None, first: str = "anchored") -> Number | None:
        """What a counter grew by over the whole series, resets seen to; None where that is not known: of one sample.

        start    Unix seconds: samples before it only serve to count from; default: the first sample is counted from
        first    "anchored": from the last sample before `start`, else from the first one
                 "zero": as anchored, but where there is none before `start`, from 0: the series is new
                 "prometheus": of the samples from `start` alone, stretched to both ends of the series
        returns  of u64 an exact int, else (and for "prometheus") a float
        source   counters.py
        """
        series = _single(self)
        counter, start_ms = _counted(series, start, first)
        if first == "prometheus":
            # From 1 ms before, because the window is open there and the range is not.
            end_ms = np.array([series.end * 1000 - 1])
            found = float(counters.extrapolated(counter, end_ms, series.end * 1000 - start_ms)[0])
            return None if math.isnan(found) else found
        anchor = max(int(np.searchsorted(counter.times_ms, start_ms)) - 1, 0)
        return counter.total(anchor, len(counter) - 1) if len(counter) > anchor + 1 else None

    def increase(self, window_s: int = 0, *, start: int | None = None, first: str = "anchored") -> Series:
        """What a counter grew by, resets seen to: in each slot since the sample before, or in the window before it.

        window_s  0: each slot that has a sample, since the sample before. Else each slot, in (t - window_s, t], counted
                  from the last sample before that window
        start     Unix seconds: the answer begins there, and samples before only serve to count from
        first     as of delta(). "prometheus": the samples of a window alone, stretched to its edges; needs a window
        returns   uint64 of u64, else float64, in the same unit; slots of which it is not known are missing
        """
        return _from(start, _by_column(self, lambda one: _increase(one, window_s, start, first)))

    def rate(self, window_s: int = 0, *, start: int | None = None, first: str = "anchored") -> Series:
        """increase() a second: divided by the time between the two samples compared ("prometheus": by the window).

        returns  float64, unit a second; the arguments are those of increase()
        """
        return _from(start, _by_column(self, lambda one: _rate(one, window_s, start, first)))

    def running_delta(self, *, start: int | None = None, first: str = "anchored") -> Series:
        """delta() from `start` up to each slot, as far as it is known there; the last value is delta() itself.

        returns  uint64 of u64, else float64; missing before the first sample. "prometheus" makes no sense here
        """
        return _from(start, _by_column(self, lambda one: _running_delta(one, start, first)))

    def resets(self) -> int:
        """How often a counter began again: samples below the one before."""
        return int(np.count_nonzero(_counter(_single(self)).resets))

    def changes(self) -> int:
        """How many samples differ from the one before."""
        values = _counter(_single(self)).values
        return int(np.count_nonzero(values[1:] != values[:-1]))

    def idelta(self, side: str = "right") -> Number | None:
        """What a counter grew by between its last two samples, or with side="left" its first two; None without two."""
        counter = _pair(_single(self), side)
        return counter.total(0, 1) if len(counter) == 2 else None

    def irate(self, side: str = "right") -> float | None:
        """idelta() by the seconds between the two; None without two, or at one time."""
        counter = _pair(_single(self), side)
        if len(counter) < 2 or counter.times_ms[0] == counter.times_ms[1]:
            return None
        return counter.total(0, 1) / (int(counter.times_ms[1] - counter.times_ms[0]) / 1000)

    def moving_average(self, window_s: int, *, centred: bool = False) -> Series:
        """The mean of the samples in a window around each slot, missing ones left out; NaN where it has none.

        window_s  more than 0: samples of (t - window_s, t], or with `centred` those no further than window_s / 2 away
        returns   float32 of f32, else float64; a slot without a sample has the mean of those around it
        """
        return _by_column(self, lambda one: _moving_average(one, window_s, centred))

    def filled(self, how: str, max_gap_s: int = 0) -> Series:
        """With values in slots that have no sample; what was there stays, and coverage still says how little there was.

        how        "none"; "previous": the last sample; "linear": between the samples around, never beyond them
        max_gap_s  previous: how old that sample may be; linear: how far the two may be apart; 0 = any time
        returns    of the same type; u64 on a line are rounded to whole numbers
        """
        choices.refuse_unless("fill", how, choices.FILLS)
        _refuse_negative("max_gap", max_gap_s)
        if how == "none":
            return _of(self)
        return _by_column(self, lambda one: _filled(one, how, max_gap_s))

    def scaled(self, factor: float | None) -> Series:
        """With every value multiplied by a factor, in float64; 0 and 1 change nothing.

        raises InvalidRequest for what is no finite number
        """
        by = choices.finite_factor(factor)
        return _of(self) if by in (0, 1) else _by_column(self, lambda one: _scaled(one, by))


# --- functions by name, as a question asks for them


class _Named(NamedTuple):
    apply: Callable[[Series, int, int], Series]
    """(series, window_s, start) -> the same slots."""
    before: Callable[[int], int]
    """Of the window, how many seconds before a slot are looked at."""
    after: Callable[[int], int]
    anchored: bool
    """Whether a sample before all that is needed, too."""


_NAMED = {
    "rate": _Named(lambda one, window_s, _: one.rate(window_s), lambda w: w, lambda _: 0, True),
    "increase": _Named(lambda one, window_s, _: one.increase(window_s), lambda w: w, lambda _: 0, True),
    "delta": _Named(
        lambda one, _, start: _by_column(one, lambda column: _running_delta(column, start, "anchored")),
        lambda _: 0, lambda _: 0, True,
    ),
    "moving_average": _Named(
        lambda one, window_s, _: one.moving_average(window_s), lambda w: w, lambda _: 0, False
    ),
    "centred_moving_average": _Named(
        lambda one, window_s, _: one.moving_average(window_s, centred=True),
        lambda w: (w + 1) // 2, lambda w: (w + 1) // 2, False,
    ),
}  # fmt: skip


assert ("", *_NAMED) == choices.FUNCTIONS


def applied(series: Series, function: str, window_s: int, start: int) -> Series:
    """A function by its name to a series that begins before `start`; its slots stay, `start` is what a delta counts from.

    raises InvalidRequest
    """
    choices.refuse_unless("function", function, choices.FUNCTIONS)
    return _NAMED[function].apply(series, window_s, start) if function else series


def reach(function: str, window_s: int, step_s: int) -> tuple[int, int]:
    """Seconds before and after a range whose samples a function needs to be right at the range's ends.

    step_s  0 = stamped
    raises  InvalidRequest
    """
    choices.refuse_unless("function", function, choices.FUNCTIONS)
    _refuse_negative("window", window_s)
    if not function:
        return 0, 0
    named = _NAMED[function]
    anchor_s = max(ANCHOR_S_MIN, ANCHOR_STEPS * step_s) if named.anchored else 0
    return named.before(window_s) + anchor_s, named.after(window_s)


# --- of a series with one column


def _increase(series: Series, window_s: int, start: int | None, first: str) -> Series:
    _refuse_window(window_s, first)
    counter, _ = _counted(series, start, first)
    if first == "prometheus":
        values: Any = counters.extrapolated(counter, series.times_ms, window_s * 1000)
        return _answer(series, values, ~np.isnan(values))
    if window_s:
        return _answer(series, *counters.increases(counter, series.times_ms, window_s * 1000))
    known = counter.grown == counter.grown  # infinite samples may differ by NaN
    known[:1] = False
    return _by_sample(series, counter, counter.grown, known)


def _rate(series: Series, window_s: int, start: int | None, first: str) -> Series:
    _refuse_window(window_s, first)
    counter, _ = _counted(series, start, first)
    if first == "prometheus":
        values = counters.extrapolated(counter, series.times_ms, window_s * 1000) / window_s
        found = _answer(series, values, ~np.isnan(values))
    elif window_s:
        values = counters.rates(counter, series.times_ms, window_s * 1000)
        found = _answer(series, values, ~np.isnan(values))
    else:
        values = counter.rates()
        found = _by_sample(series, counter, values, ~np.isnan(values))
    found.unit = f"{series.unit}/s" if series.unit else ""
    return found


def _running_delta(series: Series, start: int | None, first: str) -> Series:
    if first == "prometheus":
        raise InvalidRequest(
            'first="prometheus" belongs to a window, and not to every slot of a running delta'
        )
    counter, start_ms = _counted(series, start, first)
    return _answer(series, *counters.deltas(counter, series.times_ms, start_ms))


def _moving_average(series: Series, window_s: int, centred: bool) -> Series:
    _refuse_negative("window", window_s)
    if window_s == 0:
        raise InvalidRequest("a moving average needs a window: more than 0 seconds")
    values = smoothing.moving_means(series.values, series.valid, series.times_ms, window_s * 1000, centred)
    return _answer(series, values, ~np.isnan(values))


def _filled(series: Series, how: str, max_gap_s: int) -> Series:
    values, valid = smoothing.filled(
        series.values, series.valid, series.times_ms, how == "linear", max_gap_s * 1000
    )
    return series.like(values, valid)


def _scaled(series: Series, factor: float) -> Series:
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.where(series.valid, series.values.astype(np.float64) * factor, np.nan)
    return series.like(values)


def _refuse_window(window_s: int, first: str) -> None:
    _refuse_negative("window", window_s)
    if first == "prometheus" and window_s == 0:
        raise InvalidRequest('first="prometheus" stretches growth to the edges of a window: give one')


def _counted(series: Series, start: int | None, first: str) -> tuple[Counter, int]:
    """(the counter, from when in Unix milliseconds growth counts)"""
    choices.refuse_unless("first", first, choices.FIRSTS)
    counter = _counter(series)
    start_ms = (series.start if start is None else start) * 1000
    if first == "zero" and len(counter) and counter.times_ms[0] >= start_ms:
        # A grid's counter was 0 a step before; stamped rows tell no more than that it was at the start.
        zero_ms = int(counter.times_ms[0]) - series.step * 1000 if series.step else start_ms
        counter = counter.from_zero(zero_ms)
        start_ms = min(start_ms, zero_ms + 1)
    return counter, start_ms


def _counter(series: Series) -> Counter:
    return Counter.of(series.values[series.valid], series.times_ms[series.valid])


def _pair(series: Series, side: str) -> Counter:
    choices.refuse_unless("side", side, ("left", "right"))
    places = np.flatnonzero(series.valid)[slice(0, 2) if side == "left" else slice(-2, None)]
    return Counter.of(series.values[places], series.times_ms[places])


def _answer(series: Series, values: Any, valid: Any) -> Series:
    found = series.like(values if values.dtype.kind == "u" else np.where(valid, values, np.nan), valid)
    found.why = series.why or ("" if valid.any() else TOO_FEW)
    return found


def _by_sample(series: Series, counter: Counter, values: Any, known: Any) -> Series:
    """Values of a counter's samples in the slots they come from; one that was put before the first has no slot."""
    n = len(counter) - int(np.count_nonzero(series.valid))
    found, valid = np.zeros(len(series), values.dtype), np.zeros(len(series), np.bool_)
    found[series.valid], valid[series.valid] = values[n:], known[n:]
    return _answer(series, found, valid)


def _from(start: int | None, series: Series) -> Series:
    return series if start is None else series.between(start, series.end)


# --- series with several columns


def _of(functions: SeriesFunctions) -> Series:
    return cast("Series", functions)


def _single(functions: SeriesFunctions) -> Series:
    series = _of(functions)
    if series.columns:
        raise InvalidRequest(
            f"the series has the columns {', '.join(series.columns)}: ask one of them, as .column(name)"
        )
    return series


def _by_column(functions: SeriesFunctions, function: Callable[[Series], Series]) -> Series:
    series = _of(functions)
    if not series.columns:
        return function(series)
    parts = [function(series.column(name)) for name in series.columns]
    dtype = [(name, part.values.dtype) for name, part in zip(series.columns, parts, strict=True)]
    values = np.empty(len(parts[0]), np.dtype(dtype))
    for name, part in zip(series.columns, parts, strict=True):
        values[name] = part.values
    return parts[0].like(values, np.stack([part.valid for part in parts], axis=1))


def _refuse_negative(name: str, seconds: int) -> None:
    if seconds < 0:
        raise InvalidRequest(f"{name}={seconds!r}: expected seconds, 0 or more")
