"""Questions by selector, as a blocking client calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from mstore.client import selecting
from mstore.client.questions import Question
from mstore.ipc.transport import run

if TYPE_CHECKING:
    from mstore.client.operations import Operations
    from mstore.frames import Series
    from mstore.selector import SelectorLike
    from mstore.tables import Above, Latest, Paths, Stats, Top
    from mstore.times import DurationLike, TimeLike


class SelectorCalls:
    """Of a Client: what a selector means, and what the series at or below its levels hold.

    Everywhere: a level that does not hold the metric itself stands for all series below it. What a selector names and is
    not there is a row that says so; below a `*` only what is there is a row.

    timeout  seconds that the store may take, instead of the client's own
    raises   UnknownSelector for a cluster that is not there, EmptyCluster, UnknownMetric, InvalidRequest, LimitExceeded
    """

    _ops: Operations

    def select(
        self, selector: SelectorLike, metric: str | None = None, *, timeout: float | None = None
    ) -> Paths:
        """The levels that are there, in the order that they are named, in natural order where they are not.

        selector  "fritz/f02[01-64]/hwthread*", or ["fritz", ["f0201", "f0202"], "*"]
        metric    only levels that hold it, or have it below
        """
        return run(self._ops.select(selector, metric, timeout))

    @overload
    def latest(
        self,
        selector: SelectorLike,
        metric: str,
        *,
        per: str = ...,
        max_age: DurationLike | None = ...,
        timeout: float | None = ...,
    ) -> Latest: ...
    @overload
    def latest(
        self,
        selector: SelectorLike,
        metric: list[str] | tuple[str, ...],
        *,
        per: str = ...,
        max_age: DurationLike | None = ...,
        timeout: float | None = ...,
    ) -> list[Latest]: ...
    def latest(
        self,
        selector: SelectorLike,
        metric: str | list[str] | tuple[str, ...],
        *,
        per: str = "level",
        max_age: DurationLike | None = None,
        timeout: float | None = None,
    ) -> Latest | list[Latest]:
        """The newest values: one table, or a list of them for several metrics.

        per      "level": a row for each level, several series as their sum or mean; "series": a row for each series
        max_age  seconds, or text such as "5m": a value that is older does not count
        raises   NotAggregatable for several series at a level of a metric without an aggregation
        """
        from mstore.tables import Latest

        names = [metric] if isinstance(metric, str) else list(metric)
        message = selecting.latest(selector, names, per, max_age, timeout)
        found = run(self._ops.tables(message, Latest, len(names), timeout))
        return found[0] if isinstance(metric, str) else found

    def above(
        self,
        selector: SelectorLike,
        metric: str,
        value: float,
        for_: DurationLike = "5m",
        below: bool = False,
        *,
        at: TimeLike = "now",
        timeout: float | None = None,
    ) -> Above:
        """The series that have been above a value, or below it, for some time: up to the newest sample, and still.

        value  every sample of that time is larger (smaller). Missing ones do not matter unless more than 5 in a row are
        for_   seconds, or text such as "5m": a sample counts for one step
        at     samples before this time are looked at; a series whose last one is more than 5 steps older is not a row
        """
        from mstore.tables import Above

        message = selecting.above(selector, metric, value, for_, below, at, timeout)
        (found,) = run(self._ops.tables(message, Above, 1, timeout))
        return found

    def stats(
        self,
        selector: SelectorLike,
        metric: str,
        start: TimeLike,
        end: TimeLike,
        percentiles: Sequence[float] = (),
        *,
        per: str = "level",
        timeout: float | None = None,
    ) -> Stats:
        """Figures over the raw samples of [start, end) of all series at or below each level, in one pass.

        percentiles  from 0 to 100; they have the samples sorted, which takes longer than all the rest
        per          "level" or "series": what a row is
        raises       InvalidTimeRange
        """
        from mstore.tables import Stats

        message = selecting.stats(selector, metric, start, end, percentiles, per, timeout)
        (found,) = run(self._ops.tables(message, Stats, 1, timeout))
        return found

    def top(
        self,
        selector: SelectorLike,
        metric: str,
        start: TimeLike,
        end: TimeLike,
        k: int = 10,
        by: str = "avg",
        largest: bool = True,
        *,
        per: str = "level",
        timeout: float | None = None,
    ) -> Top:
        """The k levels (or series) with the largest, or smallest, figure over the raw samples of [start, end).

        by  avg, max, min, sum, last, first, count, or a percentile such as p95; rows without a sample do not take part
        """
        from mstore.tables import Top

        message = selecting.top(selector, metric, start, end, k, by, largest, per, timeout)
        (found,) = run(self._ops.tables(message, Top, 1, timeout))
        return found

    def series(
        self,
        selector: SelectorLike,
        metric: str,
        start: TimeLike,
        end: TimeLike,
        aggregate: bool = False,
        resolution: int = 0,
        *,
        algo: str = "average",
        function: str = "",
        window: int = 0,
        missing: str = "skip",
        scale_by: float = 1.0,
        fill: str = "none",
        max_gap: int = 0,
        timeout: float | None = None,
    ) -> list[Series] | Series:
        """The samples of [start, end) of each level, one Series each, or one of all together.

        aggregate   everything selected becomes one Series, by the metric's sum or avg
        resolution  seconds, a multiple of the step; 0 = as stored
        and the rest  as query()
        raises      InvalidTimeRange, NotAggregatable, InvalidStep
        """
        question = Question(
            "", "", metric, start, end, aggregate=aggregate, resolution=resolution, algo=algo, function=function,
            window=window, missing=missing, scale_by=scale_by, fill=fill, max_gap=max_gap,
        )  # fmt: skip
        return run(self._ops.samples_of(selecting.series(selector, question, timeout), timeout))
