"""Questions by selector over a store of a few hosts: rows and their order, values, errors, and answers in pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from mstore import errors, limits
from mstore.frames import Series
from mstore.query import Reader, Request, by_selector
from mstore.query.budget import Budget
from mstore.selector import Selector
from tests.query_rig import T0, Store, several

NOW = T0 + 600


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Hosts f1, f2, f10: load of the host, flops (sum) and clock (none) of two threads, ops (u64), rows; and alex."""
    made = Store(f"mstore-test-selecting-{os.getpid()}")
    for number, host in enumerate(("f10", "f2", "f1")):
        made.put(made.open("load", host), T0, [float(number), 10.0 + number, float(number)])
        for thread in (1, 0):
            ref = made.open("flops", host, "hwthread", str(thread))
            made.put(ref, T0, [float(k + 10 * thread) for k in range(10)])
            made.put(made.open("clock", host, "hwthread", str(thread)), T0, [2000.0 + thread] * 60, 10)
        made.put(made.open("ops", host), T0, [2**60 + number, 2**60 + 1], 10)
    made.rows(made.open("beat", "f1"), [(1000 * (T0 + k) + 5, k) for k in range(100)], "Q")
    made.rows(made.open("scrape", "f1"), [(1000 * T0, 1, 0)], "QQ")
    made.open("load", "f3")
    made.put(made.open("load", "a1", cluster="alex"), T0, [5.0])
    yield made
    made.close()


@pytest.fixture
def reader(store: Store) -> Reader:
    return Reader(store.directory_map.segment, store.samples_map.segment, now_s=lambda: NOW)


# --- levels


@pytest.mark.parametrize(
    ("selector", "metric", "wanted"),
    [
        ("fritz/*", None, ["fritz/f1", "fritz/f2", "fritz/f3", "fritz/f10"]),
        ("*", None, ["alex", "fritz"]),
        ("fritz/f10,f2,nope,f1", None, ["fritz/f10", "fritz/f2", "fritz/f1"]),
        ("fritz/f1*", None, ["fritz/f1", "fritz/f10"]),
        ("fritz/f3,f1*", None, ["fritz/f3", "fritz/f1", "fritz/f10"]),
        ("fritz/f1*,f1,f2", None, ["fritz/f1", "fritz/f10", "fritz/f2"]),
        ("fritz/f[1-2]/hwthread*", None,
         [f"fritz/{host}/hwthread{i}" for host in ("f1", "f2") for i in (0, 1)]),
        ("fritz/*/hwthread1", None, ["fritz/f1/hwthread1", "fritz/f2/hwthread1", "fritz/f10/hwthread1"]),
        ("*/*", "load", ["alex/a1", "fritz/f1", "fritz/f2", "fritz/f3", "fritz/f10"]),
        ("fritz/*", "flops", ["fritz/f1", "fritz/f2", "fritz/f10"]),
        ("fritz", "flops", ["fritz"]),
        ("fritz/*/*", "load", []),
        (["fritz", ["f2", "f1"], "*"], "flops",
         [f"fritz/{host}/hwthread{i}" for host in ("f2", "f1") for i in (0, 1)]),
        ("fritz/[]", None, []),
        ("fritz/*/*/*", None, []),
        ("nothing*/*", None, []),
    ],
)  # fmt: skip
def test_levels_come_in_the_order_they_are_named_and_in_natural_order_where_they_are_not(
    reader: Reader, selector: str, metric: str | None, wanted: list[str]
) -> None:
    paths = reader.select(selector, metric)
    assert paths.texts == wanted
    assert [str(path) for path in paths] == wanted


def test_an_unknown_cluster_or_metric_is_an_error_and_an_unknown_host_a_row(reader: Reader) -> None:
    for selector in ("nope", "nope/*", "fritz,nope/f1", ["nope", "f1"]):
        with pytest.raises(errors.UnknownSelector, match="nope"):
            reader.latest(selector, "load")
    for selector in ("", [], ["", "f1"]):
        with pytest.raises(errors.EmptyCluster):
            reader.latest(selector, "load")
    for metric in ("nope", "", "lo\ud800ad", "x" * 1000):
        with pytest.raises(errors.UnknownMetric):
            reader.latest("fritz/*", metric)
    with pytest.raises(errors.UnknownMetric):
        reader.latest("nothing*/*", "load")
    table = reader.latest("fritz/f9,f1,f3/hwthread[0-2]", "flops")
    assert table.paths.texts == [
        "fritz/f9", "fritz/f1/hwthread0", "fritz/f1/hwthread1", "fritz/f1/hwthread2",
        "fritz/f3/hwthread0", "fritz/f3/hwthread1", "fritz/f3/hwthread2",
    ]  # fmt: skip
    assert [table.why(row) for row in range(7)] == ["no such host", "", "", *["no such id"] * 4]
    assert (table.paths[3].type, table.paths[3].type_id) == ("hwthread", "2")
    assert reader.latest("fritz/f1", "load").why(0) == ""
    mixed = reader.latest("fritz/f9,f1*,f2,f1,f8", "load")
    assert mixed.paths.texts == ["fritz/f9", "fritz/f1", "fritz/f10", "fritz/f2", "fritz/f8"]
    assert [mixed.why(row) for row in range(5)] == ["no such host", "", "", "", "no such host"]
    assert reader.latest("fritz/f9,f1*/hwthread1,x*", "flops").paths.texts == [
        "fritz/f9", "fritz/f1/hwthread1", "fritz/f10/hwthread1",
    ]  # fmt: skip
    assert reader.latest("fritz/f2/hwthread0", "load").why(0) == "no such series"
    assert reader.latest("fritz/f3", "load").why(0) == "no samples in range"


def test_a_metric_of_one_cluster_leaves_out_the_others_below_a_star(reader: Reader) -> None:
    assert reader.latest("*/*", "flops").paths.texts == ["fritz/f1", "fritz/f2", "fritz/f10"]
    table = reader.latest("alex,fritz/f1,a1", "ops")
    assert [(str(path), table.why(row)) for row, path in enumerate(table.paths)] == [
        ("alex/f1", "no such host"), ("alex/a1", "no such series"),
        ("fritz/f1", ""), ("fritz/a1", "no such host"),
    ]  # fmt: skip


# --- newest values


@pytest.mark.parametrize("selector", ["fritz/f1/socket*", "fritz/none*", "*/a*/core*", "fritz/[]"])
def test_a_form_that_nothing_has_is_an_empty_answer_and_no_unknown_metric(
    reader: Reader, selector: str
) -> None:
    assert len(reader.select(selector, "load")) == 0
    assert (len(reader.latest(selector, "load")), reader.latest(selector, "load").unit) == (0, "procs")
    assert len(reader.latest(selector, "load", per="series")) == 0
    assert len(reader.above(selector, "load", 0.0)) == 0
    assert len(reader.stats(selector, "load", T0, NOW, (50,))) == 0
    assert len(reader.stats(selector, "ops", T0, NOW, per="series")) == 0
    assert len(reader.top(selector, "load", T0, NOW)) == 0
    assert reader.series(selector, "load", T0, NOW) == []
    whole = reader.series(selector, "load", T0, T0 + 120, aggregate=True)
    assert isinstance(whole, Series)
    assert (len(whole), whole.valid.any(), whole.why) == (2, False, "no such series")
    with pytest.raises(errors.UnknownMetric):
        reader.stats(selector, "nope", T0, NOW)


def test_newest_values_by_level_are_those_of_the_aggregation_and_by_series_their_own(reader: Reader) -> None:
    table = reader.latest("fritz/f1*", "flops")
    assert (table.values.tolist(), table.times.tolist()) == ([28.0, 28.0], [T0 + 540] * 2)
    assert (table.n_series.tolist(), table.aggregation, table.unit) == ([2, 2], "sum", "GFlops/s")
    each = reader.latest("fritz/f1*", "flops", per="series")
    assert each.paths.texts == [f"fritz/{host}/hwthread{i}" for host in ("f1", "f10") for i in (1, 0)]
    assert (each.values.tolist(), each.aggregation) == ([19.0, 9.0, 19.0, 9.0], "")
    load, ops = reader.latest("fritz/*", ["load", "ops"])
    assert load.paths.texts == ["fritz/f1", "fritz/f2", "fritz/f3", "fritz/f10"]
    assert np.array_equal(load.values, [2.0, 1.0, np.nan, 0.0], equal_nan=True)
    assert load.valid.tolist() == [True, True, False, True]
    assert ops.values.dtype == np.uint64
    assert ops.values.tolist() == [2**60 + 1] * 3


def test_an_old_value_does_not_count_and_a_metric_without_aggregation_is_asked_by_series(
    reader: Reader,
) -> None:
    assert reader.latest("fritz/f1", "load", max_age="8m").values.tolist() == [2.0]
    old = reader.latest("fritz/f1", "load", max_age=NOW - T0 - 121)
    assert (old.why(0), old.n_series.tolist()) == ("no samples in range", [0])
    with pytest.raises(errors.NotAggregatable, match="2 series at fritz/f1"):
        reader.latest("fritz/f1", "clock")
    assert reader.latest("fritz/f1/*", "clock").values.tolist() == [2000.0, 2001.0]
    assert reader.latest("fritz/f1", "clock", per="series").values.tolist() == [2001.0, 2000.0]


def test_rows_of_one_column_have_a_newest_value_and_of_several_none(reader: Reader) -> None:
    table = reader.latest("fritz/f1", "beat")
    assert (table.values.tolist(), table.times_ms.tolist()) == ([99], [1000 * (T0 + 99) + 5])
    figures = reader.stats("fritz/f1", "beat", T0 + 10, T0 + 20, (50,))
    assert (figures.counts.tolist(), figures.mins.tolist(), figures.lasts.tolist()) == ([10], [10], [19])
    assert figures.quantiles.tolist() == [[14.5]]
    above = reader.above("fritz/f1", "beat", 50, for_=40, at=T0 + 100)
    assert above.since_ms.tolist() == [1000 * (T0 + 51) + 5]
    for ask in (
        lambda: reader.latest("fritz/f1", "scrape"),
        lambda: reader.stats("fritz", "scrape", T0, NOW),
    ):
        with pytest.raises(errors.InvalidRequest, match=r"columns \(reads, seconds\)"):
            ask()


# --- above


def test_a_series_is_above_a_level_when_all_its_newest_samples_have_been_so_long(reader: Reader) -> None:
    # Thread 0 counts 0 .. 9, thread 1 10 .. 19, one a minute; a sample counts for its minute.
    for value, for_, wanted in (
        (9.5, "5m", 3),
        (4, "5m", 6),
        (5, "5m", 3),
        (4, 300, 6),
        (4, 301, 3),
        (19, 0, 0),
    ):
        found = reader.above("fritz/*", "flops", value, for_)
        assert (len(found), found.n_asked) == (wanted, 6), (value, for_)
    found = reader.above("fritz/f1", "flops", 4, "5m")
    assert found.paths.texts == ["fritz/f1/hwthread1", "fritz/f1/hwthread0"]
    assert found.since_ms.tolist() == [1000 * T0, 1000 * (T0 + 300)]
    assert (found.values.tolist(), found.peaks.tolist()) == ([19.0, 9.0], [19.0, 9.0])
    below = reader.above("fritz/f1", "flops", 12, "3m", below=True)
    assert (below.paths.texts, below.peaks.tolist()) == (["fritz/f1/hwthread0"], [0.0])


def test_a_series_that_has_fallen_silent_is_not_above_anything(reader: Reader) -> None:
    assert len(reader.above("fritz/f1", "flops", 4, "5m", at=T0 + 840)) == 2
    assert len(reader.above("fritz/f1", "flops", 4, "5m", at=T0 + 841)) == 0
    assert len(reader.above("fritz/f1", "flops", 4, "5m", at=T0 + 540)) == 1


@pytest.mark.parametrize(("n_missing", "n"), [(0, 2), (5, 2), (6, 1)])
def test_up_to_five_missing_samples_in_a_row_do_not_end_a_run(n_missing: int, n: int) -> None:
    made = Store(f"mstore-test-gap-{os.getpid()}")
    try:
        ref = made.open("load")
        made.put(ref, T0, [9.0])
        made.put(ref, T0 + 60 * (n_missing + 1), [9.0])
        (since_ms,) = made.reader.above(
            "fritz/f1", "load", 5.0, 0, at=T0 + 60 * (n_missing + 2)
        ).since_ms.tolist()
        assert since_ms == 1000 * (T0 if n == 2 else T0 + 60 * (n_missing + 1))
    finally:
        made.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x", None])
def test_a_level_is_a_finite_number(reader: Reader, value: float) -> None:
    with pytest.raises(errors.InvalidRequest, match="finite"):
        reader.above("fritz", "load", value)


# --- figures


def test_figures_are_of_the_raw_samples_of_all_series_of_a_level(reader: Reader) -> None:
    table = reader.stats("fritz/f1,f3,f9", "flops", T0, T0 + 300, (0, 50, 95, 100))
    raw = [*range(10, 15), *range(5)]
    assert (table.counts.tolist(), table.n_series.tolist()) == ([10, 0, 0], [2, 0, 0])
    assert (table.sums[0], table.avgs[0], table.mins[0], table.maxs[0]) == (70.0, 7.0, 0.0, 14.0)
    assert table.quantiles[0].tolist() == np.percentile(raw, [0, 50, 95, 100]).tolist()
    assert (table.firsts[0], table.lasts[0]) == (10.0, 14.0), "of the series made first, at the same times"
    assert (table.firsts_ms[0], table.lasts_ms[0]) == (1000 * T0, 1000 * (T0 + 240))
    assert [table.why(row) for row in range(3)] == ["", "no such series", "no such host"]
    assert np.isnan([table.avgs[1], table.mins[1], table.sums[2], table.quantiles[2, 0]]).all()
    ops = reader.stats("fritz/*", "ops", T0, NOW)
    assert (ops.maxs.tolist(), ops.firsts.tolist()) == (
        [2**60 + 2, 2**60 + 1, 2**60 + 1],
        [2**60 + 2, 2**60 + 1, 2**60],
    )
    one = reader.stats("fritz/f1/hwthread1", "flops", T0, NOW)
    assert (one.figure("avg"), one.figure("count")) == (14.5, 10)
    with pytest.raises(errors.NoData, match="no such host"):
        reader.stats("fritz/f9", "flops", T0, NOW).figure("avg")
    with pytest.raises(KeyError):
        one.figure("p50")


def test_figures_by_series_have_a_row_for_each(reader: Reader) -> None:
    table = reader.stats("fritz/f1,f9", "flops", T0, NOW, per="series")
    assert table.paths.texts == ["fritz/f1/hwthread1", "fritz/f1/hwthread0", "fritz/f9"]
    assert table.counts.tolist() == [10, 10, 0]


def test_a_ranking_has_the_largest_or_smallest_first_and_leaves_out_what_has_no_sample(
    reader: Reader,
) -> None:
    assert reader.top("fritz/*", "load", T0, NOW).paths.texts == ["fritz/f1", "fritz/f2", "fritz/f10"]
    top = reader.top("fritz/*", "load", T0, NOW, k=2, by="max", largest=False)
    assert (top.paths.texts, top.values.tolist()) == (["fritz/f10", "fritz/f2"], [10.0, 11.0])
    same = reader.top("fritz/*", "flops", T0, NOW, k=2)
    assert same.paths.texts == ["fritz/f1", "fritz/f2"], "of equal ones the earlier row"
    assert (
        reader.top("fritz/*", "flops", T0, NOW, by="p90", per="series").values.tolist()
        == [18.1] * 3 + [8.1] * 3
    )
    assert reader.top("fritz/*", "ops", T0, NOW, by="last").values.dtype == np.uint64
    for by in ("avg", "max", "min", "sum", "last", "first", "count", "p0", "p99.9"):
        assert len(reader.top("fritz/*", "load", T0, NOW, by=by)) == 3


# --- series


def test_series_of_a_selector_are_those_of_each_level(reader: Reader) -> None:
    found = several(reader.series("fritz/f2,f9,f1", "flops", T0, T0 + 300))
    assert [(one.path, one.why) for one in found] == [
        ("fritz/f2", ""),
        ("fritz/f9", "no such host"),
        ("fritz/f1", ""),
    ]
    alone = reader.ask(Request("fritz", "f2", "flops", T0, T0 + 300, aggregate=True))
    assert isinstance(alone, Series)
    assert (found[0].values.tolist(), found[0].coverage.tolist()) == (alone.values.tolist(), [2] * 5)  # type: ignore[union-attr]
    assert np.isnan(found[1].values).all()
    threads = several(reader.series("fritz/f1/hwthread*", "flops", T0, T0 + 300))
    assert [(one.type, one.type_id, one.values[0]) for one in threads] == [
        ("hwthread", "0", 0.0),
        ("hwthread", "1", 10.0),
    ]


def test_all_series_of_a_selector_become_one(reader: Reader) -> None:
    whole = reader.series("fritz/*", "flops", T0, T0 + 300, aggregate=True, resolution=120)
    assert isinstance(whole, Series)
    assert (whole.path, whole.n_series, whole.step) == ("fritz", 6, 120)
    assert whole.values.tolist() == [33.0, 45.0, 54.0]
    rates = reader.series("fritz/f1", "flops", T0, T0 + 300, aggregate=True, function="rate", scale_by=60)
    assert isinstance(rates, Series)
    assert rates.values[1:].tolist() == [2.0] * 4
    twice = reader.series("fritz/f1,f1*", "flops", T0, T0 + 300, aggregate=True)
    assert isinstance(twice, Series)
    assert twice.n_series == 4, "each series once"
    nothing = reader.series("fritz/f9", "flops", T0, T0 + 300, aggregate=True)
    assert isinstance(nothing, Series)
    assert (nothing.why, nothing.n_series) == ("no such host", 0)
    with pytest.raises(errors.NotAggregatable):
        reader.series("fritz/*", "clock", T0, NOW, aggregate=True)
    with pytest.raises(errors.NotAggregatable):
        reader.series("fritz/*", "clock", T0, NOW)
    with pytest.raises(errors.InvalidStep):
        reader.series("fritz/*", "flops", T0, NOW, resolution=90)


# --- what is refused


@pytest.mark.parametrize("ask", ["stats", "top", "series"])
def test_a_range_that_runs_backwards_is_refused_and_an_empty_one_is_empty(reader: Reader, ask: str) -> None:
    with pytest.raises(errors.InvalidTimeRange):
        getattr(reader, ask)("fritz/*", "load", NOW, NOW - 1)
    with pytest.raises(errors.InvalidTimeRange):
        getattr(reader, ask)("fritz/*", "load", "yesterday", NOW)
    found = getattr(reader, ask)("fritz/f1", "load", NOW, NOW)
    assert len(found) == (0 if ask == "top" else 1)


def test_a_century_is_as_quick_as_what_is_in_memory(reader: Reader) -> None:
    table = reader.stats("fritz/*", "flops", T0 - 10**9, T0 + 2 * 10**9, (50,))
    assert table.counts.tolist() == [20, 20, 20]
    assert len(reader.top("fritz/*", "flops", T0 - 10**9, T0 + 2 * 10**9)) == 3


def test_words_that_are_none_are_refused(reader: Reader) -> None:
    for ask in (
        lambda: reader.latest("fritz", "load", per="host"), lambda: reader.stats("fritz", "load", 0, 1, per="node"),
        lambda: reader.top("fritz", "load", 0, 1, by="mode"), lambda: reader.top("fritz", "load", 0, 1, by="p101"),
        lambda: reader.top("fritz", "load", 0, 1, k=0), lambda: reader.stats("fritz", "load", 0, 1, (101,)),
        lambda: reader.stats("fritz", "load", 0, 1, (float("nan"),)),
        lambda: reader.stats("fritz", "load", 0, 1, ("50",)),  # type: ignore[arg-type]
        lambda: reader.stats("fritz", "load", 0, 1, [50] * 101), lambda: reader.above("fritz", "load", 1, "soon"),
        lambda: reader.latest("fritz", "load", max_age=-1),
        lambda: reader.series("fritz", "load", 0, 1, missing="guess"),
    ):  # fmt: skip
        with pytest.raises(errors.InvalidRequest):
            ask()


def test_bounds_are_told_before_memory_is_taken(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(limits, "QUERY_SERIES_MAX", 5)
        with pytest.raises(errors.LimitExceeded, match="at most 5"):
            reader.latest("fritz/*", "flops")
    with monkeypatch.context() as patch:
        patch.setattr(limits, "PERCENTILE_SAMPLES_MAX", 19)
        with pytest.raises(errors.LimitExceeded, match="20 samples in one row"):
            reader.stats("fritz/f1", "flops", T0, NOW, (50,))
        assert reader.stats("fritz/f1/*", "flops", T0, NOW, (50,)).counts.tolist() == [10, 10]


def test_work_waits_between_its_pieces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mstore.query.scanning.PIECE_SERIES", 1)
    monkeypatch.setattr("mstore.query.resolve.PIECE_SERIES", 2)
    reader = Reader(store.directory_map.segment, store.samples_map.segment, now_s=lambda: NOW)
    budget = Budget()
    work = by_selector.stats(
        reader.gatherer, Selector.parse("fritz/*/*"), "flops", T0, NOW, (), "level", budget
    )
    n_pieces = 0
    try:
        while True:
            next(work)
            n_pieces += 1
    except StopIteration as done:
        table = done.value
    assert table.counts.tolist() == [10] * 6
    assert n_pieces > 6
    assert (budget.series, budget.samples) == (6, 60)
