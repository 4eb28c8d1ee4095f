"""Levels and definitions of one cluster, each looked up once for all the questions of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import numpy as np

from mstore.config import Config
from mstore.errors import InvalidRequest, Unavailable, UnknownMetric
from mstore.kernels import _select
from mstore.limits import QUERY_SERIES_MAX
from mstore.model import MetricSpec
from mstore.query.gather import checked, replanned
from mstore.query.plan import Metric, encoded, metric_of
from mstore.query.resolve import NO_HOST, NO_ID, NO_SERIES
from mstore.query.retained import RetainedGatherer
from mstore.query.rows import NO_REFS, Row
from mstore.shm import layout

At: TypeAlias = "tuple[str | None, tuple[str, ...], str | None, tuple[str, ...]]"
"""Levels below a host: type, its ids, subtype, its ids; None: there is no such part."""

HOST: At = (None, (), None, ())
NO_LEVEL = _select.NO_LEVEL
_NUMBERS = {name: number for number, name in layout.AGG_NAMES.items()}
_TYPES = {name: number for number, name in layout.TYPE_NAMES.items()}


class Finder:
    """What a cluster's names mean, as long as the directory stays as it is (else Replan: make another).

    config   asked when the directory does not know a metric: it may be configured, and never written
    """

    def __init__(self, gatherer: RetainedGatherer, cluster: str, config: Callable[[], Config]) -> None:
        self.gatherer = gatherer
        self.cluster = cluster
        self.level = gatherer.directory.find_path(encoded(cluster))
        self._config = config
        self._metrics: dict[str, Metric | UnknownMetric] = {}
        self._hosts: dict[str, int] = {}
        self._levels: dict[tuple[str, At], list[int]] = {}

    def metric(self, name: str) -> Metric:
        """raises UnknownMetric"""
        found = self._metrics.get(name)
        if found is None:
            try:
                found = replanned(partial(metric_of, self.gatherer, self.level, self.cluster, name))
            except UnknownMetric as error:
                spec = self._spec(name)
                found = error if spec is None else _configured(spec)
            self._metrics[name] = found
        if isinstance(found, UnknownMetric):
            raise found
        return found

    def _spec(self, name: str) -> MetricSpec | None:
        try:
            return self._config().metric(self.cluster, name)
        except Unavailable:
            return None  # an attached program whose store has gone knows what is in memory

    def grid_metric(self, name: str) -> Metric:
        """A metric with a step, which is what a batch can answer; raises UnknownMetric, InvalidRequest"""
        metric = self.metric(name)
        if metric.kind == layout.KIND_STAMPED:
            raise InvalidRequest(
                f"{name} is stamped: its rows have times of their own, which a batch cannot answer; use query()",
                metric=name,
            )
        return metric

    def host(self, name: str) -> int:
        """Its level, or -1."""
        found = self._hosts.get(name)
        if found is None:
            found = self.below(self.level, "", name) if name else -1
            self._hosts[name] = found
        return found

    def below(self, level: int, type: str, id: str) -> int:
        """The level of a type and id below another, or -1."""
        return self.gatherer.directory.find_level(level, encoded(type), encoded(id)) if level >= 0 else -1

    def levels(self, host: str, at: At) -> list[int]:
        """The levels of a host at a place each, -1 where there is none."""
        found = self._levels.get((host, at))
        if found is None:
            found = self._levels[host, at] = list(self._below_host(self.host(host), at))
        return found

    def _below_host(self, host: int, at: At) -> Iterator[int]:
        type_, ids, subtype, subtype_ids = at
        for level in [host] if type_ is None else [self.below(host, type_, one) for one in ids]:
            if subtype is None:
                yield level
            else:
                yield from (self.below(level, subtype, one) for one in subtype_ids)

    def row(self, name: str, host: str, at: At, *, together: bool) -> Row:
        """The series of a metric at some levels of a host, an entry for each or one for all; a bad name is its error.

        A level that does not hold the metric stands for what is below it.
        """
        levels = self.levels(host, at)
        try:
            metric = self.grid_metric(name)
        except (UnknownMetric, InvalidRequest) as error:
            return Row.failed(1 if together else len(levels), error)
        if together or len(levels) == 1:
            return self._together(name, metric, host, levels)
        refs, sizes = NO_REFS, np.zeros(len(levels), np.int64)
        if metric.index >= 0 and levels:
            metrics = np.full(len(levels), metric.index, np.uint32)
            chosen = np.array([NO_LEVEL if level < 0 else level for level in levels], np.uint32)
            refs, bounds = checked(_select.collect(self.gatherer, chosen, metrics, QUERY_SERIES_MAX))
            sizes = np.diff(bounds)
        whys = np.zeros(len(levels), np.uint8)
        for entry in np.flatnonzero(sizes == 0).tolist():
            whys[entry] = self._why(host, levels[entry])
        return Row(len(levels), name, metric, refs, sizes, whys)

    def _together(self, name: str, metric: Metric, host: str, levels: list[int]) -> Row:
        present = [level for level in levels if level >= 0]
        refs = NO_REFS
        if metric.index >= 0 and present:
            refs = checked(self.gatherer.collect(present, metric.index))
        why = 0 if len(refs) else self._why(host, present[0] if present else -1)
        return Row(1, name, metric, refs, np.array([len(refs)]), np.array([why], np.uint8))

    def _why(self, host: str, level: int) -> int:
        """Why there is no series at a level of a host."""
        if self.host(host) < 0:
            return NO_HOST
        return NO_ID if level < 0 else NO_SERIES

    def row_of_host_itself(self, name: str, host: str) -> Row | None:
        """The series that the host itself holds of a metric; None if only levels below it do, or none does."""
        metric, level = self.grid_metric(name), self.host(host)
        if level < 0 or metric.index < 0 or self.gatherer.directory.find_series(level, metric.index) < 0:
            return None
        return self.row(name, host, HOST, together=True)

    def hosts(self) -> list[tuple[int, str]]:
        """Level and name of every host, in no order."""
        if self.level < 0:
            return []
        return [
            (level, name) for level, type_, name in checked(self.gatherer.children(self.level)) if not type_
        ]


def _configured(spec: MetricSpec) -> Metric:
    """A metric that is not in the directory yet: it has no series, but step, type and unit."""
    return Metric(
        -1, layout.KIND_STAMPED if spec.stamped else layout.KIND_GRID, _TYPES[spec.type], _NUMBERS[spec.aggregation],
        spec.step_s, spec.unit, spec.columns,
    )  # fmt: skip
