"""Questions by selector: what is asked and read, as steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from mstore import choices, clock
from mstore.client.answers import deadline_ms
from mstore.client.questions import Question, answers_of
from mstore.errors import ProtocolError
from mstore.ipc import messages
from mstore.ipc.transport import Steps
from mstore.times import DurationLike, TimeLike, to_duration_s, to_seconds

if TYPE_CHECKING:
    from mstore.frames import Series
    from mstore.selector import SelectorLike
    from mstore.tables import Paths, Table

M = TypeVar("M", bound=messages.Message)
T = TypeVar("T", bound="Table")


class SelectorOperations:
    """Of Operations."""

    def _ask(
        self, message: messages.Message, kind: type[M], timeout_s: float | None = None, role: str = "query"
    ) -> Steps[M]:
        raise NotImplementedError

    def select(self, selector: SelectorLike, metric: str | None, timeout_s: float | None) -> Steps[Paths]:
        from mstore.tables import Paths

        message = messages.Select(selector_text(selector), metric, deadline_ms(timeout_s))
        reply = yield from self._ask(message, messages.Levels, timeout_s)
        try:
            return Paths(bytes(reply.paths).decode())
        except UnicodeDecodeError as error:
            raise ProtocolError(f"an answer that is no paths: {error}") from error

    def tables(
        self, message: messages.Message, kind: type[T], n: int, timeout_s: float | None
    ) -> Steps[list[T]]:
        """The n tables that answer a message."""
        from mstore.tables import from_wire

        reply = yield from self._ask(message, messages.Tables, timeout_s)
        found = [from_wire(entry) for entry in reply.tables]
        tables = [table for table in found if isinstance(table, kind)]
        if not len(tables) == len(found) == n:
            raise ProtocolError(f"{type(message).__name__} was answered by {len(found)} tables")
        return tables

    def samples_of(
        self, message: messages.SelectSeries, timeout_s: float | None
    ) -> Steps[list[Series] | Series]:
        reply = yield from self._ask(message, messages.Stacked, timeout_s)
        (found,) = answers_of(reply)
        return found


def latest(
    selector: SelectorLike,
    metrics: Sequence[str],
    per: str,
    max_age: DurationLike | None,
    timeout_s: float | None,
) -> messages.SelectLatest:
    age_s = None if max_age is None else to_duration_s(max_age)
    return messages.SelectLatest(selector_text(selector), list(metrics), per, age_s, deadline_ms(timeout_s))


def above(
    selector: SelectorLike,
    metric: str,
    value: float,
    for_: DurationLike,
    below: bool,
    at: TimeLike,
    timeout_s: float | None,
) -> messages.SelectAbove:
    at_s = None if at == "now" else to_seconds(at, clock.now_s())
    return messages.SelectAbove(
        selector_text(selector),
        metric,
        choices.finite("value", value),
        to_duration_s(for_),
        bool(below),
        at_s,
        deadline_ms(timeout_s),
    )


def stats(
    selector: SelectorLike,
    metric: str,
    start: TimeLike,
    end: TimeLike,
    percentiles: Sequence[float],
    per: str,
    timeout_s: float | None,
) -> messages.SelectStats:
    now_s = clock.now_s()
    return messages.SelectStats(
        selector_text(selector), metric, to_seconds(start, now_s), to_seconds(end, now_s),
        choices.percentiles(percentiles), per, deadline_ms(timeout_s),
    )  # fmt: skip


def top(
    selector: SelectorLike,
    metric: str,
    start: TimeLike,
    end: TimeLike,
    k: int,
    by: str,
    largest: bool,
    per: str,
    timeout_s: float | None,
) -> messages.SelectTop:
    now_s = clock.now_s()
    return messages.SelectTop(
        selector_text(selector), metric, to_seconds(start, now_s), to_seconds(end, now_s), choices.ranks(k), by,
        bool(largest), per, deadline_ms(timeout_s),
    )  # fmt: skip


def series(selector: SelectorLike, question: Question, timeout_s: float | None) -> messages.SelectSeries:
    """question: without a path. raises InvalidStep, InvalidTimeRange, InvalidRequest"""
    q = question.message(clock.now_s(), None)
    return messages.SelectSeries(
        selector_text(selector), q.metric, q.start, q.end, q.aggregate, q.resolution, q.algo, q.function, q.window,
        q.missing, q.scale_by, q.fill, q.max_gap, deadline_ms(timeout_s),
    )  # fmt: skip


def selector_text(selector: SelectorLike) -> str:
    """What a message says of a selector. raises InvalidRequest, EmptyCluster"""
    from mstore.selector import Selector  # most clients name their series

    return str(Selector.parse(selector))
