"""A selector becomes levels, and a metric at them series: what is there, and what was asked for by name and is not.

    fritz/f0201,f9999/hwthread*          levels                  series of cpu_user
      f0201/hwthread0                      17                      its own
      f0201/hwthread1                      18                      its own
      f9999                                not there: why          none

Below a `*` only what is there is a row, and of a metric only the levels that hold it; what is named is a row in any case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mstore.errors import LimitExceeded, UnknownMetric, UnknownSelector
from mstore.kernels import _gather, _select
from mstore.limits import QUERY_SERIES_MAX
from mstore.model import SeriesPath
from mstore.query.budget import PIECE_SERIES, Budget, Work
from mstore.query.gather import checked, replanned, replanned_work
from mstore.query.plan import Metric, encoded, metric_of
from mstore.query.retained import RetainedGatherer
from mstore.selector import Selector, Step
from mstore.tables import WHYS, LevelPath, Paths

NO_HOST, NO_ID, NO_SERIES, NO_SAMPLES = range(1, 5)
assert WHYS[NO_HOST] == "no such host"
assert WHYS[NO_SAMPLES] == "no samples in range"

_NO_LEVEL = _select.NO_LEVEL

_PARENTS = 512
"""Whose children are looked through in one piece: a host has some hundred, a cluster thousands."""
_LOOKUPS = 32_768
"""Names that are looked up in one piece: some milliseconds."""

Levels = NDArray[np.uint32]
T = TypeVar("T")


@dataclass(slots=True)
class Resolved:
    """The rows that a selector means, in order."""

    levels: Levels
    """uint32[n]; NO_LEVEL where there is none."""
    named: NDArray[np.bool_]
    """bool[n]: asked for by name, from the cluster down."""
    ghosts: NDArray[np.int64]
    """int64[n]: place in `absent` of what is not there, else -1."""
    absent: list[LevelPath]
    """Paths as far as they were asked for, down to the level that is not there."""

    def __len__(self) -> int:
        return len(self.levels)

    def taken(self, rows: NDArray[np.int64]) -> Resolved:
        return replace(self, levels=self.levels[rows], named=self.named[rows], ghosts=self.ghosts[rows])

    def whys(self) -> NDArray[np.uint8]:
        """uint8[n]: 0 for what is there."""
        whys = np.zeros(len(self), np.uint8)
        for row in np.flatnonzero(self.ghosts >= 0):
            whys[row] = NO_ID if self.absent[self.ghosts[row]].type else NO_HOST
        return whys

    def paths(self, gatherer: RetainedGatherer) -> Paths:
        return labelled(gatherer, self.levels, self.ghosts, self.absent)


def labelled(
    gatherer: RetainedGatherer, levels: Levels, ghosts: NDArray[np.int64], absent: list[LevelPath]
) -> Paths:
    """The paths of levels, and of what is not there."""
    text = checked(_select.labels(gatherer, levels)).decode("utf-8", "replace")
    gone = np.flatnonzero(ghosts >= 0)
    if not len(gone):
        return Paths(text)
    lines = text.split("\n")[:-1]
    for row in gone:
        lines[row] = Paths.of([absent[ghosts[row]]]).lines[0]
    return Paths("".join(f"{line}\n" for line in lines))


def resolving(gatherer: RetainedGatherer, selector: Selector, *, absent: bool = True) -> Work[Resolved]:
    """The levels of a selector. raises UnknownSelector, LimitExceeded, Unavailable

    absent   False: what is named and not there is left out, also a cluster
    """
    named = np.full(1, absent, np.bool_)
    found = Resolved(np.zeros(1, np.uint32), named, np.full(1, -1, np.int64), [])
    for depth, step in enumerate(selector.steps):
        parts = []
        n_rows = 0
        n_names = sum(isinstance(part, str) for part in step.parts)
        n_parents = max(min(_PARENTS, _LOOKUPS // max(n_names, 1)), 1)
        for at in range(0, len(found), n_parents):
            rows = np.arange(at, min(at + n_parents, len(found)))
            parts.append((yield from _step_down(gatherer, found.taken(rows), step, depth)))
            n_rows += len(parts[-1])
            if n_rows > QUERY_SERIES_MAX:
                raise _too_many("levels")
            yield
        found = Resolved(
            np.concatenate([part.levels for part in parts] or [found.levels]),
            np.concatenate([part.named for part in parts] or [found.named]),
            np.concatenate([part.ghosts for part in parts] or [found.ghosts]),
            found.absent,
        )
    return found


def _step_down(gatherer: RetainedGatherer, parents: Resolved, step: Step, depth: int) -> Work[Resolved]:
    """The rows one level below."""
    if step.names is not None:
        return _by_name(gatherer, parents, step.names, depth)[0]
    if len(step.parts) == 1:
        return replanned(lambda: _by_form(gatherer, parents, step, depth))[0]
    return (yield from _part_by_part(gatherer, parents, step, depth))


def _part_by_part(gatherer: RetainedGatherer, parents: Resolved, step: Step, depth: int) -> Work[Resolved]:
    """Names and forms in one list: below each parent in the order in which they are written, each level once."""
    found, places, n_rows = [], [], 0
    for _, group in groupby(step.parts, lambda part: isinstance(part, str)):
        parts = list(group)
        names = tuple(part for part in parts if isinstance(part, str))
        for form in [None] if names else parts:
            if form is None:
                rows, at = _by_name(gatherer, parents, names, depth)
            else:
                rows, at = replanned(partial(_by_form, gatherer, parents, Step((form,)), depth))
            found.append(rows)
            places.append(at)
            n_rows += len(rows)
            if n_rows > QUERY_SERIES_MAX:
                raise _too_many("levels")
            yield
    at = np.concatenate(places)
    order = np.argsort(at, kind="stable")
    together = Resolved(
        np.concatenate([rows.levels for rows in found]), np.concatenate([rows.named for rows in found]),
        np.concatenate([rows.ghosts for rows in found]), parents.absent,
    )  # fmt: skip
    keys = np.where(together.ghosts >= 0, -1 - together.ghosts, together.levels.astype(np.int64))
    _, firsts = np.unique(np.stack([at[order], keys[order]]), axis=1, return_index=True)
    return together.taken(order[np.sort(firsts)])


def _by_name(
    gatherer: RetainedGatherer, parents: Resolved, names: tuple[str, ...], depth: int
) -> tuple[Resolved, NDArray[np.int64]]:
    """The rows of these names below each parent, and its place; below a named parent also what is not there."""
    # Below a star nobody asks for what is not there, which may be most of names times hosts.
    asked = bool((parents.named & (parents.levels != _NO_LEVEL)).any())
    ids, places, name_places = replanned(
        lambda: _few(
            "levels",
            _select.named(
                gatherer, parents.levels, [encoded(name) for name in names], asked, QUERY_SERIES_MAX
            ),
        )
    )
    at = places.astype(np.int64)
    found = parents.taken(at)
    found.levels = ids
    missing = (ids == _NO_LEVEL) & (name_places != _NO_LEVEL)
    for row in np.flatnonzero(missing & found.named):
        _note_absent(gatherer, found, int(row), int(parents.levels[at[row]]), names[name_places[row]], depth)
    kept = np.flatnonzero(~missing | found.named)
    return found.taken(kept), at[kept]


def _note_absent(
    gatherer: RetainedGatherer, found: Resolved, row: int, parent: int, name: str, depth: int
) -> None:
    if depth == 0:
        raise UnknownSelector(f"there is no cluster {name!r}", cluster=name)
    found.ghosts[row] = len(found.absent)
    path = gatherer.directory.path(parent) if parent else SeriesPath("", "", "")
    type_, id_ = _split(name)
    if depth == 1:
        absent = LevelPath(path.cluster, name)
    elif depth == 2:
        absent = LevelPath(path.cluster, path.host, type_, id_)
    else:
        absent = LevelPath(path.cluster, path.host, path.type, path.type_id, type_, id_)
    found.absent.append(absent)


def _split(name: str) -> tuple[str, str]:
    """Type and id of a level that is not there, as its name suggests: the digits at the end are the id."""
    type_ = name.rstrip("0123456789")
    return (type_, name[len(type_) :]) if type_ else (name, "")


def _by_form(
    gatherer: RetainedGatherer, parents: Resolved, step: Step, depth: int
) -> tuple[Resolved, NDArray[np.int64]]:
    """The children of each parent that have a form, in natural order, and the parent's place."""
    ids, bounds = _few("levels", _select.children(gatherer, parents.levels, QUERY_SERIES_MAX))
    places = np.repeat(np.arange(len(parents)), np.diff(bounds))
    if not step.any:
        kept = _matching(gatherer, ids, step)
        ids, places = ids[kept], places[kept]
    # What is not there goes on as it is.
    gone = np.flatnonzero(parents.ghosts >= 0)
    ids = np.concatenate([ids, np.full(len(gone), _NO_LEVEL, np.uint32)])
    places = np.concatenate([places, gone])
    order = np.argsort(places, kind="stable")
    found = parents.taken(places[order])
    found.levels = ids[order]
    found.named &= found.ghosts >= 0
    return found, places[order]


def _matching(gatherer: RetainedGatherer, levels: Levels, step: Step) -> NDArray[np.bool_]:
    """bool[n]: which levels have a name that a step means; the hosts of a cluster are alike, so each name is tried once."""
    names = checked(_select.names(gatherer, levels)).decode("utf-8", "replace").split("\n")[:-1]
    meant = {name: step.matches(name) for name in set(names)}
    return np.fromiter(map(meant.__getitem__, names), np.bool_, len(names))


def _few(what: str, answer: T | int) -> T:
    """The kernel's answer; LimitExceeded says of what it found too many."""
    if isinstance(answer, int) and answer == _gather.LIMIT:
        raise _too_many(what)
    return checked(answer)


def _too_many(what: str) -> LimitExceeded:
    return LimitExceeded(
        f"the selector means more than {QUERY_SERIES_MAX:,} {what}: name fewer hosts at a time",
        limit=QUERY_SERIES_MAX,
    )


@dataclass(slots=True)
class Selected:
    """Rows, and the series of a metric at or below each."""

    rows: Resolved
    metrics: list[Metric | None]
    """By `of`: the definition in each cluster that has rows."""
    of: NDArray[np.int64]
    """int64[n]: place in `metrics`."""
    refs: NDArray[np.uint64]
    bounds: NDArray[np.int64]
    """int64[n + 1]: row i has refs[bounds[i]:bounds[i + 1]]."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """int64[n]: how many series each row has."""
        return np.diff(self.bounds)

    @property
    def metric(self) -> Metric:
        """The definition in the first cluster that has one."""
        return next(metric for metric in self.metrics if metric is not None)

    def whys(self) -> NDArray[np.uint8]:
        """uint8[n]: 0 where there are series."""
        whys = self.rows.whys()
        whys[(whys == 0) & (self.sizes == 0)] = NO_SERIES
        return whys


def selecting(gatherer: RetainedGatherer, selector: Selector, metric: str, budget: Budget) -> Work[Selected]:
    """The series that answer for a metric at the levels of a selector.

    raises UnknownSelector, UnknownMetric when no cluster of the selector knows it, LimitExceeded, Unavailable
    """
    return (yield from replanned_work(lambda: _selecting(gatherer, selector, metric, budget), budget))


def _selecting(gatherer: RetainedGatherer, selector: Selector, metric: str, budget: Budget) -> Work[Selected]:
    rows = yield from resolving(gatherer, selector)
    clusters = yield from resolving(gatherer, Selector(selector.steps[:1]))
    metrics, of = _definitions(gatherer, rows, clusters.levels, metric)
    indices = np.array([0 if one is None else one.index for one in metrics], np.uint32)
    known = np.array([one is not None for one in metrics], np.bool_)
    levels = np.where(known[of], rows.levels, np.uint32(_NO_LEVEL)) if len(of) else rows.levels
    parts, sizes = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for at in range(0, len(rows), PIECE_SERIES):
        part = slice(at, at + PIECE_SERIES)
        refs, bounds = _few(
            "series", _select.collect(gatherer, levels[part], indices[of[part]], QUERY_SERIES_MAX)
        )
        budget.spend(series=len(refs))
        parts.append(refs)
        sizes.append(np.diff(bounds))
        yield
    n_series = np.concatenate(sizes)
    kept = np.flatnonzero((n_series > 0) | rows.named)
    refs = np.concatenate(parts)
    # A row that goes has no series.
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_series[kept])])
    return Selected(rows.taken(kept), metrics, of[kept], refs, bounds)


def _definitions(
    gatherer: RetainedGatherer, rows: Resolved, selected: Levels, name: str
) -> tuple[list[Metric | None], NDArray[np.int64]]:
    """The metric in each cluster of the rows, and for each row which of these is its own.

    selected  the selector's clusters: when none of the rows' own knows the metric, the first of them that does
    """
    clusters = _select.clusters_of(gatherer, rows.levels)
    for row in np.flatnonzero(rows.ghosts >= 0):
        clusters[row] = gatherer.directory.find_path(encoded(rows.absent[rows.ghosts[row]].cluster))
    levels, of = np.unique(clusters, return_inverse=True)
    failed: list[UnknownMetric] = []
    found = [_definition(gatherer, level, name, failed) for level in levels.tolist()]
    if not any(found):
        others = (_definition(gatherer, level, name, failed) for level in selected.tolist())
        found.append(next((one for one in others if one is not None), None))
    if not any(found):
        raise next(iter(failed), UnknownMetric(f"there is no metric {name!r}, nor a cluster", metric=name))
    return found, of


def _definition(
    gatherer: RetainedGatherer, cluster: int, name: str, failed: list[UnknownMetric]
) -> Metric | None:
    """None when the cluster does not know it; the error then is one more of `failed`."""
    try:
        return metric_of(gatherer, cluster, gatherer.directory.level(cluster).name, name)
    except UnknownMetric as error:
        failed.append(error)
        return None
