"""Moving means, filled gaps and scaled values against one slot at a time in exact numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.errors import InvalidRequest
from mstore.frames import Series

STEP = 10
START = 1000
DTYPES = st.sampled_from([np.float32, np.float64, np.uint64])


def grid(values: list[Any], dtype: Any = np.float64, **fields: Any) -> Series:
    valid = np.array([value is not None for value in values], np.bool_)
    missing: Any = 0 if dtype == np.uint64 else math.nan
    raw = np.array([missing if value is None else value for value in values], dtype)
    return Series(raw, START, STEP, valid=valid, **fields)


@st.composite
def any_series(draw: st.DrawFn) -> Series:
    dtype = draw(DTYPES)
    if dtype == np.uint64:
        one = st.integers(0, 9) | st.integers(2**63 - 9, 2**63 + 9) | st.sampled_from([2**64 - 2])
    else:
        one = st.floats(-1e6, 1e6, width=32).map(float) | st.sampled_from([0.1, 1e30])
    series = grid(draw(st.lists(st.none() | one, max_size=25)), dtype)
    if not draw(st.booleans()) or not len(series):
        return series
    gaps = draw(st.lists(st.integers(1, 50_000), min_size=len(series), max_size=len(series)))
    stamps = START * 1000 + np.cumsum(np.array(gaps, np.int64))
    return Series(series.values, START, 0, valid=series.valid, stamps_ms=stamps)


def told(series: Series) -> list[Any]:
    pairs = zip(series.values.tolist(), series.valid.tolist(), strict=True)
    return [value if valid else None for value, valid in pairs]


def cells(series: Series) -> list[tuple[int, Any]]:
    return list(zip(series.times_ms.tolist(), told(series), strict=True))


def rounding(series: Series, size: Fraction) -> Fraction:
    """What numbers as large as `size` may be off by; never less than the smallest there is."""
    if series.values.dtype == np.float32:
        return size * Fraction(1, 2**22) + Fraction(1, 2**149)
    return size * Fraction(1, 2**50) + Fraction(1, 2**1074)


@given(any_series(), st.integers(1, 130), st.booleans())
def test_moving_means_are_those_of_the_samples_in_the_window(
    series: Series, window_s: int, centred: bool
) -> None:
    found = series.moving_average(window_s, centred=centred)
    assert found.values.dtype == (np.float32 if series.values.dtype == np.float32 else np.float64)
    width = window_s * 1000
    for mean, t in zip(told(found), series.times_ms.tolist(), strict=True):
        kept = [
            Fraction(value)
            for at, value in cells(series)
            if value is not None and (abs(at - t) * 2 <= width if centred else t - width < at <= t)
        ]
        assert (mean is None) == (not kept)
        if mean is not None:
            size = sum(map(abs, kept), Fraction(0))
            assert abs(Fraction(mean) - sum(kept, Fraction(0)) / len(kept)) <= rounding(found, size)


@given(any_series(), st.sampled_from(["previous", "linear"]), st.sampled_from([0, 10, 20, 35, 100]))
def test_gaps_are_filled_from_what_is_near_enough_and_samples_stay(
    series: Series, how: str, max_gap_s: int
) -> None:
    found = series.filled(how, max_gap_s)
    assert found.values.dtype == series.values.dtype
    limit = max_gap_s * 1000 or 10**12
    samples = [(t, value) for t, value in cells(series) if value is not None]
    for (t, value), filled in zip(cells(series), told(found), strict=True):
        before = [sample for sample in samples if sample[0] <= t][-1:]
        after = [sample for sample in samples if sample[0] > t][:1]
        if value is not None:
            assert filled == value
        elif how == "previous":
            assert filled == (before[0][1] if before and t - before[0][0] <= limit else None)
        elif not before or not after or after[0][0] - before[0][0] > limit:
            assert filled is None
        else:
            (low_t, low), (high_t, high) = before[0], after[0]
            line = Fraction(low) + (Fraction(high) - Fraction(low)) * Fraction(t - low_t, high_t - low_t)
            size = abs(Fraction(high) - Fraction(low)) + max(abs(Fraction(low)), abs(Fraction(high)))
            half = Fraction(1, 2) if series.values.dtype == np.uint64 else rounding(found, size)
            assert abs(Fraction(filled) - line) <= half
            assert min(low, high) <= filled <= max(low, high)


def test_filling_by_example() -> None:
    series = grid([None, 1.0, None, None, 4.0, None], metric="load")
    assert told(series.filled("previous")) == [None, 1, 1, 1, 4, 4]
    assert told(series.filled("previous", 10)) == [None, 1, 1, None, 4, 4]
    assert told(series.filled("linear")) == [None, 1, 2, 3, 4, None]
    assert told(series.filled("linear", 29)) == [None, 1, None, None, 4, None]
    assert told(series.filled("linear", 30)) == [None, 1, 2, 3, 4, None]
    assert series.filled("none") is series
    assert series.filled("linear").metric == "load"
    u64 = grid([2**63 + 1, None, 2**63 + 4, None, 0], np.uint64)
    assert told(u64.filled("linear")) == [2**63 + 1, 2**63 + 3, 2**63 + 4, 2**62 + 2, 0]
    covered = grid([1.0, None], coverage=np.array([3, 0], np.uint32)).filled("previous")
    assert covered.coverage is not None
    assert covered.coverage.tolist() == [3, 0]
    for arguments in (("cubic",), ("linear", -1)):
        with pytest.raises(InvalidRequest):
            series.filled(*arguments)


def test_columns_are_filled_and_averaged_one_by_one() -> None:
    values = np.array([(5, 1.5), (0, math.nan), (8, 3.5)], [("reads", "<u8"), ("seconds", "<f8")])
    valid = np.array([[True, True], [False, False], [True, True]])
    rows = Series(values, 0, 0, valid=valid, stamps_ms=np.array([1000, 2000, 4000]))
    filled = rows.filled("linear")
    assert (told(filled.column("reads")), told(filled.column("seconds"))) == (
        [5, 6, 8],
        [1.5, 1.5 + 2 / 3, 3.5],
    )
    assert told(rows.moving_average(10).column("reads")) == [5.0, 5.0, 6.5]
    assert told(rows.scaled(2).column("seconds")) == [3.0, None, 7.0]


def test_a_moving_average_needs_a_window() -> None:
    for window_s in (0, -5):
        with pytest.raises(InvalidRequest, match="seconds"):
            grid([1.0]).moving_average(window_s)


def test_scaling_is_a_product_in_float64_and_0_and_1_are_none() -> None:
    series = grid([1.5, None, 3.0], np.float32, coverage=np.array([1, 0, 1], np.uint32))
    for nothing in (0, 1, 1.0, 0.0, -0.0, True):
        assert series.scaled(nothing) is series
    scaled = series.scaled(1e39)
    assert scaled.values.dtype == np.float64
    assert told(scaled) == [1.5e39, None, 3e39]
    assert scaled.coverage is series.coverage
    assert scaled.stats.max == series.stats.max * 1e39
    assert told(grid([3, None], np.uint64).scaled(np.float32(0.5))) == [1.5, None]
    for wrong in (None, math.nan, math.inf, "2", 10**400, [2]):
        with pytest.raises(InvalidRequest, match="finite number"):
            series.scaled(wrong)


@given(any_series(), st.integers(-50, 400), st.integers(-50, 400))
def test_the_slots_between_two_times_are_those_and_no_others(series: Series, a: int, b: int) -> None:
    start, end = START + a, START + b
    part = series.between(start, end)
    assert cells(part) == [cell for cell in cells(series) if start * 1000 <= cell[0] < end * 1000]
    assert part.step == series.step
