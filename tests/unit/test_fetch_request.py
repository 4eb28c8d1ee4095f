"""The batch request as it arrives: the JSON shape of the metric store, every key known and every number bounded."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mstore.errors import EmptyCluster, InvalidRequest, InvalidTimeRange, LimitExceeded
from mstore.fetching.request import FetchQuery, FetchRequest
from mstore.limits import FETCH_QUERIES_MAX

NOW_S = 1_700_000_000
QUERY = {"metric": "load", "host": "f1"}


def parse(**keys: Any) -> FetchRequest:
    document = {"cluster": "fritz", "from": 100, "to": 200, "queries": [QUERY]}
    return FetchRequest.parse(
        {**document, **{key.replace("_", "-"): value for key, value in keys.items()}}, NOW_S
    )


def query(**keys: Any) -> FetchQuery:
    return parse(
        queries=[{**QUERY, **{key.replace("_", "-"): value for key, value in keys.items()}}]
    ).queries[0]


def test_a_request_as_clustercockpits_web_server_sends_it_is_understood() -> None:
    found = FetchRequest.parse(
        {
            "cluster": "fritz",
            "queries": [
                {"metric": "cpu_load", "host": "f0201", "resolution": 0, "aggreg": False},
                {"type": "hwthread", "metric": "flops_any", "host": "f0201", "resolution": 240,
                 "type-ids": ["0", "1"], "aggreg": True},
            ],
            "for-all-nodes": None, "from": 1725620400, "to": 1725624000, "with-stats": True, "with-data": False,
        },
        NOW_S,
    )  # fmt: skip
    assert found == FetchRequest(
        "fritz", 1725620400, 1725624000,
        (FetchQuery("cpu_load", "f0201"), FetchQuery("flops_any", "f0201", 240, "hwthread", ("0", "1"), aggregate=True)),
        None, True, False, True, "lttb",
    )  # fmt: skip


def test_what_is_absent_is_on_and_null_is_absent() -> None:
    found = parse(queries=None, for_all_nodes=None, with_stats=None, resample_algo=None)
    assert (found.queries, found.for_all_nodes, found.algo) == ((), None, "lttb")
    assert (found.with_stats, found.with_data, found.with_padding) == (True, True, True)
    assert query(type=None, type_ids=None, resolution=None) == FetchQuery("load", "f1")


def test_times_may_be_what_times_of_questions_are() -> None:
    found = FetchRequest.parse({"cluster": "c", "from": "-1h", "to": "now"}, NOW_S)
    assert (found.start, found.end) == (NOW_S - 3600, NOW_S)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"form": 3}, "did you mean from?"),
        ({"cluster": 3}, "cluster=3: expected a name"),
        ({"queries": {}}, "queries={}: expected a list of queries"),
        ({"queries": [3]}, "queries[0] is no object"),
        ({"queries": [{"host": "f1"}]}, "queries[0].metric is missing"),
        ({"queries": [QUERY, {"metric": "load", "host": 1}]}, "queries[1].host=1"),
        ({"queries": [{**QUERY, "typeids": []}]}, "queries[0].typeids is no key of a batch request: did you mean type-ids"),
        ({"queries": [{**QUERY, "type-ids": [0]}]}, "queries[0].type-ids holds 0"),
        ({"queries": [{**QUERY, "resolution": -1}]}, "queries[0].resolution=-1"),
        ({"queries": [{**QUERY, "resolution": True}]}, "queries[0].resolution=True"),
        ({"queries": [{**QUERY, "resolution": 2**31}]}, "queries[0].resolution=2147483648"),
        ({"queries": [{**QUERY, "scale-by": "2"}]}, "queries[0].scale-by='2'"),
        ({"queries": [{**QUERY, "aggreg": 1}]}, "queries[0].aggreg=1"),
        ({"for-all-nodes": "load"}, "for-all-nodes='load'"),
        ({"with-data": "yes"}, "with-data='yes'"),
        ({"resample-algo": "fastest"}, "resample-algo='fastest': expected one of"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**keys)
    assert says in caught.value.message


@pytest.mark.parametrize("key", ["cluster", "from", "to"])
def test_cluster_and_range_are_required(key: str) -> None:
    document = {"cluster": "fritz", "from": 100, "to": 200}
    del document[key]
    with pytest.raises(InvalidRequest, match=f"without '{key}'"):
        FetchRequest.parse(document, NOW_S)


def test_ranges_and_clusters_that_cannot_be_have_errors_of_their_own() -> None:
    with pytest.raises(EmptyCluster):
        parse(cluster="", for_all_nodes=["load"])
    with pytest.raises(InvalidTimeRange):
        FetchRequest.parse({"cluster": "c", "from": 2, "to": 1}, NOW_S)
    with pytest.raises(InvalidTimeRange):
        FetchRequest.parse({"cluster": "c", "from": 2, "to": 10**15}, NOW_S)
    assert FetchRequest.parse({"cluster": "c", "from": 2, "to": 2}, NOW_S).queries == ()


def test_a_million_queries_or_ids_are_refused_before_anything_is_made_of_them() -> None:
    with pytest.raises(LimitExceeded):
        parse(queries=[QUERY] * 1_000_000)
    ids = ["x"] * 1100
    with pytest.raises(LimitExceeded):
        query(type="a", type_ids=ids, subtype="b", subtype_ids=ids)
    assert len(parse(queries=[QUERY] * FETCH_QUERIES_MAX).queries) == FETCH_QUERIES_MAX


@pytest.mark.parametrize(
    ("given", "scale"),
    [(0, 0.0), (2, 2.0), (0.5, 0.5), (None, math.nan), (math.inf, math.inf), (10**400, math.inf)],
)
def test_scales_are_kept_as_they_are_for_their_query_to_answer(given: Any, scale: float) -> None:
    found = query(scale_by=given).scale_by
    assert found == scale or (math.isnan(found) and math.isnan(scale))


@pytest.mark.parametrize(
    ("keys", "levels"),
    [
        ({}, [("", "", "", "")]),
        ({"type": "node", "type_ids": ["0"]}, [("", "", "", "")]),
        ({"type": "core", "type_ids": ["1", "0"]}, [("core", "1", "", ""), ("core", "0", "", "")]),
        ({"type": "core"}, []),
        ({"type": "a", "type_ids": ["1", "2"], "subtype": "b", "subtype_ids": ["3", "4"]},
         [("a", "1", "b", "3"), ("a", "1", "b", "4"), ("a", "2", "b", "3"), ("a", "2", "b", "4")]),
        ({"subtype": "network", "subtype_ids": ["eth0"]}, [("", "", "network", "eth0")]),
        ({"type": "a", "type_ids": ["1"], "subtype": "b"}, []),
    ],
)  # fmt: skip
def test_a_query_names_its_levels_in_order(keys: dict[str, Any], levels: list[tuple[str, ...]]) -> None:
    found = query(**keys)
    assert list(found.levels()) == levels
    assert found.n_levels == len(levels)
