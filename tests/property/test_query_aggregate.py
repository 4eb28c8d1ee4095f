"""The aggregate kernel and its naive twin agree bit for bit, whatever the bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from mstore.errors import InvalidStep
from mstore.kernels import _aggregate, reference_aggregate
from mstore.query.resample import factor_of, resample

DTYPES = st.sampled_from([np.float32, np.float64, np.uint64])


def naive_sums(rows: list[np.ndarray[Any, Any]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    sums, coverage = np.zeros(len(rows[0])), np.zeros(len(rows[0]), np.uint32)
    for row in rows:
        present = row != np.uint64(2**64 - 1) if row.dtype.kind == "u" else ~np.isnan(row)
        with np.errstate(invalid="ignore", over="ignore"):
            sums[present] += row[present].astype(np.float64)
        coverage += present
    return sums, coverage


@st.composite
def matrices(draw: st.DrawFn) -> list[np.ndarray[Any, Any]]:
    """Rows of any bits: NaNs of every payload, infinities, subnormals, -0.0, 2^64-1."""
    dtype = np.dtype(draw(DTYPES))
    n = draw(st.integers(1, 70))
    size = n * dtype.itemsize
    return [
        np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype)
        for _ in range(draw(st.integers(1, 5)))
    ]


@given(matrices())
def test_sums_and_coverage_equal_those_of_one_sample_at_a_time(rows: list[np.ndarray[Any, Any]]) -> None:
    sums, coverage = np.zeros(len(rows[0])), np.zeros(len(rows[0]), np.uint32)
    for row in rows:
        _aggregate.add(sums, coverage, row)
    want, want_coverage = naive_sums(rows)
    same = (sums == want) | (np.isnan(sums) & np.isnan(want))
    assert same.all()
    assert (np.signbit(sums) == np.signbit(want))[~np.isnan(want)].all()
    assert coverage.tolist() == want_coverage.tolist()
    assert sum(_aggregate.count_present(row) for row in rows) == int(coverage.sum())


@given(matrices(), st.booleans(), st.integers(0, 6))
def test_finish_divides_by_coverage_and_drops_what_too_few_covered(
    rows: list[np.ndarray[Any, Any]], average: bool, least: int
) -> None:
    sums, coverage = naive_sums(rows)
    want = np.where(coverage >= max(least, 1), sums / np.maximum(coverage, 1) if average else sums, np.nan)
    _aggregate.finish(sums, coverage, least, average)
    assert ((sums == want) | (np.isnan(sums) & np.isnan(want))).all()


@given(st.data())
def test_bucket_means_equal_those_of_one_sample_at_a_time(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(DTYPES))
    elements = st.integers(0, 2**64 - 1) if dtype.kind == "u" else st.floats(width=8 * dtype.itemsize)
    values = data.draw(st_numpy.arrays(dtype, st.integers(0, 60), elements=elements))
    factor = data.draw(st.integers(1, 70))
    means, counts = _aggregate.bucket_means(values, factor)
    want, want_counts = reference_aggregate.bucket_means(values, factor)
    assert ((means == want) | (np.isnan(means) & np.isnan(want))).all()
    assert counts.tolist() == want_counts.tolist()
    assert len(means) == -(-len(values) // factor)
    if factor > 1:
        assert resample(values, factor, "average")[0].dtype == (
            np.float32 if dtype == np.float32 else np.float64
        )


def test_lengths_that_differ_are_refused() -> None:
    sums, coverage = np.zeros(3), np.zeros(3, np.uint32)
    with pytest.raises(ValueError, match="2 values"):
        _aggregate.add(sums, coverage, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="3 sums"):
        _aggregate.finish(sums, coverage[:2], 0, True)
    with pytest.raises(ValueError, match="at least one"):
        _aggregate.bucket_means(sums, 0)
    assert _aggregate.count_present(sums[:0]) == 0


@pytest.mark.parametrize(("step", "resolution", "factor"), [(60, 0, 1), (60, 60, 1), (60, 240, 4), (0, 0, 1)])
def test_a_resolution_is_a_whole_number_of_steps(step: int, resolution: int, factor: int) -> None:
    assert factor_of(step, resolution) == factor


@pytest.mark.parametrize(("step", "resolution"), [(60, 30), (60, 90), (60, -60), (0, 60)])
def test_any_other_resolution_is_refused(step: int, resolution: int) -> None:
    with pytest.raises(InvalidStep):
        factor_of(step, resolution)
