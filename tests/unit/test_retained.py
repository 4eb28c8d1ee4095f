"""What retention serves: exact to the slot, whatever chunks are still there."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstore.frames import Series
from mstore.query import Reader, Request
from mstore.query.batch import Group, gathering
from mstore.query.budget import Budget, finished
from mstore.query.plan import plan
from mstore.shm.directory import KEEP_ALL_S
from tests.query_rig import SPECS, T0, Store, one, several


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """Three cores with gaps and different phases, a counter and rows: all from T0 on, about 1000 minutes."""
    made = Store(f"mstore-test-retained-{os.getpid()}")
    for core, phase in enumerate((0, 17, 44)):
        ref = made.open("load", "f1", "core", str(core), t=T0 + phase)
        values = [math.nan if k % (11 + core) == 3 else float(k + core) for k in range(1000)]
        made.put(ref, T0 + phase, values)
    made.put(made.open("ops", "f1", t=T0), T0, [float(k) for k in range(600)], step=10)
    made.rows(made.open("beat", "f1"), [(1000 * (T0 + k) + 5, k) for k in range(100)], "Q")
    yield made
    made.close()


def reader(store: Store, retention_s: int, now_s: int) -> Reader:
    return Reader(
        store.directory_map.segment,
        store.samples_map.segment,
        retention_s=lambda: retention_s,
        now_s=lambda: now_s,
    )


def test_a_slot_is_served_until_its_nominal_time_is_older_than_retention(store: Store) -> None:
    for now, first in ((T0 + 3600, 0), (T0 + 3601, 1), (T0 + 3660, 1), (T0 + 3661, 2)):
        series = one(
            reader(store, 3600, now).query("fritz", "f1", "load", T0, T0 + 180, type="core", type_ids="0")
        )
        assert series.times.tolist() == [T0, T0 + 60, T0 + 120]
        assert np.isnan(series.values).tolist() == [k < first for k in range(3)], now


def test_a_counter_and_rows_are_cut_off_too(store: Store) -> None:
    clipped = reader(store, 100, T0 + 150)
    ops = one(clipped.query("fritz", "f1", "ops", T0, T0 + 80))
    assert ops.valid.tolist() == [False] * 5 + [True] * 3
    beats = one(clipped.query("fritz", "f1", "beat", T0, T0 + 100))
    assert beats.times_ms.tolist() == [1000 * (T0 + k) + 5 for k in range(50, 100)]
    assert one(clipped.query("fritz", "f1", "ops", T0 + 10, T0 + 40)).why


def test_without_retention_everything_is_served(store: Store) -> None:
    whole = one(
        reader(store, 0, T0 + 10**9).query("fritz", "f1", "load", T0, T0 + 180, type="core", type_ids="0")
    )
    assert whole.values[:3].tolist() == [0.0, 1.0, 2.0]


@settings(max_examples=60, deadline=None)
@given(
    retention=st.integers(1, 70_000),
    now=st.integers(T0 - 100, T0 + 140_000),
    start=st.integers(T0 - 2000, T0 + 70_000),
    length=st.integers(0, 40_000),
)
def test_an_answer_is_the_unclipped_one_without_its_old_slots(
    store: Store, retention: int, now: int, start: int, length: int
) -> None:
    clipped, whole = reader(store, retention, now), reader(store, 0, now)
    for aggregate, ids in ((False, "0"), (False, None), (True, None)):
        asked = Request("fritz", "f1", "load", start, start + length, "core", ids, aggregate=aggregate)
        got, want = clipped.ask(asked), whole.ask(asked)
        pairs = [(got, want)] if ids or aggregate else zip(several(got), several(want), strict=True)
        for mine, all_of_it in pairs:
            mine, all_of_it = one(mine), one(all_of_it)
            old = all_of_it.times < now - retention
            expected = np.where(old, np.nan, all_of_it.values)
            assert mine.times.tolist() == all_of_it.times.tolist()
            assert np.array_equal(mine.values, expected, equal_nan=True)
            if all_of_it.coverage is not None:
                assert mine.coverage is not None
                assert mine.coverage.tolist() == np.where(old, 0, all_of_it.coverage).tolist()
            assert bool(mine.why) == bool(np.isnan(expected).all())


def test_each_metric_is_served_for_its_own_retention_and_follows_a_change_at_once() -> None:
    made = Store(f"mstore-test-retained-own-{os.getpid()}")
    for metric, period_s in (("load", -1), ("flops", 600), ("clock", 0)):
        made.put(made.open(metric), T0, [1.0] * 60, step=60 if metric != "clock" else 10)
        made.writer.define_metric("fritz", replace(SPECS[metric], retention_s=period_s))
    made.rows(made.open("beat"), [(1000 * (T0 + k), k) for k in range(3600)], "Q")
    made.writer.define_metric("fritz", replace(SPECS["beat"], retention_s=60))
    made.writer.publish()
    now = T0 + 3600
    asking = reader(made, 1200, now)

    def first(metric: str) -> int:
        series = one(asking.query("fritz", "f1", metric, T0, now))
        return int(series.times[~np.isnan(series.values)][0]) - now

    assert [first(metric) for metric in ("load", "flops", "clock")] == [-1200, -600, -3600]
    assert one(asking.query("fritz", "f1", "beat", T0, now)).times_ms[0] == 1000 * (now - 60)
    metrics = {info.name: info.index for info in map(made.writer.metric, range(4))}
    oldest = [asking.gatherer.oldest_s(metrics[name]) for name in ("load", "flops", "clock", "beat")]
    assert oldest == [now - 1200, now - 600, KEEP_ALL_S, now - 60]
    made.writer.define_metric("fritz", replace(SPECS["flops"], retention_s=1800))
    assert first("flops") == -1800
    made.close()


def test_of_a_protected_host_everything_is_served_that_is_there_also_within_an_aggregate() -> None:
    made = Store(f"mstore-test-retained-protected-{os.getpid()}")
    for host, value in (("f1", 1.0), ("f2", 2.0)):
        for core in ("0", "1"):
            made.put(made.open("load", host, "core", core), T0, [value] * 60)
            made.put(made.open("flops", host, "core", core), T0, [value] * 60)
        made.rows(made.open("beat", host), [(1000 * (T0 + k), k) for k in range(3600)], "Q")
    now = T0 + 3600
    asking = reader(made, 600, now)
    made.writer.protect(b"fritz", b"f1")
    for host, n in (("f1", 60), ("f2", 10)):
        load = one(asking.query("fritz", host, "load", T0, now, type="core", type_ids="1"))
        assert np.count_nonzero(~np.isnan(load.values)) == n
        assert len(one(asking.query("fritz", host, "beat", T0, now)).values) == 60 * n
        both = one(asking.query("fritz", host, "flops", T0, now, type="core", aggregate=True))
        assert both.coverage is not None
        assert both.coverage.tolist() == [0] * (60 - n) + [2] * n
    refs = np.concatenate([asking.gatherer.collect([made.writer.find_path("fritz")], 1)])  # all of flops
    request = Request("fritz", "f1", "flops", T0, now)
    metric = plan(asking.gatherer, request).metric
    (every,) = finished(gathering(asking.gatherer, [Group(request, metric, refs)], Budget()))
    assert isinstance(every, Series)
    assert every.coverage is not None
    assert every.coverage.tolist() == [2] * 50 + [4] * 10
    assert every.values.tolist() == [2.0] * 50 + [6.0] * 10
    made.writer.protect(b"fritz", b"f1", False)
    assert (
        np.count_nonzero(
            ~np.isnan(one(asking.query("fritz", "f1", "load", T0, now, type="core", type_ids="1")).values)
        )
        == 10
    )
    made.close()
