"""A question's function, to every single series before several become one: rates are added, sums are never rated.

    each series: its samples, from a little before the range on -> the function -> its slots in the range
    several:     the slot nearest to each of the answer's, added in series order, as aggregates of samples are

In a sum of counters a series that comes or goes looks like a reset or a leap, and a missing sample like both; in a sum
of rates none of that can be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mstore import functions
from mstore.errors import LimitExceeded
from mstore.frames import Series
from mstore.kernels.chosen import aggregate as kernel
from mstore.limits import FUNCTION_SLOTS_MAX
from mstore.query.budget import PIECE_SAMPLES, SAMPLES_OF_A_CALL, Budget, Work
from mstore.query.gather import checked, refuse_too_large
from mstore.query.plan import NO_SAMPLES, Metric, Request
from mstore.query.retained import RetainedGatherer
from mstore.shm import layout

Read: TypeAlias = Callable[[int, Request], Series]
"""(reference, range) -> the samples of that series."""


def with_function(
    gatherer: RetainedGatherer,
    read: Read,
    request: Request,
    metric: Metric,
    refs: NDArray[np.uint64],
    budget: Budget,
) -> Work[Series]:
    """The answer of one entry to a request with a function; refs are its series, one or more.

    raises InvalidRequest, LimitExceeded; Replan when the store changed meanwhile
    """
    if len(refs) > 1:
        return (yield from _united(gatherer, read, request, metric, refs, budget))
    native, found = _applied(read, int(refs[0]), request, metric.step_s, budget)
    found = found.between(request.start, request.end)
    found.why = "" if found.valid.any() else _why(native, request)
    return found


def _applied(read: Read, ref: int, request: Request, step_s: int, budget: Budget) -> tuple[Series, Series]:
    """(the samples of a series in the range and around it, the function of them)

    step_s  the answer's, 0 = stamped: of so much more than the range the slot nearest to one of the answer's may lie
    """
    before_s, after_s = functions.reach(request.function, request.window, step_s)
    start, end = request.start - before_s - step_s, request.end + after_s + step_s
    _refuse_too_long((end - start) // step_s if step_s else 0)
    native = read(ref, replace(request, start=start, end=end))
    _refuse_too_long(len(native))
    budget.spend(samples=len(native))
    return native, functions.applied(native, request.function, request.window, request.start)


def _united(
    gatherer: RetainedGatherer,
    read: Read,
    request: Request,
    metric: Metric,
    refs: NDArray[np.uint64],
    budget: Budget,
) -> Work[Series]:
    start, step_s, n = _grid_of(gatherer, refs, request)
    times = start + step_s * np.arange(n, dtype=np.int64)
    sums, coverage = np.zeros(n), np.zeros(n, np.uint32)
    unit, why, n_read = metric.unit, NO_SAMPLES, 0
    for ref in refs.tolist():
        native, found = _applied(read, ref, request, step_s, budget)
        kernel.add(sums, coverage, _nearest(found, times))
        unit = found.unit
        if why == NO_SAMPLES:
            why = _why(native, request)
        n_read += len(native) + SAMPLES_OF_A_CALL
        if n_read >= PIECE_SAMPLES:
            n_read = 0
            yield
    least = len(refs) if request.missing == "propagate" else 1
    kernel.finish(sums, coverage, least, metric.aggregation == layout.AGG_AVG)
    series = Series(sums, start, step_s, unit, coverage=coverage, n_series=len(refs))
    series.aggregation = layout.AGG_NAMES[metric.aggregation]
    series.why = "" if coverage.any() else why
    return series


def _grid_of(gatherer: RetainedGatherer, refs: NDArray[np.uint64], request: Request) -> tuple[int, int, int]:
    """(start, step, slots) of the answer that aggregates of these series have in the range."""
    step_s, phase, _ = checked(gatherer.grid_of(refs, request.start, request.end))
    first = -((phase - request.start) // step_s)
    n = max(-((phase - request.end) // step_s) - first, 0)
    refuse_too_large(n, n * 8)
    return phase + first * step_s, step_s, n


def _nearest(series: Series, times: NDArray[np.int64]) -> NDArray[np.float64]:
    """The value of the slot that contains each time, NaN where there is none."""
    values = np.where(series.valid, series.values.astype(np.float64), np.nan)
    slots = (times - (series.start - series.step // 2)) // series.step
    inside = (slots >= 0) & (slots < len(values))
    found = np.full(len(times), np.nan)
    found[inside] = values[slots[inside]]
    return found


def _why(native: Series, request: Request) -> str:
    """Why nothing is known in the range."""
    return functions.TOO_FEW if native.between(request.start, request.end).valid.any() else NO_SAMPLES


def _refuse_too_long(n_slots: int) -> None:
    if n_slots > FUNCTION_SLOTS_MAX:
        raise LimitExceeded(
            f"a function looks at up to {FUNCTION_SLOTS_MAX:,} slots of a series, here at {n_slots:,}: "
            "ask for a shorter range or window",
            slots=n_slots, limit=FUNCTION_SLOTS_MAX,
        )  # fmt: skip
