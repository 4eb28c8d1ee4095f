"""Requests become answers: planned, gathered together, finished one by one.

request -> plan (directory only) -> a Group for each entry -> batch -> labels, resampling -> Series
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mstore.errors import NotAggregatable
from mstore.frames import Series
from mstore.query.batch import Gathered, Group, gathering
from mstore.query.budget import Budget, Work
from mstore.query.gather import ATTEMPTS_MAX, changing, paused, replanned
from mstore.query.plan import NO_SERIES, Entry, Metric, Plan, Request, collected, plan
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
        gathered = yield from gathering(gatherer, groups, budget)
        for index, answer in zip(left, _finished(plans, gathered), strict=True):
            answers[index] = answer
        left = [index for index in left if answers[index] is None]
        if not left:
            return [answer for answer in answers if answer is not None]
        paused(attempt)
    raise changing()


def _planned(gatherer: RetainedGatherer, requests: Sequence[Request]) -> Work[tuple[list[Plan], list[Group]]]:
    """The plans, and the groups of all their entries one after the other."""
    known: dict[tuple[int, str], Metric] = {}

    def planned(request: Request) -> tuple[Plan, list[NDArray[np.uint64]]]:
        found = plan(gatherer, request, known)
        _refuse_steps_that_do_not_fit(found)
        return found, collected(gatherer, found)

    plans, groups = [], []
    for n, request in enumerate(requests, 1):
        found, refs = replanned(partial(planned, request))
        plans.append(found)
        groups += [
            Group(request, found.metric, entry_refs, entry.why or NO_SERIES)
            for entry, entry_refs in zip(found.entries, refs, strict=True)
        ]
        if n % _PLANNED_AT_ONCE == 0:
            yield
    return plans, groups


def _refuse_steps_that_do_not_fit(planned: Plan) -> None:
    """Before anything is gathered; raises InvalidStep"""
    if planned.metric.kind == layout.KIND_STAMPED or planned.request.resolution:
        factor_of(planned.metric.step_s, planned.request.resolution)


def _finished(plans: list[Plan], gathered: list[Gathered | None]) -> list[Answer | None]:
    """The answer of each plan; None where something has to be planned again."""
    answers: list[Answer | None] = []
    at = 0
    for planned in plans:
        part = gathered[at : at + len(planned.entries)]
        at += len(part)
        found = []
        for entry, one in zip(planned.entries, part, strict=True):
            if isinstance(one, NotAggregatable):
                raise one
            if one is None:
                break
            found.append(_finished_one(planned, entry, one))
        if len(found) < len(part):
            answers.append(None)
        else:
            answers.append(found if planned.many else found[0])
    return answers


def _finished_one(planned: Plan, entry: Entry, series: Series) -> Series:
    request = planned.request
    series.type, series.type_id = entry.type, entry.type_id
    series.subtype, series.subtype_id = entry.subtype, entry.subtype_id
    if request.aggregate and series.coverage is None and not series.stamped:
        series = _as_aggregate(series, planned.metric.aggregation)
    return resampled(series, request.resolution) if request.resolution else series


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
