"""How much shared memory a configuration will take: nodes x metrics x retention, by the sizes of the layout.

    a series    retention / (512 steps) + 1 chunks on average, one more just before the oldest goes; a link table
    a level     an entry, its name, a slot of the table; hosts, and the parts of their nodes that metrics name
    a key       the line's spelling of each series, which its sender chooses: here the usual one
    the rest    a ring for each ingest worker, and the control page

A series that is younger than its retention takes less. Stamped metrics have no step, so nobody can tell.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from mstore.config import Config
from mstore.model import MetricSpec
from mstore.shm import layout
from mstore.shm.control import CONTROL_BYTES
from mstore.topology import Cluster, Metric, Subcluster

_DAY_S = 86_400
_STEP_BYTES = 65_536
"""By which a region of the directory grows."""
_TABLE_LOG2 = (3, 5, 7, 9, 11, 13, 15)
_FULL = {"f32": layout.CLASS_FULL_4, "f64": layout.CLASS_FULL_8, "u64": layout.CLASS_FULL_8}
_LEAST_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class MetricMemory:
    """What one metric of one cluster takes."""

    cluster: str
    metric: str
    series: int
    step_s: int
    retention_s: int
    """0 = for ever: then the bytes are those of a day, and it grows by as many each day."""
    n_bytes: int
    """On average."""
    peak_bytes: int
    """When all its series are about to lose their oldest chunk."""


@dataclass(slots=True)
class Prediction:
    """Bytes by segment, once every series is as old as its retention."""

    nodes: int = 0
    series: int = 0
    levels: int = 0
    samples_per_s: float = 0.0
    metrics: list[MetricMemory] = field(default_factory=list)
    samples_bytes: int = layout.SAMPLES_DATA
    peak_bytes: int = layout.SAMPLES_DATA
    """Of samples, when all series are about to lose their oldest chunk at once."""
    directory_bytes: int = 0
    fixed_bytes: int = 0
    """Control and rings."""
    endless: list[str] = field(default_factory=list)
    """Metrics that are kept for ever: what a day of them takes is counted."""
    unknown: list[str] = field(default_factory=list)
    """Stamped metrics: not counted."""

    def plain(self) -> dict[str, Any]:
        """Plain names and numbers, for JSON; the largest metrics first."""
        return {
            "nodes": self.nodes, "series": self.series, "levels": self.levels,
            "samples_per_s": round(self.samples_per_s, 3),
            "samples_bytes": self.samples_bytes, "samples_peak_bytes": self.peak_bytes,
            "directory_bytes": self.directory_bytes, "fixed_bytes": self.fixed_bytes,
            "total_bytes": self.total_bytes, "total_peak_bytes": self.total_peak_bytes,
            "metrics": [asdict(one) for one in sorted(self.metrics, key=lambda one: -one.n_bytes)],
            "endless": list(self.endless), "unknown": list(self.unknown),
        }  # fmt: skip

    @property
    def total_bytes(self) -> int:
        return self.samples_bytes + self.directory_bytes + self.fixed_bytes

    @property
    def total_peak_bytes(self) -> int:
        """What memory_cap and /dev/shm should allow for."""
        return self.peak_bytes + self.directory_bytes + self.fixed_bytes


def predict(config: Config, n_cores: int, n_nodes: int | None = None) -> Prediction:
    """What a store with this configuration will take.

    n_cores  of the machine: the number of workers follows it unless it is configured
    n_nodes  instead of the topologies' own: these are scaled to so many; without a topology, nodes that send every
             configured metric once
    """
    found, regions, places = Prediction(), _Regions(), _Places()
    n_known = sum(
        len(sub.hosts) for cluster in config.clusters.values() for sub in cluster.subclusters.values()
    )
    for cluster in config.clusters.values():
        scale = 1.0 if n_nodes is None or not n_known else n_nodes / n_known
        for sub in cluster.subclusters.values():
            _add_subcluster(found, regions, places, config, cluster, sub, scale)
    if not n_known and n_nodes:
        names = dict.fromkeys(
            [*config.metrics, *(name for of in config.cluster_metrics.values() for name in of)]
        )
        specs = [spec for name in names if (spec := _spec_anywhere(config, name)) is not None]
        regions.host("cluster", "node0000", n_nodes)
        found.nodes += n_nodes
        for spec in specs:
            _add_metric(found, regions, places, config, "", spec, "node", n_nodes)
    for memory in found.metrics:
        found.series += memory.series
        found.samples_per_s += memory.series / memory.step_s
    found.samples_bytes += places.n_bytes(places.average)
    found.peak_bytes += places.n_bytes(places.peak)
    found.levels = regions.n_levels
    found.directory_bytes = regions.n_bytes()
    n_rings, _ = config.worker_counts(n_cores)
    found.fixed_bytes = CONTROL_BYTES + n_rings * (layout.RING_DATA + config.ring_bytes)
    return found


def _spec_anywhere(config: Config, name: str) -> MetricSpec | None:
    if name in config.metrics:
        return config.metric("", name)
    cluster = next(cluster for cluster, of in config.cluster_metrics.items() if name in of)
    return config.metric(cluster, name)


def _add_subcluster(
    found: Prediction,
    regions: _Regions,
    places: _Places,
    config: Config,
    cluster: Cluster,
    sub: Subcluster,
    scale: float,
) -> None:
    n_nodes = round(len(sub.hosts) * scale)
    if not n_nodes:
        return
    found.nodes += n_nodes
    regions.host(cluster.name, sub.hosts[0], n_nodes)
    scopes: set[str] = set()
    for name in config.metrics_of(cluster.name):
        known = cluster.metrics.get(name)
        spec = config.metric(cluster.name, name)
        scope = known.scope if known is not None else "node"
        if spec is None or (known is not None and not known.is_on(sub)):
            continue
        if scope != "node" and scope not in scopes:
            scopes.add(scope)
            regions.parts(scope, sub.topology.ids(scope), n_nodes)
        ids = _ids(known, sub)
        _add_metric(found, regions, places, config, cluster.name, spec, scope, n_nodes * ids)


def _ids(metric: Metric | None, sub: Subcluster) -> int:
    return 1 if metric is None or metric.scope == "node" else len(sub.topology.ids(metric.scope))


def _add_metric(
    found: Prediction,
    regions: _Regions,
    places: _Places,
    config: Config,
    cluster: str,
    spec: MetricSpec,
    scope: str,
    n_series: int,
) -> None:
    name = f"{cluster}:{spec.name}" if cluster else spec.name
    if spec.stamped:
        if name not in found.unknown:
            found.unknown.append(name)
        return
    period_s = spec.retention_s if spec.retention_s >= 0 else config.retention_s
    if not period_s and name not in found.endless:
        found.endless.append(name)
    regions.series(spec.name, scope, n_series)
    one = SeriesMemory.of(spec.step_s, period_s, spec.type)
    places.add(one, n_series)
    average, peak = round(n_series * one.n_bytes), round(n_series * one.peak_bytes)
    found.metrics.append(MetricMemory(cluster, spec.name, n_series, spec.step_s, period_s, average, peak))


@dataclass(frozen=True, slots=True)
class SeriesMemory:
    """What one grid series takes once it is as old as its retention."""

    chunk_class: int
    average: float
    """Chunks."""
    peak: int
    table_class: int

    @classmethod
    def of(cls, step_s: int, retention_s: int, value_type: str) -> SeriesMemory:
        """retention_s: 0 = for ever: what a day brings"""
        span_s = layout.CHUNK_SLOTS * step_s
        chunk_class = _FULL[value_type]
        if not retention_s:
            return cls(chunk_class, _DAY_S / span_s, -(-_DAY_S // span_s), layout.CLASS_TABLE_8)
        most = retention_s // span_s + 2  # one that is about to go, and one that has just begun
        step = next((n for n, log2 in enumerate(_TABLE_LOG2) if most <= 1 << log2), len(_TABLE_LOG2) - 1)
        return cls(chunk_class, retention_s / span_s + 1, most, layout.CLASS_TABLE_8 + step)

    @property
    def n_bytes(self) -> float:
        return self.average * layout.SIZE_CLASS_BYTES[self.chunk_class] + self._table_bytes

    @property
    def peak_bytes(self) -> float:
        return self.peak * layout.SIZE_CLASS_BYTES[self.chunk_class] + self._table_bytes

    @property
    def _table_bytes(self) -> int:
        return layout.SIZE_CLASS_BYTES[self.table_class]


class _Places:
    """Chunks of each size class: memory is handed out in extents of one class."""

    def __init__(self) -> None:
        self.average = [0.0] * len(layout.SIZE_CLASS_BYTES)
        self.peak = [0.0] * len(layout.SIZE_CLASS_BYTES)

    def add(self, one: SeriesMemory, n: int) -> None:
        self.average[one.chunk_class] += n * one.average
        self.peak[one.chunk_class] += n * one.peak
        for counts in (self.average, self.peak):
            counts[one.table_class] += n

    @staticmethod
    def n_bytes(counts: list[float]) -> int:
        """Of whole extents."""
        each = (layout.EXTENT_BYTES // n_bytes for n_bytes in layout.SIZE_CLASS_BYTES)
        return sum(math.ceil(count / n) for count, n in zip(counts, each, strict=True)) * layout.EXTENT_BYTES


class _Regions:
    """Of the directory, filled in thought."""

    def __init__(self) -> None:
        self.n_levels = 1
        self._clusters: set[str] = set()
        self._metrics: set[str] = set()
        self._name_bytes = self._key_bytes = self._n_series = 0
        self._path_bytes = 0
        """Of the key of a host's own series, without the metric."""

    def host(self, cluster: str, host: str, n: int) -> None:
        if cluster not in self._clusters:
            self._clusters.add(cluster)
            self.n_levels += 1
            self._name_bytes += len(cluster.encode())
        self.n_levels += n
        self._name_bytes += n * len(host.encode())
        self._path_bytes = len(f",cluster={cluster},hostname={host},type=".encode())

    def parts(self, scope: str, ids: tuple[str, ...], n: int) -> None:
        self.n_levels += n * len(ids)
        self._name_bytes += n * sum(len(scope.encode()) + len(one.encode()) for one in ids)

    def series(self, metric: str, scope: str, n: int) -> None:
        if metric not in self._metrics:
            self._metrics.add(metric)
            self._name_bytes += len(metric.encode()) + 8
        self._n_series += n
        spelling = len(metric.encode()) + self._path_bytes + len(scope) + (0 if scope == "node" else 11)
        self._key_bytes += n * (layout.KEY.itemsize + (spelling + 7) // 8 * 8)

    def n_bytes(self) -> int:
        regions = (
            self.n_levels * layout.LEVEL.itemsize, self._n_series * layout.SERIES.itemsize,
            len(self._metrics) * layout.METRIC.itemsize, self._name_bytes, self._key_bytes + _LEAST_KEY_BYTES,
        )  # fmt: skip
        committed = sum(-(-max(n, 1) // _STEP_BYTES) * _STEP_BYTES for n in regions)
        tables = ((8, self._n_series), (4, self.n_levels), (4, self._n_series), (4, len(self._metrics)))
        return 2 * layout.PAGE_BYTES + committed + sum(_table_bytes(size, n) for size, n in tables)


def _table_bytes(slot_bytes: int, n: int) -> int:
    """A hash table doubles at a load of 0.8."""
    log2 = 10
    while n * 10 >= 8 << log2:
        log2 += 1
    return slot_bytes << log2
