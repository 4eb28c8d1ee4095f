"""Metrics that exist already follow the configuration: their definitions, and the grids of their series.

Called after recovery and after a reload. A metric is defined by whoever names it first, often a line that came before
there was any configuration; what the configuration says later must hold all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mstore.config import Config
from mstore.errors import Degraded, StorageError, StoreFull
from mstore.ingest.engine import Rules
from mstore.model import FieldMode, MetricSpec
from mstore.shm import layout
from mstore.shm.control import WorkerSlot
from mstore.shm.directory import KEEP_ALL_S, DirectoryWriter, MetricInfo, SeriesInfo
from mstore.workers.path_interning import PathInterner

log = logging.getLogger(__name__)

_NO_SAMPLE = -(1 << 63)
_TYPES = {name: code for code, name in layout.TYPE_NAMES.items()}


class Defining(Protocol):
    """What a directory's writer must have for its metrics to follow a configuration."""

    @property
    def directory(self) -> DirectoryWriter: ...
    @property
    def config(self) -> Config: ...
    @property
    def slot(self) -> WorkerSlot: ...

    def append_catalog(self, records: bytes) -> None:
        """Log definitions. raises StorageError, Degraded"""
        ...


def set_policy(directory: DirectoryWriter, config: Config, version: int) -> PathInterner:
    """What becomes of series and metrics that are not known yet, by this configuration; who interns paths by it."""
    register = config.unknown_metrics == "register"
    directory.set_policy(register, config.default_step_s, version, config.max_series, 4 * config.max_series)
    directory.set_retentions(
        {cluster.encode(): period_s for cluster, period_s in config.cluster_retention_s.items()}
    )
    directory.set_metric_source(lambda cluster, name: config.metric(cluster.decode(), name.decode()))
    return PathInterner(directory, config.metric, register, config.default_step_s)


def ingest_rules(config: Config, version: int) -> Rules:
    """What ingest goes by."""
    own = config.retentions_s() - {config.retention_s}
    return Rules(config.retention_s, config.max_future_s, config.fields is FieldMode.JOIN, version, own)


def follow_configuration(persister: Defining) -> None:
    """Define what the configuration names, and continue series of another step or type as new eras; all of it logged.

    What the log refuses now is logged before anything else is.
    """
    n_eras = 0
    records: list[bytes] = []
    _ignore(persister.directory, persister.config)
    try:
        records.extend(_definitions(persister.directory, persister.config))
        for piece in _eras(persister.directory):
            records.append(piece)
            n_eras += 1
    except StoreFull as error:
        log.error("not all metrics follow the configuration: %s", error)
        records.append(persister.directory.take_log())  # of the call that got only half way
    persister.slot.add("eras_started", n_eras)
    if not any(records):
        return
    try:
        persister.append_catalog(b"".join(records))
    except (StorageError, Degraded) as error:
        log.warning("changed definitions wait for the log: %s", error)


def kept_from_s(directory: DirectoryWriter, config: Config, now_s: int) -> NDArray[np.int64]:
    """int64[n_metrics]: the first second that is kept of each metric by this configuration; KEEP_ALL_S = every one.

    What DirectoryWriter.kept_from_s() says once the metrics follow it.
    """
    found = np.full(directory.counts()["n_metrics"], KEEP_ALL_S)
    for index in range(len(found)):
        info = directory.metric(index)
        cluster = directory.level(info.cluster).type_id
        spec = config.metric(cluster, info.name)
        own_s = spec.retention_s if spec else config.cluster_retention_s.get(cluster, -1)
        if period_s := config.retention_s if own_s < 0 else own_s:
            found[index] = now_s - period_s
    return found


def changes_grids(directory: DirectoryWriter, config: Config) -> bool:
    """Whether following this configuration would give a series another type or step."""
    metrics = directory.metrics_table()
    types, steps = metrics["type"].copy(), metrics["step_s"].copy()
    for index in range(len(metrics)):
        info = directory.metric(index)
        spec = config.metric(directory.level(info.cluster).type_id, info.name)
        if spec is not None and not spec.stamped and info.kind == layout.KIND_GRID:
            types[index], steps[index] = _TYPES[spec.type], spec.step_s
    return bool(directory.newest_grids_unlike(types, steps, limit=1))


def _ignore(directory: DirectoryWriter, config: Config) -> None:
    """With unknown_metrics = "ignore", samples of metrics that are configured no longer are unknown ones again.

    What they have stored stays readable until retention. Metrics that clients defined themselves are not the
    configuration's to drop.
    """
    ignored = {}
    for index in range(directory.counts()["n_metrics"] if config.unknown_metrics == "ignore" else 0):
        info = directory.metric(index)
        cluster = directory.level(info.cluster).type_id
        if info.origin != layout.ORIGIN_CLIENT and config.metric(cluster, info.name) is None:
            ignored[index] = f"{cluster}:{info.name}"
    news = [name for index, name in ignored.items() if not directory.ignores(index)]
    if news:
        log.warning(
            "%d metrics are not configured (any more): their samples are ignored, what is stored stays readable: %s",
            len(news), ", ".join(news[:20]) + ("" if len(news) <= 20 else ", ..."),
        )  # fmt: skip
    directory.ignore_metrics(ignored)


def _definitions(directory: DirectoryWriter, config: Config) -> Iterator[bytes]:
    """Log records of what was made or changed. Metrics of configured clusters are made before their first sample."""
    known = [directory.metric(index) for index in range(directory.counts()["n_metrics"])]
    made = set()
    for info in known:
        cluster = directory.level(info.cluster).type_id
        made.add((cluster, info.name))
        if spec := config.metric(cluster, info.name):
            yield directory.define_metric(cluster, _possible(cluster, spec, info))
        else:  # registered, a client's, or configured no longer: only its retention is the configuration's to say
            kept = replace(_spec_of(info), retention_s=config.cluster_retention_s.get(cluster, -1))
            yield directory.define_metric(cluster, kept, info.origin)
    for cluster in dict.fromkeys([*config.clusters, *config.cluster_metrics]):
        for name, spec in config.metrics_of(cluster).items():
            if (cluster, name) not in made:
                yield directory.define_metric(cluster, spec)


def _spec_of(info: MetricInfo) -> MetricSpec:
    return MetricSpec(
        info.name,
        info.step_s,
        info.aggregation,
        info.type or "f64",
        info.unit,
        info.columns,
        info.retention_s,
    )


def _possible(cluster: str, spec: MetricSpec, info: MetricInfo) -> MetricSpec:
    """The definition without what an existing metric cannot take over: rows stay rows, with their columns."""
    stamped = info.kind == layout.KIND_STAMPED
    if spec.stamped != stamped:
        log.warning(
            "metric %s of cluster %s keeps step %d: a metric with samples cannot change between stamped and a step",
            info.name, cluster, info.step_s,
        )  # fmt: skip
        spec = replace(spec, step_s=info.step_s, type=info.type or "f64")
    if stamped:
        spec = replace(spec, columns=info.columns, type=info.type or "f64")
    return spec


def _eras(directory: DirectoryWriter) -> Iterator[bytes]:
    """Log records of a new era for each grid series whose step or type is not its metric's."""
    metrics = directory.metrics_table()
    types, steps = (np.ascontiguousarray(metrics[name]) for name in ("type", "step_s"))
    # A series that is being removed, or ignored, gets no sample: its successor begins with the new grid.
    for slot in directory.newest_grids_unlike(types, steps, layout.SERIES_REMOVING):
        info = directory.series(slot)
        if info is None or metrics[info.metric]["kind"] != layout.KIND_GRID:
            continue
        wanted = metrics[info.metric]
        step_s = int(wanted["step_s"])
        anchor_s, era_start = next_grid(info, step_s)
        yield directory.begin_era(slot, anchor_s, step_s, era_start, int(wanted["type"]))[1]


def next_grid(series: SeriesInfo, step_s: int) -> tuple[int, int]:
    """(anchor, start) of an era with another step: it keeps the phase and takes no slot with a sample from the old one.

    Its first nominal time is not before its start, so no slot of an answer belongs to both.
    """
    if series.last_t == _NO_SAMPLE:
        anchor_s = series.anchor_s + series.step_s // 2 - step_s // 2
        return anchor_s, max(anchor_s, series.era_start)
    stop = series.last_t - series.step_s // 2 + series.step_s
    nominal = series.last_t + series.step_s
    nominal -= (nominal - stop) // step_s * step_s
    anchor_s = nominal - step_s // 2
    return anchor_s, max(anchor_s, stop)
