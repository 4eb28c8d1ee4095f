"""Views of jobs and nodes: scopes, partial jobs, units, what is missing, and the metric store's shapes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mstore.config import Config, parse
from mstore.errors import (
    EmptyCluster,
    InvalidRequest,
    InvalidTimeRange,
    LimitExceeded,
    NotAggregatable,
    UnknownMetric,
    UnknownSelector,
)
from mstore.jobs import Job, Resource, Statistics
from mstore.query import Reader
from mstore.topology import parse_cluster
from tests.jobs_rig import CLUSTER, DOCUMENT, N, filled, firsts, job, reader, store_name
from tests.query_rig import T0, Store, plain

ALL = ("hwthread", "core", "memoryDomain", "socket", "node")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    made = filled(store_name())
    yield made
    made.close()


@pytest.fixture
def read(store: Store) -> Reader:
    return reader(store)


# --- what a job is


def test_a_job_is_read_from_its_meta_json() -> None:
    found = Job.parse(job("n1", ("n2", [0, 4]), ("g1", None, ["0:02"]), subCluster="main"))
    assert found == Job(
        "tiny", T0, N * 60,
        (Resource("n1"), Resource("n2", (0, 4)), Resource("g1", (), ("0:02",))), "main", 7,
    )  # fmt: skip
    assert found.hosts == ("n1", "n2", "g1")
    assert found.end(now_s=0) == T0 + N * 60


def test_a_job_that_runs_ends_now_and_one_with_a_stop_time_then() -> None:
    running = Job.parse(job(jobState="running", duration=0))
    assert (running.duration_s, running.end(T0 + 100), running.end(T0 - 5)) == (None, T0 + 100, T0)
    assert Job.parse(job(duration=None, stopTime=T0 + 90)).duration_s == 90
    assert Job.parse(job(jobState="running", duration=60)).duration_s == 60


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"cluster": ""}, "cluster"), ({"cluster": 3}, "cluster"), ({"startTime": "now"}, "startTime"),
        ({"startTime": True}, "startTime"), ({"duration": -1}, "duration"), ({"duration": None}, "duration"),
        ({"duration": 10**15}, "duration"), ({"resources": []}, "resources"), ({"resources": None}, "resources"),
        ({"resources": "n1"}, "resources"), ({"resources": [{}]}, "resources[0].hostname"),
        ({"resources": [{"hostname": "n1", "hwthreads": ["0"]}]}, "resources[0].hwthreads"),
        ({"resources": [{"hostname": "n1", "hwthreads": [True]}]}, "resources[0].hwthreads"),
        ({"resources": [{"hostname": "n1", "accelerators": [0]}]}, "resources[0].accelerators"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_job_is_named(keys: dict[str, Any], key: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Job.parse(job(**keys))
    assert caught.value.details["key"] == key
    with pytest.raises(InvalidRequest, match=r"resources\[0\] is no object"):
        Job.parse(job(resources=["n1"]))


# --- scopes


def test_every_metric_is_answered_at_every_scope_its_topology_knows(read: Reader) -> None:
    data = read.job_data(job("n1"), ["flops", "power", "numa", "mem_bw", "cpu_load"], ALL)
    assert {name: list(scopes) for name, scopes in data.items()} == {
        "flops": ["hwthread", "core", "memoryDomain", "socket", "node"],
        "power": ["core", "memoryDomain", "socket", "node"],
        "numa": ["memoryDomain", "socket", "node"],
        "mem_bw": ["socket", "node"],
        "cpu_load": ["node"],
    }
    assert data.errors == []
    flops = {scope: firsts(found.series) for scope, found in data["flops"].items()}
    assert flops["hwthread"] == [float(1 << thread) for thread in range(8)]
    assert flops["core"] == flops["memoryDomain"] == [1 + 16, 2 + 32, 4 + 64, 8 + 128]
    assert flops["socket"] == [1 + 2 + 16 + 32, 4 + 8 + 64 + 128]
    assert flops["node"] == [255]
    assert [one.type_id for one in data["flops"]["socket"].series] == ["0", "1"]
    assert [one.path for one in data["power"]["core"].series] == [f"tiny/n1/core{i}" for i in range(4)]
    assert firsts(data["power"]["socket"].series) == [1 + 2, 4 + 8]
    assert firsts(data["power"]["memoryDomain"].series) == [1, 2, 4, 8]


@pytest.mark.parametrize("threads", [None, [0], [0, 4], [0, 1, 2], [5, 3]])
@pytest.mark.parametrize("name", ["flops", "power", "numa", "mem_bw"])
def test_the_node_is_the_sum_of_its_sockets_for_jobs_that_own_part_of_one(
    read: Reader, threads: list[int] | None, name: str
) -> None:
    scopes = read.job_data(job(("n1", threads)), [name], ALL)[name]
    sums = {
        scope: np.sum([one.values for one in found.series], axis=0).tolist()
        for scope, found in scopes.items()
    }
    assert len({tuple(found) for found in sums.values()}) == 1, sums
    if name == "flops":
        assert sums["node"][0] == sum(1 << thread for thread in threads or range(8))


def test_scopes_that_come_to_the_same_are_answered_once(read: Reader) -> None:
    data = read.job_data(job("n1"), ["mem_bw"], ("hwthread", "socket", "core"))
    assert list(data["mem_bw"]) == ["socket"]
    assert firsts(data["mem_bw"]["socket"].series) == [1, 2]


def test_accelerators_are_those_of_the_job_and_between_them_and_the_node_is_nothing(read: Reader) -> None:
    both = read.job_data(
        job(("g1", None, ["0:02", "0:01"])), ["acc_power"], ("accelerator", "socket", "node")
    )
    assert list(both["acc_power"]) == ["accelerator", "node"]
    assert [(one.type_id, one.values[0]) for one in both["acc_power"]["accelerator"].series] == [
        ("0:02", 2.0), ("0:01", 1.0),
    ]  # fmt: skip
    assert firsts(both["acc_power"]["node"].series) == [3.0]
    assert dict(read.job_data(job("g1"), ["acc_power"])) == {}


def test_a_metric_that_a_subcluster_does_not_have_is_left_out(read: Reader) -> None:
    data = read.job_data(job("n1", "g1"), ["mem_bw", "cpu_load"])
    assert [one.host for one in data["mem_bw"]["node"].series] == ["n1"]
    assert [one.host for one in data["cpu_load"]["node"].series] == ["n1", "g1"]
    assert "mem_bw" not in read.job_data(job("n1", subCluster="gpu"), ["mem_bw"])


def test_a_cluster_without_topology_is_answered_at_node_scope(store: Store) -> None:
    data = reader(store, Config()).job_data(job("n1"), scopes=("core", "node"))
    assert set(data) == {"cpu_load", "flops", "power", "numa", "mem_bw", "clock", "acc_power"}
    assert {scope for scopes in data.values() for scope in scopes} == {"node"}
    assert firsts(data["flops"]["node"].series) == [255]
    assert [type(one.error) for one in data.errors] == [NotAggregatable]


def test_a_host_that_holds_itself_what_its_parts_should_answers_for_them(store: Store) -> None:
    """A real job: its cluster.json has flops at hwthread, its collectors sent them for the node."""
    other = filled(f"{store_name()}-2", parse_cluster({**DOCUMENT, "subClusters": []}))
    try:
        other.put(other.open("flops", "n1", cluster="tiny"), T0, [7.0] * N)
        data = reader(other).job_data(job("n1"), ["flops"], ("hwthread", "node"))
        assert firsts(data["flops"]["node"].series) == [7.0]
        assert firsts(data["flops"]["hwthread"].series) == [None] * 8
    finally:
        other.close()


# --- what is in an answer


def test_series_cover_the_job_from_its_start_whenever_their_own_samples_begin(read: Reader) -> None:
    data = read.job_data(job("n1", startTime=T0 - 120, duration=N * 60 + 60), ["cpu_load"])
    (series,) = data["cpu_load"]["node"].series
    assert plain(series.values) == [None, None, 4.0, 8.0, 12.0, 16.0]
    assert (series.start, series.stop, series.min, series.max, series.avg) == (
        T0 - 120,
        T0 + 240,
        4.0,
        16.0,
        10.0,
    )


def test_units_and_steps_are_in_the_answer(read: Reader) -> None:
    data = read.job_data(job("n1"), ["mem_bw", "clock", "cpu_load"], ("hwthread",))
    found = {name: next(iter(scopes.values())) for name, scopes in data.items()}
    assert [(one.unit, one.unit_prefix, one.step_s) for one in found.values()] == [
        ("GB/s", "G", 60), ("MHz", "", 60), ("", "", 60),
    ]  # fmt: skip
    assert found["mem_bw"].series[0].unit == "GB/s"
    assert [one.to_dict()["unit"] for one in found.values()] == [
        {"base": "B/s", "prefix": "G"}, {"base": "MHz"}, {"base": ""},
    ]  # fmt: skip


def test_resolution_and_algorithm_are_followed_and_statistics_stay_those_of_the_samples(read: Reader) -> None:
    data = read.job_data(job("n1"), ["cpu_load"], resolution=120, algo="max")
    found = data["cpu_load"]["node"]
    assert (found.step_s, plain(found.series[0].values)) == (120, [8.0, 16.0, 20.0])
    assert (found.series[0].min, found.series[0].avg) == (4.0, 12.0)


def test_what_cannot_be_answered_is_an_error_of_its_own_beside_the_rest(read: Reader) -> None:
    data = read.job_data(job("n1", "n9"), ["nope", "clock", "cpu_load"], resolution=120)
    errors = [(type(one.error), one.metric, one.scope, one.host) for one in data.errors]
    assert errors == [(UnknownMetric, "nope", "", ""), (NotAggregatable, "clock", "node", "n1")]
    assert "clock of n1/node" in str(data.errors[1])
    assert repr(data) == "<JobData of tiny: 2 (clock, cpu_load), 4 series, 2 errors>"
    n1, n9 = data["cpu_load"]["node"].series
    assert (n1.why, n9.why, len(n9), plain(n9.values)) == ("", "no such host", len(n1), [None] * len(n1))


def test_without_a_list_of_metrics_those_of_the_configuration_are_asked(store: Store, read: Reader) -> None:
    assert list(read.job_data(job("n1"), scopes=("hwthread",))) == [
        "cpu_load", "flops", "power", "numa", "mem_bw", "clock",
    ]  # fmt: skip
    config = replace(
        parse("[metrics.rapl]\nstep = 10\n[metrics.rows]\nstep = 0\n"), clusters={"tiny": CLUSTER}
    )
    data = reader(store, config).job_data(job("n1"))
    assert (data["rapl"]["node"].step_s, data["rapl"]["node"].series[0].why) == (10, "no such series")
    assert "rows" not in data
    (error,) = reader(store, config).job_data(job("n1"), ["rows"]).errors
    assert "stamped" in error.error.message


def test_questions_that_make_no_sense_are_refused_as_a_whole(read: Reader) -> None:
    with pytest.raises(UnknownSelector, match="there are main, gpu"):
        read.job_data(job("n1", subCluster="manin"))
    with pytest.raises(InvalidRequest, match="no scope"):
        read.job_data(job("n1"), scopes=("sockets",))
    with pytest.raises(InvalidRequest, match="list of names"):
        read.job_data(job("n1"), "cpu_load")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="algo"):
        read.job_data(job("n1"), algo="best")
    with pytest.raises(InvalidRequest, match="resolution"):
        read.job_data(job("n1"), resolution=-60)
    with pytest.raises(EmptyCluster):
        read.node_data("", T0, T0 + 60)
    with pytest.raises(InvalidTimeRange):
        read.node_data("tiny", T0 + 60, T0)
    with pytest.raises(LimitExceeded):
        read.job_data(Job("tiny", T0, 60, tuple(Resource(f"n{i}") for i in range(60_000))), None, ALL)


# --- statistics


def test_statistics_of_a_job_by_host_scope_and_as_a_whole(read: Reader) -> None:
    stats = read.job_statistics(job("n1", "n2", "n9"), ["cpu_load", "mem_bw", "clock"])
    assert stats["cpu_load"] == {host: Statistics(4.0, 20.0, 12.0, N) for host in ("n1", "n2")}
    assert stats["mem_bw"]["n1"] == Statistics(3.0, 15.0, 9.0, N)
    assert stats.of_job()["mem_bw"] == Statistics(3.0, 15.0, 9.0, 2 * N)
    assert stats.to_dict()["mem_bw"]["n2"] == {"avg": 9.0, "min": 3.0, "max": 15.0}
    assert (stats["clock"], [type(one.error) for one in stats.errors]) == ({}, [NotAggregatable] * 2)
    assert "clock" not in stats.of_job()


def test_scoped_statistics_have_no_data_but_the_numbers(read: Reader) -> None:
    stats = read.job_scoped_statistics(job("n1", ("n2", [0])), ["mem_bw"], ("socket", "node"))
    found = [(one.host, one.type_id, one.max, len(one)) for one in stats["mem_bw"]["socket"]]
    assert found == [("n1", "0", 5.0, 0), ("n1", "1", 10.0, 0), ("n2", "0", 5.0, 0)]
    assert stats.to_dict()["mem_bw"]["socket"][2] == {
        "hostname": "n2", "id": "0", "data": {"avg": 3.0, "min": 1.0, "max": 5.0},
    }  # fmt: skip
    assert stats.to_dict()["mem_bw"]["node"][0] == {
        "hostname": "n1", "data": {"avg": 9.0, "min": 3.0, "max": 15.0},
    }  # fmt: skip


def test_incomplete_statistics_become_three_zeros_in_the_metric_stores_shape_only() -> None:
    nan = float("nan")
    assert Statistics(0.5, 2.0, 1.0).to_dict() == {"avg": 1.0, "min": 0.5, "max": 2.0}
    for low, high, mean in ((nan, 2, 1), (0.5, nan, 1), (0.5, 2, nan), (nan, nan, nan)):
        assert Statistics(low, high, mean).to_dict() == {"avg": 0.0, "min": 0.0, "max": 0.0}
    assert Statistics(float(np.float32(0.1)), 2.0, 1.0, narrow=True).to_dict()["min"] == 0.1


# --- shapes


def test_a_jobs_data_has_the_shape_of_clustercockpits_job_archive(read: Reader) -> None:
    data = read.job_data(job("n1", "n9", duration=120), ["mem_bw", "cpu_load"], ("socket",))
    found = json.loads(data.to_json())
    assert found["mem_bw"]["socket"]["unit"] == {"base": "B/s", "prefix": "G"}
    assert found["mem_bw"]["socket"]["timestep"] == 60
    assert found["mem_bw"]["socket"]["series"][1] == {
        "hostname": "n1", "id": "1", "data": [2.0, 4.0], "statistics": {"avg": 3.0, "min": 2.0, "max": 4.0},
    }  # fmt: skip
    assert found["cpu_load"]["node"]["series"][1] == {
        "hostname": "n9", "data": [None, None], "statistics": {"avg": 0.0, "min": 0.0, "max": 0.0},
    }  # fmt: skip
    assert read.job_data(job("n9"), ["cpu_load"]).to_dict() == {}


# --- nodes


def test_nodes_are_all_that_there_are_in_natural_order_or_those_that_are_named(read: Reader) -> None:
    data = read.node_data("tiny", T0, T0 + 120)
    assert list(data) == ["g1", "n1", "n2"]
    assert [firsts(data["n2"][name].series) for name in ("flops", "mem_bw")] == [[255.0], [3.0]]
    assert firsts(data["g1"]["acc_power"].series) == [3.0]
    assert "mem_bw" not in data["g1"]
    assert "acc_power" not in data["n1"]
    named = read.node_data("tiny", T0, T0 + 120, nodes="n[2,1]", metrics=["cpu_load"])
    assert [(host, list(metrics)) for host, metrics in named.items()] == [
        ("n2", ["cpu_load"]),
        ("n1", ["cpu_load"]),
    ]
    (entry,) = named.to_dict()["n1"]["cpu_load"]
    assert (entry["timestep"], entry["series"][0]["data"]) == (60, [4.0, 8.0])


def test_lists_of_nodes_have_scopes_and_may_be_those_of_a_subcluster(read: Reader) -> None:
    data = read.node_list_data("tiny", "now-5m", "now", subcluster="main", metrics=["mem_bw", "flops"],
                               scopes=("socket",), resolution=300, algo="average")  # fmt: skip
    assert list(data) == ["n1", "n2"]
    assert plain(data["n1"]["mem_bw"]["socket"].series[1].values) == [6.0]
    assert data.to_dict()["n2"]["flops"]["socket"]["series"][0] == {
        "hostname": "n2", "id": "0", "data": [153.0], "statistics": {"avg": 153.0, "min": 51.0, "max": 255.0},
    }  # fmt: skip
    everywhere = read.node_list_data("tiny", T0, T0 + 60, metrics=["acc_power"], scopes=("accelerator",))
    assert [(host, list(metrics)) for host, metrics in everywhere.items()] == [
        ("g1", ["acc_power"]), ("n1", []), ("n2", []),
    ]  # fmt: skip
