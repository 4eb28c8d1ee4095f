"""Messages of query.sock about many series at once: questions by selector, and many questions in one.

Selectors are texts as mstore.selector reads them. What is answered by a table is one list for each, as mstore.tables
writes them; what is answered by series is one stack of them, as mstore.stacked writes it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from mstore import limits
from mstore.ipc import checks
from mstore.ipc.checks import Bin
from mstore.ipc.messages.base import Message, message

_TIME = checks.between(-(2**62), 2**62)


@message
class Select(Message):
    """The levels that a selector means; with a metric those that hold it, or have it below -> Levels."""

    selector: str
    metric: str | None = None
    deadline_ms: int = 0


@message
class Levels(Message):
    """A line for each level: cluster, host, type, type_id, subtype, subtype_id divided by tabs, as far as it goes down."""

    paths: Bin


@message
class SelectLatest(Message):
    """Newest values, by `level` or by `series`; max_age_s None: of any age -> Tables, one for each metric."""

    selector: str
    metrics: list[str]
    per: str = "level"
    max_age_s: int | None = None
    deadline_ms: int = 0


@message
class SelectAbove(Message):
    """Series above (below) a value for for_s seconds up to `at`, Unix seconds; None: now -> Tables."""

    selector: str
    metric: str
    value: float
    for_s: int
    below: bool = False
    at: int | None = None
    deadline_ms: int = 0


@message
class SelectStats(Message):
    """Figures over the raw samples of [start, end), by `level` or by `series` -> Tables."""

    selector: str
    metric: str
    start: int
    end: int
    percentiles: list[Any]
    per: str = "level"
    deadline_ms: int = 0


@message
class SelectTop(Message):
    """The k rows with the largest (smallest) figure -> Tables."""

    selector: str
    metric: str
    start: int
    end: int
    k: int = 10
    by: str = "avg"
    largest: bool = True
    per: str = "level"
    deadline_ms: int = 0


@message
class SelectSeries(Message):
    """Samples of every level of a selector, or of all of them as one; the rest as in Query -> Stacked."""

    selector: str
    metric: str
    start: int
    end: int
    aggregate: bool = False
    resolution: int = 0
    algo: str = "average"
    function: str = ""
    window: int = 0
    missing: str = "skip"
    scale_by: float = 1.0
    fill: str = "none"
    max_gap: int = 0
    deadline_ms: int = 0


@message
class QueryMany(Message):
    """Many questions; each is the fields of a Query, the last ones left out that are as they are by default -> Stacked."""

    MANY: ClassVar[bool] = True
    questions: list[list[Any]]
    deadline_ms: int = 0


@message
class Stacked(Message):
    """Series, one answer after the other.

    counts  i64[q]: how many series an answer has; -1: one, where no list was asked for
    and the rest  as mstore.stacked says
    """

    counts: Bin
    table: Bin
    texts: Bin
    values: Bin
    coverage: Bin
    stamps: Bin
    columns: Bin


@message
class Tables(Message):
    """Tables, each [class, map of plain fields, paths bin, [[dtype, shape after the rows, bin] each column]]."""

    MANY: ClassVar[bool] = True
    tables: list[list[Any]]


def _questions(value: Any) -> str:
    if type(value) is not list:
        return f"{checks.kind(value)}, expected an array"
    if len(value) > limits.QUESTIONS_MAX:
        return f"{len(value)} questions, at most {limits.QUESTIONS_MAX}"
    return "" if set(map(type, value)) <= {list} else "expected an array of arrays"


RULES: checks.Rules = {
    ("SelectStats", "start"): _TIME,
    ("SelectStats", "end"): _TIME,
    ("SelectTop", "start"): _TIME,
    ("SelectTop", "end"): _TIME,
    ("SelectTop", "k"): checks.between(1, limits.QUERY_SERIES_MAX),
    ("SelectSeries", "start"): _TIME,
    ("SelectSeries", "end"): _TIME,
    ("SelectSeries", "resolution"): checks.between(0, limits.QUERY_SPAN_S_MAX),
    ("SelectSeries", "window"): checks.between(0, limits.QUERY_SPAN_S_MAX),
    ("SelectSeries", "max_gap"): checks.between(0, limits.QUERY_SPAN_S_MAX),
    ("SelectAbove", "for_s"): checks.between(0, limits.QUERY_SPAN_S_MAX),
    ("QueryMany", "questions"): _questions,
}
"""Checks beyond the type, by (message, field)."""
