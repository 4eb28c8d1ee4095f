"""The metric store's own cases about scopes, asked of a served store in every way, and what they leave out.

How many questions a pair of scopes is, and which: unit/test_scopes.py. Here each answer is held against numbers from which
one can tell which parts were added, and how often.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mstore.scopes import FINE_TO_COARSE
from tests.process.test_rules_answers import Everywhere
from tests.stores import served

START = int(time.time()) // 60 * 60 - 600
TOPOLOGY: dict[str, Any] = {
    "node": list(range(8)),
    "socket": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "memoryDomain": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "core": [[0, 1], [2, 3], [4, 5], [6, 7]],
    "accelerators": [{"id": "gpu0"}, {"id": "gpu1"}],
}
"""That of the metric store's tests."""
PARTS = {"hwthread": 8, "core": 4, "memoryDomain": 2, "socket": 2, "node": 1, "accelerator": 2}
"""How many of each scope there are in it."""
DOCUMENT = {
    "name": "up",
    "metricConfig": [
        {"name": f"of_{scope}", "scope": scope, "aggregation": "sum", "timestep": 60} for scope in PARTS
    ],
    "subClusters": [{"name": "main", "nodes": "n[1-2]", "topology": TOPOLOGY}],
}
NATIVE_TO_COARSER = [
    ("hwthread", "core", 4), ("hwthread", "socket", 2), ("hwthread", "node", 1), ("core", "socket", 2), ("core", "node", 1),
    ("socket", "node", 1), ("memoryDomain", "node", 1), ("memoryDomain", "socket", 2), ("accelerator", "node", 1),
    ("hwthread", "memoryDomain", 2), ("core", "memoryDomain", 2),
]  # fmt: skip
"""The last two are errors there."""
JOB = {
    "cluster": "up", "subCluster": "main", "startTime": START, "duration": 120,
    "resources": [{"hostname": "n1", "hwthreads": list(range(8)), "accelerators": ["gpu0", "gpu1"]}],
}  # fmt: skip


def ids(scope: str) -> list[str]:
    return [f"gpu{k}" if scope == "accelerator" else str(k) for k in range(PARTS[scope])]


@pytest.fixture(scope="module")
def store() -> Iterator[Everywhere]:
    lines = []
    for scope, n in PARTS.items():
        for k in range(n):
            level = "type=node" if scope == "node" else f"type={scope},type-id={ids(scope)[k]}"
            lines.append(f"of_{scope},cluster=up,hostname=n1,{level} value={1 << k} {START}\n")
    with (
        served('topology = ["up.json"]\nretention = "0"\n', {"up.json": json.dumps(DOCUMENT)}) as server,
        Everywhere(server) as everywhere,
    ):
        everywhere.warm()
        assert everywhere.client.write("".join(lines)).written == len(lines)
        yield everywhere
        everywhere.let_go()


def answer(store: Everywhere, native: str, requested: str, job: dict[str, Any] = JOB) -> dict[str, Any]:
    """{scope: [(id, first value)]} of the metric that is stored at `native`."""
    data = store.ask("job_data", job, [f"of_{native}"], (requested,))
    assert data.errors == []
    return {
        scope: [(one.type_id, float(one.values[0])) for one in found.series]
        for scope, found in data.get(f"of_{native}", {}).items()
    }


@pytest.mark.parametrize("scope", PARTS)
def test_a_scope_asked_as_it_is_stored_is_its_series_in_their_order(store: Everywhere, scope: str) -> None:
    named = [""] if scope == "node" else ids(scope)
    assert answer(store, scope, scope) == {scope: [(one, float(1 << k)) for k, one in enumerate(named)]}


@pytest.mark.parametrize(("native", "requested", "n"), NATIVE_TO_COARSER)
def test_a_coarser_scope_adds_each_part_exactly_once(
    store: Everywhere, native: str, requested: str, n: int
) -> None:
    found = answer(store, native, requested)[requested]
    assert [one for one, _ in found] == ([""] if requested == "node" else [str(k) for k in range(n)])
    each = PARTS[native] // n
    assert [value for _, value in found] == [
        float(sum(1 << k for k in range(part * each, (part + 1) * each))) for part in range(n)
    ]


@pytest.mark.parametrize("requested", ["hwthread", "core", "memoryDomain", "socket"])
def test_accelerators_have_no_answer_between_themselves_and_the_node(
    store: Everywhere, requested: str
) -> None:
    assert answer(store, "accelerator", requested) == {}


@pytest.mark.parametrize(
    ("native", "requested"), list(itertools.product(["hwthread", "core", "socket", "node"], repeat=2))
)
def test_every_pair_is_answered_for_a_job_without_accelerators_and_never_finer_than_stored(
    store: Everywhere, native: str, requested: str
) -> None:
    job = {**JOB, "resources": [{"hostname": "n1"}]}
    found = answer(store, native, requested, job)
    assert list(found) == [max(native, requested, key=FINE_TO_COARSE.index)]
    assert sum(value for (series,) in [found.values()] for _, value in series) == (1 << PARTS[native]) - 1


def test_numbers_of_threads_are_texts_of_ids(store: Everywhere) -> None:
    """Of some threads, in the job's order; none named is the whole node."""
    for threads, wanted in (
        ([0], ["0"]),
        ([1, 2, 3], ["1", "2", "3"]),
        ([], ids("hwthread")),
        (None, ids("hwthread")),
    ):
        job = {**JOB, "resources": [{"hostname": "n1", "hwthreads": threads}]}
        assert [one for one, _ in answer(store, "hwthread", "hwthread", job)["hwthread"]] == wanted


def test_incomplete_statistics_are_three_zeros_and_complete_ones_are_told_as_they_are(
    store: Everywhere,
) -> None:
    """In the shape of the metric store alone: the objects say that there is nothing."""
    job = {**JOB, "resources": [{"hostname": "n1"}, {"hostname": "n2"}]}
    found = store.ask("job_scoped_statistics", job, ["of_node"])
    assert np.isnan(found["of_node"]["node"][1].avg)
    assert [(one["hostname"], one["data"]) for one in found.to_dict()["of_node"]["node"]] == [
        ("n1", {"avg": 1.0, "min": 1.0, "max": 1.0}), ("n2", {"avg": 0.0, "min": 0.0, "max": 0.0}),
    ]  # fmt: skip
