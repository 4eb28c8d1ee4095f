"""Reader against a store that the real writers filled: every rule of answers, by example."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import mstore
from mstore.errors import (
    CorruptRecord,
    InvalidRequest,
    InvalidStep,
    InvalidTimeRange,
    LayoutMismatch,
    LimitExceeded,
    NotAggregatable,
    Unavailable,
    UnknownMetric,
)
from mstore.frames import Series
from mstore.model import SeriesPath
from mstore.query import Reader, Request
from mstore.shm import layout, segment
from mstore.shm.control import CONTROL_BYTES, Control
from tests.query_rig import INSTANCE, T0, Store, one, plain, several


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-test-query-{os.getpid()}")
    yield made
    made.close()


def test_one_series_has_its_own_slots_path_and_unit(store: Store) -> None:
    store.put(store.open("load"), T0, [1.0, 2.0, math.nan, 4.0])
    series = one(store.reader.query("fritz", "f1", "load", T0 - 60, T0 + 300))
    assert plain(series.values) == [None, 1.0, 2.0, None, 4.0, None]
    assert series.values.dtype == np.float32
    assert series.times.tolist() == [T0 + 60 * k for k in range(-1, 5)]
    assert (series.step, series.unit, series.path, series.why) == (60, "procs", "fritz/f1", "")
    assert series.valid.tolist() == [False, True, True, False, True, False]
    assert "Series load of fritz/f1" in repr(series)


def test_times_may_be_text_datetimes_or_numpy(store: Store) -> None:
    store.put(store.open("load"), T0, [1.0, 2.0])
    want = one(store.reader.query("fritz", "f1", "load", T0, T0 + 120))
    reader = Reader(store.directory_map.segment, store.samples_map.segment, now_s=lambda: T0 + 120)
    start = datetime.fromtimestamp(T0, UTC)
    for begin, end in (
        ("-2m", "now"),
        (start, start.replace(tzinfo=None).isoformat() + "Z"),
        (np.int64(T0), "now"),
    ):
        got = one(reader.query("fritz", "f1", "load", begin, end if end != start.isoformat() else T0 + 120))
        assert got.values.tolist() == want.values.tolist()[: len(got)]
        assert got.start == T0


def test_the_series_of_a_host_are_listed_with_their_paths_in_natural_order(store: Store) -> None:
    for levels in (("core", "10"), ("core", "2"), ("accelerator", "00:1", "nvlink", "3"), ("", "7")):
        store.open("load", "f1", *levels)
    store.open("clock", "f1")
    store.open("load", "f1")
    store.open("load", "f2")
    assert store.reader.host_series("fritz", "f1") == [
        SeriesPath("fritz", "f1", *path)
        for path in (
            ("clock",), ("load",), ("load", "", "7"), ("load", "accelerator", "00:1", "nvlink", "3"),
            ("load", "core", "2"), ("load", "core", "10"),
        )
    ]  # fmt: skip
    for cluster, host in (("fritz", "f3"), ("alex", "f1"), ("fritz", ""), ("", ""), ("fritz", "\udcff")):
        assert store.reader.host_series(cluster, host) == []


def test_equal_times_give_an_empty_answer_and_reversed_ones_an_error(store: Store) -> None:
    store.put(store.open("load"), T0, [1.0])
    assert len(one(store.reader.query("fritz", "f1", "load", T0, T0))) == 0
    with pytest.raises(InvalidTimeRange, match="ends before"):
        store.reader.query("fritz", "f1", "load", T0, T0 - 1)
    with pytest.raises(InvalidTimeRange, match="years 1 to 9999"):
        store.reader.query("fritz", "f1", "load", T0 * 1000, T0 * 1000 + 5)


def test_unknown_metric_and_cluster_are_errors(store: Store) -> None:
    store.open("load")
    with pytest.raises(UnknownMetric, match="no metric 'lode' in cluster 'fritz'"):
        store.reader.query("fritz", "f1", "lode", T0, T0 + 60)
    with pytest.raises(UnknownMetric) as unknown:
        store.reader.query("emmy", "f1", "load", T0, T0 + 60)
    assert unknown.value.message == "there is no cluster 'emmy'", (
        "the first part of the path that is not there"
    )
    assert unknown.value.details == {"cluster": "emmy", "metric": "load"}
    with pytest.raises(UnknownMetric) as unknown:
        store.reader.query("fritz", "f9", "lode", T0, T0 + 60)
    assert unknown.value.message == "there is no host 'f9' in cluster 'fritz', nor a metric 'lode'"
    assert unknown.value.details == {"cluster": "fritz", "host": "f9", "metric": "lode"}
    with pytest.raises(UnknownMetric):
        store.reader.query("fritz", "f1", "\udc80", T0, T0 + 60)


def test_what_does_not_exist_is_an_empty_answer_that_says_why(store: Store) -> None:
    store.open("load")
    store.open("flops", "f2", "socket", "0")
    for host, levels, why in (
        ("f9", {}, "no such host"),
        ("f2", {"type": "socket", "type_ids": "7"}, "no such id"),
        ("f2", {"type": "socket", "type_ids": "0"}, "no such series"),
        ("f2", {"type": "socket", "type_ids": "0", "aggregate": True}, "no such series"),
        ("f1", {}, "no samples in range"),
    ):
        series = one(store.reader.query("fritz", host, "load", T0 + 7, T0 + 187, **levels))
        assert series.why == why
        assert plain(series.values) == [None] * 3
        assert (series.step, series.host, series.unit) == (60, host, "procs")
    # No series, no grid: the range's own start is the phase.
    assert one(store.reader.query("fritz", "f9", "load", T0 + 7, T0 + 127)).times.tolist() == [
        T0 + 7,
        T0 + 67,
    ]
    u64 = one(store.reader.query("fritz", "f9", "load", T0, T0 + 60))
    assert not u64.valid.any()


def test_ids_are_answered_in_the_order_asked_and_all_of_them_in_natural_order(store: Store) -> None:
    for core in (10, 2, 0):
        store.put(store.open("clock", "f1", "core", str(core)), T0, [float(core)], step=10)
    store.open("load", "f1", "core", "1")
    ask = store.reader.query
    asked = several(ask("fritz", "f1", "clock", T0, T0 + 10, type="core", type_ids=["10", 7, "0"]))
    assert [(s.type, s.type_id, s.why) for s in asked] == [
        ("core", "10", ""), ("core", "7", "no such id"), ("core", "0", "")]  # fmt: skip
    assert [plain(s.values) for s in asked] == [[10.0], [None], [0.0]]
    every = several(ask("fritz", "f1", "clock", T0, T0 + 10, type="core"))
    assert [s.type_id for s in every] == ["0", "2", "10"]
    assert one(ask("fritz", "f1", "clock", T0, T0 + 10, type="core", type_ids=2)).values.tolist() == [2.0]
    assert several(ask("fritz", "f1", "clock", T0, T0 + 10, type="socket")) == []
    assert several(ask("fritz", "f1", "clock", T0, T0 + 10, type="core", type_ids=[])) == []
    # core1 with id 0 is not core with id 10.
    assert one(ask("fritz", "f1", "clock", T0, T0 + 10, type="core1", type_ids="0")).why == "no such id"


def test_subtypes_hang_below_types_and_below_the_host(store: Store) -> None:
    store.put(store.open("load", "f1", "accelerator", "00:49", "nvlink", "0"), T0, [1.0])
    store.put(store.open("load", "f1", "accelerator", "00:49", "nvlink", "1"), T0, [3.0])
    store.put(store.open("load", "f1", "", "", "network", "enp1s0"), T0, [5.0])
    ask = store.reader.query
    below = {"type": "accelerator", "type_ids": "00:49", "subtype": "nvlink"}
    found = several(ask("fritz", "f1", "load", T0, T0 + 60, **below))
    assert [(s.type_id, s.subtype, s.subtype_id, plain(s.values)) for s in found] == [
        ("00:49", "nvlink", "0", [1.0]), ("00:49", "nvlink", "1", [3.0])]  # fmt: skip
    assert one(ask("fritz", "f1", "load", T0, T0 + 60, subtype_ids="1", **below)).values.tolist() == [3.0]
    whole = one(ask("fritz", "f1", "load", T0, T0 + 60, type="accelerator", type_ids="00:49"))
    assert (whole.values.tolist(), whole.n_series, whole.coverage.tolist()) == ([2.0], 2, [2])
    network = {"subtype": "network", "subtype_ids": "enp1s0"}
    assert one(ask("fritz", "f1", "load", T0, T0 + 60, type="node", **network)).values.tolist() == [5.0]
    assert one(ask("fritz", "f1", "load", T0, T0 + 60, **network)).values.tolist() == [5.0]


def test_a_host_without_its_own_series_is_the_aggregate_of_all_below(store: Store) -> None:
    for core in range(4):
        store.put(
            store.open("flops", "f1", "hwthread", str(core)), T0 + core, [1.0 + core, 10.0][: 2 - core % 2]
        )
    series = one(store.reader.query("fritz", "f1", "flops", T0, T0 + 120))
    assert series.values.tolist() == [10.0, 20.0]
    assert series.coverage.tolist() == [4, 2]
    assert (series.aggregation, series.n_series, series.values.dtype) == ("sum", 4, np.float64)
    some = {"type": "hwthread", "type_ids": ["0", "3", "9"], "aggregate": True}
    assert one(store.reader.query("fritz", "f1", "flops", T0, T0 + 60, **some)).values.tolist() == [5.0]
    every = one(store.reader.query("fritz", "f1", "flops", T0, T0 + 120, type="hwthread", aggregate=True))
    assert every.values.tolist() == [10.0, 20.0]
    strict = one(store.reader.query("fritz", "f1", "flops", T0, T0 + 120, missing="propagate"))
    assert plain(strict.values) == [10.0, None]
    # As soon as the host has a series of its own, that is the answer.
    store.put(store.open("flops", "f1"), T0, [7.0])
    assert one(store.reader.query("fritz", "f1", "flops", T0, T0 + 60)).values.tolist() == [7.0]


def test_metric_without_aggregation_answers_for_one_series_only(store: Store) -> None:
    store.put(store.open("clock", "f1", "core", "0"), T0, [5.0], step=10)
    alone = one(store.reader.query("fritz", "f1", "clock", T0, T0 + 10, type="core", aggregate=True))
    assert (alone.values.tolist(), alone.coverage.tolist(), alone.values.dtype) == ([5.0], [1], np.float32)
    store.open("clock", "f1", "core", "1")
    with pytest.raises(NotAggregatable, match="2 series"):
        store.reader.query("fritz", "f1", "clock", T0, T0 + 10)


def test_missing_u64_is_zero_and_not_valid(store: Store) -> None:
    ref = store.open("ops")
    store.put(ref, T0, [2**63 + 1], step=10)
    store.put(ref, T0 + 20, [0], step=10)
    series = one(store.reader.query("fritz", "f1", "ops", T0, T0 + 40))
    assert series.values.tolist() == [2**63 + 1, 0, 0, 0]
    assert series.valid.tolist() == [True, False, True, False]
    again = Series.from_wire(series.to_wire())
    assert again.values.tolist() == series.values.tolist()
    assert again.valid.tolist() == series.valid.tolist()
    coarse = one(store.reader.query("fritz", "f1", "ops", T0 + 10, T0 + 50, resolution=20))
    assert plain(coarse.values) == [0.0, None]


def test_resolution_gives_means_and_keeps_the_last_partial_run(store: Store) -> None:
    store.put(store.open("load"), T0, [1.0, 3.0, math.nan, math.nan, 9.0])
    ask = store.reader.query
    series = one(ask("fritz", "f1", "load", T0, T0 + 300, resolution=120))
    assert plain(series.values) == [2.0, None, 9.0]
    assert (series.values.dtype, series.step, series.times.tolist()) == (
        np.float32, 120, [T0, T0 + 120, T0 + 240])  # fmt: skip
    with pytest.raises(InvalidStep, match="not a multiple"):
        ask("fritz", "f1", "load", T0, T0 + 300, resolution=90)
    empty = one(ask("fritz", "f9", "load", T0, T0 + 300, resolution=120))
    assert (plain(empty.values), empty.why) == ([None] * 3, "no such host")
    store.put(store.open("load", "f2", "core", "0"), T0, [1.0, 3.0])
    store.put(store.open("load", "f2", "core", "1"), T0, [5.0])
    both = one(ask("fritz", "f2", "load", T0, T0 + 180, resolution=120))
    assert (plain(both.values), both.coverage.tolist()) == ([3.0, None], [3, 0])


def test_eras_are_one_answer(store: Store) -> None:
    ref = store.open("load")
    store.put(ref, T0, [1.0, 2.0, 3.0])
    slot = ref & 0xFFFF_FFFF
    later, _ = store.writer.new_era(slot, T0 + 180 - 5, 10, T0 + 180, layout.TYPE_F32)
    store.writer.publish()
    store.put(later, T0 + 180, [7.0, 8.0], step=10)
    series = one(store.reader.query("fritz", "f1", "load", T0 + 130, T0 + 200))
    # The last old slot covers T0 + 90 to T0 + 150; nothing was stored for the time after it.
    assert plain(series.values) == [3.0, 3.0, None, None, None, 7.0, 8.0]
    assert (series.step, series.start) == (10, T0 + 130)
    old = one(store.reader.query("fritz", "f1", "load", T0, T0 + 180))
    assert (old.step, old.values.tolist()) == (60, [1.0, 2.0, 3.0])
    views = list(store.reader.chunks("fritz", "f1", "load"))
    assert [(view.start, view.step, view.valid()) for view in views] == [(T0, 60, True), (T0 + 180, 10, True)]
    assert [view.values[:2].tolist() for view in views] == [[1.0, 2.0], [7.0, 8.0]]
    assert not views[0].values.flags.writeable
    assert views[1].times[:2].tolist() == [T0 + 180, T0 + 190]


@pytest.mark.parametrize("n_empty", [1, 2, 70])
def test_eras_that_never_had_a_sample_hide_none_before_them(store: Store, n_empty: int) -> None:
    """A silent series whose step changes twice: what it had before is asked for through the eras in between."""
    ref = store.open("load")
    store.put(ref, T0, [1.0, 2.0, 3.0])
    newest = ref
    for k in range(n_empty + 1):
        step = (10, 60)[k % 2]
        newest, _ = store.writer.new_era(
            newest & 0xFFFF_FFFF, T0 + 180 - step // 2, step, T0 + 180, layout.TYPE_F32
        )
        store.writer.publish()
    old = one(store.reader.query("fritz", "f1", "load", T0, T0 + 180))
    assert (old.step, old.values.tolist()) == (60, [1.0, 2.0, 3.0])
    views = list(store.reader.chunks("fritz", "f1", "load"))
    assert [view.values[:3].tolist() for view in views] == [[1.0, 2.0, 3.0]]
    store.put(newest, T0 + 240, [7.0], step=(10, 60)[n_empty % 2])
    later = one(store.reader.query("fritz", "f1", "load", T0, T0 + 300)).values
    assert set(later[~np.isnan(later)].tolist()) == {1.0, 2.0, 3.0, 7.0}


def test_stamped_rows_are_sorted_and_the_last_of_equal_stamps_wins(store: Store) -> None:
    ref = store.open("scrape")
    ms = T0 * 1000
    store.rows(ref, [(ms, 1, 0.5), (ms + 1500, 2, 1.5), (ms + 2500, 3, math.nan)], "Qd")
    store.rows(ref, [(ms + 700, 9, 9.5)], "Qd")
    store.rows(ref, [(ms + 1500, 2**64 - 1, 2.5)], "Qd")
    series = one(store.reader.query("fritz", "f1", "scrape", T0, T0 + 2))
    assert series.stamped
    assert series.columns == ("reads", "seconds")
    assert (series.times_ms - ms).tolist() == [0, 700, 1500]
    assert series.values["reads"].tolist() == [1, 9, 0]
    assert series.valid.tolist() == [[True, True], [True, True], [False, True]]
    reads = series.column("reads")
    assert (reads.valid.tolist(), reads.values.dtype) == ([True, True, False], np.uint64)
    again = Series.from_wire(series.to_wire())
    assert again.values.tolist() == series.values.tolist()
    assert again.valid.tolist() == series.valid.tolist()
    assert again.times.tolist() == [T0, T0, T0 + 1]
    beat = store.open("beat")
    store.rows(beat, [(ms + k, 5 * k) for k in range(900)], "Q")
    single = one(store.reader.query("fritz", "f1", "beat", T0, T0 + 1))
    assert single.values.tolist() == [5 * k for k in range(900)]
    with pytest.raises(InvalidStep, match="no step"):
        store.reader.query("fritz", "f1", "beat", T0, T0 + 1, resolution=60)
    none = one(store.reader.query("fritz", "f1", "scrape", T0 + 50, T0 + 60))
    assert (len(none), none.why, none.columns) == (0, "no samples in range", ("reads", "seconds"))
    assert one(store.reader.query("fritz", "f9", "scrape", T0, T0 + 60)).columns == ("reads", "seconds")


def test_requests_beyond_the_limits_are_refused_before_memory_is_taken(store: Store) -> None:
    store.open("ops")
    for host in ("f1", "f9"):
        with pytest.raises(LimitExceeded, match="ask for"):
            store.reader.query("fritz", host, "ops", 0, 100_000_000_000)
    with pytest.raises(InvalidRequest, match="without a type"):
        store.reader.query("fritz", "f1", "ops", T0, T0 + 60, type_ids=["1"])
    with pytest.raises(InvalidRequest, match="propagate"):
        store.reader.query("fritz", "f1", "ops", T0, T0 + 60, missing="ignore", aggregate=True)


def test_names_paths_and_metrics_are_listed_in_natural_order(store: Store) -> None:
    for host in ("f10", "f2"):
        store.open("load", host)
        store.open("load", host, "core", "0")
    store.open("flops", "a1", cluster="alex")
    reader = store.reader
    assert reader.children() == ["alex", "fritz"]
    assert reader.children("fritz") == ["f2", "f10"]
    assert reader.children("fritz", "f2") == ["core0"]
    assert reader.children("emmy") == []
    assert reader.paths(2) == [("alex", "a1"), ("fritz", "f2"), ("fritz", "f10")]
    assert [(m.cluster, m.name, m.step_s, m.type, m.unit) for m in reader.metrics("fritz")] == [
        ("fritz", "load", 60, "f32", "procs")]  # fmt: skip
    assert [m.name for m in reader.metrics()] == ["flops", "load"]


def test_many_requests_are_answered_in_order(store: Store) -> None:
    store.put(store.open("load"), T0, [1.0])
    store.put(store.open("flops"), T0, [2.0])
    asked = [Request("fritz", "f1", metric, T0, T0 + 60) for metric in ("flops", "load")]
    assert [one(found).values.tolist() for found in store.reader.query_many(asked)] == [[2.0], [1.0]]


def test_attach_reads_a_store_through_its_instance_file(store: Store, tmp_path: Path) -> None:
    store.put(store.open("load"), T0, [1.0])
    with pytest.raises(Unavailable, match="no store runs"):
        mstore.attach(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    control = segment.create(
        f"mstore-test-query-{os.getpid()}-control", layout.SEG_CONTROL, CONTROL_BYTES, INSTANCE
    )
    control.mark_ready()
    names = {
        "directory": store.directory_map.name,
        "samples": store.samples_map.name,
        "control": control.name,
    }
    (run / "instance.json").write_text(json.dumps({"instance": INSTANCE, "segments": names}))
    with mstore.attach(tmp_path) as attached:
        series = one(attached.query("fritz", "f1", "load", T0, T0 + 60))
        view = next(attached.chunks("fritz", "f1", "load"))
        assert attached.info()["directory"]["n_series"] == 1
        assert not attached.stale()
        Control(control).retention_s = 60
        assert not attached.query("fritz", "f1", "load", T0, T0 + 60).valid.any()
    assert series.values.tolist() == [1.0]
    assert view.values[0] == 1.0  # a view keeps its memory, closed or not
    with pytest.raises(ValueError, match="read-only"):
        view.values[0] = 2.0
    (run / "instance.json").write_text(json.dumps({"instance": INSTANCE + 1, "segments": names}))
    assert attached.stale()
    with pytest.raises(LayoutMismatch, match="instance"):
        mstore.attach(tmp_path)
    (run / "instance.json").write_text('{"instance": 1}')
    with pytest.raises(CorruptRecord, match="which segments"):
        mstore.attach(tmp_path)
    with contextlib.suppress(FileNotFoundError):
        (run / "instance.json").unlink()
    segment.unlink(control.name)
    control.close()
