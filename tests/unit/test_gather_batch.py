"""The batch kernel against its naive twin: many groups of any shape in one call, and one group in parts."""

from __future__ import annotations

import mmap
import multiprocessing
import random
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mstore.kernels import _gather, _gather_batch, reference_query
from mstore.kernels.chosen import aggregate as kernel
from mstore.shm import layout
from tests.memory_rig import LIMIT, SAMPLES_BYTES, Memory, same_bits, stores

GroupOf = tuple[list[int], int, int, bool, bool]
"""(references, start, end, average, propagate)."""


def gather(memory: Memory, groups: list[GroupOf], limit: int = LIMIT) -> Any:
    refs, starts, ends, average, propagate = zip(*groups, strict=True) if groups else ((),) * 5
    bounds = np.cumsum([0, *map(len, refs)])
    how = (
        np.array(average, np.uint8) * _gather_batch.AVERAGE
        + np.array(propagate, np.uint8) * _gather_batch.PROPAGATE
    )
    return _gather_batch.gather(
        memory.gatherer(), np.array([ref for group in refs for ref in group], np.uint64), bounds,
        np.array(starts, np.int64), np.array(ends, np.int64), how.astype(np.uint8), np.full(len(groups), limit),
    )  # fmt: skip


def taken_apart(found: Any) -> list[tuple[Any, ...]]:
    """As the naive twin returns them."""
    raw, counts, table = found
    groups = []
    for kind, start, step, n, at, counts_at, present, _ in table.tolist():
        dtype = layout.TYPE_DTYPES[kind]
        coverage = None if counts_at < 0 else counts[counts_at : counts_at + n]
        groups.append((raw[at : at + n * dtype.itemsize].view(dtype), coverage, start, step, kind, present))
    return groups


def check_agreement(memory: Memory, groups: list[GroupOf]) -> None:
    want = reference_query.gather(memory.twin(), groups)
    for mine, naive in zip(taken_apart(gather(memory, groups)), want, strict=True):
        assert same_bits(mine[0], naive[0])
        assert (mine[1] is None) == (naive[1] is None)
        assert mine[1] is None or mine[1].tolist() == naive[1].tolist()
        assert mine[2:] == naive[2:]


@st.composite
def batches(draw: st.DrawFn) -> tuple[Memory, list[GroupOf]]:
    """Groups of one to four series of one store, several of the same range, which are read together."""
    memory, refs = draw(stores())
    groups: list[GroupOf] = []
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(-80_000, 80_000))
        end = start + draw(st.integers(0, 30_000))
        for _ in range(draw(st.integers(1, 11))):
            chosen = draw(st.lists(st.sampled_from(refs), min_size=1, unique=True))
            groups.append((sorted(chosen), start, end, draw(st.booleans()), draw(st.booleans())))
    return memory, groups


@settings(max_examples=60, deadline=None)
@given(batches())
def test_a_batch_and_its_naive_twin_agree_bit_for_bit(batch: tuple[Memory, list[GroupOf]]) -> None:
    check_agreement(*batch)


@pytest.mark.parametrize("seed", range(3))
def test_many_series_of_one_shape_are_added_as_if_each_group_were_alone(seed: int) -> None:
    """More groups than are read together, more series than rows, series without a sample, several chunks each."""
    rng = random.Random(seed)
    memory = Memory()
    slots = []
    for _ in range(60):
        slot = memory.add_series(anchor_s=rng.choice([95, 95, 95, 97]), step_s=10)
        memory.put(slot, {k: rng.random() for k in range(rng.randrange(600), 1000) if rng.random() < 0.9})
        slots.append(slot)
    slots += [memory.add_series(anchor_s=95, step_s=10) for _ in range(4)]
    groups: list[GroupOf] = [
        ([memory.ref(slot) for slot in slots[i::19]], 100 + 10 * (i // 10), 9000, True, i % 5 == 0)
        for i in range(19)
    ]
    check_agreement(memory, groups)
    check_agreement(memory, [([memory.ref(slot)], 0, 20_000, False, False) for slot in slots])


def test_no_groups_are_no_answers() -> None:
    raw, counts, table = gather(Memory(), [])
    assert (len(raw), len(counts), table.shape) == (0, 0, (0, 8))


def test_a_group_that_is_too_long_a_reference_that_is_gone_and_rows_are_told_by_a_status() -> None:
    memory = Memory()
    slot = memory.add_series(anchor_s=95, step_s=10)
    rows = memory.add_series(kind=layout.KIND_STAMPED, type=0, n_columns=2, step_s=0)
    good: GroupOf = ([memory.ref(slot)], 0, 1000, True, False)
    assert gather(memory, [good, good], limit=100) != _gather.LIMIT
    assert gather(memory, [good, good], limit=99) == _gather.LIMIT
    assert gather(memory, [good, ([1 << 32 | 400], 0, 10, True, False)]) == _gather.GONE
    assert gather(memory, [good, ([memory.ref(rows)], 0, 10, True, False)]) == _gather.OTHER_KIND
    refs = np.array([1 << 32 | 400], np.uint64)
    gatherer = memory.gatherer()
    assert _gather_batch.grid_of(gatherer, refs, 0, 10) == _gather.GONE
    assert _gather_batch.add(gatherer, refs, 10, 0, 1, np.zeros(3), np.zeros(3, np.uint32)) == _gather.GONE


def test_shapes_that_do_not_fit_are_refused_before_anything_is_read() -> None:
    gatherer = Memory().gatherer()
    refs, ends = np.zeros(2, np.uint64), np.array([10, 10])
    starts, how, limits = np.zeros(2, np.int64), np.zeros(2, np.uint8), np.full(2, LIMIT)
    for bounds in ([0, 1], [0, 0, 2], [0, 2, 2], [1, 1, 2], [0, 1, 3], [0, 3, 2]):
        with pytest.raises(ValueError, match="group"):
            _gather_batch.gather(gatherer, refs, np.array(bounds), starts, ends, how, limits)
    with pytest.raises(ValueError, match="as many"):
        _gather_batch.gather(gatherer, refs, np.array([0, 1, 2]), starts, ends[:1], how, limits)
    with pytest.raises(ValueError, match="without a group"):
        _gather_batch.gather(gatherer, refs, np.array([0]), starts[:0], ends[:0], how[:0], limits[:0])
    with pytest.raises(ValueError, match="3 sums for 2"):
        _gather_batch.add(gatherer, refs, 10, 0, 1, np.zeros(3), np.zeros(2, np.uint32))


@settings(max_examples=40, deadline=None)
@given(
    store=stores(), start=st.integers(-80_000, 80_000), span=st.integers(1, 30_000),
    n_slots=st.integers(100, 900), n_refs=st.integers(1, 3), average=st.booleans(), propagate=st.booleans(),
)  # fmt: skip
def test_a_group_in_parts_is_the_group_at_once(
    store: tuple[Memory, list[int]],
    start: int,
    span: int,
    n_slots: int,
    n_refs: int,
    average: bool,
    propagate: bool,
) -> None:
    memory, refs = store
    gatherer, end = memory.gatherer(), start + span
    want, coverage, t0, step = reference_query.aggregate(memory.twin(), refs, start, end, average, propagate)
    grids = [
        _gather_batch.grid_of(gatherer, np.array(refs[i : i + n_refs], np.uint64), start, end)
        for i in range(0, len(refs), n_refs)
    ]
    assert max(grid[0] for grid in grids) == step  # type: ignore[index]  # no status
    assert len(want) == 0 or (t0 - grids[0][1]) % step == 0  # type: ignore[index]
    sums, counts = np.zeros(len(want)), np.zeros(len(want), np.uint32)
    for at in range(0, len(want), n_slots):
        part = slice(at, at + n_slots)
        for i in range(0, len(refs), n_refs):
            chosen = np.array(refs[i : i + n_refs], np.uint64)
            assert (
                _gather_batch.add(gatherer, chosen, end, t0 + at * step, step, sums[part], counts[part])
                is None
            )
    kernel.finish(sums, counts, len(refs) if propagate else 1, average)
    assert same_bits(sums, want)
    assert counts.tolist() == coverage.tolist()


@pytest.mark.parametrize("committed", [layout.SAMPLES_DATA, layout.SAMPLES_DATA + 2112, SAMPLES_BYTES, 2**63])
def test_memory_that_is_damaged_or_not_committed_is_never_touched(committed: int) -> None:
    rng = random.Random(committed)
    memory = Memory()
    slots = [memory.add_series(anchor_s=0, step_s=10) for _ in range(6)]
    for slot in slots:
        memory.put(slot, dict.fromkeys(range(1100), 1.0))
    memory.header["committed_bytes"] = committed
    for _ in range(200):
        slot, field = rng.choice(slots), rng.choice(["table", "link0"])
        kept = int(memory.series[slot][field])
        memory.series[slot][field] = rng.choice([rng.getrandbits(64), kept ^ 1 << rng.randrange(64), 7, 0])
        found = gather(memory, [([memory.ref(one) for one in slots], 0, 12_000, False, False)])
        # Values are what was written, or nothing; damage that can be told is told.
        assert found == _gather.BROKEN or set(taken_apart(found)[0][1].tolist()) <= set(range(7))
        memory.series[slot][field] = kept


def grow_for_ever(memory: Memory, slots: list[int], stop: mmap.mmap) -> None:
    """Chunk 1 of every series comes and goes, each time at the place of another one's, filled with its own number."""
    places = [memory.allocate(2) for _ in range(len(slots) + 1)]
    headers = [np.frombuffer(memory.samples, layout.CHUNK, 1, place)[0] for place in places]
    payloads = [np.frombuffer(memory.samples, "<f4", 512, place + 64) for place in places]
    tables = [
        np.frombuffer(memory.samples, "<u8", 128, int(memory.series[slot]["table"]) >> 8) for slot in slots
    ]
    for header, slot in zip(headers, [*slots, slots[0]], strict=True):
        for name in ("generation", "anchor_s", "step_s", "kind", "type", "n_columns"):
            header[name] = memory.series[slot][name]
        header["n"], header["size_class"], header["capacity"] = 1, 2, 512
    stamp, free, held = 10_000, len(slots), list(range(len(slots)))
    rng = random.Random(1)
    while not stop[0]:
        i = rng.randrange(len(slots))
        tables[i][1] = 0
        free, held[i] = held[i], free
        headers[held[i]]["series"] = slots[i]
        payloads[held[i]][:] = 1 << i
        stamp += 1
        tables[i][1] = places[held[i]] >> 6 | 2 << 36 | stamp << 40


def test_no_sum_holds_a_value_of_another_series_while_chunks_are_reused() -> None:
    shared, stop = mmap.mmap(-1, SAMPLES_BYTES), mmap.mmap(-1, 4096)
    memory = Memory(shared)
    slots = [memory.add_series(anchor_s=0, step_s=1) for _ in range(9)]
    for slot in slots:
        memory.put(slot, dict.fromkeys(range(512), 0.0))
    groups: list[GroupOf] = [
        ([memory.ref(slot) for slot in slots[first::3]], 0, 1024, False, False) for first in range(3)
    ]
    writer = multiprocessing.get_context("fork").Process(target=grow_for_ever, args=(memory, slots, stop))
    writer.start()
    seen = 0
    try:
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            found = gather(memory, groups)
            if found == _gather.BUSY:
                continue
            for first, (sums, coverage, *_) in enumerate(taken_apart(found)):
                allowed = sum(1 << i for i in range(first, 9, 3))
                present = sums[512:][coverage[512:] > 0].astype(np.int64)
                assert not (present & ~allowed).any(), f"group {first}: {set(present.tolist())}"
                assert (np.bitwise_count(present) == coverage[512:][coverage[512:] > 0]).all()
                seen += len(present)
    finally:
        stop[0] = 1
        writer.join(20)
    assert seen > 0
