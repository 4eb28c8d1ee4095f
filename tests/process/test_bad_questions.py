"""Questions that make no sense or ask for too much, at every way in: a typed error or an empty entry that says why.

Each is asked over the socket, awaited and attached, which must agree; the worker that answers stays as small as it was, and
answers others meanwhile. What is thrown at the sockets as bytes: test_bad_input.py.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mstore import errors
from tests.jobs_rig import DOCUMENT, job
from tests.process.test_rules_answers import Everywhere
from tests.stores import peak_bytes, served

START = int(time.time()) // 60 * 60 - 3600
CENTURY_S = 100 * 365 * 86_400
SPAN = START, START + 300
LONG = START - CENTURY_S, START + 300
WORKER_BYTES_MAX = 700 << 20
"""Of memory that a worker may ever have had, its mappings of the store included: the largest answer is 512 MiB."""
NAN, INFINITE = float("nan"), float("inf")
MILLION = 1_000_000
DEEP = "/".join(["tiny"] + ["x"] * 50)
HUGE_NAMES = ["tiny", [f"n{k}" for k in range(70_000)]]
HUGE_RANGE = "tiny/n[0-99999999]"


@pytest.fixture(scope="module")
def store() -> Iterator[Everywhere]:
    lines = [
        f"{name},cluster=tiny,hostname=n1,type={scope},type-id={k} value={k + 1} {START + 60 * i}\n"
        for name, scope, n in (("cpu_load", "node", 1), ("flops", "hwthread", 8), ("clock", "hwthread", 8))
        for k in range(n)
        for i in range(5)
    ]
    config = 'topology = ["tiny.json"]\nretention = "0"\nquery_workers = 1\n'
    with (
        served(config, {"tiny.json": json.dumps(DOCUMENT)}) as server,
        Everywhere(server) as everywhere,
    ):
        everywhere.warm()
        assert everywhere.client.write("".join(lines)).written == len(lines)
        yield everywhere
        everywhere.let_go()


@pytest.fixture(autouse=True)
def the_worker_stays_small_and_serves_others(store: Everywhere) -> Iterator[None]:
    """Somebody else asks all the time, and is answered right to the end."""
    halt, answered, failed = threading.Event(), [0], []

    def ask() -> None:
        with store.client.__class__(store.client.directory, timeout=300) as client:
            while not halt.is_set():
                try:
                    found = client.query("tiny", "n1", "cpu_load", *SPAN)
                    answered[0] += int(found.values[0] == 1.0)
                except errors.MstoreError as error:
                    failed.append(error)
                    return
                halt.wait(0.02)

    restarts = store.client.info()["counters"]["restarts"]
    other = threading.Thread(target=ask)
    other.start()
    try:
        yield
    finally:
        before = answered[0]
        while answered[0] == before and other.is_alive():
            time.sleep(0.01)
        halt.set()
        other.join()
    assert failed == []
    info = store.client.info()
    assert info["counters"]["restarts"] == restarts
    (pid,) = [one["pid"] for one in info["workers"] if one["kind"] == "query"]
    assert peak_bytes(pid) < WORKER_BYTES_MAX


def batch(*queries: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"cluster": "tiny", "from": SPAN[0], "to": SPAN[1], "queries": list(queries), **keys}


FLOPS = {"metric": "flops", "host": "n1"}
JOB = job("n1", startTime=START, duration=300)
LONG_JOB = {**JOB, "startTime": LONG[0], "duration": CENTURY_S + 300}

REFUSED: list[tuple[str, type[errors.MstoreError], tuple[Any, ...], dict[str, Any]]] = [
    # query
    ("query", errors.UnknownMetric, ("nope", "n1", "cpu_load", *SPAN), {}),
    ("query", errors.UnknownMetric, ("tiny", "n1", "nope", *SPAN), {}),
    ("query", errors.InvalidTimeRange, ("tiny", "n1", "flops", *SPAN[::-1]), {}),
    ("query", errors.InvalidTimeRange, ("tiny", "n1", "flops", 0, 10**18), {}),
    ("query", errors.NotAggregatable, ("tiny", "n1", "clock", *SPAN), {}),
    ("query", errors.InvalidStep, ("tiny", "n1", "flops", *SPAN), {"resolution": 61}),
    ("query", errors.InvalidRequest, ("tiny", "n1", "flops", *SPAN), {"algo": "mode"}),
    ("query", errors.InvalidRequest, ("tiny", "n1", "flops", *SPAN), {"missing": "zero"}),
    ("query", errors.InvalidRequest, ("tiny", "n1", "flops", *SPAN), {"function": "median"}),
    ("query", errors.InvalidRequest, ("tiny", "n1", "flops", *SPAN), {"scale_by": NAN}),
    ("query", errors.InvalidRequest, ("tiny", "n1", "flops", *SPAN), {"scale_by": INFINITE}),
    # fetch
    ("fetch", errors.EmptyCluster, (batch(FLOPS, cluster=""),), {}),
    ("fetch", errors.InvalidTimeRange, (batch(FLOPS, to=START - 1),), {}),
    ("fetch", errors.InvalidRequest, (batch(FLOPS, **{"resample-algo": "mode"}),), {}),
    ("fetch", errors.InvalidRequest, (batch({**FLOPS, "aggregation": "sum"}),), {}),
    ("fetch", errors.InvalidRequest, (batch({**FLOPS, "type-ids": "0"}),), {}),
    ("fetch", errors.LimitExceeded, (batch(*[FLOPS] * MILLION),), {}),
    ("fetch", errors.LimitExceeded, (batch({**FLOPS, "type": "hwthread", "type-ids": ["0"] * (MILLION + 1)}),), {}),
    ("fetch", errors.LimitExceeded, (batch(*[FLOPS] * 50_000, **{"from": LONG[0]}),), {}),
    ("fetch", errors.LimitExceeded, (batch(**{"from": LONG[0], "for-all-nodes": ["flops"] * 50}),), {}),
    # by selector
    ("select", errors.EmptyCluster, ("",), {}),
    ("select", errors.EmptyCluster, ([],), {}),
    ("select", errors.UnknownSelector, ("nope/*",), {}),
    ("select", errors.InvalidRequest, ("tiny/n[1-",), {}),
    ("select", errors.InvalidRequest, (DEEP,), {}),
    ("select", errors.InvalidRequest, (HUGE_NAMES,), {}),
    ("select", errors.InvalidRequest, (HUGE_RANGE,), {}),
    ("select", errors.InvalidRequest, (f"tiny/{'n' * (2 << 20)}",), {}),
    ("latest", errors.UnknownSelector, ("nope", "flops"), {}),
    ("latest", errors.UnknownMetric, ("tiny", "nope"), {}),
    ("latest", errors.NotAggregatable, ("tiny", "clock"), {}),
    ("latest", errors.InvalidRequest, ("tiny", "flops"), {"per": "host"}),
    ("above", errors.UnknownMetric, ("tiny", "nope", 1.0), {}),
    ("above", errors.InvalidRequest, ("tiny", "flops", NAN), {}),
    ("above", errors.InvalidRequest, ("tiny", "flops", INFINITE), {}),
    ("stats", errors.UnknownMetric, ("tiny", "nope", *SPAN), {}),
    ("stats", errors.InvalidTimeRange, ("tiny", "flops", *SPAN[::-1]), {}),
    ("stats", errors.InvalidRequest, ("tiny", "flops", *SPAN, (101.0,)), {}),
    ("stats", errors.InvalidRequest, ("tiny", "flops", *SPAN, (NAN,)), {}),
    ("stats", errors.InvalidRequest, ("tiny", "flops", *SPAN, [50.0] * 1000), {}),
    ("top", errors.InvalidTimeRange, ("tiny", "flops", *SPAN[::-1]), {}),
    ("top", errors.InvalidRequest, ("tiny", "flops", *SPAN, 10, "mode"), {}),
    ("top", errors.InvalidRequest, ("tiny", "flops", *SPAN, 0), {}),
    ("top", errors.InvalidRequest, ("tiny", "flops", *SPAN, 10, "pnan"), {}),
    ("series", errors.UnknownMetric, ("tiny", "nope", *SPAN), {}),
    ("series", errors.InvalidTimeRange, ("tiny", "flops", *SPAN[::-1]), {}),
    ("series", errors.InvalidStep, ("tiny", "flops", *SPAN), {"resolution": 61}),
    ("series", errors.InvalidRequest, ("tiny", "flops", *SPAN), {"scale_by": NAN}),
    ("series", errors.NotAggregatable, ("tiny/n1", "clock", *SPAN), {}),
    # views
    ("job_data", errors.EmptyCluster, ({**JOB, "cluster": ""},), {}),
    ("job_data", errors.InvalidRequest, (JOB, ["flops"], ("die",)), {}),
    ("job_data", errors.InvalidRequest, (JOB, ["flops"]), {"algo": "mode"}),
    ("job_data", errors.UnknownSelector, ({**JOB, "subCluster": "nope"}, ["flops"]), {}),
    ("job_data", errors.InvalidRequest, ({**JOB, "duration": -1},), {}),
    ("job_data", errors.InvalidRequest, ({**JOB, "resources": []},), {}),
    ("job_data", errors.LimitExceeded, ({**LONG_JOB, "resources": [{"hostname": f"n{k}"} for k in range(2000)]},), {}),
    ("job_statistics", errors.InvalidRequest, ({"cluster": "tiny"},), {}),
    ("job_scoped_statistics", errors.InvalidRequest, (JOB, ["flops"], ("rack",)), {}),
    ("node_data", errors.InvalidTimeRange, ("tiny", *SPAN[::-1]), {}),
    ("node_data", errors.EmptyCluster, ("", *SPAN), {}),
    ("node_list_data", errors.UnknownSelector, ("tiny", *SPAN), {"subcluster": "nope"}),
    ("node_list_data", errors.InvalidRequest, ("tiny", *SPAN), {"scopes": ("rack",)}),
    # health, sizes
    ("health", errors.UnknownSelector, ("nope",), {}),
    ("healthy_metrics", errors.UnknownSelector, ("tiny", "n9"), {}),
    ("sizes", errors.InvalidRequest, ("tiny/n[",), {}),
    ("sizes", errors.EmptyCluster, ("",), {}),
    ("sizes", errors.InvalidRequest, (HUGE_RANGE,), {}),
    ("debug_dump", errors.UnknownSelector, ("nope",), {}),
    ("debug_dump", errors.InvalidRequest, (DEEP,), {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "error", "arguments", "options"), REFUSED, ids=[f"{k}-{one[0]}" for k, one in enumerate(REFUSED)]
)
def test_what_makes_no_sense_is_one_typed_error_everywhere(
    store: Everywhere,
    name: str,
    error: type[errors.MstoreError],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    with pytest.raises(error) as raised:
        store.ask(name, *arguments, **options)
    assert 10 < len(raised.value.message) < 1000, "it says what is wrong, and not all that was asked"


def test_what_does_not_exist_is_an_empty_entry_that_says_why(store: Everywhere) -> None:
    assert store.ask("query", "tiny", "n9", "cpu_load", *SPAN).why == "no such host"
    assert [
        one.why for one in store.ask("query", "tiny", "n1", "flops", *SPAN, type="hwthread", type_ids=["99"])
    ] == ["no such id"]
    assert store.ask("query", "tiny", "n1", "flops", *SPAN, type="hwthread", type_ids=[]) == []
    queries = (
        {"metric": "nope", "host": "n1"}, {"metric": "flops", "host": "n9"}, {"metric": "clock", "host": "n1"},
        {**FLOPS, "scale-by": NAN}, {**FLOPS, "scale-by": INFINITE}, {**FLOPS, "scale-by": None},
        {**FLOPS, "resolution": 61}, {**FLOPS, "type": "hwthread", "type-ids": ["99"]},
        {**FLOPS, "type": "hwthread", "type-ids": []}, FLOPS,
    )  # fmt: skip
    rows = store.ask("fetch", batch(*queries))
    told = [[type(one.error).__name__ if one.error is not None else one.why for one in row] for row in rows]
    assert told == [
        ["UnknownMetric"], ["no such host"], ["NotAggregatable"], ["InvalidRequest"], ["InvalidRequest"], ["InvalidRequest"],
        ["InvalidStep"], ["no such id"], [], [""],
    ]  # fmt: skip
    assert json.loads(rows.to_json())["results"][9][0]["data"] == [36] * 5
    assert store.ask("fetch", batch()).to_dict() == {"results": []}
    (unknown,) = store.ask("fetch", batch(FLOPS, cluster="nope"))[0]
    assert isinstance(unknown.error, errors.UnknownMetric)
    assert len(store.ask("select", "tiny/[]")) == 0
    assert len(store.ask("latest", ["tiny", []], "flops")) == 0
    assert store.ask("latest", "tiny/n9", "flops").why(0) == "no such host"
    assert store.ask("stats", "tiny/n1/die0", "flops", *SPAN).why(0) == "no such id"
    assert store.ask("series", ["tiny", []], "flops", *SPAN) == []
    assert len(store.ask("top", "tiny", "flops", START, START)) == 0
    view = store.ask(
        "job_data", job("n9", startTime=START, duration=300), ["flops", "nope"], ("node", "node")
    )
    assert [type(one.error) for one in view.errors] == [errors.UnknownMetric]
    assert [one.why for one in view["flops"]["node"].series] == ["no such host"]
    assert dict(store.ask("job_data", JOB, [], ())) == {}
    assert dict(store.ask("node_data", "tiny", *SPAN, nodes=[], metrics=["flops"])) == {}
    assert store.ask("health", "tiny", ["n9"], ["flops"])["n9"].state == "failed"
    assert dict(store.ask("health", "tiny", [], [])) == {}
    assert store.ask("sizes", "nope/*") == []
    assert store.client.free("nope/*", "now").chunks == 0
    assert store.client.force_free(["tiny", []]).chunks == 0


def test_a_century_is_answered_where_no_array_of_it_is_made(store: Everywhere) -> None:
    """Of a range that long only the samples count."""
    table = store.ask("stats", "tiny/n1", "flops", *LONG)
    assert table.counts.tolist() == [40]
    assert store.ask("top", "tiny/*", "flops", *LONG, 3).values.tolist() == [4.5]
    stats = store.ask("job_statistics", LONG_JOB, ["flops"])
    assert math.isclose(stats["flops"]["n1"].avg, 36.0)
    with pytest.raises(errors.LimitExceeded):
        store.ask("series", "tiny/*", "flops", *LONG, False, 60, algo="max", function="rate")


def test_orders_and_subscriptions_that_make_no_sense_are_refused_and_change_nothing(
    store: Everywhere,
) -> None:
    client = store.client
    before = client.sizes("tiny")
    for selector, error in (
        ("tiny/n[", errors.InvalidRequest), ("", errors.EmptyCluster), (DEEP, errors.InvalidRequest),
        (HUGE_RANGE, errors.InvalidRequest),
    ):  # fmt: skip
        with pytest.raises(error):
            client.free(selector, "now")
        with pytest.raises(error):
            client.force_free(selector)
        with pytest.raises(error):
            client.free("tiny", "now", exclude=[selector])
        with pytest.raises(error), client.follow(selector) as follow:
            next(iter(follow))
    for when in ("yesterdayish", NAN, INFINITE, 10**18, None):
        with pytest.raises(errors.InvalidRequest):
            client.free("tiny", when)  # type: ignore[arg-type]
    assert client.sizes("tiny") == before


@pytest.mark.parametrize(
    ("argv", "status", "told"),
    [
        (("query", "nope", "n1", "flops"), 1, "nope"), (("query", "tiny", "n1", "nope"), 1, "nope"),
        (("query", "tiny", "n9", "cpu_load"), 1, "no such host"), (("query", "tiny", "n1", "clock"), 2, "aggregation"),
        (("sizes", "tiny/n["), 2, "bad selector"),
        (("sizes", "tiny/*", "--depth", "3"), 2, "says how deep it goes"), (("sizes", HUGE_RANGE), 2, "more than 65536"),
        (("free", "tiny/n[", "--before", "now"), 2, "bad selector"), (("free", "tiny", "--before", "soonish"), 2, "soonish"),
        (("follow", "tiny/n["), 2, "bad selector"), (("debug", "dump", "nope"), 1, "nope"),
        (("protect", "tiny", "n[1-"), 2, "n[1-"), (("query", "tiny", "n1", "flops", "--algo", "mode"), 2, "mode"),
    ],
    ids=lambda one: "-".join(one)[:40] if isinstance(one, tuple) else None,
)  # fmt: skip
def test_on_the_command_line_each_is_one_line_and_a_status(
    store: Everywhere, argv: tuple[str, ...], status: int, told: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mstore", *argv, "--dir", str(store.client.directory)],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
    assert done.stderr.startswith("mstore")
    assert told in done.stderr
