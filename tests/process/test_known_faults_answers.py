"""Wrong answers that stores of this kind are known for: a served store is put where they would show, asked in every way.

    D18  padding that does not end             test_d18_...
    D19  ids that shift                        test_d19_...
    D20  threads taken for cores, parts of     test_d20_... (and unit/test_scopes.py, for the topologies of real clusters)
         sockets counted whole
    D21  children that "do not align"          test_d21_... (and property/test_answers_model.py, for any trees)
    D22  one missing value hides all others    test_d22_...
    D23  statistics of the picked points       test_d23_... (and property/test_resample_against_reference.py)
    D24  one-time runs that never end          test_import_export.py::test_a_stopped_store_is_exported_from_its_files
    D25  default clusters that mix             test_d25_...
    D26  scopes without an answer              test_d26_... (and test_upstream_scopes.py)
    D27  a sender cut off after half a minute  unit/test_ingest_connection_limits.py::test_an_idle_connection_has_no_timer
    D28  a dump that is no JSON, documented    test_d28_...; unit/test_config.py::test_the_example_parses_to_the_defaults...
         keys that are refused                 unit/test_config_cockpit.py::test_every_key_that_is_not_followed_is_told_...
    D29  chunks that move the grid             test_rules_grid.py::test_samples_on_both_sides_of_every_chunk_border_are_...

What goes wrong in each is told in the first line of its test. D1 .. D17c: test_known_faults.py, which says where D16 is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.jobs_rig import DOCUMENT, job
from tests.process.test_rules_answers import Everywhere, plain
from tests.stores import served

START = int(time.time()) // 60 * 60 - 40_000
CONFIG = """
topology = ["tiny.json"]
retention = "0"
unknown_metrics = "register"
[metrics.mean]
[metrics.total]
aggregation = "sum"
"""
JOB = {"startTime": START, "duration": 300}


@pytest.fixture(scope="module")
def store() -> Iterator[Everywhere]:
    """Host n1 of a cluster with two threads a core: what each thread, core, socket sends is a power of two."""
    lines = [
        f"{name},cluster=tiny,hostname=n1,type={scope},type-id={k} value={1 << k} {START + 60 * i}\n"
        for name, scope, n in (
            ("flops", "hwthread", 8), ("power", "core", 4), ("numa", "memoryDomain", 4), ("mem_bw", "socket", 2),
        )
        for k in range(n)
        for i in range(5)
    ]  # fmt: skip
    with (
        served(CONFIG, {"tiny.json": json.dumps(DOCUMENT)}) as server,
        Everywhere(server) as everywhere,
    ):
        everywhere.warm()
        assert everywhere.client.write("".join(lines)).written == len(lines)
        yield everywhere
        everywhere.let_go()


def put(store: Everywhere, metric: str, host: str, core: int, first: int, values: list[float | None]) -> None:
    """A sample a minute from a time on; None is none."""
    text = "".join(
        f"{metric},cluster=c,hostname={host},type=core,type-id={core} value={value} {first + 60 * k}\n"
        for k, value in enumerate(values)
        if value is not None
    )
    assert store.client.write(text).rejected == 0


def fetched(store: Everywhere, start: int, end: int, *queries: dict[str, Any], **keys: Any) -> Any:
    return store.ask("fetch", {"cluster": "c", "from": start, "to": end, "queries": list(queries), **keys})


def test_d18_padding_covers_the_range_at_both_ends_and_never_more(store: Everywhere) -> None:
    """A series that begins behind the range is padded up to its first sample: millions of nulls, and none at the end."""
    put(store, "mean", "pad", 0, START, [1, 2])
    query = {"metric": "mean", "host": "pad", "type": "core", "type-ids": ["0"]}
    for start, end, data in (
        (START - 6000, START - 3000, [None] * 50), (START - 120, START + 300, [None] * 2 + [1, 2] + [None] * 3),
        (START + 600, START + 900, [None] * 5), (START, START, []),
    ):  # fmt: skip
        (entry,) = fetched(store, start, end, query).to_dict()["results"][0]
        assert (entry.get("data", []), entry["from"], entry["to"]) == (data, start, end)


def test_d19_a_missing_id_has_an_entry_of_its_own_and_shifts_no_other(store: Everywhere) -> None:
    """A thread without data is left out of its row: everything behind it is labelled with the id before."""
    for core in (0, 2):
        put(store, "mean", "ids", core, START, [core + 1.0])
    row = fetched(
        store, START, START + 60,
        {"metric": "mean", "host": "ids", "type": "core", "type-ids": ["0", "1", "2"]},
    )[0]  # fmt: skip
    assert [(one.type_id, plain(one.values), one.why) for one in row] == [
        ("0", [1], ""), ("1", [None], "no such id"), ("2", [3], ""),
    ]  # fmt: skip
    view = store.ask("job_data", job(("n2", [0, 4])) | JOB, ["flops"], ("hwthread",))
    assert [(one.type_id, one.valid.any()) for one in view["flops"]["hwthread"].series] == [
        ("0", False),
        ("4", False),
    ]


@pytest.mark.parametrize("threads", [None, [0], [0, 4], [1, 2, 6], [3, 7, 5]])
def test_d20_a_node_is_the_sum_of_its_sockets_whatever_part_of_them_a_job_owns(
    store: Everywhere, threads: list[int] | None
) -> None:
    """Numbers of threads are taken for those of cores, and a socket counts whole where the node counts what is owned."""
    view = store.ask(
        "job_data", job(("n1", threads)) | JOB, ["flops", "power", "numa", "mem_bw"], ("socket", "node")
    )
    for name, owned in (("flops", threads or range(8)), ("power", {one % 4 for one in threads or range(8)})):
        (node,) = view[name]["node"].series
        sockets = [float(one.values[0]) for one in view[name]["socket"].series]
        assert sum(sockets) == node.values[0] == sum(1 << one for one in owned)
    for name in ("numa", "mem_bw"):
        (node,) = view[name]["node"].series
        assert node.values[0] == sum(float(one.values[0]) for one in view[name]["socket"].series)


def test_d21_children_of_any_begin_end_and_phase_become_one_series(store: Everywhere) -> None:
    """A child that begins a step later or ends a step earlier than the first one visited fails the whole question."""
    put(store, "total", "align", 0, START, [1] * 6)
    put(store, "total", "align", 1, START + 130, [10])
    put(store, "total", "align", 2, START - 120 - 13, [100] * 4)
    put(store, "total", "align", 3, START + 36_000, [1000])
    found = store.query("align", "total", START - 180, START + 360)
    assert found.values.tolist()[1:] == [100, 100, 101, 101, 11, 1, 1, 1]
    assert found.coverage.tolist() == [0, 1, 1, 2, 2, 2, 1, 1, 1]
    ids = ["3", "1", "0", "2"]
    again = store.query("align", "total", START - 180, START + 360, type="core", type_ids=ids, aggregate=True)
    assert again.values.tobytes() == found.values.tobytes()


@pytest.mark.parametrize(("metric", "both", "alone"), [("total", 5.0, 4.0), ("mean", 2.5, 4.0)])
def test_d22_a_missing_value_of_one_child_hides_no_other_and_counts_for_nothing(
    store: Everywhere, metric: str, both: float, alone: float
) -> None:
    """One hole makes the sum a hole; a mean divides by all children, also by those that sent nothing."""
    put(store, metric, "hole", 0, START, [1, None, 1])
    put(store, metric, "hole", 1, START, [4, 4, None])
    found = store.query("hole", metric, START, START + 240)
    assert plain(found.values) == [both, alone, 1.0, None]
    assert found.coverage.tolist() == [2, 1, 1, 0]
    strict = store.query("hole", metric, START, START + 240, missing="propagate")
    assert plain(strict.values) == [both, None, None, None]


def test_d23_statistics_are_those_of_the_samples_and_points_have_their_own_times(store: Everywhere) -> None:
    """Picked points are answered as if they lay on a grid, and their figures as if they were all the samples."""
    values = [float(k % 7) for k in range(40)]
    values[17] = 100.0
    put(store, "mean", "lttb", 0, START, values)  # type: ignore[arg-type]
    query = {"metric": "mean", "host": "lttb", "type": "core", "type-ids": ["0"], "resolution": 600}
    (picked,) = fetched(store, START, START + 2400, query)[0]
    assert (picked.min, picked.max, picked.avg) == (0.0, 100.0, pytest.approx(np.mean(values)))
    (entry,) = fetched(store, START, START + 2400, query, **{"resample-algo": "average"}).to_dict()[
        "results"
    ][0]
    assert entry["data"] == pytest.approx([np.mean(values[k : k + 10]) for k in range(0, 40, 10)])
    assert (entry["avg"], entry["max"]) == (pytest.approx(np.mean(values)), 100.0)
    own = store.query(
        "lttb", "mean", START, START + 2400, type="core", type_ids="0", resolution=600, algo="lttb"
    )
    there = dict(zip(own.times.tolist(), own.values.tolist(), strict=True))
    assert there == {t: values[(t - START) // 60] for t in there}, "each point at the time of its sample"
    assert there[START + 17 * 60] == 100.0


def test_d25_each_connections_lines_go_to_its_own_default_cluster_and_are_stored_once(
    store: Everywhere,
) -> None:
    """Workers that share a queue give lines without a cluster to whichever default they hold, or take them twice."""
    clusters = [f"default{k}" for k in range(4)]
    clients = [store.client.__class__(store.client.directory, cluster=name) for name in clusters]
    try:
        for turn in range(5):
            for k, client in enumerate(clients):
                result = client.write(f"m,hostname=h{k} value={turn} {START + 60 * turn}\n")
                assert (result.written, result.rejected) == (1, 0)
    finally:
        for client in clients:
            client.close()
    for k, name in enumerate(clusters):
        assert store.ask("children", name) == [f"h{k}"]
        (size,) = store.ask("sizes", name)
        assert (size.series, size.samples) == (1, 5)


@pytest.mark.parametrize(("name", "wanted"), [("flops", [17, 34, 68, 136]), ("power", [1, 2, 4, 8])])
def test_d26_memory_domains_are_answered_from_threads_and_cores(
    store: Everywhere, name: str, wanted: list[float]
) -> None:
    """The whole view fails, with everything else that was asked for in it."""
    view = store.ask("job_data", job("n1") | JOB, [name, "mem_bw"], ("memoryDomain", "node"))
    assert view.errors == []
    assert [float(one.values[0]) for one in view[name]["memoryDomain"].series] == wanted
    assert list(view["mem_bw"]) == ["socket", "node"]


def test_d28_dumps_of_every_level_are_json(store: Everywhere) -> None:
    """The comma behind the last entry stays: no level that holds anything can be read back."""
    text = f'm,cluster=c,hostname=q"uo\\ te,type=a\\,b,type-id=x"{{}}[ value=1 {START}\n'
    assert store.client.write(text).written == 1
    for selector in ("tiny", "tiny/n1", "tiny/n1/hwthread0", "tiny/n1/*", "*", ["c", 'q"uo te']):
        found = json.loads(store.ask("debug_dump", selector))
        assert list(found) == ["data"]
        assert found["data"]
    assert "flops" in json.loads(store.ask("debug_dump", "tiny/n1/hwthread0"))["data"]
