"""The configuration file: TOML text -> one frozen Config, every key checked.

    retention = "48h"                       a setting            (SETTINGS below)
    topology = ["fritz.json"]               clusters and their metrics, ClusterCockpit's cluster.json
    [metrics.cpu_load]                      one metric, in every cluster
    [clusters.fritz.metrics.cpu_load]       one metric, in one cluster

A metric's definition is the topology's, with [metrics.NAME] laid over it and [clusters.C.metrics.NAME] over
both. A key that is not known, or a value that is not allowed, is a ConfigError that names the key, the value
and what is allowed: a typing error must never silently become a default.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from mstore import limits
from mstore.errors import ConfigError
from mstore.model import FieldMode, MetricSpec
from mstore.quantities import Refused, format_duration, format_size, parse_duration, parse_size
from mstore.topology import Cluster, load_cluster

STEP_S_MAX = 7 * 86400
RING_BYTES_MIN = limits.WAL_BLOCK_BYTES_MAX
RING_BYTES_MAX = limits.GIB
WAL_BYTES_MIN = 2 * limits.WAL_SEGMENT_BYTES
# Two worker slots stay free for the persister and the supervisor.
WORKERS_TOTAL_MAX = limits.WORKERS_MAX - 2

AGGREGATIONS = ("sum", "avg", "none")
TYPES = ("f32", "f64", "u64")


# --- what a value may be --------------------------------------------------------------------------


def _whole(low: int, high: int, meaning: str = "") -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Refused(f"a whole number from {low} to {high}{meaning}")
        return value

    return parse


def _bounded(parse: Callable[[object], int], low: int, high: int, meaning: str) -> Callable[[object], int]:
    def bounded(value: object) -> int:
        found = parse(value)
        if not low <= found <= high:
            raise Refused(meaning)
        return found

    return bounded


def _one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            near = difflib.get_close_matches(value, choices, 1) if isinstance(value, str) else []
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise Refused(" or ".join(f'"{choice}"' for choice in choices) + hint)
        return value

    return parse


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Refused("true or false")
    return value


def _field_mode(value: object) -> FieldMode:
    return FieldMode[_one_of("value", "join")(value).upper()]


def _ring_bytes(value: object) -> int:
    found = parse_size(value)
    if not RING_BYTES_MIN <= found <= RING_BYTES_MAX or found & (found - 1):
        raise Refused(f"a power of two from {format_size(RING_BYTES_MIN)} to {format_size(RING_BYTES_MAX)}")
    return found


def _unit(value: object) -> str:
    if not isinstance(value, str) or len(value.encode()) > limits.NAME_BYTES_MAX or not value.isprintable():
        raise Refused(f"a text of at most {limits.NAME_BYTES_MAX} bytes without control characters")
    return value


def _paths(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise Refused('a list of file names such as ["fritz.json"]')
    return tuple(value)


# --- the configuration ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the file's top level: where it goes, how it is read and how it is written again."""

    field: str
    parse: Callable[[object], Any]
    show: Callable[[Any], object] = lambda value: value


_BY_CORES = " (0 = by the number of cores)"

SETTINGS: dict[str, Setting] = {
    "retention": Setting("retention_s", parse_duration, format_duration),
    "memory_cap": Setting("memory_cap_bytes", parse_size, format_size),
    "max_future": Setting("max_future_s", parse_duration, format_duration),
    "unknown_metrics": Setting("unknown_metrics", _one_of("ignore", "register")),
    "default_step": Setting("default_step_s", _whole(1, STEP_S_MAX, " (seconds)")),
    "max_series": Setting("max_series", _whole(1, limits.SERIES_MAX)),
    "fields": Setting("fields", _field_mode, lambda mode: mode.name.lower()),
    "ingest_workers": Setting("ingest_workers", _whole(0, WORKERS_TOTAL_MAX - 1, _BY_CORES)),
    "query_workers": Setting("query_workers", _whole(0, WORKERS_TOTAL_MAX - 1, _BY_CORES)),
    "ring_bytes": Setting("ring_bytes", _ring_bytes, format_size),
    "snapshot_interval": Setting(
        "snapshot_interval_s",
        _bounded(parse_duration, 0, 365 * 86400, 'a duration up to "365d" ("0" = only by wal_bytes)'),
        format_duration,
    ),
    "wal_bytes": Setting(
        "wal_bytes",
        _bounded(parse_size, WAL_BYTES_MIN, 1 << 50, f"a size of at least {format_size(WAL_BYTES_MIN)}"),
        format_size,
    ),
    "snapshot_stop_limit": Setting(
        "snapshot_stop_limit_s",
        _bounded(parse_duration, 0, 3600, 'a duration up to "1h" ("0" = no snapshot at a stop)'),
        format_duration,
    ),
    "keep_memory": Setting("keep_memory", _boolean),
    "topology": Setting("topology", _paths, lambda paths: [str(path) for path in paths]),
}

METRIC_KEYS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "step": ("step_s", _whole(0, STEP_S_MAX, " (seconds; 0 = stamped: each sample keeps its milliseconds)")),
    "aggregation": ("aggregation", _one_of(*AGGREGATIONS)),
    "type": ("type", _one_of(*TYPES)),
    "unit": ("unit", _unit),
}

# What a running store cannot take over: segments and processes are made for it.
RESTART_KEYS = ("max_series", "ingest_workers", "query_workers", "ring_bytes")


@dataclass(frozen=True, slots=True)
class MetricOverride:
    """What a [metrics.NAME] table says; None = not said."""

    step_s: int | None = None
    aggregation: str | None = None
    type: str | None = None
    unit: str | None = None

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
    topology: tuple[Path, ...] = ()
    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    """Read from the topology files, by name."""
    metrics: Mapping[str, MetricOverride] = field(default_factory=dict)
    cluster_metrics: Mapping[str, Mapping[str, MetricOverride]] = field(default_factory=dict)
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
        # A stamped row holds 8-byte words, so the narrow float has no place in it.
        return replace(spec, type="f64") if spec.stamped and spec.type == "f32" else spec

    def metrics_of(self, cluster: str) -> dict[str, MetricSpec]:
        """Every metric configured for a cluster, by name (the definitions a new cluster starts with)."""
        known = self.clusters.get(cluster)
        names = [*(known.metrics if known else ()), *self.metrics, *self.cluster_metrics.get(cluster, {})]
        found = ((name, self.metric(cluster, name)) for name in dict.fromkeys(names))
        return {name: spec for name, spec in found if spec is not None}

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


def load(path: Path | str | None) -> Config:
    """The configuration in a file; None = no configuration (unknown metrics are registered).

    raises ConfigError: unreadable, not TOML, an unknown key, a value that is not allowed, a bad topology file
    """
    if path is None:
        return Config()
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"cannot read the configuration {path}: {reason}", path=str(path)) from None
    return parse(text, path)


def parse(text: str, source: Path | None = None) -> Config:
    """TOML text -> Config; names of topology files are relative to the configuration file's own folder."""
    where = str(source) if source else "configuration"
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not valid TOML: {error}", path=where) from None
    found: dict[str, Any] = {}
    for key, value in document.items():
        if key in SETTINGS:
            found[SETTINGS[key].field] = _checked(where, key, value, SETTINGS[key].parse)
        elif key not in ("metrics", "clusters"):
            raise _unknown(where, key, value, [*SETTINGS, "metrics", "clusters"])
    found["topology"] = tuple(_resolve(source, name) for name in found.get("topology", ()))
    found["metrics"] = _metrics(where, "metrics", document.get("metrics", {}))
    found["cluster_metrics"] = _clusters(where, document.get("clusters", {}))
    found["clusters"] = _topologies(found["topology"])
    found["warnings"] = tuple(text for cluster in found["clusters"].values() for text in cluster.warnings)
    if found["metrics"] or found["cluster_metrics"] or found["clusters"]:
        found.setdefault("unknown_metrics", "ignore")
    config = Config(**found, source=source)
    _check_workers(where, config)
    return config


def with_workers(config: Config, ingest: int | None, query: int | None) -> Config:
    """The configuration with the numbers of workers that a command line gives; None = as configured."""
    for key, count in (("ingest_workers", ingest), ("query_workers", query)):
        if count is not None:
            config = replace(config, **{key: _checked("command line", key, count, SETTINGS[key].parse)})
    _check_workers("command line", config)
    return config


def example() -> str:
    """The documented example file; it parses, and its values are the defaults."""
    return (resources.files("mstore.data") / "example.toml").read_text(encoding="utf-8")


def render(config: Config) -> str:
    """The effective configuration as TOML that parses to the same settings and metric definitions."""
    lines = [f"# effective configuration ({config.source or 'no file: the defaults'})"]
    for key, one in SETTINGS.items():
        lines.append(f"{key} = {_toml(one.show(getattr(config, one.field)))}")
    for name, override in config.metrics.items():
        lines += ["", f"[metrics.{_key(name)}]", *_override_lines(override)]
    for cluster, metrics in config.cluster_metrics.items():
        for name, override in metrics.items():
            lines += ["", f"[clusters.{_key(cluster)}.metrics.{_key(name)}]", *_override_lines(override)]
    return "\n".join(lines) + "\n"


# --- helpers --------------------------------------------------------------------------------------


def _checked(where: str, key: str, value: object, parse: Callable[[object], Any]) -> Any:
    try:
        return parse(value)
    except Refused as refused:
        raise _refused(where, key, value, str(refused)) from None


def _check_workers(where: str, config: Config) -> None:
    if config.ingest_workers + config.query_workers > WORKERS_TOTAL_MAX:
        allowed = f"ingest_workers and query_workers together at most {WORKERS_TOTAL_MAX}"
        raise _refused(where, "query_workers", config.query_workers, allowed)


def _refused(where: str, key: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"{where}: {key} = {_toml(value)} is not allowed: expected {allowed}",
                       path=where, key=key, value=_toml(value), allowed=allowed)  # fmt: skip


def _unknown(where: str, key: str, value: object, known: Iterable[str], table: str = "") -> ConfigError:
    near = difflib.get_close_matches(key, list(known), 1)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    allowed = ", ".join(known)
    whole = f"{table}{_key(key)}"
    shown = whole if isinstance(value, dict) else f"{whole} = {_toml(value)}"
    return ConfigError(f"{where}: unknown key {shown}: {hint}allowed here: {allowed}",
                       path=where, key=whole, value=_toml(value), allowed=allowed)  # fmt: skip


def _table(where: str, key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refused(where, key, value, f"a table, written [{key}]")
    return value


def _metrics(where: str, prefix: str, value: object) -> dict[str, MetricOverride]:
    found: dict[str, MetricOverride] = {}
    for name, said in _table(where, prefix, value).items():
        table = f"{prefix}.{_key(name)}"
        _check_name(where, table, name)
        wanted: dict[str, Any] = {}
        for key, item in _table(where, table, said).items():
            if key not in METRIC_KEYS:
                raise _unknown(where, key, item, METRIC_KEYS, f"{table}.")
            attribute, parse_item = METRIC_KEYS[key]
            wanted[attribute] = _checked(where, f"{table}.{key}", item, parse_item)
        found[name] = MetricOverride(**wanted)
    return found


def _clusters(where: str, value: object) -> dict[str, dict[str, MetricOverride]]:
    found: dict[str, dict[str, MetricOverride]] = {}
    for name, said in _table(where, "clusters", value).items():
        table = f"clusters.{_key(name)}"
        _check_name(where, table, name)
        for key, item in _table(where, table, said).items():
            if key != "metrics":
                raise _unknown(where, key, item, ["metrics"], f"{table}.")
            found[name] = _metrics(where, f"{table}.metrics", item)
    return found


def _topologies(paths: Iterable[Path]) -> dict[str, Cluster]:
    found: dict[str, Cluster] = {}
    for path in paths:
        cluster = load_cluster(path)
        if cluster.name in found:
            first = f"cluster {cluster.name} is already in {found[cluster.name].source}"
            raise ConfigError(f"{path}: {first}", path=str(path), key="topology")
        found[cluster.name] = cluster
    return found


def _resolve(source: Path | None, name: str) -> Path:
    path = Path(name).expanduser()
    return path if path.is_absolute() or source is None else source.parent / path


def _check_name(where: str, key: str, name: str) -> None:
    if not 1 <= len(name.encode()) <= limits.NAME_BYTES_MAX or re.search(r"[\x00-\x1f\x7f-\x9f]", name):
        allowed = f"a name of 1 to {limits.NAME_BYTES_MAX} bytes without control characters"
        raise _refused(where, key, name, allowed)


def _key(name: str) -> str:
    """A key as TOML writes it: bare where it can be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _override_lines(override: MetricOverride) -> list[str]:
    said = ((key, getattr(override, attribute)) for key, (attribute, _) in METRIC_KEYS.items())
    return [f"{key} = {_toml(value)}" for key, value in said if value is not None]


def _toml(value: object) -> str:
    """A value as TOML shows it (JSON's texts for strings, numbers and lists are TOML's too)."""
    if isinstance(value, (str, int, float, list)):
        return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")
    return "{...}" if isinstance(value, dict) else str(value)
