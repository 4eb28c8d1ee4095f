"""TOML text -> Config and back, every key checked: load, parse, render."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from mstore import limits
from mstore.config.cockpit import Translator, decode, is_cockpit
from mstore.config.schema import (
    CLUSTER_KEYS,
    METRIC_KEYS,
    SECTIONS,
    SETTINGS,
    WORKERS_TOTAL_MAX,
    Config,
    MetricOverride,
)
from mstore.config.setting import Section
from mstore.config.values import Refused, duration, format_duration
from mstore.errors import ConfigError, shortened
from mstore.nearest import nearest
from mstore.topology import Cluster, load_cluster


def load(path: Path | str | None) -> Config:
    """The configuration in a file; None = no configuration (unknown metrics are registered).

    A name that ends in .json is ClusterCockpit's config.json (cockpit.py); what it says that mstore does not follow is
    in the warnings.
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
    return _parse_cockpit(text, path) if is_cockpit(path) else parse(text, path)


def parse(text: str, source: Path | None = None) -> Config:
    """TOML text -> Config; names of topology files are relative to the configuration file's own folder."""
    where = str(source) if source else "configuration"
    try:
        document = tomllib.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # the latter, and numbers of thousands of digits, are not TOML's own
        raise ConfigError(f"{where}: not valid TOML: {error}", path=where) from None
    return _config_of(document, where, source)


def _parse_cockpit(text: str, source: Path) -> Config:
    """The text of a config.json -> Config."""
    where = str(source)
    try:
        given = decode(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid JSON: {error}", path=where) from None
    translator = Translator(partial(_checked, where), SECTIONS, source.parent)
    translator.read(given)
    config = _config_of(translator.document, where, source)
    return replace(config, warnings=(*translator.warnings, *config.warnings))


def _config_of(document: dict[str, Any], where: str, source: Path | None) -> Config:
    found: dict[str, Any] = {}
    for key, value in document.items():
        if key in SETTINGS:
            found[SETTINGS[key].field] = _checked(where, key, value, SETTINGS[key].parse)
        elif key in SECTIONS:
            found[SECTIONS[key].field] = _section(where, key, value, SECTIONS[key])
        elif key not in ("metrics", "clusters"):
            raise _unknown(where, key, value, [*SETTINGS, *SECTIONS, "metrics", "clusters"])
    found["topology"] = tuple(_resolve(source, name) for name in found.get("topology", ()))
    found["metrics"] = _metrics(where, "metrics", document.get("metrics", {}))
    found["cluster_metrics"], found["cluster_retention_s"] = _clusters(where, document.get("clusters", {}))
    of_topology = f"{where}: {'archive.path' if source and is_cockpit(source) else 'topology'}"
    found["clusters"] = _topologies(of_topology, found["topology"])
    found["warnings"] = tuple(text for cluster in found["clusters"].values() for text in cluster.warnings)
    if found["metrics"] or any(found["cluster_metrics"].values()) or found["clusters"]:
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
    for name, section in SECTIONS.items():
        filled = getattr(config, section.field)
        shown = ((key, one.show(getattr(filled, one.field))) for key, one in section.settings.items())
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in shown)]
    for name, override in config.metrics.items():
        lines += ["", f"[metrics.{_key(name)}]", *_override_lines(override)]
    for cluster, retention_s in config.cluster_retention_s.items():
        lines += ["", f"[clusters.{_key(cluster)}]", f"retention = {_toml(format_duration(retention_s))}"]
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
    shown = _shown(value)
    return ConfigError(f"{where}: {shortened(key)} = {shown} is not allowed: expected {allowed}",
                       path=where, key=key, value=shown, allowed=allowed)  # fmt: skip


def _unknown(where: str, key: str, value: object, known: Iterable[str], table: str = "") -> ConfigError:
    near = nearest(key, known)
    hint = f'did you mean "{near}"? ' if near else ""
    allowed = ", ".join(known)
    whole = f"{table}{_key(key)}"
    shown = "" if isinstance(value, dict) else f" = {_shown(value)}"
    return ConfigError(f"{where}: unknown key {shortened(whole)}{shown}: {hint}allowed here: {allowed}",
                       path=where, key=whole, value=_shown(value), allowed=allowed)  # fmt: skip


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


def _section(where: str, name: str, value: object, section: Section) -> Any:
    said: dict[str, Any] = {}
    for key, item in _table(where, name, value).items():
        if key not in section.settings:
            raise _unknown(where, key, item, section.settings, f"{name}.")
        setting = section.settings[key]
        said[setting.field] = _checked(where, f"{name}.{key}", item, setting.parse)
    return section.make(**said)


def _clusters(where: str, value: object) -> tuple[dict[str, dict[str, MetricOverride]], dict[str, int]]:
    """(overrides of metrics, retention) of the clusters that say so."""
    metrics: dict[str, dict[str, MetricOverride]] = {}
    retention_s: dict[str, int] = {}
    for name, said in _table(where, "clusters", value).items():
        table = f"clusters.{_key(name)}"
        _check_name(where, table, name)
        for key, item in _table(where, table, said).items():
            if key == "metrics":
                metrics[name] = _metrics(where, f"{table}.metrics", item)
            elif key == "retention":
                retention_s[name] = _checked(where, f"{table}.{key}", item, duration)
            else:
                raise _unknown(where, key, item, CLUSTER_KEYS, f"{table}.")
    return metrics, retention_s


def _topologies(where: str, paths: Iterable[Path]) -> dict[str, Cluster]:
    """By name. where  the configuration's file and key, which every error names beside the topology's own file"""
    found: dict[str, Cluster] = {}
    for path in paths:
        try:
            cluster = load_cluster(path)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}", **error.details) from None
        if cluster.name in found:
            first = f"cluster {shortened(cluster.name)} is already in {found[cluster.name].source}"
            raise ConfigError(f"{where}: {path}: {first}", path=str(path), key="topology")
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
    said = {key: getattr(override, attribute) for key, (attribute, _) in METRIC_KEYS.items()}
    if override.retention_s is not None:
        said["retention"] = format_duration(override.retention_s)
    return [f"{key} = {_toml(value)}" for key, value in said.items() if value is not None]


def _shown(value: object) -> str:
    """A value as a message shows it. Hexadecimal digits may be so many that no decimal is made of them."""
    far = isinstance(value, int) and abs(value) >> 64
    return shortened(hex(value) if far and isinstance(value, int) else _toml(value))


def _toml(value: object) -> str:
    """A value as TOML shows it (JSON's texts for strings, numbers and lists are TOML's too)."""
    if isinstance(value, (str, int, float, list)):
        return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")
    return "{...}" if isinstance(value, dict) else str(value)
