"""What there is: children of a path, all paths of a depth, metric definitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mstore.errors import InvalidRequest
from mstore.kernels._gather import Gatherer
from mstore.limits import PATH_DEPTH_MAX
from mstore.query.gather import Replan, checked
from mstore.query.plan import natural_key
from mstore.selector import Selector
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader

_KINDS = {layout.KIND_GRID: "grid", layout.KIND_STAMPED: "stamped"}
_ORIGINS = {
    layout.ORIGIN_CONFIGURED: "configured",
    layout.ORIGIN_REGISTERED: "registered",
    layout.ORIGIN_CLIENT: "client",
}


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """One metric of one cluster, in the words of the configuration."""

    cluster: str
    name: str
    step_s: int
    """Seconds between samples; 0 = stamped."""
    unit: str
    aggregation: str
    type: str
    kind: str
    columns: tuple[tuple[str, str], ...]
    origin: str
    retention_s: int
    """How long samples are kept; 0 = for ever, -1 = as long as the store's."""


def children(gatherer: Gatherer, path: tuple[str, ...]) -> list[str]:
    """Names of what hangs below a path of names, natural order; nothing below a path that does not exist.

    A name is type followed by id. Where two levels share one (core1 with id 2, core with id 12), it means
    both.
    """
    levels = [0]
    for name in path:
        levels = [child for level in levels for child, found in _named(gatherer, level) if found == name]
    names = {name for level in levels for _, name in _named(gatherer, level)}
    return sorted(names, key=natural_key)


def matching(
    gatherer: Gatherer, directory: DirectoryReader, selector: Selector, metrics: Sequence[str]
) -> NDArray[np.uint64]:
    """References of the live series of some metrics (none = all) at the levels that a selector selects, each once."""
    levels = [0]
    for step in selector.steps:
        levels = [child for level in levels for child, name in _named(gatherer, level) if step.matches(name)]
    found = [np.zeros(0, np.uint64)]
    infos = [directory.metric(index) for index in range(directory.counts()["n_metrics"])]
    for info in infos:
        if not metrics or info.name in metrics:
            at = [level for level in levels if directory.level(level).cluster == info.cluster]
            found.append(checked(gatherer.collect(at, info.index)))
    return np.unique(np.concatenate(found))


def paths(gatherer: Gatherer, depth: int) -> list[tuple[str, ...]]:
    """All paths of `depth` names (1 = clusters, 2 = cluster and host, ...), natural order; raises InvalidRequest."""
    if not 0 <= depth <= PATH_DEPTH_MAX:
        raise InvalidRequest(f"depth={depth!r}: expected 0 to {PATH_DEPTH_MAX}")
    found = {path for path, _ in _walk(gatherer, depth)}
    return sorted(found, key=lambda path: [natural_key(name) for name in path])


def metrics(gatherer: Gatherer, directory: DirectoryReader, cluster: str | None = None) -> list[MetricInfo]:
    """Definitions by cluster and name, of one cluster or of all."""
    clusters = {level: name for level, name in _named(gatherer, 0) if cluster is None or name == cluster}
    found = [directory.metric(index) for index in range(directory.counts()["n_metrics"])]
    infos = [
        MetricInfo(
            clusters[info.cluster], info.name, info.step_s, info.unit, info.aggregation, info.type,
            _KINDS[info.kind], info.columns, _ORIGINS.get(info.origin, ""),
            info.retention_s,
        )
        for info in found
        if info.cluster in clusters
    ]  # fmt: skip
    return sorted(infos, key=lambda info: (natural_key(info.cluster), natural_key(info.name)))


def _named(gatherer: Gatherer, level: int) -> list[tuple[int, str]]:
    try:
        return [(child, kind + name) for child, kind, name in checked(gatherer.children(level))]
    except Replan:
        return []  # the level is not published any more


def _walk(gatherer: Gatherer, depth: int) -> Iterator[tuple[tuple[str, ...], int]]:
    if depth <= 0:
        yield (), 0
        return
    for path, level in _walk(gatherer, depth - 1):
        for child, name in _named(gatherer, level):
            yield (*path, name), child
