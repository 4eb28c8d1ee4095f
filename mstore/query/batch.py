"""Many selections of one request gathered together: one Series each, or the error that belongs to it alone.

groups -> pieces of about PIECE_SAMPLES -> one call of the kernel each -> slices of its arrays become Series
   \\-- a group larger than that: added up in parts, some slots of some series at a time
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mstore.errors import NotAggregatable
from mstore.frames import Series, without_missing
from mstore.kernels import _gather_batch
from mstore.kernels.chosen import aggregate as kernel
from mstore.query import alone
from mstore.query.budget import PIECE_SAMPLES, PIECE_SERIES, SAMPLES_OF_A_CALL, Budget, Work
from mstore.query.gather import DTYPES, SLOTS_MAX, Replan, checked, refuse_too_large, slots_limit
from mstore.query.plan import NO_SAMPLES, NO_SERIES, Metric, Request
from mstore.query.retained import RetainedGatherer
from mstore.shm import layout

_LARGE_SAMPLES = 4 * PIECE_SAMPLES
"""A group of more is not gathered in one call."""


@dataclass(slots=True)
class Group:
    """Series that become one: by themselves if it is one, else by the metric's aggregation."""

    request: Request
    """Range, missing rule, and the path the answer is labelled with."""
    metric: Metric
    refs: NDArray[np.uint64]
    why: str = ""
    """Why there is none, when refs is empty."""
    path: tuple[str, ...] | None = None
    """Cluster, host, type, id, subtype and id that label the answer, where they are not those of the request."""


Gathered = Series | NotAggregatable


def gathering(
    gatherer: RetainedGatherer, groups: Sequence[Group], budget: Budget
) -> Work[list[Gathered | None]]:
    """The samples of each group over its own range, in the order of the groups, at native step.

    None for a group whose series changed meanwhile: plan that one again. raises LimitExceeded for the whole
    """
    found: list[Gathered | None] = [None] * len(groups)
    piece: list[int] = []
    n_samples = n_alone = 0
    for index, group in enumerate(groups):
        n = _spend(group, budget)
        try:
            one = _without_kernel(gatherer, group)
            if one is None and n > _LARGE_SAMPLES:
                one = yield from _in_parts(gatherer, group)
        except Replan:
            continue
        if one is not None:
            found[index] = one
            n_alone += SAMPLES_OF_A_CALL
            if n_alone >= PIECE_SAMPLES:
                n_alone = 0
                yield
            continue
        piece.append(index)
        n_samples += n
        if n_samples >= PIECE_SAMPLES or len(piece) == PIECE_SERIES:
            _fill(gatherer, groups, piece, found)
            piece, n_samples = [], 0
            yield
    if piece:
        _fill(gatherer, groups, piece, found)
    return found


def refuse_unless_aggregatable(name: str, kind: int, aggregation: int, n_series: int) -> None:
    """NotAggregatable for more than one series of a metric that does not say how to unite them."""
    if n_series <= 1:
        return
    if kind == layout.KIND_STAMPED:
        raise NotAggregatable(
            f"{name} is stamped: its {n_series} series share no time axis; ask for one of them", metric=name
        )
    if aggregation == layout.AGG_NONE:
        raise NotAggregatable(
            f"{name} has {n_series} series there and no aggregation: ask for one, or give it sum or avg",
            metric=name, n_series=n_series,
        )  # fmt: skip


def _spend(group: Group, budget: Budget) -> int:
    """Count what a group is going to take; about how many samples it reads."""
    metric, request, n_series = group.metric, group.request, len(group.refs)
    n_slots = -((request.start - request.end) // metric.step_s) if metric.step_s else 0
    width = 4 if metric.type == layout.TYPE_F32 and n_series <= 1 else 8
    n = n_slots * n_series
    budget.spend(series=n_series or 1, samples=n, n_bytes=n_slots * width)
    return n


def _without_kernel(gatherer: RetainedGatherer, group: Group) -> Gathered | None:
    """What is known without reading a grid: that there is nothing, or no aggregate; and the rows of stamped series."""
    request, metric, n_series = group.request, group.metric, len(group.refs)
    if not n_series:
        return labelled(alone.empty(request, metric, group.why or NO_SERIES), group)
    if n_series > 1:
        try:
            refuse_unless_aggregatable(request.metric, metric.kind, metric.aggregation, n_series)
        except NotAggregatable as error:
            return error
    if metric.kind == layout.KIND_STAMPED:
        return labelled(alone.stamped(gatherer, int(group.refs[0]), request, metric), group)
    return None


def labelled(series: Series, group: Group) -> Series:
    """The same series, with the path of its group."""
    series.metric = group.request.metric
    series.cluster, series.host, series.type, series.type_id, series.subtype, series.subtype_id = _path_of(
        group
    )
    return series


def _path_of(group: Group) -> tuple[str, ...]:
    """Cluster, host, type, id, subtype and id that a group names; "" for what it leaves open."""
    if group.path is not None:
        return group.path
    request = group.request
    ids = (request.type_ids, request.subtype_ids)
    type_id, subtype_id = (one if isinstance(one, str) else "" for one in ids)
    return request.cluster, request.host, request.type or "", type_id, request.subtype or "", subtype_id


def _fill(
    gatherer: RetainedGatherer, groups: Sequence[Group], piece: list[int], found: list[Gathered | None]
) -> None:
    """Gather the groups of a piece. When a series of one has changed, the others are gathered alone."""
    chosen = [groups[index] for index in piece]
    try:
        for index, series in zip(piece, _together(gatherer, chosen), strict=True):
            found[index] = series
    except Replan:
        if len(piece) > 1:
            for index in piece:
                _fill(gatherer, groups, [index], found)


def _together(gatherer: RetainedGatherer, groups: list[Group]) -> list[Series]:
    """One call of the kernel, and a Series for each group over a part of its arrays."""
    sizes = [len(group.refs) for group in groups]
    bounds = np.zeros(len(groups) + 1, np.int64)
    np.cumsum(sizes, out=bounds[1:])
    raw, counts, table = checked(
        gatherer.gather(
            np.concatenate([group.refs for group in groups]),
            bounds,
            np.array([group.request.start for group in groups], np.int64),
            np.array([group.request.end for group in groups], np.int64),
            np.array([_how(group) for group in groups], np.uint8),
            np.array([slots_limit(n) for n in sizes], np.int64),
        )
    )
    return [
        _series(group, n_series, raw, counts, row)
        for group, n_series, row in zip(groups, sizes, table.tolist(), strict=True)
    ]


def _how(group: Group) -> int:
    average = _gather_batch.AVERAGE if group.metric.aggregation == layout.AGG_AVG else 0
    return average | (_gather_batch.PROPAGATE if group.request.missing == "propagate" else 0)


def _series(
    group: Group, n_series: int, raw: NDArray[np.uint8], counts: NDArray[np.uint32], row: list[int]
) -> Series:
    kind, start, step, n, at, counts_at, n_present, _ = row
    dtype = DTYPES[kind]
    values, valid = without_missing(raw[at : at + n * dtype.itemsize].view(dtype))
    coverage = counts[counts_at : counts_at + n] if n_series > 1 else None
    return _made(group, values, start, step, valid, coverage, n_present)


def _made(
    group: Group,
    values: NDArray[np.generic],
    start: int,
    step: int,
    valid: NDArray[np.bool_] | None,
    coverage: NDArray[np.uint32] | None,
    n_present: int,
) -> Series:
    cluster, host, type_, type_id, subtype, subtype_id = _path_of(group)
    return Series(
        values, start, step, group.metric.unit, valid, coverage, None, "" if n_present else NO_SAMPLES,
        cluster, host, group.request.metric, type_, type_id, subtype, subtype_id,
        "" if coverage is None else layout.AGG_NAMES[group.metric.aggregation], len(group.refs),
    )  # fmt: skip


def _in_parts(gatherer: RetainedGatherer, group: Group) -> Work[Series | None]:
    """An aggregate of very many samples: the same sums in the same order, some slots of some series at a time.

    None for a group of one series: the kernel reads it at once, since nothing is added.
    """
    refs, request = group.refs, group.request
    if len(refs) == 1:
        return None
    step = phase = 0
    for at in range(0, len(refs), PIECE_SERIES):
        part = checked(gatherer.grid_of(refs[at : at + PIECE_SERIES], request.start, request.end))
        step, phase = max(step, part[0]), phase if at else part[1]
        yield
    first = -((phase - request.start) // step)
    n = max(-((phase - request.end) // step) - first, 0)
    if n > slots_limit(len(refs)):
        refuse_too_large(SLOTS_MAX + 1, 0)
    start = phase + first * step
    sums, counts = np.zeros(n), np.zeros(n, np.uint32)
    n_slots = max(layout.CHUNK_SLOTS, PIECE_SAMPLES // len(refs))
    n_refs = PIECE_SAMPLES // n_slots
    how = _how(group)
    for low in range(0, n, n_slots):
        part_sums, part_counts = sums[low : low + n_slots], counts[low : low + n_slots]
        for at in range(0, len(refs), n_refs):
            chosen = refs[at : at + n_refs]
            checked(gatherer.add(chosen, request.end, start + low * step, step, part_sums, part_counts))
            yield
        least = len(refs) if how & _gather_batch.PROPAGATE else 1
        kernel.finish(part_sums, part_counts, least, bool(how & _gather_batch.AVERAGE))
    return _made(group, sums, start, step, None, counts, int(np.count_nonzero(counts)))
