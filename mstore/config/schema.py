"""What a store can be told: every key of the file, how it is read and written, and the Config it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mstore import limits
from mstore.config.archive import SECTION as ARCHIVE
from mstore.config.archive import Archive
from mstore.config.export import SECTION as EXPORT
from mstore.config.export import ExportSettings
from mstore.config.protect import SECTION as PROTECT
from mstore.config.protect import Protect
from mstore.config.setting import Section, Setting
from mstore.config.values import (
    boolean,
    bounded,
    duration,
    field_mode,
    format_duration,
    format_size,
    one_of,
    parse_size,
    paths,
    ring_bytes,
    unit,
    whole,
)
from mstore.model import FieldMode, MetricSpec
from mstore.topology import Cluster

STEP_S_MAX = 7 * 86400
WAL_BYTES_MIN = 2 * limits.WAL_SEGMENT_BYTES
# Two worker slots stay free for the persister and the supervisor.
WORKERS_TOTAL_MAX = limits.WORKERS_MAX - 2

AGGREGATIONS = ("sum", "avg", "none")
TYPES = ("f32", "f64", "u64")


_BY_CORES = " (0 = by the number of cores)"

SETTINGS: dict[str, Setting] = {
    "retention": Setting("retention_s", duration, format_duration),
    "memory_cap": Setting("memory_cap_bytes", parse_size, format_size),
    "max_future": Setting("max_future_s", duration, format_duration),
    "unknown_metrics": Setting("unknown_metrics", one_of("ignore", "register")),
    "default_step": Setting("default_step_s", whole(1, STEP_S_MAX, " (seconds)")),
    "max_series": Setting("max_series", whole(1, limits.SERIES_MAX)),
    "fields": Setting("fields", field_mode, lambda mode: mode.name.lower()),
    "ingest_workers": Setting("ingest_workers", whole(0, WORKERS_TOTAL_MAX - 1, _BY_CORES)),
    "query_workers": Setting("query_workers", whole(0, WORKERS_TOTAL_MAX - 1, _BY_CORES)),
    "ring_bytes": Setting("ring_bytes", ring_bytes, format_size),
    "snapshot_interval": Setting(
        "snapshot_interval_s",
        bounded(duration, 0, 365 * 86400, 'a duration up to "365d" ("0" = only by wal_bytes)'),
        format_duration,
    ),
    "wal_bytes": Setting(
        "wal_bytes",
        bounded(parse_size, WAL_BYTES_MIN, 1 << 50, f"a size of at least {format_size(WAL_BYTES_MIN)}"),
        format_size,
    ),
    "snapshot_stop_limit": Setting(
        "snapshot_stop_limit_s",
        bounded(duration, 0, 3600, 'a duration up to "1h" ("0" = no snapshot at a stop)'),
        format_duration,
    ),
    "keep_memory": Setting("keep_memory", boolean),
    "minimum_points": Setting("minimum_points", whole(0, limits.QUERY_SAMPLES_MAX)),
    "topology": Setting("topology", paths, lambda paths: [str(path) for path in paths]),
}

METRIC_KEYS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "step": ("step_s", whole(0, STEP_S_MAX, " (seconds; 0 = stamped: each sample keeps its milliseconds)")),
    "aggregation": ("aggregation", one_of(*AGGREGATIONS)),
    "type": ("type", one_of(*TYPES)),
    "unit": ("unit", unit),
    "retention": ("retention_s", duration),
}
CLUSTER_KEYS = ("retention", "metrics")


SECTIONS: dict[str, Section] = {"protect": PROTECT, "export": EXPORT, "archive": ARCHIVE}

# What a running store cannot take over: segments and processes are made for it.
RESTART_KEYS = ("max_series", "ingest_workers", "query_workers", "ring_bytes")


@dataclass(frozen=True, slots=True)
class MetricOverride:
    """What a [metrics.NAME] table says; None = not said."""

    step_s: int | None = None
    aggregation: str | None = None
    type: str | None = None
    unit: str | None = None
    retention_s: int | None = None
    """0 = for ever."""

    def over(self, spec: MetricSpec) -> MetricSpec:
        said = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(spec, **{name: value for name, value in said.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a store; the defaults are those of a store without a configuration."""

    retention_s: int = 48 * 3600
    """Samples older than this are freed; 0 = never."""
    memory_cap_bytes: int = 0
    """All shared-memory segments together; 0 = what /dev/shm and RAM hold."""
    max_future_s: int = 3600
    """A sample further ahead of the clock than this is refused."""
    unknown_metrics: str = "register"
    """ignore or register; a file that names metrics or a topology changes the default to ignore."""
    default_step_s: int = 60
    """Step of metrics registered because a line named them."""
    max_series: int = limits.SERIES_MAX_DEFAULT
    fields: FieldMode = FieldMode.VALUE
    ingest_workers: int = 0
    """Processes; 0 = by the number of cores (see worker_counts)."""
    query_workers: int = 0
    ring_bytes: int = limits.RING_BYTES
    """Shared-memory ring of one ingest worker; a power of two."""
    snapshot_interval_s: int = 6 * 3600
    """Seconds between snapshots; 0 = only when the log has grown to wal_bytes."""
    wal_bytes: int = 1 * limits.GIB
    """Log size that asks for a snapshot before its interval is over."""
    snapshot_stop_limit_s: int = 120
    """Seconds that a stop waits for its last snapshot; 0 = it takes none, and the next start reads the log."""
    keep_memory: bool = False
    """A stop leaves the shared memory for the next start, which is then ready at once."""
    minimum_points: int = 0
    """A batch request's answer is resampled only if its range has at least so many points."""
    export: ExportSettings = field(default_factory=ExportSettings)
    """Files of the reference, written now and then."""
    archive: Archive = field(default_factory=Archive)
    """What becomes of data that leaves memory."""
    topology: tuple[Path, ...] = ()
    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    """Read from the topology files, by name."""
    metrics: Mapping[str, MetricOverride] = field(default_factory=dict)
    cluster_metrics: Mapping[str, Mapping[str, MetricOverride]] = field(default_factory=dict)
    cluster_retention_s: Mapping[str, int] = field(default_factory=dict)
    """Of clusters that say so: how long their metrics are kept that say nothing themselves."""
    protect: Protect = field(default_factory=Protect)
    """Who says which hosts keep their data past retention."""
    source: Path | None = None
    warnings: tuple[str, ...] = ()
    """What the topology files say that mstore does not follow, one sentence each."""

    def metric(self, cluster: str, name: str) -> MetricSpec | None:
        """The definition of one metric in one cluster, or None when nothing configures it."""
        known = self.clusters.get(cluster)
        from_topology = known.metrics.get(name) if known else None
        said = (self.metrics.get(name), self.cluster_metrics.get(cluster, {}).get(name))
        if from_topology is None and said == (None, None):
            return None
        spec = from_topology.spec if from_topology else MetricSpec(name, step_s=self.default_step_s)
        for override in said:
            spec = override.over(spec) if override else spec
        if spec.retention_s < 0:
            spec = replace(spec, retention_s=self.cluster_retention_s.get(cluster, -1))
        # A stamped row holds 8-byte words, so the narrow float has no place in it.
        return replace(spec, type="f64") if spec.stamped and spec.type == "f32" else spec

    def metrics_of(self, cluster: str) -> dict[str, MetricSpec]:
        """Every metric configured for a cluster, by name (the definitions a new cluster starts with)."""
        known = self.clusters.get(cluster)
        names = [*(known.metrics if known else ()), *self.metrics, *self.cluster_metrics.get(cluster, {})]
        found = ((name, self.metric(cluster, name)) for name in dict.fromkeys(names))
        return {name: spec for name, spec in found if spec is not None}

    def beside(self, name: str) -> str:
        """The whole path of a file that the configuration names; "" stays that. Relative names are beside its own file."""
        path = Path(name).expanduser()
        if not name or path.is_absolute():
            return str(path) if name else ""
        return str((self.source.parent if self.source else Path()).absolute() / path)

    def retentions_s(self) -> frozenset[int]:
        """Every period for which something may be kept, seconds; 0 = for ever."""
        overrides = [
            *self.metrics.values(),
            *(one for of in self.cluster_metrics.values() for one in of.values()),
        ]
        said = (override.retention_s for override in overrides)
        own = (period for period in said if period is not None)
        return frozenset((self.retention_s, *self.cluster_retention_s.values(), *own))

    def worker_counts(self, n_cores: int) -> tuple[int, int]:
        """(ingest, query) processes: as configured, else half the cores and one more of each kind, 1 to 10.

        On one or two cores 1 of each: the persister and the senders need cores, too.
        """
        automatic = 1 if n_cores <= 2 else min(n_cores // 2 + 1, 10)
        return self.ingest_workers or automatic, self.query_workers or automatic

    def needs_restart(self, newer: Config) -> list[str]:
        """The keys of `newer` that a running store cannot take over by a reload."""
        names = {key: SETTINGS[key].field for key in RESTART_KEYS}
        return [key for key, name in names.items() if getattr(self, name) != getattr(newer, name)]
