"""ClusterCockpit's cluster.json."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mstore.errors import ConfigError
from mstore.hostlists import expand, fold, natural_key
from mstore.model import MetricSpec, SeriesPath
from mstore.simulate.generator import builtin_path
from mstore.topology import document, load_cluster, parse_cluster

DOCUMENT: dict[str, Any] = {
    "name": "tiny",
    "metricConfig": [
        {"name": "cpu_load", "unit": {"base": ""}, "scope": "node", "aggregation": "avg", "timestep": 60,
         "peak": 8},
        {"name": "mem_bw", "unit": {"prefix": "G", "base": "B/s"}, "scope": "socket", "aggregation": "sum",
         "timestep": 30, "peak": 100, "subClusters": [{"name": "old", "remove": True}]},
        {"name": "acc_power", "unit": {"base": "W"}, "scope": "accelerator", "aggregation": None,
         "timestep": 10},
    ],
    "subClusters": [
        {"name": "new", "nodes": "n[1-2]", "topology": {
            "node": [0, 1, 2, 3], "socket": [[0, 1], [2, 3]], "memoryDomain": [[0, 1], [2, 3]],
            "core": [[0, 1], [2, 3]],
            "accelerators": [{"id": "0:01"}, {"id": "0:02"}]}},
        {"name": "old", "nodes": "o1", "topology": {"node": [0], "socket": [[0]], "core": [[0]]}},
    ],
}  # fmt: skip


def changed(**steps: Any) -> dict[str, Any]:
    """DOCUMENT with some values replaced: metricConfig__0__timestep=..."""
    document = copy.deepcopy(DOCUMENT)
    for path, value in steps.items():
        place: Any = document
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("__")]
        for part in parents:
            place = place[part]
        place[last] = value
    return document


def test_a_cluster_has_its_metrics_hosts_and_topology() -> None:
    cluster = parse_cluster(DOCUMENT)
    assert cluster.name == "tiny"
    assert cluster.hosts() == ["n1", "n2", "o1"]
    assert cluster.metrics["cpu_load"].spec == MetricSpec("cpu_load", 60, "avg", "f32", "")
    assert cluster.metrics["mem_bw"].spec == MetricSpec("mem_bw", 30, "sum", "f32", "GB/s")
    assert cluster.metrics["acc_power"].spec == MetricSpec("acc_power", 10, "none", "f32", "W")
    assert cluster.metrics["mem_bw"].removed_from == {"old"}
    assert cluster.subclusters["new"].topology.cores == ((0, 1), (2, 3))
    assert cluster.warnings == ()


def test_the_series_of_a_node_follow_scope_and_topology() -> None:
    cluster = parse_cluster(DOCUMENT)
    assert list(cluster.paths(cluster.subclusters["new"], "n1")) == [
        SeriesPath("tiny", "n1", "cpu_load", "node"),
        SeriesPath("tiny", "n1", "mem_bw", "socket", "0"),
        SeriesPath("tiny", "n1", "mem_bw", "socket", "1"),
        SeriesPath("tiny", "n1", "acc_power", "accelerator", "0:01"),
        SeriesPath("tiny", "n1", "acc_power", "accelerator", "0:02"),
    ]
    assert [path.metric for path in cluster.paths(cluster.subclusters["old"], "o1")] == ["cpu_load"]
    assert cluster.n_series() == 11


@pytest.mark.parametrize(
    ("scope", "ids"),
    [("node", ()), ("hwthread", ("0", "1", "2", "3")), ("core", ("0", "1")), ("memoryDomain", ("0", "1")),
     ("socket", ("0", "1")), ("accelerator", ("0:01", "0:02"))],
)  # fmt: skip
def test_every_scope_has_its_ids(scope: str, ids: tuple[str, ...]) -> None:
    assert parse_cluster(DOCUMENT).subclusters["new"].topology.ids(scope) == ids


def test_a_unit_keeps_its_prefix_apart() -> None:
    cluster = parse_cluster(DOCUMENT)
    assert [cluster.metrics[name].unit_prefix for name in ("cpu_load", "mem_bw", "acc_power")] == [
        "",
        "G",
        "",
    ]


def test_a_step_of_one_subcluster_alone_is_not_followed_and_said_so() -> None:
    special = [{"name": "old", "timestep": 10}, {"name": "new", "timestep": 30}]
    cluster = parse_cluster(changed(metricConfig__1__subClusters=special))
    assert cluster.metrics["mem_bw"].spec.step_s == 30
    (warning,) = cluster.warnings
    assert "metricConfig[1] (mem_bw).subClusters[0].timestep" in warning


def test_threads_that_only_the_node_or_only_its_parts_know_are_warned_about() -> None:
    cluster = parse_cluster(changed(subClusters__0__topology__node=[0, 1, 23]))
    assert len(cluster.warnings) == 6
    assert "topology.node: threads 23 are not in subClusters[0].topology.socket" in cluster.warnings[0]
    assert "topology.socket: threads 2, 3 are not in subClusters[0].topology.node" in cluster.warnings[1]


def test_every_node_finds_its_subcluster() -> None:
    found = parse_cluster(DOCUMENT).by_host()
    assert {host: sub.name for host, sub in found.items()} == {"n1": "new", "n2": "new", "o1": "old"}


def test_a_unit_may_be_a_plain_text_or_missing() -> None:
    cluster = parse_cluster(changed(metricConfig__0__unit="load", metricConfig__1__unit=None))
    assert cluster.metrics["cpu_load"].spec.unit == "load"
    assert cluster.metrics["mem_bw"].spec.unit == ""


def test_an_unknown_aggregation_is_none_with_a_warning() -> None:
    cluster = parse_cluster(changed(metricConfig__0__aggregation="median"))
    assert cluster.metrics["cpu_load"].spec.aggregation == "none"
    assert len(cluster.warnings) == 1
    assert "median" in cluster.warnings[0]


def test_a_node_in_two_subclusters_belongs_to_the_first() -> None:
    cluster = parse_cluster(changed(subClusters__1__nodes="n[2-3]"))
    assert cluster.subclusters["new"].hosts == ("n1", "n2")
    assert cluster.subclusters["old"].hosts == ("n3",)
    assert "n2 also in new" in cluster.warnings[0]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"name": ""}, "name"),
        ({"name": 3}, "name"),
        ({"metricConfig": {}}, "metricConfig"),
        ({"subClusters": None}, "subClusters"),
        ({"metricConfig__0": 1}, "metricConfig[0]"),
        ({"metricConfig__0__name": None}, "metricConfig[0].name"),
        ({"metricConfig__1__name": "cpu_load"}, "metricConfig[1].name"),
        ({"metricConfig__0__timestep": 0}, "metricConfig[0] (cpu_load).timestep"),
        ({"metricConfig__0__timestep": "60"}, "metricConfig[0] (cpu_load).timestep"),
        ({"metricConfig__0__scope": "sockets"}, "metricConfig[0] (cpu_load).scope"),
        ({"metricConfig__0__unit": 3}, "metricConfig[0] (cpu_load).unit"),
        ({"subClusters__0__topology__node": ["0"]}, "subClusters[0].topology.node"),
        ({"subClusters__0__topology__socket": [0]}, "subClusters[0].topology.socket[0]"),
        ({"subClusters__0__topology__accelerators": [{}]}, "subClusters[0].topology.accelerators[0].id"),
    ],
)
def test_a_bad_cluster_file_is_refused_at_its_place(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_cluster(changed(**changes), Path("tiny.json"))
    assert caught.value.details["key"] == where
    assert caught.value.message.startswith("tiny.json: ")


def test_a_file_that_is_no_json_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_cluster(tmp_path / "x.json")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(ConfigError):
        load_cluster(tmp_path / "deep.json")
    (tmp_path / "tiny.json").write_text(json.dumps(DOCUMENT))
    assert load_cluster(tmp_path / "tiny.json").source == tmp_path / "tiny.json"


# (subcluster, its hosts, series a node); the real ones are read where MSTORE_FIXTURES says they are.
OWN = {"cluster": ("gpu", 2, 71)}
REAL = {"fritz": ("main", 992, 519), "alex": ("a40", 44, 694), "emmy": ("haswell", 38, 27)}


def test_whole_cluster_files_are_read_as_they_are() -> None:
    fixtures = os.environ.get("MSTORE_FIXTURES")
    files = {builtin_path(): OWN["cluster"]}
    if fixtures:
        files |= {Path(fixtures) / "clusters" / f"{name}.json": expected for name, expected in REAL.items()}
    for path, (subcluster, n_hosts, n_series) in files.items():
        cluster = load_cluster(path)
        found = cluster.subclusters[subcluster]
        assert len(found.hosts) == n_hosts
        assert sum(1 for _ in cluster.paths(found, found.hosts[0])) == n_series
        assert expand(fold(cluster.hosts())) == sorted(cluster.hosts(), key=natural_key)
        again = parse_cluster(json.loads(json.dumps(document(cluster))))
        assert dataclasses.replace(again, warnings=()) == dataclasses.replace(
            cluster, source=None, warnings=()
        )
