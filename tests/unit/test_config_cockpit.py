"""ClusterCockpit's config.json as it is: what it becomes, and what it says that mstore does not follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mstore import config
from mstore.config import Config, parse_duration
from mstore.config.cockpit import go_duration
from mstore.config.values import Refused
from mstore.errors import ConfigError
from mstore.model import MetricSpec

STORE: dict[str, Any] = {
    "main": {"addr": "0.0.0.0:8080", "jwt-public-key": "kzf=", "backend-url": "https://cc.example.org/"},
    "metrics": {
        "cpu_load": {"frequency": 60, "aggregation": None},
        "flops_any": {"frequency": 60, "aggregation": "avg"},
        "mem_bw": {"frequency": 10, "aggregation": "sum"},
    },
    "nats": {"address": "nats://localhost:4222", "username": "root", "password": "secret"},
    "metric-store": {
        "checkpoints": {"file-format": "wal", "directory": "./var/checkpoints"},
        "checkpoint-interval": "12h",
        "memory-cap": 100,
        "retention-in-memory": "48h",
        "num-workers": 4,
        "nats-subscriptions": [{"subscribe-to": "hpc-nats", "cluster-tag": "fritz"}],
    },
}


def loaded(directory: Path, document: object) -> Config:
    path = directory / "config.json"
    path.write_text(json.dumps(document))
    return config.load(path)


def test_the_metric_stores_own_file_becomes_a_configuration(tmp_path: Path) -> None:
    found = loaded(tmp_path, STORE)
    assert (found.retention_s, found.snapshot_interval_s, found.memory_cap_bytes) == (
        48 * 3600,
        12 * 3600,
        10**11,
    )
    assert found.metric("fritz", "cpu_load") == MetricSpec("cpu_load", 60, "none", "f32")
    assert found.metric("any", "mem_bw") == MetricSpec("mem_bw", 10, "sum", "f32")
    assert (found.unknown_metrics, found.minimum_points) == ("ignore", 1000)
    assert found.protect.url == "https://cc.example.org"


def test_every_key_that_is_not_followed_is_told_with_what_takes_its_place(tmp_path: Path) -> None:
    warnings = loaded(tmp_path, STORE).warnings
    told = {text.partition(" ")[0].rstrip(":") for text in warnings}
    assert told == {
        "main.addr", "main.jwt-public-key", "main.backend-url", "nats.address", "nats.username", "nats.password",
        "metric-store.checkpoints.file-format", "metric-store.checkpoints.directory", "metric-store.num-workers",
        "metric-store.nats-subscriptions",
    }  # fmt: skip
    assert "secret" not in " ".join(warnings)
    assert all(len(text) > 40 for text in warnings)


def test_what_it_became_is_shown_as_a_configuration_that_reads_back(tmp_path: Path) -> None:
    found = loaded(tmp_path, STORE)
    again = config.parse(config.render(found))
    assert (again.metrics, again.retention_s, again.memory_cap_bytes) == (
        found.metrics, found.retention_s, found.memory_cap_bytes,
    )  # fmt: skip
    assert again.protect == found.protect


def test_a_section_alone_and_an_unknown_key_are_read(tmp_path: Path) -> None:
    found = loaded(
        tmp_path, {"retention-in-memory": "1h30m", "memory-cap": 0, "cleanup": {"mode": "delete"}, "gops": 1}
    )
    assert (found.retention_s, found.memory_cap_bytes) == (5400, 0)
    assert [text for text in found.warnings if "gops" in text] == [
        "metric-store.gops is not followed: mstore knows no such key"
    ]


def test_cleanup_by_archiving_becomes_an_archive_beside_the_file(tmp_path: Path) -> None:
    cleanup = {"mode": "archive", "directory": "./var/archive"}
    found = loaded(tmp_path, {"retention-in-memory": "48h", "cleanup": cleanup})
    assert (found.archive.mode, found.archive.directory) == ("archive", str(tmp_path / "var" / "archive"))
    assert not [text for text in found.warnings if "cleanup" in text]
    deleted = loaded(tmp_path, {"retention-in-memory": "48h", "cleanup": {"mode": "delete"}})
    assert deleted.archive.mode == "off"


def test_cc_backends_file_takes_clusters_and_metrics_from_its_job_archive(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "job-archive" / "tiny"
    folder.mkdir(parents=True)
    cluster = {
        "name": "tiny",
        "metricConfig": [{"name": "load", "timestep": 30, "aggregation": "avg", "scope": "node"}],
        "subClusters": [{"name": "all", "nodes": "t[1-2]", "topology": {"node": [0]}}],
    }
    (folder / "cluster.json").write_text(json.dumps(cluster))
    document = {
        "main": {"addr": ":80", "resampling": {"minimum-points": 600, "resolutions": [600, 60]}},
        "archive": {"kind": "file", "path": "./var/job-archive"},
        "auth": {"jwts": {}},
        "cron": {},
        "metric-store": {"retention-in-memory": "24h", "memory-cap": 1},
    }
    found = loaded(tmp_path, document)
    assert list(found.clusters) == ["tiny"]
    assert found.metric("tiny", "load") == MetricSpec("load", 30, "avg", "f32")
    assert found.minimum_points == 600
    assert "auth, cron: not about the metric store" in found.warnings
    (folder / "cluster.json").unlink()
    assert any("there is no" in text for text in loaded(tmp_path, document).warnings)


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ({"metric-store": {"retention-in-memory": "2 days"}}, "metric-store.retention-in-memory"),
        ({"metric-store": {"memory-cap": "100"}}, "metric-store.memory-cap"),
        ({"metric-store": {"memory-cap": -1}}, "metric-store.memory-cap"),
        ({"metric-store": []}, "metric-store"),
        ({"metrics": {"a": {"frequency": 0, "aggregation": "sum"}}}, "metrics.a.frequency"),
        ({"metrics": {"a": 7}}, "metrics.a"),
        ({"metric-store": {"cleanup": {"mode": "burn"}}}, "metric-store.cleanup.mode"),
        ({"main": {"backend-url": "ftp://x"}}, "protect.url"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_its_key(
    tmp_path: Path, document: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, document)
    assert error.value.details["key"] == key
    assert "config.json" in str(error.value)


def test_an_aggregation_nobody_knows_is_none_and_told(tmp_path: Path) -> None:
    found = loaded(tmp_path, {"metrics": {"a": {"frequency": 5, "aggregation": "median"}}})
    spec = found.metric("c", "a")
    assert spec is not None
    assert spec.aggregation == "none"
    assert found.warnings == ("metrics.a.aggregation: 'median' is neither sum nor avg; taken as none",)


@pytest.mark.parametrize("text", ["{", "[1]", "null", '{"a": NaN'])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not valid JSON"):
        config.load(path)


def test_go_durations_are_read() -> None:
    for text, seconds in (
        ("48h", 172800), ("1h30m", 5400), ("1.5h", 5400), ("90s", 90), ("2m0.5s", 120), ("1500ms", 1), ("+1h", 3600),
    ):  # fmt: skip
        assert go_duration(text) == seconds
    for text in ("", "h", "1", "1d", "-1h", "500ms", "1h-", 3600, "99999999999999h"):
        with pytest.raises(Refused):
            go_duration(text)
    assert parse_duration("48h") == go_duration("48h")


def test_a_cluster_file_of_the_job_archive_that_is_none_is_told_with_the_key_that_names_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "jobs" / "fritz").mkdir(parents=True)
    (tmp_path / "jobs" / "fritz" / "cluster.json").write_text("[")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"metric-store": {}, "archive": {"path": "jobs"}}))
    with pytest.raises(ConfigError, match=f"{file}: archive.path: .*/cluster.json: not valid JSON"):
        config.load(file)
