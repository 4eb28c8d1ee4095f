"""Answers to questions for samples, by any Reader: a query worker's over memory, a helper's over memory and archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, TypeAlias

from mstore.archive.questions import reach_of, selected_clusters
from mstore.archive.switch import Switch
from mstore.ipc import messages as m
from mstore.query.budget import Budget, Work
from mstore.query.reader import Reader
from mstore.selector import Selector
from mstore.workers import selecting

Answer: TypeAlias = Callable[[Any, Budget], m.Message | Work[m.Message]]
"""At once, or by work in pieces. What is read and answered is spent from the budget."""


def answers(reader: Reader, now_s: Callable[[], int]) -> dict[type[m.Message], Answer]:
    """By message: what answers it."""
    asked = _Asked(reader)
    return {
        m.Query: asked.query,
        m.Fetch: asked.fetch,
        m.Load: asked.load,
        **selecting.answers(reader, now_s),
    }


class _Asked:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def query(self, q: m.Query, budget: Budget) -> m.Message | Work[m.Message]:
        if _beside_path(q) == _AS_STORED:
            found = self._reader.single(q.cluster, q.host, q.metric, q.start, q.end, q.type, q.type_ids)
            if found is not None:
                budget.spend(series=1, samples=len(found.values), n_bytes=found.values.nbytes)
                return m.Answer(False, [found.to_wire()])
        return self._planned(q, budget)

    def _planned(self, q: m.Query, budget: Budget) -> Work[m.Message]:
        (found,) = yield from self._reader.answering([selecting.request_of(q)], budget)
        many = isinstance(found, list)
        return m.Answer(many, [one.to_wire() for one in (found if isinstance(found, list) else [found])])

    def fetch(self, message: m.Fetch, budget: Budget) -> Work[m.Message]:
        return m.FetchAnswer.of((yield from self._reader.fetch_work(message.request(), budget)))

    def load(self, message: m.Load, budget: Budget) -> Work[m.Message]:
        return m.LoadAnswer.of((yield from self._reader.load_work(message.request(), budget)))


# What a question says that may ask for one series as it is stored: nothing but cluster, host, metric, range, one id.
_beside_path = attrgetter(
    "subtype", "subtype_ids", "aggregate", "resolution", "algo", "function", "window", "missing", "scale_by", "fill",
    "max_gap",
)  # fmt: skip
_AS_STORED = _beside_path(m.Query("", "", "", 0, 0))


# --- which questions reach into the past

Reach: TypeAlias = tuple[str, int, int]
"""Cluster, seconds [start, end)."""


def reaches(reader: Reader, switch: Switch, message: m.Message) -> Iterator[Reach]:
    """What a question looks at; nothing for those that are of memory alone.

    raises  what the question itself is refused for
    """
    if isinstance(message, m.Query):
        yield from _of_query(reader, message)
    elif isinstance(message, m.QueryMany):
        for fields in message.questions:
            yield from _of_query(reader, m.of_fields(m.Query, fields))
    elif isinstance(message, m.Load) or (isinstance(message, m.Fetch) and message.archive):
        yield message.cluster, message.start, message.end
    elif isinstance(message, m.SelectStats | m.SelectTop):
        for cluster in selected_clusters(reader, switch, Selector.parse(message.selector)):
            yield cluster, message.start, message.end
    elif isinstance(message, m.SelectSeries):
        selector, request = selecting.selected_by(message)
        _, start, end = reach_of(reader, request)
        for cluster in selected_clusters(reader, switch, selector):
            yield cluster, start, end


def _of_query(reader: Reader, q: m.Query) -> Iterator[Reach]:
    if q.function and q.archive:
        yield reach_of(reader, selecting.request_of(q))
    elif q.archive:
        yield q.cluster, q.start, q.end
