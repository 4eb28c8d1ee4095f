"""The value axis of plots: what is written beside it is true, short and in order, for any values."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.cli.axis import Axis, axis
from mstore.cli.plot import plot

UNITS = {"k": 3, "M": 6, "G": 9, "T": 12}
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SIZES = st.builds(
    lambda digits, exponent: float(f"{digits}e{exponent}"), st.integers(-9999, 9999), st.integers(-310, 300)
)
CLOSE = st.builds(lambda value, n: [value, value * (1 + n * 1e-13)], SIZES, st.integers(1, 1000))


def value_of(label: str) -> Decimal:
    number, _, unit = label.partition(" ")
    return Decimal(number).scaleb(UNITS.get(unit, 0))


def told(found: Axis) -> list[Decimal]:
    """What the labels say, from the lowest tick to the highest."""
    return [value_of(text) + (Decimal(found.base) if found.base else 0) for _, text in found.ticks]


def labels(*values: float, n_steps: int = 4) -> list[str]:
    return [text for _, text in axis(min(values), max(values), n_steps).ticks]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 97], ["0", "25", "50", "75", "100"]),
        ([0, 1.8e9], ["0", "0.5 G", "1.0 G", "1.5 G", "2.0 G"]),
        ([1.8e9, 1.8e9], ["1.6 G", "1.7 G", "1.8 G", "1.9 G", "2.0 G"]),
        ([0, 1e308], ["0", "0.25e308", "0.50e308", "0.75e308", "1.00e308"]),
        ([1e-300, 3e-300], ["0", "1e-300", "2e-300", "3e-300"]),
        ([-1.7e308, 1.7e308], ["-2e308", "-1e308", "0", "1e308", "2e308"]),
        ([5, 5], ["4.50", "4.75", "5.00", "5.25", "5.50"]),
        ([0, 0], ["0", "0.25", "0.50", "0.75", "1.00"]),
        ([100_000, 100_010], ["100000.0", "100002.5", "100005.0", "100007.5", "100010.0"]),
        ([0.1, 0.10002], ["0.10000", "0.10001", "0.10002"]),
        ([0, 1e-310], ["0", "0.25e-310", "0.50e-310", "0.75e-310", "1.00e-310"]),
    ],
)
def test_labels_are_round_short_and_of_one_unit(values: list[float], expected: list[str]) -> None:
    n_steps = 2 if values == [0.1, 0.10002] else 4
    assert labels(*values, n_steps=n_steps) == expected


def test_what_differs_far_behind_the_point_is_told_from_a_base() -> None:
    found = axis(1.8e9, 1.8e9 + 1, 4)
    assert found.base == "1800000000"
    assert [text for _, text in found.ticks] == ["0", "0.25", "0.50", "0.75", "1.00"]
    lines = plot([np.arange(2.0)], [np.array([1.8e9, 1.8e9 + 1])], columns=40, rows=8, utc=True)
    assert lines[0] == "1800000000 +"


def check_axis(values: list[float]) -> None:
    """Whatever the values: the axis spans them, its labels rise by one step, and the plot fits its columns."""
    found = axis(min(values), max(values), 4)
    said = told(found)
    steps = {after - before for before, after in itertools.pairwise(said)}
    assert len(steps) == 1
    assert min(steps) > 0
    assert 3 <= len(said) <= 8
    slack = Decimal(max(abs(value) for value in values)) * Decimal("1e-9") + Decimal("1e-322")
    assert said[0] <= Decimal(min(values)) + slack
    assert said[-1] >= Decimal(max(values)) - slack
    assert found.width <= 13
    shares = found.shares(np.array(values))
    assert ((shares >= 0) & (shares <= 1)).all()
    lines = plot([np.arange(float(len(values)))], [np.array(values)], columns=40, rows=8, utc=True)
    assert max(map(len, lines)) <= 40
    assert any("⠀" < char <= "⣿" for char in "".join(lines))


@given(st.lists(FINITE | SIZES, min_size=1, max_size=5))
def test_any_values_have_a_true_and_short_axis(values: list[float]) -> None:
    check_axis(values)


@given(CLOSE)
def test_values_that_hardly_differ_have_a_true_and_short_axis(values: list[float]) -> None:
    check_axis(values)


@given(st.lists(st.floats(), min_size=1, max_size=6))
def test_what_is_not_finite_is_left_out(values: list[float]) -> None:
    lines = plot([np.arange(float(len(values)))], [np.array(values)], columns=40, rows=8, utc=True)
    if not any(math.isfinite(value) for value in values):
        assert lines == ["(no samples to plot)"]
    assert max(map(len, lines)) <= 40
