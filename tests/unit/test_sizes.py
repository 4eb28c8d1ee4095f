"""What levels hold: counted by the kernel as by its twin, added up over levels, told chunk by chunk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator

import numpy as np
import pytest

from mstore.errors import EmptyCluster, InvalidRequest, LimitExceeded, UnknownSelector
from mstore.kernels import reference_sizes
from mstore.kernels._sizes import SizeReader
from mstore.query.budget import Budget, finished
from mstore.shm import layout
from mstore.sizes import LevelSize
from tests.query_rig import T0, Store

SPAN_S = 512 * 60


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A host with cores, a counter, rows and two eras; another host with a gap; a second cluster."""
    made = Store(f"mstore-test-sizes-{os.getpid()}")
    for core in range(3):
        ref = made.open("load", "f1", "core", str(core))
        made.put(ref, T0, [math.nan if k % 7 == core else float(k) for k in range(400 * (core + 1))])
    made.put(made.open("ops", "f1"), T0, [float(k) for k in range(20)], step=10)
    made.rows(made.open("beat", "f1"), [(1000 * (T0 + k) + 5, k) for k in range(700)], "Q")
    old = made.open("flops", "f1")
    made.put(old, T0, [1.0] * 30)
    era_s = T0 + 40 * 60
    ref, _ = made.writer.begin_era(old & 0xFFFF_FFFF, era_s, 10, era_s, layout.TYPE_F64)
    made.writer.publish()
    made.put(ref, era_s + 10, [2.0] * 50, step=10)
    far = made.open("load", "f2")
    made.put(far, T0, [1.0])
    made.put(far, T0 + 5 * SPAN_S + 300, [2.0, 3.0])
    made.put(made.open("clock", "a1", cluster="alex"), T0, [5.0] * 100, step=10)
    made.open("load", "f3")  # no sample yet
    yield made
    made.close()


def live_refs(store: Store) -> list[int]:
    table = store.writer.series_table()
    return [
        int(row["generation"]) << 32 | slot
        for slot, row in enumerate(table)
        if row["flags"] & layout.SERIES_LIVE
    ]


def test_kernel_and_twin_count_the_same_chunks(store: Store) -> None:
    refs = [*live_refs(store), (7 << 32) | 1, (1 << 32) | 4000]
    rows = SizeReader(store.reader.directory, store.samples_map.segment).chunk_rows(np.array(refs, np.uint64))
    samples = np.frombuffer(store.samples_map.buffer, np.uint8)
    expected = reference_sizes.chunk_rows(layout, store.writer.series_table(), samples, refs)
    assert not isinstance(rows, int)
    names = ("series", "length", "n", "start", "end", "n_samples", "n_bytes")
    assert [tuple(int(row[name]) for name in names) for row in rows] == expected
    assert len(expected) > 12


def test_bytes_of_all_levels_are_those_the_allocator_handed_out(store: Store) -> None:
    handed_out = sum(stats.chunks * stats.chunk_bytes for stats in store.samples.stats().values())
    assert sum(one.n_bytes for one in store.reader.sizes()) == handed_out


def test_sizes_of_a_depth_add_up_and_are_in_natural_order(store: Store) -> None:
    clusters = store.reader.sizes()
    assert [one.path for one in clusters] == [("alex",), ("fritz",)]
    hosts = store.reader.sizes(depth=2)
    assert [one.path for one in hosts] == [("alex", "a1"), ("fritz", "f1"), ("fritz", "f2"), ("fritz", "f3")]
    for field in ("n_bytes", "chunks", "series", "samples"):
        assert sum(getattr(one, field) for one in hosts) == sum(getattr(one, field) for one in clusters)
    assert hosts[2] == LevelSize(("fritz", "f2"), 2112 + 128 + 64, 2, 1, 3)
    assert hosts[3] == LevelSize(("fritz", "f3"), 0, 0, 1, 0)
    assert hosts[1].samples == sum(400 * n - len(range(n - 1, 400 * n, 7)) for n in (1, 2, 3)) + 20 + 700 + 80
    assert hosts[1].series == 6, "two eras are one series"


def test_sizes_of_a_selector_are_of_its_levels_with_all_below(store: Store) -> None:
    (one,) = store.reader.sizes("fritz/f1/core1")
    assert one.path == ("fritz", "f1", "core1")
    assert one.samples == 800 - len(range(1, 800, 7))
    assert [size.path[-1] for size in store.reader.sizes("fritz/f1/core*")] == ["core0", "core1", "core2"]
    assert store.reader.sizes("fritz/nobody") == []
    for bad, error in (("", EmptyCluster), ("fritz/[", InvalidRequest)):
        with pytest.raises(error):
            store.reader.sizes(bad)
    with pytest.raises(InvalidRequest, match="depth=0"):
        store.reader.sizes(depth=0)


def test_a_question_beyond_its_bound_of_series_is_refused(store: Store) -> None:
    budget = Budget()
    budget.series = 999_995
    with pytest.raises(LimitExceeded):
        finished(store.reader.sizes_work(None, 1, budget))


def test_a_debug_dump_is_json_of_every_chunk_by_metric_and_child(store: Store) -> None:
    data = json.loads(store.reader.debug_dump(["fritz", "f1"]))["data"]
    assert list(data) == ["beat", "flops", "ops", "core0", "core1", "core2"]
    start = T0 - 30
    assert data["core2"] == {
        "load": [
            {"start": start, "len": 512, "end": start + SPAN_S, "saved": True},
            {"start": start + SPAN_S, "len": 512, "end": start + 2 * SPAN_S, "saved": True},
            {"start": start + 2 * SPAN_S, "len": 175, "end": start + 2 * SPAN_S + 175 * 60},
        ]
    }
    assert [chunk["len"] for chunk in data["flops"]] == [30, 51], "the era before, then the one after it"
    assert data["beat"][0]["start"] == T0 + 0.005
    assert sum(chunk["len"] for chunk in data["beat"]) == 700


def test_a_debug_dump_of_several_levels_is_by_path_and_of_none_an_error(store: Store) -> None:
    data = json.loads(store.reader.debug_dump("fritz/f[1-2]/core*"))["data"]
    assert list(data) == ["fritz/f1/core0", "fritz/f1/core1", "fritz/f1/core2"]
    assert json.loads(store.reader.debug_dump("fritz/f3"))["data"] == {"load": []}
    with pytest.raises(UnknownSelector, match="fritz/f9"):
        store.reader.debug_dump("fritz/f9")


def test_a_child_that_is_called_like_a_metric_is_told_with_a_slash() -> None:
    made = Store(f"mstore-test-sizes-name-{os.getpid()}")
    made.put(made.open("load", "f1"), T0, [1.0])
    made.put(made.open("clock", "f1", "", "load"), T0, [1.0], step=10)
    data = json.loads(made.reader.debug_dump("fritz/f1"))["data"]
    assert list(data) == ["load", "load/"]
    made.close()


def test_protected_hosts_are_listed_by_cluster(store: Store) -> None:
    assert store.reader.protected() == {}
    for cluster, host in (("fritz", "f2"), ("fritz", "f10"), ("alex", "a1")):
        store.writer.protect(cluster.encode(), host.encode())
    assert store.reader.protected() == {"alex": ["a1"], "fritz": ["f2"]}, "f10 has no data"
    store.writer.forget_protection()
