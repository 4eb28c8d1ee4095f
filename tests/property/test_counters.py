"""Growth of counters against one sample at a time in exact numbers: resets, windows, gaps, first samples, types."""

from __future__ import annotations

import math
import os
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.counters import Counter, extrapolated, window_sums
from mstore.errors import InvalidRequest
from mstore.frames import Series

Sample = tuple[int, int | float]
"""(Unix ms, value)"""

STEP = 10
START = 1000


def u64_grid(values: list[int | None], **fields: Any) -> Series:
    valid = np.array([value is not None for value in values], np.bool_)
    return Series(np.array([value or 0 for value in values], np.uint64), START, STEP, valid=valid, **fields)


def f64_grid(values: list[float | None], dtype: type = np.float64) -> Series:
    return Series(np.array([math.nan if one is None else one for one in values], dtype), START, STEP)


def samples_of(series: Series) -> list[Sample]:
    times = series.times_ms[series.valid].tolist()
    return list(zip(times, series.values[series.valid].tolist(), strict=True))


def told(series: Series) -> list[Any]:
    """None where missing."""
    pairs = zip(series.values.tolist(), series.valid.tolist(), strict=True)
    return [value if valid else None for value, valid in pairs]


# --- the model


def growths(samples: list[Sample]) -> list[Fraction]:
    found = [Fraction(0)]
    for (_, before), (_, value) in pairwise(samples):
        found.append(Fraction(value) - Fraction(before) if value >= before else Fraction(value))
    return found


def inside(samples: list[Sample], t_ms: int, window_ms: int) -> list[int]:
    """Samples whose growth belongs to the window."""
    if not window_ms:
        return [k for k, (at, _) in enumerate(samples) if at == t_ms and k]
    return [k for k, (at, _) in enumerate(samples) if t_ms - window_ms < at <= t_ms and k]


def model_increase(samples: list[Sample], t_ms: int, window_ms: int) -> Fraction | None:
    grown = growths(samples)
    found = inside(samples, t_ms, window_ms)
    return sum((grown[k] for k in found), Fraction(0)) if found else None


def model_rate(samples: list[Sample], t_ms: int, window_ms: int) -> Fraction | None:
    found = inside(samples, t_ms, window_ms)
    if not found:
        return None
    seconds = Fraction(samples[found[-1]][0] - samples[found[0] - 1][0], 1000)
    increase = model_increase(samples, t_ms, window_ms)
    assert increase is not None
    return increase / seconds


def model_prometheus(samples: list[Sample], t_ms: int, window_ms: int) -> Fraction | None:
    within = [sample for sample in samples if t_ms - window_ms < sample[0] <= t_ms]
    if len(within) < 2:
        return None
    grown = sum(growths(within), Fraction(0))
    sampled = Fraction(within[-1][0] - within[0][0])
    distance = sampled / (len(within) - 1)
    front, back = Fraction(within[0][0] - (t_ms - window_ms)), Fraction(t_ms - within[-1][0])
    front = distance / 2 if front >= Fraction(11, 10) * distance else front
    back = distance / 2 if back >= Fraction(11, 10) * distance else back
    if grown > 0 and within[0][1] >= 0:
        front = min(front, sampled * Fraction(within[0][1]) / grown)
    return grown * (sampled + front + back) / sampled


# --- what hypothesis makes

SOME_INTEGERS = st.integers(0, 20) | st.integers(2**53 - 2, 2**53 + 2) | st.integers(2**62, 2**63 - 1)
U64_SERIES = st.lists(st.none() | SOME_INTEGERS, max_size=30).map(u64_grid)
FLOATS = st.none() | st.floats(-1e6, 1e6) | st.sampled_from([0.0, 0.1, 1e15, 1e15 + 1])
FLOAT_SERIES = st.tuples(st.lists(FLOATS, max_size=30), st.sampled_from([np.float32, np.float64])).map(
    lambda drawn: f64_grid(*drawn)
)
WINDOWS = st.sampled_from([0, 5, STEP, 25, 40, 1000])


@st.composite
def stamped_series(draw: st.DrawFn) -> Series:
    gaps = draw(st.lists(st.integers(1, 40_000), max_size=20))
    stamps = START * 1000 + np.cumsum(np.array(gaps, np.int64))
    values = np.array(draw(st.lists(SOME_INTEGERS, min_size=len(gaps), max_size=len(gaps))), np.uint64)
    return Series(values, START, 0, stamps_ms=stamps)


def close(found: float | None, want: Fraction | None, size: Fraction = Fraction(0)) -> bool:
    if found is None or want is None:
        return found is want
    # The smallest numbers are multiples of 2^-1074: a sum of some of them is off by some of these.
    return abs(Fraction(found) - want) <= (abs(want) + size) * Fraction(1, 2**50) + Fraction(1, 2**1060)


@given(U64_SERIES | stamped_series(), WINDOWS)
def test_increases_of_u64_are_exact_in_every_window(series: Series, window_s: int) -> None:
    samples = samples_of(series)
    found = series.increase(window_s)
    assert found.values.dtype == np.uint64
    want = [model_increase(samples, t, window_s * 1000) for t in series.times_ms.tolist()]
    assert told(found) == [None if one is None or one > 2**64 - 2 else int(one) for one in want]
    assert found.values[~found.valid].tolist() == [0] * int((~found.valid).sum())
    assert bool(found.why) == (not found.valid.any())
    assert (found.times_ms == series.times_ms).all()


@given(U64_SERIES | stamped_series(), WINDOWS)
def test_rates_of_u64_are_rounded_only_at_the_division(series: Series, window_s: int) -> None:
    samples = samples_of(series)
    found = series.rate(window_s)
    assert found.values.dtype == np.float64
    for value, t in zip(told(found), series.times_ms.tolist(), strict=True):
        assert close(value, model_rate(samples, t, window_s * 1000))


@given(FLOAT_SERIES, WINDOWS)
def test_floats_grow_as_exact_numbers_do_up_to_rounding(series: Series, window_s: int) -> None:
    samples = samples_of(series)
    size = Fraction(max((abs(value) for _, value in samples), default=0)) * (len(samples) + 1)
    increases, rates = series.increase(window_s), series.rate(window_s)
    assert increases.values.dtype == rates.values.dtype == np.float64
    for grown, rate, t in zip(told(increases), told(rates), series.times_ms.tolist(), strict=True):
        assert close(grown, model_increase(samples, t, window_s * 1000), size)
        assert close(rate, model_rate(samples, t, window_s * 1000), size)


@given(U64_SERIES | stamped_series() | FLOAT_SERIES)
def test_the_increases_of_all_slots_add_up_to_delta(series: Series) -> None:
    samples = samples_of(series)
    delta = series.delta()
    if len(samples) < 2:
        assert delta is None
        return
    exact = sum(growths(samples), Fraction(0))
    if series.values.dtype.kind == "u":
        assert (delta, type(delta)) == (int(exact), int)
    else:
        assert close(delta, exact, Fraction(max(abs(value) for _, value in samples)) * len(samples))
    assert series.resets() == sum(b < a for (_, a), (_, b) in pairwise(samples))
    assert series.changes() == sum(b != a for (_, a), (_, b) in pairwise(samples))


@given(st.lists(st.none() | SOME_INTEGERS, max_size=24).map(u64_grid), st.integers(1, 4))
def test_adjoining_windows_lose_nothing_between_them(series: Series, n: int) -> None:
    window_s = n * STEP
    every = told(series.increase(window_s))[n - 1 :: n]
    total = sum(value or 0 for value in every)
    last = len(series) // n * n
    whole = series.between(series.start, series.start + last * STEP).delta()
    if (whole or 0) < 2**64 - 1:
        assert total == (whole or 0)


@given(U64_SERIES | stamped_series() | FLOAT_SERIES, st.integers(-20, 320), WINDOWS)
def test_samples_before_the_start_only_serve_to_count_from(
    series: Series, offset_s: int, window_s: int
) -> None:
    start = START + offset_s
    for whole, part in (
        (series.increase(window_s), series.increase(window_s, start=start)),
        (series.rate(window_s), series.rate(window_s, start=start)),
    ):
        cut = whole.between(start, whole.end)
        assert told(part) == told(cut)
        assert part.times_ms.tolist() == cut.times_ms.tolist()
        assert (part.times >= start).all()
    samples = samples_of(series)
    first = max((k for k, (t, _) in enumerate(samples) if t < start * 1000), default=0)
    exact = sum(growths(samples)[first + 1 :], Fraction(0)) if samples else Fraction(0)
    running = series.running_delta(start=start)
    delta = series.delta(start=start)
    assert (delta is None) == (len(samples) < first + 2)
    if series.values.dtype.kind == "u" and exact < 2**64 - 1:
        assert (delta or 0) == exact
        if told(running):
            assert told(running)[-1] in (exact, None)
            known = [value for value in told(running) if value is not None]
            assert known == sorted(known)


@given(st.lists(st.none() | st.integers(0, 1000), max_size=25).map(u64_grid), st.sampled_from([20, 35, 60]))
def test_prometheus_extrapolates_as_it_does(series: Series, window_s: int) -> None:
    samples = samples_of(series)
    increases = series.increase(window_s, first="prometheus")
    rates = series.rate(window_s, first="prometheus")
    for grown, rate, t in zip(told(increases), told(rates), series.times_ms.tolist(), strict=True):
        want = model_prometheus(samples, t, window_s * 1000)
        assert close(grown, want)
        assert close(rate, None if want is None else want / window_s)


def test_prometheus_by_hand() -> None:
    """Samples at 15, 30 and 45 s of a minute: 20 over 30 s, stretched by 15 s at both ends, where it would be 0."""
    stamps = np.array([15_000, 30_000, 45_000])
    series = Series(np.array([10, 20, 30], np.uint64), 0, 0, stamps_ms=stamps)
    end = Series(np.zeros(1), 60, 60)
    counter = Counter.of(series.values, series.times_ms)
    assert extrapolated(counter, end.times_ms, 60_000).tolist() == [40.0]
    # A grid of 4 slots: 3 of 4 distances are covered, the last one is stretched to the end of the range.
    assert u64_grid([100, 110, 120, 130]).delta(first="prometheus") == pytest.approx(
        30 * (30 + 10) / 30, rel=1e-4
    )
    assert u64_grid([100, None, None]).delta(first="prometheus") is None


def test_a_first_sample_may_count_from_zero() -> None:
    series = u64_grid([None, 7, 9, 2], unit="requests")
    assert told(series.increase(first="zero")) == [None, 7, 2, 2]
    assert told(series.increase()) == [None, None, 2, 2]
    assert (series.delta(first="zero"), series.delta()) == (11, 4)
    rates = series.rate(first="zero")
    assert told(rates) == [None, 0.7, 0.2, 0.2]
    assert (rates.unit, series.increase().unit) == ("requests/s", "requests")
    assert told(series.running_delta(first="zero")) == [0, 7, 9, 11]
    # One that has a sample before the start is not new.
    assert told(series.increase(first="zero", start=START + 20)) == [2, 2]
    assert series.delta(first="zero", start=START + 20) == 4
    # Rows: all that is known is that it was 0 at the start.
    rows = Series(np.array([6, 8], np.uint64), 10, 0, stamps_ms=np.array([12_000, 14_000]))
    assert told(rows.rate(first="zero")) == [3.0, 1.0]
    assert rows.delta(first="zero") == 8
    assert u64_grid([None, 5]).delta(first="zero") == 5


def test_the_first_and_the_last_two_samples_have_rates_of_their_own() -> None:
    series = u64_grid([None, 10, None, 16, 4, None])
    assert (series.idelta(), series.idelta("left")) == (4, 6)
    assert (series.irate(), series.irate("left")) == (0.4, 0.3)
    assert u64_grid([1, None]).idelta() is None
    assert u64_grid([1, None]).irate() is None
    with pytest.raises(InvalidRequest, match='"left", "right"'):
        series.irate("middle")


def test_an_increase_that_u64_cannot_hold_is_missing_but_its_rate_is_known() -> None:
    big = 2**63
    series = u64_grid([0, big, 5, big + 4])
    assert told(series.increase(30)) == [None, big, big + 5, None]
    assert told(series.rate(30)) == [None, big / 10, (big + 5) / 20, (2 * big + 4) / 30]
    assert series.delta() == 2 * big + 4
    assert told(series.running_delta()) == [0, big, big + 5, None]


def test_a_reset_that_the_values_hide_is_told_by_whoever_knows() -> None:
    values = np.array([1000, 6000, 6500], np.uint64)
    times_ms = np.array([0, 1000, 2000])
    assert Counter.of(values, times_ms).total(0, 2) == 5500
    restarted = np.array([False, True, False])
    counter = Counter.of(values, times_ms, restarted)
    assert counter.total(0, 2) == 6500
    assert counter.resets.tolist() == [False, True, False]
    assert counter.from_zero(-1000).total(0, 3) == 7500


def test_what_infinities_grow_by_is_not_known() -> None:
    series = f64_grid([1.0, math.inf, math.inf, 5.0])
    assert told(series.increase()) == [None, math.inf, None, 5.0]
    assert told(series.rate()) == [None, math.inf, None, 0.5]
    assert told(series.increase(STEP)) == [None, math.inf, None, None]


def test_two_samples_at_one_time_have_no_rate() -> None:
    series = Series(np.array([1, 2], np.uint64), 0, 0, stamps_ms=np.array([5, 5]))
    assert told(series.rate()) == [None, None]
    assert series.irate() is None
    assert series.delta() == 1


def test_columns_are_counted_one_by_one() -> None:
    values = np.array([(5, 1.5), (9, 1.0), (2**63, 4.0)], [("reads", "<u8"), ("seconds", "<f8")])
    rows = Series(values, 0, 0, unit="x", stamps_ms=np.array([1000, 3000, 4000]))
    grown = rows.increase()
    assert grown.columns == ("reads", "seconds")
    assert told(grown.column("reads")) == [None, 4, 2**63 - 9]
    assert told(grown.column("seconds")) == [None, 1.0, 3.0]
    rates = rows.rate()
    assert told(rates.column("reads")) == [None, 2.0, float(2**63 - 9)]
    assert (rates.unit, rates.stamped, rates.times_ms.tolist()) == ("x/s", True, [1000, 3000, 4000])
    again = Series.from_wire(rates.to_wire())
    assert told(again.column("seconds")) == [None, 0.5, 3.0]
    with pytest.raises(InvalidRequest, match="reads, seconds"):
        rows.delta()


def test_what_makes_no_sense_is_refused() -> None:
    series = u64_grid([1, 2, 3])
    with pytest.raises(InvalidRequest, match='"anchored", "zero", "prometheus"'):
        series.rate(first="nought")
    with pytest.raises(InvalidRequest, match="0 or more"):
        series.increase(-1)
    with pytest.raises(InvalidRequest, match="give one"):
        series.rate(first="prometheus")
    with pytest.raises(InvalidRequest, match="prometheus"):
        series.running_delta(first="prometheus")


@given(st.lists(st.floats(-1e300, 1e300), max_size=40), st.data())
def test_window_sums_lose_nothing_to_values_outside(values: list[float], data: st.DataObject) -> None:
    n = len(values)
    pairs = data.draw(st.lists(st.tuples(st.integers(0, n), st.integers(0, n)), max_size=20))
    starts, ends = (np.array([pair[i] for pair in pairs], np.int64) for i in (0, 1))
    with np.errstate(over="ignore"):
        found = window_sums(np.array(values, np.float64), starts, ends)
    for total, (start, end) in zip(found.tolist(), pairs, strict=True):
        part = list(map(Fraction, values[start:end]))
        size = sum(map(abs, part), Fraction(0))
        assert abs(Fraction(total) - sum(part, Fraction(0))) <= size * len(part) * Fraction(1, 2**52)


# --- counters of a real file system's form

FIXTURES = os.environ.get("MSTORE_FIXTURES")
JOB = re.compile(
    r"- job_id:\s+(\S+)\n\s+snapshot_time:\s+(\d+)\n(?:.*\n)*?\s+write_bytes:\s+{ samples:\s*(\d+)"
)


def scraped() -> dict[str, Series]:
    """The samples of write_bytes by job, from scrapes 120 s apart: one resets, one vanishes and returns, one is new."""
    assert FIXTURES is not None
    rows: dict[str, list[tuple[int, int]]] = {}
    for i in range(7):
        text = (Path(FIXTURES) / "lustre" / "synthetic" / f"seq_2.12_t{i}.txt").read_text()
        for job, t, n in JOB.findall(text):
            rows.setdefault(job, []).append((int(t) * 1000, int(n)))
    return {
        job: Series(
            np.array([n for _, n in found], np.uint64), 1669010513, 0,
            stamps_ms=np.array([t for t, _ in found], np.int64),
        )
        for job, found in rows.items()
    }  # fmt: skip


@pytest.mark.skipif(FIXTURES is None, reason="needs $MSTORE_FIXTURES")
def test_job_statistics_that_reset_vanish_and_return_keep_every_operation() -> None:
    jobs = scraped()
    assert {job: series.delta() for job, series in jobs.items()} == {
        "11317854:17627127:r01c01": 365,
        "11318000:17627999:r02c07": 86,
        "rsync.10034567": 12,
        "11319999:17628001:r03c03": 81,
    }
    assert {job: series.resets() for job, series in jobs.items()} == {
        "11317854:17627127:r01c01": 1,
        "11318000:17627999:r02c07": 1,
        "rsync.10034567": 1,
        "11319999:17628001:r03c03": 0,
    }
    rsync = jobs["rsync.10034567"]
    assert told(rsync.increase()) == [None, 3, 0, 7, 0, 1, 1]  # at 2^60, where floats are 256 apart
    assert told(rsync.rate())[1] == 3 / 120
    returned = jobs["11317854:17627127:r01c01"]
    assert told(returned.increase()) == [None, 60, 0, 240, 5, 60]
    assert told(returned.rate())[4] == 5 / 240  # over the scrape in which it was not there
    new = jobs["11318000:17627999:r02c07"]
    assert new.delta(first="zero") == 126
    assert told(new.rate(first="zero"))[0] == 40 / 120
