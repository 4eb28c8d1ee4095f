"""What is asked of jobs and nodes, by metric, scope and host; `.to_dict()` is the metric store's shape of each.

    JobData            data["flops_any"]["hwthread"].series     every series of a job
    JobStatistics      stats["flops_any"]["f0201"].avg          of every host of a job
    ScopedStatistics   stats["flops_any"]["socket"]             the same at several scopes
    NodeData           nodes["f0201"]["flops_any"].series       hosts at node scope
    NodeListData       nodes["f0201"]["flops_any"]["socket"]    hosts at several scopes

Each has `.errors`: what could not be answered while the rest was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np

from mstore.fetching.packed import BatchSeries
from mstore.jobs.loaded import Loaded, LoadedMetric, LoadError
from mstore.numerals import number

V = TypeVar("V")

_NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the samples of one series in the range, at native step; NaN = there is none."""

    min: float
    max: float
    avg: float
    n_samples: int = 0
    narrow: bool = field(default=False, repr=False, compare=False)
    """Of float32 samples: printed with as few digits as these need."""

    @classmethod
    def of(cls, series: BatchSeries) -> Statistics:
        return cls(series.min, series.max, series.avg, series.n_samples, series.values.dtype == np.float32)

    def to_dict(self) -> dict[str, float]:
        """The metric store's: three zeros where one is missing."""
        low, high = (number(one, narrow=self.narrow) for one in (self.min, self.max))
        found = {"avg": number(self.avg), "min": low, "max": high}
        return {name: 0.0 if None in found.values() else one or 0.0 for name, one in found.items()}


@dataclass(slots=True)
class MetricData:
    """One metric at one scope: a series for each host, or for each id of each host."""

    metric: str
    scope: str
    unit: str = ""
    unit_prefix: str = ""
    """How much of the unit's text is its prefix: "G" of "GB/s"."""
    step_s: int = 0
    series: list[BatchSeries] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The metric store's JobMetric: unit, timestep, series."""
        unit = {"base": self.unit[len(self.unit_prefix) :]}
        if self.unit_prefix:
            unit["prefix"] = self.unit_prefix
        return {"unit": unit, "timestep": self.step_s, "series": [_series(one) for one in self.series]}

    @property
    def is_empty(self) -> bool:
        """Whether not one of its series has a sample."""
        return all(one.why or one.error is not None for one in self.series)


class View(Mapping[str, V], Generic[V]):
    """An answer by name; built when it is looked at first."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    @property
    def cluster(self) -> str:
        return self._loaded.cluster

    @cached_property
    def errors(self) -> list[LoadError]:
        """What could not be answered: metrics that do not exist, series that cannot be aggregated."""
        return self._loaded.errors()

    @cached_property
    def _found(self) -> dict[str, V]:
        return self._build()

    def _build(self) -> dict[str, V]:
        raise NotImplementedError

    def __getitem__(self, name: str) -> V:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        told = f", {len(self.errors)} errors" if self.errors else ""
        names = list(self)
        shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
        head = f"<{type(self).__name__} of {self.cluster}: {len(names)} ({shown})"
        return f"{head}, {len(self._loaded)} series{told}>"

    def to_dict(self) -> dict[str, Any]:
        """The metric store's JSON shape."""
        raise NotImplementedError

    def to_json(self) -> str:
        """to_dict() as text: shortest numbers that read back, null for what is missing."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))

    def _metric_data(self, metric: LoadedMetric, scope: str, numbers: range | list[int]) -> MetricData:
        """Those of `numbers` that could be answered."""
        found = [series for series in map(self._loaded.series, numbers) if series.error is None]
        step_s = max((series.step for series in found), default=metric.step_s)
        return MetricData(metric.name, scope, metric.unit, metric.unit_prefix, step_s, found)

    def _by_host(self, numbers: range) -> dict[str, list[int]]:
        """Numbers of series by host, in order."""
        found: dict[str, list[int]] = {}
        hosts = self._loaded.labels["host"][numbers.start : numbers.stop].tolist()
        for index, host in zip(numbers, hosts, strict=True):
            found.setdefault(self._loaded.hosts[host], []).append(index)
        return found


class JobData(View[dict[str, MetricData]]):
    """Series of a job by metric and scope: data["flops_any"]["hwthread"].series."""

    def _build(self) -> dict[str, dict[str, MetricData]]:
        found: dict[str, dict[str, MetricData]] = {}
        for metric, scope, numbers in self._loaded.groups():
            found.setdefault(metric.name, {})[scope] = self._metric_data(metric, scope, numbers)
        return found

    def to_dict(self) -> dict[str, Any]:
        """{metric: {scope: {"unit", "timestep", "series": [...]}}}, without scopes that have no sample at all."""
        return _by_scope(self)


class JobStatistics(View[dict[str, Statistics]]):
    """Statistics of a job by metric and host: stats["flops_any"]["f0201"].avg; hosts without a sample are left out."""

    def _build(self) -> dict[str, dict[str, Statistics]]:
        found: dict[str, dict[str, Statistics]] = {}
        for metric, scope, numbers in self._loaded.groups():
            if scope == "node":
                series = self._metric_data(metric, scope, numbers).series
                found[metric.name] = {one.host: Statistics.of(one) for one in series if not one.why}
        return found

    def of_job(self) -> dict[str, Statistics]:
        """Of all samples of the job, by metric."""
        return {metric: united(list(hosts.values())) for metric, hosts in self.items() if hosts}

    def to_dict(self) -> dict[str, Any]:
        """{metric: {host: {"avg", "min", "max"}}}"""
        return {
            metric: {host: one.to_dict() for host, one in hosts.items()} for metric, hosts in self.items()
        }


class ScopedStatistics(View[dict[str, list[BatchSeries]]]):
    """Statistics of a job by metric and scope: series without data, with min, max and avg."""

    def _build(self) -> dict[str, dict[str, list[BatchSeries]]]:
        found: dict[str, dict[str, list[BatchSeries]]] = {}
        for metric, scope, numbers in self._loaded.groups():
            found.setdefault(metric.name, {})[scope] = self._metric_data(metric, scope, numbers).series
        return found

    def to_dict(self) -> dict[str, Any]:
        """{metric: {scope: [{"hostname", "id"?, "data": {"avg", "min", "max"}}]}}, scopes without a sample left out."""
        found: dict[str, Any] = {}
        for metric, scopes in self.items():
            for scope, series in scopes.items():
                if any(not one.why for one in series):
                    entries = [{**_name(one), "data": Statistics.of(one).to_dict()} for one in series]
                    found.setdefault(metric, {})[scope] = entries
        return found


class NodeData(View[dict[str, MetricData]]):
    """Series of hosts by host and metric, at node scope: nodes["f0201"]["flops_any"].series[0]."""

    def _build(self) -> dict[str, dict[str, MetricData]]:
        found: dict[str, dict[str, MetricData]] = {host: {} for host in self._loaded.hosts}
        for metric, scope, numbers in self._loaded.groups():
            for host, own in self._by_host(numbers).items():
                found[host][metric.name] = self._metric_data(metric, scope, own)
        return found

    def to_dict(self) -> dict[str, Any]:
        """{host: {metric: [{"unit", "timestep", "series"}]}}, without metrics that have no sample."""
        return {
            host: {name: [one.to_dict()] for name, one in metrics.items() if not one.is_empty}
            for host, metrics in self.items()
        }


class NodeListData(View[dict[str, dict[str, MetricData]]]):
    """Series of hosts by host, metric and scope: nodes["f0201"]["flops_any"]["socket"].series."""

    def _build(self) -> dict[str, dict[str, dict[str, MetricData]]]:
        found: dict[str, dict[str, dict[str, MetricData]]] = {host: {} for host in self._loaded.hosts}
        for metric, scope, numbers in self._loaded.groups():
            for host, own in self._by_host(numbers).items():
                found[host].setdefault(metric.name, {})[scope] = self._metric_data(metric, scope, own)
        return found

    def to_dict(self) -> dict[str, Any]:
        """{host: {metric: {scope: {"unit", "timestep", "series"}}}}, without scopes that have no sample."""
        return {host: _by_scope(metrics) for host, metrics in self.items()}


def united(parts: Sequence[Statistics]) -> Statistics:
    """Of all samples of several series, at least one, each with samples."""
    n_samples = sum(one.n_samples for one in parts)
    mean = sum(one.avg * one.n_samples for one in parts) / n_samples
    return Statistics(
        min(one.min for one in parts), max(one.max for one in parts), mean, n_samples, parts[0].narrow
    )


def _by_scope(metrics: Mapping[str, Mapping[str, MetricData]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for metric, scopes in metrics.items():
        for scope, one in scopes.items():
            if not one.is_empty:
                found.setdefault(metric, {})[scope] = one.to_dict()
    return found


def _name(series: BatchSeries) -> dict[str, str]:
    return {"hostname": series.host, **({"id": series.type_id} if series.type_id else {})}


def _series(series: BatchSeries) -> dict[str, Any]:
    data = series.to_dict().get("data", [])
    return {**_name(series), "data": data, "statistics": Statistics.of(series).to_dict()}
