"""A plan becomes the answer: one Series an entry, also for what is not there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import functions
from mstore.frames import Series, without_missing
from mstore.kernels._gather import Gatherer
from mstore.query.aggregate import aggregate, refuse_unless_aggregatable
from mstore.query.budget import Budget, Work, finished
from mstore.query.functions import with_function
from mstore.query.gather import DTYPES, checked, refuse_too_large, slots_limit, stamped_rows
from mstore.query.plan import NO_SAMPLES, NO_SERIES, Entry, Metric, Plan, Request
from mstore.query.resample import factor_of, resampled
from mstore.shm import layout


def answer(gatherer: Gatherer, plan: Plan, refs: list[NDArray[np.uint64]]) -> Series | list[Series]:
    """Gather what was planned, from the series that were collected for each entry.

    raises NotAggregatable, InvalidStep, LimitExceeded; Replan when the store changed meanwhile
    """
    return finished(answering(gatherer, plan, refs, Budget()))


def answering(
    gatherer: Gatherer, plan: Plan, refs: list[NDArray[np.uint64]], budget: Budget
) -> Work[Series | list[Series]]:
    """answer() in pieces, as far as functions are asked for."""
    request, metric = plan.request, plan.metric
    if metric.kind == layout.KIND_STAMPED or request.resolution:
        factor_of(metric.step_s, request.resolution)
    found, n_bytes = [], 0
    for entry, entry_refs in zip(plan.entries, refs, strict=True):
        why_not = entry.why or NO_SERIES
        if request.function:
            series = yield from _with_function(gatherer, request, metric, why_not, entry_refs, budget)
        else:
            series = gathered(gatherer, request, metric, why_not, entry_refs)
        series = _shaped(_labelled(series, request, entry), plan)
        n_bytes += series.values.nbytes
        refuse_too_large(len(series), n_bytes)
        found.append(series)
    return found if plan.many else found[0]


def _with_function(
    gatherer: Gatherer,
    request: Request,
    metric: Metric,
    why_not: str,
    refs: NDArray[np.uint64],
    budget: Budget,
) -> Work[Series]:
    if not len(refs):
        return functions.applied(
            _empty(request, metric, why_not), request.function, request.window, request.start
        )
    refuse_unless_aggregatable(request.metric, metric.kind, metric.aggregation, len(refs))
    read = _stamped if metric.kind == layout.KIND_STAMPED else _single
    return (
        yield from with_function(
            gatherer, lambda ref, part: read(gatherer, ref, part, metric), request, metric, refs, budget
        )
    )


def _labelled(series: Series, request: Request, entry: Entry) -> Series:
    series.cluster, series.host, series.metric = request.cluster, request.host, request.metric
    series.type, series.type_id = entry.type, entry.type_id
    series.subtype, series.subtype_id = entry.subtype, entry.subtype_id
    return series


def _shaped(series: Series, plan: Plan) -> Series:
    """What comes after gathering, in an order in which nothing is worked out from what was made up.

    Resampled once it is an aggregate: so that lttb looks at its shape, and a mean counts every sample there is. Scaled
    behind that, which a mean does not mind. Filled last: no mean or extreme is one of a filled gap.
    """
    request = plan.request
    if request.aggregate and series.coverage is None and not series.stamped:
        series = _as_aggregate(series, plan.metric.aggregation)
    if request.resolution:
        series = resampled(series, request.resolution, request.algo)
    if request.scale_by != 1.0:
        series = series.scaled(request.scale_by)
    return series if request.fill == "none" else series.filled(request.fill, request.max_gap)


def _as_aggregate(series: Series, aggregation: int) -> Series:
    """An aggregate that found one series or none: of the same form as one over many, but for aggregation none.

    There the values stay as they are stored: a counter of 64 bits has no place in a float.
    """
    series.coverage = series.valid.astype(np.uint32)
    if aggregation == layout.AGG_NONE:
        return series
    values = np.where(series.valid, series.values.astype(np.float64), np.nan)
    series.aggregation = layout.AGG_NAMES[aggregation]
    return series.with_values(values, series.step, series.coverage)


def gathered(
    gatherer: Gatherer, request: Request, metric: Metric, why_not: str, refs: NDArray[np.uint64]
) -> Series:
    if not len(refs):
        return _empty(request, metric, why_not)
    refuse_unless_aggregatable(request.metric, metric.kind, metric.aggregation, len(refs))
    if metric.kind == layout.KIND_STAMPED:
        return _stamped(gatherer, int(refs[0]), request, metric)
    if len(refs) == 1:
        return _single(gatherer, int(refs[0]), request, metric)
    values, coverage, start, step, n_present = aggregate(
        gatherer, refs, request.start, request.end, metric.aggregation,
        propagate=request.missing == "propagate",
    )  # fmt: skip
    series = Series(values, start, step, metric.unit, coverage=coverage, n_series=len(refs))
    series.aggregation = layout.AGG_NAMES[metric.aggregation]
    series.why = "" if n_present else NO_SAMPLES
    return series


def _single(gatherer: Gatherer, ref: int, request: Request, metric: Metric) -> Series:
    raw, start, step, _, n_present, _ = checked(
        gatherer.grid(ref, request.start, request.end, slots_limit(1))
    )
    values, valid = without_missing(raw)
    return Series(values, start, step, metric.unit, valid, why="" if n_present else NO_SAMPLES)


def _stamped(gatherer: Gatherer, ref: int, request: Request, metric: Metric) -> Series:
    stamps, words, value_type = stamped_rows(gatherer, ref, request.start, request.end)
    if words.shape[1] == 1:
        values: NDArray[Any] = words[:, 0].view(_column_dtype(value_type))
    else:
        values = words.view(_row_dtype(metric, words.shape[1])).reshape(len(words))
    values, valid = without_missing(values)
    why = "" if len(stamps) else NO_SAMPLES
    return Series(values, request.start, 0, metric.unit, valid, stamps_ms=stamps, why=why)


def _empty(request: Request, metric: Metric, why: str) -> Series:
    """All missing, with the request's start as phase; stamped: no rows."""
    if metric.kind == layout.KIND_STAMPED:
        dtype = _row_dtype(metric, len(metric.columns)) if metric.columns else _column_dtype(metric.type)
        stamps = np.empty(0, np.int64)
        return Series(
            np.empty(0, dtype), request.start, 0, metric.unit, stamps_ms=stamps, why=why, n_series=0
        )
    n = -((request.start - request.end) // metric.step_s)
    dtype = DTYPES[metric.type]
    refuse_too_large(n, n * dtype.itemsize)
    if metric.type == layout.TYPE_U64:
        values, valid = np.zeros(n, dtype), np.zeros(n, np.bool_)
        return Series(values, request.start, metric.step_s, metric.unit, valid, why=why, n_series=0)
    return Series(np.full(n, np.nan, dtype), request.start, metric.step_s, metric.unit, why=why, n_series=0)


def _column_dtype(value_type: int) -> np.dtype[Any]:
    """Rows hold 8-byte words: unsigned integers, or float64 whatever the float type of the metric."""
    return DTYPES[layout.TYPE_U64 if value_type == layout.TYPE_U64 else layout.TYPE_F64]


def _row_dtype(metric: Metric, n_columns: int) -> np.dtype[Any]:
    """The metric's columns by name; numbered ones when its definition has another number of them."""
    if len(metric.columns) != n_columns:
        return np.dtype([(f"column{i}", "<f8") for i in range(n_columns)])
    return np.dtype([(name, "<u8" if kind == "u64" else "<f8") for name, kind in metric.columns])
