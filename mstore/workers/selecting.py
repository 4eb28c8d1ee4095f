"""Answers of a query worker to questions by selector, and to many questions in one message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from mstore import clock
from mstore.errors import LimitExceeded
from mstore.frames import Series
from mstore.ipc import messages as m
from mstore.query import by_selector
from mstore.query.budget import Budget, Work
from mstore.query.plan import Request
from mstore.query.reader import Reader
from mstore.selector import Selector
from mstore.stacked import stacked
from mstore.times import to_seconds

Answers: TypeAlias = dict[type[m.Message], Callable[[Any, Budget], Work[m.Message]]]

_ASKED_AT_ONCE = 512
"""Questions of one message that are planned and gathered together."""


def answers(reader: Reader, now_s: Callable[[], int]) -> Answers:
    """By message: the work that answers it."""
    asked = _Asked(reader, now_s)
    return {
        m.Select: asked.select,
        m.SelectLatest: asked.latest,
        m.SelectAbove: asked.above,
        m.SelectStats: asked.stats,
        m.SelectTop: asked.top,
        m.SelectSeries: asked.series,
        m.QueryMany: asked.many,
    }


def request_of(q: m.Query) -> Request:
    """raises InvalidTimeRange for what is outside the years 1 to 9999"""
    start, end = to_seconds(q.start, 0), to_seconds(q.end, 0)
    return Request(
        q.cluster, q.host, q.metric, start, end, q.type, q.type_ids, q.subtype, q.subtype_ids, q.aggregate,
        q.resolution, q.missing, q.algo, q.fill, q.max_gap, q.function, q.window, q.scale_by, q.archive,
    )  # fmt: skip


def selected_by(message: m.SelectSeries) -> tuple[Selector, Request]:
    """The selector, and what is asked of its levels. raises InvalidTimeRange, InvalidRequest"""
    request = Request(
        "", "", message.metric, to_seconds(message.start, 0), to_seconds(message.end, 0),
        aggregate=message.aggregate, resolution=message.resolution, missing=message.missing, algo=message.algo,
        fill=message.fill, max_gap=message.max_gap, function=message.function, window=message.window,
        scale_by=message.scale_by,
    )  # fmt: skip
    return Selector.parse(message.selector), request


class _Asked:
    def __init__(self, reader: Reader, now_s: Callable[[], int]) -> None:
        self._reader = reader
        self._gatherer = reader.gatherer
        self._now_s = now_s

    def select(self, message: m.Select, budget: Budget) -> Work[m.Message]:
        selector = Selector.parse(message.selector)
        paths = yield from by_selector.levels(self._gatherer, selector, message.metric, budget)
        return m.Levels(paths.encoded())

    def latest(self, message: m.SelectLatest, budget: Budget) -> Work[m.Message]:
        selector = Selector.parse(message.selector)
        oldest_s = None if message.max_age_s is None else self._now_s() - message.max_age_s
        tables = []
        for metric in message.metrics:
            table = yield from by_selector.latest(
                self._gatherer, selector, metric, message.per, oldest_s, budget
            )
            tables.append(table.to_wire())
        return m.Tables(tables)

    def above(self, message: m.SelectAbove, budget: Budget) -> Work[m.Message]:
        table = yield from by_selector.above(
            self._gatherer, Selector.parse(message.selector), message.metric,
            by_selector.beyond(message.value, message.below), message.for_s,
            self._now_s() if message.at is None else to_seconds(message.at, 0), budget,
        )  # fmt: skip
        return m.Tables([table.to_wire()])

    def stats(self, message: m.SelectStats, budget: Budget) -> Work[m.Message]:
        table = yield from self._reader.stats_work(
            Selector.parse(message.selector), message.metric, to_seconds(message.start, 0), to_seconds(message.end, 0),
            message.percentiles, message.per, budget,
        )  # fmt: skip
        return m.Tables([table.to_wire()])

    def top(self, message: m.SelectTop, budget: Budget) -> Work[m.Message]:
        table = yield from self._reader.top_work(
            Selector.parse(message.selector), message.metric, to_seconds(message.start, 0), to_seconds(message.end, 0),
            message.k, message.by, message.largest, message.per, budget,
        )  # fmt: skip
        return m.Tables([table.to_wire()])

    def series(self, message: m.SelectSeries, budget: Budget) -> Work[m.Message]:
        return stack_of([(yield from self._reader.series_work(*selected_by(message), budget))])

    def many(self, message: m.QueryMany, budget: Budget) -> Work[m.Message]:
        """The first of the questions that find room in one answer and half the time there is: at least one."""
        until_s = budget.half_time_s()
        found: list[Series | list[Series]] = []
        n = _ASKED_AT_ONCE
        while len(found) < len(message.questions) and (not found or clock.monotonic_s() < until_s):
            part = message.questions[len(found) : len(found) + n]
            requests = [request_of(m.of_fields(m.Query, fields)) for fields in part]
            spent = budget.spent()
            try:
                found += yield from self._reader.answering(requests, budget)
            except LimitExceeded:
                if n == 1 and not found:
                    raise
                if n == 1:
                    break
                budget.spend_again_from(spent)
                n = 1
        return stack_of(found)


def stack_of(found: Sequence[Series | list[Series]]) -> m.Stacked:
    """Answers as one message."""
    counts = np.array([len(one) if isinstance(one, list) else -1 for one in found], np.int64)
    series = [one for answer in found for one in (answer if isinstance(answer, list) else (answer,))]
    return m.Stacked(counts.tobytes(), *stacked(series))
