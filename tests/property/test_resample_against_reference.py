"""The resampling kernels keep what their naive twins keep, whatever the bits; and the rules of what is kept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mstore.choices import ALGORITHMS
from mstore.errors import InvalidRequest, InvalidStep
from mstore.frames import U64_MISSING, Series
from mstore.kernels import _resample, reference_resample
from mstore.kernels.reference_aggregate import present_of
from mstore.query.resample import resample, resampled

FACTORS = st.integers(1, 70)


@st.composite
def samples(draw: st.DrawFn) -> NDArray[Any]:
    """Any values of a metric's types, and often a few of them only: equal ones, gaps in a row, all missing."""
    dtype = np.dtype(draw(st.sampled_from([np.float32, np.float64, np.uint64])))
    n = draw(st.integers(0, 150))
    if draw(st.booleans()):
        size = n * dtype.itemsize
        return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype)
    missing = int(U64_MISSING) if dtype.kind == "u" else math.nan
    few = st.sampled_from([0, 1, 2, 2**53, missing, missing])
    return draw(hnp.arrays(dtype, n, elements=few))


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """NaNs may differ in their payload, nothing else may."""
    if left.dtype != right.dtype or len(left) != len(right):
        return False
    if left.dtype.kind != "f":
        return bool((left == right).all())
    equal = (left == right) & (np.signbit(left) == np.signbit(right))
    return bool((equal | (np.isnan(left) & np.isnan(right))).all())


@given(samples(), FACTORS, st.booleans())
def test_extremes_of_runs_are_those_of_the_twin(values: NDArray[Any], factor: int, largest: bool) -> None:
    found = _resample.run_extremes(values, factor, largest)
    assert same(found, reference_resample.run_extremes(values, factor, largest))
    assert len(found) == -(-len(values) // factor)


@given(samples(), FACTORS)
def test_last_samples_of_runs_are_those_of_the_twin(values: NDArray[Any], factor: int) -> None:
    found = _resample.run_lasts(values, factor)
    assert found.tolist() == reference_resample.run_lasts(values, factor).tolist()
    assert [place // factor for place in found.tolist()] == list(range(-(-len(values) // factor)))


@given(samples(), st.integers(2, 70))
def test_lttb_picks_the_slots_of_the_twin(values: NDArray[Any], factor: int) -> None:
    places = _resample.lttb(values, factor)
    with np.errstate(all="ignore"):
        assert places.tolist() == reference_resample.lttb(values, factor).tolist()
    n = len(values)
    assert len(places) == min(n, max(n // factor, 2))
    assert (np.diff(places) > 0).all()
    if n:
        assert (places[0], places[-1]) == (0, n - 1)


def saw(n: int) -> list[float]:
    return [float((i * 37) % 101 + (i % 7) * 0.25) for i in range(n)]


def test_lttb_picks_the_points_that_the_reference_store_picks() -> None:
    """The expected points are cc-lib v2.12.0's (LargestTriangleThreeBucket, MinimumRequiredPoints 0)."""
    values = np.array(saw(40))
    assert values[_resample.lttb(values, 4)].tolist() == [
        0,
        74.5,
        21.5,
        13,
        87.5,
        6.25,
        80.75,
        10.25,
        19.25,
        30,
    ]
    values[[5, 6, 17, 30]] = np.nan
    assert plain(values[_resample.lttb(values, 4)]) == [
        0, 48, None, 13, None, 43.5, 26, None, 56.5, 30,
    ]  # fmt: skip
    assert np.array(saw(7))[_resample.lttb(np.array(saw(7)), 2)].tolist() == [0, 85.25, 21.5]
    assert np.array(saw(11))[_resample.lttb(np.array(saw(11)), 5)].tolist() == [0, 67.75]


def plain(values: NDArray[Any]) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


@given(samples(), FACTORS, st.sampled_from(ALGORITHMS))
def test_every_algorithm_gives_a_value_for_every_run_and_keeps_the_type(
    values: NDArray[Any], factor: int, algo: str
) -> None:
    with np.errstate(all="ignore"):
        found, positions = resample(values, factor, algo)
    n = len(values)
    if algo == "lttb":
        assert positions is not None
        assert same(found, values[positions])
        assert len(found) == (n if factor == 1 else min(n, max(n // factor, 2)))
    else:
        assert positions is None
        assert len(found) == -(-n // factor)
    changes_type = algo == "average" and values.dtype == np.uint64 and factor > 1
    assert found.dtype == (np.float64 if changes_type else values.dtype)


@given(samples(), FACTORS)
def test_a_run_is_missing_only_where_all_its_slots_are(values: NDArray[Any], factor: int) -> None:
    runs = [values[at : at + factor] for at in range(0, len(values), factor)]
    for algo in ("min", "max", "last"):
        found, _ = resample(values, factor, algo)
        assert present_of(found).tolist() == [bool(present_of(run).any()) for run in runs]
        for value, run in zip(found.tolist(), runs, strict=True):
            kept = run[present_of(run)].tolist()
            if kept:
                assert value == {"min": min(kept), "max": max(kept), "last": kept[-1]}[algo]
    assert same(resample(values, factor, "simple")[0], values[::factor])


def test_integers_beyond_2_to_the_53_stay_exact() -> None:
    big = 2**63
    values = np.array([big + 1, big + 3, big + 2, U64_MISSING, U64_MISSING, big + 5], np.uint64)
    assert resample(values, 3, "min")[0].tolist() == [big + 1, big + 5]
    assert resample(values, 3, "max")[0].tolist() == [big + 3, big + 5]
    assert resample(values, 2, "last")[0].tolist() == [big + 3, big + 2, big + 5]
    assert resample(values, 2, "simple")[0].tolist() == [big + 1, big + 2, 2**64 - 1]
    picked, positions = resample(values, 3, "lttb")
    assert positions is not None
    assert (picked.tolist(), positions.tolist()) == ([big + 1, big + 5], [0, 5])


def grid(values: list[float], **fields: Any) -> Series:
    return Series(np.array(values, np.float32), 1000, 10, **fields)


def test_a_coarser_series_keeps_the_times_of_its_runs_and_the_last_short_one() -> None:
    series = grid([1, 2, math.nan, 4, 5, 9, 7], metric="load", host="f1", unit="procs")
    for algo, want in (
        ("average", [1.5, 6, 7]), ("min", [1, 4, 7]), ("max", [2, 9, 7]),
        ("last", [2, 9, 7]), ("simple", [1, 4, 7]),
    ):  # fmt: skip
        coarse = resampled(series, 30, algo)
        assert coarse.values.tolist() == want
        assert coarse.times.tolist() == [1000, 1030, 1060]
        assert (coarse.step, coarse.metric, coarse.host, coarse.unit) == (30, "load", "f1", "procs")


def test_lttb_answers_with_the_times_of_the_slots_it_picked() -> None:
    values = [0.0] * 20
    values[7] = 9.0
    assert resampled(grid(values), 50, "lttb").times.tolist()[:2] == [1000, 1070]
    # Where the mean of the next run is missing, there is no largest triangle, and a run gives its last slot.
    values[13] = math.nan
    series = grid(values, coverage=np.arange(20, dtype=np.uint32))
    picked = resampled(series, 50, "lttb")
    assert picked.stamped
    assert picked.step == 0
    places = [(t - 1000) // 10 for t in picked.times.tolist()]
    assert places == [0, 9, 13, 19]
    assert plain(picked.values) == [0.0, 0.0, None, 0.0]
    assert picked.valid.tolist() == [True, True, False, True]
    assert picked.coverage is not None
    assert picked.coverage.tolist() == places
    again = Series.from_wire(picked.to_wire())
    assert again.times_ms.tolist() == [(1000 + 10 * place) * 1000 for place in places]
    assert same(again.values, picked.values)
    assert (again.end, again.step, again.stamped) == (1191, 0, True)


def test_u64_that_is_missing_stays_zero_and_not_valid() -> None:
    values = np.array([5, 0, 0, 0, 7], np.uint64)
    series = Series(values, 0, 10, valid=np.array([True, False, False, False, True]))
    for algo in ("min", "max", "last", "simple"):
        coarse = resampled(series, 20, algo)
        assert (coarse.values.tolist(), coarse.valid.tolist()) == ([5, 0, 7], [True, False, True])
    picked = resampled(series, 20, "lttb")
    assert (picked.values.tolist(), picked.valid.tolist()) == ([5, 7], [True, True])


def test_coverage_is_that_of_the_picked_slot_or_of_the_whole_run() -> None:
    coverage = np.array([2, 1, 0, 1], np.uint32)
    series = Series(np.array([1.0, 2.0, math.nan, 4.0]), 0, 10, coverage=coverage)
    for algo, want in (
        ("average", [3, 1]), ("min", [3, 1]), ("max", [3, 1]), ("last", [1, 1]), ("simple", [2, 0]),
    ):  # fmt: skip
        found = resampled(series, 20, algo).coverage
        assert found is not None
        assert found.tolist() == want


def test_what_is_no_multiple_no_grid_or_no_algorithm_is_refused() -> None:
    stamped = Series(np.zeros(1), 0, 0, stamps_ms=np.zeros(1, np.int64))
    for algo in ALGORITHMS:
        for resolution_s in (5, 15, -10):
            with pytest.raises(InvalidStep, match="multiple"):
                resampled(grid([1, 2]), resolution_s, algo)
        with pytest.raises(InvalidStep, match="stamped"):
            resampled(stamped, 60, algo)
        for resolution_s in (0, 10):
            series = grid([1, 2])
            assert resampled(series, resolution_s, algo) is series
    with pytest.raises(InvalidRequest, match='"average", "lttb", "simple"'):
        resampled(grid([1, 2]), 0, "median")
    for kernel in (_resample, reference_resample):
        with pytest.raises(ValueError, match="at least one"):
            kernel.run_extremes(np.zeros(2), 0, True)
        with pytest.raises(ValueError, match="at least one"):
            kernel.run_lasts(np.zeros(2), 0)
        with pytest.raises(ValueError, match="at least two"):
            kernel.lttb(np.zeros(2), 1)
