"""Series.stats in the store, where a kernel scans: the same numbers, in a tenth of the time."""

from __future__ import annotations

from mstore.frames import Series, with_missing
from mstore.kernels.chosen import statistics as kernel
from mstore.statistics import Scan, Stats, statistics


def stats_of(series: Series) -> Stats:
    """The statistics of a series of one column, grid or stamped."""
    found = Scan(*kernel.scan(with_missing(series.values, series.valid)))
    return statistics(series.values, series.times_ms, found)
