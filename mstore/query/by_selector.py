"""Questions by selector: what is there, newest values, levels exceeded, figures, rankings, series.

selector -> levels -> series (resolve.py) -> one pass of a kernel over all of them (scanning.py) -> a table
                                          -> groups (batch.py)                                  -> Series
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from mstore import choices, limits
from mstore.errors import InvalidRequest, InvalidTimeRange, LimitExceeded, NotAggregatable
from mstore.frames import Series
from mstore.kernels import _select
from mstore.query import figures
from mstore.query.answer import refuse_steps_that_do_not_fit, shaping
from mstore.query.batch import Group, refuse_unless_aggregatable
from mstore.query.budget import PIECE_SAMPLES, PIECE_SERIES, Budget, Work
from mstore.query.gather import Replan, replanned_work
from mstore.query.plan import Metric, Request
from mstore.query.resolve import NO_SERIES, Selected, resolving, selecting
from mstore.query.retained import RetainedGatherer
from mstore.query.scanning import NO_TIME, Beyond, newest, samples, scanning
from mstore.selector import Selector
from mstore.shm import layout
from mstore.tables import WHYS, Above, Latest, Paths, Stats, Top, percent_of
from mstore.times import SECONDS_MAX, SECONDS_MIN

GAP_STEPS = 5
"""A series without a sample for more steps is not any more what its last sample says; as in the health of a host."""
GAP_STAMPED_S = 300

_NO_LEVEL = _select.NO_LEVEL
_NO_PARTS = ("",) * 6


def levels(gatherer: RetainedGatherer, selector: Selector, metric: str | None, budget: Budget) -> Work[Paths]:
    """The levels that a selector means; with a metric those that hold it, or have it below."""
    rows = yield from resolving(gatherer, selector)
    if metric is not None:
        selected = yield from selecting(gatherer, selector, metric, budget)
        rows = selected.rows.taken(np.flatnonzero(selected.sizes > 0))
    there = rows.taken(np.flatnonzero(rows.ghosts < 0))
    budget.spend(series=len(there), n_bytes=32 * len(there))
    return there.paths(gatherer)


def latest(
    gatherer: RetainedGatherer,
    selector: Selector,
    metric: str,
    per: str,
    oldest_s: int | None,
    budget: Budget,
) -> Work[Latest]:
    """The newest value of each level or series, if it is not older than oldest_s."""
    refuse_unknown(per)
    start = SECONDS_MIN if oldest_s is None else oldest_s

    def attempt() -> Work[Latest]:
        selected = yield from selecting(gatherer, selector, metric, budget)
        if per == "level":
            _refuse_unless_aggregatable(gatherer, selected, metric)
        else:
            selected = by_series(gatherer, selected)
        parts = []
        for one, refs in _by_metric(selected):
            parts.append((yield from newest(gatherer, one, refs, start, SECONDS_MAX, budget)))
        budget.spend(n_bytes=32 * len(selected.rows))
        return figures.latest(gatherer, selected, metric, parts)

    return (yield from replanned_work(attempt, budget))


def above(
    gatherer: RetainedGatherer,
    selector: Selector,
    metric: str,
    beyond: Beyond,
    for_s: int,
    at_s: int,
    budget: Budget,
) -> Work[Above]:
    """The series that have been above (below) a level for for_s seconds up to now, which is at_s."""

    def attempt() -> Work[Above]:
        selected = by_series(gatherer, (yield from selecting(gatherer, selector, metric, budget)))
        found, kept = [], []
        for one, refs in _by_metric(selected):
            gap_s = GAP_STEPS * one.step_s or GAP_STAMPED_S
            # So many may be missing between two samples; the time from one to the other is a step longer.
            asked = Beyond(beyond.level, beyond.below, gap_s + one.step_s)
            part = yield from newest(gatherer, one, refs, SECONDS_MIN, at_s, budget, asked)
            lasted_ms = part.times_ms + 1000 * one.step_s - part.since_ms
            fresh = part.times_ms >= 1000 * (at_s - gap_s)
            kept.append((part.since_ms != NO_TIME) & fresh & (lasted_ms >= 1000 * for_s))
            found.append(part)
        return figures.above(gatherer, selected, metric, beyond, for_s, found, kept)

    return (yield from replanned_work(attempt, budget))


def stats(
    gatherer: RetainedGatherer,
    selector: Selector,
    metric: str,
    start: int,
    end: int,
    percents: Sequence[float],
    per: str,
    budget: Budget,
) -> Work[Stats]:
    """What the samples of [start, end) of all series at or below each level come to."""
    refuse_unknown(per)
    refuse_backwards(start, end)
    asked = tuple(choices.percentiles(percents))

    def attempt() -> Work[Stats]:
        selected = yield from selecting(gatherer, selector, metric, budget)
        if per == "series":
            selected = by_series(gatherer, selected)
        parts = []
        for one, refs in _by_metric(selected):
            parts.append((yield from scanning(gatherer, one, refs, start, end, budget)))
        budget.spend(n_bytes=(100 + 8 * len(asked)) * len(selected.rows))
        table = figures.stats(gatherer, selected, metric, start, end, asked, parts)
        if asked:
            yield from _fill_quantiles(gatherer, selected, table, budget)
        return table

    return (yield from replanned_work(attempt, budget))


def top(
    gatherer: RetainedGatherer,
    selector: Selector,
    metric: str,
    start: int,
    end: int,
    k: int,
    by: str,
    largest: bool,
    per: str,
    budget: Budget,
) -> Work[Top]:
    """The k rows whose figure is largest (smallest), the first of them first; of equal ones the earlier row."""
    percents = refuse_unknown_figure(by)
    k = choices.ranks(k)
    found = yield from stats(gatherer, selector, metric, start, end, percents, per, budget)
    # Infinities may have no mean, and samples may become too old between two looks: no figure, no rank.
    rows = np.flatnonzero(found.valid & ~np.isnan(found.column(by)))
    figures = found.column(by)[rows]
    order = np.argsort(figures, kind="stable")
    if largest:  # stable from the other end, too; and u64 has no negative
        order = len(rows) - 1 - np.argsort(figures[::-1], kind="stable")[::-1]
    chosen = found.taken(rows[order[:k]])
    kept = {field.name: getattr(chosen, field.name) for field in fields(Stats)}
    return Top(**kept, by=by, largest=largest)


def series(
    gatherer: RetainedGatherer,
    selector: Selector,
    request: Request,
    budget: Budget,
) -> Work[list[Series] | Series]:
    """A Series for each level, or one of all together. request: its path is not used"""
    request.refuse_unless_sound()

    def attempt() -> Work[list[Series] | Series]:
        selected = yield from selecting(gatherer, selector, request.metric, budget)
        for definition in selected.metrics:
            if definition is not None:
                refuse_steps_that_do_not_fit(definition, request.resolution)
        united = request.aggregate
        if united:
            groups = [_united(selected, request, selector)]
        else:
            groups = yield from _groups(gatherer, selected, request)
        found = []
        for one in (yield from shaping(gatherer, groups, budget)):
            if isinstance(one, NotAggregatable):
                raise one
            if one is None:
                raise Replan
            found.append(one)
        return found[0] if united else found

    return (yield from replanned_work(attempt, budget))


# --- what may be asked


def beyond(value: float, below: bool) -> Beyond:
    """raises InvalidRequest for a level that is no finite number"""
    return Beyond(choices.finite("value", value), below, 0)


def refuse_unknown(per: str) -> None:
    if per not in ("level", "series"):
        raise InvalidRequest(f'{per!r} is no kind of row: expected "level" or "series"')


def refuse_backwards(start: int, end: int) -> None:
    if start > end:
        raise InvalidTimeRange(f"the range starts at {start} and ends before, at {end}", start=start, end=end)


def refuse_unknown_figure(by: str) -> tuple[float, ...]:
    """The percentiles that a figure needs. raises InvalidRequest"""
    if by in ("avg", "max", "min", "sum", "last", "first", "count"):
        return ()
    if math.isnan(percent_of(by)):
        raise InvalidRequest(f"by={by!r}: expected avg, max, min, sum, last, first, count, or p0 to p100")
    return (percent_of(by),)


def _refuse_unless_aggregatable(gatherer: RetainedGatherer, selected: Selected, metric: str) -> None:
    """NotAggregatable for a level with several series of a metric that does not say how to unite them."""
    for row in np.flatnonzero(selected.sizes > 1):
        one = selected.metrics[selected.of[row]]
        if one is not None and one.aggregation == layout.AGG_NONE:
            path = selected.rows.taken(np.array([row])).paths(gatherer)[0]
            raise NotAggregatable(
                f"{metric} has {selected.sizes[row]} series at {path} and no aggregation: ask by series",
                metric=metric, n_series=int(selected.sizes[row]),
            )  # fmt: skip


# --- rows


def by_series(gatherer: RetainedGatherer, selected: Selected) -> Selected:
    """A row for each series, at its own level; rows without one stay as they are."""
    sizes = np.maximum(selected.sizes, 1)
    rows = np.repeat(np.arange(len(selected.rows)), sizes)
    has = np.repeat(selected.sizes > 0, sizes)
    expanded = selected.rows.taken(rows)
    own = _select.levels_of(gatherer, selected.refs)
    if (own == _NO_LEVEL).any():
        raise Replan
    expanded.levels = expanded.levels.copy()
    expanded.levels[has] = own
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(has)])
    return Selected(expanded, selected.metrics, selected.of[rows], selected.refs, bounds)


def _by_metric(selected: Selected) -> list[tuple[Metric, NDArray[np.uint64]]]:
    """The series of each definition, those of rows in their order; rows of one cluster lie beside each other or not."""
    of = np.repeat(selected.of, selected.sizes)
    return [
        (one, selected.refs[of == place]) for place, one in enumerate(selected.metrics) if one is not None
    ]


def _fill_quantiles(
    gatherer: RetainedGatherer, selected: Selected, table: Stats, budget: Budget
) -> Work[None]:
    n_read = 0
    for row in np.flatnonzero(table.counts > 0).tolist():
        n = int(table.counts[row])
        if n > limits.PERCENTILE_SAMPLES_MAX:
            raise LimitExceeded(
                f"percentiles of {n:,} samples in one row, at most {limits.PERCENTILE_SAMPLES_MAX:,}: ask for a shorter "
                "range or for smaller levels",
                samples=n, limit=limits.PERCENTILE_SAMPLES_MAX,
            )  # fmt: skip
        budget.spend(samples=n)
        metric = selected.metrics[selected.of[row]]
        assert metric is not None
        refs = selected.refs[selected.bounds[row] : selected.bounds[row + 1]]
        found = samples(gatherer, metric, refs, table.start, table.end, n)
        if len(found):  # all may have become too old meanwhile
            table.quantiles[row] = figures.quantiles(found, table.percents)
        n_read += n
        if n_read > PIECE_SAMPLES // 4:  # sorting takes longer than reading
            n_read = 0
            yield


# --- series


def _groups(gatherer: RetainedGatherer, selected: Selected, request: Request) -> Work[list[Group]]:
    whys = selected.whys().tolist()
    bounds = selected.bounds.tolist()
    groups = []
    for row, line in enumerate(selected.rows.paths(gatherer).lines):
        metric = selected.metrics[selected.of[row]] or selected.metric
        refs = selected.refs[bounds[row] : bounds[row + 1]]
        parts = line.split("\t")
        path = (*parts, *_NO_PARTS[len(parts) :])
        groups.append(Group(request, metric, refs, WHYS[whys[row]], path))
        if row % PIECE_SERIES == PIECE_SERIES - 1:
            yield
    return groups


def _united(selected: Selected, request: Request, selector: Selector) -> Group:
    """All series of a selection as one group, in series order; labelled by the cluster and host that alone are named."""
    refs = np.unique(selected.refs)  # one of a host and of its cluster counts once
    refs = refs[np.argsort(refs & np.uint64(0xFFFF_FFFF), kind="stable")]
    known = [one for one in selected.metrics if one is not None]
    for one in known:
        refuse_unless_aggregatable(request.metric, one.kind, one.aggregation, len(refs))
    if len({one.aggregation for one in known}) > 1:
        raise NotAggregatable(
            f"{request.metric} is a sum in one cluster and a mean in another: ask for one cluster",
            metric=request.metric,
        )
    whys = selected.whys()
    alone = [step.names[0] if step.names and len(step.names) == 1 else "" for step in selector.steps]
    path = (*alone, *_NO_PARTS)[:2] + _NO_PARTS[2:]
    return Group(request, selected.metric, refs, WHYS[int(whys[0]) if len(whys) else NO_SERIES], path)
