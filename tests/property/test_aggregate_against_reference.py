"""Every pure array kernel and its naive twin give the same bits, and either can be chosen at start."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mstore.kernels import _aggregate, reference_aggregate

F32 = hnp.arrays(np.float32, st.integers(0, 200), elements=st.floats(width=32, allow_infinity=False))
F64 = hnp.arrays(np.float64, st.integers(0, 200), elements=st.floats(-1e300, 1e300) | st.just(float("nan")))
U64 = hnp.arrays(np.uint64, st.integers(0, 200), elements=st.integers(0, 2**64 - 1))
VALUES = F32 | F64 | U64


def same_bits(left: NDArray[np.float64], right: NDArray[np.float64]) -> bool:
    return np.array_equal(left, right, equal_nan=True)


@given(VALUES, st.integers(1, 50))
def test_bucket_means_are_those_of_the_twin(values: NDArray[np.float64], factor: int) -> None:
    means, counts = _aggregate.bucket_means(values, factor)
    expected, expected_counts = reference_aggregate.bucket_means(values, factor)
    assert same_bits(means, expected)
    assert counts.tolist() == expected_counts.tolist()


@given(
    st.lists(hnp.arrays(np.float32, 60, elements=st.floats(-(2.0**90), 2.0**90, width=32)), max_size=8),
    st.integers(0, 4),
)
def test_sums_and_averages_are_those_of_the_twin(rows: list[NDArray[np.float32]], least: int) -> None:
    for average in (False, True):
        found = []
        for kernel in (_aggregate, reference_aggregate):
            sums, coverage = np.zeros(60), np.zeros(60, np.uint32)
            for i, row in enumerate(rows):
                row = row.copy()
                row[i::7] = np.nan
                kernel.add(sums, coverage, row)
            kernel.finish(sums, coverage, least, average)
            found.append((sums, coverage))
        assert same_bits(found[0][0], found[1][0])
        assert found[0][1].tolist() == found[1][1].tolist()


@given(VALUES)
def test_counts_are_those_of_the_twin(values: NDArray[np.float64]) -> None:
    assert _aggregate.count_present(values) == reference_aggregate.count_present(values)


@pytest.mark.parametrize("choice", ["compiled", "reference"])
def test_the_environment_chooses_the_kernels(choice: str) -> None:
    code = "from mstore.kernels.chosen import aggregate; print(aggregate.__name__)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MSTORE_KERNELS": choice},
        capture_output=True,
        text=True,
    )
    expected = {"compiled": "mstore.kernels._aggregate", "reference": "mstore.kernels.reference_aggregate"}
    assert said.stdout.strip() == expected[choice]


def test_an_unknown_choice_is_refused_by_name() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import mstore.kernels.chosen"],
        env={**os.environ, "MSTORE_KERNELS": "numba"},
        capture_output=True,
        text=True,
    )
    assert said.returncode != 0
    assert "allowed are compiled and reference" in said.stderr
