"""Tables of series, a line each: figures, and the series' course in the room that is left; several courses as one band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mstore.cli import common, render

if TYPE_CHECKING:
    from mstore.frames import Series

Floats: TypeAlias = NDArray[np.float64]

COLUMNS_MIN, COLUMNS_MAX = 8, 40
"""Of a course: with less room there is none."""
STRETCHES_TOLD = 3
"""Of one series, of those that lack some of what they should be made of."""


def summary(flat: Sequence[tuple[str, Series]], columns: int | None = None) -> list[str]:
    """One line a series: how many samples, smallest, mean, largest, last, and its course."""
    rows = []
    for name, series in flat:
        stats = series.stats
        told = [render.number(None)] * 4
        if stats.count:
            told = [render.number(float(one), 5) for one in (stats.min, stats.avg, stats.max, stats.last)]
        rows.append([name, f"{stats.count:,}", *told])
    heads = ("series", "samples", "min", "mean", "max", "last")
    return with_courses(heads, rows, [drawn(series) for _, series in flat], "<>>>>>", columns)


def with_courses(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    courses: Sequence[Floats],
    align: str,
    columns: int | None = None,
) -> list[str]:
    """A table whose last column is a sparkline for each row; without it where the terminal has no room or no Unicode.

    courses  float64[n] each, NaN = missing
    columns  of the terminal; None: as wide as it is
    """
    from mstore.display import sparkline

    plain = render.table(heads, rows, align, colour=False)
    room = (columns or common.width()) - max(map(render.columns_of, plain)) - 2
    if room < COLUMNS_MIN or not common.unicode_ok():
        return render.table(heads, rows, align)
    drawn_rows = [
        [*row, sparkline(course, ~np.isnan(course), min(room, COLUMNS_MAX))]
        for row, course in zip(rows, courses, strict=True)
    ]
    return render.table((*heads, ""), drawn_rows, align)


def lacking(flat: Sequence[tuple[str, Series]], utc: bool) -> list[str]:
    """For below a plot or a table: where aggregates lack some of their series, in words, a line each of those that do."""
    return [line for name, series in flat if (line := _lacking(name, series, utc))]


def _lacking(name: str, series: Series, utc: bool) -> str:
    found = stretches(series)
    if not found:
        return ""
    layout = "%H:%M" if series.end - series.start < 86_400 else "%d %b %H:%M"
    told = [
        f"{render.clock(first, utc, layout)} to {render.clock(stop, utc, layout)}"
        for first, stop in found[:STRETCHES_TOLD]
    ]
    if len(found) > STRETCHES_TOLD:
        told.append(f"... ({len(found)} stretches in all)")
    n = int(np.count_nonzero(series.partial))
    of = f"{n:,} of {render.count(len(series), 'slot')}"
    return f"incomplete: {name}: not all of its {series.n_series} series in {of}: {', '.join(told)}"


def stretches(series: Series) -> list[tuple[int, int]]:
    """[start, end) in Unix seconds of each run of slots that not all series of an aggregate contributed to."""
    step = series.step or 1
    edges = np.flatnonzero(np.diff(np.concatenate([[False], series.partial, [False]]).astype(np.int8)))
    times = series.times
    return [
        (int(times[first]), int(times[stop - 1]) + step)
        for first, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ]


def drawn(series: Series) -> Floats:
    """A series' values to be drawn: float64[n], NaN = missing."""
    return np.where(series.valid, series.values.astype(np.float64), np.nan)


def band(found: Sequence[Series]) -> tuple[Floats, Floats, Floats, Floats]:
    """(times in Unix seconds, smallest, mean, largest) of several series at each time that any of them has.

    Four float64[n]; NaN where none of them has a sample
    """
    times = np.unique(np.concatenate([series.times_ms for series in found]))
    low, high = np.full(len(times), np.nan), np.full(len(times), np.nan)
    total, n = np.zeros(len(times)), np.zeros(len(times))
    for series in found:
        at, values = np.searchsorted(times, series.times_ms[series.valid]), drawn(series)[series.valid]
        low[at], high[at] = np.fmin(low[at], values), np.fmax(high[at], values)
        with np.errstate(over="ignore", invalid="ignore"):  # sums beyond float64, and of both infinities
            total[at] += values
        n[at] += 1
    mean = np.divide(total, n, out=np.full(len(times), np.nan), where=n > 0)
    return times / 1000, low, mean, high
