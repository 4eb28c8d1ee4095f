"""Questions to a store with an archive that make no sense or reach for a century: typed errors, or empty answers.

Most of what they reach has left memory. The worker and its reader of the archive stay small; without an archive:
test_bad_questions.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mstore import errors
from tests.process.test_archive import LONG, written
from tests.process.test_bad_questions import CENTURY_S, WORKER_BYTES_MAX
from tests.process.test_rules_answers import Everywhere
from tests.stores import peak_bytes, served

NOW = int(time.time())
SPAN = NOW - 21 * 3600, NOW
N_SAMPLES = range(1198, 1201)
"""Of each series in SPAN: twenty hours, a minute each; its ends lie where the clock was."""
CENTURY = NOW - CENTURY_S, NOW
HELPER_BYTES_MAX = 1 << 30
"""Of memory that a reader of the archive may ever have had: pyarrow, and four times a century of f32 as it is answered."""
LATER = {"cluster": "fritz", "startTime": CENTURY[0], "duration": CENTURY_S}


@pytest.fixture(scope="module")
def store() -> Iterator[Everywhere]:
    with served(f"query_workers = 1\n{LONG}") as server, Everywhere(server) as everywhere:
        everywhere.warm()
        written(everywhere.client, NOW, hosts=2, hours=20)
        done = everywhere.client.archive(delete=True)
        assert (done["failed"], done["rows"] > 0, done["freed"] > 0) == ([], True, True)
        yield everywhere
        everywhere.let_go()


@pytest.fixture(autouse=True)
def worker_and_helper_stay_small(store: Everywhere) -> Iterator[None]:
    restarts = store.client.info()["counters"]["restarts"]
    yield
    info = store.client.info()
    assert info["counters"]["restarts"] == restarts
    (pid,) = [one["pid"] for one in info["workers"] if one["kind"] == "query"]
    assert peak_bytes(pid) < WORKER_BYTES_MAX
    for helper in children(pid):
        assert peak_bytes(helper) < HELPER_BYTES_MAX


def children(pid: int) -> list[int]:
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in texts for child in text.split()]


def batch(*queries: dict[str, Any], start: int = SPAN[0]) -> dict[str, Any]:
    return {"cluster": "fritz", "from": start, "to": NOW, "queries": list(queries)}


LOAD = {"metric": "load", "host": "f1"}


@pytest.mark.parametrize(
    ("name", "error", "arguments", "options"),
    [
        ("query", errors.UnknownMetric, ("nope", "f1", "load", *SPAN), {}),
        ("query", errors.UnknownMetric, ("fritz", "f1", "nope", *SPAN), {}),
        ("query", errors.UnknownMetric, ("fritz", "f1", "nope", *CENTURY), {}),
        ("query", errors.InvalidTimeRange, ("fritz", "f1", "load", *SPAN[::-1]), {}),
        ("query", errors.InvalidStep, ("fritz", "f1", "load", *SPAN), {"resolution": 61}),
        ("query", errors.LimitExceeded, ("fritz", "f1", "load", 0, 10**11), {}),
        ("query", errors.LimitExceeded, ("fritz", "f1", "load", *CENTURY), {"type": "hwthread"}),
        ("query", errors.LimitExceeded, ("fritz", "f1", "ops", *CENTURY), {"function": "rate"}),
        ("stats", errors.UnknownMetric, ("fritz/*", "nope", *CENTURY), {}),
        ("stats", errors.UnknownSelector, ("nope/*", "load", *CENTURY), {}),
        ("top", errors.UnknownMetric, ("fritz/*", "nope", *CENTURY), {}),
        ("top", errors.InvalidTimeRange, ("fritz/*", "load", *CENTURY[::-1]), {}),
        ("series", errors.UnknownMetric, ("fritz/*", "nope", *CENTURY), {}),
        ("series", errors.LimitExceeded, ("fritz/*/*", "load", *CENTURY), {}),
        ("series", errors.LimitExceeded, ("fritz/*", "load", *CENTURY, False, 60), {"algo": "max", "function": "rate"}),
        ("fetch", errors.LimitExceeded, (batch(*[LOAD] * 1000, start=CENTURY[0]),), {}),
        ("fetch", errors.EmptyCluster, ({**batch(LOAD), "cluster": ""},), {}),
        ("job_data", errors.LimitExceeded, ({**LATER, "resources": [{"hostname": f"f{k}"} for k in range(50)]},), {}),
    ],
    ids=lambda one: one if isinstance(one, str) else None,
)  # fmt: skip
def test_what_makes_no_sense_is_one_typed_error_everywhere(
    store: Everywhere,
    name: str,
    error: type[errors.MstoreError],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    with pytest.raises(error) as raised:
        store.ask(name, *arguments, **options)
    assert 10 < len(raised.value.message) < 1000


def test_names_that_are_nowhere_are_empty_entries_that_say_why(store: Everywhere) -> None:
    found = store.ask("query", "fritz", "f9", "load", *SPAN)
    assert (found.why, found.valid.any()) == ("no such host", False)
    some = store.ask("query", "fritz", "f1", "load", *SPAN, type="hwthread", type_ids=["3", "99"])
    assert [(one.why, bool(one.valid.any())) for one in some] == [("", True), ("no such id", False)]
    rows = store.ask("fetch", batch({**LOAD, "metric": "nope"}, {**LOAD, "host": "f9"}, LOAD))
    assert [type(row[0].error).__name__ for row in rows] == ["UnknownMetric", "NoneType", "NoneType"]
    assert [row[0].why for row in rows][1:] == ["no such host", ""]
    assert store.ask("stats", "fritz/f9", "load", *SPAN).why(0) == "no such host"
    assert len(store.ask("top", "fritz/f9", "load", *SPAN)) == 0
    (none,) = store.ask("series", "fritz/f9", "load", *SPAN)
    assert none.why == "no such host"
    job = {**LATER, "startTime": SPAN[0], "duration": 21 * 3600, "resources": [{"hostname": "f9"}]}
    view = store.ask("job_data", job, ["load", "nope"])
    assert [type(one.error) for one in view.errors] == [errors.UnknownMetric]
    assert [one.why for one in view["load"]["node"].series] == ["no such host"]


def test_of_a_century_only_the_samples_count_where_no_array_of_it_is_made(store: Everywhere) -> None:
    table = store.ask("stats", "fritz/*", "load", *CENTURY, per="series")
    assert set(table.counts.tolist()) <= set(N_SAMPLES)
    assert len(table) == 2, "of each level that is selected its own series"
    top = store.ask("top", "fritz/*", "load", *CENTURY, 1)
    assert top.values.tolist() == [max(store.ask("stats", "fritz/*", "load", *SPAN).avgs.tolist())]
    jobs = store.ask(
        "job_statistics", {**LATER, "resources": [{"hostname": "f1"}, {"hostname": "f9"}]}, ["load"]
    )
    assert np.isfinite(jobs["load"]["f1"].avg)


def test_a_century_that_fits_into_an_answer_is_answered_over_the_socket_and_attached(
    store: Everywhere,
) -> None:
    for asked in (store.client, store.reader):
        found = asked.query("fritz", "f1", "load", *CENTURY)
        assert len(found) >= CENTURY_S // 60
        assert np.count_nonzero(found.valid) in N_SAMPLES
        coarse = asked.query("fritz", "f1", "load", *CENTURY, resolution=86_400)
        assert len(coarse) <= CENTURY_S // 86_400 + 2
        assert np.count_nonzero(coarse.valid) in (1, 2)
