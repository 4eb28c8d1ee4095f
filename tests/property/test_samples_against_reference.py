"""The sample kernels store, overwrite, redirect, free and adopt exactly as the naive twin does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstore.kernels._samples import LOADED, STOPPED_DONE
from mstore.kernels.reference_samples import ReferenceSamples, Series
from mstore.shm import chunks, layout
from tests.samples_rig import Rig, column, pad, row, scatter, stamped

MINUTES, SECONDS, ODD, F64, U64, OLD_ERA, NEW_ERA, ROWS1, ROWS3 = range(9)
ERA_START = 40_000
GRID_SLOTS = (MINUTES, SECONDS, ODD, F64, U64, OLD_ERA, NEW_ERA)
TYPES = (layout.TYPE_F32, layout.TYPE_F64, layout.TYPE_U64)


def make(rig: Rig) -> ReferenceSamples:
    """One series of every shape, the same in both."""
    rig.add(60, anchor_s=-30)
    rig.add(1, anchor_s=0)
    rig.add(7, anchor_s=1000)
    rig.add(10, type=layout.TYPE_F64, anchor_s=-5)
    rig.add(10, type=layout.TYPE_U64, anchor_s=-5)
    rig.add(60, anchor_s=-30)
    rig.add(20, type=layout.TYPE_U64, anchor_s=ERA_START - 10)
    rig.add(0, n_columns=1)
    rig.add(0, n_columns=3)
    old, new = rig.series[OLD_ERA], rig.series[NEW_ERA]
    old["flags"], old["next_slot"], old["next_generation"] = (
        layout.SERIES_LIVE | layout.SERIES_ENDED,
        NEW_ERA + 1,
        1,
    )
    new["prev_slot"], new["prev_generation"], new["era_start"] = OLD_ERA + 1, 1, ERA_START
    series = {
        slot: Series(
            int(record["generation"]),
            int(record["kind"]),
            int(record["type"]),
            int(record["n_columns"]),
            int(record["anchor_s"]),
            int(record["step_s"]),
        )
        for slot, record in enumerate(rig.series[:9])
    }
    series[OLD_ERA].next, series[NEW_ERA].prev, series[NEW_ERA].era_start = (
        (NEW_ERA, 1),
        (OLD_ERA, 1),
        ERA_START,
    )
    return ReferenceSamples(series)


def check_same(rig: Rig, reference: ReferenceSamples) -> None:
    for slot, series in reference.series.items():
        if series.kind == layout.KIND_GRID:
            stored = chunks.read_grid(rig.series[slot], rig.samples)
            assert {index: value.tobytes() for index, value in stored.items()} == series.slots
        else:
            rows = chunks.read_rows(rig.series[slot], rig.samples)
            stored_rows = {int(r[0].astype("<i8")): r[1:].tobytes() for r in rows}
            assert stored_rows == series.rows
    chunks.validate(rig.series[:9], rig.samples, rig.kernel.committed_bytes)


values = st.one_of(st.integers(0, 5).map(float), st.floats(-1e6, 1e6, width=32), st.just(1e300))
times = st.one_of(st.integers(-70_000, 130_000), st.integers(39_000, 41_000), st.integers(0, 700))
stamps = st.one_of(st.integers(0, 60), st.integers(-5_000, 5_000))


def cast(vtype: int, numbers: list[float]) -> np.ndarray:
    """Numbers as values of a type; u64 gets what fits."""
    if vtype == layout.TYPE_U64:
        return np.array([min(abs(int(v)), 2**63) for v in numbers], "<u8")
    return np.array(
        [min(v, 1e30) if vtype == layout.TYPE_F32 else v for v in numbers], layout.TYPE_DTYPES[vtype]
    )


@st.composite
def records(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(["row", "column", "scatter", "stamped", "stamped", "pad"]))
    if kind == "pad":
        return pad(draw(st.sampled_from([8, 24, 64])))
    if kind == "stamped":
        slot = draw(st.sampled_from([ROWS1, ROWS3, ROWS3, MINUTES]))
        n_columns = {ROWS1: 1, ROWS3: 3}.get(slot, 1)
        rows = draw(st.lists(st.tuples(stamps, st.integers(0, 2**64 - 1)), min_size=1, max_size=12))
        return stamped(slot, [(stamp, [word] * n_columns) for stamp, word in rows])
    vtype = draw(st.sampled_from(TYPES))
    numbers = cast(vtype, draw(st.lists(values, min_size=1, max_size=12)))
    t = draw(times)
    generation = draw(st.sampled_from([1, 1, 1, 1, 2]))
    if kind == "row":
        return row(draw(st.integers(0, 10)), t, numbers, type=vtype, generation=generation)
    if kind == "column":
        dt = draw(st.sampled_from([1, 7, 10, 60, 61, 600, 9_000, -60, 0]))
        return column(draw(st.sampled_from(GRID_SLOTS)), t, dt, numbers, type=vtype, generation=generation)
    refs = [(draw(st.integers(0, 9)), draw(st.sampled_from([1, 1, 1, 0]))) for _ in numbers]
    return scatter(refs, t, numbers, type=vtype)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.lists(records(), max_size=6), st.sampled_from(["", "", "free", "adopt", "again"]), times)
    )
)
def test_kernel_and_reference_agree_after_any_records_frees_and_adoptions(steps: list) -> None:
    with Rig(16, extents=16) as rig:
        reference = make(rig)
        for blocks, then, t in steps:
            block = b"".join(blocks)
            result = rig.kernel.apply(block)
            assert (result.n_samples, result.n_stale) == reference.apply(block)
            assert (result.why, result.stopped_at) == (STOPPED_DONE, len(block))
            if then == "free":
                before = rig.kernel.expired(0, 100, t)
                reference.free_ranges(before.tobytes())
                rig.kernel.free_ranges(before)
            elif then == "adopt":
                rig.kernel = rig.open(fresh=False)
            elif then == "again":
                rig.kernel.apply(block)
                reference.apply(block)
        check_same(rig, reference)


@settings(max_examples=60)
@given(st.lists(records(), min_size=1, max_size=20), st.data())
def test_replay_over_a_fuzzy_snapshot_gives_the_live_samples(
    blocks: list[bytes], data: st.DataObject
) -> None:
    """Each series is copied at a moment of its own; the replay starts before all of them, frees included."""
    with Rig(16, extents=16) as live, Rig(16, extents=16) as restored:
        reference = make(live)
        make(restored)
        copied_after = [data.draw(st.integers(0, len(blocks))) for _ in range(9)]
        frees: dict[int, bytes] = {}
        for i in range(len(blocks) + 1):
            for slot in (s for s in range(9) if copied_after[s] == i):
                copy_series(live, restored, slot)
            if i == len(blocks):
                break
            live.kernel.apply(blocks[i])
            reference.apply(blocks[i])
            if data.draw(st.booleans()):
                ranges = live.kernel.expired(0, 9, data.draw(times))
                frees[i] = ranges.tobytes()
                live.kernel.free_ranges(ranges)
                reference.free_ranges(frees[i])
        for i, block in enumerate(blocks):
            restored.kernel.apply(block)
            restored.kernel.free_ranges(frees.get(i, b""))
        check_same(restored, reference)


def copy_series(source: Rig, target: Rig, slot: int) -> None:
    for n, link in chunks.linked(source.series[slot], source.samples):
        head = chunks.header(source.samples, link)
        payload = chunks.payload(source.samples, link).tobytes()
        assert target.kernel.load_chunk(slot, int(head["generation"]), n, head.tobytes(), payload) == LOADED


@settings(max_examples=100)
@given(st.lists(records(), max_size=8), st.lists(records(), min_size=1, max_size=8))
def test_need_is_never_less_than_what_apply_takes(before: list[bytes], block: list[bytes]) -> None:
    with Rig(16, extents=32) as rig:
        make(rig)
        rig.kernel.apply(b"".join(before))
        free = rig.kernel.free_bytes()
        tight = rig.kernel.need(b"".join(block), 0)
        loose = rig.kernel.need(b"".join(block), 1 << 40)
        rig.kernel.apply(b"".join(block))
        taken = free - rig.kernel.free_bytes()
        assert taken <= tight
        assert taken <= loose


@pytest.mark.parametrize("adopt", [False, True])
@pytest.mark.parametrize("step_s", [1, 60])
@pytest.mark.parametrize("far_chunks", [3, 40, 600, 9000, 30_000])
def test_need_counts_the_link_tables_of_many_series_at_once(
    step_s: int, far_chunks: int, adopt: bool
) -> None:
    """Series that all began together outgrow their tables together; the bound without a look must know of that."""
    n_series = 200
    span_s = step_s * layout.CHUNK_SLOTS
    refs = np.stack([np.arange(n_series), np.ones(n_series, int)], axis=1)
    with Rig(n_series, extents=n_series + 40) as rig:
        rig.add(step_s, count=n_series)
        rig.kernel.apply(scatter(refs, 0, np.ones(n_series)))
        for t in (far_chunks // 2 * span_s, far_chunks * span_s):
            if adopt:
                rig.kernel = rig.open(fresh=False)
            block = scatter(refs, t, np.ones(n_series))
            free = rig.kernel.free_bytes()
            bounds = [rig.kernel.need(block, limit) for limit in (0, 1 << 40)]
            assert rig.kernel.apply(block).why == 0
            taken = free - rig.kernel.free_bytes()
            assert all(taken <= bound for bound in bounds), (taken, bounds)


@pytest.mark.parametrize("adopt", [False, True])
def test_need_counts_the_link_tables_of_stamped_series(adopt: bool) -> None:
    n_series = 100
    with Rig(n_series, extents=3000) as rig:
        rig.add(0, count=n_series, n_columns=63)
        for first in range(0, 300, 60):
            rows = [(1000 * k, [7] * 63) for k in range(first, first + 60)]
            block = b"".join(stamped(slot, rows) for slot in range(n_series))
            if adopt:
                rig.kernel = rig.open(fresh=False)
            free = rig.kernel.free_bytes()
            bounds = [rig.kernel.need(block, limit) for limit in (0, 1 << 40)]
            assert rig.kernel.apply(block).why == 0
            taken = free - rig.kernel.free_bytes()
            assert all(taken <= bound for bound in bounds), (taken, bounds)
