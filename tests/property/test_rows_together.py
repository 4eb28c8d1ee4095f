"""ROW records that hold the same series are applied side by side; what is stored is what the log's order says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstore.kernels._samples import STOPPED_DONE
from mstore.kernels.reference_samples import ReferenceSamples, Series
from mstore.shm import chunks, layout
from tests.samples_rig import Rig, column, pad, row

N = 420
LONG = 256
"""Values from which on a ROW is applied with others."""
ERA_START = 40_000
SHAPES = ("other step", "other phase", "f64", "u64", "stamped", "other life", "free", "removing", "ended")


def make(rig: Rig, odd: dict[int, str]) -> ReferenceSamples:
    """N minute series; those of `odd` are of another shape, the same in both. "ended": the slot after is its next era."""
    rig.add(60, anchor_s=-30, count=N)
    for slot, shape in odd.items():
        give_shape(rig.series, slot, shape)
    series = {
        slot: Series(
            int(one["generation"]), int(one["kind"]), int(one["type"]), 1, int(one["anchor_s"]), int(one["step_s"]),
            int(one["era_start"]),
        )
        for slot, one in enumerate(rig.series[:N])
        if one["flags"]
    }  # fmt: skip
    for slot, one in enumerate(rig.series[:N]):
        if one["next_slot"] and slot in series:
            after = int(one["next_slot"]) - 1
            series[slot].next = after, int(one["next_generation"])
            series[after].prev = slot, int(one["generation"])
    return ReferenceSamples(series)


def give_shape(table: np.ndarray, slot: int, shape: str) -> None:
    one = table[slot]
    if shape == "other step":
        one["step_s"] = 7
    elif shape == "other phase":
        one["anchor_s"] = 13
    elif shape in ("f64", "u64"):
        one["type"] = layout.TYPE_F64 if shape == "f64" else layout.TYPE_U64
    elif shape == "stamped":
        one["kind"], one["step_s"] = layout.KIND_STAMPED, 0
    elif shape == "other life":
        one["generation"] = 2
    elif shape == "free":
        one["flags"] = 0
    elif shape == "removing":
        one["flags"] = layout.SERIES_LIVE | layout.SERIES_REMOVING
    else:
        after = slot - 1 if slot % 2 else slot + 1
        new = table[after]
        if (
            one["next_slot"]
            or new["next_slot"]
            or new["prev_slot"]
            or not new["flags"]
            or new["generation"] != 1
        ):
            return
        if new["kind"] != layout.KIND_GRID or one["prev_slot"]:
            return
        one["flags"], one["next_slot"], one["next_generation"] = (
            layout.SERIES_LIVE | layout.SERIES_ENDED, after + 1, 1,
        )  # fmt: skip
        new["prev_slot"], new["prev_generation"], new["era_start"] = slot + 1, 1, ERA_START


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """Ticks of a cluster, mostly, with what a log may hold between them."""
    found = []
    times = st.one_of(
        st.sampled_from([0, 10, 60, 61, 120, 180, 240, 300, 600, ERA_START - 20, ERA_START, ERA_START + 60]),
        st.integers(-70_000, 130_000),
    )
    usual = draw(st.sampled_from([layout.TYPE_F32] * 3 + [layout.TYPE_F64]))
    for _ in range(draw(st.integers(2, 6))):
        first = draw(st.sampled_from([0, 0, 0, 1, 100, N - LONG]))
        count = draw(st.sampled_from([LONG, LONG, N - first, N - first, LONG + 9, 5]))
        vtype = draw(st.sampled_from([usual] * 9 + [layout.TYPE_U64]))
        generation = draw(st.sampled_from([1] * 9 + [2]))
        values = draw(st.integers(0, 1 << 20)) + np.arange(count)
        found.append(row(first, draw(times), values, type=vtype, generation=generation))
        between = draw(st.sampled_from([""] * 8 + ["pad", "column"]))
        if between == "pad":
            found.append(pad(24))
        elif between == "column":
            found.append(column(draw(st.integers(0, N - 1)), draw(times), 60, [1, 2, 3]))
    return b"".join(found)


slots = st.integers(1, N - 2)
odd_slots = st.one_of(
    st.dictionaries(slots, st.sampled_from(SHAPES[:2]), max_size=3),
    st.dictionaries(slots, st.sampled_from(SHAPES), max_size=3),
)


@settings(max_examples=60)
@given(odd_slots, st.lists(blocks(), min_size=1, max_size=3))
def test_rows_applied_together_store_what_one_after_the_other_does(
    odd: dict[int, str], given_blocks: list[bytes]
) -> None:
    with Rig(N, extents=64) as rig:
        reference = make(rig, odd)
        for block in given_blocks:
            result = rig.kernel.apply(block)
            assert (result.n_samples, result.n_stale) == reference.apply(block)
            assert (result.why, result.stopped_at) == (STOPPED_DONE, len(block))
        for slot, series in reference.series.items():
            if series.kind == layout.KIND_GRID:
                stored = chunks.read_grid(rig.series[slot], rig.samples)
                assert {index: value.tobytes() for index, value in stored.items()} == series.slots, slot
                if series.slots:
                    assert rig.series[slot]["last_t"] == newest(series)
        chunks.validate(rig.series[:N], rig.samples, rig.kernel.committed_bytes)


def newest(series: Series) -> int:
    """The nominal time of a series' newest slot."""
    return max(series.slots) * series.step_s + series.anchor_s + series.step_s // 2


@pytest.mark.parametrize(("old", "new"), [(10, 300), (300, 10)])
def test_a_sample_that_an_era_sends_to_another_series_keeps_its_place_in_the_log(old: int, new: int) -> None:
    """Two references lead to one slot of one series: the later record wins, whichever reference is the lower."""
    with Rig(N) as rig:
        rig.add(60, anchor_s=-30, count=N)
        before, after = rig.series[old], rig.series[new]
        before["flags"] = layout.SERIES_LIVE | layout.SERIES_ENDED
        before["next_slot"], before["next_generation"] = new + 1, 1
        after["prev_slot"], after["prev_generation"], after["era_start"] = old + 1, 1, ERA_START
        low, high = row(0, ERA_START, np.full(LONG, 1)), row(N - LONG, ERA_START, np.full(LONG, 2))
        index = (ERA_START + 30) // 60
        rig.kernel.apply(low + high)
        assert chunks.read_grid(rig.series[new], rig.samples)[index] == 2
        rig.kernel.apply(high + low)
        assert chunks.read_grid(rig.series[new], rig.samples)[index] == 1


@pytest.mark.parametrize(("phase", "moved"), [(29, True), (0, False)])
def test_a_phase_that_moved_is_noticed_in_rows_applied_together(phase: int, moved: bool) -> None:
    with Rig(LONG, extents=64) as rig:
        rig.add(60, anchor_s=-30, count=LONG)
        for first in range(0, 520, 8):
            ticks = [row(0, 60 * i + phase, np.full(LONG, i)) for i in range(first, first + 8)]
            assert rig.kernel.apply(b"".join(ticks)).n_samples == 8 * LONG
        assert {slot for slot, _ in rig.kernel.shifts()} == (set(range(LONG)) if moved else set())
