"""Levels and definitions of one cluster, each looked up once for all the questions of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from mstore.config import Config
from mstore.errors import InvalidRequest, Unavailable, UnknownMetric
from mstore.model import MetricSpec
from mstore.query.gather import checked
from mstore.query.plan import NO_HOST, NO_LEVEL, NO_SERIES, Metric, encoded, metric_of
from mstore.query.retained import RetainedGatherer
from mstore.shm import layout

Refs = NDArray[np.uint64]

_NOTHING: Refs = np.empty(0, np.uint64)
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

    def metric(self, name: str) -> Metric:
        """raises UnknownMetric"""
        found = self._metrics.get(name)
        if found is None:
            try:
                found = metric_of(self.gatherer, self.level, self.cluster, name)
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

    def series(
        self, metric: Metric, host: str, levels: Iterable[tuple[str, str, str, str]]
    ) -> tuple[Refs, str]:
        """The series of a metric at levels of a host, all together, and why there is none.

        levels  (type, type_id, subtype, subtype_id) each; one that does not hold the metric stands for what is below it
        """
        at_host = self.host(host)
        if at_host < 0:
            return _NOTHING, NO_HOST
        found = []
        for type_, type_id, subtype, subtype_id in levels:
            level = self.below(at_host, type_, type_id) if type_ or type_id else at_host
            if subtype or subtype_id:
                level = self.below(level, subtype, subtype_id)
            if level >= 0:
                found.append(level)
        if not found or metric.index < 0:
            return _NOTHING, NO_SERIES if found else NO_LEVEL
        refs = checked(self.gatherer.collect(found, metric.index))
        return refs, "" if len(refs) else NO_SERIES

    def own_series(self, metric: Metric, host: str) -> Refs:
        """The series that the host itself holds of a metric, none if only levels below it do."""
        level = self.host(host)
        if level < 0 or metric.index < 0 or self.gatherer.directory.find_series(level, metric.index) < 0:
            return _NOTHING
        return checked(self.gatherer.collect([level], metric.index))

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
