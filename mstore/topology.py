"""Clusters as their operators describe them: ClusterCockpit's cluster.json.

    cluster.json                                  Cluster
      name                                          name
      metricConfig[]  name, unit, scope, peak,      metrics      name -> Metric (definition, scope, range,
                      aggregation, timestep,                     where it does not exist)
                      subClusters[].remove
      subClusters[]   name, topology,               subclusters  name -> Subcluster (hosts, Topology)
                      nodes ("f[0101-0188]")

Keys about plots and accounting (footprint, energy, alert, flopRate...) are not mstore's and are passed over.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mstore.errors import ConfigError, shortened
from mstore.hostlists import expand, fold
from mstore.model import MetricSpec, SeriesPath
from mstore.nearest import nearest

SCOPES = ("node", "socket", "memoryDomain", "core", "hwthread", "accelerator")
CLUSTER_FILE_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Topology:
    """The parts of one node; every inner tuple lists hardware threads."""

    node: tuple[int, ...] = ()
    sockets: tuple[tuple[int, ...], ...] = ()
    memory_domains: tuple[tuple[int, ...], ...] = ()
    cores: tuple[tuple[int, ...], ...] = ()
    accelerators: tuple[str, ...] = ()
    """Their ids: PCI addresses as a rule."""

    def ids(self, scope: str) -> tuple[str, ...]:
        """The type-ids of a scope on this node; () for scope node, which needs none."""
        if scope == "hwthread":
            return tuple(str(thread) for thread in self.node)
        if scope == "accelerator":
            return self.accelerators
        groups = {"socket": self.sockets, "memoryDomain": self.memory_domains, "core": self.cores}
        return tuple(str(index) for index in range(len(groups.get(scope, ()))))


@dataclass(frozen=True, slots=True)
class Subcluster:
    """Nodes of one make."""

    name: str
    hosts: tuple[str, ...]
    topology: Topology


@dataclass(frozen=True, slots=True)
class Metric:
    """One entry of metricConfig: the definition mstore stores by, and what collectors send."""

    spec: MetricSpec
    scope: str
    removed_from: frozenset[str] = frozenset()
    """Subclusters that do not have it."""
    peak: float = 100.0
    """Largest plausible value, in the metric's unit."""
    peaks: Mapping[str, float] = field(default_factory=dict)
    """Subclusters with a peak of their own."""
    unit_prefix: str = ""
    """How much of the unit's text is its prefix: "G" of "GB/s"."""

    def is_on(self, subcluster: Subcluster) -> bool:
        """Whether the subcluster's nodes have it: not removed from them, and they have parts of its scope."""
        has_parts = self.scope == "node" or bool(subcluster.topology.ids(self.scope))
        return has_parts and subcluster.name not in self.removed_from


@dataclass(frozen=True, slots=True)
class Cluster:
    name: str
    metrics: Mapping[str, Metric]
    subclusters: Mapping[str, Subcluster]
    source: Path | None = None
    warnings: tuple[str, ...] = ()

    def hosts(self) -> list[str]:
        """Every node, in the file's order; a node listed by two subclusters belongs to the first."""
        return [host for sub in self.subclusters.values() for host in sub.hosts]

    def by_host(self) -> dict[str, Subcluster]:
        """The subcluster of every node, in the file's order."""
        return {host: sub for sub in self.subclusters.values() for host in sub.hosts}

    def n_series(self) -> int:
        """How many series all its nodes together send."""
        subs = self.subclusters.values()
        return sum(len(sub.hosts) * sum(1 for _ in self.paths(sub, "")) for sub in subs)

    def paths(self, subcluster: Subcluster, host: str) -> Iterator[SeriesPath]:
        """The series that a node's collector sends, metric by metric, in id order."""
        for name, metric in self.metrics.items():
            if subcluster.name in metric.removed_from:
                continue
            if metric.scope == "node":
                yield SeriesPath(self.name, host, name, "node")
            for type_id in subcluster.topology.ids(metric.scope):
                yield SeriesPath(self.name, host, name, metric.scope, type_id)


def load_cluster(path: Path | str) -> Cluster:
    """Read a cluster.json.

    raises ConfigError naming the file, the place in it, the value and what is allowed
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(CLUSTER_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the topology {path}: {error.strerror}", path=str(path)) from None
    if len(content) > CLUSTER_FILE_BYTES_MAX:
        size = f"{CLUSTER_FILE_BYTES_MAX >> 20} MiB"
        raise ConfigError(f"{path}: larger than {size}: not a cluster.json", path=str(path))
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}", path=str(path)) from None
    return parse_cluster(document, path)


def parse_cluster(document: object, source: Path | None = None) -> Cluster:
    """A decoded cluster.json -> Cluster."""
    return _ClusterReader(source).read(document)


def document(cluster: Cluster) -> dict[str, Any]:
    """A cluster.json of what mstore keeps of one: parse_cluster() makes an equal Cluster of it."""
    return {
        "name": cluster.name,
        "metricConfig": [_metric_document(metric) for metric in cluster.metrics.values()],
        "subClusters": [
            {"name": sub.name, "nodes": ",".join(sub.hosts), "topology": _topology_document(sub.topology)}
            for sub in cluster.subclusters.values()
        ],
    }


def _metric_document(metric: Metric) -> dict[str, Any]:
    spec, special = metric.spec, dict.fromkeys([*metric.peaks, *sorted(metric.removed_from)])
    return {
        "name": spec.name,
        "unit": {"prefix": metric.unit_prefix, "base": spec.unit[len(metric.unit_prefix) :]},
        "scope": metric.scope, "aggregation": spec.aggregation, "timestep": spec.step_s, "peak": metric.peak,
        "subClusters": [
            {"name": name, "peak": metric.peaks.get(name), "remove": name in metric.removed_from} for name in special
        ],
    }  # fmt: skip


def _topology_document(topology: Topology) -> dict[str, Any]:
    return {
        "node": list(topology.node),
        "socket": [list(threads) for threads in topology.sockets],
        "memoryDomain": [list(threads) for threads in topology.memory_domains],
        "core": [list(threads) for threads in topology.cores],
        "accelerators": [{"id": accelerator} for accelerator in topology.accelerators],
    }


class _ClusterReader:
    """Walks the decoded JSON, remembering where it is for the messages."""

    def __init__(self, source: Path | None) -> None:
        self.source = source
        self.warnings: list[str] = []

    def read(self, document: object) -> Cluster:
        top = self._object(document, "")
        name = self._text(top, "name", "")
        subclusters = self._subclusters(top.get("subClusters"))
        metrics = self._metrics(top.get("metricConfig"), set(subclusters))
        return Cluster(name, metrics, subclusters, self.source, tuple(self.warnings))

    def _subclusters(self, value: object) -> dict[str, Subcluster]:
        found: dict[str, Subcluster] = {}
        owner: dict[str, str] = {}
        for index, item in enumerate(self._list(value, "subClusters")):
            where = f"subClusters[{index}]"
            entry = self._object(item, where)
            name = self._text(entry, "name", where)
            listed = expand(self._text(entry, "nodes", where, empty=True))
            hosts = tuple(host for host in dict.fromkeys(listed) if host not in owner)
            if twice := [host for host in listed if owner.get(host, name) != name]:
                others = ", ".join(sorted({owner[host] for host in twice}))
                self._warn(f"{where}.nodes: {fold(twice)} also in {others}, whose topology and metrics hold")
            owner.update(dict.fromkeys(hosts, name))
            topology = self._topology(entry.get("topology") or {}, f"{where}.topology")
            found[name] = Subcluster(name, hosts, topology)
        return found

    def _topology(self, value: object, where: str) -> Topology:
        entry = self._object(value, where)
        groups = {}
        for key in ("socket", "memoryDomain", "core"):
            items = self._list(entry.get(key) or [], f"{where}.{key}")
            groups[key] = tuple(self._threads(item, f"{where}.{key}[{i}]") for i, item in enumerate(items))
        accelerators = []
        for index, item in enumerate(self._list(entry.get("accelerators") or [], f"{where}.accelerators")):
            place = f"{where}.accelerators[{index}]"
            accelerators.append(self._text(self._object(item, place), "id", place))
        node = self._threads(entry.get("node") or [], f"{where}.node")
        for key, parts in groups.items():
            self._compare(node, parts, f"{where}.node", f"{where}.{key}")
        return Topology(node, groups["socket"], groups["memoryDomain"], groups["core"], tuple(accelerators))

    def _compare(
        self, node: tuple[int, ...], parts: tuple[tuple[int, ...], ...], where: str, place: str
    ) -> None:
        """Threads that the node has and none of its parts, or the other way round: sums over the parts miss them."""
        listed = set(itertools.chain(*parts))
        for lost, here, there in ((set(node) - listed, where, place), (listed - set(node), place, where)):
            if parts and lost:
                self._warn(f"{here}: threads {', '.join(map(str, sorted(lost)[:8]))} are not in {there}")

    def _metrics(self, value: object, subclusters: set[str]) -> dict[str, Metric]:
        found: dict[str, Metric] = {}
        for index, item in enumerate(self._list(value, "metricConfig")):
            where = f"metricConfig[{index}]"
            entry = self._object(item, where)
            metric = self._metric(entry, where, subclusters)
            if metric.spec.name in found:
                self._refuse(f"{where}.name", metric.spec.name, "a name no other metric of this cluster has")
            found[metric.spec.name] = metric
        return found

    def _metric(self, entry: dict[str, Any], where: str, subclusters: set[str]) -> Metric:
        name = self._text(entry, "name", where)
        where = f"{where} ({name})"
        step = entry.get("timestep")
        if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= 7 * 86400:
            self._refuse(f"{where}.timestep", step, "whole seconds from 1 to 604800")
        aggregation = self._aggregation(entry.get("aggregation"), where)
        unit, prefix = self._unit(entry, where)
        spec = MetricSpec(name, step, aggregation, "f32", unit)
        scope = self._scope(entry.get("scope", "node"), where)
        peaks: dict[str, float] = {}
        removed = set()
        for index, item in enumerate(self._list(entry.get("subClusters") or [], f"{where}.subClusters")):
            special = self._object(item, f"{where}.subClusters[{index}]")
            sub = self._text(special, "name", f"{where}.subClusters[{index}]")
            if sub not in subclusters:
                self._warn(f"{where}.subClusters[{index}] names {shortened(sub)}, which is no subcluster")
            if special.get("timestep", step) != step:
                self._warn(
                    f"{where}.subClusters[{index}].timestep is not followed: a metric has one step a cluster"
                )
            if special.get("remove"):
                removed.add(sub)
            peaks[sub] = self._peak(special)
        return Metric(spec, scope, frozenset(removed), self._peak(entry), peaks, prefix)

    def _aggregation(self, value: object, where: str) -> str:
        if value in (None, ""):
            return "none"
        if value not in ("sum", "avg", "none"):
            self._warn(
                f"{where}.aggregation: {shortened(repr(value))} is neither sum, avg nor none; taken as none"
            )
            return "none"
        return str(value)

    def _scope(self, value: object, where: str) -> str:
        if value not in SCOPES:
            near = nearest(str(value), SCOPES)
            hint = f"; did you mean {near}?" if near else ""
            self._refuse(f"{where}.scope", value, ", ".join(SCOPES) + hint)
        return str(value)

    def _unit(self, entry: dict[str, Any], where: str) -> tuple[str, str]:
        """{"prefix": "G", "base": "B/s"} -> GB/s and its prefix; older files hold the text itself."""
        unit = entry.get("unit") or {}
        if isinstance(unit, str):
            return unit, ""
        parts = self._object(unit, f"{where}.unit")
        prefix = str(parts.get("prefix") or "")
        return prefix + str(parts.get("base") or ""), prefix

    @staticmethod
    def _peak(entry: dict[str, Any]) -> float:
        peak = entry.get("peak")
        return float(peak) if isinstance(peak, (int, float)) and peak > 0 else 100.0

    def _threads(self, value: object, where: str) -> tuple[int, ...]:
        items = self._list(value, where)
        if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in items):
            self._refuse(where, value, "a list of hardware thread numbers")
        return tuple(items)

    def _object(self, value: object, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._refuse(where or "the file", value, "an object {...}")
        return value

    def _list(self, value: object, where: str) -> list[Any]:
        if not isinstance(value, list):
            self._refuse(where, value, "a list [...]")
        return value

    def _text(self, entry: dict[str, Any], key: str, where: str, empty: bool = False) -> str:
        value = entry.get(key, "" if empty else None)
        if not isinstance(value, str) or not (value or empty):
            self._refuse(f"{where}.{key}".lstrip("."), value, "a text")
        return value

    def _warn(self, text: str) -> None:
        self.warnings.append(f"{self.source or 'cluster'}: {text}")

    def _refuse(self, where: str, value: object, allowed: str) -> NoReturn:
        shown = shortened(json.dumps(value, default=str))
        raise ConfigError(f"{self.source or 'cluster'}: {where} = {shown} is not allowed: expected {allowed}",
                          path=str(self.source), key=where, value=shown, allowed=allowed)  # fmt: skip
