"""Questions for samples -> answers, of any Reader: a query worker's over memory, a helper's over memory and archive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from mstore.frames import Series
from mstore.ipc import messages as m
from mstore.query.budget import Budget, Work
from mstore.query.reader import Reader

Answer: TypeAlias = Callable[[Reader, Any, Budget], m.Message | Work[m.Message]]
"""At once, or by work in pieces. What is read and answered is spent from the budget."""


def query(reader: Reader, q: m.Query, budget: Budget) -> m.Message:
    found = reader.query(
        q.cluster, q.host, q.metric, q.start, q.end, type=q.type, type_ids=q.type_ids, subtype=q.subtype,
        subtype_ids=q.subtype_ids, aggregate=q.aggregate, resolution=q.resolution,
    )  # fmt: skip
    many = isinstance(found, list)
    series: list[Series] = found if isinstance(found, list) else [found]
    budget.spend(
        series=len(series),
        samples=sum(map(len, series)),
        n_bytes=sum(one.values.nbytes for one in series),
    )
    return m.Answer(many, [one.to_wire() for one in series])


QUESTIONS: dict[type[m.Message], Answer] = {m.Query: query}
"""Those that reach into the past."""

Span: TypeAlias = Callable[[Any], tuple[str, int, int]]
SPANS: dict[type[m.Message], Span] = {m.Query: lambda q: (q.cluster, q.start, q.end)}
"""Which cluster and seconds [start, end) a question reaches."""

assert QUESTIONS.keys() == SPANS.keys()
