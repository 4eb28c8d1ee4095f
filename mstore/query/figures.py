"""Tables of what was found in many series: a row has the figures of one or several of them.

series, by definition   [ a a a | b b ]      as they were scanned, each cluster's metric by itself
in the rows' order      [ a b a a b ]        in_order()
rows                    [ a b | a | a b ]    summed, or the first, last, smallest, largest of each row's series
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.query.resolve import NO_SAMPLES, Selected
from mstore.query.retained import RetainedGatherer
from mstore.query.scanning import NO_TIME, Beyond, Newest, Scanned
from mstore.shm import layout
from mstore.tables import Above, Latest, Stats


def _in_order(selected: Selected, parts: list[NDArray[Any]]) -> NDArray[Any]:
    """What _by_metric took apart, as one array in the order of selected.refs."""
    if len(parts) == 1:
        return parts[0]
    of = np.repeat(selected.of, selected.sizes)
    whole = all(part.dtype == parts[0].dtype for part in parts)
    found = np.zeros((len(of), *parts[0].shape[1:]), parts[0].dtype if whole else np.float64)
    places = [place for place, one in enumerate(selected.metrics) if one is not None]
    for place, part in zip(places, parts, strict=True):
        found[of == place] = part
    return found


def _rows_of(selected: Selected) -> NDArray[np.int64]:
    """int64[m]: the row of each series."""
    return np.repeat(np.arange(len(selected.rows)), selected.sizes)


def _whys(selected: Selected, n_series: NDArray[np.uint32]) -> NDArray[np.uint8]:
    whys = selected.whys()
    whys[(whys == 0) & (n_series == 0)] = NO_SAMPLES
    return whys


def latest(gatherer: RetainedGatherer, selected: Selected, metric: str, parts: list[Newest]) -> Latest:
    n = len(selected.rows)
    values = _in_order(selected, [part.values for part in parts])
    times = _in_order(selected, [part.times_ms for part in parts])
    there = times != NO_TIME
    rows, values, times = _rows_of(selected)[there], values[there], times[there]
    n_series = np.bincount(rows, minlength=n).astype(np.uint32)
    united = bool((selected.sizes > 1).any())
    if values.dtype == np.uint64 and not united:
        found: NDArray[Any] = np.zeros(n, np.uint64)
        found[rows] = values
    else:
        # Added one after the other, in series order.
        sums = np.bincount(rows, values.astype(np.float64), minlength=n)
        average = np.array(
            [one is not None and one.aggregation == layout.AGG_AVG for one in selected.metrics]
        )
        divisors = np.where(average[selected.of] & (n_series > 0), n_series, 1)
        found = np.where(n_series > 0, sums / divisors, np.nan)
    newest_ms = np.zeros(n, np.int64)
    newest_ms[rows] = NO_TIME
    np.maximum.at(newest_ms, rows, times)
    aggregation = layout.AGG_NAMES[selected.metric.aggregation] if united else ""
    return Latest(
        metric, selected.metric.unit, selected.rows.paths(gatherer), aggregation, found, newest_ms, n_series,
        _whys(selected, n_series),
    )  # fmt: skip


def above(
    gatherer: RetainedGatherer,
    selected: Selected,
    metric: str,
    beyond: Beyond,
    for_s: int,
    parts: list[Newest],
    kept: list[NDArray[np.bool_]],
) -> Above:
    chosen = np.flatnonzero(_in_order(selected, list(kept)))
    rows = selected.rows.taken(_rows_of(selected)[chosen])
    return Above(
        metric, selected.metric.unit, rows.paths(gatherer), beyond.level, beyond.below, for_s, len(selected.refs),
        _in_order(selected, [part.values for part in parts])[chosen],
        _in_order(selected, [part.times_ms for part in parts])[chosen],
        _in_order(selected, [part.since_ms for part in parts])[chosen],
        _in_order(selected, [part.peaks for part in parts])[chosen],
    )  # fmt: skip


def stats(
    gatherer: RetainedGatherer,
    selected: Selected,
    metric: str,
    start: int,
    end: int,
    percents: tuple[float, ...],
    parts: list[Scanned],
) -> Stats:
    n = len(selected.rows)
    counts = _in_order(selected, [part.counts for part in parts])
    there = counts > 0
    rows, counts = _rows_of(selected)[there], counts[there]
    sums = _in_order(selected, [part.sums for part in parts])[there]
    values = _in_order(selected, [part.values for part in parts])[there]
    times = _in_order(selected, [part.times_ms for part in parts])[there]
    n_series = np.bincount(rows, minlength=n).astype(np.uint32)
    totals = np.zeros(n, np.uint64)
    np.add.at(totals, rows, counts)
    sum_of = np.bincount(rows, sums, minlength=n)
    with np.errstate(invalid="ignore"):
        avgs = sum_of / totals
    mins, maxs = (_extremes(rows, values[:, 0], n, np.minimum), _extremes(rows, values[:, 1], n, np.maximum))
    firsts, firsts_ms = _at_the_end(rows, values[:, 2], times[:, 0], n)
    lasts, lasts_ms = _at_the_end(rows, values[:, 3], -times[:, 1], n)
    return Stats(
        metric, selected.metric.unit, selected.rows.paths(gatherer), start, end, percents, totals,
        np.where(totals > 0, sum_of, np.nan), avgs, mins, maxs, firsts, lasts, firsts_ms, -lasts_ms,
        np.full((n, len(percents)), np.nan), n_series, _whys(selected, n_series),
    )  # fmt: skip


def _extremes(rows: NDArray[np.int64], values: NDArray[Any], n: int, choose: np.ufunc) -> NDArray[Any]:
    """The smallest or largest value of each row; NaN (u64: 0) where it has none."""
    found = np.full(n, np.nan) if values.dtype == np.float64 else np.zeros(n, values.dtype)
    found[rows] = values
    choose.at(found, rows, values)
    return found


def _at_the_end(
    rows: NDArray[np.int64], values: NDArray[Any], times: NDArray[np.int64], n: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The value of the least time of each row, of several the first; and that time."""
    order = np.lexsort((times, rows))
    _, firsts = np.unique(rows[order], return_index=True)
    chosen = order[firsts]
    found = np.full(n, np.nan) if values.dtype == np.float64 else np.zeros(n, values.dtype)
    found_times = np.zeros(n, np.int64)
    found[rows[chosen]], found_times[rows[chosen]] = values[chosen], times[chosen]
    return found, found_times


def quantiles(values: NDArray[np.float64], percents: Sequence[float]) -> NDArray[np.float64]:
    """What so many percent of the values are at most: linear between the two that are nearest, as numpy.percentile.

    values  float64[n], n >= 1, changed in place
    """
    places = np.array(percents) / 100.0 * (len(values) - 1)
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, len(values) - 1)
    values.partition(np.unique(np.concatenate([low, high])))
    below, over, share = values[low], values[high], places - low
    step = over - below
    return np.where(share >= 0.5, over - step * (1.0 - share), below + step * share)
