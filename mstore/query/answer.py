"""Requests become answers: planned, gathered together, finished one by one.

    request -> plan (directory only) -> a Group for each entry -> batch ----\\
                                            \\-- a function of each series --+-> resample -> scale -> fill -> Series
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mstore import functions
from mstore.errors import NotAggregatable
from mstore.frames import Series
from mstore.query import alone
from mstore.query.batch import Gathered, Group, gathering, labelled, refuse_unless_aggregatable
from mstore.query.budget import PIECE_SAMPLES, SAMPLES_OF_A_CALL, Budget, Work
from mstore.query.functions import with_function
from mstore.query.gather import ATTEMPTS_MAX, Replan, changing, paused, replanned
from mstore.query.plan import NO_SERIES, Metric, Plan, Request, collected, plan
from mstore.query.resample import factor_of, resampled
from mstore.query.retained import RetainedGatherer
from mstore.shm import layout

_PLANNED_AT_ONCE = 256

Answer = Series | list[Series]


def answering(gatherer: RetainedGatherer, requests: Sequence[Request], budget: Budget) -> Work[list[Answer]]:
    """One answer a request, in their order; the first error of any is raised.

    All are planned before samples are read: the directory stays in the processor's caches meanwhile. Those whose series
    changed before they were read are planned again, a bounded number of times.

    raises InvalidTimeRange, InvalidRequest, UnknownMetric, NotAggregatable, InvalidStep, LimitExceeded, Unavailable
    """
    answers: list[Answer | None] = [None] * len(requests)
    left = list(range(len(requests)))
    for attempt in range(ATTEMPTS_MAX):
        plans, groups = yield from _planned(gatherer, [requests[index] for index in left])
        found = yield from shaping(gatherer, groups, budget)
        for index, answer in zip(left, _taken_apart(plans, found), strict=True):
            answers[index] = answer
        left = [index for index in left if answers[index] is None]
        if not left:
            return [answer for answer in answers if answer is not None]
        paused(attempt)
    raise changing()


def shaping(
    gatherer: RetainedGatherer, groups: Sequence[Group], budget: Budget
) -> Work[list[Gathered | None]]:
    """The answer to each group's request; None for one whose series changed meanwhile.

    raises InvalidRequest, InvalidStep, LimitExceeded
    """
    plain = [index for index, group in enumerate(groups) if not group.request.function]
    found: list[Gathered | None] = [None] * len(groups)
    gathered = yield from gathering(gatherer, [groups[index] for index in plain], budget)
    for index, one in zip(plain, gathered, strict=True):
        found[index] = one
    n_before, n_calls = budget.samples, 0
    for index, group in enumerate(groups if len(plain) < len(groups) else ()):
        if group.request.function:
            found[index] = yield from _of_function(gatherer, group, budget)
            n_calls += 1
            if budget.samples - n_before + n_calls * SAMPLES_OF_A_CALL >= PIECE_SAMPLES:
                n_before, n_calls = budget.samples, 0
                yield
    for index, series in enumerate(found):
        if isinstance(series, Series):
            found[index] = _shaped(series, groups[index].request, groups[index].metric)
            if index % _PLANNED_AT_ONCE == _PLANNED_AT_ONCE - 1:
                yield
    return found


def refuse_steps_that_do_not_fit(metric: Metric, resolution_s: int) -> None:
    """Before anything is gathered; raises InvalidStep"""
    if metric.kind == layout.KIND_STAMPED or resolution_s:
        factor_of(metric.step_s, resolution_s)


def _planned(gatherer: RetainedGatherer, requests: Sequence[Request]) -> Work[tuple[list[Plan], list[Group]]]:
    """The plans, and the groups of all their entries one after the other."""
    known: dict[tuple[int, str], Metric] = {}

    def planned(request: Request) -> tuple[Plan, list[NDArray[np.uint64]]]:
        found = plan(gatherer, request, known)
        refuse_steps_that_do_not_fit(found.metric, request.resolution)
        return found, collected(gatherer, found)

    plans, groups = [], []
    for n, request in enumerate(requests, 1):
        found, refs = replanned(partial(planned, request))
        plans.append(found)
        groups += [
            Group(
                request, found.metric, entry_refs, entry.why or NO_SERIES,
                (request.cluster, request.host, entry.type, entry.type_id, entry.subtype, entry.subtype_id),
            )
            for entry, entry_refs in zip(found.entries, refs, strict=True)
        ]  # fmt: skip
        if n % _PLANNED_AT_ONCE == 0:
            yield
    return plans, groups


def _taken_apart(plans: list[Plan], found: list[Gathered | None]) -> list[Answer | None]:
    """The answer of each plan; None where something has to be planned again."""
    answers: list[Answer | None] = []
    at = 0
    for planned in plans:
        part = found[at : at + len(planned.entries)]
        at += len(part)
        for one in part:
            if isinstance(one, NotAggregatable):
                raise one
        series = [one for one in part if isinstance(one, Series)]
        if len(series) < len(part):
            answers.append(None)
        else:
            answers.append(series if planned.many else series[0])
    return answers


def _of_function(gatherer: RetainedGatherer, group: Group, budget: Budget) -> Work[Gathered | None]:
    request, metric, refs = group.request, group.metric, group.refs
    budget.spend(series=len(refs) or 1)
    if not len(refs):
        nothing = alone.empty(request, metric, group.why or NO_SERIES)
        return labelled(functions.applied(nothing, request.function, request.window, request.start), group)
    try:
        refuse_unless_aggregatable(request.metric, metric.kind, metric.aggregation, len(refs))
    except NotAggregatable as error:
        return error
    read = alone.stamped if metric.kind == layout.KIND_STAMPED else alone.single
    try:
        series = yield from with_function(
            gatherer, lambda ref, part: read(gatherer, ref, part, metric), request, metric, refs, budget
        )
    except Replan:
        return None
    return labelled(series, group)


def _shaped(series: Series, request: Request, metric: Metric) -> Series:
    """What comes after gathering, in an order in which nothing is worked out from what was made up.

    Resampled once it is an aggregate: so that lttb looks at its shape, and a mean counts every sample there is. Scaled
    behind that, which a mean does not mind. Filled last: no mean or extreme is one of a filled gap.
    """
    if request.aggregate and series.coverage is None and not series.stamped:
        series = _as_aggregate(series, metric.aggregation)
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
