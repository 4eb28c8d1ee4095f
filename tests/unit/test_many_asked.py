"""Questions that mean very many levels or series: each piece is short, a changed store is not paid for twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mstore import errors, limits
from mstore.kernels import _gather
from mstore.kernels._sizes import SizeReader
from mstore.query import Reader, Request, by_selector
from mstore.query.budget import SAMPLES_OF_A_CALL, Budget, Slices, Work, finished
from mstore.query.gather import Replan, replanned_work
from mstore.selector import Form, Selector
from tests.query_rig import T0, Store

NOW = T0 + 600
HOSTS = ("f1", "f2", "f10", "f010", "f1b1", "f01b2")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Hosts with their own load but for one, flops of hwthreads and of one's host, too, rows, levels below levels."""
    made = Store(f"mstore-test-many-{os.getpid()}")
    for host in HOSTS:
        if host != "f2":
            made.put(made.open("load", host), T0, [1.0, 2.0])
        for thread in range(3):
            made.put(made.open("flops", host, "hwthread", str(thread)), T0, [float(thread)] * 5)
            made.rows(made.open("beat", host, "hwthread", str(thread)), [(1000 * T0, thread)], "Q")
    made.put(made.open("load", "f2", "hwthread", "0"), T0, [1.0])
    made.put(made.open("load", "f2", "hwthread", "0", "part", "1"), T0, [1.0])
    made.put(made.open("load", "f2", "hwthread", "1", "part", "1"), T0, [1.0])
    made.put(made.open("flops", "f1"), T0, [7.0])
    made.put(made.open("load", "a1", cluster="alex"), T0, [5.0])
    yield made
    made.close()


@pytest.fixture
def reader(store: Store) -> Reader:
    return Reader(store.directory_map.segment, store.samples_map.segment, now_s=lambda: NOW)


def n_pieces(work: Work[Any]) -> int:
    n = 0
    while not Slices(work, Budget()).run(0.0):
        n += 1
    return n


@pytest.mark.parametrize("metrics", [(), ("load",), ("flops", "beat"), ("nope",)])
@pytest.mark.parametrize(
    "selector",
    ["*", "fritz", "fritz/*", "fritz/f1,f2", "*/*/hwthread*", "fritz/f2/*", "fritz/f2/*/*", "nope", "fritz,nope/f1",
     "alex/f1"],
)  # fmt: skip
def test_followed_series_are_those_that_each_level_stands_for(
    store: Store, reader: Reader, selector: str, metrics: tuple[str, ...]
) -> None:
    directory, gatherer = reader.directory, reader.gatherer
    chosen = Selector.parse(selector)
    levels = [0]
    for step in chosen.steps:
        levels = [
            child
            for level in levels
            for child in directory.children(level)
            if step.matches(directory.level(child).name)
        ]
    wanted: set[int] = set()
    for index in range(directory.counts()["n_metrics"]):
        metric = directory.metric(index)
        if not metrics or metric.name in metrics:
            at = [level for level in levels if directory.level(level).cluster == metric.cluster]
            found = gatherer.collect(at, index)
            assert not isinstance(found, int)
            wanted |= set(found.tolist())
    matched = reader.matching(chosen, metrics)
    assert matched.dtype == np.uint64
    assert matched.tolist() == sorted(wanted, key=lambda ref: ref & 0xFFFF_FFFF)


def test_paths_of_every_depth_come_in_the_order_of_selectors(reader: Reader) -> None:
    assert reader.paths(0) == [()]
    assert reader.paths(1) == [("alex",), ("fritz",)]
    for depth in (2, 3, 4):
        selector = "/".join("*" * depth)
        assert reader.paths(depth) == [tuple(text.split("/")) for text in reader.select(selector).texts]
    assert [host for _, host in reader.paths(2)[1:]] == ["f01b2", "f1", "f1b1", "f2", "f010", "f10"]
    assert reader.children("fritz") == [host for _, host in reader.paths(2)[1:]]
    for depth in (-1, 5):
        with pytest.raises(errors.InvalidRequest):
            reader.paths(depth)


def test_a_name_that_many_hosts_share_is_compared_once(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    matches = Form.matches

    def counted(form: Form, name: str) -> bool:
        compared.append(name)
        return matches(form, name)

    monkeypatch.setattr(Form, "matches", counted)
    assert len(reader.select("fritz/f*/hwthread*")) == 3 * len(HOSTS)
    assert len(compared) == len(set(compared))


def test_hosts_are_gone_through_some_at_a_time(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mstore.query.resolve._PARENTS", 1)
    selector = Selector.parse("fritz/*/*")
    assert n_pieces(by_selector.levels(reader.gatherer, selector, None, Budget())) > len(HOSTS)
    assert n_pieces(reader.paths_work(3)) > len(HOSTS)


@pytest.mark.parametrize("selector", ["fritz/*", "fritz/f1,f10,f2", "fritz/f*,f1"])
def test_too_many_levels_are_refused_as_levels(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, selector: str
) -> None:
    monkeypatch.setattr("mstore.query.resolve.QUERY_SERIES_MAX", 2)
    with pytest.raises(errors.LimitExceeded, match="more than 2 levels: name fewer"):
        reader.select(selector)


def test_too_many_series_are_refused_as_series(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mstore.query.resolve.QUERY_SERIES_MAX", 2)
    with pytest.raises(errors.LimitExceeded, match="more than 2 series: name fewer"):
        reader.latest("fritz/f2", "flops")


@pytest.mark.parametrize(
    ("metric", "function", "united"), [("flops", "rate", False), ("flops", "rate", True), ("beat", "", False)]
)
def test_what_is_read_series_by_series_waits_after_some_of_them(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, metric: str, function: str, united: bool
) -> None:
    selector = Selector.parse("fritz/*/hwthread*")
    request = Request("", "", metric, T0, NOW, function=function, aggregate=united)
    before = n_pieces(reader.series_work(selector, request, Budget()))
    for module in ("answer", "batch", "functions"):
        monkeypatch.setattr(f"mstore.query.{module}.PIECE_SAMPLES", SAMPLES_OF_A_CALL)
    n_series = 1 if united else 3 * len(HOSTS)
    assert n_pieces(reader.series_work(selector, request, Budget())) >= before + n_series - 1


def test_what_is_done_again_because_the_store_changed_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUERY_SERIES_MAX", 10)
    budget = Budget()
    budget.spend(series=1)
    left = [3]

    def attempt() -> Work[str]:
        budget.spend(series=4, samples=5, n_bytes=6)
        yield
        left[0] -= 1
        if left[0]:
            raise Replan
        return "done"

    assert finished(replanned_work(attempt, budget)) == "done"
    assert budget.spent() == (5, 5, 6)


def test_a_store_that_changes_under_a_question_is_looked_at_again(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is planned: sizes of levels, and what the batches' metrics are."""
    sizes = reader.sizes("fritz/*")
    view = reader.node_data("fritz", T0, NOW, metrics=["load"]).to_dict()

    def busy_at_first(answer: Any) -> Any:
        left = [3]

        def asked(*arguments: Any) -> Any:
            left[0] -= 1
            return _gather.BUSY if left[0] > 0 else answer(*arguments)

        return asked

    sizer, gatherer = SizeReader(reader.directory, reader.gatherer.samples), reader.gatherer
    with monkeypatch.context() as patch:
        patch.setattr(
            "mstore.query.held.SizeReader",
            lambda *_: SimpleNamespace(chunk_rows=busy_at_first(sizer.chunk_rows)),
        )
        assert reader.sizes("fritz/*") == sizes
    monkeypatch.setattr(gatherer, "metric", busy_at_first(gatherer.metric), raising=False)
    assert reader.node_data("fritz", T0, NOW, metrics=["load"]).to_dict() == view


@pytest.mark.parametrize("largest", [True, False])
def test_what_has_no_mean_has_no_rank(largest: bool) -> None:
    store = Store(f"mstore-test-many-inf-{os.getpid()}")
    try:
        store.put(store.open("flops", "f1"), T0, [float("inf"), -float("inf")])
        store.put(store.open("flops", "f2"), T0, [1.0, 2.0])
        store.put(store.open("flops", "f3"), T0, [float("inf"), 2.0])
        reader = Reader(store.directory_map.segment, store.samples_map.segment, now_s=lambda: NOW)
        found = reader.top("fritz/*", "flops", T0, NOW, largest=largest)
        assert found.paths.texts == (["fritz/f3", "fritz/f2"] if largest else ["fritz/f2", "fritz/f3"])
        del reader
    finally:
        store.close()


COUNTS = [0, 1, 2**53, 2**53 + 1, 2**53 + 2, 2**63 + 1]


@pytest.fixture(scope="module")
def counters() -> Iterator[Store]:
    """Hosts whose grid (ops) and rows (beat) hold one count each."""
    made = Store(f"mstore-test-many-u64-{os.getpid()}")
    for n, count in enumerate(COUNTS):
        made.put(made.open("ops", f"f{n}"), T0, [count], 10)
        made.rows(made.open("beat", f"f{n}"), [(1000 * T0, count)], "Q")
    yield made
    made.close()


@pytest.mark.parametrize("metric", ["beat", "ops"])
@pytest.mark.parametrize("level", [-1.0, 0.0, 0.5, 2.0**53, 2.0**53 + 2, 2.0**64, 1e30])
@pytest.mark.parametrize("below", [False, True])
def test_a_counter_is_compared_exactly_with_a_level(
    counters: Store, metric: str, level: float, below: bool
) -> None:
    reader = Reader(counters.directory_map.segment, counters.samples_map.segment, now_s=lambda: T0 + 10)
    found = reader.above("fritz/*", metric, level, 0, below)
    assert found.values.tolist() == [count for count in COUNTS if (count < level if below else count > level)]


def test_names_that_few_hosts_have_do_not_count_for_those_that_have_none(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mstore.query.resolve.QUERY_SERIES_MAX", 20)
    assert len(reader.select("fritz/*/hwthread[1-100]")) == 2 * len(HOSTS)
    assert len(reader.select("fritz/*/hwthread0*,hwthread[1-100]")) == 3 * len(HOSTS)
    for selector in (
        "fritz/f1/hwthread[1-100]",
        "fritz/f1/" + ",".join(f"*{'hwthread'[:n]}*" for n in range(8)),
    ):
        with pytest.raises(errors.LimitExceeded, match="levels"):
            reader.latest(selector, "flops")


def test_many_names_and_forms_are_looked_up_some_at_a_time(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = reader.select("fritz/*/hwthread[0-2]").texts
    monkeypatch.setattr("mstore.query.resolve._LOOKUPS", 3)
    selector = Selector.parse("fritz/*/hwthread[0-2]")
    assert n_pieces(by_selector.levels(reader.gatherer, selector, None, Budget())) >= len(HOSTS)
    assert reader.select(selector).texts == wanted
    forms = Selector.parse("fritz/f1/" + ",".join(f"x{n}*" for n in range(50)))
    assert n_pieces(by_selector.levels(reader.gatherer, forms, None, Budget())) >= 50
