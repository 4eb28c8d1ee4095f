"""The configuration: what is allowed, and that everything else is an error with a name."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from mstore import config, limits
from mstore.config import Config, Refused, format_duration, format_size, parse_duration, parse_size
from mstore.config.values import duration
from mstore.errors import ConfigError
from mstore.model import FieldMode, MetricSpec

CLUSTER = {
    "name": "tiny",
    "metricConfig": [
        {"name": "load", "unit": {"base": ""}, "scope": "node", "aggregation": "avg", "timestep": 30},
        {"name": "mem_bw", "unit": {"prefix": "G", "base": "B/s"}, "scope": "socket", "aggregation": "sum",
         "timestep": 60},
    ],
    "subClusters": [{"name": "main", "nodes": "t[1-2]", "topology": {"node": [0, 1], "socket": [[0, 1]]}}],
}  # fmt: skip


def cluster_file(folder: Path, name: str = "tiny.json", **changes: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(CLUSTER | changes), encoding="utf-8")
    return path


# --- values


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), (0, 0), (90, 90), ("90", 90), ("90s", 90), ("15m", 900), ("48h", 172800), ("2d", 172800),
     ("1w", 604800), ("1h30m", 5400), ("1h 30m", 5400)],
)  # fmt: skip
def test_durations_are_seconds(value: object, seconds: int) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize("value", [48, "48"])
def test_a_duration_of_the_configuration_has_a_unit(value: object) -> None:
    with pytest.raises(Refused, match=r'with its unit, such as "48s"'):
        duration(value)
    assert (duration("48s"), duration(0), duration("0")) == (48, 0, 0)


@pytest.mark.parametrize("value", ["", "1y", "-1h", "h", "1.5h", "1h30", -1, 1.5, True, None, [], "9" * 40])
def test_other_durations_are_refused(value: object) -> None:
    with pytest.raises(Refused, match="duration"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "n_bytes"),
    [
        ("0", 0),
        (4096, 4096),
        ("4GiB", 4 << 30),
        ("4 gib", 4 << 30),
        ("500MB", 500_000_000),
        ("1.5KiB", 1536),
        ("7B", 7),
    ],
)
def test_sizes_are_bytes(value: object, n_bytes: int) -> None:
    assert parse_size(value) == n_bytes


@pytest.mark.parametrize("value", ["", "4Gi", "-1", "GiB", "1e9", 1.5, True, None, "1 2"])
def test_other_sizes_are_refused(value: object) -> None:
    with pytest.raises(Refused, match="size"):
        parse_size(value)


@pytest.mark.parametrize("n", [0, 1, 59, 60, 3600, 5400, 86400, 172800, 3 * 86400, 604800, 12345])
def test_formatted_durations_read_back(n: int) -> None:
    assert parse_duration(format_duration(n)) == n


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 16 << 20, 4 << 30, 1 << 40, 12345])
def test_formatted_sizes_read_back(n: int) -> None:
    assert parse_size(format_size(n)) == n


# --- the file


def test_without_a_configuration_unknown_metrics_are_registered() -> None:
    assert config.load(None).unknown_metrics == "register"
    assert config.load(None).metric("any", "cpu_load") is None


def test_an_empty_file_means_the_defaults() -> None:
    assert config.parse("") == Config()


def test_naming_a_metric_makes_unknown_ones_ignored() -> None:
    assert config.parse("[metrics.a]").unknown_metrics == "ignore"
    assert config.parse("[clusters.c.metrics.a]").unknown_metrics == "ignore"
    assert config.parse('unknown_metrics = "register"\n[metrics.a]').unknown_metrics == "register"


def test_a_topology_makes_unknown_metrics_ignored(tmp_path: Path) -> None:
    cluster_file(tmp_path)
    found = config.parse('topology = ["tiny.json"]', tmp_path / "mstore.toml")
    assert found.unknown_metrics == "ignore"
    assert found.topology == (tmp_path / "tiny.json",)


def test_every_setting_is_read() -> None:
    found = config.parse(
        'retention = "0"\nmemory_cap = "4GiB"\nmax_future = "5m"\nunknown_metrics = "ignore"\n'
        "default_step = 10\n"
        'max_series = 7\nfields = "join"\ningest_workers = 3\nquery_workers = 2\nring_bytes = "32MiB"\n'
        'snapshot_interval = "0"\nwal_bytes = "256MiB"\n'
    )
    assert found == Config(
        retention_s=0, memory_cap_bytes=4 << 30, max_future_s=300, unknown_metrics="ignore",
        default_step_s=10, max_series=7, fields=FieldMode.JOIN, ingest_workers=3, query_workers=2,
        ring_bytes=32 << 20, snapshot_interval_s=0, wal_bytes=256 << 20,
    )  # fmt: skip


def test_what_is_told_of_a_configuration_defines_the_same_metrics_and_nothing_else(tmp_path: Path) -> None:
    cluster_file(tmp_path)
    text = 'topology = ["tiny.json"]\nretention = "3h"\nmax_series = 7\ndefault_step = 15\nminimum_points = 600\n'
    text += '[metrics.a]\nunit = "W"\n[clusters.tiny.metrics.cpu_load]\naggregation = "sum"\n'
    found = config.parse(text, tmp_path / "mstore.toml")
    said, documents = config.told(found)
    heard = config.heard(said, documents)
    assert heard.metrics_of("tiny") == found.metrics_of("tiny")
    assert heard.metric("other", "a") == found.metric("other", "a")
    assert heard.clusters["tiny"].subclusters == found.clusters["tiny"].subclusters
    assert (heard.minimum_points, heard.retention_s, heard.max_series) == (
        600,
        Config().retention_s,
        Config().max_series,
    )


@pytest.mark.parametrize(
    ("text", "key", "value", "allowed"),
    [
        ('retention = "1y"', "retention", '"1y"', "48h"),
        ("retention = true", "retention", "true", "duration"),
        ('memory_cap = "lots"', "memory_cap", '"lots"', "4GiB"),
        ('unknown_metrics = "registr"', "unknown_metrics", '"registr"', 'did you mean "register"'),
        ("default_step = 0", "default_step", "0", "from 1 to 604800"),
        ("default_step = 60.0", "default_step", "60.0", "whole number"),
        ("max_series = 0", "max_series", "0", str(limits.SERIES_MAX)),
        ('fields = "all"', "fields", '"all"', '"value" or "join"'),
        ("ingest_workers = -1", "ingest_workers", "-1", "from 0"),
        ("ingest_workers = 60\nquery_workers = 60", "query_workers", "60", "together"),
        ('ring_bytes = "5MiB"', "ring_bytes", '"5MiB"', "power of two"),
        ('ring_bytes = "1MiB"', "ring_bytes", '"1MiB"', "4MiB"),
        ('wal_bytes = "1MiB"', "wal_bytes", '"1MiB"', "128MiB"),
        ('topology = "fritz.json"', "topology", '"fritz.json"', "list"),
        ("topology = [1979-05-27]", "topology", '["1979-05-27"]', "list of file names"),
        ("retention = nan", "retention", "NaN", "duration"),
        ('[archive]\nmax_bytes = "1"', "archive.max_bytes", '"1"', '"0" (no bound) or a size of at least "64KiB"'),
        ("metrics = 3", "metrics", "3", "a table"),
        ("[metrics]\na = 1", "metrics.a", "1", "a table"),
        ("[metrics.a]\nstep = -1", "metrics.a.step", "-1", "from 0 to 604800"),
        ('[metrics.a]\naggregation = "mean"', "metrics.a.aggregation", '"mean"', '"sum" or "avg" or "none"'),
        ('[metrics.a]\ntype = "f16"', "metrics.a.type", '"f16"', '"f32"'),
        ('[metrics.a]\nunit = "a\\nb"', "metrics.a.unit", '"a\\nb"', "control characters"),
        ('[clusters.c.metrics.a]\ntype = "i64"', "clusters.c.metrics.a.type", '"i64"', '"u64"'),
        ('[metrics."\\u0001"]', 'metrics."\\u0001"', '"\\u0001"', "control characters"),
        (f'[metrics.{"a" * 256}]', f'metrics.{"a" * 256}', f'"{"a" * 56}...', "255 bytes"),
        (f'[metrics.a]\nunit = "{"b" * 9000}"', "metrics.a.unit", f'"{"b" * 56}...', "255 bytes"),
        (f"retention = [{'1,' * 9000}]", "retention", f"[{'1, ' * 18}1,...", "duration"),
        (f"retention = 0x{'f' * 9000}", "retention", f"0x{'f' * 55}...", "duration"),
        (f"memory_cap = 0x{'f' * 9000}", "memory_cap", f"0x{'f' * 55}...", "size"),
        (f"max_series = 0x{'f' * 9000}", "max_series", f"0x{'f' * 55}...", "whole number"),
    ],
)  # fmt: skip
def test_a_bad_value_names_key_value_and_what_is_allowed(
    text: str, key: str, value: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text)
    assert caught.value.details["key"] == key
    assert caught.value.details["value"] == value
    assert value in caught.value.message
    assert allowed in caught.value.message


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ('retenton = "1h"', "retenton", 'did you mean "retention"?'),
        ("[metrics.a]\nstp = 1", "metrics.a.stp", 'did you mean "step"?'),
        ("[clusters.c.metric.a]", "clusters.c.metric", 'did you mean "metrics"?'),
        ("zzz = 1", "zzz", "allowed here: retention, memory_cap"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_hint(text: str, key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text)
    assert caught.value.details["key"] == key
    assert hint in caught.value.message


def test_bad_toml_and_unreadable_files_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        config.parse("x =")
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b'unknown_metrics = "\xff"')
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(tmp_path / "latin.toml")
    for text in (f"retention = {'9' * 5000}", f"retention = {'[' * 5000}"):
        with pytest.raises(ConfigError, match="not valid TOML"):
            config.parse(text)


def test_a_topology_that_cannot_be_read_is_told_with_the_file_and_key_that_name_it(tmp_path: Path) -> None:
    file = tmp_path / "mstore.toml"
    with pytest.raises(ConfigError) as caught:
        config.parse('topology = ["missing.json"]', file)
    assert caught.value.message == (
        f"{file}: topology: cannot read the topology {tmp_path}/missing.json: No such file or directory"
    )
    cluster_file(tmp_path, subClusters=3)
    with pytest.raises(ConfigError, match=f"{file}: topology: {tmp_path}/tiny.json: subClusters = 3 is not"):
        config.parse('topology = ["tiny.json"]', file)


@pytest.mark.parametrize(
    "text", [f"{'k' * 9000} = 1", f"retenton = '{'v' * 9000}'", f"[metrics.{'m' * 9000}]"]
)
def test_long_keys_and_values_are_not_echoed_whole(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text)
    assert len(caught.value.message) < 600


def test_two_files_of_one_cluster_are_refused(tmp_path: Path) -> None:
    cluster_file(tmp_path, "a.json")
    cluster_file(tmp_path, "b.json")
    with pytest.raises(ConfigError, match=r"cluster tiny is already in .*a\.json"):
        config.parse('topology = ["a.json", "b.json"]', tmp_path / "mstore.toml")


# --- metrics


def test_definitions_are_laid_over_each_other(tmp_path: Path) -> None:
    cluster_file(tmp_path)
    found = config.parse(
        'topology = ["tiny.json"]\n'
        '[metrics.load]\nunit = "1"\ntype = "f64"\n'
        "[clusters.tiny.metrics.load]\nstep = 5\n"
        "[clusters.other.metrics.load]\nstep = 7\n",
        tmp_path / "mstore.toml",
    )
    assert found.metric("tiny", "load") == MetricSpec("load", 5, "avg", "f64", "1")
    assert found.metric("other", "load") == MetricSpec("load", 7, "avg", "f64", "1")
    assert found.metric("third", "load") == MetricSpec("load", 60, "avg", "f64", "1")
    assert found.metric("tiny", "mem_bw") == MetricSpec("mem_bw", 60, "sum", "f32", "GB/s")
    assert found.metric("other", "mem_bw") is None
    assert sorted(found.metrics_of("tiny")) == ["load", "mem_bw"]
    assert found.metrics_of("nowhere") == {"load": found.metric("nowhere", "load")}


def test_a_metric_without_a_step_has_the_default_step() -> None:
    found = config.parse("default_step = 15\n[metrics.a]")
    assert found.metric("c", "a") == MetricSpec("a", 15, "avg", "f32", "")


def test_a_stamped_metric_holds_eight_byte_values() -> None:
    found = config.parse('[metrics.a]\nstep = 0\n[metrics.b]\nstep = 0\ntype = "u64"')
    assert found.metric("c", "a") == MetricSpec("a", 0, "avg", "f64", "")
    assert found.metric("c", "b") == MetricSpec("b", 0, "avg", "u64", "")


# --- example, rendering, workers


def test_the_example_parses_to_the_defaults_and_mentions_every_key() -> None:
    text = config.example()
    assert config.parse(text) == Config()
    for key in config.SETTINGS:
        assert f"\n{key} = " in text, key


def test_the_examples_commented_tables_parse_too() -> None:
    text = config.example()
    tables = text[text.index("# [metrics.cpu_load]") :]
    lines = [line[2:] for line in tables.splitlines() if line.startswith("# [") or " = " in line]
    found = config.parse("\n".join(lines))
    spec = MetricSpec("cpu_load", 10, "avg", "f32", "load", retention_s=7 * 86400)
    assert found.metric("fritz", "cpu_load") == spec
    assert found.cluster_retention_s == {"fritz": 86400}


def test_the_rendered_configuration_reads_back_to_the_same() -> None:
    text = 'retention = "90m"\n[metrics."a.b \\" c"]\nstep = 5\nunit = "µs"\n'
    text += '[metrics.keep]\nretention = "0"\n[clusters.x]\nretention = "1h30m"\n'
    text += '[clusters.x.metrics.y]\ntype = "u64"\nretention = "7d"'
    found = config.parse(text)
    assert config.parse(config.render(found)) == found
    assert config.parse(config.render(Config())) == Config()


def test_retention_is_the_metrics_in_its_cluster_the_metrics_the_clusters_the_stores_in_this_order() -> None:
    found = config.parse(
        'retention = "4h"\n[metrics.a]\nretention = "2h"\n[metrics.b]\n'
        '[clusters.x]\nretention = "3h"\n[clusters.x.metrics.a]\nretention = "1h"\n[clusters.y.metrics.a]'
    )

    def hours(cluster: str, name: str) -> float:
        spec = found.metric(cluster, name)
        assert spec is not None
        return spec.retention_s / 3600 if spec.retention_s > 0 else spec.retention_s

    asked = [("x", "a"), ("y", "a"), ("x", "b"), ("y", "b")]
    assert [hours(cluster, name) for cluster, name in asked] == [1, 2, 3, -1]
    assert found.retentions_s() == {3600 * n for n in (1, 2, 3, 4)}


def test_a_clusters_retention_alone_names_no_metric() -> None:
    found = config.parse('[clusters.x]\nretention = "0"')
    assert (found.unknown_metrics, found.cluster_retention_s) == ("register", {"x": 0})
    with pytest.raises(ConfigError, match=r'clusters\.x\.retenton = "1h": did you mean "retention"'):
        config.parse('[clusters.x]\nretenton = "1h"')
    with pytest.raises(ConfigError, match=r'clusters\.x\.retention = "1 year" is not allowed'):
        config.parse('[clusters.x]\nretention = "1 year"')


def test_every_setting_has_a_field_of_the_configuration() -> None:
    names = {item.name for item in fields(Config)}
    assert {setting.field for setting in config.SETTINGS.values()} <= names


def test_workers_follow_the_cores_unless_configured() -> None:
    assert [Config().worker_counts(n) for n in (1, 2, 8, 16, 128)] == [
        (1, 1),
        (1, 1),
        (5, 5),
        (9, 9),
        (10, 10),
    ]
    assert config.with_workers(Config(), 5, None).worker_counts(2) == (5, 1)
    assert config.with_workers(Config(), None, 6).worker_counts(2) == (1, 6)
    with pytest.raises(ConfigError, match="ingest_workers = 100"):
        config.with_workers(Config(), 100, None)


def test_what_a_reload_cannot_take_over_is_named() -> None:
    newer = config.parse('ring_bytes = "32MiB"\nretention = "1h"\nmax_series = 9')
    assert Config().needs_restart(newer) == ["max_series", "ring_bytes"]
    assert newer.needs_restart(newer) == []
