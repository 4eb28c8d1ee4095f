"""Numbers of JSON: the shortest text that reads back as the same sample."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mstore.numerals import number, numbers, shortest
from mstore.plurals import count


def test_a_float32_is_printed_with_no_more_digits_than_it_needs() -> None:
    values = np.array(
        [0.1, 1 / 3, 100.25, 16777216, 3.4028235e38, 1e-45, -0.0, 6.1e-5, 123456.79], np.float32
    )
    assert json.dumps(numbers(values)) == (
        "[0.1, 0.33333334, 100.25, 16777216.0, 3.4028235e+38, 1e-45, -0.0, 6.1e-05, 123456.79]"
    )


@pytest.mark.parametrize("seed", range(4))
def test_every_float32_reads_back_and_has_the_digits_of_its_own_shortest_text(seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2**32, 20_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = np.concatenate(
        [values[np.isfinite(values)], 10.0 ** np.arange(-44, 39, dtype=np.float32)]
    ).astype("f4")
    found = shortest(values)
    assert (found.astype(np.float32) == values).all()
    for one, value in zip(found.tolist(), values, strict=True):
        assert float(str(value)) == one, f"seed {seed}: {value!r}"


def test_missing_and_infinite_values_are_null_and_counters_stay_exact() -> None:
    assert numbers(np.array([1.5, np.nan, np.inf, -np.inf])) == [1.5, None, None, None]
    counters = np.array([2**64 - 2, 0, 7], np.uint64)
    assert numbers(counters, np.array([True, False, True])) == [2**64 - 2, None, 7]
    assert numbers(np.array([1.0, 2.0], "f4"), np.array([False, True])) == [None, 2.0]
    assert [number(math.nan), number(math.inf), number(0.5)] == [None, None, 0.5]
    assert number(float(np.float32(0.1)), narrow=True) == 0.1


def test_numbers_of_things_have_their_plural() -> None:
    assert [count(1, "copy"), count(2, "copy"), count(1, "definition"), count(1234, "definition")] == [
        "1 copy", "2 copies", "1 definition", "1,234 definitions",
    ]  # fmt: skip
    assert (count(2, "series"), count(2, "key")) == ("2 series", "2 keys")
