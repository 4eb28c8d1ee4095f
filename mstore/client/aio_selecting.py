"""Questions by selector, awaited: as sync_selecting.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, overload

from mstore.client import selecting
from mstore.client.questions import Question
from mstore.ipc.transport import Steps

if TYPE_CHECKING:
    from mstore.client.operations import Operations
    from mstore.frames import Series
    from mstore.selector import SelectorLike
    from mstore.tables import Above, Latest, Paths, Stats, Top
    from mstore.times import DurationLike, TimeLike


T = TypeVar("T")


class AsyncSelectorCalls:
    """Of an AsyncClient."""

    _ops: Operations

    async def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError

    async def select(
        self, selector: SelectorLike, metric: str | None = None, *, timeout: float | None = None
    ) -> Paths:
        """As Client.select()."""
        return await self._run(self._ops.select(selector, metric, timeout))

    @overload
    async def latest(
        self,
        selector: SelectorLike,
        metric: str,
        *,
        per: str = ...,
        max_age: DurationLike | None = ...,
        timeout: float | None = ...,
    ) -> Latest: ...
    @overload
    async def latest(
        self,
        selector: SelectorLike,
        metric: list[str] | tuple[str, ...],
        *,
        per: str = ...,
        max_age: DurationLike | None = ...,
        timeout: float | None = ...,
    ) -> list[Latest]: ...
    async def latest(
        self,
        selector: SelectorLike,
        metric: str | list[str] | tuple[str, ...],
        *,
        per: str = "level",
        max_age: DurationLike | None = None,
        timeout: float | None = None,
    ) -> Latest | list[Latest]:
        """As Client.latest()."""
        from mstore.tables import Latest

        names = [metric] if isinstance(metric, str) else list(metric)
        message = selecting.latest(selector, names, per, max_age, timeout)
        found = await self._run(self._ops.tables(message, Latest, len(names), timeout))
        return found[0] if isinstance(metric, str) else found

    async def above(
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
        """As Client.above()."""
        from mstore.tables import Above

        message = selecting.above(selector, metric, value, for_, below, at, timeout)
        (found,) = await self._run(self._ops.tables(message, Above, 1, timeout))
        return found

    async def stats(
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
        """As Client.stats()."""
        from mstore.tables import Stats

        message = selecting.stats(selector, metric, start, end, percentiles, per, timeout)
        (found,) = await self._run(self._ops.tables(message, Stats, 1, timeout))
        return found

    async def top(
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
        """As Client.top()."""
        from mstore.tables import Top

        message = selecting.top(selector, metric, start, end, k, by, largest, per, timeout)
        (found,) = await self._run(self._ops.tables(message, Top, 1, timeout))
        return found

    async def series(
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
        """As Client.series()."""
        question = Question(
            "", "", metric, start, end, aggregate=aggregate, resolution=resolution, algo=algo, function=function,
            window=window, missing=missing, scale_by=scale_by, fill=fill, max_gap=max_gap,
        )  # fmt: skip
        return await self._run(self._ops.samples_of(selecting.series(selector, question, timeout), timeout))
