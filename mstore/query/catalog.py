"""What there is: children of a path, all paths of a depth, metric definitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mstore.config import Config
from mstore.errors import InvalidRequest
from mstore.hostlists import natural_key
from mstore.kernels._gather import Gatherer
from mstore.limits import PATH_DEPTH_MAX
from mstore.model import Metric
from mstore.query import selected
from mstore.query.budget import PIECE_SERIES, Work, finished
from mstore.query.gather import Replan, checked
from mstore.query.resolve import resolving
from mstore.query.retained import RetainedGatherer
from mstore.selector import ANY, Selector
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader

_KINDS = {layout.KIND_GRID: "grid", layout.KIND_STAMPED: "stamped"}
_ORIGINS = {
    layout.ORIGIN_CONFIGURED: "configured",
    layout.ORIGIN_REGISTERED: "registered",
    layout.ORIGIN_CLIENT: "client",
}


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
    gatherer: RetainedGatherer, directory: DirectoryReader, selector: Selector, metrics: Sequence[str]
) -> NDArray[np.uint64]:
    """References of the live series of some metrics (none = all) that a selector selects, each once, by slot.

    As everywhere, a level that does not hold a metric stands for what is below it. Followers ask this whenever something
    new appears, so the table of all series is gone through at once, not the levels metric by metric. What is named and
    not there is not there yet: no error.
    """
    chosen = finished(resolving(gatherer, selector, absent=False)).levels
    below = selected.subtrees(directory, chosen)
    table, tree = directory.series_table(), directory.levels()
    generations = table["generation"].copy()
    flags = table["flags"] & (layout.SERIES_LIVE | layout.SERIES_ENDED)
    mine = selected.of_series(directory, below, slice(0, len(table))) & (flags == layout.SERIES_LIVE)
    slots = np.flatnonzero(mine)
    levels, indices = table["level"][slots].astype(np.uint64), table["metric"][slots].astype(np.uint64)
    keys = levels << np.uint64(32) | indices
    kept = table["generation"][slots] == generations[slots]  # else it has become another's: that will be told
    if metrics:
        named = [i for i in range(directory.counts()["n_metrics"]) if directory.metric(i).name in metrics]
        kept &= np.isin(indices, np.array(named, np.uint64))
    at = levels
    for _ in range(PATH_DEPTH_MAX - selector.depth):
        deeper = tree["depth"][at] > selector.depth
        at = np.where(deeper, tree["parent"][at], at).astype(np.uint64)
        kept &= ~(deeper & np.isin(at << np.uint64(32) | indices, keys))
    slots = slots[kept]
    found: NDArray[np.uint64] = generations[slots].astype(np.uint64) << np.uint64(32) | slots.astype(
        np.uint64
    )
    return found


def paths_work(gatherer: RetainedGatherer, depth: int) -> Work[list[tuple[str, ...]]]:
    """All paths of `depth` names (1 = clusters, 2 = cluster and host, ...), natural order; raises InvalidRequest."""
    if not 0 <= depth <= PATH_DEPTH_MAX:
        raise InvalidRequest(f"depth={depth!r}: expected 0 to {PATH_DEPTH_MAX}")
    if depth == 0:
        return [()]
    rows = yield from resolving(gatherer, Selector((ANY,) * depth))
    found: dict[tuple[str, ...], None] = {}
    for at in range(0, len(rows), PIECE_SERIES):
        part = rows.taken(np.arange(at, min(at + PIECE_SERIES, len(rows))))
        for line in part.paths(gatherer).lines:
            parts = line.split("\t")
            below = zip(parts[2::2], parts[3::2], strict=True)
            found[(*parts[:2], *map("".join, below))] = (
                None  # core1 with id 2 and core with id 12 are one path
            )
        yield
    return list(found)


def metrics(gatherer: Gatherer, directory: DirectoryReader, cluster: str | None = None) -> list[Metric]:
    """Definitions by cluster and name, of one cluster or of all."""
    clusters = {level: name for level, name in _named(gatherer, 0) if cluster is None or name == cluster}
    found = [directory.metric(index) for index in range(directory.counts()["n_metrics"])]
    infos = [
        Metric(
            clusters[info.cluster], info.name, info.step_s, info.unit, info.aggregation, info.type,
            _KINDS[info.kind], info.columns, _ORIGINS.get(info.origin, ""),
            info.retention_s,
        )
        for info in found
        if info.cluster in clusters
    ]  # fmt: skip
    return sorted(infos, key=lambda info: (natural_key(info.cluster), natural_key(info.name)))


def usual_metrics(gatherer: Gatherer, directory: DirectoryReader, config: Config, cluster: str) -> list[str]:
    """Metrics that come at every step: those that are configured for a cluster, or else all it has."""
    configured = config.metrics_of(cluster)
    if configured:
        return [name for name, spec in configured.items() if not spec.stamped]
    return [metric.name for metric in metrics(gatherer, directory, cluster) if metric.step_s]


def _named(gatherer: Gatherer, level: int) -> list[tuple[int, str]]:
    try:
        return [(child, kind + name) for child, kind, name in checked(gatherer.children(level))]
    except Replan:
        return []  # the level is not published any more
