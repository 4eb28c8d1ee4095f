"""Messages of query.sock: samples of one metric, the tree of levels, definitions."""

from __future__ import annotations

from typing import Any, ClassVar

from mstore import limits
from mstore.ipc import checks
from mstore.ipc.messages.base import Message, message


@message
class Query(Message):
    """Samples of one metric in [start, end), Unix seconds. A list of ids asks for a list of series.

    `archive`: also what has left memory, where the store has an archive.
    """

    MANY: ClassVar[bool] = True
    cluster: str
    host: str
    metric: str
    start: int
    end: int
    type: str | None = None
    type_ids: str | list[str] | None = None
    subtype: str | None = None
    subtype_ids: str | list[str] | None = None
    aggregate: bool = False
    resolution: int = 0
    deadline_ms: int = 0
    algo: str = "average"
    function: str = ""
    window: int = 0
    missing: str = "skip"
    scale_by: float = 1.0
    fill: str = "none"
    max_gap: int = 0
    archive: bool = True


@message
class Answer(Message):
    """`many`: the question asked for a list. An entry of `series` is
    [meta dict, values bin, dtype, start, step, coverage bin | None, stamps bin | None].
    """

    MANY: ClassVar[bool] = True
    many: bool
    series: list[list[Any]]


@message
class Children(Message):
    """Names of the levels below `path` (level names from the cluster down; [] = the clusters) -> Names."""

    path: list[str]
    deadline_ms: int = 0


@message
class Paths(Message):
    """All paths of `depth` levels (1 = clusters, 2 = hosts, ...) -> Names with a list of names for each."""

    depth: int
    deadline_ms: int = 0


@message
class Names(Message):
    """Names of levels, or a list of names for each level."""

    MANY: ClassVar[bool] = True
    names: list[Any]


@message
class Metrics(Message):
    """The metrics of a cluster; nil: of all -> MetricList."""

    cluster: str | None = None
    deadline_ms: int = 0


@message
class MetricList(Message):
    """A dict a metric: cluster, name, step_s, aggregation, type, unit, columns [[name, type], ...], retention_s."""

    MANY: ClassVar[bool] = True
    metrics: list[dict[str, Any]]


RULES: checks.Rules = {
    ("Paths", "depth"): checks.between(0, limits.PATH_DEPTH_MAX),
    ("Query", "resolution"): checks.between(0, limits.QUERY_SPAN_S_MAX),
    ("Query", "window"): checks.between(0, limits.QUERY_SPAN_S_MAX),
    ("Query", "max_gap"): checks.between(0, limits.QUERY_SPAN_S_MAX),
    ("Query", "start"): checks.between(-(2**62), 2**62),
    ("Query", "end"): checks.between(-(2**62), 2**62),
    ("Answer", "series"): checks.answer_entries,
}
"""Checks beyond the type, by (message, field)."""
