"""A request becomes entries: which levels answer each, in the order asked; nothing is read but the directory.

    no type, or type "node"          one entry: the host itself
    type, one id                     one entry
    type, a list of ids              one entry an id, in the order asked, also for ids that do not exist
    type, no ids                     one entry for every id that holds the metric, in natural order
    subtype, subtype_ids             the same one level deeper, for each of the above
    aggregate=True                   all of these together become one entry

An entry of a level that does not hold the metric itself stands for the series below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from mstore import choices
from mstore.errors import InvalidRequest, InvalidTimeRange, LimitExceeded, UnknownMetric
from mstore.hostlists import natural_key
from mstore.kernels import _select
from mstore.kernels._gather import Gatherer
from mstore.limits import QUERY_SERIES_MAX
from mstore.query.gather import checked

Ids = str | int | Iterable[str | int] | None

NO_HOST, NO_LEVEL, NO_SERIES, NO_SAMPLES = (
    "no such host",
    "no such id",
    "no such series",
    "no samples in range",
)

# What is made anew for each of the thousand questions of a job view is not frozen: that would take five times as long.


@dataclass(slots=True, unsafe_hash=True)
class Request:
    """One question; what Reader.query takes, with times already in seconds."""

    cluster: str
    host: str
    metric: str
    start: int
    end: int
    type: str | None = None
    type_ids: Ids = None
    subtype: str | None = None
    subtype_ids: Ids = None
    aggregate: bool = False
    resolution: int = 0
    missing: str = "skip"
    """How an aggregate treats a slot that some series miss: "skip" them, or "propagate" the gap."""
    algo: str = "average"
    fill: str = "none"
    max_gap: int = 0
    function: str = ""
    window: int = 0
    scale_by: float = 1.0
    """The words are in choices.py; gap and window are seconds."""
    archive: bool = True
    """Also what has left memory, where the reader knows of an archive."""

    def refuse_unless_sound(self) -> None:
        """raises InvalidTimeRange, InvalidRequest"""
        if self.start > self.end:
            raise InvalidTimeRange(
                f"the range starts at {self.start} and ends before, at {self.end}",
                start=self.start, end=self.end,
            )  # fmt: skip
        if _words_of(self) == _AS_STORED:
            return
        choices.refuse_unless("missing", self.missing, choices.MISSING)
        choices.refuse_unless("algo", self.algo, choices.ALGORITHMS)
        choices.refuse_unless("fill", self.fill, choices.FILLS)
        choices.refuse_unless("function", self.function, choices.FUNCTIONS)
        for name, seconds in (("max_gap", self.max_gap), ("window", self.window)):
            if seconds < 0:
                raise InvalidRequest(f"{name}={seconds!r}: expected seconds, 0 or more")
        if self.window and self.function in ("", "delta"):
            why = (
                "a delta counts from the start of the range" if self.function else "no function is asked for"
            )
            raise InvalidRequest(f"window={self.window!r}, but {why}")
        if self.scale_by != 1.0:
            choices.finite_factor(self.scale_by)


_words_of = attrgetter("missing", "algo", "fill", "max_gap", "function", "window", "scale_by")
_AS_STORED = _words_of(Request("", "", "", 0, 0))
"""Of a request for samples as they are stored: nothing of it needs to be looked at."""


@dataclass(slots=True)
class Metric:
    """A metric's definition as the planner needs it; numbers as in layout.py."""

    index: int
    kind: int
    type: int
    aggregation: int
    step_s: int
    unit: str
    columns: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Entry:
    """One answer's levels, and the path it is labelled with."""

    levels: tuple[int, ...] = ()
    below: str | None = None
    """When given, not the levels themselves are asked but their children of this type."""
    type: str = ""
    type_id: str = ""
    subtype: str = ""
    subtype_id: str = ""
    why: str = ""
    """Why there is nothing to ask."""
    refs: NDArray[np.uint64] | None = None
    """The series that answer, where planning had to find them anyway."""


@dataclass(slots=True)
class Plan:
    request: Request
    metric: Metric
    entries: list[Entry]
    many: bool


def plan(gatherer: Gatherer, request: Request, known: dict[tuple[int, str], Metric] | None = None) -> Plan:
    """What to gather for a request.

    known   definitions that earlier requests of the same batch found, by cluster and name; added to
    raises InvalidTimeRange, InvalidRequest, UnknownMetric (also for a cluster nobody has written to)
    """
    request.refuse_unless_sound()
    directory = gatherer.directory
    cluster = directory.find_path(encoded(request.cluster))
    metric = None if known is None else known.get((cluster, request.metric))
    if metric is None:
        metric = _metric(gatherer, cluster, request)
        if known is not None:
            known[cluster, request.metric] = metric
    host = directory.find_level(cluster, b"", encoded(request.host)) if request.host else -1
    entries, many = _entries(gatherer, request, metric, host)
    if request.aggregate and len(entries) == 1:
        many = False
    elif request.aggregate:
        entries, many = [_united(entries)], False
    return Plan(request, metric, entries, many)


def _metric(gatherer: Gatherer, cluster: int, request: Request) -> Metric:
    """The metric asked for; raises UnknownMetric, which names the host where that is not there either."""
    try:
        return metric_of(gatherer, cluster, request.cluster, request.metric)
    except UnknownMetric as error:
        host = encoded(request.host)
        if cluster < 0 or not host or gatherer.directory.find_level(cluster, b"", host) >= 0:
            raise
        raise UnknownMetric(
            f"there is no host {request.host!r} in cluster {request.cluster!r}, nor a metric {request.metric!r}",
            host=request.host, **error.details,
        ) from None  # fmt: skip


def collected(gatherer: Gatherer, planned: Plan) -> list[NDArray[np.uint64]]:
    """References of the series of each entry, in series order; raises LimitExceeded, Replan."""
    found, n_series = [], 0
    for entry in planned.entries:
        refs = entry.refs
        if refs is None:
            below = None if entry.below is None else entry.below.encode()
            refs = checked(gatherer.collect(entry.levels, planned.metric.index, below))
        n_series += len(refs)
        if n_series > QUERY_SERIES_MAX:
            raise LimitExceeded(f"the request selects more than {QUERY_SERIES_MAX} series")
        found.append(refs)
    return found


def metric_of(gatherer: Gatherer, level: int, cluster: str, name: str) -> Metric:
    """The definition of a metric of the cluster at `level` (< 0: nobody has written to it); raises UnknownMetric."""
    index = -1 if level < 0 else gatherer.directory.find_metric(level, encoded(name))
    if index < 0:
        what = f"metric {name!r} in cluster {cluster!r}" if level >= 0 else f"cluster {cluster!r}"
        raise UnknownMetric(f"there is no {what}", cluster=cluster, metric=name)
    kind, value_type, aggregation, step_s, unit, columns = checked(gatherer.metric(index))
    pairs = (part.rpartition(":") for part in columns.split(",")) if columns else ()
    return Metric(
        index, kind, value_type, aggregation, step_s, unit, tuple((name, text) for name, _, text in pairs)
    )


def _entries(gatherer: Gatherer, request: Request, metric: Metric, host: int) -> tuple[list[Entry], bool]:
    base = Entry(levels=(host,)) if host >= 0 else Entry(why=NO_HOST)
    if request.type is None and request.type_ids is not None:
        raise InvalidRequest("type_ids without a type: name the type, or type='' for levels without one")
    if request.subtype is None and request.subtype_ids is not None:
        raise InvalidRequest("subtype_ids without a subtype")
    entries, many = [base], False
    if request.type is not None and request.type != "node":
        entries, many = _step_down(gatherer, request, metric, entries, "type", request.type, request.type_ids)
    if request.subtype is not None:
        entries, deeper = _step_down(
            gatherer, request, metric, entries, "subtype", request.subtype, request.subtype_ids
        )
        many = many or deeper
    return entries, many


def _step_down(
    gatherer: Gatherer,
    request: Request,
    metric: Metric,
    parents: list[Entry],
    which: str,
    kind: str,
    ids: Ids,
) -> tuple[list[Entry], bool]:
    """The entries one level below `parents`, and whether several were asked for.

    which  "type" or "subtype": the part of the path this level is
    """
    if ids is None:
        return [
            entry for parent in parents for entry in _all(gatherer, request, metric, parent, which, kind)
        ], True
    wanted = [str(ids)] if isinstance(ids, str | int) else _listed(ids)
    found = []
    for parent in parents:
        for name in wanted:
            levels = _named(gatherer, parent, kind, name)
            why = parent.why or ("" if levels else NO_LEVEL)
            found.append(_labelled(parent, which, kind, name, levels, why))
    return found, not isinstance(ids, str | int)


def _listed(ids: Iterable[str | int]) -> list[str]:
    found = []
    for name in ids:
        found.append(str(name))
        if len(found) > QUERY_SERIES_MAX:
            raise InvalidRequest(f"more than {QUERY_SERIES_MAX} ids in one request")
    return found


def _named(gatherer: Gatherer, parent: Entry, kind: str, name: str) -> tuple[int, ...]:
    if not parent.levels:
        return ()
    level = gatherer.directory.find_level(parent.levels[0], encoded(kind), encoded(name))
    return (level,) if level >= 0 else ()


def _all(
    gatherer: Gatherer, request: Request, metric: Metric, parent: Entry, which: str, kind: str
) -> Iterator[Entry]:
    """Every child of the type that holds the metric or has it below; for an aggregate without naming each."""
    if not parent.levels:
        yield _labelled(parent, which, kind, "", (), parent.why)
        return
    last = which == "subtype" or request.subtype is None
    if request.aggregate and last:
        yield _labelled(parent, which, kind, "", parent.levels, "", below=kind)
        return
    children: Sequence[tuple[int, str, str]] = checked(gatherer.children(parent.levels[0], encoded(kind)))
    children = sorted(children, key=lambda child: natural_key(child[2]))
    levels = np.array([level for level, _, _ in children], np.uint32)
    metrics = np.full(len(levels), metric.index, np.uint32)
    refs, ends = checked(_select.collect(gatherer, levels, metrics, QUERY_SERIES_MAX))
    for (level, _, name), first, end in zip(children, ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        if end > first:
            yield _labelled(parent, which, kind, name, (level,), "", refs=refs[first:end])


def _labelled(
    parent: Entry,
    which: str,
    kind: str,
    name: str,
    levels: tuple[int, ...],
    why: str,
    below: str | None = None,
    refs: NDArray[np.uint64] | None = None,
) -> Entry:
    if which == "type":
        return Entry(levels, below, kind, name, why=why, refs=refs)
    return Entry(levels, below, parent.type, parent.type_id, kind, name, why, refs)


def _united(entries: list[Entry]) -> Entry:
    """All entries as one; parts of the path that differ are left out of its label."""
    if not entries:
        return Entry(why=NO_SERIES)
    first = entries[0]
    found = [entry for entry in entries if entry.levels]
    below = found[0].below if found else None

    def common(name: str) -> str:
        value: str = getattr(first, name)
        return value if all(getattr(entry, name) == value for entry in entries) else ""

    levels = tuple(level for entry in found for level in entry.levels)
    return Entry(levels, below, common("type"), common("type_id"), common("subtype"), common("subtype_id"),
                 "" if found else first.why)  # fmt: skip


def encoded(text: str) -> bytes:
    """A name as the directory holds it."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return b"\0"  # a lone surrogate: no name has a NUL, so this finds nothing
