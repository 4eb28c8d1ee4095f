"""Many series looked through in pieces: figures, newest samples and runs of each; grid and stamped ones alike.

Grid series go to the kernel, a piece at a time. Rows of stamped series are few: each series is read and worked out here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.errors import InvalidRequest
from mstore.kernels import _gather
from mstore.query.budget import PIECE_SAMPLES, PIECE_SERIES, Budget, Work
from mstore.query.gather import Replan, checked, stamped_rows
from mstore.query.plan import Metric
from mstore.query.retained import RetainedGatherer
from mstore.shm import layout

NO_TIME = -(2**63)
"""As the kernel says that there is no sample."""

_SLOTS_EXPECTED = 10_000
"""Of a series in a long range, of which most is not there as a rule: a piece has so many series less."""

Refs = NDArray[np.uint64]


@dataclass(slots=True)
class Scanned:
    """What the samples of each series come to; all arrays have a row for each."""

    counts: NDArray[np.uint64]
    sums: NDArray[np.float64]
    values: NDArray[Any]
    """[m, 4]: smallest, largest, first, last; float64, or uint64 where every series holds u64."""
    times_ms: NDArray[np.int64]
    """[m, 2]: of first and last."""


@dataclass(slots=True)
class Newest:
    """The newest sample of each series, and of a run up to it."""

    values: NDArray[Any]
    """float64[m], or uint64[m] where every series holds u64."""
    times_ms: NDArray[np.int64]
    """NO_TIME: no sample."""
    since_ms: NDArray[np.int64]
    """NO_TIME: the newest sample is not beyond the level."""
    peaks: NDArray[np.float64]


@dataclass(slots=True)
class Beyond:
    """What runs are looked for."""

    level: float
    below: bool
    gap_s: int
    """A longer time without a sample ends a run."""


def scanning(
    gatherer: RetainedGatherer, metric: Metric, refs: Refs, start: int, end: int, budget: Budget
) -> Work[Scanned]:
    """What the samples of [start, end) of each series come to. raises Replan, LimitExceeded"""
    refuse_several_columns(metric)
    found: list[Scanned] = []
    for part in _pieces(metric, refs, start, end):
        if metric.kind == layout.KIND_STAMPED:
            one = _rows_scanned(gatherer, metric, part, start, end)
        else:
            counts, sums, words, times, whole = checked(gatherer.scan(part, start, end))
            one = Scanned(counts, sums, _values(words, whole), times * np.int64(1000))
        budget.spend(samples=int(one.counts.sum()))
        found.append(one)
        yield
    return Scanned(
        np.concatenate([one.counts for one in found] or [np.zeros(0, np.uint64)]),
        np.concatenate([one.sums for one in found] or [np.zeros(0)]),
        _joined([one.values for one in found] or [np.zeros((0, 4))]),
        np.concatenate([one.times_ms for one in found] or [np.zeros((0, 2), np.int64)]),
    )


def newest(
    gatherer: RetainedGatherer,
    metric: Metric,
    refs: Refs,
    start: int,
    end: int,
    budget: Budget,
    beyond: Beyond | None = None,
) -> Work[Newest]:
    """The newest sample of [start, end) of each series, and the run beyond a level that it ends. raises Replan"""
    refuse_several_columns(metric)
    found: list[Newest] = []
    for part in _pieces(metric, refs, start, end if beyond else start):
        budget.spend(samples=len(part))
        if metric.kind == layout.KIND_STAMPED:
            one = _rows_newest(gatherer, metric, part, start, end, beyond)
        elif beyond is None:
            words, times, whole = checked(gatherer.newest(part, start, end))
            one = Newest(_values(words, whole), _in_ms(times), np.zeros(0, np.int64), np.zeros(0))
        else:
            words, times, whole, since, peaks = checked(
                gatherer.runs(part, start, end, beyond.level, beyond.below, beyond.gap_s)
            )
            one = Newest(_values(words, whole), _in_ms(times), _in_ms(since), peaks)
        found.append(one)
        yield
    none = np.zeros(0, np.int64)
    return Newest(
        _joined([one.values for one in found] or [np.zeros(0)]),
        np.concatenate([one.times_ms for one in found] or [none]),
        np.concatenate([one.since_ms for one in found] or [none]),
        np.concatenate([one.peaks for one in found] or [np.zeros(0)]),
    )


def samples(
    gatherer: RetainedGatherer, metric: Metric, refs: Refs, start: int, end: int, n: int
) -> NDArray[np.float64]:
    """The samples of some series in [start, end), about n of them, in no order, as float64. raises Replan"""
    if metric.kind == layout.KIND_STAMPED:
        parts = [_rows(gatherer, metric, ref, start, end)[1].astype(np.float64) for ref in refs.tolist()]
        return np.concatenate(parts or [np.zeros(0)])
    words = np.empty(n + n // 16 + 1024, np.uint64)  # more samples may have come meanwhile
    found = gatherer.sample_words(refs, start, end, words)
    if found == _gather.LIMIT:
        raise Replan
    (count,) = checked(found)
    return words[:count].view(np.float64)


def refuse_several_columns(metric: Metric) -> None:
    """InvalidRequest for rows of several columns, which are no single value."""
    if len(metric.columns) > 1:
        names = ", ".join(name for name, _ in metric.columns)
        raise InvalidRequest(f"rows with several columns ({names}) are no single value: use query()")


def _pieces(metric: Metric, refs: Refs, start: int, end: int) -> Iterator[Refs]:
    n_slots = max(end - start, 0) // (metric.step_s or 1)
    n = max(PIECE_SAMPLES // max(min(n_slots, _SLOTS_EXPECTED), 1), 64)
    n = min(n, 64 if metric.kind == layout.KIND_STAMPED else PIECE_SERIES)
    return (refs[at : at + n] for at in range(0, len(refs), n))


def _values(words: NDArray[np.uint64], whole: NDArray[np.uint8]) -> NDArray[Any]:
    """Words as float64, or as they are where all are u64; where only some are, these lose what a float cannot hold."""
    if len(whole) and whole.all():
        return words
    if not whole.any():
        return words.view(np.float64)
    counters = whole.astype(np.bool_)
    mixed = words.view(np.float64).copy()
    mixed[counters] = words[counters].astype(np.float64)
    return mixed


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    if all(part.dtype == np.uint64 for part in parts):
        return np.concatenate(parts)
    return np.concatenate([part.astype(np.float64) for part in parts])


def _in_ms(times: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(times == NO_TIME, NO_TIME, times * np.int64(1000))


# --- stamped series


def _rows(
    gatherer: RetainedGatherer, metric: Metric, ref: int, start: int, end: int
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """(stamps in ms, values uint64 or float64) of the rows that have a value."""
    stamps, words, value_type = stamped_rows(gatherer, ref, start, end)
    values: NDArray[Any] = words[:, 0]
    if value_type == layout.TYPE_U64:
        present = values != layout.U64_MISSING
    else:
        values = values.view(np.float64)
        present = ~np.isnan(values)
    return stamps[present], values[present]


def _rows_scanned(gatherer: RetainedGatherer, metric: Metric, refs: Refs, start: int, end: int) -> Scanned:
    dtype = np.uint64 if metric.type == layout.TYPE_U64 else np.float64
    m = len(refs)
    found = Scanned(np.zeros(m, np.uint64), np.zeros(m), np.zeros((m, 4), dtype), np.zeros((m, 2), np.int64))
    for i, ref in enumerate(refs.tolist()):
        stamps, values = _rows(gatherer, metric, ref, start, end)
        if len(values):
            found.counts[i] = len(values)
            found.sums[i] = np.add.reduce(values, dtype=np.float64)
            found.values[i] = values.min(), values.max(), values[0], values[-1]
            found.times_ms[i] = stamps[0], stamps[-1]
    return found


def _rows_newest(
    gatherer: RetainedGatherer, metric: Metric, refs: Refs, start: int, end: int, beyond: Beyond | None
) -> Newest:
    dtype = np.uint64 if metric.type == layout.TYPE_U64 else np.float64
    m = len(refs)
    since, peaks = np.full(m if beyond else 0, NO_TIME), np.zeros(m if beyond else 0)
    found = Newest(np.zeros(m, dtype), np.full(m, NO_TIME), since, peaks)
    for i, ref in enumerate(refs.tolist()):
        stamps, values = _rows(gatherer, metric, ref, start, end)
        if not len(values):
            continue
        found.values[i], found.times_ms[i] = values[-1], stamps[-1]
        if beyond is not None:
            first = _run_start(stamps, values, beyond)
            if first < len(values):
                found.since_ms[i] = stamps[first]
                run = values[first:].astype(np.float64)
                found.peaks[i] = run.min() if beyond.below else run.max()
    return found


def _run_start(stamps: NDArray[np.int64], values: NDArray[Any], beyond: Beyond) -> int:
    """Where the run begins that ends with the last row; len(values): the last row is not beyond the level."""
    after = np.flatnonzero(~_are_beyond(values, beyond))
    first = int(after[-1]) + 1 if len(after) else 0
    gaps = np.flatnonzero(np.diff(stamps[first:]) > beyond.gap_s * 1000)
    return first + int(gaps[-1]) + 1 if len(gaps) else first


def _are_beyond(values: NDArray[Any], beyond: Beyond) -> NDArray[np.bool_]:
    """Compared exactly, as the kernel does it: a float has no place for what counters above 2^53 differ by."""
    level: Any = beyond.level
    if values.dtype == np.uint64:
        if not 0.0 <= level < 2.0**64:
            return np.full(len(values), (level < 0.0) is not beyond.below)
        # Whole numbers are below a level when they are below the next whole one.
        level = np.uint64(math.ceil(level) if beyond.below else math.floor(level))
    found: NDArray[np.bool_] = values < level if beyond.below else values > level
    return found
