"""Native scope times requested scope: which questions answer it, and that nothing is counted twice or left out."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest

from mstore.errors import InvalidRequest
from mstore.scopes import FINE_TO_COARSE, ScopeQuery, effective, scope_queries
from mstore.topology import Topology, load_cluster

HALVES = ((0, 1, 2, 3), (4, 5, 6, 7))
PLAIN = Topology(tuple(range(8)), HALVES, HALVES, ((0, 1), (2, 3), (4, 5), (6, 7)), ("gpu0", "gpu1"))
"""That of upstream's tests."""
SMT = Topology(
    tuple(range(16)),
    ((0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)),
    ((0, 1, 8, 9), (2, 3, 10, 11), (4, 5, 12, 13), (6, 7, 14, 15)),
    tuple((core, core + 8) for core in range(8)),
)
"""Two threads a core, with numbers far apart."""
STORED = [scope for scope in FINE_TO_COARSE if scope != "accelerator"]


def asked(native: str, requested: str, **options: object) -> list[ScopeQuery]:
    return scope_queries(native, requested, PLAIN, accelerators=PLAIN.accelerators, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", FINE_TO_COARSE)
def test_a_scope_asked_as_it_is_stored_is_one_question_without_aggregation(scope: str) -> None:
    (query,) = asked(scope, scope)
    assert (query.scope, query.aggregate) == (scope, False)


@pytest.mark.parametrize(
    ("native", "requested", "n"),
    [("hwthread", "core", 4), ("hwthread", "socket", 2), ("hwthread", "node", 1), ("core", "socket", 2),
     ("core", "node", 1), ("socket", "node", 1), ("memoryDomain", "node", 1), ("memoryDomain", "socket", 2),
     ("accelerator", "node", 1), ("hwthread", "memoryDomain", 2), ("core", "memoryDomain", 2)],
)  # fmt: skip
def test_a_coarser_scope_is_one_aggregating_question_a_part(native: str, requested: str, n: int) -> None:
    found = asked(native, requested)
    assert len(found) == n
    assert {(query.aggregate, query.scope, query.type) for query in found} == {(True, requested, native)}
    assert [query.id for query in found] == ([None] if requested == "node" else [str(i) for i in range(n)])


@pytest.mark.parametrize("requested", ["hwthread", "core", "memoryDomain", "socket"])
def test_accelerators_have_nothing_between_themselves_and_the_node(requested: str) -> None:
    assert asked("accelerator", requested) == []


@pytest.mark.parametrize(
    ("native", "requested"),
    list(itertools.product(STORED, repeat=2)),
)
def test_every_pair_is_answered_without_accelerators_and_never_finer_than_stored(
    native: str, requested: str
) -> None:
    found = scope_queries(native, requested, PLAIN)
    assert found
    coarser = max(native, requested, key=FINE_TO_COARSE.index)
    assert {query.scope for query in found} == {coarser} == {effective(native, requested)}


def test_the_node_is_asked_without_type_and_ids() -> None:
    assert asked("node", "node") == [ScopeQuery("node", None, (), False, None)]
    assert asked("node", "node")[0].answers() == (("", (("", "", "", ""),)),)


@pytest.mark.parametrize(
    ("threads", "ids"), [([0], ("0",)), ([1, 2, 3], ("1", "2", "3")), ([7, 5], ("7", "5"))]
)
def test_ids_are_texts_in_the_order_the_job_has_them(threads: list[int], ids: tuple[str, ...]) -> None:
    (query,) = asked("hwthread", "hwthread", threads=threads)
    assert query.ids == ids
    assert query.answers() == tuple((one, (("hwthread", one, "", ""),)) for one in ids)


def test_an_aggregate_is_one_answer_named_by_its_part() -> None:
    (first, _) = asked("core", "socket")
    assert first.answers() == (("0", (("core", "0", "", ""), ("core", "1", "", ""))),)
    (node,) = asked("core", "node")
    assert [(one, len(levels)) for one, levels in node.answers()] == [("", 4)]


@pytest.mark.parametrize("threads", [None, []])
def test_a_job_that_names_no_threads_has_the_whole_node(threads: list[int] | None) -> None:
    (query,) = asked("hwthread", "hwthread", threads=threads)
    assert query.ids == tuple("01234567")


def test_a_job_that_names_no_accelerators_has_none() -> None:
    assert scope_queries("accelerator", "accelerator", PLAIN) == []
    assert scope_queries("accelerator", "node", PLAIN) == []
    (query,) = scope_queries("accelerator", "node", PLAIN, accelerators=["gpu1"])
    assert (query.ids, query.aggregate) == (("gpu1",), True)


@pytest.mark.parametrize("scope", ["sockets", "", "die", "Node"])
def test_what_is_no_scope_is_refused_with_the_ones_there_are(scope: str) -> None:
    for native, requested in (("hwthread", scope), (scope, "node")):
        with pytest.raises(InvalidRequest, match="memoryDomain, socket, node"):
            scope_queries(native, requested, PLAIN)


def test_core_ids_and_not_thread_ids_make_up_a_socket() -> None:
    """With two threads a core, threads and cores have different numbers."""
    found = scope_queries("core", "socket", SMT)
    assert [(query.id, query.ids) for query in found] == [("0", tuple("0123")), ("1", tuple("4567"))]
    domains = scope_queries("core", "memoryDomain", SMT)
    assert [(query.id, query.ids) for query in domains] == [
        (str(i), (str(2 * i), str(2 * i + 1))) for i in range(4)
    ]


def test_only_what_a_job_owns_counts_at_every_scope() -> None:
    """Threads 1, 9 and 5 of 16: core 1 whole, half of core 5."""
    threads = [1, 9, 5]
    assert [(q.id, q.ids) for q in scope_queries("hwthread", "core", SMT, threads)] == [
        ("1", ("1", "9")),
        ("5", ("5",)),
    ]
    assert [(q.id, q.ids) for q in scope_queries("hwthread", "socket", SMT, threads)] == [
        ("0", ("1", "9")), ("1", ("5",)),
    ]  # fmt: skip
    assert [q.ids for q in scope_queries("hwthread", "node", SMT, threads)] == [("1", "9", "5")]
    assert [q.ids for q in scope_queries("core", "node", SMT, threads)] == [("1", "5")]
    assert [q.ids for q in scope_queries("socket", "socket", SMT, [1])] == [("0",)]


def sums(native: str, requested: str, topology: Topology, threads: list[int] | None) -> tuple[int, list[str]]:
    """The sum of made-up values over all answers, and the ids that were asked, each as often as it was."""
    ids = [one for query in scope_queries(native, requested, topology, threads) for one in query.ids]
    return sum(1 << int(one) for one in ids), sorted(ids)


@pytest.mark.parametrize("topology", [PLAIN, SMT], ids=["plain", "smt"])
@pytest.mark.parametrize("native", ["hwthread", "core", "memoryDomain", "socket"])
@pytest.mark.parametrize("threads", [None, [0], [1, 2, 3, 5], [7, 0], list(range(8))])
def test_the_node_is_the_sum_of_its_sockets_domains_and_cores(
    topology: Topology, native: str, threads: list[int] | None
) -> None:
    coarser = FINE_TO_COARSE[FINE_TO_COARSE.index(native) :]
    found = {requested: sums(native, requested, topology, threads) for requested in coarser}
    assert len({json.dumps(one) for one in found.values()}) == 1, found
    assert len(set(found["node"][1])) == len(found["node"][1])


def test_nodes_of_real_topologies_are_the_sums_of_their_sockets() -> None:
    fixtures = os.environ.get("MSTORE_FIXTURES")
    if not fixtures:
        pytest.skip("MSTORE_FIXTURES is not set: no real topologies")
    for path in sorted((Path(fixtures) / "clusters").glob("*.json")):
        for sub in load_cluster(path).subclusters.values():
            for native in ("hwthread", "core", "memoryDomain", "socket"):
                node, sockets = (sums(native, scope, sub.topology, None)[1] for scope in ("node", "socket"))
                # One of the files lists a thread 5152 instead of 51 and 52: its sockets know these.
                assert set(sockets) <= set(node), (path.name, sub.name, native)
                assert set(node) - set(sockets) <= {"5152"}, (path.name, sub.name, native)
