"""Functions over a store: what Reader.query makes of counters, against one sample at a time."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstore import choices
from mstore.errors import InvalidRequest, InvalidStep, LimitExceeded, NotAggregatable
from mstore.frames import Series
from mstore.query.budget import Budget, finished
from mstore.query.plan import Request
from tests.query_rig import T0, Store, one, plain

STEP = 10  # of ops, u64, sum
Samples = dict[int, int]
"""Nominal time -> value."""


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-test-functions-{os.getpid()}")
    yield made
    made.close()


def put(store: Store, core: int, samples: list[int | None], first: int = T0) -> Samples:
    """A counter of a core, a sample each 10 s, some left out; the first one fixes the grid."""
    ref = store.open("ops", "f1", "core", str(core), t=first)
    kept = {first + STEP * i: value for i, value in enumerate(samples) if value is not None}
    for t, value in kept.items():
        store.put(ref, t, [value], STEP)
    return kept


def ask(store: Store, start: int, end: int, **more: Any) -> Series:
    return one(store.reader.query("fritz", "f1", "ops", start, end, **more))


def test_rates_are_added_and_sums_are_never_rated(store: Store) -> None:
    put(store, 0, [100, 110, 120, 130, 140])
    put(store, 1, [None, None, 1000, 1010, 1020])  # it comes later, with a large count
    put(store, 2, [500, 520, 540, None, None])  # and this one goes
    rates = ask(store, T0, T0 + 50, function="rate")
    assert plain(rates.values) == [None, 3.0, 3.0, 2.0, 2.0]
    assert rates.coverage is not None
    assert rates.coverage.tolist() == [0, 2, 2, 2, 2]
    assert (rates.aggregation, rates.n_series, rates.step) == ("sum", 3, STEP)
    # The rate of the sum sees a leap, then a reset.
    wrong = ask(store, T0, T0 + 50).rate()
    assert plain(wrong.values) == [None, 3.0, 103.0, 114.0, 2.0]


def test_a_range_is_counted_from_the_sample_before_it(store: Store) -> None:
    put(store, 0, [2**63, 2**63 + 5, None, 2**63 + 9, 4])
    core = {"type": "core", "type_ids": "0"}
    increases = ask(store, T0 + 30, T0 + 50, function="increase", **core)
    assert increases.values.dtype == np.uint64
    assert increases.values.tolist() == [4, 4]
    assert ask(store, T0 + 30, T0 + 50, function="rate", **core).values.tolist() == [0.2, 0.4]
    deltas = ask(store, T0 + 30, T0 + 60, function="delta", **core)
    assert (deltas.values.tolist(), deltas.valid.tolist()) == ([4, 8, 8], [True, True, True])
    whole = ask(store, T0, T0 + 50, function="increase", **core)
    assert (whole.values.tolist(), whole.valid.tolist()) == (
        [0, 5, 0, 4, 4],
        [False, True, False, True, True],
    )


def test_what_is_not_known_says_why(store: Store) -> None:
    put(store, 0, [5])
    put(store, 1, [7, 8])
    core = {"type": "core", "type_ids": "0"}
    lone = ask(store, T0, T0 + 20, function="rate", **core)
    assert (lone.why, plain(lone.values)) == ("too few samples in range", [None, None])
    later = ask(store, T0 + 5000, T0 + 5020, function="rate", **core)
    assert (later.why, plain(later.values)) == ("no samples in range", [None, None])
    assert ask(store, T0 + 5000, T0 + 5020, function="rate").why == "no samples in range"
    nowhere = one(store.reader.query("fritz", "f9", "ops", T0, T0 + 20, function="rate"))
    assert (nowhere.why, nowhere.values.dtype, plain(nowhere.values)) == (
        "no such host", np.dtype("f8"), [None, None],
    )  # fmt: skip
    assert ask(store, T0, T0, function="rate").why == "no samples in range"
    assert len(ask(store, T0, T0, function="rate")) == 0
    both = ask(store, T0, T0 + 20, function="rate", type="core", aggregate=True)
    assert plain(both.values) == [None, 0.1]
    assert both.coverage is not None
    assert both.coverage.tolist() == [0, 1]


def test_a_slot_that_a_series_misses_is_skipped_or_propagated(store: Store) -> None:
    put(store, 0, [0, 10, 20, 30])
    put(store, 1, [0, 10, None, 30])
    skipped = ask(store, T0, T0 + 40, function="rate")
    assert plain(skipped.values) == [None, 2.0, 1.0, 2.0]
    propagated = ask(store, T0, T0 + 40, function="rate", missing="propagate")
    assert plain(propagated.values) == [None, 2.0, None, 2.0]
    assert plain(ask(store, T0, T0 + 40, missing="propagate").values) == [0.0, 20.0, None, 60.0]


def test_functions_come_first_then_aggregates_resampling_scaling_and_filling(store: Store) -> None:
    put(store, 0, [0, 10, 20, None, None, None, 60, 90])
    put(store, 1, [0, 20, 40, None, None, None, 120, 150])
    rates = {"function": "rate", "start": T0, "end": T0 + 80}
    assert plain(ask(store, **rates).values) == [None, 3, 3, None, None, None, 3, 6]
    coarse = ask(store, **rates, resolution=20)
    assert plain(coarse.values) == [3, 3, None, 4.5]
    assert plain(ask(store, **rates, resolution=20, algo="max").values) == [3, 3, None, 6]
    assert plain(ask(store, **rates, resolution=20, scale_by=10).values) == [30, 30, None, 45]
    filled = ask(store, **rates, resolution=20, scale_by=10, fill="linear")
    assert plain(filled.values) == [30, 30, 37.5, 45]
    assert filled.coverage is not None
    assert filled.coverage.tolist() == [2, 2, 0, 4]  # of both series' samples in a run
    assert plain(ask(store, **rates, fill="previous", max_gap=10).values) == [None, 3, 3, 3, None, None, 3, 6]
    # Means of runs are those of samples, not of what was filled in.
    assert plain(ask(store, **rates, resolution=40, fill="linear").values) == [3, 4.5]


def test_lttb_and_the_other_algorithms_are_asked_by_name(store: Store) -> None:
    ref = store.open("load")
    values = [float(i % 7) for i in range(120)]
    values[50] = 99.0
    store.put(ref, T0, values)
    load = {"cluster": "fritz", "host": "f1", "metric": "load", "start": T0, "end": T0 + 120 * 60}
    picked = one(store.reader.query(**load, resolution=600, algo="lttb"))
    assert picked.stamped
    assert 99.0 in picked.values.tolist()
    assert T0 + 50 * 60 in picked.times.tolist()
    assert len(picked) == 12
    assert one(store.reader.query(**load, resolution=600, algo="last")).values.tolist() == values[9::10]
    assert one(store.reader.query(**load, resolution=600, algo="simple")).values.tolist() == values[::10]
    with pytest.raises(InvalidStep):
        store.reader.query(**load, resolution=90, algo="lttb")


def test_rows_have_rates_too_but_never_become_one(store: Store) -> None:
    ref = store.open("scrape", "f1", t=T0)
    store.rows(ref, [(T0 * 1000, 5, 1.0), (T0 * 1000 + 2500, 10, 2.0), (T0 * 1000 + 5000, 3, 2.5)], "Qd")
    rates = one(store.reader.query("fritz", "f1", "scrape", T0 + 1, T0 + 60, function="rate"))
    assert rates.times_ms.tolist() == [T0 * 1000 + 2500, T0 * 1000 + 5000]
    assert rates.column("reads").values.tolist() == [2.0, 1.2]
    assert rates.column("seconds").values.tolist() == [0.4, 0.2]
    grown = one(store.reader.query("fritz", "f1", "scrape", T0, T0 + 60, function="increase"))
    assert grown.column("reads").values.tolist() == [0, 5, 3]
    assert grown.column("reads").valid.tolist() == [False, True, True]
    store.open("scrape", "f1", "core", "0", t=T0)
    store.open("scrape", "f1", "core", "1", t=T0)
    with pytest.raises(NotAggregatable, match="no time axis"):
        store.reader.query("fritz", "f1", "scrape", T0, T0 + 60, type="core", aggregate=True, function="rate")


def test_what_makes_no_sense_is_an_error_of_its_own_kind(store: Store) -> None:
    put(store, 0, [1, 2])
    core: dict[str, Any] = {"type": "core", "type_ids": "0"}
    for wrong, told in (
        ({"function": "rating"}, '"rate", "increase", "delta"'), ({"algo": "mean"}, '"average", "lttb"'),
        ({"fill": "next"}, '"none", "previous", "linear"'), ({"missing": "zero"}, '"skip", "propagate"'),
        ({"max_gap": -1}, "0 or more"), ({"window": -1, "function": "rate"}, "0 or more"),
        ({"scale_by": math.nan}, "finite"), ({"scale_by": math.inf}, "finite"), ({"scale_by": None}, "finite"),
        ({"function": "moving_average"}, "window"), ({"function": "delta", "window": 60}, "start of the range"),
        ({"window": 60}, "no function"),
    ):  # fmt: skip
        for levels in (core, {}):
            with pytest.raises(InvalidRequest, match=told):
                ask(store, T0, T0 + 20, **levels, **wrong)
    for more in ({"window": 10**9}, {"start": T0 - 10**9}):
        arguments = {"start": T0, "function": "moving_average", "window": 60} | more
        with pytest.raises(LimitExceeded, match="4,000,000 slots"):
            ask(store, end=T0 + 20, **core, **arguments)


def test_one_series_asked_for_as_it_is_stored_goes_the_short_way(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(store.open("load"), T0, [1.0, 2.0])
    asked: list[Request] = []
    monkeypatch.setattr(store.reader, "ask", asked.append)
    load = ("fritz", "f1", "load", T0, T0 + 120)
    plain_way = store.reader.query(*load, algo="average", missing="skip", fill="none", scale_by=1.0)
    assert one(plain_way).values.tolist() == [1.0, 2.0]
    assert asked == []
    for more in (
        {"function": "rate"}, {"algo": "lttb"}, {"fill": "linear"}, {"scale_by": 2}, {"missing": "propagate"},
        {"max_gap": 5}, {"window": 5},
    ):  # fmt: skip
        store.reader.query(*load, **more)
    assert len(asked) == 7


# --- random trees


def naive_function(samples: Samples, t: int, function: str, window: int, start: int) -> Fraction | None:
    """At the slot with nominal time t of one series; samples as far back as the store looks."""
    at = sorted(samples)
    if function in ("moving_average", "centred_moving_average"):
        centred = function != "moving_average"
        kept = [samples[s] for s in at if (abs(s - t) * 2 <= window if centred else t - window < s <= t)]
        return Fraction(sum(kept), len(kept)) if kept else None
    grown = {b: samples[b] - samples[a] if samples[b] >= samples[a] else samples[b] for a, b in pairwise(at)}
    if function == "delta":
        known = [s for s in at if s <= t]
        before = [s for s in at if s < start] or at[:1]
        if not known or known[-1] < before[-1]:
            return None
        return Fraction(sum(grown[s] for s in known if s > before[-1]))
    inside = [s for s in grown if (t - window < s <= t if window else s == t)]
    if not inside:
        return None
    increase = Fraction(sum(grown[s] for s in inside))
    before_first = max(s for s in at if s < inside[0])
    return increase / (inside[-1] - before_first) if function == "rate" else increase


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_any_function_of_any_tree_is_that_of_its_samples(seed: int) -> None:
    rng = random.Random(seed)
    store = Store(f"mstore-test-function-trees-{os.getpid()}")
    try:
        children = []
        for core in range(rng.randrange(1, 4)):
            first = T0 + rng.randrange(-STEP, STEP)
            counts = [rng.choice([None, rng.randrange(50), rng.randrange(2**40)]) for _ in range(30)]
            counts[0] = rng.randrange(50)
            children.append((first, put(store, core, counts, first)))
        for _ in range(6):
            start = T0 + rng.randrange(-100, 300)
            end = start + rng.randrange(0, 200)
            function = rng.choice(choices.FUNCTIONS[1:])
            windows = {"rate": [0, 20, 45, 100], "increase": [0, 20, 45, 100], "delta": [0]}
            window = rng.choice(windows.get(function, [20, 35, 60, 100]))
            missing = rng.choice(choices.MISSING)
            found = ask(
                store, start, end, function=function, window=window, missing=missing, aggregate=True,
                type="core",
            )  # fmt: skip
            phase = children[0][0]
            times = [t for t in range(start, end) if (t - phase) % STEP == 0]
            assert found.times.tolist() == times
            for t, value in zip(times, plain(found.values), strict=True):
                parts = []
                for first, samples in children:
                    slot = (t - (first - STEP // 2)) // STEP
                    near = first + slot * STEP
                    parts.append(naive_function(samples, near, function, window, start))
                known = [part for part in parts if part is not None]
                lost = not known or (missing == "propagate" and len(known) < len(parts))
                assert (value is None) == lost, (function, window, t)
                if value is not None:
                    total = sum(known, Fraction(0))
                    assert abs(Fraction(value) - total) <= abs(total) * Fraction(1, 2**48)
    finally:
        store.close()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_answers_of_adjoining_ranges_are_the_answer_of_the_whole(seed: int) -> None:
    rng = random.Random(seed)
    store = Store(f"mstore-test-function-tiles-{os.getpid()}")
    try:
        for core in range(2):
            counts = [rng.randrange(1000) if rng.random() < 0.7 else None for _ in range(40)]
            counts[0] = 5
            put(store, core, counts, T0 + 3 * core)
        for function, window in (("rate", 0), ("increase", 40), ("moving_average", 30)):
            bounds = sorted(rng.randrange(T0, T0 + 400) for _ in range(3))
            for levels in ({"type": "core", "type_ids": "1"}, {}):
                more = {"function": function, "window": window, **levels}
                parts = [ask(store, a, b, **more) for a, b in pairwise(bounds)]
                whole = ask(store, bounds[0], bounds[-1], **more)
                assert [v for part in parts for v in plain(part.values)] == plain(whole.values)
    finally:
        store.close()


def test_a_function_of_many_series_is_worked_out_in_pieces(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for core in range(5):
        put(store, core, [core, 2 * core, 3 * core])
    monkeypatch.setattr("mstore.query.functions.PIECE_SAMPLES", 1)
    request = Request("fritz", "f1", "ops", T0, T0 + 30, function="increase")
    budget = Budget()
    work = store.reader.answering([request], budget)
    n_pieces = sum(1 for _ in work)
    assert n_pieces == 5
    assert budget.samples > 0
    (whole,) = finished(store.reader.answering([request], Budget()))
    assert one(whole).values.tolist()[1:] == [10, 10]
