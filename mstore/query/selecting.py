"""Questions by selector, as a program in this process asks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from mstore.frames import Series
from mstore.query import by_selector
from mstore.query.budget import Budget, Work, finished
from mstore.query.plan import Request
from mstore.query.retained import RetainedGatherer
from mstore.selector import Selector, SelectorLike
from mstore.tables import Above, Latest, Paths, Stats, Top
from mstore.times import DurationLike, TimeLike, to_duration_s, to_seconds


class SelectorQuestions:
    """Of a Reader: what a selector means, and what the series at or below its levels hold.

    Everywhere: a level that does not hold the metric itself stands for all series below it. What a selector names and is
    not there is a row that says so; below a `*` only what is there is a row.

    raises UnknownSelector for a cluster that is not there, EmptyCluster, UnknownMetric, InvalidRequest, LimitExceeded
    """

    gatherer: RetainedGatherer
    _now_s: Callable[[], int]

    def select(self, selector: SelectorLike, metric: str | None = None) -> Paths:
        """The levels that are there, in the order that they are named, in natural order where they are not.

        selector  "fritz/f02[01-64]/hwthread*", or ["fritz", ["f0201", "f0202"], "*"]
        metric    only levels that hold it, or have it below
        """
        return finished(by_selector.levels(self.gatherer, Selector.parse(selector), metric, Budget()))

    @overload
    def latest(
        self, selector: SelectorLike, metric: str, *, per: str = ..., max_age: DurationLike | None = ...
    ) -> Latest: ...
    @overload
    def latest(
        self,
        selector: SelectorLike,
        metric: list[str] | tuple[str, ...],
        *,
        per: str = ...,
        max_age: DurationLike | None = ...,
    ) -> list[Latest]: ...
    def latest(
        self,
        selector: SelectorLike,
        metric: str | list[str] | tuple[str, ...],
        *,
        per: str = "level",
        max_age: DurationLike | None = None,
    ) -> Latest | list[Latest]:
        """The newest values: one table, or a list of them for several metrics.

        per      "level": a row for each level, several series as their sum or mean; "series": a row for each series
        max_age  seconds, or text such as "5m": a value that is older does not count
        raises   NotAggregatable for several series at a level of a metric without an aggregation
        """
        oldest_s = None if max_age is None else self._now_s() - to_duration_s(max_age)
        chosen, names = Selector.parse(selector), [metric] if isinstance(metric, str) else list(metric)
        found = [
            finished(by_selector.latest(self.gatherer, chosen, name, per, oldest_s, Budget()))
            for name in names
        ]
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
    ) -> Above:
        """The series that have been above a value, or below it, for some time: up to the newest sample, and still.

        value  every sample of that time is larger (smaller). Missing ones do not matter unless more than 5 in a row are
        for_   seconds, or text such as "5m": a sample counts for one step
        at     samples before this time are looked at; a series whose last one is more than 5 steps older is not a row
        """
        beyond = by_selector.beyond(value, below)
        at_s = to_seconds(at, self._now_s())
        return finished(
            by_selector.above(
                self.gatherer, Selector.parse(selector), metric, beyond, to_duration_s(for_), at_s, Budget()
            )
        )

    def stats(
        self,
        selector: SelectorLike,
        metric: str,
        start: TimeLike,
        end: TimeLike,
        percentiles: Sequence[float] = (),
        *,
        per: str = "level",
    ) -> Stats:
        """Figures over the raw samples of [start, end) of all series at or below each level, in one pass.

        percentiles  from 0 to 100; they have the samples sorted, which takes longer than all the rest
        per          "level" or "series": what a row is
        raises       InvalidTimeRange
        """
        now_s = self._now_s()
        return finished(
            self.stats_work(
                Selector.parse(selector), metric, to_seconds(start, now_s), to_seconds(end, now_s), percentiles, per,
                Budget(),
            )
        )  # fmt: skip

    def stats_work(
        self, selector: Selector, metric: str, start: int, end: int, percentiles: Sequence[float], per: str,
        budget: Budget,
    ) -> Work[Stats]:  # fmt: skip
        """stats() in pieces."""
        return by_selector.stats(self.gatherer, selector, metric, start, end, percentiles, per, budget)

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
    ) -> Top:
        """The k levels (or series) with the largest, or smallest, figure over the raw samples of [start, end).

        by  avg, max, min, sum, last, first, count, or a percentile such as p95; rows without a sample do not take part
        """
        now_s = self._now_s()
        return finished(
            self.top_work(
                Selector.parse(selector), metric, to_seconds(start, now_s), to_seconds(end, now_s), k, by, largest,
                per, Budget(),
            )
        )  # fmt: skip

    def top_work(
        self, selector: Selector, metric: str, start: int, end: int, k: int, by: str, largest: bool, per: str,
        budget: Budget,
    ) -> Work[Top]:  # fmt: skip
        """top() in pieces."""
        return by_selector.top(self.gatherer, selector, metric, start, end, k, by, largest, per, budget)

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
    ) -> list[Series] | Series:
        """The samples of [start, end) of each level, one Series each, or one of all together.

        aggregate   everything selected becomes one Series, by the metric's sum or avg
        resolution  seconds, a multiple of the step; 0 = as stored
        and the rest  as Reader.query
        raises      InvalidTimeRange, NotAggregatable, InvalidStep
        """
        now_s = self._now_s()
        request = Request(
            "", "", metric, to_seconds(start, now_s), to_seconds(end, now_s), aggregate=aggregate, resolution=resolution,
            missing=missing, algo=algo, fill=fill, max_gap=max_gap, function=function, window=window, scale_by=scale_by,
        )  # fmt: skip
        return finished(self.series_work(Selector.parse(selector), request, Budget()))

    def series_work(
        self, selector: Selector, request: Request, budget: Budget
    ) -> Work[list[Series] | Series]:
        """series() in pieces; of the request the path is not used."""
        return by_selector.series(self.gatherer, selector, request, budget)
