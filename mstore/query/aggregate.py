"""Several series become one: sums or means in float64, in the order of their slots, with coverage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mstore.errors import NotAggregatable
from mstore.kernels import _gather
from mstore.query.gather import checked, slots_limit
from mstore.shm import layout


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


def aggregate(
    gatherer: _gather.Gatherer,
    refs: NDArray[np.uint64],
    start: int,
    end: int,
    aggregation: int,
    *,
    propagate: bool,
) -> tuple[NDArray[np.float64], NDArray[np.uint32], int, int, int]:
    """(values float64[n], coverage uint32[n], start, step, slots with a sample) over [start, end).

    refs  in series order; the first gives the phase, the coarsest the step, each is taken by nearest slot
    A missing sample is skipped; with `propagate` it makes its slot missing.
    """
    average = aggregation == layout.AGG_AVG
    found = checked(gatherer.aggregate(refs, start, end, average, propagate, slots_limit(len(refs))))
    return found[:5]
