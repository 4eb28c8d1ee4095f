"""Statistics: kernel, naive twin and the clients' numpy say the same to the last bit, and what exact arithmetic says."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mstore import statistics
from mstore.errors import InvalidRequest
from mstore.frames import U64_MISSING, Series, without_missing
from mstore.kernels import _statistics, reference_statistics
from mstore.kernels.reference_aggregate import present_of
from mstore.statistics import Stats


@st.composite
def raw_values(draw: st.DrawFn) -> NDArray[Any]:
    """Any bits, or a few values with many gaps."""
    dtype = np.dtype(draw(st.sampled_from([np.float32, np.float64, np.uint64])))
    n = draw(st.integers(0, 70))
    if draw(st.booleans()):
        size = n * dtype.itemsize
        return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype)
    if dtype.kind == "u":
        few = st.sampled_from([0, 1, 2**53 + 1, 2**64 - 2, 2**64 - 1, 2**64 - 1])
        return draw(hnp.arrays(dtype, n, elements=few))
    return draw(hnp.arrays(dtype, n, elements=st.sampled_from([0.0, -0.0, 0.1, -7.5, 3e38, math.nan])))


def series_of(raw: NDArray[Any], **fields: Any) -> Series:
    values, valid = without_missing(raw)
    return Series(values, 1000, 10, valid=valid, **fields)


def bits(numbers: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple("nan" if number != number else (type(number), repr(number)) for number in numbers)


@given(raw_values())
def test_the_three_scans_agree_to_the_last_bit(raw: NDArray[Any]) -> None:
    with np.errstate(all="ignore"):
        compiled = _statistics.scan(raw)
        assert bits(compiled) == bits(reference_statistics.scan(raw))
        assert bits(compiled) == bits(tuple(statistics.scan(*_both(raw))))


def _both(raw: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    values, valid = without_missing(raw)
    return values, present_of(raw) if valid is None else valid


@given(raw_values())
def test_series_stats_are_those_of_exact_arithmetic(raw: NDArray[Any]) -> None:
    series = series_of(raw)
    with np.errstate(all="ignore"):
        stats = series.stats
    places = np.flatnonzero(present_of(raw)).tolist()
    kept = [raw[place].item() for place in places]
    if not kept:
        assert bits(_fields(stats)) == bits(_fields(statistics.NO_STATS))
        assert (stats.count, stats.sum, stats.first_time_ms) == (0, 0, None)
        return
    assert stats.count == len(kept)
    assert (stats.first, stats.last) == (kept[0], kept[-1])
    assert (stats.first_time_ms, stats.last_time_ms) == tuple(
        (1000 + 10 * place) * 1000 for place in (places[0], places[-1])
    )
    assert (stats.min, stats.max) == (min(kept), max(kept))
    if raw.dtype.kind == "u":
        assert (stats.sum, type(stats.sum), type(stats.min)) == (sum(kept), int, int)
        assert stats.avg == sum(kept) / len(kept)
    elif all(map(math.isfinite, kept)):
        exact = sum(map(Fraction, kept))
        size = max(abs(value) for value in kept)
        assert abs(Fraction(stats.avg) * len(kept) - exact) <= size * len(kept) * Fraction(1, 2**48)


def _fields(stats: Stats) -> tuple[Any, ...]:
    return tuple(getattr(stats, name) for name in Stats.__dataclass_fields__)


def test_an_average_is_finite_where_only_the_sum_is_not() -> None:
    series = Series(np.full(3, 1.5e308), 0, 10)
    assert series.stats.avg == pytest.approx(1.5e308)
    assert series.stats.sum == math.inf


def test_statistics_of_columns_are_asked_one_by_one() -> None:
    rows = np.array([(1.0, 5), (2.0, 6)], [("seconds", "<f8"), ("reads", "<u8")])
    series = Series(rows, 0, 0, stamps_ms=np.array([1, 2]))
    with pytest.raises(InvalidRequest, match="seconds, reads"):
        _ = series.stats
    assert series.column("reads").stats.sum == 11
    assert series.column("seconds").stats.first_time_ms == 1


@given(raw_values(), st.integers(0, 1000).map(lambda q: q / 10) | st.integers(0, 100))
def test_percentiles_are_those_of_exact_arithmetic(raw: NDArray[Any], q: float) -> None:
    if raw.dtype.kind == "f":
        raw = np.where(np.isinf(raw), 0, raw).astype(raw.dtype)
    kept = sorted(raw[present_of(raw)].tolist())
    found = series_of(raw).percentile(q)
    if not kept:
        assert math.isnan(found)
        return
    rank = Fraction(str(q)) * (len(kept) - 1) / 100
    low = math.floor(rank)
    if rank == low:
        assert found == kept[low]
        assert isinstance(found, int) is (raw.dtype.kind == "u")
    else:
        between = Fraction(kept[low]) + (Fraction(kept[low + 1]) - Fraction(kept[low])) * (rank - low)
        assert found == float(between)


def test_a_percentile_is_that_of_numpy_and_beyond_100_an_error() -> None:
    values = np.random.default_rng(3).normal(size=1001)
    series = Series(values, 0, 10)
    for q in (0, 1, 25, 50, 99.9, 100):
        assert series.percentile(q) == pytest.approx(np.percentile(values, q), rel=1e-12)
    ends = Series(np.array([-math.inf, 1.0, math.inf]), 0, 10)
    assert [ends.percentile(q) for q in (0, 25, 50, 100)] == [-math.inf, -math.inf, 1.0, math.inf]
    for q in (-1, 100.5, math.nan):
        with pytest.raises(InvalidRequest, match="0 to 100"):
            series.percentile(q)


def test_missing_u64_is_neither_smallest_nor_largest() -> None:
    raw = np.array([U64_MISSING, 7, U64_MISSING, 9], np.uint64)
    assert _statistics.scan(raw) == (2, 1, 3, 7, 9, 16)
