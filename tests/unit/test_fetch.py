"""The metric store's batch request over a store: rows, ranges, statistics, and what is wrong with one query alone."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mstore import config as configuration
from mstore.config import Config
from mstore.errors import InvalidRequest, InvalidStep, LimitExceeded, NotAggregatable, UnknownMetric
from mstore.fetching.answer import Fetched
from mstore.limits import FETCH_QUERIES_MAX
from mstore.query import Reader
from tests.query_rig import T0, Store, plain

CORES = ["0", "1", "2", "3"]
NAN = math.nan


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-test-{os.getpid()}")
    yield made
    made.close()


def fetch(
    store: Store, *queries: dict[str, Any], start: int = T0, end: int = T0 + 300, **keys: Any
) -> Fetched:
    named = [{"metric": "load", "host": "f1", **query} for query in queries]
    options = {key.replace("_", "-"): value for key, value in keys.items()}
    return store.reader.fetch({"cluster": "fritz", "from": start, "to": end, "queries": named, **options})


def with_config(store: Store, config: Config) -> Reader:
    return Reader(store.directory_map.segment, store.samples_map.segment, config=lambda: config)


# --- ranges and times


def test_a_write_is_read_at_its_time_and_nothing_before_it(store: Store) -> None:
    """Upstream's BufferWrite and BufferRead: f = 10, samples at 100, 110, 120."""
    store.put(store.open("ops", t=100), 100, [1, 2, 3], 10)
    ((found,),) = fetch(store, {"metric": "ops"}, start=100, end=130)
    assert (found.start, found.stop, found.step, found.values.tolist()) == (100, 130, 10, [1, 2, 3])
    ((early,),) = fetch(store, {"metric": "ops"}, start=50, end=120)
    assert plain(np.where(early.valid, early.values.astype(float), NAN)) == [None] * 5 + [1, 2]
    ((cut,),) = fetch(store, {"metric": "ops"}, start=50, end=120, with_padding=False)
    assert (cut.start, cut.stop, cut.values.tolist()) == (100, 120, [1, 2])


def test_every_series_has_exactly_the_range_that_was_asked_for(store: Store) -> None:
    """A series that begins after the range, ends before it, or has no sample in it: never longer, never shorter."""
    store.put(store.open("load", "f1"), T0, [1.0, 2.0])
    for start, end in (
        (T0 - 6000, T0 - 3000),
        (T0 + 60, T0 + 6000),
        (T0 + 3000, T0 + 6000),
        (T0 - 60, T0 + 240),
    ):
        ((found,),) = fetch(store, {}, start=start, end=end)
        assert (len(found), found.start, found.stop) == ((end - start) // 60, start, end)
    (entry,) = fetch(store, {}, start=0, end=600).to_dict()["results"][0]
    assert entry == {
        "data": [None] * 10,
        "from": 0,
        "to": 600,
        "resolution": 60,
        "avg": None,
        "min": None,
        "max": None,
    }


def test_a_range_that_is_no_multiple_of_the_step_ends_with_the_slot_that_begins_in_it(store: Store) -> None:
    store.put(store.open("load", "f1"), T0, [1.0, 2.0, 3.0])
    ((found,),) = fetch(store, {}, start=T0, end=T0 + 61)
    assert (found.values.tolist(), found.stop) == ([1.0, 2.0], T0 + 120)


@pytest.mark.parametrize("offset", [-30, -29, -1, 0, 1, 29])
def test_times_are_those_asked_for_each_answered_by_the_slot_that_contains_it(
    store: Store, offset: int
) -> None:
    store.put(store.open("load", "f1"), T0, [1.0, 2.0, 3.0])
    ((found,),) = fetch(store, {}, start=T0 + offset, end=T0 + offset + 180)
    assert (found.start, found.values.tolist()) == (T0 + offset, [1.0, 2.0, 3.0])
    assert found.times.tolist() == [T0 + offset, T0 + offset + 60, T0 + offset + 120]


def test_an_empty_range_is_an_entry_without_data(store: Store) -> None:
    store.put(store.open("load", "f1"), T0, [1.0])
    assert fetch(store, {}, end=T0).to_dict() == {
        "results": [[{"from": T0, "to": T0, "resolution": 60, "avg": None, "min": None, "max": None}]]
    }


def test_samples_on_slot_borders_show_on_both_sides_of_a_chunk_border(store: Store) -> None:
    ref = store.open("load", "f1")
    for slot in range(1, 1100):
        store.put(ref, T0 + 60 * slot - 30, [float(slot)])
    ((found,),) = fetch(store, {}, start=T0 + 30, end=T0 + 30 + 60 * 1099)
    assert found.values.tolist() == [float(slot) for slot in range(1, 1100)]


def test_a_step_that_was_changed_meanwhile_is_the_answers_step(store: Store) -> None:
    """The definition says 60 s, the series was continued with 30 s."""
    ref = store.open("load", "f1", "core", "0")
    store.put(ref, T0, [1.0, 2.0])
    new, _ = store.writer.begin_era(ref & 0xFFFF_FFFF, T0 + 105, 30, T0 + 105, 1)
    store.writer.publish()
    store.put(new, T0 + 120, [3.0, 4.0, 5.0], 30)
    ((found,),) = fetch(store, {"type": "core", "type-ids": ["0"]}, start=T0 + 7, end=T0 + 187)
    assert (found.step, found.start, plain(found.values)) == (30, T0 + 7, [1, 2, 2, None, 3, 4])


# --- rows


def test_a_row_has_an_entry_for_every_id_in_the_order_asked(store: Store) -> None:
    for core in (0, 2):
        store.put(store.open("load", "f1", "core", str(core)), T0, [float(core)] * 5)
    (row,) = fetch(store, {"type": "core", "type-ids": ["2", "1", "0", "2"]})
    assert [one.type_id for one in row] == ["2", "1", "0", "2"]
    assert [plain(one.values) for one in row] == [[2.0] * 5, [None] * 5, [0.0] * 5, [2.0] * 5]
    assert [one.why for one in row] == ["", "no such id", "", ""]


def test_sub_levels_come_id_by_id_within_each_id(store: Store) -> None:
    for acc in "ab":
        for link in "01":
            store.put(store.open("load", "f1", "accelerator", acc, "nvlink", link), T0, [1.0])
    query = {"type": "accelerator", "type-ids": ["b", "a"], "subtype": "nvlink", "subtype-ids": ["1", "0"]}
    (row,) = fetch(store, query)
    assert [one.path for one in row] == [
        f"fritz/f1/accelerator{acc}/nvlink{link}" for acc in "ba" for link in "10"
    ]  # fmt: skip
    ((together,),) = fetch(store, {**query, "aggreg": True})
    assert (together.n_series, together.aggregation) == (4, "avg")


def test_a_sub_level_hangs_directly_below_the_host_too(store: Store) -> None:
    store.put(store.open("load", "f1", "", "", "network", "eth0"), T0, [7.0])
    store.put(store.open("load", "f1", "network", "eth1"), T0, [8.0])
    ((found,),) = fetch(store, {"type": "network", "type-ids": ["eth1"]}, end=T0 + 60)
    assert found.values.tolist() == [8.0]


def test_one_entry_over_many_ids_skips_the_missing_ones(store: Store) -> None:
    for core in CORES:
        store.put(store.open("flops", "f1", "core", core), T0, [float(core)] * (1 + int(core)))
    ((found,),) = fetch(store, {"metric": "flops", "type": "core", "type-ids": [*CORES, "9"], "aggreg": True})
    assert found.values[:4].tolist() == [6.0, 6.0, 5.0, 3.0]
    assert (found.n_series, found.aggregation, found.unit) == (4, "sum", "GFlops/s")
    ((one,),) = fetch(store, {"metric": "flops", "type": "core", "type-ids": ["2"], "aggreg": True})
    assert one.values[:3].tolist() == [2.0, 2.0, 2.0]


def test_a_host_without_a_type_is_its_own_series_or_all_below_it(store: Store) -> None:
    for core in CORES:
        store.put(store.open("flops", "f1", "core", core), T0, [1.0])
    assert fetch(store, {"metric": "flops"})[0][0].values[0] == 4.0
    store.put(store.open("flops", "f1"), T0, [9.0])
    assert fetch(store, {"metric": "flops"})[0][0].values[0] == 9.0
    assert fetch(store, {"metric": "flops", "type": "node", "type-ids": ["0"]})[0][0].values[0] == 9.0


def test_a_type_without_ids_has_nothing_to_answer(store: Store) -> None:
    store.put(store.open("load", "f1", "core", "0"), T0, [1.0])
    assert fetch(store, {"type": "core"}).to_dict() == {"results": [[]]}
    ((found,),) = fetch(store, {"type": "core", "aggreg": True})
    assert (found.why, plain(found.values)) == ("no such id", [None] * 5)


def test_all_nodes_come_in_natural_order_behind_the_queries_and_are_echoed_with_them(store: Store) -> None:
    for host in ("f10", "f2", "f1"):
        store.put(store.open("load", host), T0, [float(host[1:])])
    store.open("flops")
    found = fetch(store, {"host": "f2"}, for_all_nodes=["load", "flops"], end=T0 + 60)
    echoed = [(query["host"], query["metric"]) for query in found.to_dict()["queries"]]
    hosts = ["f1", "f2", "f10"]
    assert echoed == [("f2", "load"), *((host, metric) for host in hosts for metric in ("load", "flops"))]
    assert [row[0].values[0] for row in found[1::2]] == [1.0, 2.0, 10.0]
    assert [row[0].host for row in found] == [host for host, _ in echoed]
    assert "queries" not in fetch(store, {"host": "f2"}).to_dict()


# --- what becomes of the data


def test_statistics_are_of_the_samples_and_not_of_the_resampled_points(store: Store) -> None:
    store.put(store.open("load", "f1"), T0, [1.0, 9.0, 2.0, NAN, 4.0])
    ((found,),) = fetch(store, {"resolution": 120, "scale-by": 2}, resample_algo="average")
    assert plain(found.values) == [10.0, 4.0, 8.0]
    assert (found.min, found.max, found.avg, found.step, found.stop) == (2.0, 18.0, 8.0, 120, T0 + 360)


def test_a_resolution_that_is_not_coarser_leaves_the_data_as_it_is(store: Store) -> None:
    store.put(store.open("load", "f1"), T0, [1.0, 2.0])
    for resolution in (0, 30, 60):
        ((found,),) = fetch(store, {"resolution": resolution})
        assert (found.step, plain(found.values)) == (60, [1.0, 2.0, None, None, None])


@pytest.mark.parametrize(("minimum_points", "step"), [(0, 120), (5, 120), (6, 60)])
def test_a_range_of_few_points_is_not_resampled_where_the_configuration_says_so(
    store: Store, minimum_points: int, step: int
) -> None:
    store.put(store.open("load", "f1"), T0, [1.0, 2.0])
    reader = with_config(store, Config(minimum_points=minimum_points))
    queries = [{"metric": "load", "host": host, "resolution": 120} for host in ("f1", "unknown")]
    request = {"cluster": "fritz", "from": T0, "to": T0 + 300, "queries": queries, "resample-algo": "average"}
    assert [row[0].step for row in reader.fetch(request)] == [step, step]


def test_a_negative_scale_turns_the_extremes_around(store: Store) -> None:
    store.put(store.open("ops", "f1", t=T0), T0, [1, 2, 6], 10)
    ((found,),) = fetch(store, {"metric": "ops", "scale-by": -0.5}, end=T0 + 30)
    assert (found.values.tolist(), found.min, found.max, found.avg) == ([-0.5, -1.0, -3.0], -3.0, -0.5, -1.5)


def test_what_was_not_asked_for_is_left_out(store: Store) -> None:
    store.put(store.open("load", "f1"), T0, [1.0, 3.0])
    assert fetch(store, {}, with_data=False).to_dict()["results"] == [
        [{"from": T0, "to": T0 + 300, "resolution": 60, "avg": 2.0, "min": 1.0, "max": 3.0}]
    ]
    ((found,),) = fetch(store, {}, with_stats=False)
    assert found.statistics() == {"avg": None, "min": None, "max": None}


def test_counters_beyond_doubles_come_back_exactly(store: Store) -> None:
    store.put(store.open("ops", "f1", t=T0), T0, [2**60 + 1, 2**64 - 2], 10)
    found = fetch(store, {"metric": "ops"}, end=T0 + 30)
    assert json.loads(found.to_json())["results"][0][0]["data"] == [2**60 + 1, 2**64 - 2, None]


# --- what is wrong with one query alone


def test_errors_of_one_query_stand_in_its_entries_and_the_others_are_answered(store: Store) -> None:
    for core in CORES:
        store.put(store.open("load", "f1", "core", core), T0, [1.0])
        store.put(store.open("clock", "f1", "core", core), T0, [1.0], 10)
    store.rows(store.open("beat", "f1"), [(T0 * 1000, 1)], "Q")
    found = fetch(
        store,
        {"metric": "nope", "type": "core", "type-ids": ["0", "1"]},
        {"metric": "clock"},
        {"resolution": 90},
        {"scale-by": None},
        {"scale-by": math.inf},
        {"metric": "beat"},
        {},
    )
    errors = [[type(one.error) for one in row] for row in found]
    assert errors == [
        [UnknownMetric, UnknownMetric], [NotAggregatable], [InvalidStep], [InvalidRequest], [InvalidRequest],
        [InvalidRequest], [type(None)],
    ]  # fmt: skip
    entry = found.to_dict()["results"][0][0]
    assert entry.pop("error").startswith("there is no metric 'nope'")
    assert entry == {"from": 0, "to": 0, "resolution": 0, "avg": None, "min": None, "max": None}
    assert "nope" in repr(found[0][0])


def test_a_metric_that_is_configured_but_was_never_written_is_answered_as_missing(store: Store) -> None:
    store.put(store.open("load", "f1"), T0, [1.0])
    reader = with_config(store, configuration.parse('[metrics.fresh]\nstep = 30\nunit = "W"\n'))
    for cluster in ("fritz", "new"):
        request = {
            "cluster": cluster,
            "from": T0,
            "to": T0 + 60,
            "queries": [{"metric": "fresh", "host": "f1"}],
        }
        ((found,),) = reader.fetch(request)
        assert (found.error, found.step, found.unit, plain(found.values)) == (None, 30, "W", [None, None])


def test_rows_without_any_sample_can_be_left_empty_as_the_web_server_expects(store: Store) -> None:
    store.put(store.open("load", "f1", "core", "0"), T0, [1.0])
    found = fetch(
        store, {"type": "core", "type-ids": ["0", "1"]}, {"host": "f9"}, {"metric": "nope"}, with_data=False
    )
    assert [len(row) for row in found.to_dict(skip_empty=True)["results"]] == [2, 0, 1]
    assert [len(row) for row in found.to_dict()["results"]] == [2, 1, 1]


def test_centuries_of_many_series_and_all_nodes_times_too_many_metrics_are_refused(store: Store) -> None:
    for core in CORES:
        store.put(store.open("load", "f1", "core", core), T0, [1.0])
    with pytest.raises(LimitExceeded):
        fetch(store, {}, start=T0 - 200 * 365 * 86400, end=T0)
    with pytest.raises(LimitExceeded):
        fetch(store, *[{"host": "f9"}] * 3, start=T0 - 200 * 365 * 86400, end=T0)
    with pytest.raises(LimitExceeded):
        fetch(store, for_all_nodes=["load"] * (FETCH_QUERIES_MAX + 1))


def test_more_queries_than_one_slice_are_answered_in_order(store: Store) -> None:
    for core in range(40):
        store.put(store.open("load", "f1", "core", str(core)), T0, [float(core)])
    asked = [str(core % 40) for core in range(2000)]
    found = fetch(store, *[{"type": "core", "type-ids": [core]} for core in asked], end=T0 + 60)
    assert [row[0].values[0] for row in found] == [float(core) for core in asked]


@pytest.mark.parametrize(
    ("algo", "want"),
    [
        ("average", [1.5, 9.0, 2.0, 4.0]), ("simple", [1.0, None, 2.0, 4.0]), ("min", [1.0, 9.0, 2.0, 4.0]),
        ("max", [2.0, 9.0, 2.0, 4.0]), ("last", [2.0, 9.0, 2.0, 4.0]), ("lttb", [1.0, 2.0, 4.0]),
        ("", [1.0, 2.0, 4.0]),
    ],
)  # fmt: skip
def test_points_are_made_by_the_algorithm_that_is_asked_for(
    store: Store, algo: str, want: list[float | None]
) -> None:
    store.put(store.open("load", "f1"), T0, [1.0, 2.0, NAN, 9.0, 2.0, 2.0, 4.0])
    found = fetch(
        store, {"resolution": 120}, {"host": "f9", "resolution": 120}, end=T0 + 420, resample_algo=algo
    )
    ((one,), (nothing,)) = found
    assert (plain(one.values), one.step, one.stop) == (want, 120, T0 + 120 * len(want))
    assert (len(nothing), nothing.step) == (len(want), 120)
    ((statistics,),) = fetch(store, {"resolution": 120}, end=T0 + 420, resample_algo=algo, with_data=False)
    assert (statistics.stop, statistics.max, statistics.avg) == (one.stop, 9.0, 20 / 6)
