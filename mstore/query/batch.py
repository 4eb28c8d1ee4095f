"""Many selections of one request gathered together: one Series each, or the error that belongs to it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mstore.errors import NotAggregatable
from mstore.frames import Series
from mstore.kernels._gather import Gatherer
from mstore.query.answer import gathered as gathered_one
from mstore.query.plan import NO_SERIES, Metric, Request


@dataclass(slots=True)
class Group:
    """Series that become one: by themselves if it is one, else by the metric's aggregation."""

    request: Request
    """Range, missing rule, and the path the answer is labelled with."""
    metric: Metric
    refs: NDArray[np.uint64]
    why: str = ""
    """Why there is none, when refs is empty."""


def gathered(gatherer: Gatherer, groups: Sequence[Group]) -> list[Series | NotAggregatable]:
    """The samples of each group over its own range, in the order of the groups, at native step.

    raises LimitExceeded for the whole, Replan when the store changed meanwhile
    """
    found: list[Series | NotAggregatable] = []
    for group in groups:
        try:
            found.append(
                gathered_one(gatherer, group.request, group.metric, group.why or NO_SERIES, group.refs)
            )
        except NotAggregatable as error:
            found.append(error)
    return found
